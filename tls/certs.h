/*
 * certs: the certificates a listener shows, and which of them to whom.
 *
 * The first of [tls] is the default.  A client that names a host (SNI) gets
 * those that carry the name, or else those whose wildcard covers it; of
 * several with keys of different kinds (RSA, ECDSA) the handshake takes what
 * the client can verify.  A name is a DNS name of the certificate's
 * subjectAltName, or its CN when it has none; `*.` stands for one label.
 *
 * Owner:    the caller; a context that uses them must not outlive them.
 * Errors:   NULL or -1, and one line for each thing that cannot be used.
 * Threads:  any; nothing changes after certs_load().
 */
#ifndef TLS_CERTS_H
#define TLS_CERTS_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "conf/conf.h"

/* A certificate with its chain and its key, and where the conf names them. */
struct certs_pair {
	const char *cert_key, *cert;	/* the key's name, and the file's */
	unsigned    cert_line;
	const char *key_key, *key;
	unsigned    key_line;
};

struct certs;

struct certs *certs_load(const struct conf *, struct conf_errors *)
    __attribute__((warn_unused_result));
void certs_free(struct certs **);	/* nulls the pointer */
/* The default into the context, and the choice by name where there is one. */
int  certs_use(const struct certs *, SSL_CTX *) __attribute__((warn_unused_result));

/* One pair into a context; one that has expired is a warning. */
int  certs_put(SSL_CTX *, const struct certs_pair *, const struct conf *, struct conf_errors *)
    __attribute__((warn_unused_result));
/* Does a certificate's name cover a host?  Letters of either case. */
bool certs_covers(const char *pattern, const char *host);

#endif

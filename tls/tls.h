/*
 * tls: SSL_CTXs made from settings; no socket in sight.
 *
 * Listening: the certificate and key of [tls], sessions resumed by ticket, no
 * renegotiation, no compression, TLS 1.2 with forward secrecy or 1.3.  Clients
 * that offer ALPN must offer `postgresql` if it is to be chosen; what else
 * they offer is ignored, because Redis clients offer whatever they like.
 * Dialing: whether the server's certificate is checked is in the context;
 * for which name is the connection's matter (SSL_set1_host).
 *
 * Owner:    the caller, SSL_CTX_free().
 * Errors:   NULL and one line per thing that cannot be read, in the list.
 * Threads:  the contexts may be used from any.
 */
#ifndef TLS_TLS_H
#define TLS_TLS_H

#include <openssl/ssl.h>

#include "conf/conf.h"

/* What an ALPN of PostgreSQL's looks like on the wire. */
#define TLS_ALPN "\012postgresql"

SSL_CTX *tls_listen(const struct conf *, struct conf_errors *)
    __attribute__((warn_unused_result));
/* For an upstream; `rootcert` NULL: the system's certificates. */
SSL_CTX *tls_dial(const struct conf *, enum conf_sslmode, char *const *rootcert,
    struct conf_errors *) __attribute__((warn_unused_result));

#endif

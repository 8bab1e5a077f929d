/*
 * tls: SSL_CTXs made from settings; no socket in sight.
 *
 * Listening: the certificates of [tls], sessions resumed by ticket, no early
 * data, no renegotiation, no compression, TLS 1.2 with forward secrecy or 1.3.
 * What ALPN has to say depends on the door: PostgreSQL's clients need not use
 * it behind an SSLRequest, but who does must offer `postgresql`; who begins
 * with the handshake must; Redis has none, and what is offered is ignored.
 * Dialing: whether the server's certificate is checked is in the context;
 * for which name is the connection's matter (SSL_set1_host).
 *
 * Owner:    the caller, SSL_CTX_free(), before the certs and tickets in it.
 * Errors:   NULL and one line per thing that cannot be read, in the list.
 * Threads:  the contexts may be used from any.
 */
#ifndef TLS_TLS_H
#define TLS_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "conf/conf.h"
#include "tls/certs.h"
#include "tls/tickets.h"

/* What an ALPN of PostgreSQL's looks like on the wire. */
#define TLS_ALPN "\012postgresql"

enum tls_door {
	TLS_POSTGRES,		/* behind an SSLRequest */
	TLS_POSTGRES_DIRECT,	/* from the first byte */
	TLS_REDIS
};

SSL_CTX *tls_listen(enum tls_door, const struct conf *, const struct certs *, struct tickets *,
    struct conf_errors *) __attribute__((warn_unused_result));
/* An upstream; the pointers are to fields of the conf, which tells their lines. */
struct tls_upstream {
	enum conf_sslmode mode;
	char *const	 *rootcert, *const *cert, *const *key;
	bool		  is_postgres;	/* offers ALPN */
};

SSL_CTX *tls_dial(const struct conf *, const struct tls_upstream *, struct conf_errors *)
    __attribute__((warn_unused_result));
/* Has this handshake agreed on `postgresql`? */
bool	 tls_is_postgres(const SSL *);

/* What all contexts have in common; NULL: no working libssl. */
SSL_CTX *tls_context(const SSL_METHOD *) __attribute__((warn_unused_result));
/* A line about a file: why it cannot be opened, or what OpenSSL made of it. */
void	 tls_cannot(const struct conf *, struct conf_errors *, unsigned line, const char *key,
    const char *path, const char *expected);

/*
 * Channel binding data tls-server-end-point (RFC 5929): the hash of the
 * certificate the server's end has shown, at either end, into `out` of
 * SCRAM_BINDING_MAX bytes.  In a resumed session it is that of the first
 * handshake.  0: there is none (a signature without a hash).
 */
size_t	 tls_binding(const SSL *, uint8_t *out);
/* The handshake is over, and its ticket sent: lets go of what only that needed. */
void	 tls_settle(SSL *);

#endif

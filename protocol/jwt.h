/*
 * jwt: a signed token (RFC 7515 compact, RFC 7519) as proof of who somebody is.
 *
 * Pure: the time is an argument, keys come as they are.  What a token says of
 * its own protection is believed as far as a key for it is trusted: HS256 only
 * with a secret, RS256 only with an RSA key, ES256 only with one of P-256.
 * Everything else is refused: other words (`none`), crit, duplicate names,
 * base64 with padding, blanks or stray bits.
 *
 * Claims:   exp must be there and not have passed, nbf and iat must not be to
 *           come (JWT_LEEWAY seconds of doubt).  A token that names whom it is
 *           for (aud) must name us, and must if we have a name (RFC 7519, 4.1.3).
 * Bounds:   JWT_MAX bytes a token.
 * Errors:   NULL and why, in words for a log, never for the peer.
 * Cost:     tens of microseconds, with a public key about a hundred: not on a
 *           worker.
 */
#ifndef PROTOCOL_JWT_H
#define PROTOCOL_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/slice.h"

enum {
	JWT_MAX = 16 << 10,
	JWT_SECRET_MIN = 32,	/* RFC 7518, 3.2: not below the hash */
	JWT_LEEWAY = 30		/* seconds */
};

struct jwt_key;			/* a public one */

/*
 * From PEM, `BEGIN PUBLIC KEY`: RSA of 2048 to 8192 bits, or EC of P-256.  NULL
 * and what is wrong with it.  May be used from any thread.
 */
struct jwt_key *jwt_key_load(const char *pem, size_t, const char **why)
    __attribute__((warn_unused_result));
void		jwt_key_free(struct jwt_key **);

/* What is trusted; NULL: nothing of that kind. */
struct jwt_trust {
	const char	     *secret, *previous_secret;
	const struct jwt_key *key;
	const char	     *audience;		/* who we are */
};

struct jwt;			/* the claims of a token that holds */

struct jwt *jwt_open(struct slice token, const struct jwt_trust *, int64_t now,
    const char **why) __attribute__((warn_unused_result));
void	    jwt_close(struct jwt **);

bool jwt_has(const struct jwt *, const char *claim);	/* of whatever kind */
/* A claim that is a string; NULL: it is not, or there is none. */
const char *jwt_string(const struct jwt *, const char *claim);
/* The text of a string, number or boolean, which the caller frees; else NULL. */
char	   *jwt_text(const struct jwt *, const char *claim)
    __attribute__((warn_unused_result));

#endif

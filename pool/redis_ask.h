/*
 * redis_ask: one question to one Redis or Sentinel, and its answer, on a
 * connection of its own.
 *
 * For what must be known before there is a pool: where the master is, which
 * node has which slots.  It blocks, name look-up and all, and so runs in a job
 * of tls/offload.h, never on a worker.
 *
 * Owner:    the caller owns what it passes, and the answer (buf_free()).
 * Bounds:   REDIS_ASK_MAX bytes of an answer, REDIS_ASK_MS in all beside the
 *           look-up of a name.
 * Threads:  any; the SSL_CTX may be shared.
 */
#ifndef POOL_REDIS_ASK_H
#define POOL_REDIS_ASK_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "protocol/buf.h"
#include "protocol/slice.h"

enum { REDIS_ASK_MS = 1500, REDIS_ASK_MAX = 4 << 20, REDIS_ASK_ERROR_MAX = 128 };

struct redis_ask {
	const char *host;	/* name or address, without brackets */
	unsigned    port;
	SSL_CTX	   *ctx;	/* NULL: no TLS */
	bool	    verify_name;
	const char *user, *password;	/* NULL: none */
	struct sockaddr_storage *peer;	/* where it was asked; NULL: no matter */
	socklen_t  *peer_n;
};

/*
 * The one reply, in RESP2, whole.  -1: there is none, or it is an error; and
 * why, in `error` of REDIS_ASK_ERROR_MAX bytes.
 */
int redis_ask(const struct redis_ask *, const struct slice *arg, size_t argc, struct buf *answer,
    char *error) __attribute__((warn_unused_result));

#endif

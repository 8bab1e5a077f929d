/*
 * snapshot: a configuration with the TLS contexts made from it; what a reload
 * swaps.
 *
 * Immutable and counted: every session and pool holds a reference to the one
 * it was made under, and the last one to leave frees it.
 *
 * Threads:  any; the count is atomic, the contexts are safe to share.
 */
#ifndef TLS_SNAPSHOT_H
#define TLS_SNAPSHOT_H

#include <openssl/ssl.h>
#include <stdatomic.h>

#include "conf/conf.h"
#include "tls/certs.h"
#include "tls/resume.h"
#include "tls/tickets.h"

struct snapshot {
	_Atomic unsigned refs;
	_Atomic unsigned awaited;	/* workers that have yet to take it over */
	struct conf	*conf;
	struct certs	*certs;		/* NULL: none configured, and none of these: */
	SSL_CTX		*listen;	/* PostgreSQL behind an SSLRequest */
	SSL_CTX		*listen_direct;	/* PostgreSQL from the first byte */
	SSL_CTX		*listen_redis;
	struct tickets	 tickets;	/* of these three */
	SSL_CTX	       **postgres;	/* by conf_postgres.index; NULL: never TLS */
	SSL_CTX	       **redis;		/* by conf_redis.index; NULL: never TLS */
	struct resume	 resume;	/* sessions with the upstreams */
};

/*
 * The file, loaded, with one reference; or NULL and the errors, which include
 * a certificate or key that cannot be read, each as file:line where the line
 * is known.  `errors` is initialised here, the caller frees it in both cases.
 */
struct snapshot *snapshot_load(const char *file, struct conf_errors *)
    __attribute__((warn_unused_result));
/*
 * What a reload keeps of the snapshot in force: clients resume sessions that
 * were made before.
 */
void		 snapshot_inherit(struct snapshot *, struct snapshot *before);
struct snapshot *snapshot_ref(struct snapshot *);
void		 snapshot_unref(struct snapshot **);	/* nulls the pointer */

#endif

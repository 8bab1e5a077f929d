/*
 * pg_local: what a PostgreSQL client hears without a server.
 *
 * Between transactions a client holds none, and some messages need none.  So
 * does a BEGIN: it is answered here and sent later, in one write with the
 * first statement behind it, so that a client which opens transactions early
 * holds nobody up; one that ends before it has asked anything never reached a
 * server.  And a Parse of a statement that this pool has parsed before, when
 * nothing but Sync follows it: it is parsed again where it is used.
 *
 * Seen from the client two things differ: now() is the time of the first
 * statement, and what only BEGIN itself can fail with (none of its modes can,
 * on a primary) would end the connection.  Session pooling does none of this,
 * and statement pooling has no BEGIN.
 */
#ifndef PROXY_PG_LOCAL_H
#define PROXY_PG_LOCAL_H

#include "protocol/pg.h"
#include "proxy/pg_message.h"

/* No more bytes of a group are waited for at a time: of a message that is longer
 * its head is enough to tell that it is none of a group's. */
enum { PG_LOCAL_REST = 4 * 4096 };

/* Of a service user, or where INSERTs are held, with no server in hand: does it
 * begin what is answered here once the rest of it has come?  Behind a server's
 * answer it would be too late. */
bool pg_local_is_cut(const struct pg_session *, const struct feed *, const struct pg_frame *);
/* One message, or a few up to a Sync, with no server in hand; false: there
 * must be one, and nothing was done. */
bool pg_local_run(struct pg_session *, struct feed *, const struct pg_frame *);
/* A server is there: first of all it hears the BEGIN, if one is owed. */
void pg_local_begin(struct pg_session *);

/* Is a BEGIN owed that asked for nothing special? */
bool pg_local_is_plain(const struct pg_session *);

/* The status a ReadyForQuery of ours would tell: no server is in hand. */
static inline char
pg_local_status(const struct pg_session *ps)
{
	return ps->begun ? 'T' : 'I';
}

/* Is it a switch of organization (pg_switch.h), and was it carried out, with a
 * server in hand or without?  Or it waits: ps->looks_up. */
bool pg_local_switch(struct pg_session *, struct feed *, const struct pg_frame *);

#endif

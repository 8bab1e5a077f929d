/*
 * pg_hold: the INSERTs of a transaction that were answered, and that nobody has
 * run yet (`transactions = on` in [batch TABLE]).
 *
 * Behind a BEGIN that is owed (pg_local.h) and asked for nothing special, each
 * INSERT that could share a commit and returns nothing is answered with its
 * tag at once, and kept: all of them in one operation.  COMMIT hands that to
 * its batch, where it is carried out as a whole or not at all, and the client
 * hears of it there: an error of any of them is the COMMIT's, as with a deferred
 * constraint.  ROLLBACK drops it.
 *
 * Anything else a client asks needs a server, which hears the BEGIN, then what
 * was held and a Sync, before anything else.  Where that fails, the transaction
 * has failed: the client hears the error in place of an answer to what it has
 * asked now, and that it may roll back.
 *
 * Seen from the client: a tag of 1 is told before anybody has looked at the row,
 * so of one that a trigger or a rule leaves out a WARNING is told later; errors,
 * notices, locks and now() are those of the COMMIT, or of the first other statement.
 *
 * Owner:    the session, of pg_session.held, until it is committed.
 * Bounds:   OP_PARTS_MAX rows of OP_BYTES_MAX bytes in all; more goes the way of
 *           anything else.
 */
#ifndef PROXY_PG_HOLD_H
#define PROXY_PG_HOLD_H

#include "proxy/pg_batch.h"
#include "proxy/pg_session.h"

/* Is this a transaction of which nothing, or only what is held, was asked, and
 * may a section's rows be held? */
bool pg_hold_may(const struct pg_session *);
/* These, with what is held before them: within the bounds, and by one lane? */
bool pg_hold_fits(const struct pg_session *, const struct op *);
/* Then: answers its INSERTs, and takes it over. */
void pg_hold_add(struct pg_session *, struct op *);
/* COMMIT: its answer, but for what a Bind and Parse of it hear, comes later. */
void pg_hold_commit(struct pg_session *);
void pg_hold_drop(struct pg_session *);	/* ROLLBACK, or the session ends */

/* A server is there, and has been sent the BEGIN: what is held follows it. */
void pg_hold_send(struct pg_session *);
/* What it says to that, kept until it is at rest; */
void pg_hold_reply(struct pg_session *, const uint8_t *, size_t n);
/* now it is, and the client's own request's turn has come, unless it failed. */
void pg_hold_rest(struct pg_session *);

/* Of what a server has said to what was held, what is for the client: notices
 * and errors, and a warning for a row that did not come about. */
int pg_hold_tell(struct buf *, const struct buf *said) __attribute__((warn_unused_result));

/* Has it been sent, and is not answered yet? */
static inline bool
pg_hold_is_running(const struct pg_session *ps)
{
	return ps->held != NULL && ps->s.lessee.server != NULL;
}

#endif

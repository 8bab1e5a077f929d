/*
 * redis_multi: what a client asks between MULTI and EXEC, and what of it is done
 * here when the server has run the rest.
 *
 * Redis queues all of it.  What is about data goes to the server as it came.
 * What is about the client itself is weir's to answer, at its place in the
 * transaction: so the server is given something else in its stead, mostly a
 * PING, and weir keeps a note.  The reply to EXEC is then told element by
 * element, and at a note weir runs the command, whose answer is told instead of
 * the server's.  SELECT, HELLO and CLIENT TRACKING go to the server as well:
 * the commands behind them are to run in that database, and answer in that
 * protocol; they count for the client once the server said that it did them.
 *
 * AUTH, alone or in HELLO, is carried out here as well, but only by who has the
 * same user upstream: what is queued behind it has been run as that one by then.
 *
 * In a cluster the transaction runs on a connection that others share, or that
 * goes back to them: so there it is a PING or nothing, and what would change
 * the protocol is refused.
 *
 * Order: EXEC waits until all before it is answered, and nothing begins until
 * it is told.  What has to ask others first (SUBSCRIBE, CLIENT LIST, UNBLOCK) holds up
 * the rest of the reply; messages wait meanwhile, as behind any reply.  So such
 * a command is carried out behind the transaction, not within: a SUBSCRIBE does
 * not hear what the same transaction publishes.
 *
 * Safety: a connection that such a command was sent to goes through RESET
 * before anybody else has it, whatever became of the transaction.  If EXEC is
 * not answered at all, the client is closed: nobody knows what it is by now.
 *
 * Bounds:   REDIS_NOTES_MAX notes and REDIS_NOTES_BYTES of their requests a
 *           transaction; the reply of one that has some is held whole
 *           (REDIS_CAUGHT_MAX).
 */
#ifndef PROXY_REDIS_MULTI_H
#define PROXY_REDIS_MULTI_H

#include "proxy/redis_session.h"

enum { REDIS_NOTES_MAX = 1024, REDIS_NOTES_BYTES = 1 << 20 };

/* Any command in a transaction, EXEC and DISCARD among them. */
enum redis_did redis_multi(struct redis_session *, const struct redis_cmd *,
    const struct slice *arg, size_t argc);
/* Is the reply to EXEC being told? */
bool redis_multi_tells(const struct redis_session *);
/* Something has come that it may have waited for. */
void redis_multi_go_on(struct redis_session *);
/* HELLO has been run there, and the server speaks like that already. */
void redis_multi_spoke(struct redis_session *);
/* CLIENT REPLY SKIP has been run there: it is about what follows EXEC. */
void redis_multi_skip(struct redis_session *);
/* The transaction is over, or will never be. */
void redis_multi_forget(struct redis_session *);

#endif

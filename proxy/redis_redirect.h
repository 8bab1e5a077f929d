/*
 * redis_redirect: CLIENT TRACKING with REDIRECT: one client asks for keys, and
 * another one hears that they have changed.
 *
 * Both are known to Redis by other ids than to us, and the one that is to hear
 * may have no connection of its own, or speak by one that many share.  So it is
 * given one for this alone (its *witness*) as soon as somebody redirects to it: it
 * asks for nothing, and Redis is told to redirect there.  What comes is told to
 * its client as Redis would: as a push in RESP3, or, to who is subscribed to
 * anything in RESP2, as a message of __redis__:invalidate.  (A FLUSHALL is told
 * in RESP2 to who speaks that, whoever tracks; by Redis not.)
 *
 * The witness goes with its client, and when that becomes somebody else: Redis then
 * says so to who tracks (tracking-redir-broken), and in that, CLIENT GETREDIR
 * and TRACKINGINFO the id is put right.  A witness that is lost closes its client,
 * as a subscriber's connection does: what has changed meanwhile was not heard.
 *
 * Whoever is named must be of the same user, organization and upstream, on any
 * worker; all others are told to be unknown.  The witness is one of
 * dedicated_connections; who redirects waits for it, query_wait_timeout at most.
 *
 * Owner:    the witness the client that hears (redis_session.witness), what is known of
 *           a redirection the one that tracks (redis_session.redirect).  The
 *           question who it is (redis_session.look) belongs to the mailbox or
 *           the witness it lies in, and at home to who asked.
 * Bounds:   REDIS_CAUGHT_MAX bytes of one invalidation; what is not read, as of
 *           a subscriber (redis_pubsub.h).
 */
#ifndef PROXY_REDIS_REDIRECT_H
#define PROXY_REDIS_REDIRECT_H

#include "proxy/redis_session.h"

/* CLIENT TRACKING ON with REDIRECT; all its replies are in. */
redis_run redis_redirect_on;
/* Has it that option? */
bool redis_redirect_is_asked(const struct slice *arg, size_t argc);
/* CLIENT GETREDIR and TRACKINGINFO. */
redis_run redis_redirect_tell;
/* The answer to one of them, as its client is to hear it. */
int redis_redirect_put(struct redis_session *, struct buf *, const uint8_t *, size_t);
/* CLIENT TRACKING was done: from now on to this one. */
void redis_redirect_is(struct redis_session *, struct redis_aim);
int64_t redis_redirect_id(const struct redis_session *);	/* 0: to nobody */
bool redis_redirect_is_broken(const struct redis_session *);

/* Bytes of a push: true: they are kept until it ends. */
bool redis_redirect_hears(struct redis_session *, const uint8_t *, size_t);
void redis_redirect_heard(struct redis_session *);	/* it has ended */

/* May it be told of keys at any time, whatever it asks? */
bool redis_redirect_listens(const struct redis_session *);
void redis_redirect_deafen(struct redis_session *);	/* its witness goes */
void redis_redirect_part(struct redis_session *);	/* the session ends */
void redis_redirect_fini(struct redis_session *);

#endif

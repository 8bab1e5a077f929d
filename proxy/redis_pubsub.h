/*
 * redis_pubsub: what a client subscribes to, and what it hears of it.
 *
 * Subscriptions of all clients of one user upstream share one connection
 * (redis_hub.h); here is the client's side, as Redis 7.0 has it: confirmations
 * with the client's own count, in RESP2 the mode in which little else is
 * allowed, in RESP3 pushes between the replies to whatever else it asks.
 *
 * Order: SUBSCRIBE and UNSUBSCRIBE begin when nothing is outstanding, and what
 * the client asks behind them waits until upstream has answered.  A message
 * that comes in the middle of a reply waits for its end.  As to what happens
 * on its other connections a client knows as much as without weir: once a
 * PUBLISH was answered, a SUBSCRIBE sent after it does not hear of it, and an
 * UNSUBSCRIBE sent after it is not confirmed before it was delivered; nor
 * before a PUBLISH counts one listener less.  Only a client's own PUBLISH may
 * be answered before its message comes.
 *
 * A lost upstream connection closes its subscribers, without a word, as Redis
 * would: what is published meanwhile is lost to them, and only their libraries
 * can tell the application.  ioredis, node-redis and redis-py come back and
 * subscribe again by themselves, and an application that catches up does so
 * because it was told of a new connection; one kept open over a gap would hide
 * it.  They come back to weir, not to a Redis that just restarted.  For the
 * same reason who subscribes while upstream is down is closed rather than
 * refused: a library takes an error for a final answer (with ioredis, which
 * subscribes again behind the application's back, it ends the process).
 *
 * In a cluster SUBSCRIBE and PSUBSCRIBE go to any node, and SSUBSCRIBE to the one
 * that has the slot: the subscribers of each node have a connection there.  It
 * follows -MOVED; channels of several slots are told CROSSSLOT, but SUNSUBSCRIBE
 * may name any.  A slot that moves away ends its subscriptions.  Redis tells its
 * subscriber so, by an unasked `sunsubscribe`; only who knows of slots can make
 * anything of that, and behind weir nobody does: so the client is closed as above,
 * for the same reasons.
 *
 * Slow readers: REDIS_SUB_HARD bytes not read, or REDIS_SUB_SOFT for
 * REDIS_SUB_SOFT_S seconds, and the client is closed: Redis's own
 * client-output-buffer-limit pubsub 32mb 8mb 60, which counts replies too.
 * Nobody else waits for it.
 *
 * Numbers: PUBSUB NUMSUB counts clients (redis_census.h), but as a part of a
 * transaction, or of a client that tracks keys, as upstream does.  PUBLISH
 * answers with how many connections heard it there: all subscribers behind
 * weir are one.  CHANNELS and NUMPAT count names, whoever subscribes to them; of
 * a cluster all masters are asked, and a pattern counts once for each of them
 * where somebody subscribes to it.
 */
#ifndef PROXY_REDIS_PUBSUB_H
#define PROXY_REDIS_PUBSUB_H

#include "protocol/resp_push.h"
#include "proxy/redis_session.h"

struct route;

enum {
	REDIS_SUB_HARD = 32 << 20,
	REDIS_SUB_SOFT = 8 << 20,
	REDIS_SUB_SOFT_S = 60,
	REDIS_SUB_MAX = 100000		/* subscriptions of one client */
};

redis_run redis_pubsub_subscribe;	/* SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE */
redis_run redis_pubsub_unsubscribe;

/* Is it subscribed to anything? */
bool redis_pubsub_is_on(const struct redis_session *);
size_t redis_pubsub_count(const struct redis_session *, enum resp_channel);
/* Is a command of the above under way?  Nothing else begins meanwhile. */
bool redis_pubsub_waits(const struct redis_session *);
/* Would it take words of farewell for something else? */
bool redis_pubsub_is_mute(const struct redis_session *);
/* Subscribed in RESP2: may it not run this? */
bool redis_pubsub_bars(const struct redis_session *, const struct redis_cmd *);
enum redis_did redis_pubsub_say_barred(struct redis_session *, const struct redis_cmd *);
/* In that mode a PING is answered like this. */
bool redis_pubsub_pongs(const struct redis_session *);
/* May it go on as somebody else? */
bool redis_pubsub_allows(const struct redis_session *, const struct route *);

/* PUBSUB NUMSUB, SHARDNUMSUB: asked of upstream, and corrected. */
bool	  redis_pubsub_is_numsub(const struct redis_session *, const struct redis_cmd *);
redis_run redis_pubsub_numsub;
/* What the nodes of a cluster say to the same, in sum, is corrected in place. */
void	  redis_pubsub_count_ours(const struct redis_session *, enum resp_channel, struct buf *);

/* What somebody tracks for it has changed: the keys, or null for all of them. */
void redis_pubsub_invalidate(struct redis_session *, struct slice value);

/* A reply has ended: what waited for that. */
void redis_pubsub_go_on(struct redis_session *);
/* Has it too much unread?  Then it is closed. */
bool redis_pubsub_is_slow(struct redis_session *);
void redis_pubsub_end(struct redis_session *);	/* of all its subscriptions, unheard */
void redis_pubsub_fini(struct redis_session *);

#endif

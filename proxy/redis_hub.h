/*
 * redis_hub: subscriptions that many clients share: one upstream connection
 * an identity, for the whole process.
 *
 * An identity is an upstream, or a node of a cluster, and a user there.  Its *hub*, with the connection,
 * is on one worker, chosen by a hash; every worker with subscribers of it has
 * an *ear*, which knows who of them wants what.  Between them only messages of
 * mailboxes pass, in order:
 *
 *     ear -> hub  an ask: subscribe to these, tell me when all before now has
 *                 arrived (a fence), nobody here wants these any more (a drop)
 *     hub -> ear  news: bytes that upstream said, one copy for all workers,
 *                 counted; the ask, answered; the end: the connection is lost
 *
 * Exactness: each SUBSCRIBE of a client goes upstream, even where somebody has
 * that channel already; its confirmation comes back in line with the messages.
 * So Redis itself judges whether this user may (ACLs may have changed), and a
 * client hears what was published after it was confirmed and nothing of before.
 * Leaving works by a fence: a PING, after which no earlier message can come.
 * What is shared is the connection, the messages and their number.
 *
 * An ear that has lost its last interest in a channel says so (a drop), and a
 * hub that has no ear for it unsubscribes.  An ask that is not answered yet is
 * an interest.  Drops are posted at once, so they never overtake an ask.
 *
 * What any node of a cluster tells is heard from one of the url, or from one that was
 * learnt, each tried in turn (redis_nodes.h) before who waits is told.
 *
 * Lost connection: every member with a subscription hears lost(); see
 * redis_pubsub.h for why its client is closed.  Nothing is resubscribed here.
 * A node whose slot moves away ends the subscriptions to channels of that slot,
 * and says so, unasked: lost() is for who had those.  As it may say so while it
 * is asked to end one, and has an error for that then, a PING follows SUNSUBSCRIBE
 * there, whose answer stands behind all it may have to say.  For a while after that
 * it is asked whether the node is still a master, and if not its hub is lost.
 *
 * Owner:    the worker's struct hubs.  Ears and hubs go when unused; a hub
 *           keeps its connection for HUB_LINGER_NS, for who comes next.
 * Bounds:   HUB_BEHIND_MAX bytes of news that ears have not delivered yet: past
 *           it upstream is not read; HUB_DELIVER_MAX deliveries a turn; one ask
 *           a member, HUB_BYTES_MAX bytes of names a member.
 */
#ifndef PROXY_REDIS_HUB_H
#define PROXY_REDIS_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/resp_push.h"
#include "protocol/slice.h"
#include "protocol/why.h"

struct conf_redis;
struct hub_channel;
struct hub_claim;
struct hub_ear;
struct hub_member;
struct hub_wait;
struct hubs;
struct snapshot;
struct worker;

enum {
	HUB_BEHIND_MAX = 8 << 20,
	HUB_DELIVER_MAX = 20000,
	HUB_BYTES_MAX = 16 << 20,
	HUB_LEDGER_MAX = 1 << 16	/* answers upstream owes: no more commands */
};

#define HUB_LINGER_NS	(5ull * 1000000000)
#define HUB_TICK_NS	(1ull * 1000000000)

/* What a member hears; any of these may close its client. */
struct hub_ops {
	/* A whole message, as RESP2 has it. */
	void (*message)(struct hub_member *, const uint8_t *, size_t);
	/* Upstream took it: hub_add() each of the channels, in order, now. */
	void (*subscribed)(struct hub_member *, enum resp_channel, struct hub_channel *const *, size_t n);
	/* It did not.  `text`: what it said, or NULL and why there is no connection. */
	void (*refused)(struct hub_member *, const char *text, enum why);
	void (*fenced)(struct hub_member *);
	void (*lost)(struct hub_member *, enum why);	/* of some of its subscriptions, or all */
};

/* A client's part, embedded. */
struct hub_member {
	const struct hub_ops *ops;
	struct hub_ear	     *ear;		/* NULL: no part of any */
	struct hub_claim     *claims[RESP_CHANNELS];	/* its subscriptions */
	size_t		      n[RESP_CHANNELS];	/* so many */
	struct hub_wait	     *asked;		/* not answered yet */
	size_t		      bytes;		/* of their names */
	struct hub_member    *next, **prev;	/* of the ear */
};

struct hubs *hubs_open(struct worker *);
/* Its worker ends: nobody is asked or told anything any more. */
void	     hubs_stop(struct hubs *);
void	     hubs_close(struct hubs **);	/* after hubs_stop(), and the last message */

/* Becomes a member where this user's subscriptions are, or, with a `node`, those to its shard channels. */
void hub_join(struct hubs *, struct hub_member *, const struct hub_ops *, struct snapshot *,
    const struct conf_redis *, const char *user, const char *password, const char *node,
    unsigned port);
/* Gives up everything, an ask included. */
void hub_leave(struct hub_member *);

/* subscribed() or refused() follows, later; not while another ask is under way. */
void hub_subscribe(struct hub_member *, enum resp_channel, const struct slice *name, size_t n);
/* fenced() or lost() follows, later: all that was published before is delivered. */
void hub_fence(struct hub_member *);

static inline size_t
hub_count(const struct hub_member *m)
{
	return m->n[RESP_CHANNEL] + m->n[RESP_PATTERN] + m->n[RESP_SHARD];
}

struct slice hub_name(const struct hub_channel *);
bool hub_add(struct hub_member *, struct hub_channel *);	/* false: it had it */
bool hub_drop(struct hub_member *, enum resp_channel, struct slice name);	/* false: it had not */
/* Some subscription of that kind; NULL: none. */
struct hub_channel *hub_any(const struct hub_member *, enum resp_channel);

#endif

/*
 * redis_cluster: a client's commands on the nodes of a Redis Cluster.
 *
 * Each goes to the node of its first key, over the connections that all share
 * there, and the client hears the replies in its own order: what a node says
 * before its turn is kept.  A request is kept until it is answered, because
 * -MOVED or -ASK, for the slot it is for and to a node that is listed, mean that
 * it was not run: then it is sent there, up to REDIS_CLUSTER_HOPS times.
 * Everything else that was sent is never sent again.
 *
 * Order: two commands for one key must not take different ways.  While there
 * are some outstanding that were redirected, or that went by an older list of
 * slots, the next ones wait for them.
 *
 * Commands without a key go to any node.  Those that are about the node they
 * reach are refused, or (SCRIPT LOAD, FLUSHALL ...) go to all masters; then the
 * reply is that of the last, or the first error.
 *
 * WATCH and what blocks borrow a connection of the node of their first key, and
 * MULTI goes where the watched key is, or, whole, as above.  What they are told
 * of another node is said to the client as -TRYAGAIN.
 *
 * Owner:    the session (redis_session.h).
 * Bounds:   as many outstanding as redis_session.h has it; of their requests
 *           REDIS_CLUSTER_KEPT bytes and one more; of replies before their turn
 *           REDIS_CLUSTER_AHEAD bytes, above which the client is closed: no
 *           server waits for another one.
 */
#ifndef PROXY_REDIS_CLUSTER_H
#define PROXY_REDIS_CLUSTER_H

#include "proxy/redis_session.h"

enum {
	REDIS_CLUSTER_HOPS = 5,
	REDIS_CLUSTER_KEPT = 4 << 20,
	REDIS_CLUSTER_AHEAD = 64 << 20
};

struct redis_cluster;

static inline bool
redis_in_cluster(const struct redis_session *rs)
{
	return rs->redis != NULL && rs->redis->cluster;
}

/* One command; its rate is paid for. */
redis_run redis_cluster_forward;
/* A transaction that lies in the input whole: MULTI and `n` more, which begin at
 * rs->bytes.n; rs->more says where they end. */
enum redis_did redis_cluster_whole(struct redis_session *, const struct slice *arg, size_t argc,
    size_t n);
/* The pool that lends connections of the node this request is for; NULL and
 * what became of it, as of redis_lend(). */
struct pool *redis_cluster_lent(struct redis_session *, enum redis_did *did, const char **why);
/* Does it name a server's own affairs, so that no node can answer for all? */
bool	     redis_cluster_bars(const struct redis_cmd *);
enum redis_did redis_cluster_say_barred(struct redis_session *, const struct redis_cmd *);
bool	     redis_cluster_waits(const struct redis_session *);	/* for a connection */
/* Of a connection of its own: does this reply send it elsewhere? */
bool	     redis_cluster_turned(struct redis_session *, const uint8_t *, size_t);
unsigned     redis_cluster_share(const struct redis_session *);
void	     redis_cluster_read(struct redis_session *);	/* its client has read */
/* All that is outstanding ends with an error; replies are dropped when they come. */
void	     redis_cluster_give_up(struct redis_session *);
void	     redis_cluster_rehome(struct redis_session *);	/* nothing is outstanding */
void	     redis_cluster_part(struct redis_session *);
void	     redis_cluster_fini(struct redis_session *);

#endif

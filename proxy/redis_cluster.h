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
 * reach are refused, or (SCRIPT LOAD, FLUSHALL, DBSIZE, KEYS, BGSAVE ...) go to all
 * masters, or (CONFIG SET, ACL SETUSER, SLOWLOG RESET ...) to their replicas, too,
 * whose replies become one (redis_gather.h), or, SCAN, to one after the other.
 * Who has not done it may be one of several: an error does not undo the others.
 * Which nodes there are is asked anew for it, if that was not in the last second.
 *
 * MONITOR and CLIENT TRACKING are refused.  Who tracks reads over connections of
 * its own, one to each node, on which what a node says unasked stays behind the
 * replies before it, also where those wait for their turn; and a slot that moves, or
 * a node that is lost, would have to take all it has read with it.
 *
 * SCRIPT KILL, FUNCTION KILL, CLIENT PAUSE and UNPAUSE, and WAIT go to all masters,
 * too, each over a connection that is lent for it alone, as others may stand behind
 * a script or a pause, and nobody is to stand behind WAIT; and nothing of the
 * client's is outstanding beside them.  KILL is done if one of them has done it.
 * WAIT tells the least that any of them tells: all that the client has written,
 * wherever, has so many copies.  A master without replicas makes that 0.
 *
 * MULTI that is not whole is queued here: its commands are sent when EXEC comes,
 * as one that is whole.  So each of them is told QUEUED unless it is known here
 * to be wrong; what the node has against one is told by EXEC.
 *
 * WATCH and what blocks borrow a connection of the node of their first key
 * (redis_cluster_own.c).  The one that watches carries WATCH, and the transaction
 * that EXEC ends, and nothing else; all other commands go as above.  Where such
 * a command was not run it is sent again: a first WATCH, and what blocks, even
 * if it has waited; its time begins anew.  A slot that moves away while it is
 * watched has changed: EXEC says nil.
 *
 * Owner:    the session (redis_session.h).
 * Bounds:   as many outstanding as redis_session.h has it; of their requests
 *           REDIS_CLUSTER_KEPT bytes and one more; of replies before their turn
 *           REDIS_CLUSTER_AHEAD bytes, above which the client is closed: no
 *           server waits for another one.  Of a transaction REDIS_CLUSTER_QUEUE
 *           commands and REDIS_CLUSTER_QUEUED bytes and one more.
 */
#ifndef PROXY_REDIS_CLUSTER_H
#define PROXY_REDIS_CLUSTER_H

#include "protocol/redis_where.h"
#include "proxy/redis_session.h"

enum {
	REDIS_CLUSTER_HOPS = 5,
	REDIS_CLUSTER_KEPT = 4 << 20,
	REDIS_CLUSTER_AHEAD = 64 << 20,
	REDIS_CLUSTER_QUEUE = 16000,	/* and what is around them has room in a ledger */
	REDIS_CLUSTER_QUEUED = 64 << 20
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
/* One command, when nothing is outstanding, to the node that is called so, over a
 * connection made before that time.  If there is none it is not sent, and undone. */
enum redis_did redis_cluster_tell_node(struct redis_session *, const struct redis_place *,
    uint64_t before_ns, const struct slice *arg, size_t argc);
bool	     redis_cluster_undid(const struct redis_session *);	/* the last of these */
/* The pool that lends connections of the node this request is for; NULL and
 * what became of it, as of redis_lend(). */
struct pool *redis_cluster_lent(struct redis_session *, enum redis_did *did, const char **why);
/* Does it name a server's own affairs, so that no node can answer for all? */
bool	     redis_cluster_bars(const struct redis_cmd *);
bool	     redis_cluster_is_for_all(const struct redis_cmd *);	/* it goes to all masters */
enum redis_did redis_cluster_say_barred(struct redis_session *, const struct redis_cmd *);
uint64_t     redis_cluster_waits_ns(const struct redis_session *);	/* for a connection, since then; 0: it does not */
bool	     redis_cluster_is_slow(const struct redis_session *);	/* a server waits for it */
unsigned     redis_cluster_share(const struct redis_session *);
void	     redis_cluster_read(struct redis_session *);	/* in a step: its client may have read */
/* All that is outstanding ends with an error; replies are dropped when they come. */
void	     redis_cluster_give_up(struct redis_session *);
void	     redis_cluster_rehome(struct redis_session *);	/* nothing is outstanding */
void	     redis_cluster_part(struct redis_session *);
void	     redis_cluster_fini(struct redis_session *);

/* For redis_cluster_own.c: */
struct redis_nodes *redis_cluster_nodes(struct redis_session *);
/* Are the nodes known, and may the next command go by what is known?  False:
 * what became of it. */
bool	     redis_cluster_may_send(struct redis_session *, enum redis_did *);
/* MULTI, what was queued, EXEC: `n` requests of these sizes, all of which it takes
 * over; the reply to the last one is told. */
void	     redis_cluster_launch(struct redis_session *, struct buf *requests, uint32_t *size,
    uint32_t n, int slot);
/* What EXEC says, if the first word against one of its commands, or nothing, was
 * this (as in the reply, without '-' and CRLF); NULL: as it came. */
const char  *redis_cluster_exec_text(struct slice said, struct slice against, char *out, size_t);

/* ---- redis_cluster_own.c ---- */

struct redis_cluster_own;

enum { REDIS_CLUSTER_TEXT = 512 };

enum redis_did redis_cluster_multi(struct redis_session *);
enum redis_did redis_cluster_queue(struct redis_session *, const struct slice *arg, size_t argc);
void	     redis_cluster_spoil(struct redis_session *);	/* EXEC is to fail */
enum redis_did redis_cluster_exec(struct redis_session *, size_t argc);
enum redis_did redis_cluster_discard(struct redis_session *);	/* or UNWATCH */
/* Around what is put on the connection it has borrowed; `hold` is why. */
void	     redis_cluster_leads(struct redis_session *, struct server *);
void	     redis_cluster_keep(struct redis_session *, const struct slice *arg, size_t argc, unsigned hold);
/* From there: false: these bytes are not for the client.  They may be others, too. */
bool	     redis_cluster_hears(struct redis_session *, const uint8_t **, size_t *);
/* One reply has come from there, or will not; true: that is nobody's affair. */
bool	     redis_cluster_settles(struct redis_session *, bool answered);
/* A command that it is to be sent again, before any other: has it one, and what
 * became of it. */
bool	     redis_cluster_returns(const struct redis_session *);
enum redis_did redis_cluster_again(struct redis_session *);
int	     redis_cluster_again_at(const struct redis_session *);	/* the node; NOBODY: it has none */
void	     redis_cluster_own_part(struct redis_session *);
void	     redis_cluster_own_fini(struct redis_session *);

#endif

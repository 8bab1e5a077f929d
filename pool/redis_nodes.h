/*
 * redis_nodes: the nodes of a Redis Cluster, and who has which slot, as one
 * worker knows it.
 *
 * Learnt by CLUSTER NODES, off the worker, with the log-in of the upstream's
 * url: from a node that is known, or from the hosts of the url.  What a client
 * hears from a server (-MOVED) is a reason to learn again, never knowledge: a
 * script can say so, too.  Nor is anybody sent to a node that is not listed.
 *
 * Owner:    the worker's struct pools, to its end.
 * Bounds:   REDIS_NODES_MAX nodes that are listed or in use: the place of one that is
 *           neither is for the next that is new; one question under way, and none
 *           within REDIS_NODES_FIRST_NS of the last, doubling up to
 *           REDIS_NODES_MOST_NS while the answers say nothing new; or
 *           REDIS_NODES_FRESH_NS for who must know of all there are.
 */
#ifndef POOL_REDIS_NODES_H
#define POOL_REDIS_NODES_H

#include <stdbool.h>
#include <stdint.h>

#include "pool/pool.h"
#include "protocol/redis_where.h"

enum { REDIS_NODES_MAX = 1000, REDIS_NODES_NOBODY = -1 };

#define REDIS_NODES_FIRST_NS (100ull * 1000000)
#define REDIS_NODES_MOST_NS  (5000ull * 1000000)
#define REDIS_NODES_FRESH_NS (1000ull * 1000000)

struct redis_nodes_use;

struct redis_node {
	char	*name, *other;	/* to dial; by which it is called, too, or NULL */
	unsigned port;
	bool	 member;	/* a master of the cluster, when last heard of */
	bool	 replica;	/* of one of them, likewise */
	enum { REDIS_UNHEARD, REDIS_MASTER, REDIS_REPLICA } heard;	/* in the answer being read */
	struct redis_nodes_use *uses;
};

/* Who has to do with a node: its place stays its own so long. */
struct redis_nodes_use {
	struct redis_nodes_use *next, **prev;	/* prev NULL: it does not */
	void (*gone)(struct redis_nodes_use *);	/* not listed any more: to end it, soon */
};

struct redis_nodes_learn;

/* Woken, once, when an answer or none has come. */
struct redis_nodes_wait {
	struct redis_nodes_wait *next, **prev;	/* prev NULL: it does not wait */
	void (*over)(struct redis_nodes_wait *);
};

struct redis_nodes {
	struct redis_nodes	 *next;		/* of its worker */
	struct pools		 *home;
	char			 *name;		/* of the upstream */
	uint64_t		  origin;	/* stands for its url */
	struct snapshot		 *snapshot;	/* counted, with the next; NULL: nobody uses it */
	const struct conf_redis  *redis;
	unsigned		  users;
	struct redis_node	 *node[REDIS_NODES_MAX];	/* a place: never moved, or freed before this is */
	unsigned		  n;
	uint16_t		  slot[REDIS_SLOTS];	/* 1 + which node; 0: nobody */
	bool			  known;
	unsigned		  version;		/* counts changes of `slot` */
	struct redis_nodes_learn *learn;		/* under way */
	struct redis_nodes_wait	 *waiting;
	struct wheel_entry	  timer;		/* when to learn */
	uint64_t		  learnt_ns, rest_ns;
	unsigned		  turn;			/* whom to ask next */
	char			  error[POOL_ERROR_MAX];	/* of the last attempt; "": it was well */
};

struct redis_nodes *redis_nodes_find(struct pools *, struct snapshot *, const struct conf_redis *);
void redis_nodes_leave(struct redis_nodes **);	/* nulls the pointer, which may be NULL */
void redis_nodes_fini(struct pools *);		/* nobody has any */

/* Is what is known not older than REDIS_NODES_FRESH_NS?  False: it learns now, or will not;
 * an answer or none is fresh. */
bool redis_nodes_is_fresh(struct redis_nodes *);
/* What is known may be wrong: learns again, soon. */
void redis_nodes_doubt(struct redis_nodes *);
void redis_nodes_wait(struct redis_nodes *, struct redis_nodes_wait *);	/* learning must be under way or due */
void redis_nodes_unwait(struct redis_nodes_wait *);
/* Who has the slot; REDIS_SLOT_NONE: anybody.  NOBODY: nobody, or it is not known. */
int  redis_nodes_at(const struct redis_nodes *, int slot);
/* The master that is called so; NOBODY: none that is listed. */
int  redis_nodes_called(const struct redis_nodes *, const struct redis_place *);
/* Is a master or a replica called so? */
bool redis_nodes_know(const struct redis_nodes *, const struct redis_place *);
/* By number a node is known for this turn, or as long as it is used. */
void redis_nodes_use(struct redis_nodes *, int node, struct redis_nodes_use *);
void redis_nodes_unuse(struct redis_nodes_use *);
bool redis_nodes_lists(const struct redis_nodes *, int node);
/* As pool_find_redis() and pool_find_redis_lent(), of one node. */
struct pool *redis_nodes_pool(const struct redis_nodes *, int node, struct snapshot *,
    const struct conf_redis *, const char *user, const char *password, int resp, bool lends);

#endif

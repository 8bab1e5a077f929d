/*
 * redis_gather: what the nodes of a cluster say to one command, as one reply.
 *
 * Each is heard whole, and then all of it is told at once: the first error, if
 * there was one, and else their sum, or all that they list, or one of them.  Of
 * what only one of them has to do (ANY) an error is told if none has done it.
 *
 * The cursor of SCAN goes from node to node in the order of the first slot of
 * each.  Ours says which that is, and of which name (22 bits) beside the node's
 * own: where another has the slot by now, that one is begun anew; Redis, too, may
 * tell of a key twice.  What moves from a node that is to come to one that was
 * asked is left out, as it is by whoever asks the nodes one by one.
 *
 * Owner:    whoever embeds it; zero to begin with and after _tell().
 * Bounds:   what is heard, by the caller.
 * Sources:  DBSIZE, KEYS, RANDOMKEY, PUBSUB CHANNELS, SCAN; the request_policy and
 *           response_policy that COMMAND of Redis 7.0 tells of each.
 */
#ifndef PROTOCOL_REDIS_GATHER_H
#define PROTOCOL_REDIS_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/buf.h"
#include "protocol/slice.h"

enum redis_gather_how {
	REDIS_GATHER_LAST,	/* the last one stands for all */
	REDIS_GATHER_SUM,	/* of integers */
	REDIS_GATHER_LIST,	/* all elements of arrays of bulks */
	REDIS_GATHER_SET,	/* the same, each once */
	REDIS_GATHER_ONE,	/* a bulk, of any node that has one */
	REDIS_GATHER_LEAST,	/* of integers, or at each place of arrays of them */
	REDIS_GATHER_COUNTS,	/* pairs of a bulk, the same of all, and an integer: the sums */
	REDIS_GATHER_ANY	/* of any that has done it */
};

struct redis_gather {
	struct buf bad, said;	/* the first error; what is to be told, or elements */
	uint64_t   n;		/* elements, or bulks to choose from */
	int64_t	   sum;
	bool	   odd;		/* one was no such reply */
};

void redis_gather_free(struct redis_gather *);
/* One whole reply; `chance` is any number, for who is chosen. */
void redis_gather_hear(struct redis_gather *, enum redis_gather_how, const uint8_t *, size_t,
    uint32_t chance);
/* All of them were heard.  -1: the buf is full. */
int  redis_gather_tell(struct redis_gather *, enum redis_gather_how, struct buf *)
    __attribute__((warn_unused_result));

struct redis_cursor {
	uint64_t of_node;
	unsigned slot;	/* the first of the node */
	uint8_t	 name;	/* redis_cursor_name() */
};

enum { REDIS_CURSOR_MAX = 24 };	/* its digits and a NUL */

/* Of what the node is called. */
uint8_t redis_cursor_name(const char *name, unsigned port);
/* As a client says it; false: it is no cursor. */
bool	redis_cursor_read(struct slice, struct redis_cursor *);
/* False: it is too large a number. */
bool	redis_cursor_text(const struct redis_cursor *, char out[REDIS_CURSOR_MAX]);
/* Of a whole reply to SCAN: the node's cursor, and what stands behind it. */
bool	redis_cursor_of(const uint8_t *, size_t, uint64_t *of_node, struct slice *rest);

#endif

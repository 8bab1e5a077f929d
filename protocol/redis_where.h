/*
 * redis_where: where Redis says that something is: the master of a Sentinel,
 * the slots of a cluster, the node that a command is redirected to.
 *
 * Each takes one whole reply in RESP2.  What is not exactly as Redis writes it
 * is malformed: nobody is to be sent to a place that was guessed at.
 *
 * Views:    a name points into the reply.
 * Sources:  SENTINEL GET-MASTER-ADDR-BY-NAME, ROLE, CLUSTER SLOTS; and
 *           "-MOVED 3999 127.0.0.1:6381", "-ASK ..." of the cluster's
 *           specification.
 */
#ifndef PROTOCOL_REDIS_WHERE_H
#define PROTOCOL_REDIS_WHERE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/slice.h"

enum { REDIS_SLOTS = 16384 };

/* A host's name or address, without brackets. */
struct redis_place {
	struct slice name;	/* empty: that of the node which was asked */
	unsigned     port;	/* never 0 */
};

/* > 0: there; 0: the Sentinel knows no such master; -1: something else. */
int  redis_where_master(const uint8_t *, size_t, struct redis_place *);

/* Is this what ROLE says of a master? */
bool redis_where_is_master(const uint8_t *, size_t);

/* One line of CLUSTER SLOTS: the slots from..to are at this master. */
struct redis_range {
	unsigned	   from, to;
	struct redis_place at;
};

/*
 * Calls `range` for each line.  The number of lines, or -1: malformed, or
 * `range` said false.
 */
typedef bool redis_range_take(void *, const struct redis_range *);
ssize_t redis_where_slots(const uint8_t *, size_t, redis_range_take *, void *)
    __attribute__((warn_unused_result));

enum redis_turn { REDIS_STAYS, REDIS_MOVED, REDIS_ASK };

/* Of a reply, whether it sends the command elsewhere, and where. */
enum redis_turn redis_where_turn(const uint8_t *, size_t, unsigned *slot, struct redis_place *);

#endif

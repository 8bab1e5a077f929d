/*
 * redis_where: where Redis says that something is: the master of a Sentinel,
 * the slots of a cluster, the node that a command is redirected to.
 *
 * CLUSTER NODES and not SLOTS: who is about to get its first slot, and is the
 * target of -ASK, stands only there.
 *
 * Each takes one whole reply in RESP2.  What is not exactly as Redis writes it
 * is malformed: nobody is to be sent to a place that was guessed at.
 *
 * Views:    a name points into the reply.
 * Sources:  SENTINEL GET-MASTER-ADDR-BY-NAME, ROLE, CLUSTER NODES; and
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

/* A node of a cluster: one line of CLUSTER NODES. */
struct redis_member {
	struct redis_place at;		/* by address */
	struct slice	   host;	/* its name, too; empty: it has none */
	bool		   is_master;	/* one that is to be asked */
	bool		   is_replica;	/* of such a one, and alive */
	struct slice	   slots;	/* for redis_where_range() */
};

/*
 * The text of the reply to CLUSTER NODES; then each line of it, and of a line
 * each range of slots.  1: there is one, 0: no more, -1: malformed.  A line of
 * a node without an address is passed over.
 */
int redis_where_nodes(const uint8_t *, size_t, struct slice *text);
int redis_where_member(struct slice *text, struct redis_member *);
int redis_where_range(struct slice *slots, unsigned *from, unsigned *to);

enum redis_turn { REDIS_STAYS, REDIS_MOVED, REDIS_ASK };

/* Of a reply, whether it sends the command elsewhere, and where. */
enum redis_turn redis_where_turn(const uint8_t *, size_t, unsigned *slot, struct redis_place *);

#endif

/*
 * pg_op: which requests of a client may share a commit with other clients',
 * and what the client hears of them.
 *
 * A request is taken whole, from its first message to its Sync, or as one
 * simple Query, while the client holds no server and has no transaction open.
 * A client may have several under way by one lane, and hears of them in their
 * order; anything else it asks waits until they are done.
 */
#ifndef PROXY_PG_OP_H
#define PROXY_PG_OP_H

#include "protocol/pg.h"
#include "proxy/pg_batch.h"
#include "proxy/pg_message.h"
#include "proxy/pg_session.h"

enum { OPS_MAX = 256 }; /* of a client, under way at once */

enum op_take {
	OP_NONE,	/* it is none: it goes the way of all others */
	OP_TAKEN,
	OP_LATER	/* more of it must come, or what is under way be done */
};

enum op_take pg_op_take(struct pg_session *, struct feed *, const struct pg_frame *);
/* To its batch: the client waits for its answer. */
void	     pg_op_submit(struct pg_session *, struct op *);
/* An operation of one of this worker's sessions has ended; it is freed. */
void	     pg_op_home(struct worker *, struct op *);
/* The session ends: what it has under way is carried out, and told nobody. */
void	     pg_op_part(struct pg_session *);

#endif

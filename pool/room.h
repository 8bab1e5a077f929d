/*
 * room: places for servers, in a pool and at its upstream.
 *
 * A server takes two places before it is dialled: one of its upstream's cap,
 * which all pools of the upstream share, and one of its pool.  When the cap is
 * full, a pool with waiters gets the place of a server that another pool has
 * idle, on this worker or another; of two pools with waiters the one that has
 * waited longer, by a slice of time at least, so that servers are not closed
 * and opened again with every transaction.
 *
 * Who was refused by the cap is `capped`; the worker raises its bit there and
 * nudges the others, who look whether they owe it a server.
 */
#ifndef POOL_ROOM_H
#define POOL_ROOM_H

#include <stdbool.h>

struct budget_side;
struct pool;

/* The two places, for a server that somebody waits for; the pool's only below
 * `most`.  May close an idle server of another pool to get them. */
bool room_take(struct pool *, int most) __attribute__((warn_unused_result));
/* The same for a server nobody waits for: takes nothing from others. */
bool room_take_spare(struct pool *, int most) __attribute__((warn_unused_result));
void room_give(struct pool *);
/* More servers are there than may be: one that can go should. */
bool room_is_over(struct pool *);
/* Does the next idle server of this pool belong to another one? */
bool room_owes(struct pool *);
bool room_cede(struct pool *);	/* closes one, if it does */
void room_show(struct pool *);	/* to the other pools, at the end of a poke */
void room_nudged(struct budget_side *);
void room_leave(struct pool *);	/* before the pool is freed */

#endif

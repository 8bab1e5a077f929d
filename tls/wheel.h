/*
 * wheel: a worker's deadlines, thousands of them, at no cost while they move.
 *
 * A timing wheel of coarse ticks.  Moving a deadline later only stores the new
 * time: the entry stays in its slot and is moved on when that slot comes up,
 * so a connection that changes state with every transaction pays nothing.
 *
 * Owner:    the worker; an entry is embedded in what it watches and must be
 *           removed (deadline 0) before that is freed.
 * Units:    nanoseconds of a monotonic clock; a deadline fires at most
 *           WHEEL_TICK_NS late, and never early.
 */
#ifndef TLS_WHEEL_H
#define TLS_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#define WHEEL_TICK_NS (50ull * 1000 * 1000)
enum { WHEEL_SLOTS = 1024 };

struct wheel_entry;
typedef void wheel_fire(struct wheel_entry *);

struct wheel_entry {
	struct wheel_entry *next, **prev;	/* prev NULL: in no slot */
	uint64_t	    deadline_ns;	/* 0: none */
	uint64_t	    slot_ns;		/* when its slot comes up */
	wheel_fire	   *fire;		/* may set or clear any deadline; may not free */
};

struct wheel {
	struct wheel_entry *slot[WHEEL_SLOTS];
	uint64_t	    tick;		/* last tick run; past deadlines wait in its slot */
	unsigned	    n;			/* entries in slots */
};

void wheel_init(struct wheel *, uint64_t now_ns);
void wheel_entry_init(struct wheel_entry *, wheel_fire *);
/* 0 removes it.  A deadline in the past fires at the next run. */
void wheel_set(struct wheel *, struct wheel_entry *, uint64_t deadline_ns);
/*
 * Fires what is due, each entry once.  Bounded by the entries whose slot has
 * come up, and WHEEL_SLOTS after a gap, however long.
 */
void wheel_run(struct wheel *, uint64_t now_ns);

#endif

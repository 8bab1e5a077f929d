#include "tls/wheel.h"

#include <assert.h>
#include <stddef.h>

static_assert((WHEEL_SLOTS & (WHEEL_SLOTS - 1)) == 0, "slots by mask");

/* The first tick that is not before `ns`: what is due by then, is due. */
static uint64_t
tick_after(uint64_t ns)
{
	return ns / WHEEL_TICK_NS + (ns % WHEEL_TICK_NS != 0);
}

static void
entry_unlink(struct wheel *w, struct wheel_entry *e)
{
	assert(e->prev != NULL);
	assert(w->n > 0);
	*e->prev = e->next;
	if (e->next != NULL)
		e->next->prev = e->prev;
	e->next = NULL;
	e->prev = NULL;
	w->n--;
}

static void
entry_push(struct wheel *w, struct wheel_entry *e, struct wheel_entry **list)
{
	assert(e->prev == NULL);
	e->next = *list;
	e->prev = list;
	if (e->next != NULL)
		e->next->prev = &e->next;
	*list = e;
	w->n++;
}

/*
 * Into the slot of its deadline.  What is past goes to the slot of the tick
 * that was run last, which every run looks at again; what is further away than
 * the wheel goes round waits in the last slot and is put in again from there.
 */
static void
entry_link(struct wheel *w, struct wheel_entry *e)
{
	uint64_t tick = tick_after(e->deadline_ns);

	assert(e->deadline_ns != 0);
	if (tick < w->tick)
		tick = w->tick;
	if (tick - w->tick > WHEEL_SLOTS - 1)
		tick = w->tick + WHEEL_SLOTS - 1;
	e->slot_ns = tick * WHEEL_TICK_NS;
	entry_push(w, e, &w->slot[tick & (WHEEL_SLOTS - 1)]);
}

/* Looked at in time where it is: its slot comes up not after its new tick. */
static bool
entry_may_stay(const struct wheel_entry *e, uint64_t deadline_ns)
{
	return deadline_ns >= e->slot_ns ||
	       e->slot_ns - deadline_ns < WHEEL_TICK_NS;
}

void
wheel_init(struct wheel *w, uint64_t now_ns)
{
	*w = (struct wheel){ .tick = now_ns / WHEEL_TICK_NS };
}

void
wheel_entry_init(struct wheel_entry *e, wheel_fire *fire)
{
	assert(fire != NULL);
	*e = (struct wheel_entry){ .fire = fire };
}

void
wheel_set(struct wheel *w, struct wheel_entry *e, uint64_t deadline_ns)
{
	assert(e->fire != NULL);
	e->deadline_ns = deadline_ns;
	if (e->prev != NULL) {
		if (deadline_ns != 0 && entry_may_stay(e, deadline_ns))
			return;
		entry_unlink(w, e);
	}
	if (deadline_ns != 0)
		entry_link(w, e);
}

/*
 * Takes the slots off the wheel that have come up: those since the last run,
 * and its own once more for what was set to the past since.  After a gap of a
 * whole round every slot comes up once.
 */
static void
slots_take(struct wheel *w, uint64_t to, struct wheel_entry **due)
{
	uint64_t from = w->tick;
	struct wheel_entry *e;

	if (to - from >= WHEEL_SLOTS)
		from = to - WHEEL_SLOTS + 1;
	/* Backwards, so that pushing to the front puts the oldest first. */
	for (uint64_t n = to - from + 1; n > 0 && w->n > 0; n--)
		while ((e = w->slot[(from + n - 1) & (WHEEL_SLOTS - 1)])) {
			entry_unlink(w, e);
			entry_push(w, e, due);
		}
}

/*
 * `fire` may take out any entry, the next one due as well, so nothing is
 * remembered across a call: the head of the list is taken until there is none.
 * What is set meanwhile goes back to the wheel, so it cannot fire twice here.
 */
void
wheel_run(struct wheel *w, uint64_t now_ns)
{
	uint64_t to = now_ns / WHEEL_TICK_NS;
	struct wheel_entry *due = NULL, *e;

	if (to < w->tick)
		return; /* a cached clock may lag behind wheel_init()'s */
	slots_take(w, to, &due);
	w->tick = to;
	while ((e = due) != NULL) {
		entry_unlink(w, e);
		if (e->deadline_ns > now_ns) {
			entry_link(w, e);
			continue;
		}
		e->deadline_ns = 0;
		e->fire(e);
	}
}

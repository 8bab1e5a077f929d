#include "pool/room.h"

#include <assert.h>

#include "pool/pool.h"

static unsigned
me(const struct pool *p)
{
	return p->home->worker;
}

/* Those of this worker that have servers of the upstream, or wait for one. */
static struct pool *
room_members(const struct pool *p)
{
	return p->cap->side[me(p)].pools;
}

static uint64_t
age(const struct server *v)
{
	uint64_t now = v->pool->home->streams->now_ns;

	/* It may have been opened on a worker whose turn began later. */
	return now > v->opened_ns ? now - v->opened_ns : 0;
}

/* ---- whose place -------------------------------------------------------- */

/* The shared one to end: of two the one apart, which is the later. */
static struct server *
room_shared(const struct pool *p)
{
	struct server *v = p->list[SERVER_SHARED];

	return v != NULL && v->leaving && v->next != NULL ? v->next : v;
}

/* One that nobody uses ends at once, unless it is new and about to be used;
 * one of those in turn lent and idle has its slice of time first. */
static struct server *
room_victim(const struct pool *p)
{
	struct server *found = NULL, *v = room_shared(p);

	if (v != NULL)
		return v->ledger.n == 0 && age(v) > 0 ? v : NULL;
	for (v = p->list[SERVER_IDLE]; v != NULL; v = v->next)
		if (v->cancels == 0 && age(v) >= POOL_SLICE_NS)
			found = v; /* the last has been idle for longest */
	return found;
}

static void
room_evict(struct server *v)
{
	stats_add(v->pool->home->stats, STAT_SERVER_EVICTED, 1);
	server_close(v, WHY_ROOM, NULL, NULL);
}

/* A shared server is never idle for sure; at work for a slice, it closes when
 * it owes nothing. */
static bool
room_evict_shared(struct server *v)
{
	if (v->ledger.n == 0 && age(v) > 0) {
		room_evict(v);
		return true;
	}
	if (age(v) >= POOL_SLICE_NS)
		v->leaving = true;
	return false;
}

/* On this worker: of the idle ones the one idle for longest, else a shared
 * one's promise to go. */
static bool
room_make(struct pool *p)
{
	struct server *idle = NULL, *busy = NULL;

	for (struct pool *o = room_members(p); o != NULL; o = o->cap_next) {
		struct server *v, *shared = room_shared(o);

		if (o == p || o->waiters.n > 0)
			continue;
		v = room_victim(o);
		if (v != NULL && (idle == NULL || v->idle_ns < idle->idle_ns))
			idle = v;
		if (shared != NULL &&
		    (busy == NULL || shared->opened_ns < busy->opened_ns))
			busy = shared;
	}
	if (idle != NULL) {
		room_evict(idle);
		return true;
	}
	return busy != NULL && room_evict_shared(busy);
}

/* The last place belongs to whoever has waited longest for it. */
static bool
room_must_yield(struct pool *p)
{
	uint64_t theirs, ours = fair_oldest_ns(&p->waiters);

	if (budget_room(p->cap) > 1)
		return false;
	/* What we have just given up is not ours to take back. */
	if (p->home->streams->now_ns - p->ceded_ns < POOL_UNFAIR_NS)
		return true;
	if (budget_longest(p->cap, me(p), &theirs) >= 0 && theirs < ours)
		return true;
	for (struct pool *o = room_members(p); o != NULL; o = o->cap_next) {
		if (o != p && o->capped && fair_oldest_ns(&o->waiters) < ours) {
			pool_touch(o);
			return true;
		}
	}
	return false;
}

/* ---- taking and giving -------------------------------------------------- */

/* The cap first: who is refused by it has kept nothing from anybody. */
static bool
room_take_both(struct pool *p, int most)
{
	if (!budget_take(p->cap))
		return false;
	if (budget_take_to(p->budget, most))
		return true;
	budget_give(p->home->budgets, p->cap);
	return false;
}

/* Idle servers of its own pool come over from other workers, shared ones do
 * not: who waits for one of these waits for a place. */
static bool
room_is_ours(const struct pool *p, int most)
{
	return atomic_load(&p->budget->count) < most ||
	       (p->redis != NULL && !p->lends && !p->subscribes);
}

bool
room_take(struct pool *p, int most)
{
	if (!room_is_ours(p, most))
		return false;
	if (room_must_yield(p) || (budget_room(p->cap) == 0 && !room_make(p))) {
		p->capped = true;
		return false;
	}
	if (room_take_both(p, most))
		return true;
	/* Another worker was faster, at the one or at the other. */
	p->capped = budget_room(p->cap) == 0;
	return false;
}

bool
room_take_spare(struct pool *p, int most)
{
	return atomic_load(&p->budget->count) < most &&
	       !budget_is_wanted(p->cap) && room_take_both(p, most);
}

void
room_give(struct pool *p)
{
	budget_give(p->home->budgets, p->budget);
	budget_give(p->home->budgets, p->cap);
}

bool
room_is_over(struct pool *p)
{
	int reserve = p->postgres ? (int)p->postgres->reserve_pool_size : 0;

	return budget_is_over(p->budget, reserve) || budget_is_over(p->cap, 0);
}

/* ---- between pools ------------------------------------------------------ */

/* Who has waited longest for the cap: a pool of this worker, or another
 * worker. */
struct needy {
	struct pool *pool;
	int worker;
	uint64_t since_ns;
};

static struct needy
room_neediest(const struct pool *p)
{
	struct needy n = { .worker = -1, .since_ns = UINT64_MAX };

	if (!budget_is_wanted(p->cap))
		return n;
	n.worker = budget_longest(p->cap, me(p), &n.since_ns);
	for (struct pool *o = room_members(p); o != NULL; o = o->cap_next) {
		uint64_t since = fair_oldest_ns(&o->waiters);

		if (o == p || !o->capped || since >= n.since_ns)
			continue;
		n.pool = o;
		n.since_ns = since;
	}
	return n;
}

static struct server *
room_debt(const struct pool *p, const struct needy *n)
{
	uint64_t theirs, ours = fair_oldest_ns(&p->waiters);

	if (n->since_ns == UINT64_MAX)
		return NULL;
	if (budget_longest(p->budget, me(p), &theirs) >= 0 && theirs < ours)
		ours = theirs;
	if (ours != UINT64_MAX && ours <= n->since_ns + POOL_SLICE_NS)
		return NULL;
	return room_victim(p);
}

bool
room_owes(struct pool *p)
{
	struct needy n;

	if (p->list[SERVER_IDLE] == NULL || !budget_is_wanted(p->cap))
		return false;
	n = room_neediest(p);
	return room_debt(p, &n) != NULL;
}

bool
room_cede(struct pool *p)
{
	struct server *v;
	struct needy n;

	if (p->list[SERVER_IDLE] == NULL || !budget_is_wanted(p->cap))
		return false;
	n = room_neediest(p);
	if ((v = room_debt(p, &n)) == NULL)
		return false;
	/* One server for one waiter: it asks again if it needs another. */
	if (n.pool != NULL) {
		n.pool->capped = false;
		n.pool->ceded_ns = 0;
	} else if (!budget_claim(p->cap, (unsigned)n.worker)) {
		return false;
	}
	p->ceded_ns = p->home->streams->now_ns;
	room_evict(v);
	if (n.pool != NULL)
		pool_touch(n.pool);
	else
		budget_nudge_one(p->home->budgets, p->cap, (unsigned)n.worker);
	return true;
}

void
room_nudged(struct budget_side *side)
{
	uint64_t theirs;

	for (struct pool *o = side->pools; o != NULL; o = o->cap_next) {
		struct server *shared = room_shared(o);

		if (shared != NULL &&
		    budget_longest(side->budget, me(o), &theirs) >= 0)
			room_evict_shared(shared);
		/* Who waits looks only when it would find something, or two
		 * workers that wait would nudge each other without end. */
		if (o->list[SERVER_IDLE] != NULL ||
		    (o->capped && budget_room(side->budget) > 0))
			pool_touch(o);
	}
}

/* ---- what others see ---------------------------------------------------- */

static void
room_join(struct pool *p)
{
	struct pool **list = &p->cap->side[me(p)].pools;

	if (p->cap_prev != NULL)
		return;
	p->cap_next = *list;
	p->cap_prev = list;
	if (p->cap_next != NULL)
		p->cap_next->cap_prev = &p->cap_next;
	*list = p;
}

void
room_leave(struct pool *p)
{
	if (p->cap_prev == NULL)
		return;
	*p->cap_prev = p->cap_next;
	if (p->cap_next != NULL)
		p->cap_next->cap_prev = p->cap_prev;
	p->cap_next = NULL;
	p->cap_prev = NULL;
}

void
room_show(struct pool *p)
{
	uint64_t oldest = UINT64_MAX, bit = 1ull << me(p);

	if (pool_servers(p) > 0 || p->waiters.n > 0)
		room_join(p);
	else
		room_leave(p);
	p->capped = p->capped && p->waiters.n > 0;
	if (!p->capped && !(atomic_load(&p->cap->waiting) & bit))
		return;
	for (struct pool *o = room_members(p); o != NULL; o = o->cap_next) {
		uint64_t since = fair_oldest_ns(&o->waiters);

		if (o->capped && since < oldest)
			oldest = since;
	}
	if (oldest == UINT64_MAX) {
		budget_wait_over(p->cap, me(p));
		return;
	}
	budget_wait(p->home->budgets, p->cap, me(p), oldest);
	if (p->capped)
		budget_nudge_others(p->home->budgets, p->cap, me(p));
}

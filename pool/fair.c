#include "pool/fair.h"

#include <assert.h>
#include <stdlib.h>

#include "conf/tenant.h"
#include "pool/budget.h"

enum {
	SPARES_MAX = 16,
	STEPS_MAX = 256, /* organizations looked at to count who wants */
	CHOICE = 16      /* and to choose the next */
};

struct fair_queue {
	const void *key;
	struct fair_queue *chain; /* in its bucket */
	struct fair_queue *ring_next, *ring_prev;
	struct lessee *head, **tail;
	unsigned n;
	unsigned served;    /* in this turn */
	uint64_t served_ns; /* when its turn last passed */
	struct fair_queue *held_next, **held_prev; /* NULL: in the ring */
};

/* A reload brings another struct tenant for the same organization. */
static const void *
key_of(const struct lessee *l)
{
	return l->share != NULL ? (const void *)l->share : l->tenant;
}

static struct fair_queue **
bucket_of(struct fair *f, const void *key)
{
	uint64_t hash = (uintptr_t)key * 0x9e3779b97f4a7c15u >> 32;

	return f->many != NULL ? &f->many[hash & (f->buckets - 1)]
			       : &f->few[hash % FAIR_BUCKETS];
}

static struct fair_queue **
fair_find(struct fair *f, const struct lessee *l)
{
	const void *key = key_of(l);
	struct fair_queue **at = bucket_of(f, key);

	while (*at != NULL && (*at)->key != key)
		at = &(*at)->chain;
	return at;
}

/* More buckets than there are queues, and all of them put anew. */
static void
fair_grow(struct fair *f)
{
	struct fair_queue **from = f->many != NULL ? f->many : f->few, *q;
	unsigned n = f->many != NULL ? f->buckets : FAIR_BUCKETS;
	struct fair_queue **old = f->many, **at;

	f->buckets = 4 * n;
	if ((f->many = calloc(f->buckets, sizeof(*f->many))) == NULL)
		abort();
	for (unsigned i = 0; i < n; i++)
		while ((q = from[i]) != NULL) {
			from[i] = q->chain;
			at = bucket_of(f, q->key);
			q->chain = *at;
			*at = q;
		}
	free(old);
}

static unsigned
weight_of(const struct fair_queue *q)
{
	const struct tenant *t = q->head->tenant;

	return t != NULL && t->weight > 0 ? t->weight : 1;
}

/* Who comes into the ring is served last: just behind the one whose turn it is. */
static void
ring_join(struct fair *f, struct fair_queue *q)
{
	if (f->turn == NULL) {
		f->turn = q->ring_next = q->ring_prev = q;
	} else {
		q->ring_next = f->turn;
		q->ring_prev = f->turn->ring_prev;
		q->ring_prev->ring_next = q;
		q->ring_next->ring_prev = q;
	}
}

static void
ring_leave(struct fair *f, struct fair_queue *q)
{
	if (f->turn == q)
		f->turn = q->ring_next == q ? NULL : q->ring_next;
	q->ring_prev->ring_next = q->ring_next;
	q->ring_next->ring_prev = q->ring_prev;
}

static void
held_leave(struct fair_queue *q)
{
	*q->held_prev = q->held_next;
	if (q->held_next != NULL)
		q->held_next->held_prev = q->held_prev;
	q->held_prev = NULL;
}

static struct fair_queue *
queue_open(struct fair *f, const void *key)
{
	struct fair_queue *q = f->spare;

	if (q != NULL) {
		f->spare = q->chain;
		f->spares--;
	} else if ((q = malloc(sizeof(*q))) == NULL) {
		abort();
	}
	*q = (struct fair_queue){ .key = key };
	q->tail = &q->head;
	ring_join(f, q);
	f->queues++;
	return q;
}

static void
spares_free(struct fair *f)
{
	struct fair_queue *q;

	while ((q = f->spare) != NULL) {
		f->spare = q->chain;
		free(q);
	}
	f->spares = 0;
}

static void
queue_close(struct fair *f, struct fair_queue **at)
{
	struct fair_queue *q = *at;

	assert(q->head == NULL);
	*at = q->chain;
	if (q->held_prev != NULL)
		held_leave(q);
	else
		ring_leave(f, q);
	q->chain = f->spare;
	f->spare = q;
	if (++f->spares > SPARES_MAX || f->queues == 1)
		spares_free(f);
	if (--f->queues == 0) {
		free(f->many);
		f->many = NULL;
	}
}

void
fair_put(struct fair *f, struct lessee *l)
{
	struct fair_queue **at = fair_find(f, l), *q;

	assert(l->prev == NULL);
	if (*at == NULL)
		*at = queue_open(f, key_of(l));
	q = *at;
	if (f->queues > (f->many != NULL ? f->buckets : FAIR_BUCKETS))
		fair_grow(f);
	l->next = NULL;
	l->prev = q->tail;
	*q->tail = l;
	q->tail = &l->next;
	q->n++;
	*(q->held_prev != NULL ? &f->held : &f->n) += 1;
}

void
fair_remove(struct fair *f, struct lessee *l)
{
	struct fair_queue **at = fair_find(f, l), *q = *at;
	unsigned *n;

	assert(q != NULL && l->prev != NULL);
	n = q->held_prev != NULL ? &f->held : &f->n;
	assert(*n > 0 && q->n > 0);
	*l->prev = l->next;
	if (l->next != NULL)
		l->next->prev = l->prev;
	else
		q->tail = l->prev;
	l->next = NULL;
	l->prev = NULL;
	*n -= 1;
	q->n--;
	if (q->head == NULL)
		queue_close(f, at);
}

struct lessee *
fair_first(const struct fair *f)
{
	return f->turn ? f->turn->head : NULL;
}

struct lessee *
fair_take(struct fair *f)
{
	return fair_serve(f, 0);
}

struct lessee *
fair_serve(struct fair *f, uint64_t now_ns)
{
	struct fair_queue *q = f->turn;
	struct lessee *l;

	if (q == NULL)
		return NULL;
	l = q->head;
	if (++q->served >= weight_of(q)) {
		q->served = 0;
		q->served_ns = now_ns;
		if (l->share != NULL)
			atomic_store(&l->share->served_ns, now_ns);
		f->turn = q->ring_next;
	}
	fair_remove(f, l); /* may free q */
	return l;
}

/* Each queue is in the order of time. */
unsigned
fair_older(const struct fair *f, uint64_t before_ns, unsigned most)
{
	const struct fair_queue *q = f->turn;
	unsigned n = 0;

	if (q == NULL)
		return 0;
	do {
		for (const struct lessee *l = q->head; l != NULL && n < most;
		     l = l->next) {
			if (l->since_ns >= before_ns)
				break;
			n++;
		}
		q = q->ring_next;
	} while (q != f->turn && n < most);
	return n;
}

uint64_t
fair_oldest_ns(const struct fair *f)
{
	const struct fair_queue *q = f->turn;
	uint64_t oldest = UINT64_MAX;

	/* The queue whose turn it is stands for all: exact enough to compare
	 * workers, and independent of how many organizations wait. */
	if (q != NULL)
		oldest = q->head->since_ns;
	return oldest;
}

/* ---- those held back --------------------------------------------------- */

void
fair_hold(struct fair *f, struct lessee *l, struct fair_queue **list)
{
	struct fair_queue *q = *fair_find(f, l);

	assert(q != NULL);
	if (q->held_prev != NULL)
		return;
	ring_leave(f, q);
	q->served = 0;
	q->held_next = *list;
	q->held_prev = list;
	if (q->held_next != NULL)
		q->held_next->held_prev = &q->held_next;
	*list = q;
	f->n -= q->n;
	f->held += q->n;
}

void
fair_resume(struct fair *f, struct fair_queue *q)
{
	assert(q->held_prev != NULL);
	held_leave(q);
	ring_join(f, q);
	f->n += q->n;
	f->held -= q->n;
}

const struct lessee *
fair_head(const struct fair_queue *q)
{
	return q->head;
}

/* One for each pool of this worker where the organization waits: few. */
uint64_t
fair_held_ns(const struct fair_queue *q)
{
	uint64_t oldest = UINT64_MAX;

	for (; q != NULL; q = q->held_next)
		if (q->head->since_ns < oldest)
			oldest = q->head->since_ns;
	return oldest;
}

unsigned
fair_wants(const struct fair *f, unsigned most)
{
	const struct fair_queue *q = f->turn;
	unsigned n = 0, steps = 0;

	if (q == NULL)
		return 0;
	do {
		struct budget *share = q->head->share;
		unsigned room = share ? (unsigned)budget_room(share) : most;

		n += room < q->n ? room : q->n;
		q = q->ring_next;
	} while (q != f->turn && n < most && ++steps < STEPS_MAX);
	return n < most ? n : most;
}

/* ---- between workers --------------------------------------------------- */

/* How long an organization has not been served, on whatever worker. */
static uint64_t
rank(const struct fair_queue *q)
{
	const struct lessee *l = q->head;
	uint64_t served =
	    l->share != NULL ? atomic_load(&l->share->served_ns) : q->served_ns;

	return served > l->since_ns ? served : l->since_ns;
}

void
fair_choose(struct fair *f)
{
	struct fair_queue *best = f->turn, *q = f->turn;

	if (q == NULL || q->served > 0)
		return;
	for (int i = 0; i < CHOICE; i++, q = q->ring_next)
		if (rank(q) < rank(best))
			best = q;
	f->turn = best;
}

struct fair_claim
fair_claim(const struct fair *f)
{
	const struct fair_queue *q = f->turn;
	struct fair_claim c = { UINT64_MAX, UINT64_MAX, 0 };

	if (q == NULL)
		return c;
	c.since_ns = q->head->since_ns;
	c.served_ns = rank(q);
	c.who = (uintptr_t)q->key;
	return c;
}

uint64_t
fair_age(const struct fair_claim *c, const struct fair_claim *to)
{
	return c->who == to->who ? c->since_ns : c->served_ns;
}

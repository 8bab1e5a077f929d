#include "pool/fair.h"

#include <assert.h>
#include <stdlib.h>

#include "conf/tenant.h"

struct fair_queue {
	const struct tenant *tenant;
	struct fair_queue *chain; /* in its bucket */
	struct fair_queue *ring_next, *ring_prev;
	struct lessee *head, **tail;
	unsigned served; /* in this turn */
};

static struct fair_queue **
fair_find(struct fair *f, const struct tenant *tenant)
{
	uintptr_t key = (uintptr_t)tenant / 16;
	struct fair_queue **at = &f->bucket[(key ^ key >> 8) % FAIR_BUCKETS];

	while (*at != NULL && (*at)->tenant != tenant)
		at = &(*at)->chain;
	return at;
}

static unsigned
weight_of(const struct fair_queue *q)
{
	return q->tenant != NULL && q->tenant->weight > 0 ? q->tenant->weight
							  : 1;
}

/* A new queue is served last: just behind the one whose turn it is. */
static struct fair_queue *
queue_open(struct fair *f, const struct tenant *tenant)
{
	struct fair_queue *q = calloc(1, sizeof(*q));

	if (q == NULL)
		abort();
	q->tenant = tenant;
	q->tail = &q->head;
	if (f->turn == NULL) {
		f->turn = q->ring_next = q->ring_prev = q;
	} else {
		q->ring_next = f->turn;
		q->ring_prev = f->turn->ring_prev;
		q->ring_prev->ring_next = q;
		q->ring_next->ring_prev = q;
	}
	return q;
}

static void
queue_close(struct fair *f, struct fair_queue **at)
{
	struct fair_queue *q = *at;

	assert(q->head == NULL);
	*at = q->chain;
	if (f->turn == q)
		f->turn = q->ring_next == q ? NULL : q->ring_next;
	q->ring_prev->ring_next = q->ring_next;
	q->ring_next->ring_prev = q->ring_prev;
	free(q);
}

void
fair_put(struct fair *f, struct lessee *l)
{
	struct fair_queue **at = fair_find(f, l->tenant), *q;

	assert(l->prev == NULL);
	if (*at == NULL)
		*at = queue_open(f, l->tenant);
	q = *at;
	l->next = NULL;
	l->prev = q->tail;
	*q->tail = l;
	q->tail = &l->next;
	f->n++;
}

void
fair_remove(struct fair *f, struct lessee *l)
{
	struct fair_queue **at = fair_find(f, l->tenant), *q = *at;

	assert(q != NULL && l->prev != NULL && f->n > 0);
	*l->prev = l->next;
	if (l->next != NULL)
		l->next->prev = l->prev;
	else
		q->tail = l->prev;
	l->next = NULL;
	l->prev = NULL;
	f->n--;
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
	struct fair_queue *q = f->turn;
	struct lessee *l;

	if (q == NULL)
		return NULL;
	l = q->head;
	if (++q->served >= weight_of(q)) {
		q->served = 0;
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

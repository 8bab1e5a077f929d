#include "pool/rate.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PERIOD_MAX_MS 1000000000000ull /* 31 years: no sum overflows */

/* ---- one bucket -------------------------------------------------------- */

void
rate_set(struct rate *r, const struct tenant_rate *to, uint64_t now_ns)
{
	uint64_t ms =
	    to->period_ms < PERIOD_MAX_MS ? to->period_ms : PERIOD_MAX_MS;
	/* More than one in a nanosecond is no limit. */
	uint64_t token = to->count > 0 ? ms * 1000000u / to->count : 0;
	uint64_t size = token * to->count;
	uint64_t full = atomic_load(&r->full_ns);

	if (size == atomic_load(&r->size_ns) &&
	    token == atomic_load(&r->token_ns))
		return;
	atomic_store(&r->size_ns, size);
	atomic_store(&r->token_ns, token);
	/* Empty is empty, however much larger it was before. */
	while (full > now_ns + size &&
	       !atomic_compare_exchange_weak(&r->full_ns, &full, now_ns + size))
		;
}

bool
rate_take(struct rate *r, unsigned n, uint64_t now_ns, uint64_t *wait_ns)
{
	uint64_t token = atomic_load(&r->token_ns);
	uint64_t size = atomic_load(&r->size_ns);
	uint64_t full = atomic_load(&r->full_ns), from, to;

	if (token == 0)
		return true;
	if (n > size / token) {
		*wait_ns = RATE_NEVER;
		return false;
	}
	do {
		from = full > now_ns ? full : now_ns;
		to = from + token * n;
		if (to > now_ns + size) {
			*wait_ns = to - now_ns - size;
			return false;
		}
	} while (!atomic_compare_exchange_weak(&r->full_ns, &full, to));
	return true;
}

void
rate_give(struct rate *r, unsigned n)
{
	uint64_t token = atomic_load(&r->token_ns);
	uint64_t full = atomic_load(&r->full_ns), to;

	/* A reload may have changed what one is worth, up to all there is. */
	do
		to = token != 0 && n > full / token ? 0 : full - token * n;
	while (!atomic_compare_exchange_weak(&r->full_ns, &full, to));
}

bool
rate_is_full(struct rate *r, uint64_t now_ns)
{
	return atomic_load(&r->full_ns) <= now_ns;
}

/* ---- the registry ------------------------------------------------------ */

void
rates_init(struct rates *all)
{
	memset(all, 0, sizeof(*all));
	if (pthread_mutex_init(&all->lock, NULL) != 0)
		abort();
}

void
rates_fini(struct rates *all)
{
	for (unsigned i = 0; i < RATES_BUCKETS; i++) {
		struct rates_entry *e;

		while ((e = all->bucket[i]) != NULL) {
			assert(e->refs == 0);
			all->bucket[i] = e->next;
			free(e);
		}
	}
	pthread_mutex_destroy(&all->lock);
}

static struct rates_entry **
rates_bucket(struct rates *all, const char *slug)
{
	uint32_t h = 2166136261u;

	for (const char *p = slug; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &all->bucket[h % RATES_BUCKETS];
}

static struct rates_entry *
rates_look_up(struct rates *all, const char *slug)
{
	struct rates_entry *e = *rates_bucket(all, slug);

	while (e != NULL && strcmp(e->slug, slug) != 0)
		e = e->next;
	return e;
}

static void
entry_set(struct rates_entry *e, const struct tenant *t, uint64_t now_ns)
{
	rate_set(&e->rate[RATE_CONNECTIONS], &t->rate_connections, now_ns);
	rate_set(&e->rate[RATE_QUERIES], &t->rate_queries, now_ns);
	rate_set(&e->rate[RATE_OPERATIONS], &t->rate_operations, now_ns);
}

static bool
entry_is_idle(struct rates_entry *e, uint64_t now_ns)
{
	if (e->refs > 0)
		return false;
	for (int i = 0; i < RATE_KINDS; i++)
		if (!rate_is_full(&e->rate[i], now_ns))
			return false;
	return true;
}

/* Whoever comes sweeps before the door: the neighbours nobody needs go. */
static void
rates_sweep(struct rates *all, struct rates_entry **at, uint64_t now_ns)
{
	struct rates_entry *e;

	while ((e = *at) != NULL) {
		if (!entry_is_idle(e, now_ns)) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		all->n--;
		free(e);
	}
}

static struct rates_entry *
rates_new(struct rates *all, const char *slug)
{
	struct rates_entry **at = rates_bucket(all, slug);
	struct rates_entry *e = calloc(1, sizeof(*e) + strlen(slug) + 1);

	if (e == NULL)
		abort();
	strcpy(e->slug, slug);
	e->next = *at;
	*at = e;
	all->n++;
	return e;
}

struct rates_entry *
rates_find(struct rates *all, const struct tenant *t, uint64_t now_ns)
{
	struct rates_entry *e;

	pthread_mutex_lock(&all->lock);
	if ((e = rates_look_up(all, t->slug)) == NULL) {
		rates_sweep(all, rates_bucket(all, t->slug), now_ns);
		e = rates_new(all, t->slug);
	}
	e->refs++;
	entry_set(e, t, now_ns);
	pthread_mutex_unlock(&all->lock);
	return e;
}

void
rates_unref(struct rates *all, struct rates_entry **held)
{
	struct rates_entry *e = *held;

	*held = NULL;
	if (e == NULL)
		return;
	pthread_mutex_lock(&all->lock);
	assert(e->refs > 0);
	e->refs--;
	pthread_mutex_unlock(&all->lock);
}

void
rates_change(struct rates *all, const struct tenant *t, uint64_t now_ns)
{
	struct rates_entry *e;

	pthread_mutex_lock(&all->lock);
	if ((e = rates_look_up(all, t->slug)) != NULL)
		entry_set(e, t, now_ns);
	pthread_mutex_unlock(&all->lock);
}

#include "pool/budget.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/fair.h"

enum { BUCKETS = 4096 };

int
budgets_init(struct budgets *all, unsigned workers, struct mailbox **mailbox,
	     void (*nudge)(struct message *, void *owner))
{
	assert(workers > 0 && workers <= 64); /* bits of a mask */
	*all = (struct budgets){ .workers = workers,
				 .mailbox = mailbox,
				 .nudge = nudge };
	all->bucket = calloc(BUCKETS, sizeof(struct budget *));
	all->parsed = calloc(BUDGET_PARSED, sizeof(*all->parsed));
	if (all->bucket == NULL || all->parsed == NULL ||
	    hosts_init(&all->hosts) != 0 ||
	    pthread_mutex_init(&all->lock, NULL) != 0) {
		free(all->bucket);
		free((void *)all->parsed);
		return -1;
	}
	return 0;
}

static void
budget_free(struct budget *b)
{
	free(b->key);
	buf_free(&b->welcome);
	free(b);
}

void
budgets_fini(struct budgets *all)
{
	for (unsigned i = 0; i < BUCKETS; i++) {
		struct budget *b;

		while ((b = all->bucket[i]) != NULL) {
			all->bucket[i] = b->next;
			budget_free(b);
		}
	}
	free((void *)all->parsed);
	free(all->bucket);
	hosts_fini(&all->hosts);
	pthread_mutex_destroy(&all->lock);
}

static struct budget *
budget_new(struct budgets *all, const char *key, int limit)
{
	struct budget *b =
	    calloc(1, sizeof(*b) + all->workers * sizeof(b->side[0]));

	if (b == NULL || (b->key = strdup(key)) == NULL)
		abort();
	b->all = all;
	b->refs = 1;
	b->limit = limit;
	buf_init(&b->welcome, BUDGET_WELCOME_MAX);
	for (unsigned i = 0; i < all->workers; i++) {
		b->side[i].budget = b;
		b->side[i].nudge.run = all->nudge;
		b->side[i].oldest_ns = UINT64_MAX;
	}
	return b;
}

static struct budget **
budget_bucket(struct budgets *all, const char *key)
{
	uint32_t h = 2166136261u;

	for (const char *p = key; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &all->bucket[h % BUCKETS];
}

struct budget *
budget_find(struct budgets *all, const char *key, int limit)
{
	struct budget **at, *b;

	pthread_mutex_lock(&all->lock);
	at = budget_bucket(all, key);
	for (b = *at; b != NULL && strcmp(b->key, key) != 0; b = b->next)
		;
	if (b != NULL) {
		atomic_fetch_add(&b->refs, 1);
	} else if (all->n < BUDGETS_MAX) {
		b = budget_new(all, key, limit);
		b->next = *at;
		*at = b;
		all->n++;
	}
	pthread_mutex_unlock(&all->lock);
	return b;
}

struct budget *
budget_ref(struct budget *b)
{
	atomic_fetch_add(&b->refs, 1);
	return b;
}

/* The last reference goes under the lock, or budget_find() could give out
 * what is being freed. */
void
budget_unref(struct budgets *all, struct budget **held)
{
	struct budget **at, *b = *held;
	unsigned refs = atomic_load(&b->refs);

	*held = NULL;
	while (refs > 1)
		if (atomic_compare_exchange_weak(&b->refs, &refs, refs - 1))
			return;
	pthread_mutex_lock(&all->lock);
	if (atomic_fetch_sub(&b->refs, 1) > 1) {
		pthread_mutex_unlock(&all->lock);
		return;
	}
	for (at = budget_bucket(all, b->key); *at != b; at = &(*at)->next)
		;
	*at = b->next;
	all->n--;
	pthread_mutex_unlock(&all->lock);
	assert(atomic_load(&b->count) == 0);
	budget_free(b);
}

static void
budget_nudge(struct budgets *all, struct budget *b, uint64_t mask)
{
	while (mask != 0) {
		unsigned i = (unsigned)__builtin_ctzll(mask);

		mask &= mask - 1;
		if (atomic_exchange(&b->side[i].nudged, true))
			continue;
		/* Whoever nudges holds a reference, so there is one to add to. */
		atomic_fetch_add(&b->refs, 1);
		mailbox_post(all->mailbox[i], &b->side[i].nudge);
	}
}

void
budget_limit(struct budget *b, int limit)
{
	if (atomic_exchange(&b->limit, limit) < limit)
		budget_nudge(b->all, b, atomic_load(&b->waiting));
}

void
budgets_limit(struct budgets *all, const char *key, int limit)
{
	struct budget *b;

	/* Under the lock, so that it stays while it is told. */
	pthread_mutex_lock(&all->lock);
	for (b = *budget_bucket(all, key); b != NULL; b = b->next)
		if (strcmp(b->key, key) == 0)
			budget_limit(b, limit);
	pthread_mutex_unlock(&all->lock);
}

bool
budget_is_over(struct budget *b, int extra)
{
	return atomic_load(&b->count) - extra > atomic_load(&b->limit);
}

int
budget_room(struct budget *b)
{
	int count = atomic_load(&b->count), limit = atomic_load(&b->limit);

	return count < limit ? limit - count : 0;
}

bool
budget_take_to(struct budget *b, int most)
{
	int count = atomic_load(&b->count);

	do {
		if (count >= most)
			return false;
	} while (!atomic_compare_exchange_weak(&b->count, &count, count + 1));
	return true;
}

bool
budget_take(struct budget *b)
{
	return budget_take_to(b, atomic_load(&b->limit));
}

void
budget_nudge_one(struct budgets *all, struct budget *b, unsigned who)
{
	budget_nudge(all, b, 1ull << who);
}

struct budget_side *
budget_nudged(struct message *m)
{
	struct budget_side *side =
	    (struct budget_side *)(void *)((char *)m -
					   offsetof(struct budget_side, nudge));

	atomic_store(&side->nudged, false);
	return side;
}

void
budget_give(struct budgets *all, struct budget *b)
{
	int before = atomic_fetch_sub(&b->count, 1);

	assert(before > 0);
	budget_nudge(all, b, atomic_load(&b->waiting));
}

void
budget_wait(struct budgets *all, struct budget *b, unsigned me,
	    uint64_t oldest_ns)
{
	uint64_t bit = 1ull << me, who;

	atomic_store(&b->side[me].oldest_ns, oldest_ns);
	if (atomic_fetch_or(&b->waiting, bit) & bit)
		return;
	who = atomic_load(&b->idle) & ~bit;
	/* Given back by one who did not see the bit yet: we try again. */
	if (atomic_load(&b->count) < atomic_load(&b->limit))
		who |= bit;
	budget_nudge(all, b, who);
}

void
budget_wait_over(struct budget *b, unsigned me)
{
	uint64_t bit = 1ull << me;

	/* `oldest_ns` stays: another worker may say this, and it would be
	 * lost on whoever raises the bit again at the same time. */
	if (atomic_load(&b->waiting) & bit)
		atomic_fetch_and(&b->waiting, ~bit);
}

void
budget_pass_on(struct budgets *all, struct budget *b, unsigned me)
{
	budget_wait_over(b, me);
	if (budget_room(b) > 0)
		budget_nudge(all, b, atomic_load(&b->waiting));
}

void
budget_claims(struct budgets *all, struct budget *b, unsigned me,
	      const struct fair_claim *c)
{
	atomic_store(&b->side[me].served_ns, c->served_ns);
	atomic_store(&b->side[me].who, c->who);
	budget_wait(all, b, me, c->since_ns);
}

/* One that deserves it, of our own organization or of another. */
static int
deserving(struct budget *b, unsigned me, const struct fair_claim *ours,
	  uint64_t slack_ns, bool own)
{
	uint64_t mask = atomic_load(&b->waiting) & ~(1ull << me);
	uint64_t oldest = UINT64_MAX;
	int who = -1;

	while (mask != 0) {
		unsigned i = (unsigned)__builtin_ctzll(mask);
		struct budget_side *side = &b->side[i];
		struct fair_claim c = { atomic_load(&side->oldest_ns),
					atomic_load(&side->served_ns),
					atomic_load(&side->who) };
		uint64_t theirs = fair_age(&c, ours), mine = fair_age(ours, &c);

		mask &= mask - 1;
		if ((c.who == ours->who) != own || theirs >= oldest ||
		    (mine != UINT64_MAX && mine < theirs + slack_ns))
			continue;
		oldest = theirs;
		who = (int)i;
	}
	return who;
}

/* Another organization first: however long ours has waited elsewhere, it is
 * being served.  Claims may change while they are read: we are asked again. */
int
budget_deserving(struct budget *b, unsigned me, const struct fair_claim *ours,
		 uint64_t slack_ns)
{
	int who = deserving(b, me, ours, slack_ns, false);

	return who >= 0 ? who : deserving(b, me, ours, slack_ns, true);
}

unsigned
budget_failed(struct budgets *all, struct budget *b, uint64_t now_ns,
	      uint64_t first_ns, uint64_t most_ns, const char *sqlstate,
	      const char *text)
{
	unsigned before = atomic_fetch_add(&b->failures, 1);
	uint64_t wait = first_ns << (before < 16 ? before : 16);

	if (wait > most_ns)
		wait = most_ns;
	atomic_store(&b->retry_ns, now_ns + wait);
	pthread_mutex_lock(&all->lock);
	snprintf(b->error, sizeof(b->error), "%s", text);
	snprintf(b->sqlstate, sizeof(b->sqlstate), "%s",
		 sqlstate ? sqlstate : "");
	pthread_mutex_unlock(&all->lock);
	return before;
}

bool
budget_recovered(struct budget *b)
{
	if (atomic_load(&b->doubted))
		atomic_store(&b->doubted, false);
	if (atomic_load(&b->failures) == 0)
		return false;
	atomic_store(&b->retry_ns, 0);
	return atomic_exchange(&b->failures, 0) > 0;
}

/* Who tries moves the time on, so that nobody else does meanwhile. */
bool
budget_may_try(struct budget *b, uint64_t now_ns, uint64_t first_ns)
{
	uint64_t retry_ns = atomic_load(&b->retry_ns);

	if (atomic_load(&b->failures) == 0)
		return true;
	return now_ns >= retry_ns &&
	       atomic_compare_exchange_strong(&b->retry_ns, &retry_ns,
					      now_ns + first_ns);
}

void
budget_untried(struct budget *b, uint64_t now_ns, uint64_t first_ns)
{
	uint64_t retry_ns = now_ns + first_ns;

	atomic_compare_exchange_strong(&b->retry_ns, &retry_ns, now_ns);
}

void
budget_error(struct budgets *all, struct budget *b, char sqlstate[6],
	     char text[BUDGET_ERROR_MAX])
{
	pthread_mutex_lock(&all->lock);
	memcpy(sqlstate, b->sqlstate, sizeof(b->sqlstate));
	memcpy(text, b->error, sizeof(b->error));
	pthread_mutex_unlock(&all->lock);
}

static void
replace(struct buf *b, const uint8_t *p, size_t n)
{
	buf_free(b);
	if (buf_put(b, p, n) != 0)
		abort(); /* all of them have the same limit */
}

void
budget_set_welcome(struct budgets *all, struct budget *b, const uint8_t *p,
		   size_t n)
{
	pthread_mutex_lock(&all->lock);
	replace(&b->welcome, p, n);
	pthread_mutex_unlock(&all->lock);
}

void
budget_get_welcome(struct budgets *all, struct budget *b, struct buf *out)
{
	const uint8_t *p;
	size_t n;

	pthread_mutex_lock(&all->lock);
	p = buf_peek(&b->welcome, &n);
	replace(out, p, n);
	pthread_mutex_unlock(&all->lock);
}

bool
budgets_down(struct budgets *all, char *key, size_t n)
{
	bool found = false;

	pthread_mutex_lock(&all->lock);
	for (unsigned i = 0; i < BUCKETS && !found; i++) {
		for (struct budget *b = all->bucket[i]; b; b = b->next) {
			if (atomic_load(&b->failures) == 0 ||
			    atomic_load(&b->count) > 0)
				continue;
			snprintf(key, n, "%s", b->key);
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&all->lock);
	return found;
}

void
budget_idle(struct budget *b, unsigned me)
{
	uint64_t bit = 1ull << me;

	if (!(atomic_load(&b->idle) & bit))
		atomic_fetch_or(&b->idle, bit);
}

void
budget_idle_over(struct budget *b, unsigned me)
{
	atomic_fetch_and(&b->idle, ~(1ull << me));
}

bool
budget_is_wanted(struct budget *b)
{
	return atomic_load(&b->waiting) != 0;
}

bool
budget_claim(struct budget *b, unsigned who)
{
	uint64_t bit = 1ull << who;

	return (atomic_fetch_and(&b->waiting, ~bit) & bit) != 0;
}

int
budget_longest(struct budget *b, unsigned me, uint64_t *oldest_ns)
{
	uint64_t mask = atomic_load(&b->waiting) & ~(1ull << me);
	int who = -1;

	*oldest_ns = UINT64_MAX;
	while (mask != 0) {
		unsigned i = (unsigned)__builtin_ctzll(mask);
		uint64_t ns = atomic_load(&b->side[i].oldest_ns);

		mask &= mask - 1;
		if (ns < *oldest_ns) {
			*oldest_ns = ns;
			who = (int)i;
		}
	}
	return who;
}

void
budget_nudge_others(struct budgets *all, struct budget *b, unsigned me)
{
	uint64_t everyone =
	    all->workers == 64 ? UINT64_MAX : (1ull << all->workers) - 1;

	budget_nudge(all, b, everyone & ~(1ull << me));
}

/* The digest in this pool, as one number; never 0. */
static uint64_t
parsed_key(const struct budget *b, const uint8_t digest[8])
{
	uint64_t key;

	memcpy(&key, digest, sizeof(key));
	return (key ^ (uint64_t)(uintptr_t)b * 0x9e3779b97f4a7c15u) | 1;
}

void
budget_note_parsed(struct budgets *all, const struct budget *b,
		   const uint8_t digest[8])
{
	uint64_t key = parsed_key(b, digest);

	atomic_store_explicit(&all->parsed[(key >> 1) % BUDGET_PARSED], key,
			      memory_order_relaxed);
}

bool
budget_has_parsed(struct budgets *all, const struct budget *b,
		  const uint8_t digest[8])
{
	uint64_t key = parsed_key(b, digest);

	return atomic_load_explicit(&all->parsed[(key >> 1) % BUDGET_PARSED],
				    memory_order_relaxed) == key;
}

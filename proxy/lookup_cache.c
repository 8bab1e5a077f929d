#include "proxy/lookup_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

/* ---- entries ---------------------------------------------------------- */

/* Each entry is in one of these. */
enum where { ASKED, KNOWN, UNKNOWN, WHERE_MAX };

struct entry {
	struct entry *chain;        /* in its bucket */
	struct entry *next, **prev; /* in its list */
	enum where where;
	void *value;       /* counted; ASKED: the one before, or NULL */
	uint64_t until_ns; /* good before this, */
	uint64_t stale_ns; /* of use for want of a better one before this */
	bool again;        /* ASKED: what comes may be out of date */
	struct lookup_waiter *head, **tail;
	char name[];
};

struct list {
	struct entry *first, **last; /* used longest ago at the head */
	unsigned n;
};

struct lookup_cache {
	const struct lookup_ops *ops;
	struct entry *bucket[BUCKETS];
	struct list list[WHERE_MAX];
	unsigned waiting;
};

static struct entry **
bucket_of(struct lookup_cache *c, const char *name)
{
	uint32_t h = 2166136261u;

	for (const char *p = name; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &c->bucket[h % BUCKETS];
}

static struct entry *
entry_find(struct lookup_cache *c, const char *name)
{
	struct entry *e = *bucket_of(c, name);

	while (e != NULL && strcmp(e->name, name) != 0)
		e = e->chain;
	return e;
}

static void
list_remove(struct lookup_cache *c, struct entry *e)
{
	struct list *l = &c->list[e->where];

	*e->prev = e->next;
	if (e->next != NULL)
		e->next->prev = e->prev;
	else
		l->last = e->prev;
	l->n--;
}

static void
list_append(struct lookup_cache *c, struct entry *e, enum where where)
{
	struct list *l = &c->list[where];

	e->where = where;
	e->next = NULL;
	e->prev = l->last;
	*l->last = e;
	l->last = &e->next;
	l->n++;
}

static void
entry_move(struct lookup_cache *c, struct entry *e, enum where where)
{
	list_remove(c, e);
	list_append(c, e, where);
}

static struct entry *
entry_new(struct lookup_cache *c, const char *name)
{
	struct entry *e = calloc(1, sizeof(*e) + strlen(name) + 1);
	struct entry **at = bucket_of(c, name);

	if (e == NULL)
		abort();
	strcpy(e->name, name);
	e->tail = &e->head;
	e->chain = *at;
	*at = e;
	list_append(c, e, ASKED);
	return e;
}

static void
entry_free(struct lookup_cache *c, struct entry *e)
{
	struct entry **at = bucket_of(c, e->name);

	assert(e->head == NULL);
	while (*at != e)
		at = &(*at)->chain;
	*at = e->chain;
	list_remove(c, e);
	if (e->value != NULL)
		c->ops->unref(e->value);
	free(e);
}

/* ---- the cache -------------------------------------------------------- */

struct lookup_cache *
lookup_cache_open(const struct lookup_ops *ops)
{
	struct lookup_cache *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	c->ops = ops;
	for (int i = 0; i < WHERE_MAX; i++)
		c->list[i].last = &c->list[i].first;
	return c;
}

void
lookup_cache_close(struct lookup_cache **at)
{
	struct entry *e;

	lookup_cache_forget(*at);
	/* What was asked for in advance. */
	while ((e = (*at)->list[ASKED].first) != NULL)
		entry_free(*at, e);
	free(*at);
	*at = NULL;
}

/* Of no use any more, neither to answer with nor to compare the next with. */
static bool
entry_is_over(const struct lookup_cache *c, const struct entry *e, uint64_t now)
{
	return now >= e->until_ns &&
	       (e->where == UNKNOWN ||
		(now >= e->stale_ns && c->ops->replaced == NULL));
}

void *
lookup_cache_find(struct lookup_cache *c, const char *name, uint64_t now_ns)
{
	struct entry *e = entry_find(c, name);

	if (e == NULL || e->where == ASKED)
		return NULL;
	if (entry_is_over(c, e, now_ns)) {
		entry_free(c, e);
		return NULL;
	}
	if (now_ns >= e->until_ns)
		return NULL;
	entry_move(c, e, e->where);
	return e->value;
}

static void
entry_wait(struct lookup_cache *c, struct entry *e, struct lookup_waiter *w)
{
	w->next = NULL;
	*e->tail = w;
	e->tail = &w->next;
	c->waiting++;
}

int
lookup_cache_wait(struct lookup_cache *c, const char *name,
		  struct lookup_waiter *w)
{
	struct entry *e = entry_find(c, name);
	bool first = e == NULL || e->where != ASKED;

	if (w != NULL && c->waiting == LOOKUPS_WAITING)
		return -1;
	if (e == NULL)
		e = entry_new(c, name);
	else if (first)
		entry_move(c, e, ASKED); /* lookup_cache_find() has said so */
	if (w != NULL)
		entry_wait(c, e, w);
	return first ? 1 : 0;
}

static struct lookup_waiter *
entry_waiters(struct lookup_cache *c, struct entry *e)
{
	struct lookup_waiter *all = e->head;

	e->head = NULL;
	e->tail = &e->head;
	for (struct lookup_waiter *w = all; w != NULL; w = w->next)
		c->waiting--;
	return all;
}

/* No answer: the old value is used, or waits to be compared with the next. */
static void
entry_fall_back(struct lookup_cache *c, struct entry *e, void **value,
		uint64_t now)
{
	if (e->value != NULL && now < e->stale_ns) {
		e->until_ns = now + LOOKUPS_RETRY_NS;
		if (e->until_ns > e->stale_ns)
			e->until_ns = e->stale_ns;
		*value = c->ops->ref(e->value);
	}
	if (e->value != NULL && (*value != NULL || c->ops->replaced != NULL))
		entry_move(c, e, KNOWN);
	else
		entry_free(c, e);
}

static void
entry_learn(struct lookup_cache *c, struct entry *e, void *value)
{
	bool nobody = c->ops->is_nobody(value);
	enum where where = nobody ? UNKNOWN : KNOWN;
	struct list *l = &c->list[where];

	if (e->value != NULL && c->ops->replaced != NULL)
		c->ops->replaced(e->value, value);
	if (e->value != NULL)
		c->ops->unref(e->value);
	e->value = c->ops->ref(value);
	entry_move(c, e, where);
	if (l->n > (nobody ? c->ops->unknown : c->ops->known))
		entry_free(c, l->first);
}

struct lookup_waiter *
lookup_cache_put(struct lookup_cache *c, const char *name, void **value,
		 uint64_t now_ns, uint64_t until_ns, uint64_t stale_ns)
{
	struct entry *e = entry_find(c, name);
	struct lookup_waiter *all;

	if (e == NULL || e->where != ASKED)
		return NULL;
	all = entry_waiters(c, e);
	if (*value == NULL) {
		entry_fall_back(c, e, value, now_ns);
		return all;
	}
	e->until_ns = until_ns;
	e->stale_ns = stale_ns > until_ns ? stale_ns : until_ns;
	entry_learn(c, e, *value);
	if ((e = entry_find(c, name)) != NULL && entry_is_over(c, e, now_ns))
		entry_free(c, e);
	return all;
}

bool
lookup_cache_doubt(struct lookup_cache *c, const char *name)
{
	struct entry *e = entry_find(c, name);

	if (e == NULL)
		return false;
	if (e->where == UNKNOWN) {
		entry_free(c, e);
		return false;
	}
	e->until_ns = e->stale_ns = 0;
	e->again = e->where == ASKED;
	return e->where == KNOWN && c->ops->is_held(e->value);
}

void
lookup_cache_doubt_all(struct lookup_cache *c)
{
	while (c->list[UNKNOWN].first != NULL)
		entry_free(c, c->list[UNKNOWN].first);
	for (struct entry *e = c->list[KNOWN].first; e != NULL; e = e->next)
		e->until_ns = 0;
	for (struct entry *e = c->list[ASKED].first; e != NULL; e = e->next)
		e->again = true;
}

bool
lookup_cache_again(struct lookup_cache *c, const char *name)
{
	struct entry *e = entry_find(c, name);
	bool again = e != NULL && e->where == ASKED && e->again;

	if (again)
		e->again = false;
	return again;
}

void
lookup_cache_forget(struct lookup_cache *c)
{
	while (c->list[KNOWN].first != NULL)
		entry_free(c, c->list[KNOWN].first);
	while (c->list[UNKNOWN].first != NULL)
		entry_free(c, c->list[UNKNOWN].first);
	for (struct entry *e = c->list[ASKED].first; e != NULL; e = e->next)
		e->stale_ns = 0;
}

const char *
lookup_cache_next(struct lookup_cache *c, const char *name)
{
	struct entry *e =
	    name == NULL ? c->list[ASKED].first : entry_find(c, name)->next;

	return e == NULL ? NULL : e->name;
}

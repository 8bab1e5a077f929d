#include "proxy/secret_cache.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/secret.h"

enum { BUCKETS = 4096, PASSWORD_MAX = 1023 };

/* ---- a secret --------------------------------------------------------- */

static char *
copy(const char *s)
{
	char *c = strdup(s);

	if (c == NULL)
		abort();
	return c;
}

static void
secret_fill(struct secret *s, const char *text)
{
	static const char scram[] = "SCRAM-SHA-256$";

	if (text == NULL || text[0] == '\0' || strlen(text) > PASSWORD_MAX)
		return;
	if (strncmp(text, scram, sizeof(scram) - 1) == 0) {
		if ((s->verifier = malloc(sizeof(*s->verifier))) == NULL)
			abort();
		if (scram_verifier_parse(s->verifier, text) == 0)
			return;
		/* A verifier of no use is not to become a password. */
		free(s->verifier);
		s->verifier = NULL;
		return;
	}
	s->user.auth = pg_md5_is_stored(text) ? AUTH_MD5 : AUTH_SCRAM;
	s->user.password = copy(text);
}

struct secret *
secret_new(const char *name, const char *text)
{
	struct secret *s = calloc(1, sizeof(*s));

	if (s == NULL)
		abort();
	atomic_init(&s->refs, 1);
	s->user.name = copy(name);
	s->user.auth = AUTH_SCRAM;
	secret_fill(s, text);
	return s;
}

struct secret *
secret_ref(struct secret *s)
{
	unsigned before =
	    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);

	assert(before > 0);
	(void)before;
	return s;
}

void
secret_unref(struct secret **at)
{
	struct secret *s = *at;

	*at = NULL;
	if (s == NULL ||
	    atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (s->user.password != NULL)
		OPENSSL_cleanse(s->user.password, strlen(s->user.password));
	if (s->verifier != NULL)
		OPENSSL_cleanse(s->verifier, sizeof(*s->verifier));
	free(s->user.password);
	free(s->user.name);
	free(s->verifier);
	free(s);
}

/* ---- entries ---------------------------------------------------------- */

/* Each entry is in one of these. */
enum where { ASKED, KNOWN, UNKNOWN, WHERE_MAX };

struct entry {
	struct entry *chain;        /* in its bucket */
	struct entry *next, **prev; /* in its list */
	enum where where;
	struct secret *secret; /* NULL while ASKED */
	uint64_t until_ns;
	struct secret_waiter *head, **tail;
	char name[];
};

struct list {
	struct entry *first, **last; /* used longest ago at the head */
	unsigned n;
};

struct secret_cache {
	struct entry *bucket[BUCKETS];
	struct list list[WHERE_MAX];
	unsigned waiting;
};

static struct entry **
bucket_of(struct secret_cache *c, const char *name)
{
	uint32_t h = 2166136261u;

	for (const char *p = name; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &c->bucket[h % BUCKETS];
}

static struct entry *
entry_find(struct secret_cache *c, const char *name)
{
	struct entry *e = *bucket_of(c, name);

	while (e != NULL && strcmp(e->name, name) != 0)
		e = e->chain;
	return e;
}

static void
list_remove(struct secret_cache *c, struct entry *e)
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
list_append(struct secret_cache *c, struct entry *e, enum where where)
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
entry_move(struct secret_cache *c, struct entry *e, enum where where)
{
	list_remove(c, e);
	list_append(c, e, where);
}

static struct entry *
entry_new(struct secret_cache *c, const char *name)
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
entry_free(struct secret_cache *c, struct entry *e)
{
	struct entry **at = bucket_of(c, e->name);

	assert(e->head == NULL);
	while (*at != e)
		at = &(*at)->chain;
	*at = e->chain;
	list_remove(c, e);
	secret_unref(&e->secret);
	free(e);
}

/* ---- the cache -------------------------------------------------------- */

struct secret_cache *
secret_cache_open(void)
{
	struct secret_cache *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	for (int i = 0; i < WHERE_MAX; i++)
		c->list[i].last = &c->list[i].first;
	return c;
}

void
secret_cache_close(struct secret_cache **at)
{
	secret_cache_forget(*at);
	assert((*at)->list[ASKED].n == 0);
	free(*at);
	*at = NULL;
}

struct secret *
secret_cache_find(struct secret_cache *c, const char *name, uint64_t now_ns)
{
	struct entry *e = entry_find(c, name);

	if (e == NULL || e->where == ASKED)
		return NULL;
	if (now_ns >= e->until_ns) {
		entry_free(c, e);
		return NULL;
	}
	entry_move(c, e, e->where);
	return e->secret;
}

int
secret_cache_wait(struct secret_cache *c, const char *name,
		  struct secret_waiter *w)
{
	struct entry *e = entry_find(c, name);
	bool first;

	if (c->waiting == SECRETS_WAITING)
		return -1;
	if (e == NULL)
		e = entry_new(c, name);
	assert(e->where == ASKED); /* secret_cache_find() has said so */
	first = e->head == NULL;
	w->next = NULL;
	*e->tail = w;
	e->tail = &w->next;
	c->waiting++;
	return first ? 1 : 0;
}

struct secret_waiter *
secret_cache_put(struct secret_cache *c, const char *name, struct secret *s,
		 uint64_t now_ns, uint64_t until_ns)
{
	struct entry *e = entry_find(c, name);
	struct secret_waiter *all;
	struct list *l;

	if (e == NULL || e->where != ASKED)
		return NULL;
	all = e->head;
	e->head = NULL;
	e->tail = &e->head;
	for (struct secret_waiter *w = all; w != NULL; w = w->next)
		c->waiting--;
	if (s == NULL || now_ns >= until_ns) {
		entry_free(c, e);
		return all;
	}
	e->secret = secret_ref(s);
	e->until_ns = until_ns;
	entry_move(c, e, secret_is_nobody(s) ? UNKNOWN : KNOWN);
	l = &c->list[e->where];
	if (l->n > (e->where == KNOWN ? SECRETS_KNOWN : SECRETS_UNKNOWN))
		entry_free(c, l->first);
	return all;
}

void
secret_cache_forget(struct secret_cache *c)
{
	while (c->list[KNOWN].first != NULL)
		entry_free(c, c->list[KNOWN].first);
	while (c->list[UNKNOWN].first != NULL)
		entry_free(c, c->list[UNKNOWN].first);
}

const char *
secret_cache_next(struct secret_cache *c, const char *name)
{
	struct entry *e =
	    name ? entry_find(c, name)->next : c->list[ASKED].first;

	return e ? e->name : NULL;
}

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "proxy/redis_census.h"
#include "proxy/redis_hub_post.h"

/* What the members here want of one identity. */
struct hub_ear {
	struct link link; /* in hubs.ears; first */
	struct hubs *hubs;
	struct hub_who *who;
	struct hub_member *members;
	size_t channels, waits;
	unsigned busy; /* being walked: not to be freed */
};

struct hub_channel {
	struct link link; /* in hubs.channels; first */
	struct hub_ear *ear;
	struct hub_claim *claims;
	struct redis_census_line *line; /* where they are counted */
	size_t waits;                   /* asks for it, not answered yet */
	enum resp_channel kind;
	size_t n;
	uint8_t name[];
};

/* One subscription of one member. */
struct hub_claim {
	struct link link; /* in hubs.claims, by both; first */
	struct hub_channel *channel;
	struct hub_member *member;
	struct hub_claim *next, **prev;     /* of the channel */
	struct hub_claim *m_next, **m_prev; /* of the member */
};

/* An ask under way, and what it holds here. */
struct hub_wait {
	struct hub_wait *next, **prev;
	struct hub_member *member; /* NULL: it has left */
	struct hub_ear *ear;
	enum hub_op op;
	enum resp_channel kind;
	size_t n;
	struct hub_channel *channel[];
};

/* ---- who -------------------------------------------------------------- */

struct hub_who *
hub_who_ref(struct hub_who *who)
{
	atomic_fetch_add(&who->refs, 1);
	return who;
}

static void
free_secret(char *s)
{
	if (s != NULL)
		OPENSSL_cleanse(s, strlen(s));
	free(s);
}

void
hub_who_unref(struct hub_who **at)
{
	struct hub_who *who = *at;

	*at = NULL;
	if (who == NULL || atomic_fetch_sub(&who->refs, 1) > 1)
		return;
	snapshot_unref(&who->snapshot);
	free(who->user);
	free(who->node);
	free_secret(who->password);
	free(who);
}

/* The same on every worker. */
static unsigned
home_of(const char *key, unsigned workers)
{
	uint32_t h = 2166136261u;

	for (const char *p = key; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return (h ^ h >> 16) % workers;
}

static struct hub_who *
who_make(const struct hubs *h, struct snapshot *snap,
	 const struct conf_redis *redis, const char *user, const char *password,
	 const char *node, unsigned port)
{
	const char *name = user ? user : "", *at = node ? node : "";
	size_t n = strlen(redis->name) + strlen(at) + strlen(name) + 16;
	struct hub_who *who = mem_zero(1, sizeof(*who) + n, "a subscriber");

	who->refs = 1;
	who->snapshot = snapshot_ref(snap);
	who->redis = redis;
	who->user = mem_copy(user);
	who->password = mem_copy(password);
	who->node = mem_copy(node);
	who->port = port;
	/* An upstream's name has no slash in it, nor has a node's. */
	snprintf(who->key, n, "%s/%s:%u/%s", redis->name, at, port, name);
	who->home = home_of(who->key, h->w->weir->workers);
	return who;
}

static bool
who_is_same(const struct hub_who *a, const struct hub_who *b)
{
	return a->snapshot == b->snapshot &&
	       (a->password == NULL) == (b->password == NULL) &&
	       (a->password == NULL || strcmp(a->password, b->password) == 0);
}

/* ---- asks ------------------------------------------------------------- */

enum { NAME_HEAD = 1 + sizeof(uint32_t) };

size_t
hub_name_size(struct slice name)
{
	return NAME_HEAD + name.n;
}

void
hub_put_name(struct hub_ask *a, enum resp_channel kind, struct slice name)
{
	uint8_t *p = a->names + a->at;
	uint32_t n = (uint32_t)name.n;

	assert(hub_name_size(name) <= a->size - a->at);
	p[0] = (uint8_t)kind;
	memcpy(p + 1, &n, sizeof(n));
	if (n > 0)
		memcpy(p + NAME_HEAD, name.p, n);
	a->at += hub_name_size(name);
	a->n++;
}

struct slice
hub_get_name(const struct hub_ask *a, size_t *at, enum resp_channel *kind)
{
	const uint8_t *p = a->names + *at;
	uint32_t n;

	assert(a->size - *at >= NAME_HEAD);
	memcpy(&n, p + 1, sizeof(n));
	assert(a->size - *at - NAME_HEAD >= n);
	*kind = (enum resp_channel)p[0];
	*at += NAME_HEAD + n;
	return slice_of(p + NAME_HEAD, n);
}

static struct hub_ask *
ask_make(struct hub_ear *e, enum hub_op op, size_t size)
{
	struct hub_ask *a = mem_zero(1, sizeof(*a) + size, "an ask");

	a->who = hub_who_ref(e->who);
	a->op = op;
	a->from = e->hubs->w->id;
	a->size = size;
	return a;
}

void
hub_ask_free(struct hub_ask *a)
{
	hub_who_unref(&a->who);
	free(a->error);
	free(a);
}

static void
ask_post(struct hub_ear *e, struct hub_ask *a)
{
	struct weir *weir = e->hubs->w->weir;

	a->at = 0;
	if (e->hubs->stopped) {
		hub_ask_free(a);
		return;
	}
	a->parcel.message.run = hub_asked;
	mailbox_post(weir->mailboxes[e->who->home], &a->parcel.message);
}

/* ---- ears and channels ------------------------------------------------ */

static uint64_t
ear_hash(const struct hubs *h, const char *key)
{
	return links_hash(&h->key, slice_str(key), 0);
}

static struct hub_ear *
ear_find(const struct hubs *h, const char *key)
{
	struct link *l = links_at(&h->ears, ear_hash(h, key));

	for (; l != NULL; l = l->next) {
		struct hub_ear *e = (struct hub_ear *)(void *)l;

		if (strcmp(e->who->key, key) == 0)
			return e;
	}
	return NULL;
}

static void
ear_free(struct hub_ear *e)
{
	links_remove(&e->hubs->ears, &e->link);
	hub_who_unref(&e->who);
	free(e);
}

/* After whatever may have left it without anybody. */
static void
ear_look(struct hub_ear *e)
{
	if (e->busy == 0 && e->members == NULL && e->channels == 0 &&
	    e->waits == 0)
		ear_free(e);
}

static uint64_t
channel_hash(const struct hub_ear *e, enum resp_channel kind, struct slice name)
{
	return links_hash(&e->hubs->key, name,
			  (uint64_t)(uintptr_t)e + (uint64_t)kind);
}

static struct hub_channel *
channel_find(struct hub_ear *e, enum resp_channel kind, struct slice name)
{
	uint64_t hash = channel_hash(e, kind, name);
	struct link *l = links_at(&e->hubs->channels, hash);

	for (; l != NULL; l = l->next) {
		struct hub_channel *c = (struct hub_channel *)(void *)l;

		if (l->hash == hash && c->ear == e && c->kind == kind &&
		    c->n == name.n &&
		    (name.n == 0 || memcmp(c->name, name.p, name.n) == 0))
			return c;
	}
	return NULL;
}

static struct hub_channel *
channel_make(struct hub_ear *e, enum resp_channel kind, struct slice name)
{
	struct hub_channel *c = channel_find(e, kind, name);

	if (c != NULL)
		return c;
	c = mem_zero(1, sizeof(*c) + name.n, "a channel");
	c->ear = e;
	c->kind = kind;
	c->n = name.n;
	if (name.n > 0)
		memcpy(c->name, name.p, name.n);
	c->line = redis_census_enter(e->hubs->w->weir->census, e->who->redis,
				     kind, name);
	links_add(&e->hubs->channels, &c->link, channel_hash(e, kind, name));
	e->channels++;
	return c;
}

struct slice
hub_name(const struct hub_channel *c)
{
	return slice_of(c->name, c->n);
}

static void
channel_free(struct hub_channel *c)
{
	redis_census_leave(c->ear->hubs->w->weir->census, &c->line);
	links_remove(&c->ear->hubs->channels, &c->link);
	c->ear->channels--;
	free(c);
}

static bool
channel_is_unwanted(const struct hub_channel *c)
{
	return c->claims == NULL && c->waits == 0;
}

/* Names nobody here wants any more, for one drop. */
struct drops {
	struct hub_channel **channel;
	size_t n, size;
	size_t bytes;
};

static void
drops_add(struct drops *d, struct hub_channel *c)
{
	if (!channel_is_unwanted(c))
		return;
	if (d->n == d->size) {
		d->size = d->size ? d->size * 2 : 8;
		d->channel =
		    mem_more(d->channel, d->size, sizeof(struct hub_channel *));
	}
	d->channel[d->n++] = c;
	d->bytes += hub_name_size(hub_name(c));
}

static void
drops_post(struct hub_ear *e, struct drops *d)
{
	struct hub_ask *a;

	if (d->n == 0)
		return;
	a = ask_make(e, HUB_DROP, d->bytes);
	for (size_t i = 0; i < d->n; i++) {
		hub_put_name(a, d->channel[i]->kind, hub_name(d->channel[i]));
		channel_free(d->channel[i]);
	}
	free(d->channel);
	ask_post(e, a);
}

/* ---- claims ----------------------------------------------------------- */

static uint64_t
claim_hash(const struct hub_member *m, const struct hub_channel *c)
{
	const struct hubs *h = m->ear->hubs;
	const uint64_t both[2] = { (uintptr_t)m, (uintptr_t)c };

	return links_hash(&h->key, slice_of(both, sizeof(both)), 1);
}

static struct hub_claim *
claim_find(const struct hub_member *m, const struct hub_channel *c)
{
	struct link *l = links_at(&m->ear->hubs->claims, claim_hash(m, c));

	for (; l != NULL; l = l->next) {
		struct hub_claim *k = (struct hub_claim *)(void *)l;

		if (k->member == m && k->channel == c)
			return k;
	}
	return NULL;
}

static void
claim_free(struct hub_claim *k)
{
	struct hub_member *m = k->member;

	m->n[k->channel->kind]--;
	m->bytes -= k->channel->n;
	*k->prev = k->next;
	if (k->next != NULL)
		k->next->prev = k->prev;
	*k->m_prev = k->m_next;
	if (k->m_next != NULL)
		k->m_next->m_prev = k->m_prev;
	redis_census_clients(m->ear->hubs->w->weir->census, k->channel->line,
			     -1);
	links_remove(&m->ear->hubs->claims, &k->link);
	stats_add(&m->ear->hubs->w->stats, STAT_REDIS_SUBSCRIPTIONS, -1);
	free(k);
}

bool
hub_add(struct hub_member *m, struct hub_channel *c)
{
	struct hub_claim *k;

	assert(m->ear == c->ear);
	if (claim_find(m, c) != NULL)
		return false;
	k = mem_zero(1, sizeof(*k), "a subscription");
	k->channel = c;
	k->member = m;
	k->next = c->claims;
	k->prev = &c->claims;
	if (k->next != NULL)
		k->next->prev = &k->next;
	c->claims = k;
	k->m_next = m->claims[c->kind];
	k->m_prev = &m->claims[c->kind];
	if (k->m_next != NULL)
		k->m_next->m_prev = &k->m_next;
	m->claims[c->kind] = k;
	m->n[c->kind]++;
	m->bytes += c->n;
	redis_census_clients(m->ear->hubs->w->weir->census, c->line, 1);
	links_add(&m->ear->hubs->claims, &k->link, claim_hash(m, c));
	stats_add(&m->ear->hubs->w->stats, STAT_REDIS_SUBSCRIPTIONS, 1);
	return true;
}

bool
hub_drop(struct hub_member *m, enum resp_channel kind, struct slice name)
{
	struct hub_channel *c =
	    m->ear ? channel_find(m->ear, kind, name) : NULL;
	struct hub_claim *k = c ? claim_find(m, c) : NULL;
	struct drops d = { 0 };

	if (k == NULL)
		return false;
	claim_free(k);
	drops_add(&d, c);
	drops_post(m->ear, &d);
	return true;
}

struct hub_channel *
hub_any(const struct hub_member *m, enum resp_channel kind)
{
	return m->claims[kind] != NULL ? m->claims[kind]->channel : NULL;
}

/* ---- members ---------------------------------------------------------- */

void
hub_join(struct hubs *h, struct hub_member *m, const struct hub_ops *ops,
	 struct snapshot *snap, const struct conf_redis *redis,
	 const char *user, const char *password, const char *node,
	 unsigned port)
{
	struct hub_who *who =
	    who_make(h, snap, redis, user, password, node, port);
	struct hub_ear *e = ear_find(h, who->key);

	assert(m->ear == NULL && !h->stopped);
	if (e == NULL) {
		e = mem_zero(1, sizeof(*e), "an ear");
		e->hubs = h;
		links_add(&h->ears, &e->link, ear_hash(h, who->key));
	}
	/* The latest to come knows the latest password. */
	if (e->who == NULL || !who_is_same(e->who, who)) {
		hub_who_unref(&e->who);
		e->who = hub_who_ref(who);
	}
	hub_who_unref(&who);
	m->ops = ops;
	m->ear = e;
	m->next = e->members;
	m->prev = &e->members;
	if (m->next != NULL)
		m->next->prev = &m->next;
	e->members = m;
}

void
hub_leave(struct hub_member *m)
{
	struct hub_ear *e = m->ear;
	struct drops d = { 0 };

	if (e == NULL)
		return;
	if (m->asked != NULL)
		m->asked->member = NULL;
	m->asked = NULL;
	for (int kind = 0; kind < RESP_CHANNELS; kind++) {
		while (m->claims[kind] != NULL) {
			struct hub_channel *c = m->claims[kind]->channel;

			claim_free(m->claims[kind]);
			drops_add(&d, c);
		}
	}
	drops_post(e, &d);
	*m->prev = m->next;
	if (m->next != NULL)
		m->next->prev = m->prev;
	m->ear = NULL;
	m->next = NULL;
	m->prev = NULL;
	ear_look(e);
}

static struct hub_wait *
wait_make(struct hub_member *m, enum hub_op op, size_t n)
{
	struct hub_ear *e = m->ear;
	struct hub_wait *t = mem_zero(
	    1, sizeof(*t) + n * sizeof(struct hub_channel *), "an ask");

	assert(m->asked == NULL);
	t->member = m;
	t->ear = e;
	t->op = op;
	t->next = e->hubs->waits;
	t->prev = &e->hubs->waits;
	if (t->next != NULL)
		t->next->prev = &t->next;
	e->hubs->waits = t;
	e->waits++;
	m->asked = t;
	return t;
}

void
hub_subscribe(struct hub_member *m, enum resp_channel kind,
	      const struct slice *name, size_t n)
{
	struct hub_wait *t = wait_make(m, HUB_SUBSCRIBE, n);
	struct hub_ask *a;
	size_t size = 0;

	for (size_t i = 0; i < n; i++)
		size += hub_name_size(name[i]);
	a = ask_make(m->ear, HUB_SUBSCRIBE, size);
	a->wait = t;
	a->channel = t->kind = kind;
	for (size_t i = 0; i < n; i++) {
		hub_put_name(a, kind, name[i]);
		t->channel[i] = channel_make(m->ear, kind, name[i]);
		t->channel[i]->waits++;
	}
	t->n = n;
	ask_post(m->ear, a);
}

void
hub_fence(struct hub_member *m)
{
	struct hub_ask *a = ask_make(m->ear, HUB_FENCE, 0);

	a->wait = wait_make(m, HUB_FENCE, 0);
	ask_post(m->ear, a);
}

/* ---- what a hub has sent ---------------------------------------------- */

static void
wait_tell(struct hub_wait *t, const struct hub_ask *a)
{
	struct hub_member *m = t->member;

	if (m == NULL)
		return;
	m->asked = NULL;
	if (a->error != NULL || a->down != 0)
		m->ops->refused(m, a->error, a->down);
	else if (t->op == HUB_FENCE)
		m->ops->fenced(m);
	else
		m->ops->subscribed(m, t->kind, t->channel, t->n);
}

static void
wait_free(struct hub_wait *t)
{
	*t->prev = t->next;
	if (t->next != NULL)
		t->next->prev = t->prev;
	t->ear->waits--;
	free(t);
}

bool
hub_ask_answered(struct hubs *h, struct hub_parcel *p)
{
	struct hub_ask *a = (struct hub_ask *)(void *)p;
	struct hub_wait *t = a->wait;
	struct hub_ear *e = h->stopped ? NULL : t->ear;
	struct drops d = { 0 };

	if (e != NULL) {
		e->busy++;
		wait_tell(t, a);
		for (size_t i = 0; i < t->n; i++) {
			/* A name may have been given twice. */
			if (--t->channel[i]->waits == 0)
				drops_add(&d, t->channel[i]);
		}
		drops_post(e, &d);
		wait_free(t);
		e->busy--;
		ear_look(e);
	}
	hub_ask_free(a);
	return true;
}

static unsigned
deliver(struct hub_ear *e, const struct resp_push *push, const uint8_t *p,
	size_t n)
{
	struct hub_channel *c = channel_find(e, push->channel, push->name);
	unsigned count = 0;

	/* Each may leave over it, and the channel with the last of them. */
	for (struct hub_claim *next, *k = c ? c->claims : NULL; k; k = next) {
		next = k->next;
		if (push->kind == RESP_PUSH_MESSAGE)
			k->member->ops->message(k->member, p, n);
		else
			k->member->ops->lost(k->member, WHY_SLOT_MOVED);
		count++;
	}
	return count;
}

/* The last one sends it home, where its bytes are counted. */
static void
news_unref(struct hubs *h, struct hub_news *news)
{
	if (atomic_fetch_sub(&news->refs, 1) > 1)
		return;
	news->back.run = hub_news_returned;
	if (h->stopped)
		hub_news_free(news);
	else
		mailbox_post(h->w->weir->mailboxes[news->who->home],
			     &news->back);
}

void
hub_news_free(struct hub_news *news)
{
	hub_who_unref(&news->who);
	free(news->bytes);
	free(news);
}

bool
hub_news_open(struct hubs *h, struct hub_parcel *parcel)
{
	struct hub_envelope *to = (struct hub_envelope *)(void *)parcel;
	struct hub_news *news = to->news;
	struct hub_ear *e = h->stopped ? NULL : ear_find(h, news->who->key);
	struct resp_push push;

	if (e != NULL)
		e->busy++;
	while (e != NULL && to->at < news->n &&
	       h->delivered < HUB_DELIVER_MAX) {
		const uint8_t *p = news->bytes + to->at;
		ssize_t n =
		    resp_push_next(&push, p, news->n - to->at, SIZE_MAX);

		assert(n > 0); /* the hub has read it */
		h->delivered += deliver(e, &push, p, (size_t)n);
		to->at += (size_t)n;
	}
	if (e != NULL) {
		e->busy--;
		ear_look(e);
		if (to->at < news->n)
			return false;
	}
	news_unref(h, news);
	return true;
}

bool
hub_end_open(struct hubs *h, struct hub_parcel *parcel)
{
	struct hub_end *end = (struct hub_end *)(void *)parcel;
	struct hub_ear *e = h->stopped ? NULL : ear_find(h, end->who->key);

	if (e != NULL) {
		e->busy++;
		for (struct hub_member *next, *m = e->members; m; m = next) {
			next = m->next;
			if (hub_count(m) > 0)
				m->ops->lost(m, end->why);
		}
		e->busy--;
		ear_look(e);
	}
	hub_who_unref(&end->who);
	free(end);
	return true;
}

/* ---- a worker's inbox ------------------------------------------------- */

static bool
ears_may_go_on(struct hubs *h)
{
	uint64_t now = h->w->streams.now_ns;

	if (h->turn_ns != now)
		h->delivered = 0;
	h->turn_ns = now;
	return h->stopped || h->delivered < HUB_DELIVER_MAX;
}

void
ears_run(struct hubs *h)
{
	struct message *m;

	while ((m = h->inbox) != NULL && ears_may_go_on(h)) {
		struct hub_parcel *p = (struct hub_parcel *)(void *)m;
		struct message *next = m->next;

		if (!p->open(h, p))
			break;
		if ((h->inbox = next) == NULL)
			h->inbox_tail = &h->inbox;
	}
	if (h->inbox != NULL)
		hubs_again(h);
}

void
hub_parcel_arrives(struct message *m, void *owner)
{
	struct hubs *h = ((struct worker *)owner)->hubs;

	m->next = NULL;
	*h->inbox_tail = m;
	h->inbox_tail = &m->next;
	if (!h->again_posted)
		ears_run(h);
}

/* ---- a worker's share ------------------------------------------------- */

static void
hubs_go_on(struct message *m, void *owner)
{
	struct hubs *h = ((struct worker *)owner)->hubs;

	(void)m;
	h->again_posted = false;
	ears_run(h);
	hubs_bury(h);
}

void
hubs_again(struct hubs *h)
{
	if (h->again_posted || h->stopped)
		return;
	h->again_posted = true;
	h->again.run = hubs_go_on;
	mailbox_post(&h->w->mailbox, &h->again);
}

struct hubs *
hubs_open(struct worker *w)
{
	struct hubs *h = mem_zero(1, sizeof(*h), "subscriptions");

	h->w = w;
	h->inbox_tail = &h->inbox;
	if (RAND_bytes((uint8_t *)&h->key, sizeof(h->key)) == 1)
		return h;
	free(h);
	return NULL;
}

void
hubs_stop(struct hubs *h)
{
	if (h->stopped)
		return;
	h->stopped = true;
	ears_run(h);
	hubs_stop_all(h);
}

/* Members have left; what waits for answers waits in vain. */
void
ears_free(struct hubs *h)
{
	struct drops d = { 0 };

	while (h->waits != NULL) {
		struct hub_wait *t = h->waits;
		struct hub_ear *e = t->ear;

		assert(t->member == NULL);
		for (size_t i = 0; i < t->n; i++)
			if (--t->channel[i]->waits == 0)
				drops_add(&d, t->channel[i]);
		for (size_t i = 0; i < d.n; i++)
			channel_free(d.channel[i]);
		d.n = 0;
		wait_free(t);
		ear_look(e);
	}
	free(d.channel);
	assert(h->ears.n == 0 && h->channels.n == 0 && h->claims.n == 0);
}

void
hubs_close(struct hubs **at)
{
	struct hubs *h = *at;

	*at = NULL;
	if (h == NULL)
		return;
	assert(h->stopped && h->inbox == NULL);
	ears_free(h);
	free(h);
}

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_nodes.h"
#include "pool/redis_sub.h"
#include "protocol/resp.h"
#include "proxy/redis_census.h"
#include "proxy/redis_hub_post.h"

enum {
	NEWS_FULL = 32 << 10, /* bytes of news that are sent off at once */
	ANSWER_S = 30,        /* upstream owes an answer, and says nothing */
	DOUBT_S = 15          /* a slot has moved: who is a master now? */
};

/* One who is owed an answer by upstream. */
struct due {
	struct hub_ask *ask; /* NULL: nobody */
	enum hub_op op;      /* DROP: an UNSUBSCRIBE */
	enum resp_channel channel;
	/* Of a DROP: until it is done our connection still counts. */
	struct redis_census_line *line;
	char *name; /* of a DROP that a PING follows, which is what ends it */
	size_t name_n;
};

/* The connection of one identity. */
struct hub {
	struct link link; /* in hubs.hubs; first */
	struct hubs *hubs;
	struct hub_who *who;
	struct hub *gone_next;
	bool gone; /* on that list */
	struct pool *pool;
	struct redis_nodes *nodes; /* of a cluster; or NULL */
	unsigned turn, tries;      /* which of them is next; tried in vain */
	unsigned doubts;           /* for so many seconds */
	bool listed;               /* it is one of them that we are at */
	struct lessee lessee;
	bool connected;
	bool paused;     /* the ears are behind */
	struct links to; /* struct interest */
	struct hub_ask *queue, **tail;
	struct due *due; /* a ring */
	size_t due_head, due_n, due_size;
	struct buf news;
	uint64_t news_for;  /* a bit a worker */
	uint64_t ears;      /* all that have asked since we are connected */
	size_t behind;      /* bytes of news that were not delivered yet */
	uint64_t heard_ns;  /* when upstream last spoke, or was asked first */
	uint64_t unused_ns; /* since when; 0: in use */
	struct wheel_entry timer;
};

/* Who wants a channel. */
struct interest {
	struct link link;               /* first */
	uint64_t ears;                  /* a bit a worker; never 0 */
	struct redis_census_line *line; /* where our connection is counted */
	enum resp_channel kind;
	size_t n;
	uint8_t name[];
};

static uint64_t
now_ns(const struct hub *b)
{
	return b->hubs->w->streams.now_ns;
}

static struct server *
server_of(const struct hub *b)
{
	return b->lessee.server;
}

static struct redis_census *
census_of(const struct hub *b)
{
	return b->hubs->w->weir->census;
}

/* ---- interests -------------------------------------------------------- */

static uint64_t
interest_hash(const struct hub *b, enum resp_channel kind, struct slice name)
{
	return links_hash(&b->hubs->key, name, (uint64_t)kind);
}

static struct interest *
interest_find(const struct hub *b, enum resp_channel kind, struct slice name)
{
	uint64_t hash = interest_hash(b, kind, name);
	struct link *l = links_at(&b->to, hash);

	for (; l != NULL; l = l->next) {
		struct interest *i = (struct interest *)(void *)l;

		if (l->hash == hash && i->kind == kind && i->n == name.n &&
		    (name.n == 0 || memcmp(i->name, name.p, name.n) == 0))
			return i;
	}
	return NULL;
}

static void
interest_add(struct hub *b, enum resp_channel kind, struct slice name,
	     unsigned ear)
{
	struct interest *i = interest_find(b, kind, name);

	if (i == NULL) {
		i = mem_zero(1, sizeof(*i) + name.n, "a channel");
		i->kind = kind;
		i->n = name.n;
		if (name.n > 0)
			memcpy(i->name, name.p, name.n);
		links_add(&b->to, &i->link, interest_hash(b, kind, name));
		i->line =
		    redis_census_enter(census_of(b), b->who->redis, kind, name);
		redis_census_connections(census_of(b), i->line, 1);
		stats_add(&b->hubs->w->stats, STAT_REDIS_CHANNELS, 1);
	}
	i->ears |= 1ull << ear;
}

/* Our connection is subscribed no more, and does not count. */
static void
uncount(struct hub *b, struct redis_census_line *line)
{
	if (line == NULL)
		return;
	redis_census_connections(census_of(b), line, -1);
	redis_census_leave(census_of(b), &line);
}

static void
interest_free(struct hub *b, struct interest *i)
{
	links_remove(&b->to, &i->link);
	uncount(b, i->line);
	stats_add(&b->hubs->w->stats, STAT_REDIS_CHANNELS, -1);
	free(i);
}

/* Where it still counts, now that nobody is left; NULL: somebody is. */
static struct redis_census_line *
interest_drop(struct hub *b, enum resp_channel kind, struct slice name,
	      unsigned ear)
{
	struct interest *i = interest_find(b, kind, name);
	struct redis_census_line *line;

	if (i == NULL)
		return NULL;
	i->ears &= ~(1ull << ear);
	if (i->ears != 0)
		return NULL;
	line = i->line;
	i->line = NULL;
	interest_free(b, i);
	return line;
}

static void
interests_free(struct hub *b)
{
	for (size_t i = 0; b->to.n > 0 && i < b->to.size;)
		if (b->to.bucket[i] != NULL)
			interest_free(
			    b, (struct interest *)(void *)b->to.bucket[i]);
		else
			i++;
	/* It shrinks meanwhile, so some may have moved behind us. */
	if (b->to.n > 0)
		interests_free(b);
}

/* ---- what upstream owes ----------------------------------------------- */

static void
due_push(struct hub *b, struct due d)
{
	if (b->due_n == b->due_size) {
		size_t size = b->due_size ? b->due_size * 2 : 16;
		struct due *ring = mem_zero(size, sizeof(*ring), "a ring");

		for (size_t i = 0; i < b->due_n; i++)
			ring[i] = b->due[(b->due_head + i) % b->due_size];
		free(b->due);
		b->due = ring;
		b->due_head = 0;
		b->due_size = size;
	}
	if (b->due_n == 0)
		b->heard_ns = now_ns(b);
	b->due[(b->due_head + b->due_n++) % b->due_size] = d;
}

static struct due
due_pop(struct hub *b)
{
	struct due d = b->due[b->due_head];

	assert(b->due_n > 0);
	uncount(b, d.line);
	d.line = NULL;
	free(d.name);
	d.name = NULL;
	b->due_head = (b->due_head + 1) % b->due_size;
	b->due_n--;
	return d;
}

/* ---- answers and news ------------------------------------------------- */

static void
post(struct hub *b, unsigned worker, struct hub_parcel *p,
     bool (*open)(struct hubs *, struct hub_parcel *))
{
	p->open = open;
	p->message.run = hub_parcel_arrives;
	mailbox_post(b->hubs->w->weir->mailboxes[worker], &p->message);
}

static void
hub_answer(struct hub *b, struct hub_ask *a, const char *error, size_t n,
	   enum why down)
{
	if (a->op == HUB_DROP || b->hubs->stopped) {
		hub_ask_free(a);
		return;
	}
	if (error != NULL)
		a->error = mem_text(error, n);
	a->down = down;
	post(b, a->from, &a->parcel, hub_ask_answered);
}

/* The bytes so far, to all who want some of them. */
static void
hub_post_news(struct hub *b)
{
	unsigned workers = b->hubs->w->weir->workers;
	uint64_t ears = b->news_for;
	struct hub_news *news;
	const uint8_t *p;
	size_t n;

	p = buf_peek(&b->news, &n);
	if (n == 0)
		return;
	news =
	    mem_zero(1, sizeof(*news) + workers * sizeof(news->to[0]), "news");
	news->bytes = mem_or_abort(malloc(n), n, "news");
	memcpy(news->bytes, p, n);
	news->n = n;
	news->who = hub_who_ref(b->who);
	buf_consume(&b->news, n);
	b->news_for = 0;
	b->behind += n;
	atomic_store(&news->refs, (unsigned)__builtin_popcountll(ears));
	for (unsigned i = 0; i < workers; i++) {
		if (!(ears >> i & 1))
			continue;
		news->to[i].news = news;
		post(b, i, &news->to[i].parcel, hub_news_open);
	}
}

static void
hub_add_news(struct hub *b, uint64_t ears, const uint8_t *p, size_t n)
{
	if (buf_put(&b->news, p, n) != 0)
		abort(); /* NEWS_FULL and one message are below its limit */
	b->news_for |= ears;
	if (buf_len(&b->news) >= NEWS_FULL)
		hub_post_news(b);
}

/* ---- what upstream says ----------------------------------------------- */

/* Does it owe, first of all, the end of a subscription on a cluster's node? */
static bool
owes_leave(const struct hub *b)
{
	return b->due_n > 0 && b->due[b->due_head].name != NULL;
}

/* Has it been asked to end this one? */
static bool
is_leaving(const struct hub *b, size_t from, size_t most, struct slice name)
{
	for (size_t i = from; i < b->due_n && i < most; i++) {
		const struct due *d = &b->due[(b->due_head + i) % b->due_size];

		if (d->name != NULL && d->name_n == name.n &&
		    memcmp(d->name, name.p, name.n) == 0)
			return true;
	}
	return false;
}

/*
 * A node of a cluster has ended a subscription to a shard channel: it was asked
 * to, or the slot has moved, and what it says to an ask comes besides.
 */
static bool
hub_hears_end(struct hub *b, const struct resp_push *push, const uint8_t *p,
	      size_t n)
{
	struct interest *i;

	if (push->name.p == NULL || is_leaving(b, 0, 1, push->name))
		return push->name.p != NULL;
	if ((i = interest_find(b, RESP_SHARD, push->name)) == NULL)
		return is_leaving(b, 1, SIZE_MAX, push->name);
	hub_add_news(b, i->ears, p, n);
	interest_free(b, i);
	b->doubts = DOUBT_S;
	return true;
}

/* Of SUNSUBSCRIBE, where the slot is not any more; the PONG is still to come. */
static bool
is_no_slot(struct slice text)
{
	static const char moved[] = "MOVED ", down[] = "CLUSTERDOWN ";

	return (text.n >= sizeof(moved) - 1 &&
		memcmp(text.p, moved, sizeof(moved) - 1) == 0) ||
	       (text.n >= sizeof(down) - 1 &&
		memcmp(text.p, down, sizeof(down) - 1) == 0);
}

/* The next name of the ask at the head is confirmed. */
static bool
hub_confirm(struct hub *b, const struct resp_push *push)
{
	struct due *d = &b->due[b->due_head];
	enum resp_channel kind;
	struct slice name;
	struct hub_ask *a;

	if (b->due_n == 0 || d->op != HUB_SUBSCRIBE)
		return false;
	a = d->ask;
	name = hub_get_name(a, &a->at, &kind);
	if (kind != push->channel || name.n != push->name.n ||
	    (name.n > 0 && memcmp(name.p, push->name.p, name.n) != 0))
		return false;
	/* It may have been ended in between. */
	if (kind == RESP_SHARD)
		interest_add(b, kind, name, a->from);
	if (++a->confirmed < a->n)
		return true;
	due_pop(b);
	hub_post_news(b); /* it was said before */
	hub_answer(b, a, NULL, 0, 0);
	return true;
}

/* Refused whole, or not at all. */
static bool
hub_refuse(struct hub *b, struct slice text)
{
	struct due d;

	if (b->due_n == 0)
		return false;
	if (owes_leave(b) && is_no_slot(text))
		return true;
	d = b->due[b->due_head];
	if (d.op == HUB_SUBSCRIBE && d.ask->confirmed > 0)
		return false;
	due_pop(b);
	if (d.ask == NULL)
		return true;
	hub_post_news(b);
	if (d.op == HUB_FENCE) /* a user that may not PING is answered, too */
		hub_answer(b, d.ask, NULL, 0, 0);
	else
		hub_answer(b, d.ask, (const char *)text.p, text.n, 0);
	return true;
}

static bool
hub_settle(struct hub *b, enum hub_op op, enum resp_channel channel)
{
	struct due *d = &b->due[b->due_head];

	if (b->due_n == 0 || d->op != op || d->channel != channel)
		return false;
	if (d->ask != NULL) {
		hub_post_news(b);
		hub_answer(b, d->ask, NULL, 0, 0);
	}
	due_pop(b);
	return true;
}

/* False: that is not what it was to say. */
static bool
hub_take(struct hub *b, const struct resp_push *push, const uint8_t *p,
	 size_t n)
{
	struct interest *i;

	switch (push->kind) {
	case RESP_PUSH_MESSAGE:
		i = interest_find(b, push->channel, push->name);
		if (i != NULL)
			hub_add_news(b, i->ears, p, n);
		return true;
	case RESP_PUSH_SUBSCRIBED:
		return hub_confirm(b, push);
	case RESP_PUSH_UNSUBSCRIBED:
		if (b->who->node != NULL && push->channel == RESP_SHARD)
			return hub_hears_end(b, push, p, n);
		return hub_settle(b, HUB_DROP, push->channel);
	case RESP_PUSH_PONG:
		if (owes_leave(b)) {
			due_pop(b);
			return true;
		}
		return hub_settle(b, HUB_FENCE, RESP_CHANNEL);
	case RESP_PUSH_ERROR:
		return hub_refuse(b, push->text);
	}
	return false;
}

/* ---- what it is asked ------------------------------------------------- */

static void
hub_put(struct hub *b, const struct slice *arg, size_t argc)
{
	if (resp_put_request(stream_out(&server_of(b)->stream), arg, argc) != 0)
		abort(); /* REDIS_SUB_OUT_FULL and an ask are below its limit */
}

static void
hub_ping(struct hub *b, struct hub_ask *a)
{
	const struct slice ping = slice_str("PING");

	hub_put(b, &ping, 1);
	due_push(b, (struct due){ .ask = a, .op = HUB_FENCE });
}

static void
hub_send_subscribe(struct hub *b, struct hub_ask *a)
{
	struct slice *arg = mem_zero(a->n + 1, sizeof(*arg), "a request");
	enum resp_channel kind;
	size_t at = 0;

	arg[0] = slice_str(resp_subscribe_word[a->channel]);
	for (size_t i = 0; i < a->n; i++) {
		arg[i + 1] = hub_get_name(a, &at, &kind);
		interest_add(b, kind, arg[i + 1], a->from);
	}
	b->ears |= 1ull << a->from;
	hub_put(b, arg, a->n + 1);
	free(arg);
	due_push(b, (struct due){
			.ask = a, .op = HUB_SUBSCRIBE, .channel = a->channel });
}

static const char *const unsubscribe_word[RESP_CHANNELS] = {
	[RESP_CHANNEL] = "unsubscribe",
	[RESP_PATTERN] = "punsubscribe",
	[RESP_SHARD] = "sunsubscribe",
};

static void
hub_owes_drop(struct hub *b, enum resp_channel kind, struct slice name,
	      struct redis_census_line *line)
{
	const struct slice ping = slice_str("PING");
	struct due d = { .op = HUB_DROP, .channel = kind, .line = line };

	if (b->who->node != NULL && kind == RESP_SHARD) {
		d.name = mem_text((const char *)name.p, name.n);
		d.name_n = name.n;
		hub_put(b, &ping, 1);
	}
	due_push(b, d);
}

/* One answer each, though nobody reads it. */
static void
hub_send_drop(struct hub *b, struct hub_ask *a)
{
	struct redis_census_line *line;
	enum resp_channel kind;
	struct slice arg[2];
	size_t at = 0;

	for (size_t i = 0; i < a->n; i++) {
		arg[1] = hub_get_name(a, &at, &kind);
		line = interest_drop(b, kind, arg[1], a->from);
		if (line == NULL)
			continue;
		arg[0] = slice_str(unsubscribe_word[kind]);
		hub_put(b, arg, 2);
		hub_owes_drop(b, kind, arg[1], line);
	}
	hub_ask_free(a);
}

static void
hub_send(struct hub *b, struct hub_ask *a)
{
	switch (a->op) {
	case HUB_SUBSCRIBE:
		hub_send_subscribe(b, a);
		break;
	case HUB_FENCE:
		hub_ping(b, a);
		break;
	case HUB_DROP:
		hub_send_drop(b, a);
		break;
	}
}

static struct hub_ask *
hub_next(struct hub *b)
{
	struct hub_ask *a = b->queue;

	if ((b->queue = a->next) == NULL)
		b->tail = &b->queue;
	return a;
}

/* None of those who wait for a connection gets one. */
static void
hub_fail(struct hub *b, enum why w)
{
	while (b->queue != NULL)
		hub_answer(b, hub_next(b), NULL, 0, w);
}

static void hub_go(struct hub *);

/* So many masters are known, any of which would do. */
static unsigned
hub_others(const struct hub *b)
{
	unsigned n = 0;

	if (b->nodes == NULL || b->who->node != NULL)
		return 0;
	for (unsigned i = 0; i < b->nodes->n; i++)
		n += b->nodes->node[i]->member;
	return n;
}

/* The one whose turn it is; NULL: that of those of the url. */
static const struct redis_node *
hub_other(const struct hub *b)
{
	unsigned k = b->turn % (1 + hub_others(b));

	for (unsigned i = 0; k > 0; i++)
		if (b->nodes->node[i]->member && --k == 0)
			return b->nodes->node[i];
	return NULL;
}

static struct pool *
hub_pool(struct hub *b)
{
	const struct hub_who *who = b->who;
	const struct redis_node *other = hub_other(b);

	return pool_find_redis_sub(
	    &b->hubs->w->pools, who->snapshot, who->redis, who->user,
	    who->password, other ? other->name : who->node,
	    other ? other->port : who->port, who->node != NULL);
}

/* Its pool opens the connection, once there is room and the host is up. */
static void
hub_connect(struct hub *b)
{
	struct pool *p;

	if (b->lessee.waiting != NULL)
		return;
	p = hub_pool(b);
	if (p == NULL) {
		hub_fail(b, WHY_ROOM);
		return;
	}
	if (p != b->pool) {
		pool_leave(&b->pool);
		b->pool = p;
		pool_join(p);
	}
	if (pool_want(p, &b->lessee))
		b->lessee.ops->granted(&b->lessee, b->lessee.server);
}

static bool
hub_is_full(const struct hub *b)
{
	return b->due_n >= HUB_LEDGER_MAX ||
	       buf_len(&server_of(b)->stream.out) > REDIS_SUB_OUT_FULL;
}

/* Nothing is there to be dropped or to be waited for. */
static void
hub_go_without(struct hub *b)
{
	while (b->queue != NULL && b->queue->op != HUB_SUBSCRIBE)
		hub_answer(b, hub_next(b), NULL, 0, 0);
	if (b->queue != NULL)
		hub_connect(b);
}

/* Sends what may be sent. */
static void
hub_go(struct hub *b)
{
	if (!b->connected) {
		hub_go_without(b);
		return;
	}
	while (b->queue != NULL && !hub_is_full(b))
		hub_send(b, hub_next(b));
}

/* ---- its connection --------------------------------------------------- */

static struct hub *
hub_of(struct lessee *l)
{
	return (struct hub *)(void *)((char *)l - offsetof(struct hub, lessee));
}

static void
hub_granted(struct lessee *l, struct server *v)
{
	struct hub *b = hub_of(l);

	assert(l->server == v && !b->connected && b->to.n == 0);
	assert(b->due_n == 0);
	b->connected = true;
	b->paused = false;
	b->tries = 0;
	b->listed = false;
	b->ears = 0;
	b->heard_ns = now_ns(b);
	if (b->nodes != NULL)
		redis_nodes_doubt(b->nodes); /* who else is there, then? */
	hub_go(b);
}

static void
hub_hears(struct lessee *l, const uint8_t *p, size_t n)
{
	struct hub *b = hub_of(l);
	struct resp_push push;

	b->heard_ns = now_ns(b);
	while (n > 0) {
		ssize_t used = resp_push_next(&push, p, n, SIZE_MAX);

		assert(used > 0); /* the server has framed it */
		if (!hub_take(b, &push, p, (size_t)used)) {
			stats_add(&b->hubs->w->stats, STAT_SERVER_DOUBTED, 1);
			server_close(server_of(b), WHY_UPSTREAM_SENSE, NULL,
				     "an answer to nothing");
			return;
		}
		p += used;
		n -= (size_t)used;
	}
}

/* At the end of what was received, and when there is room to send. */
static void
hub_room(struct lessee *l)
{
	struct hub *b = hub_of(l);

	hub_post_news(b);
	if (!b->paused && b->behind > HUB_BEHIND_MAX) {
		b->paused = true;
		stream_pause(&server_of(b)->stream);
	}
	hub_go(b);
}

static void
hub_tell_end(struct hub *b, enum why w)
{
	for (unsigned i = 0; i < b->hubs->w->weir->workers; i++) {
		struct hub_end *end;

		if (!(b->ears >> i & 1))
			continue;
		end = mem_zero(1, sizeof(*end), "an end");
		end->who = hub_who_ref(b->who);
		end->why = w;
		post(b, i, &end->parcel, hub_end_open);
	}
}

/* In vain: is there another node to try, before who waits is told? */
static bool
hub_tries_another(struct hub *b, enum why w)
{
	bool more = b->tries++ < hub_others(b) && w != WHY_SHUTDOWN &&
		    !b->hubs->stopped && !b->hubs->w->pools.closing;

	if (!more)
		b->tries = 0;
	return more;
}

/*
 * The connection, or the hope for one.  Who had sent something hears that it
 * is lost; who comes after that waits for the next one.
 */
static void
hub_lost(struct lessee *l, enum why w, const char *sqlstate, const char *text)
{
	struct hub *b = hub_of(l);

	(void)sqlstate;
	(void)text;
	b->turn++;
	if (b->nodes != NULL && !b->hubs->stopped)
		redis_nodes_doubt(b->nodes);
	if (!b->connected) {
		if (hub_tries_another(b, w))
			hub_connect(b);
		else
			hub_fail(b, w);
		return;
	}
	b->connected = false;
	if (!b->hubs->stopped) {
		hub_post_news(b);
		hub_tell_end(b, w);
	}
	interests_free(b);
	while (b->due_n > 0) {
		struct due d = due_pop(b);

		if (d.ask != NULL)
			hub_answer(b, d.ask, NULL, 0, w);
	}
	if (!b->hubs->stopped && !b->hubs->w->pools.closing)
		hub_go(b);
}

static void
hub_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	(void)l;
	(void)kind;
	(void)arg;
	(void)done;
	assert(!"a hub has no ledger");
}

static void
hub_rest(struct lessee *l)
{
	(void)l;
	assert(!"a hub never rests");
}

static const struct lessee_ops hub_lessee_ops = {
	.granted = hub_granted,
	.reply = hub_hears,
	.settled = hub_settled,
	.rest = hub_rest,
	.lost = hub_lost,
	.room = hub_room,
};

/* ---- time ------------------------------------------------------------- */

static bool
hub_is_unused(const struct hub *b)
{
	return b->queue == NULL && b->due_n == 0 && b->to.n == 0 &&
	       b->behind == 0;
}

/* Where slots have moved, a replica may have taken over: the node takes
 * subscriptions as its replica then, but need not hear of all that is published. */
static bool
is_master(struct hub *b)
{
	const struct redis_place at = { .name = slice_str(b->who->node),
					.port = b->who->port };

	b->doubts--;
	redis_nodes_doubt(b->nodes);
	return !b->nodes->known ||
	       redis_nodes_called(b->nodes, &at) != REDIS_NODES_NOBODY;
}

/*
 * Any node tells of what is published at any other; but who was thrown out of
 * the cluster, and goes on by himself, is as silent as if there were nothing.
 * One that was never listed may be called otherwise there than where we are.
 */
static bool
is_thrown_out(struct hub *b)
{
	char name[STREAM_ADDRESS_MAX];
	struct redis_place at;

	if (b->nodes == NULL || b->who->node != NULL || !b->nodes->known ||
	    !stream_address(&server_of(b)->stream, true, name, &at.port))
		return false;
	at.name = slice_str(name);
	if (!redis_nodes_know(b->nodes, &at))
		return b->listed;
	b->listed = true;
	return false;
}

/* Upstream is silent, and should not be; or it has nothing to say. */
static void
hub_watch(struct hub *b)
{
	const struct conf_redis *up = b->pool->redis;
	uint64_t silent = now_ns(b) - b->heard_ns;

	if (server_is_unwanted(server_of(b)))
		server_dismiss(server_of(b));
	else if (b->doubts > 0 && !is_master(b))
		server_close(server_of(b), WHY_WRONG_ROLE, NULL,
			     "no master of the cluster any more");
	else if (is_thrown_out(b))
		server_close(server_of(b), WHY_WRONG_ROLE, NULL,
			     "no node of the cluster any more");
	else if (b->due_n > 0 && !b->paused &&
		 silent > ANSWER_S * 1000000000ull)
		server_close(server_of(b), WHY_UPSTREAM_LOST, NULL,
			     "no answer");
	else if (b->due_n == 0 && up->health_check == HEALTH_ACTIVE &&
		 silent > up->health_interval_ms * 1000000u) {
		hub_ping(b, NULL);
		if (b->nodes != NULL)
			redis_nodes_doubt(b->nodes);
	}
}

static void
hub_expire(struct hub *b)
{
	uint64_t ms = b->who->snapshot->conf->query_wait_timeout_ms;

	if (b->queue == NULL || ms == 0 ||
	    now_ns(b) < b->queue->since_ns + ms * 1000000u)
		return;
	pool_unwant(&b->lessee);
	b->turn++;
	b->tries = 0;
	hub_fail(b, WHY_POOL_TIMEOUT);
}

static void
hub_tick(struct wheel_entry *e)
{
	struct hub *b =
	    (struct hub *)(void *)((char *)e - offsetof(struct hub, timer));

	if (b->connected)
		hub_watch(b);
	else
		hub_expire(b);
	if (!hub_is_unused(b))
		b->unused_ns = 0;
	else if (b->unused_ns == 0)
		b->unused_ns = now_ns(b);
	else if (now_ns(b) - b->unused_ns >= HUB_LINGER_NS && !b->gone) {
		b->gone = true;
		b->gone_next = b->hubs->gone;
		b->hubs->gone = b;
		hubs_again(b->hubs);
	}
	wheel_set(&b->hubs->w->streams.wheel, &b->timer,
		  now_ns(b) + HUB_TICK_NS);
}

/* ---- life ------------------------------------------------------------- */

static struct hub *
hub_find(struct hubs *h, const char *key)
{
	struct link *l =
	    links_at(&h->hubs, links_hash(&h->key, slice_str(key), 0));

	for (; l != NULL; l = l->next) {
		struct hub *b = (struct hub *)(void *)l;

		if (strcmp(b->who->key, key) == 0)
			return b;
	}
	return NULL;
}

static struct hub *
hub_make(struct hubs *h, struct hub_who *who)
{
	struct hub *b = mem_zero(1, sizeof(*b), "a hub");

	b->hubs = h;
	b->who = hub_who_ref(who);
	if (who->redis->cluster)
		b->nodes =
		    redis_nodes_find(&h->w->pools, who->snapshot, who->redis);
	b->tail = &b->queue;
	b->lessee.ops = &hub_lessee_ops;
	b->lessee.mode = LEASE_EXCLUSIVE;
	buf_init(&b->news, NEWS_FULL + REDIS_SUB_MESSAGE_MAX + (1 << 20));
	wheel_entry_init(&b->timer, hub_tick);
	wheel_set(&h->w->streams.wheel, &b->timer,
		  h->w->streams.now_ns + HUB_TICK_NS);
	links_add(&h->hubs, &b->link,
		  links_hash(&h->key, slice_str(who->key), 0));
	return b;
}

static void
hub_free(struct hub *b)
{
	pool_unwant(&b->lessee);
	if (b->connected)
		server_close(server_of(b), WHY_SERVER_IDLE, NULL, NULL);
	hub_fail(b, WHY_SHUTDOWN);
	assert(b->due_n == 0 && b->to.n == 0);
	pool_leave(&b->pool);
	redis_nodes_leave(&b->nodes);
	wheel_set(&b->hubs->w->streams.wheel, &b->timer, 0);
	links_remove(&b->hubs->hubs, &b->link);
	buf_free(&b->news);
	free(b->due);
	hub_who_unref(&b->who);
	free(b);
}

void
hubs_bury(struct hubs *h)
{
	struct hub *b;

	while ((b = h->gone) != NULL) {
		h->gone = b->gone_next;
		b->gone = false;
		if (hub_is_unused(b))
			hub_free(b);
	}
}

void
hubs_stop_all(struct hubs *h)
{
	while (h->hubs.n > 0) {
		for (size_t i = 0; i < h->hubs.size; i++)
			if (h->hubs.bucket[i] != NULL) {
				hub_free(
				    (struct hub *)(void *)h->hubs.bucket[i]);
				break;
			}
	}
	h->gone = NULL;
}

/* ---- mail ------------------------------------------------------------- */

/* A newer password, or configuration, is for the next connection. */
static void
hub_renew(struct hub *b, struct hub_who *who)
{
	struct redis_nodes *was = b->nodes;

	if (b->who == who)
		return;
	b->nodes = NULL;
	hub_who_unref(&b->who);
	b->who = hub_who_ref(who);
	if (who->redis->cluster)
		b->nodes = redis_nodes_find(&b->hubs->w->pools, who->snapshot,
					    who->redis);
	redis_nodes_leave(&was); /* last: who is alone there takes all along */
}

void
hub_asked(struct message *m, void *owner)
{
	struct hubs *h = ((struct worker *)owner)->hubs;
	struct hub_ask *a = (struct hub_ask *)(void *)m;
	struct hub *b;

	if (h->stopped) {
		hub_ask_free(a);
		return;
	}
	if ((b = hub_find(h, a->who->key)) == NULL)
		b = hub_make(h, a->who);
	if (a->op == HUB_SUBSCRIBE)
		hub_renew(b, a->who);
	a->since_ns = now_ns(b);
	a->next = NULL;
	*b->tail = a;
	b->tail = &a->next;
	hub_go(b);
}

void
hub_news_returned(struct message *m, void *owner)
{
	struct hubs *h = ((struct worker *)owner)->hubs;
	struct hub_news *news =
	    (struct hub_news *)(void *)((char *)m -
					offsetof(struct hub_news, back));
	/* A hub stays as long as some of its news are out. */
	struct hub *b = h->stopped ? NULL : hub_find(h, news->who->key);

	if (b != NULL) {
		assert(b->behind >= news->n);
		b->behind -= news->n;
		if (b->connected && b->paused &&
		    b->behind <= HUB_BEHIND_MAX / 2) {
			b->paused = false;
			redis_sub_resume(server_of(b));
		}
	}
	hub_news_free(news);
}

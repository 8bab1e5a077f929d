#include "proxy/redis_publish.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/redis_nodes.h"
#include "pool/redis_server.h"
#include "proxy/pg_batch.h"
#include "proxy/route.h"
#include "proxy/worker.h"

#define LOG_EVERY_NS (10 * 1000000000ull)

enum { BUCKETS = 64, ERROR_MAX = 128 };

/* What is to be told by one log-in: that of an organization, for a table. */
struct publisher {
	struct lessee lessee;
	struct worker *worker;
	struct pg_terms *terms; /* of its lease; the key is its name; counted */
	struct publisher *chain; /* in its bucket */
	struct publisher *touched_next;
	bool touched;
	struct op *head, **tail; /* in the order of their commits */
	struct op *at; /* the first not told of whole; NULL: all are */
	size_t bytes;
	uint64_t rest_ns;             /* until then all fails at once */
	uint64_t log_ns;              /* until then no failure is logged */
	uint64_t failed;              /* messages, since one was */
	struct redis_nodes *nodes;    /* of a cluster; or NULL */
	struct redis_nodes_wait wait; /* for first news of them */
	unsigned turn;                /* of the url, or which node */
	unsigned tries; /* of these in vain, since one has answered */
	char error[ERROR_MAX];
	struct wheel_entry timer;
};

struct publishers {
	struct worker *worker;
	struct publisher *bucket[BUCKETS];
	struct publisher *touched;
	uint64_t
	    log_ns; /* until then nothing is logged of what cannot be said */
	uint64_t unsaid;
};

static const struct lessee_ops publisher_ops;

static uint64_t
now_ns(const struct publisher *p)
{
	return p->worker->streams.now_ns;
}

static void
touch(struct publisher *p)
{
	struct publishers *all = p->worker->publishers;

	if (p->touched)
		return;
	p->touched = true;
	p->touched_next = all->touched;
	all->touched = p;
}

static void
arm(struct publisher *p)
{
	uint64_t then = p->rest_ns > p->log_ns ? p->rest_ns : p->log_ns;

	if (p->head != NULL)
		then = p->head->told_ns + PUBLISH_WAIT_NS;
	else if (then <= now_ns(p))
		then = 0; /* it stays for news of its nodes */
	wheel_set(&p->worker->streams.wheel, &p->timer, then);
}

/* ---- failures --------------------------------------------------------- */

static const char *
slug_of(const struct pg_terms *t)
{
	return t->tenant ? t->tenant->slug : "";
}

static void
count_failed(struct publisher *p, uint64_t n, const char *text)
{
	if (n == 0)
		return;
	stats_add(&p->worker->stats, STAT_PUBLISH_FAILED, (int64_t)n);
	p->failed += n;
	if (now_ns(p) < p->log_ns)
		return;
	LOG(p->worker->weir->log, LOG_WARN, LOG_EV_PUBLISH,
	    log_str("table", p->terms->batch->name),
	    log_str("tenant", slug_of(p->terms)), log_num("failed", p->failed),
	    log_str("error", text ? text : p->error));
	p->failed = 0;
	p->log_ns = now_ns(p) + LOG_EVERY_NS;
}

static void
count_unsaid(struct worker *w, const struct op *op, uint64_t n)
{
	struct publishers *all = w->publishers;

	if (n == 0)
		return;
	stats_add(&w->stats, STAT_PUBLISH_UNSAID, (int64_t)n);
	all->unsaid += n;
	if (w->streams.now_ns < all->log_ns)
		return;
	LOG(w->weir->log, LOG_WARN, LOG_EV_PUBLISH,
	    log_str("table", op->terms->batch->name),
	    log_str("tenant", slug_of(op->terms)),
	    log_num("unsaid", all->unsaid),
	    log_str("error", "a value that is not known, or not in that form"));
	all->unsaid = 0;
	all->log_ns = w->streams.now_ns + LOG_EVERY_NS;
}

static void
says_why(struct publisher *p, const char *why)
{
	snprintf(p->error, sizeof(p->error), "%s", why);
}

static void
rest(struct publisher *p, const char *why)
{
	says_why(p, why);
	p->rest_ns = now_ns(p) + PUBLISH_REST_NS;
	touch(p);
}

/* ---- the queue -------------------------------------------------------- */

static void
queue_put(struct publisher *p, struct op *op)
{
	op->next = NULL;
	*p->tail = op;
	p->tail = &op->next;
	p->bytes += op->cost;
	if (p->at == NULL)
		p->at = op;
}

/* The first is done with. */
static void
queue_take(struct publisher *p)
{
	struct op *op = p->head;

	assert(op != NULL && op->owed == 0);
	if (p->at == op)
		p->at = op->next;
	if ((p->head = op->next) == NULL)
		p->tail = &p->head;
	op->next = NULL;
	p->bytes -= op->cost;
	pg_batch_told(p->worker, op);
}

static unsigned
news_in(const struct op *op, unsigned from)
{
	unsigned n = 0;

	for (unsigned i = from; i < op->parts; i++)
		n += op->part[i].news;
	return n;
}

static void
fail_all(struct publisher *p)
{
	while (p->head != NULL) {
		count_failed(p, news_in(p->head, p->head->told), NULL);
		queue_take(p);
	}
}

/* ---- sending ---------------------------------------------------------- */

static bool
same_lease(const struct publisher *p, const struct op *op)
{
	return op->terms == p->terms ||
	       (op->terms->tenant == p->terms->tenant &&
		op->terms->snapshot == p->terms->snapshot);
}

static void
send_part(struct publisher *p, const struct op *op, const struct op_part *part)
{
	struct server *v = p->lessee.server;
	const uint8_t *news = op->bytes + part->channel;
	const struct slice arg[] = {
		slice_str("PUBLISH"),
		slice_of(news, part->channel_n),
		slice_of(news + part->channel_n, part->message_n),
	};

	assert(v->lessee == &p->lessee);
	assert(v->tenant == op->terms->tenant);
	redis_server_judge(v, redis_server_send(v, &p->lessee, arg, 3));
}

/* False: there is no room for all of it. */
static bool
send_op(struct publisher *p, struct op *op)
{
	struct server *v = p->lessee.server;

	for (; op->told < op->parts; op->told++) {
		if (!op->part[op->told].news)
			continue;
		if (redis_server_full(v, &p->lessee)) {
			redis_server_queue(v, &p->lessee);
			return false;
		}
		send_part(p, op, &op->part[op->told]);
		op->owed++;
	}
	return true;
}

static void
send_all(struct publisher *p)
{
	while (p->at != NULL && same_lease(p, p->at) && send_op(p, p->at))
		p->at = p->at->next;
}

/* ---- borrowing -------------------------------------------------------- */

/* So many masters are known, any of which would do. */
static unsigned
others(const struct publisher *p)
{
	unsigned n = 0;

	for (unsigned i = 0; p->nodes != NULL && i < p->nodes->n; i++)
		n += p->nodes->node[i]->member;
	return n;
}

/* The one whose turn it is; NOBODY: that of the url. */
static int
other(const struct publisher *p)
{
	unsigned k = p->turn % (1 + others(p));

	for (unsigned i = 0; k > 0; i++)
		if (p->nodes->node[i]->member && --k == 0)
			return (int)i;
	return REDIS_NODES_NOBODY;
}

static void
news(struct redis_nodes_wait *w)
{
	touch((struct publisher *)(void *)((char *)w -
					   offsetof(struct publisher, wait)));
}

static void
know_nodes(struct publisher *p, struct snapshot *snap,
	   const struct conf_redis *redis)
{
	struct redis_nodes *was = p->nodes;

	p->nodes = redis->cluster
		       ? redis_nodes_find(&p->worker->pools, snap, redis)
		       : NULL;
	if (p->nodes != was)
		redis_nodes_unwait(&p->wait);
	redis_nodes_leave(&was);
	if (p->nodes != NULL && !p->nodes->known) {
		redis_nodes_doubt(p->nodes);
		redis_nodes_wait(p->nodes, &p->wait);
	}
}

static void
next_node(struct publisher *p)
{
	p->turn++;
	if (p->nodes != NULL)
		redis_nodes_doubt(p->nodes);
}

static struct pool *
pool_of(struct publisher *p, const struct pg_terms *t, const char **why)
{
	struct route r = { .tenant = t->tenant };
	struct pool *pool;
	int node;

	*why = why_table[WHY_NO_UPSTREAM].text;
	if (route_to_redis(&r, t->snapshot->conf) != 0)
		return NULL;
	*why = "dedicated_connections = 0";
	if (r.redis->dedicated_connections == 0)
		return NULL;
	know_nodes(p, t->snapshot, r.redis);
	node = other(p);
	pool = node == REDIS_NODES_NOBODY
		   ? pool_find_redis_lent(&p->worker->pools, t->snapshot,
					  r.redis, r.upstream_user,
					  r.upstream_password, r.redis->db, 2)
		   : redis_nodes_pool(p->nodes, node, t->snapshot, r.redis,
				      r.upstream_user, r.upstream_password, 2,
				      true);
	*why = "too many pools";
	return pool;
}

static void
borrow(struct publisher *p)
{
	struct pg_terms *t = p->head->terms;
	const char *why;
	struct pool *pool = pool_of(p, t, &why);

	if (pool == NULL) {
		next_node(p);
		rest(p, why);
		return;
	}
	pg_terms_ref(t);
	pg_terms_unref(&p->terms);
	p->terms = t;
	p->lessee.tenant = t->tenant;
	if (pool_want(pool, &p->lessee))
		send_all(p);
}

static void
let_go(struct publisher *p)
{
	struct server *v = p->lessee.server;

	if (v == NULL)
		return;
	redis_server_unqueue(v, &p->lessee);
	server_release(v);
}

static void
granted(struct lessee *l, struct server *v)
{
	struct publisher *p = (struct publisher *)(void *)l;

	assert(l->server == v);
	if (p->at != NULL)
		send_all(p);
	else
		touch(p);
}

/* ---- answers ---------------------------------------------------------- */

/* Of errors the beginning is kept, for the log. */
static void
reply(struct lessee *l, const uint8_t *s, size_t n)
{
	struct publisher *p = (struct publisher *)(void *)l;

	const uint8_t *end = memchr(s, '\r', n);
	size_t len = end != NULL ? (size_t)(end - s) : n;

	if (len > 1 && s[0] == '-')
		snprintf(p->error, sizeof(p->error), "%.*s",
			 len < ERROR_MAX ? (int)len - 1 : ERROR_MAX,
			 (const char *)s + 1);
}

static void
answered(struct publisher *p, bool done)
{
	struct op *op = p->head;

	assert(op != NULL && op->owed > 0);
	op->owed--;
	if (done)
		p->tries = 0;
	if (done)
		stats_add(&p->worker->stats, STAT_PUBLISHED, 1);
	else
		count_failed(p, 1, NULL);
	if (op->owed == 0 && op->told == op->parts)
		queue_take(p);
	arm(p);
	if (p->head == NULL)
		touch(p);
}

static void
settled(struct lessee *l, unsigned kind, uint32_t n, bool done)
{
	struct publisher *p = (struct publisher *)(void *)l;

	assert(kind != REDIS_SLOW);
	while (n-- > 0)
		answered(p, kind == REDIS_ANSWERED && done);
}

static void
lost(struct lessee *l, enum why why, const char *sqlstate, const char *text)
{
	struct publisher *p = (struct publisher *)(void *)l;

	(void)sqlstate;
	text = text ? text : why_table[why].text;
	next_node(p);
	if (p->tries++ < others(p) && why != WHY_SHUTDOWN) {
		says_why(p, text); /* of what was told it */
		touch(p);
		return;
	}
	p->tries = 0;
	rest(p, text);
}

static void
room(struct lessee *l)
{
	struct publisher *p = (struct publisher *)(void *)l;

	/* One that is lost calls who was queued there a last time. */
	if (p->lessee.server != NULL)
		send_all(p);
}

static void
at_rest(struct lessee *l)
{
	(void)l;
	assert(!"a Redis server has settled all there is");
}

static const struct lessee_ops publisher_ops = {
	.granted = granted,
	.reply = reply,
	.settled = settled,
	.rest = at_rest,
	.lost = lost,
	.room = room,
};

/* ---- publishers ------------------------------------------------------- */

/* The first has waited long enough, or nothing is left to do. */
static void
on_timer(struct wheel_entry *e)
{
	static const char late[] = "no answer within a second";
	struct publisher *p =
	    (struct publisher *)(void *)((char *)e -
					 offsetof(struct publisher, timer));

	touch(p);
	if (p->head == NULL || now_ns(p) < p->head->told_ns + PUBLISH_WAIT_NS) {
		arm(p);
		return;
	}
	if (p->lessee.server == NULL)
		next_node(p);
	rest(p, late);
	pool_unwant(&p->lessee);
	if (p->lessee.server != NULL)
		server_close(p->lessee.server, WHY_QUERY_TIMEOUT, NULL, late);
}

static struct publisher **
bucket_of(struct worker *w, const struct pg_terms *t)
{
	return &w->publishers->bucket[t->hash % BUCKETS];
}

static struct publisher *
find(struct worker *w, struct pg_terms *t)
{
	struct publisher **at = bucket_of(w, t), *p;

	for (p = *at; p != NULL; p = p->chain)
		if (p->terms->hash == t->hash &&
		    strcmp(p->terms->key, t->key) == 0)
			return p;
	if ((p = calloc(1, sizeof(*p))) == NULL)
		abort();
	p->lessee.ops = &publisher_ops;
	p->lessee.mode = LEASE_EXCLUSIVE;
	p->worker = w;
	p->terms = pg_terms_ref(t);
	p->tail = &p->head;
	p->wait.over = news;
	wheel_entry_init(&p->timer, on_timer);
	p->chain = *at;
	*at = p;
	return p;
}

static void
publisher_free(struct publisher *p)
{
	struct publisher **at = bucket_of(p->worker, p->terms);

	assert(p->head == NULL && !p->touched);
	assert(p->lessee.server == NULL && p->lessee.waiting == NULL);
	while (*at != p)
		at = &(*at)->chain;
	*at = p->chain;
	wheel_set(&p->worker->streams.wheel, &p->timer, 0);
	redis_nodes_unwait(&p->wait);
	redis_nodes_leave(&p->nodes);
	pg_terms_unref(&p->terms);
	free(p);
}

static void
step(struct publisher *p)
{
	if (p->rest_ns > now_ns(p) && p->lessee.server == NULL)
		fail_all(p);
	if (p->head == NULL) {
		pool_unwant(&p->lessee);
		let_go(p);
		arm(p);
		if (now_ns(p) >= p->rest_ns && now_ns(p) >= p->log_ns &&
		    p->wait.prev == NULL)
			publisher_free(p);
		return;
	}
	if (p->lessee.server != NULL && p->at == p->head &&
	    p->head->owed == 0 && !same_lease(p, p->head))
		let_go(p);
	if (p->lessee.server != NULL)
		send_all(p);
	else if (p->lessee.waiting == NULL)
		borrow(p);
	arm(p);
}

void
redis_publish_run(struct worker *w)
{
	struct publishers *all = w->publishers;
	struct publisher *p;

	while ((p = all->touched) != NULL) {
		all->touched = p->touched_next;
		p->touched = false;
		step(p);
	}
}

bool
redis_publish(struct worker *w, struct op *op)
{
	unsigned news = news_in(op, 0), unsaid = 0;
	struct publisher *p;

	for (unsigned i = 0; i < op->parts; i++)
		unsaid += op->part[i].unsaid;
	count_unsaid(w, op, unsaid);
	if (news == 0)
		return false;
	p = find(w, op->terms);
	touch(p);
	if (p->rest_ns > now_ns(p) || p->bytes + op->cost > PUBLISH_BYTES_MAX) {
		count_failed(p, news,
			     p->rest_ns > now_ns(p) ? NULL : "too many wait");
		return false;
	}
	op->told_ns = now_ns(p);
	op->told = op->owed = 0;
	queue_put(p, op);
	return true;
}

struct publishers *
redis_publish_open(struct worker *w)
{
	struct publishers *all = calloc(1, sizeof(*all));

	if (all == NULL)
		abort();
	all->worker = w;
	return all;
}

/* What is left only rests. */
void
redis_publish_close(struct publishers **at)
{
	struct publishers *all = *at;

	redis_publish_run(all->worker);
	for (unsigned i = 0; i < BUCKETS; i++)
		while (all->bucket[i] != NULL)
			publisher_free(all->bucket[i]);
	free(all);
	*at = NULL;
}

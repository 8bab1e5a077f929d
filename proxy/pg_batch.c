#include "proxy/pg_batch.h"

#include <assert.h>
#include <event2/event_struct.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/pg_server.h"
#include "protocol/insert_many.h"
#include "protocol/pg.h"
#include "proxy/pg_op.h"
#include "proxy/pg_session.h"
#include "proxy/pg_text.h"
#include "proxy/redis_publish.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

/* A server that is kept from one commit to the next goes back to its pool after
 * so many, where its age is looked at. */
enum { BUCKETS = 256, KEEP_MAX = 100 };

/* Rows that are not merged behind a failure of those that were. */
enum { MERGE_REST = 1000 };

/* Answers owed for a row at most: three Closes make room, then Parse, Bind,
 * Describe, Execute. */
enum { PART_OWES = 7 };

/* As whose the unnamed statement is parsed: no session's number. */
#define BATCH_OWNER   UINT64_MAX
#define DRAIN_MORE_NS (1000ull * 1000000) /* after the sessions' patience */

struct op_queue {
	struct op *head, **tail;
	unsigned n, rows;
	size_t bytes;
};

struct pg_batch {
	struct lessee lessee;
	struct worker *worker;
	struct pg_terms *terms; /* of its lane, and of the lease; counted */
	unsigned lane;
	struct total *total;
	struct pg_batch *chain; /* in its bucket */
	struct pg_batch *touched_next;
	bool touched;
	struct op_queue waiting; /* not sent, or to be sent again */
	struct op_queue run;     /* sent, and not committed */
	struct op *at;  /* of these, whose answers come; NULL: all have */
	struct op *bad; /* whose answer was an error */
	unsigned executed;
	bool failed;           /* an error came: PostgreSQL has rolled back */
	bool stale;            /* namely of a plan that is no longer true */
	struct server *server; /* while it has one */
	struct op *
	    checked; /* waiting: what its statement returns is being asked, ... */
	unsigned checked_part; /* ... of this part */
	size_t tag_at;         /* in the reply, where its last tag begins */
	unsigned kept;         /* times it has sent by this server */
	uint64_t sent_ns;
	uint32_t remain; /* of the message being passed on */
	bool keep;       /* it is for the operation */
	struct wheel_entry timer;
};

/* Of one table, since the start. */
struct total {
	struct total *next;
	char *table;
	uint64_t operations, commits, replayed, unknown;
};

struct pg_batches {
	struct worker *worker;
	struct total *totals;
	struct pg_batch *bucket[BUCKETS];
	struct pg_batch *touched;
	unsigned n;
	struct op_queue refused; /* to be told so in the turn */
	unsigned ops;            /* submitted here and not come home */
	struct event linger;     /* one waits for company */
	uint64_t linger_ns;      /* until then; 0: nobody does */
	uint64_t last_parse;
};

/* ---- terms ------------------------------------------------------------ */

static char *
copy(const char *s)
{
	char *c = s != NULL ? strdup(s) : NULL;

	if (s != NULL && c == NULL)
		abort();
	return c;
}

static uint64_t
hash_of(const char *s)
{
	uint64_t h = 14695981039346656037u;

	for (; *s != '\0'; s++)
		h = (h ^ (uint8_t)*s) * 1099511628211u;
	return h ^ h >> 32;
}

struct pg_terms *
pg_terms_new(const struct session *s, const struct conf_batch *batch)
{
	const struct tenant *tenant = s->lessee.tenant;
	const struct pool *p = s->pool;
	const char *slug = tenant ? tenant->slug : "";
	size_t n = strlen(p->key) + strlen(slug) + strlen(batch->name) + 3;
	struct pg_terms *t;
	struct budget *share = NULL;

	if (tenant != NULL && (share = seat_share(s, tenant)) == NULL)
		return NULL;
	if ((t = calloc(1, sizeof(*t))) == NULL || (t->key = malloc(n)) == NULL)
		abort();
	t->refs = 1;
	t->snapshot = snapshot_ref(s->snapshot);
	t->batch = batch;
	t->pool_snapshot = snapshot_ref(p->snapshot);
	t->postgres = p->postgres;
	t->tenant = tenant_ref(tenant);
	t->label = label_ref(s->lessee.label);
	t->share = share;
	t->budgets = &s->worker->weir->budgets;
	t->scram = p->scram;
	t->dbname = copy(p->dbname);
	t->user = copy(p->user);
	t->password = copy(p->password);
	snprintf(t->key, n, "%s/%s/%s", p->key, slug, batch->name);
	t->hash = hash_of(t->key);
	return t;
}

struct pg_terms *
pg_terms_ref(struct pg_terms *t)
{
	atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void
pg_terms_unref(struct pg_terms **at)
{
	struct pg_terms *t = *at;

	*at = NULL;
	if (t == NULL || atomic_fetch_sub(&t->refs, 1) > 1)
		return;
	if (t->share != NULL)
		budget_unref(t->budgets, &t->share);
	label_unref(&t->label);
	tenant_unref(&t->tenant);
	OPENSSL_cleanse(&t->scram, sizeof(t->scram));
	if (t->password != NULL)
		OPENSSL_cleanse(t->password, strlen(t->password));
	free(t->password);
	free(t->dbname);
	free(t->user);
	free(t->key);
	snapshot_unref(&t->pool_snapshot);
	snapshot_unref(&t->snapshot);
	free(t);
}

bool
pg_terms_hold(const struct pg_terms *t, const struct session *s,
	      const struct conf_batch *batch)
{
	size_t n = strlen(s->pool->key);

	return t != NULL && t->batch == batch && t->snapshot == s->snapshot &&
	       t->pool_snapshot == s->pool->snapshot &&
	       t->postgres == s->pool->postgres &&
	       t->tenant == s->lessee.tenant && t->label == s->lessee.label &&
	       strncmp(t->key, s->pool->key, n) == 0 && t->key[n] == '/';
}

/* May they share a commit, and not only a lane? */
static bool
same_terms(const struct pg_terms *a, const struct pg_terms *b)
{
	return a == b ||
	       (a->tenant == b->tenant && label_same(a->label, b->label));
}

/* ---- operations ------------------------------------------------------- */

struct op *
op_new(unsigned parts, size_t bytes)
{
	size_t head = sizeof(struct op) + parts * sizeof(struct op_part);
	struct op *op = malloc(head + bytes);

	if (op == NULL)
		abort();
	memset(op, 0, head);
	op->parts = parts;
	op->size = bytes;
	op->cost = head + bytes;
	op->bytes = (uint8_t *)op + head;
	op->why = WHY_MAX;
	buf_init(&op->reply, OP_REPLY_MAX);
	return op;
}

void
op_free(struct op *op)
{
	pg_terms_unref(&op->terms);
	buf_free(&op->reply);
	free(op->text);
	free(op);
}

static void
queue_init(struct op_queue *q)
{
	*q = (struct op_queue){ .tail = &q->head };
}

static void
queue_put(struct op_queue *q, struct op *op)
{
	op->next = NULL;
	*q->tail = op;
	q->tail = &op->next;
	q->n++;
	q->rows += op->parts;
	q->bytes += op->cost;
}

static struct op *
queue_take(struct op_queue *q)
{
	struct op *op = q->head;

	assert(op != NULL);
	if ((q->head = op->next) == NULL)
		q->tail = &q->head;
	op->next = NULL;
	q->n--;
	q->rows -= op->parts;
	q->bytes -= op->cost;
	return op;
}

/* All of `front` before what is there. */
static void
queue_put_back(struct op_queue *q, struct op_queue *front)
{
	if (front->head == NULL)
		return;
	*front->tail = q->head;
	if (q->head == NULL)
		q->tail = front->tail;
	q->head = front->head;
	q->n += front->n;
	q->rows += front->rows;
	q->bytes += front->bytes;
	queue_init(front);
}

static void
comes_home(struct message *m, void *owner)
{
	struct worker *w = owner;

	w->batches->ops--;
	pg_op_home(w, (struct op *)(void *)m);
}

static void
op_ends(struct worker *w, struct op *op)
{
	if (op->home == w->id) {
		comes_home(&op->message, w);
		return;
	}
	op->message.run = comes_home;
	mailbox_post(w->weir->mailboxes[op->home], &op->message);
}

static void
op_fails(struct worker *w, struct op *op, enum why why, const char *sqlstate,
	 const char *text)
{
	op->why = why;
	if (sqlstate != NULL)
		snprintf(op->sqlstate, sizeof(op->sqlstate), "%s", sqlstate);
	op->text = copy(text);
	op_ends(w, op);
}

/* ---- batches ---------------------------------------------------------- */

static void
touch(struct pg_batch *b)
{
	struct pg_batches *all = b->worker->batches;

	if (b->touched)
		return;
	b->touched = true;
	b->touched_next = all->touched;
	all->touched = b;
}

static const struct lessee_ops batch_ops;

static uint64_t
wait_ns(const struct pg_batch *b)
{
	return b->terms->snapshot->conf->query_wait_timeout_ms * 1000000u;
}

static uint64_t
query_ns(const struct pg_batch *b)
{
	return b->terms->snapshot->conf->query_timeout_ms * 1000000u;
}

/* Is an answer on its way? */
static bool
is_busy(const struct pg_batch *b)
{
	return b->run.n > 0 || b->checked != NULL;
}

static void
arm(struct pg_batch *b)
{
	uint64_t when = 0;

	if (is_busy(b) && query_ns(b) > 0)
		when = b->sent_ns + query_ns(b);
	if (b->waiting.n > 0 && b->checked == NULL && wait_ns(b) > 0) {
		uint64_t then = b->waiting.head->since_ns + wait_ns(b);

		when = when == 0 || then < when ? then : when;
	}
	wheel_set(&b->worker->streams.wheel, &b->timer, when);
}

static void
fail_waiting(struct pg_batch *b, enum why why, const char *sqlstate,
	     const char *text)
{
	while (b->waiting.n > 0)
		op_fails(b->worker, queue_take(&b->waiting), why, sqlstate,
			 text);
}

/* Of a server that does not answer, or does not come. */
static void
on_timer(struct wheel_entry *e)
{
	struct pg_batch *b =
	    (struct pg_batch *)(void *)((char *)e -
					offsetof(struct pg_batch, timer));
	uint64_t now = b->worker->streams.now_ns, wait = wait_ns(b);

	while (b->waiting.n > 0 && wait > 0 && b->waiting.head != b->checked &&
	       now >= b->waiting.head->since_ns + wait)
		op_fails(b->worker, queue_take(&b->waiting), WHY_POOL_TIMEOUT,
			 NULL, NULL);
	if (b->waiting.n == 0)
		pool_unwant(&b->lessee);
	if (is_busy(b) && query_ns(b) > 0 && now >= b->sent_ns + query_ns(b))
		server_close(b->server, WHY_QUERY_TIMEOUT, NULL, NULL);
	touch(b);
	arm(b);
}

static struct pg_batch **
bucket_of(struct pg_batches *all, uint64_t hash, unsigned lane)
{
	return &all->bucket[(hash + lane) % BUCKETS];
}

/* As many as sections ever had a name: a few. */
static struct total *
total_of(struct pg_batches *all, const char *table)
{
	struct total *t = all->totals;

	while (t != NULL && strcmp(t->table, table) != 0)
		t = t->next;
	if (t != NULL)
		return t;
	if ((t = calloc(1, sizeof(*t))) == NULL)
		abort();
	t->table = copy(table);
	t->next = all->totals;
	return all->totals = t;
}

static struct pg_batch *
batch_find(struct worker *w, struct pg_terms *t, unsigned lane)
{
	struct pg_batches *all = w->batches;
	struct pg_batch **at = bucket_of(all, t->hash, lane), *b;

	for (b = *at; b != NULL; b = b->chain)
		if (b->lane == lane && b->terms->hash == t->hash &&
		    strcmp(b->terms->key, t->key) == 0)
			return b;
	if ((b = calloc(1, sizeof(*b))) == NULL)
		abort();
	b->lessee.ops = &batch_ops;
	b->worker = w;
	b->terms = pg_terms_ref(t);
	b->lane = lane;
	b->total = total_of(all, t->batch->name);
	queue_init(&b->waiting);
	queue_init(&b->run);
	wheel_entry_init(&b->timer, on_timer);
	b->chain = *at;
	*at = b;
	all->n++;
	return b;
}

static void
batch_free(struct pg_batch *b)
{
	struct pg_batches *all = b->worker->batches;
	struct pg_batch **at = bucket_of(all, b->terms->hash, b->lane);

	assert(b->run.n == 0 && b->waiting.n == 0 && !b->touched);
	assert(b->server == NULL && b->lessee.waiting == NULL);
	while (*at != b)
		at = &(*at)->chain;
	*at = b->chain;
	all->n--;
	wheel_set(&b->worker->streams.wheel, &b->timer, 0);
	pg_terms_unref(&b->terms);
	free(b);
}

static void
arrives(struct message *m, void *owner)
{
	struct op *op = (struct op *)(void *)m;
	struct worker *w = owner;
	struct pg_batch *b = batch_find(w, op->terms, op->lane);

	touch(b); /* it may be new */
	b->total->operations++;
	if (b->waiting.bytes + op->cost > BATCH_BYTES_MAX) {
		queue_put(&w->batches->refused, op);
	} else {
		queue_put(&b->waiting, op);
		if (b->waiting.n == 1)
			arm(b);
	}
	/* Whoever sees it counted may rely on its place. */
	stats_add(&w->stats, STAT_BATCH_OPS, 1);
}

void
pg_batch_submit(struct worker *w, struct op *op)
{
	op->home = w->id;
	w->batches->ops++;
	atomic_fetch_add(&w->weir->operations, 1);
	/* Behind those that came earlier by another worker. */
	if (op->worker == w->id &&
	    !mailbox_waits(w->weir->mailboxes[op->worker])) {
		arrives(&op->message, w);
	} else {
		op->message.run = arrives;
		mailbox_post(w->weir->mailboxes[op->worker], &op->message);
	}
}

/* ---- sending ---------------------------------------------------------- */

/* The pair to the assertion at the grant: see check_stamp() of pg_message. */
static void
check_stamp(const struct pg_batch *b, const struct op *op)
{
	const struct server *v = b->server;

	assert(v->lessee == &b->lessee);
	assert(b->lessee.tenant == op->terms->tenant);
	assert(label_same(b->lessee.label, op->terms->label));
	if (pg_server_binding(v))
		assert(((const struct pg_server *)(const void *)v)
			   ->binding_tenant == b->lessee.tenant);
	else
		assert(v->tenant == b->lessee.tenant);
}

static void
expect(struct pg_batch *b, enum pg_kind kind, uint32_t arg)
{
	/* Behind a Sync that was answered nothing is being skipped. */
	if (!pg_server_expect(b->server, &b->lessee, kind, LEDGER_FORWARD, arg,
			      STMT_NONE))
		abort();
}

/* The statement, on the server; its name there. */
static const char *
send_statement(struct pg_batch *b, const struct op *op,
	       const struct op_part *part)
{
	struct server *v = b->server;
	struct slice body = slice_of(op->bytes + part->body, part->body_n);
	const struct stmt *stmt;

	if (!part->query) {
		stmt = pg_text_find(b->worker, body)->stmt;
		if (part->parse)
			pg_server_parse(v, &b->lessee, stmt, 0);
		else
			pg_server_need(v, stmt);
		return stmt->name;
	}
	if (!pg_server_parse_unnamed(v, NULL, BATCH_OWNER,
				     ++b->worker->batches->last_parse))
		abort();
	if (pg_put(stream_out(&v->stream), 'P', "sb", "", body) != 0)
		abort();
	return "";
}

/* `arg` is told when the last of its answers has come; 0: nothing is. */
static void
send_part(struct pg_batch *b, const struct op *op, const struct op_part *part,
	  uint32_t arg)
{
	struct buf *out = stream_out(&b->server->stream);
	const char *name;

	name = send_statement(b, op, part);
	expect(b, PG_BIND, 1); /* told of stale plans alone */
	if (pg_put(out, 'B', "ssb", "", name,
		   slice_of(op->bytes + part->args, part->args_n)) != 0)
		abort();
	if (part->describe) {
		expect(b, PG_DESCRIBE, 0);
		if (pg_put(out, 'D', "cs", 'P', "") != 0)
			abort();
	}
	expect(b, PG_EXECUTE, arg);
	if (pg_put(out, 'E', "si", "", 0) != 0)
		abort();
}

static void
send_op(struct pg_batch *b, const struct op *op)
{
	for (unsigned i = 0; i < op->parts; i++)
		send_part(b, op, &op->part[i], i + 1 == op->parts);
}

/* ---- rows of one shape ------------------------------------------------ */

static struct slice
body_of(const struct op *op)
{
	return slice_of(op->bytes + op->part[0].body, op->part[0].body_n);
}

static bool
may_merge(const struct pg_batch *b, const struct op *op, struct slice body)
{
	return op->form == OP_EXTENDED && op->parts == 1 && !op->alone &&
	       !op->verbatim && same_terms(op->terms, b->terms) &&
	       body_of(op).n == body.n &&
	       memcmp(body_of(op).p, body.p, body.n) == 0;
}

/* So many of those waiting, a power of 2, go as one statement; 1: none do. */
static unsigned
group_of(struct pg_batch *b)
{
	const struct conf_batch *c = b->terms->batch;
	const struct op *op = b->waiting.head;
	struct slice body = body_of(op);
	size_t bytes = b->run.bytes + op->cost;
	unsigned n = 1, group = 1;

	if (!c->merge || b->waiting.n < 2 || !may_merge(b, op, body) ||
	    !pg_text_merges(b->worker, body))
		return 1;
	for (op = op->next;
	     op != NULL && n < INSERT_MANY && b->run.rows + n < c->max_ops &&
	     bytes < c->max_bytes && may_merge(b, op, body);
	     op = op->next) {
		bytes += op->cost;
		n++;
	}
	while (2 * group <= n)
		group *= 2;
	return group;
}

static void
send_group(struct pg_batch *b, const struct op *first)
{
	struct buf *out = stream_out(&b->server->stream), args;
	struct slice arg[INSERT_MANY], all, body = body_of(first);
	const struct insert *in = pg_text_find(b->worker, body)->insert;
	const struct stmt *stmt = pg_text_many(b->worker, body, first->group);
	const struct op *op = first;

	for (unsigned i = 0; i < first->group; i++, op = op->next)
		arg[i] =
		    slice_of(op->bytes + op->part[0].args, op->part[0].args_n);
	buf_init(&args, INSERT_MANY_MAX);
	if (insert_put_args(&args, arg, first->group, in->params) != 0)
		abort();
	all.p = buf_peek(&args, &all.n);
	pg_server_need(b->server, stmt);
	expect(b, PG_BIND, 1);
	if (pg_put(out, 'B', "ssb", "", stmt->name, all) != 0)
		abort();
	buf_free(&args);
	expect(b, PG_EXECUTE, 1);
	if (pg_put(out, 'E', "si", "", 0) != 0)
		abort();
	stats_add(&b->worker->stats, STAT_BATCH_MERGED, first->group);
}

/* Does its tag say that there is a row of each? */
static bool
is_whole(const struct op *first)
{
	struct pg_frame f;
	char want[32];
	size_t n;
	const uint8_t *p = buf_peek(&first->reply, &n);

	snprintf(want, sizeof(want), "INSERT 0 %u", first->group);
	for (; pg_frame_next(&f, p, n) > 0 && f.size <= n;
	     p += f.size, n -= f.size) {
		struct pg_reader r =
		    pg_reader(p + PG_HEADER, f.size - PG_HEADER);

		if (f.type == 'C')
			return slice_is(pg_read_str(&r), want);
	}
	return false;
}

/* What it would have heard alone. */
static void
put_alone(struct op *op)
{
	int bad = 0;

	if (op->part[0].parse)
		bad |= pg_put(&op->reply, '1', "");
	bad |= pg_put(&op->reply, '2', "");
	if (op->part[0].describe)
		bad |= pg_put(&op->reply, 'n', "");
	bad |= pg_put(&op->reply, 'C', "s", "INSERT 0 1");
	if (bad != 0)
		abort();
}

/* Its statement is done.  Where a trigger or a rule has left a row out, nobody
 * knows whose. */
static void
group_done(struct pg_batch *b)
{
	struct op *first = b->at, *op = first;
	bool whole = is_whole(first);

	buf_truncate(&first->reply, 0);
	for (unsigned i = 0; i < first->group; i++, op = op->next)
		if (whole)
			put_alone(op);
		else
			op->why = WHY_OUTCOME_UNKNOWN;
	if (!whole)
		pg_text_rest(b->worker, body_of(first), UINT32_MAX);
	b->executed += first->group;
	b->at = op;
}

/* An error of one of them, or of all: each is run by a statement of its own. */
static void
part_group(struct pg_batch *b)
{
	struct op *op = b->bad;

	for (unsigned i = 0; i < b->bad->group; i++, op = op->next)
		op->verbatim = true;
	pg_text_rest(b->worker, body_of(b->bad), MERGE_REST);
}

/* Of a server, in the process, for ever. */
static uint64_t
number(const struct server *v)
{
	return v->id << 8 | v->worker;
}

/*
 * Who was told what a statement returns must not be sent anything else: where
 * it would be parsed anew, that is asked first.
 */
static bool
is_unsure(const struct pg_batch *b, const struct op *op, unsigned *part)
{
	for (unsigned i = 0; i < op->parts; i++) {
		struct slice body =
		    slice_of(op->bytes + op->part[i].body, op->part[i].body_n);

		*part = i;
		if (op->part[i].shape != 0 &&
		    !pg_server_holds(b->server,
				     pg_text_find(b->worker, body)->stmt))
			return true;
	}
	return false;
}

static struct stmt *
checked_stmt(const struct pg_batch *b)
{
	const struct op_part *part = &b->checked->part[b->checked_part];

	return pg_text_find(b->worker, slice_of(b->checked->bytes + part->body,
						part->body_n))
	    ->stmt;
}

static void
send_sync(struct pg_batch *b)
{
	expect(b, PG_SYNC, 0);
	if (pg_put(stream_out(&b->server->stream), 'S', "") != 0)
		abort();
	b->sent_ns = b->worker->streams.now_ns;
	arm(b);
}

static void
send_check(struct pg_batch *b, unsigned part)
{
	b->checked = b->waiting.head;
	b->checked_part = part;
	check_stamp(b, b->checked);
	pg_server_check(b->server, &b->lessee, checked_stmt(b), 1);
	send_sync(b);
}

/* The answer: `done` is false if it did not even parse. */
static void
checked(struct pg_batch *b, bool done)
{
	struct op_part *part = &b->checked->part[b->checked_part];
	struct stmt *stmt = checked_stmt(b);

	if (!done)
		part->shape = 0; /* it says itself what is wrong with it */
	if (!done || pg_server(b->server)->shape == part->shape) {
		if (b->checked_part + 1 == b->checked->parts)
			b->checked->checked = number(b->server);
		return;
	}
	stmt_renew(&b->worker->pools.stmts, stmt);
	pg_server_doubt(b->server, stmt);
	assert(b->checked == b->waiting.head);
	op_fails(b->worker, queue_take(&b->waiting), WHY_UNSUPPORTED, "0A000",
		 "cached plan must not change result type");
}

static bool
may_join(const struct pg_batch *b, const struct op *op)
{
	const struct conf_batch *c = b->terms->batch;
	unsigned part;

	return !op->alone && same_terms(op->terms, b->terms) &&
	       b->run.rows + op->parts <= c->max_ops &&
	       b->run.bytes < c->max_bytes && !pg_server_full(b->server) &&
	       ledger_has_room(&b->server->ledger, PART_OWES * op->parts) &&
	       !is_unsure(b, op, &part);
}

static void
take_along(struct pg_batch *b)
{
	struct worker *w = b->worker;
	struct op *op = queue_take(&b->waiting);

	check_stamp(b, op);
	stats_observe(&w->stats, STATS_BATCH_WAIT,
		      (w->streams.now_ns - op->since_ns) / 1000u);
	buf_truncate(&op->reply, 0); /* of an earlier try, ... */
	op->why = WHY_MAX;           /* which was undone */
	op->group = 0;
	queue_put(&b->run, op);
}

static void
send_run(struct pg_batch *b)
{
	struct worker *w = b->worker;
	unsigned part;

	assert(b->run.n == 0 && b->waiting.n > 0 && b->checked == NULL);
	b->failed = b->stale = false;
	b->bad = NULL;
	b->executed = 0;
	b->remain = 0;
	b->kept++;
	if (is_unsure(b, b->waiting.head, &part)) {
		send_check(b, part);
		return;
	}
	do {
		unsigned group = group_of(b);
		struct op *first = b->waiting.head;

		for (unsigned i = 0; i < group; i++)
			take_along(b);
		first->group = group;
		b->at = b->run.head; /* what need not be asked is told now */
		if (group > 1)
			send_group(b, first);
		else
			send_op(b, first);
	} while (b->waiting.n > 0 && !b->run.head->alone &&
		 may_join(b, b->waiting.head));
	stats_add(&w->stats, STAT_BATCH_RUNS, 1);
	stats_add(&w->stats, STAT_QUERIES, b->run.n);
	send_sync(b);
}

/* ---- borrowing -------------------------------------------------------- */

static void
let_go(struct pg_batch *b)
{
	struct server *v = b->server;

	if (v == NULL)
		return;
	b->server = NULL;
	server_release(v);
}

static void
granted(struct lessee *l, struct server *v)
{
	struct pg_batch *b = (struct pg_batch *)(void *)l;

	assert(l->server == v && !is_busy(b));
	b->server = v;
	b->kept = 0;
	if (b->waiting.n > 0 && same_terms(b->waiting.head->terms, b->terms))
		send_run(b);
	else
		touch(b);
}

static void
borrow(struct pg_batch *b)
{
	struct worker *w = b->worker;
	struct pg_terms *t = b->waiting.head->terms;
	struct pool *p =
	    pool_again_postgres(&w->pools, t->pool_snapshot, t->postgres,
				t->dbname, t->user, t->password);

	if (p == NULL) {
		fail_waiting(b, WHY_NO_UPSTREAM, NULL, NULL);
		touch(b);
		return;
	}
	pool_lend_keys(p, &t->scram);
	pg_terms_ref(t);
	pg_terms_unref(&b->terms);
	b->terms = t;
	b->lessee.tenant = t->tenant;
	b->lessee.label = t->label;
	b->lessee.share = t->share;
	if (pool_want(p, &b->lessee))
		granted(&b->lessee, b->lessee.server);
}

/* Until then it waits for company. */
static bool
lingers(struct pg_batch *b)
{
	struct pg_batches *all = b->worker->batches;
	const struct conf_batch *c = b->waiting.head->terms->batch;
	uint64_t until = b->waiting.head->since_ns + c->max_delay_ms * 1000000u;
	struct timeval in;

	if (c->max_delay_ms == 0 || until <= b->worker->streams.now_ns ||
	    b->waiting.rows >= c->max_ops || b->waiting.bytes >= c->max_bytes ||
	    b->waiting.head->tries > 0 || b->waiting.head->alone)
		return false;
	if (all->linger_ns == 0 || until < all->linger_ns) {
		uint64_t us = (until - b->worker->streams.now_ns) / 1000u + 1;

		in.tv_sec = (time_t)(us / 1000000u);
		in.tv_usec = (suseconds_t)(us % 1000000u);
		all->linger_ns = until;
		event_add(&all->linger, &in);
	}
	return true;
}

/* Somebody else may want the server that it keeps between two runs. */
static bool
may_keep(const struct pg_batch *b)
{
	const struct server *v = b->server;

	return v != NULL && b->kept < KEEP_MAX &&
	       same_terms(b->waiting.head->terms, b->terms) &&
	       v->pool->waiters.n == 0 && !v->leaving &&
	       pg_server((struct server *)(uintptr_t)v)->status == 'I' &&
	       !v->ops->dirty(v);
}

static void
batch_step(struct pg_batch *b)
{
	if (is_busy(b) || b->lessee.waiting != NULL)
		return;
	if (b->waiting.n == 0) {
		let_go(b);
		batch_free(b);
		return;
	}
	if (lingers(b)) {
		let_go(b);
		return;
	}
	if (may_keep(b)) {
		if (!pg_server_renew(b->server))
			abort(); /* nothing is owed */
		send_run(b);
		return;
	}
	let_go(b);
	borrow(b);
}

void
pg_batches_run(struct worker *w)
{
	struct pg_batches *all = w->batches;
	struct pg_batch *b;

	if (w->drain_ns != 0 && w->streams.now_ns > w->drain_ns + DRAIN_MORE_NS)
		pg_batches_abort(w);
	while (all->refused.n > 0)
		op_fails(w, queue_take(&all->refused), WHY_BATCH_FULL, NULL,
			 NULL);
	while ((b = all->touched) != NULL) {
		all->touched = b->touched_next;
		b->touched = false;
		batch_step(b);
	}
}

/* ---- answers ---------------------------------------------------------- */

/* Is a message of this type for the client, who sent it in this form? */
static bool
is_for_client(const struct op *op, uint8_t type)
{
	if (op->form == OP_HELD)
		return type == 'N' || type == 'E' || type == 'C';
	if (op->form != OP_EXTENDED && strchr("12nt", type) != NULL)
		return false;
	return strchr("12tTnDCNE", type) != NULL;
}

static bool
is_known(uint8_t type)
{
	return type != '\0' && strchr("12tTnDCNESAZ", type) != NULL;
}

static void
op_put(struct pg_batch *b, struct op *op, const uint8_t *p, size_t n)
{
	if (buf_put(&op->reply, p, n) != 0)
		server_close(b->server, WHY_TOO_BIG, NULL, NULL);
}

static void
op_put_tag(struct pg_batch *b, struct op *op, const char *tag)
{
	if (pg_put(&op->reply, 'C', "s", tag) != 0)
		server_close(b->server, WHY_TOO_BIG, NULL, NULL);
}

static void
message_begins(struct pg_batch *b, uint8_t type)
{
	struct op *op = b->at;

	if (type == 'E') {
		b->failed = true;
		b->bad = op;
	}
	/* Of a Query that fails with its commit PostgreSQL says no tag. */
	if (type == 'C' && op != NULL)
		b->tag_at = buf_len(&op->reply);
	if (type == 'E' && op == NULL && b->run.n == 1 &&
	    b->run.head->form == OP_QUERY)
		buf_truncate(&b->run.head->reply, b->tag_at);
	/* What comes with the commit is for whoever is alone in it. */
	if (op == NULL && b->run.n == 1)
		op = b->run.head;
	/* One whose notice it is cannot be told. */
	if (type == 'N' && op != NULL && op->group > 1)
		pg_text_rest(b->worker, body_of(op), UINT32_MAX);
	b->keep = op != NULL && is_for_client(op, type);
	if (b->keep && op->form == OP_TRANSACTION && buf_len(&op->reply) == 0)
		op_put_tag(b, op, "BEGIN");
}

static void
reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct pg_batch *b = (struct pg_batch *)(void *)l;

	while (n > 0 && b->server != NULL) {
		struct op *op = b->at != NULL ? b->at : b->run.head;
		size_t take;

		if (b->remain == 0) {
			struct pg_frame f;

			if (pg_frame_next(&f, p, n) <= 0 || !is_known(f.type)) {
				server_close(b->server, WHY_UPSTREAM_SENSE,
					     NULL, "unexpected message");
				return;
			}
			b->remain = f.size;
			message_begins(b, f.type);
		}
		take = n < b->remain ? n : b->remain;
		if (b->keep && b->server != NULL)
			op_put(b, op, p, take);
		if (b->server == NULL)
			return; /* it was too much, and all is over */
		b->remain -= (uint32_t)take;
		p += take;
		n -= take;
	}
}

static void
settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct pg_batch *b = (struct pg_batch *)(void *)l;

	(void)arg;
	if (kind == PG_CHECK && b->checked != NULL) {
		checked(b, done);
		return;
	}
	if (kind == PG_STALE)
		b->stale = true;
	if (kind != PG_EXECUTE || !done || b->at == NULL)
		return;
	if (b->at->group > 1) {
		group_done(b);
		return;
	}
	if (b->at->form == OP_TRANSACTION)
		op_put_tag(b, b->at, "COMMIT");
	if (b->server == NULL)
		return;
	b->at = b->at->next;
	b->executed++;
}

/* PostgreSQL has rolled it back: who was to blame is run alone, between those
 * before it and those behind it. */
static void
run_again(struct pg_batch *b)
{
	struct op *op;

	stats_add(&b->worker->stats, STAT_BATCH_REPLAYED, b->run.n);
	b->total->replayed += b->run.n;
	if (b->bad != NULL && b->bad->group > 1)
		part_group(b);
	else
		for (op = b->run.head; op != NULL; op = op->next)
			op->alone |=
			    b->failed && (b->bad == op || b->bad == NULL);
	queue_put_back(&b->waiting, &b->run);
}

/* Whoever was told nothing of its columns gets those of now: a new plan, under
 * another name, as parsing it anew would have made. */
static bool
is_renewed(struct pg_batch *b, struct op *op)
{
	if (!b->stale || op->renewed || op->form != OP_EXTENDED)
		return false;
	for (unsigned i = 0; i < op->parts; i++) {
		struct slice body =
		    slice_of(op->bytes + op->part[i].body, op->part[i].body_n);
		struct stmt *stmt = pg_text_find(b->worker, body)->stmt;

		if (op->part[i].shape != 0)
			return false;
		pg_server_doubt(b->server, stmt);
		stmt_renew(&b->worker->pools.stmts, stmt);
	}
	op->renewed = true;
	return true;
}

/* Has it brought no row?  ON CONFLICT and triggers may see to that. */
static bool
is_in_vain(const uint8_t *tag, size_t n)
{
	return n >= 3 && memcmp(tag + n - 3, " 0", 3) == 0;
}

/* Of parts that brought no row there are no news.  True: there are some. */
static bool
has_news(struct op *op)
{
	bool any = false;
	struct pg_frame f;
	unsigned part = 0;
	size_t n;
	const uint8_t *p = buf_peek(&op->reply, &n);

	if (op->terms->batch->publish == NULL || op->why != WHY_MAX)
		return false;
	for (; part < op->parts && pg_frame_next(&f, p, n) > 0 && f.size <= n;
	     p += f.size, n -= f.size) {
		const uint8_t *tag = p + PG_HEADER;
		size_t tag_n = f.size - PG_HEADER;

		if (f.type != 'C' || tag_n < 6 || memcmp(tag, "INSERT", 6) != 0)
			continue;
		if (is_in_vain(tag, tag_n))
			op->part[part].news = op->part[part].unsaid = false;
		part++;
	}
	for (unsigned i = 0; i < op->parts; i++)
		any |= op->part[i].news || op->part[i].unsaid;
	return any;
}

void
pg_batch_told(struct worker *w, struct op *op)
{
	op_ends(w, op);
}

static void
run_committed(struct pg_batch *b)
{
	struct stats *s = &b->worker->stats;

	b->total->commits++;
	stats_add(s, STAT_TRANSACTIONS, b->run.n);
	stats_observe(s, STATS_BATCH_SIZE, b->run.n);
	stats_observe(s, STATS_BATCH_COMMIT,
		      (b->worker->streams.now_ns - b->sent_ns) / 1000u);
	while (b->run.n > 0) {
		struct op *op = queue_take(&b->run);

		if (!has_news(op) || !redis_publish(b->worker, op))
			op_ends(b->worker, op);
	}
}

static void
rest(struct lessee *l)
{
	struct pg_batch *b = (struct pg_batch *)(void *)l;
	struct op *op = b->run.head;

	touch(b);
	b->checked = NULL;
	if (b->run.n == 0) {
		arm(b);
		return;
	}
	if (pg_server(b->server)->status != 'I' ||
	    (!b->failed && b->executed != b->run.n)) {
		server_close(b->server, WHY_DOUBT, NULL, NULL);
		return;
	}
	if (!b->failed) {
		run_committed(b);
	} else if (b->run.n > 1 || is_renewed(b, op)) {
		run_again(b);
	} else {
		queue_take(&b->run);
		op->failed = true;
		op_ends(b->worker, op);
	}
	b->at = NULL;
	arm(b);
}

/* ---- lost servers ----------------------------------------------------- */

/* Can it not have committed?  `said`: the server's own last word. */
static bool
is_undone(const struct pg_batch *b, const struct server *v, bool said)
{
	/* An error; the end of the Sync has not left; or the last word came
	 * before all was answered, and what was answered comes in order. */
	return b->failed || buf_len(&v->stream.out) > 0 ||
	       (said && b->executed < b->run.n);
}

static void
log_unknown(const struct pg_batch *b, enum why why, const char *text)
{
	LOG(b->worker->weir->log, LOG_WARN, LOG_EV_OUTCOME,
	    log_str("table", b->terms->batch->name),
	    log_str("tenant", b->terms->tenant ? b->terms->tenant->slug : ""),
	    log_num("operations", b->run.n),
	    log_str("why", why_table[why].name),
	    log_str("error", text ? text : ""));
}

static void
run_lost(struct pg_batch *b, enum why why, const char *sqlstate,
	 const char *text, const struct server *v)
{
	struct worker *w = b->worker;
	bool refused = why == WHY_BIND_FAILED;
	/* An administrator's, or a crash: PostgreSQL's own last words. */
	bool said = sqlstate != NULL && strncmp(sqlstate, "57P0", 4) == 0;
	bool undone = refused || is_undone(b, v, said);

	if (!undone) {
		log_unknown(b, why, text);
		stats_add(&w->stats, STAT_BATCH_UNKNOWN, b->run.n);
		b->total->unknown += b->run.n;
		while (b->run.n > 0)
			op_fails(w, queue_take(&b->run), WHY_OUTCOME_UNKNOWN,
				 NULL, NULL);
		return;
	}
	for (struct op *op = b->run.head; op != NULL; op = op->next)
		op->tries++;
	run_again(b);
	/* They are in front, and have tried equally often. */
	while (b->waiting.n > 0 && (b->waiting.head->tries > BATCH_TRIES ||
				    (refused && b->waiting.head->tries > 0)))
		op_fails(w, queue_take(&b->waiting), why, sqlstate, text);
}

static void
lost(struct lessee *l, enum why why, const char *sqlstate, const char *text)
{
	struct pg_batch *b = (struct pg_batch *)(void *)l;
	struct server *v = b->server;

	b->server = NULL;
	b->remain = 0;
	b->checked = NULL;
	if (v == NULL)
		fail_waiting(b, why, sqlstate, text);
	else if (b->run.n > 0)
		run_lost(b, why, sqlstate, text, v);
	b->at = NULL;
	touch(b);
	arm(b);
}

static void
room(struct lessee *l)
{
	(void)l; /* what is sent is sent at once */
}

static const struct lessee_ops batch_ops = {
	.granted = granted,
	.reply = reply,
	.settled = settled,
	.rest = rest,
	.lost = lost,
	.room = room,
};

/* ---- a worker's ------------------------------------------------------- */

static void
on_linger(evutil_socket_t fd, short what, void *arg)
{
	struct pg_batches *all = arg;

	(void)fd;
	(void)what;
	streams_tick(&all->worker->streams);
	all->linger_ns = 0;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct pg_batch *b = all->bucket[i]; b; b = b->chain)
			touch(b);
}

struct pg_batches *
pg_batches_open(struct worker *w)
{
	struct pg_batches *all = calloc(1, sizeof(*all));

	if (all == NULL)
		abort();
	all->worker = w;
	queue_init(&all->refused);
	event_assign(&all->linger, w->base, -1, 0, on_linger, all);
	return all;
}

void
pg_batches_close(struct pg_batches **at)
{
	struct total *t;

	assert((*at)->n == 0 && (*at)->ops == 0);
	event_del(&(*at)->linger);
	while ((t = (*at)->totals) != NULL) {
		(*at)->totals = t->next;
		free(t->table);
		free(t);
	}
	free(*at);
	*at = NULL;
}

bool
pg_batches_idle(const struct worker *w)
{
	return w->batches->n == 0 && w->batches->ops == 0;
}

static void
see_batch(const struct pg_batch *b,
	  void (*see)(void *, const struct pg_batch_seen *), void *arg)
{
	struct pg_batch_seen seen = {
		.table = b->terms->batch->name,
		.organization = b->terms->tenant ? b->terms->tenant->slug : "",
		.database = b->terms->dbname,
		.lanes = 1,
		.waiting = b->waiting.n,
		.waiting_bytes = b->waiting.bytes,
		.sent = b->run.n,
	};

	if (b->waiting.n > 0)
		seen.wait_us =
		    (b->worker->streams.now_ns - b->waiting.head->since_ns) /
		    1000u;
	see(arg, &seen);
}

void
pg_batches_see(const struct worker *w,
	       void (*see)(void *, const struct pg_batch_seen *), void *arg)
{
	for (const struct total *t = w->batches->totals; t != NULL; t = t->next)
		see(arg, &(struct pg_batch_seen){ .table = t->table,
						  .operations = t->operations,
						  .commits = t->commits,
						  .replayed = t->replayed,
						  .unknown = t->unknown });
	for (unsigned i = 0; i < BUCKETS; i++)
		for (const struct pg_batch *b = w->batches->bucket[i];
		     b != NULL; b = b->chain)
			see_batch(b, see, arg);
}

void
pg_batches_abort(struct worker *w)
{
	for (unsigned i = 0; i < BUCKETS; i++)
		for (struct pg_batch *b = w->batches->bucket[i]; b;
		     b = b->chain) {
			pool_unwant(&b->lessee);
			if (b->server != NULL)
				server_close(b->server, WHY_SHUTDOWN, NULL,
					     NULL);
			fail_waiting(b, WHY_SHUTDOWN, NULL, NULL);
			touch(b);
		}
}

#include "proxy/pg_op.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pool/label.h"
#include "protocol/row_text.h"
#include "proxy/pg_hold.h"
#include "proxy/pg_text.h"
#include "proxy/redis_publish.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

/* An operation that fails costs its neighbours a second try: who fails often
 * has its next ones run alone. */
enum { FAULT = 8, FAULTS_MAX = 64, FAULTS_ALONE = 2 * FAULT };

/* A request as it is being read: views of the client's bytes. */
struct draft {
	struct pg_session *ps;
	const uint8_t *p, *end;
	const struct conf_batch *batch;
	enum op_form form;
	uint64_t key;
	bool has_key;
	bool tells; /* more than that a row was inserted */
	unsigned n;
	struct draft_part {
		struct slice body, args;
		const struct stmt_entry *named; /* NULL: it is unnamed */
		bool parse, describe, told, unsaid;
		uint32_t channel, channel_n, message_n; /* in news */
	} part[OP_PARTS_MAX];
	struct slice unnamed; /* its own last unnamed Parse; none: NULL */
	bool parsed;          /* and no Bind behind it yet */
	bool bound;           /* a Bind, and no Execute behind it yet */
	struct insert *query; /* what a Query says; its own */
	struct buf news;      /* what is to be told of it */
};

/* ---- judging ---------------------------------------------------------- */

/* Is what follows a Bind's names well made, with so many values?  If not, the
 * error is nobody else's business. */
static bool
is_sound(struct slice args, unsigned params)
{
	struct pg_reader r = pg_reader(args.p, args.n);
	unsigned n = pg_read_u16(&r), values;

	pg_read_bytes(&r, 2 * (size_t)n);
	values = pg_read_u16(&r);
	if (n > 1 && n != values)
		return false;
	for (unsigned i = 0; i < values && !r.bad; i++) {
		int32_t len = (int32_t)pg_read_u32(&r);

		if (len > 0)
			pg_read_bytes(&r, (size_t)len);
		else if (len < -1)
			return false;
	}
	n = pg_read_u16(&r);
	pg_read_bytes(&r, 2 * (size_t)n);
	return !r.bad && r.p == r.end && values == params;
}

/* The number of parameters of a Parse's body: what it gives types, or uses. */
static unsigned
params_of(struct slice body, const struct insert *in)
{
	struct pg_reader r = pg_reader(body.p, body.n);
	unsigned types;

	pg_read_str(&r);
	types = pg_read_u16(&r);
	return !r.bad && types > in->params ? types : in->params;
}

static struct slice
types_of(const struct draft_part *part)
{
	struct pg_reader r = pg_reader(part->body.p, part->body.n);

	pg_read_str(&r);
	return slice_of(r.p, (size_t)(r.end - r.p));
}

static struct slice
types_told(const struct draft_part *part)
{
	const struct stmt_entry *e = part->named;

	return e && e->types ? slice_of(e->types, e->types_n) : slice_of("", 0);
}

/* The type of a statement's n-th parameter, as its Parse or a server has it;
 * 0: nobody has said. */
static unsigned
type_of(const struct draft_part *part, unsigned n)
{
	unsigned type = pg_type_at(types_of(part), n);

	return type == 0 ? pg_type_at(types_told(part), n) : type;
}

/* All of one request must go by one lane. */
static bool
key_of(struct draft *d, const struct insert *in, const struct draft_part *part)
{
	const struct insert_column *c;
	struct slice value = { 0 };
	unsigned type = 0;
	ssize_t n = 0;
	int format = 0;
	uint64_t key;

	if (d->batch->order_by == NULL || d->batch->in_flight == 1)
		return true;
	if ((c = insert_column(in, d->batch->order_by)) == NULL)
		return false;
	if (c->kind == INSERT_PARAM) {
		type = type_of(part, c->param);
		if (!pg_bind_value(part->args, c->param, &format, &value, &n))
			return false;
	}
	if (!insert_key(c, type, format, value.p, n, &key) ||
	    (d->has_key && key != d->key))
		return false;
	d->key = key;
	d->has_key = true;
	return true;
}

/* A text that its session's settings make something of its own is nobody
 * else's statement. */
static bool
is_of(struct draft *d, const struct insert *in, struct slice text)
{
	const struct conf_batch *b =
	    in ? pg_text_batch(d->ps->s.snapshot->conf, in) : NULL;

	if (b == NULL || (d->batch != NULL && d->batch != b) ||
	    label_reads(d->ps->s.lessee.label, text) != 0)
		return false;
	d->batch = b;
	d->tells |= in->returning || in->conflict;
	return true;
}

/* ---- the extended protocol -------------------------------------------- */

static bool
draft_parse(struct draft *d, struct pg_reader r)
{
	struct slice name = pg_read_str(&r);
	const struct pg_text *t;

	if (r.bad || name.n > 0 || d->bound || d->parsed)
		return false;
	d->unnamed = slice_of(r.p, (size_t)(r.end - r.p));
	t = pg_text_find(d->ps->s.worker, d->unnamed);
	if (t == NULL || t->insert == NULL || t->insert->block)
		return false;
	d->parsed = true;
	return is_of(d, t->insert, d->unnamed);
}

/* The statement a Bind names, if it may be one of an operation. */
static bool
draft_statement(struct draft *d, struct slice name, struct draft_part *part)
{
	const struct pg_session *ps = d->ps;
	const struct stmt_entry *e;

	part->named = NULL;
	if (name.n == 0) {
		if (d->unnamed.p != NULL)
			part->body = d->unnamed;
		else if (ps->has_unnamed && ps->unnamed_flags == 0)
			part->body = slice_of(ps->unnamed, ps->unnamed_n);
		else
			return false;
		return true;
	}
	e = stmt_names_find(&ps->names, name);
	if (e == NULL || e->stmt == NULL || e->stmt->stale ||
	    e->stmt->flags != 0)
		return false;
	part->named = e;
	part->body = slice_of(e->stmt->body, e->stmt->len);
	return true;
}

static bool
draft_bind(struct draft *d, struct pg_reader r)
{
	struct slice portal = pg_read_str(&r), name = pg_read_str(&r);
	struct draft_part *part = &d->part[d->n];
	const struct pg_text *t;

	if (r.bad || portal.n > 0 || d->bound || d->n == OP_PARTS_MAX ||
	    (name.n > 0 && d->parsed) || !draft_statement(d, name, part))
		return false;
	t = pg_text_find(d->ps->s.worker, part->body);
	part->args = slice_of(r.p, (size_t)(r.end - r.p));
	part->parse = d->parsed;
	part->describe = false;
	d->parsed = false;
	d->bound = true;
	return t != NULL && t->insert != NULL && !t->insert->block &&
	       is_of(d, t->insert, part->body) &&
	       is_sound(part->args, params_of(part->body, t->insert)) &&
	       key_of(d, t->insert, part);
}

static bool
draft_describe(struct draft *d, struct pg_reader r)
{
	uint8_t kind = pg_read_u8(&r);
	struct slice name = pg_read_str(&r);

	if (r.bad || kind != 'P' || name.n > 0 || !d->bound ||
	    d->part[d->n].describe)
		return false;
	d->part[d->n].describe = true;
	return true;
}

static bool
draft_execute(struct draft *d, struct pg_reader r)
{
	struct slice portal = pg_read_str(&r);
	uint32_t rows = pg_read_u32(&r);

	if (r.bad || portal.n > 0 || rows != 0 || !d->bound)
		return false;
	d->bound = false;
	d->n++;
	return true;
}

static bool
draft_message(struct draft *d, const struct pg_frame *m)
{
	struct pg_reader r = pg_reader(d->p + PG_HEADER, m->size - PG_HEADER);

	switch (m->type) {
	case 'P':
		return draft_parse(d, r);
	case 'B':
		return draft_bind(d, r);
	case 'D':
		return draft_describe(d, r);
	case 'E':
		return draft_execute(d, r);
	default:
		return false;
	}
}

/* Up to its Sync; that half of it is here tells nothing. */
static enum op_take
draft_extended(struct draft *d)
{
	const uint8_t *start = d->p;
	struct pg_frame m;
	int got;

	d->form = OP_EXTENDED;
	for (;;) {
		got = pg_frame_next(&m, d->p, (size_t)(d->end - d->p));
		if (got < 0)
			return OP_NONE;
		if (got > 0 && m.type == 'S')
			break;
		if (got > 0 && (strchr("PBDE", m.type) == NULL ||
				(size_t)(d->p - start) + m.size > OP_BYTES_MAX))
			return OP_NONE;
		if (got == 0 || (size_t)(d->end - d->p) < m.size)
			return OP_LATER;
		if (!draft_message(d, &m))
			return OP_NONE;
		d->p += m.size;
	}
	if (m.size != PG_HEADER || d->n == 0 || d->parsed || d->bound)
		return OP_NONE;
	d->p += m.size;
	return OP_TAKEN;
}

/* ---- the simple protocol ---------------------------------------------- */

static enum op_take
draft_query(struct draft *d, const struct pg_frame *m)
{
	static const uint8_t no_args[6]; /* formats, values, formats: none */
	struct draft_part *part = &d->part[0];
	struct pg_reader r;
	struct slice text;
	struct insert *in;
	bool is_one;

	if (m->size > OP_BYTES_MAX)
		return OP_NONE; /* it may not be here as a whole */
	r = pg_reader(d->p + PG_HEADER, m->size - PG_HEADER);
	text = pg_read_str(&r);
	if (r.bad || r.p != r.end)
		return OP_NONE;
	if ((in = pg_text_read(d->ps->s.snapshot->conf, text)) == NULL)
		return OP_NONE;
	d->query = in;
	part->body = slice_of(text.p + in->at, in->n);
	part->args = slice_of(no_args, sizeof(no_args));
	part->named = NULL;
	part->describe = true;
	d->form = in->block ? OP_TRANSACTION : OP_QUERY;
	d->n = 1;
	d->p += m->size;
	is_one = in->params == 0 && is_of(d, in, text) && key_of(d, in, part);
	return is_one ? OP_TAKEN : OP_NONE;
}

/* ---- what Redis is told ----------------------------------------------- */

/* Now, as later nobody knows what the client knows of its parameters' types. */
static void
draft_news_of(struct draft *d, struct draft_part *part,
	      const struct insert *insert)
{
	const struct row_values row = {
		.insert = insert,
		.args = part->args,
		.types = { types_of(part), types_told(part) },
	};
	size_t from = buf_len(&d->news), middle = from;

	part->told = row_text_put(&d->news, d->batch->channel, &row) == 0 &&
		     (middle = buf_len(&d->news)) > from &&
		     row_text_put(&d->news, d->batch->message, &row) == 0;
	part->unsaid = !part->told;
	if (part->unsaid)
		buf_truncate(&d->news, from);
	part->channel = (uint32_t)from;
	part->channel_n = (uint32_t)(middle - from);
	part->message_n = (uint32_t)(buf_len(&d->news) - middle);
}

static void
draft_news(struct draft *d)
{
	struct worker *w = d->ps->s.worker;

	for (unsigned i = 0; i < d->n && d->batch->channel != NULL; i++)
		draft_news_of(d, &d->part[i],
			      d->query
				  ? d->query
				  : pg_text_find(w, d->part[i].body)->insert);
}

/* ---- taking ----------------------------------------------------------- */

/* Text only: its NUL and the number of its types are added. */
enum { QUERY_MORE = 3 };

static size_t
size_of(const struct draft *d)
{
	size_t n = buf_len(&d->news);

	for (unsigned i = 0; i < d->n; i++)
		n += d->part[i].body.n + d->part[i].args.n +
		     (d->form == OP_EXTENDED ? 0 : QUERY_MORE);
	return n;
}

static uint32_t
op_copy(struct op *op, size_t *at, struct slice s)
{
	uint32_t from = (uint32_t)*at;

	if (s.n > 0)
		memcpy(op->bytes + from, s.p, s.n);
	*at += s.n;
	return from;
}

static void
op_copy_news(struct op *op, size_t *at, const struct draft *d)
{
	struct slice news;
	uint32_t from;

	news.p = buf_peek(&d->news, &news.n);
	from = op_copy(op, at, news);
	for (unsigned i = 0; i < d->n; i++)
		op->part[i].channel = from + d->part[i].channel;
}

static struct op *
op_of(const struct draft *d)
{
	struct op *op = op_new(d->n, size_of(d));
	static const uint8_t more[QUERY_MORE];
	size_t at = 0;

	op->form = d->form;
	for (unsigned i = 0; i < d->n; i++) {
		const struct draft_part *from = &d->part[i];
		struct op_part *to = &op->part[i];

		to->body = op_copy(op, &at, from->body);
		if (d->form != OP_EXTENDED)
			op_copy(op, &at, slice_of(more, sizeof(more)));
		to->body_n = (uint32_t)at - to->body;
		to->args = op_copy(op, &at, from->args);
		to->args_n = (uint32_t)at - to->args;
		to->query = d->form != OP_EXTENDED;
		to->parse = from->parse;
		/* Without columns it has one shape only. */
		to->shape = from->named && from->named->shape > 1
				? from->named->shape
				: 0;
		to->describe = from->describe;
		to->news = from->told;
		to->unsaid = from->unsaid;
		to->channel_n = from->channel_n;
		to->message_n = from->message_n;
	}
	op_copy_news(op, &at, d);
	assert(at == op->size);
	return op;
}

static bool
has_terms(struct pg_session *ps, const struct conf_batch *batch)
{
	if (pg_terms_hold(ps->terms, &ps->s, batch))
		return true;
	if (ps->ops != NULL)
		return false;
	pg_terms_unref(&ps->terms);
	ps->terms = pg_terms_new(&ps->s, batch);
	return ps->terms != NULL;
}

/* By which lane, and on which worker?  Without an order to keep: here. */
static void
route(const struct draft *d, unsigned *lane, unsigned *worker)
{
	const struct worker *w = d->ps->s.worker;
	unsigned lanes = d->batch->in_flight;

	if (d->batch->order_by == NULL) {
		*lane = (unsigned)(d->ps->s.id % lanes);
		*worker = w->id;
		return;
	}
	*lane = d->has_key ? (unsigned)(d->key % lanes) : 0;
	*worker = (unsigned)((d->ps->terms->hash + *lane) % w->weir->workers);
}

/* May it follow what is under way, so that its answer comes behind theirs? */
static bool
may_follow(const struct pg_session *ps, const struct draft *d, unsigned lane,
	   unsigned worker)
{
	const struct op *last = ps->ops_last;

	if (ps->ops == NULL)
		return true;
	return d->form != OP_TRANSACTION && ps->ops_n < OPS_MAX &&
	       last->lane == lane && last->worker == worker;
}

void
pg_op_submit(struct pg_session *ps, struct op *op)
{
	struct session *s = &ps->s;

	op->session = s;
	op->since_ns = ps->ask_ns = s->worker->streams.now_ns;
	op->alone = ps->faults >= FAULTS_ALONE;
	if (ps->ops == NULL)
		ps->ops = op;
	else
		ps->ops_last->behind = op;
	ps->ops_last = op;
	ps->ops_n++;
	if (s->state == SESSION_IDLE)
		session_enter(s, SESSION_BATCH);
	pg_batch_submit(s->worker, op);
}

/* Its organization writes too often: it is answered here, and that is all. */
static enum op_take
refuse(struct pg_session *ps, struct feed *f, size_t size)
{
	const struct why_row *row = &why_table[WHY_RATE_OPERATIONS];
	struct buf *out = stream_out(&ps->s.stream);

	stats_add(&ps->s.worker->stats, STAT_RATE_OPERATIONS, 1);
	pg_message_drop(ps, f, (uint32_t)size);
	if (pg_put_retry(out, "ERROR", row->sqlstate, row->text,
			 ps->s.retry_ms) != 0 ||
	    pg_put_ready(out, 'I') != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	else
		session_rearm(&ps->s);
	return OP_TAKEN;
}

/* The client's unnamed statement, as it is for PostgreSQL from now on. */
static void
keep_unnamed(const struct draft *d)
{
	if (d->unnamed.p == NULL && d->form == OP_EXTENDED)
		return;
	pg_message_drop_unnamed(d->ps); /* a Query drops it, too */
	if (d->unnamed.p != NULL)
		pg_message_keep_unnamed(d->ps, d->unnamed, 0);
}

/* Until its transaction is committed. */
static enum op_take
hold(struct draft *d, struct feed *f)
{
	struct pg_session *ps = d->ps;
	size_t size = (size_t)(d->p - (f->p + f->at));
	struct op *op;

	if (!d->batch->transactions || d->tells || d->form == OP_TRANSACTION ||
	    !has_terms(ps, d->batch))
		return OP_NONE;
	draft_news(d);
	op = op_of(d);
	op->terms = pg_terms_ref(ps->terms);
	route(d, &op->lane, &op->worker);
	if (!pg_hold_fits(ps, op) || !seat_pay_requests(&ps->s, d->n)) {
		op_free(op);
		return OP_NONE;
	}
	keep_unnamed(d);
	ps->epoch++;
	pg_hold_add(ps, op);
	if (session_is_over(&ps->s))
		return OP_TAKEN;
	pg_message_drop(ps, f, (uint32_t)size);
	session_rearm(&ps->s);
	return OP_TAKEN;
}

static enum op_take
take(struct draft *d, struct feed *f)
{
	struct pg_session *ps = d->ps;
	size_t size = (size_t)(d->p - (f->p + f->at));
	unsigned lane, worker;
	enum seat_paid paid;
	struct op *op;

	if (!has_terms(ps, d->batch))
		return OP_NONE;
	route(d, &lane, &worker);
	if (!may_follow(ps, d, lane, worker))
		return OP_NONE;
	paid = seat_pay_operations(&ps->s, d->n, d->n);
	if (paid == SEAT_NO_OPERATIONS)
		return ps->ops != NULL ? OP_LATER : refuse(ps, f, size);
	if (paid == SEAT_NO_QUERIES)
		return OP_NONE; /* it hears of it there */
	draft_news(d);
	op = op_of(d);
	op->terms = pg_terms_ref(ps->terms);
	op->lane = lane;
	op->worker = worker;
	keep_unnamed(d);
	ps->epoch++;
	pg_op_submit(ps, op);
	/* One that may have to run by itself lies there until it is done. */
	ps->kept = d->form == OP_TRANSACTION ? size : 0;
	if (ps->kept > 0)
		return OP_LATER;
	pg_message_drop(ps, f, (uint32_t)size);
	return OP_TAKEN;
}

static bool
may_take(struct pg_session *ps, const struct pg_frame *m)
{
	bool by_itself = ps->by_itself;

	ps->by_itself = false;
	return !by_itself && ps->s.snapshot->conf->batch_n > 0 &&
	       strchr("QPB", m->type) != NULL &&
	       (ps->begun == 0 || pg_hold_may(ps)) &&
	       ps->mode != POOL_MODE_SESSION && !ps->leaving &&
	       !stream_is_high(&ps->s.stream);
}

static enum op_take
take_draft(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	struct draft d = { .ps = ps, .p = f->p + f->at, .end = f->p + f->n };
	enum op_take did;

	buf_init(&d.news, PUBLISH_NEWS_MAX);
	did = m->type == 'Q' ? draft_query(&d, m) : draft_extended(&d);
	if (did == OP_TAKEN)
		did = ps->begun != 0 ? hold(&d, f) : take(&d, f);
	insert_free(&d.query);
	buf_free(&d.news);
	return did;
}

enum op_take
pg_op_take(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	enum op_take did = OP_NONE;

	assert(ps->s.lessee.server == NULL);
	if (ps->kept > 0)
		return OP_LATER;
	if (may_take(ps, m))
		did = take_draft(ps, f, m);
	return did == OP_NONE && ps->ops != NULL ? OP_LATER : did;
}

/* ---- answers ---------------------------------------------------------- */

/* What PostgreSQL has said, but for ReadyForQuery. */
static int
put_reply(struct buf *out, const struct op *op)
{
	size_t n;
	const uint8_t *p = buf_peek(&op->reply, &n);

	if (op->form != OP_HELD)
		return buf_put(out, p, n);
	if (pg_hold_tell(out, &op->reply) != 0)
		return -1;
	return op->failed ? 0 : pg_put(out, 'C', "s", "COMMIT");
}

static void
answer(struct pg_session *ps, struct op *op)
{
	struct session *s = &ps->s;
	struct buf *out = stream_out(&s->stream);

	ps->faults += op->failed ? FAULT : ps->faults > 0 ? -1 : 0;
	if (ps->faults > FAULTS_MAX)
		ps->faults = FAULTS_MAX;
	if (op->failed && op->form == OP_TRANSACTION) {
		/* The next thing it asks, and it does not come here again. */
		ps->by_itself = true;
		ps->kept = 0;
		seat_pay_back(s);
		return;
	}
	if (ps->kept > 0 && !ps->leaving)
		stream_consume(&s->stream, ps->kept);
	ps->kept = 0;
	stats_add(&s->worker->stats, STAT_BATCH_FAILED,
		  op->failed || op->why != WHY_MAX);
	if (op->why != WHY_MAX)
		pg_say_error(s, "ERROR", op->why,
			     op->sqlstate[0] ? op->sqlstate : NULL, op->text);
	if ((op->why == WHY_MAX && put_reply(out, op) != 0) ||
	    pg_put_ready(out, 'I') != 0)
		session_close(s, WHY_SLOW_READER, NULL, NULL);
}

/* All it had under way is answered. */
static void
is_over(struct pg_session *ps)
{
	struct session *s = &ps->s;

	if (session_is_over(s))
		return;
	session_enter(s, SESSION_IDLE);
	if (ps->leaving)
		session_close(s, s->stream.eof ? WHY_EOF : WHY_QUIT, NULL,
			      NULL);
	else if (buf_len(&s->stream.in) > 0 || s->worker->drain_ns != 0 ||
		 s->stream.eof)
		session_wake(s);
}

void
pg_op_home(struct worker *w, struct op *op)
{
	struct pg_session *ps;
	bool was_full;

	atomic_fetch_sub(&w->weir->operations, 1);
	if (op->session == NULL) {
		op_free(op);
		return;
	}
	ps = pg_session(op->session);
	was_full = ps->ops_n >= OPS_MAX;
	op->done = true;
	while ((op = ps->ops) != NULL && op->done) {
		ps->ops = op->behind;
		ps->ops_n--;
		if (!session_is_over(&ps->s))
			answer(ps, op);
		op_free(op);
	}
	if (ps->ops == NULL)
		is_over(ps);
	else if (was_full && ps->ops_n < OPS_MAX)
		session_wake(&ps->s); /* there is room for one more */
}

void
pg_op_part(struct pg_session *ps)
{
	struct op *op;

	while ((op = ps->ops) != NULL) {
		ps->ops = op->behind;
		ps->ops_n--;
		op->session = NULL;
		if (op->done)
			op_free(op);
	}
}

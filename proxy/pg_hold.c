#include "proxy/pg_hold.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"
#include "proxy/pg_local.h"
#include "proxy/pg_op.h"
#include "proxy/pg_switch.h"
#include "proxy/pg_text.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

/* As whose the unnamed statement is parsed: no session's number, nor a batch's. */
#define HOLD_OWNER (UINT64_MAX - 1)

/* ---- holding ---------------------------------------------------------- */

static bool
is_wanted(const struct conf *c)
{
	for (size_t i = 0; i < c->batch_n; i++)
		if (c->batch[i].transactions)
			return true;
	return false;
}

bool
pg_hold_may(const struct pg_session *ps)
{
	return pg_local_is_plain(ps) && ps->s.lessee.server == NULL &&
	       !pg_switch_is_away(ps) && is_wanted(ps->s.snapshot->conf);
}

/* What is told of an INSERT that nobody has run. */
static int
put_answer(struct buf *out, const struct op_part *part)
{
	int r = 0;

	if (part->parse)
		r |= pg_put(out, '1', "");
	if (!part->query)
		r |= pg_put(out, '2', "");
	if (!part->query && part->describe)
		r |= pg_put(out, 'n', "");
	return r | pg_put(out, 'C', "s", "INSERT 0 1");
}

/* Of the last n that are held. */
static void
answer(struct pg_session *ps, unsigned n)
{
	struct buf *out = stream_out(&ps->s.stream);
	int r = 0;

	for (unsigned i = ps->held->parts - n; i < ps->held->parts; i++) {
		struct op_part *part = &ps->held->part[i];

		r |= put_answer(out, part);
		part->parse = part->describe = false; /* it has been told */
	}
	if (r != 0 || pg_put_ready(out, 'T') != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
}

bool
pg_hold_fits(const struct pg_session *ps, const struct op *op)
{
	const struct op *held = ps->held;

	assert(pg_hold_may(ps));
	for (unsigned i = 0; i < op->parts; i++)
		if (op->part[i].shape != 0)
			return false; /* it was said to return something */
	return held == NULL ||
	       (held->terms == op->terms && held->lane == op->lane &&
		held->parts + op->parts <= OP_PARTS_MAX &&
		held->size + op->size <= OP_BYTES_MAX);
}

static void
copy_parts(struct op *to, unsigned at, size_t offset, const struct op *from)
{
	memcpy(to->bytes + offset, from->bytes, from->size);
	for (unsigned i = 0; i < from->parts; i++) {
		struct op_part *part = &to->part[at + i];

		*part = from->part[i];
		part->body += (uint32_t)offset;
		part->args += (uint32_t)offset;
		part->channel += (uint32_t)offset;
	}
}

/* One operation of both, which it frees. */
static struct op *
join(struct op *a, struct op *b)
{
	struct op *op = op_new(a->parts + b->parts, a->size + b->size);

	copy_parts(op, 0, 0, a);
	copy_parts(op, a->parts, a->size, b);
	op->form = OP_HELD;
	op->terms = pg_terms_ref(a->terms);
	op->lane = a->lane;
	op->worker = a->worker;
	op_free(a);
	op_free(b);
	return op;
}

void
pg_hold_add(struct pg_session *ps, struct op *op)
{
	unsigned n = op->parts;

	op->form = OP_HELD;
	ps->held = ps->held != NULL ? join(ps->held, op) : op;
	ps->rest_ns = ps->s.worker->streams.now_ns;
	answer(ps, n);
}

void
pg_hold_drop(struct pg_session *ps)
{
	if (ps->held != NULL)
		op_free(ps->held);
	ps->held = NULL;
}

/* ---- COMMIT ----------------------------------------------------------- */

/* Its organization writes too often: nothing of it is done. */
static void
refuse(struct pg_session *ps)
{
	const struct why_row *row = &why_table[WHY_RATE_OPERATIONS];
	struct buf *out = stream_out(&ps->s.stream);

	stats_add(&ps->s.worker->stats, STAT_RATE_OPERATIONS, 1);
	pg_hold_drop(ps);
	if (pg_put_retry(out, "ERROR", row->sqlstate, row->text,
			 ps->s.retry_ms) != 0 ||
	    pg_put_ready(out, 'I') != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
}

void
pg_hold_commit(struct pg_session *ps)
{
	struct op *op = ps->held;

	assert(ps->begun == 0 && ps->s.lessee.server == NULL);
	/* Its requests were paid for one by one, when they were answered. */
	if (seat_pay_operations(&ps->s, op->parts, 0) != SEAT_PAID) {
		refuse(ps);
		return;
	}
	ps->held = NULL;
	stats_add(&ps->s.worker->stats, STAT_BATCH_HELD, 1);
	pg_op_submit(ps, op);
}

/* ---- on a server of its own ------------------------------------------- */

static void
send_part(struct pg_session *ps, const struct op *op,
	  const struct op_part *part)
{
	struct server *v = ps->s.lessee.server;
	struct buf *out = stream_out(&v->stream);
	struct slice body = slice_of(op->bytes + part->body, part->body_n);
	struct slice args = slice_of(op->bytes + part->args, part->args_n);
	const char *name = "";
	int r = 0;

	if (part->query) {
		if (!pg_server_parse_unnamed(v, NULL, HOLD_OWNER, 1))
			abort(); /* nothing has been answered yet */
		r |= pg_put(out, 'P', "sb", "", body);
	} else {
		const struct stmt *stmt =
		    pg_text_find(ps->s.worker, body)->stmt;

		pg_server_need(v, stmt);
		name = stmt->name;
	}
	if (!pg_server_expect(v, &ps->s.lessee, PG_BIND, LEDGER_SWALLOW, 0,
			      STMT_NONE) ||
	    !pg_server_expect(v, &ps->s.lessee, PG_EXECUTE, LEDGER_FORWARD, 0,
			      STMT_NONE))
		abort();
	r |= pg_put(out, 'B', "ssb", "", name, args);
	r |= pg_put(out, 'E', "si", "", 0);
	if (r != 0)
		abort(); /* it has been asked for nothing else yet */
}

void
pg_hold_send(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;
	struct op *op = ps->held;

	if (op == NULL)
		return;
	pg_message_check_stamp(ps);
	for (unsigned i = 0; i < op->parts; i++)
		send_part(ps, op, &op->part[i]);
	if (!pg_server_expect(v, &ps->s.lessee, PG_SYNC, LEDGER_SWALLOW, 0,
			      STMT_NONE) ||
	    pg_put(stream_out(&v->stream), 'S', "") != 0)
		abort();
	pg_message_synced(ps);
	stats_add(&ps->s.worker->stats, STAT_BATCH_MIXED, 1);
}

/* Tags, errors, and what PostgreSQL says by the way; the rest is swallowed. */
void
pg_hold_reply(struct pg_session *ps, const uint8_t *p, size_t n)
{
	ps->s.lessee.midway = false; /* of what the client sees */
	if (buf_put(&ps->held->reply, p, n) != 0)
		session_close(&ps->s, WHY_TOO_BIG, NULL, NULL);
}

/* Is it the tag of an INSERT that a trigger or a rule has left undone? */
static bool
is_in_vain(struct slice tag)
{
	return tag.n > 2 && memcmp(tag.p + tag.n - 2, " 0", 2) == 0;
}

int
pg_hold_tell(struct buf *out, const struct buf *said)
{
	struct pg_frame m;
	size_t n;
	const uint8_t *p = buf_peek(said, &n);
	int r = 0;

	for (; n > 0 && pg_frame_next(&m, p, n) > 0 && m.size <= n;
	     p += m.size, n -= m.size) {
		struct pg_reader body =
		    pg_reader(p + PG_HEADER, m.size - PG_HEADER);

		if (m.type == 'C' && is_in_vain(pg_read_str(&body)))
			r |= pg_put(out, 'N', "cscscscsc", 'S', "WARNING", 'V',
				    "WARNING", 'C', "01000", 'M',
				    "a row was not inserted, though weir has "
				    "said so: transactions = on",
				    0);
		if (strchr("NESA", m.type) != NULL)
			r |= buf_put(out, p, m.size);
	}
	return r;
}

/* The error was the answer to what waits to be asked. */
static void
skip_request(struct pg_session *ps)
{
	struct session *s = &ps->s;
	struct feed f = { 0 };
	struct pg_frame m;

	f.p = stream_peek(&s->stream, &f.n);
	if (pg_frame_next(&m, f.p, f.n) <= 0)
		return; /* it was looked at before it had to wait */
	if (m.type != 'Q' && m.type != 'F') {
		ps->skip = true;
		return;
	}
	pg_message_drop(ps, &f, m.size);
	stream_consume(&s->stream, f.at);
	stream_hold(&s->stream, 0);
	if (pg_put_ready(stream_out(&s->stream), 'E') != 0)
		session_close(s, WHY_SLOW_READER, NULL, NULL);
}

void
pg_hold_rest(struct pg_session *ps)
{
	struct pg_server *pg = pg_server(ps->s.lessee.server);
	struct op *op = ps->held;
	bool failed = pg->status == 'E';

	ps->held = NULL;
	if (pg_hold_tell(stream_out(&ps->s.stream), &op->reply) != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	ps->asked = true;
	stats_add(&ps->s.worker->stats, STAT_QUERIES, op->parts);
	stats_add(&ps->s.worker->stats, STAT_BATCH_FAILED, failed);
	op_free(op);
	if (session_is_over(&ps->s))
		return;
	if (pg->status != 'T' && !failed) {
		pg->doubt = true;
		session_close(&ps->s, WHY_DOUBT, NULL, NULL);
		return;
	}
	if (failed)
		skip_request(ps);
}

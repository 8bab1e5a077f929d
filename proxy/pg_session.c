/*
 * pg_session: a PostgreSQL client after log-in: its steps, its lease, its
 * deadlines.  What its messages mean is in pg_message.c.
 */
#include "proxy/pg_session.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"
#include "proxy/console.h"
#include "proxy/pg_hold.h"
#include "proxy/pg_local.h"
#include "proxy/pg_op.h"
#include "proxy/pg_switch.h"
#include "proxy/pg_track.h"
#include "proxy/seat.h"
#include "proxy/secrets.h"
#include "proxy/worker.h"

enum {
	OUT_MAX = 16 << 20,     /* far above what back-pressure lets through */
	STREAM_FROM = 32 << 10, /* a larger message is passed on as it comes */
	HOLD_MAX = 1 << 20      /* but SQL text is read whole up to this */
};

#define STALL_NS (60ull * 1000000000) /* half a message, then nothing */
/* How long a client that has left may keep its server to finish with; after
 * that the server is closed, and its backend finishes by itself. */
#define LEAVE_NS (250ull * 1000000)

static struct pg_server *
server_of(struct pg_session *ps)
{
	assert(ps->s.lessee.server != NULL);
	return pg_server(ps->s.lessee.server);
}

/* ---- the step --------------------------------------------------------- */

static bool
is_client_type(uint8_t type)
{
	static const bool known[128] = {
		['Q'] = true, ['P'] = true, ['B'] = true, ['D'] = true,
		['E'] = true, ['C'] = true, ['S'] = true, ['F'] = true,
		['H'] = true, ['X'] = true, ['d'] = true, ['c'] = true,
		['f'] = true
	};

	return type < sizeof(known) && known[type];
}

enum have { HAVE_ENOUGH, HAVE_LITTLE, HAVE_BAD };

/* Is enough of this message here to act on it?  SQL is read whole up to a
 * bound, other long messages are passed on as they come. */
static enum have
have_enough(struct pg_session *ps, const struct pg_frame *m, const uint8_t *p,
	    size_t here)
{
	size_t hold = ps->s.snapshot->conf->max_message_size;
	bool is_named =
	    m->type == 'P' && here > PG_HEADER && p[PG_HEADER] != '\0';

	if (here >= m->size)
		return HAVE_ENOUGH;
	if (m->size <= STREAM_FROM)
		return HAVE_LITTLE;
	if (strchr("DCEHSXcf", m->type) != NULL)
		return HAVE_BAD; /* none of these is ever so long */
	/* Who may not say everything is heard to the end. */
	if (!is_named && hold > HOLD_MAX && !pg_message_is_watched(ps))
		hold = HOLD_MAX;
	if ((m->type == 'Q' || m->type == 'P') && m->size <= hold) {
		stream_hold(&ps->s.stream, m->size);
		return HAVE_LITTLE;
	}
	return here >= STREAM_FROM ? HAVE_ENOUGH : HAVE_LITTLE;
}

static void
rest_of_message(struct pg_session *ps, struct feed *f)
{
	size_t here = f->n - f->at;
	size_t take = here < ps->remain ? here : ps->remain;

	if (ps->drop)
		pg_message_drop(ps, f, ps->remain);
	else
		f->at += take;
	if (!ps->drop)
		ps->remain -= (uint32_t)take;
}

/* After an error of ours in the extended protocol. */
static void
skip_message(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	/* With a server in hand the error was that of what was held. */
	char status = ps->s.lessee.server != NULL ? server_of(ps)->status : 'I';

	if (m->type == 'X') {
		session_close(&ps->s, WHY_QUIT, NULL, NULL);
		return;
	}
	if (m->type == 'S') {
		ps->skip = false;
		if (pg_put_ready(stream_out(&ps->s.stream), status) != 0) {
			session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
			return;
		}
	}
	pg_message_drop(ps, f, m->size);
}

/* Nothing is owed, nothing is open, and all it said is judged: back it goes.
 * What began to come behind ReadyForQuery is waited for, and then its rest. */
static bool
may_give_back(struct pg_session *ps)
{
	struct pg_server *pg = server_of(ps);

	return pg->s.ledger.n == 0 && !pg->rested && pg->status == 'I' &&
	       !ps->pinned && ps->remain == 0 && !pg->copying_in &&
	       pg->remain == 0;
}

/* All is answered, or will not be, because no Sync asks for it. */
static bool
may_leave(const struct pg_session *ps)
{
	const struct server *v = ps->s.lessee.server;

	return ps->ops == NULL && (v == NULL || v->ledger.n == 0);
}

/* It has asked to reset all: the server, at rest, has done so for good. */
static bool
has_reset(struct pg_session *ps)
{
	bool done = ps->resets && server_of(ps)->reset && ps->sw != NULL;

	ps->resets = server_of(ps)->reset = false;
	return done;
}

static void
give_back(struct pg_session *ps)
{
	struct session *s = &ps->s;
	bool committed = server_of(ps)->committed, reset = has_reset(ps);

	assert(ps->parses == 0 && ps->checks == 0);
	ps->bound_wait = ps->bound_first = false;
	if (ps->server_paused)
		stream_resume(&s->lessee.server->stream);
	ps->server_paused = false;
	server_release(s->lessee.server);
	session_enter(s, SESSION_IDLE);
	pg_switch_end(ps, committed, reset);
	if (session_is_over(s))
		return;
	pg_track_settle(ps);
	if (s->worker->drain_ns != 0)
		session_wake(s); /* its step ends it if it is quiet */
}

/* What it has asked waits for an organization: the answer wakes it. */
static bool
is_looked_up(const struct pg_session *ps)
{
	return ps->s.directory.ask != NULL && !ps->s.directory.home;
}

/* What it has sent is not looked at before its server, or the directory, has
 * said something. */
static bool
is_held_back(const struct pg_session *ps)
{
	const struct server *v = ps->s.lessee.server;

	return is_looked_up(ps) || ps->checks > 0 || ps->bound_wait ||
	       pg_hold_is_running(ps) || (v != NULL && pg_server_is_asked(v));
}

static bool
stall(struct pg_session *ps)
{
	ps->stalled = true;
	stream_pause(&ps->s.stream);
	return true;
}

/* Why the client must wait, if it must: in the middle of a message only until
 * the server has taken what it was sent. */
static bool
must_wait(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;

	if (v == NULL)
		return false;
	if (pg_hold_is_running(ps) || pg_server_is_asked(v))
		return true;
	if (ps->remain > 0)
		return !ps->drop && stream_is_high(&v->stream) && stall(ps);
	if (pg_server_full(v))
		return stall(ps);
	if (ps->checks > 0)
		return true;
	/* Settings that were taken back are put again once that is done; a
	 * COPY waits for the client. */
	if (!pg_server_binding(v) && !ps->bound_first &&
	    (v->ledger.n == 0 || !pg_server_is_unset(v) ||
	     server_of(ps)->copying_in))
		ps->bound_wait = false;
	return ps->bound_wait;
}

/*
 * Of a request that needs a server: is its organization within its rate?  It
 * pays before it waits, so that what is refused has cost nobody anything.  In a
 * transaction that has asked nothing yet it fails where that does.
 */
static bool
may_ask(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	struct session *s = &ps->s;
	struct buf *out = stream_out(&s->stream);
	const struct why_row *row = &why_table[WHY_RATE_QUERIES];
	int failed;

	if (s->rates == NULL || ps->begun != 0 || pg_message_is_free(f, m) ||
	    seat_pay_ahead(s, 1))
		return true;
	failed =
	    pg_put_retry(out, "ERROR", row->sqlstate, row->text, s->retry_ms);
	if (m->type == 'Q' || m->type == 'F') {
		pg_message_drop(ps, f, m->size);
		failed |= pg_put_ready(out, 'I');
	} else {
		ps->skip = true;
	}
	if (failed)
		session_close(s, WHY_SLOW_READER, NULL, NULL);
	else
		session_rearm(s);
	return false;
}

/* What begins a request waits until a signed setting that has grown old is put
 * anew; at a grant that has been done. */
static bool
is_renewed(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	if (!pg_server_is_due(ps->s.lessee.server) ||
	    strchr("QPBDECFS", m->type) == NULL)
		return true;
	pg_message_flush(ps, f);
	/* Whatever the server says, it is looked at again. */
	ps->stalled = !pg_server_renew(ps->s.lessee.server);
	return !ps->stalled;
}

/* What is missing of a group finds room behind what is here of it, however long. */
static bool
await_group(struct pg_session *ps, const struct feed *f)
{
	stream_hold(&ps->s.stream, f->n - f->at + PG_LOCAL_REST);
	return false;
}

/* One round: false when there is nothing more to do with these bytes. */
static bool
feed_one(struct pg_session *ps, struct feed *f, bool *want)
{
	struct pg_frame m;
	int got;

	if (ps->leaving && ps->remain == 0) {
		pg_message_drop(ps, f, (uint32_t)(f->n - f->at));
		return false;
	}
	if (must_wait(ps))
		return false;
	if (ps->remain > 0) {
		rest_of_message(ps, f);
		return true;
	}
	got = pg_frame_next(&m, f->p + f->at, f->n - f->at);
	if (got == 0)
		return false;
	if (got < 0 || !is_client_type(m.type)) {
		pg_message_bad(ps);
		return false;
	}
	if (ps->skip) {
		skip_message(ps, f, &m);
		return true;
	}
	switch (have_enough(ps, &m, f->p + f->at, f->n - f->at)) {
	case HAVE_LITTLE:
		return false;
	case HAVE_BAD:
		session_close(&ps->s, WHY_TOO_BIG, NULL, NULL);
		return false;
	case HAVE_ENOUGH:
		break;
	}
	if (ps->s.lessee.server != NULL && !pg_message_may_run(ps, f, &m))
		return false;
	ps->looks_up = false;
	if (ps->s.lessee.server == NULL)
		switch (pg_op_take(ps, f, &m)) {
		case OP_TAKEN:
			return true;
		case OP_LATER:
			return false;
		case OP_NONE:
			break;
		}
	if (ps->s.lessee.server != NULL) {
		if (pg_local_switch(ps, f, &m))
			return !ps->looks_up || await_group(ps, f);
		if (!is_renewed(ps, f, &m))
			return false;
		pg_message_run(ps, f, &m);
	} else if (pg_local_is_cut(ps, f, &m)) {
		return await_group(ps, f);
	} else if (!pg_local_run(ps, f, &m) && may_ask(ps, f, &m)) {
		*want = true;
	}
	if (ps->looks_up)
		return await_group(ps, f);
	return !*want;
}

static void
begin_lease(struct pg_session *ps)
{
	uint64_t now = ps->s.worker->streams.now_ns;

	ps->lease_ns = ps->ask_ns = ps->rest_ns = now;
	ps->asked = false;
	server_of(ps)->committed = server_of(ps)->reset = false;
	server_of(ps)->discarded = false;
	buf_free(&server_of(ps)->said);
	pg_local_begin(ps);
	pg_hold_send(ps);
	session_enter(&ps->s, SESSION_LEASED);
	/* Session pooling is a pin from the first request on. */
	if (ps->mode == POOL_MODE_SESSION)
		ps->pinned = server_of(ps)->pinned = true;
}

/* A reader too slow for its server holds it up, not us: when it has caught
 * up, what the server said meanwhile is looked at. */
static void
resume_server(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;
	size_t n;

	if (!ps->server_paused || stream_is_high(&ps->s.stream))
		return;
	ps->server_paused = false;
	if (v == NULL)
		return;
	stream_resume(&v->stream);
	stream_peek(&v->stream, &n);
	if (n > 0)
		v->ops->input(v);
}

/* Its organization is no more, and no transaction is under way. */
static bool
is_cut_off(const struct pg_session *ps)
{
	const struct pg_server *pg;

	if (!tenant_is_gone(ps->s.lessee.tenant) || ps->begun != 0 ||
	    ps->ops != NULL)
		return false;
	if (ps->s.lessee.server == NULL)
		return true;
	pg = pg_server(ps->s.lessee.server);
	return pg->status == 'I' && pg->s.ledger.n == 0 && ps->remain == 0;
}

static enum step
pg_ready_step(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct feed f = { 0 };
	bool want = false;

	if (ps->console != NULL)
		return console_step(s);
	resume_server(ps);
	if (session_is_over(s))
		return STEP_WAIT;
	if (ps->stalled && s->lessee.server != NULL &&
	    pg_server_full(s->lessee.server))
		return STEP_WAIT;
	if (ps->stalled)
		stream_resume(&s->stream);
	ps->stalled = false;
	f.p = stream_peek(&s->stream, &f.n);
	if (f.n > 0 && is_cut_off(ps)) {
		session_close(s, WHY_TENANT_GONE, NULL, NULL);
		return STEP_WAIT;
	}
	while (f.at < f.n && feed_one(ps, &f, &want))
		if (session_is_over(s))
			return STEP_WAIT;
	if (session_is_over(s))
		return STEP_WAIT;
	if (s->lessee.server != NULL)
		pg_message_flush(ps, &f);
	stream_consume(&s->stream, f.at);
	if (f.at > 0)
		stream_hold(&s->stream, 0);
	if (s->stream.eof && f.at == f.n)
		ps->bound_wait = false; /* nothing is left that has to wait */
	if (s->stream.eof && !ps->leaving && !want &&
	    s->state != SESSION_BATCH && !is_held_back(ps))
		pg_message_leaving(ps); /* that was all */
	if (ps->leaving && may_leave(ps)) {
		session_close(s, WHY_QUIT, NULL, NULL);
		return STEP_WAIT;
	}
	if (s->state == SESSION_LEASED) {
		session_rearm(s);
		if (may_give_back(ps))
			give_back(ps);
		return STEP_WAIT;
	}
	if (s->state == SESSION_BATCH)
		return STEP_WAIT;
	if (!want) {
		if (f.at == f.n && s->worker->drain_ns != 0 && !ps->begun)
			session_close(s, WHY_SHUTDOWN, NULL, NULL);
		return STEP_WAIT;
	}
	if (!pool_want(s->pool, &s->lessee)) {
		session_enter(s, SESSION_WAIT);
		return STEP_WAIT;
	}
	begin_lease(ps);
	return STEP_AGAIN;
}

/* Bytes stay where they are until a server is there. */
static enum step
pg_wait_step(struct session *s)
{
	(void)s;
	return STEP_WAIT;
}

static enum step
pg_leased_step(struct session *s)
{
	/* Until the log-in is over the server is only asked by us. */
	if (pg_session(s)->hello != NULL)
		return STEP_WAIT;
	if (pg_session(s)->relay) {
		resume_server(pg_session(s));
		return session_is_over(s) ? STEP_WAIT : pg_relay_step(s);
	}
	return pg_ready_step(s);
}

/* ---- what the pool tells us ------------------------------------------- */

static void
pg_granted(struct lessee *l, struct server *v)
{
	struct session *s = session_of_lessee(l);

	assert(l->server == v);
	if (pg_session(s)->hello != NULL) {
		pg_hello_granted(s);
		return;
	}
	begin_lease(pg_session(s));
	session_run(s);
}

static void
pg_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct session *s = session_of_lessee(l);
	struct pg_session *ps = pg_session(s);

	if (session_is_over(s))
		return;
	if (ps->hello != NULL) {
		pg_hello_reply(s, p, n);
		return;
	}
	if (ps->held != NULL) {
		pg_hold_reply(ps, p, n);
		return;
	}
	if (stream_put(&s->stream, p, n) != 0) {
		session_close(s, WHY_SLOW_READER, NULL, NULL);
		return;
	}
	if (stream_is_high(&s->stream) && !ps->server_paused) {
		ps->server_paused = true;
		stream_pause(&l->server->stream);
	}
	if (ps->stalled || ps->bound_wait) /* that may be a COPY's beginning */
		session_wake(s);
}

/* What a statement returns now, if it is still there. */
static void
learn(struct pg_session *ps, unsigned kind, struct stmt_entry *e, bool done)
{
	struct server *v = ps->s.lessee.server;
	bool has = e != NULL && e->stmt != NULL;

	if (kind == PG_CHECK) {
		assert(ps->checks > 0);
		ps->checks--;
		session_wake(&ps->s);
	}
	if (has && kind == PG_SHAPE)
		e->shape = server_of(ps)->shape;
	if (has && (kind == PG_STALE || (kind == PG_CHECK && done &&
					 server_of(ps)->shape != e->shape))) {
		stmt_renew(&ps->s.worker->pools.stmts, e->stmt);
		pg_server_doubt(v, e->stmt);
	}
}

static void
pg_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct session *s = session_of_lessee(l);
	struct pg_session *ps = pg_session(s);
	struct stmts *all = &s->worker->pools.stmts;
	struct stmt_entry *e;

	if (session_is_over(s))
		return;
	if (kind == PG_POISON) {
		pg_message_poisoned(ps, arg, done);
		return;
	}
	if (kind == PG_PARSE && (arg & PG_UNNAMED)) {
		if (!done && arg == ((uint32_t)ps->unnamed_gen | PG_UNNAMED))
			ps->has_unnamed = false;
		return;
	}
	e = stmt_names_find_id(&ps->names, arg);
	if (kind == PG_CHECK || kind == PG_STALE || kind == PG_SHAPE) {
		learn(ps, kind, e, done);
		return;
	}
	if (kind == PG_TYPES) {
		if (e != NULL)
			stmt_names_told_types(e, server_of(ps)->types);
		return;
	}
	if (kind == PG_PARSE) {
		assert(ps->parses > 0);
		ps->parses--;
		session_wake(s); /* something may have waited for it */
	}
	if (e == NULL)
		return;
	if (kind == PG_PARSE)
		e->asked = false;
	if (kind == PG_PARSE && done && e->stmt != NULL)
		budget_note_parsed(s->worker->pools.budgets, s->pool->budget,
				   e->stmt->digest);
	if ((kind == PG_PARSE) != done) {
		stmt_names_drop(&ps->names, all, e);
	} else if (kind != PG_PARSE) {
		e->stmt = e->closed;
		e->closed = NULL;
	}
}

/* What is bound for the transaction is no longer wanted, on a server that is
 * kept.  Late words of a COPY may be on their way: nothing can stand inside. */
static void
end_transaction(struct pg_session *ps)
{
	struct pg_server *pg = server_of(ps);
	bool reset = has_reset(ps);

	if (ps->remain > 0 && (pg->unset || ps->sw != NULL))
		session_close(&ps->s, WHY_BAD_FRAME, NULL, NULL);
	else
		pg_switch_end(ps, pg->committed, reset);
}

/* All it had is gone, at its own wish: it may share again. */
static void
unpin(struct pg_session *ps)
{
	struct pg_server *pg = server_of(ps);

	if (ps->pinned && ps->discards && pg->discarded &&
	    ps->mode != POOL_MODE_SESSION) {
		pg_track_drop(ps);
		ps->pinned = pg->pinned = false;
	}
	ps->discards = pg->discarded = false;
}

/* Between transactions: what has the session set?  True: the answer brings us
 * back. */
static bool
is_asked(struct pg_session *ps)
{
	if (server_of(ps)->status != 'I')
		return false;
	unpin(ps);
	if (!ps->pinned)
		return pg_track_ask(ps);
	pg_track_drop(ps);
	return false;
}

static void
hear(struct pg_session *ps)
{
	const char *no = pg_track_hear(ps);

	if (no == NULL)
		return;
	pg_message_pin(ps, no);
	pg_track_drop(ps);
}

/* The server is at rest, and nothing is left to ask it. */
static void
rest_between(struct pg_session *ps)
{
	struct session *s = &ps->s;

	if (ps->leaving) {
		session_close(s, s->stream.eof ? WHY_EOF : WHY_QUIT, NULL,
			      NULL);
		return;
	}
	if (server_of(ps)->status == 'I')
		pg_track_restore(ps);
	if (session_is_over(s))
		return;
	if (may_give_back(ps)) {
		give_back(ps);
	} else {
		if (server_of(ps)->status == 'I')
			end_transaction(ps);
		if (session_is_over(s))
			return;
		if (ps->pinned && server_of(ps)->status == 'I')
			pg_server_rebind(s->lessee.server);
		ps->bound_wait |= pg_server_binding(s->lessee.server);
		session_rearm(s);
	}
	/* Or its last request was answered by an error of what it held. */
	if (buf_len(&s->stream.in) > 0 || s->stream.eof)
		session_wake(s);
}

static void
pg_rest(struct lessee *l)
{
	struct session *s = session_of_lessee(l);
	struct pg_session *ps = pg_session(s);

	if (ps->hello != NULL) {
		pg_hello_rest(s);
		return;
	}
	if (ps->held != NULL)
		pg_hold_rest(ps);
	if (session_is_over(s))
		return;
	if (ps->bound_first && !ps->leaving) {
		ps->bound_first = ps->bound_wait = false;
		session_wake(s); /* for what it has sent */
		return;
	}
	ps->bound_first = false;
	if (server_of(ps)->asked) {
		hear(ps);
		rest_between(ps);
		return;
	}
	pg_switch_rest(ps);
	if (session_is_over(s))
		return;
	if (server_of(ps)->forgot || ps->names.hidden > 0)
		stmt_names_unhide(&ps->names, &s->worker->pools.stmts,
				  server_of(ps)->forgot);
	server_of(ps)->forgot = false;
	ps->rest_ns = s->worker->streams.now_ns;
	stats_add(&s->worker->stats, STAT_TRANSACTIONS,
		  server_of(ps)->status == 'I');
	if (ps->mode == POOL_MODE_STATEMENT && server_of(ps)->status != 'I') {
		session_close(s, WHY_UNSUPPORTED, NULL,
			      "transaction blocks are not allowed in "
			      "statement pooling mode");
		return;
	}
	if (ps->leaving || !is_asked(ps))
		rest_between(ps);
	else
		session_rearm(s);
}

/* What a client hears of an upstream's refusal: never its own log-in's
 * codes, because it is not the one that was refused; and not that it was told
 * to go by an administrator, because it was the server's connection that was. */
static const char *
code_for_client(enum why w, const char *sqlstate)
{
	const char *own = w == WHY_UPSTREAM_LOST   ? "123"
			  : w == WHY_UPSTREAM_DOWN ? "12"
						   : "";

	if (sqlstate == NULL || strncmp(sqlstate, "28", 2) == 0 ||
	    (strncmp(sqlstate, "57P0", 4) == 0 && sqlstate[4] != '\0' &&
	     strchr(own, sqlstate[4]) != NULL))
		return why_table[w].sqlstate;
	return sqlstate;
}

int
pg_put_retry(struct buf *out, const char *severity, const char *sqlstate,
	     const char *text, uint64_t retry_ms)
{
	char hint[64];

	if (retry_ms == SESSION_NEVER)
		snprintf(hint, sizeof(hint), "So much at once never passes.");
	else
		snprintf(hint, sizeof(hint), "Retry in %" PRIu64 " ms.",
			 retry_ms);
	return pg_put(out, 'E', "cscscscscsc", 'S', severity, 'V', severity,
		      'C', sqlstate, 'M', text, 'H', hint, 0);
}

void
pg_say_error(struct session *s, const char *severity, enum why w,
	     const char *sqlstate, const char *text)
{
	char message[512];

	if (text != NULL && (w == WHY_UPSTREAM_DOWN || w == WHY_UPSTREAM_LOST))
		snprintf(message, sizeof(message), "%s: %s", why_table[w].text,
			 text);
	else
		snprintf(message, sizeof(message), "%s",
			 text ? text : why_table[w].text);
	if (w == WHY_RATE_CONNECTIONS) {
		(void)!pg_put_retry(stream_out(&s->stream), severity,
				    why_table[w].sqlstate, message,
				    s->retry_ms);
		return;
	}
	/* A full `out` means a client that reads nothing: it is cut off. */
	(void)!pg_put_error(stream_out(&s->stream), severity,
			    code_for_client(w, sqlstate), message, NULL);
}

/* A request that got no server is answered with an error; the session lives. */
static void
fail_request(struct pg_session *ps, enum why w, const char *sqlstate,
	     const char *text)
{
	struct session *s = &ps->s;
	struct pg_frame m;
	struct feed f = { 0 };

	session_enter(s, SESSION_IDLE);
	pg_say_error(s, "ERROR", w, sqlstate, text);
	f.p = stream_peek(&s->stream, &f.n);
	if (pg_frame_next(&m, f.p, f.n) <= 0)
		return; /* it was looked at before it had to wait */
	if (m.type == 'Q' || m.type == 'F') {
		pg_message_drop(ps, &f, m.size);
		stream_consume(&s->stream, f.at);
		if (pg_put_ready(stream_out(&s->stream), 'I') != 0)
			session_close(s, WHY_SLOW_READER, NULL, NULL);
	} else {
		ps->skip = true;
	}
	stream_hold(&s->stream, 0);
	session_wake(s);
}

static void
pg_lost(struct lessee *l, enum why w, const char *sqlstate, const char *text)
{
	struct session *s = session_of_lessee(l);
	struct pg_session *ps = pg_session(s);

	if (session_is_over(s))
		return;
	/* In a transaction that the client believes open, nothing may seem to
	 * have failed but could be tried again. */
	if (s->state == SESSION_WAIT && ps->hello == NULL && !ps->begun)
		fail_request(ps, w, sqlstate, text);
	else
		session_close(s, w, sqlstate, text);
}

static void
pg_room(struct lessee *l)
{
	session_wake(session_of_lessee(l));
}

static const struct lessee_ops pg_lessee_ops = {
	.granted = pg_granted,
	.reply = pg_reply,
	.settled = pg_settled,
	.rest = pg_rest,
	.lost = pg_lost,
	.room = pg_room,
};

const struct session *
pg_session_of(struct lessee *l)
{
	return l->ops == &pg_lessee_ops ? session_of_lessee(l) : NULL;
}

/* ---- what the session asks of its protocol ---------------------------- */

static void
pg_init(struct session *s)
{
	s->lessee.ops = &pg_lessee_ops;
}

static void
pg_refuse(struct session *s, enum why w, const char *sqlstate, const char *text)
{
	if (s->state == SESSION_TLS || why_table[w].sqlstate[0] == '\0')
		return;
	if (pg_session(s)->relay && !pg_relay_hears(s))
		return;
	/* What it has under way is carried out, whatever else is said. */
	if (pg_session(s)->ops != NULL) {
		w = WHY_OUTCOME_UNKNOWN;
		sqlstate = text = NULL;
	}
	/* The client would take it for the rest of a row. */
	if (s->lessee.midway)
		return;
	pg_say_error(s, "FATAL", w, sqlstate, text);
}

/* Nothing is half sent to a client that holds no server, so a notice may
 * stand here.  Before its log-in is over it would not expect one. */
static void
pg_queued(struct session *s)
{
	if (pg_session(s)->hello == NULL &&
	    pg_put(stream_out(&s->stream), 'N', "cscscscsc", 'S', "NOTICE", 'V',
		   "NOTICE", 'C', "00000", 'M',
		   "all server connections are busy, waiting for one", 0) != 0)
		session_close(s, WHY_SLOW_READER, NULL, NULL);
}

static uint64_t
sooner(uint64_t when, uint64_t from_ns, uint64_t ms)
{
	uint64_t then = from_ns + ms * 1000000u;

	return ms > 0 && (when == 0 || then < when) ? then : when;
}

/* When a transaction without a server was last heard of. */
static uint64_t
begun_rest_ns(const struct pg_session *ps)
{
	return ps->rest_ns > ps->begun_ns ? ps->rest_ns : ps->begun_ns;
}

/* Without a server: between transactions, or in one that no server knows of. */
static uint64_t
idle_deadline(const struct pg_session *ps)
{
	const struct conf *c = ps->s.snapshot->conf;
	uint64_t when;

	if (ps->begun == 0)
		return sooner(0, ps->s.worker->streams.now_ns,
			      c->client_idle_timeout_ms);
	when = sooner(0, begun_rest_ns(ps), c->idle_transaction_timeout_ms);
	return sooner(when, ps->begun_ns, c->transaction_timeout_ms);
}

static uint64_t
pg_deadline(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	const struct conf *c = s->snapshot->conf;
	uint64_t when = 0;

	if (ps->hello != NULL)
		return sooner(0, s->opened_ns, c->client_login_timeout_ms);
	if (s->state == SESSION_BATCH)
		return 0; /* its batch sees to that */
	if (ps->leaving)
		return ps->leave_ns + LEAVE_NS;
	if (s->lessee.server == NULL)
		return idle_deadline(ps);
	if (ps->relay)
		return 0; /* a stream may be idle for as long as it likes */
	if (ps->remain > 0)
		when = s->worker->streams.now_ns + STALL_NS;
	if (server_of(ps)->s.ledger.n > 0)
		when = sooner(when, ps->ask_ns, c->query_timeout_ms);
	else if (server_of(ps)->status != 'I')
		when =
		    sooner(when, ps->rest_ns, c->idle_transaction_timeout_ms);
	else
		when = sooner(when, ps->rest_ns, c->client_idle_timeout_ms);
	if (server_of(ps)->status != 'I')
		when = sooner(when, ps->lease_ns, c->transaction_timeout_ms);
	return when;
}

static enum why
pg_overdue(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	const struct conf *c = s->snapshot->conf;
	uint64_t now = s->worker->streams.now_ns;
	bool has_server = s->lessee.server != NULL;
	bool asked = has_server && server_of(ps)->s.ledger.n > 0;
	bool open = has_server ? server_of(ps)->status != 'I' : ps->begun != 0;
	uint64_t rest_ns = has_server ? ps->rest_ns : begun_rest_ns(ps);
	uint64_t lease_ns = has_server ? ps->lease_ns : ps->begun_ns;

#define PASSED(from, ms) ((ms) > 0 && now >= (from) + (ms)*1000000u)
	if (ps->hello != NULL)
		return WHY_LOGIN_TIMEOUT;
	if (ps->leaving)
		return s->stream.eof ? WHY_EOF : WHY_QUIT;
	if (asked && PASSED(ps->ask_ns, c->query_timeout_ms)) {
		cancel_stop(s->worker, s->lessee.server);
		return WHY_QUERY_TIMEOUT;
	}
	if (open && PASSED(lease_ns, c->transaction_timeout_ms)) {
		if (asked)
			cancel_stop(s->worker, s->lessee.server);
		return WHY_XACT_TIMEOUT;
	}
	if (!asked && open && PASSED(rest_ns, c->idle_transaction_timeout_ms))
		return WHY_IDLE_TRANSACTION;
	if (!has_server && !open)
		return WHY_IDLE;
	if (!asked && !open && PASSED(rest_ns, c->client_idle_timeout_ms))
		return WHY_IDLE;
#undef PASSED
	return ps->remain > 0 ? WHY_STALLED : WHY_MAX;
}

static bool
pg_quiet(const struct session *s)
{
	if (((const struct pg_session *)(const void *)s)->relay)
		return pg_relay_quiet(s);
	return s->state == SESSION_TLS || s->state == SESSION_HELLO ||
	       s->state == SESSION_AUTH ||
	       (s->state == SESSION_IDLE && buf_len(&s->stream.in) == 0 &&
		((const struct pg_session *)(const void *)s)->begun == 0);
}

/* A client may close its side and still wait for its answers.  Half a message
 * or an open COPY will never be completed, though. */
static bool
pg_leave(struct session *s)
{
	struct pg_session *ps = pg_session(s);

	if (pg_hold_is_running(ps) || (ps->hello == NULL && is_looked_up(ps)))
		return true; /* it is looked at again behind that */
	/* What it has sent may have had to wait: its step is about to run. */
	if (s->awake && s->proto->step[s->state] != pg_wait_step &&
	    ps->hello == NULL && ps->console == NULL && !ps->relay)
		return true;
	/* What it asked behind its operations is still to be done. */
	if (s->state == SESSION_BATCH) {
		if (buf_len(&s->stream.in) == 0)
			pg_message_leaving(ps);
		return true;
	}
	if (s->state != SESSION_LEASED || ps->hello != NULL || ps->relay ||
	    ps->remain > 0 || server_of(ps)->copying_in || may_leave(ps))
		return false;
	if (is_held_back(ps) && buf_len(&s->stream.in) > 0)
		return true; /* likewise */
	pg_message_leaving(ps);
	session_rearm(s);
	return true;
}

/* A message half sent leaves a server nobody can use. */
static void
pg_part(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct server *v = s->lessee.server;

	pg_op_part(ps);
	pg_hold_drop(ps);
	if (ps->key.pid != 0)
		cancel_drop_key(s->worker, ps->key);
	ps->key.pid = 0;
	if (v == NULL)
		return;
	if (ps->remain > 0 && !ps->drop)
		server_of(ps)->doubt = true;
	if (ps->server_paused)
		stream_resume(&v->stream);
	server_of(ps)->bind_reports = false;
	server_release(v);
}

static void
pg_fini(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct pg_poison *po;

	pg_hello_free(ps);
	console_free(&ps->console);
	if (ps->cancels != NULL)
		cancel_forget(ps->cancels);
	secret_unref(&ps->secret);
	pg_switch_free(ps);
	pg_track_free(ps);
	pg_terms_unref(&ps->terms);
	stmt_names_fini(&ps->names, &s->worker->pools.stmts);
	free(ps->unnamed);
	while ((po = ps->poison) != NULL) {
		ps->poison = po->next;
		free(po);
	}
}

const struct proto pg_proto = {
	.name = "postgres",
	.size = sizeof(struct pg_session),
	.out_max = OUT_MAX,
	.stat_open = STAT_PG_CLIENTS,
	.stat_accepted = STAT_PG_ACCEPTED,
	.stat_logins = STAT_PG_LOGINS,
	.stat_refused = STAT_PG_REFUSED,
	.init = pg_init,
	.step = { [SESSION_TLS] = pg_wait_step,
		  [SESSION_HELLO] = pg_hello_step,
		  [SESSION_AUTH] = pg_auth_step,
		  [SESSION_REFUSED] = pg_wait_step,
		  [SESSION_IDLE] = pg_ready_step,
		  [SESSION_BATCH] = pg_ready_step,
		  [SESSION_WAIT] = pg_wait_step,
		  [SESSION_LEASED] = pg_leased_step,
		  [SESSION_DRAIN] = pg_wait_step,
		  [SESSION_DEAD] = pg_wait_step },
	.refuse = pg_refuse,
	.overdue = pg_overdue,
	.deadline = pg_deadline,
	.quiet = pg_quiet,
	.queued = pg_queued,
	.leave = pg_leave,
	.part = pg_part,
	.fini = pg_fini,
};

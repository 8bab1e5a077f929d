#include "proxy/pg_message.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/sql.h"
#include "proxy/pg_switch.h"
#include "proxy/pg_track.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

enum { DEALLOCATE_MAX = 256 }; /* longest name looked for in a text */

static const char stale_text[] = "cached plan must not change result type";

static struct pg_server *
server_of(struct pg_session *ps)
{
	assert(ps->s.lessee.server != NULL);
	return pg_server(ps->s.lessee.server);
}

/* ---- forwarding ------------------------------------------------------- */

/* The pair to the assertion at the grant: nothing reaches a server that is
 * not, or is not about to be, this organization's. */
void
pg_message_check_stamp(const struct pg_session *ps)
{
	const struct server *v = ps->s.lessee.server;

	assert(v->lessee == &ps->s.lessee);
	if (pg_server_binding(v))
		assert(((const struct pg_server *)(const void *)v)
			   ->binding_tenant == ps->s.lessee.tenant);
	else
		assert(v->tenant == ps->s.lessee.tenant);
}

void
pg_message_flush(struct pg_session *ps, struct feed *f)
{
	if (f->at > f->run) {
		pg_message_check_stamp(ps);
		pg_server_put(ps->s.lessee.server, f->p + f->run,
			      f->at - f->run);
	}
	f->run = f->at;
}

static void
feed_skip(struct feed *f, size_t n)
{
	assert(f->run == f->at);
	f->at += n;
	f->run = f->at;
}

/* This message, or as much of it as is here, as it is. */
static void
pass(struct pg_session *ps, struct feed *f, uint32_t size)
{
	size_t here = f->n - f->at;
	size_t take = here < size ? here : size;

	f->at += take;
	ps->remain = (uint32_t)(size - take);
	ps->drop = false;
}

void
pg_message_drop(struct pg_session *ps, struct feed *f, uint32_t size)
{
	size_t here = f->n - f->at;
	size_t take = here < size ? here : size;

	if (ps->s.lessee.server != NULL)
		pg_message_flush(ps, f);
	feed_skip(f, take);
	ps->remain = (uint32_t)(size - take);
	ps->drop = true;
}

/* Notes a message and passes it, unless the server would ignore it. */
static void
pass_expecting(struct pg_session *ps, struct feed *f, uint32_t size,
	       enum pg_kind kind)
{
	if (pg_server_expect(ps->s.lessee.server, &ps->s.lessee, kind,
			     LEDGER_FORWARD, 0, STMT_NONE))
		pass(ps, f, size);
	else
		pg_message_drop(ps, f, size);
}

/* ---- what statements leave behind ------------------------------------- */

void
pg_message_pin(struct pg_session *ps, const char *reason)
{
	struct session *s = &ps->s;

	ps->discards = false;
	server_of(ps)->pinned = true;
	if (ps->pinned)
		return;
	ps->pinned = true;
	stats_add(&s->worker->stats, STAT_PINS, 1);
	LOG(s->worker->weir->log, LOG_INFO, LOG_EV_PIN,
	    log_id("session", s->worker->id, s->id),
	    log_str("user", s->user->name),
	    log_str("tenant", s->lessee.tenant ? s->lessee.tenant->slug : ""),
	    log_str("reason", reason));
}

/* On its way to the server; `text` is the statement's. */
static void
apply_flags(struct pg_session *ps, unsigned flags, struct slice text)
{
	if (flags == 0)
		return;
	if (flags & SQL_PIN || (flags & SQL_TRACKS && !pg_track_note(ps, text)))
		pg_message_pin(ps, "statement leaves session state");
	if (flags & SQL_TAINTS)
		server_of(ps)->tainted = true;
	if (flags & SQL_UNSETS) {
		server_of(ps)->unset = true;
		pg_track_note_reset(ps);
	}
	if (flags & SQL_FORGETS)
		ps->discards = sql_is_discard_all(text);
}

/*
 * PostgreSQL reports a setting when a request has made it another than before.
 * What a bind in the same request has put, and this takes back, would not be
 * told: so the bind is a request of its own.  So it is before a DEALLOCATE, for
 * whose place the server has to be at rest.
 */
static bool
waits_for_bind(struct pg_session *ps, struct feed *f, unsigned flags)
{
	if (!(flags & (SQL_TRACKS | SQL_UNSETS | SQL_DROPS)) ||
	    !pg_server_binds_only(ps->s.lessee.server))
		return false;
	pg_message_flush(ps, f);
	pg_server_sync(ps->s.lessee.server);
	ps->bound_first = ps->bound_wait = true;
	return true;
}

/* Not before its Bind: until then names are looked up. */
static void
apply_forgets(struct pg_session *ps, unsigned flags)
{
	if (!(flags & SQL_FORGETS))
		return;
	pg_server_doubt(ps->s.lessee.server, NULL);
	stmt_names_hide(&ps->names);
}

/* Text that is not all here cannot be judged: the careful answer. */
static unsigned
scan(struct slice text, bool whole)
{
	return sql_scan(text) |
	       (whole ? 0 : SQL_PIN | SQL_TAINTS | SQL_SETTING | SQL_HIDES);
}

/*
 * A user who belongs to one organization may not name the settings that say
 * so.  The text is searched, not parsed: a statement that sets something and
 * holds such a name anywhere is refused.
 */
static bool
is_guarded(const struct pg_session *ps, struct slice text, unsigned flags)
{
	const struct conf *c = ps->s.snapshot->conf;
	const struct tenant *t = ps->s.lessee.tenant;

	if (!(flags & SQL_SETTING) || !pg_message_is_watched(ps))
		return false;
	if (flags & SQL_HIDES)
		return true;
	for (size_t i = 0; i < c->variables_n; i++)
		if (sql_mentions(text, c->variables[i].name))
			return true;
	for (size_t i = 0; t != NULL && i < t->var_n; i++)
		if (sql_mentions(text, t->var[i].name))
			return true;
	return c->context.key != NULL &&
	       sql_mentions(text, c->context.variable);
}

/*
 * Who belongs to no organization and may choose none may not name one either,
 * as at its log-in.  What else it sets is its own affair.
 */
static bool
is_foreign(const struct pg_session *ps, struct slice text, unsigned flags)
{
	const struct conf *c = ps->s.snapshot->conf;

	if (!(flags & SQL_SETTING) || pg_message_is_watched(ps))
		return false;
	for (size_t i = 0; i < c->variables_n; i++)
		if (route_variable(c, c->variables[i].name) != ROUTE_NO_KEY &&
		    sql_mentions(text, c->variables[i].name))
			return true;
	return false;
}

bool
pg_message_is_watched(const struct pg_session *ps)
{
	return ps->s.lessee.tenant != NULL || ps->sw != NULL;
}

struct slice
pg_message_body(const struct pg_session *ps, struct slice name)
{
	struct stmt_entry *e = NULL;
	const uint8_t *p = NULL;
	size_t n = 0;

	if (name.n > 0)
		e = stmt_names_find(&ps->names, name);
	if (e != NULL && e->stmt != NULL) {
		p = (const uint8_t *)e->stmt->body;
		n = e->stmt->len;
	} else if (name.n == 0 && ps->has_unnamed) {
		p = ps->unnamed;
		n = ps->unnamed_n;
	}
	return slice_of(p, n);
}

struct slice
pg_message_text(const struct pg_session *ps, struct slice name)
{
	struct slice body = pg_message_body(ps, name);

	return slice_text(body.p, body.n);
}

/* ---- errors of our own, in their place -------------------------------- */

/*
 * The server is made to fail here, so that its transaction and the rest of
 * the pipeline go the way they would have gone; the client reads our words.
 */
static void
poison(struct pg_session *ps, const char *sqlstate, const char *text)
{
	struct pg_poison **at = &ps->poison, *po;

	if (server_of(ps)->failed) {
		sqlstate = "25P02"; /* whatever is asked there */
		text = "current transaction is aborted, commands ignored "
		       "until end of transaction block";
	}
	if ((po = malloc(sizeof(*po) + strlen(text) + 1)) == NULL)
		abort();
	*po = (struct pg_poison){ .id = ++ps->last_poison };
	if (po->id == 0)
		po->id = ++ps->last_poison;
	memcpy(po->sqlstate, sqlstate, 6);
	strcpy(po->text, text);
	while (*at != NULL)
		at = &(*at)->next;
	*at = po;
	pg_server_poison(ps->s.lessee.server, &ps->s.lessee, po->id);
}

/* By this routine's name drivers know that they may parse again. */
static int
put_poison(struct buf *out, const struct pg_poison *po)
{
	if (po->retry_ms > 0)
		return pg_put_retry(out, "ERROR", po->sqlstate, po->text,
				    po->retry_ms);
	if (strcmp(po->text, stale_text) != 0)
		return pg_put_error(out, "ERROR", po->sqlstate, po->text, NULL);
	return pg_put(out, 'E', "cscscscscsc", 'S', "ERROR", 'V', "ERROR", 'C',
		      po->sqlstate, 'M', po->text, 'R', "RevalidateCachedQuery",
		      0);
}

void
pg_message_poisoned(struct pg_session *ps, uint32_t id, bool done)
{
	struct pg_poison **at = &ps->poison, *po;

	while ((po = *at) != NULL && po->id != id)
		at = &po->next;
	assert(po != NULL);
	*at = po->next;
	if (done && put_poison(stream_out(&ps->s.stream), po) != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	free(po);
}

/* The error the server would have given, had it known the client's name. */
static void
poison_duplicate(struct pg_session *ps, struct slice name)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "prepared statement \"%.*s\" already exists",
		 (int)(name.n < 128 ? name.n : 128), (const char *)name.p);
	poison(ps, "42P05", text);
}

/* Why a statement may not run here, if it may not. */
struct refusal {
	enum why why;
	const char *text;
};

static const struct refusal *
refusal(const struct pg_session *ps, struct slice text, unsigned flags)
{
	static const struct refusal guarded = {
		WHY_GUARDED,
		"settings that name the organization belong to the proxy"
	};

	static const struct refusal peeks = {
		WHY_GUARDED,
		"pg_prepared_statements shows what others have prepared on "
		"this server"
	};
	struct sql_switch to;

	/* To parse it is free; poison_switch() is for when it is run. */
	if (pg_switch_is(ps, text, &to))
		return NULL;
	/* A switch by who may not; else nobody knows that setting. */
	if (ps->sw == NULL && flags & SQL_SETTING && sql_switch(text, &to) &&
	    strcmp(to.name, "weir.organization") == 0)
		return &guarded;
	if (flags & SQL_PEEKS && pg_message_is_watched(ps) &&
	    ps->mode != POOL_MODE_SESSION)
		return &peeks;
	return is_guarded(ps, text, flags) || is_foreign(ps, text, flags)
		   ? &guarded
		   : NULL;
}

bool
pg_message_is_refused(const struct pg_session *ps, struct slice text,
		      unsigned flags)
{
	return refusal(ps, text, flags) != NULL;
}

/* With a server in hand it was not carried out before: why. */
static bool
may_not_switch(const struct pg_session *ps, struct slice text,
	       struct refusal *no)
{
	struct sql_switch to;

	if (!pg_switch_is(ps, text, &to))
		return false;
	no->why = pg_switch_why(ps, &to, &no->text);
	return true;
}

static bool
is_switch(const struct pg_session *ps, struct slice text)
{
	struct sql_switch to;

	return pg_switch_is(ps, text, &to);
}

/* Behind the end of a transaction what it has chosen is no longer true. */
static const struct refusal *
refusal_to_end(const struct pg_session *ps, struct slice text, unsigned flags)
{
	static const struct refusal mixed = {
		WHY_UNSUPPORTED,
		"a transaction that has chosen an organization ends by a "
		"COMMIT or ROLLBACK of its own, and a Sync"
	};

	return pg_switch_may_end(ps, text, flags) && !pg_switch_is_ending(ps)
		   ? NULL
		   : &mixed;
}

/* At the first request of a lease the server's last nextval() was somebody
 * else's: better no answer than that one. */
static const struct refusal *
refusal_to_recall(const struct pg_session *ps, unsigned flags)
{
	static const struct refusal forgotten = {
		WHY_UNSUPPORTED,
		"currval and lastval answer in the transaction that called "
		"nextval, or with pool_mode = session"
	};

	return flags & SQL_RECALLS && !ps->asked && !ps->pinned ? &forgotten
								: NULL;
}

/* Told with the hint; where the transaction has failed nothing is counted. */
static void
poison_rate(struct pg_session *ps)
{
	const struct why_row *row = &why_table[WHY_RATE_QUERIES];
	struct pg_poison *po;

	poison(ps, row->sqlstate, row->text);
	for (po = ps->poison; po->next != NULL; po = po->next)
		;
	po->retry_ms = ps->s.retry_ms;
}

static void
poison_refused(struct pg_session *ps, const struct refusal *r)
{
	if (r->why == WHY_RATE_QUERIES) { /* a line for each would be many */
		poison_rate(ps);
		return;
	}
	poison(ps, why_table[r->why].sqlstate, r->text);
	if (r->why == WHY_NOT_ALLOWED)
		stats_add(&ps->s.worker->stats, STAT_NO_TENANT_STMT, 1);
	LOG(ps->s.worker->weir->log, LOG_WARN, LOG_EV_REFUSE,
	    log_id("session", ps->s.worker->id, ps->s.id),
	    log_str("user", ps->s.user->name),
	    log_str("tenant",
		    ps->s.lessee.tenant ? ps->s.lessee.tenant->slug : ""),
	    log_str("why", why_table[r->why].name));
}

/* ---- the messages ----------------------------------------------------- */

void
pg_message_bad(struct pg_session *ps)
{
	session_close(&ps->s, WHY_BAD_FRAME, NULL, NULL);
}

void
pg_message_leaving(struct pg_session *ps)
{
	ps->leaving = true;
	ps->leave_ns = ps->s.worker->streams.now_ns;
}

/* See must_wait() of pg_session.c. */
void
pg_message_synced(struct pg_session *ps)
{
	const struct server *v = ps->s.lessee.server;

	ps->epoch++;
	ps->bound_wait = pg_server_binding(v) || pg_server_is_unset(v);
}

static void
note_request(struct pg_session *ps)
{
	ps->ask_ns = ps->s.worker->streams.now_ns;
	ps->asked = true;
}

/* The client has no unnamed statement, whatever its server has. */
void
pg_message_drop_unnamed(struct pg_session *ps)
{
	ps->has_unnamed = false;
	ps->drops = 0;
	ps->unnamed_gen++;
}

/* The client's prepared statement that this DEALLOCATE names, or NULL. */
static struct stmt_entry *
deallocated(const struct pg_session *ps, struct slice text)
{
	char name[DEALLOCATE_MAX];
	size_t n = sql_deallocated(text, name, sizeof(name));

	return n > 0 ? stmt_names_find(&ps->names, slice_of(name, n)) : NULL;
}

/* The statement that this message names, if its Parse is not answered yet and
 * a Sync stands between: then nobody knows whether there is such a one. */
static bool
is_unsure(const struct pg_session *ps, struct pg_reader r, uint8_t type)
{
	struct stmt_entry *e;
	struct slice name;

	if (type == 'B')
		pg_read_str(&r); /* the portal */
	if ((type == 'D' || type == 'C') && pg_read_u8(&r) != 'S')
		return false;
	name = pg_read_str(&r);
	if (r.bad || name.n == 0)
		return false;
	e = stmt_names_find(&ps->names, name);
	return e != NULL && e->asked && e->epoch != ps->epoch;
}

/* Does the server come to rest without another word of the client's? */
static bool
will_rest(const struct ledger *ledger)
{
	uint32_t n = ledger->n;
	uint8_t last = PG_COPY_END;

	while (n > 0 && last == PG_COPY_END)
		last = ledger_at(ledger, --n)->kind;
	return last == PG_QUERY || last == PG_SYNC || last == PG_FUNCTION;
}

/* The text of a Query, or of a Parse that names no statement. */
static struct slice
text_of(const struct feed *f, const struct pg_frame *m)
{
	struct pg_reader r =
	    pg_reader(f->p + f->at + PG_HEADER, m->size - PG_HEADER);
	struct slice text;

	if (m->type == 'P' && pg_read_str(&r).n > 0)
		return (struct slice){ 0 };
	text = pg_read_str(&r);
	return r.bad ? (struct slice){ 0 } : text;
}

/* Does this message parse, describe or run a switch?  For that the server must
 * be at rest. */
static bool
waits_to_switch(const struct pg_session *ps, const struct feed *f,
		const struct pg_frame *m, struct pg_reader r)
{
	struct slice text = { 0 };
	struct sql_switch to;

	if (ps->sw == NULL)
		return false;
	if (m->type == 'Q') {
		text = text_of(f, m);
	} else if (m->type == 'P') {
		pg_read_str(&r); /* its name */
		text = pg_read_str(&r);
	} else if ((m->type == 'B' && pg_read_str(&r).n == 0) ||
		   (m->type == 'D' && pg_read_u8(&r) == 'S')) {
		text = pg_message_text(ps, pg_read_str(&r));
	}
	if (r.bad)
		return false;
	return pg_switch_is(ps, text, &to) &&
	       (ps->asked || !pg_switch_tried(ps, &to));
}

/* A DEALLOCATE has to know whether its transaction has failed.  Behind what
 * no Sync follows nobody would say: one in a Query is not for us there. */
bool
pg_message_may_run(const struct pg_session *ps, const struct feed *f,
		   const struct pg_frame *m)
{
	size_t here = f->n - f->at < m->size ? f->n - f->at : m->size;
	struct pg_reader r =
	    pg_reader(f->p + f->at + PG_HEADER, here - PG_HEADER);

	if (here == m->size && will_rest(&ps->s.lessee.server->ledger) &&
	    (pg_switch_is_ending(ps) || waits_to_switch(ps, f, m, r) ||
	     ((m->type == 'Q' || m->type == 'P') &&
	      deallocated(ps, text_of(f, m)) != NULL)))
		return false;
	return ps->parses == 0 || strchr("PBDC", m->type) == NULL ||
	       !is_unsure(ps, r, m->type);
}

/* Servers know it by another name, and others may use it: it is dropped from
 * the client's map, as by a Close. */
bool
pg_message_deallocate(struct pg_session *ps, struct slice text)
{
	struct stmt_entry *e = deallocated(ps, text);

	if (e == NULL)
		return false;
	stmt_names_drop(&ps->names, &ps->s.worker->pools.stmts, e);
	return true;
}

/* A Query brings its own Sync; what takes its place needs one. */
static void
sync_query(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;

	if (!pg_server_expect(v, &ps->s.lessee, PG_SYNC, LEDGER_FORWARD, 0,
			      STMT_NONE) ||
	    pg_put(stream_out(&v->stream), 'S', "") != 0)
		abort();
	pg_message_synced(ps);
}

/* Does something of the client's wait for a Sync that has not come? */
static bool
is_unsynced(const struct pg_session *ps)
{
	const struct ledger *owed = &ps->s.lessee.server->ledger;
	const struct ledger_entry *last =
	    owed->n > 0 ? ledger_at(owed, owed->n - 1) : NULL;

	return last != NULL && last->lessee == &ps->s.lessee &&
	       last->kind != PG_QUERY && last->kind != PG_SYNC &&
	       last->kind != PG_FUNCTION;
}

static void
refuse_query(struct pg_session *ps, struct feed *f, uint32_t size,
	     const struct refusal *r)
{
	pg_message_drop(ps, f, size);
	if (server_of(ps)->skipping)
		return;
	/* Should one of those fail, no ReadyForQuery is owed for this. */
	if (is_unsynced(ps)) {
		session_close(&ps->s, r->why, NULL, r->text);
		return;
	}
	poison_refused(ps, r);
	sync_query(ps);
}

/* In a transaction that has failed even this fails: there the server says so. */
static bool
query_deallocates(struct pg_session *ps, struct feed *f, uint32_t size,
		  struct slice text)
{
	char status = server_of(ps)->status;

	if ((status != 'I' && status != 'T') ||
	    !pg_message_deallocate(ps, text))
		return false;
	pg_message_drop(ps, f, size);
	pg_server_fake(ps->s.lessee.server, &ps->s.lessee, PG_EXECUTE, 0);
	if (!session_is_over(&ps->s))
		sync_query(ps);
	return true;
}

/* ---- the rate of the organization ------------------------------------- */

static bool
is_transaction(struct slice text)
{
	unsigned modes;

	return sql_transaction(text, &modes) != SQL_NO_XACT;
}

bool
pg_message_is_free(const struct feed *f, const struct pg_frame *m)
{
	struct pg_reader r;

	if ((m->type != 'Q' && m->type != 'P') || m->size > f->n - f->at)
		return false;
	r = pg_reader(f->p + f->at + PG_HEADER, m->size - PG_HEADER);
	if (m->type == 'P')
		pg_read_str(&r); /* its name */
	return is_transaction(pg_read_str(&r));
}

/* What the server would not look at costs nothing. */
static const struct refusal *
refusal_by_rate(struct pg_session *ps, bool is_free)
{
	static const struct refusal rate = { WHY_RATE_QUERIES, "" };

	if (is_free || server_of(ps)->skipping || server_of(ps)->status == 'E')
		return NULL;
	return seat_pay(&ps->s) ? NULL : &rate;
}

static void
on_query(struct pg_session *ps, struct feed *f, uint32_t size)
{
	size_t here = f->n - f->at;
	bool whole = here >= size;
	struct slice text = slice_of(f->p + f->at + PG_HEADER,
				     (whole ? size : here) - PG_HEADER);
	const struct refusal *no;
	struct refusal there;
	unsigned flags;

	if (whole && text.n > 0)
		text.n--; /* its NUL */
	flags = scan(text, whole);
	if (waits_for_bind(ps, f, flags))
		return;
	if (flags & SQL_SETTING && may_not_switch(ps, text, &there)) {
		refuse_query(ps, f, size, &there);
		return;
	}
	if ((no = refusal(ps, text, flags)) != NULL ||
	    (no = refusal_to_end(ps, text, flags)) != NULL ||
	    (no = refusal_to_recall(ps, flags)) != NULL) {
		refuse_query(ps, f, size, no);
		return;
	}
	pg_switch_note(ps, text, flags);
	ps->resets |= (flags & SQL_RESETS) != 0;
	pg_message_drop_unnamed(ps); /* as PostgreSQL does */
	if (flags & SQL_DROPS && query_deallocates(ps, f, size, text))
		return;
	if ((no = refusal_by_rate(ps, whole && is_transaction(text))) != NULL) {
		refuse_query(ps, f, size, no);
		return;
	}
	apply_flags(ps, flags, text);
	apply_forgets(ps, flags);
	note_request(ps);
	stats_add(&ps->s.worker->stats, STAT_QUERIES, 1);
	pass_expecting(ps, f, size, PG_QUERY);
	pg_message_synced(ps);
}

static uint64_t
owner_id(const struct pg_session *ps)
{
	return ps->s.id << 8 | ps->s.worker->id;
}

/* Kept so that it can be parsed again where the client's next lease is. */
void
pg_message_keep_unnamed(struct pg_session *ps, struct slice body,
			unsigned flags)
{
	if (ps->unnamed_size < body.n || ps->unnamed_size > 4 * body.n + 256) {
		free(ps->unnamed);
		ps->unnamed_size = body.n;
		if ((ps->unnamed = malloc(body.n + 1)) == NULL)
			abort();
	}
	memcpy(ps->unnamed, body.p, body.n);
	ps->unnamed_n = body.n;
	ps->unnamed_flags = flags;
	ps->has_unnamed = true;
}

static void
on_parse_unnamed(struct pg_session *ps, struct feed *f, uint32_t size,
		 struct slice body, bool whole)
{
	struct pg_reader r = pg_reader(body.p, body.n);
	struct slice text = pg_read_str(&r);
	const struct refusal *no;
	struct stmt_entry *e;
	unsigned flags;

	if (r.bad) /* not all here: what there is */
		text = body;
	flags = scan(text, whole && !r.bad);
	if (waits_for_bind(ps, f, flags))
		return;
	if ((no = refusal(ps, text, flags)) != NULL) {
		pg_message_drop(ps, f, size);
		poison_refused(ps, no);
		return;
	}
	pg_message_drop_unnamed(ps);
	if (whole)
		pg_message_keep_unnamed(ps, body, flags);
	if (flags & SQL_SETTING && is_switch(ps, text))
		flags = 0; /* it is refused where it would run */
	if (flags & SQL_DROPS && !server_of(ps)->failed &&
	    (e = deallocated(ps, text)) != NULL) {
		pg_message_drop(ps, f, size);
		ps->drops = e->id;
		pg_server_fake(ps->s.lessee.server, &ps->s.lessee, PG_PARSE, 0);
		return;
	}
	apply_flags(ps, flags, text);
	if (pg_server_parse_unnamed(ps->s.lessee.server, &ps->s.lessee,
				    owner_id(ps), ps->unnamed_gen))
		pass(ps, f, size);
	else
		pg_message_drop(ps, f, size);
}

/* In a transaction that has failed only its end parses; but a server that has
 * the statement is not asked. */
static bool
has_failed(struct pg_session *ps, const struct stmt *stmt, struct slice text)
{
	unsigned modes;
	enum sql_xact xact = SQL_NO_XACT;

	if (!server_of(ps)->failed ||
	    !pg_server_holds(ps->s.lessee.server, stmt))
		return false;
	if (stmt->flags & SQL_XACT)
		xact = sql_transaction(text, &modes);
	return !(stmt->flags & SQL_XACT) || xact == SQL_BEGIN ||
	       xact == SQL_START;
}

static void
on_parse(struct pg_session *ps, struct feed *f, uint32_t size)
{
	size_t here = f->n - f->at;
	bool whole = here >= size;
	struct pg_reader r = pg_reader(f->p + f->at + PG_HEADER,
				       (whole ? size : here) - PG_HEADER);
	struct slice name = pg_read_str(&r), body, text;
	struct worker *w = ps->s.worker;
	const struct refusal *no;
	unsigned flags;
	struct stmt_entry *e;
	struct stmt *stmt;

	body = slice_of(r.p, (size_t)(r.end - r.p));
	if (r.bad) {
		pg_message_bad(ps);
		return;
	}
	if (name.n == 0) {
		on_parse_unnamed(ps, f, size, body, whole);
		return;
	}
	if (!whole) {
		session_close(&ps->s, WHY_TOO_BIG, NULL,
			      "named prepared statement is too long");
		return;
	}
	pg_message_flush(ps, f);
	if (stmt_names_find(&ps->names, name) != NULL) {
		poison_duplicate(ps, name);
		feed_skip(f, size);
		return;
	}
	text = pg_read_str(&r);
	flags = scan(text, true);
	if (waits_for_bind(ps, f, flags))
		return;
	if (!r.bad && (no = refusal(ps, text, flags)) != NULL) {
		feed_skip(f, size);
		poison_refused(ps, no);
		return;
	}
	stmt = stmt_intern_as(&w->pools.stmts, ps->s.lessee.label, body, flags);
	if (has_failed(ps, stmt, text)) {
		stmt_unref(&w->pools.stmts, &stmt);
		feed_skip(f, size);
		poison(ps, "25P02", "");
		return;
	}
	if (r.bad || (e = stmt_names_add(&ps->names, name, stmt)) == NULL) {
		stmt_unref(&w->pools.stmts, &stmt);
		session_close(&ps->s, r.bad ? WHY_BAD_FRAME : WHY_TOO_BIG, NULL,
			      r.bad ? NULL : "too many prepared statements");
		return;
	}
	pg_message_check_stamp(ps);
	e->asked = true;
	e->epoch = ps->epoch;
	ps->parses++;
	pg_server_parse(ps->s.lessee.server, &ps->s.lessee, stmt, e->id);
	feed_skip(f, size);
}

/*
 * The unnamed statement lives on the server that parsed it last.  What is
 * there may be another client's: without one of its own a client finds none.
 */
static void
need_unnamed(struct pg_session *ps, struct feed *f)
{
	struct server *v = ps->s.lessee.server;

	if (pg_server_has_unnamed(v, owner_id(ps), ps->unnamed_gen))
		return;
	pg_message_flush(ps, f);
	if (!ps->has_unnamed) {
		pg_server_close_unnamed(v);
		return;
	}
	if (!is_switch(ps, pg_message_text(ps, slice_of(NULL, 0))))
		apply_flags(ps, ps->unnamed_flags,
			    pg_message_text(ps, slice_of(NULL, 0)));
	if (!pg_server_parse_unnamed(v, NULL, owner_id(ps), ps->unnamed_gen))
		return;
	pg_message_check_stamp(ps);
	if (pg_put(stream_out(&v->stream), 'P', "sb", "",
		   slice_of(ps->unnamed, ps->unnamed_n)) != 0)
		abort();
	stats_add(&ps->s.worker->stats, STAT_PARSES_REPLAYED, 1);
}

/*
 * A message that names a statement, at `name` inside it: under the name the
 * servers know.  Only the head is written anew; the rest is passed.
 */
static void
pass_renamed(struct pg_session *ps, struct feed *f, uint32_t size,
	     enum pg_kind kind, struct slice name, const struct stmt_entry *e)
{
	struct server *v = ps->s.lessee.server;
	const struct stmt *stmt = e->stmt;
	const uint8_t *start = f->p + f->at;
	size_t before = (size_t)(name.p - start) - PG_HEADER;
	size_t skip = PG_HEADER + before + name.n + 1;
	uint32_t len = (uint32_t)(size - 1 - name.n + STMT_NAME);
	uint8_t head[PG_HEADER] = { start[0], (uint8_t)(len >> 24),
				    (uint8_t)(len >> 16), (uint8_t)(len >> 8),
				    (uint8_t)len };

	pg_message_flush(ps, f);
	if (!is_switch(ps, pg_message_text(ps, name)))
		apply_flags(ps, stmt->flags, pg_message_text(ps, name));
	pg_server_need(v, stmt);
	if (!pg_server_expect(v, &ps->s.lessee, kind, LEDGER_FORWARD, e->id,
			      STMT_NONE)) {
		pg_message_drop(ps, f, size);
		return;
	}
	pg_message_check_stamp(ps);
	pg_server_put(v, head, sizeof(head));
	pg_server_put(v, start + PG_HEADER, before);
	pg_server_put(v, stmt->name, STMT_NAME + 1);
	feed_skip(f, skip);
	pass(ps, f, (uint32_t)(size - skip));
}

/* ---- DEALLOCATE in the extended protocol ------------------------------ */

static void
fake(struct pg_session *ps, struct feed *f, uint32_t size, enum pg_kind kind,
     uint32_t arg)
{
	pg_message_drop(ps, f, size);
	pg_server_fake(ps->s.lessee.server, &ps->s.lessee, kind, arg);
}

/* The unnamed portal is one of our own, or no longer. */
static bool
bind_deallocates(struct pg_session *ps, struct slice portal, struct slice name)
{
	if (portal.n > 0)
		return false;
	ps->portal_drops =
	    name.n == 0 && !server_of(ps)->failed ? ps->drops : 0;
	return ps->portal_drops != 0;
}

/* Does a Bind, read up to behind its names, bring any? */
static bool
has_arguments(struct pg_reader r)
{
	uint16_t formats = pg_read_u16(&r);

	pg_read_bytes(&r, 2 * (size_t)formats);
	return pg_read_u16(&r) != 0 || r.bad;
}

/* As a Close, when the server comes to it. */
static void
execute_deallocates(struct pg_session *ps, struct feed *f, uint32_t size)
{
	struct stmt_entry *e = stmt_names_find_id(&ps->names, ps->portal_drops);

	ps->portal_drops = 0;
	if (e == NULL || e->stmt == NULL) {
		pg_message_drop(ps, f, size);
		poison(ps, "26000", "prepared statement does not exist");
		return;
	}
	e->closed = e->stmt;
	e->stmt = NULL;
	fake(ps, f, size, PG_EXECUTE, e->id);
}

/* ---- statements by name ----------------------------------------------- */

/*
 * Where this plan is not, nobody would say that it is no longer true.  Who
 * has never been told what it returns can have the new one at once.
 */
static bool
is_stale(struct pg_session *ps, struct stmt_entry *e)
{
	struct stmts *all = &ps->s.worker->pools.stmts;
	struct stmt *old;

	if (e != NULL)
		stmt_entry_read(e, all, ps->s.lessee.label);
	old = e != NULL ? e->stmt : NULL;
	if (old == NULL || !old->stale)
		return false;
	if (e->shape != 0)
		return !pg_server_holds(ps->s.lessee.server, old);
	e->stmt = stmt_intern_as(all, ps->s.lessee.label,
				 slice_of(old->body, old->len), old->flags);
	stmt_unref(all, &old);
	return false;
}

static void
poison_stale(struct pg_session *ps, struct feed *f, uint32_t size)
{
	pg_message_drop(ps, f, size);
	poison(ps, "0A000", stale_text);
}

/*
 * A client that was told what a statement returns must not be sent anything
 * else: where it has to be parsed anew, that is asked first.  True: wait.
 */
static bool
check(struct pg_session *ps, struct feed *f, const struct stmt_entry *e)
{
	struct server *v = ps->s.lessee.server;

	if (e == NULL || e->shape == 0 || server_of(ps)->skipping ||
	    pg_server_holds(v, e->stmt))
		return false;
	pg_message_flush(ps, f);
	pg_message_check_stamp(ps);
	ps->checks++;
	pg_server_check(v, &ps->s.lessee, e->stmt, e->id);
	return true;
}

/* A name of the servers' own is nobody else's. */
static bool
is_own_name(struct slice name)
{
	static const char own[] = "weir_";

	return name.n >= sizeof(own) - 1 &&
	       memcmp(name.p, own, sizeof(own) - 1) == 0;
}

static bool
refuse_own_name(struct pg_session *ps, struct feed *f, uint32_t size,
		struct slice name, const struct stmt_entry *e)
{
	char text[256];

	if (e != NULL || !is_own_name(name))
		return false;
	snprintf(text, sizeof(text),
		 "prepared statement \"%.*s\" does not exist",
		 (int)(name.n < 128 ? name.n : 128), (const char *)name.p);
	pg_message_drop(ps, f, size);
	if (!server_of(ps)->skipping)
		poison(ps, "26000", text);
	return true;
}

static void
on_bind(struct pg_session *ps, struct feed *f, uint32_t size)
{
	size_t here = f->n - f->at;
	struct pg_reader r = pg_reader(f->p + f->at + PG_HEADER,
				       (here < size ? here : size) - PG_HEADER);
	struct slice portal = pg_read_str(&r), name = pg_read_str(&r);
	struct stmt_entry *e = NULL;
	struct refusal there;
	const struct refusal *no;
	struct slice text;
	unsigned flags = 0;

	if (r.bad) {
		pg_message_bad(ps);
		return;
	}
	if (bind_deallocates(ps, portal, name)) {
		if (has_arguments(r)) {
			pg_message_drop(ps, f, size);
			poison(ps, "08P01",
			       "bind message supplies parameters "
			       "where none are asked for");
		} else {
			fake(ps, f, size, PG_BIND, 0);
		}
		return;
	}
	if (name.n > 0)
		e = stmt_names_find(&ps->names, name);
	if (refuse_own_name(ps, f, size, name, e))
		return;
	if (is_stale(ps, e)) {
		poison_stale(ps, f, size);
		return;
	}
	if (check(ps, f, e))
		return;
	if (e != NULL)
		flags = e->stmt->flags;
	else if (name.n == 0 && ps->has_unnamed)
		flags = ps->unnamed_flags;
	if (waits_for_bind(ps, f, flags))
		return;
	text = pg_message_text(ps, name);
	no = refusal_to_recall(ps, flags);
	if (no == NULL)
		no = refusal_to_end(ps, text, flags);
	if (no == NULL && flags & SQL_SETTING &&
	    may_not_switch(ps, text, &there))
		no = &there;
	if (no != NULL) {
		pg_message_drop(ps, f, size);
		poison_refused(ps, no);
		return;
	}
	pg_switch_bind(ps, portal, text, flags);
	ps->resets |= (flags & SQL_RESETS) != 0;
	if (portal.n == 0)
		ps->portal_free = (e != NULL     ? e->stmt->flags
				   : name.n == 0 ? ps->unnamed_flags
						 : 0) &
				  SQL_XACT;
	if (name.n == 0) {
		need_unnamed(ps, f);
		/* Parsed in an earlier lease it is run in this one. */
		apply_flags(ps, ps->has_unnamed ? ps->unnamed_flags : 0,
			    pg_message_text(ps, name));
	}
	if (e != NULL)
		pass_renamed(ps, f, size, PG_BIND, name, e);
	else
		pass_expecting(ps, f, size, PG_BIND);
	apply_forgets(ps, flags);
}

/* Describe and Close: a kind, S or P, and a name; both are small. */
struct stmt_entry *
pg_message_named(struct pg_session *ps, struct feed *f, uint32_t size,
		 uint8_t *kind, struct slice *name, bool *bad)
{
	struct pg_reader r =
	    pg_reader(f->p + f->at + PG_HEADER, size - PG_HEADER);

	*kind = pg_read_u8(&r);
	*name = pg_read_str(&r);
	*bad = r.bad;
	if (r.bad || *kind != 'S' || name->n == 0)
		return NULL;
	return stmt_names_find(&ps->names, *name);
}

static void
on_describe(struct pg_session *ps, struct feed *f, uint32_t size)
{
	struct stmt_entry *e;
	struct slice name;
	uint8_t kind;
	bool bad;

	e = pg_message_named(ps, f, size, &kind, &name, &bad);
	if (bad) {
		pg_message_bad(ps);
		return;
	}
	if (kind == 'S' && refuse_own_name(ps, f, size, name, e))
		return;
	if (kind == 'P' && ps->portal_drops != 0 && name.n == 0) {
		fake(ps, f, size, PG_DESCRIBE, 0);
		return;
	}
	if (is_stale(ps, e)) {
		poison_stale(ps, f, size);
		return;
	}
	if (kind == 'S' && name.n == 0)
		need_unnamed(ps, f);
	if (e != NULL)
		pass_renamed(ps, f, size, PG_DESCRIBE, name, e);
	else
		pass_expecting(ps, f, size, PG_DESCRIBE);
}

/* A statement of the client's is closed in its own map; servers keep theirs
 * until they need the room. */
static void
on_close(struct pg_session *ps, struct feed *f, uint32_t size)
{
	struct stmt_entry *e;
	struct slice name;
	uint8_t kind;
	bool bad;

	e = pg_message_named(ps, f, size, &kind, &name, &bad);
	if (bad) {
		pg_message_bad(ps);
		return;
	}
	if (kind == 'S' && name.n == 0) {
		pg_message_drop_unnamed(ps);
		server_of(ps)->unnamed_owner = 0;
	}
	if (e == NULL && kind == 'S' && is_own_name(name)) {
		fake(ps, f, size, PG_CLOSE, 0); /* there was none: no error */
		return;
	}
	if (e == NULL) {
		pass_expecting(ps, f, size, PG_CLOSE);
		return;
	}
	pg_message_flush(ps, f);
	feed_skip(f, size);
	e->closed = e->stmt;
	e->stmt = NULL;
	pg_server_fake(ps->s.lessee.server, &ps->s.lessee, PG_CLOSE, e->id);
}

static void
on_execute(struct pg_session *ps, struct feed *f, uint32_t size)
{
	bool unnamed = size > PG_HEADER && f->n - f->at > PG_HEADER &&
		       f->p[f->at + PG_HEADER] == '\0';
	const struct refusal *no;

	if (ps->portal_drops != 0 && unnamed) {
		note_request(ps);
		execute_deallocates(ps, f, size);
		return;
	}
	if ((no = refusal_by_rate(ps, unnamed && ps->portal_free)) != NULL) {
		pg_message_drop(ps, f, size);
		poison_refused(ps, no);
		return;
	}
	note_request(ps);
	pg_switch_execute(ps, unnamed);
	stats_add(&ps->s.worker->stats, STAT_QUERIES, 1);
	pass_expecting(ps, f, size, PG_EXECUTE);
}

/*
 * A function by its number: set_config() and those that run a text as a
 * statement are nothing for who may not set everything.  The numbers are
 * PostgreSQL's own, the same in every version.
 */
static void
on_function(struct pg_session *ps, struct feed *f, uint32_t size)
{
	static const uint32_t setters[] = { 2078, 2925, 2927, 2929, 3685 };
	static const struct refusal guarded = {
		WHY_GUARDED,
		"settings that name the organization belong to the proxy"
	};
	const struct refusal *no;
	size_t here = f->n - f->at < size ? f->n - f->at : size;
	struct pg_reader r =
	    pg_reader(f->p + f->at + PG_HEADER, here - PG_HEADER);
	uint32_t oid = pg_read_u32(&r);

	if (r.bad) {
		pg_message_bad(ps);
		return;
	}
	for (size_t i = 0; i < sizeof(setters) / sizeof(setters[0]); i++)
		if (oid == setters[i] && pg_message_is_watched(ps)) {
			refuse_query(ps, f, size, &guarded);
			return;
		}
	if ((no = refusal_by_rate(ps, false)) != NULL) {
		refuse_query(ps, f, size, no);
		return;
	}
	note_request(ps);
	pass_expecting(ps, f, size, PG_FUNCTION);
	pg_message_synced(ps);
}

/* One message, with a server in hand. */
void
pg_message_run(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	switch (m->type) {
	case 'Q':
		on_query(ps, f, m->size);
		break;
	case 'P':
		on_parse(ps, f, m->size);
		break;
	case 'B':
		on_bind(ps, f, m->size);
		break;
	case 'D':
		on_describe(ps, f, m->size);
		break;
	case 'C':
		on_close(ps, f, m->size);
		break;
	case 'E':
		on_execute(ps, f, m->size);
		break;
	case 'S':
		ps->portal_drops = 0;
		pass_expecting(ps, f, m->size, PG_SYNC);
		pg_message_synced(ps);
		break;
	case 'F':
		on_function(ps, f, m->size);
		break;
	case 'c':
	case 'f':
		pass_expecting(ps, f, m->size, PG_COPY_END);
		break;
	case 'H':
	case 'd':
		pass(ps, f, m->size);
		break;
	case 'X':
		/* What it sent before is done first, as by PostgreSQL. */
		pg_message_leaving(ps);
		pg_message_drop(ps, f, m->size);
		break;
	default:
		pg_message_bad(ps);
		break;
	}
}

#include "proxy/pg_local.h"

#include <assert.h>
#include <string.h>

#include "protocol/sql.h"
#include "proxy/pg_hold.h"
#include "proxy/pg_switch.h"
#include "proxy/worker.h"

enum {
	BEGUN = 1 << 15, /* in pg_session.begun, beside the modes */
	CUT_MAX = 4096   /* bytes of a message that is waited for */
};

static_assert((int)SQL_NOT_DEFERRABLE < (int)BEGUN, "modes fit below");

/* ---- replies ---------------------------------------------------------- */

/* What is answered, in the order of the protocol. */
struct answer {
	bool parse, bind, describe; /* asked for in the extended protocol */
	bool more; /* the Sync is not here yet, or something before it */
	bool held; /* a COMMIT of what is held: the tag comes after that */
	const char *tag;                /* of CommandComplete; NULL: none */
	const struct sql_switch *shape; /* what it wants and returns; NULL */
};

static void
answer(struct pg_session *ps, const struct answer *a)
{
	struct buf *out = stream_out(&ps->s.stream);
	int r = 0;

	if (a->parse)
		r |= pg_put(out, '1', "");
	if (a->bind)
		r |= pg_put(out, '2', "");
	if (a->describe)
		r |= pg_put(out, 'n', "");
	if (a->shape != NULL)
		r |= pg_switch_describe(out, a->shape);
	if (a->tag != NULL && !a->held)
		r |= pg_put(out, 'C', "s", a->tag);
	if (!a->more && !a->held)
		r |= pg_put_ready(out, pg_local_status(ps));
	if (r != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	else if (a->held)
		pg_hold_commit(ps);
}

/* These messages, all of which are here, are done with. */
static void
done(struct pg_session *ps, struct feed *f, size_t n)
{
	if (session_is_over(&ps->s))
		return;
	assert(n <= f->n - f->at);
	pg_message_drop(ps, f, (uint32_t)n);
	session_rearm(&ps->s);
}

/* ---- transactions that have asked nothing ----------------------------- */

/* What can fail on a standby is left to the server. */
static bool
may_defer(const struct pg_session *ps, unsigned modes)
{
	static const char primary[] = "in_hot_standby\0off";
	size_t n;
	const uint8_t *p = buf_peek(&ps->s.pool->welcome, &n);

	if ((modes & SQL_ISOLATION) != SQL_SERIALIZABLE &&
	    !(modes & SQL_READ_WRITE))
		return true;
	return n > 0 && memmem(p, n, primary, sizeof(primary)) != NULL;
}

static bool
begins(enum sql_xact xact)
{
	return xact == SQL_BEGIN || xact == SQL_START;
}

/* Does it so: with the tag to answer, or none, when a server must. */
static void
transaction(struct pg_session *ps, enum sql_xact xact, unsigned modes,
	    struct answer *a)
{
	struct stats *stats = &ps->s.worker->stats;
	bool starts = begins(xact);

	/* A second BEGIN, or an end without one, earns a warning there. */
	if (xact == SQL_NO_XACT || starts == (ps->begun != 0) ||
	    (starts && !may_defer(ps, modes)))
		return;
	stats_add(stats, STAT_QUERIES, 1);
	if (starts) {
		ps->begun = (uint16_t)(BEGUN | modes);
		ps->begun_ns = ps->s.worker->streams.now_ns;
		a->tag = xact == SQL_BEGIN ? "BEGIN" : "START TRANSACTION";
		return;
	}
	a->tag = xact == SQL_COMMIT ? "COMMIT" : "ROLLBACK";
	ps->begun = 0;
	pg_switch_end(ps, xact == SQL_COMMIT, false);
	if (xact == SQL_ROLLBACK)
		pg_hold_drop(ps);
	a->held = ps->held != NULL;
	stats_add(stats, STAT_TRANSACTIONS, !a->held); /* its batch counts it */
}

bool
pg_local_is_plain(const struct pg_session *ps)
{
	return ps->begun == BEGUN;
}

void
pg_local_begin(struct pg_session *ps)
{
	struct stmts *all = &ps->s.worker->pools.stmts;
	unsigned modes = ps->begun & ~(unsigned)BEGUN;
	char body[SQL_BEGIN_MAX + 3] = ""; /* its NUL, and no types */
	struct stmt *stmt = NULL;

	if (ps->begun == 0)
		return;
	if (modes != 0)
		stmt = stmt_intern(
		    all, slice_of(body, sql_begin(body, modes) + 3), 0);
	pg_server_begin(ps->s.lessee.server, stmt);
	stmt_unref(all, &stmt);
	ps->lease_ns = ps->begun_ns;
	ps->begun = 0;
	stats_add(&ps->s.worker->stats, STAT_BEGINS_DEFERRED, 1);
}

/* ---- another organization --------------------------------------------- */

/* What a Bind has beside the names, of a switch. */
struct bound {
	char value[256];
	unsigned params, format;
};

/* With no server in hand, or that of one which is at rest. */
static char
status_of(const struct pg_session *ps)
{
	const struct server *v = ps->s.lessee.server;

	return v != NULL ? ((const struct pg_server *)(const void *)v)->status
			 : pg_local_status(ps);
}

/* Was it tried before there was this server, which is here to say so? */
static bool
is_tried(const struct pg_session *ps, const struct sql_switch *to)
{
	return ps->s.lessee.server != NULL && !ps->asked &&
	       pg_switch_tried(ps, to);
}

/*
 * Carries a switch out and tells it, ReadyForQuery included.  What is told is
 * what stands before the setting on the way to the server: it is confirmed
 * before anything else is sent there.
 */
static enum pg_switched
run_switch(struct pg_session *ps, const struct sql_switch *to,
	   const char *value, const struct answer *a, unsigned format)
{
	struct buf *out = stream_out(&ps->s.stream);
	bool simple = !a->bind;
	char status = status_of(ps);
	enum pg_switched how = pg_switch_run(ps, to, value);
	int r = 0;

	ps->looks_up = how == PG_SWITCH_LATER;
	if (how != PG_SWITCH_DONE)
		return how;
	if (a->parse)
		r |= pg_put(out, '1', "");
	if (a->bind)
		r |= pg_put(out, '2', "");
	r |= pg_switch_answer(out, to, value,
			      a->describe || (simple && to->select), format);
	if (!a->more)
		r |= pg_put_ready(out, status);
	stats_add(&ps->s.worker->stats, STAT_QUERIES, 1);
	if (r != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	if (ps->s.lessee.server != NULL)
		pg_message_synced(ps);
	return how;
}

/* ---- the simple protocol ---------------------------------------------- */

static bool
query_switches(struct pg_session *ps, struct feed *f, const struct pg_frame *m,
	       struct slice text)
{
	const struct answer a = { 0 };
	struct sql_switch to;
	enum pg_switched how;

	if (ps->held != NULL || !pg_switch_is(ps, text, &to) || to.param != 0 ||
	    is_tried(ps, &to))
		return false;
	how = run_switch(ps, &to, to.value, &a, 0);
	if (how == PG_SWITCH_DONE) {
		pg_message_drop_unnamed(ps);
		done(ps, f, m->size);
	}
	return how != PG_SWITCH_NO;
}

static bool
local_query(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	struct slice text =
	    slice_of(f->p + f->at + PG_HEADER, m->size - PG_HEADER);
	struct answer a = { 0 };
	unsigned modes;
	enum sql_xact xact;

	if (m->size > f->n - f->at || text.n < 1)
		return false;
	text.n--; /* its NUL */
	if (query_switches(ps, f, m, text))
		return true;
	xact = sql_transaction(text, &modes);
	transaction(ps, xact, modes, &a);
	if (a.tag == NULL && pg_message_deallocate(ps, text))
		a.tag = "DEALLOCATE";
	if (a.tag == NULL)
		return false;
	pg_message_drop_unnamed(ps); /* as PostgreSQL does */
	answer(ps, &a);
	done(ps, f, m->size);
	return true;
}

/* ---- the extended protocol -------------------------------------------- */

enum { SMALL = 4096 }; /* none of a group's messages is longer */

static_assert(4 * SMALL <= PG_LOCAL_REST && 4 * CUT_MAX <= PG_LOCAL_REST,
	      "Bind, Describe, Execute and Sync find room");

/* What is here of the client's messages, from the one in question on. */
struct group {
	const uint8_t *p, *end;
	bool cut; /* and more of them may come */
};

/* The next one's body, if it is all here and of this type. */
static bool
take(struct group *g, uint8_t type, struct pg_reader *r)
{
	size_t n = (size_t)(g->end - g->p);
	struct pg_frame m;
	int got = pg_frame_next(&m, g->p, n);

	g->cut |= got == 0 ||
		  (got > 0 && m.type == type && m.size > n && m.size <= SMALL);
	if (got <= 0 || m.type != type || m.size > n)
		return false;
	*r = pg_reader(g->p + PG_HEADER, m.size - PG_HEADER);
	g->p += m.size;
	return true;
}

static bool
take_sync(struct group *g)
{
	struct pg_reader r;

	return take(g, 'S', &r) && r.p == r.end;
}

/* A Bind of no parameters to the unnamed portal: the statement's name. */
static bool
take_bind(struct group *g, struct slice *name)
{
	struct pg_reader r;
	struct slice portal;

	if (!take(g, 'B', &r))
		return false;
	portal = pg_read_str(&r);
	*name = pg_read_str(&r);
	return portal.n == 0 && pg_read_u16(&r) == 0 && pg_read_u16(&r) == 0 &&
	       !r.bad;
}

/* A Bind to the unnamed portal of one value at most, and how its row is
 * wanted. */
static bool
take_value(struct group *g, struct slice *name, struct bound *b)
{
	struct pg_reader r;
	unsigned formats;
	uint32_t n = 0;
	struct slice value = { 0 };

	if (!take(g, 'B', &r) || pg_read_str(&r).n != 0)
		return false;
	*name = pg_read_str(&r);
	for (formats = pg_read_u16(&r); formats > 0 && !r.bad; formats--)
		pg_read_u16(&r);
	b->params = pg_read_u16(&r);
	if (b->params == 1 && (n = pg_read_u32(&r)) < sizeof(b->value))
		value = pg_read_bytes(&r, n);
	formats = pg_read_u16(&r);
	b->format = formats == 1 ? pg_read_u16(&r) : 0;
	if (r.bad || r.p != r.end || b->params > 1 || formats > 1 ||
	    b->format > 1 || n >= sizeof(b->value) ||
	    (n > 0 && memchr(value.p, '\0', n) != NULL))
		return false;
	if (n > 0)
		memcpy(b->value, value.p, n);
	b->value[n] = '\0';
	return true;
}

/* Describe, perhaps, then Execute, of the unnamed portal; and Sync, or is there
 * more? */
static bool
take_execute(struct group *g, struct answer *a)
{
	struct pg_reader r;

	a->describe = take(g, 'D', &r);
	if (a->describe &&
	    (pg_read_u8(&r) != 'P' || pg_read_str(&r).n != 0 || r.bad))
		return false;
	if (!take(g, 'E', &r) || pg_read_str(&r).n != 0 || r.bad)
		return false;
	a->more = !take_sync(g);
	return true;
}

/* Bind, Describe, Execute, Sync of a transaction command we can answer: the
 * client's own name for it, or the one parsed in the same breath.  Behind the
 * BEGIN of a service user, instead of Sync, there may be what it chooses. */
static bool
local_execute(struct pg_session *ps, struct group *g, enum sql_xact xact,
	      unsigned modes, struct answer *a)
{
	if (!take_execute(g, a) ||
	    (a->more && (ps->sw == NULL || !begins(xact))))
		return false;
	a->bind = true;
	transaction(ps, xact, modes, a);
	return a->tag != NULL;
}

/* What is kept of an unnamed statement is its body. */
static struct slice
text_of(const uint8_t *body, size_t n)
{
	return slice_text(body, n);
}

/*
 * Bind, Describe, Execute, Sync of a switch, behind its Parse or not.  LATER:
 * also when not all of them are here yet.
 */
static enum pg_switched
bind_switches(struct pg_session *ps, struct feed *f, struct group g,
	      struct slice text, struct answer *a)
{
	struct sql_switch to;
	struct slice name = { 0 };
	struct bound b = { 0 };
	enum pg_switched how;
	bool good = take_value(&g, &name, &b);

	if (!a->parse)
		text = good ? pg_message_text(ps, name) : (struct slice){ 0 };
	if (ps->held != NULL || !pg_switch_is(ps, text, &to) ||
	    is_tried(ps, &to))
		return PG_SWITCH_NO;
	/* Without Sync what follows could still fail, and undo it: that is
	 * told from a transaction's end only. */
	good = good && (!a->parse || name.n == 0) && to.param == b.params &&
	       take_execute(&g, a) &&
	       (!a->more || (ps->begun != 0 && ps->s.lessee.server == NULL));
	ps->looks_up = !good && g.cut;
	if (!good)
		return g.cut ? PG_SWITCH_LATER : PG_SWITCH_NO;
	a->bind = true;
	how = run_switch(ps, &to, to.param != 0 ? b.value : to.value, a,
			 b.format);
	if (how == PG_SWITCH_DONE)
		done(ps, f, (size_t)(g.p - (f->p + f->at)));
	return how;
}

static bool
local_bind(struct pg_session *ps, struct feed *f)
{
	struct group g = { f->p + f->at, f->p + f->n, false };
	struct answer there = { 0 };
	struct stmt_entry *e;
	struct answer a = { 0 };
	struct slice name, text = { 0 };
	enum sql_xact xact;
	unsigned modes;

	if (ps->sw != NULL &&
	    bind_switches(ps, f, g, text, &there) != PG_SWITCH_NO)
		return true;
	if (!take_bind(&g, &name))
		return false;
	if (name.n == 0 && ps->has_unnamed && ps->unnamed_flags & SQL_XACT)
		text = text_of(ps->unnamed, ps->unnamed_n);
	e = name.n > 0 ? stmt_names_find(&ps->names, name) : NULL;
	if (e != NULL && e->stmt->flags & SQL_XACT)
		text = text_of(e->stmt->body, e->stmt->len);
	if (text.n == 0)
		return false;
	xact = sql_transaction(text, &modes);
	if (!local_execute(ps, &g, xact, modes, &a))
		return false;
	answer(ps, &a);
	done(ps, f, (size_t)(g.p - (f->p + f->at)));
	return true;
}

/*
 * A new name for a statement that would parse: because it is one of ours, or
 * has been parsed in this pool before.
 */
static bool
local_name(struct pg_session *ps, struct slice name, struct slice body,
	   unsigned flags, bool is_sure)
{
	struct stmts *all = &ps->s.worker->pools.stmts;
	struct stmt *stmt;

	if (stmt_names_find(&ps->names, name) != NULL)
		return false;
	stmt = stmt_intern_as(all, ps->s.lessee.label, body, flags);
	if ((is_sure || budget_has_parsed(ps->s.worker->pools.budgets,
					  ps->s.pool->budget, stmt->digest)) &&
	    stmt_names_add(&ps->names, name, stmt) != NULL)
		return true;
	stmt_unref(all, &stmt);
	return false;
}

/* These types, of a Parse, are texts, and no more than that. */
static bool
are_texts(struct pg_reader types, unsigned max)
{
	enum { TEXT = 25, UNKNOWN = 705, VARCHAR = 1043 };
	unsigned n = pg_read_u16(&types);

	if (n > max)
		return false;
	for (; n > 0 && !types.bad; n--) {
		uint32_t type = pg_read_u32(&types);

		if (type != 0 && type != TEXT && type != UNKNOWN &&
		    type != VARCHAR)
			return false;
	}
	return !types.bad;
}

/* A Parse: what it says, and what follows it. */
struct parse {
	struct slice name, text, body;
	struct pg_reader types; /* of parameters */
	struct group g;
};

static bool
take_parse(struct group *g, struct parse *p)
{
	struct pg_reader r;

	if (!take(g, 'P', &r))
		return false;
	p->name = pg_read_str(&r);
	p->body = slice_of(r.p, (size_t)(r.end - r.p));
	p->text = pg_read_str(&r);
	p->types = r;
	p->g = *g;
	if (pg_read_u16(&r) != 0 && r.p == r.end)
		r.bad = true; /* types are promised, and not there */
	return !r.bad;
}

/* It is carried out, or will be, when the Parse is of the unnamed one. */
static bool
parse_switches(struct pg_session *ps, struct feed *f, const struct parse *p)
{
	struct answer a = { .parse = true };
	enum pg_switched how;

	if (ps->sw == NULL || p->name.n > 0)
		return false;
	how = bind_switches(ps, f, p->g, p->text, &a);
	if (how == PG_SWITCH_DONE) {
		pg_message_drop_unnamed(ps);
		pg_message_keep_unnamed(ps, p->body, sql_scan(p->text));
	}
	return how != PG_SWITCH_NO;
}

/* Is it a switch that PostgreSQL would parse, with these types? */
static bool
is_sure_switch(const struct pg_session *ps, struct slice text,
	       struct pg_reader types, struct sql_switch *to)
{
	return pg_switch_is(ps, text, to) && to->param <= 1 &&
	       are_texts(types, to->param);
}

/*
 * A switch that is parsed, and perhaps described, long before it is bound: no
 * server is asked, so the one in hand stays at rest until then.  Behind a Flush
 * nothing would say again that it is.
 */
static bool
parse_keeps(struct pg_session *ps, struct feed *f, const struct parse *p)
{
	const struct answer a = { .parse = true, .more = true };
	struct sql_switch to;
	unsigned flags;

	if (!is_sure_switch(ps, p->text, p->types, &to))
		return false;
	flags = sql_scan(p->text);
	if (p->name.n == 0) {
		pg_message_drop_unnamed(ps);
		pg_message_keep_unnamed(ps, p->body, flags);
	} else if (!local_name(ps, p->name, p->body, flags, true)) {
		return false;
	}
	answer(ps, &a);
	done(ps, f, (size_t)(p->g.p - (f->p + f->at)));
	return true;
}

static bool
describe_switch(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	struct pg_reader r =
	    pg_reader(f->p + f->at + PG_HEADER, m->size - PG_HEADER);
	bool is_stmt = pg_read_u8(&r) == 'S';
	struct slice body = pg_message_body(ps, pg_read_str(&r)), text;
	struct pg_reader types;
	struct sql_switch to;
	const struct answer a = { .shape = &to, .more = true };

	if (r.bad || !is_stmt || body.n == 0)
		return false;
	types = pg_reader(body.p, body.n);
	text = pg_read_str(&types);
	if (types.bad || !is_sure_switch(ps, text, types, &to))
		return false;
	answer(ps, &a);
	done(ps, f, m->size);
	return true;
}

static bool
local_parse(struct pg_session *ps, struct feed *f)
{
	struct group g = { f->p + f->at, f->p + f->n, false };
	struct answer a = { .parse = true };
	struct slice name, text, bound, body;
	struct parse p;
	enum sql_xact xact;
	unsigned modes, flags;
	bool is_ours; /* PostgreSQL would parse it */

	if (!take_parse(&g, &p))
		return false;
	name = p.name;
	text = p.text;
	body = p.body;
	if (parse_switches(ps, f, &p) || parse_keeps(ps, f, &p))
		return true;
	xact = sql_transaction(text, &modes);
	is_ours = xact != SQL_NO_XACT;
	a.more = !take_sync(&g);
	if (!a.more || (name.n > 0 && ps->sw != NULL && is_ours)) {
		flags = sql_scan(text);
		if (name.n == 0 || pg_message_is_refused(ps, text, flags) ||
		    !local_name(ps, name, body, flags, is_ours))
			return false;
	} else {
		if (xact == SQL_NO_XACT || name.n > 0 ||
		    !take_bind(&g, &bound) || bound.n > 0 ||
		    !local_execute(ps, &g, xact, modes, &a))
			return false;
		pg_message_drop_unnamed(
		    ps); /* or servers take it for the last */
		pg_message_keep_unnamed(ps, body, SQL_XACT);
	}
	answer(ps, &a);
	done(ps, f, (size_t)(g.p - (f->p + f->at)));
	return true;
}

/* ---- a switch, wherever ------------------------------------------------- */

bool
pg_local_switch(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	const struct server *v = ps->s.lessee.server;
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;
	struct group g = { f->p + f->at, f->p + f->n, false };
	struct answer a = { 0 };
	struct parse p;

	if (ps->sw == NULL || m->size > f->n - f->at)
		return false;
	if (v != NULL && (v->ledger.n > 0 || pg->skipping ||
			  (pg->status != 'I' && pg->status != 'T')))
		return false;
	if (v != NULL)
		pg_message_flush(ps, f);
	switch (m->type) {
	case 'Q':
		return m->size > PG_HEADER &&
		       query_switches(ps, f, m,
				      slice_of(f->p + f->at + PG_HEADER,
					       m->size - PG_HEADER - 1));
	case 'P':
		return take_parse(&g, &p) &&
		       (parse_switches(ps, f, &p) || parse_keeps(ps, f, &p));
	case 'D':
		return describe_switch(ps, f, m);
	case 'B':
		return bind_switches(ps, f, g, (struct slice){ 0 }, &a) !=
		       PG_SWITCH_NO;
	default:
		return false;
	}
}

/* ---- the rest --------------------------------------------------------- */

static bool
local_close(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	struct stmt_entry *e;
	struct slice name;
	uint8_t kind;
	bool bad;

	e = pg_message_named(ps, f, m->size, &kind, &name, &bad);
	if (bad || (kind != 'S' && kind != 'P')) {
		pg_message_bad(ps);
		return true;
	}
	if (e != NULL)
		stmt_names_drop(&ps->names, &ps->s.worker->pools.stmts, e);
	else if (kind == 'S' && name.n == 0)
		pg_message_drop_unnamed(ps);
	if (pg_put(stream_out(&ps->s.stream), '3', "") != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
	return true;
}

/* The type of the first message of such a group that is not all here; 0: it is
 * another group, or whole. */
static uint8_t
missing(struct group g, uint8_t first)
{
	static const char order[] = "PBDES";
	struct pg_frame m;

	for (const char *next = strchr(order, first); *next != '\0'; next++) {
		size_t n = (size_t)(g.end - g.p);
		int got = pg_frame_next(&m, g.p, n);

		if (*next == 'D' && (got == 0 || (got > 0 && m.type == 'E')))
			next++; /* it may be left out */
		if (got == 0)
			return (uint8_t)*next;
		if (got < 0 || m.type != *next)
			return 0;
		if (m.size > n)
			return m.size <= CUT_MAX ? m.type : 0;
		g.p += m.size;
	}
	return 0;
}

bool
pg_local_is_cut(const struct pg_session *ps, const struct feed *f,
		const struct pg_frame *m)
{
	struct group g = { f->p + f->at, f->p + f->n, false };
	struct pg_reader r;
	struct sql_switch to;
	struct slice text;
	unsigned modes;
	enum sql_xact xact;
	uint8_t lacks;

	if ((ps->sw == NULL && ps->held == NULL) ||
	    ps->mode != POOL_MODE_TRANSACTION ||
	    (m->type != 'P' && m->type != 'B') ||
	    (lacks = missing(g, m->type)) == 0 || !take(&g, m->type, &r))
		return false;
	text = pg_read_str(&r); /* the name, or the portal */
	text = pg_read_str(&r);
	if (m->type == 'B' && !r.bad)
		text = pg_message_text(ps, text);
	if (r.bad)
		return false;
	xact = sql_transaction(text, &modes);
	if (ps->held != NULL && xact != SQL_NO_XACT)
		return !begins(xact);
	if (ps->sw == NULL)
		return false;
	if (begins(xact))
		return lacks != 'S';
	return (lacks != 'S' || ps->begun == 0) && pg_switch_is(ps, text, &to);
}

bool
pg_local_run(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	bool may = ps->mode == POOL_MODE_TRANSACTION;

	if (!may && strchr("QPBD", m->type) != NULL)
		return pg_local_switch(ps, f, m);
	switch (m->type) {
	case 'Q':
		return local_query(ps, f, m);
	case 'P':
		return local_parse(ps, f);
	case 'B':
		return local_bind(ps, f);
	case 'D':
		return m->size <= f->n - f->at && describe_switch(ps, f, m);
	case 'S':
		if (pg_put_ready(stream_out(&ps->s.stream),
				 pg_local_status(ps)) != 0)
			session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
		break;
	case 'C':
		local_close(ps, f, m);
		break;
	case 'X':
		session_close(&ps->s, WHY_QUIT, NULL, NULL);
		break;
	case 'H': /* nothing is held back here */
	case 'd': /* late words of a COPY that has failed: */
	case 'c': /* PostgreSQL ignores them too */
	case 'f':
		break;
	default:
		return false;
	}
	if (!session_is_over(&ps->s))
		pg_message_drop(ps, f, m->size);
	return true;
}

#include "proxy/pg_local.h"

#include <assert.h>
#include <string.h>

#include "protocol/sql.h"
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
	bool more;       /* the Sync is not here yet, or something before it */
	const char *tag; /* of CommandComplete; NULL: none */
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
	if (a->tag != NULL)
		r |= pg_put(out, 'C', "s", a->tag);
	if (!a->more)
		r |= pg_put_ready(out, pg_local_status(ps));
	if (r != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
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

/* Does it so: the tag to answer, or NULL, when a server must. */
static const char *
transaction(struct pg_session *ps, enum sql_xact xact, unsigned modes)
{
	struct stats *stats = &ps->s.worker->stats;
	bool starts = begins(xact);

	/* A second BEGIN, or an end without one, earns a warning there. */
	if (xact == SQL_NO_XACT || starts == (ps->begun != 0) ||
	    (starts && !may_defer(ps, modes)))
		return NULL;
	stats_add(stats, STAT_QUERIES, 1);
	if (starts) {
		ps->begun = (uint16_t)(BEGUN | modes);
		ps->begun_ns = ps->s.worker->streams.now_ns;
		return xact == SQL_BEGIN ? "BEGIN" : "START TRANSACTION";
	}
	ps->begun = 0;
	pg_switch_end(ps, xact == SQL_COMMIT);
	stats_add(stats, STAT_TRANSACTIONS, 1);
	return xact == SQL_COMMIT ? "COMMIT" : "ROLLBACK";
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

/* Tells it, ReadyForQuery included unless more is to come. */
static void
answer_switch(struct pg_session *ps, const struct sql_switch *to,
	      const char *value, const struct answer *a, unsigned format)
{
	struct buf *out = stream_out(&ps->s.stream);
	bool simple = !a->bind;
	int r = 0;

	if (a->parse)
		r |= pg_put(out, '1', "");
	if (a->bind)
		r |= pg_put(out, '2', "");
	r |= pg_switch_answer(out, to, value,
			      a->describe || (simple && to->select), format);
	if (!a->more)
		r |= pg_put_ready(out, pg_local_status(ps));
	stats_add(&ps->s.worker->stats, STAT_QUERIES, 1);
	if (r != 0)
		session_close(&ps->s, WHY_SLOW_READER, NULL, NULL);
}

/* A text that resets all does that here too, before a server hears of it. */
static bool
local_switch(struct pg_session *ps, struct slice text)
{
	const struct answer a = { 0 };
	struct sql_switch to;

	if (ps->sw == NULL)
		return false;
	if (!pg_switch_is(ps, text, &to)) {
		if (sql_scan(text) & SQL_RESETS)
			pg_switch_reset(ps);
		return false;
	}
	if (to.param != 0 || !pg_switch_run(ps, &to, to.value))
		return false;
	answer_switch(ps, &to, to.value, &a, 0);
	return true;
}

/* ---- the simple protocol ---------------------------------------------- */

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
	if (local_switch(ps, text)) {
		pg_message_drop_unnamed(ps);
		done(ps, f, m->size);
		return true;
	}
	xact = sql_transaction(text, &modes);
	a.tag = transaction(ps, xact, modes);
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

/* What is here of the client's messages, from the one in question on. */
struct group {
	const uint8_t *p, *end;
};

/* The next one's body, if it is all here and of this type. */
static bool
take(struct group *g, uint8_t type, struct pg_reader *r)
{
	size_t n = (size_t)(g->end - g->p);
	struct pg_frame m;

	if (pg_frame_next(&m, g->p, n) <= 0 || m.type != type || m.size > n)
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
	a->tag = transaction(ps, xact, modes);
	return a->tag != NULL;
}

/* What is kept of an unnamed statement is its body. */
static struct slice
text_of(const uint8_t *body, size_t n)
{
	return slice_of(body, strnlen((const char *)body, n));
}

/* Bind, Describe, Execute, Sync of a switch, behind its Parse or not. */
static bool
local_bind_switch(struct pg_session *ps, struct feed *f, struct group g,
		  struct slice text, struct answer *a)
{
	const char *value;
	struct sql_switch to;
	struct slice name;
	struct bound b;

	if (!take_value(&g, &name, &b) || (a->parse ? name.n > 0 : text.n > 0))
		return false;
	if (!a->parse)
		text = pg_message_text(ps, name);
	/* Without Sync what follows could still fail, and undo it: that is
	 * told from a transaction's end only. */
	if (!pg_switch_is(ps, text, &to) || to.param != b.params ||
	    !take_execute(&g, a) || (a->more && ps->begun == 0))
		return false;
	value = to.param != 0 ? b.value : to.value;
	if (!pg_switch_run(ps, &to, value))
		return false;
	a->bind = true;
	answer_switch(ps, &to, value, a, b.format);
	done(ps, f, (size_t)(g.p - (f->p + f->at)));
	return true;
}

/* sql_scan()'s, of the client's statement of that name. */
static unsigned
flags_of(const struct pg_session *ps, struct slice name)
{
	struct stmt_entry *e =
	    name.n > 0 ? stmt_names_find(&ps->names, name) : NULL;

	if (e != NULL)
		return e->stmt->flags;
	return name.n == 0 && ps->has_unnamed ? ps->unnamed_flags : 0;
}

/* Is the statement just parsed bound in the same breath? */
static bool
is_bound(struct group g, struct slice name)
{
	struct slice bound;

	return take_bind(&g, &bound) && bound.n == name.n &&
	       (name.n == 0 || memcmp(bound.p, name.p, name.n) == 0);
}

static bool
local_bind(struct pg_session *ps, struct feed *f)
{
	struct group g = { f->p + f->at, f->p + f->n };
	struct answer there = { 0 };
	struct stmt_entry *e;
	struct answer a = { 0 };
	struct slice name, text = { 0 };
	enum sql_xact xact;
	unsigned modes;

	if (ps->sw != NULL && local_bind_switch(ps, f, g, text, &there))
		return true;
	if (!take_bind(&g, &name))
		return false;
	if (name.n == 0 && ps->has_unnamed && ps->unnamed_flags & SQL_XACT)
		text = text_of(ps->unnamed, ps->unnamed_n);
	e = name.n > 0 ? stmt_names_find(&ps->names, name) : NULL;
	if (e != NULL && e->stmt->flags & SQL_XACT)
		text = text_of(e->stmt->body, e->stmt->len);
	if (ps->sw != NULL && flags_of(ps, name) & SQL_RESETS)
		pg_switch_reset(ps);
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
	stmt = stmt_intern(all, body, flags);
	if ((is_sure || budget_has_parsed(ps->s.worker->pools.budgets,
					  ps->s.pool->budget, stmt->digest)) &&
	    stmt_names_add(&ps->names, name, stmt) != NULL)
		return true;
	stmt_unref(all, &stmt);
	return false;
}

/* These types, of a Parse, are texts. */
static bool
are_texts(struct pg_reader types)
{
	enum { TEXT = 25, UNKNOWN = 705, VARCHAR = 1043 };
	unsigned n = pg_read_u16(&types);

	for (; n > 0 && !types.bad; n--) {
		uint32_t type = pg_read_u32(&types);

		if (type != 0 && type != TEXT && type != UNKNOWN &&
		    type != VARCHAR)
			return false;
	}
	return !types.bad;
}

/* Would PostgreSQL parse this?  A command of transactions, or a switch. */
static bool
is_ours(const struct pg_session *ps, struct slice text, struct pg_reader types)
{
	struct sql_switch to;
	unsigned modes;

	return sql_transaction(text, &modes) != SQL_NO_XACT ||
	       (pg_switch_is(ps, text, &to) && are_texts(types));
}

static bool
local_parse(struct pg_session *ps, struct feed *f)
{
	struct group g = { f->p + f->at, f->p + f->n };
	struct answer a = { .parse = true };
	struct slice name, text, bound, body;
	struct pg_reader r, types;
	enum sql_xact xact;
	unsigned modes, flags;

	if (!take(&g, 'P', &r))
		return false;
	name = pg_read_str(&r);
	body = slice_of(r.p, (size_t)(r.end - r.p));
	text = pg_read_str(&r);
	types = r;
	if (pg_read_u16(&r) != 0 && r.p == r.end)
		r.bad = true; /* types are promised, and not there */
	if (r.bad)
		return false;
	if (ps->sw != NULL && name.n == 0 &&
	    local_bind_switch(ps, f, g, text, &a)) {
		pg_message_keep_unnamed(ps, body, sql_scan(text));
		return true;
	}
	a = (struct answer){ .parse = true };
	if (ps->sw != NULL && sql_scan(text) & SQL_RESETS && is_bound(g, name))
		pg_switch_reset(ps);
	xact = sql_transaction(text, &modes);
	a.more = !take_sync(&g);
	if (!a.more ||
	    (name.n > 0 && ps->sw != NULL && is_ours(ps, text, types))) {
		flags = sql_scan(text);
		if (name.n == 0 || pg_message_is_refused(ps, text, flags) ||
		    !local_name(ps, name, body, flags,
				is_ours(ps, text, types)))
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
	struct group g = { f->p + f->at, f->p + f->n };
	struct pg_reader r;
	struct sql_switch to;
	struct slice text;
	unsigned modes;
	uint8_t lacks;

	if (ps->sw == NULL || ps->mode != POOL_MODE_TRANSACTION ||
	    (m->type != 'P' && m->type != 'B') ||
	    (lacks = missing(g, m->type)) == 0 || !take(&g, m->type, &r))
		return false;
	text = pg_read_str(&r); /* the name, or the portal */
	text = pg_read_str(&r);
	if (m->type == 'B' && !r.bad)
		text = pg_message_text(ps, text);
	if (r.bad)
		return false;
	if (begins(sql_transaction(text, &modes)))
		return lacks != 'S';
	return (lacks != 'S' || ps->begun == 0) && pg_switch_is(ps, text, &to);
}

bool
pg_local_run(struct pg_session *ps, struct feed *f, const struct pg_frame *m)
{
	bool may = ps->mode == POOL_MODE_TRANSACTION;

	switch (m->type) {
	case 'Q':
		return may && local_query(ps, f, m);
	case 'P':
		return may && local_parse(ps, f);
	case 'B':
		return may && local_bind(ps, f);
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

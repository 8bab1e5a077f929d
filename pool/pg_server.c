#include "pool/pg_server.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool/pg_login.h"
#include "protocol/context.h"
#include "protocol/pg.h"
#include "protocol/utf8.h"

enum {
	BIND_CHUNK = 8,      /* settings a statement of ours sets */
	TOLD_MAX = 128 << 10 /* bytes of what a lessee has set */
};

enum bind_known {
	KNOWN_BEGIN = 1 << 0,
	KNOWN_COMMIT = 1 << 1,
	KNOWN_RESET = 1 << 2,
	KNOWN_SET =
	    1 << 3 /* and BIND_CHUNK - 1 bits above: by number of pairs */
};

/* In the arg of an Execute of ours: what its answer confirms. */
enum { OWN_BOUND = 1, OWN_BEGIN };

/* ---- sending ---------------------------------------------------------- */

void
pg_server_put(struct server *v, const void *p, size_t n)
{
	if (stream_put(&v->stream, p, n) != 0)
		abort(); /* pg_server_full() is asked long before the limit */
}

bool
pg_server_full(const struct server *v)
{
	return ledger_full(&v->ledger) || stream_is_high(&v->stream);
}

static void
expect(struct server *v, struct lessee *l, enum pg_kind kind,
       enum ledger_action action, uint32_t arg, uint16_t slot)
{
	/* From here to the next ReadyForQuery nobody knows. */
	pg_server(v)->status = 0;
	if (kind == PG_QUERY || kind == PG_EXECUTE || kind == PG_FUNCTION)
		pg_server(v)->failed = false; /* it may end it */
	if (kind == PG_SYNC)
		stmt_held_sync(&pg_server(v)->held);
	if (kind == PG_QUERY)
		pg_server(v)->unnamed_owner = 0; /* it drops it */
	ledger_push(&v->ledger,
		    (struct ledger_entry){ .lessee = l,
					   .arg = arg,
					   .slot = slot,
					   .kind = (uint8_t)kind,
					   .action = (uint8_t)action });
}

static void pg_settle(struct pg_server *);

/* Those whose arg is for `settled`; of Bind and Describe pg_stale() reads it. */
static bool
is_settled(uint8_t kind)
{
	return kind != PG_BIND && kind != PG_DESCRIBE;
}

bool
pg_server_expect(struct server *v, struct lessee *l, enum pg_kind kind,
		 enum ledger_action action, uint32_t arg, uint16_t slot)
{
	struct pg_server *pg = pg_server(v);

	assert(v->state != SERVER_LEASED || v->lessee == l || l == NULL);
	if (pg->skipping && kind != PG_SYNC) {
		assert(slot == STMT_NONE || slot == STMT_UNNAMED);
		if (l != NULL && arg != 0 && is_settled(kind))
			l->ops->settled(l, kind, arg, false);
		return false;
	}
	pg->skipping = false;
	/* Inside COPY IN the backend ignores Sync without an answer. */
	if (kind == PG_SYNC && pg->copying_in) {
		pg->doubt = true;
		return true;
	}
	if (kind == PG_COPY_END) {
		pg->copying_in = false;
		if (v->ledger.n == 0)
			return true;
	}
	expect(v, l, kind, action, arg, slot);
	return true;
}

static void
held_close(struct server *v, uint16_t slot)
{
	char name[STMT_NAME + 1];

	stmt_name(name, pg_server(v)->held.slot[slot].digest);
	expect(v, NULL, PG_CLOSE, LEDGER_SWALLOW, 0, slot);
	if (pg_put(stream_out(&v->stream), 'C', "cs", 'S', name) != 0)
		abort();
}

void
pg_server_need(struct server *v, const struct stmt *s)
{
	struct pg_server *pg = pg_server(v);
	uint16_t slot;

	if (pg->skipping || stmt_held_find(&pg->held, s->digest) != STMT_NONE)
		return;
	/* Two at most: a burst that went past the bound is worked off. */
	for (int i = 0; i < 2; i++)
		if ((slot = stmt_held_evict(&pg->held)) != STMT_NONE)
			held_close(v, slot);
	if ((slot = stmt_held_unsure(&pg->held, s->digest)) != STMT_NONE)
		held_close(v, slot);
	slot = stmt_held_add(&pg->held, s->digest);
	expect(v, NULL, PG_PARSE, LEDGER_SWALLOW, 0, slot);
	if (pg_put(stream_out(&v->stream), 'P', "sb", s->name,
		   slice_of(s->body, s->len)) != 0)
		abort();
	stats_add(v->pool->home->stats, STAT_PARSES_REPLAYED, 1);
}

void
pg_server_check(struct server *v, struct lessee *l, const struct stmt *s,
		uint32_t arg)
{
	pg_server_need(v, s);
	if (!pg_server_expect(v, l, PG_CHECK, LEDGER_SWALLOW, arg, STMT_NONE))
		return;
	if (pg_put(stream_out(&v->stream), 'D', "cs", 'S', s->name) != 0 ||
	    pg_put(stream_out(&v->stream), 'H', "") != 0)
		abort();
}

bool
pg_server_holds(const struct server *v, const struct stmt *s)
{
	/* The use is noted, which is what constness stops short of. */
	return stmt_held_find(&pg_server((struct server *)v)->held,
			      s->digest) != STMT_NONE;
}

void
pg_server_doubt(struct server *v, const struct stmt *s)
{
	stmt_held_doubt(&pg_server(v)->held, s ? s->digest : NULL);
}

void
pg_server_parse(struct server *v, struct lessee *l, const struct stmt *s,
		uint32_t arg)
{
	struct pg_server *pg = pg_server(v);
	uint32_t before = v->ledger.n;
	struct ledger_entry *e;

	if (pg->skipping) {
		l->ops->settled(l, PG_PARSE, arg, false);
		return;
	}
	pg_server_need(v, s);
	if (v->ledger.n == before) {
		pg_server_fake(v, l, PG_PARSE, arg);
		return;
	}
	/* The Parse just noted is the client's own: the answer is for it. */
	e = ledger_at(&v->ledger, v->ledger.n - 1);
	assert(e->kind == PG_PARSE);
	e->lessee = l;
	e->arg = arg;
	e->action = LEDGER_FORWARD;
}

bool
pg_server_parse_unnamed(struct server *v, struct lessee *l, uint64_t owner,
			uint64_t gen)
{
	struct pg_server *pg = pg_server(v);

	assert(owner != 0);
	if (!pg_server_expect(v, l, PG_PARSE,
			      l ? LEDGER_FORWARD : LEDGER_SWALLOW,
			      l ? (uint32_t)gen | PG_UNNAMED : 0, STMT_UNNAMED))
		return false;
	pg->unnamed_owner = owner;
	pg->unnamed_gen = gen;
	pg->unnamed_epoch = pg->held.epoch;
	pg->unnamed_asked++;
	return true;
}

bool
pg_server_has_unnamed(const struct server *v, uint64_t owner, uint64_t gen)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return pg->unnamed_owner == owner && pg->unnamed_gen == gen &&
	       (pg->unnamed_asked == 0 || pg->unnamed_epoch == pg->held.epoch);
}

void
pg_server_close_unnamed(struct server *v)
{
	pg_server(v)->unnamed_owner = 0;
	if (!pg_server_expect(v, NULL, PG_CLOSE, LEDGER_SWALLOW, 0, STMT_NONE))
		return;
	if (pg_put(stream_out(&v->stream), 'C', "cs", 'S', "") != 0)
		abort();
}

void
pg_server_fake(struct server *v, struct lessee *l, enum pg_kind kind,
	       uint32_t arg)
{
	if (!pg_server_expect(v, l, kind, LEDGER_FAKE, arg, STMT_NONE))
		return;
	/* Nothing is owed before it; but not inside a message. */
	if (v->ledger.n == 1 && pg_server(v)->remain == 0)
		pg_settle(pg_server(v));
}

void
pg_server_poison(struct server *v, struct lessee *l, uint32_t arg)
{
	if (!pg_server_expect(v, l, PG_POISON, LEDGER_SWALLOW, arg, STMT_NONE))
		return;
	if (pg_put(stream_out(&v->stream), 'D', "cs", 'S', "weir_poison") != 0)
		abort();
}

/* ---- settings --------------------------------------------------------- */

/* Does the server know that statement of ours? */
static bool
own_is_known(struct server *v, const char *name, unsigned bit)
{
	return name[0] != '\0' && pg_server(v)->bind_known & bit;
}

static void
own_parse(struct server *v, const char *name, const char *sql, unsigned bit)
{
	struct pg_server *pg = pg_server(v);

	if (name[0] == '\0')
		pg->unnamed_owner = 0; /* it takes the client's place */
	else
		pg->bind_known |= (uint16_t)bit;
	expect(v, NULL, PG_PARSE, LEDGER_SWALLOW, 0, STMT_NONE);
	if (pg_put(stream_out(&v->stream), 'P', "ssh", name, sql, 0) != 0)
		abort();
}

/* What a bind calls its statements: nothing, for who would see them there. */
static const char *
bind_name(const struct server *v, const char *name)
{
	return v->lessee != NULL && v->lessee->keeps ? "" : name;
}

/* Bind and Execute. */
static void
own_execute(struct server *v, const char *name, const struct slice *value,
	    unsigned n)
{
	expect(v, NULL, PG_BIND, LEDGER_SWALLOW, 0, STMT_NONE);
	expect(v, NULL, PG_EXECUTE, LEDGER_SWALLOW, 0, STMT_NONE);
	if (pg_put_run(stream_out(&v->stream), name, value, n) != 0)
		abort();
}

static void
own_run(struct server *v, const char *name, const char *sql, unsigned bit)
{
	if (!own_is_known(v, name, bit))
		own_parse(v, name, sql, bit);
	own_execute(v, name, NULL, 0);
}

void
pg_server_begin(struct server *v, const struct stmt *s)
{
	struct pg_server *pg = pg_server(v);

	assert(!pg->beginning && !pg->skipping);
	if (s == NULL) {
		own_run(v, "weir_begin", "BEGIN", KNOWN_BEGIN);
	} else {
		pg_server_need(v, s);
		own_execute(v, s->name, NULL, 0);
	}
	ledger_at(&v->ledger, v->ledger.n - 1)->arg = OWN_BEGIN;
	pg->beginning = true;
	pg->prepared_ns = v->pool->home->streams->now_ns;
}

/* A difference: value NULL takes the setting back to its default. */
struct change {
	const char *name, *value;
};

/* How they are put. */
enum put {
	PUT,
	PUT_UNSET, /* but for those the session has set itself */
	PUT_LOCAL  /* for this transaction */
};

/*
 * What is sent is read, and what is told is written, in the encoding that the
 * client before, or this one, has asked for: text beyond ASCII goes as bytes,
 * and is not told.
 */
static bool
is_wide(const char *text)
{
	for (; text != NULL && *text != '\0'; text++)
		if ((uint8_t)*text >= 0x80)
			return true;
	return false;
}

enum { EXPRESSION_MAX = 80 };

/* A parameter that is a name or a value, as set_config() wants it.  What is no
 * UTF-8 is what it is to the database, as in a startup packet. */
static void
text_expression(char out[EXPRESSION_MAX], const char *text, unsigned number)
{
	const char *encoding = text != NULL && utf8_is_text(text, strlen(text))
				   ? "'UTF8'"
				   : "pg_catalog.getdatabaseencoding()";

	if (is_wide(text))
		snprintf(out, EXPRESSION_MAX, "pg_catalog.convert_from($%u,%s)",
			 number, encoding);
	else
		snprintf(out, EXPRESSION_MAX, "$%u", number);
}

/* Has the server parse what puts n of them. */
static void
parse_set(struct server *v, const char *name, const struct change *c,
	  unsigned n, enum put how)
{
	static const char *const put =
	    "%spg_catalog.set_config(%s,%s,%s) IS NULL";
	static const char *const put_unset =
	    "%sCASE WHEN EXISTS (SELECT FROM pg_catalog.pg_settings WHERE "
	    "source OPERATOR(pg_catalog.=) 'session' AND "
	    "pg_catalog.lower(name) OPERATOR(pg_catalog.=) "
	    "pg_catalog.lower(%s)) THEN NULL ELSE "
	    "pg_catalog.set_config(%s,%s,false) IS NULL END";
	char sql[64 + 512 * BIND_CHUNK];
	char what[EXPRESSION_MAX], to[EXPRESSION_MAX];
	size_t at = (size_t)snprintf(sql, sizeof(sql), "SELECT ");

	for (unsigned i = 0; i < n; i++) {
		const char *comma = i ? "," : "";

		text_expression(what, c[i].name, 2 * i + 1);
		text_expression(to, c[i].value, 2 * i + 2);
		if (how == PUT_UNSET)
			at +=
			    (size_t)snprintf(sql + at, sizeof(sql) - at,
					     put_unset, comma, what, what, to);
		else
			at += (size_t)snprintf(
			    sql + at, sizeof(sql) - at, put, comma, what, to,
			    how == PUT_LOCAL ? "true" : "false");
		assert(at < sizeof(sql));
	}
	own_parse(v, name, sql, KNOWN_SET << (n - 1));
}

/* As PostgreSQL reads bytes; the caller frees it. */
static char *
hex_of(const char *text)
{
	size_t n = strlen(text);
	char *hex = malloc(2 + 2 * n + 1), *at = hex;

	if (hex == NULL)
		abort();
	*at++ = '\\';
	*at++ = 'x';
	for (size_t i = 0; i < n; i++, at += 2)
		snprintf(at, 3, "%02x", (uint8_t)text[i]);
	return hex;
}

/* A parameter's bytes, of which `hex` is to be freed. */
static struct slice
text_parameter(const char *text, char **hex)
{
	*hex = is_wide(text) ? hex_of(text) : NULL;
	if (*hex != NULL)
		text = *hex;
	return text ? slice_str(text) : (struct slice){ 0 };
}

/* Puts them. */
static void
own_set(struct server *v, const struct change *c, unsigned n, enum put how)
{
	static const char *const names[BIND_CHUNK] = {
		"weir_set_1", "weir_set_2", "weir_set_3", "weir_set_4",
		"weir_set_5", "weir_set_6", "weir_set_7", "weir_set_8"
	};
	struct slice value[2 * BIND_CHUNK];
	char *hex[2 * BIND_CHUNK];
	const char *name;
	bool wide = false;

	assert(n > 0 && n <= BIND_CHUNK);
	for (unsigned i = 0; i < 2 * n; i++) {
		value[i] = text_parameter(
		    i % 2 ? c[i / 2].value : c[i / 2].name, &hex[i]);
		wide |= hex[i] != NULL;
	}
	name = how != PUT || wide ? "" : bind_name(v, names[n - 1]);
	if (!own_is_known(v, name, KNOWN_SET << (n - 1)))
		parse_set(v, name, c, n, how);
	own_execute(v, name, value, 2 * n);
	for (unsigned i = 0; i < 2 * n; i++)
		free(hex[i]);
}

static const char *
value_in(const struct label *l, const char *name)
{
	for (size_t i = 0; l != NULL && i < l->n; i++)
		if (strcasecmp(l->pair[i].name, name) == 0)
			return l->pair[i].value;
	return NULL;
}

/*
 * The signed value, which the caller frees, of what a label says.  Half of the
 * time it is good for is a reserve: for a request to begin, and for clocks that
 * do not agree.
 */
static char *
sign(struct pg_server *pg, const char *subject)
{
	const struct conf_context *x = &pg->s.pool->snapshot->conf->context;
	uint64_t now_ns = pg->s.pool->home->streams->now_ns;
	/* In whole seconds, of which the present one may be all but over. */
	uint64_t expiry = (uint64_t)time(NULL) + 1 + (x->ttl_ms + 999) / 1000;

	pg->context_ns = 0;
	/* Nobody, or no longer signed: what says nothing opens nothing. */
	if (subject[0] == '\0' || x->key == NULL || pg->own_pid == 0)
		return calloc(1, 1);
	pg->context_ns = now_ns + x->ttl_ms * 1000000u / 2;
	pg->context_id = x->id;
	return context_sign(subject, x->key, pg->own_pid, expiry);
}

static bool
is_context(const struct label *l, const char *name)
{
	return l != NULL && l->context != NULL &&
	       strcasecmp(l->context, name) == 0;
}

/* Has the server, which carries `old`, this value of `new` already? */
static bool
is_there(const struct server *v, const struct label *old,
	 const struct label *new, const struct label_pair *pair)
{
	const char *has = value_in(old, pair->name);

	if (has == NULL || strcmp(has, pair->value) != 0)
		return false;
	return !is_context(new, pair->name) ||
	       (is_context(old, pair->name) && !pg_server_is_due(v));
}

/* Sends old -> new in chunks. */
static void
bind_changes(struct server *v, const struct label *old, const struct label *new,
	     enum put how)
{
	struct change c[BIND_CHUNK];
	unsigned n = 0;
	char *made = NULL;

	if (new == NULL || new->context == NULL)
		pg_server(v)->context_ns = 0;

	for (size_t i = 0; old != NULL && i < old->n; i++) {
		if (value_in(new, old->pair[i].name) != NULL)
			continue;
		c[n++] = (struct change){ old->pair[i].name, NULL };
		if (n == BIND_CHUNK) {
			own_set(v, c, n, how);
			n = 0;
		}
	}
	for (size_t i = 0; new != NULL &&i < new->n; i++) {
		const struct label_pair *pair = &new->pair[i];

		if (how != PUT_LOCAL && is_there(v, old, new, pair))
			continue;
		if (is_context(new, pair->name) &&
		    (made = sign(pg_server(v), pair->value)) == NULL)
			abort();
		c[n++] =
		    (struct change){ pair->name, is_context(new, pair->name)
						     ? made
						     : pair->value };
		if (n == BIND_CHUNK) {
			own_set(v, c, n, how);
			n = 0;
		}
	}
	if (n > 0)
		own_set(v, c, n, how);
	free(made);
}

/* The last of it is sent: its answer confirms all. */
static void
bind_sent(struct server *v, struct lessee *l, struct label *label)
{
	struct pg_server *pg = pg_server(v);

	ledger_at(&v->ledger, v->ledger.n - 1)->arg = OWN_BOUND;
	pg->is_binding = true;
	pg->bind_local = false;
	pg->prepared_ns = v->pool->home->streams->now_ns;
	pg->echoing = true;
	pg->binding = label_ref(label);
	pg->binding_tenant = l->tenant;
	v->tenant = NULL;
	stats_add(v->pool->home->stats, STAT_BINDS, 1);
}

static void
pg_bind(struct server *v, struct lessee *l)
{
	struct pg_server *pg = pg_server(v);
	enum put how = PUT;

	assert(!pg->is_binding && v->ledger.n == 0);
	pg->forgot = false;
	if (!pg->unset && label_same(v->label, l->label) &&
	    !pg_server_is_due(v)) {
		v->tenant = l->tenant;
		return;
	}
	own_run(v, bind_name(v, "weir_begin"), "BEGIN", KNOWN_BEGIN);
	/* A pinned lessee's own settings stay; only ours are put again, and
	 * those of its startup packet unless it has set them anew. */
	if (pg->unset && pg->pinned) {
		how = l->tenant == NULL ? PUT_UNSET : PUT;
		label_unref(&v->label);
	} else if (pg->unset) {
		own_run(v, bind_name(v, "weir_reset"), "RESET ALL",
			KNOWN_RESET);
		label_unref(&v->label);
	}
	bind_changes(v, v->label, l->label, how);
	own_run(v, bind_name(v, "weir_commit"), "COMMIT", KNOWN_COMMIT);
	pg->unset = false;
	bind_sent(v, l, l->label);
}

/* Does a request end with what was sent last? */
static bool
is_between(const struct server *v)
{
	uint8_t kind = v->ledger.n == 0
			   ? PG_SYNC
			   : ledger_at(&v->ledger, v->ledger.n - 1)->kind;

	return kind == PG_SYNC || kind == PG_QUERY || kind == PG_FUNCTION;
}

bool
pg_server_renew(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	if (!pg_server_is_due(v) || !is_between(v) || pg->is_binding ||
	    pg->copying_in)
		return true;
	if (v->ledger.n > 0)
		return false;
	/* In a transaction it counts when that began. */
	if (pg->status == 'I' && pg->remain == 0 && v->lessee != NULL)
		pg_bind(v, v->lessee);
	return true;
}

void
pg_server_rebind(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	if (pg->unset && v->ledger.n == 0 && v->lessee != NULL) {
		pg_bind(v, v->lessee);
		pg_server_sync(v);
	}
}

void
pg_server_switch(struct server *v)
{
	assert(v->ledger.n == 0 && v->lessee != NULL);
	pg_bind(v, v->lessee);
	pg_server_sync(v);
}

void
pg_server_switched_back(struct server *v)
{
	assert(v->ledger.n == 0 && v->lessee != NULL);
	v->tenant = v->lessee->tenant;
}

void
pg_server_switch_local(struct server *v, const struct label *before,
		       const struct label *now)
{
	struct pg_server *pg = pg_server(v);
	uint64_t context_ns = pg->context_ns, context_id = pg->context_id;

	assert(v->ledger.n == 0 && v->lessee != NULL && !pg->is_binding);
	assert(pg->status == 'T' && !pg->unset);
	bind_changes(v, before, now, PUT_LOCAL);
	if (v->ledger.n == 0) { /* nothing says which it is */
		v->tenant = v->lessee->tenant;
		return;
	}
	/* What comes back when it ends is as old as it was. */
	pg->context_ns = context_ns;
	pg->context_id = context_id;
	bind_sent(v, v->lessee, v->label);
	pg->bind_local = true;
	pg_server_sync(v);
}

void
pg_server_touch(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	if (!pg->touched && !pg->unset)
		buf_consume(&pg->said, buf_len(&pg->said));
	pg->touched = true;
}

static void own_query(struct server *, const char *sql);

void
pg_server_ask(struct server *v, const char *sql)
{
	struct pg_server *pg = pg_server(v);

	assert(v->ledger.n == 0 && pg->status == 'I' && !pg->asking);
	buf_consume(&pg->told, buf_len(&pg->told));
	pg->asking = true;
	own_query(v, sql);
}

void
pg_server_heard(struct server *v, struct label *label)
{
	struct pg_server *pg = pg_server(v);

	assert(v->ledger.n == 0 && !pg->is_binding && !pg->asking);
	buf_free(&pg->told);
	pg->asked = pg->touched = false;
	pg->unset |= label == NULL;
	if (label == NULL)
		return;
	label_ref(label);
	label_unref(&v->label);
	v->label = label;
}

bool
pg_server_binds_only(const struct server *v)
{
	const struct ledger_entry *last =
	    v->ledger.n > 0 ? ledger_at(&v->ledger, v->ledger.n - 1) : NULL;

	return pg_server_binding(v) && last->lessee == NULL &&
	       last->kind == PG_EXECUTE && last->arg == OWN_BOUND;
}

void
pg_server_sync(struct server *v)
{
	if (!pg_server(v)->is_binding)
		return;
	expect(v, NULL, PG_SYNC, LEDGER_SWALLOW, 0, STMT_NONE);
	if (pg_put(stream_out(&v->stream), 'S', "") != 0)
		abort();
}

static void
bind_confirmed(struct pg_server *pg)
{
	struct server *v = &pg->s;

	assert(pg->is_binding);
	label_unref(&v->label);
	v->label = pg->binding;
	pg->binding = NULL;
	v->tenant = pg->binding_tenant;
	pg->is_binding = false;
	if (v->lessee != NULL) {
		assert(v->lessee->tenant == v->tenant);
		assert(pg->bind_local ||
		       label_same(v->lessee->label, v->label));
		v->lessee->ops->room(v->lessee);
	}
}

/* ---- primary or standby ----------------------------------------------- */

void
pg_role_told(enum conf_role *role, const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);
	struct slice name = pg_read_str(&r), value = pg_read_str(&r);

	if (r.bad || !slice_is(name, "in_hot_standby"))
		return;
	if (slice_is(value, "on"))
		*role = ROLE_STANDBY;
	else if (slice_is(value, "off"))
		*role = ROLE_PRIMARY;
}

bool
pg_role_answered(enum conf_role *role, const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);
	bool one = pg_read_u16(&r) == 1 && pg_read_u32(&r) == 1;
	uint8_t value = pg_read_u8(&r);

	if (r.bad || !one || (value != 't' && value != 'f'))
		return false;
	*role = value == 't' ? ROLE_STANDBY : ROLE_PRIMARY;
	return true;
}

static bool
pg_wants_role(const struct pg_server *pg)
{
	return pg->s.pool->postgres->target_role != ROLE_ANY;
}

/* Its host has another role than when we logged in: it goes as soon as it is
 * free, and the others of the host with it. */
static void
pg_saw_role(struct pg_server *pg, enum conf_role role)
{
	struct pool *p = pg->s.pool;

	if (!pg_wants_role(pg) || role == ROLE_ANY)
		return;
	if (host_saw_role(pg->s.host, role))
		budget_nudge_others(p->home->budgets, p->budget,
				    p->home->worker);
	if (role == p->postgres->target_role)
		return;
	pg->s.leaving = true;
	p->sweep = true;
	pool_touch(p);
}

/* ---- what a server sends ---------------------------------------------- */

/* Of an unnamed Parse only that it was not carried out. */
static bool
is_told(const struct ledger_entry *e, bool done)
{
	return e->lessee != NULL && e->arg != 0 && is_settled(e->kind) &&
	       !(done && e->slot == STMT_UNNAMED);
}

static void
tell(struct pg_server *pg, struct ledger_entry *e, bool done)
{
	if (is_told(e, done) && e->lessee == pg->s.lessee)
		e->lessee->ops->settled(e->lessee, e->kind, e->arg, done);
}

/* A Parse that was skipped has left there what was there before. */
static void
unnamed_settle(struct pg_server *pg, bool done)
{
	assert(pg->unnamed_asked > 0);
	pg->unnamed_asked--;
	if (!done && pg->unnamed_asked == 0)
		pg->unnamed_owner = 0;
}

/* The head is answered; entries that need no answer behind it are too. */
static void
pg_pop(struct pg_server *pg, bool done)
{
	struct ledger_entry e = *ledger_at(&pg->s.ledger, 0);

	ledger_pop(&pg->s.ledger);
	if (done && e.action != LEDGER_FAKE)
		server_proves(&pg->s);
	if (e.slot == STMT_UNNAMED)
		unnamed_settle(pg, done);
	else if (e.slot != STMT_NONE)
		stmt_held_settle(&pg->held, e.slot, e.kind == PG_PARSE, done);
	if (e.lessee != NULL)
		tell(pg, &e, done);
	else if (e.kind == PG_EXECUTE && e.arg == OWN_BOUND && done)
		bind_confirmed(pg);
	else if (e.kind == PG_EXECUTE && e.arg == OWN_BEGIN && done)
		pg->beginning = false;
}

static bool
needs_no_answer(const struct ledger_entry *e)
{
	return e->kind == PG_COPY_END || e->action == LEDGER_FAKE;
}

/* The whole answer of a message that is not sent. */
static struct slice
fake_answer(uint8_t kind)
{
	static const uint8_t parse[] = { '1', 0, 0, 0, 4 },
			     bind[] = { '2', 0, 0, 0, 4 },
			     close[] = { '3', 0, 0, 0, 4 },
			     describe[] = { 'n', 0, 0, 0, 4 };
	static const char execute[] = "C\0\0\0\017DEALLOCATE";

	switch ((enum pg_kind)kind) {
	case PG_PARSE:
		return slice_of(parse, sizeof(parse));
	case PG_BIND:
		return slice_of(bind, sizeof(bind));
	case PG_CLOSE:
		return slice_of(close, sizeof(close));
	case PG_DESCRIBE:
		return slice_of(describe, sizeof(describe));
	case PG_EXECUTE:
		return slice_of(execute, sizeof(execute));
	case PG_QUERY:
	case PG_SYNC:
	case PG_FUNCTION:
	case PG_COPY_END:
	case PG_CHECK:
	case PG_POISON:
	case PG_STALE:
	case PG_SHAPE:
	case PG_TYPES:
		break;
	}
	abort(); /* none of these is ever faked */
}

static void
pg_settle(struct pg_server *pg)
{
	struct ledger *ledger = &pg->s.ledger;

	/* Whoever is called back may end the server. */
	while (ledger->n > 0 && needs_no_answer(ledger_at(ledger, 0)) &&
	       pg->s.state != SERVER_DEAD) {
		struct ledger_entry *e = ledger_at(ledger, 0);

		if (e->action == LEDGER_FAKE && e->lessee != NULL) {
			struct slice a = fake_answer(e->kind);

			e->lessee->ops->reply(e->lessee, a.p, a.n);
		}
		pg_pop(pg, true);
	}
}

/* An error in the extended protocol: everything up to Sync is skipped. */
static void
pg_skip(struct pg_server *pg)
{
	struct ledger *ledger = &pg->s.ledger;

	while (ledger->n > 0 && ledger_at(ledger, 0)->kind != PG_SYNC &&
	       pg->s.state != SERVER_DEAD)
		pg_pop(pg, false);
	pg->skipping = ledger->n == 0;
	/* It may wait for an answer that will not come. */
	if (pg->skipping && pg->s.lessee != NULL && pg->s.state != SERVER_DEAD)
		pg->s.lessee->ops->room(pg->s.lessee);
}

/* COPY IN begins: Syncs sent before its end will be ignored by the backend. */
static void
pg_copy_in(struct pg_server *pg)
{
	struct ledger old = pg->s.ledger;
	bool ended = false;

	pg->s.ledger = (struct ledger){ 0 };
	for (uint32_t i = 0; i < old.n; i++) {
		struct ledger_entry *e = ledger_at(&old, i);

		if (e->kind == PG_COPY_END)
			ended = true;
		if (ended || e->kind != PG_SYNC)
			ledger_push(&pg->s.ledger, *e);
	}
	ledger_free(&old);
	pg->copying_in = !ended;
}

/* What a backend's message may be part of, by its type. */
enum { IN_QUERY = 1, IN_EXECUTE = 2, STREAMED = 4, ASYNC = 8 };

static const uint8_t part_of[128] = {
	['T'] = IN_QUERY | STREAMED,
	['D'] = IN_QUERY | IN_EXECUTE | STREAMED,
	['C'] = IN_QUERY,
	['I'] = IN_QUERY,
	['n'] = IN_QUERY,
	['G'] = IN_QUERY | IN_EXECUTE,
	['H'] = IN_QUERY | IN_EXECUTE,
	['W'] = IN_QUERY | IN_EXECUTE,
	['d'] = IN_QUERY | IN_EXECUTE | STREAMED,
	['c'] = IN_QUERY | IN_EXECUTE,
	['t'] = STREAMED,
	['V'] = STREAMED,
	['N'] = ASYNC | STREAMED,
	['A'] = ASYNC | STREAMED,
	['S'] = ASYNC,
};

static bool
pg_is(uint8_t type, unsigned part)
{
	return type < sizeof(part_of) && part_of[type] & part;
}

static enum server_verdict {
	FITS,
	COMPLETES, /* the head */
	WRONG
} pg_fits(const struct pg_server *pg, uint8_t type)
{
	const struct ledger *ledger = &pg->s.ledger;
	uint8_t kind;

	if (pg_is(type, ASYNC))
		return FITS;
	if (ledger->n == 0)
		return type == 'E' ? FITS : WRONG;
	if (type == 0)
		return WRONG; /* or strchr() would find it in any */
	kind = ledger_at(ledger, 0)->kind;
	if (type == 'E')
		return FITS;
	switch ((enum pg_kind)kind) {
	case PG_QUERY:
		if (pg_is(type, IN_QUERY))
			return FITS;
		return type == 'Z' ? COMPLETES : WRONG;
	case PG_FUNCTION:
		if (type == 'V')
			return FITS;
		return type == 'Z' ? COMPLETES : WRONG;
	case PG_SYNC:
		return type == 'Z' ? COMPLETES : WRONG;
	case PG_PARSE:
		return type == '1' ? COMPLETES : WRONG;
	case PG_BIND:
		return type == '2' ? COMPLETES : WRONG;
	case PG_CLOSE:
		return type == '3' ? COMPLETES : WRONG;
	case PG_DESCRIBE:
	case PG_CHECK:
		if (type == 't')
			return FITS;
		return type == 'T' || type == 'n' ? COMPLETES : WRONG;
	case PG_EXECUTE:
		if (pg_is(type, IN_EXECUTE))
			return FITS;
		return type == 'C' || type == 'I' || type == 's' ? COMPLETES
								 : WRONG;
	case PG_POISON:
	case PG_COPY_END:
	case PG_STALE:
	case PG_SHAPE:
	case PG_TYPES:
		return WRONG;
	}
	return WRONG;
}

static bool
is_simple(uint8_t kind)
{
	return kind == PG_QUERY || kind == PG_FUNCTION || kind == PG_SYNC;
}

/*
 * PostgreSQL reports settings that changed just before ReadyForQuery, so what
 * a bind changed is told behind the client's first request.  The client knows
 * it already: it asked for it, or was told at its log-in.
 */
static bool
pg_is_echo(const struct pg_server *pg, const uint8_t *p, size_t n)
{
	struct pg_reader r = pg_reader(p + PG_HEADER, n - PG_HEADER);
	struct slice name = pg_read_str(&r), value = pg_read_str(&r);
	const char *own;
	const uint8_t *welcome;
	size_t welcome_n;

	if (!pg->echoing || r.bad)
		return false;
	own = value_in(pg->s.label, (const char *)name.p);
	if (own != NULL)
		return slice_is_word(value, own);
	welcome = buf_peek(&pg->s.pool->welcome, &welcome_n);
	return welcome_n > 0 && memmem(welcome, welcome_n, p, n) != NULL;
}

/* Where a message's bytes go: to the head's owner, or nowhere. */
static struct lessee *
pg_route(const struct pg_server *pg, uint8_t type)
{
	const struct ledger *ledger = &pg->s.ledger;
	struct ledger_entry *e;

	if (pg_is(type, ASYNC) || ledger->n == 0) {
		if ((pg->is_binding && !(type == 'S' && pg->bind_reports)) ||
		    (pg->asking && type == 'N'))
			return NULL;
		return pg->s.lessee;
	}
	e = ledger_at(ledger, 0);
	if (pg->asking)
		return NULL;
	/* What fails of ours was done for the lessee's next message. */
	if (type == 'E' && e->kind != PG_POISON && e->kind != PG_SYNC)
		return pg->s.lessee;
	return e->action == LEDGER_FORWARD ? e->lessee : NULL;
}

static void
pg_broken(struct pg_server *pg, const char *what)
{
	stats_add(pg->s.pool->home->stats, STAT_SERVER_DOUBTED, 1);
	server_close(&pg->s, WHY_UPSTREAM_SENSE, NULL, what);
}

static void
pg_close_with_error(struct pg_server *pg, enum why w, const uint8_t *body,
		    size_t n)
{
	struct slice code = pg_error_field(body, n, 'C');
	struct slice text = pg_error_field(body, n, 'M');
	char sqlstate[6] = "", message[POOL_ERROR_MAX];

	if (code.n == 5)
		memcpy(sqlstate, code.p, 5);
	snprintf(message, sizeof(message), "%.*s", (int)text.n,
		 (const char *)text.p);
	server_close(&pg->s, w, sqlstate[0] ? sqlstate : NULL, message);
}

/*
 * The backend said ReadyForQuery and nothing after it: the one place where a
 * lease can end.  Asked when all that was received has been judged, because
 * the next lessee may be granted from in here.
 */
static void
pg_at_rest(struct pg_server *pg)
{
	struct server *v = &pg->s;
	char status = pg->status;

	pg->rested = false;
	if (v->ledger.n > 0 || pg->copying_in)
		return;
	if (v->state == SERVER_RESET) {
		pg->role_asked = false;
		if (status != 'I')
			server_close(v, WHY_DOUBT, NULL, NULL);
		else if (v->ops->dirty(v))
			v->ops->clean(v);
		else
			server_rest(v);
	} else if (v->lessee != NULL) {
		v->lessee->ops->rest(v->lessee);
	}
}

enum { STALE_PREFIX = 512 }; /* of an error; its code and text come first */

/*
 * The statement at the ledger's head was planned when it returned something
 * else.  PostgreSQL says so wherever it is used, until it is parsed again
 * under another name: whose it is hears of it.
 */
static void
pg_stale(struct pg_server *pg, const uint8_t *body, size_t n)
{
	static const char text[] = "cached plan must not change result type";
	struct ledger_entry *e = ledger_at(&pg->s.ledger, 0);

	if (e->lessee == NULL || e->lessee != pg->s.lessee || e->arg == 0 ||
	    (e->kind != PG_BIND && e->kind != PG_DESCRIBE) ||
	    !slice_is(pg_error_field(body, n, 'C'), "0A000"))
		return;
	/* The text may be translated, the routine is not. */
	if (slice_is(pg_error_field(body, n, 'M'), text) ||
	    slice_is(pg_error_field(body, n, 'R'), "RevalidateCachedQuery"))
		e->lessee->ops->settled(e->lessee, PG_STALE, e->arg, true);
}

/* Does the ledger's head ask what a statement returns? */
static bool
asks_shape(const struct pg_server *pg)
{
	const struct ledger_entry *e =
	    pg->s.ledger.n > 0 ? ledger_at(&pg->s.ledger, 0) : NULL;

	return e != NULL && e->lessee != NULL && e->arg != 0 &&
	       (e->kind == PG_DESCRIBE || e->kind == PG_CHECK);
}

/*
 * Names and types of the columns as one number, never 0; of the tables behind
 * them nothing.  PostgreSQL compares the same when it plans anew.
 */
static uint64_t
shape_of(const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);
	uint64_t h = 14695981039346656037u;

	for (unsigned i = pg_read_u16(&r); i > 0 && !r.bad; i--) {
		struct slice name = pg_read_str(&r), type;

		pg_read_bytes(&r, 6); /* table and column */
		type = pg_read_bytes(&r, 10);
		pg_read_u16(&r); /* format */
		for (size_t k = 0; k < name.n; k++)
			h = (h ^ name.p[k]) * 1099511628211u;
		h = (h ^ 0x100) * 1099511628211u;
		for (size_t k = 0; k < type.n; k++)
			h = (h ^ type.p[k]) * 1099511628211u;
	}
	return h | 1;
}

/* A RowDescription or NoData for who asks for it; `body` NULL: not at hand. */
static void
pg_shape(struct pg_server *pg, uint8_t type, const uint8_t *body, size_t n)
{
	struct ledger_entry *e = ledger_at(&pg->s.ledger, 0);

	pg->shape = type == 'n' ? 1 : body == NULL ? 0 : shape_of(body, n);
	if (e->kind == PG_DESCRIBE && e->lessee == pg->s.lessee)
		e->lessee->ops->settled(e->lessee, PG_SHAPE, e->arg, true);
}

/* A ParameterDescription, likewise. */
static void
pg_types(struct pg_server *pg, const uint8_t *body, size_t n)
{
	struct ledger_entry *e = ledger_at(&pg->s.ledger, 0);

	if (e->kind != PG_DESCRIBE || e->lessee != pg->s.lessee)
		return;
	pg->types = slice_of(body, n);
	e->lessee->ops->settled(e->lessee, PG_TYPES, e->arg, true);
	pg->types = slice_of(NULL, 0);
}

/* In a session that is pinned and has no organization it harms nobody. */
static bool
pg_misreads(const struct pg_server *pg, const uint8_t *body, size_t n)
{
	return pg_login_misreads(body, n) &&
	       !(pg->pinned && pg->s.tenant == NULL);
}

/* The command tag is the proof that all prepared statements are gone; a text
 * that says so may have failed.  A bind's own prove nothing of its lessee. */
static void
pg_tag(struct pg_server *pg, const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);
	struct slice tag = pg_read_str(&r);

	if (pg->is_binding || pg->asking)
		return;
	if (slice_is(tag, "DISCARD ALL"))
		pg->discarded = true;
	if (slice_is(tag, "COMMIT") || slice_is(tag, "ROLLBACK"))
		pg->committed = slice_is(tag, "COMMIT");
	if (slice_is(tag, "RESET") || slice_is(tag, "DISCARD ALL"))
		pg->reset = true;
	else if (slice_is(tag, "ROLLBACK"))
		pg->reset = false;
	if (!slice_is(tag, "DEALLOCATE ALL") && !slice_is(tag, "DISCARD ALL"))
		return;
	stmt_held_forget(&pg->held);
	pg->bind_known = 0;
	pg->forgot = true;
}

/*
 * What a message whose header is at hand means.  Its bytes were routed
 * before; `body` is at hand only for the types pg_whole() names.
 */
static void
pg_judge(struct pg_server *pg, uint8_t type, const uint8_t *body)
{
	struct ledger *ledger = &pg->s.ledger;
	uint8_t kind = ledger->n > 0 ? ledger_at(ledger, 0)->kind : PG_SYNC;

	if (type != 'Z' && !pg_is(type, ASYNC)) {
		/* Of what was sent behind a Sync that is answered already. */
		pg->rested = false;
		pg->status = 0;
	}
	if (type == 'E' && ledger->n > 0) {
		pg->copying_in = false;
		pg->reset = false;
		if (kind == PG_POISON)
			pg_pop(pg, true);
		if (!is_simple(kind))
			pg_skip(pg);
	} else if (type == 'G') {
		pg_copy_in(pg);
	} else if (type == 'W') {
		pg->doubt = true; /* replication: never pooled again */
		pg->copying_in = true;
	}
	if (type != 'Z' && pg_fits(pg, type) == COMPLETES)
		pg_pop(pg, true);
	if (type == 'Z') {
		pg_pop(pg, true);
		pg->status = (char)body[0];
		pg->asked = pg->asking;
		pg->asking = false;
		pg->failed = pg->status == 'E' && ledger->n == 0;
		pg->echoing = false;
		pg->rested = true;
	}
	pg_settle(pg);
}

static bool
is_ours(const struct pg_server *pg)
{
	return pg_server_preparing(&pg->s);
}

/* The first fields of an error, severity and code, lie in so many bytes. */
enum { ERROR_HEAD = 64 };

/* FATAL or PANIC: the backend ends, whatever it was asked. */
static bool
is_last_word(const uint8_t *body, size_t n)
{
	struct slice severity = pg_error_field(body, n, 'V');

	if (severity.n == 0) /* before PostgreSQL 9.6 */
		severity = pg_error_field(body, n, 'S');
	return slice_is(severity, "FATAL") || slice_is(severity, "PANIC");
}

/* A primary does that in a transaction that is read only by wish. */
static bool
is_read_only(const struct pg_frame *f, const uint8_t *p, size_t n)
{
	n = n < f->size ? n : f->size;
	return slice_is(pg_error_field(p + PG_HEADER, n - PG_HEADER, 'C'),
			"25006");
}

/* An error that tells about the server, not about what it was asked. */
static bool
is_about_server(const struct pg_server *pg, const uint8_t *p, size_t n)
{
	return is_ours(pg) || pg->s.ledger.n == 0 ||
	       pg->s.state == SERVER_RESET ||
	       is_last_word(p + PG_HEADER, n - PG_HEADER);
}

/* Only these are streamed; the others are small and must lie whole. */
static bool
pg_whole(const struct pg_server *pg, const struct pg_frame *f, const uint8_t *p,
	 size_t n)
{
	if (f->type == 'E')
		return is_about_server(pg, p, n < f->size ? n : f->size);
	if (f->type == 'D' && (pg->role_asked || pg->asking))
		return true;
	if ((f->type == 'T' || f->type == 't') && asks_shape(pg))
		return f->size <= STREAM_IN_MAX;
	return !pg_is(f->type, STREAMED);
}

static void
pg_hear_role(struct pg_server *pg, uint8_t type, const uint8_t *body, size_t n)
{
	enum conf_role role = ROLE_ANY;

	if (type == 'S')
		pg_role_told(&role, body, n);
	else if (!pg_role_answered(&role, body, n))
		pg->doubt = true;
	pg_saw_role(pg, role);
}

struct run {
	const uint8_t *p;
	size_t n;
	struct lessee *to;
};

/* Whoever is called back may end the server, and hears no more of it. */
static void
run_flush(struct pg_server *pg, struct run *r)
{
	if (r->n > 0 && r->to == pg->s.lessee) {
		r->to->midway = pg->remain > 0 && pg->route_to == r->to;
		r->to->ops->reply(r->to, r->p, r->n);
	}
	r->n = 0;
}

/* Neighbouring messages for one lessee travel in one piece. */
static void
run_add(struct pg_server *pg, struct run *r, struct lessee *to,
	const uint8_t *p, size_t n)
{
	if (to == NULL) {
		run_flush(pg, r);
		return;
	}
	assert(pg->bind_reports || to->tenant == pg->s.tenant);
	if (r->n > 0 && (r->to != to || r->p + r->n != p))
		run_flush(pg, r);
	if (r->n == 0)
		*r = (struct run){ .p = p, .to = to };
	r->n += n;
}

static void
pg_whole_error(struct pg_server *pg, const struct pg_frame *f, const uint8_t *p)
{
	const uint8_t *body = p + PG_HEADER;
	size_t n = f->size - PG_HEADER;
	enum why w = WHY_UPSTREAM_LOST;

	if (is_ours(pg) && !is_last_word(body, n))
		w = pg->is_binding ? WHY_BIND_FAILED : WHY_BEGIN_FAILED;
	pg_close_with_error(pg, w, body, n);
}

/* Will judging this message call the lessee back?  Then it gets its bytes
 * first, so that all comes in order. */
static bool
pg_calls_back(const struct pg_server *pg, uint8_t type)
{
	const struct ledger *ledger = &pg->s.ledger;

	if (type == 'Z' || type == 'E' || type == 'G' || ledger->n == 0)
		return true;
	if (ledger_at(ledger, 0)->lessee == NULL ||
	    is_told(ledger_at(ledger, 0), true))
		return true;
	return ledger->n > 1 && needs_no_answer(ledger_at(ledger, 1));
}

static ssize_t
pg_ends(struct pg_server *pg, struct run *r, uint8_t type, const uint8_t *body,
	ssize_t take)
{
	if (pg_calls_back(pg, type))
		run_flush(pg, r);
	if (pg->s.state == SERVER_DEAD)
		return -1;
	pg_judge(pg, type, body);
	return pg->s.state == SERVER_DEAD ? -1 : take;
}

/* By its first byte, since the others may never come: n > 0. */
static bool
pg_makes_sense(const struct pg_server *pg, const uint8_t *p, size_t n)
{
	if (pg_fits(pg, p[0]) == WRONG)
		return false;
	if (p[0] != 'Z' || n < PG_HEADER)
		return true;
	return memcmp(p + 1, "\0\0\0\5", 4) == 0 &&
	       (n < 6 || (p[5] != '\0' && strchr("ITE", p[5]) != NULL));
}

/*
 * Rows are many, and one behind another says nothing new: those that are here
 * as a whole go the way of the last.  Bytes used.
 */
static size_t
pg_rows(struct pg_server *pg, struct run *r, const uint8_t *p, size_t n)
{
	uint8_t type = pg->streaming;
	struct pg_frame f;
	size_t at = 0;

	if ((type != 'D' && type != 'd') || pg->remain > 0 || pg->asking ||
	    pg->role_asked || pg_fits(pg, type) != FITS ||
	    pg_calls_back(pg, type) || pg_route(pg, type) != pg->route_to)
		return 0;
	while (at < n && p[at] == type &&
	       pg_frame_next(&f, p + at, n - at) > 0 && f.size <= n - at)
		at += f.size;
	if (at > 0)
		run_add(pg, r, pg->route_to, p, at);
	return at;
}

/* One message.  Bytes used, 0: more are needed, -1: the server is closed. */
static ssize_t
pg_message(struct pg_server *pg, struct run *r, const uint8_t *p, size_t n)
{
	struct pg_frame f;
	size_t take;
	bool whole;
	int got = pg_frame_next(&f, p, n);

	if (got < 0 || !pg_makes_sense(pg, p, n)) {
		run_flush(pg, r);
		pg_broken(pg, "unexpected message");
		return -1;
	}
	if (got == 0)
		return 0;
	whole = pg_whole(pg, &f, p, n);
	/* Enough of an error to see whether it is the last. */
	if (f.type == 'E' && !whole && n < f.size && n < ERROR_HEAD)
		return 0;
	if (whole) {
		if (f.size > STREAM_IN_MAX) {
			run_flush(pg, r);
			pg_broken(pg, "message too long");
			return -1;
		}
		if (n < f.size)
			return 0;
		if (f.type == 'E') {
			run_flush(pg, r);
			pg_whole_error(pg, &f, p);
			return -1;
		}
	}
	if (f.type == 'S' &&
	    pg_misreads(pg, p + PG_HEADER, f.size - PG_HEADER)) {
		run_flush(pg, r);
		server_close(&pg->s, WHY_UNSUPPORTED, NULL, PG_MISREADS);
		return -1;
	}
	if (f.type == 'E' && pg->s.ledger.n > 0) {
		if (n < f.size && n < PG_HEADER + STALE_PREFIX)
			return 0;
		pg_stale(pg, p + PG_HEADER,
			 (n < f.size ? n : f.size) - PG_HEADER);
	}
	if ((f.type == 'T' || f.type == 'n') && asks_shape(pg))
		pg_shape(pg, f.type,
			 f.size <= STREAM_IN_MAX ? p + PG_HEADER : NULL,
			 f.size - PG_HEADER);
	if (f.type == 't' && asks_shape(pg) && f.size <= STREAM_IN_MAX)
		pg_types(pg, p + PG_HEADER, f.size - PG_HEADER);
	if (f.type == 'D' && pg->asking &&
	    buf_put(&pg->told, p + PG_HEADER, f.size - PG_HEADER) != 0) {
		pg_broken(pg, "settings are too long");
		return -1;
	}
	if (f.type == 'C')
		pg_tag(pg, p + PG_HEADER, f.size - PG_HEADER);
	else if (f.type == 'S' || (f.type == 'D' && pg->role_asked))
		pg_hear_role(pg, f.type, p + PG_HEADER, f.size - PG_HEADER);
	else if (f.type == 'E' && is_read_only(&f, p, n))
		pg->role_doubt |= pg_wants_role(pg);
	take = n < f.size ? n : f.size;
	pg->route_to = pg_route(pg, f.type);
	if (f.type == 'S' && !pg->bind_reports && pg_is_echo(pg, p, f.size))
		pg->route_to = NULL;
	/* Beyond so much of it, it may be said twice. */
	if (f.type == 'S' && (pg->touched || pg->unset) && pg->route_to != NULL)
		(void)!buf_put(&pg->said, p, f.size);
	pg->streaming = f.type;
	pg->remain = (uint32_t)(f.size - take);
	run_add(pg, r, pg->route_to, p, take);
	if (pg->remain > 0)
		return (ssize_t)take;
	return pg_ends(pg, r, f.type, p + PG_HEADER, (ssize_t)take);
}

static ssize_t
pg_body(struct pg_server *pg, struct run *r, const uint8_t *p, size_t n)
{
	size_t take = n < pg->remain ? n : pg->remain;

	run_add(pg, r, pg->route_to, p, take);
	pg->remain -= (uint32_t)take;
	if (pg->remain > 0)
		return (ssize_t)take;
	return pg_ends(pg, r, pg->streaming, NULL, (ssize_t)take);
}

/* ---- walsenders --------------------------------------------------------- */

/*
 * What a walsender says is its one client's, all of it, in a dialect of its
 * own: it is passed on as it comes.  Only the frames are counted, to know
 * whether a word of ours may stand between two, and what may end.
 */
static ssize_t
relay_frames(struct pg_server *pg, const uint8_t *p, size_t n)
{
	size_t at = 0;

	while (at < n) {
		struct pg_frame f;
		size_t take;

		if (pg->remain == 0) {
			int got = pg_frame_next(&f, p + at, n - at);

			if (got < 0)
				return -1;
			if (got == 0)
				break;
			pg->remain = f.size;
			pg->status = f.type == 'Z' ? 'I' : 0;
			if (f.type == 'W' || f.type == 'Z')
				pg->copying_in = f.type == 'W';
		}
		take = n - at < pg->remain ? n - at : pg->remain;
		pg->remain -= (uint32_t)take;
		at += take;
	}
	return (ssize_t)at;
}

static void
pg_relay(struct pg_server *pg)
{
	struct server *v = &pg->s;
	size_t n;
	const uint8_t *p = stream_peek(&v->stream, &n);
	ssize_t take = relay_frames(pg, p, n);

	if (take < 0 || v->lessee == NULL) {
		pg_broken(pg, "unexpected message");
		return;
	}
	if (take == 0)
		return;
	assert(v->lessee->tenant == v->tenant);
	v->lessee->ops->reply(v->lessee, p, (size_t)take);
	if (v->state != SERVER_DEAD)
		stream_consume(&v->stream, (size_t)take);
}

static void
pg_input(struct server *v)
{
	struct pg_server *pg = pg_server(v);
	struct run r = { 0 };
	const uint8_t *p;
	size_t n, at = 0;
	ssize_t used = 1;

	if (v->state == SERVER_LOGIN) {
		pg_login_input(v);
		return;
	}
	if (v->pool->replication != NULL) {
		pg_relay(pg);
		return;
	}
	p = stream_peek(&v->stream, &n);
	while (at < n && used > 0) {
		used = pg->remain > 0 ? pg_body(pg, &r, p + at, n - at)
				      : pg_message(pg, &r, p + at, n - at);
		if (used > 0)
			at += (size_t)used;
		if (used > 0 && at < n)
			at += pg_rows(pg, &r, p + at, n - at);
	}
	if (used < 0)
		return;
	run_flush(pg, &r);
	if (v->state == SERVER_DEAD)
		return;
	stream_consume(&v->stream, at);
	if (pg->rested && at == n && pg->remain == 0)
		pg_at_rest(pg);
}

/* ---- life ------------------------------------------------------------- */

static void
pg_init(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	stmt_held_init(&pg->held,
		       v->pool->snapshot->conf->max_prepared_statements);
	buf_init(&pg->params, 1 << 20);
	buf_init(&pg->told, TOLD_MAX);
	buf_init(&pg->said, TOLD_MAX);
	pg->status = 'I';
	pg->login = pg_login_new(v);
}

/* Has it said something that is not judged yet? */
static bool
has_unread(const struct server *v)
{
	size_t n;

	stream_peek(&v->stream, &n);
	return n > 0;
}

static bool
pg_dirty(const struct server *v)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return pg->status != 'I' || pg->pinned || pg->doubt || pg->tainted ||
	       pg->remain > 0 || pg->skipping || pg->copying_in ||
	       is_ours(pg) || has_unread(v) || pg->role_doubt || pg->touched;
}

static void
own_query(struct server *v, const char *sql)
{
	expect(v, NULL, PG_QUERY, LEDGER_SWALLOW, 0, STMT_NONE);
	if (pg_put(stream_out(&v->stream), 'Q', "s", sql) != 0)
		abort();
}

/*
 * What is left of a session: its transaction is rolled back, its state
 * discarded.  Anything less certain than that is closed.
 */
static void
pg_clean(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	assert(v->state == SERVER_RESET && v->ledger.n == 0);
	if (pg->doubt || pg->tainted || pg->remain > 0 || pg->skipping ||
	    pg->copying_in || is_ours(pg) || has_unread(v)) {
		stats_add(v->pool->home->stats, STAT_SERVER_DOUBTED, 1);
		server_close(v, WHY_DOUBT, NULL, NULL);
		return;
	}
	pg->unnamed_owner = 0;
	if (pg->status != 'I') {
		own_query(v, "ROLLBACK");
	} else if (pg->pinned) {
		pg->pinned = pg->touched = false;
		own_query(v, "DISCARD ALL");
		stmt_held_clear(&pg->held);
		pg->bind_known = 0;
		pg->unset = false;
		label_unref(&v->label);
		v->tenant = NULL;
	} else if (pg->touched) {
		pg->touched = false;
		own_query(v, "RESET ALL");
		pg->unset = false;
		label_unref(&v->label);
		v->tenant = NULL;
	} else if (pg->role_doubt) {
		pg->role_doubt = false;
		pg->role_asked = true;
		own_query(v, PG_ASK_ROLE);
	}
}

static void
pg_goodbye(struct server *v)
{
	static const uint8_t terminate[5] = { 'X', 0, 0, 0, 4 };

	if (v->state == SERVER_IDLE ||
	    (v->pool->replication != NULL && v->state == SERVER_LEASED &&
	     !pg_server(v)->doubt))
		stream_last_words(&v->stream, terminate, sizeof(terminate));
}

static void
pg_fini(struct server *v)
{
	struct pg_server *pg = pg_server(v);

	pg_login_free(&pg->login);
	stmt_held_fini(&pg->held);
	buf_free(&pg->params);
	buf_free(&pg->told);
	buf_free(&pg->said);
	label_unref(&pg->binding);
}

const struct server_ops pg_server_ops = {
	.proto = "postgres",
	.size = sizeof(struct pg_server),
	.stat_in = STAT_BYTES_FROM_SERVERS,
	.stat_out = STAT_BYTES_TO_SERVERS,
	.stat_open = STAT_PG_SERVERS,
	.init = pg_init,
	.opened = pg_login_opened,
	.input = pg_input,
	.bind = pg_bind,
	.dirty = pg_dirty,
	.clean = pg_clean,
	.goodbye = pg_goodbye,
	.fini = pg_fini,
};

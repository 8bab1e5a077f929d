#include "proxy/pg_switch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/pg_hello.h"
#include "proxy/pg_track.h"
#include "proxy/rls.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

static const char own_name[] = "weir.organization";

/* An organization, and what it means for a session. */
struct choice {
	const struct tenant *tenant; /* counted */
	struct label *label;         /* counted */
	struct pool *pool; /* joined, if it is not the session's own */
	enum conf_pool_mode mode;
};

/* Of a transaction: a savepoint, or, without a name, a choice behind the first
 * statement and what was before it. */
struct mark {
	char name[SQL_NAME_MAX];
	const struct tenant *tenant; /* counted */
	struct label *label;         /* counted */
	bool keep;
};

struct pg_switch {
	struct mark *mark; /* oldest first */
	unsigned marks;
	enum sql_mark asked; /* on its way to the server, ... */
	char asked_name[SQL_NAME_MAX];
	bool bound;  /* but not executed yet, ... */
	bool late;   /* or one was that may be any time */
	bool unsure; /* not all marks are known */
	char *database;
	struct jwt *jwt;
	const struct tenant *home; /* of its log-in */
	struct label *home_label;
	const struct tenant *now; /* counted: the session's, chosen since */
	struct choice outer;      /* what comes back after this transaction */
	struct seat_loan own;     /* and where that is counted */
	bool away;                /* there is one */
	bool keep;                /* but not if it commits */
	bool inner;     /* the server has it for this transaction only */
	bool rolled;    /* and has taken back, nobody knows how much */
	bool ending;    /* the end of the transaction is on its way */
	uint64_t tried; /* what was not carried out last, ... */
	enum why why;   /* ... and why */
	const char *says;
};

enum { MARKS_MAX = 256 };

static const char place[] =
    "an organization is chosen between transactions, or in one whose "
    "savepoints "
    "are each set and rolled back to by a statement of its own, by a statement "
    "of its own";
static const char elsewhere[] =
    "that organization is on another upstream: it is chosen before the first "
    "statement of a transaction, and by no session that keeps its server";
static const char leaks[] =
    "row level security does not hold for that organization, or is not known "
    "to (rls_check = require)";
static const char untrue[] =
    "that organization has another value for this setting";

void
pg_switch_open(struct pg_session *ps, struct pg_hello *h)
{
	struct pg_switch *sw = calloc(1, sizeof(*sw));

	if (sw == NULL || (sw->database = strdup(h->database)) == NULL)
		abort();
	sw->jwt = h->auth.jwt;
	h->auth.jwt = NULL;
	sw->home = ps->s.lessee.tenant;
	sw->home_label = label_ref(ps->s.lessee.label);
	ps->sw = sw;
}

static void
mark_free(struct mark *m)
{
	tenant_unref(&m->tenant);
	label_unref(&m->label);
}

static void
forget_marks(struct pg_switch *sw)
{
	while (sw->marks > 0)
		mark_free(&sw->mark[--sw->marks]);
	sw->asked = SQL_NO_MARK;
	sw->bound = sw->late = sw->unsure = false;
}

void
pg_switch_free(struct pg_session *ps)
{
	struct pg_switch *sw = ps->sw;

	if (sw == NULL)
		return;
	forget_marks(sw);
	free(sw->mark);
	tenant_unref(&sw->now);
	if (sw->away) {
		tenant_unref(&sw->outer.tenant);
		label_unref(&sw->outer.label);
		if (sw->outer.pool != NULL)
			pool_leave(&sw->outer.pool);
		seats_forget(&ps->s, &sw->own);
	}
	label_unref(&sw->home_label);
	jwt_close(&sw->jwt);
	free(sw->database);
	free(sw);
	ps->sw = NULL;
}

/* ---- which -------------------------------------------------------------- */

static enum route_key
key_of(const struct pg_session *ps, const char *name)
{
	if (strcmp(name, own_name) == 0)
		return ROUTE_SLUG;
	return route_variable(ps->s.snapshot->conf, name);
}

bool
pg_switch_is(const struct pg_session *ps, struct slice text,
	     struct sql_switch *to)
{
	return ps->sw != NULL && sql_switch(text, to) &&
	       key_of(ps, to->name) != ROUTE_NO_KEY;
}

/* It, or why not; WHY_MAX: it is being looked up. */
static enum why
find(struct pg_session *ps, const struct sql_switch *to, const char *value,
     const struct tenant **t)
{
	enum directory_found how = DIRECTORY_FOUND;

	*t = NULL;
	if (to->reset)
		*t = tenant_ref(ps->sw->home);
	else if (value[0] != '\0')
		how = route_choose(&ps->s, ps->s.user, key_of(ps, to->name),
				   value, t);
	switch (how) {
	case DIRECTORY_FOUND:
		return WHY_EOF;
	case DIRECTORY_LATER:
		return WHY_MAX;
	case DIRECTORY_DOWN:
		return WHY_DIRECTORY_DOWN;
	case DIRECTORY_NOBODY:
		break;
	}
	return WHY_NOT_ALLOWED;
}

/* A statement of that value, whatever a parameter will be. */
static uint64_t
hash_of(const struct sql_switch *to)
{
	const char *part[3] = { to->name, "=",
				to->param != 0 ? "$" : to->value };
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < 3; i++)
		for (const char *p = part[i]; *p != '\0'; p++)
			h = (h ^ (uint8_t)*p) * 1099511628211u;
	return h | 1;
}

bool
pg_switch_tried(const struct pg_session *ps, const struct sql_switch *to)
{
	return ps->sw->tried == hash_of(to);
}

enum why
pg_switch_why(const struct pg_session *ps, const struct sql_switch *to,
	      const char **text)
{
	const struct pg_switch *sw = ps->sw;
	bool tried = pg_switch_tried(ps, to);
	enum why w = tried ? sw->why : WHY_UNSUPPORTED;

	*text = !tried             ? place
		: sw->says != NULL ? sw->says
				   : why_table[w].text;
	return w;
}

/* Of its log-in's label what the client has asked for itself; `own` has room
 * for all of it. */
static size_t
own_settings(const struct pg_session *ps, struct label_pair *own)
{
	const struct label *home = ps->sw->home_label;
	const struct conf *c = ps->s.snapshot->conf;
	const struct tenant *h = ps->sw->home;
	size_t n = 0;

	for (size_t i = 0; i < home->n; i++) {
		bool ours = false;

		for (size_t k = 0; k < c->variables_n; k++)
			ours |= strcasecmp(c->variables[k].name,
					   home->pair[i].name) == 0;
		for (size_t k = 0; h != NULL && k < h->var_n; k++)
			ours |=
			    strcasecmp(h->var[k].name, home->pair[i].name) == 0;
		if (!ours)
			own[n++] = home->pair[i];
	}
	return n;
}

static struct label *
label_for(struct pg_session *ps, const struct tenant *t)
{
	const struct label *home = ps->sw->home_label;
	struct label_pair *own;
	struct label *l;

	if (t == ps->sw->home)
		return label_ref(ps->sw->home_label);
	if ((own = calloc(home->n + 1, sizeof(*own))) == NULL)
		abort();
	l = pg_hello_label(&ps->s, own, own_settings(ps, own), t, ps->sw->jwt);
	free(own);
	return l;
}

struct label *
pg_switch_startup(struct pg_session *ps)
{
	struct label_pair *own;
	struct label *l;

	if (ps->sw == NULL)
		return label_ref(ps->s.lessee.label);
	own = calloc(ps->sw->home_label->n + 1, sizeof(*own));
	if (own == NULL)
		abort();
	l = label_new(&ps->s.worker->pools.labels, own, own_settings(ps, own));
	free(own);
	return l;
}

/* What the variable will be is what the statement says: an organization may
 * have a value of its own for it. */
static bool
is_true(const struct label *l, const struct sql_switch *to, const char *value)
{
	for (size_t i = 0; !to->reset && i < l->n; i++)
		if (strcasecmp(l->pair[i].name, to->name) == 0)
			return strcmp(l->pair[i].value, value) == 0;
	return true;
}

/* ---- there -------------------------------------------------------------- */

static struct pg_server *
server_of(const struct pg_session *ps)
{
	return ps->s.lessee.server ? pg_server(ps->s.lessee.server) : NULL;
}

/* Is a transaction open that has asked something? */
static bool
is_inside(const struct pg_session *ps)
{
	return server_of(ps) != NULL && server_of(ps)->status == 'T';
}

static bool
no(struct pg_session *ps, enum why w, const char *says)
{
	ps->sw->why = w;
	ps->sw->says = says;
	return false;
}

/* What rls_check refuses at log-in is not to be had later: there is no waiting
 * for what is not known. */
static bool
may_go(const struct session *s, const struct route *r)
{
	return r->postgres->rls_check != RLS_CHECK_REQUIRE ||
	       rls_verdict(s->worker->weir->rls, r->postgres, r->dbname) ==
		   RLS_HOLDS;
}

/* Where the organization leads: a server that is kept stays with its upstream. */
static bool
choose(struct pg_session *ps, struct choice *c)
{
	struct session *s = &ps->s;
	struct route r;
	enum why w;

	if (route_switch(&r, s->snapshot->conf, s->user, c->tenant,
			 ps->sw->database, &w) != 0)
		return no(ps, w, NULL);
	if (!may_go(s, &r))
		return no(ps, WHY_NOT_ALLOWED, leaks);
	if ((c->pool = pg_hello_pool(s, &r)) == NULL)
		return no(ps, WHY_CLIENTS_FULL, NULL);
	c->mode = r.pool_mode;
	if (s->lessee.server != NULL && c->pool != s->pool)
		return no(ps, WHY_UNSUPPORTED, elsewhere);
	if (buf_len(&c->pool->welcome) == 0)
		budget_get_welcome(&s->worker->weir->budgets, c->pool->budget,
				   &c->pool->welcome);
	return true;
}

/* May it be chosen at this place? */
static bool
fits(struct pg_session *ps, const struct sql_switch *to, const char *value,
     const struct choice *c)
{
	const struct pg_switch *sw = ps->sw;

	if (!is_true(c->label, to, value))
		return no(ps, WHY_NOT_ALLOWED, untrue);
	/* LOCAL over what was set for good would have to bring it back; */
	if (sw->away && sw->keep && to->local)
		return no(ps, WHY_UNSUPPORTED, place);
	/* and what is not known cannot be replaced. */
	if (is_inside(ps) && (sw->rolled || server_of(ps)->unset))
		return no(ps, WHY_UNSUPPORTED, place);
	return true;
}

/* The session is the choice's, from the next bind on. */
static void
go(struct pg_session *ps, struct choice *c)
{
	struct session *s = &ps->s;
	const struct tenant *was = ps->sw->now;

	s->lessee.tenant = ps->sw->now = c->tenant;
	c->tenant = NULL;
	pg_track_relabel(ps, c->label);
	c->label = NULL;
	pg_track_apply(ps);
	if (s->lessee.server == NULL) {
		ps->mode = c->mode;
		s->lessee.keeps = c->mode == POOL_MODE_SESSION;
	}
	tenant_unref(&was);
}

/* For good. */
static bool
settle(struct pg_session *ps, struct choice *c)
{
	struct session *s = &ps->s;
	enum why w;

	if (!seats_move(s, c->tenant, &w))
		return no(ps, w, NULL);
	if (c->pool != s->pool) {
		pool_join(c->pool);
		pool_leave(&s->pool);
		s->pool = c->pool;
	}
	go(ps, c);
	return true;
}

/* Until the transaction ends: what it asks for is counted there. */
static bool
depart(struct pg_session *ps, struct choice *c, bool keep)
{
	struct session *s = &ps->s;
	struct pg_switch *sw = ps->sw;

	if (!seats_lend(s, &sw->own, c->tenant))
		return no(ps, WHY_TENANT_FULL, NULL);
	pool_join(c->pool);
	if (sw->away) {
		pool_leave(&s->pool);
	} else {
		sw->outer = (struct choice){ tenant_ref(s->lessee.tenant),
					     label_ref(s->lessee.label),
					     s->pool, ps->mode };
		sw->away = true;
		if (server_of(ps) != NULL)
			server_of(ps)->committed = false;
	}
	sw->keep = keep;
	s->pool = c->pool;
	go(ps, c);
	return true;
}

/* NULL: too many. */
static struct mark *
mark_new(struct pg_switch *sw)
{
	if (sw->mark == NULL &&
	    (sw->mark = calloc(MARKS_MAX, sizeof(*sw->mark))) == NULL)
		abort();
	if (sw->marks == MARKS_MAX) {
		sw->unsure = true;
		return NULL;
	}
	sw->mark[sw->marks] = (struct mark){ 0 };
	return &sw->mark[sw->marks++];
}

/* Only what says which organization it is: a transaction may have set the
 * rest. */
static bool
depart_inside(struct pg_session *ps, struct choice *c, bool keep)
{
	struct session *s = &ps->s;
	struct label *before, *now;
	struct mark was = { .tenant = tenant_ref(s->lessee.tenant),
			    .label = label_ref(s->lessee.label),
			    .keep = ps->sw->keep };
	bool good;

	before = pg_hello_label(s, NULL, 0, s->lessee.tenant, ps->sw->jwt);
	now = pg_hello_label(s, NULL, 0, c->tenant, ps->sw->jwt);
	if ((good = depart(ps, c, keep))) {
		struct mark *m = mark_new(ps->sw);

		ps->sw->inner = true;
		pg_server_switch_local(s->lessee.server, before, now);
		if (m != NULL) {
			*m = was;
			was = (struct mark){ 0 };
		}
	}
	mark_free(&was);
	label_unref(&before);
	label_unref(&now);
	return good;
}

/* At the place where it stands. */
static bool
change(struct pg_session *ps, const struct sql_switch *to, struct choice *c)
{
	if (is_inside(ps))
		return depart_inside(ps, c, !to->local);
	if (ps->begun)
		return depart(ps, c, !to->local);
	if (!to->local && !settle(ps, c))
		return false;
	if (!to->local && ps->s.lessee.server != NULL)
		pg_server_switch(ps->s.lessee.server);
	return true;
}

enum pg_switched
pg_switch_run(struct pg_session *ps, const struct sql_switch *to,
	      const char *value)
{
	struct choice c = { 0 };
	enum why w = find(ps, to, value, &c.tenant);
	bool good;

	if (w == WHY_MAX)
		return PG_SWITCH_LATER;
	if (w != WHY_EOF) {
		good = no(ps, w, NULL);
	} else if ((good = choose(ps, &c))) {
		c.label = label_for(ps, c.tenant);
		good = fits(ps, to, value, &c) && change(ps, to, &c);
	}
	ps->sw->tried = good ? 0 : hash_of(to);
	label_unref(&c.label);
	tenant_unref(&c.tenant);
	return good ? PG_SWITCH_DONE : PG_SWITCH_NO;
}

bool
pg_switch_may_end(const struct pg_session *ps, struct slice text,
		  unsigned flags)
{
	char name[SQL_NAME_MAX];
	unsigned modes;

	return ps->sw == NULL || !ps->sw->away || !(flags & SQL_XACT) ||
	       sql_transaction(text, &modes) != SQL_NO_XACT ||
	       sql_mark(text, name) == SQL_ROLLBACK_TO;
}

bool
pg_switch_is_away(const struct pg_session *ps)
{
	return ps->sw != NULL && ps->sw->away;
}

bool
pg_switch_is_ending(const struct pg_session *ps)
{
	return ps->sw != NULL && ps->sw->ending;
}

static void
doubt_marks(struct pg_switch *sw)
{
	sw->unsure = true;
	sw->rolled |= sw->inner;
	sw->late |= sw->bound;
	sw->bound = false;
}

void
pg_switch_bind(struct pg_session *ps, struct slice portal, struct slice text,
	       unsigned flags)
{
	struct pg_switch *sw = ps->sw;

	pg_switch_note(ps, text, flags);
	if (sw == NULL || !(flags & (SQL_XACT | SQL_MARKS)) ||
	    sw->asked == SQL_NO_MARK)
		return;
	sw->bound = true;
	if (portal.n > 0)
		doubt_marks(sw);
}

void
pg_switch_execute(struct pg_session *ps, bool unnamed)
{
	struct pg_switch *sw = ps->sw;

	if (sw == NULL)
		return;
	sw->rolled |= sw->late && sw->inner;
	if (unnamed)
		sw->bound = false;
}

void
pg_switch_note(struct pg_session *ps, struct slice text, unsigned flags)
{
	struct pg_switch *sw = ps->sw;
	char name[SQL_NAME_MAX];
	enum sql_mark mark;
	unsigned modes;

	if (sw != NULL && sw->bound)
		doubt_marks(sw);
	if (sw == NULL || !(flags & (SQL_XACT | SQL_MARKS)))
		return;
	if (flags & SQL_XACT && sql_transaction(text, &modes) != SQL_NO_XACT) {
		sw->ending |= sw->away;
		return;
	}
	mark = sql_mark(text, name);
	/* Two at once: which of them have come to pass is not told. */
	if (mark == SQL_NO_MARK || name[0] == '\0' ||
	    sw->asked != SQL_NO_MARK) {
		doubt_marks(sw);
		return;
	}
	sw->asked = mark;
	memcpy(sw->asked_name, name, sizeof(name));
}

/* The latest savepoint of that name, and where it lies. */
static bool
find_mark(const struct pg_switch *sw, const char *name, unsigned *at)
{
	for (*at = sw->marks; *at > 0;)
		if (strcmp(sw->mark[--*at].name, name) == 0)
			return true;
	return false;
}

/* The server has taken back what was set behind it. */
static void
roll_back_to(struct pg_session *ps, unsigned at)
{
	struct pg_switch *sw = ps->sw;
	struct session *s = &ps->s;
	bool chosen = false;

	while (sw->marks > at + 1) {
		struct mark *m = &sw->mark[--sw->marks];

		if (m->name[0] == '\0') {
			struct choice c = { m->tenant, m->label, s->pool,
					    ps->mode };

			sw->keep = m->keep;
			m->tenant = NULL;
			m->label = NULL;
			go(ps, &c);
			pg_server_switched_back(s->lessee.server);
			chosen = true;
		}
		mark_free(m);
	}
	if (chosen && !seats_lend(s, &sw->own, s->lessee.tenant))
		session_close(s, WHY_TENANT_FULL, NULL, NULL);
}

/* What was chosen stays chosen, the savepoints are gone. */
static void
release(struct pg_switch *sw, unsigned at)
{
	unsigned n = at;

	for (unsigned i = at; i < sw->marks; i++)
		if (sw->mark[i].name[0] == '\0')
			sw->mark[n++] = sw->mark[i];
	sw->marks = n;
}

/* One was sent, and the transaction goes on. */
static void
apply_mark(struct pg_session *ps)
{
	struct pg_switch *sw = ps->sw;
	struct mark *m;
	unsigned at;

	if (sw->asked == SQL_SAVEPOINT) {
		if ((m = mark_new(sw)) != NULL)
			memcpy(m->name, sw->asked_name, sizeof(m->name));
	} else if (sw->unsure || !find_mark(sw, sw->asked_name, &at)) {
		sw->unsure = true;
		sw->rolled |= sw->inner && sw->asked == SQL_ROLLBACK_TO;
	} else if (sw->asked == SQL_RELEASE) {
		release(sw, at);
	} else {
		roll_back_to(ps, at);
	}
}

void
pg_switch_rest(struct pg_session *ps)
{
	struct pg_switch *sw = ps->sw;

	if (sw == NULL)
		return;
	sw->ending = false;
	if (sw->bound)
		doubt_marks(sw);
	if (server_of(ps)->status == 'I') {
		forget_marks(sw);
		return;
	}
	if (sw->asked != SQL_NO_MARK) {
		/* In one that has failed it may have failed, or what followed. */
		if (server_of(ps)->status == 'T')
			apply_mark(ps);
		else
			sw->unsure = true;
		sw->asked = SQL_NO_MARK;
	}
}

/* ---- and back ----------------------------------------------------------- */

/* What the transaction has left. */
static void
come_back(struct pg_session *ps, bool committed)
{
	struct pg_switch *sw = ps->sw;
	struct session *s = &ps->s;
	struct choice back = sw->outer;
	const struct tenant *stay = s->lessee.tenant;
	bool unsure = sw->rolled && committed, keep;
	enum why w = WHY_UNSUPPORTED;

	sw->outer = (struct choice){ 0 };
	keep = sw->keep && committed;
	sw->away = sw->keep = sw->inner = sw->rolled = false;
	s->lessee.tenant = back.tenant; /* who is seated */
	seats_return(s, &sw->own);
	if (keep && !unsure && seats_move(s, stay, &w)) {
		s->lessee.tenant = stay;
		pool_leave(&back.pool);
	} else {
		if (keep)
			session_close(s, w, NULL,
				      w == WHY_UNSUPPORTED
					  ? "cannot tell which organization "
					    "the transaction has left"
					  : NULL);
		/* What it keeps is of the other upstream. */
		if (s->lessee.server != NULL && back.pool != s->pool)
			session_close(s, WHY_UNSUPPORTED, NULL,
				      "a transaction for an organization of "
				      "another upstream has left session state "
				      "there");
		pool_leave(&s->pool);
		s->pool = back.pool;
		go(ps, &back);
	}
	label_unref(&back.label);
	tenant_unref(&back.tenant);
}

static void
go_home(struct pg_session *ps)
{
	struct choice c = { .tenant = tenant_ref(ps->sw->home) };

	/* Where that is elsewhere, none at all is what is left. */
	if (choose(ps, &c)) {
		c.label = label_ref(ps->sw->home_label);
		(void)!settle(ps, &c);
	}
	if (c.tenant != NULL || c.label != NULL)
		session_close(
		    &ps->s, WHY_UNSUPPORTED, NULL,
		    "the organization of the log-in cannot be had again");
	label_unref(&c.label);
	tenant_unref(&c.tenant);
}

void
pg_switch_end(struct pg_session *ps, bool committed, bool reset)
{
	struct pg_switch *sw = ps->sw;
	bool changed;

	if (sw == NULL)
		return;
	changed = sw->away || reset;
	if (sw->away)
		come_back(ps, committed);
	if (reset && !session_is_over(&ps->s))
		go_home(ps);
	if (changed && ps->s.lessee.server != NULL)
		pg_server_switch(ps->s.lessee.server);
}

/* ---- answers -------------------------------------------------------------- */

enum { TEXT_OID = 25 };

static int
put_shape(struct buf *out, const struct sql_switch *to, unsigned format)
{
	return pg_put(out, 'T', "hsihihih", 1, to->column, 0, 0, TEXT_OID, -1,
		      -1, (int)format);
}

int
pg_switch_describe(struct buf *out, const struct sql_switch *to)
{
	int r = to->param != 0 ? pg_put(out, 't', "hi", 1, TEXT_OID)
			       : pg_put(out, 't', "h", 0);

	return r | (to->select ? put_shape(out, to, 0) : pg_put(out, 'n', ""));
}

int
pg_switch_answer(struct buf *out, const struct sql_switch *to,
		 const char *value, bool describe, unsigned format)
{
	int r = 0;

	if (!to->select) {
		if (describe)
			r |= pg_put(out, 'n', "");
		return r | pg_put(out, 'C', "s", to->tag);
	}
	if (describe)
		r |= put_shape(out, to, format);
	r |= pg_put(out, 'D', "hib", 1, (int)strlen(value), slice_str(value));
	return r | pg_put(out, 'C', "s", to->tag);
}

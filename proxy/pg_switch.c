#include "proxy/pg_switch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/pg_hello.h"
#include "proxy/rls.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

static const char own_name[] = "weir.organization";

/* An organization, and what it means for a session. */
struct choice {
	const struct tenant *tenant;
	struct label *label; /* counted */
	struct pool *pool;   /* joined, if it is not the session's own */
	enum conf_pool_mode mode;
};

struct pg_switch {
	char *database;
	struct jwt *jwt;
	const struct tenant *home; /* of its log-in */
	struct label *home_label;
	struct choice outer; /* what comes back after this transaction */
	bool away;           /* there is one */
	bool keep;           /* but not if it commits */
	bool unsure;         /* and nobody can tell */
};

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

void
pg_switch_free(struct pg_session *ps)
{
	struct pg_switch *sw = ps->sw;

	if (sw == NULL)
		return;
	if (sw->away) {
		label_unref(&sw->outer.label);
		if (sw->outer.pool != NULL)
			pool_leave(&sw->outer.pool);
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

static bool
find(const struct pg_session *ps, const struct sql_switch *to,
     const char *value, const struct tenant **t)
{
	*t = NULL;
	if (to->reset)
		*t = ps->sw->home;
	else if (value[0] != '\0')
		*t = route_choose(ps->s.snapshot->conf, ps->s.user,
				  key_of(ps, to->name), value);
	return to->reset || value[0] == '\0' || *t != NULL;
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

enum pg_switch_wrong
pg_switch_wrong(const struct pg_session *ps, const struct sql_switch *to)
{
	const struct session *s = &ps->s;
	const struct tenant *t;
	struct route r;
	enum why w;

	if (to->param != 0)
		return PG_SWITCH_PLACE;
	if (!find(ps, to, to->value, &t))
		return PG_SWITCH_UNKNOWN;
	if (route_switch(&r, s->snapshot->conf, s->user, t, ps->sw->database,
			 &w) == 0 &&
	    !may_go(s, &r))
		return PG_SWITCH_LEAKS;
	return PG_SWITCH_PLACE;
}

static struct label *
label_for(struct pg_session *ps, const struct tenant *t)
{
	const struct label *home = ps->sw->home_label;
	const struct conf *c = ps->s.snapshot->conf;
	struct label_pair *own;
	struct label *l;
	size_t n = 0;

	if (t == ps->sw->home)
		return label_ref(ps->sw->home_label);
	if ((own = calloc(home->n + 1, sizeof(*own))) == NULL)
		abort();
	for (size_t i = 0; i < home->n; i++) {
		const struct tenant *h = ps->sw->home;
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
	l = pg_hello_label(&ps->s, own, n, t, ps->sw->jwt);
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

/* Its upstream; a server that is kept stays with the one it is of. */
static bool
choose(struct pg_session *ps, const struct tenant *t, struct choice *c)
{
	struct session *s = &ps->s;
	struct route r;
	enum why w;

	*c = (struct choice){ .tenant = t };
	if (route_switch(&r, s->snapshot->conf, s->user, t, ps->sw->database,
			 &w) != 0 ||
	    !may_go(s, &r) || (c->pool = pg_hello_pool(s, &r)) == NULL)
		return false;
	c->mode = r.pool_mode;
	if (s->lessee.server != NULL && c->pool != s->pool)
		return false;
	if (buf_len(&c->pool->welcome) == 0)
		budget_get_welcome(&s->worker->weir->budgets, c->pool->budget,
				   &c->pool->welcome);
	return true;
}

/* Takes over the choice's label. */
static void
go(struct pg_session *ps, struct choice *c)
{
	struct session *s = &ps->s;

	s->lessee.tenant = c->tenant;
	label_unref(&s->lessee.label);
	s->lessee.label = c->label;
	c->label = NULL;
	if (s->lessee.server != NULL) {
		pg_server_switch(s->lessee.server);
		return;
	}
	ps->mode = c->mode;
	s->lessee.keeps = c->mode == POOL_MODE_SESSION;
}

/* For good. */
static bool
settle(struct pg_session *ps, struct choice *c)
{
	struct session *s = &ps->s;
	enum why w;

	if (!seats_take(s, s->user, c->tenant, &w))
		return false;
	if (c->pool != s->pool) {
		pool_join(c->pool);
		pool_leave(&s->pool);
		s->pool = c->pool;
	}
	go(ps, c);
	return true;
}

/* Until the transaction ends. */
static void
depart(struct pg_session *ps, struct choice *c, bool keep)
{
	struct session *s = &ps->s;
	struct pg_switch *sw = ps->sw;

	pool_join(c->pool);
	if (sw->away) {
		pool_leave(&s->pool);
	} else {
		sw->outer = (struct choice){ s->lessee.tenant,
					     label_ref(s->lessee.label),
					     s->pool, ps->mode };
		sw->away = true;
		sw->unsure = false;
	}
	sw->keep = keep;
	s->pool = c->pool;
	go(ps, c);
}

bool
pg_switch_run(struct pg_session *ps, const struct sql_switch *to,
	      const char *value)
{
	const struct tenant *t;
	struct choice c;
	bool good;

	if (!find(ps, to, value, &t) || !choose(ps, t, &c))
		return false;
	c.label = label_for(ps, t);
	good =
	    is_true(c.label, to, value) &&
	    /* LOCAL over what was set for good would have to bring it back */
	    !(ps->sw->away && ps->sw->keep && to->local);
	if (good && ps->begun)
		depart(ps, &c, !to->local);
	else if (good && !to->local)
		good = settle(ps, &c);
	label_unref(&c.label);
	return good;
}

void
pg_switch_reset(struct pg_session *ps)
{
	const struct sql_switch home = { .reset = true };

	/* Where that is elsewhere, none at all is what is left. */
	if (ps->sw->away || ps->begun || pg_switch_run(ps, &home, ""))
		return;
	session_close(&ps->s, WHY_UNSUPPORTED, NULL,
		      "the organization of the log-in cannot be had again");
}

void
pg_switch_note(struct pg_session *ps, struct slice text, unsigned flags)
{
	unsigned modes;

	if (ps->sw != NULL && ps->sw->away && flags & SQL_XACT &&
	    sql_transaction(text, &modes) == SQL_NO_XACT && !sql_rolls_to(text))
		ps->sw->unsure = true;
}

void
pg_switch_end(struct pg_session *ps, bool committed)
{
	struct pg_switch *sw = ps->sw;
	struct session *s = &ps->s;
	struct choice back, stay;
	enum why w;

	if (sw == NULL || !sw->away)
		return;
	back = sw->outer;
	stay = (struct choice){ s->lessee.tenant, label_ref(s->lessee.label),
				s->pool, ps->mode };
	sw->outer = (struct choice){ 0 };
	sw->away = false;
	if (sw->keep && sw->unsure) {
		session_close(s, WHY_UNSUPPORTED, NULL,
			      "cannot tell which organization the transaction "
			      "has left");
		committed = false;
	}
	s->lessee.tenant = back.tenant; /* who is seated */
	if (sw->keep && committed && seats_take(s, s->user, stay.tenant, &w)) {
		s->lessee.tenant = stay.tenant;
		pool_leave(&back.pool);
	} else {
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
	label_unref(&stay.label);
}

/* ---- answers -------------------------------------------------------------- */

int
pg_switch_answer(struct buf *out, const struct sql_switch *to,
		 const char *value, bool describe, unsigned format)
{
	enum { TEXT_OID = 25 };
	int r = 0;

	if (!to->select) {
		if (describe)
			r |= pg_put(out, 'n', "");
		return r | pg_put(out, 'C', "s", to->tag);
	}
	if (describe)
		r |= pg_put(out, 'T', "hsihihih", 1, to->column, 0, 0, TEXT_OID,
			    -1, -1, (int)format);
	r |= pg_put(out, 'D', "hib", 1, (int)strlen(value), slice_str(value));
	return r | pg_put(out, 'C', "s", to->tag);
}

#include "proxy/pg_track.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/label.h"
#include "protocol/pg.h"
#include "protocol/sql.h"
#include "proxy/pg_message.h"
#include "proxy/pg_switch.h"
#include "proxy/worker.h"

struct setting {
	char name[SQL_NAME_MAX];
	char *value; /* NULL: it is not set, or not known yet */
};

struct pg_track {
	struct label *home; /* what a RESET goes back to; counted */
	bool due;           /* something may have changed ... */
	bool resets;        /* ... by a RESET, too */
	unsigned n;
	struct setting setting[TRACK_MAX];
};

static struct pg_server *
server_of(const struct pg_session *ps)
{
	assert(ps->s.lessee.server != NULL);
	return pg_server(ps->s.lessee.server);
}

void
pg_track_relabel(struct pg_session *ps, struct label *label)
{
	struct label *was = ps->s.lessee.label;

	ps->s.lessee.label = label;
	label_unref(&was);
}

/* ---- what is set ------------------------------------------------------ */

static struct setting *
find(struct pg_track *t, const char *name)
{
	for (unsigned i = 0; i < t->n; i++)
		if (strcmp(t->setting[i].name, name) == 0)
			return &t->setting[i];
	return NULL;
}

static struct pg_track *
track_of(struct pg_session *ps)
{
	if (ps->track == NULL) {
		if ((ps->track = calloc(1, sizeof(*ps->track))) == NULL)
			abort();
		ps->track->home = pg_switch_startup(ps);
	}
	return ps->track;
}

/* Of what says which organization it is, weir's value stands: another one's
 * variable may have been set where it was none. */
static bool
is_given(const struct pg_session *ps, const char *name)
{
	const struct conf *c = ps->s.snapshot->conf;
	const struct tenant *t = ps->s.lessee.tenant;

	if (!pg_message_is_watched(ps))
		return false;
	for (size_t i = 0; i < c->variables_n; i++)
		if (strcasecmp(c->variables[i].name, name) == 0)
			return true;
	for (size_t i = 0; t != NULL && i < t->var_n; i++)
		if (strcasecmp(t->var[i].name, name) == 0)
			return true;
	return false;
}

/* What is on a label for this one is signed. */
static bool
names_context(const struct pg_session *ps, const struct sql_sets *sets)
{
	const struct conf *c = ps->s.snapshot->conf;

	for (unsigned i = 0; c->context.key != NULL && i < sets->n; i++)
		if (strcasecmp(sets->name[i], c->context.variable) == 0)
			return true;
	return false;
}

bool
pg_track_note(struct pg_session *ps, struct slice text)
{
	struct sql_sets sets;
	struct pg_track *t;

	if (ps->pinned) {
		ps->discards = false; /* behind that, it is set */
		return true;
	}
	if (!ps->s.snapshot->conf->track_settings || !sql_sets(text, &sets) ||
	    names_context(ps, &sets))
		return false;
	t = track_of(ps);
	for (unsigned i = 0; i < sets.n; i++) {
		if (find(t, sets.name[i]) != NULL)
			continue;
		if (t->n == TRACK_MAX)
			return false;
		strcpy(t->setting[t->n++].name, sets.name[i]);
	}
	if (sets.n > 0) {
		t->due = true;
		pg_server_touch(ps->s.lessee.server);
	}
	return true;
}

void
pg_track_note_reset(struct pg_session *ps)
{
	if (ps->track == NULL || ps->track->n == 0 || ps->pinned)
		return;
	ps->track->due = ps->track->resets = true;
	pg_server_touch(ps->s.lessee.server);
}

/* ---- asking ----------------------------------------------------------- */

/* None of the names needs quoting (protocol/sql.c). */
bool
pg_track_ask(struct pg_session *ps)
{
	struct pg_track *t = ps->track;
	char sql[512 + TRACK_MAX * (SQL_NAME_MAX + 1)];
	int at;

	if (t == NULL || !t->due || t->n == 0)
		return false;
	at = snprintf(sql, sizeof(sql),
		      "SELECT n,pg_catalog.left(pg_catalog.current_setting(n,"
		      "true),%d),s.source FROM pg_catalog.unnest('{",
		      TRACK_VALUE + 1);
	for (unsigned i = 0; i < t->n; i++)
		at += snprintf(sql + at, sizeof(sql) - (size_t)at, "%s%s",
			       i ? "," : "", t->setting[i].name);
	snprintf(sql + at, sizeof(sql) - (size_t)at,
		 "}'::pg_catalog.text[]) n LEFT JOIN pg_catalog.pg_settings s "
		 "ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) n");
	t->due = false;
	ps->ask_ns = ps->s.worker->streams.now_ns;
	pg_server_ask(ps->s.lessee.server, sql);
	stats_add(&ps->s.worker->stats, STAT_SETTINGS_ASKED, 1);
	return true;
}

/* One column of a row. */
static struct slice
column(struct pg_reader *r, bool *is_null)
{
	uint32_t n = pg_read_u32(r);

	*is_null = n == UINT32_MAX;
	return *is_null ? slice_of(NULL, 0) : pg_read_bytes(r, n);
}

/* Whoever has the server next is given its own with this one in force. */
static bool
is_short_timeout(const char *name, const char *value)
{
	return (strcmp(name, "statement_timeout") == 0 ||
		strcmp(name, "transaction_timeout") == 0 ||
		strcmp(name, "idle_in_transaction_session_timeout") == 0) &&
	       strlen(value) <= 5 && strstr(value, "ms") != NULL;
}

static bool
may_travel(const struct setting *set, struct slice value)
{
	char text[8] = "";

	if (value.n > TRACK_VALUE)
		return false;
	for (size_t i = 0; i < value.n; i++)
		if (value.p[i] == '\0' || value.p[i] >= 0x80)
			return false;
	if (value.n < sizeof(text))
		memcpy(text, value.p, value.n);
	return !is_short_timeout(set->name, text);
}

/* Of a setting that nothing has defined '' is also what a RESET leaves. */
static bool
is_set(const struct pg_track *t, struct slice value, bool no_value,
       struct slice source, bool no_source)
{
	if (no_value)
		return false;
	return no_source ? value.n > 0 || !t->resets
			 : slice_is(source, "session");
}

/* The value in the last of these ParameterStatus bodies, or messages, that is
 * of this setting. */
static bool
find_status(const struct buf *b, const char *name, struct slice *is,
	    struct slice *value)
{
	size_t n;
	const uint8_t *p = buf_peek(b, &n);
	bool found = false;

	while (n > PG_HEADER) {
		struct pg_frame f;
		struct pg_reader r;
		struct slice at;

		if (pg_frame_next(&f, p, n) <= 0 || f.size > n)
			break;
		r = pg_reader(p + PG_HEADER, f.size - PG_HEADER);
		at = pg_read_str(&r);
		if (slice_is_word(at, name)) {
			*is = at;
			*value = pg_read_str(&r);
			found = !r.bad;
		}
		p += f.size;
		n -= f.size;
	}
	return found;
}

/* Of who reads nothing of what it was sent, this is not missed. */
static void
put_status(struct pg_session *ps, struct slice name, struct slice value)
{
	(void)!pg_put(stream_out(&ps->s.stream), 'S', "bcbc", name, 0, value,
		      0);
}

/*
 * PostgreSQL reports a setting when it is another than it reported last.  What
 * a bind put and the client took back in one request it does not: here the
 * client hears of it.
 */
static void
report(struct pg_session *ps, const struct setting *set, struct slice now)
{
	struct slice name, was, first;
	const char *home = label_value(ps->track->home, set->name);

	if (!find_status(&ps->s.pool->welcome, set->name, &name, &was))
		return;
	if (set->value != NULL)
		was = slice_str(set->value);
	else if (home != NULL)
		was = slice_str(home);
	(void)find_status(&server_of(ps)->said, set->name, &first, &was);
	if (was.n == now.n && memcmp(was.p, now.p, now.n) == 0)
		return;
	put_status(ps, name, now);
}

static bool
hear_row(struct pg_session *ps, struct pg_reader *r)
{
	struct pg_track *t = ps->track;
	bool no_name, no_value, no_source;
	char name[SQL_NAME_MAX] = "";
	struct setting *set;
	struct slice n, value, source;

	if (pg_read_u16(r) != 3)
		return false;
	n = column(r, &no_name);
	value = column(r, &no_value);
	source = column(r, &no_source);
	if (r->bad || n.n >= sizeof(name))
		return false;
	memcpy(name, n.p, n.n);
	if (no_name || (set = find(t, name)) == NULL)
		return false;
	if (is_set(t, value, no_value, source, no_source)) {
		report(ps, set, value);
	} else {
		const char *home = label_value(t->home, name);

		if (!no_value)
			report(ps, set, home ? slice_str(home) : value);
		no_value = true;
	}
	free(set->value);
	set->value = NULL;
	if (no_value)
		return true;
	if (!may_travel(set, value))
		return false;
	if ((set->value = strndup((const char *)value.p, value.n)) == NULL)
		abort();
	return true;
}

/* All rows, one for each setting; false: it is not for other servers. */
static bool
hear_rows(struct pg_session *ps, const struct buf *told)
{
	struct pg_track *t = ps->track;
	size_t n, bytes = 0;
	const uint8_t *p = buf_peek(told, &n);
	struct pg_reader r = pg_reader(p, n);
	unsigned rows = 0;

	while (r.p < r.end && rows++ < t->n)
		if (!hear_row(ps, &r))
			return false;
	for (unsigned i = 0; i < t->n; i++)
		if (t->setting[i].value != NULL)
			bytes += strlen(t->setting[i].value);
	return rows == t->n && r.p == r.end && bytes <= TRACK_BYTES;
}

/* What is laid over a label: for what is not set, what RESET goes back to. */
static struct label *
over(struct pg_session *ps, const struct label *l, bool home)
{
	struct pg_track *t = ps->track;
	struct label_pair pair[TRACK_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < t->n; i++) {
		const struct setting *set = &t->setting[i];

		if (is_given(ps, set->name))
			continue;
		pair[n].name = set->name;
		pair[n++].value = set->value != NULL && !home
				      ? set->value
				      : label_value(t->home, set->name);
	}
	return label_over(&ps->s.worker->pools.labels, l, pair, n);
}

/* Does the server have what the label over its own says? */
static bool
is_known(const struct pg_session *ps)
{
	const struct pg_track *t = ps->track;

	for (unsigned i = 0; i < t->n; i++)
		if (is_given(ps, t->setting[i].name) ||
		    (t->setting[i].value == NULL &&
		     label_has(server_of(ps)->s.label, t->setting[i].name)))
			return false;
	return !server_of(ps)->unset;
}

static void
forget_unset(struct pg_track *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < t->n; i++)
		if (t->setting[i].value != NULL)
			t->setting[n++] = t->setting[i];
	for (t->n = n; n < TRACK_MAX; n++)
		t->setting[n].value = NULL;
}

const char *
pg_track_hear(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;
	struct label *now = NULL;

	if (!hear_rows(ps, &server_of(ps)->told))
		return "a setting cannot be put on another server";
	ps->track->resets = false;
	if (is_known(ps))
		now = over(ps, v->label, false);
	pg_server_heard(v, now);
	label_unref(&now);
	return NULL;
}

void
pg_track_restore(struct pg_session *ps)
{
	const struct label *l = ps->s.lessee.label;
	struct buf *said = &server_of(ps)->said;
	struct slice name, was, now, same;

	if (!server_of(ps)->unset || buf_len(said) == 0)
		return;
	for (size_t i = 0; l != NULL && i < l->n; i++) {
		if (!find_status(said, l->pair[i].name, &name, &was) ||
		    (ps->track != NULL && find(ps->track, l->pair[i].name)))
			continue;
		now = slice_str(l->pair[i].value);
		if (l->params != NULL)
			(void)find_status(l->params, l->pair[i].name, &same,
					  &now);
		if (was.n == now.n && memcmp(was.p, now.p, now.n) == 0)
			continue;
		put_status(ps, name, now);
	}
	buf_consume(said, buf_len(said));
}

void
pg_track_apply(struct pg_session *ps)
{
	if (ps->track != NULL && ps->track->n > 0)
		pg_track_relabel(ps, over(ps, ps->s.lessee.label, false));
}

void
pg_track_settle(struct pg_session *ps)
{
	assert(ps->s.lessee.server == NULL);
	if (ps->track == NULL || ps->track->due)
		return;
	pg_track_apply(ps);
	forget_unset(ps->track);
	if (ps->track->n == 0)
		pg_track_free(ps);
}

void
pg_track_drop(struct pg_session *ps)
{
	struct server *v = ps->s.lessee.server;
	struct label *now;

	/* What comes back behind a choice still says it. */
	if (ps->track == NULL || pg_switch_is_away(ps))
		return;
	if (ps->track->n > 0) {
		now = over(ps, v->label, true);
		pg_track_relabel(ps, over(ps, ps->s.lessee.label, true));
		pg_server_heard(v, now);
		label_unref(&now);
	}
	pg_track_free(ps);
}

void
pg_track_free(struct pg_session *ps)
{
	struct pg_track *t = ps->track;

	if (t == NULL)
		return;
	for (unsigned i = 0; i < t->n; i++)
		free(t->setting[i].value);
	label_unref(&t->home);
	free(t);
	ps->track = NULL;
}

#include "proxy/rls.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "proxy/session.h"
#include "proxy/worker.h"

/* A database of an upstream. */
struct entry {
	struct entry *next;
	char *upstream, *dbname;
	uint64_t of; /* whom it is asked as, and for what */
	bool require;
	enum rls_verdict verdict;
	unsigned findings;        /* all of them; those of the verdict */
	_Atomic bool todo, asked; /* to be asked; its question is on its way */
	/* The control thread's alone: */
	bool wanted;       /* listed by the configuration of now */
	bool failed;       /* the last question had no answer */
	uint64_t again_ns; /* then: when to ask again, 0: not by itself */
	uint64_t every_ns; /* and how often, 0: never */
	struct rls_wait *waiters;
};

struct rls {
	struct control *control;
	struct log *log;
	pthread_mutex_t lock; /* who changes an entry, or reads it elsewhere */
	struct entry *entries;
	bool gathered;
	/* The control thread's alone: */
	unsigned n, running;
	uint64_t round; /* configurations seen: older answers do not count */
	struct control_alarm alarm;
};

struct rls_wait {
	struct message message; /* first: there and home */
	struct rls *rls;
	struct session *session; /* home's alone; NULL: it has gone */
	struct mailbox *home;
	struct rls_wait *next;
	uint64_t of;
	bool is_home;
	char *upstream, *dbname;
};

/* ---- the question ----------------------------------------------------- */

/*
 * $1 is the column, $2 how many lines.  A superuser is a member of everything, so that of one only
 * this is said.  Names are qualified: what is in public is somebody else's.
 */
static const char question[] =
    "WITH me AS (SELECT oid, rolsuper FROM pg_catalog.pg_roles"
    "    WHERE rolname = current_user),"
    " tables AS (SELECT c.oid, c.relowner, c.relrowsecurity AS rls,"
    "    c.relforcerowsecurity AS forced,"
    "    pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,"
    "    EXISTS (SELECT FROM pg_catalog.pg_attribute a"
    "        WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attnum > 0"
    "        AND a.attname = $1::pg_catalog.name)"
    "    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
    "    AND (pg_catalog.has_any_column_privilege(c.oid,"
    "            'SELECT, INSERT, UPDATE')"
    "        OR pg_catalog.has_table_privilege(c.oid, 'DELETE, TRUNCATE'))"
    "    AS tenants,"
    "    EXISTS (SELECT FROM pg_catalog.pg_policy p"
    "        WHERE p.polrelid = c.oid) AS policy"
    "    FROM pg_catalog.pg_class c"
    "    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    "    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'"
    "    AND n.nspname NOT IN ('pg_catalog', 'information_schema')),"
    " findings (rank, finding, what) AS ("
    "    SELECT 1, CASE WHEN r.rolsuper THEN 'superuser'"
    "        ELSE 'bypassrls' END, r.rolname::pg_catalog.text"
    "    FROM pg_catalog.pg_roles r, me"
    "    WHERE (r.rolsuper OR r.rolbypassrls) AND (r.oid = me.oid"
    "        OR (NOT me.rolsuper AND"
    "            pg_catalog.pg_has_role(r.oid, 'MEMBER')))"
    "    UNION ALL SELECT 2, 'owner', t.name FROM tables t, me"
    "    WHERE t.rls AND NOT t.forced AND NOT me.rolsuper"
    "        AND pg_catalog.pg_has_role(t.relowner, 'MEMBER')"
    "    UNION ALL SELECT 3, CASE WHEN t.rls THEN 'no-policy'"
    "        ELSE 'rls-off' END, t.name FROM tables t"
    "    WHERE t.tenants AND NOT (t.rls AND t.policy))"
    " SELECT finding, what, pg_catalog.count(*) OVER () FROM findings"
    " ORDER BY rank, finding, what LIMIT $2::pg_catalog.int8";

/* ---- verdicts --------------------------------------------------------- */

static bool
same(const struct entry *e, const char *upstream, const char *dbname)
{
	return strcmp(e->upstream, upstream) == 0 &&
	       strcmp(e->dbname, dbname) == 0;
}

static struct entry *
find(const struct rls *r, const char *upstream, const char *dbname)
{
	struct entry *e = r->entries;

	while (e != NULL && !same(e, upstream, dbname))
		e = e->next;
	return e;
}

static uint64_t
hash(uint64_t h, const char *text)
{
	do
		h = (h ^ (uint8_t)*text) * 1099511628211ull;
	while (*text++ != '\0');
	return h;
}

/* Whose verdict it would be. */
static uint64_t
identity(const struct conf_postgres *up)
{
	uint64_t h = hash(14695981039346656037ull, up->host ? up->host : "");
	char port[16];

	snprintf(port, sizeof(port), "%u", up->port);
	return hash(hash(hash(h, port), up->user ? up->user : ""),
		    up->rls_column);
}

/* `other`: it is somebody else's now, and nobody will ask for this one. */
static enum rls_verdict
verdict_of(struct rls *r, const struct conf_postgres *up, const char *dbname,
	   bool *other)
{
	enum rls_verdict verdict = RLS_UNKNOWN;
	uint64_t of = identity(up);
	struct entry *e;

	pthread_mutex_lock(&r->lock);
	e = find(r, up->name, dbname);
	*other = e != NULL && e->of != of;
	if (e != NULL && e->of == of)
		verdict = e->verdict;
	pthread_mutex_unlock(&r->lock);
	return verdict;
}

enum rls_verdict
rls_verdict(struct rls *r, const struct conf_postgres *up, const char *dbname)
{
	bool other;

	return verdict_of(r, up, dbname, &other);
}

/* ---- who waits for one ------------------------------------------------ */

static void
wait_free(struct rls_wait *w)
{
	free(w->upstream);
	free(w->dbname);
	free(w);
}

static void
wait_is_home(struct message *m, void *owner)
{
	struct rls_wait *w = (struct rls_wait *)(void *)m;

	(void)owner;
	w->is_home = true;
	if (w->session != NULL)
		session_wake(w->session);
	else
		wait_free(w);
}

static_assert(offsetof(struct rls_wait, message) == 0, "it is its message");

static void
wait_go_home(struct rls_wait *w)
{
	w->message.run = wait_is_home;
	mailbox_post(w->home, &w->message);
}

static void
wake_all(struct entry *e)
{
	struct rls_wait *w;

	while ((w = e->waiters) != NULL) {
		e->waiters = w->next;
		wait_go_home(w);
	}
}

/* ---- on the control thread: answers ----------------------------------- */

/* What a finding is about; NULL: that is none. */
static const char *
object_of(const char *finding)
{
	static const char *const known[][2] = {
		{ "superuser", "role" },  { "bypassrls", "role" },
		{ "owner", "table" },     { "rls-off", "table" },
		{ "no-policy", "table" },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (finding != NULL && strcmp(finding, known[i][0]) == 0)
			return known[i][1];
	return NULL;
}

/* -1: that is no answer to our question. */
static int
count_findings(const struct control_ask *ask, unsigned *n)
{
	*n = 0;
	for (unsigned i = 0; i < ask->rows; i++) {
		char *const *row = ask->value + (size_t)i * ask->columns;

		if (ask->columns != 3 || object_of(row[0]) == NULL ||
		    row[1] == NULL || row[2] == NULL)
			return -1;
		*n = (unsigned)strtoul(row[2], NULL, 10);
		if (*n < ask->rows)
			*n = ask->rows;
	}
	return 0;
}

static void
tell(struct rls *r, const struct entry *e, const struct control_ask *ask,
     unsigned findings)
{
	for (unsigned i = 0; i < ask->rows; i++) {
		char *const *row = ask->value + (size_t)i * ask->columns;

		LOG(r->log, LOG_WARN, LOG_EV_RLS,
		    log_str("postgres", e->upstream),
		    log_str("database", e->dbname), log_str("finding", row[0]),
		    log_str(object_of(row[0]), row[1]));
	}
	if (findings > ask->rows)
		LOG(r->log, LOG_WARN, LOG_EV_RLS,
		    log_str("postgres", e->upstream),
		    log_str("database", e->dbname),
		    log_num("more", findings - ask->rows));
	if (findings == 0)
		LOG(r->log, LOG_INFO, LOG_EV_RLS,
		    log_str("postgres", e->upstream),
		    log_str("database", e->dbname), log_str("finding", "none"));
}

/* Told once; that it cannot be reached is told by who dials, too. */
static void
could_not(struct rls *r, struct entry *e, const struct control_ask *ask,
	  const char *text)
{
	if (!e->failed)
		LOG(r->log, LOG_WARN, LOG_EV_RLS,
		    log_str("postgres", e->upstream),
		    log_str("database", e->dbname),
		    log_str("sqlstate", ask->sqlstate), log_str("error", text));
	e->failed = true;
	if (e->every_ns != 0)
		e->again_ns = control_now_ns(r->control) + e->every_ns;
}

static void
judge(struct rls *r, struct entry *e, const struct control_ask *ask)
{
	unsigned findings;

	if (ask->result != CONTROL_OK) {
		could_not(r, e, ask, ask->error);
		return;
	}
	if (count_findings(ask, &findings) != 0) {
		could_not(r, e, ask, "the answer makes no sense");
		return;
	}
	e->failed = false;
	e->again_ns = 0;
	pthread_mutex_lock(&r->lock);
	e->verdict = findings ? RLS_LEAKS : RLS_HOLDS;
	e->findings = findings;
	pthread_mutex_unlock(&r->lock);
	tell(r, e, ask, findings);
}

/* ---- on the control thread: questions --------------------------------- */

static void poke(struct rls *);

static void
answered(struct control_ask *ask, void *owner)
{
	struct rls *r = ask->arg;
	struct entry *e = find(r, ask->upstream, ask->dbname);

	(void)owner;
	r->running--;
	/* Else it has been asked again since, or is not of interest any more. */
	if (e != NULL && e->asked && ask->tag == r->round) {
		if (ask->result != CONTROL_CLOSED)
			judge(r, e, ask);
		e->asked = false;
		wake_all(e);
	}
	control_ask_free(&ask);
	poke(r);
}

static void
ask(struct rls *r, struct entry *e)
{
	const struct conf *c = control_snapshot(r->control)->conf;
	const struct conf_postgres *up = conf_postgres_find(c, e->upstream);
	char lines[16];
	const char *param[2] = { NULL, lines };
	struct control_ask *a;

	if (up == NULL) { /* a reload is on its way here */
		e->todo = false;
		return;
	}
	param[0] = up->rls_column;
	snprintf(lines, sizeof(lines), "%d", RLS_LINES);
	a = control_ask_new(e->upstream, e->dbname, question, 2, param);
	a->rows_max = RLS_LINES;
	a->arg = r;
	a->tag = r->round;
	a->last = true;  /* nothing is kept open that might sleep else */
	e->asked = true; /* first: it is not settled in between */
	e->todo = false;
	r->running++;
	control_ask(r->control, a, control_mailbox(r->control), answered);
}

/* Asks what is to be asked, a few at a time, and when to do so again. */
static void
poke(struct rls *r)
{
	uint64_t now = control_now_ns(r->control), next = 0;

	for (struct entry *e = r->entries; e != NULL; e = e->next) {
		if (e->again_ns != 0 && now >= e->again_ns && !e->asked)
			e->todo = true;
		if (e->todo)
			e->again_ns = 0;
		if (e->todo && r->running < RLS_AT_ONCE)
			ask(r, e);
		if (e->again_ns != 0 && (next == 0 || e->again_ns < next))
			next = e->again_ns;
	}
	control_alarm(r->control, &r->alarm, next);
}

static void
rings(struct control_alarm *a)
{
	poke((struct rls *)(void *)((char *)a - offsetof(struct rls, alarm)));
}

/* A session waits for a verdict that there is not: it is asked for now. */
static void
wait_arrives(struct message *m, void *owner)
{
	struct rls_wait *w = (struct rls_wait *)(void *)m;
	struct rls *r = w->rls;
	struct entry *e = find(r, w->upstream, w->dbname);

	(void)owner;
	if (e == NULL || e->of != w->of || e->verdict != RLS_UNKNOWN) {
		wait_go_home(w);
		return;
	}
	w->next = e->waiters;
	e->waiters = w;
	if (e->asked)
		return;
	e->todo = true;
	poke(r);
}

/* ---- what there is to be asked ---------------------------------------- */

static struct entry *
entry_new(struct rls *r, const char *upstream, const char *dbname)
{
	struct entry *e = mem_zero(1, sizeof(*e), "a verdict"), **at;

	e->upstream = mem_copy(upstream);
	e->dbname = mem_copy(dbname);
	for (at = &r->entries; *at != NULL;)
		at = &(*at)->next;
	*at = e;
	r->n++;
	return e;
}

/* What is not looked at. */
struct left_out {
	bool full;    /* more than the bound */
	bool unnamed; /* databases that only clients name */
};

/* One that the configuration leads to. */
static void
want(struct rls *r, const struct conf_postgres *up, const char *dbname,
     struct left_out *left)
{
	uint64_t of = identity(up);
	struct entry *e = find(r, up->name, dbname);

	if (e != NULL && e->wanted)
		return;
	if (e == NULL && r->n >= RLS_DATABASES) {
		left->full = true;
		return;
	}
	if (e == NULL)
		e = entry_new(r, up->name, dbname);
	if (e->of != of) {
		e->verdict = RLS_UNKNOWN;
		e->findings = 0;
	}
	e->of = of;
	e->require = up->rls_check == RLS_CHECK_REQUIRE;
	e->wanted = true;
	e->todo = true;
	e->asked = e->failed = false;
	e->again_ns = 0;
	e->every_ns = up->health_check == HEALTH_ACTIVE
			  ? up->health_interval_ms * 1000000u
			  : 0;
}

/* Where this section of databases leads to, on that upstream; `dbname` is an
 * organization's own, or NULL. */
static void
want_route(struct rls *r, const struct conf_postgres *up, const char *dbname,
	   const struct conf_database *d, struct left_out *left)
{
	if (up == NULL || up->rls_check == RLS_CHECK_OFF)
		return;
	if (dbname == NULL)
		dbname = d->dbname ? d->dbname : up->dbname;
	if (dbname == NULL && strcmp(d->name, "*") != 0)
		dbname = d->name;
	if (dbname != NULL)
		want(r, up, dbname, left);
	else
		left->unnamed = true;
}

/* The directory may lead to any; hardly to those that weir asks for its own
 * sake, as somebody who may see everything. */
static bool
is_led_to(const struct conf *c, const struct conf_postgres *up)
{
	return up->user != NULL && up != c->directory.postgres &&
	       up != c->auth.postgres;
}

static void
want_all(struct rls *r, const struct conf *c, struct left_out *left)
{
	for (size_t i = 0; i < c->database_n; i++) {
		const struct conf_database *d = &c->database[i];

		want_route(r, d->postgres, NULL, d, left);
		for (size_t k = 0; k < c->tenant_n; k++) {
			const struct tenant *t = &c->tenant[k];

			if (t->postgres != NULL || t->dbname != NULL)
				want_route(
				    r, t->postgres ? t->postgres : d->postgres,
				    t->dbname, d, left);
		}
		for (size_t k = 0; c->directory.postgres && k < c->postgres_n;
		     k++)
			if (is_led_to(c, &c->postgres[k]))
				want_route(r, &c->postgres[k], NULL, d, left);
	}
}

static void
entry_free(struct entry *e)
{
	wake_all(e);
	free(e->upstream);
	free(e->dbname);
	free(e);
}

static void
drop_unwanted(struct rls *r)
{
	struct entry **at = &r->entries, *e;

	while ((e = *at) != NULL) {
		if (e->wanted) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		r->n--;
		entry_free(e);
	}
}

/* What was there first stays; so a bound that is reached is no lottery. */
static void
gather(struct rls *r)
{
	const struct conf *c = control_snapshot(r->control)->conf;
	struct left_out left = { 0 };

	pthread_mutex_lock(&r->lock);
	for (struct entry *e = r->entries; e != NULL; e = e->next)
		e->wanted = false;
	want_all(r, c, &left);
	drop_unwanted(r);
	r->gathered = true;
	pthread_mutex_unlock(&r->lock);
	if (left.full)
		LOG(r->log, LOG_WARN, LOG_EV_RLS,
		    log_str("unchecked", "there are too many databases"),
		    log_num("most", RLS_DATABASES));
	if (left.unnamed)
		LOG(r->log, LOG_INFO, LOG_EV_RLS,
		    log_str("unchecked", "databases that no section names"));
	r->round++;
	poke(r);
}

struct reload {
	struct message message;
	struct rls *rls;
};

static void
reloaded(struct message *m, void *owner)
{
	struct reload *reload = (struct reload *)(void *)m;

	(void)owner;
	gather(reload->rls);
	free(reload);
}

void
rls_reload(struct rls *r)
{
	struct reload *reload = mem_zero(1, sizeof(*reload), "a message");

	reload->message.run = reloaded;
	reload->rls = r;
	control_post(r->control, &reload->message);
}

/* ---- life ------------------------------------------------------------- */

struct rls *
rls_open(struct control *control, struct log *log)
{
	struct rls *r = mem_zero(1, sizeof(*r), "verdicts");

	r->control = control;
	r->log = log;
	r->alarm.ring = rings;
	pthread_mutex_init(&r->lock, NULL);
	rls_reload(r);
	return r;
}

void
rls_close(struct rls **at)
{
	struct rls *r = *at;
	struct entry *e;

	*at = NULL;
	while ((e = r->entries) != NULL) {
		r->entries = e->next;
		assert(e->waiters == NULL);
		entry_free(e);
	}
	pthread_mutex_destroy(&r->lock);
	free(r);
}

bool
rls_settled(struct rls *r)
{
	bool settled;

	pthread_mutex_lock(&r->lock);
	settled = r->gathered;
	for (struct entry *e = r->entries; e != NULL; e = e->next)
		settled = settled && !(e->require && (e->todo || e->asked));
	pthread_mutex_unlock(&r->lock);
	return settled;
}

unsigned
rls_leaking(struct rls *r)
{
	unsigned sum = 0;

	pthread_mutex_lock(&r->lock);
	for (struct entry *e = r->entries; e != NULL; e = e->next) {
		if (!e->require || e->verdict != RLS_LEAKS)
			continue;
		sum += e->findings;
		LOG(r->log, LOG_ERROR, LOG_EV_RLS,
		    log_str("postgres", e->upstream),
		    log_str("database", e->dbname),
		    log_num("findings", e->findings),
		    log_str("error", why_table[WHY_RLS_LEAKS].text));
	}
	pthread_mutex_unlock(&r->lock);
	return sum;
}

/* ---- sessions --------------------------------------------------------- */

static void
wait_begin(struct session *s, struct rls *r, const struct conf_postgres *up,
	   const char *dbname, struct rls_wait **at)
{
	struct rls_wait *w = mem_zero(1, sizeof(*w), "a question");

	w->rls = r;
	w->session = s;
	w->home = &s->worker->mailbox;
	w->upstream = mem_copy(up->name);
	w->dbname = mem_copy(dbname);
	w->of = identity(up);
	w->message.run = wait_arrives;
	*at = w;
	control_post(r->control, &w->message);
}

int
rls_admits(struct session *s, const struct conf_postgres *up,
	   const char *dbname, struct rls_wait **wait, enum why *why)
{
	struct rls *r = s->worker->weir->rls;
	enum rls_verdict verdict;
	bool other;

	if (up->rls_check != RLS_CHECK_REQUIRE)
		return 0;
	verdict = verdict_of(r, up, dbname, &other);
	if (verdict == RLS_HOLDS)
		return 0;
	if (verdict == RLS_UNKNOWN && *wait == NULL)
		wait_begin(s, r, up, dbname, wait);
	if (verdict == RLS_UNKNOWN && !(*wait)->is_home)
		return 1;
	*why = verdict == RLS_LEAKS ? WHY_RLS_LEAKS
	       : other              ? WHY_RLS_OUTDATED
				    : WHY_RLS_UNKNOWN;
	return -1;
}

void
rls_part(struct rls_wait **at)
{
	struct rls_wait *w = *at;

	*at = NULL;
	if (w != NULL && w->is_home)
		wait_free(w);
	else if (w != NULL)
		w->session = NULL; /* freed when it comes home */
}

/* ---- numbers ---------------------------------------------------------- */

static bool
is_first(const struct rls *r, const struct entry *e)
{
	const struct entry *k = r->entries;

	while (strcmp(k->upstream, e->upstream) != 0)
		k = k->next;
	return k == e;
}

/* A sample for each upstream: all findings, or the databases without a verdict. */
static int
print_each(const struct rls *r, struct buf *b, const char *metric,
	   bool findings)
{
	char text[256];

	for (const struct entry *e = r->entries; e != NULL; e = e->next) {
		unsigned sum = 0;
		int n;

		if (!is_first(r, e))
			continue;
		for (const struct entry *k = e; k != NULL; k = k->next)
			if (strcmp(k->upstream, e->upstream) == 0)
				sum += findings ? k->findings
						: k->verdict == RLS_UNKNOWN;
		n = snprintf(text, sizeof(text), "%s{postgres=\"%s\"} %u\n",
			     metric, e->upstream, sum);
		assert(n > 0 && (size_t)n < sizeof(text));
		if (buf_put(b, text, (size_t)n) != 0)
			return -1;
	}
	return 0;
}

int
rls_print(struct rls *r, struct buf *b)
{
	static const char head[] =
	    "# HELP weir_rls_findings where row level security does not hold, "
	    "as found by the last rls_check\n"
	    "# TYPE weir_rls_findings gauge\n";
	static const char unchecked[] =
	    "# HELP weir_rls_unchecked databases that rls_check could not look "
	    "at yet\n"
	    "# TYPE weir_rls_unchecked gauge\n";
	int failed;

	pthread_mutex_lock(&r->lock);
	failed = r->entries == NULL ||
			 (buf_put(b, head, sizeof(head) - 1) == 0 &&
			  print_each(r, b, "weir_rls_findings", true) == 0 &&
			  buf_put(b, unchecked, sizeof(unchecked) - 1) == 0 &&
			  print_each(r, b, "weir_rls_unchecked", false) == 0)
		     ? 0
		     : -1;
	pthread_mutex_unlock(&r->lock);
	return failed;
}

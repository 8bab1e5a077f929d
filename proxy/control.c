#include "proxy/control.h"

#include <assert.h>
#include <event2/event.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "conf/mem.h"
#include "protocol/why.h"
#include "proxy/pq.h"
#include "tls/wheel.h"

enum { PLACES = 16 };

#define DNS_TTL_NS     (15ull * 1000000000)
#define IDLE_NS        (60ull * 1000000000) /* a connection nobody asks */
#define DIAL_NS        (15ull * 1000000000) /* server_connect_timeout = 0 */
#define DIAL_LEAST_NS  (1ull * 1000000000)
#define RETRY_FIRST_NS (250ull * 1000000) /* doubles up to server_login_retry */

struct conn {
	struct pq pq; /* first */
	struct target *target;
	struct conn *next;
	uint64_t deadline_ns; /* DIAL: gives up; IDLE: closes */
	bool up;              /* has been IDLE: its end is no failure */
	bool stale; /* no more questions: of before a reload, or done */
	struct control_listener *listener; /* all it is for; NULL: questions */
	bool asked, listening;             /* to listen; and it does */
};

/* An address of a host, as text: libpq is to look nothing up. */
struct place {
	unsigned host;    /* which of the upstream's */
	char address[64]; /* "": a unix socket */
};

struct lookup;

/* An upstream and a database; there are as many as configurations named. */
struct target {
	struct target *next;
	struct control *control;
	char *name, *dbname;            /* dbname may be NULL: the upstream's */
	const struct conf_postgres *up; /* of the snapshot; NULL: gone */
	struct place place[PLACES];
	unsigned places, at;   /* known; the one to dial next */
	unsigned tried;        /* those that failed in a row */
	uint64_t looked_ns;    /* when they were looked up; 0: never */
	struct lookup *lookup; /* under way */
	struct conn *conns;
	unsigned n;
	struct control_ask *head, **tail; /* questions that wait */
	struct control_listener *listeners;
	unsigned queued;
	unsigned failures; /* rounds of dialing, in a row */
	uint64_t retry_ns; /* not before, while they fail */
	char error[CONTROL_ERROR_MAX];
};

struct control {
	struct event_base *base;
	struct mailbox mailbox;
	struct event *mail, *tick;
	pthread_t thread;
	struct snapshot *snapshot; /* the current one; counted */
	struct log *log;
	struct offload *dns;
	struct target *targets;
	struct conn *dead; /* freed at the end of the turn */
	struct control_alarm *alarms;
	uint64_t now_ns;
	bool stop, closing;
};

/* ---- questions -------------------------------------------------------- */

struct control_ask *
control_ask_new(const char *upstream, const char *dbname, const char *sql,
		unsigned params, const char *const *param)
{
	struct control_ask *ask = calloc(1, sizeof(*ask));

	assert(params <= CONTROL_PARAMS);
	if (ask == NULL)
		abort();
	ask->upstream = mem_copy(upstream);
	ask->dbname = mem_copy(dbname);
	ask->sql = mem_copy(sql);
	ask->params = params;
	for (unsigned i = 0; i < params; i++)
		ask->param[i] = mem_copy(param[i]);
	ask->rows_max = 1;
	ask->timeout_ms = 15000;
	return ask;
}

static void
wipe(char *s)
{
	if (s != NULL)
		OPENSSL_cleanse(s, strlen(s));
	free(s);
}

void
control_ask_free(struct control_ask **at)
{
	struct control_ask *ask = *at;

	*at = NULL;
	if (ask == NULL)
		return;
	for (unsigned i = 0; i < ask->rows * ask->columns; i++)
		wipe(ask->value[i]);
	for (unsigned i = 0; i < ask->params; i++)
		wipe(ask->param[i]);
	for (unsigned i = 0; ask->column != NULL && i < ask->columns; i++)
		free(ask->column[i]);
	free(ask->column);
	free(ask->value);
	free(ask->upstream);
	free(ask->dbname);
	free(ask->sql);
	free(ask);
}

static void
ask_is_home(struct message *m, void *owner)
{
	struct control_ask *ask = (struct control_ask *)(void *)m;

	ask->done(ask, owner);
}

static_assert(offsetof(struct control_ask, message) == 0, "it is its message");

static void
ask_go_home(struct control_ask *ask)
{
	ask->message.run = ask_is_home;
	mailbox_post(ask->home, &ask->message);
}

static void
ask_fail(struct control_ask *ask, enum control_result result, const char *text)
{
	ask->result = result;
	snprintf(ask->error, sizeof(ask->error), "%s", text);
	ask_go_home(ask);
}

static struct control_ask *
target_take(struct target *t)
{
	struct control_ask *ask = t->head;

	if ((t->head = ask->next) == NULL)
		t->tail = &t->head;
	t->queued--;
	return ask;
}

static void
target_fail_all(struct target *t, enum control_result result, const char *text)
{
	while (t->head != NULL)
		ask_fail(target_take(t), result, text);
}

/* ---- connections ------------------------------------------------------ */

static void
conn_close(struct conn *c)
{
	struct target *t = c->target;
	struct conn **at = &t->conns;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (c->listener == NULL)
		t->n--;
	else
		c->listener->up = false;
	pq_close(&c->pq);
	c->next = t->control->dead;
	t->control->dead = c;
}

/* All places have failed: who waits hears it, and for a while who comes. */
static void
target_failed(struct target *t, const char *text)
{
	const struct conf *conf = t->control->snapshot->conf;
	uint64_t most = conf->server_login_retry_ms * 1000000u;
	uint64_t wait = RETRY_FIRST_NS << (t->failures < 16 ? t->failures : 16);

	snprintf(t->error, sizeof(t->error), "%s", text);
	t->retry_ns = t->control->now_ns + (wait < most ? wait : most);
	t->tried = 0;
	if (t->failures++ == 0)
		LOG(t->control->log, LOG_ERROR, LOG_EV_UPSTREAM_DOWN,
		    log_str("control", t->name), log_str("error", text));
	if (t->n == 0)
		target_fail_all(t, CONTROL_DOWN, t->error);
}

static void
conn_failed(struct conn *c, const char *text)
{
	struct target *t = c->target;
	char error[CONTROL_ERROR_MAX];

	snprintf(error, sizeof(error), "%s", text);
	conn_close(c);
	t->at = t->places ? (t->at + 1) % t->places : 0;
	if (++t->tried >= t->places)
		target_failed(t, error);
}

static void
listen_asked(struct control_ask *ask, void *owner)
{
	struct control *k = owner;

	if (ask->result == CONTROL_REFUSED)
		LOG(k->log, LOG_ERROR, LOG_EV_CHANNEL,
		    log_str("control", ask->upstream),
		    log_str("sqlstate", ask->sqlstate),
		    log_str("error", ask->error));
	control_ask_free(&ask);
}

static void
conn_works(struct conn *c)
{
	struct target *t = c->target;

	c->up = true;
	c->deadline_ns = t->control->now_ns + IDLE_NS;
	t->tried = 0;
	if (t->failures == 0)
		return;
	t->failures = 0;
	LOG(t->control->log, LOG_INFO, LOG_EV_UPSTREAM_UP,
	    log_str("control", t->name));
}

/* ---- who listens ------------------------------------------------------ */

static void
heard(struct pq *q, const char *payload)
{
	struct control_listener *l = ((struct conn *)(void *)q)->listener;

	if (l != NULL)
		l->heard(l, payload);
}

/* Asks to listen; asking again is how it is found out that nobody is there. */
static void
conn_listen(struct conn *c)
{
	struct target *t = c->target;
	struct control_ask *ask =
	    control_ask_new(t->name, t->dbname, c->listener->sql, 0, NULL);

	ask->home = &t->control->mailbox;
	ask->done = listen_asked;
	ask->deadline_ns = t->control->now_ns + ask->timeout_ms * 1000000u;
	if (pq_ask(&c->pq, ask) == 0)
		return;
	control_ask_free(&ask); /* nothing was sent */
	conn_close(c);
}

/* It rests: just dialed, or it has been asked to listen. */
static void
conn_listens(struct conn *c)
{
	if (!c->asked)
		conn_listen(c);
	else if (!c->listening)
		c->listener->heard(c->listener, NULL);
	c->listening = c->asked;
	c->asked = true;
}

/* It has become IDLE or is GONE; who waits is looked after later this turn. */
static void
conn_changed(struct pq *q)
{
	struct conn *c = (struct conn *)(void *)q;

	if (q->ask != NULL) {
		c->stale |= q->ask->last;
		ask_go_home(q->ask);
	}
	q->ask = NULL;
	if (q->state == PQ_IDLE && !c->stale) {
		conn_works(c);
		if (c->listener != NULL)
			conn_listens(c);
	} else if (q->state == PQ_GONE && !c->up) {
		conn_failed(c, q->error);
	} else {
		conn_close(c);
	}
}

static_assert(offsetof(struct conn, pq) == 0, "a connection is its pq");

static void
target_dial(struct target *t, struct control_listener *listener)
{
	uint64_t most =
	    t->control->snapshot->conf->server_connect_timeout_ms * 1000000u;
	const char *dbname = t->dbname ? t->dbname : t->up->dbname;
	const struct conf_host *host = &t->up->hosts[t->place[t->at].host];
	const char *address = t->place[t->at].address;
	struct pq_place place = { .host = host->name,
				  .address = *address ? address : NULL,
				  .port = host->port };
	struct conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		abort();
	most = (most ? most : DIAL_NS) / t->places;
	c->target = t;
	c->deadline_ns =
	    t->control->now_ns + (most > DIAL_LEAST_NS ? most : DIAL_LEAST_NS);
	c->next = t->conns;
	t->conns = c;
	c->listener = listener;
	if (listener == NULL)
		t->n++;
	else
		listener->up = true;
	if (pq_open(&c->pq, t->control->base, t->up, &place, dbname,
		    conn_changed) != 0)
		conn_failed(c, c->pq.error);
	else if (listener != NULL)
		c->pq.notified = heard;
}

/* One that can be asked now.  Those found dead were asked nothing. */
static struct conn *
target_idle(struct target *t)
{
	struct conn *c, *next;

	for (c = t->conns; c != NULL; c = next) {
		next = c->next;
		if (c->pq.state != PQ_IDLE || c->listener != NULL)
			continue;
		if (pq_is_alive(&c->pq))
			return c;
		conn_close(c);
	}
	return NULL;
}

/* ---- addresses -------------------------------------------------------- */

/* On another thread; it touches only this. */
struct lookup {
	struct job job;
	struct target *target;
	char *host[CONF_HOSTS_MAX];
	unsigned hosts;
	struct place place[PLACES];
	unsigned places;
	int error; /* the last, and of which host */
	unsigned of;
	bool stale; /* asked for before a reload */
};

static void
lookup_host(struct lookup *l, unsigned host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	int error = 0;

	if (l->host[host][0] == '/') {
		if (l->places < PLACES)
			l->place[l->places++] = (struct place){ .host = host };
		return;
	}
	if ((error = getaddrinfo(l->host[host], NULL, &hints, &list)) != 0) {
		l->error = error;
		l->of = host;
		return;
	}
	for (struct addrinfo *ai = list; ai && l->places < PLACES;
	     ai = ai->ai_next) {
		struct place *p = &l->place[l->places];

		p->host = host;
		if (getnameinfo(ai->ai_addr, ai->ai_addrlen, p->address,
				sizeof(p->address), NULL, 0,
				NI_NUMERICHOST) == 0)
			l->places++;
	}
	freeaddrinfo(list);
}

static void
lookup_work(struct job *job)
{
	struct lookup *l = (struct lookup *)(void *)job;

	for (unsigned i = 0; i < l->hosts; i++)
		lookup_host(l, i);
}

static void
lookup_done(struct job *job, void *owner)
{
	struct lookup *l = (struct lookup *)(void *)job;
	struct target *t = l->target;
	char text[CONTROL_ERROR_MAX];

	(void)owner;
	t->lookup = NULL;
	if (l->places > 0 && !l->stale) {
		memcpy(t->place, l->place, sizeof(t->place));
		if (t->places != l->places)
			t->at = 0; /* else on with the one that worked */
		t->places = l->places;
		t->looked_ns = t->control->now_ns;
	} else if (!l->stale) {
		snprintf(text, sizeof(text), "cannot resolve %s: %s",
			 l->host[l->of],
			 l->error ? gai_strerror(l->error) : "no address");
		target_failed(t, text);
	}
	for (unsigned i = 0; i < l->hosts; i++)
		free(l->host[i]);
	free(l);
}

/* True: it is known where to dial.  False: that is being looked up. */
static bool
target_places(struct target *t)
{
	struct lookup *l;

	if (t->lookup != NULL)
		return false;
	if (t->looked_ns != 0 && t->control->now_ns < t->looked_ns + DNS_TTL_NS)
		return true;
	if ((l = calloc(1, sizeof(*l))) == NULL)
		abort();
	l->target = t;
	l->hosts = (unsigned)t->up->hosts_n;
	for (unsigned i = 0; i < l->hosts; i++)
		l->host[i] = mem_copy(t->up->hosts[i].name);
	t->lookup = l;
	offload_run(t->control->dns, &l->job, &t->control->mailbox, lookup_work,
		    lookup_done);
	return false;
}

/* ---- matching --------------------------------------------------------- */

static bool
target_is_dialing(const struct target *t)
{
	for (const struct conn *c = t->conns; c != NULL; c = c->next)
		if (c->pq.state == PQ_DIAL)
			return true;
	return false;
}

static bool
target_may_dial(const struct target *t)
{
	return t->failures == 0 || t->control->now_ns >= t->retry_ns;
}

/* One at a time: a second is dialed once it is known that the first works. */
static bool
target_wants(const struct target *t)
{
	return t->head != NULL && t->n < CONTROL_CONNS &&
	       !target_is_dialing(t) && target_may_dial(t);
}

static bool
target_may_listen(const struct target *t, const struct control_listener *l)
{
	return !l->up && t->up != NULL && t->up->user != NULL &&
	       !target_is_dialing(t) && target_may_dial(t);
}

static bool
target_is_hopeless(const struct target *t)
{
	return t->n == 0 && t->lookup == NULL && t->failures > 0 &&
	       t->control->now_ns < t->retry_ns;
}

static void
target_poke(struct target *t)
{
	struct conn *c;

	while (t->head != NULL && (c = target_idle(t)) != NULL) {
		if (pq_ask(&c->pq, t->head) == 0)
			target_take(t);
		else
			conn_close(c); /* nothing was sent: the next one */
	}
	if (t->up == NULL || t->up->user == NULL)
		target_fail_all(t, CONTROL_DOWN,
				t->up ? "the upstream has no user of weir's"
				      : "there is no such upstream");
	else if (target_is_hopeless(t))
		target_fail_all(t, CONTROL_DOWN, t->error);
	for (int i = 0; i < PLACES && target_wants(t) && target_places(t); i++)
		target_dial(t, NULL);
	for (struct control_listener *l = t->listeners; l != NULL; l = l->next)
		if (target_may_listen(t, l) && target_places(t))
			target_dial(t, l);
}

/* ---- deadlines -------------------------------------------------------- */

static void
target_expire_asks(struct target *t)
{
	struct control_ask **at = &t->head, *ask;

	while ((ask = *at) != NULL) {
		if (t->control->now_ns < ask->deadline_ns) {
			at = &ask->next;
			continue;
		}
		*at = ask->next;
		t->queued--;
		ask_fail(ask, CONTROL_LATE,
			 t->failures ? t->error : "no connection in time");
	}
	t->tail = at;
}

static void
conn_expire(struct conn *c)
{
	struct control_ask *ask = c->pq.ask;
	uint64_t now = c->target->control->now_ns;

	if (now < (ask ? ask->deadline_ns : c->deadline_ns))
		return;
	if (c->pq.state == PQ_DIAL) {
		conn_failed(c, why_table[WHY_CONNECT_TIMEOUT].text);
		return;
	}
	c->pq.ask = NULL;
	if (ask != NULL)
		ask_fail(ask, CONTROL_LATE, "no answer in time");
	else if (c->listener != NULL && c->pq.state == PQ_IDLE) {
		conn_listen(c);
		return;
	}
	conn_close(c);
}

static void
target_expire(struct target *t)
{
	struct conn *next;

	for (struct conn *c = t->conns; c != NULL; c = next) {
		next = c->next;
		conn_expire(c);
	}
	target_expire_asks(t);
}

/* ---- what the mailbox brings ------------------------------------------ */

static bool
same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static struct target *
target_find(struct control *k, const char *name, const char *dbname)
{
	struct target *t = k->targets;

	while (t != NULL && (!same(t->name, name) || !same(t->dbname, dbname)))
		t = t->next;
	if (t != NULL)
		return t;
	if ((t = calloc(1, sizeof(*t))) == NULL)
		abort();
	t->control = k;
	t->name = mem_copy(name);
	t->dbname = mem_copy(dbname);
	t->up = conf_postgres_find(k->snapshot->conf, name);
	t->tail = &t->head;
	t->next = k->targets;
	k->targets = t;
	return t;
}

static void
ask_arrives(struct message *m, void *owner)
{
	struct control_ask *ask = (struct control_ask *)(void *)m;
	struct control *k = owner;
	struct target *t;

	if (k->closing) {
		ask_fail(ask, CONTROL_CLOSED, "weir is ending");
		return;
	}
	t = target_find(k, ask->upstream, ask->dbname);
	if (t->queued == CONTROL_QUEUE) {
		ask_fail(ask, CONTROL_FULL, "too many questions wait");
		return;
	}
	ask->deadline_ns = k->now_ns + ask->timeout_ms * 1000000u;
	ask->next = NULL;
	*t->tail = ask;
	t->tail = &ask->next;
	t->queued++;
}

void
control_ask(struct control *k, struct control_ask *ask, struct mailbox *home,
	    void (*done)(struct control_ask *, void *owner))
{
	ask->message.run = ask_arrives;
	ask->home = home;
	ask->done = done;
	control_post(k, &ask->message);
}

void
control_listen(struct control *k, struct control_listener *l)
{
	struct target *t = target_find(k, l->upstream, l->dbname);
	size_t n = strlen(l->channel);
	char *p;

	assert(l->target == NULL);
	if ((l->sql = p = malloc(2 * n + sizeof("LISTEN \"\""))) == NULL)
		abort();
	p = stpcpy(p, "LISTEN \"");
	for (const char *c = l->channel; *c != '\0'; c++) {
		if (*c == '"')
			*p++ = '"';
		*p++ = *c;
	}
	strcpy(p, "\"");
	l->target = t;
	l->up = false;
	l->next = t->listeners;
	t->listeners = l;
}

void
control_unlisten(struct control_listener *l)
{
	struct control_listener **at;
	struct conn *c, *next;

	if (l->target == NULL)
		return;
	for (at = &l->target->listeners; *at != l;)
		at = &(*at)->next;
	*at = l->next;
	for (c = l->target->conns; c != NULL; c = next) {
		struct control_ask *ask = c->pq.ask;

		next = c->next;
		if (c->listener != l)
			continue;
		c->pq.ask = NULL;
		control_ask_free(&ask);
		conn_close(c);
	}
	free(l->sql);
	l->sql = NULL;
	l->target = NULL;
}

void
control_alarm(struct control *k, struct control_alarm *a, uint64_t at_ns)
{
	if (!a->known) {
		a->next = k->alarms;
		k->alarms = a;
	}
	a->known = true;
	a->at_ns = at_ns;
}

static void
control_ring(struct control *k)
{
	for (struct control_alarm *a = k->alarms; a != NULL; a = a->next) {
		if (a->at_ns == 0 || k->now_ns < a->at_ns)
			continue;
		a->at_ns = 0;
		a->ring(a);
	}
}

void
control_post(struct control *k, struct message *m)
{
	mailbox_post(&k->mailbox, m);
}

struct order {
	struct message message;
	struct snapshot *snapshot; /* NULL: end */
};

/* What is dialed or rests goes; who is answering now ends with its answer. */
static void
target_reload(struct target *t)
{
	struct conn *next;

	t->up = conf_postgres_find(t->control->snapshot->conf, t->name);
	t->looked_ns = 0;
	t->places = t->tried = t->failures = 0;
	if (t->lookup != NULL)
		t->lookup->stale = true;
	for (struct conn *c = t->conns; c != NULL; c = next) {
		next = c->next;
		if (c->pq.state == PQ_BUSY)
			c->stale = true; /* a listener's is up until then */
		else
			conn_close(c);
	}
}

static void
obey(struct message *m, void *owner)
{
	struct order *o = (struct order *)(void *)m;
	struct control *k = owner;

	if (o->snapshot == NULL) {
		k->stop = true;
	} else {
		struct snapshot *old = k->snapshot;

		k->snapshot = o->snapshot;
		for (struct target *t = k->targets; t != NULL; t = t->next)
			target_reload(t);
		snapshot_unref(&old);
	}
	free(o);
}

static void
control_order(struct control *k, struct snapshot *snapshot)
{
	struct order *o = calloc(1, sizeof(*o));

	if (o == NULL)
		abort();
	o->message.run = obey;
	o->snapshot = snapshot;
	control_post(k, &o->message);
}

void
control_reload(struct control *k, struct snapshot *snapshot)
{
	control_order(k, snapshot_ref(snapshot));
}

/* ---- the thread ------------------------------------------------------- */

static void
on_time(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg; /* the turn does the rest */
}

static void
control_clock(struct control *k)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	k->now_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void
control_reap(struct control *k)
{
	struct conn *c;

	while ((c = k->dead) != NULL) {
		k->dead = c->next;
		free(c);
	}
}

static void
control_turn(struct control *k)
{
	event_base_loop(k->base, EVLOOP_ONCE);
	control_clock(k);
	mailbox_drain(&k->mailbox);
	control_ring(k);
	for (struct target *t = k->targets; t != NULL; t = t->next) {
		target_expire(t);
		target_poke(t);
	}
	control_reap(k);
}

static void *
control_main(void *arg)
{
	struct control *k = arg;

	while (!k->stop)
		control_turn(k);
	return NULL;
}

struct control *
control_open(struct snapshot *snapshot, struct log *log, struct offload *dns)
{
	struct event_config *config = event_config_new();
	struct control *k = calloc(1, sizeof(*k));
	struct timeval tick = { .tv_usec = WHEEL_TICK_NS / 1000 };

	if (k == NULL || config == NULL)
		abort();
	/* One thread, one base: no locks in it. */
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	k->base = event_base_new_with_config(config);
	event_config_free(config);
	if (k->base == NULL || mailbox_init(&k->mailbox, k) != 0)
		return NULL; /* the process ends: nothing to undo */
	k->mail =
	    event_new(k->base, k->mailbox.fd, EV_READ | EV_PERSIST, on_time, k);
	k->tick = event_new(k->base, -1, EV_PERSIST, on_time, k);
	if (k->mail == NULL || k->tick == NULL ||
	    event_add(k->mail, NULL) != 0 || event_add(k->tick, &tick) != 0)
		return NULL;
	k->snapshot = snapshot_ref(snapshot);
	k->log = log;
	k->dns = dns;
	control_clock(k);
	return k;
}

/* Signals are the main thread's: ours starts with all of them blocked. */
int
control_start(struct control *k)
{
	sigset_t all, before;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&k->thread, NULL, control_main, k);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed ? -1 : 0;
}

void
control_stop(struct control *k)
{
	control_order(k, NULL);
	pthread_join(k->thread, NULL);
}

static void
target_free(struct target *t)
{
	assert(t->conns == NULL && t->head == NULL && t->lookup == NULL);
	while (t->listeners != NULL)
		control_unlisten(t->listeners);
	free(t->name);
	free(t->dbname);
	free(t);
}

void
control_close(struct control **at)
{
	struct control *k = *at;
	struct target *t;

	*at = NULL;
	k->closing = true;
	for (t = k->targets; t != NULL; t = t->next) {
		while (t->conns != NULL) {
			struct control_ask *ask = t->conns->pq.ask;

			t->conns->pq.ask = NULL;
			if (ask != NULL)
				ask_fail(ask, CONTROL_CLOSED, "weir is ending");
			conn_close(t->conns);
		}
		target_fail_all(t, CONTROL_CLOSED, "weir is ending");
	}
	/* An answer may come home to here, and lead to a last question. */
	while (k->mailbox.head != NULL)
		mailbox_drain(&k->mailbox);
	control_reap(k);
	while ((t = k->targets) != NULL) {
		k->targets = t->next;
		target_free(t);
	}
	event_free(k->mail);
	event_free(k->tick);
	mailbox_fini(&k->mailbox);
	event_base_free(k->base);
	snapshot_unref(&k->snapshot);
	free(k);
}

struct mailbox *
control_mailbox(struct control *k)
{
	return &k->mailbox;
}

struct snapshot *
control_snapshot(struct control *k)
{
	return k->snapshot;
}

uint64_t
control_now_ns(const struct control *k)
{
	return k->now_ns;
}

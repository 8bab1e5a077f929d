#include "proxy/session.h"

#include <assert.h>
#include <stdlib.h>

#include "proxy/seat.h"
#include "proxy/worker.h"

enum deadline {
	DEADLINE_none,
	DEADLINE_login,
	DEADLINE_refuse,
	DEADLINE_idle,
	DEADLINE_queue,
	DEADLINE_query,
	DEADLINE_linger
};

#define LINGER_NS (2ull * 1000000000) /* for a peer to read our last words */

static const struct {
	const char *name;
	enum deadline deadline;
	unsigned to;
} states[SESSION_MAX] = {
#define TO(name) (1u << SESSION_##name)
#define X(name, deadline, to) \
	[SESSION_##name] = { #name, DEADLINE_##deadline, (to) },
	SESSION_STATES(X)
#undef X
#undef TO
};

const char *
session_state_name(enum session_state state)
{
	assert(state < SESSION_MAX);
	return states[state].name;
}

/* Every state may end; nothing leaves DEAD, and DRAIN only to it. */
bool
session_may_go(enum session_state from, enum session_state to)
{
	assert(from < SESSION_MAX && to < SESSION_MAX);
	if (from == SESSION_DEAD || to == from)
		return false;
	if (to == SESSION_DEAD)
		return true;
	if (to == SESSION_DRAIN)
		return from != SESSION_DRAIN;
	return states[from].to & 1u << to;
}

/* ---- state ------------------------------------------------------------ */

static uint64_t
in_ms(const struct session *s, uint64_t ms)
{
	return ms ? s->worker->streams.now_ns + ms * 1000000u : 0;
}

/* Log-in has one deadline for all its states, counted from the accept. */
static uint64_t
login_deadline(const struct session *s, const struct conf *c)
{
	return c->client_login_timeout_ms
		   ? s->opened_ns + c->client_login_timeout_ms * 1000000u
		   : 0;
}

static uint64_t
since_wait(const struct session *s, uint64_t ms)
{
	return ms ? s->lessee.since_ns + ms * 1000000u : 0;
}

/* First the word that it waits, then the end of its patience. */
static uint64_t
queue_deadline(const struct session *s, const struct conf *c)
{
	uint64_t end = since_wait(s, c->query_wait_timeout_ms);
	uint64_t word = since_wait(s, c->query_wait_notify_ms);

	if (s->proto->queued == NULL || s->told || word == 0)
		return end;
	return end != 0 && end < word ? end : word;
}

static void
session_arm(struct session *s)
{
	const struct conf *c = s->snapshot->conf;
	uint64_t when = 0;

	switch (states[s->state].deadline) {
	case DEADLINE_none:
		break;
	case DEADLINE_login:
		when = login_deadline(s, c);
		break;
	case DEADLINE_refuse:
		when = s->refuse_ns;
		break;
	case DEADLINE_idle:
		when = s->proto->deadline != NULL
			   ? s->proto->deadline(s)
			   : in_ms(s, c->client_idle_timeout_ms);
		break;
	case DEADLINE_queue:
		when = queue_deadline(s, c);
		break;
	case DEADLINE_query:
		when = s->proto->deadline(s);
		break;
	case DEADLINE_linger:
		when = s->worker->streams.now_ns + LINGER_NS;
		break;
	}
	stream_deadline(&s->stream, when);
}

void
session_rearm(struct session *s)
{
	assert(s->state == SESSION_LEASED || s->state == SESSION_IDLE ||
	       s->state == SESSION_BATCH);
	session_arm(s);
}

static void
session_bury(struct session *s)
{
	struct worker *w = s->worker;

	stream_close(&s->stream);
	for (struct session_cursor *c = w->cursors; c != NULL; c = c->next)
		if (c->at == s)
			c->at = s->next;
	*s->prev = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	s->prev = NULL;
	s->next = w->dead;
	w->dead = s;
	w->sessions_n--;
	seats_give(s);
	atomic_fetch_sub(&w->weir->clients, 1);
	stats_add(&w->stats, s->proto->stat_open, -1);
}

void
session_enter(struct session *s, enum session_state to)
{
	assert(s->magic == SESSION_MAGIC);
	assert(session_may_go(s->state, to));
	assert((to == SESSION_LEASED) == (s->lessee.server != NULL));
	assert((to == SESSION_WAIT) == (s->lessee.waiting != NULL));
	s->state = to;
	s->told = false;
	if (to == SESSION_DEAD)
		session_bury(s);
	else
		session_arm(s);
}

void
session_run(struct session *s)
{
	enum step next = STEP_AGAIN;

	while (next == STEP_AGAIN && !session_is_over(s)) {
		assert(s->magic == SESSION_MAGIC);
		next = s->proto->step[s->state](s);
	}
}

void
session_wake(struct session *s)
{
	if (s->awake || session_is_over(s))
		return;
	s->awake = true;
	s->wake_next = s->worker->awake;
	s->worker->awake = s;
}

/* ---- events ----------------------------------------------------------- */

/* The last bytes are out: wait for the peer to close, so that what it sent
 * meanwhile does not turn them into a reset. */
static void
session_drained(struct session *s)
{
	s->stream.tell_empty = 0;
	stream_shutdown(&s->stream);
	if (s->stream.eof || s->stream.error != NULL)
		session_enter(s, SESSION_DEAD);
}

static void
session_drain_event(struct session *s, enum stream_event e)
{
	size_t n;

	switch (e) {
	case STREAM_OPEN:
		break;
	case STREAM_DATA:
		stream_peek(&s->stream, &n);
		stream_consume(&s->stream, n);
		break;
	case STREAM_ROOM:
		session_drained(s);
		break;
	case STREAM_EOF:
		/* It may still read what it has not got yet. */
		if (buf_len(&s->stream.out) == 0)
			session_enter(s, SESSION_DEAD);
		break;
	case STREAM_ERROR:
	case STREAM_TIMEOUT:
		session_enter(s, SESSION_DEAD);
		break;
	}
}

static void
session_waited(struct session *s)
{
	uint64_t ms = s->snapshot->conf->query_wait_timeout_ms;

	if (ms > 0 && s->worker->streams.now_ns >= since_wait(s, ms)) {
		pool_unwant(&s->lessee);
		s->lessee.ops->lost(&s->lessee, WHY_POOL_TIMEOUT, NULL, NULL);
		return;
	}
	if (s->proto->queued != NULL && !s->told)
		s->proto->queued(s);
	s->told = true;
	if (!session_is_over(s))
		session_arm(s);
}

static void
session_timeout(struct session *s)
{
	enum why w;

	switch (states[s->state].deadline) {
	case DEADLINE_login:
		session_close(s, WHY_LOGIN_TIMEOUT, NULL, NULL);
		break;
	case DEADLINE_refuse:
		session_close(s, WHY_BAD_AUTH, NULL, NULL);
		break;
	case DEADLINE_idle:
	case DEADLINE_query:
		w = s->proto->overdue != NULL ? s->proto->overdue(s) : WHY_IDLE;
		if (w == WHY_MAX)
			session_arm(s);
		else
			session_close(s, w, NULL, NULL);
		break;
	case DEADLINE_queue:
		session_waited(s);
		break;
	case DEADLINE_linger:
	case DEADLINE_none:
		session_enter(s, SESSION_DEAD);
		break;
	}
}

/* Who was refused and does not wait to hear it was refused all the same. */
static enum why
why_of_eof(const struct session *s)
{
	if (s->state == SESSION_REFUSED)
		return WHY_BAD_AUTH;
	return s->state == SESSION_HELLO ? WHY_PROBE : WHY_EOF;
}

static void
session_event(struct stream *st, enum stream_event e)
{
	struct session *s =
	    (struct session *)(void *)((char *)st -
				       offsetof(struct session, stream));

	assert(s->magic == SESSION_MAGIC);
	if (s->state == SESSION_DEAD)
		return;
	if (s->state == SESSION_DRAIN) {
		session_drain_event(s, e);
		return;
	}
	switch (e) {
	case STREAM_OPEN:
		session_enter(s, SESSION_HELLO);
		session_run(s); /* who needs no words may be in already */
		break;
	case STREAM_DATA:
	case STREAM_ROOM:
		session_run(s);
		break;
	case STREAM_EOF:
		if (s->proto->leave == NULL || !s->proto->leave(s))
			session_close(s, why_of_eof(s), NULL, NULL);
		break;
	case STREAM_ERROR:
		session_close(s, s->state == SESSION_TLS ? WHY_TLS : WHY_IO,
			      NULL, st->error);
		break;
	case STREAM_TIMEOUT:
		session_timeout(s);
		break;
	}
}

/* ---- life ------------------------------------------------------------- */

struct session *
session_open(struct worker *w, int fd, const struct proto *proto, SSL_CTX *tls,
	     bool is_unix)
{
	struct session *s = calloc(1, proto->size);

	if (s == NULL)
		abort();
	s->magic = SESSION_MAGIC;
	s->state = SESSION_TLS;
	s->id = ++w->last_id;
	s->proto = proto;
	s->worker = w;
	s->is_unix = is_unix;
	s->snapshot = snapshot_ref(w->snapshot);
	s->opened_ns = w->streams.now_ns;
	s->next = w->sessions;
	s->prev = &w->sessions;
	if (s->next != NULL)
		s->next->prev = &s->next;
	w->sessions = s;
	w->sessions_n++;
	stats_add(&w->stats, proto->stat_open, 1);
	stats_add(&w->stats, proto->stat_accepted, 1);
	stream_accept(&s->stream, &w->streams, fd, session_event,
		      proto->out_max, STAT_BYTES_FROM_CLIENTS,
		      STAT_BYTES_TO_CLIENTS);
	proto->init(s);
	if (tls == NULL) {
		session_enter(s, SESSION_HELLO);
	} else if (stream_start_tls(&s->stream, tls, true, NULL, false) != 0) {
		session_close(s, WHY_TLS, NULL, s->stream.error);
	} else {
		session_arm(s);
	}
	return s;
}

static const char *
session_user(const struct session *s)
{
	return s->user ? s->user->name : "";
}

static const char *
session_tenant(const struct session *s)
{
	return s->lessee.tenant ? s->lessee.tenant->slug : "";
}

void
session_logged_in(struct session *s)
{
	assert(s->user != NULL);
	if (s->logged_in)
		return;
	s->logged_in = true;
	stats_add(&s->worker->stats, s->proto->stat_logins, 1);
	LOG(s->worker->weir->log, LOG_INFO, LOG_EV_LOGIN,
	    log_id("session", s->worker->id, s->id),
	    log_str("proto", s->proto->name), log_str("user", session_user(s)),
	    log_str("tenant", session_tenant(s)),
	    log_str("tls",
		    s->stream.ssl ? SSL_get_version(s->stream.ssl) : "off"));
}

static void
session_log_close(const struct session *s, enum why w, const char *text)
{
	bool refused = !s->logged_in && w != WHY_PROBE && w != WHY_EOF &&
		       w != WHY_CANCEL && w != WHY_QUIT;
	enum log_level level = LOG_INFO;

	if (why_table[w].ours && w != WHY_SHUTDOWN)
		level = LOG_WARN;
	else if (!s->logged_in && !refused)
		level = LOG_DEBUG; /* health checks, cancels */
	if (refused)
		stats_add(&s->worker->stats, s->proto->stat_refused, 1);
	LOG(s->worker->weir->log, level, refused ? LOG_EV_REFUSE : LOG_EV_CLOSE,
	    log_id("session", s->worker->id, s->id),
	    log_str("proto", s->proto->name), log_str("user", session_user(s)),
	    log_str("tenant", session_tenant(s)),
	    log_str("state", session_state_name(s->state)),
	    log_str("why", why_table[w].name),
	    log_str("error", text ? text : ""),
	    log_num("ms",
		    (s->worker->streams.now_ns - s->opened_ns) / 1000000u));
}

/* Is there anybody left to read our last words? */
static bool
session_can_hear(const struct session *s)
{
	return s->stream.fd >= 0 && !s->stream.opening &&
	       s->stream.error == NULL;
}

void
session_close(struct session *s, enum why w, const char *sqlstate,
	      const char *text)
{
	assert(s->magic == SESSION_MAGIC);
	if (session_is_over(s))
		return;
	session_log_close(s, w, text);
	pool_unwant(&s->lessee);
	if (session_can_hear(s))
		s->proto->refuse(s, w, sqlstate, text);
	s->proto->part(s);
	assert(s->lessee.server == NULL && s->lessee.waiting == NULL);
	if (session_can_hear(s) && buf_len(&s->stream.out) > 0) {
		size_t n;

		/* Nothing more is read; what came already is dropped. */
		stream_peek(&s->stream, &n);
		stream_consume(&s->stream, n);
		s->stream.tell_empty = 1;
		stream_resume(&s->stream);
		stream_out(&s->stream);
		session_enter(s, SESSION_DRAIN);
	} else {
		session_enter(s, SESSION_DEAD);
	}
}

/* ---- the worker's part ------------------------------------------------ */

void
sessions_run_awake(struct worker *w)
{
	struct session *s;

	while ((s = w->awake) != NULL) {
		w->awake = s->wake_next;
		s->wake_next = NULL;
		s->awake = false;
		session_run(s);
	}
}

/* Who was woken, and then closed, by the last write of a turn is to be run
 * first, in the next. */
void
sessions_reap(struct worker *w)
{
	struct session **at = &w->dead, *s;

	while ((s = *at) != NULL) {
		assert(s->state == SESSION_DEAD);
		if (s->awake) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		stream_close(&s->stream); /* what was put to a dead one */
		s->proto->fini(s);
		pool_leave(&s->pool);
		label_unref(&s->lessee.label);
		directory_part(s);
		tenant_unref(&s->tenant);
		snapshot_unref(&s->snapshot);
		s->magic = 0;
		free(s);
	}
}

void
sessions_drain(struct worker *w)
{
	bool impatient = w->streams.now_ns >= w->drain_ns;
	struct session *next;

	for (struct session *s = w->sessions; s != NULL; s = next) {
		next = s->next;
		if (s->state == SESSION_DRAIN)
			continue;
		if (impatient || s->proto->quiet(s))
			session_close(s, WHY_SHUTDOWN, NULL, NULL);
		/* It may have ended its neighbour by its end. */
		if (next != NULL && next->state == SESSION_DEAD)
			next = w->sessions;
	}
}

/* ---- a walk over all of them ------------------------------------------ */

void
session_cursor_open(struct session_cursor *c, struct worker *w)
{
	*c = (struct session_cursor){ .worker = w,
				      .at = w->sessions,
				      .next = w->cursors,
				      .prev = &w->cursors };
	if (c->next != NULL)
		c->next->prev = &c->next;
	w->cursors = c;
}

struct session *
session_cursor_next(struct session_cursor *c)
{
	struct session *s = c->at;

	if (s != NULL)
		c->at = s->next;
	return s;
}

void
session_cursor_close(struct session_cursor *c)
{
	if (c->worker == NULL)
		return;
	*c->prev = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	*c = (struct session_cursor){ 0 };
}

#include "pool/redis_server.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/redis_facts.h"
#include "protocol/redis_where.h"
#include "protocol/resp_number.h"

#define SECOND_NS 1000000000ull

enum { PLAIN, JUDGED }; /* kinds of entries */

static struct redis_server *
redis_server(struct server *v)
{
	return (struct redis_server *)(void *)v;
}

static void redis_input(struct server *);

/* ---- sending ---------------------------------------------------------- */

/* How many may be outstanding, by what replies have been like. */
static unsigned
redis_window(size_t usual)
{
	size_t n = REDIS_OWED_MAX / (usual + 1);

	if (n < REDIS_OWED_MIN)
		return REDIS_OWED_MIN;
	return n < LEDGER_MAX ? (unsigned)n : LEDGER_MAX;
}

unsigned
redis_server_share(const struct server *v)
{
	const struct redis_server *rv = (const void *)v;
	unsigned n = rv->window / 4;

	if (n < REDIS_SHARE_MIN)
		return REDIS_SHARE_MIN;
	return n < REDIS_SHARE_MAX ? n : REDIS_SHARE_MAX;
}

static bool
redis_is_full(const struct redis_server *rv)
{
	const struct server *v = &rv->s;

	return v->leaving || ledger_full(&v->ledger) ||
	       v->ledger.n >= rv->window ||
	       buf_len(&v->stream.out) > REDIS_OUT_FULL;
}

bool
redis_server_full(const struct server *v, const struct lessee *l)
{
	const struct redis_server *rv = (const void *)v;

	return redis_is_full(rv) || (rv->queue.n > 0 && rv->called != l);
}

/* A quarter of the window at a time: not a wake-up for every reply. */
static bool
redis_has_room(const struct redis_server *rv)
{
	return !redis_is_full(rv) && rv->s.ledger.n <= rv->window / 4 * 3;
}

void
redis_server_queue(struct server *v, struct lessee *l)
{
	struct redis_server *rv = redis_server(v);

	/* Replies are what makes room: there is one to come, or they are being
	 * read, and who is in the queue is called behind them. */
	assert((v->ledger.n > 0 || rv->in_input) && l->waiting == NULL);
	if (l->prev == NULL)
		fair_put(&rv->queue, l);
}

void
redis_server_unqueue(struct server *v, struct lessee *l)
{
	if (l->prev != NULL && l->waiting == NULL)
		fair_remove(&redis_server(v)->queue, l);
}

/* The next in the queue sends its share; if it wants more, it queues again
 * behind the others of its organization. */
static void
redis_call(struct redis_server *rv)
{
	struct lessee *l = fair_serve(&rv->queue, rv->s.stream.home->now_ns);

	rv->called = l;
	l->ops->room(l);
	rv->called = NULL;
}

/* Of a lent one both ends say whose it is. */
static void
redis_check(const struct server *v, const struct lessee *l)
{
	assert(v->state == SERVER_SHARED ||
	       (v->state == SERVER_LEASED && v->lessee == l));
	assert(v->state == SERVER_SHARED || v->tenant == l->tenant);
	assert(!ledger_full(&v->ledger) && !v->leaving);
}

static uint64_t
redis_sent(struct redis_server *rv, struct lessee *l)
{
	struct server *v = &rv->s;

	ledger_push(&v->ledger, (struct ledger_entry){
				    .lessee = l, .action = LEDGER_FORWARD });
	v->idle_ns = v->stream.home->now_ns;
	return rv->paid + v->ledger.n - 1;
}

uint64_t
redis_server_send(struct server *v, struct lessee *l, const struct slice *arg,
		  size_t argc)
{
	redis_check(v, l);
	if (resp_put_request(stream_out(&v->stream), arg, argc) != 0)
		abort(); /* a request is smaller than what is left */
	return redis_sent(redis_server(v), l);
}

uint64_t
redis_server_pass(struct server *v, struct lessee *l, struct slice request)
{
	redis_check(v, l);
	if (buf_put(stream_out(&v->stream), request.p, request.n) != 0)
		abort(); /* as above */
	return redis_sent(redis_server(v), l);
}

void
redis_server_slip(struct server *v, const struct slice *arg, size_t argc)
{
	redis_check(v, v->lessee);
	if (resp_put_request(stream_out(&v->stream), arg, argc) != 0)
		abort();
	ledger_push(&v->ledger,
		    (struct ledger_entry){ .action = LEDGER_SWALLOW });
}

static struct ledger_entry *
redis_at(struct server *v, uint64_t place)
{
	const struct redis_server *rv = redis_server(v);

	assert(place >= rv->paid && place - rv->paid < v->ledger.n);
	return ledger_at(&v->ledger, (uint32_t)(place - rv->paid));
}

void
redis_server_mark(struct server *v, uint64_t place)
{
	redis_at(v, place)->arg = 1;
}

void
redis_server_judge(struct server *v, uint64_t place)
{
	redis_at(v, place)->kind = JUDGED;
}

void
redis_server_talks(struct server *v, bool talks)
{
	assert(v->state == SERVER_LEASED);
	redis_server(v)->talks = talks;
}

void
redis_server_soil(struct server *v)
{
	assert(v->state == SERVER_LEASED);
	redis_server(v)->soiled = true;
}

int64_t
redis_server_spend(struct server *v)
{
	struct redis_server *rv = redis_server(v);

	assert(v->state == SERVER_LEASED && v->ledger.n > 0);
	rv->spent |= rv->client_id != 0;
	return rv->client_id;
}

int64_t
redis_server_id(const struct server *v)
{
	assert(v->state == SERVER_LEASED);
	return ((const struct redis_server *)(const void *)v)->client_id;
}

void
redis_server_peer(const struct server *v, struct sockaddr_storage *peer)
{
	socklen_t len = sizeof(*peer);

	memset(peer, 0, sizeof(*peer));
	if (getpeername(v->stream.fd, (struct sockaddr *)peer, &len) != 0)
		memset(peer, 0, sizeof(*peer));
}

/* ---- slow readers ----------------------------------------------------- */

static void
redis_wait_a_second(struct redis_server *rv)
{
	struct streams *home = rv->s.pool->home->streams;

	wheel_set(&home->wheel, &rv->timer, home->now_ns + SECOND_NS);
}

static void
redis_timer(struct wheel_entry *e)
{
	struct redis_server *rv =
	    (struct redis_server *)(void *)((char *)e -
					    offsetof(struct redis_server,
						     timer));
	struct lessee *l = rv->slow;

	assert(l != NULL);
	rv->slow_s++;
	l->ops->settled(l, REDIS_SLOW, rv->slow_s, false);
	if (rv->slow == l)
		redis_wait_a_second(rv);
}

bool
redis_server_pause(struct server *v, struct lessee *l)
{
	struct redis_server *rv = redis_server(v);

	if (rv->slow != NULL ||
	    (v->state != SERVER_SHARED && v->state != SERVER_LEASED))
		return rv->slow == l;
	rv->slow = l;
	rv->slow_s = 0;
	stream_pause(&v->stream);
	redis_wait_a_second(rv);
	return true;
}

static void
redis_not_slow(struct redis_server *rv)
{
	rv->slow = NULL;
	wheel_set(&rv->s.pool->home->streams->wheel, &rv->timer, 0);
}

/* What was received already is looked at here: no event will announce it. */
void
redis_server_resume(struct server *v, struct lessee *l)
{
	struct redis_server *rv = redis_server(v);

	if (rv->slow != l)
		return;
	redis_not_slow(rv);
	stream_resume(&v->stream);
	if (!rv->in_input && buf_len(&v->stream.in) > 0)
		redis_input(v);
}

void
redis_server_part(struct server *v, struct lessee *l)
{
	ledger_disown(&v->ledger, l);
	redis_server_resume(v, l);
}

void
redis_server_overdue(struct server *v)
{
	if (v->state != SERVER_SHARED || v->ledger.n == 0 ||
	    v->pool->redis->sentinel == NULL)
		return;
	v->hung = true;
	if (v->leaving)
		server_close(v, WHY_WRONG_ROLE, NULL, NULL);
	else
		targets_overdue(v->pool);
}

/* ---- what a server sends ---------------------------------------------- */

/* Neighbouring bytes of one lessee, and how many replies end in them. */
struct run {
	const uint8_t *p;
	size_t n;
	struct lessee *to;
	uint32_t replies;
	bool failed;
};

/* Either call may close the session; the struct stays to the turn's end. */
static void
run_flush(struct run *r)
{
	const struct run done = *r;

	*r = (struct run){ 0 };
	if (done.n > 0)
		done.to->ops->reply(done.to, done.p, done.n);
	if (done.replies > 0)
		done.to->ops->settled(done.to, REDIS_ANSWERED, done.replies,
				      !done.failed);
}

/* What was received whole is delivered; only what was not is lost. */
static ssize_t
redis_broken(struct redis_server *rv, struct run *r, const char *what)
{
	run_flush(r);
	stats_add(rv->s.pool->home->stats, STAT_SERVER_DOUBTED, 1);
	server_close(&rv->s, WHY_UPSTREAM_SENSE, NULL, what);
	return -1;
}

static void
run_add(struct run *r, struct lessee *to, const uint8_t *p, size_t n)
{
	if (r->n > 0 && (r->to != to || r->p + r->n != p))
		run_flush(r);
	if (to == NULL)
		return;
	if (r->n == 0)
		*r = (struct run){ .p = p, .to = to };
	r->n += n;
}

/* A part of a reply: what was complete before it is told first, so that the
 * session always knows whether it is in the middle of one. */
static void
redis_pass(struct redis_server *rv, struct run *r, struct lessee *to,
	   const uint8_t *p, size_t n)
{
	run_flush(r);
	/* That may have closed its session, and a lent server with it. */
	if (rv->s.state == SERVER_DEAD)
		return;
	if (ledger_at(&rv->s.ledger, 0)->action != LEDGER_FORWARD)
		to = NULL;
	run_add(r, to, p, n);
	run_flush(r);
	rv->passed = to != NULL;
}

static void
redis_pay(struct redis_server *rv, struct run *r, struct lessee *to)
{
	const struct ledger_entry *e = ledger_at(&rv->s.ledger, 0);
	bool now = e->arg != 0 || e->kind == JUDGED;

	ledger_pop(&rv->s.ledger);
	server_proves(&rv->s);
	rv->paid++;
	rv->passed = rv->s.hung = false;
	r->failed = rv->failed;
	if (rv->size > rv->usual)
		rv->usual += (rv->size - rv->usual) / 2;
	else
		rv->usual -= (rv->usual - rv->size) / 16;
	rv->size = 0;
	if (to == NULL)
		return;
	r->replies++;
	if (now)
		run_flush(r);
}

/* What was not asked for is for the lessee, who may not speak in the middle
 * of it. */
static void
redis_tell(struct redis_server *rv, struct run *r, const uint8_t *p, size_t n,
	   bool done)
{
	struct lessee *l = rv->s.lessee;

	run_flush(r);
	if (!rv->talks || l == NULL || rv->s.lessee != l)
		return;
	l->midway = true; /* also while it hears the whole */
	l->ops->reply(l, p, n);
	if (rv->s.lessee == l)
		l->midway = !done;
	if (done)
		l->ops->settled(l, REDIS_ANSWERED, 0, true);
}

/* An error, of which only these say that a transaction is over: the latter
 * ones those of a cluster's node. */
static bool
is_failure(const struct pool *pool, const uint8_t *p, size_t n)
{
	static const char *const over[] = { "-EXECABORT", "-MOVED ",
					    "-ASK ",      "-CROSSSLOT ",
					    "-TRYAGAIN ", "-CLUSTERDOWN " };
	size_t known = pool->node ? sizeof(over) / sizeof(over[0]) : 1;

	for (size_t i = 0; i < known; i++)
		if (n > strlen(over[i]) &&
		    memcmp(p, over[i], strlen(over[i])) == 0)
			return false;
	return p[0] == '-';
}

/*
 * A master that has become a replica is no place to be.  Only a script says so
 * of another; it may cost a new connection now and then, but no reply.
 */
static void
redis_doubt(struct redis_server *rv, const uint8_t *p, size_t n)
{
	static const char readonly[] = "-READONLY ";
	struct server *v = &rv->s;

	if (v->pool->redis->sentinel == NULL || n < sizeof(readonly) ||
	    memcmp(p, readonly, sizeof(readonly) - 1) != 0 ||
	    v->pool->home->streams->now_ns < v->opened_ns + SECOND_NS)
		return;
	if (v->state == SERVER_SHARED)
		v->leaving = true;
	rv->demoted = true;
}

/* A judged one stands alone in its run. */
static void
redis_look(struct redis_server *rv, struct run *r, const uint8_t *p, size_t n)
{
	if (p[0] == '-')
		redis_doubt(rv, p, n);
	rv->failed = ledger_at(&rv->s.ledger, 0)->kind == JUDGED;
	if (!rv->failed)
		return;
	rv->failed = is_failure(rv->s.pool, p, n);
	run_flush(r);
}

/* One step into a reply: bytes it takes, 0 more are needed, -1 closed. */
static ssize_t
redis_frame(struct redis_server *rv, struct run *r, const uint8_t *p, size_t n)
{
	struct server *v = &rv->s;
	struct ledger_entry *e;
	struct lessee *to;
	ssize_t used;
	bool done;

	if (!rv->reply.started) {
		rv->is_push =
		    (p[0] == '>' && (v->pool->resp == 3 || v->pool->lends)) ||
		    (rv->talks && v->ledger.n == 0);
		if (!rv->is_push && v->ledger.n == 0)
			return redis_broken(rv, r, "a reply to nothing");
	}
	if ((used = resp_reply_next(&rv->reply, p, n, &done)) < 0)
		return redis_broken(rv, r, "not a reply");
	if (used > 0 && rv->is_push)
		redis_tell(rv, r, p, (size_t)used, done);
	if (used > 0 && !rv->is_push && rv->size == 0)
		redis_look(rv, r, p, (size_t)used);
	if (v->state == SERVER_DEAD)
		return -1;
	if (used == 0 || rv->is_push)
		return used;
	rv->size += (size_t)used;
	e = ledger_at(&v->ledger, 0);
	to = e->action == LEDGER_FORWARD ? e->lessee : NULL;
	if (!done)
		redis_pass(rv, r, to, p, (size_t)used);
	else
		run_add(r, to, p, (size_t)used);
	if (v->state == SERVER_DEAD)
		return -1;
	if (done)
		redis_pay(rv, r, to);
	if (done && rv->failed && v->state == SERVER_SHARED)
		return redis_broken(rv, r, "a transaction was not ended");
	return v->state == SERVER_DEAD ? -1 : used;
}

static void
redis_replies(struct server *v)
{
	struct redis_server *rv = redis_server(v);
	struct run r = { 0 };
	const uint8_t *p;
	size_t n, at = 0;
	ssize_t used = 1;

	p = stream_peek(&v->stream, &n);
	while (at < n && used > 0 && rv->slow == NULL) {
		used = redis_frame(rv, &r, p + at, n - at);
		if (used > 0)
			at += (size_t)used;
	}
	run_flush(&r);
	/* Its lessee may have left, and it with him. */
	if (v->state == SERVER_DEAD)
		return;
	stream_consume(&v->stream, at);
	if (v->ledger.n == 0 && buf_len(&v->stream.out) > 0) {
		redis_broken(rv, &r, "a reply to half a request");
		return;
	}
	rv->window = redis_window(rv->usual);
	if (v->leaving && v->ledger.n == 0 && v->state == SERVER_SHARED)
		server_close(v, rv->demoted ? WHY_WRONG_ROLE : WHY_ROOM, NULL,
			     NULL);
	while (rv->queue.n > 0 && redis_has_room(rv))
		redis_call(rv);
}

/* ---- log-in ----------------------------------------------------------- */

enum { LOGIN_ARGS = 5 };

static void
login_ask(struct redis_server *rv, const char *const *word, size_t n)
{
	struct slice arg[LOGIN_ARGS];

	assert(n <= LOGIN_ARGS);
	for (size_t i = 0; i < n; i++)
		arg[i] = slice_str(word[i]);
	if (resp_put_request(stream_out(&rv->s.stream), arg, n) != 0)
		abort();
	rv->asked++;
}

/*
 * All of it in one write.  PING comes last, because a server that is loading
 * its data would take all the rest; before it CLIENT ID, where it is of use.
 */
static void
login_send(struct redis_server *rv)
{
	const struct pool *p = rv->s.pool;
	const char *user = p->user ? p->user : "default";
	char db[16];

	if (p->resp == 3 && p->password != NULL)
		login_ask(
		    rv,
		    (const char *[]){ "HELLO", "3", "AUTH", user, p->password },
		    5);
	else if (p->resp == 3)
		login_ask(rv, (const char *[]){ "HELLO", "3" }, 2);
	else if (p->password != NULL && p->user != NULL)
		login_ask(rv, (const char *[]){ "AUTH", user, p->password }, 3);
	else if (p->password != NULL)
		login_ask(rv, (const char *[]){ "AUTH", p->password }, 2);
	if (p->db != 0) {
		snprintf(db, sizeof(db), "%u", p->db);
		login_ask(rv, (const char *[]){ "SELECT", db }, 2);
	}
	if (p->redis->sentinel != NULL)
		login_ask(rv, (const char *[]){ "ROLE" }, 1);
	if (p->lends)
		login_ask(rv, (const char *[]){ "CLIENT", "ID" }, 2);
	login_ask(rv, (const char *[]){ "PING" }, 1);
}

void
redis_server_opened(struct server *v)
{
	const struct conf_redis *up = v->pool->redis;
	SSL_CTX *ctx = v->pool->snapshot->redis[up->index];

	if (!up->tls || v->stream.ssl != NULL)
		login_send(redis_server(v));
	else if (server_start_tls(v, ctx,
				  up->sentinel || up->cluster ? v->host->name
							      : up->host,
				  up->sslmode == SSLMODE_VERIFY_FULL) != 0)
		server_close(v, WHY_UPSTREAM_DOWN, NULL, v->stream.error);
}

static bool
is_error(const uint8_t *p, size_t n, const char *code)
{
	size_t len = strlen(code);

	return n > len && memcmp(p, code, len) == 0;
}

/* Is it the answer to CLIENT ID?  If so it is taken; none is needed. */
static bool
login_id(struct redis_server *rv, const uint8_t *p, size_t n)
{
	if (!rv->s.pool->lends || rv->asked != 2 || p[0] == '>')
		return false;
	if (p[0] != ':' || n < 4 ||
	    !resp_number(p + 1, n - 3, &rv->client_id) || rv->client_id < 0)
		rv->client_id = 0;
	return true;
}

/* Is it the answer to ROLE? */
static bool
is_role(const struct redis_server *rv)
{
	const struct pool *p = rv->s.pool;

	return p->redis->sentinel != NULL && rv->asked == 2u + p->lends;
}

/* A user that may not PING was let in all the same, and so was one who came
 * while a script runs: perhaps to end it. */
static bool
login_refused(struct redis_server *rv, const uint8_t *p, size_t n)
{
	if (login_id(rv, p, n) || p[0] != '-')
		return false;
	/* Nor may each user ask for the ROLE. */
	return (rv->asked > 1 && !is_role(rv)) ||
	       (!is_error(p, n, "-NOPERM") && !is_error(p, n, "-BUSY"));
}

/* Whom Sentinels named may be a replica by now.  A user that may not ask has to
 * take their word for it. */
static bool
login_is_replica(const struct redis_server *rv, const uint8_t *p, size_t n)
{
	return is_role(rv) && p[0] == '*' && !redis_where_is_master(p, n);
}

static void
login_fail(struct server *v, const uint8_t *p, size_t n)
{
	char text[POOL_ERROR_MAX];

	/* Without the type and the CRLF. */
	snprintf(text, sizeof(text), "%.*s", n > 3 ? (int)(n - 3) : 0,
		 (const char *)p + 1);
	server_close(v, WHY_UPSTREAM_DOWN, NULL, text);
}

/* Only HELLO is answered by a map.  One node is not the cluster. */
static void
login_learn(const struct server *v, const uint8_t *p, size_t n)
{
	struct redis_facts *facts = v->pool->home->facts;

	if (p[0] == '%' && facts != NULL && !v->pool->redis->cluster)
		redis_facts_learn(facts, v->pool->redis, slice_of(p, n));
}

static void
login_done(struct server *v)
{
	if (v->state == SERVER_RESET) {
		server_rest(v);
		return;
	}
	server_ready(v);
	if (v->pool->lends || v->pool->subscribes)
		server_rest(v);
	else
		server_enter(v, SERVER_SHARED);
}

/* A server that refuses us may answer before it was asked, and then close. */
void
redis_server_login(struct server *v)
{
	struct redis_server *rv = redis_server(v);
	const uint8_t *p;
	size_t n, at = 0;

	p = stream_peek(&v->stream, &n);
	while (at < n && rv->asked > 0) {
		struct resp_reply reply = { 0 };
		bool done;
		ssize_t used = resp_reply_next(&reply, p + at, n - at, &done);

		if (used < 0 || (!done && n - at >= STREAM_IN_MAX)) {
			server_close(v, WHY_UPSTREAM_DOWN, NULL,
				     "not a Redis server");
			return;
		}
		if (!done)
			break;
		if (login_refused(rv, p + at, (size_t)used)) {
			login_fail(v, p + at, (size_t)used);
			return;
		}
		if (login_is_replica(rv, p + at, (size_t)used)) {
			server_close(v, WHY_WRONG_ROLE, NULL,
				     "what Sentinels name is no master");
			return;
		}
		login_learn(v, p + at, (size_t)used);
		at += (size_t)used;
		rv->asked -= p[at - (size_t)used] != '>';
	}
	stream_consume(&v->stream, at);
	if (rv->asked == 0)
		login_done(v);
}

/* Idle, it has nothing to say; and the bytes are not to be the next one's. */
static void
redis_idle_input(struct server *v)
{
	size_t n;

	stream_peek(&v->stream, &n);
	if (n > 0)
		server_close(v, WHY_UPSTREAM_SENSE, NULL, "a reply to nothing");
}

static void
redis_input(struct server *v)
{
	struct redis_server *rv = redis_server(v);

	assert(!rv->in_input);
	rv->in_input = true;
	if (v->state == SERVER_LOGIN || v->state == SERVER_RESET)
		redis_server_login(v);
	if (v->state == SERVER_SHARED || v->state == SERVER_LEASED)
		redis_replies(v);
	else if (v->state == SERVER_IDLE)
		redis_idle_input(v);
	rv->in_input = false;
}

/* ---- life ------------------------------------------------------------- */

static void
redis_init(struct server *v)
{
	struct redis_server *rv = redis_server(v);

	rv->window = redis_window(0);
	wheel_entry_init(&rv->timer, redis_timer);
}

/* Who is served here is in the pool's key; the stamp says who has it now. */
static void
redis_bind(struct server *v, struct lessee *l)
{
	struct redis_server *rv = redis_server(v);

	assert(v->pool->lends && v->ledger.n == 0 && !rv->reply.started);
	assert(!rv->soiled && !rv->spent && !rv->talks && rv->slow == NULL);
	v->tenant = l->tenant;
}

/* In the middle of something that no RESET ends. */
static bool
redis_is_midway(const struct redis_server *rv)
{
	return rv->reply.started || rv->slow != NULL || rv->in_input ||
	       buf_len(&rv->s.stream.in) > 0;
}

static bool
redis_dirty(const struct server *v)
{
	const struct redis_server *rv = (const void *)v;

	return rv->soiled || rv->spent || rv->talks || rv->demoted ||
	       redis_is_midway(rv);
}

/* RESET undoes all that is ours to undo, and leaves the connection as it was
 * before the log-in.  What it says unasked would pass for the answers. */
static void
redis_clean(struct server *v)
{
	struct redis_server *rv = redis_server(v);

	if (rv->spent || rv->talks || rv->demoted || redis_is_midway(rv)) {
		server_close(v, rv->demoted ? WHY_WRONG_ROLE : WHY_ABANDONED,
			     NULL, NULL);
		return;
	}
	rv->soiled = false;
	v->tenant = NULL;
	login_ask(rv, (const char *[]){ "RESET" }, 1);
	login_send(rv);
}

static void
redis_goodbye(struct server *v)
{
	(void)v; /* a Redis client just closes */
}

/*
 * Each owner hears of each of its entries, in order.  One who closes himself
 * over it disowns the rest.
 */
static void
redis_lost(struct server *v, enum why w, const char *sqlstate, const char *text)
{
	struct redis_server *rv = redis_server(v);
	struct lessee *slow = rv->slow;
	bool torn = rv->passed;

	(void)w;
	(void)sqlstate;
	(void)text;
	redis_not_slow(rv);
	if (slow != NULL)
		slow->ops->settled(slow, REDIS_SLOW, 0, false);
	for (; v->ledger.n > 0; torn = false) {
		const struct ledger_entry e = *ledger_at(&v->ledger, 0);

		ledger_pop(&v->ledger);
		if (e.action == LEDGER_FORWARD)
			e.lessee->ops->settled(
			    e.lessee, torn ? REDIS_TORN : REDIS_UNANSWERED, 1,
			    false);
	}
	while (rv->queue.n > 0)
		redis_call(rv);
}

static void
redis_fini(struct server *v)
{
	assert(redis_server(v)->slow == NULL);
	assert(redis_server(v)->queue.n == 0);
}

const struct server_ops redis_server_ops = {
	.proto = "redis",
	.size = sizeof(struct redis_server),
	.stat_in = STAT_BYTES_FROM_SERVERS,
	.stat_out = STAT_BYTES_TO_SERVERS,
	.stat_open = STAT_REDIS_SERVERS,
	.init = redis_init,
	.opened = redis_server_opened,
	.input = redis_input,
	.bind = redis_bind,
	.dirty = redis_dirty,
	.clean = redis_clean,
	.goodbye = redis_goodbye,
	.lost = redis_lost,
	.fini = redis_fini,
};

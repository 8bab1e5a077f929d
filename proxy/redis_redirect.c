#include "proxy/redis_redirect.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/resp_number.h"
#include "proxy/redis_clients.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_pubsub.h"
#include "proxy/worker.h"

#define NO_CONNECTION \
	"ERR weir: no connection by which that client could hear of keys"

enum { LOOKS_MAX = 8 }; /* while each time a new connection has to be made */

/* Of who tracks. */
struct redis_redirect {
	struct redis_aim aim;
	bool broken;
	struct buf push; /* that is coming */
};

/* Of who hears. */
struct redis_witness {
	struct redis_session *rs;
	struct lessee lessee;
	struct wheel_entry patience; /* while it waits for a connection */
	struct redis_look *asked;    /* and these for it */
	struct buf push;             /* that is coming */
};

/* Who is it, and where does it hear? */
struct redis_look {
	struct message message;
	struct redis_look *next; /* at a witness */
	struct weir *weir;
	unsigned home;
	int64_t asker;
	unsigned again; /* so often it was asked before */
	/* Who is meant: this one, if it is one of these. */
	int64_t id;
	char *user, *organization, *upstream, *upstream_user;
	/* What was found. */
	bool over, found;
	int64_t there;    /* its id upstream, 0: it has no witness */
	uint64_t seen_ns; /* when it had that one */
	struct sockaddr_storage peer;
};

static bool
is_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* ---- the question --------------------------------------------------------- */

static void
look_free(struct redis_look **at)
{
	struct redis_look *q = *at;

	*at = NULL;
	if (q == NULL)
		return;
	free(q->user);
	free(q->organization);
	free(q->upstream);
	free(q->upstream_user);
	free(q);
}

static bool
is_meant(const struct redis_look *q, const struct session *s)
{
	const struct redis_session *rs = (const void *)s;
	const struct tenant *t = s->lessee.tenant;

	return s->proto == &redis_proto && s->user != NULL &&
	       !session_is_over(s) && strcmp(s->user->name, q->user) == 0 &&
	       is_same(t ? t->slug : NULL, q->organization) &&
	       strcmp(rs->redis->name, q->upstream) == 0 &&
	       is_same(rs->user, q->upstream_user);
}

static void
look_go_home(struct redis_look *q)
{
	q->over = true;
	mailbox_post(q->weir->mailboxes[q->home], &q->message);
}

static void
look_come_home(struct redis_look *q, struct worker *w)
{
	struct session *s = redis_client_find(w, q->asker);

	if (s == NULL || session_is_over(s)) {
		look_free(&q);
		return;
	}
	assert(redis_session(s)->calling);
	redis_session(s)->calling = false;
	redis_session(s)->look = q;
	session_wake(s);
}

static void witness_ask(struct redis_session *, struct redis_look *);

static void
look_visit(struct message *m, void *owner)
{
	struct redis_look *q = (struct redis_look *)(void *)m;
	struct worker *w = owner;
	struct session *s;

	/* Its last turn: other workers, and the asker, may be no more. */
	if (w->drain_ns != 0 && w->sessions_n == 0) {
		look_free(&q);
		return;
	}
	if (q->over) {
		look_come_home(q, w);
		return;
	}
	s = redis_client_find(w, q->id);
	if (s == NULL || !is_meant(q, s)) {
		look_go_home(q);
		return;
	}
	q->found = true;
	witness_ask(redis_session(s), q);
}

static enum redis_did
look_send(struct redis_session *rs, int64_t id, unsigned again)
{
	struct session *s = &rs->s;
	const struct tenant *t = s->lessee.tenant;
	unsigned at = redis_client_worker(id);
	struct redis_look *q = mem_zero(1, sizeof(*q), "a question");

	q->message.run = look_visit;
	q->weir = s->worker->weir;
	q->home = s->worker->id;
	q->asker = redis_client_id(s);
	q->id = id;
	q->again = again;
	q->user = mem_copy(s->user->name);
	q->organization = mem_copy(t != NULL ? t->slug : NULL);
	q->upstream = mem_copy(rs->redis->name);
	q->upstream_user = mem_copy(rs->user);
	rs->calling = true;
	q->over = at >= q->weir->workers; /* it is none of ours */
	mailbox_post(q->weir->mailboxes[q->over ? q->home : at], &q->message);
	return REDIS_LATER;
}

/* ---- the witness --------------------------------------------------------------- */

static struct redis_witness *
witness_of(struct lessee *l)
{
	return (struct redis_witness *)(void *)((char *)l -
						offsetof(struct redis_witness,
							 lessee));
}

/* All who wait for it: it is there, or will not be. */
static void
witness_answer(struct redis_witness *e)
{
	struct server *v = e->lessee.server;
	struct redis_look *q;

	wheel_set(&e->rs->s.worker->streams.wheel, &e->patience, 0);
	while ((q = e->asked) != NULL) {
		e->asked = q->next;
		q->next = NULL;
		if (v != NULL) {
			q->there = redis_server_id(v);
			q->seen_ns = e->rs->s.worker->streams.now_ns;
			redis_server_peer(v, &q->peer);
		}
		look_go_home(q);
	}
}

static void
witness_granted(struct lessee *l, struct server *v)
{
	redis_server_talks(v, true);
	witness_answer(witness_of(l));
}

/* What it says of itself is no matter of its client's. */
static void
witness_tell(struct redis_witness *e, const uint8_t *p, size_t n)
{
	static const char head[] = ">2\r\n$10\r\ninvalidate\r\n";
	size_t at = sizeof(head) - 1;

	if (n > at && memcmp(p, head, at) == 0)
		redis_pubsub_invalidate(e->rs, slice_of(p + at, n - at));
}

static void
witness_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct redis_witness *e = witness_of(l);

	if (!session_is_over(&e->rs->s) && buf_put(&e->push, p, n) != 0)
		session_close(&e->rs->s, WHY_SLOW_READER, NULL, NULL);
}

static void
witness_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct redis_witness *e = witness_of(l);
	const uint8_t *p;
	size_t n;

	assert(kind == REDIS_ANSWERED && arg == 0);
	(void)done;
	if (session_is_over(&e->rs->s))
		return;
	p = buf_peek(&e->push, &n);
	witness_tell(e, p, n);
	buf_free(&e->push);
}

static void
witness_lost(struct lessee *l, enum why w, const char *sqlstate,
	     const char *text)
{
	struct redis_witness *e = witness_of(l);

	(void)w;
	(void)sqlstate;
	(void)text;
	if (e->asked != NULL)
		witness_answer(e);
	else if (!session_is_over(&e->rs->s))
		session_close(&e->rs->s, WHY_UPSTREAM_LOST, NULL, NULL);
}

/* In RESP2 it hears as a subscriber, or nothing. */
bool
redis_redirect_listens(const struct redis_session *rs)
{
	return rs->resp == 3 && rs->witness != NULL &&
	       rs->witness->lessee.server != NULL;
}

static void
witness_nothing(struct lessee *l)
{
	(void)l;
}

static const struct lessee_ops witness_ops = {
	.granted = witness_granted,
	.reply = witness_reply,
	.settled = witness_settled,
	.rest = witness_nothing,
	.lost = witness_lost,
	.room = witness_nothing,
};

static void
witness_impatient(struct wheel_entry *entry)
{
	struct redis_witness *e =
	    (struct redis_witness *)(void *)((char *)entry -
					     offsetof(struct redis_witness,
						      patience));

	pool_unwant(&e->lessee);
	witness_answer(e);
}

/* It waits for a connection, or has one, or there will be none. */
static void
witness_want(struct redis_witness *e)
{
	struct redis_session *rs = e->rs;
	struct session *s = &rs->s;
	uint64_t ms = s->snapshot->conf->query_wait_timeout_ms;
	struct pool *p = NULL;

	if (rs->redis->dedicated_connections > 0)
		p = pool_find_redis_lent(&s->worker->pools, s->snapshot,
					 rs->redis, rs->user, rs->password,
					 rs->redis->db, 3);
	e->lessee.tenant = s->lessee.tenant;
	if (p == NULL)
		witness_answer(e);
	else if (pool_want(p, &e->lessee))
		witness_granted(&e->lessee, e->lessee.server);
	else if (ms > 0)
		wheel_set(&s->worker->streams.wheel, &e->patience,
			  s->worker->streams.now_ns + ms * 1000000u);
}

static void
witness_ask(struct redis_session *rs, struct redis_look *q)
{
	struct redis_witness *e = rs->witness;

	if (e == NULL) {
		e = rs->witness = mem_zero(1, sizeof(*e), "a witness");
		e->rs = rs;
		e->lessee.ops = &witness_ops;
		e->lessee.mode = LEASE_EXCLUSIVE;
		buf_init(&e->push, REDIS_CAUGHT_MAX);
		wheel_entry_init(&e->patience, witness_impatient);
	}
	q->next = e->asked;
	e->asked = q;
	if (e->lessee.server != NULL)
		witness_answer(e);
	else if (e->lessee.waiting == NULL)
		witness_want(e);
}

/* ---- CLIENT TRACKING ON ------------------------------------------------------ */

/* The place of the id, read as Redis reads it: from left to right.  0: there is
 * none, or before it something that is an error, or may be. */
static size_t
place_of_id(const struct slice *arg, size_t argc)
{
	for (size_t i = 3; i < argc; i++) {
		bool more = i + 1 < argc;

		if (redis_is_option(arg[i], "redirect") && more)
			return i + 1;
		if (redis_is_option(arg[i], "prefix") && more)
			i++;
		else if (!redis_is_option(arg[i], "bcast") &&
			 !redis_is_option(arg[i], "optin") &&
			 !redis_is_option(arg[i], "optout") &&
			 !redis_is_option(arg[i], "noloop"))
			return 0;
	}
	return 0;
}

bool
redis_redirect_is_asked(const struct slice *arg, size_t argc)
{
	for (size_t i = 3; i < argc; i++) {
		if (redis_is_option(arg[i], "redirect") && i + 1 < argc)
			return true;
		if (redis_is_option(arg[i], "prefix"))
			i++;
	}
	return false;
}

/* Whose id means something: where that one hears. */
static bool
is_same_server(const struct redis_look *q, const struct server *v)
{
	struct sockaddr_storage peer;

	redis_server_peer(v, &peer);
	return memcmp(&peer, &q->peer, sizeof(peer)) == 0;
}

static enum redis_did
send_on(struct redis_session *rs, const struct slice *arg, size_t argc,
	size_t at)
{
	const struct redis_look *q = rs->look;
	struct redis_aim aim = { .to = q->id, .there = q->there };
	struct slice *ask;
	enum redis_did did;
	struct server *v;
	char id[32];

	if ((v = redis_lend(rs, rs->db, true, &did)) == NULL)
		return did;
	/* A server that has begun anew gives the same ids to others. */
	if (v->opened_ns >= q->seen_ns) {
		unsigned again = q->again + 1;

		if (again == LOOKS_MAX)
			return redis_say_error(rs, NO_CONNECTION);
		look_free(&rs->look);
		return look_send(rs, aim.to, again);
	}
	if (!is_same_server(q, v))
		return redis_say_error(rs, "ERR weir: CLIENT TRACKING: that "
					   "client hears of another server");
	snprintf(id, sizeof(id), "%" PRId64, q->there);
	ask = mem_zero(argc, sizeof(*ask), "a request");
	memcpy(ask, arg, argc * sizeof(*ask));
	ask[at] = slice_str(id);
	did = redis_own_track(rs, ask, argc, aim);
	free(ask);
	return did;
}

static enum redis_did
found(struct redis_session *rs, const struct slice *arg, size_t argc, size_t at)
{
	if (!rs->look->found)
		return redis_say_error(rs, "ERR The client ID you want "
					   "redirect to does not exist");
	if (rs->look->there == 0)
		return redis_say_error(rs, NO_CONNECTION);
	return send_on(rs, arg, argc, at);
}

enum redis_did
redis_redirect_on(struct redis_session *rs, const struct slice *arg,
		  size_t argc)
{
	size_t at = place_of_id(arg, argc);
	enum redis_did did;
	int64_t id;

	if (rs->calling || !redis_is_idle(rs))
		return REDIS_LATER;
	if (redis_in_cluster(rs))
		return redis_say_error(rs, "ERR weir: CLIENT TRACKING with "
					   "REDIRECT is not supported with "
					   "cluster = on");
	if (at == 0)
		return redis_say_error(rs, "ERR syntax error");
	if (!resp_number(arg[at].p, arg[at].n, &id))
		return redis_say_error(rs, "ERR value is not an integer or "
					   "out of range");
	if (rs->look == NULL)
		return look_send(rs, id, 0);
	did = found(rs, arg, argc, at);
	if (did == REDIS_DONE)
		look_free(&rs->look);
	return did;
}

/* ---- who tracks ---------------------------------------------------------------- */

void
redis_redirect_is(struct redis_session *rs, struct redis_aim aim)
{
	struct redis_redirect *r = rs->redirect;

	if (r == NULL && aim.to == 0)
		return;
	if (r == NULL) {
		r = rs->redirect = mem_zero(1, sizeof(*r), "a redirection");
		buf_init(&r->push, REDIS_CAUGHT_MAX);
	}
	r->aim = aim;
	r->broken = false;
}

int64_t
redis_redirect_id(const struct redis_session *rs)
{
	return rs->redirect != NULL ? rs->redirect->aim.to : 0;
}

bool
redis_redirect_is_broken(const struct redis_session *rs)
{
	return rs->redirect != NULL && rs->redirect->broken;
}

/* The number that ends in CRLF at the start of this; the bytes it takes. */
static size_t
number_of(const uint8_t *p, size_t n, int64_t *value)
{
	const uint8_t *cr = n > 0 ? memchr(p, '\r', n) : NULL;

	if (cr == NULL || !resp_number(p, (size_t)(cr - p), value))
		return 0;
	return (size_t)(cr - p);
}

/* What stands in front of an id of Redis's; it is at the end, or followed by
 * what its client has said itself. */
static size_t
place_there(const uint8_t *p, size_t n)
{
	static const char *const before[] = {
		":", ">2\r\n$21\r\ntracking-redir-broken\r\n:"
	};
	static const char field[] = "\r\n$8\r\nredirect\r\n:";
	const uint8_t *at;

	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
		if (n > strlen(before[i]) &&
		    memcmp(p, before[i], strlen(before[i])) == 0)
			return strlen(before[i]);
	at = n > 0 ? memmem(p, n, field, sizeof(field) - 1) : NULL;
	return at != NULL ? (size_t)(at - p) + sizeof(field) - 1 : 0;
}

int
redis_redirect_put(struct redis_session *rs, struct buf *out, const uint8_t *p,
		   size_t n)
{
	const struct redis_redirect *r = rs->redirect;
	size_t at = r != NULL && n > 0 ? place_there(p, n) : 0, used = 0;
	int64_t there;
	char id[32];
	int bad;

	if (at > 0)
		used = number_of(p + at, n - at, &there);
	if (used == 0 || there != r->aim.there || r->aim.to == 0)
		return buf_put(out, p, n);
	snprintf(id, sizeof(id), "%" PRId64, r->aim.to);
	bad = buf_put(out, p, at);
	bad |= buf_put(out, id, strlen(id));
	bad |= buf_put(out, p + at + used, n - at - used);
	return bad;
}

static int
tell_caught(struct redis_session *rs, unsigned about, const uint8_t *p,
	    size_t n)
{
	(void)about;
	if (rs->mute != REDIS_LOUD)
		return 0;
	return redis_redirect_put(rs, redis_say(rs), p, n);
}

enum redis_did
redis_redirect_tell(struct redis_session *rs, const struct slice *arg,
		    size_t argc)
{
	enum redis_did did;

	if (redis_redirect_id(rs) == 0)
		return redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	did = redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		redis_catch(rs, tell_caught, 0);
	return did;
}

bool
redis_redirect_hears(struct redis_session *rs, const uint8_t *p, size_t n)
{
	if (redis_redirect_id(rs) == 0 || !redis_own_is_push(rs))
		return false;
	if (buf_put(&rs->redirect->push, p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	return true;
}

void
redis_redirect_heard(struct redis_session *rs)
{
	static const char broken[] = ">2\r\n$21\r\ntracking-redir-broken\r\n";
	struct redis_redirect *r = rs->redirect;
	size_t n, size = sizeof(broken) - 1;
	const uint8_t *p;

	if (r == NULL || (p = buf_peek(&r->push, &n)) == NULL || n == 0)
		return;
	r->broken |= n > size && memcmp(p, broken, size) == 0;
	if (redis_redirect_put(rs, stream_out(&rs->s.stream), p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	else
		buf_free(&r->push);
}

/* ---- life ------------------------------------------------------------------------ */

void
redis_redirect_deafen(struct redis_session *rs)
{
	struct redis_witness *e = rs->witness;

	if (e == NULL)
		return;
	pool_unwant(&e->lessee);
	if (e->lessee.server != NULL)
		server_release(e->lessee.server);
	buf_free(&e->push); /* of who it was; the rest does not come */
	witness_answer(e);
}

void
redis_redirect_part(struct redis_session *rs)
{
	struct redis_look *q;

	for (q = rs->witness != NULL ? rs->witness->asked : NULL; q;
	     q = q->next)
		q->found = false; /* it is no more */
	redis_redirect_deafen(rs);
	look_free(&rs->look);
}

void
redis_redirect_fini(struct redis_session *rs)
{
	assert(rs->witness == NULL || rs->witness->lessee.server == NULL);
	assert(rs->look == NULL);
	if (rs->witness != NULL)
		buf_free(&rs->witness->push);
	free(rs->witness);
	rs->witness = NULL;
	if (rs->redirect != NULL)
		buf_free(&rs->redirect->push);
	free(rs->redirect);
	rs->redirect = NULL;
}

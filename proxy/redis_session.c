#include "proxy/redis_session.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "proxy/redis_clients.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_multi.h"
#include "proxy/redis_pubsub.h"
#include "proxy/redis_redirect.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

/* A reply that is told in other words. */
struct redis_caught {
	struct buf reply;
	redis_tell *tell;
	unsigned about;
};

#define LEAVE_NS 1000000000ull /* for the replies to a client that has left */

static uint64_t
now_ns(const struct redis_session *rs)
{
	return rs->s.worker->streams.now_ns;
}

/* ---- speaking for ourselves ------------------------------------------- */

/* In front of a held reply. */
struct held {
	uint64_t after; /* so many replies must have been delivered */
	uint64_t n;     /* bytes */
};

struct buf *
redis_say(struct redis_session *rs)
{
	struct held h = { .after = rs->sent };

	if (rs->mute != REDIS_LOUD) {
		assert(buf_len(&rs->held) == 0);
		return &rs->held;
	}
	if (redis_is_idle(rs))
		return stream_out(&rs->s.stream);
	if (rs->via != NULL) /* in a cluster each is settled alone */
		redis_server_mark(rs->via, rs->last);
	rs->held_at = buf_len(&rs->held);
	if (buf_put(&rs->held, &h, sizeof(h)) != 0)
		abort(); /* REDIS_HELD_MAX is far below its limit */
	return &rs->held;
}

enum redis_did
redis_said(struct redis_session *rs, int failed)
{
	struct held h = { .after = rs->sent };

	stats_add(&rs->s.worker->stats, STAT_COMMANDS_LOCAL, 1);
	if (rs->mute != REDIS_LOUD) {
		buf_free(&rs->held);
	} else if (failed) {
		session_close(&rs->s, WHY_TOO_BIG, NULL, NULL);
	} else if (!redis_is_idle(rs)) {
		h.n = buf_len(&rs->held) - rs->held_at - sizeof(h);
		buf_patch(&rs->held, rs->held_at, &h, sizeof(h));
	}
	return REDIS_DONE;
}

enum redis_did
redis_say_error(struct redis_session *rs, const char *text)
{
	return redis_said(rs, resp_put_error(redis_say(rs), text));
}

enum redis_did
redis_say_text(struct redis_session *rs, const char *text, size_t n)
{
	struct buf *b = redis_say(rs);
	char head[32];
	int bad;

	if (rs->resp == 2)
		return redis_said(rs, resp_put_bulk(b, text, n));
	snprintf(head, sizeof(head), "=%zu\r\ntxt:", n + 4);
	bad = buf_put(b, head, strlen(head));
	bad |= buf_put(b, text, n);
	bad |= buf_put(b, "\r\n", 2);
	return redis_said(rs, bad);
}

/* The held replies whose turn has come. */
static void
redis_release(struct redis_session *rs)
{
	const uint8_t *p;
	struct held h;
	size_t n;

	while (buf_len(&rs->held) > 0) {
		p = buf_peek(&rs->held, &n);
		memcpy(&h, p, sizeof(h));
		if (h.after > rs->answered)
			return;
		if (stream_put(&rs->s.stream, p + sizeof(h), h.n) != 0) {
			session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
			return;
		}
		buf_consume(&rs->held, sizeof(h) + h.n);
	}
}

bool
redis_caught(struct redis_session *rs, const uint8_t *p, size_t n)
{
	if (rs->caught == NULL)
		return false;
	rs->midway = true;
	rs->since_ns = now_ns(rs);
	if (buf_put(&rs->caught->reply, p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	return true;
}

/* ---- what a server has for us ----------------------------------------- */

static void
redis_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct session *s = session_of_lessee(l);
	struct redis_session *rs = redis_session(s);

	if (session_is_over(s))
		return;
	assert(rs->via != NULL &&
	       (rs->via == s->lessee.server || rs->via->pool == s->pool));
	if (redis_in_cluster(rs) && !redis_cluster_hears(rs, &p, &n))
		return;
	if (redis_redirect_hears(rs, p, n))
		return;
	if (!redis_own_is_push(rs) && redis_caught(rs, p, n))
		return;
	if (rs->mute != REDIS_LOUD && !redis_own_is_push(rs))
		return;
	if (stream_put(&s->stream, p, n) != 0) {
		session_close(s, WHY_SLOW_READER, NULL, NULL);
		return;
	}
	rs->midway = true;
	rs->since_ns = now_ns(rs); /* it comes */
	rs->size += n;
	/* Nobody waits for one that subscribes: it is closed instead. */
	if (redis_pubsub_is_on(rs)) {
		redis_pubsub_is_slow(rs);
		return;
	}
	if (rs->slow == NULL && buf_len(&s->stream.out) > REDIS_SLOW_MAX &&
	    redis_server_pause(rs->via, l)) {
		rs->slow = rs->via;
		rs->slow_left = buf_len(&s->stream.out);
	}
}

/* The server has waited for us for another second. */
static void
redis_is_slow(struct redis_session *rs, uint32_t seconds)
{
	size_t left = buf_len(&rs->s.stream.out);

	if (seconds == 0)
		rs->slow = NULL;
	else if (seconds >= REDIS_SLOW_S ||
		 left + REDIS_SLOW_RATE > rs->slow_left)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	rs->slow_left = left;
}

/* So many more may be outstanding; a new client's replies are of unknown size. */
static uint64_t
redis_depth(const struct redis_session *rs)
{
	uint64_t share, first = REDIS_FIRST + rs->answered;

	if (redis_is_idle(rs))
		return REDIS_FIRST;
	share = rs->via ? redis_server_share(rs->via) : redis_cluster_share(rs);
	return share < first ? share : first;
}

/* Is what it has of its own kept for nothing? */
static bool
redis_is_done(const struct redis_session *rs)
{
	return rs->s.lessee.server != NULL && rs->hold == 0 &&
	       redis_is_idle(rs) && rs->slow == NULL && !redis_multi_tells(rs);
}

/* Of many at once only a huge one is larger than what is read at once. */
static void
redis_weigh(struct redis_session *rs, uint32_t n)
{
	if (rs->size > REDIS_HUGE)
		rs->huge = REDIS_HUGE_FOR;
	else if (rs->huge > 0)
		rs->huge -= n < rs->huge ? (uint8_t)n : rs->huge;
	rs->size = 0;
}

void
redis_catch(struct redis_session *rs, redis_tell *tell, unsigned about)
{
	assert(rs->sent - rs->answered <= 1 && rs->caught == NULL);
	rs->caught = mem_zero(1, sizeof(*rs->caught), "a reply");
	rs->caught->tell = tell;
	rs->caught->about = about;
	buf_init(&rs->caught->reply, REDIS_CAUGHT_MAX);
}

void
redis_uncatch(struct redis_session *rs)
{
	if (rs->caught != NULL)
		buf_free(&rs->caught->reply);
	free(rs->caught);
	rs->caught = NULL;
}

static void
redis_tell_caught(struct redis_session *rs)
{
	struct redis_caught *c = rs->caught;
	size_t n;
	const uint8_t *p = buf_peek(&c->reply, &n);

	assert(redis_is_idle(rs));
	if (c->tell(rs, c->about, p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	redis_uncatch(rs);
}

/* Run again what had to stop, if it would get anywhere. */
void
redis_answered(struct redis_session *rs, uint32_t n)
{
	assert(n <= rs->sent - rs->answered);
	rs->answered += n;
	redis_weigh(rs, n);
	rs->since_ns = now_ns(rs);
	if (redis_is_idle(rs))
		rs->blocked = false;
	rs->midway = redis_multi_tells(rs);
	if (n > 0 && rs->caught != NULL) /* 0: of what nobody asked */
		redis_tell_caught(rs);
	if (session_is_over(&rs->s) || redis_multi_tells(rs))
		return;
	if (rs->sub != NULL)
		redis_pubsub_go_on(rs);
	redis_release(rs);
	if ((rs->leaving && redis_is_idle(rs)) || redis_is_done(rs))
		session_wake(&rs->s);
	if (rs->stopped && (redis_is_idle(rs) ||
			    (rs->sent - rs->answered <= redis_depth(rs) / 2 &&
			     buf_len(&rs->held) <= REDIS_HELD_MAX / 2)))
		session_wake(&rs->s);
}

/* One reply that does not come. */
static void
redis_unanswered(struct redis_session *rs, const char *text)
{
	redis_uncatch(rs); /* there is none to be told */
	if (rs->mute == REDIS_LOUD &&
	    resp_put_error(stream_out(&rs->s.stream), text) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	else
		redis_answered(rs, 1);
}

static void
redis_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct session *s = session_of_lessee(l);
	struct redis_session *rs = redis_session(s);

	if (session_is_over(s))
		return;
	if (kind != REDIS_SLOW &&
	    redis_cluster_settles(rs, kind == REDIS_ANSWERED))
		return;
	switch ((enum redis_settled)kind) {
	case REDIS_ANSWERED:
		if (arg == 1)
			redis_own_judged(rs, done);
		else if (arg == 0)
			redis_redirect_heard(rs);
		redis_answered(rs, arg);
		break;
	case REDIS_UNANSWERED:
		redis_unanswered(rs, "ERR weir: upstream connection lost");
		break;
	case REDIS_TORN:
		session_close(s, WHY_UPSTREAM_LOST, NULL, NULL);
		break;
	case REDIS_SLOW:
		redis_is_slow(rs, arg);
		break;
	}
}

/* Run now, not later: whose turn it is goes by the queue. */
static void
redis_room(struct lessee *l)
{
	session_run(session_of_lessee(l));
}

static void
redis_borrow(struct redis_session *rs, struct server *v)
{
	assert(rs->s.lessee.server == v && redis_is_idle(rs));
	rs->via = v;
	rs->moved = rs->stained = false;
	session_enter(&rs->s, SESSION_LEASED);
}

/* What it knew of the one of its own is of no use any more. */
static void
redis_own_over(struct redis_session *rs)
{
	rs->s.lessee.mode = LEASE_SHARED;
	rs->s.lessee.midway = false;
	/* The shared one is of the database it has left. */
	if (rs->moved)
		pool_leave(&rs->s.pool);
	rs->moved = rs->stained = false;
}

static void
redis_granted(struct lessee *l, struct server *v)
{
	struct session *s = session_of_lessee(l);

	if (l->mode == LEASE_EXCLUSIVE) {
		redis_borrow(redis_session(s), v);
		redis_session(s)->fresh = true;
	} else {
		assert(v->pool == s->pool && l->server == NULL);
		redis_session(s)->waited = true;
		session_enter(s, SESSION_IDLE);
	}
	session_wake(s);
}

/* The one of its own: each command outstanding hears of it, and it goes; but who
 * has heard a part of a push would take that for the rest. */
static void
redis_lost_own(struct redis_session *rs)
{
	bool midway = rs->s.lessee.midway;

	redis_leave_queue(rs);
	rs->cut = rs->hold != 0;
	rs->hold = rs->judged = 0;
	rs->selects = rs->aims = rs->blocked = false;
	rs->via = NULL;
	redis_own_over(rs);
	session_enter(&rs->s, SESSION_IDLE);
	session_wake(&rs->s);
	if (midway)
		session_close(&rs->s, WHY_UPSTREAM_LOST, NULL, NULL);
}

/* No server came: the step that is to follow has none to hope for. */
static void
redis_lost(struct lessee *l, enum why w, const char *sqlstate, const char *text)
{
	struct session *s = session_of_lessee(l);
	struct redis_session *rs = redis_session(s);

	(void)sqlstate;
	if (s->state == SESSION_LEASED) {
		redis_lost_own(rs);
		return;
	}
	rs->down = (uint8_t)w;
	free(rs->reason);
	rs->reason = NULL;
	if (text != NULL && (rs->reason = strdup(text)) == NULL)
		abort();
	session_enter(s, SESSION_IDLE);
	session_wake(s);
}

static void
redis_rest(struct lessee *l)
{
	(void)l;
	assert(!"a Redis server has settled all there is");
}

static const struct lessee_ops redis_lessee_ops = {
	.granted = redis_granted,
	.reply = redis_reply,
	.settled = redis_settled,
	.rest = redis_rest,
	.lost = redis_lost,
	.room = redis_room,
};

/* ---- forwarding ------------------------------------------------------- */

void
redis_leave_queue(struct redis_session *rs)
{
	if (rs->s.lessee.prev != NULL && rs->s.lessee.waiting == NULL)
		redis_server_unqueue(rs->via, &rs->s.lessee);
}

/* The next command may ask for a server again. */
static void
redis_hope(struct redis_session *rs)
{
	rs->down = 0;
	free(rs->reason);
	rs->reason = NULL;
}

/* What was held there ends; it is as good as new for the next. */
static void
redis_give_back(struct redis_session *rs)
{
	struct server *v = rs->s.lessee.server;

	if (rs->hold != 0 || rs->stained || rs->moved)
		redis_server_soil(v);
	rs->hold = 0;
	redis_leave_queue(rs);
	rs->via = NULL;
	server_release(v);
	redis_own_over(rs);
}

void
redis_rehome(struct redis_session *rs)
{
	assert(redis_is_idle(rs));
	if (rs->s.lessee.server != NULL) {
		redis_give_back(rs);
		session_enter(&rs->s, SESSION_IDLE);
	}
	redis_leave_queue(rs);
	redis_multi_forget(rs);
	redis_cluster_rehome(rs);
	rs->hold = 0; /* there it may be in a transaction without one */
	rs->via = NULL;
	pool_leave(&rs->s.pool);
	redis_hope(rs);
}

static bool
redis_has_pool(struct redis_session *rs)
{
	struct session *s = &rs->s;

	if (s->pool != NULL)
		return true;
	s->pool = pool_find_redis(&s->worker->pools, s->snapshot, rs->redis,
				  rs->user, rs->password, rs->db, rs->resp);
	if (s->pool != NULL)
		pool_join(s->pool);
	return s->pool != NULL;
}

/* A client of an older configuration may ask where nobody is let in any more:
 * it is to come again, and be sent where the new one says. */
static bool
redis_is_outdated(const struct redis_session *rs)
{
	return rs->down == WHY_UPSTREAM_DOWN && redis_is_idle(rs) &&
	       rs->s.snapshot != rs->s.worker->snapshot;
}

static enum redis_did
redis_say_down(struct redis_session *rs)
{
	const char *reason = rs->reason ? rs->reason : "no connection";
	char text[POOL_ERROR_MAX + 64];

	if (rs->down != WHY_UPSTREAM_DOWN)
		snprintf(text, sizeof(text), "ERR weir: %s",
			 why_table[rs->down].text);
	else
		snprintf(text, sizeof(text), "ERR weir: %s: %s",
			 why_table[rs->down].text, reason);
	redis_say_error(rs, text);
	if (redis_is_outdated(rs))
		session_close(&rs->s, WHY_RECONFIGURED, NULL, NULL);
	return REDIS_DONE;
}

/* Is it heavy, and behind commands that are where the quick ones go? */
static bool
redis_is_misplaced(const struct redis_session *rs)
{
	return rs->heavy && rs->hold == 0 && !redis_is_idle(rs) &&
	       rs->s.lessee.server == NULL &&
	       pool_sets_apart(rs->s.pool, rs->via);
}

/* Who has waited for a connection takes what there is now. */
static uint8_t
redis_lane(const struct redis_session *rs)
{
	if (!rs->heavy)
		return LANE_QUICK;
	return rs->waited ? LANE_HEAVY_NOW : LANE_HEAVY;
}

/*
 * The server for the next command, or NULL and what became of the command.
 * Behind outstanding ones, or in a queue, it can only be that one.
 */
static struct server *
redis_upstream(struct redis_session *rs, enum redis_did *did)
{
	struct session *s = &rs->s;

	*did = REDIS_DONE;
	if (s->lessee.server != NULL && rs->hold == 0) {
		*did = REDIS_LATER;
		return NULL;
	}
	if (!redis_is_idle(rs) || s->lessee.prev != NULL || rs->hold != 0) {
		if (!redis_is_misplaced(rs))
			return rs->via;
		*did = REDIS_LATER;
		return NULL;
	}
	if (!redis_has_pool(rs)) {
		redis_say_error(rs, "ERR weir: too many pools");
		return NULL;
	}
	if (rs->down != 0) {
		redis_say_down(rs);
		return NULL;
	}
	s->lessee.mode = LEASE_SHARED;
	s->lessee.lane = redis_lane(rs);
	if (pool_want(s->pool, &s->lessee)) {
		/* Shared: what we hold is an entry in its ledger, no lease. */
		rs->via = s->lessee.server;
		s->lessee.server = NULL;
		return rs->via;
	}
	session_enter(s, SESSION_WAIT);
	*did = REDIS_LATER;
	return NULL;
}

/* Who sent more behind it, to be done as a part of it, must not go on. */
static struct server *
redis_say_none(struct redis_session *rs, bool goes_on, enum why w,
	       const char *text)
{
	char line[POOL_ERROR_MAX + 128];

	snprintf(line, sizeof(line), "ERR weir: %s", text);
	if (goes_on)
		redis_say_error(rs, line);
	else
		session_close(&rs->s, w, NULL, line + 4);
	return NULL;
}

static struct server *
redis_say_own_down(struct redis_session *rs, bool goes_on)
{
	char text[POOL_ERROR_MAX + 64];
	enum why w = (enum why)rs->down;

	snprintf(text, sizeof(text), "%s%s%s", why_table[w].text,
		 rs->reason ? ": " : "", rs->reason ? rs->reason : "");
	redis_hope(rs); /* what comes next may need none */
	return redis_say_none(rs, goes_on, w, text);
}

struct server *
redis_lend(struct redis_session *rs, unsigned db, bool goes_on,
	   enum redis_did *did)
{
	struct session *s = &rs->s;
	const char *none = "too many pools";
	struct pool *p;

	*did = REDIS_LATER;
	if (redis_in_cluster(rs) && !redis_is_idle(rs))
		return NULL; /* it may have to be sent again */
	if (s->lessee.server != NULL && (rs->hold != 0 || redis_is_idle(rs)))
		return s->lessee.server;
	if (!redis_is_idle(rs))
		return NULL;
	*did = REDIS_DONE;
	redis_leave_queue(rs);
	if (rs->down != 0)
		return redis_say_own_down(rs, goes_on);
	if (rs->redis->dedicated_connections == 0)
		return redis_say_none(rs, goes_on, WHY_UNSUPPORTED,
				      "dedicated_connections = 0");
	if (redis_in_cluster(rs))
		p = redis_cluster_lent(rs, did, &none);
	else
		p = pool_find_redis_lent(&s->worker->pools, s->snapshot,
					 rs->redis, rs->user, rs->password, db,
					 rs->resp);
	if (p == NULL && none == NULL)
		return NULL; /* it waits, or was told */
	if (p == NULL)
		return redis_say_none(rs, goes_on, WHY_UPSTREAM_DOWN, none);
	s->lessee.mode = LEASE_EXCLUSIVE;
	if (pool_want(p, &s->lessee)) {
		redis_borrow(rs, s->lessee.server);
		return rs->via;
	}
	session_enter(s, SESSION_WAIT);
	*did = REDIS_LATER;
	return NULL;
}

uint64_t
redis_put(struct redis_session *rs, struct server *v, const struct slice *arg,
	  size_t argc)
{
	if (redis_is_idle(rs))
		rs->since_ns = now_ns(rs);
	if (arg == rs->request.arg && rs->request.canonical)
		rs->last = redis_server_pass(v, &rs->s.lessee, rs->bytes);
	else
		rs->last = redis_server_send(v, &rs->s.lessee, arg, argc);
	if (redis_in_cluster(rs))
		redis_server_mark(v, rs->last);
	rs->sent++;
	rs->s.paid -= rs->s.paid > 0;
	stats_add(&rs->s.worker->stats, STAT_COMMANDS, 1);
	return rs->last;
}

struct server *
redis_share(struct redis_session *rs, size_t n, enum redis_did *did)
{
	struct lessee *l = &rs->s.lessee;
	struct server *v = redis_upstream(rs, did);

	if (v == NULL)
		return NULL;
	if (redis_server_full(v, l) || !ledger_has_room(&v->ledger, n)) {
		redis_server_queue(v, l);
		*did = REDIS_LATER;
		return NULL;
	}
	redis_leave_queue(rs);
	return v;
}

enum redis_did
redis_say_rate(struct redis_session *rs)
{
	char text[128];

	if (rs->s.retry_ms == SESSION_NEVER)
		return redis_reject(rs, "ERR weir: rate limit of the "
					"organization, so much at once never "
					"passes");
	snprintf(text, sizeof(text),
		 "ERR weir: rate limit of the organization, retry in %" PRIu64
		 " ms",
		 rs->s.retry_ms);
	return redis_reject(rs, text);
}

enum redis_did
redis_forward(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	struct session *s = &rs->s;
	enum redis_did did;
	struct server *v;

	if (!seat_pay_ahead(s, 1))
		return redis_say_rate(rs);
	if (redis_in_cluster(rs)) {
		if (rs->hold & REDIS_IN_MULTI)
			return redis_cluster_queue(rs, arg, argc);
		if (s->lessee.server != NULL &&
		    (rs->hold == 0 || (rs->via != NULL && !redis_is_idle(rs))))
			return REDIS_LATER;
		rs->via = NULL;
		return redis_cluster_forward(rs, arg, argc);
	}
	if ((v = redis_share(rs, 1, &did)) == NULL)
		return did;
	assert(v == s->lessee.server || v->pool == s->pool);
	redis_put(rs, v, arg, argc);
	return REDIS_DONE;
}

/* ---- one command ------------------------------------------------------ */

/* An HTTP request, whoever sent it, is nobody's command. */
static bool
is_http(struct slice name)
{
	return slice_is_word(name, "post") || slice_is_word(name, "host:");
}

/* What no table of ours has, the server may; not of who may only subscribe. */
static bool
redis_may_know(const struct redis_session *rs, struct slice name)
{
	if (rs->s.user == NULL || slice_is_word(name, "waitaof") ||
	    redis_pubsub_pongs(rs))
		return false;
	return rs->redis->profile != PROFILE_SHARED ||
	       rs->s.lessee.tenant == NULL;
}

static enum redis_did
redis_unknown(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	char text[REDIS_CMD_TEXT_MAX];

	if (is_http(arg[0])) {
		session_close(&rs->s, WHY_BAD_FRAME, NULL, "HTTP");
		return REDIS_DONE;
	}
	if (redis_may_know(rs, arg[0]))
		return redis_forward(rs, arg, argc);
	redis_cmd_unknown_text(arg, argc, text, sizeof(text));
	return redis_reject(rs, text);
}

static enum redis_did
redis_unknown_sub(struct redis_session *rs, const struct redis_cmd *cmd,
		  const struct slice *arg, size_t argc)
{
	char text[REDIS_CMD_TEXT_MAX];

	/* Those of a cluster may take the connection for their own. */
	if (cmd->class == REDIS_SHARED && !slice_is_word(arg[0], "cluster") &&
	    redis_may_know(rs, arg[0]) &&
	    !redis_local_forbids(rs, cmd, arg, argc))
		return redis_forward(rs, arg, argc);
	redis_cmd_unknown_sub_text(cmd, arg[1], text, sizeof(text));
	return redis_reject(rs, text);
}

static enum redis_did
redis_say_noauth(struct redis_session *rs, const struct redis_cmd *cmd)
{
	if (strcmp(cmd->name, "exec") == 0)
		return redis_say_error(
		    rs, "EXECABORT Transaction discarded because of: NOAUTH "
			"Authentication required.");
	return redis_say_error(rs, "NOAUTH Authentication required.");
}

/* Checks in the order Redis has them: existence, arity, log-in. */
static enum redis_did
redis_command(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	const struct redis_cmd *cmd = redis_cmd_find(arg[0]), *row = cmd;
	char text[REDIS_CMD_TEXT_MAX];

	rs->heavy = rs->huge > 0;
	if (cmd == NULL)
		return redis_unknown(rs, arg, argc);
	if (cmd->sub_count > 0 && argc > 1 &&
	    (row = redis_cmd_sub(cmd, arg, argc)) == NULL &&
	    (row = redis_local_newer(cmd, arg, argc)) == NULL)
		return redis_unknown_sub(rs, cmd, arg, argc);
	if (!redis_cmd_arity_ok(row, argc)) {
		/* That of EXEC ends the transaction. */
		if ((rs->hold & REDIS_IN_MULTI) &&
		    strcmp(row->name, "exec") == 0)
			return redis_own_held(rs, row, arg, argc);
		redis_cmd_arity_text(row, text, sizeof(text));
		return redis_reject(rs, text);
	}
	if (rs->s.user == NULL && !row->no_auth)
		return redis_say_noauth(rs, row);
	rs->heavy |= row->heavy;
	if (redis_in_cluster(rs) && redis_cluster_bars(row))
		return redis_cluster_say_barred(rs, row);
	rs->ran = row;
	rs->ran_ns = rs->s.worker->streams.now_ns;
	if (row->risk != REDIS_SAFE && redis_local_forbids(rs, row, arg, argc))
		return redis_local_noperm(rs, row);
	if (redis_pubsub_bars(rs, row))
		return redis_pubsub_say_barred(rs, row);
	if (row->risk == REDIS_PROBE && redis_pubsub_is_numsub(rs, row))
		return redis_pubsub_numsub(rs, arg, argc);
	if (rs->hold != 0)
		return redis_own_held(rs, row, arg, argc);
	if (row->class == REDIS_SHARED &&
	    (!row->blocks || redis_cmd_class(cmd, arg, argc) == REDIS_SHARED))
		return redis_forward(rs, arg, argc);
	if (row->class == REDIS_DEDICATED || row->blocks)
		return redis_own(rs, row, arg, argc);
	return redis_local(rs, row, arg, argc);
}

/* ---- steps ------------------------------------------------------------ */

static size_t
redis_out_max(const struct redis_session *rs)
{
	return rs->s.user != NULL ? STREAM_OUT_HIGH : REDIS_NOAUTH_OUT;
}

static bool
redis_may_go(const struct redis_session *rs)
{
	return buf_len(&rs->s.stream.out) <= redis_out_max(rs) &&
	       rs->sent - rs->answered < redis_depth(rs) &&
	       buf_len(&rs->held) <= REDIS_HELD_MAX && !rs->s.lessee.midway &&
	       rs->judged == 0 && !rs->selects && !rs->aims &&
	       !redis_pubsub_waits(rs) && rs->caught == NULL &&
	       !redis_multi_tells(rs);
}

/* Told in Redis's words once all before it is answered; then closed. */
static enum redis_did
redis_malformed(struct redis_session *rs, const char *what)
{
	char text[128];

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	snprintf(text, sizeof(text), "ERR Protocol error: %s", what);
	redis_say_error(rs, text);
	session_close(&rs->s, WHY_BAD_FRAME, NULL, what);
	return REDIS_DONE;
}

/* A NUL hides the end of an inline request for ever, and no client of ours
 * begins like a TLS record: they are at the wrong door. */
static bool
is_foreign(const uint8_t *p, size_t n)
{
	return p[0] == 0 || (n > 1 && p[0] == 0x16 && p[1] == 3);
}

/* Whose reply is heard?  False: that of the last one is to be dropped first. */
static bool
redis_may_speak(struct redis_session *rs)
{
	if (rs->mute != REDIS_SKIPS)
		return true;
	if (!redis_is_idle(rs))
		return false;
	rs->mute = REDIS_LOUD;
	return true;
}

static void
redis_spoke(struct redis_session *rs, uint8_t before)
{
	if (rs->mute == REDIS_SKIP)
		rs->mute = REDIS_SKIP_NEXT;
	else if (rs->mute == REDIS_SKIP_NEXT && before == REDIS_SKIP_NEXT)
		rs->mute = REDIS_SKIPS;
}

/* The next request, if all of it is there: LATER when it is not, or must wait
 * (*stop: for replies, not for bytes). */
static enum redis_did
redis_request(struct redis_session *rs, bool *stop)
{
	bool auth = rs->s.user != NULL;
	struct stream *st = &rs->s.stream;
	enum redis_did did = REDIS_DONE;
	char text[64];
	uint8_t before;
	const uint8_t *p;
	ssize_t used;
	size_t n;

	p = stream_peek(st, &n);
	if (n == 0)
		return REDIS_LATER;
	*stop = true;
	if (is_foreign(p, n))
		return redis_malformed(rs, "too big inline request");
	used =
	    resp_request_next(&rs->request, p, n, auth,
			      auth ? REDIS_REQUEST_MAX : REDIS_NOAUTH_REQUEST);
	if (used < 0) {
		resp_error_text(&rs->request, text, sizeof(text));
		return redis_malformed(rs, text);
	}
	if (used == 0) {
		*stop = false;
		if (rs->request.need > STREAM_IN_MAX)
			stream_hold(st, rs->request.need);
		return REDIS_LATER;
	}
	rs->bytes = (struct slice){ p, (size_t)used };
	if (!redis_may_speak(rs))
		return REDIS_LATER;
	before = rs->mute;
	if (rs->request.argc > 0)
		did = redis_command(rs, rs->request.arg, rs->request.argc);
	if (did == REDIS_DONE && rs->request.argc > 0)
		redis_spoke(rs, before);
	if (did == REDIS_DONE && !session_is_over(&rs->s)) {
		stream_consume(st, (size_t)used + rs->more);
		rs->more = 0;
		if (st->in_max > STREAM_IN_MAX)
			stream_hold(st, 0);
	}
	return did;
}

/* Nothing is kept of a request but what half of one needs. */
static void
redis_forget_request(struct redis_session *rs)
{
	if (rs->request.held.pos > 0)
		return;
	resp_request_free(&rs->request);
	rs->request.resume = true;
}

/* The client has read: the server that waits for it may go on. */
static void
redis_catch_up(struct redis_session *rs)
{
	struct server *v = rs->slow;

	redis_cluster_read(rs);
	if (v == NULL || stream_is_high(&rs->s.stream))
		return;
	rs->slow = NULL;
	redis_server_resume(v, &rs->s.lessee);
}

/*
 * Only a client that does not read is not read either.  From one that waits
 * for replies the stream takes what it may keep, so as to notice its end.
 */
static void
redis_stop(struct redis_session *rs)
{
	struct stream *st = &rs->s.stream;

	rs->stopped = true;
	if (buf_len(&st->out) <= redis_out_max(rs))
		return;
	stream_pause(st);
	/* Below the mark of STREAM_ROOM it has to be asked for. */
	if (!stream_is_high(st))
		st->tell_empty = 1;
}

/* A command counts as activity, though it changes no state. */
static void
redis_touch(struct session *s)
{
	struct redis_session *rs = redis_session(s);

	if (redis_is_idle(rs))
		rs->since_ns = now_ns(rs);
	if (s->state == SESSION_IDLE || s->state == SESSION_LEASED)
		session_rearm(s);
}

/* What it has of its own and needs no more. */
static void
redis_end_lease(struct redis_session *rs)
{
	bool fresh = rs->fresh;

	rs->fresh = false;
	if (fresh || !redis_is_done(rs))
		return;
	redis_give_back(rs);
	session_enter(&rs->s, SESSION_IDLE);
}

/* Its side is closed; it may still read what it asked for. */
static enum step
redis_left(struct session *s)
{
	if (!redis_is_idle(redis_session(s)))
		return STEP_WAIT;
	if (buf_len(&s->stream.out) == 0)
		session_close(s, WHY_EOF, NULL, NULL);
	else
		s->stream.tell_empty = 1;
	return STEP_WAIT;
}

/* It asks for more, for an organization that is no more. */
static bool
redis_is_cut_off(const struct redis_session *rs)
{
	size_t n;

	if (!tenant_is_gone(rs->s.lessee.tenant) || !redis_is_idle(rs))
		return false;
	stream_peek(&rs->s.stream, &n);
	return n > 0;
}

static enum step
redis_step(struct session *s)
{
	struct redis_session *rs = redis_session(s);
	bool stop = false;

	redis_catch_up(rs);
	if (session_is_over(s))
		return STEP_WAIT;
	if (rs->leaving)
		return redis_left(s);
	if (rs->cut) {
		session_close(s, WHY_UPSTREAM_LOST, NULL, NULL);
		return STEP_WAIT;
	}
	redis_end_lease(rs);
	rs->stopped = false;
	s->stream.tell_empty = 0;
	stream_resume(&s->stream);
	if (s->user == NULL)
		redis_local_trust(rs);
	if (session_is_over(s))
		return STEP_WAIT;
	if (redis_is_cut_off(rs)) {
		session_close(s, WHY_TENANT_GONE, NULL, NULL);
		return STEP_WAIT;
	}
	if (redis_multi_tells(rs))
		redis_multi_go_on(rs);
	if (session_is_over(s))
		return STEP_WAIT;
	do {
		stop = true;
		if (!redis_may_go(rs) ||
		    (redis_cluster_returns(rs) &&
		     redis_cluster_again(rs) == REDIS_LATER) ||
		    session_is_over(s))
			break;
		stop = false;
	} while (redis_request(rs, &stop) == REDIS_DONE && !session_is_over(s));
	if (session_is_over(s))
		return STEP_WAIT;
	redis_hope(rs);
	rs->waited = false;
	if (redis_is_done(rs))
		session_wake(s);
	redis_forget_request(rs);
	redis_touch(s);
	if (stop)
		redis_stop(rs);
	return STEP_WAIT;
}

static enum step
redis_wait(struct session *s)
{
	(void)s;
	return STEP_WAIT;
}

/* ---- life ------------------------------------------------------------- */

static void
redis_init(struct session *s)
{
	struct redis_session *rs = redis_session(s);

	s->lessee.ops = &redis_lessee_ops;
	s->lessee.mode = LEASE_SHARED;
	rs->ran_ns = s->opened_ns;
	buf_init(&rs->held, REDIS_OUT_MAX);
	rs->request.resume = true;
	rs->resp = 2;
	/* Who may come in without a word is let in without one. */
	session_wake(s);
}

/*
 * A client that waits for a reply would take our words for it; one that waits
 * for nothing would take them for the next.  So most go without a word, as
 * from Redis; BAD_FRAME was told before.
 */
static void
redis_refuse(struct session *s, enum why w, const char *sqlstate,
	     const char *text)
{
	const struct redis_session *rs = redis_session(s);
	char line[256];

	(void)sqlstate;
	if (redis_pubsub_is_mute(rs) || !redis_is_idle(rs) ||
	    redis_multi_tells(rs) || s->lessee.midway || w == WHY_IDLE ||
	    w == WHY_IDLE_TRANSACTION || w == WHY_UPSTREAM_LOST ||
	    w == WHY_SHUTDOWN || w == WHY_BAD_FRAME || w == WHY_SLOW_READER ||
	    why_table[w].redis[0] == '\0')
		return;
	snprintf(line, sizeof(line), "%s %s", why_table[w].redis,
		 text ? text : why_table[w].text);
	if (resp_put_error(stream_out(&s->stream), line) != 0)
		return; /* it does not read anyway */
}

/* Replies on their way are waited for, but not who would take an element from
 * a list for nobody; what was not sent yet never is. */
static bool
redis_leave(struct session *s)
{
	struct redis_session *rs = redis_session(s);

	if ((s->state != SESSION_IDLE && s->state != SESSION_LEASED) ||
	    redis_is_idle(rs) || rs->blocked)
		return false;
	rs->leaving = true;
	redis_leave_queue(rs);
	stream_deadline(&s->stream, s->worker->streams.now_ns + LEAVE_NS);
	return true;
}

static bool
redis_quiet(const struct session *s)
{
	const struct redis_session *rs = (const void *)s;
	size_t n;

	stream_peek(&s->stream, &n);
	if (rs->calling)
		return true; /* it may not come home any more */
	if (rs->blocked)
		return true;
	return n == 0 && redis_is_idle(rs) && s->state != SESSION_WAIT &&
	       !redis_multi_tells(rs) &&
	       !(rs->hold & (REDIS_IN_MULTI | REDIS_WATCHES));
}

/* ---- deadlines ---------------------------------------------------------- */

/* The same while replies are outstanding. */
static enum why
redis_asked_patience(const struct redis_session *rs, uint64_t *ms)
{
	uint64_t query = rs->s.snapshot->conf->query_timeout_ms;
	uint64_t command = rs->redis->command_timeout_ms;

	if (rs->blocked || rs->slow != NULL || redis_cluster_is_slow(rs))
		return WHY_MAX;
	if (command != 0 && (query == 0 || command < query)) {
		*ms = command;
		return WHY_COMMAND_TIMEOUT;
	}
	*ms = query;
	return query == 0 ? WHY_MAX : WHY_QUERY_TIMEOUT;
}

/* The timeout that applies now, and since when; WHY_MAX: none. */
static enum why
redis_patience(const struct redis_session *rs, uint64_t *ms, uint64_t *since_ns)
{
	const struct conf *c = rs->s.snapshot->conf;
	uint64_t waits_ns = redis_cluster_waits_ns(rs);

	*since_ns = waits_ns > 0 ? waits_ns : rs->since_ns;
	if (waits_ns > 0) {
		*ms = c->query_wait_timeout_ms;
		return *ms == 0 ? WHY_MAX : WHY_POOL_TIMEOUT;
	}
	if (!redis_is_idle(rs))
		return redis_asked_patience(rs, ms);
	*ms = c->idle_transaction_timeout_ms;
	if (*ms != 0 && (rs->hold & (REDIS_IN_MULTI | REDIS_WATCHES)))
		return WHY_IDLE_TRANSACTION;
	*ms = c->client_idle_timeout_ms;
	if ((rs->hold & REDIS_MONITORS) || redis_pubsub_is_mute(rs) ||
	    redis_redirect_listens(rs))
		*ms = 0; /* silent for ever, as Redis has it */
	return *ms == 0 ? WHY_MAX : WHY_IDLE;
}

/*
 * All that is outstanding is answered by an error.  The replies may still come,
 * each in its place among those of others, and are dropped there.
 */
static void
redis_give_up(struct redis_session *rs)
{
	struct server *v = rs->via;

	if (v == NULL) {
		redis_cluster_give_up(rs);
		return;
	}
	redis_leave_queue(rs);
	redis_server_part(v, &rs->s.lessee);
	while (!redis_is_idle(rs) && !session_is_over(&rs->s)) {
		stats_add(&rs->s.worker->stats, STAT_REDIS_OVERDUE, 1);
		redis_unanswered(rs, "ERR weir: command_timeout");
	}
	redis_server_overdue(v);
}

static enum why
redis_overdue(struct session *s)
{
	struct redis_session *rs = redis_session(s);
	uint64_t ms = 0, since_ns;
	enum why w = redis_patience(rs, &ms, &since_ns);

	if (rs->leaving)
		return WHY_EOF;
	if (w == WHY_MAX || now_ns(rs) < since_ns + ms * 1000000u)
		return WHY_MAX;
	if (w != WHY_COMMAND_TIMEOUT || s->lessee.server != NULL || rs->midway)
		return w;
	redis_give_up(rs);
	return WHY_MAX;
}

/* Replies move it on only when it has passed; then there is another look. */
static uint64_t
redis_deadline(struct session *s)
{
	const struct redis_session *rs = redis_session(s);
	uint64_t ms = 0, since_ns;

	if (redis_patience(rs, &ms, &since_ns) != WHY_MAX)
		return since_ns + ms * 1000000u;
	ms = s->snapshot->conf->client_idle_timeout_ms;
	return ms == 0 ? 0 : now_ns(rs) + ms * 1000000u;
}

static void
redis_part(struct session *s)
{
	struct redis_session *rs = redis_session(s);
	struct server *slow = rs->slow;
	bool idle = redis_is_idle(rs);

	redis_pubsub_end(rs);
	redis_redirect_part(rs);
	redis_leave_queue(rs);
	redis_cluster_part(rs);
	redis_clients_part(rs);
	rs->answered = rs->sent;
	rs->slow = NULL;
	buf_free(&rs->held);
	if (!idle && rs->via != NULL)
		redis_server_part(rs->via, &s->lessee);
	if (s->lessee.server != NULL)
		redis_give_back(rs);
	if (slow != NULL)
		redis_server_resume(slow, &s->lessee);
	rs->via = NULL;
}

static void
redis_fini(struct session *s)
{
	struct redis_session *rs = redis_session(s);

	assert(redis_is_idle(rs) && rs->slow == NULL);
	redis_pubsub_fini(rs);
	redis_redirect_fini(rs);
	redis_multi_forget(rs);
	redis_cluster_fini(rs);
	redis_uncatch(rs);
	resp_request_free(&rs->request);
	buf_free(&rs->held);
	free(rs->name);
	free(rs->reason);
}

const struct proto redis_proto = {
	.name = "redis",
	.size = sizeof(struct redis_session),
	.out_max = REDIS_OUT_MAX,
	.stat_open = STAT_REDIS_CLIENTS,
	.stat_accepted = STAT_REDIS_ACCEPTED,
	.stat_logins = STAT_REDIS_LOGINS,
	.stat_refused = STAT_REDIS_REFUSED,
	.init = redis_init,
	.step = {
		[SESSION_TLS] = redis_wait,
		[SESSION_HELLO] = redis_step,
		[SESSION_IDLE] = redis_step,
		[SESSION_WAIT] = redis_wait,
		[SESSION_LEASED] = redis_step,
	},
	.refuse = redis_refuse,
	.overdue = redis_overdue,
	.deadline = redis_deadline,
	.leave = redis_leave,
	.quiet = redis_quiet,
	.part = redis_part,
	.fini = redis_fini,
};

/*
 * redis_own: the commands that need a connection of their own, and what may be
 * said while a client has one.
 *
 * A transaction that lies in the input whole, and holds nothing but commands
 * that may go over the shared connection anyway, goes there in one piece:
 * Redis runs the commands of one connection in order, so nobody comes between.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "protocol/resp_number.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_multi.h"
#include "proxy/redis_redirect.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

enum { WHOLE_MAX = 1024 }; /* commands of a transaction in one piece */

static bool
is_row(const struct redis_cmd *cmd, const char *name)
{
	return strcmp(cmd->name, name) == 0;
}

bool
redis_has_room(struct redis_session *rs, struct server *v)
{
	if (!redis_server_full(v, &rs->s.lessee))
		return true;
	redis_server_queue(v, &rs->s.lessee);
	return false;
}

/* ---- errors inside a transaction --------------------------------------- */

/*
 * Redis, too, counts an error of what was to be queued, and refuses EXEC.  So
 * that it does, it is sent a command that fails for want of arguments.
 */
enum redis_did
redis_reject(struct redis_session *rs, const char *text)
{
	const struct slice wrong = slice_str("GET");
	struct server *v = rs->via;

	if (!(rs->hold & REDIS_IN_MULTI))
		return redis_say_error(rs, text);
	if (redis_in_cluster(rs)) {
		redis_cluster_spoil(rs);
		return redis_say_error(rs, text);
	}
	if (!redis_has_room(rs, v))
		return REDIS_LATER;
	redis_server_slip(v, &wrong, 1);
	return redis_say_error(rs, text);
}

/* ---- MULTI that lies there whole --------------------------------------- */

/* May it be part of one? */
static bool
is_plain(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	const struct redis_cmd *cmd = redis_cmd_find(arg[0]), *row = cmd;

	if (cmd == NULL || (cmd->sub_count > 0 &&
			    (row = redis_cmd_sub(cmd, arg, argc)) == NULL))
		return false;
	rs->heavy |= cmd->heavy;
	if (redis_in_cluster(rs) &&
	    (redis_cluster_bars(row) || redis_cluster_is_for_all(row)))
		return false;
	return redis_cmd_arity_ok(row, argc) &&
	       redis_cmd_class(cmd, arg, argc) == REDIS_SHARED &&
	       !redis_local_forbids(rs, row, arg, argc);
}

/* The commands behind MULTI up to EXEC, 0: they are not all there, or not all
 * plain; or, with a server to send them to, sent. */
static size_t
whole(struct redis_session *rs, struct server *v)
{
	struct resp_request r = { 0 };
	size_t n, at = rs->bytes.n, count = 0;
	const uint8_t *p = stream_peek(&rs->s.stream, &n);
	bool ends = false;
	ssize_t used;

	while (at < n && count < WHOLE_MAX && !ends) {
		used = resp_request_next(&r, p + at, n - at, true,
					 REDIS_REQUEST_MAX);
		if (used <= 0)
			break;
		at += (size_t)used;
		if (r.argc == 0)
			continue;
		ends = r.argc == 1 && slice_is_word(r.arg[0], "exec");
		if (!ends && v == NULL && !is_plain(rs, r.arg, r.argc))
			break;
		count++;
		if (v != NULL)
			redis_put(rs, v, r.arg, r.argc);
	}
	resp_request_free(&r);
	rs->more = at - rs->bytes.n;
	return ends ? count : 0;
}

static enum redis_did
run_whole(struct redis_session *rs, const struct slice *arg, size_t argc,
	  size_t n)
{
	enum redis_did did;
	struct server *v;

	if (redis_in_cluster(rs))
		return redis_cluster_whole(rs, arg, argc, n);
	v = redis_share(rs, n + 1, &did);
	rs->more = 0;
	if (v == NULL)
		return did;
	redis_put(rs, v, arg, argc);
	if (whole(rs, v) != n)
		assert(!"a transaction has changed under our eyes");
	redis_server_judge(v, rs->last);
	return REDIS_DONE;
}

/* ---- a connection of its own ------------------------------------------- */

/* MULTI or WATCH.  What lies behind it was to be a part of it, and is not to be
 * run by itself. */
static enum redis_did
refuse_begin(struct redis_session *rs)
{
	size_t n;

	stream_peek(&rs->s.stream, &n);
	if (n == rs->bytes.n)
		return redis_say_rate(rs);
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	session_close(&rs->s, WHY_RATE_QUERIES, NULL, NULL);
	return REDIS_DONE;
}

/* With `hold` as the reason to keep it, until further notice; in that database
 * if it has none yet. */
static enum redis_did
run_alone_in(struct redis_session *rs, const struct slice *arg, size_t argc,
	     unsigned hold, unsigned db)
{
	bool goes_on = !(hold & (REDIS_IN_MULTI | REDIS_WATCHES));
	enum redis_did did;
	struct server *v;

	if (!seat_pay_ahead(&rs->s, 1))
		return goes_on ? redis_say_rate(rs) : refuse_begin(rs);
	if ((v = redis_lend(rs, db, goes_on, &did)) == NULL)
		return did;
	if (!redis_has_room(rs, v))
		return REDIS_LATER;
	redis_server_unqueue(v, &rs->s.lessee);
	if (hold != 0 && rs->hold == 0)
		stats_add(&rs->s.worker->stats, STAT_REDIS_HELD, 1);
	rs->via = v;
	if (redis_in_cluster(rs))
		redis_cluster_leads(rs, v);
	rs->hold |= hold;
	redis_put(rs, v, arg, argc);
	if (redis_in_cluster(rs))
		redis_cluster_keep(rs, arg, argc, hold);
	return REDIS_DONE;
}

enum redis_did
redis_own_again(struct redis_session *rs, const struct slice *arg, size_t argc,
		unsigned hold)
{
	enum redis_did did = run_alone_in(rs, arg, argc, hold, rs->db);

	if (did == REDIS_DONE && !redis_is_idle(rs))
		rs->blocked = hold == 0;
	return did;
}

/* Each of them is answered, and that is all. */
static enum redis_did
refuse_whole(struct redis_session *rs, size_t n)
{
	for (size_t i = 0; i < n && !session_is_over(&rs->s); i++)
		(void)redis_say_rate(rs);
	return redis_say_rate(rs);
}

static enum redis_did
run_alone(struct redis_session *rs, const struct slice *arg, size_t argc,
	  unsigned hold)
{
	return run_alone_in(rs, arg, argc, hold, rs->db);
}

/* MULTI was told why it is not to be, and so is all that was to be a part of it:
 * nothing of that may be run by itself. */
static void
fail_whole(struct redis_session *rs, size_t n)
{
	while (n-- > 0 && !session_is_over(&rs->s))
		redis_say_error(rs, "ERR weir: not run, as its MULTI failed");
}

static enum redis_did
try_whole(struct redis_session *rs, const struct slice *arg, size_t argc,
	  size_t n)
{
	size_t more = rs->more;
	uint64_t before = rs->sent;
	enum redis_did did;

	rs->more = 0;
	did = run_whole(rs, arg, argc, n);
	if (did == REDIS_DONE && rs->sent == before && rs->hold == 0) {
		fail_whole(rs, n);
		rs->more = more;
	}
	return did;
}

static enum redis_did
run_multi(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did;
	size_t n;

	redis_multi_forget(rs); /* EXEC was not answered */
	/* Of one that is not heard the others' replies are. */
	if (rs->hold == 0 && rs->s.lessee.server == NULL &&
	    (rs->mute == REDIS_LOUD || rs->mute == REDIS_OFF)) {
		n = whole(rs, NULL);
		if (n > 0 && !seat_pay_ahead(&rs->s, (unsigned)n + 1))
			return refuse_whole(rs, n);
		if (n > 0)
			return try_whole(rs, arg, argc, n);
		rs->more = 0;
	}
	if (!seat_pay_ahead(&rs->s, 1))
		return refuse_begin(rs);
	if (redis_in_cluster(rs))
		return redis_cluster_multi(rs);
	did = run_alone(rs, arg, argc, REDIS_IN_MULTI);
	rs->began = rs->sent;
	return did;
}

static enum redis_did
run_watch(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	return run_alone(rs, arg, argc, REDIS_WATCHES);
}

/* What it ends is over whatever it says. */
static enum redis_did
run_unwatch(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	struct server *v = rs->s.lessee.server;

	if (redis_in_cluster(rs))
		return redis_cluster_discard(rs);
	assert(v != NULL && v == rs->via);
	if (!redis_has_room(rs, v))
		return REDIS_LATER;
	redis_server_unqueue(v, &rs->s.lessee);
	redis_server_judge(v, redis_put(rs, v, arg, argc));
	rs->hold &= ~(unsigned)REDIS_WATCHES;
	return REDIS_DONE;
}

static enum redis_did
run_blocking(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did = run_alone(rs, arg, argc, 0);

	if (did == REDIS_DONE && !redis_is_idle(rs))
		rs->blocked = true;
	return did;
}

/* Of all masters: redis_cluster.h. */
static enum redis_did
run_wait_all(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did;

	if (rs->redis->dedicated_connections == 0)
		return redis_say_error(rs,
				       "ERR weir: dedicated_connections = 0");
	did = redis_forward(rs, arg, argc);
	if (did == REDIS_DONE && !redis_is_idle(rs))
		rs->blocked = true;
	return did;
}

/* Redis waits for the replicas to have all that was done when this connection
 * last did something, and that is more than what its client did. */
static enum redis_did
run_wait(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	const struct slice ping = slice_str("PING");
	enum redis_did did;
	struct server *v;

	if (redis_in_cluster(rs))
		return run_wait_all(rs, arg, argc);
	if (!seat_pay_ahead(&rs->s, 1))
		return redis_say_rate(rs);
	if ((v = redis_lend(rs, rs->db, true, &did)) == NULL)
		return did;
	if (!redis_server_full(v, &rs->s.lessee))
		redis_server_slip(v, &ping, 1);
	return run_blocking(rs, arg, argc);
}

/* It ends what others wait for: a script, or a pause. */
static bool
is_rescue(const struct redis_cmd *cmd)
{
	return is_row(cmd, "script|kill") || is_row(cmd, "function|kill") ||
	       is_row(cmd, "client|unpause");
}

/* Who waits may be in front of it on any shared connection; and where there is
 * no other yet, a log-in that selects a database is told BUSY. */
static enum redis_did
run_rescue(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	if (rs->redis->dedicated_connections == 0 || redis_in_cluster(rs))
		return redis_forward(rs, arg, argc); /* as good as we can */
	rs->hold &= ~(unsigned)REDIS_PAUSES;
	return run_alone_in(rs, arg, argc, 0, 0);
}

/* Until it ends the pause, or leaves: meanwhile the shared ones stand still. */
static enum redis_did
run_pause(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did;

	if ((rs->hold & REDIS_PAUSES) || redis_in_cluster(rs) ||
	    rs->redis->dedicated_connections == 0)
		return redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	did = run_alone(rs, arg, argc, REDIS_PAUSES);
	if (did != REDIS_DONE || redis_is_idle(rs))
		return did;
	redis_server_judge(rs->via, rs->last);
	rs->judged = REDIS_PAUSES;
	return REDIS_DONE;
}

/* From its reply on the server speaks unasked; if it says yes. */
static enum redis_did
run_talking(struct redis_session *rs, const struct slice *arg, size_t argc,
	    unsigned hold)
{
	enum redis_did did;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	did = run_alone(rs, arg, argc, hold);
	if (did != REDIS_DONE || redis_is_idle(rs))
		return did;
	redis_server_judge(rs->via, rs->last);
	redis_server_talks(rs->via, true);
	rs->judged = hold;
	return REDIS_DONE;
}

bool
redis_is_option(struct slice s, const char *word)
{
	size_t n = strlen(word);

	return s.n >= n && strncasecmp((const char *)s.p, word, n) == 0 &&
	       (s.n == n || s.p[n] == '\0');
}

/* It stays as it was if the server says no. */
enum redis_did
redis_own_track(struct redis_session *rs, const struct slice *arg, size_t argc,
		struct redis_aim aim)
{
	bool tracks = (rs->hold & REDIS_TRACKS) != 0;
	enum redis_did did = run_talking(rs, arg, argc, REDIS_TRACKS);

	if (did != REDIS_DONE || redis_is_idle(rs))
		return did;
	if (tracks)
		rs->judged = 0;
	rs->aims = true;
	rs->next_aim = aim;
	return REDIS_DONE;
}

static enum redis_did
run_tracking(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	const struct redis_aim nobody = { 0 };
	bool on = redis_is_option(arg[2], "on");

	if (redis_redirect_is_asked(arg, argc))
		return on ? redis_redirect_on(rs, arg, argc)
			  : redis_say_error(rs, "ERR syntax error");
	if (redis_is_option(arg[2], "off") && argc == 3) {
		rs->stained |= (rs->hold & REDIS_TRACKS) != 0;
		rs->hold &= ~(unsigned)REDIS_TRACKS;
		return rs->s.lessee.server ? run_alone(rs, arg, argc, 0)
					   : redis_forward(rs, arg, argc);
	}
	return on ? redis_own_track(rs, arg, argc, nobody)
		  : redis_forward(rs, arg, argc);
}

enum redis_did
redis_own_select(struct redis_session *rs, const struct slice *arg, size_t argc,
		 unsigned db)
{
	enum redis_did did;

	assert(redis_is_idle(rs) && rs->hold != 0);
	did = run_alone(rs, arg, argc, 0);
	if (did != REDIS_DONE || redis_is_idle(rs))
		return did;
	redis_server_judge(rs->via, rs->last);
	rs->selects = true;
	rs->next_db = db;
	return REDIS_DONE;
}

enum redis_did
redis_own(struct redis_session *rs, const struct redis_cmd *cmd,
	  const struct slice *arg, size_t argc)
{
	static const char *const blocking[] = { "blpop",    "brpop",
						"blmove",   "brpoplpush",
						"blmpop",   "bzpopmin",
						"bzpopmax", "bzmpop" };

	assert(!(rs->hold & REDIS_IN_MULTI));
	if (is_row(cmd, "multi"))
		return run_multi(rs, arg, argc);
	if (is_row(cmd, "watch"))
		return run_watch(rs, arg, argc);
	if (is_row(cmd, "unwatch") && (rs->hold & REDIS_WATCHES))
		return run_unwatch(rs, arg, argc);
	if (is_row(cmd, "wait"))
		return run_wait(rs, arg, argc);
	if (is_row(cmd, "monitor"))
		return run_talking(rs, arg, argc, REDIS_MONITORS);
	if (is_rescue(cmd))
		return run_rescue(rs, arg, argc);
	if (is_row(cmd, "client|pause"))
		return run_pause(rs, arg, argc);
	if (is_row(cmd, "client|tracking"))
		return run_tracking(rs, arg, argc);
	if (is_row(cmd, "client|caching"))
		return redis_forward(rs, arg, argc);
	if (cmd->blocks)
		return run_blocking(rs, arg, argc);
	for (size_t i = 0; i < sizeof(blocking) / sizeof(blocking[0]); i++)
		if (is_row(cmd, blocking[i]))
			return run_blocking(rs, arg, argc);
	return redis_local(rs, cmd, arg, argc);
}

/* ---- while it has one --------------------------------------------------- */

enum redis_did
redis_reject_here(struct redis_session *rs, const struct redis_cmd *cmd,
		  const char *where)
{
	char text[160];

	snprintf(text, sizeof(text), "ERR weir: %s is not supported %s",
		 cmd->name, where);
	return redis_reject(rs, text);
}

void
redis_own_hello(struct redis_session *rs, unsigned version)
{
	const struct slice ask[] = { slice_str("HELLO"),
				     slice_str(version == 3 ? "3" : "2") };

	assert(redis_is_idle(rs) && rs->hold != 0);
	redis_server_slip(rs->s.lessee.server, ask, 2);
	rs->moved = rs->stained = true;
}

bool
redis_own_is_push(const struct redis_session *rs)
{
	return rs->s.lessee.midway && !(rs->hold & REDIS_MONITORS);
}

/* Would it be somebody else from then on? */
static enum redis_who
names_user(struct redis_session *rs, const struct redis_cmd *cmd,
	   const struct slice *arg, size_t argc)
{
	if (is_row(cmd, "auth") && (argc == 2 || argc == 3))
		return redis_local_who(
		    rs, argc == 2 ? slice_str("default") : arg[1],
		    arg[argc - 1]);
	if (is_row(cmd, "hello"))
		for (size_t i = 2; i + 2 < argc; i += 2)
			if (slice_is_word(arg[i], "auth"))
				return redis_local_who(rs, arg[i + 1],
						       arg[i + 2]);
	return REDIS_ITSELF;
}

enum redis_did
redis_own_held(struct redis_session *rs, const struct redis_cmd *cmd,
	       const struct slice *arg, size_t argc)
{
	enum redis_who who;

	assert(rs->hold != 0 &&
	       (rs->s.lessee.server != NULL || redis_in_cluster(rs)));
	if (rs->hold & REDIS_IN_MULTI)
		return redis_multi(rs, cmd, arg, argc);
	if ((rs->hold & REDIS_MONITORS) && !is_row(cmd, "quit") &&
	    !is_row(cmd, "reset") && !is_row(cmd, "ping"))
		return redis_reject_here(rs, cmd, "while it monitors");
	if (redis_in_cluster(rs) && is_row(cmd, "hello") && argc > 1)
		return redis_reject_here(rs, cmd, "while keys are watched");
	who = rs->hold != REDIS_PAUSES ? names_user(rs, cmd, arg, argc)
				       : REDIS_ITSELF;
	if (who == REDIS_UNKNOWN_YET)
		return REDIS_LATER;
	if (who == REDIS_ANOTHER)
		return redis_reject_here(rs, cmd,
					 "as another user while keys are "
					 "watched or tracked");
	if (cmd->class == REDIS_SHARED &&
	    (!cmd->blocks || redis_cmd_class(cmd, arg, argc) == REDIS_SHARED))
		return redis_forward(rs, arg, argc);
	if (cmd->class == REDIS_DEDICATED || cmd->blocks)
		return redis_own(rs, cmd, arg, argc);
	return redis_local(rs, cmd, arg, argc);
}

void
redis_own_judged(struct redis_session *rs, bool done)
{
	if (rs->aims && done)
		redis_redirect_is(rs, rs->next_aim);
	if (rs->selects && done) {
		rs->db = rs->next_db;
		rs->moved = true;
	} else if (!done && !rs->selects) {
		rs->hold &= ~rs->judged;
		rs->stained = true;
	}
	rs->selects = rs->aims = false;
	rs->judged = 0;
}

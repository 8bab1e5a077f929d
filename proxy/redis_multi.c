#include "proxy/redis_multi.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/resp_number.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_pubsub.h"
#include "proxy/redis_redirect.h"
#include "proxy/worker.h"

/* What the server was given for it. */
enum instead { A_PING, ITSELF, ITS_ANSWER /* that is told in other words */ };

struct note {
	uint64_t at; /* its place among what is queued, from 0 */
	const struct redis_cmd *cmd;
	enum instead instead;
	uint8_t *bytes; /* of the request */
	size_t n;
};

struct redis_multi {
	struct note *note;
	size_t n, bytes;
	bool tracks; /* some of it may make the server speak unasked */
	bool waits;  /* some of it asks others */
	bool telling;
	bool skips;
	size_t next;        /* note */
	uint64_t at, count; /* elements told; of all */
	struct buf rest;    /* of the reply, while one waits */
};

static bool
is_row(const struct redis_cmd *cmd, const char *name)
{
	return strcmp(cmd->name, name) == 0;
}

bool
redis_multi_tells(const struct redis_session *rs)
{
	return rs->multi != NULL && rs->multi->telling;
}

void
redis_multi_forget(struct redis_session *rs)
{
	struct redis_multi *m = rs->multi;

	if (m == NULL)
		return;
	for (size_t i = 0; i < m->n; i++)
		free(m->note[i].bytes);
	free(m->note);
	buf_free(&m->rest);
	free(m);
	rs->multi = NULL;
}

/* ---- what is queued ---------------------------------------------------- */

static struct redis_multi *
multi_of(struct redis_session *rs)
{
	if (rs->multi == NULL) {
		rs->multi = mem_zero(1, sizeof(*rs->multi), "a transaction");
		buf_init(&rs->multi->rest, REDIS_CAUGHT_MAX);
	}
	return rs->multi;
}

static void
note(struct redis_session *rs, const struct redis_cmd *cmd, enum instead what,
     const struct slice *arg, size_t argc)
{
	struct redis_multi *m = multi_of(rs);
	struct buf b;
	const uint8_t *p;
	struct note *new;

	m->note = mem_more(m->note, m->n, sizeof(*m->note));
	new = &m->note[m->n++];
	buf_init(&b, REDIS_NOTES_BYTES * 2);
	if (resp_put_request(&b, arg, argc) != 0)
		abort(); /* may_note() */
	p = buf_peek(&b, &new->n);
	new->bytes = (uint8_t *)mem_text((const char *)p, new->n);
	buf_free(&b);
	new->at = rs->sent - rs->began - 1;
	new->cmd = cmd;
	new->instead = what;
	m->bytes += new->n;
}

/* Its header and those of its arguments take no more than so much each. */
static bool
may_note(const struct redis_session *rs, const struct slice *arg, size_t argc)
{
	size_t n = 32 + 32 * argc;

	for (size_t i = 0; i < argc; i++)
		n += arg[i].n;
	if (rs->multi == NULL)
		return n <= REDIS_NOTES_BYTES;
	return n <= REDIS_NOTES_BYTES - rs->multi->bytes &&
	       rs->multi->n < REDIS_NOTES_MAX;
}

/* Queued, that or something else, and noted if it was. */
static enum redis_did
queue(struct redis_session *rs, const struct redis_cmd *cmd, enum instead what,
      const struct slice *arg, size_t argc)
{
	const struct slice ping = slice_str("PING");
	uint64_t before = rs->sent - rs->began;
	enum redis_did did;

	if (!may_note(rs, arg, argc))
		return redis_reject_here(rs, cmd, "so often inside one MULTI");
	did = what == A_PING ? redis_forward(rs, &ping, 1)
			     : redis_forward(rs, arg, argc);
	if (rs->sent - rs->began == before)
		return did; /* later, or not at all */
	note(rs, cmd, what, arg, argc);
	rs->stained |= what == ITSELF;
	return did;
}

/* One that will be an error changes nothing upstream either. */
static enum redis_did
queue_select(struct redis_session *rs, const struct redis_cmd *cmd,
	     const struct slice *arg, size_t argc)
{
	int64_t db;

	if (!resp_number(arg[1].p, arg[1].n, &db) ||
	    !redis_local_has_db(rs, db))
		return queue(rs, cmd, A_PING, arg, argc);
	if (!redis_local_may_select(rs, db))
		return redis_local_noperm(rs, cmd);
	return queue(rs, cmd, ITSELF, arg, argc);
}

/* Others are asked before it is done. */
static bool
takes_time(const struct redis_session *rs, const struct redis_cmd *cmd)
{
	return is_row(cmd, "auth") || is_row(cmd, "hello") ||
	       is_row(cmd, "subscribe") || is_row(cmd, "psubscribe") ||
	       is_row(cmd, "client|list") || is_row(cmd, "client|kill") ||
	       is_row(cmd, "client|unblock") ||
	       (redis_pubsub_is_on(rs) && strstr(cmd->name, "unsubscribe"));
}

#define WHILE_TRACKED "inside MULTI while keys are tracked"
#define IN_CLUSTER    "inside MULTI with cluster = on"

/* What the server says unasked would come between. */
static bool
may_wait(const struct redis_session *rs)
{
	return !(rs->hold & REDIS_TRACKS) &&
	       (rs->multi == NULL || !rs->multi->tracks);
}

/* Who it is may have to be looked up. */
static bool
names_user(const struct slice *arg, size_t argc)
{
	for (size_t i = 2; i < argc; i++)
		if (slice_is_word(arg[i], "auth"))
			return true;
	return false;
}

static enum redis_did
queue_ours(struct redis_session *rs, const struct redis_cmd *cmd,
	   const struct slice *arg, size_t argc)
{
	enum redis_did did;

	if (!takes_time(rs, cmd))
		return queue(rs, cmd, A_PING, arg, argc);
	if (!may_wait(rs))
		return redis_reject_here(rs, cmd, WHILE_TRACKED);
	did = queue(rs, cmd, A_PING, arg, argc);
	if (rs->multi != NULL)
		rs->multi->waits = true;
	return did;
}

/*
 * The server runs what is queued behind it as who we are there, and has begun
 * when the credentials count.  So they may say who it is by another name here,
 * but not upstream.  Those that are wrong are told so by EXEC.
 */
static enum redis_did
queue_auth(struct redis_session *rs, const struct redis_cmd *cmd,
	   const struct slice *arg, size_t argc)
{
	enum redis_who who = REDIS_NOBODY;

	if (argc <= 3)
		who = redis_local_who(rs,
				      argc == 2 ? slice_str("default") : arg[1],
				      arg[argc - 1]);
	if (who == REDIS_UNKNOWN_YET)
		return REDIS_LATER;
	if (who == REDIS_ANOTHER)
		return redis_reject_here(rs, cmd,
					 "as another user inside MULTI");
	return queue_ours(rs, cmd, arg, argc);
}

/* Will it be done, and who is it then? */
static enum redis_who
is_true_hello(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_who who = REDIS_ITSELF;
	bool authed = false;
	int64_t version;

	if (argc < 2 || !resp_number(arg[1].p, arg[1].n, &version) ||
	    version < 2 || version > 3)
		return REDIS_NOBODY;
	for (size_t i = 2; i < argc && who == REDIS_ITSELF; i++) {
		size_t more = argc - 1 - i;

		if (!authed && slice_is_word(arg[i], "auth") && more >= 2) {
			who = redis_local_who(rs, arg[i + 1], arg[i + 2]);
			authed = true;
			i += 2;
		} else if (more == 0 || !slice_is_word(arg[i], "setname") ||
			   !redis_local_is_name(arg[++i])) {
			return REDIS_NOBODY;
		}
	}
	return who;
}

static bool
is_version(struct slice arg, unsigned resp)
{
	int64_t version;

	return resp_number(arg.p, arg.n, &version) && version == resp;
}

/* The server's name for us is not the client's; nor, in a cluster, are the
 * connections that its transactions run on. */
static enum redis_did
queue_hello(struct redis_session *rs, const struct redis_cmd *cmd,
	    const struct slice *arg, size_t argc)
{
	enum redis_who who = is_true_hello(rs, arg, argc);
	const struct slice ask[] = { arg[0], argc > 1 ? arg[1] : arg[0] };
	uint64_t before = rs->sent;
	enum redis_did did;

	if (who == REDIS_UNKNOWN_YET)
		return REDIS_LATER;
	if (who == REDIS_ANOTHER)
		return redis_reject_here(rs, cmd,
					 "as another user inside MULTI");
	if (who == REDIS_NOBODY && !names_user(arg, argc))
		return queue(rs, cmd, A_PING, arg, argc);
	if (who == REDIS_NOBODY)
		return queue_ours(rs, cmd, arg, argc);
	if (names_user(arg, argc) && !may_wait(rs))
		return redis_reject_here(rs, cmd, WHILE_TRACKED);
	if (redis_in_cluster(rs))
		return is_version(arg[1], rs->resp)
			   ? queue_ours(rs, cmd, arg, argc)
			   : redis_reject_here(rs, cmd, IN_CLUSTER);
	if (!may_note(rs, arg, argc))
		return redis_reject_here(rs, cmd, "so often inside one MULTI");
	did = redis_forward(rs, ask, 2);
	if (rs->sent == before)
		return did;
	note(rs, cmd, ITSELF, arg, argc);
	rs->stained = true;
	rs->multi->waits |= names_user(arg, argc);
	return did;
}

static enum redis_did
queue_tracking(struct redis_session *rs, const struct redis_cmd *cmd,
	       const struct slice *arg, size_t argc)
{
	enum redis_did did;

	if (redis_redirect_is_asked(arg, argc))
		return redis_reject_here(rs, cmd, "with REDIRECT inside MULTI");
	if (rs->multi != NULL && rs->multi->waits)
		return redis_reject_here(rs, cmd, "there inside MULTI");
	did = queue(rs, cmd, ITSELF, arg, argc);
	if (rs->multi != NULL)
		rs->multi->tracks = true;
	return did;
}

/* ---- which is which ------------------------------------------------------ */

/* It is about what is known here alone. */
static bool
is_ours(const struct redis_cmd *cmd)
{
	static const char *const ours[] = {
		"client|id",      "client|getname",  "client|setname",
		"client|setinfo", "client|no-evict", "client|no-touch",
		"client|info",    "client|list",     "client|kill",
		"client|unblock", "client|reply",    "acl|whoami",
		"asking",         "readonly",        "readwrite",
		"subscribe",      "psubscribe",      "ssubscribe",
		"unsubscribe",    "punsubscribe",    "sunsubscribe",
	};

	for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++)
		if (is_row(cmd, ours[i]))
			return true;
	return false;
}

/* The server's answer is the right one, and nothing is left behind. */
static bool
is_its_own(const struct redis_session *rs, const struct redis_cmd *cmd)
{
	static const char *const alike[] = { "ping",         "echo",
					     "role",         "unwatch",
					     "client|help",  "client|caching",
					     "client|pause", "client|unpause" };

	for (size_t i = 0; i < sizeof(alike) / sizeof(alike[0]); i++)
		if (is_row(cmd, alike[i]))
			return true;
	if (cmd->class == REDIS_SHARED || strncmp(cmd->name, "command", 7) == 0)
		return true;
	if (strncmp(cmd->name, "client", 6) == 0)
		return false;
	/* None blocks there. */
	return cmd->class == REDIS_DEDICATED ||
	       (cmd->class == REDIS_LOCAL &&
		rs->redis->profile != PROFILE_SHARED);
}

/* There it may run on a connection that others share. */
static bool
stays_out(const struct redis_cmd *cmd)
{
	return redis_cluster_is_for_all(cmd) || is_row(cmd, "client|unblock") ||
	       (strncmp(cmd->name, "client", 6) == 0 && !is_ours(cmd));
}

/* An organization hears less of it than the server says, or nothing. */
static bool
is_told_apart(const struct redis_session *rs, const struct redis_cmd *cmd)
{
	return rs->redis->profile == PROFILE_SHARED &&
	       (is_row(cmd, "info") || is_row(cmd, "config|get") ||
		(cmd->class == REDIS_LOCAL &&
		 strncmp(cmd->name, "cluster|", 8) == 0));
}

static enum redis_did
queue_apart(struct redis_session *rs, const struct redis_cmd *cmd,
	    const struct slice *arg, size_t argc)
{
	if (is_row(cmd, "config|get"))
		return redis_local(rs, cmd, arg, argc);
	if (!is_row(cmd, "info"))
		return queue(rs, cmd, A_PING, arg, argc);
	if (rs->s.lessee.tenant == NULL)
		return redis_forward(rs, arg, argc);
	return queue(rs, cmd, ITS_ANSWER, arg, argc);
}

/* In its answer an id has to be put right. */
static bool
tells_redirect(const struct redis_cmd *cmd)
{
	return is_row(cmd, "client|getredir") ||
	       is_row(cmd, "client|trackinginfo");
}

static enum redis_did
queued(struct redis_session *rs, const struct redis_cmd *cmd,
       const struct slice *arg, size_t argc)
{
	if (redis_in_cluster(rs) && (stays_out(cmd) || is_told_apart(rs, cmd)))
		return redis_reject_here(rs, cmd, IN_CLUSTER);
	/* There is but one database. */
	if (is_row(cmd, "select") && redis_in_cluster(rs))
		return queue(rs, cmd, A_PING, arg, argc);
	if (is_row(cmd, "select"))
		return queue_select(rs, cmd, arg, argc);
	if (is_row(cmd, "hello"))
		return queue_hello(rs, cmd, arg, argc);
	if (is_row(cmd, "auth"))
		return queue_auth(rs, cmd, arg, argc);
	if (is_row(cmd, "client|tracking"))
		return queue_tracking(rs, cmd, arg, argc);
	if (tells_redirect(cmd))
		return queue(rs, cmd, ITS_ANSWER, arg, argc);
	if (is_ours(cmd))
		return queue_ours(rs, cmd, arg, argc);
	if (is_told_apart(rs, cmd))
		return queue_apart(rs, cmd, arg, argc);
	if (!is_its_own(rs, cmd))
		return redis_reject_here(rs, cmd, "inside MULTI");
	if (is_row(cmd, "client|pause"))
		rs->hold |= REDIS_PAUSES;
	return redis_forward(rs, arg, argc);
}

/* ---- its end ------------------------------------------------------------- */

/* The shared connection is of the database, or the protocol, that it has left. */
static void
has_moved(struct redis_session *rs)
{
	if (rs->s.lessee.server != NULL)
		rs->moved = true;
	else
		pool_leave(&rs->s.pool);
}

void
redis_multi_spoke(struct redis_session *rs)
{
	assert(redis_multi_tells(rs));
	has_moved(rs);
}

void
redis_multi_skip(struct redis_session *rs)
{
	assert(redis_multi_tells(rs));
	rs->multi->skips = true;
}

static void
tell(struct redis_session *rs, const uint8_t *p, size_t n)
{
	if (rs->mute == REDIS_LOUD && stream_put(&rs->s.stream, p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
}

/* It was lost while the reply was told, and with it what is kept there. */
static void
set_tracking(struct redis_session *rs, struct slice how)
{
	const struct redis_aim nobody = { 0 };

	redis_redirect_is(rs, nobody);
	if (!redis_is_option(how, "on")) {
		rs->hold &= ~(unsigned)REDIS_TRACKS;
		return;
	}
	if (rs->s.lessee.server == NULL) {
		rs->cut = true;
		return;
	}
	if (rs->hold == 0)
		stats_add(&rs->s.worker->stats, STAT_REDIS_HELD, 1);
	rs->hold |= REDIS_TRACKS;
	redis_server_talks(rs->s.lessee.server, true);
}

/* All that follows is in that protocol, whatever has come between. */
static enum redis_did
did_hello(struct redis_session *rs, const struct redis_cmd *cmd,
	  const struct slice *arg, size_t argc)
{
	enum redis_did did = redis_local(rs, cmd, arg, argc);
	int64_t version;

	if (did == REDIS_DONE && !session_is_over(&rs->s) &&
	    (!resp_number(arg[1].p, arg[1].n, &version) || version != rs->resp))
		session_close(&rs->s, WHY_UPSTREAM_LOST, NULL, NULL);
	return did;
}

/* The server has done it, or says why not. */
static enum redis_did
did_itself(struct redis_session *rs, const struct redis_cmd *cmd,
	   const struct slice *arg, size_t argc, struct slice reply)
{
	int64_t db;

	if (reply.p[0] == '-' || !is_row(cmd, "hello"))
		tell(rs, reply.p, reply.n);
	if (reply.p[0] == '-')
		return REDIS_DONE;
	if (is_row(cmd, "hello")) {
		return did_hello(rs, cmd, arg, argc);
	} else if (is_row(cmd, "client|tracking")) {
		set_tracking(rs, arg[2]);
	} else if (resp_number(arg[1].p, arg[1].n, &db) &&
		   db != (int64_t)rs->db) {
		rs->db = (unsigned)db;
		has_moved(rs);
	}
	return REDIS_DONE;
}

static enum redis_did
do_ours(struct redis_session *rs, const struct redis_cmd *cmd,
	const struct slice *arg, size_t argc)
{
	if (is_row(cmd, "ssubscribe"))
		return redis_say_error(rs, "ERR SSUBSCRIBE isn't allowed for a "
					   "DENY BLOCKING client");
	return redis_local(rs, cmd, arg, argc);
}

static void
tell_its_answer(struct redis_session *rs, const struct redis_cmd *cmd,
		const struct slice *arg, size_t argc, struct slice reply)
{
	if (is_row(cmd, "info"))
		redis_local_tell_info(rs, arg, argc, reply);
	else if (rs->mute == REDIS_LOUD &&
		 redis_redirect_put(rs, stream_out(&rs->s.stream), reply.p,
				    reply.n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
}

static enum redis_did
tell_noted(struct redis_session *rs, const struct note *note,
	   struct slice reply)
{
	struct resp_request r = { 0 };
	enum redis_did did = REDIS_DONE;

	if (resp_request_next(&r, note->bytes, note->n, true,
			      REDIS_REQUEST_MAX) != (ssize_t)note->n)
		abort(); /* we wrote it */
	if (note->instead == ITS_ANSWER)
		tell_its_answer(rs, note->cmd, r.arg, r.argc, reply);
	else if (note->instead == ITSELF)
		did = did_itself(rs, note->cmd, r.arg, r.argc, reply);
	else
		did = do_ours(rs, note->cmd, r.arg, r.argc);
	resp_request_free(&r);
	return did;
}

/* The bytes of the next element, all of which are there. */
static size_t
element(const uint8_t *p, size_t n)
{
	struct resp_reply reply = { 0 };
	bool done = false;
	ssize_t used = 1;
	size_t at = 0;

	while (!done && at < n && used > 0) {
		used = resp_reply_next(&reply, p + at, n - at, &done);
		at += used > 0 ? (size_t)used : 0;
	}
	return done ? at : 0;
}

/* How far it got; it waits for something, or is told, or the client closed. */
static size_t
tell_some(struct redis_session *rs, const uint8_t *p, size_t n)
{
	struct redis_multi *m = rs->multi;
	size_t at = 0, size;

	while (m->at < m->count && !session_is_over(&rs->s) &&
	       !redis_pubsub_waits(rs)) {
		if ((size = element(p + at, n - at)) == 0) {
			session_close(&rs->s, WHY_UPSTREAM_SENSE, NULL, NULL);
			return at;
		}
		if (m->next == m->n || m->note[m->next].at != m->at)
			tell(rs, p + at, size);
		else if (tell_noted(rs, &m->note[m->next],
				    slice_of(p + at, size)) == REDIS_DONE)
			m->next++;
		else
			return at;
		at += size;
		m->at++;
	}
	return at;
}

static bool
is_told(const struct redis_session *rs)
{
	const struct redis_multi *m = rs->multi;

	return m->at == m->count && !redis_pubsub_waits(rs);
}

static void
finish(struct redis_session *rs)
{
	bool skips = rs->multi->skips;

	redis_multi_forget(rs);
	rs->midway = false;
	if (skips && rs->mute != REDIS_OFF)
		rs->mute = REDIS_SKIP_NEXT;
	if (rs->sub != NULL)
		redis_pubsub_go_on(rs);
}

void
redis_multi_go_on(struct redis_session *rs)
{
	struct redis_multi *m = rs->multi;
	const uint8_t *p;
	size_t n;

	p = buf_peek(&m->rest, &n);
	buf_consume(&m->rest, tell_some(rs, p, n));
	if (!session_is_over(&rs->s) && is_told(rs))
		finish(rs);
}

/* "*3\r\n": 3, and the bytes it takes.  0: it is something else. */
static size_t
header(const uint8_t *p, size_t n, uint64_t *count)
{
	const uint8_t *lf = n > 0 && p[0] == '*' ? memchr(p, '\n', n) : NULL;
	size_t size = lf != NULL ? (size_t)(lf - p) + 1 : 0;
	int64_t value;

	if (size < 4 || !resp_number(p + 1, size - 3, &value) || value < 0)
		return 0;
	*count = (uint64_t)value;
	return size;
}

/* Of one that was not run nothing is done here either. */
static int
tell_exec(struct redis_session *rs, unsigned about, const uint8_t *p, size_t n)
{
	struct redis_multi *m = rs->multi;
	size_t at = header(p, n, &m->count);

	(void)about;
	rs->hold &= ~(unsigned)(REDIS_IN_MULTI | REDIS_WATCHES);
	if (at == 0) {
		redis_multi_forget(rs);
		tell(rs, p, n);
		return 0;
	}
	if (m->count != rs->sent - rs->began - 1) {
		session_close(&rs->s, WHY_UPSTREAM_SENSE, NULL, NULL);
		return 0;
	}
	m->telling = rs->midway = true;
	tell(rs, p, at);
	at += tell_some(rs, p + at, n - at);
	if (session_is_over(&rs->s))
		return 0;
	if (is_told(rs))
		finish(rs);
	else if (buf_put(&m->rest, p + at, n - at) != 0)
		return -1;
	return 0;
}

/* What was to be done behind it is not, unless its reply says that it was run. */
static enum redis_did
end_in_cluster(struct redis_session *rs, const struct redis_cmd *cmd,
	       size_t argc)
{
	bool is_exec = is_row(cmd, "exec");
	bool tells = rs->multi != NULL && is_exec;
	uint64_t before = rs->sent;
	enum redis_did did;

	if (tells && !redis_is_idle(rs))
		return REDIS_LATER;
	if (tells)
		redis_catch(rs, tell_exec, 0);
	did =
	    is_exec ? redis_cluster_exec(rs, argc) : redis_cluster_discard(rs);
	if (tells && rs->sent == before)
		redis_uncatch(rs);
	if (did == REDIS_DONE && rs->sent == before)
		redis_multi_forget(rs);
	return did;
}

/* EXEC, DISCARD: what they end is over whatever they say. */
static enum redis_did
run_end(struct redis_session *rs, const struct redis_cmd *cmd,
	const struct slice *arg, size_t argc)
{
	struct server *v = rs->s.lessee.server;
	bool tells = rs->multi != NULL && is_row(cmd, "exec");

	if (redis_in_cluster(rs))
		return end_in_cluster(rs, cmd, argc);
	assert(v != NULL && v == rs->via);
	if (tells && !redis_is_idle(rs))
		return REDIS_LATER;
	if (!redis_has_room(rs, v))
		return REDIS_LATER;
	redis_server_unqueue(v, &rs->s.lessee);
	redis_server_judge(v, redis_put(rs, v, arg, argc));
	if (tells) {
		redis_catch(rs, tell_exec, 0);
		return REDIS_DONE;
	}
	redis_multi_forget(rs);
	rs->hold &= ~(unsigned)(REDIS_IN_MULTI | REDIS_WATCHES);
	return REDIS_DONE;
}

/* Redis runs these at once: EXEC, DISCARD, QUIT, RESET, and the two that are
 * errors here. */
enum redis_did
redis_multi(struct redis_session *rs, const struct redis_cmd *cmd,
	    const struct slice *arg, size_t argc)
{
	assert(rs->hold & REDIS_IN_MULTI);
	if (is_row(cmd, "exec") || is_row(cmd, "discard"))
		return run_end(rs, cmd, arg, argc);
	if (is_row(cmd, "multi"))
		return redis_say_error(rs, "ERR MULTI calls can not be nested");
	if (is_row(cmd, "watch"))
		return redis_say_error(rs,
				       "ERR WATCH inside MULTI is not allowed");
	if (is_row(cmd, "quit") || is_row(cmd, "reset"))
		return redis_local(rs, cmd, arg, argc);
	return queued(rs, cmd, arg, argc);
}

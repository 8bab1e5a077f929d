#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"
#include "protocol/resp_number.h"
#include "protocol/secret.h"
#include "proxy/redis_clients.h"
#include "proxy/redis_multi.h"
#include "proxy/redis_pubsub.h"
#include "proxy/redis_redirect.h"
#include "proxy/redis_session.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

#define REDIS_VERSION "7.0.15" /* whose commands weir knows */

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

enum { USER_MAX = 255 };

static enum redis_did
say_ok(struct redis_session *rs)
{
	return redis_said(rs, resp_put_simple(redis_say(rs), "OK"));
}

static enum redis_did
say_bulk(struct redis_session *rs, struct slice text)
{
	return redis_said(rs, resp_put_bulk(redis_say(rs), text.p, text.n));
}

static enum redis_did
say_syntax(struct redis_session *rs)
{
	return redis_say_error(rs, "ERR syntax error");
}

static enum redis_did
say_arity(struct redis_session *rs, const char *name)
{
	char text[REDIS_CMD_TEXT_MAX];

	redis_cmd_arity_text(redis_cmd_find(slice_str(name)), text,
			     sizeof(text));
	return redis_say_error(rs, text);
}

bool
redis_local_forbids(const struct redis_session *rs, const struct redis_cmd *cmd,
		    const struct slice *arg, size_t argc)
{
	if (rs->redis->profile != PROFILE_SHARED)
		return false;
	switch ((enum redis_risk)cmd->risk) {
	case REDIS_SAFE:
		return false;
	case REDIS_OTHER_DB:
		return rs->s.lessee.tenant != NULL &&
		       redis_cmd_other_db(arg, argc, rs->db);
	case REDIS_PROBE:
		return rs->s.lessee.tenant != NULL;
	case REDIS_HEARS:
		return rs->s.lessee.tenant != NULL &&
		       rs->s.lessee.tenant->redis_shared;
	case REDIS_DANGER:
		break;
	}
	return true;
}

/* In Redis's words, and whose they are. */
enum redis_did
redis_local_noperm(struct redis_session *rs, const struct redis_cmd *cmd)
{
	char text[160];

	snprintf(text, sizeof(text),
		 "NOPERM this user has no permissions to run the '%s' command "
		 "(weir: profile = shared)",
		 cmd->name);
	return redis_reject(rs, text);
}

/* "ERR weir: CLIENT KILL is not supported yet", of a row `client|kill`. */
static enum redis_did
say_unsupported(struct redis_session *rs, const struct redis_cmd *cmd)
{
	char text[128], name[64];
	size_t n = 0;

	for (const char *p = cmd->name; *p != '\0' && n < sizeof(name) - 1; p++)
		name[n++] = *p == '|' ? ' ' : (char)toupper((uint8_t)*p);
	name[n] = '\0';
	snprintf(text, sizeof(text), "ERR weir: %s%s is not supported%s", name,
		 cmd->blocks ? " BLOCK" : "",
		 cmd->class == REDIS_REFUSED ? "" : " yet");
	return redis_say_error(rs, text);
}

/* ---- who is it? ------------------------------------------------------- */

/* A text that is no password but what a password was turned into. */
static bool
is_verifier(const char *password)
{
	return strncmp(password, "SCRAM-SHA-256$", 14) == 0 ||
	       (strncmp(password, "md5", 3) == 0 && strlen(password) == 35 &&
		strspn(password + 3, "0123456789abcdef") == 32);
}

/* The user these credentials prove, or NULL. */
static const struct conf_user *
prove(const struct conf *c, const char *name, struct slice password,
      const char **slug)
{
	const struct conf_user *u = route_user(c, name, slug);
	bool can = false, same;

	if (u != NULL && u->auth == AUTH_TRUST)
		return u;
	if (u != NULL && u->password != NULL && !is_verifier(u->password))
		can = u->auth == AUTH_SCRAM || u->auth == AUTH_MD5 ||
		      u->auth == AUTH_PLAIN;
	same = secret_same(password, can ? u->password : "");
	return can && same ? u : NULL;
}

static bool
is_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* Would its commands go where they go now, as who it is there? */
static bool
is_at_home(const struct redis_session *rs, const struct route *r)
{
	const struct tenant *t = rs->s.lessee.tenant;

	/* Whom it redirects to hears of what that user reads. */
	if ((rs->hold & REDIS_TRACKS) && redis_redirect_id(rs) != 0 &&
	    strcmp(rs->s.user->name, r->user->name) != 0)
		return false;
	return rs->redis == r->redis && is_same(rs->user, r->upstream_user) &&
	       is_same(rs->password, r->upstream_password) &&
	       is_same(t ? t->slug : NULL, r->tenant ? r->tenant->slug : NULL);
}

static void
come_in(struct redis_session *rs, struct route *r)
{
	struct session *s = &rs->s;

	/* What it has of its own there stays its own. */
	if (is_at_home(rs, r) && (rs->hold != 0 || redis_multi_tells(rs))) {
		if (strcmp(s->user->name, r->user->name) != 0)
			redis_redirect_deafen(rs);
		s->user = r->user;
		tenant_unref(&r->tenant);
		return;
	}
	redis_redirect_deafen(rs);
	redis_rehome(rs);
	/* What it selected was a database of where it was. */
	if (rs->redis != r->redis || s->lessee.tenant != r->tenant)
		rs->db = r->redis->db;
	s->user = r->user;
	tenant_unref(&s->tenant);
	s->tenant = s->lessee.tenant = r->tenant;
	rs->redis = r->redis;
	rs->user = r->upstream_user;
	rs->password = r->upstream_password;
	if (s->state == SESSION_HELLO)
		session_enter(s, SESSION_IDLE);
	session_logged_in(s);
}

/* In the words Redis has for its own limit.  Who is in already stays so. */
static void
say_full(struct redis_session *rs, enum why w)
{
	char text[128] = "max number of clients reached", line[160];

	if (w == WHY_RATE_CONNECTIONS)
		snprintf(text, sizeof(text),
			 "weir: rate limit of the organization, retry in "
			 "%" PRIu64 " ms",
			 rs->s.retry_ms);
	snprintf(line, sizeof(line), "ERR %s", text);
	if (rs->s.user == NULL)
		session_close(&rs->s, w, NULL, text);
	else
		redis_say_error(rs, line);
}

/* As route_redis(): the organization by its user's name, and by the host it connected to. */
static int
find_route(struct redis_session *rs, const struct conf_user *u,
	   const char *slug, struct route *r, enum why *w)
{
	const struct route_names names = {
		.slug = { slug },
		.server_name = stream_server_name(&rs->s.stream),
	};

	return route_redis(r, &rs->s, u, &names, w);
}

/* It has proved who it is, but may not go where it wants to. */
static void
say_refused(struct redis_session *rs, const struct conf_user *u, enum why w)
{
	char text[128];

	snprintf(text, sizeof(text), "%s weir: %s", why_table[w].redis,
		 why_table[w].text);
	redis_say_error(rs, text);
	if (w == WHY_NO_TENANT)
		stats_add(&rs->s.worker->stats, STAT_NO_TENANT_LOGIN, 1);
	LOG(rs->s.worker->weir->log, LOG_WARN, LOG_EV_REFUSE,
	    log_id("session", rs->s.worker->id, rs->s.id),
	    log_str("proto", "redis"), log_str("user", u->name),
	    log_str("why", why_table[w].name));
}

/* REFUSED: and told so.  LATER: it is to be tried again when woken. */
enum login { LOGIN_DONE, LOGIN_REFUSED, LOGIN_LATER };

/* As prove(), and where its commands would go: `result` as of find_route(). */
static const struct conf_user *
find_user(struct redis_session *rs, struct slice user, struct slice password,
	  struct route *r, enum why *w, int *result)
{
	const struct conf_user *u = NULL;
	char name[USER_MAX + 1];
	const char *slug;

	if (user.n <= USER_MAX && memchr(user.p, '\0', user.n) == NULL) {
		memcpy(name, user.p, user.n);
		name[user.n] = '\0';
		u = prove(rs->s.snapshot->conf, name, password, &slug);
	}
	if (u != NULL)
		*result = find_route(rs, u, slug, r, w);
	return u;
}

enum redis_who
redis_local_who(struct redis_session *rs, struct slice user,
		struct slice password)
{
	struct route r;
	enum why w;
	int result;
	bool same;

	if (find_user(rs, user, password, &r, &w, &result) == NULL ||
	    result < 0)
		return REDIS_NOBODY;
	if (result > 0)
		return REDIS_UNKNOWN_YET;
	same = is_at_home(rs, &r);
	tenant_unref(&r.tenant);
	return same ? REDIS_ITSELF : REDIS_ANOTHER;
}

static enum login
log_in(struct redis_session *rs, struct slice user, struct slice password)
{
	const struct conf_user *u;
	struct route r;
	enum why w;
	int result;

	u = find_user(rs, user, password, &r, &w, &result);
	if (u == NULL) {
		redis_say_error(rs, "WRONGPASS invalid username-password pair "
				    "or user is disabled.");
		return LOGIN_REFUSED;
	}
	if (result > 0)
		return LOGIN_LATER;
	if (result < 0) {
		say_refused(rs, u, w);
		return LOGIN_REFUSED;
	}
	if (!redis_pubsub_allows(rs, &r)) {
		tenant_unref(&r.tenant);
		redis_say_error(rs, "ERR weir: not as somebody else while "
				    "subscribed");
		return LOGIN_REFUSED;
	}
	/* What was queued behind it has run as who it is. */
	if (redis_multi_tells(rs) && !is_at_home(rs, &r)) {
		tenant_unref(&r.tenant);
		redis_say_error(rs, "ERR weir: not as somebody else inside "
				    "MULTI");
		return LOGIN_REFUSED;
	}
	/* It is there under the name of the organization it has. */
	redis_leave_queue(rs);
	if (!seats_take(&rs->s, r.user, r.tenant, &w)) {
		tenant_unref(&r.tenant);
		say_full(rs, w);
		return LOGIN_REFUSED;
	}
	come_in(rs, &r);
	return LOGIN_DONE;
}

void
redis_local_trust(struct redis_session *rs)
{
	const struct conf *c = rs->s.snapshot->conf;
	const struct conf_user *u = conf_user_find(c, "default");
	struct route r;
	enum why w;

	if (u == NULL || u->auth != AUTH_TRUST ||
	    find_route(rs, u, NULL, &r, &w) != 0)
		return;
	if (seats_take(&rs->s, u, r.tenant, &w)) {
		come_in(rs, &r);
		return;
	}
	tenant_unref(&r.tenant);
	say_full(rs, w);
}

static enum redis_did
run_auth(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	const struct conf_user *u =
	    conf_user_find(rs->s.snapshot->conf, "default");

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (argc > 3)
		return say_syntax(rs);
	if (argc == 2 && u != NULL && u->auth == AUTH_TRUST)
		return redis_say_error(
		    rs, "ERR AUTH <password> called without any password "
			"configured for the default user. Are you sure your "
			"configuration is correct?");
	switch (log_in(rs, argc == 2 ? slice_str("default") : arg[1],
		       arg[argc - 1])) {
	case LOGIN_DONE:
		return say_ok(rs);
	case LOGIN_REFUSED:
		return REDIS_DONE;
	case LOGIN_LATER:
		break;
	}
	return REDIS_LATER;
}

/* ---- HELLO ------------------------------------------------------------ */

/* Redis takes the bytes from ! to ~. */
static bool
is_clean(struct slice name)
{
	for (size_t i = 0; i < name.n; i++)
		if (name.p[i] < '!' || name.p[i] > '~')
			return false;
	return true;
}

bool
redis_local_is_name(struct slice name)
{
	return is_clean(name) && name.n <= REDIS_NAME_MAX;
}

/* False: refused, and told so. */
static bool
set_name(struct redis_session *rs, struct slice name)
{
	if (!redis_local_is_name(name)) {
		redis_say_error(rs,
				is_clean(name)
				    ? "ERR weir: client name is too long"
				    : "ERR Client names cannot contain spaces, "
				      "newlines or special characters.");
		return false;
	}
	free(rs->name);
	rs->name = NULL;
	if (name.n > 0 &&
	    (rs->name = strndup((const char *)name.p, name.n)) == NULL)
		abort();
	return true;
}

static void
or_else(char text[REDIS_FACT_MAX], const char *other)
{
	if (text[0] == '\0')
		snprintf(text, REDIS_FACT_MAX, "%s", other);
}

/* As its upstream called itself; and if it has not, as what it is here. */
static void
upstream_is(const struct redis_session *rs, struct redis_facts_of *of)
{
	redis_facts_about(&rs->s.worker->weir->facts, rs->redis, of);
	or_else(of->server, "redis");
	or_else(of->version, REDIS_VERSION);
	or_else(of->mode, "standalone");
	or_else(of->role, "master");
}

static enum redis_did
say_hello(struct redis_session *rs)
{
	struct redis_facts_of of;
	const char *const fact[][2] = {
		{ "server", of.server }, { "version", of.version },
		{ "proto", NULL },       { "id", NULL },
		{ "mode", of.mode },     { "role", of.role }
	};
	struct buf *b = redis_say(rs);
	int bad = resp_put_map(b, 7, rs->resp);

	upstream_is(rs, &of);
	for (size_t i = 0; i < sizeof(fact) / sizeof(fact[0]); i++) {
		const char *name = fact[i][0], *value = fact[i][1];

		bad |= resp_put_bulk(b, name, strlen(name));
		if (value != NULL)
			bad |= resp_put_bulk(b, value, strlen(value));
		else
			bad |= resp_put_int(b, *name == 'p'
						   ? rs->resp
						   : redis_client_id(&rs->s));
	}
	bad |= resp_put_bulk(b, "modules", 7);
	bad |= resp_put_array(b, 0);
	return redis_said(rs, bad);
}

static enum redis_did
say_hello_option(struct redis_session *rs, struct slice option)
{
	char text[256];

	snprintf(text, sizeof(text), "ERR Syntax error in HELLO option '%.*s'",
		 option.n < 128 ? (int)option.n : 128, (const char *)option.p);
	return redis_say_error(rs, text);
}

/* As Redis: from left to right, so what came before an error has happened. */
static enum login
hello_options(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum login in = LOGIN_DONE;
	bool authed = false;

	for (size_t i = 2; in == LOGIN_DONE && i < argc; i++) {
		size_t more = argc - 1 - i;

		/* Twice could wait for one after the other for ever. */
		if (!authed && slice_is_word(arg[i], "auth") && more >= 2) {
			in = log_in(rs, arg[i + 1], arg[i + 2]);
			authed = true;
			i += 2;
		} else if (slice_is_word(arg[i], "setname") && more >= 1) {
			if (!set_name(rs, arg[++i]))
				return LOGIN_REFUSED;
		} else {
			say_hello_option(rs, arg[i]);
			return LOGIN_REFUSED;
		}
	}
	return in;
}

static enum redis_did
run_hello(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	int64_t version = rs->resp;
	enum login in;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (argc > 1 && !resp_number(arg[1].p, arg[1].n, &version))
		return redis_say_error(rs, "ERR Protocol version is not an "
					   "integer or out of range");
	if (version < 2 || version > 3)
		return redis_say_error(rs,
				       "NOPROTO unsupported protocol version");
	if (version != rs->resp && rs->hold != 0 && !redis_multi_tells(rs) &&
	    !redis_has_room(rs, rs->s.lessee.server))
		return REDIS_LATER;
	in = hello_options(rs, arg, argc);
	if (in != LOGIN_DONE)
		return in == LOGIN_LATER ? REDIS_LATER : REDIS_DONE;
	if (rs->s.user == NULL)
		return redis_say_error(
		    rs, "NOAUTH HELLO must be called with the client already "
			"authenticated, otherwise the HELLO AUTH <user> <pass> "
			"option can be used to authenticate the client and "
			"select the RESP protocol version at the same time");
	if (version != rs->resp && redis_multi_tells(rs))
		redis_multi_spoke(rs);
	else if (version != rs->resp && rs->hold != 0)
		redis_own_hello(rs, (unsigned)version);
	else if (version != rs->resp)
		redis_rehome(rs);
	rs->resp = (uint8_t)version;
	return say_hello(rs);
}

/* ---- the connection --------------------------------------------------- */

bool
redis_local_may_select(const struct redis_session *rs, int64_t db)
{
	return db == rs->db || rs->s.lessee.tenant == NULL ||
	       rs->redis->profile != PROFILE_SHARED;
}

static unsigned
databases(const struct redis_session *rs)
{
	unsigned db = rs->redis->db;

	return db < REDIS_DATABASES ? REDIS_DATABASES : db + 1;
}

bool
redis_local_has_db(const struct redis_session *rs, int64_t db)
{
	return db >= 0 && db < databases(rs) &&
	       (db == 0 || !rs->redis->cluster);
}

static enum redis_did
run_select(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	int64_t db;

	(void)argc;
	if (!resp_number(arg[1].p, arg[1].n, &db))
		return redis_say_error(
		    rs, "ERR value is not an integer or out of range");
	if (db < INT32_MIN || db > INT32_MAX)
		return redis_say_error(
		    rs, "ERR value is out of range, value must between "
			"-2147483648 and 2147483647");
	if (rs->redis->cluster && db != 0)
		return redis_say_error(
		    rs, "ERR SELECT is not allowed in cluster mode");
	if (db < 0 || db >= databases(rs))
		return redis_say_error(rs, "ERR DB index is out of range");
	if (!redis_local_may_select(rs, db))
		return redis_local_noperm(rs,
					  redis_cmd_find(slice_str("select")));
	if (db != rs->db) {
		if (!redis_is_idle(rs))
			return REDIS_LATER;
		if (rs->hold != 0)
			return redis_own_select(rs, arg, argc, (unsigned)db);
		redis_rehome(rs);
		rs->db = (unsigned)db;
	}
	return say_ok(rs);
}

/* Among messages it looks like one. */
static enum redis_did
say_pong(struct redis_session *rs, struct slice text)
{
	struct buf *b = redis_say(rs);
	int bad = resp_put_array(b, 2);

	bad |= resp_put_bulk(b, "pong", 4);
	bad |= resp_put_bulk(b, text.p, text.n);
	return redis_said(rs, bad);
}

static enum redis_did
run_ping(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	if (argc > 2)
		return say_arity(rs, "ping");
	if (redis_pubsub_pongs(rs))
		return say_pong(rs, argc == 2 ? arg[1] : slice_str(""));
	if (argc == 2)
		return say_bulk(rs, arg[1]);
	return redis_said(rs, resp_put_simple(redis_say(rs), "PONG"));
}

static enum redis_did
run_echo(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)argc;
	return say_bulk(rs, arg[1]);
}

static enum redis_did
run_quit(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	say_ok(rs);
	session_close(&rs->s, WHY_QUIT, NULL, NULL);
	return REDIS_DONE;
}

static enum redis_did
run_reset(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	redis_pubsub_end(rs);
	redis_redirect_deafen(rs);
	redis_rehome(rs);
	free(rs->name);
	rs->name = NULL;
	rs->mute = REDIS_LOUD;
	rs->resp = 2;
	rs->redis = NULL;
	rs->s.user = NULL;
	rs->user = rs->password = NULL; /* its */
	rs->s.lessee.tenant = NULL;
	tenant_unref(&rs->s.tenant);
	redis_local_trust(rs);
	return redis_said(rs, resp_put_simple(redis_say(rs), "RESET"));
}

static enum redis_did
run_ok(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return say_ok(rs);
}

static enum redis_did
run_exec(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return redis_say_error(rs, "ERR EXEC without MULTI");
}

static enum redis_did
run_discard(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return redis_say_error(rs, "ERR DISCARD without MULTI");
}

/* ---- CLIENT ----------------------------------------------------------- */

static enum redis_did
run_id(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return redis_said(rs,
			  resp_put_int(redis_say(rs), redis_client_id(&rs->s)));
}

static enum redis_did
run_getname(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	if (rs->name == NULL)
		return redis_said(rs, resp_put_null(redis_say(rs), rs->resp));
	return say_bulk(rs, slice_str(rs->name));
}

static enum redis_did
run_setname(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)argc;
	return set_name(rs, arg[2]) ? say_ok(rs) : REDIS_DONE;
}

static enum redis_did
run_switch(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)argc;
	if (slice_is_word(arg[2], "on") || slice_is_word(arg[2], "off"))
		return say_ok(rs);
	return say_syntax(rs);
}

static enum redis_did
run_reply(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)argc;
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (slice_is_word(arg[2], "on")) {
		rs->mute = REDIS_LOUD;
		return say_ok(rs);
	}
	if (slice_is_word(arg[2], "off"))
		rs->mute = REDIS_OFF;
	else if (!slice_is_word(arg[2], "skip"))
		return say_syntax(rs);
	else if (redis_multi_tells(rs))
		redis_multi_skip(rs);
	else if (rs->mute != REDIS_OFF)
		rs->mute = REDIS_SKIP;
	return REDIS_DONE;
}

/* ---- INFO, ACL -------------------------------------------------------- */

/* `redis_version:7.0.15` and the like: what may be told of a server that others
 * share. */
static bool
is_told(struct slice line)
{
	static const char *const told[] = {
		"redis_version",      "redis_mode",
		"arch_bits",          "server_name",
		"valkey_version",     "loading",
		"async_loading",      "role",
		"master_link_status", "cluster_enabled",
		"maxmemory_policy"
	};
	const uint8_t *colon = memchr(line.p, ':', line.n);

	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
		if (colon != NULL &&
		    slice_is_word(slice_of(line.p, (size_t)(colon - line.p)),
				  told[i]))
			return true;
	return false;
}

/* Those lines, each section's behind its name, and a gap between sections. */
static int
put_told(struct buf *out, const uint8_t *p, size_t n)
{
	struct slice name = slice_str(""), line;
	int bad = 0;

	while (n > 0) {
		const uint8_t *lf = memchr(p, '\n', n);

		line = slice_of(p, lf != NULL ? (size_t)(lf - p) + 1 : n);
		p += line.n;
		n -= line.n;
		if (line.p[0] == '#')
			name = line;
		if (!is_told(line))
			continue;
		if (name.n > 0 && buf_len(out) > 0)
			bad |= buf_put(out, "\r\n", 2);
		bad |= buf_put(out, name.p, name.n);
		bad |= buf_put(out, line.p, line.n);
		name.n = 0;
	}
	return bad;
}

/* What weir goes by, for who may not ask the server. */
static const char *const own_info[][2] = {
	{ "server", "# Server\r\nredis_version:" REDIS_VERSION "\r\n"
		    "redis_mode:standalone\r\narch_bits:64\r\n" },
	{ "persistence", "# Persistence\r\nloading:0\r\n" },
	{ "replication", "# Replication\r\nrole:master\r\n" },
	{ "cluster", "# Cluster\r\ncluster_enabled:0\r\n" },
};

/* The sections of that that are asked for, a bit each. */
static unsigned
own_sections(const struct slice *arg, size_t argc)
{
	unsigned found = 0, all = (1u << LENGTH(own_info)) - 1;

	for (size_t i = 1; i < argc; i++) {
		if (slice_is_word(arg[i], "default") ||
		    slice_is_word(arg[i], "all") ||
		    slice_is_word(arg[i], "everything"))
			return all;
		for (size_t k = 0; k < LENGTH(own_info); k++)
			if (slice_is_word(arg[i], own_info[k][0]))
				found |= 1u << k;
	}
	return argc == 1 ? all : found;
}

static int
put_own_info(struct buf *out, unsigned sections)
{
	int bad = 0;

	for (size_t i = 0; i < LENGTH(own_info); i++) {
		if (!(sections >> i & 1))
			continue;
		if (buf_len(out) > 0)
			bad |= buf_put(out, "\r\n", 2);
		bad |= buf_put(out, own_info[i][1], strlen(own_info[i][1]));
	}
	return bad;
}

static enum redis_did
tell_own_info(struct redis_session *rs, unsigned sections)
{
	struct buf told;
	const uint8_t *text;
	size_t n;
	int bad;

	buf_init(&told, REDIS_CAUGHT_MAX);
	bad = put_own_info(&told, sections);
	text = buf_peek(&told, &n);
	redis_say_text(rs, n > 0 ? (const char *)text : "", n);
	buf_free(&told);
	if (bad)
		session_close(&rs->s, WHY_TOO_BIG, NULL, NULL);
	return REDIS_DONE;
}

/* Is it an error, but not that this user may not ask? */
static bool
is_true_error(const uint8_t *p, size_t n)
{
	static const char noperm[] = "-NOPERM";
	size_t word = sizeof(noperm) - 1;

	return n > 0 && p[0] == '-' &&
	       (n < word || memcmp(p, noperm, word) != 0);
}

static int
tell_info(struct redis_session *rs, unsigned sections, const uint8_t *p,
	  size_t n)
{
	const uint8_t *lf = n > 0 ? memchr(p, '\n', n) : NULL;
	const uint8_t *text;
	struct buf told;
	size_t head;
	int bad;

	if (lf == NULL || rs->mute != REDIS_LOUD)
		return 0;
	if (is_true_error(p, n))
		return buf_put(redis_say(rs), p, n);
	buf_init(&told, REDIS_CAUGHT_MAX);
	head = (size_t)(lf - p) + 1;
	if (p[0] == '=' && n - head > 4)
		head += 4; /* txt: */
	bad = p[0] == '-' ? put_own_info(&told, sections)
			  : put_told(&told, p + head, n - head);
	text = buf_peek(&told, &n);
	redis_say_text(rs, n > 0 ? (const char *)text : "", n);
	buf_free(&told);
	return bad;
}

void
redis_local_tell_info(struct redis_session *rs, const struct slice *arg,
		      size_t argc, struct slice said)
{
	if (tell_info(rs, own_sections(arg, argc), said.p, said.n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
}

/*
 * Redis tells of all its clients and keys.  An organization hears only what
 * clients must know before they start: the version, whether it is a master, on
 * its own, and ready.
 */
static enum redis_did
run_info(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did;

	if (rs->redis->profile != PROFILE_SHARED || rs->s.lessee.tenant == NULL)
		return redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (rs->redis
		->cluster) /* one node is not the whole, nor is it caught */
		return tell_own_info(rs, own_sections(arg, argc));
	did = redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		redis_catch(rs, tell_info, own_sections(arg, argc));
	return did;
}

/* As it is called here: of its user upstream it knows nothing. */
static enum redis_did
run_whoami(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return say_bulk(rs, slice_str(rs->s.user->name));
}

/* ---- CLUSTER ---------------------------------------------------------- */

/* What a Redis on its own says to all of them. */
static enum redis_did
run_no_cluster(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	(void)arg;
	(void)argc;
	return redis_say_error(
	    rs, "ERR This instance has cluster support disabled");
}

/* Of one connection to one node: weir's own business, where there are some. */
static enum redis_did
run_node_mode(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	return rs->redis->cluster ? say_ok(rs) : run_no_cluster(rs, arg, argc);
}

/* ---- CONFIG ----------------------------------------------------------- */

/* What redis-benchmark and queue libraries look at before they start. */
static enum redis_did
run_config_get(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	static const char memory[] = "maxmemory";

	if (rs->redis->profile != PROFILE_SHARED)
		return redis_forward(rs, arg, argc);
	for (size_t i = 2; i < argc; i++) {
		if (slice_is_word(arg[i], "save") ||
		    slice_is_word(arg[i], "appendonly"))
			continue;
		if (arg[i].n >= sizeof(memory) - 1 &&
		    strncasecmp((const char *)arg[i].p, memory,
				sizeof(memory) - 1) == 0)
			continue;
		return redis_local_noperm(
		    rs, redis_cmd_sub(redis_cmd_find(arg[0]), arg, argc));
	}
	return redis_forward(rs, arg, argc);
}

/* ---- the table -------------------------------------------------------- */

static const struct {
	const char *name; /* of a row, as in redis_cmd */
	redis_run *run;
} commands[] = {
	{ "ping", run_ping },
	{ "select", run_select },
	{ "hello", run_hello },
	{ "auth", run_auth },
	{ "client|setname", run_setname },
	{ "client|setinfo", run_ok },
	{ "echo", run_echo },
	{ "quit", run_quit },
	{ "reset", run_reset },
	{ "client|id", run_id },
	{ "client|getname", run_getname },
	{ "client|info", redis_clients_info },
	{ "client|list", redis_clients_list },
	{ "client|kill", redis_clients_kill },
	{ "client|unblock", redis_clients_unblock },
	{ "client|reply", run_reply },
	{ "client|no-evict", run_switch },
	{ "client|no-touch", run_switch },
	{ "client|getredir", redis_redirect_tell },
	{ "client|trackinginfo", redis_redirect_tell },
	{ "client|help", redis_forward },
	{ "info", run_info },
	{ "acl|whoami", run_whoami },
	{ "role", redis_forward },
	{ "command", redis_forward },
	{ "command|count", redis_forward },
	{ "command|docs", redis_forward },
	{ "command|getkeys", redis_forward },
	{ "command|getkeysandflags", redis_forward },
	{ "command|help", redis_forward },
	{ "command|info", redis_forward },
	{ "command|list", redis_forward },
	{ "config|get", run_config_get },
	{ "asking", run_node_mode },
	{ "readonly", run_node_mode },
	{ "readwrite", run_node_mode },
	{ "unwatch", run_ok },
	{ "exec", run_exec },
	{ "discard", run_discard },
	{ "subscribe", redis_pubsub_subscribe },
	{ "psubscribe", redis_pubsub_subscribe },
	{ "ssubscribe", redis_pubsub_subscribe },
	{ "unsubscribe", redis_pubsub_unsubscribe },
	{ "punsubscribe", redis_pubsub_unsubscribe },
	{ "sunsubscribe", redis_pubsub_unsubscribe },
};

enum redis_did
redis_local(struct redis_session *rs, const struct redis_cmd *cmd,
	    const struct slice *arg, size_t argc)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, cmd->name) == 0)
			return commands[i].run(rs, arg, argc);
	if (cmd->class == REDIS_LOCAL && strncmp(cmd->name, "cluster|", 8) == 0)
		return run_no_cluster(rs, arg, argc);
	return say_unsupported(rs, cmd);
}

const struct redis_cmd *
redis_local_newer(const struct redis_cmd *cmd, const struct slice *arg,
		  size_t argc)
{
	static const struct redis_cmd newer[] = {
		{ .name = "client|setinfo", .arity = 4, .class = REDIS_LOCAL },
		{ .name = "client|no-touch", .arity = 3, .class = REDIS_LOCAL },
	};

	assert(argc > 1);
	if (strcmp(cmd->name, "client") != 0)
		return NULL;
	for (size_t i = 0; i < sizeof(newer) / sizeof(newer[0]); i++)
		if (slice_is_word(arg[1], newer[i].name + cmd->name_size + 1))
			return &newer[i];
	return NULL;
}

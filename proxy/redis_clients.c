#include "proxy/redis_clients.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/resp_number.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_multi.h"
#include "proxy/redis_pubsub.h"
#include "proxy/redis_redirect.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

enum {
	WORKER_BITS = 6,
	ADDRESS_MAX = 128,
	FLAGS_MAX = 8,
	LINE_ROOM = REDIS_NAME_MAX + 1024,
	ROLL_MAX = 256 << 20 /* bytes of lines: max_client_conn is far below */
};

static_assert(CONF_WORKERS_MAX <= 1 << WORKER_BITS, "an id names its worker");

/* As Redis tells them apart; who replicates is no client of ours. */
enum kind { KIND_ANY, KIND_NORMAL, KIND_PUBSUB, KIND_NOBODY };

/* One who was there. */
struct present {
	int64_t id;
	uint64_t opened_ns;
	size_t at, n; /* its line in the text */
};

struct redis_roll {
	struct message message;
	struct weir *weir;
	unsigned home,
	    at; /* workers: whose command it is; where it is called */
	int64_t asker;
	uint64_t below; /* sessions with a smaller id are still to be called */
	char *organization, *upstream; /* of the asker; or NULL */
	/* Who is meant; 0 or NULL: anybody. */
	int64_t *id;
	size_t ids;
	enum kind kind;
	char *addr, *laddr, *user;
	enum { ROLL_LIST, ROLL_KILL, ROLL_UNBLOCK } what;
	bool skip_me;
	/* What was found. */
	bool me; /* the asker is to be killed, once it is answered */
	int64_t killed;
	struct present *present;
	size_t n, size;
	struct buf text;
	bool blocked;                 /* UNBLOCK: who is meant waits */
	bool asked;                   /* there */
	int64_t there;                /* its id upstream, 0: not known */
	uint64_t seen_ns;             /* when it waited there */
	struct sockaddr_storage peer; /* and where that is */
	char *node;                   /* of a cluster; or NULL */
	unsigned port;
};

int64_t
redis_client_id(const struct session *s)
{
	return (int64_t)(s->id << WORKER_BITS | s->worker->id);
}

unsigned
redis_client_worker(int64_t id)
{
	return (unsigned)((uint64_t)id & ((1u << WORKER_BITS) - 1));
}

struct session *
redis_client_find(struct worker *w, int64_t id)
{
	struct session *s = w->sessions;

	while (s != NULL && redis_client_id(s) != id)
		s = s->next;
	return s;
}

/* ---- a line ----------------------------------------------------------- */

/* ADDRESS:PORT, as Redis writes it; a unix socket's end may have no name. */
static void
address_text(const struct stream *st, bool peer, char *out)
{
	char host[STREAM_ADDRESS_MAX];
	unsigned port;

	if (!stream_address(st, peer, host, &port))
		snprintf(out, ADDRESS_MAX, "unix:0");
	else
		snprintf(out, ADDRESS_MAX,
			 strchr(host, ':') ? "[%.64s]:%u" : "%.64s:%u", host,
			 port);
}

static uint64_t
seconds_since(const struct session *s, uint64_t ns)
{
	return (s->worker->streams.now_ns - ns) / 1000000000u;
}

/* Redis's letters, in its order. */
static void
put_flags(const struct redis_session *rs, char out[FLAGS_MAX])
{
	char *p = out;

	if (rs->hold & REDIS_MONITORS)
		*p++ = 'O';
	if (redis_pubsub_is_on(rs))
		*p++ = 'P';
	if ((rs->hold & REDIS_IN_MULTI) || redis_multi_tells(rs))
		*p++ = 'x';
	if (rs->blocked)
		*p++ = 'b';
	if (rs->hold & REDIS_TRACKS)
		*p++ = 't';
	if ((rs->hold & REDIS_TRACKS) && redis_redirect_is_broken(rs))
		*p++ = 'R';
	if (rs->s.is_unix)
		*p++ = 'U';
	if (p == out)
		*p++ = 'N';
	*p = '\0';
}

/* Commands of its transaction so far; -1: it is in none. */
static int64_t
queued(const struct redis_session *rs)
{
	if (redis_multi_tells(rs))
		return (int64_t)(rs->sent - rs->began) - 1;
	return rs->hold & REDIS_IN_MULTI ? (int64_t)(rs->sent - rs->began) : -1;
}

/* Without its end of line.  Returns its length. */
static size_t
put_line(const struct redis_session *rs, char *line)
{
	const struct session *s = &rs->s;
	char addr[ADDRESS_MAX], laddr[ADDRESS_MAX], flags[FLAGS_MAX];
	size_t in, out = buf_len(&s->stream.out);
	int n;

	stream_peek(&s->stream, &in);
	put_flags(rs, flags);
	address_text(&s->stream, true, addr);
	address_text(&s->stream, false, laddr);
	n = snprintf(
	    line, LINE_ROOM,
	    "id=%" PRId64 " addr=%s laddr=%s fd=%d name=%s age=%" PRIu64
	    " idle=%" PRIu64
	    " flags=%s db=%u sub=%zu psub=%zu ssub=%zu multi=%" PRId64 " "
	    "qbuf=%zu qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=%zu "
	    "oll=0 omem=0 tot-mem=%zu events=%s cmd=%s user=%.255s "
	    "redir=%" PRId64 " "
	    "resp=%u",
	    redis_client_id(s), addr, laddr, s->stream.fd,
	    rs->name ? rs->name : "", seconds_since(s, s->opened_ns),
	    seconds_since(s, rs->ran_ns), flags, rs->db,
	    redis_pubsub_count(rs, RESP_CHANNEL),
	    redis_pubsub_count(rs, RESP_PATTERN),
	    redis_pubsub_count(rs, RESP_SHARD), queued(rs), in, out, in + out,
	    out > 0 ? "rw" : "r", rs->ran != NULL ? rs->ran->name : "NULL",
	    s->user->name, rs->hold & REDIS_TRACKS ? redis_redirect_id(rs) : -1,
	    rs->resp);
	assert(n > 0 && n < LINE_ROOM);
	return (size_t)n;
}

enum redis_did
redis_clients_info(struct redis_session *rs, const struct slice *arg,
		   size_t argc)
{
	char line[LINE_ROOM + 1];
	size_t n = put_line(rs, line);

	(void)arg;
	(void)argc;
	line[n++] = '\n';
	return redis_say_text(rs, line, n);
}

/* ---- who is meant ----------------------------------------------------- */

static bool
is_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* Of the asker's own: nobody else is looked at any closer. */
static bool
is_own(const struct redis_roll *r, const struct session *s)
{
	const struct redis_session *rs = (const void *)s;
	const struct tenant *t = s->lessee.tenant;

	if (s->proto != &redis_proto || s->user == NULL || session_is_over(s))
		return false;
	if (!is_same(t != NULL ? t->slug : NULL, r->organization))
		return false;
	return t != NULL || strcmp(rs->redis->name, r->upstream) == 0;
}

static int
by_id(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static bool
has_address(const struct session *s, const char *want, bool peer)
{
	char text[ADDRESS_MAX];

	if (want == NULL)
		return true;
	address_text(&s->stream, peer, text);
	return strcmp(text, want) == 0;
}

static bool
is_asker(const struct redis_roll *r, const struct session *s)
{
	return redis_client_id(s) == r->asker;
}

static enum kind
client_kind(const struct session *s)
{
	const struct redis_session *rs = (const void *)s;

	return redis_pubsub_is_on(rs) ? KIND_PUBSUB : KIND_NORMAL;
}

static bool
is_meant(const struct redis_roll *r, const struct session *s)
{
	int64_t id = redis_client_id(s);

	if (!is_own(r, s) || (r->skip_me && is_asker(r, s)))
		return false;
	if (r->kind != KIND_ANY && r->kind != client_kind(s))
		return false;
	if (r->ids > 0 &&
	    bsearch(&id, r->id, r->ids, sizeof(id), by_id) == NULL)
		return false;
	if (r->user != NULL && strcmp(r->user, s->user->name) != 0)
		return false;
	return has_address(s, r->addr, true) && has_address(s, r->laddr, false);
}

/* ---- the call --------------------------------------------------------- */

static void
roll_free(struct redis_roll **at)
{
	struct redis_roll *r = *at;

	*at = NULL;
	if (r == NULL)
		return;
	free(r->organization);
	free(r->upstream);
	free(r->id);
	free(r->addr);
	free(r->laddr);
	free(r->user);
	free(r->node);
	free(r->present);
	buf_free(&r->text);
	free(r);
}

void
redis_clients_part(struct redis_session *rs)
{
	roll_free(&rs->roll);
}

static void
note(struct redis_roll *r, struct session *s)
{
	char line[LINE_ROOM];
	size_t n = put_line(redis_session(s), line);

	if (r->n == r->size) {
		r->size = r->size ? r->size * 2 : 16;
		r->present = realloc(r->present, r->size * sizeof(*r->present));
		if (r->present == NULL)
			abort();
	}
	r->present[r->n] = (struct present){ .id = redis_client_id(s),
					     .opened_ns = s->opened_ns,
					     .at = buf_len(&r->text),
					     .n = n };
	if (buf_put(&r->text, line, n) == 0)
		r->n++;
}

static void
call_kill(struct redis_roll *r, struct session *s)
{
	r->killed++;
	if (is_asker(r, s))
		r->me = true;
	else
		session_close(s, WHY_KILLED, NULL, NULL);
}

static void
call_unblock(struct redis_roll *r, struct session *s)
{
	const struct redis_session *rs = redis_session(s);
	struct server *v = s->lessee.server;

	/* What waits may be elsewhere. */
	if (!rs->blocked || v == NULL || rs->via != v || v->ledger.n == 0)
		return;
	r->blocked = true;
	r->there = redis_server_spend(v);
	r->seen_ns = s->worker->streams.now_ns;
	redis_server_peer(v, &r->peer);
	if (v->pool->node == NULL)
		return;
	r->node = mem_text(v->pool->node, strlen(v->pool->node));
	r->port = v->pool->node_port;
}

static void
call(struct redis_roll *r, struct session *s)
{
	if (!is_meant(r, s))
		return;
	switch (r->what) {
	case ROLL_LIST:
		note(r, s);
		break;
	case ROLL_KILL:
		call_kill(r, s);
		break;
	case ROLL_UNBLOCK:
		call_unblock(r, s);
		break;
	}
}

/* The list has the youngest first, so what comes anew is not called. */
static bool
call_some(struct redis_roll *r, struct worker *w)
{
	struct session_cursor c;
	struct session *s = NULL;
	unsigned n = 0;

	/* To call one may end others. */
	session_cursor_open(&c, w);
	while (n < REDIS_ROLL_STEP && (s = session_cursor_next(&c)) != NULL) {
		if (s->id >= r->below)
			continue;
		r->below = s->id;
		call(r, s);
		n++;
	}
	session_cursor_close(&c);
	return s == NULL;
}

static void
come_home(struct redis_roll *r, struct worker *w)
{
	struct session *s = redis_client_find(w, r->asker);

	if (s == NULL || session_is_over(s)) {
		roll_free(&r);
		return;
	}
	assert(redis_session(s)->calling);
	redis_session(s)->calling = false;
	redis_session(s)->roll = r;
	session_wake(s);
}

static void
visit(struct message *m, void *owner)
{
	struct redis_roll *r = (struct redis_roll *)(void *)m;
	struct worker *w = owner;

	/* Its last turn: other workers, and the asker, may be no more. */
	if (w->drain_ns != 0 && w->sessions_n == 0) {
		roll_free(&r);
		return;
	}
	if (r->at == r->weir->workers) {
		come_home(r, w);
		return;
	}
	assert(w->id == r->at);
	if (call_some(r, w)) {
		r->at = r->what == ROLL_UNBLOCK ? r->weir->workers : r->at + 1;
		r->below = UINT64_MAX;
	}
	mailbox_post(
	    r->weir->mailboxes[r->at < r->weir->workers ? r->at : r->home], m);
}

static struct redis_roll *
roll_open(const struct redis_session *rs)
{
	const struct session *s = &rs->s;
	struct redis_roll *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->message.run = visit;
	r->weir = s->worker->weir;
	r->home = s->worker->id;
	r->asker = redis_client_id(s);
	r->below = UINT64_MAX;
	buf_init(&r->text, ROLL_MAX);
	if (s->lessee.tenant != NULL)
		r->organization = strdup(s->lessee.tenant->slug);
	else
		r->upstream = strdup(rs->redis->name);
	if (r->organization == NULL && r->upstream == NULL)
		abort();
	return r;
}

static enum redis_did
send_out(struct redis_session *rs, struct redis_roll *r)
{
	if (r->ids > 0)
		qsort(r->id, r->ids, sizeof(*r->id), by_id);
	rs->calling = true;
	mailbox_post(r->weir->mailboxes[r->at], &r->message);
	return REDIS_LATER;
}

/* ---- what is asked ---------------------------------------------------- */

static char *
text_of(struct slice a)
{
	char *text = strndup((const char *)a.p, a.n);

	if (text == NULL)
		abort();
	return text;
}

static enum redis_did
say_syntax(struct redis_session *rs)
{
	return redis_say_error(rs, "ERR syntax error");
}

/* "ERR Unknown client type 'x'": what a name is no name of. */
static bool
refuse_name(struct redis_session *rs, const char *what, struct slice name)
{
	char text[192];

	snprintf(text, sizeof(text), "ERR %s '%.*s'", what,
		 name.n < 128 ? (int)name.n : 128, (const char *)name.p);
	redis_say_error(rs, text);
	return false;
}

static bool
kind_of(struct redis_session *rs, struct slice name, enum kind *kind)
{
	static const struct {
		const char *name;
		enum kind kind;
	} kinds[] = {
		{ "normal", KIND_NORMAL },  { "pubsub", KIND_PUBSUB },
		{ "replica", KIND_NOBODY }, { "slave", KIND_NOBODY },
		{ "master", KIND_NOBODY },
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (!slice_is_word(name, kinds[i].name))
			continue;
		*kind = kinds[i].kind;
		return true;
	}
	return refuse_name(rs, "Unknown client type", name);
}

static void
add_id(struct redis_roll *r, int64_t id)
{
	int64_t *more = realloc(r->id, (r->ids + 1) * sizeof(*more));

	if (more == NULL)
		abort();
	r->id = more;
	r->id[r->ids++] = id;
}

/* LIST; false: refused, and told so. */
static bool
list_options(struct redis_session *rs, struct redis_roll *r,
	     const struct slice *arg, size_t argc)
{
	int64_t id;

	if (argc == 2)
		return true;
	if (argc == 4 && slice_is_word(arg[2], "type"))
		return kind_of(rs, arg[3], &r->kind);
	if (argc == 3 || !slice_is_word(arg[2], "id")) {
		say_syntax(rs);
		return false;
	}
	for (size_t i = 3; i < argc; i++) {
		if (!resp_number(arg[i].p, arg[i].n, &id)) {
			redis_say_error(rs, "ERR Invalid client ID");
			return false;
		}
		if (r->ids == REDIS_ROLL_IDS) {
			redis_say_error(rs, "ERR weir: too many client IDs");
			return false;
		}
		add_id(r, id);
	}
	return true;
}

/* As Redis knows its ACL users; those of others are none. */
static bool
is_user(const struct redis_session *rs, const char *name)
{
	const struct conf_user *u = conf_user_find(rs->s.snapshot->conf, name);
	const struct tenant *t = rs->s.lessee.tenant;

	if (u == NULL || t == NULL || u->organization == NULL)
		return u != NULL;
	return strcmp(u->organization->slug, t->slug) == 0;
}

static bool
kill_user(struct redis_session *rs, struct redis_roll *r, struct slice name)
{
	free(r->user);
	r->user = text_of(name);
	if (is_user(rs, r->user))
		return true;
	return refuse_name(rs, "No such user", name);
}

static bool
kill_id(struct redis_session *rs, struct redis_roll *r, struct slice text)
{
	int64_t id;

	if (!resp_number(text.p, text.n, &id) || id < 1) {
		redis_say_error(rs, "ERR client-id should be greater than 0");
		return false;
	}
	r->ids = 0; /* the last one counts */
	add_id(r, id);
	return true;
}

static bool
kill_address(char **at, struct slice text)
{
	free(*at);
	*at = text_of(text);
	return true;
}

static bool
kill_option(struct redis_session *rs, struct redis_roll *r, struct slice name,
	    struct slice value)
{
	if (slice_is_word(name, "id"))
		return kill_id(rs, r, value);
	if (slice_is_word(name, "type"))
		return kind_of(rs, value, &r->kind);
	if (slice_is_word(name, "addr"))
		return kill_address(&r->addr, value);
	if (slice_is_word(name, "laddr"))
		return kill_address(&r->laddr, value);
	if (slice_is_word(name, "user"))
		return kill_user(rs, r, value);
	r->skip_me = slice_is_word(value, "yes");
	if (slice_is_word(name, "skipme") &&
	    (r->skip_me || slice_is_word(value, "no")))
		return true;
	say_syntax(rs);
	return false;
}

/* KILL; with one argument that is an address, and one's own will do. */
static bool
kill_options(struct redis_session *rs, struct redis_roll *r,
	     const struct slice *arg, size_t argc)
{
	r->what = ROLL_KILL;
	if (argc == 3)
		return kill_address(&r->addr, arg[2]);
	r->skip_me = true;
	for (size_t i = 2; i < argc; i += 2) {
		if (i + 1 == argc) {
			say_syntax(rs);
			return false;
		}
		if (!kill_option(rs, r, arg[i], arg[i + 1]))
			return false;
	}
	return true;
}

/* ---- the answer ------------------------------------------------------- */

static int
by_age(const void *a, const void *b)
{
	const struct present *x = a, *y = b;

	if (x->opened_ns != y->opened_ns)
		return x->opened_ns < y->opened_ns ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

static int
has_id(const void *key, const void *p)
{
	return by_id(key, &((const struct present *)p)->id);
}

static int
by_present_id(const void *a, const void *b)
{
	return by_id(&((const struct present *)a)->id,
		     &((const struct present *)b)->id);
}

static void
put_present(const struct redis_roll *r, const struct present *p,
	    struct buf *out)
{
	const uint8_t *text;
	size_t n;

	text = buf_peek(&r->text, &n);
	assert(p->at + p->n <= n);
	if (buf_put(out, text + p->at, p->n) != 0 || buf_put(out, "\n", 1) != 0)
		abort(); /* lines of REDIS_ROLL_IDS at most, or each once */
}

/* As they came; with ids as these were named, each as often. */
static void
put_list(struct redis_roll *r, const struct slice *arg, size_t argc,
	 struct buf *out)
{
	const struct present *p;
	int64_t id;

	if (r->n == 0)
		return;
	qsort(r->present, r->n, sizeof(*r->present),
	      r->ids > 0 ? by_present_id : by_age);
	for (size_t i = 0; r->ids == 0 && i < r->n; i++)
		put_present(r, &r->present[i], out);
	for (size_t i = 3; r->ids > 0 && i < argc; i++) {
		p = NULL;
		if (resp_number(arg[i].p, arg[i].n, &id))
			p = bsearch(&id, r->present, r->n, sizeof(*p), has_id);
		if (p != NULL)
			put_present(r, p, out);
	}
}

enum redis_did
redis_clients_list(struct redis_session *rs, const struct slice *arg,
		   size_t argc)
{
	struct redis_roll *r = rs->roll;
	const uint8_t *text;
	struct buf out;
	size_t n;

	if (rs->calling || !redis_is_idle(rs))
		return REDIS_LATER;
	if (r == NULL) {
		r = roll_open(rs);
		if (list_options(rs, r, arg, argc))
			return send_out(rs, r);
		roll_free(&r);
		return REDIS_DONE;
	}
	buf_init(&out, ROLL_MAX + r->n + LINE_ROOM * REDIS_ROLL_IDS);
	put_list(r, arg, argc, &out);
	text = buf_peek(&out, &n);
	redis_say_text(rs, (const char *)text, n);
	buf_free(&out);
	roll_free(&rs->roll);
	return REDIS_DONE;
}

static enum redis_did
say_killed(struct redis_session *rs, const struct redis_roll *r, bool old)
{
	if (!old)
		return redis_said(rs, resp_put_int(redis_say(rs), r->killed));
	if (r->killed == 0)
		return redis_say_error(rs, "ERR No such client");
	return redis_said(rs, resp_put_simple(redis_say(rs), "OK"));
}

enum redis_did
redis_clients_kill(struct redis_session *rs, const struct slice *arg,
		   size_t argc)
{
	struct redis_roll *r = rs->roll;
	bool me;

	if (rs->calling || !redis_is_idle(rs))
		return REDIS_LATER;
	if (r == NULL) {
		r = roll_open(rs);
		if (kill_options(rs, r, arg, argc))
			return send_out(rs, r);
		roll_free(&r);
		return REDIS_DONE;
	}
	say_killed(rs, r, argc == 3);
	me = r->me;
	roll_free(&rs->roll);
	if (me)
		session_close(&rs->s, WHY_KILLED, NULL, NULL);
	return REDIS_DONE;
}

/* ---- UNBLOCK ---------------------------------------------------------- */

/* As Redis reads them; false: refused, and told so. */
static bool
unblock_options(struct redis_session *rs, const struct slice *arg, size_t argc,
		int64_t *id)
{
	char text[128];

	if (argc > 4) {
		snprintf(text, sizeof(text),
			 "ERR unknown subcommand or wrong number of arguments "
			 "for '%.*s'. Try CLIENT HELP.",
			 (int)arg[1].n, (const char *)arg[1].p);
		redis_say_error(rs, text);
		return false;
	}
	if (argc == 4 && !slice_is_word(arg[3], "timeout") &&
	    !slice_is_word(arg[3], "error")) {
		redis_say_error(rs, "ERR CLIENT UNBLOCK reason should be "
				    "TIMEOUT or ERROR");
		return false;
	}
	if (resp_number(arg[2].p, arg[2].n, id))
		return true;
	redis_say_error(rs, "ERR value is not an integer or out of range");
	return false;
}

/* Where its id is one. */
static bool
is_same_server(const struct redis_roll *r, const struct server *v)
{
	struct sockaddr_storage peer;

	redis_server_peer(v, &peer);
	return memcmp(&peer, &r->peer, sizeof(peer)) == 0;
}

/* Its answer is an element of EXEC's. */
static int
tell_unblocked(struct redis_session *rs, unsigned about, const uint8_t *p,
	       size_t n)
{
	(void)about;
	session_wake(&rs->s);
	return rs->mute == REDIS_LOUD ? stream_put(&rs->s.stream, p, n) : 0;
}

/* What its transaction was asked on; or NULL, and it was told. */
static struct server *
unblock_behind_exec(struct redis_session *rs)
{
	struct server *v = rs->s.lessee.server;

	if (v != NULL && !redis_server_full(v, &rs->s.lessee))
		return v;
	redis_say_error(rs, "ERR weir: upstream connection lost");
	return NULL;
}

/* It comes again when that is answered, or undone. */
static enum redis_did
unblock_at_node(struct redis_session *rs, const struct slice *ask, size_t argc)
{
	struct redis_roll *r = rs->roll;
	const struct redis_place at = { .name =
					    slice_str(r->node ? r->node : ""),
					.port = r->port };

	if (redis_cluster_tell_node(rs, &at, r->seen_ns, ask, argc) ==
	    REDIS_LATER)
		return REDIS_LATER;
	r->asked = true;
	if (redis_is_idle(rs))
		session_wake(&rs->s);
	return REDIS_LATER;
}

/* Who is it now? */
static enum redis_did
unblock_anew(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	roll_free(&rs->roll);
	return redis_clients_unblock(rs, arg, argc);
}

static enum redis_did
unblock_there(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	enum redis_did did = REDIS_DONE;
	struct redis_roll *r = rs->roll;
	struct slice ask[4] = { arg[0], arg[1] };
	bool tells = redis_multi_tells(rs);
	struct server *v;
	char id[32];

	if (!seat_pay_ahead(&rs->s, 1))
		return redis_say_rate(rs);
	snprintf(id, sizeof(id), "%" PRId64, r->there);
	ask[2] = slice_str(id);
	if (argc == 4)
		ask[3] = arg[3];
	if (redis_in_cluster(rs))
		return unblock_at_node(rs, ask, argc);
	v = tells ? unblock_behind_exec(rs) : redis_share(rs, 1, &did);
	if (v == NULL)
		return did;
	/* A server that has begun anew gives the same ids to others. */
	if (!tells && v->opened_ns >= r->seen_ns)
		return unblock_anew(rs, arg, argc);
	if (!is_same_server(r, v))
		return redis_say_error(rs, "ERR weir: CLIENT UNBLOCK: that "
					   "client is on another server");
	redis_put(rs, v, ask, argc);
	if (!tells)
		return REDIS_DONE;
	redis_catch(rs, tell_unblocked, 0);
	r->asked = true;
	return REDIS_LATER;
}

static enum redis_did
say_not_unblocked(struct redis_session *rs)
{
	if (!rs->roll->blocked)
		return redis_said(rs, resp_put_int(redis_say(rs), 0));
	return redis_say_error(
	    rs, "ERR weir: CLIENT UNBLOCK needs a user that may ask for "
		"CLIENT ID upstream");
}

static enum redis_did
unblock(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	if (rs->roll->asked)
		return redis_cluster_undid(rs)
			   ? unblock_anew(rs, arg, argc)
			   : REDIS_DONE; /* it is answered */
	if (rs->roll->there == 0)
		return say_not_unblocked(rs);
	return unblock_there(rs, arg, argc);
}

/* Only the worker that the id names is asked. */
enum redis_did
redis_clients_unblock(struct redis_session *rs, const struct slice *arg,
		      size_t argc)
{
	struct redis_roll *r = rs->roll;
	enum redis_did did;
	int64_t id;

	if (rs->calling || !redis_is_idle(rs))
		return REDIS_LATER;
	if (r == NULL) {
		if (!unblock_options(rs, arg, argc, &id))
			return REDIS_DONE;
		r = roll_open(rs);
		r->what = ROLL_UNBLOCK;
		add_id(r, id);
		r->at = redis_client_worker(id);
		if (r->at < r->weir->workers)
			return send_out(rs, r);
		rs->roll = r;
	}
	did = unblock(rs, arg, argc);
	if (did == REDIS_DONE)
		roll_free(&rs->roll);
	return did;
}

/*
 * console_peers: who is connected: SHOW CLIENTS and SHOW SERVERS.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "pool/pg_server.h"
#include "proxy/console_shows.h"
#include "proxy/pg_session.h"
#include "proxy/redis_session.h"
#include "proxy/worker.h"

/* What both tables say, in the order of their columns. */
struct peer {
	const char *type, *user, *database, *state;
	char addr[STREAM_ADDRESS_MAX], local_addr[STREAM_ADDRESS_MAX];
	char since[32], asked[32], ptr[32], link[32];
	char application[64];
	int64_t port, local_port, wait_us, close_needed, pid, statements;
	const char *tls, *proto, *tenant;
	bool has_asked, has_link, pinned;
};

static void
peer_add(struct console_rows *r, const struct peer *p)
{
	console_rows_add(r, (union console_cell[]){
				{ .text = p->type },
				{ .text = p->user },
				{ .text = p->database },
				{ .text = p->state },
				{ .text = p->addr },
				{ .number = p->port },
				{ .text = p->local_addr },
				{ .number = p->local_port },
				{ .text = p->since },
				{ .text = p->has_asked ? p->asked : NULL },
				{ .number = p->wait_us },
				{ .number = p->wait_us },
				{ .number = p->close_needed },
				{ .text = p->ptr },
				{ .text = p->has_link ? p->link : "" },
				{ .number = p->pid },
				{ .text = p->tls },
				{ .text = p->application },
				{ .number = p->statements },
				{ .text = p->proto },
				{ .text = p->tenant },
				{ .number = p->pinned },
			    });
}

/* A unix socket, and one that is closed, has no address. */
static void
put_address(const struct stream *st, bool peer, char out[STREAM_ADDRESS_MAX],
	    int64_t *port)
{
	unsigned number = 0;

	if (!stream_address(st, peer, out, &number))
		snprintf(out, STREAM_ADDRESS_MAX, "unix");
	*port = number;
}

static void
put_stream(struct peer *p, const struct stream *st)
{
	put_address(st, true, p->addr, &p->port);
	put_address(st, false, p->local_addr, &p->local_port);
	p->tls =
	    st->ssl != NULL && !st->opening ? SSL_get_version(st->ssl) : "";
}

/* A moment of the monotonic clock, as the other one had it. */
static void
put_time(const struct worker *w, uint64_t ns, char out[32])
{
	uint64_t now = w->streams.now_ns > ns ? w->streams.now_ns : ns;
	time_t then = time(NULL) - (time_t)((now - ns) / 1000000000u);
	struct tm tm;

	gmtime_r(&then, &tm);
	strftime(out, 32, "%Y-%m-%d %H:%M:%S UTC", &tm);
}

static void
put_id(unsigned worker, uint64_t id, char out[32])
{
	snprintf(out, 32, "%u.%llx", worker, (unsigned long long)id);
}

static void
put_number(unsigned n, char out[12])
{
	snprintf(out, 12, "%u", n);
}

static const char *
value_of(const struct label *l, const char *name)
{
	for (size_t i = 0; l != NULL && i < l->n; i++)
		if (strcasecmp(l->pair[i].name, name) == 0)
			return l->pair[i].value;
	return "";
}

/* As PostgreSQL shows it: so much of it, and what is not printable as '?'. */
static void
put_application(struct peer *p, const char *name)
{
	size_t n = 0;

	for (; name[n] != '\0' && n + 1 < sizeof(p->application); n++)
		p->application[n] =
		    name[n] >= ' ' && name[n] <= '~' ? name[n] : '?';
	p->application[n] = '\0';
}

/* ---- clients ---------------------------------------------------------- */

static const char *
client_state(const struct session *s)
{
	switch (s->state) {
	case SESSION_TLS:
	case SESSION_HELLO:
	case SESSION_AUTH:
	case SESSION_REFUSED:
		return "login";
	case SESSION_WAIT:
		return s->logged_in ? "waiting" : "waiting_login";
	case SESSION_BATCH:
	case SESSION_LEASED:
		return "active";
	case SESSION_IDLE:
		return "idle";
	case SESSION_DRAIN:
	case SESSION_DEAD:
	case SESSION_MAX:
		break;
	}
	return "closing";
}

static void
put_pg_client(struct peer *p, const struct session *s)
{
	const struct pg_session *ps = (const void *)s;

	p->database = s->pool != NULL ? s->pool->dbname
		      : ps->console   ? "weir"
				      : NULL;
	put_application(p, value_of(s->lessee.label, "application_name"));
	p->statements = (int64_t)ps->names.n;
	p->pinned = ps->pinned;
	p->has_asked = ps->ask_ns != 0;
	if (p->has_asked)
		put_time(s->worker, ps->ask_ns, p->asked);
}

static void
put_redis_client(struct peer *p, const struct session *s, char db[12])
{
	const struct redis_session *rs = (const void *)s;

	put_number(rs->db, db);
	p->database = db;
	put_application(p, rs->name ? rs->name : "");
	p->has_asked = rs->ran_ns != 0;
	if (p->has_asked)
		put_time(s->worker, rs->ran_ns, p->asked);
}

static void
see_client(struct console_rows *r, const struct session *s)
{
	const struct server *v = s->lessee.server;
	struct peer p = { .type = "C", .state = client_state(s) };
	char db[12];

	p.user = s->user != NULL ? s->user->name : NULL;
	p.proto = s->proto->name;
	p.tenant = s->lessee.tenant != NULL ? s->lessee.tenant->slug : NULL;
	put_stream(&p, &s->stream);
	put_time(s->worker, s->opened_ns, p.since);
	put_id(s->worker->id, s->id, p.ptr);
	if (s->proto == &pg_proto)
		put_pg_client(&p, s);
	else
		put_redis_client(&p, s, db);
	if ((p.has_link = v != NULL))
		put_id(v->worker, v->id, p.link);
	if (s->lessee.waiting != NULL)
		p.wait_us =
		    (int64_t)((s->worker->streams.now_ns - s->lessee.since_ns) /
			      1000u);
	peer_add(r, &p);
}

bool
console_clients_each(struct console_rows *r, struct worker *w, size_t *at)
{
	struct session_cursor *c = console_rows_cursor(r);
	struct session *s;

	if ((*at)++ == 0)
		session_cursor_open(c, w);
	for (int i = 0; i < CONSOLE_SLICE; i++) {
		if ((s = session_cursor_next(c)) == NULL)
			return false;
		see_client(r, s);
	}
	return true;
}

/* ---- servers ---------------------------------------------------------- */

static const char *
server_state(const struct server *v)
{
	if (v->cancels > 0)
		return "being_canceled";
	switch (v->state) {
	case SERVER_DIAL:
	case SERVER_LOGIN:
		return "new";
	case SERVER_RESET:
		return "tested";
	case SERVER_LEASED:
		return "active";
	case SERVER_SHARED:
		return v->ledger.n > 0 ? "active" : "idle";
	case SERVER_IDLE:
	case SERVER_MOVING:
	case SERVER_DEAD:
	case SERVER_MAX:
		break;
	}
	return "idle";
}

/* The stamp of one whose lessee has left, or has another by now, may be of an
 * organization that is no more. */
static const char *
server_tenant(const struct server *v)
{
	const struct tenant *t = v->lessee != NULL ? v->lessee->tenant : NULL;

	return t != NULL && t == v->tenant ? t->slug : NULL;
}

static void
see_server(struct console_rows *r, const struct worker *w,
	   const struct server *v)
{
	const struct pool *p = v->pool;
	struct peer see = { .type = "S", .state = server_state(v) };
	const struct session *s;
	char db[12];

	see.user = p->user;
	see.database = p->dbname;
	see.proto = v->ops->proto;
	see.close_needed = server_is_unwanted(v);
	put_stream(&see, &v->stream);
	put_time(w, v->ready ? v->opened_ns : v->began_ns, see.since);
	put_id(v->worker, v->id, see.ptr);
	if (p->postgres != NULL) {
		const struct pg_server *pg = (const void *)v;

		see.pid = pg->pid;
		see.statements = pg->held.n;
		see.pinned = pg->pinned;
		see.tenant = server_tenant(v);
	} else {
		put_number(p->db, db);
		see.database = db;
	}
	s = v->lessee != NULL ? pg_session_of(v->lessee) : NULL;
	if ((see.has_link = s != NULL))
		put_id(w->id, s->id, see.link);
	peer_add(r, &see);
}

/* Whole buckets of pools. */
bool
console_servers_each(struct console_rows *r, struct worker *w, size_t *at)
{
	unsigned n = 0;

	for (; *at < POOL_BUCKETS && n < CONSOLE_SLICE; ++*at)
		for (const struct pool *p = w->pools.bucket[*at]; p;
		     p = p->chain)
			for (int state = 0; state < SERVER_DEAD; state++)
				for (const struct server *v = p->list[state]; v;
				     v = v->next, n++)
					see_server(r, w, v);
	return *at < POOL_BUCKETS;
}

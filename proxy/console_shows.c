#include "proxy/console_shows.h"

#include <stdio.h>
#include <strings.h>

#include "pool/pg_server.h"
#include "pool/redis_server.h"
#include "proxy/pg_batch.h"
#include "proxy/pg_session.h"
#include "proxy/redis_session.h"
#include "proxy/worker.h"

/* ---- batches, pools ---------------------------------------------------- */

static void
see_batch(void *arg, const struct pg_batch_seen *b)
{
	/* Totals are of a table, what is under way of an organization. */
	bool total = b->organization == NULL;

#define NUMBER(when, n) { .number = (when) ? (int64_t)(n) : CONSOLE_NULL }
	console_rows_add(
	    arg, (union console_cell[]){ { .text = b->table },
					 { .text = b->organization },
					 { .text = b->database },
					 NUMBER(!total, b->lanes),
					 NUMBER(!total, b->waiting),
					 NUMBER(!total, b->waiting_bytes),
					 NUMBER(!total, b->sent),
					 NUMBER(!total, b->wait_us),
					 NUMBER(total, b->operations),
					 NUMBER(total, b->commits),
					 NUMBER(total, b->replayed),
					 NUMBER(total, b->unknown) });
#undef NUMBER
}

static bool
batches_each(struct console_rows *r, struct worker *w, size_t *at)
{
	(void)at;
	pg_batches_see(w, see_batch, r);
	return false;
}

static const char *
pool_mode(const struct pool *p)
{
	static const char *const name[] = {
		[POOL_MODE_TRANSACTION] = "transaction",
		[POOL_MODE_SESSION] = "session",
		[POOL_MODE_STATEMENT] = "statement",
	};

	return name[p->postgres->pool_mode];
}

static void
see_pool(struct console_rows *r, const struct pool *p, uint64_t now_ns)
{
	unsigned waiting = p->waiters.n, users = p->users;
	uint64_t us = 0;

	if (waiting > 0)
		us = (now_ns - fair_oldest_ns(&p->waiters)) / 1000u;
	console_rows_add(
	    r, (union console_cell[]){
		   { .text = p->dbname },
		   { .text = p->user },
		   { .number = users > waiting ? users - waiting : 0 },
		   { .number = waiting },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_LEASED] },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_IDLE] },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_DIAL] + p->n[SERVER_LOGIN] },
		   { .number = (int64_t)us },
		   { .number = (int64_t)us },
		   { .text = pool_mode(p) },
	       });
}

static bool
pools_each(struct console_rows *r, struct worker *w, size_t *at)
{
	unsigned n = 0;

	for (; *at < POOL_BUCKETS && n < CONSOLE_SLICE; ++*at)
		for (const struct pool *p = w->pools.bucket[*at]; p;
		     p = p->chain, n++)
			if (p->postgres != NULL)
				see_pool(r, p, w->streams.now_ns);
	return *at < POOL_BUCKETS;
}

/* ---- what is counted --------------------------------------------------- */

/* Of all databases together: weir counts no transactions of one. */
static void
stats_here(struct console_rows *r, const struct worker *w)
{
	struct weir *weir = w->weir;

#define SUM(id) \
	{ .number = (int64_t)stats_sum(weir->stats, weir->workers, STAT_##id) }
	console_rows_add(r, (union console_cell[]){ { .text = "*" },
						    SUM(TRANSACTIONS),
						    SUM(QUERIES),
						    SUM(BYTES_FROM_CLIENTS),
						    SUM(BYTES_TO_CLIENTS),
						    SUM(WAIT_US),
						    SUM(PARSES_REPLAYED),
						    SUM(COMMANDS) });
#undef SUM
}

static void
add_item(struct console_rows *r, const char *name, uint64_t n)
{
	console_rows_add(r, (union console_cell[]){ { .text = name },
						    { .number = (int64_t)n } });
}

static void
lists_here(struct console_rows *r, const struct worker *w)
{
	const struct weir *weir = w->weir;
	const struct conf *c = w->snapshot->conf;
	uint64_t idle, servers;

#define SUM(id) stats_sum(weir->stats, weir->workers, STAT_##id)
	idle = SUM(PG_SERVERS_IDLE);
	servers = SUM(PG_SERVERS) + SUM(REDIS_SERVERS);
	add_item(r, "databases", c->database_n);
	add_item(r, "users", c->user_n + c->listed_n);
	add_item(r, "organizations", c->tenant_n);
	add_item(r, "pools", SUM(POOLS));
	add_item(r, "used_clients", SUM(PG_CLIENTS) + SUM(REDIS_CLIENTS));
	add_item(r, "waiting_clients", SUM(PG_WAITING) + SUM(REDIS_WAITING));
	add_item(r, "free_servers", idle);
	add_item(r, "used_servers", servers > idle ? servers - idle : 0);
#undef SUM
}

static void
add_memory(struct console_rows *r, const char *name, size_t size, uint64_t n)
{
	console_rows_add(
	    r, (union console_cell[]){ { .text = name },
				       { .number = (int64_t)size },
				       { .number = (int64_t)n },
				       { .number = (int64_t)(size * n) } });
}

/* Without what each of them holds beside itself: an idle one holds little. */
static void
mem_here(struct console_rows *r, const struct worker *w)
{
	const struct weir *weir = w->weir;

#define SUM(id) stats_sum(weir->stats, weir->workers, STAT_##id)
	add_memory(r, "postgres_client", sizeof(struct pg_session),
		   SUM(PG_CLIENTS));
	add_memory(r, "redis_client", sizeof(struct redis_session),
		   SUM(REDIS_CLIENTS));
	add_memory(r, "postgres_server", sizeof(struct pg_server),
		   SUM(PG_SERVERS));
	add_memory(r, "redis_server", sizeof(struct redis_server),
		   SUM(REDIS_SERVERS));
	add_memory(r, "pool", sizeof(struct pool), SUM(POOLS));
	add_memory(r, "scratch", STREAM_SCRATCH, weir->workers);
#undef SUM
}

static void help_here(struct console_rows *, const struct worker *);

static void
version_here(struct console_rows *r, const struct worker *w)
{
	(void)w;
	console_rows_add(
	    r, (union console_cell[]){ { .text = "weir " WEIR_VERSION } });
}

#define T CONSOLE_TEXT
#define N CONSOLE_SUM
#define M CONSOLE_MAX
#define PEER                                                                   \
	{ "type", T }, { "user", T }, { "database", T }, { "state", T },       \
	    { "addr", T }, { "port", M }, { "local_addr", T },                 \
	    { "local_port", M }, { "connect_time", T }, { "request_time", T }, \
	    { "wait", CONSOLE_MAX_S }, { "wait_us", CONSOLE_MAX_US },          \
	    { "close_needed", M }, { "ptr", T }, { "link", T },                \
	    { "remote_pid", M }, { "tls", T }, { "application_name", T },      \
	    { "prepared_statements", M }, { "proto", T },                      \
	    { "organization", T },                                             \
	{                                                                      \
		"pinned", M                                                    \
	}
#define STATS                                                    \
	{ "database", T }, { "total_xact_count", N },            \
	    { "total_query_count", N }, { "total_received", N }, \
	    { "total_sent", N }, { "total_wait_time", N },       \
	    { "total_server_parse_count", N },                   \
	{                                                        \
		"total_redis_commands", N                        \
	}
static const struct console_table tables[] = {
	{ "BATCHES",
	  "operations that share commits: totals of a table, and what is under "
	  "way of each organization",
	  { { "table", T },
	    { "organization", T },
	    { "database", T },
	    { "lanes", N },
	    { "waiting", N },
	    { "waiting_bytes", N },
	    { "sent", N },
	    { "maxwait_us", M },
	    { "operations", N },
	    { "commits", N },
	    { "replayed", N },
	    { "unknown", N } },
	  .each = batches_each },
	{ "CLIENTS",
	  "everybody who is connected; of a log-in of weir's own: link, as ptr "
	  "in SERVERS",
	  { PEER },
	  .apart = true,
	  .each = console_clients_each },
	{ "CONFIG",
	  "what the file's sections [weir], [tls] and [auth] come to, without "
	  "secrets",
	  { { "key", T },
	    { "value", T },
	    { "default", T },
	    { "changeable", T } },
	  .here = console_config_here },
	{ "DATABASES",
	  "the sections [database] and the servers they lead to",
	  { { "name", T },
	    { "host", T },
	    { "port", M },
	    { "database", T },
	    { "force_user", T },
	    { "pool_size", M },
	    { "min_pool_size", M },
	    { "reserve_pool_size", M },
	    { "pool_mode", T },
	    { "max_connections", M },
	    { "current_connections", N },
	    { "paused", M },
	    { "disabled", M },
	    { "postgres", T } },
	  .each = console_databases_each },
	{ "HELP",
	  "this list",
	  { { "command", T }, { "shows", T } },
	  .here = help_here },
	{ "LISTS",
	  "how many there are of what",
	  { { "list", T }, { "items", N } },
	  .here = lists_here },
	{ "MEM",
	  "the memory of connections that are open, in bytes, without what is "
	  "under way",
	  { { "name", T }, { "size", N }, { "used", N }, { "memtotal", N } },
	  .here = mem_here },
	{ "POOLS",
	  "PostgreSQL servers and the clients that use or want them; columns "
	  "are PgBouncer's",
	  { { "database", T },
	    { "user", T },
	    { "cl_active", N },
	    { "cl_waiting", N },
	    { "cl_active_cancel_req", N },
	    { "cl_waiting_cancel_req", N },
	    { "sv_active", N },
	    { "sv_active_cancel", N },
	    { "sv_being_canceled", N },
	    { "sv_idle", N },
	    { "sv_used", N },
	    { "sv_tested", N },
	    { "sv_login", N },
	    { "maxwait", CONSOLE_MAX_S },
	    { "maxwait_us", CONSOLE_MAX_US },
	    { "pool_mode", T } },
	  .each = pools_each },
	{ "SERVERS",
	  "weir's own connections; columns are those of CLIENTS",
	  { PEER },
	  .apart = true,
	  .each = console_servers_each },
	{ "STATS",
	  "totals since the start, of all databases together; times in "
	  "microseconds",
	  { STATS },
	  .here = stats_here },
	{ "STATS_TOTALS", "the same", { STATS }, .here = stats_here },
	{ "USERS",
	  "the sections [user], and the userlist_file",
	  { { "name", T },
	    { "pool_mode", T },
	    { "max_user_connections", N },
	    { "auth", T },
	    { "organization", T } },
	  .here = console_users_here },
	{ "VERSION", "weir's", { { "version", T } }, .here = version_here },
};
#undef STATS
#undef PEER
#undef T
#undef N
#undef M

static void
help_here(struct console_rows *r, const struct worker *w)
{
	char command[40];

	(void)w;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		snprintf(command, sizeof(command), "SHOW %s", tables[i].name);
		console_rows_add(
		    r, (union console_cell[]){ { .text = command },
					       { .text = tables[i].what } });
	}
	console_rows_add(
	    r, (union console_cell[]){ { .text = "RELOAD" },
				       { .text = "nothing: the configuration "
						 "is read again" } });
}

const struct console_table *
console_table_find(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (strcasecmp(name, tables[i].name) == 0)
			return &tables[i];
	return NULL;
}

#include "conf/conf_keys.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"

#define DAY      (86400ull * 1000)
#define TIME_MAX (365 * DAY)
#define ANY_TEXT 1, CONF_LINE_MAX
#define ID_MAX   63 /* what PostgreSQL keeps of a name */

#define W(f)   offsetof(struct conf, f)
#define TLS(f) offsetof(struct conf, tls.f)
#define P(f)   offsetof(struct conf_postgres, f)
#define R(f)   offsetof(struct conf_redis, f)
#define D(f)   offsetof(struct conf_database, f)
#define U(f)   offsetof(struct conf_user, f)
#define T(f)   offsetof(struct tenant, f)
#define A(f)   offsetof(struct conf, auth.f)
#define C(f)   offsetof(struct conf, context.f)
#define Y(f)   offsetof(struct conf, directory.f)
#define B(f)   offsetof(struct conf_batch, f)

/* clang-format off */

static const struct conf_word log_levels[] = {
	{ "error", LOG_ERROR }, { "warn", LOG_WARN },
	{ "info", LOG_INFO }, { "debug", LOG_DEBUG }, { NULL, 0 },
};
static const struct conf_word log_formats[] = {
	{ "logfmt", LOG_LOGFMT }, { "json", LOG_JSON }, { NULL, 0 },
};
static const struct conf_word tls_versions[] = {
	{ "1.2", 0x0303 }, { "1.3", 0x0304 },
	{ "TLSv1.2", 0x0303 }, { "TLSv1.3", 0x0304 }, { NULL, 0 },
};
static const struct conf_word client_modes[] = {
	{ "disable", SSLMODE_DISABLE }, { "allow", SSLMODE_ALLOW },
	{ "require", SSLMODE_REQUIRE }, { "verify-ca", SSLMODE_VERIFY_CA },
	{ "verify-full", SSLMODE_VERIFY_FULL }, { NULL, 0 },
};
static const struct conf_word sslmodes[] = {
	{ "disable", SSLMODE_DISABLE }, { "allow", SSLMODE_ALLOW },
	{ "prefer", SSLMODE_PREFER }, { "require", SSLMODE_REQUIRE },
	{ "verify-ca", SSLMODE_VERIFY_CA },
	{ "verify-full", SSLMODE_VERIFY_FULL }, { NULL, 0 },
};
static const struct conf_word sslnegotiations[] = {
	{ "postgres", SSLNEGOTIATION_POSTGRES },
	{ "direct", SSLNEGOTIATION_DIRECT }, { NULL, 0 },
};
static const struct conf_word redis_sslmodes[] = {
	{ "disable", SSLMODE_DISABLE }, { "require", SSLMODE_REQUIRE },
	{ "verify-ca", SSLMODE_VERIFY_CA },
	{ "verify-full", SSLMODE_VERIFY_FULL }, { NULL, 0 },
};
static const struct conf_word pool_modes[] = {
	{ "transaction", POOL_MODE_TRANSACTION },
	{ "session", POOL_MODE_SESSION },
	{ "statement", POOL_MODE_STATEMENT }, { NULL, 0 },
};
static const struct conf_word auths[] = {
	{ "scram-sha-256", AUTH_SCRAM }, { "md5", AUTH_MD5 },
	{ "plain", AUTH_PLAIN }, { "cert", AUTH_CERT },
	{ "jwt", AUTH_JWT }, { "trust", AUTH_TRUST }, { NULL, 0 },
};
static const struct conf_word healths[] = {
	{ "active", HEALTH_ACTIVE }, { "passive", HEALTH_PASSIVE }, { NULL, 0 },
};
static const struct conf_word balances[] = {
	{ "disable", BALANCE_DISABLE }, { "round-robin", BALANCE_ROUND_ROBIN },
	{ NULL, 0 },
};
static const struct conf_word roles[] = {
	{ "any", ROLE_ANY }, { "primary", ROLE_PRIMARY },
	{ "standby", ROLE_STANDBY }, { NULL, 0 },
};
static const struct conf_word rls_checks[] = {
	{ "off", RLS_CHECK_OFF }, { "warn", RLS_CHECK_WARN },
	{ "require", RLS_CHECK_REQUIRE }, { NULL, 0 },
};
static const struct conf_word profiles[] = {
	{ "shared", PROFILE_SHARED }, { "dedicated", PROFILE_DEDICATED },
	{ NULL, 0 },
};

static const struct conf_row rows[] = {
	/* section, key, type, from, to, default, where it goes */
	{ KIND_WEIR, "workers", T_UINT, 0, CONF_WORKERS_MAX, .def = "0", .off = W(workers) },
	{ KIND_WEIR, "postgres_listen", T_LISTEN, LISTEN_POSTGRES, 0, .off = W(listen) },
	{ KIND_WEIR, "redis_listen", T_LISTEN, LISTEN_REDIS, 0, .off = W(listen) },
	{ KIND_WEIR, "redis_tls_listen", T_LISTEN, LISTEN_REDIS_TLS, 0, .off = W(listen) },
	{ KIND_WEIR, "admin_listen", T_LISTEN, LISTEN_ADMIN, 0, .off = W(listen) },
	{ KIND_WEIR, "proxy_protocol", T_BOOL, .def = "off", .off = W(proxy_protocol), .later = "*" },
	{ KIND_WEIR, "max_client_conn", T_UINT, 1, 1000000, .def = "10000", .off = W(max_client_conn) },
	{ KIND_WEIR, "log_level", T_WORD, .def = "info", .off = W(log_level), .words = log_levels },
	{ KIND_WEIR, "log_format", T_WORD, .def = "logfmt", .off = W(log_format), .words = log_formats },
	{ KIND_WEIR, "audit", T_BOOL, .def = "off", .off = W(audit), .later = "*" },
	{ KIND_WEIR, "drain_timeout", T_TIME, 0, TIME_MAX, .def = "30", .off = W(drain_timeout_ms) },
	{ KIND_WEIR, "query_wait_timeout", T_TIME, 0, TIME_MAX, .def = "120", .off = W(query_wait_timeout_ms) },
	{ KIND_WEIR, "query_wait_notify", T_TIME, 0, TIME_MAX, .def = "5", .off = W(query_wait_notify_ms) },
	{ KIND_WEIR, "client_login_timeout", T_TIME, 0, TIME_MAX, .def = "60", .off = W(client_login_timeout_ms) },
	{ KIND_WEIR, "client_idle_timeout", T_TIME, 0, TIME_MAX, .def = "0", .off = W(client_idle_timeout_ms) },
	{ KIND_WEIR, "idle_transaction_timeout", T_TIME, 0, TIME_MAX, .def = "0", .off = W(idle_transaction_timeout_ms) },
	{ KIND_WEIR, "query_timeout", T_TIME, 0, TIME_MAX, .def = "0", .off = W(query_timeout_ms) },
	{ KIND_WEIR, "transaction_timeout", T_TIME, 0, TIME_MAX, .def = "0", .off = W(transaction_timeout_ms) },
	{ KIND_WEIR, "server_lifetime", T_TIME, 0, TIME_MAX, .def = "3600", .off = W(server_lifetime_ms) },
	{ KIND_WEIR, "server_idle_timeout", T_TIME, 0, TIME_MAX, .def = "600", .off = W(server_idle_timeout_ms) },
	{ KIND_WEIR, "pool_idle_timeout", T_TIME, 0, TIME_MAX, .def = "3600", .off = W(pool_idle_timeout_ms) },
	{ KIND_WEIR, "server_connect_timeout", T_TIME, 0, TIME_MAX, .def = "15", .off = W(server_connect_timeout_ms) },
	{ KIND_WEIR, "server_login_retry", T_TIME, 0, TIME_MAX, .def = "15", .off = W(server_login_retry_ms) },
	{ KIND_WEIR, "max_prepared_statements", T_UINT, 0, 100000, .def = "200", .off = W(max_prepared_statements) },
	{ KIND_WEIR, "track_settings", T_BOOL, .def = "off", .off = W(track_settings) },
	{ KIND_WEIR, "max_message_size", T_SIZE, 64 << 10, 1 << 30, .def = "64MB", .off = W(max_message_size) },
	{ KIND_WEIR, "admin_users", T_LIST, .off = W(admin_users), .aux = W(admin_users_n) },
	{ KIND_WEIR, "stats_users", T_LIST, .off = W(stats_users), .aux = W(stats_users_n) },

	{ KIND_TLS, "cert_file", T_LIST, 1, .off = TLS(cert_file), .aux = TLS(cert_file_n) },
	{ KIND_TLS, "key_file", T_LIST, 1, .off = TLS(key_file), .aux = TLS(key_file_n) },
	{ KIND_TLS, "ca_file", T_TEXT, ANY_TEXT, .off = TLS(ca_file) },
	{ KIND_TLS, "min_version", T_WORD, .def = "1.2", .off = TLS(min_version), .words = tls_versions },
	{ KIND_TLS, "client_mode", T_WORD, .off = TLS(client_mode), .words = client_modes },
	{ KIND_TLS, "sni_domain", T_TEXT, ANY_TEXT, .off = TLS(sni_domain) },

	{ KIND_POSTGRES, "host", T_HOST, .off = P(host) },
	{ KIND_POSTGRES, "port", T_UINT, 1, 65535, .def = "5432", .off = P(port) },
	{ KIND_POSTGRES, "load_balance_hosts", T_WORD, .def = "disable", .off = P(load_balance_hosts), .words = balances },
	{ KIND_POSTGRES, "target_role", T_WORD, .def = "any", .off = P(target_role), .words = roles },
	{ KIND_POSTGRES, "dbname", T_TEXT, 1, ID_MAX, .off = P(dbname) },
	{ KIND_POSTGRES, "user", T_TEXT, 1, ID_MAX, .off = P(user) },
	{ KIND_POSTGRES, "password", T_TEXT, ANY_TEXT, .off = P(password), .secret = true },
	{ KIND_POSTGRES, "sslmode", T_WORD, .off = P(sslmode), .words = sslmodes },
	{ KIND_POSTGRES, "sslnegotiation", T_WORD, .def = "postgres", .off = P(sslnegotiation), .words = sslnegotiations },
	{ KIND_POSTGRES, "sslrootcert", T_TEXT, ANY_TEXT, .off = P(sslrootcert) },
	{ KIND_POSTGRES, "sslcert", T_TEXT, ANY_TEXT, .off = P(sslcert) },
	{ KIND_POSTGRES, "sslkey", T_TEXT, ANY_TEXT, .off = P(sslkey) },
	{ KIND_POSTGRES, "pool_mode", T_WORD, .def = "transaction", .off = P(pool_mode), .words = pool_modes },
	{ KIND_POSTGRES, "pool_size", T_UINT, 1, 10000, .def = "20", .off = P(pool_size) },
	{ KIND_POSTGRES, "max_replication_connections", T_UINT, 0, 10000, .def = "0", .off = P(max_replication_connections) },
	{ KIND_POSTGRES, "min_pool_size", T_UINT, 0, 10000, .def = "0", .off = P(min_pool_size) },
	{ KIND_POSTGRES, "reserve_pool_size", T_UINT, 0, 10000, .def = "0", .off = P(reserve_pool_size) },
	{ KIND_POSTGRES, "reserve_pool_timeout", T_TIME, 0, TIME_MAX, .def = "5", .off = P(reserve_pool_timeout_ms) },
	{ KIND_POSTGRES, "max_connections", T_UINT, 0, 100000, .def = "0", .off = P(max_connections) },
	{ KIND_POSTGRES, "max_waiting_clients", T_UINT, 0, 1000000, .def = "0", .off = P(max_waiting_clients) },
	{ KIND_POSTGRES, "multiplex", T_BOOL, .def = "off", .off = P(multiplex), .later = "*" },
	{ KIND_POSTGRES, "multiplex_depth", T_UINT, 1, 1000, .def = "8", .off = P(multiplex_depth) },
	{ KIND_POSTGRES, "health_check", T_WORD, .def = "active", .off = P(health_check), .words = healths },
	{ KIND_POSTGRES, "health_interval", T_TIME, 1000, DAY, .def = "30", .off = P(health_interval_ms) },
	{ KIND_POSTGRES, "rls_check", T_WORD, .off = P(rls_check), .words = rls_checks },
	{ KIND_POSTGRES, "rls_column", T_TEXT, 1, ID_MAX, .def = "organization_id", .off = P(rls_column) },

	{ KIND_REDIS, "url", T_URL, .off = R(url), .secret = true },
	{ KIND_REDIS, "cluster", T_BOOL, .def = "off", .off = R(cluster) },
	{ KIND_REDIS, "sentinel", T_TEXT, 1, 255, .off = R(sentinel) },
	{ KIND_REDIS, "sentinel_user", T_TEXT, 1, 255, .off = R(sentinel_user) },
	{ KIND_REDIS, "sentinel_password", T_TEXT, ANY_TEXT, .off = R(sentinel_password), .secret = true },
	{ KIND_REDIS, "sslmode", T_WORD, .off = R(sslmode), .words = redis_sslmodes },
	{ KIND_REDIS, "sslrootcert", T_TEXT, ANY_TEXT, .off = R(sslrootcert) },
	{ KIND_REDIS, "sslcert", T_TEXT, ANY_TEXT, .off = R(sslcert) },
	{ KIND_REDIS, "sslkey", T_TEXT, ANY_TEXT, .off = R(sslkey) },
	{ KIND_REDIS, "connections", T_UINT, 1, 1000, .def = "8", .off = R(connections) },
	{ KIND_REDIS, "dedicated_connections", T_UINT, 0, 100000, .def = "50", .off = R(dedicated_connections) },
	{ KIND_REDIS, "min_dedicated_connections", T_UINT, 0, 1000, .def = "0", .off = R(min_dedicated_connections) },
	{ KIND_REDIS, "command_timeout", T_TIME, 0, TIME_MAX, .def = "0", .off = R(command_timeout_ms) },
	{ KIND_REDIS, "profile", T_WORD, .def = "shared", .off = R(profile), .words = profiles },
	{ KIND_REDIS, "health_check", T_WORD, .def = "active", .off = R(health_check), .words = healths },
	{ KIND_REDIS, "health_interval", T_TIME, 1000, DAY, .def = "15", .off = R(health_interval_ms) },

	{ KIND_DATABASE, "postgres", T_POSTGRES, .off = D(postgres) },
	{ KIND_DATABASE, "dbname", T_TEXT, 1, ID_MAX, .off = D(dbname) },
	{ KIND_DATABASE, "pool_mode", T_WORD, .off = D(pool_mode), .aux = D(has_pool_mode), .words = pool_modes },

	{ KIND_ORGANIZATION, "id", T_TEXT, 1, 255, .off = T(id) },
	{ KIND_ORGANIZATION, "postgres", T_POSTGRES, .off = T(postgres) },
	{ KIND_ORGANIZATION, "dbname", T_TEXT, 1, ID_MAX, .off = T(dbname) },
	{ KIND_ORGANIZATION, "redis", T_REDIS, .off = T(redis) },
	{ KIND_ORGANIZATION, "redis_user", T_TEXT, 1, 255, .off = T(redis_user) },
	{ KIND_ORGANIZATION, "redis_password", T_TEXT, ANY_TEXT, .off = T(redis_password), .secret = true },
	{ KIND_ORGANIZATION, "pool_size", T_UINT, 0, 10000, .def = "0", .off = T(pool_size) },
	{ KIND_ORGANIZATION, "max_client_conn", T_UINT, 0, 1000000, .def = "0", .off = T(max_client_conn) },
	{ KIND_ORGANIZATION, "weight", T_UINT, 1, 100, .def = "1", .off = T(weight) },
	{ KIND_ORGANIZATION, "rate_queries", T_RATE, .off = T(rate_queries) },
	{ KIND_ORGANIZATION, "rate_connections", T_RATE, .off = T(rate_connections) },
	{ KIND_ORGANIZATION, "rate_operations", T_RATE, .off = T(rate_operations) },

	{ KIND_USER, "auth", T_WORD, .def = "scram-sha-256", .off = U(auth), .words = auths },
	{ KIND_USER, "password", T_TEXT, ANY_TEXT, .off = U(password), .secret = true },
	{ KIND_USER, "organization", T_TENANT, .off = U(organization) },
	{ KIND_USER, "organizations", T_LIST, .off = U(organizations), .aux = U(organizations_n) },
	{ KIND_USER, "max_client_conn", T_UINT, 0, 1000000, .def = "0", .off = U(max_client_conn) },
	{ KIND_USER, "pool_mode", T_WORD, .off = U(pool_mode), .aux = U(has_pool_mode), .words = pool_modes },

	{ KIND_DIRECTORY, "postgres", T_POSTGRES, .off = Y(postgres) },
	{ KIND_DIRECTORY, "dbname", T_TEXT, 1, ID_MAX, .off = Y(dbname) },
	{ KIND_DIRECTORY, "query", T_TEXT, ANY_TEXT, .off = Y(query) },
	{ KIND_DIRECTORY, "query_by_id", T_TEXT, ANY_TEXT, .off = Y(query_by_id) },
	{ KIND_DIRECTORY, "ttl", T_TIME, 0, DAY, .def = "60", .off = Y(ttl_ms) },
	{ KIND_DIRECTORY, "negative_ttl", T_TIME, 0, DAY, .def = "5", .off = Y(negative_ttl_ms) },
	{ KIND_DIRECTORY, "notify_channel", T_TEXT, 1, ID_MAX, .off = Y(notify_channel) },

	{ KIND_CONTEXT, "key", T_TEXT, ANY_TEXT, .off = C(key), .secret = true },
	{ KIND_CONTEXT, "previous_key", T_TEXT, ANY_TEXT, .off = C(previous_key), .secret = true },
	{ KIND_CONTEXT, "ttl", T_TIME, 2000, DAY, .def = "600", .off = C(ttl_ms) },
	{ KIND_CONTEXT, "variable", T_TEXT, 1, ID_MAX, .def = "app.weir_context", .off = C(variable) },

	{ KIND_BATCH, "order_by", T_TEXT, 1, ID_MAX, .off = B(order_by) },
	{ KIND_BATCH, "max_ops", T_UINT, 1, 2000, .def = "256", .off = B(max_ops) },
	{ KIND_BATCH, "max_bytes", T_SIZE, 1 << 10, 8 << 20, .def = "256kB", .off = B(max_bytes) },
	{ KIND_BATCH, "max_delay_ms", T_UINT, 0, 1000, .def = "0", .off = B(max_delay_ms) },
	{ KIND_BATCH, "in_flight", T_UINT, 1, 64, .def = "1", .off = B(in_flight) },
	{ KIND_BATCH, "merge", T_BOOL, .def = "off", .off = B(merge) },
	{ KIND_BATCH, "functions", T_LIST, .off = B(functions), .aux = B(functions_n) },
	{ KIND_BATCH, "transactions", T_BOOL, .def = "off", .off = B(transactions) },
	{ KIND_BATCH, "publish", T_TEXT, ANY_TEXT, .off = B(publish) },
	{ KIND_BATCH, "publish_payload", T_TEXT, ANY_TEXT, .off = B(publish_payload) },

	{ KIND_AUTH, "userlist_file", T_TEXT, ANY_TEXT, .off = W(userlist_file) },
	{ KIND_AUTH, "auth_postgres", T_POSTGRES, .off = A(postgres) },
	{ KIND_AUTH, "auth_dbname", T_TEXT, 1, ID_MAX, .off = A(dbname) },
	{ KIND_AUTH, "auth_query", T_TEXT, ANY_TEXT, .off = A(query) },
	{ KIND_AUTH, "auth_query_ttl", T_TIME, 0, DAY, .def = "60", .off = A(ttl_ms) },
	{ KIND_AUTH, "auth_query_negative_ttl", T_TIME, 0, DAY, .def = "5", .off = A(negative_ttl_ms) },
	{ KIND_AUTH, "jwt_secret", T_TEXT, ANY_TEXT, .off = W(jwt.secret), .secret = true },
	{ KIND_AUTH, "jwt_previous_secret", T_TEXT, ANY_TEXT, .off = W(jwt.previous_secret), .secret = true },
	{ KIND_AUTH, "jwt_public_key_file", T_TEXT, ANY_TEXT, .off = W(jwt.public_key_file) },
	{ KIND_AUTH, "jwt_audience", T_TEXT, ANY_TEXT, .off = W(jwt.audience) },
	{ KIND_AUTH, "jwt_user_claim", T_TEXT, 1, 255, .def = "sub", .off = W(jwt.user_claim) },
	{ KIND_AUTH, "jwt_organization_claim", T_TEXT, 1, 255, .off = W(jwt.organization_claim) },
};

/* clang-format on */

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

/* A word of 1 to `max` of letters, digits, - _ and what is in `also`. */
static bool
is_word(const char *s, size_t max, const char *also)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz"
			     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");

	while (s[n] != '\0' && strchr(also, s[n]) != NULL)
		n += 1 + strspn(s + n + 1, "abcdefghijklmnopqrstuvwxyz"
					   "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
					   "0123456789-_");
	return s[n] == '\0' && n >= 1 && n <= max;
}

static bool
is_upstream(const char *s)
{
	return is_word(s, 63, ".");
}

/* No dot: `user.slug` is cut at the last one. */
static bool
is_slug(const char *s)
{
	return is_word(s, 100, "");
}

static bool
is_identifier(const char *s)
{
	return strlen(s) >= 1 && strlen(s) <= ID_MAX;
}

/* A schema before it or not; a dot inside a name is not for here. */
static bool
is_table(const char *s)
{
	const char *dot = strchr(s, '.');
	size_t n = strlen(s), schema = dot ? (size_t)(dot - s) : 0;

	if (dot != NULL && (schema < 1 || schema > ID_MAX))
		return false;
	n -= dot ? schema + 1 : 0;
	return n >= 1 && n <= ID_MAX && (!dot || !strchr(dot + 1, '.'));
}

#define UPSTREAM   is_upstream, "1 to 63 letters, digits and - _ ."
#define IDENTIFIER is_identifier, "1 to 63 bytes"
#define TABLE      is_table, "a table's name, its schema and a dot before it or not"
#define SLUG       is_slug, "1 to 100 letters, digits and - _"
#define ARRAY(f)   sizeof(*((struct conf *)0)->f), W(f), W(f##_n)

static const struct conf_kind_row kinds[KIND_MAX] = {
	/* word, argument, later?, sorted?, its array, what is a name */
	[KIND_WEIR] = { .word = "weir" },
	[KIND_TLS] = { .word = "tls" },
	[KIND_POSTGRES] = { "postgres", "NAME", false, false, ARRAY(postgres),
			    UPSTREAM },
	[KIND_REDIS] = { "redis", "NAME", false, false, ARRAY(redis),
			 UPSTREAM },
	[KIND_DATABASE] = { "database", "NAME", false, true, ARRAY(database),
			    IDENTIFIER },
	[KIND_ORGANIZATION] = { "organization", "SLUG", false, true,
				ARRAY(tenant), SLUG },
	[KIND_USER] = { "user", "NAME", false, true, ARRAY(user), IDENTIFIER },
	[KIND_VARIABLES] = { .word = "variables" },
	[KIND_DIRECTORY] = { .word = "directory" },
	[KIND_CONTEXT] = { .word = "context" },
	[KIND_BATCH] = { "batch", "TABLE", false, false, ARRAY(batch), TABLE },
	[KIND_AUTH] = { .word = "auth" },
};

const struct conf_kind_row *
conf_keys_kind(enum conf_kind kind)
{
	assert(kind < KIND_MAX);
	return &kinds[kind];
}

enum conf_kind
conf_keys_kind_find(const char *word, size_t n)
{
	unsigned i;

	for (i = 0; i < KIND_MAX; i++)
		if (strlen(kinds[i].word) == n &&
		    memcmp(kinds[i].word, word, n) == 0)
			break;
	return (enum conf_kind)i;
}

/* The i-th object of a kind; the conf itself for kinds without an array. */
void *
conf_keys_object(struct conf *c, enum conf_kind kind, size_t i)
{
	const struct conf_kind_row *k = conf_keys_kind(kind);
	char *array;

	if (k->size == 0)
		return c;
	memcpy(&array, (char *)c + k->array, sizeof(array));
	return array + i * k->size;
}

size_t
conf_keys_object_count(const struct conf *c, enum conf_kind kind)
{
	const struct conf_kind_row *k = conf_keys_kind(kind);
	size_t n;

	if (k->size == 0)
		return 1;
	memcpy(&n, (const char *)c + k->count, sizeof(n));
	return n;
}

/* Every struct with an array begins with its name. */
static_assert(offsetof(struct conf_postgres, name) == 0, "name first");
static_assert(offsetof(struct conf_redis, name) == 0, "name first");
static_assert(offsetof(struct conf_database, name) == 0, "name first");
static_assert(offsetof(struct conf_user, name) == 0, "name first");
static_assert(offsetof(struct conf_batch, name) == 0, "name first");
static_assert(offsetof(struct tenant, slug) == 0, "name first");

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* By bisection where the kind is sorted, else one after the other. */
void *
conf_keys_object_find(const struct conf *c, enum conf_kind kind,
		      const char *name)
{
	const struct conf_kind_row *k = conf_keys_kind(kind);
	char *first = conf_keys_object((struct conf *)c, kind, 0);
	size_t n = conf_keys_object_count(c, kind);

	if (k->sorted)
		return n == 0
			   ? NULL
			   : bsearch(&name, first, n, k->size, compare_names);
	for (size_t i = 0; i < n; i++)
		if (compare_names(&name, first + i * k->size) == 0)
			return first + i * k->size;
	return NULL;
}

const struct conf_row *
conf_keys_next(enum conf_kind kind, const struct conf_row *row)
{
	row = row == NULL ? rows : row + 1;
	for (; row < rows + ROWS; row++)
		if (row->kind == kind)
			return row;
	return NULL;
}

const struct conf_row *
conf_keys_find(enum conf_kind kind, const char *name)
{
	const struct conf_row *row = NULL;

	while ((row = conf_keys_next(kind, row)) != NULL)
		if (strcmp(row->name, name) == 0)
			break;
	return row;
}

bool
conf_key_find(size_t i, struct conf_key *out)
{
	if (i >= ROWS)
		return false;
	*out = (struct conf_key){
		.section = kinds[rows[i].kind].word,
		.name = rows[i].name,
		.def = rows[i].def,
	};
	return true;
}

static void add(char out[CONF_EXPECTED_MAX], const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void
add(char out[CONF_EXPECTED_MAX], const char *fmt, ...)
{
	size_t n = strlen(out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out + n, CONF_EXPECTED_MAX - n, fmt, ap);
	va_end(ap);
}

static void
add_words(const struct conf_row *row, char out[CONF_EXPECTED_MAX])
{
	add(out, "one of ");
	for (const struct conf_word *w = row->words; w->text != NULL; w++)
		add(out, "%s%s", w == row->words ? "" : ", ", w->text);
}

void
conf_keys_expected(const struct conf_row *row, char out[CONF_EXPECTED_MAX])
{
	out[0] = '\0';
	switch (row->type) {
	case T_BOOL:
		add(out, "on or off");
		break;
	case T_UINT:
		add(out, "a whole number from %" PRIu64 " to %" PRIu64, row->lo,
		    row->hi);
		break;
	case T_TIME:
		add(out,
		    "a time like 30, 1.5s, 500ms, 2min or 1h, "
		    "from %" PRIu64 "s to %" PRIu64 "h",
		    row->lo / 1000, row->hi / 3600000);
		break;
	case T_SIZE:
		add(out,
		    "a size like 65536, 64kB or 16MB, "
		    "from %" PRIu64 "kB to %" PRIu64 "MB",
		    row->lo >> 10, row->hi >> 20);
		break;
	case T_WORD:
		add_words(row, out);
		break;
	case T_TEXT:
		add(out, "a text of %" PRIu64 " to %" PRIu64 " bytes", row->lo,
		    row->hi);
		break;
	case T_HOST:
		add(out, "at most 16 of host, host:port, [v6]:port and "
			 "/directory, with commas between");
		break;
	case T_URL:
		add(out, "redis://[user[:password]@]host[:port],...[/db] or "
			 "rediss://...");
		break;
	case T_LIST:
		add(out, "names with commas between");
		break;
	case T_LISTEN:
		add(out, "host:port, [v6]:port or unix:/path with commas "
			 "between, none twice");
		break;
	case T_RATE:
		add(out, "a rate like 1000/60s");
		break;
	case T_POSTGRES:
		add(out, "the name of a [postgres NAME] section");
		break;
	case T_REDIS:
		add(out, "the name of a [redis NAME] section");
		break;
	case T_TENANT:
		add(out, "the slug of an [organization SLUG] section");
		break;
	case T_NOWHERE:
	case T_MAX:
		break;
	}
}

void
conf_keys_names(enum conf_kind kind, char out[CONF_EXPECTED_MAX])
{
	const struct conf_row *row = NULL;

	out[0] = '\0';
	if (kind == KIND_VARIABLES)
		add(out, "a setting's name like app.current_organization_id");
	else
		add(out, "one of ");
	for (bool first = true; (row = conf_keys_next(kind, row)) != NULL;
	     first = false)
		add(out, "%s%s", first ? "" : ", ", row->name);
	if (kind == KIND_ORGANIZATION)
		add(out, ", var.NAME");
}

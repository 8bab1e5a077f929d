#include "tests/t.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf/conf.h"
#include "conf/conf_keys.h"

/* The least there can be; `more` goes behind it. */
#define LEAST                                \
	"[weir]\n"                           \
	"postgres_listen = 127.0.0.1:6432\n" \
	"[postgres main]\n"                  \
	"host = 127.0.0.1\n"

#define LONG_SECRET "0123456789abcdef0123456789abcdef"

static char dir[] = "/tmp/weir-test-conf-XXXXXX";
static char path[64];
static struct conf_errors errors;

static int
make_dir(void **state)
{
	(void)state;
	if (mkdtemp(dir) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/t.ini", dir);
	return 0;
}

static int
remove_dir(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir);
}

static void
write_file(const char *file, const char *text, size_t n)
{
	FILE *f = fopen(file, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(file, 0600), 0);
}

static struct conf *
load_bytes(const char *text, size_t n)
{
	write_file(path, text, n);
	return conf_load(path, &errors);
}

static struct conf *
load(const char *text)
{
	return load_bytes(text, strlen(text));
}

/* What must load does, and is given back; errors are printed if it does not. */
static struct conf *
loads(const char *text)
{
	struct conf *c = load(text);

	for (size_t i = 0; i < errors.n; i++)
		print_error("%s\n", errors.line[i]);
	assert_non_null(c);
	return c;
}

static void
done(struct conf *c)
{
	conf_free(&c);
	assert_null(c);
	conf_errors_free(&errors);
}

static bool
has_line(char **list, size_t n, const char *want)
{
	char start[160];

	snprintf(start, sizeof(start), "%s:%s", path, want);
	for (size_t i = 0; i < n; i++)
		if (strncmp(list[i], start, strlen(start)) == 0)
			return true;
	return false;
}

/* `want` is `LINE: what` and may stop anywhere after that. */
static void
refuses(const char *text, const char *want)
{
	struct conf *c = load(text);

	assert_null(c);
	if (!has_line(errors.line, errors.n, want)) {
		for (size_t i = 0; i < errors.n; i++)
			print_error("got: %s\n", errors.line[i]);
		fail_msg("expected: %s", want);
	}
	conf_errors_free(&errors);
}

static void
warns(const char *text, const char *want)
{
	struct conf *c = loads(text);

	if (!has_line(errors.warning, errors.warning_n, want)) {
		for (size_t i = 0; i < errors.warning_n; i++)
			print_error("got: %s\n", errors.warning[i]);
		fail_msg("expected: %s", want);
	}
	done(c);
}

static void
a_minimal_file_gets_the_documented_defaults(void **state)
{
	struct conf *c = loads(LEAST);

	(void)state;
	assert_true(c->workers >= 1 && c->workers <= CONF_WORKERS_MAX);
	assert_int_equal(c->max_client_conn, 10000);
	assert_int_equal(c->log_level, LOG_INFO);
	assert_int_equal(c->log_format, LOG_LOGFMT);
	assert_int_equal(c->drain_timeout_ms, 30000);
	assert_int_equal(c->query_wait_timeout_ms, 120000);
	assert_int_equal(c->client_login_timeout_ms, 60000);
	assert_int_equal(c->client_idle_timeout_ms, 0);
	assert_int_equal(c->query_timeout_ms, 0);
	assert_int_equal(c->server_lifetime_ms, 3600000);
	assert_int_equal(c->server_idle_timeout_ms, 600000);
	assert_int_equal(c->server_connect_timeout_ms, 15000);
	assert_int_equal(c->server_login_retry_ms, 15000);
	assert_int_equal(c->max_message_size, 64 << 20);
	assert_int_equal(c->tls.client_mode, SSLMODE_DISABLE);
	assert_int_equal(c->tls.min_version, 0x0303);
	assert_int_equal(c->postgres_n, 1);
	assert_int_equal(c->postgres[0].port, 5432);
	assert_int_equal(c->postgres[0].pool_size, 20);
	assert_int_equal(c->postgres[0].sslmode, SSLMODE_PREFER);
	assert_int_equal(c->postgres[0].health_interval_ms, 30000);
	assert_null(c->postgres[0].dbname);
	assert_null(c->postgres[0].user);
	done(c);
}

static void
every_key_ends_up_in_its_field(void **state)
{
	struct conf *c = loads(
	    "[weir]\n"
	    "workers = 3\n"
	    "postgres_listen = 127.0.0.1:1, [::1]:2, unix:/tmp/weir.sock\n"
	    "redis_listen = *:3\n"
	    "admin_listen = localhost:4\n"
	    "max_client_conn = 7\n"
	    "log_level = debug\n"
	    "log_format = JSON\n"
	    "drain_timeout = 1\n"
	    "query_wait_timeout = 2s\n"
	    "client_login_timeout = 3000ms\n"
	    "client_idle_timeout = 4min\n"
	    "idle_transaction_timeout = 5h\n"
	    "query_timeout = 0.5\n"
	    "transaction_timeout = 1.25s\n"
	    "server_lifetime = 1d\n"
	    "server_idle_timeout = 0\n"
	    "server_connect_timeout = 9 s\n"
	    "server_login_retry = 0.0001ms\n"
	    "max_prepared_statements = 11\n"
	    "max_message_size = 1MB\n"
	    "[postgres main]\n"
	    "host = db.internal\n"
	    "port = 5433\n"
	    "dbname = d\n"
	    "user = u\n"
	    "password = p\n"
	    "sslmode = verify-full\n"
	    "sslrootcert = /ca.pem\n"
	    "pool_mode = transaction\n"
	    "pool_size = 12\n"
	    "multiplex_depth = 13\n"
	    "health_check = passive\n"
	    "health_interval = 14\n"
	    "[redis r]\n"
	    "url = rediss://me:p%40ss@[::1]:7000/5\n"
	    "sslmode = require\n"
	    "sslrootcert = /ca2.pem\n"
	    "connections = 15\n"
	    "dedicated_connections = 16\n"
	    "min_dedicated_connections = 18\n"
	    "command_timeout = 150ms\n"
	    "profile = dedicated\n"
	    "health_check = passive\n"
	    "health_interval = 17\n");
	const struct conf_postgres *p = &c->postgres[0];
	const struct conf_redis *r = &c->redis[0];

	(void)state;
	assert_int_equal(c->workers, 3);
	assert_int_equal(c->listen_n, 5);
	assert_int_equal(c->max_client_conn, 7);
	assert_int_equal(c->log_level, LOG_DEBUG);
	assert_int_equal(c->log_format, LOG_JSON);
	assert_int_equal(c->drain_timeout_ms, 1000);
	assert_int_equal(c->query_wait_timeout_ms, 2000);
	assert_int_equal(c->client_login_timeout_ms, 3000);
	assert_int_equal(c->client_idle_timeout_ms, 240000);
	assert_int_equal(c->idle_transaction_timeout_ms, 18000000);
	assert_int_equal(c->query_timeout_ms, 500);
	assert_int_equal(c->transaction_timeout_ms, 1250);
	assert_int_equal(c->server_lifetime_ms, 86400000);
	assert_int_equal(c->server_idle_timeout_ms, 0);
	assert_int_equal(c->server_connect_timeout_ms, 9000);
	assert_int_equal(c->server_login_retry_ms, 1); /* little, not never */
	assert_int_equal(c->max_prepared_statements, 11);
	assert_int_equal(c->max_message_size, 1 << 20);
	assert_string_equal(p->host, "db.internal");
	assert_int_equal(p->port, 5433);
	assert_string_equal(p->dbname, "d");
	assert_string_equal(p->user, "u");
	assert_string_equal(p->password, "p");
	assert_int_equal(p->sslmode, SSLMODE_VERIFY_FULL);
	assert_string_equal(p->sslrootcert, "/ca.pem");
	assert_int_equal(p->pool_size, 12);
	assert_int_equal(p->multiplex_depth, 13);
	assert_int_equal(p->health_check, HEALTH_PASSIVE);
	assert_int_equal(p->health_interval_ms, 14000);
	assert_true(r->tls);
	assert_string_equal(r->host, "::1");
	assert_int_equal(r->port, 7000);
	assert_string_equal(r->user, "me");
	assert_string_equal(r->password, "p@ss");
	assert_int_equal(r->db, 5);
	assert_int_equal(r->sslmode, SSLMODE_REQUIRE);
	assert_string_equal(r->sslrootcert, "/ca2.pem");
	assert_int_equal(r->connections, 15);
	assert_int_equal(r->dedicated_connections, 16);
	assert_int_equal(r->min_dedicated_connections, 18);
	assert_int_equal(r->command_timeout_ms, 150);
	assert_int_equal(r->profile, PROFILE_DEDICATED);
	assert_int_equal(r->health_check, HEALTH_PASSIVE);
	assert_int_equal(r->health_interval_ms, 17000);
	done(c);
}

static void
addresses_to_listen_on_are_ready_for_bind(void **state)
{
	struct conf *c = loads("[weir]\n"
			       "postgres_listen = 10.1.2.3:6432, [::1]:6432\n"
			       "redis_listen = unix:/run/weir.sock\n"
			       "[redis r]\nurl = redis://h\n"
			       "[postgres p]\nhost = h\n");
	const struct sockaddr_in *v4 = (void *)&c->listen[0].addr;
	const struct sockaddr_in6 *v6 = (void *)&c->listen[1].addr;
	const struct sockaddr_un *un = (void *)&c->listen[2].addr;

	(void)state;
	assert_int_equal(v4->sin_family, AF_INET);
	assert_int_equal(ntohs(v4->sin_port), 6432);
	assert_int_equal(ntohl(v4->sin_addr.s_addr), 0x0a010203);
	assert_int_equal(c->listen[0].addr_len, sizeof(*v4));
	assert_int_equal(c->listen[0].line, 2);
	assert_string_equal(c->listen[0].text, "10.1.2.3:6432");
	assert_int_equal(v6->sin6_family, AF_INET6);
	assert_int_equal(v6->sin6_addr.s6_addr[15], 1);
	assert_int_equal(c->listen[1].addr_len, sizeof(*v6));
	assert_int_equal(un->sun_family, AF_UNIX);
	assert_string_equal(un->sun_path, "/run/weir.sock");
	assert_int_equal(c->listen[2].kind, LISTEN_REDIS);
	assert_int_equal(c->listen[2].line, 3);
	done(c);
}

static void
addresses_that_cannot_be_bound_are_refused(void **state)
{
	static const char *const bad[] = {
		"127.0.0.1",
		"127.0.0.1:0",
		"127.0.0.1:65536",
		"127.0.0.1:x",
		"::1:5432",
		"[::1]",
		"[127.0.0.1]:1",
		"db.internal:1",
		"unix:relative",
		"unix:",
		":5432",
		"127.0.0.1:1,",
		"127.0.0.1:1, 127.0.0.1:1",
		"[::1]x:1",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[256];

		snprintf(text, sizeof(text),
			 "[postgres main]\nhost = h\n[weir]\n"
			 "postgres_listen = %s\n",
			 bad[i]);
		refuses(text, "4: postgres_listen = ");
	}
}

static void
a_value_is_taken_as_it_stands(void **state)
{
	struct conf *c =
	    loads(LEAST "password = a ;b #c = \"d\" 'e'  f: [g]\t \r\n"
			"  ; not a key = value\n"
			"\t# neither\n"
			"   user =   x\n");

	(void)state;
	assert_string_equal(c->postgres[0].password,
			    "a ;b #c = \"d\" 'e'  f: [g]");
	assert_string_equal(c->postgres[0].user, "x");
	done(c);
}

static void
a_long_line_is_whole_or_an_error(void **state)
{
	static char text[CONF_LINE_MAX + 512];
	const char *key = "password = ";
	size_t n = strlen(LEAST);
	struct conf *c;

	(void)state;
	memcpy(text, LEAST, n);
	memcpy(text + n, key, strlen(key));
	memset(text + n + strlen(key), 'x', CONF_LINE_MAX - strlen(key));
	text[n + CONF_LINE_MAX] = '\n';
	c = load_bytes(text, n + CONF_LINE_MAX + 1);
	assert_non_null(c);
	assert_int_equal(strlen(c->postgres[0].password),
			 CONF_LINE_MAX - strlen(key));
	done(c);

	text[n + CONF_LINE_MAX] = 'x';
	text[n + CONF_LINE_MAX + 1] = '\n';
	assert_null(load_bytes(text, n + CONF_LINE_MAX + 2));
	assert_true(has_line(errors.line, errors.n, "5: a line of 16385"));
	conf_errors_free(&errors);
}

static void
a_file_may_begin_with_a_mark_and_end_without_a_newline(void **state)
{
	struct conf *c = loads("\xef\xbb\xbf" LEAST "port = 99");

	(void)state;
	assert_int_equal(c->postgres[0].port, 99);
	done(c);
}

static void
what_is_no_line_of_settings_is_refused(void **state)
{
	(void)state;
	refuses("workers = 1\n" LEAST, "1: a key before any section");
	refuses(LEAST "just words\n", "5: expected a comment, [SECTION] or");
	refuses(LEAST "= x\n", "5: expected a comment, [SECTION] or");
	refuses(LEAST "[tls\n", "5: section: expected [NAME]");
	refuses(LEAST "[tls] x\n", "5: section: expected [NAME]");
	refuses(LEAST "[]\n", "5: []: unknown section");
	assert_null(load_bytes(LEAST "us\0er = x\n", strlen(LEAST) + 10));
	assert_true(has_line(errors.line, errors.n, "5: a NUL byte"));
	conf_errors_free(&errors);
}

static void
unknown_and_repeated_names_are_refused(void **state)
{
	(void)state;
	refuses(LEAST "[foo]\n", "5: [foo]: unknown section, expected one of "
				 "weir, tls, postgres");
	refuses(LEAST "hots = x\n",
		"5: hots: unknown key in [postgres main], expected one of "
		"host, port");
	refuses(LEAST "Port = 1\n", "5: Port: unknown key");
	refuses(LEAST "port = 1\nport = 2\n",
		"6: port: a second time, expected only that of line 5");
	refuses(LEAST "[postgres main]\nhost = x\n",
		"5: [postgres main]: a second time, expected only that of "
		"line 3");
	refuses(LEAST "[weir]\n", "5: [weir]: a second time");
	refuses(LEAST "[variables]\na.b = x\nA.B = y\n",
		"7: A.B: a second time");
	refuses(LEAST "[weir 2]\n", "5: [weir 2]: expected [weir]");
	refuses(LEAST "[user]\n", "5: [user]: expected [user NAME]");
	refuses(LEAST "[organization a.b]\n",
		"5: [organization a.b]: expected [organization SLUG]");
}

static void
values_out_of_bounds_are_refused(void **state)
{
	(void)state;
	refuses(LEAST "pool_size = many\n",
		"5: pool_size = many: expected a whole number from 1 to 10000");
	refuses(LEAST "pool_size = 0\n", "5: pool_size = 0: expected");
	refuses(LEAST "pool_size = 10001\n", "5: pool_size = 10001: expected");
	refuses(LEAST "pool_size = -1\n", "5: pool_size = -1: expected");
	refuses(LEAST "pool_size =\n", "5: pool_size = : expected");
	refuses(LEAST "port = 99999999999999999999\n", "5: port = 9999");
	refuses(LEAST "health_interval = 10ms\n",
		"5: health_interval = 10ms: expected a time");
	refuses(LEAST "health_interval = 10 weeks\n", "5: health_interval");
	refuses(LEAST "reserve_pool_timeout = 1.\n", "5: reserve_pool");
	refuses(LEAST "reserve_pool_timeout = 18446744073709551615h\n",
		"5: reserve_pool");
	refuses(LEAST "multiplex = maybe\n",
		"5: multiplex = maybe: expected on or off");
	refuses(LEAST "sslmode = always\n",
		"5: sslmode = always: expected one of disable, allow, prefer");
	refuses(LEAST "host2 = x\n[postgres b]\nhost = a,,b\n",
		"7: host = a,,b: expected at most 16 of host, host:port");
	refuses(
	    LEAST "target_role = master\n",
	    "5: target_role = master: expected one of any, primary, standby");
	refuses(LEAST "dbname =\n", "5: dbname = : expected a text");
	refuses(LEAST "[weir]\n[tls]\nmin_version = 1.1\n",
		"7: min_version = 1.1: expected one of 1.2, 1.3");
}

static void
references_must_lead_somewhere(void **state)
{
	(void)state;
	refuses(LEAST "[database x]\npostgres = nope\n",
		"6: postgres = nope: expected the name of a [postgres NAME]");
	refuses(LEAST "[organization x]\npostgres = nope\n",
		"6: postgres = nope: expected");
	refuses(LEAST "[organization x]\nredis = main\n",
		"6: redis = main: expected the name of a [redis NAME]");
	refuses(LEAST "[user x]\nauth = trust\norganization = nope\n",
		"7: organization = nope: expected the slug of an "
		"[organization SLUG]");
}

static void
what_is_missing_is_told(void **state)
{
	(void)state;
	refuses("[weir]\npostgres_listen = 127.0.0.1:1\n",
		"2: postgres_listen without an upstream");
	refuses("[weir]\nredis_listen = 127.0.0.1:1\n",
		"2: redis_listen without an upstream");
	refuses("[weir]\nredis_tls_listen = 127.0.0.1:1\n"
		"[redis r]\nurl = redis://h\n",
		"2: redis_tls_listen without a certificate");
	refuses("[postgres x]\nhost = h\n", " nothing to listen on");
	refuses("[postgres x]\nport = 1\n",
		"1: [postgres x]: host is missing, expected a name");
	refuses("[redis x]\nconnections = 1\n", "1: [redis x]: url is missing");
	refuses(LEAST "[user x]\n", "5: [user x]: password is missing");
	refuses(LEAST "[tls]\ncert_file = /c\n", "6: cert_file alone");
	refuses(LEAST "[tls]\nkey_file = /k\n", "6: key_file alone");
	refuses(LEAST "[tls]\nclient_mode = require\n",
		"6: client_mode: there is no certificate");
	refuses(LEAST "[tls]\ncert_file = /c\nkey_file = /k\n"
		      "client_mode = verify-ca\n",
		"8: client_mode: there is nothing to verify");
	refuses(LEAST "[postgres second]\nhost = h\n",
		"5: [postgres second]: a second upstream and no [database]");
	refuses(LEAST "[postgres second]\nhost = h\n[database d]\n",
		"7: [database d]: postgres is missing");
}

static void
all_errors_come_at_once_and_in_the_order_of_the_file(void **state)
{
	unsigned last = 0;

	(void)state;
	assert_null(load("[weir]\n"
			 "workers = x\n"
			 "[postgres a]\n"
			 "[user u]\n"
			 "organization = o\n"
			 "[nope]\n"
			 "[redis r]\n"
			 "url = http://x\n"
			 "[postgres a]\n"));
	assert_int_equal(errors.n, 8);
	for (size_t i = 0; i < errors.n; i++) {
		unsigned line = 0;

		assert_int_equal(strncmp(errors.line[i], path, strlen(path)),
				 0);
		if (sscanf(errors.line[i] + strlen(path), ":%u:", &line) != 1)
			line = 1000; /* the whole file: last */
		assert_true(line >= last);
		last = line;
	}
	conf_errors_free(&errors);
}

static void
errors_are_counted_beyond_what_anybody_reads(void **state)
{
	size_t n = 3000;
	char *text = calloc(n + 1, 2);
	struct conf *c;

	(void)state;
	assert_non_null(text);
	for (size_t i = 0; i < n; i++)
		memcpy(text + 2 * i, "x\n", 2);
	c = load_bytes(text, 2 * n);
	free(text);
	assert_null(c);
	assert_int_equal(errors.n, CONF_ERRORS_MAX);
	assert_true(errors.more >= n - CONF_ERRORS_MAX);
	conf_errors_free(&errors);
}

static void
a_file_that_cannot_be_read_is_one_clear_line(void **state)
{
	char nowhere[80];

	(void)state;
	snprintf(nowhere, sizeof(nowhere), "%s/nowhere.ini", dir);
	assert_null(conf_load(nowhere, &errors));
	assert_int_equal(errors.n, 1);
	assert_non_null(strstr(errors.line[0], "nowhere.ini: cannot be read: "
					       "No such file"));
	conf_errors_free(&errors);
	assert_null(conf_load(dir, &errors));
	assert_int_equal(errors.n, 1);
	conf_errors_free(&errors);
}

static void
the_environment_and_files_give_values(void **state)
{
	char text[512], secret[80];
	struct conf *c;

	(void)state;
	snprintf(secret, sizeof(secret), "%s/secret", dir);
	write_file(secret, "p;w #1 ${X}\r\nsecond\n", 20);
	assert_int_equal(setenv("WEIR_T_HOST", "h.example", 1), 0);
	assert_int_equal(setenv("WEIR_T_DIR", dir, 1), 0);
	assert_int_equal(
	    setenv("WEIR_T_TRICK", "@/etc/passwd${WEIR_T_HOST}", 1), 0);
	snprintf(text, sizeof(text),
		 "[weir]\npostgres_listen = 127.0.0.1:1\n"
		 "[postgres a]\nhost = x.${WEIR_T_HOST}\n"
		 "password = @/${WEIR_T_DIR}/secret\n"
		 "user = ${WEIR_T_TRICK}\n");
	c = loads(text);
	assert_string_equal(c->postgres[0].host, "x.h.example");
	assert_string_equal(c->postgres[0].password, "p;w #1 ${X}");
	assert_string_equal(c->postgres[0].user,
			    "@/etc/passwd${WEIR_T_HOST}"); /* as it is */
	done(c);
	unlink(secret);
	refuses(LEAST "user = ${WEIR_T_NOT_SET}\n",
		"5: user: ${WEIR_T_NOT_SET} is not set in the environment");
	refuses(LEAST "user = ${no\n", "5: user: a ${ that is not ${NAME}");
	refuses(LEAST "user = ${}\n", "5: user: a ${ that is not ${NAME}");
	refuses(LEAST "user = @/no/such/file\n",
		"5: user: @/no/such/file cannot be read: No such file");
}

static void
a_secret_is_never_repeated_in_an_error(void **state)
{
	(void)state;
	assert_null(load(LEAST "[redis r]\nurl = redis://:hunter2@h:x/\n"
			       "[user u]\npassword = SCRAM-SHA-256$hunter2\n"
			       "hunter2\n"));
	assert_int_equal(errors.n, 3);
	for (size_t i = 0; i < errors.n; i++)
		assert_null(strstr(errors.line[i], "hunter2"));
	conf_errors_free(&errors);
}

static void
an_error_passes_no_control_characters_on(void **state)
{
	(void)state;
	assert_null(load(LEAST "x\033[31m\x7f = 1\n"));
	assert_int_equal(errors.n, 1);
	for (const char *p = errors.line[0]; *p != '\0'; p++)
		assert_true(*p >= ' ' && *p <= '~');
	conf_errors_free(&errors);
}

static void
databases_are_found_by_name_else_the_fallback(void **state)
{
	struct conf *c = loads("[weir]\npostgres_listen = 127.0.0.1:1\n"
			       "[postgres one]\nhost = h\n"
			       "[postgres two]\nhost = i\n"
			       "[database z]\npostgres = one\ndbname = zz\n"
			       "[database *]\npostgres = two\n"
			       "[database a]\npostgres = one\n");

	(void)state;
	assert_int_equal(c->postgres[1].index, 1);
	assert_ptr_equal(conf_postgres_find(c, "two"), &c->postgres[1]);
	assert_null(conf_postgres_find(c, "three"));
	assert_ptr_equal(conf_database_find(c, "z")->postgres, &c->postgres[0]);
	assert_string_equal(conf_database_find(c, "z")->dbname, "zz");
	assert_string_equal(conf_database_find(c, "a")->name, "a");
	assert_string_equal(conf_database_find(c, "other")->name, "*");
	assert_ptr_equal(conf_database_find(c, "other")->postgres,
			 &c->postgres[1]);
	done(c);
}

static void
the_only_upstream_serves_every_database_unless_told(void **state)
{
	struct conf *c = loads(LEAST);

	(void)state;
	assert_ptr_equal(conf_database_find(c, "any")->postgres,
			 &c->postgres[0]);
	done(c);
	c = loads(LEAST "[database only]\n");
	assert_ptr_equal(conf_database_find(c, "only")->postgres,
			 &c->postgres[0]);
	assert_null(conf_database_find(c, "any"));
	done(c);
}

static void
users_and_organizations_are_found_among_many(void **state)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	struct conf *c;

	(void)state;
	assert_non_null(f);
	fputs(LEAST, f);
	for (int i = 0; i < 500; i++)
		fprintf(f,
			"[user u%d]\nauth = trust\norganization = o%d\n"
			"[organization o%d]\nid = %d\n",
			i * 7919 % 500, i * 7919 % 500, i, 1000 + i);
	fclose(f);
	c = loads(text);
	free(text);
	for (int i = 0; i < 500; i++) {
		char name[16], id[16];
		const struct conf_user *u;

		snprintf(name, sizeof(name), "u%d", i);
		snprintf(id, sizeof(id), "%d", 1000 + i);
		u = conf_user_find(c, name);
		assert_non_null(u);
		assert_string_equal(u->name, name);
		assert_string_equal(u->organization->id, id);
		assert_ptr_equal(u->organization,
				 conf_tenant_find(c, u->organization->slug));
	}
	assert_null(conf_user_find(c, "u500"));
	assert_null(conf_tenant_find(c, ""));
	done(c);
}

static void
an_organization_has_an_id_of_its_own(void **state)
{
	struct conf *c = loads(LEAST "[organization acme]\nweight = 3\n"
				     "var.App.Plan = gold %{user}\n");
	const struct tenant *t = conf_tenant_find(c, "acme");

	(void)state;
	assert_string_equal(t->id, "acme");
	assert_int_equal(t->weight, 3);
	assert_int_equal(t->var_n, 1);
	assert_string_equal(t->var[0].name, "app.plan");
	assert_string_equal(t->var[0].value, "gold %{user}");
	done(c);
	refuses(LEAST "[organization a]\nid = 7\n[organization b]\nid = 7\n",
		"7: [organization b]: id = 7 is that of [organization a] too");
	refuses(LEAST "[organization a]\n[organization b]\nid = a\n",
		"6: [organization b]: id = a is that of");
	refuses(LEAST "[organization a]\nredis_user = x\n",
		"5: [organization a]: only one of redis_user");
}

static void
templates_and_names_of_variables_are_checked(void **state)
{
	struct conf *c = loads(LEAST "[variables]\n"
				     "app.x = 100%% %{organization.slug}\n"
				     "search_path =\n");

	(void)state;
	assert_int_equal(c->variables_n, 2);
	assert_string_equal(c->variables[0].name, "app.x");
	assert_string_equal(c->variables[1].value, "");
	done(c);
	refuses(LEAST "[variables]\napp.x = %{nope}\n",
		"6: app.x = %{nope}: expected a template");
	refuses(LEAST "[variables]\napp.x = 100%\n", "6: app.x = 100%: expect");
	refuses(LEAST "[variables]\n1x = a\n", "6: 1x: expected a setting");
	refuses(LEAST "[variables]\na..b = a\n", "6: a..b: expected a setting");
	refuses(LEAST "[variables]\na;b = a\n", "6: a;b: expected a setting");
	refuses(LEAST "[organization a]\nvar. = a\n",
		"6: var.: expected a set");
	refuses(LEAST "[variables]\napp.x = %{jwt.}\n", "6: app.x");
	done(loads(LEAST "[variables]\napp.x = %{jwt.sub}\n"));
}

static void
a_password_is_kept_as_it_is(void **state)
{
	struct conf *c = loads(LEAST "[user u]\npassword = " LONG_SECRET "\n");
	const struct conf_user *u = conf_user_find(c, "u");

	(void)state;
	assert_int_equal(u->auth, AUTH_SCRAM);
	assert_null(u->verifier);
	assert_string_equal(u->password, LONG_SECRET);
	assert_int_equal(errors.warning_n, 0);
	done(c);
}

/* How `text` would have an unknown user asked. */
static enum conf_auth
asks_unknown(const char *text)
{
	struct conf *c = loads(text);
	enum conf_auth auth = c->unknown_auth;

	done(c);
	return auth;
}

static void
who_is_unknown_is_asked_as_most_are(void **state)
{
#define USER(name, auth) \
	"[user " name "]\nauth = " auth "\npassword = " LONG_SECRET "\n"
	(void)state;
	assert_int_equal(asks_unknown(LEAST), AUTH_SCRAM);
	assert_int_equal(asks_unknown(LEAST USER("a", "md5")), AUTH_MD5);
	assert_int_equal(asks_unknown(LEAST USER("a", "plain")), AUTH_PLAIN);
	assert_int_equal(asks_unknown(LEAST "[user a]\nauth = trust\n"),
			 AUTH_SCRAM);
	assert_int_equal(
	    asks_unknown(LEAST USER("a", "md5") USER("b", "scram-sha-256")),
	    AUTH_SCRAM);
	assert_int_equal(asks_unknown(LEAST USER("a", "md5") USER("b", "md5")
					  USER("c", "scram-sha-256")),
			 AUTH_MD5);
#undef USER
}

static void
a_verifier_is_taken_as_it_is(void **state)
{
	struct conf *c = loads(
	    LEAST "[user u]\npassword = SCRAM-SHA-256$4096:SOEhhHrdUooI853wx8"
		  "NSsw==$Ofu9jVjTfVW7GZVcAR3BrkEj7HOt1j9lbnO/cVjdWCY=:4csBpj4+"
		  "Os3v8ohVr6vS2/ketU/iCV13WUncervsdN0=\n");
	const struct conf_user *u = conf_user_find(c, "u");

	(void)state;
	assert_non_null(u->verifier);
	assert_int_equal(u->verifier->iterations, 4096);
	assert_int_equal(u->verifier->salt_len, 16);
	done(c);
	refuses(LEAST "[user u]\npassword = SCRAM-SHA-256$x\n",
		"6: [user u]: the password is not a verifier");
}

static void
a_stored_form_must_be_of_use_for_the_log_in(void **state)
{
#define MD5 "md587ad8e138df6ddea587d7fe1a421c19b"
	(void)state;
	refuses(LEAST "[user u]\nauth = plain\npassword = " MD5 "\n",
		"7: [user u]: a stored form");
	refuses(LEAST "[user u]\npassword = " MD5 "\n",
		"6: [user u]: an MD5 hash");
	refuses(LEAST "[user u]\nauth = md5\n",
		"5: [user u]: password is missing");
	refuses(LEAST "[user u]\npassword = ${NO_SUCH_NAME}\n", "6: ");
#undef MD5
}

static void
tokens_need_a_key_to_judge_them_by(void **state)
{
#define JWT LEAST "[user u]\nauth = jwt\n[auth]\n"
	struct conf *c = loads(JWT "jwt_secret = " LONG_SECRET "\n");
	char text[512];

	(void)state;
	assert_int_equal(c->user[0].auth, AUTH_JWT);
	assert_null(c->user[0].password);
	assert_string_equal(c->jwt.secret, LONG_SECRET);
	assert_string_equal(c->jwt.user_claim, "sub");
	assert_null(c->jwt.organization_claim);
	assert_int_equal(c->unknown_auth, AUTH_PLAIN);
	done(c);
	refuses(JWT, "6: [user u]: auth = jwt without a key");
	refuses(JWT "jwt_secret = 0123456789abcdef0123456789abcde\n",
		"8: jwt_secret: a secret of 31 bytes, expected at least 32");
	refuses(JWT "jwt_secret = " LONG_SECRET
		    "\njwt_previous_secret = short\n",
		"9: jwt_previous_secret: a secret of 5 bytes");
	refuses(LEAST "[auth]\njwt_previous_secret = " LONG_SECRET "\n",
		"6: jwt_previous_secret alone");
	/* A public key as a secret would let everybody sign. */
	refuses(JWT "jwt_secret = -----BEGIN PUBLIC KEY-----0123456789\n",
		"8: jwt_secret: a PEM file");
	refuses(JWT "jwt_public_key_file = /no/such/file\n",
		"8: jwt_public_key_file = /no/such/file: No such file");
	snprintf(text, sizeof(text), JWT "jwt_public_key_file = %s\n", path);
	refuses(text, "8: jwt_public_key_file = /tmp/");
#undef JWT
}

static void
a_public_key_is_read_at_load(void **state)
{
	static const char pem[] =
	    "-----BEGIN PUBLIC KEY-----\n"
	    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"
	    "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n"
	    "-----END PUBLIC KEY-----\n";
	char file[64], text[512];
	struct conf *c;

	(void)state;
	snprintf(file, sizeof(file), "%s/jwt.pub", dir);
	write_file(file, pem, sizeof(pem) - 1);
	snprintf(text, sizeof(text),
		 LEAST "[user u]\nauth = jwt\n[auth]\n"
		       "jwt_public_key_file = %s\n",
		 file);
	c = loads(text);
	assert_non_null(c->jwt.public_key);
	done(c);
	unlink(file);
}

static void
certificates_need_somebody_who_signs_them(void **state)
{
#define CERT "[user u]\nauth = cert\n"
#define TLS  "[tls]\ncert_file = c\nkey_file = k\n"
	struct conf *c = loads(LEAST CERT TLS "ca_file = a\n");

	(void)state;
	assert_int_equal(c->user[0].auth, AUTH_CERT);
	assert_int_equal(c->unknown_auth, AUTH_CERT);
	done(c);
	refuses(LEAST CERT, "6: [user u]: auth = cert without anybody");
	refuses(LEAST CERT TLS, "6: [user u]: auth = cert without anybody");
	refuses(LEAST CERT TLS "ca_file = a\nclient_mode = disable\n",
		"6: [user u]: auth = cert without anybody");
#undef TLS
#undef CERT
}

static void
what_is_not_built_is_refused_when_asked_for(void **state)
{
	static const char *const asked[] = {
		"5: multiplex = on",
	};
	char text[256], want[128];

	(void)state;
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		snprintf(text, sizeof(text), LEAST "%s\n", asked[i] + 3);
		snprintf(want, sizeof(want), "%s is not supported yet",
			 asked[i]);
		refuses(text, want);
	}
	refuses(LEAST "[batch t]\nnope = 1\n", "6: nope: unknown key");
	refuses("[weir]\nproxy_protocol = yes\n",
		"2: proxy_protocol = yes is not supported yet");
	refuses(LEAST "[auth]\nauth_query = SELECT 1\n",
		"6: nobody to ask for secrets, expected auth_postgres");
	refuses(LEAST "[auth]\nauth_postgres = main\n",
		"6: auth_postgres = main: weir cannot log in there");
	refuses(LEAST "user = u\npassword = p\n[auth]\n"
		      "auth_postgres = main\n",
		"8: auth_postgres = main: the upstream names no database");
	refuses(LEAST "[directory]\nquery = SELECT 1\n",
		"6: [directory]: nobody to ask for organizations");
	refuses(LEAST "[directory]\npostgres = main\n",
		"6: postgres = main: weir cannot log in there");
	refuses(LEAST "[directory]\npostgres = main\n",
		"6: [directory]: query is missing");
	refuses(LEAST "[directory]\npostgres = main\nquery = SELECT 1\n",
		"7: query asks for nobody, expected $1 in it, the slug");
	refuses(LEAST "[user u]\nauth = trust\norganizations = *, o\n",
		"7: organizations: *, expected * alone or slugs");
	refuses(LEAST "[user u]\nauth = trust\norganizations = a.b\n",
		"7: organizations: a.b, expected * alone or slugs");
	refuses(LEAST "[organization o]\n[user u]\nauth = trust\n"
		      "organization = o\norganizations = o\n",
		"9: [user u]: only one of organization and organizations");
	refuses(LEAST "[organization o]\nrate_queries = 1\n",
		"6: rate_queries = 1: expected a rate");
	done(loads(LEAST "multiplex = off\nmin_pool_size = 1\n"
			 "reserve_pool_size = 1\nmax_connections = 5\n"
			 "reserve_pool_timeout = 9\npool_mode = transaction\n"
			 "[user u]\nauth = trust\npool_mode = transaction\n"));
}

static void
dubious_things_are_warned_of(void **state)
{
	(void)state;
	warns(LEAST, " nobody can log in");
	warns(LEAST "[user u]\npassword = short\n",
	      "6: [user u]: a password of 5 characters, expected at least 32");
	warns(LEAST "[user u]\nauth = trust\n", "6: [user u]: auth = trust");
}

static enum conf_rls
rls_of(const char *text)
{
	struct conf *c = loads(text);
	enum conf_rls check = c->postgres[0].rls_check;

	assert_string_equal(c->postgres[0].rls_column, "organization_id");
	done(c);
	return check;
}

static void
row_level_security_is_checked_where_there_is_something_to_check(void **state)
{
	(void)state;
#define OWN "user = u\npassword = p\n"
	assert_int_equal(rls_of(LEAST OWN), RLS_CHECK_OFF);
	assert_int_equal(rls_of(LEAST "[organization o]\n"), RLS_CHECK_OFF);
	assert_int_equal(rls_of(LEAST OWN "[organization o]\n"),
			 RLS_CHECK_WARN);
	assert_int_equal(rls_of(LEAST OWN "[variables]\napp.me = x\n"),
			 RLS_CHECK_WARN);
	assert_int_equal(rls_of(LEAST OWN "dbname = d\n[directory]\n"
					  "postgres = main\n"
					  "query = SELECT $1\n"),
			 RLS_CHECK_WARN);
	assert_int_equal(
	    rls_of(LEAST OWN "rls_check = off\n[organization o]\n"),
	    RLS_CHECK_OFF);
	assert_int_equal(rls_of(LEAST OWN "rls_check = require\n"),
			 RLS_CHECK_REQUIRE);
	refuses(LEAST "rls_check = require\n",
		"5: [postgres main]: rls_check looks at the role");
	refuses(LEAST OWN "rls_check = on\n", "7: rls_check = on: expected");
	warns(LEAST OWN "rls_check = require\n",
	      "7: rls_check = require of [postgres main] refuses");
	warns(LEAST OWN "rls_check = require\n[database *]\n",
	      "7: rls_check = require of [postgres main] refuses");
#undef OWN
}

#define KEY   "key = 0123456789abcdef0123456789abcdef\n"
#define OTHER "previous_key = abcdef0123456789abcdef0123456789\n"

static void
a_context_is_signed_with_a_key_that_nobody_guesses(void **state)
{
	struct conf *c = loads(LEAST "[context]\n" KEY OTHER
				     "variable = App.Weir\nttl = 2min\n");

	(void)state;
	assert_string_equal(c->context.variable, "app.weir");
	assert_int_equal(c->context.ttl_ms, 120000);
	assert_true(c->context.id != 0);
	done(c);
	c = loads(LEAST);
	assert_null(c->context.key);
	assert_true(c->context.id == 0);
	done(c);
	refuses(LEAST "[context]\nkey = 0123456789abcdef0123456789abcde\n",
		"6: key: a key of 31 characters, expected at least 32");
	refuses(LEAST "[context]\n" KEY "previous_key = x\n",
		"7: previous_key: a key of 1 characters");
	refuses(LEAST "[context]\n" OTHER, " [context]: key is missing");
	refuses(LEAST "[context]\n" KEY "previous_" KEY,
		"7: previous_key: the same as key");
}

static void
a_context_has_a_setting_of_its_own(void **state)
{
	(void)state;
	refuses(LEAST "[context]\n" KEY "variable = role\n",
		"7: variable = role: expected a setting's name with a dot");
	refuses(LEAST "[context]\n" KEY "variable = a b.c\n",
		"7: variable = a b.c: expected a setting's name");
	refuses(LEAST "[variables]\napp.me = x\n[context]\n" KEY
		      "variable = app.Me\n",
		"9: variable = app.me: a template sets it too");
	refuses(LEAST "[organization o]\nvar.app.me = x\n[context]\n" KEY
		      "variable = app.me\n",
		"9: variable = app.me: a template sets it too");
}

static void
secrets_in_files_open_to_all_are_warned_of(void **state)
{
	char text[512], key[80];
	struct conf *c;

	(void)state;
	snprintf(key, sizeof(key), "%s/key", dir);
	write_file(key, "x", 1);
	assert_int_equal(chmod(key, 0644), 0);
	snprintf(text, sizeof(text),
		 LEAST "[tls]\ncert_file = /c\nkey_file = %s\n", key);
	warns(text, "7: key_file = ");
	unlink(key);

	write_file(path, LEAST "password = x\n", strlen(LEAST) + 13);
	assert_int_equal(chmod(path, 0644), 0);
	c = conf_load(path, &errors);
	assert_non_null(c);
	assert_true(has_line(errors.warning, errors.warning_n,
			     "5: a secret in a file that any user may read"));
	done(c);
	assert_int_equal(chmod(path, 0600), 0);
	c = conf_load(path, &errors);
	assert_false(has_line(errors.warning, errors.warning_n, "5: a secret"));
	done(c);
}

/* Organizations begin in line 5. */
#define REDIS_LEAST \
	"[weir]\nredis_listen = *:3\n[redis r]\nurl = redis://:x@h/0\n"

static void
warns_where_nothing_keeps_organizations_apart_in_redis(void **state)
{
	struct conf *c;

	(void)state;
	warns(REDIS_LEAST
	      "[organization a]\n[organization b]\n[organization c]\n"
	      "redis_user = c\nredis_password = x\n",
	      "5: 2 organizations share the user default of [redis r]");
	/* Another name or database of the same server is no other server. */
	warns(REDIS_LEAST "[redis s]\nurl = redis://:x@h/1\n[organization a]\n"
			  "[organization b]\nredis = s\n",
	      "7: 2 organizations share the user default of ");
	warns(REDIS_LEAST
	      "[organization a]\nredis_user = u\nredis_password = x\n"
	      "[organization b]\nredis_user = u\nredis_password = x\n",
	      "5: 2 organizations share the user u of [redis r]");
	c = loads(REDIS_LEAST
		  "[redis s]\nurl = redis://:x@h:7000\n[organization a]\n"
		  "[organization b]\nredis = s\n[organization c]\n"
		  "redis_user = c\nredis_password = x\n[organization d]\n"
		  "redis_user = d\nredis_password = x\n");
	for (size_t i = 0; i < errors.warning_n; i++)
		assert_null(strstr(errors.warning[i], "organizations share"));
	done(c);
}

static void
hosts_are_a_list_and_each_has_a_port(void **state)
{
	struct conf *c =
	    loads("[weir]\npostgres_listen = 127.0.0.1:1\n[postgres a]\n"
		  "host = db.one, db.two:5433,[::1]:5434,::2,/run/pg, /run:1\n"
		  "port = 7\nload_balance_hosts = round-robin\n"
		  "target_role = standby\n");
	static const struct conf_host want[] = {
		{ (char *)(uintptr_t) "db.one", 7 },
		{ (char *)(uintptr_t) "db.two", 5433 },
		{ (char *)(uintptr_t) "::1", 5434 },
		{ (char *)(uintptr_t) "::2", 7 },
		{ (char *)(uintptr_t) "/run/pg", 7 },
		{ (char *)(uintptr_t) "/run", 1 },
	};
	const struct conf_postgres *p = &c->postgres[0];

	(void)state;
	assert_int_equal(p->hosts_n, 6);
	for (size_t i = 0; i < p->hosts_n; i++) {
		assert_string_equal(p->hosts[i].name, want[i].name);
		assert_int_equal(p->hosts[i].port, want[i].port);
	}
	assert_int_equal(p->load_balance_hosts, BALANCE_ROUND_ROBIN);
	assert_int_equal(p->target_role, ROLE_STANDBY);
	assert_int_equal(p->sslmode, SSLMODE_PREFER);
	done(c);
	refuses(LEAST "[postgres b]\nhost = a,b,a:5432\n",
		"6: host: a with port 5432 a second time");
	refuses(LEAST "[postgres b]\nhost = 1,2,3,4,5,6,7,8,9,10,11,12,13,14,"
		      "15,16,17\n",
		"6: host = 1,2,3");
}

static void
a_unix_socket_has_no_tls(void **state)
{
	struct conf *c = loads("[weir]\npostgres_listen = 127.0.0.1:1\n"
			       "[postgres a]\nhost = /run/postgresql\n");

	(void)state;
	assert_int_equal(c->postgres[0].sslmode, SSLMODE_DISABLE);
	done(c);
	refuses("[postgres a]\nhost = /run\nsslmode = require\n",
		"3: sslmode: host = /run is a unix socket");
}

static void
tls_to_redis_fits_its_url(void **state)
{
	static const char start[] = "[weir]\nredis_listen = 127.0.0.1:1\n"
				    "[redis r]\n";
	char text[256];
	struct conf *c;

	(void)state;
	snprintf(text, sizeof(text), "%surl = rediss://h\n", start);
	c = loads(text);
	assert_int_equal(c->redis[0].sslmode, SSLMODE_VERIFY_FULL);
	done(c);
	snprintf(text, sizeof(text), "%surl = redis://h\nsslmode = require\n",
		 start);
	refuses(text, "5: sslmode does not fit the url, expected disable");
	snprintf(text, sizeof(text), "%surl = rediss://h\nsslmode = disable\n",
		 start);
	refuses(text, "5: sslmode does not fit the url, expected require");
}

static void
several_hosts_of_a_redis_url_are_sentinels(void **state)
{
	static const char start[] = "[weir]\nredis_listen = 127.0.0.1:1\n"
				    "[redis r]\n";
	char text[256];
	struct conf *c;

	(void)state;
	snprintf(text, sizeof(text),
		 "%surl = redis://a,b:7\nsentinel = mymaster\n"
		 "sentinel_user = u\nsentinel_password = p\n",
		 start);
	c = loads(text);
	assert_string_equal(c->redis[0].sentinel, "mymaster");
	assert_int_equal(c->redis[0].hosts_n, 2);
	assert_int_equal(c->redis[0].hosts[0].port, 26379);
	assert_int_equal(c->redis[0].hosts[1].port, 7);
	done(c);
	snprintf(text, sizeof(text), "%surl = redis://a\n", start);
	c = loads(text);
	assert_null(c->redis[0].sentinel);
	assert_int_equal(c->redis[0].hosts[0].port, 6379);
	done(c);
	snprintf(text, sizeof(text), "%surl = redis://a,b\n", start);
	refuses(text, "4: [redis r]: several hosts in the url");
	snprintf(text, sizeof(text),
		 "%surl = redis://a\nsentinel_password = p\n", start);
	refuses(text, "5: [redis r]: a log-in at Sentinels and no sentinel");
	snprintf(text, sizeof(text),
		 "%surl = redis://a\nsentinel = m\nsentinel_user = u\n", start);
	refuses(text, "6: sentinel_user alone");
	snprintf(text, sizeof(text),
		 "%surl = redis://a\ncluster = on\n"
		 "min_dedicated_connections = 1\n",
		 start);
	refuses(text, "6: [redis r]: min_dedicated_connections and cluster");
	snprintf(text, sizeof(text), "%surl = redis://a\nsentinel = a b\n",
		 start);
	refuses(text, "5: sentinel: expected a name without blanks");
}

/* The last [section] above `p`, commented out or not. */
static void
section_above(const char *text, const char *p, char out[64])
{
	out[0] = '\0';
	while (p > text) {
		const char *line;

		for (line = p - 1; line > text && line[-1] != '\n';)
			line--;
		if (sscanf(line, "[%63[a-z]", out) == 1 ||
		    sscanf(line, ";[%63[a-z]", out) == 1)
			return;
		p = line;
	}
}

/* Where `key = ` stands in a section of the manual, or NULL. */
static const char *
documented(const char *text, const struct conf_key *k)
{
	const char *p = text;
	char line[80], section[64];

	snprintf(line, sizeof(line), "%s =", k->name);
	while ((p = strstr(p, line)) != NULL) {
		bool starts = p > text && (p[-1] == '\n' ||
					   (p[-1] == ';' && p[-2] == '\n'));

		if (starts) {
			section_above(text, p, section);
			if (strcmp(section, k->section) == 0)
				return p + strlen(line);
		}
		p++;
	}
	return NULL;
}

static void
a_batch_without_sense_is_refused(void **state)
{
#define BATCH LEAST "[batch public.t]\n"
	(void)state;
	refuses(BATCH "max_ops = 0\n", "6: max_ops = 0");
	refuses(BATCH "max_ops = 2001\n", "6: max_ops = 2001");
	refuses(BATCH "max_bytes = 1023\n", "6: max_bytes = 1023");
	refuses(BATCH "max_bytes = 9MB\n", "6: max_bytes = 9MB");
	refuses(BATCH "max_delay_ms = -1\n", "6: max_delay_ms = -1");
	refuses(BATCH "max_delay_ms = 1001\n", "6: max_delay_ms = 1001");
	refuses(BATCH "in_flight = 0\n", "6: in_flight = 0");
	refuses(BATCH "order_by =\n", "6: order_by");
	refuses(BATCH "merge = much\n", "6: merge = much");
	refuses(BATCH "transactions = maybe\n", "6: transactions = maybe");
	refuses(BATCH "publish = a\n", "6: publish without an upstream");
	refuses(BATCH "publish = a:{\n[redis r]\nurl = redis://h\n",
		"6: publish = a:{: expected");
	refuses(BATCH "publish_payload = {a}\n", "6: publish_payload alone");
	refuses(BATCH "publish = a\npublish_payload = x {a}\n[redis r]\n"
		      "url = redis://h\n",
		"7: publish_payload = x {a}: expected");
	refuses(BATCH "publish = a\n[redis r]\nurl = redis://h\n"
		      "dedicated_connections = 0\n",
		"6: publish: [redis r] has dedicated_connections = 0");
	refuses(LEAST "[batch a.b.c]\n", "5: [batch a.b.c]");
	refuses(LEAST "[batch .c]\n", "5: [batch .c]");
#undef BATCH
}

static void
the_example_documents_every_key_with_its_default(void **state)
{
	static char text[1 << 16];
	FILE *f = fopen("conf/example.ini", "r");
	struct conf_key k;
	size_t n;

	(void)state;
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	assert_true(n < sizeof(text) - 1);
	for (size_t i = 0; conf_key_find(i, &k); i++) {
		const char *value = documented(text, &k);

		if (value == NULL)
			fail_msg("[%s] %s is not in the example", k.section,
				 k.name);
		if (k.def == NULL)
			continue;
		value += strspn(value, " ");
		if (strncmp(value, k.def, strlen(k.def)) != 0 ||
		    value[strlen(k.def)] != '\n')
			fail_msg("[%s] %s is not %s in the example", k.section,
				 k.name, k.def);
	}
}

static void
the_example_loads_without_errors(void **state)
{
	struct conf *c = conf_load("conf/example.ini", &errors);

	(void)state;
	for (size_t i = 0; i < errors.n; i++)
		print_error("%s\n", errors.line[i]);
	assert_non_null(c);
	assert_int_equal(errors.warning_n, 1); /* nobody can log in */
	done(c);
}

/* Uncommented, every example is one that loads, is not supported yet, stands
 * for another or needs what is not here: a file, or a secret of some length. */
static void
the_example_is_right_in_what_it_comments_out(void **state)
{
	static char text[1 << 16], live[1 << 16];
	FILE *f = fopen("conf/example.ini", "r");
	size_t n, k = 0;
	struct conf *c;

	(void)state;
	assert_non_null(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	for (size_t i = 0; i < n; i++)
		if (text[i] != ';' || (i > 0 && text[i - 1] != '\n'))
			live[k++] = text[i];
	for (char *p = live; (p = strstr(p, "${WEIR_")) != NULL; p++)
		memset(p, 'x', 7); /* the closing brace may stay */
	c = load_bytes(live, k);
	assert_null(c);
	for (size_t i = 0; i < errors.n; i++)
		if (strstr(errors.line[i], "is not supported yet") == NULL &&
		    strstr(errors.line[i], "sslmode does not fit") == NULL &&
		    strstr(errors.line[i], "_file = /etc/weir/") == NULL &&
		    strstr(errors.line[i], "only one of organ") == NULL &&
		    strstr(errors.line[i], "jwt_secret: a secret") == NULL &&
		    strstr(errors.line[i], "jwt_previous_sec") == NULL &&
		    strstr(errors.line[i], "key: a key of") == NULL)
			fail_msg("%s", errors.line[i]);
	conf_errors_free(&errors);
}

static void
every_prefix_of_a_file_loads_or_is_refused_whole(void **state)
{
	static const char text[] =
	    "[weir]\nredis_listen = 127.0.0.1:1\n[redis r]\n"
	    "url = redis://u:p@h:1/2\n[organization o]\nid = 1\n"
	    "var.a.b = %{user}\n[variables]\na.c = %{organization.id}\n"
	    "[user u]\nauth = trust\norganization = o\n";

	(void)state;
	for (size_t n = 0; n < sizeof(text); n++) {
		struct conf *c = load_bytes(text, n);

		assert_int_equal(c == NULL, errors.n > 0);
		conf_free(&c);
		conf_errors_free(&errors);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(several_hosts_of_a_redis_url_are_sentinels),
		cmocka_unit_test(a_minimal_file_gets_the_documented_defaults),
		cmocka_unit_test(every_key_ends_up_in_its_field),
		cmocka_unit_test(addresses_to_listen_on_are_ready_for_bind),
		cmocka_unit_test(addresses_that_cannot_be_bound_are_refused),
		cmocka_unit_test(a_value_is_taken_as_it_stands),
		cmocka_unit_test(a_long_line_is_whole_or_an_error),
		cmocka_unit_test(
		    a_file_may_begin_with_a_mark_and_end_without_a_newline),
		cmocka_unit_test(what_is_no_line_of_settings_is_refused),
		cmocka_unit_test(unknown_and_repeated_names_are_refused),
		cmocka_unit_test(values_out_of_bounds_are_refused),
		cmocka_unit_test(references_must_lead_somewhere),
		cmocka_unit_test(what_is_missing_is_told),
		cmocka_unit_test(
		    all_errors_come_at_once_and_in_the_order_of_the_file),
		cmocka_unit_test(errors_are_counted_beyond_what_anybody_reads),
		cmocka_unit_test(a_file_that_cannot_be_read_is_one_clear_line),
		cmocka_unit_test(the_environment_and_files_give_values),
		cmocka_unit_test(a_secret_is_never_repeated_in_an_error),
		cmocka_unit_test(an_error_passes_no_control_characters_on),
		cmocka_unit_test(databases_are_found_by_name_else_the_fallback),
		cmocka_unit_test(
		    the_only_upstream_serves_every_database_unless_told),
		cmocka_unit_test(users_and_organizations_are_found_among_many),
		cmocka_unit_test(an_organization_has_an_id_of_its_own),
		cmocka_unit_test(templates_and_names_of_variables_are_checked),
		cmocka_unit_test(a_password_is_kept_as_it_is),
		cmocka_unit_test(who_is_unknown_is_asked_as_most_are),
		cmocka_unit_test(a_verifier_is_taken_as_it_is),
		cmocka_unit_test(a_stored_form_must_be_of_use_for_the_log_in),
		cmocka_unit_test(tokens_need_a_key_to_judge_them_by),
		cmocka_unit_test(a_public_key_is_read_at_load),
		cmocka_unit_test(certificates_need_somebody_who_signs_them),
		cmocka_unit_test(what_is_not_built_is_refused_when_asked_for),
		cmocka_unit_test(dubious_things_are_warned_of),
		cmocka_unit_test(
		    row_level_security_is_checked_where_there_is_something_to_check),
		cmocka_unit_test(
		    a_context_is_signed_with_a_key_that_nobody_guesses),
		cmocka_unit_test(a_context_has_a_setting_of_its_own),
		cmocka_unit_test(secrets_in_files_open_to_all_are_warned_of),
		cmocka_unit_test(hosts_are_a_list_and_each_has_a_port),
		cmocka_unit_test(a_unix_socket_has_no_tls),
		cmocka_unit_test(tls_to_redis_fits_its_url),
		cmocka_unit_test(a_batch_without_sense_is_refused),
		cmocka_unit_test(
		    the_example_documents_every_key_with_its_default),
		cmocka_unit_test(
		    warns_where_nothing_keeps_organizations_apart_in_redis),
		cmocka_unit_test(the_example_loads_without_errors),
		cmocka_unit_test(the_example_is_right_in_what_it_comments_out),
		cmocka_unit_test(
		    every_prefix_of_a_file_loads_or_is_refused_whole),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

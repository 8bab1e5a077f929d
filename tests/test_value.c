#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "conf/value.h"

static void
times_know_their_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms;
	} good[] = {
		{ "0", 0 },
		{ "30", 30000 },
		{ "1.5", 1500 },
		{ "1.5s", 1500 },
		{ "500ms", 500 },
		{ "2min", 120000 },
		{ "1h", 3600000 },
		{ "1d", 86400000 },
		{ "0.5h", 1800000 },
		{ "3 s", 3000 },
		{ "0.0001", 1 },
		{ "0.9ms", 1 },
		{ "1.000001ms", 2 },
		{ "0.999999s", 1000 },
		{ "1.0000000000000000000000001s", 1000 },
	};
	static const char *const bad[] = {
		"",
		"s",
		"-1",
		"+1",
		" 1",
		"1 ",
		"1S",
		"1m",
		"1sec",
		"1.",
		".5",
		"1.5.5",
		"1,5s",
		"0x10",
		"1e3s",
		"1s ",
		"inf",
		"nan",
		"1\t s",
		"18446744073709551616",
		"18446744073709551615h",
	};
	uint64_t ms;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(value_time(good[i].text, &ms), 0);
		assert_int_equal(ms, good[i].ms);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(value_time(bad[i], &ms), -1);
}

static void
sizes_are_powers_of_1024(void **state)
{
	uint64_t n;

	(void)state;
	assert_int_equal(value_size("65536", &n), 0);
	assert_int_equal(n, 65536);
	assert_int_equal(value_size("64kB", &n), 0);
	assert_int_equal(n, 65536);
	assert_int_equal(value_size("1.5 MB", &n), 0);
	assert_int_equal(n, 3 << 19);
	assert_int_equal(value_size("2GB", &n), 0);
	assert_int_equal(n, 2ll << 30);
	assert_int_equal(value_size("1mb", &n), -1);
	assert_int_equal(value_size("1TB", &n), -1);
	assert_int_equal(value_size("18446744073709551615GB", &n), -1);
}

static void
numbers_are_decimal_digits_and_fit(void **state)
{
	uint64_t n;

	(void)state;
	assert_int_equal(value_uint("18446744073709551615", &n), 0);
	assert_true(n == UINT64_MAX);
	assert_int_equal(value_uint("007", &n), 0);
	assert_int_equal(n, 7);
	assert_int_equal(value_uint("18446744073709551616", &n), -1);
	assert_int_equal(value_uint("99999999999999999999999", &n), -1);
	assert_int_equal(value_uint("", &n), -1);
	assert_int_equal(value_uint("1 ", &n), -1);
	assert_int_equal(value_uint("-1", &n), -1);
}

static void
switches_have_four_spellings(void **state)
{
	bool b = false;

	(void)state;
	assert_int_equal(value_bool("ON", &b), 0);
	assert_true(b);
	assert_int_equal(value_bool("no", &b), 0);
	assert_false(b);
	assert_int_equal(value_bool("1", &b), 0);
	assert_true(b);
	assert_int_equal(value_bool("False", &b), 0);
	assert_false(b);
	assert_int_equal(value_bool("", &b), -1);
	assert_int_equal(value_bool("o", &b), -1);
}

static void
rates_need_both_halves(void **state)
{
	struct tenant_rate r;

	(void)state;
	assert_int_equal(value_rate("1000/60s", &r), 0);
	assert_int_equal(r.count, 1000);
	assert_int_equal(r.period_ms, 60000);
	assert_int_equal(value_rate("5/0.1", &r), 0);
	assert_int_equal(r.period_ms, 100);
	assert_int_equal(value_rate("1000", &r), -1);
	assert_int_equal(value_rate("1000/", &r), -1);
	assert_int_equal(value_rate("/60s", &r), -1);
	assert_int_equal(value_rate("0/60s", &r), -1);
	assert_int_equal(value_rate("10/0s", &r), -1);
	assert_int_equal(value_rate("10 / 1s", &r), -1);
}

static void
hosts_are_names_or_addresses(void **state)
{
	(void)state;
	assert_true(value_is_host("db"));
	assert_true(value_is_host("db-1.internal"));
	assert_true(value_is_host("my_db"));
	assert_true(value_is_host("10.0.0.1"));
	assert_true(value_is_host("::1"));
	assert_true(value_is_host("fdaa:0:1::3"));
	assert_false(value_is_host(""));
	assert_false(value_is_host("a b"));
	assert_false(value_is_host("a,b"));
	assert_false(value_is_host("[::1]"));
	assert_false(value_is_host("::1::2"));
	assert_false(value_is_host("h:1"));
	assert_false(value_is_host("-h"));
	assert_false(value_is_host("h/1"));
}

/* What it is taken for; NULL: it is refused. */
static void
host_is(const char *text, const char *name, unsigned port)
{
	struct conf_host h;

	assert_int_equal(value_host(text, &h), name ? 0 : -1);
	if (name == NULL)
		return;
	assert_string_equal(h.name, name);
	assert_int_equal(h.port, port);
	free(h.name);
}

static void
hosts_of_upstreams_may_have_a_port(void **state)
{
	char path[128];

	(void)state;
	host_is("db", "db", 0);
	host_is("db:1", "db", 1);
	host_is("10.0.0.1:65535", "10.0.0.1", 65535);
	host_is("::1", "::1", 0);
	host_is("::1:5", "::1:5", 0);
	host_is("[::1]", "::1", 0);
	host_is("[::1]:5", "::1", 5);
	host_is("/run/pg", "/run/pg", 0);
	host_is("/run/pg:5", "/run/pg", 5);
	host_is("", NULL, 0);
	host_is(":1", NULL, 0);
	host_is("db:", NULL, 0);
	host_is("db:0", NULL, 0);
	host_is("db:65536", NULL, 0);
	host_is("db:x", NULL, 0);
	host_is("[db]:1", NULL, 0);
	host_is("[::1", NULL, 0);
	host_is("[", NULL, 0);
	host_is("[]", NULL, 0);
	host_is("[::1]x", NULL, 0);
	host_is("a b", NULL, 0);
	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[92] = '\0';
	host_is(path, path, 0);
	path[92] = 'x';
	path[93] = '\0';
	host_is(path, NULL, 0);
}

static void
forget(struct conf_redis *r)
{
	for (size_t i = 0; i < r->hosts_n; i++)
		free(r->hosts[i].name);
	free(r->hosts);
	free(r->host);
	free(r->user);
	free(r->password);
}

static void
a_redis_url_is_taken_apart(void **state)
{
	static const struct {
		const char *url;
		struct conf_redis want;
	} good[] = {
		{ "redis://h", { .host = "h", .port = 6379 } },
		{ "redis://h/", { .host = "h", .port = 6379 } },
		{ "redis://h:1/2", { .host = "h", .port = 1, .db = 2 } },
		{ "rediss://h", { .tls = true, .host = "h", .port = 6379 } },
		{ "redis://[::1]:7", { .host = "::1", .port = 7 } },
		{ "redis://[::1]/3", { .host = "::1", .port = 6379, .db = 3 } },
		{ "redis://:pw@h",
		  { .host = "h", .port = 6379, .password = "pw" } },
		{ "redis://me:pw@h",
		  { .host = "h",
		    .port = 6379,
		    .user = "me",
		    .password = "pw" } },
		{ "redis://me@h",
		  { .host = "h", .port = 6379, .user = "me", .password = "" } },
		{ "redis://:@h", { .host = "h", .port = 6379 } },
		{ "redis://me:p@w@h",
		  { .host = "h",
		    .port = 6379,
		    .user = "me",
		    .password = "p@w" } },
		{ "redis://a%3ab:%2f%40%25%C3%BC:@h",
		  { .host = "h",
		    .port = 6379,
		    .user = "a:b",
		    .password = "/@%\xc3\xbc:" } },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		const struct conf_redis *want = &good[i].want;
		struct conf_redis r = { .connections = 9 };

		assert_int_equal(value_redis_url(good[i].url, &r), 0);
		assert_int_equal(r.tls, want->tls);
		assert_string_equal(r.host, want->host);
		assert_int_equal(r.port, want->port);
		assert_int_equal(r.db, want->db);
		assert_int_equal(r.hosts_n, 1);
		assert_string_equal(r.hosts[0].name, want->host);
		assert_string_equal(r.user ? r.user : "-",
				    want->user ? want->user : "-");
		assert_string_equal(r.password ? r.password : "-",
				    want->password ? want->password : "-");
		assert_int_equal(r.connections, 9);
		forget(&r);
	}
}

static void
a_redis_url_may_name_several_hosts(void **state)
{
	struct conf_redis r = { 0 };

	(void)state;
	assert_int_equal(
	    value_redis_url("redis://me:p,w@a,b:7,[::1],[::2]:9/3", &r), 0);
	assert_string_equal(r.password, "p,w");
	assert_string_equal(r.host, "a");
	assert_int_equal(r.port, 6379);
	assert_int_equal(r.db, 3);
	assert_int_equal(r.hosts_n, 4);
	assert_string_equal(r.hosts[0].name, "a");
	assert_int_equal(r.hosts[0].port, 0);
	assert_string_equal(r.hosts[1].name, "b");
	assert_int_equal(r.hosts[1].port, 7);
	assert_string_equal(r.hosts[2].name, "::1");
	assert_int_equal(r.hosts[2].port, 0);
	assert_string_equal(r.hosts[3].name, "::2");
	assert_int_equal(r.hosts[3].port, 9);
	forget(&r);
}

static void
a_malformed_redis_url_is_refused_and_leaks_nothing(void **state)
{
	static const char *const bad[] = {
		"",
		"h:6379",
		"http://h",
		"redis:/h",
		"redis://",
		"redis://:pw@",
		"redis://h:0",
		"redis://h:65536",
		"redis://h:x",
		"redis://h:",
		"redis://::1:6379",
		"redis://[::1",
		"redis://[]:1",
		"redis://[1.2.3.4]",
		"redis://[::1]x",
		"redis://[::1]x1",
		"redis://h/x",
		"redis://h/1/2",
		"redis://h/65536",
		"redis://h/-1",
		"redis://h?db=1",
		"redis://h#1",
		"redis://:%4@h",
		"redis://:%zz@h",
		"redis://:a%00b@h",
		"redis://:pa/ss@h",
		"REDIS://h",
		"redis://a b",
		"redis://,",
		"redis://a,",
		"redis://,a",
		"redis://a,,b",
		"redis://a, b",
		"redis://a:1,b:0",
		"redis://a,[::1/0",
		"redis://1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct conf_redis r = { 0 };

		if (value_redis_url(bad[i], &r) == 0)
			fail_msg("%s", bad[i]);
		assert_null(r.host);
		assert_null(r.password);
	}
}

static void
every_prefix_of_a_url_is_whole_or_refused(void **state)
{
	static const char url[] = "rediss://me:p%40w@[fd::1]:6379/12";

	(void)state;
	for (size_t n = 0; n < sizeof(url); n++) {
		char *cut = strndup(url, n);
		struct conf_redis r = { 0 };

		if (value_redis_url(cut, &r) == 0) {
			assert_true(strchr(cut, '@') == NULL ||
				    strcmp(r.host, "fd::1") == 0);
			forget(&r);
		}
		free(cut);
	}
}

static void
a_list_is_cut_at_its_commas(void **state)
{
	static const char *const want[] = { "a", "b c", "", "d" };
	const char *list = " a , b c,,\td";
	char *item;
	size_t i = 0;

	(void)state;
	while ((item = value_next(&list)) != NULL) {
		assert_true(i < 4);
		assert_string_equal(item, want[i++]);
		free(item);
	}
	assert_int_equal(i, 4);
}

static void
names_of_variables_are_postgresqls(void **state)
{
	(void)state;
	assert_true(value_is_variable("search_path"));
	assert_true(value_is_variable("app.current_organization_id"));
	assert_true(value_is_variable("_a.B$1.c"));
	assert_false(value_is_variable(""));
	assert_false(value_is_variable("a."));
	assert_false(value_is_variable(".a"));
	assert_false(value_is_variable("a..b"));
	assert_false(value_is_variable("1a"));
	assert_false(value_is_variable("a.1b"));
	assert_false(value_is_variable("a-b"));
	assert_false(value_is_variable("a b"));
	assert_false(value_is_variable("a'b"));
	assert_false(value_is_variable("\xc3\xbc"));
}

static void
only_a_whole_value_can_be_a_file(void **state)
{
	char why[VALUE_WHY_MAX], *text;

	(void)state;
	text = value_expand("x@/etc/hostname", why);
	assert_string_equal(text, "x@/etc/hostname");
	free(text);
	text = value_expand("$HOME $ {HOME} $$", why);
	assert_string_equal(text, "$HOME $ {HOME} $$");
	free(text);
	text = value_expand("@/dev/null", why);
	assert_string_equal(text, "");
	free(text);
	assert_null(value_expand("@/dev/zero", why));
	assert_non_null(strstr(why, "expected a first line"));
	assert_null(value_expand("@/", why)); /* a directory */
	assert_non_null(strstr(why, "cannot be read"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(times_know_their_units),
		cmocka_unit_test(sizes_are_powers_of_1024),
		cmocka_unit_test(numbers_are_decimal_digits_and_fit),
		cmocka_unit_test(switches_have_four_spellings),
		cmocka_unit_test(rates_need_both_halves),
		cmocka_unit_test(hosts_are_names_or_addresses),
		cmocka_unit_test(hosts_of_upstreams_may_have_a_port),
		cmocka_unit_test(a_redis_url_is_taken_apart),
		cmocka_unit_test(a_redis_url_may_name_several_hosts),
		cmocka_unit_test(
		    a_malformed_redis_url_is_refused_and_leaks_nothing),
		cmocka_unit_test(every_prefix_of_a_url_is_whole_or_refused),
		cmocka_unit_test(a_list_is_cut_at_its_commas),
		cmocka_unit_test(names_of_variables_are_postgresqls),
		cmocka_unit_test(only_a_whole_value_can_be_a_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

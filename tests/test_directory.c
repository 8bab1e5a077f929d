#include "tests/t.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf/conf.h"
#include "conf/conf_tenant.h"
#include "proxy/directory.h"

static struct conf *
conf_open(void)
{
	char file[] = "/tmp/weir-test-directory-XXXXXX";
	struct conf_errors errors;
	struct conf *c;
	int fd = mkstemp(file);

	assert_int_not_equal(fd, -1);
	dprintf(fd, "[weir]\npostgres_listen = 127.0.0.1:6432\n"
		    "[postgres main]\nhost = /tmp\n"
		    "[redis main]\nurl = redis://127.0.0.1\n"
		    "[organization acme]\nid = 1\n");
	close(fd);
	c = conf_load(file, &errors);
	assert_int_equal(errors.n, 0);
	conf_errors_free(&errors);
	unlink(file);
	return c;
}

/* Of a row of up to three columns; NULL: it is no good, and why says so. */
static struct tenant *
row(const char *const text[][2], size_t n, char why[CONF_TENANT_WHY_MAX])
{
	struct conf_column column[16];
	struct conf *c = conf_open();
	struct tenant *t;

	for (size_t i = 0; i < n; i++)
		column[i] = (struct conf_column){ text[i][0], text[i][1] };
	t = conf_tenant_new(c, "beta", column, n, why);
	conf_free(&c);
	return t;
}

static void
refuses(const char *name, const char *value, const char *want)
{
	const char *const text[][2] = { { "slug", "beta" }, { name, value } };
	char why[CONF_TENANT_WHY_MAX];

	assert_null(row(text, 2, why));
	assert_non_null(strstr(why, want));
}

static void
drop(const struct tenant *t)
{
	tenant_unref(&t);
}

static void
a_row_is_read_like_a_section(void **state)
{
	const char *const text[][2] = {
		{ "slug", "beta" },        { "id", "2" },
		{ "postgres", "main" },    { "redis", "main" },
		{ "dbname", "b" },         { "redis_user", "u" },
		{ "redis_password", "p" }, { "max_client_conn", "7" },
		{ "weight", "3" },         { "var.App.Plan", "%{user}" },
		{ "var.app.none", NULL },
	};
	char why[CONF_TENANT_WHY_MAX];
	struct tenant *t = row(text, 11, why);

	(void)state;
	/* The configuration it was made under is gone: only names are left. */
	assert_non_null(t);
	assert_null(t->postgres);
	assert_string_equal(t->postgres_name, "main");
	assert_string_equal(t->redis_name, "main");
	assert_string_equal(t->id, "2");
	assert_string_equal(t->dbname, "b");
	assert_string_equal(t->redis_password, "p");
	assert_int_equal(t->max_client_conn, 7);
	assert_int_equal(t->weight, 3);
	assert_int_equal(t->var_n, 1);
	assert_string_equal(t->var[0].name, "app.plan");
	drop(t);
}

static void
what_is_missing_or_null_is_the_default(void **state)
{
	const char *const text[][2] = { { "slug", "beta" },
					{ "weight", NULL },
					{ "postgres", NULL } };
	char why[CONF_TENANT_WHY_MAX];
	struct tenant *t = row(text, 3, why);

	(void)state;
	assert_non_null(t);
	assert_string_equal(t->id, "beta");
	assert_int_equal(t->weight, 1);
	assert_null(t->postgres_name);
	drop(t);
}

static void
what_is_no_good_is_refused_without_its_value(void **state)
{
	static char huge[CONF_LINE_MAX + 2];
	const char *const none[][2] = { { "id", "2" } };
	char why[CONF_TENANT_WHY_MAX];

	(void)state;
	memset(huge, 'x', sizeof(huge) - 1);
	assert_null(row(none, 1, why));
	assert_string_equal(why, "expected a column slug");
	refuses("slug", "Beta", "another slug");
	refuses("plan", "secret", "plan: expected a column named like");
	refuses("plan", NULL, "plan: expected a column named like");
	refuses("postgres", "other", "postgres: expected the name of a");
	refuses("id", "", "id: expected a text of 1 to 255");
	refuses("weight", "secret", "weight: expected a whole number");
	refuses("redis_user", "u", "only one of");
	refuses("id", "1", "its id is that of [organization acme]");
	refuses("var.", "x", "expected var.NAME");
	refuses("var.a b", "x", "expected var.NAME");
	refuses("var.app.x", "%{nothing}", "expected var.NAME");
	refuses("var.app.x", huge, "expected var.NAME");
	refuses("redis_password", huge, "redis_password: expected a text");
	for (const char *p = why; *p != '\0'; p++)
		assert_true(strncmp(p, "secret", 6) != 0);
}

/* ---- the cache -------------------------------------------------------- */

static struct tenant *
found(const char *id)
{
	const char *const text[][2] = { { "slug", "beta" }, { "id", id } };
	char why[CONF_TENANT_WHY_MAX];

	return id ? row(text, 2, why) : conf_tenant_nobody("beta", false);
}

/* What who asks is told, when `t` (NULL: no answer) is what the database says. */
static const struct tenant *
learn(struct lookup_cache *c, struct tenant *t, uint64_t now)
{
	struct lookup_waiter w;
	void *value = t;

	assert_null(lookup_cache_find(c, "beta", now));
	assert_int_equal(lookup_cache_wait(c, "beta", &w), 1);
	assert_ptr_equal(
	    lookup_cache_put(c, "beta", &value, now, now + 10, now + 100), &w);
	return value;
}

static void
an_old_answer_stands_in_for_a_while(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&directory_by_slug.ops);
	struct tenant *t = found("2");

	(void)state;
	drop(learn(c, t, 0));
	assert_null(lookup_cache_find(c, "beta", 10));
	assert_ptr_equal(learn(c, NULL, 20), t);
	drop(t);
	assert_ptr_equal(lookup_cache_find(c, "beta", 99), t);
	assert_null(learn(c, NULL, 100)); /* long enough */
	lookup_cache_close(&c);
}

static void
what_is_said_to_have_changed_stands_in_for_nothing(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&directory_by_slug.ops);
	struct tenant *t = found("2");

	(void)state;
	tenant_ref(t);
	drop(learn(c, t, 0));
	lookup_cache_doubt_all(c);
	assert_ptr_equal(learn(c, NULL, 1), t); /* that says less */
	drop(t);
	assert_true(lookup_cache_doubt(c, "beta")); /* we hold it */
	assert_null(learn(c, NULL, 2));
	drop(t);
	assert_false(lookup_cache_doubt(c, "beta")); /* nobody does */
	assert_false(lookup_cache_doubt(c, "never"));
	lookup_cache_close(&c);
}

static void
a_change_while_it_is_asked_for_asks_again(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&directory_by_slug.ops);
	struct lookup_waiter w;
	void *none = NULL;

	(void)state;
	assert_int_equal(lookup_cache_wait(c, "beta", &w), 1);
	assert_false(lookup_cache_again(c, "beta"));
	assert_false(lookup_cache_doubt(c, "beta"));
	assert_true(lookup_cache_again(c, "beta"));
	assert_false(lookup_cache_again(c, "beta"));
	lookup_cache_doubt_all(c);
	assert_true(lookup_cache_again(c, "beta"));
	assert_ptr_equal(lookup_cache_put(c, "beta", &none, 0, 1, 1), &w);
	lookup_cache_close(&c);
}

static void
all_who_hold_an_organization_hear_of_its_end(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&directory_by_slug.ops);
	struct tenant *first = found("2"), *second = found("3");
	struct tenant *bad = conf_tenant_nobody("beta", true), *third;

	(void)state;
	tenant_ref(first);
	tenant_ref(second);
	drop(learn(c, first, 0));
	drop(learn(c, second, 10));
	assert_false(tenant_is_gone(first));
	drop(learn(c, bad, 20)); /* a mistake in its row ends nobody */
	assert_false(tenant_is_gone(first));
	lookup_cache_close(&c);
	c = lookup_cache_open(&directory_by_slug.ops);
	tenant_ref(second);
	drop(learn(c, second, 0));
	drop(learn(c, found(NULL), 10));
	assert_true(tenant_is_gone(first));
	assert_true(tenant_is_gone(second));
	third = found("2");
	drop(learn(c, third, 20)); /* another one of that name */
	assert_false(tenant_is_gone(lookup_cache_find(c, "beta", 21)));
	drop(first);
	drop(second);
	lookup_cache_close(&c);
}

/* With an id like a UUID and one variable of its own. */
static void
an_organization_costs_less_than_a_kilobyte(void **state)
{
	const char *const text[][2] = {
		{ "slug", "organization-00000" },
		{ "id", "aaaaaaaa-0000-4000-8000-000000000001" },
		{ "postgres", "main" },
		{ "var.app.plan", "starter" },
	};
	enum { N = 10000 };
	struct lookup_cache *c = lookup_cache_open(&directory_by_slug.ops);
	struct conf *conf = conf_open();
	struct conf_column column[4];
	size_t before = mallinfo2().uordblks, each;

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		char slug[32], why[CONF_TENANT_WHY_MAX];
		struct lookup_waiter w;
		struct tenant *t;
		void *value;

		snprintf(slug, sizeof(slug), "organization-%05u", i);
		for (unsigned j = 0; j < 4; j++)
			column[j] =
			    (struct conf_column){ text[j][0],
						  j ? text[j][1] : slug };
		t = conf_tenant_new(conf, slug, column, 4, why);
		assert_non_null(t);
		value = t;
		assert_int_equal(lookup_cache_wait(c, slug, &w), 1);
		assert_ptr_equal(lookup_cache_put(c, slug, &value, 0, 9, 9),
				 &w);
		drop(t);
	}
	each = (mallinfo2().uordblks - before) / N;
	print_message("%zu bytes an organization\n", each);
	assert_in_range(each, 0, 1024); /* 0: another allocator's */
	lookup_cache_close(&c);
	conf_free(&conf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_row_is_read_like_a_section),
		cmocka_unit_test(what_is_missing_or_null_is_the_default),
		cmocka_unit_test(what_is_no_good_is_refused_without_its_value),
		cmocka_unit_test(an_old_answer_stands_in_for_a_while),
		cmocka_unit_test(
		    what_is_said_to_have_changed_stands_in_for_nothing),
		cmocka_unit_test(a_change_while_it_is_asked_for_asks_again),
		cmocka_unit_test(all_who_hold_an_organization_hear_of_its_end),
		cmocka_unit_test(an_organization_costs_less_than_a_kilobyte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

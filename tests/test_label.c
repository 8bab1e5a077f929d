#include "tests/t.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/label.h"
#include "protocol/buf.h"

static struct label *
make(struct labels *all, const char *const *words)
{
	struct label_pair pair[16];
	size_t n = 0;

	for (; words[2 * n] != NULL; n++)
		pair[n] = (struct label_pair){ words[2 * n], words[2 * n + 1] };
	return label_new(all, pair, n);
}

#define LABEL(all, ...) make(all, (const char *const[]){ __VA_ARGS__, NULL })

/* One with two references: ours and its cache's. */
static void
equal_content_is_one_label_whatever_its_order(void **state)
{
	static struct labels all;
	struct label *a = LABEL(&all, "app.org", "1", "role", "x");
	struct label *b = LABEL(&all, "role", "x", "app.org", "1");
	struct label *c = LABEL(&all, "role", "x", "app.org", "2");

	(void)state;
	assert_ptr_equal(a, b);
	assert_true(label_same(a, b));
	assert_false(label_same(a, c));
	assert_int_equal(a->n, 2);
	assert_string_equal(a->pair[0].name, "app.org");
	assert_string_equal(a->pair[0].value, "1");
	assert_string_equal(a->pair[1].name, "role");
	assert_int_equal(a->refs, 3);
	label_unref(&a);
	assert_null(a);
	label_unref(&b);
	label_unref(&c);
	labels_fini(&all);
}

static void
is_the_same_for_every_worker(void **state)
{
	static struct labels here, there;
	struct label *a = LABEL(&here, "app.org", "1");
	struct label *b = LABEL(&there, "app.org", "1");

	(void)state;
	assert_ptr_not_equal(a, b);
	assert_true(label_same(a, b));
	labels_fini(&here); /* it lives on in who holds it */
	assert_string_equal(a->pair[0].value, "1");
	assert_true(label_same(a, b));
	label_unref(&a);
	label_unref(&b);
	labels_fini(&there);
}

static void
a_later_pair_of_the_same_name_wins(void **state)
{
	static struct labels all;
	struct label *a =
	    LABEL(&all, "b", "1", "a", "1", "B", "2", "c", "1", "A", "3");

	(void)state;
	assert_int_equal(a->n, 3);
	assert_string_equal(a->pair[0].value, "3");
	assert_string_equal(a->pair[1].value, "2");
	assert_string_equal(a->pair[2].value, "1");
	label_unref(&a);
	labels_fini(&all);
}

static void
names_and_values_do_not_run_together(void **state)
{
	static struct labels all;
	struct label *a = LABEL(&all, "ab", "c");
	struct label *b = LABEL(&all, "a", "bc");
	struct label *c = LABEL(&all, "a", "b", "c", "d");
	struct label *d = LABEL(&all, "a", "", "bc", "d");

	(void)state;
	assert_false(label_same(a, b));
	assert_false(label_same(c, d));
	label_unref(&a);
	label_unref(&b);
	label_unref(&c);
	label_unref(&d);
	labels_fini(&all);
}

static void
none_is_the_empty_one(void **state)
{
	static struct labels all;
	struct label *empty = label_new(&all, NULL, 0);
	struct label *some = LABEL(&all, "a", "1");

	(void)state;
	assert_true(label_same(NULL, NULL));
	assert_true(label_same(NULL, empty));
	assert_true(label_same(empty, NULL));
	assert_false(label_same(NULL, some));
	assert_false(label_same(some, NULL));
	assert_false(label_same(empty, some));
	assert_null(label_ref(NULL));
	label_unref(&empty);
	label_unref(&some);
	labels_fini(&all);
}

static void
knows_its_names_in_any_case(void **state)
{
	static struct labels all;
	struct label *a = LABEL(&all, "app.org", "1", "DateStyle", "ISO");

	(void)state;
	assert_true(label_has(a, "app.org"));
	assert_true(label_has(a, "APP.ORG"));
	assert_true(label_has(a, "datestyle"));
	assert_false(label_has(a, "app"));
	assert_false(label_has(NULL, "app.org"));
	label_unref(&a);
	labels_fini(&all);
}

static void
outlives_its_place_in_the_cache(void **state)
{
	enum { N = 3 * LABELS_SLOTS };
	static struct labels all;
	static struct label *l[N];
	char value[16];

	(void)state;
	for (int i = 0; i < N; i++) {
		snprintf(value, sizeof(value), "%d", i);
		l[i] = LABEL(&all, "app.org", value);
	}
	for (int i = 0; i < N; i++) {
		struct label *again;

		snprintf(value, sizeof(value), "%d", i);
		assert_string_equal(l[i]->pair[0].value, value);
		again = LABEL(&all, "app.org", value);
		assert_true(label_same(again, l[i]));
		label_unref(&again);
		label_unref(&l[i]);
	}
	labels_fini(&all);
}

/* A server takes its label along to another worker. */
static void *
refs_and_unrefs(void *arg)
{
	for (int i = 0; i < 20000; i++) {
		struct label *l = label_ref(arg);

		if (!label_same(l, arg) || l->pair[0].value[0] != '1')
			abort();
		label_unref(&l);
	}
	return NULL;
}

static void
may_be_counted_by_several_workers(void **state)
{
	static struct labels all;
	struct label *l = LABEL(&all, "app.org", "1");
	pthread_t thread[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, refs_and_unrefs, l), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(l->refs, 2);
	label_unref(&l);
	labels_fini(&all);
}

static void
frees_what_a_server_reported_of_it(void **state)
{
	static struct labels all;
	struct label *l = LABEL(&all, "app.org", "1");

	(void)state;
	l->params = malloc(sizeof(*l->params));
	assert_non_null(l->params);
	buf_init(l->params, 100);
	assert_int_equal(buf_put(l->params, "x", 1), 0);
	label_unref(&l);
	labels_fini(&all); /* the leak checker sees the rest */
	assert_null(all.slot[0]);
}

static void
is_laid_over_another(void **state)
{
	static const struct label_pair pair[] = { { "TimeZone", "UTC" },
						  { "b", NULL },
						  { "new", "" } };
	static struct labels all;
	struct label *l = label_new_signed(
	    &all,
	    (struct label_pair[]){
		{ "a", "1" }, { "B", "2" }, { "timezone", "x" } },
	    3, "a");
	struct label *over = label_over(&all, l, pair, 3);
	struct label *none = label_over(&all, NULL, pair, 3);
	struct label *want = LABEL(&all, "new", "", "TimeZone", "UTC");

	(void)state;
	assert_int_equal(over->n, 3);
	assert_string_equal(label_value(over, "a"), "1");
	assert_string_equal(label_value(over, "timezone"), "UTC");
	assert_string_equal(label_value(over, "NEW"), "");
	assert_null(label_value(over, "b"));
	assert_string_equal(over->context, "a"); /* it is signed as before */
	assert_true(label_same(none, want));
	label_unref(&l);
	label_unref(&over);
	label_unref(&none);
	label_unref(&want);
	labels_fini(&all);
}

static void
says_which_texts_it_makes_something_else_of(void **state)
{
	static struct labels all;
	struct label *plain = LABEL(&all, "app.org", "1", "client_encoding",
				    "UTF-8", "work_mem", "1MB");
	struct label *dmy = LABEL(&all, "datestyle", "DMY", "app.org", "1");
	struct label *same = LABEL(&all, "DateStyle", "DMY", "app.org", "2");
	struct label *mdy = LABEL(&all, "DateStyle", "MDY");
	struct label *latin = LABEL(&all, "client_encoding", "latin1");
	struct slice number = slice_str("SELECT 1"),
		     date = slice_str("SELECT '1/2/2020'"),
		     dollar = slice_str("SELECT $$1/2/2020$$::date"),
		     letter = slice_str("SELECT \"\xe9\"");

	(void)state;
	assert_true(label_reads(NULL, date) == 0);
	assert_true(label_reads(plain, date) == 0);
	assert_true(label_reads(plain, letter) == 0);
	assert_true(label_reads(dmy, number) == 0);
	assert_true(label_reads(dmy, letter) == 0);
	assert_true(label_reads(dmy, date) != 0);
	assert_true(label_reads(dmy, dollar) != 0);
	assert_true(label_reads(dmy, date) == label_reads(same, date));
	assert_true(label_reads(dmy, date) != label_reads(mdy, date));
	assert_true(label_reads(latin, date) == 0);
	assert_true(label_reads(latin, letter) != 0);
	label_unref(&plain);
	label_unref(&dmy);
	label_unref(&same);
	label_unref(&mdy);
	label_unref(&latin);
	labels_fini(&all);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_content_is_one_label_whatever_its_order),
		cmocka_unit_test(is_the_same_for_every_worker),
		cmocka_unit_test(a_later_pair_of_the_same_name_wins),
		cmocka_unit_test(names_and_values_do_not_run_together),
		cmocka_unit_test(none_is_the_empty_one),
		cmocka_unit_test(knows_its_names_in_any_case),
		cmocka_unit_test(outlives_its_place_in_the_cache),
		cmocka_unit_test(may_be_counted_by_several_workers),
		cmocka_unit_test(frees_what_a_server_reported_of_it),
		cmocka_unit_test(is_laid_over_another),
		cmocka_unit_test(says_which_texts_it_makes_something_else_of),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/stats.h"
#include "protocol/buf.h"

static struct stats one, two;
static struct stats *const both[] = { &one, &two };

static int
clear(void **state)
{
	(void)state;
	for (unsigned i = 0; i < STAT_MAX; i++) {
		atomic_store(&one.n[i], 0);
		atomic_store(&two.n[i], 0);
	}
	return 0;
}

/* The text, NUL-terminated, for the caller to free. */
static char *
print(void)
{
	const uint8_t *p;
	struct buf b;
	char *text;
	size_t n;

	buf_init(&b, 1 << 20);
	assert_int_equal(stats_print(&b, both, 2), 0);
	p = buf_peek(&b, &n);
	text = strndup((const char *)p, n);
	buf_free(&b);
	return text;
}

static void
a_number_is_the_sum_of_all_blocks(void **state)
{
	(void)state;
	stats_add(&one, STAT_QUERIES, 40);
	stats_add(&two, STAT_QUERIES, 2);
	assert_int_equal(stats_sum(both, 2, STAT_QUERIES), 42);
	assert_int_equal(stats_sum(both, 1, STAT_QUERIES), 40);
	assert_int_equal(stats_sum(both, 0, STAT_QUERIES), 0);
}

static void
a_gauge_raised_here_and_lowered_there_adds_up(void **state)
{
	(void)state;
	stats_add(&one, STAT_PG_SERVERS, 3);
	stats_add(&two, STAT_PG_SERVERS, -2);
	assert_int_equal(stats_sum(both, 2, STAT_PG_SERVERS), 1);
}

static void
a_gauge_never_reads_below_zero(void **state)
{
	(void)state;
	stats_add(&one, STAT_PG_SERVERS, -1);
	assert_int_equal(stats_sum(both, 2, STAT_PG_SERVERS), 0);
}

static void
a_counter_uses_all_of_its_bits(void **state)
{
	(void)state;
	stats_add(&one, STAT_BYTES_TO_CLIENTS, INT64_MAX);
	stats_add(&one, STAT_BYTES_TO_CLIENTS, 10);
	assert_true(stats_sum(both, 2, STAT_BYTES_TO_CLIENTS) ==
		    (uint64_t)INT64_MAX + 10);
}

static void
labels_share_one_help_and_type(void **state)
{
	char *text;

	(void)state;
	stats_add(&one, STAT_PG_CLIENTS, 5);
	stats_add(&two, STAT_REDIS_CLIENTS, 7);
	text = print();
	assert_non_null(strstr(text,
			       "# HELP weir_clients client connections open\n"
			       "# TYPE weir_clients gauge\n"
			       "weir_clients{proto=\"postgres\"} 5\n"
			       "weir_clients{proto=\"redis\"} 7\n"));
	assert_non_null(strstr(text, "# TYPE weir_queries_total counter\n"
				     "weir_queries_total 0\n"));
	free(text);
}

/* Whether the line is one the format allows; the metric's name into `name`. */
static bool
is_sample(const char *line, char name[128])
{
	char labels[128], number[32];
	int n = 0;

	if (sscanf(line, "%127[a-z0-9_]{%127[^}]} %31[0-9.e+-]%n", name, labels,
		   number, &n) != 3 &&
	    sscanf(line, "%127[a-z0-9_] %31[0-9.e+-]%n", name, number, &n) != 2)
		return false;
	return line[n] == '\0';
}

static void
each_metric_is_announced_once_and_then_listed(void **state)
{
	char *text = print(), *save = NULL, announced[128] = "", name[128];
	char seen[8192] = " ";
	unsigned samples = 0;

	(void)state;
	for (char *line = strtok_r(text, "\n", &save); line != NULL;
	     line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "# HELP ", 7) == 0) {
			char key[140];

			assert_int_equal(sscanf(line + 7, "%127s", announced),
					 1);
			snprintf(key, sizeof(key), " %s ", announced);
			assert_null(strstr(seen, key));
			strcat(seen, key);
		} else if (strncmp(line, "# TYPE ", 7) == 0) {
			assert_int_equal(sscanf(line + 7, "%127s", name), 1);
			assert_string_equal(name, announced);
		} else {
			assert_true(is_sample(line, name));
			/* A histogram's are its name and a little more. */
			assert_int_equal(
			    strncmp(name, announced, strlen(announced)), 0);
			assert_int_equal(strncmp(name, "weir_", 5), 0);
			samples++;
		}
	}
	assert_int_equal(samples,
			 STAT_MAX + STATS_HISTOGRAM_MAX * (STATS_BUCKETS + 3));
	free(text);
}

static void
a_histogram_counts_each_sample_in_all_buckets_it_fits(void **state)
{
	static const uint64_t samples[] = {
		0, 1, 2, 3, 4, 5, 1u << 23, (1u << 23) + 1, 1u << 30
	};
	char *text;

	(void)state;
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
		stats_observe(i % 2 ? &one : &two, STATS_BATCH_SIZE,
			      samples[i]);
	text = print();
	assert_non_null(strstr(text, "# TYPE weir_batch_size histogram\n"
				     "weir_batch_size_bucket{le=\"1\"} 2\n"
				     "weir_batch_size_bucket{le=\"2\"} 3\n"
				     "weir_batch_size_bucket{le=\"4\"} 5\n"
				     "weir_batch_size_bucket{le=\"8\"} 6\n"));
	assert_non_null(strstr(text, "{le=\"8388608\"} 7\n"
				     "weir_batch_size_bucket{le=\"+Inf\"} 9\n"
				     "weir_batch_size_sum "));
	assert_non_null(strstr(text, "weir_batch_size_count 9\n"));
	assert_non_null(
	    strstr(text, "weir_batch_wait_seconds_bucket{le=\"1e-06\"} 0\n"));
	free(text);
}

static void
a_full_buf_is_reported(void **state)
{
	struct buf b;

	(void)state;
	for (size_t limit = 0; limit < 2000; limit += 37) {
		buf_init(&b, limit);
		assert_int_equal(stats_print(&b, both, 2), -1);
		buf_free(&b);
	}
}

enum { ADDED = 200000 };

static void *
add_many(void *block)
{
	for (int i = 0; i < ADDED; i++)
		stats_add(block, STAT_TURNS, 1);
	return NULL;
}

static void
readers_never_see_a_counter_fall(void **state)
{
	uint64_t last = 0, now;
	pthread_t a, b;

	(void)state;
	assert_int_equal(pthread_create(&a, NULL, add_many, &one), 0);
	assert_int_equal(pthread_create(&b, NULL, add_many, &two), 0);
	for (int i = 0; i < 1000; i++) {
		now = stats_sum(both, 2, STAT_TURNS);
		assert_true(now >= last);
		last = now;
	}
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	assert_int_equal(stats_sum(both, 2, STAT_TURNS), 2 * ADDED);
}

#define TEST(f) cmocka_unit_test_setup(f, clear)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_number_is_the_sum_of_all_blocks),
		TEST(a_gauge_raised_here_and_lowered_there_adds_up),
		TEST(a_gauge_never_reads_below_zero),
		TEST(a_counter_uses_all_of_its_bits),
		TEST(labels_share_one_help_and_type),
		TEST(each_metric_is_announced_once_and_then_listed),
		TEST(a_histogram_counts_each_sample_in_all_buckets_it_fits),
		TEST(a_full_buf_is_reported),
		TEST(readers_never_see_a_counter_fall),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include "conf/conf.h"
#include "proxy/redis_census.h"

static const struct conf_redis here = { .host = "redis.internal",
					.port = 6379 };
static const struct conf_redis there = { .host = "redis.internal",
					 .port = 6380 };

static int64_t
correct(struct redis_census *c, const struct conf_redis *up, const char *name,
	int64_t counted)
{
	return redis_census_correct(c, up, RESP_CHANNEL, slice_str(name),
				    counted);
}

static void
counts_clients_in_place_of_their_connection(void **state)
{
	struct redis_census *c = redis_census_open();
	struct redis_census_line *ear, *hub;

	(void)state;
	assert_int_equal(correct(c, &here, "news", 3), 3);
	hub = redis_census_enter(c, &here, RESP_CHANNEL, slice_str("news"));
	redis_census_connections(c, hub, 1);
	ear = redis_census_enter(c, &here, RESP_CHANNEL, slice_str("news"));
	assert_ptr_equal(hub, ear);
	redis_census_clients(c, ear, 1);
	redis_census_clients(c, ear, 1);
	assert_int_equal(correct(c, &here, "news", 1), 2);
	assert_int_equal(correct(c, &here, "news", 4), 5);
	/* Upstream has not heard of us yet. */
	assert_int_equal(correct(c, &here, "news", 0), 2);
	redis_census_clients(c, ear, -2);
	redis_census_leave(c, &ear);
	assert_null(ear);
	assert_int_equal(correct(c, &here, "news", 2), 1);
	redis_census_connections(c, hub, -1);
	redis_census_leave(c, &hub);
	assert_int_equal(correct(c, &here, "news", 2), 2);
	redis_census_close(&c);
	assert_null(c);
}

static void
keeps_channels_kinds_and_upstreams_apart(void **state)
{
	struct redis_census *c = redis_census_open();
	struct redis_census_line *line =
	    redis_census_enter(c, &here, RESP_CHANNEL, slice_str("a"));

	(void)state;
	redis_census_clients(c, line, 7);
	assert_int_equal(correct(c, &here, "a", 0), 7);
	assert_int_equal(correct(c, &here, "b", 0), 0);
	assert_int_equal(correct(c, &here, "", 0), 0);
	assert_int_equal(correct(c, &there, "a", 0), 0);
	assert_int_equal(
	    redis_census_correct(c, &here, RESP_SHARD, slice_str("a"), 0), 0);
	redis_census_clients(c, line, -7);
	redis_census_leave(c, &line);
	redis_census_close(&c);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_clients_in_place_of_their_connection),
		cmocka_unit_test(keeps_channels_kinds_and_upstreams_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/redis_where.h"

/* A copy of its own size, so that reading past it is noticed. */
static uint8_t *
copy_of(const void *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);

	assert_non_null(copy);
	memcpy(copy, p, n);
	return copy;
}

/* Every byte of it changed to another, and cut anywhere: never a crash, and
 * cut never understood. */
static void
hammer(int (*parse)(const uint8_t *, size_t), const char *text)
{
	size_t n = strlen(text);

	for (size_t i = 0; i < n; i++) {
		uint8_t *p = copy_of(text, i);

		if (parse(p, i) > 0)
			fail_msg("takes %zu bytes of %s", i, text);
		free(p);
		for (int c = 0; c < 256; c++) {
			p = copy_of(text, n);
			p[i] = (uint8_t)c;
			parse(p, n);
			free(p);
		}
	}
}

/* ---- Sentinel ------------------------------------------------------------- */

static struct redis_place place;

static int
master(const uint8_t *p, size_t n)
{
	return redis_where_master(p, n, &place);
}

static int
master_text(const char *s)
{
	return master((const uint8_t *)s, strlen(s));
}

static void
reads_the_address_of_a_master(void **state)
{
	const char *v4 = "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n";

	(void)state;
	assert_int_equal(master_text(v4), 1);
	assert_true(slice_is(place.name, "127.0.0.1"));
	assert_int_equal(place.port, 6379);
	hammer(master, v4);
	assert_int_equal(master_text("*2\r\n$8\r\nredis-1a\r\n$5\r\n65535\r\n"),
			 1);
	assert_true(slice_is(place.name, "redis-1a"));
	assert_int_equal(place.port, 65535);
}

static void
tells_a_master_unknown_from_nonsense(void **state)
{
	static const char *const bad[] = {
		"",
		"*-2\r\n",
		"$-1\r\n",
		"*0\r\n",
		"*1\r\n$1\r\na\r\n",
		"*3\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n1\r\n",
		"*2\r\n$1\r\na\r\n$1\r\n0\r\n",
		"*2\r\n$1\r\na\r\n$5\r\n65536\r\n",
		"*2\r\n$1\r\na\r\n:6379\r\n",
		"*2\r\n$0\r\n\r\n$4\r\n6379\r\n",
		"*2\r\n$-1\r\n$4\r\n6379\r\n",
		"*2\r\n$3\r\na b\r\n$1\r\n1\r\n",
		"*2\r\n$2\r\n/a\r\n$1\r\n1\r\n",
		"*2\r\n$1\r\na\r\n$1\r\n1\r\n+OK\r\n",
		"-IDONTKNOW I have not enough information\r\n",
		"-NOAUTH Authentication required.\r\n",
	};

	(void)state;
	assert_int_equal(master_text("*-1\r\n"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (master_text(bad[i]) != -1)
			fail_msg("takes %s", bad[i]);
}

static int
is_master(const uint8_t *p, size_t n)
{
	return redis_where_is_master(p, n);
}

static void
knows_a_master_by_its_own_word(void **state)
{
	const char *yes = "*3\r\n$6\r\nmaster\r\n:3129659\r\n*0\r\n";
	const char *no =
	    "*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$4\r\nsync\r\n:-1\r\n";

	(void)state;
	assert_true(is_master((const uint8_t *)yes, strlen(yes)));
	assert_false(is_master((const uint8_t *)no, strlen(no)));
	assert_false(is_master((const uint8_t *)"-ERR\r\n", 6));
	assert_false(is_master((const uint8_t *)"$6\r\nmaster\r\n", 12));
}

/* ---- slots ---------------------------------------------------------------- */

struct told {
	struct redis_range r[4];
	size_t n;
};

static struct told told;

static bool
take(void *arg, const struct redis_range *r)
{
	struct told *t = arg;

	assert_true(t->n < 4);
	t->r[t->n++] = *r;
	return true;
}

static int
slots(const uint8_t *p, size_t n)
{
	told.n = 0;
	return (int)redis_where_slots(p, n, take, &told);
}

static int
slots_text(const char *s)
{
	return slots((const uint8_t *)s, strlen(s));
}

#define NODE(ip, port) "*4\r\n" ip ":" port "\r\n$2\r\nid\r\n*0\r\n"
#define A              NODE("$9\r\n127.0.0.1\r\n", "7000")
#define B              NODE("$6\r\nnode-b\r\n", "7001")
#define SELF           NODE("$0\r\n\r\n", "7002")
#define NIL            NODE("$-1\r\n", "7002")

static void
reads_who_has_which_slots(void **state)
{
	const char *text =
	    "*3\r\n"
	    "*3\r\n:0\r\n:5460\r\n" A "*4\r\n:5461\r\n:16382\r\n" B SELF
	    "*3\r\n:16383\r\n:16383\r\n" NIL;

	(void)state;
	assert_int_equal(slots_text(text), 3);
	assert_int_equal(told.n, 3);
	assert_int_equal(told.r[0].from, 0);
	assert_int_equal(told.r[0].to, 5460);
	assert_true(slice_is(told.r[0].at.name, "127.0.0.1"));
	assert_int_equal(told.r[0].at.port, 7000);
	assert_true(slice_is(told.r[1].at.name, "node-b"));
	assert_int_equal(told.r[1].at.port, 7001);
	assert_int_equal(told.r[2].to, 16383);
	assert_int_equal(told.r[2].at.name.n, 0);
	hammer(slots, text);
	assert_int_equal(slots_text("*0\r\n"), 0);
}

static void
refuses_slots_that_cannot_be(void **state)
{
	static const char *const bad[] = {
		"*1\r\n*3\r\n:1\r\n:0\r\n" A,
		"*1\r\n*3\r\n:-1\r\n:0\r\n" A,
		"*1\r\n*3\r\n:0\r\n:16384\r\n" A,
		"*1\r\n*2\r\n:0\r\n:1\r\n",
		"*1\r\n*3\r\n:0\r\n:1\r\n*0\r\n",
		"*1\r\n*3\r\n:0\r\n:1\r\n*1\r\n$1\r\na\r\n",
		"*1\r\n*3\r\n:0\r\n:1\r\n" NODE("$1\r\na\r\n", "0"),
		"*1\r\n*3\r\n:0\r\n:1\r\n" NODE("$1\r\na\r\n", "65536"),
		"*1\r\n*3\r\n:0\r\n:1\r\n" NODE("$2\r\na\n\r\n", "1"),
		"*1\r\n*3\r\n:0\r\n:1\r\n" A "x",
		"*2\r\n*3\r\n:0\r\n:1\r\n" A,
		"*99999999999999\r\n",
		"*1\r\n*99999999\r\n:0\r\n:1\r\n" A,
		"*1\r\n*3\r\n:0\r\n:1\r\n*99999999\r\n$1\r\na\r\n:1\r\n",
		"-ERR This instance has cluster support disabled\r\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (slots_text(bad[i]) != -1)
			fail_msg("takes %s", bad[i]);
}

/* ---- redirects ------------------------------------------------------------ */

static unsigned slot;

static int
turn(const uint8_t *p, size_t n)
{
	return (int)redis_where_turn(p, n, &slot, &place);
}

static int
turn_text(const char *s)
{
	return turn((const uint8_t *)s, strlen(s));
}

static void
reads_redirects(void **state)
{
	(void)state;
	assert_int_equal(turn_text("-MOVED 3999 127.0.0.1:6381\r\n"),
			 REDIS_MOVED);
	assert_int_equal(slot, 3999);
	assert_true(slice_is(place.name, "127.0.0.1"));
	assert_int_equal(place.port, 6381);
	assert_int_equal(turn_text("-ASK 0 ::1:7\r\n"), REDIS_ASK);
	assert_int_equal(slot, 0);
	assert_true(slice_is(place.name, "::1"));
	assert_int_equal(place.port, 7);
	assert_int_equal(turn_text("-MOVED 16383 :6381\r\n"), REDIS_MOVED);
	assert_int_equal(place.name.n, 0);
	hammer(turn, "-MOVED 3999 127.0.0.1:6381\r\n");
	hammer(turn, "-ASK 3999 a-host.internal:6381\r\n");
}

static void
takes_nothing_else_for_a_redirect(void **state)
{
	static const char *const bad[] = {
		"",
		"-",
		"-\r\n",
		"-MOVED\r\n",
		"-MOVED \r\n",
		"-MOVED 1\r\n",
		"-MOVED 1 \r\n",
		"-MOVED 1 a\r\n",
		"-MOVED 1 a:\r\n",
		"-MOVED 1 a:0\r\n",
		"-MOVED 1 a:65536\r\n",
		"-MOVED 1 a:1x\r\n",
		"-MOVED 16384 a:1\r\n",
		"-MOVED -1 a:1\r\n",
		"-MOVED 01 a:1\r\n",
		"-MOVED 1 a b:1\r\n",
		"-MOVED 1  a:1\r\n",
		"-moved 1 a:1\r\n",
		"+MOVED 1 a:1\r\n",
		"$15\r\n-MOVED 1 a:1\r\n\r\n",
		"-MOVED 1 a:1",
		"-ASKING 1 a:1\r\n",
		"-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
		"-CLUSTERDOWN The cluster is down\r\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (turn_text(bad[i]) != REDIS_STAYS)
			fail_msg("takes %s", bad[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_the_address_of_a_master),
		cmocka_unit_test(tells_a_master_unknown_from_nonsense),
		cmocka_unit_test(knows_a_master_by_its_own_word),
		cmocka_unit_test(reads_who_has_which_slots),
		cmocka_unit_test(refuses_slots_that_cannot_be),
		cmocka_unit_test(reads_redirects),
		cmocka_unit_test(takes_nothing_else_for_a_redirect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

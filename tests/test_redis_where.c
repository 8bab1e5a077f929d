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

static char told[1024];

/* All of it in one line: place(host)=slots, for masters; -1 malformed. */
static int
nodes(const uint8_t *p, size_t n)
{
	struct redis_member m;
	struct slice text;
	unsigned from, to;
	size_t at = 0;
	int rc, count = 0;

	told[0] = '\0';
	if (redis_where_nodes(p, n, &text) != 1)
		return -1;
	while ((rc = redis_where_member(&text, &m)) == 1) {
		if (!m.is_master)
			continue;
		count++;
		at += (size_t)snprintf(told + at, sizeof(told) - at,
				       "%.*s:%u(%.*s)=", (int)m.at.name.n,
				       m.at.name.p, m.at.port, (int)m.host.n,
				       m.host.p);
		while ((rc = redis_where_range(&m.slots, &from, &to)) == 1)
			at += (size_t)snprintf(told + at, sizeof(told) - at,
					       "%u-%u,", from, to);
		if (rc == -1)
			return -1;
		at += (size_t)snprintf(told + at, sizeof(told) - at, " ");
	}
	return rc == -1 ? -1 : count;
}

static int
nodes_text(const char *text)
{
	char reply[2048];

	snprintf(reply, sizeof(reply), "$%zu\r\n%s\r\n", strlen(text), text);
	return nodes((const uint8_t *)reply, strlen(reply));
}

static void
reads_who_has_which_slots(void **state)
{
	const char *text =
	    "07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426 4 "
	    "connected\n"
	    "67ed ::1:30002@31002 master - 0 1426 2 connected 5461-10922\n"
	    "292f 127.0.0.1:30003@31003,,shard-id=1 master - 0 1426 3 connected"
	    " 10923-16382 16383 [93->-e7d1]\n"
	    "e7d1 127.0.0.1:30001@31001,hostname1 myself,master - 0 0 1 "
	    "connected"
	    " 0-5460 [93-<-292f]\n"
	    "9999 127.0.0.1:30009@31009 master - 0 0 9 connected\n"
	    "8888 :0@0 master,noaddr - 0 0 8 disconnected\n"
	    "7777 127.0.0.1:30007@31007 handshake - 0 0 0 connected\n";
	char reply[2048];

	(void)state;
	assert_int_equal(nodes_text(text), 4);
	assert_string_equal(told, "::1:30002()=5461-10922, "
				  "127.0.0.1:30003()=10923-16382,16383-16383, "
				  "127.0.0.1:30001(hostname1)=0-5460, "
				  "127.0.0.1:30009()= ");
	snprintf(reply, sizeof(reply), "$%zu\r\n%s\r\n", strlen(text), text);
	hammer(nodes, reply);
	/* It does not know its own address, being asked for the first time. */
	assert_int_equal(
	    nodes_text("e7d1 :30001@31001 myself,master - 0 0 1 connected 7"),
	    1);
	assert_string_equal(told, ":30001()=7-7, ");
}

static void
knows_replicas_and_who_has_failed_for_good(void **state)
{
	static const char text[] =
	    "a 127.0.0.1:1@2 slave b 0 1 4 connected\n"
	    "b 127.0.0.1:2@3 slave,fail b 0 1 4 disconnected\n"
	    "c 127.0.0.1:3@4 slave,fail? b 0 1 4 connected\n"
	    "d :0@0 slave,noaddr b 0 1 4 disconnected\n"
	    "e 127.0.0.1:5@6 master,fail - 0 1 4 disconnected\n"
	    "f 127.0.0.1:6@7 master,fail - 0 1 4 disconnected 7\n"
	    "g 127.0.0.1:7@8 master,fail? - 0 1 4 connected\n";
	struct slice left = slice_str(text);
	struct redis_member m;
	char masters[8] = "", replicas[8] = "";

	(void)state;
	while (redis_where_member(&left, &m) == 1) {
		char port[] = { (char)('0' + m.at.port), '\0' };

		if (m.is_master)
			strcat(masters, port);
		if (m.is_replica)
			strcat(replicas, port);
	}
	assert_string_equal(masters, "67");
	assert_string_equal(replicas, "13");
}

static void
refuses_nodes_that_cannot_be(void **state)
{
	static const char *const bad[] = {
		"",
		"a",
		"a b",
		"a 1.2.3.4 master - 0 0 1 connected",
		"a 1.2.3.4:x@1 master - 0 0 1 connected",
		"a 1.2.3.4:65536@1 master - 0 0 1 connected",
		"a 1.2/3.4:1@1 master - 0 0 1 connected",
		"a 1.2.3.4:1@1 master - 0 0 1",
		"a 1.2.3.4:1@1 master - 0 0 1 connected 16384",
		"a 1.2.3.4:1@1 master - 0 0 1 connected -1",
		"a 1.2.3.4:1@1 master - 0 0 1 connected 2-1",
		"a 1.2.3.4:1@1 master - 0 0 1 connected 1-16384",
		"a 1.2.3.4:1@1 master - 0 0 1 connected 1-2-3",
		"a 1.2.3.4:1@1 master - 0 0 1 connected x",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (nodes_text(bad[i]) != -1)
			fail_msg("takes %s", bad[i]);
	assert_int_equal(nodes((const uint8_t *)"-ERR no\r\n", 9), -1);
	assert_int_equal(nodes((const uint8_t *)"$-1\r\n", 5), -1);
	assert_int_equal(nodes((const uint8_t *)"*0\r\n", 4), -1);
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
		cmocka_unit_test(knows_replicas_and_who_has_failed_for_good),
		cmocka_unit_test(refuses_nodes_that_cannot_be),
		cmocka_unit_test(reads_redirects),
		cmocka_unit_test(takes_nothing_else_for_a_redirect),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

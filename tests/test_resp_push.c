#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/resp_push.h"

enum { MAX = 64 };

static struct resp_push push;

static int
parse(const uint8_t *p, size_t n)
{
	/* A copy of its own size, so that reading past it is noticed. */
	uint8_t *copy = malloc(n ? n : 1);
	ssize_t used;

	assert_non_null(copy);
	memcpy(copy, p, n);
	used = resp_push_next(&push, copy, n, MAX);
	if (used == 0)
		assert_true(push.need > n);
	free(copy);
	return (int)used;
}

static void
reads(const char *text, enum resp_push_kind kind, enum resp_channel channel,
      const char *name)
{
	char more[512];
	size_t n = strlen(text);

	t_every_split(parse, text, n, (int)n);
	/* What follows is not looked at. */
	snprintf(more, sizeof(more), "%s*x", text);
	assert_int_equal(
	    resp_push_next(&push, (const uint8_t *)more, n + 2, MAX), n);
	assert_int_equal(push.kind, kind);
	assert_int_equal(push.channel, channel);
	if (name == NULL)
		assert_null(push.name.p);
	else
		assert_true(slice_is(push.name, name));
}

static void
refuses(const char *text)
{
	if (resp_push_next(&push, (const uint8_t *)text, strlen(text), MAX) !=
	    -1)
		fail_msg("takes %s", text);
}

static void
reads_messages_of_all_three_kinds_at_every_split(void **state)
{
	(void)state;
	reads("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
	      RESP_PUSH_MESSAGE, RESP_CHANNEL, "c");
	reads("*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$2\r\ncd\r\n$0\r\n\r\n",
	      RESP_PUSH_MESSAGE, RESP_PATTERN, "c*");
	reads("*3\r\n$8\r\nsmessage\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n",
	      RESP_PUSH_MESSAGE, RESP_SHARD, "");
}

static void
reads_confirmations_at_every_split(void **state)
{
	(void)state;
	reads("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
	      RESP_PUSH_SUBSCRIBED, RESP_CHANNEL, "c");
	reads("*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:12\r\n",
	      RESP_PUSH_SUBSCRIBED, RESP_PATTERN, "*");
	reads("*3\r\n$10\r\nssubscribe\r\n$1\r\ns\r\n:1\r\n",
	      RESP_PUSH_SUBSCRIBED, RESP_SHARD, "s");
	reads("*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
	      RESP_PUSH_UNSUBSCRIBED, RESP_CHANNEL, "c");
	reads("*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:0\r\n",
	      RESP_PUSH_UNSUBSCRIBED, RESP_PATTERN, NULL);
	reads("*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n",
	      RESP_PUSH_UNSUBSCRIBED, RESP_SHARD, NULL);
}

static void
reads_answers_to_ping_and_errors_at_every_split(void **state)
{
	(void)state;
	reads("*2\r\n$4\r\npong\r\n$0\r\n\r\n", RESP_PUSH_PONG, RESP_CHANNEL,
	      "");
	reads("+PONG\r\n", RESP_PUSH_PONG, RESP_CHANNEL, NULL);
	reads("-NOPERM no\r\n", RESP_PUSH_ERROR, RESP_CHANNEL, NULL);
	assert_true(slice_is(push.text, "NOPERM no"));
}

static void
refuses_what_no_redis_says(void **state)
{
	(void)state;
	refuses("$1\r\n");
	refuses("+OK\r\n");
	refuses(":1\r\n");
	refuses(">3\r\n");
	refuses("*0\r\n$7\r\nmessage\r\n");
	refuses("*4\r\n$7\r\nmessage\r\n");
	refuses("*3\r\n$8\r\npmessage\r\n");
	refuses("*3\r\n$7\r\nmassage\r\n");
	refuses("*3\r\n$-1\r\n");
	refuses("*3\r\n$7\r\nmessage\r\n$-1\r\n");
	refuses("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$-1\r\n");
	refuses("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n");
	refuses("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nxyz");
	refuses("*3\r\n$9\r\nsubscribe\r\n$-1\r\n");
	refuses("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n$1\r\n");
	refuses("*x\r\n");
	refuses("*\r\n");
	refuses("*-\r\n");
	refuses("*3\r3");
	refuses("*3333333333333333333333333333333333333");
	refuses("*3\r\n$-2\r\n");
}

static void
refuses_what_is_too_big_as_soon_as_it_is_announced(void **state)
{
	char line[32 << 10];

	(void)state;
	refuses("*3\r\n$7\r\nmessage\r\n$65\r\n");
	refuses("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$99999999999999999\r\n");
	memset(line, 'x', sizeof(line));
	line[0] = '-';
	assert_int_equal(
	    resp_push_next(&push, (uint8_t *)line, sizeof(line), MAX), -1);
}

static void
says_how_much_it_needs_of_a_long_message(void **state)
{
	const char head[] = "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$30\r\nxx";

	(void)state;
	assert_int_equal(
	    resp_push_next(&push, (const uint8_t *)head, strlen(head), 1 << 10),
	    0);
	assert_int_equal(push.need, strlen(head) - 2 + 30 + 2);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    reads_messages_of_all_three_kinds_at_every_split),
		cmocka_unit_test(reads_confirmations_at_every_split),
		cmocka_unit_test(
		    reads_answers_to_ping_and_errors_at_every_split),
		cmocka_unit_test(refuses_what_no_redis_says),
		cmocka_unit_test(
		    refuses_what_is_too_big_as_soon_as_it_is_announced),
		cmocka_unit_test(says_how_much_it_needs_of_a_long_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/redis_slot.h"

static unsigned
slot(const char *key)
{
	return redis_slot(slice_str(key));
}

/* What CLUSTER KEYSLOT of a Redis 7.0.15 says. */
static void
hashes_as_redis_does(void **state)
{
	(void)state;
	assert_int_equal(slot(""), 0);
	assert_int_equal(slot("123456789"), 0x31c3); /* CRC-16/XMODEM's own */
	assert_int_equal(slot("foo"), 12182);
	assert_int_equal(slot("bar"), 5061);
	assert_int_equal(slot("hello"), 866);
	assert_int_equal(slot("somekey"), 11058);
	assert_int_equal(redis_slot(slice_of("\0", 1)), 0);
	assert_int_equal(redis_slot(slice_of("\xff\x00\x80", 3)),
			 redis_slot(slice_of("{\xff\x00\x80}", 5)));
}

static void
hashes_what_is_in_braces_alone(void **state)
{
	(void)state;
	assert_int_equal(slot("{user1000}.following"), slot("user1000"));
	assert_int_equal(slot("{user1000}.followers"), 3443);
	assert_int_equal(slot("a{b}c{d}e"), slot("b"));
	assert_int_equal(slot("foo{{bar}}zap"), slot("{bar"));
	assert_int_equal(slot("foo{bar}{zap}"), slot("bar"));
	assert_int_not_equal(slot("foo{}{bar}"), slot("bar"));
	assert_int_not_equal(slot("foo{}{bar}"), slot(""));
	assert_int_not_equal(slot("{"), slot(""));
	assert_int_not_equal(slot("{a"), slot("a"));
	assert_int_not_equal(slot("a}"), slot("a"));
	assert_int_equal(slot("}{a}"), slot("a"));
}

/* Words with blanks between; a copy, so that reading past it is noticed. */
static int
of(const char *text)
{
	struct slice arg[16];
	size_t argc = 0;
	char *copy = strdup(text), *at = copy;
	int rc;

	assert_non_null(copy);
	for (char *word; (word = strsep(&at, " ")) != NULL;)
		arg[argc++] = slice_str(word);
	rc = redis_slot_of(arg, argc);
	free(copy);
	return rc;
}

static void
takes_the_first_key_wherever_it_stands(void **state)
{
	static const char *const with[] = {
		"GET k",
		"set k v",
		"MSET k 1 x 2",
		"MGET k x",
		"DEL k",
		"BITOP AND k a b",
		"OBJECT ENCODING k",
		"XINFO STREAM k",
		"XGROUP CREATE k g $",
		"MEMORY USAGE k",
		"EVAL return 2 k x a",
		"EVALSHA abc 1 k",
		"EVAL_RO x 1 k",
		"EVALSHA_RO x 1 k",
		"FCALL f 1 k a",
		"FCALL_RO f 1 k",
		"ZUNIONSTORE k 2 a b",
		"ZUNION 2 k a",
		"ZINTER 1 k",
		"ZDIFF 1 k",
		"ZINTERCARD 1 k",
		"SINTERCARD 2 k a",
		"LMPOP 1 k LEFT",
		"ZMPOP 1 k MIN",
		"BLMPOP 0 2 k a LEFT",
		"BZMPOP 0 1 k MIN",
		"BLPOP k a 0",
		"XREAD STREAMS k 0",
		"XREAD COUNT 2 BLOCK 0 STREAMS k a 0 0",
		"XREADGROUP GROUP g c COUNT 1 STREAMS k >",
		"XREADGROUP GROUP streams c STREAMS k >",
		"SPUBLISH k m",
		"SORT k BY w STORE d",
		"GEORADIUS k 1 1 1 m",
		"MIGRATE h 1 k 0 9",
		"COPY k x",
		"WATCH k",
		"RESTORE k 0 x",
		"TOUCH k x",
		"LCS k x",
	};
	static const char *const without[] = {
		"PING",
		"DBSIZE",
		"SCAN 0",
		"PUBLISH c m",
		"SCRIPT LOAD x",
		"EVAL x 0",
		"EVAL x 0 k",
		"EVAL x 2 k",
		"EVAL x -1 k",
		"EVAL x y k",
		"EVAL x 9223372036854775807 k",
		"EVAL x",
		"EVAL",
		"XREAD STREAMS",
		"XREAD k 0",
		"nosuchcommand k",
		"GET",
		"OBJECT",
		"OBJECT HELP",
		"OBJECT NOSUCH k",
		"ZUNION 0 k",
		"ZUNION 2 k",
		"MULTI",
		"EXEC",
		"",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(with) / sizeof(with[0]); i++)
		if (of(with[i]) != (int)slot("k"))
			fail_msg("%s: %d", with[i], of(with[i]));
	for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++)
		if (of(without[i]) != REDIS_SLOT_NONE)
			fail_msg("%s: %d", without[i], of(without[i]));
	assert_int_equal(of("MIGRATE h 1  0 9 KEYS k x"), slot("k"));
	assert_int_equal(of("MIGRATE h 1 "), REDIS_SLOT_NONE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hashes_as_redis_does),
		cmocka_unit_test(hashes_what_is_in_braces_alone),
		cmocka_unit_test(takes_the_first_key_wherever_it_stands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

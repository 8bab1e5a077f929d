#include "tests/t.h"

#include <ctype.h>

#include "protocol/redis_cmd.h"

enum { ARGS_MAX = 16 };

/* "XREAD COUNT 1 ..." split at blanks. */
static size_t
words(const char *text, struct slice *arg)
{
	size_t argc = 0;

	for (;;) {
		size_t n = strcspn(text, " ");

		assert_true(argc < ARGS_MAX);
		arg[argc++] = slice_of(text, n);
		if (text[n] == '\0')
			return argc;
		text += n + 1;
	}
}

static const struct redis_cmd *
find(const char *name)
{
	return redis_cmd_find(slice_str(name));
}

static enum redis_class
class_of(const char *text)
{
	struct slice arg[ARGS_MAX];
	size_t argc = words(text, arg);
	const struct redis_cmd *cmd = redis_cmd_find(arg[0]);

	assert_non_null(cmd);
	return redis_cmd_class(cmd, arg, argc);
}

static enum redis_risk
risk_of(const char *text)
{
	struct slice arg[ARGS_MAX];
	size_t argc = words(text, arg);
	const struct redis_cmd *cmd = redis_cmd_find(arg[0]), *sub;

	assert_non_null(cmd);
	sub = redis_cmd_sub(cmd, arg, argc);
	return (enum redis_risk)(sub ? sub->risk : cmd->risk);
}

/* The partition: 200 shared, 20 local, 15 dedicated, 3 refused, 2 either. */
static void
classifies_all_240_commands(void **state)
{
	size_t count[REDIS_REFUSED + 1] = { 0 }, blocks = 0, all = 0;
	const struct redis_cmd *cmd;

	(void)state;
	for (; (cmd = redis_cmd_at(all)) != NULL; all++) {
		assert_true(cmd->class <= REDIS_REFUSED);
		if (cmd->blocks)
			blocks++;
		else
			count[cmd->class]++;
	}
	assert_int_equal(all, 240);
	assert_int_equal(blocks, 2);
	assert_int_equal(count[REDIS_SHARED], 200);
	assert_int_equal(count[REDIS_LOCAL], 20);
	assert_int_equal(count[REDIS_DEDICATED], 15);
	assert_int_equal(count[REDIS_REFUSED], 3);
}

static void
finds_every_command_in_any_case_and_nothing_near_it(void **state)
{
	const struct redis_cmd *cmd;
	char name[32];

	(void)state;
	for (size_t i = 0; (cmd = redis_cmd_at(i)) != NULL; i++) {
		size_t n = strlen(cmd->name);

		assert_int_equal(cmd->name_size, n);
		assert_ptr_equal(find(cmd->name), cmd);
		for (size_t k = 0; k <= n; k++)
			name[k] = (char)toupper(cmd->name[k]);
		assert_ptr_equal(find(name), cmd);
		for (size_t k = 0; k < n; k++) {
			const struct redis_cmd *other;

			for (unsigned bit = 1; bit <= 0x80; bit <<= 1) {
				name[k] ^= (char)bit;
				other = redis_cmd_find(slice_of(name, n));
				if (isalpha(cmd->name[k]) && bit == 0x20)
					assert_ptr_equal(other, cmd);
				else
					assert_ptr_not_equal(other, cmd);
				name[k] ^= (char)bit;
			}
		}
		assert_ptr_not_equal(redis_cmd_find(slice_of(name, n - 1)),
				     cmd);
		assert_null(redis_cmd_find(slice_of(name, n + 1)));
	}
}

static void
knows_no_other_command(void **state)
{
	(void)state;
	assert_null(find(""));
	assert_null(find("q"));
	assert_null(find("post"));
	assert_null(find("host:"));
	assert_null(find("hgetex"));
	assert_null(find("client|id"));
	assert_null(find("get "));
	assert_null(find("georadiusbymembex_ro"));
	assert_null(find("georadiusxymember_ro"));
}

static void
has_the_facts_of_redis(void **state)
{
	const struct redis_cmd *cmd = find("set");

	(void)state;
	assert_int_equal(cmd->arity, -3);
	assert_int_equal(cmd->first_key, 1);
	assert_int_equal(cmd->last_key, 1);
	assert_int_equal(cmd->step, 1);
	assert_true(cmd->is_write);
	assert_false(cmd->no_auth);
	cmd = find("mset");
	assert_int_equal(cmd->last_key, -1);
	assert_int_equal(cmd->step, 2);
	assert_false(find("get")->is_write);
	assert_true(find("xreadgroup")->is_write);
}

static void
allows_four_commands_before_auth(void **state)
{
	const struct redis_cmd *cmd;
	size_t n = 0;

	(void)state;
	for (size_t i = 0; (cmd = redis_cmd_at(i)) != NULL; i++)
		n += cmd->no_auth;
	assert_int_equal(n, 4);
	assert_true(find("auth")->no_auth);
	assert_true(find("hello")->no_auth);
	assert_true(find("quit")->no_auth);
	assert_true(find("reset")->no_auth);
}

static void
checks_arity_exactly_or_as_a_minimum(void **state)
{
	(void)state;
	assert_false(redis_cmd_arity_ok(find("get"), 1));
	assert_true(redis_cmd_arity_ok(find("get"), 2));
	assert_false(redis_cmd_arity_ok(find("get"), 3));
	assert_false(redis_cmd_arity_ok(find("set"), 2));
	assert_true(redis_cmd_arity_ok(find("set"), 3));
	assert_true(redis_cmd_arity_ok(find("set"), 1000000));
	assert_true(redis_cmd_arity_ok(find("ping"), 1));
}

static void
dedicates_a_read_only_when_it_blocks(void **state)
{
	(void)state;
	assert_int_equal(class_of("XREAD STREAMS s 0"), REDIS_SHARED);
	assert_int_equal(class_of("xread COUNT 1 STREAMS s 0"), REDIS_SHARED);
	assert_int_equal(class_of("XREAD BLOCK 0 STREAMS s $"),
			 REDIS_DEDICATED);
	assert_int_equal(class_of("XREAD count 1 block 0 streams s $"),
			 REDIS_DEDICATED);
	assert_int_equal(class_of("XREADGROUP GROUP g c NOACK STREAMS s >"),
			 REDIS_SHARED);
	assert_int_equal(class_of("XREADGROUP GROUP g c Block 0 STREAMS s >"),
			 REDIS_DEDICATED);
}

static void
takes_no_name_or_number_for_the_word_block(void **state)
{
	(void)state;
	assert_int_equal(class_of("XREAD STREAMS block 0"), REDIS_SHARED);
	assert_int_equal(class_of("XREAD COUNT block STREAMS s 0"),
			 REDIS_SHARED);
	assert_int_equal(class_of("XREADGROUP GROUP block block STREAMS s >"),
			 REDIS_SHARED);
	assert_int_equal(class_of("XREAD COUNT streams BLOCK 0 STREAMS s 0"),
			 REDIS_DEDICATED);
	assert_int_equal(
	    class_of("XREADGROUP GROUP streams c BLOCK 0 STREAMS s >"),
	    REDIS_DEDICATED);
}

/* To Redis the words below are BLOCK: it compares up to the NUL. */
static void
shares_no_read_it_does_not_understand(void **state)
{
	struct slice arg[] = { slice_str("XREAD"), slice_of("BLOCK\0x", 7),
			       slice_str("0"),     slice_str("STREAMS"),
			       slice_str("s"),     slice_str("$") };

	(void)state;
	assert_int_equal(redis_cmd_class(find("xread"), arg, 6),
			 REDIS_DEDICATED);
	arg[1] = slice_of("COUNT\0x", 7);
	assert_int_equal(redis_cmd_class(find("xread"), arg, 6),
			 REDIS_DEDICATED);
	assert_int_equal(class_of("XREAD FOO"), REDIS_DEDICATED);
	assert_int_equal(class_of("XREAD COUNT"), REDIS_DEDICATED);
	assert_int_equal(class_of("XREADGROUP GROUP g c"), REDIS_DEDICATED);
}

static void
classifies_subcommands_by_themselves(void **state)
{
	static const struct {
		const char *text;
		enum redis_class class;
		enum redis_risk risk;
	} row[] = {
		{ "OBJECT ENCODING k", REDIS_SHARED, REDIS_SAFE },
		{ "XINFO STREAM s", REDIS_SHARED, REDIS_SAFE },
		{ "XGROUP CREATE s g $", REDIS_SHARED, REDIS_SAFE },
		{ "SCRIPT LOAD x", REDIS_SHARED, REDIS_SAFE },
		{ "script exists x", REDIS_SHARED, REDIS_SAFE },
		{ "SCRIPT FLUSH", REDIS_SHARED, REDIS_DANGER },
		{ "SCRIPT KILL", REDIS_DEDICATED, REDIS_DANGER },
		{ "MEMORY USAGE k", REDIS_SHARED, REDIS_SAFE },
		{ "MEMORY PURGE", REDIS_SHARED, REDIS_DANGER },
		{ "CONFIG GET save", REDIS_LOCAL, REDIS_SAFE },
		{ "CONFIG SET a b", REDIS_SHARED, REDIS_DANGER },
		{ "FUNCTION LIST", REDIS_SHARED, REDIS_PROBE },
		{ "FUNCTION FLUSH", REDIS_SHARED, REDIS_DANGER },
		{ "FUNCTION STATS", REDIS_SHARED, REDIS_SAFE },
		{ "ACL WHOAMI", REDIS_LOCAL, REDIS_SAFE },
		{ "ACL LIST", REDIS_SHARED, REDIS_DANGER },
		{ "CLIENT ID", REDIS_LOCAL, REDIS_SAFE },
		{ "CLIENT SETINFO LIB-NAME x", REDIS_LOCAL, REDIS_SAFE },
		{ "CLIENT REPLY OFF", REDIS_LOCAL, REDIS_SAFE },
		{ "CLIENT TRACKING ON", REDIS_DEDICATED, REDIS_PROBE },
		{ "CLIENT CACHING YES", REDIS_DEDICATED, REDIS_PROBE },
		{ "CLIENT PAUSE 1", REDIS_DEDICATED, REDIS_DANGER },
		{ "COMMAND DOCS", REDIS_LOCAL, REDIS_SAFE },
		{ "COMMAND", REDIS_LOCAL, REDIS_SAFE },
		{ "CLUSTER INFO", REDIS_LOCAL, REDIS_SAFE },
		{ "CLUSTER MEET a 1", REDIS_SHARED, REDIS_DANGER },
		{ "PUBSUB CHANNELS", REDIS_SHARED, REDIS_PROBE },
		{ "PUBSUB HELP", REDIS_SHARED, REDIS_SAFE },
		{ "SCRIPT NONSENSE", REDIS_SHARED, REDIS_SAFE },
		{ "OBJECT NONSENSE k", REDIS_SHARED, REDIS_SAFE },
		{ "SCRIPT DEBUG YES", REDIS_REFUSED, REDIS_DANGER },
		{ "GET encoding", REDIS_SHARED, REDIS_SAFE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		assert_int_equal(class_of(row[i].text), row[i].class);
		assert_int_equal(risk_of(row[i].text), row[i].risk);
	}
}

/* All that Redis calls dangerous or an administrator's, but for what only
 * reads, or writes a key it names, or is answered here. */
static void
knows_whom_a_command_may_hurt(void **state)
{
	static const char *const danger[] = {
		"FLUSHALL",      "FLUSHDB",       "KEYS *",
		"DEBUG SLEEP 0", "SHUTDOWN",      "SAVE",
		"BGSAVE",        "SWAPDB 0 1",    "MIGRATE h 1 k 0 1",
		"SLAVEOF",       "SLOWLOG GET",   "LATENCY LATEST",
		"MODULE LIST",   "MEMORY STATS",  "FAILOVER",
		"BGREWRITEAOF",  "ACL SETUSER x",
	};
	static const char *const probe[] = { "SCAN 0",        "RANDOMKEY",
					     "DBSIZE",        "MOVE k 1",
					     "LASTSAVE",      "MONITOR",
					     "PUBSUB NUMPAT", "FUNCTION DUMP" };
	static const char *const safe[] = { "GET k",         "EVAL x 0",
					    "PUBLISH c x",   "SSCAN k 0",
					    "SORT k",        "LOLWUT",
					    "SCRIPT LOAD x", "OBJECT FREQ k",
					    "SLOWLOG HELP" };

	(void)state;
	for (size_t i = 0; i < sizeof(danger) / sizeof(danger[0]); i++)
		assert_int_equal(risk_of(danger[i]), REDIS_DANGER);
	for (size_t i = 0; i < sizeof(probe) / sizeof(probe[0]); i++)
		assert_int_equal(risk_of(probe[i]), REDIS_PROBE);
	for (size_t i = 0; i < sizeof(safe) / sizeof(safe[0]); i++)
		assert_int_equal(risk_of(safe[i]), REDIS_SAFE);
	assert_int_equal(risk_of("COPY a b"), REDIS_OTHER_DB);
}

static bool
other_db(const char *text, unsigned db)
{
	struct slice arg[ARGS_MAX];
	size_t argc = words(text, arg);

	return redis_cmd_other_db(arg, argc, db);
}

static void
sees_another_database_in_every_spelling_of_copy(void **state)
{
	struct slice arg[ARGS_MAX];

	(void)state;
	assert_false(other_db("COPY a b", 3));
	assert_false(other_db("COPY db db", 3));
	assert_false(other_db("COPY a b REPLACE", 3));
	assert_false(other_db("COPY a b DB 3", 3));
	assert_false(other_db("COPY a b db 0 replace", 0));
	assert_true(other_db("COPY a b DB 0", 3));
	assert_true(other_db("COPY a b replace dB 4", 3));
	assert_true(other_db("COPY a b DB 3 DB 4", 3));
	assert_true(other_db("COPY a b DB", 3));
	assert_true(other_db("COPY a b DB 03", 3));
	assert_true(other_db("COPY a b DB 4294967299", 3));
	assert_int_equal(words("COPY a b DB 4", arg), 5);
	arg[3] = slice_of("DB\0x", 4);
	assert_true(redis_cmd_other_db(arg, 5, 3));
}

static void
has_all_126_subcommands_under_their_containers(void **state)
{
	const struct redis_cmd *cmd, *sub;
	size_t all = 0;

	(void)state;
	for (size_t i = 0; (cmd = redis_cmd_at(i)) != NULL; i++)
		all += cmd->sub_count;
	assert_int_equal(all, 126);
	for (size_t i = 0; (cmd = redis_cmd_at(i)) != NULL; i++) {
		struct slice arg[2] = { slice_str(cmd->name),
					slice_str("HELP") };

		sub = redis_cmd_sub(cmd, arg, 2);
		assert_int_equal(sub != NULL, cmd->sub_count > 0);
		assert_null(redis_cmd_sub(cmd, arg, 1));
		if (sub == NULL)
			continue;
		assert_memory_equal(sub->name, cmd->name, cmd->name_size);
		assert_string_equal(sub->name + cmd->name_size, "|help");
		assert_int_equal(sub->arity, 2);
	}
}

static void
says_unknown_command_as_redis_does(void **state)
{
	static char a[200];
	struct slice arg[4] = { slice_str("zq"), slice_str("a"),
				slice_of("b\0c", 3), slice_of(a, 200) };
	char out[REDIS_CMD_TEXT_MAX];

	(void)state;
	memset(a, 'a', sizeof(a));
	redis_cmd_unknown_text(arg, 1, out, sizeof(out));
	assert_string_equal(
	    out, "ERR unknown command 'zq', with args beginning with: ");
	redis_cmd_unknown_text(arg, 3, out, sizeof(out));
	assert_string_equal(
	    out,
	    "ERR unknown command 'zq', with args beginning with: 'a' 'b' ");

	/* All arguments together are cut at 128, quotes and blanks counted. */
	redis_cmd_unknown_text(arg, 4, out, sizeof(out));
	assert_int_equal(strlen(out), 52 + 8 + 120 + 3);
	arg[1] = slice_of(a, 124);
	redis_cmd_unknown_text(arg, 3, out, sizeof(out));
	assert_string_equal(out + 52 + 126, " 'b' ");
	arg[1] = slice_of(a, 125);
	redis_cmd_unknown_text(arg, 3, out, sizeof(out));
	assert_string_equal(out + 52 + 126, "' ");

	arg[0] = slice_of(a, 200);
	redis_cmd_unknown_text(arg, 1, out, sizeof(out));
	assert_int_equal(strlen(out), 52 - 2 + 128);
}

static void
cuts_its_texts_to_the_room_there_is(void **state)
{
	struct slice arg[1] = { slice_str("zq") };
	char out[8] = "xxxxxxx";

	(void)state;
	redis_cmd_unknown_text(arg, 1, out, 5);
	assert_string_equal(out, "ERR ");
	assert_int_equal(out[5], 'x');
}

static void
says_unknown_subcommand_and_arity_as_redis_does(void **state)
{
	struct slice arg[2] = { slice_str("client"), slice_str("id") };
	char out[REDIS_CMD_TEXT_MAX];

	(void)state;
	redis_cmd_unknown_sub_text(find("client"), slice_str("FOO"), out,
				   sizeof(out));
	assert_string_equal(out,
			    "ERR unknown subcommand 'FOO'. Try CLIENT HELP.");
	redis_cmd_arity_text(find("GET"), out, sizeof(out));
	assert_string_equal(out,
			    "ERR wrong number of arguments for 'get' command");
	redis_cmd_arity_text(redis_cmd_sub(find("client"), arg, 2), out,
			     sizeof(out));
	assert_string_equal(
	    out, "ERR wrong number of arguments for 'client|id' command");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_whom_a_command_may_hurt),
		cmocka_unit_test(
		    sees_another_database_in_every_spelling_of_copy),
		cmocka_unit_test(classifies_all_240_commands),
		cmocka_unit_test(
		    finds_every_command_in_any_case_and_nothing_near_it),
		cmocka_unit_test(knows_no_other_command),
		cmocka_unit_test(has_the_facts_of_redis),
		cmocka_unit_test(allows_four_commands_before_auth),
		cmocka_unit_test(checks_arity_exactly_or_as_a_minimum),
		cmocka_unit_test(dedicates_a_read_only_when_it_blocks),
		cmocka_unit_test(takes_no_name_or_number_for_the_word_block),
		cmocka_unit_test(shares_no_read_it_does_not_understand),
		cmocka_unit_test(classifies_subcommands_by_themselves),
		cmocka_unit_test(
		    has_all_126_subcommands_under_their_containers),
		cmocka_unit_test(says_unknown_command_as_redis_does),
		cmocka_unit_test(cuts_its_texts_to_the_room_there_is),
		cmocka_unit_test(
		    says_unknown_subcommand_and_arity_as_redis_does),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

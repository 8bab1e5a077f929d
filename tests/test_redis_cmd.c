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

/* The partition: 168 shared, 14 local, 21 dedicated, 35 refused, 2 either. */
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
	assert_int_equal(count[REDIS_SHARED], 168);
	assert_int_equal(count[REDIS_LOCAL], 14);
	assert_int_equal(count[REDIS_DEDICATED], 21);
	assert_int_equal(count[REDIS_REFUSED], 35);
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
	} row[] = {
		{ "OBJECT ENCODING k", REDIS_SHARED },
		{ "XINFO STREAM s", REDIS_SHARED },
		{ "XGROUP CREATE s g $", REDIS_SHARED },
		{ "SCRIPT LOAD x", REDIS_SHARED },
		{ "script exists x", REDIS_SHARED },
		{ "SCRIPT FLUSH", REDIS_REFUSED },
		{ "SCRIPT KILL", REDIS_REFUSED },
		{ "MEMORY USAGE k", REDIS_SHARED },
		{ "MEMORY PURGE", REDIS_REFUSED },
		{ "CONFIG GET save", REDIS_REFUSED },
		{ "CONFIG SET a b", REDIS_REFUSED },
		{ "FUNCTION LIST", REDIS_REFUSED },
		{ "FUNCTION FLUSH", REDIS_REFUSED },
		{ "FUNCTION STATS", REDIS_SHARED },
		{ "ACL WHOAMI", REDIS_LOCAL },
		{ "ACL LIST", REDIS_REFUSED },
		{ "CLIENT ID", REDIS_LOCAL },
		{ "CLIENT SETINFO LIB-NAME x", REDIS_LOCAL },
		{ "CLIENT REPLY OFF", REDIS_LOCAL },
		{ "CLIENT TRACKING ON", REDIS_DEDICATED },
		{ "CLIENT CACHING YES", REDIS_DEDICATED },
		{ "CLIENT PAUSE 1", REDIS_REFUSED },
		{ "COMMAND DOCS", REDIS_LOCAL },
		{ "COMMAND", REDIS_LOCAL },
		{ "CLUSTER INFO", REDIS_LOCAL },
		{ "CLUSTER MEET a 1", REDIS_REFUSED },
		{ "PUBSUB CHANNELS", REDIS_REFUSED },
		{ "PUBSUB HELP", REDIS_SHARED },
		{ "SCRIPT NONSENSE", REDIS_REFUSED },
		{ "OBJECT NONSENSE k", REDIS_SHARED },
		{ "GET encoding", REDIS_SHARED },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		assert_int_equal(class_of(row[i].text), row[i].class);
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

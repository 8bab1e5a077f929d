#include "tests/t.h"

#include <ctype.h>
#include <string.h>

#include "protocol/why.h"

static void
every_row_is_there_once(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++) {
		const struct why_row *w = &why_table[i];

		assert_non_null(w->name);
		assert_true(w->name[0] != '\0' && w->text[0] != '\0');
		for (int k = 0; k < i; k++)
			assert_string_not_equal(w->name, why_table[k].name);
	}
}

/* A metric's label and a word of the log: no quoting needed anywhere. */
static void
names_are_words(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++)
		for (const char *c = why_table[i].name; *c != '\0'; c++)
			assert_true(isupper((unsigned char)*c) || *c == '_');
}

static int
is_code(const char *s)
{
	int n = 0;

	while (isdigit((unsigned char)s[n]) || isupper((unsigned char)s[n]))
		n++;
	return n == 5 && s[n] == '\0';
}

static void
every_sqlstate_is_one_or_none(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++) {
		const char *code = why_table[i].sqlstate;

		if (code[0] != '\0' && !is_code(code))
			fail_msg("%s: sqlstate %s", why_table[i].name, code);
		/* Success and warnings are no reasons to refuse. */
		assert_true(strncmp(code, "00", 2) != 0 &&
			    strncmp(code, "01", 2) != 0);
	}
}

static void
every_redis_code_is_one_word_or_none(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++)
		for (const char *c = why_table[i].redis; *c != '\0'; c++)
			assert_true(isupper((unsigned char)*c));
}

/* What one kind of client is told, the other is told too. */
static void
both_protocols_speak_or_neither(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++)
		assert_int_equal(why_table[i].sqlstate[0] == '\0',
				 why_table[i].redis[0] == '\0');
}

/* It goes into a RESP error, which is one line. */
static void
every_text_is_one_line(void **state)
{
	(void)state;
	for (int i = 0; i < WHY_MAX; i++) {
		assert_null(strpbrk(why_table[i].text, "\r\n"));
		assert_in_range(why_table[i].ours, 0, 1);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_row_is_there_once),
		cmocka_unit_test(names_are_words),
		cmocka_unit_test(every_sqlstate_is_one_or_none),
		cmocka_unit_test(every_redis_code_is_one_word_or_none),
		cmocka_unit_test(both_protocols_speak_or_neither),
		cmocka_unit_test(every_text_is_one_line),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

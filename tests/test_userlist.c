#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/conf.h"
#include "conf/userlist.h"
#include "tests/t.h"

#define VERIFIER                                                             \
	"SCRAM-SHA-256$4096:SOEhhHrdUooI853wx8NSsw==$Ofu9jVjTfVW7GZVcAR3Brk" \
	"Ej7HOt1j9lbnO/cVjdWCY=:4csBpj4+Os3v8ohVr6vS2/ketU/iCV13WUncervsdN0="
#define MD5  "md587ad8e138df6ddea587d7fe1a421c19b"
#define LONG "0123456789abcdef0123456789abcdef"

static struct userlist list;
static struct conf_errors errors;
static char dir[] = "/tmp/weir-test-userlist-XXXXXX";

static void
reads(const char *text)
{
	errors = (struct conf_errors){ 0 };
	userlist_read(&list, "list", text, strlen(text), &errors);
}

static void
holds(const char *name, const char *secret)
{
	const struct userlist_entry *e = userlist_find(&list, name);

	assert_non_null(e);
	assert_string_equal(e->secret, secret);
}

static void
done(size_t errors_n)
{
	for (size_t i = errors_n; i < errors.n; i++)
		print_error("%s\n", errors.line[i]);
	assert_int_equal(errors.n, errors_n);
	userlist_free(&list);
	conf_errors_free(&errors);
}

static void
reads_names_and_secrets_between_quotes(void **state)
{
	(void)state;
	reads("\"ann\" \"secret\"\n"
	      "  \"bob\"\t\"a # b ; c\" and the rest is ignored \"x\"\r\n"
	      "\"c\"\"d\" \"a\"\"b\"\"\"\n"
	      "\"empty\" \"\"\n"
	      "\"\xc3\xa4 b\" \"p\\\"\n"
	      "\"close\"\"\"\"secret\"\n"
	      "\"last\"\"x");
	holds("ann", "secret");
	holds("bob", "a # b ; c");
	holds("c\"d", "a\"b\"");
	holds("empty", "");
	holds("\xc3\xa4 b", "p\\");
	assert_null(userlist_find(&list, "bo"));
	assert_null(userlist_find(&list, "bobb"));
	assert_string_equal(errors.line[0],
			    "list:6: expected a comment or \"NAME\" "
			    "\"SECRET\"");
	assert_non_null(strstr(errors.line[1], "list:7: "));
	assert_int_equal(list.n, 5);
	done(2);
}

static void
skips_comments_and_empty_lines(void **state)
{
	(void)state;
	reads("; \"a\" \"b\"\n\n# x\n   \t\r\n  ;x\n\"ann\" \"secret\"");
	assert_int_equal(list.n, 1);
	assert_int_equal(list.entry[0].line, 6);
	done(0);
	reads("");
	assert_null(userlist_find(&list, "ann"));
	done(0);
}

static void
tells_every_line_that_is_none_and_no_secret(void **state)
{
	(void)state;
	reads("ann hunter2\n\"ann\" hunter2\n\"ann\" \"hunter2\n\"ann\"\n"
	      "\"\" \"hunter2\"\n%include x\n");
	assert_int_equal(list.n, 0);
	for (size_t i = 0; i < errors.n; i++) {
		char want[40];

		snprintf(want, sizeof(want), "list:%zu: ", i + 1);
		assert_ptr_equal(strstr(errors.line[i], want), errors.line[i]);
		assert_null(strstr(errors.line[i], "hunter2"));
	}
	done(6);
}

static void
bounds_a_name(void **state)
{
	char text[128];

	(void)state;
	for (int n = 62; n <= 65; n++) {
		snprintf(text, sizeof(text), "\"%0*d\" \"s\"\n", n, 0);
		reads(text);
		assert_int_equal(list.n, n <= USERLIST_NAME_MAX);
		done(n > USERLIST_NAME_MAX);
	}
}

static void
refuses_a_name_a_second_time(void **state)
{
	(void)state;
	reads("\"b\" \"1\"\n\"a\" \"2\"\n\"b\" \"3\"\n\"B\" \"4\"\n");
	holds("b", "1");
	holds("B", "4");
	assert_string_equal(
	    errors.line[0],
	    "list:3: \"b\" a second time, expected only that of line 1");
	done(1);
}

/* ---- in a configuration ----------------------------------------------- */

static struct conf *
loads(const char *users, const char *sections)
{
	char file[64], listed[64];
	struct conf *c;
	FILE *f;

	snprintf(listed, sizeof(listed), "%s/list", dir);
	f = fopen(listed, "w");
	fputs(users, f);
	fclose(f);
	chmod(listed, 0600);
	snprintf(file, sizeof(file), "%s/ini", dir);
	f = fopen(file, "w");
	fprintf(f,
		"[weir]\npostgres_listen = 127.0.0.1:1\n[postgres main]\n"
		"host = h\n[auth]\nuserlist_file = %s\n%s",
		listed, sections);
	fclose(f);
	chmod(file, 0600);
	c = conf_load(file, &errors);
	unlink(file);
	unlink(listed);
	return c;
}

static const struct conf_user *
user(const struct conf *c, const char *name, enum conf_auth auth)
{
	const struct conf_user *u = conf_user_find(c, name);

	assert_non_null(u);
	assert_string_equal(u->name, name);
	assert_int_equal(u->auth, auth);
	return u;
}

static void
makes_users_that_have_no_section(void **state)
{
	struct conf *c = loads("\"plain\" \"" LONG "\"\n\"hash\" \"" MD5
			       "\"\n\"scram\" \"" VERIFIER "\"\n",
			       "[user other]\npassword = " LONG "\n");

	(void)state;
	assert_non_null(c);
	assert_string_equal(user(c, "plain", AUTH_SCRAM)->password, LONG);
	assert_null(user(c, "plain", AUTH_SCRAM)->verifier);
	assert_string_equal(user(c, "hash", AUTH_MD5)->password, MD5);
	assert_int_equal(user(c, "scram", AUTH_SCRAM)->verifier->iterations,
			 4096);
	user(c, "other", AUTH_SCRAM);
	assert_null(conf_user_find(c, "nobody"));
	assert_int_equal(errors.warning_n, 0);
	conf_free(&c);
	conf_errors_free(&errors);
}

static void
gives_a_section_the_secret_it_lacks(void **state)
{
	struct conf *c =
	    loads("\"a\" \"" LONG "\"\n\"b\" \"" MD5 "\"\n\"c\" \"" LONG "\"\n",
		  "[user a]\npool_mode = session\n[user b]\n"
		  "[user c]\npassword = " LONG "c\n[user d]\nauth = trust\n");

	(void)state;
	assert_non_null(c);
	assert_string_equal(user(c, "a", AUTH_SCRAM)->password, LONG);
	assert_true(user(c, "a", AUTH_SCRAM)->has_pool_mode);
	user(c, "b", AUTH_MD5);
	assert_string_equal(user(c, "c", AUTH_SCRAM)->password, LONG "c");
	conf_free(&c);
	conf_errors_free(&errors);
	/* What does not fit is told as for a password of the section's own. */
	c = loads("\"a\" \"" MD5 "\"\n", "[user a]\nauth = plain\n");
	assert_null(c);
	assert_non_null(strstr(errors.line[0], "[user a]: a stored form"));
	conf_errors_free(&errors);
	c = loads("\"b\" \"" MD5 "\"\n", "[user a]\n");
	assert_null(c);
	assert_non_null(strstr(errors.line[0], "[user a]: password is mis"));
	conf_errors_free(&errors);
}

static void
tells_the_line_of_the_list(void **state)
{
	struct conf *c =
	    loads("\"a\" \"SCRAM-SHA-256$x\"\nb\n\"c\" \"\"\n", "");

	(void)state;
	assert_null(c);
	assert_int_equal(errors.n, 2);
	assert_non_null(strstr(errors.line[0], "/list:1: \"a\": the secret"));
	assert_non_null(strstr(errors.line[1], "/list:2: expected a comment"));
	assert_non_null(strstr(errors.warning[0], "/list:3: \"c\" has an emp"));
	conf_errors_free(&errors);
	c = loads("\"a\" \"short\"\n\"b\" \"short\"\n", "");
	assert_non_null(c);
	assert_non_null(strstr(errors.warning[0], "2 passwords are short"));
	conf_free(&c);
	conf_errors_free(&errors);
}

static int
make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) == NULL ? -1 : 0;
}

static int
remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_names_and_secrets_between_quotes),
		cmocka_unit_test(skips_comments_and_empty_lines),
		cmocka_unit_test(tells_every_line_that_is_none_and_no_secret),
		cmocka_unit_test(bounds_a_name),
		cmocka_unit_test(refuses_a_name_a_second_time),
		cmocka_unit_test(makes_users_that_have_no_section),
		cmocka_unit_test(gives_a_section_the_secret_it_lacks),
		cmocka_unit_test(tells_the_line_of_the_list),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

#include "tests/t.h"

#include <stdio.h>
#include <string.h>

#include "proxy/secrets.h"

#define VERIFIER                                                          \
	"SCRAM-SHA-256$4096:SOEhhHrdUooI853wx8NSsw==$Ofu9jVjTfVW7GZVcAR3" \
	"BrkEj7HOt1j9lbnO/cVjdWCY=:4csBpj4+Os3v8ohVr6vS2/ketU/iCV13WUnce" \
	"rvsdN0="
#define MD5 "md587ad8e138df6ddea587d7fe1a421c19b"

static struct lookup_waiter *
put(struct lookup_cache *c, const char *name, struct secret *s, uint64_t now,
    uint64_t until)
{
	void *value = s;

	return lookup_cache_put(c, name, &value, now, until, until);
}

/* One who waits asks, gets this answer, and all is as if it had been alone. */
static void
learn(struct lookup_cache *c, const char *name, const char *text, uint64_t now,
      uint64_t until)
{
	struct secret *s = secret_new(name, text);
	struct lookup_waiter w;

	assert_null(lookup_cache_find(c, name, now));
	assert_int_equal(lookup_cache_wait(c, name, &w), 1);
	assert_ptr_equal(put(c, name, s, now, until), &w);
	secret_unref(&s);
}

static bool
knows(struct lookup_cache *c, const char *name, uint64_t now)
{
	return lookup_cache_find(c, name, now) != NULL;
}

static void
tells_the_kinds_of_secrets_apart(void **state)
{
	struct secret *scram = secret_new("a", VERIFIER);
	struct secret *md5 = secret_new("a", MD5);
	struct secret *plain = secret_new("a", "md5 is not what this is");

	(void)state;
	assert_non_null(scram->verifier);
	assert_null(scram->user.password);
	assert_int_equal(scram->verifier->iterations, 4096);
	assert_int_equal(md5->user.auth, AUTH_MD5);
	assert_string_equal(md5->user.password, MD5);
	assert_int_equal(plain->user.auth, AUTH_SCRAM);
	assert_string_equal(plain->user.password, "md5 is not what this is");
	assert_string_equal(plain->user.name, "a");
	secret_unref(&scram);
	secret_unref(&md5);
	secret_unref(&plain);
	assert_null(plain);
}

static void
what_nobody_can_know_opens_nothing(void **state)
{
	static char huge[1025];
	static const char *const useless[] = { NULL, "", "SCRAM-SHA-256$",
					       "SCRAM-SHA-256$4096:x$y:z",
					       huge };

	(void)state;
	memset(huge, 'x', sizeof(huge) - 1);
	for (size_t i = 0; i < sizeof(useless) / sizeof(useless[0]); i++) {
		struct secret *s = secret_new("a", useless[i]);

		assert_true(secret_is_nobody(s));
		secret_unref(&s);
	}
}

static void
an_answer_is_good_until_its_time_is_over(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);

	(void)state;
	assert_false(knows(c, "a", 0));
	learn(c, "a", "secret", 100, 200);
	assert_true(knows(c, "a", 100));
	assert_true(knows(c, "a", 199));
	assert_false(knows(c, "a", 200));
	assert_false(knows(c, "a", 100)); /* not kept for worse times */
	learn(c, "a", NULL, 300, 310);
	assert_true(secret_is_nobody(lookup_cache_find(c, "a", 309)));
	assert_false(knows(c, "a", 310));
	learn(c, "a", "for no time at all", 400, 400);
	assert_false(knows(c, "a", 400));
	lookup_cache_close(&c);
	assert_null(c);
}

static void
one_asks_and_all_hear_in_their_order(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	struct secret *s = secret_new("a", "secret");
	struct lookup_waiter w[3], other;

	(void)state;
	assert_int_equal(lookup_cache_wait(c, "a", &w[0]), 1);
	assert_int_equal(lookup_cache_wait(c, "a", &w[1]), 0);
	assert_int_equal(lookup_cache_wait(c, "b", &other), 1);
	assert_false(knows(c, "a", 0)); /* but it is being asked for */
	assert_int_equal(lookup_cache_wait(c, "a", &w[2]), 0);
	assert_ptr_equal(put(c, "a", s, 0, 9), &w[0]);
	assert_ptr_equal(w[0].next, &w[1]);
	assert_ptr_equal(w[1].next, &w[2]);
	assert_null(w[2].next);
	assert_null(put(c, "a", s, 0, 9)); /* nobody is left */
	assert_null(put(c, "never", s, 0, 9));
	assert_ptr_equal(put(c, "b", NULL, 0, 9), &other);
	assert_false(knows(c, "b", 0)); /* no answer is no knowledge */
	assert_int_equal(lookup_cache_wait(c, "b", &other), 1);
	assert_ptr_equal(put(c, "b", NULL, 0, 9), &other);
	secret_unref(&s);
	lookup_cache_close(&c);
}

static void
invented_names_drive_no_user_out(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	char name[32];

	(void)state;
	learn(c, "user", "secret", 0, 1000);
	for (unsigned i = 0; i < SECRETS_UNKNOWN + 10; i++) {
		snprintf(name, sizeof(name), "nobody %u", i);
		learn(c, name, NULL, 0, 1000);
	}
	assert_true(knows(c, "user", 1));
	assert_false(knows(c, "nobody 9", 1));
	assert_true(knows(c, "nobody 10", 1));
	lookup_cache_close(&c);
}

static void
of_too_many_users_the_one_used_longest_ago_goes(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	char name[32];

	(void)state;
	for (unsigned i = 0; i < SECRETS_KNOWN; i++) {
		snprintf(name, sizeof(name), "user %u", i);
		learn(c, name, "secret", 0, 1000);
	}
	assert_true(knows(c, "user 0", 1)); /* now used last */
	learn(c, "one more", "secret", 0, 1000);
	assert_true(knows(c, "user 0", 1));
	assert_false(knows(c, "user 1", 1));
	assert_true(knows(c, "user 2", 1));
	lookup_cache_close(&c);
}

static void
no_more_wait_than_may(void **state)
{
	static struct lookup_waiter w[LOOKUPS_WAITING];
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	struct lookup_waiter late;
	unsigned n = 0;

	(void)state;
	for (unsigned i = 0; i < LOOKUPS_WAITING; i++)
		assert_int_not_equal(
		    lookup_cache_wait(c, i % 2 ? "a" : "b", &w[i]), -1);
	assert_int_equal(lookup_cache_wait(c, "a", &late), -1);
	for (struct lookup_waiter *x = put(c, "a", NULL, 0, 1); x; x = x->next)
		n++;
	assert_int_equal(n, LOOKUPS_WAITING / 2);
	assert_int_equal(lookup_cache_wait(c, "a", &late), 1);
	assert_ptr_equal(put(c, "a", NULL, 0, 1), &late);
	assert_non_null(put(c, "b", NULL, 0, 1));
	lookup_cache_close(&c);
}

static void
forgets_what_it_knows_but_not_who_waits(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	struct lookup_waiter a, b;
	const char *name;

	(void)state;
	learn(c, "user", "secret", 0, 1000);
	learn(c, "nobody", NULL, 0, 1000);
	assert_null(lookup_cache_next(c, NULL));
	assert_int_equal(lookup_cache_wait(c, "a", &a), 1);
	assert_int_equal(lookup_cache_wait(c, "b", &b), 1);
	lookup_cache_forget(c);
	assert_false(knows(c, "user", 1));
	assert_false(knows(c, "nobody", 1));
	name = lookup_cache_next(c, NULL);
	assert_string_equal(name, "a");
	name = lookup_cache_next(c, name);
	assert_string_equal(name, "b");
	assert_null(lookup_cache_next(c, name));
	assert_ptr_equal(put(c, "a", NULL, 0, 1), &a);
	assert_ptr_equal(put(c, "b", NULL, 0, 1), &b);
	lookup_cache_close(&c);
}

static void
a_secret_outlives_the_cache_that_forgot_it(void **state)
{
	struct lookup_cache *c = lookup_cache_open(&secrets_kind.ops);
	struct secret *mine;

	(void)state;
	learn(c, "user", "secret", 0, 1000);
	mine = secret_ref(lookup_cache_find(c, "user", 1));
	lookup_cache_close(&c);
	assert_string_equal(mine->user.password, "secret");
	secret_unref(&mine);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tells_the_kinds_of_secrets_apart),
		cmocka_unit_test(what_nobody_can_know_opens_nothing),
		cmocka_unit_test(an_answer_is_good_until_its_time_is_over),
		cmocka_unit_test(one_asks_and_all_hear_in_their_order),
		cmocka_unit_test(invented_names_drive_no_user_out),
		cmocka_unit_test(
		    of_too_many_users_the_one_used_longest_ago_goes),
		cmocka_unit_test(no_more_wait_than_may),
		cmocka_unit_test(forgets_what_it_knows_but_not_who_waits),
		cmocka_unit_test(a_secret_outlives_the_cache_that_forgot_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

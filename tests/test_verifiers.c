#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/verifiers.h"
#include "tests/t.h"

static struct scram_verifier
nobody(const struct verifiers *vs, const char *name)
{
	struct scram_verifier v;

	verifiers_mock(vs, name, &v);
	return v;
}

static bool
same_salt(const struct scram_verifier *a, const struct scram_verifier *b)
{
	return a->iterations == b->iterations && a->salt_len == b->salt_len &&
	       memcmp(a->salt, b->salt, a->salt_len) == 0;
}

static void
shows_a_name_the_same_salt_every_time(void **state)
{
	struct verifiers *vs = verifiers_open(), *other = verifiers_open();
	struct scram_verifier a = nobody(vs, "ann"), b = nobody(vs, "ann");

	(void)state;
	assert_true(same_salt(&a, &b));
	b = nobody(vs, "anna");
	assert_false(same_salt(&a, &b));
	b = nobody(other, "ann");
	assert_false(same_salt(&a, &b));
	assert_int_equal(a.iterations, SCRAM_ITERATIONS);
	verifiers_close(&vs);
	verifiers_close(&other);
	assert_null(vs);
}

static void
shows_a_name_one_salt_for_every_slug(void **state)
{
	struct verifiers *vs = verifiers_open();
	struct scram_verifier a = nobody(vs, "ann.acme");
	struct scram_verifier b = nobody(vs, "ann.beta"), c = nobody(vs, "ann");

	(void)state;
	assert_true(same_salt(&a, &b));
	assert_true(same_salt(&a, &c));
	c = nobody(vs, "ann.acme.beta");
	assert_false(same_salt(&a, &c));
	verifiers_close(&vs);
}

/* Their keys are two digits, which is as good as any others here. */
static struct scram_verifier
made(const struct verifiers *vs, const char *name, unsigned digit)
{
	struct scram_verifier v = nobody(vs, name);

	memset(v.stored_key, (int)digit, SCRAM_KEY);
	memset(v.server_key, (int)digit + 1, SCRAM_KEY);
	return v;
}

static void
keeps_one_for_each_name_and_password(void **state)
{
	struct verifiers *vs = verifiers_open();
	struct scram_verifier v = made(vs, "ann", 1), got, shown;

	(void)state;
	assert_false(verifiers_find(vs, "ann", "secret", &got));
	verifiers_keep(vs, "ann", "secret", &v);
	assert_true(verifiers_find(vs, "ann", "secret", &got));
	assert_memory_equal(got.stored_key, v.stored_key, SCRAM_KEY);
	assert_memory_equal(got.server_key, v.server_key, SCRAM_KEY);
	shown = nobody(vs, "ann");
	assert_true(same_salt(&got, &shown));
	assert_true(verifiers_find(vs, "ann.acme", "secret", &got));
	assert_false(verifiers_find(vs, "ann", "secret2", &got));
	assert_false(verifiers_find(vs, "ann", "", &got));
	assert_false(verifiers_find(vs, "anns", "ecret", &got));
	assert_false(verifiers_find(vs, "bob", "secret", &got));
	verifiers_close(&vs);
}

static void
finds_each_of_many(void **state)
{
	struct verifiers *vs = verifiers_open();
	struct scram_verifier v, got;
	char name[32];

	(void)state;
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "user%u", i);
		v = made(vs, name, i % 251);
		verifiers_keep(vs, name, "secret", &v);
		verifiers_keep(vs, name, "secret", &v);
	}
	for (unsigned i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "user%u", i);
		assert_true(verifiers_find(vs, name, "secret", &got));
		assert_int_equal(got.stored_key[0], i % 251);
	}
	verifiers_close(&vs);
}

static void
forgets_all_rather_than_grow_for_ever(void **state)
{
	struct verifiers *vs = verifiers_open();
	struct scram_verifier v = made(vs, "ann", 1), got;
	char password[32];

	(void)state;
	for (unsigned i = 0; i <= VERIFIERS_MAX; i++) {
		snprintf(password, sizeof(password), "%u", i);
		verifiers_keep(vs, "ann", password, &v);
	}
	assert_true(verifiers_find(vs, "ann", password, &got));
	assert_false(verifiers_find(vs, "ann", "0", &got));
	verifiers_close(&vs);
}

static void *
keep_and_find(void *arg)
{
	struct verifiers *vs = arg;
	struct scram_verifier v = made(vs, "ann", 7), got;
	char password[32];

	for (unsigned i = 0; i < 1000; i++) {
		snprintf(password, sizeof(password), "%u", i);
		verifiers_keep(vs, "ann", password, &v);
		if (!verifiers_find(vs, "ann", password, &got) ||
		    got.stored_key[0] != 7)
			abort();
	}
	return NULL;
}

static void
is_shared_between_threads(void **state)
{
	struct verifiers *vs = verifiers_open();
	pthread_t thread[4];

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, keep_and_find, vs), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	verifiers_close(&vs);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_a_name_the_same_salt_every_time),
		cmocka_unit_test(shows_a_name_one_salt_for_every_slug),
		cmocka_unit_test(keeps_one_for_each_name_and_password),
		cmocka_unit_test(finds_each_of_many),
		cmocka_unit_test(forgets_all_rather_than_grow_for_ever),
		cmocka_unit_test(is_shared_between_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

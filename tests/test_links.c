#include "tests/t.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/links.h"

enum { THINGS = 1000, STEPS = 100000 };

struct thing {
	struct link link; /* first: a link is a thing */
	unsigned value;
};

static const struct links_key key = { 0x1234567, 0x89abcdef };

static struct thing *
find(const struct links *t, unsigned value, uint64_t hash)
{
	for (struct link *l = links_at(t, hash); l != NULL; l = l->next)
		if (l->hash == hash &&
		    ((struct thing *)(void *)l)->value == value)
			return (struct thing *)(void *)l;
	return NULL;
}

static uint64_t
hash_of(unsigned value)
{
	return links_hash(&key, slice_of(&value, sizeof(value)), 7);
}

static void
finds_what_was_added_and_nothing_that_was_removed(void **state)
{
	static struct thing thing[THINGS];
	static bool in[THINGS];
	struct links t = { 0 };
	size_t n = 0;

	(void)state;
	srandom(1);
	for (int step = 0; step < STEPS; step++) {
		/* Now it grows, now it shrinks. */
		unsigned span = step / 20000 % 2 ? 20 : THINGS;
		unsigned i = (unsigned)random() % span;

		assert_ptr_equal(find(&t, i, hash_of(i)),
				 in[i] ? &thing[i] : NULL);
		if (in[i]) {
			links_remove(&t, &thing[i].link);
		} else {
			thing[i].value = i;
			links_add(&t, &thing[i].link, hash_of(i));
		}
		n += in[i] ? (size_t)-1 : 1;
		in[i] = !in[i];
		assert_int_equal(t.n, n);
	}
	for (unsigned i = 0; i < THINGS; i++) {
		assert_ptr_equal(find(&t, i, hash_of(i)),
				 in[i] ? &thing[i] : NULL);
		if (in[i])
			links_remove(&t, &thing[i].link);
	}
	assert_null(t.bucket);
	assert_int_equal(t.n, 0);
}

static void
hashes_differ_by_text_length_key_and_what_is_more(void **state)
{
	static const struct links_key other = { 0x1234567, 0x89abcdee };
	uint64_t h = links_hash(&key, slice_str("channel"), 0);
	const char zeros[32] = { 0 };

	(void)state;
	assert_true(h == links_hash(&key, slice_str("channel"), 0));
	assert_true(h != links_hash(&key, slice_str("channek"), 0));
	assert_true(h != links_hash(&key, slice_str("channel"), 1));
	assert_true(h != links_hash(&other, slice_str("channel"), 0));
	for (size_t n = 1; n < sizeof(zeros); n++)
		assert_true(links_hash(&key, slice_of(zeros, n), 0) !=
			    links_hash(&key, slice_of(zeros, n - 1), 0));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    finds_what_was_added_and_nothing_that_was_removed),
		cmocka_unit_test(
		    hashes_differ_by_text_length_key_and_what_is_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

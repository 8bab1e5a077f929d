#include "tests/t.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/stmt.h"

static struct slice
text(const char *s)
{
	return slice_of(s, strlen(s) + 1);
}

/* ---- a worker's statements -------------------------------------------- */

static void
is_one_statement_for_one_body(void **state)
{
	struct stmts all = { 0 };
	struct stmt *a = stmt_intern(&all, text("SELECT 1"), 3);
	struct stmt *b = stmt_intern(&all, text("SELECT 1"), 0);
	struct stmt *c = stmt_intern(&all, slice_of("SELECT 1", 8), 0);

	(void)state;
	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c); /* other types, other statement */
	assert_string_not_equal(a->name, c->name);
	assert_int_equal(a->flags, 3);
	assert_int_equal(a->len, 9);
	assert_memory_equal(a->body, "SELECT 1", 9);
	assert_int_equal(all.n, 2);
	stmt_unref(&all, &a);
	assert_null(a);
	assert_int_equal(all.n, 2); /* b is one more reference */
	stmt_unref(&all, &b);
	assert_int_equal(all.n, 1);
	stmt_unref(&all, &c);
	stmts_fini(&all);
}

static void
is_named_by_its_digest_alone(void **state)
{
	struct stmts here = { 0 }, there = { 0 };
	struct stmt *a = stmt_intern(&here, text("SELECT 1"), 0);
	struct stmt *b = stmt_intern(&there, text("SELECT 1"), 0);
	char name[STMT_NAME + 1];

	(void)state;
	assert_string_equal(a->name, b->name);
	assert_int_equal(strlen(a->name), STMT_NAME);
	assert_memory_equal(a->name, "weir_", 5);
	stmt_name(name, a->digest);
	assert_string_equal(name, a->name);
	stmt_unref(&here, &a);
	stmt_unref(&there, &b);
	stmts_fini(&here);
	stmts_fini(&there);
}

static void
finds_each_of_thousands(void **state)
{
	enum { N = 3000 };
	struct stmts all = { 0 };
	struct stmt *s[N];

	(void)state;
	for (uint32_t i = 0; i < N; i++)
		s[i] = stmt_intern(&all, slice_of(&i, sizeof(i)), i);
	assert_int_equal(all.n, N);
	for (uint32_t i = 0; i < N; i++) {
		struct stmt *again =
		    stmt_intern(&all, slice_of(&i, sizeof(i)), 0);

		assert_ptr_equal(again, s[i]);
		assert_int_equal(again->flags, i);
		stmt_unref(&all, &again);
	}
	for (uint32_t i = 0; i < N; i++)
		stmt_unref(&all, &s[i]);
	stmts_fini(&all);
}

static void
a_renewed_statement_is_another_one_for_who_asks_again(void **state)
{
	struct stmts all = { 0 };
	struct stmt *old = stmt_intern(&all, text("SELECT *"), 1), *new, *more;
	struct stmt *other = stmt_intern(&all, text("SELECT 1"), 1);
	uint32_t filler = 0;

	(void)state;
	stmt_renew(&all, old);
	assert_true(old->stale);
	new = stmt_intern(&all, text("SELECT *"), 1);
	more = stmt_intern(&all, text("SELECT *"), 1);
	assert_ptr_not_equal(new, old);
	assert_ptr_equal(new, more);
	assert_false(new->stale);
	assert_string_not_equal(new->name, old->name);
	stmt_renew(&all, old); /* again: nothing new is learnt */
	stmt_unref(&all, &more);
	more = stmt_intern(&all, text("SELECT *"), 1);
	assert_ptr_equal(new, more);
	stmt_unref(&all, &more);
	stmt_renew(&all, new);
	more = stmt_intern(&all, text("SELECT *"), 1);
	assert_ptr_not_equal(new, more);
	assert_false(other->stale);
	stmt_unref(&all, &more);
	stmt_unref(&all, &new);
	/* It is remembered while nobody has it, up to a bound. */
	new = stmt_intern(&all, text("SELECT *"), 1);
	assert_string_not_equal(new->name, old->name);
	stmt_unref(&all, &new);
	for (int i = 0; i < STMT_RENEWED; i++, filler++) {
		new = stmt_intern(&all, slice_of(&filler, sizeof(filler)), 0);
		stmt_renew(&all, new);
		stmt_unref(&all, &new);
	}
	new = stmt_intern(&all, text("SELECT *"), 1);
	assert_string_equal(new->name, old->name);
	assert_ptr_not_equal(new,
			     old); /* never one that is known to be stale */
	stmt_unref(&all, &new);
	stmt_unref(&all, &old);
	stmt_unref(&all, &other);
	stmts_fini(&all);
}

/* ---- a client's names ------------------------------------------------- */

static struct stmt_entry *
add(struct stmt_names *names, struct stmts *all, const char *name,
    const char *sql)
{
	struct stmt *s = stmt_intern(all, text(sql), 0);
	struct stmt_entry *e = stmt_names_add(names, slice_str(name), s);

	if (e == NULL)
		stmt_unref(all, &s);
	return e;
}

static void
finds_a_name_by_itself_and_by_its_id(void **state)
{
	struct stmts all = { 0 };
	struct stmt_names names = { 0 };
	struct stmt_entry *a, *b;

	(void)state;
	assert_null(stmt_names_find(&names, slice_str("a")));
	assert_null(stmt_names_find_id(&names, 1));
	a = add(&names, &all, "a", "SELECT 1");
	b = add(&names, &all, "ab", "SELECT 1");
	assert_non_null(a);
	assert_non_null(b);
	assert_ptr_equal(stmt_names_find(&names, slice_str("a")), a);
	assert_ptr_equal(stmt_names_find(&names, slice_str("ab")), b);
	assert_null(stmt_names_find(&names, slice_str("b")));
	assert_true(a->id != 0 && b->id != 0 && a->id != b->id);
	assert_ptr_equal(stmt_names_find_id(&names, a->id), a);
	assert_ptr_equal(stmt_names_find_id(&names, b->id), b);
	stmt_names_drop(&names, &all, a);
	assert_null(stmt_names_find(&names, slice_str("a")));
	assert_int_equal(all.n, 1);
	stmt_names_fini(&names, &all);
	stmts_fini(&all);
}

static void
a_name_being_closed_can_be_given_again(void **state)
{
	struct stmts all = { 0 };
	struct stmt_names names = { 0 };
	struct stmt_entry *old = add(&names, &all, "a", "SELECT 1"), *new;

	(void)state;
	old->closed = old->stmt;
	old->stmt = NULL;
	assert_null(stmt_names_find(&names, slice_str("a")));
	new = add(&names, &all, "a", "SELECT 2");
	assert_ptr_equal(stmt_names_find(&names, slice_str("a")), new);
	assert_ptr_equal(stmt_names_find_id(&names, old->id), old);
	stmt_names_drop(&names, &all, old);
	assert_ptr_equal(stmt_names_find(&names, slice_str("a")), new);
	assert_int_equal(names.bytes, new->stmt->len);
	stmt_names_fini(&names, &all);
	stmts_fini(&all);
}

static void
bounds_the_names_of_a_client(void **state)
{
	struct stmts all = { 0 };
	struct stmt_names names = { 0 };
	char name[16];

	(void)state;
	for (int i = 0; i < STMT_NAMES_MAX; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		assert_non_null(add(&names, &all, name, "SELECT 1"));
	}
	assert_null(add(&names, &all, "one more", "SELECT 1"));
	for (int i = 0; i < STMT_NAMES_MAX; i++) {
		snprintf(name, sizeof(name), "s%d", i);
		assert_non_null(stmt_names_find(&names, slice_str(name)));
	}
	stmt_names_drop(&names, &all, stmt_names_find(&names, slice_str("s7")));
	assert_non_null(add(&names, &all, "one more", "SELECT 1"));
	stmt_names_fini(&names, &all);
	stmts_fini(&all);
}

static void
bounds_the_bytes_of_a_client(void **state)
{
	enum { HALF = STMT_BYTES_MAX / 2 };
	struct stmts all = { 0 };
	struct stmt_names names = { 0 };
	uint8_t *body = calloc(1, HALF);
	struct stmt *s;

	(void)state;
	assert_non_null(body);
	s = stmt_intern(&all, slice_of(body, HALF), 0);
	assert_non_null(stmt_names_add(&names, slice_str("a"), stmt_ref(s)));
	assert_non_null(stmt_names_add(&names, slice_str("b"), stmt_ref(s)));
	assert_null(add(&names, &all, "c", ""));
	stmt_names_drop(&names, &all, stmt_names_find(&names, slice_str("a")));
	assert_non_null(add(&names, &all, "c", ""));
	stmt_names_fini(&names, &all);
	stmt_unref(&all, &s);
	stmts_fini(&all);
	free(body);
}

static void
names_asked_to_be_dropped_are_not_found_and_may_come_back(void **state)
{
	struct stmts all = { 0 };
	struct stmt_names names = { 0 };

	(void)state;
	for (int dropped = 0; dropped < 2; dropped++) {
		stmt_names_hide(&names); /* of nothing */
		assert_non_null(add(&names, &all, "new", "SELECT 1"));
		assert_non_null(stmt_names_find(&names, slice_str("new")));
		stmt_names_unhide(&names, &all, true);
		assert_int_equal(names.n, 1);
		stmt_names_hide(&names);
		assert_null(stmt_names_find(&names, slice_str("new")));
		assert_non_null(add(&names, &all, "new", "SELECT 2"));
		assert_int_equal(
		    stmt_names_find(&names, slice_str("new"))->stmt->body[7],
		    '2');
		stmt_names_unhide(&names, &all, dropped);
		assert_int_equal(names.n, dropped ? 1 : 2);
		stmt_names_fini(&names, &all);
	}
	assert_non_null(add(&names, &all, "a", "SELECT 1"));
	stmt_names_unhide(&names, &all, true); /* nobody saw it coming */
	assert_int_equal(names.n, 0);
	stmt_names_fini(&names, &all);
	stmts_fini(&all);
}

/* ---- what a server has ------------------------------------------------ */

static const uint8_t A[STMT_DIGEST] = { 1 };
static const uint8_t B[STMT_DIGEST] = { 2 };
static const uint8_t C[STMT_DIGEST] = { 3 };

static void
hold(struct stmt_held *h, const uint8_t *digest)
{
	stmt_held_settle(h, stmt_held_add(h, digest), true, true);
}

static void
counts_a_parse_as_done_up_to_the_next_sync(void **state)
{
	struct stmt_held h;
	uint16_t slot;

	(void)state;
	stmt_held_init(&h, 10);
	assert_int_equal(stmt_held_find(&h, A), STMT_NONE);
	slot = stmt_held_add(&h, A);
	assert_int_equal(stmt_held_find(&h, A), slot);
	stmt_held_sync(&h);
	assert_int_equal(stmt_held_find(&h, A), STMT_NONE);
	stmt_held_settle(&h, slot, true, true);
	assert_int_equal(stmt_held_find(&h, A), slot);
	stmt_held_sync(&h);
	assert_int_equal(stmt_held_find(&h, A), slot);
	stmt_held_fini(&h);
}

static void
forgets_what_was_skipped(void **state)
{
	struct stmt_held h;

	(void)state;
	stmt_held_init(&h, 10);
	stmt_held_settle(&h, stmt_held_add(&h, A), true, false);
	assert_int_equal(stmt_held_find(&h, A), STMT_NONE);
	assert_int_equal(stmt_held_unsure(&h, A), STMT_NONE);
	assert_int_equal(h.n, 0);
	stmt_held_fini(&h);
}

static void
closes_first_what_may_be_there_or_not(void **state)
{
	struct stmt_held h;
	uint16_t slot;

	(void)state;
	stmt_held_init(&h, 10);
	slot = stmt_held_add(&h, A);
	stmt_held_sync(&h);
	assert_int_equal(stmt_held_unsure(&h, A), slot);
	assert_int_equal(stmt_held_add(&h, A), slot);
	assert_int_equal(stmt_held_find(&h, A), slot);
	stmt_held_settle(&h, slot, true, false); /* the first Parse */
	stmt_held_settle(&h, slot, false, true); /* the Close */
	stmt_held_settle(&h, slot, true, true);  /* the second Parse */
	stmt_held_sync(&h);
	assert_int_equal(stmt_held_find(&h, A), slot);
	assert_int_equal(h.n, 1);
	stmt_held_fini(&h);
}

static void
makes_room_by_the_least_recently_used(void **state)
{
	struct stmt_held h;
	uint16_t a;

	(void)state;
	stmt_held_init(&h, 2);
	hold(&h, A);
	assert_int_equal(stmt_held_evict(&h), STMT_NONE); /* there is room */
	hold(&h, B);
	a = stmt_held_find(&h, A);
	assert_int_not_equal(a, STMT_NONE);
	assert_int_not_equal(stmt_held_evict(&h), a);
	assert_int_equal(stmt_held_find(&h, B), STMT_NONE);
	assert_int_equal(stmt_held_evict(&h), STMT_NONE);
	hold(&h, C);
	assert_int_equal(stmt_held_find(&h, A), a);
	stmt_held_fini(&h);
}

static void
does_not_evict_what_is_on_its_way(void **state)
{
	struct stmt_held h;
	uint16_t a, b;

	(void)state;
	stmt_held_init(&h, 1);
	a = stmt_held_add(&h, A);
	b = stmt_held_add(&h, B);
	assert_int_equal(stmt_held_evict(&h), STMT_NONE);
	stmt_held_settle(&h, a, true, true);
	stmt_held_settle(&h, b, true, true);
	/* Above its bound, it works it off. */
	assert_int_equal(stmt_held_evict(&h), a);
	assert_int_equal(stmt_held_evict(&h), b);
	assert_int_equal(stmt_held_evict(&h), STMT_NONE);
	stmt_held_fini(&h);
}

static void
keeps_what_was_not_closed_after_all(void **state)
{
	struct stmt_held h;
	uint16_t slot;

	(void)state;
	stmt_held_init(&h, 1);
	hold(&h, A);
	slot = stmt_held_evict(&h);
	stmt_held_settle(&h, slot, false, false);
	assert_int_equal(stmt_held_find(&h, A), slot);
	stmt_held_fini(&h);
}

static void
has_room_for_one_at_least(void **state)
{
	struct stmt_held h;

	(void)state;
	stmt_held_init(&h, 0);
	hold(&h, A);
	assert_int_not_equal(stmt_held_find(&h, A), STMT_NONE);
	stmt_held_clear(&h);
	assert_int_equal(stmt_held_find(&h, A), STMT_NONE);
	assert_int_equal(h.n, 0);
	stmt_held_fini(&h);
}

/* ---- against a backend ------------------------------------------------ */

/*
 * A backend that executes messages in order, late, and skips up to the next
 * Sync once one has failed.
 */
enum { DIGESTS = 12, QUEUE = 4096 };

enum op_kind { OP_PARSE, OP_CLOSE, OP_USE, OP_FAIL, OP_SYNC, OP_FORGET };

struct op {
	enum op_kind kind;
	int digest;
	uint16_t slot;
};

struct backend {
	struct op queue[QUEUE];
	unsigned head, tail;
	bool has[DIGESTS], skipping;
	unsigned used, parsed, forgot;
};

static void
backend_send(struct backend *b, enum op_kind kind, int digest, uint16_t slot)
{
	assert_true(b->tail - b->head < QUEUE);
	b->queue[b->tail++ % QUEUE] = (struct op){ kind, digest, slot };
}

static void
backend_answer(struct backend *b, struct stmt_held *h)
{
	struct op op = b->queue[b->head++ % QUEUE];
	bool done = !b->skipping;

	switch (op.kind) {
	case OP_SYNC:
		b->skipping = false;
		break;
	case OP_FAIL:
		b->skipping = true;
		break;
	case OP_FORGET:
		if (b->skipping)
			break;
		memset(b->has, 0, sizeof(b->has));
		b->forgot++;
		stmt_held_forget(h);
		break;
	case OP_USE: /* whoever uses a statement must find it */
		assert_true(b->skipping || b->has[op.digest]);
		b->used += done;
		break;
	case OP_PARSE: /* and nobody may parse a name twice */
		assert_true(b->skipping || !b->has[op.digest]);
		b->has[op.digest] |= done;
		b->parsed += done;
		stmt_held_settle(h, op.slot, true, done);
		break;
	case OP_CLOSE:
		b->has[op.digest] &= !done;
		stmt_held_settle(h, op.slot, false, done);
		break;
	}
}

static void
backend_use(struct backend *b, struct stmt_held *h, int d)
{
	uint8_t digest[STMT_DIGEST] = { (uint8_t)d };
	uint16_t slot;

	if (stmt_held_find(h, digest) == STMT_NONE) {
		while ((slot = stmt_held_evict(h)) != STMT_NONE)
			backend_send(b, OP_CLOSE, h->slot[slot].digest[0],
				     slot);
		if ((slot = stmt_held_unsure(h, digest)) != STMT_NONE)
			backend_send(b, OP_CLOSE, d, slot);
		backend_send(b, OP_PARSE, d, stmt_held_add(h, digest));
	}
	backend_send(b, OP_USE, d, STMT_NONE);
}

static void
never_misjudges_a_backend_that_skips(void **state)
{
	static struct backend b;
	struct stmt_held h;
	unsigned n = 0;

	(void)state;
	srand(1);
	stmt_held_init(&h, 5);
	for (int i = 0; i < 200000; i++) {
		int what = rand() % 64;

		if (what < 28 && b.tail - b.head < QUEUE / 2)
			backend_use(&b, &h, rand() % DIGESTS);
		else if (what < 32)
			backend_send(&b, OP_FAIL, 0, STMT_NONE);
		else if (what < 40) {
			backend_send(&b, OP_SYNC, 0, STMT_NONE);
			stmt_held_sync(&h);
		} else if (what == 40) {
			backend_send(&b, OP_FORGET, 0, STMT_NONE);
			stmt_held_doubt(&h, NULL);
		} else if (what == 41) {
			uint8_t d[STMT_DIGEST] = { (uint8_t)(rand() %
							     DIGESTS) };

			stmt_held_doubt(&h, d);
		}
		for (int k = rand() % 4; k > 0 && b.head != b.tail; k--)
			backend_answer(&b, &h);
	}
	while (b.head != b.tail)
		backend_answer(&b, &h);
	for (uint16_t i = 0; i < h.size; i++)
		h.slot[i].doubted =
		    false; /* below all that doubt is the truth */
	for (int d = 0; d < DIGESTS; d++) {
		uint8_t digest[STMT_DIGEST] = { (uint8_t)d };

		assert_int_equal(stmt_held_find(&h, digest) != STMT_NONE,
				 b.has[d]);
		n += b.has[d];
	}
	assert_int_equal(h.n, n);
	assert_true(b.forgot > 100);
	assert_true(b.used > 10000 && b.parsed > 1000 && b.used > b.parsed);
	stmt_held_fini(&h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_one_statement_for_one_body),
		cmocka_unit_test(is_named_by_its_digest_alone),
		cmocka_unit_test(finds_each_of_thousands),
		cmocka_unit_test(
		    a_renewed_statement_is_another_one_for_who_asks_again),
		cmocka_unit_test(
		    names_asked_to_be_dropped_are_not_found_and_may_come_back),
		cmocka_unit_test(finds_a_name_by_itself_and_by_its_id),
		cmocka_unit_test(a_name_being_closed_can_be_given_again),
		cmocka_unit_test(bounds_the_names_of_a_client),
		cmocka_unit_test(bounds_the_bytes_of_a_client),
		cmocka_unit_test(counts_a_parse_as_done_up_to_the_next_sync),
		cmocka_unit_test(forgets_what_was_skipped),
		cmocka_unit_test(closes_first_what_may_be_there_or_not),
		cmocka_unit_test(makes_room_by_the_least_recently_used),
		cmocka_unit_test(does_not_evict_what_is_on_its_way),
		cmocka_unit_test(keeps_what_was_not_closed_after_all),
		cmocka_unit_test(has_room_for_one_at_least),
		cmocka_unit_test(never_misjudges_a_backend_that_skips),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "pool/lease.h"
#include "pool/ledger.h"

static struct ledger_entry
entry(struct lessee *l, uint32_t arg)
{
	return (struct ledger_entry){ .lessee = l,
				      .arg = arg,
				      .slot = (uint16_t)(arg * 3),
				      .kind = (uint8_t)arg,
				      .action = LEDGER_FORWARD };
}

static void
pays_in_the_order_it_was_asked(void **state)
{
	struct ledger l = { 0 };
	struct lessee a;

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		ledger_push(&l, entry(&a, i));
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(l.n, 100 - i);
		assert_int_equal(ledger_at(&l, 0)->arg, i);
		assert_int_equal(ledger_at(&l, l.n - 1)->arg, 99);
		ledger_pop(&l);
	}
	ledger_free(&l);
}

static void
owns_no_memory_before_the_first_entry_nor_after_a_flood(void **state)
{
	struct ledger l = { 0 };

	(void)state;
	assert_null(l.ring);
	for (uint32_t i = 0; i < LEDGER_MAX; i++)
		ledger_push(&l, entry(NULL, i));
	assert_int_equal(l.size, LEDGER_MAX);
	for (uint32_t i = 0; i < LEDGER_MAX; i++)
		ledger_pop(&l);
	assert_null(l.ring);
	assert_int_equal(l.size, 0);
}

static void
is_full_while_there_is_still_room_for_our_own(void **state)
{
	struct ledger l = { 0 };

	(void)state;
	while (!ledger_full(&l))
		ledger_push(&l, entry(NULL, l.n));
	assert_in_range(LEDGER_MAX - l.n, 64, 64);
	ledger_pop(&l);
	assert_false(ledger_full(&l));
	ledger_free(&l);
}

static void
swallows_for_the_one_who_has_gone_and_nobody_else(void **state)
{
	struct ledger l = { 0 };
	struct lessee gone, stays;

	(void)state;
	for (uint32_t i = 0; i < 60; i++)
		ledger_push(&l, entry(i % 3 ? &stays : &gone, i));
	for (uint32_t i = 0; i < 20; i++)
		ledger_pop(&l);
	for (uint32_t i = 60; i < 80; i++) /* so that it wraps */
		ledger_push(&l, entry(i % 3 ? &stays : &gone, i));
	ledger_disown(&l, &gone);
	assert_int_equal(l.n, 60);
	for (uint32_t i = 20; i < 80; i++) {
		struct ledger_entry *e = ledger_at(&l, i - 20);

		assert_int_equal(e->arg, i);
		assert_int_equal(e->kind, (uint8_t)i);
		assert_ptr_equal(e->lessee, i % 3 ? &stays : NULL);
		assert_int_equal(e->action,
				 i % 3 ? LEDGER_FORWARD : LEDGER_SWALLOW);
	}
	ledger_free(&l);
}

/* The same operations on a plain array: 10 000 of them, and then some. */
static void
is_a_queue(void **state)
{
	static struct ledger_entry model[40000];
	struct lessee who[4];
	struct ledger l = { 0 };
	uint32_t head = 0, tail = 0;

	(void)state;
	srand(2);
	for (int i = 0; i < 30000; i++) {
		/* Long runs of either, so that it grows, wraps and empties. */
		int pushes = (i / 700) % 2 ? 3 : 7;
		struct lessee *w = &who[rand() % 4];

		if (rand() % 100 == 0) {
			ledger_disown(&l, w);
			for (uint32_t k = head; k < tail; k++)
				if (model[k].lessee == w) {
					model[k].lessee = NULL;
					model[k].action = LEDGER_SWALLOW;
				}
		} else if (rand() % 10 < pushes) {
			model[tail] = entry(w, (uint32_t)i);
			ledger_push(&l, model[tail++]);
		} else if (head < tail) {
			ledger_pop(&l);
			head++;
		}
		assert_int_equal(l.n, tail - head);
		for (uint32_t k = 0; k < l.n; k += 1 + l.n / 8) {
			struct ledger_entry *e = ledger_at(&l, k);

			assert_ptr_equal(e->lessee, model[head + k].lessee);
			assert_int_equal(e->arg, model[head + k].arg);
			assert_int_equal(e->slot, model[head + k].slot);
			assert_int_equal(e->action, model[head + k].action);
		}
	}
	ledger_free(&l);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pays_in_the_order_it_was_asked),
		cmocka_unit_test(
		    owns_no_memory_before_the_first_entry_nor_after_a_flood),
		cmocka_unit_test(is_full_while_there_is_still_room_for_our_own),
		cmocka_unit_test(
		    swallows_for_the_one_who_has_gone_and_nobody_else),
		cmocka_unit_test(is_a_queue),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

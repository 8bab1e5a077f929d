#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "conf/tenant.h"
#include "pool/budget.h"
#include "pool/fair.h"

static struct lessee
waiter(const struct tenant *t, uint64_t since_ns)
{
	return (struct lessee){ .tenant = t, .since_ns = since_ns };
}

static void
nobody_waits_at_first(void **state)
{
	struct fair f = { 0 };

	(void)state;
	assert_null(fair_first(&f));
	assert_null(fair_take(&f));
	assert_true(fair_oldest_ns(&f) == UINT64_MAX);
}

static void
serves_one_organization_in_its_order(void **state)
{
	struct tenant t = { .weight = 1 };
	struct lessee l[50];
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < 50; i++) {
		l[i] = waiter(&t, (uint64_t)i + 1);
		fair_put(&f, &l[i]);
	}
	for (int i = 0; i < 50; i++) {
		assert_int_equal(f.n, 50 - i);
		assert_true(fair_oldest_ns(&f) == (uint64_t)i + 1);
		assert_ptr_equal(fair_first(&f), &l[i]);
		assert_ptr_equal(fair_take(&f), &l[i]);
		assert_null(l[i].prev);
	}
	assert_null(fair_take(&f));
}

static void
a_thousand_waiters_delay_another_organization_by_one_service(void **state)
{
	enum { MANY = 1000 };
	struct tenant big = { .weight = 1 }, small = { .weight = 1 };
	static struct lessee l[MANY];
	struct lessee one = waiter(&small, 0);
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < MANY; i++) {
		l[i] = waiter(&big, 0);
		fair_put(&f, &l[i]);
	}
	for (int i = 0; i < 10; i++)
		assert_ptr_equal(fair_take(&f), &l[i]);
	fair_put(&f, &one);
	assert_ptr_equal(fair_take(&f), &l[10]);
	assert_ptr_equal(fair_take(&f), &one);
	assert_ptr_equal(fair_take(&f), &l[11]);
	/* And again each time it comes. */
	fair_put(&f, &one);
	assert_ptr_equal(fair_take(&f), &l[12]);
	assert_ptr_equal(fair_take(&f), &one);
	while (fair_take(&f) != NULL)
		;
	assert_int_equal(f.n, 0);
}

static void
serves_organizations_by_their_weight(void **state)
{
	struct tenant t[3] = { { .weight = 1 }, { .weight = 3 }, { 0 } };
	static struct lessee l[3][300];
	unsigned served[3] = { 0 };
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < 300; i++)
		for (int k = 0; k < 3; k++) {
			l[k][i] = waiter(&t[k], 0);
			fair_put(&f, &l[k][i]);
		}
	for (int i = 0; i < 500; i++)
		served[fair_take(&f)->tenant - t]++;
	assert_int_equal(served[0], 100);
	assert_int_equal(served[1], 300);
	assert_int_equal(served[2], 100); /* weight 0 counts as 1 */
	while (fair_take(&f) != NULL)
		;
}

static void
waiters_without_an_organization_are_one(void **state)
{
	struct tenant t = { .weight = 1 };
	struct lessee a = waiter(NULL, 0), b = waiter(NULL, 0);
	struct lessee c = waiter(&t, 0);
	struct fair f = { 0 };

	(void)state;
	fair_put(&f, &a);
	fair_put(&f, &b);
	fair_put(&f, &c);
	assert_ptr_equal(fair_take(&f), &a);
	assert_ptr_equal(fair_take(&f), &c);
	assert_ptr_equal(fair_take(&f), &b);
}

static void
who_leaves_the_queue_leaves_no_gap(void **state)
{
	struct tenant t[2] = { { .weight = 1 }, { .weight = 1 } };
	struct lessee l[6];
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < 6; i++) {
		l[i] = waiter(&t[i % 2], 0);
		fair_put(&f, &l[i]);
	}
	fair_remove(&f, &l[0]); /* first */
	fair_remove(&f, &l[3]); /* between */
	fair_remove(&f, &l[4]); /* last */
	assert_ptr_equal(fair_take(&f), &l[2]);
	/* Its queue has ended; it comes back last. */
	fair_put(&f, &l[0]);
	assert_ptr_equal(fair_take(&f), &l[1]);
	assert_ptr_equal(fair_take(&f), &l[0]);
	assert_ptr_equal(fair_take(&f), &l[5]);
	assert_int_equal(f.n, 0);
	assert_null(f.turn);
}

static void
counts_those_who_have_waited_since(void **state)
{
	struct tenant t[2] = { { .weight = 1 }, { .weight = 1 } };
	struct lessee l[6];
	struct fair f = { 0 };

	(void)state;
	assert_int_equal(fair_older(&f, 100, 10), 0);
	for (int i = 0; i < 6; i++) {
		l[i] = waiter(&t[i % 2], (uint64_t)i + 1);
		fair_put(&f, &l[i]);
	}
	assert_int_equal(fair_older(&f, 1, 10), 0);
	assert_int_equal(fair_older(&f, 2, 10), 1);
	assert_int_equal(fair_older(&f, 5, 10), 4);
	assert_int_equal(fair_older(&f, 5, 3), 3);
	assert_int_equal(fair_older(&f, 100, 10), 6);
	while (fair_take(&f) != NULL)
		;
}

/* ---- against a naive list --------------------------------------------- */

enum { TENANTS = 9, WAITERS = 64 };

/* Queues in the order of their turns; the first one is whose turn it is. */
struct model {
	struct {
		const struct tenant *t;
		struct lessee *l[WAITERS];
		int n;
		unsigned served;
	} q[TENANTS + 1];
	int n;
};

static void
model_put(struct model *m, struct lessee *l)
{
	int i = 0;

	while (i < m->n && m->q[i].t != l->tenant)
		i++;
	if (i == m->n) {
		m->q[i].t = l->tenant;
		m->q[i].n = 0;
		m->q[i].served = 0;
		m->n++;
	}
	m->q[i].l[m->q[i].n++] = l;
}

static void
model_close(struct model *m, int i)
{
	m->n--;
	memmove(&m->q[i], &m->q[i + 1], (size_t)(m->n - i) * sizeof(m->q[0]));
}

static void
model_remove(struct model *m, struct lessee *l)
{
	for (int i = 0; i < m->n; i++)
		for (int k = 0; k < m->q[i].n; k++) {
			if (m->q[i].l[k] != l)
				continue;
			m->q[i].n--;
			memmove(&m->q[i].l[k], &m->q[i].l[k + 1],
				(size_t)(m->q[i].n - k) * sizeof(l));
			if (m->q[i].n == 0)
				model_close(m, i);
			return;
		}
}

static struct lessee *
model_take(struct model *m)
{
	struct lessee *l;
	unsigned weight;

	if (m->n == 0)
		return NULL;
	l = m->q[0].l[0];
	weight = l->tenant && l->tenant->weight ? l->tenant->weight : 1;
	if (++m->q[0].served >= weight) {
		m->q[0].served = 0;
		m->q[m->n] = m->q[0];
		memmove(&m->q[0], &m->q[1], (size_t)m->n * sizeof(m->q[0]));
	}
	model_remove(m, l);
	return l;
}

static void
agrees_with_a_naive_list(void **state)
{
	static struct model m;
	struct tenant t[TENANTS];
	struct lessee l[WAITERS] = { 0 }, *took;
	struct fair f = { 0 };

	(void)state;
	srand(3);
	for (int i = 0; i < TENANTS; i++)
		t[i] = (struct tenant){ .weight = (unsigned)i % 4 };
	for (int i = 0; i < 50000; i++) {
		struct lessee *w = &l[rand() % WAITERS];
		int busy = (i / 1000) % 2;

		if (rand() % 8 == 0 || rand() % 2 == busy) {
			took = fair_take(&f);
			assert_ptr_equal(took, model_take(&m));
			if (took != NULL)
				assert_null(took->prev);
		} else if (w->prev != NULL) {
			fair_remove(&f, w);
			model_remove(&m, w);
		} else {
			int k = rand() % (TENANTS + 1);

			*w = waiter(k < TENANTS ? &t[k] : NULL, (uint64_t)i);
			fair_put(&f, w);
			model_put(&m, w);
		}
		assert_ptr_equal(fair_first(&f), m.n ? m.q[0].l[0] : NULL);
		assert_true(fair_oldest_ns(&f) ==
			    (m.n ? m.q[0].l[0]->since_ns : UINT64_MAX));
	}
	while ((took = fair_take(&f)) != NULL)
		assert_ptr_equal(took, model_take(&m));
	assert_int_equal(m.n, 0);
}

static struct lessee
sharing(const struct tenant *t, struct budget *share, uint64_t since_ns)
{
	return (
	    struct lessee){ .tenant = t, .share = share, .since_ns = since_ns };
}

static void
who_is_held_back_is_passed_over_and_delays_nobody(void **state)
{
	struct tenant t[2] = { { .weight = 1 }, { .weight = 1 } };
	struct budget full = { .limit = 1, .count = 1 };
	struct budget open = { .limit = 9 };
	struct lessee a[3], b = sharing(&t[1], &open, 7);
	struct fair_queue *held = NULL;
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		a[i] = sharing(&t[0], &full, (uint64_t)i + 1);
		fair_put(&f, &a[i]);
	}
	fair_put(&f, &b);
	fair_hold(&f, &a[0], &held);
	fair_hold(&f, &a[0], &held); /* twice is once */
	assert_int_equal(f.n, 1);
	assert_int_equal(f.held, 3);
	assert_true(fair_held_ns(held) == 1);
	assert_ptr_equal(fair_take(&f), &b);
	assert_null(fair_take(&f));
	fair_remove(&f, &a[0]);
	assert_true(fair_held_ns(held) == 2);
	assert_ptr_equal(fair_head(held), &a[1]);
	fair_resume(&f, held);
	assert_null(held);
	assert_int_equal(f.n, 2);
	assert_ptr_equal(fair_take(&f), &a[1]);
	fair_hold(&f, &a[2], &held);
	fair_remove(&f, &a[2]);
	assert_null(held);
	assert_int_equal(f.n + f.held, 0);
}

static void
an_organization_stays_one_over_a_reload(void **state)
{
	struct tenant old = { .weight = 1 }, new = { .weight = 1 };
	struct tenant other = { .weight = 1 };
	struct budget share = { .limit = 9 };
	struct lessee a = sharing(&old, &share, 1), c = waiter(&other, 3);
	struct lessee b = sharing(&new, &share, 2);
	struct fair f = { 0 };

	(void)state;
	fair_put(&f, &a);
	fair_put(&f, &b);
	fair_put(&f, &c);
	assert_ptr_equal(fair_take(&f), &a);
	assert_ptr_equal(fair_take(&f), &c);
	assert_ptr_equal(fair_take(&f), &b);
}

static void
no_more_servers_are_wanted_than_may_be_had(void **state)
{
	struct tenant t = { .weight = 1 };
	struct budget share = { .limit = 5, .count = 3 };
	struct lessee l[9], one = waiter(NULL, 1);
	struct fair f = { 0 };

	(void)state;
	for (int i = 0; i < 9; i++) {
		l[i] = sharing(&t, &share, 1);
		fair_put(&f, &l[i]);
	}
	assert_int_equal(fair_wants(&f, 8), 2);
	fair_put(&f, &one);
	assert_int_equal(fair_wants(&f, 8), 3);
	assert_int_equal(fair_wants(&f, 1), 1);
	while (fair_take(&f) != NULL)
		;
	assert_int_equal(fair_wants(&f, 8), 0);
}

/* The table of their queues grows and goes; each is found all the while. */
static void
thousands_of_organizations_take_their_turn(void **state)
{
	enum { ORGANIZATIONS = 5000 };
	static struct tenant t[ORGANIZATIONS];
	static struct lessee l[ORGANIZATIONS][2];
	struct fair f = { 0 };

	(void)state;
	for (int round = 0; round < 2; round++) {
		for (int k = 0; k < 2; k++)
			for (int i = 0; i < ORGANIZATIONS; i++) {
				l[i][k] = waiter(&t[i], 1);
				fair_put(&f, &l[i][k]);
			}
		assert_int_equal(f.queues, ORGANIZATIONS);
		assert_true(f.buckets >= ORGANIZATIONS);
		for (int i = 0; i < ORGANIZATIONS; i += 3)
			fair_remove(&f, &l[i][0]);
		for (int i = 0; i < ORGANIZATIONS; i++)
			assert_ptr_equal(fair_take(&f), &l[i][i % 3 == 0]);
		for (int i = 0; i < ORGANIZATIONS; i++)
			if (i % 3 != 0)
				assert_ptr_equal(fair_take(&f), &l[i][1]);
		assert_int_equal(f.queues, 0);
		assert_null(f.many);
	}
}

/*
 * Two workers with a ring each, one with a thousand waiters that came first,
 * the other with a single one; the servers are all at the first.
 */
static void
a_flood_on_one_worker_delays_another_worker_by_one_service(void **state)
{
	enum { MANY = 1000 };
	struct tenant big = { .weight = 1 }, small = { .weight = 1 };
	static struct lessee l[MANY];
	struct lessee one = waiter(&small, 5000);
	struct fair here = { 0 }, there = { 0 };
	struct fair_claim ours, theirs;

	(void)state;
	for (int i = 0; i < MANY; i++) {
		l[i] = waiter(&big, 1);
		fair_put(&here, &l[i]);
	}
	fair_serve(&here, 4000);
	fair_put(&there, &one);
	theirs = fair_claim(&there);
	ours = fair_claim(&here);
	assert_true(fair_age(&ours, &theirs) < fair_age(&theirs, &ours));
	fair_serve(&here, 5001);
	ours = fair_claim(&here);
	assert_true(fair_age(&ours, &theirs) > fair_age(&theirs, &ours));
	/* Within one organization it is who has waited longer. */
	fair_take(&there);
	one = waiter(&big, 5000);
	fair_put(&there, &one);
	theirs = fair_claim(&there);
	assert_true(fair_age(&ours, &theirs) < fair_age(&theirs, &ours));
	fair_take(&there);
	theirs = fair_claim(&there);
	assert_true(fair_age(&theirs, &ours) == UINT64_MAX);
	while (fair_take(&here) != NULL)
		;
}

/* Three workers: ours and another have the flood, the third a single one. */
static void
a_flood_on_two_workers_does_not_delay_a_third(void **state)
{
	struct mailbox mailbox[3], *mailboxes[3];
	struct fair_claim ours = { 1, 6000, 17 }, same = { 1, 100, 17 };
	struct fair_claim other = { 5000, 5000, 4 };
	struct budgets all;
	struct budget *b;

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(mailbox_init(&mailbox[i], NULL), 0);
		mailboxes[i] = &mailbox[i];
	}
	assert_int_equal(budgets_init(&all, 3, mailboxes, NULL), 0);
	b = budget_find(&all, "pool", 0);
	budget_claims(&all, b, 1, &same);
	assert_int_equal(budget_deserving(b, 0, &ours, 5), -1);
	budget_claims(&all, b, 2, &other);
	assert_int_equal(budget_deserving(b, 0, &ours, 5), 2);
	assert_int_equal(budget_deserving(b, 0, &ours, 1001), -1);
	ours.since_ns = 50; /* the other has waited longer for the same */
	assert_int_equal(budget_deserving(b, 0, &ours, 5), 2);
	budget_wait_over(b, 2);
	assert_int_equal(budget_deserving(b, 0, &ours, 5), 1);
	ours = (struct fair_claim){ UINT64_MAX, UINT64_MAX, 0 };
	assert_int_equal(budget_deserving(b, 0, &ours, 5), 1);
	budget_unref(&all, &b);
	budgets_fini(&all);
	for (int i = 0; i < 3; i++)
		mailbox_fini(&mailbox[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_waits_at_first),
		cmocka_unit_test(serves_one_organization_in_its_order),
		cmocka_unit_test(
		    a_thousand_waiters_delay_another_organization_by_one_service),
		cmocka_unit_test(serves_organizations_by_their_weight),
		cmocka_unit_test(waiters_without_an_organization_are_one),
		cmocka_unit_test(who_leaves_the_queue_leaves_no_gap),
		cmocka_unit_test(counts_those_who_have_waited_since),
		cmocka_unit_test(agrees_with_a_naive_list),
		cmocka_unit_test(
		    who_is_held_back_is_passed_over_and_delays_nobody),
		cmocka_unit_test(a_flood_on_two_workers_does_not_delay_a_third),
		cmocka_unit_test(thousands_of_organizations_take_their_turn),
		cmocka_unit_test(an_organization_stays_one_over_a_reload),
		cmocka_unit_test(no_more_servers_are_wanted_than_may_be_had),
		cmocka_unit_test(
		    a_flood_on_one_worker_delays_another_worker_by_one_service),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

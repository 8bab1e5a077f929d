#include "tests/t.h"

#include <poll.h>
#include <stdatomic.h>

#include "tls/offload.h"

enum { HOMES = 3, EACH = 300 };

struct sum {
	struct job job;     /* first */
	_Atomic int *order; /* of starts; NULL: nobody asks */
	int in, out, started, runs;
	pthread_t worked_on, done_on;
	void *owner;
};

static void
sum_work(struct job *j)
{
	struct sum *s = (struct sum *)j;

	s->worked_on = pthread_self();
	if (s->order != NULL)
		s->started = (*s->order)++;
	s->out = s->in * s->in;
}

static void
sum_done(struct job *j, void *owner)
{
	struct sum *s = (struct sum *)j;

	s->done_on = pthread_self();
	s->owner = owner;
	s->runs++;
}

static void
sleep_until_posted(struct mailbox *m)
{
	struct pollfd p = { .fd = m->fd, .events = POLLIN };

	assert_int_equal(poll(&p, 1, 30000), 1);
	mailbox_drain(m);
}

static void
works_elsewhere_and_is_done_at_home(void **state)
{
	struct offload *o = offload_open(2);
	struct sum s = { .in = 12 };
	struct mailbox home;
	int owner;

	(void)state;
	assert_non_null(o);
	assert_int_equal(mailbox_init(&home, &owner), 0);
	offload_run(o, &s.job, &home, sum_work, sum_done);
	while (s.runs == 0)
		sleep_until_posted(&home);
	assert_int_equal(s.runs, 1);
	assert_int_equal(s.out, 144);
	assert_ptr_equal(s.owner, &owner);
	assert_true(pthread_equal(s.done_on, pthread_self()));
	assert_false(pthread_equal(s.worked_on, pthread_self()));
	offload_close(&o);
	assert_null(o);
	mailbox_fini(&home);
}

static void
starts_jobs_in_the_order_they_came(void **state)
{
	static struct sum sums[EACH]; /* too much for the stack under ASan */
	struct offload *o = offload_open(1);
	_Atomic int order = 0;
	struct mailbox home;

	(void)state;
	assert_int_equal(mailbox_init(&home, NULL), 0);
	for (int i = 0; i < EACH; i++) {
		sums[i] = (struct sum){ .order = &order };
		offload_run(o, &sums[i].job, &home, sum_work, sum_done);
	}
	offload_close(&o);
	for (int i = 0; i < EACH; i++)
		assert_int_equal(sums[i].started, i);
	mailbox_drain(&home);
	mailbox_fini(&home);
}

static void
close_finishes_what_was_queued(void **state)
{
	static struct sum sums[EACH];
	struct offload *o = offload_open(3);
	struct mailbox home;

	(void)state;
	assert_int_equal(mailbox_init(&home, NULL), 0);
	for (int i = 0; i < EACH; i++) {
		sums[i] = (struct sum){ .in = i };
		offload_run(o, &sums[i].job, &home, sum_work, sum_done);
	}
	offload_close(&o);
	mailbox_drain(&home);
	for (int i = 0; i < EACH; i++) {
		assert_int_equal(sums[i].runs, 1);
		assert_int_equal(sums[i].out, i * i);
	}
	mailbox_fini(&home);
	offload_close(&o); /* closed already: nothing happens */
}

struct poster {
	pthread_t thread;
	struct offload *offload;
	struct mailbox home;
	struct sum sums[EACH];
};

/* One job after another, as a worker with one login at a time. */
static void *
poster_main(void *arg)
{
	struct poster *p = arg;

	for (int i = 0; i < EACH; i++) {
		p->sums[i].in = i;
		offload_run(p->offload, &p->sums[i].job, &p->home, sum_work,
			    sum_done);
		if (i % 10 == 0)
			while (p->sums[i].runs == 0)
				sleep_until_posted(&p->home);
	}
	while (p->sums[EACH - 1].runs == 0)
		sleep_until_posted(&p->home);
	return NULL;
}

static void
many_posters_get_their_own_jobs_back_once(void **state)
{
	static struct poster posters[HOMES];
	struct offload *o = offload_open(4);

	(void)state;
	for (int i = 0; i < HOMES; i++) {
		posters[i].offload = o;
		assert_int_equal(mailbox_init(&posters[i].home, &posters[i]),
				 0);
		assert_int_equal(pthread_create(&posters[i].thread, NULL,
						poster_main, &posters[i]),
				 0);
	}
	for (int i = 0; i < HOMES; i++)
		pthread_join(posters[i].thread, NULL);
	offload_close(&o);
	for (int i = 0; i < HOMES; i++) {
		struct poster *p = &posters[i];

		mailbox_drain(&p->home);
		for (int k = 0; k < EACH; k++) {
			assert_int_equal(p->sums[k].runs, 1);
			assert_int_equal(p->sums[k].out, k * k);
			assert_ptr_equal(p->sums[k].owner, p);
			assert_true(
			    pthread_equal(p->sums[k].done_on, p->thread) ||
			    pthread_equal(p->sums[k].done_on, pthread_self()));
		}
		mailbox_fini(&p->home);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(works_elsewhere_and_is_done_at_home),
		cmocka_unit_test(starts_jobs_in_the_order_they_came),
		cmocka_unit_test(close_finishes_what_was_queued),
		cmocka_unit_test(many_posters_get_their_own_jobs_back_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

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

/* ---- turns ------------------------------------------------------------ */

enum { STORM = 300 };

/* One thread, held up until all is queued that is to be. */
struct gate {
	struct job job; /* first */
	pthread_mutex_t lock;
	_Atomic bool entered;
	struct offload *offload;
	struct mailbox home;
	_Atomic int order;
};

static void
gate_work(struct job *j)
{
	struct gate *g = (struct gate *)j;

	g->entered = true;
	pthread_mutex_lock(&g->lock);
	pthread_mutex_unlock(&g->lock);
}

static void
gate_done(struct job *j, void *owner)
{
	(void)j;
	(void)owner;
}

static void
gate_shut(struct gate *g)
{
	g->entered = false;
	pthread_mutex_lock(&g->lock);
	offload_run(g->offload, &g->job, &g->home, gate_work, gate_done);
	while (!g->entered)
		sched_yield();
}

static void
gate_open(struct gate *g)
{
	*g = (struct gate){ .offload = offload_open(1) };
	pthread_mutex_init(&g->lock, NULL);
	assert_int_equal(mailbox_init(&g->home, NULL), 0);
	gate_shut(g);
}

/* Until all that is queued is done. */
static void
gate_lift(struct gate *g)
{
	pthread_mutex_unlock(&g->lock);
	offload_close(&g->offload);
	mailbox_drain(&g->home);
}

static void
gate_fini(struct gate *g)
{
	mailbox_fini(&g->home);
	pthread_mutex_destroy(&g->lock);
}

static int
put(struct gate *g, struct sum *s, uint64_t key, unsigned each, unsigned all)
{
	const struct offload_turn turn = { key, each, all };

	*s = (struct sum){ .order = &g->order };
	return offload_try(g->offload, &s->job, &turn, &g->home, sum_work,
			   sum_done);
}

static void
a_storm_of_one_key_delays_another_by_a_job(void **state)
{
	static struct sum storm[STORM], late[3], nobodys;
	struct gate g;

	(void)state;
	gate_open(&g);
	for (int i = 0; i < STORM; i++)
		assert_int_equal(put(&g, &storm[i], 7, STORM, 1000), 0);
	assert_int_equal(put(&g, &late[0], 8, 10, 1000), 0);
	assert_int_equal(put(&g, &late[1], 8, 10, 1000), 0);
	assert_int_equal(put(&g, &late[2], 7 + 256, 10, 1000), 0);
	nobodys = (struct sum){ .order = &g.order };
	offload_run(g.offload, &nobodys.job, &g.home, sum_work, sum_done);
	gate_lift(&g);
	/* One of each, in the order of their first, as long as there are. */
	assert_int_equal(storm[0].started, 0);
	assert_int_equal(late[0].started, 1);
	assert_int_equal(late[2].started, 2);
	assert_int_equal(nobodys.started, 3);
	assert_int_equal(storm[1].started, 4);
	assert_int_equal(late[1].started, 5);
	for (int i = 2; i < STORM; i++)
		assert_int_equal(storm[i].started, i + 4);
	/* What was started meanwhile, as each can tell. */
	assert_int_equal(late[0].job.passed, 1);
	assert_int_equal(nobodys.job.passed, 3);
	assert_int_equal(storm[STORM - 1].job.passed, STORM - 1 + 4);
	gate_fini(&g);
}

static void
who_comes_again_and_again_has_one_turn_at_a_time(void **state)
{
	static struct sum storm[STORM], often[STORM];
	struct gate g;

	(void)state;
	gate_open(&g);
	for (int i = 0; i < STORM; i++)
		assert_int_equal(put(&g, &storm[i], 7, STORM, 1000), 0);
	for (int i = 0; i < STORM; i++)
		assert_int_equal(put(&g, &often[i], 8, STORM, 1000), 0);
	gate_lift(&g);
	for (int i = 0; i < STORM; i++) {
		assert_int_equal(storm[i].started, 2 * i);
		assert_int_equal(often[i].started, 2 * i + 1);
	}
	gate_fini(&g);
}

static void
so_many_of_a_key_and_of_all_may_wait(void **state)
{
	static struct sum sums[16];
	struct gate g;
	unsigned n = 0;

	(void)state;
	gate_open(&g);
	for (int i = 0; i < 3; i++)
		assert_int_equal(put(&g, &sums[n++], 7, 3, 5), 0);
	assert_int_equal(put(&g, &sums[n], 7, 3, 5), -1);
	assert_int_equal(put(&g, &sums[n++], 8, 3, 5), 0);
	assert_int_equal(put(&g, &sums[n++], 9, 3, 5), 0);
	assert_int_equal(put(&g, &sums[n], 8, 3, 5), -1);
	assert_int_equal(put(&g, &sums[n], 10, 3, 5), -1);
	/* That of nobody is neither bounded nor counted. */
	sums[n] = (struct sum){ 0 };
	offload_run(g.offload, &sums[n++].job, &g.home, sum_work, sum_done);
	assert_int_equal(put(&g, &sums[n++], 10, 3, 6), 0);
	gate_lift(&g);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(sums[i].runs, 1);
	gate_fini(&g);
}

static void
who_was_refused_may_come_again_when_there_is_room(void **state)
{
	static struct sum sums[3];
	struct gate g;

	(void)state;
	gate_open(&g);
	assert_int_equal(put(&g, &sums[0], 7, 1, 1), 0);
	assert_int_equal(put(&g, &sums[1], 7, 1, 1), -1);
	pthread_mutex_unlock(&g.lock);
	while (sums[0].runs == 0)
		sleep_until_posted(&g.home);
	gate_shut(&g);
	assert_int_equal(put(&g, &sums[1], 7, 1, 1), 0);
	assert_int_equal(put(&g, &sums[2], 8, 1, 1), -1);
	gate_lift(&g);
	assert_int_equal(sums[1].runs, 1);
	assert_int_equal(sums[2].runs, 0);
	gate_fini(&g);
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
		cmocka_unit_test(a_storm_of_one_key_delays_another_by_a_job),
		cmocka_unit_test(
		    who_comes_again_and_again_has_one_turn_at_a_time),
		cmocka_unit_test(so_many_of_a_key_and_of_all_may_wait),
		cmocka_unit_test(
		    who_was_refused_may_come_again_when_there_is_room),
		cmocka_unit_test(close_finishes_what_was_queued),
		cmocka_unit_test(many_posters_get_their_own_jobs_back_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

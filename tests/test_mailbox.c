#include "tests/t.h"

#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "tls/mailbox.h"

enum { POSTERS = 4, EACH = 5000 };

struct letter {
	struct message message; /* first */
	int from, number;
};

/* What the owner of the mailbox under test has seen. */
struct reader {
	struct mailbox mailbox;
	struct letter *answer; /* posted by run when not NULL */
	int runs, last[POSTERS];
	bool freeing, waits; /* at the last run */
};

static void
letter_run(struct message *m, void *owner)
{
	struct letter *l = (struct letter *)m;
	struct reader *r = owner;

	assert_int_equal(l->number, r->last[l->from] + 1);
	r->last[l->from] = l->number;
	r->runs++;
	r->waits = mailbox_waits(&r->mailbox);
	if (r->answer != NULL) {
		mailbox_post(&r->mailbox, &r->answer->message);
		r->answer = NULL;
	}
	if (r->freeing)
		free(l);
}

static struct letter
letter_of(int from, int number)
{
	return (struct letter){ { .run = letter_run }, from, number };
}

static bool
readable(const struct reader *r, int timeout_ms)
{
	struct pollfd p = { .fd = r->mailbox.fd, .events = POLLIN };

	return poll(&p, 1, timeout_ms) == 1;
}

static void
reader_init(struct reader *r)
{
	*r = (struct reader){ 0 };
	assert_int_equal(mailbox_init(&r->mailbox, r), 0);
}

static void
says_whether_something_posted_is_still_to_be_done(void **state)
{
	struct letter a = letter_of(0, 1), b = letter_of(0, 2);
	struct reader r;

	(void)state;
	reader_init(&r);
	assert_false(mailbox_waits(&r.mailbox));
	mailbox_post(&r.mailbox, &a.message);
	mailbox_post(&r.mailbox, &b.message);
	assert_true(mailbox_waits(&r.mailbox));
	mailbox_drain(&r.mailbox);
	assert_true(r.waits); /* up to the end of the last one */
	assert_false(mailbox_waits(&r.mailbox));
	mailbox_fini(&r.mailbox);
}

static void
is_readable_exactly_while_something_is_in_it(void **state)
{
	struct letter a = letter_of(0, 1), b = letter_of(0, 2);
	struct reader r;

	(void)state;
	reader_init(&r);
	assert_false(readable(&r, 0));
	mailbox_post(&r.mailbox, &a.message);
	mailbox_post(&r.mailbox, &b.message);
	assert_true(readable(&r, 0));
	mailbox_drain(&r.mailbox);
	assert_int_equal(r.runs, 2);
	assert_false(readable(&r, 0));
	mailbox_drain(&r.mailbox); /* an empty one does not block */
	assert_int_equal(r.runs, 2);
	mailbox_fini(&r.mailbox);
}

static void
posts_between_two_drains_cost_one_wake_up(void **state)
{
	struct letter a = letter_of(0, 1), b = letter_of(0, 2);
	uint64_t count = 0;
	struct reader r;

	(void)state;
	reader_init(&r);
	mailbox_post(&r.mailbox, &a.message);
	mailbox_post(&r.mailbox, &b.message);
	assert_int_equal(read(r.mailbox.fd, &count, sizeof(count)),
			 sizeof(count));
	assert_int_equal(count, 1);
	/* Put back what drain expects to take. */
	assert_int_equal(write(r.mailbox.fd, &count, sizeof(count)),
			 sizeof(count));
	mailbox_drain(&r.mailbox);
	mailbox_fini(&r.mailbox);
}

static void
what_is_posted_while_draining_waits_for_the_next_drain(void **state)
{
	struct letter a = letter_of(0, 1), b = letter_of(0, 2);
	struct letter c = letter_of(0, 3);
	struct reader r;

	(void)state;
	reader_init(&r);
	r.answer = &c;
	mailbox_post(&r.mailbox, &a.message);
	mailbox_post(&r.mailbox, &b.message);
	mailbox_drain(&r.mailbox);
	assert_int_equal(r.runs, 2);
	assert_true(readable(&r, 0)); /* and wakes the loop again */
	mailbox_drain(&r.mailbox);
	assert_int_equal(r.runs, 3);
	mailbox_fini(&r.mailbox);
}

static void
a_message_may_be_freed_by_its_run(void **state)
{
	struct reader r;

	(void)state;
	reader_init(&r);
	r.freeing = true;
	for (int i = 1; i <= 3; i++) {
		struct letter *l = malloc(sizeof(*l));

		*l = letter_of(0, i);
		mailbox_post(&r.mailbox, &l->message);
	}
	mailbox_drain(&r.mailbox);
	assert_int_equal(r.runs, 3);
	mailbox_fini(&r.mailbox);
}

struct poster {
	pthread_t thread;
	struct mailbox *to;
	int from;
};

static void *
poster_main(void *arg)
{
	struct poster *p = arg;

	for (int i = 1; i <= EACH; i++) {
		struct letter *l = malloc(sizeof(*l));

		*l = letter_of(p->from, i);
		mailbox_post(p->to, &l->message);
	}
	return NULL;
}

/* The reader sleeps in poll() as a loop does: a lost wake-up hangs it. */
static void
loses_nothing_and_keeps_each_posters_order(void **state)
{
	struct poster posters[POSTERS];
	struct reader r;

	(void)state;
	reader_init(&r);
	r.freeing = true;
	for (int i = 0; i < POSTERS; i++) {
		posters[i].to = &r.mailbox;
		posters[i].from = i;
		assert_int_equal(pthread_create(&posters[i].thread, NULL,
						poster_main, &posters[i]),
				 0);
	}
	while (r.runs < POSTERS * EACH) {
		assert_true(readable(&r, 30000));
		mailbox_drain(&r.mailbox);
	}
	for (int i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	assert_false(readable(&r, 0));
	mailbox_drain(&r.mailbox);
	assert_int_equal(r.runs, POSTERS * EACH);
	mailbox_fini(&r.mailbox);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    says_whether_something_posted_is_still_to_be_done),
		cmocka_unit_test(is_readable_exactly_while_something_is_in_it),
		cmocka_unit_test(posts_between_two_drains_cost_one_wake_up),
		cmocka_unit_test(
		    what_is_posted_while_draining_waits_for_the_next_drain),
		cmocka_unit_test(a_message_may_be_freed_by_its_run),
		cmocka_unit_test(loses_nothing_and_keeps_each_posters_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The control thread against a scripted server: what a question says decides
 * what becomes of it.
 */
#include "tests/t.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/control.h"

enum { CONNS = 64, PATIENCE_MS = 30000 };

/* ---- the server ------------------------------------------------------- */

struct fake {
	int listener;
	unsigned port;
	pthread_t accepting, serving[CONNS];
	int fd[CONNS];
	_Atomic unsigned accepted, asked;
	pthread_mutex_t lock; /* a "wait" is answered when it is free */
};

struct guest {
	struct fake *fake;
	int fd;
};

static int
take(int fd, void *out, size_t n)
{
	return n == 0 || recv(fd, out, n, MSG_WAITALL) == (ssize_t)n ? 0 : -1;
}

static void
say(int fd, char type, const void *body, size_t n)
{
	uint8_t head[5] = { (uint8_t)type };
	uint32_t size = htonl((uint32_t)n + 4);

	memcpy(head + 1, &size, 4);
	if (send(fd, head, 5, MSG_NOSIGNAL) == 5 && n > 0)
		(void)send(fd, body, n, MSG_NOSIGNAL);
}

static void
say_columns(int fd, unsigned n)
{
	uint8_t body[64] = { 0, (uint8_t)n };

	/* A name "c", no table, type text of no fixed size, as text. */
	for (unsigned i = 0; i < n; i++)
		memcpy(body + 2 + 20 * i,
		       "c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0",
		       20);
	say(fd, 'T', body, 2 + 20 * n);
}

/* The first value, and NULL. */
static void
say_row(int fd, const char *value, size_t n)
{
	uint8_t *body = calloc(1, n + 10);
	uint32_t size = htonl((uint32_t)n);

	assert_non_null(body);
	body[1] = 2;
	memcpy(body + 2, &size, 4);
	memcpy(body + 6, value, n);
	memset(body + 6 + n, 0xff, 4);
	say(fd, 'D', body, n + 10);
	free(body);
}

/* False: it is to be left alone now. */
static bool
answer(struct fake *f, int fd, const char *sql, const char *param)
{
	static const char error[] = "SERROR\0C22012\0Mno such sum\0";
	static char big[CONTROL_BYTES + 1];
	unsigned rows = 0;

	f->asked++;
	if (strcmp(sql, "leave") == 0)
		return false;
	say(fd, '1', NULL, 0);
	say(fd, '2', NULL, 0);
	if (strcmp(sql, "fail") == 0) {
		say(fd, 'E', error, sizeof(error));
	} else {
		say_columns(fd, 2);
		(void)sscanf(sql, "rows %u", &rows);
		for (unsigned i = 0; i < rows; i++)
			say_row(fd, param, strlen(param));
		if (strcmp(sql, "big") == 0)
			say_row(fd, big, sizeof(big));
		if (strcmp(sql, "wait") == 0) {
			pthread_mutex_lock(&f->lock);
			pthread_mutex_unlock(&f->lock);
		}
		say(fd, 'C', "SELECT", 7);
	}
	say(fd, 'Z', "I", 1);
	return true;
}

static void *
serve(void *arg)
{
	struct guest *g = arg;
	char body[4096], sql[256] = "", param[256] = "";
	uint8_t type;
	uint32_t n;

	if (take(g->fd, &n, 4) != 0 || (n = ntohl(n)) > sizeof(body) ||
	    take(g->fd, body, n - 4) != 0)
		goto out;
	say(g->fd, 'R', "\0\0\0\0", 4);
	say(g->fd, 'Z', "I", 1);
	while (take(g->fd, &type, 1) == 0 && take(g->fd, &n, 4) == 0) {
		n = ntohl(n) - 4;
		if (n > sizeof(body) - 1 || take(g->fd, body, n) != 0)
			break;
		body[n] = '\0';
		if (type == 'P')
			snprintf(sql, sizeof(sql), "%.200s", body + 1);
		/* No names, no formats, one value or none. */
		if (type == 'B' && body[5] > 0)
			snprintf(param, sizeof(param), "%.*s", body[9],
				 body + 10);
		if (type == 'S' && !answer(g->fake, g->fd, sql, param))
			break;
		if (type == 'X')
			break;
	}
out:
	shutdown(g->fd, SHUT_RDWR);
	free(g);
	return NULL;
}

static void *
accept_all(void *arg)
{
	struct fake *f = arg;
	int fd;

	while ((fd = accept(f->listener, NULL, NULL)) >= 0) {
		struct guest *g = calloc(1, sizeof(*g));
		unsigned i = f->accepted;

		assert_true(i < CONNS && g != NULL);
		*g = (struct guest){ f, fd };
		f->fd[i] = fd;
		f->accepted = i + 1; /* before anybody is answered */
		pthread_create(&f->serving[i], NULL, serve, g);
	}
	return NULL;
}

static void
fake_open(struct fake *f)
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t n = sizeof(in);

	*f = (struct fake){ .listener = socket(AF_INET, SOCK_STREAM, 0) };
	setsockopt(f->listener, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 },
		   sizeof(int));
	pthread_mutex_init(&f->lock, NULL);
	assert_int_equal(bind(f->listener, (void *)&in, n), 0);
	assert_int_equal(listen(f->listener, 16), 0);
	assert_int_equal(getsockname(f->listener, (void *)&in, &n), 0);
	f->port = ntohs(in.sin_port);
	pthread_create(&f->accepting, NULL, accept_all, f);
}

/* As if its process had died. */
static void
fake_cut(struct fake *f)
{
	for (unsigned i = 0; i < f->accepted; i++)
		shutdown(f->fd[i], SHUT_RDWR);
}

static void
fake_close(struct fake *f)
{
	shutdown(f->listener, SHUT_RDWR);
	pthread_join(f->accepting, NULL);
	fake_cut(f);
	for (unsigned i = 0; i < f->accepted; i++) {
		pthread_join(f->serving[i], NULL);
		close(f->fd[i]);
	}
	close(f->listener);
	pthread_mutex_destroy(&f->lock);
}

/* ---- the world -------------------------------------------------------- */

struct world {
	struct fake fake;
	struct control *control;
	struct offload *dns;
	struct mailbox home;
	unsigned answers, results[CONTROL_CLOSED + 1];
	struct control_ask *last; /* the latest answer */
	bool stopped;
};

static struct snapshot *
snapshot_of(const char *host, unsigned port)
{
	char file[] = "/tmp/weir-test-control-XXXXXX";
	struct conf_errors errors;
	struct snapshot *s;
	int fd = mkstemp(file);

	assert_int_not_equal(fd, -1);
	dprintf(fd,
		"[weir]\npostgres_listen = 127.0.0.1:6432\n"
		"server_login_retry = 200ms\n"
		"[postgres main]\nhost = %s\nport = %u\nuser = weir\n"
		"password = x\ndbname = d\nsslmode = disable\n"
		"[postgres nobody]\nhost = %s\nport = %u\n"
		"[database *]\npostgres = main\n[user u]\nauth = trust\n",
		host, port, host, port);
	close(fd);
	s = snapshot_load(file, &errors);
	assert_int_equal(errors.n, 0);
	conf_errors_free(&errors);
	unlink(file);
	return s;
}

static void
world_open(struct world *w, const char *host)
{
	struct snapshot *s;

	memset(w, 0, sizeof(*w));
	signal(SIGPIPE, SIG_IGN);
	fake_open(&w->fake);
	s = snapshot_of(host, w->fake.port);
	assert_int_equal(mailbox_init(&w->home, w), 0);
	w->dns = offload_open(1);
	w->control = control_open(s, NULL, w->dns);
	assert_non_null(w->control);
	assert_int_equal(control_start(w->control), 0);
	snapshot_unref(&s);
}

static void
world_stop(struct world *w)
{
	if (w->stopped)
		return;
	w->stopped = true;
	control_stop(w->control);
	offload_close(&w->dns);
	control_close(&w->control);
	mailbox_drain(&w->home);
}

static void
world_close(struct world *w)
{
	world_stop(w);
	control_ask_free(&w->last);
	mailbox_fini(&w->home);
	fake_close(&w->fake);
}

static void
came_home(struct control_ask *ask, void *owner)
{
	struct world *w = owner;

	w->answers++;
	w->results[ask->result]++;
	control_ask_free(&w->last);
	w->last = ask;
}

static struct control_ask *
question(const char *sql)
{
	const char *param = "a value";

	return control_ask_new("main", NULL, sql, 1, &param);
}

static void
post(struct world *w, struct control_ask *ask)
{
	control_ask(w->control, ask, &w->home, came_home);
}

static void
until_answers(struct world *w, unsigned n)
{
	struct pollfd p = { .fd = w->home.fd, .events = POLLIN };

	while (w->answers < n) {
		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		mailbox_drain(&w->home);
	}
}

static void
until(_Atomic unsigned *what, unsigned n)
{
	for (int i = 0; *what < n && i < PATIENCE_MS; i++)
		usleep(1000);
	assert_int_equal(*what, n);
}

/* The answer to one question, which stays the world's. */
static const struct control_ask *
ask(struct world *w, struct control_ask *a)
{
	post(w, a);
	until_answers(w, w->answers + 1);
	return w->last;
}

/* ---- answers ---------------------------------------------------------- */

static void
brings_rows_home(void **state)
{
	const struct control_ask *a;
	struct control_ask *q = question("rows 3");
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	q->rows_max = 3;
	q->tag = 42;
	q->arg = &w;
	a = ask(&w, q);
	assert_int_equal(a->result, CONTROL_OK);
	assert_int_equal(a->rows, 3);
	assert_int_equal(a->columns, 2);
	for (unsigned i = 0; i < 3; i++) {
		assert_string_equal(a->value[2 * i], "a value");
		assert_null(a->value[2 * i + 1]);
	}
	assert_int_equal(a->tag, 42);
	assert_ptr_equal(a->arg, &w);
	a = ask(&w, question("rows 0"));
	assert_int_equal(a->result, CONTROL_OK);
	assert_int_equal(a->rows, 0);
	assert_int_equal(a->columns, 2);
	assert_int_equal(w.fake.accepted, 1);
	world_close(&w);
}

static void
looks_names_up(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "localhost");
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	world_close(&w);
	world_open(&w, "no-such-name.invalid");
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_DOWN);
	assert_non_null(strstr(w.last->error, "cannot resolve"));
	world_close(&w);
}

static void
says_why_the_server_refused(void **state)
{
	const struct control_ask *a;
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	a = ask(&w, question("fail"));
	assert_int_equal(a->result, CONTROL_REFUSED);
	assert_string_equal(a->sqlstate, "22012");
	assert_string_equal(a->error, "no such sum");
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(w.fake.accepted, 1); /* nothing was wrong with it */
	world_close(&w);
}

static void
more_than_was_asked_for_is_not_taken(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	assert_int_equal(ask(&w, question("rows 2"))->result, CONTROL_TOO_BIG);
	assert_int_equal(ask(&w, question("rows 9"))->result, CONTROL_TOO_BIG);
	assert_int_equal(ask(&w, question("big"))->result, CONTROL_TOO_BIG);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	world_close(&w);
}

static void
an_upstream_must_be_there_and_have_a_user(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	assert_int_equal(
	    ask(&w, control_ask_new("gone", NULL, "rows 1", 0, NULL))->result,
	    CONTROL_DOWN);
	assert_int_equal(
	    ask(&w, control_ask_new("nobody", NULL, "rows 1", 0, NULL))->result,
	    CONTROL_DOWN);
	assert_int_equal(w.fake.accepted, 0);
	world_close(&w);
}

/* ---- connections ------------------------------------------------------ */

static void
no_more_connections_than_may_be(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	pthread_mutex_lock(&w.fake.lock);
	for (int i = 0; i < 10; i++)
		post(&w, question("wait"));
	until(&w.fake.asked, CONTROL_CONNS);
	pthread_mutex_unlock(&w.fake.lock);
	until_answers(&w, 10);
	assert_int_equal(w.results[CONTROL_OK], 10);
	assert_int_equal(w.fake.accepted, CONTROL_CONNS);
	/* Another database is another matter. */
	assert_int_equal(
	    ask(&w, control_ask_new("main", "other", "rows 1", 0, NULL))
		->result,
	    CONTROL_OK);
	assert_int_equal(w.fake.accepted, CONTROL_CONNS + 1);
	world_close(&w);
}

static void
a_last_question_closes_its_connection(void **state)
{
	struct control_ask *q = question("rows 1");
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	q->last = true;
	assert_int_equal(ask(&w, q)->result, CONTROL_OK);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(w.fake.accepted, 2);
	q = question("fail");
	q->last = true;
	assert_int_equal(ask(&w, q)->result, CONTROL_REFUSED);
	assert_int_equal(w.fake.accepted, 2); /* on one that was there */
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(w.fake.accepted, 3);
	world_close(&w);
}

static void
one_that_died_at_rest_is_replaced(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	for (unsigned i = 1; i <= 20; i++) {
		assert_int_equal(ask(&w, question("rows 1"))->result,
				 CONTROL_OK);
		assert_int_equal(w.fake.accepted, i);
		fake_cut(&w.fake);
	}
	world_close(&w);
}

static void
nothing_is_asked_twice(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(ask(&w, question("leave"))->result, CONTROL_DOWN);
	assert_int_equal(w.fake.asked, 2);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(w.fake.asked, 3);
	world_close(&w);
}

static void
a_server_that_is_not_there_is_an_error_at_once(void **state)
{
	struct world w;
	int i;

	(void)state;
	world_open(&w, "127.0.0.1");
	fake_close(&w.fake);
	for (i = 0; i < 3; i++)
		post(&w, question("rows 1"));
	until_answers(&w, 3);
	assert_int_equal(w.results[CONTROL_DOWN], 3);
	assert_non_null(strstr(w.last->error, "refused"));
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_DOWN);
	fake_open(&w.fake); /* elsewhere, for world_close() */
	world_close(&w);
}

static void
deadlines_hold_in_the_queue_and_at_the_server(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	pthread_mutex_lock(&w.fake.lock);
	for (int i = 0; i < 6; i++) {
		struct control_ask *q = question("wait");

		q->timeout_ms = 100;
		post(&w, q);
	}
	until_answers(&w, 6);
	assert_int_equal(w.results[CONTROL_LATE], 6);
	pthread_mutex_unlock(&w.fake.lock);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	world_close(&w);
}

static void
too_many_questions_do_not_wait(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	pthread_mutex_lock(&w.fake.lock);
	for (int i = 0; i < CONTROL_CONNS; i++)
		post(&w, question("wait"));
	until(&w.fake.asked, CONTROL_CONNS);
	for (int i = 0; i < CONTROL_QUEUE; i++)
		post(&w, question("rows 1"));
	post(&w, question("rows 1"));
	until_answers(&w, 1);
	assert_int_equal(w.results[CONTROL_FULL], 1);
	pthread_mutex_unlock(&w.fake.lock);
	until_answers(&w, CONTROL_CONNS + CONTROL_QUEUE + 1);
	assert_int_equal(w.results[CONTROL_OK], CONTROL_CONNS + CONTROL_QUEUE);
	world_close(&w);
}

/* ---- changes ---------------------------------------------------------- */

static void
after_a_reload_it_is_the_new_server(void **state)
{
	struct world w;
	struct fake other;
	struct snapshot *s;

	(void)state;
	world_open(&w, "127.0.0.1");
	fake_open(&other);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	pthread_mutex_lock(&w.fake.lock);
	post(&w, question("wait"));
	until(&w.fake.asked, 2);
	s = snapshot_of("127.0.0.1", other.port);
	control_reload(w.control, s);
	snapshot_unref(&s);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(other.asked, 1);
	pthread_mutex_unlock(&w.fake.lock); /* it ends with its answer */
	until_answers(&w, 3);
	assert_int_equal(w.results[CONTROL_OK], 3);
	for (int i = 0; i < 4; i++)
		assert_int_equal(ask(&w, question("rows 1"))->result,
				 CONTROL_OK);
	assert_int_equal(other.asked, 5);
	assert_int_equal(w.fake.asked, 2);
	world_close(&w);
	fake_close(&other);
}

static void
at_the_end_every_question_comes_home(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	pthread_mutex_lock(&w.fake.lock);
	for (int i = 0; i < 10; i++)
		post(&w, question("wait"));
	until(&w.fake.asked, CONTROL_CONNS);
	world_stop(&w);
	assert_int_equal(w.answers, 10);
	assert_int_equal(w.results[CONTROL_CLOSED], 10);
	pthread_mutex_unlock(&w.fake.lock);
	world_close(&w);
}

/* ---- alarms ----------------------------------------------------------- */

struct bell {
	struct message message;
	struct control_alarm alarm; /* of two, one is put off for ever */
	struct control_alarm never;
	struct control *control;
	_Atomic unsigned rings;
};

static void
rings(struct control_alarm *a)
{
	struct bell *b =
	    (struct bell *)(void *)((char *)a - offsetof(struct bell, alarm));

	if (++b->rings < 3)
		control_alarm(b->control, a, control_now_ns(b->control) + 1);
}

static void
rings_never(struct control_alarm *a)
{
	(void)a;
	abort();
}

static void
set_bells(struct message *m, void *owner)
{
	struct bell *b = (struct bell *)(void *)m;

	b->control = owner;
	b->alarm.ring = rings;
	b->never.ring = rings_never;
	control_alarm(b->control, &b->never, 1);
	control_alarm(b->control, &b->alarm, 1);
	control_alarm(b->control, &b->never, 0);
}

static void
an_alarm_rings_as_often_as_it_is_set(void **state)
{
	struct bell b = { .message.run = set_bells };
	struct world w;

	(void)state;
	world_open(&w, "127.0.0.1");
	control_post(w.control, &b.message);
	until(&b.rings, 3);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	assert_int_equal(ask(&w, question("rows 1"))->result, CONTROL_OK);
	world_close(&w);
	assert_int_equal(b.rings, 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(brings_rows_home),
		cmocka_unit_test(looks_names_up),
		cmocka_unit_test(says_why_the_server_refused),
		cmocka_unit_test(more_than_was_asked_for_is_not_taken),
		cmocka_unit_test(an_upstream_must_be_there_and_have_a_user),
		cmocka_unit_test(no_more_connections_than_may_be),
		cmocka_unit_test(a_last_question_closes_its_connection),
		cmocka_unit_test(one_that_died_at_rest_is_replaced),
		cmocka_unit_test(nothing_is_asked_twice),
		cmocka_unit_test(
		    a_server_that_is_not_there_is_an_error_at_once),
		cmocka_unit_test(deadlines_hold_in_the_queue_and_at_the_server),
		cmocka_unit_test(too_many_questions_do_not_wait),
		cmocka_unit_test(after_a_reload_it_is_the_new_server),
		cmocka_unit_test(at_the_end_every_question_comes_home),
		cmocka_unit_test(an_alarm_rings_as_often_as_it_is_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

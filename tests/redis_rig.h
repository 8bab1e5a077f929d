/*
 * redis_rig: Redis clients in one worker whose turns are ours, at the other end
 * of socket pairs, and a Redis whose every word is in the test.
 */
#ifndef TESTS_REDIS_RIG_H
#define TESTS_REDIS_RIG_H

#include "tests/t.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/redis_census.h"
#include "proxy/redis_session.h"
#include "proxy/worker.h"

#ifndef RIG_REDIS
#define RIG_REDIS "connections=2\ndedicated_connections=1\n"
#endif

static struct rig {
	struct weir weir;
	struct mailbox *mailbox;
	struct worker *w;
	int listener;
	int client[4], up[4];
} rig;

enum { LISTED = 4, PATIENCE = 200000 };

/* What is there is read; turn_ends() does the rest. */
static inline void
turn_begins(void)
{
	streams_tick(&rig.w->streams);
	event_base_loop(rig.w->base, EVLOOP_NONBLOCK);
}

static inline void
turn_ends(void)
{
	struct worker *w = rig.w;

	mailbox_drain(&w->mailbox);
	wheel_run(&w->streams.wheel, w->streams.now_ns);
	sessions_run_awake(w);
	pools_poke(&w->pools);
	streams_flush(&w->streams);
	sessions_run_awake(w);
	streams_flush(&w->streams);
	sessions_reap(w);
	pools_reap(&w->pools);
}

static inline void
turn(void)
{
	turn_begins();
	turn_ends();
}

static inline void
turns(int n)
{
	while (n-- > 0) {
		turn();
		usleep(50);
	}
}

static inline void
later(unsigned ms)
{
	for (unsigned i = 0; i < ms / 5; i++) {
		usleep(5000);
		turn();
	}
}

static inline void
nonblocking(int fd)
{
	assert_return_code(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* The bytes come, and none before them. */
static inline void
hears_bytes(int fd, const char *want, size_t n)
{
	static char got[1 << 16];
	size_t have = 0;

	assert_true(n <= sizeof(got));
	for (int i = 0; have < n && i < PATIENCE; i++) {
		ssize_t r = recv(fd, got + have, n - have, 0);

		if (r == 0)
			break;
		if (r > 0)
			have += (size_t)r;
		else
			turns(1);
	}
	if (have != n || memcmp(got, want, n) != 0)
		fail_msg("heard %zu bytes \"%.*s\", not \"%s\"", have,
			 (int)have, got, want);
}

static inline void
hears(int fd, const char *want)
{
	hears_bytes(fd, want, strlen(want));
}

static inline void
hears_nothing(int fd)
{
	char byte;

	turns(20);
	assert_int_equal(recv(fd, &byte, 1, 0), -1);
}

static inline void
hears_the_end(int fd)
{
	char byte;
	ssize_t r = -1;

	for (int i = 0; r < 0 && i < PATIENCE; i++, turns(1))
		r = recv(fd, &byte, 1, 0);
	assert_int_equal(r, 0);
}

static inline void
says(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	turns(3);
}

/* A reply of so many bytes, and its client reads it. */
static inline void
says_much(int up, int c, size_t n)
{
	static char x[1 << 16];
	char head[32];

	snprintf(head, sizeof(head), "$%zu\r\n", n);
	says(up, head);
	hears(c, head);
	memset(x, 'x', sizeof(x));
	for (size_t part; n > 0; n -= part) {
		part = n < sizeof(x) / 2 ? n : sizeof(x) / 2;
		assert_int_equal(send(up, x, part, 0), part);
		hears_bytes(c, x, part);
	}
	says(up, "\r\n");
	hears(c, "\r\n");
}

/* ---- setting up ------------------------------------------------------- */

static inline int
client(int i)
{
	int fd[2];

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	nonblocking(fd[0]);
	nonblocking(fd[1]);
	atomic_fetch_add(&rig.weir.clients, 1);
	session_open(rig.w, fd[0], &redis_proto, NULL, true);
	turns(2);
	return rig.client[i] = fd[1];
}

/* The next connection weir makes there, logged in. */
static inline int
upstream_at(int listener, int i, const char *login)
{
	int fd = -1;

	for (int k = 0; fd < 0 && k < PATIENCE; k++, turns(1))
		fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	nonblocking(fd);
	rig.up[i] = fd;
	if (login != NULL) {
		hears(fd, login);
		says(fd, strstr(login, "SELECT") ? "+OK\r\n+OK\r\n" : "+OK\r\n");
		says(fd, strstr(login, "CLIENT") ? ":70\r\n+OK\r\n" : "+OK\r\n");
	}
	return fd;
}

static inline int
upstream(int i, const char *login)
{
	return upstream_at(rig.listener, i, login);
}

#define AUTH "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"
#define PING "*1\r\n$4\r\nPING\r\n"
#define CLIENT_ID "*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n" /* one that is lent */
#define VERIFIER                                       \
	"SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$" \
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" \
	":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define GET_K "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

static inline struct snapshot *
configured(unsigned port)
{
	char file[] = "/tmp/weir-test-redis-XXXXXX";
	struct conf_errors errors;
	struct snapshot *snap;
	int fd = mkstemp(file);

	assert_true(fd >= 0);
	dprintf(
	    fd,
	    "[weir]\nworkers=1\nredis_listen=127.0.0.1:1\n"
	    "[redis main]\nurl=redis://:secret@127.0.0.1:%u\n"
	    RIG_REDIS
	    "[user default]\nauth=trust\n"
	    "[user app]\nauth=scram-sha-256\npassword=right\n"
	    "[user hashed]\nauth=scram-sha-256\n"
	    "password=" VERIFIER "\n"
	    "[user acme]\nauth=scram-sha-256\npassword=p\norganization=acme\n"
	    "[organization acme]\nid=1\nredis_user=acme\n"
	    "redis_password=own\n",
	    port);
	close(fd);
	snap = snapshot_load(file, &errors);
	for (size_t i = 0; i < errors.n; i++)
		print_error("%s\n", errors.line[i]);
	conf_errors_free(&errors);
	unlink(file);
	assert_non_null(snap);
	return snap;
}

static inline int
listening(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_return_code(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_return_code(listen(fd, LISTED), 0);
	nonblocking(fd);
	return fd;
}

static inline unsigned
port_of(int fd)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	assert_return_code(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	return ntohs(in.sin_port);
}

static inline int
set_up(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	memset(rig.client, -1, sizeof(rig.client));
	memset(rig.up, -1, sizeof(rig.up));
	rig.listener = listening();
	rig.weir.snapshot = configured(port_of(rig.listener));
	rates_init(&rig.weir.rates);
	redis_facts_init(&rig.weir.facts);
	assert_non_null(rig.weir.census = redis_census_open());
	assert_non_null(rig.weir.dns = offload_open(1));
	rig.weir.workers = 1;
	rig.weir.mailboxes = &rig.mailbox;
	assert_return_code(
	    budgets_init(&rig.weir.budgets, 1, &rig.mailbox, pools_nudged), 0);
	assert_non_null(rig.w = worker_open(&rig.weir, 0));
	rig.mailbox = &rig.w->mailbox;
	event_del(&rig.w->tick);
	event_del(&rig.w->mail);
	return 0;
}

static inline int
tear_down(void **state)
{
	(void)state;
	for (int i = 0; i < LISTED; i++) {
		if (rig.client[i] >= 0)
			close(rig.client[i]);
	}
	for (int i = 0; rig.w->sessions_n > 0 && i < PATIENCE; i++)
		turns(1);
	assert_int_equal(rig.w->sessions_n, 0);
	assert_int_equal(rig.weir.clients, 0);
	worker_close(&rig.w);
	for (int i = 0; i < LISTED; i++) {
		if (rig.up[i] >= 0)
			close(rig.up[i]);
	}
	offload_close(&rig.weir.dns);
	close(rig.listener);
	redis_facts_fini(&rig.weir.facts);
	budgets_fini(&rig.weir.budgets);
	rates_fini(&rig.weir.rates);
	redis_census_close(&rig.weir.census);
	snapshot_unref(&rig.weir.snapshot);
	return 0;
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif

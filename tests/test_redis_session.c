#include "tests/t.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/redis_session.h"
#include "proxy/worker.h"

/*
 * A worker whose turns are ours, clients at the other end of socket
 * pairs, and a Redis whose every word is in the test.
 */
static struct rig {
	struct weir weir;
	struct mailbox *mailbox;
	struct worker *w;
	int listener;
	int client[4], up[4];
} rig;

enum { LISTED = 4, PATIENCE = 20000 };

static void
turn(void)
{
	struct worker *w = rig.w;

	streams_tick(&w->streams);
	event_base_loop(w->base, EVLOOP_NONBLOCK);
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

static void
turns(int n)
{
	while (n-- > 0) {
		turn();
		usleep(50);
	}
}

static void
later(unsigned ms)
{
	for (unsigned i = 0; i < ms / 5; i++) {
		usleep(5000);
		turn();
	}
}

static void
nonblocking(int fd)
{
	assert_return_code(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* The bytes come, and none before them. */
static void
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

static void
hears(int fd, const char *want)
{
	hears_bytes(fd, want, strlen(want));
}

static void
hears_nothing(int fd)
{
	char byte;

	turns(20);
	assert_int_equal(recv(fd, &byte, 1, 0), -1);
}

static void
hears_the_end(int fd)
{
	char byte;
	ssize_t r = -1;

	for (int i = 0; r < 0 && i < PATIENCE; i++, turns(1))
		r = recv(fd, &byte, 1, 0);
	assert_int_equal(r, 0);
}

static void
says(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	turns(3);
}

/* ---- setting up ------------------------------------------------------- */

static int
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

/* The next connection weir makes, logged in. */
static int
upstream(int i, const char *login)
{
	int fd = -1;

	for (int k = 0; fd < 0 && k < PATIENCE; k++, turns(1))
		fd = accept(rig.listener, NULL, NULL);
	assert_true(fd >= 0);
	nonblocking(fd);
	rig.up[i] = fd;
	if (login != NULL) {
		hears(fd, login);
		says(fd, "+OK\r\n+OK\r\n+OK\r\n" + 15 -
			     5 * (strstr(login, "SELECT") ? 3 : 2));
	}
	return fd;
}

#define AUTH "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n"
#define PING "*1\r\n$4\r\nPING\r\n"
#define VERIFIER                                       \
	"SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$" \
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" \
	":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define GET_K "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

static struct snapshot *
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
	    "connections=2\n"
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

static int
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

static unsigned
port_of(int fd)
{
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	assert_return_code(getsockname(fd, (struct sockaddr *)&in, &len), 0);
	return ntohs(in.sin_port);
}

static int
set_up(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	memset(rig.client, -1, sizeof(rig.client));
	memset(rig.up, -1, sizeof(rig.up));
	rig.listener = listening();
	rig.weir.snapshot = configured(port_of(rig.listener));
	rates_init(&rig.weir.rates);
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

static int
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
	close(rig.listener);
	budgets_fini(&rig.weir.budgets);
	rates_fini(&rig.weir.rates);
	snapshot_unref(&rig.weir.snapshot);
	return 0;
}

/* ---- one client ------------------------------------------------------- */

static void
forwards_what_an_inline_request_means_in_canonical_form(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, "get 'a b' \r\n");
	says(c, "get 'a\\'b'\n");
	up = upstream(0, AUTH PING);
	hears(up, "*2\r\n$3\r\nget\r\n$3\r\na b\r\n"
		  "*2\r\n$3\r\nget\r\n$3\r\na'b\r\n");
	says(up, "$1\r\nx\r\n$-1\r\n");
	hears(c, "$1\r\nx\r\n$-1\r\n");
}

static void
holds_its_own_answer_until_those_before_it_have_come(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, GET_K "PING\r\n" GET_K "GET\r\nPING x\r\n");
	up = upstream(0, AUTH PING);
	hears(up, GET_K GET_K);
	hears_nothing(c);
	says(up, "$1\r\n1\r\n");
	hears(c, "$1\r\n1\r\n+PONG\r\n");
	hears_nothing(c);
	says(up, "$1\r\n2\r\n");
	hears(c, "$1\r\n2\r\n-ERR wrong number of arguments for 'get' command"
		 "\r\n$1\r\nx\r\n");
}

static void
keeps_order_when_several_replies_come_in_one_piece(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, GET_K "PING a\r\n" GET_K GET_K "PING b\r\n" GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K GET_K GET_K GET_K);
	says(up, ":1\r\n:2\r\n:3\r\n:4\r\n");
	hears(c, ":1\r\n$1\r\na\r\n:2\r\n:3\r\n$1\r\nb\r\n:4\r\n");
}

static void
selects_another_database_when_nothing_is_outstanding(void **state)
{
	int c = client(0), up, up3;

	(void)state;
	says(c, GET_K "SELECT 3\r\n" GET_K "SELECT 0\r\n" GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	hears_nothing(up);
	says(up, ":0\r\n");
	up3 = upstream(1, AUTH "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n" PING);
	hears(up3, GET_K);
	hears_nothing(up);
	says(up3, ":3\r\n");
	hears(up, GET_K);
	says(up, ":0\r\n");
	hears(c, ":0\r\n+OK\r\n:3\r\n+OK\r\n:0\r\n");
}

static void
speaks_version_3_upstream_for_a_client_that_does(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, "HELLO 3\r\n" GET_K);
	hears(c, "%7\r\n$6\r\nserver\r\n");
	up = upstream(0, "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\n"
			 "default\r\n$6\r\nsecret\r\n" PING);
	hears(up, GET_K);
	says(up, ">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n_\r\n");
	for (char byte = 0; byte != '_';)
		if (recv(c, &byte, 1, 0) != 1)
			turns(1);
	hears(c, "\r\n");
	hears_nothing(c);
}

static void
says_goodbye_in_order_and_drops_what_follows(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, GET_K "QUIT\r\n" GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "+v\r\n");
	hears(c, "+v\r\n+OK\r\n");
	hears_the_end(c);
	hears_nothing(up);
}

static void
tells_a_protocol_error_behind_the_replies_before_it(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, GET_K "*1\r\n$x\r\n");
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	hears_nothing(c);
	says(up, "+v\r\n");
	hears(c, "+v\r\n-ERR Protocol error: invalid bulk length\r\n");
	hears_the_end(c);
}

static void
knows_the_passwords_it_may_compare(void **state)
{
	const char *wrong = "-WRONGPASS invalid username-password pair or user "
			    "is disabled.\r\n";
	int c = client(0);

	(void)state;
	says(c, "AUTH app wrong\r\nAUTH nobody right\r\nAUTH hashed " VERIFIER
		"\r\nAUTH app.other right\r\n");
	for (int i = 0; i < 3; i++)
		hears(c, wrong);
	hears(c, "-WRONGPASS weir: no such organization\r\n");
	says(c, "AUTH app right\r\nAUTH default any\r\nRESET\r\nPING\r\n");
	hears(c, "+OK\r\n+OK\r\n+RESET\r\n+PONG\r\n");
}

static void
uses_the_acl_user_of_the_organization(void **state)
{
	int c = client(0), up;

	(void)state;
	says(c, "AUTH acme p\r\n" GET_K);
	hears(c, "+OK\r\n");
	up =
	    upstream(0, "*3\r\n$4\r\nAUTH\r\n$4\r\nacme\r\n$3\r\nown\r\n" PING);
	hears(up, GET_K);
	says(up, "-NOPERM no\r\n");
	hears(c, "-NOPERM no\r\n");
}

static void
closes_on_http_without_a_byte_to_the_server(void **state)
{
	int c = client(0), other = client(1), up;

	(void)state;
	says(other, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(c, "POST / HTTP/1.1\r\nHost: x\r\n\r\n" GET_K);
	hears_the_end(c);
	hears_nothing(up);
	says(up, "+v\r\n");
	hears(other, "+v\r\n");
}

/* ---- several clients on one connection -------------------------------- */

static void
gives_each_client_its_own_replies_wherever_they_are_cut(void **state)
{
	static const char replies[] =
	    "$3\r\na\r\n\r\n*2\r\n:1\r\n*1\r\n$-1\r\n-ERR c\r\n+d\r\n";
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "+\r\n");
	hears(a, "+\r\n");
	for (size_t cut = 0; cut < sizeof(replies); cut++) {
		char first[sizeof(replies)] = { 0 };

		memcpy(first, replies, cut);
		says(a, GET_K);
		says(b, GET_K);
		says(a, GET_K "PING\r\n");
		says(b, GET_K);
		hears(up, GET_K GET_K GET_K GET_K);
		says(up, first);
		says(up, replies + cut);
		hears(a, "$3\r\na\r\n\r\n-ERR c\r\n+PONG\r\n");
		hears(b, "*2\r\n:1\r\n*1\r\n$-1\r\n+d\r\n");
	}
}

static void
swallows_the_replies_of_a_client_that_left(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, GET_K GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K GET_K);
	says(b, GET_K);
	hears(up, GET_K);
	says(up, "$10\r\nhalf");
	close(a);
	rig.client[0] = -1;
	turns(5);
	says(up, "-other\r\n:2\r\n:3\r\n");
	hears(b, ":3\r\n");
}

static void
answers_a_client_that_only_closed_its_own_side(void **state)
{
	int a = client(0), up;

	(void)state;
	says(a, GET_K "PING\r\n");
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	assert_return_code(shutdown(a, SHUT_WR), 0);
	turns(5);
	says(up, "+v\r\n");
	hears(a, "+v\r\n+PONG\r\n");
	hears_the_end(a);
}

static void
fails_each_command_once_when_the_connection_is_lost(void **state)
{
	const char *lost = "-ERR weir: upstream connection lost\r\n";
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, GET_K "PING\r\n" GET_K);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	hears(up, GET_K GET_K GET_K);
	says(up, ":1\r\n");
	close(up);
	rig.up[0] = -1;
	hears(a, ":1\r\n+PONG\r\n");
	hears(a, lost);
	hears(b, lost);
	says(b, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(b, ":2\r\n");
	hears_nothing(a);
}

static void
closes_the_client_whose_reply_was_torn_and_no_other(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, GET_K GET_K);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	hears(up, GET_K GET_K GET_K);
	says(up, "$10\r\n12345");
	close(up);
	rig.up[0] = -1;
	hears(a, "$10\r\n12345");
	hears_the_end(a);
	hears(b, "-ERR weir: upstream connection lost\r\n");
}

static void
closes_a_server_that_answers_what_nobody_asked(void **state)
{
	int a = client(0), up;

	(void)state;
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "+v\r\n+w\r\n");
	hears(a, "+v\r\n");
	hears_the_end(up);
	hears_nothing(a);
}

static void
tells_why_there_is_no_connection_and_goes_on(void **state)
{
	int a = client(0), up;

	(void)state;
	says(a, GET_K "PING\r\n");
	up = upstream(0, NULL);
	hears(up, AUTH PING);
	says(up, "-WRONGPASS wrong\r\n-NOAUTH no\r\n");
	hears(a, "-ERR weir: upstream is unreachable: WRONGPASS wrong\r\n"
		 "+PONG\r\n");
	hears_the_end(up);
	later(400);
	says(a, GET_K);
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
}

/* ---- bounds ----------------------------------------------------------- */

/* 64 KiB of the value of a bulk of `left` bytes. */
static size_t
pour(int up, size_t left)
{
	static char much[1 << 16];
	ssize_t n =
	    send(up, much, left < sizeof(much) ? left : sizeof(much), 0);

	turn();
	return n > 0 ? (size_t)n : 0;
}

static void
a_client_that_does_not_read_stops_the_server_for_a_second(void **state)
{
	const size_t size = 64 << 20;
	int a = client(0), b = client(1), up;
	size_t sent = 0;

	(void)state;
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	hears(up, GET_K GET_K);
	says(up, "$67108864\r\n");
	/* Until weir reads no more, and the sockets between are full. */
	for (int idle = 0; idle < 200;) {
		size_t n = pour(up, size - sent);

		sent += n;
		idle = n > 0 ? 0 : idle + 1;
	}
	assert_true(sent < size && sent > REDIS_SLOW_MAX);
	later(1500);
	/* It is gone: the rest is swallowed, and the other is served. */
	for (int i = 0; sent < size && i < PATIENCE; i++)
		sent += pour(up, size - sent);
	assert_int_equal(sent, size);
	says(up, "\r\n+next\r\n");
	hears(b, "+next\r\n");
}

static void
a_value_of_any_size_reaches_a_client_that_reads(void **state)
{
	const size_t size = 64 << 20;
	static char sink[1 << 16];
	int a = client(0), up;
	size_t sent = 0, got = 0;

	(void)state;
	says(a, GET_K "PING\r\n");
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "$67108864\r\n");
	hears(a, "$67108864\r\n");
	for (int i = 0; got < size && i < PATIENCE; i++) {
		size_t want =
		    size - got < sizeof(sink) ? size - got : sizeof(sink);
		ssize_t n;

		if (sent < size)
			sent += pour(up, size - sent);
		else
			turn();
		/* Slower than the server for the first half. */
		n = i % 2 || got > size / 2 ? recv(a, sink, want, 0) : 0;
		got += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(got, size);
	says(up, "\r\n");
	hears(a, "\r\n+PONG\r\n");
}

static void
large_replies_narrow_what_may_be_outstanding(void **state)
{
	char request[32 * sizeof(GET_K)] = "";
	static char sink[1 << 16];
	int a = client(0), up;
	size_t size = 4 << 20, sent = 0, got = 0;

	(void)state;
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "$4194304\r\n");
	while (sent < size || got < size + 12) {
		ssize_t n = recv(a, sink, sizeof(sink), 0);

		got += n > 0 ? (size_t)n : 0;
		if (sent < size)
			sent += pour(up, size - sent);
		else
			turn();
		if (sent == size) {
			says(up, "\r\n");
			sent++;
		}
		if (got == size + 13)
			break;
	}
	for (int i = 0; i < 20; i++)
		strcat(request, GET_K);
	says(a, request);
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		hears(up, GET_K);
	hears_nothing(up);
	for (int i = 0; i < 20 - REDIS_SHARE_MIN; i++) {
		says(up, ":1\r\n");
		hears(a, ":1\r\n");
	}
	for (int i = 0; i < 20 - REDIS_SHARE_MIN; i++)
		hears(up, GET_K);
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		says(up, ":1\r\n");
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		hears(a, ":1\r\n");
}

static void
two_pools_take_turns_on_one_place(void **state)
{
	int a = client(0), b = client(1), c = client(2), up[2], third;

	(void)state;
	says(a, GET_K);
	up[0] = upstream(0, AUTH PING);
	says(b, "SELECT 1\r\n" GET_K);
	hears(b, "+OK\r\n");
	up[1] = upstream(1, AUTH "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n" PING);
	hears(up[0], GET_K);
	hears(up[1], GET_K);
	/* Both places are taken and at work; a third pool wants one. */
	says(c, "SELECT 2\r\n" GET_K);
	hears(c, "+OK\r\n");
	later(200);
	says(a, GET_K);
	hears_nothing(up[0]);
	says(up[0], ":1\r\n");
	hears_the_end(up[0]);
	hears(a, ":1\r\n");
	third = upstream(2, AUTH "*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n" PING);
	hears(third, GET_K);
	says(third, ":2\r\n");
	hears(c, ":2\r\n");
	/* And the first gets its place back from one of the others. */
	later(200);
	says(up[1], ":1\r\n");
	up[0] = upstream(3, AUTH PING);
	hears(up[0], GET_K);
	says(up[0], ":1\r\n");
	hears(a, ":1\r\n");
}

static void
a_reload_moves_clients_when_their_replies_have_come(void **state)
{
	int a = client(0), up, old = rig.listener;
	struct snapshot *moved;

	(void)state;
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	rig.listener = listening();
	moved = configured(port_of(rig.listener));
	pools_reload(&rig.w->pools, moved);
	says(a, GET_K);
	hears_nothing(up);
	says(up, ":1\r\n");
	hears(a, ":1\r\n");
	hears_the_end(up);
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(a, ":2\r\n");
	snapshot_unref(&moved);
	close(old);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(forwards_what_an_inline_request_means_in_canonical_form),
		T(holds_its_own_answer_until_those_before_it_have_come),
		T(keeps_order_when_several_replies_come_in_one_piece),
		T(selects_another_database_when_nothing_is_outstanding),
		T(speaks_version_3_upstream_for_a_client_that_does),
		T(says_goodbye_in_order_and_drops_what_follows),
		T(tells_a_protocol_error_behind_the_replies_before_it),
		T(knows_the_passwords_it_may_compare),
		T(uses_the_acl_user_of_the_organization),
		T(closes_on_http_without_a_byte_to_the_server),
		T(gives_each_client_its_own_replies_wherever_they_are_cut),
		T(swallows_the_replies_of_a_client_that_left),
		T(answers_a_client_that_only_closed_its_own_side),
		T(fails_each_command_once_when_the_connection_is_lost),
		T(closes_the_client_whose_reply_was_torn_and_no_other),
		T(closes_a_server_that_answers_what_nobody_asked),
		T(tells_why_there_is_no_connection_and_goes_on),
		T(a_client_that_does_not_read_stops_the_server_for_a_second),
		T(a_value_of_any_size_reaches_a_client_that_reads),
		T(large_replies_narrow_what_may_be_outstanding),
		T(two_pools_take_turns_on_one_place),
		T(a_reload_moves_clients_when_their_replies_have_come),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/redis_rig.h"

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

#define HELLO_3                                                \
	"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\n" \
	"default\r\n$6\r\nsecret\r\n"
#define SERVER "$6\r\nserver\r\n$6\r\nvalkey\r\n"
#define ROLE   "$4\r\nrole\r\n$7\r\nreplica\r\n"

/* HELLO tells of the upstream what is known of it by then. */
static void
says_of_the_upstream_what_that_has_said_of_itself(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, "HELLO 3\r\n");
	hears(a, "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n"
		 "$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n");
	says(a, GET_K);
	up = upstream(0, NULL);
	hears(up, HELLO_3 PING);
	says(up, "%6\r\n" SERVER ROLE "$7\r\nversion\r\n$5\r\n8.0.1\r\n"
		 "$4\r\nmode\r\n$40\r\n0123456789012345678901234567890123456"
		 "789\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*1\r\n"
		 "*-1\r\n+PONG\r\n");
	hears(up, GET_K);
	says(b, "HELLO 2\r\n");
	hears(b, "*14\r\n" SERVER "$7\r\nversion\r\n$5\r\n8.0.1\r\n"
		 "$5\r\nproto\r\n:2\r\n$2\r\nid\r\n");
	while (recv(b, (char[1]){ 0 }, 1, 0) == 1)
		;
	says(b, "HELLO 3\r\n");
	hears(b, "%7\r\n" SERVER);
}

static void
takes_nothing_from_a_hello_that_is_none(void **state)
{
	static const char *const hello[] = {
		"%1\r\n$4\r\nrole\r\n$7\r\nrepl\r\nx\r\n",
		"%1\r\n$4\r\nrole\r\n$7\r\n",
		"%1\r\n$4\r\nrole\r\n",
		"%1\r\n*1\r\n$4\r\nrole\r\n$7\r\nreplica\r\n",
		"%1\r\n$4\r\nrole\r\n$-1\r\n",
		"%1\r\n$4\r\nrole\r\n$0\r\n\r\n",
		"%1\r\n$4\r\nrole\r\n+replica\r\n",
		"*2\r\n$4\r\nrole\r\n$7\r\nreplica\r\n",
		"%1\r\n",
		"%1",
		"",
	};
	const struct conf_redis *up = rig.weir.snapshot->conf->redis;
	struct redis_facts_of of;

	(void)state;
	for (size_t i = 0; i < sizeof(hello) / sizeof(hello[0]); i++) {
		redis_facts_learn(&rig.weir.facts, up, slice_str(hello[i]));
		redis_facts_about(&rig.weir.facts, up, &of);
		assert_string_equal(of.role, "");
	}
	redis_facts_learn(&rig.weir.facts, up, slice_str("%2\r\n" ROLE SERVER));
	redis_facts_about(&rig.weir.facts, up, &of);
	assert_string_equal(of.role, "replica");
	assert_string_equal(of.server, "valkey");
	assert_string_equal(of.version, "");
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

/* What a client has said fills its buffer, so its end is not noticed; then a
 * server takes its commands, and both are found gone in the last write. */
static void
a_client_that_has_gone_is_told_of_a_server_that_has_in_one_turn(void **state)
{
	const struct linger reset = { .l_onoff = 1 };
	static char all[80 << 10];
	int a = client(0), up;
	ssize_t n;

	(void)state;
	for (size_t at = 0; at + sizeof(GET_K) < sizeof(all);
	     at += sizeof(GET_K) - 1)
		memcpy(all + at, GET_K, sizeof(GET_K));
	for (size_t at = 0, len = strlen(all); at < len; turns(3)) {
		if ((n = send(a, all + at, len - at, 0)) < 0)
			break;
		at += (size_t)n;
	}
	up = upstream(0, NULL);
	hears(up, AUTH PING);
	close(a);
	rig.client[0] = -1;
	turns(3);
	assert_int_equal(rig.w->sessions_n, 1);
	assert_int_equal(send(up, "+OK\r\n+PONG\r\n", 12, 0), 12);
	turn_begins();
	assert_return_code(
	    setsockopt(up, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
	close(up);
	rig.up[0] = -1;
	turn_ends();
	assert_int_equal(rig.w->sessions_n, 0);
	turns(2);
	assert_null(rig.w->dead);
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
	int a = client(0), b = client(1), up;
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
	says(b, request);
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		hears(up, GET_K);
	hears_nothing(up);
	for (int i = 0; i < 20 - REDIS_SHARE_MIN; i++) {
		says(up, ":1\r\n");
		hears(b, ":1\r\n");
	}
	for (int i = 0; i < 20 - REDIS_SHARE_MIN; i++)
		hears(up, GET_K);
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		says(up, ":1\r\n");
	for (int i = 0; i < REDIS_SHARE_MIN; i++)
		hears(b, ":1\r\n");
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

/* ---- what is heavy ------------------------------------------------------ */

#define SMEMBERS_K "*2\r\n$8\r\nSMEMBERS\r\n$1\r\nk\r\n"

static void
sends_what_is_heavy_over_a_connection_apart(void **state)
{
	int quick = client(0), heavy = client(1), up, apart;

	(void)state;
	says(quick, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(heavy, SMEMBERS_K);
	apart = upstream(1, AUTH PING);
	hears(apart, SMEMBERS_K);
	hears_nothing(up);
	/* It takes its time, and nobody else's. */
	says(up, ":1\r\n");
	hears(quick, ":1\r\n");
	says(quick, GET_K);
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(quick, ":2\r\n");
	says(apart, "*0\r\n");
	hears(heavy, "*0\r\n");
	/* And its next one is quick. */
	says(heavy, GET_K);
	hears(up, GET_K);
	says(up, ":3\r\n");
	hears(heavy, ":3\r\n");
}

static void
keeps_a_clients_order_where_it_changes_connections(void **state)
{
	int c = client(0), up, apart;

	(void)state;
	says(c, GET_K SMEMBERS_K GET_K "PING\r\n" SMEMBERS_K GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	hears_nothing(up);
	says(up, ":1\r\n");
	apart = upstream(1, AUTH PING);
	hears(apart, SMEMBERS_K GET_K SMEMBERS_K GET_K);
	hears_nothing(up);
	says(apart, "*0\r\n:2\r\n*0\r\n:3\r\n");
	hears(c, ":1\r\n*0\r\n:2\r\n+PONG\r\n*0\r\n:3\r\n");
	says(c, GET_K);
	hears(up, GET_K);
	says(up, ":4\r\n");
	hears(c, ":4\r\n");
}

static void
sends_a_transaction_in_one_piece_where_the_heaviest_of_it_goes(void **state)
{
	const char *ask =
	    "*1\r\n$5\r\nMULTI\r\n" GET_K SMEMBERS_K "*1\r\n$4\r\nEXEC\r\n";
	int c = client(0), up, apart;

	(void)state;
	says(c, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(c, ":1\r\n");
	says(c, ask);
	apart = upstream(1, AUTH PING);
	hears(apart, ask);
	says(apart, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n*0\r\n");
	hears(c, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n*0\r\n");
	hears_nothing(up);
}

static void
sends_what_is_heavy_along_where_there_is_no_second(void **state)
{
	int c = client(0), other = client(1), up;

	(void)state;
	says(other, "HELLO 3\r\n");
	hears(other, "%7\r\n");
	says(other, GET_K); /* the other of two connections */
	upstream(1, "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\n"
		    "default\r\n$6\r\nsecret\r\n" PING);
	says(c, GET_K SMEMBERS_K GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K SMEMBERS_K GET_K);
	says(up, ":1\r\n*0\r\n:2\r\n");
	hears(c, ":1\r\n*0\r\n:2\r\n");
}

static void
waits_no_longer_for_a_second_that_is_refused(void **state)
{
	int c = client(0), up, apart;

	(void)state;
	says(c, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(c, ":1\r\n");
	says(c, SMEMBERS_K);
	apart = upstream(1, NULL);
	hears(apart, AUTH PING);
	hears_nothing(up);
	says(apart, "-ERR max number of clients reached\r\n");
	hears(up, SMEMBERS_K);
	says(c, SMEMBERS_K);
	hears(up, SMEMBERS_K);
	says(up, "*0\r\n*0\r\n");
	hears(c, "*0\r\n*0\r\n");
}

static void
loses_what_went_over_one_and_nothing_else(void **state)
{
	int quick = client(0), heavy = client(1), up, apart;

	(void)state;
	says(quick, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(heavy, SMEMBERS_K);
	apart = upstream(1, AUTH PING);
	hears(apart, SMEMBERS_K);
	/* The one that is left is for all, while there is no other. */
	close(up);
	hears(quick, "-ERR weir: upstream connection lost\r\n");
	says(quick, GET_K);
	hears(apart, GET_K);
	says(apart, "*0\r\n:1\r\n");
	hears(heavy, "*0\r\n");
	hears(quick, ":1\r\n");
	rig.up[0] = -1;
}

enum { HUGE = 200000 };

static void
sends_the_next_of_who_hears_huge_replies_apart(void **state)
{
	static char text[HUGE + 1];
	int c = client(0), up, apart;

	(void)state;
	memset(text, 'x', HUGE);
	says(c, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "$200000\r\n");
	says(up, text);
	says(up, "\r\n");
	hears(c, "$200000\r\n");
	for (size_t left = HUGE; left > 0; left -= 50000)
		hears_bytes(c, text, 50000);
	hears(c, "\r\n");
	says(c, GET_K);
	apart = upstream(1, AUTH PING);
	for (int i = 0; i < REDIS_HUGE_FOR; i++) {
		hears(apart, GET_K);
		says(apart, ":1\r\n");
		hears(c, ":1\r\n");
		says(c, GET_K);
	}
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(c, ":2\r\n");
}

/* ---- what is not answered ----------------------------------------------- */

static void
waits_for(unsigned ms)
{
	rig.weir.snapshot->conf->redis[0].command_timeout_ms = ms;
}

#define OVERDUE "-ERR weir: command_timeout\r\n"

static void
tells_who_waits_too_long_and_drops_what_comes_late(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	waits_for(100);
	says(a, GET_K "PING\r\n" GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K GET_K);
	hears(a, OVERDUE "+PONG\r\n" OVERDUE);
	waits_for(0);
	says(b, GET_K);
	says(a, GET_K GET_K);
	hears(up, GET_K GET_K GET_K);
	says(up, ":1\r\n:2\r\n:3\r\n");
	hears(b, ":3\r\n");
	hears_nothing(a);
	says(up, ":4\r\n:5\r\n");
	hears(a, ":4\r\n:5\r\n");
	hears_nothing(b);
}

static void
closes_who_has_heard_a_part_of_a_reply_that_stops(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	waits_for(100);
	says(a, GET_K);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	says(up, "$10\r\n12345");
	hears(a, "$10\r\n12345");
	hears_the_end(a);
	waits_for(0);
	says(b, GET_K);
	hears(up, GET_K);
	says(up, "67890\r\n:1\r\n");
	hears(b, ":1\r\n");
}

/* That is told when all of it is here; then it would be two replies. */
static void
closes_who_waits_for_the_rest_of_a_count_of_subscribers(void **state)
{
	int a = client(0), up;

	(void)state;
	waits_for(100);
	says(a, "PUBSUB NUMSUB c\r\n");
	up = upstream(0, AUTH PING);
	hears(up, "*3\r\n$6\r\nPUBSUB\r\n$6\r\nNUMSUB\r\n$1\r\nc\r\n");
	says(up, "*2\r\n");
	hears_the_end(a);
}

static void
closes_who_is_not_answered_on_a_connection_of_its_own(void **state)
{
	int a = client(0), up;

	(void)state;
	waits_for(100);
	says(a, "MULTI\r\n");
	up = upstream(0, AUTH CLIENT_ID PING);
	hears(up, "*1\r\n$5\r\nMULTI\r\n");
	hears_the_end(a);
	hears_the_end(up);
}

static void
lets_who_has_asked_to_wait_do_so(void **state)
{
	const char *ask = "*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$1\r\n0\r\n";
	int a = client(0), up;

	(void)state;
	waits_for(50);
	says(a, ask);
	up = upstream(0, AUTH CLIENT_ID PING);
	hears(up, ask);
	later(300);
	hears_nothing(a);
	says(up, "*-1\r\n");
	hears(a, "*-1\r\n");
}

/* ---- the end ------------------------------------------------------------ */

static struct session *neighbour;

static void
takes_its_neighbour_along(struct session *s)
{
	struct session *other = neighbour;

	neighbour = NULL;
	if (other != NULL)
		session_close(other, WHY_EOF, NULL, NULL);
	redis_proto.part(s);
}

static void
who_ends_with_another_hides_nobody_behind_it_when_all_are_to_end(void **state)
{
	static struct proto proto;
	int fd[3];

	(void)state;
	proto = redis_proto;
	for (int i = 0; i < 3; i++)
		fd[i] = client(i);
	proto.part = takes_its_neighbour_along;
	for (struct session *s = rig.w->sessions; s != NULL; s = s->next)
		s->proto = &proto;
	neighbour = rig.w->sessions->next;
	sessions_drain(rig.w);
	assert_null(neighbour);
	for (int i = 0; i < 3; i++)
		hears_the_end(fd[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(forwards_what_an_inline_request_means_in_canonical_form),
		T(holds_its_own_answer_until_those_before_it_have_come),
		T(keeps_order_when_several_replies_come_in_one_piece),
		T(selects_another_database_when_nothing_is_outstanding),
		T(speaks_version_3_upstream_for_a_client_that_does),
		T(says_of_the_upstream_what_that_has_said_of_itself),
		T(takes_nothing_from_a_hello_that_is_none),
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
		T(a_client_that_has_gone_is_told_of_a_server_that_has_in_one_turn),
		T(a_client_that_does_not_read_stops_the_server_for_a_second),
		T(a_value_of_any_size_reaches_a_client_that_reads),
		T(large_replies_narrow_what_may_be_outstanding),
		T(two_pools_take_turns_on_one_place),
		T(a_reload_moves_clients_when_their_replies_have_come),
		T(sends_what_is_heavy_over_a_connection_apart),
		T(keeps_a_clients_order_where_it_changes_connections),
		T(sends_a_transaction_in_one_piece_where_the_heaviest_of_it_goes),
		T(sends_what_is_heavy_along_where_there_is_no_second),
		T(waits_no_longer_for_a_second_that_is_refused),
		T(loses_what_went_over_one_and_nothing_else),
		T(sends_the_next_of_who_hears_huge_replies_apart),
		T(tells_who_waits_too_long_and_drops_what_comes_late),
		T(closes_who_has_heard_a_part_of_a_reply_that_stops),
		T(closes_who_waits_for_the_rest_of_a_count_of_subscribers),
		T(closes_who_is_not_answered_on_a_connection_of_its_own),
		T(lets_who_has_asked_to_wait_do_so),
		T(who_ends_with_another_hides_nobody_behind_it_when_all_are_to_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

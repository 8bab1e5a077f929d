#include "tests/redis_rig.h"

#define MULTI   "*1\r\n$5\r\nMULTI\r\n"
#define EXEC    "*1\r\n$4\r\nEXEC\r\n"
#define WATCH   "*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n"
#define BLPOP   "*3\r\n$5\r\nBLPOP\r\n$1\r\nl\r\n$1\r\n0\r\n"
#define SPOIL   "*1\r\n$3\r\nGET\r\n"
#define RESET   "*1\r\n$5\r\nRESET\r\n"
#define AT_HOME "+OK\r\n:70\r\n+PONG\r\n" /* to AUTH, CLIENT ID and PING */

/* ---- in one piece ------------------------------------------------------- */

static void
a_transaction_that_came_whole_goes_over_the_shared_connection(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, GET_K MULTI GET_K EXEC GET_K);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	hears(up, GET_K MULTI GET_K EXEC GET_K GET_K);
	says(up, ":1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n:3\r\n:4\r\n");
	hears(a, ":1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n:3\r\n");
	hears(b, ":4\r\n");
}

/* Three commands are in each, so far as the server is concerned. */
static void
a_transaction_that_is_not_plain_gets_a_connection_of_its_own(void **state)
{
	static const char *const inside[][2] = {
		{ "*1\r\n$4\r\nPING\r\n", "*1\r\n$4\r\nPING\r\n" },
		{ "*1\r\n$3\r\nSET\r\n", SPOIL },
		{ "SYNC\r\n", SPOIL },
		{ BLPOP, BLPOP },
	};
	int a = client(0), own = -1;

	(void)state;
	for (size_t i = 0; i < sizeof(inside) / sizeof(inside[0]); i++) {
		char all[256], got[64];

		snprintf(all, sizeof(all), MULTI "%s" EXEC, inside[i][0]);
		says(a, all);
		if (own < 0)
			own = upstream(0, AUTH CLIENT_ID PING);
		hears(own, MULTI);
		hears(own, inside[i][1]);
		hears(own, EXEC);
		says(own, "+OK\r\n+QUEUED\r\n*0\r\n");
		hears(a, "+OK\r\n");
		turns(5);
		assert_true(recv(a, got, sizeof(got), 0) > 4);
	}
}

static void
a_shared_connection_whose_exec_was_refused_is_closed(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, MULTI GET_K EXEC);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	hears(up, MULTI GET_K EXEC GET_K);
	says(up, "+OK\r\n+QUEUED\r\n-NOPERM no\r\n+QUEUED\r\n");
	hears(a, "+OK\r\n+QUEUED\r\n-NOPERM no\r\n");
	hears(b, "-ERR weir: upstream connection lost\r\n");
	hears_the_end(up);
}

static void
a_shared_connection_goes_on_after_an_aborted_exec(void **state)
{
	int a = client(0), b = client(1), up;

	(void)state;
	says(a, MULTI GET_K EXEC);
	up = upstream(0, AUTH PING);
	says(b, GET_K);
	says(up, "+OK\r\n-OOM no\r\n-EXECABORT x\r\n:4\r\n");
	hears(a, "+OK\r\n-OOM no\r\n-EXECABORT x\r\n");
	hears(b, ":4\r\n");
}

/* ---- one by one --------------------------------------------------------- */

static void
drains_the_shared_connection_before_it_takes_one_of_its_own(void **state)
{
	int a = client(0), up, own;

	(void)state;
	says(a, GET_K MULTI);
	up = upstream(0, AUTH PING);
	hears(up, GET_K);
	turns(50);
	assert_int_equal(accept(rig.listener, NULL, NULL), -1);
	says(up, ":1\r\n");
	own = upstream(1, AUTH CLIENT_ID PING);
	hears(own, MULTI);
	says(a, GET_K);
	says(own, "+OK\r\n");
	hears(own, GET_K);
	/* What follows the transaction waits for its end, and is shared. */
	says(a, EXEC GET_K);
	says(own, "+QUEUED\r\n");
	hears(own, EXEC);
	hears_nothing(up);
	says(own, "*1\r\n:2\r\n");
	hears(up, GET_K);
	says(up, ":3\r\n");
	hears(a, ":1\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n:3\r\n");
}

static void
a_clean_connection_goes_to_the_next_as_it_is(void **state)
{
	int a = client(0), b = client(1), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	says(b, BLPOP);
	hears_nothing(own);
	says(a, MULTI);
	says(a, EXEC);
	hears(own, MULTI EXEC);
	says(own, "+OK\r\n*0\r\n");
	hears(a, "+OK\r\n+OK\r\n*0\r\n");
	hears(own, BLPOP);
	says(own, "*-1\r\n");
	hears(b, "*-1\r\n");
}

static void
where_commands_are_sent_a_connection_is_ready_to_be_lent(void **state)
{
	int a, own;

	(void)state;
	rig.weir.snapshot->conf->redis[0].min_dedicated_connections = 1;
	a = client(0);
	turns(20);
	assert_int_equal(accept(rig.listener, NULL, NULL), -1);
	says(a, GET_K);
	hears(upstream(0, AUTH PING), GET_K);
	own = upstream(1, AUTH CLIENT_ID PING);
	says(rig.up[0], ":1\r\n");
	hears(a, ":1\r\n");
	says(a, BLPOP);
	hears(own, BLPOP);
	says(own, "*-1\r\n");
	hears(a, "*-1\r\n");
	/* One that is lost is replaced, as long as there are clients. */
	close(own);
	rig.up[1] = -1;
	own = upstream(2, AUTH CLIENT_ID PING);
	hears_nothing(own);
	close(a);
	rig.client[0] = -1;
	turns(20);
	close(own);
	rig.up[2] = -1;
	turns(20);
	assert_int_equal(accept(rig.listener, NULL, NULL), -1);
}

static void
several_who_wait_for_one_connection_have_it_in_turn(void **state)
{
	int a = client(0), b = client(1), c = client(2), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	says(b, BLPOP);
	says(c, BLPOP);
	says(a, "UNWATCH\r\n");
	hears(own, "*1\r\n$7\r\nUNWATCH\r\n");
	says(own, "+OK\r\n");
	hears(own, BLPOP);
	says(own, "*2\r\n:1\r\n:1\r\n");
	hears(b, "*2\r\n:1\r\n:1\r\n");
	hears(own, BLPOP);
	says(own, "*2\r\n:2\r\n:2\r\n");
	hears(c, "*2\r\n:2\r\n:2\r\n");
}

static void
a_connection_left_in_a_state_is_reset_and_logged_in_again(void **state)
{
	int a = client(0), b = client(1), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	hears(a, "+OK\r\n");
	says(b, BLPOP);
	close(a);
	rig.client[0] = -1;
	hears(own, RESET AUTH CLIENT_ID PING);
	hears_nothing(own);
	says(own, "+RESET\r\n" AT_HOME);
	hears(own, BLPOP);
	says(own, "*-1\r\n");
	hears(b, "*-1\r\n");
}

static void
a_connection_that_is_not_reset_is_closed(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	close(a);
	rig.client[0] = -1;
	hears(own, RESET AUTH CLIENT_ID PING);
	says(own, "-ERR unknown command\r\n" AT_HOME);
	hears_the_end(own);
}

static void
an_error_of_ours_makes_exec_fail_upstream(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, MULTI);
	own = upstream(0, AUTH CLIENT_ID PING);
	says(a, "SET\r\n");
	says(a, "PING a b\r\nSYNC\r\n" EXEC);
	hears(own, MULTI SPOIL);
	hears(own, "*3\r\n$4\r\nPING\r\n$1\r\na\r\n$1\r\nb\r\n" SPOIL EXEC);
	says(own, "+OK\r\n-ERR 1\r\n-ERR 2\r\n-ERR 3\r\n-EXECABORT x\r\n");
	hears(a, "+OK\r\n-ERR wrong number of arguments for 'set' command\r\n"
		 "-ERR 2\r\n"
		 "-ERR weir: sync is not supported inside MULTI\r\n"
		 "-EXECABORT x\r\n");
}

#define GETNAME  "*2\r\n$6\r\nCLIENT\r\n$7\r\nGETNAME\r\n"
#define SELECT_3 "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"

static void
what_is_ours_in_a_transaction_is_told_wherever_the_reply_is_cut(void **state)
{
	static const char reply[] = "*2\r\n+PONG\r\n*1\r\n$3\r\na\r\n\r\n";
	int a = client(0), own = -1;

	(void)state;
	for (size_t cut = 0; cut < sizeof(reply); cut++) {
		char first[sizeof(reply)] = { 0 };

		memcpy(first, reply, cut);
		says(a, MULTI GETNAME GET_K EXEC);
		if (own < 0)
			own = upstream(0, AUTH CLIENT_ID PING);
		hears(own, MULTI PING GET_K);
		says(own, "+OK\r\n+QUEUED\r\n");
		hears_nothing(own);
		says(own, "+QUEUED\r\n");
		hears(own, EXEC);
		says(own, first);
		says(own, reply + cut);
		hears(a, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$-1\r\n"
			 "*1\r\n$3\r\na\r\n\r\n");
	}
}

/* A node of a cluster would do it, and stay like that for the next. */
static void
how_a_node_is_to_be_read_is_not_asked_in_a_transaction_either(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, MULTI "READONLY\r\nASKING\r\n" EXEC);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, MULTI PING PING);
	says(own, "+OK\r\n+QUEUED\r\n+QUEUED\r\n");
	hears(own, EXEC);
	says(own, "*2\r\n+PONG\r\n+PONG\r\n");
	hears(a, "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n"
		 "-ERR This instance has cluster support disabled\r\n"
		 "-ERR This instance has cluster support disabled\r\n");
}

/* What it is told unasked may come before EXEC is answered, and in between. */
static void
an_invalidation_is_heard_while_exec_is_awaited(void **state)
{
	static const char push[] =
	    ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
	int a = client(0), own;

	(void)state;
	says(a, "CLIENT TRACKING ON\r\n");
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, "*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n");
	says(own, "+OK\r\n");
	says(a, MULTI GETNAME EXEC);
	hears(own, MULTI PING);
	says(own, "+OK\r\n+QUEUED\r\n");
	hears(own, EXEC);
	hears(a, "+OK\r\n+OK\r\n+QUEUED\r\n");
	says(own, push);
	hears(a, push);
	says(own, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n*1\r\n+PO");
	hears(a, push);
	says(own, "NG\r\n");
	hears(a, "*1\r\n$-1\r\n");
	says(own, push);
	hears(a, push);
}

#define HALF ">2\r\n$10\r\ninvalidate\r\n*1\r\n$60\r\nk"

/* It has asked this, and heard a part of a push. */
static int
hears_half_a_push(int a, const char *asks)
{
	int own;

	says(a, "CLIENT TRACKING ON\r\n");
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, "*3\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n");
	says(own, "+OK\r\n");
	says(a, asks);
	hears(own, asks);
	says(own, HALF);
	hears(a, "+OK\r\n" HALF);
	return own;
}

/* No word of ours is to pass for the rest of it. */
static void
who_has_heard_half_an_invalidation_is_told_nothing_of_a_loss(void **state)
{
	int a = client(0);

	(void)state;
	close(hears_half_a_push(a, GET_K GET_K));
	rig.up[0] = -1;
	hears_the_end(a);
}

static void
who_has_heard_half_an_invalidation_goes_without_a_word(void **state)
{
	int a = client(0);

	(void)state;
	hears_half_a_push(a, "");
	session_close(rig.w->sessions, WHY_TENANT_GONE, NULL, NULL);
	hears_the_end(a);
}

/* Each is answered here at once, and asked there as well. */
static void
who_changes_the_protocol_without_end_waits_for_the_server(void **state)
{
	static const char hello[] = "HELLO 3\r\nHELLO 2\r\n";
	int a = client(0), own;
	size_t size = sizeof(hello) - 1, n = 9000, sent = 0;
	char *all = malloc(size * n);
	char got[4096];

	(void)state;
	assert_non_null(all);
	for (size_t i = 0; i < n; i++)
		memcpy(all + i * size, hello, size);
	says(a, "CLIENT REPLY OFF\r\n" WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	for (int i = 0; sent < size * n && i < 2000; i++) {
		ssize_t k = send(a, all + sent, size * n - sent, 0);

		sent += k > 0 ? (size_t)k : 0;
		turns(1);
	}
	free(all);
	/* It has been asked for so much, and not for all of it. */
	for (size_t more = 0, k = 0; k < 200; k++, turns(1)) {
		ssize_t r = recv(own, got, sizeof(got), 0);

		more += r > 0 ? (size_t)r : 0;
		assert_true(more < (1 << 14) * 23);
	}
}

/* Whoever answers what it has not got yet is in no state we know. */
static void
a_connection_that_answers_half_a_request_is_used_no_more(void **state)
{
	static const char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n";
	enum { SIZE = 24 << 20 }; /* more than any socket takes */
	char *value = calloc(SIZE, 1), line[32];
	int a = client(0), up, few = 4096;

	(void)state;
	assert_non_null(value);
	assert_return_code(
	    setsockopt(rig.listener, SOL_SOCKET, SO_RCVBUF, &few, sizeof(few)),
	    0);
	for (int lent = 0; lent < 2; lent++) {
		says(a, lent ? WATCH : GET_K);
		up = upstream(lent, lent ? AUTH CLIENT_ID PING : AUTH PING);
		hears(up, lent ? WATCH : GET_K);
		says(up, "+OK\r\n");
		hears(a, "+OK\r\n");
		says(a, head);
		snprintf(line, sizeof(line), "$%d\r\n", SIZE);
		says(a, line);
		for (size_t sent = 0; sent < SIZE; turns(1)) {
			ssize_t n = send(a, value + sent, SIZE - sent, 0);

			sent += n > 0 ? (size_t)n : 0;
		}
		says(a, "\r\n");
		turns(10);
		says(up, "+OK\r\n");
		hears(a, "+OK\r\n");
		if (lent)
			hears_the_end(a);
		close(up);
		rig.up[lent] = -1;
	}
	free(value);
}

/* Whatever becomes of it, the connection is reset before the next has it. */
static void
a_database_selected_in_a_transaction_counts_once_exec_says_so(void **state)
{
	int a = client(0), up, own;

	(void)state;
	says(a, MULTI SELECT_3 EXEC GET_K);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, MULTI SELECT_3);
	says(own, "+OK\r\n+QUEUED\r\n");
	hears(own, EXEC);
	says(own, "*1\r\n-NOPERM x\r\n");
	hears(own, RESET AUTH CLIENT_ID PING);
	says(own, "+RESET\r\n" AT_HOME);
	hears(a, "+OK\r\n+QUEUED\r\n*1\r\n-NOPERM x\r\n");
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(a, ":1\r\n");

	says(a, MULTI SELECT_3 EXEC GET_K);
	hears(own, MULTI SELECT_3);
	says(own, "+OK\r\n+QUEUED\r\n");
	hears(own, EXEC);
	says(own, "*1\r\n+OK\r\n");
	hears(own, RESET AUTH CLIENT_ID PING);
	hears(a, "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
	up = upstream(2, AUTH SELECT_3 PING);
	hears(up, GET_K);
}

static void
an_exec_that_tells_of_another_number_closes_both(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, MULTI GETNAME EXEC);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, MULTI PING);
	says(own, "+OK\r\n+QUEUED\r\n");
	hears(own, EXEC);
	says(own, "*2\r\n+PONG\r\n+PONG\r\n");
	hears(a, "+OK\r\n+QUEUED\r\n-ERR upstream broke the protocol\r\n");
	hears_the_end(a);
	hears_the_end(own);
}

static void
who_leaves_before_a_transaction_is_told_leaves_nothing_behind(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, MULTI SELECT_3 EXEC);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, MULTI SELECT_3);
	says(own, "+OK\r\n+QUEUED\r\n");
	hears(own, EXEC);
	hears(a, "+OK\r\n+QUEUED\r\n");
	close(a);
	rig.client[0] = -1;
	turns(5);
	says(own, "*1\r\n+OK\r\n");
	hears(own, RESET AUTH CLIENT_ID PING);
}

static void
a_client_that_lost_what_it_held_is_told_once_each_and_closed(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, MULTI);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, MULTI);
	says(own, "+OK\r\n");
	says(a, GET_K);
	says(a, GET_K);
	hears(own, GET_K GET_K);
	close(own);
	rig.up[0] = -1;
	hears(a, "+OK\r\n-ERR weir: upstream connection lost\r\n"
		 "-ERR weir: upstream connection lost\r\n");
	hears_the_end(a);
}

static void
a_client_whose_exec_is_lost_holds_nothing_any_more(void **state)
{
	int a = client(0), up, own;

	(void)state;
	says(a, MULTI);
	own = upstream(0, AUTH CLIENT_ID PING);
	says(own, "+OK\r\n");
	says(a, EXEC GET_K);
	hears(own, MULTI EXEC);
	close(own);
	rig.up[0] = -1;
	hears(a, "+OK\r\n-ERR weir: upstream connection lost\r\n");
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(a, ":1\r\n");
}

static void
a_client_that_loses_a_watch_while_it_asks_nothing_is_closed(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	hears(a, "+OK\r\n");
	close(own);
	rig.up[0] = -1;
	hears_the_end(a);
}

/* Large replies leave it little room, and errors of ours take that. */
static void
who_waits_for_room_there_loses_it_in_the_middle_of_a_reply(void **state)
{
	char errors[512] = "";
	int a = client(0), own;

	(void)state;
	says(a, WATCH);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	hears(a, "+OK\r\n");
	for (int i = 0; i < 2; i++) {
		says(a, GET_K);
		hears(own, GET_K);
		says_much(own, a, 2 << 20);
	}
	for (int i = 0; i < 30; i++)
		strcat(errors, "GET\r\n");
	says(a, GET_K MULTI);
	says(a, errors);
	hears(own, GET_K MULTI SPOIL SPOIL);
	says(own, "$2\r\n");
	hears(a, "$2\r\n");
	close(own);
	rig.up[0] = -1;
	hears_the_end(a);
}

static void
without_a_connection_no_transaction_begins(void **state)
{
	int a = client(0), up;

	(void)state;
	says(a, MULTI GET_K);
	up = upstream(0, NULL);
	hears(up, AUTH CLIENT_ID PING);
	says(up, "-WRONGPASS wrong\r\n-NOAUTH no\r\n");
	hears(a, "-ERR weir: upstream is unreachable: WRONGPASS wrong\r\n");
	hears_the_end(a);
	turns(50);
	assert_int_equal(accept(rig.listener, NULL, NULL), -1);
}

/* ---- blocking ----------------------------------------------------------- */

static void
nothing_is_run_of_a_transaction_that_did_not_begin(void **state)
{
	int a = client(0), up;

	(void)state;
	says(a, MULTI GET_K EXEC);
	up = upstream(0, NULL);
	hears(up, AUTH PING);
	says(up, "-WRONGPASS wrong\r\n-NOAUTH no\r\n");
	hears(a, "-ERR weir: upstream is unreachable: WRONGPASS wrong\r\n"
		 "-ERR weir: not run, as its MULTI failed\r\n"
		 "-ERR weir: not run, as its MULTI failed\r\n");
	says(a, "PING\r\n");
	hears(a, "+PONG\r\n");
}

static void
who_is_blocked_holds_up_nobody_and_is_answered_in_order(void **state)
{
	int a = client(0), b = client(1), up, own;

	(void)state;
	says(a, "PING 1\r\n" BLPOP "PING 2\r\n" GET_K);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(b, GET_K);
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(b, ":1\r\n");
	hears_nothing(up);
	hears(a, "$1\r\n1\r\n");
	says(own, "*2\r\n$1\r\nl\r\n$1\r\nv\r\n");
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(a, "*2\r\n$1\r\nl\r\n$1\r\nv\r\n$1\r\n2\r\n:2\r\n");
}

static void
who_leaves_while_blocked_takes_the_connection_along(void **state)
{
	int a = client(0), b = client(1), own;

	(void)state;
	says(a, BLPOP);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(b, BLPOP);
	close(a);
	rig.client[0] = -1;
	hears_the_end(own);
	own = upstream(1, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(own, "*-1\r\n");
	hears(b, "*-1\r\n");
}

static void
who_only_closed_its_own_side_is_not_waited_for_while_blocked(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, BLPOP);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	assert_return_code(shutdown(a, SHUT_WR), 0);
	hears_the_end(own);
}

static void
a_blocked_one_whose_connection_is_lost_goes_on(void **state)
{
	int a = client(0), up, own;

	(void)state;
	says(a, BLPOP GET_K);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	close(own);
	rig.up[0] = -1;
	hears(a, "-ERR weir: upstream connection lost\r\n");
	up = upstream(1, AUTH PING);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(a, ":1\r\n");
}

/* What an UNBLOCK of this client begins with; it has sent nothing yet. */
static void
unblock_of(int fd, char *out, size_t size)
{
	char said[32] = "";
	ssize_t n = -1;

	says(fd, "CLIENT ID\r\n");
	for (int i = 0; n < 0 && i < PATIENCE; i++, turns(1))
		n = recv(fd, said, sizeof(said) - 1, 0);
	assert_true(n > 0 && said[0] == ':');
	snprintf(out, size, "CLIENT UNBLOCK %ld", strtol(said + 1, NULL, 10));
}

#define UNBLOCK_70 \
	"*4\r\n$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n$2\r\n70\r\n$5\r\nERROR\r\n"

static void
an_unblock_reaches_only_what_its_client_waits_for_now(void **state)
{
	int a = client(0), b = client(1), own, up;
	char unblock[64];

	(void)state;
	unblock_of(a, unblock, sizeof(unblock));
	says(b, unblock);
	says(b, "\r\n");
	hears(b, ":0\r\n");
	says(a, BLPOP);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(a, BLPOP);
	says(b, unblock);
	says(b, " ERROR\r\n");
	up = upstream(1, AUTH PING);
	hears(up, UNBLOCK_70);
	/* What it waits for comes first; the UNBLOCK is still under way. */
	says(own, "*2\r\n$1\r\nl\r\n$1\r\nv\r\n");
	hears(a, "*2\r\n$1\r\nl\r\n$1\r\nv\r\n");
	hears_the_end(own);
	own = upstream(2, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(up, ":0\r\n");
	hears(b, ":0\r\n");
	says(own, "*-1\r\n");
	hears(a, "*-1\r\n");
}

/* It may have begun anew meanwhile, and somebody else have that id. */
static void
an_unblock_counts_only_at_the_server_that_gave_the_id(void **state)
{
	int a = client(0), b = client(1), own, up;
	char unblock[64];

	(void)state;
	unblock_of(a, unblock, sizeof(unblock));
	says(a, BLPOP);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(b, unblock);
	says(b, "\r\n");
	up = upstream(1, NULL);
	hears(up, AUTH PING);
	close(own);
	rig.up[0] = -1;
	hears(a, "-ERR weir: upstream connection lost\r\n");
	says(up, "+OK\r\n+PONG\r\n");
	hears(b, ":0\r\n");
	hears_nothing(up);
}

static void
a_user_that_may_not_ask_for_its_id_blocks_all_the_same(void **state)
{
	int a = client(0), b = client(1), own;
	char unblock[64];

	(void)state;
	unblock_of(a, unblock, sizeof(unblock));
	says(a, BLPOP);
	own = upstream(0, NULL);
	hears(own, AUTH CLIENT_ID PING);
	says(own, "+OK\r\n-NOPERM no\r\n-NOPERM no\r\n");
	hears(own, BLPOP);
	says(b, unblock);
	says(b, "\r\n");
	hears(b, "-ERR weir: CLIENT UNBLOCK needs a user that may ask for "
		 "CLIENT ID upstream\r\n");
	says(own, "*-1\r\n");
	hears(a, "*-1\r\n");
	says(a, BLPOP);
	hears(own, BLPOP);
}

static void
a_reply_cut_anywhere_reaches_who_asked(void **state)
{
	static const char reply[] = "*2\r\n$1\r\nl\r\n$3\r\na\r\n\r\n";
	int a = client(0), own = -1;

	(void)state;
	for (size_t cut = 0; cut < sizeof(reply); cut++) {
		char first[sizeof(reply)] = { 0 };

		memcpy(first, reply, cut);
		says(a, BLPOP);
		if (own < 0)
			own = upstream(0, AUTH CLIENT_ID PING);
		hears(own, BLPOP);
		says(own, first);
		says(own, reply + cut);
		hears(a, reply);
	}
}

static void
an_idle_connection_that_speaks_is_closed(void **state)
{
	int a = client(0), own;

	(void)state;
	says(a, BLPOP);
	own = upstream(0, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	says(own, "*-1\r\n");
	hears(a, "*-1\r\n");
	says(own, "*-1\r\n");
	hears_the_end(own);
	says(a, BLPOP);
	own = upstream(1, AUTH CLIENT_ID PING);
	hears(own, BLPOP);
	hears_nothing(a);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_transaction_that_came_whole_goes_over_the_shared_connection),
		T(a_transaction_that_is_not_plain_gets_a_connection_of_its_own),
		T(a_shared_connection_whose_exec_was_refused_is_closed),
		T(a_shared_connection_goes_on_after_an_aborted_exec),
		T(drains_the_shared_connection_before_it_takes_one_of_its_own),
		T(a_clean_connection_goes_to_the_next_as_it_is),
		T(where_commands_are_sent_a_connection_is_ready_to_be_lent),
		T(several_who_wait_for_one_connection_have_it_in_turn),
		T(a_connection_left_in_a_state_is_reset_and_logged_in_again),
		T(a_connection_that_is_not_reset_is_closed),
		T(an_error_of_ours_makes_exec_fail_upstream),
		T(what_is_ours_in_a_transaction_is_told_wherever_the_reply_is_cut),
		T(how_a_node_is_to_be_read_is_not_asked_in_a_transaction_either),
		T(an_invalidation_is_heard_while_exec_is_awaited),
		T(who_has_heard_half_an_invalidation_is_told_nothing_of_a_loss),
		T(who_has_heard_half_an_invalidation_goes_without_a_word),
		T(who_changes_the_protocol_without_end_waits_for_the_server),
		T(a_connection_that_answers_half_a_request_is_used_no_more),
		T(a_database_selected_in_a_transaction_counts_once_exec_says_so),
		T(an_exec_that_tells_of_another_number_closes_both),
		T(who_leaves_before_a_transaction_is_told_leaves_nothing_behind),
		T(a_client_that_lost_what_it_held_is_told_once_each_and_closed),
		T(a_client_whose_exec_is_lost_holds_nothing_any_more),
		T(a_client_that_loses_a_watch_while_it_asks_nothing_is_closed),
		T(who_waits_for_room_there_loses_it_in_the_middle_of_a_reply),
		T(without_a_connection_no_transaction_begins),
		T(nothing_is_run_of_a_transaction_that_did_not_begin),
		T(who_is_blocked_holds_up_nobody_and_is_answered_in_order),
		T(who_leaves_while_blocked_takes_the_connection_along),
		T(who_only_closed_its_own_side_is_not_waited_for_while_blocked),
		T(a_blocked_one_whose_connection_is_lost_goes_on),
		T(an_unblock_reaches_only_what_its_client_waits_for_now),
		T(an_unblock_counts_only_at_the_server_that_gave_the_id),
		T(a_user_that_may_not_ask_for_its_id_blocks_all_the_same),
		T(a_reply_cut_anywhere_reaches_who_asked),
		T(an_idle_connection_that_speaks_is_closed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#define RIG_REDIS                                                      \
	"cluster=on\nconnections=8\ndedicated_connections=1\nprofile=" \
	"dedicated\n"
#include "tests/redis_rig.h"

#include "pool/redis_nodes.h"
#include "protocol/redis_slot.h"

#define MULTI   "*1\r\n$5\r\nMULTI\r\n"
#define EXEC    "*1\r\n$4\r\nEXEC\r\n"
#define WATCH   "*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n"
#define WATCH_L "*2\r\n$5\r\nWATCH\r\n$1\r\nl\r\n"
#define BLPOP   "*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$1\r\n0\r\n"
#define DBSIZE  "*1\r\n$6\r\nDBSIZE\r\n"
#define KEYS    "*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n"
#define NODES   "*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n"
#define LENT    AUTH CLIENT_ID PING

enum { ASKED = 3 }; /* the place of a connection that only asks for the nodes */

static int second; /* node, of the upper half of the slots */

static int
set_up_nodes(void **state)
{
	second = listening();
	return set_up(state);
}

static int
tear_down_nodes(void **state)
{
	close(second);
	return tear_down(state);
}

/* Somebody asks for the nodes, and hears of both, and of what is more. */
static void
tells_of_nodes(const char *more)
{
	char text[1024], reply[1200];
	int fd = upstream(ASKED, NULL);

	snprintf(text, sizeof(text),
		 "a 127.0.0.1:%u@1 myself,master - 0 0 1 connected 0-8191\n"
		 "%sb 127.0.0.1:%u@1 master - 0 0 1 connected 8192-16383\n",
		 port_of(rig.listener), more, port_of(second));
	snprintf(reply, sizeof(reply), "+OK\r\n$%zu\r\n%s\r\n", strlen(text),
		 text);
	hears(fd, AUTH NODES);
	says(fd, reply);
	hears_the_end(fd);
	close(fd);
	rig.up[ASKED] = -1;
}

static unsigned
slot_of(const char *key)
{
	return redis_slot(slice_str(key));
}

/* `k` is of the first node. */
static int
lent(int i, int a, const char *asks)
{
	int own;

	assert_true(slot_of("k") < 8192);
	says(a, asks);
	tells_of_nodes("");
	own = upstream(i, LENT);
	hears(own, asks);
	return own;
}

/* ---- the nodes ------------------------------------------------------------ */

static void
a_list_of_nodes_that_is_malformed_changes_nothing(void **state)
{
	int a = client(0), one, other;
	char moved[64];

	(void)state;
	says(a, DBSIZE);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	other = upstream_at(second, 1, AUTH PING);
	for (int i = 0; i < 2; i++) {
		hears(one, DBSIZE);
		hears(other, DBSIZE);
		says(one, ":1\r\n");
		says(other, ":2\r\n");
		hears(a, ":3\r\n");
		if (i > 0)
			break;
		/* It hears of a node that nobody knows, and asks for them. */
		says(a, GET_K);
		hears(one, GET_K);
		snprintf(moved, sizeof(moved), "-MOVED %u 127.0.0.1:1\r\n",
			 slot_of("k"));
		says(one, moved);
		tells_of_nodes("c 127.0.0.1:2@1 master - 0 0 1 connected x\n");
		hears(a, "-ERR weir: redirected to a node that is not "
			 "listed\r\n");
		says(a, DBSIZE);
	}
}

/* Whoever is asked for the nodes says this. */
static void
any_tells(const int node[3], const char *text)
{
	size_t size = strlen(text), at = 0;
	char head[64];
	int fd = -1;

	for (int k = 0; fd < 0 && k < PATIENCE; k++, turns(1))
		for (size_t i = 0; fd < 0 && i < 3; i++)
			fd = accept(node[i], NULL, NULL);
	assert_true(fd >= 0);
	nonblocking(fd);
	hears(fd, AUTH NODES);
	snprintf(head, sizeof(head), "+OK\r\n$%zu\r\n", size);
	says(fd, head);
	while (at < size) {
		ssize_t sent = send(fd, text + at, size - at, 0);

		at += sent > 0 ? (size_t)sent : 0;
		turns(1);
	}
	says(fd, "\r\n");
	hears_the_end(fd);
	close(fd);
}

/* Two masters, and replicas at `many` ports from there on. */
static void
tells_of(const int node[3], int upper, unsigned from, unsigned many)
{
	size_t size = 64 * (many + 4), at;
	char *text = malloc(size);

	assert_non_null(text);
	at = (size_t)snprintf(
	    text, size,
	    "a 127.0.0.1:%u@1 myself,master - 0 0 1 connected 0-8191\n",
	    port_of(rig.listener));
	for (unsigned i = 0; i < many; i++)
		at += (size_t)snprintf(
		    text + at, size - at,
		    "c 127.0.0.2:%u@1 slave a 0 0 1 connected\n", from + i);
	snprintf(text + at, size - at,
		 "b 127.0.0.1:%u@1 master - 0 0 1 connected 8192-16383\n",
		 port_of(upper));
	any_tells(node, text);
	free(text);
}

#define GET_A "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"

/* A node says that `k` is where nobody is, so all are asked who there is. */
static void
asks_anew(int a, int one)
{
	char moved[64];

	says(a, GET_K);
	hears(one, GET_K);
	snprintf(moved, sizeof(moved), "-MOVED %u 127.0.0.1:1\r\n",
		 slot_of("k"));
	says(one, moved);
}

static const char unlisted[] =
    "-ERR weir: redirected to a node that is not listed\r\n";

static int
is_asked_first(int listener, int i, int a, const char *asks)
{
	int up = upstream_at(listener, i, AUTH PING);

	hears(up, asks);
	says(up, ":1\r\n");
	hears(a, ":1\r\n");
	return up;
}

/* Many, and then as many others, and others again, as over the years. */
static void
nodes_that_have_gone_are_forgotten(void **state)
{
	int a = client(0), third = listening(), one;
	const int all[] = { rig.listener, second, third };

	(void)state;
	says(a, GET_K);
	tells_of(all, second, 1, REDIS_NODES_MAX / 2 - 2);
	one = is_asked_first(rig.listener, 0, a, GET_K);
	says(a, GET_A);
	is_asked_first(second, 1, a, GET_A);
	for (unsigned i = 1; i <= 2; i++) {
		asks_anew(a, one);
		tells_of(all, i < 2 ? second : third, 1 + 2000 * i,
			 REDIS_NODES_MAX / 2 - 2);
		hears(a, unlisted);
	}
	says(a, GET_A);
	is_asked_first(third, 2, a, GET_A);
	close(third);
}

static unsigned
users_at(int listener)
{
	unsigned users = 0;

	for (size_t i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = rig.w->pools.bucket[i]; p; p = p->chain)
			if (p->node_port == port_of(listener))
				users += p->users;
	return users;
}

/* What is outstanding there is answered; then nobody has to do with it. */
static void
who_has_asked_a_node_that_has_gone_is_done_with_it(void **state)
{
	int a = client(0), b = client(1), third = listening(), one, other;
	const int all[] = { rig.listener, second, third };

	(void)state;
	says(a, GET_A);
	tells_of(all, second, 1, 0);
	other = is_asked_first(second, 1, a, GET_A);
	says(b, GET_A);
	hears(other, GET_A);
	says(a, GET_K);
	one = is_asked_first(rig.listener, 0, a, GET_K);
	assert_int_equal(users_at(second), 2);

	asks_anew(a, one);
	tells_of(all, third, 1, 0);
	hears(a, unlisted);
	turns(3);
	assert_int_equal(users_at(second), 1);
	says(other, ":3\r\n");
	hears(b, ":3\r\n");
	turns(3);
	assert_int_equal(users_at(second), 0);

	says(a, GET_A);
	is_asked_first(third, 2, a, GET_A);
	close(third);
}

#define SUBSCRIBED "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
#define MESSAGE    "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\n1\r\n"

static void
is_told_of_channels(int listener, int i, int a)
{
	int up;

	says(a, "SUBSCRIBE c\r\n");
	up = upstream_at(listener, i, AUTH PING);
	hears(up, "*2\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n");
	says(up, SUBSCRIBED);
	hears(a, SUBSCRIBED);
	says(up, MESSAGE);
	hears(a, MESSAGE);
}

/* What is of no node is told by all of them. */
static void
who_subscribes_when_those_of_the_url_are_gone_is_told_by_another(void **state)
{
	int a = client(0), b = client(1), third = listening();
	const int all[] = { rig.listener, second, third };

	(void)state;
	is_told_of_channels(rig.listener, 0, a);
	tells_of(all, second, 1, 0);
	close(rig.up[0]);
	rig.up[0] = -1;
	hears_the_end(a);
	shutdown(rig.listener, SHUT_RDWR); /* whoever dials is refused */
	is_told_of_channels(second, 1, b);
	close(third);
}

/* ---- what is lent --------------------------------------------------------- */

static void
nothing_is_known_any_more_of_a_connection_that_was_lent_and_lost(void **state)
{
	int a = client(0), own = lent(0, a, BLPOP), up;

	(void)state;
	close(own);
	rig.up[0] = -1;
	hears(a, "-ERR weir: upstream connection lost\r\n");
	says(a, MULTI GET_K EXEC "PING\r\n");
	says(a, "PING\r\n");
	up = upstream(1, AUTH PING);
	hears(up, MULTI GET_K EXEC);
	says(up, "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
	hears(a, "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n+PONG\r\n+PONG\r\n");
}

static void
what_is_behind_a_connection_of_its_own_waits_for_it(void **state)
{
	int a = client(0), own = lent(0, a, BLPOP), up;

	(void)state;
	says(a, MULTI GET_K);
	says(a, EXEC);
	hears_nothing(a);
	says(own, "*-1\r\n");
	up = upstream(1, AUTH PING);
	hears(up, MULTI GET_K EXEC);
	says(up, "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
	hears(a, "*-1\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n");
}

static void
a_watch_that_was_refused_is_not_the_one_that_counts(void **state)
{
	int a = client(0), own = lent(0, a, WATCH);
	char said[128];

	(void)state;
	says(own, "+OK\r\n");
	says(a, WATCH_L);
	hears(own, WATCH_L);
	says(own, "-NOPERM no\r\n");
	hears(a, "+OK\r\n-NOPERM no\r\n");
	says(a, MULTI GET_K EXEC);
	hears(own, MULTI GET_K EXEC);
	snprintf(said, sizeof(said),
		 "+OK\r\n-MOVED %u 127.0.0.1:1\r\n-EXECABORT x\r\n",
		 slot_of("k"));
	says(own, said);
	hears(a, "+OK\r\n+QUEUED\r\n*-1\r\n");
}

/* `b` unblocks `a`, which waits on `*own`, over a connection that is not open yet. */
static int
unblocks(int a, int b, int *own)
{
	char ask[64] = "CLIENT UNBLOCK ", *id = ask + strlen(ask) - 1;
	ssize_t n = -1;
	int up;

	says(a, "CLIENT ID\r\n");
	for (int i = 0; n < 0 && i < PATIENCE; i++, turns(1))
		n = recv(a, id, 32, 0);
	assert_true(n > 1 && *id == ':');
	*id = ' ';
	*own = lent(0, a, BLPOP);
	says(b, ask);
	up = upstream(1, NULL);
	hears(up, AUTH PING);
	return up;
}

static void
an_unblock_counts_only_at_the_node_that_gave_the_id(void **state)
{
	int a = client(0), b = client(1), own, up = unblocks(a, b, &own);

	(void)state;
	/* It has begun anew, and somebody else may have that id. */
	close(own);
	rig.up[0] = -1;
	hears(a, "-ERR weir: upstream connection lost\r\n");
	says(up, "+OK\r\n+PONG\r\n");
	hears(b, ":0\r\n");
	hears_nothing(up);
	says(b, GET_K);
	hears(up, GET_K);
	says(up, ":1\r\n");
	hears(b, ":1\r\n");
}

static void
an_unblock_that_has_to_wait_for_a_connection_arrives(void **state)
{
	int a = client(0), b = client(1), own, up = unblocks(a, b, &own);

	(void)state;
	says(b, GET_K);
	says(up, "+OK\r\n+PONG\r\n");
	hears(up, "*3\r\n$6\r\nCLIENT\r\n$7\r\nUNBLOCK\r\n$2\r\n70\r\n");
	says(up, ":1\r\n");
	says(own, "*-1\r\n");
	hears(up, GET_K);
	says(up, ":2\r\n");
	hears(a, "*-1\r\n");
	hears(b, ":1\r\n:2\r\n");
}

/* The first n bytes, and then the others. */
static void
is_passed(int up, int a, const char *text, size_t n)
{
	assert_int_equal(send(up, text, n, 0), n);
	hears_bytes(a, text, n);
	says(up, text + n);
	hears(a, text + n);
}

/* Nobody says so much; but where its end is not seen it is not spoken for. */
static void
a_word_of_a_node_that_is_too_long_is_passed_as_it_comes(void **state)
{
	static const char thrown[] =
	    "-UNBLOCKED force unblock from blocking operation, instance state "
	    "changed";
	enum { LONG = 20000, FIRST = RESP_LINE_HELD };
	int a = client(0), own = lent(0, a, BLPOP);
	char *said = malloc(LONG + 128);

	(void)state;
	assert_non_null(said);
	memset(said, 'x', LONG);
	memcpy(said, thrown, sizeof(thrown) - 1);
	strcpy(said + LONG, "\r\n");
	is_passed(own, a, said, FIRST);

	says(a, WATCH);
	hears(own, WATCH);
	says(own, "+OK\r\n");
	says(a, MULTI GET_K EXEC);
	hears(own, MULTI GET_K EXEC);
	hears(a, "+OK\r\n+OK\r\n+QUEUED\r\n");
	memset(said, 'x', LONG);
	memcpy(said, "-EXECABORT ", 11);
	says(own, "+OK\r\n-ERR no\r\n");
	is_passed(own, a, said, FIRST);
	free(said);
}

#define C(name) \
	cmocka_unit_test_setup_teardown(name, set_up_nodes, tear_down_nodes)

/* The server owes nothing any more when a transaction is to come again, and
 * somebody else is next. */
static void
who_is_sent_back_to_a_server_that_others_wait_for_is_behind_them(void **state)
{
	int a = client(0), b = client(1), c = client(2), one;
	char all[2048] = MULTI, said[1024] = "+OK\r\n", moved[64];

	(void)state;
	says(c, GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	says_much(one, c, 2 << 20); /* and so it has little room */
	snprintf(moved, sizeof(moved), "-MOVED %u 127.0.0.1:%u\r\n",
		 slot_of("k"), port_of(rig.listener));
	for (int i = 0; i < 30; i++) {
		strcat(all, GET_K);
		strcat(said, i == 0 ? moved : "+QUEUED\r\n");
	}
	strcat(all, EXEC);
	strcat(said, "-EXECABORT because\r\n");
	says(a, all);
	hears(one, all);
	says(b, "*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
	hears_nothing(one);
	says(one, said);
	hears(one, "*2\r\n$3\r\nGET\r\n$1\r\nb\r\n");
	hears(one, all);
	says(one, "$1\r\nx\r\n");
	hears(b, "$1\r\nx\r\n");
	tells_of_nodes("");
}

/* Where MULTI is refused, what is behind it is run all the same. */
static void
a_transaction_that_was_none_is_not_sent_again(void **state)
{
	int a = client(0), one;
	char said[256];

	(void)state;
	says(a, MULTI GET_K GET_K EXEC);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, MULTI GET_K GET_K EXEC);
	snprintf(said, sizeof(said),
		 "-NOPERM no\r\n:1\r\n-MOVED %u 127.0.0.1:%u\r\n"
		 "-ERR EXEC without MULTI\r\n",
		 slot_of("k"), port_of(second));
	says(one, said);
	hears(a, said);
	hears_the_end(one);
}

/* ---- patience --------------------------------------------------------------- */

static struct redis_session *
session_of(void)
{
	return redis_session(rig.w->sessions);
}

/* No command of its own begins its time: it is sent there by a reply. */
static void
who_is_sent_where_nobody_answers_does_not_wait_for_ever(void **state)
{
	struct conf *c = rig.weir.snapshot->conf;
	uint64_t before = c->query_wait_timeout_ms;
	char said[64];
	int a = client(0), one;

	(void)state;
	says(a, GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	c->query_wait_timeout_ms = 50;
	snprintf(said, sizeof(said), "-ASK %u 127.0.0.1:%u\r\n", slot_of("k"),
		 port_of(second));
	says(one, said);
	hears(upstream_at(second, 1, NULL), AUTH PING);
	hears_the_end(a);
	c->query_wait_timeout_ms = before;
}

/* Neither has it waited there before, nor had the node that time. */
static void
who_is_sent_elsewhere_has_all_its_time_there(void **state)
{
	struct conf *c = rig.weir.snapshot->conf;
	uint64_t before = c->query_wait_timeout_ms;
	char said[64];
	int a = client(0), one, other;

	(void)state;
	says(a, GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	c->query_wait_timeout_ms = c->redis[0].command_timeout_ms = 60000;
	session_of()->since_ns = 1; /* long ago */
	snprintf(said, sizeof(said), "-ASK %u 127.0.0.1:%u\r\n", slot_of("k"),
		 port_of(second));
	says(one, said);
	other = upstream_at(second, 1, AUTH PING);
	hears(other, "*1\r\n$6\r\nASKING\r\n" GET_K);
	assert_int_equal(redis_proto.overdue(&session_of()->s), WHY_MAX);
	says(other, "+OK\r\n$1\r\nx\r\n");
	hears(a, "$1\r\nx\r\n");
	c->query_wait_timeout_ms = before;
	c->redis[0].command_timeout_ms = 0;
}

/* What waited for its connection is not the next to be answered. */
static void
who_has_all_its_connections_has_a_command_s_time(void **state)
{
	static const char get_a[] = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
	struct conf *c = rig.weir.snapshot->conf;
	uint64_t before = c->query_wait_timeout_ms, ends;
	int a = client(0), one, other;

	(void)state;
	assert_true(slot_of("a") >= 8192);
	c->query_wait_timeout_ms = 3600000;
	c->redis[0].command_timeout_ms = 60000;
	says(a, GET_K);
	says(a, get_a);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	other = upstream_at(second, 1, AUTH PING);
	hears(other, get_a);
	ends = session_of()->s.stream.wheel.deadline_ns;
	assert_true(ends != 0 &&
		    ends <= session_of()->since_ns + 60000 * 1000000ull);
	says(one, "$1\r\nx\r\n");
	says(other, "$1\r\ny\r\n");
	hears(a, "$1\r\nx\r\n$1\r\ny\r\n");
	c->query_wait_timeout_ms = before;
	c->redis[0].command_timeout_ms = 0;
}

/* As it is without a cluster: a reply on its way is not overdue. */
static void
a_reply_that_comes_on_is_waited_for(void **state)
{
	int a = client(0), one;
	uint64_t before;

	(void)state;
	says(a, GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	says(one, "$10\r\n");
	for (int i = 0; i < 2; i++) {
		before = rig.w->streams.now_ns;
		says(one, "12345");
		hears(a, i == 0 ? "$10\r\n12345" : "12345");
		assert_true(session_of()->since_ns > before);
	}
	says(one, "\r\n");
	hears(a, "\r\n");
}

/* The client's time begins anew. */
static void
comes_on(int up, const char *text)
{
	uint64_t before = rig.w->streams.now_ns;

	says(up, text);
	for (int i = 0; session_of()->since_ns <= before && i < PATIENCE; i++)
		turns(1);
	assert_true(session_of()->since_ns > before);
}

/* Nothing of it is told before all of it has come. */
static void
a_reply_of_several_nodes_that_comes_on_is_waited_for(void **state)
{
	int a = client(0), one, other;

	(void)state;
	says(a, "KEYS *\r\n" GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	other = upstream_at(second, 1, AUTH PING);
	hears(one, KEYS GET_K);
	hears(other, KEYS);
	says(one, "*0\r\n$2\r\n");
	comes_on(other, "*1\r\n$10\r\n");
	says(one, "xx\r\n"); /* behind it */
	comes_on(other, "12345");
	comes_on(other, "12345");
	hears_nothing(a);
	says(other, "\r\n");
	hears(a, "*1\r\n$10\r\n1234512345\r\n$2\r\nxx\r\n");
}

static void
who_reads_slowly_is_not_overdue(void **state)
{
	static const char x[64 << 10];
	int a = client(0), one, in_vain = 0;

	(void)state;
	says(a, GET_K);
	tells_of_nodes("");
	one = upstream(0, AUTH PING);
	hears(one, GET_K);
	says(one, "$200000000\r\n");
	while (in_vain < 100) {
		in_vain = send(one, x, sizeof(x), 0) < 0 ? in_vain + 1 : 0;
		turn();
	}
	rig.weir.snapshot->conf->redis[0].command_timeout_ms = 1;
	usleep(5000);
	turn();
	assert_int_equal(redis_proto.overdue(&session_of()->s), WHY_MAX);
	rig.weir.snapshot->conf->redis[0].command_timeout_ms = 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		C(a_list_of_nodes_that_is_malformed_changes_nothing),
		C(nodes_that_have_gone_are_forgotten),
		C(who_has_asked_a_node_that_has_gone_is_done_with_it),
		C(who_subscribes_when_those_of_the_url_are_gone_is_told_by_another),
		C(nothing_is_known_any_more_of_a_connection_that_was_lent_and_lost),
		C(what_is_behind_a_connection_of_its_own_waits_for_it),
		C(a_watch_that_was_refused_is_not_the_one_that_counts),
		C(an_unblock_counts_only_at_the_node_that_gave_the_id),
		C(an_unblock_that_has_to_wait_for_a_connection_arrives),
		C(a_word_of_a_node_that_is_too_long_is_passed_as_it_comes),
		C(who_is_sent_back_to_a_server_that_others_wait_for_is_behind_them),
		C(a_transaction_that_was_none_is_not_sent_again),
		C(who_is_sent_where_nobody_answers_does_not_wait_for_ever),
		C(who_is_sent_elsewhere_has_all_its_time_there),
		C(who_has_all_its_connections_has_a_command_s_time),
		C(a_reply_that_comes_on_is_waited_for),
		C(a_reply_of_several_nodes_that_comes_on_is_waited_for),
		C(who_reads_slowly_is_not_overdue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

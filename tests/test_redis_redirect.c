#define RIG_REDIS "connections=2\ndedicated_connections=3\n"
#include "tests/redis_rig.h"

#include <netinet/tcp.h>

/* What goes from one who hears to the next, and what does not. */

#define HELLO                                                             \
	"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n" \
	"$6\r\nsecret\r\n"
#define TRACK                                                        \
	"*5\r\n$6\r\nCLIENT\r\n$8\r\nTRACKING\r\n$2\r\nON\r\n$8\r\n" \
	"REDIRECT\r\n$2\r\n"
#define PUSH ">2\r\n$10\r\ninvalidate\r\n*1\r\n"

/* The next connection, with that id there. */
static int
lent(int i, const char *login, const char *id)
{
	int fd = upstream(i, NULL), on = 1;

	/* What is said in halves comes in halves, at once. */
	assert_return_code(
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
	hears(fd, login);
	says(fd, strstr(login, "HELLO") ? "%1\r\n+proto\r\n:3\r\n" : "+OK\r\n");
	says(fd, id);
	says(fd, "+PONG\r\n");
	return fd;
}

static void
redirects(int fd, const char *id)
{
	char line[64];

	snprintf(line, sizeof(line), "CLIENT TRACKING ON REDIRECT %s\r\n", id);
	says(fd, line);
}

/* Sessions have ids in the order in which they came. */
static const char hears_id[] = "64";

static void
half_a_push_is_no_part_of_what_its_successor_says(void **state)
{
	int r = client(0), t = client(1), first, own, next;

	(void)state;
	says(r, "CLIENT ID\r\n");
	hears(r, ":64\r\n");
	redirects(t, hears_id);
	first = lent(0, HELLO CLIENT_ID PING, ":70\r\n");
	own = lent(1, AUTH CLIENT_ID PING, ":71\r\n");
	hears(own, TRACK "70\r\n");
	says(own, "+OK\r\n");
	hears(t, "+OK\r\n");
	says(first, PUSH "$4\r\nsec");
	says(r, "RESET\r\n");
	hears(r, "+RESET\r\n");
	hears_the_end(first);
	says(r, "HELLO 3 SETNAME r\r\n");
	turns(3);
	for (char got[512]; recv(r, got, sizeof(got), 0) > 0;)
		turns(3);
	redirects(t, hears_id);
	next = lent(2, HELLO CLIENT_ID PING, ":72\r\n");
	hears(own, TRACK "72\r\n");
	says(own, "+OK\r\n");
	hears(t, "+OK\r\n");
	says(next, PUSH "$1\r\nk\r\n");
	hears(r, PUSH "$1\r\nk\r\n");
}

/* It tells the rest first, and so has nothing left of it when it goes. */
static void
who_tracks_hears_a_push_to_its_end_before_it_goes(void **state)
{
	static const char broken[] = ">2\r\n$21\r\ntracking-redir-broken\r\n";
	int r = client(0), t = client(1), own;
	char got[512];

	(void)state;
	(void)r;
	says(t, "HELLO 3\r\n");
	while (recv(t, got, sizeof(got), 0) < 0)
		turns(1);
	redirects(t, hears_id);
	lent(0, HELLO CLIENT_ID PING, ":70\r\n");
	own = lent(1, HELLO CLIENT_ID PING, ":71\r\n");
	hears(own, TRACK "70\r\n");
	says(own, "+OK\r\n");
	hears(t, "+OK\r\n");
	says(own, ">2\r\n$21\r\ntracking-re");
	says(t, "RESET\r\n");
	hears_nothing(t);
	says(own, "dir-broken\r\n:70\r\n");
	hears(t, broken);
	hears(t, ":64\r\n+RESET\r\n");
	hears_the_end(own);
}

/* Its own connection it keeps, as it is the same user there. */
static void
who_logs_in_as_another_hears_no_more_of_what_the_first_was_told(void **state)
{
	static const char watch[] = "*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n";
	int r = client(0), t = client(1), first, own;

	(void)state;
	says(r, watch);
	own = lent(0, AUTH CLIENT_ID PING, ":69\r\n");
	hears(own, watch);
	says(own, "+OK\r\n");
	hears(r, "+OK\r\n");
	redirects(t, hears_id);
	first = lent(1, HELLO CLIENT_ID PING, ":70\r\n");
	own = lent(2, AUTH CLIENT_ID PING, ":71\r\n");
	hears(own, TRACK "70\r\n");
	says(own, "+OK\r\n");
	hears(t, "+OK\r\n");
	/* Nor does who tracks become another, whom that one would hear. */
	says(t, "AUTH app right\r\n");
	hears(t, "-ERR weir: auth is not supported as another user while keys "
		 "are watched or tracked\r\n");
	says(r, "AUTH app right\r\n");
	hears(r, "+OK\r\n");
	hears_the_end(first);
	redirects(t, hears_id);
	hears(t, "-ERR The client ID you want redirect to does not exist\r\n");
}

/* The id that was found may be anybody's there by now. */
static void
an_id_counts_only_at_the_server_that_gave_it(void **state)
{
	int r = client(0), t = client(1), first, own;

	(void)state;
	redirects(t, hears_id);
	first = lent(0, HELLO CLIENT_ID PING, ":70\r\n");
	own = upstream(1, NULL);
	hears(own, AUTH CLIENT_ID PING);
	close(first);
	rig.up[0] = -1;
	hears_the_end(r);
	says(own, "+OK\r\n:1\r\n+PONG\r\n");
	hears(t, "-ERR The client ID you want redirect to does not exist\r\n");
	hears_nothing(own);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(half_a_push_is_no_part_of_what_its_successor_says),
		T(who_tracks_hears_a_push_to_its_end_before_it_goes),
		T(who_logs_in_as_another_hears_no_more_of_what_the_first_was_told),
		T(an_id_counts_only_at_the_server_that_gave_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

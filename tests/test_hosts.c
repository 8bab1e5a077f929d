/*
 * Several hosts of one upstream, each a scripted server in the same folder,
 * told apart by the port in its socket's name.
 */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "tests/world.h"

enum { HOSTS = 3 };

struct hosts_world {
	struct world w;
	int listener[HOSTS]; /* -1: nobody listens there */
	int before[16];      /* connections that are left open */
	unsigned before_n;
	struct client c[8];
};

/* Nobody listens yet but at the first. */
static void
open_world(struct hosts_world *h, unsigned n)
{
	memset(h, 0, sizeof(*h));
	world_open(&h->w);
	h->listener[0] = h->w.listener;
	h->listener[1] = h->listener[2] = -1;
	h->w.upstream.hosts_n = n;
	h->w.pool = pool_find_postgres(&h->w.pools, &h->w.snapshot,
				       &h->w.upstream, "d", "u", "p");
	assert_non_null(h->w.pool);
	for (unsigned i = 0; i < 8; i++)
		client_open(&h->c[i], &h->w, NULL, NULL);
}

static void
path_of(struct hosts_world *h, unsigned i, char *path, size_t n)
{
	snprintf(path, n, "%s/.s.PGSQL.%u", h->w.dir, 5432 + i);
}

static void
start(struct hosts_world *h, unsigned i)
{
	struct world other = { 0 };

	assert_int_equal(h->listener[i], -1);
	strcpy(other.dir, h->w.dir);
	path_of(h, i, other.path.sun_path, sizeof(other.path.sun_path));
	other.path.sun_family = AF_UNIX;
	other.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(other.listener, (struct sockaddr *)&other.path,
			      sizeof(other.path)),
			 0);
	assert_int_equal(listen(other.listener, 16), 0);
	h->listener[i] = other.listener;
}

static void
stop(struct hosts_world *h, unsigned i)
{
	char path[128];

	path_of(h, i, path, sizeof(path));
	close(h->listener[i]);
	unlink(path);
	h->listener[i] = -1;
}

static void
close_world(struct hosts_world *h)
{
	for (unsigned i = 0; i < 8; i++)
		client_close(&h->c[i]);
	for (unsigned i = 0; i < HOSTS; i++)
		if (h->listener[i] >= 0)
			stop(h, i);
	while (h->before_n > 0)
		close(h->before[--h->before_n]);
	h->w.listener = -1;
	world_close(&h->w);
}

/* The next connection to that host, if there is one; the one before it stays
 * open. */
static bool
dialled(struct hosts_world *h, unsigned i)
{
	int before = h->w.fd;

	h->w.listener = h->listener[i];
	h->w.fd = -1;
	for (int turn = 0; turn < 5 && h->listener[i] >= 0; turn++) {
		world_turn(&h->w);
		if (!world_accept(&h->w))
			continue;
		assert_true(h->before_n < 16);
		if (before >= 0)
			h->before[h->before_n++] = before;
		return true;
	}
	h->w.fd = before;
	return false;
}

/* Says to the last connection what a server says, and its role in between. */
static void
log_in(struct hosts_world *h, const char *in_hot_standby)
{
	struct world *w = &h->w;

	world_turns(w, 2);
	world_read(w);
	w->bytes_n = 0;
	WORLD_PUT(w, 'R', "i", 0u);
	if (in_hot_standby != NULL)
		WORLD_PUT(w, 'S', "ss", "in_hot_standby", in_hot_standby);
	WORLD_PUT(w, 'K', "ii", 1u, 2u);
	WORLD_PUT(w, 'Z', "c", 'I');
	world_turns(w, 3);
}

static void
refuse(struct hosts_world *h, const char *sqlstate, const char *text)
{
	world_turns(&h->w, 2);
	WORLD_PUT(&h->w, 'E', "cscscsc", 'S', "FATAL", 'C', sqlstate, 'M', text,
		  0);
	world_turns(&h->w, 3);
}

static void
want(struct hosts_world *h, unsigned c)
{
	assert_false(pool_want(h->w.pool, &h->c[c].l));
}

static void
has(struct hosts_world *h, unsigned c, const char *heard)
{
	world_turns(&h->w, 3);
	assert_string_equal(h->c[c].heard, heard);
	h->c[c].heard[0] = '\0';
}

/* The port, as the last digit from 0, of the server it holds. */
static unsigned
host_of(struct hosts_world *h, unsigned c)
{
	assert_non_null(h->c[c].l.server);
	return h->c[c].l.server->host->port - 5432;
}

static struct host *
host(struct hosts_world *h, unsigned i)
{
	return h->w.pool->targets.at[i].host;
}

/* Its rest is over, and so is the pool's. */
static void
wake(struct hosts_world *h, unsigned i)
{
	atomic_store(&host(h, i)->retry_ns, 0);
	atomic_store(&h->w.pool->budget->retry_ns, 0);
}

/* ---- order ------------------------------------------------------------ */

static void
the_first_host_that_answers_is_used(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 3);
	start(&h, 1);
	start(&h, 2);
	want(&h, 0);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	has(&h, 0, "g");
	assert_int_equal(host_of(&h, 0), 0);
	close_world(&h);
}

static void
a_dead_host_is_passed_over_and_nobody_hears_of_it(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 3);
	stop(&h, 0);
	start(&h, 2);
	want(&h, 0);
	assert_true(dialled(&h, 2));
	log_in(&h, NULL);
	has(&h, 0, "g");
	assert_int_equal(host_of(&h, 0), 2);
	assert_int_equal(atomic_load(&h.w.pool->budget->failures), 0);
	assert_int_equal(atomic_load(&host(&h, 0)->failures), 1);
	close_world(&h);
}

static void
a_host_that_is_starting_up_is_passed_over_too(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 0));
	refuse(&h, "57P03", "the database system is starting up");
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 0, "g");
	assert_int_equal(host_of(&h, 0), 1);
	close_world(&h);
}

/* As in libpq: another host would say the same, or should not be asked. */
static void
a_refused_log_in_is_not_tried_elsewhere(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 0));
	refuse(&h, "28P01", "password authentication failed");
	has(&h, 0, "x");
	assert_string_equal(h.c[0].text, "password authentication failed");
	assert_false(dialled(&h, 1));
	assert_int_equal(atomic_load(&host(&h, 0)->failures), 0);
	close_world(&h);
}

static void
who_waits_hears_why_each_host_failed(void **state)
{
	struct hosts_world h;
	char text[256];

	(void)state;
	open_world(&h, 2);
	stop(&h, 0);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 1));
	refuse(&h, "57P03", "starting up");
	has(&h, 0, "x");
	assert_int_equal(h.c[0].why, WHY_UPSTREAM_DOWN);
	assert_string_equal(h.c[0].sqlstate, "");
	snprintf(text, sizeof(text),
		 "%s:5432: No such file or directory; %s:5433: starting up",
		 h.w.dir, h.w.dir);
	assert_string_equal(h.c[0].text, text);
	assert_int_equal(atomic_load(&h.w.pool->budget->count), 0);
	close_world(&h);
}

static void
round_robin_takes_one_after_the_other(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 3);
	h.w.upstream.load_balance_hosts = BALANCE_ROUND_ROBIN;
	h.w.upstream.pool_size = 8;
	atomic_store(&h.w.pool->budget->limit, 8);
	start(&h, 1);
	start(&h, 2);
	for (unsigned i = 0; i < 6; i++) {
		want(&h, i);
		assert_true(dialled(&h, i % 3));
		log_in(&h, NULL);
		has(&h, i, "g");
		assert_int_equal(host_of(&h, i), i % 3);
	}
	close_world(&h);
}

/* ---- rest ------------------------------------------------------------- */

static void
a_failed_host_rests_and_the_rest_doubles(void **state)
{
	struct hosts hosts;
	struct host *h;

	(void)state;
	assert_int_equal(hosts_init(&hosts), 0);
	h = host_find(&hosts, "main", "a", 1, 0);
	assert_ptr_equal(host_find(&hosts, "main", "a", 1, 0), h);
	assert_ptr_not_equal(host_find(&hosts, "main", "a", 2, 0), h);
	assert_ptr_not_equal(host_find(&hosts, "other", "a", 1, 0), h);
	assert_false(host_rests(h, 0));
	assert_true(host_failed(&hosts, h, 10, 10, 100, 350, "x"));
	assert_true(host_rests(h, 109));
	assert_false(host_rests(h, 110));
	/* Begun before that was known: it says nothing new. */
	assert_false(host_failed(&hosts, h, 9, 20, 100, 350, "y"));
	assert_false(host_rests(h, 110));
	assert_false(host_failed(&hosts, h, 110, 110, 100, 350, "z"));
	assert_true(host_rests(h, 309));
	assert_false(host_failed(&hosts, h, 310, 310, 100, 350, "z"));
	assert_true(host_rests(h, 659));
	assert_false(host_rests(h, 660));
	assert_true(host_may_try(h, 660, 40));
	assert_false(host_may_try(h, 699, 40));
	assert_true(host_works(h));
	assert_false(host_works(h));
	assert_false(host_rests(h, 0));
	hosts_fini(&hosts);
}

static void
a_host_that_is_nobodys_is_forgotten_by_and_by(void **state)
{
	struct hosts hosts;
	struct host *h, *again, *kept;

	(void)state;
	assert_int_equal(hosts_init(&hosts), 0);
	kept = host_find(&hosts, "main", "kept", 1, 5);
	h = host_find(&hosts, "main", "a", 1, 5);
	assert_true(host_failed(&hosts, h, 5, 5, 100, 350, "x"));
	again = host_keep(&hosts, h);
	assert_ptr_equal(again, h);
	host_leave(&hosts, &h, 6);
	assert_null(h);
	h = host_find(&hosts, "main", "b", 1, 7 + HOST_KEPT_NS);
	assert_int_equal(hosts.n, 3);
	host_leave(&hosts, &h, 10);
	host_leave(&hosts, &h, 10);
	host_leave(&hosts, &again, 10);
	/* What was known of it is, for who comes back soon; */
	h = host_find(&hosts, "main", "c", 1, 10 + HOST_KEPT_NS);
	assert_int_equal(hosts.n, 4);
	h = host_find(&hosts, "main", "a", 1, 10 + HOST_KEPT_NS);
	assert_true(host_works(h));
	host_leave(&hosts, &h, 20);
	/* and it goes with the next that is new. */
	assert_non_null(host_find(&hosts, "main", "d", 1, 21 + HOST_KEPT_NS));
	assert_int_equal(hosts.n, 3);
	assert_ptr_equal(host_find(&hosts, "main", "kept", 1, 22), kept);
	hosts_fini(&hosts);
}

static void
a_failed_host_is_left_alone_while_it_rests(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	stop(&h, 0);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 0, "g");
	start(&h, 0);
	atomic_store(&host(&h, 0)->retry_ns, UINT64_MAX);
	want(&h, 1);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 1, "g");
	assert_false(dialled(&h, 0));
	close_world(&h);
}

/* Whoever waits gets a server of the host that is well; the other is tried
 * beside it, and is the first again when it answers. */
static void
a_rested_host_is_tried_while_no_client_waits_for_it(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	atomic_store(&h.w.pool->budget->limit, 8);
	stop(&h, 0);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 0, "g");
	start(&h, 0);
	wake(&h, 0);
	want(&h, 1);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 1, "g");
	assert_int_equal(host_of(&h, 1), 1);
	assert_int_equal(h.w.pool->probes, 1);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	assert_int_equal(h.w.pool->probes, 0);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], 1);
	assert_int_equal(atomic_load(&host(&h, 0)->failures), 0);
	assert_true(pool_want(h.w.pool, &h.c[2].l));
	assert_int_equal(host_of(&h, 2), 0);
	want(&h, 3);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	has(&h, 3, "g");
	close_world(&h);
}

static void
a_probe_gives_its_place_to_who_waits(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	atomic_store(&h.w.pool->budget->limit, 2);
	stop(&h, 0);
	start(&h, 1);
	start(&h, 0);
	host_failed(&h.w.budgets.hosts, host(&h, 0), 0, 0, 0, 0, "x");
	want(&h, 0);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 0, "g");
	assert_int_equal(h.w.pool->probes, 1);
	want(&h, 1);
	assert_true(dialled(&h, 1));
	assert_int_equal(h.w.pool->probes, 0);
	log_in(&h, NULL);
	has(&h, 1, "g");
	close_world(&h);
}

/* A host that swallows everything: the next one gets all who wait. */
static void
attempts_to_a_host_that_failed_meanwhile_are_given_up(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	atomic_store(&h.w.pool->budget->limit, 8);
	start(&h, 1);
	want(&h, 0);
	want(&h, 1);
	want(&h, 2);
	assert_true(dialled(&h, 0));
	world_turns(&h.w, 2);
	assert_int_equal(h.w.pool->n[SERVER_LOGIN], 3);
	h.w.streams.now_ns++; /* it fails later than it was dialled */
	pool_host_failed(h.w.pool, host(&h, 0), h.w.streams.now_ns,
			 WHY_CONNECT_TIMEOUT, NULL, NULL);
	assert_int_equal(h.w.pool->n[SERVER_LOGIN], 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(dialled(&h, 1));
		log_in(&h, NULL);
	}
	for (unsigned i = 0; i < 3; i++)
		has(&h, i, "g");
	close_world(&h);
}

static void
of_failed_hosts_alone_the_first_to_end_its_rest_is_tried(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 3);
	stop(&h, 0);
	want(&h, 0);
	has(&h, 0, "x");
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(atomic_load(&host(&h, i)->failures), 1);
		atomic_store(&host(&h, i)->retry_ns, UINT64_MAX - i);
		start(&h, i);
	}
	atomic_store(&h.w.pool->budget->retry_ns, 0);
	want(&h, 0);
	assert_true(dialled(&h, 2));
	assert_false(dialled(&h, 0));
	assert_false(dialled(&h, 1));
	h.w.listener = h.listener[2];
	log_in(&h, NULL);
	has(&h, 0, "g");
	close_world(&h);
}

/* server_login_retry = 0 must not make one turn last for ever. */
static void
hosts_that_refuse_at_once_end_a_round_in_any_case(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 3);
	h.w.conf.server_login_retry_ms = 0;
	stop(&h, 0);
	want(&h, 0);
	has(&h, 0, "x");
	close_world(&h);
}

/* ---- addresses -------------------------------------------------------- */

static void
set_address(struct hosts_world *h, struct address *a, unsigned i)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->addr;

	memset(a, 0, sizeof(*a));
	un->sun_family = AF_UNIX;
	path_of(h, i, un->sun_path, sizeof(un->sun_path));
	a->len = sizeof(*un);
}

static void
every_address_of_a_host_is_tried_and_the_good_one_kept(void **state)
{
	struct hosts_world h;
	struct target *t;

	(void)state;
	open_world(&h, 1);
	start(&h, 2);
	t = &h.w.pool->targets.at[0];
	t->address = calloc(3, sizeof(*t->address));
	t->address_n = 3;
	set_address(&h, &t->address[0], 1); /* nobody there */
	set_address(&h, &t->address[1], 2);
	set_address(&h, &t->address[2], 0);
	t->looked_ns = UINT64_MAX / 2;
	want(&h, 0);
	assert_true(dialled(&h, 2));
	log_in(&h, NULL);
	has(&h, 0, "g");
	assert_int_equal(t->first, 1);
	/* It dies: round to the one before it, too. */
	stop(&h, 2);
	stop(&h, 0);
	start(&h, 1);
	want(&h, 1);
	assert_true(dialled(&h, 1));
	log_in(&h, NULL);
	has(&h, 1, "g");
	assert_int_equal(t->first, 0);
	close_world(&h);
}

/* ---- roles ------------------------------------------------------------ */

static void
a_host_of_the_wrong_role_is_passed_over(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 2);
	h.w.upstream.target_role = ROLE_PRIMARY;
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 0));
	log_in(&h, "on");
	assert_true(dialled(&h, 1));
	log_in(&h, "off");
	has(&h, 0, "g");
	assert_int_equal(host_of(&h, 0), 1);
	/* What is known to fit comes first from now on. */
	wake(&h, 0);
	want(&h, 1);
	assert_true(dialled(&h, 1));
	log_in(&h, "off");
	has(&h, 1, "g");
	assert_false(dialled(&h, 0));
	close_world(&h);
}

static void
a_server_that_does_not_tell_its_role_is_asked(void **state)
{
	struct hosts_world h;
	char *sent;

	(void)state;
	open_world(&h, 1);
	h.w.upstream.target_role = ROLE_STANDBY;
	want(&h, 0);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	has(&h, 0, "");
	world_read(&h.w);
	sent = (char *)h.w.bytes + PG_HEADER;
	assert_string_equal(sent, PG_ASK_ROLE);
	world_say(&h.w, "T");
	WORLD_PUT(&h.w, 'D', "hib", 1, 1u, slice_str("t"));
	world_say(&h.w, "CZ");
	has(&h, 0, "g");
	assert_int_equal(atomic_load(&host(&h, 0)->role), ROLE_STANDBY);
	close_world(&h);
}

static void
an_odd_answer_about_the_role_is_no_answer(void **state)
{
	static const char *const answers[] = { "", "tt", "x" };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct hosts_world h;

		open_world(&h, 1);
		h.w.upstream.target_role = ROLE_STANDBY;
		want(&h, 0);
		assert_true(dialled(&h, 0));
		log_in(&h, NULL);
		WORLD_PUT(&h.w, 'D', "hib", 1, (unsigned)strlen(answers[i]),
			  slice_str(answers[i]));
		world_say(&h.w, "CZ");
		has(&h, 0, "x");
		assert_string_equal(h.c[0].text,
				    "no answer to pg_is_in_recovery()");
		close_world(&h);
	}
}

static void
nobody_fits_and_it_is_told_who_is_what(void **state)
{
	struct hosts_world h;
	char text[256];

	(void)state;
	open_world(&h, 2);
	h.w.upstream.target_role = ROLE_PRIMARY;
	stop(&h, 0);
	start(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 1));
	log_in(&h, "on");
	has(&h, 0, "x");
	snprintf(text, sizeof(text),
		 "%s:5432: No such file or directory; "
		 "%s:5433: is a standby, target_role is primary",
		 h.w.dir, h.w.dir);
	assert_string_equal(h.c[0].text, text);
	/* Promoted, it is found. */
	wake(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 1));
	log_in(&h, "off");
	has(&h, 0, "g");
	close_world(&h);
}

/* Two servers at the one host, the first leased, the second idle. */
static void
two_at_a_standby(struct hosts_world *h)
{
	open_world(h, 1);
	h->w.upstream.target_role = ROLE_STANDBY;
	for (unsigned i = 0; i < 2; i++) {
		want(h, i);
		assert_true(dialled(h, 0));
		log_in(h, "on");
		has(h, i, "g");
	}
}

static void
a_promotion_makes_the_servers_of_the_host_leave(void **state)
{
	struct hosts_world h;

	(void)state;
	two_at_a_standby(&h);
	server_release(h.c[0].l.server);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], 1);
	WORLD_PUT(&h.w, 'S', "ss", "in_hot_standby", "off");
	world_turns(&h.w, 3);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], 0);
	assert_int_equal(h.w.pool->n[SERVER_LEASED], 1);
	server_release(h.c[1].l.server);
	assert_int_equal(h.w.pools.n, 0);
	close_world(&h);
}

static void
a_server_that_refuses_to_write_is_asked_for_its_role(void **state)
{
	struct hosts_world h;

	(void)state;
	for (int promoted = 0; promoted < 2; promoted++) {
		open_world(&h, 1);
		h.w.upstream.target_role = ROLE_PRIMARY;
		want(&h, 0);
		assert_true(dialled(&h, 0));
		log_in(&h, "off");
		has(&h, 0, "g");
		h.c[0].give_back = true;
		assert_true(client_send(&h.c[0], PG_QUERY, 0));
		world_turns(&h.w, 2);
		world_read(&h.w);
		h.w.bytes_n = 0;
		WORLD_PUT(&h.w, 'E', "cscscsc", 'S', "ERROR", 'C', "25006", 'M',
			  "read-only", 0);
		WORLD_PUT(&h.w, 'Z', "c", 'I');
		world_turns(&h.w, 3);
		assert_int_equal(h.w.pool->n[SERVER_RESET], 1);
		world_read(&h.w);
		assert_string_equal((char *)h.w.bytes + PG_HEADER, PG_ASK_ROLE);
		world_say(&h.w, "T");
		WORLD_PUT(&h.w, 'D', "hib", 1, 1u,
			  slice_str(promoted ? "t" : "f"));
		world_say(&h.w, "CZ");
		world_turns(&h.w, 3);
		assert_int_equal(h.w.pool->n[SERVER_IDLE], !promoted);
		assert_int_equal(h.w.pools.n, !promoted);
		close_world(&h);
	}
}

/* ---- the last word ---------------------------------------------------- */

static void
a_fatal_error_ends_the_server_and_is_not_the_clients(void **state)
{
	(void)state;
	/* At every cut, before and after what the client was owed. */
	for (size_t cut = 1; cut < 60; cut++) {
		struct hosts_world h;
		struct buf b;
		const uint8_t *p;
		size_t n;

		open_world(&h, 1);
		want(&h, 0);
		assert_true(dialled(&h, 0));
		log_in(&h, NULL);
		has(&h, 0, "g");
		assert_true(client_send(&h.c[0], PG_QUERY, 0));
		world_turns(&h.w, 2);
		buf_init(&b, 1 << 20);
		assert_int_equal(pg_put(&b, 'E', "cscscscsc", 'S', "FATAL", 'V',
					"FATAL", 'C', "57P01", 'M',
					"terminating connection due to "
					"administrator command",
					0),
				 0);
		p = buf_peek(&b, &n);
		world_send(&h.w, p, cut);
		has(&h, 0, "");
		world_send(&h.w, p + cut, n - cut);
		has(&h, 0, "x");
		assert_int_equal(h.c[0].got_n, 0);
		assert_int_equal(h.c[0].why, WHY_UPSTREAM_LOST);
		assert_string_equal(h.c[0].sqlstate, "57P01");
		buf_free(&b);
		close_world(&h);
	}
}

static void
a_server_that_died_this_turn_is_not_lent(void **state)
{
	struct hosts_world h;

	(void)state;
	open_world(&h, 1);
	want(&h, 0);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	has(&h, 0, "g");
	server_release(h.c[0].l.server);
	world_turn(&h.w);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], 1);
	/* Idle for a moment only, and its end is not read yet. */
	WORLD_PUT(&h.w, 'E', "cscsc", 'S', "FATAL", 'C', "57P01", 0);
	want(&h, 1);
	assert_int_equal(h.w.pools.n, 0);
	assert_true(dialled(&h, 0));
	log_in(&h, NULL);
	has(&h, 1, "g");
	close_world(&h);
}

/* ---- reload ----------------------------------------------------------- */

/* A configuration that is the world's but for one change. */
struct changed {
	struct conf conf;
	struct conf_postgres upstream;
	struct snapshot snapshot;
};

static void
change(struct changed *n, const struct hosts_world *h)
{
	n->conf = h->w.conf;
	n->upstream = h->w.upstream;
	n->conf.postgres = &n->upstream;
	n->snapshot = h->w.snapshot;
	n->snapshot.conf = &n->conf;
	atomic_store(&n->snapshot.refs, 1);
}

/* One server idle, one leased, one being opened; then a reload. */
static void
reload(void (*edit)(struct conf_postgres *), bool leaves)
{
	struct hosts_world h;
	struct changed n;

	open_world(&h, 1);
	atomic_store(&h.w.pool->budget->limit, 8);
	h.w.upstream.pool_size = 8;
	for (unsigned i = 0; i < 2; i++) {
		want(&h, i);
		assert_true(dialled(&h, 0));
		log_in(&h, NULL);
		has(&h, i, "g");
	}
	want(&h, 2);
	assert_true(dialled(&h, 0));
	pool_unwant(&h.c[2].l);
	server_release(h.c[0].l.server);
	world_turn(&h.w);
	change(&n, &h);
	edit(&n.upstream);
	pools_reload(&h.w.pools, &n.snapshot);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], !leaves);
	assert_int_equal(h.w.pool->n[SERVER_LOGIN], !leaves);
	assert_int_equal(h.w.pool->n[SERVER_LEASED], 1);
	server_release(h.c[1].l.server);
	assert_int_equal(h.w.pool->n[SERVER_IDLE], leaves ? 0 : 2);
	pools_reload(&h.w.pools, &h.w.snapshot);
	assert_int_equal(atomic_load(&n.snapshot.refs), 1);
	close_world(&h);
}

static void
edit_port(struct conf_postgres *p)
{
	p->port++;
}

static void
edit_host(struct conf_postgres *p)
{
	p->host = (char *)(uintptr_t) "elsewhere";
}

static void
edit_sslmode(struct conf_postgres *p)
{
	p->sslmode = SSLMODE_PREFER;
}

static void
edit_rootcert(struct conf_postgres *p)
{
	p->sslrootcert = (char *)(uintptr_t) "/some.crt";
}

static void
edit_role(struct conf_postgres *p)
{
	p->target_role = ROLE_STANDBY;
}

static void
edit_others(struct conf_postgres *p)
{
	p->pool_size = 7;
	p->load_balance_hosts = BALANCE_ROUND_ROBIN;
	p->pool_mode = POOL_MODE_SESSION;
}

static void
a_reload_retires_what_was_opened_with_something_else(void **state)
{
	(void)state;
	reload(edit_port, true);
	reload(edit_host, true);
	reload(edit_sslmode, true);
	reload(edit_rootcert, true);
	reload(edit_role, true);
	reload(edit_others, false);
}

static void
a_reload_brings_a_new_password_and_forgets_what_came_of_the_old(void **state)
{
	struct hosts_world h;
	struct changed n;

	(void)state;
	open_world(&h, 1);
	h.w.pool->scram.known = true;
	change(&n, &h);
	n.upstream.user = (char *)(uintptr_t) "u";
	n.upstream.password = (char *)(uintptr_t) "new";
	pools_reload(&h.w.pools, &n.snapshot);
	assert_string_equal(h.w.pool->password, "new");
	assert_false(h.w.pool->scram.known);
	h.w.pool->scram.known = true;
	pools_reload(&h.w.pools, &n.snapshot);
	assert_true(h.w.pool->scram.known);
	pools_reload(&h.w.pools, &h.w.snapshot);
	close_world(&h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_host_that_answers_is_used),
		cmocka_unit_test(
		    a_dead_host_is_passed_over_and_nobody_hears_of_it),
		cmocka_unit_test(a_host_that_is_starting_up_is_passed_over_too),
		cmocka_unit_test(a_refused_log_in_is_not_tried_elsewhere),
		cmocka_unit_test(who_waits_hears_why_each_host_failed),
		cmocka_unit_test(round_robin_takes_one_after_the_other),
		cmocka_unit_test(a_failed_host_rests_and_the_rest_doubles),
		cmocka_unit_test(a_host_that_is_nobodys_is_forgotten_by_and_by),
		cmocka_unit_test(a_failed_host_is_left_alone_while_it_rests),
		cmocka_unit_test(
		    a_rested_host_is_tried_while_no_client_waits_for_it),
		cmocka_unit_test(a_probe_gives_its_place_to_who_waits),
		cmocka_unit_test(
		    attempts_to_a_host_that_failed_meanwhile_are_given_up),
		cmocka_unit_test(
		    of_failed_hosts_alone_the_first_to_end_its_rest_is_tried),
		cmocka_unit_test(
		    hosts_that_refuse_at_once_end_a_round_in_any_case),
		cmocka_unit_test(
		    every_address_of_a_host_is_tried_and_the_good_one_kept),
		cmocka_unit_test(a_host_of_the_wrong_role_is_passed_over),
		cmocka_unit_test(a_server_that_does_not_tell_its_role_is_asked),
		cmocka_unit_test(an_odd_answer_about_the_role_is_no_answer),
		cmocka_unit_test(nobody_fits_and_it_is_told_who_is_what),
		cmocka_unit_test(
		    a_promotion_makes_the_servers_of_the_host_leave),
		cmocka_unit_test(
		    a_server_that_refuses_to_write_is_asked_for_its_role),
		cmocka_unit_test(
		    a_fatal_error_ends_the_server_and_is_not_the_clients),
		cmocka_unit_test(a_server_that_died_this_turn_is_not_lent),
		cmocka_unit_test(
		    a_reload_retires_what_was_opened_with_something_else),
		cmocka_unit_test(
		    a_reload_brings_a_new_password_and_forgets_what_came_of_the_old),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "tests/world.h"

static struct tenant acme = { .slug = (char *)(uintptr_t) "acme", .weight = 1 };
static struct tenant beta = { .slug = (char *)(uintptr_t) "beta", .weight = 1 };

/* ---- shorthand -------------------------------------------------------- */

/* The types of the messages in p, as a string in `out`. */
static const char *
types(const uint8_t *p, size_t n, char out[256])
{
	size_t at = 0, k = 0;
	struct pg_frame f;

	while (at < n && pg_frame_next(&f, p + at, n - at) > 0 && k < 255) {
		assert_true(f.size <= n - at);
		out[k++] = (char)f.type;
		at += f.size;
	}
	assert_int_equal(at, n);
	out[k] = '\0';
	return out;
}

/* What the server has received since the last time. */
static void
sent(struct world *w, const char *want)
{
	char have[256];

	world_turns(w, 2);
	world_read(w);
	assert_string_equal(types(w->bytes, w->bytes_n, have), want);
	w->bytes_n = 0;
}

/* What the client has received since the last time. */
static void
got(struct client *c, const char *want)
{
	char have[256];

	world_turns(c->w, 2);
	assert_string_equal(types(c->got, c->got_n, have), want);
	c->got_n = 0;
}

/* What it was told since the last time. */
static void
heard(struct client *c, const char *want)
{
	world_turns(c->w, 2);
	assert_string_equal(c->heard, want);
	c->heard[0] = '\0';
}

static struct label *
label(struct world *w, const char *org)
{
	struct label_pair pair = { "app.org", org };

	return label_new(&w->pools.labels, &pair, 1);
}

/* A client without settings that holds a server. */
static void
lease(struct client *c, struct world *w)
{
	client_open(c, w, NULL, NULL);
	if (pool_want(w->pool, &c->l))
		return;
	world_log_in(w);
	world_turns(w, 2);
	heard(c, "g");
	assert_non_null(c->l.server);
}

static void
closed(struct client *c, enum why why)
{
	world_turns(c->w, 2);
	assert_null(c->l.server);
	assert_int_equal(c->why, why);
	assert_true(world_hung_up(c->w));
	assert_int_equal(c->w->pools.n, 0);
}

static struct pg_server *
pg_of(struct client *c)
{
	return pg_server(c->l.server);
}

#define WORLD(w, c)      \
	struct world w;  \
	struct client c; \
	(void)state;     \
	world_open(&w);  \
	lease(&c, &w)

#define END(w, c)         \
	client_close(&c); \
	world_close(&w)

/* ---- log-in ----------------------------------------------------------- */

static void
logs_in_and_keeps_what_the_server_says_of_itself(void **state)
{
	struct world w;
	struct client c;
	struct pg_startup s;
	size_t n;

	(void)state;
	world_open(&w);
	client_open(&c, &w, NULL, NULL);
	assert_false(pool_want(w.pool, &c.l));
	for (int i = 0; i < 10 && !world_accept(&w); i++)
		world_turn(&w);
	world_turns(&w, 2);
	world_read(&w);
	assert_int_equal(pg_startup_next(&s, w.bytes, w.bytes_n), w.bytes_n);
	assert_int_equal(s.code, PG_PROTOCOL(3, 0));
	assert_memory_equal(s.body.p, "user\0user\0database\0database\0",
			    s.body.n);
	assert_int_equal(w.pool->n[SERVER_LOGIN], 1);
	WORLD_PUT(&w, 'R', "i", 0u);
	WORLD_PUT(&w, 'S', "ss", "a", "b");
	WORLD_PUT(&w, 'K', "ii", 4711u, 4712u);
	world_turns(&w, 2);
	heard(&c, "");
	WORLD_PUT(&w, 'Z', "c", 'I');
	heard(&c, "g");
	assert_int_equal(pg_of(&c)->pid, 4711);
	assert_int_equal(pg_of(&c)->key, 4712);
	assert_memory_equal(buf_peek(&w.pool->welcome, &n),
			    "S\0\0\0\x08"
			    "a\0b\0",
			    9);
	assert_int_equal(n, 9);
	END(w, c);
}

static void
logs_in_at_every_split(void **state)
{
	static const char script[] = "R\0\0\0\x08\0\0\0\0"
				     "S\0\0\0\x08"
				     "a\0b\0K\0\0\0\x0c\0\0\0\1\0\0\0\2"
				     "Z\0\0\0\5I";
	const size_t n = sizeof(script) - 1;

	(void)state;
	for (size_t cut = 0; cut < n; cut++) {
		struct world w;
		struct client c;

		world_open(&w);
		client_open(&c, &w, NULL, NULL);
		assert_false(pool_want(w.pool, &c.l));
		for (int i = 0; i < 10 && !world_accept(&w); i++)
			world_turn(&w);
		world_turns(&w, 2);
		world_send(&w, script, cut);
		heard(&c, "");
		world_send(&w, script + cut, n - cut);
		heard(&c, "g");
		END(w, c);
	}
}

/* What the waiter is told when the log-in goes like this. */
static void
login_fails(const void *bytes, size_t n, const char *sqlstate, const char *text)
{
	struct world w;
	struct client c;

	world_open(&w);
	client_open(&c, &w, NULL, NULL);
	assert_false(pool_want(w.pool, &c.l));
	for (int i = 0; i < 10 && !world_accept(&w); i++)
		world_turn(&w);
	world_turns(&w, 2);
	world_send(&w, bytes, n);
	heard(&c, "x");
	assert_int_equal(c.why, WHY_UPSTREAM_DOWN);
	assert_string_equal(c.sqlstate, sqlstate);
	assert_string_equal(c.text, text);
	assert_true(world_hung_up(&w));
	assert_int_equal(w.pool->budget->count, 0);
	END(w, c);
}

static void
who_waits_hears_why_a_log_in_failed(void **state)
{
#define FAILS(bytes, code, text) \
	login_fails(bytes, sizeof(bytes) - 1, code, text)
	(void)state;
	FAILS("E\0\0\0\x1eSFATAL\0C28P01\0Mno entry\0\0\0\0", "28P01",
	      "no entry");
	FAILS("E\0\0\0\5\0", "", "");
	FAILS("Z\0\0\0\5T", "", "unexpected ReadyForQuery");
	FAILS("Z\0\0\0\4", "", "unexpected ReadyForQuery");
	FAILS("D\0\0\0\4", "", "unexpected message during log-in");
	FAILS("R\0\0\0\x08\0\0\0\3", "",
	      "cleartext password wanted without TLS");
	FAILS("R\0\0\0\x08\0\0\0\7", "",
	      "authentication method is not supported");
	FAILS("R\0\0\0\x08\0\0\0\x0b", "", "malformed SCRAM message");
	FAILS("R\0\0\0\x08\0\0\0\x0c", "", "server failed its SCRAM proof");
	FAILS("R\0\0\0\x0f\0\0\0\x0aUNHEARD\0", "",
	      "no SASL mechanism in common");
	FAILS("R\0\0\0\3", "", "malformed message during log-in");
	FAILS("S\0\1\0\0", "", "malformed message during log-in");
	/* SCRAM begun, then welcomed without the proof. */
	FAILS("R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x08\0\0\0\0", "",
	      "server skipped its SCRAM proof");
	FAILS("R\0\0\0\x08\0\0\0\0Z\0\0\0\5IZ\0\0\0\5I", "",
	      "bytes after ReadyForQuery");
#undef FAILS
}

static void
a_server_that_hangs_up_during_log_in_is_a_failure(void **state)
{
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	client_open(&c, &w, NULL, NULL);
	assert_false(pool_want(w.pool, &c.l));
	for (int i = 0; i < 10 && !world_accept(&w); i++)
		world_turn(&w);
	close(w.fd);
	w.fd = -1;
	heard(&c, "x");
	assert_string_equal(c.text, "server closed the connection");
	END(w, c);
}

/* ---- settings --------------------------------------------------------- */

static void
settings_travel_in_front_of_the_first_request(void **state)
{
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	heard(&c, "g");
	assert_true(pg_server_binding(c.l.server));
	assert_null(c.l.server->tenant);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_turn(&w);
	world_read(&w);
	assert_non_null(memmem(w.bytes, w.bytes_n,
			       "set_config($1,$2,false) IS NULL\0\0\0", 34));
	assert_non_null(memmem(w.bytes, w.bytes_n,
			       "\0\2\0\0\0\7app.org\0\0\0\1"
			       "1",
			       18));
	sent(&w, "PBEPBEPBEQ");
	/* Confirmed by the COMMIT's answer and not before. */
	world_say(&w, "12C12D");
	world_turns(&w, 2);
	world_say(&w, "C12");
	heard(&c, "");
	assert_null(c.l.server->tenant);
	world_say(&w, "C");
	heard(&c, "o");
	assert_ptr_equal(c.l.server->tenant, &acme);
	got(&c, "");
	world_say(&w, "TDCZ");
	got(&c, "TDCZ");
	heard(&c, "r");
	END(w, c);
}

static void
the_next_of_the_same_settings_pays_nothing(void **state)
{
	struct world w;
	struct client c, d;
	struct server *v;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	c.give_back = true;
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	assert_true(client_send(&c, PG_QUERY, 0));
	v = c.l.server;
	sent(&w, "PBEPBEPBEQ");
	world_say(&w, "12C12C12CCZ");
	world_turns(&w, 2);
	assert_null(c.l.server);
	client_open(&d, &w, &acme, label(&w, "1"));
	assert_true(pool_want(w.pool, &d.l));
	assert_ptr_equal(d.l.server, v);
	assert_false(pg_server_binding(v));
	assert_ptr_equal(v->tenant, &acme);
	assert_true(client_send(&d, PG_QUERY, 0));
	sent(&w, "Q");
	world_say(&w, "CZ");
	got(&d, "CZ");
	client_close(&d);
	END(w, c);
}

/* Its own statements are known by then; what is gone is taken back. */
static void
other_settings_cost_their_difference(void **state)
{
	struct label_pair before[] = { { "app.org", "1" }, { "a", "x" } };
	struct label_pair after[] = { { "app.org", "2" }, { "b", "y" } };
	struct world w;
	struct client c, d;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label_new(&w.pools.labels, before, 2));
	c.give_back = true;
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	assert_true(client_send(&c, PG_QUERY, 0));
	sent(&w, "PBEPBEPBEQ");
	world_say(&w, "12C12C12CCZ");
	world_turns(&w, 2);
	client_open(&d, &w, &beta, label_new(&w.pools.labels, after, 2));
	assert_true(pool_want(w.pool, &d.l));
	assert_null(d.l.server->tenant);
	assert_true(client_send(&d, PG_QUERY, 0));
	world_turn(&w);
	world_read(&w);
	/* a: its default; app.org: 2; b: y */
	assert_non_null(memmem(w.bytes, w.bytes_n,
			       "\0\6\0\0\0\1a\xff\xff\xff\xff"
			       "\0\0\0\7app.org\0\0\0\1"
			       "2\0\0\0\1b\0\0\0\1y",
			       38));
	sent(&w, "BEPBEBEQ");
	world_say(&w, "2C12C2CCZ");
	got(&d, "CZ");
	assert_ptr_equal(d.l.server->tenant, &beta);
	client_close(&d);
	END(w, c);
}

static void
many_settings_go_in_several_statements(void **state)
{
	struct label_pair pair[19];
	char name[19][16];
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	for (int i = 0; i < 19; i++) {
		snprintf(name[i], sizeof(name[i]), "a.n%02d", i);
		pair[i] = (struct label_pair){ name[i], "x" };
	}
	client_open(&c, &w, &acme, label_new(&w.pools.labels, pair, 19));
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	assert_true(client_send(&c, PG_QUERY, 0));
	sent(&w, "PBEPBEBEPBEPBEQ"); /* 8, 8 again, 3 */
	world_say(&w, "12C12C2C12C12CCZ");
	got(&c, "CZ");
	END(w, c);
}

/* The request behind it is skipped by the server, and never told of. */
static void
settings_that_are_refused_close_the_server(void **state)
{
	static const char *const until[] = { "",      "1",       "12C1",
					     "12C12", "12C12C1", "12C12C12" };

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct world w;
		struct client c;

		world_open(&w);
		client_open(&c, &w, &acme, label(&w, "1"));
		assert_false(pool_want(w.pool, &c.l));
		world_log_in(&w);
		assert_true(client_send(&c, PG_QUERY, 0));
		heard(&c, "g");
		world_say(&w, until[i]);
		world_say(&w, "!Z");
		heard(&c, "x");
		assert_string_equal(c.sqlstate, "42P01");
		assert_string_equal(c.text, "no such thing");
		assert_int_equal(c.got_n, 0);
		closed(&c, WHY_BIND_FAILED);
		END(w, c);
	}
}

static void
who_leaves_before_its_settings_are_confirmed_costs_the_server(void **state)
{
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	heard(&c, "g");
	client_close(&c);
	world_turns(&w, 2);
	assert_true(world_hung_up(&w));
	assert_int_equal(w.pools.n, 0);
	world_close(&w);
}

static void
a_sync_of_its_own_ends_a_bind_nothing_follows(void **state)
{
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	heard(&c, "g");
	pg_server_sync(c.l.server);
	sent(&w, "PBEPBEPBES");
	world_say(&w, "12C12C12CZ");
	heard(&c, "or");
	got(&c, "");
	pg_server_sync(c.l.server); /* nothing to end */
	sent(&w, "");
	END(w, c);
}

static void
settings_taken_back_are_put_again(void **state)
{
	struct world w;
	struct client c, d;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	c.give_back = true;
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	assert_true(client_send(&c, PG_QUERY, 0));
	pg_of(&c)->unset = true; /* as by a RESET */
	sent(&w, "PBEPBEPBEQ");
	world_say(&w, "12C12C12CCZ");
	world_turns(&w, 2);
	assert_null(c.l.server);
	/* The same settings, and yet: all of them are put again. */
	client_open(&d, &w, &acme, label(&w, "1"));
	assert_true(pool_want(w.pool, &d.l));
	assert_true(pg_server_binding(d.l.server));
	assert_true(client_send(&d, PG_QUERY, 0));
	world_turn(&w);
	world_read(&w);
	assert_non_null(memmem(w.bytes, w.bytes_n, "RESET ALL", 10));
	sent(&w, "BEPBEBEBEQ");
	world_say(&w, "2C12C2C2CCZ");
	got(&d, "CZ");
	client_close(&d);
	END(w, c);
}

/* ---- whose answer is it ----------------------------------------------- */

static void
what_does_not_fit_closes_the_server(void **state)
{
	/* What was asked, what is answered first, and what is wrong then. */
	static const struct {
		const char *asked, *before, *wrong;
	} t[] = {
		{ "", "", "C" },      { "", "", "Z" },     { "", "", "1" },
		{ "", "", "T" },      { "", "", "G" },     { "", "", "R" },
		{ "Q", "", "1" },     { "Q", "", "R" },    { "Q", "", "K" },
		{ "Q", "", "s" },     { "Q", "CZ", "Z" },  { "Q", "CZ", "C" },
		{ "P", "", "2" },     { "P", "", "Z" },    { "P", "", "C" },
		{ "P", "1", "1" },    { "B", "", "1" },    { "D", "", "D" },
		{ "D", "t", "1" },    { "E", "", "T" },    { "E", "", "Z" },
		{ "E", "DDC", "C" },  { "C", "", "2" },    { "S", "", "C" },
		{ "S", "", "1" },     { "F", "", "C" },    { "F", "V", "D" },
		{ "PB", "1", "1" },   { "BP", "", "1" },   { "BS", "!", "2" },
		{ "BES", "!Z", "C" }, { "BES", "2", "Z" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		char before[8] = "";
		struct world w;
		struct client c;

		world_open(&w);
		lease(&c, &w);
		for (const char *a = t[i].asked; *a != '\0'; a++)
			assert_true(client_send(
			    &c,
			    (enum pg_kind)(strchr("QPBDECSF", *a) - "QPBDECSF"),
			    0));
		world_say(&w, t[i].before);
		world_turns(&w, 2);
		if (c.l.server == NULL)
			fail_msg("case %zu: closed too early", i);
		world_say(&w, t[i].wrong);
		world_turns(&w, 2);
		if (c.l.server != NULL)
			fail_msg("case %zu: not closed", i);
		closed(&c, WHY_UPSTREAM_SENSE);
		for (size_t k = 0; t[i].before[k] != '\0'; k++)
			before[k] =
			    t[i].before[k] == '!' ? 'E' : t[i].before[k];
		got(&c, before);
		END(w, c);
	}
}

static void
no_message_has_the_type_zero(void **state)
{
	static const enum pg_kind kinds[] = { PG_QUERY, PG_EXECUTE, PG_FUNCTION,
					      PG_DESCRIBE };

	(void)state;
	for (int i = 0; i < 4; i++) {
		WORLD(w, c);
		assert_true(client_send(&c, kinds[i], 0));
		world_send(&w, "\0\0\0\0\4", 5);
		closed(&c, WHY_UPSTREAM_SENSE);
		assert_int_equal(c.got_n, 0);
		END(w, c);
	}
}

static void
refuses_frames_that_cannot_be(void **state)
{
	static const char *const bytes[] = { "Z\0\0\0\4",  "Z\0\0\0\6II",
					     "C\0\0\0\3",  "D\xff\xff\xff\xff",
					     "C\0\2\0\0",  "Z\0\0\0\5X",
					     "Z\0\0\0\5\0" };
	static const size_t sizes[] = { 5, 7, 5, 5, 5, 6, 6 };

	(void)state;
	for (int i = 0; i < 7; i++) {
		WORLD(w, c);
		assert_true(client_send(&c, PG_QUERY, 0));
		world_send(&w, bytes[i], sizes[i]);
		closed(&c, WHY_UPSTREAM_SENSE);
		END(w, c);
	}
}

static void
an_error_skips_to_the_next_sync(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_PARSE, 1));
	assert_true(client_send(&c, PG_BIND, 2));
	assert_true(client_send(&c, PG_EXECUTE, 3));
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_PARSE, 4));
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "PBESPS");
	world_say(&w, "1");
	heard(&c, "+");
	world_say(&w, "!");
	heard(&c, "-"); /* of the Bind nobody asked to hear */
	assert_int_equal(c.arg, 3);
	assert_int_equal(c.kind, PG_EXECUTE);
	world_say(&w, "Z");
	heard(&c, ""); /* more is owed */
	world_say(&w, "1Z");
	heard(&c, "+r");
	got(&c, "1EZ1Z");
	END(w, c);
}

static void
what_is_sent_into_an_error_is_answered_by_nothing(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_BIND, 0));
	world_say(&w, "!");
	got(&c, "E");
	sent(&w, "B");
	assert_false(client_send(&c, PG_EXECUTE, 7));
	heard(&c, "o-"); /* it may go on */
	assert_int_equal(c.arg, 7);
	assert_false(client_send(&c, PG_QUERY, 0)); /* as PostgreSQL does */
	sent(&w, "");
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_QUERY, 0));
	sent(&w, "SQ");
	world_say(&w, "ZCZ");
	got(&c, "ZCZ");
	heard(&c, "r");
	END(w, c);
}

static void
an_error_of_a_simple_query_skips_nothing(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	assert_true(client_send(&c, PG_PARSE, 1));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "TD!Z1Z");
	got(&c, "TDEZ1Z");
	heard(&c, "+r");
	END(w, c);
}

static void
rests_once_when_everything_is_answered(void **state)
{
	WORLD(w, c);
	for (int i = 0; i < 5; i++) {
		assert_true(client_send(&c, PG_EXECUTE, 0));
		assert_true(client_send(&c, PG_SYNC, 0));
	}
	world_say(&w, "CZCZCZCZ");
	heard(&c, "");
	world_say(&w, "DCz");
	heard(&c, "r");
	assert_int_equal(pg_of(&c)->status, 'T');
	got(&c, "CZCZCZCZDCZ");
	END(w, c);
}

static void
is_not_at_rest_with_anything_behind_ready_for_query(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	/* Half a message more: no doubt yet, but no rest either. */
	world_send(&w, "C\0\0\0\5\0Z\0\0\0\5IN\0", 14);
	got(&c, "CZ");
	heard(&c, "");
	world_send(&w, "\0\0\5\0", 4);
	got(&c, "N");
	heard(&c, "r");
	assert_true(client_send(&c, PG_QUERY, 0));
	world_send(&w, "Z\0\0\0\5IC\0\0\0\5\0", 12);
	closed(&c, WHY_UPSTREAM_SENSE);
	heard(&c, "x");
	END(w, c);
}

/* The rest of it may never come, and nobody else would get the server. */
static void
the_first_byte_behind_ready_for_query_tells(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_send(&w, "C\0\0\0\5\0Z\0\0\0\5ID", 13);
	closed(&c, WHY_UPSTREAM_SENSE);
	got(&c, "CZ");
	END(w, c);
}

static void
notices_and_the_like_may_come_at_any_time(void **state)
{
	WORLD(w, c);
	world_say(&w, "NSA");
	got(&c, "NSA");
	assert_true(client_send(&c, PG_PARSE, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "N1SZA");
	got(&c, "N1SZA");
	heard(&c, "r");
	END(w, c);
}

static void
a_function_call_has_one_answer(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_FUNCTION, 0));
	world_say(&w, "VZ");
	got(&c, "VZ");
	heard(&c, "r");
	assert_true(client_send(&c, PG_FUNCTION, 0));
	world_say(&w, "!Z");
	got(&c, "EZ");
	heard(&c, "r");
	END(w, c);
}

static void
the_last_words_of_a_server_are_passed_on(void **state)
{
	WORLD(w, c);
	WORLD_PUT(&w, 'E', "cscscsc", 'S', "FATAL", 'C', "57P01", 'M',
		  "terminating connection", 0);
	closed(&c, WHY_UPSTREAM_LOST);
	assert_string_equal(c.sqlstate, "57P01");
	assert_string_equal(c.text, "terminating connection");
	END(w, c);
}

static void
a_server_that_hangs_up_is_lost_to_its_lessee(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_turns(&w, 2);
	close(w.fd);
	w.fd = -1;
	heard(&c, "x");
	assert_int_equal(c.why, WHY_UPSTREAM_LOST);
	assert_int_equal(w.pool->budget->count, 0);
	END(w, c);
}

/* ---- COPY ------------------------------------------------------------- */

static void
copies_in_by_a_simple_query(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "G");
	got(&c, "G");
	assert_true(pg_of(&c)->copying_in);
	assert_true(client_send(&c, PG_COPY_END, 0));
	assert_false(pg_of(&c)->copying_in);
	world_say(&w, "CZ");
	got(&c, "CZ");
	heard(&c, "r");
	assert_false(pg_of(&c)->doubt);
	END(w, c);
}

/* libpq sends Sync right behind Execute; the server ignores it then. */
static void
a_sync_before_the_copy_was_over_has_no_answer(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_BIND, 0));
	assert_true(client_send(&c, PG_EXECUTE, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "2G");
	got(&c, "2G");
	assert_true(client_send(&c, PG_COPY_END, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "CZ");
	got(&c, "CZ");
	heard(&c, "r");
	assert_int_equal(c.l.server->ledger.n, 0);
	END(w, c);
}

/* The same, all of it sent before the server had said a word. */
static void
a_whole_copy_may_be_sent_at_once(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_EXECUTE, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_COPY_END, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "GCZ");
	got(&c, "GCZ");
	heard(&c, "");
	world_say(&w, "CZ");
	got(&c, "CZ");
	heard(&c, "r");
	END(w, c);
}

static void
a_sync_inside_a_copy_leaves_a_doubt(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "G");
	got(&c, "G");
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_COPY_END, 0));
	world_say(&w, "CZ");
	heard(&c, "r");
	/* It goes on serving its lessee, and nobody after. */
	server_release(c.l.server);
	closed(&c, WHY_EOF);
	END(w, c);
}

static void
a_copy_that_fails_is_over(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "G!");
	got(&c, "GE");
	assert_false(pg_of(&c)->copying_in);
	world_say(&w, "Z");
	heard(&c, "r");
	/* CopyDone comes too late and has no answer. */
	assert_true(client_send(&c, PG_COPY_END, 0));
	assert_int_equal(c.l.server->ledger.n, 0);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "CZ");
	heard(&c, "r");
	END(w, c);
}

static void
who_leaves_inside_a_copy_costs_the_server(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "G");
	got(&c, "G");
	server_release(c.l.server);
	closed(&c, WHY_EOF);
	END(w, c);
}

static void
copies_out_and_both(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "HdddcCZ");
	got(&c, "HdddcCZ");
	heard(&c, "r");
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "Wd");
	got(&c, "Wd");
	assert_true(pg_of(&c)->doubt); /* replication: not for the pool */
	END(w, c);
}

/* ---- prepared statements ---------------------------------------------- */

static struct stmt *
stmt(struct world *w, const char *sql)
{
	return stmt_intern(&w->pools.stmts, slice_of(sql, strlen(sql) + 1), 0);
}

static void
parses_a_statement_once_a_server(void **state)
{
	struct stmt *s;
	WORLD(w, c);

	s = stmt(&w, "SELECT 1");
	pg_server_need(c.l.server, s);
	pg_server_need(c.l.server, s);
	assert_true(client_send(&c, PG_BIND, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_turn(&w);
	world_read(&w);
	assert_non_null(memmem(w.bytes, w.bytes_n, s->name, STMT_NAME + 1));
	sent(&w, "PBS");
	world_say(&w, "12Z");
	got(&c, "2Z"); /* the Parse was ours */
	pg_server_need(c.l.server, s);
	sent(&w, "");
	stmt_unref(&w.pools.stmts, &s);
	END(w, c);
}

static void
a_client_s_own_parse_is_forwarded_or_answered_at_its_turn(void **state)
{
	struct stmt *s;
	WORLD(w, c);

	s = stmt(&w, "SELECT 1");
	pg_server_parse(c.l.server, &c.l, s, 5);
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "PS");
	world_say(&w, "1Z");
	got(&c, "1Z");
	heard(&c, "+r");
	assert_int_equal(c.arg, 5);
	/* Known by now: nothing is sent, but the answer waits for its turn. */
	assert_true(client_send(&c, PG_EXECUTE, 0));
	pg_server_parse(c.l.server, &c.l, s, 6);
	assert_true(client_send(&c, PG_BIND, 0));
	pg_server_fake(c.l.server, &c.l, PG_CLOSE, 7);
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "EBS");
	world_say(&w, "D");
	got(&c, "D");
	heard(&c, "");
	world_say(&w, "C");
	got(&c, "C1");
	heard(&c, "+");
	world_say(&w, "2");
	got(&c, "23");
	heard(&c, "+");
	world_say(&w, "Z");
	heard(&c, "r");
	/* With nothing owed it is answered at once. */
	c.got_n = 0;
	pg_server_parse(c.l.server, &c.l, s, 8);
	got(&c, "1");
	stmt_unref(&w.pools.stmts, &s);
	END(w, c);
}

static void
all_of_that_in_one_read_keeps_its_order(void **state)
{
	struct stmt *s;
	WORLD(w, c);

	s = stmt(&w, "SELECT 1");
	pg_server_parse(c.l.server, &c.l, s, 5);
	assert_true(client_send(&c, PG_EXECUTE, 0));
	assert_true(client_send(&c, PG_COPY_END, 0));
	pg_server_parse(c.l.server, &c.l, s, 6);
	pg_server_fake(c.l.server, &c.l, PG_CLOSE, 7);
	assert_true(client_send(&c, PG_BIND, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "1GC2Z");
	got(&c, "1GC132Z");
	heard(&c, "+++r");
	stmt_unref(&w.pools.stmts, &s);
	END(w, c);
}

static void
an_answer_of_ours_proves_nothing_of_the_server(void **state)
{
	WORLD(w, c);

	pg_server_fake(c.l.server, &c.l, PG_CLOSE, 7);
	got(&c, "3");
	assert_false(c.l.server->proven);
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "S");
	world_say(&w, "Z");
	got(&c, "Z");
	heard(&c, "+r");
	assert_true(c.l.server->proven);
	END(w, c);
}

/* A fake answer must not land inside a message that is still coming. */
static void
a_fake_answer_waits_for_the_end_of_a_notice(void **state)
{
	struct stmt *s;
	WORLD(w, c);

	s = stmt(&w, "SELECT 1");
	pg_server_parse(c.l.server, &c.l, s, 5);
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "1Z");
	got(&c, "1Z");
	world_send(&w, "A\0\0\0\x0c\0\0\0\1a\0", 11); /* and two more */
	world_turns(&w, 2);
	pg_server_parse(c.l.server, &c.l, s, 6);
	world_send(&w, "b\0", 2);
	got(&c, "A1");
	stmt_unref(&w.pools.stmts, &s);
	END(w, c);
}

static void
makes_room_by_closing_the_oldest(void **state)
{
	struct stmt *s[5];
	char sql[24];
	WORLD(w, c); /* max_prepared_statements is 3 */

	for (int i = 0; i < 5; i++) {
		snprintf(sql, sizeof(sql), "SELECT %d", i);
		s[i] = stmt(&w, sql);
	}
	for (int i = 0; i < 3; i++)
		pg_server_need(c.l.server, s[i]);
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "PPPS");
	world_say(&w, "111Z");
	heard(&c, "r");
	pg_server_need(c.l.server, s[0]);
	pg_server_need(c.l.server, s[3]);
	world_turn(&w);
	world_read(&w);
	assert_non_null(memmem(w.bytes, w.bytes_n, s[1]->name, STMT_NAME));
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "CPS");
	world_say(&w, "31Z");
	heard(&c, "r");
	pg_server_need(c.l.server, s[0]);
	pg_server_need(c.l.server, s[3]);
	sent(&w, "");
	pg_server_need(c.l.server, s[1]);
	sent(&w, "CP");
	for (int i = 0; i < 5; i++)
		stmt_unref(&w.pools.stmts, &s[i]);
	END(w, c);
}

static void
a_parse_that_was_skipped_is_sent_again_behind_the_sync(void **state)
{
	struct stmt *s;
	WORLD(w, c);

	s = stmt(&w, "SELECT 1");
	assert_true(client_send(&c, PG_BIND, 0)); /* will fail */
	pg_server_need(c.l.server, s);
	assert_true(client_send(&c, PG_SYNC, 0));
	pg_server_need(c.l.server, s);
	assert_true(client_send(&c, PG_BIND, 0));
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "BPSCPBS"); /* closed first: it may be there */
	world_say(&w, "!Z312Z");
	got(&c, "EZ2Z");
	pg_server_need(c.l.server, s);
	sent(&w, "");
	stmt_unref(&w.pools.stmts, &s);
	END(w, c);
}

static void
a_tag_says_that_all_statements_are_gone(void **state)
{
	static const char *const tags[] = { "DEALLOCATE ALL", "DISCARD ALL",
					    "DEALLOCATE", "DISCARD" };

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct stmt *s;
		WORLD(w, c);

		s = stmt(&w, "SELECT 1");
		pg_server_need(c.l.server, s);
		assert_true(client_send(&c, PG_SYNC, 0));
		assert_true(client_send(&c, PG_QUERY, 0));
		world_say(&w, "1Z");
		WORLD_PUT(&w, 'C', "s", tags[i]);
		world_say(&w, "Z");
		heard(&c, "r");
		assert_int_equal(pg_of(&c)->forgot, i < 2);
		sent(&w, "PSQ");
		pg_server_need(c.l.server, s);
		sent(&w, i < 2 ? "P" : "");
		stmt_unref(&w.pools.stmts, &s);
		END(w, c);
	}
}

static void
knows_whose_unnamed_statement_is_there(void **state)
{
	WORLD(w, c);
	assert_false(pg_server_has_unnamed(c.l.server, 1, 1));
	assert_true(pg_server_parse_unnamed(c.l.server, &c.l, 1, 1));
	assert_true(pg_server_has_unnamed(c.l.server, 1, 1));
	assert_false(pg_server_has_unnamed(c.l.server, 1, 2));
	assert_false(pg_server_has_unnamed(c.l.server, 2, 1));
	/* Sent, but past a Sync that is no proof. */
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_false(pg_server_has_unnamed(c.l.server, 1, 1));
	world_say(&w, "1Z");
	heard(&c, "r"); /* of success it is not told */
	assert_true(pg_server_has_unnamed(c.l.server, 1, 1));
	/* One that was skipped leaves there nobody knows what. */
	assert_true(client_send(&c, PG_BIND, 0));
	assert_true(pg_server_parse_unnamed(c.l.server, &c.l, 1, 2));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "!Z");
	heard(&c, "-r");
	assert_int_equal(c.arg, 2 | PG_UNNAMED);
	assert_false(pg_server_has_unnamed(c.l.server, 1, 1));
	assert_false(pg_server_has_unnamed(c.l.server, 1, 2));
	END(w, c);
}

static void
a_simple_query_drops_the_unnamed_statement(void **state)
{
	WORLD(w, c);
	assert_true(pg_server_parse_unnamed(c.l.server, &c.l, 1, 1));
	assert_true(client_send(&c, PG_SYNC, 0));
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "1ZCZ");
	heard(&c, "r");
	assert_false(pg_server_has_unnamed(c.l.server, 1, 1));
	assert_true(pg_server_parse_unnamed(c.l.server, &c.l, 1, 1));
	pg_server_close_unnamed(c.l.server);
	assert_false(pg_server_has_unnamed(c.l.server, 1, 1));
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "13Z");
	heard(&c, "r");
	END(w, c);
}

static void
poison_fails_there_and_tells_the_lessee(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_EXECUTE, 0));
	pg_server_poison(c.l.server, &c.l, 9);
	assert_true(client_send(&c, PG_EXECUTE, 3));
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "EDES");
	world_say(&w, "C");
	heard(&c, "");
	world_say(&w, "!Z");
	heard(&c, "+-r"); /* the poison; the Execute behind it */
	got(&c, "CZ");    /* its words are the lessee's */
	/* If something failed before it, it is skipped like the rest. */
	assert_true(client_send(&c, PG_EXECUTE, 0));
	pg_server_poison(c.l.server, &c.l, 9);
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "!Z");
	heard(&c, "-r");
	got(&c, "EZ");
	END(w, c);
}

static void
poison_that_does_not_fail_is_no_server_of_ours(void **state)
{
	WORLD(w, c);
	pg_server_poison(c.l.server, &c.l, 9);
	assert_true(client_send(&c, PG_SYNC, 0));
	world_say(&w, "tT");
	closed(&c, WHY_UPSTREAM_SENSE);
	END(w, c);
}

/* ---- coming back ------------------------------------------------------ */

static void
an_open_transaction_is_rolled_back(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	sent(&w, "Q");
	world_say(&w, "Cz");
	heard(&c, "r");
	server_release(c.l.server);
	assert_int_equal(w.pool->n[SERVER_RESET], 1);
	world_turn(&w);
	world_read(&w);
	assert_memory_equal(w.bytes, "Q\0\0\0\x0dROLLBACK", 14);
	w.bytes_n = 0;
	world_say(&w, "CZ");
	world_turns(&w, 2);
	assert_int_equal(w.pool->n[SERVER_IDLE], 1);
	got(&c, "CZ"); /* its own; nothing of the cleaning */
	END(w, c);
}

static void
a_pinned_server_is_discarded_and_knows_nothing_after(void **state)
{
	struct world w;
	struct client c, d;
	struct stmt *s;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	s = stmt(&w, "SELECT 1");
	pg_server_need(c.l.server, s);
	assert_true(client_send(&c, PG_SYNC, 0));
	sent(&w, "PBEPBEPBEPS");
	world_say(&w, "12C12C12C1z");
	heard(&c, "gor");
	pg_of(&c)->pinned = true;
	server_release(c.l.server);
	sent(&w, "Q"); /* ROLLBACK */
	world_say(&w, "CZ");
	world_turns(&w, 1);
	assert_int_equal(w.pool->n[SERVER_RESET], 1);
	world_turns(&w, 1);
	world_read(&w);
	assert_memory_equal(w.bytes,
			    "Q\0\0\0\x10"
			    "DISCARD ALL",
			    17);
	w.bytes_n = 0;
	WORLD_PUT(&w, 'S', "ss", "TimeZone", "UTC");
	WORLD_PUT(&w, 'C', "s", "DISCARD ALL");
	world_say(&w, "Z");
	world_turns(&w, 2);
	assert_int_equal(w.pool->n[SERVER_IDLE], 1);
	/* Everything is sent again, even to the same organization. */
	client_open(&d, &w, &acme, label(&w, "1"));
	assert_true(pool_want(w.pool, &d.l));
	pg_server_need(d.l.server, s);
	assert_false(pg_of(&d)->forgot);
	sent(&w, "PBEPBEPBEP");
	stmt_unref(&w.pools.stmts, &s);
	client_close(&d);
	END(w, c);
}

static void
what_cannot_be_cleaned_is_closed(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		WORLD(w, c);
		assert_true(client_send(&c, PG_QUERY, 0));
		world_say(&w, "CZ");
		heard(&c, "r");
		if (i == 0)
			pg_of(&c)->tainted = true;
		else if (i == 1)
			pg_of(&c)->doubt = true;
		else
			assert_true(client_send(&c, PG_BIND, 0)); /* owed */
		server_release(c.l.server);
		closed(&c, WHY_EOF);
		heard(&c, "");
		END(w, c);
	}
}

static void
a_cleaning_that_fails_closes_the_server(void **state)
{
	static const char *const answer[] = { "!Z", "Cz", "1" };

	(void)state;
	for (int i = 0; i < 3; i++) {
		WORLD(w, c);
		assert_true(client_send(&c, PG_QUERY, 0));
		world_say(&w, "Cz");
		heard(&c, "r");
		server_release(c.l.server);
		world_turns(&w, 2);
		world_say(&w, answer[i]);
		closed(&c, WHY_EOF);
		END(w, c);
	}
}

static void
an_error_left_unfinished_closes_the_server(void **state)
{
	WORLD(w, c);
	assert_true(client_send(&c, PG_BIND, 0));
	world_say(&w, "!");
	got(&c, "E");
	server_release(c.l.server); /* it never sent the Sync */
	closed(&c, WHY_EOF);
	END(w, c);
}

/* The one who is called back may be the one to go. */
static void
who_leaves_in_a_callback_hears_no_more(void **state)
{
	static const struct {
		char leave;
		const char *say, *heard;
	} t[] = {
		{ '-', "!Z", "-" }, { '+', "1", "+" },      { 'y', "1", "" },
		{ 'y', "!", "" },   { 'r', "1!Z", "+--r" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		WORLD(w, c);
		c.leave = t[i].leave;
		assert_true(client_send(&c, PG_PARSE, 1));
		assert_true(client_send(&c, PG_EXECUTE, 2));
		pg_server_fake(c.l.server, &c.l, PG_CLOSE, 3);
		assert_true(client_send(&c, PG_SYNC, 0));
		world_say(&w, t[i].say);
		world_say(&w, "N");
		heard(&c, t[i].heard);
		assert_null(c.l.server);
		assert_int_equal(w.pool->n[SERVER_IDLE], t[i].leave == 'r');
		END(w, c);
	}
}

static void
who_leaves_when_its_settings_are_confirmed_costs_the_server(void **state)
{
	struct world w;
	struct client c;

	(void)state;
	world_open(&w);
	client_open(&c, &w, &acme, label(&w, "1"));
	c.leave = 'o';
	assert_false(pool_want(w.pool, &c.l));
	world_log_in(&w);
	assert_non_null(c.l.server);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "12C12C12CTDCZ");
	heard(&c, "go");
	assert_int_equal(c.got_n, 0);
	closed(&c, WHY_EOF);
	END(w, c);
}

/* ---- streaming -------------------------------------------------------- */

static void
passes_everything_on_at_every_split(void **state)
{
	static const char script[] = "1\0\0\0\4"
				     "N\0\0\0\x08Sa\0\0"
				     "2\0\0\0\4"
				     "T\0\0\0\6\0\0"
				     "D\0\0\0\x0e\0\1\0\0\0\4abcd"
				     "D\0\0\0\6\0\0"
				     "C\0\0\0\x0dSELECT 2\0"
				     "Z\0\0\0\5T"
				     "E\0\0\0\x10"
				     "C42P01\0Mx\0\0\0"
				     "Z\0\0\0\5I";
	const size_t n = sizeof(script) - 1;

	(void)state;
	for (size_t cut = 0; cut <= n; cut++) {
		WORLD(w, c);
		assert_true(client_send(&c, PG_PARSE, 1));
		assert_true(client_send(&c, PG_BIND, 0));
		assert_true(client_send(&c, PG_DESCRIBE, 0));
		assert_true(client_send(&c, PG_EXECUTE, 2));
		assert_true(client_send(&c, PG_SYNC, 0));
		assert_true(client_send(&c, PG_EXECUTE, 3));
		assert_true(client_send(&c, PG_SYNC, 0));
		world_send(&w, script, cut);
		world_turns(&w, 2);
		assert_memory_equal(c.got, script, c.got_n);
		world_send(&w, script + cut, n - cut);
		heard(&c, "++-r");
		assert_int_equal(c.got_n, n);
		assert_memory_equal(c.got, script, n);
		END(w, c);
	}
}

static void
passes_everything_on_byte_by_byte(void **state)
{
	static const char script[] = "D\0\0\0\x0e\0\1\0\0\0\4abcd"
				     "C\0\0\0\x0dSELECT 2\0"
				     "Z\0\0\0\5I";
	WORLD(w, c);

	assert_true(client_send(&c, PG_QUERY, 0));
	for (size_t i = 0; i < sizeof(script) - 1; i++) {
		world_send(&w, script + i, 1);
		world_turn(&w);
	}
	assert_int_equal(c.got_n, sizeof(script) - 1);
	assert_memory_equal(c.got, script, c.got_n);
	heard(&c, "r");
	END(w, c);
}

/* A row, an error, a notice larger than any buffer of ours. */
static void
streams_what_is_larger_than_its_buffers(void **state)
{
	enum { BIG = 1 << 20 };
	static const char kinds[] = "DNA";
	uint8_t *body = malloc(BIG);

	(void)state;
	assert_non_null(body);
	for (size_t i = 0; i < BIG; i++)
		body[i] = (uint8_t)(i * 7 + i / 255);
	for (const char *k = kinds; *k != '\0'; k++) {
		WORLD(w, c);
		assert_true(client_send(&c, PG_QUERY, 0));
		WORLD_PUT(&w, *k, "b", slice_of(body, BIG));
		world_say(&w, "CZ");
		heard(&c, "r");
		assert_memory_equal(c.got + PG_HEADER, body, BIG);
		got(&c, (char[]){ *k, 'C', 'Z', 0 });
		END(w, c);
	}
	free(body);
}

/* Or whoever has to end it would write an error into the middle of a row. */
static void
who_was_given_half_a_message_knows(void **state)
{
	static const uint8_t half[] = { 'D', 0, 0, 0, 9, 1 };
	static const uint8_t rest[] = { 2, 3, 4, 5 };

	WORLD(w, c);
	assert_true(client_send(&c, PG_QUERY, 0));
	world_say(&w, "T");
	world_turns(&w, 2);
	assert_false(c.l.midway);
	world_send(&w, half, sizeof(half));
	world_turns(&w, 2);
	assert_true(c.l.midway);
	world_send(&w, rest, sizeof(rest));
	got(&c, "TD");
	assert_false(c.l.midway);
	world_say(&w, "D");
	world_send(&w, half, sizeof(half));
	world_turns(&w, 2);
	assert_true(c.l.midway);
	END(w, c);
}

static void
an_error_with_much_to_say_still_skips(void **state)
{
	enum { BIG = 200000 };
	char *text = malloc(BIG + 1);
	WORLD(w, c);

	assert_non_null(text);
	memset(text, 'x', BIG);
	text[BIG] = '\0';
	assert_true(client_send(&c, PG_PARSE, 1));
	assert_true(client_send(&c, PG_EXECUTE, 2));
	assert_true(client_send(&c, PG_SYNC, 0));
	WORLD_PUT(&w, 'E', "cscsc", 'C', "42P01", 'M', text, 0);
	heard(&c, "--");
	world_say(&w, "Z");
	got(&c, "EZ");
	heard(&c, "r");
	free(text);
	END(w, c);
}

/* In one piece or two: the code and the text come first. */
static void
a_plan_that_is_no_longer_true_is_told(void **state)
{
	static const struct {
		const char *code, *text, *routine, *heard;
	} t[] = {
		{ "0A000", "cached plan must not change result type", "x",
		  "+" },
		{ "0A000", "le plan en cache", "RevalidateCachedQuery", "+" },
		{ "0A000", "something else", "x", "" },
		{ "42P01", "cached plan must not change result type", "x", "" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (int kind = 0; kind < 2; kind++) {
			WORLD(w, c);
			assert_true(
			    client_send(&c, kind ? PG_DESCRIBE : PG_BIND, 7));
			assert_true(client_send(&c, PG_SYNC, 0));
			WORLD_PUT(&w, 'E', "cscscsc", 'C', t[i].code, 'M',
				  t[i].text, 'R', t[i].routine, 0);
			heard(&c, t[i].heard);
			if (t[i].heard[0] != '\0') {
				assert_int_equal(c.kind, PG_STALE);
				assert_int_equal(c.arg, 7);
			}
			world_say(&w, "Z");
			got(&c, "EZ");
			heard(&c, "r");
			END(w, c);
		}
}

/* ... BEGIN, set to nothing but confirmed by its answer. */
static void
a_begin_of_ours_that_fails_costs_the_server(void **state)
{
	static const struct {
		const char *say, *heard;
	} t[] = { { "!", "" }, { "1!", "" }, { "12!", "" } };

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		WORLD(w, c);
		pg_server_begin(c.l.server, NULL);
		assert_true(client_send(&c, PG_QUERY, 0));
		sent(&w, "PBEQ");
		world_say(&w, t[i].say);
		closed(&c, WHY_BEGIN_FAILED);
		END(w, c);
	}
	{
		WORLD(w, c);
		pg_server_begin(c.l.server, NULL);
		assert_true(client_send(&c, PG_QUERY, 0));
		sent(&w, "PBEQ");
		world_say(&w, "12CCZ");
		got(&c, "CZ"); /* its own alone */
		heard(&c, "r");
		END(w, c);
	}
}

static void
a_server_that_reads_strings_another_way_is_left(void **state)
{
	static const char other[] = "standard_conforming_strings\0off";
	WORLD(w, c);

	(void)state;
	assert_true(client_send(&c, PG_QUERY, 0));
	WORLD_PUT(&w, 'S', "ss", "standard_conforming_strings", "on");
	world_say(&w, "CZ");
	got(&c, "SCZ");
	heard(&c, "r");
	assert_true(client_send(&c, PG_QUERY, 0));
	WORLD_PUT(&w, 'S', "b", slice_of(other, sizeof(other)));
	closed(&c, WHY_UNSUPPORTED);
	END(w, c);
}

static void
what_we_must_read_whole_may_not_be_endless(void **state)
{
	WORLD(w, c);
	world_send(&w, "E\0\2\0\0", 5); /* with nothing asked */
	closed(&c, WHY_UPSTREAM_SENSE);
	END(w, c);
}

/* ---- whose pool ------------------------------------------------------- */

static void
pools_are_told_apart_by_every_name(void **state)
{
	static const char *const names[][2] = { { "a", "b" },
						{ "a", "c" },
						{ "b", "b" },
						{ "a/1:b", "c" },
						{ "a", "1:b/c" } };
	struct pool *p[5];
	struct world w;

	(void)state;
	world_open(&w);
	for (int i = 0; i < 5; i++) {
		p[i] = pool_find_postgres(&w.pools, &w.snapshot, &w.upstream,
					  names[i][0], names[i][1], NULL);
		for (int k = 0; k < i; k++)
			assert_ptr_not_equal(p[i], p[k]);
		assert_ptr_equal(pool_find_postgres(&w.pools, &w.snapshot,
						    &w.upstream, names[i][0],
						    names[i][1], NULL),
				 p[i]);
	}
	world_close(&w);
}

/* Or a client could name a database so long that the user is cut off. */
static void
a_name_too_long_for_a_key_has_no_pool(void **state)
{
	char name[2000];
	struct world w;

	(void)state;
	world_open(&w);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_null(pool_find_postgres(&w.pools, &w.snapshot, &w.upstream, name,
				       "b", NULL));
	name[800] = '\0';
	assert_non_null(pool_find_postgres(&w.pools, &w.snapshot, &w.upstream,
					   name, "b", NULL));
	world_close(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    logs_in_and_keeps_what_the_server_says_of_itself),
		cmocka_unit_test(logs_in_at_every_split),
		cmocka_unit_test(who_waits_hears_why_a_log_in_failed),
		cmocka_unit_test(
		    a_server_that_hangs_up_during_log_in_is_a_failure),
		cmocka_unit_test(settings_travel_in_front_of_the_first_request),
		cmocka_unit_test(the_next_of_the_same_settings_pays_nothing),
		cmocka_unit_test(other_settings_cost_their_difference),
		cmocka_unit_test(many_settings_go_in_several_statements),
		cmocka_unit_test(settings_that_are_refused_close_the_server),
		cmocka_unit_test(
		    who_leaves_before_its_settings_are_confirmed_costs_the_server),
		cmocka_unit_test(a_sync_of_its_own_ends_a_bind_nothing_follows),
		cmocka_unit_test(settings_taken_back_are_put_again),
		cmocka_unit_test(what_does_not_fit_closes_the_server),
		cmocka_unit_test(no_message_has_the_type_zero),
		cmocka_unit_test(refuses_frames_that_cannot_be),
		cmocka_unit_test(an_error_skips_to_the_next_sync),
		cmocka_unit_test(
		    what_is_sent_into_an_error_is_answered_by_nothing),
		cmocka_unit_test(an_error_of_a_simple_query_skips_nothing),
		cmocka_unit_test(rests_once_when_everything_is_answered),
		cmocka_unit_test(the_first_byte_behind_ready_for_query_tells),
		cmocka_unit_test(
		    is_not_at_rest_with_anything_behind_ready_for_query),
		cmocka_unit_test(notices_and_the_like_may_come_at_any_time),
		cmocka_unit_test(a_function_call_has_one_answer),
		cmocka_unit_test(the_last_words_of_a_server_are_passed_on),
		cmocka_unit_test(a_server_that_hangs_up_is_lost_to_its_lessee),
		cmocka_unit_test(copies_in_by_a_simple_query),
		cmocka_unit_test(a_sync_before_the_copy_was_over_has_no_answer),
		cmocka_unit_test(a_whole_copy_may_be_sent_at_once),
		cmocka_unit_test(a_sync_inside_a_copy_leaves_a_doubt),
		cmocka_unit_test(a_copy_that_fails_is_over),
		cmocka_unit_test(who_leaves_inside_a_copy_costs_the_server),
		cmocka_unit_test(copies_out_and_both),
		cmocka_unit_test(parses_a_statement_once_a_server),
		cmocka_unit_test(
		    a_client_s_own_parse_is_forwarded_or_answered_at_its_turn),
		cmocka_unit_test(all_of_that_in_one_read_keeps_its_order),
		cmocka_unit_test(
		    an_answer_of_ours_proves_nothing_of_the_server),
		cmocka_unit_test(a_fake_answer_waits_for_the_end_of_a_notice),
		cmocka_unit_test(makes_room_by_closing_the_oldest),
		cmocka_unit_test(
		    a_parse_that_was_skipped_is_sent_again_behind_the_sync),
		cmocka_unit_test(a_tag_says_that_all_statements_are_gone),
		cmocka_unit_test(knows_whose_unnamed_statement_is_there),
		cmocka_unit_test(a_simple_query_drops_the_unnamed_statement),
		cmocka_unit_test(poison_fails_there_and_tells_the_lessee),
		cmocka_unit_test(
		    poison_that_does_not_fail_is_no_server_of_ours),
		cmocka_unit_test(an_open_transaction_is_rolled_back),
		cmocka_unit_test(
		    a_pinned_server_is_discarded_and_knows_nothing_after),
		cmocka_unit_test(what_cannot_be_cleaned_is_closed),
		cmocka_unit_test(a_cleaning_that_fails_closes_the_server),
		cmocka_unit_test(an_error_left_unfinished_closes_the_server),
		cmocka_unit_test(who_leaves_in_a_callback_hears_no_more),
		cmocka_unit_test(a_plan_that_is_no_longer_true_is_told),
		cmocka_unit_test(a_begin_of_ours_that_fails_costs_the_server),
		cmocka_unit_test(
		    a_server_that_reads_strings_another_way_is_left),
		cmocka_unit_test(
		    who_leaves_when_its_settings_are_confirmed_costs_the_server),
		cmocka_unit_test(passes_everything_on_at_every_split),
		cmocka_unit_test(passes_everything_on_byte_by_byte),
		cmocka_unit_test(streams_what_is_larger_than_its_buffers),
		cmocka_unit_test(who_was_given_half_a_message_knows),
		cmocka_unit_test(an_error_with_much_to_say_still_skips),
		cmocka_unit_test(what_we_must_read_whole_may_not_be_endless),
		cmocka_unit_test(pools_are_told_apart_by_every_name),
		cmocka_unit_test(a_name_too_long_for_a_key_has_no_pool),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

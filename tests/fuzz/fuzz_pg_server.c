#include "tests/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/*
 * A server that says anything, to lessees who ask anything in any order.
 *
 * The first byte says how far the log-in goes by the book.  Then each byte is
 * an act of a lessee, a well-formed message of the server's, or the number of
 * raw bytes of its that follow.  Whatever happens, a lessee hears bytes of its
 * own settings only (client_reply() asserts it), and nothing is left behind.
 */
enum { CLIENTS = 2 };

struct fuzz {
	struct world w;
	struct client c[CLIENTS];
	struct tenant tenant[CLIENTS];
	struct stmt *stmt[4];
	uint32_t arg;
};

static void
fuzz_want(struct fuzz *f, struct client *c)
{
	if (c->l.server == NULL && c->l.waiting == NULL && f->w.pools.n < 4)
		(void)!pool_want(f->w.pool, &c->l);
}

static void
fuzz_prepared(struct fuzz *f, struct client *c, unsigned what)
{
	const struct stmt *s = f->stmt[what % 4];

	switch (what / 4 % 6) {
	case 0:
		pg_server_need(c->l.server, s);
		break;
	case 1:
		pg_server_parse(c->l.server, &c->l, s, ++f->arg);
		break;
	case 2:
		pg_server_fake(c->l.server, &c->l, PG_CLOSE, ++f->arg);
		break;
	case 3:
		pg_server_poison(c->l.server, &c->l, ++f->arg);
		break;
	case 4:
		if (pg_server_parse_unnamed(c->l.server, &c->l, 1, what))
			pg_server_put(c->l.server, "P\0\0\0\4", 5);
		break;
	default:
		pg_server_close_unnamed(c->l.server);
		break;
	}
}

static void
fuzz_state(struct client *c, unsigned what)
{
	struct pg_server *pg = pg_server(c->l.server);

	switch (what % 5) {
	case 0:
		pg->pinned = true;
		break;
	case 1:
		pg->unset = true;
		break;
	case 2:
		pg->tainted = true;
		break;
	case 3:
		if (pg->pinned && pg->status == 'I' && pg->s.ledger.n == 0)
			pg_server_rebind(&pg->s);
		break;
	default:
		c->give_back = !c->give_back;
		break;
	}
}

/* An act of a lessee that holds a server and keeps to the rules of one. */
static void
fuzz_act(struct fuzz *f, struct client *c, unsigned what)
{
	struct server *v = c->l.server;

	if (v == NULL || pg_server_full(v) ||
	    (pg_server_binding(v) && v->ledger.n > 24))
		return;
	if (what < 9)
		(void)client_send(c, (enum pg_kind)what,
				  what & 1 ? ++f->arg : 0);
	else if (what < 33)
		fuzz_prepared(f, c, what - 9);
	else if (what < 38)
		fuzz_state(c, what - 33);
	else if (what == 38)
		server_release(v);
	else if (what == 39)
		c->leave = c->leave ? 0 : "gr+-oy"[f->arg % 6];
}

/* One step; how many bytes of p it took. */
static size_t
fuzz_step(struct fuzz *f, const uint8_t *p, size_t n)
{
	static const char said[] = "Zz!CTDGHWNSAdtV123nsIcK";
	struct client *c = &f->c[p[0] & 1];
	unsigned what = p[0] >> 1;
	size_t raw;
	char one[2] = { 0 };

	if (what < 40) {
		fuzz_act(f, c, what);
	} else if (what < 42) {
		fuzz_want(f, c);
	} else if (what < 44) {
		world_turn(&f->w);
	} else if (what < 48) {
		if (!world_accept(&f->w))
			world_turns(&f->w, 2);
	} else if (what < 56) {
		raw = p[0] % 16 < n - 1 ? p[0] % 16 : n - 1;
		world_send(&f->w, p + 1, raw);
		world_turn(&f->w);
		return 1 + raw;
	} else {
		one[0] = said[p[0] % (sizeof(said) - 1)];
		world_say(&f->w, one);
		world_turn(&f->w);
	}
	return 1;
}

static void
fuzz_open(struct fuzz *f)
{
	static const char *const orgs[CLIENTS] = { "acme", "beta" };

	memset(f, 0, sizeof(*f));
	world_open(&f->w);
	f->w.upstream.pool_size = 1;
	budget_limit(f->w.pool->budget, 1);
	for (uint16_t i = 0; i < 4; i++)
		f->stmt[i] =
		    stmt_intern(&f->w.pools.stmts, slice_of(&i, sizeof(i)), 0);
	for (int i = 0; i < CLIENTS; i++) {
		struct label_pair pair[2] = {
			{ "app.org", orgs[i] },
			{ i ? "app.b" : "app.a", "x" },
		};

		f->tenant[i].weight = 1;
		client_open(&f->c[i], &f->w, &f->tenant[i],
			    label_new(&f->w.pools.labels, pair, 2));
	}
}

static void
fuzz_close(struct fuzz *f)
{
	for (int i = 0; i < CLIENTS; i++)
		f->c[i].leave = 0;
	for (int i = 0; i < CLIENTS; i++)
		client_close(&f->c[i]);
	world_turns(&f->w, 2);
	pools_close(&f->w.pools);
	world_turns(&f->w, 2);
	assert(f->w.pool->budget->count == 0);
	for (int i = 0; i < 4; i++)
		stmt_unref(&f->w.pools.stmts, &f->stmt[i]);
	world_close(&f->w);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char *const letters = "RSKZ";
	struct fuzz f;
	size_t at = 1;

	if (n < 1)
		return 0;
	fuzz_open(&f);
	fuzz_want(&f, &f.c[0]);
	for (int i = 0; i < 8 && !world_accept(&f.w); i++)
		world_turn(&f.w);
	if (f.w.fd >= 0) {
		if (p[0] % 4 > 0) {
			WORLD_PUT(&f.w, letters[0], "i", 0u);
			WORLD_PUT(&f.w, letters[1], "ss", "a", "b");
		}
		if (p[0] % 4 > 1)
			WORLD_PUT(&f.w, letters[2], "ii", 1u, 2u);
		if (p[0] % 4 > 2)
			WORLD_PUT(&f.w, letters[3], "c", 'I');
		world_turns(&f.w, 2);
		if (p[0] & 4)
			world_say(&f.w, "12C12C12C");
		while (at < n && f.w.fd >= 0)
			at += fuzz_step(&f, p + at, n - at);
	}
	fuzz_close(&f);
	return 0;
}

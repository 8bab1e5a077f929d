/*
 * world: one worker's pools over a scripted PostgreSQL server, in one thread
 * and without a clock of its own.
 *
 * The pool dials a unix socket in a folder of its own; the test is what
 * listens there.  A turn is the worker's, so nothing happens but in turns.
 * Errors abort: a test and a fuzz target fail alike.
 */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf/tenant.h"
#include "pool/pg_server.h"
#include "pool/pool.h"
#include "protocol/pg.h"

struct world {
	struct event_base *base;
	struct streams streams;
	struct stats stats;
	struct mailbox mailbox, *mailboxes[1];
	struct budgets budgets;
	struct pools pools;
	struct conf conf;
	struct conf_postgres upstream;
	struct conf_host hosts[4];	/* in one folder, told apart by port; 1 is used */
	SSL_CTX *contexts[1];
	struct snapshot snapshot;
	struct pool *pool;
	char dir[32];
	struct sockaddr_un path;
	int listener;
	int fd;			/* the server's end of the last connection; -1 */
	uint8_t *bytes;		/* what it received, not yet looked at */
	size_t bytes_n;
};

static inline void
world_fill(struct world *w)
{
	/* Of folders that come and go by the thousand a disk is slow to make. */
	strcpy(w->dir, access("/dev/shm", W_OK) == 0
			   ? "/dev/shm/weir-world-XXXXXX"
			   : "/tmp/weir-world-XXXXXX");
	if (mkdtemp(w->dir) == NULL)
		abort();
	w->upstream = (struct conf_postgres){
		.name = (char *)(uintptr_t)"main",
		.host = w->dir,
		.hosts = w->hosts,
		.hosts_n = 1,
		.port = 5432,
		.sslmode = SSLMODE_DISABLE,
		.pool_size = 2,
	};
	for (unsigned i = 0; i < 4; i++)
		w->hosts[i] = (struct conf_host){ w->dir, 5432 + i };
	w->conf.postgres = &w->upstream;
	w->conf.postgres_n = 1;
	w->conf.max_prepared_statements = 3;
	w->conf.server_login_retry_ms = 1000;
	w->snapshot.conf = &w->conf;
	w->snapshot.postgres = w->contexts;
	atomic_store(&w->snapshot.refs, 1);
}

static inline void
world_listen(struct world *w)
{
	w->path.sun_family = AF_UNIX;
	snprintf(w->path.sun_path, sizeof(w->path.sun_path),
		 "%s/.s.PGSQL.5432", w->dir);
	w->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (w->listener < 0 ||
	    bind(w->listener, (struct sockaddr *)&w->path, sizeof(w->path)) != 0 ||
	    listen(w->listener, 16) != 0)
		abort();
}

static inline void
world_open(struct world *w)
{
	memset(w, 0, sizeof(*w));
	signal(SIGPIPE, SIG_IGN);
	w->fd = -1;
	world_fill(w);
	world_listen(w);
	w->mailboxes[0] = &w->mailbox;
	if ((w->base = event_base_new()) == NULL ||
	    streams_init(&w->streams, w->base, &w->stats) != 0 ||
	    mailbox_init(&w->mailbox, &w->pools) != 0 ||
	    budgets_init(&w->budgets, 1, w->mailboxes, pools_nudged) != 0)
		abort();
	w->pools.streams = &w->streams;
	w->pools.stats = &w->stats;
	w->pools.mailbox = &w->mailbox;
	w->pools.mailboxes = w->mailboxes;
	w->pools.budgets = &w->budgets;
	pools_init(&w->pools);
	w->pool = pool_find_postgres(&w->pools, &w->snapshot, &w->upstream,
	    "database", "user", "password");
	if (w->pool == NULL)
		abort();
}

static inline void
world_turn(struct world *w)
{
	event_base_loop(w->base, EVLOOP_NONBLOCK);
	mailbox_drain(&w->mailbox);
	pools_poke(&w->pools);
	streams_tick(&w->streams);
	streams_flush(&w->streams);
	pools_reap(&w->pools);
}

static inline void
world_turns(struct world *w, int n)
{
	while (n-- > 0)
		world_turn(w);
}

static inline void
world_close(struct world *w)
{
	pools_close(&w->pools);
	world_turns(w, 2);
	pools_fini(&w->pools);
	budgets_fini(&w->budgets);
	mailbox_fini(&w->mailbox);
	streams_fini(&w->streams);
	event_base_free(w->base);
	assert(atomic_load(&w->snapshot.refs) == 1);
	if (w->fd >= 0)
		close(w->fd);
	close(w->listener);
	unlink(w->path.sun_path);
	rmdir(w->dir);
	free(w->bytes);
}

/* ---- the server's end ------------------------------------------------- */

static inline bool
world_accept(struct world *w)
{
	int fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK);

	if (fd < 0)
		return false;
	if (w->fd >= 0)
		close(w->fd);
	w->fd = fd;
	w->bytes_n = 0;
	return true;
}

static inline void
world_send(struct world *w, const void *p, size_t n)
{
	const uint8_t *at = p;

	while (n > 0) {
		ssize_t sent = send(w->fd, at, n, MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			return; /* it has hung up: so be it */
		if (sent > 0) {
			at += sent;
			n -= (size_t)sent;
		}
		if (n > 0)
			world_turn(w);
	}
}

static inline void
world_read(struct world *w)
{
	ssize_t n;

	do {
		w->bytes = realloc(w->bytes, w->bytes_n + 65536);
		if (w->bytes == NULL)
			abort();
		n = recv(w->fd, w->bytes + w->bytes_n, 65536, 0);
		if (n > 0)
			w->bytes_n += (size_t)n;
	} while (n > 0);
}

/* Whether it was hung up on, after all it received. */
static inline bool
world_hung_up(struct world *w)
{
	uint8_t byte;
	ssize_t n;

	world_read(w);
	n = recv(w->fd, &byte, 1, MSG_PEEK);
	return n == 0 || (n < 0 && errno != EAGAIN);
}

/* One message: type, length and a body of the given fields (see pg_put). */
#define WORLD_PUT(w, type, ...)                                               \
	do {                                                                  \
		struct buf b_;                                                \
		size_t n_;                                                    \
		buf_init(&b_, 1 << 30);                                       \
		if (pg_put(&b_, type, __VA_ARGS__) != 0)                      \
			abort();                                              \
		world_send(w, buf_peek(&b_, &n_), buf_len(&b_));              \
		buf_free(&b_);                                                \
	} while (0)

/*
 * Messages by their letters, with small bodies that make sense:
 *	1 2 3 n s I c	empty		Z T E	ReadyForQuery I, T, E: below
 *	C	CommandComplete		D	DataRow, R	RowDescription
 */
static inline void
world_say(struct world *w, const char *what)
{
	for (; *what != '\0'; what++) {
		switch (*what) {
		case 'Z':
			WORLD_PUT(w, 'Z', "c", 'I');
			break;
		case 'z':
			WORLD_PUT(w, 'Z', "c", 'T');
			break;
		case '!':
			WORLD_PUT(w, 'E', "cscscsc", 'S', "ERROR", 'C', "42P01",
			    'M', "no such thing", 0);
			break;
		case 'C':
			WORLD_PUT(w, 'C', "s", "SELECT 1");
			break;
		case 'T':
			WORLD_PUT(w, 'T', "h", 0);
			break;
		case 'D':
			WORLD_PUT(w, 'D', "hib", 1, 5u, slice_str("hello"));
			break;
		case 'G':
		case 'H':
		case 'W':
			WORLD_PUT(w, *what, "ch", 0, 0);
			break;
		case 'N':
			WORLD_PUT(w, 'N', "cscsc", 'S', "NOTICE", 'M', "so", 0);
			break;
		case 'S':
			WORLD_PUT(w, 'S', "ss", "TimeZone", "UTC");
			break;
		case 'A':
			WORLD_PUT(w, 'A', "iss", 1u, "channel", "payload");
			break;
		case 'd':
			WORLD_PUT(w, 'd', "b", slice_str("row\n"));
			break;
		case 't':
			WORLD_PUT(w, 't', "h", 0);
			break;
		case 'V':
			WORLD_PUT(w, 'V', "i", 0xffffffffu);
			break;
		default:
			WORLD_PUT(w, *what, "");
			break;
		}
	}
}

/* Accepts the next connection and logs it in. */
static inline void
world_log_in(struct world *w)
{
	for (int i = 0; i < 100 && !world_accept(w); i++)
		world_turn(w);
	world_turns(w, 2);
	world_read(w);
	w->bytes_n = 0; /* the startup packet */
	WORLD_PUT(w, 'R', "i", 0u);
	WORLD_PUT(w, 'S', "ss", "server_version", "15.0");
	WORLD_PUT(w, 'K', "ii", 4711u, 4712u);
	WORLD_PUT(w, 'Z', "c", 'I');
	world_turns(w, 2);
}

/* ---- a lessee --------------------------------------------------------- */

struct client {
	struct lessee l; /* first */
	struct world *w;
	uint8_t *got;	/* all replies */
	size_t got_n;
	char heard[4096]; /* what it was told, one letter each: g grant, r rest,
			     + settled, - not done, x lost, o room */
	uint32_t arg;	/* of the last settled */
	unsigned kind;
	enum why why;
	char sqlstate[6], text[256];
	bool give_back;	/* at rest */
	char leave;	/* gives its server up when it hears that */
};

static inline void
client_note(struct client *c, char what)
{
	size_t n = strlen(c->heard);

	if (n < sizeof(c->heard) - 1) {
		c->heard[n] = what;
		c->heard[n + 1] = '\0';
	}
	if (c->leave == what && c->l.server != NULL)
		server_release(c->l.server);
}

static inline void
client_granted(struct lessee *l, struct server *v)
{
	assert(l->server == v);
	client_note((struct client *)l, 'g');
}

static inline void
client_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct client *c = (struct client *)l;

	assert(n > 0 && l->server != NULL);
	assert(l->server->tenant == l->tenant ||
	       pg_server(l->server)->bind_reports);
	c->got = realloc(c->got, c->got_n + n);
	if (c->got == NULL)
		abort();
	memcpy(c->got + c->got_n, p, n);
	c->got_n += n;
	if (c->leave == 'y')
		server_release(l->server);
}

static inline void
client_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct client *c = (struct client *)l;

	assert(l->server != NULL && arg != 0);
	c->kind = kind;
	c->arg = arg;
	client_note(c, done ? '+' : '-');
}

static inline void
client_rest(struct lessee *l)
{
	struct client *c = (struct client *)l;

	assert(l->server->ledger.n == 0);
	client_note(c, 'r');
	if (c->give_back && l->server != NULL)
		server_release(l->server);
}

static inline void
client_lost(struct lessee *l, enum why why, const char *sqlstate,
    const char *text)
{
	struct client *c = (struct client *)l;

	assert(l->server == NULL && l->waiting == NULL);
	c->why = why;
	snprintf(c->sqlstate, sizeof(c->sqlstate), "%s", sqlstate ? sqlstate : "");
	snprintf(c->text, sizeof(c->text), "%s", text ? text : "");
	client_note(c, 'x');
}

static inline void
client_room(struct lessee *l)
{
	client_note((struct client *)l, 'o');
}

static inline void
client_open(struct client *c, struct world *w, const struct tenant *t,
    struct label *label)
{
	static const struct lessee_ops ops = { client_granted, client_reply,
		client_settled, client_rest, client_lost, client_room };

	memset(c, 0, sizeof(*c));
	c->w = w;
	c->l.ops = &ops;
	c->l.tenant = t;
	c->l.label = label;
	c->l.mode = LEASE_EXCLUSIVE;
}

/* Gives up what it holds. */
static inline void
client_close(struct client *c)
{
	pool_unwant(&c->l);
	if (c->l.server != NULL)
		server_release(c->l.server);
	label_unref(&c->l.label);
	free(c->got);
}

/* Sends a whole message of that kind, if it is to be sent. */
static inline bool
client_send(struct client *c, enum pg_kind kind, uint32_t arg)
{
	static const uint8_t type[] = { [PG_QUERY] = 'Q', [PG_PARSE] = 'P',
		[PG_BIND] = 'B', [PG_DESCRIBE] = 'D', [PG_EXECUTE] = 'E',
		[PG_CLOSE] = 'C', [PG_SYNC] = 'S', [PG_FUNCTION] = 'F',
		[PG_COPY_END] = 'c' };
	uint8_t message[5] = { type[kind], 0, 0, 0, 4 };

	if (!pg_server_expect(c->l.server, &c->l, kind, LEDGER_FORWARD, arg,
		STMT_NONE))
		return false;
	pg_server_put(c->l.server, message, sizeof(message));
	return true;
}

#endif

/*
 * Two clients and what is upstream, whose bytes are the input: an operation byte
 * (who, and how much), then what he says.  Whatever is said, one client never
 * receives a byte that only the other has sent; nor is what one client has left
 * open on a connection, a transaction or a key that it watches, open when the
 * other's requests come there.
 *
 * With FUZZ_CLUSTER there are two nodes, which also send clients to each other; and
 * one of them is not always listed.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool/redis_nodes.h"
#include "protocol/redis_slot.h"
#include "proxy/redis_census.h"
#include "proxy/redis_session.h"
#include "proxy/worker.h"

#ifdef FUZZ_CLUSTER
enum { NODES = 2 };
#define MORE "cluster=on\n"
#else
enum { NODES = 1 };
#define MORE "connections=4\n"
#endif

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);
extern const int replay_mutations;
const int replay_mutations = 500;

enum { CLIENTS = 2, LISTED = 64, TURNS = 6, OWN_MARK = 0x01, UPS = 4 };

#define HOUR_NS (3600ull * 1000000000)

/* What lasts from input to input. */
static struct {
	int listener[NODES];
	unsigned port[NODES];
	struct snapshot *snapshot;
} world;

/* A connection of weir's. */
struct up {
	int fd;           /* -1: none */
	int node;         /* it is to */
	struct buf asked; /* by weir, not yet answered */
	unsigned login;   /* requests of its log-in still to come */
	bool raved;       /* it has said what nobody asked for */
	bool multi;
	unsigned queued;
	struct buf elements; /* of EXEC's reply */
	uint8_t
	    whose; /* what is open there: a client's mark; 0: nobody's yet */
	bool watches;
};

struct scene {
	struct weir weir;
	struct mailbox *mailbox;
	struct worker *w;
	int client[CLIENTS];
	struct up up[UPS];
	unsigned latest; /* of them; it takes its turn */
	struct redis_nodes *nodes;
};

static void
nonblocking(int fd)
{
	if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
		abort();
}

static unsigned
listen_somewhere(int *listener)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	socklen_t len = sizeof(in);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(*listener, (struct sockaddr *)&in, len) != 0 ||
	    listen(*listener, LISTED) != 0 ||
	    getsockname(*listener, (struct sockaddr *)&in, &len) != 0)
		abort();
	nonblocking(*listener);
	return ntohs(in.sin_port);
}

static void
world_open(void)
{
	char file[] = "/tmp/weir-fuzz-redis-XXXXXX";
	struct conf_errors errors;
	int fd = mkstemp(file);

	for (int i = 0; i < NODES; i++)
		world.port[i] = listen_somewhere(&world.listener[i]);
	if (fd < 0)
		abort();
	dprintf(fd,
		"[weir]\nworkers=1\nredis_listen=127.0.0.1:1\n"
		"[redis main]\nurl=redis://127.0.0.1:%u\n"
		"dedicated_connections=2\n" MORE
		"[user default]\nauth=trust\n[user u]\npassword=p\n",
		world.port[0]);
	close(fd);
	world.snapshot = snapshot_load(file, &errors);
	for (size_t i = 0; i < errors.n; i++)
		fprintf(stderr, "%s\n", errors.line[i]);
	conf_errors_free(&errors);
	unlink(file);
	if (world.snapshot == NULL)
		abort();
}

/* A byte only this client may send: the other's becomes something else. */
static uint8_t
own(int who, uint8_t byte)
{
	return byte > 0 && byte <= CLIENTS + OWN_MARK
		   ? (uint8_t)(who + OWN_MARK)
		   : byte;
}

/* The same without the clients' own bytes. */
static void
disown(uint8_t *said, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		said[i] = own(0, p[i]) == own(1, p[i]) ? p[i] : ' ';
}

static void
client_hears(struct scene *sc, int who)
{
	uint8_t got[4096];
	ssize_t n;

	while ((n = recv(sc->client[who], got, sizeof(got), 0)) > 0)
		for (ssize_t i = 0; i < n; i++)
			assert(own(who, got[i]) == got[i]);
}

/* ---- upstream ---------------------------------------------------------- */

static void
up_close(struct up *up)
{
	if (up->fd >= 0)
		close(up->fd);
	buf_free(&up->asked);
	buf_free(&up->elements);
	*up = (struct up){ .fd = -1 };
	buf_init(&up->asked, 64 << 20);
	buf_init(&up->elements, 64 << 20);
}

static void
upstream_open(struct scene *sc, int node)
{
	struct linger now = { .l_onoff = 1 };
	int at_once = 1;
	int fd = accept(world.listener[node], NULL, NULL);
	struct up *up = &sc->up[sc->latest % UPS];

	if (fd < 0)
		return;
	nonblocking(fd);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof(at_once));
	up_close(up);
	up->fd = fd;
	up->node = node;
	up->login = 1;
	sc->latest++;
}

static void
up_hears(struct up *up)
{
	uint8_t got[4096];
	ssize_t n;

	while (up->fd >= 0 && (n = recv(up->fd, got, sizeof(got), 0)) > 0)
		if (buf_put(&up->asked, got, (size_t)n) != 0)
			abort();
}

/* Whose request is it? */
static uint8_t
owner(const struct resp_request *r)
{
	for (size_t i = 0; i < r->argc; i++)
		for (size_t k = 0; k < r->arg[i].n; k++)
			if (own(0, r->arg[i].p[k]) != own(1, r->arg[i].p[k]))
				return r->arg[i].p[k];
	return 0;
}

static void
up_checks(struct up *up, const struct resp_request *r)
{
	uint8_t who = owner(r);

	if (slice_is_word(r->arg[0], "reset")) {
		up->watches = up->multi = false;
		buf_free(&up->elements);
		up->queued = 0;
	}
	if (!up->watches && !up->multi)
		up->whose = 0;
	if (who == 0)
		return;
	assert(up->whose == 0 || up->whose == who || up->raved);
	up->whose = who;
}

static int
up_ends_transaction(struct up *up, struct buf *reply, bool exec)
{
	size_t n;
	const uint8_t *p = buf_peek(&up->elements, &n);
	int bad = exec ? resp_put_array(reply, up->queued)
		       : resp_put_simple(reply, "OK");

	if (exec && n > 0)
		bad |= buf_put(reply, p, n);
	buf_free(&up->elements);
	up->multi = up->watches = false;
	up->queued = 0;
	return bad;
}

static int
put_subscribed(struct buf *reply, const struct resp_request *r)
{
	int bad = 0;

	for (size_t i = 1; i < r->argc; i++) {
		bad |= resp_put_array(reply, 3);
		bad |= resp_put_bulk(
		    reply, r->arg[0].p[0] == 'P' ? "psubscribe" : "subscribe",
		    r->arg[0].p[0] == 'P' ? 10 : 9);
		bad |= resp_put_bulk(reply, r->arg[i].p, r->arg[i].n);
		bad |= resp_put_int(reply, (int64_t)i);
	}
	return bad;
}

/* One for each channel of a shard, asked for or not. */
static int
put_shard(struct buf *reply, const struct resp_request *r, const char *word)
{
	int bad = 0;

	for (size_t i = 1; i < r->argc; i++) {
		bad |= resp_put_array(reply, 3);
		bad |= resp_put_bulk(reply, word, strlen(word));
		bad |= resp_put_bulk(reply, r->arg[i].p, r->arg[i].n);
		bad |= resp_put_int(reply, (int64_t)i);
	}
	return bad;
}

/* Its last argument; or what a transaction says. */
static int
up_reply(struct up *up, struct buf *reply, const struct resp_request *r)
{
	struct slice name = r->arg[0], last = r->arg[r->argc - 1];

	up_checks(up, r);
	if (up->multi &&
	    (slice_is_word(name, "exec") || slice_is_word(name, "discard")))
		return up_ends_transaction(up, reply,
					   slice_is_word(name, "exec"));
	if (up->multi) {
		up->queued++;
		return resp_put_bulk(&up->elements, last.p, last.n) |
		       resp_put_simple(reply, "QUEUED");
	}
	up->multi = slice_is_word(name, "multi");
	if (up->multi)
		return resp_put_simple(reply, "OK");
	if (slice_is_word(name, "watch") || slice_is_word(name, "unwatch"))
		up->watches = slice_is_word(name, "watch");
	if (slice_is_word(name, "ssubscribe"))
		return put_shard(reply, r, "ssubscribe");
	if (slice_is_word(name, "sunsubscribe"))
		return put_shard(reply, r, "sunsubscribe");
	if (slice_is_word(name, "ping") && r->argc == 1)
		return resp_put_simple(reply, "PONG");
	if (slice_is_word(name, "client") && slice_is_word(last, "id"))
		return resp_put_int(reply, 7);
	if (slice_is_word(name, "subscribe") ||
	    slice_is_word(name, "psubscribe"))
		return put_subscribed(reply, r);
	return resp_put_bulk(reply, last.p, last.n);
}

/* It is told to ask the other node. */
static int
up_turns(struct up *up, struct buf *reply, const struct resp_request *r)
{
	int slot = redis_slot_of(r->arg, r->argc);
	char text[64];

	if (slot < 0 || up->multi)
		return up_reply(up, reply, r);
	snprintf(text, sizeof(text), "%s %d 127.0.0.1:%u",
		 slot & 1 ? "ASK" : "MOVED", slot,
		 world.port[(up->node + 1) % NODES]);
	/* It has said so, of what was subscribed to. */
	if (slice_is_word(r->arg[0], "sunsubscribe") &&
	    put_shard(reply, r, "sunsubscribe") != 0)
		return -1;
	return resp_put_error(reply, text);
}

/* Replies to one request; what weir sends is whole and canonical, or this fails.
 * Behind what nobody asked for, which may have been taken for an answer, its
 * answers are anybody's. */
static bool
up_answers(struct up *up, bool turns)
{
	struct resp_request r = { 0 };
	struct buf reply;
	const uint8_t *p;
	size_t n;
	ssize_t used;
	bool ok;

	p = buf_peek(&up->asked, &n);
	if (n == 0 || up->fd < 0)
		return false;
	used = resp_request_next(&r, p, n, true, REDIS_REQUEST_MAX);
	assert(used >= 0);
	buf_init(&reply, 1 << 20);
	if (used > 0 &&
	    (turns ? up_turns(up, &reply, &r) : up_reply(up, &reply, &r)) != 0)
		abort();
	p = buf_peek(&reply, &n);
	if (up->raved && n > 0)
		disown((uint8_t *)(uintptr_t)p, p, n);
	ok = used > 0 && send(up->fd, p, n, MSG_NOSIGNAL) == (ssize_t)n;
	buf_consume(&up->asked, (size_t)used);
	buf_free(&reply);
	resp_request_free(&r);
	return ok;
}

/* The slots are elsewhere, and each third time the last node has none, and is
 * not listed any more. */
static void
slots_move(struct redis_nodes *all)
{
	struct redis_node *last = all->node[NODES - 1];
	struct redis_nodes_use *next, *use = last->uses;

	last->member = ++all->version % 3 != 0;
	for (unsigned i = 0; i < REDIS_SLOTS; i++)
		all->slot[i] =
		    (uint16_t)(1 +
			       (last->member ? (i + all->version) % NODES : 0));
	for (; use != NULL && !last->member; use = next) {
		next = use->next;
		use->gone(use);
	}
}

/* What they know of each other has changed, or has not. */
static void
nodes_change(struct scene *sc, bool all)
{
	struct redis_nodes_wait *w;

	if (sc->nodes == NULL)
		return;
	if (all)
		slots_move(sc->nodes);
	while ((w = sc->nodes->waiting) != NULL) {
		redis_nodes_unwait(w);
		w->over(w);
	}
}

static void
turn(struct scene *sc)
{
	struct worker *w = sc->w;

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
	for (int i = 0; i < NODES; i++)
		upstream_open(sc, i);
	for (struct up *up = sc->up; up < sc->up + UPS; up++) {
		up_hears(up);
		/* Its log-in, a PING and perhaps a SELECT, is answered at once. */
		for (; up->login > 0 && buf_len(&up->asked) > 0; up->login--)
			while (up_answers(up, false))
				;
	}
	for (int i = 0; i < CLIENTS; i++)
		if (sc->client[i] >= 0)
			client_hears(sc, i);
}

static void
client_says(struct scene *sc, int who, const uint8_t *p, size_t n)
{
	uint8_t said[64];

	assert(n <= sizeof(said));
	for (size_t i = 0; i < n; i++)
		said[i] = own(who, p[i]);
	(void)!send(sc->client[who], said, n, MSG_NOSIGNAL);
}

/* Not its answers, but anything: without the clients' own bytes. */
static void
up_raves(struct up *up, const uint8_t *p, size_t n)
{
	uint8_t said[64];

	assert(n <= sizeof(said));
	disown(said, p, n);
	up->raved = true;
	if (up->fd >= 0)
		(void)!send(up->fd, said, n, MSG_NOSIGNAL);
}

static void
hang_up(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* One operation; bytes of the input it took. */
static size_t
act(struct scene *sc, const uint8_t *p, size_t n)
{
	size_t len = (size_t)(p[0] >> 3) * 2;
	struct up *up = &sc->up[(p[0] >> 3) % UPS];
	int count = p[0] >> 5;

	len = len < n - 1 ? len : n - 1;
	switch (p[0] & 7) {
	case 0:
	case 1:
	case 2:
	case 3:
		client_says(sc, p[0] & 1, p + 1, len);
		break;
	case 4:
		for (int i = 0; i <= count; i++)
			up_answers(up, false);
		return 1;
	case 5:
		if (count > 5)
			nodes_change(sc, count == 7);
		else
			for (int i = 0; i <= count; i++)
				up_answers(up, true);
		return 1;
	case 6:
		up_raves(up, p + 1, len);
		break;
	case 7:
		if (count < 6)
			hang_up(&sc->client[count & 1]);
		else
			up_close(up);
		return 1;
	}
	return 1 + len;
}

/* Both nodes are known, and nobody else is asked. */
static void
nodes_open(struct scene *sc)
{
	struct redis_nodes *all;

	if (!world.snapshot->conf->redis[0].cluster)
		return;
	all = redis_nodes_find(&sc->w->pools, world.snapshot,
			       &world.snapshot->conf->redis[0]);
	for (all->n = 0; all->n < NODES; all->n++) {
		struct redis_node *node = calloc(1, sizeof(*node));

		if (node == NULL || (node->name = strdup("127.0.0.1")) == NULL)
			abort();
		node->port = world.port[all->n];
		node->member = true;
		all->node[all->n] = node;
	}
	for (unsigned i = 0; i < REDIS_SLOTS; i++)
		all->slot[i] = (uint16_t)(1 + i % NODES);
	all->known = true;
	all->learnt_ns = sc->w->streams.now_ns + HOUR_NS;
	sc->nodes = all;
}

static void
scene_open(struct scene *sc)
{
	*sc = (struct scene){ 0 };
	for (struct up *up = sc->up; up < sc->up + UPS; up++) {
		up->fd = -1;
		up_close(up);
	}
	sc->weir.snapshot = world.snapshot;
	rates_init(&sc->weir.rates);
	redis_facts_init(&sc->weir.facts);
	sc->weir.census = redis_census_open();
	assert(sc->weir.census != NULL);
	sc->weir.workers = 1;
	sc->weir.mailboxes = &sc->mailbox;
	if (budgets_init(&sc->weir.budgets, 1, &sc->mailbox, pools_nudged) != 0)
		abort();
	sc->w = worker_open(&sc->weir, 0);
	assert(sc->w != NULL);
	sc->mailbox = &sc->w->mailbox;
	event_del(&sc->w->tick);
	event_del(&sc->w->mail);
	nodes_open(sc);
	for (int i = 0; i < CLIENTS; i++) {
		int fd[2];

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
			abort();
		nonblocking(fd[0]);
		nonblocking(fd[1]);
		atomic_fetch_add(&sc->weir.clients, 1);
		session_open(sc->w, fd[0], &redis_proto, NULL, true);
		sc->client[i] = fd[1];
	}
}

/* Everybody leaves, and nothing is left. */
static void
scene_close(struct scene *sc)
{
	for (struct up *up = sc->up; up < sc->up + UPS; up++)
		up_close(up);
	for (int i = 0; i < CLIENTS; i++)
		hang_up(&sc->client[i]);
	for (int i = 0; sc->w->sessions_n > 0; i++) {
		assert(i < 100000);
		turn(sc);
		/* Who has left is waited for while replies are to come. */
		for (struct up *up = sc->up; up < sc->up + UPS; up++)
			while (up_answers(up, false))
				;
	}
	assert(atomic_load(&sc->weir.clients) == 0);
	redis_nodes_leave(&sc->nodes);
	worker_close(&sc->w);
	for (int i = 0; i < NODES; i++)
		upstream_open(sc, i);
	for (struct up *up = sc->up; up < sc->up + UPS; up++) {
		up_close(up);
		buf_free(&up->asked);
	}
	budgets_fini(&sc->weir.budgets);
	rates_fini(&sc->weir.rates);
	redis_facts_fini(&sc->weir.facts);
	redis_census_close(&sc->weir.census);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct scene sc;
	size_t at = 0;

	if (world.snapshot == NULL)
		world_open();
	scene_open(&sc);
	while (at < n && at < 4096) {
		at += act(&sc, p + at, n - at);
		for (int i = 0; i < TURNS; i++)
			turn(&sc);
	}
	scene_close(&sc);
	return 0;
}

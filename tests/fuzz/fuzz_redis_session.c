/*
 * Two clients and one upstream, whose bytes are the input: an operation byte
 * (who, and how much), then what he says.  Whatever is said, one client never
 * receives a byte that only the other has sent.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/redis_census.h"
#include "proxy/redis_session.h"
#include "proxy/worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

enum { CLIENTS = 2, LISTED = 64, TURNS = 6, OWN_MARK = 0x01 };

/* What lasts from input to input. */
static struct {
	int listener;
	struct snapshot *snapshot;
} world;

struct scene {
	struct weir weir;
	struct mailbox *mailbox;
	struct worker *w;
	int client[CLIENTS];
	int up;           /* the latest connection; -1: none */
	struct buf asked; /* by weir, not yet answered */
	unsigned login;   /* requests of its log-in still to come */
	bool raved;       /* it has said what nobody asked for */
};

static void
nonblocking(int fd)
{
	if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
		abort();
}

static void
world_open(void)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	char file[] = "/tmp/weir-fuzz-redis-XXXXXX";
	socklen_t len = sizeof(in);
	struct conf_errors errors;
	int fd = mkstemp(file);

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	world.listener = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(world.listener, (struct sockaddr *)&in, len) != 0 ||
	    listen(world.listener, LISTED) != 0 ||
	    getsockname(world.listener, (struct sockaddr *)&in, &len) != 0)
		abort();
	nonblocking(world.listener);
	dprintf(fd,
		"[weir]\nworkers=1\nredis_listen=127.0.0.1:1\n"
		"[redis main]\nurl=redis://127.0.0.1:%u\nconnections=2\n"
		"[user default]\nauth=trust\n[user u]\npassword=p\n",
		ntohs(in.sin_port));
	close(fd);
	world.snapshot = snapshot_load(file, &errors);
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

static void
upstream_open(struct scene *sc)
{
	struct linger now = { .l_onoff = 1 };
	int fd = accept(world.listener, NULL, NULL);

	if (fd < 0)
		return;
	nonblocking(fd);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	if (sc->up >= 0)
		close(sc->up);
	buf_free(&sc->asked);
	sc->up = fd;
	sc->login = 1;
	sc->raved = false;
}

static void
upstream_hears(struct scene *sc)
{
	uint8_t got[4096];
	ssize_t n;

	while (sc->up >= 0 && (n = recv(sc->up, got, sizeof(got), 0)) > 0)
		if (buf_put(&sc->asked, got, (size_t)n) != 0)
			abort();
}

/* Replies to one request with its last argument; what weir sends is whole and
 * canonical, or this fails.  Behind what nobody asked for, which may have been
 * taken for an answer, its answers are anybody's. */
static bool
upstream_answers(struct scene *sc)
{
	struct resp_request r = { 0 };
	struct buf reply;
	const uint8_t *p;
	size_t n;
	ssize_t used;
	bool ok;

	p = buf_peek(&sc->asked, &n);
	if (n == 0 || sc->up < 0)
		return false;
	used = resp_request_next(&r, p, n, true, REDIS_REQUEST_MAX);
	assert(used >= 0);
	buf_init(&reply, 1 << 20);
	if (used > 0 && resp_put_bulk(&reply, r.arg[r.argc - 1].p,
				      r.arg[r.argc - 1].n) != 0)
		abort();
	p = buf_peek(&reply, &n);
	if (sc->raved && n > 0)
		disown((uint8_t *)(uintptr_t)p, p, n);
	ok = used > 0 && send(sc->up, p, n, MSG_NOSIGNAL) == (ssize_t)n;
	buf_consume(&sc->asked, (size_t)used);
	buf_free(&reply);
	resp_request_free(&r);
	return ok;
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
	upstream_open(sc);
	upstream_hears(sc);
	/* Its log-in, a PING and perhaps a SELECT, is answered at once. */
	for (; sc->login > 0 && buf_len(&sc->asked) > 0; sc->login--)
		while (upstream_answers(sc))
			;
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
upstream_raves(struct scene *sc, const uint8_t *p, size_t n)
{
	uint8_t said[64];

	assert(n <= sizeof(said));
	disown(said, p, n);
	sc->raved = true;
	if (sc->up >= 0)
		(void)!send(sc->up, said, n, MSG_NOSIGNAL);
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

	len = len < n - 1 ? len : n - 1;
	switch (p[0] & 7) {
	case 0:
	case 1:
	case 2:
	case 3:
		client_says(sc, p[0] & 1, p + 1, len);
		break;
	case 4:
	case 5:
		for (int i = 0; i < (p[0] >> 3) + 1; i++)
			upstream_answers(sc);
		return 1;
	case 6:
		upstream_raves(sc, p + 1, len);
		break;
	case 7:
		hang_up(p[0] >> 3 < 12   ? &sc->client[0]
			: p[0] >> 3 < 24 ? &sc->client[1]
					 : &sc->up);
		return 1;
	}
	return 1 + len;
}

static void
scene_open(struct scene *sc)
{
	*sc = (struct scene){ .up = -1 };
	buf_init(&sc->asked, 64 << 20);
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
	hang_up(&sc->up);
	for (int i = 0; i < CLIENTS; i++)
		hang_up(&sc->client[i]);
	for (int i = 0; sc->w->sessions_n > 0; i++) {
		assert(i < 1000);
		turn(sc);
	}
	assert(atomic_load(&sc->weir.clients) == 0);
	worker_close(&sc->w);
	upstream_open(sc);
	hang_up(&sc->up);
	buf_free(&sc->asked);
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

/*
 * bench_floor: what a Redis proxy costs that does nothing.
 *
 *   bench_floor PORT REDIS_PORT
 *
 * Many clients share one connection to Redis: in each turn one recv of every
 * socket that is ready, then one send to every socket with something to say.
 * Requests and replies are framed, and nothing else is done with them: no
 * classes, limits, users, TLS, time-outs, counters.  So its CPU time is the
 * kernel's for the sockets, and no proxy of this shape can cost less; a row of
 * bench/redis.sh shows how much of a proxy's cost is its own.
 *
 * For measurements alone: memory is bounded by good behaviour of the clients.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/buf.h"
#include "protocol/resp.h"

enum { EVENTS = 1024, SCRATCH = 64 << 10, HOLD = 1 << 30 };

struct peer {
	int fd; /* -1: gone, and waited for by `owed` replies */
	struct buf in, out;
	unsigned owed;
	bool dirty, blocked;
	struct peer *next; /* of those with something to say */
};

struct floor {
	int epoll, listener;
	struct peer redis;
	struct peer *dirty;
	struct peer **owner; /* of each reply to come, a ring */
	size_t head, n, size;
	struct resp_request request;
	struct resp_reply reply;
	struct buf_spare spare;
	uint8_t scratch[SCRATCH];
};

static _Noreturn void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static void
watch(const struct floor *f, struct peer *p, int op, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = p };

	if (epoll_ctl(f->epoll, op, p->fd, &e) != 0)
		fail("epoll_ctl");
}

static void
peer_open(struct floor *f, struct peer *p, int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*p = (struct peer){ .fd = fd };
	buf_init(&p->in, HOLD);
	buf_init(&p->out, HOLD);
	p->in.spare = p->out.spare = &f->spare;
	watch(f, p, EPOLL_CTL_ADD, EPOLLIN);
}

static void
put(struct floor *f, struct peer *p, const uint8_t *bytes, size_t n)
{
	if (buf_put(&p->out, bytes, n) != 0)
		fail("memory");
	if (p->dirty)
		return;
	p->dirty = true;
	p->next = f->dirty;
	f->dirty = p;
}

/* ---- whose reply is next ---------------------------------------------- */

static void
owe(struct floor *f, struct peer *p)
{
	if (f->n == f->size) {
		size_t size = f->size ? 2 * f->size : 1024;
		struct peer **owner = calloc(size, sizeof(struct peer *));

		if (owner == NULL)
			fail("memory");
		for (size_t i = 0; i < f->n; i++)
			owner[i] = f->owner[(f->head + i) % f->size];
		free(f->owner);
		f->owner = owner;
		f->size = size;
		f->head = 0;
	}
	f->owner[(f->head + f->n++) % f->size] = p;
	p->owed++;
}

static void
let_go(struct peer *p)
{
	if (p->fd < 0 && p->owed == 0 && !p->dirty) {
		buf_free(&p->out);
		free(p);
	}
}

static void
paid(struct floor *f)
{
	struct peer *p = f->owner[f->head];

	f->head = (f->head + 1) % f->size;
	f->n--;
	p->owed--;
	let_go(p);
}

/* ---- what comes ------------------------------------------------------- */

static size_t
requests(struct floor *f, struct peer *p, const uint8_t *bytes, size_t n)
{
	size_t at = 0;
	ssize_t used;

	while (at < n && (used = resp_request_next(&f->request, bytes + at,
						   n - at, true, HOLD)) > 0) {
		owe(f, p);
		put(f, &f->redis, bytes + at, (size_t)used);
		at += (size_t)used;
	}
	return at;
}

static size_t
replies(struct floor *f, const uint8_t *bytes, size_t n)
{
	size_t at = 0;
	ssize_t used;
	bool done;

	while (at < n && f->n > 0) {
		struct peer *p = f->owner[f->head];

		used = resp_reply_next(&f->reply, bytes + at, n - at, &done);
		if (used < 0)
			fail("not a reply");
		if (used == 0)
			break;
		if (p->fd >= 0)
			put(f, p, bytes + at, (size_t)used);
		at += (size_t)used;
		if (done)
			paid(f);
	}
	return at;
}

static size_t
look(struct floor *f, struct peer *p, const uint8_t *bytes, size_t n)
{
	return p == &f->redis ? replies(f, bytes, n) : requests(f, p, bytes, n);
}

static void
readable(struct floor *f, struct peer *p)
{
	ssize_t got = recv(p->fd, f->scratch, SCRATCH, 0);
	const uint8_t *bytes = f->scratch;
	size_t n, used;

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		if (p == &f->redis)
			fail("Redis is gone");
		close(p->fd);
		p->fd = -1;
		buf_free(&p->in);
		let_go(p);
		return;
	}
	n = (size_t)got;
	if (buf_len(&p->in) > 0) {
		if (buf_put(&p->in, bytes, n) != 0)
			fail("memory");
		bytes = buf_peek(&p->in, &n);
		buf_consume(&p->in, look(f, p, bytes, n));
		return;
	}
	used = look(f, p, bytes, n);
	if (used < n && buf_put(&p->in, bytes + used, n - used) != 0)
		fail("memory");
}

/* ---- what goes -------------------------------------------------------- */

static void
flush(struct floor *f, struct peer *p)
{
	size_t n;
	const uint8_t *bytes = buf_peek(&p->out, &n);
	ssize_t sent;

	if (p->fd < 0 || p->blocked || n == 0)
		return;
	sent = send(p->fd, bytes, n, MSG_NOSIGNAL);
	if (sent > 0)
		buf_consume(&p->out, (size_t)sent);
	if (sent > 0 && (size_t)sent == n)
		return;
	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return; /* its end will be read */
	p->blocked = true;
	watch(f, p, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void
flush_all(struct floor *f)
{
	struct peer *p;

	while ((p = f->dirty) != NULL) {
		f->dirty = p->next;
		p->dirty = false;
		flush(f, p);
		let_go(p);
	}
}

static void
writable(struct floor *f, struct peer *p)
{
	p->blocked = false;
	watch(f, p, EPOLL_CTL_MOD, EPOLLIN);
	flush(f, p);
}

static void
turn(struct floor *f)
{
	struct epoll_event event[EVENTS];
	int n = epoll_wait(f->epoll, event, EVENTS, -1);

	for (int i = 0; i < n; i++) {
		struct peer *p = event[i].data.ptr;
		int fd;

		if (p != NULL) {
			if ((event[i].events & EPOLLOUT) != 0)
				writable(f, p);
			if ((event[i].events & ~EPOLLOUT) != 0)
				readable(f, p);
			continue;
		}
		while ((fd = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK)) >=
		       0) {
			if ((p = malloc(sizeof(*p))) == NULL)
				fail("memory");
			peer_open(f, p, fd);
		}
	}
	flush_all(f);
}

static struct sockaddr_in
loopback(const char *port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons((uint16_t)atoi(port)),
				     .sin_addr.s_addr =
					 htonl(INADDR_LOOPBACK) };
}

int
main(int argc, char **argv)
{
	static struct floor f;
	struct sockaddr_in here, redis;
	struct epoll_event e = { .events = EPOLLIN };
	int fd, one = 1;

	if (argc != 3) {
		fprintf(stderr, "usage: bench_floor PORT REDIS_PORT\n");
		return 2;
	}
	here = loopback(argv[1]);
	redis = loopback(argv[2]);
	f.epoll = epoll_create1(0);
	f.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(f.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&redis, sizeof(redis)) != 0 ||
	    bind(f.listener, (struct sockaddr *)&here, sizeof(here)) != 0 ||
	    listen(f.listener, 1024) != 0 ||
	    epoll_ctl(f.epoll, EPOLL_CTL_ADD, f.listener, &e) != 0)
		fail("bench_floor");
	peer_open(&f, &f.redis, fd);
	for (;;)
		turn(&f);
}

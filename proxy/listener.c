#include "proxy/listener.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "protocol/pg.h"
#include "proxy/session.h"
#include "proxy/worker.h"

enum { BACKLOG = 4096, ACCEPTS_A_TURN = 64 };

static int
bind_error(int fd, char *error, size_t n, const char *what)
{
	snprintf(error, n, "%s: %s", what, strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

static int
try_bind(const struct conf_listen *a, int reuseport, int v6only)
{
	int one = 1, fd;

	fd = socket(a->addr.ss_family,
		    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (a->addr.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only,
			   sizeof(v6only));
	if (a->addr.ss_family != AF_UNIX) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (reuseport)
			setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one,
				   sizeof(one));
	}
	if (bind(fd, (const struct sockaddr *)&a->addr, a->addr_len) != 0) {
		int keep = errno;

		close(fd);
		errno = keep;
		return -1;
	}
	return fd;
}

/* A socket file nobody listens behind any more is in our way. */
static void
unlink_stale(const struct conf_listen *a)
{
	const struct sockaddr_un *un =
	    (const struct sockaddr_un *)(const void *)&a->addr;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat st;

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)un, a->addr_len) != 0 &&
	    errno == ECONNREFUSED && stat(un->sun_path, &st) == 0 &&
	    S_ISSOCK(st.st_mode))
		unlink(un->sun_path);
	close(fd);
}

int
listener_bind(const struct conf_listen *a, int first, int v6only, char *error,
	      size_t n)
{
	int fd;

	if (a->addr.ss_family == AF_UNIX) {
		unlink_stale(a);
	} else if (first) {
		/* SO_REUSEPORT would let a second weir in beside the first:
		 * the first try is without it. */
		if ((fd = try_bind(a, 0, v6only)) < 0)
			return bind_error(-1, error, n, a->text);
		close(fd);
	}
	if ((fd = try_bind(a, 1, v6only)) < 0)
		return bind_error(-1, error, n, a->text);
	if (listen(fd, BACKLOG) != 0)
		return bind_error(fd, error, n, a->text);
	return fd;
}

/* Over the limit: told so in the client's own protocol, at once. */
static void
turn_away(struct worker *w, int fd, const struct proto *proto)
{
	static const char redis[] = "-ERR max number of clients reached\r\n";
	struct buf b;
	size_t n;

	buf_init(&b, 1024);
	if (proto == &redis_proto) {
		if (buf_put(&b, redis, sizeof(redis) - 1) != 0)
			abort();
	} else if (pg_put_error(&b, "FATAL",
				why_table[WHY_CLIENTS_FULL].sqlstate,
				why_table[WHY_CLIENTS_FULL].text, NULL) != 0) {
		abort();
	}
	(void)!send(fd, buf_peek(&b, &n), buf_len(&b),
		    MSG_NOSIGNAL | MSG_DONTWAIT);
	buf_free(&b);
	close(fd);
	stats_add(&w->stats, proto->stat_accepted, 1);
	stats_add(&w->stats, proto->stat_refused, 1);
	LOG(w->weir->log, LOG_WARN, LOG_EV_REFUSE,
	    log_str("proto", proto->name),
	    log_str("why", why_table[WHY_CLIENTS_FULL].name));
}

static void
admit(struct listener *l, int fd)
{
	struct worker *w = l->worker;
	const struct proto *proto =
	    l->kind == LISTEN_POSTGRES ? &pg_proto : &redis_proto;
	unsigned before = atomic_fetch_add(&w->weir->clients, 1);

	if (before >= w->snapshot->conf->max_client_conn) {
		atomic_fetch_sub(&w->weir->clients, 1);
		turn_away(w, fd, proto);
		return;
	}
	session_open(w, fd, proto,
		     l->kind == LISTEN_REDIS_TLS ? w->snapshot->listen_redis
						 : NULL,
		     l->is_unix);
}

/* The listener rests for one tick of the worker, which adds it again. */
static void
return_to_backlog(struct listener *l)
{
	event_del(&l->event);
	l->resting = 1;
}

void
listeners_wake(struct worker *w)
{
	for (struct listener *l = w->listeners; l != NULL; l = l->next) {
		if (l->resting && event_add(&l->event, NULL) == 0)
			l->resting = 0;
	}
}

static void
on_accept(evutil_socket_t listening, short what, void *arg)
{
	struct listener *l = arg;

	(void)what;
	streams_tick(&l->worker->streams);
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		int fd = accept4(listening, NULL, NULL,
				 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			admit(l, fd);
		else if (errno != EINTR && errno != ECONNABORTED)
			break;
	}
	/* Out of descriptors: the kernel keeps the connection waiting and
	 * would call us without end. */
	if (errno == EMFILE || errno == ENFILE) {
		LOG(l->worker->weir->log, LOG_ERROR, LOG_EV_FAULT,
		    log_str("error", strerror(errno)));
		return_to_backlog(l);
	}
}

void
listener_add(struct worker *w, int fd, enum conf_listen_kind kind, int is_unix)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (l == NULL)
		abort();
	l->worker = w;
	l->fd = fd;
	l->kind = kind;
	l->is_unix = is_unix;
	l->next = w->listeners;
	w->listeners = l;
	event_assign(&l->event, w->base, fd, EV_READ | EV_PERSIST, on_accept,
		     l);
	if (event_add(&l->event, NULL) != 0)
		abort();
}

void
listeners_close(struct worker *w)
{
	struct listener *l;

	while ((l = w->listeners) != NULL) {
		w->listeners = l->next;
		event_del(&l->event);
		close(l->fd);
		free(l);
	}
}

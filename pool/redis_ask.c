#include "pool/redis_ask.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "protocol/resp.h"

enum { PIECE = 16 << 10 };

/* A connection while it is asked. */
struct line {
	int fd;
	SSL *ssl;
	int64_t until_ms;
	char *error;
};

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int __attribute__((format(printf, 2, 3)))
line_fails(struct line *l, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(l->error, REDIS_ASK_ERROR_MAX, format, ap);
	va_end(ap);
	return -1;
}

static int
line_wait(struct line *l, short events)
{
	struct pollfd p = { .fd = l->fd, .events = events };
	int64_t left = l->until_ms - now_ms();

	if (left <= 0 || poll(&p, 1, (int)left) == 0)
		return line_fails(l, "no answer within %d ms", REDIS_ASK_MS);
	return 0;
}

/* ---- opening -------------------------------------------------------------- */

static int
line_connect(struct line *l, const struct addrinfo *ai)
{
	socklen_t n = sizeof(int);
	int failed = 0;

	l->fd = socket(ai->ai_family,
		       SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (l->fd < 0)
		return line_fails(l, "%s", strerror(errno));
	if (connect(l->fd, ai->ai_addr, ai->ai_addrlen) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return line_fails(l, "%s", strerror(errno));
	if (line_wait(l, POLLOUT) != 0)
		return -1;
	if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &failed, &n) != 0)
		failed = errno;
	return failed == 0 ? 0 : line_fails(l, "%s", strerror(failed));
}

static void
line_close(struct line *l)
{
	SSL_free(l->ssl);
	if (l->fd >= 0)
		close(l->fd);
	l->ssl = NULL;
	l->fd = -1;
}

static int
line_dial(struct line *l, const struct redis_ask *a)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
	char port[8];
	int rc = -1;

	snprintf(port, sizeof(port), "%u", a->port);
	if ((rc = getaddrinfo(a->host, port, &hints, &list)) != 0)
		return line_fails(l, "%s", gai_strerror(rc));
	l->until_ms = now_ms() + REDIS_ASK_MS;
	rc = -1;
	for (struct addrinfo *ai = list; ai != NULL && rc != 0;
	     ai = ai->ai_next) {
		line_close(l);
		rc = line_connect(l, ai);
	}
	freeaddrinfo(list);
	if (rc == 0 && a->peer != NULL) {
		*a->peer_n = sizeof(*a->peer);
		if (getpeername(l->fd, (struct sockaddr *)a->peer, a->peer_n) !=
		    0)
			*a->peer_n = 0;
	}
	return rc;
}

/* What OpenSSL waits for; -1: it has failed. */
static int
line_ssl_wait(struct line *l, int rc)
{
	switch (SSL_get_error(l->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		return line_wait(l, POLLIN);
	case SSL_ERROR_WANT_WRITE:
		return line_wait(l, POLLOUT);
	default:
		return line_fails(l, "TLS failed");
	}
}

static int
line_tls(struct line *l, const struct redis_ask *a)
{
	X509_VERIFY_PARAM *verify;
	struct in6_addr addr;
	bool numeric = inet_pton(AF_INET, a->host, &addr) == 1 ||
		       inet_pton(AF_INET6, a->host, &addr) == 1;
	int rc;

	if ((l->ssl = SSL_new(a->ctx)) == NULL ||
	    SSL_set_fd(l->ssl, l->fd) != 1)
		return line_fails(l, "no TLS");
	verify = SSL_get0_param(l->ssl);
	if (!numeric)
		SSL_set_tlsext_host_name(l->ssl, a->host);
	if (a->verify_name &&
	    (numeric ? X509_VERIFY_PARAM_set1_ip_asc(verify, a->host)
		     : SSL_set1_host(l->ssl, a->host)) != 1)
		return line_fails(l, "no host name to verify");
	while ((rc = SSL_connect(l->ssl)) != 1)
		if (line_ssl_wait(l, rc) != 0)
			return -1;
	return 0;
}

/* ---- speaking ------------------------------------------------------------- */

static ssize_t
line_try(struct line *l, bool out, uint8_t *p, size_t n)
{
	ssize_t done;

	for (;;) {
		if (l->ssl != NULL)
			done = out ? SSL_write(l->ssl, p, (int)n)
				   : SSL_read(l->ssl, p, (int)n);
		else
			done = out ? send(l->fd, p, n, MSG_NOSIGNAL)
				   : recv(l->fd, p, n, 0);
		if (done > 0)
			return done;
		if (l->ssl != NULL) {
			if (line_ssl_wait(l, (int)done) != 0)
				return -1;
		} else if (done == 0) {
			return line_fails(l, "closed the connection");
		} else if (errno != EAGAIN && errno != EINTR) {
			return line_fails(l, "%s", strerror(errno));
		} else if (line_wait(l, out ? POLLOUT : POLLIN) != 0) {
			return -1;
		}
	}
}

static int
line_send(struct line *l, struct buf *b)
{
	size_t n;
	const uint8_t *p;

	while ((p = buf_peek(b, &n)) != NULL && n > 0) {
		ssize_t done = line_try(l, true, (uint8_t *)(uintptr_t)p,
					n < PIECE ? n : PIECE);

		if (done < 0)
			return -1;
		buf_consume(b, (size_t)done);
	}
	return 0;
}

/* The length of the first reply that is there; 0: not all of it; -1: none. */
static ssize_t
first_reply(const struct buf *b)
{
	struct resp_reply r = { 0 };
	bool done = false;
	size_t n, at = 0;
	const uint8_t *p = buf_peek(b, &n);

	while (at < n && !done) {
		ssize_t used = resp_reply_next(&r, p + at, n - at, &done);

		if (used <= 0)
			return used;
		at += (size_t)used;
	}
	return done ? (ssize_t)at : 0;
}

static int
line_reply(struct line *l, struct buf *in, size_t *reply)
{
	ssize_t n;

	while ((n = first_reply(in)) == 0) {
		uint8_t *p = buf_reserve(in, PIECE);
		ssize_t got;

		if (p == NULL)
			return line_fails(l, "too long an answer");
		if ((got = line_try(l, false, p, PIECE)) < 0)
			return -1;
		buf_commit(in, (size_t)got);
	}
	if (n < 0)
		return line_fails(l, "not a Redis server");
	*reply = (size_t)n;
	return 0;
}

static int
line_is_well(struct line *l, const struct buf *in, size_t reply)
{
	size_t n;
	const char *p = (const char *)buf_peek(in, &n);

	if (reply < 3 || p[0] != '-')
		return 0;
	return line_fails(l, "%.*s", (int)(reply - 3 < 100 ? reply - 3 : 100),
			  p + 1);
}

/* Both at once: the answer to the log-in comes first. */
static int
line_put(struct buf *out, const struct redis_ask *a, const struct slice *arg,
	 size_t argc)
{
	struct slice auth[3] = { slice_str("AUTH") };
	size_t n = 1;

	if (a->password != NULL) {
		if (a->user != NULL)
			auth[n++] = slice_str(a->user);
		auth[n++] = slice_str(a->password);
		if (resp_put_request(out, auth, n) != 0)
			return -1;
	}
	return resp_put_request(out, arg, argc);
}

static int
line_ask(struct line *l, const struct redis_ask *a, const struct slice *arg,
	 size_t argc, struct buf *in)
{
	size_t reply = 0;
	struct buf out;
	int rc;

	buf_init(&out, REDIS_ASK_MAX);
	rc = line_put(&out, a, arg, argc);
	if (rc != 0)
		line_fails(l, "too long a question");
	else
		rc = line_send(l, &out);
	buf_free(&out);
	for (int i = a->password == NULL; i < 2 && rc == 0; i++) {
		if ((rc = line_reply(l, in, &reply)) == 0)
			rc = line_is_well(l, in, reply);
		if (rc == 0 && i == 0)
			buf_consume(in, reply);
		else if (rc == 0)
			buf_truncate(in, reply);
	}
	return rc;
}

int
redis_ask(const struct redis_ask *a, const struct slice *arg, size_t argc,
	  struct buf *answer, char *error)
{
	struct line l = { .fd = -1, .error = error };
	int rc;

	error[0] = '\0';
	buf_init(answer, REDIS_ASK_MAX);
	rc = line_dial(&l, a);
	if (rc == 0 && a->ctx != NULL)
		rc = line_tls(&l, a);
	if (rc == 0)
		rc = line_ask(&l, a, arg, argc, answer);
	line_close(&l);
	if (rc != 0)
		buf_free(answer);
	return rc;
}

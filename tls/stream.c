#include "tls/stream.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tls/tls.h"

static void on_readable(evutil_socket_t, short, void *);
static void on_writable(evutil_socket_t, short, void *);

/* ---- a worker's share ------------------------------------------------- */

void
streams_tick(struct streams *home)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	home->now_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int
streams_init(struct streams *home, struct event_base *base, struct stats *stats)
{
	*home = (struct streams){ .base = base, .stats = stats };
	if ((home->scratch = malloc(STREAM_SCRATCH)) == NULL)
		return -1;
	streams_tick(home);
	wheel_init(&home->wheel, home->now_ns);
	return 0;
}

void
streams_fini(struct streams *home)
{
	free(home->scratch);
	home->scratch = NULL;
	buf_spare_free(&home->spare);
}

static const char *
errno_text(int error)
{
	const char *text = strerrordesc_np(error);

	return text ? text : "unknown error";
}

/*
 * A thread may be cancelled in the C library's recv() and send(), which where
 * there are threads costs a sixth of a call that finds nothing.  Ours never
 * are.  A sanitizer sees what goes through the library only.
 */
static ssize_t
socket_recv(int fd, uint8_t *p, size_t n, int flags)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return recv(fd, p, n, flags);
#else
	return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
#endif
}

static ssize_t
socket_send(int fd, const uint8_t *p, size_t n)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return send(fd, p, n, MSG_NOSIGNAL);
#else
	return syscall(SYS_sendto, fd, p, n, MSG_NOSIGNAL, NULL, 0);
#endif
}

/* ---- life ------------------------------------------------------------- */

static struct stream *
stream_of(struct wheel_entry *e)
{
	return (struct stream *)(void *)((char *)e -
					 offsetof(struct stream, wheel));
}

static void
stream_fire(struct wheel_entry *e)
{
	struct stream *st = stream_of(e);

	if (st->fd >= 0)
		st->on(st, STREAM_TIMEOUT);
}

static void
stream_want_write(struct stream *st)
{
	if (st->write_event == NULL)
		st->write_event = event_new(st->home->base, st->fd, EV_WRITE,
					    on_writable, st);
	if (st->write_event == NULL || event_add(st->write_event, NULL) != 0)
		abort(); /* no memory for 128 bytes */
	st->blocked = 1;
}

/* Bytes inside the SSL are announced by no socket: wake it by hand. */
static void
stream_read_on(struct stream *st)
{
	if (!st->reading && event_add(&st->read_event, NULL) != 0)
		abort();
	st->reading = 1;
	if (st->ssl != NULL && !st->opening && SSL_has_pending(st->ssl))
		event_active(&st->read_event, EV_READ, 0);
}

static void
stream_read_off(struct stream *st)
{
	if (st->reading)
		event_del(&st->read_event);
	st->reading = 0;
}

/* Reading goes on as long as somebody wants the bytes and there is room. */
static void
stream_read_again(struct stream *st)
{
	if (st->fd >= 0 && !st->paused && !st->opening && !st->eof &&
	    st->error == NULL && buf_len(&st->in) < st->in_max)
		stream_read_on(st);
}

static void
stream_init(struct stream *st, struct streams *home, int fd,
	    stream_callback *on, size_t out_limit, enum stat_id in,
	    enum stat_id out)
{
	*st = (struct stream){ .fd = fd,
			       .home = home,
			       .on = on,
			       .in_max = STREAM_IN_MAX,
			       .stat_in = in,
			       .stat_out = out };
	buf_init(&st->in, (size_t)2 << 30);
	buf_init(&st->out, out_limit);
	st->in.spare = st->out.spare = &home->spare;
	wheel_entry_init(&st->wheel, stream_fire);
	event_assign(&st->read_event, home->base, fd, EV_READ | EV_PERSIST,
		     on_readable, st);
}

static void
set_options(int fd, int family)
{
	int one = 1;

	if (family == AF_UNIX)
		return;
	/* One write a turn is our batching; Nagle would only add to it. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

void
stream_accept(struct stream *st, struct streams *home, int fd,
	      stream_callback *on, size_t out_limit, enum stat_id in,
	      enum stat_id out)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	stream_init(st, home, fd, on, out_limit, in, out);
	if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
		set_options(fd, ss.ss_family);
	stream_read_on(st);
}

int
stream_dial(struct stream *st, struct streams *home,
	    const struct sockaddr *addr, socklen_t len, stream_callback *on,
	    size_t out_limit, enum stat_id in, enum stat_id out)
{
	int fd = socket(addr->sa_family,
			SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	stream_init(st, home, fd, on, out_limit, in, out);
	if (fd < 0)
		goto failed;
	set_options(fd, addr->sa_family);
	if (connect(fd, addr, len) != 0 && errno != EINPROGRESS)
		goto failed;
	st->opening = st->connecting = 1;
	stream_want_write(st);
	return 0;
failed:
	st->error = errno_text(errno);
	if (fd >= 0)
		close(fd);
	st->fd = -1;
	return -1;
}

void
stream_close(struct stream *st)
{
	if (st->fd < 0) {
		buf_free(&st->out); /* what was put since goes nowhere */
		return;
	}
	stream_read_off(st);
	if (st->write_event != NULL) {
		event_free(st->write_event);
		st->write_event = NULL;
	}
	wheel_set(&st->home->wheel, &st->wheel, 0);
	if (st->ssl != NULL) {
		if (!st->opening && st->error == NULL) {
			ERR_clear_error();
			SSL_shutdown(st->ssl); /* close_notify, if it fits */
		}
		SSL_free(st->ssl);
		st->ssl = NULL;
	}
	close(st->fd);
	st->fd = -1;
	st->view_n = 0;
	buf_free(&st->in);
	buf_free(&st->out);
}

void
stream_shutdown(struct stream *st)
{
	if (st->fd < 0)
		return;
	if (st->ssl != NULL && !st->opening) {
		ERR_clear_error();
		SSL_shutdown(st->ssl);
	}
	shutdown(st->fd, SHUT_WR);
}

void
stream_deadline(struct stream *st, uint64_t deadline_ns)
{
	if (st->fd >= 0)
		wheel_set(&st->home->wheel, &st->wheel, deadline_ns);
}

void
stream_detach(struct stream *st)
{
	assert(st->fd >= 0 && !st->opening && !st->blocked && !st->dirty);
	assert(buf_len(&st->in) == 0 && buf_len(&st->out) == 0);
	stream_read_off(st);
	if (st->write_event != NULL) {
		event_free(st->write_event);
		st->write_event = NULL;
	}
	wheel_set(&st->home->wheel, &st->wheel, 0);
	st->in.spare = st->out.spare = NULL;
	st->home = NULL;
}

void
stream_attach(struct stream *st, struct streams *home)
{
	assert(st->home == NULL);
	st->home = home;
	st->drained_ns = 0; /* by another's clock */
	st->in.spare = st->out.spare = &home->spare;
	event_assign(&st->read_event, home->base, st->fd, EV_READ | EV_PERSIST,
		     on_readable, st);
	if (!st->paused)
		stream_read_on(st);
}

bool
stream_is_quiet(const struct stream *st)
{
	uint8_t byte;

	if (st->eof || st->error != NULL || buf_len(&st->in) > 0 ||
	    (st->ssl != NULL && SSL_has_pending(st->ssl)))
		return false;
	if (st->drained_ns == st->home->now_ns)
		return true;
	return socket_recv(st->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

bool
stream_address(const struct stream *st, bool peer,
	       char address[STREAM_ADDRESS_MAX], unsigned *port)
{
	struct sockaddr_storage ss = { 0 };
	struct sockaddr *name = (struct sockaddr *)&ss;
	socklen_t len = sizeof(ss);
	char service[8];

	if (st->fd < 0 ||
	    (peer ? getpeername(st->fd, name, &len)
		  : getsockname(st->fd, name, &len)) != 0 ||
	    ss.ss_family == AF_UNIX ||
	    getnameinfo(name, len, address, STREAM_ADDRESS_MAX, service,
			sizeof(service), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return false;
	*port = (unsigned)strtoul(service, NULL, 10);
	return true;
}

static ssize_t
write_plain(struct stream *st, const uint8_t *p, size_t n)
{
	ssize_t sent = socket_send(st->fd, p, n);

	if (sent >= 0)
		return sent;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	st->error = errno_text(errno);
	return -1;
}

/* ---- TLS -------------------------------------------------------------- */

static void
stream_failed(struct stream *st, const char *error)
{
	st->error = error;
	stream_read_off(st);
	st->on(st, STREAM_ERROR);
}

static const char *
tls_reason(SSL *ssl, const char *otherwise)
{
	unsigned long code = ERR_peek_error();
	long verify = SSL_get_verify_result(ssl);
	const char *text;

	/* Without a check there is a result nevertheless. */
	if (verify != X509_V_OK && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
		return X509_verify_cert_error_string(verify);
	text = code ? ERR_reason_error_string(code) : NULL;
	return text ? text : otherwise;
}

static void
stream_opened(struct stream *st)
{
	st->opening = 0;
	stream_read_on(st);
	if (buf_len(&st->out) > 0)
		stream_out(st); /* what had to wait leaves this turn */
	st->on(st, STREAM_OPEN);
}

static void
handshake(struct stream *st)
{
	int r;

	ERR_clear_error();
	r = SSL_do_handshake(st->ssl);
	if (r == 1) {
		tls_settle(st->ssl);
		stream_opened(st);
		return;
	}
	switch (SSL_get_error(st->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		stream_read_on(st);
		break;
	case SSL_ERROR_WANT_WRITE:
		stream_want_write(st);
		break;
	default:
		stream_failed(st, tls_reason(st->ssl, "TLS handshake failed"));
		break;
	}
}

static int
stream_new_ssl(struct stream *st, SSL_CTX *ctx)
{
	assert(st->ssl == NULL);
	st->ssl = SSL_new(ctx);
	if (st->ssl != NULL && SSL_set_fd(st->ssl, st->fd) == 1)
		return 0;
	st->error = "out of memory for TLS";
	return -1;
}

int
stream_start_tls(struct stream *st, SSL_CTX *ctx, bool server, const char *name,
		 bool verify_name)
{
	uint8_t addr[16];

	size_t n;

	assert(st->ssl == NULL && buf_len(&st->in) == 0 && st->view_n == 0);
	/* What was put before belongs in front of the handshake, in clear. */
	if (buf_peek(&st->out, &n) != NULL) {
		if (write_plain(st, buf_peek(&st->out, &n), n) != (ssize_t)n) {
			st->error = "peer does not read";
			return -1;
		}
		buf_free(&st->out);
	}
	if (stream_new_ssl(st, ctx) != 0)
		return -1;
	if (server) {
		SSL_set_accept_state(st->ssl);
	} else {
		SSL_set_connect_state(st->ssl);
		if (name != NULL && inet_pton(AF_INET, name, addr) != 1 &&
		    inet_pton(AF_INET6, name, addr) != 1)
			SSL_set_tlsext_host_name(st->ssl, name);
		if (verify_name &&
		    (name == NULL || (X509_VERIFY_PARAM_set1_ip_asc(
					  SSL_get0_param(st->ssl), name) != 1 &&
				      SSL_set1_host(st->ssl, name) != 1))) {
			st->error = "no host name to verify";
			return -1;
		}
	}
	st->opening = 1;
	if (server)
		stream_read_on(st);
	else
		stream_want_write(st);
	return 0;
}

/* What has come is shown to OpenSSL where it lies, then the socket. */
int
stream_start_direct_tls(struct stream *st, SSL_CTX *ctx)
{
	size_t n;
	const uint8_t *p = stream_peek(st, &n);
	BIO *begun = BIO_new_mem_buf(p, (int)n), *socket;
	bool left;
	int r, wants;

	assert(n > 0 && buf_len(&st->out) == 0);
	if (stream_new_ssl(st, ctx) != 0 || begun == NULL) {
		BIO_free(begun);
		st->error = "out of memory for TLS";
		return -1;
	}
	BIO_set_mem_eof_return(begun, -1); /* its end is "not yet" */
	socket = SSL_get_rbio(st->ssl);
	BIO_up_ref(socket);
	SSL_set0_rbio(st->ssl, begun);
	SSL_set_accept_state(st->ssl);
	ERR_clear_error();
	r = SSL_do_handshake(st->ssl);
	wants = SSL_get_error(st->ssl, r);
	left = BIO_ctrl_pending(begun) > 0;
	SSL_set0_rbio(st->ssl, socket);
	stream_consume(st, n);
	/* A client says no more before it has our answer. */
	if (left ||
	    (wants != SSL_ERROR_WANT_READ && wants != SSL_ERROR_WANT_WRITE)) {
		st->error = tls_reason(st->ssl, "TLS handshake failed");
		return -1;
	}
	st->opening = 1;
	if (wants == SSL_ERROR_WANT_WRITE)
		stream_want_write(st);
	return 0;
}

size_t
stream_binding(const struct stream *st, uint8_t *out)
{
	return st->ssl != NULL ? tls_binding(st->ssl, out) : 0;
}

struct slice
stream_server_name(const struct stream *st)
{
	const char *name = NULL;

	if (st->ssl != NULL)
		name = SSL_get_servername(st->ssl, TLSEXT_NAMETYPE_host_name);
	return slice_str(name != NULL ? name : "");
}

/* The only common name there is, without a NUL: nothing hides behind one. */
static int
common_name(X509 *cert, char *out)
{
	X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1), n;
	unsigned char *text = NULL;

	if (at < 0 ||
	    X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return -1;
	n = ASN1_STRING_to_UTF8(
	    &text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	if (n <= 0 || n >= STREAM_NAME_MAX ||
	    memchr(text, '\0', (size_t)n) != NULL) {
		OPENSSL_free(text);
		return -1;
	}
	memcpy(out, text, (size_t)n);
	out[n] = '\0';
	OPENSSL_free(text);
	return 0;
}

/* A resumed session was verified when it began, so its dates are looked at. */
int
stream_peer_name(const struct stream *st, char *out)
{
	X509 *cert;
	int rc = -1;

	if (st->ssl == NULL)
		return -1;
	cert = SSL_get0_peer_certificate(st->ssl);
	if (cert != NULL && SSL_get_verify_result(st->ssl) == X509_V_OK &&
	    X509_cmp_current_time(X509_get0_notBefore(cert)) < 0 &&
	    X509_cmp_current_time(X509_get0_notAfter(cert)) > 0)
		rc = common_name(cert, out);
	ERR_clear_error();
	return rc;
}

/* ---- reading ---------------------------------------------------------- */

const uint8_t *
stream_peek(const struct stream *st, size_t *n)
{
	if (st->view_n > 0) {
		*n = st->view_n;
		return st->view;
	}
	return buf_peek(&st->in, n);
}

void
stream_consume(struct stream *st, size_t n)
{
	if (st->view_n > 0) {
		assert(n <= st->view_n);
		st->view += n;
		st->view_n -= n;
	} else if (n > 0) {
		buf_consume(&st->in, n);
		stream_read_again(st);
	}
}

void
stream_hold(struct stream *st, size_t n)
{
	st->in_max = n > STREAM_IN_MAX ? n : STREAM_IN_MAX;
	stream_read_again(st);
}

/* > 0 bytes, 0 nothing now, -1 the end or an error (st->eof, st->error). */
static ssize_t
read_plain(struct stream *st, uint8_t *p, size_t n)
{
	ssize_t got = socket_recv(st->fd, p, n, 0);

	if (got > 0)
		return got;
	if (got == 0) {
		st->eof = 1;
		return -1;
	}
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	st->error = errno_text(errno);
	return -1;
}

static ssize_t
read_tls(struct stream *st, uint8_t *p, size_t n)
{
	size_t got = 0;
	int r = 1;

	ERR_clear_error();
	while (got < n &&
	       (r = SSL_read(st->ssl, p + got, (int)(n - got))) > 0) {
		got += (size_t)r;
		if (!SSL_has_pending(st->ssl))
			break;
	}
	if (got > 0)
		return (ssize_t)got;
	switch (SSL_get_error(st->ssl, r)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		st->eof = 1;
		return -1;
	default:
		st->error = tls_reason(st->ssl, "TLS connection broken");
		return -1;
	}
}

/*
 * The bytes are shown where they lie.  Only if some were kept from before do
 * they join those in `in`; and only what is left after the callback is kept.
 */
static void
deliver(struct stream *st, const uint8_t *p, size_t n)
{
	stats_add(st->home->stats, st->stat_in, (int64_t)n);
	if (buf_len(&st->in) > 0) {
		if (buf_put(&st->in, p, n) != 0)
			abort(); /* in_max is far below its limit */
		st->on(st, STREAM_DATA);
		return;
	}
	st->view = p;
	st->view_n = n;
	st->on(st, STREAM_DATA);
	if (st->fd >= 0 && st->view_n > 0) {
		const uint8_t *rest = st->view;
		size_t left = st->view_n;

		st->view_n = 0;
		if (buf_put(&st->in, rest, left) != 0)
			abort();
	}
	st->view_n = 0;
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct stream *st = arg;
	size_t room = STREAM_SCRATCH;
	ssize_t n;

	(void)fd;
	(void)what;
	/* The loop may have slept since: the clock is read where time begins
	 * to matter, and costs less than the recv. */
	streams_tick(st->home);
	if (st->opening) {
		if (!st->connecting)
			handshake(st);
		return;
	}
	/* Lazy: only a peer that goes on sending to a paused owner, or past
	 * what may be kept, costs the system call that stops it. */
	if (st->paused || buf_len(&st->in) >= st->in_max) {
		stream_read_off(st);
		return;
	}
	if (buf_len(&st->in) > 0 && room > st->in_max - buf_len(&st->in))
		room = st->in_max - buf_len(&st->in);
	n = st->ssl ? read_tls(st, st->home->scratch, room)
		    : read_plain(st, st->home->scratch, room);
	/* Of TLS one record is read: the next may be there. */
	st->drained_ns =
	    n > 0 && (size_t)n < room && st->ssl == NULL ? st->home->now_ns : 0;
	if (n > 0) {
		deliver(st, st->home->scratch, (size_t)n);
		if (st->fd >= 0 && st->ssl != NULL && st->reading &&
		    SSL_has_pending(st->ssl))
			event_active(&st->read_event, EV_READ, 0);
	} else if (n < 0 && st->eof) {
		stream_read_off(st);
		st->on(st, STREAM_EOF);
	} else if (n < 0) {
		stream_failed(st, st->error);
	}
}

void
stream_pause(struct stream *st)
{
	st->paused = 1;
}

void
stream_resume(struct stream *st)
{
	st->paused = 0;
	stream_read_again(st);
}

/* ---- writing ---------------------------------------------------------- */

struct buf *
stream_out(struct stream *st)
{
	if (!st->dirty && st->fd >= 0) {
		st->dirty = 1;
		if (st->home->dirty == NULL)
			st->home->dirty = st;
		else
			st->home->dirty_last->dirty_next = st;
		st->home->dirty_last = st;
	}
	return &st->out;
}

int
stream_put(struct stream *st, const void *p, size_t n)
{
	return buf_put(stream_out(st), p, n);
}

static ssize_t
write_tls(struct stream *st, const uint8_t *p, size_t n)
{
	int r;

	ERR_clear_error();
	r = SSL_write(st->ssl, p, n > INT32_MAX ? INT32_MAX : (int)n);
	if (r > 0)
		return r;
	switch (SSL_get_error(st->ssl, r)) {
	case SSL_ERROR_WANT_WRITE:
	case SSL_ERROR_WANT_READ:
		return 0;
	default:
		st->error = tls_reason(st->ssl, "TLS connection broken");
		return -1;
	}
}

void
stream_last_words(struct stream *st, const void *p, size_t n)
{
	if (st->fd < 0 || st->opening || st->error != NULL ||
	    buf_len(&st->out) > 0)
		return;
	if (st->ssl != NULL)
		(void)write_tls(st, p, n);
	else
		(void)write_plain(st, p, n);
	st->error = NULL;
}

/* As much as the socket takes; the rest waits for EV_WRITE. */
static void
stream_flush(struct stream *st)
{
	size_t n, before = buf_len(&st->out);
	const uint8_t *p;
	ssize_t sent = 0;

	if (st->fd < 0 || st->opening || st->blocked || st->error != NULL)
		return;
	if (before > STREAM_OUT_HIGH)
		st->was_high = 1;
	while ((p = buf_peek(&st->out, &n)) != NULL && n > 0) {
		sent = st->ssl ? write_tls(st, p, n) : write_plain(st, p, n);
		if (sent <= 0)
			break;
		stats_add(st->home->stats, st->stat_out, sent);
		buf_consume(&st->out, (size_t)sent);
		if (st->ssl == NULL && (size_t)sent < n)
			break; /* a short write: the socket is full */
	}
	if (sent < 0) {
		stream_failed(st, st->error);
		return;
	}
	n = buf_len(&st->out);
	if (n > 0)
		stream_want_write(st);
	if ((st->was_high && n < STREAM_OUT_HIGH / 3) ||
	    (st->tell_empty && n == 0)) {
		st->was_high = 0;
		st->on(st, STREAM_ROOM);
	}
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct stream *st = arg;
	int error = 0;
	socklen_t len = sizeof(error);

	(void)fd;
	(void)what;
	streams_tick(st->home);
	st->blocked = 0;
	if (st->connecting) {
		st->connecting = 0;
		if (getsockopt(st->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
			error = errno;
		if (error != 0)
			stream_failed(st, errno_text(error));
		else
			stream_opened(st);
		return;
	}
	if (st->opening) {
		handshake(st);
		return;
	}
	stream_flush(st);
}

/*
 * Who got bytes first is written first: what two clients asked one after the
 * other reaches a server in that order.  Callbacks may put more bytes into
 * streams, which go to the end of the list and are written in the same call.
 */
void
streams_flush(struct streams *home)
{
	struct stream *st;

	while ((st = home->dirty) != NULL) {
		home->dirty = st->dirty_next;
		st->dirty = 0;
		st->dirty_next = NULL;
		stream_flush(st);
	}
}

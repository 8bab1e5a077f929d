#include "tests/t.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "protocol/scram.h"
#include "tls/stream.h"

#define SECOND 1000000000ull

/* ---- a loop and the ends in it ---------------------------------------- */

struct loop {
	struct event_base *base;
	struct streams streams;
	struct stats stats;
};

/* One end under test, and what it does and has seen. */
struct end {
	struct stream st; /* first */
	int open, data, room, eof, error, timeout;
	size_t unit;         /* consumes whole units only; 0: nothing */
	uint8_t *got;        /* all it consumed */
	size_t got_n, shown; /* shown: the most at one time */
	bool in_scratch;     /* the last bytes lay in the loop's scratch */
	bool close_on_data, close_on_open;
	/* a sender of a pattern, as fast as it may */
	size_t to_send, sent;
};

static uint8_t
pattern(size_t i)
{
	return (uint8_t)(i * 131 + i / 251);
}

static void
send_pattern(struct end *e)
{
	uint8_t piece[3000];

	while (e->sent < e->to_send && !stream_is_high(&e->st)) {
		size_t n = e->to_send - e->sent;

		n = n < sizeof(piece) ? n : sizeof(piece);
		for (size_t i = 0; i < n; i++)
			piece[i] = pattern(e->sent + i);
		assert_int_equal(stream_put(&e->st, piece, n), 0);
		e->sent += n;
	}
}

static void
take(struct end *e)
{
	const struct streams *home = e->st.home;
	const uint8_t *p;
	size_t n, use;

	p = stream_peek(&e->st, &n);
	assert_true(n > 0);
	e->shown = n > e->shown ? n : e->shown;
	e->in_scratch =
	    p >= home->scratch && p < home->scratch + STREAM_SCRATCH;
	if (e->unit == 0)
		return;
	use = n - n % e->unit;
	e->got = realloc(e->got, e->got_n + use + 1);
	assert_non_null(e->got);
	memcpy(e->got + e->got_n, p, use);
	e->got_n += use;
	stream_consume(&e->st, use);
}

static void
on_event(struct stream *st, enum stream_event what)
{
	struct end *e = (struct end *)st;

	switch (what) {
	case STREAM_OPEN:
		e->open++;
		if (e->close_on_open)
			stream_close(st);
		else
			send_pattern(e);
		break;
	case STREAM_DATA:
		e->data++;
		take(e);
		if (e->close_on_data)
			stream_close(st);
		break;
	case STREAM_ROOM:
		e->room++;
		send_pattern(e);
		break;
	case STREAM_EOF:
		e->eof++;
		break;
	case STREAM_ERROR:
		assert_non_null(st->error);
		e->error++;
		break;
	case STREAM_TIMEOUT:
		e->timeout++;
		break;
	}
}

static void
loop_open(struct loop *l)
{
	memset(l, 0, sizeof(*l));
	l->base = event_base_new();
	assert_non_null(l->base);
	assert_int_equal(streams_init(&l->streams, l->base, &l->stats), 0);
}

static void
loop_close(struct loop *l)
{
	assert_null(l->streams.dirty);
	streams_fini(&l->streams);
	event_base_free(l->base);
}

static void
turn(struct loop *l)
{
	event_base_loop(l->base, EVLOOP_NONBLOCK);
	streams_tick(&l->streams);
	streams_flush(&l->streams);
}

static void
turns(struct loop *l, int n)
{
	while (n-- > 0)
		turn(l);
}

/* Turns until `*n` is at least `want`: everything here is local and quick. */
static void
turns_until(struct loop *l, const int *n, int want)
{
	for (int i = 0; i < 100000 && *n < want; i++) {
		turn(l);
		if (i > 100)
			usleep(200);
	}
	assert_true(*n >= want);
}

static void
pair(int type, int fd[2])
{
	assert_int_equal(socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, fd), 0);
}

static void
end_open(struct end *e, struct loop *l, int fd, size_t out_limit)
{
	memset(e, 0, sizeof(*e));
	e->unit = 1;
	stream_accept(&e->st, &l->streams, fd, on_event, out_limit,
		      STAT_BYTES_FROM_CLIENTS, STAT_BYTES_TO_CLIENTS);
}

static void
end_close(struct end *e)
{
	stream_close(&e->st);
	assert_null(e->st.in.base);
	assert_null(e->st.out.base);
	free(e->got);
}

static void
check_pattern(const struct end *e, size_t n)
{
	assert_int_equal(e->got_n, n);
	for (size_t i = 0; i < n; i++)
		if (e->got[i] != pattern(i))
			fail_msg("byte %zu is wrong", i);
}

enum { OUT = 4 << 20 };

/* ---- reading ---------------------------------------------------------- */

static void
shows_bytes_where_they_lie_and_keeps_none(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	turns(&l, 3);
	assert_int_equal(e.data, 0);
	assert_int_equal(write(fd[1], "hello", 5), 5);
	turn(&l);
	assert_int_equal(e.data, 1);
	assert_true(e.in_scratch);
	assert_memory_equal(e.got, "hello", 5);
	assert_null(e.st.in.base); /* an idle stream owns no buffer */
	assert_null(e.st.out.base);
	assert_int_equal(l.stats.n[STAT_BYTES_FROM_CLIENTS], 5);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
keeps_what_was_not_understood_at_every_split(void **state)
{
	static const char text[] = "aaaabbbbccccddddeeeeffff";
	const size_t n = sizeof(text) - 1;
	struct loop l;
	int fd[2];

	(void)state;
	loop_open(&l);
	for (size_t a = 0; a <= n; a++) {
		for (size_t b = a; b <= n; b++) {
			size_t cut[4] = { 0, a, b, n };
			struct end e;

			pair(SOCK_STREAM, fd);
			end_open(&e, &l, fd[0], OUT);
			e.unit = 4;
			for (int i = 0; i < 3; i++) {
				size_t k = cut[i + 1] - cut[i];

				assert_int_equal(write(fd[1], text + cut[i], k),
						 k);
				turn(&l);
				assert_int_equal(buf_len(&e.st.in),
						 cut[i + 1] % 4);
				assert_int_equal(e.got_n,
						 cut[i + 1] - cut[i + 1] % 4);
			}
			assert_memory_equal(e.got, text, n);
			assert_null(e.st.in.base);
			end_close(&e);
			close(fd[1]);
		}
	}
	loop_close(&l);
}

static void
stops_reading_what_nobody_consumes(void **state)
{
	static uint8_t bytes[64 << 10];
	struct loop l;
	struct end e;
	size_t sent = 0, total;
	ssize_t n;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	e.unit = 0;
	for (int i = 0; i < 100; i++) {
		for (size_t k = 0; k < sizeof(bytes); k++)
			bytes[k] = pattern(sent + k);
		if ((n = write(fd[1], bytes, sizeof(bytes))) > 0)
			sent += (size_t)n;
		turn(&l);
		assert_in_range(buf_len(&e.st.in), 0, STREAM_IN_MAX);
	}
	assert_int_equal(buf_len(&e.st.in), STREAM_IN_MAX);
	assert_in_range(sent, STREAM_IN_MAX + 1, 2 << 20);
	/* It is not even asked for any more. */
	assert_int_equal(e.st.reading, 0);
	/* Consuming starts it again. */
	total = sent;
	e.unit = 1;
	take(&e);
	while (e.got_n < total)
		turn(&l);
	check_pattern(&e, total);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
collects_as_much_as_it_was_told_to_hold(void **state)
{
	enum { BIG = 5 * STREAM_IN_MAX };
	struct loop l;
	struct end e;
	uint8_t piece[1000];
	size_t sent = 0;
	ssize_t n;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	e.unit = BIG;
	stream_hold(&e.st, BIG);
	for (int i = 0; i < 10000 && e.got_n < BIG; i++) {
		size_t k =
		    BIG - sent < sizeof(piece) ? BIG - sent : sizeof(piece);

		for (size_t j = 0; j < k; j++)
			piece[j] = pattern(sent + j);
		if (k > 0 && (n = write(fd[1], piece, k)) > 0)
			sent += (size_t)n;
		turn(&l);
	}
	check_pattern(&e, BIG);
	stream_hold(&e.st, 0);
	assert_int_equal(e.st.in_max, STREAM_IN_MAX);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
a_paused_owner_is_shown_nothing(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	stream_pause(&e.st);
	assert_int_equal(write(fd[1], "hello", 5), 5);
	turns(&l, 5);
	assert_int_equal(e.data, 0);
	stream_resume(&e.st);
	turn(&l);
	assert_int_equal(e.got_n, 5);
	/* Nor the end: it comes with the rest. */
	stream_pause(&e.st);
	assert_int_equal(write(fd[1], "x", 1), 1);
	close(fd[1]);
	turns(&l, 5);
	assert_int_equal(e.got_n + (size_t)e.eof, 5);
	stream_resume(&e.st);
	turns(&l, 3);
	assert_int_equal(e.got_n, 6);
	assert_int_equal(e.eof, 1);
	end_close(&e);
	loop_close(&l);
}

static void
tells_the_end_once_and_after_the_data(void **state)
{
	struct loop l;
	struct end e;
	char c;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	assert_int_equal(write(fd[1], "last", 4), 4);
	assert_int_equal(shutdown(fd[1], SHUT_WR), 0);
	turns(&l, 5);
	assert_int_equal(e.got_n, 4);
	assert_int_equal(e.eof, 1);
	assert_int_equal(e.error, 0);
	/* Half closed: our side still speaks. */
	assert_int_equal(stream_put(&e.st, "x", 1), 0);
	turn(&l);
	assert_int_equal(read(fd[1], &c, 1), 1);
	assert_int_equal(c, 'x');
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
may_close_its_own_side_alone(void **state)
{
	struct loop l;
	struct end e;
	char c[8];
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	assert_int_equal(stream_put(&e.st, "bye", 3), 0);
	turn(&l);
	stream_shutdown(&e.st);
	assert_int_equal(read(fd[1], c, sizeof(c)), 3);
	assert_int_equal(read(fd[1], c, sizeof(c)), 0);
	assert_int_equal(write(fd[1], "well", 4), 4);
	turn(&l);
	assert_int_equal(e.got_n, 4);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

/* ---- writing ---------------------------------------------------------- */

static void
everything_of_a_turn_leaves_in_one_write(void **state)
{
	struct loop l;
	struct end e;
	char record[64];
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_SEQPACKET, fd); /* keeps writes apart */
	end_open(&e, &l, fd[0], OUT);
	for (int i = 0; i < 5; i++)
		assert_int_equal(stream_put(&e.st, "abc", 3), 0);
	assert_int_equal(read(fd[1], record, sizeof(record)), -1);
	turn(&l);
	assert_int_equal(read(fd[1], record, sizeof(record)), 15);
	assert_int_equal(read(fd[1], record, sizeof(record)), -1);
	assert_null(e.st.write_event); /* no EV_WRITE where none is needed */
	assert_null(e.st.out.base);
	assert_int_equal(l.stats.n[STAT_BYTES_TO_CLIENTS], 15);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
refuses_the_byte_past_its_limit_and_appends_nothing(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], 10);
	assert_int_equal(stream_put(&e.st, "12345678", 8), 0);
	assert_int_equal(stream_put(&e.st, "123", 3), -1);
	assert_int_equal(buf_len(&e.st.out), 8);
	turn(&l);
	assert_int_equal(stream_put(&e.st, "123", 3), 0);
	turn(&l);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
small_buffers(int fd)
{
	int small = 4096;

	assert_int_equal(
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
}

static void
says_when_there_is_room_again_once(void **state)
{
	static uint8_t bytes[STREAM_OUT_HIGH + 5000];
	struct loop l;
	struct end e;
	ssize_t n;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	small_buffers(fd[0]);
	end_open(&e, &l, fd[0], OUT);
	assert_int_equal(stream_put(&e.st, bytes, STREAM_OUT_HIGH), 0);
	assert_false(stream_is_high(&e.st));
	assert_int_equal(stream_put(&e.st, bytes, 1), 0);
	assert_true(stream_is_high(&e.st));
	turn(&l);
	assert_int_equal(e.room, 0);
	for (;;) {
		size_t before = buf_len(&e.st.out);

		if ((n = read(fd[1], bytes, 1000)) <= 0 && before == 0)
			break;
		turn(&l);
		/* Not before a third, and then in that very turn. */
		assert_int_equal(e.room,
				 buf_len(&e.st.out) < STREAM_OUT_HIGH / 3);
	}
	assert_int_equal(e.room, 1);
	/* What never was high says nothing, unless asked to. */
	assert_int_equal(stream_put(&e.st, bytes, 100), 0);
	turn(&l);
	assert_int_equal(e.room, 1);
	e.st.tell_empty = 1;
	assert_int_equal(stream_put(&e.st, bytes, 100), 0);
	turn(&l);
	assert_int_equal(e.room, 2);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
a_peer_that_has_gone_is_an_error_with_a_reason(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	close(fd[1]);
	assert_int_equal(stream_put(&e.st, "x", 1), 0);
	streams_flush(&l.streams);
	assert_int_equal(e.error, 1);
	assert_string_equal(e.st.error, "Broken pipe");
	turns(&l, 3); /* and said once */
	assert_int_equal(e.error, 1);
	assert_int_equal(e.eof, 0);
	end_close(&e);
	loop_close(&l);
}

static void
last_words_are_for_those_with_nothing_queued(void **state)
{
	struct loop l;
	struct end e;
	char c[8];
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	stream_last_words(&e.st, "X", 1);
	assert_int_equal(read(fd[1], c, sizeof(c)), 1);
	assert_int_equal(stream_put(&e.st, "half", 4), 0);
	stream_last_words(&e.st, "X", 1);
	assert_int_equal(read(fd[1], c, sizeof(c)), -1);
	turn(&l);
	assert_int_equal(read(fd[1], c, sizeof(c)), 4);
	end_close(&e);
	stream_last_words(&e.st, "X", 1);
	close(fd[1]);
	loop_close(&l);
}

/* ---- life ------------------------------------------------------------- */

static void
may_be_closed_twice_and_from_its_own_callback(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	e.close_on_data = true;
	e.unit = 0; /* leaves all of it */
	assert_int_equal(stream_put(&e.st, "x", 1), 0);
	assert_int_equal(write(fd[1], "hello", 5), 5);
	turns(&l, 3);
	assert_int_equal(e.data, 1);
	assert_int_equal(e.st.fd, -1);
	assert_null(e.st.in.base);
	/* What is put after the end is freed by the next close. */
	assert_int_equal(stream_put(&e.st, "x", 1), 0);
	assert_null(l.streams.dirty);
	stream_close(&e.st);
	end_close(&e);
	close(fd[1]);
	loop_close(&l);
}

static void
a_deadline_fires_unless_it_was_moved_or_cleared(void **state)
{
	struct loop l;
	struct end e;
	uint64_t now;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	now = l.streams.now_ns;
	stream_deadline(&e.st, now + SECOND);
	wheel_run(&l.streams.wheel, now + SECOND / 2);
	assert_int_equal(e.timeout, 0);
	stream_deadline(&e.st, now + 3 * SECOND);
	wheel_run(&l.streams.wheel, now + 2 * SECOND);
	assert_int_equal(e.timeout, 0);
	wheel_run(&l.streams.wheel, now + 4 * SECOND);
	assert_int_equal(e.timeout, 1);
	stream_deadline(&e.st, now + 5 * SECOND);
	stream_deadline(&e.st, 0);
	wheel_run(&l.streams.wheel, now + 6 * SECOND);
	assert_int_equal(e.timeout, 1);
	stream_deadline(&e.st, now + 7 * SECOND);
	end_close(&e); /* closing clears it */
	assert_int_equal(l.streams.wheel.n, 0);
	stream_deadline(&e.st, now + 7 * SECOND);
	assert_int_equal(l.streams.wheel.n, 0);
	close(fd[1]);
	loop_close(&l);
}

static int
listen_on(struct sockaddr_in *in)
{
	socklen_t len = sizeof(*in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	*in = (struct sockaddr_in){ .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	assert_int_equal(bind(fd, (struct sockaddr *)in, sizeof(*in)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)in, &len), 0);
	return fd;
}

static int
dial(struct end *e, struct loop *l, const void *addr, socklen_t len)
{
	memset(e, 0, sizeof(*e));
	e->unit = 1;
	return stream_dial(&e->st, &l->streams, addr, len, on_event, OUT,
			   STAT_BYTES_FROM_SERVERS, STAT_BYTES_TO_SERVERS);
}

static void
dials_and_says_when_it_is_connected(void **state)
{
	struct sockaddr_in in;
	struct loop l;
	struct end e;
	char c[16];
	int fd, peer;

	(void)state;
	loop_open(&l);
	fd = listen_on(&in);
	assert_int_equal(dial(&e, &l, &in, sizeof(in)), 0);
	/* What is put before leaves once it is. */
	assert_int_equal(stream_put(&e.st, "early", 5), 0);
	streams_flush(&l.streams);
	assert_int_equal(buf_len(&e.st.out), 5);
	turns_until(&l, &e.open, 1);
	assert_int_equal(e.open, 1);
	turn(&l);
	peer = accept(fd, NULL, NULL);
	assert_true(peer >= 0);
	assert_int_equal(read(peer, c, sizeof(c)), 5);
	assert_int_equal(write(peer, "hello", 5), 5);
	turns_until(&l, &e.data, 1);
	assert_int_equal(e.got_n, 5);
	assert_int_equal(l.stats.n[STAT_BYTES_FROM_SERVERS], 5);
	assert_int_equal(l.stats.n[STAT_BYTES_TO_SERVERS], 5);
	end_close(&e);
	close(peer);
	close(fd);
	loop_close(&l);
}

static void
a_dial_that_fails_says_why(void **state)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX,
				  .sun_path = "/nonexistent/socket" };
	struct sockaddr_in in;
	struct loop l;
	struct end e;

	(void)state;
	loop_open(&l);
	close(listen_on(&in));
	if (dial(&e, &l, &in, sizeof(in)) == 0)
		turns_until(&l, &e.error, 1);
	assert_string_equal(e.st.error, "Connection refused");
	assert_int_equal(e.open, 0);
	end_close(&e);
	assert_int_equal(dial(&e, &l, &un, sizeof(un)), -1);
	assert_int_equal(e.st.fd, -1);
	assert_string_equal(e.st.error, "No such file or directory");
	end_close(&e);
	loop_close(&l);
}

static void
knows_whether_anything_was_received(void **state)
{
	struct loop l;
	struct end e;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&e, &l, fd[0], OUT);
	assert_true(stream_is_quiet(&e.st));
	assert_int_equal(write(fd[1], "x", 1), 1);
	assert_false(stream_is_quiet(&e.st));
	turn(&l);
	assert_true(stream_is_quiet(&e.st));
	e.unit = 2;
	assert_int_equal(write(fd[1], "x", 1), 1);
	turn(&l);
	assert_false(stream_is_quiet(&e.st)); /* it is kept */
	e.unit = 1;
	take(&e);
	assert_true(stream_is_quiet(&e.st));
	close(fd[1]);
	assert_false(stream_is_quiet(&e.st));
	turn(&l);
	assert_false(stream_is_quiet(&e.st));
	end_close(&e);
	loop_close(&l);
}

/* ---- TLS -------------------------------------------------------------- */

struct tls {
	X509 *cert;
	EVP_PKEY *key;
	SSL_CTX *server, *client; /* the client trusts the server */
	char sni[64];             /* as the server heard it */
};

static void
add_extension(X509 *cert, int nid, const char *value)
{
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

	assert_non_null(e);
	assert_int_equal(X509_add_ext(cert, e, -1), 1);
	X509_EXTENSION_free(e);
}

static X509 *
self_signed(EVP_PKEY *key)
{
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);

	assert_int_equal(X509_set_version(cert, 2), 1);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
				   (const uint8_t *)"weir test", -1, -1, 0);
	X509_set_issuer_name(cert, name);
	add_extension(cert, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
	assert_int_equal(X509_set_pubkey(cert, key), 1);
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	return cert;
}

static int
heard_name(SSL *ssl, int *alert, void *arg)
{
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	struct tls *t = arg;

	(void)alert;
	snprintf(t->sni, sizeof(t->sni), "%s", name ? name : "");
	return SSL_TLSEXT_ERR_OK;
}

static void
tls_open(struct tls *t, int version)
{
	long mode = SSL_MODE_ENABLE_PARTIAL_WRITE |
		    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
		    SSL_MODE_RELEASE_BUFFERS;

	memset(t, 0, sizeof(*t));
	t->key = EVP_EC_gen("P-256");
	assert_non_null(t->key);
	t->cert = self_signed(t->key);
	t->server = SSL_CTX_new(TLS_server_method());
	t->client = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_mode(t->server, mode);
	SSL_CTX_set_mode(t->client, mode);
	SSL_CTX_set_max_proto_version(t->client, version);
	assert_int_equal(SSL_CTX_use_certificate(t->server, t->cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(t->server, t->key), 1);
	SSL_CTX_set_tlsext_servername_callback(t->server, heard_name);
	SSL_CTX_set_tlsext_servername_arg(t->server, t);
	assert_int_equal(
	    X509_STORE_add_cert(SSL_CTX_get_cert_store(t->client), t->cert), 1);
	SSL_CTX_set_verify(t->client, SSL_VERIFY_PEER, NULL);
}

static void
tls_close(struct tls *t)
{
	SSL_CTX_free(t->server);
	SSL_CTX_free(t->client);
	X509_free(t->cert);
	EVP_PKEY_free(t->key);
}

/* Both ends in one loop, the handshake under way. */
static void
tls_pair(struct tls *t, struct loop *l, struct end *s, struct end *c,
	 const char *name, bool verify_name)
{
	int fd[2];

	pair(SOCK_STREAM, fd);
	end_open(s, l, fd[0], OUT);
	end_open(c, l, fd[1], OUT);
	assert_int_equal(stream_start_tls(&s->st, t->server, true, NULL, false),
			 0);
	assert_int_equal(
	    stream_start_tls(&c->st, t->client, false, name, verify_name), 0);
}

static void
handshakes_and_carries_bytes_both_ways(void **state)
{
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
	struct loop l;
	struct end s, c;
	struct tls t;

	(void)state;
	for (int i = 0; i < 2; i++) {
		loop_open(&l);
		tls_open(&t, versions[i]);
		tls_pair(&t, &l, &s, &c, "localhost", true);
		/* Put before it is up: leaves after. */
		assert_int_equal(stream_put(&c.st, "early", 5), 0);
		turns_until(&l, &s.data, 1);
		assert_int_equal(s.open, 1);
		assert_int_equal(c.open, 1);
		assert_memory_equal(s.got, "early", 5);
		assert_string_equal(t.sni, "localhost");
		assert_int_equal(stream_put(&s.st, "hello", 5), 0);
		turns_until(&l, &c.data, 1);
		assert_memory_equal(c.got, "hello", 5);
		assert_int_equal(SSL_version(c.st.ssl), versions[i]);
		assert_null(s.st.in.base);
		assert_null(s.st.out.base);
		end_close(&s);
		end_close(&c);
		tls_close(&t);
		loop_close(&l);
	}
}

static void
checks_the_name_it_was_told_to_check(void **state)
{
	static const struct {
		const char *name, *sni;
		bool verify, good;
	} t[] = {
		{ "localhost", "localhost", true, true },
		{ "127.0.0.1", "", true, true },
		{ "127.0.0.2", "", true, false },
		{ "elsewhere", "elsewhere", true, false },
		{ "elsewhere", "elsewhere", false, true },
		{ "::1", "", true, false },
		{ NULL, "", false, true },
	};
	struct tls tls;

	(void)state;
	tls_open(&tls, TLS1_3_VERSION);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct loop l;
		struct end s, c;

		loop_open(&l);
		tls_pair(&tls, &l, &s, &c, t[i].name, t[i].verify);
		turns_until(&l, t[i].good ? &c.open : &c.error, 1);
		assert_int_equal(c.open, t[i].good);
		assert_int_equal(c.error, !t[i].good);
		assert_string_equal(tls.sni, t[i].sni);
		if (!t[i].good)
			assert_non_null(strstr(c.st.error, "mismatch"));
		end_close(&s);
		end_close(&c);
		loop_close(&l);
	}
	tls_close(&tls);
}

static void
refuses_a_certificate_it_does_not_trust(void **state)
{
	struct loop l;
	struct end s, c;
	struct tls t, other;

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	tls_open(&other, TLS1_3_VERSION);
	SSL_CTX_free(t.client);
	t.client = other.client;
	SSL_CTX_up_ref(t.client);
	tls_pair(&t, &l, &s, &c, "localhost", true);
	turns_until(&l, &c.error, 1);
	assert_int_equal(c.open, 0);
	assert_non_null(strstr(c.st.error, "self-signed"));
	turns_until(&l, &s.error, 1);
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	tls_close(&other);
	loop_close(&l);
}

static void
needs_a_name_to_check_one(void **state)
{
	struct loop l;
	struct end c;
	struct tls t;
	int fd[2];

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	pair(SOCK_STREAM, fd);
	end_open(&c, &l, fd[0], OUT);
	assert_int_equal(stream_start_tls(&c.st, t.client, false, NULL, true),
			 -1);
	assert_string_equal(c.st.error, "no host name to verify");
	end_close(&c);
	close(fd[1]);
	tls_close(&t);
	loop_close(&l);
}

/* As PostgreSQL's 'S': it belongs in front of the handshake, in clear. */
static void
sends_what_was_put_before_in_clear(void **state)
{
	struct loop l;
	struct end s, c;
	struct tls t;
	int fd[2];
	char byte;

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	pair(SOCK_STREAM, fd);
	end_open(&s, &l, fd[0], OUT);
	assert_int_equal(stream_put(&s.st, "S", 1), 0);
	assert_int_equal(stream_start_tls(&s.st, t.server, true, NULL, false),
			 0);
	assert_int_equal(read(fd[1], &byte, 1), 1);
	assert_int_equal(byte, 'S');
	turn(&l);
	end_open(&c, &l, fd[1], OUT);
	assert_int_equal(
	    stream_start_tls(&c.st, t.client, false, "localhost", true), 0);
	turns_until(&l, &s.open, 1);
	turns_until(&l, &c.open, 1);
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	loop_close(&l);
}

static void
garbage_instead_of_a_handshake_is_an_error(void **state)
{
	struct loop l;
	struct end s;
	struct tls t;
	int fd[2];

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	pair(SOCK_STREAM, fd);
	end_open(&s, &l, fd[0], OUT);
	assert_int_equal(stream_start_tls(&s.st, t.server, true, NULL, false),
			 0);
	assert_int_equal(write(fd[1], "GET / HTTP/1.1\r\n\r\n", 18), 18);
	turns_until(&l, &s.error, 1);
	assert_int_equal(s.open + s.data, 0);
	assert_non_null(strstr(s.st.error, "http request"));
	end_close(&s);
	close(fd[1]);
	/* And leaving in the middle of one. */
	pair(SOCK_STREAM, fd);
	end_open(&s, &l, fd[0], OUT);
	assert_int_equal(stream_start_tls(&s.st, t.server, true, NULL, false),
			 0);
	assert_int_equal(write(fd[1], "\x16\x03\x01\x02", 4), 4);
	close(fd[1]);
	turns_until(&l, &s.error, 1);
	end_close(&s);
	tls_close(&t);
	loop_close(&l);
}

static void
tells_an_end_from_a_cut(void **state)
{
	struct loop l;
	struct end s, c;
	struct tls t;

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	tls_pair(&t, &l, &s, &c, "localhost", true);
	turns_until(&l, &s.open, 1);
	turns_until(&l, &c.open, 1);
	end_close(&c); /* says so */
	turns_until(&l, &s.eof, 1);
	assert_int_equal(s.error, 0);
	end_close(&s);

	tls_pair(&t, &l, &s, &c, "localhost", true);
	turns_until(&l, &s.open, 1);
	turns_until(&l, &c.open, 1);
	shutdown(c.st.fd, SHUT_RDWR); /* anybody on the way could do that */
	turns_until(&l, &s.error, 1);
	assert_int_equal(s.eof, 0);
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	loop_close(&l);
}

/* A check that was not asked for is not what went wrong. */
static void
does_not_blame_a_certificate_nobody_checked(void **state)
{
	struct loop l;
	struct end s, c;
	struct tls t, other;

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	tls_open(&other, TLS1_3_VERSION);
	SSL_CTX_free(t.client);
	t.client = other.client;
	SSL_CTX_up_ref(t.client);
	SSL_CTX_set_verify(t.client, SSL_VERIFY_NONE, NULL);
	tls_pair(&t, &l, &s, &c, "localhost", false);
	turns_until(&l, &s.open, 1);
	turns_until(&l, &c.open, 1);
	shutdown(s.st.fd, SHUT_RDWR);
	turns_until(&l, &c.error, 1);
	assert_null(strstr(c.st.error, "certificate"));
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	tls_close(&other);
	loop_close(&l);
}

/* Bytes inside the SSL are announced by no socket. */
static void
bytes_inside_the_ssl_are_not_forgotten(void **state)
{
	enum { MUCH = STREAM_IN_MAX + 100 };
	struct loop l;
	struct end s, c;
	struct tls t;
	int how;

	(void)state;
	tls_open(&t, TLS1_3_VERSION);
	for (how = 0; how < 3; how++) {
		loop_open(&l);
		tls_pair(&t, &l, &s, &c, "localhost", true);
		turns_until(&l, &s.open, 1);
		turns_until(&l, &c.open, 1);
		/* After a short record the last full one straddles in_max:
		 * nothing more is in the socket. */
		s.unit = 0;
		c.to_send = 100;
		send_pattern(&c);
		turns(&l, 5);
		c.to_send = MUCH;
		send_pattern(&c);
		turns(&l, 50);
		assert_int_equal(buf_len(&s.st.in), STREAM_IN_MAX);
		assert_true(SSL_has_pending(s.st.ssl));
		s.unit = 1;
		if (how == 0) {
			take(&s);
		} else if (how == 1) {
			s.unit = MUCH;
			stream_hold(&s.st, MUCH);
		} else {
			stream_pause(&s.st);
			take(&s);
			turns(&l, 3);
			stream_resume(&s.st);
		}
		turns(&l, 50);
		check_pattern(&s, MUCH);
		end_close(&s);
		end_close(&c);
		loop_close(&l);
	}
	tls_close(&t);
}

static void
binding_is_the_hash_of_the_server_s_certificate(void **state)
{
	uint8_t a[SCRAM_BINDING_MAX], b[SCRAM_BINDING_MAX];
	uint8_t hash[EVP_MAX_MD_SIZE];
	struct loop l;
	struct end s, c, plain;
	struct tls t;
	unsigned n;
	int fd[2];

	(void)state;
	loop_open(&l);
	tls_open(&t, TLS1_3_VERSION);
	pair(SOCK_STREAM, fd);
	end_open(&plain, &l, fd[0], OUT);
	assert_int_equal(stream_binding(&plain.st, a), 0);
	end_close(&plain);
	close(fd[1]);
	tls_pair(&t, &l, &s, &c, "localhost", true);
	turns_until(&l, &s.open, 1);
	assert_int_equal(X509_digest(t.cert, EVP_sha256(), hash, &n), 1);
	assert_int_equal(stream_binding(&s.st, a), n);
	assert_int_equal(stream_binding(&c.st, b), n);
	assert_memory_equal(a, hash, n);
	assert_memory_equal(b, hash, n);
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	loop_close(&l);
}

/* ---- both ways at once ------------------------------------------------ */

enum { FLOOD = 3 << 20 };

static void
flood(struct loop *l, struct end *a, struct end *b)
{
	size_t most = 0;

	a->to_send = b->to_send = FLOOD;
	send_pattern(a);
	send_pattern(b);
	for (int i = 0; i < 200000; i++) {
		turn(l);
		most = buf_len(&a->st.out) > most ? buf_len(&a->st.out) : most;
		if (a->got_n == FLOOD && b->got_n == FLOOD)
			break;
		if (i % 64 == 0) { /* now and then one does not read */
			stream_pause(&a->st);
			turns(l, 3);
			stream_resume(&a->st);
		}
	}
	check_pattern(a, FLOOD);
	check_pattern(b, FLOOD);
	assert_in_range(most, 1, STREAM_OUT_HIGH + 3000);
	assert_true(a->room > 3 && b->room > 3);
}

static void
floods_both_ways_through_small_buffers(void **state)
{
	struct loop l;
	struct end a, b;
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	small_buffers(fd[0]);
	small_buffers(fd[1]);
	end_open(&a, &l, fd[0], OUT);
	end_open(&b, &l, fd[1], OUT);
	flood(&l, &a, &b);
	assert_null(a.st.out.base);
	assert_null(b.st.in.base);
	end_close(&a);
	end_close(&b);
	loop_close(&l);
}

static void
floods_both_ways_through_tls_and_small_buffers(void **state)
{
	static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
	struct loop l;
	struct end s, c;
	struct tls t;

	(void)state;
	for (int i = 0; i < 2; i++) {
		loop_open(&l);
		tls_open(&t, versions[i]);
		tls_pair(&t, &l, &s, &c, "localhost", true);
		small_buffers(s.st.fd);
		small_buffers(c.st.fd);
		turns_until(&l, &s.open, 1);
		turns_until(&l, &c.open, 1);
		flood(&l, &s, &c);
		end_close(&s);
		end_close(&c);
		tls_close(&t);
		loop_close(&l);
	}
}

/* ---- between workers -------------------------------------------------- */

static void
moves_from_one_loop_to_another(void **state)
{
	struct loop here, there;
	struct end e;
	char c[8];
	int fd[2];

	(void)state;
	loop_open(&here);
	loop_open(&there);
	pair(SOCK_STREAM, fd);
	end_open(&e, &here, fd[0], OUT);
	stream_deadline(&e.st, here.streams.now_ns + SECOND);
	stream_detach(&e.st);
	assert_int_equal(here.streams.wheel.n, 0);
	assert_int_equal(write(fd[1], "hello", 5), 5);
	turns(&here, 3);
	assert_int_equal(e.data, 0);
	stream_attach(&e.st, &there.streams);
	turns(&here, 3);
	assert_int_equal(e.data, 0);
	turn(&there);
	assert_memory_equal(e.got, "hello", 5);
	assert_int_equal(here.stats.n[STAT_BYTES_FROM_CLIENTS], 0);
	assert_int_equal(there.stats.n[STAT_BYTES_FROM_CLIENTS], 5);
	assert_int_equal(stream_put(&e.st, "back", 4), 0);
	assert_null(here.streams.dirty);
	turn(&there);
	assert_int_equal(read(fd[1], c, sizeof(c)), 4);
	end_close(&e);
	close(fd[1]);
	loop_close(&here);
	loop_close(&there);
}

static void
moves_with_its_tls(void **state)
{
	struct loop here, there;
	struct end s, c;
	struct tls t;

	(void)state;
	loop_open(&here);
	loop_open(&there);
	tls_open(&t, TLS1_3_VERSION);
	tls_pair(&t, &here, &s, &c, "localhost", true);
	small_buffers(s.st.fd);
	turns_until(&here, &s.open, 1);
	turns_until(&here, &c.open, 1);
	/* It has waited for EV_WRITE once, so there is more to move. */
	s.to_send = 100000;
	send_pattern(&s);
	while (c.got_n < s.to_send)
		turn(&here);
	stream_detach(&s.st);
	stream_attach(&s.st, &there.streams);
	assert_int_equal(stream_put(&c.st, "hello", 5), 0);
	turn(&here);
	turns_until(&there, &s.data, 1);
	assert_memory_equal(s.got, "hello", 5);
	s.to_send += 100000;
	send_pattern(&s);
	for (int i = 0; i < 10000 && c.got_n < s.to_send; i++) {
		turn(&there);
		turn(&here);
	}
	check_pattern(&c, s.to_send);
	end_close(&s);
	end_close(&c);
	tls_close(&t);
	loop_close(&here);
	loop_close(&there);
}

/* Both write to one socket, so the order shows at its other end. */
static void
who_speaks_first_is_written_first(void **state)
{
	struct loop l;
	struct end a, b;
	char got[8];
	int fd[2];

	(void)state;
	loop_open(&l);
	pair(SOCK_STREAM, fd);
	end_open(&a, &l, fd[0], OUT);
	end_open(&b, &l, dup(fd[0]), OUT);
	assert_int_equal(stream_put(&a.st, "a", 1), 0);
	assert_int_equal(stream_put(&b.st, "b", 1), 0);
	turn(&l);
	assert_int_equal(stream_put(&b.st, "B", 1), 0);
	assert_int_equal(stream_put(&a.st, "A", 1), 0);
	turn(&l);
	assert_int_equal(read(fd[1], got, sizeof(got)), 4);
	assert_memory_equal(got, "abBA", 4);
	end_close(&a);
	end_close(&b);
	close(fd[1]);
	loop_close(&l);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_bytes_where_they_lie_and_keeps_none),
		cmocka_unit_test(keeps_what_was_not_understood_at_every_split),
		cmocka_unit_test(stops_reading_what_nobody_consumes),
		cmocka_unit_test(collects_as_much_as_it_was_told_to_hold),
		cmocka_unit_test(a_paused_owner_is_shown_nothing),
		cmocka_unit_test(tells_the_end_once_and_after_the_data),
		cmocka_unit_test(may_close_its_own_side_alone),
		cmocka_unit_test(everything_of_a_turn_leaves_in_one_write),
		cmocka_unit_test(
		    refuses_the_byte_past_its_limit_and_appends_nothing),
		cmocka_unit_test(says_when_there_is_room_again_once),
		cmocka_unit_test(
		    a_peer_that_has_gone_is_an_error_with_a_reason),
		cmocka_unit_test(last_words_are_for_those_with_nothing_queued),
		cmocka_unit_test(may_be_closed_twice_and_from_its_own_callback),
		cmocka_unit_test(
		    a_deadline_fires_unless_it_was_moved_or_cleared),
		cmocka_unit_test(dials_and_says_when_it_is_connected),
		cmocka_unit_test(a_dial_that_fails_says_why),
		cmocka_unit_test(knows_whether_anything_was_received),
		cmocka_unit_test(handshakes_and_carries_bytes_both_ways),
		cmocka_unit_test(checks_the_name_it_was_told_to_check),
		cmocka_unit_test(refuses_a_certificate_it_does_not_trust),
		cmocka_unit_test(needs_a_name_to_check_one),
		cmocka_unit_test(sends_what_was_put_before_in_clear),
		cmocka_unit_test(garbage_instead_of_a_handshake_is_an_error),
		cmocka_unit_test(tells_an_end_from_a_cut),
		cmocka_unit_test(does_not_blame_a_certificate_nobody_checked),
		cmocka_unit_test(bytes_inside_the_ssl_are_not_forgotten),
		cmocka_unit_test(
		    binding_is_the_hash_of_the_server_s_certificate),
		cmocka_unit_test(floods_both_ways_through_small_buffers),
		cmocka_unit_test(
		    floods_both_ways_through_tls_and_small_buffers),
		cmocka_unit_test(moves_from_one_loop_to_another),
		cmocka_unit_test(who_speaks_first_is_written_first),
		cmocka_unit_test(moves_with_its_tls),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

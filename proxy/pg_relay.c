/*
 * pg_relay: a replication connection after log-in, on a walsender of its own.
 *
 * Bytes pass as they are, both ways: walsenders have a dialect of their own,
 * and nobody else will ever be on that server.  Messages are counted only to
 * know where one ends.
 */
#include "proxy/pg_session.h"

#include <assert.h>
#include <stdlib.h>

#include "protocol/pg.h"
#include "proxy/worker.h"

static const struct pg_server *
walsender_of(const struct session *s)
{
	return (const struct pg_server *)(const void *)s->lessee.server;
}

void
pg_relay_begin(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct buf *out = stream_out(&s->stream);
	size_t n;
	const uint8_t *p = buf_peek(&walsender_of(s)->params, &n);

	ps->key = cancel_give_key(s->worker, s);
	if (buf_put(out, p, n) != 0 ||
	    pg_put(out, 'K', "ii", ps->key.pid, ps->key.secret) != 0 ||
	    pg_put_ready(out, 'I') != 0)
		abort(); /* the first bytes of any size this client is sent */
	pg_hello_free(ps);
	ps->relay = true;
	session_rearm(s);
	session_logged_in(s);
	session_wake(s);
}

/* How much of this the server may have: messages whose header is here, up to
 * the good-bye.  -1: malformed. */
static ssize_t
relay_take(struct pg_session *ps, const uint8_t *p, size_t n, bool *bye)
{
	size_t at = 0;

	while (at < n) {
		struct pg_frame f;
		size_t take;

		if (ps->remain == 0) {
			int got = pg_frame_next(&f, p + at, n - at);

			if (got < 0)
				return -1;
			*bye = got > 0 && f.type == 'X';
			if (got == 0 || *bye)
				break;
			ps->remain = f.size;
		}
		take = n - at < ps->remain ? n - at : ps->remain;
		ps->remain -= (uint32_t)take;
		at += take;
	}
	return (ssize_t)at;
}

enum step
pg_relay_step(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct server *v = s->lessee.server;
	bool bye = false;
	const uint8_t *p;
	ssize_t take;
	size_t n;

	assert(v->lessee == &s->lessee && v->tenant == s->lessee.tenant);
	if (stream_is_high(&v->stream)) {
		ps->stalled = true; /* its room wakes us */
		stream_pause(&s->stream);
		return STEP_WAIT;
	}
	if (ps->stalled)
		stream_resume(&s->stream);
	ps->stalled = false;
	p = stream_peek(&s->stream, &n);
	if ((take = relay_take(ps, p, n, &bye)) < 0) {
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
		return STEP_WAIT;
	}
	if (take > 0) {
		pg_server(v)->status = 0;
		pg_server_put(v, p, (size_t)take);
		stream_consume(&s->stream, (size_t)take);
	}
	if (bye)
		session_close(s, WHY_QUIT, NULL, NULL);
	return STEP_WAIT;
}

/* A stream has no end to wait for, and its client resumes where it stood; a
 * base backup would begin anew. */
bool
pg_relay_quiet(const struct session *s)
{
	const struct pg_server *pg = walsender_of(s);

	return pg_relay_hears(s) && (pg->status == 'I' || pg->copying_in);
}

/* When the server is gone, its own last words were the last. */
bool
pg_relay_hears(const struct session *s)
{
	return s->lessee.server != NULL && walsender_of(s)->remain == 0;
}

#include "pool/redis_sub.h"

#include <assert.h>

#include "pool/redis_server.h"
#include "protocol/resp_push.h"

static void
sub_doubt(struct server *v, const char *what)
{
	stats_add(v->pool->home->stats, STAT_SERVER_DOUBTED, 1);
	server_close(v, WHY_UPSTREAM_SENSE, NULL, what);
}

/* All that is there whole, in one piece; the lessee may close the server. */
static void
sub_replies(struct server *v)
{
	struct resp_push push;
	const uint8_t *p;
	size_t n, at = 0;
	ssize_t used = 1;

	p = stream_peek(&v->stream, &n);
	while (at < n && used > 0) {
		used = resp_push_next(&push, p + at, n - at,
				      REDIS_SUB_MESSAGE_MAX);
		if (used > 0)
			at += (size_t)used;
	}
	if (at > 0) {
		server_proves(v);
		v->lessee->ops->reply(v->lessee, p, at);
	}
	if (v->state == SERVER_DEAD)
		return;
	stream_consume(&v->stream, at);
	if (used < 0) {
		sub_doubt(v, "not what a subscriber is told, or too big");
		return;
	}
	if (used == 0 && push.need > STREAM_IN_MAX)
		stream_hold(&v->stream, push.need);
	else if (v->stream.in_max > STREAM_IN_MAX)
		stream_hold(&v->stream, 0);
	v->lessee->ops->room(v->lessee);
}

static void
sub_input(struct server *v)
{
	if (v->state == SERVER_LOGIN)
		redis_server_login(v);
	else if (v->state == SERVER_LEASED && !v->stream.paused)
		sub_replies(v);
	else if (v->state == SERVER_IDLE)
		sub_doubt(v, "words to nobody");
}

void
redis_sub_resume(struct server *v)
{
	assert(v->state == SERVER_LEASED);
	stream_resume(&v->stream);
	if (buf_len(&v->stream.in) > 0)
		sub_replies(v);
}

/* ---- life ------------------------------------------------------------- */

static void
sub_init(struct server *v)
{
	(void)v;
}

/* Nothing of the last one is left: a connection is lent once. */
static void
sub_bind(struct server *v, struct lessee *l)
{
	assert(l->tenant == NULL && v->ledger.n == 0);
}

static bool
sub_dirty(const struct server *v)
{
	(void)v;
	return true;
}

static void
sub_clean(struct server *v)
{
	server_close(v, WHY_DOUBT, NULL, NULL);
}

static void
sub_nothing(struct server *v)
{
	(void)v;
}

const struct server_ops redis_sub_ops = {
	.proto = "redis",
	.size = sizeof(struct redis_server),
	.stat_in = STAT_BYTES_FROM_SERVERS,
	.stat_out = STAT_BYTES_TO_SERVERS,
	.stat_open = STAT_REDIS_SERVERS,
	.init = sub_init,
	.opened = redis_server_opened,
	.input = sub_input,
	.bind = sub_bind,
	.dirty = sub_dirty,
	.clean = sub_clean,
	.goodbye = sub_nothing,
	.fini = sub_nothing,
};

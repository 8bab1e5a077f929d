#include "pool/redis_watch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/resp.h"
#include "protocol/resp_push.h"

static const char channel[] = "+switch-master";

struct redis_watch {
	struct stream stream; /* first */
	struct redis_watch *next;
	struct pools *home;
	char *name;                /* of the upstream */
	struct snapshot *snapshot; /* counted; NULL: it rests */
	const struct conf_redis *redis;
	unsigned sentinel; /* which of them */
	struct wheel_entry timer;
	enum { RESTS, DIALS, LOGS_IN, ASKS, LISTENS } state;
	bool pinged;
	bool news;                  /* in what was just read */
	uint64_t rest_ns, retry_ns; /* for so long; not before */
};

static uint64_t
now_ns(const struct redis_watch *w)
{
	return w->home->streams->now_ns;
}

/* ---- whom it tells ----------------------------------------------------------- */

static bool
is_watched(const struct redis_watch *w, const struct pool *p)
{
	return p->redis != NULL && p->redis->sentinel != NULL &&
	       strcmp(p->redis->name, w->name) == 0;
}

/* All who have connections; or one is enough, to hear who answers now. */
static unsigned
tell_pools(struct redis_watch *w, bool one)
{
	unsigned told = 0;

	for (size_t i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = w->home->bucket[i]; p; p = p->chain) {
			if (!is_watched(w, p) || pool_servers(p) == 0)
				continue;
			told++;
			if (one) {
				targets_overdue(p);
				return told;
			}
			targets_follow(p, w->sentinel);
		}
	return told;
}

static bool
is_used(const struct redis_watch *w)
{
	for (size_t i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = w->home->bucket[i]; p; p = p->chain)
			if (is_watched(w, p) && pool_servers(p) > 0)
				return true;
	return false;
}

/* ---- resting ------------------------------------------------------------------ */

static void
leave(struct redis_watch *w)
{
	stream_close(&w->stream);
	wheel_set(&w->home->streams->wheel, &w->timer, 0);
	if (w->snapshot != NULL)
		snapshot_unref(&w->snapshot);
	w->redis = NULL;
	w->state = RESTS;
	w->pinged = false;
}

static void
rest_on(struct redis_watch *w)
{
	w->retry_ns = now_ns(w) + w->rest_ns;
	w->rest_ns *= 2;
	if (w->rest_ns > REDIS_WATCH_MOST_NS)
		w->rest_ns = REDIS_WATCH_MOST_NS;
	wheel_set(&w->home->streams->wheel, &w->timer, w->retry_ns);
}

static void
rest(struct redis_watch *w)
{
	leave(w);
	rest_on(w);
}

/* Who is asked now says where to go; with nobody connected it is not needed. */
static void
watch_timer(struct wheel_entry *e)
{
	struct redis_watch *w =
	    (struct redis_watch *)(void *)((char *)e -
					   offsetof(struct redis_watch, timer));

	assert(w->state == RESTS);
	if (w->home->closing || tell_pools(w, true) == 0)
		return;
	rest_on(w); /* nobody may answer */
	w->retry_ns = 0;
}

/* ---- what is said -------------------------------------------------------------- */

static void
subscribe(struct redis_watch *w)
{
	const struct conf_redis *up = w->redis;
	const struct slice sub[] = { slice_str("SUBSCRIBE"),
				     slice_str(channel) };
	struct slice auth[3] = { slice_str("AUTH") };
	size_t n = 1;
	int bad = 0;

	w->state = ASKS;
	if (up->sentinel_password != NULL) {
		if (up->sentinel_user != NULL)
			auth[n++] = slice_str(up->sentinel_user);
		auth[n++] = slice_str(up->sentinel_password);
		bad = resp_put_request(stream_out(&w->stream), auth, n);
		w->state = LOGS_IN;
	}
	bad |= resp_put_request(stream_out(&w->stream), sub, 2);
	if (bad)
		rest(w);
}

static void
opened(struct redis_watch *w)
{
	const struct conf_redis *up = w->redis;

	if (!up->tls || w->stream.ssl != NULL)
		subscribe(w);
	else if (stream_start_tls(&w->stream, w->snapshot->redis[up->index],
				  false, up->hosts[w->sentinel].name,
				  up->sslmode == SSLMODE_VERIFY_FULL) != 0)
		rest(w);
}

/* "message", its channel, and "NAME ADDRESS PORT ADDRESS PORT". */
static bool
is_about(const struct redis_watch *w, const uint8_t *p, size_t n)
{
	static const char head[] =
	    "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$";
	const char *name = w->redis->sentinel;
	size_t at = sizeof(head) - 1, size = strlen(name);
	const uint8_t *lf;

	if (n <= at || memcmp(p, head, at) != 0 ||
	    (lf = memchr(p + at, '\n', n - at)) == NULL)
		return false;
	at = (size_t)(lf - p) + 1;
	return size < n - at && memcmp(p + at, name, size) == 0 &&
	       p[at + size] == ' ';
}

/* False: it has said something else, and rests. */
static bool
hear(struct redis_watch *w, const struct resp_push *push, const uint8_t *p,
     size_t n)
{
	switch (push->kind) {
	case RESP_PUSH_SUBSCRIBED:
		if (w->state != ASKS)
			break;
		w->state = LISTENS;
		w->rest_ns = REDIS_WATCH_FIRST_NS;
		w->news = true; /* it may have happened before */
		return true;
	case RESP_PUSH_MESSAGE:
		if (w->state != LISTENS)
			break;
		w->news |= is_about(w, p, n);
		return true;
	case RESP_PUSH_PONG:
		if (!w->pinged)
			break;
		w->pinged = false;
		return true;
	case RESP_PUSH_UNSUBSCRIBED:
	case RESP_PUSH_ERROR:
		break;
	}
	rest(w);
	return false;
}

/* The answer to AUTH: the bytes it takes, 0: more are needed, -1: it is no yes. */
static ssize_t
hear_login(struct redis_watch *w, const uint8_t *p, size_t n)
{
	const uint8_t *lf = memchr(p, '\n', n);

	if (p[0] != '+')
		return -1;
	if (lf == NULL)
		return 0;
	w->state = ASKS;
	return lf - p + 1;
}

static void
hear_all(struct redis_watch *w)
{
	struct resp_push push;
	const uint8_t *p;
	ssize_t used = 1;
	size_t n, at = 0;

	p = stream_peek(&w->stream, &n);
	while (at < n && used > 0) {
		if (w->state == LOGS_IN) {
			used = hear_login(w, p + at, n - at);
		} else {
			used = resp_push_next(&push, p + at, n - at,
					      STREAM_IN_MAX / 2);
			if (used > 0 && !hear(w, &push, p + at, (size_t)used))
				return;
		}
		if (used > 0)
			at += (size_t)used;
	}
	if (used < 0) {
		rest(w);
		return;
	}
	stream_consume(&w->stream, at);
	if (w->state == LISTENS && at > 0)
		stream_deadline(&w->stream, now_ns(w) + REDIS_WATCH_PING_NS);
}

/* However much it says at once, it is asked once. */
static void
input(struct redis_watch *w)
{
	hear_all(w);
	if (w->news)
		tell_pools(w, false);
	w->news = false;
}

/* It is silent: because there is nothing to say? */
static void
ask(struct redis_watch *w)
{
	const struct slice ping = slice_str("PING");

	if (!is_used(w)) {
		leave(w);
	} else if (w->state != LISTENS || w->pinged ||
		   resp_put_request(stream_out(&w->stream), &ping, 1) != 0) {
		rest(w);
	} else {
		w->pinged = true;
		stream_deadline(&w->stream, now_ns(w) + REDIS_WATCH_PING_NS);
	}
}

static void
watch_event(struct stream *st, enum stream_event what)
{
	struct redis_watch *w = (struct redis_watch *)(void *)st;

	switch (what) {
	case STREAM_OPEN:
		opened(w);
		break;
	case STREAM_DATA:
		input(w);
		break;
	case STREAM_ROOM:
		break;
	case STREAM_TIMEOUT:
		ask(w);
		break;
	case STREAM_EOF:
	case STREAM_ERROR:
		rest(w);
		break;
	}
}

/* ---- dialling -------------------------------------------------------------------- */

static struct redis_watch *
watch_of(struct pools *home, const char *name)
{
	struct redis_watch *w = home->watches;

	while (w != NULL && strcmp(w->name, name) != 0)
		w = w->next;
	if (w != NULL)
		return w;
	w = mem_zero(1, sizeof(*w), "a watch");
	w->home = home;
	w->name = mem_copy(name);
	w->stream.fd = -1;
	w->rest_ns = REDIS_WATCH_FIRST_NS;
	wheel_entry_init(&w->timer, watch_timer);
	w->next = home->watches;
	home->watches = w;
	return w;
}

static bool
is_same(const char *a, const char *b)
{
	return a == NULL ? b == NULL : b != NULL && strcmp(a, b) == 0;
}

/* Would it be the same, as far as it matters? */
static bool
is_as(const struct conf_redis *a, const struct conf_redis *b)
{
	return is_same(a->url, b->url) && is_same(a->sentinel, b->sentinel) &&
	       is_same(a->sentinel_user, b->sentinel_user) &&
	       is_same(a->sentinel_password, b->sentinel_password) &&
	       is_same(a->sslrootcert, b->sslrootcert) &&
	       a->sslmode == b->sslmode;
}

void
redis_watch_at(struct pools *home, const struct redis_sentinel *q)
{
	struct redis_watch *w;

	if (home->closing || q->peer_n == 0)
		return;
	w = watch_of(home, q->redis->name);
	if (w->state != RESTS && is_as(w->redis, q->redis))
		return;
	if (home->streams->now_ns < w->retry_ns)
		return;
	leave(w);
	w->retry_ns = now_ns(w) + w->rest_ns;
	w->snapshot = snapshot_ref(q->snapshot);
	w->redis = q->redis;
	w->sentinel = q->first;
	w->state = DIALS;
	if (stream_dial(&w->stream, home->streams,
			(const struct sockaddr *)&q->peer, q->peer_n,
			watch_event, STREAM_IN_MAX, STAT_BYTES_FROM_SERVERS,
			STAT_BYTES_TO_SERVERS) != 0)
		rest(w);
	else
		stream_deadline(&w->stream, now_ns(w) + REDIS_WATCH_OPEN_NS);
}

/* ---- life ------------------------------------------------------------------------ */

void
redis_watch_stop(struct pools *home)
{
	for (struct redis_watch *w = home->watches; w != NULL; w = w->next)
		leave(w);
}

void
redis_watch_fini(struct pools *home)
{
	struct redis_watch *w;

	while ((w = home->watches) != NULL) {
		home->watches = w->next;
		leave(w);
		free(w->name);
		free(w);
	}
}

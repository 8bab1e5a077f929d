#include "protocol/redis_where.h"

#include "protocol/resp.h"
#include "protocol/resp_number.h"

enum { HOST_MAX = 255 };

/* ---- one thing after the other ----------------------------------------- */

struct walk {
	const uint8_t *p;
	size_t n;
	bool bad; /* for good */
};

/* The number of a line that begins with `type`. */
static int64_t
walk_number(struct walk *w, uint8_t type)
{
	int64_t value = 0;
	size_t end = 1;

	w->bad = w->bad || w->n < 4 || w->p[0] != type;
	while (!w->bad && end + 2 < w->n && w->p[end] != '\r')
		end++;
	if (w->bad || w->p[end] != '\r' || w->p[end + 1] != '\n' ||
	    !resp_number(w->p + 1, end - 1, &value)) {
		w->bad = true;
		return 0;
	}
	w->p += end + 2;
	w->n -= end + 2;
	return value;
}

static uint64_t
walk_count(struct walk *w)
{
	int64_t n = walk_number(w, '*');

	w->bad = w->bad || n < 0;
	return w->bad ? 0 : (uint64_t)n;
}

/* Nil is empty. */
static struct slice
walk_bulk(struct walk *w)
{
	struct slice s = { 0 };
	int64_t n = walk_number(w, '$');

	if (n == -1 && !w->bad)
		return s;
	if (w->bad || n < 0 || w->n < 2 || (uint64_t)n > w->n - 2 ||
	    w->p[n] != '\r' || w->p[n + 1] != '\n') {
		w->bad = true;
		return s;
	}
	s = slice_of(w->p, (size_t)n);
	w->p += n + 2;
	w->n -= (size_t)n + 2;
	return s;
}

/* Any one element, with all that is in it. */
static void
walk_over(struct walk *w)
{
	struct resp_reply r = { 0 };
	bool done = false;

	while (!done && !w->bad) {
		ssize_t used =
		    w->n > 0 ? resp_reply_next(&r, w->p, w->n, &done) : -1;

		if (used <= 0) {
			w->bad = true;
			return;
		}
		w->p += used;
		w->n -= (size_t)used;
	}
}

static unsigned
port_of(int64_t n)
{
	return n > 0 && n <= UINT16_MAX ? (unsigned)n : 0;
}

/* It goes to the resolver, and into the log. */
static bool
is_name(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == '/')
			return false;
	return s.n <= HOST_MAX;
}

/* ---- what is asked ------------------------------------------------------- */

int
redis_where_master(const uint8_t *p, size_t n, struct redis_place *at)
{
	struct walk w = { .p = p, .n = n };
	struct slice port;
	int64_t number;

	if (n == 5 && memcmp(p, "*-1\r\n", 5) == 0)
		return 0;
	if (walk_count(&w) != 2 || w.bad)
		return -1;
	at->name = walk_bulk(&w);
	port = walk_bulk(&w);
	if (w.bad || w.n > 0 || !resp_number(port.p, port.n, &number))
		return -1;
	at->port = port_of(number);
	return at->port != 0 && at->name.n > 0 && is_name(at->name) ? 1 : -1;
}

bool
redis_where_is_master(const uint8_t *p, size_t n)
{
	struct walk w = { .p = p, .n = n };

	return walk_count(&w) > 0 && slice_is(walk_bulk(&w), "master");
}

/* A node: its name, its port, and whatever else. */
static void
walk_node(struct walk *w, struct redis_place *at)
{
	uint64_t fields = walk_count(w);

	at->name = walk_bulk(w);
	at->port = port_of(walk_number(w, ':'));
	w->bad = w->bad || fields < 2 || at->port == 0 || !is_name(at->name);
	for (uint64_t i = 2; i < fields && !w->bad; i++)
		walk_over(w);
}

ssize_t
redis_where_slots(const uint8_t *p, size_t n, redis_range_take *take, void *arg)
{
	struct walk w = { .p = p, .n = n };
	uint64_t lines = walk_count(&w);

	for (uint64_t i = 0; i < lines && !w.bad; i++) {
		uint64_t fields = walk_count(&w);
		int64_t from = walk_number(&w, ':');
		int64_t to = walk_number(&w, ':');
		struct redis_range r = { 0 };

		if (w.bad || fields < 3 || from < 0 || to < from ||
		    to >= REDIS_SLOTS)
			return -1;
		r.from = (unsigned)from;
		r.to = (unsigned)to;
		walk_node(&w, &r.at); /* the master; then its replicas */
		for (uint64_t k = 3; k < fields && !w.bad; k++)
			walk_over(&w);
		if (w.bad || !take(arg, &r))
			return -1;
	}
	return w.bad || w.n > 0 ? -1 : (ssize_t)lines;
}

/* SLOT HOST:PORT; an IPv6 address has colons of its own, and no brackets. */
static bool
turn_parse(struct slice s, unsigned *slot, struct redis_place *at)
{
	const uint8_t *blank = memchr(s.p, ' ', s.n), *colon;
	int64_t number;

	if (blank == NULL ||
	    !resp_number(s.p, (size_t)(blank - s.p), &number) || number < 0 ||
	    number >= REDIS_SLOTS)
		return false;
	*slot = (unsigned)number;
	s.n -= (size_t)(blank + 1 - s.p);
	s.p = blank + 1;
	if ((colon = memrchr(s.p, ':', s.n)) == NULL ||
	    !resp_number(colon + 1, (size_t)(s.p + s.n - colon - 1), &number))
		return false;
	at->name = slice_of(s.p, (size_t)(colon - s.p));
	at->port = port_of(number);
	return at->port != 0 && is_name(at->name);
}

enum redis_turn
redis_where_turn(const uint8_t *p, size_t n, unsigned *slot,
		 struct redis_place *at)
{
	static const struct {
		const char *word;
		enum redis_turn turn;
	} kind[] = { { "-MOVED ", REDIS_MOVED }, { "-ASK ", REDIS_ASK } };

	if (n < 2 || p[0] != '-' || p[n - 2] != '\r' || p[n - 1] != '\n')
		return REDIS_STAYS;
	for (size_t i = 0; i < sizeof(kind) / sizeof(kind[0]); i++) {
		size_t word_n = strlen(kind[i].word);

		if (n - 2 > word_n && memcmp(p, kind[i].word, word_n) == 0 &&
		    turn_parse(slice_of(p + word_n, n - 2 - word_n), slot, at))
			return kind[i].turn;
	}
	return REDIS_STAYS;
}

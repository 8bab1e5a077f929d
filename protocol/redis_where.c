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

int
redis_where_nodes(const uint8_t *p, size_t n, struct slice *text)
{
	struct walk w = { .p = p, .n = n };

	*text = walk_bulk(&w);
	return w.bad || w.n > 0 || text->n == 0 ? -1 : 1;
}

/* The next word, up to `end` or the end of it all. */
static struct slice
word(struct slice *s, uint8_t end)
{
	const uint8_t *at = s->n > 0 ? memchr(s->p, end, s->n) : NULL;
	size_t n = at ? (size_t)(at - s->p) : s->n;
	struct slice w = slice_of(s->p, n);

	s->p += n + (at != NULL);
	s->n -= n + (at != NULL);
	return w;
}

/* ADDRESS:PORT@BUS[,HOST[,more]]; an IPv6 address has colons of its own. */
static bool
member_place(struct slice s, struct redis_member *m)
{
	struct slice at = word(&s, ','), host = word(&s, ',');
	struct slice place = word(&at, '@');
	const uint8_t *colon =
	    place.n > 0 ? memrchr(place.p, ':', place.n) : NULL;
	int64_t port;

	if (colon == NULL ||
	    !resp_number(colon + 1, (size_t)(place.p + place.n - colon - 1),
			 &port))
		return false;
	m->at.name = slice_of(place.p, (size_t)(colon - place.p));
	m->at.port = port_of(port);
	m->host = host.n > 0 && is_name(host) ? host : (struct slice){ 0 };
	return is_name(m->at.name) && (port == 0 || m->at.port != 0);
}

static bool
has_flag(struct slice flags, const char *flag)
{
	while (flags.n > 0)
		if (slice_is(word(&flags, ','), flag))
			return true;
	return false;
}

int
redis_where_member(struct slice *text, struct redis_member *m)
{
	while (text->n > 0) {
		struct slice line = word(text, '\n'), flags;

		if (line.n == 0)
			continue;
		word(&line, ' '); /* its id */
		if (!member_place(word(&line, ' '), m))
			return -1;
		flags = word(&line, ' ');
		for (int i = 0; i < 5; i++) /* master ping pong epoch link */
			if (word(&line, ' ').n == 0)
				return -1;
		m->slots = line;
		m->is_master = has_flag(flags, "master") &&
			       !has_flag(flags, "handshake") &&
			       !has_flag(flags, "noaddr") &&
			       (line.n > 0 || !has_flag(flags, "fail"));
		m->is_replica = has_flag(flags, "slave") &&
				!has_flag(flags, "noaddr") &&
				!has_flag(flags, "fail");
		if (m->at.port != 0 &&
		    (m->at.name.n > 0 || has_flag(flags, "myself")))
			return 1;
	}
	return 0;
}

static bool
slot_number(struct slice s, unsigned *slot)
{
	int64_t n;

	if (!resp_number(s.p, s.n, &n) || n < 0 || n >= REDIS_SLOTS)
		return false;
	*slot = (unsigned)n;
	return true;
}

int
redis_where_range(struct slice *slots, unsigned *from, unsigned *to)
{
	while (slots->n > 0) {
		struct slice range = word(slots, ' '), first;

		/* [93->-ID]: on its way, but still or not yet there. */
		if (range.n == 0 || range.p[0] == '[')
			continue;
		first = word(&range, '-');
		if (!slot_number(first, from) ||
		    !slot_number(range.n > 0 ? range : first, to) ||
		    *from > *to)
			return -1;
		return 1;
	}
	return 0;
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

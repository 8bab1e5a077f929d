#include "protocol/redis_gather.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/resp.h"
#include "protocol/resp_number.h"

enum { SAID_MAX = 1 << 30, SLOT_BITS = 14, NAME_BITS = 8 };

static void
put(struct buf *b, const void *p, size_t n)
{
	if (b->limit == 0)
		buf_init(b, SAID_MAX);
	if (buf_put(b, p, n) != 0)
		abort(); /* the caller's bound is far below */
}

void
redis_gather_free(struct redis_gather *g)
{
	buf_free(&g->bad);
	buf_free(&g->said);
	*g = (struct redis_gather){ 0 };
}

/* The number in its first line, that begins with `type`; bytes of that line, or
 * 0. */
static size_t
line_number(const uint8_t *p, size_t n, uint8_t type, int64_t *value)
{
	const uint8_t *lf = n > 3 ? memchr(p, '\n', n) : NULL;

	if (lf == NULL || p[0] != type || lf < p + 3 || lf[-1] != '\r' ||
	    !resp_number(p + 1, (size_t)(lf - p) - 2, value))
		return 0;
	return (size_t)(lf - p) + 1;
}

/* ---- hearing --------------------------------------------------------------- */

static bool
hear_sum(struct redis_gather *g, const uint8_t *p, size_t n)
{
	int64_t value;

	if (line_number(p, n, ':', &value) != n || value < 0 ||
	    g->sum > INT64_MAX - value)
		return false;
	g->sum += value;
	return true;
}

static bool
hear_list(struct redis_gather *g, const uint8_t *p, size_t n)
{
	int64_t count;
	size_t head = line_number(p, n, '*', &count);

	/* None is shorter than "$0\r\n\r\n". */
	if (head == 0 || count < 0 || (uint64_t)count > (n - head) / 6)
		return false;
	put(&g->said, p + head, n - head);
	g->n += (uint64_t)count;
	return true;
}

static bool
hear_one(struct redis_gather *g, const uint8_t *p, size_t n, uint32_t chance)
{
	if (p[0] == '_' || (n == 5 && memcmp(p, "$-1\r\n", n) == 0)) {
		if (buf_len(&g->said) == 0)
			put(&g->said, p, n);
		return true;
	}
	if (p[0] != '$')
		return false;
	if (chance % ++g->n == 0) {
		buf_free(&g->said);
		put(&g->said, p, n);
	}
	return true;
}

/* A bulk with its CRLF, whole; bytes, or 0. */
static size_t
bulk_size(const uint8_t *p, size_t n)
{
	int64_t size;
	size_t head = line_number(p, n, '$', &size);

	if (head == 0 || size < 0 || (uint64_t)size > n - head ||
	    n - head - (uint64_t)size < 2)
		return 0;
	return head + (size_t)size + 2;
}

/* What stands at one place of both; bytes it takes in each, or -1. */
static int
hear_place(enum redis_gather_how how, struct slice *a, struct slice *b,
	   struct buf *both)
{
	int64_t x, y;
	size_t n = bulk_size(a->p, a->n), m = n;

	if (n > 0 && (b->n < n || memcmp(a->p, b->p, n) != 0))
		return -1;
	if (n > 0) {
		put(both, a->p, n);
	} else {
		n = line_number(a->p, a->n, ':', &x);
		m = line_number(b->p, b->n, ':', &y);
		if (n == 0 || m == 0)
			return -1;
		if (how == REDIS_GATHER_LEAST)
			x = x < y ? x : y;
		else if (x < 0 || y < 0 || x > INT64_MAX - y)
			return -1;
		else
			x += y;
		if (resp_put_int(both, x) != 0)
			abort(); /* as put() */
	}
	*a = slice_of(a->p + n, a->n - n);
	*b = slice_of(b->p + m, b->n - m);
	return 0;
}

/* Place by place; `said` has what the others have said. */
static bool
hear_places(struct redis_gather *g, enum redis_gather_how how, const uint8_t *p,
	    size_t n)
{
	struct slice a = { 0 }, b = slice_of(p, n);
	struct buf both;
	int64_t count, others;
	size_t head = line_number(p, n, '*', &count);

	a.p = buf_peek(&g->said, &a.n);
	if (a.n == 0) {
		put(&g->said, p, n);
		return p[0] == ':' || p[0] == '*';
	}
	buf_init(&both, SAID_MAX);
	if (head > 0 && line_number(a.p, a.n, '*', &others) == head &&
	    others == count) {
		put(&both, p, head);
		a = slice_of(a.p + head, a.n - head);
		b = slice_of(p + head, n - head);
	}
	while (a.n > 0 && hear_place(how, &a, &b, &both) == 0)
		;
	buf_free(&g->said);
	g->said = both;
	return a.n == 0 && b.n == 0;
}

/* An error of all of them is the one that says most: others had nothing to do. */
static void
hear_error(struct redis_gather *g, enum redis_gather_how how, const uint8_t *p,
	   size_t n)
{
	static const char idle[] = "-NOTBUSY ";
	size_t before;
	const uint8_t *said = buf_peek(&g->bad, &before);

	if (how == REDIS_GATHER_ANY && before >= sizeof(idle) &&
	    memcmp(said, idle, sizeof(idle) - 1) == 0)
		buf_free(&g->bad);
	if (buf_len(&g->bad) == 0)
		put(&g->bad, p, n);
}

static bool
hear(struct redis_gather *g, enum redis_gather_how how, const uint8_t *p,
     size_t n, uint32_t chance)
{
	switch (how) {
	case REDIS_GATHER_LAST:
	case REDIS_GATHER_ANY:
		buf_free(&g->said);
		put(&g->said, p, n);
		return true;
	case REDIS_GATHER_SUM:
		return hear_sum(g, p, n);
	case REDIS_GATHER_LIST:
	case REDIS_GATHER_SET:
		return hear_list(g, p, n);
	case REDIS_GATHER_ONE:
		return hear_one(g, p, n, chance);
	case REDIS_GATHER_LEAST:
	case REDIS_GATHER_COUNTS:
		return hear_places(g, how, p, n);
	}
	return false;
}

void
redis_gather_hear(struct redis_gather *g, enum redis_gather_how how,
		  const uint8_t *p, size_t n, uint32_t chance)
{
	if (n < 3)
		g->odd = true;
	else if (p[0] == '-')
		hear_error(g, how, p, n);
	else if (!hear(g, how, p, n, chance))
		g->odd = true;
}

/* ---- telling --------------------------------------------------------------- */

static int
compare(const void *a, const void *b)
{
	const struct slice *x = a, *y = b;
	size_t n = x->n < y->n ? x->n : y->n;
	int rc = n > 0 ? memcmp(x->p, y->p, n) : 0;

	return rc != 0 ? rc : (x->n > y->n) - (x->n < y->n);
}

/* Each element, its length in front and its CRLF behind it; -1: they are no
 * bulks, or not so many. */
static int
elements(const struct buf *said, struct slice *of, uint64_t count)
{
	size_t n, size;
	const uint8_t *p = buf_peek(said, &n);

	for (uint64_t i = 0; i < count; i++) {
		if ((size = bulk_size(p, n)) == 0)
			return -1;
		of[i] = slice_of(p, size);
		p += of[i].n;
		n -= of[i].n;
	}
	return n == 0 ? 0 : -1;
}

static int
tell_set(struct redis_gather *g, struct buf *out)
{
	struct slice *of = calloc(g->n + 1, sizeof(*of));
	uint64_t kept = 0;
	int bad;

	if (of == NULL)
		abort();
	if (elements(&g->said, of, g->n) != 0) {
		free(of);
		return resp_put_error(out, "ERR weir: not what was asked for");
	}
	qsort(of, g->n, sizeof(*of), compare);
	for (uint64_t i = 0; i < g->n; i++)
		if (kept == 0 || compare(&of[kept - 1], &of[i]) != 0)
			of[kept++] = of[i];
	bad = resp_put_array(out, kept);
	for (uint64_t i = 0; i < kept; i++)
		bad |= buf_put(out, of[i].p, of[i].n);
	free(of);
	return bad;
}

static int
tell(struct redis_gather *g, enum redis_gather_how how, struct buf *out)
{
	size_t n;
	const uint8_t *p = buf_peek(&g->bad, &n);

	if (n > 0 && (how != REDIS_GATHER_ANY || buf_len(&g->said) == 0))
		return buf_put(out, p, n);
	if (g->odd)
		return resp_put_error(out, "ERR weir: not what was asked for");
	if (how == REDIS_GATHER_SUM)
		return resp_put_int(out, g->sum);
	if (how == REDIS_GATHER_SET)
		return tell_set(g, out);
	if (how == REDIS_GATHER_LIST && resp_put_array(out, g->n) != 0)
		return -1;
	p = buf_peek(&g->said, &n);
	return n > 0 ? buf_put(out, p, n) : 0;
}

int
redis_gather_tell(struct redis_gather *g, enum redis_gather_how how,
		  struct buf *out)
{
	int bad = tell(g, how, out);

	redis_gather_free(g);
	return bad;
}

/* ---- the cursor of SCAN ------------------------------------------------------ */

uint8_t
redis_cursor_name(const char *name, unsigned port)
{
	uint32_t h = 2166136261u ^ port;

	while (*name != '\0')
		h = (h ^ (uint8_t)*name++) * 16777619u;
	return (uint8_t)(h >> 24 ^ h >> 16 ^ h >> 8 ^ h);
}

/* As Redis reads it: a number of 64 bits without a sign. */
static bool
read_number(struct slice s, uint64_t *value)
{
	uint64_t v = 0;

	for (size_t i = 0; i < s.n; i++) {
		uint8_t digit = (uint8_t)(s.p[i] - '0');

		if (digit > 9 || v > (UINT64_MAX - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = v;
	return s.n > 0;
}

bool
redis_cursor_read(struct slice s, struct redis_cursor *c)
{
	uint64_t v;

	if (!read_number(s, &v))
		return false;
	c->slot = (unsigned)(v & ((1u << SLOT_BITS) - 1));
	c->name = (uint8_t)(v >> SLOT_BITS);
	c->of_node = v >> (SLOT_BITS + NAME_BITS);
	return true;
}

bool
redis_cursor_text(const struct redis_cursor *c, char out[REDIS_CURSOR_MAX])
{
	if (c->of_node > UINT64_MAX >> (SLOT_BITS + NAME_BITS))
		return false;
	snprintf(out, REDIS_CURSOR_MAX, "%" PRIu64,
		 c->of_node << (SLOT_BITS + NAME_BITS) |
		     (uint64_t)c->name << SLOT_BITS | c->slot);
	return true;
}

bool
redis_cursor_of(const uint8_t *p, size_t n, uint64_t *of_node,
		struct slice *rest)
{
	int64_t size;
	size_t head;

	if (n < 4 || memcmp(p, "*2\r\n", 4) != 0)
		return false;
	p += 4;
	n -= 4;
	head = line_number(p, n, '$', &size);
	if (head == 0 || size < 0 || (uint64_t)size > n - head ||
	    n - head - (uint64_t)size < 2 ||
	    !read_number(slice_of(p + head, (size_t)size), of_node))
		return false;
	head += (size_t)size + 2;
	*rest = slice_of(p + head, n - head);
	return true;
}

#include "protocol/resp.h"

#include <assert.h>

#include "protocol/resp_number.h"

enum { NUMBER_LINE_MAX = 32 }; /* type, sign, 19 digits, CRLF, and some */

/* A line with a number, strictly: bytes it takes, 0 need more, -1. */
static ssize_t
reply_number(const uint8_t *p, size_t n, int64_t *value)
{
	size_t size = resp_short_line(p, n, value);
	const uint8_t *cr;

	if (size > 0)
		return p[size - 1] == '\n' ? (ssize_t)size : -1;
	cr = memchr(p, '\r', n < NUMBER_LINE_MAX ? n : NUMBER_LINE_MAX);
	if (cr == NULL)
		return n < NUMBER_LINE_MAX ? 0 : -1;
	size = (size_t)(cr - p) + 2;
	if (size > n)
		return 0;
	if (cr[1] != '\n' || !resp_number(p + 1, size - 3, value))
		return -1;
	return (ssize_t)size;
}

/* Bytes up to and with the first CRLF, 0 when there is none. */
static size_t
crlf_end(const uint8_t *p, size_t n)
{
	const uint8_t *lf = p;

	while ((lf = memchr(lf, '\n', n - (size_t)(lf - p))) != NULL) {
		if (lf > p && lf[-1] == '\r')
			return (size_t)(lf - p) + 1;
		lf++;
	}
	return 0;
}

/* Bytes of a bulk already begun.  A wrong end means we are out of step. */
static ssize_t
reply_bulk_bytes(struct resp_reply *r, const uint8_t *p, size_t n)
{
	uint64_t left = r->bulk_left;
	size_t size = n < left ? n : (size_t)left;

	if (left >= 2 && left - 2 < size && p[left - 2] != '\r')
		return -1;
	if (left - 1 < size && p[left - 1] != '\n')
		return -1;
	r->bulk_left -= size;
	r->in_bulk = r->bulk_left > 0;
	return (ssize_t)size;
}

static ssize_t
reply_bulk(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t len;
	ssize_t size = reply_number(p, n, &len);
	ssize_t body;

	if (size <= 0)
		return size;
	if (len < 0 && (len != -1 || p[0] != '$'))
		return -1;
	r->todo--;
	if (len < 0)
		return size;
	r->bulk_left = (uint64_t)len + 2;
	r->in_bulk = true;
	if ((size_t)size == n)
		return size;
	body = reply_bulk_bytes(r, p + size, n - (size_t)size);
	return body < 0 ? -1 : size + body;
}

/* Arrays and the like only change how many elements are still to come. */
static ssize_t
reply_aggregate(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t count;
	ssize_t size = reply_number(p, n, &count);

	if (size <= 0)
		return size;
	if (count == -1 && p[0] == '*')
		count = 0;
	if (count < 0 || count > INT_MAX || r->todo > UINT64_MAX / 2)
		return -1;
	if (p[0] == '%' || p[0] == '|')
		count *= 2;
	if (p[0] != '|') /* which announces, but is no element itself */
		r->todo--;
	r->todo += (uint64_t)count;
	return size;
}

/* Status, error, double, big number: all that ends at a CRLF. */
static ssize_t
reply_line(struct resp_reply *r, const uint8_t *p, size_t n)
{
	size_t size = crlf_end(p, n);

	if (size == 0 && n < RESP_LINE_HELD)
		return 0;
	r->todo--;
	if (size > 0)
		return (ssize_t)size;
	r->in_line = true;
	r->cr = p[n - 1] == '\r';
	return (ssize_t)n;
}

static ssize_t
reply_line_bytes(struct resp_reply *r, const uint8_t *p, size_t n)
{
	size_t size = r->cr && p[0] == '\n' ? 1 : crlf_end(p, n);

	r->in_line = size == 0;
	if (size > 0)
		return (ssize_t)size;
	r->cr = p[n - 1] == '\r';
	return (ssize_t)n;
}

/* `_` and `#t`: one of a few texts, `size` bytes with its CRLF. */
static ssize_t
reply_fixed(struct resp_reply *r, const uint8_t *p, size_t n, size_t size)
{
	if (n < size)
		return 0;
	if (p[size - 2] != '\r' || p[size - 1] != '\n')
		return -1;
	if (p[0] == '#' && p[1] != 't' && p[1] != 'f')
		return -1;
	r->todo--;
	return (ssize_t)size;
}

static ssize_t
reply_int(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t value;
	ssize_t size = reply_number(p, n, &value);

	if (size > 0)
		r->todo--;
	return size;
}

static ssize_t
reply_element(struct resp_reply *r, const uint8_t *p, size_t n)
{
	switch (p[0]) {
	case '$':
	case '=':
	case '!':
		return reply_bulk(r, p, n);
	case '+':
	case '-':
	case ',':
	case '(':
		return reply_line(r, p, n);
	case ':':
		return reply_int(r, p, n);
	case '*':
	case '%':
	case '~':
	case '>':
	case '|':
		return reply_aggregate(r, p, n);
	case '_':
		return reply_fixed(r, p, n, 3);
	case '#':
		return reply_fixed(r, p, n, 4);
	default:
		return -1;
	}
}

/*
 * An element, or the type of the reply when it is the first, or the first
 * after the reply's attribute: until then the reply itself is one of those to
 * come, the last.
 */
static ssize_t
reply_step(struct resp_reply *r, const uint8_t *p, size_t n)
{
	bool first = r->todo == 1 && (r->type == 0 || r->type == '|');
	ssize_t size;

	if (r->in_bulk)
		return reply_bulk_bytes(r, p, n);
	if (r->in_line)
		return reply_line_bytes(r, p, n);
	size = reply_element(r, p, n);
	if (first && size > 0)
		r->type = p[0];
	return size;
}

ssize_t
resp_reply_next(struct resp_reply *r, const uint8_t *p, size_t n, bool *done)
{
	size_t pos = 0;

	*done = false;
	if (!r->started) {
		assert(!r->in_bulk && !r->in_line);
		r->started = true;
		r->todo = 1;
		r->type = 0;
	}
	while (pos < n) {
		ssize_t size = reply_step(r, p + pos, n - pos);

		if (size < 0)
			return -1;
		if (size == 0)
			break;
		pos += (size_t)size;
		if (r->todo == 0 && !r->in_bulk && !r->in_line) {
			r->started = false;
			*done = true;
			break;
		}
	}
	return (ssize_t)pos;
}

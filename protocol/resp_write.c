#include "protocol/resp.h"

#include <assert.h>

#include "protocol/buf.h"

enum { HEADER_MAX = 1 + 20 + 2 }; /* type, sign and digits, CRLF */

static size_t
digits(uint64_t v)
{
	size_t n = 1;

	for (; v >= 10; v /= 10)
		n++;
	return n;
}

/* The bytes a bulk of n takes, all told. */
static size_t
bulk_size(size_t n)
{
	return 1 + digits(n) + 2 + n + 2;
}

static uint8_t *
write_crlf(uint8_t *p)
{
	p[0] = '\r';
	p[1] = '\n';
	return p + 2;
}

/* `type`, the number, CRLF; returns the byte after. */
static uint8_t *
write_header(uint8_t *p, uint8_t type, uint64_t v)
{
	size_t n = digits(v);

	*p++ = type;
	for (size_t i = n; i > 0; i--) {
		p[i - 1] = (uint8_t)('0' + v % 10);
		v /= 10;
	}
	return write_crlf(p + n);
}

static uint8_t *
write_bulk(uint8_t *p, const void *body, size_t n)
{
	p = write_header(p, '$', n);
	if (n > 0)
		memcpy(p, body, n);
	return write_crlf(p + n);
}

static int
put_header(struct buf *b, uint8_t type, uint64_t v)
{
	uint8_t header[HEADER_MAX];
	uint8_t *end = write_header(header, type, v);

	return buf_put(b, header, (size_t)(end - header));
}

/*
 * The exact size is asked for before the first byte is written: half a request
 * in a shared pipeline would be everybody's trouble.
 */
int
resp_put_request(struct buf *b, const struct slice *arg, size_t argc)
{
	size_t size = 1 + digits(argc) + 2;
	uint8_t *room, *p;

	assert(argc > 0);
	for (size_t i = 0; i < argc; i++)
		size += bulk_size(arg[i].n);
	room = buf_reserve(b, size);
	if (room == NULL)
		return -1;
	p = write_header(room, '*', argc);
	for (size_t i = 0; i < argc; i++)
		p = write_bulk(p, arg[i].p, arg[i].n);
	assert(p == room + size);
	buf_commit(b, size);
	return 0;
}

/* A line of text may carry what a client sent; it must stay one line. */
static int
put_line(struct buf *b, uint8_t type, const char *text)
{
	size_t n = strlen(text);
	uint8_t *p = buf_reserve(b, n + 3);

	if (p == NULL)
		return -1;
	*p++ = type;
	for (size_t i = 0; i < n; i++)
		*p++ =
		    text[i] == '\r' || text[i] == '\n' ? ' ' : (uint8_t)text[i];
	write_crlf(p);
	buf_commit(b, n + 3);
	return 0;
}

int
resp_put_simple(struct buf *b, const char *text)
{
	return put_line(b, '+', text);
}

int
resp_put_error(struct buf *b, const char *text)
{
	return put_line(b, '-', text);
}

int
resp_put_int(struct buf *b, int64_t v)
{
	uint8_t line[HEADER_MAX];
	uint8_t *end;

	if (v >= 0)
		return put_header(b, ':', (uint64_t)v);
	/* The sign stands where the type will not: one byte further on. */
	end = write_header(line + 1, '-', 0 - (uint64_t)v);
	line[0] = ':';
	return buf_put(b, line, (size_t)(end - line));
}

int
resp_put_bulk(struct buf *b, const void *body, size_t n)
{
	size_t size = bulk_size(n);
	uint8_t *room = buf_reserve(b, size);
	uint8_t *end;

	if (room == NULL)
		return -1;
	end = write_bulk(room, body, n);
	assert(end == room + size);
	buf_commit(b, size);
	return 0;
}

int
resp_put_null(struct buf *b, int version)
{
	assert(version == 2 || version == 3);
	return version == 3 ? buf_put(b, "_\r\n", 3) : buf_put(b, "$-1\r\n", 5);
}

int
resp_put_array(struct buf *b, size_t n)
{
	return put_header(b, '*', n);
}

int
resp_put_map(struct buf *b, size_t pairs, int version)
{
	assert(version == 2 || version == 3);
	assert(pairs <= SIZE_MAX / 2);
	return version == 3 ? put_header(b, '%', pairs)
			    : put_header(b, '*', pairs * 2);
}

#include "protocol/pg.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

#include "protocol/buf.h"

static void
put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void
put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static int
put_field(struct buf *b, char kind, va_list *ap)
{
	uint8_t bytes[4];
	struct slice s;
	const char *str;

	switch (kind) {
	case 'c':
		bytes[0] = (uint8_t)va_arg(*ap, int);
		return buf_put(b, bytes, 1);
	case 'h':
		put16(bytes, (uint32_t)va_arg(*ap, int));
		return buf_put(b, bytes, 2);
	case 'i':
		put32(bytes, va_arg(*ap, uint32_t));
		return buf_put(b, bytes, 4);
	case 's':
		str = va_arg(*ap, const char *);
		return buf_put(b, str, strlen(str) + 1);
	case 'b':
		s = va_arg(*ap, struct slice);
		return buf_put(b, s.p, s.n);
	default:
		assert(!"a field kind pg_put() knows");
		return -1;
	}
}

static int
put_fields(struct buf *b, const char *fields, va_list *ap)
{
	int r = 0;

	for (; r == 0 && *fields != '\0'; fields++)
		r = put_field(b, *fields, ap);
	return r;
}

int
pg_put_bare(struct buf *b, const char *fields, ...)
{
	size_t start = buf_len(b);
	va_list ap;
	int r;

	va_start(ap, fields);
	r = put_fields(b, fields, &ap);
	va_end(ap);
	if (r != 0)
		buf_truncate(b, start);
	return r;
}

int
pg_put(struct buf *b, char type, const char *fields, ...)
{
	size_t start = buf_len(b), at = type != 0;
	uint8_t length[4] = { 0 };
	va_list ap;
	int r = 0;

	if (type != 0)
		r = buf_put(b, &type, 1);
	if (r == 0)
		r = buf_put(b, length, 4);
	va_start(ap, fields);
	if (r == 0)
		r = put_fields(b, fields, &ap);
	va_end(ap);
	if (r != 0) {
		buf_truncate(b, start);
		return -1;
	}
	put32(length, (uint32_t)(buf_len(b) - start - at));
	buf_patch(b, start + at, length, 4);
	return 0;
}

int
pg_put_error(struct buf *b, const char *severity, const char *sqlstate,
	     const char *message, const char *detail)
{
	assert(strlen(sqlstate) == 5);
	if (detail == NULL)
		return pg_put(b, 'E', "cscscscsc", 'S', severity, 'V', severity,
			      'C', sqlstate, 'M', message, 0);
	return pg_put(b, 'E', "cscscscscsc", 'S', severity, 'V', severity, 'C',
		      sqlstate, 'M', message, 'D', detail, 0);
}

int
pg_put_ready(struct buf *b, char status)
{
	uint8_t message[6] = { 'Z', 0, 0, 0, 5, (uint8_t)status };

	return buf_put(b, message, sizeof(message));
}

static uint8_t *
put_value(uint8_t *p, struct slice value)
{
	put32(p, value.p ? (uint32_t)value.n : UINT32_MAX);
	if (value.p != NULL && value.n > 0)
		memcpy(p + 4, value.p, value.n);
	return p + 4 + (value.p ? value.n : 0);
}

int
pg_put_run(struct buf *b, const char *name, const struct slice *value,
	   unsigned n)
{
	static const uint8_t execute[10] = { 'E', 0, 0, 0, 9 };
	size_t name_n = strlen(name) + 1, size = 4 + 1 + name_n + 2 + 2 + 2;
	uint8_t *start, *p;

	assert(n <= UINT16_MAX);
	for (unsigned i = 0; i < n; i++)
		size += 4 + (value[i].p ? value[i].n : 0);
	assert(size < 1u << 31);
	if ((start = buf_reserve(b, 1 + size + sizeof(execute))) == NULL)
		return -1;
	p = start;
	*p++ = 'B';
	put32(p, (uint32_t)size);
	p[4] = 0; /* the portal without a name */
	memcpy(p + 5, name, name_n);
	p += 5 + name_n;
	put16(p, 0); /* formats: all are text */
	put16(p + 2, n);
	p += 4;
	for (unsigned i = 0; i < n; i++)
		p = put_value(p, value[i]);
	put16(p, 0);
	p += 2;
	memcpy(p, execute, sizeof(execute));
	assert((size_t)(p - start) == 1 + size);
	buf_commit(b, 1 + size + sizeof(execute));
	return 0;
}

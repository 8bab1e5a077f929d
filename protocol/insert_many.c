#include "protocol/insert_many.h"

#include <stdio.h>

#include "protocol/pg.h"

static struct slice
types_of(struct slice body)
{
	struct pg_reader r = pg_reader(body.p, body.n);

	pg_read_str(&r);
	return slice_of(r.p, (size_t)(r.end - r.p));
}

bool
insert_may_merge(const struct insert *in, struct slice body)
{
	struct slice types = types_of(body);
	struct pg_reader r = pg_reader(types.p, types.n);

	return in->plain && !in->block && !in->returning && !in->conflict &&
	       in->params == in->column_n && pg_read_u16(&r) <= in->params &&
	       !r.bad && in->params <= UINT16_MAX / INSERT_MANY;
}

static int
put16(struct buf *b, unsigned v)
{
	const uint8_t p[] = { (uint8_t)(v >> 8), (uint8_t)v };

	return buf_put(b, p, 2);
}

static int
put32(struct buf *b, uint32_t v)
{
	return put16(b, v >> 16) | put16(b, v & 0xffff);
}

static int
put_text(struct buf *b, const char *s)
{
	return buf_put(b, s, strlen(s));
}

static int
put_name(struct buf *b, const char *s)
{
	int bad = put_text(b, "\"");

	for (; *s != '\0'; s++)
		bad |= buf_put(b, *s == '"' ? "\"\"" : s, *s == '"' ? 2 : 1);
	return bad | put_text(b, "\"");
}

static int
put_row(struct buf *b, const struct insert *in, unsigned row)
{
	char param[16];
	int bad = put_text(b, row > 0 ? ",(" : "(");

	for (size_t i = 0; i < in->column_n; i++) {
		snprintf(param, sizeof(param), "%s$%zu", i > 0 ? "," : "",
			 row * in->column_n + i + 1);
		bad |= put_text(b, param);
		if (in->column[i].cast != NULL)
			bad |=
			    put_text(b, "::") | put_name(b, in->column[i].cast);
	}
	return bad | put_text(b, ")");
}

int
insert_put_many(struct buf *b, const struct insert *in, struct slice body,
		unsigned n)
{
	struct slice types = types_of(body);
	int bad = put_text(b, "INSERT INTO ");

	if (in->schema != NULL)
		bad |= put_name(b, in->schema) | put_text(b, ".");
	bad |= put_name(b, in->table);
	for (size_t i = 0; i < in->column_n; i++)
		bad |= put_text(b, i > 0 ? "," : "(") |
		       put_name(b, in->column[i].name);
	bad |= put_text(b, ")VALUES");
	for (unsigned row = 0; row < n; row++)
		bad |= put_row(b, in, row);
	bad |= buf_put(b, "", 1);
	if (pg_type_at(types, 1) == 0 && types.n == 2)
		return bad | put16(b, 0);
	bad |= put16(b, n * in->params);
	for (unsigned i = 0; i < n * in->params; i++)
		bad |= put32(b, pg_type_at(types, i % in->params + 1));
	return bad;
}

/* Of one Bind. */
static struct slice
formats_of(struct slice args, struct slice *values, unsigned params)
{
	struct pg_reader r = pg_reader(args.p, args.n);
	unsigned n = pg_read_u16(&r);
	struct slice formats = pg_read_bytes(&r, 2 * (size_t)n);

	pg_read_u16(&r);
	values->p = r.p;
	for (unsigned i = 0; i < params; i++) {
		int32_t len = (int32_t)pg_read_u32(&r);

		pg_read_bytes(&r, len > 0 ? (size_t)len : 0);
	}
	values->n = (size_t)(r.p - values->p);
	return formats;
}

static int
put_formats(struct buf *b, struct slice formats, unsigned params)
{
	int bad = 0;

	for (unsigned i = 0; i < params; i++)
		bad |=
		    formats.n == 0
			? put16(b, 0)
			: buf_put(b, formats.p + (formats.n == 2 ? 0 : 2 * i),
				  2);
	return bad;
}

int
insert_put_args(struct buf *b, const struct slice *args, unsigned n,
		unsigned params)
{
	struct slice values, formats;
	bool any = false;
	int bad = 0;

	for (unsigned i = 0; i < n; i++)
		any |= formats_of(args[i], &values, params).n > 0;
	bad |= put16(b, any ? n * params : 0);
	for (unsigned i = 0; i < n && any; i++) {
		formats = formats_of(args[i], &values, params);
		bad |= put_formats(b, formats, params);
	}
	bad |= put16(b, n * params);
	for (unsigned i = 0; i < n; i++) {
		formats_of(args[i], &values, params);
		bad |= buf_put(b, values.p, values.n);
	}
	return bad | put16(b, 0);
}

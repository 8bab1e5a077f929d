#include "protocol/pg.h"

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
	       (uint32_t)p[2] << 8 | p[3];
}

/* The length word counts itself but not the type byte, hence 4 and not 5. */
int
pg_frame_next(struct pg_frame *f, const uint8_t *p, size_t n)
{
	uint32_t len;

	if (n < PG_HEADER)
		return 0;
	len = get32(p + 1);
	if (len < 4 || len >= PG_MESSAGE_MAX)
		return -1;
	f->type = p[0];
	f->size = len + 1;
	return PG_HEADER;
}

/*
 * The length is judged before the body is waited for, so that nobody can make
 * us collect more than a startup packet may hold.
 */
int
pg_startup_next(struct pg_startup *s, const uint8_t *p, size_t n)
{
	uint32_t len;

	if (n < 4)
		return 0;
	len = get32(p);
	if (len < 8 || len > PG_STARTUP_MAX)
		return -1;
	if (n < len)
		return 0;
	s->size = len;
	s->code = get32(p + 4);
	s->body = slice_of(p + 8, len - 8);
	return (int)len;
}

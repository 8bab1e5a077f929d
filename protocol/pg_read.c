#include "protocol/pg.h"

#include <string.h>

struct slice
pg_read_bytes(struct pg_reader *r, size_t n)
{
	struct slice s;

	if (r->bad || n > (size_t)(r->end - r->p)) {
		r->bad = true;
		return slice_of("", 0);
	}
	s = slice_of(r->p, n);
	r->p += n;
	return s;
}

uint8_t
pg_read_u8(struct pg_reader *r)
{
	struct slice s = pg_read_bytes(r, 1);

	return s.n == 1 ? s.p[0] : 0;
}

uint16_t
pg_read_u16(struct pg_reader *r)
{
	struct slice s = pg_read_bytes(r, 2);

	return s.n == 2 ? (uint16_t)(s.p[0] << 8 | s.p[1]) : 0;
}

uint32_t
pg_read_u32(struct pg_reader *r)
{
	struct slice s = pg_read_bytes(r, 4);

	if (s.n != 4)
		return 0;
	return (uint32_t)s.p[0] << 24 | (uint32_t)s.p[1] << 16 |
	       (uint32_t)s.p[2] << 8 | s.p[3];
}

struct slice
pg_read_str(struct pg_reader *r)
{
	const uint8_t *nul = NULL;
	struct slice s;

	if (!r->bad && r->p < r->end)
		nul = memchr(r->p, 0, (size_t)(r->end - r->p));
	if (nul == NULL) {
		r->bad = true;
		return slice_of("", 0);
	}
	s = slice_of(r->p, (size_t)(nul - r->p));
	r->p = nul + 1;
	return s;
}

unsigned
pg_type_at(struct slice list, unsigned n)
{
	struct pg_reader r = pg_reader(list.p, list.n);
	unsigned types = pg_read_u16(&r), type = 0;

	for (unsigned i = 1; i <= n && i <= types; i++)
		type = pg_read_u32(&r);
	return r.bad || n > types ? 0 : type;
}

bool
pg_bind_value(struct slice args, unsigned n, int *format, struct slice *value,
	      ssize_t *len)
{
	struct pg_reader r = pg_reader(args.p, args.n);
	unsigned formats = pg_read_u16(&r), values;

	*format = 0;
	for (unsigned i = 1; i <= formats && !r.bad; i++) {
		int f = pg_read_u16(&r);

		if (i == n || formats == 1)
			*format = f;
	}
	values = pg_read_u16(&r);
	if (r.bad || n < 1 || n > values)
		return false;
	for (unsigned i = 1; i <= n && !r.bad; i++) {
		*len = (int32_t)pg_read_u32(&r);
		*value = pg_read_bytes(&r, *len > 0 ? (size_t)*len : 0);
	}
	return !r.bad;
}

struct slice
pg_error_field(const uint8_t *body, size_t n, char field)
{
	struct pg_reader r = pg_reader(body, n);

	while (!r.bad) {
		uint8_t code = pg_read_u8(&r);
		struct slice value;

		if (code == 0)
			break;
		value = pg_read_str(&r);
		if (!r.bad && code == (uint8_t)field)
			return value;
	}
	return slice_of("", 0);
}

static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* One word, blanks end it, a backslash takes the next character as it is. */
static const char *
next_word(const char *p, char **out)
{
	while (is_space(*p))
		p++;
	while (*p != '\0' && !is_space(*p)) {
		if (*p == '\\' && p[1] != '\0')
			p++;
		*(*out)++ = *p++;
	}
	*(*out)++ = '\0';
	return p;
}

int
pg_options_next(const char **text, char *out, const char **name,
		const char **value)
{
	const char *p = *text;
	char *word = out, *eq;

	p = next_word(p, &out);
	if (*word == '\0') {
		*text = p;
		return 0;
	}
	if (strncmp(word, "--", 2) == 0) {
		word += 2;
	} else if (strncmp(word, "-c", 2) == 0) {
		if (word[2] != '\0') {
			word += 2;
		} else {
			word = out;
			p = next_word(p, &out);
		}
	} else {
		return -1;
	}
	if ((eq = strchr(word, '=')) == NULL || eq == word)
		return -1;
	*eq = '\0';
	*name = word;
	*value = eq + 1;
	*text = p;
	/* --enable-seqscan=off names enable_seqscan, as PostgreSQL has it. */
	for (char *c = word; *c != '\0'; c++)
		if (*c == '-')
			*c = '_';
	return 1;
}

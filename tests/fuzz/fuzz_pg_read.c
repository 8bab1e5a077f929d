#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* A field is in the body, ends there, and is the same if more follows. */
static void
read_fields(const uint8_t *p, size_t n)
{
	for (int c = 'A'; c <= 'Z'; c++) {
		struct slice s = pg_error_field(p, n, (char)c);

		if (s.n == 0)
			continue;
		assert(s.p > p && s.p + s.n < p + n);
		assert(s.p[-1] == c && s.p[s.n] == 0);
		assert(memchr(s.p, 0, s.n) == NULL);
	}
}

/* Names and values fit in `out`, and together in the text. */
static void
read_options(const uint8_t *p, size_t n)
{
	char *text = malloc(n + 1), *out;
	const char *at = text, *name, *value;
	size_t len;

	if (text == NULL)
		abort();
	if (n > 0)
		memcpy(text, p, n);
	text[n] = '\0';
	len = strlen(text);
	if ((out = malloc(len + 2)) == NULL)
		abort();
	while (pg_options_next(&at, out, &name, &value) == 1) {
		assert(at > text && at <= text + len);
		assert(name >= out && value > name && *name != '\0');
		assert(value + strlen(value) < out + len + 2);
		assert(strchr(name, '-') == NULL && strchr(name, '=') == NULL);
	}
	free(out);
	free(text);
}

/* The first byte of each step says what to read. */
static void
read_anything(const uint8_t *p, size_t n)
{
	struct pg_reader r = pg_reader(p, n);

	while (!r.bad) {
		const uint8_t *before = r.p;

		switch (pg_read_u8(&r) % 4) {
		case 0:
			pg_read_u16(&r);
			break;
		case 1:
			pg_read_u32(&r);
			break;
		case 2:
			pg_read_str(&r);
			break;
		default:
			pg_read_bytes(&r, pg_read_u32(&r) % 64);
			break;
		}
		assert(r.p >= before && r.p <= r.end);
		assert(r.bad || r.p > before);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	read_fields(p, n);
	read_options(p, n);
	read_anything(p, n);
	return 0;
}

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* The names and values of a startup packet, as a server walks them. */
static void
read_body(struct slice body)
{
	struct pg_reader r = pg_reader(body.p, body.n);
	size_t seen = 0;

	while (!r.bad) {
		struct slice name = pg_read_str(&r), value;

		if (r.bad || name.n == 0)
			break;
		value = pg_read_str(&r);
		seen += name.n + value.n + 2;
		assert(r.bad || seen <= body.n);
	}
	assert(r.p >= body.p && r.p <= body.p + body.n);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct pg_startup s = { 0 }, t;
	int got = pg_startup_next(&s, p, n);

	if (got <= 0)
		return 0;
	assert((size_t)got <= n && got >= 8 && got <= PG_STARTUP_MAX);
	assert(s.size == (uint32_t)got);
	assert(s.body.p == p + 8 && s.body.n == (size_t)got - 8);
	/* Not a byte too early, and not by what follows. */
	assert(pg_startup_next(&t, p, (size_t)got - 1) == 0);
	assert(pg_startup_next(&t, p, (size_t)got) == got);
	assert(t.code == s.code);
	read_body(s.body);
	return 0;
}

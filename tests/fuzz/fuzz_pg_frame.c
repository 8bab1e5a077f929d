#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* A stream of messages: each header is understood at its fifth byte, neither
 * sooner nor otherwise than with all that follows at hand. */
int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	size_t pos = 0;

	while (pos < n) {
		size_t there = n - pos;
		struct pg_frame f = { 0 }, g = { 0 };
		int got = pg_frame_next(&f, p + pos, there);

		for (size_t cut = 0; cut < PG_HEADER && cut < there; cut++)
			assert(pg_frame_next(&g, p + pos, cut) == 0);
		if (got <= 0) {
			assert(got == 0 ? there < PG_HEADER : got == -1);
			break;
		}
		assert(pg_frame_next(&g, p + pos, PG_HEADER) == got);
		assert(got == PG_HEADER && there >= PG_HEADER);
		assert(f.type == p[pos] && f.type == g.type);
		assert(f.size >= PG_HEADER && f.size <= PG_MESSAGE_MAX);
		assert(f.size == g.size);
		if (f.size > there)
			break;
		pos += f.size;
	}
	return 0;
}

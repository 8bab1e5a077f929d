#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

#include "protocol/resp.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* What became of a stream of replies. */
struct outcome {
	size_t replies, ends; /* ends: sum of where each ended */
	bool bad;
};

/*
 * Reads p[0..n) as it would arrive in pieces of `step`, keeping what was not
 * understood.
 */
static struct outcome
read_replies(const uint8_t *p, size_t n, size_t step)
{
	struct outcome o = { 0 };
	struct resp_reply r = { 0 };
	size_t pos = 0, there = 0;
	bool done;

	while (there < n) {
		there = step < n - there ? there + step : n;
		while (pos < there) {
			ssize_t size =
			    resp_reply_next(&r, p + pos, there - pos, &done);

			if (size < 0) {
				o.bad = true;
				return o;
			}
			if (size == 0)
				break;
			assert((size_t)size <= there - pos);
			assert(done == !r.started);
			pos += (size_t)size;
			o.replies += done;
			o.ends += done ? pos : 0;
		}
	}
	return o;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct outcome whole, cut;

	if (n < 1)
		return 0;
	whole = read_replies(p + 1, n - 1, n);
	cut = read_replies(p + 1, n - 1, p[0] % 16 + 1);
	assert(whole.bad == cut.bad);
	assert(whole.replies == cut.replies);
	assert(whole.ends == cut.ends);
	return 0;
}

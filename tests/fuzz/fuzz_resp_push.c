#include <assert.h>
#include <string.h>

#include "protocol/resp_push.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

enum { LOOKS = 512 }; /* beginnings of one push that are looked at */

static void
is_within(struct slice s, const uint8_t *p, size_t n)
{
	if (s.p == NULL) {
		assert(s.n == 0);
		return;
	}
	assert(s.p >= p && s.p <= p + n);
	assert(s.n <= (size_t)(p + n - s.p));
}

static void
is_whole(const struct resp_push *push, const uint8_t *p, size_t n)
{
	assert((unsigned)push->kind <= RESP_PUSH_ERROR);
	switch (push->kind) {
	case RESP_PUSH_MESSAGE:
	case RESP_PUSH_SUBSCRIBED:
		assert(push->name.p != NULL);
		/* fall through */
	case RESP_PUSH_UNSUBSCRIBED:
		assert((unsigned)push->channel < RESP_CHANNELS);
		is_within(push->name, p, n);
		break;
	case RESP_PUSH_ERROR:
		is_within(push->text, p, n);
		break;
	case RESP_PUSH_PONG:
		break;
	}
}

/* The next one, and what is said of it while only a beginning is there. */
static ssize_t
look(const uint8_t *p, size_t n, size_t max)
{
	struct resp_push push, part;
	ssize_t size = resp_push_next(&push, p, n, max), before;
	size_t end = size > 0 ? (size_t)size : n;

	assert(size <= (ssize_t)n);
	if (size > 0) {
		is_whole(&push, p, (size_t)size);
		assert(push.name.n <= max);
	}
	if (end > LOOKS)
		end = LOOKS;
	for (size_t i = 0; i < end; i++) {
		before = resp_push_next(&part, p, i, max);
		assert(before <= 0 || size == before);
		/* What is bad stays bad, and what is good was never called so. */
		assert(before == 0 || size < 0);
		if (before < 0)
			return size;
		assert(part.need > i);
		assert(size <= 0 || part.need <= (size_t)size);
	}
	return size;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const size_t most[] = { 1 << 20, 64, 16, 1 };
	size_t at = 1, max;
	ssize_t size = 1;

	if (n < 1)
		return 0;
	max = most[p[0] % 4];
	for (; at < n && size > 0; at += size > 0 ? (size_t)size : 0)
		size = look(p + at, n - at, max);
	return 0;
}

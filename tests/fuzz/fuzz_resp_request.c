#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"
#include "protocol/redis_cmd.h"
#include "protocol/resp.h"

enum { LIMIT = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* Every argument lies in the input, or in the request's own text. */
static void
check_views(const struct resp_request *r, const uint8_t *p, size_t size)
{
	const uint8_t *base = r->is_inline ? r->text : p;
	size_t n = r->is_inline ? r->text_size : size;

	for (size_t i = 0; i < r->argc; i++) {
		assert(r->arg[i].p >= base);
		assert((size_t)(r->arg[i].p - base) <= n);
		assert(r->arg[i].n <= n - (size_t)(r->arg[i].p - base));
	}
}

/* What we would forward is read back as the same words; and what is said to be
 * written so already, is. */
static void
check_canonical(const struct resp_request *r, const uint8_t *bytes, size_t size)
{
	struct resp_request again = { 0 };
	struct buf b;
	size_t n;
	const uint8_t *p;

	buf_init(&b, LIMIT * 8);
	if (resp_put_request(&b, r->arg, r->argc) < 0)
		abort();
	p = buf_peek(&b, &n);
	assert(!r->canonical || (n == size && memcmp(p, bytes, n) == 0));
	if (resp_request_next(&again, p, n, true, n) != (ssize_t)n)
		abort();
	assert(again.argc == r->argc);
	for (size_t i = 0; i < r->argc; i++) {
		assert(again.arg[i].n == r->arg[i].n);
		assert(r->arg[i].n == 0 ||
		       memcmp(again.arg[i].p, r->arg[i].p, r->arg[i].n) == 0);
	}
	resp_request_free(&again);
	buf_free(&b);
}

/* Byte by byte with `resume`, the same words at the end and not before. */
static void
check_resumed(const struct resp_request *r, const uint8_t *p, size_t size,
	      bool auth, size_t max)
{
	struct resp_request again = { .resume = true };

	for (size_t n = size > 256 ? size - 256 : 0; n < size; n++)
		if (resp_request_next(&again, p, n, auth, max) != 0)
			abort();
	if (resp_request_next(&again, p, size, auth, max) != (ssize_t)size)
		abort();
	assert(again.argc == r->argc);
	for (size_t i = 0; i < r->argc && !r->is_inline; i++) {
		assert(again.arg[i].p == r->arg[i].p);
		assert(again.arg[i].n == r->arg[i].n);
	}
	resp_request_free(&again);
}

static void
check_command(const struct resp_request *r)
{
	const struct redis_cmd *cmd = redis_cmd_find(r->arg[0]);
	char text[REDIS_CMD_TEXT_MAX];

	if (cmd == NULL)
		redis_cmd_unknown_text(r->arg, r->argc, text, sizeof(text));
	else
		assert(redis_cmd_class(cmd, r->arg, r->argc) <= REDIS_REFUSED);
}

/* Any part of it: not yet, or already refused; never taken for a whole. */
static void
check_prefix(const uint8_t *p, size_t n, bool auth, size_t max, bool good)
{
	struct resp_request r = { 0 };
	ssize_t size = resp_request_next(&r, p, n, auth, max);

	assert(size == 0 || (size == -1 && !good));
	if (size == 0)
		assert(r.need > n);
	resp_request_free(&r);
}

/* Two bytes of settings, then a client's pipeline. */
int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct resp_request r = { 0 };
	bool auth;
	size_t max, cut;
	ssize_t size;
	char text[64];

	if (n < 2)
		return 0;
	auth = p[0] & 1;
	max = p[0] & 2 ? 64 : LIMIT;
	cut = p[1];
	p += 2;
	n -= 2;
	while ((size = resp_request_next(&r, p, n, auth, max)) > 0) {
		assert((size_t)size <= n);
		assert((size_t)size <= max);
		check_views(&r, p, (size_t)size);
		check_prefix(p, cut % (size_t)size, auth, max, true);
		check_resumed(&r, p, (size_t)size, auth, max);
		if (r.argc > 0) {
			check_canonical(&r, p, (size_t)size);
			check_command(&r);
		}
		p += size;
		n -= (size_t)size;
	}
	if (size < 0)
		resp_error_text(&r, text, sizeof(text));
	else
		assert(r.need > n && r.need <= max);
	check_prefix(p, n > 0 ? cut % n : 0, auth, max, size == 0);
	resp_request_free(&r);
	return 0;
}

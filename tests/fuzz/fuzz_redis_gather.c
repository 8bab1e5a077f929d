/*
 * What the nodes of a cluster say.  The first byte says what is asked: replies
 * that are to be one, which is a whole reply then, whatever they are; or one to
 * CLUSTER NODES, SCAN or anything else.
 */
#include <assert.h>
#include <stdlib.h>

#include "protocol/redis_gather.h"
#include "protocol/redis_where.h"
#include "protocol/resp.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

/* The reply at the start of the bytes; 0: it is not whole. */
static size_t
whole(const uint8_t *p, size_t n)
{
	struct resp_reply r = { 0 };
	bool done = false;
	size_t at = 0;
	ssize_t used = 1;

	while (at < n && !done && used > 0)
		if ((used = resp_reply_next(&r, p + at, n - at, &done)) > 0)
			at += (size_t)used;
	return done ? at : 0;
}

static void
gathers(enum redis_gather_how how, const uint8_t *p, size_t n)
{
	struct redis_gather g = { 0 };
	struct buf out;
	uint32_t chance = 0;
	size_t size;

	while ((size = whole(p, n)) > 0) {
		redis_gather_hear(&g, how, p, size, chance++);
		p += size;
		n -= size;
	}
	buf_init(&out, 1 << 24);
	if (redis_gather_tell(&g, how, &out) != 0)
		abort();
	p = buf_peek(&out, &n);
	assert(n == 0 ? chance == 0 : whole(p, n) == n);
	buf_free(&out);
}

/* Slots and ports are in their bounds, and names in the bytes. */
static void
lists(const uint8_t *p, size_t n)
{
	struct redis_member m;
	struct slice text;
	unsigned from, to;

	if (redis_where_nodes(p, n, &text) != 1)
		return;
	while (redis_where_member(&text, &m) == 1) {
		assert(m.at.port <= UINT16_MAX);
		assert(m.at.name.n == 0 ||
		       (m.at.name.p >= p && m.at.name.n <= n));
		while (redis_where_range(&m.slots, &from, &to) == 1)
			assert(from <= to && to < REDIS_SLOTS);
	}
}

/* A cursor that is told comes back as it was. */
static void
scans(const uint8_t *p, size_t n)
{
	struct redis_cursor c = { .slot = n % REDIS_SLOTS, .name = (uint8_t)n },
			    back;
	char text[REDIS_CURSOR_MAX];
	struct slice rest;

	if (!redis_cursor_of(p, n, &c.of_node, &rest))
		return;
	assert(rest.p >= p && rest.p + rest.n == p + n);
	if (!redis_cursor_text(&c, text))
		return;
	assert(redis_cursor_read(slice_str(text), &back));
	assert(back.of_node == c.of_node && back.slot == c.slot &&
	       back.name == c.name);
}

static void
turns(const uint8_t *p, size_t n)
{
	struct redis_place at;
	unsigned slot;

	if (redis_where_turn(p, n, &slot, &at) != REDIS_STAYS)
		assert(slot < REDIS_SLOTS && at.port > 0 &&
		       at.port <= UINT16_MAX && at.name.n <= n);
	if (redis_where_master(p, n, &at) > 0)
		assert(at.port > 0 && at.name.n > 0);
	(void)redis_where_is_master(p, n);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	size_t size;

	if (n == 0)
		return 0;
	if (p[0] < '0' + REDIS_GATHER_ANY + 1 && p[0] >= '0') {
		gathers((enum redis_gather_how)(p[0] - '0'), p + 1, n - 1);
		return 0;
	}
	if ((size = whole(p + 1, n - 1)) == 0)
		return 0;
	lists(p + 1, size);
	scans(p + 1, size);
	turns(p + 1, size);
	return 0;
}

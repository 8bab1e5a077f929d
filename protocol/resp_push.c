#include "protocol/resp_push.h"

#include <stdbool.h>
#include <string.h>

const char *const resp_subscribe_word[RESP_CHANNELS] = {
	[RESP_CHANNEL] = "subscribe",
	[RESP_PATTERN] = "psubscribe",
	[RESP_SHARD] = "ssubscribe",
};

static const struct word {
	const char *name;
	enum resp_push_kind kind;
	enum resp_channel channel;
	unsigned elements;
} words[] = {
	{ "message", RESP_PUSH_MESSAGE, RESP_CHANNEL, 3 },
	{ "pmessage", RESP_PUSH_MESSAGE, RESP_PATTERN, 4 },
	{ "smessage", RESP_PUSH_MESSAGE, RESP_SHARD, 3 },
	{ "subscribe", RESP_PUSH_SUBSCRIBED, RESP_CHANNEL, 3 },
	{ "psubscribe", RESP_PUSH_SUBSCRIBED, RESP_PATTERN, 3 },
	{ "ssubscribe", RESP_PUSH_SUBSCRIBED, RESP_SHARD, 3 },
	{ "unsubscribe", RESP_PUSH_UNSUBSCRIBED, RESP_CHANNEL, 3 },
	{ "punsubscribe", RESP_PUSH_UNSUBSCRIBED, RESP_PATTERN, 3 },
	{ "sunsubscribe", RESP_PUSH_UNSUBSCRIBED, RESP_SHARD, 3 },
	{ "pong", RESP_PUSH_PONG, RESP_CHANNEL, 2 },
};

enum {
	LINE_MAX = 16 << 10, /* an error, or a pong */
	COUNT_MAX = 32       /* `$536870912` and the like */
};

/* Where we are in it; each reader below answers as the parser does. */
struct cursor {
	const uint8_t *p;
	size_t n, at, need, max;
};

/* A line without its first byte and CRLF. */
static int
read_line(struct cursor *c, size_t most, struct slice *line)
{
	const uint8_t *from = c->p + c->at, *cr;
	size_t left = c->n - c->at;

	cr = memchr(from, '\r', left < most ? left : most);
	if (cr == NULL || cr + 1 == c->p + c->n) {
		c->need = c->n + 1;
		return cr == NULL && left >= most ? -1 : 0;
	}
	if (cr[1] != '\n')
		return -1;
	*line = slice_of(from + 1, (size_t)(cr - from) - 1);
	c->at += (size_t)(cr - from) + 2;
	return 1;
}

/* A type and its number, -1 included; nothing longer than makes sense. */
static int
read_number(struct cursor *c, char type, int64_t *number)
{
	struct slice line;
	bool minus;
	int got;

	if (c->at == c->n) {
		c->need = c->n + 1;
		return 0;
	}
	if (c->p[c->at] != (uint8_t)type)
		return -1;
	if ((got = read_line(c, COUNT_MAX, &line)) <= 0)
		return got;
	minus = line.n > 0 && line.p[0] == '-';
	*number = 0;
	if (line.n == minus || line.n > 18)
		return -1;
	for (size_t i = minus; i < line.n; i++) {
		if (line.p[i] < '0' || line.p[i] > '9')
			return -1;
		*number = *number * 10 + (line.p[i] - '0');
	}
	if (minus)
		*number = -*number;
	return 1;
}

/* NULL: a null. */
static int
read_bulk(struct cursor *c, struct slice *text)
{
	int64_t size;
	int got = read_number(c, '$', &size);

	if (got <= 0)
		return got;
	*text = (struct slice){ 0 };
	if (size == -1)
		return 1;
	if (size < 0 || c->at > c->max || (uint64_t)size > c->max - c->at)
		return -1;
	if (c->n - c->at < (size_t)size + 2) {
		c->need = c->at + (size_t)size + 2;
		return 0;
	}
	if (memcmp(c->p + c->at + size, "\r\n", 2) != 0)
		return -1;
	*text = slice_of(c->p + c->at, (size_t)size);
	c->at += (size_t)size + 2;
	return 1;
}

static const struct word *
find_word(struct slice name, int64_t elements)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		const struct word *w = &words[i];

		if (name.n == strlen(w->name) && elements == w->elements &&
		    memcmp(name.p, w->name, name.n) == 0)
			return w;
	}
	return NULL;
}

/* Past its first word: the rest of it. */
static int
read_rest(struct cursor *c, const struct word *w, struct slice *name)
{
	bool is_count = w->kind == RESP_PUSH_SUBSCRIBED ||
			w->kind == RESP_PUSH_UNSUBSCRIBED;
	struct slice text;
	int64_t count;
	int got;

	if ((got = read_bulk(c, name)) <= 0)
		return got;
	if (name->p == NULL && w->kind != RESP_PUSH_UNSUBSCRIBED)
		return -1;
	if (is_count)
		return read_number(c, ':', &count);
	for (unsigned i = 2; i < w->elements; i++) {
		if ((got = read_bulk(c, &text)) <= 0)
			return got;
		if (text.p == NULL)
			return -1;
	}
	return 1;
}

static int
read_array(struct cursor *c, struct resp_push *push)
{
	const struct word *w;
	int64_t elements;
	struct slice name;
	int got;

	if ((got = read_number(c, '*', &elements)) <= 0 ||
	    (got = read_bulk(c, &name)) <= 0)
		return got;
	if (name.p == NULL || (w = find_word(name, elements)) == NULL)
		return -1;
	push->kind = w->kind;
	push->channel = w->channel;
	return read_rest(c, w, &push->name);
}

ssize_t
resp_push_next(struct resp_push *push, const uint8_t *p, size_t n, size_t max)
{
	struct cursor c = { .p = p, .n = n, .max = max };
	int got = 0;

	*push = (struct resp_push){ .need = 1 };
	if (n == 0)
		return 0;
	if (p[0] == '*') {
		got = read_array(&c, push);
	} else if (p[0] == '-' || p[0] == '+') {
		got = read_line(&c, LINE_MAX, &push->text);
		push->kind = p[0] == '-' ? RESP_PUSH_ERROR : RESP_PUSH_PONG;
		/* A simple one answers a PING where nothing is subscribed to. */
		if (got > 0 && p[0] == '+' &&
		    !slice_is_word(push->text, "pong"))
			return -1;
	} else {
		return -1;
	}
	if (got > 0)
		return (ssize_t)c.at;
	push->need = c.need;
	return got;
}

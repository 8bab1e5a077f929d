/*
 * bench_redis: many hiredis clients in one process, each keeping a few
 * commands in flight, and every reply checked.
 *
 *   bench_redis PORT CLIENTS DEPTH BYTES SECONDS
 *
 * redis-benchmark sends DEPTH commands, waits for all replies and sends again.
 * This one sends the next command when a reply comes, as an application does
 * that has many requests on one connection.  One command in ten is a SET, the
 * others GET; a value begins with its client's number, and a reply that
 * another client should have had ends the run with status 1.
 *
 * Prints: commands, seconds, commands/s, median and 99th percentile in ms.
 */
#include <event2/event.h>
#include <hiredis/adapters/libevent.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CLIENTS_MAX = 10000,
	DEPTH_MAX = 1024,
	BYTES_MIN = 16, /* the owner's number is in front */
	BYTES_MAX = 1 << 20,
	TIMES = 1 << 20, /* microseconds told apart; longer ones are the last */
	SETS = 10        /* one command in so many writes */
};

struct bench;

struct client {
	struct bench *bench;
	redisAsyncContext *ac;
	char key[32];
	char owner[BYTES_MIN + 16];
	char *value;
	uint64_t asked, answered;
	uint64_t *since; /* of each command in flight, by its number */
};

struct bench {
	struct event_base *base;
	struct client *client;
	size_t clients, depth, bytes;
	uint64_t done, from_ns, end_ns;
	size_t open;
	uint32_t time[TIMES];
};

static _Noreturn void
fail(const char *what, const char *why)
{
	fprintf(stderr, "bench_redis: %s: %s\n", what, why);
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void replied(redisAsyncContext *, void *, void *);

static void
ask(struct client *c)
{
	struct bench *b = c->bench;
	const char *argv[] = { "GET", c->key, c->value };
	size_t size[] = { 3, strlen(c->key), b->bytes };
	int argc = 2;

	if (c->asked % SETS == 0) {
		argv[0] = "SET";
		argc = 3;
	}
	c->since[c->asked++ % b->depth] = now_ns();
	if (redisAsyncCommandArgv(c->ac, replied, c, argc, argv, size) !=
	    REDIS_OK)
		fail("a command", c->ac->errstr);
}

/* Is it the answer to our own command number `nth`? */
static void
check(const struct client *c, uint64_t nth, const redisReply *r)
{
	if (r->type == REDIS_REPLY_ERROR)
		fail(c->key, r->str);
	if (nth % SETS == 0) {
		if (r->type != REDIS_REPLY_STATUS || strcmp(r->str, "OK") != 0)
			fail(c->key, "a SET was not answered OK");
		return;
	}
	if (r->type != REDIS_REPLY_STRING || r->len != c->bench->bytes ||
	    memcmp(r->str, c->owner, BYTES_MIN) != 0)
		fail(c->key, "a reply that is not its own");
}

static void
count(struct bench *b, uint64_t ns)
{
	uint64_t us = ns / 1000;

	b->time[us < TIMES ? us : TIMES - 1]++;
	b->done++;
}

static void
replied(redisAsyncContext *ac, void *reply, void *arg)
{
	struct client *c = arg;
	struct bench *b = c->bench;
	uint64_t now = now_ns();

	if (reply == NULL)
		fail(c->key, ac->errstr[0] ? ac->errstr : "connection lost");
	check(c, c->answered, reply);
	count(b, now - c->since[c->answered++ % b->depth]);
	if (now < b->end_ns) {
		ask(c);
	} else if (c->answered == c->asked) {
		redisAsyncDisconnect(ac);
		if (--b->open == 0)
			event_base_loopbreak(b->base);
	}
}

static void
open_client(struct bench *b, size_t i, int port)
{
	struct client *c = &b->client[i];

	*c = (struct client){ .bench = b,
			      .value = malloc(b->bytes),
			      .since = calloc(b->depth, sizeof(*c->since)) };
	if (c->value == NULL || c->since == NULL)
		fail("memory", "none left");
	snprintf(c->key, sizeof(c->key), "bench:%zu", i);
	snprintf(c->owner, sizeof(c->owner), "client %09u", (unsigned)i);
	memset(c->value, 'x', b->bytes);
	memcpy(c->value, c->owner, BYTES_MIN);
	c->ac = redisAsyncConnect("127.0.0.1", port);
	if (c->ac == NULL || c->ac->err != 0)
		fail("connect", c->ac ? c->ac->errstr : "no memory");
	if (redisLibeventAttach(c->ac, b->base) != REDIS_OK)
		fail("libevent", "cannot attach");
	for (size_t n = 0; n < b->depth; n++)
		ask(c);
}

/* In milliseconds. */
static double
percentile(const struct bench *b, double percent)
{
	uint64_t seen = 0, want = (uint64_t)((double)b->done * percent / 100);
	size_t i = 0;

	while (i < TIMES - 1 && (seen += b->time[i]) <= want)
		i++;
	return (double)i / 1000;
}

static size_t
number(const char *text, size_t least, size_t most)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < least || n > most)
		fail(text, "out of range");
	return n;
}

int
main(int argc, char **argv)
{
	static struct bench b; /* a megabyte of counts */
	double seconds;

	if (argc != 6)
		fail("usage", "bench_redis PORT CLIENTS DEPTH BYTES SECONDS");
	b.base = event_base_new();
	b.clients = b.open = number(argv[2], 1, CLIENTS_MAX);
	b.depth = number(argv[3], 1, DEPTH_MAX);
	b.bytes = number(argv[4], BYTES_MIN, BYTES_MAX);
	b.client = calloc(b.clients, sizeof(*b.client));
	if (b.base == NULL || b.client == NULL)
		fail("memory", "none left");
	b.from_ns = now_ns();
	b.end_ns = b.from_ns + number(argv[5], 1, 3600) * 1000000000ull;
	for (size_t i = 0; i < b.clients; i++)
		open_client(&b, i, (int)number(argv[1], 1, 65535));
	event_base_dispatch(b.base);
	seconds = (double)(now_ns() - b.from_ns) / 1e9;
	printf("%llu %.3f %.1f %.3f %.3f\n", (unsigned long long)b.done,
	       seconds, (double)b.done / seconds, percentile(&b, 50),
	       percentile(&b, 99));
	return 0;
}

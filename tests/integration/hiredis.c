/*
 * hiredis: what a C program does with it.  test_redis_clients.py compiles it.
 *
 *   hiredis SCENARIO PORT PASSWORD
 *
 * Every reply must be the one that is due; what is not as it should be ends the
 * program with 1 and a line.
 */
#include <event2/event.h>
#include <hiredis/adapters/libevent.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DUE(true_)                             \
	do {                                   \
		if (!(true_))                  \
			due(#true_, __LINE__); \
	} while (0)

enum { CLIENTS = 20, COMMANDS = 500 };

static const char *password;
static int port;

static void
due(const char *what, int line)
{
	fprintf(stderr, "hiredis.c:%d: not so: %s\n", line, what);
	exit(1);
}

static bool
is_text(const redisReply *r, int type, const char *text)
{
	return r != NULL && r->type == type && strcmp(r->str, text) == 0;
}

static redisContext *
opened(void)
{
	redisContext *c = redisConnect("127.0.0.1", port);
	redisReply *r;

	DUE(c != NULL && c->err == 0);
	r = redisCommand(c, "AUTH %s", password);
	DUE(is_text(r, REDIS_REPLY_STATUS, "OK"));
	freeReplyObject(r);
	return c;
}

static void
values(void)
{
	redisContext *c = opened();
	static char big[1 << 20];
	redisReply *r;

	memset(big, '\r', sizeof(big));
	r = redisCommand(c, "SET %s %b", "hiredis", big, sizeof(big));
	DUE(is_text(r, REDIS_REPLY_STATUS, "OK"));
	freeReplyObject(r);
	r = redisCommand(c, "GET hiredis");
	DUE(r->type == REDIS_REPLY_STRING && r->len == sizeof(big) &&
	    memcmp(r->str, big, sizeof(big)) == 0);
	freeReplyObject(r);
	r = redisCommand(c, "INCR hiredis:n");
	DUE(r->type == REDIS_REPLY_INTEGER && r->integer == 1);
	freeReplyObject(r);
	r = redisCommand(c, "GET hiredis:none");
	DUE(r->type == REDIS_REPLY_NIL);
	freeReplyObject(r);
	r = redisCommand(c, "EVAL %s 0", "return {1, {'a', {2}}}");
	DUE(r->type == REDIS_REPLY_ARRAY && r->elements == 2 &&
	    r->element[1]->element[1]->element[0]->integer == 2);
	freeReplyObject(r);
	r = redisCommand(c, "LPUSH hiredis x");
	DUE(r->type == REDIS_REPLY_ERROR &&
	    strncmp(r->str, "WRONGTYPE ", 10) == 0);
	freeReplyObject(r);
	DUE(redisReconnect(c) == REDIS_OK);
	r = redisCommand(c, "GET hiredis");
	DUE(is_text(r, REDIS_REPLY_ERROR, "NOAUTH Authentication required."));
	freeReplyObject(r);
	redisFree(c);
}

/* A program that reads no reply before it has sent everything. */
static void
pipelined(void)
{
	redisContext *c = opened();
	char text[16];
	redisReply *r;

	for (int i = 0; i < COMMANDS; i++) {
		DUE(redisAppendCommand(c, "SET hiredis:%d %d", i, i) == 0);
		DUE(redisAppendCommand(c, "GET hiredis:%d", i) == 0);
	}
	for (int i = 0; i < COMMANDS; i++) {
		DUE(redisGetReply(c, (void **)&r) == REDIS_OK);
		DUE(is_text(r, REDIS_REPLY_STATUS, "OK"));
		freeReplyObject(r);
		DUE(redisGetReply(c, (void **)&r) == REDIS_OK);
		snprintf(text, sizeof(text), "%d", i);
		DUE(is_text(r, REDIS_REPLY_STRING, text));
		freeReplyObject(r);
	}
	redisFree(c);
}

struct client {
	char key[32];
	int asked, answered;
};

static void
incremented(redisAsyncContext *ac, void *reply, void *arg)
{
	struct client *c = arg;
	const redisReply *r = reply;

	DUE(r != NULL && r->type == REDIS_REPLY_INTEGER);
	DUE(r->integer == ++c->answered);
	if (c->asked < COMMANDS) {
		c->asked++;
		DUE(redisAsyncCommand(ac, incremented, c, "INCR %s", c->key) ==
		    REDIS_OK);
	} else if (c->answered == COMMANDS) {
		redisAsyncDisconnect(ac);
	}
}

static void
authenticated(redisAsyncContext *ac, void *reply, void *arg)
{
	(void)ac;
	(void)arg;
	DUE(is_text(reply, REDIS_REPLY_STATUS, "OK"));
}

/* Many connections in one loop, ten commands in flight on each. */
static void
asynchronous(void)
{
	struct event_base *base = event_base_new();
	static struct client client[CLIENTS];

	for (int i = 0; i < CLIENTS; i++) {
		redisAsyncContext *ac = redisAsyncConnect("127.0.0.1", port);
		struct client *c = &client[i];

		DUE(ac != NULL && ac->err == 0);
		DUE(redisLibeventAttach(ac, base) == REDIS_OK);
		snprintf(c->key, sizeof(c->key), "hiredis:of:%d", i);
		redisAsyncCommand(ac, authenticated, c, "AUTH %s", password);
		for (; c->asked < 10; c->asked++)
			redisAsyncCommand(ac, incremented, c, "INCR %s",
					  c->key);
	}
	event_base_dispatch(base);
	for (int i = 0; i < CLIENTS; i++)
		DUE(client[i].answered == COMMANDS);
	event_base_free(base);
}

int
main(int argc, char **argv)
{
	DUE(argc == 4);
	port = atoi(argv[2]);
	password = argv[3];
	if (strcmp(argv[1], "values") == 0)
		values();
	else if (strcmp(argv[1], "pipeline") == 0)
		pipelined();
	else if (strcmp(argv[1], "asynchronous") == 0)
		asynchronous();
	else
		DUE(!"a scenario");
	return 0;
}

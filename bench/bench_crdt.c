/*
 * bench_crdt: clients of a collaboration server, each with one edit on its
 * way at a time.
 *
 *   bench_crdt URL MODE CLIENTS SECONDS DOCUMENTS SEED
 *
 * An edit is one row of crdt_operations, with 32 to 400 bytes of operation_data,
 * in a commit of its own as far as the client knows; it sends the next one when
 * it has the answer.  All clients are logged in before the first edit is sent.
 * SEED makes the clients' numbers: rows of another seed are never in the way.
 *
 *   simple     one Query with the values in its text
 *   params     Parse of the unnamed statement, Bind, Execute, as node-postgres
 *   prepared   a named statement, parsed once
 *   xact       BEGIN, an edit as in params, COMMIT: one after the other, as
 *              SQLAlchemy
 *   unnest     ROWS edits in a statement: what is possible if the application
 *              groups them itself
 *   pipeline   ROWS Bind and Execute before each Sync: the same without other SQL
 *
 * Prints: edits answered, seconds, edits/s, median and 99th percentile in ms of
 * an answer.  An error ends the run with status 1.
 */
#include <assert.h>
#include <event2/event.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CLIENTS_MAX = 5000,
	ROWS = 256,
	FIELDS = 6,
	DATA_MIN = 32,
	DATA_MAX = 400,
	FIELD_MAX = 512,
	TIMES = 1 << 20 /* microseconds told apart; longer ones are the last */
};

#define COLUMNS                                                           \
	"document_id, client_id, clock, operation_type, operation_data, " \
	"vector_clock"

static const char insert_one[] = "INSERT INTO crdt_operations (" COLUMNS ") "
				 "VALUES ($1, $2, $3, $4, $5, $6)";
static const char insert_many[] =
    "INSERT INTO crdt_operations (" COLUMNS ") SELECT * FROM unnest("
    "$1::uuid[], $2::bigint[], $3::bigint[], $4::varchar[], $5::jsonb[], "
    "$6::jsonb[])";

enum mode { SIMPLE, PARAMS, PREPARED, XACT, UNNEST, PIPELINE, MODES };

static const char *const modes[MODES] = {
	[SIMPLE] = "simple", [PARAMS] = "params", [PREPARED] = "prepared",
	[XACT] = "xact",     [UNNEST] = "unnest", [PIPELINE] = "pipeline",
};

struct bench;

struct client {
	struct bench *bench;
	PGconn *conn;
	struct event *readable;
	unsigned number;
	uint64_t clock, since_ns;
	unsigned owed;                            /* results on their way */
	enum { AT_BEGIN, AT_EDIT, AT_COMMIT } at; /* of XACT */
	uint32_t random;
};

struct bench {
	struct event_base *base;
	struct client *client;
	enum mode mode;
	size_t clients;
	unsigned documents;
	uint64_t seed, done, answers, from_ns, end_ns;
	size_t open;
	char *many[FIELDS]; /* arrays of ROWS */
	uint32_t time[TIMES];
};

static _Noreturn void
fail(const char *what, const char *why)
{
	fprintf(stderr, "bench_crdt: error: %s: %s\n", what, why);
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- edits ------------------------------------------------------------ */

static uint32_t
next_random(struct client *c)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 17;
	c->random ^= c->random << 5;
	return c->random;
}

/* The values of a row.  Documents have the number at the end of their id. */
static void
make_edit(struct client *c, char field[FIELDS][FIELD_MAX])
{
	static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmno"
				     "pqrstuvwxyz0123456789+/";
	size_t n = DATA_MIN + next_random(c) % (DATA_MAX - DATA_MIN + 1);
	char *p = field[4];

	snprintf(field[0], FIELD_MAX, "d0c00000-0000-4000-8000-%012u",
		 c->number % c->bench->documents);
	snprintf(
	    field[1], FIELD_MAX, "%llu",
	    (unsigned long long)(c->bench->seed * CLIENTS_MAX + c->number));
	snprintf(field[2], FIELD_MAX, "%llu", (unsigned long long)c->clock);
	strcpy(field[3], c->clock % 4 == 3 ? "delete" : "insert");
	p += sprintf(p, "{\"update\": \"");
	while ((size_t)(p - field[4]) < n - 2)
		*p++ = base64[next_random(c) % 64];
	strcpy(p, "\"}");
	snprintf(field[5], FIELD_MAX, "{\"%u\": %llu}", c->number,
		 (unsigned long long)c->clock);
	c->clock++;
}

static void
send_simple(struct client *c, char field[FIELDS][FIELD_MAX])
{
	char text[FIELDS * FIELD_MAX + 256];

	snprintf(text, sizeof(text),
		 "INSERT INTO crdt_operations (" COLUMNS ") "
		 "VALUES ('%s', %s, %s, '%s', '%s', '%s')",
		 field[0], field[1], field[2], field[3], field[4], field[5]);
	if (!PQsendQuery(c->conn, text))
		fail("send", PQerrorMessage(c->conn));
	c->owed = 1;
}

static void
send_one(struct client *c)
{
	char field[FIELDS][FIELD_MAX];
	const char *value[FIELDS];
	int good;

	make_edit(c, field);
	for (int i = 0; i < FIELDS; i++)
		value[i] = field[i];
	if (c->bench->mode == SIMPLE) {
		send_simple(c, field);
		return;
	}
	good = c->bench->mode == PARAMS || c->bench->mode == XACT
		   ? PQsendQueryParams(c->conn, insert_one, FIELDS, NULL, value,
				       NULL, NULL, 0)
		   : PQsendQueryPrepared(c->conn, "edit", FIELDS, value, NULL,
					 NULL, 0);
	if (!good)
		fail("send", PQerrorMessage(c->conn));
	c->owed++;
}

static void
send_xact(struct client *c)
{
	if (c->at == AT_EDIT) {
		send_one(c);
		return;
	}
	if (!PQsendQuery(c->conn, c->at == AT_BEGIN ? "BEGIN" : "COMMIT"))
		fail("send", PQerrorMessage(c->conn));
	c->owed = 1;
}

static void
send_pipeline(struct client *c)
{
	c->owed = 0;
	for (int i = 0; i < ROWS; i++)
		send_one(c);
	if (!PQpipelineSync(c->conn))
		fail("send", PQerrorMessage(c->conn));
	c->owed++;
}

/* Into an array's text, in quotes. */
static char *
add_element(char *p, const char *value, bool first)
{
	*p++ = first ? '{' : ',';
	*p++ = '"';
	for (; *value != '\0'; value++) {
		if (*value == '"')
			*p++ = '\\';
		*p++ = *value;
	}
	*p++ = '"';
	return p;
}

static void
send_unnest(struct client *c)
{
	char field[FIELDS][FIELD_MAX], *end[FIELDS];
	struct bench *b = c->bench;

	memcpy(end, b->many, sizeof(end));
	for (int row = 0; row < ROWS; row++) {
		make_edit(c, field);
		for (int i = 0; i < FIELDS; i++)
			end[i] = add_element(end[i], field[i], row == 0);
	}
	for (int i = 0; i < FIELDS; i++)
		strcpy(end[i], "}");
	if (!PQsendQueryPrepared(c->conn, "edit", FIELDS,
				 (const char *const *)b->many, NULL, NULL, 0))
		fail("send", PQerrorMessage(c->conn));
	c->owed = 1;
}

/* What is read meanwhile is looked at later: libevent will say so again only
 * for new bytes, but there is no answer before all of the question is sent. */
static void
flush_all(struct client *c)
{
	int left;

	while ((left = PQflush(c->conn)) == 1) {
		struct pollfd p = { .fd = PQsocket(c->conn),
				    .events = POLLIN | POLLOUT };

		poll(&p, 1, -1);
		if ((p.revents & POLLIN) && !PQconsumeInput(c->conn))
			left = -1;
		if (left < 0)
			break;
	}
	if (left < 0)
		fail("send", PQerrorMessage(c->conn));
}

static void
ask(struct client *c)
{
	if (c->bench->mode != XACT || c->at == AT_BEGIN)
		c->since_ns = now_ns();
	c->owed = 0;
	if (c->bench->mode == XACT)
		send_xact(c);
	else if (c->bench->mode == UNNEST)
		send_unnest(c);
	else if (c->bench->mode == PIPELINE)
		send_pipeline(c);
	else
		send_one(c);
	flush_all(c);
}

/* ---- answers ---------------------------------------------------------- */

static void
count(struct bench *b, uint64_t ns, uint64_t rows)
{
	uint64_t us = ns / 1000;

	b->time[us < TIMES ? us : TIMES - 1]++;
	b->answers++;
	b->done += rows;
}

static void
check(const struct client *c, const PGresult *r)
{
	const char *want = c->bench->mode == UNNEST ? "256" : "1";
	const char *got = PQcmdTuples((PGresult *)r);

	static_assert(ROWS == 256, "what unnest is answered");
	if (PQresultStatus(r) == PGRES_PIPELINE_SYNC)
		return;
	if (PQresultStatus(r) != PGRES_COMMAND_OK)
		fail("an edit", PQresultErrorMessage(r));
	if (c->bench->mode == XACT && c->at != AT_EDIT) {
		want = c->at == AT_BEGIN ? "BEGIN" : "COMMIT";
		got = PQcmdStatus((PGresult *)r);
	}
	if (strcmp(got, want) != 0)
		fail("an edit", "answered with something else");
}

/* All results that are here.  NULL ends each one of a pipeline, and the only
 * one otherwise. */
static void
take_results(struct client *c)
{
	PGresult *r;

	while (c->owed > 0 && !PQisBusy(c->conn)) {
		if ((r = PQgetResult(c->conn)) == NULL)
			continue;
		check(c, r);
		PQclear(r);
		c->owed--;
	}
	while (c->owed == 0 && c->bench->mode != PIPELINE &&
	       (r = PQgetResult(c->conn)) != NULL) {
		check(c, r);
		PQclear(r);
	}
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	struct bench *b = c->bench;
	uint64_t now;

	(void)fd;
	(void)what;
	if (!PQconsumeInput(c->conn) || PQflush(c->conn) < 0)
		fail("connection", PQerrorMessage(c->conn));
	take_results(c);
	if (c->owed > 0)
		return;
	if (b->mode == XACT && c->at != AT_COMMIT) {
		c->at++;
		ask(c);
		return;
	}
	c->at = AT_BEGIN;
	now = now_ns();
	count(b, now - c->since_ns,
	      b->mode == UNNEST || b->mode == PIPELINE ? ROWS : 1);
	if (now < b->end_ns) {
		ask(c);
		return;
	}
	event_free(c->readable);
	PQfinish(c->conn);
	if (--b->open == 0)
		event_base_loopbreak(b->base);
}

/* ---- the run ---------------------------------------------------------- */

static void
prepare(struct client *c)
{
	const char *text = c->bench->mode == UNNEST ? insert_many : insert_one;
	PGresult *r = PQprepare(c->conn, "edit", text, 0, NULL);

	if (PQresultStatus(r) != PGRES_COMMAND_OK)
		fail("prepare", PQresultErrorMessage(r));
	PQclear(r);
}

static void
open_client(struct bench *b, unsigned i, const char *url)
{
	struct client *c = &b->client[i];

	*c = (struct client){ .bench = b,
			      .number = i,
			      .random = 2463534242u + i * 7919u };
	c->conn = PQconnectdb(url);
	if (PQstatus(c->conn) != CONNECTION_OK)
		fail("connect", PQerrorMessage(c->conn));
	if (b->mode == PREPARED || b->mode == UNNEST || b->mode == PIPELINE)
		prepare(c);
	/* A pipeline may fill both directions: then libpq must not wait. */
	if (PQsetnonblocking(c->conn, 1) != 0 ||
	    (b->mode == PIPELINE && !PQenterPipelineMode(c->conn)))
		fail("connect", PQerrorMessage(c->conn));
	c->readable = event_new(b->base, PQsocket(c->conn),
				EV_READ | EV_PERSIST, on_readable, c);
	if (c->readable == NULL || event_add(c->readable, NULL) != 0)
		fail("libevent", "no event");
}

/* In milliseconds. */
static double
percentile(const struct bench *b, double percent)
{
	uint64_t seen = 0,
		 want = (uint64_t)((double)b->answers * percent / 100);
	size_t i = 0;

	while (i < TIMES - 1 && (seen += b->time[i]) <= want)
		i++;
	return (double)i / 1000;
}

static uint64_t
number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n < least || n > most)
		fail(text, "out of range");
	return n;
}

static enum mode
mode_of(const char *word)
{
	for (unsigned i = 0; i < MODES; i++)
		if (strcmp(modes[i], word) == 0)
			return (enum mode)i;
	fail(word, "expected simple, params, prepared, xact, unnest or "
		   "pipeline");
}

static void
prepare_arrays(struct bench *b)
{
	for (int i = 0; i < FIELDS; i++)
		if ((b->many[i] = malloc(ROWS * (2 * FIELD_MAX + 4))) == NULL)
			fail("memory", "none left");
}

int
main(int argc, char **argv)
{
	static struct bench b; /* megabytes of counts */
	double seconds;

	if (argc != 7)
		fail("usage", "bench_crdt URL MODE CLIENTS SECONDS DOCUMENTS "
			      "SEED");
	b.base = event_base_new();
	b.mode = mode_of(argv[2]);
	b.clients = b.open = number(argv[3], 1, CLIENTS_MAX);
	b.documents = (unsigned)number(argv[5], 1, CLIENTS_MAX);
	b.seed = number(argv[6], 0, INT64_MAX / CLIENTS_MAX - 1);
	b.client = calloc(b.clients, sizeof(*b.client));
	if (b.base == NULL || b.client == NULL)
		fail("memory", "none left");
	prepare_arrays(&b);
	for (unsigned i = 0; i < b.clients; i++)
		open_client(&b, i, argv[1]);
	b.from_ns = now_ns();
	b.end_ns = b.from_ns + number(argv[4], 1, 3600) * 1000000000ull;
	for (size_t i = 0; i < b.clients; i++)
		ask(&b.client[i]);
	event_base_dispatch(b.base);
	seconds = (double)(now_ns() - b.from_ns) / 1e9;
	printf("%llu %.3f %.1f %.3f %.3f\n", (unsigned long long)b.done,
	       seconds, (double)b.done / seconds, percentile(&b, 50),
	       percentile(&b, 99));
	return 0;
}

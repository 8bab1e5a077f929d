/*
 * pipeline: libpq's pipeline mode, driven hard.  test_libpq.py compiles it.
 *
 *   pipeline SCENARIO ID      the connection comes from libpq's environment
 *
 * Every query carries ID and a number, every result must be the one that is due;
 * what is not as it should be ends the program with 1 and a line.
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static PGconn *db;
static const char *id;

#define DUE(true_)                             \
	do {                                   \
		if (!(true_))                  \
			due(#true_, __LINE__); \
	} while (0)

static void
due(const char *what, int line)
{
	fprintf(stderr, "pipeline.c:%d: not so: %s (%s)\n", line, what,
		PQerrorMessage(db));
	exit(1);
}

static void
ask(const char *sql, int n)
{
	char number[16];
	const char *args[] = { id, number };

	snprintf(number, sizeof(number), "%d", n);
	DUE(PQsendQueryParams(db, sql, 2, NULL, args, NULL, NULL, 0) == 1);
}

static void
ask_mine(int n)
{
	ask("SELECT $1::text || '/' || $2::text", n);
}

static bool
is_mine(const PGresult *r, int row, int n)
{
	char text[64];

	snprintf(text, sizeof(text), "%s/%d", id, n);
	return strcmp(PQgetvalue(r, row, 0), text) == 0;
}

/* The next result must have this status; the caller clears it. */
static PGresult *
next(ExecStatusType status)
{
	PGresult *r = PQgetResult(db);

	DUE(r != NULL);
	if (PQresultStatus(r) != status)
		fprintf(stderr, "got %s, not %s: %s\n",
			PQresStatus(PQresultStatus(r)), PQresStatus(status),
			PQresultErrorMessage(r));
	DUE(PQresultStatus(r) == status);
	return r;
}

static void
end_of_query(void)
{
	DUE(PQgetResult(db) == NULL);
}

static void
want_mine(int n)
{
	PGresult *r = next(PGRES_TUPLES_OK);

	DUE(PQntuples(r) == 1 && is_mine(r, 0, n));
	PQclear(r);
	end_of_query();
}

static void
want_status(ExecStatusType status)
{
	PQclear(next(status));
	end_of_query();
}

static void
want_error(const char *sqlstate)
{
	PGresult *r = next(PGRES_FATAL_ERROR);

	DUE(strcmp(PQresultErrorField(r, PG_DIAG_SQLSTATE), sqlstate) == 0);
	PQclear(r);
	end_of_query();
}

static void
want_sync(void)
{
	PQclear(next(PGRES_PIPELINE_SYNC));
}

static void
sync_now(void)
{
	DUE(PQpipelineSync(db) == 1);
}

/* Thousands of queries before the first answer is read; nonblocking, since a
 * blocking write would wait for ever once both directions are full. */
static void
many(void)
{
	const int all = 3000;
	int sent = 0, got = 0;

	DUE(PQsetnonblocking(db, 1) == 0);
	while (got < all) {
		struct pollfd p = { .fd = PQsocket(db), .events = POLLIN };
		int left;

		for (int i = 0; i < 100 && sent < all; i++) {
			ask_mine(sent++);
			if (sent % 500 == 0)
				sync_now();
		}
		left = PQflush(db);
		DUE(left >= 0);
		if (left || sent < all)
			p.events |= POLLOUT;
		DUE(poll(&p, 1, 20000) > 0);
		if (!(p.revents & POLLIN))
			continue;
		DUE(PQconsumeInput(db) == 1);
		while (got < all && !PQisBusy(db)) {
			want_mine(got++);
			if (got % 500 == 0)
				want_sync();
		}
	}
}

/* An error, the aborted rest, and the next one behind the Sync as if nothing. */
static void
errors(void)
{
	for (int turn = 0; turn < 20; turn++) {
		ask_mine(1);
		ask("SELECT 1 / ($2::int - $2::int), $1::text", 2);
		ask_mine(3);
		DUE(PQsendPrepare(db, "never", "SELECT 4", 0, NULL) == 1);
		sync_now();
		ask_mine(5);
		DUE(PQsendQueryPrepared(db, "nobody's", 0, NULL, NULL, NULL,
					0) == 1);
		ask_mine(6);
		sync_now();
		ask("SELECT $1::text, $2::text FROM nowhere", 7);
		sync_now();
		ask_mine(8);
		sync_now();
		want_mine(1);
		want_error("22012");
		DUE(PQpipelineStatus(db) == PQ_PIPELINE_ABORTED);
		want_status(PGRES_PIPELINE_ABORTED);
		want_status(PGRES_PIPELINE_ABORTED);
		want_sync();
		DUE(PQpipelineStatus(db) == PQ_PIPELINE_ON);
		want_mine(5);
		want_error("26000");
		want_status(PGRES_PIPELINE_ABORTED);
		want_sync();
		want_error("42P01");
		want_sync();
		want_mine(8);
		want_sync();
		DUE(PQsendQueryPrepared(db, "never", 0, NULL, NULL, NULL, 0) ==
		    1);
		sync_now();
		want_error("26000");
		want_sync();
	}
}

/* Transactions in pipelines, several on their way; every third one fails. */
static void
transactions(void)
{
	const int all = 30;

	for (int n = 0; n < all; n++) {
		DUE(PQsendQueryParams(db, "BEGIN", 0, NULL, NULL, NULL, NULL,
				      0) == 1);
		ask("INSERT INTO scratch.piped VALUES ($1, $2::int)", n);
		if (n % 3 == 2)
			ask("SELECT $1::text, $2::int / 0", n);
		DUE(PQsendQueryParams(db, "COMMIT", 0, NULL, NULL, NULL, NULL,
				      0) == 1);
		sync_now();
		if (n % 3 == 2) {
			DUE(PQsendQueryParams(db, "ROLLBACK", 0, NULL, NULL,
					      NULL, NULL, 0) == 1);
			sync_now();
		}
	}
	for (int n = 0; n < all; n++) {
		want_status(PGRES_COMMAND_OK);
		want_status(PGRES_COMMAND_OK);
		if (n % 3 == 2) {
			want_error("22012");
			want_status(PGRES_PIPELINE_ABORTED);
			want_sync();
		}
		want_status(PGRES_COMMAND_OK);
		want_sync();
	}
	ask("SELECT $1::text || '/' || count(*)::text || substr($2, 9) FROM "
	    "scratch.piped WHERE who = $1",
	    0);
	sync_now();
	want_mine(all / 3 * 2);
	want_sync();
}

/* Answers without a Sync: the server is asked to flush. */
static void
flushes(void)
{
	for (int n = 0; n < 40; n++) {
		ask_mine(n);
		DUE(PQsendFlushRequest(db) == 1);
		DUE(PQflush(db) == 0);
		want_mine(n);
		if (n % 10 == 9) {
			sync_now();
			want_sync();
		}
	}
}

static void
prepared(void)
{
	static const Oid types[] = { 25, 25 };
	const char *args[] = { id, NULL };
	char name[16], sql[96], number[16];

	/* All names are parsed, described and used in one go. */
	for (int n = 0; n < 30; n++) {
		snprintf(name, sizeof(name), "s%d", n);
		snprintf(sql, sizeof(sql), "SELECT $1 || '/' || $2 /* %s %d */",
			 id, n);
		snprintf(number, sizeof(number), "%d", n);
		args[1] = number;
		DUE(PQsendPrepare(db, name, sql, 2, types) == 1);
		DUE(PQsendDescribePrepared(db, name) == 1);
		DUE(PQsendQueryPrepared(db, name, 2, args, NULL, NULL, 0) == 1);
	}
	sync_now();
	for (int n = 0; n < 30; n++) {
		want_status(PGRES_COMMAND_OK);
		want_status(PGRES_COMMAND_OK);
		want_mine(n);
	}
	want_sync();
	for (int turn = 0; turn < 20; turn++) {
		for (int n = 0; n < 30; n++) {
			snprintf(name, sizeof(name), "s%d", n);
			snprintf(number, sizeof(number), "%d", n + turn);
			args[1] = number;
			DUE(PQsendQueryPrepared(db, name, 2, args, NULL, NULL,
						0) == 1);
			if (n % 7 == 6)
				sync_now();
		}
		sync_now();
		for (int n = 0; n < 30; n++) {
			want_mine(n + turn);
			if (n % 7 == 6)
				want_sync();
		}
		want_sync();
	}
}

static void
single_rows(void)
{
	const int rows = 500;

	for (int n = 0; n < 3; n++)
		ask("SELECT $1::text || '/' || i FROM generate_series(1, 500) "
		    "i WHERE $2::text <> ''",
		    n);
	sync_now();
	for (int n = 0; n < 3; n++) {
		DUE(PQsetSingleRowMode(db) == 1);
		for (int i = 1; i <= rows; i++) {
			PGresult *r = next(PGRES_SINGLE_TUPLE);

			DUE(PQntuples(r) == 1 && is_mine(r, 0, i));
			PQclear(r);
		}
		want_status(PGRES_TUPLES_OK);
	}
	want_sync();
}

/* Parameters and rows of two megabytes among small ones. */
static void
big(void)
{
	const size_t size = 2000000;
	char *text = malloc(size + 1);
	const char *args[] = { text };

	DUE(text != NULL);
	memset(text, id[0], size);
	text[size] = '\0';
	for (int n = 0; n < 4; n++) {
		ask_mine(n);
		DUE(PQsendQueryParams(db, "SELECT $1::text || length($1)", 1,
				      NULL, args, NULL, NULL, 0) == 1);
		sync_now();
		ask_mine(n + 10);
		sync_now();
		want_mine(n);
		PGresult *r = next(PGRES_TUPLES_OK);
		DUE((size_t)PQgetlength(r, 0, 0) == size + 7);
		DUE(memcmp(PQgetvalue(r, 0, 0), text, size) == 0);
		DUE(strcmp(PQgetvalue(r, 0, 0) + size, "2000000") == 0);
		PQclear(r);
		end_of_query();
		want_sync();
		want_mine(n + 10);
		want_sync();
	}
	free(text);
}

/* One that sleeps in the middle of a pipeline is cancelled, and only that. */
static void
cancels(void)
{
	char error[256];
	PGcancel *cancel = PQgetCancel(db);

	DUE(cancel != NULL);
	ask_mine(1);
	ask("SELECT pg_sleep(30), $1::text, $2::text", 2);
	ask_mine(3);
	sync_now();
	ask_mine(4);
	sync_now();
	DUE(PQsendFlushRequest(db) == 1 && PQflush(db) == 0);
	/* The first answer may stay in the backend's buffer: we are told when it
	 * sleeps. */
	DUE(getchar() == '\n');
	DUE(PQcancel(cancel, error, sizeof(error)) == 1);
	want_mine(1);
	want_error("57014");
	want_status(PGRES_PIPELINE_ABORTED);
	want_sync();
	want_mine(4);
	want_sync();
	PQfreeCancel(cancel);
}

/* Into the mode and out of it, with the simple protocol between. */
static void
in_and_out(void)
{
	for (int n = 0; n < 20; n++) {
		PGresult *r;

		ask_mine(n);
		sync_now();
		want_mine(n);
		want_sync();
		DUE(PQexitPipelineMode(db) == 1);
		r = PQexec(db, "SELECT 1; SELECT 'simple'");
		DUE(PQresultStatus(r) == PGRES_TUPLES_OK &&
		    strcmp(PQgetvalue(r, 0, 0), "simple") == 0);
		PQclear(r);
		DUE(PQenterPipelineMode(db) == 1);
	}
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{ "many", many },
	{ "errors", errors },
	{ "transactions", transactions },
	{ "flushes", flushes },
	{ "prepared", prepared },
	{ "single_rows", single_rows },
	{ "big", big },
	{ "cancels", cancels },
	{ "in_and_out", in_and_out },
};

int
main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	id = argv[2];
	db = PQconnectdb("");
	DUE(PQstatus(db) == CONNECTION_OK);
	DUE(PQenterPipelineMode(db) == 1);
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		if (strcmp(scenarios[i].name, argv[1]) == 0) {
			scenarios[i].run();
			DUE(PQexitPipelineMode(db) == 1);
			PQfinish(db);
			puts(argv[1]);
			return 0;
		}
	return 2;
}

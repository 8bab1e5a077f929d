#include "proxy/console_table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proxy/pg_batch.h"
#include "proxy/worker.h"

struct row {
	const struct console_table *table;
	union console_cell cell[CONSOLE_COLUMNS];
};

struct console_rows {
	const struct console_table *table;
	struct row *row;
	size_t n, size;
	size_t room; /* rows that may still come from this worker */
	bool cut;
};

/* ---- rows ------------------------------------------------------------- */

struct console_rows *
console_rows_new(const struct console_table *t)
{
	struct console_rows *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->table = t;
	return r;
}

static void
row_free(struct row *row)
{
	for (unsigned i = 0; i < CONSOLE_COLUMNS; i++)
		if (row->table->column[i].type == CONSOLE_TEXT)
			free((char *)(uintptr_t)row->cell[i].text);
}

void
console_rows_free(struct console_rows **at)
{
	struct console_rows *r = *at;

	*at = NULL;
	if (r == NULL)
		return;
	for (size_t i = 0; i < r->n; i++)
		row_free(&r->row[i]);
	free(r->row);
	free(r);
}

const struct console_table *
console_rows_table(const struct console_rows *r)
{
	return r->table;
}

bool
console_rows_cut(const struct console_rows *r)
{
	return r->cut;
}

const char *
console_rows_text(const struct console_rows *r, size_t row, unsigned column)
{
	assert(row < r->n && r->table->column[column].type == CONSOLE_TEXT);
	return r->row[row].cell[column].text;
}

int64_t
console_rows_number(const struct console_rows *r, size_t row, unsigned column)
{
	int64_t n = r->row[row].cell[column].number;

	assert(row < r->n && r->table->column[column].type > CONSOLE_TEXT);
	if (r->table->column[column].type == CONSOLE_MAX_S)
		return n / 1000000;
	if (r->table->column[column].type == CONSOLE_MAX_US)
		return n % 1000000;
	return n;
}

static char *
copy(const char *s)
{
	char *c = s != NULL ? strdup(s) : NULL;

	if (s != NULL && c == NULL)
		abort();
	return c;
}

void
console_rows_add(struct console_rows *r, const union console_cell *cell)
{
	const struct console_column *column = r->table->column;
	struct row *row;

	if (r->room == 0) {
		r->cut = true;
		return;
	}
	r->room--;
	if (r->n == r->size) {
		r->size = r->size ? r->size * 2 : 16;
		r->row = realloc(r->row, r->size * sizeof(*r->row));
		if (r->row == NULL)
			abort();
	}
	row = &r->row[r->n++];
	*row = (struct row){ .table = r->table };
	for (unsigned i = 0; column[i].type != CONSOLE_NONE; i++)
		if (column[i].type == CONSOLE_TEXT)
			row->cell[i].text = copy(cell[i].text);
		else
			row->cell[i].number = cell[i].number;
}

void
console_rows_visit(struct console_rows *r, const struct worker *w)
{
	r->room = CONSOLE_ROWS;
	if (r->table->each != NULL)
		r->table->each(r, w);
	else
		r->table->here(r);
}

/* NULL first. */
static int
compare_text(const char *a, const char *b)
{
	if (a == NULL || b == NULL)
		return (a != NULL) - (b != NULL);
	return strcmp(a, b);
}

static int
compare(const void *left, const void *right)
{
	const struct row *a = left, *b = right;
	const struct console_column *column = a->table->column;

	for (unsigned i = 0; column[i].type != CONSOLE_NONE; i++) {
		int c = column[i].type != CONSOLE_TEXT
			    ? 0
			    : compare_text(a->cell[i].text, b->cell[i].text);

		if (c != 0)
			return c;
	}
	return 0;
}

static int64_t
add(enum console_type type, int64_t a, int64_t b)
{
	if (a == CONSOLE_NULL || b == CONSOLE_NULL)
		return a == CONSOLE_NULL ? b : a;
	if (type == CONSOLE_SUM)
		return a + b;
	return a > b ? a : b;
}

static void
merge_into(struct row *to, struct row *from)
{
	const struct console_column *column = to->table->column;

	for (unsigned i = 0; column[i].type != CONSOLE_NONE; i++)
		if (column[i].type != CONSOLE_TEXT)
			to->cell[i].number =
			    add(column[i].type, to->cell[i].number,
				from->cell[i].number);
	row_free(from);
}

size_t
console_rows_merge(struct console_rows *r)
{
	size_t n = 0;

	if (r->table->each == NULL || r->n == 0)
		return r->n;
	qsort(r->row, r->n, sizeof(*r->row), compare);
	for (size_t i = 1; i < r->n; i++)
		if (compare(&r->row[n], &r->row[i]) == 0)
			merge_into(&r->row[n], &r->row[i]);
		else
			r->row[++n] = r->row[i];
	return r->n = n + 1;
}

/* ---- tables ----------------------------------------------------------- */

static void
see_batch(void *arg, const struct pg_batch_seen *b)
{
	/* Totals are of a table, what is under way of an organization. */
	bool total = b->organization == NULL;

#define NUMBER(when, n) { .number = (when) ? (int64_t)(n) : CONSOLE_NULL }
	console_rows_add(
	    arg, (union console_cell[]){ { .text = b->table },
					 { .text = b->organization },
					 { .text = b->database },
					 NUMBER(!total, b->lanes),
					 NUMBER(!total, b->waiting),
					 NUMBER(!total, b->waiting_bytes),
					 NUMBER(!total, b->sent),
					 NUMBER(!total, b->wait_us),
					 NUMBER(total, b->operations),
					 NUMBER(total, b->commits),
					 NUMBER(total, b->replayed),
					 NUMBER(total, b->unknown) });
#undef NUMBER
}

static void
batches_each(struct console_rows *r, const struct worker *w)
{
	pg_batches_see(w, see_batch, r);
}

static const char *
pool_mode(const struct pool *p)
{
	static const char *const name[] = {
		[POOL_MODE_TRANSACTION] = "transaction",
		[POOL_MODE_SESSION] = "session",
		[POOL_MODE_STATEMENT] = "statement",
	};

	return name[p->postgres->pool_mode];
}

static void
see_pool(struct console_rows *r, const struct pool *p, uint64_t now_ns)
{
	unsigned waiting = p->waiters.n, users = p->users;
	uint64_t us = 0;

	if (waiting > 0)
		us = (now_ns - fair_oldest_ns(&p->waiters)) / 1000u;
	console_rows_add(
	    r, (union console_cell[]){
		   { .text = p->dbname },
		   { .text = p->user },
		   { .number = users > waiting ? users - waiting : 0 },
		   { .number = waiting },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_LEASED] },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_IDLE] },
		   { .number = 0 },
		   { .number = 0 },
		   { .number = p->n[SERVER_DIAL] + p->n[SERVER_LOGIN] },
		   { .number = (int64_t)us },
		   { .number = (int64_t)us },
		   { .text = pool_mode(p) },
	       });
}

static void
pools_each(struct console_rows *r, const struct worker *w)
{
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (const struct pool *p = w->pools.bucket[i]; p != NULL;
		     p = p->chain)
			if (p->postgres != NULL)
				see_pool(r, p, w->streams.now_ns);
}

static void help_here(struct console_rows *);

static void
version_here(struct console_rows *r)
{
	console_rows_add(
	    r, (union console_cell[]){ { .text = "weir " WEIR_VERSION } });
}

#define T CONSOLE_TEXT
#define N CONSOLE_SUM
#define M CONSOLE_MAX
static const struct console_table tables[] = {
	{ "BATCHES",
	  "operations that share commits: totals of a table, and what is under "
	  "way of each organization",
	  { { "table", T },
	    { "organization", T },
	    { "database", T },
	    { "lanes", N },
	    { "waiting", N },
	    { "waiting_bytes", N },
	    { "sent", N },
	    { "maxwait_us", M },
	    { "operations", N },
	    { "commits", N },
	    { "replayed", N },
	    { "unknown", N } },
	  .each = batches_each },
	{ "HELP",
	  "this list",
	  { { "command", T }, { "shows", T } },
	  .here = help_here },
	{ "POOLS",
	  "PostgreSQL servers and the clients that use or want them; columns "
	  "are PgBouncer's",
	  { { "database", T },
	    { "user", T },
	    { "cl_active", N },
	    { "cl_waiting", N },
	    { "cl_active_cancel_req", N },
	    { "cl_waiting_cancel_req", N },
	    { "sv_active", N },
	    { "sv_active_cancel", N },
	    { "sv_being_canceled", N },
	    { "sv_idle", N },
	    { "sv_used", N },
	    { "sv_tested", N },
	    { "sv_login", N },
	    { "maxwait", CONSOLE_MAX_S },
	    { "maxwait_us", CONSOLE_MAX_US },
	    { "pool_mode", T } },
	  .each = pools_each },
	{ "VERSION", "weir's", { { "version", T } }, .here = version_here },
};
#undef T
#undef N
#undef M

static void
help_here(struct console_rows *r)
{
	char command[40];

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		snprintf(command, sizeof(command), "SHOW %s", tables[i].name);
		console_rows_add(
		    r, (union console_cell[]){ { .text = command },
					       { .text = tables[i].what } });
	}
	console_rows_add(
	    r, (union console_cell[]){ { .text = "RELOAD" },
				       { .text = "nothing: the configuration "
						 "is read again" } });
}

const struct console_table *
console_table_find(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (strcasecmp(name, tables[i].name) == 0)
			return &tables[i];
	return NULL;
}

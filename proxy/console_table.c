#include "proxy/console_table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct row {
	const struct console_table *table;
	char *texts; /* of all its cells */
	union console_cell cell[CONSOLE_COLUMNS];
};

struct console_rows {
	const struct console_table *table;
	struct row *row;
	size_t n, size;
	size_t room; /* rows that may still come from this worker */
	size_t at;   /* of this worker (console_table.each) */
	bool begun;  /* to visit it */
	struct session_cursor cursor;
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

struct session_cursor *
console_rows_cursor(struct console_rows *r)
{
	return &r->cursor;
}

void
console_rows_free(struct console_rows **at)
{
	struct console_rows *r = *at;

	*at = NULL;
	if (r == NULL)
		return;
	session_cursor_close(&r->cursor);
	for (size_t i = 0; i < r->n; i++)
		free(r->row[i].texts);
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

/* One piece of memory for all texts of a row. */
static void
row_copy(struct row *row, const union console_cell *cell)
{
	const struct console_column *column = row->table->column;
	size_t n = 0;
	char *p;

	for (unsigned i = 0; column[i].type != CONSOLE_NONE; i++)
		if (column[i].type == CONSOLE_TEXT && cell[i].text != NULL)
			n += strlen(cell[i].text) + 1;
	if ((p = row->texts = malloc(n + 1)) == NULL)
		abort();
	for (unsigned i = 0; column[i].type != CONSOLE_NONE; i++) {
		row->cell[i] = cell[i];
		if (column[i].type != CONSOLE_TEXT || cell[i].text == NULL)
			continue;
		row->cell[i].text = p;
		p = stpcpy(p, cell[i].text) + 1;
	}
}

void
console_rows_add(struct console_rows *r, const union console_cell *cell)
{
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
	row_copy(row, cell);
}

bool
console_rows_visit(struct console_rows *r, struct worker *w)
{
	bool more = false;

	if (!r->begun) {
		r->at = 0;
		r->room = CONSOLE_ROWS;
	}
	if (r->table->each != NULL)
		more = r->table->each(r, w, &r->at);
	else
		r->table->here(r, w);
	/* Nothing more of this worker would be kept. */
	r->begun = more = more && !r->cut;
	if (!more)
		session_cursor_close(&r->cursor);
	return more;
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
	free(from->texts);
}

size_t
console_rows_merge(struct console_rows *r)
{
	size_t n = 0;

	if (r->table->each == NULL || r->table->apart || r->n == 0)
		return r->n;
	qsort(r->row, r->n, sizeof(*r->row), compare);
	for (size_t i = 1; i < r->n; i++)
		if (compare(&r->row[n], &r->row[i]) == 0)
			merge_into(&r->row[n], &r->row[i]);
		else
			r->row[++n] = r->row[i];
	return r->n = n + 1;
}

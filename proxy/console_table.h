/*
 * console_table: a table that SHOW shows, and how its rows are gathered.
 *
 * A table is a list of columns and a function that adds a worker's rows to it,
 * some in a turn.  Rows of several workers whose texts are the same are one
 * row: numbers are added up, of a maximum the greatest is taken.  Of a table
 * whose rows are `apart` each stands for itself, and none is compared.
 *
 * Owner:    who opened it.  Texts are copied.
 * Bounds:   CONSOLE_ROWS rows from a worker; the rest is left out, and told.
 */
#ifndef PROXY_CONSOLE_TABLE_H
#define PROXY_CONSOLE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/session.h"

enum {
	CONSOLE_COLUMNS = 25,	/* the last one of them is NONE */
	CONSOLE_ROWS = 20000,
	CONSOLE_SLICE = 128	/* rows that are gathered, or told, in a turn, or little more */
};

enum console_type {
	CONSOLE_NONE,		/* behind the last column */
	CONSOLE_TEXT,
	CONSOLE_SUM,
	CONSOLE_MAX,
	CONSOLE_MAX_S,		/* microseconds, of which the whole seconds are told */
	CONSOLE_MAX_US		/* and these, without them */
};

#define CONSOLE_NULL INT64_MIN	/* a number that is none */

struct console_column {
	const char	 *name;
	enum console_type type;
};

struct console_rows;

struct console_table {
	const char	     *name;	/* upper case */
	const char	     *what;	/* for SHOW HELP */
	struct console_column column[CONSOLE_COLUMNS];
	bool		      apart;
	/* One of these two: on the asker's worker only, or on each: about
	 * CONSOLE_SLICE rows in a turn.  *at is 0 in the first and then what was
	 * left there; false: that was the last. */
	void		    (*here)(struct console_rows *, const struct worker *);
	bool		    (*each)(struct console_rows *, struct worker *, size_t *at);
};

union console_cell {
	const char *text;	/* NULL is SQL's */
	int64_t	    number;	/* CONSOLE_NULL likewise */
};

struct console_rows *console_rows_new(const struct console_table *);
void		     console_rows_free(struct console_rows **);
const struct console_table *console_rows_table(const struct console_rows *);
/* One cell a column. */
void   console_rows_add(struct console_rows *, const union console_cell *);
/* Some of a worker's, or the asker's own.  True: it has more, in a later turn. */
bool   console_rows_visit(struct console_rows *, struct worker *);
/* For a table of sessions: where on that worker the next slice begins. */
struct session_cursor *console_rows_cursor(struct console_rows *);
/* All are there: sorts them by their texts, and makes one of those that are of
 * the same.  Returns their number. */
size_t console_rows_merge(struct console_rows *);
bool   console_rows_cut(const struct console_rows *);	/* some were left out */
/* What is to be told: a text, a view good until the rows are freed, or a number. */
const char *console_rows_text(const struct console_rows *, size_t row, unsigned column);
int64_t	    console_rows_number(const struct console_rows *, size_t row, unsigned column);

#endif

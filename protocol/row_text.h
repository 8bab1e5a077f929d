/*
 * row_text: what can be said of a row that an INSERT brings, as a text.
 *
 * A template has places for columns, {document_id}, which take the values that
 * the statement and its Bind give them.  A value has the text PostgreSQL would
 * print, or the one its client wrote, whichever way it was sent; a uuid always
 * PostgreSQL's.
 *
 *	a channel	text with places, as it is
 *	a message	one place alone: the value as it is.  Else it is JSON:
 *			{column} is a string, or null; within quotes, a part of
 *			one; {column:json} stands as it is, and must be JSON
 *	no template	the row as JSON: all columns whose values are known
 *
 * Owner:    the caller, until row_text_free(); it is never changed.
 * Bounds:   ROW_TEXT_MAX bytes of a template and ROW_TEXT_PLACES places; what
 *           comes out is as long as the caller's buf allows.
 */
#ifndef PROTOCOL_ROW_TEXT_H
#define PROTOCOL_ROW_TEXT_H

#include "protocol/buf.h"
#include "protocol/insert.h"
#include "protocol/slice.h"

enum { ROW_TEXT_MAX = 16 << 10, ROW_TEXT_PLACES = 64 };

struct row_text;

/* NULL: it is none, and what was expected. */
struct row_text *row_text_channel(const char *text, const char **expected);
struct row_text *row_text_message(const char *text, const char **expected);	/* text: may be NULL */
void		 row_text_free(struct row_text **);

/* One row: views. */
struct row_values {
	const struct insert *insert;
	struct slice args;	/* of its Bind, what follows the names */
	struct slice types[2];	/* of the parameters: their number, and as many; the first that
				   has one says it.  May be empty */
};

/*
 * -1: a column is not named by the INSERT, or its value is computed by the
 * server, is binary and of a type that is not known here, is no UTF-8 or JSON
 * where it must be, or NULL in a channel; or the buf is full.  What was put
 * until then stays there.
 */
int row_text_put(struct buf *, const struct row_text *, const struct row_values *)
    __attribute__((warn_unused_result));

#endif

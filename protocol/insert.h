/*
 * insert: what a text that is one INSERT of one row says.
 *
 * Operations of many clients may share one commit only if each is an INSERT
 * of one row that depends on nothing but its parameters, and leaves nothing
 * behind but its row.  PostgreSQL's own parser (libpg_query, of version 15)
 * reads the text; of its tree everything is refused that is not named in a
 * short list here: a word added to the grammar is refused until it is added
 * to the list too.
 *
 * Cost:     a text that does not begin with INSERT or BEGIN is refused after
 *           its first word, in less than 0.1 us.  Reading one of 8 columns
 *           takes 70 to 100 us and some 50 KiB for the time: keep what was read
 *           with the statement, as one keeps its text.
 * Owner:    the caller, until insert_free().
 * Bounds:   texts of up to INSERT_TEXT_MAX bytes and INSERT_TOKENS_MAX words
 *           and signs, and expressions INSERT_DEPTH_MAX deep: what libpg_query
 *           recurses over takes less than 1 MiB of stack.  More is refused.
 * Threads:  any, each with its own.  libpg_query keeps some KiB for a thread
 *           and gives them back when it ends.
 * Safety:   what is read here must be what the server reads.  Where the
 *           meaning of a quote depends on a setting or an encoding (a
 *           backslash before it), the text is refused.
 */
#ifndef PROTOCOL_INSERT_H
#define PROTOCOL_INSERT_H

#include <sys/types.h>

#include "protocol/slice.h"

enum {
	INSERT_TEXT_MAX = 64 << 10,
	INSERT_TOKENS_MAX = 2000,
	INSERT_DEPTH_MAX = 32,
	INSERT_FUNCTIONS_MAX = 32,	/* different ones in a text */
	INSERT_UUID = 16		/* bytes */
};

enum insert_kind {
	INSERT_PARAM,		/* $n, or $n::type with a type of one word */
	INSERT_CONST,		/* 'text', 12, NULL; with a cast or without */
	INSERT_DEFAULT,		/* the word DEFAULT */
	INSERT_OTHER		/* an expression, or a constant of another kind: 0, -1, 1.5, true */
};

struct insert_column {
	char	        *name;	/* as the server looks it up; NULL: the text names no columns */
	enum insert_kind kind;
	unsigned	 param;	/* PARAM: n, from 1 */
	char		*text;	/* CONST: the value's text; NULL is SQL's */
	char		*number; /* OTHER: a number, true or false, as written; NULL: else */
	char		*cast;	/* PARAM, CONST: the type's name, as pg_type has it; NULL: no cast */
};

struct insert {
	char		     *schema;	/* NULL: the search_path finds it */
	char		     *table;
	struct insert_column *column;	/* the values, in the order of the text */
	size_t		      column_n;
	unsigned	      params;	/* the highest $n; 0: none */
	bool		      returning;
	bool		      conflict;	/* ON CONFLICT ... */
	bool		      updates;	/* ... DO UPDATE */
	bool		      plain;	/* named columns and $1, $2, ... for them, in order, nothing else:
					   what rows of an unnest() could stand for */
	bool		      block;	/* the text is BEGIN; INSERT ...; COMMIT */
	size_t		      at, n;	/* where in the text the INSERT lies, without its `;` */
	char		     *function[INSERT_FUNCTIONS_MAX];	/* `name` or `schema.name`; */
	size_t		      function_n;			/* pg_catalog. is left out */
};

/*
 * NULL: the text is anything else.  One INSERT INTO [schema.]table of one
 * VALUES row, with RETURNING and ON CONFLICT if it likes, and a `;` behind it
 * or not; or the same between a BEGIN or START TRANSACTION and a COMMIT or
 * END, without modes.  No WITH, no sub-select, no OVERRIDING of anything.
 * Casts to any type are allowed: what a cast may do, a default or a trigger
 * of the table may do too.
 */
struct insert *insert_load(struct slice text);
void	       insert_free(struct insert **);

/*
 * Does it call only what leaves nothing in the session or the transaction,
 * and asks for nothing that is there?  That is nextval, the clocks, makers of
 * uuids, current_setting, functions of pg_catalog that compute; and those in
 * `also`, by their names as written in the text, in lower case.
 */
bool insert_calls_only(const struct insert *, char *const *also, size_t also_n);

/* The value for the column of that name, or NULL. */
const struct insert_column *insert_column(const struct insert *, const char *name);

/*
 * A number that is the same for all ways in which clients may spell and send
 * one value of a column of type uuid, smallint, integer, bigint, text or
 * varchar: for a uuid as 16 bytes, as text in either case, with braces or
 * without dashes.  (Different values nearly always have different numbers;
 * of texts, those that spell the same uuid or integer have the same.)
 *
 * type:     of the parameter, as Parse or a ParameterDescription said; 0 if
 *           it is not known.  Of no meaning for a constant.
 * format:   of Bind: 0 is text, 1 is binary.
 * value:    what Bind has; n < 0 is NULL.
 *
 * false: it cannot be known, as the value is binary and of a type not known,
 * of another type, or not a parameter or constant.
 */
bool insert_key(const struct insert_column *, unsigned type, int format, const void *value, ssize_t n,
    uint64_t *key);

/* As PostgreSQL reads a uuid's text; false: it is none. */
bool insert_read_uuid(const uint8_t *p, size_t n, uint8_t out[INSERT_UUID]);

#endif

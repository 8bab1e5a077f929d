/*
 * pg_text: what a worker knows of texts it has seen: which are INSERTs that
 * may share a commit.
 *
 * Bounds:   PG_TEXTS texts of at most PG_TEXT_MAX bytes; one that comes anew
 *           takes the place of another.
 */
#ifndef PROXY_PG_TEXT_H
#define PROXY_PG_TEXT_H

#include "conf/conf.h"
#include "pool/stmt.h"
#include "protocol/insert.h"
#include "protocol/slice.h"

enum { PG_TEXT_MANY = 6, PG_TEXTS = 1024, PG_TEXT_MAX = 16 << 10 };

struct worker;

struct pg_text {
	uint64_t       hash;
	struct stmt   *stmt;	/* counted; NULL: an empty place */
	struct insert *insert;	/* NULL: it is no such INSERT */
	bool	       merges;	/* rows of several may be one statement (insert_many.h), */
	unsigned       rest;	/* but so many more shall not be */
	struct stmt   *many[PG_TEXT_MANY];	/* of 2, 4, 8, ... rows; counted; NULL: not yet */
};

/* A view, to the next call: the statement of a Parse's body, from text on.
 * NULL: too long, or it cannot be an INSERT. */
const struct pg_text *pg_text_find(struct worker *, struct slice body);
/* May its next row be part of a statement of several?  Asked for each. */
bool pg_text_merges(struct worker *, struct slice body);
/* Of the next ones so many may not; UINT32_MAX: none ever. */
void pg_text_rest(struct worker *, struct slice body, unsigned rows);
/* Its statement for so many rows, a power of 2; while it merges. */
const struct stmt *pg_text_many(struct worker *, struct slice body, unsigned rows);
/* A simple Query's, which is not kept: the caller frees it; NULL: no. */
struct insert *pg_text_read(const struct conf *, struct slice text);
/* The section for its table and the functions it calls, or NULL. */
const struct conf_batch *pg_text_batch(const struct conf *, const struct insert *);
void pg_texts_fini(struct worker *);

#endif

/*
 * insert_many: rows of one INSERT, sent by several clients, as one statement.
 *
 * INSERT INTO t (a, b) VALUES ($1, $2) becomes VALUES ($1, $2), ($3, $4), ...
 * with the same types, and their Binds' values one after another, each in the
 * format it was sent in.
 *
 * Bounds:   INSERT_MANY rows, and 65535 parameters in all.
 */
#ifndef PROTOCOL_INSERT_MANY_H
#define PROTOCOL_INSERT_MANY_H

#include "protocol/buf.h"
#include "protocol/insert.h"
#include "protocol/slice.h"

enum {
	INSERT_MANY = 64,
	INSERT_MANY_MAX = 64 << 20	/* bytes: more than either can come to */
};

/* May rows of this one be put together?  They bring a row each, and nothing
 * comes back.  `body`: of its Parse, from the text on. */
bool insert_may_merge(const struct insert *, struct slice body);

/* The same statement for n rows, as a Parse's body; -1: the buf is full. */
int insert_put_many(struct buf *, const struct insert *, struct slice body, unsigned n)
    __attribute__((warn_unused_result));

/* Of n Binds what follows the names, each sound and of so many values, as one;
 * -1: the buf is full. */
int insert_put_args(struct buf *, const struct slice *args, unsigned n, unsigned params)
    __attribute__((warn_unused_result));

#endif

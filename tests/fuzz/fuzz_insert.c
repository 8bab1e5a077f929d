#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/insert.h"

int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

static void
check_column(const struct insert *in, const struct insert_column *c)
{
	uint64_t key;

	assert(c->kind != INSERT_PARAM ||
	       (c->param >= 1 && c->param <= in->params));
	assert(c->text == NULL || c->kind == INSERT_CONST);
	if (c->name != NULL)
		assert(insert_column(in, c->name) != NULL);
	insert_key(c, 0, 0, "12", 2, &key);
	insert_key(c, 2950, 1, "0123456789abcdef", 16, &key);
}

/* The INSERT cut out of a text, block or not, is the same INSERT alone. */
int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct insert *in = insert_load(slice_of(p, n)), *part;

	if (in == NULL)
		return 0;
	assert(in->at <= n && in->n <= n - in->at);
	assert(in->table != NULL && in->column_n >= 1);
	for (size_t i = 0; i < in->column_n; i++)
		check_column(in, &in->column[i]);
	part = insert_load(slice_of(p + in->at, in->n));
	assert(part != NULL && !part->block);
	assert(strcmp(part->table, in->table) == 0);
	assert(part->column_n == in->column_n && part->params == in->params);
	assert(part->plain == in->plain && part->updates == in->updates);
	insert_free(&part);
	insert_free(&in);
	return 0;
}

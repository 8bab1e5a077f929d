#include "proxy/pg_text.h"

#include <assert.h>
#include <string.h>

#include "protocol/insert_many.h"
#include "protocol/sql.h"
#include "proxy/worker.h"

/* By its first letter, as most texts are something else. */
static bool
may_insert(struct slice text)
{
	size_t i = 0;

	while (i < text.n && strchr(" \t\r\n\f", text.p[i]) != NULL)
		if (text.p[i++] == '\0')
			return false;
	return i < text.n && strchr("iIbBsS/-", text.p[i]) != NULL &&
	       text.p[i] != '\0';
}

static uint64_t
hash_of(struct slice s)
{
	uint64_t h = 0x9e3779b97f4a7c15u ^ s.n, word;
	size_t i = 0;

	for (; i + sizeof(word) <= s.n; i += sizeof(word)) {
		memcpy(&word, s.p + i, sizeof(word));
		h = (h ^ word) * 0xff51afd7ed558ccdu;
		h ^= h >> 32;
	}
	for (; i < s.n; i++)
		h = (h ^ s.p[i]) * 1099511628211u;
	return h ^ h >> 29;
}

static void
forget(struct worker *w, struct pg_text *t)
{
	if (t->stmt != NULL)
		stmt_unref(&w->pools.stmts, &t->stmt);
	for (unsigned i = 0; i < PG_TEXT_MANY; i++)
		if (t->many[i] != NULL)
			stmt_unref(&w->pools.stmts, &t->many[i]);
	insert_free(&t->insert);
	t->merges = false;
	t->rest = 0;
}

static_assert(2u << (PG_TEXT_MANY - 1) == INSERT_MANY,
	      "one for each power of 2");

static struct pg_text *
find(struct worker *w, struct slice body)
{
	uint64_t hash;
	struct slice text;
	struct pg_text *t;

	if (body.n > PG_TEXT_MAX || !may_insert(body))
		return NULL;
	hash = hash_of(body);
	t = &w->texts[hash % PG_TEXTS];
	if (t->stmt != NULL && t->hash == hash && !t->stmt->stale &&
	    t->stmt->len == body.n &&
	    memcmp(t->stmt->body, body.p, body.n) == 0)
		return t;
	forget(w, t);
	text = slice_text(body.p, body.n);
	t->hash = hash;
	t->stmt = stmt_intern(&w->pools.stmts, body, sql_scan(text));
	if (t->stmt->flags == 0)
		t->insert = insert_load(text);
	t->merges = t->insert != NULL && insert_may_merge(t->insert, body);
	return t;
}

const struct pg_text *
pg_text_find(struct worker *w, struct slice body)
{
	return find(w, body);
}

bool
pg_text_merges(struct worker *w, struct slice body)
{
	struct pg_text *t = find(w, body);

	if (t->rest > 0 && t->rest < UINT32_MAX)
		t->rest--;
	return t->merges && t->rest == 0;
}

void
pg_text_rest(struct worker *w, struct slice body, unsigned rows)
{
	struct pg_text *t = find(w, body);

	if (rows > t->rest)
		t->rest = rows;
}

const struct stmt *
pg_text_many(struct worker *w, struct slice body, unsigned rows)
{
	struct pg_text *t = find(w, body);
	struct stmt **at = &t->many[__builtin_ctz(rows) - 1];
	struct slice many;
	struct buf b;

	assert(rows >= 2 && rows <= INSERT_MANY && t->merges);
	if (*at != NULL && !(*at)->stale)
		return *at;
	if (*at != NULL)
		stmt_unref(&w->pools.stmts, at);
	buf_init(&b, INSERT_MANY_MAX);
	if (insert_put_many(&b, t->insert, body, rows) != 0)
		abort();
	many.p = buf_peek(&b, &many.n);
	*at = stmt_intern(&w->pools.stmts, many, 0);
	buf_free(&b);
	return *at;
}

/* Before it is parsed for good: does it speak of such a table at all? */
static bool
mentions_table(const struct conf *c, struct slice text)
{
	for (size_t i = 0; i < c->batch_n; i++) {
		const char *dot = strchr(c->batch[i].name, '.');
		const char *table = dot ? dot + 1 : c->batch[i].name;

		if (memmem(text.p, text.n, table, strlen(table)) != NULL)
			return true;
	}
	return false;
}

struct insert *
pg_text_read(const struct conf *c, struct slice text)
{
	if (text.n > PG_TEXT_MAX || !may_insert(text) ||
	    !mentions_table(c, text) || (sql_scan(text) & ~SQL_XACT) != 0)
		return NULL;
	return insert_load(text);
}

/* A section without a schema is for the table in any. */
static bool
is_table(const char *name, const struct insert *in)
{
	const char *dot = strchr(name, '.');

	if (strcmp(dot ? dot + 1 : name, in->table) != 0)
		return false;
	if (dot == NULL || in->schema == NULL)
		return true;
	return strlen(in->schema) == (size_t)(dot - name) &&
	       memcmp(in->schema, name, (size_t)(dot - name)) == 0;
}

const struct conf_batch *
pg_text_batch(const struct conf *c, const struct insert *in)
{
	for (size_t i = 0; i < c->batch_n; i++) {
		const struct conf_batch *b = &c->batch[i];

		if (is_table(b->name, in) &&
		    insert_calls_only(in, b->functions, b->functions_n))
			return b;
	}
	return NULL;
}

void
pg_texts_fini(struct worker *w)
{
	for (size_t i = 0; i < PG_TEXTS; i++)
		forget(w, &w->texts[i]);
}

/*
 * console_conf: what the configuration says: SHOW DATABASES, USERS, CONFIG.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "conf/conf_keys.h"
#include "proxy/console_shows.h"
#include "proxy/worker.h"

/* The word of that value, where the key takes words. */
static const char *
word_of(enum conf_kind kind, const char *key, int value)
{
	const struct conf_row *row = conf_keys_find(kind, key);

	if (row == NULL || row->words == NULL)
		return NULL;
	for (const struct conf_word *w = row->words; w->text != NULL; w++)
		if (w->value == value)
			return w->text;
	return NULL;
}

/* ---- databases -------------------------------------------------------- */

/* What the clients of this section go to; NULL: what they say themselves. */
static const char *
dbname_of(const struct conf_database *d)
{
	if (d->dbname != NULL)
		return d->dbname;
	if (d->postgres->dbname != NULL)
		return d->postgres->dbname;
	return strcmp(d->name, "*") == 0 ? NULL : d->name;
}

/* Servers on this worker; the pools may be of an older configuration. */
static unsigned
connections(const struct worker *w, const struct conf_database *d,
	    const char *dbname)
{
	unsigned n = 0;

	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (const struct pool *p = w->pools.bucket[i]; p; p = p->chain)
			if (p->postgres != NULL &&
			    strcmp(p->postgres->name, d->postgres->name) == 0 &&
			    (dbname == NULL || strcmp(p->dbname, dbname) == 0))
				n += pool_servers(p);
	return n;
}

static void
see_database(struct console_rows *r, const struct worker *w,
	     const struct conf_database *d)
{
	const struct conf_postgres *up = d->postgres;
	const char *dbname = dbname_of(d);
	enum conf_pool_mode mode =
	    d->has_pool_mode ? d->pool_mode : up->pool_mode;

	console_rows_add(
	    r, (union console_cell[]){
		   { .text = d->name },
		   { .text = up->host },
		   { .number = up->port },
		   { .text = dbname },
		   { .text = up->user },
		   { .number = up->pool_size },
		   { .number = up->min_pool_size },
		   { .number = up->reserve_pool_size },
		   { .text = word_of(KIND_POSTGRES, "pool_mode", (int)mode) },
		   { .number = up->max_connections },
		   { .number = connections(w, d, dbname) },
		   { .number = 0 },
		   { .number = 0 },
		   { .text = up->name },
	       });
}

/* One in a turn, because it looks at every pool. */
bool
console_databases_each(struct console_rows *r, struct worker *w, size_t *at)
{
	const struct conf *c = w->snapshot->conf;

	if (*at < c->database_n && c->database[*at].postgres != NULL)
		see_database(r, w, &c->database[*at]);
	return ++*at < c->database_n;
}

/* ---- users ------------------------------------------------------------ */

static void
see_user(struct console_rows *r, const struct conf_user *u)
{
	console_rows_add(
	    r, (union console_cell[]){
		   { .text = u->name },
		   { .text = u->has_pool_mode ? word_of(KIND_USER, "pool_mode",
							(int)u->pool_mode)
					      : NULL },
		   { .number = u->max_client_conn },
		   { .text = word_of(KIND_USER, "auth", (int)u->auth) },
		   { .text = u->organization ? u->organization->slug : NULL },
	       });
}

void
console_users_here(struct console_rows *r, const struct worker *w)
{
	const struct conf *c = w->snapshot->conf;

	for (size_t i = 0; i < c->user_n; i++)
		see_user(r, &c->user[i]);
	for (size_t i = 0; i < c->listed_n; i++)
		see_user(r, &c->listed[i]);
}

/* ---- settings --------------------------------------------------------- */

/* As one would write it; NULL: it is not set, or not one value. */
static const char *
value_text(const struct conf_row *row, const void *at, char *out, size_t n)
{
	uint64_t ms;

	switch (row->type) {
	case T_BOOL:
		return *(const bool *)at ? "on" : "off";
	case T_UINT:
		snprintf(out, n, "%u", *(const unsigned *)at);
		return out;
	case T_TIME:
		ms = *(const uint64_t *)at;
		snprintf(out, n, ms % 1000 ? "%" PRIu64 "ms" : "%" PRIu64,
			 ms % 1000 ? ms : ms / 1000);
		return out;
	case T_SIZE:
		snprintf(out, n, "%zu", *(const size_t *)at);
		return out;
	case T_WORD:
		return word_of(row->kind, row->name, *(const int *)at);
	case T_TEXT:
		return *(char *const *)at;
	case T_LIST:
	case T_HOST:
	case T_URL:
	case T_LISTEN:
	case T_RATE:
	case T_POSTGRES:
	case T_REDIS:
	case T_TENANT:
	case T_NOWHERE:
	case T_MAX:
		break;
	}
	return NULL;
}

static void
list_text(const struct conf_row *row, const char *conf, char *out, size_t n)
{
	char *const *list = *(char **const *)(const void *)(conf + row->off);
	size_t count = *(const size_t *)(const void *)(conf + row->aux), at = 0;

	out[0] = '\0';
	for (size_t i = 0; i < count && at < n; i++)
		at += (size_t)snprintf(out + at, n - at, i ? ", %s" : "%s",
				       list[i]);
}

static void
see_key(struct console_rows *r, const struct conf *c,
	const struct conf_row *row)
{
	const char *conf = (const char *)c, *value;
	bool fixed = row->type == T_LISTEN || strcmp(row->name, "workers") == 0;
	char text[512];

	if (row->type == T_LIST) {
		list_text(row, conf, text, sizeof(text));
		value = text;
	} else {
		value = value_text(row, conf + row->off, text, sizeof(text));
	}
	console_rows_add(
	    r, (union console_cell[]){ { .text = row->name },
				       { .text = row->secret ? "****" : value },
				       { .text = row->def },
				       { .text = fixed ? "no" : "yes" } });
}

void
console_config_here(struct console_rows *r, const struct worker *w)
{
	static const enum conf_kind kinds[] = { KIND_WEIR, KIND_TLS,
						KIND_AUTH };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const struct conf_row *row = NULL;

		while ((row = conf_keys_next(kinds[i], row)) != NULL)
			see_key(r, w->snapshot->conf, row);
	}
}

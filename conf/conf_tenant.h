/*
 * conf_tenant: an organization made of texts: its variables from the file, and
 * all of it from a row of the directory.
 *
 * What a column may be called and hold is what a key of [organization] may:
 * the same table.  The column `slug` is needed; of `var.NAME` there may be
 * several; NULL is as if the column were not there.
 *
 * Owner:    tenants of the directory are counted.  Nothing in one changes, and
 *           it refers to no configuration: upstreams stand in it by name.
 * Threads:  any; the count is atomic.
 */
#ifndef CONF_CONF_TENANT_H
#define CONF_CONF_TENANT_H

#include <stdbool.h>
#include <stddef.h>

struct conf;
struct tenant;
struct tenant_var;

enum { CONF_TENANT_WHY_MAX = 256 };

struct conf_column {
	const char *name;
	const char *value;	/* NULL: SQL's */
};

/* With one reference; NULL: the row is no good, and `why` says what was
 * expected.  No value stands in it, which may be a secret. */
struct tenant *conf_tenant_new(const struct conf *, const char *slug,
    const struct conf_column *, size_t n, char why[CONF_TENANT_WHY_MAX]);
/* That there is none of that name; or that there is, but of no use. */
struct tenant *conf_tenant_nobody(const char *slug, bool unusable);

/* Is NAME = template good? */
bool conf_tenant_is_var(const char *name);
void conf_tenant_add_var(struct tenant_var **, size_t *n, const char *name, char *text);	/* takes text */
void conf_tenant_free_vars(struct tenant_var *, size_t n);

#endif

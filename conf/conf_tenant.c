#include "conf/conf_tenant.h"

#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "conf/conf.h"
#include "conf/conf_keys.h"
#include "conf/conf_set.h"
#include "conf/mem.h"
#include "conf/value.h"

enum { VAR_NAME_MAX = 127 };

/* ---- variables -------------------------------------------------------- */

/* Names of settings know no case in PostgreSQL: one spelling is kept. */
static char *
lower(const char *s)
{
	char *out = mem_text(s, strlen(s));

	for (char *p = out; *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	return out;
}

bool
conf_tenant_is_var(const char *name)
{
	return value_is_variable(name) && strlen(name) <= VAR_NAME_MAX;
}

void
conf_tenant_add_var(struct tenant_var **var, size_t *n, const char *name,
		    char *text)
{
	*var = mem_more(*var, *n, sizeof(**var));
	(*var)[(*n)++] = (struct tenant_var){ lower(name), text };
}

void
conf_tenant_free_vars(struct tenant_var *var, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(var[i].name);
		free(var[i].value);
	}
	free(var);
}

/* ---- a row ------------------------------------------------------------ */

static int
set_var(struct tenant *t, const struct conf_column *column,
	char why[CONF_TENANT_WHY_MAX])
{
	const char *name = column->name + strlen("var.");
	size_t n = strlen(column->value);
	char *sample = NULL;

	if (conf_tenant_is_var(name) && n <= CONF_LINE_MAX)
		sample = tenant_expand(column->value, NULL, NULL, NULL);
	if (sample == NULL) {
		snprintf(why, CONF_TENANT_WHY_MAX,
			 "%.80s: expected var.NAME of a setting, and a "
			 "template of at most %d bytes",
			 column->name, CONF_LINE_MAX);
		return -1;
	}
	free(sample);
	conf_tenant_add_var(&t->var, &t->var_n, name,
			    mem_text(column->value, n));
	return 0;
}

static int
set_key(const struct conf *c, struct tenant *t,
	const struct conf_column *column, char why[CONF_TENANT_WHY_MAX])
{
	const struct conf_row *row =
	    conf_keys_find(KIND_ORGANIZATION, column->name);
	char want[CONF_EXPECTED_MAX];

	if (row == NULL) {
		snprintf(why, CONF_TENANT_WHY_MAX,
			 "%.80s: expected a column named like a key of "
			 "[organization]",
			 column->name);
		return -1;
	}
	if (column->value == NULL)
		return 0;
	/* Of the configuration it only reads what is referred to. */
	if (conf_set((struct conf *)(uintptr_t)c, row, t, column->value) ==
	    -1) {
		conf_keys_expected(row, want);
		snprintf(why, CONF_TENANT_WHY_MAX, "%s: expected %.200s",
			 row->name, want);
		return -1;
	}
	if (row->later != NULL && !conf_set_is_zero(row, t)) {
		snprintf(why, CONF_TENANT_WHY_MAX, "%s is not supported yet",
			 row->name);
		return -1;
	}
	return 0;
}

static int
set_column(const struct conf *c, struct tenant *t,
	   const struct conf_column *column, char why[CONF_TENANT_WHY_MAX])
{
	if (strncmp(column->name, "var.", 4) == 0)
		return column->value ? set_var(t, column, why) : 0;
	if (strcmp(column->name, "slug") != 0)
		return set_key(c, t, column, why);
	if (column->value != NULL && strcmp(column->value, t->slug) == 0)
		return 0;
	snprintf(why, CONF_TENANT_WHY_MAX, "the row is of another slug");
	return -1;
}

/* What no column can tell alone. */
static int
check(const struct conf *c, const struct tenant *t,
      char why[CONF_TENANT_WHY_MAX])
{
	const struct tenant *twin = conf_tenant_find_id(c, t->id);

	if ((t->redis_user == NULL) != (t->redis_password == NULL)) {
		snprintf(why, CONF_TENANT_WHY_MAX,
			 "only one of redis_user and redis_password, expected "
			 "both or neither");
		return -1;
	}
	/* They would see each other's rows. */
	if (twin != NULL) {
		snprintf(why, CONF_TENANT_WHY_MAX,
			 "its id is that of [organization %s], expected one "
			 "of its own",
			 twin->slug);
		return -1;
	}
	return 0;
}

static int
fill(const struct conf *c, struct tenant *t, const struct conf_column *column,
     size_t n, char why[CONF_TENANT_WHY_MAX])
{
	bool named = false;

	for (size_t i = 0; i < n; i++) {
		if (set_column(c, t, &column[i], why) != 0)
			return -1;
		named |= strcmp(column[i].name, "slug") == 0;
	}
	if (!named) {
		snprintf(why, CONF_TENANT_WHY_MAX, "expected a column slug");
		return -1;
	}
	if (t->id == NULL)
		t->id = mem_text(t->slug, strlen(t->slug));
	return check(c, t, why);
}

/* That configuration may go while this lives. */
static void
keep_names(struct tenant *t)
{
	if (t->postgres != NULL)
		t->postgres_name =
		    mem_text(t->postgres->name, strlen(t->postgres->name));
	if (t->redis != NULL)
		t->redis_name =
		    mem_text(t->redis->name, strlen(t->redis->name));
	t->postgres = NULL;
	t->redis = NULL;
}

struct tenant *
conf_tenant_nobody(const char *slug, bool unusable)
{
	struct tenant *t = mem_zero(1, sizeof(*t), "an organization");

	t->slug = mem_text(slug, strlen(slug));
	t->unusable = unusable;
	atomic_init(&t->refs, 1);
	return t;
}

struct tenant *
conf_tenant_new(const struct conf *c, const char *slug,
		const struct conf_column *column, size_t n,
		char why[CONF_TENANT_WHY_MAX])
{
	struct tenant *t = conf_tenant_nobody(slug, false);
	const struct tenant *gone = t;
	const struct conf_row *row = NULL;

	while ((row = conf_keys_next(KIND_ORGANIZATION, row)) != NULL)
		if (row->def != NULL && conf_set(NULL, row, t, row->def) != 0)
			assert(!"a default is good");
	if (fill(c, t, column, n, why) != 0) {
		tenant_unref(&gone);
		return NULL;
	}
	keep_names(t);
	t->redis_shared = t->redis_user == NULL;
	t->life = mem_zero(1, sizeof(*t->life), "an organization");
	atomic_init(&t->life->refs, 1);
	return t;
}

/* ---- counting --------------------------------------------------------- */

const struct tenant *
tenant_ref(const struct tenant *t)
{
	if (t != NULL && t->refs > 0)
		atomic_fetch_add_explicit(
		    &((struct tenant *)(uintptr_t)t)->refs, 1,
		    memory_order_relaxed);
	return t;
}

static void
life_unref(struct tenant_life *life)
{
	if (life != NULL && atomic_fetch_sub_explicit(
				&life->refs, 1, memory_order_acq_rel) == 1)
		free(life);
}

static void
tenant_free(struct tenant *t)
{
	const struct conf_row *row = NULL;

	while ((row = conf_keys_next(KIND_ORGANIZATION, row)) != NULL)
		conf_set_free(row, t);
	conf_tenant_free_vars(t->var, t->var_n);
	life_unref(t->life);
	free(t->postgres_name);
	free(t->redis_name);
	free(t->slug);
	free(t);
}

void
tenant_unref(const struct tenant **at)
{
	struct tenant *t = (struct tenant *)(uintptr_t)*at;

	*at = NULL;
	if (t == NULL || t->refs == 0)
		return;
	if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
		tenant_free(t);
}

void
tenant_replaced(struct tenant *before, struct tenant *now)
{
	if (before->life == NULL)
		return;
	if (now->id == NULL && !now->unusable) {
		atomic_store(&before->life->gone, true);
		return;
	}
	life_unref(now->life);
	now->life = before->life;
	atomic_fetch_add_explicit(&now->life->refs, 1, memory_order_relaxed);
}

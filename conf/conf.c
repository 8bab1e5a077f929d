#include "conf/conf.h"

#include <assert.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "conf/conf_check.h"
#include "conf/conf_keys.h"
#include "conf/conf_set.h"
#include "conf/conf_tenant.h"
#include "conf/conf_users.h"
#include "conf/ini.h"
#include "conf/mem.h"
#include "conf/value.h"
#include "protocol/row_text.h"

enum { QUOTE_MAX = 80 };

struct conf_origin {
	const void *field;
	unsigned line;
};

/* A section whose name was understood. */
struct part {
	struct ini_section *s;
	const char *name; /* its argument; "" where it has none */
};

/* A configuration on its way in. */
struct load {
	struct conf *conf;
	struct conf_errors *errors;
	const char *file;
	struct ini ini;
	struct part *part[KIND_MAX];
	size_t part_n[KIND_MAX];
	unsigned literal_secret; /* where one stands in the file itself */
};

#define ERROR(l, line, ...) \
	conf_errors_add((l)->errors, (l)->file, (line), __VA_ARGS__)
#define WARN(l, line, ...) \
	conf_errors_warn((l)->errors, (l)->file, (line), __VA_ARGS__)

/* Where each field came from. */

static void
origin_add(struct load *l, const void *field, unsigned line)
{
	struct conf *c = l->conf;

	c->origin = mem_more(c->origin, c->origin_n, sizeof(*c->origin));
	c->origin[c->origin_n++] = (struct conf_origin){ field, line };
}

static int
compare_origins(const void *a, const void *b)
{
	const char *x = ((const struct conf_origin *)a)->field;
	const char *y = ((const struct conf_origin *)b)->field;

	return x < y ? -1 : x > y;
}

unsigned
conf_line(const struct conf *c, const void *field)
{
	struct conf_origin key = { .field = field }, *found = NULL;

	if (c->origin_n > 0)
		found = bsearch(&key, c->origin, c->origin_n,
				sizeof(*c->origin), compare_origins);
	return found == NULL ? 0 : found->line;
}

/* Whether `text` is one of the words between blanks in `list`. */
static bool
is_listed(const char *list, const char *text)
{
	while (*list != '\0') {
		size_t n = strcspn(list, " ");

		if (strlen(text) == n && strncasecmp(list, text, n) == 0)
			return true;
		list += n + strspn(list + n, " ");
	}
	return false;
}

/* The one place that knows what is named but not built: column `later`. */
static bool
is_for_later(const struct conf_row *row, void *object, const char *text)
{
	if (row->later == NULL)
		return false;
	if (strcmp(row->later, "*") != 0)
		return is_listed(row->later, text);
	return row->type == T_NOWHERE || !conf_set_is_zero(row, object);
}

static void
free_secret(char *s)
{
	if (s != NULL)
		explicit_bzero(s, strlen(s));
	free(s);
}

/* A secret, or a url that may hold one, is not repeated in a message. */
static void
quote(char out[QUOTE_MAX + 8], const struct conf_row *row, const char *raw)
{
	out[0] = '\0';
	if (!row->secret)
		snprintf(out, QUOTE_MAX + 8, " = %.*s%s", QUOTE_MAX, raw,
			 strlen(raw) > QUOTE_MAX ? "..." : "");
}

static bool
is_literal_secret(const struct conf_row *row, const struct ini_entry *e,
		  const void *object)
{
	if (!row->secret || strncmp(e->value, "@/", 2) == 0 ||
	    strstr(e->value, "${") != NULL)
		return false;
	if (row->type == T_URL)
		return ((const struct conf_redis *)object)->password != NULL;
	return !conf_check_is_verifier(e->value);
}

static void
set_key(struct load *l, const struct conf_row *row, void *object,
	const struct ini_entry *e)
{
	char why[VALUE_WHY_MAX], want[CONF_EXPECTED_MAX], was[QUOTE_MAX + 8];
	size_t listen_n = l->conf->listen_n;
	char *text;

	quote(was, row, e->value);
	if (row->type != T_LISTEN && row->type != T_NOWHERE)
		origin_add(l, conf_set_field(row, object), e->line);
	if ((text = value_expand(e->value, why)) == NULL) {
		ERROR(l, e->line, "%s: %s", row->name, why);
		return;
	}
	if (conf_set(l->conf, row, object, text) == -1) {
		conf_keys_expected(row, want);
		ERROR(l, e->line, "%s%s: expected %s", row->name, was, want);
	} else if (is_for_later(row, object, text)) {
		ERROR(l, e->line, "%s%s is not supported yet, expected %s",
		      row->name, was, row->def ? row->def : "no such line");
	} else if (l->literal_secret == 0 &&
		   is_literal_secret(row, e, object)) {
		l->literal_secret = e->line;
	}
	while (listen_n < l->conf->listen_n)
		l->conf->listen[listen_n++].line = e->line;
	free_secret(text);
}

static void
set_default(struct load *l, const struct conf_row *row, void *object)
{
	int rc;

	if (row->def == NULL)
		return;
	rc = conf_set(l->conf, row, object, row->def);
	assert(rc == 0);
	(void)rc;
}

/* NAME = template, in [variables] or behind var. in an organization. */
static void
set_variable(struct load *l, struct tenant_var **var, size_t *n,
	     const char *name, const struct ini_entry *e)
{
	char why[VALUE_WHY_MAX], *text, *sample;

	if (!conf_tenant_is_var(name)) {
		ERROR(l, e->line,
		      "%.80s: expected a setting's name like "
		      "app.current_organization_id",
		      e->key);
		return;
	}
	if ((text = value_expand(e->value, why)) == NULL) {
		ERROR(l, e->line, "%s: %s", e->key, why);
		return;
	}
	if ((sample = tenant_expand(text, NULL, NULL, NULL)) == NULL)
		ERROR(l, e->line,
		      "%s = %.80s: expected a template of text, "
		      "%%{organization.id}, %%{organization.slug}, %%{user}, "
		      "%%{jwt.CLAIM} and %%%%",
		      e->key, e->value);
	free(sample);
	conf_tenant_add_var(var, n, name, text);
}

static void
set_entry(struct load *l, enum conf_kind kind, void *object,
	  const struct ini_section *s, const struct ini_entry *e)
{
	const struct conf_row *row = conf_keys_find(kind, e->key);
	char want[CONF_EXPECTED_MAX];

	if (kind == KIND_VARIABLES) {
		set_variable(l, &l->conf->variables, &l->conf->variables_n,
			     e->key, e);
	} else if (kind == KIND_ORGANIZATION &&
		   strncmp(e->key, "var.", 4) == 0) {
		struct tenant *t = object;

		set_variable(l, &t->var, &t->var_n, e->key + 4, e);
	} else if (row != NULL) {
		set_key(l, row, object, e);
	} else {
		conf_keys_names(kind, want);
		ERROR(l, e->line, "%.80s: unknown key in [%.80s], expected %s",
		      e->key, s->name, want);
	}
}

/* A section behind its word; false, and an error, if it is none of ours. */
static bool
classify(struct load *l, struct ini_section *s, enum conf_kind *kind,
	 const char **name)
{
	size_t n = strcspn(s->name, " \t");
	const struct conf_kind_row *k;

	*name = s->name + n + strspn(s->name + n, " \t");
	*kind = conf_keys_kind_find(s->name, n);
	if (*kind == KIND_MAX) {
		char want[CONF_EXPECTED_MAX] = "";

		for (unsigned i = 0; i < KIND_MAX; i++)
			strcat(strcat(want, i ? ", " : ""),
			       conf_keys_kind((enum conf_kind)i)->word);
		ERROR(l, s->line,
		      "[%.80s]: unknown section, expected one of %s", s->name,
		      want);
		return false;
	}
	k = conf_keys_kind(*kind);
	if (k->argument == NULL && **name != '\0') {
		ERROR(l, s->line, "[%.80s]: expected [%s]", s->name, k->word);
		return false;
	}
	if (k->argument != NULL && !k->name_ok(*name)) {
		ERROR(l, s->line, "[%.80s]: expected [%s %s], %s of %s",
		      s->name, k->word, k->argument, k->argument,
		      k->name_expected);
		return false;
	}
	return true;
}

static int
by_name(const void *a, const void *b)
{
	const struct part *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order ? order : (x->s->line < y->s->line ? -1 : 1);
}

static int
by_line(const void *a, const void *b)
{
	const struct part *x = a, *y = b;

	return x->s->line < y->s->line ? -1 : 1;
}

/* Sorts the sections of a kind and drops what is there a second time. */
static void
sort_parts(struct load *l, enum conf_kind kind)
{
	struct part *p = l->part[kind];
	size_t n = l->part_n[kind], kept = 0;

	if (n < 2)
		return;
	qsort(p, n, sizeof(*p), by_name);
	for (size_t i = 0; i < n; i++) {
		if (kept > 0 && strcmp(p[kept - 1].name, p[i].name) == 0)
			ERROR(l, p[i].s->line,
			      "[%.80s]: a second time, expected only that of "
			      "line %u",
			      p[i].s->name, p[kept - 1].s->line);
		else
			p[kept++] = p[i];
	}
	l->part_n[kind] = kept;
	if (!conf_keys_kind(kind)->sorted)
		qsort(p, kept, sizeof(*p), by_line);
}

static void
sort_sections(struct load *l)
{
	for (size_t i = 0; i < l->ini.n; i++) {
		struct ini_section *s = &l->ini.section[i];
		struct part part = { .s = s };
		enum conf_kind kind;

		if (s->name == NULL || !classify(l, s, &kind, &part.name))
			continue;
		l->part[kind] =
		    mem_more(l->part[kind], l->part_n[kind], sizeof(part));
		l->part[kind][l->part_n[kind]++] = part;
	}
	for (unsigned i = 0; i < KIND_MAX; i++)
		sort_parts(l, (enum conf_kind)i);
}

/* The arrays, with their names in, so that anything can refer to anything. */
static void
make_objects(struct load *l, enum conf_kind kind)
{
	const struct conf_kind_row *k = conf_keys_kind(kind);
	size_t n = l->part_n[kind];
	char *array;

	if (k->size == 0)
		return;
	array = mem_zero(n, k->size, "a list of sections");
	for (size_t i = 0; i < n; i++) {
		char *name = mem_text(l->part[kind][i].name,
				      strlen(l->part[kind][i].name));

		memcpy(array + i * k->size, &name, sizeof(name));
		origin_add(l, array + i * k->size, l->part[kind][i].s->line);
	}
	memcpy((char *)l->conf + k->array, &array, sizeof(array));
	memcpy((char *)l->conf + k->count, &n, sizeof(n));
}

/* How often a kind is filled in: one without an argument once, even if absent. */
static size_t
fill_count(const struct load *l, enum conf_kind kind)
{
	bool alone = conf_keys_kind(kind)->argument == NULL;

	return alone ? 1 : l->part_n[kind];
}

static void
fill_object(struct load *l, enum conf_kind kind, size_t i)
{
	void *object = conf_keys_object(l->conf, kind, i);
	const struct conf_row *row = NULL;
	const struct ini_section *s;

	while ((row = conf_keys_next(kind, row)) != NULL)
		set_default(l, row, object);
	if (i >= l->part_n[kind])
		return;
	s = l->part[kind][i].s;
	for (size_t e = 0; e < s->n; e++)
		set_entry(l, kind, object, s, &s->entry[e]);
	if (conf_keys_kind(kind)->later)
		ERROR(l, s->line,
		      "[%.80s] is not supported yet, expected no such section",
		      s->name);
}

static void
number_upstreams(struct conf *c)
{
	for (size_t i = 0; i < c->postgres_n; i++)
		c->postgres[i].index = (unsigned)i;
	for (size_t i = 0; i < c->redis_n; i++)
		c->redis[i].index = (unsigned)i;
}

/* Processors this process may run on, which a container may have limited. */
static unsigned
processors(void)
{
	cpu_set_t set;
	int n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = CPU_COUNT(&set);
	if (n < 1)
		n = 1;
	return n > CONF_WORKERS_MAX ? CONF_WORKERS_MAX : (unsigned)n;
}

static void
build(struct load *l)
{
	struct conf *c = l->conf;

	sort_sections(l);
	for (unsigned kind = 0; kind < KIND_MAX; kind++)
		make_objects(l, (enum conf_kind)kind);
	number_upstreams(c);
	for (unsigned kind = 0; kind < KIND_MAX; kind++)
		for (size_t i = 0; i < fill_count(l, (enum conf_kind)kind); i++)
			fill_object(l, (enum conf_kind)kind, i);
	if (c->origin_n > 0)
		qsort(c->origin, c->origin_n, sizeof(*c->origin),
		      compare_origins);
	conf_check(c, l->errors);
	if (l->literal_secret != 0 && (l->ini.mode & S_IROTH) != 0)
		WARN(l, l->literal_secret,
		     "a secret in a file that any user may read, expected "
		     "mode 0600, ${NAME} or @/file");
	if (c->workers == 0)
		c->workers = processors();
}

struct conf *
conf_load(const char *file, struct conf_errors *errors)
{
	struct load l = { .errors = errors, .file = file };

	*errors = (struct conf_errors){ 0 };
	l.conf = mem_zero(1, sizeof(*l.conf), "the configuration");
	l.conf->file = mem_text(file, strlen(file));
	if (ini_load(&l.ini, file, errors) == 0)
		build(&l);
	for (unsigned kind = 0; kind < KIND_MAX; kind++)
		free(l.part[kind]);
	ini_free(&l.ini);
	if (errors->n > 0)
		conf_free(&l.conf);
	return l.conf;
}

static void
free_objects(struct conf *c, enum conf_kind kind)
{
	const struct conf_kind_row *k = conf_keys_kind(kind);
	size_t n = conf_keys_object_count(c, kind);

	for (size_t i = 0; i < n; i++) {
		void *object = conf_keys_object(c, kind, i);
		const struct conf_row *row = NULL;

		while ((row = conf_keys_next(kind, row)) != NULL)
			conf_set_free(row, object);
		if (k->size != 0)
			free(*(char **)object); /* its name */
	}
	if (k->size != 0)
		free(conf_keys_object(c, kind, 0));
}

void
conf_free(struct conf **conf)
{
	struct conf *c = *conf;

	if (c == NULL)
		return;
	for (size_t i = 0; i < c->tenant_n; i++)
		conf_tenant_free_vars(c->tenant[i].var, c->tenant[i].var_n);
	for (size_t i = 0; i < c->user_n; i++)
		free(c->user[i].verifier);
	for (size_t i = 0; i < c->batch_n; i++) {
		row_text_free(&c->batch[i].channel);
		row_text_free(&c->batch[i].message);
	}
	conf_users_free(c);
	jwt_key_free(&c->jwt.public_key);
	for (unsigned kind = 0; kind < KIND_MAX; kind++)
		free_objects(c, (enum conf_kind)kind);
	conf_tenant_free_vars(c->variables, c->variables_n);
	free(c->tenant_by_id);
	for (size_t i = 0; i < c->listen_n; i++)
		free(c->listen[i].text);
	free(c->listen);
	free(c->origin);
	free(c->file);
	free(c);
	*conf = NULL;
}

static int
compare_names(const void *name, const void *user)
{
	return strcmp(*(const char *const *)name,
		      ((const struct conf_user *)user)->name);
}

const struct conf_user *
conf_user_find(const struct conf *c, const char *name)
{
	const struct conf_user *u = conf_keys_object_find(c, KIND_USER, name);

	if (u == NULL && c->listed_n > 0)
		u = bsearch(&name, c->listed, c->listed_n, sizeof(*c->listed),
			    compare_names);
	return u;
}

const struct conf_database *
conf_database_find(const struct conf *c, const char *name)
{
	const struct conf_database *d;

	d = conf_keys_object_find(c, KIND_DATABASE, name);
	return d ? d : conf_keys_object_find(c, KIND_DATABASE, "*");
}

const struct tenant *
conf_tenant_find(const struct conf *c, const char *slug)
{
	return conf_keys_object_find(c, KIND_ORGANIZATION, slug);
}

const struct tenant *
conf_tenant_find_id(const struct conf *c, const char *id)
{
	size_t from = 0, to = c->tenant_n;

	while (from < to) {
		size_t middle = from + (to - from) / 2;
		int order = strcmp(id, c->tenant_by_id[middle]->id);

		if (order == 0)
			return c->tenant_by_id[middle];
		if (order < 0)
			to = middle;
		else
			from = middle + 1;
	}
	return NULL;
}

const struct conf_postgres *
conf_postgres_find(const struct conf *c, const char *name)
{
	return conf_keys_object_find(c, KIND_POSTGRES, name);
}

const struct conf_redis *
conf_redis_find(const struct conf *c, const char *name)
{
	return conf_keys_object_find(c, KIND_REDIS, name);
}

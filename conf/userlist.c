#include "conf/userlist.h"

#include <string.h>

#include "conf/conf.h"
#include "conf/file.h"
#include "conf/mem.h"

/* What is left of a line. */
struct rest {
	const char *p;
	size_t n;
};

static void
skip_blanks(struct rest *r)
{
	while (r->n > 0 && (*r->p == ' ' || *r->p == '\t' || *r->p == '\r')) {
		r->p++;
		r->n--;
	}
}

static void
free_text(char *text)
{
	if (text != NULL)
		explicit_bzero(text, strlen(text));
	free(text);
}

/* "text", a quote in it written twice; NULL: it is not that. */
static char *
quoted_next(struct rest *r)
{
	char *out;
	size_t n = 0;

	if (r->n == 0 || *r->p != '"')
		return NULL;
	out = mem_zero(r->n + 1, 1, "a text");
	for (size_t i = 1; i < r->n; i++) {
		if (r->p[i] == '"' && (i + 1 == r->n || r->p[i + 1] != '"')) {
			r->p += i + 1;
			r->n -= i + 1;
			return out;
		}
		i += r->p[i] == '"';
		out[n++] = r->p[i];
	}
	free_text(out);
	return NULL;
}

/* What is wrong with a line, or NULL: the entry is in the list. */
static const char *
read_entry(struct userlist *u, struct rest r, unsigned line)
{
	char *name = NULL, *secret = NULL;

	name = quoted_next(&r);
	skip_blanks(&r);
	if (name != NULL)
		secret = quoted_next(&r);
	if (secret == NULL || name[0] == '\0' ||
	    strlen(name) > USERLIST_NAME_MAX) {
		const char *why = secret == NULL
				      ? "expected a comment or \"NAME\" "
					"\"SECRET\""
				      : "expected a name of 1 to 63 bytes";

		free(name);
		free_text(secret);
		return why;
	}
	u->entry = mem_more(u->entry, u->n, sizeof(*u->entry));
	u->entry[u->n++] = (struct userlist_entry){ name, secret, line };
	return NULL;
}

static const char *
read_line(struct userlist *u, const char *p, size_t n, unsigned line)
{
	struct rest r = { p, n };

	if (memchr(p, '\0', n) != NULL)
		return "a NUL byte, expected text";
	skip_blanks(&r);
	if (r.n == 0 || *r.p == ';' || *r.p == '#')
		return NULL;
	return read_entry(u, r, line);
}

static int
by_name(const void *a, const void *b)
{
	const struct userlist_entry *x = a, *y = b;
	int order = strcmp(x->name, y->name);

	return order ? order : (x->line > y->line) - (x->line < y->line);
}

/* Whose secret counts must not depend on the order of lines. */
static void
drop_repeated(struct userlist *u, const char *file, struct conf_errors *errors)
{
	size_t kept = 0;

	if (u->n > 0)
		qsort(u->entry, u->n, sizeof(*u->entry), by_name);
	for (size_t i = 0; i < u->n; i++) {
		struct userlist_entry *e = &u->entry[i];
		struct userlist_entry *last =
		    kept > 0 ? &u->entry[kept - 1] : NULL;

		if (last == NULL || strcmp(last->name, e->name) != 0) {
			u->entry[kept++] = *e;
			continue;
		}
		conf_errors_add(errors, file, e->line,
				"\"%.80s\" a second time, expected only that "
				"of line %u",
				e->name, last->line);
		free(e->name);
		free_text(e->secret);
	}
	u->n = kept;
}

void
userlist_read(struct userlist *u, const char *file, const char *bytes, size_t n,
	      struct conf_errors *errors)
{
	const char *p = bytes, *end = bytes + n;
	unsigned line = 0;

	*u = (struct userlist){ 0 };
	while (p < end) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		const char *why =
		    read_line(u, p, (size_t)((eol ? eol : end) - p), ++line);

		if (why != NULL)
			conf_errors_add(errors, file, line, "%s", why);
		p = eol ? eol + 1 : end;
	}
	drop_repeated(u, file, errors);
}

int
userlist_load(struct userlist *u, const char *file, struct conf_errors *errors,
	      const char **why)
{
	mode_t mode;
	size_t n;
	char *bytes = file_read(file, CONF_FILE_MAX, &n, &mode, why);

	*u = (struct userlist){ 0 };
	if (bytes == NULL)
		return -1;
	userlist_read(u, file, bytes, n, errors);
	u->mode = mode;
	file_free(bytes, n);
	return 0;
}

void
userlist_free(struct userlist *u)
{
	for (size_t i = 0; i < u->n; i++) {
		free(u->entry[i].name);
		free_text(u->entry[i].secret);
	}
	free(u->entry);
	*u = (struct userlist){ 0 };
}

static int
compare_name(const void *name, const void *entry)
{
	return strcmp(name, ((const struct userlist_entry *)entry)->name);
}

const struct userlist_entry *
userlist_find(const struct userlist *u, const char *name)
{
	if (u->n == 0)
		return NULL;
	return bsearch(name, u->entry, u->n, sizeof(*u->entry), compare_name);
}

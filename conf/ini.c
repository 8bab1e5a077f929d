#include "conf/ini.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "conf/conf.h"
#include "conf/file.h"
#include "conf/mem.h"

struct reader {
	struct ini *ini;
	const char *file;
	struct conf_errors *errors;
	unsigned line;
};

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

/* p[0..n) without the blanks around it; the new start, n adjusted. */
static const char *
trim(const char *p, size_t *n)
{
	while (*n > 0 && is_blank(*p)) {
		p++;
		(*n)--;
	}
	while (*n > 0 && is_blank(p[*n - 1]))
		(*n)--;
	return p;
}

static struct ini_section *
add_section(struct reader *r, char *name)
{
	struct ini *ini = r->ini;
	struct ini_section *s;

	ini->section = mem_more(ini->section, ini->n, sizeof(*ini->section));
	s = &ini->section[ini->n++];
	*s = (struct ini_section){ .line = r->line, .name = name };
	return s;
}

/*
 * A malformed header still begins a section, a nameless one: its keys must
 * not be taken for keys of the section before.
 */
static void
read_header(struct reader *r, const char *p, size_t n)
{
	const char *close = memchr(p, ']', n);

	if (close != p + n - 1) {
		conf_errors_add(
		    r->errors, r->file, r->line,
		    "section: expected [NAME] and nothing after it");
		add_section(r, NULL);
		return;
	}
	n -= 2;
	p = trim(p + 1, &n);
	add_section(r, mem_text(p, n));
}

/* The line is not quoted in the errors: half of a secret may stand in it. */
static void
read_entry(struct reader *r, const char *p, size_t n)
{
	struct ini_section *s;
	size_t key_n = 0, value_n;
	const char *value;

	while (key_n < n && p[key_n] != '=' && p[key_n] != ':')
		key_n++;
	if (key_n == n || key_n == 0) {
		conf_errors_add(r->errors, r->file, r->line,
				"expected a comment, [SECTION] or KEY = VALUE");
		return;
	}
	if (r->ini->n == 0) {
		conf_errors_add(
		    r->errors, r->file, r->line,
		    "a key before any section, expected [weir] above it");
		add_section(r, NULL);
	}
	value = p + key_n + 1;
	value_n = n - key_n - 1;
	value = trim(value, &value_n);
	p = trim(p, &key_n);
	s = &r->ini->section[r->ini->n - 1];
	s->entry = mem_more(s->entry, s->n, sizeof(*s->entry));
	s->entry[s->n++] = (struct ini_entry){
		.line = r->line,
		.key = mem_text(p, key_n),
		.value = mem_text(value, value_n),
	};
}

static void
read_line(struct reader *r, const char *p, size_t n)
{
	if (n > CONF_LINE_MAX) {
		conf_errors_add(r->errors, r->file, r->line,
				"a line of %zu bytes, expected at most %d", n,
				CONF_LINE_MAX);
		return;
	}
	if (memchr(p, '\0', n) != NULL) {
		conf_errors_add(r->errors, r->file, r->line,
				"a NUL byte, expected text");
		return;
	}
	p = trim(p, &n);
	if (n == 0 || *p == ';' || *p == '#')
		return;
	if (*p == '[')
		read_header(r, p, n);
	else
		read_entry(r, p, n);
}

static int
by_key(const void *a, const void *b)
{
	const struct ini_entry *x = *(const struct ini_entry *const *)a;
	const struct ini_entry *y = *(const struct ini_entry *const *)b;
	int order = strcasecmp(x->key, y->key);

	return order ? order : (x->line < y->line ? -1 : x->line > y->line);
}

static void
free_entry(struct ini_entry *e)
{
	free(e->key);
	explicit_bzero(e->value, strlen(e->value));
	free(e->value);
	*e = (struct ini_entry){ 0 };
}

/*
 * A key set twice is a mistake, in whatever case: names of variables know
 * none.  The first stays, so that it is checked like any other.
 */
static void
drop_repeated(struct reader *r, struct ini_section *s)
{
	struct ini_entry **e = mem_zero(s->n, sizeof(*e), "a list of keys");
	struct ini_entry *first = NULL;
	size_t kept = 0;

	for (size_t i = 0; i < s->n; i++)
		e[i] = &s->entry[i];
	qsort(e, s->n, sizeof(*e), by_key);
	for (size_t i = 0; i < s->n; i++) {
		if (first == NULL || strcasecmp(first->key, e[i]->key) != 0) {
			first = e[i];
			continue;
		}
		conf_errors_add(r->errors, r->file, e[i]->line,
				"%.80s: a second time, expected only that of "
				"line %u",
				e[i]->key, first->line);
		free_entry(e[i]);
	}
	free(e);
	for (size_t i = 0; i < s->n; i++)
		if (s->entry[i].key != NULL)
			s->entry[kept++] = s->entry[i];
	s->n = kept;
}

void
ini_read(struct ini *ini, const char *file, const char *bytes, size_t n,
	 struct conf_errors *errors)
{
	struct reader r = { .ini = ini, .file = file, .errors = errors };
	const char *p = bytes, *end = bytes + n;

	*ini = (struct ini){ 0 };
	if (n >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
		p += 3; /* some editors begin UTF-8 with a mark */
	while (p < end) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		const char *next = eol ? eol + 1 : end;

		r.line++;
		read_line(&r, p, (size_t)((eol ? eol : end) - p));
		p = next;
	}
	for (size_t i = 0; i < ini->n; i++)
		drop_repeated(&r, &ini->section[i]);
}

int
ini_load(struct ini *ini, const char *file, struct conf_errors *errors)
{
	const char *why;
	mode_t mode;
	size_t n;
	char *bytes = file_read(file, CONF_FILE_MAX, &n, &mode, &why);

	*ini = (struct ini){ 0 };
	if (bytes == NULL) {
		conf_errors_add(errors, file, 0,
				"cannot be read: %s, expected a configuration "
				"file of at most %d bytes",
				why, CONF_FILE_MAX);
		return -1;
	}
	ini_read(ini, file, bytes, n, errors);
	ini->mode = mode;
	file_free(bytes, n);
	return 0;
}

void
ini_free(struct ini *ini)
{
	for (size_t i = 0; i < ini->n; i++) {
		struct ini_section *s = &ini->section[i];

		for (size_t k = 0; k < s->n; k++)
			free_entry(&s->entry[k]);
		free(s->entry);
		free(s->name);
	}
	free(ini->section);
	*ini = (struct ini){ 0 };
}

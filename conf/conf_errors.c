#include "conf/conf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "conf/mem.h"

enum { MESSAGE_MAX = 1024 };

static char *message(const char *file, unsigned line, const char *fmt, va_list)
    __attribute__((format(printf, 3, 0)));

/*
 * `file:line: text`.  Control characters of the file are not passed on to
 * the reader's terminal.
 */
static char *
message(const char *file, unsigned line, const char *fmt, va_list ap)
{
	char text[MESSAGE_MAX], where[32] = "";
	size_t n;
	char *out;

	if (vsnprintf(text, sizeof(text), fmt, ap) >= (int)sizeof(text))
		memcpy(text + sizeof(text) - 4, "...", 4);
	if (line > 0)
		snprintf(where, sizeof(where), "%u:", line);
	n = strlen(file) + strlen(where) + strlen(text) + 3;
	out = mem_zero(n, 1, "an error");
	snprintf(out, n, "%s:%s %s", file, where, text);
	for (char *p = out; *p != '\0'; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	return out;
}

/*
 * The file is checked in several passes, so a message may belong before those
 * that are there.  Of the same line, who came first stays first.
 */
static void
insert(char ***list, unsigned **at, size_t *n, unsigned line, char *text)
{
	unsigned key = line ? line : UINT32_MAX;
	size_t i;

	*list = mem_more(*list, *n, sizeof(**list));
	*at = mem_more(*at, *n, sizeof(**at));
	for (i = *n; i > 0 && (*at)[i - 1] > key; i--) {
		(*list)[i] = (*list)[i - 1];
		(*at)[i] = (*at)[i - 1];
	}
	(*list)[i] = text;
	(*at)[i] = key;
	(*n)++;
}

void
conf_errors_add(struct conf_errors *e, const char *file, unsigned line,
		const char *fmt, ...)
{
	va_list ap;

	if (e->n >= CONF_ERRORS_MAX) {
		e->more++;
		return;
	}
	va_start(ap, fmt);
	insert(&e->line, &e->line_at, &e->n, line,
	       message(file, line, fmt, ap));
	va_end(ap);
}

void
conf_errors_warn(struct conf_errors *e, const char *file, unsigned line,
		 const char *fmt, ...)
{
	va_list ap;

	if (e->warning_n >= CONF_ERRORS_MAX)
		return;
	va_start(ap, fmt);
	insert(&e->warning, &e->warning_at, &e->warning_n, line,
	       message(file, line, fmt, ap));
	va_end(ap);
}

void
conf_errors_free(struct conf_errors *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->line[i]);
	for (size_t i = 0; i < e->warning_n; i++)
		free(e->warning[i]);
	free(e->line);
	free(e->line_at);
	free(e->warning);
	free(e->warning_at);
	*e = (struct conf_errors){ 0 };
}

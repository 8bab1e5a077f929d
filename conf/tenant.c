#include "conf/tenant.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "conf/mem.h"

enum fact { FACT_ID, FACT_SLUG, FACT_USER, FACT_MAX };

static const char *const facts[FACT_MAX] = {
	[FACT_ID] = "{organization.id}",
	[FACT_SLUG] = "{organization.slug}",
	[FACT_USER] = "{user}",
};

/* The fact named at p, which stands behind a %; FACT_MAX: none of them. */
static enum fact
fact_at(const char *p)
{
	unsigned i;

	for (i = 0; i < FACT_MAX; i++)
		if (strncmp(p, facts[i], strlen(facts[i])) == 0)
			break;
	return (enum fact)i;
}

/* NULL when it is a fact of an organization and there is none. */
static const char *
fact_value(enum fact fact, const struct tenant *t, const char *user)
{
	if (fact == FACT_USER)
		return user ? user : "";
	if (t == NULL)
		return NULL;
	return fact == FACT_ID ? t->id : t->slug;
}

/*
 * The whole template is read even when the answer is "" already: whether it is
 * malformed must not depend on who asks.
 */
char *
tenant_expand(const char *template, const struct tenant *t, const char *user)
{
	bool empty = false, ok = true;
	char *out = NULL;
	size_t out_n;
	FILE *f = mem_or_abort(open_memstream(&out, &out_n), 1, "a template");

	for (const char *p = template; ok && *p != '\0';) {
		const char *value;
		enum fact fact;

		if (*p != '%' || p[1] == '%') {
			fputc(*p, f);
			p += *p == '%' ? 2 : 1;
			continue;
		}
		if ((fact = fact_at(p + 1)) == FACT_MAX) {
			ok = false;
			break;
		}
		value = fact_value(fact, t, user);
		if (value == NULL)
			empty = true;
		else
			fputs(value, f);
		p += 1 + strlen(facts[fact]);
	}
	fclose(f);
	mem_or_abort(out, out_n, "a template");
	if (!ok) {
		free(out);
		return NULL;
	}
	if (empty)
		out[0] = '\0';
	return out;
}

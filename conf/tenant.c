#include "conf/tenant.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/jwt.h"

#define JWT "{jwt."

enum fact { FACT_ID, FACT_SLUG, FACT_USER, FACT_JWT, FACT_MAX };

static const char *const facts[FACT_JWT] = {
	[FACT_ID] = "{organization.id}",
	[FACT_SLUG] = "{organization.slug}",
	[FACT_USER] = "{user}",
};

/* Who is asked for facts. */
struct about {
	const struct tenant *tenant;
	const char *user;
	const struct jwt *jwt;
};

/* The fact named at p, which stands behind a %, and how long that name is;
 * FACT_MAX: none of them. */
static enum fact
fact_at(const char *p, size_t *n)
{
	size_t prefix = strlen(JWT);
	unsigned i;

	if (strncmp(p, JWT, prefix) == 0) {
		*n = strcspn(p, "}") + 1;
		return p[*n - 1] == '}' && *n > prefix + 1 ? FACT_JWT
							   : FACT_MAX;
	}
	for (i = 0; i < FACT_JWT; i++) {
		*n = strlen(facts[i]);
		if (strncmp(p, facts[i], *n) == 0)
			return (enum fact)i;
	}
	return FACT_MAX;
}

/* In memory the caller frees; NULL: there is no such fact. */
static char *
claim_value(const struct jwt *jwt, const char *p, size_t n)
{
	char *name = mem_text(p + strlen(JWT), n - strlen(JWT) - 1);
	char *value = jwt ? jwt_text(jwt, name) : NULL;

	free(name);
	return value;
}

static char *
fact_value(enum fact fact, const struct about *a, const char *p, size_t n)
{
	const char *value;

	if (fact == FACT_JWT)
		return claim_value(a->jwt, p, n);
	if (fact == FACT_USER)
		value = a->user ? a->user : "";
	else if (a->tenant == NULL)
		return NULL;
	else
		value = fact == FACT_ID ? a->tenant->id : a->tenant->slug;
	return mem_text(value, strlen(value));
}

/*
 * The whole template is read even when the answer is "" already: whether it is
 * malformed must not depend on who asks.
 */
char *
tenant_expand(const char *template, const struct tenant *t, const char *user,
	      const struct jwt *jwt)
{
	const struct about about = { t, user, jwt };
	bool empty = false, ok = true;
	char *out = NULL;
	size_t out_n;
	FILE *f = mem_or_abort(open_memstream(&out, &out_n), 1, "a template");

	for (const char *p = template; ok && *p != '\0';) {
		enum fact fact;
		char *value;
		size_t n;

		if (*p != '%' || p[1] == '%') {
			fputc(*p, f);
			p += *p == '%' ? 2 : 1;
			continue;
		}
		if ((fact = fact_at(p + 1, &n)) == FACT_MAX) {
			ok = false;
			break;
		}
		value = fact_value(fact, &about, p + 1, n);
		if (value == NULL)
			empty = true;
		else
			fputs(value, f);
		free(value);
		p += 1 + n;
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

#include "proxy/secrets.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "protocol/secret.h"

enum { PASSWORD_MAX = 1023 };

/* Roles that may log in now.  `pg_catalog`, whatever the role's search_path. */
#define DEFAULT_QUERY                                                  \
	"SELECT a.rolname, a.rolpassword FROM pg_catalog.pg_authid a"  \
	" WHERE a.rolname OPERATOR(pg_catalog.=) $1 AND a.rolcanlogin" \
	" AND (a.rolvaliduntil IS NULL"                                \
	" OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())"

/* ---- a secret --------------------------------------------------------- */

static void
secret_fill(struct secret *s, const char *text)
{
	static const char scram[] = "SCRAM-SHA-256$";

	if (text == NULL || text[0] == '\0' || strlen(text) > PASSWORD_MAX)
		return;
	if (strncmp(text, scram, sizeof(scram) - 1) == 0) {
		if ((s->verifier = malloc(sizeof(*s->verifier))) == NULL)
			abort();
		if (scram_verifier_parse(s->verifier, text) == 0)
			return;
		/* A verifier of no use is not to become a password. */
		free(s->verifier);
		s->verifier = NULL;
		return;
	}
	s->user.auth = pg_md5_is_stored(text) ? AUTH_MD5 : AUTH_SCRAM;
	s->user.password = mem_copy(text);
}

struct secret *
secret_new(const char *name, const char *text)
{
	struct secret *s = calloc(1, sizeof(*s));

	if (s == NULL)
		abort();
	atomic_init(&s->refs, 1);
	s->user.name = mem_copy(name);
	s->user.auth = AUTH_SCRAM;
	secret_fill(s, text);
	return s;
}

struct secret *
secret_ref(struct secret *s)
{
	unsigned before =
	    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);

	assert(before > 0);
	(void)before;
	return s;
}

void
secret_unref(struct secret **at)
{
	struct secret *s = *at;

	*at = NULL;
	if (s == NULL ||
	    atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (s->user.password != NULL)
		OPENSSL_cleanse(s->user.password, strlen(s->user.password));
	if (s->verifier != NULL)
		OPENSSL_cleanse(s->verifier, sizeof(*s->verifier));
	free(s->user.password);
	free(s->user.name);
	free(s->verifier);
	free(s);
}

/* ---- looking it up ---------------------------------------------------- */

static void
secret_source(struct lookup_source *s, const struct conf *c)
{
	const struct conf_auth_source *a = &c->auth;

	*s = (struct lookup_source){
		.upstream = a->postgres ? a->postgres->name : NULL,
		.dbname = a->dbname,
		.query = a->query ? a->query : DEFAULT_QUERY,
		.ttl_ms = a->ttl_ms,
		.negative_ttl_ms = a->negative_ttl_ms,
	};
}

static void *
secret_of_row(const struct conf *c, const struct control_ask *ask,
	      char why[CONTROL_ERROR_MAX])
{
	const char *name = ask->param[0];

	(void)c;
	if (ask->columns < 2) {
		snprintf(why, CONTROL_ERROR_MAX,
			 "one column, expected name and secret");
		return NULL;
	}
	if (ask->rows == 0)
		return secret_new(name, NULL);
	if (ask->value[0] == NULL || strcmp(ask->value[0], name) != 0) {
		snprintf(why, CONTROL_ERROR_MAX, "the row is of another name");
		return secret_new(name, NULL);
	}
	return secret_new(name, ask->value[1]);
}

static void *
nobody(const char *name)
{
	return secret_new(name, NULL);
}

static void *
ref(void *s)
{
	return secret_ref(s);
}

static void
unref(void *s)
{
	struct secret *secret = s;

	secret_unref(&secret);
}

static bool
is_nobody(const void *s)
{
	return secret_is_nobody(s);
}

const struct lookup_kind secrets_kind = {
	.ops = { .known = SECRETS_KNOWN,
		 .unknown = SECRETS_UNKNOWN,
		 .ref = ref,
		 .unref = unref,
		 .is_nobody = is_nobody },
	.event = LOG_EV_AUTH_QUERY,
	.key = "user",
	.source = secret_source,
	.value = secret_of_row,
	.nobody = nobody,
};

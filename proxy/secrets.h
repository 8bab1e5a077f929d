/*
 * secrets: the secret of a user who is not in the configuration, from the
 * database that [auth] names.
 *
 * An answer is good until its time is over and not a moment longer, even if no
 * new one can be had: a dropped role or a changed password must not work for
 * as long as somebody manages to keep that database away.
 *
 * Secrets:  wiped when the last one lets go.
 */
#ifndef PROXY_SECRETS_H
#define PROXY_SECRETS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "conf/conf.h"
#include "proxy/lookup.h"

enum {
	SECRETS_KNOWN = 20000,
	SECRETS_UNKNOWN = 2000,
	SECRET_NAME_MAX = 63		/* what PostgreSQL keeps of a name */
};

/* What is known of a user; or, without password and verifier, that nobody may
 * log in by this name. */
struct secret {
	_Atomic unsigned       refs;
	struct conf_user       user;	/* as if it stood in the configuration */
	struct scram_verifier *verifier; /* NULL, or instead of a password */
};

/* Its values are struct secret. */
extern const struct lookup_kind secrets_kind;

/* With one reference.  `text` as in pg_authid.rolpassword; NULL: nobody. */
struct secret *secret_new(const char *name, const char *text);
struct secret *secret_ref(struct secret *);
void	       secret_unref(struct secret **);	/* nulls the pointer */

static inline bool
secret_is_nobody(const struct secret *s)
{
	return s->user.password == NULL && s->verifier == NULL;
}

#endif

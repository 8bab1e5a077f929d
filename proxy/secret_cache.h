/*
 * secret_cache: the secrets of users that were asked for elsewhere, for a
 * while, and who waits for one that is being asked for.
 *
 * An answer is good until its time is over and not a moment longer, even if no
 * new one can be had: a dropped role or a changed password must not work for
 * as long as somebody manages to keep that database away.
 *
 * Owner:    the control thread.  Secrets are immutable and counted; who logged
 *           in by one may keep it.
 * Bounds:   SECRETS_KNOWN names that are users and SECRETS_UNKNOWN that are
 *           not, each with its own limit, so that inventing names drives no
 *           user out; the one used longest ago goes.  SECRETS_WAITING wait.
 * Secrets:  wiped when the last one lets go.
 */
#ifndef PROXY_SECRET_CACHE_H
#define PROXY_SECRET_CACHE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"

enum {
	SECRETS_KNOWN = 20000,
	SECRETS_UNKNOWN = 2000,
	SECRETS_WAITING = 20000,
	SECRET_NAME_MAX = 63		/* what PostgreSQL keeps of a name */
};

/* What is known of a user; or, without password and verifier, that nobody may
 * log in by this name. */
struct secret {
	_Atomic unsigned       refs;
	struct conf_user       user;	/* as if it stood in the configuration */
	struct scram_verifier *verifier; /* NULL, or instead of a password */
};

/* With one reference.  `text` as in pg_authid.rolpassword; NULL: nobody. */
struct secret *secret_new(const char *name, const char *text);
struct secret *secret_ref(struct secret *);
void	       secret_unref(struct secret **);	/* nulls the pointer */

static inline bool
secret_is_nobody(const struct secret *s)
{
	return s->user.password == NULL && s->verifier == NULL;
}

struct secret_waiter {		/* embedded in what waits */
	struct secret_waiter *next;
};

struct secret_cache;

struct secret_cache *secret_cache_open(void);
void		     secret_cache_close(struct secret_cache **);	/* nobody may wait */
/* Not counted, good until the next call; NULL: has to be asked for. */
struct secret *secret_cache_find(struct secret_cache *, const char *name, uint64_t now_ns);
/*
 * Waits for it.  1: as the first, who asks; 0: after others; -1: too many wait.
 */
int  secret_cache_wait(struct secret_cache *, const char *name, struct secret_waiter *)
    __attribute__((warn_unused_result));
/*
 * The answer has come: all who waited, in their order.  It is kept until
 * `until_ns`; NULL: there is none, and nothing is known of the name now.
 */
struct secret_waiter *secret_cache_put(struct secret_cache *, const char *name,
    struct secret *, uint64_t now_ns, uint64_t until_ns);
/* A new configuration: forgets all but who waits. */
void secret_cache_forget(struct secret_cache *);
/* The names being asked for, each once; NULL after the last.  Begins at NULL. */
const char *secret_cache_next(struct secret_cache *, const char *name);

#endif

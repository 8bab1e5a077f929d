/*
 * tenant: an organization: where it is routed, what it may use, and the
 * variables that say who it is.  A fact, read-only after load.
 *
 * Owner:    the struct conf it came with; or it is counted (refs), and came
 *           from the directory.  Who keeps one takes a reference, which costs
 *           nothing where it is the configuration's, and keeps that too.
 */
#ifndef CONF_TENANT_H
#define CONF_TENANT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conf_postgres;
struct conf_redis;
struct jwt;

struct tenant_var {
	char *name;		/* a setting's name: letters, digits, _ $ ., in lower case */
	char *value;		/* a template for tenant_expand() */
};

struct tenant_rate {		/* `1000/60s`; count 0 means no limit */
	uint64_t count;
	uint64_t period_ms;
};

/* What all tenants share that the directory gave for one slug, one after
 * another, so that clients of each hear of its end. */
struct tenant_life {
	_Atomic unsigned refs;
	_Atomic bool	 gone;
};

struct tenant {
	char			   *slug;
	char			   *id;		/* the slug where unset */
	const struct conf_postgres *postgres;	/* NULL: the database's */
	const struct conf_redis	   *redis;	/* NULL: the first upstream */
	char			   *postgres_name;	/* of the directory: the NAME, for the */
	char			   *redis_name;		/* reader's configuration; see route.h */
	char			   *dbname;		/* NULL: the database's */
	char			   *redis_user;
	char			   *redis_password;
	bool			    redis_shared;	/* others have its user there, or may have */
	unsigned		    pool_size;		/* servers at once; 0: no cap */
	unsigned		    max_client_conn;	/* 0: no cap */
	unsigned		    weight;		/* at least 1 */
	struct tenant_rate	    rate_queries;
	struct tenant_rate	    rate_connections;
	struct tenant_rate	    rate_operations;
	struct tenant_var	   *var;	/* own values, they win over [variables] */
	size_t			    var_n;
	/* Of the directory: */
	_Atomic unsigned	    refs;	/* 0: the configuration's */
	bool			    unusable;	/* with no id: there is one, but its row is no good */
	struct tenant_life	   *life;
};

/* conf_tenant.c; both take NULL, and those of a configuration. */
const struct tenant *tenant_ref(const struct tenant *);
void		     tenant_unref(const struct tenant **);	/* nulls the pointer */
/* The directory has given `now` for the slug, which nobody else has yet. */
void		     tenant_replaced(struct tenant *before, struct tenant *now);

/* The directory says that there is no such organization any more. */
static inline bool
tenant_is_gone(const struct tenant *t)
{
	return t != NULL && t->life != NULL &&
	    atomic_load_explicit(&t->life->gone, memory_order_relaxed);
}

/*
 * The template with %{organization.id}, %{organization.slug}, %{user} and
 * %{jwt.CLAIM} replaced (%% is a %), in memory the caller frees.  A template
 * that needs a fact there is not (no tenant; no token, or none with such a
 * claim of text, number or boolean) yields "".
 * NULL if the template is malformed or names something else (conf_load()
 * refuses those, so that a loaded template always expands).
 */
char *tenant_expand(const char *template, const struct tenant *,
    const char *user, const struct jwt *) __attribute__((warn_unused_result));

#endif

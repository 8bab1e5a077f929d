/*
 * tenant: an organization: where it is routed, what it may use, and the
 * variables that say who it is.  A fact, read-only after load.
 *
 * Owner:    the struct conf it came with.
 */
#ifndef CONF_TENANT_H
#define CONF_TENANT_H

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

struct tenant {
	char			   *slug;
	char			   *id;		/* the slug where unset */
	const struct conf_postgres *postgres;	/* NULL: the database's */
	const struct conf_redis	   *redis;	/* NULL: the first upstream */
	char			   *redis_user;
	char			   *redis_password;
	unsigned		    pool_size;		/* servers at once; 0: no cap */
	unsigned		    max_client_conn;	/* 0: no cap */
	unsigned		    weight;		/* at least 1 */
	struct tenant_rate	    rate_queries;
	struct tenant_rate	    rate_connections;
	struct tenant_rate	    rate_operations;
	struct tenant_var	   *var;	/* own values, they win over [variables] */
	size_t			    var_n;
};

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

#include "proxy/route.h"

#include <string.h>

#include "protocol/secret.h"

const struct conf_user *
route_user(const struct conf *c, const char *name, const char **slug)
{
	const struct conf_user *u = conf_user_find(c, name);
	const char *dot = strrchr(name, '.');
	char base[256];

	*slug = NULL;
	if (u != NULL || dot == NULL || (size_t)(dot - name) >= sizeof(base))
		return u;
	memcpy(base, name, (size_t)(dot - name));
	base[dot - name] = '\0';
	if ((u = conf_user_find(c, base)) != NULL)
		*slug = dot + 1;
	return u;
}

enum route_key
route_variable(const struct conf *c, const char *name)
{
	for (size_t i = 0; i < c->variables_n; i++) {
		if (strcasecmp(c->variables[i].name, name) != 0)
			continue;
		if (strcmp(c->variables[i].value, "%{organization.id}") == 0)
			return ROUTE_ID;
		if (strcmp(c->variables[i].value, "%{organization.slug}") == 0)
			return ROUTE_SLUG;
	}
	return ROUTE_NO_KEY;
}

static bool
is_service(const struct conf_user *user)
{
	return user->organization == NULL && user->organizations_n > 0;
}

const struct tenant *
route_choose(const struct conf *c, const struct conf_user *user,
	     enum route_key key, const char *value)
{
	const struct tenant *t = key == ROUTE_ID ? conf_tenant_find_id(c, value)
						 : conf_tenant_find(c, value);

	if (t == NULL || !is_service(user))
		return NULL;
	for (size_t i = 0; i < user->organizations_n; i++)
		if (strcmp(user->organizations[i], "*") == 0 ||
		    strcmp(user->organizations[i], t->slug) == 0)
			return t;
	return NULL;
}

/* One name more: is it that of the organization, or its first choice? */
static bool
agree(struct route *r, const struct conf *c, enum route_key key,
      const char *value)
{
	if (r->tenant == NULL && r->may_switch)
		return (r->tenant = route_choose(c, r->user, key, value)) !=
		       NULL;
	return r->tenant != NULL &&
	       strcmp(value,
		      key == ROUTE_ID ? r->tenant->id : r->tenant->slug) == 0;
}

/* acme of acme.<sni_domain>, as the organization spells it: names of hosts are
 * not case-sensitive.  False: it is nobody's. */
static bool
agree_on_host(struct route *r, const struct conf *c, struct slice name)
{
	const char *domain = c->tls.sni_domain;
	char slug[256];
	size_t n = domain ? strlen(domain) : 0;

	if (n == 0 || name.n <= n || name.n >= sizeof(slug))
		return true;
	memcpy(slug, name.p, name.n);
	slug[name.n] = '\0';
	if (slug[name.n - n - 1] != '.' ||
	    strcasecmp(slug + name.n - n, domain) != 0)
		return true;
	slug[name.n - n - 1] = '\0';
	if (r->tenant != NULL)
		return strcasecmp(slug, r->tenant->slug) == 0;
	return agree(r, c, ROUTE_SLUG, slug);
}

/* All names given must mean one organization, which the user may have. */
static bool
all_agree(struct route *r, const struct conf *c,
	  const struct route_names *names)
{
	for (size_t i = 0; i < 2; i++)
		if (names->slug[i] != NULL &&
		    !agree(r, c, ROUTE_SLUG, names->slug[i]))
			return false;
	for (size_t i = 0; i < names->claims; i++)
		if (!agree(r, c, names->claim[i].key, names->claim[i].value))
			return false;
	return agree_on_host(r, c, names->server_name);
}

static int
route_tenant(struct route *r, const struct conf *c,
	     const struct conf_user *user, const struct route_names *names,
	     enum why *w)
{
	const char *slug = names->signed_slug;

	*w = WHY_NO_TENANT;
	*r = (struct route){ .user = user, .tenant = user->organization };
	/* A token that names one locks as a fixed one does. */
	if (slug != NULL && r->tenant == NULL)
		r->tenant = is_service(user)
				? route_choose(c, user, ROUTE_SLUG, slug)
				: conf_tenant_find(c, slug);
	if (slug != NULL &&
	    (r->tenant == NULL || strcmp(slug, r->tenant->slug) != 0))
		return -1;
	r->may_switch = is_service(user) && slug == NULL;
	return all_agree(r, c, names) ? 0 : -1;
}

static const char *
plain_password(const struct conf_user *user)
{
	return user->password != NULL &&
		       strncmp(user->password, "SCRAM-SHA-256$", 14) != 0
		   ? user->password
		   : NULL;
}

/* Where the user and the organization of this route are sent. */
static int
find_upstream(struct route *r, const struct conf *c, const char *database,
	      enum why *w)
{
	const struct conf_database *d = conf_database_find(c, database);
	const struct conf_user *user = r->user;
	const struct conf_postgres *up;

	if (d == NULL) {
		*w = WHY_NO_DATABASE;
		return -1;
	}
	up = d->postgres;
	if (r->tenant != NULL && r->tenant->postgres != NULL)
		up = r->tenant->postgres;
	if (up == NULL) {
		*w = WHY_NO_UPSTREAM;
		return -1;
	}
	r->postgres = up;
	r->pool_mode = user->has_pool_mode ? user->pool_mode
		       : d->has_pool_mode  ? d->pool_mode
					   : up->pool_mode;
	r->dbname = d->dbname ? d->dbname : up->dbname ? up->dbname : database;
	r->upstream_user = up->user ? up->user : user->name;
	r->upstream_password = up->password ? up->password
			       : up->user   ? NULL
					    : plain_password(user);
	return 0;
}

int
route_postgres(struct route *r, const struct conf *c,
	       const struct conf_user *user, const struct route_names *names,
	       const char *database, enum why *w)
{
	if (route_tenant(r, c, user, names, w) != 0)
		return -1;
	return find_upstream(r, c, database, w);
}

int
route_switch(struct route *r, const struct conf *c,
	     const struct conf_user *user, const struct tenant *t,
	     const char *database, enum why *w)
{
	*r = (struct route){ .user = user, .tenant = t, .may_switch = true };
	return find_upstream(r, c, database, w);
}

int
route_redis(struct route *r, const struct conf *c, const struct conf_user *user,
	    const struct route_names *names, enum why *w)
{
	if (route_tenant(r, c, user, names, w) != 0)
		return -1;
	if (r->tenant != NULL && r->tenant->redis != NULL)
		r->redis = r->tenant->redis;
	else if (c->redis_n > 0)
		r->redis = &c->redis[0];
	if (r->redis == NULL) {
		*w = WHY_NO_UPSTREAM;
		return -1;
	}
	r->upstream_user = r->redis->user;
	r->upstream_password = r->redis->password;
	if (r->tenant != NULL && r->tenant->redis_user != NULL) {
		r->upstream_user = r->tenant->redis_user;
		r->upstream_password = r->tenant->redis_password;
	}
	return 0;
}

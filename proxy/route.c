#include "proxy/route.h"

#include <string.h>

#include "protocol/secret.h"
#include "proxy/session.h"

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

/* May it choose that one? */
static bool
may_choose(const struct conf_user *user, const char *slug)
{
	for (size_t i = 0; i < user->organizations_n; i++)
		if (strcmp(user->organizations[i], "*") == 0 ||
		    strcmp(user->organizations[i], slug) == 0)
			return true;
	return false;
}

enum directory_found
route_choose(struct session *s, const struct conf_user *user,
	     enum route_key key, const char *value, const struct tenant **t)
{
	enum directory_found how = DIRECTORY_NOBODY;

	*t = NULL;
	if (is_service(user) && (key == ROUTE_ID || may_choose(user, value)))
		how = directory_find(s, key == ROUTE_ID, value, t);
	if (how == DIRECTORY_FOUND && !may_choose(user, (*t)->slug)) {
		tenant_unref(t);
		how = DIRECTORY_NOBODY;
	}
	return how;
}

/* One name more: is it that of the organization, or its first choice? */
static enum directory_found
agree(struct route *r, struct session *s, enum route_key key, const char *value)
{
	const char *name;

	if (r->tenant == NULL && r->may_switch)
		return route_choose(s, r->user, key, value, &r->tenant);
	if (r->tenant == NULL)
		return DIRECTORY_NOBODY;
	name = key == ROUTE_ID ? r->tenant->id : r->tenant->slug;
	return strcmp(value, name) == 0 ? DIRECTORY_FOUND : DIRECTORY_NOBODY;
}

/* acme of acme.<sni_domain>, as the organization spells it: names of hosts are
 * not case-sensitive. */
static enum directory_found
agree_on_host(struct route *r, struct session *s, struct slice name)
{
	const char *domain = s->snapshot->conf->tls.sni_domain;
	char slug[256];
	size_t n = domain ? strlen(domain) : 0;

	if (n == 0 || name.n <= n || name.n >= sizeof(slug))
		return DIRECTORY_FOUND;
	memcpy(slug, name.p, name.n);
	slug[name.n] = '\0';
	if (slug[name.n - n - 1] != '.' ||
	    strcasecmp(slug + name.n - n, domain) != 0)
		return DIRECTORY_FOUND;
	slug[name.n - n - 1] = '\0';
	if (r->tenant != NULL)
		return strcasecmp(slug, r->tenant->slug) == 0
			   ? DIRECTORY_FOUND
			   : DIRECTORY_NOBODY;
	return agree(r, s, ROUTE_SLUG, slug);
}

/* All names given must mean one organization, which the user may have. */
static enum directory_found
all_agree(struct route *r, struct session *s, const struct route_names *names)
{
	enum directory_found how = DIRECTORY_FOUND;

	for (size_t i = 0; i < 2 && how == DIRECTORY_FOUND; i++)
		if (names->slug[i] != NULL)
			how = agree(r, s, ROUTE_SLUG, names->slug[i]);
	for (size_t i = 0; i < names->claims && how == DIRECTORY_FOUND; i++)
		how = agree(r, s, names->claim[i].key, names->claim[i].value);
	return how == DIRECTORY_FOUND ? agree_on_host(r, s, names->server_name)
				      : how;
}

/* A token that names one locks as a fixed one does. */
static enum directory_found
find_signed(struct route *r, struct session *s, const char *slug)
{
	if (r->tenant != NULL)
		return strcmp(slug, r->tenant->slug) == 0 ? DIRECTORY_FOUND
							  : DIRECTORY_NOBODY;
	if (is_service(r->user))
		return route_choose(s, r->user, ROUTE_SLUG, slug, &r->tenant);
	return directory_find(s, false, slug, &r->tenant);
}

static int
route_tenant(struct route *r, struct session *s, const struct conf_user *user,
	     const struct route_names *names, enum why *w)
{
	const char *slug = names->signed_slug;
	enum directory_found how = DIRECTORY_FOUND;

	*r = (struct route){ .user = user,
			     .tenant = tenant_ref(user->organization) };
	if (slug != NULL)
		how = find_signed(r, s, slug);
	r->may_switch = is_service(user) && slug == NULL;
	if (how == DIRECTORY_FOUND)
		how = all_agree(r, s, names);
	if (how == DIRECTORY_FOUND)
		return 0;
	tenant_unref(&r->tenant);
	*w = how == DIRECTORY_DOWN ? WHY_DIRECTORY_DOWN : WHY_NO_TENANT;
	return how == DIRECTORY_LATER ? 1 : -1;
}

static const char *
plain_password(const struct conf_user *user)
{
	return user->password != NULL &&
		       strncmp(user->password, "SCRAM-SHA-256$", 14) != 0
		   ? user->password
		   : NULL;
}

/* Those of the directory name theirs, which may be gone by now.  -1: it is. */
static int
own_postgres(const struct conf *c, const struct tenant *t,
	     const struct conf_postgres **up)
{
	if (t == NULL)
		return 0;
	if (t->postgres != NULL)
		*up = t->postgres;
	else if (t->postgres_name != NULL)
		*up = conf_postgres_find(c, t->postgres_name);
	return *up ? 0 : -1;
}

static int
own_redis(const struct conf *c, const struct tenant *t,
	  const struct conf_redis **up)
{
	if (t == NULL)
		return 0;
	if (t->redis != NULL)
		*up = t->redis;
	else if (t->redis_name != NULL)
		*up = conf_redis_find(c, t->redis_name);
	return *up ? 0 : -1;
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
	if (own_postgres(c, r->tenant, &up) != 0 || up == NULL) {
		*w = WHY_NO_UPSTREAM;
		return -1;
	}
	r->postgres = up;
	r->pool_mode = user->has_pool_mode ? user->pool_mode
		       : d->has_pool_mode  ? d->pool_mode
					   : up->pool_mode;
	r->dbname = r->tenant && r->tenant->dbname ? r->tenant->dbname
		    : d->dbname                    ? d->dbname
		    : up->dbname                   ? up->dbname
						   : database;
	r->upstream_user = up->user ? up->user : user->name;
	r->upstream_password = up->password ? up->password
			       : up->user   ? NULL
					    : plain_password(user);
	return 0;
}

/* A route that leads nowhere keeps nothing. */
static int
kept(struct route *r, int result)
{
	if (result != 0)
		tenant_unref(&r->tenant);
	return result;
}

int
route_postgres(struct route *r, struct session *s, const struct conf_user *user,
	       const struct route_names *names, const char *database,
	       enum why *w)
{
	int result = route_tenant(r, s, user, names, w);

	if (result == 0)
		result = find_upstream(r, s->snapshot->conf, database, w);
	return kept(r, result);
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
route_to_redis(struct route *r, const struct conf *c)
{
	if (c->redis_n > 0)
		r->redis = &c->redis[0];
	if (own_redis(c, r->tenant, &r->redis) != 0 || r->redis == NULL)
		return -1;
	r->upstream_user = r->redis->user;
	r->upstream_password = r->redis->password;
	if (r->tenant != NULL && r->tenant->redis_user != NULL) {
		r->upstream_user = r->tenant->redis_user;
		r->upstream_password = r->tenant->redis_password;
	}
	return 0;
}

int
route_redis(struct route *r, struct session *s, const struct conf_user *user,
	    const struct route_names *names, enum why *w)
{
	int result = route_tenant(r, s, user, names, w);

	if (result == 0 && route_to_redis(r, s->snapshot->conf) != 0) {
		*w = WHY_NO_UPSTREAM;
		result = -1;
	}
	return kept(r, result);
}

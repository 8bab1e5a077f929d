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

/* All names given must mean the one organization the user is bound to. */
static int
route_tenant(struct route *r, const struct conf_user *user,
	     const struct tenant *own, const char *const *slugs, size_t n,
	     enum why *w)
{
	r->user = user;
	r->tenant = own;
	for (size_t i = 0; i < n; i++) {
		if (slugs[i] == NULL)
			continue;
		if (r->tenant == NULL ||
		    strcmp(slugs[i], r->tenant->slug) != 0) {
			*w = WHY_NO_TENANT;
			return -1;
		}
	}
	return 0;
}

static const char *
plain_password(const struct conf_user *user)
{
	return user->password != NULL &&
		       strncmp(user->password, "SCRAM-SHA-256$", 14) != 0
		   ? user->password
		   : NULL;
}

int
route_postgres(struct route *r, const struct conf *c,
	       const struct conf_user *user, const char *const slugs[2],
	       const char *signed_slug, const char *database, enum why *w)
{
	const struct conf_database *d = conf_database_find(c, database);
	const char *const all[3] = { slugs[0], slugs[1], signed_slug };
	const struct tenant *own = user->organization;
	const struct conf_postgres *up;

	*r = (struct route){ 0 };
	if (own == NULL && signed_slug != NULL)
		own = conf_tenant_find(c, signed_slug);
	if (route_tenant(r, user, own, all, 3, w) != 0)
		return -1;
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
route_redis(struct route *r, const struct conf *c, const struct conf_user *user,
	    const char *slug, enum why *w)
{
	*r = (struct route){ 0 };
	if (route_tenant(r, user, user->organization, &slug, 1, w) != 0)
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

/*
 * route: who a client is, from what it says of itself.
 *
 * Pure look-ups in the configuration.  The organization is named by the user
 * (fixed), by `name.slug`, by the startup option weir.organization, or by the
 * user's token; all that are present must agree.
 */
#ifndef PROXY_ROUTE_H
#define PROXY_ROUTE_H

#include "conf/conf.h"
#include "protocol/why.h"

struct route {
	const struct conf_user	   *user;	/* NULL: unknown, and log-in will fail */
	const struct tenant	   *tenant;	/* NULL: no organization */
	const struct conf_postgres *postgres;
	const struct conf_redis	   *redis;
	enum conf_pool_mode	    pool_mode;
	const char		   *dbname, *upstream_user, *upstream_password;
};

/*
 * The user of that name, or of the part before the last dot if the part
 * behind it is a slug.  NULL: there is none.
 */
const struct conf_user *route_user(const struct conf *, const char *name, const char **slug);

/*
 * Fills the route of an authenticated user: 0, or -1 and why.  `slugs` are
 * the organizations it named, NULL where it did not.  `signed_slug` is that of
 * its token, NULL if it names none: who has no other organization has that.
 */
int route_postgres(struct route *, const struct conf *, const struct conf_user *,
    const char *const slugs[2], const char *signed_slug, const char *database, enum why *)
    __attribute__((warn_unused_result));
int route_redis(struct route *, const struct conf *, const struct conf_user *,
    const char *slug, enum why *) __attribute__((warn_unused_result));

#endif

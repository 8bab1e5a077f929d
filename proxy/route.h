/*
 * route: who a client is, from what it says of itself.
 *
 * Look-ups in the configuration, and where that does not have the organization
 * in the directory, which takes time.  The organization is named by the user
 * (fixed), by `name.slug`, by the startup option weir.organization, by the
 * name it connected to, by the user's token, or by the value of a variable
 * that says which it is; all that are present must agree.
 *
 * Three kinds of users: a locked one has one organization, its own or its
 * token's; a service user may choose among several, when it logs in and
 * later; any other has none and may name none.
 */
#ifndef PROXY_ROUTE_H
#define PROXY_ROUTE_H

#include "conf/conf.h"
#include "protocol/slice.h"
#include "protocol/why.h"
#include "proxy/directory.h"

/* By what an organization is named. */
enum route_key { ROUTE_NO_KEY, ROUTE_SLUG, ROUTE_ID };

enum { ROUTE_CLAIMS_MAX = 8 };

/* What a client says of its organization; NULL or empty: nothing. */
struct route_names {
	const char  *slug[2];		/* behind its user's dot; the startup option */
	const char  *signed_slug;	/* in its token */
	struct slice server_name;	/* where it connected to, by TLS */
	struct {			/* values for variables that say which it is */
		enum route_key key;
		const char    *value;
	}	     claim[ROUTE_CLAIMS_MAX];
	size_t	     claims;
};

struct route {
	const struct conf_user	   *user;	/* NULL: unknown, and log-in will fail */
	const struct tenant	   *tenant;	/* counted; NULL: no organization */
	bool			    may_switch;	/* a service user */
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

/* Does this variable say which organization it is, and how? */
enum route_key route_variable(const struct conf *, const char *name);
/* The organization of that name, if the user may choose it, as directory_find().
 * What it may not have is not even asked for. */
enum directory_found route_choose(struct session *, const struct conf_user *,
    enum route_key, const char *value, const struct tenant **);

/*
 * Fills the route of an authenticated user, with a reference to its tenant: 0,
 * or -1 and why.  1: what it says is being looked up; the session is woken, and
 * asks again with the same.
 */
int route_postgres(struct route *, struct session *, const struct conf_user *,
    const struct route_names *, const char *database, enum why *)
    __attribute__((warn_unused_result));
/* The same of one that has chosen this organization (NULL: none) since; never 1,
 * and without a reference. */
int route_switch(struct route *, const struct conf *, const struct conf_user *,
    const struct tenant *, const char *database, enum why *)
    __attribute__((warn_unused_result));
int route_redis(struct route *, struct session *, const struct conf_user *,
    const struct route_names *, enum why *) __attribute__((warn_unused_result));
/* Where the commands of the route's tenant go, and as whom; -1: nowhere. */
int route_to_redis(struct route *, const struct conf *) __attribute__((warn_unused_result));

#endif

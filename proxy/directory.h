/*
 * directory: organizations by slug and by id: those of the configuration, and
 * those that a database knows.
 *
 * What the configuration has is there at once.  Else a session asks, waits, and
 * is woken: then it asks the same again, and has the answer.
 *
 * Owner:    struct weir.  A session has one question at a time, in its struct
 *           directory_wait, and holds a reference to the tenant it uses.
 * Bounds:   DIRECTORY_KNOWN organizations, DIRECTORY_UNKNOWN names of none.
 * Threads:  directory_find() from any worker, for sessions of its own; the
 *           cache is the control thread's.
 */
#ifndef PROXY_DIRECTORY_H
#define PROXY_DIRECTORY_H

#include <stdbool.h>

#include "conf/tenant.h"
#include "proxy/lookup.h"

enum {
	DIRECTORY_KNOWN = 100000,
	DIRECTORY_UNKNOWN = 10000,
	DIRECTORY_STALE = 10,	/* times ttl: so long an old answer may stand in */
	DIRECTORY_ID_MAX = 255
};

/* Its values are struct tenant. */
extern const struct lookup_kind directory_by_slug, directory_by_id;

struct directory;
struct session;

struct directory_wait {
	struct lookup_ask *ask;		/* under way, or come home */
	char		  *id;		/* what was asked for, where it was an id */
	bool		   home;
};

enum directory_found {
	DIRECTORY_FOUND,	/* a reference more, the caller's */
	DIRECTORY_NOBODY,
	DIRECTORY_LATER,	/* the session is woken */
	DIRECTORY_DOWN		/* it cannot be found out now */
};

struct directory *directory_open(struct control *, struct log *);
void directory_reload(struct directory *);	/* right behind control_reload() */
void directory_close(struct directory **);	/* after control_close() */

/* By its slug, or by its id.  Not FOUND: *t is NULL. */
enum directory_found directory_find(struct session *, bool by_id, const char *value,
    const struct tenant **t);
/* The session has no question any more, or ends. */
void directory_part(struct session *);

#endif

/*
 * lookup: what a name means, from a database that the configuration names:
 * the secret of a user, an organization of the directory.
 *
 * A session asks and waits; the control thread has the answer, or asks for it
 * once for all who wait for that name.  What it is asked with is the
 * configuration of now, whatever the session began under.
 *
 * Owner:    struct weir.  A question is its session's worker's: it comes home
 *           to it even if the session has gone.
 * Bounds:   those of proxy/lookup_cache and proxy/control.
 * Threads:  lookup_ask() from any worker, lookup_reload() from main; the rest
 *           on the control thread, which has the cache.
 */
#ifndef PROXY_LOOKUP_H
#define PROXY_LOOKUP_H

#include "conf/log.h"
#include "proxy/control.h"
#include "proxy/lookup_cache.h"
#include "tls/mailbox.h"

struct lookup;

/* Who is asked, and what; views into the configuration. */
struct lookup_source {
	const char *upstream;	/* NULL: nobody */
	const char *dbname;	/* NULL: the upstream's */
	const char *query;	/* $1 is the name */
	uint64_t    ttl_ms, negative_ttl_ms;
	uint64_t    stale_ms;	/* so much longer an answer may stand in for a new one */
};

/* A kind of things to look up; one immutable row each. */
struct lookup_kind {
	struct lookup_ops ops;
	enum log_event	  event;	/* where it is said that no usable answer came */
	const char	 *key;		/* what a name is, in that line */
	void (*source)(struct lookup_source *, const struct conf *);
	/*
	 * What a row says, in one reference; `why` is set where it is no good,
	 * which is then nobody's.
	 */
	void *(*value)(const struct conf *, const struct control_ask *, char why[CONTROL_ERROR_MAX]);
	void *(*nobody)(const char *name);
};

struct lookup_ask {
	struct message	     message;	/* first: there and home */
	struct lookup_waiter waiter;
	struct lookup	    *lookup;
	struct mailbox	    *home;
	void		   (*done)(struct lookup_ask *, void *owner);
	void		    *asker;	/* home's alone; NULL: it has gone */
	void		    *value;	/* counted, the asker's; NULL: could not be had */
	char		     name[];
};

struct lookup *lookup_open(const struct lookup_kind *, struct control *, struct log *);
/* Right behind control_reload(). */
void lookup_reload(struct lookup *);
/* After control_close(), which brings all questions home. */
void lookup_close(struct lookup **);

/* `done` runs at home, and frees it with lookup_ask_free(). */
struct lookup_ask *lookup_ask(struct lookup *, const char *name, struct mailbox *home,
    void (*done)(struct lookup_ask *, void *owner), void *asker);
void lookup_ask_free(struct lookup_ask **);

/* On the control thread: the name means something else now; NULL: all may. */
void lookup_changed(struct lookup *, const char *name);

#endif

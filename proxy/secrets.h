/*
 * secrets: the secret of a user who is not in the configuration, from the
 * database that [auth] names.
 *
 * A session asks and waits; the control thread has the answer, or asks for it
 * once for all who wait for that name.  What it is asked with is the
 * configuration of now, whatever the session began under.
 *
 * Owner:    struct weir.  A question is its session's worker's: it comes home
 *           to it even if the session has gone.
 * Bounds:   those of proxy/secret_cache and proxy/control.
 * Threads:  secrets_ask() from any worker; the cache is the control thread's.
 */
#ifndef PROXY_SECRETS_H
#define PROXY_SECRETS_H

#include "conf/log.h"
#include "proxy/secret_cache.h"
#include "tls/mailbox.h"

struct control;
struct secrets;

struct secrets_ask {
	struct message	     message;	/* first: there and home */
	struct secret_waiter waiter;
	struct secrets	    *secrets;
	struct mailbox	    *home;
	void		   (*done)(struct secrets_ask *, void *owner);
	void		    *asker;	/* home's alone; NULL: it has gone */
	struct secret	    *secret;	/* counted, the asker's; NULL: could not be had */
	char		     name[];
};

struct secrets *secrets_open(struct control *, struct log *);
/* Right behind control_reload(). */
void secrets_reload(struct secrets *);
/* After control_close(), which brings all questions home. */
void secrets_close(struct secrets **);

/*
 * `done` runs at home, and frees it with secrets_ask_free().  NULL: the name
 * is too long to be anybody's.
 */
struct secrets_ask *secrets_ask(struct secrets *, const char *name, struct mailbox *home,
    void (*done)(struct secrets_ask *, void *owner), void *asker);
void secrets_ask_free(struct secrets_ask **);

#endif

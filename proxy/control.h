/*
 * control: the thread on which weir is an ordinary client of PostgreSQL.
 *
 * Off the data path, by libpq: "run this SQL with these texts as parameters on
 * that upstream, as its configured user, and send me the rows".  A question is
 * an object that travels: to the control thread, and home again with its
 * answer, both times as a message.
 *
 * Owner:    struct weir.  A question is the asker's until it is asked, and
 *           from `done` on, which frees it.
 * Bounds:   CONTROL_CONNS connections and CONTROL_QUEUE waiting questions an
 *           upstream and database; an answer of `rows_max` rows and
 *           CONTROL_BYTES bytes.  What passes one fails.  Every question has
 *           a deadline.
 * Errors:   a question that could not be answered says so in `result`; nothing
 *           that was sent is ever sent again.
 * Threads:  control_ask() and control_post() from any, while the thread runs
 *           and after; `done` at home; the rest from main.
 * Safety:   of a client only parameters reach a connection, as binds.  Values
 *           may be secrets: they are wiped, and never logged.
 */
#ifndef PROXY_CONTROL_H
#define PROXY_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conf/log.h"
#include "tls/mailbox.h"
#include "tls/offload.h"
#include "tls/snapshot.h"

enum {
	CONTROL_PARAMS = 4,
	CONTROL_CONNS = 2,
	CONTROL_QUEUE = 4096,
	CONTROL_BYTES = 1 << 20,
	CONTROL_ERROR_MAX = 256
};

enum control_result {
	CONTROL_OK,		/* rows and columns are set */
	CONTROL_REFUSED,	/* the server says what is wrong with it: sqlstate, error */
	CONTROL_TOO_BIG,	/* the answer */
	CONTROL_DOWN,		/* no connection, or it was lost before the answer */
	CONTROL_LATE,		/* the deadline passed */
	CONTROL_FULL,		/* too many wait */
	CONTROL_CLOSED		/* weir is ending */
};

struct control;

struct control_ask {
	struct message	    message;	/* first: it travels in this */
	/* the question */
	char		   *upstream;	/* the NAME of its section */
	char		   *dbname;	/* NULL: the section's */
	char		   *sql;
	char		   *param[CONTROL_PARAMS];	/* $1 ...; NULL is SQL's */
	unsigned	    params;
	unsigned	    rows_max;
	uint64_t	    timeout_ms;
	bool		    last;	/* the connection is closed behind the answer */
	struct mailbox	   *home;
	void		  (*done)(struct control_ask *, void *owner);
	void		   *arg;	/* these two are the asker's */
	uint64_t	    tag;
	/* the answer */
	enum control_result result;
	char		    sqlstate[6];
	char		    error[CONTROL_ERROR_MAX];	/* for people */
	unsigned	    rows, columns;
	char		  **value;	/* row by row; NULL is SQL's */
	char		  **column;	/* their names, if there is a row */
	/* the control thread's */
	struct control	   *control;
	struct control_ask *next;
	uint64_t	    deadline_ns;
	size_t		    bytes;
};

struct control *control_open(struct snapshot *, struct log *, struct offload *dns);	/* NULL: no resources */
int  control_start(struct control *) __attribute__((warn_unused_result));
/* Before the workers hear of it, so that none asks by what is not known here. */
void control_reload(struct control *, struct snapshot *);
void control_stop(struct control *);	/* ends and joins the thread */
/* After the offload threads are closed.  All questions go home, CONTROL_CLOSED. */
void control_close(struct control **);

/* Strings are copied; `upstream` and `dbname` come from the configuration. */
struct control_ask *control_ask_new(const char *upstream, const char *dbname, const char *sql,
    unsigned params, const char *const *param);
void control_ask(struct control *, struct control_ask *, struct mailbox *home,
    void (*done)(struct control_ask *, void *owner));
void control_ask_free(struct control_ask **);

/*
 * Somebody who listens on a channel of an upstream.  While it cannot be
 * reached it is tried again, for as long as the thread runs.
 *
 * Owner:    the caller, who fills in the first five; strings are copied.  After
 *           control_unlisten(), or control_close(), it may be freed.
 */
struct control_listener {
	const char *upstream, *dbname;	/* as in a question */
	const char *channel;
	/* Each payload; NULL: from now on it listens, what came before is unknown. */
	void	  (*heard)(struct control_listener *, const char *payload);
	void	   *arg;
	/* the control thread's */
	struct control_listener *next;
	struct target *target;
	char	   *sql;
	bool	    up;		/* a connection is there for it */
};

/* On the control thread.  A reload begins it anew. */
void control_listen(struct control *, struct control_listener *);
void control_unlisten(struct control_listener *);	/* if it listens */

/*
 * Rings once when it is at_ns, on the control thread; not any more when that
 * has ended.  May be set again, earlier or later.
 *
 * Owner:    the caller, until control_close().
 */
struct control_alarm {
	void	  (*ring)(struct control_alarm *);
	uint64_t    at_ns;	/* 0: not set */
	/* the control thread's */
	struct control_alarm *next;
	bool	    known;
};

void control_alarm(struct control *, struct control_alarm *, uint64_t at_ns);

/* A message of the caller's own, run there; its owner is the struct control. */
void control_post(struct control *, struct message *);
/* On the control thread, or when it has ended: */
struct mailbox	*control_mailbox(struct control *);
struct snapshot *control_snapshot(struct control *);
uint64_t	 control_now_ns(const struct control *);	/* monotonic, of this turn */

#endif

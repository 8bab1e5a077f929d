/*
 * rls: whether row level security holds for whom weir logs in as.
 *
 * Policies do nothing for some roles, and nothing for tables that have none.
 * So each database that the configuration leads clients to is asked for such
 * things, once at the start and once after each reload, by the role itself and
 * on the control thread.  What it has found goes to the log, line by line, and
 * stays as a verdict, which rls_check = require makes a condition of log-ins.
 *
 * A verdict is of an upstream, a database, a role and a column; under another
 * configuration of those there is none yet.  One that was given stays until
 * there is another: that a database cannot be asked changes nothing.  Who came
 * under a configuration of before, and is not in yet, is told to come again.
 *
 * Owner:    struct weir.
 * Bounds:   RLS_DATABASES verdicts, RLS_AT_ONCE questions on their way, RLS_LINES
 *           lines of findings each.
 * Threads:  rls_admits() and rls_part() of a session on its worker, rls_verdict()
 *           and rls_print() on any; rls_reload(), rls_settled() and rls_leaking()
 *           on main.
 */
#ifndef PROXY_RLS_H
#define PROXY_RLS_H

#include <stdbool.h>

#include "conf/conf.h"
#include "protocol/buf.h"
#include "protocol/why.h"
#include "proxy/control.h"

enum { RLS_DATABASES = 256, RLS_AT_ONCE = 2, RLS_LINES = 20 };

enum rls_verdict {
	RLS_UNKNOWN,
	RLS_HOLDS,	/* nothing was found */
	RLS_LEAKS
};

struct rls;
struct rls_wait;
struct session;

struct rls *rls_open(struct control *, struct log *);
void	    rls_reload(struct rls *);	/* right behind control_reload() */
void	    rls_close(struct rls **);	/* after control_close() */

/* Has every database been asked once where rls_check = require, even in vain? */
bool	    rls_settled(struct rls *);
/* Findings where rls_check = require, each told in one line more. */
unsigned    rls_leaking(struct rls *);

enum rls_verdict rls_verdict(struct rls *, const struct conf_postgres *, const char *dbname);
/*
 * May a client of an organization be led there?  0, or -1 and why.  1: it is
 * being found out; the session is woken, and asks again with the same *wait,
 * which begins as NULL and is the session's.
 */
int rls_admits(struct session *, const struct conf_postgres *, const char *dbname,
    struct rls_wait **, enum why *) __attribute__((warn_unused_result));
void rls_part(struct rls_wait **);	/* the log-in is over; nulls the pointer */

/* Prometheus' text of what was found, by upstream.  0, or -1: the buf is full. */
int  rls_print(struct rls *, struct buf *) __attribute__((warn_unused_result));

#endif

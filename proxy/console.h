/*
 * console: psql to the database `weir` (or `pgbouncer`) shows what weir does.
 *
 * A client of that database holds no server and never waits for one; it speaks
 * the simple or the extended protocol, and what it may say is `SHOW name` for
 * the tables of console_table.h and, for admin_users, RELOAD.  Who is neither
 * of admin_users nor of stats_users is refused, and so is who comes in the name
 * of an organization: the tables show all of them.  A [database] section of
 * that very name takes it away from the console.
 *
 * Rows of all workers are fetched by a message that goes from one to the next
 * and home, and takes CONSOLE_SLICE of them in a turn; so many are told in one.
 * What it finds is true of no single moment.
 *
 * Owner:    pg_session.console, until the session is freed.
 * Bounds:   CONSOLE_NAMES prepared statements, CONSOLE_MESSAGE bytes a message,
 *           CONSOLE_ROWS rows a worker (console_table.h).
 */
#ifndef PROXY_CONSOLE_H
#define PROXY_CONSOLE_H

#include "proxy/pg_session.h"

enum { CONSOLE_NAMES = 64, CONSOLE_NAME_MAX = 63, CONSOLE_MESSAGE = 16 << 10 };

struct console;

/* Does a client that asks for this database mean the console? */
bool console_is(const struct conf *, const char *database);
/* The client is who it says: lets it in, or closes it. */
enum step console_in(struct session *);
/* Its next messages. */
enum step console_step(struct session *);
void	  console_free(struct console **);	/* nulls the pointer, which may be NULL */

#endif

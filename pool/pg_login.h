/*
 * pg_login: how a backend connection comes to be: TLS, startup, our log-in.
 *
 * Nothing in it blocks: PBKDF2 runs on another thread, and the last result is
 * kept with the pool, since all its servers ask with the same salt.
 */
#ifndef POOL_PG_LOGIN_H
#define POOL_PG_LOGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PG_MISREADS "standard_conforming_strings = off is not supported"

struct pg_login;
struct server;

struct pg_login *pg_login_new(struct server *);
void		 pg_login_free(struct pg_login **);	/* a job under way keeps it until done */
void		 pg_login_opened(struct server *);	/* connected, or TLS is up */
void		 pg_login_input(struct server *);	/* bytes from the server */

/* Does this ParameterStatus say that strings are not what sql_scan() takes them
 * for?  Then nobody could say what a statement does: such a server is not used. */
bool		 pg_login_misreads(const uint8_t *body, size_t n);

#endif

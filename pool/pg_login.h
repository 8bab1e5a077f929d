/*
 * pg_login: how a backend connection comes to be: TLS, startup, our log-in.
 *
 * Nothing in it blocks: PBKDF2 runs on another thread, and the last result is
 * kept with the pool, since all its servers ask with the same salt.
 */
#ifndef POOL_PG_LOGIN_H
#define POOL_PG_LOGIN_H

struct pg_login;
struct server;

struct pg_login *pg_login_new(struct server *);
void		 pg_login_free(struct pg_login **);	/* a job under way keeps it until done */
void		 pg_login_opened(struct server *);	/* connected, or TLS is up */
void		 pg_login_input(struct server *);	/* bytes from the server */

#endif

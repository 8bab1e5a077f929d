/*
 * console_shows: the tables there are, each by the name behind SHOW.
 *
 * Columns are called as PgBouncer calls them where they mean the same; those of
 * weir's own stand behind them.  Clients and servers are of both protocols.
 * No table has a secret in it.
 *
 * Threads:  each worker tells its own.
 */
#ifndef PROXY_CONSOLE_SHOWS_H
#define PROXY_CONSOLE_SHOWS_H

#include "proxy/console_table.h"

/* NULL: there is none of that name, in whatever case. */
const struct console_table *console_table_find(const char *name);

/* console_peers.c */
bool console_clients_each(struct console_rows *, struct worker *, size_t *at);
bool console_servers_each(struct console_rows *, struct worker *, size_t *at);
/* console_conf.c */
void console_users_here(struct console_rows *, const struct worker *);
void console_config_here(struct console_rows *, const struct worker *);
bool console_databases_each(struct console_rows *, struct worker *, size_t *at);

#endif

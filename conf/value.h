/*
 * value: the text of a setting as a number, a time, an address.
 *
 * Pure but for value_expand(), which looks at the environment and at files.
 * A parser takes the whole text or refuses it; nothing is guessed.
 *
 * Errors:   0, or -1 and nothing is written.
 */
#ifndef CONF_VALUE_H
#define CONF_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "conf/conf.h"

enum { VALUE_WHY_MAX = 512 };

/* on yes true 1, off no false 0, letters of either case. */
int value_bool(const char *, bool *);
/* Decimal digits only. */
int value_uint(const char *, uint64_t *);
/* 30, 1.5s, 500ms, 2min, 1h; a plain number is seconds.  Rounded up, so that little is not never. */
int value_time(const char *, uint64_t *ms);
/* 65536, 64kB, 16MB, 1GB; powers of 1024. */
int value_size(const char *, uint64_t *bytes);
/* 1000/60s: so many in so much time, neither of them 0. */
int value_rate(const char *, struct tenant_rate *);

/* Letters, digits and _ $ with single dots between, as PostgreSQL wants of a setting. */
bool value_is_variable(const char *);
/* A host name, an IPv4 or bare IPv6 address. */
bool value_is_host(const char *);

/*
 * An upstream's host, host:port, v6, [v6]:port, or /directory of a socket, with
 * :port if need be.  The port is 0 if none is named; allocates .name.
 */
int value_host(const char *, struct conf_host *);

/* host:port, [v6]:port, *:port (0.0.0.0), localhost:port or unix:/path.  Allocates .text. */
int value_listen(const char *, enum conf_listen_kind, struct conf_listen *);
/*
 * redis://[user[:password]]@host[:port][,...][/db], or rediss://.  Fills tls,
 * host, port, hosts, user, password (percent-decoded) and db, and leaves .url
 * alone.  The port of those in hosts is 0 if none is named.
 */
int value_redis_url(const char *, struct conf_redis *);

/*
 * The next item of a comma list, blanks stripped, in memory the caller frees;
 * NULL at its end.  An empty item is "".
 */
char *value_next(const char **list);

/*
 * The text with every ${NAME} taken from the environment, or, if it begins
 * with @/, the first line of that file.  What comes from there is taken as it
 * is and not looked at again.  The caller frees it; NULL and a reason if there
 * is no such variable or file.
 */
char *value_expand(const char *, char why[VALUE_WHY_MAX]);

#endif

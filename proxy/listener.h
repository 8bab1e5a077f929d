/*
 * listener: the sockets clients come in by.
 *
 * TCP addresses are bound once a worker (SO_REUSEPORT), so the kernel spreads
 * the connections; a unix socket is bound once and shared.  All are bound by
 * main before any worker runs, so that what cannot be bound is said at once.
 *
 * Owner:    the worker whose list it is on; fds are closed by listeners_close.
 */
#ifndef PROXY_LISTENER_H
#define PROXY_LISTENER_H

#include <event2/event_struct.h>
#include <stddef.h>

#include "conf/conf.h"

struct worker;

struct listener {
	struct listener	     *next;
	struct worker	     *worker;
	int		      fd;
	enum conf_listen_kind kind;
	struct event	      event;
	int		      is_unix;
	int		      resting;	/* no descriptors left: until the next tick */
};

/*
 * A bound, listening, non-blocking socket, or -1 and the reason in `error`.
 * [::] takes IPv4 too unless v6only, which is for a list that names 0.0.0.0
 * with the same port.
 */
int  listener_bind(const struct conf_listen *, int first, int v6only, char *error, size_t)
    __attribute__((warn_unused_result));
/* Adds it to the worker; it accepts as soon as the worker runs. */
void listener_add(struct worker *, int fd, enum conf_listen_kind, int is_unix);
void listeners_wake(struct worker *);	/* every tick */
void listeners_close(struct worker *);

#endif

/*
 * admin: HTTP for machines: /healthz, /readyz, /metrics.
 *
 * Runs on the main thread's loop, away from the workers.
 *
 * Owner:    main.
 * Bounds:   requests of at most 8 KiB, 5 seconds each.
 */
#ifndef PROXY_ADMIN_H
#define PROXY_ADMIN_H

#include <event2/event.h>

struct admin;
struct weir;

struct admin *admin_open(struct weir *, struct event_base *);
int	      admin_listen(struct admin *, int fd) __attribute__((warn_unused_result));	/* takes the fd */
void	      admin_close(struct admin **);

#endif

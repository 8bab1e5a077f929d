/*
 * redis_sentinel: which Redis is the master now, by the word of its Sentinels.
 *
 * They are asked one after the other, first who answered last, until one knows.
 * Nobody else is: without a Sentinel there is no master.  What they say is
 * checked at the log-in, by ROLE (redis_server.c).
 *
 * Blocks: for a job of tls/offload.h (target.c).
 */
#ifndef POOL_REDIS_SENTINEL_H
#define POOL_REDIS_SENTINEL_H

#include <stddef.h>
#include <sys/socket.h>

#include "tls/snapshot.h"

enum { REDIS_SENTINEL_NAME_MAX = 256 };

struct redis_sentinel {
	struct snapshot		*snapshot;	/* the caller's, which holds this: */
	const struct conf_redis *redis;
	unsigned		 first;		/* who is asked first; who answered */
	char			 name[REDIS_SENTINEL_NAME_MAX];	/* the master's */
	unsigned		 port;
	struct sockaddr_storage	 peer;		/* of who answered; peer_n 0: nobody did */
	socklen_t		 peer_n;
};

/* -1: no Sentinel knows it, and why, in `error` of n bytes. */
int redis_sentinel_ask(struct redis_sentinel *, char *error, size_t n)
    __attribute__((warn_unused_result));

#endif

/*
 * redis_census: how many clients of this process subscribe to a channel, and
 * by how many connections upstream.
 *
 * To Redis all subscribers behind weir are the one connection they share, and
 * PUBSUB NUMSUB would say so.  But applications count their own servers by it:
 * with an answer of 1 Socket.IO believes it is alone and asks nobody else.  So
 * what upstream answers is corrected: without our connections, with our
 * clients.  The answer to PUBLISH is not.
 *
 * Exact while nobody comes or goes; a subscription or its end that is under
 * way just then may be counted or not.
 *
 * Owner:    struct weir.  Who counts holds a line (redis_census_enter).
 * Bounds:   a line for each channel somebody holds.
 * Threads:  all calls from any.
 */
#ifndef PROXY_REDIS_CENSUS_H
#define PROXY_REDIS_CENSUS_H

#include <stdint.h>

#include "protocol/resp_push.h"
#include "protocol/slice.h"

struct conf_redis;
struct redis_census;
struct redis_census_line;

struct redis_census *redis_census_open(void);		/* NULL: no resources */
void redis_census_close(struct redis_census **);	/* all lines are given back */

/* The line of a channel of this upstream: for as long as it is held. */
struct redis_census_line *redis_census_enter(struct redis_census *, const struct conf_redis *,
    enum resp_channel, struct slice name);
void redis_census_leave(struct redis_census *, struct redis_census_line **);

/* More or fewer of them. */
void redis_census_clients(struct redis_census *, struct redis_census_line *, int by);
void redis_census_connections(struct redis_census *, struct redis_census_line *, int by);

/* What upstream has counted, corrected. */
int64_t redis_census_correct(struct redis_census *, const struct conf_redis *, enum resp_channel,
    struct slice name, int64_t counted);

#endif

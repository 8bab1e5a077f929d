/*
 * redis_sub: a Redis connection that only subscribes, on behalf of many.
 *
 * It speaks RESP2 to every Redis, and is lent exclusively (to a hub, see
 * proxy/redis_hub.h) for as long as it lives.  Its lessee hears reply() with
 * whole messages and answers, as many as were received at once, each of which
 * resp_push_next() takes; room() after them, and when `out` has some again;
 * lost() in the end.  It is closed rather than given back.
 *
 * Back-pressure: stream_pause() stops it; redis_sub_resume() lets it go on.
 *
 * Bounds:   REDIS_SUB_MESSAGE_MAX for a message, above which Redis itself ends
 *           a subscriber (client-output-buffer-limit pubsub 32mb); a larger
 *           one closes the connection.
 */
#ifndef POOL_REDIS_SUB_H
#define POOL_REDIS_SUB_H

#include "pool/server.h"

enum {
	REDIS_SUB_MESSAGE_MAX = 32 << 20,
	REDIS_SUB_OUT_FULL = 4 << 20	/* unsent bytes: no more commands */
};

/* What was received before the pause is delivered here. */
void redis_sub_resume(struct server *);

#endif

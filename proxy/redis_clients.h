/*
 * redis_clients: CLIENT INFO, LIST, KILL and UNBLOCK: the caller's own
 * organization.
 *
 * A client of an organization sees and ends the Redis clients of that
 * organization on all workers; one that has none, those that have none on the
 * same upstream.  Of anybody else there is no sign: neither a line, nor a
 * different error.  The texts and fields are those of Redis 7.0; what a pooled
 * client has no equivalent of (memory of Redis's own buffers) is 0.
 *
 * LIST and KILL are a roll call: one message that goes from worker to worker,
 * a few clients at a time, and home, where the command is run once more and
 * finds its answer.  It begins when nothing is outstanding, so it happens
 * where it stands in the pipeline.  What is killed while the call is on its
 * way may be listed; what connects behind its back is not.
 *
 * UNBLOCK finds its client in the same way, on the one worker its id names, and
 * asks Redis for it, which alone knows whether it blocks: by the id upstream of
 * the connection it has borrowed, which nobody borrows after it.  So that
 * reaches nobody else; and of its own what waits when Redis is asked.
 *
 * Owner:    the message belongs to the mailbox it lies in, and nobody else
 *           knows of it; at home to the session that asked
 *           (redis_session.roll) until it is answered.  If that is gone, or
 *           the process drains, it is freed where it is.
 * Bounds:   REDIS_ROLL_STEP clients a visit, REDIS_ROLL_IDS ids a command.
 */
#ifndef PROXY_REDIS_CLIENTS_H
#define PROXY_REDIS_CLIENTS_H

#include "proxy/redis_session.h"

enum { REDIS_ROLL_STEP = 256, REDIS_ROLL_IDS = 1024 };

struct redis_roll;

/* CLIENT ID: never reused, and another one on every worker. */
int64_t redis_client_id(const struct session *);
unsigned redis_client_worker(int64_t id);	/* where it is; maybe none */
struct session *redis_client_find(struct worker *, int64_t id);	/* there; or NULL */

redis_run redis_clients_info, redis_clients_list, redis_clients_kill, redis_clients_unblock;

/* The session ends: an answer that is still on its way is nobody's. */
void redis_clients_part(struct redis_session *);

#endif

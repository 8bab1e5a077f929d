/*
 * redis_publish: tells an organization's Redis of its operations, between
 * their commit and their answer.
 *
 * What is told of an operation was written when it came (row_text.h); its
 * messages go out in the order of the commits, as PUBLISH, by a connection of
 * the organization's own Redis user that is borrowed while there is something
 * to tell.  Each is sent once: one whose answer does not come has failed, was
 * told or was not, and is counted.
 *
 * In a cluster any node will do: those of the url, and where they do not answer
 * the masters that are known, in turn.
 *
 * A Redis that fails costs no operation more than PUBLISH_WAIT_NS: then all
 * that waits has failed, and for PUBLISH_REST_NS what comes fails at once.
 *
 * Owner:    an operation is ours from redis_publish() on, until it goes to
 *           pg_batch_told().
 * Bounds:   PUBLISH_BYTES_MAX of operations that wait for one organization's
 *           Redis; more fail at once.
 * Safety:   a message leaves by a server that is stamped with the operation's
 *           organization, of a pool that has logged in as its user.
 */
#ifndef PROXY_REDIS_PUBLISH_H
#define PROXY_REDIS_PUBLISH_H

#include <stdbool.h>
#include <stdint.h>

struct op;
struct publishers;
struct worker;

enum { PUBLISH_BYTES_MAX = 16 << 20, PUBLISH_NEWS_MAX = 1 << 20 /* of an operation */ };

#define PUBLISH_WAIT_NS 1000000000ull
#define PUBLISH_REST_NS 1000000000ull

struct publishers *redis_publish_open(struct worker *);
void		   redis_publish_close(struct publishers **);
void		   redis_publish_run(struct worker *);	/* once a turn */

/* Of the parts that are news; false: of none, and the operation stays the caller's. */
bool redis_publish(struct worker *, struct op *) __attribute__((warn_unused_result));

#endif

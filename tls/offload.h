/*
 * offload: threads for what burns or blocks (PBKDF2, name look-ups), so that
 * no worker ever does.
 *
 * A job runs on one of the pool's threads and then travels back to the mailbox
 * it came from, where `done` runs.  Jobs are embedded.  A job cannot be
 * cancelled; who loses interest sets a flag of its own and frees the job in
 * `done`.
 *
 * Jobs of one key start in the order they came; keys take turns, one job each,
 * so that a storm of one delays another by a job and not by the storm.  0 is
 * the key of all that name none.
 *
 * Bounds:   those of offload_try(); offload_run() has none: one job per
 *           connection that is dialed.
 * Threads:  offload_run() from any; `work` on a pool thread, touching nothing
 *           but the job; `done` on the poster.
 */
#ifndef TLS_OFFLOAD_H
#define TLS_OFFLOAD_H

#include <stdint.h>

#include "tls/mailbox.h"

struct job {
	struct message	message;	/* first: done travels in it */
	struct job     *next;		/* of its key */
	uint64_t	passed;		/* jobs that were started while it waited */
	void	      (*work)(struct job *);
	void	      (*done)(struct job *, void *owner);
	struct mailbox *home;
};

struct offload;

struct offload *offload_open(unsigned threads);		/* NULL: threads could not be made */
/*
 * Finishes queued jobs, joins the threads, nulls the pointer.  Afterwards every
 * job is in its home, whose owner drains it once more before it goes.
 */
void		offload_close(struct offload **);
void		offload_run(struct offload *, struct job *, struct mailbox *home,
    void (*work)(struct job *), void (*done)(struct job *, void *owner));

/* Whose turn a job waits for. */
struct offload_turn {
	uint64_t key;	/* not 0 */
	unsigned each;	/* as many of the key may wait, */
	unsigned all;	/* and as many of all keys but 0 */
};

/* The same with a key.  -1: too many wait, and nothing has happened. */
int		offload_try(struct offload *, struct job *, const struct offload_turn *,
    struct mailbox *home, void (*work)(struct job *), void (*done)(struct job *, void *owner))
    __attribute__((warn_unused_result));

#endif

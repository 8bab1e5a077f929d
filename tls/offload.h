/*
 * offload: threads for what burns or blocks (PBKDF2, name look-ups), so that
 * no worker ever does.
 *
 * A job runs on one of the pool's threads and then travels back to the mailbox
 * it came from, where `done` runs.  Jobs are embedded, nothing is allocated.
 * A job cannot be cancelled; who loses interest sets a flag of its own and
 * frees the job in `done`.  Jobs start in the order they came.
 *
 * Bounds:   none of its own: one job per connection that logs in.
 * Threads:  offload_run() from any; `work` on a pool thread, touching nothing
 *           but the job; `done` on the poster.
 */
#ifndef TLS_OFFLOAD_H
#define TLS_OFFLOAD_H

#include "tls/mailbox.h"

struct job {
	struct message	message;	/* first: done travels in it */
	struct job     *next;
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

#endif

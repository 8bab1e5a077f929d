/*
 * mailbox: the only way one thread speaks to another.
 *
 * A queue of messages and one wake-up (an eventfd).  Posts between two drains
 * cost one wake-up.  A message is embedded in what it carries, so posting
 * never allocates and never fails.
 *
 * Owner:    the receiving worker; a message belongs to the poster until it is
 *           posted, then to the receiver, whose `run` disposes of it.
 * Threads:  mailbox_post() from any; the rest from the owner.
 */
#ifndef TLS_MAILBOX_H
#define TLS_MAILBOX_H

#include <pthread.h>
#include <stdbool.h>

struct message {
	struct message *next;
	void	      (*run)(struct message *, void *owner);	/* owner: mailbox_init()'s */
};

struct mailbox {
	pthread_mutex_t	lock;
	struct message *head, **tail;
	int		fd;		/* eventfd, readable when there is something */
	void	       *owner;
	bool		running;	/* messages of a drain; the owner's */
};

int  mailbox_init(struct mailbox *, void *owner) __attribute__((warn_unused_result));
void mailbox_fini(struct mailbox *);	/* what is left is not run: drain first */
void mailbox_post(struct mailbox *, struct message *);
/* Runs all messages that were there when called; messages posted meanwhile wait. */
void mailbox_drain(struct mailbox *);
/* Has something been posted that is not run yet?  What the owner does at once
 * overtakes it. */
bool mailbox_waits(struct mailbox *);

#endif

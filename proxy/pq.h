/*
 * pq: one connection of the control thread, by libpq, that never blocks.
 *
 * It dials, rests, and answers one question at a time.  Its owner hears of
 * every change of state by one callback and closes it when it is GONE, or when
 * a deadline has passed: there is none in here.
 *
 * Owner:    proxy/control.  After pq_close() the struct may be freed, but not
 *           before the callback that is running has returned.
 * Errors:   `error` says, for people, why it is GONE; no password is in it.
 */
#ifndef PROXY_PQ_H
#define PROXY_PQ_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>

#include "conf/conf.h"
#include "proxy/control.h"

struct pg_conn;

enum pq_state { PQ_DIAL, PQ_IDLE, PQ_BUSY, PQ_GONE };

/* `address` is numeric, so that libpq looks nothing up; NULL: a unix socket. */
struct pq_place {
	const char *host, *address;
	unsigned    port;
};

struct pq {
	enum pq_state	    state;
	struct pg_conn	   *conn;	/* libpq's PGconn */
	struct event	    event;
	struct event_base  *base;
	struct control_ask *ask;	/* BUSY: being answered; the owner takes it back */
	void		  (*changed)(struct pq *);
	void		  (*notified)(struct pq *, const char *payload);	/* NULL: nobody listens */
	char		    error[CONTROL_ERROR_MAX];
};

/* Begins to dial, and forgets whatever was in the struct; -1: it is GONE already, and `changed` is not called. */
int  pq_open(struct pq *, struct event_base *, const struct conf_postgres *,
    const struct pq_place *, const char *dbname, void (*changed)(struct pq *))
    __attribute__((warn_unused_result));
/* IDLE: has it ended, unnoticed? */
bool pq_is_alive(struct pq *);
/*
 * IDLE: sends the question.  -1: it is GONE and nothing was sent.  `changed`
 * comes when the answer is in the question: IDLE again, or GONE.
 */
int  pq_ask(struct pq *, struct control_ask *) __attribute__((warn_unused_result));
void pq_close(struct pq *);

#endif

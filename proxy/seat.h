/*
 * seat: a session's place among those of its user and of its organization.
 *
 * An organization's log-ins and requests are also bound by its rates
 * (pool/rate.h), which are looked at here.
 *
 * Both are counted for the whole process, from log-in to the end of the
 * session, whether or not max_client_conn is set: so a limit that a reload
 * brings counts those who are there already.
 *
 * Owner:    the session; seats_give() is called once, where it ends.
 */
#ifndef PROXY_SEAT_H
#define PROXY_SEAT_H

#include <stdbool.h>

#include "protocol/why.h"

struct budget;
struct conf;
struct conf_user;
struct rates_entry;
struct session;
struct tenant;
struct weir;

/*
 * Both seats, in place of those it had; or, where one is not free, neither and
 * why, and it keeps what it had.  `tenant` may be NULL.  A server it holds
 * counts for the new organization from then on.
 */
bool seats_take(struct session *, const struct conf_user *, const struct tenant *, enum why *)
    __attribute__((warn_unused_result));
/* The same for who has logged in before, and chooses another organization. */
bool seats_move(struct session *, const struct tenant *, enum why *) __attribute__((warn_unused_result));
void seats_give(struct session *);

/* Where the servers and the requests of a session are counted while it works
 * for another organization than the one it sits at. */
struct seat_loan {
	bool		    lent;
	struct budget	   *share;	/* of its own; counted */
	struct rates_entry *rates;	/* counted */
};

/* They are that one's from now on; `tenant` may be NULL.  False: no place, and
 * nothing has changed. */
bool seats_lend(struct session *, struct seat_loan *own, const struct tenant *)
    __attribute__((warn_unused_result));
void seats_return(struct session *, struct seat_loan *own);
void seats_forget(struct session *, struct seat_loan *own);	/* it ends */
/* The limits of a new configuration hold for who is there already. */
void seats_reload(struct weir *, const struct conf *);

/* The servers that the organization's clients hold, counted, with the limit of
 * now; the caller's reference.  NULL: no place. */
struct budget *seat_share(const struct session *, const struct tenant *);

/*
 * One more statement or command of the session's organization; false: it is
 * over its rate_queries, and s->retry_ms says when it may try again: SESSION_NEVER
 * where that is more than there may ever be at once.  What was
 * paid ahead (s->paid) is used up first.
 */
bool seat_pay(struct session *) __attribute__((warn_unused_result));
/* Ahead of the n requests that it is for: all of them are paid for, however
 * often that is asked, or none. */
bool seat_pay_ahead(struct session *, unsigned n) __attribute__((warn_unused_result));
/* So many operations of a batch, by rate_operations, and requests by rate_queries:
 * all of them, or none.  Who is refused is counted where its client hears of it. */
enum seat_paid { SEAT_PAID, SEAT_NO_OPERATIONS, SEAT_NO_QUERIES };
enum seat_paid seat_pay_operations(struct session *, unsigned operations, unsigned requests)
    __attribute__((warn_unused_result));
bool seat_pay_requests(struct session *, unsigned n) __attribute__((warn_unused_result));
/* One that was paid for comes again. */
void seat_pay_back(struct session *);

#endif

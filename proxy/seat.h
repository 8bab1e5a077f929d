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
void seats_give(struct session *);
/* The limits of a new configuration hold for who is there already. */
void seats_reload(struct weir *, const struct conf *);

/* The servers that the organization's clients hold, counted, with the limit of
 * now; the caller's reference.  NULL: no place. */
struct budget *seat_share(const struct session *, const struct tenant *);

/*
 * One more statement or command of the session's organization; false: it is
 * over its rate_queries, and s->retry_ms says when it may try again.  What was
 * paid ahead (s->paid) is used up first.
 */
bool seat_pay(struct session *) __attribute__((warn_unused_result));
/* The same ahead of the request that it is for, once. */
bool seat_pay_ahead(struct session *) __attribute__((warn_unused_result));
/* One more operation of a batch, by its rate_operations. */
bool seat_pay_operation(struct session *) __attribute__((warn_unused_result));

#endif

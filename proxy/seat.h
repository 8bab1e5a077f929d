/*
 * seat: a session's place among those of its user and of its organization.
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

struct conf_user;
struct session;
struct tenant;

/*
 * Both seats, in place of those it had; or, where one is not free, neither and
 * why, and it keeps what it had.  `tenant` may be NULL.
 */
bool seats_take(struct session *, const struct conf_user *, const struct tenant *, enum why *)
    __attribute__((warn_unused_result));
void seats_give(struct session *);

#endif

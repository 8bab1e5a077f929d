/*
 * pg_switch: a service user chooses another organization.
 *
 * By SET [LOCAL] weir.organization = 'slug', by SET of a variable that says
 * which organization it is, by SELECT set_config() of one, or by RESET.  A
 * text that does one of these and nothing else is answered here and sent to
 * nobody: the session's label and tenant change, and with them what the next
 * bind puts on a server, where that server is, and whose turn it is.  Any
 * other text that sets such a variable is refused, so that nothing runs with
 * an organization that was not chosen here.
 *
 * LOCAL, or the first thing in a transaction, it holds for the lease that the
 * owed BEGIN begins; then what was before comes back, unless the transaction
 * set it for good and committed.
 *
 * Safety:   a session's tenant changes only while it holds no server, or by a
 *           bind of the one it keeps (pg_server_switch()).
 */
#ifndef PROXY_PG_SWITCH_H
#define PROXY_PG_SWITCH_H

#include "protocol/pg.h"
#include "protocol/sql.h"
#include "proxy/pg_message.h"

struct pg_hello;

/* It may, from here on; its log-in says what RESET goes back to. */
void pg_switch_open(struct pg_session *, struct pg_hello *);
void pg_switch_free(struct pg_session *);

/* Is it such a text?  Of sessions that may not, none is. */
bool pg_switch_is(const struct pg_session *, struct slice text, struct sql_switch *);
/* Why it was not carried out. */
enum pg_switch_wrong {
	PG_SWITCH_PLACE,	/* the user may choose it, elsewhere */
	PG_SWITCH_UNKNOWN,	/* there is no such organization for this user */
	PG_SWITCH_LEAKS		/* rls_check = require keeps from where it is */
};
enum pg_switch_wrong pg_switch_wrong(const struct pg_session *, const struct sql_switch *);
/*
 * Carries it out, with this value: true, or false and nothing has changed.  No
 * server is in hand, or one at rest outside of a transaction.
 */
bool pg_switch_run(struct pg_session *, const struct sql_switch *, const char *value)
    __attribute__((warn_unused_result));
/* RESET ALL: the organization of the log-in. */
void pg_switch_reset(struct pg_session *);
/* What its SELECT returns, or the tag of its command. */
int  pg_switch_answer(struct buf *, const struct sql_switch *, const char *value,
    bool describe, unsigned format);
/* The transaction is over; a server that is kept is at rest. */
void pg_switch_end(struct pg_session *, bool committed);
/* A text goes to the server: can its end be told from its tags? */
void pg_switch_note(struct pg_session *, struct slice text, unsigned flags);

#endif

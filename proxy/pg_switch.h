/*
 * pg_switch: a service user chooses another organization.
 *
 * By SET [LOCAL] weir.organization = 'slug', by SET of a variable that says
 * which organization it is, by SELECT set_config() of one, or by RESET.  A
 * text that does one of these and nothing else is answered here: the
 * session's label and tenant change, and with them what the next bind puts on
 * a server, where that server is, and whose turn it is.  Any other text that
 * sets such a variable is refused, so that nothing runs with an organization
 * that was not chosen here.  One of the directory is looked up, and the
 * session waits.
 *
 * LOCAL, or the first thing in a transaction, it holds for the lease that the
 * owed BEGIN begins; then what was before comes back, unless the transaction
 * set it for good and committed.
 *
 * Behind the first statement of a transaction it is put on the server by
 * set_config(..., true), LOCAL or not: so PostgreSQL takes it back at the end
 * of the transaction and at a ROLLBACK TO, and what the server's label says is
 * true again whatever happened.  Until it is confirmed nothing else is sent;
 * should it fail, the server is closed.  That cannot be where the
 * organization is on another upstream, or where settings have been taken back
 * in the transaction: there it is an error.  Savepoints are followed, so that
 * which one is set is known behind a ROLLBACK TO; where one was sent together
 * with other commands of its kind it is not, and choosing is an error again,
 * until the transaction ends.
 *
 * RESET ALL and DISCARD ALL go to the server, and the session to the
 * organization of its log-in once they are done and have not been rolled back.
 *
 * Safety:   a session's tenant changes only while it holds no server, or by a
 *           bind of the one it keeps (pg_server_switch(), ..._local()).
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
/* What RESET goes back to, but for what says whose the session is.  One reference. */
struct label *pg_switch_startup(struct pg_session *);

/* Is it such a text?  Of sessions that may not, none is. */
bool pg_switch_is(const struct pg_session *, struct slice text, struct sql_switch *);

enum pg_switched {
	PG_SWITCH_DONE,
	PG_SWITCH_LATER,	/* it is being looked up; the session is woken */
	PG_SWITCH_NO		/* and nothing has changed */
};

/*
 * Carries it out, with this value.  No server is in hand, or one at rest that
 * is not in a failed transaction.
 */
enum pg_switched pg_switch_run(struct pg_session *, const struct sql_switch *, const char *value)
    __attribute__((warn_unused_result));
/* Did it say NO to that a moment ago?  Why it did, or would: the place is wrong. */
bool	 pg_switch_tried(const struct pg_session *, const struct sql_switch *);
enum why pg_switch_why(const struct pg_session *, const struct sql_switch *, const char **text);
/* What its SELECT returns, or the tag of its command. */
/* Its ParameterDescription, and RowDescription or NoData. */
int  pg_switch_describe(struct buf *, const struct sql_switch *);
int  pg_switch_answer(struct buf *, const struct sql_switch *, const char *value,
    bool describe, unsigned format);
/* The transaction is over, and all settings may have been taken back; a server
 * that is kept is at rest. */
void pg_switch_end(struct pg_session *, bool committed, bool reset);
/*
 * May this text run in the transaction?  One that ends it and goes on is
 * refused: what is behind the end would have the wrong organization.
 */
bool pg_switch_may_end(const struct pg_session *, struct slice text, unsigned flags);
/* It goes to the server.  Is the end of the transaction on its way?  Then
 * what follows waits for it. */
void pg_switch_note(struct pg_session *, struct slice text, unsigned flags);
/* The same of a Bind; a savepoint is believed if the unnamed portal is executed next. */
void pg_switch_bind(struct pg_session *, struct slice portal, struct slice text, unsigned flags);
void pg_switch_execute(struct pg_session *, bool unnamed);
/* Has the transaction that is open, or owed, chosen one? */
bool pg_switch_is_away(const struct pg_session *);
bool pg_switch_is_ending(const struct pg_session *);
/* The server has come to rest, in a transaction or not. */
void pg_switch_rest(struct pg_session *);

#endif

/*
 * pg_message: what each message of a PostgreSQL client means, once its turn
 * has come.
 *
 * Messages are looked at where they lie.  Neighbours that go to the server as
 * they are travel in one piece (struct feed); only names of prepared
 * statements are changed on the way.  Every message that will be answered is
 * noted in the server's ledger first.
 *
 * Views:    a feed's bytes are the stream's; the step consumes them when the
 *           round is over.
 * Safety:   pg_message_flush() and its kin assert that the server is, or is
 *           about to be, of the session's organization.
 */
#ifndef PROXY_PG_MESSAGE_H
#define PROXY_PG_MESSAGE_H

#include "protocol/pg.h"
#include "proxy/pg_session.h"

/* A view of the client's bytes: [run, at) is judged and goes out verbatim. */
struct feed {
	const uint8_t *p;
	size_t n, at, run;
};

void pg_message_flush(struct pg_session *, struct feed *);
/* This message, as far as it is here, goes nowhere; nor does what follows of it. */
void pg_message_drop(struct pg_session *, struct feed *, uint32_t size);
/* Asserts that the server is, or is about to be, of the session's organization. */
void pg_message_check_stamp(const struct pg_session *);
/* With a server in hand: is it this message's turn, or must what was asked
 * before be answered first? */
bool pg_message_may_run(const struct pg_session *, const struct feed *, const struct pg_frame *);
/* A command that begins or ends a transaction, and counts for no rate. */
bool pg_message_is_free(const struct feed *, const struct pg_frame *);
/* One message, with a server in hand. */
void pg_message_run(struct pg_session *, struct feed *, const struct pg_frame *);
/* Describe or Close: its kind, the name, and the statement if it names one. */
struct stmt_entry *pg_message_named(struct pg_session *, struct feed *, uint32_t size,
    uint8_t *kind, struct slice *name, bool *bad);
/* The client's unnamed statement: its Parse message's body, from text on. */
void pg_message_keep_unnamed(struct pg_session *, struct slice body, unsigned flags);
void pg_message_drop_unnamed(struct pg_session *);
/* May this client not run this text (sql_scan()'s flags)? */
bool pg_message_is_refused(const struct pg_session *, struct slice text, unsigned flags);
/* The body of the Parse, from text on, or the text of its statement of that name,
 * or of the unnamed one; empty: none. */
struct slice pg_message_body(const struct pg_session *, struct slice name);
struct slice pg_message_text(const struct pg_session *, struct slice name);
/* Does it matter which organization this client's statements name? */
bool pg_message_is_watched(const struct pg_session *);
/* Is it a DEALLOCATE of a statement the client prepared in the extended
 * protocol?  Then it is dropped. */
bool pg_message_deallocate(struct pg_session *, struct slice text);
/* It keeps its server, for this reason, until it leaves or discards all. */
void pg_message_pin(struct pg_session *, const char *reason);
/* A Query or Sync is done with, or something in its place. */
void pg_message_synced(struct pg_session *);
/* The server came to the error we asked for, or skipped it (done is false). */
void pg_message_poisoned(struct pg_session *, uint32_t id, bool done);
void pg_message_leaving(struct pg_session *);	/* good-bye, once all is answered */
void pg_message_bad(struct pg_session *);	/* ends the session: protocol violation */

#endif

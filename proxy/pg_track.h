/*
 * pg_track: what a session has set, so that any server can be given it.
 *
 * A SET goes to the server as it is; of it weir reads which setting it names,
 * and no more.  When the transaction is over, the server is asked what those
 * settings are now, so that values, DEFAULT, failures, ROLLBACK and ROLLBACK TO
 * need not be understood.  The answer is laid over the session's label: from
 * there on it is put on every server the session borrows, as its startup
 * settings are, and taken back for whoever comes next.
 *
 * What cannot be put elsewhere, or would harm others there, pins the session to
 * its server as any other state does: names in `staying` of protocol/sql.c, great
 * values, values beyond ASCII, timeouts of less than a second.  Of a session
 * that is pinned nothing is tracked.
 *
 * Owner:    the session; allocated when it first sets something.
 * Bounds:   TRACK_MAX settings, TRACK_VALUE bytes a value, TRACK_BYTES in all;
 *           beyond that it is pinned.
 * Safety:   from the SET to the answer the server is `touched`: lost sight of,
 *           it is reset before anybody else has it.
 */
#ifndef PROXY_PG_TRACK_H
#define PROXY_PG_TRACK_H

#include "proxy/pg_session.h"

enum { TRACK_MAX = 32, TRACK_VALUE = 1024, TRACK_BYTES = 4096 };

/* A text of SQL_TRACKS goes to the server, or a RESET of something.  False: it
 * must pin. */
bool pg_track_note(struct pg_session *, struct slice text) __attribute__((warn_unused_result));
void pg_track_note_reset(struct pg_session *);
/* At rest between transactions: is there something to ask?  Then it is asked,
 * and the session waits for its server to come to rest again. */
bool pg_track_ask(struct pg_session *);
/* What the server said: it is the session's label's, and the server's, or the
 * reason to pin, which is returned. */
const char *pg_track_hear(struct pg_session *) __attribute__((warn_unused_result));
/* What was taken back on the server will be put again: the client hears of it,
 * if it has heard otherwise.  At rest between transactions. */
void pg_track_restore(struct pg_session *);
/* Lays it over the label that the session has been given otherwise. */
void pg_track_apply(struct pg_session *);
/* Its server has been given back: what is no longer set is forgotten. */
void pg_track_settle(struct pg_session *);
/* It is pinned: its settings are its server's own affair.  At rest. */
void pg_track_drop(struct pg_session *);
void pg_track_free(struct pg_session *);
/* The session's label from here on; takes the reference. */
void pg_track_relabel(struct pg_session *, struct label *);

#endif

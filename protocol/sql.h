/*
 * sql: what a statement may leave behind in its session.
 *
 * One pass over the text, as cheap as a memchr or two: a lexer that knows
 * comments, quotes and dollar quotes, and looks at the first word of each
 * statement and at a few words anywhere.  When it cannot know, it says the
 * more careful thing.  What functions do inside the server it cannot see.
 */
#ifndef PROTOCOL_SQL_H
#define PROTOCOL_SQL_H

#include "protocol/slice.h"

enum sql_flag {
	SQL_PIN = 1 << 0,	/* leaves state that must stay with the server: SET, LISTEN,
				   PREPARE, TEMP, WITH HOLD, advisory locks, ... */
	SQL_UNSETS = 1 << 1,	/* takes settings back: RESET, DISCARD ALL */
	SQL_SETTING = 1 << 2,	/* names settings: SET, SET LOCAL, RESET, set_config() */
	SQL_TAINTS = 1 << 3,	/* leaves what DISCARD ALL does not undo: LOAD, setseed */
	SQL_HIDES = 1 << 4,	/* sets who the session is (ROLE, SESSION AUTHORIZATION,
				   row_security), or a setting whose name cannot be read */
	SQL_RECALLS = 1 << 5	/* asks what a nextval() before it has given: the first
				   statement of the text calls currval or lastval */
};

unsigned sql_scan(struct slice text);

/* Does the text hold the last part of this setting's name, in either case,
 * anywhere?  However the rest of it is quoted or spaced. */
bool sql_mentions(struct slice text, const char *setting);

#endif

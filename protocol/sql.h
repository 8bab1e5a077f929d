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
	SQL_PIN = 1 << 0,	/* leaves state that must stay with the server: LISTEN,
				   PREPARE, TEMP, WITH HOLD, advisory locks, a SET that
				   cannot be repeated, ... */
	SQL_UNSETS = 1 << 1,	/* takes settings back: RESET, DISCARD ALL */
	SQL_SETTING = 1 << 2,	/* names settings: SET, SET LOCAL, RESET, set_config() */
	SQL_TAINTS = 1 << 3,	/* leaves what DISCARD ALL does not undo: LOAD, setseed */
	SQL_HIDES = 1 << 4,	/* sets who the session is (ROLE, SESSION AUTHORIZATION),
				   or a setting whose name cannot be read, or defaults of
				   whoever logs in */
	SQL_RECALLS = 1 << 5,	/* asks what a nextval() before it has given: the first
				   statement of the text calls currval or lastval */
	SQL_FORGETS = 1 << 6,	/* drops all prepared statements: DISCARD ALL, DEALLOCATE ALL */
	SQL_XACT = 1 << 7,	/* a statement begins like those of sql_transaction() */
	SQL_DROPS = 1 << 8,	/* a statement is a DEALLOCATE of one name */
	SQL_RESETS = 1 << 9,	/* a statement is RESET ALL or DISCARD ALL */
	SQL_PEEKS = 1 << 10,	/* names pg_prepared_statements, where the texts of all who had
				   the server before can be read, or what could read it */
	SQL_MARKS = 1 << 11,	/* a statement is a SAVEPOINT or a RELEASE */
	SQL_TRACKS = 1 << 12	/* gives settings values that any server can be given as well:
				   sql_sets() names them */
};

unsigned sql_scan(struct slice text);

/*
 * A text that is one command of a transaction block and nothing else, with
 * no word in it that is not of PostgreSQL's grammar for it.
 */
enum sql_xact { SQL_NO_XACT, SQL_BEGIN, SQL_START, SQL_COMMIT, SQL_ROLLBACK };

enum sql_mode {		/* of BEGIN and START TRANSACTION; 0: as the server's default is */
	SQL_READ_UNCOMMITTED = 1,
	SQL_READ_COMMITTED = 2,
	SQL_REPEATABLE_READ = 3,
	SQL_SERIALIZABLE = 4,
	SQL_ISOLATION = 7,	/* mask of the four */
	SQL_READ_ONLY = 1 << 3,
	SQL_READ_WRITE = 1 << 4,
	SQL_DEFERRABLE = 1 << 5,
	SQL_NOT_DEFERRABLE = 1 << 6
};

enum { SQL_BEGIN_MAX = 80 };

enum sql_xact sql_transaction(struct slice text, unsigned *modes);
/* A BEGIN with these modes, and its length. */
size_t	      sql_begin(char out[SQL_BEGIN_MAX], unsigned modes);

/*
 * The name in a text that is one DEALLOCATE of a name and nothing else, as
 * the server would look it up: in lower case unless quoted.  Its length, or 0:
 * the text is something else, or the name is not one of `max` bytes.
 */
size_t sql_deallocated(struct slice text, char *name, size_t max);

/* A text that gives one setting one value, and does nothing else. */
struct sql_switch {
	char	 name[64];	/* in lower case unless quoted */
	char	 value[256];
	char	 column[64];	/* of a SELECT: what its column is called */
	unsigned param;		/* not 0: the value is this parameter */
	bool	 reset;		/* no value: the default */
	bool	 local;		/* for the transaction */
	bool	 select;	/* SELECT set_config(), else SET or RESET */
	const char *tag;	/* of its CommandComplete */
};

bool sql_switch(struct slice text, struct sql_switch *);

/* Is it one of these and nothing else? */
enum sql_mark { SQL_NO_MARK, SQL_SAVEPOINT, SQL_RELEASE, SQL_ROLLBACK_TO };

enum { SQL_NAME_MAX = 64 };

/* `name` is the savepoint's, as the server knows it; empty where it is too long
 * or spelled in a way that is not read here. */
enum sql_mark sql_mark(struct slice text, char name[SQL_NAME_MAX]);

/* The settings that a text of SQL_TRACKS gives values, in lower case; false: they
 * are too many.  Which values, and whether it came to that, only the server knows. */
enum { SQL_SETS_MAX = 16 };

struct sql_sets {
	unsigned n;
	char	 name[SQL_SETS_MAX][SQL_NAME_MAX];
};

bool sql_sets(struct slice text, struct sql_sets *);
/* Is it DISCARD ALL and nothing else? */
bool sql_is_discard_all(struct slice text);

/* Does the text hold the last part of this setting's name, in either case,
 * anywhere?  However the rest of it is quoted or spaced. */
bool sql_mentions(struct slice text, const char *setting);

/* Is it the first word, comments and empty statements aside? */
bool sql_begins(struct slice text, const char *word);
/* Words, signs and literals, counted up to `max` + 1. */
size_t sql_tokens(struct slice text, size_t max);

#endif

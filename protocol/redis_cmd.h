/*
 * redis_cmd: the commands of Redis 7.0 and what weir does with each.
 *
 * One row a command, generated from Redis's own COMMAND reply by
 * protocol/redis_cmd.py into redis_cmd_table.h; weir's class and risk are two
 * more columns.  Adding or reclassifying one means editing the lists in that
 * script and running it.
 *
 * Safety:   Redis compares option words as C strings, so `BLOCK` with a NUL
 *           and a tail still blocks.  What is not understood to the letter is
 *           therefore never REDIS_SHARED.
 */
#ifndef PROTOCOL_REDIS_CMD_H
#define PROTOCOL_REDIS_CMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/slice.h"

enum redis_class {
	REDIS_SHARED,		/* over a shared connection */
	REDIS_LOCAL,		/* weir answers */
	REDIS_DEDICATED,	/* needs a connection of its own */
	REDIS_REFUSED		/* cannot be carried at all */
};

/* Whom it may hurt: what profile `shared` refuses, and to whom. */
enum redis_risk {
	REDIS_SAFE,		/* nobody but who may name the key; Redis's own ACL decides */
	REDIS_PROBE,		/* shows or reaches what is others': who has an organization */
	REDIS_HEARS,		/* hears others', where their user is the same: an organization's */
	REDIS_OTHER_DB,		/* is a probe where it names another database */
	REDIS_DANGER		/* harms everybody on that upstream: all */
};

struct redis_cmd {
	const char	*name;		/* lower case; subcommands as `client|id` */
	uint8_t		 name_size;
	int16_t		 arity;		/* as COMMAND says it: negative is a minimum */
	int16_t		 first_key, last_key, step;
	uint8_t		 class;		/* enum redis_class */
	uint8_t		 risk;		/* enum redis_risk */
	bool		 blocks;	/* xread, xreadgroup: dedicated when BLOCK is given */
	bool		 heavy;		/* its time or reply grows with what is stored */
	bool		 is_write;
	bool		 no_auth;	/* legal before AUTH */
	uint8_t		 sub_count;	/* of a container: its subcommands */
	uint16_t	 sub_first;
};

/* NULL: Redis 7.0 has no such command.  The name's case does not matter. */
const struct redis_cmd *redis_cmd_find(struct slice name);

/*
 * The subcommand arg[1] of a container: its own row, with its own arity and
 * class; NULL: no container, or it has no such subcommand.
 */
const struct redis_cmd *redis_cmd_sub(const struct redis_cmd *, const struct slice *arg, size_t argc);

/* Is argc legal for it?  argc counts the name. */
bool redis_cmd_arity_ok(const struct redis_cmd *, size_t argc);

/*
 * The class of one whole request: redis_cmd.class, made exact by arguments
 * (XREAD with BLOCK is DEDICATED, CONFIG GET is LOCAL).
 */
enum redis_class redis_cmd_class(const struct redis_cmd *, const struct slice *arg, size_t argc);

/*
 * May it name another database than `db`?  Of COPY, whose options Redis reads
 * as C strings; so whatever is not understood to the letter may.
 */
bool redis_cmd_other_db(const struct slice *arg, size_t argc, unsigned db);

/* As REDIS_CMD_TEXT_MAX bytes hold whole; each ends in a NUL and has no '-' in front. */
enum { REDIS_CMD_TEXT_MAX = 512 };

/* Redis's exact "unknown command" text, without the leading '-'. */
void redis_cmd_unknown_text(const struct slice *arg, size_t argc, char *out, size_t);

/* The same for arg[1] of a container, and for a wrong number of arguments. */
void redis_cmd_unknown_sub_text(const struct redis_cmd *, struct slice sub, char *out, size_t);
void redis_cmd_arity_text(const struct redis_cmd *, char *out, size_t);

/* The i-th command by name, subcommands left out; NULL past the last. */
const struct redis_cmd *redis_cmd_at(size_t i);

#endif

/*
 * redis_cmd: the commands of Redis 7.0 and what weir does with each.
 *
 * One row a command, generated from Redis's own COMMAND reply by
 * protocol/redis_cmd.py into redis_cmd_table.h; weir's class is one more
 * column.  Adding or reclassifying one means editing the list in that script.
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
	REDIS_REFUSED		/* dangerous on a shared upstream */
};

struct redis_cmd {
	const char	*name;		/* lower case; subcommands as `client|id` */
	int16_t		 arity;		/* as COMMAND says it: negative is a minimum */
	int16_t		 first_key, last_key, step;
	uint8_t		 class;		/* enum redis_class */
	bool		 blocks;	/* xread, xreadgroup: dedicated when BLOCK is given */
	bool		 is_write;
	bool		 no_auth;	/* legal before AUTH */
};

/* NULL: Redis 7.0 has no such command.  The name's case does not matter. */
const struct redis_cmd *redis_cmd_find(struct slice name);

/* Is argc legal for it?  argc counts the name. */
bool redis_cmd_arity_ok(const struct redis_cmd *, size_t argc);

/*
 * The class of one whole request: redis_cmd.class, made exact by arguments
 * (XREAD with BLOCK is DEDICATED).
 */
enum redis_class redis_cmd_class(const struct redis_cmd *, const struct slice *arg, size_t argc);

/* Redis's exact "unknown command" text, without the leading '-'. */
void redis_cmd_unknown_text(const struct slice *arg, size_t argc, char *out, size_t);

#endif

#include "protocol/redis_cmd.h"

#include <assert.h>
#include <stdio.h>

#include "protocol/redis_cmd_table.h"
#include "protocol/resp_number.h"

enum {
	SHOWN_MAX =
	    128,      /* bytes of a name, and of all arguments, in an error */
	ECHO_ROOM = 3 /* quotes and blank around an argument shown */
};

/*
 * Finding by name.  A name is seen as two words: its first and last eight
 * bytes (they may overlap), or fewer of a short one.  Two words and the length
 * tell names of up to 16 bytes apart completely; the few longer ones have
 * their middle compared too.
 */
struct name_word {
	uint64_t head, tail;
};

static inline uint64_t
load64(const uint8_t *p)
{
	return (uint64_t)p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 |
	       (uint64_t)p[3] << 24 | (uint64_t)p[4] << 32 |
	       (uint64_t)p[5] << 40 | (uint64_t)p[6] << 48 |
	       (uint64_t)p[7] << 56;
}

static inline uint64_t
load32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
	       (uint32_t)p[3] << 24;
}

/*
 * Eight bytes to lower case at once.  With the top bits away, adding 0x3f
 * carries into a top bit from 'A' on, adding 0x25 from after 'Z' on; a letter
 * has one carry and not the other.
 */
static inline uint64_t
lower(uint64_t w)
{
	const uint64_t each = UINT64_C(0x0101010101010101);
	uint64_t seven = w & each * 0x7f;
	uint64_t upper = (seven + each * 0x3f) & ~(seven + each * 0x25) & ~w;

	return w | (upper & each * 0x80) >> 2;
}

/* n > 0.  redis_cmd.py has the same in word(). */
static inline struct name_word
name_word(const uint8_t *p, size_t n)
{
	if (n >= 8)
		return (struct name_word){ load64(p), load64(p + n - 8) };
	if (n >= 4)
		return (struct name_word){ load32(p), load32(p + n - 4) };
	return (struct name_word){ (uint64_t)p[0] | (uint64_t)p[n / 2] << 8 |
				       (uint64_t)p[n - 1] << 16,
				   0 };
}

static inline size_t
name_slot(struct name_word w)
{
	const uint64_t seed = REDIS_CMD_SEED;
	uint64_t h = (w.head * seed) ^ (w.tail * (seed >> 7 | 1));

	return (size_t)(h * seed >> (64 - REDIS_CMD_SLOT_BITS));
}

static bool
has_name(const struct redis_cmd *cmd, struct slice name, struct name_word w)
{
	struct name_word own;

	if (cmd->name_size != name.n)
		return false;
	own = name_word((const uint8_t *)cmd->name, name.n);
	if (own.head != w.head || own.tail != w.tail)
		return false;
	return name.n <= 16 || slice_is_word(name, cmd->name);
}

const struct redis_cmd *
redis_cmd_find(struct slice name)
{
	const size_t mask = (1 << REDIS_CMD_SLOT_BITS) - 1;
	struct name_word w;

	if (name.n == 0)
		return NULL;
	w = name_word(name.p, name.n);
	w.head = lower(w.head);
	w.tail = lower(w.tail);
	for (size_t i = name_slot(w); redis_cmd_slot[i]; i = (i + 1) & mask) {
		const struct redis_cmd *cmd =
		    &redis_cmd_row[redis_cmd_slot[i] - 1];

		if (has_name(cmd, name, w))
			return cmd;
	}
	return NULL;
}

const struct redis_cmd *
redis_cmd_at(size_t i)
{
	return i < REDIS_CMD_COUNT ? &redis_cmd_row[i] : NULL;
}

const struct redis_cmd *
redis_cmd_sub(const struct redis_cmd *cmd, const struct slice *arg, size_t argc)
{
	assert(cmd->sub_first + cmd->sub_count <= REDIS_CMD_SUB_COUNT);
	if (argc < 2)
		return NULL;
	for (size_t i = 0; i < cmd->sub_count; i++) {
		const struct redis_cmd *sub =
		    &redis_cmd_sub_row[cmd->sub_first + i];

		if (slice_is_word(arg[1], sub->name + cmd->name_size + 1))
			return sub;
	}
	return NULL;
}

bool
redis_cmd_arity_ok(const struct redis_cmd *cmd, size_t argc)
{
	assert(cmd->arity != 0);
	if (cmd->arity > 0)
		return argc == (size_t)cmd->arity;
	return argc >= (size_t)-cmd->arity;
}

/*
 * XREAD and XREADGROUP: the options up to STREAMS are read as Redis reads
 * them, so that a key, group or count of the name "block" is none.  Any word
 * that is not one of them to the letter may be BLOCK in disguise.
 */
static enum redis_class
class_of_read(const struct slice *arg, size_t argc)
{
	size_t i = 1;

	while (i < argc) {
		if (slice_is_word(arg[i], "streams"))
			return REDIS_SHARED;
		if (slice_is_word(arg[i], "noack"))
			i += 1;
		else if (slice_is_word(arg[i], "count"))
			i += 2;
		else if (slice_is_word(arg[i], "group"))
			i += 3;
		else
			break;
	}
	return REDIS_DEDICATED;
}

enum redis_class
redis_cmd_class(const struct redis_cmd *cmd, const struct slice *arg,
		size_t argc)
{
	const struct redis_cmd *sub;

	assert(argc > 0);
	if (cmd->blocks)
		return class_of_read(arg, argc);
	if (cmd->sub_count > 0 && (sub = redis_cmd_sub(cmd, arg, argc)) != NULL)
		return (enum redis_class)sub->class;
	return (enum redis_class)cmd->class;
}

bool
redis_cmd_other_db(const struct slice *arg, size_t argc, unsigned db)
{
	int64_t named;

	for (size_t i = 3; i < argc; i++) {
		if (slice_is_word(arg[i], "replace"))
			continue;
		if (!slice_is_word(arg[i], "db") || ++i == argc ||
		    !resp_number(arg[i].p, arg[i].n, &named) || named != db)
			return true;
	}
	return false;
}

/* As much of s as printf's %.*s would show: up to max bytes or a NUL. */
static int
shown(struct slice s, size_t max)
{
	return (int)slice_text(s.p, s.n < max ? s.n : max).n;
}

void
redis_cmd_unknown_text(const struct slice *arg, size_t argc, char *out,
		       size_t size)
{
	char args[SHOWN_MAX + ECHO_ROOM + 1] = "";
	size_t used = 0;

	assert(argc > 0);
	for (size_t i = 1; i < argc && used < SHOWN_MAX; i++)
		used += (size_t)snprintf(
		    args + used, sizeof(args) - used, "'%.*s' ",
		    shown(arg[i], SHOWN_MAX - used), (const char *)arg[i].p);
	snprintf(out, size,
		 "ERR unknown command '%.*s', with args beginning with: %s",
		 shown(arg[0], SHOWN_MAX), (const char *)arg[0].p, args);
}

void
redis_cmd_unknown_sub_text(const struct redis_cmd *cmd, struct slice sub,
			   char *out, size_t size)
{
	char name[32];
	size_t n = cmd->name_size;

	assert(n < sizeof(name));
	for (size_t i = 0; i <= n; i++)
		name[i] = cmd->name[i] >= 'a' && cmd->name[i] <= 'z'
			      ? (char)(cmd->name[i] - 'a' + 'A')
			      : cmd->name[i];
	snprintf(out, size, "ERR unknown subcommand '%.*s'. Try %s HELP.",
		 shown(sub, SHOWN_MAX), (const char *)sub.p, name);
}

void
redis_cmd_arity_text(const struct redis_cmd *cmd, char *out, size_t size)
{
	/* Redis has a prefix of its own for whatever keeps EXEC from running. */
	bool is_exec = strcmp(cmd->name, "exec") == 0;

	snprintf(out, size, "%s wrong number of arguments for '%s' command",
		 is_exec ? "EXECABORT Transaction discarded because of:"
			 : "ERR",
		 cmd->name);
}

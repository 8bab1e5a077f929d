#include "protocol/redis_slot.h"

#include "protocol/redis_cmd.h"
#include "protocol/redis_where.h"
#include "protocol/resp_number.h"

/* CRC-16/XMODEM by half bytes: x^16 + x^12 + x^5 + 1, from the top, from 0. */
static unsigned
crc16(struct slice s)
{
	static const uint16_t of[16] = { 0x0000, 0x1021, 0x2042, 0x3063,
					 0x4084, 0x50a5, 0x60c6, 0x70e7,
					 0x8108, 0x9129, 0xa14a, 0xb16b,
					 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef };
	unsigned crc = 0;

	for (size_t i = 0; i < s.n; i++) {
		crc = (crc << 4 & 0xffff) ^ of[crc >> 12 ^ s.p[i] >> 4];
		crc = (crc << 4 & 0xffff) ^ of[crc >> 12 ^ (s.p[i] & 15)];
	}
	return crc;
}

unsigned
redis_slot(struct slice key)
{
	const uint8_t *open = key.n > 0 ? memchr(key.p, '{', key.n) : NULL;
	const uint8_t *end = key.p + key.n, *close;

	if (open != NULL &&
	    (close = memchr(open + 1, '}', (size_t)(end - open - 1))) != NULL &&
	    close > open + 1)
		key = slice_of(open + 1, (size_t)(close - open - 1));
	return crc16(key) % REDIS_SLOTS;
}

/* Where the number of keys stands; they follow it. */
static size_t
count_at(const struct redis_cmd *cmd)
{
	static const struct {
		const char *name;
		size_t at;
	} of[] = {
		{ "eval", 2 },       { "eval_ro", 2 },    { "evalsha", 2 },
		{ "evalsha_ro", 2 }, { "fcall", 2 },      { "fcall_ro", 2 },
		{ "blmpop", 2 },     { "bzmpop", 2 },     { "lmpop", 1 },
		{ "zmpop", 1 },      { "sintercard", 1 }, { "zintercard", 1 },
		{ "zunion", 1 },     { "zinter", 1 },     { "zdiff", 1 },
	};

	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
		if (strcmp(cmd->name, of[i].name) == 0)
			return of[i].at;
	return 0;
}

/* The word, at `from` or behind it, and the key behind that; 0: not there. */
static size_t
key_behind(const struct slice *arg, size_t argc, size_t from, const char *name)
{
	for (size_t i = from; i + 1 < argc; i++)
		if (slice_is_word(arg[i], name))
			return i + 1;
	return 0;
}

/* The place of the first key; 0: none. */
static size_t
first_key(const struct redis_cmd *cmd, const struct slice *arg, size_t argc)
{
	size_t at = (size_t)cmd->first_key;
	int64_t n;

	if (strcmp(cmd->name, "migrate") == 0 && argc > 3 && arg[3].n == 0)
		return key_behind(arg, argc, 6, "keys");
	if (at > 0)
		return at < argc ? at : 0;
	if (strcmp(cmd->name, "xread") == 0)
		return key_behind(arg, argc, 1, "streams");
	if (strcmp(cmd->name, "xreadgroup") == 0)
		return key_behind(arg, argc, 4, "streams");
	if ((at = count_at(cmd)) == 0 || at + 1 >= argc ||
	    !resp_number(arg[at].p, arg[at].n, &n) || n <= 0 ||
	    (uint64_t)n > argc - at - 1)
		return 0;
	return at + 1;
}

int
redis_slot_of(const struct slice *arg, size_t argc)
{
	const struct redis_cmd *cmd = argc > 0 ? redis_cmd_find(arg[0]) : NULL;
	const struct redis_cmd *sub;
	size_t at;

	if (cmd == NULL)
		return REDIS_SLOT_NONE;
	if (cmd->sub_count > 0 && (sub = redis_cmd_sub(cmd, arg, argc)) != NULL)
		cmd = sub;
	at = first_key(cmd, arg, argc);
	return at == 0 ? REDIS_SLOT_NONE : (int)redis_slot(arg[at]);
}

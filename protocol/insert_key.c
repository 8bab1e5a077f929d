#include <stdio.h>
#include <string.h>

#include "protocol/insert.h"

/* Types whose values have one key however they are sent; from pg_type.dat. */
enum oid {
	OID_NONE = 0,
	OID_INT8 = 20,
	OID_INT2 = 21,
	OID_INT4 = 23,
	OID_TEXT = 25,
	OID_UNKNOWN = 705, /* as good as none, in text */
	OID_VARCHAR = 1043,
	OID_UUID = 2950
};

/* What it is a key of goes in front: what looks alike is not alike. */
enum family { NULLS = 'n', UUIDS = 'u', INTEGERS = 'i', TEXTS = 't' };

static bool
find_type(const char *name, unsigned *type)
{
	static const struct {
		const char *name;
		enum oid oid;
	} types[] = {
		{ "uuid", OID_UUID }, { "int2", OID_INT2 },
		{ "int4", OID_INT4 }, { "int8", OID_INT8 },
		{ "text", OID_TEXT }, { "varchar", OID_VARCHAR },
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (strcmp(types[i].name, name) == 0) {
			*type = types[i].oid;
			return true;
		}
	return false;
}

/* FNV-1a, and the last mixing of MurmurHash3: all bits depend on all bytes. */
static uint64_t
hash(enum family family, const uint8_t *p, size_t n)
{
	uint64_t h = (0xcbf29ce484222325u ^ (uint64_t)family) * 0x100000001b3u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 0x100000001b3u;
	h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
	h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
	return h ^ (h >> 33);
}

static int
digit_of(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

/* As uuid_in() reads it: braces around all, dashes behind any two bytes. */
bool
insert_read_uuid(const uint8_t *p, size_t n, uint8_t out[INSERT_UUID])
{
	const uint8_t *end = p + n;

	if (n >= 2 && p[0] == '{') {
		if (end[-1] != '}')
			return false;
		p++;
		end--;
	}
	for (size_t i = 0; i < INSERT_UUID; i++) {
		int high, low;

		if (end - p < 2)
			return false;
		high = digit_of(*p++);
		low = digit_of(*p++);
		if (high == 16 || low == 16)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
		if (i % 2 == 1 && i < INSERT_UUID - 1 && p < end && *p == '-')
			p++;
	}
	return p == end;
}

static bool
is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* 16, 8 or 2 with its prefix gone, as PostgreSQL 16 reads integers; or 10. */
static int
take_base(const uint8_t **p, const uint8_t *end)
{
	uint8_t c = end - *p > 2 && **p == '0' ? (*p)[1] | 32 : 0;

	if (c != 'x' && c != 'o' && c != 'b')
		return 10;
	*p += 2;
	return c == 'x' ? 16 : c == 'o' ? 8 : 2;
}

/* As int8in() reads it, and what it will read: underscores between digits. */
static bool
read_integer(const uint8_t *p, size_t n, int64_t *out)
{
	const uint8_t *end = p + n;
	bool minus, any = false;
	int base;
	int64_t v = 0;

	for (; p < end && is_space(*p); p++)
		;
	for (; p < end && is_space(end[-1]); end--)
		;
	if ((minus = p < end && *p == '-') || (p < end && *p == '+'))
		p++;
	base = take_base(&p, end);
	for (; p < end; p++) {
		int digit = digit_of(*p);

		if (*p == '_' && end - p > 1)
			continue;
		if (digit >= base || __builtin_mul_overflow(v, base, &v) ||
		    __builtin_sub_overflow(v, digit, &v))
			return false;
		any = true;
	}
	if (!any || (!minus && v == INT64_MIN))
		return false;
	*out = minus ? v : -v;
	return true;
}

static uint64_t
key_of_integer(int64_t v)
{
	return hash(INTEGERS, (const uint8_t *)&v, sizeof(v));
}

/* Of a type not known, it may be any of them: by what it can be read as. */
static uint64_t
key_of_text(const uint8_t *p, size_t n)
{
	uint8_t uuid[INSERT_UUID];
	int64_t integer;

	if (insert_read_uuid(p, n, uuid))
		return hash(UUIDS, uuid, sizeof(uuid));
	if (read_integer(p, n, &integer))
		return key_of_integer(integer);
	return hash(TEXTS, p, n);
}

static bool
key_of_binary(unsigned type, const uint8_t *p, size_t n, uint64_t *key)
{
	uint64_t v = 0;

	if (type == OID_TEXT || type == OID_VARCHAR) {
		*key = key_of_text(p, n);
		return true;
	}
	if (type == OID_UUID && n == INSERT_UUID) {
		*key = hash(UUIDS, p, n);
		return true;
	}
	if ((type != OID_INT2 || n != 2) && (type != OID_INT4 || n != 4) &&
	    (type != OID_INT8 || n != 8))
		return false;
	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	v = n == 2 ? (uint64_t)(int16_t)v : n == 4 ? (uint64_t)(int32_t)v : v;
	*key = key_of_integer((int64_t)v);
	return true;
}

bool
insert_key(const struct insert_column *c, unsigned type, int format,
	   const void *value, ssize_t n, uint64_t *key)
{
	unsigned cast = OID_NONE;

	if ((c->kind != INSERT_PARAM && c->kind != INSERT_CONST) ||
	    (c->cast != NULL && !find_type(c->cast, &cast)))
		return false;
	if (c->kind == INSERT_CONST) {
		type = OID_NONE;
		format = 0;
		value = c->text;
		n = c->text ? (ssize_t)strlen(c->text) : -1;
	}
	if (type == OID_NONE || type == OID_UNKNOWN)
		type = cast;
	if (type != OID_NONE && type != OID_UUID && type != OID_TEXT &&
	    type != OID_VARCHAR && type != OID_INT2 && type != OID_INT4 &&
	    type != OID_INT8)
		return false;
	if (n < 0) {
		*key = hash(NULLS, NULL, 0);
		return true;
	}
	if (format == 0) {
		*key = key_of_text(value, (size_t)n);
		return true;
	}
	return format == 1 && key_of_binary(type, value, (size_t)n, key);
}

/*
 * resp_number: the numbers of the Redis protocol, for its two parsers alone.
 *
 * In a header because a request is little more than such numbers, and the
 * short ones are worth a few instructions instead of a call.
 */
#ifndef PROTOCOL_RESP_NUMBER_H
#define PROTOCOL_RESP_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RESP_DIGITS_FAST = 10 };		/* so many cannot overflow */

/* Decimal as Redis takes it: no plus, no blank, no leading zero, no "-0". */
static inline bool
resp_number(const uint8_t *p, size_t n, int64_t *value)
{
	bool minus = n > 0 && p[0] == '-';
	uint64_t limit = (uint64_t)INT64_MAX + minus;
	uint64_t v = 0;

	if (n == 1 && p[0] == '0') {
		*value = 0;
		return true;
	}
	if (n == minus || p[minus] == '0')
		return false;
	for (size_t i = minus; i < n; i++) {
		uint8_t digit = (uint8_t)(p[i] - '0');

		if (digit > 9 || v > (limit - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = minus ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

/*
 * The common case of a length line: a type byte, a few digits (mostly one), CR,
 * one more byte.  Bytes it takes, or 0: look closer.
 */
static inline size_t
resp_short_line(const uint8_t *p, size_t n, int64_t *value)
{
	int64_t v = 0;
	size_t i = 1;

	if (n >= 4 && p[2] == '\r' && (uint8_t)(p[1] - '0') <= 9) {
		*value = p[1] - '0';
		return 4;
	}
	for (; i < n && i <= RESP_DIGITS_FAST; i++) {
		uint8_t digit = (uint8_t)(p[i] - '0');

		if (digit > 9)
			break;
		v = v * 10 + digit;
	}
	if (i == 1 || n - i < 2 || p[i] != '\r' || (p[1] == '0' && i > 2))
		return 0;
	*value = v;
	return i + 2;
}

#endif

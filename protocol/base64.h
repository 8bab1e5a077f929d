/*
 * base64: texts of tokens and of SCRAM as bytes (RFC 4648, sections 4 and 5).
 *
 * One text for one value: no whitespace, no stray bits at the end, padding
 * complete and only there where it belongs.  EVP_DecodeBlock() forgives all of
 * that, and knows no other alphabet.
 */
#ifndef PROTOCOL_BASE64_H
#define PROTOCOL_BASE64_H

#include "protocol/slice.h"

enum base64 {
	BASE64,			/* + and /, padded with = */
	BASE64_URL		/* - and _, not padded */
};

/* Into `out` of `max` bytes; -1: the text is no such one, or is longer. */
int base64_get(enum base64, uint8_t *out, size_t max, size_t *len, struct slice text)
    __attribute__((warn_unused_result));

#endif

/*
 * utf8: is it text?
 *
 * Source: RFC 3629; nothing longer than need be, no surrogates, nothing above
 * U+10FFFF.
 */
#ifndef PROTOCOL_UTF8_H
#define PROTOCOL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the one character that begins at p, of n > 0; 0: there is none. */
size_t utf8_length(const uint8_t *p, size_t n);
bool   utf8_is_text(const void *, size_t n);	/* all of it */

#endif

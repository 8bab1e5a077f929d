/*
 * slice: a view of bytes somebody else owns.
 */
#ifndef PROTOCOL_SLICE_H
#define PROTOCOL_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

struct slice {
	const uint8_t *p;
	size_t	       n;
};

static inline struct slice
slice_of(const void *p, size_t n)
{
	return (struct slice){ p, n };
}

static inline struct slice
slice_str(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* Up to the first NUL of n bytes, or all.  libpg_query brings a strnlen() of its
 * own, slower than what is built of this. */
static inline struct slice
slice_text(const void *p, size_t n)
{
	const uint8_t *nul = n > 0 ? memchr(p, '\0', n) : NULL;

	return slice_of(p, nul == NULL ? n : (size_t)(nul - (const uint8_t *)p));
}

static inline bool
slice_is(struct slice a, const char *s)
{
	return a.n == strlen(s) && (a.n == 0 || memcmp(a.p, s, a.n) == 0);
}

/* ASCII letters of either case. */
static inline bool
slice_is_word(struct slice a, const char *s)
{
	return a.n == strlen(s) &&
	    (a.n == 0 || strncasecmp((const char *)a.p, s, a.n) == 0);
}

#endif

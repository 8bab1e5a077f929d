/*
 * mem: memory which is there or the process ends.
 *
 * For amounts with a small bound of their own: settings, and texts that come from them or are as
 * short.  What a client can make large is bounded where it is read.
 *
 * Owner:    the caller; free() gives it back.
 */
#ifndef CONF_MEM_H
#define CONF_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline void *
mem_or_abort(void *p, size_t n, const char *what)
{
	if (p == NULL) {
		fprintf(stderr, "weir: out of memory: %zu bytes for %s\n", n, what);
		abort();
	}
	return p;
}

/* n zeroed objects; never NULL, not even for none. */
static inline void *
mem_zero(size_t n, size_t size, const char *what)
{
	return mem_or_abort(calloc(n ? n : 1, size), n * size, what);
}

/* The first n bytes of p as a string. */
static inline char *
mem_text(const char *p, size_t n)
{
	char *s = mem_zero(n + 1, 1, "a text");

	memcpy(s, p, n);
	return s;
}

/* The string, or NULL. */
static inline char *
mem_copy(const char *s)
{
	return s ? mem_text(s, strlen(s)) : NULL;
}

/* Room for one more in an array that grows by doubling at powers of two. */
static inline void *
mem_more(void *array, size_t n, size_t size)
{
	if ((n & (n - 1)) != 0)
		return array;
	n = n ? 2 * n : 1;
	return mem_or_abort(realloc(array, n * size), n * size, "a list");
}

#endif

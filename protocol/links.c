#include "protocol/links.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Both halves of the product; the factors hold a secret each. */
static uint64_t
fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t
links_hash(const struct links_key *key, struct slice text, uint64_t more)
{
	uint64_t h = fold(more ^ key->a, text.n ^ key->b);

	while (text.n > 0) {
		uint64_t part[2] = { 0 };
		size_t n = text.n < sizeof(part) ? text.n : sizeof(part);

		memcpy(part, text.p, n);
		h = fold(part[0] ^ key->a ^ h, part[1] ^ key->b);
		text.p += n;
		text.n -= n;
	}
	return h ^ h >> 32;
}

static void
resize(struct links *t, size_t size)
{
	struct link **bucket =
	    size ? calloc(size, sizeof(struct link *)) : NULL;

	if (size > 0 && bucket == NULL)
		abort();
	for (size_t i = 0; i < t->size; i++) {
		for (struct link *next, *l = t->bucket[i]; l; l = next) {
			struct link **at = &bucket[l->hash & (size - 1)];

			next = l->next;
			l->next = *at;
			*at = l;
		}
	}
	free(t->bucket);
	t->bucket = bucket;
	t->size = size;
}

void
links_add(struct links *t, struct link *l, uint64_t hash)
{
	struct link **at;

	if (t->n >= t->size)
		resize(t, t->size ? t->size * 2 : LINKS_FIRST);
	at = &t->bucket[hash & (t->size - 1)];
	l->hash = hash;
	l->next = *at;
	*at = l;
	t->n++;
}

void
links_remove(struct links *t, struct link *l)
{
	struct link **at = &t->bucket[l->hash & (t->size - 1)];

	assert(t->n > 0);
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	l->next = NULL;
	t->n--;
	if (t->n == 0)
		resize(t, 0);
	else if (t->size > LINKS_FIRST && t->n < t->size / 8)
		resize(t, t->size / 2);
}

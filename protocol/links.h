/*
 * links: a table of what is found by a hash, as large as it has to be.
 *
 * Chains of links that are embedded in what they find; who looks something up
 * walks the chain and compares for himself:
 *
 *     for (struct link *l = links_at(t, hash); l != NULL; l = l->next)
 *             if (l->hash == hash && is_it(l)) ...
 *
 * Owner:    whoever embeds it; what is linked is his too.  An empty table owns
 *           no memory.
 * Safety:   the hashes are keyed: who chooses the names cannot choose chains.
 */
#ifndef PROTOCOL_LINKS_H
#define PROTOCOL_LINKS_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/slice.h"

enum { LINKS_FIRST = 16 };

struct link {
	struct link *next;
	uint64_t     hash;
};

struct links {
	struct link **bucket;
	size_t	      size;	/* a power of two, or 0 */
	size_t	      n;
};

/* Random, the same as long as what is hashed is looked for. */
struct links_key {
	uint64_t a, b;
};

uint64_t links_hash(const struct links_key *, struct slice, uint64_t more);

void links_add(struct links *, struct link *, uint64_t hash);
void links_remove(struct links *, struct link *);

static inline struct link *
links_at(const struct links *t, uint64_t hash)
{
	return t->size == 0 ? NULL : t->bucket[hash & (t->size - 1)];
}

#endif

/*
 * ledger: what a server still owes, in the order it will pay.
 *
 * One entry a request message on its way, oldest first.  The answer that
 * completes the head goes where the entry says; an entry whose lessee has
 * gone is swallowed.  A server with an empty ledger owes nothing, and only
 * such a server may be pooled.
 *
 * Owner:    the server that embeds it.
 * Bounds:   LEDGER_MAX entries; the lessee stops sending before (ledger_full).
 */
#ifndef POOL_LEDGER_H
#define POOL_LEDGER_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lessee;

enum { LEDGER_FIRST = 16, LEDGER_MAX = 1 << 14 };

enum ledger_action {
	LEDGER_FORWARD,		/* the answer is the lessee's */
	LEDGER_SWALLOW,		/* asked for by us, or by one who has gone */
	LEDGER_FAKE		/* the server was not asked: we answer at its turn */
};

struct ledger_entry {
	struct lessee *lessee;	/* NULL: nobody */
	uint32_t       arg;	/* means what the kind says */
	uint16_t       slot;	/* the same: of the server's own book-keeping */
	uint8_t	       kind;	/* the protocol's own numbering */
	uint8_t	       action;
};

struct ledger {
	struct ledger_entry *ring;
	uint32_t	     head, n, size;	/* size: a power of two, or 0 */
};

void ledger_free(struct ledger *);
void ledger_push(struct ledger *, struct ledger_entry);
void ledger_pop(struct ledger *);
/* Every entry of this lessee becomes nobody's. */
void ledger_disown(struct ledger *, const struct lessee *);

static inline bool
ledger_full(const struct ledger *l)
{
	return l->n >= LEDGER_MAX - 64;	/* room for what we add on our own */
}

static inline bool
ledger_has_room(const struct ledger *l, size_t n)
{
	return l->n + n <= LEDGER_MAX - 64;
}

/* The i-th entry from the head; i < n. */
static inline struct ledger_entry *
ledger_at(const struct ledger *l, uint32_t i)
{
	assert(i < l->n);
	return &l->ring[(l->head + i) & (l->size - 1)];
}

#endif

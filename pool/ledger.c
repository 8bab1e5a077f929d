#include "pool/ledger.h"

#include <stdlib.h>

void
ledger_free(struct ledger *l)
{
	free(l->ring);
	*l = (struct ledger){ 0 };
}

static void
ledger_grow(struct ledger *l)
{
	uint32_t size = l->size ? l->size * 2 : LEDGER_FIRST;
	struct ledger_entry *ring = malloc(size * sizeof(*ring));

	if (ring == NULL)
		abort(); /* bounded by LEDGER_MAX: the machine is full */
	for (uint32_t i = 0; i < l->n; i++)
		ring[i] = *ledger_at(l, i);
	free(l->ring);
	*l = (struct ledger){ .ring = ring, .n = l->n, .size = size };
}

void
ledger_push(struct ledger *l, struct ledger_entry e)
{
	assert(l->n < LEDGER_MAX);
	if (l->n == l->size)
		ledger_grow(l);
	l->n++;
	*ledger_at(l, l->n - 1) = e;
}

/* A long ring is given back once it has been emptied. */
void
ledger_pop(struct ledger *l)
{
	assert(l->n > 0);
	l->head = (l->head + 1) & (l->size - 1);
	l->n--;
	if (l->n == 0 && l->size > LEDGER_FIRST * 16)
		ledger_free(l);
}

void
ledger_disown(struct ledger *l, const struct lessee *who)
{
	for (uint32_t i = 0; i < l->n; i++) {
		struct ledger_entry *e = ledger_at(l, i);

		if (e->lessee == who) {
			e->lessee = NULL;
			e->action = LEDGER_SWALLOW;
		}
	}
}

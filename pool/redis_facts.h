/*
 * redis_facts: what a Redis has said of itself at its last log-in: for HELLO,
 * which clients are told before they have a server.
 *
 * HELLO 3 tells it, so it is learnt where a pool speaks RESP3, and for nothing.
 * Nobody waits for it: until then, and with an upstream that only RESP2 is spoken
 * with, it is not known.
 *
 * Owner:    struct weir.
 * Bounds:   one for each upstream there ever was in the configuration.
 * Threads:  all calls from any, but for init and fini.
 */
#ifndef POOL_REDIS_FACTS_H
#define POOL_REDIS_FACTS_H

#include <pthread.h>
#include <stdbool.h>

#include "protocol/slice.h"

enum { REDIS_FACT_MAX = 32 };

struct conf_redis;

/* Printable, and "" where it has not said it. */
struct redis_facts_of {
	char server[REDIS_FACT_MAX], version[REDIS_FACT_MAX];
	char mode[REDIS_FACT_MAX], role[REDIS_FACT_MAX];
};

struct redis_facts {
	pthread_mutex_t lock;
	struct redis_facts_entry *first;
};

void redis_facts_init(struct redis_facts *);
void redis_facts_fini(struct redis_facts *);
/* From the reply to HELLO, all of it, as a map of RESP3; anything else says nothing. */
void redis_facts_learn(struct redis_facts *, const struct conf_redis *, struct slice reply);
/* All "" if nothing is known. */
void redis_facts_about(struct redis_facts *, const struct conf_redis *, struct redis_facts_of *);

#endif

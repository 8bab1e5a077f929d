/*
 * tickets: the keys that seal the sessions of clients, so that a client may
 * resume one on any worker, and after a reload.
 *
 * A key seals for TICKETS_AGE_S and opens for as long again; what the older
 * one opened is sealed anew.  So a key that leaks opens what was recorded in
 * one day, not in the life of the process.
 *
 * Owner:    whoever embeds it; a context that uses it must not outlive it.
 * Units:    seconds of any clock that does not go backwards.
 * Threads:  any, behind a lock that is held for a copy.
 */
#ifndef TLS_TICKETS_H
#define TLS_TICKETS_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum { TICKETS_AGE_S = 12 * 3600, TICKETS_NAME = 16, TICKETS_SECRET = 32 };

struct tickets_key {
	uint8_t	 name[TICKETS_NAME];	/* in clear in the ticket */
	uint8_t	 cipher[TICKETS_SECRET];
	uint8_t	 mac[TICKETS_SECRET];
	uint64_t born_s;
	bool	 known;
};

struct tickets {
	pthread_mutex_t	   lock;
	struct tickets_key newer, older;
};

void tickets_init(struct tickets *);
void tickets_fini(struct tickets *);
/* The keys of an earlier configuration, instead of those there are. */
void tickets_copy(struct tickets *to, struct tickets *from);
void tickets_use(struct tickets *, SSL_CTX *);

/* The key to seal with, a new one if need be.  -1: no random bytes. */
int  tickets_seal(struct tickets *, uint64_t now_s, struct tickets_key *)
    __attribute__((warn_unused_result));
/* The key of that name.  0: none, or too old.  2: found, but seal anew. */
int  tickets_open(struct tickets *, uint64_t now_s, const uint8_t *name, struct tickets_key *)
    __attribute__((warn_unused_result));

#endif

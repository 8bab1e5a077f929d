/*
 * verifiers: what weir shows a SCRAM client of a user's password, the same for
 * as long as the process runs.
 *
 * A salt is made from the name and a key of this process, for users and for
 * names that are nobody's alike: neither asking twice, nor a reload, nor a
 * user who is new tells one from the other.  Of a name with a dot the part
 * before the last one counts, so that `name.slug` has one salt for every slug.
 * The keys that go with a salt cost a PBKDF2; they are made once for each name
 * and password, by the caller on a thread that may burn, and kept here.
 *
 * Owner:    struct weir.
 * Bounds:   VERIFIERS_MAX are kept; at the limit all are forgotten.
 * Threads:  any; a lock held for a look-up.
 * Secrets:  a password is kept as its HMAC.
 */
#ifndef PROXY_VERIFIERS_H
#define PROXY_VERIFIERS_H

#include <stdbool.h>

#include "protocol/scram.h"

enum { VERIFIERS_MAX = 200000 };

struct verifiers;

struct verifiers *verifiers_open(void);		/* NULL: no memory or no random bytes */
void		  verifiers_close(struct verifiers **);
/* The verifier of nobody: the name's salt, and keys that fit no password. */
void verifiers_mock(const struct verifiers *, const char *name, struct scram_verifier *);
/* That of a name and its password.  False: not made yet, and nothing is written. */
bool verifiers_find(struct verifiers *, const char *name, const char *password,
    struct scram_verifier *) __attribute__((warn_unused_result));
/* One that was made of a mock's salt and rounds. */
void verifiers_keep(struct verifiers *, const char *name, const char *password,
    const struct scram_verifier *);

#endif

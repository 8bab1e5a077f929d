/*
 * context: who a database connection is lent to, signed, as the value of one
 * setting that policies of row level security can trust.
 *
 * Any SQL may set any setting of this kind, so its value has to prove itself:
 *
 *     weir1.ORGANIZATION.USER.PID.EXPIRY.MAC
 *
 * ORGANIZATION (its id) and USER (who logged in to weir): their bytes in lower
 * case hex.  PID: pg_backend_pid() of the one backend it is good for.  EXPIRY:
 * seconds since 1970; a transaction that begins later is refused, one that has
 * begun before goes on.  Both in decimal.  MAC: HMAC-SHA256 of all that stands
 * before its dot, by a key the database has too, in lower case hex.  No field
 * can hold a dot and none may be left out, so no two contents have the same
 * text.  `weir1` is the version of all this: another one is another format.
 *
 * Who verifies: deployment/fly/postgresql/schema/context.sql.
 *
 * Owner:    texts are malloc'ed, and the caller's.
 */
#ifndef PROTOCOL_CONTEXT_H
#define PROTOCOL_CONTEXT_H

#include <stdint.h>

enum { CONTEXT_KEY_MIN = 32 };	/* bytes of a key */

/* The part that is the same on every server and at any time, up to USER. */
char *context_subject(const char *organization, const char *user)
    __attribute__((warn_unused_result));
/* The whole, for that backend, good until then. */
char *context_sign(const char *subject, const char *key, uint32_t pid, uint64_t expiry)
    __attribute__((warn_unused_result));
/* Of two keys these differ; of the key it says nothing.  Never 0. */
uint64_t context_key_id(const char *key);

#endif

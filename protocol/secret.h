/*
 * secret: comparing and hashing passwords where SCRAM is not spoken.
 *
 * Pure arithmetic over bytes (libcrypto); comparisons take the same time
 * whatever the secrets are.
 */
#ifndef PROTOCOL_SECRET_H
#define PROTOCOL_SECRET_H

#include <stdbool.h>

#include "protocol/slice.h"

enum { SECRET_MAX_BYTES = 64 << 10, PG_MD5 = 35 };	/* "md5" and 32 digits */

/* Is what was given the stored password? */
bool secret_same(struct slice given, const char *stored);

/* PostgreSQL's stored form: md5 and the digest of password and user name. */
int  pg_md5_store(char out[PG_MD5 + 1], const char *password, const char *user)
    __attribute__((warn_unused_result));
/* What is sent for it: the stored form's digits, hashed with the salt.  -1:
 * the library has no MD5 (FIPS mode). */
int  pg_md5_answer(char out[PG_MD5 + 1], const char *stored, const uint8_t salt[4])
    __attribute__((warn_unused_result));
bool pg_md5_is_stored(const char *text);	/* has the stored form */

#endif

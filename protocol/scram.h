/*
 * scram: SCRAM-SHA-256 for both ends of a connection (RFC 5802, RFC 7677, as
 * PostgreSQL uses it: the user name in the exchange is ignored).
 *
 * Pure arithmetic over bytes: nonces and salts are arguments, PBKDF2 is a call
 * of its own (scram_salted_password) so that it can run on another thread.
 *
 * Client end:  scram_client_first -> server-first -> scram_client_parse ->
 *              scram_salted_password (slow) and scram_keys_make, or keys that
 *              are known already -> scram_client_final ->
 *              server-final -> scram_client_verify
 * Server end:  client-first -> scram_server_first -> client-final ->
 *              scram_server_final
 *
 * Bounds:   SCRAM_MESSAGE_MAX bytes a message, SCRAM_SALT_MAX bytes of salt,
 *           SCRAM_ITERATIONS_MAX rounds; what passes a bound is malformed.
 * Errors:   0, or -1: malformed, out of turn (a message that came twice or
 *           before its predecessor), or the proof is wrong.  Comparisons of
 *           secrets take constant time.
 * Secrets:  the structs hold keys: OPENSSL_cleanse() them before freeing.
 */
#ifndef PROTOCOL_SCRAM_H
#define PROTOCOL_SCRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SCRAM_KEY = 32,			/* SHA-256 */
	SCRAM_SALT_MAX = 256,
	SCRAM_NONCE_RAW = 18,		/* random bytes, base64 in the message */
	SCRAM_NONCE_MAX = 256,		/* both nonces together, as text */
	SCRAM_MESSAGE_MAX = 2048,
	SCRAM_ITERATIONS = 4096,	/* for verifiers we make */
	SCRAM_ITERATIONS_MAX = 100000,	/* asked for by a server: more is an attack */
	SCRAM_BINDING_MAX = 64		/* bytes of tls-server-end-point data */
};

/* What a server stores instead of a password: SCRAM-SHA-256$i:salt$stored:server */
struct scram_verifier {
	uint32_t iterations;
	uint16_t salt_len;
	uint8_t	 salt[SCRAM_SALT_MAX];
	uint8_t	 stored_key[SCRAM_KEY];
	uint8_t	 server_key[SCRAM_KEY];
};

/*
 * PBKDF2-HMAC-SHA256: milliseconds of CPU. `out` is the SaltedPassword.
 *
 * The bytes of the password are taken as they are.  PostgreSQL applies SASLprep
 * to a password that is valid UTF-8 beyond ASCII, and takes the bytes when that
 * fails.  The two agree for ASCII and for composed (NFKC) text without
 * non-ASCII blanks, which is what keyboards produce.
 */
int scram_salted_password(uint8_t out[SCRAM_KEY], const char *password,
    const uint8_t *salt, size_t salt_len, uint32_t iterations)
    __attribute__((warn_unused_result));
/*
 * What a client needs to log in, and all that is made of the salted password.
 * Good for servers that hold the same verifier: same password, salt, rounds.
 */
struct scram_keys {
	uint8_t client[SCRAM_KEY], server[SCRAM_KEY];
};

void scram_keys_make(struct scram_keys *, const uint8_t salted[SCRAM_KEY]);

int scram_verifier_make(struct scram_verifier *, const char *password,
    const uint8_t *salt, size_t salt_len, uint32_t iterations)
    __attribute__((warn_unused_result));
/* Reads PostgreSQL's rolpassword form; -1 if it is not one. */
int scram_verifier_parse(struct scram_verifier *, const char *text)
    __attribute__((warn_unused_result));
/*
 * A verifier no password matches, for a user that does not exist: the same
 * salt for the same name and key, so that asking twice tells nothing.
 */
void scram_verifier_mock(struct scram_verifier *, const char *user,
    const uint8_t *key, size_t key_len);

struct scram_client {
	bool	 plus;			/* channel binding in use */
	char	 nonce[SCRAM_NONCE_MAX + 1];	/* ours, then theirs behind it */
	size_t	 nonce_own_len;
	const char *gs2;		/* "n,,", "y,," or "p=tls-server-end-point,," */
	uint8_t	 binding[SCRAM_BINDING_MAX];
	size_t	 binding_len;
	char	 first_bare[SCRAM_MESSAGE_MAX + 1];
	char	 server_first[SCRAM_MESSAGE_MAX + 1];
	uint8_t	 salt[SCRAM_SALT_MAX];
	size_t	 salt_len;
	uint32_t iterations;
	uint8_t	 server_signature[SCRAM_KEY];
	bool	 proved;		/* server_signature is known: verify may compare */
};

/*
 * Texts are written with a trailing NUL into `out` of SCRAM_MESSAGE_MAX + 1 bytes.
 *
 * `binding` is the tls-server-end-point data, for SCRAM-SHA-256-PLUS.  NULL: we
 * cannot bind ("n,,").  Not NULL but of length 0: we could, but plain
 * SCRAM-SHA-256 is all they offered ("y,,"), which a server that did offer
 * -PLUS refuses, so nobody in between can hide the offer.
 */
int scram_client_first(struct scram_client *, const uint8_t nonce[SCRAM_NONCE_RAW],
    const uint8_t *binding, size_t binding_len, char *out)
    __attribute__((warn_unused_result));
int scram_client_parse(struct scram_client *, const char *server_first, size_t)
    __attribute__((warn_unused_result));
int scram_client_final(struct scram_client *, const struct scram_keys *, char *out)
    __attribute__((warn_unused_result));
int scram_client_verify(const struct scram_client *, const char *server_final, size_t)
    __attribute__((warn_unused_result));

struct scram_server {
	bool		      plus;	/* the client chose SCRAM-SHA-256-PLUS */
	struct scram_verifier verifier;
	char		      nonce[SCRAM_NONCE_MAX + 1];
	char		      gs2[32];	/* the client's header, as it must come back in c= */
	char		      first_bare[SCRAM_MESSAGE_MAX + 1];
	char		      server_first[SCRAM_MESSAGE_MAX + 1];
	uint8_t		      client_key[SCRAM_KEY];	/* known after the proof, for pass-through */
};

/*
 * `plus_offered`: we offered -PLUS, so a client that says it would have used
 * binding had we offered it (gs2 `y`) is being tampered with: refused.
 */
int scram_server_first(struct scram_server *, const struct scram_verifier *,
    bool plus, bool plus_offered, const uint8_t nonce[SCRAM_NONCE_RAW],
    const char *client_first, size_t, char *out)
    __attribute__((warn_unused_result));
int scram_server_final(struct scram_server *, const uint8_t *binding, size_t binding_len,
    const char *client_final, size_t, char *out)
    __attribute__((warn_unused_result));

#endif

#include "protocol/scram.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include "protocol/base64.h"
#include "protocol/slice.h"

#define GS2_BOUND       "p=tls-server-end-point,,"
#define VERIFIER_PREFIX "SCRAM-SHA-256$"

/* Base64 text of n bytes, and its NUL. */
#define BASE64_SIZE(n) (((n) + 2) / 3 * 4 + 1)

enum {
	GS2_MAX = sizeof(GS2_BOUND) - 1,
	C_BIND_SIZE = BASE64_SIZE(GS2_MAX + SCRAM_BINDING_MAX),
	KEY_TEXT_SIZE = BASE64_SIZE(SCRAM_KEY),
	SALT_TEXT_SIZE = BASE64_SIZE(SCRAM_SALT_MAX),
	NONCE_TEXT = SCRAM_NONCE_RAW / 3 * 4,
	/* What the longest text of ours is made of. */
	OURS_MAX =
	    64 + SCRAM_NONCE_MAX + C_BIND_SIZE + SALT_TEXT_SIZE + KEY_TEXT_SIZE,
	AUTH_MESSAGE_SIZE = 3 * (SCRAM_MESSAGE_MAX + 1)
};

static_assert(SCRAM_NONCE_RAW % 3 == 0, "our nonce needs no padding");
static_assert((int)NONCE_TEXT < (int)SCRAM_NONCE_MAX,
	      "room for the other nonce");
static_assert((int)OURS_MAX <= (int)SCRAM_MESSAGE_MAX, "our texts fit");

static void
base64_put(char *out, const uint8_t *p, size_t n)
{
	EVP_EncodeBlock((unsigned char *)out, p, (int)n);
}

static int
base64_get_key(uint8_t out[SCRAM_KEY], struct slice text)
{
	size_t n;

	if (base64_get(BASE64, out, SCRAM_KEY, &n, text) == -1 ||
	    n != SCRAM_KEY)
		return -1;
	return 0;
}

/* A count as the RFC writes it: no sign, no blank, no leading zero. */
static int
rounds_get(uint32_t *out, struct slice text)
{
	uint32_t v = 0;

	if (text.n == 0 || text.p[0] == '0')
		return -1;
	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] < '0' || text.p[i] > '9')
			return -1;
		v = v * 10 + (uint32_t)(text.p[i] - '0');
		if (v > SCRAM_ITERATIONS_MAX)
			return -1;
	}
	*out = v;
	return 0;
}

/* SHA-256 fails only for want of memory, as malloc() does. */
static void
hmac(uint8_t out[SCRAM_KEY], const uint8_t *key, size_t key_len,
     const void *data, size_t n)
{
	if (HMAC(EVP_sha256(), key, (int)key_len, data, n, out, NULL) == NULL)
		abort();
}

static void
hmac_text(uint8_t out[SCRAM_KEY], const uint8_t key[SCRAM_KEY],
	  const char *text)
{
	hmac(out, key, SCRAM_KEY, text, strlen(text));
}

static void
xor_key(uint8_t out[SCRAM_KEY], const uint8_t *a, const uint8_t *b)
{
	for (size_t i = 0; i < SCRAM_KEY; i++)
		out[i] = a[i] ^ b[i];
}

/*
 * Messages are lists of `x=value` with commas between.  A view of what is left
 * moves over them; a comma promises another attribute.
 */
static int
attribute_next(struct slice *rest, char *name, struct slice *value)
{
	const uint8_t *comma;

	if (rest->n < 2 || rest->p[1] != '=')
		return -1;
	*name = (char)rest->p[0];
	*value = slice_of(rest->p + 2, rest->n - 2);
	comma = memchr(value->p, ',', value->n);
	if (comma == NULL) {
		*rest = slice_of(rest->p + rest->n, 0);
		return 0;
	}
	value->n = (size_t)(comma - value->p);
	*rest = slice_of(comma + 1, rest->n - 2 - value->n - 1);
	return rest->n > 0 ? 0 : -1;
}

static int
attribute_want(struct slice *rest, char name, struct slice *value)
{
	char got;

	if (attribute_next(rest, &got, value) == -1 || got != name)
		return -1;
	return 0;
}

/*
 * An extension both sides may ignore.  `m` is the one that may not be ignored,
 * wherever it stands.
 */
static int
extension_next(struct slice *rest, char *name, struct slice *value)
{
	if (attribute_next(rest, name, value) == -1)
		return -1;
	if (!((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z')))
		return -1;
	return *name == 'm' ? -1 : 0;
}

static int
extensions_skip(struct slice rest)
{
	struct slice value;
	char name;

	while (rest.n > 0)
		if (extension_next(&rest, &name, &value) == -1)
			return -1;
	return 0;
}

/* Kept as C strings from here on: a NUL would hide what follows it. */
static bool
message_ok(const char *text, size_t n)
{
	return n > 0 && n <= SCRAM_MESSAGE_MAX && memchr(text, '\0', n) == NULL;
}

static bool
nonce_ok(struct slice nonce)
{
	for (size_t i = 0; i < nonce.n; i++)
		if (nonce.p[i] < 0x21 || nonce.p[i] > 0x7e)
			return false;
	return nonce.n > 0 && nonce.n <= SCRAM_NONCE_MAX;
}

static void
keep(char *out, struct slice text)
{
	memcpy(out, text.p, text.n);
	out[text.n] = '\0';
}

/* What both ends sign. */
static void
auth_message(char out[AUTH_MESSAGE_SIZE], const char *first_bare,
	     const char *server_first, struct slice final_without_proof)
{
	int n = snprintf(out, AUTH_MESSAGE_SIZE, "%s,%s,%.*s", first_bare,
			 server_first, (int)final_without_proof.n,
			 (const char *)final_without_proof.p);

	assert(n > 0 && n < AUTH_MESSAGE_SIZE);
}

/* The value of c=: the header that was sent, and the binding if it said so. */
static void
channel_put(char out[C_BIND_SIZE], const char *gs2, const uint8_t *binding,
	    size_t binding_len)
{
	uint8_t data[GS2_MAX + SCRAM_BINDING_MAX];
	size_t n = strlen(gs2);

	assert(n <= GS2_MAX);
	assert(binding_len <= SCRAM_BINDING_MAX);
	memcpy(data, gs2, n);
	if (binding_len > 0)
		memcpy(data + n, binding, binding_len);
	base64_put(out, data, n + binding_len);
}

int
scram_salted_password(uint8_t out[SCRAM_KEY], const char *password,
		      const uint8_t *salt, size_t salt_len, uint32_t iterations)
{
	if (salt_len == 0 || salt_len > SCRAM_SALT_MAX)
		return -1;
	if (iterations == 0 || iterations > SCRAM_ITERATIONS_MAX)
		return -1;
	if (PKCS5_PBKDF2_HMAC(password, (int)strlen(password), salt,
			      (int)salt_len, (int)iterations, EVP_sha256(),
			      SCRAM_KEY, out) != 1)
		return -1;
	return 0;
}

void
scram_keys_make(struct scram_keys *k, const uint8_t salted[SCRAM_KEY])
{
	hmac_text(k->client, salted, "Client Key");
	hmac_text(k->server, salted, "Server Key");
}

int
scram_verifier_make(struct scram_verifier *v, const char *password,
		    const uint8_t *salt, size_t salt_len, uint32_t iterations)
{
	uint8_t salted[SCRAM_KEY];
	struct scram_keys keys;

	*v = (struct scram_verifier){ .iterations = iterations };
	if (scram_salted_password(salted, password, salt, salt_len,
				  iterations) == -1)
		return -1;
	v->salt_len = (uint16_t)salt_len;
	memcpy(v->salt, salt, salt_len);
	scram_keys_make(&keys, salted);
	SHA256(keys.client, SCRAM_KEY, v->stored_key);
	memcpy(v->server_key, keys.server, SCRAM_KEY);
	OPENSSL_cleanse(salted, sizeof(salted));
	OPENSSL_cleanse(&keys, sizeof(keys));
	return 0;
}

/* The bytes before `end`, which is skipped; -1 if it does not come. */
static int
field_until(struct slice *rest, char end, struct slice *field)
{
	const uint8_t *p = memchr(rest->p, end, rest->n);

	if (p == NULL)
		return -1;
	*field = slice_of(rest->p, (size_t)(p - rest->p));
	*rest = slice_of(p + 1, rest->n - field->n - 1);
	return 0;
}

int
scram_verifier_parse(struct scram_verifier *v, const char *text)
{
	struct slice rest = slice_str(text), rounds, salt, stored;
	size_t prefix = strlen(VERIFIER_PREFIX), salt_len;

	*v = (struct scram_verifier){ 0 };
	if (strncmp(text, VERIFIER_PREFIX, prefix) != 0)
		return -1;
	rest = slice_of(rest.p + prefix, rest.n - prefix);
	if (field_until(&rest, ':', &rounds) == -1 ||
	    field_until(&rest, '$', &salt) == -1 ||
	    field_until(&rest, ':', &stored) == -1)
		return -1;
	if (rounds_get(&v->iterations, rounds) == -1 ||
	    base64_get(BASE64, v->salt, SCRAM_SALT_MAX, &salt_len, salt) ==
		-1 ||
	    salt_len == 0 || base64_get_key(v->stored_key, stored) == -1 ||
	    base64_get_key(v->server_key, rest) == -1)
		return -1;
	v->salt_len = (uint16_t)salt_len;
	return 0;
}

void
scram_verifier_mock(struct scram_verifier *v, const char *user,
		    const uint8_t *key, size_t key_len)
{
	enum { MOCK_SALT = 16 }; /* as long as PostgreSQL's */
	uint8_t seed[SCRAM_KEY], salt[SCRAM_KEY];

	static_assert((int)MOCK_SALT <= (int)SCRAM_KEY, "one HMAC is enough");
	*v = (struct scram_verifier){
		.iterations = SCRAM_ITERATIONS,
		.salt_len = MOCK_SALT,
	};
	hmac(seed, key, key_len, user, strlen(user));
	hmac_text(salt, seed, "salt");
	memcpy(v->salt, salt, MOCK_SALT);
	hmac_text(v->stored_key, seed, "stored");
	hmac_text(v->server_key, seed, "server");
	OPENSSL_cleanse(seed, sizeof(seed));
}

int
scram_client_first(struct scram_client *c, const uint8_t nonce[SCRAM_NONCE_RAW],
		   const uint8_t *binding, size_t binding_len, char *out)
{
	assert(binding != NULL || binding_len == 0);
	assert(binding_len <= SCRAM_BINDING_MAX);
	*c = (struct scram_client){
		.plus = binding_len > 0,
		.nonce_own_len = NONCE_TEXT,
		.gs2 = binding_len > 0   ? GS2_BOUND
		       : binding != NULL ? "y,,"
					 : "n,,",
		.binding_len = binding_len,
	};
	if (binding_len > 0)
		memcpy(c->binding, binding, binding_len);
	base64_put(c->nonce, nonce, SCRAM_NONCE_RAW);
	snprintf(c->first_bare, sizeof(c->first_bare), "n=,r=%.*s", NONCE_TEXT,
		 c->nonce);
	snprintf(out, SCRAM_MESSAGE_MAX + 1, "%s%.*s", c->gs2, OURS_MAX,
		 c->first_bare);
	return 0;
}

int
scram_client_parse(struct scram_client *c, const char *server_first, size_t n)
{
	struct slice rest = slice_of(server_first, n), nonce, salt, rounds;

	if (c->server_first[0] != '\0' || !message_ok(server_first, n))
		return -1;
	if (attribute_want(&rest, 'r', &nonce) == -1 ||
	    attribute_want(&rest, 's', &salt) == -1 ||
	    attribute_want(&rest, 'i', &rounds) == -1 ||
	    extensions_skip(rest) == -1)
		return -1;
	/* Ours in front proves it is an answer to us, theirs behind is fresh. */
	if (!nonce_ok(nonce) || nonce.n <= c->nonce_own_len ||
	    memcmp(nonce.p, c->nonce, c->nonce_own_len) != 0)
		return -1;
	if (base64_get(BASE64, c->salt, SCRAM_SALT_MAX, &c->salt_len, salt) ==
		-1 ||
	    c->salt_len == 0 || rounds_get(&c->iterations, rounds) == -1)
		return -1;
	keep(c->nonce, nonce);
	keep(c->server_first, slice_of(server_first, n));
	return 0;
}

int
scram_client_final(struct scram_client *c, const struct scram_keys *keys,
		   char *out)
{
	uint8_t stored_key[SCRAM_KEY], proof[SCRAM_KEY];
	char message[AUTH_MESSAGE_SIZE], channel[C_BIND_SIZE];
	char proof_text[KEY_TEXT_SIZE];
	size_t n;

	if (c->server_first[0] == '\0' || c->proved)
		return -1;
	channel_put(channel, c->gs2, c->binding, c->binding_len);
	snprintf(out, SCRAM_MESSAGE_MAX + 1, "c=%s,r=%s", channel, c->nonce);
	auth_message(message, c->first_bare, c->server_first, slice_str(out));

	SHA256(keys->client, SCRAM_KEY, stored_key);
	hmac_text(proof, stored_key, message);
	xor_key(proof, proof, keys->client);
	base64_put(proof_text, proof, SCRAM_KEY);
	n = strlen(out);
	snprintf(out + n, SCRAM_MESSAGE_MAX + 1 - n, ",p=%s", proof_text);

	hmac_text(c->server_signature, keys->server, message);
	c->proved = true;
	OPENSSL_cleanse(stored_key, sizeof(stored_key));
	return 0;
}

int
scram_client_verify(const struct scram_client *c, const char *server_final,
		    size_t n)
{
	struct slice rest = slice_of(server_final, n), value;
	uint8_t signature[SCRAM_KEY];

	/* Before our proof there is nothing to compare with but zeros. */
	if (!c->proved || !message_ok(server_final, n))
		return -1;
	/* An error is `e=...`, which is not a `v` either. */
	if (attribute_want(&rest, 'v', &value) == -1 ||
	    extensions_skip(rest) == -1 ||
	    base64_get_key(signature, value) == -1)
		return -1;
	if (CRYPTO_memcmp(signature, c->server_signature, SCRAM_KEY) != 0)
		return -1;
	return 0;
}

/*
 * The header says how the client sees channel binding, and must agree with the
 * mechanism it chose.  An authorization identity (`a=`) is refused, as
 * PostgreSQL does: there is no other user to become here.
 */
static int
gs2_take(struct scram_server *s, bool plus_offered, struct slice *rest)
{
	const char *gs2 = s->plus ? GS2_BOUND : "n,,";
	size_t len = strlen(gs2);

	if (!s->plus && !plus_offered && rest->n > 0 && rest->p[0] == 'y')
		gs2 = "y,,";
	if (rest->n < len || memcmp(rest->p, gs2, len) != 0)
		return -1;
	memcpy(s->gs2, gs2, len + 1);
	*rest = slice_of(rest->p + len, rest->n - len);
	return 0;
}

int
scram_server_first(struct scram_server *s, const struct scram_verifier *v,
		   bool plus, bool plus_offered,
		   const uint8_t nonce[SCRAM_NONCE_RAW],
		   const char *client_first, size_t n, char *out)
{
	struct slice rest = slice_of(client_first, n), bare, user, theirs;
	char salt[SALT_TEXT_SIZE];

	assert(v->salt_len > 0 && v->salt_len <= SCRAM_SALT_MAX);
	*s = (struct scram_server){ .plus = plus, .verifier = *v };
	if ((plus && !plus_offered) || !message_ok(client_first, n) ||
	    gs2_take(s, plus_offered, &rest) == -1)
		return -1;
	bare = rest;
	if (attribute_want(&rest, 'n', &user) == -1 ||
	    attribute_want(&rest, 'r', &theirs) == -1 ||
	    extensions_skip(rest) == -1)
		return -1;
	if (!nonce_ok(theirs) || theirs.n > SCRAM_NONCE_MAX - NONCE_TEXT)
		return -1;
	keep(s->first_bare, bare);
	keep(s->nonce, theirs);
	base64_put(s->nonce + theirs.n, nonce, SCRAM_NONCE_RAW);
	base64_put(salt, v->salt, v->salt_len);
	snprintf(s->server_first, sizeof(s->server_first), "r=%s,s=%s,i=%u",
		 s->nonce, salt, v->iterations);
	memcpy(out, s->server_first, strlen(s->server_first) + 1);
	return 0;
}

/* Splits client-final; `signed_part` is all of it but the proof. */
static int
client_final_parse(struct scram_server *s, const char *expected_channel,
		   struct slice message, struct slice *signed_part,
		   uint8_t proof[SCRAM_KEY])
{
	struct slice rest = message, channel, nonce, value;
	char name;

	if (attribute_want(&rest, 'c', &channel) == -1 ||
	    attribute_want(&rest, 'r', &nonce) == -1 ||
	    !slice_is(channel, expected_channel) || !slice_is(nonce, s->nonce))
		return -1;
	do {
		*signed_part = slice_of(message.p, message.n - rest.n - 1);
		if (extension_next(&rest, &name, &value) == -1)
			return -1;
	} while (name != 'p');
	if (rest.n > 0) /* nothing after the proof would be signed */
		return -1;
	return base64_get_key(proof, value);
}

int
scram_server_final(struct scram_server *s, const uint8_t *binding,
		   size_t binding_len, const char *client_final, size_t n,
		   char *out)
{
	uint8_t proof[SCRAM_KEY], key[SCRAM_KEY], stored[SCRAM_KEY];
	char message[AUTH_MESSAGE_SIZE], channel[C_BIND_SIZE];
	char signature[KEY_TEXT_SIZE];
	struct slice signed_part;

	if (s->server_first[0] == '\0' || !message_ok(client_final, n))
		return -1;
	if (s->plus && binding_len == 0)
		return -1;
	channel_put(channel, s->gs2, binding, s->plus ? binding_len : 0);
	if (client_final_parse(s, channel, slice_of(client_final, n),
			       &signed_part, proof) == -1)
		return -1;
	auth_message(message, s->first_bare, s->server_first, signed_part);
	s->server_first[0] = '\0'; /* one answer to one challenge */

	hmac_text(key, s->verifier.stored_key, message);
	xor_key(key, key, proof); /* the client's key, if the proof is right */
	SHA256(key, SCRAM_KEY, stored);
	if (CRYPTO_memcmp(stored, s->verifier.stored_key, SCRAM_KEY) != 0)
		return -1;
	memcpy(s->client_key, key, SCRAM_KEY);

	hmac_text(key, s->verifier.server_key, message);
	base64_put(signature, key, SCRAM_KEY);
	snprintf(out, SCRAM_MESSAGE_MAX + 1, "v=%s", signature);
	OPENSSL_cleanse(key, sizeof(key));
	return 0;
}

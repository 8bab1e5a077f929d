#include "protocol/jwt.h"

#include <assert.h>
#include <jansson.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/base64.h"

enum {
	HS256_SIGNATURE = SHA256_DIGEST_LENGTH,
	ES256_SIGNATURE = 64, /* r and s, 32 bytes each */
	RSA_BITS_MIN = 2048,
	RSA_BITS_MAX = 8192,
	SIGNATURE_MAX = RSA_BITS_MAX / 8
};

struct jwt_key {
	EVP_PKEY *pkey;
	int type; /* EVP_PKEY_RSA or EVP_PKEY_EC */
};

struct jwt {
	json_t *claims;
};

/* A token where it lies: what is signed, and its parts as text. */
struct parts {
	struct slice signed_text, header, payload, signature;
};

/* ---- keys ------------------------------------------------------------- */

static const char *
why_not_key(EVP_PKEY *pkey)
{
	char curve[32] = "";
	int bits = EVP_PKEY_get_bits(pkey);

	if (EVP_PKEY_get_base_id(pkey) == EVP_PKEY_RSA)
		return bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX
			   ? NULL
			   : "an RSA key of less than 2048 or more than 8192 "
			     "bits";
	if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_EC)
		return "a key that is neither RSA nor EC";
	if (EVP_PKEY_get_group_name(pkey, curve, sizeof(curve), NULL) != 1 ||
	    strcmp(curve, SN_X9_62_prime256v1) != 0)
		return "an EC key of another curve than P-256";
	return NULL;
}

struct jwt_key *
jwt_key_load(const char *pem, size_t n, const char **why)
{
	BIO *bio = BIO_new_mem_buf(pem, (int)n);
	EVP_PKEY *pkey =
	    bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
	struct jwt_key *key = NULL;

	BIO_free(bio);
	ERR_clear_error();
	*why = pkey ? why_not_key(pkey) : "not a public key";
	if (*why == NULL) {
		if ((key = calloc(1, sizeof(*key))) == NULL)
			abort();
		key->type = EVP_PKEY_get_base_id(pkey);
		key->pkey = pkey;
	} else {
		EVP_PKEY_free(pkey);
	}
	return key;
}

void
jwt_key_free(struct jwt_key **at)
{
	struct jwt_key *key = *at;

	*at = NULL;
	if (key == NULL)
		return;
	EVP_PKEY_free(key->pkey);
	free(key);
}

/* ---- the form --------------------------------------------------------- */

/* Up to the dot, which is skipped. */
static int
part_next(struct slice *rest, struct slice *part)
{
	const uint8_t *dot = memchr(rest->p, '.', rest->n);

	if (dot == NULL)
		return -1;
	*part = slice_of(rest->p, (size_t)(dot - rest->p));
	*rest = slice_of(dot + 1, rest->n - part->n - 1);
	return part->n > 0 ? 0 : -1;
}

static int
take_apart(struct parts *t, struct slice token)
{
	struct slice rest = token;

	if (token.n == 0 || token.n > JWT_MAX ||
	    part_next(&rest, &t->header) == -1 ||
	    part_next(&rest, &t->payload) == -1)
		return -1;
	t->signature = rest;
	t->signed_text = slice_of(token.p, token.n - rest.n - 1);
	return rest.n > 0 ? 0 : -1;
}

/* A JSON object behind base64url; NULL if it is not one. */
static json_t *
object_of(struct slice part)
{
	uint8_t *bytes = malloc(part.n + 1);
	json_t *object = NULL;
	json_error_t error;
	size_t n;

	if (bytes == NULL)
		abort(); /* bounded by JWT_MAX */
	if (base64_get(BASE64_URL, bytes, part.n, &n, part) == 0)
		object = json_loadb((const char *)bytes, n,
				    JSON_REJECT_DUPLICATES, &error);
	free(bytes);
	if (object != NULL && !json_is_object(object)) {
		json_decref(object);
		object = NULL;
	}
	return object;
}

/* ---- signatures ------------------------------------------------------- */

static bool
hs256_by(const char *secret, struct slice text, const uint8_t *signature)
{
	uint8_t md[HS256_SIGNATURE];

	return secret != NULL &&
	       HMAC(EVP_sha256(), secret, (int)strlen(secret), text.p, text.n,
		    md, NULL) != NULL &&
	       CRYPTO_memcmp(md, signature, sizeof(md)) == 0;
}

static bool
hs256(const struct jwt_trust *trust, struct slice text,
      const uint8_t *signature, size_t n)
{
	bool now, before;

	if (n != HS256_SIGNATURE)
		return false;
	now = hs256_by(trust->secret, text, signature);
	before = hs256_by(trust->previous_secret, text, signature);
	return now || before;
}

static bool
verify(EVP_PKEY *pkey, struct slice text, const uint8_t *signature, size_t n)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok =
	    ctx != NULL &&
	    EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, pkey) == 1 &&
	    EVP_DigestVerify(ctx, signature, n, text.p, text.n) == 1;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return ok;
}

static bool
rs256(const struct jwt_trust *trust, struct slice text,
      const uint8_t *signature, size_t n)
{
	return verify(trust->key->pkey, text, signature, n);
}

/* RFC 7518, 3.4: r and s as they are, which OpenSSL wants in DER. */
static bool
es256(const struct jwt_trust *trust, struct slice text,
      const uint8_t *signature, size_t n)
{
	ECDSA_SIG *pair;
	BIGNUM *r, *s;
	unsigned char *der = NULL;
	int der_n;
	bool ok;

	if (n != ES256_SIGNATURE)
		return false;
	pair = ECDSA_SIG_new();
	r = BN_bin2bn(signature, ES256_SIGNATURE / 2, NULL);
	s = BN_bin2bn(signature + ES256_SIGNATURE / 2, ES256_SIGNATURE / 2,
		      NULL);
	if (pair == NULL || r == NULL || s == NULL ||
	    ECDSA_SIG_set0(pair, r, s) != 1)
		abort(); /* for want of memory only */
	der_n = i2d_ECDSA_SIG(pair, &der);
	ok = der_n > 0 && verify(trust->key->pkey, text, der, (size_t)der_n);
	OPENSSL_free(der);
	ECDSA_SIG_free(pair);
	return ok;
}

/* Is it signed as its header says, by whom we trust for that?  NULL: yes. */
static const char *
why_not_signed(const struct parts *t, const char *alg,
	       const struct jwt_trust *trust)
{
	int key = trust->key != NULL ? trust->key->type : EVP_PKEY_NONE;
	uint8_t signature[SIGNATURE_MAX];
	bool (*by)(const struct jwt_trust *, struct slice, const uint8_t *,
		   size_t);
	size_t n;

	if (strcmp(alg, "HS256") == 0)
		by = trust->secret != NULL ? hs256 : NULL;
	else if (strcmp(alg, "RS256") == 0)
		by = key == EVP_PKEY_RSA ? rs256 : NULL;
	else if (strcmp(alg, "ES256") == 0)
		by = key == EVP_PKEY_EC ? es256 : NULL;
	else
		return "an algorithm that is not known";
	if (by == NULL)
		return "an algorithm without a key for it";
	if (base64_get(BASE64_URL, signature, sizeof(signature), &n,
		       t->signature) == -1)
		return "a malformed signature";
	return by(trust, t->signed_text, signature, n) ? NULL
						       : "a wrong signature";
}

/* `typ` says nothing we need; what else there is may be ignored, and hints at
 * keys (jwk, jku, x5c) must be. */
static const char *
why_not_header(const struct parts *t, const struct jwt_trust *trust)
{
	json_t *header = object_of(t->header);
	const char *alg, *why;

	if (header == NULL)
		return "a malformed header";
	alg = json_string_value(json_object_get(header, "alg"));
	if (alg == NULL)
		why = "no algorithm";
	else if (json_object_get(header, "crit") != NULL)
		why = "extensions that are critical";
	else
		why = why_not_signed(t, alg, trust);
	json_decref(header);
	return why;
}

/* ---- claims ----------------------------------------------------------- */

/* A date in seconds, possibly with a fraction.  1, 0: there is none, -1: it is
 * something else. */
static int
date_of(const json_t *claims, const char *name, double *out)
{
	const json_t *v = json_object_get(claims, name);

	if (v == NULL)
		return 0;
	if (!json_is_number(v))
		return -1;
	*out = json_number_value(v);
	return 1;
}

static const char *
why_not_now(const json_t *claims, int64_t now)
{
	double exp, nbf = 0, iat = 0, t = (double)now;

	if (date_of(claims, "exp", &exp) != 1)
		return "no date of expiry";
	if (date_of(claims, "nbf", &nbf) == -1 ||
	    date_of(claims, "iat", &iat) == -1)
		return "a date that is no number";
	/* So that what cannot be compared is refused. */
	if (!(t < exp + JWT_LEEWAY))
		return "it has expired";
	if (!(nbf <= t + JWT_LEEWAY))
		return "it is not valid yet";
	return iat <= t + JWT_LEEWAY ? NULL : "it was issued in the future";
}

static bool
is_string(const json_t *v, const char *text)
{
	return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static const char *
why_not_for(const json_t *claims, const char *audience)
{
	const json_t *aud = json_object_get(claims, "aud");

	if (audience == NULL)
		return aud == NULL ? NULL
				   : "it is for somebody, and we have no name";
	if (is_string(aud, audience))
		return NULL;
	for (size_t i = 0; json_is_array(aud) && i < json_array_size(aud); i++)
		if (is_string(json_array_get(aud, i), audience))
			return NULL;
	return "it is for somebody else";
}

struct jwt *
jwt_open(struct slice token, const struct jwt_trust *trust, int64_t now,
	 const char **why)
{
	struct jwt *jwt;
	struct parts t;
	json_t *claims;

	*why = take_apart(&t, token) == 0 ? why_not_header(&t, trust)
					  : "not a token";
	if (*why != NULL)
		return NULL;
	/* Nothing in it is looked at before it is known who wrote it. */
	claims = object_of(t.payload);
	*why = claims ? why_not_now(claims, now) : "malformed claims";
	if (*why == NULL)
		*why = why_not_for(claims, trust->audience);
	if (*why != NULL) {
		json_decref(claims);
		return NULL;
	}
	if ((jwt = calloc(1, sizeof(*jwt))) == NULL)
		abort();
	jwt->claims = claims;
	return jwt;
}

void
jwt_close(struct jwt **at)
{
	struct jwt *jwt = *at;

	*at = NULL;
	if (jwt == NULL)
		return;
	json_decref(jwt->claims);
	free(jwt);
}

bool
jwt_has(const struct jwt *jwt, const char *claim)
{
	return json_object_get(jwt->claims, claim) != NULL;
}

const char *
jwt_string(const struct jwt *jwt, const char *claim)
{
	return json_string_value(json_object_get(jwt->claims, claim));
}

char *
jwt_text(const struct jwt *jwt, const char *claim)
{
	const json_t *v = json_object_get(jwt->claims, claim);
	char number[64], *out;

	if (json_is_string(v))
		out = strdup(json_string_value(v));
	else if (json_is_boolean(v))
		out = strdup(json_is_true(v) ? "true" : "false");
	else if (json_is_number(v)) {
		if (json_is_integer(v))
			snprintf(number, sizeof(number),
				 "%" JSON_INTEGER_FORMAT,
				 json_integer_value(v));
		else
			snprintf(number, sizeof(number), "%.15g",
				 json_real_value(v));
		out = strdup(number);
	} else
		return NULL;
	if (out == NULL)
		abort();
	return out;
}

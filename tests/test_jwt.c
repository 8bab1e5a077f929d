#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/jwt.h"
#include "tests/t.h"

#define NOW    1000000
#define SECRET "0123456789abcdef0123456789abcdef"
#define OTHER  "fedcba9876543210fedcba9876543210"
#define LASTS  "\"exp\":1000100"

/* ---- making tokens ---------------------------------------------------- */

static char *
base64url(const void *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmno"
				     "pqrstuvwxyz0123456789-_";
	const uint8_t *at = p;
	char *out = calloc(1, n * 2 + 4);
	size_t o = 0;

	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)at[i] << 16;

		v |= i + 1 < n ? (uint32_t)at[i + 1] << 8 : 0;
		v |= i + 2 < n ? at[i + 2] : 0;
		for (size_t k = 0; k < 4 && k < n - i + 1; k++)
			out[o++] = digits[v >> (18 - 6 * k) & 63];
	}
	return out;
}

/* header.payload, both as JSON. */
static char *
unsigned_token(const char *header, const char *payload)
{
	char *h = base64url(header, strlen(header));
	char *p = base64url(payload, strlen(payload));
	char *out = NULL;

	if (asprintf(&out, "%s.%s", h, p) < 0)
		abort();
	free(h);
	free(p);
	return out;
}

static char *
with_signature(char *text, const void *signature, size_t n)
{
	char *s = base64url(signature, n), *out = NULL;

	if (asprintf(&out, "%s.%s", text, s) < 0)
		abort();
	free(s);
	free(text);
	return out;
}

static char *
hs256(const char *header, const char *payload, const char *secret)
{
	char *text = unsigned_token(header, payload);
	uint8_t md[32];

	HMAC(EVP_sha256(), secret, (int)strlen(secret), (uint8_t *)text,
	     strlen(text), md, NULL);
	return with_signature(text, md, sizeof(md));
}

#define HS "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"

static size_t
sign(EVP_PKEY *pkey, const char *text, uint8_t out[1024])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	size_t n = 1024;

	assert_int_equal(
	    EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, pkey), 1);
	assert_int_equal(
	    EVP_DigestSign(ctx, out, &n, (const uint8_t *)text, strlen(text)),
	    1);
	EVP_MD_CTX_free(ctx);
	return n;
}

static char *
rs256(const char *header, const char *payload, EVP_PKEY *pkey)
{
	char *text = unsigned_token(header, payload);
	uint8_t signature[1024];

	return with_signature(text, signature, sign(pkey, text, signature));
}

static char *
es256(const char *header, const char *payload, EVP_PKEY *pkey)
{
	char *text = unsigned_token(header, payload);
	uint8_t der[1024], raw[64];
	const uint8_t *p = der;
	ECDSA_SIG *pair;

	pair = d2i_ECDSA_SIG(NULL, &p, (long)sign(pkey, text, der));
	assert_non_null(pair);
	BN_bn2binpad(ECDSA_SIG_get0_r(pair), raw, 32);
	BN_bn2binpad(ECDSA_SIG_get0_s(pair), raw + 32, 32);
	ECDSA_SIG_free(pair);
	return with_signature(text, raw, sizeof(raw));
}

/* Its public half, as weir would load it from a file. */
static struct jwt_key *
public_half(EVP_PKEY *pkey, const char **why)
{
	BIO *bio = BIO_new(BIO_s_mem());
	struct jwt_key *key;
	char *pem;
	long n;

	assert_int_equal(PEM_write_bio_PUBKEY(bio, pkey), 1);
	n = BIO_get_mem_data(bio, &pem);
	key = jwt_key_load(pem, (size_t)n, why);
	BIO_free(bio);
	return key;
}

/* ---- what holds and what does not ------------------------------------- */

static const struct jwt_trust by_secret = { .secret = SECRET };

static struct jwt *
holds(const char *token, const struct jwt_trust *trust)
{
	const char *why;
	struct jwt *jwt = jwt_open(slice_str(token), trust, NOW, &why);

	if (jwt == NULL)
		fail_msg("refused: %s", why);
	return jwt;
}

static void
holds_once(char *token, const struct jwt_trust *trust)
{
	struct jwt *jwt = holds(token, trust);

	jwt_close(&jwt);
	assert_null(jwt);
	free(token);
}

static void
refused(char *token, const struct jwt_trust *trust, const char *want)
{
	const char *why = NULL;
	struct jwt *jwt = jwt_open(slice_str(token), trust, NOW, &why);

	assert_null(jwt);
	assert_string_equal(why, want);
	free(token);
}

static void
claims(const char *payload, const char *want)
{
	char *token = hs256(HS, payload, SECRET);

	if (want == NULL)
		holds_once(token, &by_secret);
	else
		refused(token, &by_secret, want);
}

/* ---- tests ------------------------------------------------------------ */

static void
accepts_the_examples_of_the_standard(void **state)
{
	/* RFC 7515, A.1 and A.3: the same claims, valid long ago. */
	static const char payload[] =
	    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
	    "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
	static const char secret[] =
	    "\x03\x23\x35\x4b\x2b\x0f\xa5\xbc\x83\x7e\x06\x65\x77\x7b\xa6\x8f"
	    "\x5a\xb3\x28\xe6\xf0\x54\xc9\x28\xa9\x0f\x84\xb2\xd2\x50\x2e\xbf"
	    "\xd3\xfb\x5a\x92\xd2\x06\x47\xef\x96\x8a\xb4\xc3\x77\x62\x3d\x22"
	    "\x3d\x2e\x21\x72\x05\x2e\x4f\x08\xc0\xcd\x9a\xf5\x67\xd0\x80\xa3";
	static const char pem[] =
	    "-----BEGIN PUBLIC KEY-----\n"
	    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"
	    "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n"
	    "-----END PUBLIC KEY-----\n";
	struct jwt_trust trust = { .secret = secret };
	const int64_t then = 1300819379;
	char token[512], *text;
	const char *why;
	struct jwt_key *key;
	struct jwt *jwt;

	(void)state;
	snprintf(token, sizeof(token),
		 "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.%s."
		 "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
		 payload);
	jwt = jwt_open(slice_str(token), &trust, then, &why);
	assert_non_null(jwt);
	assert_string_equal(jwt_string(jwt, "iss"), "joe");
	text = jwt_text(jwt, "http://example.com/is_root");
	assert_string_equal(text, "true");
	free(text);
	jwt_close(&jwt);

	key = jwt_key_load(pem, strlen(pem), &why);
	assert_non_null(key);
	trust = (struct jwt_trust){ .key = key };
	snprintf(token, sizeof(token),
		 "eyJhbGciOiJFUzI1NiJ9.%s."
		 "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8IS"
		 "lSApmWQxfKTUJqPP3-Kg6NU1Q",
		 payload);
	jwt = jwt_open(slice_str(token), &trust, then, &why);
	assert_non_null(jwt);
	jwt_close(&jwt);
	assert_null(jwt_open(slice_str(token), &trust, then + 31, &why));
	jwt_key_free(&key);
	assert_null(key);
}

static void
accepts_either_secret_while_one_is_replaced(void **state)
{
	struct jwt_trust trust = { .secret = OTHER, .previous_secret = SECRET };

	(void)state;
	holds_once(hs256(HS, "{" LASTS "}", SECRET), &trust);
	holds_once(hs256(HS, "{" LASTS "}", OTHER), &trust);
	refused(hs256(HS, "{" LASTS "}", SECRET "x"), &trust,
		"a wrong signature");
	trust.previous_secret = NULL;
	refused(hs256(HS, "{" LASTS "}", SECRET), &trust, "a wrong signature");
}

static void
accepts_rs256_and_es256_by_their_keys(void **state)
{
	EVP_PKEY *rsa = EVP_RSA_gen(2048), *ec = EVP_EC_gen("P-256");
	EVP_PKEY *rsa2 = EVP_RSA_gen(2048), *ec2 = EVP_EC_gen("P-256");
	const char *why;
	struct jwt_key *rsa_key = public_half(rsa, &why);
	struct jwt_key *ec_key = public_half(ec, &why);
	struct jwt_trust by_rsa = { .key = rsa_key }, by_ec = { .key = ec_key };

	(void)state;
	holds_once(rs256("{\"alg\":\"RS256\"}", "{" LASTS "}", rsa), &by_rsa);
	refused(rs256("{\"alg\":\"RS256\"}", "{" LASTS "}", rsa2), &by_rsa,
		"a wrong signature");
	for (int i = 0; i < 20;
	     i++) /* r and s have leading zeros now and then */
		holds_once(es256("{\"alg\":\"ES256\"}", "{" LASTS "}", ec),
			   &by_ec);
	refused(es256("{\"alg\":\"ES256\"}", "{" LASTS "}", ec2), &by_ec,
		"a wrong signature");
	/* DER, as a library less careful would send it. */
	refused(rs256("{\"alg\":\"ES256\"}", "{" LASTS "}", ec), &by_ec,
		"a wrong signature");
	/* One kind of key for the other's word. */
	refused(rs256("{\"alg\":\"RS256\"}", "{" LASTS "}", rsa), &by_ec,
		"an algorithm without a key for it");
	refused(es256("{\"alg\":\"ES256\"}", "{" LASTS "}", ec), &by_rsa,
		"an algorithm without a key for it");
	jwt_key_free(&rsa_key);
	jwt_key_free(&ec_key);
	EVP_PKEY_free(rsa);
	EVP_PKEY_free(rsa2);
	EVP_PKEY_free(ec);
	EVP_PKEY_free(ec2);
}

static void
believes_no_algorithm_it_has_no_key_for(void **state)
{
	EVP_PKEY *rsa = EVP_RSA_gen(2048), *ec = EVP_EC_gen("P-256");
	BIO *bio = BIO_new(BIO_s_mem());
	const char *why;
	struct jwt_key *key = public_half(rsa, &why);
	struct jwt_trust by_key = { .key = key };
	char *pem, *secret;
	long n;

	(void)state;
	PEM_write_bio_PUBKEY(bio, rsa);
	n = BIO_get_mem_data(bio, &pem);
	secret = strndup(pem, (size_t)n);
	/* The public key taken for a secret: the classic. */
	refused(hs256(HS, "{" LASTS "}", secret), &by_key,
		"an algorithm without a key for it");
	refused(hs256(HS, "{" LASTS "}", ""), &by_key,
		"an algorithm without a key for it");
	refused(rs256("{\"alg\":\"RS256\"}", "{" LASTS "}", rsa), &by_secret,
		"an algorithm without a key for it");
	refused(es256("{\"alg\":\"ES256\"}", "{" LASTS "}", ec), &by_secret,
		"an algorithm without a key for it");
	refused(with_signature(
		    unsigned_token("{\"alg\":\"none\"}", "{" LASTS "}"), "", 0),
		&by_secret, "not a token");
	for (const char *const *alg =
		 (const char *const[]){ "none", "None", "NONE", "hs256",
					"HS384", "HS512", "RS512", "PS256",
					"ES384", "EdDSA", "", NULL };
	     *alg != NULL; alg++) {
		char header[64];

		snprintf(header, sizeof(header), "{\"alg\":\"%s\"}", *alg);
		refused(hs256(header, "{" LASTS "}", SECRET), &by_secret,
			"an algorithm that is not known");
	}
	free(secret);
	BIO_free(bio);
	jwt_key_free(&key);
	EVP_PKEY_free(ec);
	EVP_PKEY_free(rsa);
}

static void
refuses_a_header_that_asks_for_more(void **state)
{
	static const char *const wrong[][2] = {
		{ "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}",
		  "extensions that are critical" },
		{ "{\"alg\":\"HS256\",\"crit\":null}",
		  "extensions that are critical" },
		{ "{}", "no algorithm" },
		{ "{\"alg\":null}", "no algorithm" },
		{ "{\"alg\":[\"HS256\"]}", "no algorithm" },
		{ "{\"ALG\":\"HS256\"}", "no algorithm" },
		{ "{\"alg\":\"none\",\"alg\":\"HS256\"}",
		  "a malformed header" },
		{ "{\"alg\":\"HS256\"} x", "a malformed header" },
		{ "[\"HS256\"]", "a malformed header" },
		{ "\"HS256\"", "a malformed header" },
		{ "{\"alg\":\"HS256\\u0000\"}", "a malformed header" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		refused(hs256(wrong[i][0], "{" LASTS "}", SECRET), &by_secret,
			wrong[i][1]);
	/* Keys a token brings along are no keys. */
	holds_once(hs256("{\"alg\":\"HS256\",\"jwk\":{},\"kid\":\"../x\"}",
			 "{" LASTS "}", SECRET),
		   &by_secret);
}

static void
needs_a_date_of_expiry_and_keeps_all_dates(void **state)
{
	static const char *const past = "it has expired";
	static const char *const early = "it is not valid yet";
	static const char *const future = "it was issued in the future";

	(void)state;
	claims("{}", "no date of expiry");
	claims("{\"exp\":null}", "no date of expiry");
	claims("{\"exp\":\"1000100\"}", "no date of expiry");
	claims("{\"exp\":true}", "no date of expiry");
	claims("{\"exp\":999970}", past);
	claims("{\"exp\":999970.0}", past);
	claims("{\"exp\":999970.5}", NULL);
	claims("{\"exp\":999971}", NULL);
	claims("{\"exp\":-1}", past);
	claims("{\"exp\":1e300}", NULL);
	claims("{\"exp\":1e400}", "malformed claims");
	claims("{\"exp\":99999999999999999999}", "malformed claims");
	claims("{" LASTS ",\"nbf\":1000030}", NULL);
	claims("{" LASTS ",\"nbf\":1000030.5}", early);
	claims("{" LASTS ",\"nbf\":1000031}", early);
	claims("{" LASTS ",\"nbf\":\"0\"}", "a date that is no number");
	claims("{" LASTS ",\"nbf\":null}", "a date that is no number");
	claims("{" LASTS ",\"iat\":1000030}", NULL);
	claims("{" LASTS ",\"iat\":1000031}", future);
	claims("{" LASTS ",\"iat\":{}}", "a date that is no number");
}

static void
is_for_whom_it_says(void **state)
{
	struct jwt_trust ours = { .secret = SECRET, .audience = "weir" };
	static const char *const right[] = {
		"\"weir\"",
		"[\"weir\"]",
		"[\"x\",\"weir\",1]",
	};
	static const char *const wrong[] = {
		"\"Weir\"", "\"weir2\"", "[]", "[\"x\"]",
		"null",     "{}",        "1",  "[[\"weir\"]]",
	};
	char payload[128];

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		snprintf(payload, sizeof(payload), "{" LASTS ",\"aud\":%s}",
			 right[i]);
		holds_once(hs256(HS, payload, SECRET), &ours);
		claims(payload, "it is for somebody, and we have no name");
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(payload, sizeof(payload), "{" LASTS ",\"aud\":%s}",
			 wrong[i]);
		refused(hs256(HS, payload, SECRET), &ours,
			"it is for somebody else");
	}
	refused(hs256(HS, "{" LASTS "}", SECRET), &ours,
		"it is for somebody else");
}

static void
gives_claims_as_text(void **state)
{
	char *token =
	    hs256(HS,
		  "{" LASTS ",\"s\":\"a b\",\"i\":-12,\"r\":0.5,\"big\":"
		  "9007199254740993,\"t\":true,\"f\":false,\"n\":null,\"a\":"
		  "[1],\"o\":{},\"e\":\"\",\"x.y\":\"dot\"}",
		  SECRET);
	static const char *const want[][2] = {
		{ "s", "a b" },
		{ "i", "-12" },
		{ "r", "0.5" },
		{ "t", "true" },
		{ "f", "false" },
		{ "e", "" },
		{ "n", NULL },
		{ "a", NULL },
		{ "o", NULL },
		{ "absent", NULL },
		{ "x.y", "dot" },
		{ "x", NULL },
		{ "big", "9007199254740993" },
	};
	struct jwt *jwt = holds(token, &by_secret);

	(void)state;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		char *text = jwt_text(jwt, want[i][0]);

		if (want[i][1] == NULL)
			assert_null(text);
		else
			assert_string_equal(text, want[i][1]);
		free(text);
	}
	assert_string_equal(jwt_string(jwt, "s"), "a b");
	assert_null(jwt_string(jwt, "i"));
	assert_null(jwt_string(jwt, "t"));
	assert_null(jwt_string(jwt, "absent"));
	assert_true(jwt_has(jwt, "n") && jwt_has(jwt, "e"));
	assert_false(jwt_has(jwt, "absent"));
	jwt_close(&jwt);
	free(token);
}

static void
refuses_claims_of_two_minds(void **state)
{
	(void)state;
	claims("{" LASTS ",\"sub\":\"a\",\"sub\":\"b\"}", "malformed claims");
	claims("{" LASTS ",\"sub\":\"a\\u0000b\"}", "malformed claims");
	claims("{" LASTS ",\"sub\":\"\xff\"}", "malformed claims");
	claims("[1]", "malformed claims");
	claims("{" LASTS "", "malformed claims");
	claims("{" LASTS "}{}", "malformed claims");
}

static void
refuses_every_other_spelling_of_a_token(void **state)
{
	char *token = hs256(HS, "{" LASTS "}", SECRET), *text;
	size_t n = strlen(token);
	const char *why;

	(void)state;
	holds_once(strdup(token), &by_secret);
	for (size_t cut = 0; cut < n; cut++) {
		text = strndup(token, cut);
		assert_null(jwt_open(slice_str(text), &by_secret, NOW, &why));
		free(text);
	}
	/* Any other byte anywhere, and any byte more. */
	for (size_t i = 0; i < n; i++) {
		static const char others[] = "A9-_=.+/ \n";

		for (const char *c = others; *c != '\0'; c++) {
			text = strdup(token);
			if (text[i] != *c) {
				text[i] = *c;
				assert_null(jwt_open(slice_str(text),
						     &by_secret, NOW, &why));
			}
			free(text);
			text = NULL;
			if (asprintf(&text, "%.*s%c%s", (int)i, token, *c,
				     token + i) < 0)
				abort();
			assert_null(
			    jwt_open(slice_str(text), &by_secret, NOW, &why));
			free(text);
		}
	}
	for (const char *const *tail =
		 (const char *const[]){ "=", ".", "A", " ", "\n", "\r\n",
					NULL };
	     *tail != NULL; tail++) {
		text = NULL;
		if (asprintf(&text, "%s%s", token, *tail) < 0)
			abort();
		assert_null(jwt_open(slice_str(text), &by_secret, NOW, &why));
		free(text);
	}
	assert_null(jwt_open(slice_of(token, n + 1), &by_secret, NOW, &why));
	free(token);
}

static void
refuses_a_token_of_more_than_its_bound(void **state)
{
	size_t room = JWT_MAX;
	char *payload = malloc(room), *token;
	const char *why;
	struct jwt *jwt;
	int fits = 0, not = 0;

	(void)state;
	for (size_t fill = 12190; fill < 12260; fill++) {
		snprintf(payload, room, "{" LASTS ",\"x\":\"%*s\"}", (int)fill,
			 "");
		token = hs256(HS, payload, SECRET);
		jwt = jwt_open(slice_str(token), &by_secret, NOW, &why);
		assert_int_equal(jwt != NULL, strlen(token) <= JWT_MAX);
		jwt != NULL ? fits++ : not ++;
		jwt_close(&jwt);
		free(token);
	}
	assert_true(fits > 0 && not > 0);
	/* As deep as it can be. */
	memset(payload, '[', 12000);
	payload[12000] = '\0';
	refused(hs256(HS, payload, SECRET), &by_secret, "malformed claims");
	free(payload);
}

static void
takes_no_key_it_would_not_trust(void **state)
{
	const char *why, *no_key = "-----BEGIN PUBLIC KEY-----\nAAAA\n"
				   "-----END PUBLIC KEY-----\n";
	EVP_PKEY *pkey;

	(void)state;
	pkey = EVP_RSA_gen(1024);
	assert_null(public_half(pkey, &why));
	assert_non_null(strstr(why, "RSA key of less than 2048"));
	EVP_PKEY_free(pkey);
	pkey = EVP_EC_gen("P-384");
	assert_null(public_half(pkey, &why));
	assert_non_null(strstr(why, "another curve"));
	EVP_PKEY_free(pkey);
	pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
	assert_null(public_half(pkey, &why));
	assert_non_null(strstr(why, "neither RSA nor EC"));
	EVP_PKEY_free(pkey);
	assert_null(jwt_key_load(no_key, strlen(no_key), &why));
	assert_string_equal(why, "not a public key");
	assert_null(jwt_key_load("", 0, &why));
	assert_string_equal(why, "not a public key");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_the_examples_of_the_standard),
		cmocka_unit_test(accepts_either_secret_while_one_is_replaced),
		cmocka_unit_test(accepts_rs256_and_es256_by_their_keys),
		cmocka_unit_test(believes_no_algorithm_it_has_no_key_for),
		cmocka_unit_test(refuses_a_header_that_asks_for_more),
		cmocka_unit_test(needs_a_date_of_expiry_and_keeps_all_dates),
		cmocka_unit_test(is_for_whom_it_says),
		cmocka_unit_test(gives_claims_as_text),
		cmocka_unit_test(refuses_claims_of_two_minds),
		cmocka_unit_test(refuses_every_other_spelling_of_a_token),
		cmocka_unit_test(refuses_a_token_of_more_than_its_bound),
		cmocka_unit_test(takes_no_key_it_would_not_trust),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

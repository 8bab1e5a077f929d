#include "tests/t.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>

#include "protocol/scram.h"

/* The exchange of RFC 7677, section 3: user `user`, password `pencil`. */
#define RFC_FIRST_BARE   "n=user,r=rOprNGfwEbeRWgbNEkqO"
#define RFC_NONCE        "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define RFC_SALT         "W22ZaJ0SNY7soEsUEjb6gQ=="
#define RFC_SERVER_FIRST "r=" RFC_NONCE ",s=" RFC_SALT ",i=4096"
#define RFC_CLIENT_FINAL                            \
	"c=biws,r=" RFC_NONCE ",p=dHzbZapWIk4jUhN+" \
	"Ute9ytag9zjfMHgsqmmiz7AndVQ="
#define RFC_SERVER_FINAL "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

/* psql 15 logging in to PostgreSQL 15, password `pencil`, as captured. */
#define PG_VERIFIER                                     \
	"SCRAM-SHA-256$4096:SOEhhHrdUooI853wx8NSsw=="   \
	"$Ofu9jVjTfVW7GZVcAR3BrkEj7HOt1j9lbnO/cVjdWCY=" \
	":4csBpj4+Os3v8ohVr6vS2/ketU/iCV13WUncervsdN0="
#define PG_CLIENT_NONCE "OwahQ24KVriEkV7TRSmWemKn"
#define PG_SERVER_NONCE "S7s6Ci8xft5rJqcG3HUalcJk"
#define PG_CLIENT_FIRST "n,,n=,r=" PG_CLIENT_NONCE
#define PG_SERVER_FIRST                      \
	"r=" PG_CLIENT_NONCE PG_SERVER_NONCE \
	",s=SOEhhHrdUooI853wx8NSsw==,i=4096"
#define PG_CLIENT_FINAL                             \
	"c=biws,r=" PG_CLIENT_NONCE PG_SERVER_NONCE \
	",p=N9OJnC/98RHd65iZZYn67/QWru8Q5PQNeSFKdxblISA="
#define PG_SERVER_FINAL "v=KZuiiZBXw5hHxOAlKMuRQ7fN16WZYUjd7pGJlqSRz7w="

/* The same server's verifier of the password below. */
#define PG_UMLAUT_VERIFIER                              \
	"SCRAM-SHA-256$4096:5AewtJIVwJKwri7uN4XIzw=="   \
	"$KKstEAGHfrnAoW1e/j10s5eQgE/kKYbNYirHBydBQS8=" \
	":TmCNefhGShLueuSBoio5QJqg++jj/HnT2LJLFS2Iup4="
#define UMLAUT_PASSWORD "p\xc3\xa4ssw\xc3\xb6rd \xe2\x98\x83"

enum { TEXT = SCRAM_MESSAGE_MAX + 1 };

static const uint8_t some_binding[32] = { 1, 2, 3 };

/* The 18 bytes behind a nonce of 24 characters. */
static void
raw_nonce(uint8_t raw[SCRAM_NONCE_RAW], const char *nonce)
{
	assert_int_equal(EVP_DecodeBlock(raw, (const unsigned char *)nonce, 24),
			 SCRAM_NONCE_RAW);
}

static struct scram_verifier
verifier_of(const char *text)
{
	struct scram_verifier v;

	assert_int_equal(scram_verifier_parse(&v, text), 0);
	return v;
}

/* Both ends of one exchange, and what they say. */
struct talk {
	struct scram_client client;
	struct scram_server server;
	char client_first[TEXT], server_first[TEXT], client_final[TEXT],
	    server_final[TEXT];
};

static void
talk_begin(struct talk *t, const uint8_t *binding, size_t binding_len)
{
	uint8_t nonce[SCRAM_NONCE_RAW];

	raw_nonce(nonce, PG_CLIENT_NONCE);
	assert_int_equal(scram_client_first(&t->client, nonce, binding,
					    binding_len, t->client_first),
			 0);
}

static int
talk_answer(struct talk *t, bool plus, bool plus_offered, const char *first)
{
	struct scram_verifier v = verifier_of(PG_VERIFIER);
	uint8_t nonce[SCRAM_NONCE_RAW];

	raw_nonce(nonce, PG_SERVER_NONCE);
	return scram_server_first(&t->server, &v, plus, plus_offered, nonce,
				  first, strlen(first), t->server_first);
}

static void
talk_prove_parsed(struct talk *t, const char *password)
{
	struct scram_client *c = &t->client;
	uint8_t salted[SCRAM_KEY];
	struct scram_keys keys;

	assert_int_equal(scram_salted_password(salted, password, c->salt,
					       c->salt_len, c->iterations),
			 0);
	scram_keys_make(&keys, salted);
	assert_int_equal(scram_client_final(c, &keys, t->client_final), 0);
}

static void
talk_prove(struct talk *t, const char *password)
{
	assert_int_equal(scram_client_parse(&t->client, t->server_first,
					    strlen(t->server_first)),
			 0);
	talk_prove_parsed(t, password);
}

static int
talk_judge(struct talk *t, const uint8_t *binding, size_t binding_len)
{
	return scram_server_final(&t->server, binding, binding_len,
				  t->client_final, strlen(t->client_final),
				  t->server_final);
}

static int
talk_verify(const struct talk *t)
{
	return scram_client_verify(&t->client, t->server_final,
				   strlen(t->server_final));
}

/* A client in the middle of the RFC's exchange; its nonce is not base64. */
static struct scram_client
rfc_client(void)
{
	struct scram_client c = { .gs2 = "n,,", .nonce_own_len = 20 };

	memcpy(c.nonce, RFC_NONCE, 20);
	strcpy(c.first_bare, RFC_FIRST_BARE);
	return c;
}

static void
speaks_the_clients_part_of_the_rfc(void **state)
{
	struct scram_client c = rfc_client();
	uint8_t salted[SCRAM_KEY];
	struct scram_keys keys;
	char out[TEXT];

	(void)state;
	assert_int_equal(
	    scram_client_parse(&c, RFC_SERVER_FIRST, strlen(RFC_SERVER_FIRST)),
	    0);
	assert_int_equal(c.iterations, 4096);
	assert_int_equal(c.salt_len, 16);
	assert_int_equal(
	    scram_salted_password(salted, "pencil", c.salt, 16, 4096), 0);
	scram_keys_make(&keys, salted);
	assert_int_equal(scram_client_final(&c, &keys, out), 0);
	assert_string_equal(out, RFC_CLIENT_FINAL);
	assert_int_equal(
	    scram_client_verify(&c, RFC_SERVER_FINAL, strlen(RFC_SERVER_FINAL)),
	    0);
}

static void
speaks_the_servers_part_of_the_rfc(void **state)
{
	struct scram_server s = { .gs2 = "n,," };
	uint8_t salt[SCRAM_SALT_MAX];
	char out[TEXT];

	(void)state;
	assert_int_equal(
	    EVP_DecodeBlock(salt, (const unsigned char *)RFC_SALT, 24), 18);
	assert_int_equal(
	    scram_verifier_make(&s.verifier, "pencil", salt, 16, 4096), 0);
	strcpy(s.nonce, RFC_NONCE);
	strcpy(s.first_bare, RFC_FIRST_BARE);
	strcpy(s.server_first, RFC_SERVER_FIRST);
	assert_int_equal(scram_server_final(&s, NULL, 0, RFC_CLIENT_FINAL,
					    strlen(RFC_CLIENT_FINAL), out),
			 0);
	assert_string_equal(out, RFC_SERVER_FINAL);
}

static void
says_what_psql_and_postgresql_said(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_string_equal(t.client_first, PG_CLIENT_FIRST);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	assert_string_equal(t.server_first, PG_SERVER_FIRST);
	talk_prove(&t, "pencil");
	assert_string_equal(t.client_final, PG_CLIENT_FINAL);
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_string_equal(t.server_final, PG_SERVER_FINAL);
	assert_int_equal(talk_verify(&t), 0);
}

static void
makes_the_verifier_postgresql_makes(void **state)
{
	static const struct {
		const char *password, *text;
	} known[] = {
		{ "pencil", PG_VERIFIER },
		{ UMLAUT_PASSWORD, PG_UMLAUT_VERIFIER },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		struct scram_verifier v = verifier_of(known[i].text), made;

		assert_int_equal(v.iterations, 4096);
		assert_int_equal(v.salt_len, 16);
		assert_int_equal(scram_verifier_make(&made, known[i].password,
						     v.salt, v.salt_len,
						     v.iterations),
				 0);
		assert_memory_equal(made.salt, v.salt, v.salt_len);
		assert_memory_equal(made.stored_key, v.stored_key, SCRAM_KEY);
		assert_memory_equal(made.server_key, v.server_key, SCRAM_KEY);
	}
}

static void
refuses_salts_and_rounds_beyond_its_bounds(void **state)
{
	uint8_t salt[SCRAM_SALT_MAX + 1] = { 0 }, out[SCRAM_KEY];
	struct scram_verifier v;

	(void)state;
	assert_int_equal(scram_salted_password(out, "x", salt, 1, 1), 0);
	assert_int_equal(scram_salted_password(out, "", salt, 1, 1), 0);
	assert_int_equal(
	    scram_salted_password(out, "x", salt, SCRAM_SALT_MAX, 1), 0);
	assert_int_equal(
	    scram_salted_password(out, "x", salt, SCRAM_SALT_MAX + 1, 1), -1);
	assert_int_equal(scram_salted_password(out, "x", salt, 0, 1), -1);
	assert_int_equal(scram_salted_password(out, "x", salt, 1, 0), -1);
	assert_int_equal(
	    scram_salted_password(out, "x", salt, 1, SCRAM_ITERATIONS_MAX + 1),
	    -1);
	assert_int_equal(scram_verifier_make(&v, "x", salt, 0, 1), -1);
}

static void
a_verifier_cut_anywhere_is_none(void **state)
{
	struct scram_verifier v;
	char cut[TEXT];

	(void)state;
	for (size_t n = 0; n < strlen(PG_VERIFIER); n++) {
		memcpy(cut, PG_VERIFIER, n);
		cut[n] = '\0';
		assert_int_equal(scram_verifier_parse(&v, cut), -1);
	}
}

#define K0 "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" /* 32 zeros */

static void
reads_a_verifier_strictly(void **state)
{
	static const char *const bad[] = {
		"pencil",
		"md5a3556571e93b0d20722ba62be61e8c2d",
		"scram-sha-256$4096:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-1$4096:c2FsdA==$" K0 ":" K0,
		" SCRAM-SHA-256$4096:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2FsdA==$" K0 ":" K0 " ",
		"SCRAM-SHA-256$4096:c2FsdA==$" K0 ":" K0 "\n",
		"SCRAM-SHA-256$4096:c2FsdA==$" K0 ":" K0 ":" K0,
		"SCRAM-SHA-256$0:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$-1:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$+1:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$04096:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$4096x:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$100001:c2FsdA==$" K0 ":" K0,
		"SCRAM-SHA-256$4294971392:c2FsdA==$" K0
		":" K0, /* 2^32 + 4096 */
		"SCRAM-SHA-256$4096:$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2FsdA$" K0 ":" K0, /* no padding */
		"SCRAM-SHA-256$4096:c2FsdA=$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2FsdA===$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2FsdB==$" K0 ":" K0, /* stray bits */
		"SCRAM-SHA-256$4096:c2Fs====$" K0 ":" K0,
		"SCRAM-SHA-256$4096:====$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2=sdA==$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2F dA==$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2Fs\ndA==$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2F-dA==$" K0 ":" K0, /* base64url */
		"SCRAM-SHA-256$4096:c2F\xc3\x84==$" K0 ":" K0,
		"SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:" K0,
		"SCRAM-SHA-256$4096:c2FsdA==$" K0 ":c2FsdA==",
		"SCRAM-SHA-256$4096:c2FsdA==$" K0 ":",
		"SCRAM-SHA-256$4096:c2FsdA==$AAAA" K0 ":" K0,
	};
	struct scram_verifier v =
	    verifier_of("SCRAM-SHA-256$100000:c2FsdA==$" K0 ":" K0);

	(void)state;
	assert_int_equal(v.iterations, SCRAM_ITERATIONS_MAX);
	assert_int_equal(v.salt_len, 4);
	assert_memory_equal(v.salt, "salt", 4);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (scram_verifier_parse(&v, bad[i]) != -1)
			fail_msg("accepted: %s", bad[i]);
}

/* n bytes in base64 are a salt of n bytes. */
static void
salt_text(char *out, size_t n)
{
	uint8_t salt[SCRAM_SALT_MAX + 8] = { 0 };

	assert_in_range(n, 1, sizeof(salt));
	EVP_EncodeBlock((unsigned char *)out, salt, (int)n);
}

static void
a_salt_has_a_longest(void **state)
{
	char salt[1024];
	struct scram_verifier v;
	char verifier[TEXT];

	(void)state;
	for (size_t n = SCRAM_SALT_MAX - 3; n <= SCRAM_SALT_MAX + 3; n++) {
		salt_text(salt, n);
		snprintf(verifier, sizeof(verifier),
			 "SCRAM-SHA-256$1:%s$" K0 ":" K0, salt);
		assert_int_equal(scram_verifier_parse(&v, verifier),
				 n <= SCRAM_SALT_MAX ? 0 : -1);
	}
}

static void
an_unknown_user_looks_like_a_known_one(void **state)
{
	struct scram_verifier a, again, other, other_key;
	const uint8_t key[32] = { 5 }, key2[32] = { 6 };

	(void)state;
	scram_verifier_mock(&a, "nobody", key, sizeof(key));
	scram_verifier_mock(&again, "nobody", key, sizeof(key));
	scram_verifier_mock(&other, "nobodz", key, sizeof(key));
	scram_verifier_mock(&other_key, "nobody", key2, sizeof(key2));
	assert_int_equal(a.iterations, SCRAM_ITERATIONS);
	assert_int_equal(a.salt_len, 16);
	assert_memory_equal(&a, &again, sizeof(a));
	assert_memory_not_equal(a.salt, other.salt, 16);
	assert_memory_not_equal(a.salt, other_key.salt, 16);
	assert_memory_not_equal(a.stored_key, other_key.stored_key, SCRAM_KEY);
}

static void
no_password_opens_a_mock(void **state)
{
	const uint8_t key[32] = { 5 }, nonce[SCRAM_NONCE_RAW] = { 1 };
	struct scram_verifier v;
	struct talk t;

	(void)state;
	scram_verifier_mock(&v, "nobody", key, sizeof(key));
	talk_begin(&t, NULL, 0);
	assert_int_equal(scram_server_first(
			     &t.server, &v, false, false, nonce, t.client_first,
			     strlen(t.client_first), t.server_first),
			 0);
	talk_prove(&t, "pencil");
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
}

static void
a_wrong_password_is_refused(void **state)
{
	static const char *const wrong[] = { "", "Pencil", "pencil ", "penci" };
	static const uint8_t zero[SCRAM_KEY];
	struct talk t;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		talk_begin(&t, NULL, 0);
		assert_int_equal(talk_answer(&t, false, false, t.client_first),
				 0);
		talk_prove(&t, wrong[i]);
		assert_int_equal(talk_judge(&t, NULL, 0), -1);
		assert_memory_equal(t.server.client_key, zero, SCRAM_KEY);
	}
}

static void
a_challenge_is_answered_once(void **state)
{
	struct talk t;
	char right[TEXT];

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	talk_prove(&t, "pencil");
	strcpy(right, t.client_final);
	strcpy(strstr(t.client_final, ",p="), ",p=" K0);
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
	strcpy(t.client_final, right);
	assert_int_equal(talk_judge(&t, NULL, 0), -1);

	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
}

static void
a_refused_first_message_cannot_be_followed_up(void **state)
{
	struct talk t;

	(void)state;
	assert_int_equal(talk_answer(&t, false, false, "n,,n=,r="), -1);
	strcpy(t.client_final, "c=biws,r=,p=" K0);
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
}

static void
the_clients_key_is_known_after_its_proof(void **state)
{
	struct scram_verifier v = verifier_of(PG_VERIFIER);
	uint8_t stored[SCRAM_KEY];
	struct talk t;

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	talk_prove(&t, "pencil");
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_int_equal(EVP_Digest(t.server.client_key, SCRAM_KEY, stored,
				    NULL, EVP_sha256(), NULL),
			 1);
	assert_memory_equal(stored, v.stored_key, SCRAM_KEY);
}

static void
binds_to_the_channel(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, some_binding, sizeof(some_binding));
	assert_true(t.client.plus);
	assert_string_equal(t.client_first,
			    "p=tls-server-end-point,,n=,r=" PG_CLIENT_NONCE);
	assert_int_equal(talk_answer(&t, true, true, t.client_first), 0);
	talk_prove(&t, "pencil");
	assert_int_equal(talk_judge(&t, some_binding, sizeof(some_binding)), 0);
	assert_int_equal(talk_verify(&t), 0);
}

static void
another_channel_is_refused(void **state)
{
	static const struct {
		uint8_t data[SCRAM_BINDING_MAX];
		size_t n;
	} others[] = {
		{ { 1, 2, 4 }, 32 }, /* another certificate */
		{ { 1, 2, 3 }, 31 },
		{ { 1, 2, 3 }, 48 },
		{ { 1, 2, 3 }, 0 }, /* ours is not known */
	};
	struct talk t;

	(void)state;
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		talk_begin(&t, some_binding, sizeof(some_binding));
		assert_int_equal(talk_answer(&t, true, true, t.client_first),
				 0);
		talk_prove(&t, "pencil");
		assert_int_equal(talk_judge(&t, others[i].data, others[i].n),
				 -1);
	}
}

/* Its certificate has no digest that could be bound to: no login then. */
static void
an_empty_binding_is_no_binding(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, some_binding, sizeof(some_binding));
	t.client.binding_len = 0;
	assert_int_equal(talk_answer(&t, true, true, t.client_first), 0);
	talk_prove(&t, "pencil");
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
}

/* The longest binding there is, and the longest nonce a client may bring. */
static void
the_longest_exchange_fits(void **state)
{
	uint8_t binding[SCRAM_BINDING_MAX], nonce[SCRAM_NONCE_RAW] = { 1 };
	struct scram_verifier v = { .salt_len = SCRAM_SALT_MAX };
	struct talk t;
	char *first = t.client_first;
	size_t room = SCRAM_NONCE_MAX - 24;

	(void)state;
	memset(binding, 0xff, sizeof(binding));
	assert_int_equal(
	    scram_verifier_make(&v, "x", binding, SCRAM_BINDING_MAX, 100000),
	    0);
	talk_begin(&t, binding, sizeof(binding));
	memset(t.client.nonce, 'x', room);
	t.client.nonce_own_len = room;
	sprintf(t.client.first_bare, "n=,r=%s", t.client.nonce);
	sprintf(first, "%s%s", t.client.gs2, t.client.first_bare);
	assert_int_equal(scram_server_first(&t.server, &v, true, true, nonce,
					    first, strlen(first),
					    t.server_first),
			 0);
	talk_prove(&t, "x");
	assert_int_equal(talk_judge(&t, binding, sizeof(binding)), 0);
	assert_int_equal(talk_verify(&t), 0);

	strcat(first, "x");
	assert_int_equal(scram_server_first(&t.server, &v, true, true, nonce,
					    first, strlen(first),
					    t.server_first),
			 -1);
}

/* RFC 5802, section 6: what each side may say about channel binding. */
static void
nobody_in_between_can_hide_channel_binding(void **state)
{
	static const struct {
		const char *gs2;
		bool plus, offered;
		int want;
	} rows[] = {
		{ "n,,", false, false, 0 },
		{ "n,,", false, true, 0 }, /* a client that cannot bind */
		{ "n,,", true, true, -1 },
		{ "y,,", false, false, 0 },
		{ "y,,", false, true, -1 }, /* we did offer it */
		{ "y,,", true, true, -1 },
		{ "p=tls-server-end-point,,", true, true, 0 },
		{ "p=tls-server-end-point,,", true, false, -1 },
		{ "p=tls-server-end-point,,", false, true, -1 },
		{ "p=tls-server-end-point,,", false, false, -1 },
		{ "p=tls-unique,,", true, true, -1 },
		{ "p=tls-exporter,,", true, true, -1 },
		{ "p=,,", true, true, -1 },
		{ "p,,", true, true, -1 },
	};
	struct talk t;
	char first[TEXT];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		sprintf(first, "%sn=,r=abc", rows[i].gs2);
		assert_int_equal(
		    talk_answer(&t, rows[i].plus, rows[i].offered, first),
		    rows[i].want);
	}
}

static void
says_y_when_only_the_server_cannot_bind(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, some_binding, 0);
	assert_false(t.client.plus);
	assert_string_equal(t.client_first, "y,,n=,r=" PG_CLIENT_NONCE);
	assert_int_equal(talk_answer(&t, false, true, t.client_first), -1);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	talk_prove(&t, "pencil");
	assert_int_equal(strncmp(t.client_final, "c=eSws,", 7), 0);
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_int_equal(talk_verify(&t), 0);
}

/* `y` on the way in and `n` in the proof is what a downgrade looks like. */
static void
the_header_must_come_back_as_it_was(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, some_binding, 0);
	t.client_first[0] = 'n';
	assert_int_equal(talk_answer(&t, false, true, t.client_first), 0);
	talk_prove(&t, "pencil");
	assert_int_equal(talk_judge(&t, NULL, 0), -1);
}

static int
answer_bytes(const char *first, size_t n)
{
	struct scram_verifier v = verifier_of(PG_VERIFIER);
	const uint8_t nonce[SCRAM_NONCE_RAW] = { 1 };
	struct scram_server s;
	char out[TEXT];

	return scram_server_first(&s, &v, false, false, nonce, first, n, out);
}

static void
reads_a_client_first_strictly(void **state)
{
	static const char *const bad[] = {
		"",
		"n",
		"n,",
		"n,,",
		"n,,n=",
		"n,,n=,",
		"n,,n=,r",
		"n,,n=,r=",
		"n,,r=abc",
		"n,,r=abc,n=",
		"n,a=root,n=,r=abc", /* to act as somebody else */
		"n,a=,n=,r=abc",
		"n,x,n=,r=abc",
		"N,,n=,r=abc",
		"x,,n=,r=abc",
		"n,,m=1,n=,r=abc", /* an extension that must be understood */
		"n,,n=,r=abc,m=1",
		"n,,n=,m=1,r=abc",
		"n,,n=,r=abc,",
		"n,,n=,r=abc,,x=1",
		"n,,n=,r=abc,x",
		"n,,n=,r=abc,=1",
		"n,,n=,r=abc,1=1",
		"n,,n=,r=a b",
		"n,,n=,r=a\tb",
		"n,,n=,r=a\x7f",
		"n,,n=,r=\xc3\xa4",
		"n,,n=,r=abc\n",
		" n,,n=,r=abc",
	};
	static const char *const good[] = {
		"n,,n=,r=abc",
		"n,,n=candlefish,r=abc", /* ignored: the startup packet counts */
		"n,,n=a=2Cb=3D,r=abc",
		"n,,n=\xc3\xa4,r=abc",
		"n,,n=,r=a=b+/$%~!",
		"n,,n=,r=abc,x=1",
		"n,,n=,r=abc,x=1,y=,z==",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (answer_bytes(bad[i], strlen(bad[i])) != -1)
			fail_msg("accepted: %s", bad[i]);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (answer_bytes(good[i], strlen(good[i])) != 0)
			fail_msg("refused: %s", good[i]);
}

static void
a_nul_anywhere_is_refused(void **state)
{
	static const char first[] = "n,,n=user,r=abc,x=123";
	static const char second[] = RFC_SERVER_FIRST ",x=123";
	struct scram_client c = rfc_client();
	struct talk t;
	char m[TEXT];

	(void)state;
	assert_int_equal(answer_bytes(first, strlen(first)), 0);
	for (size_t i = 0; i < strlen(first); i++) {
		strcpy(m, first);
		m[i] = '\0';
		assert_int_equal(answer_bytes(m, strlen(first)), -1);
	}
	for (size_t i = 0; i < strlen(second); i++) {
		strcpy(m, second);
		m[i] = '\0';
		assert_int_equal(scram_client_parse(&c, m, strlen(second)), -1);
	}
	assert_int_equal(scram_client_parse(&c, second, strlen(second)), 0);
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	assert_int_equal(scram_server_final(&t.server, NULL, 0, PG_CLIENT_FINAL,
					    sizeof(PG_CLIENT_FINAL), m),
			 -1);
}

static void
a_message_has_a_longest(void **state)
{
	char m[SCRAM_MESSAGE_MAX + 2];

	(void)state;
	memset(m, 'x', sizeof(m));
	memcpy(m, "n,,n=,r=abc,x=", 14);
	assert_int_equal(answer_bytes(m, SCRAM_MESSAGE_MAX), 0);
	assert_int_equal(answer_bytes(m, SCRAM_MESSAGE_MAX + 1), -1);
}

static int
parse_one(const char *server_first)
{
	struct scram_client c = rfc_client();

	return scram_client_parse(&c, server_first, strlen(server_first));
}

#define OWN "rOprNGfwEbeRWgbNEkqO"

static void
reads_a_server_first_strictly(void **state)
{
	static const char *const bad[] = {
		"",
		"r=" OWN "x",
		"r=" OWN "x,s=c2FsdA==",
		"r=" OWN "x,s=c2FsdA==,i=",
		"r=" OWN "x,s=c2FsdA==,i=0", /* no work at all */
		"r=" OWN "x,s=c2FsdA==,i=-1",
		"r=" OWN "x,s=c2FsdA==,i=04096",
		"r=" OWN "x,s=c2FsdA==,i= 4096",
		"r=" OWN "x,s=c2FsdA==,i=4096 ",
		"r=" OWN "x,s=c2FsdA==,i=0x10",
		"r=" OWN "x,s=c2FsdA==,i=100001", /* too much work */
		"r=" OWN "x,s=c2FsdA==,i=4294967297",
		"r=" OWN "x,s=c2FsdA==,i=18446744073709551617",
		"r=" OWN "x,s=,i=4096",
		"r=" OWN "x,s====,i=4096",
		"r=" OWN "x,s=c2FsdA,i=4096",
		"r=" OWN "x,s=c2FsdB==,i=4096",
		"r=" OWN "x,s=c2Fs dA==,i=4096",
		"r=" OWN "x,i=4096,s=c2FsdA==",
		"s=c2FsdA==,r=" OWN "x,i=4096",
		"r=" OWN ",s=c2FsdA==,i=4096", /* nothing of theirs */
		"r=xOprNGfwEbeRWgbNEkqOx,s=c2FsdA==,i=4096",
		"r=rOprNGfwEbeRWgbNEkqxx,s=c2FsdA==,i=4096",
		"r=rOpr,s=c2FsdA==,i=4096",
		"r=,s=c2FsdA==,i=4096",
		"r=" OWN " x,s=c2FsdA==,i=4096",
		"r=" OWN "\xc3\xa4,s=c2FsdA==,i=4096",
		"m=1,r=" OWN "x,s=c2FsdA==,i=4096",
		"r=" OWN "x,s=c2FsdA==,i=4096,m=1",
		"r=" OWN "x,s=c2FsdA==,i=4096,x=1,m=1",
		"r=" OWN "x,s=c2FsdA==,i=4096,",
		"r=" OWN "x,s=c2FsdA==,i=4096,x",
		"e=other-error",
	};
	static const char *const good[] = {
		"r=" OWN "x,s=c2FsdA==,i=4096",
		"r=" OWN "x,s=c2FsdA==,i=1",
		"r=" OWN "x,s=c2FsdA==,i=100000",
		"r=" OWN "x,s=c2FsdA==,i=4096,x=1",
		"r=" OWN "x,s=c2FsdA==,i=4096,x=,Y=2",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (parse_one(bad[i]) != -1)
			fail_msg("accepted: %s", bad[i]);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (parse_one(good[i]) != 0)
			fail_msg("refused: %s", good[i]);
}

static void
a_server_first_cut_before_its_count_is_refused(void **state)
{
	struct scram_client c = rfc_client();
	size_t digits = strlen("4096"), n = strlen(RFC_SERVER_FIRST);

	(void)state;
	for (size_t cut = 0; cut <= n - digits; cut++)
		assert_int_equal(scram_client_parse(&c, RFC_SERVER_FIRST, cut),
				 -1);
	assert_int_equal(scram_client_parse(&c, RFC_SERVER_FIRST, n), 0);
}

static void
a_server_nonce_and_salt_have_a_longest(void **state)
{
	char salt[1024], theirs[SCRAM_NONCE_MAX + 1] = { 0 };
	char m[TEXT];

	(void)state;
	for (size_t n = SCRAM_SALT_MAX - 2; n <= SCRAM_SALT_MAX + 2; n++) {
		salt_text(salt, n);
		sprintf(m, "r=" OWN "x,s=%s,i=1", salt);
		assert_int_equal(parse_one(m), n <= SCRAM_SALT_MAX ? 0 : -1);
	}
	memset(theirs, 'y', SCRAM_NONCE_MAX - strlen(OWN));
	sprintf(m, "r=" OWN "%s,s=c2FsdA==,i=1", theirs);
	assert_int_equal(parse_one(m), 0);
	sprintf(m, "r=" OWN "y%s,s=c2FsdA==,i=1", theirs);
	assert_int_equal(parse_one(m), -1);
}

/* A server that skips steps, or repeats them, gets nothing out of it. */
static void
messages_out_of_turn_are_refused(void **state)
{
	struct scram_client c = rfc_client();
	struct scram_keys keys = { 0 };
	size_t n = strlen(RFC_SERVER_FIRST);
	char out[TEXT];

	(void)state;
	assert_int_equal(scram_client_final(&c, &keys, out), -1);
	assert_int_equal(scram_client_verify(&c, "v=" K0, strlen("v=" K0)), -1);
	assert_int_equal(scram_client_parse(&c, RFC_SERVER_FIRST, n), 0);
	assert_int_equal(scram_client_parse(&c, RFC_SERVER_FIRST, n), -1);
	assert_int_equal(scram_client_verify(&c, "v=" K0, strlen("v=" K0)), -1);
	assert_int_equal(scram_client_final(&c, &keys, out), 0);
	assert_int_equal(scram_client_final(&c, &keys, out), -1);
}

static int
judge_bytes(const char *final, size_t n)
{
	struct talk t;

	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	return scram_server_final(&t.server, NULL, 0, final, n, t.server_final);
}

static void
every_bit_of_a_client_final_counts(void **state)
{
	size_t n = strlen(PG_CLIENT_FINAL);
	char m[TEXT];

	(void)state;
	assert_int_equal(judge_bytes(PG_CLIENT_FINAL, n), 0);
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(judge_bytes(PG_CLIENT_FINAL, cut), -1);
	for (size_t bit = 0; bit < n * 8; bit++) {
		strcpy(m, PG_CLIENT_FINAL);
		m[bit / 8] = (char)(m[bit / 8] ^ 1 << bit % 8);
		assert_int_equal(judge_bytes(m, n), -1);
	}
}

#define PG_NONCE PG_CLIENT_NONCE PG_SERVER_NONCE
#define PG_PROOF "p=N9OJnC/98RHd65iZZYn67/QWru8Q5PQNeSFKdxblISA="

static void
reads_a_client_final_strictly(void **state)
{
	static const char *const bad[] = {
		"c=biws,r=" PG_NONCE,
		"c=biws,r=" PG_NONCE ",x=1," PG_PROOF, /* not what was signed */
		"c=biws,r=" PG_NONCE ",m=1," PG_PROOF,
		"c=biws,r=" PG_NONCE "," PG_PROOF ",x=1",
		"c=biws,r=" PG_NONCE "," PG_PROOF ",",
		"c=biws,r=" PG_NONCE "," PG_PROOF "," PG_PROOF,
		"c=biws,r=" PG_NONCE "," PG_PROOF "\n",
		"c=biws,r=" PG_NONCE ",," PG_PROOF,
		"r=" PG_NONCE ",c=biws," PG_PROOF,
		"c=eSws,r=" PG_NONCE "," PG_PROOF,
		"c=,r=" PG_NONCE "," PG_PROOF,
		"c=biws,r=" PG_CLIENT_NONCE "," PG_PROOF,
		"c=biws,r=," PG_PROOF,
		"c=biws," PG_PROOF,
		PG_PROOF,
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (judge_bytes(bad[i], strlen(bad[i])) != -1)
			fail_msg("accepted: %s", bad[i]);
}

static void
an_extension_before_the_proof_is_signed_with_the_rest(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	assert_int_equal(scram_client_parse(&t.client, t.server_first,
					    strlen(t.server_first)),
			 0);
	strcat(t.client.nonce, ",x=1"); /* as a newer client would say it */
	talk_prove_parsed(&t, "pencil");
	assert_non_null(strstr(t.client_final, ",x=1,p="));
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_int_equal(talk_verify(&t), 0);
}

static void
every_bit_of_a_server_final_counts(void **state)
{
	size_t n = strlen(PG_SERVER_FINAL);
	struct talk t;

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	talk_prove(&t, "pencil");
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(
		    scram_client_verify(&t.client, PG_SERVER_FINAL, cut), -1);
	for (size_t bit = 0; bit < n * 8; bit++) {
		strcpy(t.server_final, PG_SERVER_FINAL);
		t.server_final[bit / 8] =
		    (char)(t.server_final[bit / 8] ^ 1 << bit % 8);
		assert_int_equal(
		    scram_client_verify(&t.client, t.server_final, n), -1);
	}
	strcpy(t.server_final, PG_SERVER_FINAL ",x=1");
	assert_int_equal(talk_verify(&t), 0);
	strcpy(t.server_final, PG_SERVER_FINAL ",m=1");
	assert_int_equal(talk_verify(&t), -1);
	strcpy(t.server_final, PG_SERVER_FINAL ",");
	assert_int_equal(talk_verify(&t), -1);
	strcpy(t.server_final, "e=invalid-proof");
	assert_int_equal(talk_verify(&t), -1);
}

static void
a_server_that_does_not_know_the_verifier_is_found_out(void **state)
{
	struct talk t;

	(void)state;
	talk_begin(&t, NULL, 0);
	assert_int_equal(talk_answer(&t, false, false, t.client_first), 0);
	talk_prove(&t, "pencil");
	/* It has the stored key, to check the proof with, and nothing else. */
	memset(t.server.verifier.server_key, 0, SCRAM_KEY);
	assert_int_equal(talk_judge(&t, NULL, 0), 0);
	assert_int_equal(talk_verify(&t), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(speaks_the_clients_part_of_the_rfc),
		cmocka_unit_test(speaks_the_servers_part_of_the_rfc),
		cmocka_unit_test(says_what_psql_and_postgresql_said),
		cmocka_unit_test(makes_the_verifier_postgresql_makes),
		cmocka_unit_test(refuses_salts_and_rounds_beyond_its_bounds),
		cmocka_unit_test(a_verifier_cut_anywhere_is_none),
		cmocka_unit_test(reads_a_verifier_strictly),
		cmocka_unit_test(a_salt_has_a_longest),
		cmocka_unit_test(an_unknown_user_looks_like_a_known_one),
		cmocka_unit_test(no_password_opens_a_mock),
		cmocka_unit_test(a_wrong_password_is_refused),
		cmocka_unit_test(a_challenge_is_answered_once),
		cmocka_unit_test(a_refused_first_message_cannot_be_followed_up),
		cmocka_unit_test(the_clients_key_is_known_after_its_proof),
		cmocka_unit_test(binds_to_the_channel),
		cmocka_unit_test(another_channel_is_refused),
		cmocka_unit_test(an_empty_binding_is_no_binding),
		cmocka_unit_test(the_longest_exchange_fits),
		cmocka_unit_test(nobody_in_between_can_hide_channel_binding),
		cmocka_unit_test(says_y_when_only_the_server_cannot_bind),
		cmocka_unit_test(the_header_must_come_back_as_it_was),
		cmocka_unit_test(reads_a_client_first_strictly),
		cmocka_unit_test(a_nul_anywhere_is_refused),
		cmocka_unit_test(a_message_has_a_longest),
		cmocka_unit_test(reads_a_server_first_strictly),
		cmocka_unit_test(
		    a_server_first_cut_before_its_count_is_refused),
		cmocka_unit_test(a_server_nonce_and_salt_have_a_longest),
		cmocka_unit_test(messages_out_of_turn_are_refused),
		cmocka_unit_test(every_bit_of_a_client_final_counts),
		cmocka_unit_test(reads_a_client_final_strictly),
		cmocka_unit_test(
		    an_extension_before_the_proof_is_signed_with_the_rest),
		cmocka_unit_test(every_bit_of_a_server_final_counts),
		cmocka_unit_test(
		    a_server_that_does_not_know_the_verifier_is_found_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "proxy/verifiers.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { KEY = 32, BUCKETS_FIRST = 64 };

struct entry {
	struct entry *next;
	uint8_t of[KEY]; /* name and password */
	uint8_t stored_key[SCRAM_KEY], server_key[SCRAM_KEY];
};

struct verifiers {
	uint8_t key[KEY];
	pthread_mutex_t lock; /* of all below */
	struct entry **bucket;
	size_t buckets, n;
};

struct verifiers *
verifiers_open(void)
{
	struct verifiers *vs = calloc(1, sizeof(*vs));

	if (vs == NULL)
		return NULL;
	vs->buckets = BUCKETS_FIRST;
	vs->bucket = calloc(vs->buckets, sizeof(struct entry *));
	if (vs->bucket == NULL || RAND_bytes(vs->key, sizeof(vs->key)) != 1) {
		free(vs->bucket);
		free(vs);
		return NULL;
	}
	pthread_mutex_init(&vs->lock, NULL);
	return vs;
}

static void
forget_all(struct verifiers *vs)
{
	for (size_t i = 0; i < vs->buckets; i++) {
		struct entry *e;

		while ((e = vs->bucket[i]) != NULL) {
			vs->bucket[i] = e->next;
			OPENSSL_cleanse(e, sizeof(*e));
			free(e);
		}
	}
	vs->n = 0;
}

void
verifiers_close(struct verifiers **at)
{
	struct verifiers *vs = *at;

	*at = NULL;
	if (vs == NULL)
		return;
	forget_all(vs);
	pthread_mutex_destroy(&vs->lock);
	free(vs->bucket);
	OPENSSL_cleanse(vs->key, sizeof(vs->key));
	free(vs);
}

/* What a salt is made of: the name without its slug, if that is one. */
static size_t
base_of(const char *name)
{
	const char *dot = strrchr(name, '.');

	return dot ? (size_t)(dot - name) : strlen(name);
}

void
verifiers_mock(const struct verifiers *vs, const char *name,
	       struct scram_verifier *v)
{
	char *base = strndup(name, base_of(name));

	if (base == NULL)
		abort();
	scram_verifier_mock(v, base, vs->key, sizeof(vs->key));
	free(base);
}

/* With a NUL between them, no two pairs are the same bytes. */
static void
digest(const struct verifiers *vs, const char *name, const char *password,
       uint8_t out[KEY])
{
	size_t a = base_of(name), b = strlen(password);
	uint8_t *text = calloc(1, a + 1 + b);

	if (text == NULL)
		abort();
	memcpy(text, name, a);
	memcpy(text + a + 1, password, b);
	if (HMAC(EVP_sha256(), vs->key, KEY, text, a + 1 + b, out, NULL) ==
	    NULL)
		abort();
	OPENSSL_cleanse(text, a + 1 + b);
	free(text);
}

static struct entry **
bucket_of(const struct verifiers *vs, const uint8_t of[KEY])
{
	uint64_t hash;

	memcpy(&hash, of, sizeof(hash));
	return &vs->bucket[hash & (vs->buckets - 1)];
}

static struct entry *
find(const struct verifiers *vs, const uint8_t of[KEY])
{
	struct entry *e = *bucket_of(vs, of);

	while (e != NULL && memcmp(e->of, of, KEY) != 0)
		e = e->next;
	return e;
}

static void
add(struct verifiers *vs, struct entry *e)
{
	struct entry **at = bucket_of(vs, e->of);

	e->next = *at;
	*at = e;
	vs->n++;
}

/* Twice as many buckets when there is one entry for each. */
static void
grow(struct verifiers *vs)
{
	struct entry **old = vs->bucket, *e;
	size_t n = vs->buckets;

	if (vs->n < vs->buckets)
		return;
	vs->buckets *= 2;
	vs->n = 0;
	if ((vs->bucket = calloc(vs->buckets, sizeof(*old))) == NULL)
		abort(); /* bounded by VERIFIERS_MAX */
	for (size_t i = 0; i < n; i++) {
		while ((e = old[i]) != NULL) {
			old[i] = e->next;
			add(vs, e);
		}
	}
	free(old);
}

bool
verifiers_find(struct verifiers *vs, const char *name, const char *password,
	       struct scram_verifier *v)
{
	uint8_t of[KEY];
	struct entry *e;

	digest(vs, name, password, of);
	pthread_mutex_lock(&vs->lock);
	e = find(vs, of);
	if (e != NULL) {
		verifiers_mock(vs, name, v);
		memcpy(v->stored_key, e->stored_key, SCRAM_KEY);
		memcpy(v->server_key, e->server_key, SCRAM_KEY);
	}
	pthread_mutex_unlock(&vs->lock);
	return e != NULL;
}

void
verifiers_keep(struct verifiers *vs, const char *name, const char *password,
	       const struct scram_verifier *v)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (e == NULL)
		abort();
	digest(vs, name, password, e->of);
	memcpy(e->stored_key, v->stored_key, SCRAM_KEY);
	memcpy(e->server_key, v->server_key, SCRAM_KEY);
	pthread_mutex_lock(&vs->lock);
	if (find(vs, e->of) != NULL) {
		free(e); /* two clients came at once */
	} else {
		if (vs->n == VERIFIERS_MAX)
			forget_all(vs);
		grow(vs);
		add(vs, e);
	}
	pthread_mutex_unlock(&vs->lock);
}

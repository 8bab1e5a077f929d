#include "tls/tickets.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { IV = 16 };

void
tickets_init(struct tickets *t)
{
	*t = (struct tickets){ 0 };
	if (pthread_mutex_init(&t->lock, NULL) != 0)
		abort();
}

void
tickets_fini(struct tickets *t)
{
	pthread_mutex_destroy(&t->lock);
	OPENSSL_cleanse(t, sizeof(*t));
}

void
tickets_copy(struct tickets *to, struct tickets *from)
{
	struct tickets_key newer, older;

	pthread_mutex_lock(&from->lock);
	newer = from->newer;
	older = from->older;
	pthread_mutex_unlock(&from->lock);
	pthread_mutex_lock(&to->lock);
	to->newer = newer;
	to->older = older;
	pthread_mutex_unlock(&to->lock);
	OPENSSL_cleanse(&newer, sizeof(newer));
	OPENSSL_cleanse(&older, sizeof(older));
}

/* ---- keys ------------------------------------------------------------- */

static int
renew(struct tickets *t, uint64_t now_s)
{
	struct tickets_key fresh = { .born_s = now_s, .known = true };

	if (RAND_bytes(fresh.name, sizeof(fresh.name)) != 1 ||
	    RAND_priv_bytes(fresh.cipher, sizeof(fresh.cipher)) != 1 ||
	    RAND_priv_bytes(fresh.mac, sizeof(fresh.mac)) != 1)
		return -1;
	t->older = t->newer;
	t->newer = fresh;
	OPENSSL_cleanse(&fresh, sizeof(fresh));
	return 0;
}

int
tickets_seal(struct tickets *t, uint64_t now_s, struct tickets_key *out)
{
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	if (!t->newer.known || now_s - t->newer.born_s >= TICKETS_AGE_S)
		rc = renew(t, now_s);
	if (rc == 0)
		*out = t->newer;
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static bool
opens(const struct tickets_key *k, uint64_t now_s, const uint8_t *name)
{
	return k->known && now_s - k->born_s < 2 * TICKETS_AGE_S &&
	       memcmp(k->name, name, sizeof(k->name)) == 0;
}

int
tickets_open(struct tickets *t, uint64_t now_s, const uint8_t *name,
	     struct tickets_key *out)
{
	int found = 0;

	pthread_mutex_lock(&t->lock);
	if (opens(&t->newer, now_s, name)) {
		*out = t->newer;
		found = now_s - out->born_s < TICKETS_AGE_S ? 1 : 2;
	} else if (opens(&t->older, now_s, name)) {
		*out = t->older;
		found = 2;
	}
	pthread_mutex_unlock(&t->lock);
	return found;
}

/* ---- OpenSSL's side --------------------------------------------------- */

static uint64_t
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec;
}

static int
set_mac(EVP_MAC_CTX *mac, struct tickets_key *k)
{
	char digest[] = "SHA256";
	const OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->mac,
						  sizeof(k->mac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest,
						 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params);
}

/* What SSL_CTX_set_tlsext_ticket_key_evp_cb() wants to know. */
static int
ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv,
	   EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal)
{
	struct tickets *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	struct tickets_key k = { 0 };
	int rc = 1;

	if (!seal) {
		rc = tickets_open(t, now(), name, &k);
	} else if (tickets_seal(t, now(), &k) != 0 || RAND_bytes(iv, IV) != 1) {
		rc = -1;
	} else {
		memcpy(name, k.name, sizeof(k.name));
	}
	if (rc > 0 && (EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL,
					 k.cipher, iv, seal) != 1 ||
		       set_mac(mac, &k) != 1))
		rc = -1;
	OPENSSL_cleanse(&k, sizeof(k));
	return rc;
}

void
tickets_use(struct tickets *t, SSL_CTX *ctx)
{
	SSL_CTX_set_app_data(ctx, t);
	if (SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key) != 1)
		abort(); /* it only stores a pointer */
}

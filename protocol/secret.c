#include "protocol/secret.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

bool
secret_same(struct slice given, const char *stored)
{
	uint8_t a[EVP_MAX_MD_SIZE], b[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	/* Of digests, so that neither length nor content shows in the time. */
	return given.n <= SECRET_MAX_BYTES &&
	       EVP_Digest(given.p, given.n, a, &n, EVP_sha256(), NULL) == 1 &&
	       EVP_Digest(stored, strlen(stored), b, &n, EVP_sha256(), NULL) ==
		   1 &&
	       CRYPTO_memcmp(a, b, n) == 0;
}

static int
md5_hex(char out[PG_MD5 + 1], struct slice a, struct slice b)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t md[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) == 1 &&
		  EVP_DigestUpdate(ctx, a.p, a.n) == 1 &&
		  EVP_DigestUpdate(ctx, b.p, b.n) == 1 &&
		  EVP_DigestFinal_ex(ctx, md, NULL) == 1;

	EVP_MD_CTX_free(ctx);
	if (!ok)
		return -1;
	memcpy(out, "md5", 3);
	for (int i = 0; i < 16; i++) {
		out[3 + 2 * i] = digits[md[i] >> 4];
		out[4 + 2 * i] = digits[md[i] & 15];
	}
	out[PG_MD5] = '\0';
	return 0;
}

/* PostgreSQL documentation, "Message Flow", AuthenticationMD5Password. */
int
pg_md5_store(char out[PG_MD5 + 1], const char *password, const char *user)
{
	return md5_hex(out, slice_str(password), slice_str(user));
}

int
pg_md5_answer(char out[PG_MD5 + 1], const char *stored, const uint8_t salt[4])
{
	assert(pg_md5_is_stored(stored));
	return md5_hex(out, slice_of(stored + 3, 32), slice_of(salt, 4));
}

bool
pg_md5_is_stored(const char *text)
{
	return strlen(text) == PG_MD5 && strncmp(text, "md5", 3) == 0 &&
	       strspn(text + 3, "0123456789abcdef") == 32;
}

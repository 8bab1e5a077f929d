#include <assert.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/jwt.h"

/*
 * The first byte chooses: any bytes as a token, which nobody signed, or any
 * bytes as header and claims (a newline between them) of a token that we sign.
 */
int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

#define SECRET "0123456789abcdef0123456789abcdef"

enum { INPUT_MAX = 8192 };

static size_t
base64url(char *out, const uint8_t *p, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmno"
				     "pqrstuvwxyz0123456789-_";
	size_t o = 0;

	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		v |= i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < n ? p[i + 2] : 0;
		for (size_t k = 0; k < 4 && k < n - i + 1; k++)
			out[o++] = digits[v >> (18 - 6 * k) & 63];
	}
	return o;
}

static void
judge(const char *token, size_t n, bool ours)
{
	const struct jwt_trust trust = { .secret = SECRET, .audience = "weir" };
	const char *why = NULL;
	struct jwt *jwt = jwt_open(slice_of(token, n), &trust, 1000, &why);
	char *text;

	assert((jwt == NULL) == (why != NULL));
	assert(jwt == NULL || ours);
	if (jwt == NULL)
		return;
	text = jwt_text(jwt, "sub");
	assert(jwt_string(jwt, "sub") == NULL ||
	       strcmp(jwt_string(jwt, "sub"), text) == 0);
	free(text);
	jwt_close(&jwt);
}

static void
judge_signed(const uint8_t *p, size_t n)
{
	static char token[2 * INPUT_MAX + 256];
	const uint8_t *end = memchr(p, '\n', n);
	size_t header_n = end ? (size_t)(end - p) : n, at;
	uint8_t md[32];

	at = base64url(token, p, header_n);
	token[at++] = '.';
	if (end != NULL)
		at += base64url(token + at, end + 1, n - header_n - 1);
	HMAC(EVP_sha256(), SECRET, 32, (uint8_t *)token, at, md, NULL);
	token[at++] = '.';
	at += base64url(token + at, md, sizeof(md));
	judge(token, at, true);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n == 0 || n > INPUT_MAX)
		return 0;
	if (p[0] == 's')
		judge_signed(p + 1, n - 1);
	else
		judge((const char *)p + 1, n - 1, false);
	return 0;
}

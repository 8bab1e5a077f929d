#include "protocol/context.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "weir1"

enum { MAC = 32, NUMBERS = 2 * (1 + 20) }; /* two of 64 bits, and their dots */

static char *
put_hex(char *out, const void *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = p;

	for (size_t i = 0; i < n; i++) {
		*out++ = digits[b[i] >> 4];
		*out++ = digits[b[i] & 15];
	}
	*out = '\0';
	return out;
}

static void
mac_of(uint8_t out[MAC], const char *key, const char *text)
{
	unsigned n = 0;

	if (HMAC(EVP_sha256(), key, (int)strlen(key), (const uint8_t *)text,
		 strlen(text), out, &n) == NULL ||
	    n != MAC)
		abort();
}

char *
context_subject(const char *organization, const char *user)
{
	size_t n = strlen(organization), m = strlen(user);
	char *text = malloc(sizeof(VERSION) + 2 + 2 * (n + m)), *at;

	if (text == NULL)
		abort();
	memcpy(text, VERSION ".", sizeof(VERSION));
	at = put_hex(text + sizeof(VERSION), organization, n);
	*at++ = '.';
	put_hex(at, user, m);
	return text;
}

char *
context_sign(const char *subject, const char *key, uint32_t pid,
	     uint64_t expiry)
{
	size_t room = strlen(subject) + NUMBERS + 1 + 2 * MAC + 1, n;
	char *text = malloc(room);
	uint8_t mac[MAC];

	if (text == NULL)
		abort();
	n = (size_t)snprintf(text, room, "%s.%" PRIu32 ".%" PRIu64, subject,
			     pid, expiry);
	mac_of(mac, key, text);
	text[n] = '.';
	put_hex(text + n + 1, mac, MAC);
	return text;
}

uint64_t
context_key_id(const char *key)
{
	uint8_t mac[MAC];
	uint64_t id;

	mac_of(mac, key, "which key this is");
	memcpy(&id, mac, sizeof(id));
	return id | 1;
}

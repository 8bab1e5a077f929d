#include "tests/t.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "protocol/base64.h"

static int
get(enum base64 kind, uint8_t *out, size_t max, size_t *n, const char *text)
{
	return base64_get(kind, out, max, n, slice_str(text));
}

/* What OpenSSL writes, in either alphabet, at every length. */
static void
reads_back_what_was_written(void **state)
{
	uint8_t bytes[100], out[100];
	char text[140], url[140];
	size_t n;

	(void)state;
	for (int len = 0; len <= 100; len++) {
		assert_int_equal(RAND_bytes(bytes, sizeof(bytes)), 1);
		EVP_EncodeBlock((unsigned char *)text, bytes, len);
		strcpy(url, text);
		url[strcspn(url, "=")] = '\0';
		for (char *p = url; *p != '\0'; p++)
			*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
		for (int kind = BASE64; kind <= BASE64_URL; kind++) {
			const char *t = kind == BASE64 ? text : url;

			assert_int_equal(get(kind, out, (size_t)len, &n, t), 0);
			assert_int_equal(n, len);
			assert_memory_equal(out, bytes, n);
			if (len > 0)
				assert_int_equal(
				    get(kind, out, (size_t)len - 1, &n, t), -1);
		}
	}
}

static void
takes_one_text_for_one_value(void **state)
{
	static const char *const plain[] = {
		"A",        "AA",   "AAA",   "AA=",  "=",    "==",
		"====",     "A===", "AB==",  "AAB=", "AA=A", "AAAA=",
		"AA==AAAA", "AA A", "AAA\n", "AA-_"
	};
	static const char *const url[] = { "A",    "AB",   "AAB",  "AA==",
					   "AAA=", "AA+/", "AAA ", "AAAAA" };
	uint8_t out[16];
	size_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (get(BASE64, out, sizeof(out), &n, plain[i]) != -1)
			fail_msg("%s was taken", plain[i]);
	for (size_t i = 0; i < sizeof(url) / sizeof(url[0]); i++)
		if (get(BASE64_URL, out, sizeof(out), &n, url[i]) != -1)
			fail_msg("%s was taken", url[i]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(takes_one_text_for_one_value),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

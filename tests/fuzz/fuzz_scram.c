#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/scram.h"

/*
 * The first byte chooses who is spoken to, the rest is what the other side
 * says: two messages with a newline between them, or a verifier.  Our own
 * nonces and the password are fixed, so a corpus can hold a whole login.
 */
int LLVMFuzzerTestOneInput(const uint8_t *, size_t);

static const uint8_t nonce[SCRAM_NONCE_RAW];
static const uint8_t binding[32];

struct two {
	const char *first, *second;
	size_t first_len, second_len;
};

static struct two
two_of(const char *p, size_t n)
{
	const char *end = memchr(p, '\n', n);

	if (end == NULL)
		return (struct two){ p, "", n, 0 };
	return (struct two){ p, end + 1, (size_t)(end - p),
			     n - (size_t)(end - p) - 1 };
}

static void
fuzz_client(struct two m, bool plus)
{
	static const struct scram_keys keys;
	struct scram_client c;
	char out[SCRAM_MESSAGE_MAX + 1];

	if (scram_client_first(&c, nonce, plus ? binding : NULL,
			       plus ? sizeof(binding) : 0, out) == -1)
		abort();
	if (scram_client_parse(&c, m.first, m.first_len) == -1)
		return;
	assert(c.salt_len > 0);
	assert(c.salt_len <= SCRAM_SALT_MAX);
	assert(c.iterations > 0);
	assert(c.iterations <= SCRAM_ITERATIONS_MAX);
	assert(strlen(c.nonce) > c.nonce_own_len);
	if (scram_client_final(&c, &keys, out) == -1)
		abort();
	if (scram_client_verify(&c, m.second, m.second_len) == 0)
		assert(m.second_len >= 46); /* nothing shorter is a signature */
}

static void
fuzz_server(struct two m, bool plus)
{
	struct scram_verifier v, mock;
	struct scram_server s;
	char out[SCRAM_MESSAGE_MAX + 1];

	if (scram_verifier_make(&v, "pencil", binding, 16, 1) == -1)
		abort();
	scram_verifier_mock(&mock, "user", binding, sizeof(binding));
	if (scram_server_first(&s, &v, plus, plus, nonce, m.first, m.first_len,
			       out) == -1) {
		assert(scram_server_final(&s, binding, sizeof(binding),
					  m.second, m.second_len, out) == -1);
		return;
	}
	assert(strlen(out) < SCRAM_MESSAGE_MAX);
	(void)!scram_server_final(&s, binding, sizeof(binding), m.second,
				  m.second_len, out);
	/* What is well-formed for one verifier is so for all; right for none. */
	assert(scram_server_first(&s, &mock, plus, plus, nonce, m.first,
				  m.first_len, out) == 0);
	assert(scram_server_final(&s, binding, sizeof(binding), m.second,
				  m.second_len, out) == -1);
}

static void
fuzz_verifier(const char *p, size_t n)
{
	struct scram_verifier v;
	char *text = malloc(n + 1); /* exactly as long as it is, for ASan */

	memcpy(text, p, n);
	text[n] = '\0';
	if (scram_verifier_parse(&v, text) == 0) {
		assert(v.salt_len > 0);
		assert(v.salt_len <= SCRAM_SALT_MAX);
		assert(v.iterations > 0);
		assert(v.iterations <= SCRAM_ITERATIONS_MAX);
	}
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const char *rest = (const char *)p + 1;

	if (n == 0)
		return 0;
	switch (p[0]) {
	case 'c':
		fuzz_client(two_of(rest, n - 1), false);
		break;
	case 'C':
		fuzz_client(two_of(rest, n - 1), true);
		break;
	case 's':
		fuzz_server(two_of(rest, n - 1), false);
		break;
	case 'S':
		fuzz_server(two_of(rest, n - 1), true);
		break;
	default:
		fuzz_verifier(rest, n - 1);
	}
	return 0;
}

#include "protocol/base64.h"

static int
digit(enum base64 kind, uint8_t c)
{
	const char *last = kind == BASE64_URL ? "-_" : "+/";

	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == last[0] ? 62 : c == last[1] ? 63 : -1;
}

int
base64_get(enum base64 kind, uint8_t *out, size_t max, size_t *len,
	   struct slice text)
{
	uint32_t v = 0;
	unsigned bits = 0;
	size_t n = 0;

	if (kind == BASE64 && text.n % 4 != 0)
		return -1;
	for (int pad = 0; kind == BASE64 && pad < 2 && text.n > 0 &&
			  text.p[text.n - 1] == '=';
	     pad++)
		text.n--;
	if (text.n % 4 == 1)
		return -1;
	for (size_t i = 0; i < text.n; i++) {
		int d = digit(kind, text.p[i]);

		if (d < 0)
			return -1;
		v = v << 6 | (uint32_t)d;
		bits += 6;
		if (bits < 8)
			continue;
		bits -= 8;
		if (n == max)
			return -1;
		out[n++] = (uint8_t)(v >> bits);
		v &= (1u << bits) - 1;
	}
	*len = n;
	return v == 0 ? 0 : -1;
}

#include "protocol/utf8.h"

size_t
utf8_length(const uint8_t *p, size_t n)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t len = *p < 0x80             ? 1
		     : (*p & 0xe0) == 0xc0 ? 2
		     : (*p & 0xf0) == 0xe0 ? 3
		     : (*p & 0xf8) == 0xf0 ? 4
					   : 0;
	uint32_t c;

	if (len <= 1 || len > n)
		return len == 1 ? 1 : 0;
	c = *p & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	return len;
}

bool
utf8_is_text(const void *text, size_t n)
{
	const uint8_t *p = text;
	size_t at = 0, len;

	while (at < n && (len = utf8_length(p + at, n - at)) > 0)
		at += len;
	return at == n;
}

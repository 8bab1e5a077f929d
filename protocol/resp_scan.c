#include "protocol/resp.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	ARGS_FIRST = 16,      /* slots of the first allocation */
	ARGS_KEPT = 1024,     /* more slots than this are not kept */
	BULK_BYTES_MIN = 6,   /* "$0\r\n\r\n" */
	DIGITS_FAST = 10,     /* so many cannot overflow */
	NUMBER_LINE_MAX = 32, /* of a reply: type, sign, 19 digits, CRLF */
	LINE_TOO_LONG = -2
};

/*
 * Numbers
 */

/* Decimal as Redis takes it: no plus, no blank, no leading zero, no "-0". */
static bool
number(const uint8_t *p, size_t n, int64_t *value)
{
	bool minus = n > 0 && p[0] == '-';
	uint64_t limit = (uint64_t)INT64_MAX + minus;
	uint64_t v = 0;

	if (n == 1 && p[0] == '0') {
		*value = 0;
		return true;
	}
	if (n == minus || p[minus] == '0')
		return false;
	for (size_t i = minus; i < n; i++) {
		uint8_t digit = (uint8_t)(p[i] - '0');

		if (digit > 9 || v > (limit - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*value = minus ? (int64_t)(0 - v) : (int64_t)v;
	return true;
}

/*
 * The common case of a length line: a type byte, a few digits, CR, one more
 * byte.  Bytes it takes, or 0: look closer.
 */
static inline size_t
short_number_line(const uint8_t *p, size_t n, int64_t *value)
{
	int64_t v = 0;
	size_t i = 1;

	for (; i < n && i <= DIGITS_FAST; i++) {
		uint8_t digit = (uint8_t)(p[i] - '0');

		if (digit > 9)
			break;
		v = v * 10 + digit;
	}
	if (i == 1 || n - i < 2 || p[i] != '\r' || (p[1] == '0' && i > 2))
		return 0;
	*value = v;
	return i + 2;
}

/*
 * Requests
 */

static ssize_t
refuse(struct resp_request *r, enum resp_error error)
{
	r->argc = 0;
	r->error = error;
	return -1;
}

static bool
is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/*
 * A line that begins with `type` and has a number: bytes it takes, 0 need
 * more, -1 another type or no number, LINE_TOO_LONG.  Redis looks for the CR
 * as in a C string, so a NUL hides it, and does not look at the byte after.
 */
static ssize_t
number_line(const uint8_t *p, size_t n, uint8_t type, int64_t *value)
{
	size_t span = n <= RESP_INLINE_MAX ? n : RESP_INLINE_MAX + 1;
	const uint8_t *cr;
	size_t size;

	if (n > 0 && p[0] == type &&
	    (size = short_number_line(p, n, value)) > 0)
		return (ssize_t)size;
	cr = n > 0 ? memchr(p, '\r', span) : NULL;
	if (cr != NULL && memchr(p, '\0', (size_t)(cr - p)) == NULL) {
		size = (size_t)(cr - p) + 2;
		if (size > n)
			return 0;
		if (p[0] != type || !number(p + 1, size - 3, value))
			return -1;
		return (ssize_t)size;
	}
	return n > RESP_INLINE_MAX ? LINE_TOO_LONG : 0;
}

static void
grow_args(struct resp_request *r)
{
	size_t size = r->arg_size ? r->arg_size * 2 : ARGS_FIRST;
	struct slice *arg = realloc(r->arg, size * sizeof(*arg));

	if (arg == NULL)
		abort(); /* bounded by the bytes present: the machine is full */
	r->arg = arg;
	r->arg_size = size;
}

static void
add_arg(struct resp_request *r, const uint8_t *p, size_t n)
{
	if (r->argc == r->arg_size)
		grow_args(r);
	r->arg[r->argc++] = (struct slice){ p, n };
}

/* Why a line where "$length" was due is none. */
static ssize_t
refuse_bulk_line(struct resp_request *r, const uint8_t *p, ssize_t why)
{
	if (why == LINE_TOO_LONG)
		return refuse(r, RESP_BIG_BULK_COUNT);
	if (p[0] == '$')
		return refuse(r, RESP_BAD_BULK);
	r->got = p[0];
	return refuse(r, RESP_NO_DOLLAR);
}

/*
 * The `*count` line.  A count the byte limit cannot hold is refused here, at
 * its announcement, and so are lengths below: whether a request is refused
 * must not depend on how it was cut.
 */
static ssize_t
scan_count(struct resp_request *r, const uint8_t *p, size_t n, bool auth,
	   size_t bytes_max, int64_t *count)
{
	ssize_t size = number_line(p, n, '*', count);

	if (size == 0)
		return 0;
	if (size == LINE_TOO_LONG)
		return refuse(r, RESP_BIG_COUNT);
	if (size < 0 || *count > RESP_ARGS_MAX)
		return refuse(r, RESP_BAD_MULTIBULK);
	if (!auth && *count > RESP_ARGS_MAX_NOAUTH)
		return refuse(r, RESP_NOAUTH_MULTIBULK);
	if (*count > 0 &&
	    (size_t)*count > (bytes_max - (size_t)size) / BULK_BYTES_MIN)
		return refuse(r, RESP_TOO_BIG);
	return size;
}

static ssize_t
scan_multibulk(struct resp_request *r, const uint8_t *p, size_t n, bool auth,
	       size_t bytes_max)
{
	int64_t bulk_max = auth ? RESP_BULK_MAX : RESP_BULK_MAX_NOAUTH;
	int64_t count, len;
	ssize_t size = scan_count(r, p, n, auth, bytes_max, &count);
	size_t pos, after;

	if (size <= 0)
		return size;
	pos = (size_t)size;
	for (; count > 0; count--) {
		after = (size_t)(count - 1) * BULK_BYTES_MIN;
		r->need = pos + BULK_BYTES_MIN + after;
		size = number_line(p + pos, n - pos, '$', &len);
		if (size == 0)
			return 0;
		if (size < 0)
			return refuse_bulk_line(r, p + pos, size);
		if (len < 0 || len > RESP_BULK_MAX)
			return refuse(r, RESP_BAD_BULK);
		if (len > bulk_max)
			return refuse(r, RESP_NOAUTH_BULK);
		pos += (size_t)size;
		r->need = pos + (size_t)len + 2 + after;
		if (r->need > bytes_max)
			return refuse(r, RESP_TOO_BIG);
		if (n - pos < (size_t)len + 2)
			return 0;
		add_arg(r, p + pos, (size_t)len);
		pos += (size_t)len + 2;
		if (p[pos - 2] != '\r' || p[pos - 1] != '\n')
			return refuse(r, RESP_NO_CRLF);
	}
	return (ssize_t)pos;
}

static int
hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What a backslash and c mean between double quotes. */
static uint8_t
unescape(uint8_t c)
{
	switch (c) {
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	case 'b':
		return '\b';
	case 'a':
		return '\a';
	default:
		return c;
	}
}

/* One character between quotes, undone into *out: bytes it takes. */
static size_t
quoted_char(const uint8_t *p, size_t n, uint8_t quote, uint8_t *out)
{
	*out = p[0];
	if (p[0] != '\\' || n < 2)
		return 1;
	if (quote == '\'') {
		if (p[1] != '\'')
			return 1;
		*out = '\'';
		return 2;
	}
	if (n >= 4 && p[1] == 'x' && hex_digit(p[2]) >= 0 &&
	    hex_digit(p[3]) >= 0) {
		*out = (uint8_t)(hex_digit(p[2]) << 4 | hex_digit(p[3]));
		return 4;
	}
	*out = unescape(p[1]);
	return 2;
}

/*
 * One word of an inline request, quotes undone to the end of r->text: bytes
 * it takes, -1 unbalanced quotes.  Quotes may open inside a word, but they end
 * it.  VT and FF separate words and yet do not end one: so Redis has it.
 */
static ssize_t
scan_word(struct resp_request *r, const uint8_t *p, size_t n, size_t *used)
{
	const uint8_t *word = r->text + *used;
	uint8_t quote = 0;
	size_t i = 0;

	while (i < n) {
		if (quote == 0 && (p[i] == '"' || p[i] == '\'')) {
			quote = p[i++];
		} else if (quote != 0 && p[i] == quote) {
			i++;
			if (i < n && !is_space(p[i]))
				return -1;
			quote = 0;
			break;
		} else if (quote != 0) {
			i += quoted_char(p + i, n - i, quote,
					 &r->text[(*used)++]);
		} else if (is_space(p[i]) && p[i] != '\v' && p[i] != '\f') {
			break;
		} else {
			r->text[(*used)++] = p[i++];
		}
	}
	if (quote != 0)
		return -1;
	add_arg(r, word, (size_t)(r->text + *used - word));
	return (ssize_t)i;
}

static int
split_words(struct resp_request *r, const uint8_t *p, size_t n)
{
	size_t used = 0, i = 0;
	ssize_t size;

	if (r->text_size < n) {
		free(r->text);
		if ((r->text = malloc(n)) == NULL)
			abort(); /* at most RESP_INLINE_MAX */
		r->text_size = n;
	}
	for (;;) {
		while (i < n && is_space(p[i]))
			i++;
		if (i == n)
			return 0;
		size = scan_word(r, p + i, n - i, &used);
		if (size < 0)
			return -1;
		i += (size_t)size;
		assert(used <= i);
	}
}

/* The LF, too, is looked for as in a C string: a NUL hides it for ever. */
static ssize_t
scan_inline(struct resp_request *r, const uint8_t *p, size_t n)
{
	size_t span = n <= RESP_INLINE_MAX ? n : RESP_INLINE_MAX + 1;
	const uint8_t *lf = memchr(p, '\n', span);
	size_t len;

	r->is_inline = true;
	if (lf == NULL || memchr(p, '\0', (size_t)(lf - p)) != NULL) {
		if (n > RESP_INLINE_MAX)
			return refuse(r, RESP_BIG_INLINE);
		return 0;
	}
	len = (size_t)(lf - p);
	if (len > 0 && p[len - 1] == '\r')
		len--;
	if (split_words(r, p, len) < 0)
		return refuse(r, RESP_BAD_QUOTES);
	return lf - p + 1;
}

/* The slots of one huge request are not kept for all the small ones to come. */
static void
start_request(struct resp_request *r)
{
	if (r->arg_size > ARGS_KEPT) {
		free(r->arg);
		r->arg = NULL;
		r->arg_size = 0;
	}
	r->argc = 0;
	r->need = 0;
	r->error = RESP_OK;
	r->is_inline = false;
}

ssize_t
resp_request_next(struct resp_request *r, const uint8_t *p, size_t n,
		  bool authenticated, size_t bytes_max)
{
	ssize_t size = 0;

	assert(bytes_max > 0);
	start_request(r);
	if (n > bytes_max)
		n = bytes_max;
	if (n > 0 && p[0] == '*')
		size = scan_multibulk(r, p, n, authenticated, bytes_max);
	else if (n > 0)
		size = scan_inline(r, p, n);
	if (size != 0)
		return size;
	r->argc = 0;
	if (r->need <= n)
		r->need = n + 1;
	if (r->need > bytes_max)
		return refuse(r, RESP_TOO_BIG);
	return 0;
}

void
resp_request_free(struct resp_request *r)
{
	free(r->arg);
	free(r->text);
	*r = (struct resp_request){ 0 };
}

static const char *
error_word(enum resp_error error)
{
	switch (error) {
	case RESP_OK:
		break;
	case RESP_BAD_MULTIBULK:
		return "invalid multibulk length";
	case RESP_BAD_BULK:
		return "invalid bulk length";
	case RESP_NO_DOLLAR:
		return "expected '$', got ";
	case RESP_BIG_INLINE:
		return "too big inline request";
	case RESP_BIG_COUNT:
		return "too big mbulk count string";
	case RESP_BIG_BULK_COUNT:
		return "too big bulk count string";
	case RESP_BAD_QUOTES:
		return "unbalanced quotes in request";
	case RESP_NOAUTH_MULTIBULK:
		return "unauthenticated multibulk length";
	case RESP_NOAUTH_BULK:
		return "unauthenticated bulk length";
	case RESP_NO_CRLF:
		return "expected CRLF after a bulk";
	case RESP_TOO_BIG:
		return "too big request";
	}
	assert(!"a request that was not refused");
	return NULL;
}

void
resp_error_text(const struct resp_request *r, char *out, size_t size)
{
	const char *word = error_word(r->error);

	if (r->error == RESP_NO_DOLLAR)
		snprintf(out, size, "%s'%c'", word, r->got);
	else
		snprintf(out, size, "%s", word);
}

/*
 * Replies
 */

/* A line with a number, strictly: bytes it takes, 0 need more, -1. */
static ssize_t
reply_number(const uint8_t *p, size_t n, int64_t *value)
{
	size_t size = short_number_line(p, n, value);
	const uint8_t *cr;

	if (size > 0)
		return p[size - 1] == '\n' ? (ssize_t)size : -1;
	cr = memchr(p, '\r', n < NUMBER_LINE_MAX ? n : NUMBER_LINE_MAX);
	if (cr == NULL)
		return n < NUMBER_LINE_MAX ? 0 : -1;
	size = (size_t)(cr - p) + 2;
	if (size > n)
		return 0;
	if (cr[1] != '\n' || !number(p + 1, size - 3, value))
		return -1;
	return (ssize_t)size;
}

/* Bytes up to and with the first CRLF, 0 when there is none. */
static size_t
crlf_end(const uint8_t *p, size_t n)
{
	const uint8_t *lf = p;

	while ((lf = memchr(lf, '\n', n - (size_t)(lf - p))) != NULL) {
		if (lf > p && lf[-1] == '\r')
			return (size_t)(lf - p) + 1;
		lf++;
	}
	return 0;
}

/* Bytes of a bulk already begun.  A wrong end means we are out of step. */
static ssize_t
reply_bulk_bytes(struct resp_reply *r, const uint8_t *p, size_t n)
{
	uint64_t left = r->bulk_left;
	size_t size = n < left ? n : (size_t)left;

	if (left >= 2 && left - 2 < size && p[left - 2] != '\r')
		return -1;
	if (left - 1 < size && p[left - 1] != '\n')
		return -1;
	r->bulk_left -= size;
	r->in_bulk = r->bulk_left > 0;
	return (ssize_t)size;
}

static ssize_t
reply_bulk(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t len;
	ssize_t size = reply_number(p, n, &len);
	ssize_t body;

	if (size <= 0)
		return size;
	if (len < 0 && (len != -1 || p[0] != '$'))
		return -1;
	r->todo--;
	if (len < 0)
		return size;
	r->bulk_left = (uint64_t)len + 2;
	r->in_bulk = true;
	if ((size_t)size == n)
		return size;
	body = reply_bulk_bytes(r, p + size, n - (size_t)size);
	return body < 0 ? -1 : size + body;
}

/* Arrays and the like only change how many elements are still to come. */
static ssize_t
reply_aggregate(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t count;
	ssize_t size = reply_number(p, n, &count);

	if (size <= 0)
		return size;
	if (count == -1 && p[0] == '*')
		count = 0;
	if (count < 0 || count > INT_MAX || r->todo > UINT64_MAX / 2)
		return -1;
	if (p[0] == '%' || p[0] == '|')
		count *= 2;
	if (p[0] != '|') /* which announces, but is no element itself */
		r->todo--;
	r->todo += (uint64_t)count;
	return size;
}

/* Status, error, double, big number: all that ends at a CRLF. */
static ssize_t
reply_line(struct resp_reply *r, const uint8_t *p, size_t n)
{
	size_t size = crlf_end(p, n);

	if (size == 0 && n < RESP_LINE_HELD)
		return 0;
	r->todo--;
	if (size > 0)
		return (ssize_t)size;
	r->in_line = true;
	r->cr = p[n - 1] == '\r';
	return (ssize_t)n;
}

static ssize_t
reply_line_bytes(struct resp_reply *r, const uint8_t *p, size_t n)
{
	size_t size = r->cr && p[0] == '\n' ? 1 : crlf_end(p, n);

	r->in_line = size == 0;
	if (size > 0)
		return (ssize_t)size;
	r->cr = p[n - 1] == '\r';
	return (ssize_t)n;
}

/* `_` and `#t`: one of a few texts, `size` bytes with its CRLF. */
static ssize_t
reply_fixed(struct resp_reply *r, const uint8_t *p, size_t n, size_t size)
{
	if (n < size)
		return 0;
	if (p[size - 2] != '\r' || p[size - 1] != '\n')
		return -1;
	if (p[0] == '#' && p[1] != 't' && p[1] != 'f')
		return -1;
	r->todo--;
	return (ssize_t)size;
}

static ssize_t
reply_int(struct resp_reply *r, const uint8_t *p, size_t n)
{
	int64_t value;
	ssize_t size = reply_number(p, n, &value);

	if (size > 0)
		r->todo--;
	return size;
}

static ssize_t
reply_element(struct resp_reply *r, const uint8_t *p, size_t n)
{
	switch (p[0]) {
	case '$':
	case '=':
	case '!':
		return reply_bulk(r, p, n);
	case '+':
	case '-':
	case ',':
	case '(':
		return reply_line(r, p, n);
	case ':':
		return reply_int(r, p, n);
	case '*':
	case '%':
	case '~':
	case '>':
	case '|':
		return reply_aggregate(r, p, n);
	case '_':
		return reply_fixed(r, p, n, 3);
	case '#':
		return reply_fixed(r, p, n, 4);
	default:
		return -1;
	}
}

/*
 * An element, or the type of the reply when it is the first, or the first
 * after the reply's attribute: until then the reply itself is one of those to
 * come, the last.
 */
static ssize_t
reply_step(struct resp_reply *r, const uint8_t *p, size_t n)
{
	bool first = r->todo == 1 && (r->type == 0 || r->type == '|');
	ssize_t size;

	if (r->in_bulk)
		return reply_bulk_bytes(r, p, n);
	if (r->in_line)
		return reply_line_bytes(r, p, n);
	size = reply_element(r, p, n);
	if (first && size > 0)
		r->type = p[0];
	return size;
}

ssize_t
resp_reply_next(struct resp_reply *r, const uint8_t *p, size_t n, bool *done)
{
	size_t pos = 0;

	*done = false;
	if (!r->started) {
		assert(!r->in_bulk && !r->in_line);
		r->started = true;
		r->todo = 1;
		r->type = 0;
	}
	while (pos < n) {
		ssize_t size = reply_step(r, p + pos, n - pos);

		if (size < 0)
			return -1;
		if (size == 0)
			break;
		pos += (size_t)size;
		if (r->todo == 0 && !r->in_bulk && !r->in_line) {
			r->started = false;
			*done = true;
			break;
		}
	}
	return (ssize_t)pos;
}

#include "protocol/resp.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "protocol/resp_number.h"

enum {
	ARGS_FIRST = 16,    /* slots of the first allocation */
	ARGS_KEPT = 1024,   /* so many are kept, and had whatever the limit */
	BULK_BYTES_MIN = 6, /* "$0\r\n\r\n" */
	LINE_TOO_LONG = -2
};

static ssize_t
refuse(struct resp_request *r, enum resp_error error)
{
	r->argc = 0;
	r->held = (struct resp_held){ 0 };
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
odd_number_line(const uint8_t *p, size_t n, uint8_t type, int64_t *value)
{
	size_t span = n <= RESP_INLINE_MAX ? n : RESP_INLINE_MAX + 1;
	const uint8_t *cr = n > 0 ? memchr(p, '\r', span) : NULL;
	size_t size;

	if (cr != NULL && memchr(p, '\0', (size_t)(cr - p)) == NULL) {
		size = (size_t)(cr - p) + 2;
		if (size > n)
			return 0;
		if (p[0] != type || !resp_number(p + 1, size - 3, value))
			return -1;
		return (ssize_t)size;
	}
	return n > RESP_INLINE_MAX ? LINE_TOO_LONG : 0;
}

/* Nearly every line is written as we would write it. */
static inline ssize_t
number_line(struct resp_request *r, const uint8_t *p, size_t n, uint8_t type,
	    int64_t *value)
{
	size_t size;

	if (n > 0 && p[0] == type &&
	    (size = resp_short_line(p, n, value)) > 0) {
		if (p[size - 1] != '\n')
			r->canonical = false;
		return (ssize_t)size;
	}
	r->canonical = false;
	return odd_number_line(p, n, type, value);
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
 * Could a request of so many arguments fit?  Its slots may cost as much as
 * its bytes; otherwise many empty arguments would be a cheap way to our memory.
 */
static bool
may_hold(size_t count, size_t header, size_t bytes_max)
{
	if (count > (bytes_max - header) / BULK_BYTES_MIN)
		return false;
	return count <= ARGS_KEPT || count <= bytes_max / sizeof(struct slice);
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
	ssize_t size = number_line(r, p, n, '*', count);

	if (size == 0)
		return 0;
	if (size == LINE_TOO_LONG)
		return refuse(r, RESP_BIG_COUNT);
	if (size < 0 || *count > RESP_ARGS_MAX)
		return refuse(r, RESP_BAD_MULTIBULK);
	if (!auth && *count > RESP_ARGS_MAX_NOAUTH)
		return refuse(r, RESP_NOAUTH_MULTIBULK);
	if (*count > 0 && !may_hold((size_t)*count, (size_t)size, bytes_max))
		return refuse(r, RESP_TOO_BIG);
	return size;
}

/* Not all there: remember how far we got, if our owner wants that. */
static ssize_t
pause_request(struct resp_request *r, const uint8_t *p, size_t pos,
	      int64_t count)
{
	if (r->resume) {
		r->held = (struct resp_held){ p, pos, r->argc, count };
		assert(pos > 0);
	}
	return 0;
}

/* Back to where we paused.  The bytes may lie elsewhere by now. */
static size_t
resume_request(struct resp_request *r, const uint8_t *p, size_t n,
	       int64_t *count)
{
	const struct resp_held held = r->held;

	assert(r->resume);
	assert(n >= held.pos);
	for (size_t i = 0; i < held.argc && p != held.base; i++)
		r->arg[i].p =
		    p + ((uintptr_t)r->arg[i].p - (uintptr_t)held.base);
	r->held = (struct resp_held){ 0 };
	r->argc = held.argc;
	*count = held.count;
	return held.pos;
}

/*
 * One `$length` line, at p[*pos]: 1 and *pos behind it when all of the bulk is
 * there, else 0 or -1.  `after` is what must come behind it, at the least.
 */
static int
scan_bulk_line(struct resp_request *r, const uint8_t *p, size_t n,
	       int64_t bulk_max, size_t bytes_max, size_t after, size_t *pos,
	       size_t *len)
{
	int64_t value;
	ssize_t size;

	r->need = *pos + BULK_BYTES_MIN + after;
	size = number_line(r, p + *pos, n - *pos, '$', &value);
	if (size == 0)
		return 0;
	if (size < 0)
		return (int)refuse_bulk_line(r, p + *pos, size);
	if (value < 0 || value > RESP_BULK_MAX)
		return (int)refuse(r, RESP_BAD_BULK);
	if (value > bulk_max)
		return (int)refuse(r, RESP_NOAUTH_BULK);
	*len = (size_t)value;
	r->need = *pos + (size_t)size + *len + 2 + after;
	if (r->need > bytes_max)
		return (int)refuse(r, RESP_TOO_BIG);
	if (n - *pos - (size_t)size < *len + 2)
		return 0;
	*pos += (size_t)size;
	return 1;
}

static ssize_t
scan_multibulk(struct resp_request *r, const uint8_t *p, size_t n, bool auth,
	       size_t bytes_max)
{
	int64_t bulk_max = auth ? RESP_BULK_MAX : RESP_BULK_MAX_NOAUTH;
	int64_t count;
	size_t pos, len;

	if (r->held.pos > 0) {
		pos = resume_request(r, p, n, &count);
	} else {
		ssize_t size;

		r->canonical = true;
		size = scan_count(r, p, n, auth, bytes_max, &count);
		if (size <= 0)
			return size;
		pos = (size_t)size;
	}
	for (; count > 0; count--) {
		size_t after = (size_t)(count - 1) * BULK_BYTES_MIN;
		int whole = scan_bulk_line(r, p, n, bulk_max, bytes_max, after,
					   &pos, &len);

		if (whole < 0)
			return -1;
		if (whole == 0)
			return pause_request(r, p, pos, count);
		add_arg(r, p + pos, len);
		pos += len + 2;
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
	r->canonical = false;
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
	if (r->arg_size > ARGS_KEPT && r->held.pos == 0) {
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
	assert(r->held.pos <= n);
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

#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>

#include "protocol/resp.h"

enum { NO_LIMIT = 1 << 30 };

#define BYTES(s) ((const uint8_t *)(s)), (sizeof(s) - 1)

/*
 * Requests
 */

/* Parses a copy of exactly n bytes, so that a sanitizer sees a step too far. */
static ssize_t
next(struct resp_request *r, const uint8_t *p, size_t n, bool auth, size_t max)
{
	uint8_t *copy = malloc(n ? n : 1);
	ssize_t size;

	assert_non_null(copy);
	memcpy(copy, p, n);
	size = resp_request_next(r, copy, n, auth, max);
	for (size_t i = 0; size > 0 && i < r->argc && !r->is_inline; i++)
		r->arg[i].p = p + (r->arg[i].p - copy);
	free(copy);
	return size;
}

/*
 * Every prefix of a request asks for more than it has and no more than there
 * is; the request is the same whatever comes behind it.
 */
static void
reads_request(const uint8_t *p, size_t n, const char *const *want, size_t argc)
{
	struct resp_request r = { 0 };
	uint8_t behind[512];

	for (size_t cut = 0; cut < n; cut++) {
		assert_int_equal(next(&r, p, cut, true, NO_LIMIT), 0);
		assert_int_equal(r.argc, 0);
		assert_in_range(r.need, cut + 1, n);
	}
	for (size_t more = 0; more <= 8; more += 8) {
		memcpy(behind, p, n);
		memcpy(behind + n, "*1\r\n$9\r\n", more);
		assert_int_equal(next(&r, behind, n + more, true, NO_LIMIT), n);
		assert_int_equal(r.error, RESP_OK);
		assert_int_equal(r.argc, argc);
		for (size_t i = 0; i < argc; i++)
			assert_true(slice_is(r.arg[i], want[i]));
	}
	resp_request_free(&r);

	/* Byte by byte, going on each time, the bytes never where they were. */
	r.resume = true;
	for (size_t cut = 0; cut < n; cut++) {
		assert_int_equal(next(&r, p, cut, true, NO_LIMIT), 0);
		assert_int_equal(r.argc, 0);
		assert_in_range(r.need, cut + 1, n);
	}
	assert_int_equal(next(&r, p, n, true, NO_LIMIT), n);
	assert_int_equal(r.argc, argc);
	for (size_t i = 0; i < argc; i++)
		assert_true(slice_is(r.arg[i], want[i]));
	assert_int_equal(r.held.pos, 0);
	resp_request_free(&r);
}

#define READS(bytes, ...)                                      \
	do {                                                   \
		const char *const want[] = { __VA_ARGS__ };    \
		reads_request(BYTES(bytes), want,              \
			      sizeof(want) / sizeof(want[0])); \
	} while (0)

/* Refused at some point, with one error, and from there on whatever follows. */
static void
refuses_request(const uint8_t *p, size_t n, bool auth, size_t max,
		const char *want)
{
	struct resp_request r = { 0 };
	char text[64];
	size_t cut = 0;

	while (cut < n && next(&r, p, cut, auth, max) == 0)
		assert_true(r.need > cut++);
	for (; cut <= n; cut++) {
		assert_int_equal(next(&r, p, cut, auth, max), -1);
		assert_int_equal(r.argc, 0);
		resp_error_text(&r, text, sizeof(text));
		assert_string_equal(text, want);
	}
	r.resume = true;
	for (cut = 0; cut < n && next(&r, p, cut, auth, max) == 0; cut++)
		assert_true(r.need > cut);
	if (cut == n)
		assert_int_equal(next(&r, p, n, auth, max), -1);
	resp_error_text(&r, text, sizeof(text));
	assert_string_equal(text, want);
	assert_int_equal(r.held.pos, 0);
	resp_request_free(&r);
}

#define REFUSES(bytes, want) refuses_request(BYTES(bytes), true, NO_LIMIT, want)

static void
reads_a_multibulk_request(void **state)
{
	(void)state;
	READS("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n", "SET", "key",
	      "value");
	READS("*1\r\n$10\r\n0123456789\r\n", "0123456789");
	READS("*2\r\n$0\r\n\r\n$2\r\n\r\n\r\n", "", "\r\n");
}

static bool
is_canonical(const char *text)
{
	struct resp_request r = { 0 };
	size_t n = strlen(text);
	bool is;

	assert_int_equal(next(&r, (const uint8_t *)text, n, true, NO_LIMIT), n);
	is = r.canonical;
	resp_request_free(&r);
	return is;
}

static void
knows_a_request_that_is_written_as_we_would_write_it(void **state)
{
	(void)state;
	assert_true(is_canonical("*2\r\n$3\r\nGET\r\n$0\r\n\r\n"));
	assert_true(is_canonical("*1\r\n$10\r\n0123456789\r\n"));
	assert_false(is_canonical("*2\rX$3\r\nGET\r\n$1\r\nk\r\n"));
	assert_false(is_canonical("*2\r\n$3\r\nGET\r\n$1\rXk\r\n"));
	assert_false(is_canonical("*1\r\n$10\rX0123456789\r\n"));
	assert_false(is_canonical("GET k\r\n"));
}

static void
takes_any_byte_after_the_cr_of_a_length_line(void **state)
{
	(void)state;
	READS("*1\rX$4\rYPING\r\n", "PING");
}

static void
reads_requests_that_want_no_answer(void **state)
{
	(void)state;
	reads_request(BYTES("*0\r\n"), NULL, 0);
	reads_request(BYTES("*-1\r\n"), NULL, 0);
	reads_request(BYTES("*-10\r\n"), NULL, 0);
	reads_request(BYTES("*-9223372036854775808\r\n"), NULL, 0);
	reads_request(BYTES("\r\n"), NULL, 0);
	reads_request(BYTES("\n"), NULL, 0);
	reads_request(BYTES(" \t \r\n"), NULL, 0);
}

static void
reads_an_inline_request(void **state)
{
	(void)state;
	READS("PING\r\n", "PING");
	READS("PING\n", "PING");
	READS("  set  key\tvalue \r\r\n", "set", "key", "value");
	READS("$\r\n", "$");
}

static void
undoes_the_quotes_of_an_inline_request(void **state)
{
	(void)state;
	READS("a \"b c\" 'd e'\r\n", "a", "b c", "d e");
	READS("\"\" ''\r\n", "", "");
	READS("ab\"cd\" e'f'\r\n", "abcd", "ef");
	READS("\"\\n\\r\\t\\b\\a\\q\\\"\\\\\"\n", "\n\r\t\b\aq\"\\");
	READS("\"\\x41\\x6a\\x4g\\x\"\n", "Ajx4gx");
	READS("'\\n\\'\"'\n", "\\n'\"");
	READS("\\x41 \\\\\n", "\\x41", "\\\\");
}

static void
lets_vt_and_ff_begin_but_not_end_a_word(void **state)
{
	(void)state;
	READS("a\vb \f c\n", "a\vb", "c");
	READS("\"a\"\vb\n", "a", "b");
}

static void
keeps_a_nul_that_quotes_made(void **state)
{
	struct resp_request r = { 0 };

	(void)state;
	assert_int_equal(next(&r, BYTES("x \"a\\x00b\"\n"), true, NO_LIMIT),
			 11);
	assert_int_equal(r.argc, 2);
	assert_int_equal(r.arg[1].n, 3);
	assert_memory_equal(r.arg[1].p, "a\0b", 3);
	resp_request_free(&r);
}

static void
refuses_unbalanced_quotes(void **state)
{
	(void)state;
	REFUSES("set \"a\r\n", "unbalanced quotes in request");
	REFUSES("set 'a\r\n", "unbalanced quotes in request");
	REFUSES("set \"a\"b\r\n", "unbalanced quotes in request");
	REFUSES("set 'a'\"b\"\r\n", "unbalanced quotes in request");
	REFUSES("set \"a\\\n", "unbalanced quotes in request");
}

static void
refuses_counts_redis_refuses(void **state)
{
	const char *want = "invalid multibulk length";

	(void)state;
	REFUSES("*01\r\n", want);
	REFUSES("*00\r\n", want);
	REFUSES("*-0\r\n", want);
	REFUSES("*-\r\n", want);
	REFUSES("*\r\n", want);
	REFUSES("*+1\r\n", want);
	REFUSES("* 1\r\n", want);
	REFUSES("*1 \r\n", want);
	REFUSES("*1\n$4\nPING\n\r\n", want);
	REFUSES("*2147483648\r\n", want);
	REFUSES("*3000000000\r\n", want);
	REFUSES("*9223372036854775808\r\n", want);
	REFUSES("*-9223372036854775809\r\n", want);
	REFUSES("*18446744073709551617\r\n", want);
}

static void
refuses_bulk_lengths_redis_refuses(void **state)
{
	const char *want = "invalid bulk length";

	(void)state;
	REFUSES("*1\r\n$04\r\n", want);
	REFUSES("*1\r\n$+4\r\n", want);
	REFUSES("*1\r\n$-1\r\n", want);
	REFUSES("*1\r\n$\r\n", want);
	REFUSES("*1\r\n$4x\r\n", want);
	REFUSES("*1\r\n$536870913\r\n", want);
	REFUSES("*1\r\n$18446744073709551615\r\n", want);
}

static void
refuses_anything_but_a_bulk_inside(void **state)
{
	(void)state;
	REFUSES("*1\r\n*1\r\n", "expected '$', got '*'");
	REFUSES("*1\r\nPING\r\n", "expected '$', got 'P'");
	REFUSES("*1\r\n\r\n", "expected '$', got '\r'");
	REFUSES("*2\r\n$1\r\na\r\n:1\r\n", "expected '$', got ':'");
}

/* Redis does not look; two parsers that disagree here are an attack. */
static void
refuses_a_bulk_without_its_crlf(void **state)
{
	(void)state;
	REFUSES("*1\r\n$4\r\nPINGxx", "expected CRLF after a bulk");
	REFUSES("*1\r\n$4\r\nPING\r\r", "expected CRLF after a bulk");
	REFUSES("*1\r\n$4\r\nPING\n\n", "expected CRLF after a bulk");
}

static void
takes_large_counts_without_allocating_for_them(void **state)
{
	struct resp_request r = { 0 };

	(void)state;
	assert_int_equal(
	    next(&r, BYTES("*1048577\r\n$1\r\na\r\n$"), true, NO_LIMIT), 0);
	assert_true(r.arg_size <= 16);
	assert_int_equal(r.need, 10 + 7 + 1048576 * 6);
	assert_int_equal(
	    next(&r, BYTES("*2147483647\r\n"), true, (size_t)1 << 40), 0);
	assert_int_equal(r.need, 13 + (size_t)INT_MAX * 6);
	resp_request_free(&r);
}

static void
limits_an_unauthenticated_client(void **state)
{
	struct resp_request r = { 0 };

	(void)state;
	refuses_request(BYTES("*11\r\n"), false, NO_LIMIT,
			"unauthenticated multibulk length");
	refuses_request(BYTES("*1\r\n$16385\r\n"), false, NO_LIMIT,
			"unauthenticated bulk length");
	refuses_request(BYTES("*3000000000\r\n"), false, NO_LIMIT,
			"invalid multibulk length");
	refuses_request(BYTES("*1\r\n$536870913\r\n"), false, NO_LIMIT,
			"invalid bulk length");
	assert_int_equal(next(&r, BYTES("*10\r\n"), false, NO_LIMIT), 0);
	assert_int_equal(next(&r, BYTES("*1\r\n$16384\r\n"), false, NO_LIMIT),
			 0);
	assert_int_equal(next(&r, BYTES("*11\r\n$16385\r\n"), true, NO_LIMIT),
			 0);
	resp_request_free(&r);
}

static void
refuses_more_bytes_than_it_may_hold(void **state)
{
	const char *want = "too big request";
	const uint8_t fits[] = "*2\r\n$1\r\na\r\n$1\r\nb\r\n";
	struct resp_request r = { 0 };

	(void)state;
	assert_int_equal(next(&r, fits, 18, true, 18), 18);
	refuses_request(fits, 18, true, 17, want);
	refuses_request(BYTES("*100\r\n"), true, 605, want);
	refuses_request(BYTES("*1\r\n$90\r\n"), true, 99, want);
	refuses_request(BYTES("PING\r\n"), true, 5, want);
	refuses_request(BYTES("*2147483647\r\n"), true, NO_LIMIT, want);
	assert_int_equal(next(&r, BYTES("PING\r\n"), true, 6), 6);
	resp_request_free(&r);
}

/* n bytes of fill after a start; what is said of them. */
static ssize_t
long_line(const char *start, size_t head, uint8_t fill, size_t n,
	  struct resp_request *r)
{
	uint8_t *p = malloc(head + n);
	ssize_t size;

	assert_non_null(p);
	memcpy(p, start, head);
	memset(p + head, fill, n);
	size = resp_request_next(r, p, head + n, true, NO_LIMIT);
	free(p);
	return size;
}

static void
limits_lines_that_do_not_end(void **state)
{
	static const struct {
		const char *start;
		size_t head, line; /* line: where the endless one begins */
		enum resp_error error;
	} row[] = {
		{ "x", 1, 0, RESP_BIG_INLINE },
		{ "\0\n", 2, 0, RESP_BIG_INLINE },
		{ "$\0\n", 3, 0, RESP_BIG_INLINE },
		{ "*1", 2, 0, RESP_BIG_COUNT },
		{ "*\0\r\n", 4, 0, RESP_BIG_COUNT },
		{ "*1\r\n$1", 6, 4, RESP_BIG_BULK_COUNT },
		{ "*1\r\nx", 5, 4, RESP_BIG_BULK_COUNT },
		{ "*1\r\n$1\0\r\n", 9, 4, RESP_BIG_BULK_COUNT },
	};
	struct resp_request r = { 0 };

	(void)state;
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		size_t n = RESP_INLINE_MAX - (row[i].head - row[i].line);

		assert_int_equal(
		    long_line(row[i].start, row[i].head, '1', n, &r), 0);
		assert_int_equal(
		    long_line(row[i].start, row[i].head, '1', n + 1, &r), -1);
		assert_int_equal(r.error, row[i].error);
	}
	assert_int_equal(long_line("x", 1, '\n', RESP_INLINE_MAX, &r), 2);
	resp_request_free(&r);
}

static void
takes_an_inline_request_of_the_limit(void **state)
{
	static uint8_t line[RESP_INLINE_MAX + 1];
	struct resp_request r = { 0 };

	(void)state;
	memset(line, 'a', RESP_INLINE_MAX);
	line[RESP_INLINE_MAX] = '\n';
	assert_int_equal(next(&r, line, sizeof(line), true, NO_LIMIT),
			 sizeof(line));
	assert_int_equal(r.argc, 1);
	assert_int_equal(r.arg[0].n, RESP_INLINE_MAX);
	resp_request_free(&r);
}

static void
reuses_its_slots_but_lets_go_of_very_many(void **state)
{
	enum { MANY = 5000 };
	static uint8_t big[16 + MANY * 7];
	size_t n = (size_t)snprintf((char *)big, 16, "*%d\r\n", MANY);
	struct resp_request r = { 0 };
	struct slice *slots;

	(void)state;
	assert_int_equal(next(&r, BYTES("a b c\n"), true, NO_LIMIT), 6);
	slots = r.arg;
	assert_int_equal(next(&r, BYTES("*1\r\n$1\r\na\r\n"), true, NO_LIMIT),
			 11);
	assert_ptr_equal(r.arg, slots);

	for (size_t i = 0; i < MANY; i++, n += 7)
		memcpy(big + n, "$1\r\na\r\n", 7);
	assert_int_equal(next(&r, big, n, true, NO_LIMIT), n);
	assert_int_equal(r.argc, MANY);
	assert_true(r.arg_size >= MANY);
	assert_int_equal(next(&r, BYTES("a\n"), true, NO_LIMIT), 2);
	assert_true(r.arg_size < MANY);
	resp_request_free(&r);
	assert_null(r.arg);
}

/* The slots, too, are held to the limit: empty arguments cost little to send. */
static void
limits_the_slots_by_the_bytes_allowed(void **state)
{
	const size_t max = 1 << 16;
	struct resp_request r = { 0 };

	(void)state;
	assert_int_equal(next(&r, BYTES("*4096\r\n"), true, max), 0);
	assert_int_equal(next(&r, BYTES("*4097\r\n"), true, max), -1);
	assert_int_equal(r.error, RESP_TOO_BIG);
	assert_int_equal(next(&r, BYTES("*1024\r\n"), true, 7000), 0);
	resp_request_free(&r);
}

/* A request of many arguments, 1000 bytes at a time. */
static void
goes_on_where_it_paused(void **state)
{
	enum { MANY = 3000 };
	static uint8_t p[16 + MANY * 7];
	size_t n = (size_t)snprintf((char *)p, 16, "*%d\r\n", MANY);
	struct resp_request r = { .resume = true };
	size_t have = 0;

	(void)state;
	for (size_t i = 0; i < MANY; i++, n += 7)
		memcpy(p + n, "$1\r\na\r\n", 7);
	for (; have < n; have += 1000) {
		if (have > 1000) /* what was read is not looked at again */
			p[7 + 2 * 7] = 'X';
		assert_int_equal(next(&r, p, have, true, NO_LIMIT), 0);
	}
	assert_int_equal(next(&r, p, n, true, NO_LIMIT), n);
	assert_int_equal(r.argc, MANY);
	for (size_t i = 0; i < MANY; i++)
		assert_true(slice_is(r.arg[i], "a"));
	resp_request_free(&r);
}

static void
walks_a_pipeline_of_mixed_requests(void **state)
{
	const uint8_t p[] = "PING\r\n*1\r\n$4\r\nPING\r\n\r\n*0\r\nget 'a'\n";
	const size_t argc[] = { 1, 1, 0, 0, 2 };
	const bool is_inline[] = { true, false, true, false, true };
	size_t n = sizeof(p) - 1, pos = 0;
	struct resp_request r = { 0 };

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		ssize_t size = next(&r, p + pos, n - pos, true, NO_LIMIT);

		assert_true(size > 0);
		assert_int_equal(r.argc, argc[i]);
		assert_int_equal(r.is_inline, is_inline[i]);
		pos += (size_t)size;
	}
	assert_int_equal(pos, n);
	resp_request_free(&r);
}

/*
 * Replies
 */

/* Feeds p[0..n) and keeps what was not understood, as a stream would. */
struct feed {
	struct resp_reply r;
	size_t from, size; /* understood so far; of the reply when done */
	bool done;
};

static int
feed(struct feed *f, const uint8_t *p, size_t n)
{
	while (!f->done && f->from < n) {
		size_t len = n - f->from;
		uint8_t *copy = malloc(len);
		ssize_t size;

		assert_non_null(copy);
		memcpy(copy, p + f->from, len);
		size = resp_reply_next(&f->r, copy, len, &f->done);
		free(copy);
		if (size < 0)
			return -1;
		if (size == 0)
			break;
		assert_true((size_t)size <= len);
		f->from += (size_t)size;
	}
	return 0;
}

/* At every cut, and byte by byte: `size` bytes are one reply of this type. */
static void
frames(const uint8_t *p, size_t n, size_t size, uint8_t type)
{
	struct feed f = { 0 };

	for (size_t cut = 0; cut <= n; cut++) {
		f = (struct feed){ 0 };
		assert_int_equal(feed(&f, p, cut), 0);
		assert_int_equal(f.done, cut >= size);
		assert_int_equal(feed(&f, p, n), 0);
		assert_true(f.done);
		assert_int_equal(f.from, size);
		assert_int_equal(f.r.type, type);
	}
	f = (struct feed){ 0 };
	for (size_t cut = 0; cut <= n; cut++) {
		assert_int_equal(feed(&f, p, cut), 0);
		assert_int_equal(f.done, cut >= size);
	}
	assert_int_equal(f.from, size);
}

/* With another reply right behind: it is not touched. */
#define FRAMES(bytes, type)                                              \
	do {                                                             \
		frames(BYTES(bytes), sizeof(bytes) - 1, type);           \
		frames(BYTES(bytes "+OK\r\n"), sizeof(bytes) - 1, type); \
	} while (0)

static void
frames_every_type_of_resp2(void **state)
{
	(void)state;
	FRAMES("+OK\r\n", '+');
	FRAMES("+\r\n", '+');
	FRAMES("-ERR no\r\n", '-');
	FRAMES(":1\r\n", ':');
	FRAMES(":-9223372036854775808\r\n", ':');
	FRAMES("$3\r\nabc\r\n", '$');
	FRAMES("$0\r\n\r\n", '$');
	FRAMES("$-1\r\n", '$');
	FRAMES("$6\r\n\r\n+x\r\n\r\n", '$');
	FRAMES("*-1\r\n", '*');
	FRAMES("*0\r\n", '*');
	FRAMES("*2\r\n$1\r\na\r\n:2\r\n", '*');
	FRAMES("*2\r\n*2\r\n+a\r\n*0\r\n*1\r\n*-1\r\n", '*');
}

static void
frames_every_type_of_resp3(void **state)
{
	(void)state;
	FRAMES("_\r\n", '_');
	FRAMES("#t\r\n", '#');
	FRAMES("#f\r\n", '#');
	FRAMES(",1.5e10\r\n", ',');
	FRAMES(",inf\r\n", ',');
	FRAMES("(3492890328409238509324850943850943825024385\r\n", '(');
	FRAMES("!5\r\nERR x\r\n", '!');
	FRAMES("=7\r\ntxt:abc\r\n", '=');
	FRAMES("%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n", '%');
	FRAMES("%0\r\n", '%');
	FRAMES("~2\r\n#t\r\n,1\r\n", '~');
	FRAMES(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", '>');
}

static void
counts_an_attribute_with_the_reply_behind_it(void **state)
{
	(void)state;
	FRAMES("|1\r\n+ttl\r\n*1\r\n:3\r\n$1\r\na\r\n", '$');
	FRAMES("|0\r\n*1\r\n_\r\n", '*');
	FRAMES("*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n", '*');
	FRAMES("|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n+d\r\n:1\r\n", ':');
}

static void
keeps_a_push_apart_from_the_reply_behind_it(void **state)
{
	const uint8_t p[] = ">1\r\n+hello\r\n$1\r\na\r\n";
	struct resp_reply r = { 0 };
	bool done;

	(void)state;
	assert_int_equal(resp_reply_next(&r, p, sizeof(p) - 1, &done), 12);
	assert_true(done);
	assert_int_equal(r.type, '>');
	assert_int_equal(resp_reply_next(&r, p + 12, sizeof(p) - 13, &done), 7);
	assert_true(done);
	assert_int_equal(r.type, '$');
	FRAMES("*1\r\n>3\r\n+subscribe\r\n+c\r\n:1\r\n", '*');
}

/* Malformed at some cut, and at every later one. */
static void
refuses_reply(const uint8_t *p, size_t n)
{
	struct feed f = { 0 };
	size_t cut = 0;

	while (cut <= n && feed(&f, p, cut) == 0) {
		assert_false(f.done);
		cut++;
	}
	assert_true(cut <= n);
	f = (struct feed){ 0 };
	assert_int_equal(feed(&f, p, n), -1);
}

#define REFUSES_REPLY(bytes) refuses_reply(BYTES(bytes))

static void
refuses_replies_redis_never_sends(void **state)
{
	(void)state;
	REFUSES_REPLY("x");
	REFUSES_REPLY("\r\n");
	REFUSES_REPLY("$?\r\n");
	REFUSES_REPLY("*?\r\n");
	REFUSES_REPLY(";1\r\n");
	REFUSES_REPLY(".\r\n");
	REFUSES_REPLY("$-2\r\n");
	REFUSES_REPLY("$01\r\n");
	REFUSES_REPLY("$\r\n");
	REFUSES_REPLY("=-1\r\n");
	REFUSES_REPLY("!-1\r\n");
	REFUSES_REPLY("%-1\r\n");
	REFUSES_REPLY("*-2\r\n");
	REFUSES_REPLY("*2147483648\r\n");
	REFUSES_REPLY("$9223372036854775808\r\n");
	REFUSES_REPLY("$3\rxabc\r\n");
	REFUSES_REPLY("$123456789012345678901234567890123");
	REFUSES_REPLY(":\r\n");
	REFUSES_REPLY(":1.5\r\n");
	REFUSES_REPLY("#x\r\n");
	REFUSES_REPLY("#t\n\n");
	REFUSES_REPLY("_x\r\n");
	REFUSES_REPLY("_\r_");
}

static void
refuses_a_bulk_that_does_not_end_where_it_said(void **state)
{
	(void)state;
	REFUSES_REPLY("$3\r\nabcd\r\n");
	REFUSES_REPLY("$3\r\nabc\rx");
	REFUSES_REPLY("$0\r\nx\n");
	REFUSES_REPLY("*2\r\n$1\r\nab\r\n");
}

static void
frames_a_reply_of_any_depth(void **state)
{
	enum { DEPTH = 5000 };
	static uint8_t p[DEPTH * 4 + 4];
	struct resp_reply r = { 0 };
	size_t n = 0;
	bool done;

	(void)state;
	for (size_t i = 0; i < DEPTH; i++, n += 4)
		memcpy(p + n, "*1\r\n", 4);
	memcpy(p + n, ":1\r\n", 4);
	n += 4;
	assert_int_equal(resp_reply_next(&r, p, n - 1, &done), n - 4);
	assert_false(done);
	assert_int_equal(resp_reply_next(&r, p + n - 4, 4, &done), 4);
	assert_true(done);
}

static void
believes_large_counts_without_allocating(void **state)
{
	struct resp_reply r = { 0 };
	bool done;

	(void)state;
	for (size_t i = 0; i < 1000; i++) {
		assert_int_equal(
		    resp_reply_next(&r, BYTES("%2147483647\r\n"), &done), 13);
		assert_false(done);
	}
	assert_true(r.todo > (uint64_t)INT_MAX * 1000);
}

static void
refuses_counts_that_would_overflow_their_sum(void **state)
{
	struct resp_reply r = { .started = true,
				.type = '*',
				.todo = UINT64_MAX / 2 + 1 };
	bool done;

	(void)state;
	assert_int_equal(resp_reply_next(&r, BYTES("*1\r\n"), &done), -1);
}

static void
streams_a_bulk_of_gigabytes(void **state)
{
	static uint8_t chunk[1 << 16];
	uint64_t left = 5000000000u;
	struct resp_reply r = { 0 };
	bool done;

	(void)state;
	assert_int_equal(resp_reply_next(&r, BYTES("$5000000000\r\n"), &done),
			 13);
	while (left > 0) {
		size_t n = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);

		assert_int_equal(resp_reply_next(&r, chunk, n, &done), n);
		assert_false(done);
		left -= n;
	}
	assert_int_equal(resp_reply_next(&r, BYTES("\r\n:1\r\n"), &done), 2);
	assert_true(done);
}

static void
streams_a_line_longer_than_is_held(void **state)
{
	static uint8_t p[RESP_LINE_HELD * 3];
	const size_t n = sizeof(p);
	const size_t cuts[] = { RESP_LINE_HELD, RESP_LINE_HELD + 1, n - 2,
				n - 1, n };

	(void)state;
	memset(p, 'x', n);
	p[0] = '+';
	p[100] = '\n';
	p[RESP_LINE_HELD - 1] = '\r';
	p[n - 2] = '\r';
	p[n - 1] = '\n';
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		struct resp_reply r = { 0 };
		bool done;

		assert_int_equal(
		    resp_reply_next(&r, p, RESP_LINE_HELD - 1, &done), 0);
		assert_int_equal(resp_reply_next(&r, p, cuts[i], &done),
				 cuts[i]);
		assert_int_equal(done, cuts[i] == n);
		if (done)
			continue;
		assert_int_equal(
		    resp_reply_next(&r, p + cuts[i], n - cuts[i], &done),
		    n - cuts[i]);
		assert_true(done);
		assert_int_equal(r.type, '+');
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_multibulk_request),
		cmocka_unit_test(
		    knows_a_request_that_is_written_as_we_would_write_it),
		cmocka_unit_test(takes_any_byte_after_the_cr_of_a_length_line),
		cmocka_unit_test(reads_requests_that_want_no_answer),
		cmocka_unit_test(reads_an_inline_request),
		cmocka_unit_test(undoes_the_quotes_of_an_inline_request),
		cmocka_unit_test(lets_vt_and_ff_begin_but_not_end_a_word),
		cmocka_unit_test(keeps_a_nul_that_quotes_made),
		cmocka_unit_test(refuses_unbalanced_quotes),
		cmocka_unit_test(refuses_counts_redis_refuses),
		cmocka_unit_test(refuses_bulk_lengths_redis_refuses),
		cmocka_unit_test(refuses_anything_but_a_bulk_inside),
		cmocka_unit_test(refuses_a_bulk_without_its_crlf),
		cmocka_unit_test(
		    takes_large_counts_without_allocating_for_them),
		cmocka_unit_test(limits_an_unauthenticated_client),
		cmocka_unit_test(refuses_more_bytes_than_it_may_hold),
		cmocka_unit_test(limits_lines_that_do_not_end),
		cmocka_unit_test(takes_an_inline_request_of_the_limit),
		cmocka_unit_test(reuses_its_slots_but_lets_go_of_very_many),
		cmocka_unit_test(limits_the_slots_by_the_bytes_allowed),
		cmocka_unit_test(goes_on_where_it_paused),
		cmocka_unit_test(walks_a_pipeline_of_mixed_requests),
		cmocka_unit_test(frames_every_type_of_resp2),
		cmocka_unit_test(frames_every_type_of_resp3),
		cmocka_unit_test(counts_an_attribute_with_the_reply_behind_it),
		cmocka_unit_test(keeps_a_push_apart_from_the_reply_behind_it),
		cmocka_unit_test(refuses_replies_redis_never_sends),
		cmocka_unit_test(
		    refuses_a_bulk_that_does_not_end_where_it_said),
		cmocka_unit_test(frames_a_reply_of_any_depth),
		cmocka_unit_test(believes_large_counts_without_allocating),
		cmocka_unit_test(refuses_counts_that_would_overflow_their_sum),
		cmocka_unit_test(streams_a_bulk_of_gigabytes),
		cmocka_unit_test(streams_a_line_longer_than_is_held),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

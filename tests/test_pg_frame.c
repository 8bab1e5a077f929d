#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"

/* In an allocation of exactly its size: a sanitizer sees every byte too far. */
static int
frame(const uint8_t *p, size_t n, struct pg_frame *f)
{
	uint8_t *exact = malloc(n ? n : 1);
	int r;

	assert_non_null(exact);
	memcpy(exact, p, n);
	r = pg_frame_next(f, exact, n);
	free(exact);
	return r;
}

static int
parse_frame(const uint8_t *p, size_t n)
{
	struct pg_frame f;

	return frame(p, n, &f);
}

static int
parse_startup(const uint8_t *p, size_t n)
{
	struct pg_startup s;
	uint8_t *exact = malloc(n ? n : 1);
	int r;

	assert_non_null(exact);
	memcpy(exact, p, n);
	r = pg_startup_next(&s, exact, n);
	free(exact);
	return r;
}

static void
needs_a_header_and_nothing_behind_it(void **state)
{
	struct pg_frame f = { 0 };

	(void)state;
	t_every_split(parse_frame, "Q\0\0\0\x0d", 5, PG_HEADER);
	assert_int_equal(frame((const uint8_t *)"Q\0\0\0\x0dSELECT", 11, &f),
			 PG_HEADER);
	assert_int_equal(f.type, 'Q');
	assert_int_equal(f.size, 14);
}

static void
takes_a_message_without_a_body(void **state)
{
	struct pg_frame f;

	(void)state;
	assert_int_equal(frame((const uint8_t *)"S\0\0\0\4", 5, &f), PG_HEADER);
	assert_int_equal(f.size, 5);
}

static void
refuses_a_length_below_its_own_size(void **state)
{
	(void)state;
	t_every_split(parse_frame, "Q\0\0\0\3", 5, -1);
	t_every_split(parse_frame, "Q\0\0\0\0", 5, -1);
}

static void
refuses_a_length_no_server_would_take(void **state)
{
	struct pg_frame f;

	(void)state;
	t_every_split(parse_frame, "Q\x40\0\0\0", 5, -1);
	t_every_split(parse_frame, "Q\x7f\xff\xff\xff", 5, -1);
	t_every_split(parse_frame, "Q\x80\0\0\5", 5, -1);
	t_every_split(parse_frame, "Q\xff\xff\xff\xff", 5, -1);
	assert_int_equal(frame((const uint8_t *)"Q\x3f\xff\xff\xff", 5, &f),
			 PG_HEADER);
	assert_int_equal(f.size, PG_MESSAGE_MAX);
}

static void
takes_a_startup_packet_once_it_is_whole(void **state)
{
	static const char packet[] = "\0\0\0\x0f\0\3\0\0user\0a";
	struct pg_startup s;

	(void)state;
	t_every_split(parse_startup, packet, 15, 15);
	assert_int_equal(
	    pg_startup_next(&s, (const uint8_t *)packet, sizeof(packet)), 15);
	assert_int_equal(s.size, 15);
	assert_int_equal(s.code, PG_PROTOCOL(3, 0));
	assert_true(slice_is(slice_of(s.body.p, 4), "user"));
	assert_int_equal(s.body.n, 7);
}

static void
knows_what_comes_instead_of_a_startup_packet(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		uint32_t code;
	} t[] = {
		{ "\0\0\0\x08\x04\xd2\x16\x2f", 8, PG_SSL_REQUEST },
		{ "\0\0\0\x08\x04\xd2\x16\x30", 8, PG_GSSENC_REQUEST },
		{ "\0\0\0\x10\x04\xd2\x16\x2e\1\2\3\4\5\6\7\x08", 16,
		  PG_CANCEL_REQUEST },
	};
	struct pg_startup s;

	(void)state;
	for (int i = 0; i < 3; i++) {
		t_every_split(parse_startup, t[i].bytes, t[i].n, (int)t[i].n);
		assert_int_equal(
		    pg_startup_next(&s, (const uint8_t *)t[i].bytes, t[i].n),
		    t[i].n);
		assert_int_equal(s.code, t[i].code);
		assert_int_equal(s.body.n, t[i].n - 8);
	}
}

static void
judges_a_startup_packet_by_its_length_alone(void **state)
{
	uint8_t big[PG_STARTUP_MAX] = { 0, 0, PG_STARTUP_MAX >> 8,
					PG_STARTUP_MAX & 255 };

	(void)state;
	t_every_split(parse_startup, "\0\0\0\7", 4, -1);
	t_every_split(parse_startup, "\0\0\0\0", 4, -1);
	t_every_split(parse_startup, "\xff\xff\xff\xff", 4, -1);
	t_every_split(parse_startup, "\x16\x03\x01\x02", 4, -1); /* TLS */
	t_every_split(parse_startup, "GET ", 4, -1);
	t_every_split(parse_startup, big, sizeof(big), sizeof(big));
	big[3]++;
	assert_int_equal(parse_startup(big, 4), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(needs_a_header_and_nothing_behind_it),
		cmocka_unit_test(takes_a_message_without_a_body),
		cmocka_unit_test(refuses_a_length_below_its_own_size),
		cmocka_unit_test(refuses_a_length_no_server_would_take),
		cmocka_unit_test(takes_a_startup_packet_once_it_is_whole),
		cmocka_unit_test(knows_what_comes_instead_of_a_startup_packet),
		cmocka_unit_test(judges_a_startup_packet_by_its_length_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

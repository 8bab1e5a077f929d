#include "tests/t.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "conf/log.h"

enum { TEXT_MAX = 1 << 16 };

/* A log into a pipe, its lines read back. */
struct rig {
	struct log *log;
	int fd[2];
	char text[TEXT_MAX];
};

static struct rig rig;

static void
start(enum log_level level, enum log_format format)
{
	assert_int_equal(pipe(rig.fd), 0);
	rig.log = log_open_fd(rig.fd[1], level, format);
	assert_non_null(rig.log);
}

/* Closes the log and gives all that it wrote. */
static char *
finish(void)
{
	size_t n = 0;
	ssize_t got;

	log_close(&rig.log);
	assert_null(rig.log);
	close(rig.fd[1]);
	while ((got = read(rig.fd[0], rig.text + n, TEXT_MAX - 1 - n)) > 0)
		n += (size_t)got;
	close(rig.fd[0]);
	rig.text[n] = '\0';
	return rig.text;
}

/* What one field of one value becomes, without the start of the line. */
static char *
one_value(enum log_format format, const char *value)
{
	const char *mark = format == LOG_JSON ? ",\"v\":" : " v=";
	char *p;

	start(LOG_INFO, format);
	LOG(rig.log, LOG_INFO, LOG_EV_CLOSE, log_str("v", value));
	p = strstr(finish(), mark);
	assert_non_null(p);
	p += strlen(mark);
	assert_int_equal(p[strlen(p) - 1], '\n');
	p[strlen(p) - 1] = '\0';
	if (format == LOG_JSON) {
		assert_int_equal(p[strlen(p) - 1], '}');
		p[strlen(p) - 1] = '\0';
	}
	return p;
}

static bool
matches(const char *text, const char *pattern)
{
	regex_t re;
	int rc;

	assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	rc = regexec(&re, text, 0, NULL, 0);
	regfree(&re);
	return rc == 0;
}

#define TIME "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"

static void
a_line_is_time_level_event_and_fields(void **state)
{
	char *text;

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	LOG(rig.log, LOG_INFO, LOG_EV_CLOSE, log_id("session", 2, 0x7f2),
	    log_str("why", "IDLE"), log_num("in", 1832));
	text = finish();
	assert_true(matches(text, "^" TIME " info event=close "
				  "session=2\\.7f2 why=IDLE in=1832\n$"));
}

static void
json_says_the_same(void **state)
{
	char *text;

	(void)state;
	start(LOG_INFO, LOG_JSON);
	LOG(rig.log, LOG_ERROR, LOG_EV_FAULT, log_id("session", 2, 0x7f2),
	    log_str("why", "IDLE"), log_num("in", UINT64_MAX));
	text = finish();
	assert_true(matches(text,
			    "^\\{\"time\":\"" TIME "\",\"level\":\"error\","
			    "\"event\":\"fault\",\"session\":\"2\\.7f2\","
			    "\"why\":\"IDLE\",\"in\":18446744073709551615\\}"
			    "\n$"));
}

static void
the_time_is_now_in_utc(void **state)
{
	time_t before = time(NULL), at;
	struct tm tm = { 0 };

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	LOG(rig.log, LOG_INFO, LOG_EV_START, log_num("n", 1));
	assert_non_null(strptime(finish(), "%Y-%m-%dT%H:%M:%S", &tm));
	at = timegm(&tm);
	assert_true(at >= before && at <= time(NULL));
}

static void
nobody_can_forge_a_line_or_a_field(void **state)
{
	static const enum log_format formats[] = { LOG_LOGFMT, LOG_JSON };

	(void)state;
	for (int i = 0; i < 2; i++) {
		enum log_format f = formats[i];

		assert_string_equal(one_value(f, "a\nlevel=error"),
				    "\"a\\nlevel=error\"");
		assert_string_equal(one_value(f, "x\" y=\"z"),
				    "\"x\\\" y=\\\"z\"");
		assert_string_equal(one_value(f, "\\"), "\"\\\\\"");
		assert_string_equal(one_value(f, "\x01\t\r\x1b\x7f"),
				    "\"\\u0001\\t\\r\\u001b\\u007f\"");
		assert_string_equal(one_value(f, ""), "\"\"");
		assert_string_equal(one_value(f, "\xc2\x85"), "\"\\u0085\"");
	}
	assert_string_equal(one_value(LOG_LOGFMT, "10.0.0.1:5"), "10.0.0.1:5");
	assert_string_equal(one_value(LOG_LOGFMT, "a b"), "\"a b\"");
	assert_string_equal(one_value(LOG_LOGFMT, "a=b"), "\"a=b\"");
	assert_string_equal(one_value(LOG_JSON, "a=b"), "\"a=b\"");
}

static void
bytes_that_are_not_utf8_are_spelled_out(void **state)
{
	(void)state;
	assert_string_equal(one_value(LOG_JSON, "gr\xc3\xbc\xc3\x9f"),
			    "\"gr\xc3\xbc\xc3\x9f\"");
	assert_string_equal(one_value(LOG_JSON, "\xe2\x82\xac\xf0\x9f\x98\x80"),
			    "\"\xe2\x82\xac\xf0\x9f\x98\x80\"");
	assert_string_equal(one_value(LOG_JSON, "\xff"), "\"\\\\xff\"");
	assert_string_equal(one_value(LOG_JSON, "\xc3"), "\"\\\\xc3\"");
	assert_string_equal(one_value(LOG_JSON, "\xc3("), "\"\\\\xc3(\"");
	/* overlong, surrogate, past the end of Unicode */
	assert_string_equal(one_value(LOG_JSON, "\xc0\xaf"),
			    "\"\\\\xc0\\\\xaf\"");
	assert_string_equal(one_value(LOG_JSON, "\xed\xa0\x80"),
			    "\"\\\\xed\\\\xa0\\\\x80\"");
	assert_string_equal(one_value(LOG_JSON, "\xf4\x90\x80\x80"),
			    "\"\\\\xf4\\\\x90\\\\x80\\\\x80\"");
}

/* Backslashes come in pairs or before a letter, so no cut may split one. */
static bool
is_whole_string(const char *p)
{
	size_t n = strlen(p);

	if (n < 2 || p[0] != '"' || p[n - 1] != '"')
		return false;
	for (size_t i = 1; i < n - 1; i++) {
		if (p[i] == '"')
			return false;
		if (p[i] == '\\')
			i += p[i + 1] == 'u' ? 5 : 1;
		if (i >= n - 1)
			return false;
	}
	return true;
}

static void
a_long_value_is_cut_and_says_so(void **state)
{
	static const char *const fills[] = { "x",    "\n",       "\x01",
					     "\xff", "\xc3\xbc", "\"" };
	char value[5000];

	(void)state;
	for (size_t i = 0; i < sizeof(fills) / sizeof(fills[0]); i++) {
		for (size_t shift = 0; shift < 8; shift++) {
			size_t n = shift, k = strlen(fills[i]);
			char *got;

			memset(value, 'y', shift);
			while (n + k < sizeof(value)) {
				memcpy(value + n, fills[i], k);
				n += k;
			}
			value[n] = '\0';
			got = one_value(LOG_JSON, value);
			assert_true(strlen(got) <= LOG_VALUE_MAX);
			assert_true(is_whole_string(got));
			assert_non_null(strstr(got, "...\""));
		}
	}
}

static void
a_line_keeps_its_bound_whatever_its_fields(void **state)
{
	static const enum log_format formats[] = { LOG_LOGFMT, LOG_JSON };
	struct log_field f[64];
	char value[600], *text;

	(void)state;
	for (size_t n = 0; n < sizeof(value) - 1; n++) {
		memset(value, '\n', n);
		value[n] = '\0';
		for (int i = 0; i < 64; i++)
			f[i] = i % 3 ? log_str("a_field", value)
				     : log_num("n", UINT64_MAX);
		start(LOG_INFO, formats[n % 2]);
		log_write(rig.log, LOG_INFO, LOG_EV_CLOSE, f, 64);
		text = finish();
		assert_true(strlen(text) <= LOG_LINE_MAX);
		assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
		if (n % 2 == 1)
			assert_non_null(strstr(text, "}\n"));
	}
}

static int evaluated;

static const char *
evaluate(void)
{
	evaluated++;
	return "x";
}

static void
what_is_not_wanted_is_not_even_evaluated(void **state)
{
	char *text;

	(void)state;
	evaluated = 0;
	start(LOG_WARN, LOG_LOGFMT);
	assert_true(log_wants(rig.log, LOG_ERROR));
	assert_true(log_wants(rig.log, LOG_WARN));
	assert_false(log_wants(rig.log, LOG_INFO));
	LOG(rig.log, LOG_INFO, LOG_EV_CLOSE, log_str("v", evaluate()));
	LOG((struct log *)NULL, LOG_ERROR, LOG_EV_CLOSE,
	    log_str("v", evaluate()));
	assert_int_equal(evaluated, 0);
	log_set(rig.log, LOG_INFO, LOG_JSON);
	LOG(rig.log, LOG_INFO, LOG_EV_CLOSE, log_str("v", evaluate()));
	assert_int_equal(evaluated, 1);
	text = finish();
	assert_int_equal(text[0], '{');
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Fills the pipe, then the queue, and beyond. */
static unsigned
flood(void)
{
	char value[1000];
	unsigned n = 3 * (LOG_QUEUE_MAX / 1000);

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	for (unsigned i = 0; i < n; i++)
		LOG(rig.log, LOG_INFO, LOG_EV_CLOSE, log_num("i", i),
		    log_str("v", value));
	return n;
}

static void
a_reader_who_stops_stops_nobody_and_the_lost_are_counted(void **state)
{
	uint64_t began = now_ms();
	unsigned n, lines = 0, lost = 0, i;
	char line[LOG_LINE_MAX + 1];
	FILE *f;

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	n = flood();
	assert_true(now_ms() - began < 30000);
	f = fdopen(rig.fd[0], "r");
	assert_non_null(f);
	while (lines + lost < n && fgets(line, sizeof(line), f) != NULL) {
		const char *p = strstr(line, "event=log-dropped lines=");

		if (p != NULL && sscanf(p, "event=log-dropped lines=%u", &i))
			lost += i;
		else if (sscanf(line, "%*s info event=close i=%u", &i) == 1)
			lines++;
		else
			fail_msg("a broken line: %s", line);
	}
	assert_true(lost > 0);
	assert_int_equal(lines + lost, n);
	log_close(&rig.log);
	close(rig.fd[1]);
	fclose(f);
}

static void
closing_does_not_wait_for_ever_for_a_reader(void **state)
{
	uint64_t began;

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	flood();
	began = now_ms();
	log_close(&rig.log);
	assert_true(now_ms() - began < 10 * LOG_PATIENCE_MS);
	close(rig.fd[0]);
	close(rig.fd[1]);
}

static void
a_reader_who_is_gone_is_survived(void **state)
{
	void (*before)(int) = signal(SIGPIPE, SIG_IGN);

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	close(rig.fd[0]);
	flood();
	log_close(&rig.log);
	close(rig.fd[1]);
	signal(SIGPIPE, before);
}

enum { THREADS = 4, EACH = 2000 };

static void *
write_lines(void *arg)
{
	unsigned who = *(unsigned *)arg;

	for (unsigned i = 0; i < EACH; i++)
		LOG(rig.log, LOG_INFO, LOG_EV_LOGIN, log_num("who", who),
		    log_num("i", i));
	return NULL;
}

static void *
read_lines(void *arg)
{
	unsigned *next = arg, who, i;
	char line[LOG_LINE_MAX + 1];
	FILE *f = fdopen(rig.fd[0], "r");

	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "%*s info event=login who=%u i=%u", &who,
			   &i) != 2 ||
		    who >= THREADS || next[who] != i)
			break;
		next[who]++;
	}
	fclose(f);
	return NULL;
}

static void
lines_of_many_threads_stay_whole_and_in_their_order(void **state)
{
	unsigned who[THREADS], next[THREADS] = { 0 };
	pthread_t t[THREADS], reader;

	(void)state;
	start(LOG_INFO, LOG_LOGFMT);
	assert_int_equal(pthread_create(&reader, NULL, read_lines, next), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		who[i] = i;
		assert_int_equal(
		    pthread_create(&t[i], NULL, write_lines, &who[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	log_close(&rig.log);
	close(rig.fd[1]);
	pthread_join(reader, NULL);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(next[i], EACH);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_is_time_level_event_and_fields),
		cmocka_unit_test(json_says_the_same),
		cmocka_unit_test(the_time_is_now_in_utc),
		cmocka_unit_test(nobody_can_forge_a_line_or_a_field),
		cmocka_unit_test(bytes_that_are_not_utf8_are_spelled_out),
		cmocka_unit_test(a_long_value_is_cut_and_says_so),
		cmocka_unit_test(a_line_keeps_its_bound_whatever_its_fields),
		cmocka_unit_test(what_is_not_wanted_is_not_even_evaluated),
		cmocka_unit_test(
		    a_reader_who_stops_stops_nobody_and_the_lost_are_counted),
		cmocka_unit_test(closing_does_not_wait_for_ever_for_a_reader),
		cmocka_unit_test(a_reader_who_is_gone_is_survived),
		cmocka_unit_test(
		    lines_of_many_threads_stay_whole_and_in_their_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "conf/stats.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "protocol/buf.h"

static const struct row {
	const char *metric;
	const char *labels;
	enum stats_kind kind;
	const char *help;
} rows[STAT_MAX] = {
#define X(name, metric, labels, kind, help) \
	[STAT_##name] = { metric, labels, STATS_##kind, help },
	STATS_TABLE(X)
#undef X
};

/*
 * A gauge may be raised by one worker and lowered by another, so a single
 * block can be below zero; and the blocks are read one after the other, so the
 * sum can be for a moment.
 */
uint64_t
stats_sum(struct stats *const *s, unsigned blocks, enum stat_id which)
{
	uint64_t sum = 0;

	assert(which < STAT_MAX);
	for (unsigned i = 0; i < blocks; i++)
		sum +=
		    atomic_load_explicit(&s[i]->n[which], memory_order_relaxed);
	if (rows[which].kind == STATS_GAUGE && (int64_t)sum < 0)
		return 0;
	return sum;
}

static int
print_head(struct buf *b, const struct row *r)
{
	char text[512];
	int n = snprintf(text, sizeof(text),
			 "# HELP weir_%s %s\n# TYPE weir_%s %s\n", r->metric,
			 r->help, r->metric,
			 r->kind == STATS_GAUGE ? "gauge" : "counter");

	assert(n > 0 && (size_t)n < sizeof(text));
	return buf_put(b, text, (size_t)n);
}

static int
print_sample(struct buf *b, const struct row *r, uint64_t value)
{
	bool labelled = r->labels[0] != '\0';
	char text[256];
	int n = snprintf(text, sizeof(text), "weir_%s%s%s%s %" PRIu64 "\n",
			 r->metric, labelled ? "{" : "", r->labels,
			 labelled ? "}" : "", value);

	assert(n > 0 && (size_t)n < sizeof(text));
	return buf_put(b, text, (size_t)n);
}

/* Whether a row above has the same metric, and so printed this one with it. */
static bool
is_printed(unsigned row)
{
	for (unsigned i = 0; i < row; i++)
		if (strcmp(rows[i].metric, rows[row].metric) == 0)
			return true;
	return false;
}

static const struct histogram_row {
	const char *metric;
	double unit;
	const char *help;
} histograms[STATS_HISTOGRAM_MAX] = {
#define X(name, metric, unit, help) [STATS_##name] = { metric, unit, help },
	STATS_HISTOGRAMS(X)
#undef X
};

static int print_line(struct buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int
print_line(struct buf *b, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	assert(n > 0 && (size_t)n < sizeof(text));
	return buf_put(b, text, (size_t)n);
}

static int
print_histogram(struct buf *b, struct stats *const *s, unsigned blocks,
		enum stats_histogram which)
{
	const struct histogram_row *r = &histograms[which];
	uint64_t n = 0, sum = 0;
	int failed;

	failed = print_line(b, "# HELP weir_%s %s\n# TYPE weir_%s histogram\n",
			    r->metric, r->help, r->metric);
	for (unsigned i = 0; i <= STATS_BUCKETS; i++) {
		for (unsigned k = 0; k < blocks; k++)
			n += atomic_load_explicit(
			    &s[k]->histogram[which].bucket[i],
			    memory_order_relaxed);
		if (i == STATS_BUCKETS)
			break;
		failed |= print_line(
		    b, "weir_%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", r->metric,
		    r->unit * (double)(UINT64_C(1) << i), n);
	}
	for (unsigned k = 0; k < blocks; k++)
		sum += atomic_load_explicit(&s[k]->histogram[which].sum,
					    memory_order_relaxed);
	return failed | print_line(b,
				   "weir_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n"
				   "weir_%s_sum %.9g\n"
				   "weir_%s_count %" PRIu64 "\n",
				   r->metric, n, r->metric,
				   r->unit * (double)sum, r->metric, n);
}

int
stats_print(struct buf *b, struct stats *const *s, unsigned blocks)
{
	for (unsigned i = 0; i < STAT_MAX; i++) {
		if (is_printed(i))
			continue;
		if (print_head(b, &rows[i]) == -1)
			return -1;
		for (unsigned k = i; k < STAT_MAX; k++) {
			uint64_t v;

			if (strcmp(rows[k].metric, rows[i].metric) != 0)
				continue;
			assert(rows[k].kind == rows[i].kind);
			v = stats_sum(s, blocks, (enum stat_id)k);
			if (print_sample(b, &rows[k], v) == -1)
				return -1;
		}
	}
	for (unsigned i = 0; i < STATS_HISTOGRAM_MAX; i++)
		if (print_histogram(b, s, blocks, (enum stats_histogram)i) != 0)
			return -1;
	return 0;
}

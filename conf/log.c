#include "conf/log.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "conf/mem.h"
#include "protocol/utf8.h"

enum {
	QUEUE_FIRST = 16384,
	WRITE_MAX = 4096, /* PIPE_BUF: with poll() before it never blocks */
	POLL_MS = 200
};

struct queue {
	char *base;
	size_t n, size;
};

struct log {
	int fd;
	_Atomic int level;
	_Atomic int format;
	pthread_t thread;
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t wake;
	struct queue queue;
	uint64_t dropped;
	bool closing;
};

static const char *const event_words[LOG_EV_MAX] = {
#define X(name, word) [LOG_EV_##name] = word,
	LOG_EVENTS(X)
#undef X
};

static const char *const level_words[] = {
	[LOG_ERROR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DEBUG] = "debug",
};

/* A line being written: `max` leaves room for what must close it. */
struct line {
	char text[LOG_LINE_MAX];
	size_t n, max;
	enum log_format format;
};

static bool
line_put(struct line *l, const char *p, size_t n)
{
	if (n > l->max - l->n)
		return false;
	memcpy(l->text + l->n, p, n);
	l->n += n;
	return true;
}

/*
 * The character at p, escaped, into out; how many bytes of p it took.  C1
 * controls (U+0080..U+009F) are escaped too: some terminals obey them.
 */
static size_t
escape(const uint8_t *p, size_t n, char out[8], size_t *out_n)
{
	size_t len = utf8_length(p, n);
	int k;

	if (len == 0)
		k = snprintf(out, 8, "\\\\x%02x", *p);
	else if (*p == '"' || *p == '\\')
		k = snprintf(out, 8, "\\%c", *p);
	else if (*p == '\n' || *p == '\r' || *p == '\t')
		k = snprintf(out, 8, "\\%c",
			     *p == '\n'   ? 'n'
			     : *p == '\r' ? 'r'
					  : 't');
	else if (*p < 0x20 || *p == 0x7f)
		k = snprintf(out, 8, "\\u%04x", *p);
	else if (len == 2 && *p == 0xc2 && p[1] < 0xa0)
		k = snprintf(out, 8, "\\u%04x", p[1]);
	else {
		memcpy(out, p, len);
		k = (int)len;
	}
	*out_n = (size_t)k;
	return len ? len : 1;
}

static bool
needs_quotes(const char *s)
{
	if (*s == '\0')
		return true;
	for (; *s != '\0'; s++)
		if (*s <= ' ' || *s > '~' || *s == '"' || *s == '\\' ||
		    *s == '=')
			return true;
	return false;
}

/* "value", cut with ... where the value's or the line's bound comes first. */
static void
put_quoted(struct line *l, const char *value)
{
	const uint8_t *p = (const uint8_t *)value;
	size_t left = strlen(value), room = l->max - l->n;
	size_t stop;

	if (room > LOG_VALUE_MAX)
		room = LOG_VALUE_MAX;
	assert(room >= 5); /* `"..."`: put_field() made sure */
	stop = l->n + room - 4;
	line_put(l, "\"", 1);
	while (left > 0) {
		char out[8];
		size_t n, took = escape(p, left, out, &n);

		if (l->n + n > stop) {
			line_put(l, "...", 3);
			break;
		}
		line_put(l, out, n);
		p += took;
		left -= took;
	}
	line_put(l, "\"", 1);
}

static void
put_text(struct line *l, const char *value)
{
	size_t n = strlen(value);

	if (l->format == LOG_JSON || needs_quotes(value) || n > LOG_VALUE_MAX ||
	    n > l->max - l->n)
		put_quoted(l, value);
	else
		line_put(l, value, n);
}

/* ` key=` or `,"key":`, if there is room for that and any short value. */
static bool
put_key(struct line *l, const char *key)
{
	bool json = l->format == LOG_JSON;
	size_t n = strlen(key);

	if (n + 4 + 32 > l->max - l->n)
		return false;
	line_put(l, json ? ",\"" : " ", json ? 2 : 1);
	line_put(l, key, n);
	line_put(l, json ? "\":" : "=", json ? 2 : 1);
	return true;
}

static void
put_field(struct line *l, const struct log_field *f)
{
	char num[40];

	if (!put_key(l, f->key))
		return;
	if (f->str != NULL) {
		put_text(l, f->str);
	} else if (f->is_id) {
		snprintf(num, sizeof(num), "%x.%" PRIx64, f->id_hi, f->num);
		put_text(l, num);
	} else {
		snprintf(num, sizeof(num), "%" PRIu64, f->num);
		line_put(l, num, strlen(num));
	}
}

static void
put_time(char out[32])
{
	struct timespec ts;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, 32 - n, ".%03uZ", (unsigned)(ts.tv_nsec / 1000000));
}

/* Time and level stand bare in logfmt: a reader's eye finds them there. */
static void
put_start(struct line *l, enum log_level level, enum log_event event)
{
	struct log_field f = log_str("event", event_words[event]);
	char now[32], text[64];

	put_time(now);
	if (l->format == LOG_JSON)
		snprintf(text, sizeof(text),
			 "{\"time\":\"%s\",\"level\":\"%s\"", now,
			 level_words[level]);
	else
		snprintf(text, sizeof(text), "%s %s", now, level_words[level]);
	line_put(l, text, strlen(text));
	put_field(l, &f);
}

static void
line_make(struct line *l, enum log_format format, enum log_level level,
	  enum log_event event, const struct log_field *f, size_t n)
{
	assert(event < LOG_EV_MAX && level <= LOG_DEBUG);
	l->n = 0;
	l->max = sizeof(l->text) - 2; /* the closing brace, the newline */
	l->format = format;
	put_start(l, level, event);
	for (size_t i = 0; i < n; i++)
		put_field(l, &f[i]);
	l->max = sizeof(l->text);
	if (format == LOG_JSON)
		line_put(l, "}", 1);
	line_put(l, "\n", 1);
}

static bool
queue_put(struct queue *q, const char *p, size_t n)
{
	if (n > LOG_QUEUE_MAX - q->n)
		return false;
	if (n > q->size - q->n) {
		size_t size = q->size ? q->size : QUEUE_FIRST;

		while (size - q->n < n)
			size *= 2;
		q->base = mem_or_abort(realloc(q->base, size), size, "the log");
		q->size = size;
	}
	memcpy(q->base + q->n, p, n);
	q->n += n;
	return true;
}

static bool
is_closing(struct log *log)
{
	bool closing;

	pthread_mutex_lock(&log->lock);
	closing = log->closing;
	pthread_mutex_unlock(&log->lock);
	return closing;
}

/* The largest run of whole lines in p[0..n) that one write may take. */
static size_t
whole_lines(const char *p, size_t n)
{
	const char *last;

	if (n <= WRITE_MAX)
		return n;
	last = memrchr(p, '\n', WRITE_MAX);
	assert(last != NULL); /* LOG_LINE_MAX is less than WRITE_MAX */
	return (size_t)(last - p) + 1;
}

/*
 * Waits as long as it takes for the reader of the log, but not when closing:
 * a process that cannot stop because nobody reads its log is worse than lost
 * lines.  A broken descriptor loses them too.
 */
static void
write_out(struct log *log, const char *p, size_t n)
{
	int waited_ms = 0;

	while (n > 0) {
		struct pollfd pfd = { .fd = log->fd, .events = POLLOUT };
		ssize_t put = -1;
		int ready = poll(&pfd, 1, POLL_MS);

		if (ready > 0) {
			put = write(log->fd, p, whole_lines(p, n));
			if (put == -1 && errno != EAGAIN && errno != EINTR)
				return;
		}
		if (put > 0) {
			p += put;
			n -= (size_t)put;
			waited_ms = 0;
		} else if (is_closing(log)) {
			waited_ms += POLL_MS;
			if (waited_ms >= LOG_PATIENCE_MS)
				return;
		}
	}
}

/* Under the lock: what is queued, with a line about what was not. */
static struct queue
take_queue(struct log *log)
{
	struct queue q = log->queue;

	log->queue = (struct queue){ 0 };
	if (log->dropped > 0) {
		struct log_field f = log_num("lines", log->dropped);
		struct line l;

		line_make(&l, (enum log_format)log->format, LOG_WARN,
			  LOG_EV_DROPPED, &f, 1);
		if (!queue_put(&q, l.text, l.n))
			queue_put(&log->queue, l.text, l.n);
		log->dropped = 0;
	}
	return q;
}

static void *
writer(void *arg)
{
	struct log *log = arg;

	pthread_mutex_lock(&log->lock);
	for (;;) {
		struct queue q;

		while (log->queue.n == 0 && !log->closing)
			pthread_cond_wait(&log->wake, &log->lock);
		if (log->queue.n == 0)
			break;
		q = take_queue(log);
		pthread_mutex_unlock(&log->lock);
		write_out(log, q.base, q.n);
		free(q.base);
		pthread_mutex_lock(&log->lock);
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

struct log *
log_open(enum log_level level, enum log_format format)
{
	return log_open_fd(STDERR_FILENO, level, format);
}

/* The writer takes no signals: they are for whoever waits for them. */
struct log *
log_open_fd(int fd, enum log_level level, enum log_format format)
{
	struct log *log = mem_zero(1, sizeof(*log), "the log");
	sigset_t all, before;
	int rc;

	log->fd = fd;
	log->level = (int)level;
	log->format = (int)format;
	pthread_mutex_init(&log->lock, NULL);
	pthread_cond_init(&log->wake, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&log->thread, NULL, writer, log);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc == 0)
		return log;
	pthread_cond_destroy(&log->wake);
	pthread_mutex_destroy(&log->lock);
	free(log);
	return NULL;
}

void
log_close(struct log **logp)
{
	struct log *log = *logp;

	if (log == NULL)
		return;
	pthread_mutex_lock(&log->lock);
	log->closing = true;
	pthread_cond_signal(&log->wake);
	pthread_mutex_unlock(&log->lock);
	pthread_join(log->thread, NULL);
	pthread_cond_destroy(&log->wake);
	pthread_mutex_destroy(&log->lock);
	free(log->queue.base);
	free(log);
	*logp = NULL;
}

void
log_set(struct log *log, enum log_level level, enum log_format format)
{
	atomic_store_explicit(&log->level, (int)level, memory_order_relaxed);
	atomic_store_explicit(&log->format, (int)format, memory_order_relaxed);
}

int
log_wants(const struct log *log, enum log_level level)
{
	return log != NULL &&
	       (int)level <=
		   atomic_load_explicit(&log->level, memory_order_relaxed);
}

void
log_write(struct log *log, enum log_level level, enum log_event event,
	  const struct log_field *f, size_t n)
{
	struct line l;
	int format;

	if (!log_wants(log, level))
		return;
	format = atomic_load_explicit(&log->format, memory_order_relaxed);
	line_make(&l, (enum log_format)format, level, event, f, n);
	pthread_mutex_lock(&log->lock);
	if (!queue_put(&log->queue, l.text, l.n))
		log->dropped++;
	if (log->queue.n == l.n) /* it was empty: the writer may sleep */
		pthread_cond_signal(&log->wake);
	pthread_mutex_unlock(&log->lock);
}

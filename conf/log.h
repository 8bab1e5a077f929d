/*
 * log: one line per event, from any thread, to standard error.
 *
 * A line is a time, a level, an event of a fixed vocabulary and fields.  No
 * payload and no secret ever goes in; values are escaped, so a peer cannot
 * forge a line.  Callers only append to a queue; one thread writes it out, so
 * a slow reader of the log stops nobody.
 *
 *   logfmt  2026-08-22T10:11:12.345Z info event=close session=2.7f2 why=IDLE
 *   json    {"time":"2026-08-22T10:11:12.345Z","level":"info","event":"close",...}
 *
 * In both, a control character in a value is \n, \t, \r or \u00XX, and a byte
 * that is not UTF-8 is \\xXX.  logfmt quotes a value that needs it.
 *
 * Owner:    main; log_close() writes what is queued and frees.  It gives up
 *           on a reader that takes nothing for LOG_PATIENCE_MS.
 * Bounds:   LOG_LINE_MAX bytes a line, LOG_VALUE_MAX a value (longer ones are
 *           cut with ..., a field for which there is no room is left out),
 *           LOG_QUEUE_MAX bytes queued; what does not fit is dropped and
 *           counted, and the count is logged when there is room again.
 * Threads:  log_write() from any.
 */
#ifndef CONF_LOG_H
#define CONF_LOG_H

#include <stddef.h>
#include <stdint.h>

enum {
	LOG_LINE_MAX = 2048,
	LOG_VALUE_MAX = 1024,
	LOG_QUEUE_MAX = 4 << 20,
	LOG_PATIENCE_MS = 1000
};

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

/* Adding an event means adding a row; the word is what follows event=. */
#define LOG_EVENTS(X)                                                         \
	X(START,	"start")		/* ready, listening */        \
	X(LISTEN,	"listen")		/* one listening address */   \
	X(RELOAD,	"reload")		/* configuration re-read */   \
	X(CONFIG,	"config")		/* an error or warning in it */ \
	X(DRAIN,	"drain")		/* stop asked for */          \
	X(STOP,		"stop")			/* gone */                    \
	X(AUTH,		"auth")			/* how a proof was looked at */ \
	X(LOGIN,	"login")		/* a client is in */          \
	X(REFUSE,	"refuse")		/* a client was turned away */ \
	X(CLOSE,	"close")		/* a client has left */       \
	X(PIN,		"pin")			/* a session keeps its server */ \
	X(CANCEL,	"cancel")                                             \
	X(SERVER_OPEN,	"server-open")		/* an upstream connection is up */ \
	X(SERVER_CLOSE,	"server-close")                                       \
	X(UPSTREAM_DOWN, "upstream-down")	/* log-ins began to fail */   \
	X(UPSTREAM_UP,	"upstream-up")                                        \
	X(HOST_DOWN,	"host-down")		/* one of several of an upstream */ \
	X(HOST_UP,	"host-up")                                            \
	X(MASTER,	"master")		/* Sentinels name another one */ \
	X(AUTH_QUERY,	"auth-query")		/* it gave no usable answer */ \
	X(DIRECTORY,	"directory")		/* it gave no usable answer */ \
	X(RLS,		"rls")			/* row level security does not hold, or may not */ \
	X(CHANNEL,	"channel")		/* a server does not let us listen */ \
	X(OUTCOME,	"outcome")		/* of a commit is unknown */   \
	X(PUBLISH,	"publish")		/* committed, and Redis was not told */ \
	X(DROPPED,	"log-dropped")                                        \
	X(FAULT,	"fault")		/* something we must look at */

enum log_event {
#define X(name, word) LOG_EV_##name,
	LOG_EVENTS(X)
#undef X
	LOG_EV_MAX
};

struct log_field {
	const char *key;
	const char *str;	/* the value, or NULL: then num */
	uint64_t    num;
	unsigned    id_hi;	/* with is_id: prints id_hi.num in hex, an object's id */
	int	    is_id;
};

static inline struct log_field
log_str(const char *key, const char *value)
{
	return (struct log_field){ .key = key, .str = value ? value : "" };
}

static inline struct log_field
log_num(const char *key, uint64_t value)
{
	return (struct log_field){ .key = key, .num = value };
}

static inline struct log_field
log_id(const char *key, unsigned worker, uint64_t n)
{
	return (struct log_field){ .key = key, .num = n, .id_hi = worker, .is_id = 1 };
}

struct log;

struct log *log_open(enum log_level, enum log_format);	/* to standard error; NULL: no thread */
struct log *log_open_fd(int fd, enum log_level, enum log_format);	/* fd stays the caller's */
void	    log_close(struct log **);
void	    log_set(struct log *, enum log_level, enum log_format);	/* reload */
int	    log_wants(const struct log *, enum log_level);	/* a NULL log wants nothing */
void	    log_write(struct log *, enum log_level, enum log_event,
    const struct log_field *, size_t n);

/* LOG(log, LOG_INFO, LOG_EV_CLOSE, log_id("session", 2, 17), log_str("why", w)) */
#define LOG(log, level, event, ...)                                           \
	do {                                                                  \
		if (log_wants((log), (level))) {                              \
			const struct log_field fields_[] = { __VA_ARGS__ };   \
			log_write((log), (level), (event), fields_,           \
			    sizeof(fields_) / sizeof(fields_[0]));            \
		}                                                             \
	} while (0)

#endif

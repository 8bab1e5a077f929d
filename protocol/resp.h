/*
 * resp: the Redis wire protocol, versions 2 and 3: where requests and replies
 * begin and end.  Bytes are framed, never translated.
 *
 * Requests (resp_request_next): inline or multibulk, exactly as Redis 7.0
 * reads them, oddities included (any byte may follow the CR of a length line;
 * a NUL hides the rest of a line), with one exception: a bulk must be followed
 * by CRLF.  A request is to be forwarded re-encoded (resp_put_request), so the
 * oddities end here.  Stateless (unless asked to `resume`): call again with
 * the same start when there are more bytes; `need` says when that is of use.
 * Replies (resp_reply_next): incremental and of any size and depth; the state
 * says how many elements are still to come, so a reply is streamed as it
 * arrives and nothing is looked at twice.
 *
 * Every parser answers: > 0 bytes understood, 0 need more, -1 malformed.
 *
 * Owner:    whoever embeds the struct; resp_request_free() before it goes.
 * Views:    resp_request.arg dies with the input, and at the next call.
 * Bounds:   bytes_max for a request, and at most twice that for its slots; a
 *           reply costs nothing, whatever it announces.
 */
#ifndef PROTOCOL_RESP_H
#define PROTOCOL_RESP_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/slice.h"

enum {
	RESP_INLINE_MAX = 64 << 10,		/* bytes of an inline request */
	RESP_BULK_MAX = 512 << 20,		/* bytes of one argument */
	RESP_ARGS_MAX = INT_MAX,		/* arguments of one request; bytes_max comes first */
	RESP_ARGS_MAX_NOAUTH = 10,		/* before AUTH, as Redis has it */
	RESP_BULK_MAX_NOAUTH = 16 << 10,
	RESP_LINE_HELD = 16 << 10		/* a longer status or error is streamed */
};

/* Why a request is malformed; resp_error_text() is Redis's own wording. */
enum resp_error {
	RESP_OK,
	RESP_BAD_MULTIBULK,	/* invalid multibulk length */
	RESP_BAD_BULK,		/* invalid bulk length */
	RESP_NO_DOLLAR,		/* expected '$', got 'c' */
	RESP_BIG_INLINE,	/* too big inline request */
	RESP_BIG_COUNT,		/* too big mbulk count string */
	RESP_BIG_BULK_COUNT,	/* too big bulk count string */
	RESP_BAD_QUOTES,	/* unbalanced quotes in request */
	RESP_NOAUTH_MULTIBULK,	/* unauthenticated multibulk length */
	RESP_NOAUTH_BULK,	/* unauthenticated bulk length */
	RESP_NO_CRLF,		/* a bulk not followed by CRLF: Redis lets it pass, we do not */
	RESP_TOO_BIG		/* larger than we were told to hold */
};

/*
 * One request.  `arg` holds views into the input for multibulk and into
 * `text` for inline requests (quotes undone).  Reused from call to call: its
 * arrays grow to need and are freed by resp_request_free().
 */
struct resp_request {
	struct slice   *arg;
	size_t		argc;
	size_t		arg_size;	/* slots allocated */
	uint8_t	       *text;		/* storage for inline arguments */
	size_t		text_size;
	bool		is_inline;
	bool		canonical;	/* known to be the very bytes resp_put_request() would write */
	enum resp_error error;		/* set when the answer is -1 */
	uint8_t		got;		/* the byte of RESP_NO_DOLLAR */
	size_t		need;		/* when 0: at least this many bytes in all, so that
					   a big argument is not rescanned at every read */
	bool		resume;		/* its owner's wish, see below */
	struct resp_held {
		const uint8_t *base;	/* where the bytes lay */
		size_t	       pos;	/* 0: nothing held */
		size_t	       argc;
		int64_t	       count;	/* arguments still to come */
	} held;
};

/*
 * The request at the start of the bytes: > 0 bytes it takes (argc may be 0:
 * an empty line, *0, a negative count: nothing to answer), 0 need more, -1
 * malformed.  Never allocates more than the bytes present justify.
 *
 * One struct may serve all clients of a worker.  But 10^6 arguments arriving
 * bit by bit are then read 10^2 times.  With `resume` set, an answer of 0 is
 * remembered and the next call goes on from there: it must be about the same
 * request, all of it (the bytes may have moved), with no fewer bytes.  That
 * takes a struct per stream, for as long as the request is not whole.
 */
ssize_t	resp_request_next(struct resp_request *, const uint8_t *, size_t,
    bool authenticated, size_t bytes_max) __attribute__((warn_unused_result));
void	resp_request_free(struct resp_request *);
/* Text after "-ERR Protocol error: ", NUL-terminated, into `out`. */
void	resp_error_text(const struct resp_request *, char *out, size_t);

/*
 * Where we are in a reply.  All zero is the start of one; so is the state
 * after `done`, though `type` stays for the caller to look at.
 *
 * RESP ends nothing with a mark, it only announces counts; so one number for
 * all levels is enough, and no depth is too deep (a script may answer with a
 * table nested a thousand times, and must not cost others the connection).
 */
struct resp_reply {
	uint64_t todo;		/* elements still to come, all levels together */
	uint64_t bulk_left;	/* bytes of a bulk and its CRLF still to come */
	uint8_t	 type;		/* first byte of the reply; '|' while there is only its attribute */
	bool	 started;
	bool	 in_bulk;	/* between elements when neither of these two */
	bool	 in_line;	/* in a line longer than RESP_LINE_HELD */
	bool	 cr;		/* in_line: its last byte so far was a CR */
};

/*
 * Consumes as much of one reply as is there: > 0 bytes understood, and *done
 * says whether the reply ended with them; 0: less than a line is there, keep
 * it and ask again with more (never said of RESP_LINE_HELD bytes); -1 malformed.
 * Nothing past the end of the reply is looked at.
 * RESP3 attributes (|) count as part of the reply that follows them.  A push
 * (>) is a whole of its own: look at `type`.
 */
ssize_t	resp_reply_next(struct resp_reply *, const uint8_t *, size_t, bool *done)
    __attribute__((warn_unused_result));

/* Writers: 0, or -1 when the buf is full; then nothing was written. */
struct buf;
int resp_put_request(struct buf *, const struct slice *arg, size_t argc)	/* canonical multibulk */
    __attribute__((warn_unused_result));
int resp_put_simple(struct buf *, const char *text) __attribute__((warn_unused_result));	/* +text, CR and LF become spaces */
int resp_put_error(struct buf *, const char *text) __attribute__((warn_unused_result));	/* -text, likewise */
int resp_put_int(struct buf *, int64_t) __attribute__((warn_unused_result));
int resp_put_bulk(struct buf *, const void *, size_t) __attribute__((warn_unused_result));
int resp_put_null(struct buf *, int version) __attribute__((warn_unused_result));	/* $-1 or _ */
int resp_put_array(struct buf *, size_t n) __attribute__((warn_unused_result));
int resp_put_map(struct buf *, size_t pairs, int version) __attribute__((warn_unused_result));	/* %n or *2n */

#endif

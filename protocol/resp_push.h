/*
 * resp_push: what a Redis connection that only subscribes is told, in RESP2.
 *
 * Messages, confirmations, the answer to a PING, and errors; each is looked at
 * whole, because it is passed on to many.  Stateless: call again with the same
 * start when there are more bytes; `need` says when that is of use.
 *
 * Answers:  > 0 bytes it takes, 0 need more, -1 malformed, or larger than max.
 * Views:    `name` and `text` die with the input.
 * Bounds:   `max` for one; nothing is allocated.
 */
#ifndef PROTOCOL_RESP_PUSH_H
#define PROTOCOL_RESP_PUSH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/slice.h"

/* Each has its own confirmations, messages and count. */
enum resp_channel {
	RESP_CHANNEL,		/* SUBSCRIBE */
	RESP_PATTERN,		/* PSUBSCRIBE */
	RESP_SHARD,		/* SSUBSCRIBE */
	RESP_CHANNELS
};

enum resp_push_kind {
	RESP_PUSH_MESSAGE,	/* of `channel`, subscribed to as `name` */
	RESP_PUSH_SUBSCRIBED,
	RESP_PUSH_UNSUBSCRIBED,	/* `name.p` is NULL where nothing was subscribed to */
	RESP_PUSH_PONG,
	RESP_PUSH_ERROR		/* `text`: the line without its - and CRLF */
};

struct resp_push {
	enum resp_push_kind kind;
	enum resp_channel   channel;
	struct slice	    name;	/* the channel, or the pattern */
	struct slice	    text;
	size_t		    need;	/* when 0: at least so many bytes in all */
};

ssize_t resp_push_next(struct resp_push *, const uint8_t *, size_t, size_t max)
    __attribute__((warn_unused_result));

/* "subscribe", "psubscribe", "ssubscribe". */
extern const char *const resp_subscribe_word[RESP_CHANNELS];

#endif

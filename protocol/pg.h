/*
 * pg: the PostgreSQL v3 wire vocabulary (PostgreSQL documentation, "Message
 * Formats").
 *
 * Pure functions over bytes: no sockets, no clock.  Every parser answers the
 * same way:
 *	> 0	that many bytes were understood
 *	  0	need more bytes, ask again later with the same start
 *	 -1	malformed; the stream can never be resynchronized
 */
#ifndef PROTOCOL_PG_H
#define PROTOCOL_PG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol/slice.h"

enum {
	PG_HEADER = 5,			/* type byte and length word */
	PG_MESSAGE_MAX = 1 << 30,	/* PostgreSQL's own limit (MaxAllocSize) */
	PG_STARTUP_MAX = 10000		/* PostgreSQL's MAX_STARTUP_PACKET_LENGTH */
};

#define PG_PROTOCOL(major, minor) ((uint32_t)(major) << 16 | (minor))
#define PG_SSL_REQUEST	  PG_PROTOCOL(1234, 5679)
#define PG_GSSENC_REQUEST PG_PROTOCOL(1234, 5680)
#define PG_CANCEL_REQUEST PG_PROTOCOL(1234, 5678)

/* Authentication requests ('R'), by their code. */
enum {
	PG_AUTH_OK = 0,
	PG_AUTH_CLEARTEXT = 3,
	PG_AUTH_MD5 = 5,
	PG_AUTH_SASL = 10,
	PG_AUTH_SASL_CONTINUE = 11,
	PG_AUTH_SASL_FINAL = 12
};

/* One message where it lies.  Nothing behind the header has been read. */
struct pg_frame {
	uint8_t	 type;
	uint32_t size;		/* whole message, header included */
};

int pg_frame_next(struct pg_frame *, const uint8_t *, size_t)
    __attribute__((warn_unused_result));

/* A packet before the first typed message: startup, TLS, GSS or cancel request. */
struct pg_startup {
	uint32_t     size;
	uint32_t     code;	/* protocol version or one of PG_*_REQUEST */
	struct slice body;	/* after the code */
};

int pg_startup_next(struct pg_startup *, const uint8_t *, size_t)
    __attribute__((warn_unused_result));

/*
 * A cursor over the body of a message.  Reading past the end sets `bad` and
 * yields 0 or an empty slice, so a caller checks once, at the end.
 */
struct pg_reader {
	const uint8_t *p, *end;
	bool	       bad;
};

static inline struct pg_reader
pg_reader(const uint8_t *p, size_t n)
{
	return (struct pg_reader){ p, p + n, false };
}

uint8_t	     pg_read_u8(struct pg_reader *);
uint16_t     pg_read_u16(struct pg_reader *);
uint32_t     pg_read_u32(struct pg_reader *);
struct slice pg_read_bytes(struct pg_reader *, size_t n);
struct slice pg_read_str(struct pg_reader *);	/* up to and without the NUL, which is eaten */

/* The n-th type, from 1, of a list of types and their number before it; 0: none. */
unsigned     pg_type_at(struct slice list, unsigned n);
/*
 * The n-th value, from 1, of what follows a Bind's names, and its format; len
 * < 0 is NULL.  False: there is none, or it is malformed.
 */
bool	     pg_bind_value(struct slice args, unsigned n, int *format, struct slice *value,
    ssize_t *len);

/* One field of an ErrorResponse or NoticeResponse body, empty where absent. */
struct slice pg_error_field(const uint8_t *body, size_t n, char field);

/* The next `name=value` of a startup `options` string: 1, 0 at the end, -1
 * for anything but -c name=value and --name=value.  Backslash escapes as in
 * PostgreSQL's pg_split_opts(); both results are NUL-terminated into `out`,
 * which must have room for the text's length + 2. */
int pg_options_next(const char **text, char *out, const char **name, const char **value)
    __attribute__((warn_unused_result));

/*
 * Writers append one message each: 0, or -1 when the buf is full (and then
 * nothing was appended).
 */
struct buf;

/*
 * The fields follow `fields`, one letter each:
 *	c  a byte (int)		h  a 16-bit, i  a 32-bit integer
 *	s  a string and its NUL	b  a struct slice, bare
 * type 0 writes a packet without a type byte.
 */
int pg_put(struct buf *, char type, const char *fields, ...)
    __attribute__((warn_unused_result));
/* The fields alone: a part of a message. */
int pg_put_bare(struct buf *, const char *fields, ...) __attribute__((warn_unused_result));
/* severity ERROR or FATAL; sqlstate of five characters; detail may be NULL. */
int pg_put_error(struct buf *, const char *severity, const char *sqlstate,
    const char *message, const char *detail) __attribute__((warn_unused_result));
int pg_put_ready(struct buf *, char status) __attribute__((warn_unused_result));
/* Bind of that statement with n values as text (p NULL: null), all its results
 * as text, and Execute: in one piece.  Values of less than 1 GiB together. */
int pg_put_run(struct buf *, const char *name, const struct slice *value, unsigned n)
    __attribute__((warn_unused_result));

#endif

/*
 * stream: a socket, TLS or not, two bufs, a deadline and one callback.
 *
 * Bytes read lie in the worker's scratch buffer while the callback looks at
 * them; only what it leaves unconsumed is kept, in `in`.  Bytes to send are
 * appended to `out` and leave in one write at the end of the turn.  So an idle
 * stream owns no buffer, and a transaction costs one recv and one send a side.
 *
 * Owner:    whoever embeds it (a session, a server).  stream_close() lets go
 *           of the socket and the memory at once; the struct itself must live
 *           to the end of the turn, because a callback may be running.
 * Views:    stream_peek()'s pointer dies at stream_consume(), stream_put() of
 *           the same stream, or when the callback returns.
 * Bounds:   `in` at most STREAM_IN_MAX (or what stream_hold() asked for); past
 *           it reading stops by itself until something is consumed.  `out` at
 *           most its limit; owners pause their source at STREAM_OUT_HIGH.
 * Callback: STREAM_OPEN   connected, and TLS is up if it was asked for
 *           STREAM_DATA   there are bytes to peek at
 *           STREAM_ROOM   `out` fell below a third of STREAM_OUT_HIGH after
 *                         having been above it, or emptied with `tell_empty`
 *           STREAM_EOF    the peer closed its side; no more data
 *           STREAM_ERROR  the socket or TLS failed; stream_error() says why
 *           STREAM_TIMEOUT the deadline passed
 */
#ifndef TLS_STREAM_H
#define TLS_STREAM_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "conf/stats.h"
#include "protocol/buf.h"
#include "protocol/slice.h"
#include "tls/wheel.h"

enum {
	STREAM_SCRATCH = 64 << 10,
	STREAM_IN_MAX = 64 << 10,
	STREAM_OUT_HIGH = 256 << 10,
	STREAM_NAME_MAX = 256,	/* a name longer is nobody's */
	STREAM_ADDRESS_MAX = 72	/* with the name of an interface, too */
};

enum stream_event {
	STREAM_OPEN,
	STREAM_DATA,
	STREAM_ROOM,
	STREAM_EOF,
	STREAM_ERROR,
	STREAM_TIMEOUT
};

struct stream;
typedef void stream_callback(struct stream *, enum stream_event);

/* A worker's share: what its streams have in common. */
struct streams {
	struct event_base *base;
	struct wheel	   wheel;
	struct stats	  *stats;
	uint8_t		  *scratch;
	struct stream	  *dirty, *dirty_last;	/* streams with bytes to send this turn, in order */
	struct buf_spare   spare;	/* of their bufs */
	uint64_t	   now_ns;	/* monotonic, read once a turn */
};

/* The facts of a stream that are orthogonal to its owner's state: */
struct stream {
	int		   fd;		/* -1: closed */
	SSL		  *ssl;		/* NULL: plain */
	stream_callback	  *on;
	struct streams	  *home;
	struct buf	   in, out;
	const uint8_t	  *view;	/* bytes in scratch, while in STREAM_DATA */
	size_t		   view_n;
	size_t		   in_max;
	struct event	   read_event;	/* persistent, from open to close */
	struct event	  *write_event;	/* made at the first EAGAIN */
	struct stream	  *dirty_next;
	struct wheel_entry wheel;	/* deadline; its fire is the stream's */
	enum stat_id	   stat_in, stat_out;	/* where its bytes are counted */
	uint64_t	   drained_ns;	/* when a read last took all there was; 0: never */
	const char	  *error;	/* static text or strerror(); NULL: none */
	unsigned	   dirty : 1;	/* on the home's dirty list */
	unsigned	   opening : 1;	/* connect() or TLS handshake under way */
	unsigned	   connecting : 1;	/* of these, the connect() */
	unsigned	   reading : 1;	/* read_event is added */
	unsigned	   paused : 1;	/* its owner wants no data now */
	unsigned	   blocked : 1;	/* waiting for EV_WRITE */
	unsigned	   was_high : 1;	/* out passed STREAM_OUT_HIGH: owe STREAM_ROOM */
	unsigned	   tell_empty : 1;	/* owner wants STREAM_ROOM when out is empty */
	unsigned	   eof : 1;	/* the peer's side is closed */
};

int  streams_init(struct streams *, struct event_base *, struct stats *)
    __attribute__((warn_unused_result));
void streams_fini(struct streams *);
void streams_tick(struct streams *);	/* reads the clock, once a turn */
/* The end of the turn: one write a socket. */
void streams_flush(struct streams *);

/* Takes over a connected, non-blocking socket and starts to read. */
void stream_accept(struct stream *, struct streams *, int fd, stream_callback *,
    size_t out_limit, enum stat_id in, enum stat_id out);
/* Starts a connection; STREAM_OPEN or STREAM_ERROR follows.  -1: at once. */
int  stream_dial(struct stream *, struct streams *, const struct sockaddr *, socklen_t,
    stream_callback *, size_t out_limit, enum stat_id in, enum stat_id out)
    __attribute__((warn_unused_result));
/*
 * Starts TLS: as the server's end, or as the client's with the name for SNI
 * (NULL: none, or an address) and whether the certificate must carry it.
 * STREAM_OPEN follows.  The caller has made sure that nothing was received
 * beyond the point where the handshake begins.
 */
int  stream_start_tls(struct stream *, SSL_CTX *, bool server, const char *name, bool verify_name)
    __attribute__((warn_unused_result));
/*
 * The server's end of a handshake that has begun: what was received and not
 * consumed is its beginning, and is consumed.  STREAM_OPEN follows.
 */
int  stream_start_direct_tls(struct stream *, SSL_CTX *) __attribute__((warn_unused_result));
void stream_close(struct stream *);	/* idempotent */
/* No more sending: the peer reads an end.  What is in `out` must have left. */
void stream_shutdown(struct stream *);

/* A farewell: written at once if nothing else is queued, else forgotten. */
void stream_last_words(struct stream *, const void *, size_t n);

const uint8_t *stream_peek(const struct stream *, size_t *n);
void	       stream_consume(struct stream *, size_t n);
/* Let `in` collect a message of n bytes (0: back to STREAM_IN_MAX). */
void	       stream_hold(struct stream *, size_t n);

/* Bytes to send.  -1: the limit is reached, nothing was appended. */
int	    stream_put(struct stream *, const void *, size_t n) __attribute__((warn_unused_result));
/* `out` for a writer of messages; the stream is on the dirty list after. */
struct buf *stream_out(struct stream *);
static inline bool
stream_is_high(const struct stream *st)
{
	return buf_len(&st->out) > STREAM_OUT_HIGH;
}

void stream_pause(struct stream *);	/* no STREAM_DATA until ... */
void stream_resume(struct stream *);	/* ... here; the owner looks at what was kept */

void stream_deadline(struct stream *, uint64_t deadline_ns);	/* 0: none */

/* tls_binding(), of SCRAM_BINDING_MAX bytes; 0 without TLS too. */
size_t stream_binding(const struct stream *, uint8_t *out);
/*
 * The host name the client asked for (SNI), at most 255 bytes, as long as the
 * stream lives; empty: none.  Nobody has checked it.
 */
struct slice stream_server_name(const struct stream *);

/*
 * The common name of the certificate the client showed, as UTF-8 text in `out`
 * of STREAM_NAME_MAX bytes.  -1: it showed none, none that is verified and
 * valid now, or one with no name, several, or a name that is no text.
 */
int stream_peer_name(const struct stream *, char *out) __attribute__((warn_unused_result));

/* The address of the peer's end, or of ours, in figures.  False: it is a unix socket's, or
 * closed. */
bool stream_address(const struct stream *, bool peer, char address[STREAM_ADDRESS_MAX], unsigned *port);

/* An idle stream leaves its worker and joins another: both ends of a move. */
void stream_detach(struct stream *);
void stream_attach(struct stream *, struct streams *);

/* Has the peer closed, or sent what nobody has looked at?  One recv(MSG_PEEK),
 * unless what was read last, and just now, was all. */
bool stream_is_quiet(const struct stream *);

#endif

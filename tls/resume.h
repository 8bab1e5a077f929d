/*
 * resume: sessions with upstreams, kept so that the next connection to the
 * same host need not do a full handshake.
 *
 * A session is offered once, by the context it was made with (the same
 * authorities, the same demands) and to the host name it was made for, whose
 * certificate was judged then; so what is resumed is as good as verified.  Of
 * two connections that use one address without a name none is resumed.  A
 * session whose connection fails is not offered again.
 *
 * Owner:    whoever embeds it.
 * Bounds:   RESUME_MAX sessions; the oldest goes.
 * Threads:  any, behind a lock; a session never lives in two connections.
 */
#ifndef TLS_RESUME_H
#define TLS_RESUME_H

#include <openssl/ssl.h>
#include <pthread.h>

enum { RESUME_MAX = 64 };

struct resume_entry {
	SSL_CTX	    *ctx;	/* counted, so that no other has its address */
	char	    *host;
	SSL_SESSION *session;	/* NULL: free */
};

struct resume {
	pthread_mutex_t	    lock;
	struct resume_entry entry[RESUME_MAX];	/* a ring */
	unsigned	    next;
};

void resume_init(struct resume *);
void resume_fini(struct resume *);
/* The latest session for this client's end, whose handshake is to begin. */
void resume_offer(struct resume *, SSL *);
/* The session of a connection that turned out well; others are left alone. */
void resume_keep(struct resume *, SSL *);

#endif

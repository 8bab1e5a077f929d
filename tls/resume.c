#include "tls/resume.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

void
resume_init(struct resume *r)
{
	*r = (struct resume){ 0 };
	if (pthread_mutex_init(&r->lock, NULL) != 0)
		abort();
}

static void
entry_clear(struct resume_entry *e)
{
	SSL_SESSION_free(e->session);
	SSL_CTX_free(e->ctx);
	free(e->host);
	*e = (struct resume_entry){ 0 };
}

void
resume_fini(struct resume *r)
{
	for (unsigned i = 0; i < RESUME_MAX; i++)
		entry_clear(&r->entry[i]);
	pthread_mutex_destroy(&r->lock);
}

static const char *
host_of(const SSL *ssl)
{
	return SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
}

/* Out of the ring, latest first. */
static SSL_SESSION *
take(struct resume *r, const SSL_CTX *ctx, const char *host)
{
	SSL_SESSION *session = NULL;

	pthread_mutex_lock(&r->lock);
	for (unsigned i = 1; i <= RESUME_MAX && session == NULL; i++) {
		struct resume_entry *e =
		    &r->entry[(r->next + RESUME_MAX - i) % RESUME_MAX];

		if (e->session == NULL || e->ctx != ctx ||
		    strcasecmp(e->host, host) != 0)
			continue;
		session = e->session;
		e->session = NULL;
		entry_clear(e);
	}
	pthread_mutex_unlock(&r->lock);
	return session;
}

void
resume_offer(struct resume *r, SSL *ssl)
{
	const char *host = host_of(ssl);
	SSL_SESSION *session;

	if (host == NULL ||
	    (session = take(r, SSL_get_SSL_CTX(ssl), host)) == NULL)
		return;
	/* Without it the handshake is a full one. */
	(void)SSL_set_session(ssl, session);
	SSL_SESSION_free(session);
}

/* A copy, because the connection goes on using its own. */
void
resume_keep(struct resume *r, SSL *ssl)
{
	SSL_SESSION *own = SSL_get_session(ssl);
	const char *host = host_of(ssl);
	struct resume_entry *e, new = { 0 };

	if (host == NULL || own == NULL || !SSL_SESSION_is_resumable(own) ||
	    (new.session = SSL_SESSION_dup(own)) == NULL)
		return;
	new.ctx = SSL_get_SSL_CTX(ssl);
	SSL_CTX_up_ref(new.ctx);
	if ((new.host = strdup(host)) == NULL)
		abort(); /* at most 255 bytes */
	pthread_mutex_lock(&r->lock);
	e = &r->entry[r->next++ % RESUME_MAX];
	entry_clear(e);
	*e = new;
	pthread_mutex_unlock(&r->lock);
}

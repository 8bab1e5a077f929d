#include "tls/snapshot.h"

#include <assert.h>
#include <stdlib.h>

#include "tls/tls.h"

static SSL_CTX **
contexts(size_t n)
{
	SSL_CTX **ctx = calloc(n ? n : 1, sizeof(*ctx));

	if (ctx == NULL)
		abort(); /* bounded by the configuration file */
	return ctx;
}

static void
make_listening(struct snapshot *s, struct conf_errors *e)
{
	const struct conf *c = s->conf;

	if ((s->certs = certs_load(c, e)) == NULL)
		return;
	s->listen = tls_listen(TLS_POSTGRES, c, s->certs, &s->tickets, e);
	/* What is wrong here is wrong there. */
	if (s->listen == NULL)
		return;
	s->listen_direct =
	    tls_listen(TLS_POSTGRES_DIRECT, c, s->certs, &s->tickets, e);
	s->listen_redis = tls_listen(TLS_REDIS, c, s->certs, &s->tickets, e);
}

/* All of them, so that all errors are told at once. */
static void
make_contexts(struct snapshot *s, struct conf_errors *e)
{
	const struct conf *c = s->conf;

	if (c->tls.cert_file_n > 0)
		make_listening(s, e);
	s->postgres = contexts(c->postgres_n);
	s->redis = contexts(c->redis_n);
	for (size_t i = 0; i < c->postgres_n; i++) {
		const struct conf_postgres *p = &c->postgres[i];

		const struct tls_upstream up = { p->sslmode, &p->sslrootcert,
						 &p->sslcert, &p->sslkey,
						 true };

		if (p->sslmode != SSLMODE_DISABLE)
			s->postgres[i] = tls_dial(c, &up, e);
	}
	for (size_t i = 0; i < c->redis_n; i++) {
		const struct conf_redis *r = &c->redis[i];

		const struct tls_upstream up = { r->sslmode, &r->sslrootcert,
						 &r->sslcert, &r->sslkey,
						 false };

		if (r->tls)
			s->redis[i] = tls_dial(c, &up, e);
	}
}

struct snapshot *
snapshot_load(const char *file, struct conf_errors *e)
{
	struct conf *conf = conf_load(file, e);
	struct snapshot *s;

	if (conf == NULL)
		return NULL;
	if ((s = calloc(1, sizeof(*s))) == NULL)
		abort();
	s->conf = conf;
	atomic_init(&s->refs, 1);
	tickets_init(&s->tickets);
	resume_init(&s->resume);
	make_contexts(s, e);
	if (e->n > 0)
		snapshot_unref(&s);
	return s;
}

void
snapshot_inherit(struct snapshot *s, struct snapshot *before)
{
	tickets_copy(&s->tickets, &before->tickets);
}

struct snapshot *
snapshot_ref(struct snapshot *s)
{
	unsigned before =
	    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);

	assert(before > 0);
	(void)before;
	return s;
}

static void
snapshot_free(struct snapshot *s)
{
	for (size_t i = 0; i < s->conf->postgres_n; i++)
		SSL_CTX_free(s->postgres[i]);
	for (size_t i = 0; i < s->conf->redis_n; i++)
		SSL_CTX_free(s->redis[i]);
	free(s->postgres);
	free(s->redis);
	SSL_CTX_free(s->listen);
	SSL_CTX_free(s->listen_direct);
	SSL_CTX_free(s->listen_redis);
	certs_free(&s->certs);
	tickets_fini(&s->tickets);
	resume_fini(&s->resume);
	conf_free(&s->conf);
	free(s);
}

/* Release, then acquire: the last one sees what all others did before. */
void
snapshot_unref(struct snapshot **sp)
{
	struct snapshot *s = *sp;
	unsigned before;

	*sp = NULL;
	if (s == NULL)
		return;
	before = atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel);
	assert(before > 0);
	if (before == 1)
		snapshot_free(s);
}

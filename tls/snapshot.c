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

/* All of them, so that all errors are told at once. */
static void
make_contexts(struct snapshot *s, struct conf_errors *e)
{
	const struct conf *c = s->conf;

	if (c->tls.cert_file != NULL)
		s->listen = tls_listen(c, e);
	s->postgres = contexts(c->postgres_n);
	s->redis = contexts(c->redis_n);
	for (size_t i = 0; i < c->postgres_n; i++) {
		const struct conf_postgres *p = &c->postgres[i];

		if (p->sslmode != SSLMODE_DISABLE)
			s->postgres[i] =
			    tls_dial(c, p->sslmode, &p->sslrootcert, e);
	}
	for (size_t i = 0; i < c->redis_n; i++) {
		const struct conf_redis *r = &c->redis[i];

		if (r->tls)
			s->redis[i] =
			    tls_dial(c, r->sslmode, &r->sslrootcert, e);
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
	make_contexts(s, e);
	if (e->n > 0)
		snapshot_unref(&s);
	return s;
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

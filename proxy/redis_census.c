#include "proxy/redis_census.h"

#include <assert.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"
#include "conf/mem.h"
#include "protocol/links.h"

struct redis_census_line {
	struct link link; /* first */
	unsigned refs;
	int64_t clients, connections;
	enum resp_channel kind;
	unsigned port;
	size_t host_n, n;
	char text[]; /* the host, then the channel */
};

struct redis_census {
	pthread_mutex_t lock;
	struct links_key key;
	struct links lines;
};

struct redis_census *
redis_census_open(void)
{
	struct redis_census *c = mem_zero(1, sizeof(*c), "a census");

	if (RAND_bytes((uint8_t *)&c->key, sizeof(c->key)) != 1 ||
	    pthread_mutex_init(&c->lock, NULL) != 0) {
		free(c);
		return NULL;
	}
	return c;
}

void
redis_census_close(struct redis_census **at)
{
	struct redis_census *c = *at;

	*at = NULL;
	if (c == NULL)
		return;
	assert(c->lines.n == 0);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static uint64_t
line_hash(const struct redis_census *c, const struct conf_redis *up,
	  enum resp_channel kind, struct slice name)
{
	return links_hash(&c->key, name,
			  (uint64_t)up->port << 8 | (uint64_t)kind);
}

/* With the lock held. */
static struct redis_census_line *
line_find(const struct redis_census *c, const struct conf_redis *up,
	  enum resp_channel kind, struct slice name)
{
	uint64_t hash = line_hash(c, up, kind, name);
	size_t host_n = strlen(up->host);

	for (struct link *l = links_at(&c->lines, hash); l; l = l->next) {
		struct redis_census_line *e = (void *)l;

		if (l->hash == hash && e->kind == kind && e->n == name.n &&
		    e->port == up->port && e->host_n == host_n &&
		    memcmp(e->text, up->host, host_n) == 0 &&
		    (name.n == 0 ||
		     memcmp(e->text + host_n, name.p, name.n) == 0))
			return e;
	}
	return NULL;
}

static struct redis_census_line *
line_make(struct redis_census *c, const struct conf_redis *up,
	  enum resp_channel kind, struct slice name)
{
	size_t host_n = strlen(up->host);
	struct redis_census_line *e =
	    mem_zero(1, sizeof(*e) + host_n + name.n, "a line of the census");

	e->kind = kind;
	e->port = up->port;
	e->host_n = host_n;
	e->n = name.n;
	memcpy(e->text, up->host, host_n);
	if (name.n > 0)
		memcpy(e->text + host_n, name.p, name.n);
	links_add(&c->lines, &e->link, line_hash(c, up, kind, name));
	return e;
}

struct redis_census_line *
redis_census_enter(struct redis_census *c, const struct conf_redis *up,
		   enum resp_channel kind, struct slice name)
{
	struct redis_census_line *e;

	pthread_mutex_lock(&c->lock);
	if ((e = line_find(c, up, kind, name)) == NULL)
		e = line_make(c, up, kind, name);
	e->refs++;
	pthread_mutex_unlock(&c->lock);
	return e;
}

void
redis_census_leave(struct redis_census *c, struct redis_census_line **at)
{
	struct redis_census_line *e = *at;

	*at = NULL;
	pthread_mutex_lock(&c->lock);
	assert(e->refs > 0);
	if (--e->refs == 0) {
		assert(e->clients == 0 && e->connections == 0);
		links_remove(&c->lines, &e->link);
		free(e);
	}
	pthread_mutex_unlock(&c->lock);
}

void
redis_census_clients(struct redis_census *c, struct redis_census_line *e,
		     int by)
{
	pthread_mutex_lock(&c->lock);
	e->clients += by;
	assert(e->clients >= 0);
	pthread_mutex_unlock(&c->lock);
}

void
redis_census_connections(struct redis_census *c, struct redis_census_line *e,
			 int by)
{
	pthread_mutex_lock(&c->lock);
	e->connections += by;
	assert(e->connections >= 0);
	pthread_mutex_unlock(&c->lock);
}

int64_t
redis_census_correct(struct redis_census *c, const struct conf_redis *up,
		     enum resp_channel kind, struct slice name, int64_t counted)
{
	const struct redis_census_line *e;
	int64_t others = counted;

	pthread_mutex_lock(&c->lock);
	if ((e = line_find(c, up, kind, name)) != NULL) {
		others =
		    counted > e->connections ? counted - e->connections : 0;
		others += e->clients;
	}
	pthread_mutex_unlock(&c->lock);
	return others;
}

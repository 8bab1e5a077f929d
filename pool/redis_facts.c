#include "pool/redis_facts.h"

#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"
#include "conf/mem.h"
#include "protocol/resp.h"
#include "protocol/resp_number.h"

struct redis_facts_entry {
	struct redis_facts_entry *next;
	char *name, *url; /* of the upstream */
	struct redis_facts_of of;
};

void
redis_facts_init(struct redis_facts *f)
{
	f->first = NULL;
	if (pthread_mutex_init(&f->lock, NULL) != 0)
		abort();
}

void
redis_facts_fini(struct redis_facts *f)
{
	struct redis_facts_entry *e;

	while ((e = f->first) != NULL) {
		f->first = e->next;
		free(e->name);
		free(e->url);
		free(e);
	}
	pthread_mutex_destroy(&f->lock);
}

/* With the lock held. */
static struct redis_facts_entry *
find(const struct redis_facts *f, const struct conf_redis *up)
{
	struct redis_facts_entry *e = f->first;

	while (e != NULL &&
	       (strcmp(e->name, up->name) != 0 || strcmp(e->url, up->url) != 0))
		e = e->next;
	return e;
}

/* ---- what HELLO says ----------------------------------------------------- */

/* The element at the start of the bytes; nothing: they end before it does. */
static struct slice
element(struct slice from)
{
	struct resp_reply reply = { 0 };
	bool done = false;
	ssize_t used = 1;
	size_t at = 0;

	while (!done && at < from.n && used > 0) {
		used = resp_reply_next(&reply, from.p + at, from.n - at, &done);
		at += used > 0 ? (size_t)used : 0;
	}
	return slice_of(from.p, done ? at : 0);
}

/* What is in it, if it is a short text. */
static struct slice
text_of(struct slice element)
{
	const uint8_t *lf = memchr(element.p, '\n', element.n);
	size_t head = lf != NULL ? (size_t)(lf - element.p) + 1 : 0;
	int64_t n;

	if (head < 4 || element.p[0] != '$' ||
	    !resp_number(element.p + 1, head - 3, &n) || n <= 0 ||
	    n >= REDIS_FACT_MAX || (size_t)n + 2 != element.n - head)
		return slice_str("");
	for (size_t i = 0; i < (size_t)n; i++)
		if (element.p[head + i] <= ' ' || element.p[head + i] > '~')
			return slice_str("");
	return slice_of(element.p + head, (size_t)n);
}

static void
take(struct redis_facts_of *of, struct slice name, struct slice value)
{
	const struct {
		const char *name;
		char *to;
	} all[] = { { "server", of->server },
		    { "version", of->version },
		    { "mode", of->mode },
		    { "role", of->role } };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (slice_is(name, all[i].name)) {
			memcpy(all[i].to, value.p, value.n);
			all[i].to[value.n] = '\0';
		}
}

void
redis_facts_learn(struct redis_facts *f, const struct conf_redis *up,
		  struct slice reply)
{
	const uint8_t *lf = memchr(reply.p, '\n', reply.n);
	struct redis_facts_of of = { 0 };
	struct redis_facts_entry *e;
	struct slice name, value;

	if (lf == NULL || reply.p[0] != '%')
		return;
	reply.n -= (size_t)(lf + 1 - reply.p);
	reply.p = lf + 1;
	for (; reply.n > 0; reply.p += value.n, reply.n -= value.n) {
		name = element(reply);
		reply.p += name.n;
		reply.n -= name.n;
		value = element(reply);
		if (name.n == 0 || value.n == 0)
			break;
		take(&of, text_of(name), text_of(value));
	}
	pthread_mutex_lock(&f->lock);
	if ((e = find(f, up)) == NULL) {
		e = mem_zero(1, sizeof(*e), "an upstream");
		e->name = mem_copy(up->name);
		e->url = mem_copy(up->url);
		e->next = f->first;
		f->first = e;
	}
	e->of = of;
	pthread_mutex_unlock(&f->lock);
}

void
redis_facts_about(struct redis_facts *f, const struct conf_redis *up,
		  struct redis_facts_of *of)
{
	const struct redis_facts_entry *e;

	memset(of, 0, sizeof(*of));
	pthread_mutex_lock(&f->lock);
	if ((e = find(f, up)) != NULL)
		*of = e->of;
	pthread_mutex_unlock(&f->lock);
}

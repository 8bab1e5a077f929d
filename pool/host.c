#include "pool/host.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
hosts_init(struct hosts *all)
{
	*all = (struct hosts){ 0 };
	return pthread_mutex_init(&all->lock, NULL) == 0 ? 0 : -1;
}

static void
host_free(struct hosts *all, struct host **at)
{
	struct host *h = *at;

	*at = h->next;
	all->n--;
	free(h->key);
	free(h->name);
	free(h);
}

void
hosts_fini(struct hosts *all)
{
	while (all->first != NULL)
		host_free(all, &all->first);
	pthread_mutex_destroy(&all->lock);
}

/* Those that nobody has asked for in a long while. */
static void
hosts_forget(struct hosts *all, uint64_t now_ns)
{
	struct host **at = &all->first, *h;

	while ((h = *at) != NULL)
		if (h->users == 0 && now_ns > h->left_ns + HOST_KEPT_NS)
			host_free(all, at);
		else
			at = &h->next;
}

static struct host *
host_new(const char *key, const char *name, unsigned port)
{
	struct host *h = calloc(1, sizeof(*h));

	if (h == NULL || (h->key = strdup(key)) == NULL ||
	    (h->name = strdup(name)) == NULL)
		abort();
	h->port = port;
	return h;
}

struct host *
host_find(struct hosts *all, const char *upstream, const char *name,
	  unsigned port, uint64_t now_ns)
{
	char key[512];
	struct host *h;

	/* An upstream's name has no blank, nor has a host's port. */
	if ((size_t)snprintf(key, sizeof(key), "%s %u %s", upstream, port,
			     name) >= sizeof(key))
		return NULL;
	pthread_mutex_lock(&all->lock);
	for (h = all->first; h != NULL && strcmp(h->key, key) != 0; h = h->next)
		;
	if (h == NULL)
		hosts_forget(all, now_ns);
	if (h == NULL && all->n < HOSTS_MAX) {
		h = host_new(key, name, port);
		h->next = all->first;
		all->first = h;
		all->n++;
	}
	if (h != NULL)
		h->users++;
	pthread_mutex_unlock(&all->lock);
	return h;
}

struct host *
host_keep(struct hosts *all, struct host *h)
{
	pthread_mutex_lock(&all->lock);
	assert(h->users > 0);
	h->users++;
	pthread_mutex_unlock(&all->lock);
	return h;
}

void
host_leave(struct hosts *all, struct host **at, uint64_t now_ns)
{
	struct host *h = *at;

	*at = NULL;
	if (h == NULL)
		return;
	pthread_mutex_lock(&all->lock);
	assert(h->users > 0);
	if (--h->users == 0)
		h->left_ns = now_ns;
	pthread_mutex_unlock(&all->lock);
}

bool
host_failed(struct hosts *all, struct host *h, uint64_t began_ns,
	    uint64_t now_ns, uint64_t first_ns, uint64_t most_ns,
	    const char *text)
{
	unsigned before = atomic_load(&h->failures);
	uint64_t wait = first_ns << (before < 16 ? before : 16);

	if (before > 0 && began_ns < atomic_load(&h->failed_ns))
		return false;
	atomic_store(&h->failed_ns, now_ns);
	atomic_store(&h->retry_ns, now_ns + (wait < most_ns ? wait : most_ns));
	pthread_mutex_lock(&all->lock);
	snprintf(h->error, sizeof(h->error), "%s", text);
	pthread_mutex_unlock(&all->lock);
	return atomic_fetch_add(&h->failures, 1) == 0;
}

bool
host_works(struct host *h)
{
	return atomic_load(&h->failures) > 0 &&
	       atomic_exchange(&h->failures, 0) > 0;
}

bool
host_saw_role(struct host *h, enum conf_role role)
{
	unsigned before;

	assert(role != ROLE_ANY);
	if (atomic_load(&h->doubted))
		atomic_store(&h->doubted, false);
	if (atomic_load(&h->role) == role)
		return false;
	before = atomic_exchange(&h->role, role);
	if (before == ROLE_ANY || before == role)
		return false;
	atomic_fetch_add(&h->epoch, 1);
	return true;
}

void
host_doubt(struct host *h)
{
	atomic_store(&h->doubted, true);
}

unsigned
host_fit(const struct host *h, enum conf_role want)
{
	unsigned role = atomic_load(&h->role);

	if (want == ROLE_ANY)
		return 0;
	if (role == ROLE_ANY || atomic_load(&h->doubted))
		return 1;
	return role == want ? 0 : 2;
}

bool
host_rests(const struct host *h, uint64_t now_ns)
{
	return atomic_load(&h->failures) > 0 &&
	       now_ns < atomic_load(&h->retry_ns);
}

void
host_claim(struct host *h, uint64_t until_ns)
{
	atomic_store(&h->retry_ns, until_ns);
}

/* Who tries moves the time on, so that nobody else does meanwhile. */
bool
host_may_try(struct host *h, uint64_t now_ns, uint64_t rest_ns)
{
	uint64_t retry_ns = atomic_load(&h->retry_ns);

	return now_ns >= retry_ns &&
	       atomic_compare_exchange_strong(&h->retry_ns, &retry_ns,
					      now_ns + rest_ns);
}

void
host_tell(struct hosts *all, const struct host *h, char *out, size_t n)
{
	size_t at = strlen(out);

	assert(at < n);
	pthread_mutex_lock(&all->lock);
	snprintf(out + at, n - at,
		 strchr(h->name, ':') ? "%s[%s]:%u: %s" : "%s%s:%u: %s",
		 at > 0 ? "; " : "", h->name, h->port, h->error);
	pthread_mutex_unlock(&all->lock);
}

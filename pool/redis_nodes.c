#include "pool/redis_nodes.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_ask.h"

enum { KNOWN_MAX = 4 }; /* of the nodes known, before those of the url */

/* ---- having ---------------------------------------------------------------- */

static void nodes_timer(struct wheel_entry *);

static uint64_t
origin_of(const char *url)
{
	uint64_t h = 14695981039346656037ull;

	while (*url != '\0')
		h = (h ^ (uint8_t)*url++) * 1099511628211ull;
	return h;
}

static struct redis_nodes *
nodes_make(struct pools *home, const struct conf_redis *up)
{
	struct redis_nodes *all = mem_zero(1, sizeof(*all), "a cluster");

	all->home = home;
	all->name = mem_copy(up->name);
	all->origin = origin_of(up->url);
	wheel_entry_init(&all->timer, nodes_timer);
	all->next = home->nodes;
	home->nodes = all;
	return all;
}

struct redis_nodes *
redis_nodes_find(struct pools *home, struct snapshot *snap,
		 const struct conf_redis *up)
{
	struct redis_nodes *all = home->nodes;
	uint64_t origin = origin_of(up->url);

	while (all != NULL &&
	       (strcmp(all->name, up->name) != 0 || all->origin != origin))
		all = all->next;
	if (all == NULL)
		all = nodes_make(home, up);
	if (all->redis != up) {
		snapshot_ref(snap);
		if (all->snapshot != NULL)
			snapshot_unref(&all->snapshot);
		all->snapshot = snap;
		all->redis = up;
	}
	all->users++;
	return all;
}

/* What it knows stays for who comes next, but no configuration with it. */
void
redis_nodes_leave(struct redis_nodes **at)
{
	struct redis_nodes *all = *at;

	*at = NULL;
	if (all == NULL)
		return;
	assert(all->users > 0);
	if (--all->users > 0)
		return;
	wheel_set(&all->home->streams->wheel, &all->timer, 0);
	snapshot_unref(&all->snapshot);
	all->redis = NULL;
}

void
redis_nodes_fini(struct pools *home)
{
	struct redis_nodes *all;

	while ((all = home->nodes) != NULL) {
		assert(all->users == 0 && all->waiting == NULL &&
		       all->learn == NULL);
		home->nodes = all->next;
		wheel_set(&home->streams->wheel, &all->timer, 0);
		for (unsigned i = 0; i < all->n; i++) {
			free(all->node[i]->name);
			free(all->node[i]->other);
			free(all->node[i]);
		}
		free(all->name);
		free(all);
	}
}

/* ---- what was learnt --------------------------------------------------------- */

static bool
is_called(const char *name, struct slice s)
{
	return name != NULL && slice_is_word(s, name);
}

static bool
node_is(const struct redis_node *node, struct slice name, unsigned port)
{
	return node->port == port &&
	       (is_called(node->name, name) || is_called(node->other, name));
}

static int
node_find(const struct redis_nodes *all, struct slice name, unsigned port)
{
	for (unsigned i = 0; i < all->n; i++)
		if (node_is(all->node[i], name, port))
			return (int)i;
	return REDIS_NODES_NOBODY;
}

bool
redis_nodes_lists(const struct redis_nodes *all, int node)
{
	return all->node[node]->member || all->node[node]->replica;
}

/* Of one that has gone, or a new one; NULL: there is none. */
static struct redis_node *
node_place(struct redis_nodes *all, int *at)
{
	for (unsigned i = 0; i < all->n; i++) {
		struct redis_node *node = all->node[i];

		*at = (int)i;
		if (node->heard == REDIS_UNHEARD && node->uses == NULL &&
		    !redis_nodes_lists(all, (int)i))
			return node;
	}
	if (all->n == REDIS_NODES_MAX)
		return NULL;
	*at = (int)all->n;
	return all->node[all->n++] =
		   mem_zero(1, sizeof(struct redis_node), "a node");
}

static char *
text_of(struct slice s)
{
	return s.n > 0 ? mem_text((const char *)s.p, s.n) : NULL;
}

/* By its name where that is what a certificate has, else by its address. */
static int
node_take(struct redis_nodes *all, const struct redis_member *m, bool tls)
{
	bool named = tls && m->host.n > 0;
	struct slice name = named ? m->host : m->at.name;
	struct slice other = named ? m->at.name : m->host;
	int i = node_find(all, name, m->at.port);
	struct redis_node *node;

	if (i == REDIS_NODES_NOBODY) {
		if ((node = node_place(all, &i)) == NULL)
			return REDIS_NODES_NOBODY;
		free(node->name);
		node->name = text_of(name);
		node->port = m->at.port;
	}
	node = all->node[i];
	free(node->other);
	node->other = text_of(other);
	node->heard = m->is_master ? REDIS_MASTER : REDIS_REPLICA;
	return i;
}

/* Nodes and slots of one answer; -1: it is none of a cluster that works. */
static int
nodes_take(struct redis_nodes *all, uint16_t *slot, const struct buf *b,
	   struct slice asked, bool tls)
{
	struct redis_member m;
	struct slice text;
	unsigned from, to, given = 0;
	size_t n;
	const uint8_t *p = buf_peek(b, &n);
	int rc, i;

	if (redis_where_nodes(p, n, &text) != 1)
		return -1;
	while ((rc = redis_where_member(&text, &m)) == 1) {
		if (!m.is_master && !m.is_replica)
			continue;
		if (m.at.name.n == 0)
			m.at.name = asked;
		i = node_take(all, &m, tls);
		if (!m.is_master)
			continue;
		if (i == REDIS_NODES_NOBODY)
			return -1;
		while ((rc = redis_where_range(&m.slots, &from, &to)) == 1)
			for (; from <= to; from++, given++)
				slot[from] = (uint16_t)(i + 1);
		if (rc != 0)
			return -1;
	}
	return rc == 0 && given > 0 ? 0 : -1;
}

/* ---- learning ---------------------------------------------------------------- */

/* A job of its own, that touches nothing else. */
struct redis_nodes_learn {
	struct job job;
	struct redis_nodes *all;
	struct snapshot *snapshot;
	const struct conf_redis *redis;
	struct conf_host ask[KNOWN_MAX + CONF_HOSTS_MAX]; /* names are ours */
	unsigned n, at; /* who has answered; n: nobody */
	struct buf answer;
	char error[POOL_ERROR_MAX];
};

/* Is it of use?  A node that was thrown out knows nobody but itself. */
static bool
is_answer(const struct buf *b)
{
	struct redis_member m;
	struct slice text;
	size_t n;
	const uint8_t *p = buf_peek(b, &n);
	unsigned from, to;

	if (redis_where_nodes(p, n, &text) != 1)
		return false;
	while (redis_where_member(&text, &m) == 1)
		if (m.is_master && redis_where_range(&m.slots, &from, &to) == 1)
			return true;
	return false;
}

static bool
learn_from(struct redis_nodes_learn *l, const struct conf_host *h)
{
	const struct conf_redis *up = l->redis;
	const struct redis_ask ask = {
		.host = h->name,
		.port = h->port,
		.ctx = up->tls ? l->snapshot->redis[up->index] : NULL,
		.verify_name = up->sslmode == SSLMODE_VERIFY_FULL,
		.user = up->user,
		.password = up->password,
	};
	const struct slice arg[] = { slice_str("CLUSTER"), slice_str("NODES") };
	char why[REDIS_ASK_ERROR_MAX] = "not of a cluster that has slots";

	if (redis_ask(&ask, arg, 2, &l->answer, why) == 0) {
		if (is_answer(&l->answer))
			return true;
		buf_free(&l->answer);
		snprintf(why, sizeof(why), "not of a cluster that has slots");
	}
	snprintf(l->error, sizeof(l->error), "cluster node %.100s:%u: %s",
		 h->name, h->port, why);
	return false;
}

static void
learn_work(struct job *job)
{
	struct redis_nodes_learn *l = (struct redis_nodes_learn *)(void *)job;

	while (l->at < l->n && !learn_from(l, &l->ask[l->at]))
		l->at++;
}

/* Who still has to do with those that are not listed any more is told. */
static void
nodes_tell_gone(struct redis_nodes *all)
{
	for (unsigned i = 0; i < all->n; i++) {
		struct redis_nodes_use *next, *use = all->node[i]->uses;

		if (redis_nodes_lists(all, (int)i))
			continue;
		for (; use != NULL; use = next) {
			next = use->next;
			use->gone(use);
		}
	}
}

static void
nodes_learnt(struct redis_nodes *all, const struct redis_nodes_learn *l)
{
	static_assert(sizeof(all->slot) == 32 << 10, "on the stack");
	uint16_t slot[REDIS_SLOTS] = { 0 };

	for (unsigned i = 0; i < all->n; i++)
		all->node[i]->heard = REDIS_UNHEARD;
	if (nodes_take(all, slot, &l->answer, slice_str(l->ask[l->at].name),
		       l->redis->tls) != 0) {
		snprintf(all->error, sizeof(all->error),
			 "cluster node %.100s:%u: no list of nodes",
			 l->ask[l->at].name, l->ask[l->at].port);
		return;
	}
	for (unsigned i = 0; i < all->n; i++) {
		all->node[i]->member = all->node[i]->heard == REDIS_MASTER;
		all->node[i]->replica = all->node[i]->heard == REDIS_REPLICA;
	}
	all->error[0] = '\0';
	nodes_tell_gone(all);
	if (all->known && memcmp(all->slot, slot, sizeof(slot)) == 0)
		return;
	memcpy(all->slot, slot, sizeof(slot));
	all->known = true;
	all->version++;
	all->rest_ns = 0;
}

static void
nodes_wake(struct redis_nodes *all)
{
	struct redis_nodes_wait *w;

	while ((w = all->waiting) != NULL) {
		redis_nodes_unwait(w);
		w->over(w);
	}
}

static void
learn_done(struct job *job, void *owner)
{
	struct redis_nodes_learn *l = (struct redis_nodes_learn *)(void *)job;
	struct redis_nodes *all = l->all;

	(void)owner;
	all->home->jobs--;
	all->learn = NULL;
	all->learnt_ns = all->home->streams->now_ns;
	all->rest_ns = all->rest_ns ? 2 * all->rest_ns : REDIS_NODES_FIRST_NS;
	if (all->rest_ns > REDIS_NODES_MOST_NS)
		all->rest_ns = REDIS_NODES_MOST_NS;
	if (l->at < l->n)
		nodes_learnt(all, l);
	else
		snprintf(all->error, sizeof(all->error), "%s", l->error);
	if (all->rest_ns == 0)
		all->rest_ns = REDIS_NODES_FIRST_NS;
	for (unsigned i = 0; i < l->n; i++)
		free(l->ask[i].name);
	buf_free(&l->answer);
	snapshot_unref(&l->snapshot);
	free(l);
	nodes_wake(all);
}

static void
learn_add(struct redis_nodes_learn *l, const char *name, unsigned port)
{
	l->ask[l->n++] = (struct conf_host){ mem_copy(name), port };
}

/* Each time others first, so that one which does not answer, or does not know
 * the latest, is not asked for ever. */
static void
nodes_learn(struct redis_nodes *all)
{
	struct redis_nodes_learn *l = mem_zero(1, sizeof(*l), "a question");
	const struct conf_redis *up = all->redis;

	l->all = all;
	l->snapshot = snapshot_ref(all->snapshot);
	l->redis = up;
	for (unsigned i = 0; i < all->n && l->n < KNOWN_MAX; i++) {
		const struct redis_node *node =
		    all->node[(all->turn + i) % all->n];

		if (node->member)
			learn_add(l, node->name, node->port);
	}
	for (unsigned i = 0; i < up->hosts_n; i++) {
		size_t k = (all->turn + i) % up->hosts_n;

		learn_add(l, up->hosts[k].name, up->hosts[k].port);
	}
	all->turn++;
	all->learn = l;
	all->home->jobs++;
	buf_init(&l->answer, REDIS_ASK_MAX);
	offload_run(all->home->dns, &l->job, all->home->mailbox, learn_work,
		    learn_done);
}

static void
nodes_timer(struct wheel_entry *e)
{
	struct redis_nodes *all =
	    (struct redis_nodes *)(void *)((char *)e -
					   offsetof(struct redis_nodes, timer));

	if (all->home->closing)
		nodes_wake(all);
	else if (all->learn == NULL)
		nodes_learn(all);
}

bool
redis_nodes_is_fresh(struct redis_nodes *all)
{
	if (all->home->closing ||
	    all->home->streams->now_ns < all->learnt_ns + REDIS_NODES_FRESH_NS)
		return true;
	if (all->learn == NULL)
		nodes_learn(all);
	return false;
}

void
redis_nodes_doubt(struct redis_nodes *all)
{
	struct streams *home = all->home->streams;

	if (all->learn != NULL || all->home->closing)
		return;
	if (home->now_ns >= all->learnt_ns + all->rest_ns)
		nodes_learn(all);
	else
		wheel_set(&home->wheel, &all->timer,
			  all->learnt_ns + all->rest_ns);
}

void
redis_nodes_wait(struct redis_nodes *all, struct redis_nodes_wait *w)
{
	if (w->prev != NULL)
		return;
	w->next = all->waiting;
	w->prev = &all->waiting;
	if (w->next != NULL)
		w->next->prev = &w->next;
	all->waiting = w;
}

void
redis_nodes_unwait(struct redis_nodes_wait *w)
{
	if (w->prev == NULL)
		return;
	*w->prev = w->next;
	if (w->next != NULL)
		w->next->prev = w->prev;
	w->next = NULL;
	w->prev = NULL;
}

/* ---- asking ------------------------------------------------------------------ */

/* Without a key it is any, but the same as long as there is no reason. */
int
redis_nodes_at(const struct redis_nodes *all, int slot)
{
	if (slot >= 0 && all->slot[slot] != 0)
		return all->slot[slot] - 1;
	for (unsigned i = 0; i < all->n; i++)
		if (all->node[i]->member)
			return (int)i;
	return REDIS_NODES_NOBODY;
}

/* One that has gone may have been called the same. */
int
redis_nodes_called(const struct redis_nodes *all, const struct redis_place *at)
{
	for (unsigned i = 0; i < all->n; i++)
		if (all->node[i]->member &&
		    node_is(all->node[i], at->name, at->port))
			return (int)i;
	return REDIS_NODES_NOBODY;
}

bool
redis_nodes_know(const struct redis_nodes *all, const struct redis_place *at)
{
	for (unsigned i = 0; i < all->n; i++)
		if (redis_nodes_lists(all, (int)i) &&
		    node_is(all->node[i], at->name, at->port))
			return true;
	return false;
}

void
redis_nodes_use(struct redis_nodes *all, int node, struct redis_nodes_use *use)
{
	struct redis_nodes_use **at = &all->node[node]->uses;

	assert(use->prev == NULL);
	use->next = *at;
	use->prev = at;
	if (use->next != NULL)
		use->next->prev = &use->next;
	*at = use;
}

void
redis_nodes_unuse(struct redis_nodes_use *use)
{
	if (use->prev == NULL)
		return;
	*use->prev = use->next;
	if (use->next != NULL)
		use->next->prev = use->prev;
	use->next = NULL;
	use->prev = NULL;
}

struct pool *
redis_nodes_pool(const struct redis_nodes *all, int node, struct snapshot *snap,
		 const struct conf_redis *up, const char *user,
		 const char *password, int resp, bool lends)
{
	const struct redis_node *at = all->node[node];

	return pool_find_redis_node(all->home, snap, up, user, password, resp,
				    lends, at->name, at->port);
}

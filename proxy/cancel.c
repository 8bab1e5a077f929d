#include "proxy/cancel.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"
#include "proxy/pg_session.h"
#include "proxy/worker.h"

enum { BUCKETS_FIRST = 64, WORKER_SHIFT = 24, DIALOGUE_MAX = 256 };

#define CANCEL_LATER_NS (1000000ull) /* ask again whether it may go */
/* The backend has most surely done by then what of ours it was sent, though it
 * tells only with the statement behind it. */
#define CANCEL_OURS_NS (100ull * 1000000)
#define CANCEL_NS      (10ull * 1000000000) /* PgBouncer's cancel_wait_timeout */

struct entry {
	struct entry *chain;
	struct session *session;
	struct cancel_key key;
};

/* Goes to the worker that gave the key out, and back. */
struct cancel_request {
	struct message message;
	struct cancel_key key;
	struct weir *weir;
	unsigned from;
	struct session
	    *session; /* NULL: forgotten; only its own worker looks */
	_Atomic bool forgotten;
};

/* One connection to an upstream that carries one CancelRequest. */
struct cancel {
	struct stream stream;
	struct worker *worker;
	struct cancel_request *request; /* NULL: nobody's, of cancel_stop() */
	struct server *server; /* kept from the pool by its `cancels` */
	struct cancel *next, **prev;
	uint64_t until_ns;
	bool tls;
	bool asked_tls;
	bool ready; /* may be sent */
	bool sent;
};

struct cancels {
	struct entry **bucket;
	size_t buckets, n;
	struct cancel *active;
	struct cancel *dead;
	unsigned active_n;
};

struct cancels *
cancels_open(void)
{
	return calloc(1, sizeof(struct cancels));
}

void
cancels_close(struct cancels **at)
{
	assert((*at)->n == 0 && (*at)->active == NULL);
	free((*at)->bucket);
	free(*at);
	*at = NULL;
}

/* ---- keys ------------------------------------------------------------- */

static struct entry **
find(struct cancels *all, struct cancel_key key)
{
	struct entry **at = &all->bucket[key.pid & (all->buckets - 1)];

	while (*at != NULL && ((*at)->key.pid != key.pid ||
			       CRYPTO_memcmp(&(*at)->key.secret, &key.secret,
					     sizeof(key.secret)) != 0))
		at = &(*at)->chain;
	return at;
}

static void
grow(struct cancels *all)
{
	size_t buckets = all->buckets ? all->buckets * 2 : BUCKETS_FIRST;
	struct entry **bucket = calloc(buckets, sizeof(*bucket));

	if (bucket == NULL)
		abort();
	for (size_t i = 0; i < all->buckets; i++) {
		struct entry *e;

		while ((e = all->bucket[i]) != NULL) {
			struct entry **at = &bucket[e->key.pid & (buckets - 1)];

			all->bucket[i] = e->chain;
			e->chain = *at;
			*at = e;
		}
	}
	free(all->bucket);
	all->bucket = bucket;
	all->buckets = buckets;
}

struct cancel_key
cancel_give_key(struct worker *w, struct session *s)
{
	struct cancels *all = w->cancels;
	struct entry *e = calloc(1, sizeof(*e));

	if (e == NULL || RAND_bytes((uint8_t *)&e->key, sizeof(e->key)) != 1)
		abort();
	/* The rest of the pid is random too: 56 bits to guess in all. */
	e->key.pid &= (1u << WORKER_SHIFT) - 1;
	e->key.pid |= w->id << WORKER_SHIFT | 1;
	e->session = s;
	if (all->n >= all->buckets)
		grow(all);
	e->chain = all->bucket[e->key.pid & (all->buckets - 1)];
	all->bucket[e->key.pid & (all->buckets - 1)] = e;
	all->n++;
	return e->key;
}

void
cancel_drop_key(struct worker *w, struct cancel_key key)
{
	struct entry **at = find(w->cancels, key), *e = *at;

	assert(e != NULL);
	*at = e->chain;
	w->cancels->n--;
	free(e);
}

/* ---- the way back ----------------------------------------------------- */

static void
request_is_back(struct message *m, void *owner)
{
	struct cancel_request *r = (struct cancel_request *)(void *)m;

	(void)owner;
	if (r->session != NULL) {
		pg_session(r->session)->cancels = NULL;
		session_close(r->session, WHY_CANCEL, NULL, NULL);
	}
	free(r);
}

/* A session that has not forgotten it keeps its worker there. */
static void
request_end(struct cancel_request *r)
{
	if (atomic_load(&r->forgotten)) {
		free(r);
		return;
	}
	r->message.run = request_is_back;
	mailbox_post(r->weir->mailboxes[r->from], &r->message);
}

void
cancel_forget(struct cancel_request *r)
{
	r->session = NULL;
	atomic_store(&r->forgotten, true);
}

/* ---- forwarding ------------------------------------------------------- */

/* The struct lives to the end of the turn: its stream may be on a list. */
static void
cancel_end(struct cancel *c)
{
	struct cancels *all = c->worker->cancels;

	if (c->server == NULL)
		return;
	stream_close(&c->stream);
	if (c->request != NULL)
		request_end(c->request);
	c->request = NULL;
	assert(c->server->cancels > 0);
	c->server->cancels--;
	if (c->server->state != SERVER_DEAD)
		pool_touch(c->server->pool);
	c->server = NULL;
	*c->prev = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	all->active_n--;
	c->next = all->dead;
	all->dead = c;
}

void
cancels_reap(struct worker *w)
{
	struct cancel *c;

	while ((c = w->cancels->dead) != NULL) {
		w->cancels->dead = c->next;
		free(c);
	}
}

void
cancels_abort(struct worker *w)
{
	while (w->cancels->active != NULL)
		cancel_end(w->cancels->active);
}

/* Its server is gone, and that is not what it was sent for. */
static bool
is_lost(const struct cancel *c)
{
	return c->server->state == SERVER_DEAD;
}

static bool
is_pointless(const struct cancel *c)
{
	return is_lost(c) && c->request != NULL;
}

/*
 * Never into what is ours: a server that refuses its settings or its BEGIN is
 * lost with its client.  The statement that was meant comes right behind.
 */
static void
cancel_send(struct cancel *c)
{
	struct pg_server *pg = pg_server(c->server);
	uint64_t now = c->worker->streams.now_ns;

	if (now >= c->until_ns) {
		cancel_end(c);
		return;
	}
	c->ready = true;
	if (!is_lost(c) && pg_server_preparing(c->server) &&
	    now < pg->prepared_ns + CANCEL_OURS_NS) {
		stream_deadline(&c->stream, now + CANCEL_LATER_NS);
		return;
	}
	stream_deadline(&c->stream, c->until_ns);
	c->sent = true;
	stats_add(&c->worker->stats, STAT_CANCELS, 1);
	if (pg_put(stream_out(&c->stream), 0, "iii", PG_CANCEL_REQUEST, pg->pid,
		   pg->key) != 0)
		abort();
}

static void
cancel_start_tls(struct cancel *c)
{
	const struct pool *p = c->server->pool;

	if (stream_start_tls(&c->stream,
			     p->snapshot->postgres[p->postgres->index], false,
			     c->server->host->name,
			     p->postgres->sslmode == SSLMODE_VERIFY_FULL) != 0)
		cancel_end(c);
}

static void
cancel_opened(struct cancel *c)
{
	const struct pool *p = c->server->pool;

	if (!c->tls || c->stream.ssl != NULL) {
		cancel_send(c);
		return;
	}
	if (p->postgres->sslnegotiation == SSLNEGOTIATION_DIRECT) {
		cancel_start_tls(c);
		return;
	}
	c->asked_tls = true;
	if (pg_put(stream_out(&c->stream), 0, "i", PG_SSL_REQUEST) != 0)
		abort();
}

static void
cancel_answer(struct cancel *c)
{
	size_t n;
	const uint8_t *bytes = stream_peek(&c->stream, &n);

	if (!c->asked_tls || n != 1 || bytes[0] != 'S' || is_pointless(c)) {
		cancel_end(c);
		return;
	}
	stream_consume(&c->stream, 1);
	c->asked_tls = false;
	cancel_start_tls(c);
}

static void
cancel_event(struct stream *st, enum stream_event e)
{
	struct cancel *c = (struct cancel *)(void *)st;

	if (c->server == NULL)
		return;
	switch (e) {
	case STREAM_OPEN:
		cancel_opened(c);
		break;
	case STREAM_DATA:
		cancel_answer(c);
		break;
	case STREAM_ROOM:
		break;
	case STREAM_TIMEOUT:
		if (c->ready && !c->sent && !is_pointless(c)) {
			cancel_send(c);
			break;
		}
		/* fall through */
	case STREAM_EOF:
	case STREAM_ERROR:
		cancel_end(c);
		break;
	}
}

/* To the very address the server's own connection goes to. */
static int
cancel_dial(struct worker *w, struct server *v, struct cancel_request *r)
{
	struct cancels *all = w->cancels;
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	struct cancel *c;

	if (all->active_n >= CANCELS_MAX ||
	    getpeername(v->stream.fd, (struct sockaddr *)&addr, &len) != 0)
		return -1;
	if ((c = calloc(1, sizeof(*c))) == NULL)
		abort();
	c->worker = w;
	if (stream_dial(&c->stream, &w->streams, (struct sockaddr *)&addr, len,
			cancel_event, 1024, STAT_BYTES_FROM_SERVERS,
			STAT_BYTES_TO_SERVERS) != 0) {
		free(c);
		return -1;
	}
	c->server = v;
	c->tls = v->stream.ssl != NULL;
	c->request = r;
	v->cancels++;
	c->next = all->active;
	c->prev = &all->active;
	if (c->next != NULL)
		c->next->prev = &c->next;
	all->active = c;
	all->active_n++;
	c->until_ns = w->streams.now_ns + CANCEL_NS;
	stream_deadline(&c->stream, c->until_ns);
	return 0;
}

void
cancel_stop(struct worker *w, struct server *v)
{
	if (v->state == SERVER_LEASED && v->ledger.n > 0)
		(void)!cancel_dial(w, v, NULL);
}

/* ---- requests --------------------------------------------------------- */

/* Only while the server owes its sender an answer; a walsender is his to its
 * end. */
static bool
may_be_cancelled(const struct server *v)
{
	return v->state == SERVER_LEASED &&
	       (v->ledger.n > 0 || v->pool->replication != NULL);
}

static void
request_arrives(struct message *m, void *owner)
{
	struct cancel_request *r = (struct cancel_request *)(void *)m;
	struct worker *w = owner;
	struct entry *e = NULL;
	struct server *v;

	if (w->cancels->buckets > 0)
		e = *find(w->cancels, r->key);
	if (e == NULL) {
		request_end(r);
		return;
	}
	v = e->session->lessee.server;
	LOG(w->weir->log, LOG_INFO, LOG_EV_CANCEL,
	    log_id("session", w->id, e->session->id),
	    log_str("state", session_state_name(e->session->state)));
	if (v != NULL && may_be_cancelled(v) && cancel_dial(w, v, r) == 0)
		return; /* ends with that connection */
	if (v == NULL && e->session->state == SESSION_WAIT &&
	    e->session->logged_in) {
		/* It waits for a server: its request ends here. */
		pool_unwant(&e->session->lessee);
		e->session->lessee.ops->lost(
		    &e->session->lessee, WHY_QUERY_TIMEOUT, "57014",
		    "canceling statement due to user request");
	}
	request_end(r);
}

struct cancel_request *
cancel_ask(struct session *s, struct cancel_key key)
{
	struct weir *weir = s->worker->weir;
	unsigned to = key.pid >> WORKER_SHIFT;
	struct cancel_request *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->message.run = to < weir->workers ? request_arrives : request_is_back;
	r->key = key;
	r->weir = weir;
	r->from = s->worker->id;
	r->session = s;
	if (to >= weir->workers)
		to = r->from; /* nobody's: just back to its sender */
	mailbox_post(weir->mailboxes[to], &r->message);
	return r;
}

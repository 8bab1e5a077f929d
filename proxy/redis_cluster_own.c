/*
 * redis_cluster_own: what a client of a cluster has of its own: a transaction in
 * pieces, watched keys, a command that blocks (redis_cluster.h).
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_nodes.h"
#include "protocol/redis_slot.h"
#include "proxy/redis_cluster.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

static_assert(REDIS_CLUSTER_QUEUE + 4 <= LEDGER_MAX - 64,
	      "it goes in one piece");

struct redis_cluster_own {
	struct redis_session *rs;

	/* MULTI and what was queued behind it. */
	struct buf queue;
	uint32_t *size, n; /* of each of n requests */
	int slot;
	bool crossed; /* not all are for that slot */
	bool heavy;
	bool spoiled;

	/* On the connection that watches. */
	int watched;    /* slot */
	bool importing; /* the node has it only for who is ASKING */
	bool changed;   /* EXEC is to say nil */
	uint32_t dumb;  /* so many replies are not told */
	bool ends;      /* the one behind them is EXEC's */
	char against[REDIS_CLUSTER_TEXT / 2];
	char text[REDIS_CLUSTER_TEXT + 4];

	/* The one command outstanding on a borrowed connection. */
	struct buf kept;
	unsigned kept_hold;
	bool midway; /* in the middle of a reply */
	int kept_slot;
	unsigned hops;
	enum redis_turn turn; /* it is to be sent again: */
	bool again;           /* its connection is given back */
	bool listens;         /* for news of the nodes, once */
	int to;               /* NOBODY: */
	char *name;           /* called so; NULL: to who has the slot */
	unsigned port;
	struct redis_nodes_wait wait;
};

static void
own_news(struct redis_nodes_wait *w)
{
	struct redis_cluster_own *own =
	    (struct redis_cluster_own *)(void *)((char *)w -
						 offsetof(
						     struct redis_cluster_own,
						     wait));

	session_wake(&own->rs->s);
}

static struct redis_cluster_own *
own_of(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;

	if (own != NULL)
		return own;
	own = mem_zero(1, sizeof(*own), "a transaction");
	own->rs = rs;
	own->wait.over = own_news;
	own->slot = own->watched = REDIS_SLOT_NONE;
	own->to = REDIS_NODES_NOBODY;
	buf_init(&own->queue, REDIS_OUT_MAX);
	buf_init(&own->kept, REDIS_OUT_MAX);
	rs->own = own;
	return own;
}

/* ---- a transaction in pieces ------------------------------------------------ */

static void
queue_put(struct redis_cluster_own *own, const struct slice *arg, size_t argc)
{
	size_t before = buf_len(&own->queue);

	if (resp_put_request(&own->queue, arg, argc) != 0)
		abort(); /* its limit is far above what is let in */
	own->size = mem_more(own->size, own->n, sizeof(*own->size));
	own->size[own->n++] = (uint32_t)(buf_len(&own->queue) - before);
}

static void
queue_forget(struct redis_cluster_own *own)
{
	buf_free(&own->queue);
	free(own->size);
	own->size = NULL;
	own->n = 0;
	own->slot = REDIS_SLOT_NONE;
	own->crossed = own->spoiled = own->heavy = false;
}

enum redis_did
redis_cluster_multi(struct redis_session *rs)
{
	const struct slice multi = slice_str("MULTI");
	struct redis_cluster_own *own = own_of(rs);

	assert(!(rs->hold & REDIS_IN_MULTI));
	/* What is there may have to be sent again, and is answered first. */
	if (rs->s.lessee.server != NULL && !redis_is_idle(rs))
		return REDIS_LATER;
	queue_forget(own);
	queue_put(own, &multi, 1);
	rs->hold |= REDIS_IN_MULTI;
	rs->began = rs->sent;
	rs->s.paid -= rs->s.paid > 0;
	return redis_said(rs, resp_put_simple(redis_say(rs), "OK"));
}

/* What is queued here is to run on a connection that others share: whoever asks
 * for it, nothing that changes the connection may be among it. */
static bool
stays_out(struct slice name)
{
	static const char *const out[] = {
		"asking",   "auth",       "client",    "hello",
		"monitor",  "psubscribe", "psync",     "quit",
		"readonly", "readwrite",  "replconf",  "reset",
		"select",   "ssubscribe", "subscribe", "sync"
	};

	for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++)
		if (slice_is_word(name, out[i]))
			return true;
	return false;
}

enum redis_did
redis_cluster_queue(struct redis_session *rs, const struct slice *arg,
		    size_t argc)
{
	struct redis_cluster_own *own = rs->own;
	int slot = redis_slot_of(arg, argc);

	if (stays_out(arg[0]))
		return redis_reject(rs, "ERR weir: not supported inside MULTI "
					"with cluster = on");
	if (own->n > REDIS_CLUSTER_QUEUE ||
	    buf_len(&own->queue) > REDIS_CLUSTER_QUEUED)
		return redis_reject(rs, "ERR weir: too large a transaction for "
					"cluster = on");
	queue_put(own, arg, argc);
	own->heavy |= rs->heavy;
	own->crossed |= slot >= 0 && own->slot >= 0 && slot != own->slot;
	if (own->slot < 0)
		own->slot = slot;
	rs->began--; /* so many more than were sent */
	rs->s.paid -= rs->s.paid > 0;
	return redis_said(rs, resp_put_simple(redis_say(rs), "QUEUED"));
}

void
redis_cluster_spoil(struct redis_session *rs)
{
	rs->own->spoiled = true;
}

/* The transaction is over, and nothing is watched any more. */
static void
end(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;

	queue_forget(own);
	own->changed = false;
	own->watched = REDIS_SLOT_NONE;
	rs->hold &= ~(unsigned)(REDIS_IN_MULTI | REDIS_WATCHES);
}

/* The connection that watches still does, until it is reset. */
static void
end_here(struct redis_session *rs)
{
	rs->stained |= (rs->hold & REDIS_WATCHES) != 0;
	end(rs);
	session_wake(&rs->s);
}

enum redis_did
redis_cluster_discard(struct redis_session *rs)
{
	if ((rs->hold & REDIS_WATCHES) && !redis_is_idle(rs))
		return REDIS_LATER;
	end_here(rs);
	return redis_said(rs, resp_put_simple(redis_say(rs), "OK"));
}

static enum redis_did
exec_fails(struct redis_session *rs, const char *text)
{
	end_here(rs);
	return redis_say_error(rs, text);
}

/* On the connection that watches; of the replies only EXEC's is told. */
static enum redis_did
exec_watched(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;
	struct server *v = rs->s.lessee.server;
	struct slice bytes = { 0 };
	size_t n;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	assert(v != NULL && !redis_server_full(v, &rs->s.lessee));
	rs->via = v;
	redis_cluster_leads(rs, v);
	bytes.p = buf_peek(&own->queue, &n);
	for (uint32_t i = 0; i < own->n; i++) {
		bytes.n = own->size[i];
		rs->last = redis_server_pass(v, &rs->s.lessee, bytes);
		redis_server_mark(v, rs->last);
		bytes.p += bytes.n;
	}
	redis_server_judge(v, rs->last);
	rs->sent++;
	rs->since_ns = rs->s.worker->streams.now_ns;
	stats_add(&rs->s.worker->stats, STAT_COMMANDS, own->n);
	own->dumb = own->n - 1;
	own->ends = true;
	own->against[0] = '\0';
	own->kept_slot = own->watched;
	end(rs);
	return REDIS_DONE;
}

static enum redis_did
exec_shared(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;
	struct buf requests = own->queue;
	uint32_t *size = own->size;
	enum redis_did did;

	rs->via = NULL;
	if (!redis_cluster_may_send(rs, &did)) {
		if (did == REDIS_DONE) /* it was told why not */
			end(rs);
		return did;
	}
	buf_init(&own->queue, REDIS_OUT_MAX);
	own->size = NULL;
	rs->heavy |= own->heavy;
	redis_cluster_launch(rs, &requests, size, own->n, own->slot);
	end(rs);
	return REDIS_DONE;
}

enum redis_did
redis_cluster_exec(struct redis_session *rs, size_t argc)
{
	const struct slice exec = slice_str("EXEC");
	struct redis_cluster_own *own = rs->own;
	enum redis_did did;

	if (argc != 1)
		return exec_fails(rs, "EXECABORT Transaction discarded because "
				      "of: wrong number of arguments for "
				      "'exec' command");
	if (own->spoiled)
		return exec_fails(rs, "EXECABORT Transaction discarded because "
				      "of previous errors.");
	if (own->crossed)
		return exec_fails(rs, "CROSSSLOT Keys in request don't hash to "
				      "the same slot");
	if (own->changed) {
		end_here(rs);
		return redis_said(rs, rs->resp == 2
					  ? buf_put(redis_say(rs), "*-1\r\n", 5)
					  : resp_put_null(redis_say(rs), 3));
	}
	if (own->n == 1 && !(rs->hold & REDIS_WATCHES)) {
		end(rs);
		return redis_said(rs, resp_put_array(redis_say(rs), 0));
	}
	queue_put(own, &exec, 1);
	did = rs->hold & REDIS_WATCHES ? exec_watched(rs) : exec_shared(rs);
	if (did == REDIS_LATER) { /* it comes again, with its EXEC */
		own->n--;
		buf_truncate(&own->queue,
			     buf_len(&own->queue) - own->size[own->n]);
	}
	return did;
}

/* ---- on a borrowed connection ------------------------------------------------ */

void
redis_cluster_leads(struct redis_session *rs, struct server *v)
{
	const struct slice asking = slice_str("ASKING");
	struct redis_cluster_own *own = own_of(rs);

	if (own->again)
		own->importing = own->turn == REDIS_ASK;
	else if (!(rs->hold & REDIS_WATCHES))
		own->importing = false;
	if (own->importing)
		redis_server_slip(v, &asking, 1);
}

void
redis_cluster_keep(struct redis_session *rs, const struct slice *arg,
		   size_t argc, unsigned hold)
{
	struct redis_cluster_own *own = rs->own;

	own->turn = REDIS_STAYS;
	own->kept_slot = redis_slot_of(arg, argc);
	if (own->again)
		return;
	own->hops = 0;
	own->kept_hold = hold;
	if (resp_put_request(&own->kept, arg, argc) != 0)
		abort();
}

static void
forget_kept(struct redis_cluster_own *own)
{
	buf_free(&own->kept);
	free(own->name);
	own->name = NULL;
	own->again = own->listens = false;
	own->turn = REDIS_STAYS;
	redis_nodes_unwait(&own->wait);
}

/* Nothing has happened, and nothing is left where it was: it may be sent again. */
static bool
may_return(const struct redis_cluster_own *own)
{
	return own->kept_slot >= 0 && (own->kept_hold == REDIS_WATCHES
					   ? own->watched == REDIS_SLOT_NONE
					   : own->rs->hold == 0);
}

/* A master that has become a replica says so to all who wait there. */
static bool
was_thrown_out(const uint8_t *p, size_t n)
{
	static const char text[] = "-UNBLOCKED force unblock from blocking "
				   "operation, instance state changed";

	return n > sizeof(text) && p[n - 1] == '\n' &&
	       memcmp(p, text, sizeof(text) - 1) == 0;
}

static void
turn_to(struct redis_cluster_own *own, enum redis_turn turn,
	const struct redis_place *at)
{
	const struct server *v = own->rs->via;
	struct slice name = at->name;

	own->turn = turn;
	own->listens = false;
	free(own->name);
	own->name = NULL;
	own->port = at->port;
	if (at->port == 0)
		return;
	if (name.n == 0) /* where it was said */
		name = slice_str(v->pool->node);
	own->name = mem_text((const char *)name.p, name.n);
}

/* What it says in another's name, in ours; own->text holds it. */
static void
say_instead(struct redis_cluster_own *own, const char *text, const uint8_t **p,
	    size_t *n)
{
	*n = (size_t)snprintf(own->text, sizeof(own->text), "%s\r\n", text);
	*p = (const uint8_t *)own->text;
}

/* The slot of a watched key is gone, and the key with it. */
static void
hear_exec(struct redis_cluster_own *own, const uint8_t **p, size_t *n)
{
	char line[REDIS_CLUSTER_TEXT];
	struct redis_place at;
	struct slice against = slice_of(own->against + 1, 0);
	const char *text;
	unsigned slot;

	if (own->against[0] != '\0')
		against.n = strlen(own->against) - 3;
	if ((redis_where_turn((const uint8_t *)own->against,
			      strlen(own->against), &slot,
			      &at) != REDIS_STAYS ||
	     redis_where_turn(*p, *n, &slot, &at) != REDIS_STAYS) &&
	    slot == (unsigned)own->kept_slot) {
		say_instead(own, own->rs->resp == 2 ? "*-1" : "_", p, n);
		return;
	}
	line[0] = '-';
	text = redis_cluster_exec_text(slice_of(*p, *n), against, line + 1,
				       sizeof(line) - 1);
	if (text == NULL)
		return;
	if (text != line + 1)
		snprintf(line + 1, sizeof(line) - 1, "%s", text);
	say_instead(own, line, p, n);
}

/* The first word against what was queued. */
static void
hear_queued(struct redis_cluster_own *own, const uint8_t *p, size_t n)
{
	int most = (int)sizeof(own->against) - 3;

	if (p[0] == '-' && own->against[0] == '\0' && n > 2)
		snprintf(own->against, sizeof(own->against), "%.*s\r\n",
			 n - 2 < (size_t)most ? (int)n - 2 : most,
			 (const char *)p);
}

/* A redirect of a command that cannot be sent again. */
static void
hear_turn(struct redis_cluster_own *own, unsigned slot, const uint8_t **p,
	  size_t *n)
{
	if (!(own->rs->hold & REDIS_WATCHES))
		return;
	if (slot != (unsigned)own->watched) {
		say_instead(own,
			    "-CROSSSLOT Keys in request don't hash to the same "
			    "slot",
			    p, n);
	} else if (own->kept_hold == REDIS_WATCHES) {
		own->changed = true;
		say_instead(own, "+OK", p, n);
	} else {
		own->changed = true;
		say_instead(own,
			    "-TRYAGAIN weir: the slot has moved to another "
			    "node",
			    p, n);
	}
}

bool
redis_cluster_hears(struct redis_session *rs, const uint8_t **p, size_t *n)
{
	const struct redis_place nowhere = { 0 };
	struct redis_cluster_own *own = rs->own;
	struct redis_place at;
	enum redis_turn turn;
	unsigned slot;

	if (own == NULL)
		return true;
	if (own->midway)
		return own->dumb == 0;
	own->midway = true;
	if (own->dumb > 0) {
		hear_queued(own, *p, *n);
		return false;
	}
	if (**p != '-')
		return true;
	if (own->ends) {
		hear_exec(own, p, n);
		return true;
	}
	if (was_thrown_out(*p, *n) && may_return(own)) {
		turn_to(own, REDIS_MOVED, &nowhere);
		return false;
	}
	turn = redis_where_turn(*p, *n, &slot, &at);
	if (turn == REDIS_STAYS)
		return true;
	redis_nodes_doubt(redis_cluster_nodes(rs));
	if (!may_return(own) || slot != (unsigned)own->kept_slot) {
		hear_turn(own, slot, p, n);
		return true;
	}
	turn_to(own, turn, &at);
	return false;
}

bool
redis_cluster_settles(struct redis_session *rs, bool answered)
{
	struct redis_cluster_own *own = rs->own;

	if (own == NULL)
		return false;
	own->midway = false;
	if (own->dumb > 0) {
		own->dumb--;
		return true;
	}
	own->ends = false;
	if (!answered || own->turn == REDIS_STAYS) {
		if (answered && own->kept_hold == REDIS_WATCHES &&
		    own->watched == REDIS_SLOT_NONE && buf_len(&own->kept) > 0)
			own->watched = own->kept_slot;
		forget_kept(own);
		return false;
	}
	/* As if it had not been sent. */
	rs->sent--;
	rs->blocked = false;
	rs->hold &= ~own->kept_hold;
	seat_pay_back(&rs->s);
	own->again = true;
	session_wake(&rs->s);
	return true;
}

/* ---- again ------------------------------------------------------------------- */

bool
redis_cluster_returns(const struct redis_session *rs)
{
	return rs->own != NULL && rs->own->again;
}

int
redis_cluster_again_at(const struct redis_session *rs)
{
	return redis_cluster_returns(rs) ? rs->own->to : REDIS_NODES_NOBODY;
}

/* Where to?  LATER: it must hear of the nodes first. */
static enum redis_did
again_find(struct redis_cluster_own *own, struct redis_nodes *all)
{
	const struct redis_place at = { .name = own->name ? slice_str(own->name)
							  : slice_str(""),
					.port = own->port };

	own->to = REDIS_NODES_NOBODY;
	if (own->name != NULL)
		own->to = redis_nodes_called(all, &at);
	else if (own->listens) /* not before the news */
		own->to = redis_nodes_at(all, own->kept_slot);
	if (own->to != REDIS_NODES_NOBODY || own->wait.prev != NULL)
		return own->to != REDIS_NODES_NOBODY ? REDIS_DONE : REDIS_LATER;
	if (own->listens)
		return REDIS_DONE;
	own->listens = true;
	redis_nodes_doubt(all);
	redis_nodes_wait(all, &own->wait);
	return REDIS_LATER;
}

/* The one that was sent, and is not outstanding now, ends. */
static void
again_ends(struct redis_session *rs)
{
	forget_kept(rs->own);
	if (session_is_over(&rs->s))
		return;
	rs->sent++;
	redis_answered(rs, 1);
}

static enum redis_did
again_fails(struct redis_session *rs, const char *text)
{
	redis_say_error(rs, text);
	again_ends(rs);
	return REDIS_DONE;
}

enum redis_did
redis_cluster_again(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;
	struct resp_request r = { 0 };
	uint64_t sent = rs->sent;
	enum redis_did did;
	const uint8_t *p;
	size_t n;

	assert(redis_is_idle(rs) && own->again);
	if (rs->down == 0) {
		if (own->turn != REDIS_STAYS && own->hops > REDIS_CLUSTER_HOPS)
			return again_fails(
			    rs, "ERR weir: too many redirects of the cluster");
		if (again_find(own, redis_cluster_nodes(rs)) == REDIS_LATER)
			return REDIS_LATER;
		if (own->to == REDIS_NODES_NOBODY)
			return again_fails(rs, "ERR weir: redirected to a node "
					       "that is not listed");
	}
	p = buf_peek(&own->kept, &n);
	if (resp_request_next(&r, p, n, true, REDIS_OUT_MAX) <= 0)
		abort(); /* it was written here */
	did = redis_own_again(rs, r.arg, r.argc, own->kept_hold);
	resp_request_free(&r);
	if (did == REDIS_LATER || session_is_over(&rs->s))
		return did;
	if (rs->sent == sent) {
		again_ends(rs); /* it was told why */
		return did;
	}
	own->hops++;
	own->again = false;
	return did;
}

/* ---- life ---------------------------------------------------------------------- */

void
redis_cluster_own_part(struct redis_session *rs)
{
	if (rs->own != NULL)
		redis_nodes_unwait(&rs->own->wait);
}

void
redis_cluster_own_fini(struct redis_session *rs)
{
	struct redis_cluster_own *own = rs->own;

	if (own == NULL)
		return;
	queue_forget(own);
	forget_kept(own);
	free(own);
	rs->own = NULL;
}

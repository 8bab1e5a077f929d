#include "proxy/redis_cluster.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_nodes.h"
#include "protocol/redis_gather.h"
#include "protocol/redis_slot.h"
#include "proxy/redis_pubsub.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

struct for_all;
struct leg;

/* Requests that are answered one after the other: one, or a transaction. */
struct ask {
	struct ask *next;   /* in the client's order */
	struct ask *behind; /* at its leg, or among the lost */
	int slot;
	uint32_t n, got;      /* requests in it, replies to them */
	uint32_t owes;        /* how many its client waits for; 0: a copy */
	unsigned hops;        /* so many redirects */
	enum redis_turn turn; /* of this try */
	char *name;           /* to who is called so */
	unsigned port;
	bool whole;   /* nothing of it is told before its end */
	bool queued;  /* and then only the last */
	bool several; /* the last of several that are told as one: */
	const struct for_all *all;
	int scans; /* SCAN of the node with this first slot; -1: it is none */
	uint8_t scans_name;
	bool asking; /* ASKING goes in front */
	bool heavy;  /* not before what others are quick to ask */
	bool
	    apart; /* on a connection that is lent: alone, and nothing behind it */
	bool pings;         /* PING goes in front */
	uint64_t before_ns; /* only over a connection made before; 0: any */
	bool midway;        /* in the middle of a reply */
	bool broken;        /* one will not come */
	bool done;
	size_t last_at; /* where its last reply begins in: */
	struct buf reply;
	struct buf request;
	uint32_t *size; /* of each of several requests */
};

/* What one node is asked for one client. */
struct leg {
	struct leg *next;
	struct lessee lessee;
	struct redis_cluster *of;
	int node;
	struct redis_nodes_use use; /* of it */
	bool lends; /* its connection is its own, until it is given back */
	struct pool *pool;  /* joined */
	struct server *via; /* where `sent` are, or in whose queue it is */
	struct ask *sent, **sent_tail; /* oldest first */
	struct ask *todo, **todo_tail;
};

struct redis_cluster {
	struct redis_session *rs;
	struct redis_nodes *nodes;
	struct redis_nodes_wait wait; /* for news of them */
	struct leg *legs;
	struct ask *head, **tail;      /* outstanding, oldest first */
	struct ask *lost, **lost_tail; /* these, until the nodes are known */
	unsigned version;              /* of the slots by which they went */
	unsigned turned;               /* so many were redirected */
	size_t kept, ahead;            /* bytes of requests; of replies */
	struct redis_gather gather;    /* what several nodes said to one */
	uint32_t chance;
	bool undone; /* what was for an older connection than there is */
	struct server *slow;  /* it waits for our client to read, */
	struct leg *slow_leg; /* by this */
	size_t slow_left;
};

static const struct lessee_ops leg_ops;

static struct leg *
leg_of(struct lessee *l)
{
	return (struct leg *)(void *)((char *)l - offsetof(struct leg, lessee));
}

static bool
is_over(const struct redis_cluster *cl)
{
	return session_is_over(&cl->rs->s);
}

/* ---- asks -------------------------------------------------------------------- */

static struct ask *
ask_new(struct redis_cluster *cl, int slot)
{
	struct buf_spare *spare = &cl->rs->s.worker->streams.spare;
	struct ask *a = mem_zero(1, sizeof(*a), "a command");

	a->slot = slot;
	a->owes = 1;
	a->scans = REDIS_SLOT_NONE;
	buf_init(&a->request, REDIS_OUT_MAX);
	buf_init(&a->reply, REDIS_OUT_MAX);
	a->request.spare = a->reply.spare = spare;
	return a;
}

static void
ask_free(struct redis_cluster *cl, struct ask *a)
{
	cl->kept -= buf_len(&a->request);
	cl->ahead -= buf_len(&a->reply);
	buf_free(&a->request);
	buf_free(&a->reply);
	free(a->name);
	free(a->size);
	free(a);
}

static void
ask_put(struct redis_cluster *cl, struct ask *a, const struct slice *arg,
	size_t argc)
{
	size_t before = buf_len(&a->request), size;

	if (resp_put_request(&a->request, arg, argc) != 0)
		abort(); /* a request is smaller than REDIS_OUT_MAX */
	size = buf_len(&a->request) - before;
	cl->kept += size;
	a->size = mem_more(a->size, a->n, sizeof(*a->size));
	a->size[a->n++] = (uint32_t)size;
}

/* What it has heard so far does not count. */
static void
ask_forget(struct redis_cluster *cl, struct ask *a)
{
	cl->ahead -= buf_len(&a->reply);
	buf_free(&a->reply);
	a->got = 0;
	a->midway = a->broken = a->asking = false;
	a->turn = REDIS_STAYS;
	free(a->name);
	a->name = NULL;
}

/* It ends with this error; of a transaction each command does. */
static void
ask_fail(struct redis_cluster *cl, struct ask *a, const char *text)
{
	char line[POOL_ERROR_MAX + 64];

	snprintf(line, sizeof(line), "ERR weir: %s", text);
	ask_forget(cl, a);
	for (uint32_t i = 0; i < (a->owes > 0 ? a->owes : 1); i++)
		if (resp_put_error(&a->reply, line) != 0)
			abort();
	cl->ahead += buf_len(&a->reply);
	a->done = true;
}

static void
push(struct ask ***tail, struct ask *a)
{
	a->behind = NULL;
	**tail = a;
	*tail = &a->behind;
}

static struct ask *
pull(struct ask **head, struct ask ***tail)
{
	struct ask *a = *head;

	if (a != NULL && (*head = a->behind) == NULL)
		*tail = head;
	return a;
}

/* Of a transaction that was queued here: what was said before it, of MULTI and
 * the like, was told already. */
static void
ask_cut(struct redis_cluster *cl, struct ask *a)
{
	char line[REDIS_CLUSTER_TEXT];
	size_t n, at = 0;
	const uint8_t *p = buf_peek(&a->reply, &n), *end;
	struct slice against = { 0 };
	const char *text;

	cl->ahead -= n;
	while (at < a->last_at && against.n == 0) {
		end = memchr(p + at, '\r', n - at);
		if (p[at] == '-')
			against =
			    slice_of(p + at + 1, (size_t)(end - p) - at - 1);
		at = (size_t)(end - p) + 2;
	}
	text = redis_cluster_exec_text(slice_of(p + a->last_at, n - a->last_at),
				       against, line, sizeof(line));
	if (text == NULL) {
		buf_consume(&a->reply, a->last_at);
	} else {
		buf_free(&a->reply);
		if (resp_put_error(&a->reply, text) != 0)
			abort();
	}
	cl->ahead += buf_len(&a->reply);
}

/* ---- to the client ------------------------------------------------------------- */

/* May close it.  `leg`: whose server says it now, NULL: it was kept. */
static void
tell(struct redis_cluster *cl, struct leg *leg, const uint8_t *p, size_t n)
{
	struct redis_session *rs = cl->rs;
	struct session *s = &rs->s;

	rs->size += n;
	if (redis_caught(rs, p, n))
		return;
	if (rs->mute != REDIS_LOUD || n == 0)
		return;
	if (stream_put(&s->stream, p, n) != 0) {
		session_close(s, WHY_SLOW_READER, NULL, NULL);
		return;
	}
	rs->midway = true;
	rs->since_ns = s->worker->streams.now_ns; /* it comes */
	if (redis_pubsub_is_on(rs)) {
		redis_pubsub_is_slow(rs);
		return;
	}
	if (leg != NULL && cl->slow == NULL &&
	    buf_len(&s->stream.out) > REDIS_SLOW_MAX &&
	    redis_server_pause(leg->via, &leg->lessee)) {
		cl->slow = leg->via;
		cl->slow_leg = leg;
		cl->slow_left = buf_len(&s->stream.out);
	}
}

static void
tell_kept(struct redis_cluster *cl, struct ask *a)
{
	size_t n;
	const uint8_t *p = buf_peek(&a->reply, &n);

	cl->ahead -= n;
	tell(cl, NULL, p, n);
	if (!is_over(cl))
		buf_free(&a->reply);
}

static enum redis_gather_how how_of(const struct ask *);
static enum resp_channel shard_of(const struct ask *);

/* Of one of several: what it says goes with what the others say. */
static void
hear_copy(struct redis_cluster *cl, struct ask *a)
{
	size_t n, before = buf_len(&cl->gather.said);
	const uint8_t *p = buf_peek(&a->reply, &n);

	redis_gather_hear(&cl->gather, how_of(a), p, n,
			  ++cl->chance * 2654435761u >> 7);
	cl->ahead += buf_len(&cl->gather.said) - before;
}

/* The one that is answered for all of them. */
static void
hear_last(struct redis_cluster *cl, struct ask *a)
{
	hear_copy(cl, a);
	cl->ahead -= buf_len(&cl->gather.said) + buf_len(&a->reply);
	buf_free(&a->reply);
	if (redis_gather_tell(&cl->gather, how_of(a), &a->reply) != 0)
		abort(); /* REDIS_CLUSTER_AHEAD is far below its limit */
	if (how_of(a) == REDIS_GATHER_COUNTS)
		redis_pubsub_count_ours(cl->rs, shard_of(a), &a->reply);
	cl->ahead += buf_len(&a->reply);
}

/* ---- SCAN: one node after the other ---------------------------------------------- */

/* The first slot of the first node, in that order, behind this one; -1: none. */
static int
scan_next(const struct redis_nodes *all, int behind)
{
	bool before[REDIS_NODES_MAX + 1] = { true };

	for (int slot = 0; slot < REDIS_SLOTS; slot++) {
		if (slot > behind && !before[all->slot[slot]])
			return slot;
		before[all->slot[slot]] = true;
	}
	return REDIS_SLOT_NONE;
}

static uint8_t
scan_name(const struct redis_nodes *all, int slot)
{
	int i = redis_nodes_at(all, slot);

	return i < 0
		   ? 0
		   : redis_cursor_name(all->node[i]->name, all->node[i]->port);
}

/* What a node says of its cursor is told as one of ours. */
static void
scan_heard(struct redis_cluster *cl, struct ask *a)
{
	struct redis_cursor c = { .slot = (unsigned)a->scans,
				  .name = a->scans_name };
	char text[REDIS_CURSOR_MAX] = "0";
	struct slice rest;
	struct buf told;
	size_t n;
	const uint8_t *p = buf_peek(&a->reply, &n);
	int next = a->scans, bad;

	if (!redis_cursor_of(p, n, &c.of_node, &rest))
		return; /* an error */
	if (c.of_node == 0) {
		next = scan_next(cl->nodes, a->scans);
		c.slot = next < 0 ? 0 : (unsigned)next;
		c.name = next < 0 ? 0 : scan_name(cl->nodes, next);
	}
	buf_init(&told, REDIS_OUT_MAX);
	if (next >= 0 && !redis_cursor_text(&c, text)) {
		bad = resp_put_error(&told, "ERR weir: too large a cursor");
	} else {
		bad = resp_put_array(&told, 2);
		bad |= resp_put_bulk(&told, text, strlen(text));
		bad |= buf_put(&told, rest.p, rest.n);
	}
	if (bad)
		abort(); /* as above */
	cl->ahead += buf_len(&told) - n;
	buf_free(&a->reply);
	a->reply = told;
}

/* All whose turn it is.  May close the session, and `cl` has nothing then. */
static void
deliver(struct redis_cluster *cl)
{
	struct ask *a;

	while ((a = cl->head) != NULL) {
		if (a->owes == 0 && a->done)
			hear_copy(cl, a);
		else if (a->done && a->several)
			hear_last(cl, a);
		else if (a->done && a->scans >= 0)
			scan_heard(cl, a);
		if (a->owes > 0 && (a->done || !a->whole)) {
			tell_kept(cl, a);
			if (is_over(cl))
				return;
		}
		if (!a->done)
			return;
		if ((cl->head = a->next) == NULL)
			cl->tail = &cl->head;
		cl->turned -= a->hops > 0;
		if (a->owes > 0)
			redis_answered(cl->rs, a->owes);
		if (is_over(cl)) {
			a->next = cl->head; /* it goes with the others */
			cl->head = a;
			return;
		}
		ask_free(cl, a);
	}
}

/* ---- sending --------------------------------------------------------------------- */

static void
leg_put(struct leg *leg)
{
	const struct slice asking = slice_str("ASKING");
	const struct slice ping = slice_str("PING");
	struct ask *a = pull(&leg->todo, &leg->todo_tail);
	struct slice bytes = { 0 };
	size_t n;
	uint64_t place = 0;

	if (a->asking)
		redis_server_slip(leg->via, &asking, 1);
	if (a->pings)
		redis_server_slip(leg->via, &ping, 1);
	bytes.p = buf_peek(&a->request, &n);
	for (uint32_t i = 0; i < a->n; i++) {
		bytes.n = a->size[i];
		place = redis_server_pass(leg->via, &leg->lessee, bytes);
		redis_server_mark(leg->via, place);
		bytes.p += bytes.n;
	}
	if (a->n > 1)
		redis_server_judge(leg->via, place);
	push(&leg->sent_tail, a);
}

/* Is the next to go apart from what is outstanding? */
static bool
leg_is_misplaced(const struct leg *leg)
{
	return leg->todo->heavy && leg->sent != NULL && !leg->sent->heavy &&
	       pool_sets_apart(leg->pool, leg->via);
}

/* All that is outstanding is as if it had not been asked. */
static void
leg_undo(struct leg *leg)
{
	struct redis_cluster *cl = leg->of;
	struct ask *a = pull(&leg->todo, &leg->todo_tail);
	struct session *s = &cl->rs->s;

	assert(cl->head == a && a->next == NULL && a->owes == 1);
	cl->head = NULL;
	cl->tail = &cl->head;
	cl->rs->sent--;
	seat_pay_back(s);
	stats_add(&s->worker->stats, STAT_COMMANDS, -1);
	ask_free(cl, a);
	cl->undone = true;
	session_wake(s);
}

/* Nothing is outstanding there; one that was lent is given back by the step. */
static void
leg_let_go(struct leg *leg)
{
	struct redis_cluster *cl = leg->of;

	if (leg->lessee.server == NULL)
		leg->via = NULL;
	if (leg->via != NULL || !redis_nodes_lists(cl->nodes, leg->node))
		session_wake(&cl->rs->s);
}

/* As far as it goes: an op follows where it does not, or the last reply. */
static void
leg_run(struct leg *leg)
{
	struct lessee *l = &leg->lessee;

	while (leg->todo != NULL) {
		if (leg->via == NULL) {
			l->lane = leg->todo->heavy ? LANE_HEAVY : LANE_QUICK;
			if (l->waiting != NULL)
				return;
			if (!pool_want(leg->pool, l)) {
				/* A step sees to it that it is not for ever. */
				session_wake(&leg->of->rs->s);
				return;
			}
			leg->via = l->server;
			if (!leg->lends)
				l->server = NULL;
		}
		if (leg_is_misplaced(leg))
			return;
		if (leg->todo->before_ns > 0 &&
		    leg->via->opened_ns >= leg->todo->before_ns) {
			leg_undo(leg);
			continue;
		}
		if (redis_server_full(leg->via, l) ||
		    !ledger_has_room(&leg->via->ledger, leg->todo->n + 1)) {
			redis_server_queue(leg->via, l);
			return;
		}
		leg_put(leg);
	}
	if (l->prev != NULL && l->waiting == NULL)
		redis_server_unqueue(leg->via, l);
	if (leg->sent == NULL)
		leg_let_go(leg);
}

/* Its node has gone: it goes in the next step, or when nothing is outstanding. */
static void
leg_gone(struct redis_nodes_use *use)
{
	struct leg *leg =
	    (struct leg *)(void *)((char *)use - offsetof(struct leg, use));

	if (!is_over(leg->of))
		session_wake(&leg->of->rs->s);
}

static struct leg *
leg_find(struct redis_cluster *cl, int node, bool lends)
{
	struct redis_session *rs = cl->rs;
	struct leg *leg = cl->legs;
	struct pool *p;

	while (leg != NULL && (leg->node != node || leg->lends != lends))
		leg = leg->next;
	if (leg != NULL)
		return leg;
	p = redis_nodes_pool(cl->nodes, node, rs->s.snapshot, rs->redis,
			     rs->user, rs->password, rs->resp, lends);
	if (p == NULL)
		return NULL;
	leg = mem_zero(1, sizeof(*leg), "a leg");
	leg->lessee =
	    (struct lessee){ .ops = &leg_ops,
			     .tenant = rs->s.lessee.tenant,
			     .mode = lends ? LEASE_EXCLUSIVE : LEASE_SHARED };
	if (lends && rs->s.lessee.share != NULL)
		leg->lessee.share = budget_ref(rs->s.lessee.share);
	leg->of = cl;
	leg->node = node;
	leg->use.gone = leg_gone;
	redis_nodes_use(cl->nodes, node, &leg->use);
	leg->lends = lends;
	leg->pool = p;
	pool_join(p);
	leg->sent_tail = &leg->sent;
	leg->todo_tail = &leg->todo;
	leg->next = cl->legs;
	cl->legs = leg;
	return leg;
}

static void
ask_send(struct redis_cluster *cl, struct ask *a, int node)
{
	struct leg *leg = node < 0 ? NULL : leg_find(cl, node, a->apart);

	if (leg == NULL) {
		ask_fail(cl, a, node < 0 ? "no such node" : "too many pools");
		return;
	}
	push(&leg->todo_tail, a);
	leg_run(leg);
}

/* ---- redirects -------------------------------------------------------------------- */

static void
learn(struct redis_cluster *cl)
{
	redis_nodes_doubt(cl->nodes);
	redis_nodes_wait(cl->nodes, &cl->wait);
}

/* Who is said to have it; NOBODY: that one is not listed. */
static int
ask_to(const struct redis_cluster *cl, const struct ask *a)
{
	const struct redis_place at = { .name = slice_str(a->name),
					.port = a->port };

	return redis_nodes_called(cl->nodes, &at);
}

/* It is not done: to where it was sent, or to whom is said to be there. */
static void
ask_turn(struct redis_cluster *cl, struct ask *a)
{
	bool asking = a->turn == REDIS_ASK;
	int to = ask_to(cl, a);

	cl->turned += a->hops++ == 0;
	if (!asking)
		redis_nodes_doubt(cl->nodes);
	if (a->hops > REDIS_CLUSTER_HOPS) {
		ask_fail(cl, a, "too many redirects of the cluster");
	} else if (to == REDIS_NODES_NOBODY) {
		push(&cl->lost_tail, a);
		learn(cl);
	} else {
		ask_forget(cl, a);
		a->asking = asking;
		ask_send(cl, a, to);
	}
}

/* News, or none: the lost know their way now or never. */
static void
nodes_news(struct redis_nodes_wait *w)
{
	struct redis_cluster *cl =
	    (struct redis_cluster *)(void *)((char *)w -
					     offsetof(struct redis_cluster,
						      wait));
	struct ask *a;

	while ((a = pull(&cl->lost, &cl->lost_tail)) != NULL) {
		bool asking = a->turn == REDIS_ASK;
		int to = ask_to(cl, a);

		if (to == REDIS_NODES_NOBODY) {
			ask_fail(cl, a,
				 "redirected to a node that is not listed");
			continue;
		}
		ask_forget(cl, a);
		a->asking = asking;
		ask_send(cl, a, to);
	}
	deliver(cl);
	if (!is_over(cl))
		session_wake(&cl->rs->s);
}

/* ---- what a node has for us -------------------------------------------------------- */

/* The first bytes of a reply: does it send us elsewhere?  Only for our slot. */
static void
ask_look(struct redis_cluster *cl, struct leg *leg, struct ask *a,
	 const uint8_t *p, size_t n)
{
	struct redis_place at;
	enum redis_turn turn;
	unsigned slot;

	a->last_at = buf_len(&a->reply);
	if (p[0] != '-' || a->slot < 0 || a->turn != REDIS_STAYS)
		return;
	turn = redis_where_turn(p, n, &slot, &at);
	if (turn == REDIS_STAYS || slot != (unsigned)a->slot)
		return;
	a->turn = turn;
	if (at.name.n == 0)
		at.name = slice_str(cl->nodes->node[leg->node]->name);
	a->name = mem_text((const char *)at.name.p, at.name.n);
	a->port = at.port;
}

/* Does the client hear this next?  What is before it is the same, said to others. */
static bool
ask_is_next(const struct redis_cluster *cl, const struct ask *a)
{
	const struct ask *at = cl->head;

	while (at != NULL && at != a && at->owes == 0)
		at = at->next;
	return at == a;
}

static void
leg_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	struct leg *leg = leg_of(l);
	struct redis_cluster *cl = leg->of;
	struct ask *a = leg->sent;

	if (is_over(cl))
		return;
	assert(a != NULL);
	if (!a->midway)
		ask_look(cl, leg, a, p, n);
	a->midway = true;
	if (a->turn != REDIS_STAYS && a->n == 1)
		return;
	if (a == cl->head && !a->whole) {
		tell(cl, leg, p, n);
		return;
	}
	if (ask_is_next(cl, a))
		cl->rs->since_ns = cl->rs->s.worker->streams.now_ns;
	if (buf_put(&a->reply, p, n) != 0 ||
	    (cl->ahead += n) > REDIS_CLUSTER_AHEAD)
		session_close(&cl->rs->s, WHY_TOO_BIG, NULL,
			      "too much came before its turn");
}

/* Of a transaction: was it not run?  EXEC says so. */
static bool
ask_is_undone(const struct ask *a)
{
	size_t n;
	const uint8_t *p = buf_peek(&a->reply, &n);

	return a->turn != REDIS_STAYS &&
	       (a->n == 1 || (n > a->last_at && p[a->last_at] == '-'));
}

/* Its last reply has come, or will not. */
static void
leg_answered(struct leg *leg)
{
	struct redis_cluster *cl = leg->of;
	struct ask *a = leg->sent;

	a->midway = false;
	if (++a->got < a->n)
		return;
	pull(&leg->sent, &leg->sent_tail);
	if (leg->sent == NULL && leg->lessee.prev == NULL) {
		leg_let_go(leg);
		leg_run(leg); /* another connection may be the one for it */
	}
	if (a->broken) {
		ask_fail(cl, a, why_table[WHY_UPSTREAM_LOST].text);
		redis_nodes_doubt(cl->nodes);
	} else if (ask_is_undone(a)) {
		ask_turn(cl, a);
	} else {
		a->done = true;
		if (a->queued)
			ask_cut(cl, a);
	}
	deliver(cl);
}

static void
leg_slow(struct redis_cluster *cl, uint32_t seconds)
{
	size_t left = buf_len(&cl->rs->s.stream.out);

	if (seconds == 0)
		cl->slow = NULL;
	else if (seconds >= REDIS_SLOW_S ||
		 left + REDIS_SLOW_RATE > cl->slow_left)
		session_close(&cl->rs->s, WHY_SLOW_READER, NULL, NULL);
	cl->slow_left = left;
}

static void
leg_settled(struct lessee *l, unsigned kind, uint32_t arg, bool done)
{
	struct leg *leg = leg_of(l);
	struct redis_cluster *cl = leg->of;

	if (is_over(cl))
		return;
	switch ((enum redis_settled)kind) {
	case REDIS_ANSWERED:
		assert(arg == 1);
		if (!done) /* no transaction has ended, perhaps none began */
			leg->sent->turn = REDIS_STAYS;
		leg_answered(leg);
		break;
	case REDIS_TORN:
		/* A part of it may be with the client: no word may follow. */
		if (leg->sent == cl->head && !leg->sent->whole) {
			session_close(&cl->rs->s, WHY_UPSTREAM_LOST, NULL,
				      NULL);
			break;
		}
		leg->sent->broken = true;
		leg_answered(leg);
		break;
	case REDIS_UNANSWERED:
		leg->sent->broken = true;
		leg_answered(leg);
		break;
	case REDIS_SLOW:
		leg_slow(cl, arg);
		break;
	}
}

static void
leg_granted(struct lessee *l, struct server *v)
{
	struct leg *leg = leg_of(l);
	struct redis_session *rs = leg->of->rs;

	assert(l->server == (leg->lends ? v : NULL) && leg->via == NULL);
	/* The time it has waited is not the node's. */
	if (leg->todo != NULL && ask_is_next(leg->of, leg->todo))
		rs->since_ns = rs->s.worker->streams.now_ns;
	session_wake(&rs->s); /* another deadline applies now */
	leg->via = v;
	leg_run(leg);
}

/* No connection to it came; or one that was lent is lost, of which each command
 * that is outstanding there hears next. */
static void
leg_lost(struct lessee *l, enum why w, const char *sqlstate, const char *text)
{
	struct leg *leg = leg_of(l);
	struct redis_cluster *cl = leg->of;
	char line[POOL_ERROR_MAX];
	struct ask *a;

	(void)sqlstate;
	if (leg->via != NULL) {
		if (leg->sent == NULL)
			leg_let_go(leg);
		return;
	}
	assert(leg->sent == NULL);
	snprintf(line, sizeof(line), "%s%s%.900s", why_table[w].text,
		 text ? ": " : "", text ? text : "");
	while ((a = pull(&leg->todo, &leg->todo_tail)) != NULL)
		ask_fail(cl, a, line);
	redis_nodes_doubt(cl->nodes);
	session_wake(&cl->rs->s); /* another deadline applies now */
	deliver(cl);
}

static void
leg_room(struct lessee *l)
{
	struct leg *leg = leg_of(l);

	if (leg->sent == NULL && l->server == NULL)
		leg->via = NULL; /* it may be gone */
	leg_run(leg);
}

static void
leg_rest(struct lessee *l)
{
	(void)l;
	assert(!"a shared server rests with nobody");
}

static const struct lessee_ops leg_ops = {
	.granted = leg_granted,
	.reply = leg_reply,
	.settled = leg_settled,
	.rest = leg_rest,
	.lost = leg_lost,
	.room = leg_room,
};

/* ---- one command -------------------------------------------------------------------- */

static struct redis_cluster *
cluster_of(struct redis_session *rs)
{
	struct redis_cluster *cl = rs->cluster;

	if (cl != NULL)
		return cl;
	cl = mem_zero(1, sizeof(*cl), "a cluster's client");
	cl->rs = rs;
	cl->nodes =
	    redis_nodes_find(&rs->s.worker->pools, rs->s.snapshot, rs->redis);
	cl->wait.over = nodes_news;
	cl->tail = &cl->head;
	cl->lost_tail = &cl->lost;
	rs->cluster = cl;
	return cl;
}

struct redis_nodes *
redis_cluster_nodes(struct redis_session *rs)
{
	return cluster_of(rs)->nodes;
}

static bool
may_send(struct redis_cluster *cl, enum redis_did *did)
{
	struct redis_nodes *all = cl->nodes;
	struct redis_session *rs = cl->rs;
	char text[POOL_ERROR_MAX + 64];

	*did = REDIS_LATER;
	if (!all->known) {
		redis_nodes_doubt(all);
		if (all->error[0] == '\0') {
			redis_nodes_wait(all, &cl->wait);
			return false;
		}
		snprintf(text, sizeof(text), "ERR weir: %s: %s",
			 why_table[WHY_UPSTREAM_DOWN].text, all->error);
		*did = redis_say_error(rs, text);
		return false;
	}
	if (cl->head == NULL)
		cl->version = all->version;
	/* The replies to what is outstanding wake the session. */
	return cl->head == NULL ||
	       (!cl->head->apart && cl->turned == 0 &&
		cl->version == all->version && cl->kept <= REDIS_CLUSTER_KEPT);
}

bool
redis_cluster_may_send(struct redis_session *rs, enum redis_did *did)
{
	return may_send(cluster_of(rs), did);
}

static void
launch(struct redis_cluster *cl, struct ask *a, int node)
{
	struct redis_session *rs = cl->rs;

	if (redis_is_idle(rs))
		rs->since_ns = rs->s.worker->streams.now_ns;
	a->heavy = rs->heavy;
	rs->sent += a->owes;
	rs->s.paid -= rs->s.paid < a->owes ? rs->s.paid : a->owes;
	if (a->owes > 0)
		stats_add(&rs->s.worker->stats, STAT_COMMANDS, a->owes);
	*cl->tail = a;
	cl->tail = &a->next;
	ask_send(cl, a, node);
}

static const struct redis_cmd *
row_of(const struct slice *arg, size_t argc)
{
	const struct redis_cmd *cmd = redis_cmd_find(arg[0]), *sub;

	if (cmd != NULL && cmd->sub_count > 0 &&
	    (sub = redis_cmd_sub(cmd, arg, argc)) != NULL)
		return sub;
	return cmd;
}

static bool
is_one_of(const struct redis_cmd *cmd, const char *const *names)
{
	for (; *names != NULL; names++)
		if (strcmp(cmd->name, *names) == 0)
			return true;
	return false;
}

bool
redis_cluster_bars(const struct redis_cmd *cmd)
{
	static const char *const barred[] = {
		"client|caching", "client|tracking", "debug",
		"failover",       "module|load",     "module|loadex",
		"module|unload",  "monitor",         "replicaof",
		"shutdown",       "slaveof",         NULL
	};

	return is_one_of(cmd, barred);
}

/* Of what goes to all of them: how their replies are told. */
struct for_all {
	const char *name;
	enum redis_gather_how how;
	enum { MASTERS, REPLICAS_TOO, MASTERS_APART } to;
};

/* As Redis has it in what COMMAND tells of each, but SCRIPT LOAD and FLUSH, which
 * are to go to replicas, too: from here nobody asks one to run a script. */
static const struct for_all *
gathers(const struct redis_cmd *cmd)
{
	static const struct for_all all[] = {
		{ "acl|deluser", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "acl|load", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "acl|save", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "acl|setuser", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "bgrewriteaof", REDIS_GATHER_LAST, MASTERS },
		{ "bgsave", REDIS_GATHER_LAST, MASTERS },
		{ "client|pause", REDIS_GATHER_LAST, MASTERS_APART },
		{ "client|unpause", REDIS_GATHER_LAST, MASTERS_APART },
		{ "config|resetstat", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "config|rewrite", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "config|set", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "dbsize", REDIS_GATHER_SUM, MASTERS },
		{ "flushall", REDIS_GATHER_LAST, MASTERS },
		{ "flushdb", REDIS_GATHER_LAST, MASTERS },
		{ "function|delete", REDIS_GATHER_LAST, MASTERS },
		{ "function|flush", REDIS_GATHER_LAST, MASTERS },
		{ "function|kill", REDIS_GATHER_ANY, MASTERS_APART },
		{ "function|load", REDIS_GATHER_LAST, MASTERS },
		{ "function|restore", REDIS_GATHER_LAST, MASTERS },
		{ "keys", REDIS_GATHER_LIST, MASTERS },
		{ "lastsave", REDIS_GATHER_LEAST, MASTERS },
		{ "latency|reset", REDIS_GATHER_SUM, REPLICAS_TOO },
		{ "memory|purge", REDIS_GATHER_LAST, MASTERS },
		{ "pubsub|channels", REDIS_GATHER_SET, MASTERS },
		{ "pubsub|numpat", REDIS_GATHER_SUM, MASTERS },
		{ "pubsub|numsub", REDIS_GATHER_COUNTS, MASTERS },
		{ "pubsub|shardchannels", REDIS_GATHER_SET, MASTERS },
		{ "pubsub|shardnumsub", REDIS_GATHER_COUNTS, MASTERS },
		{ "randomkey", REDIS_GATHER_ONE, MASTERS },
		{ "save", REDIS_GATHER_LAST, MASTERS },
		{ "script|exists", REDIS_GATHER_LEAST, MASTERS },
		{ "script|flush", REDIS_GATHER_LAST, MASTERS },
		{ "script|kill", REDIS_GATHER_ANY, MASTERS_APART },
		{ "script|load", REDIS_GATHER_LAST, MASTERS },
		{ "slowlog|get", REDIS_GATHER_LIST, REPLICAS_TOO },
		{ "slowlog|len", REDIS_GATHER_SUM, REPLICAS_TOO },
		{ "slowlog|reset", REDIS_GATHER_LAST, REPLICAS_TOO },
		{ "wait", REDIS_GATHER_LEAST, MASTERS_APART },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(cmd->name, all[i].name) == 0)
			return &all[i];
	return NULL;
}

bool
redis_cluster_is_for_all(const struct redis_cmd *cmd)
{
	return gathers(cmd) != NULL || strcmp(cmd->name, "scan") == 0;
}

static bool
is_asked(const struct redis_cluster *cl, unsigned i, const struct for_all *how)
{
	const struct redis_node *node = cl->nodes->node[i];

	return node->member || (node->replica && how->to == REPLICAS_TOO);
}

static enum redis_gather_how
how_of(const struct ask *a)
{
	return a->all->how;
}

/* Of those which tell of subscribers: to what? */
static enum resp_channel
shard_of(const struct ask *a)
{
	return strstr(a->all->name, "shard") ? RESP_SHARD : RESP_CHANNEL;
}

/* With none to be lent it goes where all go: as good as we can. */
static bool
goes_apart(const struct redis_cluster *cl, const struct for_all *how)
{
	return how->to == MASTERS_APART &&
	       cl->rs->redis->dedicated_connections > 0;
}

/* Who is not known of would be left out, and the client not told. */
static bool
may_ask_all(struct redis_cluster *cl, const struct for_all *how)
{
	if (goes_apart(cl, how) && !redis_is_idle(cl->rs))
		return false;
	if (redis_nodes_is_fresh(cl->nodes))
		return true;
	redis_nodes_wait(cl->nodes, &cl->wait);
	return false;
}

/* The last is the one that is answered. */
static void
send_all(struct redis_cluster *cl, const struct slice *arg, size_t argc,
	 const struct for_all *how)
{
	int last = REDIS_NODES_NOBODY;

	for (unsigned i = 0; i <= cl->nodes->n; i++) {
		bool asked = i < cl->nodes->n && is_asked(cl, i, how);
		struct ask *a;

		if (last >= 0 && (asked || i == cl->nodes->n)) {
			a = ask_new(cl, REDIS_SLOT_NONE);
			a->several = i == cl->nodes->n;
			a->owes = a->several;
			a->whole = true;
			a->all = how;
			a->apart = goes_apart(cl, how);
			a->pings = a->apart && how->how == REDIS_GATHER_LEAST;
			ask_put(cl, a, arg, argc);
			launch(cl, a, last);
		}
		if (asked)
			last = (int)i;
	}
	assert(last >= 0);
}

/* Of the node that the cursor names, or the first; a cursor that is none, or an
 * odd one, is for Redis to judge. */
static void
send_scan(struct redis_cluster *cl, const struct slice *arg, size_t argc)
{
	struct slice *asked = mem_zero(argc, sizeof(*asked), "a SCAN");
	struct ask *a = ask_new(cl, REDIS_SLOT_NONE);
	struct redis_cursor c;
	char text[REDIS_CURSOR_MAX];

	memcpy(asked, arg, argc * sizeof(*asked));
	a->scans = scan_next(cl->nodes, -1);
	a->scans_name = scan_name(cl->nodes, a->scans);
	if (redis_cursor_read(arg[1], &c)) {
		if (cl->nodes->slot[c.slot] != 0)
			a->scans = (int)c.slot;
		else if (scan_next(cl->nodes, (int)c.slot) >= 0)
			a->scans = scan_next(cl->nodes, (int)c.slot);
		a->scans_name = scan_name(cl->nodes, a->scans);
		if (a->scans != (int)c.slot || a->scans_name != c.name)
			c.of_node = 0;
		snprintf(text, sizeof(text), "%" PRIu64, c.of_node);
		asked[1] = slice_str(text);
	}
	a->whole = true;
	ask_put(cl, a, asked, argc);
	free(asked);
	launch(cl, a, redis_nodes_at(cl->nodes, a->scans));
}

enum redis_did
redis_cluster_say_barred(struct redis_session *rs, const struct redis_cmd *cmd)
{
	static const char *const of_each[] = { "client|caching",
					       "client|tracking", "monitor",
					       NULL };
	char text[160];

	snprintf(
	    text, sizeof(text),
	    "ERR weir: %s is not supported with cluster = on: it %s", cmd->name,
	    is_one_of(cmd, of_each) ? "would need a connection to each node"
				    : "is about one node");
	return redis_reject(rs, text);
}

enum redis_did
redis_cluster_forward(struct redis_session *rs, const struct slice *arg,
		      size_t argc)
{
	struct redis_cluster *cl = cluster_of(rs);
	const struct redis_cmd *cmd = row_of(arg, argc);
	const struct for_all *all = cmd ? gathers(cmd) : NULL;
	int slot = redis_slot_of(arg, argc), node;
	enum redis_did did;
	struct ask *a;

	if (!may_send(cl, &did))
		return did;
	if (all != NULL && !may_ask_all(cl, all))
		return REDIS_LATER;
	if ((node = redis_nodes_at(cl->nodes, slot)) == REDIS_NODES_NOBODY)
		return redis_say_error(rs, "ERR weir: no node of the cluster");
	if (all != NULL) {
		send_all(cl, arg, argc, all);
	} else if (cmd != NULL && strcmp(cmd->name, "scan") == 0) {
		send_scan(cl, arg, argc);
	} else {
		a = ask_new(cl, slot);
		ask_put(cl, a, arg, argc);
		launch(cl, a, node);
	}
	deliver(cl); /* what has failed at once */
	return REDIS_DONE;
}

enum redis_did
redis_cluster_whole(struct redis_session *rs, const struct slice *arg,
		    size_t argc, size_t n)
{
	struct redis_cluster *cl = cluster_of(rs);
	struct resp_request r = { 0 };
	size_t left, at = rs->bytes.n;
	const uint8_t *p = stream_peek(&rs->s.stream, &left);
	enum redis_did did;
	bool crossed = false;
	struct ask *a;
	int slot;

	if (!may_send(cl, &did))
		return did;
	a = ask_new(cl, REDIS_SLOT_NONE);
	a->whole = true;
	ask_put(cl, a, arg, argc);
	while (a->n <= n) {
		ssize_t used = resp_request_next(&r, p + at, left - at, true,
						 REDIS_REQUEST_MAX);

		assert(used > 0); /* they were read before */
		at += (size_t)used;
		if (r.argc == 0)
			continue;
		ask_put(cl, a, r.arg, r.argc);
		slot = redis_slot_of(r.arg, r.argc);
		crossed |= a->slot >= 0 && slot >= 0 && slot != a->slot;
		if (a->slot < 0)
			a->slot = slot;
	}
	resp_request_free(&r);
	if (crossed) { /* it is told so, one by one */
		ask_free(cl, a);
		return redis_cluster_multi(rs);
	}
	rs->more = at - rs->bytes.n;
	a->owes = a->n;
	launch(cl, a, redis_nodes_at(cl->nodes, a->slot));
	deliver(cl);
	return REDIS_DONE;
}

void
redis_cluster_launch(struct redis_session *rs, struct buf *requests,
		     uint32_t *size, uint32_t n, int slot)
{
	struct redis_cluster *cl = rs->cluster;
	struct ask *a = ask_new(cl, slot);

	a->whole = a->queued = true;
	a->request = *requests;
	a->size = size;
	a->n = n;
	cl->kept += buf_len(&a->request);
	launch(cl, a, redis_nodes_at(cl->nodes, slot));
	deliver(cl);
}

const char *
redis_cluster_exec_text(struct slice said, struct slice against, char *out,
			size_t size)
{
	static const char crossslot[] =
	    "CROSSSLOT Keys in request don't hash to the same slot";
	static const char abort[] = "-EXECABORT ";
	struct redis_place at;
	unsigned slot;

	if (redis_where_turn(said.p, said.n, &slot, &at) != REDIS_STAYS)
		return crossslot;
	/* What is no whole line is passed as it comes. */
	if (against.n == 0 || said.n < sizeof(abort) ||
	    said.p[said.n - 1] != '\n' ||
	    memcmp(said.p, abort, sizeof(abort) - 1) != 0)
		return NULL;
	if (redis_where_turn(against.p - 1, against.n + 3, &slot, &at) !=
	    REDIS_STAYS)
		return crossslot;
	snprintf(out, size, "EXECABORT Transaction discarded because of: %.*s",
		 (int)(against.n < 300 ? against.n : 300),
		 (const char *)against.p);
	return out;
}

struct pool *
redis_cluster_lent(struct redis_session *rs, enum redis_did *did,
		   const char **why)
{
	struct redis_cluster *cl = cluster_of(rs);
	int node = redis_cluster_again_at(rs);

	*why = NULL;
	if (node == REDIS_NODES_NOBODY && !may_send(cl, did))
		return NULL;
	*did = REDIS_DONE;
	*why = "no node of the cluster";
	if (node == REDIS_NODES_NOBODY)
		node =
		    redis_nodes_at(cl->nodes, redis_slot_of(rs->request.arg,
							    rs->request.argc));
	if (node == REDIS_NODES_NOBODY)
		return NULL;
	*why = "too many pools";
	return redis_nodes_pool(cl->nodes, node, rs->s.snapshot, rs->redis,
				rs->user, rs->password, rs->resp, true);
}

enum redis_did
redis_cluster_tell_node(struct redis_session *rs, const struct redis_place *at,
			uint64_t before_ns, const struct slice *arg,
			size_t argc)
{
	struct redis_cluster *cl = cluster_of(rs);
	enum redis_did did;
	struct ask *a;
	int node;

	assert(redis_is_idle(rs));
	if (rs->s.lessee.server != NULL && rs->hold == 0)
		return REDIS_LATER;
	rs->via = NULL;
	cl->undone = false;
	if (!may_send(cl, &did))
		return did;
	node = redis_nodes_called(cl->nodes, at);
	if (node == REDIS_NODES_NOBODY)
		return redis_say_error(rs, "ERR weir: that node is not listed");
	a = ask_new(cl, REDIS_SLOT_NONE);
	a->before_ns = before_ns;
	ask_put(cl, a, arg, argc);
	launch(cl, a, node);
	deliver(cl); /* what has failed at once */
	return REDIS_DONE;
}

bool
redis_cluster_undid(const struct redis_session *rs)
{
	return rs->cluster != NULL && rs->cluster->undone;
}

/* ---- life ----------------------------------------------------------------------------- */

unsigned
redis_cluster_share(const struct redis_session *rs)
{
	const struct redis_cluster *cl = rs->cluster;
	unsigned share = REDIS_SHARE_MAX, n;

	for (struct leg *leg = cl ? cl->legs : NULL; leg; leg = leg->next)
		if (leg->via != NULL && leg->sent != NULL &&
		    (n = redis_server_share(leg->via)) < share)
			share = n;
	return share;
}

static void
leg_give_back(struct leg *leg)
{
	leg->via = NULL;
	if (leg->lessee.server != NULL)
		server_release(leg->lessee.server);
}

static void
leg_free(struct leg *leg)
{
	struct budgets *all = &leg->of->rs->s.worker->weir->budgets;

	redis_nodes_unuse(&leg->use);
	pool_leave(&leg->pool);
	if (leg->lessee.share != NULL)
		budget_unref(all, &leg->lessee.share);
	free(leg);
}

static bool
leg_is_unused(const struct leg *leg)
{
	const struct redis_cluster *cl = leg->of;
	const struct lessee *l = &leg->lessee;

	return leg->via == NULL && leg->sent == NULL && leg->todo == NULL &&
	       l->server == NULL && l->waiting == NULL && l->prev == NULL &&
	       (cl->slow == NULL || cl->slow_leg != leg);
}

/* Their nodes have gone, and nothing is outstanding there. */
static void
legs_bury(struct redis_cluster *cl)
{
	struct leg **at = &cl->legs, *leg;

	while ((leg = *at) != NULL) {
		if (redis_nodes_lists(cl->nodes, leg->node) ||
		    !leg_is_unused(leg)) {
			at = &leg->next;
			continue;
		}
		*at = leg->next;
		leg_free(leg);
	}
}

/* May free legs: no callback of theirs runs in a step. */
void
redis_cluster_read(struct redis_session *rs)
{
	struct redis_cluster *cl = rs->cluster;
	struct server *v = cl ? cl->slow : NULL;

	for (struct leg *leg = cl ? cl->legs : NULL; leg; leg = leg->next)
		if (leg->lessee.server != NULL && leg->sent == NULL &&
		    leg->todo == NULL)
			leg_give_back(leg);
	if (v != NULL && !stream_is_high(&rs->s.stream)) {
		cl->slow = NULL;
		redis_server_resume(v, &cl->slow_leg->lessee);
	}
	if (cl != NULL && !is_over(cl))
		legs_bury(cl);
}

uint64_t
redis_cluster_waits_ns(const struct redis_session *rs)
{
	const struct redis_cluster *cl = rs->cluster;
	uint64_t since = 0;

	for (struct leg *leg = cl ? cl->legs : NULL; leg; leg = leg->next) {
		const struct lessee *l = &leg->lessee;

		if (l->waiting != NULL && (since == 0 || l->since_ns < since))
			since = l->since_ns;
	}
	return since;
}

bool
redis_cluster_is_slow(const struct redis_session *rs)
{
	return rs->cluster != NULL && rs->cluster->slow != NULL;
}

/* Nothing of it is anywhere any more; the memory may still be in use. */
static void
leg_leave(struct leg *leg)
{
	struct redis_cluster *cl = leg->of;
	struct lessee *l = &leg->lessee;
	struct ask *a;

	if (l->waiting != NULL)
		pool_unwant(l);
	else if (l->prev != NULL)
		redis_server_unqueue(leg->via, l);
	if (leg->sent != NULL)
		redis_server_part(leg->via, l);
	if (cl->slow != NULL && cl->slow_leg == leg) {
		redis_server_resume(cl->slow, l);
		cl->slow = NULL;
	}
	leg_give_back(leg);
	while ((a = pull(&leg->sent, &leg->sent_tail)) != NULL)
		;
	while ((a = pull(&leg->todo, &leg->todo_tail)) != NULL)
		;
}

void
redis_cluster_give_up(struct redis_session *rs)
{
	struct redis_cluster *cl = rs->cluster;

	redis_nodes_unwait(&cl->wait);
	redis_nodes_doubt(cl->nodes); /* another may have its slots by now */
	for (struct leg *leg = cl->legs; leg != NULL; leg = leg->next)
		leg_leave(leg);
	while (pull(&cl->lost, &cl->lost_tail) != NULL)
		;
	for (struct ask *a = cl->head; a != NULL; a = a->next) {
		if (a->done)
			continue;
		stats_add(&rs->s.worker->stats, STAT_REDIS_OVERDUE, a->owes);
		ask_fail(cl, a, "command_timeout");
	}
	deliver(cl);
}

void
redis_cluster_part(struct redis_session *rs)
{
	struct redis_cluster *cl = rs->cluster;

	redis_cluster_own_part(rs);
	if (cl == NULL)
		return;
	redis_nodes_unwait(&cl->wait);
	for (struct leg *leg = cl->legs; leg != NULL; leg = leg->next)
		if (leg->pool != NULL) {
			leg_leave(leg);
			redis_nodes_unuse(&leg->use);
			pool_leave(&leg->pool);
		}
	redis_nodes_leave(&cl->nodes);
}

void
redis_cluster_fini(struct redis_session *rs)
{
	struct redis_cluster *cl = rs->cluster;
	struct leg *leg;
	struct ask *a;

	redis_cluster_own_fini(rs);
	if (cl == NULL)
		return;
	assert(cl->nodes == NULL && cl->slow == NULL);
	while ((leg = cl->legs) != NULL) {
		cl->legs = leg->next;
		leg_free(leg);
	}
	while ((a = cl->head) != NULL) {
		cl->head = a->next;
		ask_free(cl, a);
	}
	redis_gather_free(&cl->gather);
	free(cl);
	rs->cluster = NULL;
}

void
redis_cluster_rehome(struct redis_session *rs)
{
	assert(rs->cluster == NULL || rs->cluster->head == NULL);
	redis_cluster_part(rs);
	redis_cluster_fini(rs);
}

#include "proxy/redis_pubsub.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_nodes.h"
#include "protocol/redis_slot.h"
#include "protocol/resp_number.h"
#include "proxy/redis_census.h"
#include "proxy/redis_cluster.h"
#include "proxy/redis_hub.h"
#include "proxy/redis_multi.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/worker.h"

/* What it has of one hub. */
struct part {
	struct hub_member member; /* first */
	struct redis_session *rs;
	struct part *next;
	char *node; /* of a cluster, at this port; NULL: the upstream */
	unsigned port;
};

/* SSUBSCRIBE in a cluster: it lies in the input until it is answered. */
struct asks_node {
	enum { NOT_ASKED, ASKED, TURNED, ANSWERED } now;
	int slot;
	unsigned hops;
	bool listens; /* for news of the nodes, once */
	char *node;   /* TURNED: called so */
	unsigned port;
	struct redis_nodes_wait wait;
};

struct redis_sub {
	struct part main; /* all but shard channels of a cluster */
	struct redis_session *rs;
	struct asks_node asks;
	unsigned fences;         /* on their way */
	struct buf held;         /* messages, while a reply is half out */
	struct wheel_entry soft; /* set as long as too much is unread */
	struct buf said; /* of an UNSUBSCRIBE: until upstream has done it */
	enum { STAYS, HEARS, HAS_HEARD, LEAVES, HAS_LEFT } leaving;
	bool mute; /* it waits for an answer it will not have */
};

static const struct hub_ops member_ops;
static redis_run subscribe_shard;

static struct redis_session *
session_of(struct hub_member *m)
{
	return ((struct part *)(void *)m)->rs;
}

static uint64_t
now_ns(const struct redis_session *rs)
{
	return rs->s.worker->streams.now_ns;
}

static const struct part *
first_part(const struct redis_session *rs)
{
	return rs->sub != NULL ? &rs->sub->main : NULL;
}

bool
redis_pubsub_is_on(const struct redis_session *rs)
{
	for (const struct part *p = first_part(rs); p != NULL; p = p->next)
		if (hub_count(&p->member) > 0)
			return true;
	return false;
}

size_t
redis_pubsub_count(const struct redis_session *rs, enum resp_channel kind)
{
	size_t n = 0;

	for (const struct part *p = first_part(rs); p != NULL; p = p->next)
		n += p->member.n[kind];
	return n;
}

bool
redis_pubsub_waits(const struct redis_session *rs)
{
	for (const struct part *p = first_part(rs); p != NULL; p = p->next)
		if (p->member.asked != NULL)
			return true;
	return rs->sub != NULL && rs->sub->asks.wait.prev != NULL;
}

bool
redis_pubsub_is_mute(const struct redis_session *rs)
{
	return redis_pubsub_is_on(rs) || redis_pubsub_waits(rs) ||
	       (rs->sub != NULL && rs->sub->mute);
}

/* ---- slow readers ----------------------------------------------------- */

static void
set_soft(struct redis_sub *sub, uint64_t when)
{
	wheel_set(&sub->rs->s.worker->streams.wheel, &sub->soft, when);
}

/* It had too much unread at every look, and there is one for each message. */
static void
on_soft(struct wheel_entry *e)
{
	struct redis_sub *sub =
	    (struct redis_sub *)(void *)((char *)e -
					 offsetof(struct redis_sub, soft));
	struct redis_session *rs = sub->rs;

	if (buf_len(&rs->s.stream.out) + buf_len(&sub->held) <= REDIS_SUB_SOFT)
		return;
	stats_add(&rs->s.worker->stats, STAT_REDIS_SUB_SLOW, 1);
	session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
}

bool
redis_pubsub_is_slow(struct redis_session *rs)
{
	struct redis_sub *sub = rs->sub;
	size_t left = buf_len(&rs->s.stream.out) + buf_len(&sub->held);

	if (left > REDIS_SUB_HARD) {
		stats_add(&rs->s.worker->stats, STAT_REDIS_SUB_SLOW, 1);
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
		return true;
	}
	if (left <= REDIS_SUB_SOFT)
		set_soft(sub, 0);
	else if (sub->soft.deadline_ns == 0)
		set_soft(sub, now_ns(rs) + REDIS_SUB_SOFT_S * 1000000000ull);
	return false;
}

/* The nodes of the cluster are known, or not to be known. */
static void
hear_news(struct redis_nodes_wait *w)
{
	struct redis_sub *sub =
	    (struct redis_sub *)(void *)((char *)w -
					 offsetof(struct redis_sub, asks.wait));

	session_wake(&sub->rs->s);
}

static struct redis_sub *
sub_make(struct redis_session *rs)
{
	struct redis_sub *sub = mem_zero(1, sizeof(*sub), "a subscriber");

	sub->rs = sub->main.rs = rs;
	sub->asks.wait.over = hear_news;
	buf_init(&sub->held, REDIS_OUT_MAX);
	buf_init(&sub->said, REDIS_OUT_MAX);
	wheel_entry_init(&sub->soft, on_soft);
	return sub;
}

/* ---- what it hears ---------------------------------------------------- */

static struct buf *
push_out(struct redis_session *rs)
{
	return rs->midway ? &rs->sub->held : stream_out(&rs->s.stream);
}

/* What it asked in a transaction is answered there, in the middle of a reply. */
static struct buf *
answer_out(struct redis_session *rs)
{
	return redis_multi_tells(rs) ? stream_out(&rs->s.stream) : push_out(rs);
}

/* RESP3 differs from RESP2 in the first byte. */
static void
hear_message(struct hub_member *m, const uint8_t *p, size_t n)
{
	struct redis_session *rs = session_of(m);
	struct buf *out = push_out(rs);
	const char *type = rs->resp == 3 ? ">" : "*";

	if (session_is_over(&rs->s))
		return;
	if (tenant_is_gone(rs->s.lessee.tenant)) {
		session_close(&rs->s, WHY_TENANT_GONE, NULL, NULL);
		return;
	}
	if (buf_put(out, type, 1) != 0 || buf_put(out, p + 1, n - 1) != 0) {
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
		return;
	}
	stats_add(&rs->s.worker->stats, STAT_REDIS_MESSAGES, 1);
	redis_pubsub_is_slow(rs);
}

void
redis_pubsub_invalidate(struct redis_session *rs, struct slice value)
{
	const struct slice push = slice_str(">2\r\n$10\r\ninvalidate\r\n");
	const struct slice message =
	    slice_str("*3\r\n$7\r\nmessage\r\n"
		      "$20\r\n__redis__:invalidate\r\n");
	struct slice head = rs->resp == 3 ? push : message;
	struct buf *out;

	if (rs->resp == 2 && !redis_pubsub_is_on(rs))
		return;
	if (tenant_is_gone(rs->s.lessee.tenant)) {
		session_close(&rs->s, WHY_TENANT_GONE, NULL, NULL);
		return;
	}
	if (rs->sub == NULL)
		rs->sub = sub_make(rs);
	if (rs->resp == 2 && value.p[0] == '_')
		value = slice_str("$-1\r\n");
	out = push_out(rs);
	if (buf_put(out, head.p, head.n) != 0 ||
	    buf_put(out, value.p, value.n) != 0) {
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
		return;
	}
	stats_add(&rs->s.worker->stats, STAT_REDIS_MESSAGES, 1);
	redis_pubsub_is_slow(rs);
}

void
redis_pubsub_go_on(struct redis_session *rs)
{
	struct buf *held = &rs->sub->held;
	const uint8_t *p;
	size_t n;

	assert(!rs->midway);
	p = buf_peek(held, &n);
	if (n == 0)
		return;
	if (stream_put(&rs->s.stream, p, n) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	else
		buf_consume(held, n);
}

/* Channels and patterns are counted together, shard channels on their own. */
static int64_t
count_of(const struct redis_sub *sub, enum resp_channel kind)
{
	const struct redis_session *rs = sub->rs;

	if (kind == RESP_SHARD)
		return (int64_t)redis_pubsub_count(rs, RESP_SHARD);
	return (int64_t)(redis_pubsub_count(rs, RESP_CHANNEL) +
			 redis_pubsub_count(rs, RESP_PATTERN));
}

/* "subscribe", or with `un` its opposite; `name` NULL: none. */
static int
put_confirmation(struct redis_session *rs, struct buf *b,
		 enum resp_channel kind, bool un, const struct slice *name,
		 int64_t count)
{
	static const char *const word[2][RESP_CHANNELS] = {
		{ "subscribe", "psubscribe", "ssubscribe" },
		{ "unsubscribe", "punsubscribe", "sunsubscribe" },
	};
	const char *w = word[un][kind];
	int bad = buf_put(b, rs->resp == 3 ? ">3\r\n" : "*3\r\n", 4);

	bad |= resp_put_bulk(b, w, strlen(w));
	if (name != NULL)
		bad |= resp_put_bulk(b, name->p, name->n);
	else
		bad |= resp_put_null(b, rs->resp);
	bad |= resp_put_int(b, count);
	return bad;
}

/* It is answered; what lies in the input goes. */
static void
asks_end(struct redis_sub *sub)
{
	if (sub->asks.now == ASKED)
		sub->asks.now = ANSWERED;
}

static void
hear_subscribed(struct hub_member *m, enum resp_channel kind,
		struct hub_channel *const *channel, size_t n)
{
	struct redis_session *rs = session_of(m);
	int bad = 0;

	assert(redis_is_idle(rs));
	asks_end(rs->sub);
	for (size_t i = 0; i < n; i++) {
		struct slice name = hub_name(channel[i]);

		hub_add(m, channel[i]);
		bad |= put_confirmation(rs, answer_out(rs), kind, false, &name,
					count_of(rs->sub, kind));
	}
	if (bad)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	else if (!redis_pubsub_is_slow(rs))
		session_wake(&rs->s);
}

static void
leave_if_done(struct redis_session *rs)
{
	for (struct part *p = &rs->sub->main; p != NULL; p = p->next)
		if (hub_count(&p->member) == 0 && p->member.asked == NULL)
			hub_leave(&p->member);
}

static bool
is_outage(enum why w)
{
	return w == WHY_UPSTREAM_DOWN || w == WHY_UPSTREAM_LOST ||
	       w == WHY_UPSTREAM_SENSE || w == WHY_CONNECT_TIMEOUT ||
	       w == WHY_RECONFIGURED || w == WHY_WRONG_ROLE;
}

/* The node has not this slot any more: it is asked for elsewhere. */
static bool
is_turned(struct part *part, const char *error)
{
	struct asks_node *asks = &part->rs->sub->asks;
	char line[512];
	struct redis_place at;
	unsigned slot;
	int n = snprintf(line, sizeof(line), "-%s\r\n", error);

	if (asks->now != ASKED || (size_t)n >= sizeof(line) ||
	    redis_where_turn((const uint8_t *)line, (size_t)n, &slot, &at) !=
		REDIS_MOVED ||
	    slot != (unsigned)asks->slot || asks->hops >= REDIS_CLUSTER_HOPS)
		return false;
	redis_nodes_doubt(redis_cluster_nodes(part->rs));
	if (at.name.n == 0)
		at.name = slice_str(part->node);
	free(asks->node);
	asks->node = mem_text((const char *)at.name.p, at.name.n);
	asks->port = at.port;
	asks->hops++;
	asks->listens = false;
	asks->now = TURNED;
	return true;
}

static void
hear_refused(struct hub_member *m, const char *error, enum why w)
{
	struct redis_session *rs = session_of(m);
	char text[128];

	if (error != NULL && is_turned((struct part *)(void *)m, error)) {
		leave_if_done(rs);
		session_wake(&rs->s);
		return;
	}
	if (((struct part *)(void *)m)->node != NULL)
		redis_nodes_doubt(redis_cluster_nodes(rs));
	asks_end(rs->sub);
	/* A fence that is not answered ends it, whatever the reason. */
	if (error == NULL && (is_outage(w) || rs->sub->fences > 0)) {
		rs->sub->mute = true;
		session_close(&rs->s, w, NULL, NULL);
		return;
	}
	leave_if_done(rs);
	if (error == NULL)
		snprintf(text, sizeof(text), "ERR weir: %s",
			 w == WHY_ROOM ? "too many pools" : why_table[w].text);
	if (rs->mute == REDIS_LOUD &&
	    resp_put_error(answer_out(rs), error ? error : text) != 0)
		session_close(&rs->s, WHY_SLOW_READER, NULL, NULL);
	session_wake(&rs->s);
}

static void
hear_fenced(struct hub_member *m)
{
	struct redis_sub *sub = session_of(m)->sub;

	assert(sub->fences > 0);
	if (--sub->fences > 0)
		return;
	sub->leaving = sub->leaving == HEARS ? HAS_HEARD : HAS_LEFT;
	session_wake(&sub->rs->s);
}

static void
hear_lost(struct hub_member *m, enum why w)
{
	struct redis_session *rs = session_of(m);

	stats_add(&rs->s.worker->stats, STAT_REDIS_SUB_LOST, 1);
	if (((struct part *)(void *)m)->node != NULL)
		redis_nodes_doubt(redis_cluster_nodes(rs));
	session_close(&rs->s, w, NULL, NULL);
}

static const struct hub_ops member_ops = {
	.message = hear_message,
	.subscribed = hear_subscribed,
	.refused = hear_refused,
	.fenced = hear_fenced,
	.lost = hear_lost,
};

/* ---- commands --------------------------------------------------------- */

/* Of SUBSCRIBE, PUNSUBSCRIBE and so on: their first letter tells. */
static enum resp_channel
kind_of(struct slice command)
{
	if (command.p[0] == 'p' || command.p[0] == 'P')
		return RESP_PATTERN;
	return slice_is_word(command, "ssubscribe") ||
		       slice_is_word(command, "sunsubscribe")
		   ? RESP_SHARD
		   : RESP_CHANNEL;
}

static bool
is_too_much(const struct redis_sub *sub, const struct slice *arg, size_t argc)
{
	size_t bytes = 0, n = 0;

	for (const struct part *p = &sub->main; p != NULL; p = p->next) {
		bytes += p->member.bytes;
		n += hub_count(&p->member);
	}
	if (argc - 1 > REDIS_SUB_MAX || n + argc - 1 > REDIS_SUB_MAX)
		return true;
	for (size_t i = 1; i < argc; i++)
		bytes += arg[i].n;
	return bytes > HUB_BYTES_MAX;
}

/* ---- shard channels of a cluster ---------------------------------------- */

/* What it has, or is to have, of this node. */
static struct part *
part_at(struct redis_sub *sub, const struct redis_node *node)
{
	struct part **at = &sub->main.next, *p, *unused = NULL;

	for (; (p = *at) != NULL; at = &p->next)
		if (p->member.ear == NULL)
			unused = p;
		else if (p->port == node->port &&
			 strcmp(p->node, node->name) == 0)
			return p;
	if ((p = unused) == NULL) {
		*at = p = mem_zero(1, sizeof(*p), "a subscriber of a node");
		p->rs = sub->rs;
	}
	free(p->node);
	p->node = mem_copy(node->name);
	p->port = node->port;
	return p;
}

/* The slot of all of them; -1: they are of several. */
static int
shard_slot(const struct slice *arg, size_t argc)
{
	unsigned slot = redis_slot(arg[1]);

	for (size_t i = 2; i < argc; i++)
		if (redis_slot(arg[i]) != slot)
			return REDIS_SLOT_NONE;
	return (int)slot;
}

/* What it is told, beside what a node says; LATER: to be asked then. */
static enum redis_did
asks_begin(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	struct asks_node *asks = &rs->sub->asks;
	enum redis_did did;

	asks->slot = shard_slot(arg, argc);
	if (asks->slot < 0)
		return redis_say_error(rs, "CROSSSLOT Keys in request don't "
					   "hash to the same slot");
	if (!redis_cluster_may_send(rs, &did))
		return did;
	if (!seat_pay(&rs->s))
		return redis_say_rate(rs);
	stats_add(&rs->s.worker->stats, STAT_COMMANDS, 1);
	asks->hops = 0;
	asks->now = TURNED; /* to who has the slot */
	return REDIS_LATER;
}

/* Where to?  NOBODY: that is not known; it may wait for that. */
static int
asks_where(struct asks_node *asks, struct redis_nodes *all)
{
	const struct redis_place at = { .name = slice_str(
					    asks->node ? asks->node : ""),
					.port = asks->port };
	int node;

	if (asks->hops == 0)
		return redis_nodes_at(all, asks->slot);
	node = redis_nodes_called(all, &at);
	if (node == REDIS_NODES_NOBODY && !asks->listens) {
		asks->listens = true;
		redis_nodes_doubt(all);
		redis_nodes_wait(all, &asks->wait);
	}
	return node;
}

static enum redis_did
subscribe_shard(struct redis_session *rs, const struct slice *arg, size_t argc)
{
	struct asks_node *asks = &rs->sub->asks;
	struct redis_nodes *all = redis_cluster_nodes(rs);
	struct part *part;
	enum redis_did did;
	int node;

	assert(asks->now != ASKED); /* nothing begins meanwhile */
	if (asks->now == NOT_ASKED) {
		did = asks_begin(rs, arg, argc);
		if (asks->now == NOT_ASKED)
			return did;
	}
	if (asks->now == ANSWERED) {
		asks->now = NOT_ASKED;
		return REDIS_DONE;
	}
	node = asks_where(asks, all);
	if (asks->wait.prev != NULL)
		return REDIS_LATER;
	if (node == REDIS_NODES_NOBODY) {
		asks->now = NOT_ASKED;
		return redis_say_error(rs, "ERR weir: no such node of the "
					   "cluster");
	}
	part = part_at(rs->sub, all->node[node]);
	if (part->member.ear == NULL)
		hub_join(rs->s.worker->hubs, &part->member, &member_ops,
			 rs->s.snapshot, rs->redis, rs->user, rs->password,
			 part->node, part->port);
	asks->now = ASKED;
	hub_subscribe(&part->member, RESP_SHARD, arg + 1, argc - 1);
	return REDIS_LATER;
}

/* ---- commands of all kinds ------------------------------------------------ */

enum redis_did
redis_pubsub_subscribe(struct redis_session *rs, const struct slice *arg,
		       size_t argc)
{
	struct session *s = &rs->s;
	struct hub_member *m;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (rs->sub != NULL && rs->sub->asks.now != NOT_ASKED)
		return subscribe_shard(rs, arg, argc);
	if (rs->redis->dedicated_connections == 0)
		return redis_say_error(rs, "ERR weir: no connections to "
					   "subscribe by "
					   "(dedicated_connections = 0)");
	if (rs->sub == NULL)
		rs->sub = sub_make(rs);
	if (is_too_much(rs->sub, arg, argc))
		return redis_say_error(rs, "ERR weir: too many subscriptions");
	if (redis_in_cluster(rs) && kind_of(arg[0]) == RESP_SHARD)
		return subscribe_shard(rs, arg, argc);
	if (!seat_pay(s))
		return redis_say_rate(rs);
	stats_add(&s->worker->stats, STAT_COMMANDS, 1);
	m = &rs->sub->main.member;
	if (m->ear == NULL)
		hub_join(s->worker->hubs, m, &member_ops, s->snapshot,
			 rs->redis, rs->user, rs->password, NULL, 0);
	hub_subscribe(m, kind_of(arg[0]), arg + 1, argc - 1);
	return REDIS_DONE;
}

static int
unsubscribe_all(struct redis_session *rs, struct buf *b, enum resp_channel kind)
{
	struct hub_channel *c;
	int bad = 0;

	for (struct part *p = &rs->sub->main; p != NULL; p = p->next)
		while ((c = hub_any(&p->member, kind)) != NULL) {
			struct slice name = hub_name(c);

			/* The channel may go with the last who wants it. */
			bad |= put_confirmation(rs, b, kind, true, &name,
						count_of(rs->sub, kind) - 1);
			hub_drop(&p->member, kind, name);
		}
	return bad;
}

static int
unsubscribe(struct redis_session *rs, struct buf *b, const struct slice *arg,
	    size_t argc)
{
	enum resp_channel kind = kind_of(arg[0]);
	struct redis_sub *sub = rs->sub;
	int bad = 0;

	if (argc == 1 && redis_pubsub_count(rs, kind) > 0)
		return unsubscribe_all(rs, b, kind);
	if (argc == 1)
		return put_confirmation(rs, b, kind, true, NULL,
					sub ? count_of(sub, kind) : 0);
	for (size_t i = 1; i < argc; i++) {
		for (struct part *p = sub ? &sub->main : NULL; p; p = p->next)
			hub_drop(&p->member, kind, arg[i]);
		bad |= put_confirmation(rs, b, kind, true, &arg[i],
					sub ? count_of(sub, kind) : 0);
	}
	return bad;
}

/* A confirmation is heard even after CLIENT REPLY OFF, as messages are. */
static enum redis_did
confirmed(struct redis_session *rs, int bad)
{
	assert(redis_is_idle(rs));
	stats_add(&rs->s.worker->stats, STAT_COMMANDS_LOCAL, 1);
	if (bad)
		session_close(&rs->s, WHY_TOO_BIG, NULL, NULL);
	return REDIS_DONE;
}

static enum redis_did
say_unsubscribed(struct redis_session *rs)
{
	size_t n;
	const uint8_t *p = buf_peek(&rs->sub->said, &n);
	int bad = stream_put(&rs->s.stream, p, n);

	buf_free(&rs->sub->said);
	rs->sub->leaving = STAYS;
	leave_if_done(rs);
	return confirmed(rs, bad);
}

static bool
has_ears(const struct redis_sub *sub)
{
	for (const struct part *p = sub ? &sub->main : NULL; p; p = p->next)
		if (p->member.ear != NULL)
			return true;
	return false;
}

/*
 * What was published before it is heard before it: so it waits for a fence.
 * Then it is done, and waits for another one, so that a PUBLISH after it finds
 * one listener less upstream.
 */
enum redis_did
redis_pubsub_unsubscribe(struct redis_session *rs, const struct slice *arg,
			 size_t argc)
{
	struct redis_sub *sub = rs->sub;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	if (!has_ears(sub))
		return confirmed(
		    rs, unsubscribe(rs, stream_out(&rs->s.stream), arg, argc));
	switch (sub->leaving) {
	case STAYS:
		sub->leaving = HEARS;
		break;
	case HAS_HEARD:
		if (unsubscribe(rs, &sub->said, arg, argc) != 0) {
			session_close(&rs->s, WHY_TOO_BIG, NULL, NULL);
			return REDIS_DONE;
		}
		sub->leaving = LEAVES;
		break;
	case HAS_LEFT:
		return say_unsubscribed(rs);
	case HEARS:
	case LEAVES:
		assert(!"its fence is on its way");
	}
	for (struct part *p = &sub->main; p != NULL; p = p->next)
		if (p->member.ear != NULL) {
			sub->fences++;
			hub_fence(&p->member);
		}
	return REDIS_LATER;
}

bool
redis_pubsub_pongs(const struct redis_session *rs)
{
	return rs->resp == 2 && redis_pubsub_is_on(rs);
}

bool
redis_pubsub_bars(const struct redis_session *rs, const struct redis_cmd *cmd)
{
	static const char *const allowed[] = { "ping",         "subscribe",
					       "psubscribe",   "ssubscribe",
					       "unsubscribe",  "punsubscribe",
					       "sunsubscribe", "quit",
					       "reset" };

	if (!redis_pubsub_pongs(rs))
		return false;
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
		if (strcmp(cmd->name, allowed[i]) == 0)
			return false;
	return true;
}

enum redis_did
redis_pubsub_say_barred(struct redis_session *rs, const struct redis_cmd *cmd)
{
	char text[REDIS_CMD_TEXT_MAX];
	bool is_exec = strcmp(cmd->name, "exec") == 0;

	snprintf(text, sizeof(text),
		 "%s Can't execute '%s': only (P|S)SUBSCRIBE / "
		 "(P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this "
		 "context",
		 is_exec ? "EXECABORT Transaction discarded because of:"
			 : "ERR",
		 cmd->name);
	return redis_say_error(rs, text);
}

bool
redis_pubsub_allows(const struct redis_session *rs, const struct route *r)
{
	const char *a = rs->user ? rs->user : "", *b;

	b = r->upstream_user ? r->upstream_user : "";
	return !redis_pubsub_is_on(rs) ||
	       (rs->redis == r->redis && rs->s.lessee.tenant == r->tenant &&
		strcmp(a, b) == 0);
}

/* ---- the end ---------------------------------------------------------- */

void
redis_pubsub_end(struct redis_session *rs)
{
	if (rs->sub == NULL)
		return;
	for (struct part *p = &rs->sub->main; p != NULL; p = p->next)
		hub_leave(&p->member);
	set_soft(rs->sub, 0);
	buf_free(&rs->sub->held);
	buf_free(&rs->sub->said);
	rs->sub->leaving = STAYS;
	rs->sub->fences = 0;
	redis_nodes_unwait(&rs->sub->asks.wait);
	rs->sub->asks.now = NOT_ASKED;
}

void
redis_pubsub_fini(struct redis_session *rs)
{
	struct redis_sub *sub = rs->sub;
	struct part *p;

	if (sub == NULL)
		return;
	assert(!has_ears(sub));
	while ((p = sub->main.next) != NULL) {
		sub->main.next = p->next;
		free(p->node);
		free(p);
	}
	buf_free(&sub->held);
	free(sub->asks.node);
	free(sub);
	rs->sub = NULL;
}

/* ---- PUBSUB NUMSUB ---------------------------------------------------- */

/* Where its reply is the next that comes, and not queued. */
bool
redis_pubsub_is_numsub(const struct redis_session *rs,
		       const struct redis_cmd *cmd)
{
	if ((rs->hold & ~(unsigned)REDIS_WATCHES) != 0 || rs->redis->cluster)
		return false;
	return strcmp(cmd->name, "pubsub|numsub") == 0 ||
	       strcmp(cmd->name, "pubsub|shardnumsub") == 0;
}

/* The line at the start of the bytes: what it takes, and its number; else 0. */
static size_t
number_at(const uint8_t *p, size_t n, uint8_t type, int64_t *value)
{
	const uint8_t *lf = n > 0 && p[0] == type ? memchr(p, '\n', n) : NULL;
	size_t size = lf != NULL ? (size_t)(lf - p) + 1 : 0;

	if (size < 4 || !resp_number(p + 1, size - 3, value))
		return 0;
	return size;
}

/* One channel and its number, corrected: bytes it took, 0 it is none. */
static size_t
put_count(const struct redis_session *rs, enum resp_channel kind,
	  struct buf *out, const uint8_t *p, size_t n, int *bad)
{
	struct redis_census *census = rs->s.worker->weir->census;
	int64_t size, counted;
	size_t at = number_at(p, n, '$', &size), last;
	struct slice name;

	if (at == 0 || size < 0 || (uint64_t)size + 2 > n - at)
		return 0;
	name = slice_of(p + at, (size_t)size);
	at += (size_t)size + 2;
	if ((last = number_at(p + at, n - at, ':', &counted)) == 0)
		return 0;
	*bad |= resp_put_bulk(out, name.p, name.n);
	*bad |= resp_put_int(
	    out, redis_census_correct(census, rs->redis, kind, name, counted));
	return at + last;
}

/* Pairs; or an error, which is passed as it is. */
static int
put_counts(const struct redis_session *rs, enum resp_channel kind,
	   struct buf *out, const uint8_t *p, size_t n)
{
	int64_t elements;
	size_t at = number_at(p, n, '*', &elements), used = at;
	int bad;

	bad = buf_put(out, p, at > 0 ? at : n);
	while (at > 0 && at < n && used > 0)
		at += used = put_count(rs, kind, out, p + at, n - at, &bad);
	return at == 0 || used > 0 ? bad : -1;
}

static int
tell_counts(struct redis_session *rs, unsigned kind, const uint8_t *p, size_t n)
{
	if (rs->mute != REDIS_LOUD)
		return 0;
	return put_counts(rs, (enum resp_channel)kind, redis_say(rs), p, n);
}

void
redis_pubsub_count_ours(const struct redis_session *rs, enum resp_channel kind,
			struct buf *reply)
{
	struct buf told;
	size_t n;
	const uint8_t *p = buf_peek(reply, &n);

	buf_init(&told, REDIS_OUT_MAX);
	if (put_counts(rs, kind, &told, p, n) != 0) {
		buf_free(&told);
		if (resp_put_error(&told, "ERR weir: not what was asked for"))
			abort();
	}
	buf_free(reply);
	*reply = told;
}

enum redis_did
redis_pubsub_numsub(struct redis_session *rs, const struct slice *arg,
		    size_t argc)
{
	bool shard = slice_is_word(arg[1], "shardnumsub");
	enum redis_did did;

	if (!redis_is_idle(rs))
		return REDIS_LATER;
	did = redis_forward(rs, arg, argc);
	if (!redis_is_idle(rs))
		redis_catch(rs, tell_counts, shard ? RESP_SHARD : RESP_CHANNEL);
	return did;
}

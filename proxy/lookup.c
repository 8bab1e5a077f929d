#include "proxy/lookup.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Longer is of no use: by then nobody waits for it. */
enum { PATIENCE_MS = 15000 };

struct lookup {
	const struct lookup_kind *kind;
	struct control *control;
	struct log *log;
	/* The control thread's: */
	struct lookup_cache *cache;
	uint64_t round; /* configurations seen: older answers do not count */
	uint64_t asked; /* of whom, with what; 0: nobody yet */
};

static struct lookup_ask *
ask_of_waiter(struct lookup_waiter *w)
{
	return (
	    struct lookup_ask *)(void *)((char *)w -
					 offsetof(struct lookup_ask, waiter));
}

/* ---- home ------------------------------------------------------------- */

static void
ask_is_home(struct message *m, void *owner)
{
	struct lookup_ask *ask = (struct lookup_ask *)(void *)m;

	ask->done(ask, owner);
}

static_assert(offsetof(struct lookup_ask, message) == 0, "it is its message");

static void
ask_go_home(struct lookup_ask *ask, void *value)
{
	ask->value = value ? ask->lookup->kind->ops.ref(value) : NULL;
	ask->message.run = ask_is_home;
	mailbox_post(ask->home, &ask->message);
}

void
lookup_ask_free(struct lookup_ask **at)
{
	struct lookup_ask *ask = *at;

	*at = NULL;
	if (ask == NULL)
		return;
	if (ask->value != NULL)
		ask->lookup->kind->ops.unref(ask->value);
	free(ask);
}

/* ---- on the control thread -------------------------------------------- */

static void
complain(struct lookup *u, const struct control_ask *ask, const char *text)
{
	LOG(u->log, LOG_ERROR, u->kind->event,
	    log_str("postgres", ask->upstream),
	    log_str(u->kind->key, ask->param[0]),
	    log_str("sqlstate", ask->sqlstate), log_str("error", text));
}

/* A name that is no text in that database is nobody's there. */
static bool
is_no_text(const struct control_ask *ask)
{
	return strcmp(ask->sqlstate, "22021") == 0 ||
	       strcmp(ask->sqlstate, "22P05") == 0;
}

/* What it found, or nobody; NULL: it could not be found out. */
static void *
judge(struct lookup *u, const struct control_ask *ask)
{
	const struct conf *c = control_snapshot(u->control)->conf;
	char why[CONTROL_ERROR_MAX] = "";
	void *value;

	if (ask->result == CONTROL_TOO_BIG) {
		complain(u, ask, "more than one row for one name");
		return u->kind->nobody(ask->param[0]);
	}
	if (ask->result == CONTROL_REFUSED && is_no_text(ask))
		return u->kind->nobody(ask->param[0]);
	if (ask->result != CONTROL_OK) {
		/* That an upstream is down has been said once. */
		if (ask->result != CONTROL_DOWN &&
		    ask->result != CONTROL_CLOSED)
			complain(u, ask, ask->error);
		return NULL;
	}
	value = u->kind->value(c, ask, why);
	if (why[0] != '\0')
		complain(u, ask, why);
	return value;
}

static void
answer_all(struct lookup *u, const char *name, void *value)
{
	struct lookup_source source;
	uint64_t now = control_now_ns(u->control), until;
	struct lookup_waiter *w;

	u->kind->source(&source, control_snapshot(u->control)->conf);
	until = now + 1000000u * (value && u->kind->ops.is_nobody(value)
				      ? source.negative_ttl_ms
				      : source.ttl_ms);
	w = lookup_cache_put(u->cache, name, &value, now, until,
			     until + source.stale_ms * 1000000u);
	while (w != NULL) {
		struct lookup_waiter *next = w->next;

		ask_go_home(ask_of_waiter(w), value);
		w = next;
	}
	if (value != NULL)
		u->kind->ops.unref(value);
}

static void ask_database(struct lookup *, const char *name);

static void
answered(struct control_ask *ask, void *owner)
{
	struct lookup *u = ask->arg;

	(void)owner;
	/* It was asked again under a newer configuration, or is to be. */
	if (ask->result == CONTROL_CLOSED)
		answer_all(u, ask->param[0], NULL);
	else if (ask->tag == u->round &&
		 lookup_cache_again(u->cache, ask->param[0]))
		ask_database(u, ask->param[0]);
	else if (ask->tag == u->round)
		answer_all(u, ask->param[0], judge(u, ask));
	control_ask_free(&ask);
}

/* Clients are to hear that it cannot be had before their own time is over. */
static uint64_t
patience_ms(const struct conf *c)
{
	uint64_t ms = c->client_login_timeout_ms * 3 / 4;

	return ms == 0 || ms > PATIENCE_MS ? PATIENCE_MS : ms;
}

static void
ask_database(struct lookup *u, const char *name)
{
	const struct conf *c = control_snapshot(u->control)->conf;
	struct lookup_source source;
	struct control_ask *ask;

	u->kind->source(&source, c);
	if (source.upstream == NULL) { /* not since a reload */
		answer_all(u, name, NULL);
		return;
	}
	ask = control_ask_new(source.upstream, source.dbname, source.query, 1,
			      &name);
	ask->timeout_ms = patience_ms(c);
	ask->arg = u;
	ask->tag = u->round;
	control_ask(u->control, ask, control_mailbox(u->control), answered);
}

static void
ask_arrives(struct message *m, void *owner)
{
	struct lookup_ask *ask = (struct lookup_ask *)(void *)m;
	struct lookup *u = ask->lookup;
	void *known =
	    lookup_cache_find(u->cache, ask->name, control_now_ns(u->control));

	(void)owner;
	if (known != NULL) {
		ask_go_home(ask, known);
		return;
	}
	switch (lookup_cache_wait(u->cache, ask->name, &ask->waiter)) {
	case -1:
		ask_go_home(ask, NULL);
		break;
	case 1:
		ask_database(u, ask->name);
		break;
	}
}

struct lookup_ask *
lookup_ask(struct lookup *u, const char *name, struct mailbox *home,
	   void (*done)(struct lookup_ask *, void *owner), void *asker)
{
	struct lookup_ask *ask = calloc(1, sizeof(*ask) + strlen(name) + 1);

	if (ask == NULL)
		abort();
	strcpy(ask->name, name);
	ask->lookup = u;
	ask->home = home;
	ask->done = done;
	ask->asker = asker;
	ask->message.run = ask_arrives;
	control_post(u->control, &ask->message);
	return ask;
}

void
lookup_changed(struct lookup *u, const char *name)
{
	if (name == NULL)
		lookup_cache_doubt_all(u->cache);
	else if (lookup_cache_doubt(u->cache, name) &&
		 lookup_cache_wait(u->cache, name, NULL) == 1)
		ask_database(u, name);
}

/* ---- life ------------------------------------------------------------- */

struct reload {
	struct message message;
	struct lookup *lookup;
};

static uint64_t
hash_text(uint64_t h, const char *text)
{
	const char *p = text ? text : "";

	do
		h = (h ^ (uint8_t)*p) * 1099511628211ull;
	while (*p++ != '\0');
	return h;
}

/* What another source said is no answer of this one, not even an old one. */
static bool
asks_another(struct lookup *u)
{
	uint64_t before = u->asked, h = 14695981039346656037ull;
	struct lookup_source s;

	u->kind->source(&s, control_snapshot(u->control)->conf);
	u->asked =
	    hash_text(hash_text(hash_text(h, s.upstream), s.dbname), s.query);
	return before != u->asked;
}

/* Another database, another query, or a wish to see changes now. */
static void
reloaded(struct message *m, void *owner)
{
	struct reload *r = (struct reload *)(void *)m;
	struct lookup *u = r->lookup;
	const char *name, *next;

	(void)owner;
	free(r);
	u->round++;
	lookup_cache_doubt_all(u->cache);
	if (asks_another(u))
		lookup_cache_forget(u->cache);
	for (name = lookup_cache_next(u->cache, NULL); name; name = next) {
		next = lookup_cache_next(u->cache, name);
		(void)lookup_cache_again(u->cache, name); /* it is */
		ask_database(u, name); /* may be the end of it */
	}
}

void
lookup_reload(struct lookup *u)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->message.run = reloaded;
	r->lookup = u;
	control_post(u->control, &r->message);
}

struct lookup *
lookup_open(const struct lookup_kind *kind, struct control *control,
	    struct log *log)
{
	struct lookup *u = calloc(1, sizeof(*u));

	if (u == NULL)
		abort();
	u->kind = kind;
	u->control = control;
	u->log = log;
	u->cache = lookup_cache_open(&kind->ops);
	lookup_reload(u);
	return u;
}

void
lookup_close(struct lookup **at)
{
	struct lookup *u = *at;

	*at = NULL;
	lookup_cache_close(&u->cache);
	free(u);
}

#include "proxy/secrets.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/control.h"

/* Longer is of no use: by then nobody waits for it. */
enum { PATIENCE_MS = 15000 };

/* Roles that may log in now.  `pg_catalog`, whatever the role's search_path. */
#define DEFAULT_QUERY                                                  \
	"SELECT a.rolname, a.rolpassword FROM pg_catalog.pg_authid a"  \
	" WHERE a.rolname OPERATOR(pg_catalog.=) $1 AND a.rolcanlogin" \
	" AND (a.rolvaliduntil IS NULL"                                \
	" OR a.rolvaliduntil OPERATOR(pg_catalog.>) pg_catalog.now())"

struct secrets {
	struct control *control;
	struct log *log;
	/* The control thread's: */
	struct secret_cache *cache;
	uint64_t round; /* configurations seen: older answers do not count */
};

static struct secrets_ask *
ask_of_waiter(struct secret_waiter *w)
{
	return (
	    struct secrets_ask *)(void *)((char *)w -
					  offsetof(struct secrets_ask, waiter));
}

/* ---- home ------------------------------------------------------------- */

static void
ask_is_home(struct message *m, void *owner)
{
	struct secrets_ask *ask = (struct secrets_ask *)(void *)m;

	ask->done(ask, owner);
}

static_assert(offsetof(struct secrets_ask, message) == 0, "it is its message");

static void
ask_go_home(struct secrets_ask *ask, struct secret *s)
{
	ask->secret = s ? secret_ref(s) : NULL;
	ask->message.run = ask_is_home;
	mailbox_post(ask->home, &ask->message);
}

void
secrets_ask_free(struct secrets_ask **at)
{
	struct secrets_ask *ask = *at;

	*at = NULL;
	if (ask == NULL)
		return;
	secret_unref(&ask->secret);
	free(ask);
}

/* ---- on the control thread -------------------------------------------- */

static void
complain(struct secrets *s, const struct control_ask *ask, const char *text)
{
	LOG(s->log, LOG_ERROR, LOG_EV_AUTH_QUERY,
	    log_str("postgres", ask->upstream), log_str("user", ask->param[0]),
	    log_str("sqlstate", ask->sqlstate), log_str("error", text));
}

/* A name that is no text in that database is nobody's there. */
static bool
is_no_text(const struct control_ask *ask)
{
	return strcmp(ask->sqlstate, "22021") == 0 ||
	       strcmp(ask->sqlstate, "22P05") == 0;
}

/* The secret it found, or nobody's; NULL: it could not be found out. */
static struct secret *
judge(struct secrets *s, const struct control_ask *ask)
{
	const char *name = ask->param[0];

	if (ask->result == CONTROL_TOO_BIG) {
		complain(s, ask, "more than one row for one name");
		return secret_new(name, NULL);
	}
	if (ask->result == CONTROL_REFUSED && is_no_text(ask))
		return secret_new(name, NULL);
	if (ask->result != CONTROL_OK) {
		/* That an upstream is down has been said once. */
		if (ask->result != CONTROL_DOWN &&
		    ask->result != CONTROL_CLOSED)
			complain(s, ask, ask->error);
		return NULL;
	}
	if (ask->columns < 2) {
		complain(s, ask, "one column, expected name and secret");
		return NULL;
	}
	if (ask->rows == 0)
		return secret_new(name, NULL);
	if (ask->value[0] == NULL || strcmp(ask->value[0], name) != 0) {
		complain(s, ask, "the row is of another name");
		return secret_new(name, NULL);
	}
	return secret_new(name, ask->value[1]);
}

static void
answer_all(struct secrets *s, const char *name, struct secret *secret,
	   uint64_t until_ns)
{
	struct secret_waiter *w = secret_cache_put(
	    s->cache, name, secret, control_now_ns(s->control), until_ns);

	while (w != NULL) {
		struct secret_waiter *next = w->next;

		ask_go_home(ask_of_waiter(w), secret);
		w = next;
	}
}

static void
answered(struct control_ask *ask, void *owner)
{
	struct secrets *s = ask->arg;
	const struct conf *c = control_snapshot(s->control)->conf;
	uint64_t now = control_now_ns(s->control), ttl;
	struct secret *secret;

	(void)owner;
	/* It was asked again under a newer configuration. */
	if (ask->tag != s->round && ask->result != CONTROL_CLOSED) {
		control_ask_free(&ask);
		return;
	}
	secret = judge(s, ask);
	ttl = secret != NULL && secret_is_nobody(secret)
		  ? c->auth.negative_ttl_ms
		  : c->auth.ttl_ms;
	answer_all(s, ask->param[0], secret, now + ttl * 1000000u);
	secret_unref(&secret);
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
ask_database(struct secrets *s, const char *name)
{
	const struct conf *c = control_snapshot(s->control)->conf;
	const struct conf_auth_source *a = &c->auth;
	struct control_ask *ask;

	if (a->postgres == NULL) { /* not since a reload */
		answer_all(s, name, NULL, 0);
		return;
	}
	ask = control_ask_new(a->postgres->name, a->dbname,
			      a->query ? a->query : DEFAULT_QUERY, 1, &name);
	ask->timeout_ms = patience_ms(c);
	ask->arg = s;
	ask->tag = s->round;
	control_ask(s->control, ask, control_mailbox(s->control), answered);
}

static void
ask_arrives(struct message *m, void *owner)
{
	struct secrets_ask *ask = (struct secrets_ask *)(void *)m;
	struct secrets *s = ask->secrets;
	struct secret *known =
	    secret_cache_find(s->cache, ask->name, control_now_ns(s->control));

	(void)owner;
	if (known != NULL) {
		ask_go_home(ask, known);
		return;
	}
	switch (secret_cache_wait(s->cache, ask->name, &ask->waiter)) {
	case -1:
		ask_go_home(ask, NULL);
		break;
	case 1:
		ask_database(s, ask->name);
		break;
	}
}

struct secrets_ask *
secrets_ask(struct secrets *s, const char *name, struct mailbox *home,
	    void (*done)(struct secrets_ask *, void *owner), void *asker)
{
	struct secrets_ask *ask;

	if (strlen(name) > SECRET_NAME_MAX)
		return NULL;
	if ((ask = calloc(1, sizeof(*ask) + strlen(name) + 1)) == NULL)
		abort();
	strcpy(ask->name, name);
	ask->secrets = s;
	ask->home = home;
	ask->done = done;
	ask->asker = asker;
	ask->message.run = ask_arrives;
	control_post(s->control, &ask->message);
	return ask;
}

/* ---- life ------------------------------------------------------------- */

struct reload {
	struct message message;
	struct secrets *secrets;
};

/* Another database, another query, or a wish to see changes now. */
static void
reloaded(struct message *m, void *owner)
{
	struct reload *r = (struct reload *)(void *)m;
	struct secrets *s = r->secrets;
	const char *name, *next;

	(void)owner;
	free(r);
	s->round++;
	secret_cache_forget(s->cache);
	for (name = secret_cache_next(s->cache, NULL); name; name = next) {
		next = secret_cache_next(s->cache, name);
		ask_database(s, name); /* may be the end of it */
	}
}

void
secrets_reload(struct secrets *s)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->message.run = reloaded;
	r->secrets = s;
	control_post(s->control, &r->message);
}

struct secrets *
secrets_open(struct control *control, struct log *log)
{
	struct secrets *s = calloc(1, sizeof(*s));

	if (s == NULL)
		abort();
	s->control = control;
	s->log = log;
	s->cache = secret_cache_open();
	return s;
}

void
secrets_close(struct secrets **at)
{
	struct secrets *s = *at;

	*at = NULL;
	secret_cache_close(&s->cache);
	free(s);
}

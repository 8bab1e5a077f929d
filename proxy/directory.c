#include "proxy/directory.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_keys.h"
#include "conf/conf_tenant.h"
#include "conf/mem.h"
#include "proxy/session.h"
#include "proxy/worker.h"

enum { COLUMNS_MAX = 256 };

struct directory {
	struct control *control;
	struct lookup *by_slug, *by_id;
	struct control_listener listener;  /* the control thread's */
	char *upstream, *dbname, *channel; /* its texts */
};

/* ---- what a row means ------------------------------------------------- */

static void
source_slug(struct lookup_source *s, const struct conf *c)
{
	const struct conf_directory *d = &c->directory;

	*s = (struct lookup_source){
		.upstream = d->postgres ? d->postgres->name : NULL,
		.dbname = d->dbname,
		.query = d->query,
		.ttl_ms = d->ttl_ms,
		.negative_ttl_ms = d->negative_ttl_ms,
		.stale_ms = d->ttl_ms * DIRECTORY_STALE,
	};
}

static void
source_id(struct lookup_source *s, const struct conf *c)
{
	source_slug(s, c);
	s->query = c->directory.query_by_id;
	if (s->query == NULL)
		s->upstream = NULL;
}

static struct tenant *
tenant_of_columns(const struct conf *c, const struct control_ask *ask,
		  const char *slug, char why[CONTROL_ERROR_MAX])
{
	struct conf_column column[COLUMNS_MAX];
	char text[CONF_TENANT_WHY_MAX];
	struct tenant *t;

	if (ask->columns > COLUMNS_MAX) {
		snprintf(why, CONTROL_ERROR_MAX, "more than %d columns",
			 COLUMNS_MAX);
		return conf_tenant_nobody(slug, true);
	}
	for (unsigned i = 0; i < ask->columns; i++)
		column[i] =
		    (struct conf_column){ ask->column[i], ask->value[i] };
	t = conf_tenant_new(c, slug, column, ask->columns, text);
	if (t == NULL)
		snprintf(why, CONTROL_ERROR_MAX, "%s", text);
	return t ? t : conf_tenant_nobody(slug, true);
}

static void *
row_by_slug(const struct conf *c, const struct control_ask *ask,
	    char why[CONTROL_ERROR_MAX])
{
	if (ask->rows == 0)
		return conf_tenant_nobody(ask->param[0], false);
	return tenant_of_columns(c, ask, ask->param[0], why);
}

/* Only for its slug, by which it is asked for again; and its id, which must be
 * what was asked for. */
static void *
row_by_id(const struct conf *c, const struct control_ask *ask,
	  char why[CONTROL_ERROR_MAX])
{
	const char *slug = NULL;
	struct tenant *t;

	if (ask->rows == 0)
		return conf_tenant_nobody(ask->param[0], false);
	for (unsigned i = 0; i < ask->columns; i++)
		if (strcmp(ask->column[i], "slug") == 0)
			slug = ask->value[i];
	t = tenant_of_columns(c, ask, slug ? slug : "", why);
	if (t->id != NULL && strcmp(t->id, ask->param[0]) != 0)
		snprintf(why, CONTROL_ERROR_MAX, "the row is of another id");
	return t;
}

static void *
nobody(const char *name)
{
	return conf_tenant_nobody(name, true);
}

static void *
ref(void *t)
{
	return (void *)(uintptr_t)tenant_ref(t);
}

static void
unref(void *t)
{
	const struct tenant *tenant = t;

	tenant_unref(&tenant);
}

static bool
is_nobody(const void *t)
{
	return ((const struct tenant *)t)->id == NULL;
}

static bool
is_held(const void *t)
{
	return ((const struct tenant *)t)->refs > 1;
}

static void
replaced(void *before, void *now)
{
	tenant_replaced(before, now);
}

const struct lookup_kind directory_by_slug = {
	.ops = { .known = DIRECTORY_KNOWN,
		 .unknown = DIRECTORY_UNKNOWN,
		 .ref = ref,
		 .unref = unref,
		 .is_nobody = is_nobody,
		 .is_held = is_held,
		 .replaced = replaced },
	.event = LOG_EV_DIRECTORY,
	.key = "organization",
	.source = source_slug,
	.value = row_by_slug,
	.nobody = nobody,
};

const struct lookup_kind directory_by_id = {
	.ops = { .known = DIRECTORY_KNOWN,
		 .unknown = DIRECTORY_UNKNOWN,
		 .ref = ref,
		 .unref = unref,
		 .is_nobody = is_nobody,
		 .is_held = is_held },
	.event = LOG_EV_DIRECTORY,
	.key = "id",
	.source = source_id,
	.value = row_by_id,
	.nobody = nobody,
};

/* ---- sessions --------------------------------------------------------- */

static void ask(struct session *, struct lookup *, const char *name);

static void
arrives(struct lookup_ask *a, void *owner)
{
	struct session *s = a->asker;

	(void)owner;
	if (s == NULL) {
		lookup_ask_free(&a);
		return;
	}
	assert(s->directory.ask == a);
	s->directory.home = true;
	session_wake(s);
}

static void
ask(struct session *s, struct lookup *which, const char *name)
{
	assert(s->directory.ask == NULL);
	s->directory.home = false;
	s->directory.ask =
	    lookup_ask(which, name, &s->worker->mailbox, arrives, s);
}

void
directory_part(struct session *s)
{
	struct directory_wait *w = &s->directory;

	if (w->ask != NULL && !w->home)
		w->ask->asker = NULL; /* freed when it comes home */
	else
		lookup_ask_free(&w->ask);
	w->ask = NULL;
	free(w->id);
	w->id = NULL;
}

/* The answer to what was asked by slug, in the end. */
static enum directory_found
answer(struct session *s, const struct tenant **t)
{
	struct directory_wait *w = &s->directory;
	const struct tenant *found = w->ask->value;
	enum directory_found how = DIRECTORY_FOUND;

	if (found == NULL)
		how = DIRECTORY_DOWN;
	else if (found->id == NULL ||
		 (w->id != NULL && strcmp(found->id, w->id) != 0))
		how = DIRECTORY_NOBODY;
	else
		*t = tenant_ref(found);
	directory_part(s);
	return how;
}

/* Its slug is known now: on with that. */
static enum directory_found
answer_id(struct session *s, const struct tenant **t)
{
	struct directory_wait *w = &s->directory;
	struct directory *d = s->worker->weir->directory;
	struct lookup_ask *a = w->ask;
	const struct tenant *found = a->value;

	if (found == NULL || found->id == NULL)
		return answer(s, t);
	w->ask = NULL;
	ask(s, d->by_slug, found->slug);
	lookup_ask_free(&a);
	return DIRECTORY_LATER;
}

/* Is what was asked for before this? */
static bool
is_asked(const struct session *s, bool by_id, const char *value)
{
	const struct directory_wait *w = &s->directory;

	if (w->ask == NULL || by_id != (w->id != NULL))
		return false;
	return strcmp(w->id ? w->id : w->ask->name, value) == 0;
}

static bool
may_be(const struct conf *c, bool by_id, const char *value)
{
	if (c->directory.postgres == NULL)
		return false;
	if (!by_id)
		return conf_keys_kind(KIND_ORGANIZATION)->name_ok(value);
	return c->directory.query_by_id != NULL && value[0] != '\0' &&
	       strlen(value) <= DIRECTORY_ID_MAX;
}

enum directory_found
directory_find(struct session *s, bool by_id, const char *value,
	       const struct tenant **t)
{
	struct directory *d = s->worker->weir->directory;
	const struct conf *c = s->snapshot->conf;

	*t = by_id ? conf_tenant_find_id(c, value) : conf_tenant_find(c, value);
	if (*t != NULL)
		return DIRECTORY_FOUND;
	if (!may_be(c, by_id, value))
		return DIRECTORY_NOBODY;
	if (is_asked(s, by_id, value)) {
		if (!s->directory.home)
			return DIRECTORY_LATER;
		return s->directory.ask->lookup == d->by_id ? answer_id(s, t)
							    : answer(s, t);
	}
	directory_part(s);
	if (by_id)
		s->directory.id = mem_copy(value);
	ask(s, by_id ? d->by_id : d->by_slug, value);
	return DIRECTORY_LATER;
}

/* ---- changes ---------------------------------------------------------- */

/* Which id is whose is not in a NOTIFY: all are asked for again. */
static void
changed(struct control_listener *l, const char *payload)
{
	struct directory *d = l->arg;

	lookup_changed(d->by_slug, payload && *payload ? payload : NULL);
	lookup_changed(d->by_id, NULL);
}

static void
listener_free_texts(struct directory *d)
{
	free(d->upstream);
	free(d->dbname);
	free(d->channel);
	d->upstream = d->dbname = d->channel = NULL;
}

static void
relisten(struct directory *d)
{
	const struct conf_directory *c =
	    &control_snapshot(d->control)->conf->directory;

	control_unlisten(&d->listener);
	listener_free_texts(d);
	if (c->postgres == NULL || c->notify_channel == NULL)
		return;
	d->upstream = mem_copy(c->postgres->name);
	d->dbname = mem_copy(c->dbname);
	d->channel = mem_copy(c->notify_channel);
	d->listener = (struct control_listener){ .upstream = d->upstream,
						 .dbname = d->dbname,
						 .channel = d->channel,
						 .heard = changed,
						 .arg = d };
	control_listen(d->control, &d->listener);
}

struct reload {
	struct message message;
	struct directory *directory;
};

static void
reloaded(struct message *m, void *owner)
{
	struct reload *r = (struct reload *)(void *)m;

	(void)owner;
	relisten(r->directory);
	free(r);
}

static void
listen_again(struct directory *d)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r == NULL)
		abort();
	r->message.run = reloaded;
	r->directory = d;
	control_post(d->control, &r->message);
}

void
directory_reload(struct directory *d)
{
	lookup_reload(d->by_slug);
	lookup_reload(d->by_id);
	listen_again(d);
}

struct directory *
directory_open(struct control *control, struct log *log)
{
	struct directory *d = calloc(1, sizeof(*d));

	if (d == NULL)
		abort();
	d->control = control;
	d->by_slug = lookup_open(&directory_by_slug, control, log);
	d->by_id = lookup_open(&directory_by_id, control, log);
	listen_again(d);
	return d;
}

void
directory_close(struct directory **at)
{
	struct directory *d = *at;

	*at = NULL;
	listener_free_texts(d);
	lookup_close(&d->by_slug);
	lookup_close(&d->by_id);
	free(d);
}

/*
 * pg_hello: from the first byte of a PostgreSQL client to ReadyForQuery.
 */
#include "proxy/pg_hello.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/tenant.h"
#include "protocol/context.h"
#include "proxy/console.h"
#include "proxy/pg_switch.h"
#include "proxy/rls.h"
#include "proxy/route.h"
#include "proxy/seat.h"
#include "proxy/secrets.h"
#include "proxy/worker.h"

enum { TLS_HANDSHAKE = 0x16 }; /* what a ClientHello begins with */

void
pg_hello_free(struct pg_session *ps)
{
	if (ps->hello == NULL)
		return;
	buf_free(&ps->hello->reports);
	pg_auth_free(&ps->hello->auth);
	rls_part(&ps->hello->rls);
	OPENSSL_cleanse(ps->hello, sizeof(*ps->hello));
	free(ps->hello);
	ps->hello = NULL;
}

static struct pg_hello *
hello_of(struct pg_session *ps)
{
	if (ps->hello == NULL) {
		if ((ps->hello = calloc(1, sizeof(*ps->hello))) == NULL)
			abort();
		buf_init(&ps->hello->reports, 1 << 16);
	}
	return ps->hello;
}

/* ---- the packets before the first message ----------------------------- */

static enum step
hello_ssl(struct session *s)
{
	struct pg_hello *h = hello_of(pg_session(s));
	SSL_CTX *ctx = s->snapshot->listen;
	size_t n;

	/* Bytes sent before our answer could be an attacker's, to be taken
	 * for the client's after the handshake (CVE-2021-23222). */
	stream_peek(&s->stream, &n);
	if (n > 0 || h->encrypted_asked || s->stream.ssl != NULL) {
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
		return STEP_WAIT;
	}
	h->encrypted_asked = true;
	if (ctx == NULL || s->is_unix ||
	    s->snapshot->conf->tls.client_mode == SSLMODE_DISABLE) {
		if (stream_put(&s->stream, "N", 1) != 0)
			abort();
		return STEP_WAIT;
	}
	if (stream_put(&s->stream, "S", 1) != 0)
		abort();
	session_enter(s, SESSION_TLS);
	if (stream_start_tls(&s->stream, ctx, true, NULL, false) != 0)
		session_close(s, WHY_TLS, NULL, s->stream.error);
	return STEP_WAIT;
}

/*
 * TLS from the first byte (PostgreSQL 17's sslnegotiation=direct); what has
 * been received is its beginning.  Where there is no TLS there is nobody who
 * would understand an error in clear.
 */
static enum step
hello_direct(struct session *s)
{
	SSL_CTX *ctx = s->snapshot->listen_direct;

	session_enter(s, SESSION_TLS);
	if (ctx == NULL || s->is_unix ||
	    s->snapshot->conf->tls.client_mode == SSLMODE_DISABLE)
		session_close(s, WHY_TLS, NULL, "TLS is not offered here");
	else if (stream_start_direct_tls(&s->stream, ctx) != 0)
		session_close(s, WHY_TLS, NULL, s->stream.error);
	return STEP_WAIT;
}

/* Asked once: who asks on and never reads would fill our side with answers. */
static enum step
hello_gss(struct session *s)
{
	struct pg_hello *h = hello_of(pg_session(s));

	if (h->gss_asked) {
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
		return STEP_WAIT;
	}
	h->gss_asked = true;
	if (stream_put(&s->stream, "N", 1) != 0)
		abort();
	return STEP_AGAIN;
}

static enum step
hello_cancel(struct session *s, const struct pg_startup *packet)
{
	struct pg_reader r = pg_reader(packet->body.p, packet->body.n);
	struct cancel_key key;

	key.pid = pg_read_u32(&r);
	key.secret = pg_read_u32(&r);
	if (r.bad || r.p != r.end)
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
	else
		pg_session(s)->cancels = cancel_ask(s, key);
	return STEP_WAIT;
}

/* PostgreSQL takes any bytes for a name of an application, and shows those it
 * does not like so.  As a setting (set_config) it would have to be a text, and
 * one that the database's encoding can write. */
static void
clean_name(char *value)
{
	for (; *value != '\0'; value++)
		if ((uint8_t)*value >= 0x80)
			*value = '?';
}

static int
add_setting(struct pg_hello *h, const char *name, char *value)
{
	if (strcasecmp(name, "weir.organization") == 0) {
		h->organization = value;
		return 0;
	}
	if (h->settings == PG_SETTINGS_MAX)
		return -1;
	if (strcasecmp(name, "application_name") == 0)
		clean_name(value);
	h->setting[h->settings++] = (struct label_pair){ name, value };
	return 0;
}

static int
read_options(struct pg_hello *h, const char *text)
{
	char *out = h->options;
	const char *name, *value;
	int r;

	while ((r = pg_options_next(&text, out, &name, &value)) > 0) {
		if (add_setting(h, name, (char *)(uintptr_t)value) != 0)
			return -1;
		out = (char *)(uintptr_t)value + strlen(value) + 1;
	}
	return r;
}

/* The word PostgreSQL knows, or what it takes for a yes or a no. */
static int
read_replication(struct pg_hello *h, const char *value)
{
	static const struct {
		const char *word;
		size_t least; /* letters that suffice */
		const char *means;
	} words[] = { { "true", 1, "true" }, { "false", 1, NULL },
		      { "yes", 1, "true" },  { "no", 1, NULL },
		      { "on", 2, "true" },   { "off", 2, NULL },
		      { "1", 1, "true" },    { "0", 1, NULL } };
	size_t n = strlen(value);

	h->replication = "database";
	if (strcmp(value, "database") == 0)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		h->replication = words[i].means;
		if (n >= words[i].least &&
		    strncasecmp(value, words[i].word, n) == 0)
			return 0;
	}
	return -1;
}

/* The startup packet's pairs.  -1: malformed or not for us; why is set. */
static int
read_startup(struct pg_hello *h, enum why *w, const char **text)
{
	char *p = (char *)h->packet, *end;

	*w = WHY_BAD_FRAME;
	*text = NULL;
	end = (char *)h->packet + PG_STARTUP_MAX;
	while (p < end && *p != '\0') {
		char *name = p, *value = p + strlen(p) + 1;

		if (value > end)
			return -1;
		p = value + strlen(value) + 1;
		if (strcmp(name, "user") == 0) {
			h->user = value;
		} else if (strcmp(name, "database") == 0) {
			h->database = value;
		} else if (strcmp(name, "replication") == 0) {
			if (read_replication(h, value) != 0) {
				*text = "invalid value for parameter "
					"\"replication\"";
				return -1;
			}
		} else if (strcmp(name, "options") == 0) {
			/* Twice would overwrite what is pointed to. */
			if (h->options[0] != '\0' ||
			    read_options(h, value) != 0) {
				*w = WHY_UNSUPPORTED;
				*text = "options may hold only -c name=value";
				return -1;
			}
		} else if (strncmp(name, "_pq_.", 5) == 0) {
			h->bad_protocol_options = true;
		} else if (add_setting(h, name, value) != 0) {
			return -1;
		}
	}
	if (h->user == NULL || h->user[0] == '\0')
		return -1;
	if (h->database == NULL || h->database[0] == '\0')
		h->database = h->user;
	return 0;
}

/* Settings that say whose rows are seen are ours to make. */
static bool
is_guarded(const struct conf *c, const struct tenant *t, const char *name)
{
	static const char *const always[] = { "role", "session_authorization" };

	if (c->context.key != NULL &&
	    strcasecmp(c->context.variable, name) == 0)
		return true;
	for (size_t i = 0; i < c->variables_n; i++)
		if (strcasecmp(c->variables[i].name, name) == 0)
			return true;
	if (t == NULL)
		return false;
	for (size_t i = 0; i < t->var_n; i++)
		if (strcasecmp(t->var[i].name, name) == 0)
			return true;
	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		if (strcasecmp(always[i], name) == 0)
			return true;
	return false;
}

/* We speak 3.0 and know no options: told so, the client may go on or leave. */
static int
send_negotiation(struct session *s, struct pg_hello *h)
{
	struct buf names;
	uint32_t count = 0;
	size_t n;
	int r = 0;

	if (h->version == PG_PROTOCOL(3, 0) && !h->bad_protocol_options)
		return 0;
	buf_init(&names, PG_STARTUP_MAX);
	for (char *p = (char *)h->packet; *p != '\0';) {
		char *value = p + strlen(p) + 1;

		if (strncmp(p, "_pq_.", 5) == 0) {
			r |= buf_put(&names, p, strlen(p) + 1);
			count++;
		}
		p = value + strlen(value) + 1;
	}
	buf_peek(&names, &n);
	r |= pg_put(stream_out(&s->stream), 'v', "iib", PG_PROTOCOL(3, 0),
		    count, slice_of(buf_peek(&names, &n), n));
	buf_free(&names);
	return r;
}

static enum step
hello_startup(struct session *s, const struct pg_startup *packet)
{
	struct pg_hello *h = hello_of(pg_session(s));
	const struct conf *c = s->snapshot->conf;
	const char *text;
	enum why w;

	if (packet->code >> 16 != 3) {
		session_close(s, WHY_UNSUPPORTED, NULL,
			      "only protocol version 3 is supported");
		return STEP_WAIT;
	}
	h->version = packet->code;
	memcpy(h->packet, packet->body.p, packet->body.n);
	memset(h->packet + packet->body.n, 0,
	       sizeof(h->packet) - packet->body.n);
	if (read_startup(h, &w, &text) != 0) {
		session_close(s, w, NULL, text);
		return STEP_WAIT;
	}
	if (c->tls.client_mode >= SSLMODE_REQUIRE && s->stream.ssl == NULL &&
	    !s->is_unix) {
		session_close(s, WHY_NO_TLS, NULL, NULL);
		return STEP_WAIT;
	}
	if (send_negotiation(s, h) != 0)
		abort();
	return pg_auth_begin(s);
}

enum step
pg_hello_step(struct session *s)
{
	struct pg_startup packet;
	size_t n;
	const uint8_t *p = stream_peek(&s->stream, &n);
	int got = pg_startup_next(&packet, p, n);

	if (pg_session(s)->cancels != NULL)
		return STEP_WAIT;
	if (n > 0 && p[0] == TLS_HANDSHAKE && pg_session(s)->hello == NULL &&
	    s->stream.ssl == NULL)
		return hello_direct(s);
	if (got < 0)
		session_close(s, WHY_BAD_FRAME, NULL, NULL);
	if (got <= 0)
		return STEP_WAIT;
	if (packet.code == PG_SSL_REQUEST) {
		stream_consume(&s->stream, packet.size);
		return hello_ssl(s);
	}
	if (packet.code == PG_GSSENC_REQUEST) {
		stream_consume(&s->stream, packet.size);
		return hello_gss(s);
	}
	if (packet.code == PG_CANCEL_REQUEST)
		return hello_cancel(s, &packet);
	{
		/* The views in `packet` die with the consume. */
		enum step next = hello_startup(s, &packet);

		if (!session_is_over(s))
			stream_consume(&s->stream, packet.size);
		return next;
	}
}

/* ---- authenticated: organization, pool, parameters -------------------- */

/* Every variable of [variables] is set for every client: to its template's
 * value, or to the organization's own, or to ''; and so is the signed one. */
struct label *
pg_hello_label(struct session *s, const struct label_pair *own, size_t own_n,
	       const struct tenant *t, const struct jwt *jwt)
{
	const struct conf *c = s->snapshot->conf;
	size_t max = c->variables_n + (t ? t->var_n : 0) + own_n, n = 0;
	struct label_pair *pair = calloc(max + 1, sizeof(*pair));
	char **made = calloc(max + 1, sizeof(*made));
	bool is_signed = c->context.key != NULL;
	struct label *l;

	if (pair == NULL || made == NULL)
		abort();
	for (size_t i = 0; i < own_n; i++)
		pair[n++] = own[i];
	for (size_t i = 0; i < c->variables_n; i++)
		pair[n++] = (struct label_pair){ c->variables[i].name,
						 c->variables[i].value };
	for (size_t i = 0; t != NULL && i < t->var_n; i++)
		pair[n++] =
		    (struct label_pair){ t->var[i].name, t->var[i].value };
	for (size_t i = own_n; i < n; i++) {
		made[i] = tenant_expand(pair[i].value, t, s->user->name, jwt);
		if (made[i] == NULL)
			abort(); /* conf_load() has tried every template */
		pair[i].value = made[i];
	}
	if (is_signed && t != NULL)
		made[n] = context_subject(t->id, s->user->name);
	if (is_signed) {
		pair[n] = (struct label_pair){ c->context.variable,
					       made[n] ? made[n] : "" };
		n++;
	}
	l = label_new_signed(&s->worker->pools.labels, pair, n,
			     is_signed ? c->context.variable : NULL);
	for (size_t i = 0; i < n; i++)
		free(made[i]);
	free(made);
	free(pair);
	return l;
}

/* Where this route leads, for an ordinary client. */
struct pool *
pg_hello_pool(struct session *s, struct route *r)
{
	if (r->postgres->user == NULL && r->upstream_password == NULL &&
	    pg_session(s)->secret != NULL)
		r->upstream_password = pg_session(s)->secret->user.password;
	return pool_find_postgres(&s->worker->pools, s->snapshot, r->postgres,
				  r->dbname, r->upstream_user,
				  r->upstream_password);
}

static bool
settings_are_allowed(struct session *s, struct pg_hello *h)
{
	for (size_t i = 0; i < h->settings; i++) {
		const struct conf *c = s->snapshot->conf;
		const char *name = h->setting[i].name;
		char text[160];

		/* What says which organization it is has been found true. */
		if (!is_guarded(c, s->lessee.tenant, name) ||
		    route_variable(c, name) != ROUTE_NO_KEY)
			continue;
		snprintf(text, sizeof(text),
			 "%.100s is set by the proxy, not by clients", name);
		session_close(s, WHY_GUARDED, NULL, text);
		return false;
	}
	return true;
}

/* ParameterStatus messages as our own log-in received them; where the
 * client's settings change one, the later one counts. */
static void
put_welcome(struct session *s)
{
	const struct buf *params = s->lessee.label->params;
	struct buf *out = stream_out(&s->stream);
	size_t n;
	const uint8_t *p = buf_peek(&s->pool->welcome, &n);

	if (buf_put(out, p, n) != 0)
		abort(); /* the first bytes of any size this client is sent */
	if (params == NULL)
		return;
	p = buf_peek(params, &n);
	if (buf_put(out, p, n) != 0)
		abort();
}

static enum step
hello_done(struct session *s)
{
	struct pg_session *ps = pg_session(s);

	put_welcome(s);
	ps->key = cancel_give_key(s->worker, s);
	if (pg_put(stream_out(&s->stream), 'K', "ii", ps->key.pid,
		   ps->key.secret) != 0 ||
	    pg_put_ready(stream_out(&s->stream), 'I') != 0)
		abort();
	pg_hello_free(ps);
	session_enter(s, SESSION_IDLE);
	session_logged_in(s);
	return STEP_AGAIN;
}

/* What the token says, NULL if it says nothing.  -1: no slug, but something. */
static int
signed_organization(struct session *s, struct pg_hello *h, const char **slug)
{
	const char *claim = s->snapshot->conf->jwt.organization_claim;

	*slug = NULL;
	if (h->auth.jwt == NULL || claim == NULL ||
	    !jwt_has(h->auth.jwt, claim))
		return 0;
	*slug = jwt_string(h->auth.jwt, claim);
	return *slug != NULL ? 0 : -1;
}

/*
 * A walsender shows every row there is, whatever policies say: not to a client
 * that belongs to an organization, and to others where the operator says so.
 * False: the session is closed.
 */
static bool
may_replicate(struct session *s, const struct route *r)
{
	char text[160];

	if (r->tenant != NULL || s->user->organization != NULL ||
	    s->user->organizations_n > 0) {
		session_close(s, WHY_GUARDED, NULL,
			      "replication connections are not for users of "
			      "an organization: they see all rows");
		return false;
	}
	if (r->postgres->max_replication_connections == 0) {
		snprintf(text, sizeof(text),
			 "replication connections are switched off: "
			 "max_replication_connections of [postgres %s] is 0",
			 r->postgres->name);
		session_close(s, WHY_UNSUPPORTED, NULL, text);
		return false;
	}
	return true;
}

/* All it says of its organization.  -1: more than anybody has to say. */
static int
read_names(struct session *s, struct pg_hello *h, struct route_names *names)
{
	*names = (struct route_names){
		.slug = { h->slug, h->organization },
		.server_name = stream_server_name(&s->stream),
	};
	for (size_t i = 0; i < h->settings; i++) {
		enum route_key key =
		    route_variable(s->snapshot->conf, h->setting[i].name);

		if (key == ROUTE_NO_KEY)
			continue;
		if (names->claims == ROUTE_CLAIMS_MAX)
			return -1;
		names->claim[names->claims].key = key;
		names->claim[names->claims++].value = h->setting[i].value;
	}
	return signed_organization(s, h, &names->signed_slug);
}

/* As route_postgres(). */
static int
find_route(struct session *s, struct pg_hello *h, struct route *r, enum why *w)
{
	struct route_names names;
	int result = -1;

	*w = WHY_NO_TENANT;
	if (read_names(s, h, &names) == 0)
		result = route_postgres(r, s, s->user, &names, h->database, w);
	if (result < 0 && *w == WHY_NO_TENANT)
		stats_add(&s->worker->stats, STAT_NO_TENANT_LOGIN, 1);
	return result;
}

/* Who works for an organization, or can, is led only where rows are kept apart;
 * as route_postgres(). */
static int
is_admitted(struct session *s, struct pg_hello *h, const struct route *r,
	    enum why *w)
{
	if (r->tenant == NULL && s->user->organization == NULL &&
	    s->user->organizations_n == 0)
		return 0;
	return rls_admits(s, r->postgres, r->dbname, &h->rls, w);
}

static int
find_pool(struct session *s, struct pg_hello *h, enum why *w)
{
	struct route r;
	int result = find_route(s, h, &r, w);

	if (result != 0)
		return result;
	if ((result = is_admitted(s, h, &r, w)) != 0) {
		tenant_unref(&r.tenant);
		return result;
	}
	s->tenant = s->lessee.tenant = r.tenant;
	if (!seats_take(s, s->user, r.tenant, w))
		return -1;
	pg_session(s)->mode = r.pool_mode;
	s->lessee.keeps = r.pool_mode == POOL_MODE_SESSION;
	s->lessee.mode = LEASE_EXCLUSIVE;
	*w = WHY_CLIENTS_FULL;
	if (h->replication == NULL)
		s->pool = pg_hello_pool(s, &r);
	else if (may_replicate(s, &r))
		s->pool = pool_find_replication(
		    &s->worker->pools, s->snapshot, r.postgres, r.dbname,
		    r.upstream_user, r.upstream_password, h->replication);
	if (s->pool == NULL)
		return -1;
	pool_join(s->pool);
	h->may_switch = r.may_switch;
	if (h->auth.phase == PG_AUTH_PROVED && r.postgres->user == NULL)
		pool_pass_keys(s->pool, &h->auth.scram.verifier,
			       h->auth.scram.client_key);
	return 0;
}

/* The client is who it says it is. */
enum step
pg_hello_in(struct session *s)
{
	struct pg_session *ps = pg_session(s);
	struct pg_hello *h = ps->hello;
	enum why w;
	int result;

	if (console_is(s->snapshot->conf, h->database))
		return console_in(s);
	result = find_pool(s, h, &w);
	h->proved = true;
	if (result < 0)
		session_close(s, w, NULL, NULL);
	if (result != 0)
		return STEP_WAIT;
	if (!settings_are_allowed(s, h))
		return STEP_WAIT;
	s->lessee.label = pg_hello_label(s, h->setting, h->settings,
					 s->lessee.tenant, h->auth.jwt);
	if (h->may_switch)
		pg_switch_open(ps, h);
	if (pg_put(stream_out(&s->stream), 'R', "i", PG_AUTH_OK) != 0)
		abort();
	/* Settings of the client's own are tried on a server first: a wrong
	 * one must fail the log-in, as it would without us. */
	h->fresh = h->settings > 0 && !s->lessee.label->verified;
	if (buf_len(&s->pool->welcome) == 0)
		budget_get_welcome(&s->worker->weir->budgets, s->pool->budget,
				   &s->pool->welcome);
	if (h->replication == NULL && buf_len(&s->pool->welcome) > 0 &&
	    !h->fresh)
		return hello_done(s);
	if (!pool_want(s->pool, &s->lessee)) {
		session_enter(s, SESSION_WAIT);
		return STEP_WAIT;
	}
	pg_hello_granted(s);
	return STEP_WAIT;
}

void
pg_hello_granted(struct session *s)
{
	struct server *v = s->lessee.server;
	struct pg_server *pg = pg_server(v);
	size_t n;
	const uint8_t *p = buf_peek(&pg->params, &n);

	session_enter(s, SESSION_LEASED);
	if (pg_session(s)->hello->replication != NULL) {
		pg_relay_begin(s);
		return;
	}
	if (buf_len(&s->pool->welcome) == 0 &&
	    buf_put(&s->pool->welcome, p, n) != 0)
		abort();
	if (pg_server_binding(v)) {
		pg->bind_reports = true;
		pg_server_sync(v);
		return;
	}
	pg_hello_rest(s);
}

/* What a server reports while it takes our settings. */
void
pg_hello_reply(struct session *s, const uint8_t *p, size_t n)
{
	if (buf_put(&pg_session(s)->hello->reports, p, n) != 0)
		session_close(s, WHY_UPSTREAM_SENSE, NULL, NULL);
}

static void
remember_reports(struct label *l, struct buf *reports)
{
	size_t n;
	const uint8_t *p = buf_peek(reports, &n);

	l->verified = true;
	if (n == 0 || l->params != NULL)
		return;
	if ((l->params = malloc(sizeof(*l->params))) == NULL)
		abort();
	buf_init(l->params, 1 << 16);
	if (buf_put(l->params, p, n) != 0)
		abort(); /* the same limit as reports */
}

void
pg_hello_rest(struct session *s)
{
	struct server *v = s->lessee.server;

	pg_server(v)->bind_reports = false;
	remember_reports(s->lessee.label, &pg_session(s)->hello->reports);
	server_release(v);
	hello_done(s);
	session_wake(s);
}

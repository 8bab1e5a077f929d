#include "conf/conf_check.h"

#include <string.h>
#include <sys/stat.h>

#include "conf/conf.h"
#include "conf/conf_users.h"
#include "conf/file.h"
#include "conf/mem.h"
#include "conf/value.h"
#include "protocol/context.h"
#include "protocol/row_text.h"
#include "protocol/secret.h"

enum { PEM_MAX = 64 << 10 };

#define GIVEN(c, field) (conf_line((c), &(field)) != 0)
#define ERROR(c, e, line, ...) \
	conf_errors_add((e), (c)->file, (line), __VA_ARGS__)
#define WARN(c, e, line, ...) \
	conf_errors_warn((e), (c)->file, (line), __VA_ARGS__)

/* The first address of a kind, or NULL. */
static const struct conf_listen *
listens_to(const struct conf *c, enum conf_listen_kind kind)
{
	for (size_t i = 0; i < c->listen_n; i++)
		if (c->listen[i].kind == kind)
			return &c->listen[i];
	return NULL;
}

static void
check_listen(const struct conf *c, struct conf_errors *e)
{
	const struct conf_listen *pg = listens_to(c, LISTEN_POSTGRES);
	const struct conf_listen *redis = listens_to(c, LISTEN_REDIS);
	const struct conf_listen *tls = listens_to(c, LISTEN_REDIS_TLS);

	if (pg == NULL && redis == NULL && tls == NULL)
		ERROR(c, e, 0,
		      "nothing to listen on, expected postgres_listen, "
		      "redis_listen or redis_tls_listen in [weir]");
	if (pg != NULL && c->postgres_n == 0)
		ERROR(c, e, pg->line,
		      "postgres_listen without an upstream, expected a "
		      "[postgres NAME] section");
	if (redis != NULL && c->redis_n == 0)
		ERROR(c, e, redis->line,
		      "redis_listen without an upstream, expected a "
		      "[redis NAME] section");
	if (tls != NULL && c->redis_n == 0)
		ERROR(c, e, tls->line,
		      "redis_tls_listen without an upstream, expected a "
		      "[redis NAME] section");
	if (tls != NULL && !GIVEN(c, c->tls.cert_file))
		ERROR(c, e, tls->line,
		      "redis_tls_listen without a certificate, expected "
		      "cert_file in [tls]");
}

static void
check_private(const struct conf *c, struct conf_errors *e, unsigned at,
	      const char *key, const char *path)
{
	struct stat st;

	if (stat(path, &st) == 0 && (st.st_mode & S_IRWXO) != 0)
		WARN(c, e, at,
		     "%s = %s: open to every user of this machine, expected "
		     "mode 0600",
		     key, path);
}

static void
check_tls(struct conf *c, struct conf_errors *e)
{
	struct conf_tls *t = &c->tls;
	unsigned cert_at = conf_line(c, &t->cert_file);
	unsigned key_at = conf_line(c, &t->key_file);
	unsigned mode_at = conf_line(c, &t->client_mode);

	if (cert_at != 0 && key_at == 0)
		ERROR(c, e, cert_at,
		      "cert_file alone, expected a key_file too");
	else if (key_at != 0 && cert_at == 0)
		ERROR(c, e, key_at, "key_file alone, expected a cert_file too");
	else if (t->cert_file_n != t->key_file_n && t->cert_file_n > 0 &&
		 t->key_file_n > 0)
		ERROR(c, e, key_at,
		      "key_file: %zu files for the %zu of cert_file, expected "
		      "the key of each, in the same order",
		      t->key_file_n, t->cert_file_n);
	if (mode_at == 0)
		t->client_mode = cert_at ? SSLMODE_ALLOW : SSLMODE_DISABLE;
	else if (t->client_mode != SSLMODE_DISABLE && cert_at == 0)
		ERROR(c, e, mode_at,
		      "client_mode: there is no certificate for TLS, expected "
		      "cert_file and key_file");
	if (t->client_mode >= SSLMODE_VERIFY_CA && !GIVEN(c, t->ca_file))
		ERROR(c, e, mode_at,
		      "client_mode: there is nothing to verify certificates "
		      "of clients with, expected ca_file");
	for (size_t i = 0; i < t->key_file_n; i++)
		check_private(c, e, key_at, "key_file", t->key_file[i]);
}

/* Each gets its port; true: all are directories. */
static bool
check_hosts(struct conf *c, struct conf_errors *e, struct conf_postgres *p)
{
	bool local = p->hosts_n > 0;

	for (size_t i = 0; i < p->hosts_n; i++) {
		struct conf_host *h = &p->hosts[i];

		if (h->port == 0)
			h->port = p->port;
		local = local && h->name[0] == '/';
		for (size_t k = 0; k < i; k++)
			if (strcmp(p->hosts[k].name, h->name) == 0 &&
			    p->hosts[k].port == h->port)
				ERROR(c, e, conf_line(c, &p->host),
				      "host: %s with port %u a second time, "
				      "expected each once",
				      h->name, h->port);
	}
	return local;
}

/*
 * What both kinds of upstream have in common.  As in libpq, the certificates
 * of the system are those of the whole world, so that only the name tells.
 */
static void
check_dial(struct conf *c, struct conf_errors *e, enum conf_sslmode *mode,
	   char *const *root, char *const *cert, char *const *key)
{
	unsigned cert_at = conf_line(c, cert), key_at = conf_line(c, key);

	if (*root != NULL && strcmp(*root, CONF_ROOTCERT_SYSTEM) == 0) {
		if (!GIVEN(c, *mode))
			*mode = SSLMODE_VERIFY_FULL;
		else if (*mode < SSLMODE_VERIFY_FULL)
			ERROR(c, e, conf_line(c, mode),
			      "sslmode: too weak for sslrootcert = system, "
			      "expected verify-full");
	}
	if (cert_at != 0 && key_at == 0)
		ERROR(c, e, cert_at, "sslcert alone, expected an sslkey too");
	if (key_at != 0 && cert_at == 0)
		ERROR(c, e, key_at, "sslkey alone, expected an sslcert too");
	if (*key != NULL)
		check_private(c, e, key_at, "sslkey", *key);
}

/*
 * What policies depend on is looked at by weir's own role, on its own way
 * there; without one there is nobody to look.
 */
static void
check_rls(struct conf *c, struct conf_errors *e, struct conf_postgres *p)
{
	bool tenants = c->tenant_n > 0 || c->variables_n > 0 ||
		       c->directory.postgres != NULL;

	if (!GIVEN(c, p->rls_check))
		p->rls_check =
		    tenants && p->user != NULL ? RLS_CHECK_WARN : RLS_CHECK_OFF;
	else if (p->rls_check != RLS_CHECK_OFF && p->user == NULL)
		ERROR(c, e, conf_line(c, &p->rls_check),
		      "[postgres %s]: rls_check looks at the role weir logs in "
		      "as, expected a user of its own there",
		      p->name);
}

static void
check_postgres(struct conf *c, struct conf_errors *e, struct conf_postgres *p)
{
	bool local = check_hosts(c, e, p);

	if (!GIVEN(c, p->host))
		ERROR(c, e, conf_line(c, &p->name),
		      "[postgres %s]: host is missing, expected a name, an "
		      "address or a /directory",
		      p->name);
	if (!GIVEN(c, p->sslmode))
		p->sslmode = local ? SSLMODE_DISABLE : SSLMODE_PREFER;
	if (local && p->sslmode >= SSLMODE_REQUIRE)
		ERROR(c, e, conf_line(c, &p->sslmode),
		      "sslmode: host = %s is a unix socket, which has no TLS, "
		      "expected disable",
		      p->host);
	if (local)
		p->sslmode = SSLMODE_DISABLE;
	else
		check_dial(c, e, &p->sslmode, &p->sslrootcert, &p->sslcert,
			   &p->sslkey);
	if (p->sslnegotiation == SSLNEGOTIATION_DIRECT &&
	    p->sslmode < SSLMODE_REQUIRE)
		ERROR(c, e, conf_line(c, &p->sslnegotiation),
		      "sslnegotiation = direct: nothing else can be tried "
		      "then, expected sslmode = require, verify-ca or "
		      "verify-full");
	check_rls(c, e, p);
}

/* Each gets its port; several are Sentinels. */
static void
check_redis_hosts(struct conf *c, struct conf_errors *e, struct conf_redis *r)
{
	for (size_t i = 0; i < r->hosts_n; i++)
		if (r->hosts[i].port == 0)
			r->hosts[i].port = r->sentinel ? 26379 : 6379;
	if (r->hosts_n > 0)
		r->port = r->hosts[0].port;
	if (r->hosts_n > 1 && r->sentinel == NULL && !r->cluster)
		ERROR(c, e, conf_line(c, &r->url),
		      "[redis %s]: several hosts in the url, expected one, or "
		      "a sentinel, or cluster = on",
		      r->name);
	if (r->cluster && r->sentinel != NULL)
		ERROR(c, e, conf_line(c, &r->cluster),
		      "[redis %s]: cluster and sentinel, expected one of them",
		      r->name);
	if (r->cluster && r->db != 0)
		ERROR(c, e, conf_line(c, &r->url),
		      "[redis %s]: a cluster has no db but 0, expected no "
		      "other in the url",
		      r->name);
	if (r->cluster && r->min_dedicated_connections > 0)
		ERROR(c, e, conf_line(c, &r->min_dedicated_connections),
		      "[redis %s]: min_dedicated_connections and cluster, "
		      "expected one of them",
		      r->name);
	if (r->sentinel != NULL && strpbrk(r->sentinel, " \t\"'"))
		ERROR(c, e, conf_line(c, &r->sentinel),
		      "sentinel: expected a name without blanks or quotes");
	if (r->sentinel == NULL &&
	    (r->sentinel_user != NULL || r->sentinel_password != NULL))
		ERROR(c, e,
		      r->sentinel_user ? conf_line(c, &r->sentinel_user)
				       : conf_line(c, &r->sentinel_password),
		      "[redis %s]: a log-in at Sentinels and no sentinel, "
		      "expected the name they give to the master",
		      r->name);
	if (r->sentinel_user != NULL && r->sentinel_password == NULL)
		ERROR(c, e, conf_line(c, &r->sentinel_user),
		      "sentinel_user alone, expected a sentinel_password too");
}

static void
check_redis(struct conf *c, struct conf_errors *e, struct conf_redis *r)
{
	check_redis_hosts(c, e, r);
	if (!GIVEN(c, r->url))
		ERROR(c, e, conf_line(c, &r->name),
		      "[redis %s]: url is missing, expected "
		      "redis://HOST:PORT/DB",
		      r->name);
	if (!GIVEN(c, r->sslmode))
		r->sslmode = r->tls ? SSLMODE_VERIFY_FULL : SSLMODE_DISABLE;
	else if (r->host != NULL && r->tls != (r->sslmode != SSLMODE_DISABLE))
		ERROR(c, e, conf_line(c, &r->sslmode),
		      "sslmode does not fit the url, expected %s",
		      r->tls ? "require, verify-ca or verify-full"
			     : "disable, or rediss:// in the url");
	if (r->tls)
		check_dial(c, e, &r->sslmode, &r->sslrootcert, &r->sslcert,
			   &r->sslkey);
}

static void
check_database(struct conf *c, struct conf_errors *e, struct conf_database *d)
{
	if (GIVEN(c, d->postgres))
		return;
	if (c->postgres_n == 1)
		d->postgres = &c->postgres[0];
	else
		ERROR(c, e, conf_line(c, &d->name),
		      "[database %s]: postgres is missing, expected the name "
		      "of a [postgres NAME] section",
		      d->name);
}

static void
check_tenant(struct conf *c, struct conf_errors *e, struct tenant *t)
{
	if (t->id == NULL)
		t->id = mem_text(t->slug, strlen(t->slug));
	if (GIVEN(c, t->redis_user) != GIVEN(c, t->redis_password))
		ERROR(c, e, conf_line(c, &t->slug),
		      "[organization %s]: only one of redis_user and "
		      "redis_password, expected both or neither",
		      t->slug);
}

bool
conf_check_is_verifier(const char *password)
{
	static const char prefix[] = "SCRAM-SHA-256$";

	return strncmp(password, prefix, sizeof(prefix) - 1) == 0;
}

/* Does it log in by what its password is? */
static bool
by_password(const struct conf_user *u)
{
	return u->auth == AUTH_SCRAM || u->auth == AUTH_MD5 ||
	       u->auth == AUTH_PLAIN;
}

static void
check_password(struct conf *c, struct conf_errors *e, struct conf_user *u)
{
	unsigned at = conf_line(c, &u->password);

	if (conf_check_is_verifier(u->password)) {
		u->verifier = mem_zero(1, sizeof(*u->verifier), "a verifier");
		if (scram_verifier_parse(u->verifier, u->password) == -1)
			ERROR(c, e, at,
			      "[user %s]: the password is not a verifier that "
			      "can be used, expected "
			      "SCRAM-SHA-256$iterations:salt$stored:server",
			      u->name);
	} else if (by_password(u) &&
		   strlen(u->password) < CONF_CHECK_SECRET_MIN) {
		WARN(c, e, at,
		     "[user %s]: a password of %zu characters, expected at "
		     "least %d",
		     u->name, strlen(u->password), CONF_CHECK_SECRET_MIN);
	}
}

/* What is stored must be of use for the way the user logs in. */
static void
check_stored_form(struct conf *c, struct conf_errors *e,
		  const struct conf_user *u)
{
	bool md5 = pg_md5_is_stored(u->password);

	if (u->auth == AUTH_PLAIN &&
	    (md5 || conf_check_is_verifier(u->password)))
		ERROR(c, e, conf_line(c, &u->password),
		      "[user %s]: a stored form, expected the password "
		      "itself for auth = plain",
		      u->name);
	if (u->auth == AUTH_SCRAM && md5)
		ERROR(c, e, conf_line(c, &u->password),
		      "[user %s]: an MD5 hash, expected the password, its "
		      "SCRAM-SHA-256$ verifier, or auth = md5",
		      u->name);
}

/* Tokens and certificates need somebody who is trusted to make them. */
static void
check_means(struct conf *c, struct conf_errors *e, const struct conf_user *u)
{
	if (u->auth == AUTH_JWT && c->jwt.secret == NULL &&
	    c->jwt.public_key_file == NULL)
		ERROR(c, e, conf_line(c, &u->auth),
		      "[user %s]: auth = jwt without a key, expected "
		      "jwt_secret or jwt_public_key_file in [auth]",
		      u->name);
	if (u->auth == AUTH_CERT &&
	    (c->tls.ca_file == NULL || c->tls.client_mode == SSLMODE_DISABLE))
		ERROR(c, e, conf_line(c, &u->auth),
		      "[user %s]: auth = cert without anybody who signs "
		      "certificates, expected TLS and ca_file in [tls]",
		      u->name);
}

/* Whoever weir asks itself, it must be able to log in to. */
static void
check_asked(const struct conf *c, struct conf_errors *e, const char *key,
	    const struct conf_postgres *const *field, char *const *dbname)
{
	const struct conf_postgres *up = *field;

	if (up->user == NULL || (up->password == NULL && up->hosts_n > 0 &&
				 up->hosts[0].name[0] != '/'))
		ERROR(c, e, conf_line(c, field),
		      "%s = %s: weir cannot log in there by itself, expected "
		      "an upstream with user and password",
		      key, up->name);
	if (up->dbname == NULL && *dbname == NULL)
		ERROR(c, e, conf_line(c, field),
		      "%s = %s: the upstream names no database, expected "
		      "%sdbname",
		      key, up->name, strncmp(key, "auth", 4) ? "" : "auth_");
}

static void
check_query(const struct conf *c, struct conf_errors *e, const char *key,
	    char *const *query, const char *what)
{
	if (*query != NULL && strstr(*query, "$1") == NULL)
		ERROR(c, e, conf_line(c, query),
		      "%s asks for nobody, expected $1 in it, the %s", key,
		      what);
}

static void
check_auth(const struct conf *c, struct conf_errors *e)
{
	const struct conf_auth_source *a = &c->auth;

	if (a->postgres == NULL) {
		if (a->query != NULL || a->dbname != NULL)
			ERROR(c, e,
			      a->query ? conf_line(c, &a->query)
				       : conf_line(c, &a->dbname),
			      "nobody to ask for secrets, expected "
			      "auth_postgres too");
		return;
	}
	check_asked(c, e, "auth_postgres", &a->postgres, &a->dbname);
	check_query(c, e, "auth_query", &a->query, "user's name");
}

static void
check_directory(const struct conf *c, struct conf_errors *e)
{
	const struct conf_directory *d = &c->directory;

	if (d->postgres == NULL &&
	    (d->query || d->query_by_id || d->dbname || d->notify_channel))
		ERROR(c, e,
		      d->query ? conf_line(c, &d->query)
			       : conf_line(c, &d->notify_channel),
		      "[directory]: nobody to ask for organizations, expected "
		      "postgres too");
	if (d->postgres == NULL)
		return;
	check_asked(c, e, "postgres", &d->postgres, &d->dbname);
	if (d->query == NULL)
		ERROR(c, e, conf_line(c, &d->postgres),
		      "[directory]: query is missing, expected SQL with $1, "
		      "the slug");
	check_query(c, e, "query", &d->query, "slug");
	check_query(c, e, "query_by_id", &d->query_by_id, "id");
}

/* May the secret come from elsewhere? */
static bool
is_asked_for(const struct conf *c, const struct conf_user *u)
{
	return c->auth.postgres != NULL && u->password == NULL &&
	       (u->auth == AUTH_SCRAM || u->auth == AUTH_MD5 ||
		u->auth == AUTH_PLAIN);
}

#define SLUG_CHARS \
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

/* Those it may choose from; what is not there yet may come with a reload. */
static void
check_choice(struct conf *c, struct conf_errors *e, struct conf_user *u)
{
	unsigned at = conf_line(c, &u->organizations);

	if (u->organizations_n > 0 && conf_line(c, &u->organization) != 0)
		ERROR(c, e, at,
		      "[user %s]: only one of organization and organizations "
		      "was expected",
		      u->name);
	for (size_t i = 0; i < u->organizations_n; i++) {
		const char *slug = u->organizations[i];

		if (strcmp(slug, "*") == 0 ? u->organizations_n > 1
					   : slug[strspn(slug, SLUG_CHARS)])
			ERROR(c, e, at,
			      "organizations: %s, expected * alone or slugs",
			      slug);
		else if (slug[0] != '*' && conf_tenant_find(c, slug) == NULL)
			WARN(c, e, at,
			     "organizations: there is no [organization %s]",
			     slug);
	}
}

static void
check_user(struct conf *c, struct conf_errors *e, struct conf_user *u)
{
	check_means(c, e, u);
	check_choice(c, e, u);
	if (is_asked_for(c, u))
		return;
	if (by_password(u) && u->password == NULL && !GIVEN(c, u->password))
		ERROR(c, e, conf_line(c, &u->name),
		      "[user %s]: password is missing, expected one, or its "
		      "SCRAM-SHA-256$ verifier",
		      u->name);
	else if (by_password(u) && u->password != NULL)
		check_stored_form(c, e, u);
	if (u->auth == AUTH_TRUST)
		WARN(c, e, conf_line(c, &u->auth),
		     "[user %s]: auth = trust lets in whoever says this "
		     "name, expected in tests only",
		     u->name);
	if (u->password != NULL)
		check_password(c, e, u);
}

/* A secret short enough to be guessed signs for everybody. */
static void
check_jwt_secret(struct conf *c, struct conf_errors *e, char *const *secret,
		 const char *key)
{
	unsigned at = conf_line(c, secret);

	if (*secret == NULL)
		return;
	if (strncmp(*secret, "-----BEGIN", 10) == 0)
		ERROR(c, e, at, "%s: a PEM file, expected jwt_public_key_file",
		      key);
	else if (strlen(*secret) < JWT_SECRET_MIN)
		ERROR(c, e, at,
		      "%s: a secret of %zu bytes, expected at least %d", key,
		      strlen(*secret), JWT_SECRET_MIN);
}

static void
check_jwt(struct conf *c, struct conf_errors *e)
{
	struct conf_jwt *j = &c->jwt;
	const char *why;
	char *pem;
	size_t n;

	check_jwt_secret(c, e, &j->secret, "jwt_secret");
	check_jwt_secret(c, e, &j->previous_secret, "jwt_previous_secret");
	if (GIVEN(c, j->previous_secret) && !GIVEN(c, j->secret))
		ERROR(c, e, conf_line(c, &j->previous_secret),
		      "jwt_previous_secret alone, expected jwt_secret too");
	if (j->public_key_file == NULL)
		return;
	if ((pem = file_read(j->public_key_file, PEM_MAX, &n, NULL, &why)) !=
	    NULL) {
		j->public_key = jwt_key_load(pem, n, &why);
		file_free(pem, n);
	}
	if (j->public_key == NULL)
		ERROR(
		    c, e, conf_line(c, &j->public_key_file),
		    "jwt_public_key_file = %s: %s, expected a PEM public key, "
		    "RSA of 2048 to 8192 bits or EC of P-256",
		    j->public_key_file, why);
}

static void
check_context_key(struct conf *c, struct conf_errors *e, char *const *key,
		  const char *name)
{
	if (*key != NULL && strlen(*key) < CONTEXT_KEY_MIN)
		ERROR(c, e, conf_line(c, key),
		      "%s: a key of %zu characters, expected at least %d", name,
		      strlen(*key), CONTEXT_KEY_MIN);
}

static bool
is_variable_of(const struct tenant_var *var, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(var[i].name, name) == 0)
			return true;
	return false;
}

/* What is signed must not be overwritten by what is not. */
static void
check_context_variable(struct conf *c, struct conf_errors *e)
{
	char *name = c->context.variable;
	bool taken;

	for (char *p = name; *p != '\0'; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p - 'A' + 'a');
	taken = is_variable_of(c->variables, c->variables_n, name);
	for (size_t i = 0; i < c->tenant_n; i++)
		taken = taken || is_variable_of(c->tenant[i].var,
						c->tenant[i].var_n, name);
	if (!value_is_variable(name) || strchr(name, '.') == NULL)
		ERROR(c, e, conf_line(c, &c->context.variable),
		      "variable = %s: expected a setting's name with a dot, "
		      "like app.weir_context",
		      name);
	else if (taken)
		ERROR(c, e, conf_line(c, &c->context.variable),
		      "variable = %s: a template sets it too, expected a name "
		      "that is neither in [variables] nor a var.NAME",
		      name);
}

static void
check_context(struct conf *c, struct conf_errors *e)
{
	struct conf_context *x = &c->context;

	if (x->key == NULL) {
		if (GIVEN(c, x->previous_key) || GIVEN(c, x->ttl_ms) ||
		    GIVEN(c, x->variable))
			ERROR(c, e, 0,
			      "[context]: key is missing, expected one of at "
			      "least %d characters",
			      CONTEXT_KEY_MIN);
		return;
	}
	check_context_key(c, e, &x->key, "key");
	check_context_key(c, e, &x->previous_key, "previous_key");
	if (x->previous_key != NULL && strcmp(x->key, x->previous_key) == 0)
		ERROR(c, e, conf_line(c, &x->previous_key),
		      "previous_key: the same as key, expected the one before "
		      "it");
	check_context_variable(c, e);
	x->id = context_key_id(x->key);
}

/* What a user is asked for, seen from outside. */
static enum conf_auth
asked_as(const struct conf_user *u)
{
	if (u->auth == AUTH_JWT)
		return AUTH_PLAIN;
	return u->auth == AUTH_MD5 && u->verifier ? AUTH_SCRAM : u->auth;
}

/* Who is unknown must look like most of those who are known. */
static enum conf_auth
unknown_auth(const struct conf *c)
{
	static const enum conf_auth methods[] = { AUTH_SCRAM, AUTH_MD5,
						  AUTH_PLAIN, AUTH_CERT };
	enum conf_auth most = AUTH_SCRAM;
	size_t most_n = 0;

	for (size_t m = 0; m < sizeof(methods) / sizeof(methods[0]); m++) {
		size_t n = 0;

		for (size_t i = 0; i < c->user_n; i++)
			n += asked_as(&c->user[i]) == methods[m];
		for (size_t i = 0; i < c->listed_n; i++)
			n += asked_as(&c->listed[i]) == methods[m];
		if (n > most_n) {
			most = methods[m];
			most_n = n;
		}
	}
	return most;
}

/* Without any [database], the only upstream serves them all. */
static void
add_fallback(struct conf *c, struct conf_errors *e)
{
	if (c->database_n > 0 || c->postgres_n == 0)
		return;
	if (c->postgres_n > 1) {
		ERROR(c, e, conf_line(c, &c->postgres[1].name),
		      "[postgres %s]: a second upstream and no [database], "
		      "expected a [database *] section that names one",
		      c->postgres[1].name);
		return;
	}
	free(c->database);
	c->database = mem_zero(1, sizeof(*c->database), "a database");
	c->database[0].name = mem_text("*", 1);
	c->database[0].postgres = &c->postgres[0];
	c->database_n = 1;
}

static int
by_id(const void *a, const void *b)
{
	const struct tenant *x = *(const struct tenant *const *)a;
	const struct tenant *y = *(const struct tenant *const *)b;
	int order = strcmp(x->id, y->id);

	return order ? order : strcmp(x->slug, y->slug);
}

/* Two organizations with one id would see each other's rows. */
static void
check_ids(struct conf *c, struct conf_errors *e)
{
	const struct tenant **t = mem_zero(c->tenant_n, sizeof(*t), "a list");

	c->tenant_by_id = t;
	for (size_t i = 0; i < c->tenant_n; i++)
		t[i] = &c->tenant[i];
	qsort(t, c->tenant_n, sizeof(*t), by_id);
	for (size_t i = 1; i < c->tenant_n; i++)
		if (strcmp(t[i - 1]->id, t[i]->id) == 0)
			ERROR(c, e, conf_line(c, &t[i]->slug),
			      "[organization %s]: id = %s is that of "
			      "[organization %s] too, expected one of its own",
			      t[i]->slug, t[i]->id, t[i - 1]->slug);
}

/* Where the commands of an organization go, and as whom. */
struct redis_home {
	const struct conf_redis *redis;
	const char *user;
	struct tenant *tenant;
};

/* One server is one server, whatever its sections are called: a database of
 * its own is left by a script that SELECTs another. */
static int
by_home(const void *a, const void *b)
{
	const struct redis_home *x = a, *y = b;
	int order = strcmp(x->redis->host, y->redis->host);

	if (order == 0 && x->redis->port != y->redis->port)
		order = x->redis->port < y->redis->port ? -1 : 1;
	if (order == 0)
		order = strcmp(x->redis->sentinel ? x->redis->sentinel : "",
			       y->redis->sentinel ? y->redis->sentinel : "");
	return order ? order : strcmp(x->user, y->user);
}

static struct redis_home
home_of(const struct conf *c, struct tenant *t)
{
	const struct conf_redis *r = t->redis ? t->redis : &c->redis[0];
	const char *user = t->redis_user ? t->redis_user : r->user;

	return (struct redis_home){ .redis = r,
				    .user = user ? user : "default",
				    .tenant = t };
}

/* One warning for all that share a home. */
static void
warn_of_home(const struct conf *c, struct conf_errors *e,
	     const struct redis_home *home, size_t n)
{
	unsigned first = 0;

	for (size_t i = 0; i < n; i++) {
		unsigned line = conf_line(c, &home[i].tenant->slug);

		home[i].tenant->redis_shared = true;
		if (i == 0 || line < first)
			first = line;
	}
	WARN(c, e, first,
	     "%zu organizations share the user %s of [redis %s] and nothing "
	     "keeps them apart there, expected a redis_user or a redis of its "
	     "own for each",
	     n, home->user, home->redis->name);
}

static void
check_homes(const struct conf *c, struct conf_errors *e)
{
	struct redis_home *home;
	size_t n = 0, from = 0;

	if (c->redis_n == 0 || c->tenant_n == 0)
		return;
	home = mem_zero(c->tenant_n, sizeof(*home), "a list");
	for (size_t i = 0; i < c->tenant_n; i++) {
		struct tenant *t = &c->tenant[i];

		/* The directory may send others where it has no user. */
		t->redis_shared = c->directory.postgres && !t->redis_user;
		home[n] = home_of(c, t);
		n += home[n].redis->host != NULL; /* else told already */
	}
	qsort(home, n, sizeof(*home), by_home);
	for (size_t i = 1; i <= n; i++) {
		if (i < n && by_home(&home[from], &home[i]) == 0)
			continue;
		if (i - from > 1)
			warn_of_home(c, e, &home[from], i - from);
		from = i;
	}
	free(home);
}

static bool
publishes(const struct conf *c)
{
	for (size_t i = 0; i < c->batch_n; i++)
		if (c->batch[i].publish != NULL)
			return true;
	return false;
}

/* It borrows connections as clients do that keep one. */
static void
check_publish_to(const struct conf *c, struct conf_errors *e,
		 const struct conf_batch *b, const struct conf_redis *r)
{
	if (r->dedicated_connections == 0)
		ERROR(c, e, conf_line(c, &b->publish),
		      "publish: [redis %s] has dedicated_connections = 0, "
		      "expected at least 1",
		      r->name);
}

static void
check_batch(const struct conf *c, struct conf_errors *e, struct conf_batch *b)
{
	const char *expected;

	if (b->publish == NULL) {
		if (b->publish_payload != NULL)
			ERROR(c, e, conf_line(c, &b->publish_payload),
			      "publish_payload alone, expected publish too");
		return;
	}
	b->channel = row_text_channel(b->publish, &expected);
	if (b->channel == NULL)
		ERROR(c, e, conf_line(c, &b->publish),
		      "publish = %s: expected %s", b->publish, expected);
	b->message = row_text_message(b->publish_payload, &expected);
	if (b->message == NULL)
		ERROR(c, e, conf_line(c, &b->publish_payload),
		      "publish_payload = %s: expected %s", b->publish_payload,
		      expected);
	if (c->redis_n == 0)
		ERROR(c, e, conf_line(c, &b->publish),
		      "publish without an upstream, expected a [redis NAME] "
		      "section");
	for (size_t i = 0; i < c->redis_n; i++)
		check_publish_to(c, e, b, &c->redis[i]);
}

/* What is not known before a client names it cannot be looked at before. */
static void
check_unnamed(const struct conf *c, struct conf_errors *e)
{
	for (size_t i = 0; i < c->database_n; i++) {
		const struct conf_database *d = &c->database[i];
		const struct conf_postgres *up = d->postgres;

		if (up != NULL && up->rls_check == RLS_CHECK_REQUIRE &&
		    strcmp(d->name, "*") == 0 && d->dbname == NULL &&
		    up->dbname == NULL)
			WARN(c, e, conf_line(c, &up->rls_check),
			     "rls_check = require of [postgres %s] refuses "
			     "organizations every database that no section "
			     "names, expected a dbname",
			     up->name);
	}
}

void
conf_check(struct conf *c, struct conf_errors *e)
{
	for (size_t i = 0; i < c->postgres_n; i++)
		check_postgres(c, e, &c->postgres[i]);
	for (size_t i = 0; i < c->redis_n; i++)
		check_redis(c, e, &c->redis[i]);
	for (size_t i = 0; i < c->database_n; i++)
		check_database(c, e, &c->database[i]);
	for (size_t i = 0; i < c->tenant_n; i++)
		check_tenant(c, e, &c->tenant[i]);
	check_tls(c, e); /* users may need it */
	conf_users_add(c, e);
	for (size_t i = 0; i < c->user_n; i++)
		check_user(c, e, &c->user[i]);
	c->unknown_auth = unknown_auth(c);
	check_jwt(c, e);
	check_context(c, e);
	check_listen(c, e);
	check_auth(c, e);
	check_directory(c, e);
	check_ids(c, e);
	for (size_t i = 0; i < c->batch_n; i++)
		check_batch(c, e, &c->batch[i]);
	if (listens_to(c, LISTEN_REDIS) || listens_to(c, LISTEN_REDIS_TLS) ||
	    publishes(c))
		check_homes(c, e);
	add_fallback(c, e);
	check_unnamed(c, e);
	if (c->user_n + c->listed_n == 0 && c->auth.postgres == NULL)
		WARN(c, e, 0,
		     "nobody can log in, expected a [user NAME] section");
}

#include "pool/pg_login.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/pg_server.h"
#include "protocol/pg.h"
#include "protocol/scram.h"
#include "protocol/secret.h"
#include "tls/tls.h"

struct pg_login {
	struct job job;        /* PBKDF2, elsewhere */
	struct server *server; /* NULL: it was closed while the job ran */
	struct pools *home;
	bool asked_tls; /* SSLRequest sent, one byte comes back */
	bool running;   /* the job is under way */
	bool proved;    /* the server showed that it knows the key too */
	bool sasl;
	bool asked_role; /* of a server that does not tell by itself */
	bool asked_pid;
	enum conf_role role;
	struct scram_client scram;
	char password[1024];
	struct scram_keys keys;
	int failed;
};

struct pg_login *
pg_login_new(struct server *v)
{
	struct pg_login *login = calloc(1, sizeof(*login));

	if (login == NULL)
		abort();
	login->server = v;
	login->home = v->pool->home;
	return login;
}

void
pg_login_free(struct pg_login **at)
{
	struct pg_login *login = *at;

	*at = NULL;
	if (login == NULL)
		return;
	if (login->running) {
		login->server = NULL;
		return;
	}
	OPENSSL_cleanse(login, sizeof(*login));
	free(login);
}

static void
login_fail(struct server *v, const char *text)
{
	server_close(v, WHY_UPSTREAM_DOWN, NULL, text);
}

/* ---- TLS -------------------------------------------------------------- */

/* A walsender cannot be asked for settings later: they go with its log-in. */
static void
login_startup_replication(struct server *v)
{
	struct pool *p = v->pool;
	struct buf pairs;
	size_t n;

	buf_init(&pairs, 1 << 20);
	for (size_t i = 0; v->label != NULL && i < v->label->n; i++) {
		const struct label_pair *pair = &v->label->pair[i];

		if (buf_put(&pairs, pair->name, strlen(pair->name) + 1) != 0 ||
		    buf_put(&pairs, pair->value, strlen(pair->value) + 1) != 0)
			abort(); /* a startup packet and some variables */
	}
	buf_peek(&pairs, &n);
	if (pg_put(stream_out(&v->stream), 0, "issssssbc", PG_PROTOCOL(3, 0),
		   "user", p->user, "database", p->dbname, "replication",
		   p->replication, slice_of(buf_peek(&pairs, &n), n), 0) != 0)
		abort();
	buf_free(&pairs);
}

static void
login_startup(struct server *v)
{
	struct pool *p = v->pool;

	if (p->replication != NULL) {
		login_startup_replication(v);
		return;
	}
	/* Settings travel by bind, not here: some servers refuse what they do
	 * not know in a startup packet. */
	if (pg_put(stream_out(&v->stream), 0, "issssc", PG_PROTOCOL(3, 0),
		   "user", p->user, "database", p->dbname, 0) != 0)
		abort();
}

static void
login_start_tls(struct server *v)
{
	const struct conf_postgres *up = v->pool->postgres;
	SSL_CTX *ctx = v->pool->snapshot->postgres[up->index];

	if (ctx == NULL)
		login_fail(v, "TLS is not configured any more");
	else if (server_start_tls(v, ctx, v->host->name,
				  up->sslmode == SSLMODE_VERIFY_FULL) != 0)
		login_fail(v, v->stream.error);
}

void
pg_login_opened(struct server *v)
{
	const struct conf_postgres *up = v->pool->postgres;
	struct pg_login *login = pg_server(v)->login;
	bool direct = up->sslnegotiation == SSLNEGOTIATION_DIRECT &&
		      v->host->name[0] != '/';

	if (direct && v->stream.ssl == NULL) {
		login_start_tls(v);
		return;
	}
	/* As libpq: who was not asked must say that it understood. */
	if (direct && !tls_is_postgres(v->stream.ssl)) {
		login_fail(v, "server does not speak ALPN postgresql");
		return;
	}
	if (v->stream.ssl != NULL || up->sslmode == SSLMODE_DISABLE ||
	    (up->sslmode == SSLMODE_ALLOW && !v->pool->want_tls) ||
	    v->host->name[0] == '/') {
		login_startup(v);
		return;
	}
	login->asked_tls = true;
	if (pg_put(stream_out(&v->stream), 0, "i", PG_SSL_REQUEST) != 0)
		abort();
}

/* The answer to SSLRequest is one byte, and nothing may follow it in clear. */
static void
login_tls_answer(struct server *v)
{
	const struct conf_postgres *up = v->pool->postgres;
	struct pg_login *login = pg_server(v)->login;
	size_t n;
	uint8_t answer = *stream_peek(&v->stream, &n);

	if (n != 1) {
		login_fail(v, "bytes after the answer to SSLRequest");
		return;
	}
	stream_consume(&v->stream, 1);
	login->asked_tls = false;
	if (answer == 'S') {
		login_start_tls(v);
	} else if (answer == 'N' && up->sslmode < SSLMODE_REQUIRE) {
		login_startup(v);
	} else {
		login_fail(v, answer == 'N' ? "server does not offer TLS"
					    : "server refused SSLRequest");
	}
}

bool
pg_login_misreads(const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);

	return slice_is(pg_read_str(&r), "standard_conforming_strings") &&
	       !slice_is(pg_read_str(&r), "on");
}

/* ---- authentication --------------------------------------------------- */

/* As it is; what is stored as an MD5 hash is good for MD5 alone. */
static const char *
login_password(struct server *v)
{
	const char *password = v->pool->password;

	return password != NULL && !pg_md5_is_stored(password) ? password
							       : NULL;
}

/* A password, or the keys of a client that proved it knows one. */
static bool
login_has_secret(struct server *v)
{
	return login_password(v) != NULL || v->pool->scram.known;
}

static void
login_sasl_final(struct server *v)
{
	struct pg_login *login = pg_server(v)->login;
	char message[SCRAM_MESSAGE_MAX + 1];

	if (scram_client_final(&login->scram, &login->keys, message) != 0)
		login_fail(v, "SCRAM exchange failed");
	else if (pg_put(stream_out(&v->stream), 'p', "b", slice_str(message)) !=
		 0)
		abort();
}

static void
salt_work(struct job *job)
{
	struct pg_login *login = (struct pg_login *)(void *)job;

	uint8_t salted[SCRAM_KEY];

	login->failed = scram_salted_password(
	    salted, login->password, login->scram.salt, login->scram.salt_len,
	    login->scram.iterations);
	if (!login->failed)
		scram_keys_make(&login->keys, salted);
	OPENSSL_cleanse(salted, sizeof(salted));
}

static void
salt_done(struct job *job, void *owner)
{
	struct pg_login *login = (struct pg_login *)(void *)job;
	struct server *v = login->server;
	struct pool_scram *known;

	(void)owner;
	login->running = false;
	login->home->jobs--;
	if (v == NULL) {
		pg_login_free(&login);
		return;
	}
	if (v->state != SERVER_LOGIN)
		return; /* closed this turn, not reaped yet */
	if (login->failed) {
		login_fail(v, "PBKDF2 failed");
		return;
	}
	/* Unless a reload has brought another password meanwhile. */
	if (login_password(v) != NULL &&
	    strcmp(login_password(v), login->password) == 0) {
		known = &v->pool->scram;
		known->known = true;
		known->iterations = login->scram.iterations;
		known->salt_len = login->scram.salt_len;
		memcpy(known->salt, login->scram.salt, login->scram.salt_len);
		known->keys = login->keys;
	}
	login_sasl_final(v);
}

static void
login_sasl_continue(struct server *v, struct slice data)
{
	struct pg_login *login = pg_server(v)->login;
	struct pool_scram *known = &v->pool->scram;
	struct scram_client *sc = &login->scram;

	if (!login->sasl || login->running ||
	    scram_client_parse(sc, (const char *)data.p, data.n) != 0) {
		login_fail(v, "malformed SCRAM message");
		return;
	}
	if (known->known && known->iterations == sc->iterations &&
	    known->salt_len == sc->salt_len &&
	    memcmp(known->salt, sc->salt, sc->salt_len) == 0) {
		login->keys = known->keys;
		login_sasl_final(v);
		return;
	}
	if (login_password(v) == NULL) {
		login_fail(v, "no password is configured for this user, and "
			      "the server's verifier is not the client's");
		return;
	}
	snprintf(login->password, sizeof(login->password), "%s",
		 login_password(v));
	login->running = true;
	login->home->jobs++;
	offload_run(login->home->cpu, &login->job, login->home->mailbox,
		    salt_work, salt_done);
}

static void
login_sasl(struct server *v, struct pg_reader *r)
{
	struct pg_login *login = pg_server(v)->login;
	uint8_t nonce[SCRAM_NONCE_RAW], binding[SCRAM_BINDING_MAX];
	char message[SCRAM_MESSAGE_MAX + 1];
	bool plain = false, plus = false, may_bind;
	size_t binding_len = 0;
	struct slice name;
	const char *mechanism;

	while (name = pg_read_str(r), !r->bad && name.n > 0) {
		plain |= slice_is(name, "SCRAM-SHA-256");
		plus |= slice_is(name, "SCRAM-SHA-256-PLUS");
	}
	/* "y,,": we could bind, and the server says that it cannot. */
	may_bind = v->stream.ssl != NULL && !plus;
	if (plus)
		binding_len = stream_binding(&v->stream, binding);
	plus = plus && binding_len > 0;
	if (!login_has_secret(v) || (!plain && !plus) ||
	    RAND_bytes(nonce, sizeof(nonce)) != 1 ||
	    scram_client_first(&login->scram, nonce,
			       plus || may_bind ? binding : NULL, binding_len,
			       message) != 0) {
		login_fail(v, !login_has_secret(v)
				  ? "no password is configured for this user"
				  : "no SASL mechanism in common");
		return;
	}
	login->sasl = true;
	mechanism = plus ? "SCRAM-SHA-256-PLUS" : "SCRAM-SHA-256";
	if (pg_put(stream_out(&v->stream), 'p', "sib", mechanism,
		   (uint32_t)strlen(message), slice_str(message)) != 0)
		abort();
}

static void
login_md5(struct server *v, struct pg_reader *r)
{
	const char *password = v->pool->password;
	char stored[PG_MD5 + 1], answer[PG_MD5 + 1];
	struct slice salt = pg_read_bytes(r, 4);

	if (r->bad || password == NULL) {
		login_fail(v, "no password is configured for this user");
		return;
	}
	if (!pg_md5_is_stored(password)) {
		if (pg_md5_store(stored, password, v->pool->user) != 0) {
			login_fail(v, "MD5 is not available");
			return;
		}
		password = stored;
	}
	if (pg_md5_answer(answer, password, salt.p) != 0)
		login_fail(v, "MD5 is not available");
	else if (pg_put(stream_out(&v->stream), 'p', "s", answer) != 0)
		abort();
}

static void
login_auth(struct server *v, const uint8_t *body, size_t n)
{
	struct pg_login *login = pg_server(v)->login;
	struct pg_reader r = pg_reader(body, n);
	uint32_t code = pg_read_u32(&r);
	struct slice rest = slice_of(r.p, (size_t)(r.end - r.p));

	if (login->running) {
		/* The other thread is reading what an answer would change. */
		login_fail(v, "authentication out of turn");
		return;
	}
	switch (code) {
	case PG_AUTH_OK:
		/* A server that was never made to prove itself after we began
		 * SCRAM is not the one that knows our verifier. */
		if (login->sasl && !login->proved)
			login_fail(v, "server skipped its SCRAM proof");
		break;
	case PG_AUTH_CLEARTEXT:
		if (v->stream.ssl == NULL)
			login_fail(v, "cleartext password wanted without TLS");
		else if (login_password(v) == NULL)
			login_fail(v,
				   "no password is configured for this user");
		else if (pg_put(stream_out(&v->stream), 'p', "s",
				login_password(v)) != 0)
			abort();
		break;
	case PG_AUTH_MD5:
		login_md5(v, &r);
		break;
	case PG_AUTH_SASL:
		login_sasl(v, &r);
		break;
	case PG_AUTH_SASL_CONTINUE:
		login_sasl_continue(v, rest);
		break;
	case PG_AUTH_SASL_FINAL:
		login->proved =
		    login->sasl &&
		    scram_client_verify(&login->scram, (const char *)rest.p,
					rest.n) == 0;
		if (!login->proved)
			login_fail(v, "server failed its SCRAM proof");
		break;
	default:
		login_fail(v, "authentication method is not supported");
		break;
	}
}

/* ---- the rest --------------------------------------------------------- */

/* It says why it ends. */
static void
login_refused(struct server *v, enum why w, const uint8_t *body, size_t n)
{
	struct slice code = pg_error_field(body, n, 'C');
	struct slice text = pg_error_field(body, n, 'M');
	char sqlstate[6] = "", message[POOL_ERROR_MAX];

	if (code.n == 5)
		memcpy(sqlstate, code.p, 5);
	snprintf(message, sizeof(message), "%.*s", (int)text.n,
		 (const char *)text.p);
	server_close(v, w, sqlstate[0] ? sqlstate : NULL, message);
}

/* sslmode allow: in clear first, as libpq does it; refused, this pool goes on
 * with TLS. */
static void
login_error(struct server *v, const uint8_t *body, size_t n)
{
	bool again =
	    v->pool->postgres->sslmode == SSLMODE_ALLOW && !v->pool->want_tls;

	v->pool->want_tls |= again;
	login_refused(v, again ? WHY_RECONFIGURED : WHY_UPSTREAM_DOWN, body, n);
}

/* Nothing was asked.  It may have been ended in this very moment. */
static void
login_behind_ready(struct server *v, const uint8_t *p, size_t n)
{
	struct pg_frame f;

	if (pg_frame_next(&f, p, n) > 0 && f.type == 'E' && n >= f.size)
		login_refused(v, WHY_UPSTREAM_DOWN, p + PG_HEADER,
			      f.size - PG_HEADER);
	else
		login_fail(v, "bytes after ReadyForQuery");
}

static bool
login_wants_role(const struct server *v)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return v->pool->postgres->target_role != ROLE_ANY &&
	       pg->login->role == ROLE_ANY && !pg->login->asked_role;
}

/* Is it primary or standby?  Since PostgreSQL 14 it says so by itself. */
static void
login_ask_role(struct server *v)
{
	pg_server(v)->login->asked_role = true;
	if (pg_put(stream_out(&v->stream), 'Q', "s", PG_ASK_ROLE) != 0)
		abort();
}

static bool
login_wants_pid(const struct server *v)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return v->pool->snapshot->conf->context.key != NULL &&
	       v->pool->replication == NULL && !pg->login->asked_pid;
}

/* What came with the key for cancel requests may be another's, who stands
 * between us and the backend; what is signed must be what it says itself. */
static void
login_ask_pid(struct server *v)
{
	pg_server(v)->login->asked_pid = true;
	if (pg_put(stream_out(&v->stream), 'Q', "s",
		   "SELECT pg_catalog.pg_backend_pid()") != 0)
		abort();
}

/* The pid in a row of one column; 0: there is none. */
static uint32_t
pid_answered(const uint8_t *body, size_t n)
{
	struct pg_reader r = pg_reader(body, n);
	bool one = pg_read_u16(&r) == 1;
	uint32_t len = pg_read_u32(&r);
	uint64_t pid = 0;

	if (r.bad || !one || len == 0 || len > 10)
		return 0;
	while (len-- > 0) {
		uint8_t digit = pg_read_u8(&r);

		if (r.bad || digit < '0' || digit > '9')
			return 0;
		pid = 10 * pid + digit - '0';
	}
	return r.p == r.end && pid <= INT32_MAX ? (uint32_t)pid : 0;
}

/* ParameterStatus messages are kept as they are: clients get the same. */
static void
login_done(struct server *v)
{
	struct pg_server *pg = pg_server(v);
	enum conf_role role = pg->login->role;
	struct pool *p = v->pool;
	size_t n;
	const uint8_t *params = buf_peek(&pg->params, &n);

	if (role != ROLE_ANY)
		host_saw_role(v->host, role);
	else if (pg->login->asked_role) {
		login_fail(v, "no answer to pg_is_in_recovery()");
		return;
	}
	if (pg->login->asked_pid && pg->own_pid == 0) {
		login_fail(v, "no answer to pg_backend_pid()");
		return;
	}
	if (p->postgres->target_role != ROLE_ANY &&
	    role != p->postgres->target_role) {
		server_close(v, WHY_WRONG_ROLE, NULL,
			     role == ROLE_PRIMARY
				 ? "is a primary, target_role is standby"
				 : "is a standby, target_role is primary");
		return;
	}
	pg_login_free(&pg->login);
	buf_free(&p->welcome);
	if (buf_put(&p->welcome, params, n) != 0)
		abort(); /* both have the same limit */
	budget_set_welcome(p->home->budgets, p->budget, params, n);
	server_ready(v);
	server_rest(v);
}

/* One whole message; false: stop, the server is closed or ready. */
static bool
login_message(struct server *v, const struct pg_frame *f, const uint8_t *p)
{
	struct pg_server *pg = pg_server(v);
	const uint8_t *body = p + PG_HEADER;
	size_t n = f->size - PG_HEADER;
	struct pg_reader r = pg_reader(body, n);

	switch (f->type) {
	case 'R':
		v->answered = true;
		login_auth(v, body, n);
		break;
	case 'S':
		pg_role_told(&pg->login->role, body, n);
		if (pg_login_misreads(body, n))
			login_fail(v, PG_MISREADS);
		else if (buf_put(&pg->params, p, f->size) != 0)
			login_fail(v, "too many parameters");
		break;
	case 'T':
	case 'C':
	case 'D':
		if (!pg->login->asked_role && !pg->login->asked_pid)
			login_fail(v, "unexpected message during log-in");
		else if (f->type == 'D' && pg->login->asked_pid)
			pg->own_pid = pid_answered(body, n);
		else if (f->type == 'D')
			pg_role_answered(&pg->login->role, body, n);
		break;
	case 'K':
		pg->pid = pg_read_u32(&r);
		pg->key = pg_read_u32(&r);
		break;
	case 'N':
	case 'v':
		break;
	case 'E':
		login_error(v, body, n);
		break;
	case 'Z':
		if (n != 1 || body[0] != 'I' || pg->login->running)
			login_fail(v, "unexpected ReadyForQuery");
		break;
	default:
		login_fail(v, "unexpected message during log-in");
		break;
	}
	return v->state == SERVER_LOGIN;
}

void
pg_login_input(struct server *v)
{
	struct pg_frame f;
	const uint8_t *p;
	size_t n;
	int got;

	if (pg_server(v)->login->asked_tls) {
		login_tls_answer(v);
		return;
	}
	while (p = stream_peek(&v->stream, &n), n > 0) {
		uint8_t type = p[0];

		got = pg_frame_next(&f, p, n);
		if (got < 0 || (got > 0 && f.size > STREAM_IN_MAX / 2)) {
			login_fail(v, "malformed message during log-in");
			return;
		}
		if (got == 0 || n < f.size)
			return;
		if (!login_message(v, &f, p))
			return;
		stream_consume(&v->stream, f.size);
		if (type != 'Z')
			continue;
		p = stream_peek(&v->stream, &n);
		if (n > 0)
			login_behind_ready(v, p, n);
		else if (login_wants_role(v))
			login_ask_role(v);
		else if (login_wants_pid(v))
			login_ask_pid(v);
		else
			login_done(v);
		return;
	}
}

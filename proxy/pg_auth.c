/*
 * pg_auth: whether a PostgreSQL client is who it says it is.
 */
#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/jwt.h"
#include "protocol/secret.h"
#include "proxy/pg_hello.h"
#include "proxy/route.h"
#include "proxy/verifiers.h"
#include "proxy/worker.h"

/* The longest is a token. */
enum { MESSAGE_MAX = PG_HEADER + JWT_MAX + 1 };

/* From a wrong answer to its refusal: more than any way to judge one takes. */
#define REFUSE_NS (100ull * 1000000)

/* So late that the time tells nothing: whether there is such a user, what its
 * secret is and how far the answer was from it. */
static enum step
auth_fail(struct session *s)
{
	s->refuse_ns = pg_session(s)->hello->auth.heard_ns + REFUSE_NS;
	session_enter(s, SESSION_REFUSED);
	return STEP_WAIT;
}

/* ---- what it will be judged by ---------------------------------------- */

static struct pg_secret
secret_of_user(const struct conf_user *u)
{
	/* A verifier cannot be had from an MD5 answer. */
	bool scram = u->auth == AUTH_MD5 && u->verifier != NULL;

	return (struct pg_secret){
		.method = scram ? AUTH_SCRAM : u->auth,
		.known = true,
		.password = u->password,
		.verifier = u->verifier,
	};
}

/*
 * Fills in the user and its secret.  False: that takes time, and the session
 * is woken (session_wake()) when both are there, or it is known that they
 * are not.
 */
static bool
auth_find(struct session *s)
{
	struct pg_hello *h = pg_session(s)->hello;
	const struct conf *c = s->snapshot->conf;

	s->user = route_user(c, h->user, &h->slug);
	if (pg_auth_must_look_up(c, s->user))
		return pg_auth_look_up(s);
	if (s->user != NULL)
		h->auth.secret = secret_of_user(s->user);
	else
		h->auth.secret =
		    (struct pg_secret){ .method = c->unknown_auth };
	return true;
}

/* ---- SCRAM ------------------------------------------------------------ */

/*
 * What the client is shown: for a password and for nobody a salt and rounds
 * made alike.  False: the keys behind them must be made first.
 */
static bool
scram_show(struct session *s, struct scram_verifier *v)
{
	struct pg_hello *h = pg_session(s)->hello;
	const struct pg_secret *secret = &h->auth.secret;
	struct verifiers *vs = s->worker->weir->verifiers;

	if (secret->verifier != NULL) {
		*v = *secret->verifier;
		return true;
	}
	verifiers_mock(vs, h->user, v);
	return secret->password == NULL ||
	       verifiers_find(vs, h->user, secret->password, v);
}

static enum step
scram_first(struct session *s, struct pg_reader *r)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;
	struct slice mechanism = pg_read_str(r), data;
	uint8_t nonce[SCRAM_NONCE_RAW], binding[SCRAM_BINDING_MAX];
	struct scram_verifier v;
	char out[SCRAM_MESSAGE_MAX + 1];
	bool plus = slice_is(mechanism, "SCRAM-SHA-256-PLUS"), ready;
	bool offered = stream_binding(&s->stream, binding) > 0;

	data = pg_read_bytes(r, pg_read_u32(r));
	ready = scram_show(s, &v);
	if (r->bad || (!plus && !slice_is(mechanism, "SCRAM-SHA-256")) ||
	    (plus && !offered) || RAND_bytes(nonce, sizeof(nonce)) != 1 ||
	    scram_server_first(&a->scram, &v, plus, offered, nonce,
			       (const char *)data.p, data.n, out) != 0)
		return auth_fail(s);
	if (!ready)
		pg_auth_make_verifier(s, &v);
	OPENSSL_cleanse(&v, sizeof(v));
	if (session_is_over(s))
		return STEP_WAIT;
	a->phase = PG_AUTH_PROOF;
	if (pg_put(stream_out(&s->stream), 'R', "ib", PG_AUTH_SASL_CONTINUE,
		   slice_str(out)) != 0)
		abort();
	return STEP_AGAIN;
}

static enum step
scram_proof(struct session *s, struct pg_reader *r)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;
	uint8_t binding[SCRAM_BINDING_MAX];
	size_t binding_n = stream_binding(&s->stream, binding);
	char out[SCRAM_MESSAGE_MAX + 1];

	if (scram_server_final(&a->scram, binding, binding_n,
			       (const char *)r->p, (size_t)(r->end - r->p),
			       out) != 0 ||
	    !a->secret.known)
		return auth_fail(s);
	if (pg_put(stream_out(&s->stream), 'R', "ib", PG_AUTH_SASL_FINAL,
		   slice_str(out)) != 0)
		abort();
	a->phase = PG_AUTH_PROVED;
	return pg_hello_in(s);
}

/* ---- one message, a string -------------------------------------------- */

/* The answer to our salt.  -1: the library has no MD5. */
static int
md5_answer(const struct pg_hello *h, const char *password,
	   char answer[PG_MD5 + 1])
{
	char stored[PG_MD5 + 1];

	if (pg_md5_is_stored(password))
		memcpy(stored, password, sizeof(stored));
	else if (pg_md5_store(stored, password, h->user) != 0)
		return -1;
	return pg_md5_answer(answer, stored, h->auth.salt);
}

static enum step
auth_password(struct session *s, struct pg_reader *r)
{
	struct pg_hello *h = pg_session(s)->hello;
	const struct pg_secret *secret = &h->auth.secret;
	struct slice given = pg_read_str(r);
	const char *password = secret->password ? secret->password : "";
	char answer[PG_MD5 + 1];

	if (r->bad || r->p != r->end)
		return auth_fail(s);
	if (secret->method == AUTH_MD5) {
		if (md5_answer(h, password, answer) != 0)
			return auth_fail(s);
		password = answer;
	}
	if (!secret_same(given, password) || secret->password == NULL)
		return auth_fail(s);
	return pg_hello_in(s);
}

/* ---- a token ---------------------------------------------------------- */

static enum step
auth_token(struct session *s, struct pg_reader *r)
{
	struct slice token = pg_read_str(r);

	if (r->bad || r->p != r->end)
		return auth_fail(s);
	pg_session(s)->hello->auth.phase = PG_AUTH_TOKEN;
	pg_auth_open_token(s, token);
	return STEP_WAIT;
}

/*
 * A token is for one user, the one its claim names: whoever has a token would
 * else be whoever it likes.
 */
static const char *
why_not_token(const struct session *s, const struct conf_jwt *c,
	      struct pg_auth *a)
{
	const char *user;

	if (a->jwt == NULL)
		return a->why;
	user = jwt_string(a->jwt, c->user_claim);
	if (user == NULL || strcmp(user, s->user->name) != 0)
		return "it is for another user";
	return NULL;
}

static enum step
token_judge(struct session *s)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;
	const char *why = why_not_token(s, &s->snapshot->conf->jwt, a);

	if (why == NULL)
		return pg_hello_in(s);
	LOG(s->worker->weir->log, LOG_INFO, LOG_EV_AUTH,
	    log_id("session", s->worker->id, s->id),
	    log_str("user", s->user->name), log_str("token", why));
	return auth_fail(s);
}

/* ---- certificates ----------------------------------------------------- */

/* The name it logs in as, with or without a slug behind it. */
static bool
is_named(const struct session *s, const char *name)
{
	const char *asked = pg_session((struct session *)s)->hello->user;
	size_t n = strlen(name);

	if (s->user != NULL)
		return strcmp(name, s->user->name) == 0;
	return strncmp(asked, name, n) == 0 &&
	       (asked[n] == '\0' ||
		(asked[n] == '.' && strchr(asked + n + 1, '.') == NULL));
}

/* With verify-full a certificate must be the user's however it logs in; a
 * unix socket has none.  False: it is not, and the session is closed. */
static bool
certificate_fits(struct session *s)
{
	const struct pg_secret *secret = &pg_session(s)->hello->auth.secret;
	enum conf_sslmode mode = s->snapshot->conf->tls.client_mode;
	bool cert = secret->method == AUTH_CERT;
	char name[STREAM_NAME_MAX];

	if (!cert && (mode != SSLMODE_VERIFY_FULL || s->is_unix))
		return true;
	if (stream_peer_name(&s->stream, name) != 0)
		session_close(s, WHY_NO_CERT, NULL, NULL);
	else if (!is_named(s, name) || (cert && !secret->known))
		session_close(s, WHY_BAD_CERT, NULL, NULL);
	else
		return true;
	return false;
}

/* ---- asking ----------------------------------------------------------- */

static void
ask_scram(struct session *s)
{
	uint8_t binding[SCRAM_BINDING_MAX];
	int r;

	if (stream_binding(&s->stream, binding) > 0)
		r = pg_put(stream_out(&s->stream), 'R', "issc", PG_AUTH_SASL,
			   "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", 0);
	else
		r = pg_put(stream_out(&s->stream), 'R', "isc", PG_AUTH_SASL,
			   "SCRAM-SHA-256", 0);
	if (r != 0)
		abort();
}

/* A password in clear is asked for only where nobody can listen. */
static void
ask_clear(struct session *s)
{
	if (s->stream.ssl == NULL && !s->is_unix)
		session_close(s, WHY_NO_TLS, NULL, NULL);
	else if (pg_put(stream_out(&s->stream), 'R', "i", PG_AUTH_CLEARTEXT) !=
		 0)
		abort();
}

static void
ask_md5(struct session *s)
{
	uint8_t *salt = pg_session(s)->hello->auth.salt;

	if (RAND_bytes(salt, 4) != 1 ||
	    pg_put(stream_out(&s->stream), 'R', "ib", PG_AUTH_MD5,
		   slice_of(salt, 4)) != 0)
		abort();
}

static enum step
auth_ask(struct session *s)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;

	a->phase = PG_AUTH_ANSWER;
	if (!certificate_fits(s))
		return STEP_WAIT;
	switch (a->secret.method) {
	case AUTH_TRUST:
	case AUTH_CERT:
		return pg_hello_in(s);
	case AUTH_PLAIN:
	case AUTH_JWT:
		ask_clear(s);
		break;
	case AUTH_MD5:
		ask_md5(s);
		break;
	case AUTH_SCRAM:
		ask_scram(s);
		break;
	}
	return STEP_AGAIN;
}

/* ---- messages --------------------------------------------------------- */

static enum step
auth_message(struct session *s, struct pg_reader *r)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;

	if (a->secret.method == AUTH_PLAIN || a->secret.method == AUTH_MD5)
		return auth_password(s, r);
	if (a->secret.method == AUTH_JWT)
		return auth_token(s, r);
	return a->phase == PG_AUTH_PROOF ? scram_proof(s, r)
					 : scram_first(s, r);
}

static enum step
auth_read(struct session *s)
{
	uint8_t message[MESSAGE_MAX];
	struct pg_frame f;
	struct pg_reader r;
	enum step next;
	size_t n;
	const uint8_t *p = stream_peek(&s->stream, &n);
	int got = pg_frame_next(&f, p, n);

	if (got < 0 || (got > 0 && (f.type != 'p' || f.size > MESSAGE_MAX))) {
		session_close(
		    s, got > 0 && f.type == 'X' ? WHY_QUIT : WHY_BAD_FRAME,
		    NULL, NULL);
		return STEP_WAIT;
	}
	if (got == 0 || n < f.size)
		return STEP_WAIT;
	memcpy(message, p + PG_HEADER, f.size - PG_HEADER);
	stream_consume(&s->stream, f.size);
	pg_session(s)->hello->auth.heard_ns = s->worker->streams.now_ns;
	r = pg_reader(message, f.size - PG_HEADER);
	next = auth_message(s, &r);
	OPENSSL_cleanse(message, f.size - PG_HEADER);
	return next;
}

enum step
pg_auth_begin(struct session *s)
{
	session_enter(s, SESSION_AUTH);
	return STEP_AGAIN;
}

enum step
pg_auth_step(struct session *s)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;

	if (a->job != NULL || a->ask != NULL)
		return STEP_WAIT;
	if (pg_session(s)->hello->proved)
		return pg_hello_in(s);
	if (a->phase == PG_AUTH_FIND)
		return auth_find(s) ? auth_ask(s) : STEP_WAIT;
	return a->phase == PG_AUTH_TOKEN ? token_judge(s) : auth_read(s);
}

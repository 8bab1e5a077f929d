/*
 * pg_auth: whether a PostgreSQL client is who it says it is.
 */
#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/secret.h"
#include "proxy/pg_hello.h"
#include "proxy/route.h"
#include "proxy/worker.h"

enum { MESSAGE_MAX = 4096 };

static enum step
auth_fail(struct session *s)
{
	session_close(s, WHY_BAD_AUTH, NULL, NULL);
	return STEP_WAIT;
}

/* ---- what it will be judged by ---------------------------------------- */

static struct pg_secret
secret_of_user(const struct conf_user *u)
{
	struct pg_secret secret = { .method = u->auth, .known = true };

	secret.password = u->password;
	if (u->has_verifier) {
		secret.verifier = &u->verifier;
		/* A verifier cannot be had from an MD5 answer. */
		if (secret.method == AUTH_MD5)
			secret.method = AUTH_SCRAM;
	}
	return secret;
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

	s->user = route_user(s->snapshot->conf, h->user, &h->slug);
	/* Who is not known is asked as most are, and fails in the end. */
	h->auth.secret = s->user != NULL
			     ? secret_of_user(s->user)
			     : (struct pg_secret){ .method = AUTH_SCRAM };
	return true;
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
	switch (a->secret.method) {
	case AUTH_TRUST:
		return pg_hello_in(s);
	case AUTH_PLAIN:
		ask_clear(s);
		break;
	case AUTH_MD5:
		ask_md5(s);
		break;
	case AUTH_SCRAM:
	case AUTH_CERT:
	case AUTH_JWT:
		ask_scram(s);
		break;
	}
	return STEP_AGAIN;
}

/* ---- SCRAM ------------------------------------------------------------ */

static void
scram_verifier_of(struct session *s, struct scram_verifier *v)
{
	struct pg_hello *h = pg_session(s)->hello;

	if (h->auth.secret.verifier != NULL)
		*v = *h->auth.secret.verifier;
	else
		scram_verifier_mock(v, h->user, s->snapshot->mock_key,
				    sizeof(s->snapshot->mock_key));
}

static enum step
scram_first(struct session *s, struct pg_reader *r)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;
	struct slice mechanism = pg_read_str(r), data;
	uint8_t nonce[SCRAM_NONCE_RAW], binding[SCRAM_BINDING_MAX];
	struct scram_verifier v;
	char out[SCRAM_MESSAGE_MAX + 1];
	bool plus = slice_is(mechanism, "SCRAM-SHA-256-PLUS");
	bool offered = stream_binding(&s->stream, binding) > 0;

	data = pg_read_bytes(r, pg_read_u32(r));
	scram_verifier_of(s, &v);
	if (r->bad || (!plus && !slice_is(mechanism, "SCRAM-SHA-256")) ||
	    (plus && !offered) || RAND_bytes(nonce, sizeof(nonce)) != 1 ||
	    scram_server_first(&a->scram, &v, plus, offered, nonce,
			       (const char *)data.p, data.n, out) != 0)
		return auth_fail(s);
	OPENSSL_cleanse(&v, sizeof(v));
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

	/* The proof is checked for unknown users too: it takes as long. */
	if (scram_server_final(&a->scram, binding, binding_n,
			       (const char *)r->p, (size_t)(r->end - r->p),
			       out) != 0 ||
	    a->secret.verifier == NULL)
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
md5_answer(const struct pg_hello *h, char answer[PG_MD5 + 1])
{
	const char *password = h->auth.secret.password;
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
	struct slice given = pg_read_str(r);
	const char *password = h->auth.secret.password;
	char answer[PG_MD5 + 1];

	if (r->bad || r->p != r->end)
		return auth_fail(s);
	if (h->auth.secret.method == AUTH_MD5) {
		if (md5_answer(h, answer) != 0)
			return auth_fail(s);
		password = answer;
	}
	return secret_same(given, password) ? pg_hello_in(s) : auth_fail(s);
}

/* ---- messages --------------------------------------------------------- */

static enum step
auth_message(struct session *s, struct pg_reader *r)
{
	struct pg_auth *a = &pg_session(s)->hello->auth;

	if (a->secret.method == AUTH_PLAIN || a->secret.method == AUTH_MD5)
		return auth_password(s, r);
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
	if (pg_session(s)->hello->auth.phase == PG_AUTH_FIND)
		return auth_find(s) ? auth_ask(s) : STEP_WAIT;
	return auth_read(s);
}

/*
 * pg_auth_job: what burns when a client logs in, on threads that may.
 */
#include <assert.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proxy/pg_hello.h"
#include "proxy/secrets.h"
#include "proxy/verifiers.h"
#include "proxy/worker.h"

/* Log-ins of one organization or user that may wait: a quarter of all the
 * clients there may be, and not fewer than this. */
enum { EACH_LEAST = 16 };

struct pg_auth_job {
	struct job job;
	struct session *session;        /* NULL: it has gone */
	struct snapshot *snapshot;      /* whose keys are used */
	struct verifiers *verifiers;    /* where the result is kept */
	char *name, *text;              /* the text is a password or a token */
	struct scram_verifier verifier; /* salt and rounds in, all out */
	bool made;                      /* not found */
	int failed;
	struct jwt *jwt;
	const char *why;
};

static struct pg_auth_job *
job_of(struct job *job)
{
	return (struct pg_auth_job *)(void *)job;
}

static void job_free(struct pg_auth_job *);

static uint64_t
hash(uint64_t h, const char *text)
{
	do
		h = (h ^ (uint8_t)*text) * 1099511628211ull;
	while (*text++ != '\0');
	return h;
}

/*
 * Whose turn its job waits for: that of its organization, as far as it is known
 * by now, or else of its user.  What is not known to the configuration names no
 * turn: a client could make as many as it likes.
 */
static struct offload_turn
turn_of(const struct session *s, const struct pg_hello *h)
{
	const struct conf *c = s->snapshot->conf;
	const struct conf_user *u = s->user;
	const char *slug =
	    u && u->organization ? u->organization->slug : h->slug;
	unsigned each = c->max_client_conn / 4;
	uint64_t key;

	if (slug != NULL && conf_tenant_find(c, slug) != NULL)
		key = hash(hash(14695981039346656037ull, "organization"), slug);
	else
		key = hash(hash(14695981039346656037ull, "user"),
			   u ? u->name : "");
	return (struct offload_turn){
		.key = key ? key : 1,
		.each = each < EACH_LEAST ? EACH_LEAST : each,
		.all = c->max_client_conn,
	};
}

/* The session is told later, or refused now, where too many wait. */
static void
job_start(struct session *s, struct slice text, void (*work)(struct job *),
	  void (*done)(struct job *, void *owner),
	  const struct scram_verifier *salt)
{
	struct pg_hello *h = pg_session(s)->hello;
	struct pg_auth_job *j = calloc(1, sizeof(*j));
	struct offload_turn turn = turn_of(s, h);

	assert(h->auth.job == NULL);
	if (j == NULL || (j->name = strdup(h->user)) == NULL ||
	    (j->text = strndup((const char *)text.p, text.n)) == NULL)
		abort();
	j->session = s;
	j->snapshot = snapshot_ref(s->snapshot);
	j->verifiers = s->worker->weir->verifiers;
	if (salt != NULL)
		j->verifier = *salt;
	if (offload_try(s->worker->weir->cpu, &j->job, &turn,
			&s->worker->mailbox, work, done) != 0) {
		job_free(j);
		stats_add(&s->worker->stats, STAT_LOGINS_FULL, 1);
		session_close(s, WHY_LOGINS_FULL, NULL, NULL);
		return;
	}
	h->auth.job = j;
	s->worker->jobs++;
}

/* Back on the worker: whose it is, if it is still there. */
static struct pg_auth *
job_back(struct pg_auth_job *j, struct worker *w)
{
	struct pg_auth *a;

	w->jobs--;
	if (j->session == NULL)
		return NULL;
	LOG(w->weir->log, LOG_DEBUG, LOG_EV_AUTH,
	    log_id("session", w->id, j->session->id), log_str("user", j->name),
	    log_num("passed", j->job.passed));
	a = &pg_session(j->session)->hello->auth;
	assert(a->job == j);
	a->job = NULL;
	session_wake(j->session);
	return a;
}

static void
job_free(struct pg_auth_job *j)
{
	jwt_close(&j->jwt);
	snapshot_unref(&j->snapshot);
	OPENSSL_cleanse(j->text, strlen(j->text));
	free(j->text);
	free(j->name);
	OPENSSL_cleanse(j, sizeof(*j));
	free(j);
}

/* Of those who came together the first has made it for all. */
static void
make_verifier(struct job *job)
{
	struct pg_auth_job *j = job_of(job);
	struct scram_verifier salt = j->verifier;

	if (verifiers_find(j->verifiers, j->name, j->text, &j->verifier))
		return;
	j->made = true;
	j->failed = scram_verifier_make(&j->verifier, j->text, salt.salt,
					salt.salt_len, salt.iterations);
	if (!j->failed)
		verifiers_keep(j->verifiers, j->name, j->text, &j->verifier);
}

static void
verifier_made(struct job *job, void *owner)
{
	struct pg_auth_job *j = job_of(job);
	struct worker *w = owner;
	struct pg_auth *a = job_back(j, w);

	if (j->made)
		stats_add(&w->stats, STAT_LOGIN_HASHES, 1);
	if (!j->failed && a != NULL)
		a->scram.verifier = j->verifier;
	job_free(j);
}

void
pg_auth_make_verifier(struct session *s, const struct scram_verifier *salt)
{
	job_start(s, slice_str(pg_session(s)->hello->auth.secret.password),
		  make_verifier, verifier_made, salt);
}

static void
open_token(struct job *job)
{
	struct pg_auth_job *j = job_of(job);
	const struct conf_jwt *c = &j->snapshot->conf->jwt;
	const struct jwt_trust trust = {
		.secret = c->secret,
		.previous_secret = c->previous_secret,
		.key = c->public_key,
		.audience = c->audience,
	};

	j->jwt = jwt_open(slice_str(j->text), &trust, time(NULL), &j->why);
}

static void
token_opened(struct job *job, void *owner)
{
	struct pg_auth_job *j = job_of(job);
	struct pg_auth *a = job_back(j, owner);

	if (a != NULL) {
		a->jwt = j->jwt;
		a->why = j->why;
		j->jwt = NULL;
	}
	job_free(j);
}

void
pg_auth_open_token(struct session *s, struct slice token)
{
	job_start(s, token, open_token, token_opened, NULL);
}

void
pg_auth_free(struct pg_auth *a)
{
	if (a->ask != NULL)
		a->ask->asker = NULL;
	a->ask = NULL;
	if (a->job != NULL)
		a->job->session = NULL;
	a->job = NULL;
	jwt_close(&a->jwt);
}

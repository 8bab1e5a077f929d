/*
 * pg_auth_look_up: the secret of a client that the configuration does not have.
 */
#include <assert.h>
#include <string.h>

#include "proxy/pg_hello.h"
#include "proxy/secrets.h"
#include "proxy/worker.h"

/*
 * What a database said.  Its own way to log in is that of the stored form: an
 * MD5 hash can be neither a verifier nor a password to compare with, and a
 * verifier is only good for SCRAM.
 */
static struct pg_secret
secret_found(const struct secret *found, const struct conf_user *u)
{
	struct pg_secret secret = {
		.method = u != NULL ? u->auth : found->user.auth,
		.known = !secret_is_nobody(found),
		.password = found->user.password,
		.verifier = found->verifier,
	};
	bool is_md5 = found->user.auth == AUTH_MD5;

	if (found->verifier != NULL)
		secret.method = AUTH_SCRAM;
	else if (is_md5 && secret.method == AUTH_PLAIN)
		secret.method = AUTH_MD5;
	else if (is_md5 && secret.method == AUTH_SCRAM)
		secret = (struct pg_secret){ .method = AUTH_SCRAM };
	return secret;
}

static void
secret_arrives(struct lookup_ask *ask, void *owner)
{
	struct session *s = ask->asker;

	(void)owner;
	if (s != NULL) {
		struct pg_auth *a = &pg_session(s)->hello->auth;

		assert(a->ask == ask);
		a->ask = NULL;
		a->asked = true;
		pg_session(s)->secret = ask->value;
		ask->value = NULL;
		session_wake(s);
	}
	lookup_ask_free(&ask);
}

/* Where a section says nothing of a password, or there is none at all. */
bool
pg_auth_must_look_up(const struct conf *c, const struct conf_user *u)
{
	return c->auth.postgres != NULL &&
	       (u == NULL || (u->password == NULL &&
			      (u->auth == AUTH_SCRAM || u->auth == AUTH_MD5 ||
			       u->auth == AUTH_PLAIN)));
}

bool
pg_auth_look_up(struct session *s)
{
	struct pg_hello *h = pg_session(s)->hello;
	struct secret *found = pg_session(s)->secret;

	if (!h->auth.asked) {
		const char *name = s->user ? s->user->name : h->user;

		if (strlen(name) <= SECRET_NAME_MAX) {
			h->auth.ask =
			    lookup_ask(s->worker->weir->secrets, name,
				       &s->worker->mailbox, secret_arrives, s);
			return false;
		}
		h->auth.secret = (struct pg_secret){ .method = AUTH_SCRAM };
		return true;
	}
	if (found == NULL) {
		session_close(s, WHY_AUTH_DOWN, NULL, NULL);
		return false;
	}
	h->auth.secret = secret_found(found, s->user);
	if (s->user == NULL && h->auth.secret.known)
		s->user = &found->user;
	return true;
}

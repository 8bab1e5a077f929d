/*
 * pg_hello: a PostgreSQL client that is not in yet: what it said of itself,
 * and how far it has proved it.  Between pg_hello.c, which hears who it is and
 * lets it in, and pg_auth.c, which makes sure in between.
 */
#ifndef PROXY_PG_HELLO_H
#define PROXY_PG_HELLO_H

#include "pool/label.h"
#include "protocol/buf.h"
#include "protocol/jwt.h"
#include "protocol/pg.h"
#include "protocol/scram.h"
#include "proxy/pg_session.h"

enum { PG_SETTINGS_MAX = 64 };

/* What a log-in waits for, in this order. */
enum pg_auth_phase {
	PG_AUTH_FIND,		/* the secret, which may have to be asked for */
	PG_AUTH_ANSWER,		/* the client's answer, or SCRAM's first message */
	PG_AUTH_PROOF,		/* SCRAM's last */
	PG_AUTH_TOKEN,		/* nothing: a token came and was looked at */
	PG_AUTH_PROVED		/* nothing: it came, and holds the client's key */
};

/*
 * What an answer is judged by.  The texts live as long as the session: in the
 * snapshot it holds, or wherever else who filled this in keeps them.
 */
struct pg_secret {
	enum conf_auth		     method;	/* what is asked for */
	bool			     known;	/* false: nobody's, and no answer is right */
	const char		    *password;	/* as it is, or its md5 form; NULL */
	const struct scram_verifier *verifier;	/* instead of a password; NULL */
};

struct pg_auth_job;
struct rls_wait;
struct lookup_ask;

struct pg_auth {
	enum pg_auth_phase  phase;
	struct pg_secret    secret;
	struct jwt	   *jwt;	/* the claims of its token; NULL: none that holds ... */
	const char	   *why;	/* ... because */
	struct pg_auth_job *job;	/* under way elsewhere; NULL: none */
	struct lookup_ask *ask;	/* likewise */
	bool		    asked;	/* the answer is there: pg_session.secret */
	uint64_t	    heard_ns;	/* when the last answer came */
	uint8_t		    salt[4];	/* for md5 */
	struct scram_server scram;
};

/* Freed when the client is in. */
struct pg_hello {
	uint8_t		  packet[PG_STARTUP_MAX + 1];	/* its startup packet's body */
	char		  options[PG_STARTUP_MAX + 2];	/* `options`, taken apart */
	char		 *user, *database, *organization; /* views into packet, options */
	const char	 *slug;		/* behind the dot of the user */
	const char	 *replication;	/* "true" or "database"; NULL: an ordinary client */
	struct label_pair setting[PG_SETTINGS_MAX];
	size_t		  settings;
	bool		  encrypted_asked;	/* had its SSLRequest */
	bool		  gss_asked;		/* had its GSSENCRequest */
	bool		  bad_protocol_options;
	uint32_t	  version;
	struct pg_auth	  auth;
	struct rls_wait	 *rls;		/* whether it may go where it is led is being found out */
	struct buf	  reports;	/* ParameterStatus of our bind */
	bool		  may_switch;	/* a service user */
	bool		  proved;	/* is who it says; its organization may not be known yet */
	bool		  fresh;	/* the label is being verified */
};

/* The startup packet is read: find out whether it is true. */
enum step pg_auth_begin(struct session *);

/*
 * pg_auth_job.c: on another thread.  auth.job is set until the result is in
 * auth, and the session is woken.  Where too many of its organization or user
 * wait already, the session is closed.
 */
void pg_auth_make_verifier(struct session *, const struct scram_verifier *salt);
void pg_auth_open_token(struct session *, struct slice token);
void pg_auth_free(struct pg_auth *);

/*
 * pg_auth_look_up.c: the secret of who is not in the configuration.  Called
 * once more when the session is woken; false: not there yet, or it is over.
 */
bool pg_auth_must_look_up(const struct conf *, const struct conf_user *);
bool pg_auth_look_up(struct session *) __attribute__((warn_unused_result));

/*
 * What a session of this organization (NULL: none) wants on its server; `own`
 * are the client's settings.  One reference.  And where it is sent, or NULL.
 */
struct label *pg_hello_label(struct session *, const struct label_pair *own, size_t n,
    const struct tenant *, const struct jwt *);
struct route;
struct pool *pg_hello_pool(struct session *, struct route *);

/* It is: AuthenticationOk, and on.  Or it waits for its organization, is woken,
 * and this is called again. */
enum step pg_hello_in(struct session *);

#endif

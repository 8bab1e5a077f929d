/*
 * pg_session: a PostgreSQL client: log-in in pg_hello.c and pg_auth.c,
 * everything after it in pg_session.c.
 */
#ifndef PROXY_PG_SESSION_H
#define PROXY_PG_SESSION_H

#include "pool/pg_server.h"
#include "pool/stmt.h"
#include "proxy/cancel.h"
#include "proxy/session.h"

struct op;
struct pg_hello;
struct pg_switch;
struct pg_terms;
struct pg_track;
struct secret;

/* An error in our words, told where the server was made to fail. */
struct pg_poison {
	struct pg_poison *next;
	uint64_t	  retry_ms;	/* worth a hint, unless 0 */
	uint32_t	  id;
	char		  sqlstate[6];
	char		  text[];
};

struct pg_session {
	struct session	  s;
	struct pg_hello	 *hello;	/* until logged in */
	struct console	 *console;	/* it looks at weir itself, and has no pool; NULL: not so */
	struct secret	 *secret;	/* found elsewhere than in the configuration, or NULL; counted */
	struct pg_switch *sw;		/* a service user's; NULL: may not switch */
	struct pg_track	 *track;	/* what it has set; NULL: nothing that any server could have */
	struct stmt_names names;	/* its prepared statements */
	uint8_t		 *unnamed;	/* body of its last unnamed Parse */
	size_t		  unnamed_n, unnamed_size;
	unsigned	  unnamed_flags;
	uint64_t	  unnamed_gen;
	struct cancel_key key;
	struct cancel_request *cancels;	/* it came only to cancel; HELLO */
	uint64_t	  begun_ns;	/* when the BEGIN owed was answered */
	uint64_t	  lease_ns;	/* when the transaction began */
	uint64_t	  ask_ns;	/* when the last request was sent */
	uint64_t	  rest_ns;	/* when the server last came to rest */
	uint64_t	  leave_ns;	/* when it said good-bye */
	uint32_t	  remain;	/* bytes of a message being streamed, still to come */
	struct pg_terms	 *terms;	/* of its last operation; counted, NULL: none yet */
	struct op	 *ops, *ops_last; /* BATCH: under way, oldest first */
	unsigned	  ops_n;
	int		  faults;	/* of its last operations (pg_op.c) */
	struct op	 *held;		/* a transaction's INSERTs that nobody has run yet (pg_hold.h); NULL: none */
	size_t		  kept;		/* bytes of its input that are under way, and still there */
	bool		  by_itself;	/* what it asks next shares no commit */
	struct pg_poison *poison;	/* errors of ours on their way, oldest first */
	uint32_t	  last_poison;
	enum conf_pool_mode mode;
	uint16_t	  begun;	/* a BEGIN answered, but owed to a server (pg_local.c) */
	bool		  has_unnamed;	/* `unnamed` is valid */
	bool		  drop;		/* what remains goes nowhere */
	uint32_t	  epoch;	/* Syncs and Queries so far */
	unsigned	  parses;	/* its named Parses not answered yet */
	unsigned	  checks;	/* statements being looked at before they are used */
	uint32_t	  drops;	/* the statement that its unnamed one, a DEALLOCATE, names */
	uint32_t	  portal_drops;	/* likewise of its unnamed portal; 0: another */
	bool		  skip;		/* we reported an error: ignore up to Sync */
	bool		  portal_free;	/* its unnamed portal begins or ends a transaction */
	bool		  leaving;	/* has said good-bye; what it asked for is still to be done */
	bool		  pinned;	/* keeps its server until it leaves */
	bool		  resets;	/* has asked its server to reset all */
	bool		  discards;	/* has asked it to discard all, and for nothing that pins since */
	bool		  asked;	/* has run something in this lease */
	bool		  looks_up;	/* its message waits: an organization is looked up */
	bool		  bound_first;	/* what it sent waits for a bind, and that its Sync is answered */
	bool		  bound_wait;	/* sent what may be sent before a bind is confirmed */
	bool		  stalled;	/* its input waits for the server */
	bool		  server_paused; /* its server waits for it to read */
	bool		  relay;	/* a replication connection: bytes pass as they are */
};

static inline struct pg_session *
pg_session(struct session *s)
{
	return (struct pg_session *)(void *)s;
}

/* pg_session.c: whose claim it is; NULL: no client's */
const struct session *pg_session_of(struct lessee *);

/* pg_session.c: an error with the hint when to try again */
int pg_put_retry(struct buf *, const char *severity, const char *sqlstate, const char *text,
    uint64_t retry_ms) __attribute__((warn_unused_result));

/* What a refusal says; `sqlstate` and `text` override the why's own, if not NULL. */
void pg_say_error(struct session *, const char *severity, enum why, const char *sqlstate,
    const char *text);

/* pg_hello.c */
enum step pg_hello_step(struct session *);	/* SESSION_HELLO */
void	  pg_hello_granted(struct session *);	/* a server, to learn the parameters from */
void	  pg_hello_reply(struct session *, const uint8_t *, size_t);
void	  pg_hello_rest(struct session *);	/* the settings are confirmed */
void	  pg_hello_free(struct pg_session *);

/* pg_auth.c */
enum step pg_auth_step(struct session *);	/* SESSION_AUTH */

/* pg_relay.c: replication connections, after log-in */
void	  pg_relay_begin(struct session *);	/* the walsender is logged in */
enum step pg_relay_step(struct session *);	/* SESSION_LEASED */
bool	  pg_relay_quiet(const struct session *);	/* may a drain end it now? */
bool	  pg_relay_hears(const struct session *);	/* may an error of ours be said? */

#endif

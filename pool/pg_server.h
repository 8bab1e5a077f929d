/*
 * pg_server: one PostgreSQL backend connection: its log-in, its settings, its
 * prepared statements, and the judge of every message it sends.
 *
 * A lessee sends by pg_server_send(), which writes a ledger entry for every
 * message that will be answered.  What comes back is matched with the head of
 * the ledger, message by message; what does not fit closes the server.
 *
 * Settings (bind): the difference between the server's label and the
 * lessee's goes out in the same write as the first request, as BEGIN,
 * set_config() with binds, COMMIT in the extended protocol *without* a Sync.
 * If any of it fails, the backend ignores everything up to the next Sync, so
 * what the lessee sent behind it never runs under another one's settings;
 * until the bind is confirmed the lessee may send up to its first Sync or
 * Query only (pg_server_binding).
 *
 * One setting may be signed (protocol/context.h) for this backend and for a
 * time.  When half of that time is over it is due: at the next grant, or
 * before the next request of who holds the server, it is put anew, even though
 * the labels match.
 */
#ifndef POOL_PG_SERVER_H
#define POOL_PG_SERVER_H

#include "pool/pool.h"
#include "pool/server.h"
#include "pool/stmt.h"

/* What an entry of a backend's ledger waits for. */
enum pg_kind {
	PG_QUERY,		/* ... ReadyForQuery */
	PG_PARSE,		/* ParseComplete */
	PG_BIND,		/* BindComplete */
	PG_DESCRIBE,		/* RowDescription or NoData */
	PG_EXECUTE,		/* CommandComplete, EmptyQueryResponse, PortalSuspended */
	PG_CLOSE,		/* CloseComplete */
	PG_SYNC,		/* ReadyForQuery */
	PG_FUNCTION,		/* ... ReadyForQuery */
	PG_COPY_END,		/* CopyDone or CopyFail went by: no answer of its own */
	PG_CHECK,		/* a Describe of ours: ParameterDescription, then as PG_DESCRIBE */
	PG_POISON,		/* an error we asked for, to be told in our own words */
	PG_STALE,		/* never in a ledger: of a Bind or Describe whose statement
				   returns something else than when it was parsed */
	PG_SHAPE,		/* likewise: of a Describe, when `shape` is known */
	PG_TYPES		/* likewise: when `types` are */
};

/* In the arg of an unnamed Parse, beside the low bits of which one it is; ids
 * of names do not come so far. */
#define PG_UNNAMED (1u << 31)

/* For servers that report no in_hot_standby (before PostgreSQL 14). */
#define PG_ASK_ROLE "SELECT pg_catalog.pg_is_in_recovery()"

struct pg_login;

struct pg_server {
	struct server	  s;
	struct pg_login	 *login;	/* while LOGIN */
	struct stmt_held  held;
	struct buf	  params;	/* ParameterStatus messages of the log-in */
	uint32_t	  pid, key;	/* for cancel requests */
	uint32_t	  own_pid;	/* as the backend knows it; 0: it was not asked */
	uint64_t	  context_ns;	/* its signed setting is due then; 0: it has none */
	uint64_t	  context_id;	/* of the key it is signed with */
	uint64_t	  shape;	/* what the statement described last returns */
	struct slice	  types;	/* and the types of its parameters: a ParameterDescription's body, while told */
	char		  status;	/* of the last ReadyForQuery: I T E; 0: not at rest */
	bool		  failed;	/* its transaction has, whatever it answers to what it was sent */
	uint8_t		  streaming;	/* type of the message being streamed */
	uint32_t	  remain;	/* bytes of it still to come */
	struct lessee	 *route_to;	/* whose it is; NULL: nobody's */
	bool		  rested;	/* ReadyForQuery was the last we saw, and more of it is to be judged */
	struct label	 *binding;	/* being confirmed; counted */
	const struct tenant *binding_tenant;
	uint16_t	  bind_known;	/* our own statements this backend has */
	bool		  is_binding;
	bool		  bind_local;	/* for its transaction: the label stays as it was */
	uint64_t	  prepared_ns;	/* when the last bind or BEGIN of ours was sent */
	bool		  beginning;	/* pg_server_begin() is not answered yet */
	bool		  echoing;	/* a bind's ParameterStatus may come, up to ReadyForQuery */
	bool		  bind_reports;	/* the lessee wants to see ParameterStatus of it */
	bool		  skipping;	/* an error: the backend ignores up to Sync */
	bool		  copying_in;	/* and no CopyDone or CopyFail yet; a walsender's: CopyBoth */
	bool		  doubt;	/* cannot say how many answers are owed */
	bool		  pinned;	/* holds state of its lessee: clean before reuse */
	bool		  tainted;	/* state that cannot be cleaned: close */
	bool		  unset;	/* settings were taken back: label unknown */
	bool		  touched;	/* its lessee has set something: not pooled before that is known */
	bool		  asking;	/* what that is: the answer is on its way ... */
	bool		  asked;	/* ... or, at rest, here: */
	struct buf	  told;		/* rows, as the bodies of DataRows */
	struct buf	  said;		/* ParameterStatus that its lessee was sent since it was touched */
	bool		  committed;	/* the last transaction command was COMMIT */
	bool		  reset;	/* has reset something, and no error or ROLLBACK since */
	bool		  discarded;	/* its lessee has discarded all */
	bool		  forgot;	/* its lessee dropped all prepared statements */
	bool		  role_doubt;	/* it refused to write: ask for its role before reuse */
	bool		  role_asked;	/* RESET: the answer is on its way */
	uint64_t	  unnamed_owner;	/* whose unnamed statement it has ... */
	uint64_t	  unnamed_gen;	/* ... and which one, ... */
	uint32_t	  unnamed_epoch;	/* ... sent in which epoch of `held` */
	unsigned	  unnamed_asked;	/* Parses of it not answered yet */
};

static inline struct pg_server *
pg_server(struct server *v)
{
	return (struct pg_server *)(void *)v;
}

/* May the lessee only send up to its first Sync or Query? */
static inline bool
pg_server_binding(const struct server *v)
{
	return ((const struct pg_server *)(const void *)v)->is_binding;
}

/* Is something of ours on its way without which nothing may run? */
static inline bool
pg_server_preparing(const struct server *v)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return pg->is_binding || pg->beginning;
}

/* Did the lessee take its settings back, and they are not put again yet? */
static inline bool
pg_server_is_unset(const struct server *v)
{
	return ((const struct pg_server *)(const void *)v)->unset;
}

/* Is a bind on its way, and nothing behind it? */
bool pg_server_binds_only(const struct server *);

/* Is it asked what its lessee has set? */
static inline bool
pg_server_is_asked(const struct server *v)
{
	return ((const struct pg_server *)(const void *)v)->asking;
}

/* Has it a signed setting, that has grown old or is of another key? */
static inline bool
pg_server_is_due(const struct server *v)
{
	const struct pg_server *pg = (const struct pg_server *)(const void *)v;

	return pg->context_ns != 0 &&
	       (v->pool->home->streams->now_ns >= pg->context_ns ||
		v->pool->snapshot->conf->context.id != pg->context_id);
}

/*
 * Notes that a message of this kind goes out, and says whether its bytes
 * should: false while the backend ignores everything up to a Sync, when the
 * message is answered by nothing (and `settled` was told, if arg is not 0).
 */
bool pg_server_expect(struct server *, struct lessee *, enum pg_kind, enum ledger_action,
    uint32_t arg, uint16_t slot) __attribute__((warn_unused_result));
/* The bytes of it; never fails, because the caller asked pg_server_full(). */
void pg_server_put(struct server *, const void *, size_t n);
/* No more for now: too many answers owed, or too many bytes unsent. */
bool pg_server_full(const struct server *);

/* The statement, parsed on this backend if it is not yet. Returns its slot. */
void pg_server_need(struct server *, const struct stmt *);
/*
 * The statement, parsed here anew, and what it returns: `settled` hears of it
 * as PG_CHECK, with `shape`, before anything that is sent later.
 */
void pg_server_check(struct server *, struct lessee *, const struct stmt *, uint32_t arg);
/* Is it there, for what is sent next? */
bool pg_server_holds(const struct server *, const struct stmt *);
/* This statement (NULL: all of them) may be gone, or be another plan's. */
void pg_server_doubt(struct server *, const struct stmt *);
/* A client's own Parse of it: forwarded under our name, or answered by us. */
void pg_server_parse(struct server *, struct lessee *, const struct stmt *, uint32_t arg);
/*
 * The unnamed statement is whoever's Parse came last.  Note that one goes out,
 * for this lessee or in its place (l NULL); and ask whether that very one is
 * there for what is sent next.
 */
bool pg_server_parse_unnamed(struct server *, struct lessee *l, uint64_t owner, uint64_t gen)
    __attribute__((warn_unused_result));
bool pg_server_has_unnamed(const struct server *, uint64_t owner, uint64_t gen);
/* Closes it, whosever it was, with nothing said to the lessee. */
void pg_server_close_unnamed(struct server *);
/* A transaction begins, of which the lessee has been told already: by this
 * statement, or a bare BEGIN (NULL).  If it fails the server is closed, so
 * nothing behind it runs outside of it.  At rest only. */
void pg_server_begin(struct server *, const struct stmt *);
/* Answers this kind at its turn without asking the backend; an Execute as one
 * of DEALLOCATE.  Of Execute, Parse and Close `settled` is told if arg is not 0. */
void pg_server_fake(struct server *, struct lessee *, enum pg_kind, uint32_t arg);
/* Makes the backend fail here; the lessee hears `settled(PG_POISON, arg, true)`
 * at that point and puts its own words. */
void pg_server_poison(struct server *, struct lessee *, uint32_t arg);

/* The role as a ParameterStatus, or a row of PG_ASK_ROLE, tells it: from the
 * body of the message.  What says nothing of it changes nothing; false: the
 * row is none of that query. */
void pg_role_told(enum conf_role *, const uint8_t *body, size_t n);
bool pg_role_answered(enum conf_role *, const uint8_t *body, size_t n);

/*
 * Its lessee sets something by what is sent next.  In the end it is asked, at
 * rest, between transactions, by this query: what it says is told by `rest`.
 * Then the label is what it says, too; NULL: unknown.
 */
void pg_server_touch(struct server *);
void pg_server_ask(struct server *, const char *sql);
void pg_server_heard(struct server *, struct label *);

/* Puts a signed setting that is due anew, like a bind at a grant.  False: not
 * before what is owed is answered. */
bool pg_server_renew(struct server *) __attribute__((warn_unused_result));
/* Puts the lessee's settings back after it took them away; at rest only. */
void pg_server_rebind(struct server *);
/* Its lessee, which keeps it, wants another label now; at rest only. */
void pg_server_switch(struct server *);
/* Its lessee, in a transaction, has rolled back to where it had another tenant:
 * so has the server; at rest only. */
void pg_server_switched_back(struct server *);
/*
 * The same inside a transaction and until that ends: what `now` says, in place
 * of `before`, is put by set_config(..., true), so that the backend itself goes
 * back to the label it has; at rest only.
 */
void pg_server_switch_local(struct server *, const struct label *before,
    const struct label *now);
/* A Sync of our own behind a bind, when nothing of the lessee's follows it. */
void pg_server_sync(struct server *);

#endif

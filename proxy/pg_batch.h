/*
 * pg_batch: operations of many clients on their way to one commit.
 *
 * An operation is what a client sent up to a Sync, or one Query: single-row
 * INSERTs, in a transaction of their own.  A batch has the operations of one
 * organization that go by the same lane, in the order in which they came.  It
 * borrows a server, sends as many as may share a commit before one Sync, and
 * sees to it that each hears what PostgreSQL has for it, once that has
 * committed.  With nothing on its way it leaves at the end of the turn; else
 * the next ones gather behind.
 *
 * One that fails undoes its neighbours, by PostgreSQL's own rule: those before
 * it, it alone, and those behind it are then run again in this order, each
 * with a Sync of its own.  A commit that fails is repeated one by one.
 *
 * With merge = on, rows of one shape that follow each other are one statement
 * (insert_many.h), and each hears what it would have heard alone.  If that
 * fails they are run again, each by its own.
 *
 * A server that is lost before it can have read the Sync, or that has said
 * that it rolled back, has done nothing: the operations are run again on
 * another.  After that nobody can tell, and everyone in it hears 08007.
 *
 * Lanes: operations with one value of the column order_by go by one lane, of
 * in_flight, on one worker; those of other workers travel there in messages.
 *
 * What is committed is told to Redis before it is answered, where the section
 * says so (redis_publish.h); the next ones do not wait for that.
 *
 * Owner:    an operation is its batch's from pg_batch_submit() on, until it
 *           comes home to the worker of its session, which frees it; the
 *           session may be gone by then, the operation is carried out.
 * Bounds:   BATCH_BYTES_MAX of operations waiting in a batch, then 53300;
 *           OP_BYTES_MAX an operation; OP_REPLY_MAX an answer.
 */
#ifndef PROXY_PG_BATCH_H
#define PROXY_PG_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "pool/pool.h"
#include "protocol/buf.h"
#include "protocol/slice.h"
#include "protocol/why.h"
#include "tls/mailbox.h"

struct conf_batch;
struct pg_batches;
struct session;
struct worker;

enum {
	BATCH_BYTES_MAX = 64 << 20,
	BATCH_TRIES = 3,	/* servers that may be lost under an operation */
	OP_PARTS_MAX = 64,
	OP_BYTES_MAX = 48 << 10,
	OP_REPLY_MAX = 16 << 20
};

/* Whose operations may share a commit: immutable, counted, shared by threads. */
struct pg_terms {
	_Atomic unsigned	    refs;
	struct snapshot		   *snapshot;	/* the session's; counted; batch is in it */
	const struct conf_batch	   *batch;
	struct snapshot		   *pool_snapshot;	/* its pool's; counted; postgres is in it */
	const struct conf_postgres *postgres;
	const struct tenant	   *tenant;	/* counted */
	struct label		   *label;	/* counted */
	struct budget		   *share;	/* of the organization's servers; counted */
	struct budgets		   *budgets;	/* where it is counted */
	struct pool_scram	    scram;	/* what opens servers, where no password does */
	char			   *dbname, *user, *password;	/* of the pool */
	char			   *key;	/* pool, organization and table: whose lanes */
	uint64_t		    hash;	/* of key */
};

struct pg_terms *pg_terms_new(const struct session *, const struct conf_batch *);	/* NULL: no place */
struct pg_terms *pg_terms_ref(struct pg_terms *);
void		 pg_terms_unref(struct pg_terms **);	/* nulls the pointer */
/* Are these still the session's? */
bool		 pg_terms_hold(const struct pg_terms *, const struct session *, const struct conf_batch *);

/* One INSERT of an operation; what is a slice of its bytes is given as offsets. */
struct op_part {
	uint32_t body, body_n;	/* the statement: text, NUL, count and types */
	uint32_t args, args_n;	/* of the Bind what follows the names */
	uint64_t shape;		/* the client was told that it returns this; 0: nothing */
	bool	 query;		/* it was a simple Query's: text only, and no parameters */
	bool	 parse;		/* ParseComplete is expected, */
	bool	 describe;	/* and RowDescription or NoData */
	bool	 news;		/* to be told when it is committed: */
	bool	 unsaid;	/* it should be, but cannot be said */
	uint32_t channel, channel_n, message_n;	/* the message follows its channel */
};

enum op_form {
	OP_EXTENDED,
	OP_QUERY,		/* a simple Query: text only, all in one part */
	OP_TRANSACTION,		/* the same between BEGIN and COMMIT */
	OP_HELD			/* of a transaction that was told they are done (pg_hold.h):
				   answered by tags, notices and errors alone */
};

struct op {
	struct message	 message;	/* between workers */
	struct op	*next;		/* in its batch */
	struct pg_terms	*terms;		/* counted */
	uint64_t	 since_ns;
	unsigned	 lane;
	unsigned	 worker;	/* where its batch is */
	enum op_form	 form;
	bool		 alone;		/* shares no commit */
	bool		 renewed;	/* its statements were, once */
	bool		 verbatim;	/* its row is to be a statement of its own */
	unsigned	 group;		/* rows of its statement: its own and the next ones'; 0: it is
					   in that of one before it */
	uint8_t		 tries;
	/* How it ended: */
	bool		 failed;	/* by its own fault: the answer is an error; a
					   TRANSACTION's session is to run it itself */
	enum why	 why;		/* WHY_MAX: `reply` is the answer, but for ReadyForQuery */
	char		 sqlstate[6];	/* empty: the why's own */
	char		*text;		/* NULL: the why's own */
	struct buf	 reply;
	/* While Redis is told (redis_publish.h): */
	uint64_t	 told_ns;	/* since when */
	unsigned	 told, owed;	/* parts it has been told of; answers it owes */
	/* Its home's alone: */
	unsigned	 home;
	struct session	*session;	/* NULL: gone */
	struct op	*behind;	/* the session's next one */
	bool		 done;
	size_t		 size;		/* of bytes */
	size_t		 cost;		/* in memory, all in all */
	uint64_t	 checked;	/* the server that has its statements in the shapes told */
	uint8_t		*bytes;
	unsigned	 parts;
	struct op_part	 part[];
};

struct op *op_new(unsigned parts, size_t bytes);
void	   op_free(struct op *);

/* A worker's batches. */
struct pg_batches *pg_batches_open(struct worker *);
void		   pg_batches_close(struct pg_batches **);
void		   pg_batches_run(struct worker *);	/* once a turn: sends what is due */
bool		   pg_batches_idle(const struct worker *);
void		   pg_batches_abort(struct worker *);	/* patience has ended */

/* What there is of one table: in all since the start (organization is NULL), or
 * of one organization that has something under way ("": none). */
struct pg_batch_seen {
	const char *table, *organization, *database;
	unsigned    lanes;
	size_t	    waiting, waiting_bytes, sent;	/* operations, bytes, operations */
	uint64_t    wait_us;				/* of the oldest that waits */
	uint64_t    operations, commits, replayed, unknown;
};

/* On its worker.  Texts are views. */
void pg_batches_see(const struct worker *, void (*see)(void *arg, const struct pg_batch_seen *),
    void *arg);

/* Takes the operation over; pg_op_home() hears of it on this worker, later. */
void pg_batch_submit(struct worker *, struct op *);

/* Redis has been told of it, as far as it could be. */
void pg_batch_told(struct worker *, struct op *);

#endif

/*
 * redis_server: one Redis connection, shared or lent: its log-in, and whose
 * reply is next.
 *
 * Many sessions append their commands; each has one entry in the ledger, and
 * each reply goes to the owner of the entry at its head.  Replies are framed,
 * not translated: bytes pass in runs as long as neighbouring replies have one
 * owner, and a huge reply passes as it arrives.
 *
 * What sessions hear (lessee_ops): reply() has bytes; settled() says how many
 * replies they completed, or that one will not come.  A session that wants to
 * say something between two replies marks the first (redis_server_mark) and
 * hears of it before the second is delivered.
 *
 * One of a pool that lends is a single session's from grant to release, and
 * works in the same way meanwhile.  Released soiled, it goes through RESET and
 * another log-in before the next has it; released while it owes a reply, it is
 * closed, so a client that leaves while it is blocked takes no element along.
 * At its log-in it asks for its CLIENT ID, which CLIENT UNBLOCK needs; a server
 * that keeps that from its user lends all the same.
 *
 * Back-pressure: a session that cannot take more (its client does not read as
 * fast as this server sends) may stop the server: redis_server_pause().  All
 * others behind it wait, so it is told once a second how long that has been,
 * and leaves when its client makes no progress; the cost of one slow reader to
 * the others is bounded by that.
 *
 * Redis writes 64 KiB a round and meanwhile executes all it can read, so many
 * large replies asked for at once would fill its memory, not ours; and replies
 * nobody waits for any more delay those of all others.  So a server takes
 * commands for about REDIS_OWED_MAX bytes of replies, judged by the size of
 * recent ones, and a session no more than its share of them.  Who finds it
 * full queues, and is served in order.
 *
 * Safety:   a reply nobody asked for, or one that is no RESP, closes the
 *           connection; so does its loss, and every entry is then settled as
 *           unanswered, once.  Nothing is sent twice.
 */
#ifndef POOL_REDIS_SERVER_H
#define POOL_REDIS_SERVER_H

#include <sys/socket.h>

#include "pool/pool.h"
#include "pool/server.h"
#include "protocol/resp.h"
#include "protocol/slice.h"

enum {
	REDIS_OUT_FULL = 4 << 20,	/* unsent bytes: no more commands */
	REDIS_OWED_MAX = 8 << 20,	/* bytes of replies outstanding, roughly ... */
	REDIS_OWED_MIN = 16,		/* ... but so many of them always */
	REDIS_SHARE_MIN = 4,
	REDIS_SHARE_MAX = 1024
};

/* The `kind` of settled(), and what its `arg` says. */
enum redis_settled {
	REDIS_ANSWERED,		/* so many replies are complete; !done: that of a judged command
				   was an error */
	REDIS_UNANSWERED,	/* one reply will not come: the connection is lost */
	REDIS_TORN,		/* the same, and a part of it was delivered */
	REDIS_SLOW		/* the server has been waiting for you for so many seconds;
				   0: it is not any more, it is lost */
};

struct redis_server {
	struct server	   s;
	struct resp_reply  reply;	/* the one being received */
	uint64_t	   paid;	/* entries taken from the ledger, ever */
	size_t		   size;	/* bytes of the reply being received, so far */
	size_t		   usual;	/* of recent replies: fast to rise, slow to fall */
	unsigned	   window;	/* commands outstanding at most, by that */
	struct fair	   queue;	/* they wait for room, their organizations in turn */
	struct lessee	  *called;	/* whose turn it is */
	struct lessee	  *slow;	/* whose client must read before we go on */
	unsigned	   slow_s;	/* for so many seconds */
	struct wheel_entry timer;	/* while there is a slow one */
	unsigned	   asked;	/* LOGIN: replies still to come */
	int64_t		   client_id;	/* lent: its own upstream; 0: not told */
	bool		   passed;	/* a part of the reply under way was delivered */
	bool		   is_push;	/* it is a push, and its lessee's if it `talks` */
	bool		   failed;	/* it is an error, and the command is judged */
	bool		   talks;	/* lent: also says what nobody asked (MONITOR, pushes) */
	bool		   soiled;	/* lent: to be reset before the next has it */
	bool		   spent;	/* lent: the next may not have it */
	bool		   demoted;	/* it said that it is a replica */
	bool		   in_input;	/* redis_input() runs, and goes on by itself */
};

/* Connected, or TLS is up: the log-in goes out. */
void redis_server_opened(struct server *);
/* Answers to it; idle or shared after the last. */
void redis_server_login(struct server *);

/* Commands one session may have outstanding. */
unsigned redis_server_share(const struct server *);
/* No more of this one for now; redis_server_queue() lets it hear room(). */
bool redis_server_full(const struct server *, const struct lessee *);
void redis_server_queue(struct server *, struct lessee *);
void redis_server_unqueue(struct server *, struct lessee *);

/* Sends a command, canonically encoded.  Returns its place in the pipeline. */
uint64_t redis_server_send(struct server *, struct lessee *, const struct slice *arg, size_t argc);
/* The same of one that is encoded, canonically, already. */
uint64_t redis_server_pass(struct server *, struct lessee *, struct slice request);
/* Settle this one before anything behind it is delivered. */
void redis_server_mark(struct server *, uint64_t place);
/*
 * Settle this one alone, and say whether it was carried out: an error but
 * EXECABORT says no.  After that a shared connection may be in any state, and
 * closes.
 */
void redis_server_judge(struct server *, uint64_t place);
/* Lent: a command whose reply nobody wants.  Not when it is full. */
void redis_server_slip(struct server *, const struct slice *arg, size_t argc);
/* Lent: what it says unasked is its lessee's from now on, or no more. */
void redis_server_talks(struct server *, bool);
void redis_server_soil(struct server *);
/*
 * Lent: its CLIENT ID upstream, for a CLIENT UNBLOCK; 0: it was not told.  That
 * may arrive whenever it likes: so the connection ends with this lease, and it
 * reaches nobody who borrows later.
 */
int64_t redis_server_spend(struct server *);

/* Lent: the same for who may use it only while this lease lasts. */
int64_t redis_server_id(const struct server *);
/* Which server it is: the address at its end; zeroed: none. */
void redis_server_peer(const struct server *, struct sockaddr_storage *);

/* False: it waits for another already; ask again at the next reply. */
bool redis_server_pause(struct server *, struct lessee *);
void redis_server_resume(struct server *, struct lessee *);	/* if it waits for this one */
/* Somebody has waited for it too long.  With Sentinels they are asked whether it is still the
 * master; if it is not, it is not waited for any longer. */
void redis_server_overdue(struct server *);
/* The session leaves: its replies will be swallowed. */
void redis_server_part(struct server *, struct lessee *);

#endif

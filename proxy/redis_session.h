/*
 * redis_session: a Redis client: what it asked, and in which order it hears.
 *
 * redis_session.c moves commands and replies; redis_local.c knows the commands
 * weir answers itself, among them all that say who the client is; redis_own.c
 * those that need a connection of their own, redis_multi.c what is asked in a
 * transaction there; redis_pubsub.c those that subscribe; redis_redirect.c who
 * hears what another tracks; redis_clients.c tells of the others.
 *
 * Order: forwarded commands all go to one shared server and come back in
 * order.  A local reply that stands behind outstanding ones is held until so
 * many replies were delivered.  What changes where commands go (AUTH, HELLO,
 * SELECT, RESET, a farewell) waits until nothing is outstanding; meanwhile the
 * client's input lies where it is.
 *
 * What is heavy (redis_cmd.h), or asked by a client whose replies have been
 * huge, goes on a second shared connection if there is one (pool.h), so that
 * the others do not wait for it.  A client's commands are never on both at once:
 * it changes when nothing is outstanding, and goes on where it is until then,
 * so that its replies are in order and it reads what it has written.
 *
 * A connection of its own is borrowed when nothing is outstanding on the shared
 * one and given back when nothing is outstanding on it, so a client reads what
 * it has written.  It keeps the connection while there is a reason (`hold`);
 * then all it sends goes there.  If that one is lost its client is closed, as
 * it would be by Redis: what it had there cannot be given to it again.
 *
 * Bounds: a share of the server's commands outstanding (at first
 * REDIS_FIRST, and one more for each reply), REDIS_HELD_MAX bytes of held
 * replies (and one reply more), STREAM_OUT_HIGH bytes of unread replies: past
 * any of them the client's requests are not read.  The replies to what was
 * read before may still come to REDIS_SLOW_MAX bytes and more; then the server
 * is stopped until the client has read them, which it must do at
 * REDIS_SLOW_RATE bytes a second and within REDIS_SLOW_S seconds, because
 * everybody else on that server waits too.  So a value of any size reaches a
 * client that reads, and one that does not costs the others a second.
 * Before the log-in a client has REDIS_NOAUTH_OUT bytes of unread replies.
 *
 * An organization begins in the database of its upstream, and with profile
 * `shared` it stays there: prefixes of keys keep nobody out of another one.
 *
 * A command that Redis 7.0 does not have may be a module's or a newer server's:
 * it goes on a shared connection like one without keys, and the server answers
 * it or says in its own words that it is unknown.  Not for an organization
 * with profile `shared`: whom else it reaches is known to nobody, so to it
 * there is no such command.  WAITAOF is about the connection, and so passes
 * for nobody.  An unknown subcommand is treated alike where the others of its
 * command travel, but for those of CLUSTER.
 *
 * A command that Redis leaves unanswered for command_timeout is answered here by
 * an error, and its reply dropped when it comes; if a part of it has come, or it
 * is on a connection of its own, the client is closed instead.
 *
 * Passwords are compared with the text in the configuration.  A user whose
 * password is stored as a SCRAM verifier or an MD5 hash cannot log in here:
 * checking it would cost a worker milliseconds a try.
 */
#ifndef PROXY_REDIS_SESSION_H
#define PROXY_REDIS_SESSION_H

#include "pool/redis_server.h"
#include "protocol/redis_cmd.h"
#include "protocol/resp.h"
#include "proxy/session.h"

enum {
	REDIS_FIRST = 64,
	REDIS_HELD_MAX = 64 << 10,
	REDIS_SLOW_MAX = 16 << 20,
	REDIS_SLOW_RATE = 256 << 10,
	REDIS_SLOW_S = 10,
	REDIS_HUGE = 128 << 10,		/* bytes of a reply ... */
	REDIS_HUGE_FOR = 32,		/* and so many later ones it is held against him */
	REDIS_NOAUTH_OUT = 1 << 10,
	REDIS_NOAUTH_REQUEST = 256 << 10,
	REDIS_REQUEST_MAX = RESP_BULK_MAX + (1 << 20),
	REDIS_CAUGHT_MAX = 32 << 20,	/* a reply that is not passed as it comes */
	REDIS_OUT_MAX = 1 << 30,	/* of a buf: more than all of the above */
	REDIS_NAME_MAX = 1 << 10,	/* CLIENT SETNAME */
	REDIS_DATABASES = 16		/* as Redis has them, unless configured */
};

/* Why it keeps a connection of its own. */
enum redis_hold {
	REDIS_IN_MULTI = 1,
	REDIS_WATCHES = 2,
	REDIS_TRACKS = 4,
	REDIS_MONITORS = 8,
	REDIS_PAUSES = 16	/* who ends it must not wait for whom it holds up */
};

/* CLIENT REPLY: Redis is asked all the same, and its reply dropped here. */
enum redis_mute {
	REDIS_LOUD,
	REDIS_OFF,
	REDIS_SKIP,	/* just said */
	REDIS_SKIP_NEXT,
	REDIS_SKIPS	/* that one's reply is to come */
};

/* To whom a client redirects what it tracks, as we and as Redis have it; 0: to nobody. */
struct redis_aim {
	int64_t to, there;
};

struct redis_session {
	struct session	    s;
	struct resp_request request;	/* memory only while half a request is there */
	struct slice	    bytes;	/* of the request being run, as it came */
	uint64_t	    sent, answered;	/* forwarded commands; replies to them */
	struct server	   *via;	/* where the outstanding ones are, or are to go */
	uint64_t	    last;	/* place of the last one there */
	struct buf	    held;	/* local replies, each behind a struct held */
	size_t		    held_at;	/* the one being written */
	struct server	   *slow;	/* it waits for our client to read */
	size_t		    slow_left;	/* how much was left when last looked at */
	const struct conf_redis *redis;	/* where to, from the log-in on */
	const char	   *user, *password;	/* of our own log-in there */
	char		   *reason;	/* with `down`: the upstream's own, or NULL */
	char		   *name;	/* CLIENT SETNAME; NULL: none */
	const struct redis_cmd *ran;	/* its last command, and when: for CLIENT LIST */
	uint64_t	    ran_ns;
	struct redis_roll  *roll;	/* CLIENT LIST, KILL or UNBLOCK: its answer (redis_clients.h) */
	struct redis_sub   *sub;	/* what it subscribes to (redis_pubsub.h); NULL: it never did */
	struct redis_caught *caught;	/* the reply under way is not for the client as it is */
	struct redis_cluster_own *own;	/* the same, of what it has of its own there; or NULL */
	struct redis_multi *multi;	/* what is to be done behind EXEC (redis_multi.h); NULL: nothing */
	struct redis_witness *witness;	/* by which it hears what others track (redis_redirect.h); or NULL */
	struct redis_redirect *redirect;	/* who hears what it tracks; NULL: nobody ever did */
	struct redis_look  *look;	/* who that is to be: the answer */
	struct redis_aim    next_aim;	/* with `aims` */
	struct redis_cluster *cluster;	/* its commands in one (redis_cluster.h); NULL: none yet */
	size_t		    more;	/* bytes taken behind the request being run */
	uint64_t	    since_ns;	/* outstanding: for so long at most; idle: likewise */
	unsigned	    hold;	/* enum redis_hold, several; 0: none */
	uint64_t	    began;	/* IN_MULTI: `sent` behind MULTI */
	unsigned	    judged;	/* what is taken back if the one outstanding fails */
	unsigned	    db, next_db;	/* SELECT on a connection of its own is under way */
	size_t		    size;	/* bytes of replies since the last whole one */
	uint8_t		    huge;	/* for so many replies it does not count as quick */
	bool		    heavy;	/* the command being run is */
	bool		    waited;	/* in this step, for a connection */
	bool		    selects;
	bool		    aims;	/* CLIENT TRACKING ON is under way */
	bool		    moved;	/* that one is in another database, or RESP, than its pool's */
	bool		    stained;	/* and is in a state of which we are not sure */
	bool		    fresh;	/* one was just granted: for the command that waits */
	bool		    blocked;	/* the command outstanding may take its time */
	bool		    cut;	/* it has lost a connection it held */
	uint8_t		    mute;	/* enum redis_mute; changes when nothing is outstanding */
	uint8_t		    resp;	/* 2 or 3 */
	uint8_t		    down;	/* enum why: no server in this step; 0: not tried */
	bool		    calling;	/* the answer is on its way */
	bool		    leaving;	/* its side is closed; replies are on their way */
	bool		    stopped;	/* its input waits for replies or room */
	bool		    midway;	/* a part of a reply has gone out */
};

static inline struct redis_session *
redis_session(struct session *s)
{
	return (struct redis_session *)(void *)s;
}

/* Nothing outstanding: a change takes effect at the right place. */
static inline bool
redis_is_idle(const struct redis_session *rs)
{
	return rs->sent == rs->answered;
}

/* What became of a command. */
enum redis_did {
	REDIS_DONE,	/* sent or answered */
	REDIS_LATER	/* not yet: leave it in the input and come again */
};

/* The whole reply that was caught: it says something in its place, or nothing to
 * who hears no reply; 0, or -1: that does not fit. */
typedef int redis_tell(struct redis_session *, unsigned about, const uint8_t *, size_t);

typedef enum redis_did redis_run(struct redis_session *, const struct slice *arg, size_t argc);

/* redis_session.c */
redis_run   redis_forward;
/* The connection it has for its own, or else one in that database; or NULL and
 * what became of the command: it waits for one, or there is none (*did DONE: it
 * was told so, and closed unless it `goes_on`). */
struct server *redis_lend(struct redis_session *, unsigned db, bool goes_on, enum redis_did *did);
/* One more on the connection the last is on, or is to go to: its place. */
uint64_t       redis_put(struct redis_session *, struct server *, const struct slice *arg, size_t argc);
void	       redis_answered(struct redis_session *, uint32_t n);	/* so many more replies are told */
/* The shared one, where there is room for n at once; likewise. */
struct server *redis_share(struct redis_session *, size_t n, enum redis_did *did);
/* The reply to what was just sent, or is next, alone, comes to `tell` and nowhere else, with
 * what it is `about`; nothing begins meanwhile.  Not where the server also says what nobody asked. */
void	       redis_catch(struct redis_session *, redis_tell *tell, unsigned about);
void	       redis_uncatch(struct redis_session *);	/* it will not come */
/* Bytes of it: true: they are taken. */
bool	       redis_caught(struct redis_session *, const uint8_t *, size_t);
enum redis_did redis_say_rate(struct redis_session *);
/* A local reply: redis_said(rs, resp_put_...(redis_say(rs), ...)). */
struct buf    *redis_say(struct redis_session *);
enum redis_did redis_said(struct redis_session *, int failed);
enum redis_did redis_say_error(struct redis_session *, const char *text);
enum redis_did redis_say_text(struct redis_session *, const char *, size_t);	/* verbatim in RESP3 */
void	       redis_rehome(struct redis_session *);	/* commands go elsewhere from now on */
/* Not to be called any more: it has sent, or has nothing to send there. */
void	       redis_leave_queue(struct redis_session *);

/* redis_own.c */
/* For one more on the connection it has; false: it is to come again, and is called when there is. */
bool redis_has_room(struct redis_session *, struct server *);
/* As Redis compares the words of an option: up to a NUL. */
bool redis_is_option(struct slice, const char *word);
/* A command of class REDIS_DEDICATED; none is held. */
enum redis_did redis_own(struct redis_session *, const struct redis_cmd *,
    const struct slice *arg, size_t argc);
/* Any command while one is held. */
enum redis_did redis_own_held(struct redis_session *, const struct redis_cmd *,
    const struct slice *arg, size_t argc);
/* In a cluster: one that was sent is sent again, to another node; `hold` as then. */
enum redis_did redis_own_again(struct redis_session *, const struct slice *arg, size_t argc,
    unsigned hold);
/* It is answered with this error; a transaction that it is part of will fail. */
enum redis_did redis_reject(struct redis_session *, const char *text);
/* It is not supported `where`: as it would fail upstream if it were asked there, but
 * nothing is changed. */
enum redis_did redis_reject_here(struct redis_session *, const struct redis_cmd *, const char *where);
/* SELECT of a database it may have, while a connection is held. */
enum redis_did redis_own_select(struct redis_session *, const struct slice *arg, size_t argc, unsigned db);
/* HELLO of another version, while a connection is held that has room. */
void	       redis_own_hello(struct redis_session *, unsigned version);
/* CLIENT TRACKING ON, on the connection it has or is to have; all its replies are in. */
enum redis_did redis_own_track(struct redis_session *, const struct slice *arg, size_t argc,
    struct redis_aim);
/* Are the bytes it gets an invalidation?  That is heard even if replies are not. */
bool	       redis_own_is_push(const struct redis_session *);
/* A command that stood alone was answered. */
void	       redis_own_judged(struct redis_session *, bool done);

/* redis_local.c */
/* Of a subcommand newer than Redis 7.0 that every client sends; or NULL. */
const struct redis_cmd *redis_local_newer(const struct redis_cmd *, const struct slice *arg, size_t argc);
/* A command that is not simply forwarded: `cmd` is its own or its subcommand's row. */
enum redis_did redis_local(struct redis_session *, const struct redis_cmd *,
    const struct slice *arg, size_t argc);
/* Does its upstream's profile keep this one from this client? */
bool	       redis_local_forbids(const struct redis_session *, const struct redis_cmd *,
    const struct slice *arg, size_t argc);
enum redis_did redis_local_noperm(struct redis_session *, const struct redis_cmd *);
/* INFO, as its organization hears what the server has said. */
void	       redis_local_tell_info(struct redis_session *, const struct slice *arg, size_t argc,
    struct slice said);
bool	       redis_local_is_name(struct slice);	/* that a client may have */
bool	       redis_local_has_db(const struct redis_session *, int64_t db);
/* The others are no part of what its organization may see. */
bool	       redis_local_may_select(const struct redis_session *, int64_t db);
/* Who it would be with these credentials: nobody; one whose commands go where they go now, as
 * the same user there; or another.  UNKNOWN_YET: it is woken, and is to ask again. */
enum redis_who { REDIS_NOBODY, REDIS_ITSELF, REDIS_ANOTHER, REDIS_UNKNOWN_YET };
enum redis_who redis_local_who(struct redis_session *, struct slice user, struct slice password);
/* The user `default`, if it may come in without a password. */
void	       redis_local_trust(struct redis_session *);

#endif

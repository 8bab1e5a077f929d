/*
 * redis_hub_post: what travels between ears and hubs (redis_hub.h), and what a
 * worker has of both.
 *
 * Each parcel belongs to whoever has received it.  What it points to is its
 * own, or counted, or a cookie (`wait`) that only its ear looks at.
 */
#ifndef PROXY_REDIS_HUB_POST_H
#define PROXY_REDIS_HUB_POST_H

#include <stdatomic.h>

#include "protocol/links.h"
#include "proxy/redis_hub.h"
#include "proxy/worker.h"

/* Who subscribes where.  Immutable, counted; its password is wiped. */
struct hub_who {
	_Atomic unsigned	 refs;
	struct snapshot		*snapshot;	/* counted */
	const struct conf_redis *redis;		/* in it */
	char			*user, *password;	/* NULL: none */
	char			*node;		/* of a cluster, at this port; NULL: the upstream */
	unsigned		 port;
	unsigned		 home;		/* the hub's worker */
	char			 key[];
};

struct hub_who *hub_who_ref(struct hub_who *);
void		hub_who_unref(struct hub_who **);

/* To a worker's ears: read in the order they come. */
struct hub_parcel {
	struct message message;
	/* False: not through yet, to go on next turn. */
	bool	     (*open)(struct hubs *, struct hub_parcel *);
};

enum hub_op { HUB_SUBSCRIBE, HUB_FENCE, HUB_DROP };

/* An ask; SUBSCRIBE and FENCE travel back answered. */
struct hub_ask {
	struct hub_parcel parcel;
	struct hub_ask	 *next;		/* in the hub's queue */
	struct hub_who	 *who;
	struct hub_wait	 *wait;		/* the ear's cookie */
	enum hub_op	  op;
	enum resp_channel channel;	/* of SUBSCRIBE */
	unsigned	  from;		/* the ear's worker */
	uint64_t	  since_ns;	/* when the hub got it */
	char		 *error;	/* the answer: refused with these words ... */
	enum why	  down;		/* ... or for this; 0 and NULL: done */
	size_t		  n;		/* names */
	size_t		  confirmed;	/* of them, and where the next one is */
	size_t		  at, size;
	uint8_t		  names[];	/* hub_put_name() after hub_put_name() */
};

void   hub_ask_free(struct hub_ask *);
size_t hub_name_size(struct slice);
void   hub_put_name(struct hub_ask *, enum resp_channel, struct slice);
struct slice hub_get_name(const struct hub_ask *, size_t *at, enum resp_channel *);

struct hub_envelope {
	struct hub_parcel parcel;
	struct hub_news	 *news;
	size_t		  at;		/* delivered so far */
};

/* Whole messages for several workers; the last to have read them sends them home. */
struct hub_news {
	struct message	    back;
	_Atomic unsigned    refs;
	struct hub_who	   *who;
	size_t		    n;
	uint8_t		   *bytes;
	struct hub_envelope to[];	/* one a worker */
};

void hub_news_free(struct hub_news *);
void hub_news_returned(struct message *, void *worker);

/* The connection is lost. */
struct hub_end {
	struct hub_parcel parcel;
	struct hub_who	 *who;
	enum why	  why;
};

/* A worker's share. */
struct hubs {
	struct worker	 *w;
	struct links_key  key;
	struct links	  ears, channels, claims;
	struct hub_wait	 *waits;	/* whose asks are under way */
	struct message	 *inbox, **inbox_tail;
	uint64_t	  turn_ns;	/* in this turn ... */
	unsigned	  delivered;	/* ... so many deliveries */
	struct links	  hubs;
	struct hub	 *gone;		/* to be freed, if still unused then */
	struct message	  again;	/* to ourselves: go on next turn */
	bool		  again_posted;
	bool		  stopped;
};

void hubs_again(struct hubs *);

/* redis_ear.c */
void hub_parcel_arrives(struct message *, void *worker);
bool hub_ask_answered(struct hubs *, struct hub_parcel *);
bool hub_news_open(struct hubs *, struct hub_parcel *);
bool hub_end_open(struct hubs *, struct hub_parcel *);
void ears_run(struct hubs *);
void ears_free(struct hubs *);

/* redis_hub.c */
void hub_asked(struct message *, void *worker);
void hubs_bury(struct hubs *);
void hubs_stop_all(struct hubs *);

#endif

/*
 * stmt: prepared statements by name: what a client called it, and what a
 * server has.
 *
 * A statement is its Parse message without the name: text and parameter
 * types.  Its name on every server is made from a SHA-256 of that, so all
 * workers call it the same, two clients can use one name for different SQL,
 * and a server that moves to another worker needs no translation.  Where a
 * client's DateStyle or the like decides what the text means, that is part of it.
 *
 *	struct stmt	  one statement, kept once a worker, counted
 *	struct stmt_names a client's names for them
 *	struct stmt_held  what one server has, most recently used last
 *
 * Bounds:   STMT_NAMES_MAX names and STMT_BYTES_MAX bytes of text a client;
 *           `max` statements a server, the least recently used makes room.
 */
#ifndef POOL_STMT_H
#define POOL_STMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/slice.h"

struct label;

enum {
	STMT_DIGEST = 16,
	STMT_NAME = 5 + 2 * STMT_DIGEST,	/* weir_ and hex digits */
	STMT_NAMES_MAX = 10000,
	STMT_BYTES_MAX = 64 << 20,
	STMT_RENEWED = 256,	/* texts whose renewed names a worker remembers */
	STMT_NONE = 0xffff,
	STMT_UNNAMED = 0xfffe
};

struct stmt {
	uint8_t	     digest[STMT_DIGEST];
	uint8_t	     base[STMT_DIGEST];	/* of the text; differs once that was renewed */
	struct stmt *chain;
	unsigned     refs;
	unsigned     flags;		/* sql_scan()'s, of its text */
	bool	     stale;		/* what it returns has changed: must be parsed under a new name */
	char	     name[STMT_NAME + 1];
	size_t	     len;
	uint8_t	     body[];		/* text, NUL, count and types */
};

/* A text that servers may have under a plan that is no longer true. */
struct stmt_renewal {
	uint8_t	 base[STMT_DIGEST];
	uint64_t salt;		/* makes its name another one */
};

/* A worker's statements. */
struct stmts {
	struct stmt	  **bucket;
	size_t		    buckets, n;
	struct stmt_renewal *renewed;	/* STMT_RENEWED of them, the oldest overwritten */
	size_t		    renewed_n;
};

void	     stmts_fini(struct stmts *);	/* all references must be gone */
/* One reference; the one already there if it is known. */
struct stmt *stmt_intern(struct stmts *, struct slice body, unsigned flags);
/* The same for a session whose settings are the label's: a text that they make
 * something else of is another statement. */
struct stmt *stmt_intern_as(struct stmts *, const struct label *, struct slice body, unsigned flags);
struct stmt *stmt_ref(struct stmt *);
void	     stmt_unref(struct stmts *, struct stmt **);

/* "cached plan must not change result type": who has this statement gets that
 * error from now on, and who parses the text again gets another statement. */
void	     stmt_renew(struct stmts *, struct stmt *);

/* A client's names. */
struct stmt_entry {
	uint64_t	   reads;	/* of the label it was last used under */
	struct stmt_entry *chain;
	struct stmt	  *stmt;	/* counted; NULL while a Close is on its way */
	struct stmt	  *closed;	/* what the Close on its way would drop */
	uint32_t	   id;		/* unique in its map: how a ledger entry names it */
	uint32_t	   epoch;	/* of its client's Syncs, when it was parsed */
	bool		   asked;	/* its Parse is not answered yet */
	uint64_t	   shape;	/* what its client was told it returns; 0: nothing */
	uint8_t		  *types;	/* what it was told of its parameters: as in a */
	size_t		   types_n;	/* ParameterDescription; NULL: nothing */
	size_t		   name_len;
	char		   name[];
};

struct stmt_names {
	struct stmt_entry **bucket;
	size_t		    buckets, n, bytes;
	uint32_t	    last_id;
	uint32_t	    hidden;	/* ids below this are not found: being deallocated */
};

void		   stmt_names_fini(struct stmt_names *, struct stmts *);
struct stmt_entry *stmt_names_find(const struct stmt_names *, struct slice name);
struct stmt_entry *stmt_names_find_id(const struct stmt_names *, uint32_t id);
/* Takes over the reference.  NULL: a bound is reached (the reference stays). */
struct stmt_entry *stmt_names_add(struct stmt_names *, struct slice name, struct stmt *);
void		   stmt_names_told_types(struct stmt_entry *, struct slice);
void		   stmt_names_drop(struct stmt_names *, struct stmts *, struct stmt_entry *);
/* It is used under this label: its client's settings may have changed since. */
void		   stmt_entry_read(struct stmt_entry *, struct stmts *, const struct label *);
/* All there are were asked to be dropped; later that has happened, or not. */
void		   stmt_names_hide(struct stmt_names *);
void		   stmt_names_unhide(struct stmt_names *, struct stmts *, bool dropped);

/*
 * What a server has.  A Parse or Close on its way may be skipped, because
 * something before it fails; but then so is what follows it up to the next
 * Sync.  So within one epoch, from Sync to Sync, what was sent counts as done;
 * from the next one on only what was answered does.
 */
struct stmt_slot {
	uint8_t	 digest[STMT_DIGEST];
	uint64_t used;		/* turn counter at the last use */
	uint32_t epoch;		/* of the last Parse or Close */
	uint16_t asked;		/* Parses and Closes sent, not answered */
	bool	 has;		/* after those answered */
	bool	 will;		/* after those sent, if none is skipped */
	bool	 doubted;	/* there or not: close it before the next Parse */
};

struct stmt_held {
	struct stmt_slot *slot;
	uint16_t	  n, size, max;
	uint32_t	  epoch;
	uint64_t	  clock;
};

void	 stmt_held_init(struct stmt_held *, unsigned max);
void	 stmt_held_fini(struct stmt_held *);
void	 stmt_held_clear(struct stmt_held *);	/* nothing is there, nothing on its way */
void	 stmt_held_forget(struct stmt_held *);	/* the server dropped all, just now */
void	 stmt_held_sync(struct stmt_held *);	/* a Sync was sent */
/* This one (NULL: none of them) can be relied on no longer. */
void	 stmt_held_doubt(struct stmt_held *, const uint8_t digest[STMT_DIGEST]);
/* Its slot, freshly used, if it is there for what is sent next; STMT_NONE: not
 * surely: then, in this order, the next three. */
uint16_t stmt_held_find(struct stmt_held *, const uint8_t digest[STMT_DIGEST]);
/* One to close to make room, again and again; STMT_NONE: there is room. */
uint16_t stmt_held_evict(struct stmt_held *);
/* The slot of it to close first, because it may be there; STMT_NONE: it is not. */
uint16_t stmt_held_unsure(struct stmt_held *, const uint8_t digest[STMT_DIGEST]);
/* The slot for the Parse about to be sent. */
uint16_t stmt_held_add(struct stmt_held *, const uint8_t digest[STMT_DIGEST]);
/* A Parse, or else a Close, of that slot was answered, or skipped. */
void	 stmt_held_settle(struct stmt_held *, uint16_t slot, bool parse, bool done);
void	 stmt_name(char out[STMT_NAME + 1], const uint8_t digest[STMT_DIGEST]);

#endif

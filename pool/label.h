/*
 * label: the settings a session wants on its server, as one immutable value.
 *
 * The organization's variables and what the client's startup packet asked
 * for.  A server carries the label it was last given; when the next lessee's
 * is the same, nothing is sent.  Labels with the same content have the same
 * digest, so comparing two costs 16 bytes whatever they hold.
 *
 * One of the pairs may be what context_subject() made: the label is the same on
 * every server, and what a server gets as that setting's value is signed for
 * it alone (pool/pg_server).
 *
 * Owner:    counted; label_unref() of the last reference frees it.
 * Threads:  a server that moves takes its label along: the count is atomic,
 *           the content never changes.  `params` belongs to the worker whose
 *           cache the label is in.
 */
#ifndef POOL_LABEL_H
#define POOL_LABEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/slice.h"

enum { LABEL_DIGEST = 16, LABELS_SLOTS = 1024 };

struct label_pair {
	const char *name;
	const char *value;
};

struct label {
	_Atomic unsigned  refs;
	uint8_t		  digest[LABEL_DIGEST];
	bool		  verified;	/* a server has accepted these values ... */
	struct buf	 *params;	/* ... and reported these, as ParameterStatus messages */
	const char	 *context;	/* the name of the pair to sign, or NULL */
	uint64_t	  literals;	/* what it makes of dates and the like in a text, ... */
	uint64_t	  letters;	/* ... and of bytes beyond ASCII; 0: what most do */
	size_t		  n;
	struct label_pair pair[];	/* sorted by name */
};

/* A worker's recently used labels, so that equal ones are mostly the same one. */
struct labels {
	struct label *slot[LABELS_SLOTS];
};

/* From pairs in any order; a later pair of the same name wins.  One reference. */
struct label *label_new(struct labels *, const struct label_pair *, size_t n);
/* The same; what it says for the setting `context` is to be signed. */
struct label *label_new_signed(struct labels *, const struct label_pair *, size_t n, const char *context);
struct label *label_ref(struct label *);	/* NULL stays NULL */
void	      label_unref(struct label **);	/* nulls the pointer */
bool	      label_same(const struct label *, const struct label *);	/* NULL is the empty one */
bool	      label_has(const struct label *, const char *name);
const char   *label_value(const struct label *, const char *name);	/* NULL: it says nothing of it */
/* These pairs in place of what it says of those settings; a value NULL: nothing.
 * One reference. */
struct label *label_over(struct labels *, const struct label *, const struct label_pair *, size_t n);
/* PostgreSQL reads some literals when it parses: by DateStyle, TimeZone and
 * their like.  0: this text means the same under most labels, this one too. */
uint64_t      label_reads(const struct label *, struct slice text);
void	      labels_fini(struct labels *);

#endif

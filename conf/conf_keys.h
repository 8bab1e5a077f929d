/*
 * conf_keys: every section and key a configuration may have, in one table.
 *
 * A row is a key: where it may stand, its type, bounds and default, and where
 * its value goes.  Adding a key means adding a row (and a paragraph to
 * example.ini, or a test fails).  What a row names but weir cannot do yet is
 * in its column `later`: building it means emptying that column.
 */
#ifndef CONF_CONF_KEYS_H
#define CONF_CONF_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conf;

#define CONF_KEYS_KINDS(X)                                                    \
	X(WEIR) X(TLS) X(POSTGRES) X(REDIS) X(DATABASE) X(ORGANIZATION)       \
	X(USER) X(VARIABLES) X(DIRECTORY) X(CONTEXT) X(BATCH) X(AUTH)

enum conf_kind {		/* in the order they are filled in: */
#define X(name) KIND_##name,	/* what is referred to comes first */
	CONF_KEYS_KINDS(X)
#undef X
	KIND_MAX
};

enum conf_type {
	T_BOOL,			/* bool */
	T_UINT,			/* unsigned, from lo to hi */
	T_TIME,			/* uint64_t, milliseconds, from lo to hi */
	T_SIZE,			/* size_t, bytes, from lo to hi */
	T_WORD,			/* an enum or int, one of `words` */
	T_TEXT,			/* char *, of lo to hi bytes */
	T_HOST,			/* struct conf_postgres, its hosts: names, addresses, directories */
	T_URL,			/* char *, of Redis; its parts are filled in too */
	T_LIST,			/* char **, and a size_t at aux; of at least lo */
	T_LISTEN,		/* more of conf.listen, of kind lo */
	T_RATE,			/* struct tenant_rate */
	T_POSTGRES,		/* const struct conf_postgres *, by its name */
	T_REDIS,		/* const struct conf_redis *, by its name */
	T_TENANT,		/* const struct tenant *, by its slug */
	T_NOWHERE,		/* known, but there is nobody to use it yet */
	T_MAX
};

struct conf_word {
	const char *text;	/* a text of NULL ends the list */
	int	    value;
};

struct conf_row {
	enum conf_kind		kind;
	const char	       *name;
	enum conf_type		type;
	uint64_t		lo, hi;
	const char	       *def;	/* as one would write it; NULL: left 0 */
	size_t			off;	/* in struct conf, or in the section's own struct */
	size_t			aux;	/* T_LIST: the count.  T_WORD: a bool, set when given; 0: none */
	const struct conf_word *words;
	const char	       *later;	/* words refused as not supported yet; "*": all but off, 0 and unset */
	bool			secret;	/* never quoted in a message */
};

struct conf_kind_row {
	const char *word;	/* in the brackets */
	const char *argument;	/* what stands behind it; NULL: nothing */
	bool	    later;	/* the section is refused as not supported yet */
	bool	    sorted;	/* by name; else in the order of the file */
	size_t	    size;	/* of an element of its array; 0: it has none */
	size_t	    array, count;	/* in struct conf */
	bool	  (*name_ok)(const char *);
	const char *name_expected;
};

const struct conf_kind_row *conf_keys_kind(enum conf_kind);
/* The kind of that word; KIND_MAX: there is none. */
enum conf_kind	       conf_keys_kind_find(const char *word, size_t n);
/*
 * The i-th object of a kind, in its array; the conf itself for kinds that have
 * none.  By name: NULL if there is no such one.
 */
void		      *conf_keys_object(struct conf *, enum conf_kind, size_t i);
size_t		       conf_keys_object_count(const struct conf *, enum conf_kind);
void		      *conf_keys_object_find(const struct conf *, enum conf_kind, const char *name);
/* The row after `row` of one kind, the first after NULL; NULL at the end. */
const struct conf_row *conf_keys_next(enum conf_kind, const struct conf_row *row);
const struct conf_row *conf_keys_find(enum conf_kind, const char *name);

enum { CONF_EXPECTED_MAX = 512 };

/* What a value of that row should have been, to follow "expected ". */
void conf_keys_expected(const struct conf_row *, char out[CONF_EXPECTED_MAX]);
/* The keys a section may have, as a comma list. */
void conf_keys_names(enum conf_kind, char out[CONF_EXPECTED_MAX]);

#endif

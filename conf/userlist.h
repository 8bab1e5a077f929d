/*
 * userlist: names and secrets of users, in PgBouncer's format.
 *
 *     ; or # after blanks: a comment, only at the start of a line
 *     "name" "secret"      a quote inside is written twice; what follows on
 *                          the line is ignored
 *
 * A secret is a password, its md5 form or a SCRAM-SHA-256$ verifier; which of
 * them is for the reader to see.
 *
 * Owner:    the caller, until userlist_free().
 * Bounds:   CONF_FILE_MAX bytes, names of USERLIST_NAME_MAX.
 * Errors:   added to the list, each with file and line; what could be read is
 *           there all the same.  A line is not quoted: it holds a secret.
 */
#ifndef CONF_USERLIST_H
#define CONF_USERLIST_H

#include <stddef.h>
#include <sys/types.h>

struct conf_errors;

enum { USERLIST_NAME_MAX = 63 };	/* what PostgreSQL keeps of a name */

struct userlist_entry {
	char	*name;
	char	*secret;	/* may be "" */
	unsigned line;
};

struct userlist {
	struct userlist_entry *entry;	/* sorted by name, each only once */
	size_t		       n;
	mode_t		       mode;	/* of the file it came from */
};

/* 0, or -1 and why: the file cannot be read.  To be freed in both cases. */
int  userlist_load(struct userlist *, const char *file, struct conf_errors *,
    const char **why) __attribute__((warn_unused_result));
/* The same from memory; `file` is a name for the errors. */
void userlist_read(struct userlist *, const char *file, const char *bytes, size_t n,
    struct conf_errors *);
void userlist_free(struct userlist *);
/* NULL: it is not in the list. */
const struct userlist_entry *userlist_find(const struct userlist *, const char *name);

#endif

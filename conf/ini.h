/*
 * ini: a file of settings as sections of keys and values, nothing understood.
 *
 * inih's syntax, read by code of our own: the system's inih cuts lines at 200
 * bytes, takes ` ;` inside a value for a comment and joins an indented line to
 * the value before it.  Each of the three silently changes a password, and
 * none can be switched off in a compiled library.  Here a line is a line:
 *
 *     ; or # after blanks: a comment, only at the start of a line
 *     [section]
 *     key = value          (or key : value), blanks around both stripped;
 *                          the same key again in its section is an error
 *
 * Owner:    the caller, until ini_free().
 * Bounds:   CONF_LINE_MAX and CONF_FILE_MAX of conf.h; longer is an error.
 * Errors:   added to the list, one per line; what could be read is returned
 *           all the same, so that the rest of the file gets checked too.
 */
#ifndef CONF_INI_H
#define CONF_INI_H

#include <stddef.h>
#include <sys/types.h>

struct conf_errors;

struct ini_entry {
	unsigned line;
	char	*key;
	char	*value;
};

struct ini_section {
	unsigned	  line;
	char		 *name;		/* what stands in the brackets; NULL: it was malformed */
	struct ini_entry *entry;	/* in the order of the file */
	size_t		  n;
};

struct ini {
	struct ini_section *section;
	size_t		    n;
	mode_t		    mode;	/* of the file it came from */
};

/* 0, or -1 when the file cannot be read at all.  `ini` is to be freed in both cases. */
int  ini_load(struct ini *, const char *file, struct conf_errors *)
    __attribute__((warn_unused_result));
/* The same from memory; `file` is a name for the errors. */
void ini_read(struct ini *, const char *file, const char *bytes, size_t n,
    struct conf_errors *);
void ini_free(struct ini *);

#endif

/*
 * conf_check: what no single key can tell: whether a configuration, all of
 * its keys read, makes sense as a whole.
 *
 * Fills in the defaults that depend on other keys, and adds an error or a
 * warning for each thing that does not fit.
 */
#ifndef CONF_CONF_CHECK_H
#define CONF_CONF_CHECK_H

#include <stdbool.h>

enum { CONF_CHECK_SECRET_MIN = 32 };	/* what a password should have */

struct conf;
struct conf_errors;

void conf_check(struct conf *, struct conf_errors *);
/* Whether a password is meant to be a SCRAM verifier. */
bool conf_check_is_verifier(const char *password);

#endif

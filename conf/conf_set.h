/*
 * conf_set: the text of one key put into its field, by the key's row.
 *
 * Errors:   0, or -1: the text is not what the row wants.  The field is zero
 *           or a default before; what was allocated half-way is in the object
 *           all the same, and conf_set_free() frees it.
 */
#ifndef CONF_CONF_SET_H
#define CONF_CONF_SET_H

#include <stdbool.h>

#include "conf/conf_keys.h"

void *conf_set_field(const struct conf_row *, void *object);
int   conf_set(struct conf *, const struct conf_row *, void *object, const char *text)
    __attribute__((warn_unused_result));
/* Off, 0, unset: what one gets without saying anything. */
bool  conf_set_is_zero(const struct conf_row *, void *object);
void  conf_set_free(const struct conf_row *, void *object);

#endif

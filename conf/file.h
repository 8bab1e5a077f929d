/*
 * file: a whole file in memory, at start and at reload.
 *
 * Bounds:   `max` bytes; more is an error.
 */
#ifndef CONF_FILE_H
#define CONF_FILE_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Its bytes, and a NUL behind them that is not counted, for file_free(); or
 * NULL and why, as the system says it.  `mode` may be NULL.
 */
char *file_read(const char *path, size_t max, size_t *n, mode_t *mode, const char **why)
    __attribute__((warn_unused_result));
/* It may have held secrets: wiped. */
void  file_free(char *bytes, size_t n);

#endif

/*
 * redis_slot: which of a cluster's slots a command is for.
 *
 * It is that of its first key: a node that is asked for keys of several slots
 * says -CROSSSLOT itself, in its own words and at the right moment.
 *
 * Source:   the cluster's specification: CRC16 (XMODEM) of the key, or of what
 *           is between its first { and the next }, if that is not empty.
 */
#ifndef PROTOCOL_REDIS_SLOT_H
#define PROTOCOL_REDIS_SLOT_H

#include <stddef.h>

#include "protocol/slice.h"

enum { REDIS_SLOT_NONE = -1 };

/* 0 to REDIS_SLOTS - 1. */
unsigned redis_slot(struct slice key);

/*
 * The slot of a whole request.  NONE: it has no keys, or so few arguments, or
 * such ones, that any node has the same to say about it.
 */
int redis_slot_of(const struct slice *arg, size_t argc);

#endif

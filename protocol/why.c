#include "protocol/why.h"

const struct why_row why_table[WHY_MAX] = {
#define X(name, ours, sqlstate, redis, text) \
	[WHY_##name] = { #name, ours, sqlstate, redis, text },
	WHY_TABLE(X)
#undef X
};

/* fuzz_redis_session, where what is upstream is a cluster. */
#define FUZZ_CLUSTER
#include "tests/fuzz/fuzz_redis_session.c"

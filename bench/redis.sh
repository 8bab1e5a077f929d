#!/bin/sh
# redis.sh [WEIR]: the Redis figures of README: direct, nutcracker and weir; and
# bench_floor, a proxy that does nothing: below it is only the kernel.
#
# redis-benchmark and bench_redis (hiredis, every reply checked) drive each path
# once a round, in turn, as run.sh does it; same report, same meaning of a ratio.
# What makes the load has a core of its own, and Redis shares the others with the
# proxy, if any: so a path's throughput is that of its own processes, and does not
# depend on whose core the scheduler gives to whom.
#
# Markdown goes to standard output and to build/bench-redis.md.
#
#   ROUNDS=5           rounds                 SECONDS_PER=2    seconds per measurement
#   QUICK=1            a smoke run: one round of one second, fewer rows
#   CLIENTS=1,50,500   connections            DEPTHS=1,16      commands in flight on each
#   SIZES=32,4096      bytes of a value       LOADS=set,get,hiredis
#   WORKERS=1          weir's workers         BASELINE=path    another weir, to compare with
#   MBUF=512,16384     nutcracker's -m: one path for each
#   PIN=0              no core of its own for the load
#   OUT=build/bench-redis.md                  BENCH_REDIS=build/plain/bench
#
# Exit: 0, or 1 when something could not be measured.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" -B "$here/redis_run.py" "$@"

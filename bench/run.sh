#!/bin/sh
# run.sh [WEIR]: the numbers in README: weir beside its peers, on this machine.
#
# Starts its own PostgreSQL, redis-server, PgBouncer, nutcracker, weir (and
# HAProxy as a bare TCP relay, where installed) in a private folder on free
# ports, and removes all of it at the end.  Every path is measured once a
# round, in turn, so that a change of the machine's mood meets all alike; a
# ratio is taken inside a round, and its median is printed.  Markdown goes to
# standard output and to build/bench.md, progress to standard error.
#
#   ROUNDS=5          rounds                  SECONDS_PER=5   seconds per measurement
#   QUICK=1           a smoke run: one round of one second, fewer rows
#   CLIENTS=1,32,256  pgbench clients         SCALE=10        pgbench scale
#   IDLE=2000         idle clients            ONLY=pg,redis,idle,organizations
#   ORGANIZATIONS=10000 organizations (needs cc)
#   POOL=20           servers a pooler may use
#   PGBOUNCER=path    another PgBouncer       HAPROXY=path    another HAProxy
#   BASELINE=path     another weir, to compare this one with
#   WEIR=none         peers only              WORKERS=1,2     weir's workers
#   WEIR_POSTGRES='key = value; ...'          more settings in its [postgres]
#   OUT=build/bench.md                        PG_BIN=/usr/lib/postgresql/15/bin
#
# Exit: 0, or 1 when weir is missing, or when something could not be measured.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" -B "$here/run.py" "$@"

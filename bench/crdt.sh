#!/bin/sh
# crdt.sh [WEIR] [--quick]: what one small INSERT costs, many clients at once.
#
# Clients of bench_crdt (libpq, one edit on its way each) write to the operation
# log of deployment/fly/postgresql/schema/collaboration.sql: row level security,
# a unique key and two more indexes.  They go directly, through PgBouncer, and
# through weir without and with [batch crdt_operations], each path once a round,
# in turn, as run.sh does it; fsync is on.  After every measurement the rows in
# the table are counted against the answers.  Markdown goes to standard output
# and to build/bench-crdt.md.
#
#   ROUNDS=5             rounds                  SECONDS_PER=3   seconds per measurement
#   --quick, QUICK=1     a smoke run: one round of one second, fewer rows
#   CLIENTS=1,16,128,512 clients                 MODES=params    also prepared, simple, xact
#   DELAYS=0,2000        microseconds a commit takes: a preloaded fdatasync sleeps
#                        (slow_fsync.c); 0 is the machine's own
#   DOCUMENTS=4          clients of one document POOL=20         servers a pooler may use
#   WORKERS=1            weir's workers          BATCH='key = value; ...' more of [batch]
#   PGBOUNCER=path       another PgBouncer       BASELINE=path   another weir, to compare with
#   OUT=build/bench-crdt.md                      BENCH_CRDT=build/plain/bench
#
# Exit: 0, or 1 when something could not be measured.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" -B "$here/crdt_run.py" "$@"

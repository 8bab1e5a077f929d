#!/bin/sh
# callgrind.sh [WEIR]: instructions per transaction, to steer optimisation.
#
# Runs weir under valgrind --tool=callgrind for a fixed number of pgbench or
# redis-benchmark transactions, twice: N and 2 N.  The difference divided by N
# is free of start, log-ins and stop, and hardly changes from run to run, which
# no time on a shared machine can say.  Then the functions, most expensive
# first.  What the kernel does for weir is not in it: see run.sh for that.
#
#   LOADS=simple,prepared,P1,P16   pgbench -M simple|extended|prepared;
#                                  redis-benchmark -P 1|16 (SET)
#   CLIENTS=1         one client repeats best; more show what batching gains
#   N=2000            transactions (Redis: 10 N)         TOP=25   functions
#   WEIR=path         BASELINE=path   another weir, for the ratio
#   PEERS=1           PgBouncer and nutcracker too (totals only)
#   WEIR_POSTGRES='key = value; ...'  as in run.sh
#   KEEP=folder       keep the callgrind files there, for kcachegrind
here=$(cd "$(dirname "$0")" && pwd) || exit 1
python=/usr/bin/python3
[ -x "$python" ] || python=python3
exec "$python" -B "$here/callgrind.py" "$@"

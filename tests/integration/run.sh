#!/bin/sh
# run.sh: the integration tests, against one weir binary.
#
#   tests/integration/run.sh build/plain/weir [pytest arguments]
#   tests/integration/run.sh direct     the same expectations, of the servers
#
# The tests find the binary in $WEIR; its build folder tells which sanitizers
# it carries (see conftest.py for what else may be said).  They start their own PostgreSQL, redis-server and weir, in a
# folder of their own below $TMPDIR.  pytest and the drivers are Debian's, so
# it is Debian's python that runs them, whatever python3 PATH may find first.
set -eu
weir=${1:?usage: run.sh WEIR [pytest arguments]}
shift
if [ "$weir" != direct ]; then
	[ -x "$weir" ] || { echo "run.sh: no $weir, build it first" >&2; exit 1; }
	weir=$(realpath "$weir")
fi
cd "$(dirname "$0")"
export WEIR="$weir" PYTHONDONTWRITEBYTECODE="" PYTHONPYCACHEPREFIX="$PWD/../../build/python"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0:exitcode=99}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-exitcode=99:halt_on_error=1}"
# libpq takes defaults from these: the tests mean what they say.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSSLMODE PGOPTIONS \
    PGSERVICE PGPASSFILE REDISCLI_AUTH

PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
run=
case $weir in
*/thread/*) if setarch -R true 2>/dev/null; then run="setarch -R"; fi ;;
esac
# Files side by side, each with servers of its own; with -n0 or -x one by one.
case " $* " in
*" -n"* | *" -x "* | *" -s "* | *" --pdb "*) ;;
*)
	# pytest rewrites each assertion, for seconds: once, not in every worker.
	timeout 300 /usr/bin/python3 -m pytest -p no:cacheprovider -q --collect-only . \
	    >/dev/null 2>&1 || : they will say why
	set -- -n "${JOBS:-4}" --dist loadfile "$@"
	;;
esac
# Nothing here takes this long; a hang must not take a day.
exec timeout --kill-after=30 "${LIMIT:-2400}" $run /usr/bin/python3 -m pytest \
    -p no:cacheprovider -q "$@" .

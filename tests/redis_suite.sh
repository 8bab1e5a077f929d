#!/bin/bash
# redis_suite.sh: Redis's own test suite, directly and through weir.
#
#   tests/redis_suite.sh build/plain/weir                     (or: make redis-suite)
#   tests/redis_suite.sh build/plain/weir unit/multi unit/scan  only these units
#   KEEP=1 ...                                      keeps the folder it worked in
#
# The suite runs twice, as it does against a server that it has not started
# (runtest --host --port): against a redis-server of its own, and against weir
# in front of one, with profile = dedicated.  Each unit begins with servers that
# were just started.  What is asked of weir is the same verdict for each test;
# those that cannot have it, and why, are in redis_suite.known, and both what
# differs and is not there and what is there and does not differ is an error.
# Exit status 0 only if there is none.  A line there is
#
#   UNIT <tab> TEST     its verdict differs
#   ?UNIT <tab> TEST    it may: that is decided by who is faster
#   -UNIT <tab> TEST    it is left out of both runs: what it waits for without
#                       end will not happen, and those behind it are to run too
#
# Left out for both is what needs a replica (the suite's tag needs:repl): such a
# test plays one itself, with SYNC, which turns a connection into something that
# no pool can carry.
#
# The suite is that of Debian's source package of redis, and the Tcl it is
# written in is from Debian's packages too, fetched once into build/redis-suite
# through the mirrors apt is set up with, in lists of our own.  Nothing is
# installed or committed.  The programs are those that are installed.
set -euo pipefail
export LC_ALL=C TERM=dumb

root=$(cd "$(dirname "$0")/.." && pwd)
weir=$(realpath "${1:?usage: redis_suite.sh WEIR [UNIT...]}")
shift
units=("$@")
cache=$root/build/redis-suite
known=$root/tests/redis_suite.known
# shellcheck source=tests/own_apt.sh
. "$root/tests/own_apt.sh"
# shellcheck source=tests/own_server.sh
. "$root/tests/own_server.sh"
unset REDISCLI_AUTH

say() { printf 'redis-suite: %s\n' "$*"; }
die() { say "$1" >&2; [ -z "${2:-}" ] || tail -n 20 "$2" >&2; exit 2; }

# --- what Debian does not install ---------------------------------------

fetch() {
	local new=$cache/new deb
	rm -rf "$cache" && mkdir -p "$new"
	own_apt "$cache"
	(cd "$cache" &&
	    apt-get -q "${APT[@]}" source --download-only --tar-only redis &&
	    apt-get -q "${APT[@]}" download tcl8.6 libtcl8.6) \
	    >>"$cache/apt.log" 2>&1 || die "not fetched:" "$cache/apt.log"
	for deb in "$cache"/*.deb; do
		dpkg -x "$deb" "$new"
	done
	mkdir -p "$new/suite/src"
	tar -xf "$cache"/redis_*.orig.tar.* -C "$new/suite" \
	    --strip-components=1 --wildcards 'redis-*/tests' 'redis-*/runtest'
	mv "$new"/* "$cache"
	rm -rf "$new" "$cache/apt" "$cache"/*.deb "$cache"/*.tar.*
}

tclsh() {
	local lib
	lib=$(dirname "$(find "$cache/usr/lib" -name 'libtcl8.6.so' -print -quit)")
	LD_LIBRARY_PATH=$lib TCL_LIBRARY=$cache/usr/share/tcltk/tcl8.6 \
	    exec "$cache/usr/bin/tclsh8.6" "$@"
}

# --- the servers --------------------------------------------------------

answers() { [ "$(redis-cli -p "$1" ping 2>&1)" = PONG ]; }

# What follows runs in a process of its own, one for each of the two runs.
cleanup_run() {
	trap '' INT TERM HUP
	stop suite TERM
	stop weir TERM
	stop redis KILL
}

start_redis() {
	pick_port && redis_port=$port
	mkdir "$1/data"
	redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$1/data" \
	    --save '' --enable-debug-command yes --enable-module-command yes \
	    --enable-protected-configs yes >"$1/redis.log" 2>&1 &
	redis_pid=$!
	ready "$redis_pid" "$1/redis.log" answers "$redis_port"
}

# One worker: the suite asks by one client what another has just begun, without
# waiting for that, and several workers have an order less in common than one.
start_weir() {
	pick_port && weir_port=$port
	cat >"$1/weir.ini" <<INI
[weir]
workers = ${WORKERS:-1}
redis_listen = 127.0.0.1:$weir_port
[redis main]
url = redis://127.0.0.1:$redis_port/0
profile = dedicated
[user default]
auth = trust
INI
	"$weir" -c "$1/weir.ini" >"$1/weir.log" 2>&1 &
	weir_pid=$!
	ready "$weir_pid" "$1/weir.log" answers "$weir_port"
}

# --- a run ---------------------------------------------------------------

# "UNIT <tab> TEST <tab> VERDICT" of each test, out of what the suite said.  The
# one it was at when it stuck has none.
verdicts() {
	sed -nE -e 's/^\[(ok|err|ignore|skip)\]: /\1\t/' \
	    -e 's/^(ok\t.*) \([0-9]+ ms\)$/\1/' \
	    -e "s/^(err\t.*) in tests\/[^ ]*$/\1/" \
	    -e 's/^\[exception\]:.*/err\t(exception)/' \
	    -e 's/^\[TIMEOUT\]:.*/err\t(stuck)/' \
	    -e "s|^(ok\|err\|ignore\|skip)\t(.*)|$1\t\2\t\1|p" \
	    "$2" | sort
}

# run_suite NAME UNIT PORT LOG.  Where its own port is taken there is another.
run_suite() {
	local i
	for ((i = 0; i < 5; i++)); do
		pick_port
		(cd "$dir/$1/suite" && tclsh tests/test_helper.tcl \
		    --host 127.0.0.1 --port "$3" --baseport "$port" --durable \
		    --timeout "${LIMIT:-300}" --skipfile "$dir/skip" \
		    --tags -needs:repl --single "$2" >"$4" 2>&1 </dev/null) &
		suite_pid=$!
		wait $suite_pid || :
		suite_pid=
		grep -q "^couldn't open socket" "$4" || return 0
	done
	die "the suite finds no port:" "$4"
}

# run_unit NAME UNIT: the same in both.
run_unit() {
	local name=$1 unit=$2 to here=$dir/$1/${2//\//-}
	mkdir "$here"
	start_redis "$here"
	to=$redis_port
	if [ "$name" = through-weir ]; then
		start_weir "$here"
		to=$weir_port
	fi
	run_suite "$name" "$unit" "$to" "$here/suite.log"
	if [ "$name" = through-weir ]; then
		kill -0 "$weir_pid" 2>/dev/null || die "weir ended in $unit:" "$here/weir.log"
		stop weir TERM
	fi
	stop redis KILL
	grep -Eq 'The End|^\[exception\]' "$here/suite.log" ||
	    die "$unit did not end:" "$here/suite.log"
	verdicts "$unit" "$here/suite.log" >>"$dir/$name.verdicts"
}

# Both at once: a suite mostly waits for itself.
run() {
	local name=$1 unit began=$SECONDS
	redis_pid='' weir_pid='' suite_pid=''
	trap cleanup_run EXIT
	trap 'exit 130' INT TERM HUP
	mkdir "$dir/$name"
	cp -a "$cache/suite" "$dir/$name/suite"
	for unit in "${units[@]}"; do
		run_unit "$name" "$unit"
	done
	say "$name: $(wc -l <"$dir/$name.verdicts") tests," \
	    "$(grep -c '	ok$' "$dir/$name.verdicts" || :) ok," \
	    "$(grep -c '	err$' "$dir/$name.verdicts" || :) failed," \
	    "$(grep -c '	ignore$' "$dir/$name.verdicts" || :) left out," \
	    "$((SECONDS - began)) s"
}

cleanup() {
	trap '' INT TERM HUP
	[ -z "${pids:-}" ] || kill "${pids[@]}" 2>/dev/null || :
	wait
	if [ -n "${KEEP:-}" ]; then say "kept $dir"; else rm -rf "$dir"; fi
}

# --- what differs ---------------------------------------------------------

# The lines of redis_suite.known that begin like this, of the units that run.
listed() {
	local unit
	for unit in "${units[@]}"; do
		sed -n "s|^$1\($unit	.*\)|\1|p" "$known"
	done | sort
}

# "UNIT <tab> TEST <tab> directly <tab> through weir", one line each.
differences() {
	{ diff "$dir/directly.verdicts" "$dir/through-weir.verdicts" || :; } |
	    sed -nE 's/^([<>]) (.*)\t([a-z]+)$/\2\t\1\t\3/p' |
	    awk -F'\t' '{ k = $1 FS $2; seen[k] = 1
		if ($3 == "<") a[k] = $4; else b[k] = $4 }
		END { for (k in seen)
			print k FS (k in a ? a[k] : "-") FS (k in b ? b[k] : "-") }' |
	    sort
}

# ------------------------------------------------------------------------

[ -x "$cache/usr/bin/tclsh8.6" ] && [ -d "$cache/suite/tests" ] || fetch
dir=$(mktemp -d "${TMPDIR:-/tmp}/weir-redis-suite-XXXXXX")
pids=()
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
ln -sf "$(command -v redis-cli)" "$(command -v redis-benchmark)" \
    "$(command -v redis-server)" "$cache/suite/src/"
[ ${#units[@]} != 0 ] ||
    mapfile -t units < <(cd "$cache/suite" && tclsh tests/test_helper.tcl --list-tests)
say "$(redis-server --version | cut -d' ' -f1-3)," \
    "${#units[@]} units"

listed - | cut -f2 >"$dir/skip"
for name in directly through-weir; do
	run $name &
	pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
	wait "$pid" || status=$?
done
pids=()
[ $status = 0 ] || die "a run failed"

differences >"$dir/differences"
listed '' >"$dir/known"
listed '?' >"$dir/may"
cut -f1,2 "$dir/differences" | sort -u | comm -23 - "$dir/may" >"$dir/differ"
if diff "$dir/known" "$dir/differ" >"$dir/surprises"; then
	say "no difference but the $(wc -l <"$dir/known") that are known;" \
	    "$(wc -l <"$dir/skip") were left out"
	exit 0
fi
say "through weir it is not what it is directly (<: known, and does not differ):"
cat "$dir/surprises"
exit 1

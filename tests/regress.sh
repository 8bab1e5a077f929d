#!/bin/bash
# regress.sh: PostgreSQL's own regression suite, directly and through weir.
#
#   tests/regress.sh build/plain/weir               (or: make regress)
#   tests/regress.sh build/plain/weir boolean temp  only these, after test_setup
#   KEEP=1 ...                                      keeps the folder it worked in
#
# The suite runs twice, as "installcheck" does against a host and a port: once
# against a PostgreSQL of its own, once against weir in front of one, with
# pool_mode = session.  Both begin with a new cluster in a temporary folder.
# What is asked of weir is that nothing differs: the same tests, each with the
# same verdict, and where one fails directly (another minor version than that
# of its sources) the same difference.  Exit status 0 only then.
#
# The SQL, what is expected of it and the C functions it loads come from
# Debian's source package of postgresql-15, and the programs from its packages
# of that very version, fetched once into build/regress through the mirrors
# apt is set up with, in lists of our own.  Nothing is installed or committed.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "$0")/.." && pwd)
weir=$(realpath "${1:?usage: regress.sh WEIR [TEST...]}")
shift
only=("$@")
cache=$root/build/regress
PG=$cache/usr/lib/postgresql/15
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSSLMODE PGOPTIONS \
    PGSERVICE PGPASSFILE PGCHANNELBINDING

# shellcheck source=tests/own_apt.sh
. "$root/tests/own_apt.sh"
# shellcheck source=tests/own_server.sh
. "$root/tests/own_server.sh"

say() { printf 'regress: %s\n' "$*"; }
die() { say "$1" >&2; [ -z "${2:-}" ] || tail -n 20 "$2" >&2; exit 2; }

# --- what Debian does not install ---------------------------------------

# The newest version of which the mirror has all that is needed.
fetch_packages() {
	local version p
	for version in $(apt-cache "${APT[@]}" showsrc postgresql-15 |
	    sed -n 's/^Version: //p' | sort -rV); do
		rm -f "$cache"/postgresql-*
		(cd "$cache" && apt-get -q "${APT[@]}" source --download-only \
		    "postgresql-15=$version" >>apt.log 2>&1) || continue
		p=(postgresql-15 postgresql-client-15 postgresql-server-dev-15)
		(cd "$cache" && apt-get -q "${APT[@]}" download \
		    "${p[@]/%/=$version}" >>apt.log 2>&1) || continue
		say "the suite of $version"
		return
	done
	die "no packages of postgresql-15:" "$cache/apt.log"
}

fetch() {
	local deb new=$cache/new
	mkdir -p "$cache"
	own_apt "$cache"
	fetch_packages
	rm -rf "$new" "$cache/usr" "$cache/suite" && mkdir "$new"
	tar -xf "$cache"/postgresql-15_*.orig.tar.* -C "$new" \
	    --strip-components=3 --wildcards 'postgresql-*/src/test/regress'
	for deb in "$cache"/*.deb; do
		dpkg -x "$deb" "$cache"
	done
	${CC:-cc} -O2 -fPIC -shared -I"$cache/usr/include/postgresql/15/server" \
	    -o "$new/regress/regress.so" "$new/regress/regress.c" ||
	    die "regress.so was not built"
	# These two the server package has.
	cp $PG/lib/refint.so $PG/lib/autoinc.so "$new/regress"
	mv "$new/regress" "$cache/suite"
	rm -rf "$new" "$cache"/postgresql-* "$cache/apt" "$cache/etc"
}

# --- the servers --------------------------------------------------------

AS=(setpriv --pdeathsig INT)
if [ "$(id -u)" = 0 ]; then
	AS+=(--reuid postgres --regid "$(id -g postgres)" --clear-groups)
fi

answers() { $PG/bin/pg_isready -q -h 127.0.0.1 -p "$1"; }

# Settings are those pg_regress gives a server of its own.
start_postgres() {
	rm -rf "$dir/data"
	"${AS[@]}" $PG/bin/initdb -D "$dir/data" -U postgres -A trust -E UTF8 \
	    --locale=C --no-sync >"$dir/initdb.log" 2>&1 ||
	    die "initdb:" "$dir/initdb.log"
	pick_port && postgres_port=$port
	"${AS[@]}" $PG/bin/postgres -D "$dir/data" -c listen_addresses=127.0.0.1 \
	    -c port="$postgres_port" -c unix_socket_directories= -c fsync=off \
	    -c max_prepared_transactions=2 -c max_connections=100 \
	    >"$dir/postgres.log" 2>&1 &
	postgres_pid=$!
	ready "$postgres_pid" "$dir/postgres.log" answers "$postgres_port"
}

# A server serves one client and goes: what a backend keeps through DISCARD ALL
# (libraries it loaded, that it has had temporary tables) is told by some tests.
start_weir() {
	pick_port && weir_port=$port
	cat >"$dir/weir.ini" <<INI
[weir]
workers = 2
server_lifetime = 1ms
postgres_listen = 127.0.0.1:$weir_port
[postgres main]
host = 127.0.0.1
port = $postgres_port
sslmode = disable
pool_mode = session
pool_size = 40
[database *]
postgres = main
[user postgres]
auth = trust
INI
	"${AS[@]}" "$dir/weir" -c "$dir/weir.ini" >"$dir/weir.log" 2>&1 &
	weir_pid=$!
	ready "$weir_pid" "$dir/weir.log" answers "$weir_port"
}

cleanup() {
	trap '' INT TERM HUP
	[ -z "$suite_pid" ] || kill "$suite_pid" 2>/dev/null || :
	stop weir TERM
	stop postgres INT
	if [ -n "${KEEP:-}" ]; then say "kept $dir"; else rm -rf "$dir"; fi
}

# --- a run ---------------------------------------------------------------

# run NAME PORT: pg_regress's output, its list of verdicts, its differences.
run() {
	local name=$1 began=$SECONDS what=(--schedule="$dir/suite/parallel_schedule")
	[ ${#only[@]} = 0 ] || what=(test_setup "${only[@]}")
	# Both in one place, so that paths in errors are the same.
	rm -rf "$dir/out"
	"${AS[@]}" mkdir "$dir/out"
	(cd "$dir/suite" && exec "${AS[@]}" timeout "${LIMIT:-1800}" \
	    $PG/lib/pgxs/src/test/regress/pg_regress --inputdir="$dir/suite" \
	    --outputdir="$dir/out" --dlpath="$dir/suite" --bindir=$PG/bin \
	    --host=127.0.0.1 --port="$2" --user=postgres "${what[@]}" \
	    >"$dir/$name.log" 2>&1) &
	suite_pid=$!
	wait $suite_pid || :
	suite_pid=
	mv "$dir/out" "$dir/$name"
	sed -nE 's/^(test)? +([a-z0-9_]+) +\.\.\. (ok|FAILED).*/\2 \3/p' \
	    "$dir/$name.log" | sort >"$dir/$name.verdicts"
	sed -E '/^(---|\+\+\+|diff) /s/\t.*//' "$dir/$name/regression.diffs" \
	    >"$dir/$name.diffs" 2>/dev/null || :
	say "$name: $(wc -l <"$dir/$name.verdicts") tests," \
	    "$(grep -c ' ok$' "$dir/$name.verdicts" || :) ok," \
	    "$(grep -c ' FAILED$' "$dir/$name.verdicts" || :) failed," \
	    "$((SECONDS - began)) s"
	[ -s "$dir/$name.verdicts" ] || die "the suite did not run:" "$dir/$name.log"
}

# ------------------------------------------------------------------------

[ -f "$cache/suite/regress.so" ] && [ -x "$PG/bin/postgres" ] || fetch
postgres_pid='' weir_pid='' suite_pid=''
dir=$(mktemp -d "${TMPDIR:-/tmp}/weir-regress-XXXXXX")
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
# The clone may lie where the other user cannot look.
cp -a "$cache/suite" "$dir/suite"
cp -a "$cache/usr" "$dir/usr"
PG=$dir/usr/lib/postgresql/15
install -m 755 "$weir" "$dir/weir"
chmod 755 "$dir"
[ "$(id -u)" != 0 ] || chown -R postgres "$dir"

start_postgres
run directly "$postgres_port"
stop postgres INT
start_postgres
start_weir
run through-weir "$weir_port"
stop weir TERM
stop postgres INT

if diff -u "$dir/directly.verdicts" "$dir/through-weir.verdicts" &&
    diff -u "$dir/directly.diffs" "$dir/through-weir.diffs"; then
	say "no difference"
	exit 0
fi
say "through weir it is not what it is directly"
exit 1

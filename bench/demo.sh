#!/bin/bash
# demo.sh: weir between real clients and real servers, on this machine, alone.
#
#   bench/demo.sh build/plain/weir          (or: make demo)
#   KEEP=1 bench/demo.sh build/plain/weir   stays up until Ctrl-C
#
# Everything lives in one temporary folder and on free ports of 127.0.0.1: a
# PostgreSQL 15 cluster, a redis-server, weir.  No service of the machine is
# asked or touched, and all of it is gone at the end, whatever the end.  Each
# claim is checked; one that fails makes the exit status 1.
set -uo pipefail
export LC_ALL=C.UTF-8

WEIR=$(realpath "${1:?usage: demo.sh WEIR}") || exit 1
HERE=$(cd "$(dirname "$0")" && pwd)
PG=/usr/lib/postgresql/15/bin
CLIENTS=200 POOL=10 EACH=15
REDIS_CLIENTS=50 REDIS_POOL=4 REDIS_REQUESTS=40000
ACME=a0000000-0000-4000-8000-00000000acce
BETA=b0000000-0000-4000-8000-00000000be7a
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSSLMODE PGOPTIONS \
    PGSERVICE PGPASSFILE PGCHANNELBINDING REDISCLI_AUTH

failed=0 weir_pid='' redis_pid='' postgres_pid='' dir=''
bold='' red='' green='' off=''
[ -t 1 ] && bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'

head_line() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
line() { printf '  %-10s %s\n' "$1" "$2"; }

# check WHAT COMMAND...: the claim, and whether the command agrees.
check() {
	local what=$1
	shift
	if "$@"; then
		printf '  %-74s %sok%s\n' "$what" "$green" "$off"
	else
		printf '  %-74s %sFAILED%s\n' "$what" "$red" "$off"
		failed=1
	fi
}

die() {
	printf '%sdemo: %s%s\n' "$red" "$1" "$off" >&2
	[ -z "${2:-}" ] || tail -n 15 "$2" >&2
	exit 1
}

# --- the servers --------------------------------------------------------

# PostgreSQL refuses to run as root, and neither of the others needs it.
# (SIGINT, because PostgreSQL would wait for its clients on SIGTERM.)
AS=(setpriv --pdeathsig INT)
if [ "$(id -u)" = 0 ]; then
	user=nobody
	id postgres >/dev/null 2>&1 && user=postgres
	AS+=(--reuid "$user" --regid "$(id -g "$user")" --clear-groups)
fi

# A port nobody listens on, below those the kernel gives to outgoing
# connections.  Somebody may still be quicker: whoever starts a server tries
# again with another port when this one turns out to be taken.
taken=' '
pick_port() {
	while :; do
		port=$((10000 + RANDOM % 22000))
		case $taken in *" $port "*) continue ;; esac
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
		taken="$taken$port "
		return
	done
}

# launch LOG COMMAND...: its own session, so that Ctrl-C reaches us alone and
# we stop things in their order; it dies with us should we be killed.
launch() {
	local log=$1
	shift
	setsid "${AS[@]}" "$@" >>"$log" 2>&1 </dev/null &
	launched=$!
}

# ready PID LOG COMMAND...: 0 once the command succeeds, 1 if the port was
# taken; anything else ends the demo.
ready() {
	local pid=$1 log=$2 i
	shift 2
	for ((i = 0; i < 300; i++)); do
		"$@" >/dev/null 2>&1 && kill -0 "$pid" 2>/dev/null && return 0
		if ! kill -0 "$pid" 2>/dev/null; then
			grep -qiE 'in use|taken' "$log" && return 1
			die "$log says:" "$log"
		fi
		sleep 0.1
	done
	die "not ready within 30 s: $log says:" "$log"
}

start_postgres() {
	local try
	mkdir "$dir/data" "$dir/socket"
	chmod 700 "$dir/data" "$dir/socket"
	own "$dir/data" "$dir/socket"
	"${AS[@]}" $PG/initdb -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 \
	    --auth-local=trust --auth-host=scram-sha-256 --no-sync \
	    >"$dir/initdb.log" 2>&1 || die "initdb:" "$dir/initdb.log"
	for try in 1 2 3 4 5; do
		pick_port && postgres_port=$port
		: >"$dir/postgres.log"
		launch "$dir/postgres.log" $PG/postgres -D "$dir/data" \
		    -c listen_addresses=127.0.0.1 -c port="$postgres_port" \
		    -c unix_socket_directories="$dir/socket" \
		    -c max_connections=$((POOL + 20)) -c shared_buffers=64MB
		postgres_pid=$launched
		ready "$postgres_pid" "$dir/postgres.log" $PG/pg_isready -q \
		    -h "$dir/socket" -p "$postgres_port" && break
		postgres_pid=''
	done
	[ -n "$postgres_pid" ] || die "no free port for PostgreSQL"
	# Asking the server itself, past weir.
	ADMIN=(env PGPORT="$postgres_port" psql -X -Atq -h "$dir/socket" -U postgres
		-v ON_ERROR_STOP=1)
	"${ADMIN[@]}" -c 'CREATE DATABASE collab' &&
	    ADMIN+=(-d collab) &&
	    "${ADMIN[@]}" -v password="$upstream_password" -v acme=$ACME -v beta=$BETA \
		<"$HERE/demo_schema.sql" || die "the schema did not load"
}

start_redis() {
	local try
	mkdir "$dir/redis"
	own "$dir/redis"
	for try in 1 2 3 4 5; do
		pick_port && redis_port=$port
		: >"$dir/redis.log"
		printf '%s\n' "bind 127.0.0.1" "port $redis_port" "dir $dir/redis" \
		    'save ""' 'daemonize no' "requirepass $upstream_password" \
		    >"$dir/redis.conf"
		chmod 600 "$dir/redis.conf"
		own "$dir/redis.conf"
		launch "$dir/redis.log" redis-server "$dir/redis.conf"
		redis_pid=$launched
		UPSTREAM=(env REDISCLI_AUTH="$upstream_password" timeout 60
			redis-cli -p "$redis_port")
		ready "$redis_pid" "$dir/redis.log" eval \
		    '[ "$("${UPSTREAM[@]}" ping)" = PONG ]' && break
		redis_pid=''
	done
	[ -n "$redis_pid" ] || die "no free port for redis-server"
}

write_ini() {
	cat >"$dir/weir.ini" <<INI
[weir]
workers = 2
postgres_listen = 127.0.0.1:$pg_listen
redis_listen = 127.0.0.1:$redis_listen
admin_listen = 127.0.0.1:$admin_listen

[tls]
cert_file = $dir/weir.crt
key_file = $dir/weir.key
client_mode = allow

[postgres main]
host = 127.0.0.1
port = $postgres_port
dbname = collab
user = weir_app
password = $upstream_password
sslmode = disable
pool_size = $POOL

[redis main]
url = redis://:$upstream_password@127.0.0.1:$redis_port/0
connections = $REDIS_POOL

[database *]
postgres = main

[variables]
app.current_organization_id = %{organization.id}

[organization acme]
id = $ACME
postgres = main
redis = main

[organization beta]
id = $BETA
postgres = main
redis = main

[user acme_app]
password = $acme_password
organization = acme

[user beta_app]
password = $beta_password
organization = beta

; of no organization: the policies show such a user nothing
[user stranger]
password = $stranger_password
INI
	chmod 600 "$dir/weir.ini"
	own "$dir/weir.ini"
}

start_weir() {
	local try
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
	    -days 30 -subj /CN=weir-demo -addext subjectAltName=IP:127.0.0.1 \
	    -keyout "$dir/weir.key" -out "$dir/weir.crt" 2>/dev/null ||
	    die "openssl made no certificate"
	chmod 600 "$dir/weir.key"
	# The clone may lie where the other user cannot look.
	install -m 755 "$WEIR" "$dir/weir"
	own "$dir/weir.key" "$dir/weir.crt"
	for try in 1 2 3 4 5; do
		pick_port && pg_listen=$port
		pick_port && redis_listen=$port
		pick_port && admin_listen=$port
		write_ini
		"${AS[@]}" "$dir/weir" -t -c "$dir/weir.ini" >"$dir/weir.log" 2>&1 ||
		    die "weir -t refuses its weir.ini:" "$dir/weir.log"
		: >"$dir/weir.log"
		launch "$dir/weir.log" "$dir/weir" -c "$dir/weir.ini"
		weir_pid=$launched
		ready "$weir_pid" "$dir/weir.log" curl -fsS -m 2 \
		    "http://127.0.0.1:$admin_listen/healthz" && break
		weir_pid=''
	done
	[ -n "$weir_pid" ] || die "no free ports for weir"
}

own() { [ "$(id -u)" != 0 ] || chown "$user" "$@"; }

# stop PID SIGNAL: waits; 0 if it left by itself with status 0.
stop() {
	local pid=$1 i rc
	[ -n "$pid" ] || return 0
	kill "-$2" "$pid" 2>/dev/null
	for ((i = 0; i < 100; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	rc=$?
	return $rc
}

cleanup() {
	trap '' INT TERM HUP
	local job
	for job in $(jobs -p); do
		case " $weir_pid $redis_pid $postgres_pid " in
		*" $job "*) ;;
		*) kill "$job" 2>/dev/null ;;
		esac
	done
	stop "$weir_pid" TERM
	stop "$redis_pid" TERM
	stop "$postgres_pid" INT
	[ -z "$dir" ] || rm -rf "$dir"
}

# --- the clients --------------------------------------------------------

# sql USER PASSWORD SSLMODE STATEMENT: through weir, bare output.
sql() {
	PGPASSWORD=$2 timeout 20 psql -X -Atq -v ON_ERROR_STOP=1 -c "$4" \
	    "host=127.0.0.1 port=$pg_listen user=$1 dbname=collab sslmode=$3"
}

# redis PASSWORD COMMAND...: through weir, as acme_app.
redis() {
	local password=$1
	shift
	timeout 10 redis-cli -u "redis://acme_app:$password@127.0.0.1:$redis_listen/0" \
	    --no-auth-warning "$@" 2>&1
}

metric() {
	curl -fsS -m 2 "http://127.0.0.1:$admin_listen/metrics" 2>/dev/null |
	    awk -v name="weir_$1" '$1 == name { print $2 }'
}

LIST="SELECT count(*) || ': ' || coalesce(string_agg(title, ', ' ORDER BY title), '-')
	FROM documents"

show_isolation() {
	local mode got
	head_line "1. Each organization sees its own rows, and nobody else's"
	for mode in disable require; do
		got=$(sql acme_app "$acme_password" $mode "$LIST" 2>&1)
		check "acme_app, sslmode=$mode: ${got:0:42}" \
		    [ "$got" = "3: Launch plan, Price list, Scents of 2027" ]
		got=$(sql beta_app "$beta_password" $mode "$LIST" 2>&1)
		check "beta_app, sslmode=$mode: ${got:0:42}" \
		    [ "$got" = "2: Hull drawings, Sea trial notes" ]
	done
	got=$(PGPASSWORD=$acme_password timeout 20 psql -X -At -c '\conninfo' "$(url_of_acme)" 2>&1 |
	    sed -n 's/^SSL connection (protocol: \([^,]*\), cipher: \([^,]*\),.*/\1, \2/p')
	check "the URL with sslmode=require is encrypted: ${got:-no}" [ -n "$got" ]
	got=$(sql stranger "$stranger_password" require "$LIST" 2>&1)
	check "a user of no organization sees nothing: $got" [ "$got" = "0: -" ]
	got=$(sql acme_app "$acme_password" require "INSERT INTO documents
		(organization_id, title) VALUES ('$BETA', 'forged')" 2>&1)
	check "acme_app writing a row of beta is refused" \
	    grep -q 'row-level security' <<<"$got"
	got=$(sql acme_app "$acme_password" require \
	    "SET app.current_organization_id = '$BETA'" 2>&1)
	check "acme_app calling itself beta is refused" \
	    grep -q 'belong to the proxy' <<<"$got"
	got=$(sql acme_app wrong-password require "$LIST" 2>&1)
	check "a wrong password is refused" grep -qi 'authentication failed' <<<"$got"
}

# One keystroke and a look round, as one transaction; a single row of another
# organization divides by zero, which ends pgbench with an error.  Clients log
# in one after the other, so at first each waits for the gate to open.
load_script() {
	cat >"$dir/$1.pgbench" <<SQL
\\if :first
\\shell sh $dir/gate.sh
\\set first 0
\\endif
\\set at random(1, 1000)
BEGIN;
INSERT INTO crdt_operations (document_id, operation_type, operation_data)
    SELECT id, 'insert', jsonb_build_object('at', :at::int, 'text', 'x')
    FROM documents ORDER BY random() LIMIT 1;
SELECT 1 / (count(*) FILTER (WHERE organization_id <> '$2') = 0)::int FROM documents;
COMMIT;
SQL
}

# pgbench_as NAME PASSWORD MODE: in the background, hence exec.
pgbench_as() {
	exec env PGPASSWORD="$2" PGSSLMODE=disable timeout 120 $PG/pgbench -n -M "$3" -c $((CLIENTS / 2)) \
	    -t $EACH -D first=1 -f "$dir/$1.pgbench" -h 127.0.0.1 -p "$pg_listen" \
	    -U "$1" collab >"$dir/$1.out" 2>&1
}

done_by() {
	sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$dir/$1.out"
}

show_pooling() {
	local acme beta watch n servers clients=0 samples rc=0 acked rows strays
	local opened=0 ms late=$((SECONDS + 60))
	head_line "2. $CLIENTS client connections, at most $POOL server connections"
	echo "until [ -e $dir/gate ]; do sleep 0.1; done" >"$dir/gate.sh"
	load_script acme_app $ACME
	load_script beta_app $BETA
	"${ADMIN[@]}" <<<"SELECT count(*) FROM pg_stat_activity
		WHERE usename = 'weir_app' \\watch 0.05" >"$dir/servers.out" &
	watch=$!
	pgbench_as acme_app "$acme_password" simple &
	acme=$!
	pgbench_as beta_app "$beta_password" extended &
	beta=$!
	while kill -0 $acme 2>/dev/null || kill -0 $beta 2>/dev/null; do
		n=$(metric 'clients{proto="postgres"}')
		[ "${n:-0}" -le $clients ] || clients=$n
		if [ $opened = 0 ] && [ $((clients >= CLIENTS || SECONDS > late)) = 1 ]; then
			opened=$(date +%s%3N)
			: >"$dir/gate"
		fi
		sleep 0.2
	done
	wait $acme || rc=1
	wait $beta || rc=1
	ms=$(($(date +%s%3N) - opened))
	kill $watch; wait $watch 2>/dev/null
	servers=$(grep -E '^[0-9]+$' "$dir/servers.out" | sort -n | tail -n 1)
	samples=$(grep -cE '^[0-9]+$' "$dir/servers.out")
	acked=$(($(done_by acme_app) + $(done_by beta_app)))
	rows=$("${ADMIN[@]}" -c 'SELECT count(*) FROM crdt_operations')
	strays=$("${ADMIN[@]}" -c "SELECT count(*) FROM crdt_operations o
		JOIN documents d ON d.id = o.document_id
		WHERE d.organization_id <> o.organization_id")
	line pgbench "$((CLIENTS / 2)) clients of acme (simple) and $((CLIENTS / 2)) of beta (extended)"
	line "" "$acked transactions of 4 statements each in $ms ms"
	[ $rc = 0 ] || tail -n 3 "$dir/acme_app.out" "$dir/beta_app.out"
	check "pgbench saw no error and no row of the other organization" [ $rc = 0 ]
	check "most clients connected at once: $clients" [ "$clients" -ge $CLIENTS ]
	check "most servers in pg_stat_activity ($samples looks): $servers" \
	    [ "${servers:-0}" -ge 1 -a "${servers:-0}" -le $POOL ]
	check "transactions acknowledged $acked = rows committed $rows" \
	    [ "$acked" -gt 0 -a "$acked" = "$rows" ]
	check "operations on a document of the other organization: $strays" [ "$strays" = 0 ]
}

show_redis() {
	local watch servers rc=0 got
	head_line "3. $REDIS_CLIENTS Redis clients, at most $REDIS_POOL server connections"
	"${UPSTREAM[@]}" -r -1 -i 0.05 client list >"$dir/servers.out" &
	watch=$!
	timeout 60 redis-benchmark -h 127.0.0.1 -p "$redis_listen" --user acme_app \
	    -a "$acme_password" -c $REDIS_CLIENTS -n $REDIS_REQUESTS -t set,get --csv \
	    >"$dir/redis.out" 2>"$dir/redis.err" || rc=1
	kill $watch; wait $watch 2>/dev/null
	# From one appearance of the watcher itself to the next: one look.
	servers=$(awk '/cmd=client\|list/ { n = 0; next } /^id=/ && ++n > most { most = n }
	    END { print most + 0 }' "$dir/servers.out")
	[ $rc = 0 ] || tail -n 3 "$dir/redis.err"
	line redis "$(awk -F'"' '/^"[SG]ET/ { printf "%s%s %d/s", s, $2, $4; s = ", " }' "$dir/redis.out") with $REDIS_CLIENTS clients, one command in flight each"
	check "redis-benchmark saw no error" [ $rc = 0 ]
	check "most connections at redis-server: $servers" \
	    [ "$servers" -ge 1 -a "$servers" -le $REDIS_POOL ]
	redis "$acme_password" set demo:greeting hello >/dev/null
	got=$(redis "$acme_password" get demo:greeting)
	check "redis-cli wrote and read back: $got" [ "$got" = hello ]
	got=$("${UPSTREAM[@]}" get demo:greeting)
	check "redis-server has it: $got" [ "$got" = hello ]
	got=$(redis wrong-password get demo:greeting)
	check "a wrong password is refused" grep -qE 'WRONGPASS|NOAUTH' <<<"$got"
}

show_admin() {
	local code
	head_line "4. What weir says of itself"
	code=$(curl -s -m 2 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$admin_listen/healthz")
	check "GET /healthz: $code" [ "$code" = 200 ]
	for name in 'clients_accepted_total{proto="postgres"}' transactions_total \
	    server_opened_total redis_commands_total; do
		printf '    weir_%s %s\n' "$name" "$(metric "$name")"
	done
	check "/metrics counts the transactions" [ "$(metric transactions_total || echo 0)" -gt 0 ]
}

show_drain() {
	local rc t0 ms
	t0=$(date +%s%3N)
	stop "$weir_pid" TERM
	rc=$?
	ms=$(($(date +%s%3N) - t0))
	check "SIGTERM: drained and left after $ms ms with status $rc" [ $rc = 0 ]
	weir_pid=''
}

url_of_acme() {
	echo "postgresql://acme_app:$acme_password@127.0.0.1:$pg_listen/collab?sslmode=require"
}

redis_url_of_acme() {
	echo "redis://acme_app:$acme_password@127.0.0.1:$redis_listen/0"
}

# --- the demo -----------------------------------------------------------

trap cleanup EXIT
trap 'exit 130' INT TERM HUP
dir=$(mktemp -d "${TMPDIR:-/tmp}/weir-demo.XXXXXX") || exit 1
own "$dir"
cd "$dir" || exit 1
for secret in upstream acme beta stranger; do
	declare "${secret}_password=$(openssl rand -hex 20)"
done

head_line "weir: PostgreSQL 15, Redis and a proxy, all in $dir"
start_postgres
line postgres "127.0.0.1:$postgres_port, max_connections = $((POOL + 20)), row level security forced"
start_redis
line redis "127.0.0.1:$redis_port"
start_weir
line weir "127.0.0.1:$pg_listen (PostgreSQL), :$redis_listen (Redis), :$admin_listen (HTTP)"

show_isolation
show_pooling
show_redis
show_admin
keep=${KEEP:-}
[ -n "$keep" ] && [ "$keep" != 0 ] || show_drain

if [ $failed != 0 ]; then
	printf '\n%sNot as promised; the last lines of weir:%s\n' "$red" "$off"
	tail -n 20 "$dir/weir.log"
else
	head_line "All as promised."
fi
cat <<END

  An application changes two URLs and nothing else:

    DATABASE_URL=$(url_of_acme)
    REDIS_URL=$(redis_url_of_acme)

END
if [ -n "$weir_pid" ]; then
	echo "  also http://127.0.0.1:$admin_listen/metrics; weir's log is $dir/weir.log"
	echo "  Up until Ctrl-C."
	trap 'echo; exit $failed' INT TERM HUP
	while kill -0 "$weir_pid" 2>/dev/null; do
		sleep 1 &
		wait $!
	done
	die "weir is gone:" "$dir/weir.log"
fi
[ $failed != 0 ] || echo "  (they were; make demo KEEP=1 leaves everything up to paste them)"
exit $failed

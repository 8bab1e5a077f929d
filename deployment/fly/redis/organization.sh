#!/bin/sh
# organization.sh: a user of Redis for one organization, and proof that it is
# kept apart from the others.
#
#   organization.sh print SLUG                      the ACL rule, run nothing
#   organization.sh apply SLUG [redis-cli options]  create or replace the user
#   organization.sh check SLUG [redis-cli options]  prove what it may not do
#
# The user is called SLUG and has the keys and channels SLUG:*.  Its password is
# ORGANIZATION_REDIS_PASSWORD in the environment (16 characters at least); only
# its SHA-256 is sent or printed.  The options say where Redis is (-h, -p,
# --tls, ...), and REDISCLI_AUTH has the password of who may run ACL there.
# In weir's configuration:
#
#   [organization SLUG]
#   redis_user = SLUG
#   redis_password = ${ACME_REDIS_PASSWORD}
#
# Where the url of weir's upstream names another database than 0, say so with
# REDIS_DB=N, because weir must then SELECT it as this user.
#
# What even this leaves open: a script may write the organization's own prefix
# into another database, call what another organization loaded with SCRIPT LOAD
# if it knows its SHA-1, and use processor time.  FUNCTION libraries are shared:
# only the operator loads them.
set -eu

fail() { echo "organization.sh: $*" >&2; exit 1; }

usage() {
	sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
	exit 2
}

[ $# -ge 2 ] || usage
what=$1 slug=$2
shift 2

case $slug in
default) fail "default is the user of everybody else" ;;
'' | *[!A-Za-z0-9_-]*) fail "a slug has letters, digits, - and _ only" ;;
esac
[ ${#slug} -le 100 ] || fail "a slug has 100 characters at most"

password=${ORGANIZATION_REDIS_PASSWORD:-}
[ ${#password} -ge 16 ] ||
	fail "ORGANIZATION_REDIS_PASSWORD needs 16 characters or more"

# What the categories leave open: -@dangerous and -@admin take most, the rest
# shows names of others, or changes what all share.
closed='-scan -randomkey -dbsize -pubsub -move -swapdb
-function|flush -function|delete -function|load -function|restore
-function|kill -function|list -function|dump -script|flush -script|kill
-memory|stats -memory|purge -memory|malloc-stats -memory|doctor
-client|tracking -client|reply -client|no-evict -wait'

rule() {
	hash=$(printf %s "$password" | sha256sum)
	[ "${REDIS_DB:-0}" != 0 ] || closed="$closed -select"
	printf 'ACL SETUSER %s reset on #%s ~%s:* &%s:* +@all -@dangerous -@admin' \
	    "$slug" "${hash%% *}" "$slug" "$slug"
	echo " $closed" | tr '\n' ' '
	echo
}


apply() {
	said=$(rule | redis-cli "$@" 2>&1) || fail "$said"
	[ "$said" = OK ] || fail "$said"
	said=$(echo 'ACL SAVE' | redis-cli "$@" 2>&1) || true
	[ "$said" = OK ] || echo "organization.sh: the user is gone when Redis" \
	    "restarts, unless its configuration or an aclfile has it" >&2
}

# Redis itself judges each, without running it.
forbidden="GET other:k|SET other:k v|MGET $slug:k other:k|DEL other:k
RENAME $slug:k other:k|COPY other:k $slug:k|EXISTS other:k|TYPE other:k
OBJECT ENCODING other:k|MEMORY USAGE other:k|DUMP other:k
SORT $slug:k BY nosort GET other:*|SINTERSTORE $slug:k other:k
XREAD STREAMS other:k 0|EVAL x 1 other:k|PUBLISH other:c x|SUBSCRIBE other:c
PSUBSCRIBE *|SSUBSCRIBE other:c|SCAN 0|KEYS *|RANDOMKEY|DBSIZE|MOVE $slug:k 1
SWAPDB 0 1|FLUSHALL|FLUSHDB|INFO|CONFIG GET *|CLIENT LIST
CLIENT KILL TYPE normal|CLIENT PAUSE 1|CLIENT TRACKING ON BCAST
CLIENT REPLY OFF|PUBSUB CHANNELS|PUBSUB NUMPAT|MONITOR|SLOWLOG GET
LATENCY LATEST|MEMORY STATS|ACL LIST|SCRIPT FLUSH|SCRIPT KILL|FUNCTION FLUSH
FUNCTION LIST|FUNCTION LOAD x|DEBUG SLEEP 0|SHUTDOWN|SAVE|REPLICAOF h 1"
allowed="GET $slug:k|SET $slug:k v|MGET $slug:k $slug:l|EVAL x 1 $slug:k
PUBLISH $slug:c x|SUBSCRIBE $slug:c|XREAD STREAMS $slug:s 0|SSCAN $slug:k 0
MULTI|PING|CLIENT SETNAME x"

# judge COMMANDS [redis-cli options]: each, and whether Redis lets it pass.
judge() {
	commands=$1
	shift
	echo "$commands" | tr '|' '\n' |
	    sed -n "h; s/.*/ECHO \"&\"/p; g; s/^/ACL DRYRUN $slug /p" |
	    redis-cli "$@" 2>&1 | sed '/^$/d' |
	    while read -r command && read -r said; do
		case $said in
		OK) echo "may: $command" ;;
		'This user has no permissions'*) echo "may not: $command" ;;
		*) echo "unknown: $command: $said" ;;
		esac
	done
}

# What no dry run shows: that it holds inside of scripts.
in_script() {
	for command in "EVAL \"return redis.call('SCAN', 0)\" 0" \
	    "EVAL \"return redis.call('GET', 'other:k')\" 0"; do
		said=$(echo "$command" | as_user "$@")
		case $said in
		*"can't run this command"* | *"can't access at least one"*) ;;
		*) echo "may: $command: $said" ;;
		esac
	done
}

as_user() { REDISCLI_AUTH=$password redis-cli "$@" --user "$slug" 2>&1 || true; }

check() {
	said=$(echo 'ACL WHOAMI' | as_user "$@")
	[ "$said" = "$slug" ] || fail "$slug cannot log in: $said"
	bad=$(
		judge "$forbidden" "$@" | grep -v '^may not: ' || true
		judge "$allowed" "$@" | grep -v '^may: ' || true
		in_script "$@"
	)
	[ -z "$bad" ] || fail "$slug is not kept apart:
$bad"
	echo "$slug: kept apart"
}

case $what in
print) rule ;;
apply) apply "$@" ;;
check) check "$@" ;;
*) usage ;;
esac

#!/bin/bash
# own_server.sh: a port, the wait for who listens there, and its end; read by the
# scripts that start servers of their own, and have a die TEXT LOG.

# A port nobody listens on, below those the kernel gives to outgoing ones.
pick_port() {
	while :; do
		port=$((10000 + RANDOM % 22000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || return 0
	done
}

# ready PID LOG CHECK...: until CHECK, a command, says that it answers.
ready() {
	local i pid=$1 log=$2
	shift 2
	for ((i = 0; i < 300; i++)); do
		kill -0 "$pid" 2>/dev/null || die "it ended, $log says:" "$log"
		! "$@" || return 0
		sleep 0.1
	done
	die "not ready within 30 s, $log says:" "$log"
}

# stop NAME SIGNAL: who is in NAME_pid, if anybody.
stop() {
	local pid=$1_pid
	[ -n "${!pid}" ] || return 0
	kill "-$2" "${!pid}" 2>/dev/null || :
	wait "${!pid}" 2>/dev/null || :
	printf -v "$pid" ''
}

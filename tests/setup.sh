#!/bin/sh
# setup.sh: installs the packages of packages.txt that are missing.
#
#   tests/setup.sh WORD...      those for `build`, `test`, `demo` ...
#
# With nothing missing it says nothing and never calls apt.  As root, or with a
# sudo that asks no password, it installs; otherwise it prints what to type and
# exits 1.  Servers are wanted as programs, not as services: while apt runs no
# service may start and Debian's default cluster is not made, and afterwards
# what came with a boot-time service of its own is switched off again.
# Nothing that was on the machine before is changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
list=$here/packages.txt
marker="weir's setup.sh put this here for the time of one apt run"
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/weir-setup.conf
made_policy=no
made_cluster=no

# The packages whose line in the list has one of the words, less those whose
# program is there already.
wanted() {
	for word in "$@"; do
		awk -v w="$word" '!/^#/ {
			c = "-"
			for (i = 2; i <= NF; i++) if (sub(/^command:/, "", $i)) c = $i
			for (i = 2; i <= NF; i++) if ($i == w) print $1, c
		}' "$list"
	done | sort -u | while read -r package program; do
		command -v "$program" >/dev/null || echo "$package"
	done
}

# Those of the arguments that dpkg does not know as installed.
missing() {
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
	    awk -v all="$*" '$1 == "installed" { have[$2] = 1 }
		END { n = split(all, p, " ")
		for (i = 1; i <= n; i++) if (!(p[i] in have)) printf " %s", p[i] }'
}

# An administrator's own policy-rc.d stays in force; ours only fills a gap.
hold_services() {
	if [ ! -e $policy ] || grep -q "$marker" $policy; then
		made_policy=yes
		printf '#!/bin/sh\n# %s\nexit 101\n' "$marker" >$policy
		chmod 755 $policy
	fi
	case " $* " in *" postgresql-15 "*)
		mkdir -p "${cluster%/*}"
		made_cluster=yes
		printf '# %s\ncreate_main_cluster = false\n' "$marker" >$cluster
	esac
}

release_services() {
	[ $made_policy = no ] || rm -f $policy
	[ $made_cluster = no ] || rm -f $cluster
	made_policy=no made_cluster=no
}

# Packages switch their service on for the next boot: not wanted from us.
switch_off() {
	for unit in redis-server pgbouncer nutcracker; do
		case " $* " in *" $unit "*)
			deb-systemd-helper disable $unit.service >/dev/null 2>&1 || :
			update-rc.d $unit disable >/dev/null 2>&1 || :
		esac
	done
}

install() {
	echo "setup: installing$(printf ' %s' "$@")"
	trap release_services EXIT
	trap 'exit 1' HUP INT TERM
	export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
	apt="apt-get -q -o DPkg::Lock::Timeout=600"
	# One broken third-party source must not stop us: install decides.
	$apt update || echo "setup: apt-get update complained; going on" >&2
	hold_services "$@"
	$apt install -y --no-install-recommends "$@"
	switch_off "$@"
	release_services
}

[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 1; }
want=$(wanted "$@")
[ -n "$want" ] || { echo "setup: no package is for '$*'" >&2; exit 1; }
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "setup: weir's home is Debian 12 and this is not Debian.  What it needs" >&2
	echo "goes by these names there:" $want >&2
	echo "Once all is there, add -now to the target: make test-now" >&2
	exit 1
fi
need=$(missing $want)
[ -n "$need" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	install $need
	still=$(missing $want)
	[ -z "$still" ] || { echo "setup: still missing:$still" >&2; exit 1; }
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	exec sudo -n sh "$here/setup.sh" "$@"
else
	cat >&2 <<END
setup: not installed here:$need
Type this once, then the same make again:

    sudo sh $here/setup.sh $*

(without sudo: su -c "sh $here/setup.sh $*").  It runs

    apt-get install --no-install-recommends$need

and sees to it that no service is started and no cluster created by that.
END
	exit 1
fi

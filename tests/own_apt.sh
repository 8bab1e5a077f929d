#!/bin/bash
# own_apt.sh: apt with lists and sources of our own, so that source packages
# are known; read by the scripts that fetch some.  own_apt FOLDER sets APT, the
# options for apt-get and apt-cache, and leaves what apt said in FOLDER/apt.log.

own_apt() {
	local f cache=$1
	mkdir -p "$cache/apt/sources" "$cache/apt/lists/partial" "$cache/apt/cache"
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
		[ -f "$f" ] && grep -q debian "$f" || continue
		sed 's/^Types:.*/Types: deb deb-src/
		    /^deb /{p;s/^deb /deb-src /;}' "$f" \
		    >"$cache/apt/sources/${f##*/}"
	done
	rm -f "$cache/apt/sources/sources.list.list"
	[ ! -f "$cache/apt/sources/sources.list" ] ||
	    mv "$cache/apt/sources/sources.list" "$cache/apt/sources/main.list"
	APT=(-o Dir::Etc::SourceList=/dev/null
		-o Dir::Etc::SourceParts="$cache/apt/sources"
		-o Dir::State::Lists="$cache/apt/lists"
		-o Dir::Cache="$cache/apt/cache" -o APT::Sandbox::User="$(id -un)")
	apt-get -q "${APT[@]}" update >"$cache/apt.log" 2>&1 || :
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# Results in TAP, for the scripts beside this one, which source it.

count=0
failed=0

ok() {
	count=$((count + 1))
	echo "ok $count $1"
}

not_ok() {
	count=$((count + 1))
	failed=$((failed + 1))
	echo "not ok $count $1"
}

skip() {
	count=$((count + 1))
	echo "ok $count $1 # SKIP $2"
}

# check NAME COMMAND...: ok if the command succeeds.
check() {
	local name="$1"
	shift
	if "$@"; then ok "$name"; else not_ok "$name"; fi
}

# soon COMMAND...: it succeeds within half a minute.
soon() {
	local tries=300
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.1
	done
}

# fails_with ERROR COMMAND...: it fails, and says so.
fails_with() {
	local wanted="$1" error
	shift
	error=$("$@" 2>&1) && return 1
	case $error in
	*"$wanted"*) return 0 ;;
	*) return 1 ;;
	esac
}

# finish: the plan; fails if a test did.
finish() {
	echo "1..$count"
	[ $failed = 0 ]
}

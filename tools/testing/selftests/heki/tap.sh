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

# finish: the plan; fails if a test did.
finish() {
	echo "1..$count"
	[ $failed = 0 ]
}

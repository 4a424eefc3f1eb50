#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# Runs every attack of heki_attack.ko, or those named, and prints a line for each:
#
#   attack: NAME: succeeded|denied|absent(REASON)|inconclusive class=CLASS denials=N DETAIL
#   control: NAME: allowed|broken class=allowed denials=N DETAIL
#
# denials is the number that the host must have counted meanwhile. What an
# attack should come to is for the caller to say; this exits 0 if all of them ran.

dir=/sys/kernel/debug/heki_attack
printk=/proc/sys/kernel/printk

# say NAME OUTCOME CLASS DENIALS DETAIL...
say() {
	local name="$1" outcome="$2" class="$3" denials="$4" kind=attack
	shift 4
	[ "$class" = class=allowed ] && kind=control
	[ "$outcome" = absent ] && outcome="absent($*)"
	echo "$kind: $name: $outcome $class $denials $*"
}

run() {
	local result
	echo "attack-begin: $1"
	if ! echo "$1" >"$dir/run" || ! read -r result <"$dir/run"; then
		echo "attack: $1: inconclusive class=unknown denials=0 it could not be run"
		return 1
	fi
	# The words of the result are the arguments.
	# shellcheck disable=SC2086
	say $result
}

if [ ! -e "$dir/run" ]; then
	echo "heki_attacks: heki_attack is not loaded"
	exit 4
fi
# A warning that the kernel has yet to put on the console would cut a line of ours in two.
read -r level _ <$printk
trap 'echo "$level" >$printk' EXIT
echo 4 >$printk
# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $(cut -d' ' -f1 "$dir/list")
status=0
for name in "$@"; do
	run "$name" || status=1
done
exit $status

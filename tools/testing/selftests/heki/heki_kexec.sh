#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# kexec of a kernel, before the seal and after it, where the VMM lists that kernel
# alone. Leaves it loaded.
#
#   heki_kexec.sh before|sealed KERNEL

# shellcheck source-path=SCRIPTDIR source=tap.sh
. "${0%/*}/tap.sh"

kernel=$2
other=/tmp/other-kernel

log_has() { dmesg | grep -q "heki: $1"; }
is_loaded() { [ "$(cat /sys/kernel/kexec_loaded)" = "$1" ]; }
denied() { fails_with "not permitted" heki_kexec "$@"; }

# One byte in the middle of the compressed kernel is another one.
spoil() {
	local at
	at=$(($(wc -c <"$kernel") / 2))
	cp "$kernel" "$other"
	dd if="$kernel" bs=1 skip="$at" count=1 2>/dev/null | tr '\000-\377' '\001-\377\000' |
		dd of="$other" bs=1 seek="$at" conv=notrunc 2>/dev/null
	! cmp -s "$kernel" "$other"
}

before() {
	check "a kernel with a changed byte is made" spoil
	check "it is loaded before the seal" heki_kexec load "$other"
	check "and is loaded now" is_loaded 1
	check "it is unloaded" heki_kexec unload
	check "and is loaded no longer" is_loaded 0
}

sealed() {
	check "the log says that kernels can be started" log_has "kexec: kernels of the VMM's list"
	check "the changed kernel is refused" denied load "$other"
	check "the log says why" log_has "refused: kexec: the VMM's list lacks this kernel"
	check "it is not loaded" is_loaded 0
	check "nothing is started" fails_with "Invalid argument" heki_kexec start
	head -c 65536 "$kernel" >"$other"
	check "a kernel that was cut off is refused" denied load "$other"
	: >"$other"
	check "so is an empty file" fails_with "Invalid argument" heki_kexec load "$other"
	check "kexec_load is refused" denied segments
	check "the log says that it takes a file" log_has "refused: kexec: .*kexec_file_load"
	check "a kernel for a crash is refused" denied crash "$kernel"
	check "the log says that there is none" log_has "refused: kexec: .*crash"
	check "the listed kernel is loaded" heki_kexec load "$kernel"
	check "the VMM has it" is_loaded 1
	check "it is unloaded" heki_kexec unload
	check "the VMM's is not started" fails_with "Invalid argument" heki_kexec start
	check "it is loaded again" heki_kexec load "$kernel"
	check "a failed load forgets it" denied load /bin/busybox
	check "nothing is left" is_loaded 0
	check "it is loaded for the start" heki_kexec load "$kernel"
}

"$1"
finish

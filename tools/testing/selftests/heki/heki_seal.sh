#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash source=tools/testing/selftests/heki/tap.sh source=tools/testing/selftests/heki/livepatch.sh
#
# Loading heki_guest: what is refused and with which words, and the seal itself.
#
#   heki_seal.sh none     the host has no Heki for this guest
#   heki_seal.sh sealed   it has; the kernel is sealed afterwards, until it reboots
#   heki_seal.sh bare     it has, and its VMM has no vmlinux of this kernel; likewise
#   heki_seal.sh foreign  it has, and its VMM has the vmlinux of another kernel
#   heki_seal.sh denied   it has, and its policy denies the seal; the disk is read-only
#   heki_seal.sh oops     the kernel is sealed: what it says when it is to sleep or to start another
#                         one, and of threads that a denial kills
#
# Skipped without an argument: a seal is nothing to do to a machine unasked.

. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/livepatch.sh"

# try PARAMS...: load heki_guest; $error holds what modprobe said.
try() {
	error=$(modprobe heki_guest "$@" 2>&1)
}

loaded() { [ -d /sys/module/heki_guest ]; }
log_has() { dmesg | grep -q "heki: .*$1"; }

# refused NAME ERROR MESSAGE PARAMS...: loading fails so, and nothing is sealed.
refused() {
	local name="$1" wanted="$2" message="$3"
	shift 3
	if try "$@" || loaded; then
		not_ok "$name, errno: it was loaded"
		return
	fi
	case $error in
	*"$wanted"*) ok "$name, errno: $wanted" ;;
	*) not_ok "$name, errno: modprobe says $error" ;;
	esac
	check "$name, message" log_has "$message"
}

# Whether a write to kernel text still goes through.
unsealed() {
	/heki/heki_attacks.sh text-vmap | grep -q '^attack: text-vmap: succeeded'
}

no_host() {
	refused "unknown word" "Invalid argument" "unknown word" require=write,bogus
	refused "no host" "No such device" "not sealed"
	check "modules can still be loaded" [ "$(cat /proc/sys/kernel/modules_disabled)" = 0 ]
	check "nothing is sealed" unsealed
	check "nothing is shown" [ ! -e /sys/kernel/heki ]
	check "text can be written often" none_of 1000
	check "a thread may write text" lives_through write
	check "it may run its own code" lives_through exec
	check "it may clear a bit of CR0" lives_through cr
	check "it may change an MSR" lives_through msr
	check "it may cut the IDT" lives_through idt
}

flood=/sys/kernel/debug/heki_attack/flood

# none_of N: of so many writes none is denied.
none_of() {
	echo "$1" >$flood && [ "$(cat $flood)" = "denied=0 of $1" ]
}

attack_oops=/sys/kernel/debug/heki_attack/oops
oopses() { dmesg | grep -c 'Oops: general protection fault'; }

# lives_through WHAT: the thread that does it is not killed.
lives_through() {
	local before
	before=$(oopses)
	echo "$1" >$attack_oops && [ "$(oopses)" = "$before" ]
}

shown=/sys/kernel/heki

# The file says of a protection what the log says.
shows() {
	local word
	word=$(cat "$shown/$1")
	case $word in
	held | "not held: "?*) log_has "$1: $word" ;;
	*) false ;;
	esac
}

shows_all() {
	check "sysfs says that this kernel is sealed" [ "$(cat $shown/state)" = sealed ]
	for protection in write exec cr msr dt; do
		check "sysfs says what became of $protection" shows $protection
	done
	check "sysfs counts the ranges" log_has "sealed: $(cat $shown/ranges) ranges"
	check "no denial yet" [ "$(cat $shown/denials)" = 0 ]
	check "nothing there can be written" [ -z "$(find $shown -type f -perm /222)" ]
}

# says WHAT PATTERN: the kernel says so in the line before the oops, and counts it.
says() {
	local before
	before=$(cat $shown/denials)
	dmesg -c >/dev/null
	echo "$1" >$attack_oops
	dmesg | grep -B1 'Oops: general protection fault' | head -n1 | grep -q "heki: denied by the hypervisor, .*: $2" &&
		[ "$(cat $shown/denials)" = $((before + 1)) ]
}

says_nothing() {
	local before
	before=$(cat $shown/denials)
	dmesg -c >/dev/null
	echo "$1" >$attack_oops
	[ "$(oopses)" = 1 ] && ! log_has "denied by the hypervisor" && [ "$(cat $shown/denials)" = "$before" ]
}

sleep_in() { echo "$1" >/sys/power/state; }

# refuses_sleep STATE: the error is seen by who asks, and the reason in the log.
refuses_sleep() {
	dmesg -c >/dev/null
	fails_with "not permitted" sleep_in "$1" && log_has "suspend and hibernation are refused: this kernel is sealed"
}

# refuses_kexec ARG...: likewise. No policy of this VMM lists kernels.
refuses_kexec() {
	dmesg -c >/dev/null
	fails_with "not permitted" heki_kexec "$@" && log_has "refused: kexec: no policy of the VMM allows a kernel"
}

oops() {
	for state in freeze mem disk; do
		if grep -qw $state /sys/power/state; then
			check "the log says why sleep was refused, $state" refuses_sleep $state
		else
			skip "the log says why sleep was refused, $state" "this kernel does not have it"
		fi
	done
	# The log takes ten such lines in five seconds.
	check "the log says why kexec_load was refused" soon refuses_kexec segments
	check "and kexec_file_load" soon refuses_kexec load /bin/busybox
	check "a write that is denied" says write "write of sealed [^ ]*+0x.* by oops_write+0x.*\[heki_attack\]"
	if [ "$(cat $shown/exec)" = held ]; then
		check "code that is denied" says exec "to run .*, which is no sealed text"
	else
		skip "code that is denied" "the host does not hold it"
	fi
	check "a pinned bit" says cr "to clear pinned bits 0x10000 of CR0 by oops_cr+0x"
	check "a pinned MSR" says msr "to change pinned bits 0x1000 of LSTAR by oops_msr+0x"
	check "a pinned table" says idt "to change pinned bits 0x10 of IDTR limit by oops_idt+0x"
	check "a fault of another kind" says_nothing other
	check "still sealed" [ "$(cat $shown/state)" = sealed ]
}

held() { log_has "$1: held"; }

# outcomes PATTERN: what the log says of each thing of such a name.
outcomes() { dmesg | grep -o -E "heki: ($1): (held|not held: .|not needed: .)"; }
held_or_why() { outcomes "$1" | grep -q .; }

# Every bit and register of virt/heki/pins.rs.
bits="CR0.NE CR0.WP CR0.AM CR0.PG CR4.SMEP CR4.SMAP CR4.UMIP CR4.FSGSBASE CR4.PKE CR4.CET"
tables="IDTR-base IDTR-limit GDTR-base GDTR-limit LDTR TR-base TR-limit TR-selector"
msrs="EFER STAR LSTAR CSTAR SFMASK SYSENTER_CS SYSENTER_ESP SYSENTER_EIP PAT APIC_BASE MISC_ENABLE FEATURE_CONTROL XSS
	S_CET PL0_SSP PL1_SSP PL2_SSP INTERRUPT_SSP_TABLE TSX_CTRL DE_CFG VM_CR"

names_no_other() {
	# shellcheck disable=SC2086
	set -- $bits $tables XCR0 $msrs
	[ "$(outcomes '[A-Z][^:]*' | wc -l)" = $# ]
}

compiler() { [ "$(cat /proc/sys/net/core/bpf_jit_enable)" = "$1" ]; }
tracer() { echo "$1" >/sys/kernel/tracing/current_tracer; }

# What is turned off or hooked for a seal that then fails must be as it was.
seal_traced() {
	tracer function
	refused "functions are traced" "busy" "functions are traced"
	check "the compiler of BPF is on again" compiler 1
	check "the tracer can be stopped" tracer nop
	check "nothing is sealed by that" unsealed
}

# One that is active keeps the kernel from being sealed; one that is not yet stays loaded.
seal_livepatched() {
	check "a live patch is loaded" modprobe heki_livepatch now=1
	check "it is in force" soon version_is_patched
	check "it is in force for all tasks" soon transition_is_over
	dmesg -c >/dev/null
	refused "a live patch is active" "busy" "functions are .* patched live"
	check "it can be taken back" take_livepatch_back
	check "it can be unloaded" soon rmmod heki_livepatch
	check "nothing is sealed by a live patch" unsealed
	check "a live patch for later is loaded" modprobe heki_livepatch
}

seal() {
	refused "unknown word" "Invalid argument" "unknown word" require=write,bogus
	refused "unknown word of bpf" "Invalid argument" "unknown word" bpf=bogus
	refused "bpf=refuse" "busy" "the compiler of BPF is on" bpf=refuse
	check "nothing is sealed by that" unsealed
	seal_traced
	seal_livepatched
	if try require=write,exec,cr,msr,dt; then
		ok "sealed with require=write,exec,cr,msr,dt"
		check "exec is held" held exec
	else
		check "require=write,exec,cr,msr,dt is refused with a reason" log_has "require=.*; not sealed"
		check "its errno" test "${error%Operation not supported*}" != "$error"
		check "nothing is sealed by that either" unsealed
		check "sealed without" try
	fi
	check "loaded" loaded
	for protection in write exec cr msr dt; do
		check "the log says what became of $protection" held_or_why $protection
	done
	for name in $bits $tables XCR0 $msrs; do
		check "the log says what became of $name" held_or_why "$(echo "$name" | tr - ' ')"
	done
	check "and of no other register" names_no_other
	check "the log says what is refused" log_has "refused from now on"
	shows_all
}

living=/sys/kernel/debug/heki_living
flips() { echo "$2" >"$living/$1" && [ "$(cat "$living/$1")" = "$2" ]; }

traces_nothing() {
	tracer function && echo "# the tracer is set"
	wc /proc/version >/dev/null
	[ "$(grep -vc '^#' /sys/kernel/tracing/trace)" = 0 ] && tracer nop
}

# What the host can serve without, it does; what it cannot is refused and said.
bare() {
	check "a live patch is loaded" modprobe heki_livepatch
	check "sealed" try
	check "the log says that nothing is traced" log_has "changes of text: ftrace: refused: .*profile"
	check "and that no breakpoint is set" log_has "changes of text: breakpoints: refused: .*--probes"
	check "nothing is traced" traces_nothing
	check "a live patch is refused without ftrace" fails_with "No such device" apply_livepatch
	check "and it is gone" soon livepatch_is_gone
	check "a static key still changes" flips key 1
	check "and back" flips key 0
	check "and a static call" flips call 1
}

foreign() {
	refused "another kernel" "not permitted" "the host refuses to seal this kernel"
	check "nothing is sealed" unsealed
	check "functions can still be traced" tracer function
	check "and no longer" tracer nop
}

disk=/dev/vda

# The kernel keeps its users from writing; the module does not ask it, the device refuses that.
denied() {
	refused "the policy denies it" "not permitted" "the host refuses to seal this kernel"
	check "nothing is sealed" unsealed
	check "modules can still be loaded" [ "$(cat /proc/sys/kernel/modules_disabled)" = 0 ]
	check "the disk is read-only" [ "$(cat /sys/block/vda/ro)" = 1 ]
	check "it can be read" dd if=$disk of=/dev/null bs=512 count=1
	check "root cannot write it" fails_with "not permitted" dd if=/dev/zero of=$disk bs=512 count=1
	check "nor can the kernel" disk_refuses
}

disk_refuses() {
	/heki/heki_attacks.sh disk-text | grep -q '^attack: disk-text: inconclusive .*the disk returned -5 for a write'
}

case ${1:-} in
none) test_run=no_host ;;
sealed) test_run=seal ;;
bare | foreign | denied | oops) test_run=$1 ;;
*)
	echo "1..0 # SKIP it seals the kernel: say none, sealed, bare, foreign, denied or oops"
	exit 4
	;;
esac
echo "TAP version 13"
$test_run
finish

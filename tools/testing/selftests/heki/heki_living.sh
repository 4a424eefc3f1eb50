#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash source=tools/testing/selftests/heki/tap.sh source=tools/testing/selftests/heki/livepatch.sh
#
# What a sealed kernel goes on doing although it changes its text, and what it
# refuses early: tracing, static keys and calls, CPU hotplug, probes, kgdb.
#
#   heki_living.sh [HOTPLUG_ROUNDS [RACE_ROUNDS]]
#
# heki_living and heki_attack must be loaded. Skipped where the kernel is not
# sealed, or the host changes no text for it.

hotplug_rounds=${1:-50}
race_rounds=${2:-1000}
tracing=/sys/kernel/tracing
living=/sys/kernel/debug/heki_living
clocks=/sys/devices/system/clocksource/clocksource0
cpu=/sys/devices/system/cpu/cpu1/online
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/livepatch.sh"

log_has() { dmesg | grep -q "$1"; }
served() { log_has "heki: changes of text: $1: made and checked by the host"; }

# put TEXT FILE: quietly; the file is one of the kernel's.
put() { echo "$1" 2>/dev/null >"$2"; }

# The workload of every trace: reads of files, which cat would splice.
read_files() { wc /proc/version /proc/meminfo /proc/uptime >/dev/null; }

# stop_trace FOLDER: what is traced so far goes to /tmp/trace. Reading would be traced itself, for ever.
stop_trace() {
	put 0 "$1/tracing_on"
	grep -v '^#' "$1/trace" >/tmp/trace
}

start_trace() {
	put "" $tracing/trace
	put 1 $tracing/tracing_on
}

# traced WORD: lines of the trace that have it.
traced() { grep -c "$1" /tmp/trace; }

# leaves_traces WORD: the workload does.
leaves_traces() {
	start_trace
	read_files
	stop_trace $tracing
	[ "$(traced "$1")" -gt 0 ]
}

leaves_none() { ! leaves_traces "$1"; }

test_clocksource() {
	local was now all other
	was=$(cat $clocks/current_clocksource)
	read -r all <$clocks/available_clocksource
	for other in $all; do
		[ "$other" != "$was" ] || continue
		put "$other" $clocks/current_clocksource
		now=$(cat $clocks/current_clocksource)
		check "clocksource $other" [ "$now" = "$other" ]
		check "time goes on with $other" sleep 0.01
	done
	put "$was" $clocks/current_clocksource
	check "clocksource $was again" [ "$(cat $clocks/current_clocksource)" = "$was" ]
}

test_tracepoints() {
	check "sched tracepoints on" put 1 $tracing/events/sched/enable
	check "sched tracepoints leave traces" leaves_traces sched_switch
	check "sched tracepoints off" put 0 $tracing/events/sched/enable
	check "sched tracepoints leave none any more" leaves_none sched_
}

# What the kernel does between two marks is counted by the host, which sees each as a change that it
# denies for its target, as no other here. host-parts looks at the last four.
mark() { /heki/heki_attacks.sh patch-batch | grep -q '^attack: patch-batch: denied'; }

# batches: how often the kernel finished one since the probe is there.
batches() { awk '$1 == "heki_batches" { print $2 }' $tracing/kprobe_profile; }

tracer() { put "$1" $tracing/current_tracer; }
filter() { put "$1" $tracing/set_ftrace_filter; }

test_function_tracer() {
	local sites begin
	sites=$(wc -l <$tracing/available_filter_functions)
	check "a probe of batches" put 'p:heki_batches smp_text_poke_batch_finish' $tracing/kprobe_events
	check "the probe of batches is on" put 1 $tracing/events/kprobes/heki_batches/enable
	check "filter one function" filter vfs_read
	check "mark 1" mark
	check "function tracer, one function" tracer function
	check "mark 2" mark
	check "it is traced" leaves_traces vfs_read
	check "no other is" [ "$(traced 'vfs_[^r]')" = 0 ]
	check "filter several functions" filter 'vfs_*'
	check "they are traced" leaves_traces vfs_open
	tracer nop
	filter ""
	check "mark 3" mark
	begin=$(batches)
	check "function tracer, all functions" tracer function
	echo "batches: sites=$sites modules=$(wc -l </proc/modules) made=$(($(batches) - begin))"
	check "mark 4" mark
	check "many are traced" many_traced
	check "function tracer off" tracer nop
	check "none is traced" leaves_none vfs_read
	put 0 $tracing/events/kprobes/heki_batches/enable
	check "no probe of batches" put '' $tracing/kprobe_events
}

many_traced() {
	leaves_traces : && [ "$(sed 's/.*: //; s/ <-.*//' /tmp/trace | sort -u | wc -l)" -gt 50 ]
}

test_function_graph() {
	filter 'vfs_*'
	check "function graph tracer" tracer function_graph
	check "it leaves traces" leaves_traces 'vfs_read'
	check "function graph tracer off" tracer nop
	filter ""
}

# A second user with functions of its own has a trampoline of its own; both on one function have another.
test_trampolines() {
	mkdir $tracing/instances/heki
	put vfs_read $tracing/instances/heki/set_ftrace_filter
	check "a tracer of its own" put function $tracing/instances/heki/current_tracer
	read_files
	stop_trace $tracing/instances/heki
	check "it leaves traces" [ "$(traced vfs_read)" -gt 0 ]
	check "it has a trampoline" grep -q 'vfs_read.*tramp' $tracing/enabled_functions
	check "a probe where ftrace is" put 'p:heki_probe vfs_read' $tracing/kprobe_events
	check "the probe is on" put 1 $tracing/events/kprobes/heki_probe/enable
	filter vfs_read
	check "a third user of the same function" tracer function
	check "the probe leaves traces" leaves_traces heki_probe
	check "and the tracer" [ "$(traced 'vfs_read <-')" -gt 0 ]
	tracer nop
	filter ""
	check "the probe is off" put 0 $tracing/events/kprobes/heki_probe/enable
	put '' $tracing/kprobe_events
	put nop $tracing/instances/heki/current_tracer
	check "all tracers are gone" rmdir $tracing/instances/heki
	check "nothing is traced" [ -z "$(cat $tracing/enabled_functions)" ]
}

calls_leave_traces() {
	start_trace
	cat $living/call >/dev/null
	stop_trace $tracing
	[ "$(traced run_call)" -gt 0 ]
}

calls_leave_none() { ! calls_leave_traces; }
calls_hit_probe() { calls_leave_traces; [ "$(traced heki_probe)" -gt 0 ]; }

# Reading "call" calls run_call().
test_module_tracer() {
	check "functions of a module can be traced" grep -q '^run_call \[heki_living\]$' $tracing/available_filter_functions
	check "filter a function of a module" filter 'run_call:mod:heki_living'
	check "function tracer, a function of a module" tracer function
	check "it leaves traces" calls_leave_traces
	check "function tracer off, a module" tracer nop
	check "it leaves none" calls_leave_none
	check "a probe where ftrace is, in a module" put 'p:heki_probe heki_living:run_call' $tracing/kprobe_events
	check "the module's probe is on" put 1 $tracing/events/kprobes/heki_probe/enable
	check "the module's probe leaves traces" calls_hit_probe
	check "the module's probe is off" put 0 $tracing/events/kprobes/heki_probe/enable
	put '' $tracing/kprobe_events
	filter ""
}

# A limit on CPU time turns a static key on; with the last limit it stays so.
test_cgroups() {
	local group=/tmp/cgroup/heki
	mkdir -p /tmp/cgroup
	mount -t cgroup2 cgroup2 /tmp/cgroup
	put "+cpu +cpuset" /tmp/cgroup/cgroup.subtree_control
	mkdir $group
	check "CPU time of a cgroup is limited" put "5000 20000" $group/cpu.max
	(put 0 $group/cgroup.procs; i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done)
	check "and it is accounted" [ "$(sed -n 's/^nr_periods //p' $group/cpu.stat)" -gt 0 ]
	rmdir $group
	umount /tmp/cgroup
}

cpus() { grep -c ^processor /proc/cpuinfo; }

hotplug() {
	local i=0 all
	all=$(cpus)
	while [ $i -lt "$hotplug_rounds" ]; do
		put 0 $cpu && [ "$(cpus)" = $((all - 1)) ] || return 1
		put 1 $cpu && [ "$(cpus)" = "$all" ] || return 1
		i=$((i + 1))
	done
}

# Each attack on a register, by the list, on every CPU; where the CPU lacks it, on none.
pins_held() {
	local pin class other
	while read -r pin class other; do
		case $class in cr | msr | dt) ;; *) continue ;; esac
		/heki/heki_attacks.sh "$pin" >/tmp/attack
		sed 's/^/# /' /tmp/attack
		grep -q -e "^attack: $pin: denied class=$class denials=$(cpus) " -e "^attack: $pin: absent" /tmp/attack ||
			return 1
	done </sys/kernel/debug/heki_attack/list
}

loaded=/tmp/loaded

# load NUMBER: the workload, round by round, until it fails or $loaded is gone.
load() {
	while [ -e $loaded ]; do
		/heki/heki_workload >"/tmp/load.$1" 2>&1 || return 1
	done
}

# under_load COMMAND...: as much load as there are CPUs; fails if that fails.
under_load() {
	local i=0 loads="" each outcome
	touch $loaded
	while [ $i -lt "$(cpus)" ]; do
		load $i &
		loads="$loads $!"
		i=$((i + 1))
	done
	"$@"
	outcome=$?
	rm $loaded
	for each in $loads; do
		wait "$each" || outcome=1
	done
	grep -h '^not ok' /tmp/load.* | sed 's/^/# /'
	return $outcome
}

test_hotplug() {
	if [ ! -e $cpu ]; then
		skip "CPU offline and online" "there is no second CPU"
		return
	fi
	check "CPU offline and online, $hotplug_rounds times, under load" under_load hotplug
	check "pins are held on every CPU" pins_held
}

flips() {
	put 1 "$living/$1" && [ "$(cat "$living/$1")" = 1 ] && put 0 "$living/$1" && [ "$(cat "$living/$1")" = 0 ]
}

no_torn_instruction() {
	put "$race_rounds" $living/race && grep -q "^rounds=$race_rounds runs=[1-9][0-9]* wrong=0$" $living/result
}

test_module() {
	check "a static key of a module" flips key
	check "a static call of a module" flips call
	check "flipped while another CPU runs them, $race_rounds times" no_torn_instruction
}

living_is() { [ "$(cat "$living/$1")" = "$2" ]; }

# The VMM's list has the function that the module probes. Twice, for its slot is used again.
test_probes() {
	local round
	for round in first second; do
		check "a breakpoint of the list, $round time" put 1 $living/probe
		check "it is in the text, $round time" living_is probe_text 1
		check "it is hit, $round time" living_is probe 1
		check "it goes, $round time" put 0 $living/probe
		check "the text is as it was, $round time" living_is probe_text 0
		check "it is hit no more, $round time" living_is probe 0
	done
}

# A probe in the middle of a function needs a breakpoint. Where instructions begin is tried.
refused_probe() {
	local offset=5 error
	while [ $offset -lt 64 ]; do
		error=$( (echo "p:heki_probe vfs_read+$offset" >$tracing/kprobe_events) 2>&1) && return 1
		case $error in
		*"not permitted"*) return 0 ;;
		esac
		offset=$((offset + 1))
	done
	return 1
}

set_foreign() { echo 1 >"$living/foreign_$1"; }

# refused_module COMMAND...: with EPERM, and heki says a word about modules in the log.
refused_module() {
	dmesg -c >/dev/null
	fails_with "not permitted" "$@" && log_has "refused: loading or unloading a module: ."
}

# It was loaded before the seal, so its code may run, and the rest is ftrace.
test_livepatch() {
	check "a live patch that was there at the seal" apply_livepatch
	check "the live patch is in force" soon version_is_patched
	check "the live patch is in force for all tasks" soon transition_is_over
	check "the live patch is taken back" take_livepatch_back
}

# kgdb stops all other CPUs, in a way that emulators are slow at: there is none.
alone() {
	[ ! -e $cpu ] || put 0 $cpu || return 1
	"$@"
	set -- $?
	[ ! -e $cpu ] || put 1 $cpu || return 1
	return "$1"
}

test_kgdb() {
	check "a breakpoint of kgdb, of the list" alone put 1 $living/kgdb
	dmesg -c >/dev/null
	check "a breakpoint of kgdb off the list is refused" alone fails_with "not permitted" set_foreign kgdb
	check "and the log says why kgdb was refused" log_has "refused: sysfs_streq.*breakpoints.*--probes"
}

compiler_off() { [ ! -e /proc/sys/net/core/bpf_jit_enable ] || [ "$(cat /proc/sys/net/core/bpf_jit_enable)" = 0 ]; }

test_refused() {
	check "a probe that needs a breakpoint is refused" refused_probe
	check "and the log says why" log_has "refused: .*breakpoints.*--probes"
	check "a module's probe off the list is refused" fails_with "not permitted" set_foreign probe
	check "functions of heki_guest cannot be traced" [ "$(grep -c '\[heki_guest\]' $tracing/available_filter_functions)" = 0 ]
	check "a module is refused, and the log says why" \
		refused_module insmod "/lib/modules/$(uname -r)/kernel/virt/heki/attack/heki_living.ko"
	check "so is a live patch" \
		refused_module insmod "/lib/modules/$(uname -r)/kernel/virt/heki/attack/heki_livepatch.ko"
	check "so is the end of one" refused_module rmmod heki_living
	check "the compiler of BPF is off" compiler_off
}

# What an attack was refused is no complaint.
test_log() {
	dmesg | grep -v '\[heki_attack\]' | grep -e 'BUG:' -e 'WARNING:' -e 'Oops' -e 'ftrace bug' -e 'refused: .*the host' >/tmp/complaints
	sed 's/^/# /' /tmp/complaints
	check "the kernel does not complain" [ ! -s /tmp/complaints ]
}

echo "TAP version 13"
if ! served "jump labels"; then
	echo "1..0 # SKIP this kernel is not sealed, or the host changes no text"
	exit 4
fi
# Reading the trace takes its time in an emulator.
put 64 $tracing/buffer_size_kb
test_clocksource
test_tracepoints
if served ftrace; then
	check "frozen keys are named before anybody changes them" log_has "heki: frozen by the VMM: init_on_alloc$"
	test_function_tracer
	test_function_graph
	test_trampolines
	test_module_tracer
	test_livepatch
else
	skip "function tracer" "the host has no profile of this kernel"
fi
test_cgroups
test_hotplug
test_module
breakpoints=0
if served breakpoints; then
	breakpoints=1
	test_probes
else
	skip "breakpoints" "the VMM gave the host no list of them"
fi
test_log
test_refused
[ $breakpoints = 0 ] || test_kgdb
finish

#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# What this kernel costs, sealed or not, in lines "figure: WHAT NAME=VALUE...". heki_living
# must be loaded.
#
#   heki_bench.sh bench-off|bench-again|bench-plain|bench-open|bench-sealed
#                                             all; of the first three, which did not opt in, no changes of text
#   heki_bench.sh size-open|size-sealed|large-sealed|modules-sealed
#                                             what depends on the size of memory, and on that of the kernel
#
# A guest whose mode ends in "sealed" seals itself here. At "figure: rest" it rests, so that the
# host can look at KVM's statistics.

tracing=/sys/kernel/tracing
living=/sys/kernel/debug/heki_living

rest() {
	echo "figure: rest name=$1"
	sleep 2
}

# touch_all NAME: has the host map all memory.
touch_all() { echo "figure: touch name=$1 $(cat $living/touch)"; }

# change NAME ROUNDS FILE VALUE...: what came since the rest before is this change's.
change() {
	heki_bench "$@"
	rest "$1"
}

# In the first round of each, memory and caches get used to it.
text() {
	echo 64 >$tracing/buffer_size_kb
	heki_bench warm-up 2 $living/key 1 $living/key 0 >/dev/null
	rest warm-up
	change static-key 50 $living/key 1 $living/key 0
	change static-call 50 $living/call 1 $living/call 0
	change sched-tracepoints 1 $tracing/events/sched/enable 1 $tracing/events/sched/enable 0
	echo vfs_read >$tracing/set_ftrace_filter
	change function-tracer-one 1 $tracing/current_tracer function $tracing/current_tracer nop
	echo >$tracing/set_ftrace_filter
	echo 0 >$tracing/tracing_on
	change function-tracer-all 1 $tracing/current_tracer function $tracing/current_tracer nop
}

heki_loops boot
# Where a process has its memory decides how many page tables it takes to copy it.
echo 0 >/proc/sys/kernel/randomize_va_space
case $1 in modules-*) modprobe -a kvm heki_attack ;; esac
rest booted
touch_all first
rest touched
case $1 in *-sealed) heki_loops run seal modprobe heki_guest ;; esac
rest sealed
touch_all again
rest again
touch_all mapped
case $1 in bench-*) ;; *) exit ;; esac

case $1 in *-sealed) echo "figure: denial $(cat $living/denial)" ;; esac
rest begin
heki_loops
rest end
case $1 in *-open | *-sealed) text ;; esac

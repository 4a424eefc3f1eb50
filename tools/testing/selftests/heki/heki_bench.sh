#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# What changes of the kernel's own text cost, in lines "bench: NAME ticks=N".
# heki_living must be loaded. Reads nothing of whether the kernel is sealed. Between
# "exits: begin" and "exits: end" it changes no text: there the host counts exits.

tracing=/sys/kernel/tracing
living=/sys/kernel/debug/heki_living

echo 64 >$tracing/buffer_size_kb
# The first round is for the caches.
heki_bench warm-up 2 $living/key 1 $living/key 0 >/dev/null
heki_bench static-key 50 $living/key 1 $living/key 0
heki_bench static-call 50 $living/call 1 $living/call 0
heki_bench sched-tracepoints 2 $tracing/events/sched/enable 1 $tracing/events/sched/enable 0
echo vfs_read >$tracing/set_ftrace_filter
heki_bench function-tracer-one 2 $tracing/current_tracer function $tracing/current_tracer nop
echo >$tracing/set_ftrace_filter
echo 0 >$tracing/tracing_on
heki_bench function-tracer-all 1 $tracing/current_tracer function $tracing/current_tracer nop

heki_workload >/dev/null
echo "exits: begin"
for round in 1 2 3 4; do
	heki_workload >/dev/null || echo "bench: the workload failed in round $round"
done
echo "exits: end"

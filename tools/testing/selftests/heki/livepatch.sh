# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=dash
#
# The live patch of heki_livepatch, for the scripts beside this one, which source it.

livepatch=/sys/kernel/livepatch/heki_livepatch

# Fails with the kernel's word.
apply_livepatch() { echo 1 >/sys/kernel/debug/heki_livepatch; }
version_is_patched() { [ "$(cat /proc/version)" = patched ]; }
transition_is_over() { [ "$(cat $livepatch/transition)" = 0 ]; }

# take_livepatch_back: no task runs it any more, and what it changed is as it was.
take_livepatch_back() {
	echo 0 >$livepatch/enabled && soon livepatch_is_gone && ! version_is_patched
}

livepatch_is_gone() { [ ! -e $livepatch ]; }

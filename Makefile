# SPDX-License-Identifier: GPL-2.0
#
# The verbs of the project; each is a script in scripts/, which says more.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
run := @scripts/

.PHONY: help demo test test-debug attack bench check-tools setup source prepare kernel kernel-builtin vmm \
	initrd kunit selftest shell cargo-test fuzz apply refresh check-overlay clean distclean

help:
	@echo 'make demo            build what is missing, boot, attack, print the table'
	@echo 'make test            the whole suite; last line: N passed, N failed, N skipped'
	@echo
	@echo 'make attack          every attack on both emulators, and the table of what came of them'
	@echo 'make test-debug      the suites on a host with KASAN, lockdep, kmemleak and the like (SVM)'
	@echo 'make bench           what a seal costs: exits, instructions, page tables, memory; on Bochs into README, too'
	@echo
	@echo 'make check-tools     each tool with its version and how to get it'
	@echo 'make setup           install what is missing (Debian packages need root or sudo)'
	@echo 'make source          get and check the Linux source (KSRC=/path: your own tree)'
	@echo 'make prepare         Linux + overlay + patches, the tree that is built'
	@echo 'make kernel          build it, KVM as modules'
	@echo 'make kernel-builtin  build it with KVM built in (compiled and linked only)'
	@echo 'make vmm             build heki-vmm and hekictl'
	@echo 'make initrd          pack the initial RAM disks'
	@echo
	@echo 'make kunit           KUnit suites of the host kernel'
	@echo 'make selftest        KVM selftests (ONLY=name: those that begin so)'
	@echo 'make shell           a shell on the emulated host'
	@echo 'make cargo-test      unit and property tests of the pure crates and the tools'
	@echo 'make fuzz            libFuzzer on what the host reads of guests and VMMs (HEKI_SECONDS=N each)'
	@echo
	@echo 'make apply KDIR=DIR  put the whole into a Linux 7.3 tree of yours, as a branch'
	@echo 'make refresh         take edits of patched files in the built tree into the queue'
	@echo 'make check-overlay   lint: patches, overlay, unsafe Rust, scripts'
	@echo 'make clean           remove build results; make distclean: the whole cache'
	@echo
	@echo 'HEKI_EMULATOR=bochs|qemu|kvm  where to run (default: kvm on a patched host, else bochs)'
	@echo 'HEKI_CACHE=DIR                downloads and build results (default: ~/.cache/heki)'
	@echo 'HEKI_JOBS=N                   parallel jobs'
	@echo 'HEKI_HOST=debug|plain         with shell and selftest: the emulated host of test-debug, or one without Heki'

demo test test-debug attack bench fuzz prepare source apply refresh check-overlay vmm kernel check-tools:
	$(run)$@

setup:
	$(run)setup packages
	@scripts/stage 'source: scripts/source' 'bindgen: scripts/setup bindgen' 'emulators: scripts/setup emulators'
	@scripts/stage 'rust-src: scripts/setup rust-src'

kernel-builtin:
	$(run)kernel builtin

initrd:
	$(run)build test

kunit:
	$(run)build test
	$(run)run test load kunit

selftest:
	$(run)build test
	@HEKI_CMDLINE="heki.only=$(ONLY)" HEKI_ONLY="$(ONLY)" scripts/run test load kvm

shell:
	$(run)build test
	$(run)run test load shell

cargo-test:
	cargo test --locked

clean:
	$(run)clean

distclean:
	$(run)clean all

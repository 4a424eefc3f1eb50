# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# The tools that build the kernel: which ones, their versions, the make command.
# Sourced after env.sh. Finding a tool is here, complaining about it is in check-tools.

min_clang=17
min_rustc=1.85.0
min_bindgen=0.71.1
bindgen_version=0.73.2		# what setup builds where the system has none

PATH=$HEKI_CACHE/cargo/bin:$PATH:/usr/sbin:/sbin
[[ ! -d $HEKI_CACHE/rustup ]] || PATH=$HEKI_CACHE/rustup/bin:$PATH

# have_all NAME...: are all of these on the path?
have_all() {
	local name
	for name in "$@"; do
		command -v "$name" >/dev/null || return 1
	done
}

# max_clang BINDGEN: the newest clang that this version of bindgen can read with. From version 22 on,
# one before 0.72.1 loses the fields of every struct that was declared before it was defined.
max_clang() {
	if [[ -n $1 ]] && ! version_ge "$1" 0.72.1; then
		echo 21
	else
		echo 999
	fi
}

# find_llvm MAX: the newest complete clang, lld and llvm up to that version; "-22" for clang-22, "" for clang.
find_llvm() {
	local nn
	while read -r nn; do
		if [[ $nn -ge $min_clang && $nn -le $1 ]] && have_all "ld.lld-$nn" "llvm-ar-$nn" "llvm-objcopy-$nn"; then
			echo "-$nn"
			return
		fi
	done < <(compgen -c clang- | sed -n 's/^clang-\([0-9]*\)$/\1/p' | sort -urn)
	have_all clang ld.lld llvm-ar llvm-objcopy || return 1
	nn=$(clang -dumpversion | cut -d. -f1)
	[[ $nn -ge $min_clang && $nn -le $1 ]]
}

rustc_version() { rustc --version 2>/dev/null | cut -d' ' -f2; }
bindgen_found() { bindgen --version 2>/dev/null | cut -d' ' -f2; }

# find_rust_src: the standard library's source of exactly this rustc.
find_rust_src() {
	local version dir
	version=$(rustc_version)
	for dir in "${RUST_LIB_SRC:-/nonexistent}" "$(rustc --print sysroot)/lib/rustlib/src/rust/library" \
		"/usr/src/rustc-$version/library" "$HEKI_CACHE/rust-src/usr/src/rustc-$version/library"; do
		if [[ -f $dir/core/src/lib.rs ]]; then
			echo "$dir"
			return
		fi
	done
	return 1
}

# cached_cc: the compiler behind ccache, which does not see what assembly takes in with .incbin
# (the image that bzImage carries) and would give back that of another build.
cached_cc() {
	mkdir -p "$HEKI_CACHE/bin"
	cat >"$HEKI_CACHE/bin/cc.new" <<-EOF
		#!/bin/sh
		for last; do :; done
		case \$last in
		*.S) exec $clang "\$@" ;;
		*) exec ccache $clang "\$@" ;;
		esac
	EOF
	chmod +x "$HEKI_CACHE/bin/cc.new"
	mv "$HEKI_CACHE/bin/cc.new" "$HEKI_CACHE/bin/cc"
	echo "$HEKI_CACHE/bin/cc"
}

# use_toolchain: set kmake, the command that builds the kernel, clang and objcopy; or say what is missing.
use_toolchain() {
	local max llvm rust_src cc
	max=$(max_clang "$(bindgen_found)")
	llvm=$(find_llvm "$max") ||
		die "no clang, lld and llvm of version $min_clang or newer that goes with bindgen $(bindgen_found): see 'make check-tools'"
	rust_src=$(find_rust_src) || die "no rust-src for rustc $(rustc_version): see 'make check-tools'"
	clang=clang$llvm
	objcopy=llvm-objcopy$llvm
	cc=$clang
	! command -v ccache >/dev/null || cc=$(cached_cc)
	[[ -z $llvm ]] || export LIBCLANG_PATH=${LIBCLANG_PATH:-/usr/lib/llvm$llvm/lib}
	toolchain_id="$("$clang" --version | head -n1), $(rustc --version), bindgen $(bindgen_found), $rust_src"
	# Variables of an outer make must not reach the kernel's.
	unset MAKEFLAGS MAKELEVEL MFLAGS
	# A cold build pays for no second run of the preprocessor.
	export CCACHE_DEPEND=1
	kmake=(make -C "$tree_dir" ARCH=x86 "LLVM=${llvm:-1}" "CC=$cc" "RUST_LIB_SRC=$rust_src"
		KBUILD_BUILD_USER=heki KBUILD_BUILD_HOST=heki KBUILD_BUILD_TIMESTAMP=1970-01-01 -j"$HEKI_JOBS")
}

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

# find_llvm: the newest complete clang, lld and llvm; "-22" for clang-22, "" for clang.
find_llvm() {
	local nn
	while read -r nn; do
		if [[ $nn -ge $min_clang ]] && command -v "ld.lld-$nn" "llvm-ar-$nn" "llvm-objcopy-$nn" >/dev/null; then
			echo "-$nn"
			return
		fi
	done < <(compgen -c clang- | sed -n 's/^clang-\([0-9]*\)$/\1/p' | sort -urn)
	command -v clang ld.lld llvm-ar llvm-objcopy >/dev/null || return 1
	[[ $(clang -dumpversion | cut -d. -f1) -ge $min_clang ]]
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

# use_toolchain: set kmake, the command that builds the kernel, or say what is missing.
use_toolchain() {
	local llvm rust_src cc
	llvm=$(find_llvm) || die "no clang, lld and llvm of version $min_clang or newer: see 'make check-tools'"
	rust_src=$(find_rust_src) || die "no rust-src for rustc $(rustc_version): see 'make check-tools'"
	cc=clang$llvm
	! command -v ccache >/dev/null || cc="ccache $cc"
	[[ -z $llvm ]] || export LIBCLANG_PATH=${LIBCLANG_PATH:-/usr/lib/llvm$llvm/lib}
	toolchain_id="$("clang$llvm" --version | head -n1), $(rustc --version), bindgen $(bindgen_found), $rust_src"
	# Variables of an outer make must not reach the kernel's.
	unset MAKEFLAGS MAKELEVEL MFLAGS
	# A cold build pays for no second run of the preprocessor.
	export CCACHE_DEPEND=1
	kmake=(make -C "$tree_dir" ARCH=x86 "LLVM=${llvm:-1}" "CC=$cc" "RUST_LIB_SRC=$rust_src"
		KBUILD_BUILD_USER=heki KBUILD_BUILD_HOST=heki KBUILD_BUILD_TIMESTAMP=1970-01-01 -j"$HEKI_JOBS")
}

# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# Where things are and how to speak: paths of the cache, messages, stamps.
# Sourced first by every other script here; runs nothing by itself.

set -euo pipefail

HEKI_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HEKI_CACHE=${HEKI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/heki}
HEKI_JOBS=${HEKI_JOBS:-$(nproc)}

dl_dir=$HEKI_CACHE/dl			# downloads, each checked before it gets its name
src_dir=$HEKI_CACHE/src			# Linux as it came
tree_dir=$HEKI_CACHE/tree		# Linux with the overlay and the patches: what is built
build_dir=$HEKI_CACHE/build		# its objects, KVM as modules
builtin_dir=$HEKI_CACHE/build-builtin	# the same with KVM built in
debug_dir=$HEKI_CACHE/build-debug	# KVM as modules, with all that finds errors
plain_dir=$HEKI_CACHE/build-plain	# KVM as modules, without CONFIG_KVM_HEKI
modules_dir=$HEKI_CACHE/modules		# installed modules
debug_modules_dir=$HEKI_CACHE/modules-debug
plain_modules_dir=$HEKI_CACHE/modules-plain
out_dir=$HEKI_CACHE/out			# initrds, ISO images, the VMM
log_dir=$HEKI_CACHE/log
stamp_dir=$HEKI_CACHE/stamp

patch_dir=$HEKI_ROOT/patches/linux-7.3
attack_table=$HEKI_ROOT/tools/testing/selftests/heki/attacks.toml
# Folders that mirror the kernel tree; everything else here is the project's own.
overlay_dirs=(Documentation arch include rust tools/testing virt)
config_names=(heki_host.config heki_guest.config heki_test.config)

mkdir -p "$dl_dir" "$out_dir" "$log_dir" "$stamp_dir"

# lock NAME: one at a time, until this script ends; a second one waits.
lock() {
	exec {lock_fd}>"$HEKI_CACHE/.lock-$1"
	flock "$lock_fd"
}

note() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { printf '%s: error: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# The emulated host runs the kernel of its guests or, with HEKI_HOST=debug, the one that finds errors, or, with
# HEKI_HOST=plain, one whose KVM has no Heki.
case ${HEKI_HOST:-} in
"") host_dir=$build_dir host_modules_dir=$modules_dir host_memory=${HEKI_MEMORY:-1024} host_initrd_suffix= ;;
debug) host_dir=$debug_dir host_modules_dir=$debug_modules_dir host_memory=${HEKI_MEMORY:-2048} host_initrd_suffix=-debug ;;
plain) host_dir=$plain_dir host_modules_dir=$plain_modules_dir host_memory=${HEKI_MEMORY:-1024} host_initrd_suffix=-plain ;;
*) die "HEKI_HOST is debug, plain or not set, not $HEKI_HOST" ;;
esac

# clock SECONDS: as minutes and seconds.
clock() { printf '%d:%02d' "$(($1 / 60))" "$(($1 % 60))"; }

# version_ge A B: is version A at least B?
version_ge() { [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n1) == "$2" ]]; }

# stamp_ok NAME VALUE: was stage NAME last finished with these inputs?
stamp_ok() { [[ -f $stamp_dir/$1 && $(<"$stamp_dir/$1") == "$2" ]]; }
stamp_set() { printf '%s\n' "$2" >"$stamp_dir/$1.new" && mv "$stamp_dir/$1.new" "$stamp_dir/$1"; }
stamp_clear() { rm -f "$stamp_dir/$1"; }

# sum_of PATH...: one checksum over the names and contents of files and folders.
sum_of() {
	find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum | sha256sum | cut -d' ' -f1
}

# is_git_tree DIR: is it the top of a git tree? One that git cannot read is an error.
is_git_tree() {
	local top
	[[ -e $1/.git ]] || return 1
	top=$(git -C "$1" rev-parse --show-toplevel) || die "git cannot read $1; see its message above"
	[[ $top == "$(cd "$1" && pwd -P)" ]]
}

# overlay_files: files of the overlay, by their name in the kernel tree.
overlay_files() {
	local dirs=() dir
	for dir in "${overlay_dirs[@]}"; do
		[[ ! -d $HEKI_ROOT/$dir ]] || dirs+=("$dir")
	done
	(cd "$HEKI_ROOT" && find "${dirs[@]}" -name target -prune -o -type f ! -name '*.orig' ! -name '*.rej' ! -name '*~' ! -name 'Cargo.lock' -print | LC_ALL=C sort)
}

# heki_attacks ARG...: the tool that reads the table of attacks; it takes whole paths.
heki_attacks() {
	(cd "$HEKI_ROOT" &&
		cargo run --quiet --locked --release --package heki-attacks --target-dir "$HEKI_CACHE/target" -- "$@")
}

# patch_names: the queue in its order.
patch_names() {
	[[ -f $patch_dir/series ]] || return 0
	sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$patch_dir/series"
}

# patched_files PATCH...: files that the patches touch, by their name in the kernel tree.
patched_files() { sed -n 's,^+++ b/\([^[:space:]]*\).*,\1,p' "$@" | LC_ALL=C sort -u; }

# patch_in DIR PATCH: apply it there without fuzz, or say which hunk of which file does not fit.
patch_in() {
	local said
	said=$(patch -d "$1" -p1 -F0 -f -r - --no-backup-if-mismatch <"$patch_dir/$2" 2>&1) ||
		{ printf '%s\n' "$said" >&2; return 1; }
}

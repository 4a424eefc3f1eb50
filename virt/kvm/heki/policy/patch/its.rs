// SPDX-License-Identifier: GPL-2.0

//! Pages of thunks for indirect branches, which Linux makes where the CPU has the bug ITS.
//!
//! Such a thunk jumps to where a register points, from the upper half of a cache line; with FineIBT
//! in its paranoid form the end of the check comes before the jump. Between thunks is INT3. Layout:
//! `its_allocate_thunk()` and `its_init_thunk()` of `arch/x86/kernel/alternative.c`.
//! Neighbours: [`trampoline`](super::trampoline) judges the content of pages and asks. Locks: none.

use super::insn::INT3;

/// UDB, and a JNE to it, which end a check of FineIBT.
const CHECK: [u8; 3] = [0xd6, 0x75, 0xfd];
/// REX.B: the register is R8 or above.
const REX_B: u8 = 0x41;
/// A near branch whose target the next byte names.
const GROUP_5: u8 = 0xff;
/// The bit of an address that tells the half of its cache line.
const UPPER_HALF: usize = 32;

/// Whether `page`, which begins at a multiple of a cache line, holds nothing but thunks and INT3.
pub fn is_thunks(page: &[u8]) -> bool {
    let mut rest = page;
    while let [first, tail @ ..] = rest {
        let at = page.len().saturating_sub(rest.len());
        rest = match *first {
            INT3 => tail,
            _ => match after_thunk(at, rest) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
    true
}

/// What follows the thunk with which `bytes`, `at` in the page, begin.
fn after_thunk(at: usize, bytes: &[u8]) -> Option<&[u8]> {
    let jump = bytes.strip_prefix(&CHECK).unwrap_or(bytes);
    let jump = match jump.split_first() {
        Some((&REX_B, jump)) => jump,
        _ => jump,
    };
    let [GROUP_5, 0xe0..=0xe7, INT3, rest @ ..] = jump else {
        return None;
    };
    // Where the branch ends, before its INT3.
    let len = bytes.len().checked_sub(rest.len())?.checked_sub(2)?;
    let end = at.checked_add(len)?;
    (at & end & UPPER_HALF != 0).then_some(rest)
}

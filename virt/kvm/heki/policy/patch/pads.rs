// SPDX-License-Identifier: GPL-2.0

//! Pads in front of functions, where Linux counts the depth of calls (`retbleed=stuff`).
//!
//! A pad is the template of the guest, made to reach the same memory, right in front of a function. It
//! is written where NOPs are, when the first static call goes to that function, and never taken away:
//! `patch_dest()` of `arch/x86/kernel/callthunks.c`. A static call then goes to the pad instead.
//! Neighbours: [`rules`](super::rules), [`sites`](super::sites). Locks: none.

use super::{
    super::abi,
    kind_of,
    target,
    trampoline::relocate,
    Denied,
    Env,
    Text, //
};

/// The longest template, in bytes.
const MAX_BYTES: usize = 14;
const NOP: u8 = 0x90;

/// Bytes of a pad, `None` if this kernel has none, or some that are not served.
pub fn len(env: &Env<'_>) -> Option<u64> {
    let len = env.areas.get(abi::HEKI_AREA_CALL_DEPTH)?.len;
    let longer_than_an_instruction = u64::from(abi::HEKI_MAX_INSN) < len;
    (longer_than_an_instruction && len <= MAX_BYTES as u64).then_some(len)
}

/// The function in front of which there is a pad at `va`, `None` if there is none.
pub fn function(va: u64, env: &Env<'_>, text: &impl Text) -> Option<u64> {
    let mut room = [0; MAX_BYTES];
    let there = room.get_mut(..usize::try_from(len(env)?).ok()?)?;
    (text.read(va, there) && is_pad(va, there, env, text)).then_some(())?;
    va.checked_add(len(env)?)
}

/// Checks that `old` at `va`, which are NOPs, become a pad.
///
/// # Errors
///
/// Why it is denied.
pub fn check(
    va: u64,
    old: &[u8],
    new: &[u8],
    env: &Env<'_>,
    text: &impl Text,
) -> Result<(), Denied> {
    if !old.iter().all(|&byte| byte == NOP) || !is_pad(va, new, env, text) {
        return Err(Denied::Form);
    }
    let len = len(env).ok_or(Denied::Form)?;
    let in_text = matches!(
        kind_of(text, va, len),
        Some(abi::HEKI_KIND_TEXT | abi::HEKI_KIND_MODULE_TEXT)
    );
    let function = va.checked_add(len).filter(|_| in_text);
    match function {
        Some(function) if target::is_function(function, 0, env, text) => Ok(()),
        _ => Err(Denied::Unlisted),
    }
}

/// Whether `bytes` are what a pad at `va` holds.
fn is_pad(va: u64, bytes: &[u8], env: &Env<'_>, text: &impl Text) -> bool {
    let mut room = [0; MAX_BYTES];
    let template = env.areas.va(abi::HEKI_AREA_CALL_DEPTH);
    match (template, room.get_mut(..bytes.len())) {
        (Some(from), Some(copy)) => {
            text.read(from, copy) && relocate(from, va, copy) && bytes == copy
        }
        _ => false,
    }
}

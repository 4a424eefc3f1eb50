// SPDX-License-Identifier: GPL-2.0

//! Breakpoints, where the VMM's list allows them: INT3 in the text, and the copy of the instruction.
//!
//! What stands at an address of the list is kept at the seal: nothing else than INT3 ever replaces it,
//! and nothing else replaces the INT3. Linux runs the instruction out of line then, in a slot of a
//! page that holds nothing else (`arch_copy_kprobe()` of `arch/x86/kernel/kprobes/core.c`): a copy that
//! reaches the same memory, and behind it INT3 or a jump back. Slots begin at multiples of their
//! length and change as a whole, so that each is always all INT3 or such a copy.
//! Neighbours: [`length`](super::length) for instructions, [`rules`](super::rules) ask. Locks: none.

use super::{
    super::{
        abi,
        map::PAGE_SHIFT, //
    },
    insn::{
        Insn,
        INT3, //
    },
    kind_of,
    length::{
        self,
        Copied,
        Shape, //
    },
    profile::CALL_BYTES,
    read,
    sites,
    target::ENDBR64,
    Env,
    Text, //
};

/// Bytes of a slot, and of the longest instruction.
pub const SLOT_BYTES: usize = abi::HEKI_SLOT_BYTES as usize;
/// The bits of an address below a page.
const PAGE_OFFSET: u64 = (1 << PAGE_SHIFT) - 1;
/// How far from the begin of its function a breakpoint may be, in bytes: all before is decoded.
const MAX_DISTANCE: u64 = 4096;
/// Bytes of the jump behind a copy.
const JUMP_BYTES: usize = 5;

/// An address of the list and the instruction there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    va: u64,
    code: [u8; SLOT_BYTES],
    shape: Shape,
}

impl Probe {
    /// What a breakpoint at `va`, of the VMM's list, is allowed to replace. With `ENDBR64` there it
    /// is what comes behind, as in Linux.
    ///
    /// `None` where none can be: no instruction begins there, something else changes or copies it, or
    /// it is not known. `env` has all sites.
    pub fn find(va: u64, env: &Env<'_>, text: &impl Text) -> Option<Self> {
        let va = match read(text, va) {
            Some(ENDBR64) => va.checked_add(ENDBR64.len() as u64)?,
            _ => va,
        };
        let code = read(text, va)?;
        let shape = length::shape(&code).filter(|shape| shape.copied != Copied::Trap)?;
        let len = u64::try_from(shape.len).ok()?;
        let end = va.checked_add(len)?;
        let is_text = kind_of(text, va, len) == Some(abi::HEKI_KIND_TEXT);
        let good = is_text && !is_taken(va, end, env) && begins(va, env, text);
        good.then_some(Self { va, code, shape })
    }

    /// The probe of a saved state, `None` if [`Self::find`] makes none such.
    pub(crate) fn restore(saved: &abi::Probe) -> Option<Self> {
        let (code, rest) = saved.code.split_first_chunk()?;
        let shape = length::shape(code).filter(|shape| shape.copied != Copied::Trap)?;
        let end = saved.va.checked_add(u64::try_from(shape.len).ok()?);
        let good = end.is_some() && rest.iter().all(|&byte| byte == 0);
        good.then_some(Self {
            va: saved.va,
            code: *code,
            shape,
        })
    }

    /// The probe as [`Self::restore`] takes it.
    pub(crate) fn save(&self) -> abi::Probe {
        let mut code = [0; 16];
        for (to, from) in code.iter_mut().zip(self.code) {
            *to = from;
        }
        abi::Probe { va: self.va, code }
    }

    /// Its address.
    pub const fn va(&self) -> u64 {
        self.va
    }

    /// Whether `byte` may stand there: the one that did at the seal, or INT3.
    pub fn admits(&self, byte: u8) -> bool {
        byte == INT3 || self.code.first() == Some(&byte)
    }

    /// Whether `slot` at `va` is the instruction's copy.
    pub fn is_copy(&self, va: u64, slot: &[u8; SLOT_BYTES]) -> bool {
        let Some((copy, tail)) = slot.split_at_checked(self.shape.len) else {
            return false;
        };
        let behind = |va: u64| va.checked_add(u64::try_from(self.shape.len).ok()?);
        let (Some(end), Some(next)) = (behind(va), behind(self.va)) else {
            return false;
        };
        self.shape.copied == Copied::Same
            && self.moved_to(va).is_some_and(|code| code.starts_with(copy))
            && is_tail(tail, end, next)
    }

    /// The instruction as it must be at `va` to reach the same memory, `None` if it cannot.
    fn moved_to(&self, va: u64) -> Option<[u8; SLOT_BYTES]> {
        let mut code = self.code;
        if let Some(at) = self.shape.distance {
            let distance = code.get_mut(at..)?.first_chunk_mut()?;
            let moved = i64::try_from(i128::from(self.va).checked_sub(va.into())?).ok()?;
            let now = i64::from(i32::from_le_bytes(*distance)).checked_add(moved)?;
            *distance = i32::try_from(now).ok()?.to_le_bytes();
        }
        Some(code)
    }
}

/// Whether `tail`, at `va` behind a copy, ends it: with INT3, or a jump to `next`.
fn is_tail(tail: &[u8], va: u64, next: u64) -> bool {
    let is_int3 = |bytes: &[u8]| bytes.iter().all(|&byte| byte == INT3);
    match tail.split_at_checked(JUMP_BYTES) {
        Some((jump, rest)) if Insn::decode(va, jump) == Some(Insn::Jump(next)) => is_int3(rest),
        _ => !tail.is_empty() && is_int3(tail),
    }
}

/// Whether another rule changes, or a trampoline copies, one of the bytes from `start` to `end`.
fn is_taken(start: u64, end: u64, env: &Env<'_>) -> bool {
    const CALLS: [u32; 2] = [abi::HEKI_AREA_FTRACE_CALL, abi::HEKI_AREA_FTRACE_REGS_CALL];
    const TEMPLATES: [u32; 2] = [
        abi::HEKI_AREA_FTRACE_CALLER,
        abi::HEKI_AREA_FTRACE_REGS_CALLER,
    ];

    let overlaps = |va: u64, len: u64| va < end && start < va.saturating_add(len);
    let calls = CALLS.into_iter().filter_map(|kind| env.areas.va(kind));
    let mut templates = TEMPLATES.into_iter().filter_map(|kind| env.areas.get(kind));
    // Sites share no byte, so that only the last one can reach so far.
    sites::last_before(env.sites, end).is_some_and(|site| overlaps(site.va, site.len.into()))
        || env
            .profile
            .is_some_and(|profile| profile.has_call_in(start, end))
        || calls.into_iter().any(|va| overlaps(va, CALL_BYTES))
        || templates.any(|area| overlaps(area.va, area.len))
}

/// Whether an instruction begins at `va`, as decoded from the begin of its function.
fn begins(va: u64, env: &Env<'_>, text: &impl Text) -> bool {
    let function = env.profile.and_then(|profile| profile.function_of(va));
    let Some(mut at) = function.filter(|start| va.wrapping_sub(*start) <= MAX_DISTANCE) else {
        return false;
    };
    while at < va {
        let code: Option<[u8; SLOT_BYTES]> = read(text, at);
        let len = code
            .and_then(|code| length::shape(&code))
            .map(|shape| shape.len);
        let next = len.and_then(|len| at.checked_add(u64::try_from(len).ok()?));
        let Some(next) = next.filter(|&next| next > at) else {
            return false;
        };
        at = next;
    }
    at == va
}

/// Brings `probes` into order, for [`lookup`], and returns how many are left, at the front: equal
/// ones count once.
pub fn finish(probes: &mut [Probe]) -> usize {
    super::super::sort::sort_by_key(probes, |probe| probe.va);
    let cells = core::cell::Cell::from_mut(probes).as_slice_of_cells();
    let mut kept = cells.iter();
    let mut last = None;
    for probe in cells.iter().map(core::cell::Cell::get) {
        if last == Some(probe.va) {
            continue;
        }
        last = Some(probe.va);
        if let Some(slot) = kept.next() {
            slot.set(probe);
        }
    }
    cells.len().saturating_sub(kept.len())
}

/// The probe at `va`. `probes` must come from [`finish`].
pub fn lookup(probes: &[Probe], va: u64) -> Option<&Probe> {
    let at = probes.binary_search_by_key(&va, |probe| probe.va).ok()?;
    probes.get(at)
}

/// Whether a slot begins at `va` and ends in the same page.
pub fn is_slot(va: u64) -> bool {
    let offset = va & PAGE_OFFSET;
    let bytes = u64::from(abi::HEKI_SLOT_BYTES);
    offset.checked_rem(bytes) == Some(0) && offset.saturating_add(bytes) <= PAGE_OFFSET
}

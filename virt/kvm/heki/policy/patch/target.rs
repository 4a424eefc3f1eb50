// SPDX-License-Identifier: GPL-2.0

//! Where calls may go: to the beginning of a function, of the right type where types are known.
//!
//! What is known depends on the guest's kernel: the symbols of the VMM's profile, ENDBR64 where a
//! function begins, the hash of its type in front of it (kCFI, FineIBT). All that is known must
//! hold. Where nothing is, only the function that was called at the seal will do.
//! Neighbours: [`rules`](super::rules) and [`trampoline`](super::trampoline) ask. Locks: none.

use super::{
    super::abi,
    insn::INT3,
    read,
    Env,
    Text, //
};

/// How a function begins that may be called by its address.
pub const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// SUB of an immediate from EAX.
const SUB_EAX: u8 = 0x2d;
/// MOV of an immediate to EAX.
const MOV_EAX: u8 = 0xb8;
/// MOV of an immediate to R10D.
const MOV_R10D: [u8; 2] = [0x41, 0xba];
/// NOPs that fill the room in front of a function.
const PADDING: [u8; 8] = [0x90; 8];
/// Functions of kernels with hashes begin at multiples of this many bytes.
const ALIGNMENT: u64 = 16;
/// How far a function is searched for calls that it makes, in bytes.
const BODY: usize = 256;

/// Whether a static call, of the type of the function `exemplar` if that is not zero, may go to
/// `va`.
pub fn is_callee(va: u64, exemplar: u64, env: &Env<'_>, text: &impl Text) -> bool {
    const SPECIAL: [u32; 3] = [
        abi::HEKI_AREA_STATIC_RETURN0,
        abi::HEKI_AREA_WARN_TRAP,
        abi::HEKI_AREA_SPIN_UNLOCK,
    ];
    let special = SPECIAL.iter().any(|&kind| env.areas.is(kind, va));
    // Stands in for functions of every type, so it says nothing of theirs.
    let stand_in = env.areas.is(abi::HEKI_AREA_STATIC_RETURN0, exemplar);
    let exemplar = if stand_in { 0 } else { exemplar };
    special || is_function(va, exemplar, env, text)
}

/// Whether ftrace may call the tracer `va`.
pub fn is_tracer(va: u64, env: &Env<'_>, text: &impl Text) -> bool {
    let exemplar = env.areas.va(abi::HEKI_AREA_FTRACE_STUB).unwrap_or(0);
    env.areas.is(abi::HEKI_AREA_FTRACE_LIST, va) || is_function(va, exemplar, env, text)
}

/// Whether a function begins at `va`, of the type of `exemplar` if that is not zero.
pub fn is_function(va: u64, exemplar: u64, env: &Env<'_>, text: &impl Text) -> bool {
    let in_core = match text.kind(va) {
        Some(abi::HEKI_KIND_TEXT) => true,
        Some(abi::HEKI_KIND_MODULE_TEXT) => false,
        _ => return false,
    };
    if va == exemplar {
        return true;
    }

    let symbol = env
        .profile
        .filter(|_| in_core)
        .map(|profile| profile.is_function(va));
    let endbr = env
        .areas
        .va(abi::HEKI_AREA_ENDBR)
        .map(|_| read(text, va) == Some(ENDBR64));
    let same_type = Type::of(exemplar, env, text)
        .map(|wanted| Type::of(va, env, text).is_some_and(|found| wanted.admits(found, text)));
    let known = [symbol, endbr, same_type];
    known.contains(&Some(true)) && !known.contains(&Some(false))
}

/// The type of a function, as the compiler wrote it in front of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Type {
    function: u64,
    opcode: u8,
    hash: u32,
}

impl Type {
    /// The type of the function at `va`, `None` if it has none or this kernel knows no types.
    fn of(va: u64, env: &Env<'_>, text: &impl Text) -> Option<Self> {
        let distance = env.areas.va(abi::HEKI_AREA_CFI_HASH)?;
        let at = va.checked_sub(distance)?.checked_sub(1)?;
        let [opcode, hash @ ..] = read::<5>(text, at)?;
        // The register of the MOV tells the number of arguments.
        matches!(opcode, SUB_EAX | MOV_EAX..=0xbf).then_some(Self {
            function: va,
            opcode,
            hash: u32::from_le_bytes(hash),
        })
    }

    /// Whether a function of type `found` may stand for one of this type.
    ///
    /// A tracepoint's call goes to the function that calls all its probes, or to its only probe.
    /// Those are not quite of one type, probes return nothing; but the one calls the other's type.
    fn admits(self, found: Self, text: &impl Text) -> bool {
        let same = (self.opcode, self.hash) == (found.opcode, found.hash);
        same || self.calls(found, text) || found.calls(self, text)
    }

    /// Whether the function of this type makes calls to functions of type `callee`.
    fn calls(self, callee: Self, text: &impl Text) -> bool {
        if self.function.checked_rem(ALIGNMENT) != Some(0) {
            return false;
        }
        let Some(bytes) = read::<BODY>(text, self.function) else {
            return false;
        };
        let body = body(&bytes);
        let hash = callee.hash.to_le_bytes();
        let negative = callee.hash.wrapping_neg().to_le_bytes();
        match callee.opcode {
            SUB_EAX => follows(body, &[MOV_EAX], hash),
            _ => follows(body, &MOV_R10D, negative),
        }
    }
}

/// The part of `bytes`, which start with a function, that surely belongs to it.
fn body(bytes: &[u8]) -> &[u8] {
    let mut end = bytes.len();
    let fillers = bytes
        .windows(PADDING.len())
        .position(|window| window == PADDING || window.iter().all(|&byte| byte == INT3));
    let preamble = bytes
        .windows(5)
        .skip(1)
        .position(|window| window.starts_with(&ENDBR64) && window.ends_with(&[SUB_EAX]));
    for found in [fillers, preamble].into_iter().flatten() {
        end = end.min(found);
    }
    bytes.get(..end).unwrap_or_default()
}

/// Whether `opcode` and then `hash` come in `body`.
fn follows(body: &[u8], opcode: &[u8], hash: [u8; 4]) -> bool {
    let len = opcode.len().saturating_add(hash.len());
    body.windows(len)
        .any(|window| window.starts_with(opcode) && window.ends_with(&hash))
}

// SPDX-License-Identifier: GPL-2.0

//! The verdict on one changed instruction: is this a place that changes, and one of its forms?
//!
//! Whether the old bytes really stand there is for the host to compare, once nothing runs.
//! Neighbours: [`sites`](super::sites), [`target`](super::target),
//! [`trampoline`](super::trampoline). Locks: none.

use super::{
    super::abi,
    insn::{
        Insn,
        INT3, //
    },
    kind_of,
    pads,
    probes,
    sites::{
        self,
        Rule, //
    },
    target,
    trampoline,
    Denied,
    Env,
    Text, //
};

/// Bytes of a call.
const CALL_BYTES: u64 = 5;

/// Checks one site of a PATCH request.
///
/// # Errors
///
/// Why it is denied.
pub fn check(site: &abi::Site, env: &Env<'_>, text: &impl Text) -> Result<(), Denied> {
    let old = instruction(&site.old, site.len, env)?;
    let new = instruction(&site.new, site.len, env)?;
    match (old, new) {
        ([old], [new]) => return check_breakpoint(site.va, *old, *new, env),
        _ if site.len == u64::from(abi::HEKI_SLOT_BYTES) => {
            return check_slot(site.va, old, new, env, text)
        }
        _ if Some(site.len) == pads::len(env) => return pads::check(site.va, old, new, env, text),
        _ => {}
    }
    let place = Place::find(site.va, site.len, env, text)?;
    let old = Insn::decode(site.va, old).ok_or(Denied::Form)?;
    let new = Insn::decode(site.va, new).ok_or(Denied::Form)?;
    place.check(old, new, env, text)
}

/// The first `len` of `padded`, where the rest is zero.
fn instruction<'a>(padded: &'a [u8; 16], len: u64, env: &Env<'_>) -> Result<&'a [u8], Denied> {
    let longest = u64::from(abi::HEKI_MAX_INSN);
    let is_other = len == u64::from(abi::HEKI_SLOT_BYTES) || Some(len) == pads::len(env);
    let fits = (1..=longest).contains(&len) || is_other;
    let len = usize::try_from(len).ok().filter(|_| fits);
    let len = len.ok_or(Denied::Form)?;
    match padded.split_at_checked(len) {
        Some((bytes, rest)) if rest.iter().all(|&byte| byte == 0) => Ok(bytes),
        _ => Err(Denied::Form),
    }
}

/// Checks a change of one byte at `va`: to INT3, back from it, or to what it is. A kernel asks with
/// the last before it prepares a breakpoint.
fn check_breakpoint(va: u64, old: u8, new: u8, env: &Env<'_>) -> Result<(), Denied> {
    let probe = probes::lookup(env.probes, va).ok_or(Denied::Unlisted)?;
    if probe.admits(old) && probe.admits(new) {
        Ok(())
    } else {
        Err(Denied::Form)
    }
}

/// Checks a change of a whole slot, which is empty or in use as one, to `new`. Other things lie in
/// pages of the pool too.
fn check_slot(
    va: u64,
    old: &[u8],
    new: &[u8],
    env: &Env<'_>,
    text: &impl Text,
) -> Result<(), Denied> {
    if text.kind(va) != Some(abi::HEKI_KIND_POOL) || !probes::is_slot(va) {
        return Err(Denied::Unlisted);
    }
    let is_copy = |bytes: &[u8]| {
        let slot = bytes.first_chunk();
        slot.is_some_and(|slot| env.probes.iter().any(|probe| probe.is_copy(va, slot)))
    };
    let was_slot = old.iter().all(|&byte| byte == INT3) || is_copy(old);
    if was_slot && is_copy(new) {
        Ok(())
    } else {
        Err(Denied::Content)
    }
}

/// A place in sealed text whose instruction may change.
#[derive(Clone, Copy)]
enum Place {
    /// A jump label with this target.
    JumpLabel(u64),
    /// A static call.
    Call { exemplar: u64 },
    /// A static call at the end of a function.
    TailCall { exemplar: u64 },
    /// The call in front of a function that is traced.
    Ftrace,
    /// The call of the tracer, in what ftrace calls.
    Tracer,
}

impl Place {
    /// The place of `len` bytes at `va`.
    fn find(va: u64, len: u64, env: &Env<'_>, text: &impl Text) -> Result<Self, Denied> {
        let kind = kind_of(text, va, len).ok_or(Denied::Unlisted)?;
        if let Some(site) = sites::find(env.sites, va) {
            return match site.rule {
                Rule::Frozen => Err(Denied::Frozen),
                _ if u64::from(site.len) != len => Err(Denied::Form),
                Rule::JumpLabel { target } => Ok(Self::JumpLabel(target)),
                Rule::Ftrace => Ok(Self::Ftrace),
                Rule::StaticCall {
                    tail: false,
                    exemplar,
                } => Ok(Self::Call { exemplar }),
                Rule::StaticCall {
                    tail: true,
                    exemplar,
                } => Ok(Self::TailCall { exemplar }),
            };
        }
        Self::unlisted(va, kind, env, text)
            .filter(|_| len == CALL_BYTES)
            .ok_or(Denied::Unlisted)
    }

    /// The place at `va`, in text of `kind`, that no table of the guest lists.
    fn unlisted(va: u64, kind: u32, env: &Env<'_>, text: &impl Text) -> Option<Self> {
        match kind {
            abi::HEKI_KIND_FTRACE => {
                trampoline::is_tracer_call(va, env, text).then_some(Self::Tracer)
            }
            abi::HEKI_KIND_TEXT if env.profile.is_some_and(|profile| profile.is_call(va)) => {
                Some(Self::Ftrace)
            }
            abi::HEKI_KIND_TEXT
                if env.areas.is(abi::HEKI_AREA_FTRACE_CALL, va)
                    || env.areas.is(abi::HEKI_AREA_FTRACE_REGS_CALL, va) =>
            {
                Some(Self::Tracer)
            }
            _ => None,
        }
    }

    /// Checks that `old` and `new` are forms of this place, and where `new` goes to.
    fn check(self, old: Insn, new: Insn, env: &Env<'_>, text: &impl Text) -> Result<(), Denied> {
        if !self.has_form(old, env) || !self.has_form(new, env) {
            return Err(Denied::Form);
        }
        let callee = |va, exemplar| target::is_callee(va, exemplar, env, text);
        let is = |kind, va| env.areas.is(kind, va);
        let legal = match (self, old, new) {
            (Self::JumpLabel(target), _, Insn::Jump(va)) => va == target,
            (Self::Call { exemplar }, _, Insn::Call(va)) => {
                let function = pads::function(va, env, text);
                callee(function.unwrap_or(va), exemplar)
            }
            (Self::TailCall { exemplar }, _, Insn::Jump(va)) => {
                is(abi::HEKI_AREA_RETURN_THUNK, va) || callee(va, exemplar)
            }
            (
                Self::TailCall { exemplar },
                Insn::Branch { condition, .. },
                Insn::Branch {
                    condition: now,
                    target: va,
                },
            ) => {
                if now != condition {
                    return Err(Denied::Form);
                }
                is(abi::HEKI_AREA_RETURN_THUNK, va)
                    || is(abi::HEKI_AREA_STATIC_RETURN, va)
                    || callee(va, exemplar)
            }
            (Self::Ftrace, _, Insn::Call(va)) => trampoline::is_entry(va, env, text),
            (Self::Tracer, _, Insn::Call(va)) => target::is_tracer(va, env, text),
            _ => true,
        };
        if legal {
            Ok(())
        } else {
            Err(Denied::Target)
        }
    }

    /// Whether `insn` is an instruction of such a place, wherever it goes to.
    fn has_form(self, insn: Insn, env: &Env<'_>) -> bool {
        let given = |kind| env.areas.get(kind).is_some();
        match self {
            Self::JumpLabel(_) => matches!(insn, Insn::Nop | Insn::Jump(_)),
            Self::Call { .. } => match insn {
                Insn::Call(_) | Insn::Nop => true,
                Insn::Zero => given(abi::HEKI_AREA_STATIC_RETURN0),
                Insn::Warn => given(abi::HEKI_AREA_WARN_TRAP),
                Insn::Unlock => given(abi::HEKI_AREA_SPIN_UNLOCK),
                _ => false,
            },
            Self::TailCall { .. } => {
                matches!(insn, Insn::Jump(_) | Insn::Return | Insn::Branch { .. })
            }
            Self::Ftrace => matches!(insn, Insn::Nop | Insn::Call(_)),
            Self::Tracer => matches!(insn, Insn::Call(_)),
        }
    }
}

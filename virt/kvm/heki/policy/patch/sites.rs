// SPDX-License-Identifier: GPL-2.0

//! The sites that Linux lists itself: jump labels, static calls, and ftrace's in modules.
//!
//! Read once, at the seal, from tables in sealed memory and, for trampolines, from the text: an entry
//! is taken if its instruction is in sealed text and has one of the forms that the kernel would write
//! there. What the profile or the guest freezes, by its key or as a trampoline, is kept as such.
//! [`finish`] makes the list that [`rules`](super::rules) search, of sites that are [`Packed`].
//! Neighbours: the host goes through the tables and reads the keys. Locks: none.
//!
//! Layouts are those of `include/linux/jump_label.h` and `include/linux/static_call_types.h`; a
//! table of ftrace has addresses.

use super::{
    super::{
        abi,
        sort::sort_by_key, //
    },
    insn::Insn,
    kind_of,
    pads,
    read,
    trampoline,
    Env,
    Text, //
};

/// Bytes of the trampoline of a static call: an instruction that changes, and UD1.
pub const TRAMPOLINE_BYTES: usize = 8;
/// Trampolines lie at multiples of so many bytes.
const TRAMPOLINE_ALIGNMENT: usize = 4;
/// UD1 with which it ends.
const TRAMPOLINE_UD: [u8; 3] = [0x0f, 0xb9, 0xcc];

/// What an instruction may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// Nothing else: its key must not change.
    #[default]
    Frozen,
    /// A NOP, or a jump to this address.
    JumpLabel {
        /// The address.
        target: u64,
    },
    /// One of the forms of a static call.
    StaticCall {
        /// Whether it is the last thing its function does, a jump.
        tail: bool,
        /// A function of the type that the callee must have, zero if none is known.
        exemplar: u64,
    },
    /// A NOP, or a call of ftrace.
    Ftrace,
}

impl Rule {
    const fn new(class: Class, target: u64) -> Self {
        match class {
            Class::Frozen => Self::Frozen,
            Class::JumpLabel => Self::JumpLabel { target },
            Class::Call => Self::StaticCall {
                tail: false,
                exemplar: target,
            },
            Class::TailCall => Self::StaticCall {
                tail: true,
                exemplar: target,
            },
            Class::Ftrace => Self::Ftrace,
        }
    }

    /// What [`Self::new`] makes it of.
    const fn parts(self) -> (Class, u64) {
        match self {
            Self::Frozen => (Class::Frozen, 0),
            Self::JumpLabel { target } => (Class::JumpLabel, target),
            Self::StaticCall {
                tail: false,
                exemplar,
            } => (Class::Call, exemplar),
            Self::StaticCall {
                tail: true,
                exemplar,
            } => (Class::TailCall, exemplar),
            Self::Ftrace => (Class::Ftrace, 0),
        }
    }
}

/// An instruction that may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Its address.
    pub va: u64,
    /// Its length in bytes.
    pub len: u8,
    /// What it may become.
    pub rule: Rule,
}

impl Site {
    /// The same site, with what the static call's key held at the seal as exemplar, unless that is
    /// zero.
    pub const fn with_exemplar(self, exemplar: u64) -> Self {
        match self.rule {
            Rule::StaticCall { tail, .. } if exemplar != 0 => Self {
                rule: Rule::StaticCall { tail, exemplar },
                ..self
            },
            _ => self,
        }
    }

    pub(crate) const fn end(&self) -> u64 {
        self.va.saturating_add(self.len as u64)
    }
}

/// A rule without its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Frozen,
    JumpLabel,
    Call,
    TailCall,
    Ftrace,
}

impl Class {
    const fn from_abi(rule: u32) -> Option<Self> {
        match rule {
            abi::HEKI_RULE_FROZEN => Some(Self::Frozen),
            abi::HEKI_RULE_JUMP_LABEL => Some(Self::JumpLabel),
            abi::HEKI_RULE_CALL => Some(Self::Call),
            abi::HEKI_RULE_TAIL_CALL => Some(Self::TailCall),
            abi::HEKI_RULE_FTRACE => Some(Self::Ftrace),
            _ => None,
        }
    }

    const fn abi(self) -> u32 {
        match self {
            Self::Frozen => abi::HEKI_RULE_FROZEN,
            Self::JumpLabel => abi::HEKI_RULE_JUMP_LABEL,
            Self::Call => abi::HEKI_RULE_CALL,
            Self::TailCall => abi::HEKI_RULE_TAIL_CALL,
            Self::Ftrace => abi::HEKI_RULE_FTRACE,
        }
    }
}

/// An address whose upper half its lower half tells by its sign.
///
/// The kernel, its modules and all that they call lie in the last 2 GiB of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Near(i32);

impl Near {
    fn new(va: u64) -> Option<Self> {
        i32::try_from(va as i64).ok().map(Self)
    }

    const fn va(self) -> u64 {
        self.0 as u64
    }
}

/// A [`Site`] as the host keeps it: there are thousands, and each VM has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    va: Near,
    target: Near,
    class: Class,
    len: u8,
}

const _: () = assert!(size_of::<Packed>() == 12);

impl Packed {
    /// Packs `site`, `None` if it or where it goes to is not in reach of the kernel.
    pub fn new(site: &Site) -> Option<Self> {
        let (class, target) = site.rule.parts();
        Some(Self {
            va: Near::new(site.va)?,
            target: Near::new(target)?,
            class,
            len: site.len,
        })
    }

    /// The site.
    pub const fn site(&self) -> Site {
        Site {
            va: self.va(),
            len: self.len,
            rule: Rule::new(self.class, self.target.va()),
        }
    }

    /// Its address.
    pub const fn va(&self) -> u64 {
        self.va.va()
    }

    /// The site of a saved state, `None` if there is none such.
    pub(crate) fn restore(saved: &abi::Place) -> Option<Self> {
        let len = u8::try_from(saved.len).ok()?;
        saved.va.checked_add(len.into())?;
        let packed = Self::new(&Site {
            va: saved.va,
            len,
            rule: Rule::new(Class::from_abi(saved.rule)?, saved.target),
        })?;
        let good = packed.target.va() == saved.target && matches!(len, 2 | 5 | 6);
        good.then_some(packed)
    }

    /// The site as [`Self::restore`] takes it.
    pub(crate) const fn save(&self) -> abi::Place {
        abi::Place {
            va: self.va(),
            target: self.target.va(),
            len: self.len as u32,
            rule: self.class.abi(),
        }
    }
}

/// The site that the `struct jump_entry` of these `bytes` at `va` names.
///
/// `None` where nothing is to be changed: the code ran at boot only, or the key is read-only by
/// now; and where no jump label can be.
pub fn jump_entry(bytes: &[u8; 16], va: u64, env: &Env<'_>, text: &impl Text) -> Option<Site> {
    const INIT: i64 = 2;
    const FLAGS: i64 = 3;

    let [c0, c1, c2, c3, t0, t1, t2, t3, key @ ..] = *bytes;
    let key = i64::from_le_bytes(key);
    if key & INIT != 0 {
        return None;
    }
    let code = relative(va, [c0, c1, c2, c3]);
    let target = relative(va.wrapping_add(4), [t0, t1, t2, t3]);
    let key = va.wrapping_add(8).wrapping_add_signed(key & !FLAGS);

    let read_only = env.areas.get(abi::HEKI_AREA_RO_AFTER_INIT);
    if read_only.is_some_and(|area| area.holds(key, 1)) {
        return None;
    }
    let len = jump_label_len(code, target, text)?;
    site(code, len, key, Rule::JumpLabel { target }, env, text)
}

/// The site that the `struct static_call_site` of these `bytes` at `va` names, and the address of
/// its key, whose first word is the function that is called: see [`Site::with_exemplar`].
///
/// `None` where the code ran at boot only, and where no static call can be.
pub fn static_call(
    bytes: &[u8; 8],
    va: u64,
    env: &Env<'_>,
    text: &impl Text,
) -> Option<(Site, u64)> {
    const TAIL: u64 = 1;
    const INIT: u64 = 2;
    const FLAGS: u64 = 3;

    let [a0, a1, a2, a3, key @ ..] = *bytes;
    let flagged = relative(va.wrapping_add(4), key);
    if flagged & INIT != 0 {
        return None;
    }
    let addr = relative(va, [a0, a1, a2, a3]);
    let key = flagged & !FLAGS;
    let tail = flagged & TAIL != 0;

    let (len, insn) = static_call_at(addr, tail, text)?;
    let exemplar = callee(insn, env);
    let exemplar = pads::function(exemplar, env, text).unwrap_or(exemplar);
    let rule = Rule::StaticCall { tail, exemplar };
    Some((site(addr, len, key, rule, env, text)?, key))
}

/// The site of ftrace at the address in these `bytes`, in the text of a module: those of the kernel are
/// in the profile, without which ftrace is not served.
///
/// `None` where the code ran at init only, and where nothing or something else than ftrace's stands.
pub fn ftrace_call(bytes: &[u8; 8], env: &Env<'_>, text: &impl Text) -> Option<Site> {
    let va = u64::from_le_bytes(*bytes);
    env.profile?;
    if kind_of(text, va, 5)? != abi::HEKI_KIND_MODULE_TEXT {
        return None;
    }
    let good = match Insn::decode(va, &read::<5>(text, va)?)? {
        Insn::Nop => true,
        Insn::Call(to) => trampoline::is_entry(to, env, text),
        _ => false,
    };
    good.then_some(Site {
        va,
        len: 5,
        rule: Rule::Ftrace,
    })
}

/// Where a field at `va` points to that holds the distance from itself.
fn relative(va: u64, distance: [u8; 4]) -> u64 {
    va.wrapping_add_signed(i32::from_le_bytes(distance).into())
}

/// The site of `len` bytes at `va`, `None` if that is not the kernel's or a module's text.
fn site(va: u64, len: u8, key: u64, rule: Rule, env: &Env<'_>, text: &impl Text) -> Option<Site> {
    let kind = kind_of(text, va, len.into())?;
    if !matches!(kind, abi::HEKI_KIND_TEXT | abi::HEKI_KIND_MODULE_TEXT) {
        return None;
    }
    let frozen =
        env.areas.is_frozen(key) || env.profile.is_some_and(|profile| profile.is_frozen(key));
    let rule = if frozen { Rule::Frozen } else { rule };
    Some(Site { va, len, rule })
}

/// The length of the jump label at `va`, `None` if none stands there.
fn jump_label_len(va: u64, target: u64, text: &impl Text) -> Option<u8> {
    let fits = |insn| insn == Insn::Nop || insn == Insn::Jump(target);
    let is_label = |bytes: &[u8]| Insn::decode(va, bytes).is_some_and(fits);
    // The last label of a piece of text may have no five bytes.
    let Some(bytes) = read::<5>(text, va) else {
        return is_label(&read::<2>(text, va)?).then_some(2);
    };
    let [first, second, ..] = bytes;
    if is_label(&[first, second]) {
        Some(2)
    } else {
        is_label(&bytes).then_some(5)
    }
}

/// The static call at `va` and its length, `None` if none stands there.
fn static_call_at(va: u64, tail: bool, text: &impl Text) -> Option<(u8, Insn)> {
    let insn = Insn::decode(va, &read::<5>(text, va)?);
    match (tail, insn) {
        (
            false,
            Some(insn @ (Insn::Call(_) | Insn::Nop | Insn::Zero | Insn::Warn | Insn::Unlock)),
        )
        | (true, Some(insn @ (Insn::Jump(_) | Insn::Return))) => Some((5, insn)),
        (true, None) => match Insn::decode(va, &read::<6>(text, va)?) {
            Some(insn @ Insn::Branch { .. }) => Some((6, insn)),
            _ => None,
        },
        _ => None,
    }
}

/// The function that `insn` goes to, zero if it goes to none.
fn callee(insn: Insn, env: &Env<'_>) -> u64 {
    match insn {
        Insn::Call(callee) | Insn::Jump(callee) | Insn::Branch { target: callee, .. }
            if !env.areas.is(abi::HEKI_AREA_RETURN_THUNK, callee)
                && !env.areas.is(abi::HEKI_AREA_STATIC_RETURN, callee) =>
        {
            callee
        }
        _ => 0,
    }
}

/// Where in `chunk`, text that starts at a multiple of four bytes, trampolines of static calls may
/// begin, in bytes.
pub fn trampolines_in(chunk: &[u8]) -> impl Iterator<Item = usize> + '_ {
    // It ends where the word after the one does in which it begins.
    let ends_one = |word: &[u8]| word.ends_with(&TRAMPOLINE_UD);
    let second_words = chunk.chunks_exact(TRAMPOLINE_ALIGNMENT).skip(1);
    second_words
        .enumerate()
        .filter(move |(_, word)| ends_one(word))
        .map(|(index, _)| index.saturating_mul(TRAMPOLINE_ALIGNMENT))
}

/// The site of the trampoline at `va`, `None` if it jumps or returns nowhere.
///
/// No table says whose it is: where it jumps to at the seal tells its type.
pub fn call_trampoline(va: u64, env: &Env<'_>, text: &impl Text) -> Option<Site> {
    let (len @ 5, insn) = static_call_at(va, true, text)? else {
        return None;
    };
    let rule = Rule::StaticCall {
        tail: true,
        exemplar: callee(insn, env),
    };
    site(va, len, va, rule, env, text)
}

/// Brings `sites` into order and returns how many are left, at the front.
///
/// Of equal sites one stays. Of sites that share a byte and are not equal none does: the kernel has
/// no such, and somebody else gains nothing by them.
pub fn finish(sites: &mut [Packed]) -> usize {
    sort_by_key(sites, Packed::va);
    let cells = core::cell::Cell::from_mut(sites).as_slice_of_cells();
    let mut kept = cells.iter();
    let mut rest = cells.iter().map(core::cell::Cell::get).peekable();

    while let Some(first) = rest.next() {
        let mut end = first.site().end();
        let mut alone = true;
        while let Some(next) = rest.next_if(|next| next.va() < end) {
            end = end.max(next.site().end());
            alone &= next == first;
        }
        if !alone {
            continue;
        }
        if let Some(slot) = kept.next() {
            slot.set(first);
        }
    }
    cells.len().saturating_sub(kept.len())
}

/// The site at `va`, if there is one. `sites` must come from [`finish`].
pub fn find(sites: &[Packed], va: u64) -> Option<Site> {
    let at = sites.binary_search_by_key(&va, Packed::va).ok()?;
    sites.get(at).map(Packed::site)
}

/// The last site that begins before `end`, if one does. `sites` must come from [`finish`].
pub fn last_before(sites: &[Packed], end: u64) -> Option<Site> {
    let before = sites.partition_point(|site| site.va() < end);
    sites.get(..before)?.last().map(Packed::site)
}

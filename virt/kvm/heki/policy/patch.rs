// SPDX-License-Identifier: GPL-2.0

//! The PATCH request: which instruction of sealed text may become which other.
//!
//! [`parse`] checks the form of a request, [`rules`] judge one site of it. What they judge by was
//! gathered at the seal: [`areas`] from the guest, [`sites`] from its tables in sealed memory, the
//! [`profile`] of its kernel from the VMM, and [`probes`] from the profile and the text. [`trampoline`] judges the content of whole pages.
//! Nothing here allocates.
//! Neighbours: `abi` for the layout; the host, which reads the guest's memory through [`Text`] and
//! does the change with every vCPU out of the guest. Locks: none.

use zerocopy::{
    FromBytes,
    Unalign, //
};

use super::{
    abi,
    refusal::Refusal,
    request::to_usize, //
};

use areas::Areas;
use probes::Probe;
use profile::Placed;
use sites::Packed;

pub mod areas;
pub mod insn;
pub mod its;
pub mod length;
pub mod pads;
pub mod probes;
pub mod profile;
pub mod rules;
pub mod sites;
pub mod target;
pub mod trampoline;

/// The guest's memory as far as nobody can write it.
pub trait Text {
    /// Reads `out.len()` bytes at `va`; false if one of them is not sealed against writes.
    fn read(&self, va: u64, out: &mut [u8]) -> bool;

    /// `HEKI_KIND_*` of the sealed range around `va` that can run, `None` if there is none.
    fn kind(&self, va: u64) -> Option<u32>;
}

/// What a change is judged by.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The addresses that the guest gave.
    pub areas: &'a Areas,
    /// Jump labels, static calls and ftrace sites of modules, as [`sites::finish`] left them.
    pub sites: &'a [Packed],
    /// Where breakpoints are allowed, as [`probes::finish`] left them.
    pub probes: &'a [Probe],
    /// The profile of the guest's kernel, if the VMM gave one that fits.
    pub profile: Option<Placed<'a>>,
}

/// Why a change, or the content of a page, is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No instruction at this address may change.
    Unlisted,
    /// Its key must not change, says the profile.
    Frozen,
    /// No instruction of this place has such bytes.
    Form,
    /// The instruction is right, but where it goes to is not.
    Target,
    /// Other bytes stand there than the guest says.
    Stale,
    /// The page is neither empty nor an ftrace trampoline, or the slot no copy of an instruction.
    Content,
}

impl Denied {
    /// A short name that traces and scripts can rely on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlisted => "unlisted",
            Self::Frozen => "frozen",
            Self::Form => "form",
            Self::Target => "target",
            Self::Stale => "stale",
            Self::Content => "content",
        }
    }
}

/// Reads `bytes`, all of a PATCH request and nothing else, as far as the header says.
///
/// # Errors
///
/// The first refusal found. The sites are for [`rules::check`].
pub fn parse(bytes: &[u8]) -> Result<&[Unalign<abi::Site>], Refusal> {
    let (header, rest) = abi::Patch::read_from_prefix(bytes).map_err(|_| Refusal::BadLength)?;
    if header.version != abi::HEKI_ABI_VERSION {
        return Err(Refusal::BadVersion);
    }
    if header.nr_sites > abi::HEKI_MAX_PATCHES {
        return Err(Refusal::TooBig);
    }
    if header.nr_sites == 0 {
        return Err(Refusal::Empty);
    }
    let sites: &[Unalign<abi::Site>] =
        <[_]>::ref_from_bytes_with_elems(rest, to_usize(header.nr_sites)?)
            .map_err(|_| Refusal::BadLength)?;
    // What is compared must be what is replaced, so that no two sites share a byte.
    let ascends = |pair: &[Unalign<abi::Site>]| match pair {
        [left, right] => {
            let end = left.get().va.checked_add(left.get().len);
            end.is_some_and(|end| end <= right.get().va)
        }
        _ => true,
    };
    if !sites.windows(2).all(ascends) {
        return Err(Refusal::Overlap);
    }
    Ok(sites)
}

/// The old and the new bytes of a site whose length [`rules::check`] found good.
pub fn instructions(site: &abi::Site) -> (&[u8], &[u8]) {
    let len = usize::try_from(site.len).unwrap_or(0);
    let old = site.old.get(..len).unwrap_or_default();
    (old, site.new.get(..len).unwrap_or_default())
}

/// The kind of the text that the `len` bytes at `va` are, `None` if they are not all text of one
/// kind.
fn kind_of(text: &impl Text, va: u64, len: u64) -> Option<u32> {
    let last = va.checked_add(len.checked_sub(1)?)?;
    text.kind(va).filter(|&kind| text.kind(last) == Some(kind))
}

/// The `N` bytes at `va`, `None` if one of them is not sealed.
fn read<const N: usize>(text: &impl Text, va: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    text.read(va, &mut bytes).then_some(bytes)
}

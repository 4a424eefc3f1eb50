// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the guest's kernel is like, from its own vmlinux: functions, ftrace sites, frozen keys,
//! and where breakpoints are allowed.
//!
//! `profile/elf.rs` reads the file, `profile/freeze.rs` the list of what must not change,
//! `profile/probes.rs` that of breakpoints; `heki.rs` gives the result to the host. All files may be
//! damaged or hostile. Locks: none.

#![deny(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod elf;
mod freeze;
mod list;
mod probes;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use heki_abi::{
    HEKI_ABI_VERSION,
    HEKI_MAX_BUILD_ID,
    HEKI_MAX_PROFILE_ENTRIES, //
};
use object::read::{
    ReadCache,
    ReadRef, //
};
use zerocopy::IntoBytes;

use crate::exit::Error;
use crate::files;

use elf::{
    Image,
    Kind,
    Symbol, //
};
use freeze::Freeze;
use probes::Probes;

const PAGE: u64 = 0x1000;
/// The kernel and its modules share the last 2 GiB of the address space.
const MAX_TEXT: u64 = 1 << 31;
const MAX_ENTRIES: usize = HEKI_MAX_PROFILE_ENTRIES as usize;
const BUILD_ID_BYTES: usize = HEKI_MAX_BUILD_ID as usize;

/// Symbols of functions that nothing may be patched to call: type hashes, padding, trampolines.
const NO_TARGET: [&[u8]; 3] = [b"__cfi_", b"__pfx_", b"__SCT__"];

/// What is wrong with a vmlinux.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it is not an ELF file")]
    NotElf,
    #[error("it is not for x86-64")]
    NotX86,
    #[error("it is not linked; vmlinux is wanted, no object file")]
    NotLinked,
    #[error("it has no symbols; they were stripped, or it is no vmlinux")]
    NoSymbols,
    #[error("it has no symbol {0}; it is no vmlinux")]
    NoSymbol(&'static str),
    #[error("{0} lack their contents; too much was stripped")]
    NoContents(&'static str),
    #[error("{0} are damaged")]
    Damaged(&'static str),
    #[error("its text lies from {:#x} to {:#x}, which is no kernel's", .0.start, .0.end)]
    Text(Range<u64>),
    #[error("its {0} lie too far from its text")]
    TooFar(&'static str),
    #[error("it has more than {MAX_ENTRIES} {0}")]
    TooMany(&'static str),
    #[error("its build ID has {0} bytes, at most {BUILD_ID_BYTES} are possible")]
    BuildId(usize),
}

/// What the host is told of the guest's kernel.
#[derive(Debug)]
pub(crate) struct Profile {
    header: heki_abi::Profile,
    functions: Vec<u32>,
    calls: Vec<u32>,
    frozen: Vec<u32>,
    probes: Vec<u32>,
}

/// Files that say what of the kernel may change.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lists<'a> {
    /// What is frozen; the usual without it.
    pub(crate) freeze: Option<&'a Path>,
    /// Where breakpoints are allowed; nowhere without it.
    pub(crate) probes: Option<&'a Path>,
}

impl Profile {
    /// Reads the kernel's vmlinux, and looks up there what the lists name.
    pub(crate) fn open(vmlinux: &Path, lists: &Lists<'_>) -> Result<Self, Error> {
        let freeze = match lists.freeze {
            Some(path) => Freeze::open(path)?,
            None => Freeze::built_in(),
        };
        let probes = match lists.probes {
            Some(path) => Probes::open(path)?,
            None => Probes::default(),
        };
        let refuse = |flaw| Error::Vmlinux {
            path: vmlinux.to_path_buf(),
            flaw,
        };
        let (file, _) = files::open("vmlinux", vmlinux)?;
        let cache = ReadCache::new(file);
        let kernel = Kernel::parse(&cache).map_err(refuse)?;
        let is_text = |addr| kernel.text.contains(&addr);
        let keys = freeze.find(kernel.image.symbols(), is_text)?;
        let breakpoints = probes.find(kernel.image.symbols(), is_text)?;
        kernel.profile(keys, breakpoints).map_err(refuse)
    }

    /// As the host takes it.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let arrays = [&self.functions, &self.calls, &self.frozen, &self.probes];
        let mut bytes = self.header.as_bytes().to_vec();
        bytes.extend(arrays.into_iter().flatten().flat_map(|at| at.to_le_bytes()));
        bytes
    }
}

/// A kernel's image and where its text lies.
struct Kernel<'data, R> {
    image: Image<'data, R>,
    text: Range<u64>,
}

impl<'data, R: ReadRef<'data>> Kernel<'data, R> {
    fn parse(data: R) -> Result<Self, Flaw> {
        let image = Image::parse(data)?;
        let address = |name| image.address(name).ok_or(Flaw::NoSymbol(name));
        let text = address("_text")?..address("_etext")?;
        let len = text.end.saturating_sub(text.start);
        if text.start % PAGE != 0 || len == 0 || len > MAX_TEXT {
            return Err(Flaw::Text(text));
        }
        Ok(Kernel { image, text })
    }

    fn profile(&self, keys: BTreeSet<u64>, breakpoints: BTreeSet<u64>) -> Result<Profile, Flaw> {
        let functions = self.offsets(self.functions().collect(), "functions")?;
        let calls = self.offsets(self.calls()?, "ftrace sites")?;
        let frozen = self.offsets(keys, "frozen keys")?;
        let probes = self.offsets(breakpoints, "breakpoints")?;
        let text_len = self.text.end.saturating_sub(self.text.start);
        let mut header = heki_abi::Profile {
            version: HEKI_ABI_VERSION,
            nr_functions: functions.len() as u32,
            nr_calls: calls.len() as u32,
            nr_frozen: frozen.len() as u32,
            nr_probes: probes.len() as u32,
            reserved: 0,
            base: self.text.start,
            text_len: text_len.next_multiple_of(PAGE),
            build_id_offset: 0,
            build_id_len: 0,
            build_id: [0; BUILD_ID_BYTES],
        };
        if let Some((addr, id)) = self.image.build_id()? {
            let room = header.build_id.get_mut(..id.len());
            room.ok_or(Flaw::BuildId(id.len()))?.copy_from_slice(id);
            header.build_id_offset = self.offset(addr).ok_or(Flaw::TooFar("notes"))?;
            header.build_id_len = id.len() as u32;
        }
        Ok(Profile {
            header,
            functions,
            calls,
            frozen,
            probes,
        })
    }

    /// Entries of functions, which a static call or ftrace may be made to call. Code that has no
    /// function's type is left out: entry code, retpolines, labels.
    fn functions(&self) -> impl Iterator<Item = u64> + '_ {
        let is_target = |symbol: &&Symbol<'_>| {
            symbol.kind == Kind::Function
                && self.text.contains(&symbol.addr)
                && !NO_TARGET.iter().any(|start| symbol.name.starts_with(start))
                && !is_cold_part(symbol.name)
        };
        let targets = self.image.symbols().iter().filter(is_target);
        targets.map(|symbol| symbol.addr)
    }

    /// Sites of ftrace. The build's sorttable leaves zeros where a weak function was dropped; sites
    /// outside the text are those of init code.
    fn calls(&self) -> Result<BTreeSet<u64>, Flaw> {
        let bounds =
            ["__start_mcount_loc", "__stop_mcount_loc"].map(|name| self.image.address(name));
        let [Some(start), Some(end)] = bounds else {
            return Ok(BTreeSet::new());
        };
        let sites = self.image.words(start, end, "its ftrace sites")?;
        Ok(sites
            .into_iter()
            .filter(|site| self.text.contains(site))
            .collect())
    }

    /// The distances of `addresses` from the text's begin.
    fn offsets(&self, addresses: BTreeSet<u64>, what: &'static str) -> Result<Vec<u32>, Flaw> {
        if addresses.len() > MAX_ENTRIES {
            return Err(Flaw::TooMany(what));
        }
        let offsets = addresses.into_iter().map(|addr| self.offset(addr));
        offsets.collect::<Option<_>>().ok_or(Flaw::TooFar(what))
    }

    fn offset(&self, addr: u64) -> Option<u32> {
        u32::try_from(addr.checked_sub(self.text.start)?).ok()
    }
}

/// Whether a compiler put it out of the way: `name.cold`, `name.cold.1`.
fn is_cold_part(name: &[u8]) -> bool {
    name.split(|byte| *byte == b'.')
        .skip(1)
        .any(|part| part == b"cold")
}

#[cfg(test)]
mod tests;

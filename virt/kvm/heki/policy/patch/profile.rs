// SPDX-License-Identifier: GPL-2.0

//! What the VMM knows of the guest's kernel from its vmlinux: functions, ftrace sites, frozen keys,
//! and where it allows breakpoints.
//!
//! A view of bytes that the host keeps. [`Profile::parse`] walks all of them, once; every later look
//! is a binary search.
//! Neighbours: `abi` for the layout. Locks: none.

use zerocopy::{
    FromBytes,
    FromZeros,
    Unalign, //
};

use super::super::{
    abi,
    map::PAGE_SHIFT,
    refusal::Refusal,
    request::to_usize, //
};

/// Bytes of a call in front of a function, which ftrace fills.
pub const CALL_BYTES: u64 = 5;
/// Kernels are loaded at multiples of this many bytes from where they are linked.
const SLIDE: u64 = 2 << 20;

/// A profile.
///
/// # Invariants
///
/// It passed [`Profile::parse`], or its answers are wrong (see [`Profile::assume_checked`]).
#[derive(Clone, Copy)]
pub struct Profile<'a> {
    header: abi::Profile,
    functions: &'a [Unalign<u32>],
    calls: &'a [Unalign<u32>],
    frozen: &'a [Unalign<u32>],
    probes: &'a [Unalign<u32>],
}

impl<'a> Profile<'a> {
    /// Reads and checks `bytes`, all of the profile and nothing else.
    ///
    /// # Errors
    ///
    /// The first refusal found.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let profile = Self::split(bytes)?;
        if profile.is_consistent() {
            Ok(profile)
        } else {
            Err(Refusal::BadProfile)
        }
    }

    /// As [`Profile::parse`] without its walk, for `bytes` that have passed it.
    ///
    /// With others the answers are wrong, but every function still returns.
    pub fn assume_checked(bytes: &'a [u8]) -> Self {
        Self::split(bytes).unwrap_or(Self {
            header: abi::Profile::new_zeroed(),
            functions: &[],
            calls: &[],
            frozen: &[],
            probes: &[],
        })
    }

    /// The number of addresses at which a breakpoint may be put.
    pub const fn nr_probes(&self) -> usize {
        self.probes.len()
    }

    /// Where the guest's build ID lies if its text begins at `text_va`, and its length in bytes.
    pub fn build_id_at(&self, text_va: u64) -> (u64, usize) {
        let va = text_va.wrapping_add(self.header.build_id_offset.into());
        (va, self.build_id().len())
    }

    /// The profile of the kernel whose text begins at `text_va` and is `text_len` bytes long, with
    /// `build_id` where [`Profile::build_id_at`] says.
    ///
    /// # Errors
    ///
    /// [`Refusal::WrongKernel`] if it is the profile of another kernel.
    pub fn matches(
        self,
        text_va: u64,
        text_len: u64,
        build_id: &[u8],
    ) -> Result<Placed<'a>, Refusal> {
        let slide = text_va.wrapping_sub(self.header.base);
        let fits = slide.checked_rem(SLIDE) == Some(0)
            && text_len == self.header.text_len
            && build_id == self.build_id();
        if fits {
            Ok(self.at(text_va))
        } else {
            Err(Refusal::WrongKernel)
        }
    }

    /// The profile of the kernel whose text begins at `text_va`, which [`Profile::matches`] once
    /// found to be so.
    pub const fn at(self, text_va: u64) -> Placed<'a> {
        Placed {
            profile: self,
            text_va,
        }
    }

    fn build_id(&self) -> &[u8] {
        let len = usize::try_from(self.header.build_id_len).unwrap_or(0);
        self.header.build_id.get(..len).unwrap_or_default()
    }

    /// Splits `bytes` as their header says, with nothing checked but the numbers in it.
    fn split(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let (header, rest) =
            abi::Profile::read_from_prefix(bytes).map_err(|_| Refusal::BadLength)?;
        if header.version != abi::HEKI_ABI_VERSION {
            return Err(Refusal::BadVersion);
        }
        let counts = [header.nr_functions, header.nr_calls, header.nr_frozen];
        if counts.iter().any(|&n| n > abi::HEKI_MAX_PROFILE_ENTRIES)
            || header.nr_probes > abi::HEKI_MAX_PROBES
        {
            return Err(Refusal::TooBig);
        }
        let (functions, rest) =
            <[_]>::ref_from_prefix_with_elems(rest, to_usize(header.nr_functions)?)
                .map_err(|_| Refusal::BadLength)?;
        let (calls, rest) = <[_]>::ref_from_prefix_with_elems(rest, to_usize(header.nr_calls)?)
            .map_err(|_| Refusal::BadLength)?;
        let (frozen, rest) = <[_]>::ref_from_prefix_with_elems(rest, to_usize(header.nr_frozen)?)
            .map_err(|_| Refusal::BadLength)?;
        let probes = <[_]>::ref_from_bytes_with_elems(rest, to_usize(header.nr_probes)?)
            .map_err(|_| Refusal::BadLength)?;
        Ok(Self {
            header,
            functions,
            calls,
            frozen,
            probes,
        })
    }

    /// Whether everything is where its header and its order allow it.
    fn is_consistent(&self) -> bool {
        let header = &self.header;
        let page = 1u64 << PAGE_SHIFT;
        let whole_pages = header.text_len != 0 && header.text_len.checked_rem(page) == Some(0);
        let build_id_end =
            u64::from(header.build_id_offset).saturating_add(header.build_id_len.into());
        let last_byte = header.text_len.saturating_sub(1);
        let last_call = header.text_len.saturating_sub(CALL_BYTES);
        header.base != 0
            && header.reserved == 0
            && whole_pages
            && self.has_build_id()
            && self.reaches(header.text_len)
            && self.reaches(build_id_end)
            && ascends_to(self.functions, last_byte)
            && ascends_to(self.calls, last_call)
            && ascends_to(self.frozen, u64::MAX.saturating_sub(header.base))
            && ascends_to(self.probes, last_byte)
    }

    /// Whether the build ID fits its field and nothing comes after it.
    fn has_build_id(&self) -> bool {
        let padding = usize::try_from(self.header.build_id_len)
            .ok()
            .and_then(|len| self.header.build_id.get(len..));
        padding.is_some_and(|padding| padding.iter().all(|&byte| byte == 0))
    }

    /// Whether there is an address `offset` bytes from the start of the text.
    fn reaches(&self, offset: u64) -> bool {
        self.header.base.checked_add(offset).is_some()
    }
}

/// Whether `offsets` are strictly ascending and none is beyond `last`.
fn ascends_to(offsets: &[Unalign<u32>], last: u64) -> bool {
    let ordered = offsets.is_sorted_by(|left, right| left.get() < right.get());
    ordered
        && offsets
            .last()
            .is_none_or(|offset| u64::from(offset.get()) <= last)
}

/// A profile and where in the guest its kernel lies.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    profile: Profile<'a>,
    text_va: u64,
}

impl<'a> Placed<'a> {
    /// Where the kernel's text begins.
    pub const fn text_va(&self) -> u64 {
        self.text_va
    }

    /// Whether a function begins at `va`.
    pub fn is_function(&self, va: u64) -> bool {
        self.is_in(self.profile.functions, va)
    }

    /// Whether ftrace has a site at `va`.
    pub fn is_call(&self, va: u64) -> bool {
        self.is_in(self.profile.calls, va)
    }

    /// Whether the static key or static-call key at `va` must not change.
    pub fn is_frozen(&self, va: u64) -> bool {
        self.is_in(self.profile.frozen, va)
    }

    /// Whether ftrace has a site with a byte from `start` to `end`.
    pub fn has_call_in(&self, start: u64, end: u64) -> bool {
        let last = end
            .checked_sub(1)
            .and_then(|last| self.last_to(self.profile.calls, last));
        last.is_some_and(|va| va.saturating_add(CALL_BYTES) > start)
    }

    /// The begin of the function that `va` seems to belong to: the last one up to there.
    pub fn function_of(&self, va: u64) -> Option<u64> {
        self.last_to(self.profile.functions, va)
    }

    /// The addresses at which a breakpoint may be put.
    pub fn probes(&self) -> impl Iterator<Item = u64> + 'a {
        self.addresses(self.profile.probes)
    }

    /// What must not change, as addresses, which ascend.
    pub fn frozen(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.addresses(self.profile.frozen)
    }

    fn addresses(&self, offsets: &'a [Unalign<u32>]) -> impl ExactSizeIterator<Item = u64> + 'a {
        let text_va = self.text_va;
        let offsets = offsets.iter();
        offsets.map(move |offset| text_va.wrapping_add(offset.get().into()))
    }

    /// The last address of `offsets` that is not beyond `va`, which is in the text.
    fn last_to(&self, offsets: &[Unalign<u32>], va: u64) -> Option<u64> {
        let wanted = va.checked_sub(self.text_va)?;
        let count = offsets.partition_point(|offset| u64::from(offset.get()) <= wanted);
        let last = offsets.get(count.checked_sub(1)?)?;
        self.text_va.checked_add(last.get().into())
    }

    fn is_in(&self, offsets: &[Unalign<u32>], va: u64) -> bool {
        let offset = u32::try_from(va.wrapping_sub(self.text_va));
        offset.is_ok_and(|offset| {
            offsets
                .binary_search_by_key(&offset, |entry| entry.get())
                .is_ok()
        })
    }
}

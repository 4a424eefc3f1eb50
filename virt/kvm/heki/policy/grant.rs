// SPDX-License-Identifier: GPL-2.0

//! The GRANT and RELEASE requests: which pages are to run, or to be written again.
//!
//! The content of pages that are to run is for [`trampoline`](super::patch::trampoline), the new map
//! for [`edit`](super::edit).
//! Neighbours: `abi` for the layout, [`request`](super::request) for what all ranges must be.
//! Locks: none.

use zerocopy::{
    FromBytes,
    Unalign, //
};

use super::{
    abi,
    map::{
        Map,
        Region, //
    },
    refusal::Refusal,
    request::{
        self,
        to_usize, //
    },
    rights::Rights, //
};

/// A GRANT or RELEASE request that passed every check which needs no VM.
///
/// # Invariants
///
/// There are ranges, each passed `check_range`, no two share a page or an address, and together
/// they have no more than [`abi::HEKI_MAX_GRANT_PAGES`] pages.
#[derive(Clone, Copy)]
pub struct Grant<'a> {
    ranges: &'a [Unalign<abi::Range>],
    release: bool,
}

impl<'a> Grant<'a> {
    /// Reads and checks `bytes`, all of the request and nothing else: a RELEASE if `release`, else
    /// a GRANT.
    ///
    /// # Errors
    ///
    /// The first refusal found.
    pub fn parse(bytes: &'a [u8], release: bool) -> Result<Self, Refusal> {
        let (header, rest) = abi::Grant::read_from_prefix(bytes).map_err(|_| Refusal::BadLength)?;
        if header.version != abi::HEKI_ABI_VERSION {
            return Err(Refusal::BadVersion);
        }
        if header.nr_ranges > abi::HEKI_MAX_GRANT_PAGES {
            return Err(Refusal::TooBig);
        }
        if header.nr_ranges == 0 {
            return Err(Refusal::Empty);
        }
        let ranges = <[_]>::ref_from_bytes_with_elems(rest, to_usize(header.nr_ranges)?)
            .map_err(|_| Refusal::BadLength)?;

        let grant = Self { ranges, release };
        for range in ranges {
            grant.check_range(&range.get())?;
        }
        if grant.nr_pages() > abi::HEKI_MAX_GRANT_PAGES.into() {
            return Err(Refusal::TooBig);
        }
        if grant.overlaps() {
            return Err(Refusal::Overlap);
        }
        // INVARIANT: All of it was checked above.
        Ok(grant)
    }

    /// The number of ranges.
    pub const fn nr_ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The number of pages in all ranges.
    pub fn nr_pages(&self) -> u64 {
        self.regions()
            .fold(0, |sum, region| sum.saturating_add(region.nr_pages()))
    }

    /// The ranges as regions, in the guest's order, as the guest wants them.
    pub fn regions(&self) -> impl Iterator<Item = Region> + 'a {
        self.ranges
            .iter()
            .map(|range| request::region(&range.get(), Rights::NONE))
    }

    /// Checks the request against what `map` says of its pages: plain memory, or pages that were
    /// granted or sealed as free.
    ///
    /// Nothing is said of whether a change would change anything: a kernel may release twice.
    ///
    /// # Errors
    ///
    /// The address of the first page that is something else.
    pub fn check(&self, map: &Map<'_>) -> Result<(), u64> {
        for region in self.regions() {
            for gfn in region.start..region.end {
                match map.kind(gfn) {
                    None | Some(abi::HEKI_KIND_POOL | abi::HEKI_KIND_FTRACE) => {}
                    Some(_) => {
                        let page = region.part(gfn, gfn.saturating_add(1));
                        return Err(page.map_or(region.va, |page| page.va));
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks one range by itself.
    fn check_range(&self, range: &abi::Range) -> Result<(), Refusal> {
        request::check_range(range)?;
        if range.va == 0 {
            return Err(Refusal::Unaligned);
        }
        let rights = if self.release { 0 } else { abi::HEKI_EXEC };
        if range.rights != rights {
            return Err(Refusal::BadRights);
        }
        if range.kind != abi::HEKI_KIND_POOL {
            return Err(Refusal::BadKind);
        }
        Ok(())
    }

    /// Whether two ranges share a page or an address. There are too few to sort them.
    fn overlaps(&self) -> bool {
        self.regions().enumerate().any(|(index, left)| {
            self.regions()
                .skip(index.saturating_add(1))
                .any(|right| left.shares_with(&right))
        })
    }
}

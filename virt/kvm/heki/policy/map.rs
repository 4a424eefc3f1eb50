// SPDX-License-Identifier: GPL-2.0

//! The permission map: which guest frame keeps which rights.
//!
//! A view of sorted ranges that somebody else owns, plus the rights of every other frame. Costs a
//! binary search and takes no lock, so that the fault path can ask under RCU.
//! Neighbours: [`rights`](super::rights); built by [`request`](super::request). Locks: none.
//!
//! Frames (`gfn`) are guest physical addresses shifted right by [`PAGE_SHIFT`].

use super::{
    abi,
    rights::Rights, //
};

/// Binary logarithm of a guest frame's size in bytes.
pub const PAGE_SHIFT: u32 = 12;

/// Guest frames that keep the same rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First frame.
    pub start: u64,
    /// The frame after the last.
    pub end: u64,
    /// What the guest may do there.
    pub rights: Rights,
    /// `HEKI_KIND_*`: what it is, for logs; it grants nothing.
    pub kind: u32,
}

impl Region {
    /// The kind as a short name for logs.
    pub const fn kind_str(&self) -> &'static str {
        match self.kind {
            abi::HEKI_KIND_OTHER => "other",
            abi::HEKI_KIND_TEXT => "text",
            abi::HEKI_KIND_RODATA => "rodata",
            abi::HEKI_KIND_MODULE_TEXT => "module_text",
            abi::HEKI_KIND_MODULE_RODATA => "module_rodata",
            abi::HEKI_KIND_IDT => "idt",
            abi::HEKI_KIND_TRAMPOLINE => "trampoline",
            _ => "unknown",
        }
    }
}

/// Rights of every guest frame.
///
/// # Invariants
///
/// `regions` are non-empty, sorted and disjoint, or the answers are wrong (see
/// [`Map::assume_sorted`]).
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    regions: &'a [Region],
    default: Rights,
}

impl<'a> Map<'a> {
    /// A map of `regions`, with `default` for the rest; `None` unless they are non-empty, sorted
    /// and disjoint.
    pub fn new(regions: &'a [Region], default: Rights) -> Option<Self> {
        let mut floor = 0;
        for region in regions {
            if region.start < floor || region.start >= region.end {
                return None;
            }
            floor = region.end;
        }
        Some(Self { regions, default })
    }

    /// As [`Map::new`] without its walk, for the path that asks on every fault.
    ///
    /// `regions` must come from [`request::build`](super::request::build) or have passed
    /// [`Map::new`]. On others the answers are wrong, but every function still returns.
    pub const fn assume_sorted(regions: &'a [Region], default: Rights) -> Self {
        Self { regions, default }
    }

    /// The regions, in order.
    pub const fn regions(&self) -> &'a [Region] {
        self.regions
    }

    /// The rights of frames in no region.
    pub const fn default_rights(&self) -> Rights {
        self.default
    }

    /// The rights of frame `gfn`.
    pub fn rights(&self, gfn: u64) -> Rights {
        self.region(gfn)
            .map_or(self.default, |region| region.rights)
    }

    /// The kind of frame `gfn`, `None` if it is in no region.
    pub fn kind(&self, gfn: u64) -> Option<u32> {
        self.region(gfn).map(|region| region.kind)
    }

    /// The rights that all of the `nr_pages` frames from `start` share, `None` if they differ.
    ///
    /// No frames share the rights of `start`. Frames beyond the last number share nothing.
    pub fn uniform(&self, start: u64, nr_pages: u64) -> Option<Rights> {
        let end = start.checked_add(nr_pages)?;
        let shared = self.rights(start);
        let mut seen_to = start;

        for region in self.from(start) {
            if region.start >= end {
                break;
            }
            let gap_differs = region.start > seen_to && self.default != shared;
            if gap_differs || region.rights != shared {
                return None;
            }
            seen_to = region.end;
        }

        if seen_to < end && self.default != shared {
            return None;
        }
        Some(shared)
    }

    /// The index of the largest frame around `gfn` whose rights are uniform.
    ///
    /// `levels` are the frame sizes in pages, ascending from 1 (1, 512, 262144). A single page is
    /// always uniform, so the answer is 0 when no larger frame is, and when `levels` is empty.
    pub fn largest_uniform(&self, gfn: u64, levels: &[u64]) -> usize {
        let fits = |&nr_pages: &u64| {
            let offset = gfn.checked_rem(nr_pages).unwrap_or(0);
            self.uniform(gfn.saturating_sub(offset), nr_pages).is_some()
        };
        levels.iter().rposition(fits).unwrap_or(0)
    }

    /// The region that holds frame `gfn`.
    fn region(&self, gfn: u64) -> Option<&'a Region> {
        self.from(gfn).first().filter(|region| region.start <= gfn)
    }

    /// The regions that end after frame `gfn`.
    fn from(&self, gfn: u64) -> &'a [Region] {
        let first = self.regions.partition_point(|region| region.end <= gfn);
        self.regions.get(first..).unwrap_or_default()
    }
}

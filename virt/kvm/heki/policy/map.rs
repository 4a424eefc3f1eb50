// SPDX-License-Identifier: GPL-2.0

//! The permission map: which guest frame keeps which rights.
//!
//! A view of sorted ranges that somebody else owns, plus the rights of every other frame. Costs a
//! binary search and takes no lock, so that the fault path can ask under RCU.
//! Neighbours: [`rights`](super::rights); built by [`request`](super::request), changed by
//! [`edit`](super::edit). Locks: none.
//!
//! Frames (`gfn`) are guest physical addresses shifted right by [`PAGE_SHIFT`].

use super::{
    abi,
    refusal::Refusal,
    rights::Rights,
    sort::sort_by_key, //
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
    /// Where the guest maps the first frame; zero if that never matters.
    pub va: u64,
    /// What the guest may do there.
    pub rights: Rights,
    /// `HEKI_KIND_*`: what it is; by itself it grants nothing.
    pub kind: u32,
}

impl Region {
    /// The number of frames.
    pub const fn nr_pages(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// The address after the last, zero if the addresses do not matter.
    pub const fn va_end(&self) -> u64 {
        match self.va {
            0 => 0,
            va => va.saturating_add(self.nr_pages().saturating_mul(1 << PAGE_SHIFT)),
        }
    }

    /// The part from frame `start` on to before frame `end`, `None` if there is none.
    pub fn part(&self, start: u64, end: u64) -> Option<Self> {
        let start = start.max(self.start);
        let end = end.min(self.end);
        let skipped = start.saturating_sub(self.start);
        (start < end).then_some(Self {
            start,
            end,
            va: match self.va {
                0 => 0,
                va => va.saturating_add(skipped.saturating_mul(1 << PAGE_SHIFT)),
            },
            ..*self
        })
    }

    /// Appends `next` if it goes on where this one ends, in both address spaces, and is the same
    /// in all else.
    pub fn absorb(&mut self, next: &Self) -> bool {
        let joins = next.start == self.end
            && next.va == self.va_end()
            && next.rights == self.rights
            && next.kind == self.kind;
        if joins {
            self.end = next.end;
        }
        joins
    }

    /// Whether both have a frame, or an address, in common.
    pub const fn shares_with(&self, other: &Self) -> bool {
        let frame = self.start < other.end && other.start < self.end;
        frame || self.shares_address(other)
    }

    /// Whether both are mapped at an address, but not to the same frame there.
    pub const fn contradicts(&self, other: &Self) -> bool {
        let left = self.va.wrapping_sub(self.start << PAGE_SHIFT);
        let right = other.va.wrapping_sub(other.start << PAGE_SHIFT);
        self.shares_address(other) && left != right
    }

    const fn shares_address(&self, other: &Self) -> bool {
        let mapped = self.va != 0 && other.va != 0;
        mapped && self.va < other.va_end() && other.va < self.va_end()
    }

    /// The range that it is, with its rights as they are.
    pub const fn abi(&self) -> abi::Range {
        abi::Range {
            gpa: self.start << PAGE_SHIFT,
            len: self.nr_pages() << PAGE_SHIFT,
            va: self.va,
            rights: self.rights.bits(),
            kind: self.kind,
        }
    }

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
            abi::HEKI_KIND_POOL => "pool",
            abi::HEKI_KIND_FTRACE => "ftrace",
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

/// Brings `regions` into order, joins equal neighbours, and returns how many are left, at the
/// front.
///
/// # Errors
///
/// [`Refusal::Overlap`] if two regions share a frame, or an address.
pub fn normalize(regions: &mut [Region]) -> Result<usize, Refusal> {
    sort_by_key(regions, |region| region.va);
    let mut end = 0;
    for region in regions.iter().filter(|region| region.va != 0) {
        if region.va < end {
            return Err(Refusal::Overlap);
        }
        end = region.va_end();
    }
    sort_by_key(regions, |region| region.start);
    merge(regions)
}

/// Joins neighbours at the front of `sorted` and returns how many regions are left.
fn merge(sorted: &mut [Region]) -> Result<usize, Refusal> {
    let cells = core::cell::Cell::from_mut(sorted).as_slice_of_cells();
    let mut kept = cells.iter();
    let Some(mut last) = kept.next() else {
        return Ok(0);
    };

    for cell in cells.iter().skip(1) {
        let (mut left, right) = (last.get(), cell.get());
        if right.start < left.end {
            return Err(Refusal::Overlap);
        }
        if left.absorb(&right) {
            last.set(left);
        } else if let Some(slot) = kept.next() {
            slot.set(right);
            last = slot;
        }
    }
    Ok(cells.len().saturating_sub(kept.len()))
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
    /// `regions` must come from [`request::build`](super::request::build) or
    /// [`edit`](super::edit::edit), or have passed [`Map::new`]. On others the answers are wrong, but every function still returns.
    pub const fn assume_sorted(regions: &'a [Region], default: Rights) -> Self {
        Self { regions, default }
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

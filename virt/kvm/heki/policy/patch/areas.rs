// SPDX-License-Identifier: GPL-2.0

//! What the guest said of its text when it sealed itself: where the things are that rules name.
//!
//! Tables are not kept; the host goes through them once, at the seal.
//! Neighbours: [`request`](super::super::request), which checked them. Locks: none.

use super::super::{
    abi,
    request, //
};

/// Number of kinds of areas.
const KINDS: usize = abi::HEKI_AREA_COUNT as usize;
/// Most keys that the guest froze.
const MAX_FROZEN: usize = abi::HEKI_MAX_FROZEN as usize;

/// Addresses of the guest's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub va: u64,
    /// How many, in bytes; zero where only the first counts.
    pub len: u64,
}

impl Extent {
    /// Whether the `len` bytes at `va` are all in it.
    pub fn holds(&self, va: u64, len: u64) -> bool {
        let offset = va.checked_sub(self.va);
        let end = offset.and_then(|offset| offset.checked_add(len));
        end.is_some_and(|end| end <= self.len)
    }
}

/// The areas that come once, by kind, and the keys that the guest froze.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas {
    once: [Option<Extent>; KINDS],
    frozen: [Option<u64>; MAX_FROZEN],
}

impl Areas {
    /// Gathers what is no table from the areas of a checked request.
    pub fn new(areas: impl Iterator<Item = abi::Area>) -> Self {
        let mut all = Self::default();
        let mut frozen = all.frozen.iter_mut();
        for area in areas.filter(|area| request::entry_bytes(area.kind).is_none()) {
            if area.kind == abi::HEKI_AREA_FROZEN {
                if let Some(slot) = frozen.next() {
                    *slot = Some(area.va);
                }
                continue;
            }
            let slot = usize::try_from(area.kind)
                .ok()
                .and_then(|kind| all.once.get_mut(kind));
            if let Some(slot) = slot {
                *slot = Some(Extent {
                    va: area.va,
                    len: area.len,
                });
            }
        }
        all
    }

    /// All of them, as [`Self::new`] takes them.
    pub fn iter(&self) -> impl Iterator<Item = abi::Area> + '_ {
        let once = (0..).zip(&self.once).filter_map(|(kind, extent)| {
            let Extent { va, len } = (*extent)?;
            Some(area(kind, va, len))
        });
        let frozen = self.frozen.iter().flatten();
        once.chain(frozen.map(|va| area(abi::HEKI_AREA_FROZEN, *va, 0)))
    }

    /// The area of `kind` (`HEKI_AREA_*`), if the guest gave it.
    pub fn get(&self, kind: u32) -> Option<Extent> {
        let kind = usize::try_from(kind).ok()?;
        self.once.get(kind).copied().flatten()
    }

    /// The first address of the area of `kind`, if the guest gave it.
    pub fn va(&self, kind: u32) -> Option<u64> {
        self.get(kind).map(|area| area.va)
    }

    /// Whether the guest froze the key, or the trampoline, at `va`.
    pub fn is_frozen(&self, va: u64) -> bool {
        let mut keys = self.frozen.iter().map_while(|key| *key);
        keys.any(|key| key == va)
    }

    /// Whether `va` is the first address of the area of `kind`.
    pub fn is(&self, kind: u32, va: u64) -> bool {
        self.va(kind) == Some(va)
    }
}

const fn area(kind: u32, va: u64, len: u64) -> abi::Area {
    abi::Area {
        kind,
        reserved: 0,
        va,
        len,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Where sealed memory lies in the guest kernel's own addresses.
//!
//! Requests name instructions by their virtual address, because that is what calls and jumps are
//! relative to. The guest's page tables are never asked: an address is what the guest said when it
//! sealed or was granted the page.
//! Neighbours: [`map`](super::map), whose regions these are. Locks: none.

use super::{
    map::{
        Region,
        PAGE_SHIFT, //
    },
    refusal::Refusal,
    sort::sort_by_key, //
};

/// A region as the guest kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Virtual address of the first byte.
    pub start: u64,
    /// Virtual address of the last byte.
    pub last: u64,
    /// What lies there.
    pub region: Region,
}

impl Window {
    /// The window of `region`, `None` if it has no address, or no frame.
    fn of(region: &Region) -> Result<Option<Self>, Refusal> {
        if region.va == 0 || region.nr_pages() == 0 {
            return Ok(None);
        }
        let last = region
            .nr_pages()
            .checked_mul(1 << PAGE_SHIFT)
            .and_then(|bytes| region.va.checked_add(bytes.saturating_sub(1)))
            .ok_or(Refusal::Overflow)?;
        Ok(Some(Self {
            start: region.va,
            last,
            region: *region,
        }))
    }

    /// Guest physical address of `va`, and how many bytes follow it in the window.
    pub const fn translate(&self, va: u64) -> Option<(u64, u64)> {
        if va < self.start || va > self.last {
            return None;
        }
        let offset = va.saturating_sub(self.start);
        let gpa = (self.region.start << PAGE_SHIFT).saturating_add(offset);
        Some((gpa, self.last.saturating_sub(va).saturating_add(1)))
    }
}

/// Writes the windows of `regions` into `out`, sorted by address, and returns how many there are.
///
/// # Errors
///
/// [`Refusal::Overlap`] if two regions claim one address, [`Refusal::Overflow`] if one goes beyond
/// the last address, [`Refusal::NoMemory`] if `out` is too short.
pub fn index(regions: &[Region], out: &mut [Window]) -> Result<usize, Refusal> {
    let mut used = 0usize;
    for region in regions {
        if let Some(window) = Window::of(region)? {
            *out.get_mut(used).ok_or(Refusal::NoMemory)? = window;
            used = used.saturating_add(1);
        }
    }
    let windows = out.get_mut(..used).ok_or(Refusal::NoMemory)?;
    sort_by_key(windows, |window| window.start);
    let collide = |pair: &[Window]| matches!(pair, [left, right] if right.start <= left.last);
    if windows.windows(2).any(collide) {
        return Err(Refusal::Overlap);
    }
    Ok(used)
}

/// The window around `va` of windows that [`index`] sorted.
pub fn find(windows: &[Window], va: u64) -> Option<&Window> {
    let first = windows.partition_point(|window| window.last < va);
    windows.get(first).filter(|window| window.start <= va)
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<'a> {
    /// Virtual address of the first byte.
    pub start: u64,
    /// Virtual address of the last byte.
    pub last: u64,
    /// What lies there.
    pub region: &'a Region,
}

impl<'a> Window<'a> {
    /// The window of `region`, `None` if it has no address, or no frame.
    fn of(region: &'a Region) -> Result<Option<Self>, Refusal> {
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
            region,
        }))
    }

    /// Whether `va` is in it.
    pub const fn holds(&self, va: u64) -> bool {
        self.start <= va && va <= self.last
    }

    /// Guest physical address of `va`, and how many bytes follow it in the window.
    pub const fn translate(&self, va: u64) -> Option<(u64, u64)> {
        if !self.holds(va) {
            return None;
        }
        let offset = va.saturating_sub(self.start);
        let gpa = (self.region.start << PAGE_SHIFT).saturating_add(offset);
        Some((gpa, self.last.saturating_sub(va).saturating_add(1)))
    }
}

/// Writes to `out` which of `regions` have a window, sorted by address, and returns how many there
/// are.
///
/// # Errors
///
/// [`Refusal::Overlap`] if two regions claim one address, [`Refusal::Overflow`] if one goes beyond
/// the last address, [`Refusal::NoMemory`] if `out` is too short.
pub fn index(regions: &[Region], out: &mut [u32]) -> Result<usize, Refusal> {
    let mut used = 0usize;
    for (region, at) in regions.iter().zip(0..) {
        if Window::of(region)?.is_some() {
            *out.get_mut(used).ok_or(Refusal::NoMemory)? = at;
            used = used.saturating_add(1);
        }
    }
    let order = out.get_mut(..used).ok_or(Refusal::NoMemory)?;
    sort_by_key(order, |&at| {
        regions.get(at as usize).map_or(0, |region| region.va)
    });
    let mut before = None;
    for window in Windows::new(regions, order).iter() {
        if before.is_some_and(|last| window.start <= last) {
            return Err(Refusal::Overlap);
        }
        before = Some(window.last);
    }
    Ok(used)
}

/// All windows of regions.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    regions: &'a [Region],
    order: &'a [u32],
}

impl<'a> Windows<'a> {
    /// The windows of `regions`, in the `order` that [`index`] made of them. With another one the
    /// answers are wrong, but every function still returns.
    pub const fn new(regions: &'a [Region], order: &'a [u32]) -> Self {
        Self { regions, order }
    }

    /// All of them, sorted by address.
    pub fn iter(&self) -> impl Iterator<Item = Window<'a>> {
        let regions = self.regions;
        let order = self.order.iter();
        order.filter_map(move |&at| Window::of(regions.get(at as usize)?).ok()?)
    }

    /// The window around `va`.
    pub fn find(&self, va: u64) -> Option<Window<'a>> {
        let window = |at: u32| Window::of(self.regions.get(at as usize)?).ok()?;
        let ends_before = |&at: &u32| window(at).is_some_and(|window| window.last < va);
        let first = self.order.partition_point(ends_before);
        let found = window(*self.order.get(first)?)?;
        (found.start <= va).then_some(found)
    }
}

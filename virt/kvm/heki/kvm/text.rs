// SPDX-License-Identifier: GPL-2.0

//! Guest memory that the host reads and writes on the guest's behalf, whatever its rights.
//!
//! UNSAFETY: calls the glue in `arch/x86/kvm/heki_text.c`, and holds a raw page between pin and unpin.
//! Locks: `kvm->slots_lock` is held, as the [`SlotsLock`] shows.

use super::slots::SlotsLock;
use core::cell::Cell;
use kernel::{
    bindings,
    page::PAGE_SIZE, //
};

/// A page of guest memory that stays where it is, and that the host may write.
///
/// # Invariants
///
/// `page` is pinned for writing, and is the page of frame `gfn` of the lock's VM.
pub(crate) struct PinnedPage<'a> {
    lock: &'a SlotsLock<'a>,
    gfn: u64,
    page: *mut bindings::page,
    dirty: Cell<bool>,
}

impl SlotsLock<'_> {
    /// Copies guest memory from `gpa` into `data` and says whether all of it could be read. Sleeps.
    pub(crate) fn read_memory(&self, gpa: u64, data: &mut [u8]) -> bool {
        let Ok(len) = u32::try_from(data.len()) else {
            return false;
        };
        // SAFETY: the VM is valid and the lock held by the type invariants, `data` for `len` bytes.
        unsafe {
            bindings::heki_glue_read_memory(self.kvm(), gpa, data.as_mut_ptr().cast(), len) == 0
        }
    }

    /// Pins the page of frame `gfn`; `None` if user space does not let it be written. Sleeps.
    pub(crate) fn pin(&self, gfn: u64) -> Option<PinnedPage<'_>> {
        // SAFETY: the VM is valid and the lock held, by the type invariants.
        let page = unsafe { bindings::heki_glue_pin_page(self.kvm(), gfn) };
        if page.is_null() {
            return None;
        }
        // INVARIANT: the glue pinned it for writing.
        Some(PinnedPage {
            lock: self,
            gfn,
            page,
            dirty: Cell::new(false),
        })
    }

    /// How many pages one change of text may write.
    pub(crate) fn max_pages(&self) -> usize {
        // SAFETY: the VM is valid, by the type invariants.
        unsafe { bindings::heki_glue_max_pages(self.kvm()) as usize }
    }

    /// Runs `work` while no vCPU runs guest code. Keep it short: they all wait, and it cannot sleep.
    pub(crate) fn without_vcpus<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: the VM is valid, by the type invariants.
        unsafe { bindings::heki_glue_keep_vcpus_out(self.kvm()) };
        let result = work();
        // SAFETY: as above.
        unsafe { bindings::heki_glue_let_vcpus_in(self.kvm()) };
        result
    }
}

impl PinnedPage<'_> {
    /// Which frame it is.
    pub(crate) fn gfn(&self) -> u64 {
        self.gfn
    }

    /// Copies from `offset` into `data`; false, and nothing copied, if that leaves the page.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) -> bool {
        let Some((offset, len)) = within(offset, data.len()) else {
            return false;
        };
        // SAFETY: the page is pinned by the type invariants, the range lies in it, and `data` is
        // valid for `len` bytes.
        unsafe { bindings::heki_glue_read_page(self.page, offset, data.as_mut_ptr().cast(), len) };
        true
    }

    /// Copies `data` to `offset`; false, and nothing copied, if that leaves the page.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) -> bool {
        let Some((offset, len)) = within(offset, data.len()) else {
            return false;
        };
        self.dirty.set(true);
        // SAFETY: as in `read()`; the guest's memory is nobody's Rust object.
        unsafe { bindings::heki_glue_write_page(self.page, offset, data.as_ptr().cast(), len) };
        true
    }
}

/// `offset` and `len` as the glue wants them, if they lie in a page.
fn within(offset: usize, len: usize) -> Option<(u32, u32)> {
    let end = offset.checked_add(len)?;
    if end > PAGE_SIZE {
        return None;
    }
    Some((u32::try_from(offset).ok()?, u32::try_from(len).ok()?))
}

impl Drop for PinnedPage<'_> {
    fn drop(&mut self) {
        // SAFETY: pinned by the type invariants, and the lock is held as long as `self.lock` lives.
        unsafe {
            bindings::heki_glue_unpin_page(self.lock.kvm(), self.gfn, self.page, self.dirty.get())
        }
    }
}

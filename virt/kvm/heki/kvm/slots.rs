// SPDX-License-Identifier: GPL-2.0

//! `kvm->slots_lock`, under which rights change and memslots do not.
//!
//! UNSAFETY: calls the glue that wants the lock held.
//! Locks: taken outside `kvm->srcu` and `kvm->mmu_lock`.

use super::publish::Reader;
use crate::abi;
use core::{
    marker::PhantomData,
    ops::Range,
    ptr, //
};
use kernel::{
    bindings,
    types::NotThreadSafe, //
};
use zerocopy::FromZeros;

/// Proof that `kvm->slots_lock` is held for `'a`.
///
/// # Invariants
///
/// `kvm` is valid and its `slots_lock` held by this thread, for `'a`; `kvm->srcu` is not held.
pub(crate) struct SlotsLock<'a> {
    kvm: *mut bindings::kvm,
    _lock: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl SlotsLock<'_> {
    /// The proof for a lock that C took.
    ///
    /// # Safety
    ///
    /// The type invariants hold for the life of the value.
    pub(crate) unsafe fn held_by_caller(kvm: *mut bindings::kvm) -> Self {
        // INVARIANT: by this function's safety requirements.
        Self {
            kvm,
            _lock: PhantomData,
            _thread: NotThreadSafe,
        }
    }

    /// Whether every one of the `nr_pages` frames from `gfn` is in a memslot.
    pub(crate) fn is_memory(&self, gfn: u64, nr_pages: u64) -> bool {
        // SAFETY: `kvm` is valid and the lock held, by the type invariants.
        unsafe { bindings::heki_glue_is_memory(self.kvm, gfn, nr_pages) }
    }

    /// The counters of the vCPU that was created as number `index`, `None` if there is none.
    pub(crate) fn counters(&self, index: u32) -> Option<abi::Counters> {
        let mut counters = abi::Counters::new_zeroed();
        // SAFETY: `kvm` is valid by the type invariants, `counters` for a write; both types are the
        // one layout of the ABI.
        let found = unsafe {
            bindings::heki_glue_get_counters(self.kvm, index, (&raw mut counters).cast())
        };
        found.then_some(counters)
    }

    /// Whether there is a vCPU with this ID.
    pub(crate) fn has_vcpu(&self, id: u32) -> bool {
        // SAFETY: `kvm` is valid by the type invariants.
        unsafe { bindings::heki_glue_has_vcpu(self.kvm, id) }
    }

    /// Sets the counters of a vCPU, if it exists.
    pub(crate) fn set_counters(&self, counters: &abi::Counters) {
        // SAFETY: `kvm` is valid by the type invariants, `counters` for a read; both types are the
        // one layout of the ABI.
        unsafe { bindings::heki_glue_set_counters(self.kvm, ptr::from_ref(counters).cast()) }
    }

    /// Leave to read what is published: only the holder of this lock replaces it.
    pub(crate) fn reader(&self) -> Reader<'_> {
        // SAFETY: `kvm->slots_lock` is held, by the type invariants.
        unsafe { Reader::new() }
    }

    /// The VM.
    pub(super) fn kvm(&self) -> *mut bindings::kvm {
        self.kvm
    }

    /// Runs `publish`, which changes rights of `frames`, so that nothing from before it survives
    /// this call. Sleeps.
    pub(super) fn change(&self, frames: &Range<u64>, publish: impl FnOnce()) {
        let kvm = self.kvm;
        // SAFETY: `kvm` is valid and the lock held, by the type invariants.
        unsafe { bindings::heki_glue_begin_change(kvm, frames.start, frames.end) };
        publish();
        // SAFETY: as above, and the matching begin came before.
        unsafe { bindings::heki_glue_end_change(kvm, frames.start, frames.end) };
        // SAFETY: as above, and by the type invariants this thread is outside `kvm->srcu`.
        unsafe { bindings::heki_glue_wait_for_readers(kvm) };
    }

    /// Has every vCPU load its pinned registers and its root again before it runs guest code.
    pub(crate) fn reload_vcpus(&self) {
        // SAFETY: `kvm` is valid, by the type invariants.
        unsafe { bindings::heki_glue_reload_vcpus(self.kvm) };
    }
}

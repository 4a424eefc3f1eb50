// SPDX-License-Identifier: GPL-2.0

//! `kvm->slots_lock`, under which rights change and memslots do not.
//!
//! UNSAFETY: calls the glue that wants the lock held.
//! Locks: taken outside `kvm->srcu` and `kvm->mmu_lock`.

use super::publish::Reader;
use core::{
    marker::PhantomData,
    ops::Range, //
};
use kernel::{
    bindings,
    types::NotThreadSafe, //
};

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

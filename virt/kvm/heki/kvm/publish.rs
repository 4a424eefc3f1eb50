// SPDX-License-Identifier: GPL-2.0

//! A value that hooks read without a lock while a request replaces it whole.
//!
//! UNSAFETY: holds a raw pointer between `KBox::into_raw` and `KBox::from_raw`.
//! Locks: readers are inside `kvm->srcu` or `kvm->mmu_lock`; the writer holds `kvm->slots_lock`,
//! and frees only after it has waited for both (see [`SlotsLock::replace`]).

use super::slots::SlotsLock;
use core::{
    marker::PhantomData,
    ops::Range,
    ptr, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
};

/// Proof that the caller may use a published value for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(PhantomData<&'a ()>);

impl<'a> Reader<'a> {
    /// The proof.
    ///
    /// # Safety
    ///
    /// For all of `'a` the caller is inside a read-side section of `kvm->srcu`, or holds
    /// `kvm->mmu_lock` or `kvm->slots_lock`.
    pub(crate) unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

/// A value that is absent or whole.
///
/// # Invariants
///
/// The pointer is null or came from `KBox::into_raw`, and is freed only by its owner's drop or
/// after every reader that can have seen it is gone.
pub(crate) struct Published<T>(Atomic<*mut T>);

impl<T: Send + Sync> Published<T> {
    /// Nothing published.
    pub(crate) const fn none() -> Self {
        // INVARIANT: null.
        Self(Atomic::new(ptr::null_mut()))
    }

    /// The value, if there is one.
    pub(crate) fn get<'a>(&'a self, _: Reader<'a>) -> Option<&'a T> {
        // SAFETY: by the type invariants the pointer is null or valid, and stays so for `'a`
        // because the reader's proof keeps `SlotsLock::replace` from freeing it.
        unsafe { self.0.load(Acquire).as_ref() }
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        let value = *self.0.get_mut();
        if !value.is_null() {
            // SAFETY: by the type invariants; `&mut self` excludes readers.
            drop(unsafe { KBox::from_raw(value) });
        }
    }
}

impl SlotsLock<'_> {
    /// Replaces what `published` holds, as a change of the VM's rights to `frames`.
    ///
    /// When this returns, no vCPU can use a mapping or a translation from before, no writer inside
    /// KVM a host address from before, and the old value is freed. `tell` runs in the middle,
    /// beside the replacement. Sleeps. Takes the lock for itself, so that nobody who holds it still
    /// looks at the old value.
    pub(crate) fn replace<T: Send + Sync>(
        &mut self,
        published: &Published<T>,
        frames: &Range<u64>,
        new: Option<KBox<T>>,
        tell: impl FnOnce(),
    ) {
        let new = new.map_or(ptr::null_mut(), KBox::into_raw);
        let mut old = ptr::null_mut();
        self.change(frames, || {
            old = published.0.load(Acquire);
            // INVARIANT: `new` is null or came from `KBox::into_raw`.
            published.0.store(new, Release);
            tell();
        });
        if !old.is_null() {
            // SAFETY: `old` came from `KBox::into_raw` by the type invariants, is no longer
            // published, and `change` waited for the readers that may have seen it.
            drop(unsafe { KBox::from_raw(old) });
        }
    }
}

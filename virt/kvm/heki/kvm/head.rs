// SPDX-License-Identifier: GPL-2.0

//! The head of a VM's state: the fields that C reads without asking Rust.
//!
//! UNSAFETY: shares `struct kvm_heki` with C, which reads it at any time.
//! Locks: written under `kvm->slots_lock`, read without.

use kernel::{
    bindings,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

/// `struct kvm_heki`, to which `kvm->arch.heki` points.
#[repr(transparent)]
pub(crate) struct Head(Opaque<bindings::kvm_heki>);

/// What the head says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Facts {
    /// Whether the VM is sealed.
    pub(crate) sealed: bool,
    /// Whether supervisor execution is an allow-list.
    pub(crate) exec: bool,
    /// CR0 bits that hardware keeps set.
    pub(crate) cr0_on: u64,
    /// CR4 bits that hardware keeps set.
    pub(crate) cr4_on: u64,
}

impl Head {
    /// The head of a VM that is open; C sets up its rate limit.
    pub(crate) const fn new() -> Self {
        Self(pin_init::zeroed())
    }

    /// Sets all fields. Callers hold `kvm->slots_lock`; readers may see a mixture until they are
    /// next told to look (`KVM_REQ_HEKI`).
    pub(crate) fn set(&self, facts: Facts) {
        let head = self.0.get();
        // SAFETY: `head` points to our own field, which lives as long as `self`; C accesses these
        // fields by `READ_ONCE()` only.
        let (sealed, exec, cr0_on, cr4_on) = unsafe {
            (
                Atomic::from_ptr(&raw mut (*head).sealed),
                Atomic::from_ptr(&raw mut (*head).exec),
                Atomic::from_ptr(&raw mut (*head).cr0_on),
                Atomic::from_ptr(&raw mut (*head).cr4_on),
            )
        };
        cr0_on.store(facts.cr0_on, Relaxed);
        cr4_on.store(facts.cr4_on, Relaxed);
        exec.store(u32::from(facts.exec), Relaxed);
        sealed.store(u32::from(facts.sealed), Relaxed);
    }
}

// SAFETY: all access after construction is atomic.
unsafe impl Send for Head {}
// SAFETY: as above.
unsafe impl Sync for Head {}

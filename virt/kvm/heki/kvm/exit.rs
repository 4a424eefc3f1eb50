// SPDX-License-Identifier: GPL-2.0

//! Exits to user space: a request that waits for its answer, a denial that is told.
//!
//! UNSAFETY: calls the glue that wants a loaded vCPU, and gives it a request to keep.
//! Locks: as [`Vcpu`].

use super::vcpu::{
    Denied,
    Vcpu, //
};
use crate::{
    abi,
    consent::Pending, //
};
use core::ptr;
use kernel::{
    bindings,
    ffi::{
        c_long,
        c_void, //
    },
    prelude::*, //
};

impl Vcpu<'_> {
    /// Has user space asked about `request`, which `asked` describes.
    ///
    /// Returns what the hypercall's server is to return. The answer comes to `__kvm_heki_answer`,
    /// or `__kvm_heki_drop` gets the request.
    pub(crate) fn ask(&mut self, request: KBox<Pending>, asked: &abi::Exit) -> c_long {
        let request: *mut c_void = KBox::into_raw(request).cast();
        // SAFETY: the vCPU is valid and loaded by its type invariants; the glue copies `asked`,
        // which has the layout of `struct heki_exit` (asserted below), and keeps `request`.
        unsafe { bindings::heki_glue_ask(self.raw(), request, ptr::from_ref(asked).cast()) };
        bindings::KVM_HEKI_ASK as c_long
    }

    /// Tells user space of a denial of class `class` (`HEKI_CLASS_*`), if its policy wants that.
    pub(crate) fn tell_denial(&self, class: u32, denied: &Denied) {
        // SAFETY: the vCPU is valid and loaded by its type invariants.
        unsafe {
            bindings::heki_glue_tell_denial(
                self.raw(),
                class,
                denied.reason,
                denied.va,
                denied.reg,
                denied.index,
                denied.bits,
                denied.value,
                denied.learned,
            )
        }
    }
}

static_assert!(size_of::<abi::Exit>() == size_of::<bindings::heki_exit>());
static_assert!(size_of::<abi::Policy>() == size_of::<bindings::heki_policy>());
static_assert!(size_of::<abi::Caps>() == size_of::<bindings::heki_caps>());

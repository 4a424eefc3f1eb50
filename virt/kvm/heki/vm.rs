// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! The state of one VM that opted in.
//!
//! [`hypercall`](super::hypercall) seals it, [`protect`](super::protect) and [`pin`](super::pin)
//! ask it, [`show`](super::show) prints it. Locks: changed under `kvm->slots_lock`, read without
//! one through [`Reader`].

use crate::{
    kvm::{
        head::{
            Facts,
            Head, //
        },
        publish::{
            Published,
            Reader, //
        },
        slots::SlotsLock, //
    },
    policy::{
        lifecycle::{
            self,
            Event,
            State, //
        },
        map::{
            Map,
            Region, //
        },
        pin::{
            Pins,
            PINNABLE_CR0,
            PINNABLE_CR4, //
        },
        refusal::Refusal,
        rights::Rights, //
    },
};
use kernel::prelude::*;

/// State of a VM: its seal, and the pins that this host can hold for it.
///
/// `kvm->arch.heki` points to it, hence the layout: C knows the head.
#[repr(C)]
pub(crate) struct Vm {
    head: Head,
    seal: Published<Seal>,
    /// CR4 bits that can be pinned on this CPU.
    pub(crate) cr4_pinnable: u64,
}

/// What a guest sealed. Never changes; a reset replaces it by nothing.
pub(crate) struct Seal {
    /// Sorted and disjoint.
    pub(crate) regions: KVVec<Region>,
    /// Rights of memory in no region.
    pub(crate) default: Rights,
    /// Whether supervisor execution is an allow-list.
    pub(crate) exec: bool,
    /// Register bits that stay set.
    pub(crate) pins: Pins,
}

impl Seal {
    /// The permission map.
    pub(crate) fn map(&self) -> Map<'_> {
        Map::assume_sorted(self.regions.as_slice(), self.default)
    }

    fn facts(&self) -> Facts {
        Facts {
            sealed: true,
            exec: self.exec,
            cr0_on: self.pins.cr0,
            cr4_on: self.pins.cr4,
        }
    }
}

impl Vm {
    /// A VM that is Open; `None` without memory.
    ///
    /// `cr4_in_hardware` are the CR4 bits that the CPU has.
    pub(crate) fn new(cr4_in_hardware: u64) -> Option<KBox<Self>> {
        let vm = Self {
            head: Head::new(),
            seal: Published::none(),
            cr4_pinnable: PINNABLE_CR4 & cr4_in_hardware,
        };
        KBox::new(vm, GFP_KERNEL_ACCOUNT).ok()
    }

    /// The seal, if there is one.
    pub(crate) fn seal<'a>(&'a self, reader: Reader<'a>) -> Option<&'a Seal> {
        self.seal.get(reader)
    }

    /// Where the VM is in its life.
    pub(crate) fn state(&self, reader: Reader<'_>) -> State {
        match self.seal(reader) {
            Some(_) => State::Sealed,
            None => State::Open,
        }
    }

    /// The CR0 bits that can be pinned.
    pub(crate) fn cr0_pinnable(&self) -> u64 {
        PINNABLE_CR0
    }

    /// Open to Sealed. When this returns, the seal holds on every vCPU.
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadySealed`]; nothing has changed then.
    pub(crate) fn enter_seal(&self, lock: &SlotsLock<'_>, seal: KBox<Seal>) -> Result<(), Refusal> {
        lifecycle::next(self.state(lock.reader()), Event::Seal)?;
        let facts = seal.facts();
        lock.replace(&self.seal, Some(seal), || self.head.set(facts));
        Ok(())
    }

    /// Back to Open. The caller keeps every vCPU out of the guest.
    pub(crate) fn reset(&self, lock: &SlotsLock<'_>) {
        if lifecycle::next(self.state(lock.reader()), Event::Reset).is_ok() {
            lock.replace(&self.seal, None, || self.head.set(Facts::default()));
        }
    }
}

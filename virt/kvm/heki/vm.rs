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
    learn::Learned,
    policy::{
        address::Windows,
        lifecycle::{
            self,
            Event,
            State, //
        },
        map::{
            Map,
            Region,
            PAGE_SHIFT, //
        },
        pin::{
            Pins,
            FORCED_CR0,
            FORCED_CR4,
            PINNABLE_CR0,
            PINNABLE_CR4, //
        },
        refusal::Refusal,
        registers::Held,
        request::{
            Request,
            GPA_END, //
        },
        rights::Rights,
        vmm::Policy, //
    },
    text::{
        self,
        ProfileBytes, //
    },
};
use core::{
    mem::size_of,
    ops::Range, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// All frames that a VM can have.
const ALL_FRAMES: Range<u64> = 0..GPA_END >> PAGE_SHIFT;

/// State of a VM: its seal, and the pins that this host can hold for it.
///
/// `kvm->arch.heki` points to it, hence the layout: C knows the head.
#[repr(C)]
pub(crate) struct Vm {
    head: Head,
    seal: Published<Seal>,
    profile: Published<ProfileBytes>,
    policy: Published<Policy>,
    /// CR4 bits that can be pinned on this CPU.
    cr4_pinnable: u64,
    /// Those of them that it can hold set.
    cr4_forced: u64,
}

/// What a guest sealed. Never changes: a grant replaces it by another, a reset by nothing.
pub(crate) struct Seal {
    /// Sorted and disjoint.
    pub(crate) regions: KVVec<Region>,
    /// Which of them the guest maps, in the order of its addresses.
    pub(crate) order: KVVec<u32>,
    /// Rights of memory in no region.
    pub(crate) default: Rights,
    /// Whether supervisor execution is an allow-list.
    pub(crate) exec: bool,
    /// Bits of control registers that stay set.
    pub(crate) pins: Pins,
    /// Other registers of which bits keep their value.
    pub(crate) held: Arc<KVVec<Held>>,
    /// What changes of text are judged by.
    pub(crate) text: Arc<text::Facts>,
    /// What the guest was let do all the same, if its VM learns.
    pub(crate) learned: Option<Arc<Learned>>,
}

impl Seal {
    /// What a checked `request` describes, under `policy`, with what was gathered for it.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMemory`].
    pub(crate) fn new(
        request: &Request<'_>,
        policy: &Policy,
        regions: KVVec<Region>,
        order: KVVec<u32>,
        held: KVVec<Held>,
        text: text::Facts,
    ) -> Result<KBox<Self>, Refusal> {
        let held = Arc::new(held, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
        let text = Arc::new(text, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
        let seal = Self {
            regions,
            order,
            default: request.default_rights(),
            exec: request.exec(),
            pins: request.pins(),
            held,
            text,
            learned: Learned::of(policy)?,
        };
        KBox::new(seal, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)
    }

    /// The permission map.
    pub(crate) fn map(&self) -> Map<'_> {
        Map::assume_sorted(self.regions.as_slice(), self.default)
    }

    /// The regions by the guest's addresses.
    pub(crate) fn windows(&self) -> Windows<'_> {
        Windows::new(self.regions.as_slice(), self.order.as_slice())
    }

    /// The same seal with other regions.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overlap`] if two of them claim one address, [`Refusal::NoMemory`].
    pub(crate) fn with_regions(&self, regions: KVVec<Region>) -> Result<KBox<Self>, Refusal> {
        let seal = Self {
            order: text::order(regions.as_slice())?,
            regions,
            default: self.default,
            exec: self.exec,
            pins: self.pins,
            held: self.held.clone(),
            text: self.text.clone(),
            learned: self.learned.clone(),
        };
        KBox::new(seal, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)
    }

    /// What is kept of a register other than CR0 and CR4, if anything.
    pub(crate) fn held(&self, reg: u32, index: u32) -> Option<&Held> {
        let mut all = self.held.iter();
        all.find(|held| held.reg == reg && held.index == index)
    }

    /// What C is told of it on a CPU that can hold the bits `cr4_forced` of CR4.
    fn facts(&self, cr4_forced: u64) -> Facts {
        Facts {
            sealed: true,
            exec: self.exec,
            cr0_on: self.pins.cr0 & FORCED_CR0,
            cr4_on: self.pins.cr4 & cr4_forced,
        }
    }
}

impl Vm {
    /// A VM that is Open; `None` without memory.
    ///
    /// `cr4_in_hardware` are the CR4 bits that the CPU has, `cr4_pinnable` those that KVM lets guests have.
    pub(crate) fn new(cr4_in_hardware: u64, cr4_pinnable: u64) -> Option<KBox<Self>> {
        let vm = Self {
            head: Head::new(),
            seal: Published::none(),
            profile: Published::none(),
            policy: Published::none(),
            cr4_pinnable: PINNABLE_CR4 & cr4_pinnable,
            cr4_forced: FORCED_CR4 & cr4_in_hardware,
        };
        KBox::new(vm, GFP_KERNEL_ACCOUNT).ok()
    }

    /// The seal, if there is one.
    pub(crate) fn seal<'a>(&'a self, reader: Reader<'a>) -> Option<&'a Seal> {
        self.seal.get(reader)
    }

    /// What the VMM told of the guest's kernel, if it did.
    pub(crate) fn profile<'a>(&'a self, reader: Reader<'a>) -> Option<&'a ProfileBytes> {
        self.profile.get(reader)
    }

    /// What the VMM decided, or what goes without a decision.
    pub(crate) fn policy(&self, reader: Reader<'_>) -> Policy {
        self.policy.get(reader).copied().unwrap_or_default()
    }

    /// Whether the VMM decided.
    pub(crate) fn has_policy(&self, reader: Reader<'_>) -> bool {
        self.policy.get(reader).is_some()
    }

    /// Takes what the VMM decided. No vCPU exists yet.
    pub(crate) fn set_policy(&self, lock: &mut SlotsLock<'_>, policy: KBox<Policy>) {
        lock.replace(&self.policy, &ALL_FRAMES, Some(policy), || {});
    }

    /// Where the VM is in its life.
    pub(crate) fn state(&self, reader: Reader<'_>) -> State {
        match self.seal(reader) {
            Some(_) => State::Sealed,
            None => State::Open,
        }
    }

    /// The bytes of the host that a seal takes, by what they hold.
    pub(crate) fn memory(&self, seal: &Seal, reader: Reader<'_>) -> [(&'static str, usize); 7] {
        let fixed = size_of::<Self>()
            .saturating_add(size_of::<Seal>())
            .saturating_add(size_of::<text::Facts>());
        let map = text::bytes(&seal.regions).saturating_add(text::bytes(&seal.order));
        let profile = self
            .profile(reader)
            .map_or(0, |profile| text::bytes(&profile.0));
        let (sites, probes) = seal.text.bytes();
        [
            ("fixed", fixed),
            ("registers", text::bytes(&seal.held)),
            ("map", map),
            ("sites", sites),
            ("probes", probes),
            ("profile", profile),
            (
                "learned",
                seal.learned.as_ref().map_or(0, |learned| learned.bytes()),
            ),
        ]
    }

    /// The CR0 and CR4 bits that can be pinned: without `by_refusal`, those that hardware holds.
    pub(crate) fn pinnable(&self, by_refusal: bool) -> Pins {
        let all = Pins {
            cr0: PINNABLE_CR0,
            cr4: self.cr4_pinnable,
        };
        let forced = Pins {
            cr0: FORCED_CR0,
            cr4: self.cr4_forced,
        };
        if by_refusal {
            all
        } else {
            all.within(forced)
        }
    }

    /// Takes what the VMM tells of the guest's kernel. No vCPU exists yet.
    pub(crate) fn set_profile(&self, lock: &mut SlotsLock<'_>, profile: KBox<ProfileBytes>) {
        lock.replace(&self.profile, &ALL_FRAMES, Some(profile), || {});
    }

    /// Open to Sealed. When this returns, the seal holds on every vCPU.
    ///
    /// # Errors
    ///
    /// [`Refusal::AlreadySealed`]; nothing has changed then.
    pub(crate) fn enter_seal(
        &self,
        lock: &mut SlotsLock<'_>,
        seal: KBox<Seal>,
    ) -> Result<(), Refusal> {
        lifecycle::next(self.state(lock.reader()), Event::Seal)?;
        let facts = seal.facts(self.cr4_forced);
        lock.replace(&self.seal, &ALL_FRAMES, Some(seal), || self.head.set(facts));
        lock.reload_vcpus();
        Ok(())
    }

    /// Another permission map for a sealed VM, which differs in `frames` only. When this returns,
    /// no vCPU can use a right that is gone.
    pub(crate) fn change_regions(
        &self,
        lock: &mut SlotsLock<'_>,
        frames: &Range<u64>,
        seal: KBox<Seal>,
    ) {
        lock.replace(&self.seal, frames, Some(seal), || {});
    }

    /// Back to Open. The caller keeps every vCPU out of the guest.
    pub(crate) fn reset(&self, lock: &mut SlotsLock<'_>) {
        if lifecycle::next(self.state(lock.reader()), Event::Reset).is_ok() {
            lock.replace(&self.seal, &ALL_FRAMES, None, || {
                self.head.set(Facts::default())
            });
            lock.reload_vcpus();
        }
    }
}

// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! The state of a VM on its way to another host: saved as bytes, and taken up again.
//!
//! The layout and its checks are [`policy::saved`](super::policy::saved). What is set is held to all
//! that a SEAL is: this host, the VM's vCPUs, its memory, the VMM's policy and profile.
//! Locks: every vCPU's mutex is held; saving comes inside `kvm->slots_lock`, restoring inside
//! `kvm->srcu`, which it leaves to take that lock.

use crate::{
    abi, hypercall,
    kvm::{
        slots::SlotsLock,
        vcpu::Vcpu, //
    },
    pin,
    policy::{
        address::Windows,
        lifecycle::{
            self,
            Event, //
        },
        refusal::Refusal,
        saved::{
            self,
            Saved, //
        },
        sort::sort_by_key, //
    },
    text, verdict,
    vm::{
        Seal,
        Vm, //
    },
};
use kernel::prelude::*;

/// The number of bytes that [`save`] writes.
pub(crate) fn bytes(vm: &Vm, lock: &SlotsLock<'_>) -> usize {
    let seal = vm.seal(lock.reader());
    let source = seal.map(|seal| seal.text.source(seal));
    saved::bytes(source.as_ref(), counters(lock).count())
}

/// Writes the state into `out`, which has [`bytes`] bytes.
///
/// A seal under which the VM learns is not one that another host could hold.
pub(crate) fn save(vm: &Vm, lock: &SlotsLock<'_>, out: &mut [u8]) -> Result {
    let seal = vm.seal(lock.reader());
    if seal.is_some() && vm.policy(lock.reader()).learning() != 0 {
        return Err(EOPNOTSUPP);
    }
    let source = seal.map(|seal| seal.text.source(seal));
    let mut all = KVVec::new();
    for counters in counters(lock) {
        all.push(counters, GFP_KERNEL_ACCOUNT)?;
    }
    // They come in the order of their creation.
    sort_by_key(all.as_mut_slice(), |counters| counters.vcpu);
    saved::write(source.as_ref(), all.iter().copied(), out).map_err(|_| EINVAL)
}

fn counters<'a>(lock: &'a SlotsLock<'_>) -> impl Iterator<Item = abi::Counters> + 'a {
    (0..).map_while(|index| lock.counters(index))
}

/// Takes up a saved state in a VM that is open, as `vcpu`, which has not run, like all others.
pub(crate) fn restore(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8]) -> Result {
    let outcome = try_restore(vm, vcpu, bytes);
    verdict::restored(vcpu, outcome);
    outcome.map_err(errno)
}

fn try_restore(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    lifecycle::next(vm.state(vcpu.reader()), Event::Seal)?;
    let saved = Saved::parse(bytes, &hypercall::caps(vm, vcpu))?;
    match saved.seal() {
        Some(seal) => restore_seal(vm, vcpu, &saved, seal),
        None => {
            let lock = vcpu.lock_slots();
            check_counters(&lock, &saved)?;
            restore_counters(&lock, &saved);
            Ok(())
        }
    }
}

fn restore_seal(
    vm: &Vm,
    vcpu: &mut Vcpu<'_>,
    saved: &Saved<'_>,
    seal: &saved::Seal<'_>,
) -> Result<(), Refusal> {
    let request = &seal.request;
    let policy = vm.policy(vcpu.reader());
    policy.check(request)?;
    // Its guest was told what is held: a VM does not begin to learn after its seal.
    if policy.learning() != 0 {
        return Err(Refusal::NotAllowed);
    }
    let regions = hypercall::plan(request)?;
    let held = pin::restore(vcpu, seal)?;

    let mut lock = vcpu.lock_slots();
    check_counters(&lock, saved)?;
    hypercall::check_memory(&lock, regions.as_slice())?;
    let order = text::order(regions.as_slice())?;
    let windows = Windows::new(regions.as_slice(), order.as_slice());
    let facts = text::restore(vm, &lock, seal, windows)?;
    let seal = Seal::new(request, &policy, regions, order, held, facts)?;
    vm.enter_seal(&mut lock, seal)?;
    restore_counters(&lock, saved);
    Ok(())
}

fn check_counters(lock: &SlotsLock<'_>, saved: &Saved<'_>) -> Result<(), Refusal> {
    if saved
        .counters()
        .all(|counters| lock.has_vcpu(counters.vcpu))
    {
        Ok(())
    } else {
        Err(Refusal::NoVcpu)
    }
}

fn restore_counters(lock: &SlotsLock<'_>, saved: &Saved<'_>) {
    for counters in saved.counters() {
        lock.set_counters(&counters);
    }
}

/// What the VMM is told; the log says more.
fn errno(refusal: Refusal) -> Error {
    match refusal {
        Refusal::NoMemory => ENOMEM,
        Refusal::TooBig => E2BIG,
        Refusal::AlreadySealed => EBUSY,
        Refusal::WrongKernel => EPERM,
        Refusal::ExecUnsupported | Refusal::PinUnsupported | Refusal::NotAllowed => EOPNOTSUPP,
        _ => EINVAL,
    }
}

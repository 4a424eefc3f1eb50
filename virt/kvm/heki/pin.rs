// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Registers of a sealed VM: what can be pinned on a vCPU, and the refusal of a change.
//!
//! Hardware holds most pinned bits of CR0 and CR4 in any case (`kvm_heki_cr0_on()`,
//! `kvm_heki_cr4_on()` in `arch/x86/kvm/heki.h`); there, refusal tells the guest and the host. The
//! others, and all other registers, change only by an exit, so there refusal is what holds them. Nothing holds them
//! where the VMM's policy has the VM learn.
//! Decides with [`policy::registers`](super::policy::registers). Locks: none.

use crate::{
    abi,
    kvm::vcpu::Vcpu,
    policy::{
        pin::Pins,
        refusal::Refusal,
        registers::{
            self,
            Held,
            Scope, //
        },
        request::Request,
        saved,
        verdict::{
            Access,
            Verdict, //
        },
    },
    verdict,
    vm::{
        Seal,
        Vm, //
    },
};
use kernel::prelude::*;

/// Whether the guest may not change CR0 or CR4 (`reg`) from `old` to `new`; reports if so.
pub(crate) fn denies(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, old: u64, new: u64) -> bool {
    let Some(seal) = vm.seal(vcpu.reader()) else {
        return false;
    };
    report(vm, vcpu, reg, 0, seal.pins.denied(reg, old, new), new)
}

/// Whether the guest may not load `new` into XCR0 or an MSR; reports if so.
pub(crate) fn denies_load(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, index: u32, new: u64) -> bool {
    let Some(held) = vm
        .seal(vcpu.reader())
        .and_then(|seal| seal.held(reg, index))
    else {
        return false;
    };
    // A register that cannot be read any more counts as loaded with the value of the seal.
    let current = if held.scope() != Scope::Vm {
        vcpu.see(reg, index).map_or(held.value, |seen| seen.value)
    } else {
        held.value
    };
    let up = held.scope() == Scope::Start && vcpu.is_up();
    report(vm, vcpu, reg, index, held.denied(current, new, up), new)
}

/// Whether nothing may change a register other than CR0 and CR4 from the first to the second value;
/// reports if so.
pub(crate) fn denies_change(
    vm: &Vm,
    vcpu: &Vcpu<'_>,
    reg: u32,
    index: u32,
    (old, new): (u64, u64),
) -> bool {
    let held = vm
        .seal(vcpu.reader())
        .and_then(|seal| seal.held(reg, index));
    report(
        vm,
        vcpu,
        reg,
        index,
        held.map_or(0, |held| (old ^ new) & held.mask),
        new,
    )
}

/// Whether the guest may not switch tasks, which loads LDTR and TR from memory; reports if so.
///
/// What they would be is for that memory to say, so that all that is pinned counts as changed.
pub(crate) fn denies_task_switch(vm: &Vm, vcpu: &Vcpu<'_>) -> bool {
    let Some(seal) = vm.seal(vcpu.reader()) else {
        return false;
    };
    let loaded = [
        (abi::HEKI_REG_TR, 2),
        (abi::HEKI_REG_TR, 0),
        (abi::HEKI_REG_TR, 1),
        (abi::HEKI_REG_LDTR, 0),
    ];
    loaded
        .into_iter()
        .find_map(|(reg, index)| seal.held(reg, index))
        .is_some_and(|held| report(vm, vcpu, held.reg, held.index, held.mask, 0))
}

fn report(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, index: u32, bits: u64, value: u64) -> bool {
    bits != 0 && verdict::denies(vm, vcpu, &Verdict::pinned(reg, index, bits, value))
}

/// What `request` wants held by value, with the values of the vCPU that asks.
///
/// # Errors
///
/// [`Refusal::PinUnsupported`], [`Refusal::SspNeedsXss`], [`Refusal::NoMemory`].
pub(crate) fn gather(vcpu: &Vcpu<'_>, request: &Request<'_>) -> Result<KVVec<Held>, Refusal> {
    let pins = request.kept().map(|pin| (pin, None));
    hold(vcpu, request.nr_pins(), pins)
}

/// The same of a saved state, with the values that it has: `vcpu`, like all others, may still have
/// those of its creation.
///
/// # Errors
///
/// As [`gather`].
pub(crate) fn restore(vcpu: &Vcpu<'_>, saved: &saved::Seal<'_>) -> Result<KVVec<Held>, Refusal> {
    let pins = saved.kept().map(|(pin, value)| (pin, Some(value)));
    hold(vcpu, saved.request.nr_pins(), pins)
}

/// At most `nr` pins, each with its value or that of `vcpu`.
fn hold(
    vcpu: &Vcpu<'_>,
    nr: usize,
    pins: impl Iterator<Item = (abi::Pin, Option<u64>)>,
) -> Result<KVVec<Held>, Refusal> {
    let mut all = KVVec::with_capacity(nr, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    for (pin, value) in pins {
        let mut held = registers::hold(&pin, vcpu.see(pin.reg, pin.index))?;
        held.value = value.unwrap_or(held.value);
        all.push(held, GFP_KERNEL_ACCOUNT)
            .map_err(|_| Refusal::NoMemory)?;
    }
    registers::check(all.as_slice())?;
    Ok(all)
}

/// The bits of a register that can be pinned for this vCPU; once sealed, those that are.
pub(crate) fn mask(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, index: u32) -> u64 {
    let is_cr = !registers::is_kept(reg);
    match vm.seal(vcpu.reader()) {
        Some(_) if vm.policy(vcpu.reader()).learns(Access::Register) => 0,
        _ if is_cr && index != 0 => 0,
        Some(seal) if is_cr => held_cr(vm, seal, vcpu).of(reg),
        None if is_cr => pinnable_cr(vm, vcpu).of(reg),
        // A vCPU that came after the seal may have VMX or SVM.
        _ if !vcpu.can_hold_msrs() => 0,
        Some(seal) => seal.held(reg, index).map_or(0, |held| held.mask),
        None => pinnable_kept(vm, vcpu, reg, index),
    }
}

/// The bits of CR0 and CR4 that can be pinned for this vCPU before the seal.
///
/// A nested VM exit loads them as it loads MSRs, past the refusal.
pub(crate) fn pinnable_cr(vm: &Vm, vcpu: &Vcpu<'_>) -> Pins {
    if vm.policy(vcpu.reader()).allows(abi::HEKI_PROT_CR) {
        vm.pinnable(vcpu.can_hold_msrs())
    } else {
        Pins::NONE
    }
}

/// The bits of CR0 and CR4 that `seal` holds on this vCPU.
pub(crate) fn held_cr(vm: &Vm, seal: &Seal, vcpu: &Vcpu<'_>) -> Pins {
    seal.pins.within(vm.pinnable(vcpu.can_hold_msrs()))
}

fn pinnable_kept(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, index: u32) -> u64 {
    if !vm.policy(vcpu.reader()).allows(registers::protection(reg)) {
        return 0;
    }
    // Only what has a row is read: a guest cannot make KVM read just any MSR this way.
    registers::find(reg, index)
        .filter(|row| row.pinnable() != 0)
        .and_then(|row| Some(vcpu.see(reg, index)?.pinnable(row)))
        .unwrap_or(0)
}

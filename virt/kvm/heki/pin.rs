// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Control registers of a sealed VM: the refusal of a change.
//!
//! Hardware holds the pinned bits in any case (`kvm_heki_cr0_on()`, `kvm_heki_cr4_on()` in
//! `arch/x86/kvm/heki.h`); this tells the guest and the host. Locks: none.

use crate::{
    kvm::vcpu::Vcpu,
    policy::verdict::Verdict,
    verdict,
    vm::Vm, //
};

/// Whether the guest may not change register `reg` from `old` to `new`; reports if so.
pub(crate) fn denies(vm: &Vm, vcpu: &Vcpu<'_>, reg: u32, old: u64, new: u64) -> bool {
    let Some(seal) = vm.seal(vcpu.reader()) else {
        return false;
    };
    let bits = seal.pins.denied(reg, old, new);
    if bits != 0 {
        verdict::denied(vcpu, &Verdict::pinned(reg, bits));
    }
    bits != 0
}

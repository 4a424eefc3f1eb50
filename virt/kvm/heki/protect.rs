// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Memory of a sealed VM: rights, mapping levels, denials.
//!
//! Asked by the MMU on every fault and by the emulator; decides with
//! [`policy::map`](super::policy::map). Locks: none; callers are inside `kvm->srcu` or
//! `kvm->mmu_lock` and may not sleep.

use crate::{
    abi,
    kvm::{
        publish::Reader,
        vcpu::Vcpu, //
    },
    policy::{
        rights::Rights,
        verdict::{
            judge,
            Reason,
            Verdict, //
        },
    },
    verdict,
    vm::Vm, //
};
use kernel::bindings;

/// Frames of a mapping at each level: 4 KiB, 2 MiB, 1 GiB.
const LEVELS: [u64; 3] = [1, 1 << 9, 1 << 18];

/// The rights that all of the `nr_pages` frames from `gfn` have, none if they differ.
pub(crate) fn rights(vm: &Vm, reader: Reader<'_>, gfn: u64, nr_pages: u64) -> Rights {
    match vm.seal(reader) {
        // A mapping over different rights is never asked for: `max_level` keeps it small.
        Some(seal) => seal.map().uniform(gfn, nr_pages).unwrap_or(Rights::NONE),
        None => Rights::ALL,
    }
}

/// Lists what was sealed and granted, as far as there is room; how many ranges there are.
pub(crate) fn list(vm: &Vm, reader: Reader<'_>, out: &mut [abi::Range]) -> usize {
    let Some(seal) = vm.seal(reader) else {
        return 0;
    };
    for (slot, region) in out.iter_mut().zip(seal.regions.iter()) {
        *slot = region.abi();
    }
    seal.regions.len()
}

/// The highest level (`PG_LEVEL_4K` is 1) at which a mapping around `gfn` has uniform rights.
pub(crate) fn max_level(vm: &Vm, reader: Reader<'_>, gfn: u64) -> i32 {
    let index = match vm.seal(reader) {
        Some(seal) => seal.map().largest_uniform(gfn, &LEVELS),
        None => LEVELS.len().saturating_sub(1),
    };
    index as i32 + 1
}

/// The verdict on an access (`KVM_HEKI_ACCESS_*`) to `gfn`, `None` if it is allowed.
pub(crate) fn decide(vm: &Vm, reader: Reader<'_>, gfn: u64, access: u32) -> Option<Verdict> {
    let seal = vm.seal(reader)?;
    let write = access & bindings::KVM_HEKI_ACCESS_WRITE != 0;
    let fetch = access & bindings::KVM_HEKI_ACCESS_FETCH != 0;
    let walk = access & bindings::KVM_HEKI_ACCESS_WALK != 0;
    judge(&seal.map(), gfn, Rights::new(write, fetch), fetch, walk)
}

/// Reports that KVM itself was refused to write `gfn`.
pub(crate) fn report_writer(vm: &Vm, vcpu: &Vcpu<'_>, gfn: u64) {
    if let Some(denial) = decide(vm, vcpu.reader(), gfn, bindings::KVM_HEKI_ACCESS_WRITE) {
        let reason = Reason::KvmWriter;
        verdict::denied(vcpu, &Verdict { reason, ..denial });
    }
}

/// Reports the denial of an access that [`decide`] denies.
pub(crate) fn report(vm: &Vm, vcpu: &Vcpu<'_>, gfn: u64, access: u32) {
    if let Some(denial) = decide(vm, vcpu.reader(), gfn, access) {
        verdict::denied(vcpu, &denial);
    }
}

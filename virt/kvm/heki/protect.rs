// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Memory of a sealed VM: rights, mapping levels, denials.
//!
//! Asked by the MMU on every fault and by the emulator; decides with
//! [`policy::map`](super::policy::map), and by what a VM that learns has [learned](super::learn).
//! Locks: none; callers are inside `kvm->srcu` or `kvm->mmu_lock` and may not sleep.

use crate::{
    abi,
    kvm::{
        publish::Reader,
        vcpu::Vcpu, //
    },
    policy::{
        learn::Added,
        rights::Rights,
        verdict::{
            judge,
            Access,
            Reason,
            Verdict, //
        },
    },
    verdict,
    vm::{
        Seal,
        Vm, //
    },
};
use kernel::bindings;

/// Frames of a mapping at each level: 4 KiB, 2 MiB, 1 GiB.
const LEVELS: [u64; 3] = [1, 1 << 9, 1 << 18];

/// The rights that all of the `nr_pages` frames from `gfn` have, none if they differ.
pub(crate) fn rights(vm: &Vm, reader: Reader<'_>, gfn: u64, nr_pages: u64) -> Rights {
    match vm.seal(reader) {
        // A mapping over different rights is never asked for: `max_level` keeps it small.
        Some(seal) => {
            let rights = seal.map().uniform(gfn, nr_pages).unwrap_or(Rights::NONE);
            rights.union(learned(seal, gfn, nr_pages))
        }
        None => Rights::ALL,
    }
}

/// The rights that all of the `nr_pages` frames from `gfn` have beyond the seal.
fn learned(seal: &Seal, gfn: u64, nr_pages: u64) -> Rights {
    match &seal.learned {
        Some(learned) => learned.get().rights(gfn, nr_pages),
        None => Rights::NONE,
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
        Some(seal) => seal.map().largest_uniform(gfn, levels(seal, gfn)),
        None => LEVELS.len().saturating_sub(1),
    };
    index as i32 + 1
}

/// The levels at which a mapping around `gfn` has no frame of which something was learned.
fn levels(seal: &Seal, gfn: u64) -> &'static [u64] {
    let Some(learned) = &seal.learned else {
        return &LEVELS;
    };
    let differs = |&nr: &u64| nr > 1 && learned.get().has_any(gfn & !(nr - 1), nr);
    let nr = LEVELS.iter().position(differs).unwrap_or(LEVELS.len());
    LEVELS.get(..nr).unwrap_or_default()
}

/// The verdict on an access (`KVM_HEKI_ACCESS_*`) to `gfn`, `None` if it is allowed.
pub(crate) fn decide(vm: &Vm, reader: Reader<'_>, gfn: u64, access: u32) -> Option<Verdict> {
    let seal = vm.seal(reader)?;
    let write = access & bindings::KVM_HEKI_ACCESS_WRITE != 0;
    let fetch = access & bindings::KVM_HEKI_ACCESS_FETCH != 0;
    let walk = access & bindings::KVM_HEKI_ACCESS_WALK != 0;
    let wanted = Rights::new(write, fetch).without(learned(seal, gfn, 1));
    judge(&seal.map(), gfn, wanted, fetch, walk)
}

/// Reports that KVM itself was refused to write `gfn`.
pub(crate) fn report_writer(vm: &Vm, vcpu: &Vcpu<'_>, gfn: u64) {
    if let Some(denial) = decide(vm, vcpu.reader(), gfn, bindings::KVM_HEKI_ACCESS_WRITE) {
        let reason = Reason::KvmWriter;
        verdict::denies(vm, vcpu, &Verdict { reason, ..denial });
    }
}

/// Whether an access that [`decide`] denies stays denied; reports it. If not, it is learned, and
/// [`decide`] allows it from now on.
pub(crate) fn denies(vm: &Vm, vcpu: &Vcpu<'_>, gfn: u64, access: u32) -> bool {
    let reader = vcpu.reader();
    let (Some(seal), Some(denial)) = (vm.seal(reader), decide(vm, reader, gfn, access)) else {
        return false;
    };
    let right = match denial.access {
        Access::Fetch => Rights::EXEC,
        _ => Rights::WRITE,
    };
    let added = match &seal.learned {
        Some(learned) => learned.get().add(gfn, right),
        None => Added::No,
    };
    // Another vCPU may have come first, and told.
    let denies = added != Added::Before && verdict::denies(vm, vcpu, &denial);
    if added == Added::Last {
        verdict::learned_all(vcpu);
    }
    denies
}

// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! The debugfs file `heki` of a VM: state, pins, ranges and what they cost, one line each.
//!
//! Of pinned MSRs the bits are printed and not the values, which tell addresses of the guest.
//! Ranges are printed as guest physical addresses, the last one included, as `/proc/iomem` does.
//! Locks: inside `kvm->srcu`.

use crate::{
    abi,
    kvm::publish::Reader,
    policy::{
        map::PAGE_SHIFT,
        registers::name, //
    },
    vm::Vm, //
};
use kernel::{
    seq_file::SeqFile,
    seq_print, //
};

/// Prints the VM.
pub(crate) fn show(vm: &Vm, reader: Reader<'_>, m: &SeqFile) {
    seq_print!(m, "state {}\n", vm.state(reader).as_str());
    let policy = vm.policy(reader);
    if policy.learning() != 0 {
        let [write, exec, registers, patch] = policy.learning_words();
        seq_print!(m, "learning{write}{exec}{registers}{patch}\n");
    }
    let Some(seal) = vm.seal(reader) else {
        return;
    };
    seq_print!(
        m,
        "exec {}\n",
        if seal.exec { "allow-list" } else { "free" }
    );
    seq_print!(m, "pin cr0 {:#x}\n", seal.pins.cr0);
    seq_print!(m, "pin cr4 {:#x}\n", seal.pins.cr4);
    for held in seal.held.iter() {
        match held.reg {
            abi::HEKI_REG_MSR => seq_print!(m, "pin msr {:#x} {:#x}\n", held.index, held.mask),
            abi::HEKI_REG_XCR0 => seq_print!(m, "pin xcr0 {:#x}\n", held.mask),
            reg => seq_print!(m, "pin {} {:#x}\n", name(reg, held.index), held.mask),
        }
    }
    seq_print!(m, "sites {}\n", seal.text.nr_sites());
    seq_print!(m, "probes {}\n", seal.text.nr_probes());
    seq_print!(m, "patch {:#x}\n", seal.text.served());
    for region in seal.regions.iter() {
        seq_print!(
            m,
            "range {:#x}-{:#x} {} {}\n",
            region.start << PAGE_SHIFT,
            (region.end << PAGE_SHIFT).saturating_sub(1),
            region.rights.as_str(),
            region.kind_str(),
        );
    }
    for (what, bytes) in vm.memory(seal, reader) {
        seq_print!(m, "memory {what} {bytes}\n");
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The pure crates as the kernel includes them: modules of one crate, without `std` and `alloc`.
//!
//! Fails to compile where a crate reaches for what only Cargo gives it, so that this shows without
//! a kernel build. Neighbours: `virt/kvm/heki/heki.rs`, which includes them the same way.

#![no_std]
#![deny(warnings)]

#[path = "../../../../heki/abi/lib.rs"]
mod abi;
#[path = "../lib.rs"]
mod policy;

// Both modules see the same wire: a register of the one is a register of the other.
const _: () = {
    let pins = policy::pin::Pins { cr0: 1, cr4: 2 };
    assert!(pins.of(abi::HEKI_REG_CR0) == 1 && pins.of(abi::HEKI_REG_CR4) == 2);
};

// SPDX-License-Identifier: GPL-2.0

//! Heki in the host: keeps a sealed guest kernel as it was when it sealed itself.
//!
//! Crate root, linked into `kvm.ko`. Three floors: [`hooks`] is the door that KVM's C calls;
//! [`kvm`] is the floor, with the only other `unsafe`; the rooms above decide with [`policy`],
//! which knows neither kernel nor locks.
//!
//! Life of a VM: Off, then Open when user space opts it in, then Sealed by its own guest, then
//! Open again by a reset. Lock order, outermost first: `kvm->lock`, `vcpu->mutex`,
//! `kvm->slots_lock`, `kvm->srcu`, `kvm->mmu_lock`.

#[path = "../../heki/abi/lib.rs"]
mod abi;
mod consent;
mod hooks;
mod hypercall;
mod kvm;
mod learn;
mod patch;
mod pin;
#[path = "policy/lib.rs"]
mod policy;
mod protect;
mod show;
mod state;
mod text;
mod verdict;
mod vm;

/// Name before each line of the log.
const __LOG_PREFIX: &[u8] = b"kvm\0";

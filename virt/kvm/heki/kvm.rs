// SPDX-License-Identifier: GPL-2.0

//! The floor: safe views of KVM for the rooms above.
//!
//! UNSAFETY: this file and its children call the C glue (`arch/x86/kvm/heki.c`) and share one
//! structure with C. Each view holds what makes its calls sound; nothing above needs `unsafe`.
//!
//! Locks: [`slots::SlotsLock`] proves that `kvm->slots_lock` is held, [`publish::Reader`] that a
//! published value cannot be freed.

pub(crate) mod exit;
pub(crate) mod head;
pub(crate) mod publish;
pub(crate) mod slots;
pub(crate) mod text;
pub(crate) mod vcpu;

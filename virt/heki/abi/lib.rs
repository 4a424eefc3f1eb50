// SPDX-License-Identifier: GPL-2.0

//! The wire: what host, guest and VMM say to each other.
//!
//! Mirrors `include/uapi/linux/heki.h`, which stays the one truth; a Cargo test holds both
//! together. One source, two builds: a crate for Cargo, and a module of the host and of the guest
//! in the kernel.
//! Neighbours: none. Locks: none, nothing here has state.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    CONFIG_RUST,
    allow(
        dead_code,
        unreachable_pub,
        reason = "each side of the wire uses its half"
    )
)]

use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

// The wire is little-endian and the types below are read as they lie.
const _: () = assert!(cfg!(target_endian = "little"));

/// Number of the hypercall ("HEKI" in ASCII).
pub const KVM_HC_HEKI: u64 = 0x4845_4b49;
/// Type of the KVM device with which the VMM opts a VM in.
pub const KVM_DEV_TYPE_HEKI: u32 = 0x48;

/// Version of the ABI that this file describes.
pub const HEKI_ABI_VERSION: u32 = 1;

/// Operation: write a [`Query`] into guest memory.
pub const HEKI_OP_QUERY: u32 = 0;
/// Operation: take a SEAL request, a [`Seal`] with its ranges and pins, whole or not at all.
pub const HEKI_OP_SEAL: u32 = 1;

/// Largest SEAL request, in bytes.
pub const HEKI_MAX_REQUEST_BYTES: u32 = 131_072;
/// Most ranges in one SEAL request.
pub const HEKI_MAX_RANGES: u32 = 4096;
/// Most pins in one SEAL request.
pub const HEKI_MAX_PINS: u32 = 8;

/// Life-cycle: this VM has nothing to do with Heki.
pub const HEKI_STATE_OFF: u32 = 0;
/// Life-cycle: the guest may seal itself.
pub const HEKI_STATE_OPEN: u32 = 1;
/// Life-cycle: the guest is sealed.
pub const HEKI_STATE_SEALED: u32 = 2;

/// Protection: sealed memory cannot be written.
pub const HEKI_PROT_WRITE: u32 = 1 << 0;
/// Protection: supervisor mode runs listed memory only.
pub const HEKI_PROT_EXEC: u32 = 1 << 1;
/// Protection: bits of CR0 and CR4 can be pinned.
pub const HEKI_PROT_CR: u32 = 1 << 2;

/// Flag of a SEAL request: the ranges with [`HEKI_EXEC`] are an allow-list.
pub const HEKI_SEAL_EXEC: u32 = 1 << 0;
/// Every flag that a SEAL request may carry.
pub const HEKI_SEAL_FLAGS: u32 = HEKI_SEAL_EXEC;

/// Right: the range can be written.
pub const HEKI_WRITE: u32 = 1 << 0;
/// Right: the range can be run in supervisor mode.
pub const HEKI_EXEC: u32 = 1 << 1;
/// Every right that a range may carry.
pub const HEKI_RIGHTS: u32 = HEKI_WRITE | HEKI_EXEC;

/// Kind: none of the others.
pub const HEKI_KIND_OTHER: u32 = 0;
/// Kind: kernel text.
pub const HEKI_KIND_TEXT: u32 = 1;
/// Kind: read-only data of the kernel.
pub const HEKI_KIND_RODATA: u32 = 2;
/// Kind: text of a module.
pub const HEKI_KIND_MODULE_TEXT: u32 = 3;
/// Kind: read-only data of a module.
pub const HEKI_KIND_MODULE_RODATA: u32 = 4;
/// Kind: the interrupt descriptor table.
pub const HEKI_KIND_IDT: u32 = 5;
/// Kind: the real-mode trampoline.
pub const HEKI_KIND_TRAMPOLINE: u32 = 6;
/// Number of kinds; the first value that is none.
pub const HEKI_KIND_COUNT: u32 = 7;

/// Register of a pin: CR0.
pub const HEKI_REG_CR0: u32 = 0;
/// Register of a pin: CR4.
pub const HEKI_REG_CR4: u32 = 4;

/// Attribute group of the KVM device.
pub const KVM_DEV_HEKI_CTRL: u32 = 0;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: back to Open, with every vCPU stopped.
pub const KVM_DEV_HEKI_RESET: u64 = 0;

/// Length of the header of a SEAL request, in bytes.
pub const HEADER_BYTES: usize = size_of::<Seal>();

/// What [`HEKI_OP_QUERY`] writes into guest memory (`struct heki_query`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Query {
    /// [`HEKI_ABI_VERSION`] of the host.
    pub version: u32,
    /// `HEKI_STATE_*`.
    pub state: u32,
    /// `HEKI_PROT_*` that this VM may ask for on this host.
    pub available: u32,
    /// `HEKI_PROT_*` in force now.
    pub held: u32,
    /// CR0 bits that the host can pin.
    pub cr0_pinnable: u64,
    /// CR4 bits that the host can pin.
    pub cr4_pinnable: u64,
    /// Largest SEAL request, in bytes.
    pub max_bytes: u32,
    /// Most ranges in one SEAL request.
    pub max_ranges: u32,
    /// Most pins in one SEAL request.
    pub max_pins: u32,
    /// Zero.
    pub reserved: u32,
}

/// Header of a SEAL request (`struct heki_seal`).
///
/// The ranges follow it, then the pins, then nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Seal {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// `HEKI_SEAL_*`.
    pub flags: u32,
    /// Number of [`Range`]s that follow the header.
    pub nr_ranges: u32,
    /// Number of [`Pin`]s that follow the ranges.
    pub nr_pins: u32,
}

/// Guest physical memory and the rights it keeps (`struct heki_range`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Range {
    /// First byte, page aligned.
    pub gpa: u64,
    /// Length in bytes, page aligned, not zero.
    pub len: u64,
    /// [`HEKI_WRITE`] or [`HEKI_EXEC`], not both, or zero.
    pub rights: u32,
    /// `HEKI_KIND_*`.
    pub kind: u32,
}

/// Bits of a register that stay set (`struct heki_pin`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pin {
    /// `HEKI_REG_*`.
    pub reg: u32,
    /// Zero.
    pub reserved: u32,
    /// The bits; each is set on the vCPU that asks.
    pub mask: u64,
}

const _: () = assert!(size_of::<Query>() == 48);
const _: () = assert!(size_of::<Seal>() == 16);
const _: () = assert!(size_of::<Range>() == 24);
const _: () = assert!(size_of::<Pin>() == 16);

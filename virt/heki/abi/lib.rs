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
/// Reason of an exit to user space, with an [`Exit`] in `struct kvm_run`.
pub const KVM_EXIT_HEKI: u32 = 0x4845_4b49;

/// Version of the ABI that this file describes.
pub const HEKI_ABI_VERSION: u32 = 2;

/// Operation: write a [`Query`] into guest memory.
pub const HEKI_OP_QUERY: u32 = 0;
/// Operation: take a SEAL request, a [`Seal`] with its arrays, whole or not at all.
pub const HEKI_OP_SEAL: u32 = 1;
/// Operation: change the instructions of a [`Patch`], all or none.
pub const HEKI_OP_PATCH: u32 = 2;
/// Operation: let the pages of a [`Grant`] run, if their content passes.
pub const HEKI_OP_GRANT: u32 = 3;
/// Operation: let the pages of a [`Grant`] be written, and run no more.
pub const HEKI_OP_RELEASE: u32 = 4;
/// Tells what the VMM froze: [`Frozen`].
pub const HEKI_OP_FROZEN: u32 = 5;
/// Operation: write into a [`Pin`] which bits of its register can be pinned, or are.
pub const HEKI_OP_QUERY_PIN: u32 = 6;
/// Operation: have the VMM keep a part of the next kernel, or start it: [`Kexec`].
pub const HEKI_OP_KEXEC: u32 = 7;

/// Largest SEAL request, in bytes.
pub const HEKI_MAX_REQUEST_BYTES: u32 = 262_144;
/// Most ranges in one SEAL request.
pub const HEKI_MAX_RANGES: u32 = 4096;
/// Most pins in one SEAL request.
pub const HEKI_MAX_PINS: u32 = 64;
/// Most areas in one SEAL request.
pub const HEKI_MAX_AREAS: u32 = 1024;

/// Most instructions in one PATCH request.
pub const HEKI_MAX_PATCHES: u32 = 256;
/// Most pages in one GRANT or RELEASE request.
pub const HEKI_MAX_GRANT_PAGES: u32 = 512;
/// Most jump labels and static calls of a VM.
pub const HEKI_MAX_SITES: u32 = 131_072;
/// Most areas of kind [`HEKI_AREA_FROZEN`] in one SEAL request.
pub const HEKI_MAX_FROZEN: u32 = 32;
/// Most addresses in one answer to [`HEKI_OP_FROZEN`].
pub const HEKI_FROZEN_ENTRIES: u32 = 62;
/// Most bytes of text that are searched for trampolines at the seal.
pub const HEKI_MAX_SCAN_BYTES: u32 = 268_435_456;
/// Most bytes in one KEXEC request.
pub const HEKI_MAX_KEXEC_CHUNK: u32 = 1_048_576;
/// Most bytes of a kernel that KEXEC loads.
pub const HEKI_MAX_KEXEC_BYTES: u32 = 268_435_456;
/// Most pages, once for each right, that a VM learns.
pub const HEKI_MAX_LEARNED: u32 = 1024;

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
/// Protection: XCR0 and MSRs can be pinned.
pub const HEKI_PROT_MSR: u32 = 1 << 3;
/// Protection: the descriptor-table registers can be pinned.
pub const HEKI_PROT_DT: u32 = 1 << 4;
/// Every protection.
pub const HEKI_PROT_ALL: u32 =
    HEKI_PROT_WRITE | HEKI_PROT_EXEC | HEKI_PROT_CR | HEKI_PROT_MSR | HEKI_PROT_DT;

/// PATCH serves jump labels.
pub const HEKI_PATCH_JUMP_LABEL: u32 = 1 << 0;
/// PATCH serves static calls.
pub const HEKI_PATCH_STATIC_CALL: u32 = 1 << 1;
/// PATCH serves ftrace.
pub const HEKI_PATCH_FTRACE: u32 = 1 << 2;
/// PATCH serves breakpoints at the addresses of the VMM's list.
pub const HEKI_PATCH_PROBE: u32 = 1 << 3;
/// The target of a call must be a function of the VMM's list.
pub const HEKI_TARGET_SYMBOL: u32 = 1 << 8;
/// The target of a call must be of the same type, by its kCFI hash.
pub const HEKI_TARGET_HASH: u32 = 1 << 9;
/// The target of a call must begin with ENDBR64.
pub const HEKI_TARGET_ENDBR: u32 = 1 << 10;
/// The VMM takes KEXEC.
pub const HEKI_SERVES_KEXEC: u32 = 1 << 16;

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
/// Kind: executable, with nothing but INT3 in it.
pub const HEKI_KIND_POOL: u32 = 7;
/// Kind: an ftrace trampoline; the host finds it, no request names it.
pub const HEKI_KIND_FTRACE: u32 = 8;
/// Number of kinds; the first value that is none.
pub const HEKI_KIND_COUNT: u32 = 9;

/// Register of a pin: CR0.
pub const HEKI_REG_CR0: u32 = 0;
/// Register of a pin: CR4.
pub const HEKI_REG_CR4: u32 = 4;
/// Register: XCR0.
pub const HEKI_REG_XCR0: u32 = 16;
/// Register: the MSR of the pin's index.
pub const HEKI_REG_MSR: u32 = 17;
/// Register: the base (index 0) or the limit (index 1) of the IDTR.
pub const HEKI_REG_IDTR: u32 = 18;
/// Register: the base (index 0) or the limit (index 1) of the GDTR.
pub const HEKI_REG_GDTR: u32 = 19;
/// Register: the selector of the LDTR.
pub const HEKI_REG_LDTR: u32 = 20;
/// Register: the base (index 0), the limit (index 1) or the selector (index 2) of TR.
pub const HEKI_REG_TR: u32 = 21;

/// Area: the `struct jump_entry`s, in sealed memory.
pub const HEKI_AREA_JUMP_TABLE: u32 = 0;
/// Area: the `struct static_call_site`s, in sealed memory.
pub const HEKI_AREA_STATIC_CALL_SITES: u32 = 1;
/// Area: keys in here never change again.
pub const HEKI_AREA_RO_AFTER_INIT: u32 = 2;
/// Area: trampolines of static calls.
pub const HEKI_AREA_STATIC_CALL_TEXT: u32 = 3;
/// Area: template of an ftrace trampoline.
pub const HEKI_AREA_FTRACE_CALLER: u32 = 4;
/// Area: template of the one that saves registers.
pub const HEKI_AREA_FTRACE_REGS_CALLER: u32 = 5;
/// Area: in [`HEKI_AREA_FTRACE_CALLER`], the call of the tracer.
pub const HEKI_AREA_FTRACE_CALL: u32 = 6;
/// Area: in [`HEKI_AREA_FTRACE_CALLER`], the load of the `ftrace_ops`.
pub const HEKI_AREA_FTRACE_OP_PTR: u32 = 7;
/// Area: in [`HEKI_AREA_FTRACE_REGS_CALLER`], the call of the tracer.
pub const HEKI_AREA_FTRACE_REGS_CALL: u32 = 8;
/// Area: in [`HEKI_AREA_FTRACE_REGS_CALLER`], the load of the `ftrace_ops`.
pub const HEKI_AREA_FTRACE_REGS_OP_PTR: u32 = 9;
/// Area: in [`HEKI_AREA_FTRACE_REGS_CALLER`], the JNZ that copies lose.
pub const HEKI_AREA_FTRACE_REGS_JMP: u32 = 10;
/// Area: a function of the type of tracers.
pub const HEKI_AREA_FTRACE_STUB: u32 = 11;
/// Area: `x86_return_thunk`, if returns jump there.
pub const HEKI_AREA_RETURN_THUNK: u32 = 12;
/// Area: `__static_call_return`.
pub const HEKI_AREA_STATIC_RETURN: u32 = 13;
/// Area: `__static_call_return0`.
pub const HEKI_AREA_STATIC_RETURN0: u32 = 14;
/// Area: `__WARN_trap`.
pub const HEKI_AREA_WARN_TRAP: u32 = 15;
/// Area: the callee of the inlined unlock.
pub const HEKI_AREA_SPIN_UNLOCK: u32 = 16;
/// Area: bytes from a type's hash to the function.
pub const HEKI_AREA_CFI_HASH: u32 = 17;
/// Area: functions begin with ENDBR64.
pub const HEKI_AREA_ENDBR: u32 = 18;
/// Area: the kernel's image, in one piece of memory.
pub const HEKI_AREA_IMAGE: u32 = 19;
/// Area: the tracer that calls all others.
pub const HEKI_AREA_FTRACE_LIST: u32 = 20;
/// Area: addresses of a module's ftrace sites, in sealed memory.
pub const HEKI_AREA_MCOUNT: u32 = 21;
/// Area: what pads that track the depth of calls hold.
pub const HEKI_AREA_CALL_DEPTH: u32 = 22;
/// A key, or the trampoline of a static call, that never changes.
pub const HEKI_AREA_FROZEN: u32 = 23;
/// Indirect branches go through thunks of their own.
pub const HEKI_AREA_ITS: u32 = 24;
/// Number of kinds of areas; the first value that is none.
pub const HEKI_AREA_COUNT: u32 = 25;

/// Longest instruction that PATCH changes, in bytes.
pub const HEKI_MAX_INSN: u32 = 6;
/// Bytes of a slot of kprobes in a page of [`HEKI_KIND_POOL`], at a multiple of as many from its start.
pub const HEKI_SLOT_BYTES: u32 = 15;

/// Flag of a KEXEC request: the kernel begins.
pub const HEKI_KEXEC_FIRST: u32 = 1 << 0;
/// Flag of a KEXEC request: the kernel ends.
pub const HEKI_KEXEC_LAST: u32 = 1 << 1;
/// Flag of a KEXEC request, alone: start what is kept.
pub const HEKI_KEXEC_START: u32 = 1 << 2;

/// Attribute group of the KVM device.
pub const KVM_DEV_HEKI_CTRL: u32 = 0;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: back to Open, with every vCPU stopped.
pub const KVM_DEV_HEKI_RESET: u64 = 0;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: a [`Profile`] with its arrays, before the first vCPU.
pub const KVM_DEV_HEKI_PROFILE: u64 = 1;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: read a [`Caps`].
pub const KVM_DEV_HEKI_CAPS: u64 = 2;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: a [`Policy`], set once and before the first vCPU.
pub const KVM_DEV_HEKI_POLICY: u64 = 3;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: end a pause.
pub const KVM_DEV_HEKI_RESUME: u64 = 4;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: a [`Buffer`] with the saved state; set before a vCPU runs.
pub const KVM_DEV_HEKI_STATE: u64 = 5;

/// What a saved state begins with.
pub const HEKI_SAVED_MAGIC: u64 = 0x5441_5453_494b_4548;
/// Version of the layout of a saved state.
pub const HEKI_SAVED_VERSION: u32 = 1;
/// Largest saved state, in bytes.
pub const HEKI_MAX_STATE_BYTES: u32 = 4_194_304;
/// Number of counters of a vCPU.
pub const HEKI_NR_COUNTERS: u32 = 11;

/// Record of a saved state: a [`Life`].
pub const HEKI_RECORD_LIFE: u32 = 1;
/// Record: the SEAL request that has the same effect.
pub const HEKI_RECORD_SEAL: u32 = 2;
/// Record: `u64` for each pin of it.
pub const HEKI_RECORD_VALUES: u32 = 3;
/// Record: [`Place`], ascending.
pub const HEKI_RECORD_SITES: u32 = 4;
/// Record: [`Probe`], ascending.
pub const HEKI_RECORD_PROBES: u32 = 5;
/// Record: [`Counters`], ascending by vCPU.
pub const HEKI_RECORD_COUNTERS: u32 = 6;

/// Rule of a [`Place`]: it becomes nothing else.
pub const HEKI_RULE_FROZEN: u32 = 0;
/// Rule: a NOP, or a jump to the target.
pub const HEKI_RULE_JUMP_LABEL: u32 = 1;
/// Rule: a static call.
pub const HEKI_RULE_CALL: u32 = 2;
/// Rule: a static call that is the last thing of its function.
pub const HEKI_RULE_TAIL_CALL: u32 = 3;
/// Rule: a NOP, or a call of ftrace.
pub const HEKI_RULE_FTRACE: u32 = 4;
/// Attribute of [`KVM_DEV_HEKI_CTRL`]: read a [`Ranges`] and as many [`Range`]s behind it.
pub const KVM_DEV_HEKI_RANGES: u64 = 6;
/// Device attribute, get: a [`Pin`] with the bits that can be pinned, or are, on the first vCPU.
pub const KVM_DEV_HEKI_PIN: u64 = 7;

/// Class of denials: a write of sealed memory.
pub const HEKI_CLASS_WRITE: u32 = 0;
/// Class of denials: supervisor mode would have run unlisted memory.
pub const HEKI_CLASS_EXEC: u32 = 1;
/// Class of denials: a change of what is pinned.
pub const HEKI_CLASS_REGISTER: u32 = 2;
/// Class of denials: a PATCH, GRANT or RELEASE against the rules.
pub const HEKI_CLASS_PATCH: u32 = 3;
/// Number of classes.
pub const HEKI_CLASS_COUNT: u32 = 4;

/// Action: the guest gets its error, and nobody else hears of it.
pub const HEKI_ACTION_GP: u32 = 0;
/// Action: exit to the VMM, too.
pub const HEKI_ACTION_EXIT: u32 = 1;
/// Action: exit to the VMM, and run no vCPU until [`KVM_DEV_HEKI_RESUME`].
pub const HEKI_ACTION_PAUSE: u32 = 2;
/// Action: exit to the VMM, and let happen what was denied.
pub const HEKI_ACTION_LEARN: u32 = 3;
/// Number of actions.
pub const HEKI_ACTION_COUNT: u32 = 4;

/// Kind of an exit: the guest asks.
pub const HEKI_EXIT_REQUEST: u32 = 1;
/// Kind of an exit: the guest was denied something.
pub const HEKI_EXIT_DENIAL: u32 = 2;
/// Kind of an exit: the VM is paused.
pub const HEKI_EXIT_PAUSED: u32 = 3;

/// Flag of an exit: [`Exit::gpa`] is known.
pub const HEKI_EXIT_HAS_GPA: u32 = 1 << 0;
/// Flag of an exit: [`Exit::va`] is known.
pub const HEKI_EXIT_HAS_VA: u32 = 1 << 1;
/// Flag of an exit: [`Exit::reg`] and [`Exit::bits`] are known.
pub const HEKI_EXIT_HAS_REG: u32 = 1 << 2;
/// Flag of an exit: this denial paused the VM.
pub const HEKI_EXIT_IS_PAUSE: u32 = 1 << 3;
/// Flag of an exit: this only would have been a denial, and happens.
pub const HEKI_EXIT_IS_LEARNED: u32 = 1 << 4;

/// Reason of a denial: the page was sealed against writes.
pub const HEKI_REASON_SEALED: u32 = 0;
/// Reason of a denial: the page was not granted execution.
pub const HEKI_REASON_NOT_EXECUTABLE: u32 = 1;
/// Reason of a denial: the CPU had to write a page table that is sealed.
pub const HEKI_REASON_PAGE_WALK: u32 = 2;
/// Reason of a denial: the bits are pinned.
pub const HEKI_REASON_PINNED: u32 = 3;
/// Reason of a denial: no instruction there may change.
pub const HEKI_REASON_UNLISTED: u32 = 4;
/// Reason of a denial: its key must not change.
pub const HEKI_REASON_FROZEN: u32 = 5;
/// Reason of a denial: no instruction there has such bytes.
pub const HEKI_REASON_FORM: u32 = 6;
/// Reason of a denial: it may not go there.
pub const HEKI_REASON_TARGET: u32 = 7;
/// Reason of a denial: other bytes stand there.
pub const HEKI_REASON_STALE: u32 = 8;
/// Reason of a denial: a page that is neither empty nor a trampoline.
pub const HEKI_REASON_CONTENT: u32 = 9;
/// Reason of a denial: KVM was to write a sealed page; in traces only.
pub const HEKI_REASON_KVM_WRITER: u32 = 10;

/// Most entries in each array of a [`Profile`] but that of breakpoints.
pub const HEKI_MAX_PROFILE_ENTRIES: u32 = 262_144;
/// Most addresses of breakpoints in a [`Profile`].
pub const HEKI_MAX_PROBES: u32 = 1024;
/// Longest build ID in a [`Profile`], in bytes.
pub const HEKI_MAX_BUILD_ID: u32 = 32;

/// What KVM's hypercalls return, negated (`include/uapi/linux/kvm_para.h`): it may not be done.
pub const KVM_EPERM: i64 = 1;
/// The request is too big, or the host has no memory for it.
pub const KVM_E2BIG: i64 = 7;
/// Guest memory that cannot be read or written.
pub const KVM_EFAULT: i64 = 14;
/// The request makes no sense.
pub const KVM_EINVAL: i64 = 22;
/// This host cannot do it.
pub const KVM_EOPNOTSUPP: i64 = 95;
/// No such hypercall or operation.
pub const KVM_ENOSYS: i64 = 1000;

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
    /// `HEKI_PATCH_*` and `HEKI_TARGET_*`: before the seal those that this VM may have, after it
    /// those that it has.
    pub patch: u32,
    /// `1 << HEKI_CLASS_*` of each class of denials that is reported and allowed: what it would hold
    /// is not in [`Query::held`].
    pub learning: u32,
    /// Zero.
    pub reserved: u32,
}

/// Header of a SEAL request (`struct heki_seal`).
///
/// The ranges follow it, then the pins, then the areas, then nothing.
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
    /// Number of [`Area`]s that follow the pins.
    pub nr_areas: u32,
    /// Zero.
    pub reserved: u32,
}

/// Guest physical memory and the rights it keeps (`struct heki_range`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Range {
    /// First byte, page aligned.
    pub gpa: u64,
    /// Length in bytes, page aligned, not zero.
    pub len: u64,
    /// Where the guest kernel runs or reads it, page aligned; zero if that never matters.
    pub va: u64,
    /// [`HEKI_WRITE`] or [`HEKI_EXEC`], not both, or zero.
    pub rights: u32,
    /// `HEKI_KIND_*`.
    pub kind: u32,
}

/// Header of what [`KVM_DEV_HEKI_RANGES`] reads (`struct heki_ranges`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ranges {
    /// How many [`Range`]s have room behind the header; then, how many there are.
    pub nr: u32,
    /// Zero; then, [`HEKI_STATE_OPEN`] or [`HEKI_STATE_SEALED`].
    pub state: u32,
}

/// Bits of a register that stay as they are (`struct heki_pin`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pin {
    /// `HEKI_REG_*`.
    pub reg: u32,
    /// Number of the MSR, part of a descriptor-table register, zero for other registers.
    pub index: u32,
    /// The bits: in CR0 and CR4 they stay set, in others they keep their value.
    pub mask: u64,
}

/// What the host must know of sealed text to judge a change of it (`struct heki_area`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Area {
    /// `HEKI_AREA_*`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// First byte.
    pub va: u64,
    /// Length in bytes, or zero.
    pub len: u64,
}

/// Header of a PATCH request (`struct heki_patch`).
///
/// The sites follow it, then nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Patch {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// Number of [`Site`]s that follow, 1 to [`HEKI_MAX_PATCHES`].
    pub nr_sites: u32,
}

/// One instruction to replace by another of the same length (`struct heki_site`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Site {
    /// Its address, in a range that was sealed with [`HEKI_EXEC`].
    pub va: u64,
    /// Its length in bytes: 1 for a breakpoint, [`HEKI_SLOT_BYTES`] for a slot, that of
    /// [`HEKI_AREA_CALL_DEPTH`] for a pad.
    pub len: u64,
    /// What must stand there, zero after its length.
    pub old: [u8; 16],
    /// What shall stand there, zero after its length.
    pub new: [u8; 16],
}

/// Header of a GRANT or a RELEASE request (`struct heki_grant`).
///
/// The ranges follow it, then nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Grant {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// Number of [`Range`]s that follow, with [`HEKI_MAX_GRANT_PAGES`] pages at most.
    pub nr_ranges: u32,
}

/// A KEXEC request (`struct heki_kexec`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Kexec {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// `HEKI_KEXEC_*`.
    pub flags: u32,
    /// First byte of this part of the kernel's file, page aligned.
    pub gpa: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Where it lies in the file.
    pub offset: u64,
}

/// What [`HEKI_OP_FROZEN`] reads and writes in guest memory (`struct heki_frozen`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Frozen {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// The first entry that the guest wants to know.
    pub first: u32,
    /// How many the host wrote.
    pub nr: u32,
    /// How many there are.
    pub total: u32,
    /// Addresses of keys and trampolines that the VMM froze, ascending, zero after `nr`.
    pub va: [u64; HEKI_FROZEN_ENTRIES as usize],
}

/// Memory of the VMM for [`KVM_DEV_HEKI_STATE`] (`struct heki_buffer`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Buffer {
    /// Address of the saved state, or of room for it.
    pub data: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Header of a saved state (`struct heki_saved`).
///
/// Records follow, each a [`Record`] and its content, in the order of their kinds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Saved {
    /// [`HEKI_SAVED_MAGIC`].
    pub magic: u64,
    /// [`HEKI_SAVED_VERSION`].
    pub version: u32,
    /// Number of records that follow.
    pub nr_records: u32,
    /// Length of all in bytes.
    pub len: u64,
}

/// Header of a record (`struct heki_record`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// `HEKI_RECORD_*`.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Length in bytes of the content that follows.
    pub len: u64,
}

/// Where a VM is in its life (`struct heki_life`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Life {
    /// [`HEKI_STATE_OPEN`] or [`HEKI_STATE_SEALED`].
    pub state: u32,
    /// Zero.
    pub reserved: u32,
    /// Where the text begins of which the VMM gave the profile, else zero.
    pub text_va: u64,
}

/// An instruction that may change (`struct heki_place`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Place {
    /// Its address.
    pub va: u64,
    /// Where a jump label jumps to, a function of a static call's type, or zero.
    pub target: u64,
    /// Its length in bytes: 2, 5 or 6.
    pub len: u32,
    /// `HEKI_RULE_*`.
    pub rule: u32,
}

/// An instruction on which a breakpoint may be put (`struct heki_probe`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Probe {
    /// Its address.
    pub va: u64,
    /// What stood there at the seal, [`HEKI_SLOT_BYTES`], then zero.
    pub code: [u8; 16],
}

/// The counters of a vCPU (`struct heki_counters`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Counters {
    /// Its ID.
    pub vcpu: u32,
    /// Zero.
    pub reserved: u32,
    /// In the order of the header.
    pub value: [u64; HEKI_NR_COUNTERS as usize],
}

/// What the VMM knows of the guest's kernel from its vmlinux (`struct heki_profile`).
///
/// Four arrays of `u32` follow, in the order of their numbers: bytes from `_text`, strictly
/// ascending.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Profile {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// Number of function entries.
    pub nr_functions: u32,
    /// Number of ftrace sites.
    pub nr_calls: u32,
    /// Number of static keys and static-call keys that must not change.
    pub nr_frozen: u32,
    /// Number of addresses at which a breakpoint may be put, [`HEKI_MAX_PROBES`] at most.
    pub nr_probes: u32,
    /// Zero.
    pub reserved: u32,
    /// Address of `_text` in the file.
    pub base: u64,
    /// Bytes from `_text` to the end of text, rounded up to a page.
    pub text_len: u64,
    /// Where the build ID lies, in bytes from `_text`.
    pub build_id_offset: u32,
    /// Its length in bytes, zero if there is none.
    pub build_id_len: u32,
    /// The build ID, zero after its length.
    pub build_id: [u8; 32],
}

/// What this host can do for this VM (`struct heki_caps`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Caps {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// `HEKI_PROT_*` that can be enforced.
    pub protections: u32,
    /// CR0 bits that can be pinned.
    pub cr0_pinnable: u64,
    /// CR4 bits that can be pinned.
    pub cr4_pinnable: u64,
    /// `HEKI_PATCH_*` and `HEKI_TARGET_*` of a VM with a profile.
    pub patch: u32,
    /// `1 << HEKI_OP_*` of each operation that a policy can ask consent for.
    pub consent: u32,
    /// `1 << HEKI_CLASS_*` of each class of denials that can exit.
    pub classes: u32,
    /// `1 << HEKI_ACTION_*` of each action that a policy can name.
    pub actions: u32,
}

/// What the guest may do, and what the VMM wants to hear of (`struct heki_policy`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Policy {
    /// [`HEKI_ABI_VERSION`].
    pub version: u32,
    /// `HEKI_PROT_*` that the guest may ask for.
    pub allowed: u32,
    /// `1 << HEKI_OP_*` of each operation that the VMM is asked about.
    pub consent: u32,
    /// `HEKI_ACTION_*` of [`HEKI_CLASS_WRITE`].
    pub write: u32,
    /// `HEKI_ACTION_*` of [`HEKI_CLASS_EXEC`].
    pub exec: u32,
    /// `HEKI_ACTION_*` of [`HEKI_CLASS_REGISTER`].
    pub reg: u32,
    /// `HEKI_ACTION_*` of [`HEKI_CLASS_PATCH`].
    pub patch: u32,
    /// Zero.
    pub reserved: u32,
}

/// [`KVM_EXIT_HEKI`], in the union of `struct kvm_run` (`struct heki_exit`).
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Exit {
    /// `HEKI_EXIT_*`: request, denial or paused.
    pub kind: u32,
    /// `HEKI_EXIT_HAS_*` and `HEKI_EXIT_IS_*`.
    pub flags: u32,
    /// The ID of the vCPU.
    pub vcpu: u32,
    /// Its privilege level.
    pub cpl: u32,
    /// Its instruction pointer.
    pub rip: u64,
    /// Request: `HEKI_OP_*`.
    pub op: u32,
    /// Request: what the VMM answers, 0 to allow, else a `KVM_E*`.
    pub answer: u32,
    /// SEAL: `HEKI_SEAL_*`.
    pub seal_flags: u32,
    /// SEAL, GRANT, RELEASE: number of ranges.
    pub nr_ranges: u32,
    /// SEAL: number of pins.
    pub nr_pins: u32,
    /// PATCH: number of instructions.
    pub nr_sites: u32,
    /// Request: its length in bytes.
    pub len: u64,
    /// Denial: `HEKI_CLASS_*`.
    pub denied: u32,
    /// Denial: `HEKI_REASON_*`.
    pub reason: u32,
    /// Denial: guest physical address of an access; KEXEC: of the part.
    pub gpa: u64,
    /// Denial: guest virtual address of the access, as far as hardware says, or of an instruction or page that was
    /// to change.
    pub va: u64,
    /// Denial: what is pinned and would have changed.
    pub bits: u64,
    /// Denial: `HEKI_REG_*`.
    pub reg: u32,
    /// Denial: number of the MSR, part of a descriptor-table register, or zero.
    pub index: u32,
    /// KEXEC: `HEKI_KEXEC_*`.
    pub kexec_flags: u32,
    /// KEXEC: length of the part in bytes.
    pub kexec_len: u32,
    /// KEXEC: where the part lies in the kernel's file.
    pub offset: u64,
    /// Denial: what the register would hold, zero of a task switch.
    pub value: u64,
}

const _: () = assert!(size_of::<Query>() == 56);
const _: () = assert!(size_of::<Seal>() == 24);
const _: () = assert!(size_of::<Range>() == 32);
const _: () = assert!(size_of::<Pin>() == 16);
const _: () = assert!(size_of::<Area>() == 24);
const _: () = assert!(size_of::<Patch>() == 8);
const _: () = assert!(size_of::<Site>() == 48);
const _: () = assert!(size_of::<Grant>() == 8);
const _: () = assert!(size_of::<Kexec>() == 32);
const _: () = assert!(size_of::<Profile>() == 80);
const _: () = assert!(size_of::<Caps>() == 40);
const _: () = assert!(size_of::<Policy>() == 32);
// What `struct kvm_run` has room for.
const _: () = assert!(size_of::<Exit>() <= 256);

// SPDX-License-Identifier: GPL-2.0

//! The registers that decide what a kernel can be made to do: for each field, whether a pin holds it.
//!
//! One table, [`REGISTERS`]. The parser and the host go by it, and
//! `Documentation/virt/kvm/x86/heki-registers.rst` is made from it. The kernel's build compares the
//! bits that a guest can set as decided here with those that KVM lets it set,
//! `scripts/check-registers` all bits, and KVM's own MSRs, with those that Linux's headers name:
//! neither learns one unnoticed.
//! Neighbours: `abi` for the numbers, [`pin`](super::pin) for control registers. Locks: none.

use super::{
    abi,
    refusal::Refusal, //
};

/// What is decided for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A pin holds it set, in hardware and whatever the guest's own value.
    Set,
    /// A pin keeps the value that it has at the seal, a bit of CR0 or CR4 set: a change is refused.
    Keep,
    /// No pin: a guest may write it, but the CPU refuses what would matter, or another protection
    /// covers it.
    Covered,
    /// No pin: KVM lets no guest set it. Where the build can see that it does, it fails.
    Refused,
    /// No pin: the guest may change it.
    Free,
}

impl Decision {
    /// A short name, as the documentation has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Set => "pinned to 1",
            Self::Keep => "pinned to its value",
            Self::Covered => "not needed",
            Self::Refused => "refused by KVM",
            Self::Free => "may change",
        }
    }
}

/// Whose value a pin keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of the vCPU that asks, on every vCPU: a vCPU that starts may load it and no other.
    Vm,
    /// That of the vCPU that asks, on every vCPU that has it or is up: one that starts loads others
    /// first.
    Start,
    /// Each vCPU its own: once it is not zero it stays. INIT may clear it. If it is zero on the vCPU
    /// that asks, it is zero on all.
    Vcpu,
    /// Each vCPU its own, from when it is up: it has loaded TR, of the GDTR also one GDT since.
    Up,
}

impl Scope {
    /// A short name, as the documentation has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Start => "start",
            Self::Vcpu => "vCPU",
            Self::Up => "up",
        }
    }
}

/// Some bits of a register and what is decided for them.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in the manuals; of the whole register, "all".
    pub name: &'static str,
    /// The bits.
    pub bits: u64,
    /// What is decided.
    pub decision: Decision,
    /// Why, in one line.
    pub why: &'static str,
}

/// A register, or MSRs of one kind, of which none can be pinned.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// `HEKI_REG_*`.
    pub reg: u32,
    /// Number of an MSR, part of a descriptor-table register, else 0.
    pub index: u32,
    /// The last such number.
    pub last: u32,
    /// Name in the manuals.
    pub name: &'static str,
    /// Whose value its pins keep.
    pub scope: Scope,
    /// Its fields.
    pub fields: &'static [Field],
}

/// CR3, of which nothing can be pinned: there is no `HEKI_REG_*` for it.
const CR3: u32 = 3;
/// EFER, which long mode and NX depend on.
pub const MSR_EFER: u32 = 0xc000_0080;
/// The supervisor state that XSAVES and XRSTORS move.
pub const MSR_XSS: u32 = 0xda0;
/// Shadow stack pointers of rings 0 to 2.
const MSR_PL0_SSP: u32 = 0x6a4;
const MSR_PL2_SSP: u32 = 0x6a6;
/// XRSTORS loads the shadow stack pointers of rings 0 to 2.
const XSS_CET_S: u64 = 1 << 12;

const ALL: u64 = u64::MAX;

const fn field(name: &'static str, bits: u64, decision: Decision, why: &'static str) -> Field {
    Field {
        name,
        bits,
        decision,
        why,
    }
}

const fn bit(name: &'static str, bit: u32, decision: Decision, why: &'static str) -> Field {
    field(name, 1 << bit, decision, why)
}

const fn table(
    reg: u32,
    index: u32,
    name: &'static str,
    scope: Scope,
    fields: &'static [Field],
) -> Register {
    Register {
        reg,
        index,
        last: index,
        name,
        scope,
        fields,
    }
}

const fn register(reg: u32, name: &'static str, fields: &'static [Field]) -> Register {
    table(reg, 0, name, Scope::Vm, fields)
}

const fn msr(index: u32, name: &'static str, fields: &'static [Field]) -> Register {
    table(abi::HEKI_REG_MSR, index, name, Scope::Vm, fields)
}

const fn msrs(first: u32, last: u32, name: &'static str, fields: &'static [Field]) -> Register {
    Register {
        last,
        ..msr(first, name, fields)
    }
}

use Decision::{
    Covered,
    Free,
    Keep,
    Refused,
    Set, //
};

const CR0: &[Field] = &[
    bit("PE", 0, Covered, "cannot be cleared while PG is set"),
    bit("MP", 1, Free, "floating point: harms the guest only"),
    bit("EM", 2, Free, "floating point: harms the guest only"),
    bit("TS", 3, Free, "the kernel switches it"),
    bit("ET", 4, Covered, "constant"),
    bit("NE", 5, Set, "x87 errors raise #MF, not an interrupt"),
    bit("WP", 16, Set, "supervisor mode honours read-only pages"),
    bit("AM", 18, Set, "lets user mode ask for #AC"),
    bit("NW", 29, Free, "caches: KVM decides on them"),
    bit("CD", 30, Free, "caches: the kernel sets it while it changes MTRRs"),
    bit("PG", 31, Keep, "paging, which SMEP, SMAP, WP and NX depend on. INIT clears it: it is set again only with the pinned bits of EFER, and an execution allow-list has a view of memory without user execution meanwhile"),
];

const PAGE_TABLES: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "each process has page tables of its own, and they are data of the guest. What they map still cannot be written, or run, beyond the seal",
)];

// One row a line, here and below.
#[rustfmt::skip]
const CR4: &[Field] = &[
    bit("VME", 0, Free, "virtual-8086 mode: there is none in long mode"),
    bit("PVI", 1, Free, "user mode only"),
    bit("TSD", 2, Free, "the kernel switches it for each task"),
    bit("DE", 3, Free, "debugging of user mode"),
    bit("PSE", 4, Free, "ignored with PAE"),
    bit("PAE", 5, Covered, "cannot be cleared in long mode, which lasts while PG is set"),
    bit("MCE", 6, Free, "machine checks are KVM's"),
    bit("PGE", 7, Free, "the kernel toggles it to flush the TLB"),
    bit("PCE", 8, Free, "the kernel switches it for each task"),
    bit("OSFXSR", 9, Free, "harms the guest only"),
    bit("OSXMMEXCPT", 10, Free, "harms the guest only"),
    bit("UMIP", 11, Set, "user mode cannot read descriptor-table registers"),
    bit("LA57", 12, Covered, "cannot change in long mode, which lasts while PG is set"),
    bit("VMXE", 13, Covered, "cannot be set without VMX in CPUID, and with it MSRs and execution are not held"),
    bit("SMXE", 14, Refused, "KVM has no SMX"),
    bit("FSGSBASE", 16, Set, "entry code relies on it"),
    bit("PCIDE", 17, Free, "tags of the TLB: the host flushes by its own"),
    bit("OSXSAVE", 18, Free, "harms the guest only"),
    bit("SMEP", 20, Set, "supervisor mode does not run user pages"),
    bit("SMAP", 21, Set, "supervisor mode does not touch user pages unless it says so"),
    bit("PKE", 22, Keep, "protection keys of user pages, which bind the kernel's own access to them, too"),
    bit("CET", 23, Set, "shadow stacks and indirect branch tracking; their MSRs are rows of their own"),
    bit("LASS", 27, Refused, "KVM 7.3 has no LASS; decide when it has"),
    bit("LAM_SUP", 28, Free, "not enforced: loosens which supervisor addresses are canonical"),
    bit("FRED", 32, Refused, "KVM 7.3 has no FRED; decide when it has"),
];

#[rustfmt::skip]
const XCR0: &[Field] = &[
    bit("X87", 0, Keep, "always set"),
    bit("SSE", 1, Keep, MOVED),
    bit("AVX", 2, Keep, MOVED),
    bit("BNDREGS", 3, Keep, MOVED),
    bit("BNDCSR", 4, Keep, MOVED),
    bit("OPMASK", 5, Keep, MOVED),
    bit("ZMM_HI256", 6, Keep, MOVED),
    bit("HI16_ZMM", 7, Keep, MOVED),
    bit("PKRU", 9, Keep, MOVED),
    bit("TILECFG", 17, Keep, MOVED),
    bit("TILEDATA", 18, Keep, MOVED),
    field("others", !0x6_02ff, Refused, "KVM 7.3 has none; decide when it has, APX (19) first"),
];
const MOVED: &str = "what XSAVE and XRSTOR move; Linux sets it once on each CPU";

const IDTR: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "where interrupts and exceptions enter",
)];
const IDTR_LIMIT: &[Field] = &[field("15:0", 0xffff, Keep, "how many of them there are")];
const GDTR: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "where segments and gates are; the table itself is data of the guest",
)];
const GDTR_LIMIT: &[Field] = &[field("15:0", 0xffff, Keep, "how many of them there are")];
const LDTR: &[Field] = &[field(
    "selector",
    0xffff,
    Keep,
    "which descriptor; what it says is data of the guest. heki_guest leaves out the bits of the entry that modify_ldt() uses",
)];
const TR: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "where the stacks of interrupts are found",
)];
const TR_LIMIT: &[Field] = &[field(
    "31:0",
    0xffff_ffff,
    Keep,
    "how far that, and the map of I/O ports, reaches",
)];
const TR_SELECTOR: &[Field] = &[field("15:0", 0xffff, Keep, "which descriptor")];

#[rustfmt::skip]
const EFER: &[Field] = &[
    bit("SCE", 0, Keep, "SYSCALL exists"),
    bit("LME", 8, Keep, "no vCPU turns on paging outside long mode"),
    bit("LMA", 10, Covered, "the CPU sets it"),
    bit("NX", 11, Keep, "pages can be not executable"),
    bit("SVME", 12, Keep, "a guest of the guest; KVM sets it with SVM in CPUID only, where no MSR is held"),
    bit("LMSLE", 13, Keep, "segment limits in long mode"),
    bit("FFXSR", 14, Keep, "FXSAVE leaves registers out"),
    bit("TCE", 15, Keep, "what INVLPG keeps of upper levels"),
    bit(
        "AUTOIBRS",
        21,
        Keep,
        "kernel branches are not predicted from user mode",
    ),
];

const WHOLE: &[Field] = &[field("all", ALL, Keep, "where system calls enter, and how")];
const WHOLE_SYSENTER: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "where SYSENTER enters; bits 63:32 where the CPU has them",
)];
const WHOLE_SYSENTER_CS: &[Field] = &[field(
    "31:0",
    0xffff_ffff,
    Keep,
    "the code segment that SYSENTER enters",
)];
const WHOLE_PAT: &[Field] = &[field("all", ALL, Keep, "memory types of pages")];
#[rustfmt::skip]
const XSS: &[Field] = &[
    bit("CET_U", 11, Keep, "XRSTORS could load U_CET and PL3_SSP"),
    bit("CET_S", 12, Keep, "XRSTORS could load shadow stack pointers past WRMSR"),
    field("others", !(0b11 << 11), Refused, "KVM 7.3 has none; decide when it has"),
];
const WHOLE_S_CET: &[Field] = &[
    bit("SH_STK_EN", 0, Keep, "supervisor shadow stacks"),
    bit("WR_SHSTK_EN", 1, Keep, "WRSS in supervisor mode"),
    bit("ENDBR_EN", 2, Keep, "supervisor branch tracking. Linux turns it off around EFI calls, so heki_guest turns EFI runtime services off"),
    field("others", !0b111, Keep, "suppression of branch tracking and its bitmap"),
];
const WHOLE_SSP: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "needs a pin of XSS with CET_S clear; not needed where S_CET is pinned with SH_STK_EN clear. Not for a kernel that uses supervisor shadow stacks",
)];
const WHOLE_SSP_TABLE: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "where interrupts find their shadow stack. Not for a kernel that uses supervisor shadow stacks",
)];
const APIC_BASE: &[Field] = &[
    bit(
        "BSP",
        8,
        Free,
        "differs by CPU and decides nothing after boot",
    ),
    bit("EXTD", 10, Keep, "x2APIC mode"),
    bit("EN", 11, Keep, "the APIC is on"),
    field(
        "base",
        0x000f_ffff_ffff_f000,
        Keep,
        "the APIC's page stays where it is",
    ),
];
const MISC_ENABLE: &[Field] = &[
    bit(
        "FAST_STRING",
        0,
        Keep,
        "REP MOVS and STOS as alternatives assume",
    ),
    bit("LIMIT_CPUID", 22, Keep, "CPUID answers in full"),
    bit("XD_DISABLE", 34, Keep, "EFER.NX exists"),
    field(
        "others",
        !(1 | 1 << 22 | 1 << 34),
        Free,
        "power and performance: drivers change them",
    ),
];
const FEATURE_CONTROL: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "VMX, SGX and LMCE; locked by its own bit 0 too",
)];
const TSX_CTRL: &[Field] = &[field(
    "all",
    ALL,
    Keep,
    "TSX stays off where it was turned off",
)];
const DE_CFG: &[Field] = &[field("all", ALL, Keep, "LFENCE serializes")];
const VM_CR: &[Field] = &[field("all", ALL, Keep, "lock and disable bits of SVM")];
#[rustfmt::skip]
const DEBUGCTL: &[Field] = &[
    bit("LBR", 0, Free, "perf changes it"),
    bit("BTF", 1, Free, "the kernel switches it for each task that is single-stepped; KVM ignores it"),
    bit("BUS_LOCK_DETECT", 2, Free, "tells of bus locks: harms the guest only"),
    bit("TR", 6, Refused, "KVM has no trace messages"),
    bit("BTS", 7, Refused, "KVM has no BTS, the one bit that makes the CPU write memory; decide when it has"),
    bit("BTINT", 8, Refused, "KVM has no BTS"),
    bit("BTS_OFF_OS", 9, Refused, "KVM has no BTS"),
    bit("BTS_OFF_USR", 10, Refused, "KVM has no BTS"),
    bit("FREEZE_LBRS_ON_PMI", 11, Free, "perf changes it"),
    bit("FREEZE_PERFMON_ON_PMI", 12, Refused, "KVM does not freeze counters"),
    bit("FREEZE_IN_SMM", 14, Refused, "the host's"),
    bit("RTM_DEBUG", 15, Free, "debugging of transactions"),
    field("others", !0xdfc7, Refused, "KVM has no other"),
];
const PER_TASK: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "the kernel switches it for each task",
)];
const SPEC_CTRL: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "the kernel switches it for each task; side channels are not claimed",
)];
const BASES: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "SWAPGS and WRGSBASE change it without WRMSR",
)];
const PERF: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "perf changes it; what the CPU writes goes through the host's page tables",
)];
const PV: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "KVM refuses to write sealed memory for it",
)];
const PV_SIGNAL: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "KVM writes no memory for it: it is about interrupts, or how the host waits and counts",
)];
const PV_VMM: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "the VMM serves it, if anyone: what it writes for it is up to it, as with device models",
)];
const PV_RESET: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "asks the VMM for a reset, as a port does",
)];
const XEN_PAGE: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "KVM refuses to write sealed memory for it. The VMM chooses its number: 0x40000000 without Hyper-V",
)];
const APIC: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "interrupts; a vCPU that is started by them is held like all others",
)];
const TIME: &[Field] = &[field("all", ALL, Free, "the guest's clocks are its own")];
const COMMAND: &[Field] = &[field("all", ALL, Free, "a command: it holds no value")];
const KEPT_ONLY: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "KVM keeps the value, and does nothing by it",
)];
const MACHINE_CHECKS: &[Field] = &[field("all", ALL, Free, "machine checks are KVM's")];
const ENCLAVES: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "the kernel writes it for each enclave that it starts, and those run in user mode",
)];
const CPU_NUMBER: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "user mode reads the CPU's number there, kernel entry does not",
)];
const WAITING: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "how long user mode may wait: harms the guest only",
)];
const XFD_ERR: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "what XFD has just denied; the kernel clears it",
)];
const MPX: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "bounds that only code which asks for them is held to",
)];
const COUNTERS: &[Field] = &[field(
    "all",
    ALL,
    Free,
    "perf changes it; it counts or records, and writes no memory",
)];
#[rustfmt::skip]
const HWCR: &[Field] = &[
    bit("MC_STATUS_WR_EN", 18, Free, "machine checks are KVM's"),
    bit("TSC_FREQ_SEL", 24, Free, "KVM keeps it, and does nothing by it"),
    bit("CPUID_USER_DIS", 35, Free, "the kernel switches it for each task"),
    field("others", !(1 << 18 | 1 << 24 | 1 << 35), Refused, "KVM sets no other, so that SMM cannot be locked"),
];
const MICROCODE: &[Field] = &[field(
    "all",
    ALL,
    Refused,
    "KVM loads no microcode for a guest",
)];
const SMBASE: &[Field] = &[field("all", ALL, Refused, "only the VMM writes it")];
const FRED: &[Field] = &[field(
    "all",
    ALL,
    Refused,
    "KVM 7.3 has no FRED; decide when it has CR4.FRED",
)];
const PKRS: &[Field] = &[field(
    "all",
    ALL,
    Refused,
    "KVM 7.3 has no PKS; decide when it has",
)];
const MTRR: &[Field] = &[field("all", ALL, Free, "memory types are KVM's")];

/// Every register with a decision.
#[rustfmt::skip]
pub const REGISTERS: &[Register] = &[
    register(abi::HEKI_REG_CR0, "CR0", CR0),
    register(CR3, "CR3", PAGE_TABLES),
    register(abi::HEKI_REG_CR4, "CR4", CR4),
    register(abi::HEKI_REG_XCR0, "XCR0", XCR0),
    table(abi::HEKI_REG_IDTR, 0, "IDTR base", Scope::Start, IDTR),
    table(abi::HEKI_REG_IDTR, 1, "IDTR limit", Scope::Start, IDTR_LIMIT),
    table(abi::HEKI_REG_GDTR, 0, "GDTR base", Scope::Up, GDTR),
    table(abi::HEKI_REG_GDTR, 1, "GDTR limit", Scope::Up, GDTR_LIMIT),
    table(abi::HEKI_REG_LDTR, 0, "LDTR", Scope::Vm, LDTR),
    table(abi::HEKI_REG_TR, 0, "TR base", Scope::Up, TR),
    table(abi::HEKI_REG_TR, 1, "TR limit", Scope::Up, TR_LIMIT),
    table(abi::HEKI_REG_TR, 2, "TR selector", Scope::Up, TR_SELECTOR),
    msr(MSR_EFER, "EFER", EFER),
    msr(0xc000_0081, "STAR", WHOLE),
    msr(0xc000_0082, "LSTAR", WHOLE),
    msr(0xc000_0083, "CSTAR", WHOLE),
    msr(0xc000_0084, "SFMASK", WHOLE),
    msr(0x174, "SYSENTER_CS", WHOLE_SYSENTER_CS),
    Register {
        scope: Scope::Vcpu,
        ..msr(0x175, "SYSENTER_ESP", WHOLE_SYSENTER)
    },
    msr(0x176, "SYSENTER_EIP", WHOLE_SYSENTER),
    msr(0x277, "PAT", WHOLE_PAT),
    msr(0x1b, "APIC_BASE", APIC_BASE),
    msr(0x1a0, "MISC_ENABLE", MISC_ENABLE),
    msr(0x3a, "FEATURE_CONTROL", FEATURE_CONTROL),
    msr(MSR_XSS, "XSS", XSS),
    msr(0x6a2, "S_CET", WHOLE_S_CET),
    msr(MSR_PL0_SSP, "PL0_SSP", WHOLE_SSP),
    msr(0x6a5, "PL1_SSP", WHOLE_SSP),
    msr(MSR_PL2_SSP, "PL2_SSP", WHOLE_SSP),
    msr(0x6a8, "INTERRUPT_SSP_TABLE", WHOLE_SSP_TABLE),
    msr(0x122, "TSX_CTRL", TSX_CTRL),
    msr(0xc001_1029, "DE_CFG", DE_CFG),
    msr(0xc001_0114, "VM_CR", VM_CR),
    msr(0x1d9, "DEBUGCTL", DEBUGCTL),
    msr(0x48, "SPEC_CTRL", SPEC_CTRL),
    msr(0xc001_011f, "VIRT_SPEC_CTRL", SPEC_CTRL),
    msr(0x49, "PRED_CMD", COMMAND),
    msr(0x10b, "FLUSH_CMD", COMMAND),
    msr(0x140, "MISC_FEATURES_ENABLES", PER_TASK),
    msr(0x1c4, "XFD", PER_TASK),
    msr(0x1c5, "XFD_ERR", XFD_ERR),
    msr(0x6a0, "U_CET", PER_TASK),
    msr(0x6a7, "PL3_SSP", PER_TASK),
    msr(0xc000_0100, "FS_BASE", BASES),
    msr(0xc000_0101, "GS_BASE", BASES),
    msr(0xc000_0102, "KERNEL_GS_BASE", BASES),
    msr(0xc000_0103, "TSC_AUX", CPU_NUMBER),
    msr(0xe1, "UMWAIT_CONTROL", WAITING),
    msr(0xd90, "BNDCFGS", MPX),
    msrs(0x8c, 0x8f, "SGXLEPUBKEYHASH", ENCLAVES),
    msr(0xc001_0015, "HWCR", HWCR),
    msr(0x600, "DS_AREA", PERF),
    msr(0x3f1, "PEBS_ENABLE", PERF),
    msr(0x3f2, "PEBS_DATA_CFG", PERF),
    msrs(0x560, 0x561, "RTIT_OUTPUT", PERF),
    msr(0x570, "RTIT_CTL", PERF),
    msrs(0x571, 0x572, "RTIT_STATUS, CR3_MATCH", PERF),
    msrs(0x580, 0x587, "RTIT_ADDR", PERF),
    msrs(0xc1, 0xc8, "PERFCTR", COUNTERS),
    msrs(0x186, 0x18d, "PERFEVTSEL", COUNTERS),
    msrs(0x309, 0x30c, "FIXED_CTR", COUNTERS),
    msrs(0x38d, 0x391, "PERF_GLOBAL", COUNTERS),
    msrs(0x4c1, 0x4c8, "PMC", COUNTERS),
    msrs(0x1a6, 0x1a7, "OFFCORE_RSP", COUNTERS),
    msrs(0x1c8, 0x1c9, "LBR_SELECT, LBR_TOS", COUNTERS),
    msrs(0x680, 0x69f, "LBR_FROM", COUNTERS),
    msrs(0x6c0, 0x6df, "LBR_TO", COUNTERS),
    msrs(0xdc0, 0xddf, "LBR_INFO", COUNTERS),
    msrs(0xc001_0000, 0xc001_0007, "K7_PERF", COUNTERS),
    msrs(0xc001_0200, 0xc001_020b, "F15H_PERF", COUNTERS),
    msrs(0xc000_0300, 0xc000_0303, "PERF_CNTR_GLOBAL", COUNTERS),
    msr(0x10, "TSC", TIME),
    msr(0x3b, "TSC_ADJUST", TIME),
    msr(0x6e0, "TSC_DEADLINE", TIME),
    msr(0xc000_0104, "TSC_RATIO", TIME),
    msrs(0x800, 0x8ff, "X2APIC", APIC),
    msrs(0x17a, 0x17b, "MCG_STATUS, MCG_CTL", MACHINE_CHECKS),
    msr(0x4d0, "MCG_EXT_CTL", MACHINE_CHECKS),
    msrs(0x280, 0x29f, "MC_CTL2", MACHINE_CHECKS),
    msrs(0x400, 0x47f, "MC_CTL, STATUS, ADDR, MISC", MACHINE_CHECKS),
    msr(0x1fc, "POWER_CTL", KEPT_ONLY),
    msrs(0xc001_0140, 0xc001_0141, "OSVW", KEPT_ONLY),
    msr(0x79, "UCODE_WRITE", MICROCODE),
    msr(0xc001_0020, "PATCH_LOADER", MICROCODE),
    msr(0x9e, "SMBASE", SMBASE),
    msr(0xc001_0117, "VM_HSAVE_PA", PV),
    msr(0x11, "KVM_WALL_CLOCK", PV),
    msr(0x12, "KVM_SYSTEM_TIME", PV),
    msr(0x4b56_4d00, "KVM_WALL_CLOCK_NEW", PV),
    msr(0x4b56_4d01, "KVM_SYSTEM_TIME_NEW", PV),
    msr(0x4b56_4d02, "KVM_ASYNC_PF_EN", PV),
    msr(0x4b56_4d03, "KVM_STEAL_TIME", PV),
    msr(0x4b56_4d04, "KVM_PV_EOI_EN", PV),
    msr(0x4b56_4d05, "KVM_POLL_CONTROL", PV_SIGNAL),
    msr(0x4b56_4d06, "KVM_ASYNC_PF_INT", PV_SIGNAL),
    msr(0x4b56_4d07, "KVM_ASYNC_PF_ACK", PV),
    msr(0x4b56_4d08, "KVM_MIGRATION_CONTROL", PV_VMM),
    msr(0x4000_0200, "XEN_HYPERCALL", XEN_PAGE),
    msr(0x4000_0000, "HV_GUEST_OS_ID", PV_SIGNAL),
    msr(0x4000_0001, "HV_HYPERCALL", PV),
    msr(0x4000_0003, "HV_RESET", PV_RESET),
    msr(0x4000_0021, "HV_REFERENCE_TSC", PV),
    msrs(0x4000_0070, 0x4000_0072, "HV_EOI, ICR, TPR", APIC),
    msr(0x4000_0073, "HV_VP_ASSIST_PAGE", PV),
    msr(0x4000_0080, "HV_SCONTROL", PV_SIGNAL),
    msr(0x4000_0082, "HV_SIEFP", PV),
    msr(0x4000_0083, "HV_SIMP", PV),
    msr(0x4000_0084, "HV_EOM", PV),
    msrs(0x4000_0090, 0x4000_009f, "HV_SINT", PV_SIGNAL),
    msrs(0x4000_00b0, 0x4000_00b7, "HV_STIMER", PV),
    msrs(0x4000_00f1, 0x4000_00f5, "HV_SYNDBG", PV_VMM),
    msr(0x4000_00ff, "HV_SYNDBG_OPTIONS", PV_VMM),
    msrs(0x4000_0100, 0x4000_0105, "HV_CRASH", PV_VMM),
    msrs(0x4000_0106, 0x4000_0108, "HV_REENLIGHTENMENT, TSC_EMULATION", PV_SIGNAL),
    msr(0x4000_0118, "HV_TSC_INVARIANT_CONTROL", PV_SIGNAL),
    msr(0x2ff, "MTRR_DEF_TYPE", MTRR),
    msrs(0x200, 0x20f, "MTRR_PHYS_BASE, MASK", MTRR),
    msr(0x250, "MTRR_FIX_64K", MTRR),
    msrs(0x258, 0x259, "MTRR_FIX_16K", MTRR),
    msrs(0x268, 0x26f, "MTRR_FIX_4K", MTRR),
    msr(0x6e1, "PKRS", PKRS),
    msr(0x1cc, "FRED_RSP0", FRED),
    msr(0x1cd, "FRED_RSP1", FRED),
    msr(0x1ce, "FRED_RSP2", FRED),
    msr(0x1cf, "FRED_RSP3", FRED),
    msr(0x1d0, "FRED_STKLVLS", FRED),
    msr(0x1d1, "FRED_SSP1", FRED),
    msr(0x1d2, "FRED_SSP2", FRED),
    msr(0x1d3, "FRED_SSP3", FRED),
    msr(0x1d4, "FRED_CONFIG", FRED),
];

impl Register {
    /// The bits with a decision of kind `wanted`.
    const fn bits(&self, wanted: Decision) -> u64 {
        let mut fields = self.fields;
        let mut bits = 0;
        while let Some((field, rest)) = fields.split_first() {
            if field.decision as u8 == wanted as u8 {
                bits |= field.bits;
            }
            fields = rest;
        }
        bits
    }

    /// The bits that a pin can hold.
    pub const fn pinnable(&self) -> u64 {
        self.forced() | self.bits(Keep)
    }

    /// Those of them that hardware holds, whatever the guest's own value.
    pub const fn forced(&self) -> u64 {
        self.bits(Set)
    }

    /// The bits that a guest can set.
    pub const fn settable(&self) -> u64 {
        self.pinnable() | self.bits(Covered) | self.bits(Free)
    }
}

/// The row of a register.
pub const fn find(reg: u32, index: u32) -> Option<&'static Register> {
    let mut rows = REGISTERS;
    while let Some((row, rest)) = rows.split_first() {
        if row.reg == reg && row.index <= index && index <= row.last {
            return Some(row);
        }
        rows = rest;
    }
    None
}

/// The bits that a pin of the register can hold, none of an unknown one.
pub const fn pinnable(reg: u32, index: u32) -> u64 {
    match find(reg, index) {
        Some(row) => row.pinnable(),
        None => 0,
    }
}

/// Those of them that hardware holds, whatever the guest's own value.
pub const fn forced(reg: u32, index: u32) -> u64 {
    match find(reg, index) {
        Some(row) => row.forced(),
        None => 0,
    }
}

/// The bits of the register that a guest can set as decided here, none of an unknown one.
pub const fn settable(reg: u32, index: u32) -> u64 {
    match find(reg, index) {
        Some(row) => row.settable(),
        None => 0,
    }
}

/// The protection (`HEKI_PROT_*`) to which a pin of a register of this kind belongs.
pub const fn protection(reg: u32) -> u32 {
    match reg {
        _ if is_table(reg) => abi::HEKI_PROT_DT,
        abi::HEKI_REG_XCR0 | abi::HEKI_REG_MSR => abi::HEKI_PROT_MSR,
        _ => abi::HEKI_PROT_CR,
    }
}

/// Whether registers of this kind are held by value: XCR0, MSRs and the descriptor-table registers.
pub const fn is_kept(reg: u32) -> bool {
    reg == abi::HEKI_REG_XCR0 || reg == abi::HEKI_REG_MSR || is_table(reg)
}

const fn is_table(reg: u32) -> bool {
    matches!(
        reg,
        abi::HEKI_REG_IDTR | abi::HEKI_REG_GDTR | abi::HEKI_REG_LDTR | abi::HEKI_REG_TR
    )
}

/// Name of the register of a pin by value.
pub fn name(reg: u32, index: u32) -> &'static str {
    find(reg, index).map_or("?", |row| row.name)
}

/// A register of which a seal keeps bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `HEKI_REG_*`, but not a control register.
    pub reg: u32,
    /// Number of the MSR, part of a descriptor-table register, else 0.
    pub index: u32,
    /// The bits.
    pub mask: u64,
    /// The register on the vCPU that asked.
    pub value: u64,
}

impl Held {
    /// Whose value it is. A zero is that of all, even where each vCPU has its own value.
    pub fn scope(&self) -> Scope {
        match find(self.reg, self.index) {
            Some(row) if row.scope != Scope::Vcpu || self.value & self.mask != 0 => row.scope,
            _ => Scope::Vm,
        }
    }

    /// The kept bits that loading `new` would change: denied unless zero. `current` is the vCPU's
    /// own value, and counts only where a vCPU may have another than that of the seal; `up` is
    /// whether it has loaded TR. Of [`Scope::Up`], it has.
    pub fn denied(&self, current: u64, new: u64, up: bool) -> u64 {
        let change = |from: u64, to: u64| (from ^ to) & self.mask;
        match self.scope() {
            Scope::Start if !up && change(self.value, current) != 0 => 0,
            Scope::Vm | Scope::Start => change(self.value, new),
            Scope::Vcpu if current & self.mask == 0 => 0,
            Scope::Vcpu | Scope::Up => change(current, new),
        }
    }
}

/// What a vCPU says of a register: the bits that KVM keeps of it, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The bits that KVM keeps.
    pub bits: u64,
    /// The value.
    pub value: u64,
}

impl Seen {
    /// The bits of `row`'s register that can be pinned on this vCPU.
    pub const fn pinnable(&self, row: &Register) -> u64 {
        row.pinnable() & self.bits
    }
}

/// Makes what is to be held of a checked `pin`; `seen` is `None` if the vCPU has no such register.
///
/// # Errors
///
/// [`Refusal::PinUnsupported`] if the vCPU does not have the register, or not all of the bits.
pub fn hold(pin: &abi::Pin, seen: Option<Seen>) -> Result<Held, Refusal> {
    let row = find(pin.reg, pin.index).ok_or(Refusal::PinUnsupported)?;
    let seen = seen.ok_or(Refusal::PinUnsupported)?;
    if pin.mask & !seen.pinnable(row) != 0 {
        return Err(Refusal::PinUnsupported);
    }
    Ok(Held {
        reg: pin.reg,
        index: pin.index,
        mask: pin.mask,
        value: seen.value,
    })
}

/// Checks all that is to be held together.
///
/// # Errors
///
/// [`Refusal::SspNeedsXss`] if a shadow stack pointer is among it that XRSTORS could still load.
pub fn check(held: &[Held]) -> Result<(), Refusal> {
    let is_ssp = |held: &Held| (MSR_PL0_SSP..=MSR_PL2_SSP).contains(&held.index);
    let is_off = |held: &Held| held.index == MSR_XSS && held.mask & !held.value & XSS_CET_S != 0;
    if held.iter().any(is_ssp) && !held.iter().any(is_off) {
        return Err(Refusal::SspNeedsXss);
    }
    Ok(())
}

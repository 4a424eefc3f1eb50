// SPDX-License-Identifier: GPL-2.0

//! Control-register bits that stay set.
//!
//! Says which bits can be pinned and which change of a register a pin denies. The host sets most
//! pinned bits in the hardware register behind the guest's back; reading and writing registers is its
//! work.
//! Neighbours: `abi` for the register numbers, [`registers`] for which bits. Locks: none.
//!
//! Names are those of the Intel SDM, volume 3, section "Control Registers".

use super::{
    abi,
    registers, //
};

/// Numeric Error: x87 errors raise #MF, not an external interrupt.
pub const CR0_NE: u64 = 1 << 5;
/// Write Protect: supervisor mode honours read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// Alignment Mask: lets user mode ask for #AC.
pub const CR0_AM: u64 = 1 << 18;

/// User-Mode Instruction Prevention: SGDT, SIDT, SLDT, SMSW and STR fault in user mode.
pub const CR4_UMIP: u64 = 1 << 11;
/// Enables RDFSBASE, RDGSBASE, WRFSBASE and WRGSBASE.
pub const CR4_FSGSBASE: u64 = 1 << 16;
/// Supervisor-Mode Execution Prevention: supervisor mode does not run user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// Supervisor-Mode Access Prevention: supervisor mode does not touch user pages unless it says so.
pub const CR4_SMAP: u64 = 1 << 21;
/// Control-flow Enforcement Technology: shadow stacks and indirect branch tracking.
pub const CR4_CET: u64 = 1 << 23;

/// CR0 bits that can be pinned.
pub const PINNABLE_CR0: u64 = registers::pinnable(abi::HEKI_REG_CR0, 0);

/// Those of them that hardware can hold set whatever the guest's own value.
///
/// All three are inert on the way up. WP asks nothing while paging is off; AM acts in user mode
/// only, and only with EFLAGS.AC; NE picks how an x87 error is told, and VMX operation wants it set
/// anyway (SDM, "VMX-Fixed Bits in CR0"). PG is not among them: a vCPU that starts (INIT, SIPI)
/// begins in real mode. Once it has paging on, turning it off is refused.
pub const FORCED_CR0: u64 = registers::forced(abi::HEKI_REG_CR0, 0);

/// CR4 bits that can be pinned, if the CPU has them: those that Linux never clears after boot.
pub const PINNABLE_CR4: u64 = registers::pinnable(abi::HEKI_REG_CR4, 0);

/// Those of them that hardware can hold set whatever the guest's own value, if it has them.
///
/// SMEP and SMAP are defined on linear addresses with a U/S bit, so they ask nothing while paging
/// is off (SDM, "Determination of Access Rights"). UMIP binds user mode only. FSGSBASE adds
/// instructions and takes none away. CET does nothing until its MSRs enable a feature, but VM entry
/// wants CR0.WP with it (SDM, "Checks on Guest Control Registers, Debug Registers, and MSRs"):
/// hence a pin of CET needs one of WP. PKE is not among them: KVM switches PKRU by the guest's own
/// bit.
pub const FORCED_CR4: u64 = registers::forced(abi::HEKI_REG_CR4, 0);

/// The pinned bits of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Bits of CR0 that stay set.
    pub cr0: u64,
    /// Bits of CR4 that stay set.
    pub cr4: u64,
}

impl Pins {
    /// No pins.
    pub const NONE: Self = Self { cr0: 0, cr4: 0 };

    /// Whether nothing is pinned.
    pub const fn is_empty(&self) -> bool {
        self.cr0 == 0 && self.cr4 == 0
    }

    /// Those that are in `other`, too.
    pub const fn within(self, other: Self) -> Self {
        Self {
            cr0: self.cr0 & other.cr0,
            cr4: self.cr4 & other.cr4,
        }
    }

    /// The pinned bits of register `reg` (`HEKI_REG_*`); none of an unknown one.
    pub const fn of(&self, reg: u32) -> u64 {
        match reg {
            abi::HEKI_REG_CR0 => self.cr0,
            abi::HEKI_REG_CR4 => self.cr4,
            _ => 0,
        }
    }

    /// The pinned bits of register `reg` that a change from `old` to `new` would clear: denied
    /// unless zero.
    ///
    /// A bit that was clear may stay so: a vCPU that starts has not set it yet, and there forcing
    /// holds what hardware can.
    pub const fn denied(&self, reg: u32, old: u64, new: u64) -> u64 {
        self.of(reg) & old & !new
    }
}

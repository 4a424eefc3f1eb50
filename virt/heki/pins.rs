// SPDX-License-Identifier: GPL-2.0

//! The control-register bits to pin: CR0.WP, and those of CR4 that the kernel itself never clears.
//!
//! Neighbours: used by [`seal`](crate::seal). Locks: none.

#![deny(unsafe_code)]

use crate::{
    abi,
    ffi, //
};

/// Supervisor-Mode Execution Prevention, without which an allow-list of text would let user pages run.
pub(crate) const CR4_SMEP: u64 = 1 << 20;

/// One bit and what became of it.
pub(crate) struct Bit {
    /// `HEKI_REG_*`.
    pub(crate) reg: u32,
    /// The bit.
    pub(crate) mask: u64,
    /// Its name.
    pub(crate) name: &'static str,
}

/// The bits, as the kernel's own `cr4_pinned_mask` has them.
pub(crate) const BITS: [Bit; 6] = [
    bit(abi::HEKI_REG_CR0, 1 << 16, "CR0.WP"),
    bit(abi::HEKI_REG_CR4, CR4_SMEP, "CR4.SMEP"),
    bit(abi::HEKI_REG_CR4, 1 << 21, "CR4.SMAP"),
    bit(abi::HEKI_REG_CR4, 1 << 11, "CR4.UMIP"),
    bit(abi::HEKI_REG_CR4, 1 << 16, "CR4.FSGSBASE"),
    bit(abi::HEKI_REG_CR4, 1 << 23, "CR4.CET"),
];

const fn bit(reg: u32, mask: u64, name: &'static str) -> Bit {
    Bit { reg, mask, name }
}

/// The registers of this CPU and what the host can pin in them.
pub(crate) struct Registers {
    cr0: u64,
    cr4: u64,
    pinnable_cr0: u64,
    pinnable_cr4: u64,
}

impl Registers {
    /// Reads the registers. Every CPU has the bits of [`BITS`] alike.
    pub(crate) fn read(query: &abi::Query) -> Self {
        let cr = query.available & abi::HEKI_PROT_CR != 0;
        Self {
            cr0: ffi::cr0(),
            cr4: ffi::cr4(),
            pinnable_cr0: if cr { query.cr0_pinnable } else { 0 },
            pinnable_cr4: if cr { query.cr4_pinnable } else { 0 },
        }
    }

    /// Whether this CPU has `bit` set.
    pub(crate) fn is_set(&self, bit: &Bit) -> bool {
        self.pick(bit, self.cr0, self.cr4)
    }

    /// Whether `bit` can be pinned: it is set and the host can.
    pub(crate) fn is_pinned(&self, bit: &Bit) -> bool {
        self.is_set(bit) && self.pick(bit, self.pinnable_cr0, self.pinnable_cr4)
    }

    /// The bits to pin in register `reg`.
    pub(crate) fn mask(&self, reg: u32) -> u64 {
        BITS.iter()
            .filter(|bit| bit.reg == reg && self.is_pinned(bit))
            .fold(0, |mask, bit| mask | bit.mask)
    }

    fn pick(&self, bit: &Bit, cr0: u64, cr4: u64) -> bool {
        let value = if bit.reg == abi::HEKI_REG_CR0 {
            cr0
        } else {
            cr4
        };
        value & bit.mask != 0
    }
}

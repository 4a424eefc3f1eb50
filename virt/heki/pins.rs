// SPDX-License-Identifier: GPL-2.0

//! The register bits to pin: those of CR0 and CR4 that the kernel itself never clears, and the MSRs that it sets
//! at boot and never changes.
//!
//! Neighbours: used by [`seal`](crate::seal). Locks: none.

#![deny(unsafe_code)]

use kernel::prelude::*;

use crate::{
    abi,
    ffi,
    hypercall, //
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

/// The bits, of CR4 as the kernel's own `cr4_pinned_mask` has them, and PKE. Of CR0 only kexec, which is refused, and
/// reboot=bios clear any.
pub(crate) const BITS: [Bit; 10] = [
    bit(abi::HEKI_REG_CR0, 1 << 5, "CR0.NE"),
    bit(abi::HEKI_REG_CR0, 1 << 16, "CR0.WP"),
    bit(abi::HEKI_REG_CR0, 1 << 18, "CR0.AM"),
    bit(abi::HEKI_REG_CR0, 1 << 31, "CR0.PG"),
    bit(abi::HEKI_REG_CR4, CR4_SMEP, "CR4.SMEP"),
    bit(abi::HEKI_REG_CR4, 1 << 21, "CR4.SMAP"),
    bit(abi::HEKI_REG_CR4, 1 << 11, "CR4.UMIP"),
    bit(abi::HEKI_REG_CR4, 1 << 16, "CR4.FSGSBASE"),
    bit(abi::HEKI_REG_CR4, 1 << 22, "CR4.PKE"),
    bit(abi::HEKI_REG_CR4, 1 << 23, "CR4.CET"),
];

const fn bit(reg: u32, mask: u64, name: &'static str) -> Bit {
    Bit { reg, mask, name }
}

/// A register that keeps its value.
pub(crate) struct Row {
    /// `HEKI_REG_*`.
    pub(crate) reg: u32,
    /// Number of an MSR, part of a descriptor-table register, else 0.
    pub(crate) index: u32,
    /// The bits that the kernel never changes.
    mask: u64,
    /// Whether each CPU has its own value.
    per_cpu: bool,
    /// Its name.
    pub(crate) name: &'static str,
}

/// The registers, each as the kernel's own code for a CPU that starts loads it.
///
/// Not among them are those that change while the kernel runs: the bases, PL3_SSP, DEBUGCTL, SPEC_CTRL. Kernels
/// have no supervisor shadow stacks yet, so the pointers to those stay zero.
const ROWS: [Row; 30] = [
    row(abi::HEKI_REG_IDTR, 0, !0, "IDTR base"),
    row(abi::HEKI_REG_IDTR, 1, 0xffff, "IDTR limit"),
    own(row(abi::HEKI_REG_GDTR, 0, !0, "GDTR base")),
    own(row(abi::HEKI_REG_GDTR, 1, 0xffff, "GDTR limit")),
    row(abi::HEKI_REG_LDTR, 0, LDTR, "LDTR"),
    own(row(abi::HEKI_REG_TR, 0, !0, "TR base")),
    own(row(abi::HEKI_REG_TR, 1, 0xffff_ffff, "TR limit")),
    own(row(abi::HEKI_REG_TR, 2, 0xffff, "TR selector")),
    row(abi::HEKI_REG_XCR0, 0, !0, "XCR0"),
    msr(0xc000_0080, 0x20_fb01, "EFER"),
    msr(0xc000_0081, !0, "STAR"),
    msr(0xc000_0082, !0, "LSTAR"),
    msr(0xc000_0083, !0, "CSTAR"),
    msr(0xc000_0084, !0, "SFMASK"),
    msr(0x174, 0xffff_ffff, "SYSENTER_CS"),
    own(msr(0x175, !0, "SYSENTER_ESP")),
    msr(0x176, !0, "SYSENTER_EIP"),
    msr(0x277, !0, "PAT"),
    msr(0x1b, 0xf_ffff_ffff_fc00, "APIC_BASE"),
    msr(0x1a0, 1 | 1 << 22 | 1 << 34, "MISC_ENABLE"),
    msr(0x3a, !0, "FEATURE_CONTROL"),
    msr(XSS, !0, "XSS"),
    S_CET,
    msr(PL0_SSP, !0, "PL0_SSP"),
    msr(0x6a5, !0, "PL1_SSP"),
    msr(PL2_SSP, !0, "PL2_SSP"),
    msr(0x6a8, !0, "INTERRUPT_SSP_TABLE"),
    msr(0x122, !0, "TSX_CTRL"),
    msr(0xc001_1029, !0, "DE_CFG"),
    msr(0xc001_0114, !0, "VM_CR"),
];

const S_CET: Row = msr(0x6a2, !0, "S_CET");
/// Supervisor shadow stacks.
const S_CET_SH_STK_EN: u64 = 1;
/// A process with modify_ldt() switches between null and `GDT_ENTRY_LDT`.
const LDTR: u64 = if cfg!(CONFIG_MODIFY_LDT_SYSCALL) {
    0xffff & !(10 << 3)
} else {
    0xffff
};
const XSS: u32 = 0xda0;
/// XRSTORS loads the shadow stack pointers of rings 0 to 2.
const XSS_CET_S: u64 = 1 << 12;
const PL0_SSP: u32 = 0x6a4;
const PL2_SSP: u32 = 0x6a6;

const fn row(reg: u32, index: u32, mask: u64, name: &'static str) -> Row {
    Row {
        reg,
        index,
        mask,
        per_cpu: false,
        name,
    }
}

/// The same register with a value of its own on each CPU.
const fn own(row: Row) -> Row {
    Row {
        per_cpu: true,
        ..row
    }
}

const fn msr(index: u32, mask: u64, name: &'static str) -> Row {
    row(abi::HEKI_REG_MSR, index, mask, name)
}

/// What becomes of a [`Row`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// These bits are pinned.
    Pinned(u64),
    /// This CPU has no such register.
    Absent,
    /// The host cannot pin it.
    Unable,
    /// The CPUs do not agree on its value.
    Differs,
    /// No pin is needed: another keeps the CPU from using it.
    Unused,
}

impl Row {
    /// What can become of the row as far as this CPU goes; `able` is whether the host pins such registers at all.
    fn fate(&self, able: bool) -> Fate {
        if ffi::read_register(self.reg, self.index).is_none() {
            return Fate::Absent;
        }
        let mask = match able {
            true => hypercall::query_pin(self.reg, self.index).unwrap_or(0) & self.mask,
            false => 0,
        };
        match mask {
            0 => Fate::Unable,
            mask => Fate::Pinned(mask),
        }
    }

    /// What every CPU must have for it to be `fate`, if they must agree.
    fn expected(&self, fate: Fate) -> Option<ffi::Expected> {
        let Fate::Pinned(mask) = fate else {
            return None;
        };
        let (reg, index) = (self.reg, self.index);
        let value = ffi::read_register(reg, index)? & mask;
        let own = self.per_cpu && value != 0;
        (!own).then_some(ffi::Expected {
            mask,
            value,
            reg,
            index,
            differs: false,
        })
    }

    fn is(&self, reg: u32, index: u32) -> bool {
        (self.reg, self.index) == (reg, index)
    }

    /// The protection (`HEKI_PROT_*`) that it belongs to.
    fn protection(&self) -> u32 {
        match self.reg {
            abi::HEKI_REG_XCR0 | abi::HEKI_REG_MSR => abi::HEKI_PROT_MSR,
            _ => abi::HEKI_PROT_DT,
        }
    }

    fn is_ssp(&self) -> bool {
        (PL0_SSP..=PL2_SSP).contains(&self.index)
    }
}

/// Whether XSS, which is pinned, keeps XRSTORS from the shadow stack pointers.
fn xrstors_leaves_ssp() -> bool {
    ffi::read_register(abi::HEKI_REG_MSR, XSS).is_some_and(|xss| xss & XSS_CET_S == 0)
}

/// Whether S_CET, of this `fate`, keeps supervisor shadow stacks off, whose pointers mean nothing then.
fn shadow_stacks_stay_off(fate: Fate) -> bool {
    let off = ffi::read_register(S_CET.reg, S_CET.index)
        .is_some_and(|s_cet| s_cet & S_CET_SH_STK_EN == 0);
    off && matches!(fate, Fate::Pinned(mask) if mask & S_CET_SH_STK_EN != 0)
}

/// The registers of this CPU and what the host can pin in them.
pub(crate) struct Registers {
    fates: KVec<Fate>,
    cr0: u64,
    cr4: u64,
    pinnable_cr0: u64,
    pinnable_cr4: u64,
}

impl Registers {
    /// Reads the registers. Every CPU has the bits of [`BITS`] alike.
    pub(crate) fn read(query: &abi::Query) -> Result<Self> {
        let cr = query.available & abi::HEKI_PROT_CR != 0;
        let mut fates = KVec::with_capacity(ROWS.len(), GFP_KERNEL)?;
        for row in &ROWS {
            let able = query.available & row.protection() != 0;
            fates.push(row.fate(able), GFP_KERNEL)?;
        }
        let mut registers = Self {
            fates,
            cr0: ffi::cr0(),
            cr4: ffi::cr4(),
            pinnable_cr0: if cr { query.cr0_pinnable } else { 0 },
            pinnable_cr4: if cr { query.cr4_pinnable } else { 0 },
        };
        registers.ask_all_cpus()?;
        registers.judge_ssp();
        Ok(registers)
    }

    /// Finds the rows on which the CPUs do not agree.
    fn ask_all_cpus(&mut self) -> Result {
        let mut expected = KVec::with_capacity(ROWS.len(), GFP_KERNEL)?;
        for one in self.rows().filter_map(|(row, fate)| row.expected(fate)) {
            expected.push(one, GFP_KERNEL)?;
        }
        ffi::compare_everywhere(&mut expected);
        for one in expected.iter().filter(|one| one.differs) {
            self.set_fates(Fate::Differs, |row| row.is(one.reg, one.index));
        }
        Ok(())
    }

    /// The shadow stack pointers are not held where XRSTORS loads them.
    fn judge_ssp(&mut self) {
        if xrstors_leaves_ssp() {
            return;
        }
        let s_cet = self.rows().find(|(row, _)| row.is(S_CET.reg, S_CET.index));
        let unused = s_cet.is_some_and(|(_, fate)| shadow_stacks_stay_off(fate));
        self.set_fates(
            if unused { Fate::Unused } else { Fate::Unable },
            Row::is_ssp,
        );
    }

    /// Gives the rows that `which` picks another fate, unless this CPU has no such register.
    fn set_fates(&mut self, fate: Fate, which: impl Fn(&Row) -> bool) {
        for (row, old) in ROWS.iter().zip(self.fates.iter_mut()) {
            if which(row) && *old != Fate::Absent {
                *old = fate;
            }
        }
    }

    /// The registers that keep their value, and what becomes of each.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Row, Fate)> + '_ {
        ROWS.iter().zip(self.fates.iter().copied())
    }

    /// Whether all of protection `prot` (`HEKI_PROT_*`) that this CPU has can be pinned.
    pub(crate) fn all_kept(&self, prot: u32) -> bool {
        self.rows()
            .filter(|(row, _)| row.protection() == prot)
            .all(|(_, fate)| matches!(fate, Fate::Pinned(_) | Fate::Absent | Fate::Unused))
    }

    /// The name of a register that keeps its value, and the bits that are pinned, if any.
    pub(crate) fn pinned(&self, reg: u32, index: u32) -> Option<(&'static str, u64)> {
        let (row, fate) = self.rows().find(|(row, _)| row.is(reg, index))?;
        match fate {
            Fate::Pinned(mask) => Some((row.name, mask)),
            _ => None,
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

// SPDX-License-Identifier: GPL-2.0

//! The table of registers: that it is whole, what its pins deny, and that the documentation is made
//! from it. `HEKI_BLESS=1 cargo test registers` writes the documentation anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::{env, fs};

use heki_abi::{
    HEKI_PROT_DT, HEKI_REG_CR0, HEKI_REG_CR4, HEKI_REG_GDTR, HEKI_REG_IDTR, HEKI_REG_LDTR,
    HEKI_REG_MSR, HEKI_REG_TR, HEKI_REG_XCR0,
};
use heki_policy::pin::{PINNABLE_CR0, PINNABLE_CR4};
use heki_policy::refusal::Refusal;
use heki_policy::registers::*;
use proptest::prelude::*;

use crate::wire::{msr, pin};

const LSTAR: u32 = 0xc000_0082;
const SYSENTER_ESP: u32 = 0x175;
const PL0_SSP: u32 = 0x6a4;
const DOCUMENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../../Documentation/virt/kvm/x86/heki-registers.rst"
);

const SEEN: Seen = Seen {
    bits: u64::MAX,
    value: 0x5555,
};

fn held(index: u32, mask: u64, value: u64) -> Held {
    Held {
        reg: HEKI_REG_MSR,
        index,
        mask,
        value,
    }
}

#[test]
fn each_register_comes_once() {
    let mut rows: Vec<_> = REGISTERS
        .iter()
        .map(|row| (row.reg, row.index, row.last))
        .collect();
    rows.sort_unstable();
    assert!(rows.iter().all(|(_, first, last)| first <= last));
    let apart = |pair: &[(u32, u32, u32)]| pair[0].0 < pair[1].0 || pair[0].2 < pair[1].1;
    assert!(rows.windows(2).all(apart));
    let names: BTreeSet<_> = REGISTERS.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), REGISTERS.len());
}

#[test]
fn a_row_of_many_is_found_by_each_and_pins_none() {
    for row in REGISTERS {
        for index in [row.index, row.last] {
            assert_eq!(find(row.reg, index).map(|found| found.name), Some(row.name));
        }
        assert!(row.index == row.last || row.pinnable() == 0, "{}", row.name);
    }
    let variable = |index| find(HEKI_REG_MSR, index).map(|row| row.name);
    assert_eq!(variable(0x203), variable(0x20f));
    assert_eq!(variable(0x1ff), None);
    assert_eq!(variable(0x210), None);
}

#[test]
fn each_bit_is_decided_once_and_with_a_reason() {
    for row in REGISTERS {
        let mut seen = 0;
        for field in row.fields {
            assert_ne!(field.bits, 0, "{} {}", row.name, field.name);
            assert_eq!(seen & field.bits, 0, "{} {}", row.name, field.name);
            assert!(!field.why.is_empty());
            seen |= field.bits;
        }
    }
}

#[test]
fn what_kvm_refuses_a_guest_cannot_set() {
    for row in REGISTERS {
        for field in row.fields {
            let refused = field.decision == Decision::Refused;
            let settable = settable(row.reg, row.index) & field.bits;
            let expected = if refused { 0 } else { field.bits };
            assert_eq!(settable, expected, "{} {}", row.name, field.name);
        }
    }
    const LASS: u64 = 1 << 27;
    assert_eq!(settable(HEKI_REG_CR4, 0) & LASS, 0);
}

#[test]
fn only_control_registers_are_forced() {
    for row in REGISTERS {
        for field in row.fields {
            match field.decision {
                Decision::Set => assert!(!is_kept(row.reg), "{}", row.name),
                _ => {}
            }
        }
    }
    assert_eq!(pinnable(HEKI_REG_CR0, 0), PINNABLE_CR0);
    assert_eq!(pinnable(HEKI_REG_CR4, 0), PINNABLE_CR4);
}

#[test]
fn what_has_no_row_cannot_be_pinned() {
    for (reg, index) in [
        (1, 0),
        (HEKI_REG_CR0, 1),
        (HEKI_REG_XCR0, 1),
        (HEKI_REG_MSR, 0x17),
    ] {
        assert_eq!((pinnable(reg, index), settable(reg, index)), (0, 0));
    }
    assert_eq!(
        hold(&msr(0x17, 1), Some(SEEN)),
        Err(Refusal::PinUnsupported)
    );
    let counter = msr(0xc2, 1);
    assert_eq!(hold(&counter, Some(SEEN)), Err(Refusal::PinUnsupported));
}

#[test]
fn only_what_the_vcpu_has_is_held() {
    let lstar = msr(LSTAR, u64::MAX);
    assert_eq!(hold(&lstar, Some(SEEN)), Ok(held(LSTAR, u64::MAX, 0x5555)));
    assert_eq!(hold(&lstar, None), Err(Refusal::PinUnsupported));
    let narrow = Seen {
        bits: !0 >> 32,
        ..SEEN
    };
    assert_eq!(hold(&lstar, Some(narrow)), Err(Refusal::PinUnsupported));
    assert!(hold(&msr(LSTAR, 0xff), Some(narrow)).is_ok());
    assert!(hold(&pin(HEKI_REG_XCR0, 7), Some(SEEN)).is_ok());
}

#[test]
fn a_vcpu_may_load_the_value_of_the_vm_and_no_other() {
    let lstar = held(LSTAR, u64::MAX, 0x1234);
    for current in [0, 0x1234, 7] {
        assert_eq!(lstar.denied(current, 0x1234, true), 0);
        assert_eq!(lstar.denied(current, 0x1235, true), 1);
        assert_eq!(lstar.denied(current, 0, true), 0x1234);
    }
    let efer = held(MSR_EFER, 1 << 11, 1 << 11 | 1);
    assert_eq!(efer.denied(0, 1 << 11, true), 0);
    assert_eq!(efer.denied(0, 1, true), 1 << 11);
}

#[test]
fn a_vcpu_loads_a_value_of_its_own_once() {
    let esp = held(SYSENTER_ESP, u64::MAX, 0x1000);
    assert_eq!(esp.denied(0, 0x2000, true), 0);
    assert_eq!(esp.denied(0x2000, 0x2000, true), 0);
    assert_eq!(esp.denied(0x2000, 0x1000, true), 0x3000);
    assert_eq!(esp.denied(0x2000, 0, true), 0x2000);
}

#[test]
fn a_zero_of_its_own_is_that_of_all() {
    let esp = held(SYSENTER_ESP, 0xf000, 0xfff);
    assert_eq!(esp.scope(), Scope::Vm);
    assert_eq!(esp.denied(0x2000, 0x2fff, true), 0x2000);
    assert_eq!(esp.denied(0x2000, 0x111, true), 0);
}

#[test]
fn a_vcpu_that_starts_has_other_tables_first() {
    let idtr = Held {
        reg: HEKI_REG_IDTR,
        ..held(0, u64::MAX, 0x1000)
    };
    let (starts, up) = (false, true);
    assert_eq!(idtr.denied(0, 0x2000, starts), 0);
    assert_eq!(idtr.denied(0x2000, 0x3000, starts), 0);
    assert_eq!(idtr.denied(0x2000, 0x1000, starts), 0);
    assert_eq!(idtr.denied(0x1000, 0x2000, starts), 0x3000);
    assert_eq!(idtr.denied(0x1000, 0x1000, starts), 0);
    assert_eq!(idtr.denied(0x2000, 0x2000, up), 0x3000);
    assert_eq!(idtr.denied(0x2000, 0x1000, up), 0);
    assert_eq!(idtr.denied(0x1000, 0x2000, up), 0x3000);
}

#[test]
fn a_vcpu_that_is_up_keeps_its_own_tables() {
    for (reg, index) in [(HEKI_REG_GDTR, 0), (HEKI_REG_TR, 0), (HEKI_REG_TR, 2)] {
        let own = Held {
            reg,
            ..held(index, 0xffff, 0x1000)
        };
        assert_eq!(own.scope(), Scope::Up);
        assert_eq!(own.denied(0x2000, 0x2000, true), 0);
        assert_eq!(own.denied(0x2000, 0x1000, true), 0x3000);
        assert_eq!(own.denied(0, 0x1000, true), 0x1000);
        assert_eq!(own.denied(0x2000, 0x1_2000, true), 0);
    }
}

#[test]
fn an_ldt_entry_can_be_left_to_the_guest() {
    let ldtr = Held {
        reg: HEKI_REG_LDTR,
        ..held(0, 0xffff & !0x50, 0)
    };
    assert_eq!(ldtr.denied(0, 0x50, true), 0);
    assert_eq!(ldtr.denied(0x50, 0, true), 0);
    assert_eq!(ldtr.denied(0x50, 0x60, true), 0x20);
}

#[test]
fn tables_belong_to_one_protection() {
    for reg in [HEKI_REG_IDTR, HEKI_REG_GDTR, HEKI_REG_LDTR, HEKI_REG_TR] {
        assert_eq!(protection(reg), HEKI_PROT_DT);
        assert!(is_kept(reg));
        assert_eq!(pinnable(reg, 3), 0);
    }
}

#[test]
fn shadow_stack_pointers_need_xss() {
    let ssp = held(PL0_SSP, u64::MAX, 0);
    let xss = |mask, value| held(MSR_XSS, mask, value);
    let checked = |list: &[Held]| check(list);
    assert_eq!(checked(&[]), Ok(()));
    assert_eq!(checked(&[ssp]), Err(Refusal::SspNeedsXss));
    assert_eq!(checked(&[ssp, xss(1 << 11, 0)]), Err(Refusal::SspNeedsXss));
    assert_eq!(checked(&[ssp, xss(!0, 1 << 12)]), Err(Refusal::SspNeedsXss));
    assert_eq!(checked(&[xss(!0, 1 << 11), ssp]), Ok(()));
    assert_eq!(checked(&[xss(!0, 1 << 12)]), Ok(()));
}

proptest! {
    #[test]
    fn denied_bits_bit_by_bit(mask: u64, value: u64, current: u64, new: u64, per_vcpu: bool) {
        let index = if per_vcpu { SYSENTER_ESP } else { LSTAR };
        let denied = held(index, mask, value).denied(current, new, true);
        for bit in 0..64 {
            let set = |word: u64| word >> bit & 1 == 1;
            let expected = if !per_vcpu || mask & value == 0 {
                set(mask) && set(new) != set(value)
            } else {
                current & mask != 0 && set(mask) && set(new) != set(current)
            };
            prop_assert_eq!(set(denied), expected);
        }
    }
}

const HEAD: &str = "\
.. SPDX-License-Identifier: GPL-2.0

.. Made from virt/kvm/heki/policy/registers.rs by its test:
   HEKI_BLESS=1 cargo test -p heki_policy registers

=================================
Registers that Heki pins, and not
=================================

For each field of each register in scope: what a pin of a sealed VM does with it. Design and
limits are in Documentation/virt/kvm/x86/heki.rst, the request in
Documentation/virt/kvm/x86/heki-abi.rst.

pinned to 1
  It can be pinned where it is set at the seal. Hardware holds it set on every vCPU; the
  guest's own change from 1 to 0 is #GP.
pinned to its value
  It can be pinned, set or clear. A guest that loads another value gets #GP, and the old
  value stays.
not needed
  No pin. The CPU refuses what would matter, or another protection covers it.
refused by KVM
  KVM lets no guest set it. Should it begin to: with a bit of CR0, CR4, XCR0 or XSS it does not
  build until somebody decides, with one of EFER no VM can be sealed.
may change
  No pin. The guest may change it.

Scope VM: the value is that of the vCPU that asks, for every vCPU. A vCPU that starts has what
the reset left, and may load this value and no other. Scope vCPU: each vCPU has its own value.
Once it is not zero it stays; INIT may clear it, then the vCPU may load one again. If it is zero
on the vCPU that asks, it stays zero on all.

Scope start: as VM, but a vCPU that since INIT has loaded neither the value nor TR may load others
first.

Scope up: each vCPU keeps its own value from when it is up, that is, TR is not null: INIT makes it
so, and LTR ends it. Of the GDTR, it may load one more value after that.

A register that a vCPU does not have cannot be pinned on it. An MSR without a row can only be
read by a guest, or KVM ignores what is written to it, or the VMM serves it.

.. list-table::
   :header-rows: 1
   :widths: 20 13 15 16 8 48

   * - Register
     - MSR
     - Bits
     - Decision
     - Scope
     - Why
";

fn bits(bits: u64) -> String {
    match bits.count_ones() {
        1 => format!("{}", bits.trailing_zeros()),
        _ => format!("{bits:#x}"),
    }
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    for row in REGISTERS {
        let number = match row.reg {
            HEKI_REG_MSR if row.last != row.index => format!(" {:#x}-{:#x}", row.index, row.last),
            HEKI_REG_MSR => format!(" {:#x}", row.index),
            _ => String::new(),
        };
        for field in row.fields {
            let name = match field.name {
                "all" => row.name.to_owned(),
                part => format!("{}.{part}", row.name),
            };
            let scope = match field.decision {
                Decision::Keep => format!(" {}", row.scope.as_str()),
                Decision::Set => " VM".to_owned(),
                Decision::Covered | Decision::Refused | Decision::Free => String::new(),
            };
            let (mask, decision, why) = (bits(field.bits), field.decision.as_str(), field.why);
            write!(
                text,
                "   * - {name}\n     -{number}\n     - {mask}\n     - {decision}\n     -{scope}\n     - {why}\n",
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn the_documentation_is_made_from_the_table() {
    if env::var_os("HEKI_BLESS").is_some() {
        fs::write(DOCUMENT, document()).unwrap();
    }
    let written = fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(
        written == document(),
        "{DOCUMENT} is stale: HEKI_BLESS=1 cargo test -p heki_policy registers"
    );
}

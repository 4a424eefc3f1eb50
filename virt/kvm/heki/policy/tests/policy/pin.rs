// SPDX-License-Identifier: GPL-2.0

//! Pins: what they deny, what they force, which bits they may be.

use heki_abi::{HEKI_REG_CR0, HEKI_REG_CR4};
use heki_policy::pin::*;
use proptest::prelude::*;

const PINS: Pins = Pins {
    cr0: CR0_WP | CR0_AM,
    cr4: CR4_SMEP | CR4_SMAP,
};

#[test]
fn clearing_a_pinned_bit_is_denied() {
    assert_eq!(PINS.denied(HEKI_REG_CR0, CR0_WP | CR0_NE, CR0_NE), CR0_WP);
    assert_eq!(
        PINS.denied(HEKI_REG_CR0, CR0_WP | CR0_AM, 0),
        CR0_WP | CR0_AM
    );
    assert_eq!(
        PINS.denied(HEKI_REG_CR4, CR4_SMEP | CR4_SMAP, CR4_SMAP),
        CR4_SMEP
    );
}

#[test]
fn a_vcpu_that_starts_is_not_denied() {
    assert_eq!(PINS.denied(HEKI_REG_CR0, 0x6000_0010, 1), 0);
    assert_eq!(PINS.denied(HEKI_REG_CR4, 0, 1 << 5), 0);
    assert_eq!(PINS.denied(HEKI_REG_CR4, 0, CR4_SMEP), 0);
}

#[test]
fn an_unknown_register_has_no_pins() {
    for reg in [1, 2, 3, 5, 8, u32::MAX] {
        assert_eq!(PINS.of(reg), 0);
        assert_eq!(PINS.denied(reg, u64::MAX, 0), 0);
    }
}

#[test]
fn masks_are_those_of_the_manual() {
    assert_eq!(PINNABLE_CR0, 0x8005_0020);
    assert_eq!(FORCED_CR0, 0x0005_0020);
    assert_eq!(PINNABLE_CR4, 0x00f1_0800);
    assert_eq!(FORCED_CR4, 0x00b1_0800);
}

#[test]
fn no_pins_is_empty() {
    assert!(Pins::NONE.is_empty());
    assert_eq!(Pins::NONE, Pins::default());
    assert!(!Pins { cr0: 1, cr4: 0 }.is_empty());
    assert!(!Pins { cr0: 0, cr4: 1 }.is_empty());
}

proptest! {
    #[test]
    fn denied_bits_bit_by_bit(cr0: u64, cr4: u64, reg in 0..6u32, old: u64, new: u64) {
        let pins = Pins { cr0, cr4 };
        let denied = pins.denied(reg, old, new);
        for bit in 0..64 {
            let set = |value: u64| value >> bit & 1 == 1;
            let pinned = (reg == 0 && set(cr0)) || (reg == 4 && set(cr4));
            prop_assert_eq!(set(denied), pinned && set(old) && !set(new));
        }
    }
}

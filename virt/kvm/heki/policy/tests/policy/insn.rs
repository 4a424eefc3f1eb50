// SPDX-License-Identifier: GPL-2.0

//! Instructions: only those that Linux writes, only at their whole length, only at their address.

use heki_policy::patch::insn::Insn::{self, *};
use proptest::prelude::*;

use crate::toy::{branch, call, jump, jump_short, MOV5, NOP2, NOP5, RET5, UD5, XOR5};

const VA: u64 = 0xffff_ffff_8100_0ffe;

fn known() -> Vec<(Vec<u8>, Insn)> {
    let (near, far) = (VA + 100, VA - 0x7000_0000);
    vec![
        (NOP2.to_vec(), Nop),
        (NOP5.to_vec(), Nop),
        (jump_short(VA, near), Jump(near)),
        (jump_short(VA, VA - 100), Jump(VA - 100)),
        (jump(VA, far), Jump(far)),
        (call(VA, near), Call(near)),
        (call(VA, VA), Call(VA)),
        (RET5.to_vec(), Return),
        (XOR5.to_vec(), Zero),
        (UD5.to_vec(), Warn),
        (MOV5.to_vec(), Unlock),
        (
            branch(0x84, VA, far),
            Branch {
                condition: 0x84,
                target: far,
            },
        ),
    ]
}

#[test]
fn what_linux_does_not_write() {
    for bytes in [
        &[][..],
        &[0xcc],
        &[0xcc; 5],
        &[0x90],
        &[0x90; 5],
        &[0xc3],
        &[0xc3, 0xcc],
        &[0xc3, 0xcc, 0xcc, 0xcc, 0x90],
        &[0xeb, 0, 0xcc, 0xcc, 0xcc],
        &[0x74, 0],
        &[0x0f, 0x7f, 0, 0, 0, 0],
        &[0x0f, 0x90, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x44, 0x00, 0x01],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    ] {
        assert_eq!(Insn::decode(VA, bytes), None, "{bytes:x?}");
    }
}

#[test]
fn truncated_and_longer_instructions_are_none() {
    for (bytes, _) in known() {
        for len in 0..bytes.len() {
            assert_eq!(Insn::decode(VA, &bytes[..len]), None, "{bytes:x?}, {len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Insn::decode(VA, &longer), None, "{longer:x?}");
    }
}

#[test]
fn what_linux_writes() {
    for (bytes, insn) in known() {
        assert_eq!(Insn::decode(VA, &bytes), Some(insn), "{bytes:x?}");
    }
}

#[test]
fn an_address_counts() {
    let bytes = call(VA, VA + 100);
    assert_eq!(Insn::decode(VA + 1, &bytes), Some(Call(VA + 101)));
    let end = u64::MAX - 2;
    assert_eq!(Insn::decode(end, &call(end, 5)), Some(Call(5)));
}

proptest! {
    #[test]
    fn any_bytes(va: u64, bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
        if let Some(Call(to) | Jump(to)) = Insn::decode(va, &bytes) {
            let distance = to.wrapping_sub(va.wrapping_add(bytes.len() as u64)) as i64;
            prop_assert!(i32::try_from(distance).is_ok());
        }
    }
}

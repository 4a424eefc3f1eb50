// SPDX-License-Identifier: GPL-2.0

//! The instructions that Linux writes into its own text, and no others.
//!
//! Neighbours: everyone here who looks at bytes. Locks: none.

/// The one-byte INT3, with which unused text is filled.
pub const INT3: u8 = 0xcc;

/// An instruction, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insn {
    /// Nothing, in one instruction.
    Nop,
    /// CALL to this address.
    Call(u64),
    /// JMP to this address.
    Jump(u64),
    /// Jcc to an address.
    Branch {
        /// The second byte of the opcode.
        condition: u8,
        /// The address.
        target: u64,
    },
    /// RET, with INT3 behind it.
    Return,
    /// XOR of EAX with itself: the call of a function that returns zero.
    Zero,
    /// UD1 that the kernel takes for a warning.
    Warn,
    /// MOVB that unlocks a spinlock.
    Unlock,
}

impl Insn {
    /// The instruction that `bytes` are at `va`, `None` if Linux writes no such.
    pub fn decode(va: u64, bytes: &[u8]) -> Option<Self> {
        let to = |len: u64, distance: i64| va.wrapping_add(len).wrapping_add_signed(distance);
        let far = |len: u64, distance: [u8; 4]| to(len, i32::from_le_bytes(distance).into());
        Some(match *bytes {
            [0x66, 0x90] | [0x0f, 0x1f, 0x44, 0x00, 0x00] => Self::Nop,
            [0xeb, distance] => Self::Jump(to(2, i8::from_le_bytes([distance]).into())),
            [0xe8, a, b, c, d] => Self::Call(far(5, [a, b, c, d])),
            [0xe9, a, b, c, d] => Self::Jump(far(5, [a, b, c, d])),
            [0x0f, condition @ 0x80..=0x8f, a, b, c, d] => Self::Branch {
                condition,
                target: far(6, [a, b, c, d]),
            },
            [0xc3, INT3, INT3, INT3, INT3] => Self::Return,
            [0x2e, 0x2e, 0x2e, 0x31, 0xc0] => Self::Zero,
            [0x67, 0x48, 0x0f, 0xb9, 0x3a] => Self::Warn,
            [0x3e, 0x3e, 0xc6, 0x07, 0x00] => Self::Unlock,
            _ => return None,
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How long an instruction is, and whether a copy of it does the same elsewhere.
//!
//! Knows what compilers make of a kernel's functions: the opcodes of one and two bytes and those
//! behind `0f 38` and `0f 3a`. What it does not know (VEX and EVEX, far jumps, system calls) has no
//! shape, and so no breakpoint.
//! Neighbours: [`probes`](super::probes). Locks: none.

/// The longest instruction, in bytes.
const MAX_BYTES: usize = 15;

/// What a copy of an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// The same as the instruction, if its distance to memory is made to fit.
    Same,
    /// Something else: it goes to, or remembers, a place near itself.
    Other,
    /// An exception, as the instruction.
    Trap,
}

/// What can be told of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its length in bytes.
    pub len: usize,
    /// Where in it the distance from its end to memory lies, four bytes, if it has one.
    pub distance: Option<usize>,
    /// What a copy does.
    pub copied: Copied,
}

/// The shape of the instruction with which `bytes` begin, `None` if it is not known.
pub fn shape(bytes: &[u8]) -> Option<Shape> {
    let mut reader = Reader {
        bytes: bytes.get(..MAX_BYTES).unwrap_or(bytes),
        at: 0,
    };
    let prefixes = Prefixes::read(&mut reader)?;
    let opcode = Opcode::read(&mut reader)?;
    let mut shape = Shape {
        len: 0,
        distance: None,
        copied: opcode.copied,
    };
    if opcode.modrm {
        reader.memory(&mut shape.distance)?;
    }
    if shape.distance.is_some() && prefixes.short_address {
        return None;
    }
    let immediate = match opcode.immediate {
        Immediate::Bytes(bytes) => bytes,
        // Processors do not agree on what the prefix means here.
        Immediate::Branch if prefixes.short => return None,
        Immediate::Branch => 4,
        Immediate::Word | Immediate::Full if prefixes.wide && opcode.is_full() => 8,
        Immediate::Word | Immediate::Full if prefixes.short && !prefixes.wide => 2,
        Immediate::Word | Immediate::Full => 4,
        Immediate::Address if prefixes.short_address => 4,
        Immediate::Address => 8,
    };
    reader.skip(immediate)?;
    Some(Shape {
        len: reader.at,
        ..shape
    })
}

/// What stands in front of an opcode, as far as it matters to the length.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    /// Operands of two bytes.
    short: bool,
    /// Addresses of four bytes.
    short_address: bool,
    /// Operands of eight bytes.
    wide: bool,
}

impl Prefixes {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut prefixes = Self::default();
        loop {
            match reader.peek()? {
                0x66 => prefixes.short = true,
                0x67 => prefixes.short_address = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => {}
                // REX counts only as the last one.
                rex @ 0x40..=0x4f => {
                    prefixes.wide = rex & 8 != 0;
                    reader.skip(1)?;
                    return Some(prefixes);
                }
                _ => return Some(prefixes),
            }
            reader.skip(1)?;
        }
    }
}

/// What follows an opcode and its ModRM.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Immediate {
    /// So many bytes, whatever the prefixes say.
    Bytes(usize),
    /// The distance of a branch.
    Branch,
    /// An operand, of four bytes at most.
    Word,
    /// An operand, of eight bytes at most.
    Full,
    /// An address.
    Address,
}

/// An opcode, by what follows it.
#[derive(Clone, Copy)]
struct Opcode {
    modrm: bool,
    immediate: Immediate,
    copied: Copied,
}

impl Opcode {
    const fn new(modrm: bool, immediate: Immediate) -> Self {
        Self {
            modrm,
            immediate,
            copied: Copied::Same,
        }
    }

    /// Nothing follows.
    const fn bare() -> Self {
        Self::with(0)
    }

    /// So many bytes follow.
    const fn with(bytes: usize) -> Self {
        Self::new(false, Immediate::Bytes(bytes))
    }

    /// ModRM follows, then so many bytes.
    const fn modrm(bytes: usize) -> Self {
        Self::new(true, Immediate::Bytes(bytes))
    }

    const fn copied(self, copied: Copied) -> Self {
        Self { copied, ..self }
    }

    fn is_full(&self) -> bool {
        self.immediate == Immediate::Full
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let opcode = reader.next()?;
        if opcode != 0x0f {
            return Self::of_one_byte(opcode, reader.register());
        }
        match reader.next()? {
            0x38 => reader.next().map(|_| Self::modrm(0)),
            0x3a => reader.next().map(|_| Self::modrm(1)),
            opcode => Self::of_two_bytes(opcode),
        }
    }

    /// The opcode of one byte, where `register` is the middle field of a ModRM if one follows.
    fn of_one_byte(opcode: u8, register: Option<u8>) -> Option<Self> {
        let word = |modrm| Self::new(modrm, Immediate::Word);
        Some(match opcode {
            0x00..=0x3f => match opcode & 7 {
                0..=3 => Self::modrm(0),
                4 => Self::with(1),
                5 => word(false),
                _ => return None,
            },
            0x50..=0x5f
            | 0x6c..=0x6f
            | 0x90..=0x99
            | 0x9b..=0x9f
            | 0xa4..=0xa7
            | 0xaa..=0xaf
            | 0xc3
            | 0xc9
            | 0xd7
            | 0xec..=0xef
            | 0xf4
            | 0xf5
            | 0xf8..=0xfd => Self::bare(),
            0x63 | 0x84..=0x8e | 0xd0..=0xd3 | 0xd8..=0xdf => Self::modrm(0),
            0x6a | 0xa8 | 0xb0..=0xb7 | 0xe4..=0xe7 => Self::with(1),
            0x68 | 0xa9 => word(false),
            0x69 | 0x81 => word(true),
            0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 => Self::modrm(1),
            0x70..=0x7f | 0xe0..=0xe3 | 0xeb => Self::with(1).copied(Copied::Other),
            0xa0..=0xa3 => Self::new(false, Immediate::Address),
            0xb8..=0xbf => Self::new(false, Immediate::Full),
            0xc2 => Self::with(2),
            0xc6 if register? == 0 => Self::modrm(1),
            0xc7 if register? == 0 => word(true),
            0xc8 => Self::with(3),
            0xcc | 0xf1 => Self::bare().copied(Copied::Trap),
            0xcd => Self::with(1).copied(Copied::Trap),
            0xe8 | 0xe9 => Self::new(false, Immediate::Branch).copied(Copied::Other),
            0xf6 if register? < 2 => Self::modrm(1),
            0xf7 if register? < 2 => word(true),
            0xf6 | 0xf7 => Self::modrm(0),
            0xfe if register? < 2 => Self::modrm(0),
            0xff => match register? {
                0 | 1 | 4 | 6 => Self::modrm(0),
                2 => Self::modrm(0).copied(Copied::Other),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The opcode of two bytes, of which the first is 0f.
    fn of_two_bytes(opcode: u8) -> Option<Self> {
        Some(match opcode {
            0x06 | 0x08 | 0x09 | 0x30..=0x33 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xa9 | 0xc8..=0xcf => {
                Self::bare()
            }
            0x0b => Self::bare().copied(Copied::Trap),
            0xb9 | 0xff => Self::modrm(0).copied(Copied::Trap),
            // Control and debug registers: their ModRM names no memory, whatever it says.
            0x20..=0x23 => Self::with(1),
            0x00..=0x03
            | 0x0d
            | 0x10..=0x1f
            | 0x28..=0x2f
            | 0x40..=0x6f
            | 0x74..=0x76
            | 0x7c..=0x7f
            | 0x90..=0x9f
            | 0xa3
            | 0xa5
            | 0xab
            | 0xad..=0xb8
            | 0xbb..=0xc1
            | 0xc3
            | 0xc7
            | 0xd0..=0xfe => Self::modrm(0),
            0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Self::modrm(1),
            0x80..=0x8f => Self::new(false, Immediate::Branch).copied(Copied::Other),
            _ => return None,
        })
    }
}

/// Bytes and how far they are read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.skip(1)?;
        Some(byte)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// The middle field of the ModRM that comes next.
    fn register(&self) -> Option<u8> {
        self.peek().map(|modrm| modrm >> 3 & 7)
    }

    /// Reads a ModRM and what belongs to it, and says where the `distance` to memory near RIP lies.
    fn memory(&mut self, distance: &mut Option<usize>) -> Option<()> {
        let modrm = self.next()?;
        let (mode, low) = (modrm >> 6, modrm & 7);
        if mode == 3 {
            return Some(());
        }
        let base = if low == 4 { self.next()? & 7 } else { low };
        *distance = (mode == 0 && low == 5).then_some(self.at);
        self.skip(match mode {
            0 if base == 5 => 4,
            0 => 0,
            1 => 1,
            _ => 4,
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! KEXEC: every refusal by itself, then what holds for any bytes.

use heki_abi::*;
use heki_policy::kexec::parse;
use heki_policy::refusal::Refusal::{self, *};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::changes;

const GPA_END: u64 = 1 << 52;

/// The second part of three.
pub(crate) fn middle() -> Kexec {
    Kexec {
        version: HEKI_ABI_VERSION,
        flags: 0,
        gpa: 0x1000,
        len: 0x1001,
        offset: 7,
    }
}

fn start() -> Kexec {
    Kexec {
        flags: HEKI_KEXEC_START,
        gpa: 0,
        len: 0,
        offset: 0,
        ..middle()
    }
}

fn refusal(part: Kexec) -> Option<Refusal> {
    parse(part.as_bytes()).err()
}

type Spoil = (fn(&mut Kexec), Refusal);

const SPOILT: &[Spoil] = &[
    (|p| p.version -= 1, BadVersion),
    (|p| p.version += 1, BadVersion),
    (|p| p.flags = HEKI_KEXEC_START, BadReserved),
    (|p| p.flags = HEKI_KEXEC_START | HEKI_KEXEC_LAST, BadFlags),
    (|p| p.flags = HEKI_KEXEC_FIRST, BadFlags),
    (|p| p.flags = 1 << 3, BadFlags),
    (|p| p.flags = 1 << 31, BadFlags),
    (|p| p.offset = 0, BadFlags),
    (|p| p.gpa += 1, Unaligned),
    (|p| p.len = 0, Empty),
    (|p| p.len = u64::from(HEKI_MAX_KEXEC_CHUNK) + 1, TooBig),
    (|p| p.len = u64::MAX, TooBig),
    (|p| p.offset = u64::MAX, TooBig),
    (|p| p.offset = u64::from(HEKI_MAX_KEXEC_BYTES), TooBig),
    (|p| p.gpa = GPA_END - 0x1000, Overflow),
    (|p| p.gpa = !0xfff, Overflow),
];

#[test]
fn every_single_field_spoils_the_request() {
    assert_eq!(refusal(middle()), None);
    for (case, (spoil, due)) in SPOILT.iter().enumerate() {
        let mut part = middle();
        spoil(&mut part);
        assert_eq!(refusal(part), Some(*due), "case {case}");
    }
}

#[test]
fn requests_that_are_none() {
    let middle = middle();
    let good = middle.as_bytes();
    for len in 0..good.len() {
        assert_eq!(parse(&good[..len]), Err(BadLength), "{len}");
    }
    assert_eq!(parse(&[good, &[0]].concat()), Err(BadLength));
}

#[test]
fn a_start_has_nothing_else() {
    assert_eq!(parse(start().as_bytes()), Ok(start()));
    for spoil in [
        (|p| p.gpa = 0x1000) as fn(&mut Kexec),
        |p| p.len = 1,
        |p| p.offset = 1,
    ] {
        let mut part = start();
        spoil(&mut part);
        assert_eq!(refusal(part), Some(BadReserved));
    }
}

#[test]
fn a_kernel_may_be_one_part_and_as_long_as_it_may() {
    let max = u64::from(HEKI_MAX_KEXEC_CHUNK);
    let only = Kexec {
        flags: HEKI_KEXEC_FIRST | HEKI_KEXEC_LAST,
        gpa: GPA_END - max,
        len: max,
        offset: 0,
        ..middle()
    };
    assert_eq!(parse(only.as_bytes()), Ok(only));
    let last = Kexec {
        flags: HEKI_KEXEC_LAST,
        offset: u64::from(HEKI_MAX_KEXEC_BYTES) - max,
        ..only
    };
    assert_eq!(parse(last.as_bytes()), Ok(last));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_part(
        flags in prop_oneof![0..8u32, any::<u32>()],
        gpa in prop_oneof![(0..64u64).prop_map(|page| page << 12), any::<u64>()],
        len in prop_oneof![0..0x2000u64, any::<u64>()],
        offset in prop_oneof![Just(0u64), 0..0x2000u64, any::<u64>()],
    ) {
        let part = Kexec { flags, gpa, len, offset, ..middle() };
        let _ = changes::kexec(part.as_bytes());
    }
}

// SPDX-License-Identifier: GPL-2.0

//! GRANT and RELEASE: every refusal by itself, then what holds for any bytes.

use heki_abi::*;
use heki_policy::grant::Grant;
use heki_policy::map::{Map, Region};
use heki_policy::refusal::Refusal::{self, *};
use heki_policy::rights::Rights;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::changes;
use crate::wire::{at, range};

const VA: u64 = 0xffff_ffff_c000_0000;

pub(crate) fn bytes(ranges: &[Range]) -> Vec<u8> {
    let header = heki_abi::Grant {
        version: HEKI_ABI_VERSION,
        nr_ranges: ranges.len() as u32,
    };
    [header.as_bytes(), ranges.as_bytes()].concat()
}

/// A range that can be granted, `gfn` and all, and one that can be released.
pub(crate) fn pages(gfn: u64, nr_pages: u64, release: bool) -> Range {
    let rights = if release { 0 } else { HEKI_EXEC };
    at(
        VA + (gfn << 12),
        range(gfn, nr_pages, rights, HEKI_KIND_POOL),
    )
}

fn refusal(ranges: &[Range], release: bool) -> Option<Refusal> {
    changes::grant(&bytes(ranges), release).err()
}

type Spoil = (fn(&mut Range), Refusal);

const SPOILT: &[Spoil] = &[
    (|r| r.gpa += 1, Unaligned),
    (|r| r.len += 1, Unaligned),
    (|r| r.va += 1, Unaligned),
    (|r| r.va = 0, Unaligned),
    (|r| r.len = 0, Empty),
    (|r| r.gpa = 1 << 52, Overflow),
    (|r| r.va = !0xfff, Overflow),
    (|r| r.len = 513 << 12, TooBig),
    (|r| r.len = 1 << 29, TooBig),
    (|r| r.rights ^= HEKI_EXEC, BadRights),
    (|r| r.rights = HEKI_WRITE, BadRights),
    (|r| r.rights = HEKI_WRITE | HEKI_EXEC, WriteAndExec),
    (|r| r.rights |= 4, BadRights),
    (|r| r.kind = HEKI_KIND_FTRACE, BadKind),
    (|r| r.kind = HEKI_KIND_TEXT, BadKind),
    (|r| r.kind = HEKI_KIND_OTHER, BadKind),
    (|r| r.kind = u32::MAX, BadKind),
];

#[test]
fn every_single_field_spoils_the_request() {
    for release in [false, true] {
        let good = [pages(16, 2, release), pages(32, 1, release)];
        assert_eq!(refusal(&good, release), None);
        assert_eq!(refusal(&good, !release), Some(BadRights));
        for (case, (spoil, due)) in SPOILT.iter().enumerate() {
            for index in 0..good.len() {
                let mut ranges = good;
                spoil(&mut ranges[index]);
                assert_eq!(refusal(&ranges, release), Some(*due), "case {case}");
            }
        }
    }
}

#[test]
fn requests_that_are_none() {
    assert_eq!(refusal(&[], false), Some(Empty));
    let many: Vec<Range> = (0..513).map(|n| pages(16 + n, 1, false)).collect();
    assert_eq!(refusal(&many, false), Some(TooBig));
    assert_eq!(refusal(&many[..512], false), None);
    assert_eq!(
        refusal(&[pages(16, 512, false), pages(1024, 1, false)], false),
        Some(TooBig)
    );

    let good = bytes(&many[..2]);
    for len in 0..good.len() {
        assert_eq!(changes::grant(&good[..len], false), Err(BadLength), "{len}");
    }
    assert_eq!(
        changes::grant(&[good.clone(), vec![0]].concat(), false),
        Err(BadLength)
    );
    let mut other = good;
    other[0] = 1;
    assert_eq!(changes::grant(&other, false), Err(BadVersion));
}

#[test]
fn a_page_or_an_address_twice() {
    let first = pages(16, 4, false);
    for second in [
        pages(19, 1, false),
        pages(15, 2, false),
        first,
        Range {
            va: VA + (64 << 12),
            ..first
        },
        at(first.va + 0x3000, pages(64, 1, false)),
    ] {
        assert_eq!(refusal(&[first, second], false), Some(Overlap));
        assert_eq!(
            refusal(&[second, pages(99, 1, false), first], false),
            Some(Overlap)
        );
    }
    assert_eq!(
        refusal(&[pages(20, 1, false), first, pages(15, 1, false)], false),
        None
    );
}

fn region(start: u64, end: u64, kind: u32) -> Region {
    Region {
        start,
        end,
        va: 0,
        rights: Rights::EXEC,
        kind,
    }
}

#[test]
fn only_plain_memory_and_what_can_be_granted_changes() {
    let regions = [
        region(16, 18, HEKI_KIND_POOL),
        region(18, 20, HEKI_KIND_FTRACE),
        region(20, 22, HEKI_KIND_MODULE_TEXT),
        region(30, 31, HEKI_KIND_RODATA),
    ];
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    for release in [false, true] {
        let check = |ranges: &[Range]| {
            let bytes = bytes(ranges);
            Grant::parse(&bytes, release).ok().unwrap().check(&map)
        };
        for (gfn, nr_pages, bad) in [(20, 1, 20), (19, 2, 20), (30, 1, 30), (10, 30, 20)] {
            let ranges = [pages(40, 1, release), pages(gfn, nr_pages, release)];
            assert_eq!(check(&ranges), Err(VA + (bad << 12)), "{gfn}");
        }
        assert_eq!(check(&[pages(14, 6, release)]), Ok(()));
        assert_eq!(
            check(&[pages(22, 8, release), pages(50, 1, release)]),
            Ok(())
        );
    }
}

#[test]
fn the_request_as_regions() {
    let bytes = bytes(&[pages(40, 2, false), pages(16, 1, false)]);
    let grant = Grant::parse(&bytes, false).ok().unwrap();
    assert_eq!((grant.nr_ranges(), grant.nr_pages()), (2, 3));
    let first = grant.regions().next().unwrap();
    let expected = Region {
        start: 40,
        end: 42,
        va: VA + (40 << 12),
        rights: Rights::EXEC,
        kind: HEKI_KIND_POOL,
    };
    assert_eq!(first, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_ranges(
        raw in proptest::collection::vec((0..64u64, 0..8u64, 1..64u64), 0..6),
        release: bool,
        spoil in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let ranges: Vec<Range> = raw
            .into_iter()
            .map(|(gfn, nr_pages, va)| at(VA + (va << 12), pages(gfn, nr_pages, release)))
            .collect();
        let mut bytes = bytes(&ranges);
        if let Some((at, flip)) = spoil {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = changes::grant(&bytes, release);
        let _ = changes::grant(&bytes, !release);
    }
}

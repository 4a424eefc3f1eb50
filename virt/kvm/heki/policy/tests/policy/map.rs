// SPDX-License-Identifier: GPL-2.0

//! The permission map against the frame-by-frame model.

use heki_abi::{Range, HEKI_KIND_COUNT, HEKI_KIND_FTRACE, HEKI_SEAL_EXEC};
use heki_policy::map::{Map, Region};
use heki_policy::pin::CR4_SMEP;
use heki_policy::refusal::Refusal;
use heki_policy::rights::Rights;
use proptest::prelude::*;

use crate::model::{Model, SPACE};
use crate::oracle::ABLE;
use crate::wire::{pin, range, Wire};

const LEVELS: [u64; 4] = [1, 8, 64, 512];

fn region(start: u64, end: u64, rights: Rights) -> Region {
    Region {
        start,
        end,
        va: 0,
        rights,
        kind: 0,
    }
}

#[test]
fn regions_that_make_no_map() {
    let none = Rights::NONE;
    for bad in [
        vec![region(5, 5, none)],
        vec![region(6, 5, none)],
        vec![region(4, 8, none), region(0, 2, none)],
        vec![region(0, 5, none), region(4, 8, none)],
        vec![region(0, 5, none), region(0, 5, none)],
        vec![region(0, 5, none), region(5, 5, none)],
    ] {
        assert!(Map::new(&bad, Rights::ALL).is_none(), "{bad:?}");
    }
}

#[test]
fn edges_of_a_region() {
    let regions = [region(4, 6, Rights::EXEC), region(6, 8, Rights::NONE)];
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    let rights: Vec<Rights> = (3..9).map(|gfn| map.rights(gfn)).collect();
    let (w, x, n) = (Rights::WRITE, Rights::EXEC, Rights::NONE);
    assert_eq!(rights, [w, x, x, n, n, w]);
    assert_eq!(map.kind(3), None);
    assert_eq!(map.kind(4), Some(0));
}

#[test]
fn a_region_reads_as_the_range_it_was() {
    let region = Region {
        start: 0x40,
        end: 0x43,
        va: 0xffff_ffff_8100_0000,
        rights: Rights::EXEC,
        kind: HEKI_KIND_FTRACE,
    };
    let range = Range {
        gpa: 0x4_0000,
        len: 0x3000,
        va: 0xffff_ffff_8100_0000,
        rights: Rights::EXEC.bits(),
        kind: HEKI_KIND_FTRACE,
    };
    assert_eq!(region.abi(), range);
}

#[test]
fn one_odd_page_makes_a_frame_not_uniform() {
    let regions = [region(1000, 1001, Rights::NONE)];
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    assert_eq!(map.uniform(512, 512), None);
    assert_eq!(map.largest_uniform(600, &LEVELS), 2);
    assert_eq!(map.largest_uniform(1000, &LEVELS), 0);
    assert_eq!(map.largest_uniform(511, &LEVELS), 3);
}

#[test]
fn a_gap_with_other_rights_makes_a_frame_not_uniform() {
    let regions = [region(0, 4, Rights::EXEC), region(5, 8, Rights::EXEC)];
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    assert_eq!(map.uniform(0, 8), None);
    let map = Map::new(&regions, Rights::EXEC).unwrap();
    assert_eq!(map.uniform(0, 8), Some(Rights::EXEC));
}

#[test]
fn the_last_frames_there_are() {
    let regions = [region(u64::MAX - 8, u64::MAX, Rights::NONE)];
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    assert_eq!(map.uniform(u64::MAX - 8, 8), Some(Rights::NONE));
    assert_eq!(map.uniform(u64::MAX - 8, 9), None);
    assert_eq!(map.uniform(0, u64::MAX), None);
    assert_eq!(map.rights(u64::MAX), Rights::WRITE);
    assert_eq!(map.largest_uniform(u64::MAX, &LEVELS), 0);
}

#[test]
fn levels_that_say_nothing() {
    let map = Map::new(&[], Rights::ALL).unwrap();
    assert_eq!(map.largest_uniform(7, &[]), 0);
    assert_eq!(map.largest_uniform(7, &[0]), 0);
    assert_eq!(map.uniform(7, 0), Some(Rights::ALL));
}

/// Ranges that may overlap.
fn any_ranges() -> impl Strategy<Value = Vec<Range>> {
    let any = (0..SPACE, 1..96u64, 0..3u32, 0..HEKI_KIND_FTRACE)
        .prop_map(|(gfn, nr, rights, kind)| range(gfn, nr.min(SPACE - gfn), rights, kind));
    proptest::collection::vec(any, 1..8)
}

/// Ranges that do not, in any order, many of them neighbours and few of them different.
fn disjoint_ranges() -> impl Strategy<Value = Vec<Range>> {
    let step = (prop_oneof![Just(0), 0..40u64], 1..40u64, 0..3u32, 0..2u32);
    proptest::collection::vec(step, 1..40)
        .prop_map(|steps| {
            let mut gfn = 0;
            let mut ranges = Vec::new();
            for (gap, nr_pages, rights, kind) in steps {
                gfn += gap;
                if gfn + nr_pages > SPACE {
                    break;
                }
                ranges.push(range(gfn, nr_pages, rights, kind));
                gfn += nr_pages;
            }
            ranges
        })
        .prop_shuffle()
}

/// A request of `ranges`. An allow-list gets one range that runs, so that it is not refused for having none.
fn request(mut ranges: Vec<Range>, exec: bool) -> Wire {
    if exec && ranges.iter().all(|range| range.rights != 2) {
        ranges[0].rights = 2;
    }
    let flags = if exec { HEKI_SEAL_EXEC } else { 0 };
    Wire::new(flags, ranges, vec![pin(4, CR4_SMEP)])
}

/// The map of `wire` says what the model says, of every frame and of every stretch asked for.
fn agree(wire: &Wire, exec: bool, stretches: &[(u64, u64)]) -> Result<(), TestCaseError> {
    let built = wire.regions(&ABLE);
    let Some(model) = Model::paint(&wire.ranges, exec) else {
        prop_assert_eq!(built, Err(Refusal::Overlap));
        return Ok(());
    };
    let regions = built.expect("ranges that do not overlap make regions");
    prop_assert_eq!(regions.len(), model.nr_stretches());
    let map = Map::new(&regions, Rights::new(true, !exec)).expect("sorted and disjoint");

    for gfn in 0..SPACE + 8 {
        prop_assert_eq!(map.rights(gfn), model.rights(gfn));
        prop_assert_eq!(map.kind(gfn), model.kind(gfn));
    }
    for nr_pages in LEVELS {
        for start in (0..SPACE).step_by(nr_pages as usize) {
            let expected = model.uniform(start, nr_pages);
            prop_assert_eq!(map.uniform(start, nr_pages), expected);
        }
    }
    for &(start, nr_pages) in stretches {
        let expected = model.uniform(start, nr_pages);
        prop_assert_eq!(map.uniform(start, nr_pages), expected);
        let largest = (0..LEVELS.len())
            .rev()
            .find(|&level| {
                let nr_pages = LEVELS[level];
                model
                    .uniform(start / nr_pages * nr_pages, nr_pages)
                    .is_some()
            })
            .unwrap();
        prop_assert_eq!(map.largest_uniform(start, &LEVELS), largest);
    }
    Ok(())
}

fn stretches() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((0..SPACE, 0..SPACE), 32)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_request_that_may_overlap(ranges in any_ranges(), exec: bool, stretches in stretches()) {
        agree(&request(ranges, exec), exec, &stretches)?;
    }

    #[test]
    fn a_request_that_does_not(ranges in disjoint_ranges(), exec: bool, stretches in stretches()) {
        prop_assume!(!ranges.is_empty());
        agree(&request(ranges, exec), exec, &stretches)?;
    }

    #[test]
    fn regions_in_disorder_never_panic(
        pairs in proptest::collection::vec((any::<u64>(), any::<u64>(), 0..4u32), 0..16),
        gfn: u64,
        nr_pages: u64,
    ) {
        let regions: Vec<Region> = pairs
            .into_iter()
            .map(|(start, end, bits)| region(start, end, Rights::from_bits(bits).unwrap()))
            .collect();
        let map = Map::assume_sorted(&regions, Rights::WRITE);
        let _ = (map.rights(gfn), map.kind(gfn), map.uniform(gfn, nr_pages));
        let _ = map.largest_uniform(gfn, &[1, 512, nr_pages]);
    }
}

#[test]
fn rights_bit_by_bit() {
    assert_eq!(Rights::from_bits(4), None);
    assert_eq!(Rights::from_bits(u32::MAX), None);
    let names = ["r--", "rw-", "r-x", "rwx"];
    for bits in 0..4 {
        let rights = Rights::from_bits(bits).unwrap();
        assert_eq!(rights, Rights::new(bits & 1 != 0, bits & 2 != 0));
        assert_eq!(
            (rights.write(), rights.exec()),
            (bits & 1 != 0, bits & 2 != 0)
        );
        assert_eq!(
            (rights.bits(), rights.as_str()),
            (bits, names[bits as usize])
        );
        for other in 0..4 {
            let set = Rights::from_bits(other).unwrap();
            assert_eq!(rights.union(set).bits(), bits | other);
            assert_eq!(rights.without(set).bits(), bits & !other);
        }
    }
}

#[test]
fn kinds_have_names() {
    let names: Vec<&str> = (0..=HEKI_KIND_COUNT)
        .map(|kind| {
            Region {
                kind,
                ..Region::default()
            }
            .kind_str()
        })
        .collect();
    let expected = [
        "other",
        "text",
        "rodata",
        "module_text",
        "module_rodata",
        "idt",
        "trampoline",
        "pool",
        "ftrace",
        "unknown",
    ];
    assert_eq!(names, expected);
}

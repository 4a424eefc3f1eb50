// SPDX-License-Identifier: GPL-2.0

//! Changes of the permission map against a model with one entry for each page.

use heki_policy::edit::{
    edit,
    Edit::{self, *},
};
use heki_policy::map::{normalize, Map, Region};
use heki_policy::refusal::Refusal::{self, *};
use heki_policy::rights::Rights;
use proptest::prelude::*;

const SPACE: u64 = 64;
/// From frames to the addresses where the old regions and the new ones are mapped.
const OLD: u64 = 0x1000_0000;
const NEW: u64 = 0x2000_0000;

fn region(start: u64, end: u64, kind: u32, base: u64) -> Region {
    Region {
        start,
        end,
        va: if base == 0 { 0 } else { base + (start << 12) },
        rights: if kind == 0 {
            Rights::NONE
        } else {
            Rights::EXEC
        },
        kind,
    }
}

fn edited(old: &[Region], changes: &[Region], what: Edit) -> Result<Vec<Region>, Refusal> {
    let mut out = vec![Region::default(); old.len() + 2 * changes.len()];
    let used = edit(old, changes, what, &mut out)?;
    out.truncate(used);
    Ok(out)
}

#[test]
fn no_room() {
    let old = [region(0, 10, 1, OLD)];
    let changes = [region(4, 5, 7, OLD)];
    for room in 0..3 {
        let mut out = vec![Region::default(); room];
        assert_eq!(edit(&old, &changes, Insert, &mut out), Err(TooBig));
    }
    assert_eq!(edited(&old, &changes, Insert).unwrap().len(), 3);
    assert_eq!(
        edit(&old, &changes, Remove, &mut [Region::default()]),
        Err(TooBig)
    );
}

#[test]
fn an_address_that_another_frame_has() {
    let old = [region(0, 10, 1, OLD), region(20, 22, 2, 0)];
    let at = |start, va| Region {
        va,
        ..region(start, start + 2, 7, NEW)
    };
    for (start, va) in [
        (30, OLD),
        (30, OLD + 0x9000),
        (30, OLD - 0x1000),
        (4, OLD),
        (9, OLD + 0x8000),
    ] {
        assert_eq!(
            edited(&old, &[at(start, va)], Insert),
            Err(Overlap),
            "{start} {va:x}"
        );
        assert!(edited(&old, &[at(start, va)], Remove).is_ok());
    }
    for (start, va) in [
        (30, OLD + 0xa000),
        (30, OLD - 0x2000),
        (4, OLD + 0x4000),
        (20, NEW),
        (30, 0),
    ] {
        assert!(
            edited(&old, &[at(start, va)], Insert).is_ok(),
            "{start} {va:x}"
        );
    }
    let both = [at(30, NEW), at(40, NEW + 0x1000)];
    assert_eq!(edited(&old, &both, Insert), Err(Overlap));
}

#[test]
fn a_hole_keeps_the_addresses_around_it() {
    let old = [region(0, 10, 1, OLD)];
    let hole = [region(4, 5, 0, NEW)];
    let left = edited(&old, &hole, Remove).unwrap();
    assert_eq!(left, [region(0, 4, 1, OLD), region(5, 10, 1, OLD)]);
    let filled = edited(&left, &[region(4, 5, 1, OLD)], Insert).unwrap();
    assert_eq!(filled, old);
}

#[test]
fn everything_and_nothing() {
    let old = [region(2, 4, 1, OLD), region(6, 8, 2, OLD)];
    assert_eq!(edited(&old, &[], Insert).unwrap(), old);
    assert_eq!(edited(&old, &[], Remove).unwrap(), old);
    assert_eq!(edited(&[], &old, Insert).unwrap(), old);
    assert_eq!(edited(&[], &old, Remove).unwrap(), []);
    assert_eq!(edited(&old, &[region(0, 64, 0, 0)], Remove).unwrap(), []);
    let all = [region(0, 64, 7, NEW)];
    assert_eq!(edited(&old, &all, Insert).unwrap(), all);
    let last = [region(u64::MAX - 1, u64::MAX, 7, 0)];
    assert_eq!(edited(&[], &last, Insert).unwrap(), last);
}

/// What is known of a frame: its address if that matters, rights and kind.
type Page = Option<(u64, Rights, u32)>;

fn pages(regions: &[Region]) -> Vec<Page> {
    let mut pages = vec![None; SPACE as usize];
    for region in regions {
        for gfn in region.start..region.end {
            let va = match region.va {
                0 => 0,
                va => va + ((gfn - region.start) << 12),
            };
            pages[gfn as usize] = Some((va, region.rights, region.kind));
        }
    }
    pages
}

/// The fewest regions that say the same.
fn nr_stretches(pages: &[Page]) -> usize {
    let mut before: Page = None;
    let mut stretches = 0;
    for page in pages {
        let goes_on = match (before, *page) {
            (Some((from, a, b)), Some((va, c, d))) => {
                let next = if from == 0 { 0 } else { from + 4096 };
                va == next && (a, b) == (c, d)
            }
            _ => false,
        };
        stretches += usize::from(page.is_some() && !goes_on);
        before = *page;
    }
    stretches
}

fn any_regions(base: u64) -> impl Strategy<Value = Vec<Region>> {
    let step = (0..6u64, 1..6u64, 0..3u32, any::<bool>());
    proptest::collection::vec(step, 0..12).prop_map(move |steps| {
        let mut gfn = 0;
        let mut regions = Vec::new();
        for (gap, nr_pages, kind, mapped) in steps {
            gfn += gap;
            if gfn + nr_pages > SPACE {
                break;
            }
            let base = if mapped { base } else { 0 };
            regions.push(region(gfn, gfn + nr_pages, kind, base));
            gfn += nr_pages;
        }
        let used = normalize(&mut regions).expect("disjoint regions");
        regions.truncate(used);
        regions
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn equals_a_map_of_pages(
        old in any_regions(OLD),
        changes in prop_oneof![any_regions(OLD), any_regions(NEW)],
        insert: bool,
    ) {
        let what = if insert { Insert } else { Remove };
        let new = edited(&old, &changes, what).expect("no address is used twice");
        prop_assert!(Map::new(&new, Rights::WRITE).is_some());

        let mut expected = pages(&old);
        for (page, change) in expected.iter_mut().zip(pages(&changes)) {
            if change.is_some() {
                *page = if insert { change } else { None };
            }
        }
        prop_assert_eq!(&pages(&new), &expected);
        prop_assert_eq!(new.len(), nr_stretches(&expected));
    }

    #[test]
    fn regions_in_disorder_never_panic(
        old in proptest::collection::vec(any_region(), 0..8),
        changes in proptest::collection::vec(any_region(), 0..8),
        insert: bool,
    ) {
        let mut out = vec![Region::default(); 8];
        let what = if insert { Insert } else { Remove };
        let _ = edit(&old, &changes, what, &mut out);
        let mut old = old;
        let _ = normalize(&mut old);
    }
}

fn any_region() -> impl Strategy<Value = Region> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(start, end, va)| Region {
        start,
        end,
        va,
        ..Region::default()
    })
}

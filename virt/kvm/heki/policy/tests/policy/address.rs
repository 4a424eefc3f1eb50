// SPDX-License-Identifier: GPL-2.0

//! Windows: regions that have no place in the guest's addresses, then where every address lies.

use heki_policy::address::{index, Windows};
use heki_policy::map::Region;
use heki_policy::refusal::Refusal::{self, *};
use heki_policy::rights::Rights;
use proptest::prelude::*;

/// The last page of all addresses.
const LAST_PAGE: u64 = !0xfff;
const VA: u64 = 0xffff_ffff_c000_0000;

/// `nr_pages` frames from `start`, mapped at `va`.
fn region(start: u64, nr_pages: u64, va: u64) -> Region {
    Region {
        start,
        end: start + nr_pages,
        va,
        rights: Rights::EXEC,
        kind: 1,
    }
}

fn indexed(regions: &[Region]) -> Result<Vec<u32>, Refusal> {
    let mut order = vec![0; regions.len()];
    let used = index(regions, &mut order)?;
    order.truncate(used);
    Ok(order)
}

/// Guest physical address of `va` and what follows it.
fn translate(windows: Windows<'_>, va: u64) -> Option<(u64, u64)> {
    windows.find(va)?.translate(va)
}

#[test]
fn an_address_twice() {
    let first = region(16, 4, VA);
    for second in [
        region(64, 4, VA),
        region(64, 1, VA + 0x3000),
        region(64, 1, VA + 0x3fff),
        region(64, 2, VA - 0x1000),
        region(64, 9, VA - 0x2000),
        first,
    ] {
        for apart in [region(99, 1, VA - 0x10_0000), region(99, 1, VA + 0x10_0000)] {
            for regions in [[first, second, apart], [second, apart, first]] {
                assert_eq!(indexed(&regions), Err(Overlap), "{second:x?}");
            }
        }
    }
    let neighbours = [
        region(64, 1, VA + 0x4000),
        first,
        region(65, 1, VA - 0x1000),
    ];
    assert_eq!(indexed(&neighbours).unwrap().len(), 3);
}

#[test]
fn an_address_twice_at_the_end_of_all() {
    let last = region(16, 1, LAST_PAGE);
    assert_eq!(indexed(&[last, region(64, 1, LAST_PAGE)]), Err(Overlap));
    assert_eq!(
        indexed(&[region(64, 2, LAST_PAGE - 0x1000), last]),
        Err(Overlap)
    );
    assert_eq!(indexed(&[region(64, 1, 0x1000), last]).unwrap().len(), 2);
}

#[test]
fn beyond_the_last_address() {
    for (nr_pages, va) in [
        (2, LAST_PAGE),
        (1, LAST_PAGE + 1),
        (1, u64::MAX),
        (3, LAST_PAGE - 0x1000),
        (1 << 52, 0x1000),
        (1 << 53, VA),
    ] {
        let regions = [region(8, 1, VA), region(16, nr_pages, va)];
        assert_eq!(indexed(&regions), Err(Overflow), "{nr_pages:x} {va:x}");
    }
    let regions = [region(16, 2, LAST_PAGE - 0x1000)];
    let order = indexed(&regions).unwrap();
    let last = Windows::new(&regions, &order).iter().next().unwrap().last;
    assert_eq!(last, u64::MAX);
}

#[test]
fn no_room() {
    let regions = [region(1, 1, VA), region(2, 1, 0), region(3, 1, VA + 0x1000)];
    for room in 0..2 {
        let mut out = vec![0; room];
        assert_eq!(index(&regions, &mut out), Err(NoMemory), "{room}");
    }
    // A region without an address takes no room.
    assert_eq!(index(&regions, &mut [0; 2]), Ok(2));
    assert_eq!(index(&regions, &mut [0; 9]), Ok(2));
    assert_eq!(index(&[], &mut []), Ok(0));
}

#[test]
fn a_region_without_address_or_frames_has_no_window() {
    assert_eq!(indexed(&[region(16, 4, 0), region(16, 0, VA)]), Ok(vec![]));
    let backwards = Region {
        end: 8,
        ..region(16, 0, VA)
    };
    assert_eq!(indexed(&[backwards]), Ok(vec![]));
    let at_end = [region(16, 0, LAST_PAGE), region(17, 1, LAST_PAGE)];
    assert_eq!(indexed(&at_end).unwrap().len(), 1);
}

#[test]
fn addresses_in_no_window() {
    let regions = [region(32, 2, VA + 0x5000), region(16, 1, VA)];
    let order = indexed(&regions).unwrap();
    let windows = Windows::new(&regions, &order);
    for va in [0, VA - 1, VA + 0x1000, VA + 0x4fff, VA + 0x7000, u64::MAX] {
        assert_eq!(windows.find(va), None, "{va:x}");
        assert_eq!(Windows::new(&regions, &[]).find(va), None);
        for window in windows.iter() {
            assert_eq!(window.translate(va), None, "{va:x}");
        }
    }
}

#[test]
fn an_order_that_is_none() {
    let regions = [region(32, 2, VA + 0x5000), region(16, 1, 0)];
    for order in [[0, 7], [7, 0], [1, 1], [u32::MAX, 1]] {
        let windows = Windows::new(&regions, &order);
        assert!(windows.iter().count() < 2);
        windows.find(VA);
    }
}

#[test]
fn the_edges_of_a_window() {
    let regions = [region(32, 2, LAST_PAGE - 0x1000), region(1 << 39, 1, VA)];
    let order = indexed(&regions).unwrap();
    assert_eq!(order, [1, 0]);
    let windows = Windows::new(&regions, &order);
    assert_eq!(*windows.find(VA).unwrap().region, regions[1]);
    for (va, expected) in [
        (VA, (1 << 51, 0x1000)),
        (VA + 0xfff, ((1 << 51) + 0xfff, 1)),
        (LAST_PAGE - 0x1000, (0x2_0000, 0x2000)),
        (LAST_PAGE, (0x2_1000, 0x1000)),
        (u64::MAX, (0x2_1fff, 1)),
    ] {
        assert_eq!(translate(windows, va), Some(expected), "{va:x}");
    }
}

/// Addresses of a model in pages: the last ones there are, or some in the middle.
fn base() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64.wrapping_sub(64 << 12)), Just(VA)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Against a model with one entry for each page of addresses, painted region by region.
    #[test]
    fn any_regions(
        base in base(),
        raw in proptest::collection::vec((0..64usize, 0..6usize, any::<bool>()), 0..8),
    ) {
        let regions: Vec<Region> = raw
            .iter()
            .enumerate()
            .map(|(index, &(page, nr_pages, mapped))| {
                let va = if mapped { base + ((page as u64) << 12) } else { 0 };
                region(1000 - 100 * index as u64, nr_pages as u64, va)
            })
            .collect();

        let mut pages = [None; 80];
        let (mut twice, mut beyond) = (false, false);
        for (region, (page, nr_pages, _)) in regions.iter().zip(&raw) {
            for n in (0..*nr_pages).filter(|_| region.va != 0) {
                beyond |= base != VA && page + n >= 64;
                let before = pages[page + n].replace((region, n as u64));
                twice |= before.is_some();
            }
        }
        let order = match indexed(&regions) {
            Ok(order) => order,
            Err(refusal) => {
                prop_assert_eq!(refusal, if beyond { Overflow } else { Overlap });
                prop_assert!(beyond || twice);
                return Ok(());
            }
        };
        prop_assert!(!twice && !beyond);
        let windows = Windows::new(&regions, &order);
        prop_assert!(windows.iter().is_sorted_by(|left, right| left.last < right.start));

        let space = if base == VA { 80 } else { 64 };
        for (page, entry) in pages.iter().enumerate().take(space) {
            for offset in [0, 1, 0xfff] {
                let va = base + ((page as u64) << 12) + offset;
                let expected = entry.map(|(region, n)| {
                    let left = ((region.nr_pages() - n) << 12) - offset;
                    (((region.start + n) << 12) + offset, left)
                });
                prop_assert_eq!(translate(windows, va), expected);
                let found = windows.find(va).map(|window| *window.region);
                prop_assert_eq!(found, entry.map(|(region, _)| *region));
            }
        }
        prop_assert_eq!(windows.find(base - 1), None);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The same ranges in a permission map, in a tree of one value for each page and in the crate
//! `rangemap`, and the frames that all three are asked for.
//!
//! Used by `lookup.rs` and `count.rs`. Locks: none.

use std::hint::black_box;
use std::ops::Range;

use heki_policy::map::{
    Map,
    Region, //
};
use heki_policy::rights::Rights;
use heki_policy_bench::Radix;
use rangemap::RangeMap;

/// What is compared.
pub const STRUCTURES: [&str; 3] = ["map", "rangemap", "page"];

/// Pages of a range, and of the room before the next.
const PAGES: u64 = 16;
/// Frames that are asked for.
pub const QUERIES: usize = 4096;

/// The same ranges in all three.
pub struct Subject {
    pub regions: Vec<Region>,
    ranges: RangeMap<u64, Rights>,
    pub pages: Radix,
    frames: u64,
}

impl Subject {
    pub fn new(count: u64) -> Self {
        let frames = count * PAGES * 2;
        let mut subject = Self {
            regions: Vec::new(),
            ranges: RangeMap::new(),
            pages: Radix::new(frames),
            frames,
        };
        for number in 0..count {
            let start = number * PAGES * 2;
            subject.add(start..start + PAGES, number);
        }
        subject
    }

    fn add(&mut self, frames: Range<u64>, number: u64) {
        // Neighbours differ, so that nobody may join them.
        let rights = rights(u8::from(number % 2 == 0));
        self.regions.push(Region {
            start: frames.start,
            end: frames.end,
            rights,
            ..Region::default()
        });
        self.ranges.insert(frames.clone(), rights);
        for frame in frames {
            self.pages.insert(frame, u8::from(number % 2 == 0));
        }
    }

    fn map(&self) -> Map<'_> {
        Map::assume_sorted(&self.regions, Rights::new(true, false))
    }

    /// Frames in an order of its own, the same in every run.
    pub fn queries(&self) -> Vec<u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % self.frames
        };
        (0..QUERIES).map(next).collect()
    }

    /// Three answers that differ would be three questions.
    pub fn check(&self, queries: &[u64]) {
        let unlisted = Rights::new(true, false);
        assert!(
            Map::new(&self.regions, unlisted).is_some(),
            "they are sorted and disjoint"
        );
        for &gfn in queries {
            let expected = self.map().rights(gfn);
            let in_ranges = self.ranges.get(&gfn).copied();
            let in_pages = self.pages.get(gfn).map(rights);
            assert_eq!(in_ranges.unwrap_or(unlisted), expected);
            assert_eq!(in_pages.unwrap_or(unlisted), expected);
        }
    }
}

/// Asks one of [`STRUCTURES`] for all of `queries`.
pub fn ask(subject: &Subject, structure: &str, queries: &[u64]) {
    match structure {
        "map" => {
            let map = subject.map();
            for gfn in queries {
                black_box(map.rights(black_box(*gfn)));
            }
        }
        "rangemap" => {
            for gfn in queries {
                black_box(subject.ranges.get(black_box(gfn)));
            }
        }
        _ => {
            for gfn in queries {
                black_box(subject.pages.get(black_box(*gfn)));
            }
        }
    }
}

fn rights(exec: u8) -> Rights {
    Rights::new(false, exec != 0)
}

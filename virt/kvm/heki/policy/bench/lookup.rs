// SPDX-License-Identifier: GPL-2.0

//! What a lookup of the rights of a frame costs, which the fault path does once for each fault.
//!
//! `cargo bench` in this folder. Beside the permission map: a tree of one value for each page
//! (`radix.rs`), and the crate `rangemap`. All three are asked for the same frames, half of which lie
//! in a range, in an order that no cache foresees. Locks: none.

use std::hint::black_box;
use std::ops::Range;

use criterion::{
    criterion_group,
    criterion_main,
    BenchmarkId,
    Criterion,
    Throughput, //
};
use heki_policy::map::{
    Map,
    Region, //
};
use heki_policy::rights::Rights;
use heki_policy_bench::Radix;
use rangemap::RangeMap;

/// Pages of a range, and of the room before the next.
const PAGES: u64 = 16;
/// Frames that are asked for.
const QUERIES: usize = 4096;

/// The same ranges in all three.
struct Subject {
    regions: Vec<Region>,
    ranges: RangeMap<u64, Rights>,
    pages: Radix,
    frames: u64,
}

impl Subject {
    fn new(count: u64) -> Self {
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
        Map::new(&self.regions, Rights::new(true, false)).expect("they are sorted and disjoint")
    }

    /// Frames in an order of its own, the same in every run.
    fn queries(&self) -> Vec<u64> {
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
    fn check(&self, queries: &[u64]) {
        let unlisted = Rights::new(true, false);
        for &gfn in queries {
            let expected = self.map().rights(gfn);
            let in_ranges = self.ranges.get(&gfn).copied();
            let in_pages = self.pages.get(gfn).map(rights);
            assert_eq!(in_ranges.unwrap_or(unlisted), expected);
            assert_eq!(in_pages.unwrap_or(unlisted), expected);
        }
    }
}

fn rights(exec: u8) -> Rights {
    Rights::new(false, exec != 0)
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(QUERIES as u64));
    for count in [10, 1_000, 100_000] {
        let subject = Subject::new(count);
        let queries = subject.queries();
        subject.check(&queries);
        println!(
            "{count} ranges: map {} bytes, a value for each page {} bytes",
            size_of_val(subject.regions.as_slice()),
            subject.pages.bytes()
        );
        let map = subject.map();
        group.bench_function(BenchmarkId::new("map", count), |bencher| {
            bencher.iter(|| {
                for gfn in &queries {
                    black_box(map.rights(black_box(*gfn)));
                }
            });
        });
        group.bench_function(BenchmarkId::new("rangemap", count), |bencher| {
            bencher.iter(|| {
                for gfn in &queries {
                    black_box(subject.ranges.get(black_box(gfn)));
                }
            });
        });
        group.bench_function(BenchmarkId::new("page", count), |bencher| {
            bencher.iter(|| {
                for gfn in &queries {
                    black_box(subject.pages.get(black_box(*gfn)));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);

// SPDX-License-Identifier: GPL-2.0

//! What is learned: nothing but what was asked, each once, and all when there is no more room.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use heki_policy::learn::{Added, Learned, Slot};
use heki_policy::rights::Rights;
use proptest::prelude::*;

struct Cell(AtomicU64);

impl Slot for Cell {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn put(&self, entry: u64) -> u64 {
        let put = (self.0).compare_exchange(0, entry, Ordering::Relaxed, Ordering::Relaxed);
        put.unwrap_or_else(|found| found)
    }
}

fn cells(nr: usize) -> Vec<Cell> {
    (0..nr).map(|_| Cell(AtomicU64::new(0))).collect()
}

#[test]
fn what_is_not_to_be_learned_is_not() {
    for (learns, other) in [
        (Rights::WRITE, Rights::EXEC),
        (Rights::EXEC, Rights::WRITE),
        (Rights::NONE, Rights::WRITE),
    ] {
        let cells = cells(2);
        let learned = Learned::new(&cells, learns);
        assert_eq!(learned.add(7, other), Added::No);
        assert_eq!(learned.rights(7, 1), Rights::NONE);
        assert!(!learned.has_any(0, u64::MAX));
    }
}

#[test]
fn a_frame_and_right_is_learned_once() {
    let cells = cells(4);
    let learned = Learned::new(&cells, Rights::ALL);
    assert_eq!(learned.add(7, Rights::WRITE), Added::Now);
    assert_eq!(learned.add(7, Rights::WRITE), Added::Before);
    assert_eq!(learned.rights(7, 1), Rights::WRITE);
    assert_eq!(learned.rights(6, 1), Rights::NONE);
    assert_eq!(learned.add(7, Rights::EXEC), Added::Now);
    assert_eq!(learned.rights(7, 1), Rights::ALL);
    // Frame 0 is one like the others.
    assert_eq!(learned.add(0, Rights::WRITE), Added::Now);
    assert_eq!(learned.rights(0, 1), Rights::WRITE);
}

#[test]
fn a_large_frame_with_one_of_them_is_not_uniform() {
    let cells = cells(4);
    let learned = Learned::new(&cells, Rights::ALL);
    learned.add(512, Rights::EXEC);
    assert!(learned.has_any(512, 512) && learned.has_any(0, 513) && learned.has_any(0, u64::MAX));
    assert!(!learned.has_any(0, 512) && !learned.has_any(513, 511) && !learned.has_any(512, 0));
    assert_eq!(learned.rights(512, 512), Rights::NONE);
}

#[test]
fn without_room_all_frames_have_the_rights() {
    let cells = cells(2);
    let learned = Learned::new(&cells, Rights::WRITE);
    assert_eq!(learned.add(1, Rights::WRITE), Added::Now);
    assert_eq!(learned.rights(9, 1), Rights::NONE);
    assert_eq!(learned.add(2, Rights::WRITE), Added::Last);
    assert_eq!(learned.rights(9, 1), Rights::WRITE);
    assert_eq!(learned.rights(0, 1 << 18), Rights::WRITE);
    assert_eq!(learned.add(9, Rights::WRITE), Added::Before);
    let none: [Cell; 0] = [];
    assert_eq!(Learned::new(&none, Rights::ALL).rights(0, 1), Rights::ALL);
}

/// However many CPUs learn the same: each frame is told once, and one of them is the last.
#[test]
fn one_of_many_is_the_first() {
    const FRAMES: u64 = 64;
    for _ in 0..50 {
        let cells = cells(FRAMES as usize);
        let told = |step: u64| {
            let learned = Learned::new(&cells, Rights::WRITE);
            let add = |at: u64| learned.add(at * step % FRAMES, Rights::WRITE);
            let added: Vec<_> = (0..FRAMES).map(add).collect();
            let count = |which| added.iter().filter(|&&one| one == which).count();
            (count(Added::Now), count(Added::Last))
        };
        let all = thread::scope(|scope| {
            let threads: Vec<_> = [1, 3, 5, 63]
                .map(|step| scope.spawn(move || told(step)))
                .into();
            threads.into_iter().fold((0, 0), |(now, last), thread| {
                let (more_now, more_last) = thread.join().unwrap();
                (now + more_now, last + more_last)
            })
        });
        assert_eq!(all, (FRAMES as usize - 1, 1));
    }
}

proptest! {
    /// Against a set.
    #[test]
    fn it_is_a_set(asked in proptest::collection::vec((0..40u64, any::<bool>()), 0..60), start in 0..40u64, len in 0..40u64) {
        let cells = cells(100);
        let learned = Learned::new(&cells, Rights::ALL);
        let mut model = BTreeSet::new();
        for (gfn, exec) in asked {
            let right = if exec { Rights::EXEC } else { Rights::WRITE };
            let expected = if model.insert((gfn, exec)) { Added::Now } else { Added::Before };
            prop_assert_eq!(learned.add(gfn, right), expected);
        }
        for gfn in 0..41 {
            let has = |exec| model.contains(&(gfn, exec));
            prop_assert_eq!(learned.rights(gfn, 1), Rights::new(has(false), has(true)));
        }
        let any = model.iter().any(|&(gfn, _)| (start..start + len).contains(&gfn));
        prop_assert_eq!(learned.has_any(start, len), any);
    }
}

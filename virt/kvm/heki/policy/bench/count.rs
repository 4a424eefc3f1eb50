// SPDX-License-Identifier: GPL-2.0

//! The lookups of `lookup.rs` once or more, for a program that counts instructions:
//!
//!   valgrind --tool=callgrind count map 1000 2
//!
//! makes 2 * 4096 of them in a map of 1000 ranges. Locks: none.

mod subject;

use std::env;

use subject::{
    ask,
    Subject,
    STRUCTURES, //
};

fn main() {
    let args: Vec<_> = env::args().collect();
    let usage = "usage: count map|rangemap|page RANGES ROUNDS";
    let [_, structure, ranges, rounds] = args.as_slice() else {
        panic!("{usage}");
    };
    assert!(STRUCTURES.contains(&structure.as_str()), "{usage}");
    let subject = Subject::new(ranges.parse().expect(usage));
    let queries = subject.queries();
    subject.check(&queries);
    for _ in 0..rounds.parse().expect(usage) {
        ask(&subject, structure, &queries);
    }
}

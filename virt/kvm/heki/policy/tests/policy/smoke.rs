// SPDX-License-Identifier: GPL-2.0

//! The fuzz target without a fuzzer: a fixed run of random and spoilt requests.

use std::collections::BTreeSet;

use heki_policy::refusal::Refusal;

use crate::oracle::fuzz_one;
use crate::request::good;
use crate::wire::{range, Wire};

const RUNS: u32 = 300_000;

/// What the parser and the builder can say no with.
const REACHABLE: [Refusal; 20] = [
    Refusal::TooBig,
    Refusal::BadLength,
    Refusal::BadVersion,
    Refusal::BadFlags,
    Refusal::BadReserved,
    Refusal::Unaligned,
    Refusal::Empty,
    Refusal::Overflow,
    Refusal::Overlap,
    Refusal::BadRights,
    Refusal::BadKind,
    Refusal::WriteAndExec,
    Refusal::NoExec,
    Refusal::BadArea,
    Refusal::BadRegister,
    Refusal::DuplicatePin,
    Refusal::EmptyPin,
    Refusal::PinUnsupported,
    Refusal::CetNeedsWp,
    Refusal::ExecNeedsSmep,
];

/// A small generator of numbers (xorshift), the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number that tends to be on an edge of something.
    fn edge(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next() % 8,
            1 => 1 << (self.next() % 64),
            2 => !0 << (self.next() % 64),
            3 => (self.next() % 0x6000) << 12,
            4 => u64::MAX,
            _ => self.next(),
        }
    }
}

fn noise(numbers: &mut Numbers) -> Vec<u8> {
    let length = numbers.below(256);
    (0..length).map(|_| numbers.next() as u8).collect()
}

/// The good request with a few of its fields, bits or bytes changed.
fn spoilt(numbers: &mut Numbers, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(3) {
        let length = bytes.len();
        let at = numbers.below(length.max(4)) & !3;
        let value = numbers.edge().to_le_bytes();
        match numbers.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_slice(&value),
            2 => bytes
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= value[0]),
            3 => bytes.rotate_left(at.min(length)),
            4 | 5 => overwrite(&mut bytes, at, &value[..4]),
            _ => overwrite(&mut bytes, at, &value),
        }
    }
    bytes
}

fn overwrite(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *new;
    }
}

#[test]
fn a_fixed_run_of_the_fuzz_target() {
    let plain = Wire::new(0, vec![range(8, 8, 0, 0), range(16, 8, 0, 0)], vec![]);
    let seeds = [good().bytes(), plain.bytes()];
    let mut numbers = Numbers(0x4845_4b49);
    let mut refused = BTreeSet::new();
    let mut accepted = 0;

    for run in 0..RUNS {
        let bytes = if run % 8 == 0 {
            noise(&mut numbers)
        } else {
            spoilt(&mut numbers, &seeds)
        };
        match fuzz_one(&bytes) {
            Ok(_) => accepted += 1,
            Err(refusal) => {
                refused.insert(refusal.as_str());
            }
        }
    }

    let reachable: BTreeSet<&str> = REACHABLE.iter().map(|refusal| refusal.as_str()).collect();
    assert_eq!(refused, reachable);
    assert!(accepted > RUNS / 100, "{accepted} of {RUNS} accepted");
}

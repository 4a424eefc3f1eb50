// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What a lookup in the permission map takes, beside other structures.
//!
//! Reads what `cargo bench` printed in `virt/kvm/heki/policy/bench/` (criterion), and the lines
//! `figure: count` of `scripts/bench`, which had callgrind count the same. Used by `figures.rs`.
//! Locks: none.

use std::collections::BTreeMap;

/// What is compared: `virt/kvm/heki/policy/bench/subject.rs`.
pub(crate) const STRUCTURES: [&str; 3] = ["map", "rangemap", "page"];
/// Among how many ranges.
pub(crate) const RANGES: [u64; 3] = [10, 1_000, 100_000];
/// Lookups of an iteration there.
const QUERIES: f64 = 4096.0;

/// What one costs.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    /// By `STRUCTURE/RANGES`, of an iteration.
    nanoseconds: BTreeMap<String, f64>,
    /// By `STRUCTURE/RANGES`, of a program that makes one iteration, and of one that makes two.
    instructions: BTreeMap<String, [Option<f64>; 2]>,
}

impl Lookups {
    /// Reads the output.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lookups = Self::default();
        // A name that is too long has a line of its own.
        let mut named = None;
        for line in text.lines() {
            if let Some(count) = line.strip_prefix("figure: count ") {
                lookups.count(count);
                continue;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            if let Some(name) = words.first().and_then(|word| word.strip_prefix("lookup/")) {
                named = Some(name.to_owned());
            }
            let at = words.iter().position(|word| *word == "time:");
            let value = at.and_then(|at| nanoseconds(words.get(at.saturating_add(1)..)?));
            if let (Some(name), Some(value)) = (&named, value) {
                lookups.nanoseconds.insert(name.clone(), value);
            }
        }
        lookups
    }

    /// `STRUCTURE/RANGES ROUNDS INSTRUCTIONS`.
    fn count(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let rounds: usize = words.next()?.parse().ok()?;
        let count = words.next()?.parse().ok()?;
        let counts = self.instructions.entry(name).or_default();
        *counts.get_mut(rounds.checked_sub(1)?)? = Some(count);
        Some(())
    }

    /// Nanoseconds of one lookup.
    pub(crate) fn nanoseconds(&self, structure: &str, ranges: u64) -> Option<f64> {
        let all = self.nanoseconds.get(&format!("{structure}/{ranges}"))?;
        Some(all / QUERIES)
    }

    /// Instructions of one lookup: what an iteration more takes.
    pub(crate) fn instructions(&self, structure: &str, ranges: u64) -> Option<f64> {
        match self.instructions.get(&format!("{structure}/{ranges}"))? {
            [Some(one), Some(two)] => Some((two - one) / QUERIES),
            _ => None,
        }
    }
}

/// The middle of `[LOW UNIT MIDDLE UNIT HIGH UNIT]`.
fn nanoseconds(words: &[&str]) -> Option<f64> {
    let value: f64 = words.get(2)?.parse().ok()?;
    let scale = match *words.get(3)? {
        "ps" => 1e-3,
        "ns" => 1.0,
        "µs" | "us" => 1e3,
        "ms" => 1e6,
        _ => return None,
    };
    Some(value * scale)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What a run's log says: lines `GUEST| figure: WHAT NAME=VALUE...`, in any order.
//!
//! Printed by `scripts/host-parts` and by `tools/testing/selftests/heki/heki_{bench,loops}*`. Lines
//! that are none of these are left out. Used by `figures.rs`. Locks: none.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

/// A mark of `heki_loops` has the loop's number from this bit on.
const MARK_SHIFT: u32 = 1;
/// The bit of a mark that is no loop's but the seal's.
const MARK_SEAL: u64 = 1;

/// A line.
#[derive(Debug)]
struct Entry {
    what: String,
    fields: BTreeMap<String, String>,
}

/// The lines of one guest, or of what ran beside the guests.
#[derive(Debug, Default)]
pub(crate) struct Guest(Vec<Entry>);

/// A loop of `heki_loops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loop {
    pub(crate) name: String,
    number: u64,
    pub(crate) ops: u64,
    pub(crate) ticks: u64,
}

/// Exits by reason.
pub(crate) type Exits = BTreeMap<String, u64>;

/// All guests by name.
#[derive(Debug, Default)]
pub(crate) struct Log {
    guests: BTreeMap<String, Guest>,
    nothing: Guest,
}

impl Log {
    /// Reads a log.
    pub(crate) fn parse(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            let Some((guest, rest)) = line.split_once("| figure: ") else {
                continue;
            };
            let mut words = rest.split_whitespace();
            let Some(what) = words.next() else {
                continue;
            };
            let fields = words.filter_map(|word| word.split_once('='));
            let entry = Entry {
                what: what.to_owned(),
                fields: fields
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            };
            log.guests
                .entry(guest.to_owned())
                .or_default()
                .0
                .push(entry);
        }
        log
    }

    /// What one guest said; of one that did not run, nothing.
    pub(crate) fn guest(&self, name: &str) -> &Guest {
        self.guests.get(name).unwrap_or(&self.nothing)
    }
}

impl Entry {
    fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.parse().ok()
    }

    fn is(&self, what: &str, name: &str) -> bool {
        self.what == what && self.fields.get("name").is_none_or(|own| own == name)
    }

    /// The number behind `0x`, or without it.
    fn mark(&self) -> Option<u64> {
        let mark = self.fields.get("mark")?;
        u64::from_str_radix(mark.strip_prefix("0x").unwrap_or(mark), 16).ok()
    }
}

impl Guest {
    /// A field of the line `what name=NAME`, or of the line `what` if it has no name.
    pub(crate) fn number(&self, what: &str, name: &str, field: &str) -> Option<u64> {
        let mut entries = self.0.iter().filter(|entry| entry.is(what, name));
        entries.find_map(|entry| entry.number(field))
    }

    /// A statistic when the guest rested at `name`.
    pub(crate) fn statistic(&self, name: &str, field: &str) -> Option<u64> {
        self.number("statistics", name, field)
    }

    /// How much more a statistic is at `name` than where the guest rested before.
    pub(crate) fn added_at(&self, name: &str, field: &str) -> Option<u64> {
        let names = self.names("statistics");
        let at = names.iter().position(|rest| *rest == name)?;
        let before = names.get(at.checked_sub(1)?)?;
        let after = self.statistic(name, field)?;
        after.checked_sub(self.statistic(before, field)?)
    }

    /// The names of the lines `what`, in their order.
    pub(crate) fn names(&self, what: &str) -> Vec<&str> {
        let entries = self.0.iter().filter(|entry| entry.what == what);
        let names = entries.filter_map(|entry| entry.fields.get("name"));
        names.map(String::as_str).collect()
    }

    /// The numbers of the line `what` whose names begin so, by the rest of the name.
    pub(crate) fn fields(&self, what: &str, start: &str) -> Vec<(&str, u64)> {
        let entry = self.0.iter().find(|entry| entry.what == what);
        let names = entry.into_iter().flat_map(|entry| entry.fields.keys());
        let number = |name| Some((name, entry?.number(&format!("{start}{name}"))?));
        let names = names.filter_map(|name| name.strip_prefix(start));
        names.filter_map(number).collect()
    }

    /// The loops, in their order.
    pub(crate) fn loops(&self) -> Vec<Loop> {
        let entries = self.0.iter().filter(|entry| entry.what == "loop");
        let read = |entry: &Entry| {
            Some(Loop {
                name: entry.fields.get("name")?.clone(),
                number: entry.number("number")?,
                ops: entry.number("ops")?,
                ticks: entry.number("ticks")?,
            })
        };
        entries.filter_map(read).collect()
    }

    /// The exits of a loop by reason: of each the fewest of all its rounds.
    pub(crate) fn exits(&self, which: &Loop) -> Option<Exits> {
        let mark = |entry: &&Entry| {
            let mark = entry.mark()?;
            (mark & MARK_SEAL == 0).then_some(mark >> MARK_SHIFT)
        };
        let rounds = self.0.iter().filter(|entry| entry.what == "exits");
        let rounds = rounds.filter(|entry| mark(entry) == Some(which.number));
        let rounds: Vec<_> = rounds.map(Entry::exits).collect();
        let reasons: BTreeSet<_> = rounds.iter().flat_map(|round| round.keys()).collect();
        let fewest = |reason: &String| {
            let counts = rounds.iter().map(|round| round.get(reason).copied());
            counts.map(Option::unwrap_or_default).min().unwrap_or(0)
        };
        let exits = reasons.into_iter().map(|name| (name.clone(), fewest(name)));
        (!rounds.is_empty()).then(|| exits.collect())
    }

    /// A field of the exits while the guest sealed itself.
    pub(crate) fn seal(&self, field: &str) -> Option<u64> {
        let mut entries = self.0.iter().filter(|entry| entry.what == "exits");
        let entry = entries.find(|entry| entry.mark().is_some_and(|mark| mark & MARK_SEAL != 0))?;
        match field {
            "exits" => Some(entry.exits().values().sum()),
            "hypercalls" => entry.number("VMCALL").or(entry.number("hypercall")),
            field => entry.number(field),
        }
    }
}

impl Entry {
    fn exits(&self) -> Exits {
        let fields = self.fields.iter();
        let reasons =
            fields.filter(|(name, _)| !["mark", "idle", "host", "call"].contains(&name.as_str()));
        let count = |(name, value): (&String, &String)| Some((name.clone(), value.parse().ok()?));
        reasons.filter_map(count).collect()
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The guests that run the loops: what exits and instructions these take, in one guest beside another.
//!
//! Neighbours: `figures.rs` has what is judged, `log.rs` what was counted. Locks: none.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::figures::{
    cell,
    cell_of,
    ratio,
    Figure,
    Leg,
    Report,
    Table, //
};
use crate::log::{
    Exits,
    Guest,
    Log,
    Loop, //
};

/// A loop's ratios, for the plot.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) sealed_to_open: Option<f64>,
    pub(crate) open_to_off: Option<f64>,
    pub(crate) off_to_plain: Option<f64>,
    /// Of two guests alike, the greater to the lesser.
    pub(crate) noise: Option<f64>,
}

/// The guests of the same size.
pub(crate) struct Guests<'a> {
    /// Of a host whose KVM does not have Heki.
    pub(crate) plain: &'a Guest,
    pub(crate) off: &'a Guest,
    /// Another one that did not opt in.
    pub(crate) again: &'a Guest,
    pub(crate) open: &'a Guest,
    pub(crate) sealed: &'a Guest,
}

/// What their columns are called.
const HEADS: [&str; 5] = [
    "KVM without the option",
    "not opted in",
    "not opted in, again",
    "unsealed",
    "sealed",
];

/// A loop in each guest.
struct Row {
    name: String,
    ops: u64,
    each: [Option<Loop>; 5],
}

/// Exits that come with time and interrupts and not with what the guest does: a write of an MSR
/// has its number behind it, that of the deadline timer (6e0) or of an end of interrupt (80b).
const OF_TIME: [&str; 13] = [
    "EXTERNAL_INTERRUPT",
    "PREEMPTION_TIMER",
    "MSR_WRITE-6e0",
    "MSR_WRITE-80b",
    "msr-6e0",
    "msr-80b",
    "INTERRUPT_WINDOW",
    "HLT",
    "PAUSE_INSTRUCTION",
    "interrupt",
    "vintr",
    "hlt",
    "pause",
];

/// Loops whose ticks are no instructions of theirs: it does nothing, or waits for another vCPU.
const NO_RATIO: [&str; 3] = ["nothing", "futex", LDT];

/// The loop that a seal makes exit, so that it has a figure of its own. An operation is two switches to a process
/// with an LDT.
const LDT: &str = "ldt";

/// A figure of the worst loop: its name, its bar, and which ratio.
type Worst = (&'static str, Option<f64>, fn(&Ratio) -> Option<f64>);

impl<'a> Guests<'a> {
    pub(crate) fn new(log: &'a Log) -> Self {
        Self {
            plain: log.guest("bench-plain"),
            off: log.guest("bench-off"),
            again: log.guest("bench-again"),
            open: log.guest("bench-open"),
            sealed: log.guest("bench-sealed"),
        }
    }

    /// In the order of [`HEADS`].
    fn all(&self) -> [&'a Guest; 5] {
        [self.plain, self.off, self.again, self.open, self.sealed]
    }

    /// The loops of the sealed guest, in all of them.
    fn rows(&self) -> Vec<Row> {
        let row = |sealed: Loop| Row {
            each: self.all().map(|guest| {
                let same = |other: &Loop| other.name == sealed.name && other.ops == sealed.ops;
                guest.loops().into_iter().find(same)
            }),
            name: sealed.name,
            ops: sealed.ops,
        };
        self.sealed.loops().into_iter().map(row).collect()
    }

    pub(crate) fn ratios(&self) -> Vec<Ratio> {
        let rows = self.rows().into_iter();
        let rows = rows.filter(|row| !NO_RATIO.contains(&row.name.as_str()));
        rows.map(Ratio::new).collect()
    }

    pub(crate) fn exits(&self, leg: Leg, report: &mut Report) {
        let rows = self.rows();
        report.tables.push(self.exits_by_loop(&rows));
        let all = self.all();
        let mut sums = all.iter().enumerate().map(|(at, guest)| {
            let rows = rows.iter().filter(|row| row.name != LDT);
            let loops = rows.map(|row| row.each.get(at)?.as_ref());
            sum(guest, loops)
        });
        let sums: [Option<Exits>; 5] = std::array::from_fn(|_| sums.next().flatten());
        report.tables.push(exits_by_reason(&sums));
        let [plain, off, _, open, sealed] = &sums;
        for (name, after, before) in [
            ("VM exits added by a seal", sealed, open),
            ("VM exits added by opting in", open, off),
        ] {
            report.figures.push(added(name, after, before));
        }
        let figure = added("VM exits added by KVM's option", off, plain);
        report.beside_plain(leg, figure);
        report.figures.push(self.ldt(&rows));
    }

    /// What a switch to a process with an LDT costs, if the log has it.
    fn ldt(&self, rows: &[Row]) -> Figure {
        let name = "VM exits added by a seal, each switch to a process with an LDT";
        let Some(row) = rows.iter().find(|row| row.name == LDT) else {
            return Figure::not_measured(name, "this log has none");
        };
        let [_, _, _, open, sealed] = &row.each;
        let open = open.as_ref().and_then(|each| self.open.exits(each));
        let sealed = sealed.as_ref().and_then(|each| self.sealed.exits(each));
        let exits = sealed.as_ref().zip(open.as_ref());
        let switches = row.ops.saturating_mul(2) as f64;
        let each = exits.map(|(after, before)| more(after, before).0 as f64 / switches);
        Figure::new(name, each, None).with("modify_ldt(); not in the figures of all loops")
    }

    fn exits_by_loop(&self, rows: &[Row]) -> Table {
        let mut table = Table::new(
            "VM exits of each loop, all reasons",
            &[&["loop", "operations"], &HEADS[..]].concat(),
        );
        for row in rows {
            let count = |(guest, each): (&Guest, &Option<Loop>)| {
                let exits = each.as_ref().and_then(|each| guest.exits(each));
                cell(exits.map(|exits| exits.values().sum()))
            };
            let counts = self.all().into_iter().zip(&row.each).map(count);
            let names = [row.name.clone(), row.ops.to_string()].into_iter();
            table.rows.push(names.chain(counts).collect());
        }
        table
    }

    pub(crate) fn instructions(&self, leg: Leg, report: &mut Report) {
        let figures: [Worst; 3] = [
            ("instructions, sealed / unsealed", Some(1.01), |one| {
                one.sealed_to_open
            }),
            (
                "instructions, unsealed / not opted in",
                Some(1.001),
                |one| one.open_to_off,
            ),
            ("instructions, not opted in, twice", None, |one| one.noise),
        ];
        for figure in figures {
            report.ticks(leg, worst(&report.ratios, figure));
        }
        let name = "instructions, not opted in / KVM without the option";
        let figure = worst(&report.ratios, (name, Some(1.001), |one| one.off_to_plain));
        report.ticks(leg, figure);
        if leg.counts_instructions() {
            report.tables.push(self.instructions_by_loop());
        }
    }

    fn instructions_by_loop(&self) -> Table {
        let ratios = [
            "sealed / unsealed",
            "unsealed / not opted in",
            "not opted in / KVM without the option",
            "not opted in, twice",
        ];
        let columns = [&["loop"], &HEADS[..], &ratios[..]].concat();
        let mut table = Table::new("Instructions for each operation", &columns);
        for row in self.rows() {
            let each = row.each.each_ref().map(|each| {
                let of = |each: &Loop| ratio(Some(each.ticks), Some(each.ops)).map(f64::round);
                cell_of(each.as_ref().and_then(of))
            });
            let ratios = Ratio::new(row);
            let name = std::iter::once(ratios.name.clone());
            table
                .rows
                .push(name.chain(each).chain(ratios.cells()).collect());
        }
        table
    }
}

impl Ratio {
    fn new(row: Row) -> Self {
        let ticks = row.each.map(|each| each.map(|each| each.ticks));
        let [plain, off, again, open, sealed] = ticks;
        Self {
            name: row.name,
            sealed_to_open: ratio(sealed, open),
            open_to_off: ratio(open, off),
            off_to_plain: ratio(off, plain),
            noise: ratio(off.max(again), off.and(again).and(off.min(again))),
        }
    }

    fn cells(&self) -> [String; 4] {
        [
            self.sealed_to_open,
            self.open_to_off,
            self.off_to_plain,
            self.noise,
        ]
        .map(cell_of)
    }
}

/// The exits of all loops, by reason.
fn exits_by_reason(sums: &[Option<Exits>; 5]) -> Table {
    let columns = [&["reason"], &HEADS[..]].concat();
    let mut table = Table::new("VM exits by reason, all loops but ldt", &columns);
    let names: BTreeSet<_> = sums.iter().flatten().flat_map(Exits::keys).collect();
    for name in names {
        let count = |exits: &Exits| exits.get(name).copied().unwrap_or(0);
        let counts = sums.iter().map(|sum| cell(sum.as_ref().map(count)));
        let row = std::iter::once(name.clone()).chain(counts);
        table.rows.push(row.collect());
    }
    table
}

/// The exits of all these loops of a guest, unless one lacks.
fn sum<'a>(guest: &Guest, loops: impl Iterator<Item = Option<&'a Loop>>) -> Option<Exits> {
    let mut sum = None;
    for each in loops {
        for (reason, count) in guest.exits(each?)? {
            *sum.get_or_insert_with(Exits::new)
                .entry(reason)
                .or_default() += count;
        }
        sum.get_or_insert_with(Exits::new);
    }
    sum
}

/// How many exits more, and how many of those that come with time.
fn more(after: &Exits, before: &Exits) -> (i64, i64) {
    let of = |exits: &Exits, reason| exits.get(reason).map_or(0, |&count| count as i64);
    let mut sums = (0, 0);
    let reasons: BTreeSet<_> = after.keys().chain(before.keys()).collect();
    for reason in reasons {
        let more = of(after, reason) - of(before, reason);
        match OF_TIME.contains(&reason.as_str()) {
            true => sums.1 += more,
            false => sums.0 += more,
        }
    }
    sums
}

/// The figure of that.
fn added(name: &str, after: &Option<Exits>, before: &Option<Exits>) -> Figure {
    let exits = after.as_ref().zip(before.as_ref());
    let Some((others, of_time)) = exits.map(|(after, before)| more(after, before)) else {
        return Figure::new(name, None, Some(0.0));
    };
    let remark = format!("all loops but ldt, 2 vCPUs; of time and interrupts beside: {of_time:+}");
    Figure::new(name, Some(others as f64), Some(0.0)).with(remark)
}

/// The greatest of a ratio; one that misses its bar has the noise of that loop beside it.
fn worst(ratios: &[Ratio], (name, bar, of): Worst) -> Figure {
    let values = ratios.iter().filter_map(|one| Some((one, of(one)?)));
    let Some((one, value)) = values.max_by(|left, right| left.1.total_cmp(&right.1)) else {
        return Figure::new(name, None, bar);
    };
    let mut remark = format!("the worst loop, {}", one.name);
    if bar.is_some_and(|bar| value > bar) {
        let noise = cell_of(one.noise);
        remark += &format!("; two guests that did not opt in differ there by {noise}");
    }
    Figure::new(name, Some(value), bar).with(remark)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The figures that follow from a log, each held against its bar, and the tables behind them.
//!
//! A figure that misses its bar is no error: it is printed as missed. One that nothing was counted
//! for is. Neighbours: `log.rs`, `lookup.rs`; `print.rs` writes a [`Report`]. Locks: none.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

use serde::Serialize;

use crate::log::{
    Exits,
    Guest,
    Log,
    Loop, //
};
use crate::lookup::{
    Lookups,
    RANGES,
    STRUCTURES, //
};

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    /// It is not above its bar.
    #[serde(rename = "within")]
    Within,
    /// It is.
    #[serde(rename = "MISSED")]
    Missed,
    /// It has no bar.
    #[serde(rename = "stated")]
    Stated,
    /// Nothing counts it, on purpose.
    #[serde(rename = "not measured")]
    NotMeasured,
    /// The log does not say it.
    #[serde(rename = "NO DATA")]
    NoData,
}

impl Verdict {
    /// As it is printed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Missed => "MISSED",
            Self::Stated => "stated",
            Self::NotMeasured => "not measured",
            Self::NoData => "NO DATA",
        }
    }
}

/// A figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: Option<f64>,
    pub(crate) bar: Option<f64>,
    pub(crate) verdict: Verdict,
    /// What it is made of, or why it is not there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remark: String,
}

impl Figure {
    fn new(name: impl Into<String>, value: Option<f64>, bar: Option<f64>) -> Self {
        let verdict = match (value, bar) {
            (None, _) => Verdict::NoData,
            (Some(value), Some(bar)) if value > bar => Verdict::Missed,
            (Some(_), Some(_)) => Verdict::Within,
            (Some(_), None) => Verdict::Stated,
        };
        Self {
            name: name.into(),
            value,
            bar,
            verdict,
            remark: String::new(),
        }
    }

    fn not_measured(name: impl Into<String>, why: &str) -> Self {
        Self {
            verdict: Verdict::NotMeasured,
            remark: why.to_owned(),
            ..Self::new(name, None, None)
        }
    }

    fn with(self, remark: impl Into<String>) -> Self {
        Self {
            remark: remark.into(),
            ..self
        }
    }
}

/// A table; the first column says what a row is of.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}

/// A loop's ratios, for the plot.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) sealed_to_open: f64,
    pub(crate) open_to_off: f64,
}

/// All that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) tables: Vec<Table>,
    pub(crate) ratios: Vec<Ratio>,
}

/// The three guests of the same size, and how their clock counts.
struct Guests<'a> {
    off: &'a Guest,
    open: &'a Guest,
    sealed: &'a Guest,
    /// Whether a tick is an instruction.
    ticks: bool,
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

/// A table of the second-level page tables.
const PAGE_BYTES: u64 = 4096;

const NO_TICKS: &str = "a tick is no instruction on this leg";

fn ratio(above: Option<u64>, below: Option<u64>) -> Option<f64> {
    match (above?, below?) {
        (_, 0) => None,
        (above, below) => Some(above as f64 / below as f64),
    }
}

/// A number as it is printed.
pub(crate) fn text(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 => format!("{value}"),
        _ if value < 100.0 => format!("{value:.4}"),
        _ => format!("{value:.1}"),
    }
}

fn cell(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn cell_of(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), text)
}

impl Report {
    /// Judges a log. `ticks` says whether a tick of the guests' clock is an instruction.
    pub(crate) fn new(
        log: &Log,
        lookups: &Lookups,
        ticks: bool,
        versions: BTreeMap<String, String>,
    ) -> Self {
        let guests = Guests {
            off: log.guest("bench-off"),
            open: log.guest("bench-open"),
            sealed: log.guest("bench-sealed"),
            ticks,
        };
        let large = (log.guest("size-open"), log.guest("size-sealed"));
        let mut report = Self {
            versions,
            figures: Vec::new(),
            tables: Vec::new(),
            ratios: guests.ratios(),
        };
        guests.exits(&mut report);
        guests.instructions(&mut report);
        report.leaves("256 MiB", guests.open, guests.sealed);
        report.leaves("1 GiB", large.0, large.1);
        guests.seal(large.1, &mut report);
        guests.memory(&mut report);
        report.lookups(lookups);
        guests.denial(&mut report);
        guests.text(&mut report);
        for name in ["module load and unload", "BPF load, compiled"] {
            let why = "a sealed guest refuses it; programs of BPF are interpreted there";
            report.figures.push(Figure::not_measured(name, why));
        }
        let why = "needs a second kernel, without CONFIG_KVM_HEKI";
        let off = Figure::not_measured("KVM without the option: exits, instructions", why);
        report.figures.push(off);
        guests.boot(&mut report);
        report
    }

    /// Figures that should be there and are not.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let missing = self.figures.iter();
        let missing = missing.filter(|figure| figure.verdict == Verdict::NoData);
        missing.map(|figure| figure.name.as_str()).collect()
    }

    fn ticks(&mut self, guests: &Guests<'_>, figure: Figure) {
        self.figures.push(match guests.ticks {
            true => figure,
            false => Figure::not_measured(figure.name, NO_TICKS),
        });
    }

    fn leaves(&mut self, size: &str, open: &Guest, sealed: &Guest) {
        let lost = lost(open, sealed);
        let edges = sealed.statistic("sealed", "ranges").map(|nr| 2 * nr);
        let name = format!("small-page tables added for each edge of a sealed range, {size}");
        let remark = format!("{} tables, {} edges", cell(lost), cell(edges));
        let figure = Figure::new(name, ratio(lost, edges), Some(2.0)).with(remark);
        self.figures.push(figure);
        let mut table = Table::new(
            &format!("Leaf entries of the second-level page tables, {size}"),
            &["", "unsealed", "sealed"],
        );
        for (name, field) in [
            ("4 KiB", "pages_4k"),
            ("2 MiB", "pages_2m"),
            ("1 GiB", "pages_1g"),
        ] {
            let row = [pages(open, field), pages(sealed, field)].map(cell);
            let [open, sealed] = row;
            table.rows.push(vec![name.to_owned(), open, sealed]);
        }
        self.tables.push(table);
    }

    fn lookups(&mut self, lookups: &Lookups) {
        let columns = ["ranges", "structure", "ns", "instructions"];
        let mut table = Table::new("Lookup of the rights of a frame", &columns);
        for ranges in RANGES {
            for structure in STRUCTURES {
                table.rows.push(vec![
                    ranges.to_string(),
                    structure.to_owned(),
                    cell_of(lookups.nanoseconds(structure, ranges).map(f64::round)),
                    cell_of(lookups.instructions(structure, ranges).map(f64::round)),
                ]);
            }
            let name = format!("lookup among {ranges} ranges, ns");
            let value = lookups.nanoseconds("map", ranges);
            self.figures.push(Figure::new(name, value, None));
        }
        self.tables.push(table);
    }
}

impl Guests<'_> {
    /// Each loop in all three.
    fn loops(&self) -> Vec<[Loop; 3]> {
        let (off, open) = (self.off.loops(), self.open.loops());
        let mut all = Vec::new();
        for sealed in self.sealed.loops() {
            let same = |other: &&Loop| other.name == sealed.name && other.ops == sealed.ops;
            if let (Some(off), Some(open)) = (off.iter().find(same), open.iter().find(same)) {
                all.push([off.clone(), open.clone(), sealed.clone()]);
            }
        }
        all
    }

    fn ratios(&self) -> Vec<Ratio> {
        let of = |[off, open, sealed]: [Loop; 3]| {
            Some(Ratio {
                sealed_to_open: ratio(Some(sealed.ticks), Some(open.ticks))?,
                open_to_off: ratio(Some(open.ticks), Some(off.ticks))?,
                name: sealed.name,
            })
        };
        let loops = self.loops().into_iter();
        let loops = loops.filter(|all| !NO_RATIO.contains(&all[2].name.as_str()));
        loops.filter_map(of).collect()
    }

    fn exits(&self, report: &mut Report) {
        let mut loops = Table::new(
            "VM exits of each loop, all reasons",
            &["loop", "operations", "not opted in", "unsealed", "sealed"],
        );
        let mut sums = [Exits::new(), Exits::new(), Exits::new()];
        let mut complete = true;
        for all in self.loops() {
            let guests = [self.off, self.open, self.sealed];
            let mut row = vec![all[2].name.clone(), all[2].ops.to_string()];
            for ((guest, each), sum) in guests.iter().zip(&all).zip(&mut sums) {
                let exits = guest.exits(each);
                complete &= exits.is_some();
                row.push(cell(exits.as_ref().map(|exits| exits.values().sum())));
                let counted = exits.filter(|_| each.name != LDT);
                for (reason, count) in counted.into_iter().flatten() {
                    *sum.entry(reason).or_default() += count;
                }
            }
            loops.rows.push(row);
        }
        complete &= !loops.rows.is_empty();
        let mut reasons = Table::new(
            "VM exits by reason, all loops but ldt",
            &["reason", "not opted in", "unsealed", "sealed"],
        );
        let names: BTreeSet<_> = sums.iter().flat_map(|sum| sum.keys().cloned()).collect();
        for name in &names {
            let counts = sums
                .iter()
                .map(|sum| cell(sum.get(name).copied().or(Some(0))));
            let row = std::iter::once(name.clone()).chain(counts);
            reasons.rows.push(row.collect());
        }
        let [off, open, sealed] = &sums;
        for (name, after, before) in [
            ("VM exits added by a seal", sealed, open),
            ("VM exits added by opting in", open, off),
        ] {
            let (added, of_time) = added(after, before);
            let value = complete.then_some(added as f64);
            let remark =
                format!("all loops but ldt, 2 vCPUs; of time and interrupts beside: {of_time:+}");
            let figure = Figure::new(name, value, Some(0.0)).with(remark);
            report.figures.push(figure);
        }
        report.figures.extend(self.ldt());
        report.tables.extend([loops, reasons]);
    }

    /// What a switch to a process with an LDT costs, if the log has it.
    fn ldt(&self) -> Option<Figure> {
        let all = self.loops().into_iter().find(|all| all[2].name == LDT)?;
        let [_, open, sealed] = &all;
        let exits = self.sealed.exits(sealed).zip(self.open.exits(open));
        let switches = sealed.ops.saturating_mul(2) as f64;
        let each = exits.map(|(after, before)| added(&after, &before).0 as f64 / switches);
        let name = "VM exits added by a seal, each switch to a process with an LDT";
        Some(Figure::new(name, each, None).with("modify_ldt(); not in the figures above"))
    }

    fn instructions(&self, report: &mut Report) {
        let columns = [
            "loop",
            "not opted in",
            "unsealed",
            "sealed",
            "sealed / unsealed",
            "unsealed / not opted in",
        ];
        let mut table = Table::new("Instructions for each operation", &columns);
        for all in self.loops() {
            let each = |one: &Loop| ratio(Some(one.ticks), Some(one.ops));
            let [off, open, sealed] = &all;
            table.rows.push(vec![
                sealed.name.clone(),
                cell_of(each(off).map(f64::round)),
                cell_of(each(open).map(f64::round)),
                cell_of(each(sealed).map(f64::round)),
                cell_of(ratio(Some(sealed.ticks), Some(open.ticks))),
                cell_of(ratio(Some(open.ticks), Some(off.ticks))),
            ]);
        }
        for (name, bar, of) in [
            (
                "instructions, sealed / unsealed",
                1.01,
                (|one: &Ratio| one.sealed_to_open) as fn(&Ratio) -> f64,
            ),
            (
                "instructions, unsealed / not opted in",
                1.001,
                |one: &Ratio| one.open_to_off,
            ),
        ] {
            let worst = report
                .ratios
                .iter()
                .max_by(|left, right| of(left).total_cmp(&of(right)));
            let remark = worst.map_or(String::new(), |one| format!("the worst loop, {}", one.name));
            let figure = Figure::new(name, worst.map(of), Some(bar)).with(remark);
            report.ticks(self, figure);
        }
        if self.ticks {
            report.tables.push(table);
        }
    }

    fn seal(&self, large: &Guest, report: &mut Report) {
        let added = |guest: &Guest, field| {
            let after = guest.statistic("sealed", field)?;
            after.checked_sub(guest.statistic("touched", field)?)
        };
        let seals = added(self.sealed, "heki_seal").map(|nr| nr as f64);
        report
            .figures
            .push(Figure::new("sealing hypercalls", seals, Some(1.0)));
        let mut table = Table::new(
            "A seal, all memory mapped before",
            &["", "256 MiB", "1 GiB"],
        );
        let both = [self.sealed, large];
        let again = |guest: &Guest| {
            let faults = guest.statistic("again", "pf_taken")?;
            faults.checked_sub(guest.statistic("sealed", "pf_taken")?)
        };
        let refault = |guest: &Guest| refault(guest).map(|ticks| ticks as u64);
        let mut row = |name: &str, of: &dyn Fn(&Guest) -> Option<u64>| {
            let cells = both.iter().map(|guest| cell(of(guest)));
            let name = std::iter::once(name.to_owned());
            table.rows.push(name.chain(cells).collect());
        };
        row("hypercalls, all", &|guest| guest.seal("hypercalls"));
        row("of them SEAL", &|guest| added(guest, "heki_seal"));
        row("VM exits", &|guest| guest.seal("exits"));
        row("EPT or NPT violations to map all memory again", &again);
        if self.ticks {
            row("instructions, module load included", &seal_busy);
            row("of them the host's", &|guest| guest.seal("host"));
            row("of these the SEAL's", &|guest| guest.seal("call"));
            row("ticks waited beside", &|guest| guest.seal("idle"));
            row("instructions to map all memory again", &refault);
        }
        report.tables.push(table);
        let value = ratio(large.seal("call"), self.sealed.seal("call"));
        let figure = Figure::new("SEAL in the host, 1 GiB / 256 MiB", value, Some(1.1));
        report.ticks(
            self,
            figure.with("instructions; 4 GiB: not measured, the emulated host has 2"),
        );
    }

    fn memory(&self, report: &mut Report) {
        let of = |what: &str| self.sealed.statistic("sealed", &format!("memory_{what}"));
        let mut table = Table::new("Memory of the host for a sealed VM", &["", "bytes"]);
        let all = ["fixed", "registers", "map", "sites", "probes", "profile"];
        for what in all {
            table.rows.push(vec![what.to_owned(), cell(of(what))]);
        }
        let sum: Option<u64> = all.iter().map(|what| of(what)).sum();
        table.rows.push(vec!["all".to_owned(), cell(sum)]);
        let tables = lost(self.open, self.sealed).map(|nr| nr.saturating_mul(PAGE_BYTES));
        table
            .rows
            .push(vec!["small-page tables, beside".to_owned(), cell(tables)]);
        report.tables.push(table);
        let ranges = self.sealed.statistic("sealed", "ranges");
        let each = ratio(of("map"), ranges);
        report
            .figures
            .push(Figure::new("bytes for each range", each, Some(64.0)));
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        let base: Option<u64> = ["fixed", "registers", "map"]
            .iter()
            .map(|what| of(what))
            .sum();
        let figure = Figure::new(
            "KiB for a sealed VM, without what judges text",
            base.map(kib),
            Some(16.0),
        );
        report
            .figures
            .push(figure.with(format!("{} ranges", cell(ranges))));
        let figure = Figure::new("KiB for a sealed VM, all", sum.map(kib), Some(16.0));
        let remark = "most are the list of jump labels and static calls, and the VMM's profile";
        report.figures.push(figure.with(remark));
    }

    fn denial(&self, report: &mut Report) {
        let of = |field| self.sealed.number("denial", "", field);
        let denied = of("ticks")
            .zip(of("gp"))
            .map(|(all, gp)| all.saturating_sub(gp));
        let value = denied.map(|ticks| ticks as f64);
        let figure = Figure::new("a denied write, instructions", value, None);
        report.ticks(
            self,
            figure.with("to the guest's #GP handler and back, without that handler"),
        );
        let figure = Figure::new(
            "an EPT violation that KVM resolves, instructions",
            each_fault(self.sealed),
            None,
        );
        report.ticks(
            self,
            figure.with("all memory mapped again after the seal, the mean"),
        );
    }

    fn text(&self, report: &mut Report) {
        let columns = ["change of text", "unsealed", "sealed", "ratio"];
        let mut table = Table::new("Instructions to change text", &columns);
        for name in self.sealed.names("text") {
            let of = |guest: &Guest| guest.number("text", name, "ticks");
            let (open, sealed) = (of(self.open), of(self.sealed));
            let value = ratio(sealed, open);
            let row = vec![name.to_owned(), cell(open), cell(sealed), cell_of(value)];
            table.rows.push(row);
            let bar = (name == "static-key").then_some(1.5);
            let figure = Figure::new(
                format!("change of text, {name}, sealed / unsealed"),
                value,
                bar,
            );
            report.ticks(self, figure);
        }
        if self.ticks {
            report.tables.push(table);
        }
    }

    fn boot(&self, report: &mut Report) {
        let boot = |guest: &Guest| guest.number("boot", "", "ticks");
        let sealed = boot(self.sealed).zip(seal_busy(self.sealed));
        let sealed = sealed.map(|(boot, seal)| boot.saturating_add(seal));
        let value = ratio(sealed, boot(self.sealed));
        let name = "boot to user space, sealed / unsealed";
        let figure = Figure::new(name, value, Some(1.02));
        let remark = format!(
            "instructions, the load of the module is part of it; {} ticks of waiting are not",
            cell(self.sealed.seal("idle"))
        );
        report.ticks(self, figure.with(remark));
        let value = ratio(boot(self.open), boot(self.off));
        let figure = Figure::new("boot to user space, unsealed / not opted in", value, None);
        report.ticks(self, figure.with("instructions"));
    }
}

/// Leaf entries of a size when all memory is mapped.
fn pages(guest: &Guest, size: &str) -> Option<u64> {
    guest.statistic("again", size)
}

/// Large pages that a seal took, for each of which there is a table of small ones.
fn lost(open: &Guest, sealed: &Guest) -> Option<u64> {
    let (open, sealed) = (pages(open, "pages_2m")?, pages(sealed, "pages_2m")?);
    Some(open.saturating_sub(sealed))
}

/// Ticks of a seal in which its vCPU was not halted.
fn seal_busy(guest: &Guest) -> Option<u64> {
    let all = guest.number("run", "seal", "ticks")?;
    all.checked_sub(guest.seal("idle")?)
}

/// Ticks to map all memory again after a seal.
fn refault(guest: &Guest) -> Option<f64> {
    let again = guest.number("touch", "again", "ticks")?;
    let mapped = guest.number("touch", "mapped", "ticks")?;
    Some(again.checked_sub(mapped)? as f64)
}

/// Ticks for one page fault of these.
fn each_fault(guest: &Guest) -> Option<f64> {
    let faults = guest.statistic("again", "pf_taken")?;
    let faults = faults.checked_sub(guest.statistic("sealed", "pf_taken")?)?;
    Some((refault(guest)? / faults as f64).round()).filter(|each| each.is_finite())
}

/// How many exits more: those of what the guest does, and those that come with time.
fn added(after: &Exits, before: &Exits) -> (i64, i64) {
    let reasons: BTreeSet<_> = after.keys().chain(before.keys()).collect();
    let mut sums = (0, 0);
    for reason in reasons {
        let count = |exits: &Exits| exits.get(reason).map_or(0, |&count| count as i64);
        let more = count(after) - count(before);
        match OF_TIME.contains(&reason.as_str()) {
            true => sums.1 += more,
            false => sums.0 += more,
        }
    }
    sums
}

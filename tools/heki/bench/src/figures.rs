// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The figures that follow from a log, each held against its bar, and the tables behind them.
//!
//! A figure that misses its bar is no error: it is printed as missed. One that nothing was counted
//! for is. `loops.rs` and `seal.rs` make most of them. Neighbours: `log.rs`, `lookup.rs`; `print.rs` writes
//! a [`Report`]. Locks: none.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::log::{
    Guest,
    Log, //
};
use crate::lookup::{
    Lookups,
    RANGES,
    STRUCTURES, //
};
use crate::loops::{
    Guests,
    Ratio, //
};
use crate::seal::Seals;

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
    pub(crate) fn new(name: impl Into<String>, value: Option<f64>, bar: Option<f64>) -> Self {
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

    pub(crate) fn not_measured(name: impl Into<String>, why: &str) -> Self {
        Self {
            verdict: Verdict::NotMeasured,
            remark: why.to_owned(),
            ..Self::new(name, None, None)
        }
    }

    pub(crate) fn with(self, remark: impl Into<String>) -> Self {
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
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}

/// Where it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leg {
    Bochs,
    Qemu,
    Kvm,
}

impl Leg {
    /// By the name of the emulator.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "bochs" => Some(Self::Bochs),
            "qemu" => Some(Self::Qemu),
            "kvm" => Some(Self::Kvm),
            _ => None,
        }
    }

    /// Whether a tick of the guests' clock is an instruction.
    pub(crate) fn counts_instructions(self) -> bool {
        self == Self::Bochs
    }

    /// Whether the host's kernel is ours to choose.
    fn has_plain(self) -> bool {
        self != Self::Kvm
    }
}

/// All that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) tables: Vec<Table>,
    pub(crate) ratios: Vec<Ratio>,
}

const NO_TICKS: &str = "a tick is no instruction on this leg";
const NO_PLAIN: &str = "needs another kernel of the host, and this is a real machine";

pub(crate) fn ratio(above: Option<u64>, below: Option<u64>) -> Option<f64> {
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

pub(crate) fn cell(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

pub(crate) fn cell_of(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), text)
}

impl Report {
    /// Judges a log.
    pub(crate) fn new(
        log: &Log,
        lookups: &Lookups,
        leg: Leg,
        versions: BTreeMap<String, String>,
    ) -> Self {
        let guests = Guests::new(log);
        let seals = Seals::new(log);
        let mut report = Self {
            versions,
            figures: Vec::new(),
            tables: Vec::new(),
            ratios: guests.ratios(),
        };
        guests.exits(leg, &mut report);
        guests.instructions(leg, &mut report);
        seals.leaves(&guests, &mut report);
        seals.costs(leg, &mut report);
        seals.memory(&guests, &mut report);
        report.lookups(lookups);
        report.ticks(leg, denial(guests.sealed));
        report.ticks(leg, seals.fault());
        report.text(leg, guests.open, guests.sealed);
        for name in ["module load and unload", "BPF load, compiled"] {
            let why = "a sealed guest refuses it; programs of BPF are interpreted there";
            report.figures.push(Figure::not_measured(name, why));
        }
        seals.boot(&guests, leg, &mut report);
        report
    }

    /// Figures that should be there and are not.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let missing = self.figures.iter();
        let missing = missing.filter(|figure| figure.verdict == Verdict::NoData);
        missing.map(|figure| figure.name.as_str()).collect()
    }

    /// A figure in instructions.
    pub(crate) fn ticks(&mut self, leg: Leg, figure: Figure) {
        self.figures.push(match leg.counts_instructions() {
            true => figure,
            false => Figure::not_measured(figure.name, NO_TICKS),
        });
    }

    /// A figure beside a host whose KVM does not have Heki.
    pub(crate) fn beside_plain(&mut self, leg: Leg, figure: Figure) {
        self.figures.push(match leg.has_plain() {
            true => figure,
            false => Figure::not_measured(figure.name, NO_PLAIN),
        });
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

    /// What changes of text take.
    fn text(&mut self, leg: Leg, open: &Guest, sealed: &Guest) {
        let columns = [
            "change of text",
            "operations",
            "batches",
            "sites",
            "unsealed",
            "sealed",
            "ratio",
        ];
        let mut all = Table::new("Instructions to change text", &columns);
        let columns = [
            "change of text",
            "operation, unsealed",
            "operation, sealed",
            "batch, unsealed",
            "batch, sealed",
            "site, unsealed",
            "site, sealed",
        ];
        let title = "Instructions to change text, for each operation, batch and site";
        let mut each = Table::new(title, &columns);
        for name in sealed.names("text") {
            let of = |guest: &Guest| guest.number("text", name, "ticks");
            let (before, after) = (of(open), of(sealed));
            // The unsealed guest, whose kernel is the same, has as many; the host counts those of the sealed one.
            let ops = sealed.number("text", name, "ops");
            let batches = sealed.added_at(name, "heki_patch");
            let sites = sealed.added_at(name, "heki_patched");
            let value = ratio(after, before);
            let mut row = vec![name.to_owned()];
            row.extend([ops, batches, sites, before, after].map(cell));
            row.push(cell_of(value));
            all.rows.push(row);
            let bar = (name == "static-key").then_some(1.5);
            let figure = format!("change of text, {name}, sealed / unsealed");
            let mut figure = Figure::new(figure, value, bar);
            // A log may be older than the counts.
            if ops.is_some() {
                let mut row = vec![name.to_owned()];
                for nr in [ops, batches, sites] {
                    row.extend(
                        [before, after].map(|ticks| cell_of(ratio(ticks, nr).map(f64::round))),
                    );
                }
                each.rows.push(row);
                figure = figure.with(format!(
                    "for each batch; {} operations, {} batches, {} sites",
                    cell(ops),
                    cell(batches),
                    cell(sites)
                ));
            }
            self.ticks(leg, figure);
        }
        if leg.counts_instructions() {
            self.tables.extend([all, each]);
        }
    }
}

fn denial(sealed: &Guest) -> Figure {
    let of = |field| sealed.number("denial", "", field);
    let denied = of("ticks")
        .zip(of("gp"))
        .map(|(all, gp)| all.saturating_sub(gp));
    let value = denied.map(|ticks| ticks as f64);
    Figure::new("a denied write, instructions", value, None)
        .with("to the guest's #GP handler and back, without that handler")
}

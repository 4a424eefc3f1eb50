// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the seal itself takes, and what it leaves behind: instructions, memory, small pages.
//!
//! Neighbours: `figures.rs` has what is judged, `log.rs` what was counted. Locks: none.

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
    Guest,
    Log, //
};
use crate::loops::Guests;

/// A table of the second-level page tables.
const PAGE_BYTES: u64 = 4096;
/// An entry of the VMM's profile is an offset, of all its kinds.
const PROFILE_ENTRY_BYTES: u64 = 4;
/// What Heki v2 keeps at least of each page: an entry of an XArray.
const V2_PAGE_BYTES: u64 = 8;
/// What a sealed VM has memory of the host for.
const MEMORY: [&str; 7] = [
    "fixed",
    "registers",
    "map",
    "sites",
    "probes",
    "profile",
    "learned",
];

/// Guests that seal themselves, but for one, by what they are of.
pub(crate) struct Seals<'a> {
    usual: &'a Guest,
    large_open: &'a Guest,
    large: &'a Guest,
    largest: &'a Guest,
    /// With more modules, so with more text.
    modules: &'a Guest,
}

impl<'a> Seals<'a> {
    pub(crate) fn new(log: &'a Log) -> Self {
        Self {
            usual: log.guest("bench-sealed"),
            large_open: log.guest("size-open"),
            large: log.guest("size-sealed"),
            largest: log.guest("large-sealed"),
            modules: log.guest("modules-sealed"),
        }
    }

    pub(crate) fn leaves(&self, guests: &Guests<'_>, report: &mut Report) {
        leaves("256 MiB", guests.open, self.usual, report);
        leaves("1 GiB", self.large_open, self.large, report);
    }

    pub(crate) fn costs(&self, leg: Leg, report: &mut Report) {
        let seals = added(self.usual, "heki_seal").map(|nr| nr as f64);
        let figure = Figure::new("sealing hypercalls", seals, Some(1.0));
        report.figures.push(figure);
        report.tables.push(self.table(leg));
        let call = |guest: &Guest| guest.seal("call");
        for (size, guest) in [("1 GiB", self.large), ("4 GiB", self.largest)] {
            let value = ratio(call(guest), call(self.usual));
            let name = format!("SEAL in the host, {size} / 256 MiB");
            let figure = Figure::new(name, value, Some(1.1));
            report.ticks(leg, figure.with("instructions"));
        }
        let (few, many) = (for_each_site(self.usual), for_each_site(self.modules));
        let value = many.zip(few).map(|(many, few)| many / few);
        let name = "SEAL in the host for each site, more modules / fewer";
        let remark = format!(
            "instructions, {} for each of {} sites, {} for each of {}",
            cell_of(few.map(f64::round)),
            cell(sites(self.usual)),
            cell_of(many.map(f64::round)),
            cell(sites(self.modules)),
        );
        report.ticks(leg, Figure::new(name, value, None).with(remark));
    }

    fn table(&self, leg: Leg) -> Table {
        let mut table = Table::new(
            "A seal, all memory mapped before",
            &["", "256 MiB", "256 MiB, more modules", "1 GiB", "4 GiB"],
        );
        let all = [self.usual, self.modules, self.large, self.largest];
        let mut row = |name: &str, of: &dyn Fn(&Guest) -> Option<u64>| {
            let cells = all.iter().map(|guest| cell(of(guest)));
            let name = std::iter::once(name.to_owned());
            table.rows.push(name.chain(cells).collect());
        };
        row("ranges", &ranges);
        row("KiB in them", &|guest| {
            guest.statistic("sealed", "sealed_kib")
        });
        row("sites of text that changes", &sites);
        row("hypercalls, all", &|guest| guest.seal("hypercalls"));
        row("of them SEAL", &|guest| added(guest, "heki_seal"));
        row("VM exits", &|guest| guest.seal("exits"));
        row("EPT or NPT violations to map all memory again", &faults);
        if leg.counts_instructions() {
            row("instructions, module load included", &busy);
            row("of them the guest's", &|guest| {
                busy(guest)?.checked_sub(guest.seal("host")?)
            });
            row("of them the host's", &|guest| guest.seal("host"));
            row("of the host's the SEAL's", &|guest| guest.seal("call"));
            row("of the SEAL's for each site", &|guest| {
                for_each_site(guest).map(|each| each as u64)
            });
            row("ticks waited beside", &|guest| guest.seal("idle"));
            row("instructions to map all memory again", &refault);
        }
        table
    }

    pub(crate) fn memory(&self, guests: &Guests<'_>, report: &mut Report) {
        let of = |what: &str| memory(self.usual, what);
        let entries = |what| match what {
            "map" => ranges(self.usual),
            "sites" => sites(self.usual),
            "profile" => of(what).map(|bytes| bytes / PROFILE_ENTRY_BYTES),
            _ => None,
        };
        let columns = ["", "entries", "bytes"];
        let mut table = Table::new("Memory of the host for a sealed VM", &columns);
        let mut row = |what: &str, entries, bytes| {
            table
                .rows
                .push(vec![what.to_owned(), cell(entries), cell(bytes)]);
        };
        for what in MEMORY {
            row(what, entries(what), of(what));
        }
        let sum = memory_sum(self.usual);
        row("all", None, sum);
        let tables = lost(guests.open, self.usual);
        let bytes = tables.map(|nr| nr.saturating_mul(PAGE_BYTES));
        row("small-page tables, beside", tables, bytes);
        let pages = self.usual.number("touch", "first", "pages");
        let bytes = pages.map(|nr| nr.saturating_mul(V2_PAGE_BYTES));
        row(
            "for comparison, Heki v2: its value for each page",
            pages,
            bytes,
        );
        report.tables.push(table);

        let each = ratio(of("map"), ranges(self.usual));
        let figure = Figure::new("bytes for each range", each, Some(64.0));
        report.figures.push(figure);
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        let base = ["fixed", "registers", "map"].map(of);
        let base: Option<u64> = base.into_iter().sum();
        let name = "KiB for a sealed VM, without what judges text";
        let figure = Figure::new(name, base.map(kib), Some(16.0));
        let remark = format!("{} ranges", cell(ranges(self.usual)));
        report.figures.push(figure.with(remark));
        let figure = Figure::new("KiB for a sealed VM, all", sum.map(kib), Some(16.0));
        let each = ratio(of("sites"), sites(self.usual));
        let remark = format!(
            "{} sites of {} bytes; {} addresses in the VMM's profile, of {PROFILE_ENTRY_BYTES}",
            cell(sites(self.usual)),
            cell_of(each),
            cell(entries("profile")),
        );
        report.figures.push(figure.with(remark));
        let value = ratio(memory_sum(self.largest), sum);
        let name = "bytes for a sealed VM, 4 GiB / 256 MiB";
        report.figures.push(Figure::new(name, value, Some(1.0)));
    }

    /// Where the instructions of the seal go, and what they are of the boot.
    fn spent(&self) -> Table {
        let columns = ["", "VM exits", "instructions", "% of the boot"];
        let mut table = Table::new("Where the instructions of a seal go", &columns);
        let guest = self.usual;
        let of = |part: &str| guest.number("spent", "", part);
        let mut all = 0;
        let mut row = |what: String, exits: Option<u64>, ticks: Option<u64>| {
            all += ticks.unwrap_or(0);
            table.rows.push(share(what, exits, ticks, boot(guest)));
        };
        row("guest, until its first hypercall".into(), None, of("load"));
        row("guest, from there to the SEAL".into(), None, of("prepare"));
        row("host, SEAL".into(), Some(1), guest.seal("call"));
        row("guest, after the SEAL".into(), None, of("rest"));
        for (reason, ticks) in guest.fields("spent", "ticks-") {
            let exits = of(&format!("exits-{reason}"));
            row(format!("host, {reason}"), exits, Some(ticks));
        }
        table
            .rows
            .push(share("all".into(), None, Some(all), boot(guest)));
        table
    }

    pub(crate) fn boot(&self, guests: &Guests<'_>, leg: Leg, report: &mut Report) {
        let before = boot(self.usual);
        let sealed = before.zip(busy(self.usual));
        let sealed = sealed.map(|(boot, seal)| boot.saturating_add(seal));
        let name = "boot to user space, sealed / unsealed";
        let figure = Figure::new(name, ratio(sealed, before), Some(1.02));
        let part = |ticks| cell_of(ratio(ticks, before));
        let remark = format!(
            "instructions; the SEAL in the host is {} of the boot, the guest until its first hypercall, so to load \
             the module, {}; {} ticks of waiting are not counted",
            part(self.usual.seal("call")),
            part(self.usual.number("spent", "", "load")),
            cell(self.usual.seal("idle"))
        );
        report.ticks(leg, figure.with(remark));
        let name = "boot to user space, unsealed / not opted in";
        let value = ratio(boot(guests.open), boot(guests.off));
        let figure = Figure::new(name, value, None);
        let noise = cell_of(ratio(boot(guests.again), boot(guests.off)));
        let remark = format!("instructions; another one that did not opt in / the first: {noise}");
        report.ticks(leg, figure.with(remark));
        if leg.counts_instructions() {
            report.tables.push(self.spent());
        }
    }

    /// An EPT violation that KVM resolves, beside which a denial is.
    pub(crate) fn fault(&self) -> Figure {
        let each = ratio(refault(self.usual), faults(self.usual));
        let name = "an EPT violation that KVM resolves, instructions";
        Figure::new(name, each.map(f64::round), None)
            .with("all memory mapped again after the seal, the mean")
    }
}

/// The page tables of two guests of a size.
fn leaves(size: &str, open: &Guest, sealed: &Guest, report: &mut Report) {
    let lost = lost(open, sealed);
    let edges = ranges(sealed).map(|nr| 2 * nr);
    let name = format!("small-page tables added for each edge of a sealed range, {size}");
    let remark = format!("{} tables, {} edges", cell(lost), cell(edges));
    let figure = Figure::new(name, ratio(lost, edges), Some(2.0)).with(remark);
    report.figures.push(figure);
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
    report.tables.push(table);
}

/// A row of what a seal takes.
fn share(what: String, exits: Option<u64>, ticks: Option<u64>, boot: Option<u64>) -> Vec<String> {
    let share = ratio(ticks, boot).map(|share| 100.0 * share);
    vec![what, cell(exits), cell(ticks), cell_of(share)]
}

/// Ranges of a seal.
fn ranges(guest: &Guest) -> Option<u64> {
    guest.statistic("sealed", "ranges")
}

/// Places in text that a seal knows and that may change.
fn sites(guest: &Guest) -> Option<u64> {
    guest.statistic("sealed", "sites")
}

/// Bytes of the host for a part of a seal.
fn memory(guest: &Guest, what: &str) -> Option<u64> {
    guest.statistic("sealed", &format!("memory_{what}"))
}

/// Bytes of all of them.
fn memory_sum(guest: &Guest) -> Option<u64> {
    MEMORY.iter().map(|what| memory(guest, what)).sum()
}

/// Ticks of the SEAL in the host, by sites.
fn for_each_site(guest: &Guest) -> Option<f64> {
    ratio(guest.seal("call"), sites(guest))
}

/// How much more a statistic is after the seal.
fn added(guest: &Guest, field: &str) -> Option<u64> {
    let after = guest.statistic("sealed", field)?;
    after.checked_sub(guest.statistic("touched", field)?)
}

fn boot(guest: &Guest) -> Option<u64> {
    guest.number("boot", "", "ticks")
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
fn busy(guest: &Guest) -> Option<u64> {
    let all = guest.number("run", "seal", "ticks")?;
    all.checked_sub(guest.seal("idle")?)
}

/// Ticks to map all memory again after a seal.
fn refault(guest: &Guest) -> Option<u64> {
    let again = guest.number("touch", "again", "ticks")?;
    again.checked_sub(guest.number("touch", "mapped", "ticks")?)
}

/// Page faults of that.
fn faults(guest: &Guest) -> Option<u64> {
    let faults = guest.statistic("again", "pf_taken")?;
    faults.checked_sub(guest.statistic("sealed", "pf_taken")?)
}

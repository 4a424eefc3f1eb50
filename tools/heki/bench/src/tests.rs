// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A run that was saved, and logs that are not as they should be.

use std::collections::BTreeMap;

use crate::figures::{
    Figure,
    Report,
    Verdict, //
};
use crate::log::Log;
use crate::lookup::Lookups;
use crate::print;

/// What a run in Bochs printed.
const LOG: &str = include_str!("../corpus/bochs.log");
const LOOKUPS: &str = include_str!("../corpus/lookups.log");
const PAGE: &str = include_str!("../../../../Documentation/virt/kvm/x86/heki-evaluation.rst");
const README: &str = include_str!("../../../../README.md");

fn report(log: &str, lookups: &str, ticks: bool) -> Report {
    let versions = BTreeMap::from([("Linux".to_owned(), "7.3.4".to_owned())]);
    Report::new(&Log::parse(log), &Lookups::parse(lookups), ticks, versions)
}

fn figure<'a>(report: &'a Report, name: &str) -> &'a Figure {
    let mut figures = report.figures.iter();
    figures.find(|figure| figure.name == name).unwrap()
}

/// Guests with one loop each, with these ticks, and in two rounds these exits.
fn loops(guests: [(u64, &str, &str); 3]) -> String {
    let names = ["bench-off", "bench-open", "bench-sealed"];
    let mut text = String::new();
    for (name, (ticks, first, second)) in names.iter().zip(guests) {
        text += &format!(
            "{name}| figure: loop name=fork number=3 ops=10 ticks={ticks}\r\n\
             {name}| figure: exits mark=0x6 host=0 call=0 {first}\n\
             {name}| figure: exits mark=0x6 host=0 call=0 {second}\n\
             {name}| figure: exits mark=0x8 host=0 call=0 CPUID=9\n"
        );
    }
    text
}

#[test]
fn a_whole_run_lacks_nothing() {
    let report = report(LOG, LOOKUPS, true);
    assert_eq!(report.missing(), Vec::<&str>::new());
    assert_eq!(report.ratios.len(), 7);
    let seals = figure(&report, "sealing hypercalls");
    assert_eq!((seals.value, seals.verdict), (Some(1.0), Verdict::Within));
    let range = figure(&report, "bytes for each range");
    assert_eq!((range.value, range.verdict), (Some(36.0), Verdict::Within));
    let all = figure(&report, "KiB for a sealed VM, all");
    assert_eq!(all.verdict, Verdict::Missed);
}

#[test]
fn a_guest_that_did_not_run_is_missed() {
    assert_eq!(
        report("", "", true).missing().len(),
        report("", "", true).figures.len() - 3
    );
    let unsealed: String = LOG
        .lines()
        .filter(|line| !line.starts_with("bench-sealed"))
        .collect();
    assert!(report(&unsealed, LOOKUPS, true)
        .missing()
        .contains(&"sealing hypercalls"));
}

#[test]
fn ticks_that_are_no_instructions_are_not_used() {
    let report = report(LOG, LOOKUPS, false);
    assert_eq!(report.missing(), Vec::<&str>::new());
    let ratio = figure(&report, "instructions, sealed / unsealed");
    assert_eq!((ratio.verdict, ratio.value), (Verdict::NotMeasured, None));
    assert_eq!(
        figure(&report, "sealing hypercalls").verdict,
        Verdict::Within
    );
}

#[test]
fn a_bar_is_met_or_missed() {
    let same = (1000, "CPUID=3", "CPUID=4 EPT_VIOLATION=1");
    let verdicts = |sealed| {
        let report = report(&loops([same, same, sealed]), "", true);
        let of = |name| figure(&report, name).verdict;
        (
            of("VM exits added by a seal"),
            of("instructions, sealed / unsealed"),
        )
    };
    use Verdict::{Missed, Within};
    assert_eq!(verdicts(same), (Within, Within));
    assert_eq!(verdicts((1010, same.1, same.2)), (Within, Within));
    assert_eq!(verdicts((1011, same.1, same.2)), (Within, Missed));
    // The fewest of the rounds count.
    assert_eq!(verdicts((1000, "CPUID=9", "CPUID=3")), (Within, Within));
    assert_eq!(verdicts((1000, "CPUID=4", "CPUID=4")), (Missed, Within));
    assert_eq!(
        verdicts((1000, "CPUID=3 HLT=7", "CPUID=3 HLT=8")),
        (Within, Within)
    );
    let other = "CPUID=3 MSR_WRITE-c0000080=1";
    assert_eq!(verdicts((1000, other, other)), (Missed, Within));
    let timer = "CPUID=3 MSR_WRITE-6e0=1";
    assert_eq!(verdicts((1000, timer, timer)), (Within, Within));
}

#[test]
fn switches_of_ldts_are_counted_apart() {
    let guests = [("bench-off", 3), ("bench-open", 3), ("bench-sealed", 24)];
    let same = (1000, "CPUID=3", "CPUID=3");
    let mut log = loops([same, same, same]);
    let name = "VM exits added by a seal, each switch to a process with an LDT";
    let without = report(&log, "", true);
    assert!(without.figures.iter().all(|figure| figure.name != name));
    for (guest, exits) in guests {
        log += &format!(
            "{guest}| figure: loop name=ldt number=9 ops=10 ticks=500{exits}\n\
             {guest}| figure: exits mark=0x12 host=0 call=0 LDTR_TR={exits} HLT={exits}\n"
        );
    }
    let report = report(&log, "", true);
    assert_eq!(figure(&report, name).value, Some(1.05));
    for name in [
        "VM exits added by a seal",
        "instructions, sealed / unsealed",
    ] {
        assert_eq!(figure(&report, name).verdict, Verdict::Within);
    }
}

#[test]
fn lookups_are_read() {
    let text = "\
        lookup/map/10           time:   [8.1 µs 8.192 µs 8.3 µs]\n\
        lookup/page/100000\n                        time:   [40.9 ns 40.96 ns 41 ns]\n\
        lookup/page/10          time:   [1 h 2 h 3 h]\n\
        figure: count map/10 1 5000\nfigure: count map/10 2 9096\n\
        figure: count map/1000 2 9096\nfigure: count map/10 3 1\nfigure: count map/10 0 1\n";
    let lookups = Lookups::parse(text);
    let nanoseconds = |structure, ranges| lookups.nanoseconds(structure, ranges);
    assert_eq!(nanoseconds("map", 10), Some(2.0));
    assert_eq!(nanoseconds("page", 100_000), Some(0.01));
    assert_eq!(nanoseconds("page", 10), None);
    assert_eq!(lookups.instructions("map", 10), Some(1.0));
    assert_eq!(lookups.instructions("map", 1000), None);
}

#[test]
fn any_line_is_survived() {
    let mut log = String::new();
    for (at, line) in LOG.lines().enumerate() {
        let cut: String = line.chars().take(at % 120).collect();
        log += &format!("{cut}\n{line}=\n");
    }
    for text in [&log, "x| figure: \nx| figure: exits mark=0xzz\nx| figure: exits mark=ffffffffffffffff A=1 =2 B=x"] {
        let report = report(text, text, true);
        assert!(!print::plain(&report).is_empty() && !print::svg(&report).is_empty());
    }
}

#[test]
fn the_pages_have_a_place_for_the_figures() {
    let report = report(LOG, LOOKUPS, true);
    for page in [PAGE, README] {
        let filled = print::fill(&report, page).unwrap();
        assert!(filled.contains("instructions, sealed / unsealed"));
        assert_eq!(print::fill(&report, &filled), Some(filled));
    }
    assert_eq!(print::fill(&report, "no place"), None);
    let plain = print::plain(&report);
    for figure in &report.figures {
        assert!(plain.contains(&figure.name));
    }
    for ratio in &report.ratios {
        assert!(print::svg(&report).contains(&ratio.name));
    }
}

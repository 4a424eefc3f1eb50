// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A run that was saved, and logs that are not as they should be.

use std::collections::BTreeMap;

use crate::figures::{
    Figure,
    Leg,
    Report,
    Table,
    Verdict, //
};
use crate::log::Log;
use crate::lookup::Lookups;
use crate::print;

/// What three boots in Bochs printed: one with more memory, one whose KVM has no Heki.
const LOG: &str = include_str!("../corpus/bochs.log");
/// What the last is for.
const OF_PLAIN: [&str; 2] = [
    "VM exits added by KVM's option",
    "instructions, not opted in / KVM without the option",
];
const LOOKUPS: &str = include_str!("../corpus/lookups.log");
const PAGE: &str = include_str!("../../../../Documentation/virt/kvm/x86/heki-evaluation.rst");
const README: &str = include_str!("../../../../README.md");

fn report_on(leg: Leg, log: &str, lookups: &str) -> Report {
    let versions = BTreeMap::from([("Linux".to_owned(), "7.3.4".to_owned())]);
    Report::new(&Log::parse(log), &Lookups::parse(lookups), leg, versions)
}

fn report(log: &str, lookups: &str) -> Report {
    report_on(Leg::Bochs, log, lookups)
}

fn figure<'a>(report: &'a Report, name: &str) -> &'a Figure {
    let mut figures = report.figures.iter();
    figures.find(|figure| figure.name == name).unwrap()
}

fn table<'a>(report: &'a Report, title: &str) -> &'a Table {
    let mut tables = report.tables.iter();
    tables.find(|table| table.title == title).unwrap()
}

/// The row of a table that is so called, without its name.
fn row<'a>(table: &'a Table, name: &str) -> Vec<&'a str> {
    let row = table.rows.iter().find(|row| row[0] == name).unwrap();
    row[1..].iter().map(String::as_str).collect()
}

/// A guest with one loop, with these ticks, and in two rounds these exits.
fn guest(name: &str, (ticks, first, second): (u64, &str, &str)) -> String {
    format!(
        "{name}| figure: loop name=fork number=3 ops=10 ticks={ticks}\r\n\
         {name}| figure: exits mark=0x6 host=0 call=0 {first}\n\
         {name}| figure: exits mark=0x6 host=0 call=0 {second}\n\
         {name}| figure: exits mark=0x8 host=0 call=0 CPUID=9\n"
    )
}

/// The guests that run loops: on KVM without the option, twice not opted in, unsealed, sealed.
fn loops(guests: [(u64, &str, &str); 5]) -> String {
    let names = ["plain", "off", "again", "open", "sealed"];
    let guests = names.iter().zip(guests);
    guests
        .map(|(name, each)| guest(&format!("bench-{name}"), each))
        .collect()
}

#[test]
fn a_run_lacks_nothing() {
    let report = report(LOG, LOOKUPS);
    assert_eq!(report.missing(), [""; 0]);
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
    let nothing = report("", "");
    assert_eq!(nothing.missing().len(), nothing.figures.len() - 3);
    let unsealed: String = LOG
        .lines()
        .filter(|line| !line.starts_with("bench-sealed"))
        .collect();
    assert!(report(&unsealed, LOOKUPS)
        .missing()
        .contains(&"sealing hypercalls"));
}

#[test]
fn ticks_that_are_no_instructions_are_not_used() {
    let report = report_on(Leg::Qemu, LOG, LOOKUPS);
    assert_eq!(report.missing(), [""; 0]);
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
        let report = report(&loops([same, same, same, same, sealed]), "");
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
fn kvm_without_the_option_is_the_third_of_the_kernels() {
    use Verdict::{Missed, NoData, NotMeasured, Within};
    let same = (2000, "CPUID=3", "CPUID=3");
    let verdicts = |leg, log: &str| {
        let report = report_on(leg, log, "");
        OF_PLAIN.map(|name| figure(&report, name).verdict)
    };
    let with = |plain| loops([plain, same, same, same, same]);
    assert_eq!(verdicts(Leg::Bochs, &with(same)), [Within, Within]);
    assert_eq!(
        verdicts(Leg::Bochs, &with((1999, same.1, same.2))),
        [Within, Within]
    );
    assert_eq!(
        verdicts(Leg::Bochs, &with((1997, "CPUID=2", "CPUID=2"))),
        [Missed, Missed]
    );
    let without = with(same).replace("bench-plain|", "other|");
    assert_eq!(verdicts(Leg::Bochs, &without), [NoData, NoData]);
    assert_eq!(verdicts(Leg::Kvm, &without), [NotMeasured, NotMeasured]);
    assert_eq!(verdicts(Leg::Qemu, &with(same)), [Within, NotMeasured]);
    let report = report(&without, "");
    let exits = table(&report, "VM exits by reason, all loops but ldt");
    assert_eq!(row(exits, "CPUID"), ["-", "3", "3", "3", "3"]);
}

#[test]
fn switches_of_ldts_are_counted_apart() {
    let same = (1000, "CPUID=3", "CPUID=3");
    let mut log = loops([same; 5]);
    let name = "VM exits added by a seal, each switch to a process with an LDT";
    let without = report(&log, "");
    let none = figure(&without, name);
    assert_eq!(
        (none.verdict, none.remark.as_str()),
        (Verdict::NotMeasured, "this log has none")
    );
    for (guest, exits) in ["plain", "off", "again", "open", "sealed"]
        .iter()
        .zip([3, 3, 3, 3, 24])
    {
        log += &format!(
            "bench-{guest}| figure: loop name=ldt number=9 ops=10 ticks=500{exits}\n\
             bench-{guest}| figure: exits mark=0x12 host=0 call=0 LDTR_TR={exits} HLT={exits}\n"
        );
    }
    let with = report(&log, "");
    assert_eq!(figure(&with, name).value, Some(1.05));
    for name in [
        "VM exits added by a seal",
        "instructions, sealed / unsealed",
    ] {
        assert_eq!(figure(&with, name).verdict, Verdict::Within);
    }
    let unsealed = log.replace("bench-open|", "other|");
    assert_eq!(
        figure(&report(&unsealed, ""), name).verdict,
        Verdict::NoData
    );
}

#[test]
fn two_guests_alike_tell_the_noise() {
    let of = |ticks| (ticks, "", "");
    let noise = |off, again| {
        let report = report(
            &loops([of(1000), of(off), of(again), of(1000), of(1000)]),
            "",
        );
        let figure = figure(&report, "instructions, not opted in, twice");
        (figure.value, figure.verdict)
    };
    assert_eq!(noise(1000, 1250), (Some(1.25), Verdict::Stated));
    assert_eq!(noise(1250, 1000), (Some(1.25), Verdict::Stated));
    let report = report(
        &loops([of(1000), of(1000), of(1250), of(1500), of(1500)]),
        "",
    );
    let remark = |name| figure(&report, name).remark.clone();
    assert_eq!(
        remark("instructions, unsealed / not opted in"),
        "the worst loop, fork; two guests that did not opt in differ there by 1.2500"
    );
    assert_eq!(
        remark("instructions, sealed / unsealed"),
        "the worst loop, fork"
    );
    let each = table(&report, "Instructions for each operation");
    let of_fork = [
        "100", "100", "125", "150", "150", "1", "1.5000", "1", "1.2500",
    ];
    assert_eq!(row(each, "fork"), of_fork);
}

/// Of a guest that sealed itself what the host counted.
fn sealed(name: &str, call: u64, sites: u64) -> String {
    format!(
        "{name}| figure: boot ticks=8000\n\
         {name}| figure: statistics name=touched ranges=0 sealed_kib=0 sites=0 heki_seal=0\n\
         {name}| figure: statistics name=sealed ranges=10 sealed_kib=640 sites={sites} heki_seal=1 \
         memory_fixed=1024 memory_registers=512 memory_map=360 memory_sites={} memory_probes=0 \
         memory_profile=4000 memory_learned=0\n\
         {name}| figure: run name=seal ticks=5000\n\
         {name}| figure: exits mark=0x1 idle=4000 host=700 call={call} VMCALL=48 HLT=9\n\
         {name}| figure: spent load=160 prepare=80 rest=40 exits-EPT_VIOLATION=5 ticks-EPT_VIOLATION=100 \
         exits-VMCALL=47 ticks-VMCALL=20\n",
        32 * sites,
    )
}

#[test]
fn a_seal_is_held_against_memory_and_sites() {
    let log = [
        sealed("bench-sealed", 600, 100),
        sealed("size-sealed", 660, 100),
        sealed("large-sealed", 661, 100),
        sealed("modules-sealed", 960, 120),
    ]
    .concat();
    let report = report(&log, "");
    let of = |name| {
        let figure = figure(&report, name);
        (figure.value, figure.verdict)
    };
    use Verdict::{Missed, Stated, Within};
    assert_eq!(of("SEAL in the host, 1 GiB / 256 MiB"), (Some(1.1), Within));
    assert_eq!(of("SEAL in the host, 4 GiB / 256 MiB").1, Missed);
    let name = "SEAL in the host for each site, more modules / fewer";
    assert_eq!(of(name), (Some(8.0 / 6.0), Stated));
    assert_eq!(
        figure(&report, name).remark,
        "instructions, 6 for each of 100 sites, 8 for each of 120"
    );
    let seal = table(&report, "A seal, all memory mapped before");
    assert_eq!(
        row(seal, "sites of text that changes"),
        ["100", "120", "100", "100"]
    );
    assert_eq!(row(seal, "KiB in them"), ["640"; 4]);
    assert_eq!(
        row(seal, "of the SEAL's for each site"),
        ["6", "8", "6", "6"]
    );
    // 1024 + 512 + 360 + 3200 + 0 + 4000 + 0.
    let all = figure(&report, "KiB for a sealed VM, all");
    assert_eq!(all.value, Some(9096.0 / 1024.0));
    assert_eq!(
        all.remark,
        "100 sites of 32 bytes; 1000 addresses in the VMM's profile, of 4"
    );
    let name = "bytes for a sealed VM, 4 GiB / 256 MiB";
    assert_eq!(of(name), (Some(1.0), Within));
    assert_eq!(row(seal, "of them the guest's"), ["300"; 4]);
}

#[test]
fn a_change_of_text_is_told_by_operation_batch_and_site() {
    let rest = |name, patches, sites| {
        format!("bench-sealed| figure: statistics name={name} heki_patch={patches} heki_patched={sites}\n")
    };
    let log = [
        "bench-open| figure: text name=static-key ops=10 ticks=3000\n\
         bench-sealed| figure: text name=static-key ops=10 ticks=4500\n\
         bench-open| figure: text name=old ticks=3\nbench-sealed| figure: text name=old ticks=3\n"
            .to_owned(),
        rest("warm-up", 4, 4),
        rest("static-key", 24, 34),
    ]
    .concat();
    let report = report(&log, "");
    let all = table(&report, "Instructions to change text");
    assert_eq!(
        row(all, "static-key"),
        ["10", "20", "30", "3000", "4500", "1.5000"]
    );
    assert_eq!(row(all, "old"), ["-", "-", "-", "3", "3", "1"]);
    let title = "Instructions to change text, for each operation, batch and site";
    let each = table(&report, title);
    assert_eq!(
        row(each, "static-key"),
        ["300", "450", "150", "225", "100", "150"]
    );
    let figure = figure(&report, "change of text, static-key, sealed / unsealed");
    assert_eq!(figure.verdict, Verdict::Within);
}

#[test]
fn what_has_no_value_is_shown_as_such() {
    let report = report_on(Leg::Qemu, LOG, LOOKUPS);
    let markdown = print::markdown(&report);
    for name in ["module load and unload", "instructions, sealed / unsealed"] {
        assert!(markdown.contains(&format!("| {name} | - | ")));
    }
    let lacking = report
        .figures
        .iter()
        .filter(|figure| figure.value.is_none());
    assert_eq!(
        markdown.matches("| not measured |").count(),
        lacking.count()
    );
}

#[test]
fn the_instructions_of_a_seal_are_told_apart() {
    let report = report(&sealed("bench-sealed", 600, 100), "");
    let spent = table(&report, "Where the instructions of a seal go");
    let names: Vec<_> = spent.rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(
        names,
        [
            "guest, until its first hypercall",
            "guest, from there to the SEAL",
            "host, SEAL",
            "guest, after the SEAL",
            "host, EPT_VIOLATION",
            "host, VMCALL",
            "all",
        ]
    );
    assert_eq!(
        row(spent, "guest, until its first hypercall"),
        ["-", "160", "2"]
    );
    assert_eq!(row(spent, "host, SEAL"), ["1", "600", "7.5000"]);
    assert_eq!(row(spent, "host, EPT_VIOLATION"), ["5", "100", "1.2500"]);
    assert_eq!(row(spent, "all"), ["-", "1000", "12.5000"]);
    let boot = figure(&report, "boot to user space, sealed / unsealed");
    assert_eq!(boot.value, Some(1.125));
    assert_eq!(
        boot.remark,
        "instructions; the SEAL in the host is 0.0750 of the boot, the guest until its first hypercall, so to load \
         the module, 0.0200; 4000 ticks of waiting are not counted"
    );
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
        let report = report(text, text);
        assert!(!print::plain(&report).is_empty() && !print::svg(&report).is_empty());
    }
}

#[test]
fn the_pages_have_a_place_for_the_figures() {
    let report = report(LOG, LOOKUPS);
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

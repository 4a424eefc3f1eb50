// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The report as text, reStructuredText and Markdown.
//!
//! Neighbours: `table.rs`. Locks: none.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::table::{
    Judged,
    Report,
    Verdict, //
};

const ALL: [Verdict; 5] = [
    Verdict::Denied,
    Verdict::Partly,
    Verdict::NotEnforced,
    Verdict::OutOfScope,
    Verdict::Failed,
];

/// For a terminal; a line of counts for each leg at the end.
pub(crate) fn plain(report: &Report) -> String {
    let mut text = String::from("\n nr");
    for leg in &report.legs {
        let _ = write!(text, "  {leg:<13}");
    }
    text.push_str("  attack\n");
    for row in &report.rows {
        let _ = write!(text, "{:>3}", row.number);
        for verdict in &row.verdicts {
            let _ = write!(text, "  {:<13}", verdict.as_str());
        }
        let _ = writeln!(text, "  {}", row.attack);
    }
    for (at, leg) in report.legs.iter().enumerate() {
        let _ = write!(text, "\nattacks: {leg}: {}", counts(report, at));
    }
    text.push('\n');
    text
}

fn counts(report: &Report, leg: usize) -> String {
    let counts = ALL
        .iter()
        .map(|verdict| (report.count(leg, *verdict), verdict));
    let counts = counts.filter(|(count, _)| *count != 0);
    let words: Vec<_> = counts
        .map(|(count, verdict)| format!("{count} {}", verdict.as_str()))
        .collect();
    words.join(", ")
}

fn quoted(tests: &[impl AsRef<str>]) -> String {
    let tests: Vec<_> = tests
        .iter()
        .map(|test| format!("``{}``", test.as_ref()))
        .collect();
    tests.join(", ")
}

/// What did not run, a sentence for each set of legs.
fn not_here(report: &Report, row: &Judged) -> Vec<String> {
    let mut legs_of = BTreeMap::<_, Vec<_>>::new();
    for (leg, skips) in report.legs.iter().zip(&row.not_here) {
        for (reason, tests) in skips {
            for test in tests {
                legs_of
                    .entry((reason, test))
                    .or_default()
                    .push(leg.as_str());
            }
        }
    }
    let mut skips_of = BTreeMap::<_, BTreeMap<_, Vec<_>>>::new();
    for ((reason, test), legs) in legs_of {
        let skips = skips_of.entry(legs).or_default();
        skips.entry(reason).or_default().push(test);
    }
    let sentence = |(legs, skips): (Vec<&str>, BTreeMap<&String, Vec<&String>>)| {
        let skips = skips
            .iter()
            .map(|(reason, tests)| format!("{}: {reason}", quoted(tests)));
        format!(
            "Not on {}: {}",
            legs.join(" and "),
            skips.collect::<Vec<_>>().join("; ")
        )
    };
    skips_of.into_iter().map(sentence).collect()
}

/// Where the attack is run, where not, and what is left open.
fn remark(report: &Report, row: &Judged) -> String {
    let mut sentences = Vec::new();
    if !row.tests.is_empty() {
        sentences.push(quoted(&row.tests));
    }
    sentences.extend(not_here(report, row));
    let open = if row.tests.is_empty() { "" } else { "Open: " };
    sentences.extend(row.remark.iter().map(|remark| format!("{open}{remark}")));
    if !row.see.is_empty() {
        sentences.push(format!("See *{}*", row.see.join("*, *")));
    }
    sentences.join(". ")
}

/// For Documentation/.
pub(crate) fn rst(report: &Report) -> String {
    let mut text = String::from(
        ".. SPDX-License-Identifier: GPL-2.0

=====================
Heki: table of attacks
=====================

Written by ``make attack`` from its last run; do not edit. The rows and their tests are in
``tools/testing/selftests/heki/attacks.toml``, which also says how to add an attack. What is
open is explained in Documentation/virt/kvm/x86/heki.rst, in the sections behind *See*.

- denied: each test of the row passed. An attack of suite ``attack`` is first run in the same
  kernel unsealed, where it must succeed; sealed it must be denied, nothing changed, and the
  guest goes on. Tests of the other suites do the same for their own guests.
- partly denied: some tests passed. The others did not run, or part of the attack is not
  enforced; the row says which and why, behind *Not on* and *Open*.
- not enforced: nothing is denied on this leg, for a reason that the row gives likewise.

To add an attack: write its function in ``virt/heki/attack/`` and its line in ``attacks.h`` there, and
name it in a row of ``attacks.toml``. ``make cargo-test`` fails while an attack is in no row, and a run
fails where an attack is not denied without being an exception there.

Legs: ``vmx`` is Bochs with VMX and MBEC, ``svm`` QEMU's emulation of SVM, which has no GMET.

",
    );
    // The title of the template is as long as its line.
    text = text.replace("=====================\n", "======================\n");
    for (name, version) in &report.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    for (at, leg) in report.legs.iter().enumerate() {
        let _ = writeln!(text, "- {leg}: {}", counts(report, at));
    }
    let widths = " 12".repeat(report.legs.len());
    let _ = write!(text, "\n.. list-table::\n   :header-rows: 1\n   :widths: 5 30{widths} 40\n\n   * -\n     - Attack\n");
    for leg in &report.legs {
        let _ = writeln!(text, "     - {leg}");
    }
    text.push_str("     - Tests\n");
    for row in &report.rows {
        let _ = writeln!(text, "   * - {}\n     - {}", row.number, row.attack);
        for verdict in &row.verdicts {
            let _ = writeln!(text, "     - {}", verdict.as_str());
        }
        let _ = writeln!(text, "     - {}", remark(report, row));
    }
    text
}

/// For a page of a repository.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for (name, version) in &report.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    let legs = report.legs.join(" | ");
    let rules = "|---".repeat(report.legs.len());
    let _ = write!(
        text,
        "\n| | attack | {legs} | tests |\n|---|---{rules}|---|\n"
    );
    for row in &report.rows {
        let verdicts: Vec<_> = row
            .verdicts
            .iter()
            .map(|verdict| verdict.as_str())
            .collect();
        let remark = remark(report, row).replace("``", "`");
        let _ = writeln!(
            text,
            "| {} | {} | {} | {remark} |",
            row.number,
            row.attack,
            verdicts.join(" | ")
        );
    }
    text
}

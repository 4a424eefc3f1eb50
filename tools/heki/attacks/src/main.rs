// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! heki-attacks: the table of attacks of "make attack".
//!
//! ```text
//! heki-attacks check TABLE ATTACKS TEXT  does it fit the attacks that there are, and the sections
//! heki-attacks judge TABLE RESULTS LEG   which of them did what they must not, a line each
//! heki-attacks show TABLE RESULTS DIR LEG,LEG NAME=VERSION...
//! ```
//!
//! TABLE is `tools/testing/selftests/heki/attacks.toml`, ATTACKS `virt/heki/attack/attacks.h`,
//! TEXT `Documentation/virt/kvm/x86/heki.rst`, RESULTS what `scripts/test` collected: `LEG SUITE
//! NAME OUTCOME REASON` a line. `show` prints the table, writes it to DIR as reStructuredText,
//! Markdown and JSON, and fails if an attack did what it must not. [`table`] reads and judges,
//! [`print`] writes. Locks: none.

#![forbid(unsafe_code)]

mod print;
mod table;
#[cfg(test)]
mod tests;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use table::{
    Leg,
    Report,
    Table,
    Verdict, //
};

const USAGE: &str = "usage: heki-attacks check TABLE ATTACKS TEXT | judge TABLE RESULTS LEG | \
                     show TABLE RESULTS DIR LEG,LEG NAME=VERSION...";

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["check", table, attacks, text] => check(table, attacks, text),
        ["judge", table, results, leg] => judge(table, results, leg),
        ["show", table, results, dir, legs, versions @ ..] => {
            show(table, results, dir, legs, versions)
        }
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("heki-attacks: {why}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn read_table(path: &str) -> Result<Table, String> {
    Table::parse(&read(path)?).map_err(|why| format!("{path}: {why}"))
}

fn check(table: &str, attacks: &str, text: &str) -> Result<(), String> {
    let table = read_table(table)?;
    table.check_names(&table::names_of(&read(attacks)?))?;
    table.check_sections(&table::sections_of(&read(text)?))
}

fn judge(table: &str, results: &str, leg: &str) -> Result<(), String> {
    let leg = Leg::parse(&read(results)?, leg);
    for (attack, complaint) in read_table(table)?.complaints(&leg) {
        println!("{attack} {complaint}");
    }
    Ok(())
}

fn show(
    table: &str,
    results: &str,
    dir: &str,
    legs: &str,
    versions: &[&str],
) -> Result<(), String> {
    let table = read_table(table)?;
    let results = read(results)?;
    let versions = versions.iter().filter_map(|pair| pair.split_once('='));
    let versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned()));
    let legs: Vec<_> = legs
        .split(',')
        .map(|leg| Leg::parse(&results, leg))
        .collect();
    let report = Report::new(&table, &legs, versions.collect())?;
    print!("{}", print::plain(&report));
    let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    // The page comes last: where it is, all is.
    for (name, text) in [
        ("attacks.md", print::markdown(&report)),
        ("attacks.json", json + "\n"),
        ("heki-attacks.rst", print::rst(&report)),
    ] {
        let path = Path::new(dir).join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let mut verdicts = report.rows.iter().flat_map(|row| row.verdicts.iter());
    if verdicts.any(|verdict| *verdict == Verdict::Failed) {
        return Err("an attack succeeded, or did not run".to_owned());
    }
    Ok(())
}

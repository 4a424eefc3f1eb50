// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! heki-bench: the figures of "make bench".
//!
//! ```text
//! heki-bench LOG,LOG LOOKUPS DIR PAGE,PAGE bochs|qemu|kvm NAME=VERSION...
//! ```
//!
//! Each LOG is what a boot of the host and its guests printed, LOOKUPS what the benchmark of the permission
//! map did; under `bochs` a tick of the guests' clock is an instruction. Prints the figures, each with its bar,
//! and writes them to DIR as JSON, Markdown and a plot named by the leg, and into each PAGE; there may be none.
//! A figure that misses its bar is no error; one without data is. [`log`] and [`lookup`] read, [`figures`],
//! [`loops`] and [`seal`] judge, [`print`] writes. Locks: none.

#![forbid(unsafe_code)]

mod figures;
mod log;
mod lookup;
mod loops;
mod print;
mod seal;
#[cfg(test)]
mod tests;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use figures::{
    Leg,
    Report, //
};
use log::Log;
use lookup::Lookups;

const USAGE: &str =
    "usage: heki-bench LOG,LOG LOOKUPS DIR PAGE,PAGE bochs|qemu|kvm NAME=VERSION...";

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        [logs, lookups, dir, pages, leg, versions @ ..] => {
            show(logs, lookups, dir, pages, leg, versions)
        }
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("heki-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A console may print any byte.
fn read(path: &str) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn show(
    logs: &str,
    lookups: &str,
    dir: &str,
    pages: &str,
    leg: &str,
    versions: &[&str],
) -> Result<(), String> {
    let files = format!("figures-on-{leg}");
    let leg = Leg::parse(leg).ok_or(USAGE)?;
    let texts: Result<Vec<_>, _> = logs.split(',').map(read).collect();
    let log = Log::parse(&texts?.join("\n"));
    let lookups = Lookups::parse(&read(lookups)?);
    let versions = versions.iter().filter_map(|pair| pair.split_once('='));
    let versions = versions.map(|(name, version)| (name.to_owned(), version.to_owned()));
    let report = Report::new(&log, &lookups, leg, versions.collect());
    print!("{}", print::plain(&report));
    let json = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    for (kind, text) in [
        ("json", json + "\n"),
        ("md", print::markdown(&report)),
        ("svg", print::svg(&report)),
    ] {
        write(&Path::new(dir).join(format!("{files}.{kind}")), &text)?;
    }
    for page in pages.split(',').filter(|page| !page.is_empty()) {
        let filled = print::fill(&report, &read(page)?);
        let filled = filled.ok_or(format!("{page}: no place for the figures"))?;
        write(Path::new(page), &filled)?;
    }
    match report.missing().as_slice() {
        [] => Ok(()),
        missing => Err(format!("no data for: {}", missing.join("; "))),
    }
}

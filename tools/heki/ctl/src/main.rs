// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! hekictl: what an operator sees of Heki on a host.
//!
//! Parses the command line ([`args`]) and calls the command: [`vms`] (status), [`events`],
//! [`explain`], [`check`], [`top`]. What the kernel prints is read by [`event`] and [`vms`]; any
//! text may come from there. Locks: none.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod args;
mod check;
mod event;
mod events;
mod explain;
mod follow;
mod host;
mod reasons;
mod stats;
mod symbols;
#[cfg(test)]
mod tests;
mod top;
mod vms;

use std::fs;
use std::io::{
    self,
    ErrorKind,
    Write, //
};
use std::path::Path;
use std::process::ExitCode;

use args::{
    Cli,
    Command, //
};
use clap::{
    CommandFactory,
    Parser, //
};
use clap_complete::Shell;
use host::{
    Error,
    Roots, //
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Who reads no more wants no more.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hekictl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked; whether the answer is good.
fn run(cli: &Cli, out: &mut dyn Write) -> Result<bool, Error> {
    let (roots, json) = (&cli.roots, cli.json);
    match &cli.command {
        Command::Status { vm } => status(roots, *vm, json, out)?,
        Command::Events(args) => events::run(roots, args, json, out)?,
        Command::Explain(args) => explain::run(args, json, out)?,
        Command::Check => return check::run(roots, json, out),
        Command::Top(args) => top::run(roots, args, json, out)?,
        Command::Generate { dir } => generate(dir)?,
    }
    Ok(true)
}

fn status(roots: &Roots, vm: Option<u32>, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let vms = vms::read(roots, vm)?;
    if json {
        return host::write_json(out, &vms);
    }
    if vms.is_empty() {
        writeln!(out, "no VM takes part in Heki")?;
    }
    for vm in &vms {
        write!(out, "{vm}")?;
    }
    Ok(())
}

/// Writes what a package installs beside the program.
fn generate(dir: &Path) -> Result<(), Error> {
    let mut command = Cli::command();
    let at = |source| Error::file(dir, source);
    fs::create_dir_all(dir).map_err(at)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "hekictl", dir).map_err(at)?;
    }
    clap_mangen::generate_to(command, dir).map_err(at)
}

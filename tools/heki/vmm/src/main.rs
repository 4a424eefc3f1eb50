// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! heki-vmm: a small virtual machine monitor that can opt its guest in to Heki.
//!
//! Parses the command line ([`args`], or [`control`] after the word `tell`), builds the machine ([`vm`]) and turns the end of the run
//! ([`exit`]) into an exit status. Locks: none here.

#![deny(unsafe_op_in_unsafe_fn)]

mod acpi;
mod args;
mod boot;
mod console;
mod control;
mod cpuid;
mod devices;
mod disk;
mod exit;
mod files;
mod heki;
mod kexec;
mod memory;
mod mmio;
mod monitor;
mod policy;
mod profile;
mod snapshot;
mod vcpu;
mod view;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use args::Args;
use clap::Parser;
use console::{
    Signals,
    Terminal, //
};
use control::Tell;
use exit::{
    End,
    Error, //
};
use vm::Vm;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "tell") {
        return tell(words);
    }
    let args = Args::parse();
    match run(&args) {
        Ok(end) => {
            eprintln!("heki-vmm: {end}");
            end.exit_code()
        }
        Err(error) => {
            eprintln!("heki-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The other end of a control socket.
fn tell(words: impl Iterator<Item = OsString>) -> ExitCode {
    control::tell(&Tell::parse_from(words)).unwrap_or_else(|error| {
        eprintln!("heki-vmm: {error}");
        ExitCode::FAILURE
    })
}

/// Builds the machine and runs it.
fn run(args: &Args) -> Result<End, Error> {
    let signals = Signals::catch()?;
    let mut vm = Vm::new(args)?;
    let terminal = Terminal::raw()?;
    let ended = run_on(&mut vm, args, &signals, &terminal);
    vm.finish(ended, &signals)
}

/// Runs the guest, through as many reboots as were asked for.
fn run_on(vm: &mut Vm, args: &Args, signals: &Signals, terminal: &Terminal) -> Result<End, Error> {
    let mut nr_reboots = 0;
    loop {
        let end = vm.run(signals)?;
        match &end {
            End::Reset(cause) if args.reboot_allowed(nr_reboots) => {
                nr_reboots += 1;
                console::note(terminal, &format!("{cause}, reboot {nr_reboots}"));
                vm.reset()?;
            }
            End::Kexec => {
                console::note(terminal, &end.to_string());
                vm.reset()?;
            }
            _ => return Ok(end),
        }
    }
}

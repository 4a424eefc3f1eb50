// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The command line.
//!
//! Read by `main.rs`, which calls the module of each command. Locks: none.

use std::path::PathBuf;
use std::time::Duration;

use clap::{
    Args,
    Parser,
    Subcommand, //
};

use crate::event::Class;
use crate::host::Roots;

/// Shows what Heki holds, what it denied, and whether this host is able to.
///
/// Reads only, but for a trace instance of its own that `events` and `top` make and remove. Exit
/// status: 0, 1 for an error or a host that is not able, 2 for wrong usage.
#[derive(Parser, Debug)]
#[command(name = "hekictl", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) roots: Roots,

    /// Print JSON: one value, or one for each event
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show each VM: state, protections, pins, ranges, counters
    Status {
        /// Only the VM of this process
        #[arg(long, value_name = "PID")]
        vm: Option<u32>,
    },
    /// Show denials and requests as they come, one line each
    Events(Events),
    /// Say what was attempted, and which rule denied it
    Explain(Explain),
    /// Say what this host can hold, and what is missing
    Check,
    /// Count denials by VM, kind and instruction
    Top(Top),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate {
        /// Folder to write them to
        dir: PathBuf,
    },
}

/// Which events.
#[derive(Args, Debug)]
pub(crate) struct Filter {
    /// Only those of the VM of this process
    #[arg(long, value_name = "PID")]
    pub(crate) vm: Option<u32>,

    /// Only denials of these classes
    #[arg(long, value_name = "CLASS", value_enum, value_delimiter = ',')]
    pub(crate) class: Vec<Class>,

    /// Read a saved trace, or heki-vmm's events, instead of the running trace; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Arguments of `events`.
#[derive(Args, Debug)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Only denials, no requests
    #[arg(long)]
    pub(crate) denials: bool,

    /// End after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    /// Print no more than so many lines each second; the others are counted. 0: all
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) rate: u64,
}

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// A line of the trace, of the JSON of "events" or of heki-vmm's events, or an identifier such as
    /// write.sealed; - reads one line from standard input
    #[arg(required = true, value_name = "EVENT")]
    pub(crate) event: Vec<String>,

    /// The guest's kernel as an ELF file with symbols
    #[arg(long, value_name = "FILE", conflicts_with = "system_map")]
    pub(crate) vmlinux: Option<PathBuf>,

    /// The guest's System.map
    #[arg(long, value_name = "FILE")]
    pub(crate) system_map: Option<PathBuf>,

    /// How far KASLR moved the guest's kernel: address of _text in its /proc/kallsyms less that in
    /// the file. Without it names are those of a kernel that was not moved, and say so
    #[arg(long, value_name = "HEX", value_parser = hex)]
    pub(crate) kaslr_offset: Option<u64>,

    /// Guest physical address of _text: where the first range "text" of "status" begins
    #[arg(long, value_name = "HEX", value_parser = hex)]
    pub(crate) text_gpa: Option<u64>,
}

/// Arguments of `top`.
#[derive(Args, Debug)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) filter: Filter,

    /// Seconds between two views
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub(crate) interval: Duration,

    /// End after so many views
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,

    /// Show so many rows
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) rows: usize,
}

/// Reads a hexadecimal number, with 0x or without.
fn hex(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not between 0.1 and 3600".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!(hex("0xffffffff81000000"), Ok(0xffff_ffff_8100_0000));
        assert_eq!(hex("10"), Ok(16));
        assert!(hex("0x").is_err());
        assert!(hex("10000000000000000").is_err());
        assert!(interval("0").is_err());
        assert!(interval("nan").is_err());
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
    }
}

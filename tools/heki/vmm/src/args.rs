// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The command line: what may be asked for, and a clear word where it may not.
//!
//! What needs the kernel's files or the host to be judged is judged in `boot.rs`, `profile.rs` and
//! `vm.rs`. Locks: none.

use std::path::PathBuf;

use clap::Parser;

use crate::disk;
use crate::memory::MIB;
use crate::mmio;
use crate::profile::Lists;

/// Boots an x86-64 Linux bzImage under KVM, with its serial console on standard input and output.
///
/// Exit status: 0 when the guest resets or powers off, 128 + N when ended by signal N (130 for
/// Ctrl-C), 2 for wrong usage, 1 for everything else, with one line that says why.
#[derive(Parser, Debug)]
#[command(name = "heki-vmm", version)]
pub(crate) struct Args {
    /// Kernel image (bzImage)
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,

    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0")]
    pub(crate) cmdline: String,

    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_cpus)]
    pub(crate) cpus: u32,

    /// Guest memory in MiB, or with a suffix: 256, 512M, 2G
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = parse_memory)]
    pub(crate) memory: u64,

    /// Raw file that the guest has as the disk /dev/vda; with ",ro" behind it, to be read only
    #[arg(long, value_name = "FILE[,ro]", value_parser = parse_disk)]
    pub(crate) disk: Option<disk::Spec>,

    /// Opt the guest in to Heki, so that it may seal itself
    #[arg(long)]
    pub(crate) heki: bool,

    /// The same kernel as an ELF file with symbols, so that the host can check what it patches
    #[arg(long, value_name = "FILE", requires = "heki")]
    pub(crate) vmlinux: Option<PathBuf>,

    /// Static keys and static calls that a sealed guest never changes, instead of the built-in
    /// list: one symbol a line, or the beginning of some and a *
    #[arg(long, value_name = "FILE", requires = "vmlinux")]
    pub(crate) freeze: Option<PathBuf>,

    /// Where a sealed guest may put breakpoints (kprobes, kgdb), which is nowhere otherwise: one
    /// instruction a line, symbol or symbol+0x10
    #[arg(long, value_name = "FILE", requires = "vmlinux")]
    pub(crate) probes: Option<PathBuf>,
    /// What the guest may use and ask for, and what its denials do (TOML)
    #[arg(long, value_name = "FILE", requires = "heki")]
    pub(crate) heki_policy: Option<PathBuf>,

    /// Append requests and denials that the policy reports, as lines of JSON; /dev/fd/N is a file
    /// descriptor of this process, as it was opened: a file, a pipe or a socket
    #[arg(long, value_name = "FILE", requires = "heki_policy")]
    pub(crate) heki_events: Option<PathBuf>,

    /// Create a socket there and take commands, as lines of JSON: see heki-vmm tell --help
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// Go on from a snapshot, with the other arguments as they were
    #[arg(long, value_name = "DIR")]
    pub(crate) restore: Option<PathBuf>,

    /// Start the guest again when it resets, instead of exiting
    #[arg(long)]
    pub(crate) reboot: bool,

    /// Like --reboot, but exit at the reset that follows N reboots
    #[arg(long, value_name = "N")]
    pub(crate) reboots: Option<u64>,
}

impl Args {
    /// The lists of what of a guest's kernel may change.
    pub(crate) fn lists(&self) -> Lists<'_> {
        Lists {
            freeze: self.freeze.as_deref(),
            probes: self.probes.as_deref(),
        }
    }

    /// The kernel's command line, devices that it cannot find by itself included.
    pub(crate) fn full_cmdline(&self) -> String {
        match self.disk {
            // In front: what comes behind a "--" is for the guest's first process.
            Some(_) => format!("{} {}", mmio::CMDLINE, self.cmdline),
            None => self.cmdline.clone(),
        }
    }

    /// Whether device models must not write what the guest seals.
    pub(crate) fn devices_follow(&self) -> bool {
        self.heki && self.disk.is_some()
    }

    /// Whether the guest may be reset and go on.
    pub(crate) fn may_reboot(&self) -> bool {
        self.reboot_allowed(0) || self.control.is_some()
    }

    /// Whether a guest that was rebooted `nr_done` times may be rebooted again.
    pub(crate) fn reboot_allowed(&self, nr_done: u64) -> bool {
        match self.reboots {
            Some(limit) => nr_done < limit,
            None => self.reboot,
        }
    }
}

fn parse_cpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("a guest needs at least one vCPU".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a number of vCPUs".into()),
    }
}

fn parse_disk(text: &str) -> Result<disk::Spec, String> {
    let (path, read_only) = match text.strip_suffix(",ro") {
        Some(path) => (path, true),
        None => (text, false),
    };
    match path {
        "" => Err("a disk needs a file".into()),
        _ => Ok(disk::Spec {
            path: path.into(),
            read_only,
        }),
    }
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['M', 'm']) {
        Some(digits) => (digits, MIB),
        None => match text.strip_suffix(['G', 'g']) {
            Some(digits) => (digits, 1024 * MIB),
            None => (text, MIB),
        },
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "not a size; write MiB as 256 or 256M, GiB as 2G".to_string())?;
    match count.checked_mul(unit) {
        Some(0) => Err("a guest needs memory".into()),
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => Err("larger than any address space".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, String> {
        let words = ["heki-vmm", "--kernel", "k"].iter().chain(words);
        Args::try_parse_from(words).map_err(|error| error.to_string())
    }

    fn refusal(words: &[&str]) -> String {
        parse(words).expect_err("must be refused")
    }

    #[test]
    fn definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn kernel_is_required() {
        let error = Args::try_parse_from(["heki-vmm"]).expect_err("must be refused");
        assert!(error.to_string().contains("--kernel"));
    }

    #[test]
    fn wrong_values_are_explained() {
        assert!(refusal(&["--cpus", "0"]).contains("at least one vCPU"));
        assert!(refusal(&["--cpus", "two"]).contains("not a number of vCPUs"));
        assert!(refusal(&["--memory", "0"]).contains("needs memory"));
        assert!(refusal(&["--memory", "1T"]).contains("not a size"));
        assert!(refusal(&["--memory", "-1"]).contains("unexpected"));
        assert!(refusal(&["--memory", "18446744073709551615G"]).contains("larger"));
        assert!(refusal(&["--memory", "8796093022208"]).contains("larger"));
        assert!(refusal(&["--reboots", "x"]).contains("invalid"));
        assert!(refusal(&["stray"]).contains("stray"));
    }

    #[test]
    fn a_profile_needs_heki() {
        assert!(refusal(&["--vmlinux", "v"]).contains("--heki"));
        assert!(refusal(&["--heki", "--freeze", "f"]).contains("--vmlinux"));
        assert!(refusal(&["--heki", "--probes", "f"]).contains("--vmlinux"));
        let args = parse(&["--heki", "--vmlinux", "v", "--freeze", "f"]).unwrap();
        assert!(args.vmlinux.is_some() && args.freeze.is_some());
    }

    #[test]
    fn a_policy_needs_heki_and_events_need_a_policy() {
        assert!(refusal(&["--heki-policy", "p"]).contains("--heki"));
        assert!(refusal(&["--heki", "--heki-events", "e"]).contains("--heki-policy"));
        let args = parse(&["--heki", "--heki-policy", "p", "--heki-events", "/dev/fd/3"]).unwrap();
        assert!(args.heki_policy.is_some() && args.heki_events.is_some());
    }

    #[test]
    fn disks() {
        let disk = |text| parse(&["--disk", text]).unwrap().disk.unwrap();
        assert_eq!(disk("a,b").path, PathBuf::from("a,b"));
        assert!(!disk("a,b").read_only && disk("a,ro").read_only);
        assert_eq!(disk("a,ro").path, PathBuf::from("a"));
        assert!(refusal(&["--disk", ",ro"]).contains("needs a file"));
        let args = parse(&["--disk", "a", "--cmdline", "x"]).unwrap();
        assert_eq!(args.full_cmdline(), format!("{} x", mmio::CMDLINE));
        assert!(!args.devices_follow());
        assert_eq!(parse(&["--cmdline", "x"]).unwrap().full_cmdline(), "x");
    }

    #[test]
    fn sizes() {
        for (text, mib) in [
            ("256", 256),
            ("512M", 512),
            ("3m", 3),
            ("2G", 2048),
            ("1g", 1024),
        ] {
            assert_eq!(parse(&["--memory", text]).unwrap().memory, mib * MIB);
        }
    }

    #[test]
    fn reboots_are_bounded() {
        let never = parse(&[]).unwrap();
        assert!(!never.may_reboot());
        let always = parse(&["--reboot"]).unwrap();
        assert!(always.reboot_allowed(u64::MAX));
        let twice = parse(&["--reboots", "2"]).unwrap();
        assert!(twice.may_reboot() && twice.reboot_allowed(1) && !twice.reboot_allowed(2));
        assert!(!parse(&["--reboot", "--reboots", "0"]).unwrap().may_reboot());
        let told = parse(&["--control", "/c"]).unwrap();
        assert!(told.may_reboot() && !told.reboot_allowed(0));
    }
}

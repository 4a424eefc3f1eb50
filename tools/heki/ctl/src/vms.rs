// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! `hekictl status`: each VM that takes part, from its folder in KVM's debugfs.
//!
//! The file `heki` there is printed by `virt/kvm/heki/show.rs`; the counters are KVM's statistics,
//! from [`stats`] or, if the VMM does not keep them open, from debugfs too. Without debugfs there are
//! the counters alone, and only of VMs in which one has moved.
//! Lines that are unknown are left out, so that an older hekictl reads a newer host. Locks: none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::event;
use crate::host::{
    self,
    Error,
    Roots, //
};
use crate::stats::{
    self,
    Counters, //
};

/// KVM's statistics that are of Heki begin so.
const COUNTER: &str = "heki_";

/// Where counters are from if the VMM keeps its statistics open.
const STATISTICS: &str = "KVM's binary statistics";

/// The state of a VM whose file `heki` cannot be read.
const UNKNOWN: &str = "unknown, for debugfs is not mounted";

/// The file `heki` of a VM.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct State {
    /// `open`, `sealed`, or [`UNKNOWN`].
    pub(crate) state: String,
    /// The classes of denials that are reported and allowed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) learning: Vec<String>,
    /// Whether supervisor mode runs only what the guest listed.
    pub(crate) exec: bool,
    /// Pinned registers: name and bits.
    pub(crate) pins: Vec<Pin>,
    /// Sealed memory.
    pub(crate) ranges: Vec<Range>,
    /// Numbers that the host shows by name: `sites`, `probes`, `patch`.
    pub(crate) text: BTreeMap<String, String>,
    /// Bytes of the host that the seal takes, by what they are for.
    pub(crate) memory: BTreeMap<String, u64>,
}

/// A pinned register.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pin {
    /// `cr0`, `cr4`, `xcr0`, `msr 0x174`, `IDTR base`.
    pub(crate) register: String,
    /// Which bits, in hexadecimal.
    pub(crate) bits: String,
}

/// Sealed memory.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Range {
    /// First and last guest physical address, in hexadecimal.
    pub(crate) addresses: String,
    /// What the guest may do there.
    pub(crate) rights: String,
    /// What it is.
    pub(crate) kind: String,
}

/// A protection and what became of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Protection {
    /// The word of `heki_guest.require=`.
    pub(crate) name: &'static str,
    /// Whether it is held.
    pub(crate) held: bool,
    /// If not, why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<&'static str>,
}

/// A VM.
#[derive(Debug, Serialize)]
pub(crate) struct Vm {
    /// The VMM's process.
    pub(crate) process: u32,
    /// What that calls itself.
    pub(crate) command: Option<String>,
    /// What the host says.
    #[serde(flatten)]
    pub(crate) state: State,
    /// The five protections.
    pub(crate) protections: Vec<Protection>,
    /// What the guest did and was denied.
    pub(crate) counters: Counters,
    /// Where these are from.
    pub(crate) counters_from: &'static str,
}

impl State {
    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            match name {
                "state" => state.state = host::printable(rest),
                "learning" => state.learning.extend(rest.split(' ').map(host::printable)),
                "exec" => state.exec = rest == "allow-list",
                "pin" => state.pins.extend(pin(rest)),
                "range" => state.ranges.extend(range(rest)),
                "sites" | "probes" | "patch" => {
                    let value = host::printable(rest);
                    state.text.insert(name.to_owned(), value);
                }
                "memory" => state.memory.extend(memory(rest)),
                _ => {}
            }
        }
        state
    }

    fn pins_any(&self, registers: &[&str]) -> bool {
        let of = |pin: &Pin| {
            let name = pin.register.split(' ').next().unwrap_or("");
            registers.iter().any(|one| one.eq_ignore_ascii_case(name))
        };
        self.pins.iter().any(of)
    }

    /// What is held.
    pub(crate) fn protections(&self) -> Vec<Protection> {
        let is_kept = |range: &Range| !range.rights.contains('w');
        let asked = [
            ("write", "write", self.ranges.iter().any(is_kept)),
            ("exec", "exec", self.exec),
            ("cr", "registers", self.pins_any(&["cr0", "cr4"])),
            ("msr", "registers", self.pins_any(&["msr", "xcr0"])),
            (
                "dt",
                "registers",
                self.pins_any(&["idtr", "gdtr", "ldtr", "tr"]),
            ),
        ];
        let protection = |(name, class, held)| {
            let why = match (self.state.as_str(), held) {
                (UNKNOWN, _) => Some("unknown"),
                ("sealed", true) if self.learning.iter().any(|one| one == class) => {
                    Some("LEARNING: what it would deny is reported and allowed")
                }
                ("sealed", true) => None,
                ("sealed", false) => {
                    Some("the guest did not ask for it, or could not: its log says why")
                }
                _ => Some("the guest has not sealed itself"),
            };
            Protection {
                name,
                held: why.is_none(),
                why,
            }
        };
        asked.into_iter().map(protection).collect()
    }
}

/// A pin of no bits is none: the host always has a line for CR0 and CR4.
fn pin(text: &str) -> Option<Pin> {
    let (register, bits) = text.rsplit_once(' ')?;
    (event::number(bits)? != 0).then(|| Pin {
        register: host::printable(register),
        bits: host::printable(bits),
    })
}

fn range(text: &str) -> Option<Range> {
    let mut words = text.splitn(3, ' ').map(host::printable);
    Some(Range {
        addresses: words.next()?,
        rights: words.next()?,
        kind: words.next()?,
    })
}

fn memory(text: &str) -> Option<(String, u64)> {
    let (what, bytes) = text.split_once(' ')?;
    Some((host::printable(what), bytes.parse().ok()?))
}

/// The process of a VM's folder, which is called `PID-FD`.
fn process(folder: &str) -> Option<u32> {
    folder.split_once('-')?.0.parse().ok()
}

/// The counters in a VM's folder.
fn counters_in(path: &Path) -> Counters {
    let mut counters = Counters::new();
    for name in host::names(path).unwrap_or_default() {
        let value = host::word(&path.join(&name)).and_then(|text| text.parse().ok());
        if let (Some(counter), Some(value)) = (name.strip_prefix(COUNTER), value) {
            counters.insert(counter.to_owned(), value);
        }
    }
    counters
}

impl Vm {
    fn new(
        roots: &Roots,
        process: u32,
        state: State,
        counters: Counters,
        from: &'static str,
    ) -> Self {
        Self {
            process,
            command: host::command_of(roots, process),
            protections: state.protections(),
            state,
            counters,
            counters_from: from,
        }
    }
}

/// All VMs that take part, or the one of a process.
pub(crate) fn read(roots: &Roots, only: Option<u32>) -> Result<Vec<Vm>, Error> {
    let kvm = roots.debugfs.join("kvm");
    let is_wanted = |process: &u32| only.is_none_or(|only| only == *process);
    let vms = match host::expect("debugfs", &roots.debugfs, &kvm, Error::NoKvm) {
        Ok(()) => with_debugfs(roots, &kvm, is_wanted)?,
        Err(error @ Error::NotMounted { .. }) => match without_debugfs(roots, is_wanted)? {
            vms if vms.is_empty() => return Err(error),
            vms => vms,
        },
        Err(error) => return Err(error),
    };
    match only {
        Some(process) if vms.is_empty() => Err(Error::NoVm(process)),
        _ => Ok(vms),
    }
}

/// Statistics do not say to which VM of a process a vCPU belongs.
fn is_alone(folders: &[String], of: u32) -> bool {
    let mut same = folders.iter().filter(|folder| process(folder) == Some(of));
    same.next().is_some() && same.next().is_none()
}

/// Each VM has the counters of Heki. Of one that takes no part none ever moves.
fn has_asked(counters: &Counters) -> bool {
    counters.values().any(|count| *count != 0)
}

fn without_debugfs(roots: &Roots, is_wanted: impl Fn(&u32) -> bool) -> Result<Vec<Vm>, Error> {
    let processes = host::names(&roots.procfs)?;
    let processes = processes.iter().filter_map(|name| name.parse().ok());
    let vm = |process: u32| {
        let counters = stats::of_process(roots, process, COUNTER)?;
        let state = State {
            state: UNKNOWN.to_owned(),
            ..State::default()
        };
        has_asked(&counters).then(|| Vm::new(roots, process, state, counters, STATISTICS))
    };
    Ok(processes.filter(is_wanted).filter_map(vm).collect())
}

fn with_debugfs(
    roots: &Roots,
    kvm: &Path,
    is_wanted: impl Fn(&u32) -> bool,
) -> Result<Vec<Vm>, Error> {
    let mut vms = Vec::new();
    let folders = host::names(kvm)?;
    for folder in &folders {
        let Some(process) = process(folder).filter(&is_wanted) else {
            continue;
        };
        let path = kvm.join(folder);
        // A VM without Heki has no such file, and one that just ended has no folder.
        let text = match host::read(&path.join("heki")) {
            Ok(text) => text,
            Err(Error::File { .. }) => continue,
            Err(error) => return Err(error),
        };
        let binary = stats::of_process(roots, process, COUNTER);
        let (counters, from) = match binary.filter(|_| is_alone(&folders, process)) {
            Some(counters) => (counters, STATISTICS),
            None => (counters_in(&path), "debugfs"),
        };
        vms.push(Vm::new(roots, process, State::parse(&text), counters, from));
    }
    Ok(vms)
}

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = self.command.as_deref().unwrap_or("?");
        writeln!(
            f,
            "VM of process {} ({command}): {}",
            self.process, self.state.state
        )?;
        if !self.state.learning.is_empty() {
            let classes = self.state.learning.join(", ");
            writeln!(
                f,
                "  LEARNING, NOT PROTECTED: denials are reported and allowed: {classes}"
            )?;
        }
        for Protection { name, why, .. } in &self.protections {
            match why {
                None => writeln!(f, "  {name}: held")?,
                Some(why) => writeln!(f, "  {name}: not held: {why}")?,
            }
        }
        for pin in &self.state.pins {
            writeln!(f, "  pin {} {}", pin.register, pin.bits)?;
        }
        for range in &self.state.ranges {
            writeln!(
                f,
                "  range {} {} {}",
                range.addresses, range.rights, range.kind
            )?;
        }
        for (name, value) in &self.state.text {
            writeln!(f, "  {name} {value}")?;
        }
        for (what, bytes) in &self.state.memory {
            writeln!(f, "  memory {what} {bytes}")?;
        }
        writeln!(f, "  counters from {}", self.counters_from)?;
        for (name, value) in &self.counters {
            writeln!(f, "  count {name} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_never_asked_may_take_no_part() {
        let of = |counts: [u64; 2]| {
            let names = ["query", "seal"].map(str::to_owned);
            Counters::from_iter(names.into_iter().zip(counts))
        };
        assert!(!has_asked(&Counters::new()));
        assert!(!has_asked(&of([0, 0])));
        assert!(has_asked(&of([1, 0])));
    }
}

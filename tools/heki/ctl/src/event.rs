// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Events of the trace system `kvm_heki`: from a line to a type and to a line for people.
//!
//! `include/trace/events/kvm_heki.h` prints them and Documentation/trace/events-kvm-heki.rst says
//! what they mean. heki-vmm's own, in Documentation/admin-guide/heki.rst, are read too. Any text may
//! come in: a line is an event whole or not at all. Locks: none.

use std::fmt;
use std::str::SplitWhitespace;

use clap::ValueEnum;
use serde::{
    Deserialize,
    Deserializer,
    Serialize,
    Serializer, //
};

use crate::host;

/// What a denial is of, as in a VMM's policy. The discriminants are HEKI_CLASS_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// Writes of sealed memory
    Write = heki_abi::HEKI_CLASS_WRITE as isize,
    /// Memory that is not to run
    Exec = heki_abi::HEKI_CLASS_EXEC as isize,
    /// Changes of pinned registers
    Registers = heki_abi::HEKI_CLASS_REGISTER as isize,
    /// Changes of text, by request
    Patch = heki_abi::HEKI_CLASS_PATCH as isize,
}

impl Class {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Write, Self::Exec, Self::Registers, Self::Patch];

    /// Its stable word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Registers => "registers",
            Self::Patch => "patch",
        }
    }
}

/// What was attempted, and is aimed at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Target {
    /// A guest frame.
    Frame {
        /// Its number.
        #[serde(with = "hex")]
        gfn: u64,
    },
    /// A guest physical address, which only heki-vmm tells.
    Address {
        /// The address.
        #[serde(with = "hex")]
        gpa: u64,
    },
    /// An address in the guest's text.
    Text {
        /// The address.
        #[serde(with = "hex")]
        va: u64,
    },
    /// A register.
    Register {
        /// Its name as the trace prints it. heki-vmm tells the number.
        #[serde(deserialize_with = "register")]
        register: String,
        /// The number of an MSR.
        #[serde(with = "hex")]
        index: u64,
        /// The pinned bits that would have changed.
        #[serde(with = "hex")]
        bits: u64,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum What {
    /// The guest asked what the host offers.
    Query {
        /// The hypercall's result.
        ret: i64,
    },
    /// It asked to be sealed.
    Seal {
        /// How many ranges.
        ranges: u32,
        /// How many pins.
        pins: u32,
        /// HEKI_SEAL_*.
        #[serde(with = "hex")]
        flags: u64,
        /// `sealed`, or the refusal.
        outcome: String,
        /// The hypercall's result.
        ret: i64,
    },
    /// It asked for a change of its text, or for another kernel.
    Change {
        /// `patch`, `grant`, `release` or `kexec`.
        operation: String,
        /// Instructions or ranges that changed, or bytes of the kernel.
        items: u32,
        /// `done`, or the refusal or denial.
        outcome: String,
        /// The hypercall's result.
        ret: i64,
    },
    /// The same, of which heki-vmm tells what its policy says.
    Request {
        /// `seal`, `patch`, `grant` or `release`.
        operation: String,
        /// What the policy says.
        allowed: bool,
    },
    /// It loaded or started another kernel, which heki-vmm tells.
    Kexec {
        /// `load` or `start`.
        step: String,
        /// Whether heki-vmm does it.
        allowed: bool,
    },
    /// It was denied something, or would have been.
    Denial {
        /// What that was.
        class: Class,
        /// At what it was aimed.
        #[serde(flatten)]
        target: Target,
        /// Why.
        reason: String,
        /// Whether it happened all the same, since the VM learns.
        #[serde(default, skip_serializing_if = "is_false")]
        learned: bool,
    },
}

impl What {
    /// All that is text in it.
    fn texts(&mut self) -> Vec<&mut String> {
        match self {
            Self::Query { ret: _ } => vec![],
            Self::Seal { outcome, .. } => vec![outcome],
            Self::Change {
                operation, outcome, ..
            } => vec![operation, outcome],
            Self::Request { operation, .. } => vec![operation],
            Self::Kexec { step, .. } => vec![step],
            Self::Denial { target, reason, .. } => match target {
                Target::Register { register, .. } => vec![register, reason],
                Target::Frame { .. } | Target::Address { .. } | Target::Text { .. } => vec![reason],
            },
        }
    }
}

/// When, and on which thread. heki-vmm tells neither.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// When, as the trace prints it.
    pub(crate) time: String,
    /// The thread of the vCPU.
    pub(crate) thread: u32,
    /// What that calls itself.
    pub(crate) command: String,
}

/// A line of the trace, or one of heki-vmm's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Of the trace.
    #[serde(flatten)]
    pub(crate) task: Option<Task>,
    /// The VMM's process, if it is known.
    #[serde(default)]
    pub(crate) process: Option<u32>,
    /// Number of the vCPU.
    pub(crate) vcpu: u32,
    /// The guest's instruction.
    #[serde(with = "hex")]
    pub(crate) rip: u64,
    /// What happened.
    #[serde(flatten)]
    pub(crate) what: What,
}

impl Event {
    /// Reads a line of `trace` or `trace_pipe`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        // The host names the thread, who may give itself any name; our part is the last.
        let (head, rest) = line.rsplit_once(": kvm_heki_")?;
        let (name, payload) = rest.split_once(':')?;
        let (who, when) = head.rsplit_once('[')?;
        let (command, thread) = who.trim().rsplit_once('-')?;
        let mut words = Words(payload.split_whitespace());
        words.skip("vcpu")?;
        let vcpu = words.next()?.parse().ok()?;
        let rip = words.number_of("rip")?;
        let what = match name {
            "query" => query(&mut words),
            "seal" => seal(&mut words),
            "patch" => change(&mut words),
            "deny" => denial(&mut words),
            _ => None,
        }?;
        if words.next().is_some() {
            return None;
        }
        let task = Task {
            time: when.split_whitespace().next_back()?.to_owned(),
            thread: thread.parse().ok()?,
            command: command.to_owned(),
        };
        let event = Self {
            task: Some(task),
            process: None,
            vcpu,
            rip,
            what,
        };
        Some(event.printable())
    }

    /// Reads a line of the trace, of our own JSON or of heki-vmm's.
    pub(crate) fn parse_any(line: &str) -> Option<Self> {
        Self::parse(line).or_else(|| serde_json::from_str(line).ok().map(Self::printable))
    }

    /// Without what a terminal would obey: a line may come from anywhere.
    fn printable(mut self) -> Self {
        let task = self.task.iter_mut();
        let texts = task
            .flat_map(|task| [&mut task.time, &mut task.command])
            .chain(self.what.texts());
        for text in texts {
            *text = host::printable(text);
        }
        self
    }

    /// The thread of the vCPU, if it is known.
    pub(crate) fn thread(&self) -> Option<u32> {
        self.task.as_ref().map(|task| task.thread)
    }

    /// The denial's identifier, `CLASS.REASON`.
    pub(crate) fn id(&self) -> Option<String> {
        match &self.what {
            What::Denial { class, reason, .. } => Some(format!("{}.{reason}", class.as_str())),
            _ => None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How many events a line of `trace_pipe` says were lost.
pub(crate) fn lost(line: &str) -> Option<u64> {
    let (_, rest) = line.strip_prefix("CPU:")?.split_once("[LOST ")?;
    rest.strip_suffix(" EVENTS]")?.parse().ok()
}

/// The words of a line that are still to be read.
struct Words<'a>(SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    /// The next word must be this one.
    fn skip(&mut self, wanted: &str) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    /// `NAME NUMBER`, the number in hexadecimal.
    fn number_of(&mut self, name: &str) -> Option<u64> {
        self.skip(name)?;
        number(self.next()?)
    }

    /// `NAME NUMBER` in decimal.
    fn decimal_of<T: std::str::FromStr>(&mut self, name: &str) -> Option<T> {
        self.skip(name)?;
        self.next()?.parse().ok()
    }

    /// All words before `end`, which is skipped.
    fn until(&mut self, end: &str) -> Option<String> {
        let mut words = Vec::new();
        loop {
            match self.next()? {
                word if word == end => return Some(words.join(" ")),
                word => words.push(word),
            }
        }
    }
}

/// A number in hexadecimal, as the kernel prints it.
pub(crate) fn number(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

fn query(words: &mut Words<'_>) -> Option<What> {
    let ret = words.decimal_of("ret")?;
    Some(What::Query { ret })
}

fn seal(words: &mut Words<'_>) -> Option<What> {
    Some(What::Seal {
        ranges: words.decimal_of("ranges")?,
        pins: words.decimal_of("pins")?,
        flags: words.number_of("flags")?,
        outcome: words.until("ret")?,
        ret: words.next()?.parse().ok()?,
    })
}

fn change(words: &mut Words<'_>) -> Option<What> {
    Some(What::Change {
        operation: words.next()?.to_owned(),
        items: words.next()?.parse().ok()?,
        outcome: words.until("ret")?,
        ret: words.next()?.parse().ok()?,
    })
}

fn denial(words: &mut Words<'_>) -> Option<What> {
    words.skip("access")?;
    let access = words.until("gfn")?;
    let gfn = number(words.next()?)?;
    let va = words.number_of("va")?;
    let register = words.next()?.to_owned();
    let index = words.number_of("index")?;
    let bits = words.number_of("bits")?;
    words.skip("reason")?;
    let reason = words.next()?.to_owned();
    let learned = match words.next() {
        None => false,
        Some(word) => (word == "learned").then_some(true)?,
    };
    let (class, target) = match access.as_str() {
        "write" => (Class::Write, Target::Frame { gfn }),
        "fetch" => (Class::Exec, Target::Frame { gfn }),
        "patch" => (Class::Patch, Target::Text { va }),
        "" => {
            let target = Target::Register {
                register,
                index,
                bits,
            };
            (Class::Registers, target)
        }
        _ => return None,
    };
    Some(What::Denial {
        class,
        target,
        reason,
        learned,
    })
}

/// The part of a descriptor-table register that `index` is.
fn part(register: &str, index: u64) -> Option<&'static str> {
    match (register, index) {
        ("idtr" | "gdtr" | "tr", 0) => Some("base"),
        ("idtr" | "gdtr" | "tr", 1) => Some("limit"),
        ("tr", 2) => Some("selector"),
        _ => None,
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A frame number comes from the host, and has 52 bits at most; another is shown as it is.
            Self::Frame { gfn } => match gfn.checked_mul(4096) {
                Some(gpa) => write!(f, "guest physical page {gpa:#x}"),
                None => write!(f, "guest frame {gfn:#x}"),
            },
            Self::Address { gpa } => write!(f, "guest physical address {gpa:#x}"),
            Self::Text { va } => write!(f, "text at {va:#x}"),
            Self::Register {
                register,
                index,
                bits,
            } => {
                let name = register.to_uppercase();
                match (register.as_str(), part(register, *index)) {
                    ("msr", _) => write!(f, "bits {bits:#x} of MSR {index:#x}"),
                    (_, Some(part)) => write!(f, "bits {bits:#x} of {name} {part}"),
                    (_, None) => write!(f, "bits {bits:#x} of {name}"),
                }
            }
        }
    }
}

/// What a VMM said to a request.
fn answer(allowed: bool) -> &'static str {
    if allowed {
        "allowed by the VMM"
    } else {
        "refused by the VMM"
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query { ret } => write!(f, "asked what the host offers: {ret}"),
            Self::Seal {
                ranges,
                pins,
                outcome,
                ret,
                ..
            } => match ret {
                0 => write!(f, "sealed itself: {ranges} ranges, {pins} pins"),
                _ => write!(f, "seal refused: {outcome}"),
            },
            Self::Change {
                operation,
                items,
                outcome,
                ret,
            } => match ret {
                0 => write!(f, "{operation}: {items} done"),
                _ => write!(f, "{operation} not done: {outcome}"),
            },
            Self::Request { operation, allowed } => write!(f, "{operation} {}", answer(*allowed)),
            Self::Kexec { step, allowed } => write!(f, "kexec {step} {}", answer(*allowed)),
            Self::Denial {
                class,
                target,
                reason,
                learned,
            } => {
                let denied = if *learned {
                    "LEARNING: would be DENIED:"
                } else {
                    "DENIED"
                };
                let attempt = match class {
                    Class::Write => "write of",
                    Class::Exec => "execution of",
                    Class::Registers => "change of",
                    Class::Patch => "patch of",
                };
                let class = class.as_str();
                write!(f, "{denied} {attempt} {target} [{class}.{reason}]")
            }
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.task {
            write!(f, "{} {}", task.time, task.command)?;
            match self.process {
                Some(process) => write!(f, "[{process}] ")?,
                None => write!(f, "[thread {}] ", task.thread)?,
            }
        }
        write!(f, "vcpu {} rip {:#x}: {}", self.vcpu, self.rip, self.what)
    }
}

/// The names of registers in the trace, by HEKI_REG_*.
const REGISTERS: [(u32, &str); 8] = [
    (heki_abi::HEKI_REG_CR0, "cr0"),
    (heki_abi::HEKI_REG_CR4, "cr4"),
    (heki_abi::HEKI_REG_XCR0, "xcr0"),
    (heki_abi::HEKI_REG_MSR, "msr"),
    (heki_abi::HEKI_REG_IDTR, "idtr"),
    (heki_abi::HEKI_REG_GDTR, "gdtr"),
    (heki_abi::HEKI_REG_LDTR, "ldtr"),
    (heki_abi::HEKI_REG_TR, "tr"),
];

/// The name of a register, which in JSON is that or its number.
fn register<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Name(String),
        Number(u32),
    }
    let number = match Word::deserialize(deserializer)? {
        Word::Name(name) => return Ok(name),
        Word::Number(number) => number,
    };
    let found = REGISTERS.into_iter().find(|(known, _)| *known == number);
    found
        .map(|(_, name)| name.to_owned())
        .ok_or_else(|| serde::de::Error::custom("no number of a register"))
}

/// Numbers that may have 64 bits are text in JSON.
mod hex {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        number(&text).ok_or_else(|| serde::de::Error::custom("no number in hexadecimal"))
    }
}

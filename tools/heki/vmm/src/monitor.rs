// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What the host tells of a guest with a policy: requests are answered, denials are told on, each
//! as one line of JSON.
//!
//! `vcpu.rs` brings the exits, `policy.rs` has the rules, `kexec.rs` keeps the next kernel. All of an
//! event is numbers and our own words, nothing is the guest's text. Locks: that of the events, for
//! one line at a time; that of the keeper, for one request. Never both.

#![deny(unsafe_code)]

use std::fs::File;
use std::io::{
    self,
    Write, //
};
use std::path::Path;
use std::sync::{
    Mutex,
    PoisonError, //
};

use heki_abi::{
    Exit,
    HEKI_CLASS_EXEC,
    HEKI_CLASS_PATCH,
    HEKI_CLASS_REGISTER,
    HEKI_CLASS_WRITE,
    HEKI_EXIT_DENIAL,
    HEKI_EXIT_HAS_GPA,
    HEKI_EXIT_HAS_REG,
    HEKI_EXIT_HAS_VA,
    HEKI_EXIT_IS_LEARNED,
    HEKI_EXIT_IS_PAUSE,
    HEKI_EXIT_PAUSED,
    HEKI_EXIT_REQUEST,
    HEKI_OP_GRANT,
    HEKI_OP_KEXEC,
    HEKI_OP_PATCH,
    HEKI_OP_RELEASE,
    HEKI_OP_SEAL,
    HEKI_SEAL_EXEC,
    KVM_EOPNOTSUPP,
    KVM_EPERM, //
};
use serde::Serialize;

use crate::exit::Error;
use crate::files;
use crate::kexec::{
    Keeper,
    Outcome, //
};
use crate::memory::Memory;
use crate::policy::{
    Consent,
    Policy, //
};

/// The words for `HEKI_REASON_*`, by number.
const REASONS: [&str; 11] = [
    "sealed",
    "not_executable",
    "page_walk",
    "pinned",
    "unlisted",
    "frozen",
    "form",
    "target",
    "stale",
    "content",
    "kvm_writer",
];

/// What a vCPU does after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It gives this answer and runs on.
    Answer(u32),
    /// It runs on.
    Run,
    /// It waits for the end of the run.
    Wait,
    /// It ends the run.
    Stop,
    /// It ends the run, and the kernel that was loaded is booted.
    Start,
}

/// Decides by a policy, and tells what happens.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    policy: Policy,
    events: Option<Mutex<File>>,
    keeper: Option<Mutex<Keeper>>,
}

/// An event, one line of JSON. Addresses and bits are text, for a JSON number is exact to 53 bits
/// only.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Request {
        vcpu: u32,
        rip: String,
        operation: &'static str,
        bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        exec: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ranges: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pins: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sites: Option<u32>,
        allowed: bool,
    },
    Kexec {
        vcpu: u32,
        rip: String,
        step: &'static str,
        bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        allowed: bool,
    },
    Denial {
        vcpu: u32,
        cpl: u32,
        rip: String,
        class: &'static str,
        reason: &'static str,
        /// `CLASS.REASON`.
        id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        gpa: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        va: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        register: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        index: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bits: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        stop: bool,
        /// It happened all the same.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        learned: bool,
    },
}

impl Monitor {
    /// Reads the policy, and opens the file for events.
    pub(crate) fn open(policy: &Path, events: Option<&Path>) -> Result<Self, Error> {
        let policy = Policy::open(policy)?;
        if events.is_none() && policy.reports() {
            return Err(Error::NoEvents);
        }
        let open = |path| {
            files::append(path)
                .map(Mutex::new)
                .map_err(Error::os("open the file for events"))
        };
        let events = events.map(open).transpose()?;
        let keeper = policy.kexec().cloned().map(Keeper::new).map(Mutex::new);
        Ok(Monitor {
            policy,
            events,
            keeper,
        })
    }

    /// Has requests that change rights come here, for the sake of device models.
    pub(crate) fn follow_rights(&mut self) {
        self.policy.follow_rights();
    }

    /// The policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether the guest may load and start a kernel.
    pub(crate) fn keeps_kernels(&self) -> bool {
        self.keeper.is_some()
    }

    /// The kernel to boot, if the guest has just started one. Any other is forgotten.
    pub(crate) fn take_started(&self) -> Option<Vec<u8>> {
        let keeper = self.keeper.as_ref()?;
        let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.take_started()
    }

    /// Tells of an exit, and decides how to go on. What cannot be told does not go unnoticed.
    /// `memory` is the guest's.
    pub(crate) fn serve(&self, exit: &Exit, memory: &Memory) -> Result<Next, Error> {
        if exit.kind == HEKI_EXIT_REQUEST && exit.op == HEKI_OP_KEXEC {
            return self.keep(exit, memory);
        }
        let next = decide(&self.policy, exit);
        // Of what is only followed nobody wants to hear.
        let told = exit.kind != HEKI_EXIT_REQUEST || self.policy.consent(exit.op) != Consent::Allow;
        if let (true, Some(event)) = (told, event(exit, next)) {
            self.tell(&event)?;
        }
        Ok(next)
    }

    /// Takes a part of the next kernel, or starts it.
    fn keep(&self, exit: &Exit, memory: &Memory) -> Result<Next, Error> {
        let Some(keeper) = &self.keeper else {
            return Ok(Next::Answer(KVM_EOPNOTSUPP as u32));
        };
        let outcome = keeper
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .serve(exit, memory);
        if outcome.is_event() {
            self.tell(&kexec(exit, &outcome))?;
        }
        Ok(match outcome {
            Outcome {
                start: true,
                answer: 0,
                ..
            } => Next::Start,
            Outcome { answer, .. } => Next::Answer(answer),
        })
    }

    fn tell(&self, event: &Event) -> Result<(), Error> {
        let Some(events) = &self.events else {
            return Ok(());
        };
        let mut file = events.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut *file, event).map_err(Error::os("write an event"))
    }
}

/// One line in one write: in a file that others append to, it stays whole.
fn write(file: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    file.write_all(&line)
}

fn decide(policy: &Policy, exit: &Exit) -> Next {
    match exit.kind {
        HEKI_EXIT_REQUEST => match policy.consent(exit.op) {
            Consent::Allow | Consent::Report => Next::Answer(0),
            Consent::Deny => Next::Answer(KVM_EPERM as u32),
        },
        HEKI_EXIT_DENIAL if exit.flags & HEKI_EXIT_IS_PAUSE != 0 => Next::Stop,
        HEKI_EXIT_PAUSED => Next::Wait,
        _ => Next::Run,
    }
}

fn event(exit: &Exit, next: Next) -> Option<Event> {
    match exit.kind {
        HEKI_EXIT_REQUEST => Some(request(exit, next == Next::Answer(0))),
        HEKI_EXIT_DENIAL => Some(denial(exit, next == Next::Stop)),
        _ => None,
    }
}

fn request(exit: &Exit, allowed: bool) -> Event {
    let is_seal = exit.op == HEKI_OP_SEAL;
    let is_patch = exit.op == HEKI_OP_PATCH;
    Event::Request {
        vcpu: exit.vcpu,
        rip: hex(exit.rip),
        operation: match exit.op {
            HEKI_OP_SEAL => "seal",
            HEKI_OP_PATCH => "patch",
            HEKI_OP_GRANT => "grant",
            HEKI_OP_RELEASE => "release",
            _ => "unknown",
        },
        bytes: exit.len,
        exec: is_seal.then_some(exit.seal_flags & HEKI_SEAL_EXEC != 0),
        ranges: (!is_patch).then_some(exit.nr_ranges),
        pins: is_seal.then_some(exit.nr_pins),
        sites: is_patch.then_some(exit.nr_sites),
        allowed,
    }
}

fn kexec(exit: &Exit, outcome: &Outcome) -> Event {
    Event::Kexec {
        vcpu: exit.vcpu,
        rip: hex(exit.rip),
        step: if outcome.start { "start" } else { "load" },
        bytes: outcome.bytes,
        sha256: outcome.sum.map(|sum| sum.to_string()),
        allowed: outcome.answer == 0,
    }
}

fn denial(exit: &Exit, stop: bool) -> Event {
    let known = |flag| exit.flags & flag != 0;
    let (class, reason) = (class(exit.denied), reason(exit.reason));
    Event::Denial {
        vcpu: exit.vcpu,
        cpl: exit.cpl,
        rip: hex(exit.rip),
        class,
        reason,
        id: format!("{class}.{reason}"),
        gpa: known(HEKI_EXIT_HAS_GPA).then(|| hex(exit.gpa)),
        va: known(HEKI_EXIT_HAS_VA).then(|| hex(exit.va)),
        register: known(HEKI_EXIT_HAS_REG).then_some(exit.reg),
        index: known(HEKI_EXIT_HAS_REG).then(|| hex(exit.index.into())),
        bits: known(HEKI_EXIT_HAS_REG).then(|| hex(exit.bits)),
        value: known(HEKI_EXIT_HAS_REG).then(|| hex(exit.value)),
        stop,
        learned: known(HEKI_EXIT_IS_LEARNED),
    }
}

/// The word for `HEKI_CLASS_*`, as in the policy file.
pub(crate) fn class(class: u32) -> &'static str {
    match class {
        HEKI_CLASS_WRITE => "write",
        HEKI_CLASS_EXEC => "exec",
        HEKI_CLASS_REGISTER => "registers",
        HEKI_CLASS_PATCH => "patch",
        _ => "unknown",
    }
}

/// The word for `HEKI_REASON_*`.
pub(crate) fn reason(reason: u32) -> &'static str {
    let word = usize::try_from(reason).ok().and_then(|at| REASONS.get(at));
    word.copied().unwrap_or("unknown")
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(exit: &Exit, next: Next) -> String {
        let mut out = Vec::new();
        write(&mut out, &event(exit, next).unwrap()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn words_are_those_of_the_abi() {
        let numbers = [
            (heki_abi::HEKI_REASON_SEALED, "sealed"),
            (heki_abi::HEKI_REASON_NOT_EXECUTABLE, "not_executable"),
            (heki_abi::HEKI_REASON_PAGE_WALK, "page_walk"),
            (heki_abi::HEKI_REASON_PINNED, "pinned"),
            (heki_abi::HEKI_REASON_UNLISTED, "unlisted"),
            (heki_abi::HEKI_REASON_FROZEN, "frozen"),
            (heki_abi::HEKI_REASON_FORM, "form"),
            (heki_abi::HEKI_REASON_TARGET, "target"),
            (heki_abi::HEKI_REASON_STALE, "stale"),
            (heki_abi::HEKI_REASON_CONTENT, "content"),
            (heki_abi::HEKI_REASON_KVM_WRITER, "kvm_writer"),
            (u32::MAX, "unknown"),
        ];
        for (number, word) in numbers {
            assert_eq!(reason(number), word);
        }
        assert_eq!(class(99), "unknown");
    }

    #[test]
    fn a_request_is_answered_and_told() {
        let exit = Exit {
            kind: HEKI_EXIT_REQUEST,
            vcpu: 1,
            rip: u64::MAX,
            op: HEKI_OP_SEAL,
            seal_flags: HEKI_SEAL_EXEC,
            nr_ranges: 3,
            nr_pins: 2,
            len: 152,
            ..Exit::default()
        };
        let next = decide(&Policy::default(), &exit);
        assert_eq!(next, Next::Answer(0));
        assert_eq!(
            line(&exit, next),
            "{\"event\":\"request\",\"vcpu\":1,\"rip\":\"0xffffffffffffffff\",\
             \"operation\":\"seal\",\"bytes\":152,\"exec\":true,\"ranges\":3,\"pins\":2,\
             \"allowed\":true}\n"
        );
        let unknown = Exit { op: 77, ..exit };
        let next = decide(&Policy::default(), &unknown);
        assert_eq!(next, Next::Answer(KVM_EPERM as u32));
        assert!(line(&unknown, next).contains("\"allowed\":false"));
    }

    #[test]
    fn events_go_to_a_socket() {
        use std::io::BufRead;
        use std::os::fd::AsRawFd;

        let name = format!("heki-monitor-{}", std::process::id());
        let policy = std::env::temp_dir().join(name);
        std::fs::write(&policy, "[denials]\nwrite = \"report\"").unwrap();
        let (there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        let events = format!("/dev/fd/{}", here.as_raw_fd());
        let monitor = Monitor::open(&policy, Some(Path::new(&events))).unwrap();
        std::fs::remove_file(&policy).unwrap();

        let memory = crate::memory::allocate(crate::memory::MIB, false).unwrap();
        let exit = Exit {
            kind: HEKI_EXIT_DENIAL,
            ..Exit::default()
        };
        assert_eq!(monitor.serve(&exit, &memory).unwrap(), Next::Run);
        let mut told = String::new();
        io::BufReader::new(there).read_line(&mut told).unwrap();
        assert_eq!(told, line(&exit, Next::Run));
    }

    #[test]
    fn a_kernel_is_told() {
        let exit = Exit {
            kind: HEKI_EXIT_REQUEST,
            op: HEKI_OP_KEXEC,
            rip: 16,
            ..Exit::default()
        };
        let line = |outcome| {
            let mut out = Vec::new();
            write(&mut out, &kexec(&exit, &outcome)).unwrap();
            String::from_utf8(out).unwrap()
        };
        let sum = "0123456789abcdef".repeat(4);
        let load = Outcome {
            answer: KVM_EPERM as u32,
            start: false,
            bytes: 7,
            sum: sum.clone().try_into().ok(),
        };
        let expected = format!(
            "{{\"event\":\"kexec\",\"vcpu\":0,\"rip\":\"0x10\",\"step\":\"load\",\"bytes\":7,\
             \"sha256\":\"{sum}\",\"allowed\":false}}\n"
        );
        assert_eq!(line(load), expected);
        let start = Outcome {
            answer: 0,
            start: true,
            bytes: 7,
            sum: None,
        };
        assert!(line(start).ends_with("\"step\":\"start\",\"bytes\":7,\"allowed\":true}\n"));
    }

    #[test]
    fn without_a_list_nothing_is_kept() {
        let memory = crate::memory::allocate(crate::memory::MIB, false).unwrap();
        let exit = Exit {
            kind: HEKI_EXIT_REQUEST,
            op: HEKI_OP_KEXEC,
            ..Exit::default()
        };
        let monitor = Monitor::default();
        let next = monitor.serve(&exit, &memory).unwrap();
        assert_eq!(next, Next::Answer(KVM_EOPNOTSUPP as u32));
        assert_eq!(monitor.take_started(), None);
    }

    #[test]
    fn a_denial_is_told_and_may_stop() {
        let exit = Exit {
            kind: HEKI_EXIT_DENIAL,
            flags: HEKI_EXIT_HAS_REG,
            denied: HEKI_CLASS_REGISTER,
            reason: heki_abi::HEKI_REASON_PINNED,
            bits: 1 << 16,
            value: 0x8000_0033,
            ..Exit::default()
        };
        let next = decide(&Policy::default(), &exit);
        assert_eq!(next, Next::Run);
        assert_eq!(
            line(&exit, next),
            "{\"event\":\"denial\",\"vcpu\":0,\"cpl\":0,\"rip\":\"0x0\",\"class\":\"registers\",\
             \"reason\":\"pinned\",\"id\":\"registers.pinned\",\"register\":0,\"index\":\"0x0\",\
             \"bits\":\"0x10000\",\"value\":\"0x80000033\",\"stop\":false}\n"
        );
        let exit = Exit {
            flags: HEKI_EXIT_HAS_GPA | HEKI_EXIT_IS_PAUSE,
            gpa: 0x1234,
            ..exit
        };
        let next = decide(&Policy::default(), &exit);
        assert_eq!(next, Next::Stop);
        assert!(line(&exit, next).contains("\"gpa\":\"0x1234\",\"stop\":true"));
    }

    #[test]
    fn what_is_learned_is_told_as_such() {
        let exit = Exit {
            kind: HEKI_EXIT_DENIAL,
            flags: HEKI_EXIT_HAS_GPA | HEKI_EXIT_IS_LEARNED,
            denied: HEKI_CLASS_EXEC,
            ..Exit::default()
        };
        let next = decide(&Policy::default(), &exit);
        assert_eq!(next, Next::Run);
        let line = line(&exit, next);
        assert!(
            line.ends_with("\"gpa\":\"0x0\",\"stop\":false,\"learned\":true}\n"),
            "{line}"
        );
    }

    #[test]
    fn a_pause_is_waited_for() {
        let exit = Exit {
            kind: HEKI_EXIT_PAUSED,
            ..Exit::default()
        };
        assert_eq!(decide(&Policy::default(), &exit), Next::Wait);
        assert!(event(&exit, Next::Wait).is_none());
    }
}

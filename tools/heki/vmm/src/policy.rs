// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The policy file: what the guest may use, which requests it may make, and what its denials do.
//!
//! `heki.rs` gives the host its part, `monitor.rs` decides by the rest. The format is described in
//! Documentation/admin-guide/heki.rst. Locks: none.

#![deny(unsafe_code)]

use std::path::{
    Path,
    PathBuf, //
};

use heki_abi::{
    HEKI_ABI_VERSION,
    HEKI_ACTION_EXIT,
    HEKI_ACTION_GP,
    HEKI_ACTION_LEARN,
    HEKI_ACTION_PAUSE,
    HEKI_MAX_KEXEC_BYTES,
    HEKI_OP_GRANT,
    HEKI_OP_KEXEC,
    HEKI_OP_PATCH,
    HEKI_OP_RELEASE,
    HEKI_OP_SEAL,
    HEKI_PROT_ALL,
    HEKI_PROT_CR,
    HEKI_PROT_DT,
    HEKI_PROT_EXEC,
    HEKI_PROT_MSR,
    HEKI_PROT_WRITE, //
};
use serde::Deserialize;
use toml::de::DeTable;

use crate::exit::Error;
use crate::files;
use crate::kexec::Sum;
use crate::memory::MIB;

/// Any policy is shorter.
const MAX_BYTES: u64 = 1 << 16;

/// A protection, by its name in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protection {
    Write,
    Exec,
    Registers,
    Msrs,
    Tables,
}

impl Protection {
    const fn abi(self) -> u32 {
        match self {
            Protection::Write => HEKI_PROT_WRITE,
            Protection::Exec => HEKI_PROT_EXEC,
            Protection::Registers => HEKI_PROT_CR,
            Protection::Msrs => HEKI_PROT_MSR,
            Protection::Tables => HEKI_PROT_DT,
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consent {
    /// The host judges it alone.
    #[default]
    Allow,
    /// The same, but it becomes an event first.
    Report,
    /// It is refused.
    Deny,
}

/// What a denial does, besides the error that the guest gets, but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Nothing.
    #[default]
    Gp,
    /// It becomes an event.
    Report,
    /// It becomes an event, and ends the run; the guest runs not one instruction more.
    Stop,
    /// It becomes an event, and happens all the same: nothing is protected.
    Learn,
}

impl Action {
    const fn abi(self) -> u32 {
        match self {
            Action::Gp => HEKI_ACTION_GP,
            Action::Report => HEKI_ACTION_EXIT,
            Action::Stop => HEKI_ACTION_PAUSE,
            Action::Learn => HEKI_ACTION_LEARN,
        }
    }
}

/// The table `[requests]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Requests {
    seal: Consent,
    patch: Consent,
    grant: Consent,
    release: Consent,
}

/// The table `[denials]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Denials {
    write: Action,
    exec: Action,
    registers: Action,
    patch: Action,
}

/// The table `[kexec]`: kernels that a sealed guest may start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kexec {
    sha256: Vec<Sum>,
    #[serde(default = "Kexec::default_max")]
    max_mib: u64,
}

impl Kexec {
    /// Any kernel is smaller.
    const fn default_max() -> u64 {
        64
    }

    /// The kernels with these sums, up to so many MiB each.
    #[cfg(test)]
    pub(crate) fn new(sha256: Vec<Sum>, max_mib: u64) -> Self {
        Kexec { sha256, max_mib }
    }

    /// Whether a kernel with this sum may be started.
    pub(crate) fn has(&self, sum: &Sum) -> bool {
        self.sha256.contains(sum)
    }

    /// How large a kernel may be.
    pub(crate) fn max_mib(&self) -> u64 {
        self.max_mib
    }

    fn check(&self) -> Result<(), Conflict> {
        let most = u64::from(HEKI_MAX_KEXEC_BYTES) / MIB;
        if self.sha256.is_empty() {
            return conflict("kexec.sha256", "kexec: sha256 lists no kernel");
        }
        if !(1..=most).contains(&self.max_mib) {
            return conflict(
                "kexec.max_mib",
                &format!("kexec: max_mib is from 1 to {most}"),
            );
        }
        Ok(())
    }
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Policy {
    allow: Option<Vec<Protection>>,
    require: Vec<Protection>,
    requests: Requests,
    denials: Denials,
    kexec: Option<Kexec>,
    /// This process hears of each change of rights, whatever the file says.
    #[serde(skip)]
    rights_followed: bool,
}

/// What is wrong with a policy file, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Flaw(String);

impl Flaw {
    /// A flaw that begins at byte `at` of the file, if that is known.
    fn new(text: &str, at: Option<usize>, what: &str) -> Self {
        match at.and_then(|at| text.get(..at)) {
            Some(before) => {
                let line = before.matches('\n').count() + 1;
                Flaw(format!("line {line}: {what}"))
            }
            None => Flaw(what.into()),
        }
    }
}

/// What a policy, each part of which is good, contradicts itself with.
struct Conflict {
    /// The key whose value could be another, as "table.key".
    key: String,
    what: String,
}

fn conflict(key: &str, what: &str) -> Result<(), Conflict> {
    Err(Conflict {
        key: key.into(),
        what: what.into(),
    })
}

impl Policy {
    /// Reads the policy in the file `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let text = files::read_text("policy", path, MAX_BYTES)?;
        Self::parse(&text).map_err(|flaw| Error::Policy {
            path: PathBuf::from(path),
            flaw,
        })
    }

    fn parse(text: &str) -> Result<Self, Flaw> {
        if text.len() as u64 >= MAX_BYTES {
            return Err(Flaw(format!("it has {MAX_BYTES} bytes or more")));
        }
        let policy: Self = toml::from_str(text).map_err(|error| {
            let what = error.message().replace('\n', ", ");
            Flaw::new(text, error.span().map(|span| span.start), &what)
        })?;
        policy
            .check()
            .map_err(|conflict| Flaw::new(text, position(text, &conflict.key), &conflict.what))?;
        Ok(policy)
    }

    /// Whether its parts go together.
    fn check(&self) -> Result<(), Conflict> {
        let allowed = self.allowed();
        let needed = HEKI_PROT_WRITE | HEKI_PROT_CR;
        if allowed & HEKI_PROT_EXEC != 0 && allowed & needed != needed {
            return conflict("allow", "allow: exec needs write and registers");
        }
        if self.required() & !allowed != 0 {
            return conflict("require", "require: lists what allow does not");
        }
        self.kexec.as_ref().map_or(Ok(()), Kexec::check)?;
        self.check_learning()
    }

    /// Each class of denials: what it does, its name in the file, and the protections that rest on it.
    fn classes(&self) -> [(Action, &'static str, u32); 4] {
        let Denials {
            write,
            exec,
            registers,
            patch,
        } = self.denials;
        let of_registers = HEKI_PROT_CR | HEKI_PROT_MSR | HEKI_PROT_DT;
        [
            (write, "write", HEKI_PROT_WRITE),
            (exec, "exec", HEKI_PROT_EXEC),
            (registers, "registers", of_registers),
            (patch, "patch", 0),
        ]
    }

    /// What is held must not rest on what is only learned, and what is required must be held.
    fn check_learning(&self) -> Result<(), Conflict> {
        let learns = |action| action == Action::Learn;
        if learns(self.denials.patch) && !learns(self.denials.write) {
            return conflict("denials.patch", "denials: patch learns, so write has to");
        }
        let exec_holds = self.allowed() & HEKI_PROT_EXEC != 0 && !learns(self.denials.exec);
        if let Some(class) = self.learning().first().filter(|_| exec_holds) {
            let what =
                format!("denials: {class} learns, so exec has to, or allow must not list it");
            return conflict(&format!("denials.{class}"), &what);
        }
        for (action, _, protections) in self.classes() {
            if learns(action) && self.required() & protections != 0 {
                return conflict("require", "require: lists what denials only learns");
            }
        }
        Ok(())
    }

    /// The classes of denials that are reported and allowed, by their names in the file.
    pub(crate) fn learning(&self) -> Vec<&'static str> {
        self.classes()
            .into_iter()
            .filter(|&(action, ..)| action == Action::Learn)
            .map(|(_, name, _)| name)
            .collect()
    }

    fn learns(&self) -> bool {
        !self.learning().is_empty()
    }

    /// Whether the guest, and so its devices, may write what it sealed.
    pub(crate) fn learns_writes(&self) -> bool {
        self.denials.write == Action::Learn
    }

    /// `HEKI_PROT_*` that the guest may ask for; all if the file does not say.
    fn allowed(&self) -> u32 {
        match &self.allow {
            Some(list) => union(list),
            None => HEKI_PROT_ALL,
        }
    }

    /// `HEKI_PROT_*` without which the guest is not to run.
    pub(crate) fn required(&self) -> u32 {
        union(&self.require)
    }

    /// What becomes of operation `op` (`HEKI_OP_*`). What is unknown is refused.
    pub(crate) fn consent(&self, op: u32) -> Consent {
        match op {
            HEKI_OP_SEAL => self.requests.seal,
            HEKI_OP_PATCH => self.requests.patch,
            HEKI_OP_GRANT => self.requests.grant,
            HEKI_OP_RELEASE => self.requests.release,
            _ => Consent::Deny,
        }
    }

    /// The kernels that a sealed guest may start, if it may start any.
    pub(crate) fn kexec(&self) -> Option<&Kexec> {
        self.kexec.as_ref()
    }

    /// Has the host ask before each change of rights, even where the answer is yes.
    pub(crate) fn follow_rights(&mut self) {
        self.rights_followed = true;
    }

    /// Whether the host asks about operation `op`.
    fn is_asked(&self, op: u32) -> bool {
        self.consent(op) != Consent::Allow || (self.rights_followed && op != HEKI_OP_PATCH)
    }

    /// Whether anything becomes an event that is nothing else besides.
    pub(crate) fn reports(&self) -> bool {
        let Denials {
            write,
            exec,
            registers,
            patch,
        } = self.denials;
        OPERATIONS
            .iter()
            .any(|&op| self.consent(op) == Consent::Report)
            || [write, exec, registers, patch].contains(&Action::Report)
            || self.learns()
    }

    /// The host's part.
    pub(crate) fn abi(&self) -> heki_abi::Policy {
        let asked = OPERATIONS.iter().filter(|&&op| self.is_asked(op));
        let kexec = self.kexec.as_ref().map(|_| &HEKI_OP_KEXEC);
        heki_abi::Policy {
            version: HEKI_ABI_VERSION,
            allowed: self.allowed(),
            consent: asked.chain(kexec).fold(0, |bits, op| bits | 1 << op),
            write: self.denials.write.abi(),
            exec: self.denials.exec.abi(),
            reg: self.denials.registers.abi(),
            patch: self.denials.patch.abi(),
            reserved: 0,
        }
    }
}

/// The operations that the table `[requests]` can name.
const OPERATIONS: [u32; 4] = [HEKI_OP_SEAL, HEKI_OP_PATCH, HEKI_OP_GRANT, HEKI_OP_RELEASE];

fn union(list: &[Protection]) -> u32 {
    list.iter().fold(0, |bits, one| bits | one.abi())
}

/// The names in the file of those `protections` (`HEKI_PROT_*`).
pub(crate) fn names(protections: u32) -> String {
    let all = [
        (HEKI_PROT_WRITE, "write"),
        (HEKI_PROT_EXEC, "exec"),
        (HEKI_PROT_CR, "registers"),
        (HEKI_PROT_MSR, "msrs"),
        (HEKI_PROT_DT, "tables"),
    ];
    let names: Vec<_> = all
        .into_iter()
        .filter(|(bit, _)| protections & bit != 0)
        .map(|(_, name)| name)
        .collect();
    names.join(", ")
}

/// Where the `key`, as "table.key", begins in the `text` of a file that was read.
fn position(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut at) = (Some(root.get_ref()), None);
    for part in key.split('.') {
        let (key, value) = table?.get_key_value(part)?;
        at = Some(key.span().start);
        table = value.get_ref().as_table();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Policy::parse(text)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn mistakes_are_named_by_line() {
        let text = refusal("[requests]\nseal = \"allow\"\nseel = \"deny\"\n");
        assert!(
            text.starts_with("line 3: ") && text.contains("seel"),
            "{text}"
        );
        let text = refusal("\n[denials]\nwrite = \"kill\"\n");
        assert!(
            text.starts_with("line 3: ") && text.contains("kill"),
            "{text}"
        );
        let text = refusal("allow = [\"write\",\n \"everything\"]");
        assert!(
            text.starts_with("line 2: ") && text.contains("everything"),
            "{text}"
        );
        assert!(refusal("a\nb = 1").starts_with("line 1: "));
        assert!(refusal("[request]").contains("request"));
        assert!(refusal("allow = 7").starts_with("line 1: "));
        assert!(!refusal("allow = \"\"\"\n\nx\n\"\"\"").contains('\n'));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(refusal("allow = [\"exec\"]").contains("exec needs"));
        assert!(refusal("allow = [\"exec\", \"write\"]").contains("exec needs"));
        let text = "allow = [\"write\"]\nrequire = [\"registers\"]";
        assert!(refusal(text).contains("require"));
        assert!(refusal(&" ".repeat(MAX_BYTES as usize)).contains("bytes"));
    }

    #[test]
    fn contradictions_are_named_by_line() {
        for (text, expected) in [
            ("\nallow = [\n\"exec\"]", "line 2: allow: "),
            (
                "require = [\"exec\"]\nallow = []",
                "line 1: require: lists what allow",
            ),
            (
                "# No kernel.\n[kexec]\nsha256 = []",
                "line 3: kexec: sha256 ",
            ),
            (
                "[denials]\nwrite = \"gp\"\n\npatch = \"learn\"",
                "line 4: denials: patch ",
            ),
            (
                "[denials]\nexec = \"gp\"\nregisters = \"learn\"",
                "line 3: denials: registers learns, so exec ",
            ),
            (
                "# Not sealed.\ndenials.exec = \"learn\"\nrequire = [\"exec\"]",
                "line 3: require: lists what denials ",
            ),
            (
                "\ndenials = { exec = \"learn\", patch = \"learn\" }",
                "line 2: denials: patch ",
            ),
            (
                "\n\"denials\".\"patch\" = \"learn\"",
                "line 2: denials: patch ",
            ),
        ] {
            let refusal = refusal(text);
            assert!(refusal.starts_with(expected), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_key_that_is_not_there_has_no_position() {
        for key in ["require", "denials.patch", "allow.patch", ""] {
            assert_eq!(position("allow = []\n[denials]\nexec = \"gp\"", key), None);
        }
        assert_eq!(Flaw::new("x", None, "y").to_string(), "y");
    }

    #[test]
    fn learning_is_whole_and_said() {
        assert!(refusal("[denials]\npatch = \"learn\"").contains("patch learns"));
        for class in ["write", "registers"] {
            let text = format!("[denials]\n{class} = \"learn\"");
            assert!(refusal(&text).contains("exec has to"), "{text}");
            let text = format!("allow = [\"write\", \"registers\", \"msrs\"]\n{text}");
            let policy = Policy::parse(&text).unwrap();
            assert_eq!(policy.learning(), [class]);
            assert!(policy.reports());
            let text = format!("require = [\"{class}\"]\n{text}");
            assert!(refusal(&text).contains("only learns"), "{text}");
        }
        let text = "[denials]\nwrite = \"learn\"\nexec = \"learn\"\nregisters = \"learn\"\npatch = \"learn\"";
        let policy = Policy::parse(text).unwrap();
        assert_eq!(policy.learning(), ["write", "exec", "registers", "patch"]);
        assert!(policy.learns_writes());
        let wire = policy.abi();
        let actions = [wire.write, wire.exec, wire.reg, wire.patch];
        assert_eq!(actions, [HEKI_ACTION_LEARN; 4]);
        assert!(Policy::default().learning().is_empty() && !Policy::default().learns_writes());
    }

    #[test]
    fn an_empty_file_is_the_policy_of_a_vm_without_one() {
        let policy = Policy::parse("").unwrap();
        assert_eq!(policy, Policy::default());
        assert!(!policy.reports());
        let expected = heki_abi::Policy {
            version: HEKI_ABI_VERSION,
            allowed: HEKI_PROT_ALL,
            consent: 0,
            write: HEKI_ACTION_GP,
            exec: HEKI_ACTION_GP,
            reg: HEKI_ACTION_GP,
            patch: HEKI_ACTION_GP,
            reserved: 0,
        };
        assert_eq!(policy.abi(), expected);
    }

    #[test]
    fn everything_can_be_said() {
        let text = "
            allow = [\"registers\", \"write\"]  # no allow-list
            require = [\"write\"]
            [requests]
            seal = \"report\"
            grant = \"deny\"
            [denials]
            write = \"stop\"
            registers = \"report\"
        ";
        let policy = Policy::parse(text).unwrap();
        let wire = policy.abi();
        assert_eq!(wire.allowed, HEKI_PROT_WRITE | HEKI_PROT_CR);
        assert_eq!(policy.required(), HEKI_PROT_WRITE);
        assert_eq!(wire.consent, 1 << HEKI_OP_SEAL | 1 << HEKI_OP_GRANT);
        assert_eq!(
            (wire.write, wire.reg),
            (HEKI_ACTION_PAUSE, HEKI_ACTION_EXIT)
        );
        assert_eq!((wire.exec, wire.patch), (HEKI_ACTION_GP, HEKI_ACTION_GP));
        assert_eq!(policy.consent(HEKI_OP_SEAL), Consent::Report);
        assert_eq!(policy.consent(HEKI_OP_GRANT), Consent::Deny);
        assert_eq!(policy.consent(HEKI_OP_PATCH), Consent::Allow);
        assert_eq!(policy.consent(77), Consent::Deny);
        assert!(policy.reports());
        assert!(!Policy::parse("[requests]\nseal = \"deny\"")
            .unwrap()
            .reports());
        assert_eq!(names(HEKI_PROT_ALL), "write, exec, registers, msrs, tables");
    }

    #[test]
    fn changes_of_rights_are_followed() {
        let mut policy = Policy::parse("[requests]\npatch = \"deny\"").unwrap();
        let patch = 1 << HEKI_OP_PATCH;
        assert_eq!(policy.abi().consent, patch);
        policy.follow_rights();
        let others = 1 << HEKI_OP_SEAL | 1 << HEKI_OP_GRANT | 1 << HEKI_OP_RELEASE;
        assert_eq!(policy.abi().consent, patch | others);
        assert_eq!(policy.consent(HEKI_OP_SEAL), Consent::Allow);
        assert!(!policy.reports());
    }

    #[test]
    fn kernels_are_listed() {
        let sum = "0123456789abcdef".repeat(4);
        let policy = |more: &str| format!("[kexec]\nsha256 = [\"{sum}\"]\n{more}");
        let good = Policy::parse(&policy("")).unwrap();
        assert_eq!(good.abi().consent, 1 << HEKI_OP_KEXEC);
        assert!(!good.reports());
        let kexec = good.kexec().unwrap();
        assert_eq!(kexec.max_mib(), 64);
        assert!(kexec.has(&Sum::try_from(sum.clone()).unwrap()));
        assert!(!kexec.has(&Sum::try_from("0".repeat(64)).unwrap()));
        assert!(Policy::parse(&policy("max_mib = 256")).is_ok());
        assert_eq!(Policy::default().kexec(), None);

        for more in ["max_mib = 0", "max_mib = 257"] {
            let text = refusal(&policy(more));
            assert_eq!(text, "line 3: kexec: max_mib is from 1 to 256");
        }
        assert!(refusal(&policy("max_mib = -1")).starts_with("line 3: "));
        assert!(refusal(&policy("sha1 = []")).starts_with("line 3: "));
        assert!(refusal("[kexec]").contains("sha256"));
        assert!(refusal("[kexec]\nsha256 = []").contains("no kernel"));
        let text = refusal("[kexec]\nsha256 = [\n\"12\"]");
        assert!(text.starts_with("line 2: \"12\": "), "{text}");
    }

    #[test]
    fn nothing_may_be_allowed() {
        assert_eq!(Policy::parse("allow = []").unwrap().abi().allowed, 0);
    }
}

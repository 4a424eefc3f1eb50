// SPDX-License-Identifier: GPL-2.0

//! What the VMM decides: its policy, and its answer to a request.
//!
//! Neighbours: `abi` for the layout, [`request`](super::request) for the SEAL that a policy is held
//! against, [`verdict`](super::verdict) for the classes of denials. Locks: none.

use super::{
    abi,
    refusal::Refusal,
    registers,
    request::Request,
    rights::Rights,
    verdict::Access, //
};

/// The operations that consent can be asked for, as bits `1 << HEKI_OP_*`.
pub const CONSENT: u32 = 1 << abi::HEKI_OP_SEAL
    | 1 << abi::HEKI_OP_PATCH
    | 1 << abi::HEKI_OP_GRANT
    | 1 << abi::HEKI_OP_RELEASE
    | 1 << abi::HEKI_OP_KEXEC;

/// Each class of denials: what the guest tried, `1 << HEKI_CLASS_*`, its name behind a blank.
const CLASSES: [(Access, u32, &str); 4] = [
    (Access::Write, 1 << abi::HEKI_CLASS_WRITE, " write"),
    (Access::Fetch, 1 << abi::HEKI_CLASS_EXEC, " exec"),
    (
        Access::Register,
        1 << abi::HEKI_CLASS_REGISTER,
        " registers",
    ),
    (Access::Patch, 1 << abi::HEKI_CLASS_PATCH, " patch"),
];

/// What a denial does, besides the error that the guest gets, but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    #[default]
    Gp,
    /// It exits to the VMM.
    Exit,
    /// It exits to the VMM, and no vCPU runs until the VMM says so.
    Pause,
    /// It exits to the VMM, and what was denied happens: nothing is protected.
    Learn,
}

impl Action {
    const fn from_abi(action: u32) -> Option<Self> {
        match action {
            abi::HEKI_ACTION_GP => Some(Self::Gp),
            abi::HEKI_ACTION_EXIT => Some(Self::Exit),
            abi::HEKI_ACTION_PAUSE => Some(Self::Pause),
            abi::HEKI_ACTION_LEARN => Some(Self::Learn),
            _ => None,
        }
    }

    const fn abi(self) -> u32 {
        match self {
            Self::Gp => abi::HEKI_ACTION_GP,
            Self::Exit => abi::HEKI_ACTION_EXIT,
            Self::Pause => abi::HEKI_ACTION_PAUSE,
            Self::Learn => abi::HEKI_ACTION_LEARN,
        }
    }
}

/// A policy that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPolicy;

/// A VMM's policy for its VM.
///
/// # Invariants
///
/// All bits are known, execution is allowed only together with all that it takes, and what is not
/// learned does not rest on what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    allowed: u32,
    consent: u32,
    write: Action,
    exec: Action,
    register: Action,
    patch: Action,
}

impl Default for Policy {
    /// The policy of a VM whose VMM gave none: everything is allowed, and nothing exits.
    fn default() -> Self {
        // INVARIANT: Everything is allowed.
        Self {
            allowed: abi::HEKI_PROT_ALL,
            consent: 0,
            write: Action::Gp,
            exec: Action::Gp,
            register: Action::Gp,
            patch: Action::Gp,
        }
    }
}

impl Policy {
    /// Checks what the VMM wrote.
    ///
    /// # Errors
    ///
    /// [`BadPolicy`] for another version, for what this version does not know, for execution without
    /// writes and registers: memory that runs is not written, and SMEP must be pinned; and for
    /// a class that holds only as long as one that learns does.
    pub fn parse(wire: &abi::Policy) -> Result<Self, BadPolicy> {
        let exec_needs = abi::HEKI_PROT_WRITE | abi::HEKI_PROT_CR;
        let known = wire.version == abi::HEKI_ABI_VERSION
            && wire.allowed & !abi::HEKI_PROT_ALL == 0
            && wire.consent & !CONSENT == 0
            && wire.reserved == 0;
        let whole =
            wire.allowed & abi::HEKI_PROT_EXEC == 0 || wire.allowed & exec_needs == exec_needs;
        if !known || !whole {
            return Err(BadPolicy);
        }
        let action = |action| Action::from_abi(action).ok_or(BadPolicy);
        let policy = Self {
            allowed: wire.allowed,
            consent: wire.consent,
            write: action(wire.write)?,
            exec: action(wire.exec)?,
            register: action(wire.reg)?,
            patch: action(wire.patch)?,
        };
        if !policy.is_consistent() {
            return Err(BadPolicy);
        }
        // INVARIANT: Checked above.
        Ok(policy)
    }

    /// Whether nothing that is held can be undone by what is learned. Text that runs would be written
    /// or run without SMEP, and sealed text be changed by request.
    fn is_consistent(&self) -> bool {
        let exec_holds = self.allows(abi::HEKI_PROT_EXEC) && !self.learns(Access::Fetch);
        let write_holds = !self.learns(Access::Write);
        let is_undone =
            (exec_holds && self.learning() != 0) || (write_holds && self.learns(Access::Patch));
        !is_undone
    }

    /// Whether denials of this class are reported and allowed.
    pub fn learns(&self, access: Access) -> bool {
        let action = match access {
            Access::Write => self.write,
            Access::Fetch => self.exec,
            Access::Register => self.register,
            Access::Patch => self.patch,
        };
        action == Action::Learn
    }

    /// The classes that learn, as bits `1 << HEKI_CLASS_*`.
    pub fn learning(&self) -> u32 {
        CLASSES
            .into_iter()
            .filter(|(access, ..)| self.learns(*access))
            .fold(0, |bits, (_, class, _)| bits | class)
    }

    /// The names of the classes that learn, each behind a blank, and nothing for the others.
    pub fn learning_words(&self) -> [&'static str; 4] {
        CLASSES.map(|(access, _, word)| if self.learns(access) { word } else { "" })
    }

    /// The rights to memory that are learned.
    pub fn learned_rights(&self) -> Rights {
        Rights::new(self.learns(Access::Write), self.learns(Access::Fetch))
    }

    /// Those of the `protections` (`HEKI_PROT_*`) that hold because their class does not learn.
    pub fn holding(&self, protections: u32) -> u32 {
        let registers = abi::HEKI_PROT_CR | abi::HEKI_PROT_MSR | abi::HEKI_PROT_DT;
        [
            (Access::Write, abi::HEKI_PROT_WRITE),
            (Access::Fetch, abi::HEKI_PROT_EXEC),
            (Access::Register, registers),
        ]
        .into_iter()
        .filter(|(access, _)| self.learns(*access))
        .fold(protections, |left, (_, lost)| left & !lost)
    }

    /// The policy as [`Self::parse`] takes it.
    pub const fn abi(&self) -> abi::Policy {
        abi::Policy {
            version: abi::HEKI_ABI_VERSION,
            allowed: self.allowed,
            consent: self.consent,
            write: self.write.abi(),
            exec: self.exec.abi(),
            reg: self.register.abi(),
            patch: self.patch.abi(),
            reserved: 0,
        }
    }

    /// Whether the guest may ask for all of the `protections` (`HEKI_PROT_*`).
    pub const fn allows(&self, protections: u32) -> bool {
        protections & !self.allowed == 0
    }

    /// Those of the `protections` (`HEKI_PROT_*`) that the guest may ask for.
    pub const fn allowed(&self, protections: u32) -> u32 {
        protections & self.allowed
    }

    /// Whether the VMM is to be asked about operation `op` (`HEKI_OP_*`).
    pub const fn asks(&self, op: u32) -> bool {
        match 1u32.checked_shl(op) {
            Some(bit) => self.consent & bit != 0,
            None => false,
        }
    }

    /// `HEKI_SERVES_*`: what the guest may ask for because the VMM serves it.
    pub const fn serves(&self) -> u32 {
        if self.asks(abi::HEKI_OP_KEXEC) {
            abi::HEKI_SERVES_KEXEC
        } else {
            0
        }
    }

    /// Holds a SEAL against the policy.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAllowed`] if it takes a protection that the guest may not ask for.
    pub fn check(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let mut taken = 0;
        if request.ranges().any(|range| !range.rights.write()) {
            taken |= abi::HEKI_PROT_WRITE;
        }
        if request.exec() {
            taken |= abi::HEKI_PROT_EXEC;
        }
        if !request.pins().is_empty() {
            taken |= abi::HEKI_PROT_CR;
        }
        for pin in request.kept() {
            taken |= registers::protection(pin.reg);
        }
        if self.allows(taken) {
            Ok(())
        } else {
            Err(Refusal::NotAllowed)
        }
    }
}

/// What the VMM answers to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It may take effect.
    Allow,
    /// It may not; the guest gets this `KVM_E*`.
    Deny(i64),
}

impl Answer {
    /// What `answer` in an [`abi::Exit`] means. All that it should not be is a denial.
    pub const fn parse(answer: u32) -> Self {
        match answer as i64 {
            0 => Self::Allow,
            errno @ (abi::KVM_E2BIG | abi::KVM_EINVAL | abi::KVM_EOPNOTSUPP) => Self::Deny(errno),
            _ => Self::Deny(abi::KVM_EPERM),
        }
    }
}

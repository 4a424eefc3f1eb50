// SPDX-License-Identifier: GPL-2.0

//! Why a request is refused: one word for the log, one error for the guest.
//!
//! Neighbours: everyone who refuses. Locks: none.

/// Errors of KVM's hypercalls, as positive numbers (`include/uapi/linux/kvm_para.h`).
const KVM_EPERM: i64 = 1;
const KVM_E2BIG: i64 = 7;
const KVM_EFAULT: i64 = 14;
const KVM_EINVAL: i64 = 22;
const KVM_EOPNOTSUPP: i64 = 95;
const KVM_ENOSYS: i64 = 1000;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More bytes, ranges or pins than one request may have.
    TooBig,
    /// The length is not that of the header and its arrays.
    BadLength,
    /// A version other than the host's.
    BadVersion,
    /// Unknown flags.
    BadFlags,
    /// A reserved field that is not zero.
    BadReserved,
    /// A range that does not start or end on a page.
    Unaligned,
    /// A range without bytes, or a request without ranges and pins.
    Empty,
    /// A range that ends beyond the last guest physical address.
    Overflow,
    /// Two ranges share a page.
    Overlap,
    /// Unknown rights.
    BadRights,
    /// Unknown kind.
    BadKind,
    /// A range that could be both written and run.
    WriteAndExec,
    /// An execution allow-list that lists nothing.
    NoExec,
    /// A range that is not the VM's memory.
    NotMemory,
    /// An unknown register.
    BadRegister,
    /// Two pins of one register.
    DuplicatePin,
    /// A pin without bits.
    EmptyPin,
    /// A pin of a bit that is clear on the vCPU that asks.
    PinNotSet,
    /// A pin of a bit that this host cannot pin.
    PinUnsupported,
    /// A pin of CR4.CET without one of CR0.WP: the CPU has no CET without WP.
    CetNeedsWp,
    /// An execution allow-list without a pin of CR4.SMEP: without SMEP supervisor mode runs user
    /// pages.
    ExecNeedsSmep,
    /// An execution allow-list, which this host cannot enforce.
    ExecUnsupported,
    /// The VM is not opted in.
    NotOptedIn,
    /// The VM is sealed already.
    AlreadySealed,
    /// The host has no memory for the request.
    NoMemory,
    /// Guest memory that should hold the block cannot be read or written.
    Fault,
    /// An unknown operation.
    BadOperation,
}

impl Refusal {
    /// A short name that traces and scripts can rely on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooBig => "too_big",
            Self::BadLength => "bad_length",
            Self::BadVersion => "bad_version",
            Self::BadFlags => "bad_flags",
            Self::BadReserved => "bad_reserved",
            Self::Unaligned => "unaligned",
            Self::Empty => "empty",
            Self::Overflow => "overflow",
            Self::Overlap => "overlap",
            Self::BadRights => "bad_rights",
            Self::BadKind => "bad_kind",
            Self::WriteAndExec => "write_and_exec",
            Self::NoExec => "no_exec",
            Self::NotMemory => "not_memory",
            Self::BadRegister => "bad_register",
            Self::DuplicatePin => "duplicate_pin",
            Self::EmptyPin => "empty_pin",
            Self::PinNotSet => "pin_not_set",
            Self::PinUnsupported => "pin_unsupported",
            Self::CetNeedsWp => "cet_needs_wp",
            Self::ExecNeedsSmep => "exec_needs_smep",
            Self::ExecUnsupported => "exec_unsupported",
            Self::NotOptedIn => "not_opted_in",
            Self::AlreadySealed => "already_sealed",
            Self::NoMemory => "no_memory",
            Self::Fault => "fault",
            Self::BadOperation => "bad_operation",
        }
    }

    /// The `KVM_E*` that the guest is told, as a positive number.
    ///
    /// KVM's hypercalls know no ENOMEM: without memory the request is too big for this host.
    pub const fn kvm_errno(self) -> i64 {
        match self {
            Self::TooBig | Self::NoMemory => KVM_E2BIG,
            Self::AlreadySealed => KVM_EPERM,
            Self::ExecUnsupported | Self::PinUnsupported => KVM_EOPNOTSUPP,
            Self::Fault => KVM_EFAULT,
            Self::NotOptedIn | Self::BadOperation => KVM_ENOSYS,
            Self::BadLength
            | Self::BadVersion
            | Self::BadFlags
            | Self::BadReserved
            | Self::Unaligned
            | Self::Empty
            | Self::Overflow
            | Self::Overlap
            | Self::BadRights
            | Self::BadKind
            | Self::WriteAndExec
            | Self::NoExec
            | Self::NotMemory
            | Self::BadRegister
            | Self::DuplicatePin
            | Self::EmptyPin
            | Self::PinNotSet
            | Self::CetNeedsWp
            | Self::ExecNeedsSmep => KVM_EINVAL,
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Why a request is refused: one word for the log, one error for the guest.
//!
//! Neighbours: everyone who refuses; `abi` for the errors. Locks: none.

use super::abi;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More than one request, or one VM, may have.
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
    /// A range without bytes, or a request for nothing.
    Empty,
    /// A range that ends beyond the last guest physical or virtual address.
    Overflow,
    /// Two ranges share a page, or an address.
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
    /// An area of unknown kind or length, or a second one of its kind.
    BadArea,
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
    /// A pin of a shadow stack pointer that XRSTORS could still load.
    SspNeedsXss,
    /// An execution allow-list without a pin of CR4.SMEP: without SMEP supervisor mode runs user
    /// pages.
    ExecNeedsSmep,
    /// An execution allow-list, which this host cannot enforce.
    ExecUnsupported,
    /// The VM is not opted in.
    NotOptedIn,
    /// The VM is sealed already.
    AlreadySealed,
    /// A profile that contradicts itself.
    BadProfile,
    /// The guest's kernel is not the one of the VMM's profile.
    WrongKernel,
    /// A change of sealed text, or a KEXEC, in a VM that is not sealed.
    NotSealed,
    /// The host has no memory for the request.
    NoMemory,
    /// Guest memory that should hold the block cannot be read or written.
    Fault,
    /// An unknown operation.
    BadOperation,
    /// A protection, or a KEXEC, that the VMM's policy does not allow.
    NotAllowed,
    /// The VMM was asked, and did not consent.
    NoConsent,
    /// A saved state that does not begin as one.
    BadMagic,
    /// A record of a saved state that is unknown, missing, out of order or makes no sense.
    BadRecord,
    /// A saved state with a vCPU that this VM does not have.
    NoVcpu,
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
            Self::BadArea => "bad_area",
            Self::BadRegister => "bad_register",
            Self::DuplicatePin => "duplicate_pin",
            Self::EmptyPin => "empty_pin",
            Self::PinNotSet => "pin_not_set",
            Self::PinUnsupported => "pin_unsupported",
            Self::CetNeedsWp => "cet_needs_wp",
            Self::SspNeedsXss => "ssp_needs_xss",
            Self::ExecNeedsSmep => "exec_needs_smep",
            Self::ExecUnsupported => "exec_unsupported",
            Self::NotOptedIn => "not_opted_in",
            Self::AlreadySealed => "already_sealed",
            Self::BadProfile => "bad_profile",
            Self::WrongKernel => "wrong_kernel",
            Self::NotSealed => "not_sealed",
            Self::NoMemory => "no_memory",
            Self::Fault => "fault",
            Self::BadOperation => "bad_operation",
            Self::NotAllowed => "not_allowed",
            Self::NoConsent => "no_consent",
            Self::BadMagic => "bad_magic",
            Self::BadRecord => "bad_record",
            Self::NoVcpu => "no_vcpu",
        }
    }

    /// The `KVM_E*` that the guest is told, as a positive number.
    ///
    /// KVM's hypercalls know no ENOMEM: without memory the request is too big for this host.
    pub const fn kvm_errno(self) -> i64 {
        match self {
            Self::TooBig | Self::NoMemory => abi::KVM_E2BIG,
            Self::AlreadySealed | Self::WrongKernel | Self::NotSealed | Self::NoConsent => {
                abi::KVM_EPERM
            }
            Self::ExecUnsupported | Self::PinUnsupported | Self::NotAllowed => abi::KVM_EOPNOTSUPP,
            Self::Fault => abi::KVM_EFAULT,
            Self::NotOptedIn | Self::BadOperation => abi::KVM_ENOSYS,
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
            | Self::BadArea
            | Self::BadRegister
            | Self::DuplicatePin
            | Self::EmptyPin
            | Self::PinNotSet
            | Self::CetNeedsWp
            | Self::SspNeedsXss
            | Self::ExecNeedsSmep
            | Self::BadProfile
            | Self::BadMagic
            | Self::BadRecord
            | Self::NoVcpu => abi::KVM_EINVAL,
        }
    }
}

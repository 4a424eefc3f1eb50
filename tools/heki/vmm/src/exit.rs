// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! How a run ends: the ends that are in order, and the errors, each one line for the user.
//!
//! Everybody returns these; `main.rs` prints them. Locks: none.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::Signal;

use crate::policy;
use crate::profile::Flaw;

/// A run that ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The guest asked for a reset, or forced one.
    Reset(ResetCause),
    /// The guest starts the kernel that it loaded.
    Kexec,
    /// The guest powered itself off.
    PowerOff,
    /// Somebody asked this process to end.
    Signal(Signal),
}

/// What reset the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetCause {
    /// Keyboard controller command.
    I8042,
    /// Reset control register, which is also the ACPI reset register.
    ResetControl,
    /// KVM reported a reset.
    SystemEvent,
    /// No handler was left for an exception: how Linux ends with `reboot=t`, or by accident.
    TripleFault {
        /// The vCPU that faulted.
        cpu: u32,
        /// Its instruction pointer, as KVM left it.
        rip: u64,
    },
}

impl End {
    /// The exit status for this end.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            End::Reset(_) | End::Kexec | End::PowerOff => ExitCode::SUCCESS,
            End::Signal(signal) => {
                u8::try_from(128 + signal as i32).map_or(ExitCode::FAILURE, ExitCode::from)
            }
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Reset(cause) => cause.fmt(f),
            End::Kexec => f.write_str("guest starts the kernel that it loaded"),
            End::PowerOff => f.write_str("guest powered off"),
            End::Signal(signal) => write!(f, "ended by {signal}"),
        }
    }
}

impl fmt::Display for ResetCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResetCause::I8042 => f.write_str("guest reset (keyboard controller)"),
            ResetCause::ResetControl => f.write_str("guest reset (reset register)"),
            ResetCause::SystemEvent => f.write_str("guest reset (KVM system event)"),
            ResetCause::TripleFault { cpu, rip } => {
                write!(
                    f,
                    "guest reset (triple fault on vCPU {cpu} at rip {rip:#x})"
                )
            }
        }
    }
}

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot open /dev/kvm: {0}; are the kvm and kvm-intel or kvm-amd modules loaded?")]
    OpenKvm(#[source] kvm_ioctls::Error),

    #[error("this host's KVM lacks {0}")]
    MissingCapability(&'static str),

    #[error("KVM refused to {what}: {source}")]
    Kvm {
        what: &'static str,
        source: kvm_ioctls::Error,
    },

    #[error("cannot read {what} {}: {source}", path.display())]
    ReadFile {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("{} is not a 64-bit bzImage: {reason}", path.display())]
    NotBzImage { path: PathBuf, reason: &'static str },

    #[error("the kernel that the guest starts is not a 64-bit bzImage: {0}")]
    NotBootable(&'static str),

    #[error("cannot load the kernel: {0}")]
    LoadKernel(#[source] linux_loader::loader::Error),

    #[error("memory too small: this kernel needs {needed_mib} MiB, the guest has {given_mib} MiB")]
    MemoryTooSmall { needed_mib: u64, given_mib: u64 },

    #[error(
        "initrd too large: {len} bytes, but low memory has {room} bytes left beside the kernel"
    )]
    InitrdTooLarge { len: u64, room: u64 },

    #[error("kernel command line too long: {len} bytes, this kernel takes {max}")]
    CmdlineTooLong { len: usize, max: usize },

    #[error("{asked} vCPUs asked for, at most {max} are possible on this host")]
    TooManyCpus { asked: u32, max: u32 },

    #[error("cannot allocate {mib} MiB of guest memory: {reason}")]
    Allocate { mib: u64, reason: String },

    #[error("cannot access guest memory: {0}")]
    GuestMemory(#[from] vm_memory::GuestMemoryError),

    #[error("cannot opt the guest in to Heki: {0}")]
    Heki(String),

    #[error("cannot restore what was sealed: {0}")]
    HekiState(String),

    #[error("cannot tell the host of the guest's kernel: {0}")]
    Profile(String),

    #[error("cannot use {}: {flaw}", path.display())]
    Vmlinux { path: PathBuf, flaw: Flaw },

    #[error("cannot freeze what {} lists: {reason}", path.display())]
    Freeze { path: PathBuf, reason: String },

    #[error("cannot allow what {path} lists: {reason}")]
    Probes { path: PathBuf, reason: String },
    #[error("cannot use {}: {flaw}", path.display())]
    Policy { path: PathBuf, flaw: policy::Flaw },

    #[error("the policy has something reported, but there is no --heki-events")]
    NoEvents,

    #[error("the policy requires what this host cannot enforce: {0}")]
    Required(String),

    #[error("stopped by the policy: vCPU {cpu} at rip {rip:#x} was denied {class} ({reason})")]
    Denied {
        cpu: u32,
        rip: u64,
        class: &'static str,
        reason: &'static str,
    },

    #[error("cannot use the snapshot {}: {reason}", path.display())]
    Snapshot { path: PathBuf, reason: String },

    #[error("cannot {what}: {source}")]
    Os {
        what: &'static str,
        source: io::Error,
    },

    #[error("KVM lets nobody set MSR {index:#x} to {data:#x}")]
    Msr { index: u32, data: u64 },

    #[error("internal error, see above")]
    Panic,

    #[error("vCPU {cpu}: {reason}")]
    Vcpu { cpu: u32, reason: String },
}

impl Error {
    /// For `map_err` on a KVM call: what was asked of KVM.
    pub(crate) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Error::Kvm { what, source }
    }

    /// For `map_err` on a call to the operating system: what was asked of it.
    pub(crate) fn os<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Error::Os {
            what,
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_one_line() {
        let fault = ResetCause::TripleFault {
            cpu: 1,
            rip: 0x1000,
        };
        assert_eq!(
            End::Reset(fault).to_string(),
            "guest reset (triple fault on vCPU 1 at rip 0x1000)"
        );
        assert_eq!(End::Signal(Signal::SIGINT).to_string(), "ended by SIGINT");
        assert_eq!(End::PowerOff.to_string(), "guest powered off");
    }

    #[test]
    fn status() {
        let code = |end: End| format!("{:?}", end.exit_code());
        assert_eq!(code(End::PowerOff), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(
            code(End::Reset(ResetCause::I8042)),
            format!("{:?}", ExitCode::SUCCESS)
        );
        assert_eq!(
            code(End::Signal(Signal::SIGINT)),
            format!("{:?}", ExitCode::from(130))
        );
        assert_eq!(
            code(End::Signal(Signal::SIGTERM)),
            format!("{:?}", ExitCode::from(143))
        );
    }
}

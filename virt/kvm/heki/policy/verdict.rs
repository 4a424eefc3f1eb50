// SPDX-License-Identifier: GPL-2.0

//! What is denied, in one type, for whoever counts, traces, logs and exits.
//!
//! Neighbours: [`map`](super::map), [`pin`](super::pin) and [`patch`](super::patch) are what it
//! judges by. Locks: none.

use super::{
    map::Map,
    patch::Denied,
    rights::Rights, //
};

/// What the guest tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To write memory.
    Write,
    /// To run memory in supervisor mode.
    Fetch,
    /// To change a register.
    Register,
    /// To have an instruction changed, or a page run.
    Patch,
}

impl Access {
    /// A short name that traces and scripts can rely on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Fetch => "fetch",
            Self::Register => "register",
            Self::Patch => "patch",
        }
    }
}

/// Why it is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The page was sealed without the right to write.
    Sealed,
    /// The page was not granted execution.
    NotExecutable,
    /// The CPU had to write a page table of the guest that lies in a sealed page.
    PageWalk,
    /// The bits are pinned.
    Pinned,
    /// KVM itself was to write a sealed page for the guest.
    KvmWriter,
    /// A rule of sealed text.
    Patch(Denied),
}

impl Reason {
    /// A short name that traces and scripts can rely on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::NotExecutable => "not_executable",
            Self::PageWalk => "page_walk",
            Self::Pinned => "pinned",
            Self::KvmWriter => "kvm_writer",
            Self::Patch(denied) => denied.as_str(),
        }
    }
}

/// What the attempt was aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// A guest frame.
    Gfn(u64),
    /// Bits of a register.
    Register {
        /// `HEKI_REG_*`.
        reg: u32,
        /// Number of an MSR, else 0.
        index: u32,
        /// The pinned bits that would have changed.
        bits: u64,
        /// What the register would hold, zero where memory would have said that.
        value: u64,
    },
    /// An address in text, or of what is to be text.
    Text(u64),
}

/// A denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict is to be reported"]
pub struct Verdict {
    /// What the attempt was aimed at.
    pub victim: Victim,
    /// What the guest tried.
    pub access: Access,
    /// Why it is denied.
    pub reason: Reason,
}

impl Verdict {
    /// The denial of `access` to frame `gfn` for `reason`.
    pub const fn frame(gfn: u64, access: Access, reason: Reason) -> Self {
        Self {
            victim: Victim::Gfn(gfn),
            access,
            reason,
        }
    }

    /// The denial of a write that would change the pinned `bits` of register `reg` (`HEKI_REG_*`);
    /// `index` is the number of an MSR, else 0; `value` is what it would hold.
    pub const fn pinned(reg: u32, index: u32, bits: u64, value: u64) -> Self {
        Self {
            victim: Victim::Register {
                reg,
                index,
                bits,
                value,
            },
            access: Access::Register,
            reason: Reason::Pinned,
        }
    }

    /// The denial of a change of the instruction, or of the page, at `va`.
    pub const fn patch(va: u64, denied: Denied) -> Self {
        Self {
            victim: Victim::Text(va),
            access: Access::Patch,
            reason: Reason::Patch(denied),
        }
    }
}

/// The verdict on an access of the guest to frame `gfn`, `None` if it is allowed.
///
/// `wanted` are the rights that the access needs: [`Rights::WRITE`] to write, [`Rights::EXEC`] to
/// run, neither to read. `supervisor` is whether a fetch is made in supervisor mode; user mode runs
/// what it likes. `page_walk` is whether it is the CPU that reads or writes a page table of the
/// guest in this frame: that is never a fetch of the frame, even when a fetch caused it.
pub fn judge(
    map: &Map<'_>,
    gfn: u64,
    wanted: Rights,
    supervisor: bool,
    page_walk: bool,
) -> Option<Verdict> {
    let missing = wanted.without(map.rights(gfn));

    if missing.write() {
        let reason = if page_walk {
            Reason::PageWalk
        } else {
            Reason::Sealed
        };
        return Some(Verdict::frame(gfn, Access::Write, reason));
    }
    if missing.exec() && supervisor && !page_walk {
        return Some(Verdict::frame(gfn, Access::Fetch, Reason::NotExecutable));
    }
    None
}

// SPDX-License-Identifier: GPL-2.0

//! What a guest may do with a page.
//!
//! Neighbours: `abi`, whose `HEKI_WRITE` and `HEKI_EXEC` these are. Locks: none.

use super::abi;

/// A set of rights over {write, execute in supervisor mode}.
///
/// Reading and running in user mode are always allowed and are no rights.
///
/// # Invariants
///
/// Only bits of [`abi::HEKI_RIGHTS`] are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u32);

impl Rights {
    /// Neither.
    pub const NONE: Self = Self(0);
    /// Writing.
    pub const WRITE: Self = Self(abi::HEKI_WRITE);
    /// Execution in supervisor mode.
    pub const EXEC: Self = Self(abi::HEKI_EXEC);
    /// Both.
    pub const ALL: Self = Self(abi::HEKI_RIGHTS);

    /// The set of the rights named true.
    pub const fn new(write: bool, exec: bool) -> Self {
        match (write, exec) {
            (false, false) => Self::NONE,
            (true, false) => Self::WRITE,
            (false, true) => Self::EXEC,
            (true, true) => Self::ALL,
        }
    }

    /// The set that `bits` (`HEKI_WRITE`, `HEKI_EXEC`) mean; `None` if any other bit is set.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !abi::HEKI_RIGHTS == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The set as `HEKI_WRITE` and `HEKI_EXEC`.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether writing is allowed.
    pub const fn write(self) -> bool {
        self.0 & abi::HEKI_WRITE != 0
    }

    /// Whether execution in supervisor mode is allowed.
    pub const fn exec(self) -> bool {
        self.0 & abi::HEKI_EXEC != 0
    }

    /// The rights in either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The rights of `self` that `other` lacks.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The rights as a reader of logs knows them: `r--`, `rw-`, `r-x` or `rwx`.
    pub const fn as_str(self) -> &'static str {
        match (self.write(), self.exec()) {
            (false, false) => "r--",
            (true, false) => "rw-",
            (false, true) => "r-x",
            (true, true) => "rwx",
        }
    }
}

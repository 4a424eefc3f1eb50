// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! What a sealed VM that learns has been let do: which frames got which rights, beyond its seal.
//!
//! Part of the seal, and gone with it. [`protect`](super::protect) asks and adds, the rules are
//! [`policy::learn`](super::policy::learn). Locks: none.

use crate::{
    abi,
    policy::{
        learn::{
            self,
            Slot, //
        },
        refusal::Refusal,
        rights::Rights,
        vmm::Policy, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

struct Cell(Atomic<u64>);

impl Slot for Cell {
    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn put(&self, entry: u64) -> u64 {
        self.0
            .cmpxchg(0, entry, Relaxed)
            .unwrap_or_else(|found| found)
    }
}

/// Room for what a VM learns.
pub(crate) struct Learned {
    cells: KVVec<Cell>,
    learns: Rights,
}

impl Learned {
    /// Room for what `policy` has the VM learn, `None` if that is nothing of its memory.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoMemory`].
    pub(crate) fn of(policy: &Policy) -> Result<Option<Arc<Self>>, Refusal> {
        let learns = policy.learned_rights();
        if learns == Rights::NONE {
            return Ok(None);
        }
        let nr = abi::HEKI_MAX_LEARNED as usize;
        let mut cells =
            KVVec::with_capacity(nr, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
        for _ in 0..nr {
            cells
                .push(Cell(Atomic::new(0)), GFP_KERNEL_ACCOUNT)
                .map_err(|_| Refusal::NoMemory)?;
        }
        Arc::new(Self { cells, learns }, GFP_KERNEL_ACCOUNT)
            .map(Some)
            .map_err(|_| Refusal::NoMemory)
    }

    /// What is in it.
    pub(crate) fn get(&self) -> learn::Learned<'_, impl Slot> {
        learn::Learned::new(self.cells.as_slice(), self.learns)
    }

    /// The bytes of the host that it takes.
    pub(crate) fn bytes(&self) -> usize {
        crate::text::bytes(&self.cells)
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What a VM that learns has been let do: each frame and right once.
//!
//! The slots fill from the first to the last, each once, by whoever is first; nobody waits. When all
//! are taken the VM has learned enough: from then on all frames have the rights.
//! Neighbours: [`rights`](super::rights). Locks: none.

use super::rights::Rights;

/// A place for an entry, which other CPUs may take at any time.
pub trait Slot {
    /// The entry here, zero if there is none.
    fn get(&self) -> u64;

    /// Puts `entry` here if there is none, and returns what was here.
    fn put(&self, entry: u64) -> u64;
}

/// What was learned.
///
/// # Invariants
///
/// No slot without an entry comes before one with an entry.
#[derive(Clone, Copy, Debug)]
pub struct Learned<'a, S> {
    slots: &'a [S],
    learns: Rights,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The right is not one to be learned.
    No,
    /// It had been learned.
    Before,
    /// It is learned now.
    Now,
    /// The same, and nothing more can be.
    Last,
}

impl<'a, S: Slot> Learned<'a, S> {
    /// What was learned of the rights `learns`. All of `slots` begin without entries, and change
    /// by [`Self::add`] only.
    pub const fn new(slots: &'a [S], learns: Rights) -> Self {
        // INVARIANT: As this function requires.
        Self { slots, learns }
    }

    /// The rights that all of the `nr_pages` frames from `gfn` were learned to need.
    pub fn rights(&self, gfn: u64, nr_pages: u64) -> Rights {
        if self.is_full() {
            return self.learns;
        }
        let has = |right| self.entries().any(|entry| entry == to_entry(gfn, right));
        if nr_pages == 1 {
            Rights::new(has(Rights::WRITE), has(Rights::EXEC))
        } else {
            Rights::NONE
        }
    }

    /// Whether anything was learned of the `nr_pages` frames from `start`: then they may differ.
    pub fn has_any(&self, start: u64, nr_pages: u64) -> bool {
        let end = start.saturating_add(nr_pages);
        self.entries()
            .any(|entry| (start..end).contains(&(entry >> SHIFT)))
    }

    /// Learns that frame `gfn` needs `right`, one of the two.
    pub fn add(&self, gfn: u64, right: Rights) -> Added {
        if right.without(self.learns) != Rights::NONE {
            return Added::No;
        }
        let entry = to_entry(gfn, right);
        let mut slots = self.slots.iter();
        while let Some(slot) = slots.next() {
            match slot.put(entry) {
                0 if slots.len() == 0 => return Added::Last,
                0 => return Added::Now,
                found if found == entry => return Added::Before,
                _ => {}
            }
        }
        Added::Before
    }

    fn is_full(&self) -> bool {
        self.slots.last().is_none_or(|last| last.get() != 0)
    }

    fn entries(&self) -> impl Iterator<Item = u64> + 'a {
        let slots = self.slots.iter().map(Slot::get);
        slots.take_while(|&entry| entry != 0)
    }
}

/// The rights lie below the frame, which has 52 bits at most.
const SHIFT: u32 = 2;

/// Never zero: there is a right.
const fn to_entry(gfn: u64, right: Rights) -> u64 {
    gfn << SHIFT | right.bits() as u64
}

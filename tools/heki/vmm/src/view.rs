// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guest memory as the devices of this process see it: what is sealed they may read only.
//!
//! It is a second mapping of the memory that KVM has. `vcpu.rs` has it follow each request of the
//! guest that changes rights, while no device works: `mmio.rs` owns it, behind its lock. Devices
//! ask [`View::may_write`] before they write. What they forget the mapping stops: a system call
//! fails there with `EFAULT`. Under a policy that learns of writes they write all the same, and the
//! first one is told. Locks: none.

#![deny(unsafe_code)]

use std::cell::Cell;
use std::mem;
use std::sync::Arc;

use heki_abi::{
    Range,
    HEKI_WRITE, //
};
use vm_memory::{
    GuestAddress,
    GuestMemory, //
};

use crate::exit::Error;
use crate::heki::Heki;
use crate::memory::{
    self,
    Memory,
    Span, //
};

/// The devices' view.
pub(crate) struct View {
    memory: Memory,
    /// Sorted and disjoint.
    sealed: Vec<Span>,
    heki: Option<Arc<Heki>>,
    /// What is sealed may be written.
    learns: bool,
    told: Cell<bool>,
}

impl View {
    /// A view of which nothing is sealed. `memory` is mapped for this view alone if there is `heki`.
    pub(crate) fn new(memory: Memory, heki: Option<Arc<Heki>>, learns: bool) -> Self {
        View {
            memory,
            sealed: Vec::new(),
            heki,
            learns,
            told: Cell::new(false),
        }
    }

    /// The memory. To be written only where [`Self::may_write`] says so.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether a device may write `len` bytes at `addr`: they are memory, and none is sealed.
    pub(crate) fn may_write(&self, addr: u64, len: u64) -> bool {
        let (Some(end), Ok(size)) = (addr.checked_add(len), usize::try_from(len)) else {
            return false;
        };
        let next = self.sealed.partition_point(|&(_, sealed)| sealed <= addr);
        let open = self.sealed.get(next).is_none_or(|&(start, _)| end <= start);
        (open || self.learn(addr)) && self.memory.check_range(GuestAddress(addr), size)
    }

    /// Whether a device may write what is sealed.
    fn learn(&self, addr: u64) -> bool {
        if self.learns && !self.told.replace(true) {
            eprintln!("heki-vmm: LEARNING: a device writes to {addr:#x}, which is sealed; others are not told");
        }
        self.learns
    }

    /// Takes over what the host holds sealed now.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        let Some(heki) = self.heki.clone() else {
            return Ok(());
        };
        // Until it is known what may be written, nothing may: an error leaves it so.
        let old = mem::replace(&mut self.sealed, vec![(0, u64::MAX)]);
        self.change(&old, spans(&heki.ranges()?))
    }

    fn change(&mut self, old: &[Span], sealed: Vec<Span>) -> Result<(), Error> {
        if self.learns {
            self.sealed = sealed;
            return Ok(());
        }
        let new = &sealed;
        for span in old.iter().filter(|span| new.binary_search(span).is_err()) {
            memory::protect(&self.memory, span, false)?;
        }
        // After the others, which may reach into these.
        for span in new.iter().filter(|span| old.binary_search(span).is_err()) {
            memory::protect(&self.memory, span, true)?;
        }
        self.sealed = sealed;
        Ok(())
    }
}

/// Those of the `ranges` that may not be written, neighbours in one.
fn spans(ranges: &[Range]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for range in ranges.iter().filter(|range| range.rights & HEKI_WRITE == 0) {
        let end = range.gpa.saturating_add(range.len);
        match spans.last_mut() {
            Some(last) if last.1 == range.gpa => last.1 = end,
            _ => spans.push((range.gpa, end)),
        }
    }
    spans
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::MIB;
    use heki_abi::HEKI_EXEC;
    use std::fs::File;
    use vm_memory::Bytes;

    const PAGE: u64 = 0x1000;

    /// Two MiB for KVM, and a view of them of which `sealed` is sealed.
    pub(crate) fn view(sealed: &[Span]) -> (Memory, View) {
        let memory = memory::allocate(2 * MIB, true).unwrap();
        let mut view = View::new(memory::map_again(&memory).unwrap(), None, false);
        view.change(&[], sealed.to_vec()).unwrap();
        (memory, view)
    }

    fn range(page: u64, nr: u64, rights: u32) -> Range {
        Range {
            gpa: page * PAGE,
            len: nr * PAGE,
            va: 0,
            rights,
            kind: 0,
        }
    }

    #[test]
    fn what_is_not_writable_is_sealed() {
        let ranges = [
            range(1, 2, HEKI_EXEC),
            range(3, 1, 0),
            range(4, 1, HEKI_WRITE),
            range(5, 1, 0),
        ];
        assert_eq!(spans(&ranges), [(PAGE, 4 * PAGE), (5 * PAGE, 6 * PAGE)]);
        assert_eq!(spans(&[]), []);
    }

    #[test]
    fn edges() {
        let (_memory, view) = view(&[(PAGE, 2 * PAGE), (4 * PAGE, 5 * PAGE)]);
        for (addr, len, may) in [
            (0, PAGE, true),
            (0, PAGE + 1, false),
            (PAGE, 1, false),
            (2 * PAGE - 1, 1, false),
            (2 * PAGE, 2 * PAGE, true),
            (2 * PAGE, 2 * PAGE + 1, false),
            (0, 2 * MIB, false),
            (5 * PAGE, 2 * MIB - 5 * PAGE, true),
            (5 * PAGE, 2 * MIB - 5 * PAGE + 1, false),
            (2 * MIB, 1, false),
            (u64::MAX, 1, false),
            (8, u64::MAX, false),
        ] {
            assert_eq!(view.may_write(addr, len), may, "{addr:#x} {len:#x}");
        }
    }

    #[test]
    fn where_writes_are_learned_nothing_is_refused_but_what_is_no_memory() {
        let memory = memory::allocate(2 * MIB, true).unwrap();
        let mut view = View::new(memory::map_again(&memory).unwrap(), None, true);
        view.change(&[], vec![(PAGE, 2 * PAGE)]).unwrap();
        assert!(view.may_write(0, PAGE) && !view.told.get());
        assert!(view.may_write(PAGE, 8) && view.told.get());
        assert!(!view.may_write(2 * MIB, 1));
        view.memory().write_obj(7u64, GuestAddress(PAGE)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 7);
    }

    /// A system call that writes through the view fails, whoever forgot to ask.
    #[test]
    fn the_mapping_refuses_too() {
        let (memory, mut view) = view(&[(PAGE, 2 * PAGE)]);
        let mut zero = File::open("/dev/zero").unwrap();
        let mut read = |view: &View, page: u64| {
            view.memory()
                .read_exact_volatile_from(GuestAddress(page * PAGE), &mut zero, 8)
        };
        memory.write_obj(7u64, GuestAddress(PAGE)).unwrap();
        memory.write_obj(7u64, GuestAddress(0)).unwrap();
        assert!(read(&view, 1).is_err());
        assert_eq!(memory.read_obj::<u64>(GuestAddress(PAGE)).unwrap(), 7);
        read(&view, 0).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 0);

        view.change(&[(PAGE, 2 * PAGE)], vec![(0, PAGE)]).unwrap();
        read(&view, 1).unwrap();
        assert!(read(&view, 0).is_err());
        view.change(&[(0, PAGE)], vec![(0, 2 * PAGE)]).unwrap();
        assert!(read(&view, 0).is_err() && read(&view, 1).is_err());
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What this kernel shows of its seal: `/sys/kernel/heki/`, and a word before an oops that a denial caused.
//!
//! It tells an administrator, and protects nothing: whoever attacks this kernel can change it.
//!
//! Neighbours: filled by [`seal`](crate::seal); the doors of [`ffi`] ask it. Locks: none; [`judge`] runs in
//! exceptions.

#![deny(unsafe_code)]

use kernel::{
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    abi,
    ffi::{
        self,
        Denial,
        Fault, //
    },
    hypercall,
    pins::Registers,
    ranges::Span,
    require,
    seal::{
        Offer,
        Plan, //
    },
    sections::Sections, //
};

/// What the seal came to.
struct Shown {
    offers: [Offer; require::NAMES.len()],
    spans: KVec<Span>,
    /// `None` if nothing of them is held.
    registers: Option<Registers>,
}

static SHOWN: SetOnce<Shown> = SetOnce::new();

/// Keeps what came of the seal, and shows it from now on.
pub(crate) fn keep(plan: Plan, sections: Sections) {
    let offers = plan.offers();
    // Without the protection, what was asked for says nothing.
    let spans = if plan.write.is_ok() {
        sections.spans
    } else {
        KVec::new()
    };
    SHOWN.populate(Shown {
        offers,
        spans,
        registers: (plan.learning & 1 << abi::HEKI_CLASS_REGISTER == 0).then_some(plan.registers),
    });
    if let Err(err) = ffi::show() {
        pr_warn!(
            "no /sys/kernel/heki, and no word before an oops (error {})\n",
            err.to_errno()
        );
    }
}

/// Whether the host says that this kernel is sealed. Does not sleep.
pub(crate) fn is_sealed() -> bool {
    hypercall::query().is_ok_and(|query| query.state == abi::HEKI_STATE_SEALED)
}

/// What became of the protection at this place of [`require::NAMES`].
pub(crate) fn protection(at: usize) -> Offer {
    let shown = SHOWN.as_ref().ok_or("this kernel is not sealed")?;
    shown.offers.get(at).copied().unwrap_or(Err("unknown"))
}

/// How many ranges are sealed.
pub(crate) fn nr_ranges() -> usize {
    SHOWN.as_ref().map_or(0, |shown| shown.spans.len())
}

/// What was denied, if a denial is what made this general protection fault.
///
/// Says so only where nothing else explains the fault: the page tables allow the access, and the seal does not; or
/// a pinned bit would have changed.
pub(crate) fn judge(fault: &Fault) -> Option<Denial> {
    let shown = SHOWN.as_ref()?;
    if shown.denies_exec(fault.ip) {
        return Some(Denial::Exec(fault.ip));
    }
    match fault.kind {
        ffi::FAULT_MEMORY => shown.sealed_at(fault.value).map(Denial::Write),
        ffi::FAULT_CR => shown
            .pinned_in(fault.reg, fault.value)
            .map(Denial::Register),
        ffi::FAULT_LOAD => shown.kept_from(fault),
        _ => None,
    }
}

impl Shown {
    /// The span that an address maps, the offset there, and whether the page tables let it be written and run.
    fn find(&self, addr: u64) -> Option<(Option<(&Span, u64)>, ffi::Leaf)> {
        let leaf = ffi::leaf(addr);
        if !leaf.present {
            return None;
        }
        let phys = leaf.phys.checked_add(addr & leaf.size.checked_sub(1)?)?;
        let mut spans = self.spans.iter();
        let span = spans.find(|span| (span.start..span.end).contains(&phys));
        Some((span.map(|span| (span, phys - span.start)), leaf))
    }

    fn denies_exec(&self, ip: u64) -> bool {
        let held = matches!(self.offers, [_, Ok(()), ..]);
        held && self.find(ip).is_some_and(|(found, leaf)| {
            leaf.executable && !found.is_some_and(|(span, _)| span.exec)
        })
    }

    /// Where the kernel itself has what an address that can be written maps. Rights of pool pages come and go.
    fn sealed_at(&self, addr: u64) -> Option<u64> {
        let (found, leaf) = self.find(addr)?;
        let (span, offset) = found.filter(|(span, _)| span.kind != abi::HEKI_KIND_POOL)?;
        leaf.writable.then(|| span.va.wrapping_add(offset))
    }

    /// The first part of a register that keeps its value, and its bits that a load would have changed.
    fn kept_from(&self, fault: &Fault) -> Option<Denial> {
        let registers = self.registers.as_ref()?;
        let first = match fault.reg {
            abi::HEKI_REG_TR => 2,
            abi::HEKI_REG_MSR => fault.index,
            _ => 0,
        };
        let has_limit = matches!(fault.reg, abi::HEKI_REG_IDTR | abi::HEKI_REG_GDTR);
        let parts = [(first, fault.value), (1, fault.limit)];
        let mut parts = parts.into_iter().take(if has_limit { 2 } else { 1 });
        parts.find_map(|(index, loaded)| {
            let (name, mask) = registers.pinned(fault.reg, index)?;
            let bits = (ffi::read_register(fault.reg, index)? ^ loaded) & mask;
            (bits != 0).then_some(Denial::Load(name, bits))
        })
    }

    /// The pinned bits of CR0 or CR4 that `value` lacks.
    fn pinned_in(&self, reg: u32, value: u64) -> Option<u64> {
        let bits = self.registers.as_ref()?.mask(reg) & !value;
        (bits != 0).then_some(bits)
    }
}

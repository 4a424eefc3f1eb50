// SPDX-License-Identifier: GPL-2.0

//! What the log says after the seal: each protection, held or not, and why not.
//!
//! Neighbours: called by [`seal`](crate::seal), asks [`hypercall`]. Locks: none; may sleep.

#![deny(unsafe_code)]

use kernel::prelude::*;

use crate::{
    abi,
    ffi,
    hypercall,
    pins::{
        Fate,
        Registers,
        BITS, //
    },
    ranges::Span,
    require,
    seal::{
        Plan,
        LEARNING, //
    },
    sections::Sections, //
};

/// The kinds of memory as the log names them.
const KINDS: [(u32, &str); 7] = [
    (abi::HEKI_KIND_TEXT, "text"),
    (abi::HEKI_KIND_RODATA, "read-only data"),
    (abi::HEKI_KIND_MODULE_TEXT, "module text"),
    (abi::HEKI_KIND_MODULE_RODATA, "module read-only data"),
    (abi::HEKI_KIND_IDT, "interrupt table"),
    (abi::HEKI_KIND_TRAMPOLINE, "trampoline"),
    (abi::HEKI_KIND_POOL, "room for text"),
];

const NO_PROFILE: &str = "the VMM gave the host no profile of this kernel";
const NO_LIST: &str = "the VMM gave the host no list of them (heki-vmm --probes)";

/// What the host serves of changes of text, as the log names it, and what is missing if it does not.
const CHANGES: [(u32, &str, &str); 4] = [
    (abi::HEKI_PATCH_JUMP_LABEL, "jump labels", NO_PROFILE),
    (abi::HEKI_PATCH_STATIC_CALL, "static calls", NO_PROFILE),
    (abi::HEKI_PATCH_FTRACE, "ftrace", NO_PROFILE),
    (abi::HEKI_PATCH_PROBE, "breakpoints", NO_LIST),
];

/// What the host checks of the target of a call.
const TARGETS: [(u32, &str); 3] = [
    (abi::HEKI_TARGET_SYMBOL, "is a function of the VMM's list"),
    (
        abi::HEKI_TARGET_HASH,
        "has the right type, by its kCFI hash",
    ),
    (abi::HEKI_TARGET_ENDBR, "begins with ENDBR64"),
];

/// Says what is held.
pub(crate) fn sealed(plan: &Plan, sections: &Sections) {
    if plan.learning != 0 {
        pr_warn!(
            "LEARNING: this kernel is sealed, but not protected from what the host only reports\n"
        );
    }
    for ((prot, name), offer) in require::NAMES.iter().zip(plan.offers()) {
        match offer {
            Ok(()) => pr_info!("{}: held: {}\n", name, promise(*prot)),
            Err(why) => pr_warn!("{}: not held: {}\n", name, why),
        }
    }
    if plan.write.is_ok() {
        memory(&sections.spans);
    }
    if sections.writable_text != 0 {
        pr_warn!(
            "{} KiB are writable and executable: not sealed\n",
            sections.writable_text >> 10
        );
    }
    if plan.learning & 1 << abi::HEKI_CLASS_REGISTER != 0 {
        pr_warn!("bits of registers: not held: {}\n", LEARNING);
    } else {
        bits(&plan.registers);
        rows(&plan.registers);
    }
    changes(plan.patch, plan.learning & 1 << abi::HEKI_CLASS_PATCH == 0);
    if plan.patch != 0 {
        frozen();
    }
}

/// Names what the VMM froze: who changes it later would learn so too late, for the kernel's own state changes first.
fn frozen() {
    let mut next = 0;
    while let Ok(answer) = hypercall::frozen(next) {
        let nr = answer.nr.min(abi::HEKI_FROZEN_ENTRIES);
        for &va in answer.va.iter().take(nr as usize) {
            ffi::frozen(va);
        }
        next = next.saturating_add(nr);
        if nr == 0 || next >= answer.total {
            return;
        }
    }
}

/// What becomes of changes of text, which the host checks or not.
fn changes(patch: u32, checked: bool) {
    if patch == 0 {
        pr_warn!("changes of text: not served by the host: use no tracing, probes or other clocksources\n");
        return;
    }
    if !checked {
        pr_warn!(
            "changes of text: made by the host, not checked: {}\n",
            LEARNING
        );
        return;
    }
    for (bit, name, missing) in CHANGES {
        if patch & bit != 0 {
            pr_info!("changes of text: {}: made and checked by the host\n", name);
        } else {
            pr_warn!("changes of text: {}: refused: {}\n", name, missing);
        }
    }
    for (bit, name) in TARGETS {
        if patch & bit != 0 {
            pr_info!("changes of text: the target of a call {}: checked\n", name);
        }
    }
    pr_info!(
        "changes of text: refused, as no policy of the host allows them: optimized kprobes, new live patches, compiled BPF\n"
    );
}

fn promise(prot: u32) -> &'static str {
    match prot {
        abi::HEKI_PROT_WRITE => "text and read-only data cannot be written",
        abi::HEKI_PROT_EXEC => "supervisor mode runs nothing but that text",
        abi::HEKI_PROT_DT => "descriptor tables stay where they are",
        abi::HEKI_PROT_MSR => "registers that a kernel sets at boot keep their value",
        _ => "bits of CR0 and CR4 that this CPU has set stay set",
    }
}

fn memory(spans: &[Span]) {
    for (kind, name) in KINDS {
        let kib = |exec| {
            let wanted = |span: &&Span| span.kind == kind && span.exec == exec;
            spans.iter().filter(wanted).map(Span::bytes).sum::<u64>() >> 10
        };
        pr_info!(
            "sealed: {}: {} KiB R-X, {} KiB R--\n",
            name,
            kib(true),
            kib(false)
        );
    }
    pr_info!("sealed: {} ranges\n", spans.len());
}

fn bits(registers: &Registers) {
    for bit in &BITS {
        // What was asked for is not yet what is held.
        let held = || hypercall::query_pin(bit.reg, 0).unwrap_or(0);
        if registers.is_pinned(bit) && held() & bit.mask != 0 {
            pr_info!("{}: held\n", bit.name);
        } else if registers.is_pinned(bit) {
            pr_warn!("{}: not held: the host does not confirm it\n", bit.name);
        } else if registers.is_set(bit) {
            pr_warn!("{}: not held: the host cannot\n", bit.name);
        } else {
            pr_info!("{}: not held: this CPU does not have it set\n", bit.name);
        }
    }
}

fn rows(registers: &Registers) {
    for (row, fate) in registers.rows() {
        let held = || hypercall::query_pin(row.reg, row.index).unwrap_or(0);
        match fate {
            Fate::Pinned(mask) if held() & mask == mask => pr_info!("{}: held\n", row.name),
            Fate::Pinned(_) => pr_warn!("{}: not held: the host does not confirm it\n", row.name),
            Fate::Unable => pr_warn!("{}: not held: the host cannot\n", row.name),
            Fate::Differs => pr_warn!("{}: not held: the CPUs do not agree on it\n", row.name),
            Fate::Unused => pr_info!(
                "{}: not needed: S_CET keeps supervisor shadow stacks off\n",
                row.name
            ),
            Fate::Absent => pr_info!("{}: not held: this CPU does not have it\n", row.name),
        }
    }
}

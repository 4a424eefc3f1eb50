// SPDX-License-Identifier: GPL-2.0

//! Finds what is to be sealed, by the rights in the kernel's own page tables.
//!
//! Nothing here knows a symbol of the kernel: a page that the kernel maps executable is text, one that it maps
//! read-only is read-only data, in the three places where it keeps such pages for good. That holds under KASLR, with
//! five levels of page tables, and for pages whose address the kernel itself has forgotten. It leaves out by itself
//! what must stay writable: the gaps after text and read-only data, which the kernel has given back, its page tables,
//! the GDT. Aliases in the direct map need no look: the physical page is what counts.
//!
//! Neighbours: [`ffi`](crate::ffi) for the look at one entry, [`ranges`](crate::ranges) for what comes out.
//! Locks: none; nobody may load or unload a module meanwhile, see [`lifecycle`](crate::lifecycle).

#![deny(unsafe_code)]

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use crate::{
    abi,
    ffi,
    ranges::{
        self,
        Span, //
    }, //
};

/// What the page tables say.
#[derive(PartialEq, Eq)]
pub(crate) struct Sections {
    /// What is to be sealed, sorted and without overlaps.
    pub(crate) spans: KVec<Span>,
    /// Bytes that are both writable and executable. They are left writable and will not run.
    pub(crate) writable_text: u64,
}

/// One place to look at and what its pages are.
struct Area {
    start: u64,
    end: u64,
    text: u32,
    rodata: u32,
}

impl Sections {
    /// The same with the pool told from the text of modules, which shares large pages with it: what holds nothing but
    /// INT3 may become something else later. Reads all of that text.
    pub(crate) fn with_pool(self) -> Result<Self> {
        let mut spans = KVec::new();
        for span in self.spans.iter() {
            if span.kind == abi::HEKI_KIND_MODULE_TEXT {
                add_pages(&mut spans, span)?;
            } else {
                add(&mut spans, *span)?;
            }
        }
        Ok(Self { spans, ..self })
    }
}

/// Looks at all areas. May sleep.
pub(crate) fn scan() -> Result<Sections> {
    let at = ffi::areas();
    let areas = [
        Area {
            start: at.image,
            end: at.modules,
            text: abi::HEKI_KIND_TEXT,
            rodata: abi::HEKI_KIND_RODATA,
        },
        Area {
            start: at.modules,
            end: at.modules_end,
            text: abi::HEKI_KIND_MODULE_TEXT,
            rodata: abi::HEKI_KIND_MODULE_RODATA,
        },
        // Below 1 MiB only the real-mode trampoline has other rights than plain memory.
        Area {
            start: at.low,
            end: at.low_end,
            text: abi::HEKI_KIND_TRAMPOLINE,
            rodata: abi::HEKI_KIND_TRAMPOLINE,
        },
    ];
    let idt = ffi::idt();

    let mut spans = KVec::new();
    let mut writable_text = 0;
    for area in &areas {
        writable_text += scan_area(area, idt, &mut spans)?;
    }
    let kept = ranges::join(&mut spans).map_err(|at| {
        pr_err!("memory at {:#x} is mapped both as text and as data\n", at.0);
        EINVAL
    })?;
    spans.truncate(kept);
    Ok(Sections {
        spans,
        writable_text,
    })
}

/// Adds what is read-only in `area` and returns how many bytes are writable and executable.
fn scan_area(area: &Area, idt: u64, spans: &mut KVec<Span>) -> Result<u64> {
    let mut writable_text = 0;
    let mut addr = area.start;
    while addr < area.end {
        let leaf = ffi::leaf(addr);
        if leaf.present && leaf.executable && leaf.writable {
            writable_text += leaf.size;
        } else if leaf.present && !leaf.writable {
            let span = Span {
                start: leaf.phys,
                end: leaf.phys + leaf.size,
                va: addr & !(leaf.size - 1),
                exec: leaf.executable,
                kind: kind(area, &leaf, idt),
            };
            add(spans, span)?;
        }
        // An entry starts at a multiple of its size; the last one may end where addresses do.
        addr = match (addr & !(leaf.size - 1)).checked_add(leaf.size) {
            Some(next) => next,
            None => break,
        };
    }
    Ok(writable_text)
}

fn add_pages(spans: &mut KVec<Span>, text: &Span) -> Result {
    let page = PAGE_SIZE as u64;
    for offset in (0..text.bytes()).step_by(PAGE_SIZE) {
        let va = text.va + offset;
        let kind = if ffi::is_trap_page(va) {
            abi::HEKI_KIND_POOL
        } else {
            text.kind
        };
        let start = text.start + offset;
        add(
            spans,
            Span {
                start,
                end: start + page,
                va,
                kind,
                ..*text
            },
        )?;
    }
    Ok(())
}

/// Most pages go on where the one before ended.
fn add(spans: &mut KVec<Span>, span: Span) -> Result {
    if !spans.last_mut().is_some_and(|last| last.absorb(&span)) {
        spans.push(span, GFP_KERNEL)?;
    }
    Ok(())
}

/// The kernel makes the page of the IDT read-only where it lies, among its data.
fn kind(area: &Area, leaf: &ffi::Leaf, idt: u64) -> u32 {
    if leaf.executable {
        area.text
    } else if leaf.phys == idt {
        abi::HEKI_KIND_IDT
    } else {
        area.rodata
    }
}

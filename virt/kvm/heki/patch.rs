// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! Changes of sealed text that the guest asks for: PATCH, GRANT and RELEASE.
//!
//! A PATCH compares and swaps whole instructions while every vCPU is out of the guest, so that no
//! vCPU ever meets half of one. A GRANT takes the right to write before it looks at the content.
//! The rules are [`policy::patch`](super::policy::patch), what they go by is [`text`](super::text).
//! [`hypercall`](super::hypercall) calls, [`verdict`](super::verdict) reports.
//! Locks: comes inside `kvm->srcu`, leaves it and takes `kvm->slots_lock`, which keeps the map, the
//! text and the memslots as they are.

use crate::{
    abi,
    kvm::{
        slots::SlotsLock,
        text::PinnedPage,
        vcpu::Vcpu, //
    },
    policy::{
        edit::{
            edit,
            Edit, //
        },
        grant::Grant,
        map::{
            normalize,
            Region,
            PAGE_SHIFT, //
        },
        patch::{
            self,
            rules,
            trampoline,
            Denied, //
        },
        refusal::Refusal,
        rights::Rights,
        verdict::{
            Access,
            Verdict, //
        },
    },
    text::Sealed,
    vm::{
        Seal,
        Vm, //
    },
};
use core::ops::Range;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use zerocopy::Unalign;

/// A change that happened.
pub(crate) struct Done {
    /// How many instructions or ranges changed.
    pub(crate) nr: u32,
    /// The first thing in it that the rules forbid: the VM learns.
    pub(crate) learned: Option<Verdict>,
}

/// Why a change does not happen.
#[derive(Clone, Copy)]
pub(crate) enum Failure {
    /// The request itself is bad.
    Refused(Refusal),
    /// The rules forbid it.
    Denied(Verdict),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether what the rules forbid happens all the same.
fn learns(vm: &Vm, vcpu: &Vcpu<'_>) -> bool {
    vm.policy(vcpu.reader()).learns(Access::Patch)
}

/// Serves a PATCH. In a VM that learns the instructions change whatever the rules say, but those that
/// lie in no sealed memory: only the guest knows where it is.
pub(crate) fn patch(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8]) -> Result<Done, Failure> {
    let sites = patch::parse(bytes)?;
    let learns = learns(vm, vcpu);
    let mut learned = None;

    let lock = vcpu.lock_slots();
    let seal = vm.seal(lock.reader()).ok_or(Refusal::NotSealed)?;
    let sealed = Sealed::new(&lock, seal.windows());
    let env = seal.text.env(vm.profile(lock.reader()));
    for site in sites {
        let site = site.get();
        if let Err(why) = rules::check(&site, &env, &sealed) {
            let denial = Verdict::patch(site.va, why);
            if !learns || sealed.translate(site.va).is_none() {
                return Err(Failure::Denied(denial));
            }
            learned.get_or_insert(denial);
        }
    }

    let mut pieces = pieces(&sealed, sites)?;
    let pages = pin_all(&lock, pieces.as_mut_slice())?;
    let (pieces, pages) = (pieces.as_slice(), pages.as_slice());
    if let Err(va) = lock.without_vcpus(|| swap(pieces, pages)) {
        let denial = Verdict::patch(va, Denied::Stale);
        if !learns {
            return Err(Failure::Denied(denial));
        }
        learned.get_or_insert(denial);
        lock.without_vcpus(|| write(pieces, pages));
    }
    Ok(Done {
        nr: sites.len() as u32,
        learned,
    })
}

/// The part of an instruction that lies in one page.
#[derive(Clone, Copy)]
struct Piece {
    /// Address of the instruction.
    va: u64,
    gfn: u64,
    /// Which of the pinned pages it lies in.
    page: usize,
    offset: usize,
    len: usize,
    old: [u8; MAX_INSN],
    new: [u8; MAX_INSN],
}

/// The longest of what changes as one: a slot.
const MAX_INSN: usize = abi::HEKI_SLOT_BYTES as usize;

/// Where the instructions of `sites`, which the rules allowed, lie in guest memory.
fn pieces(sealed: &Sealed<'_>, sites: &[Unalign<abi::Site>]) -> Result<KVVec<Piece>, Failure> {
    let mut pieces =
        KVVec::with_capacity(2 * sites.len(), GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    for site in sites {
        let site = site.get();
        let (mut old, mut new) = patch::instructions(&site);
        let mut at = site.va;
        while !old.is_empty() {
            let piece = piece(sealed, &site, at, old, new)?;
            pieces
                .push(piece, GFP_KERNEL_ACCOUNT)
                .map_err(|_| Refusal::NoMemory)?;
            old = old.get(piece.len..).unwrap_or_default();
            new = new.get(piece.len..).unwrap_or_default();
            at = at.wrapping_add(piece.len as u64);
        }
    }
    Ok(pieces)
}

/// The part of `old` and `new` at `at` that lies in one page.
fn piece(
    sealed: &Sealed<'_>,
    site: &abi::Site,
    at: u64,
    old: &[u8],
    new: &[u8],
) -> Result<Piece, Failure> {
    let (gpa, _) = sealed.translate(at).ok_or(Refusal::Fault)?;
    let offset = (gpa & (PAGE_SIZE as u64 - 1)) as usize;
    let len = old.len().min(PAGE_SIZE - offset);
    Ok(Piece {
        va: site.va,
        gfn: gpa >> PAGE_SHIFT,
        page: 0,
        offset,
        len,
        old: head(old, len),
        new: head(new, len),
    })
}

/// The first `len` of `bytes`, and zeros.
fn head(bytes: &[u8], len: usize) -> [u8; MAX_INSN] {
    let mut head = [0; MAX_INSN];
    for (to, from) in head.iter_mut().zip(bytes.iter().take(len)) {
        *to = *from;
    }
    head
}

/// Pins the pages of `pieces`, each once, and tells every piece which is its own.
fn pin_all<'a>(
    lock: &'a SlotsLock<'_>,
    pieces: &mut [Piece],
) -> Result<KVVec<PinnedPage<'a>>, Failure> {
    let mut pages: KVVec<PinnedPage<'a>> =
        KVVec::with_capacity(pieces.len(), GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    let max_pages = lock.max_pages();
    for piece in pieces {
        // Sites ascend, so the last page is the likeliest.
        if let Some(at) = pages.iter().rposition(|page| page.gfn() == piece.gfn) {
            piece.page = at;
            continue;
        }
        piece.page = pages.len();
        if piece.page >= max_pages {
            return Err(Refusal::TooBig.into());
        }
        let page = lock.pin(piece.gfn).ok_or(Refusal::Fault)?;
        pages
            .push(page, GFP_KERNEL_ACCOUNT)
            .map_err(|_| Refusal::NoMemory)?;
    }
    Ok(pages)
}

/// Writes all of `pieces` if each holds what it should, else nothing.
///
/// # Errors
///
/// The address of the first instruction that is another.
fn swap(pieces: &[Piece], pages: &[PinnedPage<'_>]) -> Result<(), u64> {
    for piece in pieces {
        let mut present = [0; MAX_INSN];
        let there = present.get_mut(..piece.len).is_some_and(|bytes| {
            pages
                .get(piece.page)
                .is_some_and(|page| page.read(piece.offset, bytes))
        });
        if !there || present != piece.old {
            return Err(piece.va);
        }
    }
    write(pieces, pages);
    Ok(())
}

/// Writes all of `pieces`.
fn write(pieces: &[Piece], pages: &[PinnedPage<'_>]) {
    for piece in pieces {
        // Each lies in one of the pages.
        if let (Some(page), Some(new)) = (pages.get(piece.page), piece.new.get(..piece.len)) {
            page.write(piece.offset, new);
        }
    }
}

/// Serves a RELEASE: pool pages and trampolines become plain memory again.
pub(crate) fn release(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8]) -> Result<Done, Failure> {
    let request = Grant::parse(bytes, true)?;
    let learns = learns(vm, vcpu);
    let changes = Changes::of(request.regions())?;

    let mut lock = vcpu.lock_slots();
    let seal = vm.seal(lock.reader()).ok_or(Refusal::NotSealed)?;
    if let Err(denial) = check_dynamic(seal, &request) {
        return not_needed(learns, denial);
    }
    let released = changes.made_to(seal, Edit::Remove)?;
    vm.change_regions(&mut lock, &changes.frames, released);
    Ok(Done {
        nr: request.nr_ranges() as u32,
        learned: None,
    })
}

/// What becomes of a request for pages that are sealed as something else. A VM that learns has no need
/// of it: the pages stay what they are, may be written, and may run where they could not.
fn not_needed(learns: bool, denial: Verdict) -> Result<Done, Failure> {
    if !learns {
        return Err(Failure::Denied(denial));
    }
    Ok(Done {
        nr: 0,
        learned: Some(denial),
    })
}

/// Serves a GRANT: pages of which the content passes may run. In a VM that learns all may.
pub(crate) fn grant(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8]) -> Result<Done, Failure> {
    let request = Grant::parse(bytes, false)?;
    let learns = learns(vm, vcpu);
    let changes = Changes::of(request.regions().map(|region| Region {
        rights: Rights::NONE,
        ..region
    }))?;

    let mut lock = vcpu.lock_slots();
    let seal = vm.seal(lock.reader()).ok_or(Refusal::NotSealed)?;
    if let Err(denial) = check_dynamic(seal, &request) {
        return not_needed(learns, denial);
    }
    let is_memory = |region: Region| lock.is_memory(region.start, region.nr_pages());
    if !request.regions().all(is_memory) {
        return Err(Refusal::NotMemory.into());
    }
    let undo = Changes::none().made_to(seal, Edit::Remove)?;
    let held = changes.made_to(seal, Edit::Insert)?;
    // From here on nobody writes these pages, so that what is judged is what will run.
    vm.change_regions(&mut lock, &changes.frames, held);

    let nr = request.nr_ranges() as u32;
    let judged = judge(vm, &lock, &request, learns);
    let (seal, result) = match judged {
        Ok((granted, learned)) => (granted, Ok(Done { nr, learned })),
        Err(failure) => (undo, Err(failure)),
    };
    vm.change_regions(&mut lock, &changes.frames, seal);
    result
}

/// The same seal, in which module text that is a trampoline of ftrace counts as such: one that was
/// made before the seal is used again after it.
pub(crate) fn with_trampolines(
    vm: &Vm,
    lock: &SlotsLock<'_>,
    seal: KBox<Seal>,
) -> Result<KBox<Seal>, Refusal> {
    let sealed = Sealed::new(lock, seal.windows());
    let env = seal.text.env(vm.profile(lock.reader()));
    let mut pages = PageReader::new(lock)?;
    let mut found = KVVec::new();
    for region in seal.regions.iter() {
        if region.kind != abi::HEKI_KIND_MODULE_TEXT || region.va == 0 {
            continue;
        }
        for gfn in region.start..region.end {
            let part = region
                .part(gfn, gfn.saturating_add(1))
                .ok_or(Refusal::Overflow)?;
            let kind = trampoline::check_page(part.va, pages.read(gfn)?, &env, &sealed);
            if kind == Ok(abi::HEKI_KIND_FTRACE) {
                let part = Region {
                    kind: abi::HEKI_KIND_FTRACE,
                    ..part
                };
                found
                    .push(part, GFP_KERNEL_ACCOUNT)
                    .map_err(|_| Refusal::NoMemory)?;
            }
        }
    }
    if found.is_empty() {
        return Ok(seal);
    }
    Changes::of(found.iter().copied())?.made_to(&seal, Edit::Insert)
}

/// Pages of guest memory, read one by one into the same room.
struct PageReader<'a> {
    lock: &'a SlotsLock<'a>,
    room: KVec<u8>,
}

impl<'a> PageReader<'a> {
    fn new(lock: &'a SlotsLock<'_>) -> Result<Self, Refusal> {
        let room =
            KVec::from_elem(0, PAGE_SIZE, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
        Ok(Self { lock, room })
    }

    /// The content of frame `gfn`.
    fn read(&mut self, gfn: u64) -> Result<&[u8; PAGE_SIZE], Refusal> {
        let room = self.room.first_chunk_mut().ok_or(Refusal::Fault)?;
        if self.lock.read_memory(gfn << PAGE_SHIFT, room) {
            Ok(room)
        } else {
            Err(Refusal::Fault)
        }
    }
}

/// Refuses to touch what is neither plain memory nor a page that a GRANT can make.
fn check_dynamic(seal: &Seal, request: &Grant<'_>) -> Result<(), Verdict> {
    request
        .check(&seal.map())
        .map_err(|va| Verdict::patch(va, Denied::Unlisted))
}

/// The seal in which the pages of `request` run, and what is learned of them; the present one keeps
/// them from being written.
fn judge(
    vm: &Vm,
    lock: &SlotsLock<'_>,
    request: &Grant<'_>,
    learns: bool,
) -> Result<(KBox<Seal>, Option<Verdict>), Failure> {
    let mut learned = None;
    let seal = vm.seal(lock.reader()).ok_or(Refusal::NotSealed)?;
    let sealed = Sealed::new(lock, seal.windows());
    let env = seal.text.env(vm.profile(lock.reader()));
    let mut pages = PageReader::new(lock)?;
    let mut granted = KVVec::new();
    for region in request.regions() {
        for gfn in region.start..region.end {
            let part = region
                .part(gfn, gfn.saturating_add(1))
                .ok_or(Refusal::Overflow)?;
            let kind = match trampoline::check_page(part.va, pages.read(gfn)?, &env, &sealed) {
                Ok(kind) => kind,
                Err(why) => {
                    let denial = Verdict::patch(part.va, why);
                    if !learns {
                        return Err(Failure::Denied(denial));
                    }
                    learned.get_or_insert(denial);
                    abi::HEKI_KIND_POOL
                }
            };
            granted
                .push(Region { kind, ..part }, GFP_KERNEL_ACCOUNT)
                .map_err(|_| Refusal::NoMemory)?;
        }
    }
    let granted = Changes::of(granted.iter().copied())?.made_to(seal, Edit::Insert)?;
    Ok((granted, learned))
}

/// Regions that differ from now on.
struct Changes {
    regions: KVVec<Region>,
    /// From the first of their frames to after the last.
    frames: Range<u64>,
}

impl Changes {
    /// Nothing differs.
    fn none() -> Self {
        Self {
            regions: KVVec::new(),
            frames: 0..0,
        }
    }

    /// These differ; no two of them share a frame.
    fn of(changed: impl Iterator<Item = Region>) -> Result<Self, Refusal> {
        let mut regions = KVVec::new();
        for region in changed {
            regions
                .push(region, GFP_KERNEL_ACCOUNT)
                .map_err(|_| Refusal::NoMemory)?;
        }
        let used = normalize(regions.as_mut_slice())?;
        regions.truncate(used);
        let start = regions.first().map_or(0, |region| region.start);
        let end = regions.last().map_or(0, |region| region.end);
        Ok(Self {
            regions,
            frames: start..end,
        })
    }

    /// What `seal` becomes by them.
    fn made_to(&self, seal: &Seal, what: Edit) -> Result<KBox<Seal>, Refusal> {
        // A change in the middle of a region makes three of one.
        let most = seal
            .regions
            .len()
            .saturating_add(self.regions.len().saturating_mul(2));
        let most = most.min(abi::HEKI_MAX_RANGES as usize);
        let mut regions = KVVec::from_elem(Region::default(), most, GFP_KERNEL_ACCOUNT)
            .map_err(|_| Refusal::NoMemory)?;
        let used = edit(
            seal.regions.as_slice(),
            self.regions.as_slice(),
            what,
            regions.as_mut_slice(),
        )?;
        regions.truncate(used);
        seal.with_regions(regions)
    }
}

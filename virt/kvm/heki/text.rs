// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! What a VM's seal keeps to judge changes of its text, and how that is gathered at the seal.
//!
//! Everything is read once, while the guest is trusted: tables of sites from memory that the same
//! request seals, the rest from the request and from the VMM's profile.
//! [`patch`](super::patch) judges by it. Locks: `kvm->slots_lock`, as the [`SlotsLock`] shows.

use crate::{
    abi,
    kvm::{
        publish::Reader,
        slots::SlotsLock, //
    },
    policy::{
        address::{
            self,
            Window,
            Windows, //
        },
        map::{
            Region,
            PAGE_SHIFT, //
        },
        patch::{
            areas::Areas,
            probes::{
                self,
                Probe, //
            },
            profile::{
                Placed,
                Profile, //
            },
            sites::{
                self,
                Packed,
                Site, //
            },
            Env,
            Text, //
        },
        refusal::Refusal,
        request::Request,
        saved, //
    },
    vm::{
        Seal,
        Vm, //
    },
};
use core::{
    cell::Cell,
    mem::size_of,
    ops::Range, //
};
use kernel::prelude::*;
use zerocopy::FromZeros;

/// What the VMM knows of the guest's kernel: a checked `struct heki_profile` with its arrays.
pub(crate) struct ProfileBytes(pub(crate) KVVec<u8>);

impl ProfileBytes {
    /// The profile in it.
    pub(crate) fn profile(&self) -> Profile<'_> {
        Profile::assume_checked(self.0.as_slice())
    }
}

/// Takes the VMM's profile, which must be whole. No vCPU exists yet.
pub(crate) fn set_profile(vm: &Vm, lock: &mut SlotsLock<'_>, data: &[u8]) -> Result {
    Profile::parse(data).map_err(|_| EINVAL)?;
    let mut bytes = KVVec::new();
    bytes.extend_from_slice(data, GFP_KERNEL_ACCOUNT)?;
    vm.set_profile(lock, KBox::new(ProfileBytes(bytes), GFP_KERNEL_ACCOUNT)?);
    Ok(())
}

/// What changes of sealed text are judged by. Never changes until a reset.
pub(crate) struct Facts {
    /// Addresses that the rules know by name.
    areas: Areas,
    /// Jump labels, static calls and ftrace sites of modules, sorted.
    sites: KVVec<Packed>,
    /// Where the VMM allows breakpoints, sorted, with what stands there.
    probes: KVVec<Probe>,
    /// Where the text begins of which the VMM gave the profile, if it gave one.
    profiled: Option<u64>,
}

impl Facts {
    /// What the rules ask, with the VM's `profile`.
    pub(crate) fn env<'a>(&'a self, profile: Option<&'a ProfileBytes>) -> Env<'a> {
        Env {
            areas: &self.areas,
            sites: self.sites.as_slice(),
            probes: self.probes.as_slice(),
            profile: profile
                .zip(self.profiled)
                .map(|(bytes, text_va)| bytes.profile().at(text_va)),
        }
    }

    /// What there is to be saved of `seal`, whose facts these are.
    pub(crate) fn source<'a>(&'a self, seal: &'a Seal) -> saved::Source<'a> {
        saved::Source {
            exec: seal.exec,
            regions: seal.regions.as_slice(),
            pins: seal.pins,
            held: seal.held.as_slice(),
            areas: &self.areas,
            sites: self.sites.as_slice(),
            probes: self.probes.as_slice(),
            text_va: self.profiled,
        }
    }

    /// The number of jump labels, static calls and ftrace sites of modules.
    pub(crate) fn nr_sites(&self) -> usize {
        self.sites.len()
    }

    /// The number of addresses at which a breakpoint may be put.
    pub(crate) fn nr_probes(&self) -> usize {
        self.probes.len()
    }

    /// The bytes of the host that sites and probes take.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (bytes(&self.sites), bytes(&self.probes))
    }

    /// `HEKI_PATCH_*` and `HEKI_TARGET_*` that hold.
    pub(crate) fn served(&self) -> u32 {
        let has = |area, bit| {
            if self.areas.get(area).is_some() {
                bit
            } else {
                0
            }
        };
        let mut served = has(abi::HEKI_AREA_CFI_HASH, abi::HEKI_TARGET_HASH)
            | has(abi::HEKI_AREA_ENDBR, abi::HEKI_TARGET_ENDBR);
        if !self.sites.is_empty() {
            served |= abi::HEKI_PATCH_JUMP_LABEL | abi::HEKI_PATCH_STATIC_CALL;
        }
        if !self.probes.is_empty() {
            served |= abi::HEKI_PATCH_PROBE;
        }
        if self.profiled.is_some() {
            served |=
                abi::HEKI_TARGET_SYMBOL | has(abi::HEKI_AREA_FTRACE_CALLER, abi::HEKI_PATCH_FTRACE);
        }
        served
    }
}

/// The bytes that a vector takes.
pub(crate) fn bytes<T>(all: &KVVec<T>) -> usize {
    all.capacity().saturating_mul(size_of::<T>())
}

/// `HEKI_PATCH_*` and `HEKI_TARGET_*` of a VM: those that it has, or before the seal may have.
pub(crate) fn served(vm: &Vm, reader: Reader<'_>) -> u32 {
    if let Some(seal) = vm.seal(reader) {
        return seal.text.served();
    }
    let always = abi::HEKI_PATCH_JUMP_LABEL
        | abi::HEKI_PATCH_STATIC_CALL
        | abi::HEKI_TARGET_HASH
        | abi::HEKI_TARGET_ENDBR;
    let Some(bytes) = vm.profile(reader) else {
        return always;
    };
    let probe = match bytes.profile().nr_probes() {
        0 => 0,
        _ => abi::HEKI_PATCH_PROBE,
    };
    always | abi::HEKI_PATCH_FTRACE | abi::HEKI_TARGET_SYMBOL | probe
}

/// What the VMM froze in a sealed VM, from entry `first` on.
pub(crate) fn frozen(vm: &Vm, reader: Reader<'_>, first: u32) -> Result<abi::Frozen, Refusal> {
    let seal = vm.seal(reader).ok_or(Refusal::NotSealed)?;
    let mut answer = abi::Frozen::new_zeroed();
    answer.version = abi::HEKI_ABI_VERSION;
    answer.first = first;
    let Some(placed) = seal.text.env(vm.profile(reader)).profile else {
        return Ok(answer);
    };
    let all = placed.frozen();
    answer.total = all.len() as u32;
    for (slot, va) in answer.va.iter_mut().zip(all.skip(first as usize)) {
        *slot = va;
        answer.nr = answer.nr.saturating_add(1);
    }
    Ok(answer)
}

/// Gathers what a checked `request` and the profile tell, with the memory of `windows` as it is now.
///
/// # Errors
///
/// [`Refusal::WrongKernel`] if the profile is of another kernel, [`Refusal::TooBig`],
/// [`Refusal::Fault`] if a table is not in sealed memory, [`Refusal::NoMemory`].
pub(crate) fn gather(
    vm: &Vm,
    lock: &SlotsLock<'_>,
    request: &Request<'_>,
    windows: Windows<'_>,
) -> Result<Facts, Refusal> {
    let sealed = Sealed::new(lock, windows);
    let profile = vm.profile(lock.reader());
    let placed = match profile {
        Some(bytes) => Some(place(bytes.profile(), windows, &sealed)?),
        None => None,
    };
    let areas = Areas::new(request.areas());
    let env = Env {
        areas: &areas,
        sites: &[],
        probes: &[],
        profile: placed,
    };
    let mut sites = KVVec::new();
    let mut left = u64::from(abi::HEKI_MAX_SCAN_BYTES);
    for area in request.areas() {
        match area.kind {
            abi::HEKI_AREA_JUMP_TABLE => each_entry(&area, &sealed, |entry, va| {
                add(&mut sites, sites::jump_entry(entry, va, &env, &sealed))
            })?,
            abi::HEKI_AREA_STATIC_CALL_SITES => each_entry(&area, &sealed, |entry, va| {
                let site = sites::static_call(entry, va, &env, &sealed)
                    .map(|(site, key)| site.with_exemplar(callee(key, &areas, &sealed)));
                add(&mut sites, site)
            })?,
            abi::HEKI_AREA_MCOUNT => each_entry(&area, &sealed, |entry, _| {
                add(&mut sites, sites::ftrace_call(entry, &env, &sealed))
            })?,
            abi::HEKI_AREA_STATIC_CALL_TEXT => {
                let end = area.va.saturating_add(area.len);
                left = less(left, area.len)?;
                each_trampoline(area.va..end, &env, &sealed, &mut sites)?;
            }
            _ => {}
        }
    }
    // A module's trampolines lie anywhere in its text.
    for window in windows.iter() {
        if window.region.kind == abi::HEKI_KIND_MODULE_TEXT {
            left = less(left, window.last.saturating_sub(window.start))?;
            let end = window.last.saturating_add(1);
            each_trampoline(window.start..end, &env, &sealed, &mut sites)?;
        }
    }
    let used = sites::finish(sites.as_mut_slice());
    sites.truncate(used);
    // Where there is no memory to copy it to, it stays as long as it grew.
    let _ = sites.shrink_to(used, GFP_KERNEL_ACCOUNT);
    let probes = gather_probes(
        &Env {
            sites: sites.as_slice(),
            ..env
        },
        &sealed,
    )?;
    Ok(Facts {
        profiled: placed.map(|placed| placed.text_va()),
        areas,
        sites,
        probes,
    })
}

/// What was gathered at the seal of which this is the saved state. The guest's memory is there
/// already: its kernel must be the one of the profile still.
///
/// # Errors
///
/// [`Refusal::WrongKernel`] if the VMM gave no profile or that of another kernel,
/// [`Refusal::NoMemory`].
pub(crate) fn restore(
    vm: &Vm,
    lock: &SlotsLock<'_>,
    saved: &saved::Seal<'_>,
    windows: Windows<'_>,
) -> Result<Facts, Refusal> {
    if let Some(text_va) = saved.text_va {
        let profile = vm.profile(lock.reader()).ok_or(Refusal::WrongKernel)?;
        let placed = place(profile.profile(), windows, &Sealed::new(lock, windows))?;
        if placed.text_va() != text_va {
            return Err(Refusal::WrongKernel);
        }
    }
    Ok(Facts {
        areas: Areas::new(saved.request.areas()),
        sites: collect(saved.nr_sites(), saved.sites())?,
        probes: collect(saved.nr_probes(), saved.probes())?,
        profiled: saved.text_va,
    })
}

fn collect<T>(nr: usize, items: impl Iterator<Item = T>) -> Result<KVVec<T>, Refusal> {
    let mut all = KVVec::with_capacity(nr, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    for item in items {
        all.push(item, GFP_KERNEL_ACCOUNT)
            .map_err(|_| Refusal::NoMemory)?;
    }
    Ok(all)
}

/// Keeps what stands where the profile allows breakpoints. An address at which none can be is left
/// out; then the guest is told so when it asks.
fn gather_probes(env: &Env<'_>, sealed: &Sealed<'_>) -> Result<KVVec<Probe>, Refusal> {
    let mut probes = KVVec::new();
    let listed = env.profile.into_iter().flat_map(|profile| profile.probes());
    for probe in listed.filter_map(|va| Probe::find(va, env, sealed)) {
        probes
            .push(probe, GFP_KERNEL_ACCOUNT)
            .map_err(|_| Refusal::NoMemory)?;
    }
    let used = probes::finish(probes.as_mut_slice());
    probes.truncate(used);
    Ok(probes)
}

/// Holds the profile against what the guest seals: the kernel's text and its build ID.
fn place<'a>(
    profile: Profile<'a>,
    windows: Windows<'_>,
    sealed: &Sealed<'_>,
) -> Result<Placed<'a>, Refusal> {
    let text = kernel_text(windows).ok_or(Refusal::WrongKernel)?;
    let (va, len) = profile.build_id_at(text.va);
    let mut build_id = [0; abi::HEKI_MAX_BUILD_ID as usize];
    let build_id = build_id.get_mut(..len).ok_or(Refusal::WrongKernel)?;
    if !sealed.read(va, build_id) {
        return Err(Refusal::WrongKernel);
    }
    profile.matches(text.va, text.nr_pages() << PAGE_SHIFT, build_id)
}

/// The kernel's own text.
fn kernel_text(windows: Windows<'_>) -> Option<&Region> {
    windows
        .iter()
        .map(|window| window.region)
        .find(|region| region.kind == abi::HEKI_KIND_TEXT && region.rights.exec())
}

/// Calls `take` with each entry of `N` bytes of a table and its address.
fn each_entry<const N: usize>(
    table: &abi::Area,
    sealed: &Sealed<'_>,
    mut take: impl FnMut(&[u8; N], u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    // Whole entries of 8 and of 16 bytes.
    const STEP: usize = 512;
    let end = table.va.checked_add(table.len).ok_or(Refusal::Overflow)?;
    let mut chunk = [0; STEP];
    for start in (table.va..end).step_by(STEP) {
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(STEP);
        let chunk = chunk.get_mut(..len.min(STEP)).ok_or(Refusal::Fault)?;
        if !sealed.read(start, chunk) {
            return Err(Refusal::Fault);
        }
        for (entry, va) in chunk.chunks_exact(N).zip((start..end).step_by(N)) {
            take(entry.try_into().map_err(|_| Refusal::Fault)?, va)?;
        }
    }
    Ok(())
}

/// What is left of a budget of bytes.
fn less(left: u64, bytes: u64) -> Result<u64, Refusal> {
    left.checked_sub(bytes).ok_or(Refusal::TooBig)
}

/// Adds the trampolines of static calls in `range` of sealed text.
fn each_trampoline(
    range: Range<u64>,
    env: &Env<'_>,
    sealed: &Sealed<'_>,
    sites: &mut KVVec<Packed>,
) -> Result<(), Refusal> {
    // The last trampoline of a chunk may reach into the next one.
    const STEP: usize = 1024;
    let mut chunk = KVec::from_elem(0, STEP + sites::TRAMPOLINE_BYTES, GFP_KERNEL_ACCOUNT)
        .map_err(|_| Refusal::NoMemory)?;
    for start in range.clone().step_by(STEP) {
        let len = usize::try_from(range.end.saturating_sub(start)).unwrap_or(chunk.len());
        let len = len.min(chunk.len());
        let Some(chunk) = chunk.get_mut(..len) else {
            return Err(Refusal::Fault);
        };
        if !sealed.read(start, chunk) {
            return Err(Refusal::Fault);
        }
        for offset in sites::trampolines_in(chunk) {
            let va = start.saturating_add(offset as u64);
            add(sites, sites::call_trampoline(va, env, sealed))?;
        }
    }
    Ok(())
}

fn add(sites: &mut KVVec<Packed>, site: Option<Site>) -> Result<(), Refusal> {
    let Some(site) = site.and_then(|site| Packed::new(&site)) else {
        return Ok(());
    };
    if sites.len() >= abi::HEKI_MAX_SITES as usize {
        return Err(Refusal::TooBig);
    }
    sites
        .push(site, GFP_KERNEL_ACCOUNT)
        .map_err(|_| Refusal::NoMemory)
}

/// The function that the key at `key` calls now, zero if that cannot be told.
///
/// The key is plain data: it counts at the seal only, while the guest is trusted. That of a module
/// is not looked for; what stands at its sites tells enough.
fn callee(key: u64, areas: &Areas, sealed: &Sealed<'_>) -> u64 {
    let mut function = [0; 8];
    let in_image = areas
        .get(abi::HEKI_AREA_IMAGE)
        .is_some_and(|image| image.holds(key, function.len() as u64));
    match sealed.image_gpa(key) {
        Some(gpa) if in_image && sealed.lock.read_memory(gpa, &mut function) => {
            u64::from_le_bytes(function)
        }
        _ => 0,
    }
}

/// Sealed memory by the guest kernel's addresses.
pub(crate) struct Sealed<'a> {
    lock: &'a SlotsLock<'a>,
    windows: Windows<'a>,
    /// The window that was found last: most looks are at the text.
    last: Cell<Option<Window<'a>>>,
}

impl<'a> Sealed<'a> {
    /// The memory of `windows`.
    pub(crate) fn new(lock: &'a SlotsLock<'a>, windows: Windows<'a>) -> Self {
        Self {
            lock,
            windows,
            last: Cell::new(None),
        }
    }

    /// The window around `va`.
    fn find(&self, va: u64) -> Option<Window<'a>> {
        let known = self.last.get().filter(|window| window.holds(va));
        let found = known.or_else(|| self.windows.find(va));
        self.last.set(found);
        found
    }

    /// Guest physical address of `va` in the kernel's image, which lies in one piece after its text.
    fn image_gpa(&self, va: u64) -> Option<u64> {
        let text = kernel_text(self.windows)?;
        (text.start << PAGE_SHIFT).checked_add(va.checked_sub(text.va)?)
    }

    /// Guest physical address of `va`, and how many bytes follow it there.
    pub(crate) fn translate(&self, va: u64) -> Option<(u64, u64)> {
        self.find(va)?.translate(va)
    }
}

impl Text for Sealed<'_> {
    fn read(&self, va: u64, out: &mut [u8]) -> bool {
        let mut va = va;
        let mut out = out;
        while !out.is_empty() {
            let Some(window) = self.find(va) else {
                return false;
            };
            let Some((gpa, left)) = window.translate(va) else {
                return false;
            };
            let here = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
            let Some((chunk, rest)) = out.split_at_mut_checked(here) else {
                return false;
            };
            if window.region.rights.write() || !self.lock.read_memory(gpa, chunk) {
                return false;
            }
            va = va.wrapping_add(here as u64);
            out = rest;
        }
        true
    }

    fn kind(&self, va: u64) -> Option<u32> {
        let region = self.find(va)?.region;
        (region.rights.exec() && !region.rights.write()).then_some(region.kind)
    }
}

/// The order of the windows of `regions`.
pub(crate) fn order(regions: &[Region]) -> Result<KVVec<u32>, Refusal> {
    let mut order =
        KVVec::from_elem(0, regions.len(), GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    let used = address::index(regions, order.as_mut_slice())?;
    order.truncate(used);
    Ok(order)
}

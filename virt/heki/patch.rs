// SPDX-License-Identifier: GPL-2.0

//! Changes of text: what the kernel would write itself, as requests to the host.
//!
//! The kernel's own functions know no failure, so a refusal is said once in the log, and the text stays as it is.
//!
//! Neighbours: [`ffi`](crate::ffi) calls in, [`hypercall`](crate::hypercall) goes out.
//! Locks: `text_mutex` is held by the caller, then [`PATCH`]; neither for [`single`], which kgdb calls while all
//! other CPUs are stopped.

#![deny(unsafe_code)]

use core::ffi::CStr;
use kernel::{
    pr_err_once,
    pr_info_once,
    prelude::*, //
};
use zerocopy::FromBytes;

use crate::{
    abi,
    ffi::{
        self,
        Batch,
        Poke,
        Small,
        PATCH, //
    },
    hooks,
    hypercall::{
        self,
        PatchOne, //
    }, //
};

const SITES_REFUSED: &CStr =
    c"the host does not know them or holds them; the VMM's profile of this kernel says which may change";
const BREAKPOINT_REFUSED: &CStr =
    c"the VMM's list of breakpoints lacks it (heki-vmm --probes); kprobes work at the start of functions that ftrace knows";
const CODE_REFUSED: &CStr =
    c"the host allows no new code; bpf=interpreter keeps BPF from compiling any";

/// Room for a full request.
pub(crate) fn new_block() -> Result<KVec<u8>> {
    let bytes = size_of::<abi::Patch>() + abi::HEKI_MAX_PATCHES as usize * size_of::<abi::Site>();
    Ok(KVec::from_elem(0, bytes, GFP_KERNEL)?)
}

/// Has the host change a batch. Returns whether the kernel must not do it itself, which is so even if the host refuses.
pub(crate) fn batch(batch: &Batch<'_>) -> bool {
    if !hooks::in_force() {
        return false;
    }
    let mut block = PATCH.lock();
    match split(&mut block).and_then(|(_, sites)| batch.fill(sites)) {
        Some(nr) => change(&mut block, nr),
        None => pr_err_once!("a batch of changes of text is too large\n"),
    }
    true
}

/// Has the host change one instruction. Returns whether it did; if not, the kernel may do it itself.
///
/// # Errors
///
/// If the host refuses, or if it is no instruction.
pub(crate) fn single(poke: &Poke<'_>) -> Result<bool> {
    if !hooks::in_force() {
        return Ok(false);
    }
    let Some(site) = poke.site() else {
        ffi::refused(poke.va(), 1, CODE_REFUSED);
        return Err(EPERM);
    };
    ask_one(site)?;
    Ok(true)
}

/// Whether a breakpoint may be prepared at `place`, a byte that is to stay what it is: the host lets that pass only
/// where it lets INT3 pass.
///
/// # Errors
///
/// If the host refuses.
pub(crate) fn may_probe(place: &Poke<'_>) -> Result {
    match place.site() {
        Some(site) if hooks::in_force() => ask_one(site),
        _ => Ok(()),
    }
}

/// Whether a kprobe may become a jump.
///
/// # Errors
///
/// [`EPERM`] once the host changes text: it allows none.
pub(crate) fn may_jump() -> Result {
    if !hooks::in_force() {
        return Ok(());
    }
    pr_info_once!("kprobes stay breakpoints: no policy allows the jumps of optimized ones\n");
    Err(EPERM)
}

/// Asks for one change.
fn ask_one(site: abi::Site) -> Result {
    let header = abi::Patch {
        version: abi::HEKI_ABI_VERSION,
        nr_sites: 1,
    };
    hypercall::patch_one(&mut Small(PatchOne { header, site })).inspect_err(|_| {
        let of_probe = site.len == 1 || site.len == abi::HEKI_SLOT_BYTES.into();
        let why = if of_probe {
            BREAKPOINT_REFUSED
        } else {
            SITES_REFUSED
        };
        ffi::refused(site.va, 1, why);
    })
}

/// Asks for the first `nr` sites of `block` at once; if the host refuses, for each by itself, so that one which it does
/// not serve keeps back no other.
fn change(block: &mut KVec<u8>, nr: usize) {
    if ask(block, 0, nr).is_ok() {
        return;
    }
    let mut refused = 0;
    let mut first = 0;
    for at in 0..nr {
        if let Err(va) = ask(block, at, 1) {
            first = if refused == 0 { va } else { first };
            refused += 1;
        }
    }
    if refused != 0 {
        ffi::refused(first, refused, SITES_REFUSED);
    }
}

/// Puts site `from` first, and asks for `nr` sites. The error is where the first one is.
fn ask(block: &mut KVec<u8>, from: usize, nr: usize) -> Result<(), u64> {
    let (header, sites) = split(block).ok_or(0u64)?;
    let site = sites.get(from).copied().ok_or(0u64)?;
    *sites.first_mut().ok_or(0u64)? = site;
    header.version = abi::HEKI_ABI_VERSION;
    header.nr_sites = nr as u32;
    let bytes = size_of::<abi::Patch>() + nr * size_of::<abi::Site>();
    hypercall::patch(block, bytes).map_err(|_| site.va)?;
    if let Some(sites) = split(block).and_then(|(_, sites)| sites.get(..nr)) {
        ffi::text_changed(sites);
    }
    Ok(())
}

/// The header of a request and its sites, used or not.
fn split(block: &mut [u8]) -> Option<(&mut abi::Patch, &mut [abi::Site])> {
    let (header, sites) = abi::Patch::mut_from_prefix(block).ok()?;
    Some((header, <[abi::Site]>::mut_from_bytes(sites).ok()?))
}

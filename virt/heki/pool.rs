// SPDX-License-Identifier: GPL-2.0

//! Pages that turn to text and back, as requests to the host.
//!
//! The kernel keeps a pool of executable memory. A page that it takes from there becomes writable, so the host must
//! release it first; a page that it gives back, or that holds a trampoline of ftrace, is to run again, which the host
//! grants when it has seen what is in it.
//!
//! Neighbours: [`ffi`](crate::ffi) calls in, [`hypercall`](crate::hypercall) goes out. Locks: [`POOL`].

#![deny(unsafe_code)]

use core::ffi::CStr;
use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use zerocopy::FromBytes;

use crate::{
    abi,
    ffi::{
        self,
        POOL, //
    },
    hooks,
    hypercall, //
};

/// Ranges in one request. The pool lies in large frames, so a few would do.
const MAX_RANGES: usize = 64;

const RELEASE_REFUSED: &CStr =
    c"the host keeps these pages as text, they were when this kernel was sealed";
const GRANT_REFUSED: &CStr =
    c"the host lets these pages not run, they are neither a trampoline of ftrace nor empty";

/// Room for a request.
pub(crate) fn new_block() -> Result<KVec<u8>> {
    let bytes = size_of::<abi::Grant>() + MAX_RANGES * size_of::<abi::Range>();
    Ok(KVec::from_elem(0, bytes, GFP_KERNEL)?)
}

/// Has the host make `size` bytes of text writable, before the kernel does.
///
/// # Errors
///
/// If the host refuses; then they stay text. If they are many, those before the ones that it refuses run no more.
pub(crate) fn release(va: u64, size: u64) -> Result {
    for_all(va, size, 0, hypercall::release, RELEASE_REFUSED)
}

/// Has the host let `size` bytes run, after the kernel made them read-only.
///
/// # Errors
///
/// If the host refuses; then they stay writable for the host, and may be released again.
pub(crate) fn grant(va: u64, size: u64) -> Result {
    for_all(va, size, abi::HEKI_EXEC, hypercall::grant, GRANT_REFUSED)
}

/// Asks the host for all pages, in as many requests as it takes.
fn for_all(
    va: u64,
    size: u64,
    rights: u32,
    request: fn(&mut KVec<u8>, usize) -> Result,
    why: &CStr,
) -> Result {
    let mut block = POOL.lock();
    if !hooks::in_force() {
        return Ok(());
    }
    let mut at = va;
    let end = va.saturating_add(size);
    while at < end {
        let (next, bytes) = fill(&mut block, at, end, rights)?;
        request(&mut block, bytes).inspect_err(|_| ffi::refused(at, 1, why))?;
        at = next;
    }
    Ok(())
}

/// Writes a request for pages from `va` on, and returns where the next one starts and the length of this one.
fn fill(block: &mut [u8], va: u64, end: u64, rights: u32) -> Result<(u64, usize)> {
    let (header, ranges) = abi::Grant::mut_from_prefix(block).map_err(|_| EINVAL)?;
    let ranges = <[abi::Range]>::mut_from_bytes(ranges).map_err(|_| EINVAL)?;
    let last = va.saturating_add(u64::from(abi::HEKI_MAX_GRANT_PAGES) * PAGE_SIZE as u64);
    let mut nr = 0;
    let mut at = va;
    while at < end.min(last) {
        let gpa = gpa(at)?;
        match ranges.get_mut(..nr).and_then(<[_]>::last_mut) {
            Some(range) if range.gpa + range.len == gpa => range.len += PAGE_SIZE as u64,
            _ => {
                let Some(range) = ranges.get_mut(nr) else {
                    break;
                };
                *range = abi::Range {
                    gpa,
                    len: PAGE_SIZE as u64,
                    va: at,
                    rights,
                    kind: abi::HEKI_KIND_POOL,
                };
                nr += 1;
            }
        }
        at += PAGE_SIZE as u64;
    }
    header.version = abi::HEKI_ABI_VERSION;
    header.nr_ranges = nr as u32;
    Ok((at, size_of::<abi::Grant>() + nr * size_of::<abi::Range>()))
}

/// The physical page that is mapped at `va`.
fn gpa(va: u64) -> Result<u64> {
    let leaf = ffi::leaf(va);
    if !leaf.present {
        return Err(EFAULT);
    }
    Ok(leaf.phys + (va & (leaf.size - 1) & PAGE_MASK as u64))
}

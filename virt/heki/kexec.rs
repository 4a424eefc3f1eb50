// SPDX-License-Identifier: GPL-2.0

//! Going over to another kernel after the seal: the host's VMM takes it, judges it, and starts it.
//!
//! This kernel keeps nothing of it, so there is nothing that could be changed between the check and the start. Before
//! the seal kexec is the kernel's own.
//!
//! Neighbours: [`ffi`] calls in, [`hypercall`] goes out; [`lifecycle`](crate::lifecycle) says whether the host takes
//! kernels. Locks: that of kexec, around the steps FILE and START.

#![deny(unsafe_code)]

use core::ffi::CStr;
use kernel::{
    ffi::c_int,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::{
    abi,
    ffi::{
        self,
        KernelFile, //
    },
    hooks,
    hypercall, //
};

/// Bytes that go to the host at once: a kmalloc() of so many starts on a page.
const PART_BYTES: usize = 64 << 10;

/// `GUEST_KEXEC_LOAD`.
const LOAD: c_int = 0;
/// `GUEST_KEXEC_FILE`.
const FILE: c_int = 1;
/// `GUEST_KEXEC_LOADED`.
const LOADED: c_int = 2;
/// `GUEST_KEXEC_START`.
const START: c_int = 3;
/// `GUEST_KEXEC_CRASH`.
const CRASHED: c_int = 4;

/// `KEXEC_FILE_UNLOAD`.
const UNLOAD: u64 = 1 << 0;
/// `KEXEC_FILE_ON_CRASH`.
const ON_CRASH: u64 = 1 << 1;

const KEXEC: &CStr = c"kexec";
const NOT_SERVED: &CStr = c"no policy of the VMM allows a kernel";
const OLD_CALL: &CStr = c"the host takes a kernel only as a file, by kexec_file_load()";
const CRASH: &CStr = c"the host keeps no kernel for a crash; let the VMM take the dump";
const UNLISTED: &CStr = c"the VMM's list lacks this kernel";
const FAILED: &CStr = c"the VMM did not take this kernel, it may be too large for it";

/// Whether the host's VMM takes kernels.
static SERVED: Atomic<bool> = Atomic::new(false);
/// Whether it has one that can be started.
static HAS_ONE: Atomic<bool> = Atomic::new(false);

/// Called once, when this kernel is sealed and the host's VMM takes kernels.
pub(crate) fn serve() {
    SERVED.store(true, Relaxed);
}

/// A step of kexec; `true` if it is done or so, `false` to leave it to the kernel.
pub(crate) fn step(step: c_int, fd: c_int, flags: u64) -> Result<bool> {
    if !hooks::in_force() {
        return Ok(false);
    }
    match step {
        LOAD if SERVED.load(Relaxed) => Err(refuse(OLD_CALL)),
        LOAD => Err(refuse(NOT_SERVED)),
        FILE => file(fd, flags),
        LOADED => Ok(HAS_ONE.load(Relaxed)),
        START if HAS_ONE.load(Relaxed) => ffi::start_kernel().map(|()| true),
        START => Ok(false),
        CRASHED => Err(refuse(CRASH)),
        _ => Err(EINVAL),
    }
}

/// kexec_file_load(2).
fn file(fd: c_int, flags: u64) -> Result<bool> {
    if flags & ON_CRASH != 0 {
        return Err(refuse(CRASH));
    }
    if flags & UNLOAD != 0 {
        HAS_ONE.store(false, Relaxed);
        // One that was loaded before the seal may go as well.
        return Ok(false);
    }
    if !SERVED.load(Relaxed) {
        return Err(refuse(NOT_SERVED));
    }
    let image = KernelFile::read(fd, abi::HEKI_MAX_KEXEC_BYTES as usize)?;
    HAS_ONE.store(false, Relaxed);
    load(image.bytes()).inspect_err(|&err| {
        ffi::refused_use(KEXEC, if err == EPERM { UNLISTED } else { FAILED });
    })?;
    HAS_ONE.store(true, Relaxed);
    pr_info!(
        "kexec: the VMM keeps this kernel, and starts it with its own initrd and command line\n"
    );
    Ok(true)
}

/// Passes a kernel to the VMM, part by part.
fn load(image: &[u8]) -> Result {
    let mut block = KVec::from_elem(0u8, PART_BYTES, GFP_KERNEL)?;
    let gpa = ffi::gpa(&block);
    let mut offset = 0;
    for part in image.chunks(PART_BYTES) {
        let first = if offset == 0 {
            abi::HEKI_KEXEC_FIRST
        } else {
            0
        };
        let end = offset + part.len();
        let last = if end == image.len() {
            abi::HEKI_KEXEC_LAST
        } else {
            0
        };
        block
            .get_mut(..part.len())
            .ok_or(EINVAL)?
            .copy_from_slice(part);
        hypercall::kexec(abi::Kexec {
            version: abi::HEKI_ABI_VERSION,
            flags: first | last,
            gpa,
            len: part.len() as u64,
            offset: offset as u64,
        })?;
        offset = end;
    }
    Ok(())
}

/// Has the VMM start the kernel that it keeps. Returns if it does not.
pub(crate) fn go() {
    let start = abi::Kexec {
        version: abi::HEKI_ABI_VERSION,
        flags: abi::HEKI_KEXEC_START,
        gpa: 0,
        len: 0,
        offset: 0,
    };
    let _ = hypercall::kexec(start);
}

fn refuse(why: &CStr) -> Error {
    ffi::refused_use(KEXEC, why);
    EPERM
}

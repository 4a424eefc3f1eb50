// SPDX-License-Identifier: GPL-2.0

//! The floor: safe views of `shim.c`, and the door through which it calls.
//!
//! Neighbours: `shim.h` declares the same on the C side. Locks: none.

// UNSAFETY: Every function of the shim takes and returns plain values, or fills a structure that the wrapper owns.

use core::{
    ffi::CStr,
    mem::MaybeUninit, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi::{
        c_char,
        c_int,
        c_long,
        c_void, //
    },
    prelude::*, //
};

/// What one page-table entry maps (`struct heki_leaf`).
#[repr(C)]
pub(crate) struct Leaf {
    /// First byte of the page, if present.
    pub(crate) phys: u64,
    /// Bytes that the entry, or the hole, spans.
    pub(crate) size: u64,
    /// Whether the hardware would use the entry.
    pub(crate) present: bool,
    /// Whether it allows writes.
    pub(crate) writable: bool,
    /// Whether it allows execution.
    pub(crate) executable: bool,
}

/// Where the kernel keeps what may be sealed (`struct heki_areas`).
#[repr(C)]
pub(crate) struct Areas {
    /// First byte of the kernel image mapping.
    pub(crate) image: u64,
    /// First byte after it and of the module area.
    pub(crate) modules: u64,
    /// First byte after that.
    pub(crate) modules_end: u64,
    /// The direct map of address 0.
    pub(crate) low: u64,
    /// The direct map of 1 MiB.
    pub(crate) low_end: u64,
}

/// The clocksource in use (`struct heki_clock`).
#[repr(C)]
pub(crate) struct Clock {
    /// Whether it is one that the kernel means to replace.
    pub(crate) early: bool,
    /// How often it was changed, modulo 256.
    pub(crate) changes: u8,
}

extern "C" {
    fn heki_shim_on_kvm() -> bool;
    fn heki_shim_hypercall(op: u64, gpa: u64, len: u64) -> c_long;
    fn heki_shim_gpa(ptr: *const c_void) -> u64;
    fn heki_shim_idt() -> u64;
    fn heki_shim_areas(areas: *mut Areas);
    fn heki_shim_leaf(addr: u64, leaf: *mut Leaf);
    fn heki_shim_cr0() -> u64;
    fn heki_shim_cr4() -> u64;
    fn heki_shim_clock(clock: *mut Clock);
    fn heki_shim_quiesce();
    fn heki_shim_modules_settled() -> bool;
    fn heki_shim_sysctl(path: *const c_char, value: *const c_char) -> c_int;
    fn heki_shim_crash_kernel() -> bool;
    fn heki_shim_block() -> c_int;
    fn heki_shim_unblock();
    fn heki_shim_stop_efi() -> bool;
}

/// Called once, when the module is loaded. Returns 0 or a negative errno.
///
/// # Safety
///
/// `require` must point to a string that ends with NUL and stays as it is for the call.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_load(require: *const c_char) -> c_int {
    // SAFETY: By this function's safety requirements.
    let require = unsafe { CStr::from_ptr(require.cast()) };
    from_result(|| crate::seal::load(require.to_bytes()).map(|()| 0))
}

/// Whether this kernel runs under KVM.
pub(crate) fn on_kvm() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_on_kvm() }
}

/// Calls the host with a block that it may read and write.
pub(crate) fn hypercall(op: u32, block: &mut KVec<u8>) -> c_long {
    let len = block.len() as u64;
    // SAFETY: `block` comes from `kmalloc()`, so its memory is contiguous and in the direct map.
    let gpa = unsafe { heki_shim_gpa(block.as_mut_ptr().cast()) };
    // SAFETY: The host reads and writes no more than `len` bytes at `gpa`, and `block` is borrowed for that long.
    unsafe { heki_shim_hypercall(op.into(), gpa, len) }
}

/// Physical address of the page of the interrupt descriptor table, 0 if there is none.
pub(crate) fn idt() -> u64 {
    // SAFETY: No requirements.
    unsafe { heki_shim_idt() }
}

/// Where the kernel keeps what may be sealed.
pub(crate) fn areas() -> Areas {
    let mut areas = MaybeUninit::uninit();
    // SAFETY: The shim fills all of `areas`.
    unsafe {
        heki_shim_areas(areas.as_mut_ptr());
        areas.assume_init()
    }
}

/// What maps `addr`, a kernel address.
pub(crate) fn leaf(addr: u64) -> Leaf {
    let mut leaf = MaybeUninit::uninit();
    // SAFETY: The shim fills all of `leaf`, whatever the address.
    unsafe {
        heki_shim_leaf(addr, leaf.as_mut_ptr());
        leaf.assume_init()
    }
}

/// CR0 of this CPU.
pub(crate) fn cr0() -> u64 {
    // SAFETY: No requirements.
    unsafe { heki_shim_cr0() }
}

/// CR4 of this CPU.
pub(crate) fn cr4() -> u64 {
    // SAFETY: No requirements.
    unsafe { heki_shim_cr4() }
}

/// The clocksource in use.
pub(crate) fn clock() -> Clock {
    let mut clock = MaybeUninit::uninit();
    // SAFETY: The shim fills all of `clock`.
    unsafe {
        heki_shim_clock(clock.as_mut_ptr());
        clock.assume_init()
    }
}

/// Waits until the module loader has freed the init text of modules loaded before. May sleep.
pub(crate) fn quiesce() {
    // SAFETY: Called from the context of a system call, without locks.
    unsafe { heki_shim_quiesce() }
}

/// Whether no module but this one is being loaded or unloaded.
pub(crate) fn modules_settled() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_modules_settled() }
}

/// Writes a file below `/proc/sys`. May sleep.
pub(crate) fn write_sysctl(path: &CStr, value: &CStr) -> Result {
    // SAFETY: Both point to strings that end with NUL and outlive the call.
    to_result(unsafe { heki_shim_sysctl(path.as_ptr().cast(), value.as_ptr().cast()) })
}

/// Whether a crash kernel is loaded.
pub(crate) fn crash_kernel() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_crash_kernel() }
}

/// Refuses CPU hotplug, suspend, hibernation and kexec from now on. May sleep.
pub(crate) fn block() -> Result {
    // SAFETY: Called once, from the context of a system call, without locks.
    to_result(unsafe { heki_shim_block() })
}

/// Undoes [`block`]. May sleep.
pub(crate) fn unblock() {
    // SAFETY: As for `block()`, which succeeded before.
    unsafe { heki_shim_unblock() }
}

/// Turns EFI runtime services off and says whether they were on.
pub(crate) fn stop_efi() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_stop_efi() }
}

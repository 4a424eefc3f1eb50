// SPDX-License-Identifier: GPL-2.0

//! The floor: safe views of `shim.c`, and the doors through which it calls.
//!
//! Neighbours: `shim.h` and `text_hooks.h` declare the same on the C side.
//! Locks: `text_mutex`, then [`PATCH`] or [`POOL`].

// UNSAFETY: Every function of the shim takes and returns plain values, or fills a structure that the wrapper owns.

use core::{
    ffi::CStr,
    marker::PhantomData,
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
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::global_lock,
    types::NotThreadSafe, //
};
use zerocopy::{
    FromBytes,
    IntoBytes, //
};

use crate::{
    abi,
    kexec,
    lifecycle,
    patch,
    pool,
    show, //
};

global_lock! {
    // SAFETY: `heki_guest_load()` initializes it before anyone can lock it.
    /// The request for changes of text; empty until the hooks are installed.
    pub(crate) unsafe(uninit) static PATCH: Mutex<KVec<u8>> = KVec::new();
}

global_lock! {
    // SAFETY: `heki_guest_load()` initializes it before anyone can lock it.
    /// The request for changes of pages; empty until the hooks are installed. Whoever holds it keeps
    /// pages from turning to text or back.
    pub(crate) unsafe(uninit) static POOL: Mutex<KVec<u8>> = KVec::new();
}

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

/// What bits of a register should be on every CPU (`struct heki_expected`).
#[repr(C)]
pub(crate) struct Expected {
    /// The bits.
    pub(crate) mask: u64,
    /// With these.
    pub(crate) value: u64,
    /// `HEKI_REG_*`.
    pub(crate) reg: u32,
    /// As in [`abi::Pin`].
    pub(crate) index: u32,
    /// Set if some CPU has others.
    pub(crate) differs: bool,
}

/// The clocksource in use (`struct heki_clock`).
#[repr(C)]
pub(crate) struct Clock {
    /// Whether it is one that the kernel means to replace.
    pub(crate) early: bool,
    /// How often it was changed, modulo 256.
    pub(crate) changes: u8,
}

/// A general protection fault of this kernel (`struct heki_fault`).
#[repr(C)]
pub(crate) struct Fault {
    /// The instruction.
    pub(crate) ip: u64,
    /// The address that it names, or what it loads.
    pub(crate) value: u64,
    /// What it loads as the limit of IDTR or GDTR.
    pub(crate) limit: u64,
    /// What it is: `FAULT_*`.
    pub(crate) kind: u32,
    /// `HEKI_REG_*` that it loads.
    pub(crate) reg: u32,
    /// Number of the MSR that it loads, else 0.
    pub(crate) index: u32,
}

/// The instruction names memory.
pub(crate) const FAULT_MEMORY: u32 = 1;
/// It loads a control register.
pub(crate) const FAULT_CR: u32 = 2;
/// It loads another register, of TR the selector.
pub(crate) const FAULT_LOAD: u32 = 3;

/// `HEKI_DENIED_WRITE`.
const DENIED_WRITE: c_int = 1;
/// `HEKI_DENIED_EXEC`.
const DENIED_EXEC: c_int = 2;
/// `HEKI_DENIED_CR`.
const DENIED_CR: c_int = 3;
/// `HEKI_DENIED_LOAD`.
const DENIED_LOAD: c_int = 4;

/// What the host denied, for C (`struct heki_denial`).
#[repr(C)]
pub(crate) struct RawDenial {
    aim: u64,
    name: *const c_char,
    name_len: usize,
}

/// What the host denied.
pub(crate) enum Denial {
    /// A write of what the kernel has at this address.
    Write(u64),
    /// To run what is at this address.
    Exec(u64),
    /// To clear these bits of a control register.
    Register(u64),
    /// To change these bits of the register of this name.
    Load(&'static str, u64),
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
    fn heki_shim_read_register(reg: u32, index: u32, value: *mut u64) -> bool;
    fn heki_shim_compare_everywhere(all: *mut Expected, nr: usize);
    fn heki_shim_clock(clock: *mut Clock);
    fn heki_shim_quiesce();
    fn heki_shim_modules_settled() -> bool;
    fn heki_shim_write_sysctl(path: *const c_char, value: *const c_char) -> c_int;
    fn heki_shim_read_sysctl(path: *const c_char, value: *mut c_char, len: usize) -> isize;
    fn heki_shim_crash_kernel() -> bool;
    fn heki_shim_block() -> c_int;
    fn heki_shim_unblock();
    fn heki_shim_watch_wakes();
    fn heki_shim_block_cpus();
    fn heki_shim_unblock_cpus();
    fn heki_shim_stop_efi() -> bool;
    fn heki_shim_is_trap_page(addr: u64) -> bool;
    fn heki_shim_tables(areas: *mut abi::Area, max: usize) -> usize;
    fn heki_shim_untrace_self();
    fn heki_shim_install_hooks();
    fn heki_shim_remove_hooks();
    fn heki_shim_refused(addr: u64, nr: usize, why: *const c_char);
    fn heki_shim_frozen(addr: u64);
    fn heki_shim_refused_use(what: *const c_char, why: *const c_char);
    fn heki_shim_show() -> c_int;
    fn heki_shim_read_kernel(fd: c_int, image: *mut *mut c_void, max: usize) -> isize;
    fn heki_shim_free_kernel(image: *mut c_void);
    fn heki_shim_start_kernel() -> c_int;
    fn heki_text_lock();
    fn heki_text_unlock();
    fn heki_text_traced() -> bool;
    fn heki_text_stop_ftrace();
    fn heki_text_probed() -> bool;
    fn heki_text_poke(
        site: *mut abi::Site,
        addr: *const c_void,
        new: *const c_void,
        len: usize,
    ) -> bool;
    fn heki_text_sites(sites: *mut abi::Site, vec: *const c_void, nr: c_uint);
    fn heki_text_changed(sites: *const abi::Site, nr: c_uint);
}

/// Called once, when the module is loaded. Returns 0 or a negative errno.
///
/// # Safety
///
/// `require` and `bpf` must point to strings that end with NUL and stay as they are for the call.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_load(
    require: *const c_char,
    bpf: *const c_char,
) -> c_int {
    // SAFETY: By this function's safety requirements.
    let (require, bpf) = unsafe {
        (
            CStr::from_ptr(require.cast()),
            CStr::from_ptr(bpf.cast()), //
        )
    };
    // SAFETY: This function is called once, and no hook is installed yet.
    unsafe {
        PATCH.init();
        POOL.init();
    }
    from_result(|| crate::seal::load(require.to_bytes(), bpf.to_bytes()).map(|()| 0))
}

/// The kernel's batch of changes is due. Returns whether the kernel must not make them itself.
///
/// # Safety
///
/// `vec` must point to `nr` entries of the kernel's batch, which `text_mutex` protects, and that must be held.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_poke_batch(vec: *const c_void, nr: c_uint) -> bool {
    patch::batch(&Batch {
        vec,
        nr,
        _lifetime: PhantomData,
    })
}

/// The kernel wants to write text at `addr`. Returns 0 if it may do so itself, 1 if it is done, else a
/// negative errno.
///
/// # Safety
///
/// `addr` and, unless `set`, `src` must point to `len` readable bytes.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_poke(
    addr: *mut c_void,
    src: *const c_void,
    len: usize,
    set: bool,
) -> c_int {
    from_result(|| {
        patch::single(&Poke {
            addr,
            src,
            len,
            set,
            _lifetime: PhantomData,
        })
        .map(c_int::from)
    })
}

/// Whether a breakpoint, or the `jump` of an optimized kprobe, may be put at `addr`: 0 or a negative errno.
///
/// # Safety
///
/// `addr` must point to a readable byte.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_may_probe(addr: *const c_void, jump: bool) -> c_int {
    from_result(|| {
        let place = Poke {
            addr: addr.cast_mut(),
            src: addr,
            len: 1,
            set: false,
            _lifetime: PhantomData,
        };
        if jump {
            patch::may_jump().map(|()| 0)
        } else {
            patch::may_probe(&place).map(|()| 0)
        }
    })
}

/// Whether a module may come or go: 0 or a negative errno.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_may_load() -> c_int {
    from_result(|| lifecycle::may_load().map(|()| 0))
}

/// Pages of text are to become writable. Returns 0 or a negative errno.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_make_rw(ptr: *mut c_void, size: usize) -> c_int {
    from_result(|| pool::release(ptr as u64, size as u64).map(|()| 0))
}

/// Pages have become read-only and are to run. Returns 0 or a negative errno.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_make_rox(ptr: *mut c_void, size: usize) -> c_int {
    from_result(|| pool::grant(ptr as u64, size as u64).map(|()| 0))
}

/// A step of kexec. Returns 1 if it is done or so, 0 to leave it to the kernel, or a negative errno. May sleep.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_kexec(step: c_int, fd: c_int, flags: c_ulong) -> c_int {
    from_result(|| kexec::step(step, fd, flags as u64).map(c_int::from))
}

/// Has the host start the kernel that was loaded. Returns if it does not.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_start_kernel() {
    kexec::go();
}

/// Whether the host says that this kernel is sealed. Does not sleep.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_is_sealed() -> bool {
    show::is_sealed()
}

/// Whether the protection at place `at` is held. If not, `why` and `len` say why not.
///
/// # Safety
///
/// `why` and `len` must be valid for a write.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_held(
    at: usize,
    why: *mut *const c_char,
    len: *mut usize,
) -> bool {
    let offer = show::protection(at);
    let text = offer.err().unwrap_or_default();
    // SAFETY: By this function's safety requirements.
    unsafe {
        why.write(text.as_ptr().cast());
        len.write(text.len());
    }
    offer.is_ok()
}

/// How many ranges are sealed.
#[no_mangle]
pub(crate) extern "C" fn heki_guest_nr_ranges() -> usize {
    show::nr_ranges()
}

/// What the host denied, if that is what made this fault: 0 nothing, or `HEKI_DENIED_*` and the details.
///
/// # Safety
///
/// `fault` must point to a fault, and `denial` must be valid for a write.
#[no_mangle]
pub(crate) unsafe extern "C" fn heki_guest_judge(
    fault: *const Fault,
    denial: *mut RawDenial,
) -> c_int {
    // SAFETY: By this function's safety requirements.
    let (what, aim, name) = match show::judge(unsafe { &*fault }) {
        None => (0, 0, ""),
        Some(Denial::Write(va)) => (DENIED_WRITE, va, ""),
        Some(Denial::Exec(ip)) => (DENIED_EXEC, ip, ""),
        Some(Denial::Register(bits)) => (DENIED_CR, bits, ""),
        Some(Denial::Load(name, bits)) => (DENIED_LOAD, bits, name),
    };
    let raw = RawDenial {
        aim,
        name: name.as_ptr().cast(),
        name_len: name.len(),
    };
    // SAFETY: By this function's safety requirements.
    unsafe { denial.write(raw) };
    what
}

/// The kernel's batch of changes.
///
/// # Invariants
///
/// `vec` points to `nr` entries, and `text_mutex` is held for `'a`.
pub(crate) struct Batch<'a> {
    vec: *const c_void,
    nr: c_uint,
    _lifetime: PhantomData<&'a ()>,
}

impl Batch<'_> {
    /// Writes as many sites as there are changes, if there is room for all, and returns their number.
    pub(crate) fn fill(&self, sites: &mut [abi::Site]) -> Option<usize> {
        let nr = self.nr as usize;
        let sites = sites.get_mut(..nr)?;
        // SAFETY: By the type invariants; `sites` has room for `nr`.
        unsafe { heki_text_sites(sites.as_mut_ptr(), self.vec, self.nr) };
        Some(nr)
    }
}

/// Bytes that the kernel wants to write into its text.
///
/// # Invariants
///
/// `addr` and, unless `set`, `src` point to `len` readable bytes for `'a`.
pub(crate) struct Poke<'a> {
    addr: *mut c_void,
    src: *const c_void,
    len: usize,
    set: bool,
    _lifetime: PhantomData<&'a ()>,
}

impl Poke<'_> {
    /// Where.
    pub(crate) fn va(&self) -> u64 {
        self.addr as u64
    }

    /// As a site, if it can be an instruction or the slot of one.
    pub(crate) fn site(&self) -> Option<abi::Site> {
        if self.set {
            return None;
        }
        let mut site = MaybeUninit::uninit();
        // SAFETY: By the type invariants; if the return value says so, all of the site is filled.
        unsafe {
            heki_text_poke(site.as_mut_ptr(), self.addr, self.src, self.len)
                .then(|| site.assume_init())
        }
    }
}

/// A block small enough for the stack: its alignment keeps it within a page.
#[repr(align(64))]
pub(crate) struct Small<T>(pub(crate) T);

/// `text_mutex`, until dropped.
pub(crate) struct TextLock(NotThreadSafe);

impl TextLock {
    /// Takes it. May sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: No requirements; `drop()` unlocks it.
        unsafe { heki_text_lock() };
        Self(NotThreadSafe)
    }
}

impl Drop for TextLock {
    fn drop(&mut self) {
        // SAFETY: `new()` locked it, in this task.
        unsafe { heki_text_unlock() };
    }
}

/// Whether this kernel runs under KVM.
pub(crate) fn on_kvm() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_on_kvm() }
}

/// Calls the host with the first `len` bytes of a block that it may read and write.
pub(crate) fn hypercall(op: u32, block: &mut KVec<u8>, len: usize) -> c_long {
    let len = len.min(block.len()) as u64;
    // SAFETY: `block` comes from `kmalloc()`, so its memory is contiguous and in the direct map.
    let gpa = unsafe { heki_shim_gpa(block.as_mut_ptr().cast()) };
    // SAFETY: The host reads and writes no more than `len` bytes at `gpa`, and `block` is borrowed for that long.
    unsafe { heki_shim_hypercall(op.into(), gpa, len) }
}

/// Calls the host with a block on the stack. Does not sleep.
pub(crate) fn hypercall_small<T: FromBytes + IntoBytes>(op: u32, block: &mut Small<T>) -> c_long {
    const { assert!(size_of::<T>() <= align_of::<Small<T>>()) };
    let len = size_of::<T>() as u64;
    // SAFETY: `block` does not cross a page, by the assertion above.
    let gpa = unsafe { heki_shim_gpa((&raw mut block.0).cast()) };
    // SAFETY: The host reads and writes no more than `len` bytes at `gpa`, `block` is borrowed for that long, and
    // any bytes are a `T`.
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

/// A register (`HEKI_REG_*` and index) of this CPU other than CR0 and CR4, `None` if it has no such register.
pub(crate) fn read_register(reg: u32, index: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: The pointer is valid for a write.
    let ok = unsafe { heki_shim_read_register(reg, index, &mut value) };
    ok.then_some(value)
}

/// Compares registers with those of every CPU, at once. Waits for the other CPUs.
pub(crate) fn compare_everywhere(all: &mut [Expected]) {
    // SAFETY: The shim writes nothing but `differs`, and no CPU is at it any more when it returns.
    unsafe { heki_shim_compare_everywhere(all.as_mut_ptr(), all.len()) }
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

/// Writes a file below `/proc`. May sleep.
pub(crate) fn write_sysctl(path: &CStr, value: &CStr) -> Result {
    // SAFETY: Both point to strings that end with NUL and outlive the call.
    to_result(unsafe { heki_shim_write_sysctl(path.as_ptr().cast(), value.as_ptr().cast()) })
}

/// Reads the first byte of a file below `/proc`. May sleep.
pub(crate) fn read_sysctl(path: &CStr) -> Result<u8> {
    let mut value = 0u8;
    // SAFETY: `path` ends with NUL, `value` has room for one byte, and both outlive the call.
    let ret = unsafe { heki_shim_read_sysctl(path.as_ptr().cast(), (&raw mut value).cast(), 1) };
    match ret {
        1 => Ok(value),
        0 => Err(EIO),
        err => Err(Error::from_errno(err.try_into()?)),
    }
}

/// Whether a crash kernel is loaded.
pub(crate) fn crash_kernel() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_crash_kernel() }
}

/// Refuses suspend, hibernation and kexec from now on. May sleep.
pub(crate) fn block() -> Result {
    // SAFETY: Called once, from the context of a system call, without locks.
    to_result(unsafe { heki_shim_block() })
}

/// Undoes [`block`]. May sleep.
pub(crate) fn unblock() {
    // SAFETY: As for `block()`, which succeeded before.
    unsafe { heki_shim_unblock() }
}

/// Ends this kernel if it ever wakes up where the host does not hold it. May sleep.
pub(crate) fn watch_wakes() {
    // SAFETY: Called once, from the context of a system call, without locks.
    unsafe { heki_shim_watch_wakes() }
}

/// Refuses CPU hotplug from now on. May sleep.
pub(crate) fn block_cpus() {
    // SAFETY: Called from the context of a system call, without locks.
    unsafe { heki_shim_block_cpus() }
}

/// Undoes one [`block_cpus`]. May sleep.
pub(crate) fn unblock_cpus() {
    // SAFETY: As for `block_cpus()`, which was called before.
    unsafe { heki_shim_unblock_cpus() }
}

/// Turns EFI runtime services off and says whether they were on.
pub(crate) fn stop_efi() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_shim_stop_efi() }
}

/// Whether the page at `addr`, a kernel address, holds nothing but INT3.
pub(crate) fn is_trap_page(addr: u64) -> bool {
    // SAFETY: No requirements: the shim survives an address that is not mapped.
    unsafe { heki_shim_is_trap_page(addr) }
}

/// Writes what the host must know of the kernel's text and of that of modules, and returns how many
/// areas that are, more than `areas` has if there is no room.
pub(crate) fn tables(areas: &mut [abi::Area]) -> usize {
    // SAFETY: The shim writes no more areas than `areas` has.
    unsafe { heki_shim_tables(areas.as_mut_ptr(), areas.len()) }
}

/// Whether functions are traced.
pub(crate) fn traced() -> bool {
    // SAFETY: No requirements.
    unsafe { heki_text_traced() }
}

/// Refuses all tracing of functions, for good. None is traced.
pub(crate) fn stop_ftrace() {
    // SAFETY: No requirements.
    unsafe { heki_text_stop_ftrace() }
}

/// Whether breakpoints of kprobes may be in the text. May sleep.
pub(crate) fn probed() -> bool {
    // SAFETY: Called from the context of a system call, without locks.
    unsafe { heki_text_probed() }
}

/// Takes the functions of this module from those that can be traced. May sleep.
pub(crate) fn untrace_self() {
    // SAFETY: Called from the context of a system call, without locks.
    unsafe { heki_shim_untrace_self() }
}

/// Has the kernel call the doors above. May sleep.
pub(crate) fn install_hooks() {
    // SAFETY: Called from the context of a system call, without locks.
    unsafe { heki_shim_install_hooks() }
}

/// Undoes [`install_hooks`], and waits until no hook runs. May sleep.
pub(crate) fn remove_hooks() {
    // SAFETY: As for `install_hooks()`, which was called before.
    unsafe { heki_shim_remove_hooks() }
}

/// Tells perf which text has changed.
pub(crate) fn text_changed(sites: &[abi::Site]) {
    // SAFETY: `sites` has that many; a batch has 256 at most.
    unsafe { heki_text_changed(sites.as_ptr(), sites.len() as c_uint) }
}

/// Says that a change at `addr`, the first of `nr`, is refused, and why. Does not sleep.
pub(crate) fn refused(addr: u64, nr: usize, why: &CStr) {
    // SAFETY: `why` ends with NUL and outlives the call.
    unsafe { heki_shim_refused(addr, nr, why.as_ptr().cast()) }
}

/// Says that the key, or the trampoline, at `addr` is frozen. Does not sleep.
pub(crate) fn frozen(addr: u64) {
    // SAFETY: No requirements: the address is only looked up.
    unsafe { heki_shim_frozen(addr) }
}

/// Says that `what` is refused, and why. Does not sleep.
pub(crate) fn refused_use(what: &CStr, why: &CStr) {
    // SAFETY: Both end with NUL and outlive the call.
    unsafe { heki_shim_refused_use(what.as_ptr().cast(), why.as_ptr().cast()) }
}

/// The file of a kernel, in memory.
///
/// # Invariants
///
/// `image` is what `heki_shim_read_kernel()` read, and holds `len` bytes.
pub(crate) struct KernelFile {
    image: *mut c_void,
    len: usize,
}

impl KernelFile {
    /// Reads a file of `max` bytes at most. May sleep.
    pub(crate) fn read(fd: c_int, max: usize) -> Result<Self> {
        let mut image = core::ptr::null_mut();
        // SAFETY: The pointer is valid for a write.
        let len = unsafe { heki_shim_read_kernel(fd, &mut image, max) };
        if len < 0 {
            return Err(Error::from_errno(len.try_into()?));
        }
        // INVARIANT: By the return value.
        Ok(Self {
            image,
            len: len as usize,
        })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: By the type invariants; nobody else has the memory.
        unsafe { core::slice::from_raw_parts(self.image.cast(), self.len) }
    }
}

impl Drop for KernelFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; it is not used again.
        unsafe { heki_shim_free_kernel(self.image) }
    }
}

/// Shuts this kernel down and has the host start the one that was loaded, by [`heki_guest_start_kernel`]. Returns
/// an error if it cannot begin.
pub(crate) fn start_kernel() -> Result {
    // SAFETY: Called from the context of a system call, which holds the lock of kexec alone.
    to_result(unsafe { heki_shim_start_kernel() })
}

/// The address that the host reads a block at. It is memory of `kmalloc()`.
pub(crate) fn gpa(block: &KVec<u8>) -> u64 {
    // SAFETY: No requirements: the address is only looked up.
    unsafe { heki_shim_gpa(block.as_ptr().cast()) }
}

/// Makes `/sys/kernel/heki/`, and has oopses looked at before they are printed. May sleep.
pub(crate) fn show() -> Result {
    // SAFETY: Called once, from the context of a system call, without locks.
    to_result(unsafe { heki_shim_show() })
}

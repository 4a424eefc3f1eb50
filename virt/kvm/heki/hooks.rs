// SPDX-License-Identifier: GPL-2.0

//! The door: what KVM's C calls. Each function makes safe views of its arguments and asks one room.
//!
//! UNSAFETY: turns the pointers that C passes into references. Their contracts are those of
//! `include/linux/kvm_heki.h`, kept by `arch/x86/kvm/heki.c`.
//! Locks: as each function says.

use crate::{
    abi,
    consent::{
        self,
        Pending, //
    },
    hypercall::{
        self,
        Call, //
    },
    kvm::{
        publish::Reader,
        slots::SlotsLock,
        vcpu::Vcpu, //
    },
    pin,
    policy::{
        registers,
        rights::Rights, //
    },
    protect,
    show,
    state,
    text,
    vm::Vm, //
};
use core::{
    ptr,
    slice, //
};
use kernel::{
    bindings,
    error::from_result,
    ffi::{
        c_int,
        c_long,
        c_void, //
    },
    prelude::*,
    seq_file::SeqFile, //
};

/// The VM behind a pointer that `__kvm_heki_create` returned.
///
/// # Safety
///
/// `heki` came from `__kvm_heki_create` and is not destroyed during `'a`.
unsafe fn vm<'a>(heki: *const bindings::kvm_heki) -> &'a Vm {
    // SAFETY: by this function's safety requirements; the head is the first field of `Vm`, and the
    // pointer was made from the whole.
    unsafe { &*heki.cast::<Vm>() }
}

/// Makes the state of a VM that opts in; null without memory. May sleep.
///
/// # Safety
///
/// None; required by `#[export]`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_create(
    cr4_in_hardware: u64,
    cr4_pinnable: u64,
) -> *mut bindings::kvm_heki {
    let vm = Vm::new(cr4_in_hardware, cr4_pinnable);
    vm.map_or(ptr::null_mut(), |vm| KBox::into_raw(vm).cast())
}

/// Frees the state of a VM.
///
/// # Safety
///
/// `heki` came from `__kvm_heki_create`; no hook of its VM runs or will run.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_destroy(heki: *mut bindings::kvm_heki) {
    // SAFETY: by this function's safety requirements, and `into_raw` made the pointer.
    drop(unsafe { KBox::from_raw(heki.cast::<Vm>()) });
}

/// Takes a VM back to Open. Sleeps.
///
/// # Safety
///
/// `heki` is live and belongs to `kvm`, valid, whose `slots_lock` the caller holds, outside `kvm->srcu`
/// and with every vCPU out of the guest.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_reset(
    heki: *mut bindings::kvm_heki,
    kvm: *mut bindings::kvm,
) {
    // SAFETY: by this function's safety requirements.
    let vm = unsafe { vm(heki) };
    // SAFETY: as above.
    vm.reset(&mut unsafe { SlotsLock::held_by_caller(kvm) });
}

/// Takes a VM's profile: 0, or -EINVAL, or -ENOMEM. Sleeps.
///
/// # Safety
///
/// As `__kvm_heki_reset`, no vCPU exists yet, and `data` is valid for reads of `len` bytes.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_set_profile(
    heki: *mut bindings::kvm_heki,
    kvm: *mut bindings::kvm,
    data: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: by this function's safety requirements.
    let (vm, mut lock) = unsafe { (vm(heki), SlotsLock::held_by_caller(kvm)) };
    // SAFETY: as above.
    let data = unsafe { slice::from_raw_parts(data.cast::<u8>(), len) };
    from_result(|| text::set_profile(vm, &mut lock, data).map(|()| 0))
}

/// Takes a VM's policy: 0, -EINVAL, -EBUSY if it has one, or -ENOMEM. Sleeps.
///
/// # Safety
///
/// As `__kvm_heki_reset`, no vCPU exists yet, and `policy` is valid for reads.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_set_policy(
    heki: *mut bindings::kvm_heki,
    kvm: *mut bindings::kvm,
    policy: *const bindings::heki_policy,
) -> c_int {
    // SAFETY: by this function's safety requirements.
    let (vm, mut lock) = unsafe { (vm(heki), SlotsLock::held_by_caller(kvm)) };
    // SAFETY: as above; both types are the one layout of the ABI, of which any bits are a value.
    let policy = unsafe { policy.cast::<abi::Policy>().read() };
    from_result(|| consent::set_policy(vm, &mut lock, &policy).map(|()| 0))
}

/// Gives out a VM's policy.
///
/// # Safety
///
/// `heki` is live, the caller holds `kvm->slots_lock`, and `policy` is valid for writes.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_get_policy(
    heki: *const bindings::kvm_heki,
    policy: *mut bindings::heki_policy,
) {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    // SAFETY: as above; both types are the one layout of the ABI.
    unsafe { policy.cast::<abi::Policy>().write(vm.policy(reader).abi()) };
}

/// Gives out what this host can do for a VM; `exec` is whether it can limit execution.
///
/// # Safety
///
/// `heki` is live, and `caps` is valid for writes.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_get_caps(
    heki: *const bindings::kvm_heki,
    exec: bool,
    dt: bool,
    caps: *mut bindings::heki_caps,
) {
    // SAFETY: by this function's safety requirements.
    let vm = unsafe { vm(heki) };
    // SAFETY: as above; both types are the one layout of the ABI.
    unsafe { caps.cast::<abi::Caps>().write(consent::caps(vm, exec, dt)) };
}

/// The bits of a register that can be pinned on a vCPU, or are. May sleep.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_get_pin(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    reg: u32,
    index: u32,
) -> u64 {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    pin::mask(vm, &vcpu, reg, index)
}

/// The number of bytes of a VM's saved state.
///
/// # Safety
///
/// `heki` is live and belongs to `kvm`, valid, whose `slots_lock` and vCPUs the caller holds, outside
/// `kvm->srcu`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_state_bytes(
    heki: *const bindings::kvm_heki,
    kvm: *mut bindings::kvm,
) -> usize {
    // SAFETY: by this function's safety requirements.
    let (vm, lock) = unsafe { (vm(heki), SlotsLock::held_by_caller(kvm)) };
    state::bytes(vm, &lock)
}

/// Saves a VM's state: 0, -EINVAL or -ENOMEM. Sleeps.
///
/// # Safety
///
/// As `__kvm_heki_state_bytes`, which returned `len` since the lock was taken; `data` is valid for
/// writes of `len` bytes that are initialised.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_save_state(
    heki: *const bindings::kvm_heki,
    kvm: *mut bindings::kvm,
    data: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: by this function's safety requirements.
    let (vm, lock) = unsafe { (vm(heki), SlotsLock::held_by_caller(kvm)) };
    // SAFETY: as above.
    let data = unsafe { slice::from_raw_parts_mut(data.cast::<u8>(), len) };
    from_result(|| state::save(vm, &lock, data).map(|()| 0))
}

/// Takes up a saved state: 0 or a negative errno. Sleeps.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`, with every vCPU held, of which none has run; `data` is valid for reads
/// of `len` bytes.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_restore_state(
    heki: *mut bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    data: *const c_void,
    len: usize,
) -> c_int {
    // SAFETY: by this function's safety requirements.
    let (vm, mut vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    // SAFETY: as above.
    let data = unsafe { slice::from_raw_parts(data.cast::<u8>(), len) };
    from_result(|| state::restore(vm, &mut vcpu, data).map(|()| 0))
}

/// Gives out the ranges of a VM's seal, as many as there is room for; how many there are.
///
/// # Safety
///
/// `heki` is live, the caller holds `kvm->slots_lock`, and `ranges` is valid for writes of `room`
/// values, which are initialized.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_get_ranges(
    heki: *const bindings::kvm_heki,
    ranges: *mut bindings::heki_range,
    room: u32,
) -> u32 {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    // SAFETY: as above; both types are the one layout of the ABI, of which any bits are a value.
    let ranges = unsafe { slice::from_raw_parts_mut(ranges.cast::<abi::Range>(), room as usize) };
    protect::list(vm, reader, ranges) as u32
}

/// Goes on with a request about which user space was asked; returns zero or a negative `KVM_E*`.
/// Sleeps.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`; `request` was given to `heki_glue_ask` and is used no more.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_answer(
    heki: *mut bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    request: *mut c_void,
    answer: u32,
) -> c_long {
    // SAFETY: by this function's safety requirements.
    let (vm, mut vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    // SAFETY: as above, and `Vcpu::ask` made the pointer by `KBox::into_raw`.
    let request = unsafe { KBox::from_raw(request.cast::<Pending>()) };
    consent::answer(vm, &mut vcpu, &request, answer)
}

/// Frees a request about which user space was asked, and which nobody wants any more.
///
/// # Safety
///
/// `request` was given to `heki_glue_ask` and is used no more.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_drop(request: *mut c_void) {
    // SAFETY: by this function's safety requirements, and `Vcpu::ask` made the pointer by
    // `KBox::into_raw`.
    drop(unsafe { KBox::from_raw(request.cast::<Pending>()) });
}

/// Serves `KVM_HC_HEKI`; returns zero, a negative `KVM_E*`, or `KVM_HEKI_ASK` when user space is to
/// be asked first. Sleeps.
///
/// # Safety
///
/// `heki` is live and belongs to the VM of `vcpu`, which is valid, loaded, in an exit, inside `kvm->srcu`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_hypercall(
    heki: *mut bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    op: u64,
    gpa: u64,
    len: u64,
    flags: u64,
) -> c_long {
    let call = Call {
        op,
        gpa,
        len,
        flags,
    };
    // SAFETY: by this function's safety requirements.
    let (vm, mut vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    hypercall::serve(vm, &mut vcpu, &call)
}

/// The rights (`HEKI_WRITE`, `HEKI_EXEC`) that all of the frames have. Does not sleep.
///
/// # Safety
///
/// `heki` is live; the caller is inside `kvm->srcu` or holds `kvm->mmu_lock`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_rights(
    heki: *const bindings::kvm_heki,
    gfn: u64,
    nr_pages: u64,
) -> u32 {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    protect::rights(vm, reader, gfn, nr_pages).bits()
}

/// The highest mapping level around a frame. Does not sleep.
///
/// # Safety
///
/// As `__kvm_heki_rights`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_max_level(
    heki: *const bindings::kvm_heki,
    gfn: u64,
) -> c_int {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    protect::max_level(vm, reader, gfn)
}

/// Whether an access (`KVM_HEKI_ACCESS_*`) to a frame is denied. Does not sleep.
///
/// # Safety
///
/// As `__kvm_heki_rights`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_denied(
    heki: *const bindings::kvm_heki,
    gfn: u64,
    access: u32,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    protect::decide(vm, reader, gfn, access).is_some()
}

/// Whether an access that is denied stays so, and does not have to be made again; reports it.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_deny_access(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    gfn: u64,
    access: u32,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    protect::denies(vm, &vcpu, gfn, access)
}

/// Reports that KVM itself was refused to write a frame for the guest. Does not sleep.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`; the caller may hold spinlocks.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_report_writer(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    gfn: u64,
) {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    protect::report_writer(vm, &vcpu, gfn);
}

/// Whether a change of CR0 or CR4 is denied; reports it if so.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_deny_cr(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    reg: u32,
    old: u64,
    new: u64,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    pin::denies(vm, &vcpu, reg, old, new)
}

/// Whether a load of a register other than CR0 and CR4 is denied; reports it if so.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_deny_load(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    reg: u32,
    index: u32,
    new: u64,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    pin::denies_load(vm, &vcpu, reg, index, new)
}

/// Whether a task switch is denied; reports it if so.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_deny_task_switch(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    pin::denies_task_switch(vm, &vcpu)
}

/// Whether a change of a register other than CR0 and CR4 from `old` to `new` is denied, whatever it
/// was at the seal; reports it if so.
///
/// # Safety
///
/// As `__kvm_heki_hypercall`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_deny_change(
    heki: *const bindings::kvm_heki,
    vcpu: *mut bindings::kvm_vcpu,
    reg: u32,
    index: u32,
    old: u64,
    new: u64,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, vcpu) = unsafe { (vm(heki), Vcpu::from_raw(vcpu)) };
    pin::denies_change(vm, &vcpu, reg, index, (old, new))
}

/// Whether the seal keeps bits of a register other than CR0 and CR4. Does not sleep.
///
/// # Safety
///
/// As `__kvm_heki_rights`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_holds(
    heki: *const bindings::kvm_heki,
    reg: u32,
    index: u32,
) -> bool {
    // SAFETY: by this function's safety requirements.
    let (vm, reader) = unsafe { (vm(heki), Reader::new()) };
    vm.seal(reader)
        .is_some_and(|seal| seal.held(reg, index).is_some())
}

/// Prints a VM into its debugfs file.
///
/// # Safety
///
/// `heki` is live; the caller is inside `kvm->srcu` and owns `m`.
#[export]
pub(crate) unsafe extern "C" fn __kvm_heki_show(
    heki: *const bindings::kvm_heki,
    m: *mut bindings::seq_file,
) {
    // SAFETY: by this function's safety requirements.
    let (vm, reader, m) = unsafe { (vm(heki), Reader::new(), SeqFile::from_raw(m)) };
    show::show(vm, reader, m);
}

// What C compares with the bits that KVM lets a guest set is what is decided.
static_assert!(
    registers::settable(bindings::HEKI_REG_CR0, 0) == bindings::KVM_HEKI_SETTABLE_CR0 as u64
);
static_assert!(
    registers::settable(bindings::HEKI_REG_CR4, 0) == bindings::KVM_HEKI_SETTABLE_CR4 as u64
);
static_assert!(
    registers::settable(bindings::HEKI_REG_XCR0, 0) == bindings::KVM_HEKI_SETTABLE_XCR0 as u64
);
static_assert!(
    registers::settable(bindings::HEKI_REG_MSR, registers::MSR_EFER)
        == bindings::KVM_HEKI_SETTABLE_EFER as u64
);
static_assert!(
    registers::settable(bindings::HEKI_REG_MSR, registers::MSR_XSS)
        == bindings::KVM_HEKI_SETTABLE_XSS as u64
);
// C reads the rights as the bits of the ABI.
static_assert!(Rights::WRITE.bits() == bindings::HEKI_WRITE);
static_assert!(Rights::EXEC.bits() == bindings::HEKI_EXEC);

// SPDX-License-Identifier: GPL-2.0

//! A vCPU that is in an exit: its memory, its registers, its witnesses.
//!
//! UNSAFETY: calls the glue that wants a loaded vCPU.
//! Locks: `vcpu->mutex` and `kvm->srcu` are held, the latter but for the life of a
//! [`VcpuSlotsLock`].

use super::{
    publish::Reader,
    slots::SlotsLock, //
};
use crate::policy::{
    refusal::Refusal,
    registers::Seen, //
};
use core::{
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    }, //
};
use kernel::{
    bindings,
    ffi::c_long,
    types::NotThreadSafe, //
};

/// A vCPU in an exit.
///
/// # Invariants
///
/// The pointer is valid for `'a`; its VM opted in, its vCPU is loaded on this CPU and this thread is inside
/// `kvm->srcu`.
pub(crate) struct Vcpu<'a> {
    vcpu: *mut bindings::kvm_vcpu,
    _exit: PhantomData<&'a ()>,
    _thread: NotThreadSafe,
}

impl<'a> Vcpu<'a> {
    /// A view of the vCPU that C passed to a hook.
    ///
    /// # Safety
    ///
    /// The type invariants hold for the life of the value.
    pub(crate) unsafe fn from_raw(vcpu: *mut bindings::kvm_vcpu) -> Self {
        // INVARIANT: by this function's safety requirements.
        Self {
            vcpu,
            _exit: PhantomData,
            _thread: NotThreadSafe,
        }
    }

    /// The vCPU, for the glue.
    pub(super) fn raw(&self) -> *mut bindings::kvm_vcpu {
        self.vcpu
    }

    /// Leave to read what is published.
    pub(crate) fn reader(&self) -> Reader<'_> {
        // SAFETY: by the type invariants this thread is inside `kvm->srcu`; taking the slots lock
        // leaves it, but wants the vCPU for itself.
        unsafe { Reader::new() }
    }

    /// Copies guest memory from `gpa` into `data`. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Refusal::Fault`] if any of it is not readable guest memory.
    pub(crate) fn read_guest(&mut self, gpa: u64, data: &mut [u8]) -> Result<(), Refusal> {
        let len = u32::try_from(data.len()).map_err(|_| Refusal::TooBig)?;
        // SAFETY: the vCPU is valid by the type invariants, `data` for `len` bytes.
        let ret = unsafe {
            bindings::heki_glue_read_guest(self.vcpu, gpa, data.as_mut_ptr().cast(), len)
        };
        if ret == 0 {
            Ok(())
        } else {
            Err(Refusal::Fault)
        }
    }

    /// Copies `data` into guest memory at `gpa`. Sleeps.
    ///
    /// # Errors
    ///
    /// [`Refusal::Fault`] if any of it is not writable guest memory, sealed memory included.
    pub(crate) fn write_guest(&mut self, gpa: u64, data: &[u8]) -> Result<(), Refusal> {
        let len = u32::try_from(data.len()).map_err(|_| Refusal::TooBig)?;
        // SAFETY: the vCPU is valid by the type invariants, `data` for `len` bytes.
        let ret =
            unsafe { bindings::heki_glue_write_guest(self.vcpu, gpa, data.as_ptr().cast(), len) };
        if ret == 0 {
            Ok(())
        } else {
            Err(Refusal::Fault)
        }
    }

    /// The guest's own value of register `reg` (`HEKI_REG_*`).
    pub(crate) fn register(&self, reg: u32) -> u64 {
        // SAFETY: the vCPU is valid and loaded by the type invariants.
        unsafe { bindings::heki_glue_read_cr(self.vcpu, reg) }
    }

    /// A register other than CR0 and CR4 as the guest would read it, `None` if it has no such
    /// register, or the host cannot see it change.
    pub(crate) fn see(&self, reg: u32, index: u32) -> Option<Seen> {
        let (mut bits, mut value) = (0, 0);
        // SAFETY: the vCPU is valid and loaded by the type invariants, both pointers for a write.
        let ok = unsafe {
            bindings::heki_glue_see_register(self.vcpu, reg, index, &mut bits, &mut value)
        };
        ok.then_some(Seen { bits, value })
    }

    /// Whether it has loaded TR, which INIT leaves null and LTR cannot: a kernel does so once on each
    /// CPU.
    pub(crate) fn is_up(&self) -> bool {
        // SAFETY: the vCPU is valid and loaded by the type invariants.
        unsafe { bindings::heki_glue_is_up(self.vcpu) }
    }

    /// Whether XCR0 and MSRs can be held for this VM: not if a vCPU has VMX or SVM, whose loads of
    /// registers are not judged.
    pub(crate) fn can_hold_msrs(&self) -> bool {
        // SAFETY: the vCPU is valid by the type invariants.
        unsafe { bindings::heki_glue_can_hold_msrs(self.vcpu) }
    }

    /// Whether an execution allow-list can be enforced for this VM: the host has MBEC or GMET, and
    /// the guest no VMX or SVM, with which it could run anything in a guest of its own.
    pub(crate) fn can_hold_exec(&self) -> bool {
        // SAFETY: the vCPU is valid by the type invariants.
        unsafe { bindings::heki_glue_can_hold_exec(self.vcpu) }
    }

    /// The process whose VM this is.
    pub(crate) fn pid(&self) -> i32 {
        // SAFETY: the vCPU is valid by the type invariants.
        unsafe { bindings::heki_glue_pid(self.vcpu) }
    }

    /// Leaves `kvm->srcu` and takes `kvm->slots_lock`. Sleeps.
    pub(crate) fn lock_slots(&mut self) -> VcpuSlotsLock<'_, 'a> {
        // SAFETY: the vCPU is valid and this thread is inside `kvm->srcu`, by the type invariants.
        let kvm = unsafe { bindings::heki_glue_lock_slots(self.vcpu) };
        // SAFETY: the glue took the lock, left `kvm->srcu` and returned the vCPU's valid VM; the
        // guard holds the vCPU exclusively until it gives the lock back.
        let lock = unsafe { SlotsLock::held_by_caller(kvm) };
        VcpuSlotsLock { lock, vcpu: self }
    }

    /// Whether one more line about this VM may go to the log: guests must not flood it.
    pub(crate) fn log_allowed(&self) -> bool {
        // SAFETY: the vCPU is valid by the type invariants, and its VM opted in.
        unsafe { bindings::heki_glue_log_allowed(self.vcpu) }
    }

    /// Adds `nr` to a counter (`KVM_HEKI_COUNT_*`) of this vCPU.
    pub(crate) fn count(&self, counter: u32, nr: u64) {
        // SAFETY: the vCPU is valid and ours by the type invariants.
        unsafe { bindings::heki_glue_count(self.vcpu, counter, nr) }
    }

    /// Emits the tracepoint `kvm_heki_query`.
    pub(crate) fn trace_query(&self, ret: c_long) {
        // SAFETY: the vCPU is valid and loaded by the type invariants.
        unsafe { bindings::heki_glue_trace_query(self.vcpu, ret) }
    }

    /// Emits the tracepoint `kvm_heki_seal`; `why` names the outcome.
    pub(crate) fn trace_seal(&self, asked: Asked, why: &str, ret: c_long) {
        // SAFETY: the vCPU is valid and loaded by the type invariants, `why` for its length.
        unsafe {
            bindings::heki_glue_trace_seal(
                self.vcpu,
                asked.nr_ranges,
                asked.nr_pins,
                asked.flags,
                why.as_ptr().cast(),
                why.len() as u32,
                ret,
            )
        }
    }

    /// Emits the tracepoint `kvm_heki_patch` for `nr` instructions or ranges of operation `op`.
    pub(crate) fn trace_patch(&self, op: u32, nr: u32, why: &str, ret: c_long) {
        // SAFETY: the vCPU is valid and loaded by the type invariants, `why` for its length.
        unsafe {
            bindings::heki_glue_trace_patch(
                self.vcpu,
                op,
                nr,
                why.as_ptr().cast(),
                why.len() as u32,
                ret,
            )
        }
    }

    /// Emits the tracepoint `kvm_heki_deny`. `access` is `KVM_HEKI_ACCESS_*`, 0 for a register;
    /// what does not belong to the access is 0.
    pub(crate) fn trace_deny(&self, denied: &Denied) {
        // SAFETY: the vCPU is valid and loaded by the type invariants.
        unsafe {
            bindings::heki_glue_trace_deny(
                self.vcpu,
                denied.access,
                denied.gfn,
                denied.va,
                denied.reg,
                denied.index,
                denied.bits,
                denied.reason,
                denied.learned,
            )
        }
    }
}

/// A denial as its tracepoint shows it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Denied {
    /// `KVM_HEKI_ACCESS_*`, 0 for a register.
    pub(crate) access: u32,
    /// The frame of an access to memory.
    pub(crate) gfn: u64,
    /// The address of a change of text.
    pub(crate) va: u64,
    /// `HEKI_REG_*`.
    pub(crate) reg: u32,
    /// Number of an MSR, half of the IDTR.
    pub(crate) index: u32,
    /// The bits of the register.
    pub(crate) bits: u64,
    /// What it would hold. Not in the trace.
    pub(crate) value: u64,
    /// `KVM_HEKI_REASON_*`.
    pub(crate) reason: u32,
    /// Whether it only would have been a denial.
    pub(crate) learned: bool,
}

/// What the header of a SEAL request asked for, as the tracepoint shows it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked {
    /// Number of ranges.
    pub(crate) nr_ranges: u32,
    /// Number of pins.
    pub(crate) nr_pins: u32,
    /// `HEKI_SEAL_*`.
    pub(crate) flags: u32,
}

/// `kvm->slots_lock`, held by a vCPU's thread, which is outside `kvm->srcu` meanwhile.
#[must_use = "the lock is released when the guard is dropped"]
pub(crate) struct VcpuSlotsLock<'v, 'a> {
    lock: SlotsLock<'v>,
    vcpu: &'v mut Vcpu<'a>,
}

impl<'v> Deref for VcpuSlotsLock<'v, '_> {
    type Target = SlotsLock<'v>;

    fn deref(&self) -> &SlotsLock<'v> {
        &self.lock
    }
}

impl DerefMut for VcpuSlotsLock<'_, '_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.lock
    }
}

impl Drop for VcpuSlotsLock<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: the guard's own construction took the lock and left `kvm->srcu`.
        unsafe { bindings::heki_glue_unlock_slots(self.vcpu.vcpu) }
    }
}

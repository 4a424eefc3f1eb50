// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! What the VMM decides: its policy, and its consent to a request.
//!
//! A request that needs consent is the host's own copy from before the exit to user space, so the
//! guest cannot change it while the VMM looks. It is well formed, and it is checked again as if it
//! had just come: meanwhile another vCPU may have sealed the VM.
//! The rules are [`policy::vmm`](super::policy::vmm), [`hypercall`](super::hypercall) serves.
//! Locks: comes inside `kvm->srcu`.

use crate::{
    abi,
    hypercall,
    kvm::{
        slots::SlotsLock,
        vcpu::Vcpu, //
    },
    policy::{
        grant::Grant,
        kexec, patch,
        refusal::Refusal,
        vmm::{
            self,
            Answer,
            Policy, //
        },
    },
    vm::Vm, //
};
use kernel::{
    ffi::c_long,
    prelude::*, //
};

/// A request that waits for the VMM's answer.
pub(crate) struct Pending {
    /// `HEKI_OP_*`.
    op: u32,
    /// The block, as the guest had it.
    bytes: KVVec<u8>,
}

/// Whether the VMM is to be asked about `op`.
pub(crate) fn is_needed(vm: &Vm, vcpu: &Vcpu<'_>, op: u32) -> bool {
    vm.policy(vcpu.reader()).asks(op)
}

/// Asks the VMM about a request, which is refused at once if it is not well formed.
pub(crate) fn ask(vm: &Vm, vcpu: &mut Vcpu<'_>, op: u32, bytes: KVVec<u8>) -> c_long {
    let asked = describe(vm, vcpu, op, bytes.as_slice()).and_then(|asked| {
        let request = KBox::new(Pending { op, bytes }, GFP_KERNEL_ACCOUNT);
        Ok((asked, request.map_err(|_| Refusal::NoMemory)?))
    });
    match asked {
        Ok((asked, request)) => vcpu.ask(request, &asked),
        Err(refusal) => hypercall::refuse(vcpu, op, refusal, refusal.kvm_errno()),
    }
}

/// Goes on with a request as the VMM answered; returns zero or a negative `KVM_E*`.
pub(crate) fn answer(vm: &Vm, vcpu: &mut Vcpu<'_>, request: &Pending, answer: u32) -> c_long {
    match Answer::parse(answer) {
        Answer::Allow => hypercall::perform(vm, vcpu, request.op, request.bytes.as_slice()),
        Answer::Deny(errno) => hypercall::refuse(vcpu, request.op, Refusal::NoConsent, errno),
    }
}

/// What the VMM is told of a request.
fn describe(vm: &Vm, vcpu: &Vcpu<'_>, op: u32, bytes: &[u8]) -> Result<abi::Exit, Refusal> {
    let exit = abi::Exit {
        op,
        len: bytes.len() as u64,
        ..abi::Exit::default()
    };
    match op {
        abi::HEKI_OP_SEAL => {
            let asked = hypercall::what_is_asked(&hypercall::parse(vm, vcpu, bytes)?);
            Ok(abi::Exit {
                seal_flags: asked.flags,
                nr_ranges: asked.nr_ranges,
                nr_pins: asked.nr_pins,
                ..exit
            })
        }
        abi::HEKI_OP_PATCH => Ok(abi::Exit {
            nr_sites: patch::parse(bytes)?.len() as u32,
            ..exit
        }),
        abi::HEKI_OP_KEXEC => {
            let part = kexec::parse(bytes)?;
            Ok(abi::Exit {
                gpa: part.gpa,
                kexec_flags: part.flags,
                kexec_len: part.len as u32,
                offset: part.offset,
                ..exit
            })
        }
        _ => Ok(abi::Exit {
            nr_ranges: Grant::parse(bytes, op == abi::HEKI_OP_RELEASE)?.nr_ranges() as u32,
            ..exit
        }),
    }
}

/// Takes the VMM's policy. No vCPU exists yet.
pub(crate) fn set_policy(vm: &Vm, lock: &mut SlotsLock<'_>, wire: &abi::Policy) -> Result {
    let policy = Policy::parse(wire).map_err(|_| EINVAL)?;
    if vm.has_policy(lock.reader()) {
        return Err(EBUSY);
    }
    vm.set_policy(lock, KBox::new(policy, GFP_KERNEL_ACCOUNT)?);
    Ok(())
}

/// What this host can do for the VM, before its vCPUs tell more; `exec` is whether it can hold an
/// execution allow-list, `dt` the IDTR.
pub(crate) fn caps(vm: &Vm, exec: bool, dt: bool) -> abi::Caps {
    let pinnable = vm.pinnable(true);
    abi::Caps {
        version: abi::HEKI_ABI_VERSION,
        protections: hypercall::available(exec, true, dt),
        cr0_pinnable: pinnable.cr0,
        cr4_pinnable: pinnable.cr4,
        patch: abi::HEKI_PATCH_JUMP_LABEL
            | abi::HEKI_PATCH_STATIC_CALL
            | abi::HEKI_PATCH_FTRACE
            | abi::HEKI_PATCH_PROBE
            | abi::HEKI_TARGET_SYMBOL
            | abi::HEKI_TARGET_HASH
            | abi::HEKI_TARGET_ENDBR,
        consent: vmm::CONSENT,
        classes: (1 << abi::HEKI_CLASS_COUNT) - 1,
        actions: (1 << abi::HEKI_ACTION_COUNT) - 1,
    }
}

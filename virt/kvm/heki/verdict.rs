// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! The one place that reports: counts, traces, logs, tells the VMM.
//!
//! Rooms decide, this tells. The log is rate-limited, because guests cause its lines; counters and
//! tracepoints are not. Locks: none.

use crate::{
    abi,
    kvm::vcpu::{
        Asked,
        Denied,
        Vcpu, //
    },
    patch::{
        Done,
        Failure, //
    },
    policy::{
        patch,
        refusal::Refusal,
        registers,
        verdict::{
            Access,
            Reason,
            Verdict,
            Victim, //
        },
        vmm::Policy,
    },
    vm::Vm, //
};
use kernel::{
    bindings,
    ffi::c_long,
    prelude::*, //
};

/// A QUERY was served.
pub(crate) fn queried(vcpu: &Vcpu<'_>, ret: c_long) {
    vcpu.count(bindings::KVM_HEKI_COUNT_QUERY, 1);
    vcpu.trace_query(ret);
}

/// A SEAL took effect or was refused.
pub(crate) fn sealed(vcpu: &Vcpu<'_>, asked: Asked, outcome: Result<(), Refusal>, ret: c_long) {
    let (counter, why) = match outcome {
        Ok(()) => (bindings::KVM_HEKI_COUNT_SEAL, "sealed"),
        Err(refusal) => (bindings::KVM_HEKI_COUNT_REFUSED, refusal.as_str()),
    };
    vcpu.count(counter, 1);
    vcpu.trace_seal(asked, why, ret);
    // A success comes once until the VMM resets the VM.
    if outcome.is_err() && !vcpu.log_allowed() {
        return;
    }
    let pid = vcpu.pid();
    match outcome {
        Ok(()) => {
            let Asked {
                nr_ranges, nr_pins, ..
            } = asked;
            pr_info!("heki: VM of process {pid}: sealed, {nr_ranges} ranges, {nr_pins} pins\n")
        }
        Err(_) => pr_info!("heki: VM of process {pid}: seal refused: {why}\n"),
    }
}

/// A VM was sealed under a policy which may have it learn.
pub(crate) fn learning(vcpu: &Vcpu<'_>, policy: &Policy) {
    if policy.learning() != 0 {
        let pid = vcpu.pid();
        let [write, exec, registers, patch] = policy.learning_words();
        pr_warn!("heki: VM of process {pid}: LEARNING:{write}{exec}{registers}{patch}: not held, denials are reported and allowed\n");
    }
}

/// No more can be learned of a VM's memory.
pub(crate) fn learned_all(vcpu: &Vcpu<'_>) {
    let pid = vcpu.pid();
    let nr = abi::HEKI_MAX_LEARNED;
    pr_warn!("heki: VM of process {pid}: LEARNING: {nr} pages were reported, all others are allowed without a report\n");
}

/// A saved state took effect or was refused.
pub(crate) fn restored(vcpu: &Vcpu<'_>, outcome: Result<(), Refusal>) {
    if !vcpu.log_allowed() {
        return;
    }
    let pid = vcpu.pid();
    match outcome {
        Ok(()) => pr_info!("heki: VM of process {pid}: state restored\n"),
        Err(refusal) => {
            let why = refusal.as_str();
            pr_info!("heki: VM of process {pid}: state refused: {why}\n")
        }
    }
}

/// A change of sealed text, or a KEXEC, took effect, or did not.
pub(crate) fn changed(vcpu: &Vcpu<'_>, op: u32, outcome: Result<Done, Failure>, ret: c_long) {
    let nr = outcome.as_ref().map_or(0, |done| done.nr);
    let why = match &outcome {
        Ok(_) => "done",
        Err(Failure::Refused(refusal)) => refusal.as_str(),
        Err(Failure::Denied(verdict)) => verdict.reason.as_str(),
    };
    vcpu.trace_patch(op, nr, why, ret);
    if let Ok(Done {
        learned: Some(denial),
        ..
    }) = &outcome
    {
        report(vcpu, denial, true);
    }
    match (outcome, op) {
        (Ok(_), abi::HEKI_OP_PATCH) => {
            vcpu.count(bindings::KVM_HEKI_COUNT_PATCH, 1);
            vcpu.count(bindings::KVM_HEKI_COUNT_PATCHED, nr.into());
        }
        (Ok(_), abi::HEKI_OP_KEXEC) => {}
        (Ok(_), _) => vcpu.count(bindings::KVM_HEKI_COUNT_GRANT, 1),
        (Err(Failure::Denied(verdict)), _) => report(vcpu, &verdict, false),
        (Err(Failure::Refused(_)), _) => {
            vcpu.count(bindings::KVM_HEKI_COUNT_REFUSED, 1);
            if vcpu.log_allowed() {
                let pid = vcpu.pid();
                let what = match op {
                    abi::HEKI_OP_KEXEC => "kexec",
                    _ => "change of text",
                };
                pr_info!("heki: VM of process {pid}: {what} refused: {why}\n");
            }
        }
    }
}

/// Whether what is to be denied is denied, or allowed because its class learns; reports it as the
/// one or the other.
pub(crate) fn denies(vm: &Vm, vcpu: &Vcpu<'_>, denial: &Verdict) -> bool {
    let learned = vm.policy(vcpu.reader()).learns(denial.access);
    report(vcpu, denial, learned);
    !learned
}

/// The guest was denied something, or would have been.
fn report(vcpu: &Vcpu<'_>, denial: &Verdict, learned: bool) {
    let (counter, access) = match denial.access {
        Access::Write => (
            bindings::KVM_HEKI_COUNT_WRITE,
            bindings::KVM_HEKI_ACCESS_WRITE,
        ),
        Access::Fetch => (
            bindings::KVM_HEKI_COUNT_EXEC,
            bindings::KVM_HEKI_ACCESS_FETCH,
        ),
        Access::Patch => (
            bindings::KVM_HEKI_COUNT_DENIED_PATCH,
            bindings::KVM_HEKI_ACCESS_PATCH,
        ),
        Access::Register => (counter_of(denial.victim), 0),
    };
    vcpu.count(counter, 1);
    let event = Denied {
        access,
        reason: reason_code(denial.reason),
        learned,
        ..Denied::default()
    };
    let event = match denial.victim {
        Victim::Gfn(gfn) => Denied { gfn, ..event },
        Victim::Text(va) => Denied { va, ..event },
        Victim::Register {
            reg,
            index,
            bits,
            value,
        } => Denied {
            reg,
            index,
            bits,
            value,
            ..event
        },
    };
    vcpu.trace_deny(&event);
    // KVM tries some writes again at each entry: an exit for each would leave no way in.
    if denial.reason != Reason::KvmWriter {
        vcpu.tell_denial(class_code(denial.access), &event);
    }
    if vcpu.log_allowed() {
        log_denial(vcpu.pid(), denial, learned);
    }
}

/// The counter of denied changes of a register.
fn counter_of(victim: Victim) -> u32 {
    match victim {
        Victim::Register { reg, .. } if registers::is_kept(reg) => bindings::KVM_HEKI_COUNT_MSR,
        _ => bindings::KVM_HEKI_COUNT_CR,
    }
}

fn log_denial(pid: i32, denial: &Verdict, learned: bool) {
    let denied = if learned {
        "LEARNING: would have denied"
    } else {
        "denied"
    };
    let access = denial.access.as_str();
    let reason = denial.reason.as_str();
    match denial.victim {
        Victim::Gfn(gfn) => {
            pr_info!("heki: VM of process {pid}: {denied} {access} of gfn {gfn:#x}: {reason}\n")
        }
        Victim::Text(va) => {
            pr_info!("heki: VM of process {pid}: {denied} {access} of text {va:#x}: {reason}\n")
        }
        Victim::Register {
            reg, index, bits, ..
        } => match reg {
            abi::HEKI_REG_MSR => pr_info!(
                "heki: VM of process {pid}: {denied} changing bits {bits:#x} of MSR {index:#x}: {reason}\n"
            ),
            _ if registers::is_kept(reg) => {
                let name = registers::name(reg, index);
                pr_info!("heki: VM of process {pid}: {denied} changing bits {bits:#x} of {name}: {reason}\n")
            }
            _ => pr_info!(
                "heki: VM of process {pid}: {denied} clearing bits {bits:#x} of CR{reg}: {reason}\n"
            ),
        },
    }
}

fn class_code(access: Access) -> u32 {
    match access {
        Access::Write => abi::HEKI_CLASS_WRITE,
        Access::Fetch => abi::HEKI_CLASS_EXEC,
        Access::Register => abi::HEKI_CLASS_REGISTER,
        Access::Patch => abi::HEKI_CLASS_PATCH,
    }
}

fn reason_code(reason: Reason) -> u32 {
    match reason {
        Reason::Sealed => bindings::KVM_HEKI_REASON_SEALED,
        Reason::NotExecutable => bindings::KVM_HEKI_REASON_NOT_EXECUTABLE,
        Reason::PageWalk => bindings::KVM_HEKI_REASON_PAGE_WALK,
        Reason::Pinned => bindings::KVM_HEKI_REASON_PINNED,
        Reason::KvmWriter => bindings::KVM_HEKI_REASON_KVM_WRITER,
        Reason::Patch(why) => match why {
            patch::Denied::Unlisted => bindings::KVM_HEKI_REASON_UNLISTED,
            patch::Denied::Frozen => bindings::KVM_HEKI_REASON_FROZEN,
            patch::Denied::Form => bindings::KVM_HEKI_REASON_FORM,
            patch::Denied::Target => bindings::KVM_HEKI_REASON_TARGET,
            patch::Denied::Stale => bindings::KVM_HEKI_REASON_STALE,
            patch::Denied::Content => bindings::KVM_HEKI_REASON_CONTENT,
        },
    }
}

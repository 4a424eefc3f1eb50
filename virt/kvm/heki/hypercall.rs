// SPDX-License-Identifier: GPL-2.0
#![deny(unsafe_code)]

//! What a guest asks: QUERY, QUERY_PIN, SEAL, FROZEN and KEXEC here, changes of sealed text in
//! [`patch`](super::patch).
//!
//! A request is copied once, bounded, parsed by [`policy::request`](super::policy::request), checked
//! whole, and then takes effect whole or not at all. [`consent`](super::consent) comes in between
//! where the VMM wants to be asked. [`verdict`](super::verdict) reports.
//! Locks: comes inside `kvm->srcu`; SEAL leaves it and takes `kvm->slots_lock`.

use crate::{
    abi, consent,
    kvm::{
        slots::SlotsLock,
        vcpu::{
            Asked,
            Vcpu, //
        }, //
    },
    patch::{
        self,
        Done,
        Failure, //
    },
    pin,
    policy::{
        address::Windows,
        kexec,
        lifecycle::{
            self,
            Event, //
        },
        map::Region,
        refusal::Refusal,
        registers,
        request::{
            self,
            Caps,
            Request, //
        },
        verdict::Access,
    },
    text, verdict,
    vm::{
        Seal,
        Vm, //
    },
};
use core::mem::size_of;
use kernel::{
    ffi::c_long,
    prelude::*, //
};
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

/// The registers of the hypercall.
pub(crate) struct Call {
    /// `HEKI_OP_*`.
    pub(crate) op: u64,
    /// Guest physical address of the block.
    pub(crate) gpa: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Zero.
    pub(crate) flags: u64,
}

/// Serves a hypercall; returns zero, a negative `KVM_E*`, or `KVM_HEKI_ASK`.
pub(crate) fn serve(vm: &Vm, vcpu: &mut Vcpu<'_>, call: &Call) -> c_long {
    if call.flags != 0 {
        return errno(Refusal::BadFlags);
    }
    match u32::try_from(call.op) {
        Ok(abi::HEKI_OP_QUERY) => {
            let outcome = query(vm, vcpu, call);
            told(vcpu, outcome)
        }
        Ok(abi::HEKI_OP_FROZEN) => {
            let outcome = frozen(vm, vcpu, call);
            told(vcpu, outcome)
        }
        Ok(abi::HEKI_OP_QUERY_PIN) => {
            let outcome = query_pin(vm, vcpu, call);
            told(vcpu, outcome)
        }
        Ok(
            op @ (abi::HEKI_OP_SEAL
            | abi::HEKI_OP_PATCH
            | abi::HEKI_OP_GRANT
            | abi::HEKI_OP_RELEASE
            | abi::HEKI_OP_KEXEC),
        ) => request(vm, vcpu, call, op),
        _ => errno(Refusal::BadOperation),
    }
}

/// Reports that the guest was told something, or not.
fn told(vcpu: &Vcpu<'_>, outcome: Result<(), Refusal>) -> c_long {
    let ret = outcome.map_or_else(errno, |()| 0);
    verdict::queried(vcpu, ret);
    ret
}

/// Serves what changes a VM, or asks the VMM first.
fn request(vm: &Vm, vcpu: &mut Vcpu<'_>, call: &Call, op: u32) -> c_long {
    // A VM in the wrong state stops here: a guest cannot make the host copy for nothing.
    let bytes = check_state(vm, vcpu, op).and_then(|()| copy_request(vcpu, call));
    match bytes {
        Ok(bytes) if consent::is_needed(vm, vcpu, op) => consent::ask(vm, vcpu, op, bytes),
        Ok(bytes) => perform(vm, vcpu, op, bytes.as_slice()),
        Err(refusal) => refuse(vcpu, op, refusal, refusal.kvm_errno()),
    }
}

/// Whether the VM is in a state for `op`, and there is somebody to serve it.
fn check_state(vm: &Vm, vcpu: &Vcpu<'_>, op: u32) -> Result<(), Refusal> {
    let event = match op {
        abi::HEKI_OP_SEAL => Event::Seal,
        _ => Event::Change,
    };
    lifecycle::next(vm.state(vcpu.reader()), event)?;
    // It is the VMM that keeps a kernel.
    if op == abi::HEKI_OP_KEXEC && !consent::is_needed(vm, vcpu, op) {
        return Err(Refusal::NotAllowed);
    }
    Ok(())
}

/// Reports that request `op` is refused, with what the guest is told (a `KVM_E*`).
pub(crate) fn refuse(vcpu: &Vcpu<'_>, op: u32, refusal: Refusal, kvm_errno: i64) -> c_long {
    let ret = 0 - kvm_errno as c_long;
    match op {
        abi::HEKI_OP_SEAL => verdict::sealed(vcpu, Asked::default(), Err(refusal), ret),
        _ => verdict::changed(vcpu, op, Err(refusal.into()), ret),
    }
    ret
}

/// Does what request `op` asks for, and reports it.
pub(crate) fn perform(vm: &Vm, vcpu: &mut Vcpu<'_>, op: u32, bytes: &[u8]) -> c_long {
    match op {
        abi::HEKI_OP_SEAL => {
            let mut asked = Asked::default();
            let outcome = seal(vm, vcpu, bytes, &mut asked);
            let ret = outcome.map_or_else(errno, |()| 0);
            verdict::sealed(vcpu, asked, outcome, ret);
            if outcome.is_ok() {
                verdict::learning(vcpu, &vm.policy(vcpu.reader()));
            }
            ret
        }
        abi::HEKI_OP_PATCH => change(vm, vcpu, bytes, op, patch::patch),
        abi::HEKI_OP_GRANT => change(vm, vcpu, bytes, op, patch::grant),
        abi::HEKI_OP_RELEASE => change(vm, vcpu, bytes, op, patch::release),
        // The VMM has done all of it.
        abi::HEKI_OP_KEXEC => change(vm, vcpu, bytes, op, |_, _, bytes| {
            Ok(Done {
                nr: kexec::parse(bytes)?.len as u32,
                learned: None,
            })
        }),
        _ => errno(Refusal::BadOperation),
    }
}

fn errno(refusal: Refusal) -> c_long {
    0 - refusal.kvm_errno() as c_long
}

/// Serves one of the changes of sealed text, or a KEXEC, and reports it.
fn change(
    vm: &Vm,
    vcpu: &mut Vcpu<'_>,
    bytes: &[u8],
    op: u32,
    serve: fn(&Vm, &mut Vcpu<'_>, &[u8]) -> Result<Done, Failure>,
) -> c_long {
    let outcome = serve(vm, vcpu, bytes);
    let ret = match outcome {
        Ok(_) => 0,
        Err(Failure::Refused(refusal)) => errno(refusal),
        Err(Failure::Denied(_)) => -(abi::KVM_EPERM as c_long),
    };
    verdict::changed(vcpu, op, outcome, ret);
    ret
}

fn query(vm: &Vm, vcpu: &mut Vcpu<'_>, call: &Call) -> Result<(), Refusal> {
    if call.len < size_of::<abi::Query>() as u64 {
        return Err(Refusal::BadLength);
    }
    let reader = vcpu.reader();
    let policy = vm.policy(reader);
    let pinnable = pin::pinnable_cr(vm, vcpu);
    let unchecked = if policy.learns(Access::Patch) {
        abi::HEKI_TARGET_SYMBOL | abi::HEKI_TARGET_HASH | abi::HEKI_TARGET_ENDBR
    } else {
        0
    };
    let answer = abi::Query {
        version: abi::HEKI_ABI_VERSION,
        state: vm.state(reader).abi(),
        available: policy.allowed(available_to(vcpu)),
        held: policy.holding(vm.seal(reader).map_or(0, |seal| held(vm, seal, vcpu))),
        cr0_pinnable: pinnable.cr0,
        cr4_pinnable: pinnable.cr4,
        max_bytes: abi::HEKI_MAX_REQUEST_BYTES,
        max_ranges: abi::HEKI_MAX_RANGES,
        max_pins: abi::HEKI_MAX_PINS,
        patch: text::served(vm, reader) & !unchecked | policy.serves(),
        learning: policy.learning(),
        reserved: 0,
    };
    vcpu.write_guest(call.gpa, answer.as_bytes())
}

/// Tells the guest what the VMM froze, so that it knows before it tries.
fn frozen(vm: &Vm, vcpu: &mut Vcpu<'_>, call: &Call) -> Result<(), Refusal> {
    if call.len != size_of::<abi::Frozen>() as u64 {
        return Err(Refusal::BadLength);
    }
    let mut asked = [0u32; 2];
    vcpu.read_guest(call.gpa, asked.as_mut_bytes())?;
    let [version, first] = asked;
    if version != abi::HEKI_ABI_VERSION {
        return Err(Refusal::BadVersion);
    }
    let answer = text::frozen(vm, vcpu.reader(), first)?;
    vcpu.write_guest(call.gpa, answer.as_bytes())
}

/// Answers which bits of one register can be pinned, or are.
fn query_pin(vm: &Vm, vcpu: &mut Vcpu<'_>, call: &Call) -> Result<(), Refusal> {
    if call.len != size_of::<abi::Pin>() as u64 {
        return Err(Refusal::BadLength);
    }
    let mut pin = abi::Pin::new_zeroed();
    vcpu.read_guest(call.gpa, pin.as_mut_bytes())?;
    pin.mask = pin::mask(vm, vcpu, pin.reg, pin.index);
    vcpu.write_guest(call.gpa, pin.as_bytes())
}

/// The protections (`HEKI_PROT_*`) that this host can hold for the VM of `vcpu`.
fn available_to(vcpu: &Vcpu<'_>) -> u32 {
    let dt = vcpu.see(abi::HEKI_REG_IDTR, 0).is_some();
    available(vcpu.can_hold_exec(), vcpu.can_hold_msrs(), dt)
}

/// The protections (`HEKI_PROT_*`) of a host that can hold an execution allow-list, MSRs and, if
/// these, the IDTR.
pub(crate) fn available(exec: bool, msr: bool, dt: bool) -> u32 {
    let mut available = abi::HEKI_PROT_WRITE | abi::HEKI_PROT_CR;
    if exec {
        available |= abi::HEKI_PROT_EXEC;
    }
    if msr {
        available |= abi::HEKI_PROT_MSR;
    }
    if msr && dt {
        available |= abi::HEKI_PROT_DT;
    }
    available
}

/// The protections (`HEKI_PROT_*`) that a seal holds. A vCPU that came later may have VMX or SVM.
fn held(vm: &Vm, seal: &Seal, vcpu: &Vcpu<'_>) -> u32 {
    let mut held = 0;
    if seal.regions.iter().any(|region| !region.rights.write()) {
        held |= abi::HEKI_PROT_WRITE;
    }
    if seal.exec && vcpu.can_hold_exec() {
        held |= abi::HEKI_PROT_EXEC;
    }
    if !pin::held_cr(vm, seal, vcpu).is_empty() {
        held |= abi::HEKI_PROT_CR;
    }
    for register in seal.held.iter().filter(|_| vcpu.can_hold_msrs()) {
        held |= registers::protection(register.reg);
    }
    held
}

/// Checks a SEAL as far as that takes no memory of the VM.
pub(crate) fn parse<'a>(vm: &Vm, vcpu: &Vcpu<'_>, bytes: &'a [u8]) -> Result<Request<'a>, Refusal> {
    let request = Request::parse(bytes, &caps(vm, vcpu))?;
    vm.policy(vcpu.reader()).check(&request)?;
    Ok(request)
}

/// What a SEAL is held against, but for the policy.
pub(crate) fn caps(vm: &Vm, vcpu: &Vcpu<'_>) -> Caps {
    let pinnable = vm.pinnable(vcpu.can_hold_msrs());
    Caps {
        exec: vcpu.can_hold_exec(),
        cr0_pinnable: pinnable.cr0,
        cr4_pinnable: pinnable.cr4,
        msr: vcpu.can_hold_msrs(),
        cr0: vcpu.register(abi::HEKI_REG_CR0),
        cr4: vcpu.register(abi::HEKI_REG_CR4),
    }
}

fn seal(vm: &Vm, vcpu: &mut Vcpu<'_>, bytes: &[u8], asked: &mut Asked) -> Result<(), Refusal> {
    let request = parse(vm, vcpu, bytes)?;
    let policy = vm.policy(vcpu.reader());
    *asked = what_is_asked(&request);
    let regions = plan(&request)?;
    let held = pin::gather(vcpu, &request)?;

    let mut lock = vcpu.lock_slots();
    check_memory(&lock, regions.as_slice())?;
    let order = text::order(regions.as_slice())?;
    let windows = Windows::new(regions.as_slice(), order.as_slice());
    let facts = text::gather(vm, &lock, &request, windows)?;
    let seal = Seal::new(&request, &policy, regions, order, held, facts)?;
    let seal = patch::with_trampolines(vm, &lock, seal)?;
    vm.enter_seal(&mut lock, seal)
}

/// The block of a request, copied once.
fn copy_request(vcpu: &mut Vcpu<'_>, call: &Call) -> Result<KVVec<u8>, Refusal> {
    if call.len > u64::from(abi::HEKI_MAX_REQUEST_BYTES) {
        return Err(Refusal::TooBig);
    }
    let len = usize::try_from(call.len).map_err(|_| Refusal::TooBig)?;
    let mut bytes = KVVec::from_elem(0, len, GFP_KERNEL_ACCOUNT).map_err(|_| Refusal::NoMemory)?;
    vcpu.read_guest(call.gpa, bytes.as_mut_slice())?;
    Ok(bytes)
}

/// The outline of a SEAL.
pub(crate) fn what_is_asked(request: &Request<'_>) -> Asked {
    Asked {
        nr_ranges: request.nr_ranges() as u32,
        nr_pins: request.nr_pins() as u32,
        flags: if request.exec() {
            abi::HEKI_SEAL_EXEC
        } else {
            0
        },
    }
}

/// Refuses regions that are not the VM's memory.
pub(crate) fn check_memory(lock: &SlotsLock<'_>, regions: &[Region]) -> Result<(), Refusal> {
    let is_memory = |region: &Region| lock.is_memory(region.start, region.nr_pages());
    if regions.iter().all(is_memory) {
        Ok(())
    } else {
        Err(Refusal::NotMemory)
    }
}

/// The permission map that a request describes.
pub(crate) fn plan(request: &Request<'_>) -> Result<KVVec<Region>, Refusal> {
    let mut regions = KVVec::from_elem(Region::default(), request.nr_ranges(), GFP_KERNEL_ACCOUNT)
        .map_err(|_| Refusal::NoMemory)?;
    let used = request::build(request, regions.as_mut_slice())?;
    regions.truncate(used);
    Ok(regions)
}

#[cfg(CONFIG_KVM_HEKI_KUNIT_TEST)]
#[kunit_tests(kvm_heki_hypercall)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_negative_kvm_errors() {
        assert_eq!(errno(Refusal::BadOperation), -1000);
        assert_eq!(errno(Refusal::AlreadySealed), -1);
        assert_eq!(errno(Refusal::Fault), -14);
    }

    #[test]
    fn a_vm_pins_what_its_cpu_has() {
        let pinnable = |cr4, by_refusal| Vm::new(0, cr4).map(|vm| vm.pinnable(by_refusal).cr4);
        assert_eq!(pinnable(0, true), Some(0));
        assert_eq!(pinnable(!0, true), Some(crate::policy::pin::PINNABLE_CR4));
        assert_eq!(pinnable(!0, false), Some(0));
    }
}

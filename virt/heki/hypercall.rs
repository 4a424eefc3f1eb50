// SPDX-License-Identifier: GPL-2.0

//! The requests to the host, and what its refusals mean here.
//!
//! Neighbours: `abi` for the wire, [`ffi`](crate::ffi) for the instruction. Locks: none.

#![deny(unsafe_code)]

use kernel::{
    ffi::c_long,
    prelude::*, //
};
use zerocopy::{
    FromBytes,
    FromZeros,
    IntoBytes, //
};

use crate::{
    abi,
    ffi::{
        self,
        Small, //
    }, //
};

/// Asks the host what it can hold and whether this kernel is sealed. Does not sleep.
pub(crate) fn query() -> Result<abi::Query> {
    let mut block = Small(abi::Query::new_zeroed());
    to_result(ffi::hypercall_small(abi::HEKI_OP_QUERY, &mut block))?;
    Ok(block.0)
}

/// Asks the host which bits of a register it can pin; once this kernel is sealed, which it has pinned.
pub(crate) fn query_pin(reg: u32, index: u32) -> Result<u64> {
    let pin = abi::Pin {
        reg,
        index,
        mask: 0,
    };
    let mut block = KVec::new();
    block.extend_from_slice(pin.as_bytes(), GFP_KERNEL)?;
    let bytes = block.len();
    to_result(ffi::hypercall(abi::HEKI_OP_QUERY_PIN, &mut block, bytes))?;
    let pin = abi::Pin::read_from_bytes(&block).map_err(|_| EPROTO)?;
    Ok(pin.mask)
}

/// Asks the host to seal. It does so whole or not at all.
pub(crate) fn seal(request: &mut KVec<u8>) -> Result {
    let bytes = request.len();
    to_result(ffi::hypercall(abi::HEKI_OP_SEAL, request, bytes))
}

/// Asks the host what its VMM froze, from entry `first` on. The kernel is sealed.
pub(crate) fn frozen(first: u32) -> Result<abi::Frozen> {
    let mut request = abi::Frozen::new_zeroed();
    request.version = abi::HEKI_ABI_VERSION;
    request.first = first;
    let mut block = KVec::new();
    block.extend_from_slice(request.as_bytes(), GFP_KERNEL)?;
    let bytes = block.len();
    to_result(ffi::hypercall(abi::HEKI_OP_FROZEN, &mut block, bytes))?;
    abi::Frozen::read_from_bytes(&block).map_err(|_| EPROTO)
}

/// A request to change one instruction.
#[repr(C)]
#[derive(FromBytes, IntoBytes)]
pub(crate) struct PatchOne {
    /// Which says so.
    pub(crate) header: abi::Patch,
    /// The instruction.
    pub(crate) site: abi::Site,
}

/// Asks the host to change one instruction. Does not sleep.
pub(crate) fn patch_one(request: &mut Small<PatchOne>) -> Result {
    to_result(ffi::hypercall_small(abi::HEKI_OP_PATCH, request))
}

/// Asks the host to change the instructions in the first `bytes` of `request`.
pub(crate) fn patch(request: &mut KVec<u8>, bytes: usize) -> Result {
    to_result(ffi::hypercall(abi::HEKI_OP_PATCH, request, bytes))
}

/// Asks the host to let the pages in the first `bytes` of `request` run.
pub(crate) fn grant(request: &mut KVec<u8>, bytes: usize) -> Result {
    to_result(ffi::hypercall(abi::HEKI_OP_GRANT, request, bytes))
}

/// Asks the host to let the pages in the first `bytes` of `request` be written.
pub(crate) fn release(request: &mut KVec<u8>, bytes: usize) -> Result {
    to_result(ffi::hypercall(abi::HEKI_OP_RELEASE, request, bytes))
}

/// Has the VMM keep a part of a kernel, or start it.
pub(crate) fn kexec(request: abi::Kexec) -> Result {
    to_result(ffi::hypercall_small(
        abi::HEKI_OP_KEXEC,
        &mut Small(request),
    ))
}

fn to_result(ret: c_long) -> Result {
    // What KVM returns is negated.
    match -(ret as i64) {
        0 => Ok(()),
        abi::KVM_EPERM => Err(EPERM),
        abi::KVM_E2BIG => Err(E2BIG),
        abi::KVM_EFAULT => Err(EFAULT),
        abi::KVM_EINVAL => Err(EINVAL),
        abi::KVM_EOPNOTSUPP => Err(EOPNOTSUPP),
        abi::KVM_ENOSYS => Err(ENODEV),
        _ => Err(EIO),
    }
}

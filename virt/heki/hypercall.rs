// SPDX-License-Identifier: GPL-2.0

//! The two requests to the host, and what its refusals mean here.
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
    ffi, //
};

// What KVM returns, negated (include/uapi/linux/kvm_para.h).
const KVM_EPERM: c_long = 1;
const KVM_E2BIG: c_long = 7;
const KVM_ENOMEM: c_long = 12;
const KVM_EFAULT: c_long = 14;
const KVM_EINVAL: c_long = 22;
const KVM_EOPNOTSUPP: c_long = 95;
const KVM_ENOSYS: c_long = 1000;

/// Asks the host what it can hold and whether this kernel is sealed.
pub(crate) fn query() -> Result<abi::Query> {
    let mut block = KVec::new();
    block.extend_from_slice(abi::Query::new_zeroed().as_bytes(), GFP_KERNEL)?;
    to_result(ffi::hypercall(abi::HEKI_OP_QUERY, &mut block))?;
    abi::Query::read_from_bytes(&block).map_err(|_| EPROTO)
}

/// Asks the host to seal. It does so whole or not at all.
pub(crate) fn seal(request: &mut KVec<u8>) -> Result {
    to_result(ffi::hypercall(abi::HEKI_OP_SEAL, request))
}

fn to_result(ret: c_long) -> Result {
    match -ret {
        0 => Ok(()),
        KVM_EPERM => Err(EPERM),
        KVM_E2BIG => Err(E2BIG),
        KVM_ENOMEM => Err(ENOMEM),
        KVM_EFAULT => Err(EFAULT),
        KVM_EINVAL => Err(EINVAL),
        KVM_EOPNOTSUPP => Err(EOPNOTSUPP),
        KVM_ENOSYS => Err(ENODEV),
        _ => Err(EIO),
    }
}

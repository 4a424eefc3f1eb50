// SPDX-License-Identifier: GPL-2.0

//! The KEXEC request: a part of the kernel that the VMM is to keep, or the word to start it.
//!
//! The parts' content and order are for the VMM, which has the whole.
//! Neighbours: `abi` for the layout, [`request`](super::request) for the bounds of memory. Locks:
//! none.

use zerocopy::FromBytes;

use super::{
    abi,
    map::PAGE_SHIFT,
    refusal::Refusal,
    request::GPA_END, //
};

/// Reads and checks `bytes`, all of the request and nothing else.
///
/// # Errors
///
/// The first refusal found.
pub fn parse(bytes: &[u8]) -> Result<abi::Kexec, Refusal> {
    let part = abi::Kexec::read_from_bytes(bytes).map_err(|_| Refusal::BadLength)?;
    if part.version != abi::HEKI_ABI_VERSION {
        return Err(Refusal::BadVersion);
    }
    match part.flags {
        abi::HEKI_KEXEC_START if part.gpa | part.len | part.offset != 0 => {
            Err(Refusal::BadReserved)
        }
        abi::HEKI_KEXEC_START => Ok(part),
        flags if flags & !(abi::HEKI_KEXEC_FIRST | abi::HEKI_KEXEC_LAST) != 0 => {
            Err(Refusal::BadFlags)
        }
        _ => check_part(&part).map(|()| part),
    }
}

fn check_part(part: &abi::Kexec) -> Result<(), Refusal> {
    if (part.flags & abi::HEKI_KEXEC_FIRST != 0) != (part.offset == 0) {
        return Err(Refusal::BadFlags);
    }
    if part.gpa & ((1 << PAGE_SHIFT) - 1) != 0 {
        return Err(Refusal::Unaligned);
    }
    if part.len == 0 {
        return Err(Refusal::Empty);
    }
    let end = part.offset.saturating_add(part.len);
    if part.len > abi::HEKI_MAX_KEXEC_CHUNK.into() || end > abi::HEKI_MAX_KEXEC_BYTES.into() {
        return Err(Refusal::TooBig);
    }
    match part.gpa.checked_add(part.len) {
        Some(end) if end <= GPA_END => Ok(()),
        _ => Err(Refusal::Overflow),
    }
}

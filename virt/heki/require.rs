// SPDX-License-Identifier: GPL-2.0

//! The `require=` parameter: protections without which loading fails.
//!
//! Neighbours: read by [`seal`](crate::seal). Locks: none.

#![deny(unsafe_code)]

use kernel::{
    prelude::*,
    str::BStr, //
};

use crate::abi;

/// The protections by their names, in the order in which they are reported.
pub(crate) const NAMES: [(u32, &str); 5] = [
    (abi::HEKI_PROT_WRITE, "write"),
    (abi::HEKI_PROT_EXEC, "exec"),
    (abi::HEKI_PROT_CR, "cr"),
    (abi::HEKI_PROT_MSR, "msr"),
    (abi::HEKI_PROT_DT, "dt"),
];

/// Reads words separated by commas into `HEKI_PROT_*` bits.
pub(crate) fn parse(text: &[u8]) -> Result<u32> {
    let mut required = 0;
    for word in text.trim_ascii().split(|&byte| byte == b',') {
        if word.is_empty() && text.trim_ascii().is_empty() {
            continue;
        }
        let Some((prot, _)) = NAMES.iter().find(|(_, name)| name.as_bytes() == word) else {
            pr_err!(
                "require={}: unknown word \"{}\"; known are write, exec, cr, msr and dt\n",
                BStr::from_bytes(text),
                BStr::from_bytes(word)
            );
            return Err(EINVAL);
        };
        required |= prot;
    }
    Ok(required)
}

// SPDX-License-Identifier: GPL-2.0

//! Fuzz target of the SEAL request: `make fuzz`.

#![no_main]

#[path = "../oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = oracle::fuzz_one(bytes);
});

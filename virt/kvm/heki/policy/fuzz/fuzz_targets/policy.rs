// SPDX-License-Identifier: GPL-2.0

//! Fuzz target of a VMM's policy: `make fuzz`.

#![no_main]

#[path = "../oracle.rs"]
#[expect(dead_code, reason = "shared with the other targets")]
mod oracle;
#[path = "../policies.rs"]
mod policies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = policies::fuzz_one(bytes);
});

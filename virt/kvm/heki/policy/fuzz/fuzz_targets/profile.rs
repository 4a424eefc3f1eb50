// SPDX-License-Identifier: GPL-2.0

//! Fuzz target of the profile: `make fuzz`.

#![no_main]

#[path = "../changes.rs"]
#[expect(dead_code, reason = "shared with the other targets")]
mod changes;
#[path = "../toy.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod toy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = changes::profile(bytes);
});

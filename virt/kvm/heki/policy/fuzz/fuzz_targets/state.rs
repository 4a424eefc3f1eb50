// SPDX-License-Identifier: GPL-2.0

//! Fuzz target of saved states: `make fuzz`.

#![no_main]

#[path = "../oracle.rs"]
#[expect(dead_code, reason = "shared with the other targets")]
mod oracle;
#[path = "../states.rs"]
mod states;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = states::fuzz_one(bytes, &oracle::PLAIN);
    let _ = states::fuzz_one(bytes, &oracle::ABLE);
});

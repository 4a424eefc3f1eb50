// SPDX-License-Identifier: GPL-2.0

//! Fuzz target of PATCH and of the trampolines that it may change: `make fuzz`.

#![no_main]

use std::sync::LazyLock;

#[path = "../changes.rs"]
#[expect(dead_code, reason = "shared with the other targets")]
mod changes;
#[path = "../toy.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod toy;

static TOY: LazyLock<toy::Toy> = LazyLock::new(toy::Toy::new);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = changes::patch(bytes, &TOY);
    changes::trampolines(bytes, &TOY);
});

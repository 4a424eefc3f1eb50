// SPDX-License-Identifier: GPL-2.0

//! Sets for this crate what the kernel's build sets for every Rust file.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=CONFIG_RUST");
}

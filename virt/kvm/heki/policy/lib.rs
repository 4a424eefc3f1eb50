// SPDX-License-Identifier: GPL-2.0

//! The rules: what a VM may ask for, what it then may do, and what a denial is called.
//!
//! Decides and remembers nothing; the rooms around it hold the state, the locks and the effects.
//! One source, two builds: a crate for Cargo, and a module of the host in the kernel.
//! Neighbours: `abi`, the wire. Locks: none, every function is pure.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]
#![cfg_attr(
    CONFIG_RUST,
    allow(
        dead_code,
        unreachable_pub,
        reason = "the Cargo build sees the whole as public"
    )
)]

#[cfg(CONFIG_RUST)]
use super::abi;
#[cfg(not(CONFIG_RUST))]
use heki_abi as abi;

pub mod address;
pub mod edit;
pub mod grant;
pub mod kexec;
pub mod learn;
pub mod lifecycle;
pub mod map;
pub mod patch;
pub mod pin;
pub mod refusal;
pub mod registers;
pub mod request;
pub mod rights;
pub mod saved;
pub mod sort;
pub mod verdict;
pub mod vmm;

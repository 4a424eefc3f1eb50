// SPDX-License-Identifier: GPL-2.0

//! heki_guest: has the host seal this kernel's memory and control registers.
//!
//! Loading the module is the request; there is nothing to run afterwards and no way back.
//!
//! - [`seal`]: the order of work. Start reading here.
//! - [`require`]: the module's parameter.
//! - [`sections`], [`ranges`]: what is sealed.
//! - [`pins`]: which control-register bits.
//! - [`lifecycle`]: what must rest before and is refused afterwards.
//! - [`hypercall`], `abi`: the words with the host.
//! - [`report`]: the log.
//! - [`ffi`]: the only room with `unsafe`; `shim.c` below it is what only C can be, and owns the module's init.
//!
//! Locks: none. Everything runs once, in the context of the system call that loads the module.

#![crate_name = "heki_guest"]

#[path = "abi/lib.rs"]
mod abi;
mod ffi;
mod hypercall;
mod lifecycle;
mod pins;
#[path = "ranges/lib.rs"]
mod ranges;
mod report;
mod require;
mod seal;
mod sections;

/// The prefix of every line in the log.
const __LOG_PREFIX: &[u8] = b"heki\0";

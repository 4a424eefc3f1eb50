// SPDX-License-Identifier: GPL-2.0

//! heki_guest: has the host seal this kernel's memory and control registers.
//!
//! Loading the module is the request; there is no way back.
//!
//! - [`seal`]: the order of work. Start reading here.
//! - [`require`], [`switch`]: the module's parameters.
//! - [`sections`], [`ranges`]: what is sealed.
//! - [`tables`]: what the host must know to judge changes of text.
//! - [`pins`]: which control-register bits.
//! - [`lifecycle`]: what must rest before and is refused afterwards.
//! - [`hooks`]: what goes on after the seal: [`patch`] changes text, [`pool`] turns pages to text and back, [`kexec`]
//!   goes over to another kernel.
//! - [`hypercall`], `abi`: the words with the host.
//! - [`report`]: the log. [`show`]: `/sys/kernel/heki/`, and a word before an oops.
//! - [`ffi`]: the only room with `unsafe`; `shim.c` below it is what only C can be, and owns the module's init.
//!   `text_hooks.c` is built in: the hooks of the kernel, and what no exported symbol gives.
//!
//! Locks: `text_mutex`, then one of those in [`ffi`]. All but the hooks runs once, in the context of the system call
//! that loads the module.

#![crate_name = "heki_guest"]

#[path = "abi/lib.rs"]
mod abi;
mod ffi;
mod hooks;
mod hypercall;
mod kexec;
mod lifecycle;
mod patch;
mod pins;
mod pool;
#[path = "ranges/lib.rs"]
mod ranges;
mod report;
mod require;
mod seal;
mod sections;
mod show;
mod switch;
mod tables;

/// The prefix of every line in the log.
const __LOG_PREFIX: &[u8] = b"heki\0";

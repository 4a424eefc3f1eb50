// SPDX-License-Identifier: GPL-2.0

//! The switch of the compiler of BPF, which is turned off before the seal: it makes text in a way that the host does
//! not serve.
//!
//! Neighbours: called by [`seal`](crate::seal). Locks: none; everything here may sleep.

#![deny(unsafe_code)]

use core::ffi::CStr;
use kernel::{
    prelude::*,
    str::BStr, //
};

use crate::ffi;

const BPF_JIT: &CStr = c"sys/net/core/bpf_jit_enable";

/// A switch that is off. Dropped, it is what it was before.
pub(crate) struct Off {
    path: &'static CStr,
    was: u8,
}

impl Off {
    /// Turns it off, if it is there and on.
    fn new(path: &'static CStr) -> Result<Option<Self>> {
        let was = match ffi::read_sysctl(path) {
            Err(err) if err == ENOENT => return Ok(None),
            was => was?,
        };
        if was == b'0' {
            return Ok(None);
        }
        ffi::write_sysctl(path, c"0")?;
        Ok(Some(Self { path, was }))
    }

    /// It stays off.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        let value = if self.was == b'2' { c"2" } else { c"1" };
        if ffi::write_sysctl(self.path, value).is_err() {
            pr_warn!(
                "cannot turn on again: /proc/{}\n",
                BStr::from_bytes(self.path.to_bytes())
            );
        }
    }
}

/// What the parameter `bpf=` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bpf {
    /// Turn the compiler off.
    Interpreter,
    /// Refuse to seal while it is on.
    Refuse,
}

impl Bpf {
    /// Reads the parameter.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        match text.trim_ascii() {
            b"interpreter" => Ok(Self::Interpreter),
            b"refuse" => Ok(Self::Refuse),
            text => {
                pr_err!(
                    "bpf={}: unknown word; known are interpreter and refuse\n",
                    BStr::from_bytes(text)
                );
                Err(EINVAL)
            }
        }
    }

    /// Leaves the compiler off, or says why not.
    pub(crate) fn apply(self) -> Result<Option<Off>> {
        if self == Self::Refuse && ffi::read_sysctl(BPF_JIT).is_ok_and(|value| value != b'0') {
            pr_err!(
                "the compiler of BPF is on (net.core.bpf_jit_enable) and bpf=refuse; not sealed\n"
            );
            return Err(EBUSY);
        }
        let off = Off::new(BPF_JIT).inspect_err(|err| {
            pr_err!(
                "the compiler of BPF cannot be turned off (error {}; CONFIG_BPF_JIT_ALWAYS_ON?); not sealed\n",
                err.to_errno()
            );
        })?;
        if off.is_none() && cfg!(CONFIG_BPF_JIT) && ffi::read_sysctl(BPF_JIT).is_err() {
            pr_err!("no switch for the compiler of BPF in this network namespace; not sealed\n");
            return Err(EOPNOTSUPP);
        }
        Ok(off)
    }
}

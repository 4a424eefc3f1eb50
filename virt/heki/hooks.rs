// SPDX-License-Identifier: GPL-2.0

//! The hooks of the kernel where it changes its text: installed before the seal, in force from it on.
//!
//! Until they are in force they leave everything to the kernel. They come into force while nobody can be on the
//! way of changing text, so that no change is half the kernel's and half the host's.
//!
//! Neighbours: [`patch`](crate::patch) and [`pool`](crate::pool) are what they do; [`seal`](crate::seal) installs them.
//! Locks: [`Still`] holds `text_mutex`, then [`POOL`].

#![deny(unsafe_code)]

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        lock::GlobalGuard, //
    }, //
};

use crate::{
    ffi::{
        self,
        TextLock,
        PATCH,
        POOL, //
    },
    patch,
    pool, //
};

static IN_FORCE: Atomic<bool> = Atomic::new(false);

/// Whether the host changes text, and the kernel must not.
pub(crate) fn in_force() -> bool {
    IN_FORCE.load(Acquire)
}

/// The hooks, installed. Dropped, they are removed; not while [`Still`] is held.
pub(crate) struct Hooks(());

impl Hooks {
    /// Installs them. They do nothing yet. May sleep.
    pub(crate) fn install() -> Result<Self> {
        *PATCH.lock() = patch::new_block()?;
        *POOL.lock() = pool::new_block()?;
        ffi::install_hooks();
        Ok(Self(()))
    }

    /// This kernel is sealed: from now on, and for good, the hooks ask the host.
    pub(crate) fn keep(self, _still: &Still) {
        IN_FORCE.store(true, Release);
        core::mem::forget(self);
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        ffi::remove_hooks();
    }
}

/// Nobody changes text, and no page turns to text or back.
pub(crate) struct Still {
    _pool: GlobalGuard<POOL>,
    _text: TextLock,
}

impl Still {
    /// Waits for whoever is at it. May sleep.
    pub(crate) fn new() -> Self {
        let text = TextLock::new();
        Self {
            _pool: POOL.lock(),
            _text: text,
        }
    }
}

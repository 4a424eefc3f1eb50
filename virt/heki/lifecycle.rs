// SPDX-License-Identifier: GPL-2.0

//! What must have come to rest before the seal, and what is refused from then on because it would break the kernel.
//!
//! Neighbours: [`ffi`](crate::ffi), [`sections`](crate::sections); called by [`seal`](crate::seal).
//! Locks: none; everything here may sleep.

#![deny(unsafe_code)]

use core::ffi::CStr;
use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    ffi,
    sections::{
        self,
        Sections, //
    }, //
};

/// How long to wait between two looks.
const STEP: Delta = Delta::from_millis(20);
/// Looks at the clocksource without a change that make it settled.
const CLOCK_STEPS: u32 = 10;
/// Looks after which waiting ends.
const MAX_STEPS: u32 = 1500;

/// The switches of the kernel that only go one way: path, name, and whether there may be none.
const SWITCHES: [(&CStr, &str, bool); 2] = [
    (c"sys/kernel/kexec_load_disabled", "kexec", true),
    (c"sys/kernel/modules_disabled", "loading of modules", false),
];

/// Waits until the clocksource has been the same for a while.
///
/// A change of it rewrites kernel text, which nobody can do once that is sealed.
pub(crate) fn settle_clock() -> Result {
    let mut changes = ffi::clock().changes;
    let mut same = 0;
    for _ in 0..MAX_STEPS {
        fsleep(STEP);
        let clock = ffi::clock();
        same = if clock.early || clock.changes != changes {
            0
        } else {
            same + 1
        };
        changes = clock.changes;
        if same == CLOCK_STEPS {
            return Ok(());
        }
    }
    pr_err!("the clocksource does not settle; not sealed, try again later\n");
    Err(EAGAIN)
}

/// Waits until no module is on its way in or out, and returns what the memory then holds.
pub(crate) fn settle_modules() -> Result<Sections> {
    ffi::quiesce();
    let mut before = sections::scan()?;
    for _ in 0..MAX_STEPS {
        fsleep(STEP);
        ffi::quiesce();
        let now = sections::scan()?;
        if ffi::modules_settled() && now == before {
            return Ok(now);
        }
        before = now;
    }
    pr_err!("modules are being loaded all the time; not sealed, try again later\n");
    Err(EAGAIN)
}

/// Refusals in force. Dropped, it lifts them.
pub(crate) struct Blocked(());

impl Blocked {
    /// Refuses everything that the kernel would not survive once it is sealed.
    pub(crate) fn new() -> Result<Self> {
        ffi::block()
            .inspect_err(|_| pr_err!("cannot refuse suspend and CPU hotplug; not sealed\n"))?;
        Ok(Self(()))
    }

    /// Keeps the refusals for good, and adds those that nobody can take back.
    ///
    /// They come after the seal, so that a kernel whose seal is refused is left as it was. Whoever
    /// is faster is killed by the seal itself.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
        for (path, what, optional) in SWITCHES {
            turn_off(path, what, optional);
        }
        if ffi::stop_efi() {
            pr_warn!("EFI runtime services are turned off: their code would not run\n");
        }
        if ffi::crash_kernel() {
            pr_warn!("the crash kernel that is loaded will not start\n");
        }
        pr_info!(
            "refused from now on: loading and unloading modules, kexec, suspend, hibernation, CPU hotplug\n"
        );
        pr_info!(
            "not served yet, do not use: ftrace, kprobes, live patching, JIT-compiled BPF, other clocksources\n"
        );
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        ffi::unblock();
    }
}

/// A kernel without kexec has no switch for it.
fn turn_off(path: &CStr, what: &str, optional: bool) {
    match ffi::write_sysctl(path, c"1") {
        Ok(()) => {}
        Err(err) if optional && err == ENOENT => {}
        Err(err) => pr_err!(
            "cannot turn off {} (error {}); whoever uses it is killed\n",
            what,
            err.to_errno()
        ),
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What must have come to rest before the seal, and what is refused from then on because it would break the kernel.
//!
//! Neighbours: [`ffi`](crate::ffi), [`sections`](crate::sections), [`hooks`](crate::hooks),
//! [`kexec`](crate::kexec); called by [`seal`](crate::seal). Locks: [`Still`]'s; everything here may sleep.

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
    abi,
    ffi,
    hooks::{
        self,
        Still, //
    },
    kexec,
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

/// A switch of the kernel that only goes one way: path, name, and whether there may be none.
type Switch = (&'static CStr, &'static str, bool);

const KEXEC: Switch = (c"sys/kernel/kexec_load_disabled", "kexec", true);
const MODULES: Switch = (c"sys/kernel/modules_disabled", "loading of modules", false);

/// Waits until the clocksource has been the same for a while.
///
/// A change of it rewrites kernel text, which a host that serves no changes of text cannot allow.
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

/// Waits until memory is at rest, with no module on its way in or out, and returns what it then holds, and keeps it
/// that way. `before` is what it held at an earlier look.
pub(crate) fn settle(mut before: Sections) -> Result<(Sections, Still)> {
    for _ in 0..MAX_STEPS {
        ffi::quiesce();
        let still = Still::new();
        let now = sections::scan()?;
        if ffi::modules_settled() && now == before {
            return Ok((now.with_pool()?, still));
        }
        drop(still);
        before = now;
        fsleep(STEP);
    }
    pr_err!("modules or kernel text change all the time; not sealed, try again later\n");
    Err(EAGAIN)
}

/// Fails while functions are traced: the trampolines are text that is there already, of which the host cannot know
/// what it is. New ones it can check.
pub(crate) fn refuse_traced(_still: &Still) -> Result {
    if ffi::traced() {
        pr_err!("functions are traced or patched live; not sealed, stop the tracer and remove probes and live patches before\n");
        return Err(EBUSY);
    }
    Ok(())
}

/// Whether a module may come or go.
///
/// # Errors
///
/// [`EPERM`] once the host changes text: it allows no new code.
pub(crate) fn may_load() -> Result {
    if !hooks::in_force() {
        return Ok(());
    }
    ffi::refused_use(
        c"loading or unloading a module",
        c"no policy of the host allows code that was not there at the seal; load modules before it",
    );
    Err(EPERM)
}

/// Refusals in force. Dropped, it lifts them.
pub(crate) struct Blocked {
    /// Nobody will change text, so no CPU can come or go.
    frozen: bool,
}

impl Blocked {
    /// Refuses everything that the kernel would not survive once it is sealed.
    pub(crate) fn new(frozen: bool) -> Result<Self> {
        ffi::block().inspect_err(|_| pr_err!("cannot refuse suspend; not sealed\n"))?;
        if frozen {
            ffi::block_cpus();
        }
        Ok(Self { frozen })
    }

    /// Keeps the refusals for good, and adds those that nobody can take back.
    ///
    /// They come after the seal, so that a kernel whose seal is refused is left as it was. Whoever
    /// is faster is killed by the seal itself.
    /// `served` is what the host serves (`HEKI_PATCH_*` and `HEKI_SERVES_*`).
    pub(crate) fn keep(self, served: u32) {
        let frozen = self.frozen;
        core::mem::forget(self);
        ffi::watch_wakes();
        turn_off(MODULES);
        // Where there are hooks, they refuse kexec and say why.
        if !hooks::in_force() {
            turn_off(KEXEC);
        }
        let mut refused = "kexec";
        if served & abi::HEKI_SERVES_KEXEC != 0 {
            kexec::serve();
            pr_info!("kexec: kernels of the VMM's list can be loaded as a file, and started\n");
            refused = "all other kexec";
        }
        if served & abi::HEKI_PATCH_FTRACE == 0 {
            ffi::stop_ftrace();
        } else {
            ffi::untrace_self();
        }
        if ffi::probed() {
            pr_warn!(
                "kprobes had breakpoints set since boot: do not remove those that are still there\n"
            );
        }
        if ffi::stop_efi() {
            pr_warn!("EFI runtime services are turned off: their code would not run\n");
        }
        if ffi::crash_kernel() {
            pr_warn!("the crash kernel that is loaded will not start\n");
        }
        pr_info!(
            "refused from now on: loading and unloading modules, {}, suspend, hibernation{}\n",
            refused,
            if frozen { ", CPU hotplug" } else { "" }
        );
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if self.frozen {
            ffi::unblock_cpus();
        }
        ffi::unblock();
    }
}

/// A kernel without kexec has no switch for it.
fn turn_off((path, what, optional): Switch) {
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

// SPDX-License-Identifier: GPL-2.0

//! The KVM device with which a VMM opts its guest in to Heki. Numbers come from the `heki_abi`
//! crate.
//!
//! `vm.rs` creates it before the first vCPU and resets it with all vCPUs stopped. Locks: none.

use heki_abi::{
    KVM_DEV_HEKI_CTRL,
    KVM_DEV_HEKI_RESET,
    KVM_DEV_TYPE_HEKI, //
};
use kvm_bindings::{
    kvm_create_device,
    kvm_device_attr, //
};
use kvm_ioctls::{
    DeviceFd,
    VmFd, //
};

use crate::exit::Error;

/// A VM's opt-in.
pub(crate) struct Heki(DeviceFd);

impl Heki {
    /// Opts the VM in.
    pub(crate) fn enable(vm: &VmFd) -> Result<Self, Error> {
        let mut device = kvm_create_device {
            type_: KVM_DEV_TYPE_HEKI,
            fd: 0,
            flags: 0,
        };
        match vm.create_device(&mut device) {
            Ok(fd) => Ok(Heki(fd)),
            Err(error) => Err(Error::Heki(refusal(error))),
        }
    }

    /// Forgets what the guest sealed, so that the next one may seal itself. Every vCPU must be
    /// stopped.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        let attr = kvm_device_attr {
            group: KVM_DEV_HEKI_CTRL,
            attr: KVM_DEV_HEKI_RESET,
            ..Default::default()
        };
        self.0
            .set_device_attr(&attr)
            .map_err(Error::kvm("reset the Heki state"))
    }
}

/// What an errno of the creation means to the user.
fn refusal(error: kvm_ioctls::Error) -> String {
    match error.errno() {
        libc::ENODEV => "this host's kernel has no Heki".into(),
        libc::EOPNOTSUPP => {
            "this host cannot hold it: that takes KVM's TDP MMU (EPT or NPT)".into()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        let text = |errno| refusal(kvm_ioctls::Error::new(errno));
        assert_eq!(text(libc::ENODEV), "this host's kernel has no Heki");
        assert!(text(libc::EOPNOTSUPP).contains("TDP MMU"));
        assert!(text(libc::ENOMEM).contains("memory"));
    }
}

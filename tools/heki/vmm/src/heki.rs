// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The KVM device with which a VMM opts its guest in to Heki. Numbers come from the `heki_abi`
//! crate.
//!
//! `vm.rs` creates it before the first vCPU, with what `profile.rs` found in the guest's kernel, and
//! resets it with all vCPUs stopped. Locks: none.

use std::ptr;

use heki_abi::{
    Range,
    Ranges,
    HEKI_MAX_RANGES,
    HEKI_STATE_SEALED,
    KVM_DEV_HEKI_CAPS,
    KVM_DEV_HEKI_CTRL,
    KVM_DEV_HEKI_POLICY,
    KVM_DEV_HEKI_PROFILE,
    KVM_DEV_HEKI_RANGES,
    KVM_DEV_HEKI_RESET,
    KVM_DEV_HEKI_STATE,
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

use zerocopy::{
    FromBytes,
    FromZeros,
    IntoBytes, //
};

use crate::exit::Error;
use crate::policy::{
    self,
    Policy, //
};
use crate::profile::Profile;

/// A VM's opt-in.
pub(crate) struct Heki(DeviceFd);

impl Heki {
    /// Opts the VM in, and tells the host of its kernel and of our policy. Before the first vCPU.
    pub(crate) fn enable(
        vm: &VmFd,
        profile: Option<&Profile>,
        policy: Option<&Policy>,
    ) -> Result<Self, Error> {
        let mut device = kvm_create_device {
            type_: KVM_DEV_TYPE_HEKI,
            fd: 0,
            flags: 0,
        };
        let heki = match vm.create_device(&mut device) {
            Ok(fd) => Heki(fd),
            Err(error) => return Err(Error::Heki(refusal(error))),
        };
        if let Some(profile) = profile {
            heki.describe(profile)?;
        }
        if let Some(policy) = policy {
            heki.limit(policy)?;
        }
        Ok(heki)
    }

    /// The host keeps the policy for the life of the VM, resets included.
    fn limit(&self, policy: &Policy) -> Result<(), Error> {
        let missing = policy.required() & !self.protections()?;
        if missing != 0 {
            return Err(Error::Required(policy::names(missing)));
        }
        let wire = policy.abi();
        let attr = attribute(KVM_DEV_HEKI_POLICY, wire.as_bytes().as_ptr());
        self.0
            .set_device_attr(&attr)
            .map_err(Error::kvm("take the Heki policy"))
    }

    /// `HEKI_PROT_*` that this host can enforce: `cpuid.rs` sees to it that exec is one of them.
    fn protections(&self) -> Result<u32, Error> {
        let mut caps = heki_abi::Caps::new_zeroed();
        let mut attr = attribute(KVM_DEV_HEKI_CAPS, &raw mut caps);
        // SAFETY: KVM writes a `struct heki_caps`, which `caps` has room for: `heki_abi` is held to
        // the header. Any bits are a value of it.
        unsafe { self.0.get_device_attr(&mut attr) }
            .map_err(Error::kvm("tell what Heki can enforce"))?;
        Ok(caps.protections)
    }

    /// What the guest sealed and was granted, ascending.
    pub(crate) fn ranges(&self) -> Result<Vec<Range>, Error> {
        let room = HEKI_MAX_RANGES as usize;
        let mut buffer = vec![0u8; size_of::<Ranges>() + room * size_of::<Range>()];
        let header = Ranges {
            nr: HEKI_MAX_RANGES,
            state: 0,
        };
        // Fails only without room.
        let _ = header.write_to_prefix(&mut buffer);
        let mut attr = attribute(KVM_DEV_HEKI_RANGES, buffer.as_mut_ptr());
        // SAFETY: KVM writes a `struct heki_ranges` and no more ranges than the header says, for
        // which `buffer` has room.
        unsafe { self.0.get_device_attr(&mut attr) }
            .map_err(Error::kvm("tell what the guest sealed"))?;
        Ok(parse_ranges(&buffer))
    }

    /// Whether the guest is sealed now.
    pub(crate) fn is_sealed(&self) -> Result<bool, Error> {
        let mut header = Ranges { nr: 0, state: 0 };
        let mut attr = attribute(KVM_DEV_HEKI_RANGES, &raw mut header);
        // SAFETY: KVM writes a `struct heki_ranges`, and no ranges, for which there is no room.
        match unsafe { self.0.get_device_attr(&mut attr) } {
            // There are ranges.
            Err(error) if error.errno() != libc::E2BIG => {
                Err(Error::kvm("tell whether the guest is sealed")(error))
            }
            _ => Ok(header.state == HEKI_STATE_SEALED),
        }
    }

    /// The host keeps the profile for the life of the VM, resets included.
    fn describe(&self, profile: &Profile) -> Result<(), Error> {
        let bytes = profile.to_bytes();
        let attr = attribute(KVM_DEV_HEKI_PROFILE, bytes.as_ptr());
        self.0
            .set_device_attr(&attr)
            .map_err(|error| Error::Profile(profile_refusal(error)))
    }

    /// What the host keeps of the seal. Every vCPU must be stopped.
    pub(crate) fn save(&self) -> Result<Vec<u8>, Error> {
        let len = self.get_state(&mut [])?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        let len = self.get_state(&mut bytes)?;
        bytes.truncate(usize::try_from(len).unwrap_or_default());
        Ok(bytes)
    }

    /// Fills `room` with the state, if there is any, and returns how long that is.
    fn get_state(&self, room: &mut [u8]) -> Result<u64, Error> {
        let mut buffer = heki_abi::Buffer {
            data: room.as_mut_ptr().expose_provenance() as u64,
            len: room.len() as u64,
        };
        let mut attr = attribute(KVM_DEV_HEKI_STATE, &raw mut buffer);
        // SAFETY: KVM writes a `struct heki_buffer`, which `buffer` is, and no more bytes to `room`
        // than it has.
        unsafe { self.0.get_device_attr(&mut attr) }.map_err(Error::kvm("save the Heki state"))?;
        Ok(buffer.len)
    }

    /// Goes on with what another process saved, once memory and CPUID are as they were. Before any
    /// vCPU runs.
    pub(crate) fn restore(&self, bytes: &[u8]) -> Result<(), Error> {
        let buffer = heki_abi::Buffer {
            data: bytes.as_ptr().expose_provenance() as u64,
            len: bytes.len() as u64,
        };
        let attr = attribute(KVM_DEV_HEKI_STATE, buffer.as_bytes().as_ptr());
        self.0
            .set_device_attr(&attr)
            .map_err(|error| Error::HekiState(state_refusal(error)))
    }

    /// Forgets what the guest sealed, so that the next one may seal itself. Every vCPU must be
    /// stopped.
    pub(crate) fn reset(&self) -> Result<(), Error> {
        let attr = attribute(KVM_DEV_HEKI_RESET, ptr::null::<u8>());
        self.0
            .set_device_attr(&attr)
            .map_err(Error::kvm("reset the Heki state"))
    }
}

/// An attribute of the device, and what KVM reads or writes for it.
fn attribute<T>(attr: u64, data: *const T) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_DEV_HEKI_CTRL,
        attr,
        addr: data.expose_provenance() as u64,
        ..Default::default()
    }
}

/// The ranges behind their header.
fn parse_ranges(bytes: &[u8]) -> Vec<Range> {
    let Ok((header, rest)) = Ranges::read_from_prefix(bytes) else {
        return Vec::new();
    };
    rest.chunks_exact(size_of::<Range>())
        .take(header.nr as usize)
        .filter_map(|bytes| Range::read_from_bytes(bytes).ok())
        .collect()
}

/// What an errno means to the user when a saved state was set.
fn state_refusal(error: kvm_ioctls::Error) -> String {
    match error.errno() {
        libc::ENXIO => "this host's kernel knows no saved states".into(),
        libc::EOPNOTSUPP => {
            "this host, or the policy, does not hold all that the guest had sealed".into()
        }
        libc::EPERM => "--vmlinux is missing, or not the guest's".into(),
        _ => format!("{error}; the host's kernel log may say why"),
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

/// What an errno means to the user when the host was told of the kernel.
fn profile_refusal(error: kvm_ioctls::Error) -> String {
    match error.errno() {
        libc::ENXIO => "this host's kernel knows no profiles; do without --vmlinux".into(),
        libc::EINVAL => "it does not take this one; is heki-vmm of the host's version?".into(),
        libc::EBUSY => "it was told already, or a vCPU exists".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_many_as_the_header_says() {
        let range = |gpa| Range {
            gpa,
            len: 0x1000,
            va: 0,
            rights: 0,
            kind: 0,
        };
        let mut bytes = 2u32.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        for gpa in [0x1000, 0x5000, 0] {
            bytes.extend(range(gpa).as_bytes());
        }
        assert_eq!(parse_ranges(&bytes), [range(0x1000), range(0x5000)]);
        assert_eq!(parse_ranges(&[]), []);
    }

    #[test]
    fn refusals_are_explained() {
        let text = |errno| refusal(kvm_ioctls::Error::new(errno));
        assert_eq!(text(libc::ENODEV), "this host's kernel has no Heki");
        assert!(text(libc::EOPNOTSUPP).contains("TDP MMU"));
        assert!(text(libc::ENOMEM).contains("memory"));
        let text = |errno| profile_refusal(kvm_ioctls::Error::new(errno));
        assert!(text(libc::ENXIO).contains("--vmlinux"));
        assert!(text(libc::EINVAL).contains("version"));
        assert!(text(libc::EBUSY).contains("vCPU"));
        assert!(text(libc::ENOMEM).contains("memory"));
    }
}

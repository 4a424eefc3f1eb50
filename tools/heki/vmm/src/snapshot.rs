// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A machine in a directory: written while it is stopped, read by another process of the same version.
//!
//! `manifest.json` says what it is and comes last, `machine.json` has vCPUs and devices, `memory` the
//! RAM with holes for zeros ([`memory`]), `heki` what the host keeps of the seal. The guest's files,
//! its disk, profile and policy are not in it: the command line names them again. What is in the directory
//! is trusted as the command line is. Talks to `vm.rs`. Locks: none.

#![deny(unsafe_code)]

mod memory;

use std::fs::{
    self,
    DirBuilder,
    File, //
};
use std::io::{
    self,
    Read,
    Write, //
};
use std::os::unix::fs::DirBuilderExt;
use std::path::{
    Path,
    PathBuf, //
};

use kvm_bindings::kvm_clock_data;
use serde::de::DeserializeOwned;
use serde::{
    Deserialize,
    Serialize, //
};

use crate::devices;
use crate::exit::Error;
use crate::memory::Memory;
use crate::mmio;
use crate::vcpu;
use crate::vm::Chips;

/// Version of the layout.
const VERSION: u32 = 2;
const MANIFEST: &str = "manifest.json";
const MACHINE: &str = "machine.json";
const MEMORY: &str = "memory";
const HEKI: &str = "heki";
/// More than any of the small files has.
const MAX_BYTES: u64 = 64 << 20;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// [`VERSION`].
    version: u32,
    /// Bytes of guest memory.
    pub(crate) memory: u64,
    /// Number of vCPUs.
    pub(crate) cpus: u32,
    /// Whether the guest is opted in to Heki.
    pub(crate) heki: bool,
    /// Whether it has a disk.
    disk: bool,
}

impl Manifest {
    /// That of a machine.
    pub(crate) fn new(memory: u64, cpus: u32, heki: bool, disk: bool) -> Self {
        Manifest {
            version: VERSION,
            memory,
            cpus,
            heki,
            disk,
        }
    }

    /// What of `self` another machine differs in, if anything.
    fn difference(&self, other: &Manifest) -> Option<&'static str> {
        if self.version != other.version {
            Some("it is of another version of heki-vmm")
        } else if self.memory != other.memory {
            Some("its guest has another size of memory (--memory)")
        } else if self.cpus != other.cpus {
            Some("its guest has another number of vCPUs (--cpus)")
        } else if self.heki != other.heki {
            Some("only one of both is opted in to Heki (--heki)")
        } else if self.disk != other.disk {
            Some("only one of both has a disk (--disk)")
        } else {
            None
        }
    }
}

/// All of a machine but its memory and its seal.
#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The vCPUs, in order.
    pub(crate) vcpus: Vec<vcpu::Image>,
    /// The devices inside KVM.
    pub(crate) chips: Chips,
    /// What the guest's paravirtual clock shows.
    pub(crate) clock: kvm_clock_data,
    /// The devices of this process.
    pub(crate) devices: devices::Image,
    /// The disk of this process, without its content.
    pub(crate) disk: Option<mmio::Image>,
}

/// A directory that holds, or will hold, a machine.
pub(crate) struct Snapshot(PathBuf);

impl Snapshot {
    /// A new directory, for nobody else, that `fill` writes a machine into. If that fails nothing is
    /// left, so that it can be tried again.
    pub(crate) fn create(
        path: &Path,
        fill: impl FnOnce(&Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let snapshot = Snapshot(path.to_path_buf());
        let created = DirBuilder::new().mode(0o700).create(path);
        created.map_err(|error| snapshot.error(error))?;
        let filled = fill(&snapshot);
        if filled.is_err() {
            snapshot.remove();
        }
        filled
    }

    /// Removes our files, and the directory if there is nothing else in it.
    fn remove(&self) {
        for name in [MANIFEST, MACHINE, MEMORY, HEKI] {
            // Fails for those that were not yet written.
            let _ = fs::remove_file(self.0.join(name));
        }
        // The error that led here is the one to tell.
        let _ = fs::remove_dir(&self.0);
    }

    /// The directory of a snapshot of a machine as in `wanted`.
    pub(crate) fn open(path: &Path, wanted: &Manifest) -> Result<Self, Error> {
        let snapshot = Snapshot(path.to_path_buf());
        let manifest: Manifest = snapshot.read_json(MANIFEST)?;
        match manifest.difference(wanted) {
            Some(difference) => Err(snapshot.error(difference)),
            None => Ok(snapshot),
        }
    }

    /// Writes a machine. `manifest` says what it is.
    pub(crate) fn write(
        &self,
        manifest: &Manifest,
        memory: &Memory,
        machine: &Machine,
        heki: Option<&[u8]>,
    ) -> Result<(), Error> {
        if let Some(heki) = heki {
            self.write_bytes(HEKI, heki)?;
        }
        self.write_json(MACHINE, machine)?;
        self.create_file(MEMORY)
            .and_then(|mut file| memory::write(memory, &mut file))
            .map_err(|error| self.error(error))?;
        self.write_json(MANIFEST, manifest)
    }

    /// Fills `memory`, which is all zeros.
    pub(crate) fn read_memory(&self, memory: &Memory) -> Result<(), Error> {
        File::open(self.0.join(MEMORY))
            .and_then(|mut file| memory::read(memory, &mut file))
            .map_err(|error| self.error(error))
    }

    /// Reads the machine.
    pub(crate) fn read_machine(&self) -> Result<Machine, Error> {
        self.read_json(MACHINE)
    }

    /// Reads what the host kept of the seal.
    pub(crate) fn read_heki(&self) -> Result<Vec<u8>, Error> {
        self.read_bytes(HEKI)
    }

    /// For `map_err`: why this snapshot is of no use.
    pub(crate) fn error(&self, reason: impl ToString) -> Error {
        Error::Snapshot {
            path: self.0.clone(),
            reason: reason.to_string(),
        }
    }

    fn create_file(&self, name: &str) -> io::Result<File> {
        File::create_new(self.0.join(name))
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.create_file(name)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .map_err(|error| self.error(error))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let bytes = serde_json::to_vec(value).map_err(|error| self.error(error))?;
        self.write_bytes(name, &bytes)
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>, Error> {
        let read = || {
            let mut bytes = Vec::new();
            let file = fs::File::open(self.0.join(name))?;
            if file.take(MAX_BYTES).read_to_end(&mut bytes)? as u64 == MAX_BYTES {
                return Err(io::Error::other("it is too long"));
            }
            Ok(bytes)
        };
        read().map_err(|error| self.error(format!("{name}: {error}")))
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let bytes = self.read_bytes(name)?;
        serde_json::from_slice(&bytes).map_err(|error| self.error(format!("{name}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Manifest = Manifest {
        version: VERSION,
        memory: 1 << 20,
        cpus: 2,
        heki: true,
        disk: false,
    };

    #[test]
    fn manifest_is_json_of_known_fields() {
        let text = "{\"version\":2,\"memory\":1048576,\"cpus\":2,\"heki\":true,\"disk\":false}";
        assert_eq!(serde_json::to_string(&MACHINE).unwrap(), text);
        assert_eq!(serde_json::from_str::<Manifest>(text).unwrap(), MACHINE);
        for bad in [
            "{\"version\":1}",
            "{\"version\":-1,\"memory\":1,\"cpus\":2,\"heki\":true,\"disk\":false}",
            "{\"version\":1,\"memory\":1,\"cpus\":2,\"heki\":true,\"disk\":true,\"more\":1}",
        ] {
            assert!(serde_json::from_str::<Manifest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_same_machine_fits() {
        let differs = |other: Manifest| other.difference(&MACHINE).unwrap_or("");
        assert_eq!(differs(MACHINE), "");
        let version = VERSION + 1;
        assert!(differs(Manifest { version, ..MACHINE }).contains("version"));
        assert!(differs(Manifest {
            memory: 7,
            ..MACHINE
        })
        .contains("--memory"));
        assert!(differs(Manifest { cpus: 1, ..MACHINE }).contains("--cpus"));
        assert!(differs(Manifest {
            heki: false,
            ..MACHINE
        })
        .contains("--heki"));
        assert!(differs(Manifest {
            disk: true,
            ..MACHINE
        })
        .contains("--disk"));
    }

    #[test]
    fn a_directory_without_manifest_is_no_snapshot() {
        let dir = std::env::temp_dir().join(format!("heki-snapshot-{}", std::process::id()));
        let snapshot = Snapshot(dir.clone());
        Snapshot::create(&dir, |_| Ok(())).unwrap();
        assert!(
            Snapshot::create(&dir, |_| Ok(())).is_err(),
            "it is not overwritten"
        );
        assert!(dir.exists(), "nor removed");
        assert!(Snapshot::open(&dir, &MACHINE).is_err());
        snapshot.write_bytes(HEKI, b"abc").unwrap();
        snapshot.write_json(MANIFEST, &MACHINE).unwrap();
        let opened = Snapshot::open(&dir, &MACHINE).unwrap();
        assert_eq!(opened.read_heki().unwrap(), b"abc");
        assert!(opened.read_machine().is_err());
        let other = Manifest { cpus: 4, ..MACHINE };
        assert!(Snapshot::open(&dir, &other).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_failed_snapshot_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("heki-failed-{}", std::process::id()));
        let fail = |snapshot: &Snapshot| {
            snapshot.write_bytes(HEKI, b"abc")?;
            snapshot.create_file(MEMORY).unwrap();
            Err(snapshot.error("no space"))
        };
        for _ in 0..2 {
            let error = Snapshot::create(&dir, fail).unwrap_err().to_string();
            assert!(error.ends_with(": no space"), "{error}");
            assert!(!dir.exists());
        }
    }
}

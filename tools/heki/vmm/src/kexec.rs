// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The next kernel of a sealed guest: copied out of its memory part by part, judged as a whole, and
//! kept where the guest cannot reach it until it is started.
//!
//! `monitor.rs` brings the requests, `policy.rs` has the list of kernels, `vm.rs` boots what is
//! started. Locks: none; the monitor has one around the keeper.

#![deny(unsafe_code)]

use std::fmt;
use std::mem;

use heki_abi::{
    Exit,
    HEKI_KEXEC_FIRST,
    HEKI_KEXEC_LAST,
    HEKI_KEXEC_START,
    KVM_E2BIG,
    KVM_EINVAL,
    KVM_EPERM, //
};
use sha2::{
    Digest,
    Sha256, //
};
use vm_memory::{
    Bytes,
    GuestAddress, //
};

use crate::memory::{
    Memory,
    MIB, //
};
use crate::policy::Kexec;

/// The SHA-256 of a kernel's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Sum([u8; 32]);

impl TryFrom<String> for Sum {
    type Error = String;

    /// What `sha256sum` prints.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = || format!("{text:?}: a SHA-256 has 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut sum = [0; 32];
        for (at, byte) in (0..).step_by(2).zip(&mut sum) {
            let digits = text.get(at..at + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Sum(sum))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Takes the parts of a kernel, and keeps it if it is on the list.
#[derive(Debug)]
pub(crate) struct Keeper {
    list: Kexec,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    /// So much of a kernel has come.
    Loading(Vec<u8>, Sha256),
    /// All of it, and it is on the list.
    Kept(Vec<u8>),
    /// It is about to be booted.
    Started(Vec<u8>),
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Zero, or the `KVM_E*` that the guest gets.
    pub(crate) answer: u32,
    /// Whether it was to start the kernel, and not to load it.
    pub(crate) start: bool,
    /// Length of the kernel, as far as it came.
    pub(crate) bytes: u64,
    /// Its sum, if it was judged.
    pub(crate) sum: Option<Sum>,
}

impl Outcome {
    /// Whether this is more than one part of many.
    pub(crate) fn is_event(&self) -> bool {
        self.start || self.sum.is_some() || self.answer != 0
    }
}

impl Keeper {
    /// A keeper of the kernels that `list` names.
    pub(crate) fn new(list: Kexec) -> Self {
        Keeper {
            list,
            state: State::Nothing,
        }
    }

    /// Serves a request; `exit` is the host's copy of it, `memory` still the guest's.
    pub(crate) fn serve(&mut self, exit: &Exit, memory: &Memory) -> Outcome {
        let start = exit.kexec_flags & HEKI_KEXEC_START != 0;
        let mut sum = None;
        let done = match start {
            true => self.start(),
            false => self.load(exit, memory, &mut sum),
        };
        let bytes = self.bytes();
        if done.is_err() && !start {
            self.drop_load();
        }
        Outcome {
            answer: done.err().map_or(0, |errno| errno as u32),
            start,
            bytes,
            sum,
        }
    }

    /// The kernel that was started, if one was; all else is forgotten.
    pub(crate) fn take_started(&mut self) -> Option<Vec<u8>> {
        match mem::take(&mut self.state) {
            State::Started(image) => Some(image),
            _ => None,
        }
    }

    fn bytes(&self) -> u64 {
        match &self.state {
            State::Nothing => 0,
            State::Loading(image, _) | State::Kept(image) | State::Started(image) => {
                image.len() as u64
            }
        }
    }

    /// A load that fails leaves nothing, but for what is about to be booted.
    fn drop_load(&mut self) {
        if !matches!(self.state, State::Started(_)) {
            self.state = State::Nothing;
        }
    }

    fn start(&mut self) -> Result<(), i64> {
        match mem::take(&mut self.state) {
            State::Kept(image) => {
                self.state = State::Started(image);
                Ok(())
            }
            other => {
                self.state = other;
                Err(KVM_EPERM)
            }
        }
    }

    /// Takes one part, and judges the whole with the last.
    fn load(&mut self, exit: &Exit, memory: &Memory, sum: &mut Option<Sum>) -> Result<(), i64> {
        if matches!(self.state, State::Started(_)) {
            return Err(KVM_EPERM);
        }
        if exit.kexec_flags & HEKI_KEXEC_FIRST != 0 {
            self.state = State::Loading(Vec::new(), Sha256::new());
        }
        let max = self.list.max_mib().saturating_mul(MIB);
        let State::Loading(image, hash) = &mut self.state else {
            return Err(KVM_EINVAL);
        };
        let before = image.len() as u64;
        if exit.offset != before {
            return Err(KVM_EINVAL);
        }
        if before + u64::from(exit.kexec_len) > max {
            return Err(KVM_E2BIG);
        }
        // Read once: what the guest writes there later changes nothing.
        let mut part = vec![0; exit.kexec_len as usize];
        memory
            .read_slice(&mut part, GuestAddress(exit.gpa))
            .map_err(|_| KVM_EINVAL)?;
        hash.update(&part);
        image.append(&mut part);
        if exit.kexec_flags & HEKI_KEXEC_LAST == 0 {
            return Ok(());
        }
        let found = Sum(mem::take(hash).finalize().into());
        *sum = Some(found);
        if !self.list.has(&found) {
            return Err(KVM_EPERM);
        }
        self.state = State::Kept(mem::take(image));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use heki_abi::HEKI_OP_KEXEC;

    /// `printf abc | sha256sum`
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const GPA: u64 = 0x1000;
    const PERM: u32 = KVM_EPERM as u32;
    const INVAL: u32 = KVM_EINVAL as u32;
    const TOO_BIG: u32 = KVM_E2BIG as u32;

    struct Guest {
        memory: Memory,
        keeper: Keeper,
    }

    impl Guest {
        fn new() -> Self {
            let sum = Sum::try_from(ABC.to_owned()).unwrap();
            let memory = memory::allocate(4 * MIB, false).unwrap();
            memory.write_slice(b"abcdefgh", GuestAddress(GPA)).unwrap();
            Guest {
                memory,
                keeper: Keeper::new(Kexec::new(vec![sum], 2)),
            }
        }

        fn ask(&mut self, kexec_flags: u32, gpa: u64, kexec_len: u32, offset: u64) -> Outcome {
            let exit = Exit {
                op: HEKI_OP_KEXEC,
                gpa,
                kexec_flags,
                kexec_len,
                offset,
                ..Exit::default()
            };
            self.keeper.serve(&exit, &self.memory)
        }

        fn load(&mut self, len: u32) -> Outcome {
            self.ask(HEKI_KEXEC_FIRST | HEKI_KEXEC_LAST, GPA, len, 0)
        }

        fn start(&mut self) -> u32 {
            self.ask(HEKI_KEXEC_START, 0, 0, 0).answer
        }
    }

    #[test]
    fn sums() {
        let sum = |text: &str| Sum::try_from(text.to_owned());
        assert_eq!(sum(ABC).unwrap().to_string(), ABC);
        assert_eq!(sum(&ABC.to_uppercase()), sum(ABC));
        for wrong in ["", &ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g")] {
            assert!(sum(wrong).is_err(), "{wrong}");
        }
        assert!(sum(&"é".repeat(32)).is_err());
        assert!(sum(&"+1".repeat(32)).is_err());
    }

    #[test]
    fn a_kernel_of_the_list_is_kept_and_started() {
        let mut guest = Guest::new();
        let told = guest.load(3);
        assert_eq!((told.answer, told.bytes, told.start), (0, 3, false));
        assert_eq!(told.sum.unwrap().to_string(), ABC);
        assert!(told.is_event());
        // What is kept is what was judged.
        guest.memory.write_slice(b"xyz", GuestAddress(GPA)).unwrap();
        assert_eq!(guest.start(), 0);
        assert_eq!(guest.keeper.take_started().unwrap(), b"abc");
        assert_eq!(guest.keeper.take_started(), None);
        assert_eq!(guest.start(), PERM);
    }

    #[test]
    fn parts_come_in_their_order() {
        let mut guest = Guest::new();
        let part = guest.ask(HEKI_KEXEC_FIRST, GPA, 1, 0);
        assert!(part.answer == 0 && !part.is_event());
        assert_eq!(guest.ask(0, GPA + 1, 1, 1).answer, 0);
        assert_eq!(guest.start(), PERM);
        assert_eq!(guest.ask(HEKI_KEXEC_LAST, GPA + 2, 1, 2).answer, 0);
        assert_eq!(guest.start(), 0);
    }

    #[test]
    fn what_does_not_fit_drops_the_load() {
        let mut guest = Guest::new();
        for (flags, gpa, len, offset, errno) in [
            (0, GPA + 1, 1, 2, INVAL),
            (0, GPA + 1, 1, 0, INVAL),
            (HEKI_KEXEC_LAST, GPA, 1, u64::MAX, INVAL),
            (0, 4 * MIB, 1, 1, INVAL),
            (0, 4 * MIB - 1, 2, 1, INVAL),
            (0, u64::MAX, 2, 1, INVAL),
            (0, GPA, 2 * MIB as u32, 1, TOO_BIG),
            (0, GPA, u32::MAX, 1, TOO_BIG),
        ] {
            assert_eq!(guest.ask(HEKI_KEXEC_FIRST, GPA, 1, 0).answer, 0);
            let told = guest.ask(flags, gpa, len, offset);
            assert_eq!((told.answer, told.bytes), (errno, 1), "{gpa:#x} {len:#x}");
            assert!(told.is_event() && told.sum.is_none());
            assert_eq!(guest.ask(0, GPA + 1, 1, 1).answer, INVAL);
            assert_eq!(guest.start(), PERM);
        }
    }

    #[test]
    fn another_kernel_is_refused_and_dropped() {
        let mut guest = Guest::new();
        assert_eq!(guest.load(3).answer, 0);
        let told = guest.load(4);
        assert_eq!(told.answer, PERM);
        assert_ne!(told.sum.unwrap().to_string(), ABC);
        // So is the one before it.
        assert_eq!(guest.start(), PERM);
        assert_eq!(guest.ask(HEKI_KEXEC_LAST, GPA + 4, 1, 4).answer, INVAL);
    }

    #[test]
    fn a_new_load_forgets_the_old_one() {
        let mut guest = Guest::new();
        assert_eq!(guest.load(3).answer, 0);
        assert_eq!(guest.ask(HEKI_KEXEC_FIRST, GPA, 1, 0).answer, 0);
        assert_eq!(guest.start(), PERM);
        // A second first part begins anew.
        assert_eq!(guest.load(3).answer, 0);
    }

    #[test]
    fn what_is_started_is_not_replaced() {
        let mut guest = Guest::new();
        assert_eq!(guest.start(), PERM);
        assert_eq!(guest.load(3).answer, 0);
        assert_eq!(guest.start(), 0);
        assert_eq!(guest.load(3).answer, PERM);
        assert_eq!(guest.start(), PERM);
        assert_eq!(guest.keeper.take_started().unwrap(), b"abc");
    }

    #[test]
    fn a_reset_forgets_what_is_kept() {
        let mut guest = Guest::new();
        assert_eq!(guest.load(3).answer, 0);
        assert_eq!(guest.keeper.take_started(), None);
        assert_eq!(guest.start(), PERM);
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! KVM's binary statistics of a VMM's vCPUs, if the VMM keeps their files open.
//!
//! KVM gives such a file to the VMM alone, which heki-vmm and newer QEMUs hold on to; root takes a
//! copy of the descriptor (pidfd_getfd(2)) and reads it. It needs no debugfs. Layout:
//! KVM_GET_STATS_FD in `Documentation/virt/kvm/api.rst`. Locks: none.

use std::collections::BTreeMap;
use std::fs::{
    self,
    File, //
};
use std::os::unix::fs::FileExt;

use rustix::process::{
    pidfd_getfd,
    pidfd_open,
    Pid,
    PidfdFlags,
    PidfdGetfdFlags, //
};

use crate::host::{
    self,
    Roots, //
};

/// What the descriptor of a vCPU's statistics points to; its ID follows.
const TARGET: &str = "anon_inode:kvm-vcpu-stats:";

/// Most bytes of one file.
const MAX_BYTES: usize = 1 << 20;

/// Bytes of a descriptor before its name.
const DESC_BYTES: usize = 16;

/// Counters by name.
pub(crate) type Counters = BTreeMap<String, u64>;

/// The counters of a process whose names begin with `prefix`, without it, summed over its vCPUs.
/// `None` if it holds no statistics open, or they are not ours to read.
pub(crate) fn of_process(roots: &Roots, process: u32, prefix: &str) -> Option<Counters> {
    let fds = roots.procfs.join(process.to_string()).join("fd");
    let is_statistics = |name: &String| {
        let target = fs::read_link(fds.join(name)).unwrap_or_default();
        target.to_string_lossy().starts_with(TARGET)
    };
    let names = host::names(&fds).ok()?;
    let mut sums = None;
    for name in names.into_iter().filter(is_statistics) {
        let Some(all) = copy_of(process, name.parse().ok()?).and_then(|bytes| parse(&bytes)) else {
            continue;
        };
        let sums = sums.get_or_insert_with(Counters::new);
        for (name, value) in all {
            if let Some(name) = name.strip_prefix(prefix) {
                let sum = sums.entry(name.to_owned()).or_default();
                *sum = value.saturating_add(*sum);
            }
        }
    }
    sums
}

/// What a descriptor of another process reads.
fn copy_of(process: u32, fd: i32) -> Option<Vec<u8>> {
    let pid = Pid::from_raw(process.try_into().ok()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let file = File::from(pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok()?);
    let mut bytes = vec![0; MAX_BYTES];
    let len = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

/// All statistics of a file that are one number.
fn parse(bytes: &[u8]) -> Option<Counters> {
    let field = |at: usize| Some(u32_at(bytes, at)? as usize);
    let (name_size, nr, first, data) = (field(4)?, field(8)?, field(16)?, field(20)?);
    let each = name_size.checked_add(DESC_BYTES)?;
    let descs = bytes.get(first..)?.get(..nr.checked_mul(each)?)?;
    let mut all = Counters::new();
    for desc in descs.chunks_exact(each) {
        let (head, name) = desc.split_at_checked(DESC_BYTES)?;
        if head.get(6..8)? != 1u16.to_ne_bytes() {
            continue;
        }
        let at = data.checked_add(u32_at(head, 8)? as usize)?;
        let value = bytes.get(at..)?.first_chunk()?;
        let name = name.split(|byte| *byte == 0).next()?;
        let name = host::printable(&String::from_utf8_lossy(name));
        all.insert(name, u64::from_ne_bytes(*value));
    }
    Some(all)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME_BYTES: usize = 48;
    const HEADER_BYTES: usize = 24;

    /// A file with these statistics, each with as many numbers as `size` says.
    fn file(stats: &[(&str, u16, u64)]) -> Vec<u8> {
        let first = HEADER_BYTES + NAME_BYTES;
        let data = first + stats.len() * (DESC_BYTES + NAME_BYTES);
        let header = [0, NAME_BYTES, stats.len(), HEADER_BYTES, first, data];
        let mut bytes: Vec<u8> = header
            .iter()
            .flat_map(|field| (*field as u32).to_ne_bytes())
            .collect();
        bytes.resize(first, 0);
        for (index, (name, size, _)) in stats.iter().enumerate() {
            bytes.extend([0; 6]);
            bytes.extend(size.to_ne_bytes());
            bytes.extend((index as u32 * 8).to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(name.as_bytes());
            bytes.resize(bytes.len() + NAME_BYTES - name.len(), 0);
        }
        bytes.extend(stats.iter().flat_map(|(.., value)| value.to_ne_bytes()));
        bytes
    }

    #[test]
    fn numbers_are_read_by_name() {
        let all = parse(&file(&[
            ("exits", 1, 7),
            ("hist", 2, 1),
            ("heki_seal", 1, 3),
        ]))
        .unwrap();
        let expected = [("exits".to_owned(), 7), ("heki_seal".to_owned(), 3)];
        assert_eq!(all, Counters::from(expected));
    }

    #[test]
    fn a_file_that_ends_early_is_none() {
        let whole = file(&[("heki_seal", 1, 3)]);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(
            mut bytes in prop::collection::vec(any::<u8>(), 0..256),
            fields in prop::collection::vec(0u32..300, 6),
        ) {
            let _ = parse(&bytes);
            for (slot, field) in bytes.chunks_exact_mut(4).zip(fields) {
                slot.copy_from_slice(&field.to_ne_bytes());
            }
            let _ = parse(&bytes);
        }
    }
}

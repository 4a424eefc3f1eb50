// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! What CPUID tells each vCPU: what KVM supports, with the topology of this guest.
//!
//! The vCPUs are the cores of one package, one thread each, their APIC ids in order. They have no
//! VMX or SVM: in a guest of its own, a guest could run what its seal forbids, so the host offers
//! no execution allow-list with them. A guest that goes on from a snapshot keeps what it saw, if
//! this host has it. Pure; `vm.rs` asks KVM and hands the result to `vcpu.rs`. Locks: none.

use kvm_bindings::{
    kvm_cpuid_entry2,
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX, //
};

const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const HYPER_THREADING: u32 = 1 << 28;
const AMD_LEGACY_MULTI_CORE: u32 = 1 << 1;

/// Which bits of EAX, EBX, ECX and EDX are features, by leaf and subleaf.
const FEATURES: [(u32, u32, [u32; 4]); 17] = {
    const ALL: u32 = u32::MAX;
    [
        (0x1, 0, [0, 0, ALL, ALL]),
        (0x6, 0, [ALL, 0, ALL, 0]),
        (0x7, 0, [0, ALL, ALL, ALL]),
        (0x7, 1, [ALL, ALL, ALL, ALL]),
        (0x7, 2, [0, 0, 0, ALL]),
        (0xd, 0, [ALL, 0, 0, ALL]),
        (0xd, 1, [ALL, 0, ALL, ALL]),
        (0x14, 0, [0, ALL, ALL, 0]),
        (0x1e, 1, [ALL, 0, 0, 0]),
        (0x24, 0, [0, ALL << 8, 0, 0]),
        (0x4000_0001, 0, [ALL, 0, 0, 0]),
        (0x8000_0001, 0, [0, 0, ALL, ALL]),
        (0x8000_0007, 0, [0, 0, 0, ALL]),
        (0x8000_0008, 0, [0, ALL, 0, 0]),
        (0x8000_0021, 0, [ALL, 0, ALL, 0]),
        (0x8000_0022, 0, [ALL, 0, 0, 0]),
        (0xc000_0001, 0, [0, 0, 0, ALL]),
    ]
};
/// The leaf that begins with the processor's vendor, and the one with the widths of addresses.
const VENDOR: u32 = 0;
const ADDRESSES: u32 = 0x8000_0008;

/// A vCPU's place among the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topology {
    /// APIC id of the vCPU.
    pub(crate) id: u32,
    /// Number of vCPUs.
    pub(crate) count: u32,
}

impl Topology {
    /// Number of APIC id bits that tell the cores apart.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }
}

/// The entries for one vCPU, made from those that KVM supports.
pub(crate) fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    topology: Topology,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .iter()
        .copied()
        .filter(|entry| !is_topology(entry.function))
        .collect();
    for entry in &mut entries {
        patch(entry, topology, tsc_deadline);
    }
    let highest = supported
        .iter()
        .find(|entry| entry.function == 0)
        .map_or(0, |entry| entry.eax);
    for function in [0xb, 0x1f]
        .into_iter()
        .filter(|function| *function <= highest)
    {
        entries.extend(extended_topology(function, topology));
    }
    entries
}

/// What a guest that saw `saved` would miss where `offered` is all there is, if anything.
pub(crate) fn missing(saved: &[kvm_cpuid_entry2], offered: &[kvm_cpuid_entry2]) -> Option<String> {
    let vendor = |entries| find(entries, VENDOR, 0).map(|entry| [entry.ebx, entry.ecx, entry.edx]);
    if vendor(saved) != vendor(offered) {
        return Some("processors of that vendor".into());
    }
    let widths =
        |entries| find(entries, ADDRESSES, 0).map_or([0; 4], |entry| entry.eax.to_le_bytes());
    let [physical, linear, ..] = widths(offered);
    let [saved_physical, saved_linear, ..] = widths(saved);
    if saved_physical > physical || saved_linear > linear {
        return Some("addresses of that width".into());
    }
    let mut both = numbers(saved).into_iter().zip(numbers(offered));
    if both.any(|(saved, offered)| saved > offered) {
        return Some("AVX10 or performance counters like those".into());
    }
    FEATURES.iter().find_map(|&(function, index, features)| {
        missing_bits(saved, offered, function, index, features)
    })
}

/// Numbers that may not be less: the versions of AVX10 and of performance counters, how many of
/// these there are, and their width.
fn numbers(entries: &[kvm_cpuid_entry2]) -> [u32; 6] {
    let leaf = |function| find(entries, function, 0).copied().unwrap_or_default();
    let (avx10, intel, amd) = (leaf(0x24), leaf(0xa), leaf(0x8000_0022));
    let [version, counters, width, _] = intel.eax.to_le_bytes().map(u32::from);
    [
        avx10.ebx & 0xff,
        version,
        counters,
        width,
        intel.edx & 0x1f,
        amd.ebx & 0xf,
    ]
}

/// The same in one leaf, of which only the `features` count.
fn missing_bits(
    saved: &[kvm_cpuid_entry2],
    offered: &[kvm_cpuid_entry2],
    function: u32,
    index: u32,
    features: [u32; 4],
) -> Option<String> {
    let words = |entries| {
        find(entries, function, index)
            .map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    };
    let names = ["EAX", "EBX", "ECX", "EDX"].into_iter();
    let both = words(saved).into_iter().zip(words(offered)).zip(features);
    names
        .zip(both)
        .find_map(|(name, ((saved, offered), features))| {
            let bits = saved & !offered & features;
            (bits != 0)
                .then(|| format!("bits {bits:#x} of {name} in CPUID leaf {function:#x}.{index}"))
        })
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    entries
        .iter()
        .find(|entry| (entry.function, entry.index) == (function, index))
}

/// Leaves with one subleaf per level of the topology: the host's make no sense here.
fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f | 0x8000_0026)
}

fn patch(entry: &mut kvm_cpuid_entry2, topology: Topology, tsc_deadline: bool) {
    let Topology { id, count } = topology;
    match entry.function {
        0x1 => {
            let logical = count.next_power_of_two().min(0xff);
            entry.ebx = with_bits(with_bits(entry.ebx, 24, 8, id), 16, 8, logical);
            entry.ecx |= HYPERVISOR;
            set(&mut entry.ecx, VMX, false);
            set(&mut entry.ecx, TSC_DEADLINE, tsc_deadline);
            set(&mut entry.edx, HYPER_THREADING, count > 1);
        }
        // Caches: type 0 ends the list. Those up to level 2 belong to a core, the others to the
        // package.
        0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let cores = count.next_power_of_two() - 1;
            let sharing = if (entry.eax >> 5) & 0x7 > 2 { cores } else { 0 };
            entry.eax = with_bits(entry.eax, 14, 12, sharing);
            if entry.function == 0x4 {
                entry.eax = with_bits(entry.eax, 26, 6, cores.min(0x3f));
            }
        }
        0x8000_0001 => {
            set(&mut entry.ecx, AMD_LEGACY_MULTI_CORE, count > 1);
            set(&mut entry.ecx, SVM, false);
        }
        0x8000_0008 => {
            entry.ecx = with_bits(
                with_bits(entry.ecx, 0, 8, count - 1),
                12,
                4,
                topology.core_bits(),
            );
        }
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Levels thread and core; KVM answers further subleaves with zeros, which end the list.
fn extended_topology(function: u32, topology: Topology) -> [kvm_cpuid_entry2; 2] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index, kind: u32, shift, nr_logical| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: nr_logical,
        ecx: kind << 8 | index,
        edx: topology.id,
        ..Default::default()
    };
    [
        level(0, THREAD, 0, 1),
        level(1, CORE, topology.core_bits(), topology.count),
    ]
}

fn with_bits(word: u32, shift: u32, width: u32, value: u32) -> u32 {
    let mask = ((1 << width) - 1) << shift;
    (word & !mask) | ((value << shift) & mask)
}

fn set(word: &mut u32, bit: u32, on: bool) {
    if on {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        let mut entries = vec![
            leaf(0, 0),
            leaf(1, 0),
            leaf(0xb, 0),
            leaf(0xb, 1),
            leaf(0x1f, 0),
            leaf(0x4000_0000, 0),
        ];
        entries[0].eax = 0x1f;
        entries[1].ebx = 0x0508_0800;
        entries[2].edx = 5;
        entries[5].ebx = 0x4b4d_564b;
        entries
    }

    fn get(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = entries
            .iter()
            .filter(|entry| (entry.function, entry.index) == (function, index));
        let entry = *found.next().unwrap();
        assert!(found.next().is_none(), "leaf {function:#x} twice");
        entry
    }

    #[test]
    fn every_vcpu_has_its_id() {
        for id in 0..3 {
            let entries = for_vcpu(&host(), Topology { id, count: 3 }, true);
            let one = get(&entries, 1, 0);
            assert_eq!(
                (one.ebx >> 24, (one.ebx >> 16) & 0xff, one.ebx & 0xffff),
                (id, 4, 0x0800)
            );
            assert_ne!(one.ecx & HYPERVISOR, 0);
            assert_ne!(one.ecx & TSC_DEADLINE, 0);
            assert_ne!(one.edx & HYPER_THREADING, 0);
            for function in [0xb, 0x1f] {
                let (thread, core) = (get(&entries, function, 0), get(&entries, function, 1));
                assert_eq!(
                    (thread.eax, thread.ebx, thread.ecx, thread.edx),
                    (0, 1, 0x100, id)
                );
                assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, id));
            }
        }
    }

    #[test]
    fn a_single_vcpu_is_no_package_of_many() {
        let entries = for_vcpu(&host(), Topology { id: 0, count: 1 }, false);
        let one = get(&entries, 1, 0);
        assert_eq!((one.ebx >> 16) & 0xff, 1);
        assert_eq!(one.edx & HYPER_THREADING, 0);
        assert_eq!(one.ecx & TSC_DEADLINE, 0);
        assert_eq!(get(&entries, 0xb, 1).eax, 0);
    }

    #[test]
    fn leaves_that_the_cpu_lacks_stay_absent() {
        let mut host = host();
        host[0].eax = 0xd;
        let entries = for_vcpu(&host, Topology { id: 0, count: 2 }, true);
        assert!(entries.iter().all(|entry| entry.function != 0x1f));
        assert_eq!(get(&entries, 0xb, 0).ebx, 1);
    }

    #[test]
    fn kvm_stays_visible() {
        let entries = for_vcpu(&host(), Topology { id: 0, count: 1 }, true);
        assert_eq!(get(&entries, 0x4000_0000, 0).ebx, 0x4b4d_564b);
    }

    #[test]
    fn caches_and_amd_leaves() {
        let mut host = vec![
            leaf(0, 0),
            leaf(4, 0),
            leaf(4, 3),
            leaf(4, 4),
            leaf(0x8000_0008, 0),
            leaf(0x8000_001e, 0),
        ];
        host[1].eax = 0xffff_c021;
        host[2].eax = 0xffff_c063;
        let entries = for_vcpu(&host, Topology { id: 3, count: 4 }, true);
        assert_eq!(get(&entries, 4, 0).eax, 0x0c00_0021);
        assert_eq!(get(&entries, 4, 3).eax, 0x0c00_c063);
        assert_eq!(get(&entries, 4, 4).eax, 0);
        assert_eq!(get(&entries, 0x8000_0008, 0).ecx, 0x2003);
        assert_eq!(get(&entries, 0x8000_001e, 0).eax, 3);
    }

    #[test]
    fn what_a_guest_would_miss_is_named() {
        let mut saved = vec![leaf(0, 0), leaf(1, 0), leaf(7, 1), leaf(0x8000_0008, 0)];
        saved[0].ebx = 0x756e_6547;
        saved[1].edx = 0x6;
        saved[2].eax = 1 << 4;
        saved[3].eax = 0x3027;
        let lack = |offered: &[kvm_cpuid_entry2]| missing(&saved, offered).unwrap_or_default();
        let with = |at: usize, change: fn(&mut kvm_cpuid_entry2)| {
            let mut offered = saved.clone();
            change(&mut offered[at]);
            offered
        };
        assert_eq!(lack(&saved), "");
        assert_eq!(lack(&with(1, |one| one.edx = 0xff)), "", "more is no harm");
        assert_eq!(
            lack(&with(1, |one| one.eax = 7)),
            "",
            "nor is another model"
        );
        assert_eq!(
            lack(&with(1, |one| one.edx = 0x2)),
            "bits 0x4 of EDX in CPUID leaf 0x1.0"
        );
        assert!(lack(&saved[..2]).contains("width"));
        assert!(lack(&with(2, |seven| seven.eax = 0)).contains("0x10 of EAX in CPUID leaf 0x7.1"));
        assert!(lack(&with(2, |seven| seven.index = 2)).contains("leaf 0x7.1"));
        assert!(lack(&with(3, |widths| widths.eax = 0x3026)).contains("width"));
        assert!(lack(&with(3, |widths| widths.eax = 0x2f27)).contains("width"));
        assert!(lack(&with(0, |vendor| vendor.ebx = 0)).contains("vendor"));
        assert!(lack(&[]).contains("vendor"));
    }

    #[test]
    fn no_virtual_machines_in_the_guest() {
        let mut host = vec![leaf(0, 0), leaf(1, 0), leaf(0x8000_0001, 0)];
        host[1].ecx = u32::MAX;
        host[2].ecx = u32::MAX;
        let entries = for_vcpu(&host, Topology { id: 0, count: 2 }, true);
        assert_eq!(get(&entries, 1, 0).ecx, !VMX);
        assert_eq!(get(&entries, 0x8000_0001, 0).ecx, !SVM);
    }
}

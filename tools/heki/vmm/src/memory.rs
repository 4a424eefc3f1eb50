// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guest memory: where it lies, how the guest learns of it, how KVM and this process get at it.
//!
//! Used by `boot.rs`, `view.rs` and `vm.rs`. Locks: none.

use std::fs::File;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use linux_loader::loader::bootparam::boot_e820_entry;
use nix::sys::memfd::{
    memfd_create,
    MFdFlags, //
};
use vm_memory::{
    Address,
    FileOffset,
    GuestAddress,
    GuestMemory,
    GuestMemoryMmap,
    GuestMemoryRegion,
    GuestRegionMmap,
    MemoryRegionAddress, //
};

use crate::exit::Error;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;
/// Low memory ends here at the latest; the hole up to 4 GiB holds the interrupt controllers and
/// KVM's own pages.
pub(crate) const HOLE_START: u64 = 3 << 30;
/// Memory that did not fit below the hole goes on here.
pub(crate) const HOLE_END: u64 = 4 << 30;
/// A page that real-mode VMX needs as an identity map, inside the hole.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that real-mode VMX needs as a task state segment, inside the hole.
pub(crate) const KVM_TSS: u64 = 0xfffb_d000;

/// Conventional memory ends here, as on a PC.
const CONVENTIONAL_END: u64 = 0x9_fc00;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Guest memory, mapped into this process.
pub(crate) type Memory = GuestMemoryMmap<()>;

/// A piece of it: first byte, and the one after the last.
pub(crate) type Span = (u64, u64);

/// End of the memory below the hole, for a guest with `size` bytes.
pub(crate) fn low_end(size: u64) -> u64 {
    size.min(HOLE_START)
}

/// Start and length of each piece of guest memory.
pub(crate) fn ranges(size: u64) -> Vec<(u64, u64)> {
    let low = low_end(size);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((HOLE_END, size - low));
    }
    ranges
}

/// The memory map that the guest's kernel gets.
pub(crate) fn e820(size: u64) -> Vec<boot_e820_entry> {
    let mut map = vec![
        entry(0, CONVENTIONAL_END, E820_RAM),
        // Holds the ACPI tables, see acpi.rs.
        entry(CONVENTIONAL_END, MIB, E820_RESERVED),
    ];
    for (start, len) in ranges(size) {
        map.push(entry(start.max(MIB), start + len, E820_RAM));
    }
    map
}

fn entry(start: u64, end: u64, kind: u32) -> boot_e820_entry {
    boot_e820_entry {
        addr: start,
        size: end.saturating_sub(start),
        type_: kind,
    }
}

/// Maps zeroed memory for the guest; `shared` can be mapped once more.
pub(crate) fn allocate(size: u64, shared: bool) -> Result<Memory, Error> {
    let fail = |reason: String| Error::Allocate {
        mib: size / MIB,
        reason,
    };
    let mut parts = Vec::new();
    for (start, len) in ranges(size) {
        let len = usize::try_from(len).map_err(|error| fail(error.to_string()))?;
        let file = match shared {
            true => Some(new_file(start, len as u64).map_err(|error| fail(error.to_string()))?),
            false => None,
        };
        parts.push((GuestAddress(start), len, file));
    }
    let memory = Memory::from_ranges_with_files(&parts).map_err(|error| fail(error.to_string()))?;
    // Large host pages let KVM map the guest with large pages. A host without them refuses, which
    // costs speed only.
    let _ = advise(&memory, libc::MADV_HUGEPAGE);
    Ok(memory)
}

/// Memory of the host that several mappings can show.
fn new_file(start: u64, len: u64) -> std::io::Result<FileOffset> {
    let name = std::ffi::CString::new(format!("guest memory at {start:#x}"))?;
    let file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC)?);
    file.set_len(len)?;
    Ok(FileOffset::new(file, 0))
}

/// Maps shared memory once more, with a protection of its own.
pub(crate) fn map_again(memory: &Memory) -> Result<Memory, Error> {
    let part = |region: &GuestRegionMmap<()>| {
        let len = region.len() as usize;
        (region.start_addr(), len, region.file_offset().cloned())
    };
    let parts: Vec<_> = memory.iter().map(part).collect();
    Memory::from_ranges_with_files(&parts).map_err(|error| Error::Allocate {
        mib: parts.iter().map(|part| part.1 as u64).sum::<u64>() / MIB,
        reason: error.to_string(),
    })
}

/// Hands the memory to KVM.
pub(crate) fn register(vm: &VmFd, memory: &Memory) -> Result<(), Error> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.get_host_address(MemoryRegionAddress(0))? as u64,
        };
        // SAFETY:
        // - The region is mapped with this length, and stays so as long as `memory`.
        // - `Vm` drops its KVM file descriptors before `memory`.
        // - No two regions overlap.
        unsafe { vm.set_user_memory_region(slot) }.map_err(Error::kvm("take guest memory"))?;
    }
    Ok(())
}

/// Makes all guest memory read as zero again, and gives its pages back to the host.
pub(crate) fn clear(memory: &Memory) -> Result<(), Error> {
    let shared = memory.iter().any(|region| region.file_offset().is_some());
    let advice = match shared {
        true => libc::MADV_REMOVE,
        false => libc::MADV_DONTNEED,
    };
    advise(memory, advice).map_err(Error::os("clear guest memory"))
}

/// Lets this process read only, or write again, whole pages of `memory`.
pub(crate) fn protect(memory: &Memory, span: &Span, read_only: bool) -> Result<(), Error> {
    let (start, end) = *span;
    let protection = match read_only {
        true => libc::PROT_READ,
        false => libc::PROT_READ | libc::PROT_WRITE,
    };
    for slice in memory.get_slices(GuestAddress(start), end.saturating_sub(start) as usize) {
        let slice = slice?;
        let first = slice.ptr_guard_mut().as_ptr().cast();
        // SAFETY:
        // - The slice is mapped as long as `memory`, and is whole pages: those of the guest.
        // - No Rust reference points into it: guest memory is accessed by volatile copies only, and
        //   who writes asks the view first.
        if unsafe { libc::mprotect(first, slice.len(), protection) } != 0 {
            let error = std::io::Error::last_os_error();
            return Err(Error::os("protect what the guest sealed")(error));
        }
    }
    Ok(())
}

fn advise(memory: &Memory, advice: i32) -> std::io::Result<()> {
    for region in memory.iter() {
        let start = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(std::io::Error::other)?;
        let len = usize::try_from(region.len()).map_err(std::io::Error::other)?;
        // SAFETY:
        // - `start` and `len` are one mapping of ours that lives as long as `memory`.
        // - No Rust reference points into it: guest memory is accessed by volatile copies only.
        if unsafe { libc::madvise(start.cast(), len, advice) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn small_memory_is_one_piece() {
        assert_eq!(ranges(256 * MIB), [(0, 256 * MIB)]);
        assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
    }

    #[test]
    fn large_memory_leaves_the_hole() {
        assert_eq!(ranges(5 * GIB), [(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
        assert_eq!(ranges(3 * GIB + MIB), [(0, 3 * GIB), (4 * GIB, MIB)]);
        for page in [KVM_IDENTITY_MAP, KVM_TSS, 0xfec0_0000, 0xfee0_0000] {
            assert!((HOLE_START..HOLE_END).contains(&page));
        }
    }

    #[test]
    fn e820_is_sorted_and_holds_all_memory() {
        for size in [64 * MIB, 3 * GIB, 6 * GIB] {
            let map = e820(size);
            let mut end = 0;
            for entry in &map {
                let (addr, len) = (entry.addr, entry.size);
                assert!(addr >= end && len > 0);
                end = addr + len;
            }
            let ram: u64 = map
                .iter()
                .filter(|e| e.type_ == E820_RAM)
                .map(|e| e.size)
                .sum();
            assert_eq!(ram, size - (MIB - CONVENTIONAL_END));
        }
    }

    #[test]
    fn clear_zeroes() {
        for shared in [false, true] {
            let memory = allocate(2 * MIB, shared).unwrap();
            memory.write_obj(0x55u8, GuestAddress(MIB)).unwrap();
            clear(&memory).unwrap();
            assert_eq!(memory.read_obj::<u8>(GuestAddress(MIB)).unwrap(), 0);
        }
    }

    #[test]
    fn two_mappings_show_the_same() {
        let memory = allocate(2 * MIB, true).unwrap();
        let other = map_again(&memory).unwrap();
        memory.write_obj(0x55u8, GuestAddress(MIB)).unwrap();
        assert_eq!(other.read_obj::<u8>(GuestAddress(MIB)).unwrap(), 0x55);
        clear(&memory).unwrap();
        assert_eq!(other.read_obj::<u8>(GuestAddress(MIB)).unwrap(), 0);
    }
}

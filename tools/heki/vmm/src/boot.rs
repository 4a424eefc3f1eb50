// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Loading of Linux by its 64-bit boot protocol: what goes where, checked before anything is
//! written.
//!
//! [`Boot::open`] judges the files, [`Boot::load`] fills guest memory, once per boot, with their kernel
//! or with one that `kexec.rs` kept. Talks to `files.rs`, `memory.rs` and `acpi.rs`; `vcpu.rs` sets the
//! registers that go with it. Locks: none.

use std::fs::File;
use std::io::{
    Cursor,
    Read,
    Seek, //
};
use std::path::{
    Path,
    PathBuf, //
};

use linux_loader::loader::bootparam::{
    boot_params,
    setup_header, //
};
use linux_loader::loader::{
    BzImage,
    KernelLoader, //
};
use vm_memory::{
    ByteValued,
    Bytes,
    GuestAddress,
    ReadVolatile,
    VolatileSlice, //
};

use crate::acpi;
use crate::args::Args;
use crate::exit::Error;
use crate::files;
use crate::memory::{
    self,
    Memory,
    MIB, //
};

/// The descriptor table that the boot protocol asks for.
pub(crate) const GDT: u64 = 0x500;
/// Its descriptors: two unused, flat 64-bit code (0x10), flat data (0x18).
pub(crate) const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// Boot parameters ("zero page").
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Top-level page table; the two below it follow page by page.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
const CMDLINE: u64 = 0x2_0000;
const CMDLINE_ROOM: usize = 0x1_0000;
const KERNEL: u64 = MIB;

const PAGE: u64 = 0x1000;
const HEADER_OFFSET: u64 = 0x1f1;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// First version of the protocol that knows the 64-bit entry.
const VERSION_64BIT: u16 = 0x020c;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
const ENTRY_64BIT: u64 = 0x200;
const LOADER_UNDEFINED: u8 = 0xff;

/// What is booted, open and found to fit.
pub(crate) struct Boot {
    kernel: File,
    needs: Needs,
    initrd: Option<Initrd>,
    cmdline: String,
    memory_size: u64,
    nr_cpus: u32,
}

struct Initrd {
    file: File,
    path: PathBuf,
    len: u64,
}

/// What the kernel's setup header says, as far as placement needs it.
#[derive(Debug, Clone, Copy)]
struct Needs {
    /// End of the memory that the kernel uses before it reads the memory map.
    kernel_end: u64,
    /// Last byte that an initrd may use.
    initrd_addr_max: u64,
    /// Longest command line.
    cmdline_max: usize,
}

impl Boot {
    /// Opens and checks the files of `args` and finds a place for each.
    pub(crate) fn open(args: &Args) -> Result<Self, Error> {
        let (kernel, header, len) = open_kernel(&args.kernel)?;
        let needs = Needs::new(&header, len);
        let initrd = match &args.initrd {
            Some(path) => Some(Initrd::open(path)?),
            None => None,
        };
        let boot = Boot {
            kernel,
            needs,
            initrd,
            cmdline: args.full_cmdline(),
            memory_size: args.memory,
            nr_cpus: args.cpus,
        };
        boot.place(&needs)?;
        Ok(boot)
    }

    /// Finds a place for the initrd beside a kernel with such `needs`; zero without an initrd.
    fn place(&self, needs: &Needs) -> Result<u64, Error> {
        needs.check_cmdline(self.cmdline.len())?;
        let low_end = memory::low_end(self.memory_size);
        needs.check_memory(low_end, self.memory_size)?;
        match &self.initrd {
            Some(initrd) => needs.place_initrd(initrd.len, low_end),
            None => Ok(0),
        }
    }

    /// Writes kernel, initrd and all that the boot protocol asks for into zeroed memory. Returns
    /// the entry point. The kernel is `other`, if there is one.
    pub(crate) fn load(&mut self, memory: &Memory, other: Option<Vec<u8>>) -> Result<u64, Error> {
        let needs = match &other {
            Some(image) => Needs::of(image).map_err(Error::NotBootable)?,
            None => self.needs,
        };
        let initrd_addr = self.place(&needs)?;
        let at = Some(GuestAddress(KERNEL));
        let loaded = match other {
            Some(image) => BzImage::load(memory, at, &mut Cursor::new(image), None),
            None => BzImage::load(memory, at, &mut self.kernel, None),
        };
        let loaded = loaded.map_err(Error::LoadKernel)?;
        if let Some(initrd) = &mut self.initrd {
            initrd.load(memory, initrd_addr)?;
        }
        // The memory was zeroed: the terminating NUL is there.
        memory.write_slice(self.cmdline.as_bytes(), GuestAddress(CMDLINE))?;
        for (addr, table) in acpi::tables(self.nr_cpus) {
            memory.write_slice(&table, GuestAddress(addr))?;
        }
        for (addr, value) in (GDT..).step_by(8).zip(GDT_ENTRIES).chain(page_tables()) {
            memory.write_obj(value, GuestAddress(addr))?;
        }
        let params = self.params(loaded.setup_header.unwrap_or_default(), initrd_addr);
        memory.write_obj(params, GuestAddress(ZERO_PAGE))?;
        Ok(KERNEL + ENTRY_64BIT)
    }

    fn params(&self, header: setup_header, initrd_addr: u64) -> boot_params {
        let mut params = boot_params {
            hdr: header,
            acpi_rsdp_addr: acpi::RSDP,
            ..Default::default()
        };
        params.hdr.type_of_loader = LOADER_UNDEFINED;
        params.hdr.cmd_line_ptr = CMDLINE as u32;
        if let Some(initrd) = &self.initrd {
            // Placement keeps both below 4 GiB.
            params.hdr.ramdisk_image = initrd_addr as u32;
            params.hdr.ramdisk_size = initrd.len as u32;
        }
        let map = memory::e820(self.memory_size);
        params.e820_entries = map.len() as u8;
        for (slot, entry) in params.e820_table.iter_mut().zip(map) {
            *slot = entry;
        }
        params
    }
}

impl Needs {
    /// Those of a whole kernel in memory.
    fn of(image: &[u8]) -> Result<Self, &'static str> {
        Ok(Needs::new(&parse_header(image)?, image.len() as u64))
    }

    fn new(header: &setup_header, file_len: u64) -> Self {
        // A relocatable kernel loaded below its preferred address moves itself there.
        let runs_at = header.pref_address.max(KERNEL);
        let kernel_end = runs_at.saturating_add(header.init_size.into());
        Needs {
            kernel_end: kernel_end.max(KERNEL.saturating_add(file_len)),
            initrd_addr_max: header.initrd_addr_max.into(),
            cmdline_max: (header.cmdline_size as usize).min(CMDLINE_ROOM - 1),
        }
    }

    fn check_cmdline(&self, len: usize) -> Result<(), Error> {
        if len > self.cmdline_max {
            return Err(Error::CmdlineTooLong {
                len,
                max: self.cmdline_max,
            });
        }
        Ok(())
    }

    fn check_memory(&self, low_end: u64, size: u64) -> Result<(), Error> {
        if self.kernel_end > low_end {
            return Err(Error::MemoryTooSmall {
                needed_mib: self.kernel_end.div_ceil(MIB),
                given_mib: size / MIB,
            });
        }
        Ok(())
    }

    /// The highest page-aligned place for an initrd of `len` bytes that leaves the kernel alone.
    fn place_initrd(&self, len: u64, low_end: u64) -> Result<u64, Error> {
        let end = low_end.min(self.initrd_addr_max.saturating_add(1));
        let start = end.checked_sub(len).map(|start| start & !(PAGE - 1));
        match start {
            Some(start) if start >= self.kernel_end => Ok(start),
            _ => {
                let kernel_end = self
                    .kernel_end
                    .checked_next_multiple_of(PAGE)
                    .unwrap_or(end);
                Err(Error::InitrdTooLarge {
                    len,
                    room: end.saturating_sub(kernel_end),
                })
            }
        }
    }
}

impl Initrd {
    fn open(path: &Path) -> Result<Self, Error> {
        let (file, len) = files::open("initrd", path)?;
        Ok(Initrd {
            file,
            path: path.to_path_buf(),
            len,
        })
    }

    fn load(&mut self, memory: &Memory, addr: u64) -> Result<(), Error> {
        self.file
            .rewind()
            .map_err(files::read_error("initrd", &self.path))?;
        // Checked against low memory when it was placed, so that it fits an address space.
        let len = self.len as usize;
        Ok(memory.read_exact_volatile_from(GuestAddress(addr), &mut self.file, len)?)
    }
}

fn open_kernel(path: &Path) -> Result<(File, setup_header, u64), Error> {
    let (mut file, len) = files::open("kernel", path)?;
    let mut start = Vec::new();
    let wanted = HEADER_OFFSET + size_of::<setup_header>() as u64;
    (&mut file)
        .take(wanted)
        .read_to_end(&mut start)
        .map_err(files::read_error("kernel", path))?;
    match parse_header(&start) {
        Ok(header) => Ok((file, header, len)),
        Err(reason) => Err(Error::NotBzImage {
            path: path.to_path_buf(),
            reason,
        }),
    }
}

/// Finds the setup header in the first bytes of a kernel image.
fn parse_header(image: &[u8]) -> Result<setup_header, &'static str> {
    let mut header = setup_header::default();
    let mut bytes = image.get(HEADER_OFFSET as usize..).ok_or("too short")?;
    let whole: VolatileSlice<'_> = header.as_bytes();
    bytes
        .read_exact_volatile(&mut { whole })
        .map_err(|_| "too short")?;
    let (magic, version, flags) = (header.header, header.version, header.xloadflags);
    if magic != HEADER_MAGIC {
        return Err("it has no Linux setup header");
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err("it is an old zImage");
    }
    if version < VERSION_64BIT || flags & XLF_KERNEL_64 == 0 {
        return Err("it has no 64-bit entry point");
    }
    Ok(header)
}

/// Page tables that map the first gibibyte onto itself, in large pages: address and value of each
/// used entry.
fn page_tables() -> impl Iterator<Item = (u64, u64)> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let (level3, level2) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    let upper = [
        (PAGE_TABLES, level3 | PRESENT_WRITABLE),
        (level3, level2 | PRESENT_WRITABLE),
    ];
    let lower = (0..512).map(move |index| {
        (
            level2 + 8 * index,
            (index * 2 * MIB) | LARGE | PRESENT_WRITABLE,
        )
    });
    upper.into_iter().chain(lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HOLE_START;

    const NEEDS: Needs = Needs {
        kernel_end: 64 * MIB,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_max: 2047,
    };

    /// The start of an image that is in order.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x211] = LOADED_HIGH;
        image[0x236] = XLF_KERNEL_64 as u8;
        image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes());
        image[0x260..0x264].copy_from_slice(&(48 * MIB as u32).to_le_bytes());
        image
    }

    #[test]
    fn header_is_read() {
        let needs = Needs::new(&parse_header(&image()).unwrap(), 12 * MIB);
        assert_eq!(needs.kernel_end, 64 * MIB);
        assert_eq!(needs.cmdline_max, 2047);
    }

    #[test]
    fn what_is_no_bzimage_is_refused() {
        assert_eq!(parse_header(&[]).unwrap_err(), "too short");
        assert_eq!(parse_header(&image()[..0x210]).unwrap_err(), "too short");
        let spoiled = |at: usize, reason| {
            let mut image = image();
            image[at] = 0;
            assert_eq!(parse_header(&image).unwrap_err(), reason);
        };
        spoiled(0x202, "it has no Linux setup header");
        spoiled(0x211, "it is an old zImage");
        spoiled(0x236, "it has no 64-bit entry point");
        spoiled(0x207, "it has no 64-bit entry point");
    }

    #[test]
    fn hostile_header_does_not_overflow() {
        let mut image = image();
        image[0x258..0x264].fill(0xff);
        let needs = Needs::new(&parse_header(&image).unwrap(), u64::MAX);
        assert!(needs.check_memory(HOLE_START, HOLE_START).is_err());
        assert!(needs.place_initrd(u64::MAX, HOLE_START).is_err());
    }

    #[test]
    fn memory_is_checked() {
        assert!(NEEDS.check_memory(64 * MIB, 64 * MIB).is_ok());
        let error = NEEDS
            .check_memory(63 * MIB, 63 * MIB)
            .unwrap_err()
            .to_string();
        assert!(error.contains("needs 64 MiB"), "{error}");
    }

    #[test]
    fn cmdline_is_checked() {
        assert!(NEEDS.check_cmdline(2047).is_ok());
        let error = NEEDS.check_cmdline(2048).unwrap_err().to_string();
        assert!(error.contains("2048") && error.contains("2047"), "{error}");
    }

    #[test]
    fn initrd_goes_to_the_top() {
        assert_eq!(NEEDS.place_initrd(1, 256 * MIB).unwrap(), 256 * MIB - PAGE);
        assert_eq!(
            NEEDS.place_initrd(PAGE, 256 * MIB).unwrap(),
            256 * MIB - PAGE
        );
        assert_eq!(
            NEEDS.place_initrd(PAGE + 1, 256 * MIB).unwrap(),
            256 * MIB - 2 * PAGE
        );
    }

    #[test]
    fn initrd_respects_the_kernels_limit() {
        let addr = NEEDS.place_initrd(MIB, HOLE_START).unwrap();
        assert_eq!(addr + MIB - 1, NEEDS.initrd_addr_max);
    }

    #[test]
    fn initrd_leaves_the_kernel_alone() {
        assert_eq!(NEEDS.place_initrd(192 * MIB, 256 * MIB).unwrap(), 64 * MIB);
        let error = NEEDS
            .place_initrd(192 * MIB + 1, 256 * MIB)
            .unwrap_err()
            .to_string();
        assert!(error.contains("initrd too large"), "{error}");
        assert!(error.contains(&(192 * MIB).to_string()), "{error}");
        assert!(NEEDS.place_initrd(512 * MIB, 256 * MIB).is_err());
    }

    #[test]
    fn page_tables_map_the_first_gibibyte() {
        let entries: Vec<_> = page_tables().collect();
        assert_eq!(entries.len(), 514);
        assert_eq!(entries[0], (0x9000, 0xa003));
        assert_eq!(entries[1], (0xa000, 0xb003));
        assert_eq!(entries[2], (0xb000, 0x83));
        assert_eq!(entries[513], (0xbff8, (1024 - 2) * MIB + 0x83));
    }

    #[test]
    fn boot_areas_do_not_overlap() {
        let areas = [
            (GDT, GDT + 32),
            (ZERO_PAGE, ZERO_PAGE + size_of::<boot_params>() as u64),
            (PAGE_TABLES, PAGE_TABLES + 3 * PAGE),
            (CMDLINE, CMDLINE + CMDLINE_ROOM as u64),
            (acpi::RSDP, MIB),
            (KERNEL, NEEDS.kernel_end),
        ];
        for pair in areas.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{pair:?}");
        }
    }
}

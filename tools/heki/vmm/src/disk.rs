// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A raw file as a disk: what each request of virtio-blk does.
//!
//! `mmio.rs` brings the requests, as descriptors that it has copied, and `view.rs` says where the
//! answers may be written. Everything here comes from a hostile guest: a request is done as a whole
//! or ends in an error. Locks: that of the transport is held.

#![deny(unsafe_code)]

use std::fs::File;
use std::io::{
    self,
    Seek,
    SeekFrom, //
};
use std::path::PathBuf;

use vm_memory::{
    Bytes,
    GuestAddress, //
};

use crate::exit::Error;
use crate::files;
use crate::view::View;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// Most data of one request, in bytes; Linux asks for 4 MiB at most. A vCPU serves a whole queue of
/// requests at once, and cannot be stopped meanwhile.
const MAX_REQUEST: u64 = 16 << 20;

const HEADER: u32 = 16;
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;

const STATUS_OK: u8 = 0;
const STATUS_IOERR: u8 = 1;
const STATUS_UNSUPP: u8 = 2;

/// The name of the disk, as the guest reads it.
const ID: [u8; 20] = *b"heki-vmm disk\0\0\0\0\0\0\0";

/// Which file is the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

/// One descriptor of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    /// We write there, the guest reads.
    pub(crate) ours: bool,
}

/// A disk.
pub(crate) struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
}

impl Disk {
    /// Opens the file.
    pub(crate) fn open(spec: &Spec) -> Result<Self, Error> {
        let file = File::options()
            .read(true)
            .write(!spec.read_only)
            .open(&spec.path)
            .map_err(files::read_error("disk", &spec.path))?;
        let mut disk = Disk {
            file,
            sectors: 0,
            read_only: spec.read_only,
        };
        let bytes = disk.file.seek(SeekFrom::End(0));
        disk.sectors = bytes.map_err(files::read_error("disk", &spec.path))? / SECTOR;
        Ok(disk)
    }

    /// How many sectors it has.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it cannot be written.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// Has the host keep what was written.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Does a request: a header, data, and a byte for the status. Returns how many bytes of guest
    /// memory were written; a request that has no place for its status is dropped.
    pub(crate) fn serve(&mut self, view: &View, request: &[Part]) -> u32 {
        let [header, data @ .., status] = request else {
            return 0;
        };
        if header.ours || header.len != HEADER || !status.ours || status.len != 1 {
            return 0;
        }
        if !view.may_write(status.addr, 1) {
            return 0;
        }
        let (status_byte, written) = match self.execute(view, header, data) {
            Ok(written) => (STATUS_OK, written),
            Err(error) => (error, 0),
        };
        match view
            .memory()
            .write_obj(status_byte, GuestAddress(status.addr))
        {
            Ok(()) => written.saturating_add(1),
            Err(_) => 0,
        }
    }

    fn execute(&mut self, view: &View, header: &Part, data: &[Part]) -> Result<u32, u8> {
        let header: [u8; HEADER as usize] = view
            .memory()
            .read_obj(GuestAddress(header.addr))
            .map_err(|_| STATUS_IOERR)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            TYPE_IN => self.read(view, sector, data),
            TYPE_OUT => self.write(view, sector, data),
            TYPE_FLUSH => self.flush(),
            TYPE_GET_ID => identify(view, data),
            _ => Err(STATUS_UNSUPP),
        }
    }

    /// Goes to `sector`, from which on there are as many bytes as `data` has; says how many.
    fn seek(&mut self, sector: u64, data: &[Part]) -> Result<u32, u8> {
        let len: u64 = data.iter().map(|part| u64::from(part.len)).sum();
        let end = sector.checked_add(len / SECTOR).ok_or(STATUS_IOERR)?;
        if len > MAX_REQUEST || len % SECTOR != 0 || end > self.sectors {
            return Err(STATUS_IOERR);
        }
        // In the file, so that it cannot overflow.
        self.file
            .seek(SeekFrom::Start(sector.saturating_mul(SECTOR)))
            .map_err(|_| STATUS_IOERR)?;
        u32::try_from(len).map_err(|_| STATUS_IOERR)
    }

    /// Into memory. Nothing is read if any of it is sealed.
    fn read(&mut self, view: &View, sector: u64, data: &[Part]) -> Result<u32, u8> {
        let len = self.seek(sector, data)?;
        let may_write = |part: &Part| part.ours && view.may_write(part.addr, part.len.into());
        if !data.iter().all(may_write) {
            return Err(STATUS_IOERR);
        }
        for part in data {
            view.memory()
                .read_exact_volatile_from(
                    GuestAddress(part.addr),
                    &mut self.file,
                    part.len as usize,
                )
                .map_err(|_| STATUS_IOERR)?;
        }
        Ok(len)
    }

    fn write(&mut self, view: &View, sector: u64, data: &[Part]) -> Result<u32, u8> {
        if self.read_only || data.iter().any(|part| part.ours) {
            return Err(STATUS_IOERR);
        }
        self.seek(sector, data)?;
        for part in data {
            view.memory()
                .write_all_volatile_to(GuestAddress(part.addr), &mut self.file, part.len as usize)
                .map_err(|_| STATUS_IOERR)?;
        }
        Ok(0)
    }

    fn flush(&mut self) -> Result<u32, u8> {
        self.sync().map_err(|_| STATUS_IOERR)?;
        Ok(0)
    }
}

fn identify(view: &View, data: &[Part]) -> Result<u32, u8> {
    let [part] = data else {
        return Err(STATUS_IOERR);
    };
    let len = ID.len().min(part.len as usize);
    let id = ID.get(..len).unwrap_or_default();
    if !part.ours || !view.may_write(part.addr, len as u64) {
        return Err(STATUS_IOERR);
    }
    view.memory()
        .write_slice(id, GuestAddress(part.addr))
        .map_err(|_| STATUS_IOERR)?;
    Ok(len as u32)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory::{
        Memory,
        MIB, //
    };
    use crate::view::tests::view;
    use proptest::prelude::*;
    use std::io::Write;

    const PAGE: u64 = 0x1000;
    const SEALED: u64 = 4 * PAGE;
    const HEADER_AT: u64 = 0x100;
    const STATUS_AT: u64 = 0x200;
    const DATA_AT: u64 = 2 * PAGE;
    const NOT_WRITTEN: u8 = 0xff;

    struct Machine {
        disk: Disk,
        memory: Memory,
        view: View,
        path: PathBuf,
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// A disk of four sectors, for those that do not look at its file.
    pub(crate) fn disk() -> Disk {
        let machine = machine(false);
        Disk {
            file: machine.disk.file.try_clone().unwrap(),
            sectors: machine.disk.sectors,
            read_only: false,
        }
    }

    /// Four sectors, the first full of 1, the second of 2, ...
    fn machine(read_only: bool) -> Machine {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nr = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("heki-vmm-disk.{}.{nr}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = File::create(&path).unwrap();
        for sector in 1..=4 {
            file.write_all(&[sector; SECTOR as usize]).unwrap();
        }
        let spec = Spec {
            path: path.clone(),
            read_only,
        };
        let (memory, view) = view(&[(SEALED, SEALED + PAGE)]);
        Machine {
            disk: Disk::open(&spec).unwrap(),
            memory,
            view,
            path,
        }
    }

    impl Machine {
        fn put_header(&self, kind: u32, sector: u64) {
            self.memory
                .write_obj(kind, GuestAddress(HEADER_AT))
                .unwrap();
            self.memory
                .write_obj(sector, GuestAddress(HEADER_AT + 8))
                .unwrap();
            self.memory
                .write_obj(NOT_WRITTEN, GuestAddress(STATUS_AT))
                .unwrap();
        }

        /// The status of a request, and how many bytes it says were written.
        fn ask(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
            self.put_header(kind, sector);
            let mut request = vec![theirs(HEADER_AT, HEADER)];
            request.extend_from_slice(data);
            request.push(ours(STATUS_AT, 1));
            let written = self.disk.serve(&self.view, &request);
            (self.byte(STATUS_AT), written)
        }

        fn byte(&self, addr: u64) -> u8 {
            self.memory.read_obj(GuestAddress(addr)).unwrap()
        }
    }

    fn ours(addr: u64, len: u32) -> Part {
        Part {
            addr,
            len,
            ours: true,
        }
    }

    fn theirs(addr: u64, len: u32) -> Part {
        Part {
            addr,
            len,
            ours: false,
        }
    }

    #[test]
    fn sectors_are_read_into_all_parts() {
        let mut m = machine(false);
        let data = [ours(DATA_AT, 700), ours(DATA_AT + PAGE, 324)];
        assert_eq!(m.ask(TYPE_IN, 1, &data), (STATUS_OK, 1025));
        assert_eq!((m.byte(DATA_AT), m.byte(DATA_AT + 511)), (2, 2));
        assert_eq!((m.byte(DATA_AT + 512), m.byte(DATA_AT + 699)), (3, 3));
        assert_eq!(m.byte(DATA_AT + 700), 0);
        assert_eq!(
            (m.byte(DATA_AT + PAGE + 323), m.byte(DATA_AT + PAGE + 324)),
            (3, 0)
        );
    }

    #[test]
    fn sectors_are_written_and_read_again() {
        let mut m = machine(false);
        m.memory
            .write_slice(&[9; 512], GuestAddress(DATA_AT))
            .unwrap();
        assert_eq!(m.ask(TYPE_OUT, 3, &[theirs(DATA_AT, 512)]), (STATUS_OK, 1));
        assert_eq!(m.ask(TYPE_FLUSH, 0, &[]), (STATUS_OK, 1));
        assert_eq!(m.ask(TYPE_IN, 3, &[ours(0x3000, 512)]), (STATUS_OK, 513));
        assert_eq!(m.byte(0x3000), 9);
        let file = std::fs::read(&m.path).unwrap();
        assert_eq!((file[1535], file[1536], file.len()), (3, 9, 2048));
    }

    #[test]
    fn a_read_only_disk_is_not_written() {
        let mut m = machine(true);
        assert_eq!(
            m.ask(TYPE_OUT, 0, &[theirs(DATA_AT, 512)]),
            (STATUS_IOERR, 1)
        );
        assert_eq!(m.ask(TYPE_IN, 0, &[ours(DATA_AT, 512)]), (STATUS_OK, 513));
    }

    /// The whole request fails, also where a part of it may be written.
    #[test]
    fn nothing_is_read_into_what_is_sealed() {
        let mut m = machine(false);
        for data in [
            &[ours(SEALED, 512)][..],
            &[ours(SEALED + PAGE - 512, 512)],
            &[ours(SEALED - 256, 512)],
            &[ours(SEALED + PAGE - 1, 512)],
            &[ours(DATA_AT, 512), ours(SEALED, 512)],
        ] {
            assert_eq!(m.ask(TYPE_IN, 0, data), (STATUS_IOERR, 1), "{data:?}");
        }
        assert_eq!(
            m.ask(TYPE_GET_ID, 0, &[ours(SEALED, 20)]),
            (STATUS_IOERR, 1)
        );
        assert_eq!((m.byte(SEALED), m.byte(SEALED + PAGE - 1)), (0, 0));
        assert_eq!((m.byte(DATA_AT), m.byte(SEALED - 1)), (0, 0));
        // Reading what is sealed is free.
        assert_eq!(m.ask(TYPE_OUT, 0, &[theirs(SEALED, 512)]), (STATUS_OK, 1));
    }

    #[test]
    fn a_status_in_sealed_memory_is_not_written() {
        let mut m = machine(false);
        m.put_header(TYPE_IN, 0);
        let request = [
            theirs(HEADER_AT, HEADER),
            ours(DATA_AT, 512),
            ours(SEALED, 1),
        ];
        assert_eq!(m.disk.serve(&m.view, &request), 0);
        assert_eq!((m.byte(SEALED), m.byte(DATA_AT)), (0, 0));
    }

    #[test]
    fn the_end_of_the_disk_is_exact() {
        let mut m = machine(false);
        assert_eq!(m.ask(TYPE_IN, 3, &[ours(DATA_AT, 512)]).0, STATUS_OK);
        for (sector, len) in [
            (4, 512),
            (3, 1024),
            (0, 511),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, u32::MAX),
        ] {
            for kind in [TYPE_IN, TYPE_OUT] {
                let part = Part {
                    addr: DATA_AT,
                    len,
                    ours: kind == TYPE_IN,
                };
                assert_eq!(
                    m.ask(kind, sector, &[part]).0,
                    STATUS_IOERR,
                    "{sector} {len}"
                );
            }
        }
    }

    #[test]
    fn data_in_the_wrong_direction_is_an_error() {
        let mut m = machine(false);
        assert_eq!(m.ask(TYPE_IN, 0, &[theirs(DATA_AT, 512)]).0, STATUS_IOERR);
        assert_eq!(m.ask(TYPE_OUT, 0, &[ours(DATA_AT, 512)]).0, STATUS_IOERR);
    }

    #[test]
    fn unknown_requests_are_said_to_be_so() {
        let mut m = machine(false);
        assert_eq!(m.ask(77, 0, &[]), (STATUS_UNSUPP, 1));
        assert_eq!(m.ask(TYPE_GET_ID, 0, &[ours(DATA_AT, 20)]), (STATUS_OK, 21));
        assert_eq!(m.byte(DATA_AT), b'h');
    }

    #[test]
    fn malformed_requests_are_dropped() {
        let mut m = machine(false);
        m.put_header(TYPE_FLUSH, 0);
        let (header, status) = (theirs(HEADER_AT, HEADER), ours(STATUS_AT, 1));
        for request in [
            &[][..],
            &[header],
            &[status],
            &[header, theirs(STATUS_AT, 1)],
            &[ours(HEADER_AT, HEADER), status],
            &[theirs(HEADER_AT, 15), status],
            &[header, ours(STATUS_AT, 2)],
            &[header, ours(2 * MIB, 1)],
        ] {
            assert_eq!(m.disk.serve(&m.view, request), 0, "{request:?}");
            assert_eq!(m.byte(STATUS_AT), NOT_WRITTEN);
        }
        let nowhere = [theirs(2 * MIB - 8, HEADER), status];
        assert_eq!(m.disk.serve(&m.view, &nowhere), 1);
        assert_eq!(m.byte(STATUS_AT), STATUS_IOERR);
    }

    fn part() -> impl Strategy<Value = Part> {
        let addr = prop_oneof![0..8 * PAGE, 2 * MIB - PAGE..2 * MIB + PAGE, any::<u64>()];
        let len = prop_oneof![Just(1), Just(16), Just(512), Just(1024), any::<u32>()];
        (addr, len, any::<bool>()).prop_map(|(addr, len, ours)| Part { addr, len, ours })
    }

    proptest! {
        /// Whatever is asked, sealed memory stays what it is.
        #[test]
        fn no_request_writes_sealed_memory(
            kind in prop_oneof![Just(TYPE_IN), Just(TYPE_GET_ID), any::<u32>()],
            sector in prop_oneof![0u64..6, any::<u64>()],
            parts in proptest::collection::vec(part(), 0..5),
            whole in any::<bool>(),
        ) {
            let mut m = machine(false);
            m.put_header(kind, sector);
            let mut request = parts;
            if whole {
                request.insert(0, theirs(HEADER_AT, HEADER));
                request.push(ours(STATUS_AT, 1));
            }
            m.disk.serve(&m.view, &request);
            let mut page = [1; PAGE as usize];
            m.memory.read_slice(&mut page, GuestAddress(SEALED)).unwrap();
            prop_assert!(page.iter().all(|&byte| byte == 0));
        }
    }
}

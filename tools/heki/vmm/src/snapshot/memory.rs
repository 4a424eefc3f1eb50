// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Guest memory as a file: its pieces one after the other, with holes where it is zero.
//!
//! Used by [`snapshot`](super) only. Locks: none; no vCPU runs.

use std::fs::File;
use std::io::{
    self,
    Read,
    Seek,
    SeekFrom,
    Write, //
};

use vm_memory::{
    Bytes,
    GuestMemory,
    GuestMemoryRegion,
    MemoryRegionAddress, //
};

use crate::memory::Memory;

/// What is looked at at once, in bytes; so long are the holes.
const CHUNK: usize = 64 << 10;

/// Writes all of `memory` to an empty file.
pub(super) fn write(memory: &Memory, file: &mut File) -> io::Result<()> {
    let mut end = 0;
    each_chunk(memory, |region, at, chunk| {
        region.read_slice(chunk, at).map_err(io::Error::other)?;
        end += chunk.len() as u64;
        match is_zero(chunk) {
            true => file.seek(SeekFrom::Start(end)).map(|_| ()),
            false => file.write_all(chunk),
        }
    })?;
    // The last one may be a hole.
    file.set_len(end)?;
    file.sync_all()
}

/// Reads all of `memory`, which is zero, from a file of its length.
pub(super) fn read(memory: &Memory, file: &mut File) -> io::Result<()> {
    let expected: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    if file.metadata()?.len() != expected {
        return Err(io::Error::other("its memory has another length"));
    }
    each_chunk(memory, |region, at, chunk| {
        file.read_exact(chunk)?;
        match is_zero(chunk) {
            true => Ok(()),
            false => region.write_slice(chunk, at).map_err(io::Error::other),
        }
    })
}

/// At once, for most memory is zero, and byte by byte takes many times as long.
fn is_zero(chunk: &[u8]) -> bool {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    ZEROS.get(..chunk.len()) == Some(chunk)
}

/// Calls `work` with room for each chunk of `memory` and where it is.
fn each_chunk(
    memory: &Memory,
    mut work: impl FnMut(&<Memory as GuestMemory>::R, MemoryRegionAddress, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut room = vec![0; CHUNK];
    for region in memory.iter() {
        for at in (0..region.len()).step_by(CHUNK) {
            let len = usize::try_from(region.len() - at).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = room.get_mut(..len).unwrap_or_default();
            work(region, MemoryRegionAddress(at), chunk)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{
        allocate,
        MIB, //
    };
    use std::os::unix::fs::MetadataExt;
    use vm_memory::GuestAddress;

    #[test]
    fn memory_comes_back_and_zeros_cost_nothing() {
        let path = std::env::temp_dir().join(format!("heki-memory-{}", std::process::id()));
        let options = |path| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
        };
        let mut file = options(&path).unwrap();
        let memory = allocate(4 * MIB, false).unwrap();
        let place = GuestAddress(MIB + 12345);
        memory.write_obj(0x1234_5678u32, place).unwrap();
        write(&memory, &mut file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4 * MIB);
        assert!(file.metadata().unwrap().blocks() * 512 < MIB);

        file.rewind().unwrap();
        let other = allocate(4 * MIB, false).unwrap();
        read(&other, &mut file).unwrap();
        assert_eq!(other.read_obj::<u32>(place).unwrap(), 0x1234_5678);
        file.rewind().unwrap();
        assert!(read(&allocate(2 * MIB, false).unwrap(), &mut file).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! A kernel's ELF file: its symbols, its build ID, and words of its memory.
//!
//! The file may be damaged or hostile: every length is bounded, and few sections are read, once.
//! Used by `profile.rs` and `profile/freeze.rs`. Locks: none.

#![deny(unsafe_code)]

use object::elf::{
    FileHeader64,
    Rela64,
    SectionHeader64,
    SectionType,
    Sym64,
    ELFMAG,
    ELF_NOTE_GNU,
    EM_X86_64,
    ET_DYN,
    ET_EXEC,
    NT_GNU_BUILD_ID,
    R_X86_64_64,
    SHF_ALLOC,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_NOTE,
    SHT_RELA,
    SHT_SYMTAB,
    STB_GLOBAL,
    STT_FUNC,
    STT_OBJECT, //
};
use object::pod::Pod;
use object::read::elf::{
    FileHeader,
    NoteIterator,
    SectionHeader,
    Sym, //
};
use object::read::{
    ReadRef,
    SectionIndex, //
};
use object::LittleEndian;

use super::Flaw;

const LE: LittleEndian = LittleEndian;

/// Most bytes of one section. The largest that is read, the symbol table of a distribution's
/// kernel, has a tenth of that.
const MAX_SECTION: u64 = 256 << 20;
/// Most sections of notes that are searched; a kernel has one.
const MAX_NOTES: usize = 8;
/// Longest symbol name that is told apart; the kernel's own limit is 512.
const MAX_NAME: usize = 1024;

/// What a symbol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Function,
    Object,
    Other,
}

/// A symbol that the file defines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol<'data> {
    pub(super) name: &'data [u8],
    pub(super) kind: Kind,
    pub(super) addr: u64,
    pub(super) size: u64,
    pub(super) global: bool,
}

/// An x86-64 kernel image that is found to be well-formed as far as it is read.
#[derive(Debug)]
pub(super) struct Image<'data, R> {
    data: R,
    sections: &'data [SectionHeader64<LittleEndian>],
    /// As they lie, for relocations name them by their place.
    table: &'data [Sym64<LittleEndian>],
    symbols: Vec<Symbol<'data>>,
}

impl<'data, R: ReadRef<'data>> Image<'data, R> {
    pub(super) fn parse(data: R) -> Result<Self, Flaw> {
        let header = file_header(data)?;
        let damaged = |_| Flaw::Damaged("its section headers");
        let sections = header.section_headers(LE, data).map_err(damaged)?;
        let mut image = Image {
            data,
            sections,
            table: &[],
            symbols: Vec::new(),
        };
        let (_, symtab) = image.of_type(SHT_SYMTAB).next().ok_or(Flaw::NoSymbols)?;
        image.table = image.array(symtab, "its symbol table")?;
        let strtab = usize::try_from(symtab.sh_link(LE)).ok();
        let strtab = strtab.and_then(|index| sections.get(index));
        let names = image.array(strtab.ok_or(Flaw::NoSymbols)?, "its symbol names")?;
        let symbols = image.table.iter().filter_map(|raw| symbol(raw, names));
        image.symbols = symbols.collect::<Result<_, _>>()?;
        Ok(image)
    }

    pub(super) fn symbols(&self) -> &[Symbol<'data>] {
        &self.symbols
    }

    /// The address of a global symbol.
    pub(super) fn address(&self, name: &str) -> Option<u64> {
        let mut symbols = self.symbols.iter();
        let found = symbols.find(|symbol| symbol.global && symbol.name == name.as_bytes());
        found.map(|symbol| symbol.addr)
    }

    /// The address and the bytes of the build ID.
    pub(super) fn build_id(&self) -> Result<Option<(u64, &'data [u8])>, Flaw> {
        let in_memory = |section: &&SectionHeader64<_>| section.sh_flags(LE).contains(SHF_ALLOC);
        let sections = self.of_type(SHT_NOTE).map(|(_, section)| section);
        for section in sections.filter(in_memory).take(MAX_NOTES) {
            let notes = self.array(section, "its notes")?;
            if let Some((offset, id)) = find_build_id(notes)? {
                let addr = section.sh_addr(LE).checked_add(offset);
                return Ok(Some((addr.ok_or(Flaw::Damaged("its notes"))?, id)));
            }
        }
        Ok(None)
    }

    /// The 64-bit words of the memory from `start` to `end`, of which `what` consists.
    pub(super) fn words(&self, start: u64, end: u64, what: &'static str) -> Result<Vec<u64>, Flaw> {
        let len = end.checked_sub(start).ok_or(Flaw::Damaged(what))?;
        if len % 8 != 0 || len > MAX_SECTION {
            return Err(Flaw::Damaged(what));
        }
        if len == 0 {
            return Ok(Vec::new());
        }
        let holds = |section: &SectionHeader64<_>| {
            let offset = start.checked_sub(section.sh_addr(LE));
            let room = offset.and_then(|offset| section.sh_size(LE).checked_sub(offset));
            section.sh_flags(LE).contains(SHF_ALLOC) && room.is_some_and(|room| room >= len)
        };
        let mut sections = self.sections.iter().enumerate();
        let (index, section) = sections
            .find(|(_, section)| holds(section))
            .ok_or(Flaw::NoContents(what))?;
        let bytes = self
            .bytes(section, start, len)
            .ok_or(Flaw::NoContents(what))?;
        let words = bytes.chunks_exact(8).map(|word| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            u64::from_le_bytes(bytes)
        });
        let mut words: Vec<_> = words.collect();
        // Some linkers leave the values to the relocations.
        if words.iter().all(|word| *word == 0) {
            self.relocate(SectionIndex(index), start, &mut words, what)?;
        }
        Ok(words)
    }

    /// `len` bytes of the section's contents in the file, from the address `start` in it.
    fn bytes(
        &self,
        section: &SectionHeader64<LittleEndian>,
        start: u64,
        len: u64,
    ) -> Option<&'data [u8]> {
        let (offset, _) = section.file_range(LE)?;
        let offset = offset.checked_add(start.checked_sub(section.sh_addr(LE))?)?;
        self.data.read_bytes_at(offset, len).ok()
    }

    /// Writes into `words`, which begin at the address `start`, what the section's relocations say.
    fn relocate(
        &self,
        target: SectionIndex,
        start: u64,
        words: &mut [u64],
        what: &'static str,
    ) -> Result<(), Flaw> {
        let mut tables = self.of_type(SHT_RELA);
        let Some((_, table)) = tables.find(|(_, table)| table.info_link(LE) == target) else {
            return Ok(());
        };
        let relocations: &[Rela64<LittleEndian>] = self.array(table, what)?;
        for relocation in relocations {
            let Some(offset) = relocation.r_offset.get(LE).checked_sub(start) else {
                continue;
            };
            let index = usize::try_from(offset / 8).ok();
            let Some(word) = index.and_then(|index| words.get_mut(index)) else {
                continue;
            };
            let value = self.value(relocation).filter(|_| offset % 8 == 0);
            *word = value.ok_or(Flaw::Damaged(what))?;
        }
        Ok(())
    }

    /// What a relocation puts in its place: a symbol's address and a distance from there.
    fn value(&self, relocation: &Rela64<LittleEndian>) -> Option<u64> {
        let index = usize::try_from(relocation.r_sym(LE, false)).ok()?;
        let addr = self.table.get(index)?.st_value(LE);
        let is_plain = relocation.r_type(LE, false) == R_X86_64_64;
        is_plain.then(|| addr.wrapping_add_signed(relocation.r_addend.get(LE)))
    }

    fn of_type(
        &self,
        wanted: SectionType,
    ) -> impl Iterator<Item = (SectionIndex, &'data SectionHeader64<LittleEndian>)> {
        let sections = self.sections.iter().enumerate();
        sections
            .filter(move |(_, section)| section.sh_type(LE) == wanted)
            .map(|(index, section)| (SectionIndex(index), section))
    }

    /// The whole contents of a section, called `what` should they be in disorder.
    fn array<T: Pod>(
        &self,
        section: &SectionHeader64<LittleEndian>,
        what: &'static str,
    ) -> Result<&'data [T], Flaw> {
        if section.sh_type(LE) == SHT_NOBITS {
            return Err(Flaw::NoContents(what));
        }
        if section.sh_size(LE) > MAX_SECTION {
            return Err(Flaw::Damaged(what));
        }
        let contents = section.data_as_array(LE, self.data);
        contents.map_err(|_| Flaw::Damaged(what))
    }
}

/// The file's header, if it is that of an x86-64 program.
fn file_header<'data, R>(data: R) -> Result<&'data FileHeader64<LittleEndian>, Flaw>
where
    R: ReadRef<'data>,
{
    if data.read_bytes_at(0, 4) != Ok(ELFMAG.as_slice()) {
        return Err(Flaw::NotElf);
    }
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| Flaw::NotX86)?;
    if !header.is_little_endian() || header.e_machine(LE) != EM_X86_64 {
        return Err(Flaw::NotX86);
    }
    if ![ET_EXEC, ET_DYN].contains(&header.e_type(LE)) {
        return Err(Flaw::NotLinked);
    }
    Ok(header)
}

/// What a raw symbol means; nothing if the file does not define it.
fn symbol<'data>(
    raw: &'data Sym64<LittleEndian>,
    names: &'data [u8],
) -> Option<Result<Symbol<'data>, Flaw>> {
    if raw.st_shndx(LE) == SHN_UNDEF {
        return None;
    }
    let offset = usize::try_from(raw.st_name(LE)).ok();
    let Some(rest) = offset.and_then(|offset| names.get(offset..)) else {
        return Some(Err(Flaw::Damaged("its symbol names")));
    };
    let rest = rest.get(..MAX_NAME).unwrap_or(rest);
    let name = rest.split(|byte| *byte == 0).next().unwrap_or(rest);
    let kind = match raw.st_type() {
        STT_FUNC => Kind::Function,
        STT_OBJECT => Kind::Object,
        _ => Kind::Other,
    };
    Some(Ok(Symbol {
        name,
        kind,
        addr: raw.st_value(LE),
        size: raw.st_size(LE),
        global: raw.st_bind() == STB_GLOBAL,
    }))
}

/// The build ID among `notes` and its offset there.
fn find_build_id(notes: &[u8]) -> Result<Option<(u64, &[u8])>, Flaw> {
    const DAMAGED: Flaw = Flaw::Damaged("its notes");
    // The kernel aligns its notes to 4 bytes, whatever their section is aligned to.
    let found = NoteIterator::<FileHeader64<LittleEndian>>::new(LE, 4, notes);
    for note in found.map_err(|_| DAMAGED)? {
        let note = note.map_err(|_| DAMAGED)?;
        if note.name() == ELF_NOTE_GNU && note.n_type(LE) == NT_GNU_BUILD_ID {
            let offset = note
                .desc()
                .as_ptr()
                .addr()
                .checked_sub(notes.as_ptr().addr());
            let offset = offset.and_then(|offset| u64::try_from(offset).ok());
            return Ok(Some((offset.ok_or(DAMAGED)?, note.desc())));
        }
    }
    Ok(None)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Names of addresses in a guest's kernel, from its vmlinux or its System.map.
//!
//! Both may be damaged or hostile. Used by `explain.rs`. Locks: none.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::read::ReadCache;
use object::{
    LittleEndian,
    Object,
    ObjectSymbol, //
};

use crate::host::{
    printable,
    read_whole,
    Error, //
};

/// Most bytes of a System.map; a distribution's has a fifth.
const MAX_MAP: u64 = 64 << 20;

/// Symbols by address, and how far the kernel was moved.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    names: BTreeMap<u64, String>,
    start: Option<u64>,
    end: Option<u64>,
    /// What KASLR adds to every address, if it is known.
    pub(crate) kaslr_offset: Option<u64>,
}

impl Symbols {
    /// Reads a vmlinux.
    pub(crate) fn from_vmlinux(path: &Path) -> Result<Self, Error> {
        let bad = |why: String| Error::NoSymbols {
            path: path.to_owned(),
            why,
        };
        let file = File::open(path).map_err(|source| Error::file(path, source))?;
        let cache = ReadCache::new(file);
        let elf =
            ElfFile64::<LittleEndian, _>::parse(&cache).map_err(|error| bad(error.to_string()))?;
        let mut symbols = Self::default();
        for symbol in elf.symbols() {
            if let (false, Ok(name)) = (symbol.is_undefined(), symbol.name()) {
                symbols.add(symbol.address(), name);
            }
        }
        symbols
            .checked()
            .ok_or_else(|| bad("it has no symbols of a kernel".to_owned()))
    }

    /// Reads a System.map.
    pub(crate) fn from_map(path: &Path) -> Result<Self, Error> {
        let text = read_whole(path, MAX_MAP)?;
        Self::parse_map(&text).ok_or_else(|| Error::NoSymbols {
            path: path.to_owned(),
            why: "it is no System.map of a kernel".to_owned(),
        })
    }

    /// `ADDRESS TYPE NAME` a line.
    pub(crate) fn parse_map(text: &str) -> Option<Self> {
        let mut symbols = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let address = words
                .next()
                .and_then(|word| u64::from_str_radix(word, 16).ok());
            if let (Some(address), Some(_), Some(name)) = (address, words.next(), words.next()) {
                symbols.add(address, name);
            }
        }
        symbols.checked()
    }

    fn add(&mut self, address: u64, name: &str) {
        match name {
            "_text" => self.start = Some(address),
            "_end" => self.end = Some(address),
            // What a compiler adds names no place that anybody knows.
            _ if name.is_empty() || name.starts_with(['.', '$']) || name.starts_with("__pfx_") => {}
            _ => {
                self.names.entry(address).or_insert_with(|| printable(name));
            }
        }
    }

    fn checked(self) -> Option<Self> {
        (self.start? < self.end?).then_some(self)
    }

    /// `NAME+0xOFFSET` of an address of the running kernel, and what that rests on.
    pub(crate) fn name(&self, address: u64) -> Option<String> {
        let name = self.link_name(address.wrapping_sub(self.kaslr_offset.unwrap_or(0)))?;
        Some(name + self.proviso())
    }

    /// A kernel that was moved has other names at the same addresses.
    pub(crate) fn proviso(&self) -> &'static str {
        match self.kaslr_offset {
            Some(_) => "",
            None => " if the kernel was not moved (--kaslr-offset)",
        }
    }

    /// The same of a guest physical address, where `_text` is at `text_gpa`.
    pub(crate) fn name_of_gpa(&self, gpa: u64, text_gpa: u64) -> Option<String> {
        self.link_name(gpa.checked_sub(text_gpa)?.checked_add(self.start?)?)
    }

    fn link_name(&self, address: u64) -> Option<String> {
        if !(self.start?..self.end?).contains(&address) {
            return None;
        }
        let (start, name) = self.names.range(..=address).next_back()?;
        Some(format!("{name}+{:#x}", address.checked_sub(*start)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAP: &str = "\
0000000000000000 D __per_cpu_start
ffffffff81000000 T _text
ffffffff81000000 T startup_64
ffffffff81000100 t __pfx_one
ffffffff81000110 t one
ffffffff81002000 R two
ffffffff81003000 B _end
";

    #[test]
    fn addresses_have_names() {
        let mut symbols = Symbols::parse_map(MAP).unwrap();
        symbols.kaslr_offset = Some(0);
        let name = |address| symbols.name(address);
        assert_eq!(name(0xffff_ffff_8100_0115).as_deref(), Some("one+0x5"));
        assert_eq!(
            name(0xffff_ffff_8100_0105).as_deref(),
            Some("startup_64+0x105")
        );
        assert_eq!(name(0xffff_ffff_8100_2fff).as_deref(), Some("two+0xfff"));
        assert_eq!(name(0xffff_ffff_8100_3000), None);
        assert_eq!(name(0xffff_ffff_80ff_ffff), None);
        assert_eq!(name(0), None);
        assert_eq!(
            symbols.name_of_gpa(0x540_2004, 0x540_0000).as_deref(),
            Some("two+0x4")
        );
        assert_eq!(symbols.name_of_gpa(0x100, 0x540_0000), None);
    }

    #[test]
    fn a_moved_kernel_has_the_same_names() {
        let mut symbols = Symbols::parse_map(MAP).unwrap();
        symbols.kaslr_offset = Some(0x3d60_0000);
        assert_eq!(
            symbols.name(0xffff_ffff_be60_0110).as_deref(),
            Some("one+0x0")
        );
        assert_eq!(symbols.name(0xffff_ffff_8100_0110), None);
    }

    #[test]
    fn a_name_says_what_it_rests_on() {
        let symbols = Symbols::parse_map(MAP).unwrap();
        let name = symbols.name(0xffff_ffff_8100_0110).unwrap();
        assert_eq!(name, "one+0x0 if the kernel was not moved (--kaslr-offset)");
        // Where it begins in memory is told apart from that.
        let name = symbols.name_of_gpa(0x540_2004, 0x540_0000);
        assert_eq!(name.as_deref(), Some("two+0x4"));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(Symbols::parse_map("").is_none());
        assert!(Symbols::parse_map("ffffffff81000000 T _text\n").is_none());
        assert!(Symbols::from_vmlinux(Path::new("/proc/self/exe")).is_err());
        assert!(Symbols::from_vmlinux(Path::new("/proc/self/comm")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,400}", address: u64, gpa: u64) {
            if let Some(symbols) = Symbols::parse_map(&format!("{MAP}{text}")) {
                let _ = symbols.name(address);
                let _ = symbols.name_of_gpa(address, gpa);
            }
        }
    }
}

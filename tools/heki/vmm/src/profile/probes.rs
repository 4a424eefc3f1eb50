// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The list of breakpoints: instructions of the kernel at which a sealed guest may put one.
//!
//! Comes from a file, and is looked up in the symbols of `profile/elf.rs`. Whether an instruction
//! begins there, and nothing else changes it, is for the host to see in the guest's memory. Locks:
//! none.

#![deny(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{
    Path,
    PathBuf, //
};

use heki_abi::HEKI_MAX_PROBES;

use crate::exit::Error;

use super::elf::{
    Kind,
    Symbol, //
};
use super::list;

const MAX_PROBES: usize = HEKI_MAX_PROBES as usize;

/// Places in functions.
#[derive(Debug, Default)]
pub(super) struct Probes {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    function: String,
    offset: u64,
}

impl Probes {
    /// Reads a list from a file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let entries = list::open("list of breakpoints", path, parse)?;
        Ok(Probes {
            path: path.to_path_buf(),
            entries: entries.map_err(refusal(path))?,
        })
    }

    /// The addresses that the list names: of a function that there is twice, both. `is_text` tells
    /// code from data.
    pub(super) fn find(
        &self,
        symbols: &[Symbol<'_>],
        is_text: impl Fn(u64) -> bool,
    ) -> Result<BTreeSet<u64>, Error> {
        let mut functions: Vec<_> = symbols
            .iter()
            .filter(|symbol| symbol.kind == Kind::Function && is_text(symbol.addr))
            .collect();
        functions.sort_unstable_by_key(|symbol| symbol.name);
        let mut found = BTreeSet::new();
        for entry in &self.entries {
            found.extend(entry.find(&functions).map_err(refusal(&self.path))?);
            if found.len() > MAX_PROBES {
                let reason = format!("it has more than {MAX_PROBES} addresses");
                return Err(refusal(&self.path)(reason));
            }
        }
        Ok(found)
    }
}

impl Entry {
    /// `symbol` or `symbol+offset`, the offset hexadecimal with `0x` or decimal.
    fn parse(line: usize, text: &str) -> Option<Self> {
        let (function, offset) = match text.split_once('+') {
            Some((function, offset)) => (function.trim_end(), number(offset.trim_start())?),
            None => (text, 0),
        };
        list::is_symbol(function).then(|| Entry {
            line,
            function: function.into(),
            offset,
        })
    }

    /// Its addresses among the functions `sorted` by name.
    fn find(&self, sorted: &[&Symbol<'_>]) -> Result<Vec<u64>, String> {
        let name = self.function.as_bytes();
        let first = sorted.partition_point(|symbol| symbol.name < name);
        let from = sorted.get(first..).unwrap_or_default();
        let same = from.iter().take_while(|symbol| symbol.name == name);
        let mut addresses = Vec::new();
        for symbol in same {
            // An empty function is one of which only the begin is known.
            if self.offset >= symbol.size.max(1) {
                return Err(format!(
                    "line {}: \"{}\" has {} bytes, {:#x} is beyond",
                    self.line, self.function, symbol.size, self.offset
                ));
            }
            addresses.extend(symbol.addr.checked_add(self.offset));
        }
        if addresses.is_empty() {
            return Err(format!(
                "line {}: the kernel has no function \"{}\"",
                self.line, self.function
            ));
        }
        Ok(addresses)
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix() takes a sign.
    let plain = digits.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| plain)
}

fn refusal(path: &Path) -> impl FnOnce(String) -> Error {
    let path = path.to_path_buf();
    move |reason| Error::Probes { path, reason }
}

/// One place in a line.
fn parse(text: &str) -> Result<Vec<Entry>, String> {
    list::parse(
        text,
        "a function nor one and an offset (name+0x10)",
        Entry::parse,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has found something")]

    use proptest::prelude::*;

    use super::*;

    fn symbol(name: &str, kind: Kind, addr: u64, size: u64) -> Symbol<'_> {
        Symbol {
            name: name.as_bytes(),
            kind,
            addr,
            size,
            global: false,
        }
    }

    /// What a list allows in a kernel whose text ends at 0x1000.
    fn allowed(text: &str) -> Result<Vec<u64>, String> {
        let symbols = [
            symbol("function", Kind::Function, 0x100, 0x20),
            symbol("functions", Kind::Function, 0x200, 0x20),
            symbol("twice", Kind::Function, 0x300, 0x10),
            symbol("twice", Kind::Function, 0x400, 0x20),
            symbol("empty", Kind::Function, 0x500, 0),
            symbol("label", Kind::Other, 0x600, 0x10),
            symbol("constant", Kind::Object, 0x700, 0x10),
            symbol("init", Kind::Function, 0x2000, 0x10),
            symbol("long", Kind::Function, 0x800, u64::MAX),
        ];
        let probes = Probes {
            path: "list".into(),
            entries: parse(text)?,
        };
        let found = probes.find(&symbols, |addr| addr < 0x1000);
        found
            .map(|places| places.into_iter().collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn odd_lines_are_refused() {
        for line in [
            "+",
            "+4",
            "function+",
            "function+0x",
            "function+x",
            "function++4",
            "function+-4",
            "function+ +4",
            "function-4",
            "function+0x1g",
            "function+0x10000000000000000",
            "func*",
            "a b",
            "k\u{e9}y",
            "key\0",
            "key\u{1b}",
        ] {
            let error = allowed(&format!("function\n{line}")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for line in [
            "nothing",
            "functio",
            "label",
            "constant",
            "init",
            "function+0x20",
            "function+32",
            "twice+0x10",
            "empty+1",
        ] {
            let error = allowed(&format!("function\n\n{line}")).unwrap_err();
            assert!(
                error.contains("list") && error.contains("line 3"),
                "{error}"
            );
        }
    }

    #[test]
    fn too_many_are_refused() {
        let lines = |count| (0..count).map(|at| format!("long+{at}\n"));
        let text: String = lines(MAX_PROBES).collect();
        assert_eq!(allowed(&text).unwrap().len(), MAX_PROBES);
        let text: String = lines(MAX_PROBES + 1).collect();
        assert!(allowed(&text).unwrap_err().contains("1024"));
    }

    #[test]
    fn places_are_found() {
        let found = |text| allowed(text).unwrap();
        assert!(found("").is_empty());
        assert_eq!(found("function"), [0x100]);
        assert_eq!(found("function+0x1f\nfunction+16"), [0x110, 0x11f]);
        assert_eq!(
            found("functions + 4 # why\n\n# no\r\n\tempty"),
            [0x204, 0x500]
        );
        assert_eq!(found("twice+8\ntwice+0x8"), [0x308, 0x408]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = allowed(&text);
        }

        #[test]
        fn any_place_is_survived(name in "[a-z]{1,9}", offset: u64) {
            let _ = allowed(&format!("{name}+{offset}"));
            let _ = allowed(&format!("long+{offset:#x}"));
        }
    }
}

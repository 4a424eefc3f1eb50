// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The freeze list: static keys and static calls that a sealed guest never changes again.
//!
//! Comes from the table below or from a file, and is looked up in the symbols of `profile/elf.rs`.
//! Locks: none.

#![deny(unsafe_code)]

use std::collections::{
    BTreeMap,
    BTreeSet, //
};
use std::path::{
    Path,
    PathBuf, //
};

use crate::exit::Error;

use super::elf::{
    Kind,
    Symbol, //
};
use super::list;
use super::MAX_ENTRIES;

/// Frozen unless a file says otherwise: what guards security and is set while the kernel boots,
/// never later. A kernel may lack some of them.
///
/// Not in it, for a running kernel changes them: `switch_to_cond_stibp` and `cpu_buf_idle_clear`
/// (with the last SMT sibling that goes or comes), `stack_erasing_bypass` (a sysctl),
/// `slub_debug_enabled`, `crng_is_ready`, whatever
/// counts users, as `cgroup_bpf_enabled_key` does. Not needed in it: keys in ro_after_init memory,
/// as `cr_pinning` or `validate_usercopy_range`; the seal holds these anyway.
const BUILT_IN: &[&str] = &[
    // Whether an LSM's hook is called, and which function: set in security_add_hooks().
    "security_hook_active_*",
    "__SCK__lsm_static_call_*",
    // Heap memory is cleared when it is allocated and when it is freed.
    "init_on_alloc",
    "init_on_free",
    // Freed pages are filled with a pattern; pages are checked when allocated and freed.
    "_page_poisoning_enabled",
    "check_pages_enabled",
    // No page is mapped both as anonymous and as file memory; "disabled" is the key's meaning.
    "page_table_check_disabled",
    // The order of free pages is random.
    "page_alloc_shuffle_key",
    // Barriers against speculation across processes and VMs.
    "switch_mm_cond_ibpb",
    "switch_mm_always_ibpb",
    "switch_vcpu_ibpb",
    // The L1 data cache is flushed for processes that ask for it.
    "switch_mm_cond_l1d_flush",
    // Barrier before memory of the BPF compiler is used again.
    "bpf_pred_flush_enabled",
    "__SCK__bpf_arch_pred_flush",
    // The hooks by which the guest asks its host for changes of text.
    "__SCK__guest_text_*",
    // The x32 system calls, which most systems turn off.
    "x32_enabled_skey",
];

/// Bytes of `struct static_key` and of `struct static_call_key`.
const KEY_BYTES: usize = 16;

/// Names to freeze.
#[derive(Debug)]
pub(super) struct Freeze {
    /// Where the list comes from; the built-in one's names may be missing.
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    name: String,
    /// Every symbol that begins with the name, be it none.
    wildcard: bool,
}

impl Freeze {
    pub(super) fn built_in() -> Self {
        let entry = |text: &&str| Entry::parse(0, text);
        Freeze {
            path: None,
            entries: BUILT_IN.iter().filter_map(entry).collect(),
        }
    }

    /// Reads a list from a file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let entries = list::open("freeze list", path, parse)?;
        Ok(Freeze {
            path: Some(path.to_path_buf()),
            entries: entries.map_err(refusal(path))?,
        })
    }

    /// The addresses of the keys that the list names, and of the trampolines of those that are keys
    /// of static calls. `is_text` tells code from data.
    pub(super) fn find(
        &self,
        symbols: &[Symbol<'_>],
        is_text: impl Fn(u64) -> bool,
    ) -> Result<BTreeSet<u64>, Error> {
        let is_key = |symbol: &&Symbol<'_>| symbol.kind == Kind::Object && !is_text(symbol.addr);
        let mut keys: Vec<_> = symbols.iter().filter(is_key).collect();
        keys.sort_unstable_by_key(|symbol| symbol.name);
        let trampolines: BTreeMap<_, _> = symbols
            .iter()
            .filter(|symbol| is_text(symbol.addr))
            .filter_map(|symbol| Some((symbol.name.strip_prefix(b"__SCT__")?, symbol.addr)))
            .collect();
        let mut found = BTreeSet::new();
        for entry in &self.entries {
            let symbols = entry.find(&keys);
            match &self.path {
                Some(path) if symbols.is_empty() && !entry.wildcard => {
                    return Err(refusal(path)(format!(
                        "line {}: the kernel has no static key or key of a static call \"{}\"",
                        entry.line, entry.name
                    )));
                }
                _ => {}
            }
            for key in symbols.iter().flat_map(|symbol| elements(symbol)) {
                if found.len() > MAX_ENTRIES {
                    // Whoever counts them says so.
                    return Ok(found);
                }
                found.insert(key);
            }
            let names = symbols
                .iter()
                .filter_map(|key| key.name.strip_prefix(b"__SCK__"));
            found.extend(names.filter_map(|name| trampolines.get(name)));
        }
        Ok(found)
    }
}

impl Entry {
    /// A symbol's name, or the beginning of one and a `*`.
    fn parse(line: usize, text: &str) -> Option<Self> {
        let name = text.strip_suffix('*').unwrap_or(text);
        list::is_symbol(name).then(|| Entry {
            line,
            name: name.into(),
            wildcard: name.len() < text.len(),
        })
    }

    fn matches(&self, symbol: &Symbol<'_>) -> bool {
        let name = self.name.as_bytes();
        symbol.name == name || (self.wildcard && symbol.name.starts_with(name))
    }

    /// Its symbols among `sorted`.
    fn find<'a, 'b, 'data>(&self, sorted: &'a [&'b Symbol<'data>]) -> &'a [&'b Symbol<'data>] {
        let first = sorted.partition_point(|symbol| symbol.name < self.name.as_bytes());
        let from = sorted.get(first..).unwrap_or_default();
        let count = from.partition_point(|symbol| self.matches(symbol));
        from.get(..count).unwrap_or_default()
    }
}

fn refusal(path: &Path) -> impl FnOnce(String) -> Error {
    let path = path.to_path_buf();
    move |reason| Error::Freeze { path, reason }
}

/// One name in a line.
fn parse(text: &str) -> Result<Vec<Entry>, String> {
    list::parse(
        text,
        "a symbol nor the beginning of one and a *",
        Entry::parse,
    )
}

/// The addresses of the keys in `symbol`, which may be an array of them.
fn elements(symbol: &Symbol<'_>) -> impl Iterator<Item = u64> {
    let end = symbol.addr.saturating_add(symbol.size.max(1));
    (symbol.addr..end).step_by(KEY_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has found something")]

    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Freeze {
        Freeze {
            path: Some("list".into()),
            entries: parse(text).unwrap(),
        }
    }

    fn symbol(name: &str, kind: Kind, addr: u64, size: u64) -> Symbol<'_> {
        Symbol {
            name: name.as_bytes(),
            kind,
            addr,
            size,
            global: false,
        }
    }

    /// What a list freezes in a kernel whose text ends at 0x1000.
    fn frozen(list: &Freeze) -> Result<Vec<u64>, String> {
        let symbols = [
            symbol("key", Kind::Object, 0x2000, 16),
            symbol("key_b", Kind::Object, 0x2010, 16),
            symbol("key_a", Kind::Object, 0x2020, 16),
            symbol("twice", Kind::Object, 0x2030, 16),
            symbol("twice", Kind::Object, 0x2040, 16),
            symbol("array", Kind::Object, 0x3000, 48),
            symbol("empty", Kind::Object, 0x4000, 0),
            symbol("function", Kind::Function, 0x100, 16),
            symbol("constant", Kind::Object, 0x200, 16),
            symbol("label", Kind::Other, 0x5000, 0),
            symbol("__SCK__call", Kind::Object, 0x6000, 16),
            symbol("__SCT__call", Kind::Function, 0x300, 8),
            symbol("__SCT__other", Kind::Function, 0x308, 8),
        ];
        let found = list.find(&symbols, |addr| addr < 0x1000);
        found
            .map(|keys| keys.into_iter().collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_found() {
        let found = |text| frozen(&list(text)).unwrap();
        assert!(found("").is_empty());
        assert_eq!(found("key"), [0x2000]);
        assert_eq!(found("key_*"), [0x2010, 0x2020]);
        assert_eq!(found("key*\nkey_a"), [0x2000, 0x2010, 0x2020]);
        assert_eq!(found("twice"), [0x2030, 0x2040]);
        assert_eq!(found("array\nempty"), [0x3000, 0x3010, 0x3020, 0x4000]);
        // A static call is frozen with its trampoline.
        assert_eq!(found("__SCK__call"), [0x300, 0x6000]);
        assert!(found("__SCT__*").is_empty());
        assert!(found("zzz*\nfunction*\nconst*\nlabel*").is_empty());
    }

    #[test]
    fn comments_and_blanks_are_skipped() {
        let text = "# all of it\n\n  key # this one\r\n\tkey_a\n#twice";
        assert_eq!(frozen(&list(text)).unwrap(), [0x2000, 0x2020]);
    }

    #[test]
    fn a_name_that_is_missing_is_an_error() {
        for name in ["nothing", "ke", "key_", "function", "constant", "label"] {
            let error = frozen(&list(&format!("key\n\n{name}"))).unwrap_err();
            assert!(error.contains("line 3") && error.contains(name), "{error}");
            assert!(error.contains("list"), "{error}");
        }
    }

    #[test]
    fn odd_lines_are_refused() {
        for line in [
            "*",
            "a*b",
            "**",
            "a b",
            "-x",
            "k\u{e9}y",
            "key\0",
            "key\u{1b}",
        ] {
            let error = parse(&format!("key\n{line}")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn the_built_in_list_is_sound() {
        let list = Freeze::built_in();
        assert_eq!(list.entries.len(), BUILT_IN.len());
        // Its names may be missing.
        assert!(frozen(&list).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            if let Ok(entries) = parse(&text) {
                let _ = frozen(&Freeze { path: None, entries });
            }
        }
    }
}

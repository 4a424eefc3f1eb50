// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Tests of the profile, on small vmlinux files that are made here.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that panics has found something"
)]

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xffff_ffff_8100_0000;
const TEXT_END: u64 = BASE + 0x1234;
/// Where the sections of a sample begin in memory.
const NOTES: u64 = BASE + 0x4000;
const INIT_DATA: u64 = BASE + 0x6000;

const FUNC: u8 = 2;
const OBJECT: u8 = 1;
const GLOBAL: u8 = 1 << 4;

const NOBITS: u32 = 8;
const RELA: u32 = 4;

struct Section {
    name: &'static str,
    kind: u32,
    alloc: bool,
    addr: u64,
    link: u32,
    info: u32,
    data: Vec<u8>,
}

/// A vmlinux in parts, to be spoiled and then written.
struct Sample {
    symbols: Vec<(String, u8, u64, u64)>,
    sections: Vec<Section>,
}

const INIT_DATA_INDEX: usize = 2;

impl Sample {
    /// One that is in order: two functions, two ftrace sites, two keys, a build ID.
    fn new() -> Self {
        let mut sample = Sample {
            symbols: Vec::new(),
            sections: Vec::new(),
        };
        for (name, kind, addr, data) in [
            ("", 0, 0, Vec::new()),
            (".text", NOBITS, BASE, vec![0; 0x1234]),
            (
                ".init.data",
                1,
                INIT_DATA,
                words(&[0, BASE + 0x24, BASE + 0x14, BASE + 0x24, BASE + 0x7000]),
            ),
            (
                ".notes",
                7,
                NOTES,
                [
                    note(b"Linux\0", 0x101, &[1]),
                    note(b"GNU\0", 3, &[0xab; 20]),
                ]
                .concat(),
            ),
        ] {
            sample.sections.push(Section {
                name,
                kind,
                alloc: addr != 0,
                addr,
                link: 0,
                info: 0,
                data,
            });
        }
        sample.symbol("_text", GLOBAL, BASE, 0);
        sample.symbol("_etext", GLOBAL, TEXT_END, 0);
        sample.symbol("__start_mcount_loc", GLOBAL, INIT_DATA, 0);
        sample.symbol("__stop_mcount_loc", GLOBAL, INIT_DATA + 40, 0);
        sample.symbol("first", FUNC | GLOBAL, BASE + 0x10, 16);
        sample.symbol("second", FUNC, BASE + 0x20, 16);
        sample.symbol("init_on_free", OBJECT | GLOBAL, BASE + 0x5010, 16);
        sample.symbol("security_hook_active_open_0", OBJECT, BASE + 0x5000, 16);
        sample
    }

    fn symbol(&mut self, name: &str, info: u8, addr: u64, size: u64) {
        self.symbols.push((name.into(), info, addr, size));
    }

    fn set_symbol(&mut self, name: &str, addr: u64) {
        let symbol = self.symbols.iter_mut().find(|symbol| symbol.0 == name);
        symbol.unwrap().2 = addr;
    }

    fn section(&mut self, name: &str) -> &mut Section {
        let section = self
            .sections
            .iter_mut()
            .find(|section| section.name == name);
        section.unwrap()
    }

    /// The file: header, contents, section headers.
    fn bytes(&self) -> Vec<u8> {
        let mut strings = vec![0];
        let mut table = vec![0; 24];
        for (name, info, addr, size) in &self.symbols {
            table.extend((strings.len() as u32).to_le_bytes());
            table.extend([*info, 0, 1, 0]);
            table.extend(words(&[*addr, *size]));
            strings.extend(name.bytes().chain([0]));
        }
        let nr = self.sections.len() as u32;
        let plain = |name, kind, link, data| Section {
            name,
            kind,
            alloc: false,
            addr: 0,
            link,
            info: 0,
            data,
        };
        let names: Vec<u8> = b"\0".to_vec();
        let tail = [
            plain(".symtab", 2, nr + 1, table),
            plain(".strtab", 3, 0, strings),
            plain(".shstrtab", 3, 0, names),
        ];
        let mut file = vec![0; 64];
        let mut headers = Vec::new();
        for section in self.sections.iter().chain(&tail) {
            headers.extend([0_u32, section.kind].map(u32::to_le_bytes).concat());
            let (offset, len) = (file.len() as u64, section.data.len() as u64);
            headers.extend(words(&[
                u64::from(section.alloc) << 1,
                section.addr,
                offset,
                len,
            ]));
            headers.extend([section.link, section.info].map(u32::to_le_bytes).concat());
            headers.extend(words(&[1, 0]));
            if section.kind != NOBITS {
                file.extend(&section.data);
            }
        }
        let start = file.len() as u64;
        file[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
        file[20] = 1;
        file[40..48].copy_from_slice(&start.to_le_bytes());
        file[58] = 64;
        file[60] = (nr + 3) as u8;
        file[62] = (nr + 2) as u8;
        file.extend(headers);
        file
    }

    fn read(&self) -> Result<Profile, Flaw> {
        read(&self.bytes())
    }

    fn flaw(&self) -> Flaw {
        self.read().unwrap_err()
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend(
        [name.len() as u32, desc.len() as u32, kind]
            .map(u32::to_le_bytes)
            .concat(),
    );
    for part in [name, desc] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn read(file: &[u8]) -> Result<Profile, Flaw> {
    let kernel = Kernel::parse(file)?;
    let keys = Freeze::built_in().find(kernel.image.symbols(), |addr| kernel.text.contains(&addr));
    kernel.profile(keys.unwrap(), BTreeSet::new())
}

#[test]
fn a_vmlinux_is_read() {
    let profile = Sample::new().read().unwrap();
    assert_eq!(profile.functions, [0x10, 0x20]);
    assert_eq!(profile.calls, [0x14, 0x24]);
    assert_eq!(profile.frozen, [0x5000, 0x5010]);
    let header = profile.header;
    assert_eq!(header.version, HEKI_ABI_VERSION);
    assert_eq!(
        (header.nr_functions, header.nr_calls, header.nr_frozen),
        (2, 2, 2)
    );
    assert_eq!((header.base, header.text_len), (BASE, 0x2000));
    assert_eq!(header.build_id_len, 20);
    assert_eq!(header.build_id[..20], [0xab; 20]);
    assert_eq!(header.build_id[20..], [0; 12]);
    // Behind the note of Linux, its own header and "GNU".
    assert_eq!(header.build_id_offset, 0x4000 + 24 + 16);
}

#[test]
fn the_host_gets_header_and_arrays() {
    let profile = Sample::new().read().unwrap();
    let bytes = profile.to_bytes();
    let arrays = [0x10_u32, 0x20, 0x14, 0x24, 0x5000, 0x5010];
    assert_eq!(bytes[..80], *profile.header.as_bytes());
    assert_eq!(bytes[80..], arrays.map(u32::to_le_bytes).concat());
}

#[test]
fn what_is_no_vmlinux_is_refused() {
    assert_eq!(read(b"").unwrap_err(), Flaw::NotElf);
    assert_eq!(read(b"\x7fEL").unwrap_err(), Flaw::NotElf);
    assert_eq!(read(&[0; 4096]).unwrap_err(), Flaw::NotElf);
    let spoiled = |at: usize, byte| {
        let mut file = Sample::new().bytes();
        file[at] = byte;
        read(&file).unwrap_err()
    };
    assert_eq!(spoiled(4, 1), Flaw::NotX86, "32-bit");
    assert_eq!(spoiled(5, 2), Flaw::NotX86, "big-endian");
    assert_eq!(spoiled(18, 0xb7), Flaw::NotX86, "arm64");
    assert_eq!(spoiled(16, 1), Flaw::NotLinked);
}

#[test]
fn symbols_are_needed() {
    let mut stripped = Sample::new();
    stripped.symbols.clear();
    assert_eq!(stripped.flaw(), Flaw::NoSymbol("_text"));
    let mut file = Sample::new().bytes();
    // The type of the section of symbols.
    let headers = file.len() - 3 * 64;
    file[headers + 4] = 1;
    assert_eq!(read(&file).unwrap_err(), Flaw::NoSymbols);
    // Its strings: beyond the last section, then a section that ends too early.
    let mut file = Sample::new().bytes();
    file[headers + 40] = 99;
    assert_eq!(read(&file).unwrap_err(), Flaw::NoSymbols);
    let mut file = Sample::new().bytes();
    file[headers + 64 + 32] = 4;
    assert_eq!(read(&file).unwrap_err(), Flaw::Damaged("its symbol names"));
}

#[test]
fn only_a_global_text_counts() {
    let mut sample = Sample::new();
    sample.symbols.insert(0, ("_text".into(), 0, 0x1000, 0));
    assert_eq!(sample.read().unwrap().header.base, BASE);
}

#[test]
fn text_must_be_a_kernels() {
    for (start, end) in [
        (BASE + 1, TEXT_END),
        (BASE, BASE),
        (BASE, BASE - 1),
        (0, BASE),
        (0, u64::MAX),
    ] {
        let mut sample = Sample::new();
        sample.set_symbol("_text", start);
        sample.set_symbol("_etext", end);
        assert_eq!(sample.flaw(), Flaw::Text(start..end));
    }
}

#[test]
fn only_entries_of_functions_are_targets() {
    let mut sample = Sample::new();
    for (name, info) in [
        ("__cfi_first", FUNC),
        ("__pfx_first", FUNC),
        ("__SCT__call", FUNC),
        ("first.cold", FUNC),
        ("first.part.0.cold.7", FUNC),
        ("entry_code", 0),
        ("data_in_text", OBJECT),
    ] {
        sample.symbol(name, info, BASE + 0x30, 16);
    }
    // Init code, the end of text, and below it.
    sample.symbol("outside", FUNC, TEXT_END, 16);
    sample.symbol("below", FUNC, BASE - 1, 16);
    sample.symbol("far", FUNC, 1, u64::MAX);
    // An alias, and names that only look like those above.
    sample.symbol("alias", FUNC | GLOBAL, BASE + 0x20, 16);
    sample.symbol("cold", FUNC, BASE + 0x40, 16);
    sample.symbol("first.constprop.0", FUNC, BASE + 0x50, 16);
    sample.symbol("a__cfi_", FUNC, BASE + 0x1233, 16);
    let profile = sample.read().unwrap();
    assert_eq!(profile.functions, [0x10, 0x20, 0x40, 0x50, 0x1233]);
}

#[test]
fn undefined_symbols_do_not_count() {
    let mut file = Sample::new().bytes();
    let headers = file.len() - 3 * 64;
    let symtab = u64::from_le_bytes(file[headers + 24..][..8].try_into().unwrap()) as usize;
    // The section of "second", which comes sixth behind the null symbol.
    file[symtab + 6 * 24 + 6] = 0;
    assert_eq!(read(&file).unwrap().functions, [0x10]);
}

#[test]
fn a_kernel_without_ftrace_has_no_sites() {
    let mut sample = Sample::new();
    sample
        .symbols
        .retain(|symbol| symbol.0 != "__start_mcount_loc");
    assert!(sample.read().unwrap().calls.is_empty());
    let mut sample = Sample::new();
    sample.set_symbol("__stop_mcount_loc", INIT_DATA);
    assert!(sample.read().unwrap().calls.is_empty());
}

#[test]
fn sites_must_be_there() {
    let what = "its ftrace sites";
    for (stop, flaw) in [
        (INIT_DATA - 8, Flaw::Damaged(what)),
        (INIT_DATA + 12, Flaw::Damaged(what)),
        (INIT_DATA + 48, Flaw::NoContents(what)),
        (INIT_DATA + (1 << 28), Flaw::NoContents(what)),
        (INIT_DATA + (1 << 29), Flaw::Damaged(what)),
        (u64::MAX, Flaw::Damaged(what)),
    ] {
        let mut sample = Sample::new();
        sample.set_symbol("__stop_mcount_loc", stop);
        assert_eq!(sample.flaw(), flaw, "{stop:#x}");
    }
    let mut sample = Sample::new();
    sample.section(".init.data").kind = NOBITS;
    assert_eq!(sample.flaw(), Flaw::NoContents(what));
}

/// The sample with its sites only in relocations: place, symbol and type, addend.
fn relocated(entries: &[[u64; 3]]) -> Sample {
    let mut sample = Sample::new();
    sample.section(".init.data").data.fill(0);
    let data = entries.iter().flat_map(|entry| words(entry)).collect();
    sample.sections.push(Section {
        name: ".rela.init.data",
        kind: RELA,
        alloc: false,
        addr: 0,
        link: 4,
        info: INIT_DATA_INDEX as u32,
        data,
    });
    sample
}

#[test]
fn sites_may_be_in_relocations() {
    // Symbol 1 is _text, 6 is "second".
    let sample = relocated(&[
        [INIT_DATA + 16, (6 << 32) | 1, 4],
        [INIT_DATA, (1 << 32) | 1, 0x14],
        // Not ours.
        [INIT_DATA - 8, 99 << 32, 0],
        [INIT_DATA + 40, 99 << 32, 0],
    ]);
    assert_eq!(sample.read().unwrap().calls, [0x14, 0x24]);
    // A negative addend, and a sum that wraps around: out of the text.
    let sample = relocated(&[
        [INIT_DATA, (6 << 32) | 1, -4_i64 as u64],
        [INIT_DATA + 8, (6 << 32) | 1, i64::MAX as u64],
    ]);
    assert_eq!(sample.read().unwrap().calls, [0x1c]);
}

#[test]
fn odd_relocations_are_refused() {
    for entry in [
        [INIT_DATA, (1 << 32) | 2, 0],
        [INIT_DATA, (99 << 32) | 1, 0],
        [INIT_DATA + 4, (1 << 32) | 1, 0],
    ] {
        let flaw = relocated(&[entry]).flaw();
        assert_eq!(flaw, Flaw::Damaged("its ftrace sites"), "{entry:x?}");
    }
}

#[test]
fn values_in_place_win_over_relocations() {
    let mut sample = relocated(&[[INIT_DATA, (1 << 32) | 1, 0x14]]);
    sample.section(".init.data").data = words(&[0, 0, 0, 0, BASE + 0x24]);
    assert_eq!(sample.read().unwrap().calls, [0x24]);
}

#[test]
fn a_build_id_is_optional() {
    let mut sample = Sample::new();
    sample.section(".notes").data = note(b"Linux\0", 3, &[1; 8]);
    let header = sample.read().unwrap().header;
    assert_eq!((header.build_id_offset, header.build_id_len), (0, 0));
    assert_eq!(header.build_id, [0; 32]);
    sample.section(".notes").data = note(b"GNU\0", 3, &[1; 32]);
    assert_eq!(sample.read().unwrap().header.build_id_len, 32);
}

#[test]
fn odd_notes_are_refused() {
    let mut sample = Sample::new();
    sample.section(".notes").data = note(b"GNU\0", 3, &[1; 33]);
    assert_eq!(sample.flaw(), Flaw::BuildId(33));
    sample.section(".notes").data = note(b"GNU\0", 3, &[1; 20]);
    sample.section(".notes").data[4..8].fill(0xff);
    assert_eq!(sample.flaw(), Flaw::Damaged("its notes"));
    sample.section(".notes").data = vec![1];
    assert_eq!(sample.flaw(), Flaw::Damaged("its notes"));
    let mut sample = Sample::new();
    sample.section(".notes").addr = u64::MAX;
    assert_eq!(sample.flaw(), Flaw::Damaged("its notes"));
    for addr in [BASE - 0x1000, BASE.wrapping_add(1 << 32), 0x1000] {
        sample.section(".notes").addr = addr;
        assert_eq!(sample.flaw(), Flaw::TooFar("notes"));
    }
}

#[test]
fn too_much_is_refused() {
    let mut sample = Sample::new();
    sample.set_symbol("_etext", BASE + (1 << 20));
    for index in 0..=MAX_ENTRIES as u64 {
        sample.symbol("f", FUNC, BASE + index, 1);
    }
    assert_eq!(sample.flaw(), Flaw::TooMany("functions"));
    let mut sample = Sample::new();
    sample.symbol("security_hook_active_", OBJECT, BASE + 0x8000, u64::MAX);
    assert_eq!(sample.flaw(), Flaw::TooMany("frozen keys"));
    let mut sample = Sample::new();
    sample.symbol("security_hook_active_", OBJECT, BASE - 16, 16);
    assert_eq!(sample.flaw(), Flaw::TooFar("frozen keys"));
    // The size of a section: of the symbols, and of the notes.
    for section in [3, 4] {
        let mut file = Sample::new().bytes();
        let header = file.len() - (7 - section) * 64;
        file[header + 32..][..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(read(&file), Err(Flaw::Damaged(_))));
    }
}

#[test]
fn no_beginning_of_a_file_is_enough() {
    let file = Sample::new().bytes();
    for len in 0..file.len() {
        assert!(read(&file[..len]).is_err(), "{len}");
    }
}

/// A file of this test's own, gone when dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str, contents: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("heki-vmm.{}.{name}", std::process::id()));
        std::fs::write(&path, contents).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn files_are_read() {
    let vmlinux = Scratch::new("vmlinux", &Sample::new().bytes());
    let usual = Profile::open(&vmlinux.0, &Lists::default()).unwrap();
    assert_eq!(usual.to_bytes(), Sample::new().read().unwrap().to_bytes());
    let list = Scratch::new("list", b"init_on_* # not the LSMs\n");
    let probes = Scratch::new("probes", b"second+4 # a test\nfirst\n");
    let lists = Lists {
        freeze: Some(&list.0),
        probes: Some(&probes.0),
    };
    let chosen = Profile::open(&vmlinux.0, &lists).unwrap();
    assert_eq!(chosen.frozen, [0x5010]);
    assert_eq!(chosen.probes, [0x10, 0x24]);
    let bytes = chosen.to_bytes();
    assert!(bytes.ends_with(&[0x10, 0, 0, 0, 0x24, 0, 0, 0]));
    let refusal = |vmlinux: &Scratch, list: Option<&Scratch>| {
        let freeze = list.map(|list| list.0.as_path());
        let lists = Lists {
            freeze,
            ..Lists::default()
        };
        let profile = Profile::open(&vmlinux.0, &lists);
        profile.unwrap_err().to_string()
    };
    let missing = Scratch::new("missing", b"init_on_free\ninit_on_alloc\n");
    let error = refusal(&vmlinux, Some(&missing));
    assert!(error.contains(".missing lists: line 2"), "{error}");
    let lists = Lists {
        probes: Some(&missing.0),
        ..Lists::default()
    };
    let error = Profile::open(&vmlinux.0, &lists).unwrap_err().to_string();
    assert!(error.contains(".missing lists: line 1"), "{error}");
    let large = Scratch::new("large", &vec![b'\n'; (1 << 20) + 1]);
    let error = refusal(&vmlinux, Some(&large));
    assert!(error.contains("larger than 1024 KiB"), "{error}");
    let error = refusal(&list, None);
    assert!(error.contains(".list: it is not an ELF file"), "{error}");
}

#[test]
fn flaws_are_one_line() {
    let text = Flaw::Text(BASE..BASE).to_string();
    assert!(text.contains("0xffffffff81000000") && !text.contains('\n'));
    assert!(Flaw::TooMany("functions").to_string().contains("262144"));
}

proptest! {
    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read(&bytes);
        let elf = [&Sample::new().bytes()[..64], &bytes].concat();
        let _ = read(&elf);
    }

    /// A file with a few spoiled bytes is refused or read, and what is read is in order.
    #[test]
    fn spoiled_files_are_survived(spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut file = relocated(&[[INIT_DATA, (1 << 32) | 1, 0x14]]).bytes();
        for (at, byte) in spoils {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(profile) = read(&file) {
            for array in [&profile.functions, &profile.calls, &profile.frozen] {
                prop_assert!(array.windows(2).all(|pair| pair[0] < pair[1]));
            }
            let in_text = |offset: &u32| u64::from(*offset) < profile.header.text_len;
            prop_assert!(profile.functions.iter().chain(&profile.calls).all(in_text));
        }
    }
}

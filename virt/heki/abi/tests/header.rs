// SPDX-License-Identifier: GPL-2.0

//! Holds `lib.rs` to `include/uapi/linux/heki.h`: same constants and values, same structs and fields.
//!
//! Both files are read as text, so that nothing can be added to one of them alone.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;

use heki_abi::*;
use zerocopy::FromZeros;

const HEADER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../include/uapi/linux/heki.h"
);
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lib.rs");

/// The name and value of each constant.
macro_rules! values {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as u64)),*] };
}

/// The name and offset of each field, and the size of the whole.
macro_rules! layout {
    ($type:ident { $($field:ident),* $(,)? }) => {
        (
            stringify!($type),
            vec![$((stringify!($field), offset_of!($type, $field))),*],
            size_of::<$type>(),
        )
    };
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `text` without its C comments.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((code, comment)) = rest.split_once("/*") {
        out.push_str(code);
        rest = comment.split_once("*/").expect("a comment ends").1;
    }
    out + rest
}

/// The value of a C expression of numbers, names, `<<`, `|` and parentheses.
fn evaluate(expression: &str, known: &BTreeMap<String, u64>) -> u64 {
    let inner = expression.trim();
    let inner = inner
        .strip_prefix('(')
        .and_then(|inner| inner.strip_suffix(')'))
        .unwrap_or(inner);
    if let Some((left, right)) = inner.split_once('|') {
        return evaluate(left, known) | evaluate(right, known);
    }
    if let Some((left, right)) = inner.split_once("<<") {
        return evaluate(left, known) << evaluate(right, known);
    }
    let inner = inner.trim();
    match inner.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a hexadecimal number"),
        None => inner
            .parse()
            .unwrap_or_else(|_| *known.get(inner).expect("a name defined above")),
    }
}

/// Every `#define` of the header that has a value.
fn header_constants() -> BTreeMap<String, u64> {
    let mut known = BTreeMap::new();
    for line in without_comments(&read(HEADER)).lines() {
        let Some(define) = line.trim().strip_prefix("#define") else {
            continue;
        };
        let Some((name, value)) = define.trim().split_once(char::is_whitespace) else {
            continue;
        };
        let value = evaluate(value, &known);
        known.insert(name.to_owned(), value);
    }
    known
}

/// The names of the constants of `lib.rs` that the header defines: the errors are KVM's own.
fn source_constants() -> Vec<String> {
    read(SOURCE)
        .lines()
        .filter_map(|line| line.strip_prefix("pub const "))
        .filter_map(|rest| rest.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| {
            name != "HEADER_BYTES" && (name == "KVM_EXIT_HEKI" || !name.starts_with("KVM_E"))
        })
        .collect()
}

/// A struct's fields in order: name, alignment and size in bytes.
type Fields = Vec<(String, usize, usize)>;

/// Every `struct heki_*` of the header, by what follows `heki_`.
fn header_structs() -> BTreeMap<String, Fields> {
    let text = without_comments(&read(HEADER));
    let mut structs = BTreeMap::new();
    for part in text.split("struct heki_").skip(1) {
        let (name, rest) = part.split_once('{').expect("a struct has a body");
        let body = rest.split_once("};").expect("a struct ends").0;
        let fields = body
            .split(';')
            .map(str::trim)
            .filter(|field| !field.is_empty())
            .map(|field| {
                let (kind, name) = field
                    .split_once(char::is_whitespace)
                    .expect("type and name");
                let align = match kind {
                    "__u8" => 1,
                    "__u32" => 4,
                    "__u64" => 8,
                    other => panic!("unexpected type {other}"),
                };
                let (name, count) = match name.split_once('[') {
                    Some((name, count)) => (name, count.trim_end_matches(']')),
                    None => (name, "1"),
                };
                let count: usize = count.parse().expect("the length of an array");
                (name.to_owned(), align, align * count)
            })
            .collect();
        structs.insert(name.trim().to_owned(), fields);
    }
    structs
}

#[test]
fn no_constant_is_missing_on_either_side() {
    let header: Vec<String> = header_constants().into_keys().collect();
    let mut source = source_constants();
    source.sort();
    assert_eq!(header, source);
}

#[test]
fn constants_have_the_values_of_the_header() {
    let ours: BTreeMap<String, u64> = values![
        KVM_HC_HEKI,
        KVM_DEV_TYPE_HEKI,
        KVM_EXIT_HEKI,
        HEKI_ABI_VERSION,
        HEKI_OP_QUERY,
        HEKI_OP_SEAL,
        HEKI_OP_PATCH,
        HEKI_OP_GRANT,
        HEKI_OP_RELEASE,
        HEKI_OP_FROZEN,
        HEKI_OP_QUERY_PIN,
        HEKI_OP_KEXEC,
        HEKI_MAX_REQUEST_BYTES,
        HEKI_MAX_RANGES,
        HEKI_MAX_PINS,
        HEKI_MAX_AREAS,
        HEKI_MAX_PATCHES,
        HEKI_MAX_GRANT_PAGES,
        HEKI_MAX_SITES,
        HEKI_MAX_FROZEN,
        HEKI_FROZEN_ENTRIES,
        HEKI_MAX_SCAN_BYTES,
        HEKI_MAX_KEXEC_CHUNK,
        HEKI_MAX_KEXEC_BYTES,
        HEKI_MAX_LEARNED,
        HEKI_STATE_OFF,
        HEKI_STATE_OPEN,
        HEKI_STATE_SEALED,
        HEKI_PROT_WRITE,
        HEKI_PROT_EXEC,
        HEKI_PROT_CR,
        HEKI_PROT_MSR,
        HEKI_PROT_DT,
        HEKI_PROT_ALL,
        HEKI_PATCH_JUMP_LABEL,
        HEKI_PATCH_STATIC_CALL,
        HEKI_PATCH_FTRACE,
        HEKI_PATCH_PROBE,
        HEKI_TARGET_SYMBOL,
        HEKI_TARGET_HASH,
        HEKI_TARGET_ENDBR,
        HEKI_SERVES_KEXEC,
        HEKI_SEAL_EXEC,
        HEKI_SEAL_FLAGS,
        HEKI_WRITE,
        HEKI_EXEC,
        HEKI_RIGHTS,
        HEKI_KIND_OTHER,
        HEKI_KIND_TEXT,
        HEKI_KIND_RODATA,
        HEKI_KIND_MODULE_TEXT,
        HEKI_KIND_MODULE_RODATA,
        HEKI_KIND_IDT,
        HEKI_KIND_TRAMPOLINE,
        HEKI_KIND_POOL,
        HEKI_KIND_FTRACE,
        HEKI_KIND_COUNT,
        HEKI_REG_CR0,
        HEKI_REG_CR4,
        HEKI_REG_XCR0,
        HEKI_REG_MSR,
        HEKI_REG_IDTR,
        HEKI_REG_GDTR,
        HEKI_REG_LDTR,
        HEKI_REG_TR,
        HEKI_AREA_JUMP_TABLE,
        HEKI_AREA_STATIC_CALL_SITES,
        HEKI_AREA_RO_AFTER_INIT,
        HEKI_AREA_STATIC_CALL_TEXT,
        HEKI_AREA_FTRACE_CALLER,
        HEKI_AREA_FTRACE_REGS_CALLER,
        HEKI_AREA_FTRACE_CALL,
        HEKI_AREA_FTRACE_OP_PTR,
        HEKI_AREA_FTRACE_REGS_CALL,
        HEKI_AREA_FTRACE_REGS_OP_PTR,
        HEKI_AREA_FTRACE_REGS_JMP,
        HEKI_AREA_FTRACE_STUB,
        HEKI_AREA_RETURN_THUNK,
        HEKI_AREA_STATIC_RETURN,
        HEKI_AREA_STATIC_RETURN0,
        HEKI_AREA_WARN_TRAP,
        HEKI_AREA_SPIN_UNLOCK,
        HEKI_AREA_CFI_HASH,
        HEKI_AREA_ENDBR,
        HEKI_AREA_IMAGE,
        HEKI_AREA_FTRACE_LIST,
        HEKI_AREA_MCOUNT,
        HEKI_AREA_FROZEN,
        HEKI_AREA_ITS,
        HEKI_AREA_CALL_DEPTH,
        HEKI_AREA_COUNT,
        HEKI_MAX_INSN,
        HEKI_SLOT_BYTES,
        HEKI_KEXEC_FIRST,
        HEKI_KEXEC_LAST,
        HEKI_KEXEC_START,
        KVM_DEV_HEKI_CTRL,
        KVM_DEV_HEKI_RESET,
        KVM_DEV_HEKI_PROFILE,
        KVM_DEV_HEKI_CAPS,
        KVM_DEV_HEKI_POLICY,
        KVM_DEV_HEKI_RESUME,
        KVM_DEV_HEKI_STATE,
        HEKI_SAVED_MAGIC,
        HEKI_SAVED_VERSION,
        HEKI_MAX_STATE_BYTES,
        HEKI_NR_COUNTERS,
        HEKI_RECORD_LIFE,
        HEKI_RECORD_SEAL,
        HEKI_RECORD_VALUES,
        HEKI_RECORD_SITES,
        HEKI_RECORD_PROBES,
        HEKI_RECORD_COUNTERS,
        HEKI_RULE_FROZEN,
        HEKI_RULE_JUMP_LABEL,
        HEKI_RULE_CALL,
        HEKI_RULE_TAIL_CALL,
        HEKI_RULE_FTRACE,
        KVM_DEV_HEKI_RANGES,
        KVM_DEV_HEKI_PIN,
        HEKI_MAX_PROFILE_ENTRIES,
        HEKI_MAX_PROBES,
        HEKI_MAX_BUILD_ID,
        HEKI_CLASS_WRITE,
        HEKI_CLASS_EXEC,
        HEKI_CLASS_REGISTER,
        HEKI_CLASS_PATCH,
        HEKI_CLASS_COUNT,
        HEKI_ACTION_GP,
        HEKI_ACTION_EXIT,
        HEKI_ACTION_PAUSE,
        HEKI_ACTION_LEARN,
        HEKI_ACTION_COUNT,
        HEKI_EXIT_REQUEST,
        HEKI_EXIT_DENIAL,
        HEKI_EXIT_PAUSED,
        HEKI_EXIT_HAS_GPA,
        HEKI_EXIT_HAS_VA,
        HEKI_EXIT_HAS_REG,
        HEKI_EXIT_IS_PAUSE,
        HEKI_EXIT_IS_LEARNED,
        HEKI_REASON_SEALED,
        HEKI_REASON_NOT_EXECUTABLE,
        HEKI_REASON_PAGE_WALK,
        HEKI_REASON_PINNED,
        HEKI_REASON_UNLISTED,
        HEKI_REASON_FROZEN,
        HEKI_REASON_FORM,
        HEKI_REASON_TARGET,
        HEKI_REASON_STALE,
        HEKI_REASON_CONTENT,
        HEKI_REASON_KVM_WRITER,
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    assert_eq!(header_constants(), ours);
}

#[test]
fn structs_have_the_fields_of_the_header() {
    let ours = [
        layout!(Query {
            version,
            state,
            available,
            held,
            cr0_pinnable,
            cr4_pinnable,
            max_bytes,
            max_ranges,
            max_pins,
            patch,
            learning,
            reserved
        }),
        layout!(Seal {
            version,
            flags,
            nr_ranges,
            nr_pins,
            nr_areas,
            reserved
        }),
        layout!(Range {
            gpa,
            len,
            va,
            rights,
            kind
        }),
        layout!(Ranges { nr, state }),
        layout!(Pin { reg, index, mask }),
        layout!(Area {
            kind,
            reserved,
            va,
            len
        }),
        layout!(Patch { version, nr_sites }),
        layout!(Site { va, len, old, new }),
        layout!(Grant { version, nr_ranges }),
        layout!(Kexec {
            version,
            flags,
            gpa,
            len,
            offset,
        }),
        layout!(Frozen {
            version,
            first,
            nr,
            total,
            va
        }),
        layout!(Buffer { data, len }),
        layout!(Saved {
            magic,
            version,
            nr_records,
            len
        }),
        layout!(Record {
            kind,
            reserved,
            len
        }),
        layout!(Life {
            state,
            reserved,
            text_va
        }),
        layout!(Place {
            va,
            target,
            len,
            rule
        }),
        layout!(Probe { va, code }),
        layout!(Counters {
            vcpu,
            reserved,
            value
        }),
        layout!(Profile {
            version,
            nr_functions,
            nr_calls,
            nr_frozen,
            nr_probes,
            reserved,
            base,
            text_len,
            build_id_offset,
            build_id_len,
            build_id
        }),
        layout!(Caps {
            version,
            protections,
            cr0_pinnable,
            cr4_pinnable,
            patch,
            consent,
            classes,
            actions
        }),
        layout!(Policy {
            version,
            allowed,
            consent,
            write,
            exec,
            reg,
            patch,
            reserved
        }),
        layout!(Exit {
            kind,
            flags,
            vcpu,
            cpl,
            rip,
            op,
            answer,
            seal_flags,
            nr_ranges,
            nr_pins,
            nr_sites,
            len,
            denied,
            reason,
            gpa,
            va,
            bits,
            reg,
            index,
            kexec_flags,
            kexec_len,
            offset,
            value,
        }),
    ];
    let header = header_structs();
    assert_eq!(header.len(), ours.len());
    for (name, fields, size) in ours {
        let expected = &header[&name.to_lowercase()];
        let mut offset = 0;
        let mut laid_out = Vec::new();
        for (field, align, bytes) in expected {
            assert_eq!(offset % align, 0, "{name}.{field} is padded");
            laid_out.push((field.as_str(), offset));
            offset += bytes;
        }
        assert_eq!(laid_out, fields, "{name}");
        assert_eq!(offset, size, "{name} is padded");
    }
}

#[test]
fn arrays_have_the_lengths_that_are_named() {
    assert!(size_of_val(&Site::new_zeroed().new) >= HEKI_SLOT_BYTES as usize);
    let build_id = Profile::new_zeroed().build_id;
    assert_eq!(size_of_val(&build_id), HEKI_MAX_BUILD_ID as usize);
}

#[test]
fn the_largest_request_fits_its_bound() {
    let bytes = HEADER_BYTES
        + HEKI_MAX_RANGES as usize * size_of::<Range>()
        + HEKI_MAX_PINS as usize * size_of::<Pin>()
        + HEKI_MAX_AREAS as usize * size_of::<Area>();
    assert!(bytes <= HEKI_MAX_REQUEST_BYTES as usize);
}

// SPDX-License-Identifier: GPL-2.0

//! Targets of calls, by what is known of the guest's kernel: symbols, types, ENDBR64.

use heki_abi::*;
use heki_policy::patch::areas::{Areas, Extent};
use heki_policy::patch::target;

use crate::toy::*;

fn is_callee(toy: &Toy, va: u64, exemplar: u64) -> bool {
    toy.with_env(|env| target::is_callee(va, exemplar, env, toy))
}

#[test]
fn all_that_is_known_must_hold() {
    let mut toy = Toy::new();
    assert!(is_callee(&toy, SECOND, FIRST));
    toy.poke(SECOND, &[0x90]);
    assert!(!is_callee(&toy, SECOND, FIRST), "no ENDBR64");
    let mut toy = Toy::new();
    toy.poke(SECOND - 15, &[0x12]);
    assert!(!is_callee(&toy, SECOND, FIRST), "another hash");
    let mut toy = Toy::new();
    toy.poke(SECOND - 16, &[0xb9]);
    assert!(
        !is_callee(&toy, SECOND, FIRST),
        "another number of arguments"
    );
    let mut toy = Toy::new();
    toy.profile = profile(&[], &[], &[], &[]);
    assert!(!is_callee(&toy, SECOND, FIRST), "no symbol");
}

#[test]
fn a_sealed_function_is_no_target() {
    let mut toy = Toy::new();
    toy.poke(SECOND, &[0x0f, 0x1f, 0x40, 0xd6]);
    assert!(!is_callee(&toy, SECOND, FIRST));
    assert!(is_callee(&toy.without(&[HEKI_AREA_ENDBR]), SECOND, FIRST));
}

#[test]
fn one_kind_of_knowledge_is_enough() {
    let gadget = FIRST + 4;
    let symbol = Toy::new().without(&[HEKI_AREA_ENDBR, HEKI_AREA_CFI_HASH]);
    assert!(is_callee(&symbol, OTHER, FIRST));
    assert!(!is_callee(&symbol, gadget, FIRST));
    assert!(
        !is_callee(&symbol, MODULE_FIRST, FIRST),
        "a module has no symbols"
    );

    let endbr = Toy::new().without(&[HEKI_AREA_CFI_HASH]).without_profile();
    assert!(is_callee(&endbr, OTHER, FIRST));
    assert!(is_callee(&endbr, MODULE_OTHER, 0));
    assert!(!is_callee(&endbr, gadget, FIRST));

    let hash = Toy::new().without(&[HEKI_AREA_ENDBR]).without_profile();
    assert!(is_callee(&hash, SECOND, FIRST));
    assert!(is_callee(&hash, MODULE_FIRST, FIRST));
    assert!(!is_callee(&hash, OTHER, FIRST));
    assert!(!is_callee(&hash, gadget, FIRST));
    assert!(!is_callee(&hash, SECOND, 0), "of unknown type");
    assert!(!is_callee(&hash, SECOND, THUNK), "nor has this one a type");
}

#[test]
fn where_nothing_is_known_only_the_same_function_will_do() {
    let blind = Toy::new()
        .without(&[HEKI_AREA_ENDBR, HEKI_AREA_CFI_HASH])
        .without_profile();
    assert!(is_callee(&blind, FIRST, FIRST));
    assert!(!is_callee(&blind, SECOND, FIRST));
    assert!(!is_callee(&blind, FIRST, 0));
    assert!(is_callee(&blind, RETURN0, FIRST));
    for va in [RODATA, POOL, COPY, 0, TEXT + 0x50_0000] {
        assert!(!is_callee(&blind, va, va), "{va:x}");
    }
}

#[test]
fn a_stand_in_has_no_type() {
    let toy = Toy::new();
    assert!(is_callee(&toy, OTHER, RETURN0));
    assert!(is_callee(&toy, FIRST, RETURN0));
    assert!(!is_callee(&toy, FIRST + 1, RETURN0));
}

#[test]
fn the_probe_of_a_tracepoint_may_stand_for_the_iterator() {
    let toy = Toy::new();
    assert!(is_callee(&toy, PROBE, ITERATOR));
    assert!(is_callee(&toy, ITERATOR, ITERATOR));
    assert!(is_callee(&toy, ITERATOR, PROBE), "and the other way");
    assert!(!is_callee(&toy, FIRST, ITERATOR));
    assert!(!is_callee(&toy, ITERATOR, FIRST));
    assert!(!is_callee(&toy, OTHER, PROBE));
}

#[test]
fn what_the_next_function_calls_does_not_count() {
    let mut toy = Toy::new();
    let check = toy.peek(ITERATOR + 16, 6);
    toy.poke(ITERATOR + 16, &[0xcc; 6]);
    assert!(!is_callee(&toy, PROBE, ITERATOR));
    toy.poke(PROBE + 48, &check);
    assert!(!is_callee(&toy, PROBE, ITERATOR), "behind the padding");
    toy.poke(ITERATOR + 12, &check);
    assert!(is_callee(&toy, PROBE, ITERATOR));
    toy.poke(ITERATOR + 12, &[0x41, 0xba, 0x44, 0x44, 0x44, 0x44]);
    assert!(
        !is_callee(&toy, PROBE, ITERATOR),
        "the hash itself is loaded"
    );
}

/// FineIBT puts the hash behind an ENDBR64, and callers load it as it is.
#[test]
fn types_of_fineibt() {
    let mut toy = Toy::new().without(&[HEKI_AREA_ENDBR, HEKI_AREA_CFI_HASH]);
    toy.areas.push(Area {
        kind: HEKI_AREA_CFI_HASH,
        reserved: 0,
        va: 11,
        len: 0,
    });
    for (va, hash) in FUNCTIONS {
        let sub = [
            &[0xf3, 0x0f, 0x1e, 0xfa, 0x2d],
            hash.to_le_bytes().as_slice(),
        ]
        .concat();
        let jne = [0x2e, 0x0f, 0x85, 3, 0, 0, 0];
        toy.poke(va - 16, &[sub, jne.to_vec()].concat());
        toy.poke(va, &[0x0f, 0x1f, 0x40, 0xd6]);
    }
    // No room between the iterator and what comes next.
    toy.poke(ITERATOR + 9, &[0x31; 39]);
    assert!(is_callee(&toy, SECOND, FIRST));
    assert!(!is_callee(&toy, OTHER, FIRST));
    assert!(!is_callee(&toy, PROBE, ITERATOR));
    toy.poke(ITERATOR + 12, &[0xb8, 0x44, 0x44, 0x44, 0x44]);
    assert!(is_callee(&toy, PROBE, ITERATOR));
    toy.poke(ITERATOR + 12, &[0x31; 5]);
    toy.poke(PROBE + 4, &[0xb8, 0x44, 0x44, 0x44, 0x44]);
    assert!(!is_callee(&toy, PROBE, ITERATOR), "the next function");
}

#[test]
fn a_tracer_is_of_the_type_of_the_stub() {
    let is_tracer = |toy: &Toy, va| toy.with_env(|env| target::is_tracer(va, env, toy));
    let toy = Toy::new();
    assert!(is_tracer(&toy, TRACER) && is_tracer(&toy, STUB));
    assert!(!is_tracer(&toy, FIRST) && !is_tracer(&toy, RETURN0));
    let untyped = Toy::new().without(&[HEKI_AREA_FTRACE_STUB]);
    assert!(is_tracer(&untyped, FIRST) && !is_tracer(&untyped, FIRST + 1));
}

#[test]
fn a_hash_out_of_reach() {
    for distance in [0, 15, u64::MAX, FIRST, FIRST + 1] {
        let mut toy = Toy::new().without(&[HEKI_AREA_CFI_HASH, HEKI_AREA_ENDBR]);
        toy.areas.push(Area {
            kind: HEKI_AREA_CFI_HASH,
            reserved: 0,
            va: distance,
            len: 0,
        });
        assert_eq!(is_callee(&toy, OTHER, FIRST), distance != 15);
    }
}

#[test]
fn areas_by_kind() {
    let toy = Toy::new();
    let areas = Areas::new(toy.areas.iter().copied().chain([Area {
        kind: HEKI_AREA_JUMP_TABLE,
        reserved: 0,
        va: 7,
        len: 16,
    }]));
    assert_eq!(areas.va(HEKI_AREA_JUMP_TABLE), None, "tables are not kept");
    assert_eq!(areas.va(HEKI_AREA_COUNT), None);
    assert_eq!(areas.va(u32::MAX), None);
    assert!(areas.is(HEKI_AREA_RETURN_THUNK, THUNK));
    for area in &toy.areas {
        let extent = Extent {
            va: area.va,
            len: area.len,
        };
        assert_eq!(areas.get(area.kind), Some(extent));
    }
    let extent = Extent { va: 8, len: 8 };
    assert!(extent.holds(8, 8) && extent.holds(15, 1) && !extent.holds(15, 2));
    assert!(!extent.holds(7, 1) && !extent.holds(16, 1) && !extent.holds(u64::MAX, 2));
    assert!(!extent.holds(9, u64::MAX));
}

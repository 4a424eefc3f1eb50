// SPDX-License-Identifier: GPL-2.0

//! Pads that track the depth of calls: where none may come, what it may be, who may be called there.

use heki_abi::*;
use heki_policy::patch::{
    pads, rules,
    sites::{self, Rule},
    Denied::{self, *},
};

use crate::rules::change;
use crate::toy::*;

const NOPS: [u8; 9] = [0x90; 9];

fn judge(toy: &Toy, va: u64, old: &[u8], new: &[u8]) -> Result<(), Denied> {
    toy.with_env(|env| rules::check(&change(va, old, new), env, toy))
}

/// The toy with a pad in front of `function`.
fn padded(function: u64) -> Toy {
    let mut toy = Toy::new();
    toy.poke(function - 9, &pad(function - 9));
    toy
}

#[test]
fn pads_of_other_form() {
    let toy = Toy::new();
    let va = SECOND - 9;
    let good = pad(va);
    assert_eq!(judge(&toy, va, &NOPS, &good), Ok(()));
    for at in 0..9 {
        let mut old = NOPS;
        old[at] = 0xcc;
        assert_eq!(judge(&toy, va, &old, &good), Err(Form), "{at}");
        let mut new = good.clone();
        new[at] ^= 1;
        assert_eq!(judge(&toy, va, &NOPS, &new), Err(Form), "{at}");
    }
    // Moved from elsewhere, taken away, written again.
    assert_eq!(judge(&toy, va, &NOPS, &pad(FIRST - 9)), Err(Form));
    assert_eq!(judge(&toy, va, &good, &NOPS), Err(Form));
    assert_eq!(judge(&toy, va, &good, &good), Err(Form));
    for len in [8, 10] {
        let (mut old, mut new) = (vec![0x90; 8], good.clone());
        old.resize(len, 0x90);
        new.resize(len, 0x90);
        assert_eq!(judge(&toy, va, &old, &new), Err(Form), "{len}");
    }
}

#[test]
fn pads_in_front_of_no_function() {
    let toy = Toy::new();
    for va in [
        SECOND - 8,
        SECOND - 10,
        SECOND,
        MODULE_FIRST - 8,
        TEXT,
        LABEL5,
        CALL,
        RODATA,
        POOL,
        COPY,
        TEXT + TEXT_LEN - 9,
        TEXT + TEXT_LEN - 4,
        u64::MAX - 8,
    ] {
        assert!(judge(&toy, va, &NOPS, &pad(va)).is_err(), "{va:x}");
    }
    for va in [SECOND - 10, SECOND - 8, RODATA, POOL, COPY] {
        assert_eq!(judge(&toy, va, &NOPS, &pad(va)), Err(Unlisted), "{va:x}");
    }
    for function in [FIRST, OTHER, TRACER, MODULE_FIRST] {
        let va = function - 9;
        assert_eq!(judge(&toy, va, &NOPS, &pad(va)), Ok(()));
    }
    // Where nothing tells what a function is.
    let blind = Toy::new()
        .without(&[HEKI_AREA_ENDBR, HEKI_AREA_CFI_HASH])
        .without_profile();
    let va = SECOND - 9;
    assert_eq!(judge(&blind, va, &NOPS, &pad(va)), Err(Unlisted));
}

#[test]
fn kernels_without_pads() {
    let va = SECOND - 9;
    let mut toys = vec![Toy::new().without(&[HEKI_AREA_CALL_DEPTH])];
    for len in [0, 1, 6, 15, 16, 17, u64::MAX] {
        let mut toy = Toy::new();
        for area in &mut toy.areas {
            if area.kind == HEKI_AREA_CALL_DEPTH {
                area.len = len;
            }
        }
        toys.push(toy);
    }
    for toy in toys {
        assert_eq!(toy.with_env(pads::len), None);
        assert_eq!(judge(&toy, va, &NOPS, &pad(va)), Err(Form));
        let mut toy = toy;
        toy.poke(va, &pad(va));
        assert_eq!(toy.with_env(|env| pads::function(va, env, &toy)), None);
        let to_pad = judge(&toy, CALL, &call(CALL, FIRST), &call(CALL, va));
        assert_eq!(to_pad, Err(Target));
    }
}

#[test]
fn a_template_that_is_not_sealed() {
    for va in [TEXT + 0x50_0000, 0, u64::MAX] {
        let mut toy = padded(SECOND);
        for area in &mut toy.areas {
            if area.kind == HEKI_AREA_CALL_DEPTH {
                area.va = va;
            }
        }
        let at = SECOND - 9;
        assert_eq!(toy.with_env(|env| pads::function(at, env, &toy)), None);
        assert_eq!(judge(&toy, FIRST - 9, &NOPS, &pad(FIRST - 9)), Err(Form));
    }
}

#[test]
fn calls_of_pads() {
    let to = |toy: &Toy, va| judge(toy, CALL, &call(CALL, FIRST), &call(CALL, va));
    assert_eq!(to(&padded(SECOND), SECOND - 9), Ok(()));
    assert_eq!(to(&padded(SECOND), SECOND), Ok(()));
    assert_eq!(to(&padded(RETURN0), RETURN0 - 9), Ok(()));
    // Of another type, in front of no function, of NOPs.
    assert_eq!(to(&padded(OTHER), OTHER - 9), Err(Target));
    assert_eq!(to(&padded(SECOND + 32), SECOND + 32 - 9), Err(Target));
    assert_eq!(to(&Toy::new(), SECOND - 9), Err(Target));
    for at in [SECOND - 10, SECOND - 8] {
        assert_eq!(to(&padded(SECOND), at), Err(Target));
    }
    // Linux goes there by calls only.
    let toy = padded(SECOND);
    let at = SECOND - 9;
    let tail = judge(&toy, TAIL, &jump(TAIL, FIRST), &jump(TAIL, at));
    assert_eq!(tail, Err(Target));
    let tracer = CALLER + TRACER_CALL as u64;
    let toy = padded(TRACER);
    let traced = judge(&toy, tracer, &call(tracer, STUB), &call(tracer, TRACER - 9));
    assert_eq!(traced, Err(Target));
}

#[test]
fn the_exemplar_is_behind_the_pad() {
    let mut toy = padded(FIRST);
    toy.poke(CALL, &call(CALL, FIRST - 9));
    let entry = RODATA + 0x10;
    let distance = |from: u64, to: u64| (to.wrapping_sub(from) as u32).to_le_bytes();
    let bytes = [distance(entry, CALL), distance(entry + 4, TEXT + 0x50_1000)].concat();
    let bytes = bytes.try_into().unwrap();
    let found = toy.with_env(|env| sites::static_call(&bytes, entry, env, &toy));
    let rule = Rule::StaticCall {
        tail: false,
        exemplar: FIRST,
    };
    assert_eq!(found.map(|(site, _)| site.rule), Some(rule));
}

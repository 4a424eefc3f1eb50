// SPDX-License-Identifier: GPL-2.0

//! Tables of jump labels, static calls and ftrace sites: what is dropped, what is taken, in what order it ends.

use heki_abi::{
    Area, HEKI_AREA_FROZEN, HEKI_AREA_RETURN_THUNK, HEKI_AREA_RO_AFTER_INIT,
    HEKI_AREA_STATIC_RETURN,
};
use heki_policy::patch::sites::{self, Packed, Rule, Site};
use proptest::prelude::*;

use crate::toy::{
    branch, call, functions, jump, jump_short, packed, profile, Toy, CALL, CALLER, COND, COPY,
    EMPTY, FIRST, FTRACE, LABEL2, LABEL5, LABEL_TARGET, MODULE, MODULE_FIRST, MODULE_TRAMP, MOV5,
    NOP5, POOL, RET5, RETURN0, RODATA, SECOND, STATIC_RETURN, TAIL, TEXT, TEXT_LEN, THUNK, TRAMP,
    TRAMP_UD, UD5, XOR5,
};

/// Where the entries lie, a key that may change, one that is frozen and one that is read-only.
const ENTRY: u64 = RODATA + 0x10;
const KEY: u64 = TEXT + 0x50_1000;
const FROZEN_KEY: u64 = TEXT + 0x50_0000;
const RO_KEY: u64 = RODATA + 0xff8;
const INIT: u64 = 2;

fn distance(from: u64, to: u64) -> [u8; 4] {
    (to.wrapping_sub(from) as u32).to_le_bytes()
}

fn jump_entry(toy: &Toy, code: u64, target: u64, key: u64) -> Option<Site> {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&distance(ENTRY, code));
    bytes[4..8].copy_from_slice(&distance(ENTRY + 4, target));
    bytes[8..].copy_from_slice(&key.wrapping_sub(ENTRY + 8).to_le_bytes());
    toy.with_env(|env| sites::jump_entry(&bytes, ENTRY, env, toy))
}

fn static_call(toy: &Toy, addr: u64, key: u64) -> Option<(Site, u64)> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&distance(ENTRY, addr));
    bytes[4..].copy_from_slice(&distance(ENTRY + 4, key));
    toy.with_env(|env| sites::static_call(&bytes, ENTRY, env, toy))
}

fn ftrace_call(toy: &Toy, va: u64) -> Option<Site> {
    toy.with_env(|env| sites::ftrace_call(&va.to_le_bytes(), env, toy))
}

#[test]
fn ftrace_sites_that_no_module_has() {
    let toy = with(MODULE_FIRST + 4, &NOP5);
    for va in [
        MODULE_FIRST,
        MODULE_FIRST + 3,
        MODULE_FIRST + 5,
        MODULE + 0x1000 - 4,
        MODULE_TRAMP,
        // In the kernel's text, of which the profile has the list.
        FTRACE,
        EMPTY,
        RODATA,
        COPY,
        POOL,
        0,
        u64::MAX,
    ] {
        assert_eq!(ftrace_call(&toy, va), None, "{va:x}");
    }
    let toy = toy.without_profile();
    assert_eq!(ftrace_call(&toy, MODULE_FIRST + 4), None);
    for bytes in [
        call(MODULE_FIRST + 4, FIRST),
        call(MODULE_FIRST + 4, CALLER + 1),
        jump(MODULE_FIRST + 4, CALLER),
        XOR5.to_vec(),
        RET5.to_vec(),
    ] {
        let toy = with(MODULE_FIRST + 4, &bytes);
        assert_eq!(ftrace_call(&toy, MODULE_FIRST + 4), None, "{bytes:x?}");
    }
}

#[test]
fn ftrace_sites_of_modules_are_taken() {
    let va = MODULE_FIRST + 4;
    let site = Site {
        va,
        len: 5,
        rule: Rule::Ftrace,
    };
    for bytes in [NOP5.to_vec(), call(va, CALLER), call(va, COPY)] {
        assert_eq!(ftrace_call(&with(va, &bytes), va), Some(site));
    }
}

/// A toy with `bytes` at `va`.
fn with(va: u64, bytes: &[u8]) -> Toy {
    let mut toy = Toy::new();
    toy.poke(va, bytes);
    toy
}

#[test]
fn labels_that_never_change_again_are_dropped() {
    let toy = Toy::new();
    assert_eq!(jump_entry(&toy, LABEL5, LABEL_TARGET, KEY | INIT), None);
    assert_eq!(jump_entry(&toy, LABEL5, LABEL_TARGET, KEY | INIT | 1), None);
    assert_eq!(jump_entry(&toy, LABEL5, LABEL_TARGET, RO_KEY), None);
    assert_eq!(jump_entry(&toy, LABEL5, LABEL_TARGET, RO_KEY | 1), None);
    let unknown = Toy::new().without(&[HEKI_AREA_RO_AFTER_INIT]);
    assert!(jump_entry(&unknown, LABEL5, LABEL_TARGET, RO_KEY).is_some());
    for beside in [RODATA + 0x7f8, RODATA + 0x1000] {
        assert!(jump_entry(&toy, LABEL5, LABEL_TARGET, beside).is_some());
    }
}

#[test]
fn labels_where_none_can_be_are_dropped() {
    let toy = Toy::new();
    for code in [
        LABEL5 + 1,
        LABEL2 - 1,
        CALL,
        RODATA,
        COPY,
        POOL,
        TEXT - 1,
        0,
        TEXT + 0x50_0000,
    ] {
        assert_eq!(jump_entry(&toy, code, LABEL_TARGET, KEY), None, "{code:x}");
    }
    let foreign = with(LABEL5, &jump(LABEL5, LABEL_TARGET + 1));
    assert_eq!(jump_entry(&foreign, LABEL5, LABEL_TARGET, KEY), None);
    let foreign = with(LABEL2, &jump_short(LABEL2, LABEL_TARGET + 1));
    assert_eq!(jump_entry(&foreign, LABEL2, LABEL_TARGET, KEY), None);
    for va in [RODATA + 0x400, COPY + 0x800, POOL] {
        let elsewhere = with(va, &jump_short(va, va + 8));
        assert_eq!(jump_entry(&elsewhere, va, va + 8, KEY), None, "{va:x}");
    }
    let last = TEXT + 0x8000 - 2;
    let cut = with(last, &[0x0f, 0x1f]);
    assert_eq!(jump_entry(&cut, last, LABEL_TARGET, KEY), None);
}

#[test]
fn a_label_has_the_length_that_it_had_at_the_seal() {
    let rule = Rule::JumpLabel {
        target: LABEL_TARGET,
    };
    let short = with(LABEL2, &jump_short(LABEL2, LABEL_TARGET));
    let long = with(LABEL5, &jump(LABEL5, LABEL_TARGET));
    for toy in [Toy::new(), short, long] {
        for (va, len) in [(LABEL5, 5), (LABEL2, 2)] {
            let site = Some(Site { va, len, rule });
            assert_eq!(jump_entry(&toy, va, LABEL_TARGET, KEY), site);
            assert_eq!(jump_entry(&toy, va, LABEL_TARGET, KEY | 1), site);
        }
    }
}

#[test]
fn a_site_of_a_frozen_key_stays_as_it_is() {
    let toy = Toy::new();
    let label = jump_entry(&toy, LABEL2, LABEL_TARGET, FROZEN_KEY | 1).unwrap();
    assert_eq!((label.len, label.rule), (2, Rule::Frozen));
    let (site, key) = static_call(&toy, COND, FROZEN_KEY | 1).unwrap();
    assert_eq!((site.len, site.rule, key), (6, Rule::Frozen, FROZEN_KEY));
    assert_eq!(site.with_exemplar(FIRST), site);
    let unknown = Toy::new().without_profile();
    assert!(
        jump_entry(&unknown, LABEL2, LABEL_TARGET, FROZEN_KEY)
            .unwrap()
            .rule
            != Rule::Frozen
    );
}

#[test]
fn static_calls_that_never_change_again_are_dropped() {
    let toy = Toy::new();
    assert_eq!(static_call(&toy, CALL, KEY | INIT), None);
    assert_eq!(static_call(&toy, TAIL, KEY | INIT | 1), None);
}

#[test]
fn static_calls_where_none_can_be_are_dropped() {
    let toy = Toy::new();
    for (addr, flags) in [
        (CALL, 1),
        (TAIL, 0),
        (COND, 0),
        (EMPTY, 1),
        (LABEL2, 0),
        (CALL + 1, 0),
        (TAIL + 1, 1),
        (RODATA, 0),
        (COPY + 40, 0),
        (0, 1),
    ] {
        assert_eq!(static_call(&toy, addr, KEY | flags), None, "{addr:x}");
    }
    for bytes in [XOR5, UD5, MOV5] {
        assert_eq!(static_call(&with(TAIL, &bytes), TAIL, KEY | 1), None);
    }
    assert_eq!(static_call(&with(CALL, &RET5), CALL, KEY), None);
    let last = TEXT + 0x8000 - 5;
    let cut = with(last, &branch(0x84, last, FIRST)[..5]);
    assert_eq!(static_call(&cut, last, KEY | 1), None);
}

#[test]
fn every_form_of_a_static_call_is_taken() {
    let taken = |toy: &Toy, va: u64, tail: bool, exemplar: u64| {
        let (site, key) = static_call(toy, va, KEY | u64::from(tail)).unwrap();
        let rule = Rule::StaticCall { tail, exemplar };
        assert_eq!((site.va, site.rule, key), (va, rule, KEY));
        site.len
    };
    assert_eq!(
        taken(&with(CALL, &call(CALL, SECOND)), CALL, false, SECOND),
        5
    );
    for bytes in [XOR5, UD5, MOV5] {
        assert_eq!(taken(&with(CALL, &bytes), CALL, false, 0), 5);
    }
    assert_eq!(taken(&Toy::new(), EMPTY, false, 0), 5);
    assert_eq!(taken(&with(TAIL, &RET5), TAIL, true, 0), 5);
    for (to, exemplar) in [
        (SECOND, SECOND),
        (RETURN0, RETURN0),
        (THUNK, 0),
        (STATIC_RETURN, 0),
    ] {
        assert_eq!(taken(&with(TAIL, &jump(TAIL, to)), TAIL, true, exemplar), 5);
        for condition in 0x80..=0x8f {
            let toy = with(COND, &branch(condition, COND, to));
            assert_eq!(taken(&toy, COND, true, exemplar), 6);
        }
    }
}

#[test]
fn what_returns_is_known_only_from_the_guest() {
    for (area, va) in [
        (HEKI_AREA_RETURN_THUNK, THUNK),
        (HEKI_AREA_STATIC_RETURN, STATIC_RETURN),
    ] {
        let toy = with(TAIL, &jump(TAIL, va)).without(&[area]);
        let (site, _) = static_call(&toy, TAIL, KEY | 1).unwrap();
        assert_eq!(site.rule, tail_call(va));
    }
}

#[test]
fn an_exemplar_replaces_another_unless_it_is_zero() {
    let (site, _) = static_call(&Toy::new(), TAIL, KEY | 1).unwrap();
    assert_eq!(site.with_exemplar(0), site);
    let other = Site {
        rule: tail_call(SECOND),
        ..site
    };
    assert_eq!(site.with_exemplar(SECOND), other);
    assert_eq!(label(100, 5, 1).with_exemplar(SECOND), label(100, 5, 1));
}

fn tail_call(exemplar: u64) -> Rule {
    Rule::StaticCall {
        tail: true,
        exemplar,
    }
}

fn trampolines_in(chunk: &[u8]) -> Vec<usize> {
    sites::trampolines_in(chunk).collect()
}

#[test]
fn trampolines_that_are_none() {
    let one = [NOP5.as_slice(), &TRAMP_UD].concat();
    for len in 0..8 {
        assert_eq!(trampolines_in(&one[..len]), [], "{len}");
    }
    for shift in [1, 2, 3, 5, 6, 7] {
        let shifted = [vec![0x90; shift], one.clone(), vec![0x90; 8]].concat();
        assert_eq!(trampolines_in(&shifted), [], "{shift}");
    }
    for at in 5..8 {
        let mut other = one.clone();
        other[at] ^= 1;
        assert_eq!(trampolines_in(&other), [], "{at}");
    }
}

#[test]
fn trampolines_one_after_the_other() {
    let one = [NOP5.as_slice(), &TRAMP_UD].concat();
    assert_eq!(trampolines_in(&one), [0]);
    let three = [one.clone(), one.clone(), vec![0xcc; 4], one].concat();
    assert_eq!(trampolines_in(&three), [0, 8, 20]);
    let toy = Toy::new();
    assert_eq!(trampolines_in(&toy.peek(TRAMP, 0x100)), [0]);
    assert_eq!(trampolines_in(&toy.peek(MODULE, 0x1000)), [0x800]);
}

fn trampoline(toy: &Toy, va: u64) -> Option<Site> {
    toy.with_env(|env| sites::call_trampoline(va, env, toy))
}

#[test]
fn trampolines_that_go_nowhere_are_dropped() {
    for bytes in [
        NOP5,
        XOR5,
        UD5,
        MOV5,
        [0xcc; 5],
        [0xc3, 0x90, 0xcc, 0xcc, 0xcc],
    ] {
        assert_eq!(trampoline(&with(TRAMP, &bytes), TRAMP), None, "{bytes:x?}");
    }
    assert_eq!(trampoline(&with(TRAMP, &call(TRAMP, FIRST)), TRAMP), None);
    let long = with(TRAMP, &branch(0x84, TRAMP, FIRST));
    assert_eq!(trampoline(&long, TRAMP), None);
    assert_eq!(trampoline(&Toy::new(), TRAMP + 1), None);
}

#[test]
fn trampolines_outside_of_text_are_dropped() {
    for va in [RODATA, COPY + 0x800, POOL] {
        let toy = with(va, &[jump(va, FIRST), TRAMP_UD.into()].concat());
        assert_eq!(trampoline(&toy, va), None, "{va:x}");
    }
    let last = TEXT + TEXT_LEN - 4;
    let cut = with(last, &jump(last, FIRST)[..4]);
    for va in [last, 0, u64::MAX, TEXT - 8] {
        assert_eq!(trampoline(&cut, va), None, "{va:x}");
    }
}

#[test]
fn a_trampoline_is_frozen_by_its_own_address() {
    let frozen = |va: u64| {
        let mut toy = Toy::new();
        toy.profile = profile(&functions(), &[], &[(va - TEXT) as u32], &[]);
        trampoline(&toy, TRAMP).unwrap()
    };
    let expected = Site {
        va: TRAMP,
        len: 5,
        rule: Rule::Frozen,
    };
    assert_eq!(frozen(TRAMP), expected);
    assert_eq!(frozen(TRAMP).with_exemplar(SECOND), expected);
    for beside in [TRAMP - 1, TRAMP + 1, TRAMP + 8, FIRST] {
        assert_eq!(frozen(beside).rule, tail_call(FIRST), "{beside:x}");
    }
}

#[test]
fn a_guest_freezes_its_own_trampolines() {
    let mut toy = Toy::new();
    assert_eq!(trampoline(&toy, TRAMP).unwrap().rule, tail_call(FIRST));
    for va in [TRAMP + 8, TRAMP] {
        toy.areas.push(Area {
            kind: HEKI_AREA_FROZEN,
            reserved: 0,
            va,
            len: 0,
        });
    }
    assert_eq!(trampoline(&toy, TRAMP).unwrap().rule, Rule::Frozen);
}

#[test]
fn a_trampoline_has_the_exemplar_where_it_jumps() {
    for va in [TRAMP, MODULE_TRAMP] {
        let jumps = |to| jump(va, to);
        for (bytes, exemplar) in [
            (jumps(THUNK), 0),
            (jumps(STATIC_RETURN), 0),
            (RET5.into(), 0),
            (jumps(FIRST), FIRST),
            (jumps(SECOND), SECOND),
            (jumps(RETURN0), RETURN0),
        ] {
            let rule = tail_call(exemplar);
            let site = Site { va, len: 5, rule };
            assert_eq!(trampoline(&with(va, &bytes), va), Some(site));
        }
        let listed = Toy::new().sites.iter().find(|site| site.va == va).copied();
        assert_eq!(trampoline(&Toy::new(), va), listed);
    }
}

#[test]
fn a_site_may_cross_a_page_and_lie_in_a_module() {
    let va = TEXT + 0x1ffd;
    assert!(static_call(&with(va, &call(va, FIRST)), va, KEY).is_some());
    let va = MODULE + 0x40;
    let toy = with(va, &jump_short(va, va + 16));
    assert_eq!(jump_entry(&toy, va, va + 16, KEY).unwrap().len, 2);
}

/// What [`sites::finish`] leaves of `all`.
pub(crate) fn finished(all: Vec<Site>) -> Vec<Site> {
    let mut all = packed(&all);
    let left = sites::finish(&mut all);
    all[..left].iter().map(Packed::site).collect()
}

fn label(va: u64, len: u8, target: u64) -> Site {
    let rule = Rule::JumpLabel { target };
    Site { va, len, rule }
}

#[test]
fn sites_that_contradict_each_other_are_dropped() {
    let good = label(100, 5, 1);
    for bad in [
        label(100, 5, 2),
        label(100, 2, 1),
        label(104, 2, 1),
        label(96, 5, 1),
    ] {
        assert_eq!(finished(vec![good, bad]), []);
        assert_eq!(finished(vec![bad, good, good, bad]), []);
    }
    let chain = vec![good, label(104, 5, 1), label(108, 5, 1), label(113, 2, 1)];
    assert_eq!(finished(chain), [label(113, 2, 1)]);
    let under_a_long_one = vec![label(10, 6, 1), label(11, 2, 1), label(14, 5, 1), good];
    assert_eq!(finished(under_a_long_one), [good]);
}

#[test]
fn equal_sites_count_once_and_neighbours_stay() {
    let (a, b) = (label(100, 5, 1), label(105, 2, 1));
    assert_eq!(finished(vec![b, a, a, b, a]), [a, b]);
    assert_eq!(finished(vec![]), []);
}

#[test]
fn an_address_is_found_exactly() {
    let (first, second) = (label(100, 5, 1), label(105, 2, 1));
    let all = packed(&[first, second]);
    for (va, found, before) in [
        (99, None, None),
        (100, Some(first), None),
        (101, None, Some(first)),
        (105, Some(second), Some(first)),
        (106, None, Some(second)),
    ] {
        assert_eq!(sites::find(&all, va), found);
        assert_eq!(sites::last_before(&all, va), before);
    }
    assert_eq!(sites::find(&[], 0), None);
    assert_eq!(sites::last_before(&[], u64::MAX), None);
}

/// Addresses of which the lower half tells the upper one end here.
const NEAR_ENDS: [u64; 2] = [0x7fff_ffff, 0xffff_ffff_8000_0000];

#[test]
fn what_is_out_of_reach_is_not_kept() {
    let [low, high] = NEAR_ENDS;
    for near in [0, low, high, u64::MAX] {
        for site in [label(near, 5, TEXT), label(TEXT, 5, near)] {
            assert_eq!(Packed::new(&site).map(|kept| kept.site()), Some(site));
        }
    }
    for far in [
        low + 1,
        high - 1,
        0xffff_8880_0000_0000,
        u32::MAX.into(),
        1 << 63,
    ] {
        assert_eq!(Packed::new(&label(far, 5, TEXT)), None, "{far:x}");
        assert_eq!(Packed::new(&label(TEXT, 5, far)), None, "{far:x}");
        let call = Site {
            rule: tail_call(far),
            ..label(TEXT, 5, 0)
        };
        assert_eq!(Packed::new(&call), None, "{far:x}");
    }
}

#[test]
fn the_kernel_comes_behind_low_addresses() {
    let all = [
        label(TEXT, 5, 1),
        label(100, 5, 1),
        label(MODULE, 2, 1),
        label(0x7000_0000, 2, 1),
    ];
    let order: Vec<u64> = finished(all.to_vec()).iter().map(|site| site.va).collect();
    assert_eq!(order, [100, 0x7000_0000, TEXT, MODULE]);
}

/// Addresses that are in reach of the kernel, and some that are not.
fn any_address() -> impl Strategy<Value = u64> {
    let near = any::<i32>().prop_map(|near| near as u64);
    let edge = (prop::sample::select(NEAR_ENDS.to_vec()), -2..=2i64)
        .prop_map(|(end, by)| end.wrapping_add_signed(by));
    prop_oneof![4 => near, 1 => edge, 1 => any::<u64>(), 1 => Just(0)]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let call = (any::<bool>(), any_address())
        .prop_map(|(tail, exemplar)| Rule::StaticCall { tail, exemplar });
    prop_oneof![
        Just(Rule::Frozen),
        Just(Rule::Ftrace),
        any_address().prop_map(|target| Rule::JumpLabel { target }),
        call,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Against the slow way: a site stays if no other one, unless equal, shares a byte with it, and
    /// none of a chain of such does.
    #[test]
    fn order_and_search(
        raw in proptest::collection::vec((0..400u64, 0..3usize, 0..2u64), 0..60)
    ) {
        let all: Vec<Site> = raw
            .into_iter()
            .map(|(va, len, target)| label(va, [2, 5, 6][len], target))
            .collect();
        let touch = |a: &Site, b: &Site| {
            a != b && a.va < b.va + u64::from(b.len) && b.va < a.va + u64::from(a.len)
        };
        let mut expected: Vec<Site> = all
            .iter()
            .filter(|a| !all.iter().any(|b| touch(a, b)))
            .copied()
            .collect();
        expected.sort_by_key(|site| site.va);
        expected.dedup();
        let found = finished(all);
        prop_assert_eq!(&found, &expected);
        let kept = packed(&found);
        for va in 0..410 {
            let linear = found.iter().find(|site| site.va == va).copied();
            prop_assert_eq!(sites::find(&kept, va), linear);
            let linear = found.iter().rfind(|site| site.va < va).copied();
            prop_assert_eq!(sites::last_before(&kept, va), linear);
        }
    }

    /// What is kept comes back as it was; what is not kept is out of reach.
    #[test]
    fn kept_and_back(va in any_address(), len: u8, rule in any_rule()) {
        let site = Site { va, len, rule };
        let target = match rule {
            Rule::JumpLabel { target: va } | Rule::StaticCall { exemplar: va, .. } => va,
            Rule::Frozen | Rule::Ftrace => 0,
        };
        let [low, high] = NEAR_ENDS;
        let near = |va| va <= low || va >= high;
        let kept = Packed::new(&site);
        prop_assert_eq!(kept.is_some(), near(va) && near(target));
        prop_assert!(kept.is_none_or(|kept| kept.site() == site && kept.va() == va));
    }

    #[test]
    fn any_entry(bytes: [u8; 16], va: u64) {
        let toy = Toy::new();
        let call: [u8; 8] = bytes[..8].try_into().unwrap();
        toy.with_env(|env| {
            let _ = sites::jump_entry(&bytes, va, env, &toy);
            let _ = sites::static_call(&call, va, env, &toy);
            let _ = sites::call_trampoline(va, env, &toy);
        });
    }
}

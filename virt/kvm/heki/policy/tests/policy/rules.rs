// SPDX-License-Identifier: GPL-2.0

//! Which instruction may become which: refusals of every kind of place, then the whole table.

use heki_abi::*;
use heki_policy::patch::{
    rules, sites,
    Denied::{self, *},
};

use crate::toy::*;

/// A change of `old` to `new` at `va`.
pub(crate) fn change(va: u64, old: &[u8], new: &[u8]) -> Site {
    let padded = |bytes: &[u8]| {
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(bytes);
        padded
    };
    Site {
        va,
        len: new.len() as u64,
        old: padded(old),
        new: padded(new),
    }
}

fn check(toy: &Toy, site: &Site) -> Result<(), Denied> {
    toy.with_env(|env| rules::check(site, env, toy))
}

/// What is said of a change of `old` to `new` at `va` in the toy.
fn judge(va: u64, old: &[u8], new: &[u8]) -> Result<(), Denied> {
    check(&Toy::new(), &change(va, old, new))
}

const CALLER_CALL: u64 = CALLER + TRACER_CALL as u64;
const REGS_CALL: u64 = REGS + REGS_TRACER_CALL as u64;
const COPY_CALL: u64 = COPY + TRACER_CALL as u64;

#[test]
fn a_site_of_odd_form() {
    let good = change(CALL, &NOP5, &call(CALL, SECOND));
    assert_eq!(check(&Toy::new(), &good), Ok(()));
    for len in [0, 1, 2, 4, 6, 7, 8, 9, u64::MAX, 1 << 32] {
        let site = Site { len, ..good };
        assert_eq!(check(&Toy::new(), &site), Err(Form), "{len}");
    }
    for at in 5..16 {
        let (mut old, mut new) = (good.old, good.new);
        old[at] = 1;
        new[at] = 0xcc;
        assert_eq!(check(&Toy::new(), &Site { old, ..good }), Err(Form));
        assert_eq!(check(&Toy::new(), &Site { new, ..good }), Err(Form));
    }
}

#[test]
fn places_that_never_change() {
    for va in [
        0,
        u64::MAX,
        u64::MAX - 4,
        TEXT - 5,
        TEXT - 1,
        TEXT,
        CALL - 1,
        CALL + 1,
        LABEL5 + 1,
        FIRST,
        FTRACE + 1,
        SECOND + 4,
        RODATA,
        POOL,
        MODULE,
        MODULE_FIRST + 4,
        TEXT + TEXT_LEN - 5,
        TEXT + TEXT_LEN - 4,
        TEXT + 0x50_0000,
        COPY,
        COPY + 1,
        COPY + REGS_TRACER_CALL as u64,
        CALLER,
        CALLER_CALL + 1,
        REGS + REGS_JNZ as u64,
    ] {
        let denied = judge(va, &NOP5, &call(va, FIRST));
        assert_eq!(denied, Err(Unlisted), "{va:x}");
        let denied = judge(va, &call(va, FIRST), &call(va, TRACER));
        assert_eq!(denied, Err(Unlisted), "{va:x}");
        let denied = judge(va, &jump(va, FIRST), &RET5);
        assert_eq!(denied, Err(Unlisted), "{va:x}");
    }
}

#[test]
fn an_instruction_of_another_length() {
    for va in [LABEL5, CALL, TAIL, COND, TRAMP, MODULE_TRAMP] {
        assert_eq!(judge(va, &NOP2, &NOP2), Err(Form), "{va:x}");
        assert_eq!(judge(va, &[0xeb, 0], &[0xeb, 0]), Err(Form), "{va:x}");
    }
    assert_eq!(judge(LABEL2, &NOP5, &NOP5), Err(Form));
    assert_eq!(judge(LABEL2, &NOP5, &jump(LABEL2, LABEL_TARGET)), Err(Form));
    assert_eq!(judge(COND, &jump(COND, FIRST), &RET5), Err(Form));
    for va in [TAIL, TRAMP, MODULE_TRAMP] {
        let jcc = branch(0x84, va, FIRST);
        assert_eq!(judge(va, &jcc, &jcc), Err(Form));
    }
    for va in [FTRACE, CALLER_CALL, COPY_CALL] {
        assert_eq!(judge(va, &NOP2, &NOP2), Err(Unlisted), "{va:x}");
        let short = jump_short(va, va + 16);
        assert_eq!(judge(va, &short, &jump_short(va, va)), Err(Unlisted));
        let jcc = branch(0x84, va, FIRST);
        assert_eq!(judge(va, &jcc, &jcc), Err(Unlisted), "{va:x}");
    }
}

#[test]
fn int3_has_no_place() {
    for va in [
        LABEL2,
        LABEL5,
        CALL,
        TAIL,
        COND,
        TRAMP,
        FTRACE,
        CALLER_CALL,
        COPY_CALL,
    ] {
        for len in [1, 2, 5, 6] {
            let toy = Toy::new();
            let now = toy.peek(va, len);
            assert!(check(&toy, &change(va, &now, &vec![0xcc; len])).is_err());
            let mut first = now.clone();
            first[0] = 0xcc;
            assert!(check(&toy, &change(va, &now, &first)).is_err());
            assert!(check(&toy, &change(va, &first, &now)).is_err());
        }
    }
}

#[test]
fn a_frozen_site_stays() {
    assert_eq!(
        judge(FROZEN, &NOP5, &jump(FROZEN, LABEL_TARGET)),
        Err(Frozen)
    );
    assert_eq!(judge(FROZEN, &NOP5, &NOP5), Err(Frozen));
    assert_eq!(judge(FROZEN, &NOP2, &NOP2), Err(Frozen));
}

#[test]
fn a_site_that_leaves_its_memory() {
    let mut toy = Toy::new();
    let va = TEXT + TEXT_LEN - 2;
    toy.sites.push(heki_policy::patch::sites::Site {
        va,
        len: 5,
        rule: toy.sites[0].rule,
    });
    let site = change(va, &NOP5, &jump(va, LABEL_TARGET));
    assert_eq!(check(&toy, &site), Err(Unlisted));
}

#[test]
fn a_foreign_jump() {
    for va in [LABEL_TARGET + 1, FIRST, LABEL5, 0] {
        assert_eq!(
            judge(LABEL5, &NOP5, &jump(LABEL5, va)),
            Err(Target),
            "{va:x}"
        );
    }
    let near = jump_short(LABEL2, LABEL_TARGET - 1);
    assert_eq!(judge(LABEL2, &NOP2, &near), Err(Target));
}

#[test]
fn a_foreign_callee() {
    for va in [
        FIRST + 1,
        FIRST - 16,
        FIRST + 4,
        OTHER,
        PROBE,
        MODULE_OTHER,
        THUNK,
        STATIC_RETURN,
        ITERATOR,
        CALLER,
        COPY,
        POOL,
        RODATA,
        TEXT + 0x50_0000,
        0,
    ] {
        assert_eq!(judge(CALL, &NOP5, &call(CALL, va)), Err(Target), "{va:x}");
        assert_eq!(
            judge(COND, &branch(0x84, COND, FIRST), &branch(0x84, COND, va)).is_err(),
            va != THUNK && va != STATIC_RETURN,
            "{va:x}"
        );
        assert_eq!(
            judge(TAIL, &RET5, &jump(TAIL, va)).is_err(),
            va != THUNK,
            "{va:x}"
        );
        assert_eq!(
            judge(TRAMP, &jump(TRAMP, FIRST), &jump(TRAMP, va)).is_err(),
            va != THUNK,
            "{va:x}"
        );
    }
}

#[test]
fn another_condition() {
    let old = branch(0x84, COND, FIRST);
    for condition in (0x80..=0x8f).filter(|&condition| condition != 0x84) {
        let new = branch(condition, COND, FIRST);
        assert_eq!(judge(COND, &old, &new), Err(Form));
    }
    assert_eq!(judge(COND, &old, &branch(0x84, COND, SECOND)), Ok(()));
}

#[test]
fn forms_of_callees_that_the_guest_does_not_have() {
    for (kind, form) in [
        (HEKI_AREA_STATIC_RETURN0, XOR5),
        (HEKI_AREA_WARN_TRAP, UD5),
        (HEKI_AREA_SPIN_UNLOCK, MOV5),
    ] {
        let site = change(CALL, &NOP5, &form);
        assert_eq!(check(&Toy::new(), &site), Ok(()));
        assert_eq!(check(&Toy::new().without(&[kind]), &site), Err(Form));
    }
    let thunk = change(TAIL, &RET5, &jump(TAIL, THUNK));
    let toy = Toy::new().without(&[HEKI_AREA_RETURN_THUNK]);
    assert_eq!(check(&toy, &thunk), Err(Target));
}

/// The toy with a trampoline at `va` that was `insn` at the seal, listed as the host lists it.
fn sealed_trampoline(va: u64, insn: &[u8]) -> Toy {
    let mut toy = Toy::new();
    toy.poke(va, insn);
    let site = toy.with_env(|env| sites::call_trampoline(va, env, &toy));
    toy.sites.retain(|site| site.va != va);
    toy.sites.extend(site);
    toy.sites = crate::sites::finished(toy.sites);
    toy
}

#[test]
fn a_trampoline_that_the_seal_did_not_list() {
    for va in [TRAMP + 8, TRAMP + 0x100, MODULE_TRAMP + 8] {
        let mut toy = Toy::new();
        toy.poke(va, &[jump(va, FIRST), TRAMP_UD.into()].concat());
        let site = change(va, &jump(va, FIRST), &jump(va, SECOND));
        assert_eq!(check(&toy, &site), Err(Unlisted), "{va:x}");
        assert_eq!(
            check(&sealed_trampoline(va, &jump(va, FIRST)), &site),
            Ok(())
        );
    }
    let nop = sealed_trampoline(TRAMP, &NOP5);
    let site = change(TRAMP, &NOP5, &jump(TRAMP, FIRST));
    assert_eq!(check(&nop, &site), Err(Unlisted));
}

#[test]
fn a_frozen_trampoline_stays() {
    let mut toy = Toy::new();
    toy.profile = profile(&functions(), &[], &[(TRAMP - TEXT) as u32], &[]);
    let site = toy.with_env(|env| sites::call_trampoline(TRAMP, env, &toy));
    toy.sites.retain(|site| site.va != TRAMP);
    toy.sites.extend(site);
    toy.sites.sort_by_key(|site| site.va);
    for new in [jump(TRAMP, SECOND), jump(TRAMP, FIRST), RET5.into()] {
        let site = change(TRAMP, &jump(TRAMP, FIRST), &new);
        assert_eq!(check(&toy, &site), Err(Frozen));
    }
    let other = change(MODULE_TRAMP, &RET5, &jump(MODULE_TRAMP, SECOND));
    assert_eq!(check(&toy, &other), Ok(()));
}

#[test]
fn ftrace_without_a_profile() {
    let site = change(FTRACE, &NOP5, &call(FTRACE, CALLER));
    assert_eq!(check(&Toy::new(), &site), Ok(()));
    assert_eq!(check(&Toy::new().without_profile(), &site), Err(Unlisted));
}

#[test]
fn ftrace_in_a_module() {
    let va = MODULE_FIRST + 4;
    let toy = Toy::new();
    let on = change(va, &NOP5, &call(va, CALLER));
    assert_eq!(check(&toy, &on), Err(Unlisted));
    let mut toy = toy;
    toy.sites.push(sites::Site {
        va,
        len: 5,
        rule: sites::Rule::Ftrace,
    });
    toy.sites.sort_by_key(|site| site.va);
    assert_eq!(check(&toy, &on), Ok(()));
    let moved = change(va, &call(va, CALLER), &call(va, COPY));
    assert_eq!(check(&toy, &moved), Ok(()));
    assert_eq!(check(&toy, &change(va, &call(va, COPY), &NOP5)), Ok(()));
    for to in [FIRST, TRACER, POOL, CALLER + 1, MODULE_OTHER, 0] {
        let site = change(va, &NOP5, &call(va, to));
        assert_eq!(check(&toy, &site), Err(Target), "{to:x}");
    }
    for form in [
        jump(va, CALLER),
        RET5.to_vec(),
        XOR5.to_vec(),
        MOV5.to_vec(),
    ] {
        assert_eq!(check(&toy, &change(va, &NOP5, &form)), Err(Form));
    }
    assert_eq!(check(&toy, &change(va, &NOP2, &NOP2)), Err(Form));
}

#[test]
fn what_ftrace_may_not_call() {
    for va in [FIRST, TRACER, COPY + 1, COPY + 0x1000, POOL, CALLER + 1, 0] {
        assert_eq!(
            judge(FTRACE, &NOP5, &call(FTRACE, va)),
            Err(Target),
            "{va:x}"
        );
    }
    for va in [FIRST, OTHER, TRACER + 1, CALLER, THUNK, COPY, MODULE_OTHER] {
        for at in [CALLER_CALL, REGS_CALL, COPY_CALL] {
            assert_eq!(
                judge(at, &call(at, STUB), &call(at, va)),
                Err(Target),
                "{va:x}"
            );
        }
    }
    assert_eq!(judge(FTRACE, &NOP5, &jump(FTRACE, CALLER)), Err(Form));
}

/// Every place against every instruction, both as the old and as the new one, with nothing but a
/// list of what is legal to compare with.
#[test]
fn the_whole_table() {
    let toy = Toy::new();
    let places = [
        (LABEL5, 5),
        (LABEL2, 2),
        (CALL, 5),
        (TAIL, 5),
        (COND, 6),
        (TRAMP, 5),
        (MODULE_TRAMP, 5),
        (FTRACE, 5),
        (CALLER_CALL, 5),
        (REGS_CALL, 5),
        (COPY_CALL, 5),
    ];
    for (va, len) in places {
        for (old_name, old) in instructions(va) {
            for (new_name, new) in instructions(va) {
                if old.len() != len || new.len() != len {
                    continue;
                }
                let forms = forms(va);
                let expected = forms.contains(&old_name.0)
                    && legal(va).contains(&(new_name.0, new_name.1))
                    && forms.contains(&new_name.0);
                let found = check(&toy, &change(va, &old, &new));
                assert_eq!(
                    found.is_ok(),
                    expected,
                    "{va:x}: {old_name:x?} to {new_name:x?}: {found:?}"
                );
            }
        }
    }
}

/// A name and a target, zero if there is none.
type Name = (&'static str, u64);

fn instructions(va: u64) -> Vec<(Name, Vec<u8>)> {
    let mut all: Vec<(Name, Vec<u8>)> = vec![
        (("nop", 0), NOP2.to_vec()),
        (("nop", 0), NOP5.to_vec()),
        (("ret", 0), RET5.to_vec()),
        (("xor", 0), XOR5.to_vec()),
        (("ud", 0), UD5.to_vec()),
        (("mov", 0), MOV5.to_vec()),
    ];
    let targets = [
        LABEL_TARGET,
        FIRST,
        SECOND,
        OTHER,
        PROBE,
        TRACER,
        STUB,
        RETURN0,
        WARN,
        UNLOCK,
        STATIC_RETURN,
        THUNK,
        MODULE_FIRST,
        MODULE_OTHER,
        CALLER,
        REGS,
        COPY,
        POOL,
    ];
    for to in targets {
        all.push((("call", to), call(va, to)));
        all.push((("jump", to), jump(va, to)));
        all.push((("jcc", to), branch(0x84, va, to)));
    }
    all.push((("jump", LABEL_TARGET), jump_short(va, LABEL_TARGET)));
    all.push((("jump", LABEL_TARGET + 2), jump_short(va, LABEL_TARGET + 2)));
    all
}

fn forms(va: u64) -> &'static [&'static str] {
    match va {
        LABEL5 | LABEL2 => &["nop", "jump"],
        CALL => &["nop", "call", "xor", "ud", "mov"],
        TAIL | TRAMP | MODULE_TRAMP => &["jump", "ret"],
        COND => &["jcc"],
        FTRACE => &["nop", "call"],
        _ => &["call"],
    }
}

fn legal(va: u64) -> Vec<Name> {
    let to = |form: &'static str, targets: &[u64]| -> Vec<Name> {
        targets.iter().map(|&target| (form, target)).collect()
    };
    let callees = [FIRST, SECOND, MODULE_FIRST, RETURN0, WARN, UNLOCK];
    let with_thunk = [callees.as_slice(), &[THUNK]].concat();
    match va {
        LABEL5 | LABEL2 => vec![("nop", 0), ("jump", LABEL_TARGET)],
        CALL => [
            to("call", &callees),
            ["nop", "xor", "ud", "mov"].map(|form| (form, 0)).to_vec(),
        ]
        .concat(),
        TAIL | TRAMP | MODULE_TRAMP => [to("jump", &with_thunk), vec![("ret", 0)]].concat(),
        COND => [to("jcc", &with_thunk), vec![("jcc", STATIC_RETURN)]].concat(),
        FTRACE => [to("call", &[CALLER, REGS, COPY]), vec![("nop", 0)]].concat(),
        _ => to("call", &[TRACER, STUB]),
    }
}

#[test]
fn a_trampoline_keeps_the_type_of_where_it_jumped_at_the_seal() {
    for va in [TRAMP, MODULE_TRAMP] {
        let jumps = |to| jump(va, to);
        for (at_seal, next, expected) in [
            (jumps(FIRST), OTHER, Err(Target)),
            (jumps(FIRST), MODULE_OTHER, Err(Target)),
            (jumps(FIRST), FIRST + 4, Err(Target)),
            (jumps(OTHER), SECOND, Err(Target)),
            (jumps(FIRST), SECOND, Ok(())),
            (jumps(FIRST), MODULE_FIRST, Ok(())),
            (jumps(FIRST), THUNK, Ok(())),
            (jumps(OTHER), MODULE_OTHER, Ok(())),
            // Of these the type is not known, so any function will do.
            (jumps(RETURN0), OTHER, Ok(())),
            (jumps(THUNK), OTHER, Ok(())),
            (jumps(THUNK), OTHER + 1, Err(Target)),
            (RET5.into(), OTHER, Ok(())),
            (RET5.into(), OTHER + 4, Err(Target)),
            (RET5.into(), STATIC_RETURN, Err(Target)),
        ] {
            let toy = sealed_trampoline(va, &at_seal);
            // Where it goes by now says nothing.
            for now in [jumps(FIRST), jumps(OTHER), jumps(THUNK), RET5.into()] {
                let verdict = check(&toy, &change(va, &now, &jumps(next)));
                assert_eq!(verdict, expected, "{at_seal:x?} {now:x?} {next:x}");
                assert_eq!(check(&toy, &change(va, &now, &RET5)), Ok(()));
            }
        }
    }
}

#[test]
fn a_call_that_was_empty_at_the_seal_takes_any_function() {
    assert_eq!(judge(EMPTY, &NOP5, &call(EMPTY, OTHER)), Ok(()));
    assert_eq!(judge(EMPTY, &NOP5, &call(EMPTY, OTHER + 4)), Err(Target));
    let blind = Toy::new().without(&[HEKI_AREA_ENDBR]).without_profile();
    let site = change(EMPTY, &NOP5, &call(EMPTY, OTHER));
    assert_eq!(check(&blind, &site), Err(Target));
}

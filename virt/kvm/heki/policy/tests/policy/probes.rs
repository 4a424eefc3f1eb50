// SPDX-License-Identifier: GPL-2.0

//! Breakpoints: where none may be, what may stand there, what may be in a slot.

use heki_abi::*;
use heki_policy::patch::{
    probes::{finish, is_slot, lookup, Probe},
    rules,
    Denied::{self, *},
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::rules::change;
use crate::toy::*;

fn judge(toy: &Toy, va: u64, old: &[u8], new: &[u8]) -> Result<(), Denied> {
    toy.with_env(|env| rules::check(&change(va, old, new), env, toy))
}

/// What is said of `content` for the slot at `va`.
fn fill(toy: &Toy, va: u64, content: &[u8]) -> Result<(), Denied> {
    let mut slot = content.to_vec();
    slot.resize(15, 0xcc);
    judge(toy, va, &toy.peek(va, 15), &slot)
}

/// The probe at `va`, be it in the list or not.
fn find(toy: &Toy, va: u64) -> Option<Probe> {
    toy.with_env(|env| Probe::find(va, env, toy))
}

/// The instruction that loads, as it must be at `va`.
fn load_at(toy: &Toy, va: u64) -> Vec<u8> {
    let code = toy.peek(PROBED_LOAD, 7);
    let distance = i32::from_le_bytes(code[3..].try_into().unwrap());
    let memory = (PROBED_LOAD + 7).wrapping_add_signed(distance.into());
    near(&code[..3], va, memory)
}

const SLOT: u64 = POOL + 15;

#[test]
fn int3_anywhere_else() {
    let toy = Toy::new();
    let all = (TEXT..TEXT + TEXT_LEN).chain(MODULE..MODULE + 0x1000);
    for va in all.filter(|va| !BREAKPOINTS.contains(va)) {
        let old = toy.peek(va, 1);
        assert_eq!(judge(&toy, va, &old, &[0xcc]), Err(Unlisted), "{va:x}");
        assert_eq!(judge(&toy, va, &[0xcc], &old), Err(Unlisted), "{va:x}");
    }
    for va in [POOL, RODATA, COPY, 0, u64::MAX] {
        assert_eq!(judge(&toy, va, &[0xcc], &[0xcc]), Err(Unlisted));
    }
}

#[test]
fn nothing_is_allowed_without_a_list() {
    for toy in [
        Toy::new().without_profile(),
        Toy {
            profile: profile(&functions(), &[(FTRACE - TEXT) as u32], &[], &[]),
            ..Toy::new()
        },
    ] {
        for va in BREAKPOINTS {
            let old = toy.peek(va, 1);
            assert_eq!(judge(&toy, va, &old, &[0xcc]), Err(Unlisted));
            assert_eq!(judge(&toy, va, &old, &old), Err(Unlisted));
        }
        assert_eq!(fill(&toy, SLOT, &toy.peek(PROBED + 4, 3)), Err(Content));
    }
}

#[test]
fn another_byte_than_was_there() {
    let toy = Toy::new();
    for va in BREAKPOINTS {
        let was = toy.peek(va, 1)[0];
        for byte in 0..=255 {
            let expected = if [was, 0xcc].contains(&byte) {
                Ok(())
            } else {
                Err(Form)
            };
            assert_eq!(judge(&toy, va, &[0xcc], &[byte]), expected);
            assert_eq!(judge(&toy, va, &[byte], &[0xcc]), expected);
            assert_eq!(judge(&toy, va, &[was], &[byte]), expected);
        }
    }
}

#[test]
fn places_of_other_rules() {
    let toy = Toy::new();
    for va in [
        FIRST,                       // moves on to the call that ftrace fills
        FTRACE,                      //
        FTRACE + 4,                  //
        LABEL5,                      //
        LABEL2 + 1,                  //
        CALL,                        //
        FROZEN,                      //
        TRAMP,                       //
        CALLER,                      // copied to trampolines
        CALLER + TRACER_CALL as u64, //
        REGS + 1,                    //
        MODULE_FIRST + 9,            // not the kernel's text
        POOL,                        //
        RODATA,                      //
        TEXT,                        // INT3, and before all functions
        PROBED + 5,                  // the middle of an instruction
        PROBED_LOAD + 3,             //
        PROBED + 17,                 // INT3 again
        u64::MAX,                    //
        u64::MAX - 3,                //
    ] {
        assert_eq!(find(&toy, va), None, "{va:x}");
    }
    for va in BREAKPOINTS {
        assert_eq!(find(&toy, va).map(|probe| probe.va()), Some(va));
    }
    // Behind the call, in a function that is traced.
    assert!(find(&toy, FTRACE + 5).is_some());
}

#[test]
fn a_neighbour_of_a_site_in_its_way() {
    // The instruction that loads, and a site that begins in or ends in it.
    for (va, len) in [
        (PROBED_LOAD, 7),
        (PROBED_LOAD + 6, 5),
        (PROBED_LOAD - 4, 5),
        (PROBED_LOAD - 1, 2),
    ] {
        let mut toy = Toy::new();
        let rule = heki_policy::patch::sites::Rule::Frozen;
        toy.sites
            .push(heki_policy::patch::sites::Site { va, len, rule });
        toy.sites.sort_by_key(|site| site.va);
        assert_eq!(find(&toy, PROBED_LOAD), None, "{va:x}");
    }
    for call in [PROBED_LOAD - 4, PROBED_LOAD, PROBED_LOAD + 6] {
        let mut toy = Toy::new();
        toy.profile = profile(&functions(), &[(call - TEXT) as u32], &[], &[]);
        assert_eq!(find(&toy, PROBED_LOAD), None, "{call:x}");
    }
    let mut toy = Toy::new();
    for call in [PROBED_LOAD - 5, PROBED_LOAD + 7] {
        toy.profile = profile(&functions(), &[(call - TEXT) as u32], &[], &[]);
        assert!(find(&toy, PROBED_LOAD).is_some());
    }
}

#[test]
fn code_that_is_not_known() {
    let mut toy = Toy::new();
    // VEX, right there and somewhere before.
    toy.poke(PROBED_JUMP, &[0xc5, 0xf8, 0x77]);
    assert_eq!(find(&toy, PROBED_JUMP), None);
    toy.poke(PROBED + 4, &[0xc5, 0xf8, 0x77]);
    assert_eq!(find(&toy, PROBED_LOAD), None);
    // A breakpoint was there already.
    let mut toy = Toy::new();
    toy.poke(PROBED_LOAD, &[0xcc]);
    assert_eq!(find(&toy, PROBED_LOAD), None);
}

#[test]
fn a_function_that_begins_too_far_away() {
    let mut toy = Toy::new();
    for (distance, found) in [(4096, true), (4097, false)] {
        let va = PROBED + 0x2d00;
        toy.profile = profile(&[(va - distance - TEXT) as u32], &[], &[], &[]);
        for at in va - distance..=va {
            toy.poke(at, &[0x90]);
        }
        assert_eq!(find(&toy, va).is_some(), found);
        toy.profile = profile(&[(va + 1 - TEXT) as u32], &[], &[], &[]);
        assert_eq!(find(&toy, va), None);
    }
}

#[test]
fn slots_of_other_content() {
    let toy = Toy::new();
    let code = toy.peek(PROBED + 4, 3);
    let jump_of = |va: u64, to| [code.clone(), jump(va + 3, to)].concat();
    let next = PROBED_LOAD;
    for content in [
        vec![],
        vec![0x90],
        code[..2].to_vec(),
        [&code[..], &[0x90]].concat(),
        [&code[..], &[0xcc, 0x90]].concat(),
        jump_of(SLOT, next + 1),
        jump_of(SLOT, FIRST),
        jump_of(SLOT + 15, next),
        [&jump_of(SLOT, next)[..], &[0x90]].concat(),
        [&code[..], &[0xeb, 0]].concat(),
        // As it is, so that it would load from elsewhere.
        toy.peek(PROBED_LOAD, 7),
        load_at(&toy, SLOT + 1),
        load_at(&toy, SLOT)[..6].to_vec(),
        // Would go elsewhere.
        toy.peek(PROBED_JUMP, 2),
        // Not in the list.
        toy.peek(FIRST + 9, 2),
    ] {
        assert_eq!(fill(&toy, SLOT, &content), Err(Content), "{content:x?}");
    }
}

#[test]
fn slots_that_are_none() {
    let toy = Toy::new();
    let code = toy.peek(PROBED + 4, 3);
    for va in (POOL..POOL + 4096 - 15).filter(|va| (va - POOL) % 15 != 0) {
        assert_eq!(fill(&toy, va, &code), Err(Unlisted), "{va:x}");
    }
    for page in [TEXT, MODULE, COPY, RODATA] {
        assert_eq!(fill(&toy, page, &code), Err(Unlisted), "{page:x}");
    }
    let whole = change(SLOT, &[0xcc; 15], &[&code[..], &[0xcc; 12]].concat());
    assert_eq!(toy.with_env(|env| rules::check(&whole, env, &toy)), Ok(()));
    for len in [2, 3, 4, 5, 6] {
        let part = Site {
            len,
            old: [0; 16],
            new: [0; 16],
            ..whole
        };
        let denied = toy.with_env(|env| rules::check(&part, env, &toy));
        assert_eq!(denied, Err(Unlisted), "{len}");
    }
    for len in [7, 14, 16, 17] {
        let odd = Site { len, ..whole };
        assert_eq!(toy.with_env(|env| rules::check(&odd, env, &toy)), Err(Form));
    }
    let tail = Site {
        new: {
            let mut new = whole.new;
            new[15] = 1;
            new
        },
        ..whole
    };
    assert_eq!(
        toy.with_env(|env| rules::check(&tail, env, &toy)),
        Err(Form)
    );
}

#[test]
fn what_is_no_slot_is_kept() {
    let toy = Toy::new();
    let slot = |content: &[u8]| [content, &vec![0xcc; 15 - content.len()]].concat();
    let copy = slot(&toy.peek(PROBED + 4, 3));
    let judged = |old: &[u8]| judge(&toy, SLOT, old, &copy);
    assert_eq!(judged(&slot(&[])), Ok(()));
    assert_eq!(judged(&slot(&load_at(&toy, SLOT))), Ok(()));
    // A thunk of ITS, in the middle and at the end, and other code.
    for old in [
        slot(&[0xcc, 0xcc, 0xff, 0xe0, 0xcc]),
        [&[0xcc; 12][..], &[0x41, 0xff, 0xe3]].concat(),
        slot(&[0x90]),
    ] {
        assert_eq!(judged(&old), Err(Content), "{old:x?}");
    }
}

#[test]
fn slots_with_a_copy() {
    let toy = Toy::new();
    for slot in (0..273).map(|index| POOL + 15 * index) {
        assert!(is_slot(slot));
        let code = toy.peek(PROBED + 4, 3);
        assert_eq!(fill(&toy, slot, &code), Ok(()));
        let boosted = [code, jump(slot + 3, PROBED_LOAD)].concat();
        assert_eq!(fill(&toy, slot, &boosted), Ok(()));
        let load = load_at(&toy, slot);
        assert_eq!(fill(&toy, slot, &load), Ok(()));
        let boosted = [load, jump(slot + 7, PROBED_JUMP)].concat();
        assert_eq!(fill(&toy, slot, &boosted), Ok(()));
    }
    assert!(!is_slot(POOL + 273 * 15));
}

#[test]
fn a_slot_too_far_from_its_memory() {
    let toy = Toy::new();
    let probe = find(&toy, PROBED_LOAD).unwrap();
    let code: [u8; 15] = toy.peek(PROBED_LOAD, 15).try_into().unwrap();
    for va in [0, 15, 1 << 40, u64::MAX - 14, u64::MAX] {
        assert!(!probe.is_copy(va, &code));
        let mut cut = code;
        cut[7..].fill(0xcc);
        assert!(!probe.is_copy(va, &cut));
    }
}

#[test]
fn probes_are_brought_into_order() {
    let toy = Toy::new();
    let at = |va| find(&toy, va).unwrap();
    let mut probes = [PROBED_JUMP, PROBED, PROBED_LOAD, PROBED + 4, PROBED_JUMP].map(at);
    let used = finish(&mut probes);
    let vas: Vec<u64> = probes[..used].iter().map(|probe| probe.va()).collect();
    assert_eq!(vas, BREAKPOINTS);
    for va in BREAKPOINTS {
        assert_eq!(
            lookup(&probes[..used], va).map(|probe| probe.va()),
            Some(va)
        );
        assert_eq!(lookup(&probes[..used], va + 1), None);
    }
    assert_eq!(finish(&mut []), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Whatever a slot is to hold, one changed byte of a good one included: `changes` says what may be.
    #[test]
    fn any_slot(index in 0..300u64, load: bool, boost: bool, spoil in 0..16usize, byte: u8) {
        let toy = Toy::new();
        let va = POOL + 15 * index;
        let code = if load { load_at(&toy, va) } else { toy.peek(PROBED + 4, 3) };
        let (end, next) = (va + code.len() as u64, if load { PROBED_JUMP } else { PROBED_LOAD });
        let mut slot = if boost { [code, jump(end, next)].concat() } else { code };
        slot.resize(15, 0xcc);
        let good = slot.clone();
        if let Some(spoilt) = slot.get_mut(spoil) {
            *spoilt = byte;
        }
        let site = change(va, &[0xcc; 15], &slot);
        let request = [&2u32.to_le_bytes()[..], &1u32.to_le_bytes(), site.as_bytes()].concat();
        let verdicts = crate::changes::patch(&request, &toy).unwrap();
        prop_assert_eq!(verdicts[0].is_ok(), slot == good && index < 273);
    }
}

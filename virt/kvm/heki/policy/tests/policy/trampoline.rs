// SPDX-License-Identifier: GPL-2.0

//! Pages that are to run: forged trampolines first, then copies as Linux makes them.

use heki_abi::*;
use heki_policy::patch::trampoline;
use proptest::prelude::*;

use crate::changes;
use crate::toy::*;

/// What the rules say of `page` at `va`.
fn kind(toy: &Toy, va: u64, page: &[u8]) -> Option<u32> {
    let page = page.try_into().expect("a page");
    toy.with_env(|env| trampoline::check_page(va, page, env, toy))
        .ok()
}

/// A copy of the template that saves registers, which calls `tracer`, with `ret` behind it.
fn regs(toy: &Toy, va: u64, tracer: u64, ret: &[u8]) -> Vec<u8> {
    let mut page = toy.peek(REGS, REGS_LEN);
    let at = |offset: usize| va + offset as u64;
    let ops = REGS_LEN + ret.len();
    let load = near(&[0x48, 0x8b, 0x15], at(REGS_LOAD), at(ops));
    page[REGS_LOAD..REGS_LOAD + 7].copy_from_slice(&load);
    let tracer = call(at(REGS_TRACER_CALL), tracer);
    page[REGS_TRACER_CALL..REGS_TRACER_CALL + 5].copy_from_slice(&tracer);
    let count = near(&[0x65, 0x48, 0xc1, 0x3d], at(28), TEXT + 0x70_0000);
    page[28..36].copy_from_slice(&count);
    page[REGS_JNZ..REGS_JNZ + 2].copy_from_slice(&NOP2);
    page.extend_from_slice(ret);
    page.extend_from_slice(&(TEXT + 0x60_0000).to_le_bytes());
    page.resize(4096, 0xcc);
    page
}

/// Where the eight bytes of the `ftrace_ops` lie in a plain copy.
const OPS: usize = CALLER_LEN + 5;

#[test]
fn one_other_byte_anywhere() {
    let toy = Toy::new();
    let good = trampoline(&toy, COPY, TRACER);
    assert_eq!(kind(&toy, COPY, &good), Some(HEKI_KIND_FTRACE));
    for at in 0..4096 {
        // The address of the ftrace_ops is the guest's.
        if (OPS..OPS + 7).contains(&at) {
            continue;
        }
        for flip in [1, 0x80, 0xff] {
            let mut page = good.clone();
            page[at] ^= flip;
            assert_eq!(kind(&toy, COPY, &page), None, "byte {at:#x}");
        }
    }
}

#[test]
fn one_other_byte_in_an_empty_page() {
    let toy = Toy::new();
    let empty = vec![0xcc; 4096];
    assert_eq!(kind(&toy, POOL, &empty), Some(HEKI_KIND_POOL));
    for at in [0, 1, 2047, 4095] {
        let mut page = empty.clone();
        page[at] = 0xc3;
        assert_eq!(kind(&toy, POOL, &page), None);
    }
    assert_eq!(kind(&toy, POOL, &[0; 4096]), None);
}

#[test]
fn a_foreign_tracer() {
    let toy = Toy::new();
    for tracer in [
        FIRST,
        TRACER + 1,
        TRACER - 16,
        COPY,
        CALLER,
        RODATA,
        THUNK,
        0,
    ] {
        let page = trampoline(&toy, COPY, tracer);
        assert_eq!(kind(&toy, COPY, &page), None, "{tracer:x}");
        let page = regs(&toy, COPY, tracer, &jump(COPY + REGS_LEN as u64, THUNK));
        assert_eq!(kind(&toy, COPY, &page), None, "{tracer:x}");
    }
}

#[test]
fn made_for_another_address() {
    let toy = Toy::new();
    let page = trampoline(&toy, COPY, TRACER);
    for va in [COPY + 0x1000, COPY - 0x1000, POOL, 0, !0xfff] {
        assert_eq!(kind(&toy, va, &page), None, "{va:x}");
    }
    let far = trampoline(&toy, 1 << 40, TRACER);
    assert_eq!(kind(&toy, 1 << 40, &far), None, "out of reach");
}

#[test]
fn odd_returns() {
    let toy = Toy::new();
    let at = COPY + REGS_LEN as u64;
    for ret in [
        vec![],
        vec![0xcc],
        vec![0xc3, 0x90],
        vec![0xc3, 0xcc, 0xcc],
        vec![0xc3, 0xcc, 0xcc, 0xcc],
        vec![0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc],
        vec![0xc2, 0, 0, 0xcc, 0xcc],
        jump(at, FIRST),
        jump(at, STATIC_RETURN),
        call(at, THUNK),
        NOP5.to_vec(),
    ] {
        let page = regs(&toy, COPY, TRACER, &ret);
        assert_eq!(kind(&toy, COPY, &page), None, "{ret:x?}");
    }
    let thunk = regs(&toy, COPY, TRACER, &jump(at, THUNK));
    assert_eq!(kind(&toy, COPY, &thunk), Some(HEKI_KIND_FTRACE));
    let none = Toy::new().without(&[HEKI_AREA_RETURN_THUNK]);
    assert_eq!(kind(&none, COPY, &thunk), None);
}

#[test]
fn code_instead_of_an_address() {
    let toy = Toy::new();
    let good = trampoline(&toy, COPY, TRACER);
    for ops in [
        0,
        8,
        0x7fff_ffff_ffff,
        0xfeff_ffff_ffff_fff8,
        TEXT + 1,
        u64::MAX,
    ] {
        let mut page = good.clone();
        page[OPS..OPS + 8].copy_from_slice(&ops.to_le_bytes());
        assert_eq!(kind(&toy, COPY, &page), None, "{ops:x}");
    }
    for ops in [
        TEXT,
        0xff11_0000_0000_0000,
        0xffff_8880_0000_1000,
        MODULE + 8,
    ] {
        let mut page = good.clone();
        page[OPS..OPS + 8].copy_from_slice(&ops.to_le_bytes());
        assert_eq!(kind(&toy, COPY, &page), Some(HEKI_KIND_FTRACE), "{ops:x}");
    }
}

#[test]
fn templates_that_are_none() {
    let good = trampoline(&Toy::new(), COPY, TRACER);
    for missing in [
        HEKI_AREA_FTRACE_CALLER,
        HEKI_AREA_FTRACE_CALL,
        HEKI_AREA_FTRACE_OP_PTR,
    ] {
        assert_eq!(kind(&Toy::new().without(&[missing]), COPY, &good), None);
    }
    for (kind_of_area, va, len) in [
        (HEKI_AREA_FTRACE_CALLER, CALLER, 4096),
        (HEKI_AREA_FTRACE_CALLER, CALLER, u64::MAX),
        (HEKI_AREA_FTRACE_CALLER, CALLER + 1, CALLER_LEN as u64),
        (HEKI_AREA_FTRACE_CALLER, CALLER, TRACER_CALL as u64 + 4),
        (HEKI_AREA_FTRACE_CALLER, RODATA + 0x1000, CALLER_LEN as u64),
        (HEKI_AREA_FTRACE_CALL, CALLER + 1, 0),
        (HEKI_AREA_FTRACE_CALL, CALLER - 1, 0),
        (HEKI_AREA_FTRACE_OP_PTR, CALLER + CALLER_LEN as u64 - 6, 0),
        (HEKI_AREA_FTRACE_OP_PTR, CALLER, 0),
    ] {
        let mut toy = Toy::new().without(&[kind_of_area]);
        toy.areas.push(Area {
            kind: kind_of_area,
            reserved: 0,
            va,
            len,
        });
        assert_eq!(
            kind(&toy, COPY, &good),
            None,
            "{kind_of_area} {va:x} {len:x}"
        );
    }
    let toy = Toy::new();
    let regs = regs(&toy, COPY, TRACER, &[0xc3, 0xcc]);
    assert_eq!(
        kind(
            &toy.clone().without(&[HEKI_AREA_FTRACE_REGS_JMP]),
            COPY,
            &regs
        ),
        None
    );
    let mut long_jnz = toy;
    long_jnz.poke(REGS + REGS_JNZ as u64, &[0x0f, 0x85]);
    assert_eq!(kind(&long_jnz, COPY, &regs), None);
}

/// Else the guest could say where in the template four bytes are its own.
#[test]
fn a_load_that_is_none() {
    let toy = Toy::new();
    let mut page = trampoline(&toy, COPY, TRACER);
    page[LOAD..LOAD + 7].copy_from_slice(&toy.peek(CALLER + LOAD as u64, 7));
    page[CALLER_LEN - 4..CALLER_LEN].copy_from_slice(&5u32.to_le_bytes());
    let at = |offset: usize| Area {
        kind: HEKI_AREA_FTRACE_OP_PTR,
        reserved: 0,
        va: CALLER + offset as u64,
        len: 0,
    };
    let mut toy = toy.without(&[HEKI_AREA_FTRACE_OP_PTR]);
    toy.areas.push(at(CALLER_LEN - 7));
    assert_eq!(kind(&toy, COPY, &page), None);
    toy.poke(CALLER + CALLER_LEN as u64 - 7, &[0x48, 0x8b, 0x15]);
    page[CALLER_LEN - 7..CALLER_LEN - 4].copy_from_slice(&[0x48, 0x8b, 0x15]);
    assert_eq!(kind(&toy, COPY, &page), Some(HEKI_KIND_FTRACE));
}

#[test]
fn the_jnz_does_not_stay() {
    let toy = Toy::new();
    let mut page = regs(&toy, COPY, TRACER, &[0xc3, 0xcc]);
    page[REGS_JNZ..REGS_JNZ + 2].copy_from_slice(&[0x75, 0x30]);
    assert_eq!(kind(&toy, COPY, &page), None);
}

#[test]
fn copies_as_linux_makes_them() {
    let toy = Toy::new();
    for va in [COPY, POOL, MODULE + 0x1000_0000, TEXT + 0x100_0000] {
        for tracer in [TRACER, STUB] {
            let page = trampoline(&toy, va, tracer);
            assert_eq!(kind(&toy, va, &page), Some(HEKI_KIND_FTRACE), "{va:x}");
            for ret in [
                jump(va + REGS_LEN as u64, THUNK),
                RET5.to_vec(),
                vec![0xc3, 0xcc],
                vec![0xc3],
            ] {
                let page = regs(&toy, va, tracer, &ret);
                assert_eq!(kind(&toy, va, &page), Some(HEKI_KIND_FTRACE), "{ret:x?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_page(bytes in proptest::collection::vec(any::<u8>(), 0..256), va: u64) {
        let toy = Toy::new();
        let _ = changes::page(&bytes, va, &toy);
        let _ = changes::page(&bytes, va & !0xfff, &toy);
    }

    #[test]
    fn a_spoilt_copy(spoilt in proptest::collection::vec((0..OPS, any::<u8>()), 1..4)) {
        let toy = Toy::new();
        let good = trampoline(&toy, COPY, TRACER);
        let mut page = good.clone();
        for (at, byte) in spoilt {
            page[at] = byte;
        }
        // One byte of the call may make it another function of the type of tracers.
        let legal = page == good || page == trampoline(&toy, COPY, STUB);
        prop_assert_eq!(changes::page(&page, COPY, &toy).is_some(), legal);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Thunks for indirect branches: pages as Linux lays them out, and what is nearly one.

use heki_abi::{Area, HEKI_AREA_ITS, HEKI_KIND_POOL};
use heki_policy::patch::{its::is_thunks, trampoline::check_page, Denied};
use proptest::prelude::*;

use crate::toy::{Toy, POOL};

const PAGE: usize = 4096;
const INT3: u8 = 0xcc;

/// The code of a thunk to register `reg`, behind a check of FineIBT if `paranoid`.
fn thunk(reg: u8, paranoid: bool) -> Vec<u8> {
    let mut code = Vec::new();
    if paranoid {
        code.extend([0xd6, 0x75, 0xfd]);
    }
    if reg >= 8 {
        code.push(0x41);
    }
    code.extend([0xff, 0xe0 + reg % 8, INT3]);
    code
}

/// A page with these thunks, placed as its_allocate_thunk() does; those without room are left out.
fn page(regs: &[u8], paranoid: bool) -> Vec<u8> {
    let mut page = vec![INT3; PAGE];
    let mut at = 32;
    for &reg in regs {
        let code = thunk(reg, paranoid);
        if (at + code.len() - 1) % 64 < 32 {
            at = ((at - 1) | 0x3f) + 33;
        }
        if at + code.len() > PAGE {
            break;
        }
        page[at..at + code.len()].copy_from_slice(&code);
        at += code.len();
    }
    page
}

#[test]
fn thunks_need_the_guest_to_have_them() {
    let page: [u8; PAGE] = page(&[0, 11], false).try_into().unwrap();
    let mut toy = Toy::new();
    let check = |toy: &Toy| toy.with_env(|env| check_page(POOL, &page, env, toy));
    assert_eq!(check(&toy), Err(Denied::Content));
    toy.areas.push(Area {
        kind: HEKI_AREA_ITS,
        reserved: 0,
        va: 0x1000,
        len: 0,
    });
    assert_eq!(check(&toy), Ok(HEKI_KIND_POOL));
}

#[test]
fn nothing_but_thunks() {
    let with = |at: usize, code: &[u8]| {
        let mut page = page(&[3], false);
        page[at..at + code.len()].copy_from_slice(code);
        is_thunks(&page)
    };
    assert!(with(96, &thunk(7, true)));
    // In the lower half of a line, or out of it.
    assert!(!with(64, &thunk(7, false)));
    assert!(!with(127, &thunk(7, false)));
    // A call, a jump through memory, no INT3 behind, a bare check, other code, the page's end.
    for code in [
        &[0xff, 0xd0, INT3][..],
        &[0xff, 0x20, INT3],
        &[0xff, 0xe0, 0x90],
        &[0xd6, 0x75, 0xfd, INT3],
        &[0xd6, 0x75, 0xfc, 0xff, 0xe0, INT3],
        &[0x48, 0xff, 0xe0, INT3],
        &[0xc3],
    ] {
        assert!(!with(96, code), "{code:x?}");
    }
    assert!(!with(PAGE - 2, &[0xff, 0xe0]));
}

proptest! {
    #[test]
    fn every_page_of_linux_passes(regs in prop::collection::vec(0u8..16, 0..800), paranoid: bool) {
        prop_assert!(is_thunks(&page(&regs, paranoid)));
    }

    #[test]
    fn a_changed_byte_leaves_thunks_or_fails(
        regs in prop::collection::vec(0u8..16, 1..200),
        at in 0..PAGE,
        byte: u8,
    ) {
        let mut page = page(&regs, false);
        page[at] = byte;
        if is_thunks(&page) {
            // Whatever runs from anywhere ends in a jump to a register or in INT3.
            let code: Vec<u8> = page.iter().copied().filter(|&byte| byte != INT3).collect();
            prop_assert!(code.iter().all(|byte| matches!(byte, 0x41 | 0xff | 0xe0..=0xe7)));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = is_thunks(&bytes);
    }
}

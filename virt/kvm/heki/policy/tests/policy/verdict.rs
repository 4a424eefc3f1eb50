// SPDX-License-Identifier: GPL-2.0

//! Verdicts: every kind of access to every kind of page.

use heki_policy::map::{Map, Region};
use heki_policy::patch::Denied;
use heki_policy::rights::Rights;
use heki_policy::verdict::{
    judge,
    Access::{self, Fetch, Patch, Register, Write},
    Reason::{self, NotExecutable, PageWalk, Pinned, Sealed},
    Verdict, Victim,
};

/// Frames 0 to 3 have the rights NONE, WRITE, EXEC and ALL.
fn regions() -> Vec<Region> {
    [Rights::NONE, Rights::WRITE, Rights::EXEC, Rights::ALL]
        .into_iter()
        .zip(0..)
        .map(|(rights, gfn)| Region {
            start: gfn,
            end: gfn + 1,
            va: 0,
            rights,
            kind: 0,
        })
        .collect()
}

/// The verdict that is due, found by cases.
fn due(held: u64, wanted: Rights, supervisor: bool, page_walk: bool) -> Option<(Access, Reason)> {
    let (can_write, can_run) = (held == 1 || held == 3, held == 2 || held == 3);
    match (wanted.write() && !can_write, page_walk) {
        (true, true) => return Some((Write, PageWalk)),
        (true, false) => return Some((Write, Sealed)),
        (false, true) => return None,
        (false, false) => {}
    }
    (wanted.exec() && supervisor && !can_run).then_some((Fetch, NotExecutable))
}

#[test]
fn every_access_to_every_page() {
    let regions = regions();
    let map = Map::new(&regions, Rights::WRITE).unwrap();
    for gfn in 0..4 {
        for wanted in [Rights::NONE, Rights::WRITE, Rights::EXEC, Rights::ALL] {
            for (supervisor, page_walk) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let expected = due(gfn, wanted, supervisor, page_walk)
                    .map(|(access, reason)| Verdict::frame(gfn, access, reason));
                assert_eq!(
                    judge(&map, gfn, wanted, supervisor, page_walk),
                    expected,
                    "frame {gfn}, {wanted:?}, supervisor {supervisor}, walk {page_walk}"
                );
            }
        }
    }
}

#[test]
fn unlisted_memory_is_not_run_in_supervisor_mode() {
    let map = Map::new(&[], Rights::WRITE).unwrap();
    let denied = judge(&map, 77, Rights::EXEC, true, false).unwrap();
    assert_eq!(denied.victim, Victim::Gfn(77));
    assert_eq!((denied.access, denied.reason), (Fetch, NotExecutable));
    assert_eq!(judge(&map, 77, Rights::EXEC, false, false), None);
    assert_eq!(judge(&map, 77, Rights::WRITE, true, false), None);
}

#[test]
fn a_pin_names_its_register_and_bits() {
    let denied = Verdict::pinned(4, 0, 1 << 20, 0x6f0);
    let victim = Victim::Register {
        reg: 4,
        index: 0,
        bits: 1 << 20,
        value: 0x6f0,
    };
    assert_eq!(denied.victim, victim);
    assert_eq!((denied.access, denied.reason), (Register, Pinned));
}

#[test]
fn a_patch_names_its_address_and_rule() {
    let denied = Verdict::patch(0x1234, Denied::Frozen);
    assert_eq!(denied.victim, Victim::Text(0x1234));
    assert_eq!((denied.access, denied.reason.as_str()), (Patch, "frozen"));
}

#[test]
fn names_are_stable() {
    let accesses = [Write, Fetch, Register, Patch].map(Access::as_str);
    assert_eq!(accesses, ["write", "fetch", "register", "patch"]);
    let reasons = [Sealed, NotExecutable, PageWalk, Pinned].map(Reason::as_str);
    assert_eq!(reasons, ["sealed", "not_executable", "page_walk", "pinned"]);
}

// SPDX-License-Identifier: GPL-2.0

//! The PATCH request: its form, then what holds for any of them.

use heki_abi::{Patch, Site, HEKI_ABI_VERSION, HEKI_MAX_PATCHES};
use heki_policy::patch;
use heki_policy::refusal::Refusal::*;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::changes;
use crate::rules::change;
use crate::toy::{
    call, jump, Toy, CALL, EMPTY, FIRST, FTRACE, LABEL2, LABEL5, MODULE_TRAMP, NOP5, SECOND, TAIL,
    TEXT, TRAMP, TRAMP_UD,
};

pub(crate) fn request(sites: &[Site]) -> Vec<u8> {
    let header = Patch {
        version: HEKI_ABI_VERSION,
        nr_sites: sites.len() as u32,
    };
    [header.as_bytes(), sites.as_bytes()].concat()
}

/// A site of `len` bytes at `va`, whatever it changes.
fn extent(va: u64, len: u64) -> Site {
    Site {
        va,
        len,
        old: [0x90; 16],
        new: [0xc3; 16],
    }
}

#[test]
fn requests_that_are_none() {
    let largest = HEKI_MAX_PATCHES as usize;
    let sites: Vec<Site> = (0..=largest as u64).map(|n| extent(5 * n, 5)).collect();
    assert_eq!(patch::parse(&request(&[])).err(), Some(Empty));
    assert_eq!(patch::parse(&request(&sites)).err(), Some(TooBig));
    assert_eq!(
        patch::parse(&request(&sites[..largest])).unwrap().len(),
        largest
    );

    let good = request(&sites[..3]);
    for len in 0..good.len() {
        assert_eq!(patch::parse(&good[..len]).err(), Some(BadLength), "{len}");
    }
    assert_eq!(
        patch::parse(&[good.clone(), vec![0]].concat()).err(),
        Some(BadLength)
    );
    for (at, refusal) in [
        (0, BadVersion),
        (3, BadVersion),
        (4, BadLength),
        (7, TooBig),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(patch::parse(&bad).err(), Some(refusal), "byte {at}");
    }
}

#[test]
fn sites_that_share_a_byte_or_do_not_ascend() {
    let good = extent(100, 5);
    for bad in [
        good,
        extent(104, 1),
        extent(103, 6),
        extent(100, 6),
        extent(98, 2),
        extent(95, 5),
        extent(99, 0),
        extent(0, u64::MAX),
    ] {
        let next = extent(200, 5);
        assert_eq!(patch::parse(&request(&[good, bad])).err(), Some(Overlap));
        for sites in [[good, bad, next], [extent(0, 5), good, bad]] {
            assert_eq!(patch::parse(&request(&sites)).err(), Some(Overlap));
            assert_eq!(changes::patch(&request(&sites), &Toy::new()), Err(Overlap));
        }
    }
    // Lengths are for the rules, but no length makes an order.
    for (left, right) in [
        (extent(100, u64::MAX), good),
        (extent(100, u64::MAX - 100), extent(101, 5)),
        (extent(u64::MAX, 1), extent(u64::MAX, 1)),
        (extent(u64::MAX - 4, 5), extent(u64::MAX, 1)),
        (extent(u64::MAX - 4, 5), extent(0, 5)),
    ] {
        let sites = request(&[left, right]);
        assert_eq!(patch::parse(&sites).err(), Some(Overlap), "{left:x?}");
    }
    for sites in [
        [good, extent(105, 5)],
        [extent(95, 5), good],
        [extent(u64::MAX - 5, 5), extent(u64::MAX, 5)],
    ] {
        let bytes = request(&sites);
        let parsed = patch::parse(&bytes).unwrap();
        assert_eq!(
            parsed.iter().map(|site| site.get().va).collect::<Vec<_>>(),
            sites.map(|s| s.va)
        );
    }
}

#[test]
fn instructions_are_as_long_as_their_site() {
    let site = Site {
        old: std::array::from_fn(|at| at as u8),
        new: std::array::from_fn(|at| at as u8 + 16),
        ..extent(100, 5)
    };
    for len in [17, 255, 1 << 32, u64::MAX] {
        let empty: (&[u8], &[u8]) = (&[], &[]);
        assert_eq!(patch::instructions(&Site { len, ..site }), empty, "{len}");
    }
    for len in 0..=16 {
        let (old, new) = (&site.old[..len], &site.new[..len]);
        let len = len as u64;
        assert_eq!(patch::instructions(&Site { len, ..site }), (old, new));
    }
}

#[test]
fn every_site_is_judged() {
    let toy = Toy::new();
    let good = change(CALL, &call(CALL, FIRST), &call(CALL, SECOND));
    let bad = change(TAIL, &jump(TAIL, FIRST), &jump(TAIL, SECOND + 1));
    let last = change(EMPTY, &NOP5, &call(EMPTY, SECOND));
    let verdicts = changes::patch(&request(&[good, bad, last]), &toy).unwrap();
    assert_eq!(verdicts, [Ok(()), Err(patch::Denied::Target), Ok(())]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn any_sites(
        raw in proptest::collection::vec((any_va(), 0..17u64, any_insn(), any_insn()), 0..4),
        sorted in prop::bool::weighted(0.8),
        spoil in proptest::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let toy = Toy::new();
        let mut sites: Vec<Site> = raw
            .into_iter()
            .map(|(va, len, old, new)| Site { va, len, old, new })
            .collect();
        if sorted {
            sites.sort_by_key(|site| site.va);
        }
        let mut bytes = request(&sites);
        if let Some((at, flip)) = spoil {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = changes::patch(&bytes, &toy);
    }

    /// Sites that change are mostly far enough from each other, so that the others are judged as well.
    #[test]
    fn good_sites_in_any_order(order in Just(good_sites()).prop_shuffle(), len in 1..=5usize) {
        let toy = Toy::new();
        let sites = &order[..len];
        let ascending = sites.is_sorted_by(|left, right| left.va < right.va);
        let expected = if ascending { Ok(vec![Ok(()); len]) } else { Err(Overlap) };
        prop_assert_eq!(changes::patch(&request(sites), &toy), expected);
    }

    #[test]
    fn any_trampolines(entries in proptest::collection::vec((any_insn(), 0..8u8, any::<u8>()), 0..40)) {
        let mut bytes = vec![];
        for (insn, form, filler) in entries {
            let va = TRAMP + bytes.len() as u64;
            match form {
                0 => bytes.extend(vec![filler; usize::from(filler % 8)]),
                1 => bytes.extend([jump(va, FIRST), TRAMP_UD.into()].concat()),
                2 => bytes.extend([jump(va, SECOND), TRAMP_UD.into()].concat()),
                _ => bytes.extend([&insn[..5], &TRAMP_UD].concat()),
            }
        }
        changes::trampolines(&bytes, &Toy::new());
    }
}

pub(crate) fn good_sites() -> Vec<Site> {
    vec![
        change(LABEL5, &NOP5, &NOP5),
        change(CALL, &NOP5, &call(CALL, SECOND)),
        change(TAIL, &jump(TAIL, FIRST), &jump(TAIL, SECOND)),
        change(TRAMP, &jump(TRAMP, FIRST), &jump(TRAMP, SECOND)),
        change(FTRACE, &NOP5, &NOP5),
        change(
            MODULE_TRAMP,
            &jump(MODULE_TRAMP, FIRST),
            &jump(MODULE_TRAMP, SECOND),
        ),
    ]
}

fn any_va() -> impl Strategy<Value = u64> {
    let near = (0..8u64).prop_map(|n| LABEL2 - 4 + n);
    prop_oneof![
        Just(LABEL5),
        Just(CALL),
        near,
        TEXT..TEXT + 0x9000,
        any::<u64>()
    ]
}

/// Bytes that are often an instruction.
fn any_insn() -> impl Strategy<Value = [u8; 16]> {
    let known = prop_oneof![
        Just(NOP5.to_vec()),
        Just(vec![0x66, 0x90]),
        Just(call(CALL, SECOND)),
        any::<[u8; 6]>().prop_map(Vec::from),
        any::<[u8; 16]>().prop_map(Vec::from),
    ];
    known.prop_map(|bytes| {
        let mut padded = [0; 16];
        padded[..bytes.len()].copy_from_slice(&bytes);
        padded
    })
}

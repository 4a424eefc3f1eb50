// SPDX-License-Identifier: GPL-2.0

//! The profile: what contradicts itself, what is not this kernel's, then its answers.

use heki_policy::patch::profile::Profile;
use heki_policy::refusal::Refusal::{self, *};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::changes;
use crate::toy::{profile, BASE, TEXT, TEXT_LEN};

const FUNCTIONS: [u32; 3] = [0, 0x100, 0x7fff];
const CALLS: [u32; 2] = [4, 0x7ffb];
const FROZEN: [u32; 2] = [0x60_0000, 0x60_0010];
const PROBES: [u32; 3] = [0, 0x108, 0x7fff];

pub(crate) fn good() -> Vec<u8> {
    profile(&FUNCTIONS, &CALLS, &FROZEN, &PROBES)
}

fn refusal(bytes: &[u8]) -> Option<Refusal> {
    changes::profile(bytes).err()
}

/// What the good profile is refused for with its header changed.
fn spoilt(spoil: impl FnOnce(&mut heki_abi::Profile)) -> Option<Refusal> {
    let mut bytes = good();
    let (mut header, _) = heki_abi::Profile::read_from_prefix(&bytes).unwrap();
    spoil(&mut header);
    bytes[..80].copy_from_slice(header.as_bytes());
    refusal(&bytes)
}

#[test]
fn a_header_that_contradicts_itself() {
    assert_eq!(spoilt(|_| {}), None);
    assert_eq!(spoilt(|p| p.version = 1), Some(BadVersion));
    assert_eq!(spoilt(|p| p.version = u32::MAX), Some(BadVersion));
    assert_eq!(spoilt(|p| p.nr_functions += 1), Some(BadLength));
    assert_eq!(spoilt(|p| p.nr_calls -= 1), Some(BadLength));
    assert_eq!(spoilt(|p| p.nr_frozen = 0), Some(BadLength));
    assert_eq!(spoilt(|p| p.nr_functions = 262_145), Some(TooBig));
    assert_eq!(spoilt(|p| p.nr_calls = u32::MAX), Some(TooBig));
    assert_eq!(spoilt(|p| p.nr_frozen = 262_145), Some(TooBig));
    assert_eq!(spoilt(|p| p.nr_probes -= 1), Some(BadLength));
    assert_eq!(spoilt(|p| p.nr_probes = 1025), Some(TooBig));
    assert_eq!(spoilt(|p| p.reserved = 1), Some(BadProfile));
    assert_eq!(spoilt(|p| p.base = 0), Some(BadProfile));
    assert_eq!(spoilt(|p| p.base = !0xfff), Some(BadProfile));
    assert_eq!(
        spoilt(|p| p.base = 0u64.wrapping_sub(0x60_000f)),
        Some(BadProfile)
    );
    assert_eq!(spoilt(|p| p.text_len = 0), Some(BadProfile));
    assert_eq!(spoilt(|p| p.text_len += 1), Some(BadProfile));
    assert_eq!(spoilt(|p| p.text_len = 0x7000), Some(BadProfile));
    assert_eq!(spoilt(|p| p.text_len = !0xfff), Some(BadProfile));
    assert_eq!(spoilt(|p| p.build_id_len = 33), Some(BadProfile));
    assert_eq!(spoilt(|p| p.build_id_len = u32::MAX), Some(BadProfile));
    assert_eq!(spoilt(|p| p.build_id_len = 2), Some(BadProfile));
    assert_eq!(spoilt(|p| p.build_id[31] = 1), Some(BadProfile));
    let far_id = |p: &mut heki_abi::Profile| {
        p.base = 0u64.wrapping_sub(0x1000_0000);
        p.build_id_offset = 0x1000_0000;
    };
    assert_eq!(spoilt(far_id), Some(BadProfile));
}

#[test]
fn entries_out_of_place_or_order() {
    for (functions, calls, frozen) in [
        (&[0x8000][..], &[][..], &[][..]),
        (&[5, 5], &[], &[]),
        (&[5, 4], &[], &[]),
        (&[0, 9, 8, 10], &[], &[]),
        (&[], &[0x7ffc], &[]),
        (&[], &[u32::MAX], &[]),
        (&[], &[7, 7], &[]),
        (&[], &[], &[7, 7]),
        (&[], &[], &[7, 6]),
        (&[], &[], &[u32::MAX]),
    ] {
        let bytes = profile(functions, calls, frozen, &[]);
        assert_eq!(
            refusal(&bytes),
            Some(BadProfile),
            "{functions:x?} {calls:x?} {frozen:x?}"
        );
    }
    for probes in [&[0x8000][..], &[5, 5], &[5, 4], &[u32::MAX]] {
        let bytes = profile(&[], &[], &[], probes);
        assert_eq!(refusal(&bytes), Some(BadProfile), "{probes:x?}");
    }
    assert_eq!(refusal(&profile(&[], &[], &[], &[])), None);
}

#[test]
fn every_other_length_is_refused() {
    let bytes = good();
    for len in 0..bytes.len() {
        assert_eq!(refusal(&bytes[..len]), Some(BadLength), "{len}");
    }
    for extra in 1..16 {
        let longer = [bytes.clone(), vec![0; extra]].concat();
        assert_eq!(refusal(&longer), Some(BadLength));
    }
}

#[test]
fn another_kernel() {
    let bytes = good();
    let profile = Profile::parse(&bytes).ok().unwrap();
    for (va, len, id) in [
        (TEXT + 0x1000, TEXT_LEN, &b"toy"[..]),
        (TEXT + 0x10_0000, TEXT_LEN, b"toy"),
        (TEXT, TEXT_LEN + 0x1000, b"toy"),
        (TEXT, TEXT_LEN - 0x1000, b"toy"),
        (TEXT, TEXT_LEN, b"top"),
        (TEXT, TEXT_LEN, b"toys"),
        (TEXT, TEXT_LEN, b"to"),
        (TEXT, TEXT_LEN, b""),
    ] {
        assert_eq!(
            profile.matches(va, len, id).err(),
            Some(WrongKernel),
            "{va:x} {len:x}"
        );
    }
    for slide in [0, 2 << 20, 512 << 20, (-(2i64 << 20)) as u64] {
        let va = BASE.wrapping_add(slide);
        assert!(profile.matches(va, TEXT_LEN, b"toy").is_ok());
    }
    assert_eq!(profile.build_id_at(TEXT), (TEXT + 0x40_0000, 3));
}

#[test]
fn the_answers_move_with_the_kernel() {
    let bytes = good();
    for text in [BASE, TEXT] {
        let placed = Profile::assume_checked(&bytes).at(text);
        assert!(placed.is_function(text) && placed.is_function(text + 0x100));
        assert!(!placed.is_function(text + 0x101) && !placed.is_function(text - 0x100));
        assert!(placed.is_call(text + 4) && !placed.is_call(text));
        assert!(placed.is_frozen(text + 0x60_0010) && !placed.is_frozen(text + 4));
        assert!(placed.frozen().all(|va| placed.is_frozen(va)) && placed.frozen().len() != 0);
        let far = text.wrapping_add(1 << 32);
        assert!(!placed.is_function(far) && !placed.is_function(far + 0x100));
    }
    assert!(!Profile::assume_checked(&bytes).at(TEXT).is_function(BASE));
}

#[test]
fn a_profile_may_lie_at_any_address() {
    for shift in 0..8 {
        let moved = [vec![0; shift], good()].concat();
        assert_eq!(refusal(&moved[shift..]), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_entries(
        functions in proptest::collection::btree_set(0..0x8010u32, 0..40),
        calls in proptest::collection::vec(0..0x8000u32, 0..3),
        frozen in proptest::collection::btree_set(any::<u32>(), 0..3),
        probes in proptest::collection::btree_set(0..0x8010u32, 0..5),
    ) {
        let functions: Vec<u32> = functions.into_iter().collect();
        let frozen: Vec<u32> = frozen.into_iter().collect();
        let probes: Vec<u32> = probes.into_iter().collect();
        let _ = changes::profile(&profile(&functions, &calls, &frozen, &probes));
    }

    #[test]
    fn a_flipped_bit(byte in 0..120usize, bit in 0..8u32) {
        let mut bytes = good();
        prop_assert_eq!(bytes.len(), 120);
        bytes[byte] ^= 1 << bit;
        let _ = changes::profile(&bytes);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = changes::profile(&bytes);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Saved states: there and back, every refusal by itself, then what holds for any bytes.

use heki_abi::*;
use heki_policy::map::Region;
use heki_policy::patch::sites::{Rule, Site as Place};
use heki_policy::pin::{Pins, CR0_WP, CR4_SMEP};
use heki_policy::refusal::Refusal::{self, *};
use heki_policy::registers::Held;
use heki_policy::request::Caps;
use heki_policy::rights::Rights;
use heki_policy::saved::{self, Saved, Source};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::oracle::{ABLE, PLAIN, STARTING};
use crate::states::{fuzz_one, rewrite, write};
use crate::toy::{packed, Toy, RODATA, TEXT};

const LSTAR: u32 = 0xc000_0082;
const SAVED: usize = size_of::<heki_abi::Saved>();
const RECORD: usize = size_of::<Record>();

fn region(start: u64, end: u64, va: u64, rights: Rights, kind: u32) -> Region {
    Region {
        start,
        end,
        va,
        rights,
        kind,
    }
}

/// A seal that was granted an ftrace trampoline, with an allow-list.
fn regions() -> Vec<Region> {
    vec![
        region(0x99, 0x9b, 0, Rights::EXEC, HEKI_KIND_TRAMPOLINE),
        region(0x2000, 0x2008, TEXT, Rights::EXEC, HEKI_KIND_TEXT),
        region(0x2a00, 0x2b00, RODATA, Rights::NONE, HEKI_KIND_RODATA),
        region(0x3000, 0x3001, 0, Rights::EXEC, HEKI_KIND_FTRACE),
        region(0x5000, 0x5001, 0, Rights::WRITE, HEKI_KIND_OTHER),
    ]
}

/// Sites of the kernel, one for each rule.
fn sites() -> Vec<Place> {
    let rules = [
        Rule::Frozen,
        Rule::JumpLabel {
            target: TEXT + 0x40,
        },
        Rule::StaticCall {
            tail: false,
            exemplar: TEXT,
        },
        Rule::StaticCall {
            tail: true,
            exemplar: 0,
        },
        Rule::Ftrace,
    ];
    let at = |(nr, rule)| Place {
        va: TEXT + 8 * nr,
        len: 5,
        rule,
    };
    (0u64..).zip(rules).map(at).collect()
}

const COUNTERS: [Counters; 2] = [counters(0), counters(7)];

const fn counters(vcpu: u32) -> Counters {
    Counters {
        vcpu,
        reserved: 0,
        value: [vcpu as u64 + 1; 11],
    }
}

/// Gives `test` a seal that uses everything.
fn with_seal<R>(test: impl FnOnce(&Source<'_>) -> R) -> R {
    let (regions, sites) = (regions(), packed(&sites()));
    let held = [
        Held {
            reg: HEKI_REG_MSR,
            index: LSTAR,
            mask: u64::MAX,
            value: TEXT,
        },
        Held {
            reg: HEKI_REG_XCR0,
            index: 0,
            mask: 7,
            value: 7,
        },
    ];
    Toy::new().with_env(|env| {
        test(&Source {
            exec: true,
            regions: &regions,
            pins: Pins {
                cr0: CR0_WP,
                cr4: CR4_SMEP,
            },
            held: &held,
            areas: env.areas,
            sites: &sites,
            probes: env.probes,
            text_va: Some(TEXT),
        })
    })
}

pub(crate) fn good() -> Vec<u8> {
    with_seal(|source| write(Some(source), &COUNTERS))
}

fn refusal(bytes: &[u8], caps: &Caps) -> Option<Refusal> {
    Saved::parse(bytes, caps).err()
}

/// Where the content of the record of `kind` begins.
fn content(bytes: &[u8], kind: u32) -> usize {
    let mut at = SAVED;
    loop {
        let record = Record::read_from_bytes(&bytes[at..at + RECORD]).unwrap();
        if record.kind == kind {
            return at + RECORD;
        }
        at += RECORD + record.len as usize;
    }
}

#[test]
fn a_seal_comes_back_as_it_was() {
    let bytes = good();
    let saved = Saved::parse(&bytes, &ABLE).unwrap();
    let seal = saved.seal().unwrap();
    assert!(saved.counters().eq(COUNTERS));
    with_seal(|source| {
        let mut built = vec![Region::default(); seal.request.nr_ranges()];
        let used = heki_policy::request::build(&seal.request, &mut built).unwrap();
        assert_eq!(&built[..used], source.regions);
        assert_eq!(seal.request.exec(), source.exec);
        assert_eq!(seal.request.pins(), source.pins);
        assert!(seal.sites().eq(source.sites.iter().copied()));
        assert!(seal.probes().eq(source.probes.iter().copied()));
        assert!(!source.probes.is_empty() && source.areas.iter().count() > 10);
        let areas = heki_policy::patch::areas::Areas::new(seal.request.areas());
        assert_eq!(&areas, source.areas);
        assert_eq!(seal.text_va, source.text_va);
        let kept: Vec<_> = seal.kept().map(|(pin, value)| (pin.index, value)).collect();
        assert_eq!(kept, [(LSTAR, TEXT), (0, 7)]);
    });
    assert_eq!(rewrite(&bytes, &ABLE).unwrap(), bytes);
}

#[test]
fn without_an_allow_list_nothing_gains_or_loses_a_right() {
    let regions = [
        region(1, 2, 0, Rights::EXEC, HEKI_KIND_RODATA),
        region(3, 4, 0, Rights::ALL, HEKI_KIND_OTHER),
    ];
    let bytes = with_seal(|source| {
        let source = Source {
            exec: false,
            regions: &regions,
            ..*source
        };
        write(Some(&source), &[])
    });
    let seal = *Saved::parse(&bytes, &ABLE).unwrap().seal().unwrap();
    assert!(seal.request.ranges().eq(regions));
}

#[test]
fn an_open_vm_has_counters_only() {
    let bytes = write(None, &COUNTERS);
    let saved = Saved::parse(&bytes, &PLAIN).unwrap();
    assert!(saved.seal().is_none() && saved.counters().eq(COUNTERS));
    assert_eq!(rewrite(&bytes, &PLAIN).unwrap(), bytes);
}

#[test]
fn a_seal_that_lost_all_its_ranges_is_still_one() {
    let bytes = with_seal(|source| {
        let source = Source {
            exec: false,
            regions: &[],
            pins: Pins::NONE,
            held: &[],
            ..*source
        };
        write(Some(&source), &[])
    });
    assert!(Saved::parse(&bytes, &PLAIN).unwrap().seal().is_some());
}

#[test]
fn a_host_that_cannot_hold_it_says_so() {
    let bytes = good();
    assert_eq!(refusal(&bytes, &PLAIN), Some(ExecUnsupported));
    let no_smep = Caps {
        cr4_pinnable: 0,
        ..ABLE
    };
    assert_eq!(refusal(&bytes, &no_smep), Some(PinUnsupported));
    let no_msrs = Caps { msr: false, ..ABLE };
    assert_eq!(refusal(&bytes, &no_msrs), Some(PinUnsupported));
    // A vCPU that has not started has none of the bits, and is asked for none.
    assert_eq!(refusal(&bytes, &STARTING), None);
}

#[test]
fn room_must_fit() {
    with_seal(|source| {
        let len = saved::bytes(Some(source), COUNTERS.len());
        for bad in [0, 1, len - 1, len + 1] {
            let mut room = vec![0; bad];
            let written = saved::write(Some(source), COUNTERS.into_iter(), &mut room);
            assert_eq!(written, Err(BadLength));
        }
    });
}

/// Bytes of the first site, the first probe, and so on, to write `value` over.
type Spoil = (u32, usize, &'static [u8], Refusal);

const SPOILT: &[Spoil] = &[
    (HEKI_RECORD_LIFE, 0, &[0], BadRecord),
    (HEKI_RECORD_LIFE, 0, &[3], BadRecord),
    // Open, and yet with text.
    (HEKI_RECORD_LIFE, 0, &[1], BadRecord),
    (HEKI_RECORD_LIFE, 4, &[1], BadReserved),
    (HEKI_RECORD_SEAL, 0, &[1], BadVersion),
    (HEKI_RECORD_SEAL, 4, &[2], BadFlags),
    (HEKI_RECORD_SEAL, 8, &[4], BadLength),
    // Ranges of 32 bytes: address, length, virtual address, rights, kind.
    (HEKI_RECORD_SEAL, 24, &[1], Unaligned),
    (HEKI_RECORD_SEAL, 24 + 7, &[1], Overflow),
    (HEKI_RECORD_SEAL, 24 + 24, &[3], WriteAndExec),
    (HEKI_RECORD_SEAL, 24 + 24, &[4], BadRights),
    (HEKI_RECORD_SEAL, 24 + 28, &[9], BadKind),
    // Behind five of them, pins of 16 bytes: register, index, mask.
    (HEKI_RECORD_SEAL, 184, &[1], BadRegister),
    (HEKI_RECORD_SEAL, 184 + 8, &[1], PinUnsupported),
    (HEKI_RECORD_SEAL, 184 + 32, &[22], BadRegister),
    // Behind four of them, areas: a table.
    (HEKI_RECORD_SEAL, 248, &[0], BadArea),
    (HEKI_RECORD_VALUES, 0, &[1], BadRecord),
    (HEKI_RECORD_VALUES, 2, &[0], BadRecord),
    // Sites of 24 bytes: address, target, length, rule.
    (HEKI_RECORD_SITES, 0, &[9], Overlap),
    (HEKI_RECORD_SITES, 8, &[1], BadRecord),
    (HEKI_RECORD_SITES, 16, &[4], BadRecord),
    (HEKI_RECORD_SITES, 17, &[1], BadRecord),
    (HEKI_RECORD_SITES, 20, &[5], BadRecord),
    (HEKI_RECORD_SITES, 96, &[0xff; 8], BadRecord),
    // Out of the kernel's reach: a site, and where a jump label jumps to.
    (HEKI_RECORD_SITES, 96 + 7, &[0x7f], BadRecord),
    (HEKI_RECORD_SITES, 24 + 8 + 4, &[0xfe], BadRecord),
    (HEKI_RECORD_PROBES, 0, &[0xff; 3], Overlap),
    (HEKI_RECORD_PROBES, 8, &[0xcc], BadRecord),
    (HEKI_RECORD_PROBES, 23, &[1], BadRecord),
    (HEKI_RECORD_COUNTERS, 0, &[7], BadRecord),
    (HEKI_RECORD_COUNTERS, 0, &[8], BadRecord),
    (HEKI_RECORD_COUNTERS, 4, &[1], BadReserved),
];

#[test]
fn each_thing_that_is_wrong_is_refused() {
    let good = good();
    for (nr, &(kind, offset, value, expected)) in SPOILT.iter().enumerate() {
        let mut bytes = good.clone();
        let at = content(&bytes, kind) + offset;
        bytes[at..at + value.len()].copy_from_slice(value);
        assert_eq!(refusal(&bytes, &ABLE), Some(expected), "{nr}");
    }
}

#[test]
fn headers_are_checked() {
    let good = good();
    let spoil = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        refusal(&bytes, &ABLE)
    };
    assert_eq!(spoil(0, 0), Some(BadMagic));
    assert_eq!(spoil(8, 2), Some(BadVersion));
    for nr_records in [0, 1, 2, 5, 7, 255] {
        assert_eq!(spoil(12, nr_records), Some(BadRecord));
    }
    assert_eq!(spoil(16, good[16] ^ 8), Some(BadLength));
    assert_eq!(spoil(23, 1), Some(TooBig));
    for kind in [0, 2, 3, 6, 7] {
        assert_eq!(spoil(SAVED, kind), Some(BadRecord));
    }
    assert_eq!(spoil(SAVED + 4, 1), Some(BadReserved));
    assert_eq!(spoil(SAVED + 8, 8), Some(BadRecord));
    for kind in HEKI_RECORD_LIFE..=HEKI_RECORD_COUNTERS {
        let len = content(&good, kind) - 8;
        assert!(matches!(spoil(len + 7, 1), Some(BadLength)), "{kind}");
    }
}

/// `bytes` with a header that says how many they are.
fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = (bytes.len() as u64).to_le_bytes();
    if let Some(field) = bytes.get_mut(16..24) {
        field.copy_from_slice(len.as_bytes());
    }
    bytes
}

#[test]
fn a_part_of_a_state_is_none() {
    let good = good();
    for len in 0..good.len() {
        assert!(refusal(&good[..len], &ABLE).is_some());
        assert!(refusal(&with_length(good[..len].to_vec()), &ABLE).is_some());
    }
    let mut long = good.clone();
    long.extend_from_slice(&[0; 16]);
    assert_eq!(refusal(&with_length(long), &ABLE), Some(BadLength));
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = fuzz_one(&bytes, &ABLE);
    }

    #[test]
    fn any_change_of_a_good_one(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = good();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = fuzz_one(&bytes, &ABLE);
        let _ = fuzz_one(&with_length(bytes), &PLAIN);
    }

    #[test]
    fn any_piece_moved(
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        len in 1usize..200,
    ) {
        let mut bytes = good();
        let from = from.index(bytes.len());
        let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
        let to = to.index(bytes.len());
        bytes.splice(to..to, piece);
        let _ = fuzz_one(&with_length(bytes), &ABLE);
    }
}

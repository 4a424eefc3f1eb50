// SPDX-License-Identifier: GPL-2.0

//! The SEAL request: every refusal by itself, then what holds for any bytes.

use heki_abi::*;
use heki_policy::map::Region;
use heki_policy::pin::*;
use heki_policy::refusal::Refusal::{self, *};
use heki_policy::registers::{pinnable, MSR_EFER};
use heki_policy::request::{build, Caps, Request};
use heki_policy::rights::Rights;
use proptest::prelude::*;

use crate::oracle::{fuzz_one, ABLE, PLAIN};
use crate::wire::{area, at, msr, pin, range, Wire};

/// A request that uses everything, as a Linux guest would send it.
pub(crate) fn good() -> Wire {
    Wire::new(
        HEKI_SEAL_EXEC,
        vec![
            at(TEXT, range(0x2000, 0x800, HEKI_EXEC, HEKI_KIND_TEXT)),
            at(RODATA, range(0x2a00, 0x400, 0, HEKI_KIND_RODATA)),
            range(0x99, 2, HEKI_EXEC, HEKI_KIND_TRAMPOLINE),
            range(0x5000, 1, HEKI_WRITE, HEKI_KIND_OTHER),
        ],
        vec![
            pin(HEKI_REG_CR0, CR0_WP),
            pin(HEKI_REG_CR4, CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_CET),
            msr(LSTAR, u64::MAX),
            pin(HEKI_REG_XCR0, XCR0),
            msr(MSR_EFER, 1 << 11 | 1),
        ],
    )
    .with_areas(vec![
        area(HEKI_AREA_JUMP_TABLE, RODATA, 160),
        area(HEKI_AREA_STATIC_CALL_SITES, RODATA + 160, 80),
        area(HEKI_AREA_JUMP_TABLE, RODATA + 0x1000, 16),
        area(HEKI_AREA_CFI_HASH, 15, 0),
    ])
}

/// Where the good guest maps its text and its read-only data.
const TEXT: u64 = 0xffff_ffff_8100_0000;
const RODATA: u64 = 0xffff_ffff_8200_0000;

const LSTAR: u32 = 0xc000_0082;
/// All that a guest has of XCR0.
const XCR0: u64 = 7;

/// Each way to spoil the good request, one field at a time, and the refusal that is due.
type Spoil = (fn(&mut Wire), Refusal);

const SPOILT: &[Spoil] = &[
    (|w| w.header.version = 0, BadVersion),
    (|w| w.header.version = 1, BadVersion),
    (|w| w.header.version = 3, BadVersion),
    (|w| w.header.version = u32::MAX, BadVersion),
    (|w| w.header.flags |= 1 << 1, BadFlags),
    (|w| w.header.flags |= 1 << 31, BadFlags),
    (|w| w.header.nr_ranges += 1, BadLength),
    (|w| w.header.nr_ranges -= 1, BadLength),
    (|w| w.header.nr_ranges = 0, BadLength),
    (|w| w.header.nr_ranges = 4097, TooBig),
    (|w| w.header.nr_ranges = u32::MAX, TooBig),
    (|w| w.header.nr_pins += 1, BadLength),
    (|w| w.header.nr_pins -= 1, BadLength),
    (|w| w.header.nr_pins = 65, TooBig),
    (|w| w.header.nr_pins = u32::MAX, TooBig),
    (|w| w.header.nr_areas += 1, BadLength),
    (|w| w.header.nr_areas -= 1, BadLength),
    (|w| w.header.nr_areas = 1025, TooBig),
    (|w| w.header.nr_areas = u32::MAX, TooBig),
    (|w| w.header.reserved = 1, BadReserved),
    (|w| w.header.reserved = 1 << 31, BadReserved),
    (|w| w.ranges[0].va += 1, Unaligned),
    (|w| w.ranges[3].va += 0x800, Unaligned),
    (|w| w.ranges[0].va = !0xfff, Overflow),
    (|w| w.ranges[3].va = !0xfff, Overflow),
    (|w| w.ranges[0].gpa += 1, Unaligned),
    (|w| w.ranges[3].gpa += 0x800, Unaligned),
    (|w| w.ranges[0].gpa = 1 << 52, Overflow),
    (|w| w.ranges[0].gpa = !0xfff, Overflow),
    (|w| w.ranges[1].gpa = (1 << 52) - 0x1000, Overflow),
    (|w| w.ranges[0].len += 1, Unaligned),
    (|w| w.ranges[1].len = 0, Empty),
    (|w| w.ranges[0].len = !0xfff, Overflow),
    (|w| w.ranges[0].len = 1 << 52, Overflow),
    (
        |w| w.ranges[0].rights = HEKI_WRITE | HEKI_EXEC,
        WriteAndExec,
    ),
    (|w| w.ranges[0].rights = 1 << 2, BadRights),
    (|w| w.ranges[3].rights = u32::MAX, BadRights),
    (|w| w.ranges[2].kind = HEKI_KIND_COUNT, BadKind),
    (|w| w.ranges[2].kind = u32::MAX, BadKind),
    (|w| w.ranges[2].kind = HEKI_KIND_FTRACE, BadKind),
    (|w| w.pins[0].reg = 1, BadRegister),
    (|w| w.pins[0].reg = 3, BadRegister),
    (|w| w.pins[1].reg = u32::MAX, BadRegister),
    (|w| w.pins[0].index = 1, BadReserved),
    (|w| w.pins[1].index = 1 << 31, BadReserved),
    (|w| w.pins[0].mask = 0, EmptyPin),
    (|w| w.pins[1].mask = 0, EmptyPin),
    (|w| w.pins[0].mask |= 1 << 30, PinUnsupported),
    (|w| w.pins[1].mask |= 1 << 13, PinUnsupported),
    (|w| w.pins[1].mask |= 1 << 63, PinUnsupported),
    (|w| w.pins[2].index = 0, PinUnsupported),
    (|w| w.pins[2].index = 0xc000_0100, PinUnsupported),
    (|w| w.pins[2].index = MSR_EFER, PinUnsupported),
    (|w| w.pins[2].reg = HEKI_REG_XCR0, BadReserved),
    (|w| w.pins[3].index = 1, BadReserved),
    (|w| w.pins[3].mask = 0, EmptyPin),
    (|w| w.pins[4].mask |= 1 << 10, PinUnsupported),
    (|w| w.pins[4].mask |= 1 << 63, PinUnsupported),
    (|w| w.pins[4] = w.pins[2], DuplicatePin),
    (|w| w.pins[2] = w.pins[3], DuplicatePin),
    (|w| w.pins[0].mask = CR0_NE, CetNeedsWp),
    (|w| w.pins[1].mask = CR4_SMAP, ExecNeedsSmep),
    (|w| w.areas[0].kind = HEKI_AREA_COUNT, BadArea),
    (|w| w.areas[3].kind = 32, BadArea),
    (|w| w.areas[3].kind = u32::MAX, BadArea),
    (|w| w.areas[0].reserved = 1, BadReserved),
    (|w| w.areas[3].reserved = 1 << 31, BadReserved),
    (|w| w.areas[0].len += 8, BadArea),
    (|w| w.areas[1].len += 4, BadArea),
    (|w| w.areas[2].len = 8, BadArea),
    (|w| w.areas[0].va = u64::MAX, Overflow),
    (|w| w.areas[3].len = u64::MAX, Overflow),
    (|w| w.areas[0].len = 16 * 131_072, TooBig),
    (|w| w.areas[1].len = 8 * 131_072, TooBig),
];

#[test]
fn every_single_field_spoils_the_request() {
    assert_eq!(good().refusal(&ABLE), None);
    for (index, (spoil, refusal)) in SPOILT.iter().enumerate() {
        let mut wire = good();
        spoil(&mut wire);
        assert_eq!(wire.refusal(&ABLE), Some(*refusal), "case {index}");
    }
}

#[test]
fn every_range_pin_and_area_is_looked_at() {
    for index in 0..good().ranges.len() {
        let mut wire = good();
        wire.ranges[index].gpa |= 1;
        assert_eq!(wire.refusal(&ABLE), Some(Unaligned), "range {index}");
    }
    for index in 0..good().pins.len() {
        let mut wire = good();
        wire.pins[index].mask = 0;
        assert_eq!(wire.refusal(&ABLE), Some(EmptyPin), "pin {index}");
    }
    for index in 0..good().areas.len() {
        let mut wire = good();
        wire.areas[index].reserved = 1;
        assert_eq!(wire.refusal(&ABLE), Some(BadReserved), "area {index}");
    }
}

#[test]
fn every_other_length_is_refused() {
    let bytes = good().bytes();
    for length in 0..bytes.len() {
        let refusal = Request::parse(&bytes[..length], &ABLE).err();
        assert_eq!(refusal, Some(BadLength), "{length} bytes");
    }
    for extra in 1..64 {
        let longer = [bytes.clone(), vec![0; extra]].concat();
        assert_eq!(Request::parse(&longer, &ABLE).err(), Some(BadLength));
    }
}

#[test]
fn more_bytes_than_the_bound_are_refused_unread() {
    let bytes = vec![0xff; HEKI_MAX_REQUEST_BYTES as usize + 1];
    assert_eq!(Request::parse(&bytes, &ABLE).err(), Some(TooBig));
    let bytes = &bytes[..HEKI_MAX_REQUEST_BYTES as usize];
    assert_eq!(Request::parse(bytes, &ABLE).err(), Some(BadVersion));
}

#[test]
fn a_request_for_nothing_is_refused() {
    assert_eq!(Wire::new(0, vec![], vec![]).refusal(&ABLE), Some(Empty));
    let exec = Wire::new(HEKI_SEAL_EXEC, vec![], vec![]);
    assert_eq!(exec.refusal(&ABLE), Some(Empty));
}

#[test]
fn areas_alone_are_no_request() {
    let wire = Wire::new(0, vec![], vec![]).with_areas(good().areas);
    assert_eq!(wire.refusal(&ABLE), Some(Empty));
}

#[test]
fn all_areas_but_tables_and_frozen_keys_come_once() {
    for kind in 0..HEKI_AREA_COUNT {
        let twice = vec![area(kind, 0x1000, 16), area(kind, 0x2000, 16)];
        let table = matches!(
            kind,
            HEKI_AREA_JUMP_TABLE | HEKI_AREA_STATIC_CALL_SITES | HEKI_AREA_MCOUNT
        );
        let repeats = table || kind == HEKI_AREA_FROZEN;
        let expected = (!repeats).then_some(BadArea);
        assert_eq!(good().with_areas(twice).refusal(&ABLE), expected, "{kind}");
    }
}

#[test]
fn as_many_frozen_keys_as_a_guest_may_name() {
    let keys = |nr: u64| {
        let keys = (0..nr).map(|index| area(HEKI_AREA_FROZEN, 0x1000 + 16 * index, 0));
        good().with_areas(keys.collect())
    };
    let max = u64::from(HEKI_MAX_FROZEN);
    assert_eq!(keys(max).refusal(&ABLE), None);
    assert_eq!(keys(max + 1).refusal(&ABLE), Some(TooBig));
}

#[test]
fn as_many_sites_as_a_vm_may_have() {
    let split = |extra: u64| {
        good().with_areas(vec![
            area(HEKI_AREA_JUMP_TABLE, 0x1000, 16 * 100_000),
            area(HEKI_AREA_STATIC_CALL_SITES, 0x1000, 8 * 31_000),
            area(HEKI_AREA_MCOUNT, 0x1000, 8 * (72 + extra)),
        ])
    };
    assert_eq!(split(0).refusal(&ABLE), None);
    assert_eq!(split(1).refusal(&ABLE), Some(TooBig));
}

#[test]
fn an_allow_list_needs_something_to_run() {
    let mut wire = good();
    wire.ranges.iter_mut().for_each(|range| range.rights = 0);
    assert_eq!(wire.refusal(&ABLE), Some(NoExec));
    let pins_only = Wire::new(HEKI_SEAL_EXEC, vec![], vec![pin(4, CR4_SMEP)]);
    assert_eq!(pins_only.refusal(&ABLE), Some(NoExec));
}

#[test]
fn what_the_host_cannot_hold_is_refused() {
    let refusal = |caps: Caps| good().refusal(&caps);
    let no_wp = Caps {
        cr0_pinnable: !CR0_WP,
        ..ABLE
    };
    let no_cet = Caps {
        cr4_pinnable: !CR4_CET,
        ..ABLE
    };
    assert_eq!(
        refusal(Caps {
            exec: false,
            ..ABLE
        }),
        Some(ExecUnsupported)
    );
    let no_msr = Caps { msr: false, ..ABLE };
    assert_eq!(refusal(no_msr), Some(PinUnsupported));
    assert_eq!(refusal(no_wp), Some(PinUnsupported));
    assert_eq!(refusal(no_cet), Some(PinUnsupported));
    assert_eq!(refusal(PLAIN), Some(ExecUnsupported));
}

#[test]
fn what_the_vcpu_does_not_have_is_refused() {
    let refusal = |caps: Caps| good().refusal(&caps);
    assert_eq!(
        refusal(Caps {
            cr0: !CR0_WP,
            ..ABLE
        }),
        Some(PinNotSet)
    );
    assert_eq!(
        refusal(Caps {
            cr4: !CR4_UMIP,
            ..ABLE
        }),
        Some(PinNotSet)
    );
}

#[test]
fn a_register_is_pinned_once() {
    let mut wire = good();
    wire.pins[0] = pin(HEKI_REG_CR4, CR4_SMEP);
    assert_eq!(wire.refusal(&ABLE), Some(DuplicatePin));
    wire.pins = vec![pin(HEKI_REG_CR0, CR0_WP); HEKI_MAX_PINS as usize];
    wire.header.nr_pins = HEKI_MAX_PINS;
    assert_eq!(wire.refusal(&ABLE), Some(DuplicatePin));
}

#[test]
fn overlaps_are_refused_in_any_order() {
    let (a, b) = (range(10, 10, 0, 0), range(19, 1, 0, 0));
    for ranges in [vec![a, b], vec![b, a], vec![a, a]] {
        let wire = Wire::new(0, ranges, vec![]);
        assert_eq!(wire.refusal(&ABLE), None);
        assert_eq!(wire.regions(&ABLE), Err(Overlap));
    }
}

#[test]
fn an_overlap_behind_merged_neighbours_is_refused() {
    let ranges = vec![range(0, 8, 0, 0), range(8, 8, 0, 0), range(4, 1, 0, 0)];
    assert_eq!(Wire::new(0, ranges, vec![]).regions(&ABLE), Err(Overlap));
}

#[test]
fn two_ranges_at_one_address_are_refused() {
    let first = at(0x10_000, range(0, 4, 0, 0));
    for va in [0xf000, 0x10_000, 0x13_000] {
        let second = at(va, range(8, 2, 0, 0));
        for ranges in [vec![first, second], vec![second, first]] {
            let wire = Wire::new(0, ranges, vec![]);
            assert_eq!(wire.regions(&ABLE), Err(Overlap), "{va:#x}");
        }
    }
    let beside = vec![first, at(0x14_000, range(8, 2, 0, 0)), range(12, 2, 0, 0)];
    assert_eq!(
        Wire::new(0, beside, vec![]).regions(&ABLE).unwrap().len(),
        3
    );
}

#[test]
fn a_short_buffer_is_refused() {
    let bytes = good().bytes();
    let request = Request::parse(&bytes, &ABLE).ok().unwrap();
    for length in 0..request.nr_ranges() {
        let mut out = vec![Region::default(); length];
        assert_eq!(build(&request, &mut out), Err(NoMemory));
    }
}

#[test]
fn the_good_request_means_what_it_says() {
    let bytes = good().bytes();
    let request = Request::parse(&bytes, &ABLE).ok().unwrap();
    assert!(request.exec());
    assert_eq!(request.nr_ranges(), 4);
    assert_eq!(request.default_rights(), Rights::WRITE);
    let cr4 = CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_CET;
    assert_eq!(request.pins(), Pins { cr0: CR0_WP, cr4 });
    assert!(request.areas().eq(good().areas));

    let starts: Vec<u64> = request.ranges().map(|region| region.start).collect();
    assert_eq!(starts, [0x2000, 0x2a00, 0x99, 0x5000]);
    let regions = good().regions(&ABLE).unwrap();
    let starts: Vec<u64> = regions.iter().map(|region| region.start).collect();
    assert_eq!(starts, [0x99, 0x2000, 0x2a00, 0x5000]);
}

#[test]
fn without_an_allow_list_everything_runs() {
    let ranges = vec![
        range(1, 1, 0, 0),
        range(3, 1, HEKI_EXEC, 0),
        range(5, 1, HEKI_WRITE, 0),
    ];
    let wire = Wire::new(0, ranges, vec![]);
    let rights: Vec<Rights> = wire
        .regions(&PLAIN)
        .unwrap()
        .iter()
        .map(|region| region.rights)
        .collect();
    assert_eq!(rights, [Rights::EXEC, Rights::EXEC, Rights::ALL]);
    let bytes = wire.bytes();
    let request = Request::parse(&bytes, &PLAIN).ok().unwrap();
    assert_eq!(request.default_rights(), Rights::ALL);
}

#[test]
fn pins_alone_are_a_request() {
    let wire = Wire::new(0, vec![], vec![pin(HEKI_REG_CR0, CR0_WP)]);
    assert_eq!(wire.regions(&ABLE), Ok(vec![]));
}

#[test]
fn neighbours_merge_when_equal_only() {
    let merged = |ranges: Vec<Range>| Wire::new(0, ranges, vec![]).regions(&ABLE).unwrap().len();
    let first = range(0, 4, 0, HEKI_KIND_TEXT);
    assert_eq!(merged(vec![range(4, 4, 0, HEKI_KIND_TEXT), first]), 1);
    assert_eq!(merged(vec![range(5, 4, 0, HEKI_KIND_TEXT), first]), 2);
    assert_eq!(merged(vec![range(4, 4, 0, HEKI_KIND_RODATA), first]), 2);
    assert_eq!(
        merged(vec![range(4, 4, HEKI_WRITE, HEKI_KIND_TEXT), first]),
        2
    );
}

#[test]
fn neighbours_merge_when_their_addresses_go_on_only() {
    let merged = |left: u64, right: u64| {
        let ranges = vec![at(left, range(0, 4, 0, 0)), at(right, range(4, 4, 0, 0))];
        Wire::new(0, ranges, vec![]).regions(&ABLE).unwrap()
    };
    let one = merged(0x10_000, 0x14_000);
    assert_eq!((one.len(), one[0].va, one[0].end), (1, 0x10_000, 8));
    assert_eq!(merged(0, 0).len(), 1);
    for (left, right) in [
        (0x10_000, 0x15_000),
        (0x14_000, 0x10_000),
        (0x10_000, 0),
        (0, 0x4000),
        (0, 0x10_000),
    ] {
        assert_eq!(merged(left, right).len(), 2, "{left:#x}, {right:#x}");
    }
}

#[test]
fn the_last_page_and_all_memory_can_be_sealed() {
    let pages = 1 << 40;
    let last = Wire::new(0, vec![range(pages - 1, 1, 0, 0)], vec![]);
    assert_eq!(last.regions(&ABLE).unwrap()[0].end, pages);
    let all = Wire::new(0, vec![range(0, pages, 0, 0)], vec![]);
    assert_eq!(all.regions(&ABLE).unwrap()[0].end, pages);
}

#[test]
fn the_largest_request_is_taken() {
    let ranges = (0..4096).rev().map(|index| range(index * 2, 1, 0, 0));
    let wire = Wire::new(0, ranges.collect(), vec![]);
    assert_eq!(wire.regions(&ABLE).unwrap().len(), 4096);
}

#[test]
fn a_request_may_lie_at_any_address() {
    let bytes = good().bytes();
    for shift in 0..8 {
        let moved = [vec![0; shift], bytes.clone()].concat();
        assert!(Request::parse(&moved[shift..], &ABLE).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = fuzz_one(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_header_that_fits(
        flags in 0..2u32,
        ranges in proptest::collection::vec(any_range(), 0..6),
        pins in proptest::collection::vec(any_pin(), 0..4),
        areas in proptest::collection::vec(any_area(), 0..4),
    ) {
        let _ = fuzz_one(&Wire::new(flags, ranges, pins).with_areas(areas).bytes());
    }

    #[test]
    fn a_flipped_bit_is_refused_or_still_in_order(byte in 0..328usize, bit in 0..8u32) {
        let mut bytes = good().bytes();
        prop_assert_eq!(bytes.len(), 328);
        bytes[byte] ^= 1 << bit;
        let _ = fuzz_one(&bytes);
    }
}

/// A range that is often right.
fn any_range() -> impl Strategy<Value = Range> {
    let number = || prop_oneof![8 => (0..64u64).prop_map(|gfn| gfn << 12), 1 => any::<u64>()];
    let small = |end| prop_oneof![12 => 0..end, 1 => any::<u32>()];
    let va = prop_oneof![3 => Just(0), 1 => number()];
    (number(), number(), va, small(3u32), small(8u32)).prop_map(|(gpa, len, va, rights, kind)| {
        Range {
            gpa,
            len,
            va,
            rights,
            kind,
        }
    })
}

/// An area that is often right.
fn any_area() -> impl Strategy<Value = Area> {
    let kind = prop_oneof![12 => 0..HEKI_AREA_COUNT, 1 => any::<u32>()];
    let reserved = prop_oneof![12 => Just(0), 1 => any::<u32>()];
    let len = prop_oneof![8 => (0..64u64).prop_map(|count| count * 16), 1 => any::<u64>()];
    (kind, reserved, any::<u64>(), len).prop_map(|(kind, reserved, va, len)| Area {
        kind,
        reserved,
        va,
        len,
    })
}

/// A pin that is often right.
fn any_pin() -> impl Strategy<Value = Pin> {
    let reg = prop_oneof![4 => Just(0), 4 => Just(4), 4 => Just(17), 1 => any::<u32>()];
    let index = prop_oneof![8 => Just(0), 1 => Just(MSR_EFER), 1 => any::<u32>()];
    (reg, index, any::<u64>(), any::<bool>()).prop_map(|(reg, index, mask, fit)| {
        let mask = if fit {
            mask & pinnable(reg, index)
        } else {
            mask
        };
        Pin { reg, index, mask }
    })
}

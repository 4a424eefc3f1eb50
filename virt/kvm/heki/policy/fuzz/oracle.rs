// SPDX-License-Identifier: GPL-2.0

//! What must hold for any bytes that a guest may send: shared by the fuzz target and its smoke test.
//!
//! Reads the request a second time, by hand and by offset, and holds parser, builder and map to it.

use std::collections::BTreeSet;

use heki_policy::address::{self, Windows};
use heki_policy::map::{Map, Region};
use heki_policy::pin::{PINNABLE_CR0, PINNABLE_CR4};
use heki_policy::refusal::Refusal;
use heki_policy::registers;
use heki_policy::request::{build, Caps, Request};
use heki_policy::rights::Rights;

/// A host that can do everything, asked by a vCPU that has every bit set.
pub(crate) const ABLE: Caps = Caps {
    exec: true,
    cr0_pinnable: u64::MAX,
    cr4_pinnable: u64::MAX,
    msr: true,
    cr0: u64::MAX,
    cr4: u64::MAX,
};

/// A host that can do nothing but protect writes.
pub(crate) const PLAIN: Caps = Caps {
    exec: false,
    cr0_pinnable: 0,
    cr4_pinnable: 0,
    msr: false,
    cr0: u64::MAX,
    cr4: u64::MAX,
};

/// A vCPU that has just started.
pub(crate) const STARTING: Caps = Caps {
    cr0: 0x6000_0010,
    cr4: 0,
    ..ABLE
};

/// Runs one input through everything and panics if anything is wrong. Returns what [`ABLE`] made of it.
pub(crate) fn fuzz_one(bytes: &[u8]) -> Result<usize, Refusal> {
    for caps in [PLAIN, STARTING] {
        let _ = check(bytes, &caps);
    }
    check(bytes, &ABLE)
}

/// Parses and builds `bytes`; checks what is accepted. Returns the number of regions.
fn check(bytes: &[u8], caps: &Caps) -> Result<usize, Refusal> {
    let request = Request::parse(bytes, caps)?;
    let ranges = accepted_ranges(bytes);
    accepted_header(bytes, caps, &request, &ranges);
    accepted_pins(bytes, caps, &request);
    accepted_areas(bytes, &request);

    let mut regions = vec![Region::default(); request.nr_ranges()];
    let built = build(&request, &mut regions);
    assert_eq!(built == Err(Refusal::Overlap), overlap(&ranges));
    regions.truncate(built?);

    let map = Map::new(&regions, request.default_rights()).expect("built regions make a map");
    answers(&map, &ranges, request.exec());
    addresses(&regions, &ranges);
    Ok(regions.len())
}

/// One range as the guest wrote it.
struct Written {
    start: u64,
    end: u64,
    va: u64,
    rights: u32,
    kind: u32,
}

impl Written {
    fn va_end(&self) -> u64 {
        self.va + (self.end - self.start) * 4096
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The ranges of an accepted request, each checked.
fn accepted_ranges(bytes: &[u8]) -> Vec<Written> {
    (0..u32_at(bytes, 8) as usize)
        .map(|index| {
            let at = 24 + index * 32;
            let (gpa, len, va) = (
                u64_at(bytes, at),
                u64_at(bytes, at + 8),
                u64_at(bytes, at + 16),
            );
            let (rights, kind) = (u32_at(bytes, at + 24), u32_at(bytes, at + 28));
            assert!(gpa % 4096 == 0 && len % 4096 == 0 && len > 0);
            assert!(u128::from(gpa) + u128::from(len) <= 1 << 52);
            assert!(va % 4096 == 0 && u128::from(va) + u128::from(len) < 1 << 64);
            assert!(rights <= 2 && kind < 8);
            Written {
                start: gpa / 4096,
                end: (gpa + len) / 4096,
                va,
                rights,
                kind,
            }
        })
        .collect()
}

fn accepted_header(bytes: &[u8], caps: &Caps, request: &Request<'_>, ranges: &[Written]) {
    let (flags, nr_ranges, nr_pins) = (u32_at(bytes, 4), u32_at(bytes, 8), u32_at(bytes, 12));
    let nr_areas = u32_at(bytes, 16);
    assert_eq!((u32_at(bytes, 0), u32_at(bytes, 20)), (2, 0));
    assert!(flags <= 1 && nr_ranges <= 4096 && nr_pins <= 64 && nr_ranges + nr_pins > 0);
    assert!(nr_areas <= 1024);
    assert_eq!(
        bytes.len(),
        24 + nr_ranges as usize * 32 + nr_pins as usize * 16 + nr_areas as usize * 24
    );
    assert_eq!(request.nr_ranges(), nr_ranges as usize);
    assert_eq!(request.exec(), flags == 1);
    if request.exec() {
        assert!(caps.exec && ranges.iter().any(|range| range.rights == 2));
    }
}

fn accepted_pins(bytes: &[u8], caps: &Caps, request: &Request<'_>) {
    let first = 24 + request.nr_ranges() * 32;
    let (mut cr0, mut cr4) = (0, 0);
    let mut kept = BTreeSet::new();
    for at in (first..).step_by(16).take(u32_at(bytes, 12) as usize) {
        let (index, mask) = (u32_at(bytes, at + 4), u64_at(bytes, at + 8));
        assert!(mask != 0);
        if matches!(u32_at(bytes, at), 16..=21) {
            let row = (u32_at(bytes, at), index);
            assert!(caps.msr && mask & !registers::pinnable(row.0, row.1) == 0);
            assert!(kept.insert(row), "{row:?} accepted twice");
            continue;
        }
        assert_eq!(index, 0);
        let earlier = match u32_at(bytes, at) {
            0 => std::mem::replace(&mut cr0, mask),
            4 => std::mem::replace(&mut cr4, mask),
            other => panic!("register {other} accepted"),
        };
        assert_eq!(earlier, 0);
    }
    let listed: BTreeSet<_> = request.kept().map(|pin| (pin.reg, pin.index)).collect();
    assert_eq!(listed, kept);
    assert_eq!((request.pins().cr0, request.pins().cr4), (cr0, cr4));
    assert_eq!(cr0 & !(PINNABLE_CR0 & caps.cr0_pinnable & caps.cr0), 0);
    assert_eq!(cr4 & !(PINNABLE_CR4 & caps.cr4_pinnable & caps.cr4), 0);
    assert!(cr4 & 1 << 23 == 0 || cr0 & 1 << 16 != 0);
    assert!(!request.exec() || cr4 & 1 << 20 != 0);
}

fn accepted_areas(bytes: &[u8], request: &Request<'_>) {
    let first = bytes.len() - u32_at(bytes, 16) as usize * 24;
    let mut seen = [0; 25];
    let mut nr_sites = 0;
    for (at, area) in (first..bytes.len()).step_by(24).zip(request.areas()) {
        let (kind, va, len) = (
            u32_at(bytes, at),
            u64_at(bytes, at + 8),
            u64_at(bytes, at + 16),
        );
        assert_eq!((area.kind, area.va, area.len), (kind, va, len));
        assert!(kind < 25 && u32_at(bytes, at + 4) == 0);
        assert!(u128::from(va) + u128::from(len) < 1 << 64);
        let entry = match kind {
            0 => 16,
            1 | 21 => 8,
            _ => {
                seen[kind as usize] += 1;
                continue;
            }
        };
        assert_eq!(len % entry, 0);
        nr_sites += u128::from(len / entry);
    }
    assert!(nr_sites <= 131_072);
    // Frozen keys come as often as 32 times.
    let most = |kind| if kind == 23 { 32 } else { 1 };
    assert!((0..).zip(&seen).all(|(kind, &times)| times <= most(kind)));
}

/// Whether two ranges share a frame or an address, found the slow way.
fn overlap(ranges: &[Written]) -> bool {
    ranges.iter().enumerate().any(|(index, left)| {
        ranges[index + 1..].iter().any(|right| {
            let frame = left.start < right.end && right.start < left.end;
            let (left_end, right_end) = (left.va_end(), right.va_end());
            frame || left.va != 0 && right.va != 0 && left.va < right_end && right.va < left_end
        })
    })
}

/// The map says of the edges of every range what the guest wrote, and of their outsides what holds there.
fn answers(map: &Map<'_>, ranges: &[Written], exec: bool) {
    for range in ranges {
        for gfn in [range.start, range.end - 1] {
            let rights = map.rights(gfn);
            assert_eq!(rights.write(), range.rights == 1);
            assert_eq!(rights.exec(), range.rights == 2 || !exec);
            assert_eq!(map.kind(gfn), Some(range.kind));
        }
        let nr_pages = range.end - range.start;
        assert_eq!(
            map.uniform(range.start, nr_pages),
            Some(map.rights(range.start))
        );
        for gfn in [range.start.wrapping_sub(1), range.end] {
            let listed = ranges.iter().any(|r| (r.start..r.end).contains(&gfn));
            assert_eq!(map.kind(gfn).is_some(), listed);
            assert!(listed || map.rights(gfn) == Rights::new(true, !exec));
        }
    }
}

/// The windows say of the edges of every range where the guest mapped them, and of their outsides that
/// nothing is there but other ranges.
fn addresses(regions: &[Region], ranges: &[Written]) {
    let mut order = vec![0; regions.len()];
    let used = address::index(regions, &mut order).expect("no two ranges share an address");
    let windows = Windows::new(regions, &order[..used]);
    let mapped = |va: u64| {
        let holds = |range: &&Written| range.va != 0 && (range.va..range.va_end()).contains(&va);
        ranges.iter().find(holds)
    };
    for range in ranges.iter().filter(|range| range.va != 0) {
        for va in [range.va - 1, range.va, range.va_end() - 1, range.va_end()] {
            let found = windows.find(va).and_then(|window| window.translate(va));
            let expected = mapped(va).map(|range| range.start * 4096 + (va - range.va));
            assert_eq!(found.map(|(gpa, _)| gpa), expected);
        }
    }
}

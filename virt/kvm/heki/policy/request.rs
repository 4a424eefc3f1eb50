// SPDX-License-Identifier: GPL-2.0

//! The SEAL request: bytes from the guest in, a permission map, pins and areas out.
//!
//! [`Request::parse`] checks all that can be checked without the VM, [`build`] turns the result
//! into regions. Neither allocates. The bytes are the host's own copy, read from the guest once.
//! Whether a range is the VM's memory is for the host to ask.
//! Neighbours: `abi` for the layout, [`map`](super::map) and [`pin`](super::pin) for what comes
//! out. Locks: none.

use zerocopy::{
    FromBytes,
    Unalign, //
};

use super::{
    abi,
    map::{
        self,
        Region,
        PAGE_SHIFT, //
    },
    pin::{
        Pins,
        CR0_WP,
        CR4_CET,
        CR4_SMEP,
        PINNABLE_CR0,
        PINNABLE_CR4, //
    },
    refusal::Refusal,
    registers,
    rights::Rights, //
};

/// The byte after the last guest physical address that x86 can have.
pub const GPA_END: u64 = 1 << 52;
/// The bits of an address below a page.
const PAGE_OFFSET: u64 = (1 << PAGE_SHIFT) - 1;

/// What this host can hold, and the registers of the vCPU that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Whether an execution allow-list can be enforced.
    pub exec: bool,
    /// CR0 bits that the host can pin; those outside [`PINNABLE_CR0`] do not count.
    pub cr0_pinnable: u64,
    /// CR4 bits that the host can pin; those outside [`PINNABLE_CR4`] do not count.
    pub cr4_pinnable: u64,
    /// Whether the host can hold XCR0 and MSRs.
    pub msr: bool,
    /// The vCPU's CR0, as the guest reads it.
    pub cr0: u64,
    /// The vCPU's CR4, as the guest reads it.
    pub cr4: u64,
}

/// Who wrote a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A guest that seals itself.
    Guest,
    /// [`saved`](super::saved), of a seal that was changed since: it may have lost all ranges that
    /// a guest must begin with, and got what only a GRANT makes.
    State,
}

/// A SEAL request that passed every check which needs no VM.
///
/// # Invariants
///
/// Every range passed `check_range`, the areas passed `check_areas`. In a guest's request at least
/// one range has the right to run if `exec`, and there are ranges or pins.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    exec: bool,
    ranges: &'a [Unalign<abi::Range>],
    pins: Pins,
    all_pins: &'a [Unalign<abi::Pin>],
    areas: &'a [Unalign<abi::Area>],
}

impl<'a> Request<'a> {
    /// Reads and checks `bytes`, all of the request and nothing else.
    ///
    /// # Errors
    ///
    /// The first refusal found. Overlaps are found by [`build`].
    pub fn parse(bytes: &'a [u8], caps: &Caps) -> Result<Self, Refusal> {
        Self::parse_from(Origin::Guest, bytes, caps)
    }

    /// As [`Self::parse`], for the SEAL in a saved state.
    pub(super) fn parse_saved(bytes: &'a [u8], caps: &Caps) -> Result<Self, Refusal> {
        Self::parse_from(Origin::State, bytes, caps)
    }

    fn parse_from(origin: Origin, bytes: &'a [u8], caps: &Caps) -> Result<Self, Refusal> {
        let is_first = origin == Origin::Guest;
        let Parts {
            header,
            ranges,
            pins,
            areas,
        } = split(bytes)?;
        let exec = header.flags & abi::HEKI_SEAL_EXEC != 0;
        if exec && !caps.exec {
            return Err(Refusal::ExecUnsupported);
        }
        if is_first && ranges.is_empty() && pins.is_empty() {
            return Err(Refusal::Empty);
        }

        for range in ranges {
            check_sealed(&range.get(), origin)?;
        }
        if is_first && exec && !ranges.iter().any(|range| runs(&range.get())) {
            return Err(Refusal::NoExec);
        }

        let all_pins = pins;
        let pins = collect_pins(all_pins, caps)?;
        if pins.cr4 & CR4_CET != 0 && pins.cr0 & CR0_WP == 0 {
            return Err(Refusal::CetNeedsWp);
        }
        if exec && pins.cr4 & CR4_SMEP == 0 {
            return Err(Refusal::ExecNeedsSmep);
        }

        check_areas(areas)?;

        // INVARIANT: All of it was checked above.
        Ok(Self {
            exec,
            ranges,
            pins,
            all_pins,
            areas,
        })
    }

    /// Whether the ranges with the right to run are an allow-list.
    pub const fn exec(&self) -> bool {
        self.exec
    }

    /// The number of ranges, and so of regions at most.
    pub const fn nr_ranges(&self) -> usize {
        self.ranges.len()
    }

    /// The bits of control registers to pin.
    pub const fn pins(&self) -> Pins {
        self.pins
    }

    /// The number of pins of all registers.
    pub const fn nr_pins(&self) -> usize {
        self.all_pins.len()
    }

    /// The pins of all registers, in the order of the request.
    pub(super) fn all_pins(&self) -> impl Iterator<Item = abi::Pin> + 'a {
        self.all_pins.iter().map(|pin| pin.get())
    }

    /// The pins of registers that are held by value, for [`registers::hold`].
    pub fn kept(&self) -> impl Iterator<Item = abi::Pin> + 'a {
        self.all_pins().filter(|pin| registers::is_kept(pin.reg))
    }

    /// What the guest says of its text, in its order.
    pub fn areas(&self) -> impl Iterator<Item = abi::Area> + 'a {
        self.areas.iter().map(|area| area.get())
    }

    /// The rights of memory in no range: all but execution if there is an allow-list, else all.
    pub const fn default_rights(&self) -> Rights {
        Rights::new(true, !self.exec)
    }

    /// The ranges as regions, in the guest's order, each with the rights that it has from now on.
    ///
    /// Without an allow-list nothing limits execution, so every region has that right.
    pub fn ranges(&self) -> impl Iterator<Item = Region> + 'a {
        let unlisted = Rights::new(false, !self.exec);
        self.ranges
            .iter()
            .map(move |range| region(&range.get(), unlisted))
    }
}

/// Writes the regions of `request` into `out`, sorted, disjoint and with equal neighbours merged.
///
/// Returns how many there are. `out` must have room for [`Request::nr_ranges`]; what it holds after
/// them, or after an error, means nothing.
///
/// # Errors
///
/// [`Refusal::Overlap`] if two ranges share a page or an address, [`Refusal::NoMemory`] if `out` is
/// too short.
pub fn build(request: &Request<'_>, out: &mut [Region]) -> Result<usize, Refusal> {
    let out = out
        .get_mut(..request.nr_ranges())
        .ok_or(Refusal::NoMemory)?;
    for (slot, region) in out.iter_mut().zip(request.ranges()) {
        *slot = region;
    }
    map::normalize(out)
}

/// The parts of a request, with nothing checked but the header.
struct Parts<'a> {
    header: abi::Seal,
    ranges: &'a [Unalign<abi::Range>],
    pins: &'a [Unalign<abi::Pin>],
    areas: &'a [Unalign<abi::Area>],
}

/// Splits `bytes` as their header says.
fn split(bytes: &[u8]) -> Result<Parts<'_>, Refusal> {
    if bytes.len() > to_usize(abi::HEKI_MAX_REQUEST_BYTES)? {
        return Err(Refusal::TooBig);
    }
    let (header, rest) = abi::Seal::read_from_prefix(bytes).map_err(|_| Refusal::BadLength)?;
    check_header(&header)?;
    let (ranges, rest) = <[_]>::ref_from_prefix_with_elems(rest, to_usize(header.nr_ranges)?)
        .map_err(|_| Refusal::BadLength)?;
    let (pins, rest) = <[_]>::ref_from_prefix_with_elems(rest, to_usize(header.nr_pins)?)
        .map_err(|_| Refusal::BadLength)?;
    let areas = <[_]>::ref_from_bytes_with_elems(rest, to_usize(header.nr_areas)?)
        .map_err(|_| Refusal::BadLength)?;
    Ok(Parts {
        header,
        ranges,
        pins,
        areas,
    })
}

/// Checks the header by itself.
fn check_header(header: &abi::Seal) -> Result<(), Refusal> {
    if header.version != abi::HEKI_ABI_VERSION {
        return Err(Refusal::BadVersion);
    }
    if header.flags & !abi::HEKI_SEAL_FLAGS != 0 {
        return Err(Refusal::BadFlags);
    }
    if header.reserved != 0 {
        return Err(Refusal::BadReserved);
    }
    if header.nr_ranges > abi::HEKI_MAX_RANGES
        || header.nr_pins > abi::HEKI_MAX_PINS
        || header.nr_areas > abi::HEKI_MAX_AREAS
    {
        return Err(Refusal::TooBig);
    }
    Ok(())
}

/// A number of the wire as a length.
pub(super) fn to_usize(number: u32) -> Result<usize, Refusal> {
    usize::try_from(number).map_err(|_| Refusal::TooBig)
}

/// Whether `range` has the right to run.
const fn runs(range: &abi::Range) -> bool {
    range.rights & abi::HEKI_EXEC != 0
}

/// Checks one range of a SEAL by itself. Only a GRANT, which looks at the content, makes ftrace
/// trampolines.
fn check_sealed(range: &abi::Range, origin: Origin) -> Result<(), Refusal> {
    check_range(range)?;
    if origin == Origin::Guest && range.kind == abi::HEKI_KIND_FTRACE {
        return Err(Refusal::BadKind);
    }
    Ok(())
}

/// Checks one range by itself.
pub(super) fn check_range(range: &abi::Range) -> Result<(), Refusal> {
    if (range.gpa | range.len | range.va) & PAGE_OFFSET != 0 {
        return Err(Refusal::Unaligned);
    }
    if range.len == 0 {
        return Err(Refusal::Empty);
    }
    match range.gpa.checked_add(range.len) {
        Some(end) if end <= GPA_END => {}
        _ => return Err(Refusal::Overflow),
    }
    if range.va.checked_add(range.len).is_none() {
        return Err(Refusal::Overflow);
    }
    let rights = Rights::from_bits(range.rights).ok_or(Refusal::BadRights)?;
    if rights == Rights::ALL {
        return Err(Refusal::WriteAndExec);
    }
    if range.kind >= abi::HEKI_KIND_COUNT {
        return Err(Refusal::BadKind);
    }
    Ok(())
}

/// The region that a checked `range` is, with `unlisted` added to its rights.
pub(super) fn region(range: &abi::Range, unlisted: Rights) -> Region {
    let rights = Rights::from_bits(range.rights).unwrap_or_default();
    Region {
        start: range.gpa >> PAGE_SHIFT,
        end: range.gpa.saturating_add(range.len) >> PAGE_SHIFT,
        va: range.va,
        rights: rights.union(unlisted),
        kind: range.kind,
    }
}

/// The range that [`region`] makes `region` of, in a seal that limits execution or not.
pub(super) fn range(region: &Region, exec: bool) -> abi::Range {
    let rights = match region.rights {
        // Without an allow-list all can run, and nothing needs to say so.
        Rights::ALL if !exec => Rights::WRITE,
        rights => rights,
    };
    abi::Range {
        rights: rights.bits(),
        ..region.abi()
    }
}

/// Checks the areas: each by itself, that all but the tables and frozen keys come once, and that
/// both are not too many.
fn check_areas(areas: &[Unalign<abi::Area>]) -> Result<(), Refusal> {
    let mut seen: u32 = 0;
    let mut nr_sites: u64 = 0;
    let mut nr_frozen: u32 = 0;
    for area in areas {
        let area = area.get();
        check_area(&area)?;
        if let Some(entry) = entry_bytes(area.kind) {
            nr_sites = nr_sites.saturating_add(entries(area.len, entry)?);
            continue;
        }
        if area.kind == abi::HEKI_AREA_FROZEN {
            nr_frozen = nr_frozen.saturating_add(1);
            continue;
        }
        let bit = 1u32.checked_shl(area.kind).ok_or(Refusal::BadArea)?;
        if seen & bit != 0 {
            return Err(Refusal::BadArea);
        }
        seen |= bit;
    }
    if nr_sites > u64::from(abi::HEKI_MAX_SITES) || nr_frozen > abi::HEKI_MAX_FROZEN {
        return Err(Refusal::TooBig);
    }
    Ok(())
}

/// Checks one area by itself.
fn check_area(area: &abi::Area) -> Result<(), Refusal> {
    if area.kind >= abi::HEKI_AREA_COUNT {
        return Err(Refusal::BadArea);
    }
    if area.reserved != 0 {
        return Err(Refusal::BadReserved);
    }
    if area.va.checked_add(area.len).is_none() {
        return Err(Refusal::Overflow);
    }
    Ok(())
}

/// The length in bytes of an entry of a table, `None` of an area that is no table.
pub const fn entry_bytes(kind: u32) -> Option<u64> {
    match kind {
        abi::HEKI_AREA_JUMP_TABLE => Some(16),
        abi::HEKI_AREA_STATIC_CALL_SITES | abi::HEKI_AREA_MCOUNT => Some(8),
        _ => None,
    }
}

/// The number of entries of `entry` bytes in `len` bytes.
fn entries(len: u64, entry: u64) -> Result<u64, Refusal> {
    match (len.checked_rem(entry), len.checked_div(entry)) {
        (Some(0), Some(count)) => Ok(count),
        _ => Err(Refusal::BadArea),
    }
}

/// Checks the pins and gathers them by register.
fn collect_pins(pins: &[Unalign<abi::Pin>], caps: &Caps) -> Result<Pins, Refusal> {
    let mut all = Pins::NONE;
    for (nr, pin) in pins.iter().enumerate() {
        let pin = pin.get();
        if registers::is_kept(pin.reg) {
            check_kept(&pin, pins.iter().take(nr), caps)?;
            continue;
        }
        let (pinned, pinnable, current) = match pin.reg {
            abi::HEKI_REG_CR0 => (&mut all.cr0, PINNABLE_CR0 & caps.cr0_pinnable, caps.cr0),
            abi::HEKI_REG_CR4 => (&mut all.cr4, PINNABLE_CR4 & caps.cr4_pinnable, caps.cr4),
            _ => return Err(Refusal::BadRegister),
        };
        check_pin(&pin, pinnable, current)?;
        // A pin that passed has bits, so bits here are those of an earlier pin.
        if *pinned != 0 {
            return Err(Refusal::DuplicatePin);
        }
        *pinned = pin.mask;
    }
    Ok(all)
}

/// Checks the pin of a register that is held by value; `earlier` are the pins before it. What the
/// vCPU has of the register is for [`registers::hold`].
fn check_kept<'a>(
    pin: &abi::Pin,
    mut earlier: impl Iterator<Item = &'a Unalign<abi::Pin>>,
    caps: &Caps,
) -> Result<(), Refusal> {
    if pin.reg == abi::HEKI_REG_XCR0 && pin.index != 0 {
        return Err(Refusal::BadReserved);
    }
    if pin.mask == 0 {
        return Err(Refusal::EmptyPin);
    }
    if !caps.msr || pin.mask & !registers::pinnable(pin.reg, pin.index) != 0 {
        return Err(Refusal::PinUnsupported);
    }
    if earlier.any(|other| (other.get().reg, other.get().index) == (pin.reg, pin.index)) {
        return Err(Refusal::DuplicatePin);
    }
    Ok(())
}

/// Checks one pin against the bits that can be pinned and those that are set now.
fn check_pin(pin: &abi::Pin, pinnable: u64, current: u64) -> Result<(), Refusal> {
    if pin.index != 0 {
        return Err(Refusal::BadReserved);
    }
    if pin.mask == 0 {
        return Err(Refusal::EmptyPin);
    }
    if pin.mask & !pinnable != 0 {
        return Err(Refusal::PinUnsupported);
    }
    if pin.mask & !current != 0 {
        return Err(Refusal::PinNotSet);
    }
    Ok(())
}

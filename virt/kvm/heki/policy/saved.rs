// SPDX-License-Identifier: GPL-2.0

//! The saved state of a VM: bytes that another host can take up from.
//!
//! [`write`] makes them, [`Saved::parse`] reads them and trusts nothing: what a seal is made of is
//! held to the rules of the SEAL request, by the same code. Neither allocates.
//! Neighbours: `abi` for the layout, [`request`](super::request) for the seal in it,
//! [`sites`](super::patch::sites) and [`probes`](super::patch::probes) for their own entries.
//! Locks: none.

use core::mem::{
    size_of,
    take, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    Unalign, //
};

use super::{
    abi,
    map::Region,
    patch::{
        areas::Areas,
        probes::Probe,
        sites::Packed, //
    },
    pin::Pins,
    refusal::Refusal,
    registers::{
        self,
        Held, //
    },
    request::{
        self,
        Caps,
        Request, //
    },
};

/// What a seal consists of.
pub struct Source<'a> {
    /// Whether supervisor execution is an allow-list.
    pub exec: bool,
    /// Its regions, sorted and disjoint.
    pub regions: &'a [Region],
    /// Bits of control registers that stay set.
    pub pins: Pins,
    /// Other registers of which bits keep their value.
    pub held: &'a [Held],
    /// What the guest said of its text.
    pub areas: &'a Areas,
    /// Instructions that may change, as [`finish`](super::patch::sites::finish) left them.
    pub sites: &'a [Packed],
    /// Where breakpoints are allowed, as [`finish`](super::patch::probes::finish) left them.
    pub probes: &'a [Probe],
    /// Where the text begins of which the VMM gave the profile, if it did.
    pub text_va: Option<u64>,
}

impl Source<'_> {
    fn pinned(&self) -> impl Iterator<Item = Held> + '_ {
        let of = |reg| Held {
            reg,
            index: 0,
            mask: self.pins.of(reg),
            value: self.pins.of(reg),
        };
        let crs = [of(abi::HEKI_REG_CR0), of(abi::HEKI_REG_CR4)];
        let crs = crs.into_iter().filter(|pin| pin.mask != 0);
        crs.chain(self.held.iter().copied())
    }

    fn header(&self) -> abi::Seal {
        abi::Seal {
            version: abi::HEKI_ABI_VERSION,
            flags: if self.exec { abi::HEKI_SEAL_EXEC } else { 0 },
            nr_ranges: count(self.regions.len()),
            nr_pins: count(self.pinned().count()),
            nr_areas: count(self.areas.iter().count()),
            reserved: 0,
        }
    }

    fn seal_bytes(&self) -> usize {
        let mut bytes = abi::HEADER_BYTES;
        bytes = bytes.saturating_add(array::<abi::Range>(self.regions.len()));
        bytes = bytes.saturating_add(array::<abi::Pin>(self.pinned().count()));
        bytes.saturating_add(array::<abi::Area>(self.areas.iter().count()))
    }
}

/// A length as a number of the wire; none of ours is near the end of it.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Bytes of `nr` entries.
const fn array<T>(nr: usize) -> usize {
    nr.saturating_mul(size_of::<T>())
}

/// The records of a state, and how many bytes each has.
fn records(seal: Option<&Source<'_>>, nr_vcpus: usize) -> impl Iterator<Item = (u32, usize)> {
    let values = |source: &Source<'_>| array::<u64>(source.pinned().count());
    [
        (abi::HEKI_RECORD_LIFE, Some(size_of::<abi::Life>())),
        (abi::HEKI_RECORD_SEAL, seal.map(Source::seal_bytes)),
        (abi::HEKI_RECORD_VALUES, seal.map(values)),
        (
            abi::HEKI_RECORD_SITES,
            seal.map(|source| array::<abi::Place>(source.sites.len())),
        ),
        (
            abi::HEKI_RECORD_PROBES,
            seal.map(|source| array::<abi::Probe>(source.probes.len())),
        ),
        (
            abi::HEKI_RECORD_COUNTERS,
            Some(array::<abi::Counters>(nr_vcpus)),
        ),
    ]
    .into_iter()
    .filter_map(|(kind, bytes)| Some((kind, bytes?)))
}

/// The number of bytes that [`write`] makes of a VM with this seal, if any, and so many vCPUs.
pub fn bytes(seal: Option<&Source<'_>>, nr_vcpus: usize) -> usize {
    records(seal, nr_vcpus)
        .map(|(_, bytes)| bytes.saturating_add(size_of::<abi::Record>()))
        .fold(size_of::<abi::Saved>(), usize::saturating_add)
}

/// Writes the state of a VM into `out`, which has room for [`bytes`] of it and no more.
///
/// # Errors
///
/// [`Refusal::BadLength`] if it has not.
pub fn write(
    seal: Option<&Source<'_>>,
    counters: impl ExactSizeIterator<Item = abi::Counters>,
    out: &mut [u8],
) -> Result<(), Refusal> {
    let nr_vcpus = counters.len();
    let header = abi::Saved {
        magic: abi::HEKI_SAVED_MAGIC,
        version: abi::HEKI_SAVED_VERSION,
        nr_records: count(records(seal, nr_vcpus).count()),
        len: bytes(seal, nr_vcpus) as u64,
    };
    let mut out = Out(out);
    let mut counters = Some(counters);
    out.put(&header)?;
    for (kind, bytes) in records(seal, nr_vcpus) {
        out.put(&abi::Record {
            kind,
            reserved: 0,
            len: bytes as u64,
        })?;
        match (kind, seal) {
            (abi::HEKI_RECORD_LIFE, seal) => out.put(&life(seal))?,
            (abi::HEKI_RECORD_COUNTERS, _) => out.put_all(counters.take().into_iter().flatten())?,
            (kind, Some(source)) => out.put_seal(kind, source)?,
            (_, None) => {}
        }
    }
    out.end()
}

fn life(seal: Option<&Source<'_>>) -> abi::Life {
    abi::Life {
        state: match seal {
            Some(_) => abi::HEKI_STATE_SEALED,
            None => abi::HEKI_STATE_OPEN,
        },
        reserved: 0,
        text_va: seal.and_then(|source| source.text_va).unwrap_or(0),
    }
}

/// Room that is filled from its beginning.
struct Out<'a>(&'a mut [u8]);

impl Out<'_> {
    fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Refusal> {
        let (here, rest) = take(&mut self.0)
            .split_at_mut_checked(size_of::<T>())
            .ok_or(Refusal::BadLength)?;
        here.copy_from_slice(value.as_bytes());
        self.0 = rest;
        Ok(())
    }

    fn put_all<T: IntoBytes + Immutable>(
        &mut self,
        mut values: impl Iterator<Item = T>,
    ) -> Result<(), Refusal> {
        values.try_for_each(|value| self.put(&value))
    }

    /// The content of the records that only a sealed VM has.
    fn put_seal(&mut self, kind: u32, source: &Source<'_>) -> Result<(), Refusal> {
        match kind {
            abi::HEKI_RECORD_SEAL => {
                self.put(&source.header())?;
                let ranges = source.regions.iter();
                self.put_all(ranges.map(|region| request::range(region, source.exec)))?;
                self.put_all(source.pinned().map(|pin| abi::Pin {
                    reg: pin.reg,
                    index: pin.index,
                    mask: pin.mask,
                }))?;
                self.put_all(source.areas.iter())
            }
            abi::HEKI_RECORD_VALUES => {
                self.put_all(source.pinned().map(|pin| pin.value & pin.mask))
            }
            abi::HEKI_RECORD_SITES => self.put_all(source.sites.iter().map(Packed::save)),
            _ => self.put_all(source.probes.iter().map(Probe::save)),
        }
    }

    fn end(self) -> Result<(), Refusal> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Refusal::BadLength)
        }
    }
}

/// A saved state that passed every check which needs no VM.
#[derive(Clone, Copy)]
pub struct Saved<'a> {
    seal: Option<Seal<'a>>,
    counters: &'a [Unalign<abi::Counters>],
}

/// The seal in a saved state.
///
/// # Invariants
///
/// There is a value for each pin of the request, and the sites and the probes ascend, each good by
/// itself.
#[derive(Clone, Copy)]
pub struct Seal<'a> {
    /// The SEAL request that has the same effect.
    pub request: Request<'a>,
    values: &'a [Unalign<u64>],
    sites: &'a [Unalign<abi::Place>],
    probes: &'a [Unalign<abi::Probe>],
    /// Where the text begins of which the VMM gave the profile, if it did.
    pub text_va: Option<u64>,
}

impl<'a> Saved<'a> {
    /// Reads and checks `bytes`, all of a state and nothing else. The registers in `caps` do not
    /// count: no vCPU asks.
    ///
    /// # Errors
    ///
    /// The first refusal found.
    pub fn parse(bytes: &'a [u8], caps: &Caps) -> Result<Self, Refusal> {
        let (header, rest) = abi::Saved::read_from_prefix(bytes).map_err(|_| Refusal::BadLength)?;
        check_header(&header, bytes.len())?;
        let mut records = Records {
            rest,
            left: header.nr_records,
        };
        let life = records.take(abi::HEKI_RECORD_LIFE)?;
        let life = abi::Life::read_from_bytes(life).map_err(|_| Refusal::BadRecord)?;
        if life.reserved != 0 {
            return Err(Refusal::BadReserved);
        }
        let seal = match (life.state, life.text_va) {
            (abi::HEKI_STATE_OPEN, 0) => None,
            (abi::HEKI_STATE_SEALED, text_va) => {
                let text_va = Some(text_va).filter(|&va| va != 0);
                Some(Seal::parse(&mut records, text_va, caps)?)
            }
            _ => return Err(Refusal::BadRecord),
        };
        let counters = records.take_array::<abi::Counters>(abi::HEKI_RECORD_COUNTERS)?;
        records.end()?;
        check_counters(counters)?;
        Ok(Self { seal, counters })
    }

    /// The seal, if the VM was sealed.
    pub const fn seal(&self) -> Option<&Seal<'a>> {
        self.seal.as_ref()
    }

    /// The counters of vCPUs, each once.
    pub fn counters(&self) -> impl Iterator<Item = abi::Counters> + 'a {
        self.counters.iter().map(|counters| counters.get())
    }
}

impl<'a> Seal<'a> {
    fn parse(
        records: &mut Records<'a>,
        text_va: Option<u64>,
        caps: &Caps,
    ) -> Result<Self, Refusal> {
        let caps = Caps {
            cr0: u64::MAX,
            cr4: u64::MAX,
            ..*caps
        };
        let request = Request::parse_saved(records.take(abi::HEKI_RECORD_SEAL)?, &caps)?;
        // Tables were read at the seal: what is left of them are the sites.
        if request
            .areas()
            .any(|area| request::entry_bytes(area.kind).is_some())
        {
            return Err(Refusal::BadArea);
        }
        let values = records.take_array(abi::HEKI_RECORD_VALUES)?;
        check_values(&request, values)?;
        let sites = records.take_array(abi::HEKI_RECORD_SITES)?;
        check_sites(sites)?;
        let probes = records.take_array(abi::HEKI_RECORD_PROBES)?;
        check_probes(probes)?;
        // INVARIANT: Checked above.
        Ok(Self {
            request,
            values,
            sites,
            probes,
            text_va,
        })
    }

    /// The pins of registers that are held by value, and those values.
    pub fn kept(&self) -> impl Iterator<Item = (abi::Pin, u64)> + 'a {
        let values = self.values.iter().map(|value| value.get());
        let all = self.request.all_pins().zip(values);
        all.filter(|(pin, _)| registers::is_kept(pin.reg))
    }

    /// The number of sites.
    pub const fn nr_sites(&self) -> usize {
        self.sites.len()
    }

    /// The instructions that may change, in order.
    pub fn sites(&self) -> impl Iterator<Item = Packed> + 'a {
        let all = self.sites.iter();
        all.filter_map(|site| Packed::restore(&site.get()))
    }

    /// The number of probes.
    pub const fn nr_probes(&self) -> usize {
        self.probes.len()
    }

    /// Where breakpoints are allowed, in order.
    pub fn probes(&self) -> impl Iterator<Item = Probe> + 'a {
        let all = self.probes.iter();
        all.filter_map(|probe| Probe::restore(&probe.get()))
    }
}

/// Records that are still to be read.
struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Records<'a> {
    /// The content of the next record, which is of `kind`.
    fn take(&mut self, kind: u32) -> Result<&'a [u8], Refusal> {
        self.left = self.left.checked_sub(1).ok_or(Refusal::BadRecord)?;
        let (header, rest) =
            abi::Record::read_from_prefix(self.rest).map_err(|_| Refusal::BadLength)?;
        if header.kind != kind {
            return Err(Refusal::BadRecord);
        }
        if header.reserved != 0 {
            return Err(Refusal::BadReserved);
        }
        let len = usize::try_from(header.len).map_err(|_| Refusal::TooBig)?;
        let (content, rest) = rest.split_at_checked(len).ok_or(Refusal::BadLength)?;
        self.rest = rest;
        Ok(content)
    }

    /// The same, which has nothing but entries of one type.
    fn take_array<T: FromBytes + Immutable>(
        &mut self,
        kind: u32,
    ) -> Result<&'a [Unalign<T>], Refusal> {
        <[Unalign<T>]>::ref_from_bytes(self.take(kind)?).map_err(|_| Refusal::BadLength)
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.left != 0 {
            return Err(Refusal::BadRecord);
        }
        if !self.rest.is_empty() {
            return Err(Refusal::BadLength);
        }
        Ok(())
    }
}

fn check_header(header: &abi::Saved, len: usize) -> Result<(), Refusal> {
    if header.magic != abi::HEKI_SAVED_MAGIC {
        return Err(Refusal::BadMagic);
    }
    if header.version != abi::HEKI_SAVED_VERSION {
        return Err(Refusal::BadVersion);
    }
    if header.len > u64::from(abi::HEKI_MAX_STATE_BYTES) {
        return Err(Refusal::TooBig);
    }
    if usize::try_from(header.len) != Ok(len) {
        return Err(Refusal::BadLength);
    }
    Ok(())
}

/// Checks that each pin has a value, with no other bits than those that it holds. Bits of a control
/// register stay set.
fn check_values(request: &Request<'_>, values: &[Unalign<u64>]) -> Result<(), Refusal> {
    if values.len() != request.nr_pins() {
        return Err(Refusal::BadLength);
    }
    let fits = |(pin, value): (abi::Pin, &Unalign<u64>)| {
        let value = value.get();
        let wanted = registers::is_kept(pin.reg) || value == pin.mask;
        wanted && value & !pin.mask == 0
    };
    if request.all_pins().zip(values).all(fits) {
        Ok(())
    } else {
        Err(Refusal::BadRecord)
    }
}

/// Checks the sites by themselves, and that they ascend and share no byte.
fn check_sites(sites: &[Unalign<abi::Place>]) -> Result<(), Refusal> {
    if sites.len() > request::to_usize(abi::HEKI_MAX_SITES)? {
        return Err(Refusal::TooBig);
    }
    let mut end = 0;
    for saved in sites {
        let packed = Packed::restore(&saved.get()).ok_or(Refusal::BadRecord)?;
        let site = packed.site();
        if site.va < end {
            return Err(Refusal::Overlap);
        }
        end = site.end();
    }
    Ok(())
}

/// Checks the probes by themselves, and that they ascend.
fn check_probes(probes: &[Unalign<abi::Probe>]) -> Result<(), Refusal> {
    if probes.len() > request::to_usize(abi::HEKI_MAX_PROBES)? {
        return Err(Refusal::TooBig);
    }
    let good = |probe: &Unalign<abi::Probe>| Probe::restore(&probe.get()).is_some();
    if !probes.iter().all(good) {
        return Err(Refusal::BadRecord);
    }
    if !probes.is_sorted_by(|left, right| left.get().va < right.get().va) {
        return Err(Refusal::Overlap);
    }
    Ok(())
}

/// Checks that the counters are of one vCPU after the other.
fn check_counters(counters: &[Unalign<abi::Counters>]) -> Result<(), Refusal> {
    if counters.iter().any(|entry| entry.get().reserved != 0) {
        return Err(Refusal::BadReserved);
    }
    if !counters.is_sorted_by(|left, right| left.get().vcpu < right.get().vcpu) {
        return Err(Refusal::BadRecord);
    }
    Ok(())
}

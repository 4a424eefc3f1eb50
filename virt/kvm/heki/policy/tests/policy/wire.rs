// SPDX-License-Identifier: GPL-2.0

//! Writes SEAL requests, good and bad.

use heki_abi::{Area, Pin, Range, Seal, HEKI_ABI_VERSION, HEKI_REG_MSR};
use heki_policy::map::{Region, PAGE_SHIFT};
use heki_policy::refusal::Refusal;
use heki_policy::request::{build, Caps, Request};
use zerocopy::IntoBytes;

/// A request before it is bytes.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) header: Seal,
    pub(crate) ranges: Vec<Range>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) areas: Vec<Area>,
}

impl Wire {
    /// A request of `ranges` and `pins` with a header that fits.
    pub(crate) fn new(flags: u32, ranges: Vec<Range>, pins: Vec<Pin>) -> Self {
        let header = Seal {
            version: HEKI_ABI_VERSION,
            flags,
            nr_ranges: ranges.len() as u32,
            nr_pins: pins.len() as u32,
            nr_areas: 0,
            reserved: 0,
        };
        Self {
            header,
            ranges,
            pins,
            areas: vec![],
        }
    }

    /// The same request with `areas`.
    pub(crate) fn with_areas(mut self, areas: Vec<Area>) -> Self {
        self.header.nr_areas = areas.len() as u32;
        self.areas = areas;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.as_bytes().to_vec();
        bytes.extend_from_slice(self.ranges.as_bytes());
        bytes.extend_from_slice(self.pins.as_bytes());
        bytes.extend_from_slice(self.areas.as_bytes());
        bytes
    }

    /// What the parser alone says.
    pub(crate) fn refusal(&self, caps: &Caps) -> Option<Refusal> {
        Request::parse(&self.bytes(), caps).err()
    }

    /// What parser and builder say.
    pub(crate) fn regions(&self, caps: &Caps) -> Result<Vec<Region>, Refusal> {
        let bytes = self.bytes();
        let request = Request::parse(&bytes, caps)?;
        let mut regions = vec![Region::default(); request.nr_ranges()];
        let used = build(&request, &mut regions)?;
        regions.truncate(used);
        Ok(regions)
    }
}

/// A range of `nr_pages` frames from `gfn`, at no address that matters.
pub(crate) fn range(gfn: u64, nr_pages: u64, rights: u32, kind: u32) -> Range {
    Range {
        gpa: gfn << PAGE_SHIFT,
        len: nr_pages << PAGE_SHIFT,
        va: 0,
        rights,
        kind,
    }
}

/// `range`, mapped at `va`.
pub(crate) fn at(va: u64, range: Range) -> Range {
    Range { va, ..range }
}

pub(crate) fn area(kind: u32, va: u64, len: u64) -> Area {
    Area {
        kind,
        reserved: 0,
        va,
        len,
    }
}

pub(crate) fn pin(reg: u32, mask: u64) -> Pin {
    Pin {
        reg,
        index: 0,
        mask,
    }
}

pub(crate) fn msr(index: u32, mask: u64) -> Pin {
    Pin {
        reg: HEKI_REG_MSR,
        index,
        mask,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What must hold for any bytes that may be set as the state of a VM: shared by the fuzz target and the
//! tests.

use heki_abi::Counters;
use heki_policy::address;
use heki_policy::map::{Map, Region};
use heki_policy::patch::areas::Areas;
use heki_policy::patch::probes::Probe;
use heki_policy::patch::sites::{self, Packed};
use heki_policy::refusal::Refusal;
use heki_policy::registers::Held;
use heki_policy::request::{build, Caps};
use heki_policy::saved::{self, Saved, Seal, Source};

/// Writes a state into memory of just its size.
pub(crate) fn write(source: Option<&Source<'_>>, counters: &[Counters]) -> Vec<u8> {
    let mut bytes = vec![0; saved::bytes(source, counters.len())];
    saved::write(source, counters.iter().copied(), &mut bytes).expect("it has its size");
    bytes
}

/// Reads `bytes`, and writes what was accepted again: the same, but for the order of what has none.
pub(crate) fn rewrite(bytes: &[u8], caps: &Caps) -> Result<Vec<u8>, Refusal> {
    let saved = Saved::parse(bytes, caps)?;
    let counters: Vec<Counters> = saved.counters().collect();
    let Some(seal) = saved.seal() else {
        return Ok(write(None, &counters));
    };
    let regions = regions(seal)?;
    let held: Vec<Held> = seal.kept().map(|(pin, value)| held(&pin, value)).collect();
    let sites: Vec<Packed> = seal.sites().collect();
    let probes: Vec<Probe> = seal.probes().collect();
    assert_eq!(
        (sites.len(), probes.len()),
        (seal.nr_sites(), seal.nr_probes())
    );
    let mut finished = sites.clone();
    assert_eq!(sites::finish(&mut finished), sites.len());
    assert_eq!(finished, sites);
    let source = Source {
        exec: seal.request.exec(),
        regions: &regions,
        pins: seal.request.pins(),
        held: &held,
        areas: &Areas::new(seal.request.areas()),
        sites: &sites,
        probes: &probes,
        text_va: seal.text_va,
    };
    Ok(write(Some(&source), &counters))
}

/// The regions of a seal, of which a map and windows can be made.
fn regions(seal: &Seal<'_>) -> Result<Vec<Region>, Refusal> {
    let mut regions = vec![Region::default(); seal.request.nr_ranges()];
    let used = build(&seal.request, &mut regions)?;
    regions.truncate(used);
    let map = Map::new(&regions, seal.request.default_rights());
    assert!(map.is_some(), "built regions make a map");
    address::index(&regions, &mut vec![0; regions.len()])?;
    Ok(regions)
}

fn held(pin: &heki_abi::Pin, value: u64) -> Held {
    Held {
        reg: pin.reg,
        index: pin.index,
        mask: pin.mask,
        value,
    }
}

/// Runs one input through everything and panics if anything is wrong.
pub(crate) fn fuzz_one(bytes: &[u8], caps: &Caps) -> Result<(), Refusal> {
    let once = rewrite(bytes, caps)?;
    assert_eq!(rewrite(&once, caps).as_ref(), Ok(&once));
    Ok(())
}

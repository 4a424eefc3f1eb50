// SPDX-License-Identifier: GPL-2.0

//! What the host must know of the kernel's text to judge a change of it: where the tables of sites are, and more.
//!
//! A table counts only if it lies in memory that is being sealed: whatever else it says could be changed later.
//!
//! Neighbours: [`ffi`](crate::ffi) for what the kernel knows, [`sections`](crate::sections) for what is sealed.
//! Locks: none; nobody may load or unload a module meanwhile, see [`lifecycle`](crate::lifecycle).

#![deny(unsafe_code)]

use kernel::prelude::*;
use zerocopy::FromZeros;

use crate::{
    abi,
    ffi,
    ranges::Span, //
};

/// The areas of the kernel and of its modules.
pub(crate) fn find(spans: &[Span]) -> Result<KVec<abi::Area>> {
    let max = abi::HEKI_MAX_AREAS as usize;
    let mut areas = KVec::from_elem(abi::Area::new_zeroed(), max, GFP_KERNEL)?;
    let nr = ffi::tables(&mut areas);
    if nr > max {
        pr_err!(
            "{} areas, the host takes {}; not sealed, load fewer modules before\n",
            nr,
            max
        );
        return Err(E2BIG);
    }
    areas.truncate(nr);
    areas.retain(|area| !is_table(area) || is_sealed(area, spans));
    Ok(areas)
}

fn is_table(area: &abi::Area) -> bool {
    matches!(
        area.kind,
        abi::HEKI_AREA_JUMP_TABLE | abi::HEKI_AREA_STATIC_CALL_SITES | abi::HEKI_AREA_MCOUNT
    )
}

/// Whether all of `area`, and not nothing, is in read-only data.
fn is_sealed(area: &abi::Area, spans: &[Span]) -> bool {
    let mut at = area.va;
    let end = area.va.saturating_add(area.len);
    while at < end {
        let holds = |span: &&Span| !span.exec && (span.va..span.va + span.bytes()).contains(&at);
        let Some(span) = spans.iter().find(holds) else {
            return false;
        };
        at = span.va + span.bytes();
    }
    area.len != 0
}

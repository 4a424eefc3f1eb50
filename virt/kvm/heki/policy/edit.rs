// SPDX-License-Identifier: GPL-2.0

//! Changes of a permission map: the regions that hold after a GRANT or a RELEASE.
//!
//! Writes a new array, because the old one is read without a lock until nobody can see it.
//! Neighbours: [`map`](super::map); [`grant`](super::grant) says what changes. Locks: none.

use super::{
    map::Region,
    refusal::Refusal, //
};

/// What becomes of the frames that change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// They get the rights, kind and addresses of the changes.
    Insert,
    /// They are in no region any more.
    Remove,
}

/// Writes to `out` what `regions` become by `changes`, sorted, disjoint and with equal neighbours
/// merged. Returns how many regions there are; the rest of `out` means nothing.
///
/// `regions` are those of a map, `changes` come from [`normalize`](super::map::normalize). There is
/// enough room in `out` for `regions` and twice the `changes`; less bounds what may come out.
///
/// # Errors
///
/// [`Refusal::TooBig`] if `out` is too short, [`Refusal::Overlap`] if an inserted address belongs
/// to another frame already. What `out` holds then means nothing.
pub fn edit(
    regions: &[Region],
    changes: &[Region],
    edit: Edit,
    out: &mut [Region],
) -> Result<usize, Refusal> {
    let inserts = match edit {
        Edit::Insert => changes,
        Edit::Remove => &[],
    };
    let mut new = Builder {
        out,
        used: 0,
        inserts,
    };
    for region in regions {
        let mut from = region.start;
        let first = changes.partition_point(|change| change.end <= region.start);
        let hits = changes.get(first..).unwrap_or_default();
        for hit in hits.iter().take_while(|hit| hit.start < region.end) {
            new.keep(region.part(from, hit.start))?;
            from = hit.end;
        }
        new.keep(region.part(from, region.end))?;
    }
    new.insert_before(u64::MAX)?;

    let used = new.used;
    let new = out.get(..used).unwrap_or_default();
    if inserts
        .iter()
        .any(|insert| new.iter().any(|region| insert.contradicts(region)))
    {
        return Err(Refusal::Overlap);
    }
    Ok(used)
}

/// The new regions so far, and what is still to be inserted.
struct Builder<'a> {
    out: &'a mut [Region],
    used: usize,
    inserts: &'a [Region],
}

impl Builder<'_> {
    /// Appends what is left of an old region, after what comes before it.
    fn keep(&mut self, part: Option<Region>) -> Result<(), Refusal> {
        match part {
            Some(part) => {
                self.insert_before(part.start)?;
                self.push(&part)
            }
            None => Ok(()),
        }
    }

    /// Appends the regions to be inserted that start before frame `gfn`.
    fn insert_before(&mut self, gfn: u64) -> Result<(), Refusal> {
        while let Some((next, rest)) = self.inserts.split_first() {
            if next.start >= gfn {
                break;
            }
            self.push(next)?;
            self.inserts = rest;
        }
        Ok(())
    }

    fn push(&mut self, region: &Region) -> Result<(), Refusal> {
        let last = self.used.checked_sub(1).and_then(|at| self.out.get_mut(at));
        if last.is_some_and(|last| last.absorb(region)) {
            return Ok(());
        }
        *self.out.get_mut(self.used).ok_or(Refusal::TooBig)? = *region;
        self.used = self.used.saturating_add(1);
        Ok(())
    }
}

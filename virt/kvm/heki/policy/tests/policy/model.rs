// SPDX-License-Identifier: GPL-2.0

//! The slow model of the permission map: one entry per frame of a small guest.

use heki_abi::Range;
use heki_policy::map::PAGE_SHIFT;
use heki_policy::rights::Rights;

/// Frames of the guest.
pub(crate) const SPACE: u64 = 1024;

#[derive(Debug)]
pub(crate) struct Model {
    frames: Vec<Option<(Rights, u32)>>,
    exec: bool,
}

impl Model {
    /// Paints `ranges` frame by frame; `None` if one is painted twice.
    pub(crate) fn paint(ranges: &[Range], exec: bool) -> Option<Self> {
        let mut frames = vec![None; SPACE as usize];
        for range in ranges {
            let first = range.gpa >> PAGE_SHIFT;
            for gfn in first..first + (range.len >> PAGE_SHIFT) {
                let rights = Rights::new(range.rights == 1, range.rights == 2 || !exec);
                let frame = &mut frames[gfn as usize];
                if frame.replace((rights, range.kind)).is_some() {
                    return None;
                }
            }
        }
        Some(Self { frames, exec })
    }

    pub(crate) fn rights(&self, gfn: u64) -> Rights {
        self.frame(gfn)
            .map_or(Rights::new(true, !self.exec), |(rights, _)| rights)
    }

    pub(crate) fn kind(&self, gfn: u64) -> Option<u32> {
        self.frame(gfn).map(|(_, kind)| kind)
    }

    pub(crate) fn uniform(&self, start: u64, nr_pages: u64) -> Option<Rights> {
        let shared = self.rights(start);
        (start..start + nr_pages)
            .all(|gfn| self.rights(gfn) == shared)
            .then_some(shared)
    }

    /// The number of stretches of frames with the same entry: what a merged map has regions.
    pub(crate) fn nr_stretches(&self) -> usize {
        let mut before = &None;
        let mut stretches = 0;
        for frame in &self.frames {
            if frame.is_some() && frame != before {
                stretches += 1;
            }
            before = frame;
        }
        stretches
    }

    fn frame(&self, gfn: u64) -> Option<(Rights, u32)> {
        self.frames.get(gfn as usize).copied().flatten()
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Ranges of physical memory that are to be sealed: in order, joined, never twice.
//!
//! One source, two builds: a crate for Cargo, and a module of the guest in the kernel.
//! Neighbours: filled by `sections`, read by `seal` and `report`. Locks: none.

#![cfg_attr(not(any(CONFIG_RUST, test)), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    CONFIG_RUST,
    allow(unreachable_pub, reason = "public in the Cargo build")
)]

/// Physical memory that is to be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Where the kernel maps its first byte.
    pub va: u64,
    /// Whether it runs; it is never written.
    pub exec: bool,
    /// What it is (`HEKI_KIND_*`).
    pub kind: u32,
}

impl Span {
    /// The number of bytes.
    pub const fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Appends `next` if it goes on where this one ends, in both address spaces, and is the same in
    /// all else.
    pub fn absorb(&mut self, next: &Span) -> bool {
        let joins = next.start == self.end
            && Some(next.va) == self.va.checked_add(self.bytes())
            && next.exec == self.exec
            && next.kind == self.kind;
        if joins {
            self.end = next.end;
        }
        joins
    }

    /// Takes away what lies before `start`.
    fn cut(&mut self, start: u64) {
        let lost = start.saturating_sub(self.start);
        self.start = self.start.saturating_add(lost);
        self.va = self.va.saturating_add(lost);
    }
}

/// Two pages that are one and the same, of which only one is text: the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict(pub u64);

/// Sorts `spans`, joins neighbours, and returns how many are left, at the front.
///
/// Memory that was found twice counts once, as what the span is that starts first.
///
/// # Errors
///
/// [`Conflict`] if two spans share a page and do not agree on whether it runs.
pub fn join(spans: &mut [Span]) -> Result<usize, Conflict> {
    sort(spans);
    let mut kept: usize = 0;
    for at in 0..spans.len() {
        let Some(mut span) = spans.get(at).copied() else {
            break;
        };
        if let Some(last) = kept.checked_sub(1).and_then(|at| spans.get_mut(at)) {
            if span.start < last.end && span.exec != last.exec {
                return Err(Conflict(span.start));
            }
            span.cut(last.end);
            if span.bytes() == 0 || last.absorb(&span) {
                continue;
            }
        }
        if let Some(slot) = spans.get_mut(kept) {
            *slot = span;
        }
        kept += 1;
    }
    Ok(kept)
}

/// By address. The sort of `core` is not for the kernel: objtool does not know all the ways in which it panics.
fn sort(spans: &mut [Span]) {
    let key = |span: &Span| (span.start, span.end);
    for end in 1..=spans.len() {
        let Some((new, sorted)) = spans.get(..end).and_then(<[Span]>::split_last) else {
            break;
        };
        let at = sorted.partition_point(|span| key(span) <= key(new));
        if let Some(shifted) = spans.get_mut(at..end) {
            shifted.rotate_right(1);
        }
    }
}

#[cfg(all(test, not(CONFIG_RUST)))]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    /// From physical addresses to where the kernel maps them.
    const OFFSET: u64 = 0xffff_8880_0000_0000;

    fn span(start: u64, end: u64, exec: bool, kind: u32) -> Span {
        Span {
            start: start * PAGE,
            end: end * PAGE,
            va: OFFSET + start * PAGE,
            exec,
            kind,
        }
    }

    fn joined(mut spans: Vec<Span>) -> Result<Vec<Span>, Conflict> {
        let kept = join(&mut spans)?;
        spans.truncate(kept);
        Ok(spans)
    }

    #[test]
    fn text_that_is_also_data_is_refused() {
        let spans = vec![span(4, 8, true, 1), span(7, 9, false, 2)];
        assert_eq!(joined(spans), Err(Conflict(7 * PAGE)));
        let spans = vec![span(4, 8, true, 1), span(4, 8, false, 1)];
        assert_eq!(joined(spans), Err(Conflict(4 * PAGE)));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(joined(vec![]), Ok(vec![]));
    }

    #[test]
    fn neighbours_are_joined_in_any_order() {
        let spans = vec![
            span(3, 4, false, 2),
            span(1, 2, false, 2),
            span(2, 3, false, 2),
        ];
        assert_eq!(joined(spans), Ok(vec![span(1, 4, false, 2)]));
    }

    #[test]
    fn different_neighbours_stay_apart() {
        let spans = vec![
            span(1, 2, true, 1),
            span(2, 3, false, 1),
            span(3, 4, false, 2),
        ];
        assert_eq!(joined(spans.clone()), Ok(spans));
    }

    #[test]
    fn neighbours_in_one_address_space_only_stay_apart() {
        let elsewhere = Span {
            va: OFFSET + 64 * PAGE,
            ..span(2, 3, false, 2)
        };
        let spans = vec![span(1, 2, false, 2), elsewhere, span(3, 4, false, 2)];
        assert_eq!(joined(spans.clone()), Ok(spans));
        let end_of_addresses = Span {
            va: 0u64.wrapping_sub(PAGE),
            ..span(1, 2, false, 2)
        };
        let start_of_addresses = Span {
            va: 0,
            ..span(2, 3, false, 2)
        };
        let spans = vec![end_of_addresses, start_of_addresses];
        assert_eq!(joined(spans.clone()), Ok(spans));
    }

    #[test]
    fn what_was_found_twice_counts_once() {
        let spans = vec![
            span(1, 4, false, 2),
            span(2, 3, false, 5),
            span(3, 6, false, 2),
        ];
        assert_eq!(joined(spans), Ok(vec![span(1, 6, false, 2)]));
        let spans = vec![span(1, 3, false, 2), span(2, 4, false, 5)];
        assert_eq!(
            joined(spans),
            Ok(vec![span(1, 3, false, 2), span(3, 4, false, 5)])
        );
    }

    /// Every page keeps whether it runs, against a map with one entry for each page.
    #[test]
    fn equals_a_map_of_pages() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let mut spans = vec![];
            let mut pages = [None; 64];
            let mut conflict = false;
            for _ in 0..random(12) {
                let start = random(56);
                let new = span(
                    start,
                    start + 1 + random(8),
                    random(2) == 1,
                    random(3) as u32,
                );
                for page in &mut pages[(new.start / PAGE) as usize..(new.end / PAGE) as usize] {
                    conflict |= page.is_some_and(|exec| exec != new.exec);
                    *page = Some(new.exec);
                }
                spans.push(new);
            }
            let Ok(joined) = joined(spans) else {
                assert!(conflict);
                continue;
            };
            assert!(!conflict);
            assert!(joined.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let mut found = [None; 64];
            for span in &joined {
                assert!(span.bytes() > 0);
                assert_eq!(span.va, OFFSET + span.start);
                for page in &mut found[(span.start / PAGE) as usize..(span.end / PAGE) as usize] {
                    *page = Some(span.exec);
                }
            }
            assert_eq!(found, pages);
        }
    }
}

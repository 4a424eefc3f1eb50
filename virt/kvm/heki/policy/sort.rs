// SPDX-License-Identifier: GPL-2.0

//! Sorting on a small stack.
//!
//! The sorts of `core` recur and keep buffers of 1.5 KiB in each turn: with what a guest may send,
//! more than a kernel stack holds. This one is a heapsort: in place, no recursion, as much work for
//! the worst order as for any.
//! Neighbours: everyone here who sorts. Locks: none.

use core::cell::Cell;

/// Sorts `items` by `key`, ascending. Equal ones come in any order.
pub fn sort_by_key<T: Copy, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    let heap = Cell::from_mut(items).as_slice_of_cells();
    for root in (0..heap.len()).rev() {
        sift_down(heap, root, &key);
    }
    for end in (1..heap.len()).rev() {
        if let (Some(first), Some(last)) = (heap.first(), heap.get(end)) {
            first.swap(last);
        }
        sift_down(heap.get(..end).unwrap_or_default(), 0, &key);
    }
}

/// Moves the item at `root` down until no child of it is larger.
fn sift_down<T: Copy, K: Ord>(heap: &[Cell<T>], root: usize, key: &impl Fn(&T) -> K) {
    let key = |cell: &Cell<T>| key(&cell.get());
    let mut parent = root;
    while let (Some(above), Some((child, below))) =
        (heap.get(parent), larger_child(heap, parent, &key))
    {
        if key(below) <= key(above) {
            break;
        }
        above.swap(below);
        parent = child;
    }
}

/// The child of `parent` with the larger key, and where it is.
fn larger_child<'a, T, K: Ord>(
    heap: &'a [Cell<T>],
    parent: usize,
    key: &impl Fn(&Cell<T>) -> K,
) -> Option<(usize, &'a Cell<T>)> {
    let left = parent.checked_mul(2)?.checked_add(1)?;
    let right = left.checked_add(1)?;
    let first = heap.get(left)?;
    match heap.get(right) {
        Some(second) if key(second) > key(first) => Some((right, second)),
        _ => Some((left, first)),
    }
}

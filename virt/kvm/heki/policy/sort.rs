// SPDX-License-Identifier: GPL-2.0

//! Sorting on a small stack.
//!
//! The sorts of `core` recur and keep buffers of 1.5 KiB in each turn: with what a guest may send,
//! more than a kernel stack holds. This one is a heapsort: in place, no recursion, as much work for
//! the worst order as for any.
//! Neighbours: everyone here who sorts. Locks: none.

/// Sorts `items` by `key`, ascending. Equal ones come in any order.
pub fn sort_by_key<T: Copy, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    for root in (0..items.len().div_ceil(2)).rev() {
        sift_down(items, root, &key);
    }
    for end in (1..items.len()).rev() {
        let Some((last, heap)) = items
            .get_mut(..=end)
            .and_then(|items| items.split_last_mut())
        else {
            return;
        };
        if let Some(first) = heap.first_mut() {
            core::mem::swap(first, last);
        }
        sift_down(heap, 0, &key);
    }
}

/// Moves the item at `root` down until no child of it is larger.
///
/// It comes from the end of the heap and most likely belongs there: so down to a leaf without a look
/// at it, and back up as far as it is larger.
fn sift_down<T: Copy, K: Ord>(heap: &mut [T], root: usize, key: &impl Fn(&T) -> K) {
    let Some(&item) = heap.get(root) else {
        return;
    };
    let mut hole = root;
    while let Some((child, below)) = larger_child(heap, hole, key) {
        put(heap, hole, below);
        hole = child;
    }
    while hole > root {
        let parent = hole.saturating_sub(1) / 2;
        match heap.get(parent) {
            Some(&above) if key(&above) < key(&item) => put(heap, hole, above),
            _ => break,
        }
        hole = parent;
    }
    put(heap, hole, item);
}

fn put<T>(heap: &mut [T], at: usize, item: T) {
    if let Some(slot) = heap.get_mut(at) {
        *slot = item;
    }
}

/// The child of `parent` with the larger key, and where it is.
fn larger_child<T: Copy, K: Ord>(
    heap: &[T],
    parent: usize,
    key: &impl Fn(&T) -> K,
) -> Option<(usize, T)> {
    let left = parent.checked_mul(2)?.checked_add(1)?;
    match heap.get(left..)? {
        [first, second, ..] if key(second) > key(first) => Some((left.checked_add(1)?, *second)),
        [first, ..] => Some((left, *first)),
        [] => None,
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What KVM's memory attributes are: a value for each frame in a tree of 64 slots a node, as the
//! kernel's XArray is. A model for comparison; it has neither marks nor RCU.
//!
//! Used by `lookup.rs`. Locks: none.

/// Slots of a node, as XA_CHUNK_SIZE.
const SLOTS: usize = 64;
const SHIFT: u32 = SLOTS.trailing_zeros();

/// A node, or a value, or nothing.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    Node(Box<[Slot; SLOTS]>),
    Value(u8),
}

/// The tree.
#[derive(Debug)]
pub struct Radix {
    root: Slot,
    levels: u32,
    nodes: usize,
}

impl Radix {
    /// An empty tree for frames below `frames`.
    pub fn new(frames: u64) -> Self {
        let bits = u64::BITS - frames.saturating_sub(1).leading_zeros();
        Self {
            root: Slot::Empty,
            levels: bits.div_ceil(SHIFT).max(1),
            nodes: 0,
        }
    }

    /// Gives a frame a value.
    pub fn insert(&mut self, frame: u64, value: u8) {
        let mut slot = &mut self.root;
        for level in (0..self.levels).rev() {
            if let Slot::Empty = slot {
                *slot = Slot::Node(Box::new([const { Slot::Empty }; SLOTS]));
                self.nodes += 1;
            }
            let Slot::Node(node) = slot else {
                return;
            };
            slot = &mut node[index(frame, level)];
        }
        *slot = Slot::Value(value);
    }

    /// The value of a frame.
    #[inline]
    pub fn get(&self, frame: u64) -> Option<u8> {
        let mut slot = &self.root;
        for level in (0..self.levels).rev() {
            let Slot::Node(node) = slot else {
                return None;
            };
            slot = &node[index(frame, level)];
        }
        match slot {
            Slot::Value(value) => Some(*value),
            _ => None,
        }
    }

    /// Bytes of its nodes, if a slot has 8 as the kernel's.
    pub fn bytes(&self) -> usize {
        self.nodes * SLOTS * 8
    }
}

const fn index(frame: u64, level: u32) -> usize {
    (frame >> (level * SHIFT)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_found() {
        let mut radix = Radix::new(1 << 20);
        for frame in [0, 1, 63, 64, 4095, 4096, (1 << 20) - 1] {
            assert_eq!(radix.get(frame), None);
            radix.insert(frame, 7);
            assert_eq!(radix.get(frame), Some(7));
        }
        assert_eq!(radix.get(2), None);
    }
}

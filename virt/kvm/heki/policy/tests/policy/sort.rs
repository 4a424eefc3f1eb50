// SPDX-License-Identifier: GPL-2.0

use heki_policy::sort::sort_by_key;
use proptest::prelude::*;

fn sorted(items: &[(u8, u32)]) -> Vec<(u8, u32)> {
    let mut items = items.to_vec();
    sort_by_key(&mut items, |item| item.0);
    items
}

#[test]
fn few_items() {
    assert_eq!(sorted(&[]), []);
    assert_eq!(sorted(&[(1, 0)]), [(1, 0)]);
    assert_eq!(sorted(&[(2, 0), (1, 1)]), [(1, 1), (2, 0)]);
}

proptest! {
    /// The same items, in order.
    #[test]
    fn as_the_sort_of_the_standard_library(mut items: Vec<(u8, u32)>) {
        let mut ours = sorted(&items);
        prop_assert!(ours.is_sorted_by_key(|item| item.0));
        ours.sort();
        items.sort();
        prop_assert_eq!(ours, items);
    }
}

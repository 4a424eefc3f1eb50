// SPDX-License-Identifier: GPL-2.0

//! The table of the life-cycle, written a second time, refusals first.

use heki_policy::lifecycle::{
    next,
    Event::{self, *},
    State::{self, *},
};
use heki_policy::refusal::Refusal::{self, *};

const TABLE: [(State, Event, Result<State, Refusal>); 12] = [
    (Off, Seal, Err(NotOptedIn)),
    (Off, Change, Err(NotOptedIn)),
    (Off, Reset, Err(NotOptedIn)),
    (Open, Change, Err(NotSealed)),
    (Sealed, Seal, Err(AlreadySealed)),
    (Sealed, OptIn, Ok(Sealed)),
    (Sealed, Change, Ok(Sealed)),
    (Off, OptIn, Ok(Open)),
    (Open, OptIn, Ok(Open)),
    (Open, Seal, Ok(Sealed)),
    (Open, Reset, Ok(Open)),
    (Sealed, Reset, Ok(Open)),
];

#[test]
fn every_event_in_every_state() {
    for (state, event, expected) in TABLE {
        assert_eq!(next(state, event), expected, "{event:?} in {state:?}");
    }
}

#[test]
fn the_table_is_whole() {
    for state in [Off, Open, Sealed] {
        for event in [OptIn, Seal, Change, Reset] {
            let rows = TABLE
                .iter()
                .filter(|row| row.0 == state && row.1 == event)
                .count();
            assert_eq!(rows, 1, "{event:?} in {state:?}");
        }
    }
}

#[test]
fn only_a_reset_leaves_sealed() {
    for event in [OptIn, Seal, Change, Reset] {
        let leaves = matches!(next(Sealed, event), Ok(state) if state != Sealed);
        assert_eq!(leaves, event == Reset, "{event:?}");
    }
}

#[test]
fn states_have_the_numbers_and_names_of_the_abi() {
    let states = [(Off, 0, "off"), (Open, 1, "open"), (Sealed, 2, "sealed")];
    for (state, number, name) in states {
        assert_eq!((state.abi(), state.as_str()), (number, name));
    }
}

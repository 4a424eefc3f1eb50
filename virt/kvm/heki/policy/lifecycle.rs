// SPDX-License-Identifier: GPL-2.0

//! The life of a VM: Off, Open, Sealed.
//!
//! Neighbours: the VM's state holds the [`State`] and its lock; this file says only what may follow
//! what. Locks: none.

use super::{
    abi,
    refusal::Refusal, //
};

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not opted in: KVM behaves as if there were no Heki.
    Off,
    /// Opted in: the guest may describe and seal itself.
    Open,
    /// Sealed: rights only shrink, until a reset.
    Sealed,
}

/// What can happen to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The VMM or the host's parameter opts the VM in.
    OptIn,
    /// The guest seals itself.
    Seal,
    /// The guest has its sealed text changed, or its next kernel kept.
    Change,
    /// The VMM resets the VM.
    Reset,
}

impl State {
    /// The state as `HEKI_STATE_*`.
    pub const fn abi(self) -> u32 {
        match self {
            Self::Off => abi::HEKI_STATE_OFF,
            Self::Open => abi::HEKI_STATE_OPEN,
            Self::Sealed => abi::HEKI_STATE_SEALED,
        }
    }

    /// The state as a short name for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Open => "open",
            Self::Sealed => "sealed",
        }
    }
}

/// The state that `event` leads to from `state`.
///
/// Opting in again changes nothing, since the host's parameter and the VMM may both ask. Nothing
/// leads back to [`State::Off`]: that takes a new VM.
///
/// # Errors
///
/// [`Refusal::NotOptedIn`], [`Refusal::NotSealed`] or [`Refusal::AlreadySealed`] where the event has
/// no place in the state.
pub const fn next(state: State, event: Event) -> Result<State, Refusal> {
    match (state, event) {
        (State::Off, Event::OptIn) => Ok(State::Open),
        (State::Off, Event::Seal | Event::Change | Event::Reset) => Err(Refusal::NotOptedIn),
        (State::Open | State::Sealed, Event::OptIn) => Ok(state),
        (State::Open, Event::Seal) => Ok(State::Sealed),
        (State::Open, Event::Change) => Err(Refusal::NotSealed),
        (State::Open, Event::Reset) => Ok(State::Open),
        (State::Sealed, Event::Seal) => Err(Refusal::AlreadySealed),
        (State::Sealed, Event::Change) => Ok(State::Sealed),
        (State::Sealed, Event::Reset) => Ok(State::Open),
    }
}

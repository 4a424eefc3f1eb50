// SPDX-License-Identifier: GPL-2.0

//! What must hold for any policy that a VMM may set, and for a SEAL that meets it: shared by the fuzz
//! target and the tests.
//!
//! Reads both a second time, by hand and by offset.

use heki_abi::{HEKI_CLASS_EXEC, HEKI_CLASS_PATCH, HEKI_CLASS_REGISTER, HEKI_CLASS_WRITE};
use heki_policy::refusal::Refusal;
use heki_policy::request::Request;
use heki_policy::verdict::Access;
use heki_policy::vmm::{BadPolicy, Policy};
use zerocopy::FromBytes;

use crate::oracle::{u32_at, ABLE};

const LEARN: u32 = 3;
/// Each class: what is denied, its number, its name, the protections that rest on it.
const CLASSES: [(Access, u32, &str, u32); 4] = [
    (Access::Write, HEKI_CLASS_WRITE, " write", 1),
    (Access::Fetch, HEKI_CLASS_EXEC, " exec", 2),
    (
        Access::Register,
        HEKI_CLASS_REGISTER,
        " registers",
        4 + 8 + 16,
    ),
    (Access::Patch, HEKI_CLASS_PATCH, " patch", 0),
];

/// A policy as the VMM wrote it.
struct Written {
    version: u32,
    allowed: u32,
    consent: u32,
    actions: [u32; 4],
    reserved: u32,
}

impl Written {
    fn new(bytes: &[u8]) -> Self {
        Self {
            version: u32_at(bytes, 0),
            allowed: u32_at(bytes, 4),
            consent: u32_at(bytes, 8),
            actions: [12, 16, 20, 24].map(|at| u32_at(bytes, at)),
            reserved: u32_at(bytes, 28),
        }
    }

    fn is_good(&self) -> bool {
        let learns = self.actions.map(|action| action == LEARN);
        let exec_holds = self.allowed & 2 != 0 && !learns[1];
        self.version == 2
            && self.allowed < 32
            && (self.allowed & 2 == 0 || self.allowed & 5 == 5)
            && self.consent & !0b1001_1110 == 0
            && self.actions.iter().all(|&action| action < 4)
            && !(exec_holds && learns.contains(&true))
            && (learns[0] || !learns[3])
            && self.reserved == 0
    }
}

/// Runs one input, a policy and behind it a SEAL, and panics if anything is wrong.
pub(crate) fn fuzz_one(bytes: &[u8]) -> Result<Policy, BadPolicy> {
    let (wire, seal) = heki_abi::Policy::read_from_prefix(bytes).map_err(|_| BadPolicy)?;
    let written = Written::new(bytes);
    let parsed = Policy::parse(&wire);
    assert_eq!(parsed.is_ok(), written.is_good());
    let policy = parsed?;
    assert_eq!(policy.abi(), wire);
    answers(&policy, &written);
    learning(&policy, &written);
    meets(&policy, &written, seal);
    Ok(policy)
}

/// What the guest may ask for, and what the VMM is asked about.
fn answers(policy: &Policy, written: &Written) {
    for protections in 0..64 {
        let allowed = protections & written.allowed;
        assert_eq!(policy.allowed(protections), allowed);
        assert_eq!(policy.allows(protections), allowed == protections);
    }
    for op in 0..64 {
        let asked = u64::from(written.consent) >> op & 1 == 1;
        assert_eq!(policy.asks(op), asked);
    }
    assert_eq!(policy.serves(), written.consent >> 7 << 16);
}

/// What is reported and allowed, and so not held.
fn learning(policy: &Policy, written: &Written) {
    let learned: Vec<_> = CLASSES
        .into_iter()
        .filter(|&(_, class, ..)| written.actions[class as usize] == LEARN)
        .collect();
    let bits = |bits, &(_, class, ..): &(_, u32, _, _)| bits | 1 << class;
    assert_eq!(policy.learning(), learned.iter().fold(0, bits));
    let words: String = learned.iter().map(|(_, _, word, _)| *word).collect();
    assert_eq!(policy.learning_words().concat(), words);
    let lost = learned.iter().fold(0, |lost, (.., more)| lost | more);
    for protections in 0..32 {
        assert_eq!(policy.holding(protections), protections & !lost);
    }
    for (access, class, ..) in CLASSES {
        let learns = written.actions[class as usize] == LEARN;
        assert_eq!(policy.learns(access), learns);
    }
    let rights = policy.learned_rights();
    assert_eq!(
        (rights.write(), rights.exec()),
        (lost & 1 != 0, lost & 2 != 0)
    );
}

/// A SEAL takes no more than is allowed.
fn meets(policy: &Policy, written: &Written, seal: &[u8]) {
    let Ok(request) = Request::parse(seal, &ABLE) else {
        return;
    };
    let (nr_ranges, nr_pins) = (u32_at(seal, 8) as usize, u32_at(seal, 12) as usize);
    let pins = 24 + 32 * nr_ranges;
    let ranges = (0..nr_ranges).map(|nr| match u32_at(seal, 24 + 32 * nr + 24) & 1 {
        0 => 1,
        _ => 0,
    });
    let pins = (0..nr_pins).map(|nr| match u32_at(seal, pins + 16 * nr) {
        0 | 4 => 4,
        16 | 17 => 8,
        _ => 16,
    });
    let exec = (u32_at(seal, 4) & 1) << 1;
    let taken = ranges.chain(pins).fold(exec, |taken, more| taken | more);
    let expected = match taken & !written.allowed {
        0 => Ok(()),
        _ => Err(Refusal::NotAllowed),
    };
    assert_eq!(policy.check(&request), expected);
}

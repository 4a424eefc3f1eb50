// SPDX-License-Identifier: GPL-2.0

//! The VMM's policy and its answers: what is refused, then what a policy means.

use heki_abi::*;
use heki_policy::refusal::Refusal;
use heki_policy::request::{Caps, Request};
use heki_policy::rights::Rights;
use heki_policy::verdict::Access;
use heki_policy::vmm::{Answer, BadPolicy, Policy, CONSENT};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::policies::fuzz_one;

pub(crate) fn wire() -> heki_abi::Policy {
    Policy::default().abi()
}

#[test]
fn what_is_unknown_is_refused() {
    let refused =
        |wire: heki_abi::Policy| assert_eq!(Policy::parse(&wire), Err(BadPolicy), "{wire:?}");
    for version in [0, HEKI_ABI_VERSION - 1, HEKI_ABI_VERSION + 1] {
        refused(heki_abi::Policy { version, ..wire() });
    }
    for bit in 0..32 {
        let bit = 1 << bit;
        if bit & HEKI_PROT_ALL == 0 {
            let allowed = bit | HEKI_PROT_ALL;
            refused(heki_abi::Policy { allowed, ..wire() });
        }
        if bit & CONSENT == 0 {
            refused(heki_abi::Policy {
                consent: bit,
                ..wire()
            });
        }
        refused(heki_abi::Policy {
            reserved: bit,
            ..wire()
        });
    }
    for action in [HEKI_ACTION_COUNT, u32::MAX] {
        refused(heki_abi::Policy {
            write: action,
            ..wire()
        });
        refused(heki_abi::Policy {
            exec: action,
            ..wire()
        });
        refused(heki_abi::Policy {
            reg: action,
            ..wire()
        });
        refused(heki_abi::Policy {
            patch: action,
            ..wire()
        });
    }
}

#[test]
fn execution_is_allowed_with_what_it_takes_only() {
    for allowed in 0..=HEKI_PROT_ALL {
        let needed = HEKI_PROT_WRITE | HEKI_PROT_CR;
        let good = allowed & HEKI_PROT_EXEC == 0 || allowed & needed == needed;
        let parsed = Policy::parse(&heki_abi::Policy { allowed, ..wire() });
        assert_eq!(parsed.is_ok(), good, "{allowed:#x}");
    }
}

#[test]
fn without_a_policy_all_is_allowed_and_nothing_exits() {
    let policy = Policy::default();
    assert!(policy.allows(HEKI_PROT_ALL));
    assert!((0..64).all(|op| !policy.asks(op)));
    assert_eq!(policy.serves(), 0);
    let wire = policy.abi();
    let actions = [wire.write, wire.exec, wire.reg, wire.patch];
    assert_eq!(actions, [HEKI_ACTION_GP; 4]);
}

#[test]
fn a_query_needs_no_consent() {
    let consent = CONSENT | 1 << HEKI_OP_QUERY;
    assert_eq!(
        Policy::parse(&heki_abi::Policy { consent, ..wire() }),
        Err(BadPolicy)
    );
    let policy = Policy::parse(&heki_abi::Policy {
        consent: CONSENT,
        ..wire()
    })
    .unwrap();
    let asked: Vec<u32> = (0..64).filter(|&op| policy.asks(op)).collect();
    assert_eq!(policy.serves(), HEKI_SERVES_KEXEC);
    let expected = [
        HEKI_OP_SEAL,
        HEKI_OP_PATCH,
        HEKI_OP_GRANT,
        HEKI_OP_RELEASE,
        HEKI_OP_KEXEC,
    ];
    assert_eq!(asked, expected);
}

#[test]
fn every_class_has_its_own_action() {
    let wanted = heki_abi::Policy {
        write: HEKI_ACTION_EXIT,
        exec: HEKI_ACTION_PAUSE,
        reg: HEKI_ACTION_GP,
        patch: HEKI_ACTION_EXIT,
        ..wire()
    };
    assert_eq!(
        Policy::parse(&wanted).map(|policy| policy.abi()),
        Ok(wanted)
    );
}

const ALL_LEARN: [u32; 4] = [HEKI_ACTION_LEARN; 4];

pub(crate) fn with_actions(allowed: u32, [write, exec, reg, patch]: [u32; 4]) -> heki_abi::Policy {
    heki_abi::Policy {
        allowed,
        write,
        exec,
        reg,
        patch,
        ..wire()
    }
}

/// What is held must not rest on what is learned.
#[test]
fn what_learns_keeps_nothing_that_holds() {
    for classes in 0..16u32 {
        let learn = |class: u32| classes & 1 << class != 0;
        let actions = [0, 1, 2, 3].map(|class| match learn(class) {
            true => HEKI_ACTION_LEARN,
            false => HEKI_ACTION_EXIT,
        });
        for allowed in [
            0,
            HEKI_PROT_WRITE,
            HEKI_PROT_WRITE | HEKI_PROT_CR,
            HEKI_PROT_ALL,
        ] {
            let exec_holds = allowed & HEKI_PROT_EXEC != 0 && !learn(HEKI_CLASS_EXEC);
            let bad = (exec_holds && classes != 0)
                || (learn(HEKI_CLASS_PATCH) && !learn(HEKI_CLASS_WRITE));
            let parsed = Policy::parse(&with_actions(allowed, actions));
            assert_eq!(parsed.is_err(), bad, "{classes:#b} {allowed:#x}");
            if let Ok(policy) = parsed {
                assert_eq!(policy.learning(), classes);
            }
        }
    }
}

#[test]
fn what_learns_holds_nothing() {
    let policy = Policy::default();
    assert_eq!(policy.learning(), 0);
    assert_eq!(policy.learning_words(), [""; 4]);
    assert_eq!(policy.learned_rights(), Rights::NONE);
    assert_eq!(policy.holding(HEKI_PROT_ALL), HEKI_PROT_ALL);

    let policy = Policy::parse(&with_actions(HEKI_PROT_ALL, ALL_LEARN)).unwrap();
    assert_eq!(policy.learning(), 0xf);
    assert_eq!(
        policy.learning_words().concat(),
        " write exec registers patch"
    );
    assert_eq!(policy.learned_rights(), Rights::ALL);
    assert_eq!(policy.holding(HEKI_PROT_ALL), 0);
    // It may be asked for, or there would be nothing to learn.
    assert!(policy.allows(HEKI_PROT_ALL));

    let exec = [0, HEKI_ACTION_LEARN, HEKI_ACTION_PAUSE, HEKI_ACTION_GP];
    let policy = Policy::parse(&with_actions(HEKI_PROT_ALL, exec)).unwrap();
    assert_eq!(policy.learning_words().concat(), " exec");
    assert_eq!(policy.learned_rights(), Rights::EXEC);
    assert_eq!(
        policy.holding(HEKI_PROT_ALL),
        HEKI_PROT_ALL & !HEKI_PROT_EXEC
    );
    assert!(policy.learns(Access::Fetch) && !policy.learns(Access::Write));

    let registers = [0, 0, HEKI_ACTION_LEARN, 0];
    let allowed = HEKI_PROT_ALL & !HEKI_PROT_EXEC;
    let policy = Policy::parse(&with_actions(allowed, registers)).unwrap();
    assert_eq!(
        policy.holding(HEKI_PROT_ALL),
        HEKI_PROT_WRITE | HEKI_PROT_EXEC
    );
}

const WP: u64 = 1 << 16;
const SMEP: u64 = 1 << 20;
const LSTAR: u32 = 0xc000_0082;

/// A SEAL that takes the `protections`, and its caps.
pub(crate) fn seal(protections: u32) -> (Vec<u8>, Caps) {
    let exec = protections & HEKI_PROT_EXEC != 0;
    let mut ranges = Vec::new();
    let mut pins = Vec::new();
    let range = |gpa, rights| heki_abi::Range {
        gpa,
        len: 0x1000,
        va: 0,
        rights,
        kind: 0,
    };
    if protections & HEKI_PROT_WRITE != 0 {
        ranges.push(range(0x1000, if exec { HEKI_EXEC } else { 0 }));
    } else {
        ranges.push(range(0x1000, HEKI_WRITE));
    }
    if protections & HEKI_PROT_CR != 0 {
        pins.push(heki_abi::Pin {
            reg: HEKI_REG_CR4,
            index: 0,
            mask: SMEP,
        });
    }
    for (protection, reg, index) in [
        (HEKI_PROT_MSR, HEKI_REG_MSR, LSTAR),
        (HEKI_PROT_DT, HEKI_REG_IDTR, 0),
    ] {
        if protections & protection != 0 {
            let mask = 1 << 12;
            pins.push(heki_abi::Pin { reg, index, mask });
        }
    }
    let header = heki_abi::Seal {
        version: HEKI_ABI_VERSION,
        flags: if exec { HEKI_SEAL_EXEC } else { 0 },
        nr_ranges: ranges.len() as u32,
        nr_pins: pins.len() as u32,
        nr_areas: 0,
        reserved: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(ranges.iter().flat_map(|range| range.as_bytes()));
    bytes.extend(pins.iter().flat_map(|pin| pin.as_bytes()));
    let caps = Caps {
        exec: true,
        msr: true,
        cr0_pinnable: WP,
        cr4_pinnable: SMEP,
        cr0: WP,
        cr4: SMEP,
    };
    (bytes, caps)
}

#[test]
fn a_seal_takes_no_more_than_is_allowed() {
    for allowed in [
        0,
        1,
        HEKI_PROT_CR,
        HEKI_PROT_CR | HEKI_PROT_WRITE,
        HEKI_PROT_ALL,
    ] {
        let policy = Policy::parse(&heki_abi::Policy { allowed, ..wire() }).unwrap();
        for taken in [
            0,
            1,
            HEKI_PROT_CR,
            HEKI_PROT_MSR,
            HEKI_PROT_DT,
            HEKI_PROT_CR | HEKI_PROT_WRITE,
            HEKI_PROT_CR | HEKI_PROT_WRITE | HEKI_PROT_EXEC,
            HEKI_PROT_ALL,
        ] {
            let (bytes, caps) = seal(taken);
            let request = Request::parse(&bytes, &caps).unwrap();
            let expected = if taken & !allowed == 0 {
                Ok(())
            } else {
                Err(Refusal::NotAllowed)
            };
            assert_eq!(
                policy.check(&request),
                expected,
                "{taken:#x} of {allowed:#x}"
            );
            assert_eq!(policy.allowed(taken), taken & allowed);
        }
    }
}

#[test]
fn only_zero_allows() {
    assert_eq!(Answer::parse(0), Answer::Allow);
    for errno in [KVM_EPERM, KVM_E2BIG, KVM_EINVAL, KVM_EOPNOTSUPP] {
        assert_eq!(Answer::parse(errno as u32), Answer::Deny(errno));
    }
    // Errors that would say something else of the host, and none at all.
    for answer in [
        KVM_ENOSYS as u32,
        KVM_EFAULT as u32,
        2,
        u32::MAX,
        0u32.wrapping_sub(22),
    ] {
        assert_eq!(Answer::parse(answer), Answer::Deny(KVM_EPERM));
    }
}

/// Small numbers are known bits and actions, the others mostly are not.
fn any_number() -> impl Strategy<Value = u32> {
    prop_oneof![0..4u32, 0..64u32, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Also of a policy that a SEAL meets, which takes these protections.
    #[test]
    fn any_policy(
        version in prop_oneof![Just(HEKI_ABI_VERSION), any_number()],
        numbers in proptest::array::uniform6(any_number()),
        reserved in prop_oneof![Just(0u32), any_number()],
        taken in 0..=HEKI_PROT_ALL,
    ) {
        let [allowed, consent, write, exec, reg, patch] = numbers;
        let wire = heki_abi::Policy { version, allowed, consent, write, exec, reg, patch, reserved };
        let (request, _) = seal(taken);
        let _ = fuzz_one(&[wire.as_bytes(), &request].concat());
    }

    #[test]
    fn an_answer_is_a_known_error_or_allows(answer in any_number()) {
        match Answer::parse(answer) {
            Answer::Allow => prop_assert_eq!(answer, 0),
            Answer::Deny(errno) => prop_assert!([1, 7, 22, 95].contains(&errno)),
        }
    }
}

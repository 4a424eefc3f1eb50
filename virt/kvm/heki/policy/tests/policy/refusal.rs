// SPDX-License-Identifier: GPL-2.0

//! Names and errors of refusals: both are seen outside, so both are written down a second time.

use std::collections::BTreeSet;

use heki_policy::refusal::Refusal::{self, *};

const TABLE: [(Refusal, &str, i64); 37] = [
    (TooBig, "too_big", 7),
    (BadLength, "bad_length", 22),
    (BadVersion, "bad_version", 22),
    (BadFlags, "bad_flags", 22),
    (BadReserved, "bad_reserved", 22),
    (Unaligned, "unaligned", 22),
    (Empty, "empty", 22),
    (Overflow, "overflow", 22),
    (Overlap, "overlap", 22),
    (BadRights, "bad_rights", 22),
    (BadKind, "bad_kind", 22),
    (WriteAndExec, "write_and_exec", 22),
    (NoExec, "no_exec", 22),
    (NotMemory, "not_memory", 22),
    (BadArea, "bad_area", 22),
    (BadRegister, "bad_register", 22),
    (DuplicatePin, "duplicate_pin", 22),
    (EmptyPin, "empty_pin", 22),
    (PinNotSet, "pin_not_set", 22),
    (PinUnsupported, "pin_unsupported", 95),
    (CetNeedsWp, "cet_needs_wp", 22),
    (SspNeedsXss, "ssp_needs_xss", 22),
    (ExecNeedsSmep, "exec_needs_smep", 22),
    (ExecUnsupported, "exec_unsupported", 95),
    (NotOptedIn, "not_opted_in", 1000),
    (AlreadySealed, "already_sealed", 1),
    (BadProfile, "bad_profile", 22),
    (WrongKernel, "wrong_kernel", 1),
    (NotSealed, "not_sealed", 1),
    (NoMemory, "no_memory", 7),
    (Fault, "fault", 14),
    (BadOperation, "bad_operation", 1000),
    (NotAllowed, "not_allowed", 95),
    (NoConsent, "no_consent", 1),
    (BadMagic, "bad_magic", 22),
    (BadRecord, "bad_record", 22),
    (NoVcpu, "no_vcpu", 22),
];

#[test]
fn names_and_errors_are_stable() {
    for (refusal, name, errno) in TABLE {
        assert_eq!((refusal.as_str(), refusal.kvm_errno()), (name, errno));
    }
}

#[test]
fn names_are_distinct() {
    let names: BTreeSet<&str> = TABLE.iter().map(|row| row.1).collect();
    assert_eq!(names.len(), TABLE.len());
}

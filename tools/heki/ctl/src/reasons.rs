// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The reasons of denials: what each means and which invariant it keeps.
//!
//! Names and codes are stable: those of HEKI_REASON_* in `include/uapi/linux/heki.h`, the trace and
//! "Identifiers" in Documentation/virt/kvm/x86/heki-abi.rst. The invariants are those of
//! Documentation/virt/kvm/x86/heki.rst. Used by `explain.rs`. Locks: none.

use crate::event::Class;

/// A reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// As in the trace.
    pub(crate) name: &'static str,
    /// HEKI_REASON_*.
    pub(crate) code: u32,
    /// The classes of denials that have it.
    pub(crate) classes: &'static [Class],
    /// Number of the invariant that would have been broken.
    pub(crate) invariant: &'static str,
    /// Why it was denied.
    pub(crate) why: &'static str,
    /// What it may be in a kernel that nobody attacks.
    pub(crate) otherwise: &'static str,
}

const NO_TABLE: &str =
    "the guest's kernel is another than that of the VMM's vmlinux, or code that patches without \
     the kernel's own interfaces";

/// All reasons, by their codes.
pub(crate) const REASONS: [Reason; 11] = [
    Reason {
        name: "sealed",
        code: heki_abi::HEKI_REASON_SEALED,
        classes: &[Class::Write],
        invariant: "I1",
        why: "the guest sealed this page against writes",
        otherwise: "a driver that patches read-only data, or a reboot without a reset of the seal",
    },
    Reason {
        name: "not_executable",
        code: heki_abi::HEKI_REASON_NOT_EXECUTABLE,
        classes: &[Class::Exec],
        invariant: "I2",
        why: "supervisor mode may run only what the guest listed when it sealed itself",
        otherwise: "code made after the seal: firmware, kexec, a module or a compiler of the kernel",
    },
    Reason {
        name: "page_walk",
        code: heki_abi::HEKI_REASON_PAGE_WALK,
        classes: &[Class::Write],
        invariant: "I1",
        why: "the CPU had to set a bit in a page table that lies in a page sealed against writes",
        otherwise: "page tables in read-only data",
    },
    Reason {
        name: "pinned",
        code: heki_abi::HEKI_REASON_PINNED,
        classes: &[Class::Registers],
        invariant: "I4",
        why: "the guest pinned these bits of the register",
        otherwise: "a driver or a tool that writes MSRs, or a kernel that starts anew without a reset of the seal",
    },
    Reason {
        name: "unlisted",
        code: heki_abi::HEKI_REASON_UNLISTED,
        classes: &[Class::Patch],
        invariant: "I3",
        why: "no instruction there may change: the guest's tables and the VMM's lists do not have it",
        otherwise: "a breakpoint that the VMM does not list (heki-vmm --probes)",
    },
    Reason {
        name: "frozen",
        code: heki_abi::HEKI_REASON_FROZEN,
        classes: &[Class::Patch],
        invariant: "I3",
        why: "the VMM froze the key or call of this instruction",
        otherwise: "a switch of the kernel that the VMM's list freezes (heki-vmm --freeze)",
    },
    Reason {
        name: "form",
        code: heki_abi::HEKI_REASON_FORM,
        classes: &[Class::Patch],
        invariant: "I3",
        why: "no instruction there has such bytes",
        otherwise: NO_TABLE,
    },
    Reason {
        name: "target",
        code: heki_abi::HEKI_REASON_TARGET,
        classes: &[Class::Patch],
        invariant: "I3",
        why: "the instruction may not go there",
        otherwise: NO_TABLE,
    },
    Reason {
        name: "stale",
        code: heki_abi::HEKI_REASON_STALE,
        classes: &[Class::Patch],
        invariant: "I6",
        why: "other bytes stand there than the guest said",
        otherwise: "a change that was made twice",
    },
    Reason {
        name: "content",
        code: heki_abi::HEKI_REASON_CONTENT,
        classes: &[Class::Patch],
        invariant: "I3",
        why: "the page that was to run is neither empty nor a trampoline that the host knows",
        otherwise: NO_TABLE,
    },
    Reason {
        name: "kvm_writer",
        code: heki_abi::HEKI_REASON_KVM_WRITER,
        classes: &[Class::Write],
        invariant: "I5",
        why: "the guest had KVM write there for it, and it sealed this page against writes",
        otherwise: "a kernel that seals a page which it shares with KVM: clocks, steal time",
    },
];

/// The invariants that a denial keeps, by number.
const INVARIANTS: [(&str, &str); 6] = [
    (
        "I1",
        "no memory can both be written and run in supervisor mode",
    ),
    ("I2", "supervisor mode runs only what was granted execution"),
    (
        "I3",
        "rights only shrink at the guest's own request; what grows is checked first",
    ),
    ("I4", "pinned bits hold on every vCPU"),
    (
        "I5",
        "the host does nothing for the guest that the guest may not do itself",
    ),
    (
        "I6",
        "a request is checked whole before any of it takes effect",
    ),
];

/// The reason of this name.
pub(crate) fn find(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}

/// What an invariant says.
pub(crate) fn invariant(number: &str) -> &'static str {
    let mut all = INVARIANTS.iter();
    all.find(|(n, _)| *n == number).map_or("", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{
        BTreeMap,
        BTreeSet, //
    };

    /// `#define PREFIX NAME NUMBER` of a header.
    fn defines(header: &str, prefix: &str) -> BTreeMap<String, u32> {
        let defines = header.lines().filter_map(|line| {
            let mut words = line.strip_prefix("#define ")?.split_whitespace();
            let name = words.next()?.strip_prefix(prefix)?.to_lowercase();
            Some((name, words.next()?.parse().ok()?))
        });
        defines.collect()
    }

    #[test]
    fn the_reasons_are_those_of_the_abi() {
        let header = include_str!("../../../../include/uapi/linux/heki.h");
        let ours = REASONS
            .iter()
            .map(|reason| (reason.name.to_owned(), reason.code));
        assert_eq!(defines(header, "HEKI_REASON_"), ours.collect());
    }

    /// Identifier, class and reason of each row of the table in the documentation.
    fn documented() -> BTreeSet<[String; 3]> {
        let page = include_str!("../../../../Documentation/virt/kvm/x86/heki-abi.rst");
        let (_, section) = page.split_once("\nIdentifiers\n").unwrap();
        let (table, _) = section.split_once("\n4. ").unwrap();
        // What is before the first row, and the head of the table, are none.
        let rows = table.split("\n   * - ").skip(2);
        let cells = |row: &str| {
            let mut cells = row.split("\n     - ").map(str::to_owned);
            [(); 3].map(|()| cells.next().unwrap())
        };
        rows.map(cells).collect()
    }

    #[test]
    fn the_identifiers_are_those_of_the_documentation() {
        let row = |class: &Class, reason: &Reason| {
            let (word, number) = (class.as_str(), *class as u32);
            [
                format!("{word}.{}", reason.name),
                // It is HEKI_CLASS_REGISTER that is called registers.
                format!(
                    "HEKI_CLASS_{} ({number})",
                    word.trim_end_matches('s').to_uppercase()
                ),
                format!(
                    "HEKI_REASON_{} ({})",
                    reason.name.to_uppercase(),
                    reason.code
                ),
            ]
        };
        let rows = |reason: &'static Reason| reason.classes.iter().map(|class| row(class, reason));
        assert_eq!(documented(), REASONS.iter().flat_map(rows).collect());
    }

    #[test]
    fn each_reason_has_its_class_and_its_invariant() {
        for reason in &REASONS {
            assert!(!reason.classes.is_empty(), "{}", reason.name);
            assert_ne!(invariant(reason.invariant), "", "{}", reason.name);
        }
        for class in Class::ALL {
            assert!(REASONS.iter().any(|reason| reason.classes.contains(&class)));
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Tests of the rules: refusals first, then properties against slow and simple models.

mod address;
mod edit;
mod grant;
mod insn;
mod its;
mod kexec;
mod learn;
mod length;
mod lifecycle;
mod map;
mod model;
mod pads;
mod patch;
mod pin;
mod probes;
mod profile;
mod refusal;
mod registers;
mod request;
mod rules;
mod saved;
mod seeds;
mod sites;
mod smoke;
mod sort;
mod target;
mod trampoline;
mod verdict;
mod vmm;
mod wire;

#[path = "../../fuzz/changes.rs"]
mod changes;
#[path = "../../fuzz/oracle.rs"]
mod oracle;
#[path = "../../fuzz/policies.rs"]
mod policies;
#[path = "../../fuzz/states.rs"]
mod states;
#[path = "../../fuzz/toy.rs"]
mod toy;

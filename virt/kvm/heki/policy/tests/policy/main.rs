// SPDX-License-Identifier: GPL-2.0

//! Tests of the rules: refusals first, then properties against slow and simple models.

mod lifecycle;
mod map;
mod model;
mod pin;
mod refusal;
mod request;
mod smoke;
mod sort;
mod verdict;
mod wire;

#[path = "../../fuzz/oracle.rs"]
mod oracle;

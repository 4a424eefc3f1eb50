// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets begin with: good inputs of each kind, which hardly come by chance.
//! `HEKI_SEEDS=DIR cargo test seeds` writes them to `DIR/TARGET/NAME`, for `make fuzz`.

use std::path::Path;
use std::{env, fs};

use heki_abi::{Site, HEKI_ACTION_LEARN, HEKI_PROT_ALL};
use zerocopy::IntoBytes;

use crate::oracle::{self, ABLE};
use crate::toy::*;
use crate::{changes, grant, kexec, patch, policies, profile, request, rules, saved, states, vmm};

/// A change of each form: of instructions, to a breakpoint, of a slot and of a pad.
fn sites() -> Vec<Site> {
    let toy = Toy::new();
    let mut sites = patch::good_sites();
    let (slot, pad_va) = (POOL + 15, SECOND - 9);
    let mut copy = toy.peek(PROBED + 4, 3);
    copy.resize(15, 0xcc);
    sites.push(rules::change(PROBED + 4, &toy.peek(PROBED + 4, 1), &[0xcc]));
    sites.push(rules::change(slot, &toy.peek(slot, 15), &copy));
    sites.push(rules::change(pad_va, &[0x90; 9], &pad(pad_va)));
    sites.sort_by_key(|site| site.va);
    sites
}

/// Each input: the target, its name, its bytes.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let toy = Toy::new();
    let (to_seal, _) = vmm::seal(HEKI_PROT_ALL);
    let learning = vmm::with_actions(HEKI_PROT_ALL, [HEKI_ACTION_LEARN; 4]);
    vec![
        ("request", "seal", request::good().bytes()),
        ("patch", "sites", patch::request(&sites())),
        ("patch", "trampoline", toy.peek(TRAMP, 8)),
        ("grant", "grant", grant::bytes(&[grant::pages(1, 2, false)])),
        (
            "grant",
            "release",
            grant::bytes(&[grant::pages(1, 2, true)]),
        ),
        ("grant", "kexec", kexec::middle().as_bytes().to_vec()),
        ("grant", "page", trampoline(&toy, COPY, TRACER)),
        ("profile", "profile", profile::good()),
        ("state", "sealed", saved::good()),
        (
            "policy",
            "seal",
            [vmm::wire().as_bytes(), &to_seal].concat(),
        ),
        (
            "policy",
            "learning",
            [learning.as_bytes(), &to_seal].concat(),
        ),
    ]
}

/// Whether the target gets past its first checks with `bytes`.
fn is_good(target: &str, bytes: &[u8]) -> bool {
    let toy = Toy::new();
    match target {
        "request" => oracle::fuzz_one(bytes).is_ok(),
        "patch" => {
            let verdicts = changes::patch(bytes, &toy);
            let judged = verdicts.is_ok_and(|all| all.iter().all(Result::is_ok));
            judged || changes::trampolines(bytes, &toy) > 0
        }
        "grant" => {
            let changed = [false, true].map(|release| changes::grant(bytes, release).is_ok());
            let page = changes::page(bytes, COPY, &toy);
            changed.contains(&true) || changes::kexec(bytes).is_ok() || page.is_some()
        }
        "profile" => changes::profile(bytes).is_ok(),
        "state" => states::fuzz_one(bytes, &ABLE).is_ok(),
        "policy" => policies::fuzz_one(bytes).is_ok(),
        _ => false,
    }
}

#[test]
fn seeds_are_good_inputs() {
    for (target, name, bytes) in seeds() {
        assert!(is_good(target, &bytes), "{target} {name}");
        if let Some(dir) = env::var_os("HEKI_SEEDS") {
            let dir = Path::new(&dir).join(target);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What must hold for any PATCH, GRANT, RELEASE or KEXEC, any page and any profile that may be sent.

use heki_abi::{HEKI_KEXEC_START, HEKI_KIND_FTRACE, HEKI_KIND_POOL, HEKI_MAX_KEXEC_BYTES};
use heki_policy::grant::Grant;
use heki_policy::kexec;
use heki_policy::patch::profile::Profile;
use heki_policy::patch::sites::{self, Rule, Site};
use heki_policy::patch::{self, rules, trampoline, Denied};
use heki_policy::refusal::Refusal;

use crate::toy::{self, Toy, BASE, TEXT, TEXT_LEN, TRAMP};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Parses a KEXEC request. Its part lies in the address space and in the kernel; only a START has none.
pub(crate) fn kexec(bytes: &[u8]) -> Result<(), Refusal> {
    let part = kexec::parse(bytes)?;
    assert!(part
        .gpa
        .checked_add(part.len)
        .is_some_and(|end| end <= 1 << 52));
    assert!(part.offset + part.len <= u64::from(HEKI_MAX_KEXEC_BYTES));
    assert_eq!(part.len == 0, part.flags == HEKI_KEXEC_START);
    Ok(())
}

/// Parses a PATCH request and lets the rules judge its sites. Returns what they say.
pub(crate) fn patch(bytes: &[u8], toy: &Toy) -> Result<Vec<Result<(), Denied>>, Refusal> {
    let parsed = patch::parse(bytes);
    if let Ok(_) | Err(Refusal::Overlap) = parsed {
        assert_eq!(parsed.is_err(), !ascends(bytes));
    }
    let sites = parsed?;
    assert_eq!(
        (u32_at(bytes, 0), u32_at(bytes, 4)),
        (2, sites.len() as u32)
    );
    assert!((1..=256).contains(&sites.len()) && bytes.len() == 8 + 48 * sites.len());
    let verdicts = sites.iter().enumerate().map(|(index, site)| {
        let site = site.get();
        assert_eq!(site.va, u64_at(bytes, 8 + 48 * index));
        let verdict = toy.with_env(|env| rules::check(&site, env, toy));
        if verdict.is_ok() {
            accepted(site.va, site.len as usize, &site.old, &site.new, toy);
            let len = site.len as usize;
            let halves = (&site.old[..len], &site.new[..len]);
            assert_eq!(patch::instructions(&site), halves);
        }
        verdict
    });
    Ok(verdicts.collect())
}

/// Whether each site of `bytes`, a PATCH request of good length, ends before the next one begins.
fn ascends(bytes: &[u8]) -> bool {
    let at = (8..bytes.len()).step_by(48);
    let extents: Vec<_> = at
        .map(|at| (u64_at(bytes, at), u64_at(bytes, at + 8)))
        .map(|(va, len)| u128::from(va)..u128::from(va) + u128::from(len))
        .collect();
    extents.windows(2).all(|pair| pair[0].end <= pair[1].start)
}

/// What is accepted is a place of the toy, all in its text, and a legal instruction.
fn accepted(va: u64, len: usize, old: &[u8; 16], new: &[u8; 16], toy: &Toy) {
    assert!(matches!(len, 1 | 2 | 5 | 6 | 9 | 15));
    assert!(old[len..].iter().chain(&new[len..]).all(|&byte| byte == 0));
    match len {
        1 => return breakpoint(va, &[old[0], new[0]], toy),
        9 => return pad(va, &old[..9], &new[..9]),
        15 => return slot(va, &new[..15], toy),
        _ => {}
    }
    let listed = toy.sites.iter().any(|site| site.va == va);
    let place = [
        toy::FTRACE,
        toy::CALLER + toy::TRACER_CALL as u64,
        toy::REGS + toy::REGS_TRACER_CALL as u64,
        toy::COPY + toy::TRACER_CALL as u64,
    ];
    assert!(va != toy::FROZEN && (listed || place.contains(&va)));
    assert!(!new[..len].starts_with(&[0xcc]));
}

/// A breakpoint comes where the toy's list has one that counts, and goes for what was there.
fn breakpoint(va: u64, bytes: &[u8], toy: &Toy) {
    assert!(toy::BREAKPOINTS.contains(&va));
    let there = toy.peek(va, 1)[0];
    assert!(bytes.iter().all(|&byte| byte == 0xcc || byte == there));
}

/// A pad comes where NOPs are in front of a function.
fn pad(va: u64, old: &[u8], new: &[u8]) {
    let functions = toy::FUNCTIONS.map(|(va, _)| va);
    assert!(functions.contains(&(va + 9)) || va + 9 == toy::PROBED);
    assert!(old == [0x90; 9] && new == toy::pad(va));
}

/// What is in a slot does what stands at a listed address, then stops or goes on behind it.
fn slot(va: u64, slot: &[u8], toy: &Toy) {
    assert!(va >= toy::POOL && va % 4096 % 15 == 0 && va % 4096 <= 4080);
    let (from, len) = match slot[1] {
        0x85 => (toy::PROBED + 4, 3),
        _ => (toy::PROBED_LOAD, 7),
    };
    let mut code = toy.peek(from, len);
    if len == 7 {
        let distance = i32::from_le_bytes(code[3..].try_into().unwrap());
        let to = (from + 7).wrapping_add_signed(distance.into());
        code = toy::near(&code[..3], va, to);
    }
    let end = va + len as u64;
    let stop = slot[len..].iter().all(|&byte| byte == 0xcc);
    let go_on = slot[len..].starts_with(&toy::jump(end, from + len as u64));
    let rest = slot.get(len + 5..).unwrap_or_default();
    assert!(slot.starts_with(&code) && (stop || go_on && rest.iter().all(|&byte| byte == 0xcc)));
}

/// Lists the trampolines in `bytes`, which the toy has where its own begin, and compares with a search
/// byte by byte. Returns how many may change.
pub(crate) fn trampolines(bytes: &[u8], toy: &Toy) -> usize {
    let bytes = &bytes[..bytes.len().min(0x100)];
    let mut toy = toy.clone();
    toy.poke(TRAMP, bytes);
    let listed: Vec<usize> = sites::trampolines_in(bytes).collect();
    let ends = |at: &usize| at % 4 == 0 && bytes[at + 5..at + 8] == toy::TRAMP_UD;
    let expected: Vec<usize> = (0..bytes.len().saturating_sub(7)).filter(ends).collect();
    assert_eq!(listed, expected);

    let sites = listed.iter().filter_map(|&at| {
        let va = TRAMP + at as u64;
        let site = toy.with_env(|env| sites::call_trampoline(va, env, &toy));
        assert_eq!(site, trampoline_of(va, &bytes[at..at + 5]));
        site
    });
    sites.count()
}

/// The site that `insn`, in front of the UD1 of a trampoline at `va`, is in the toy.
fn trampoline_of(va: u64, insn: &[u8]) -> Option<Site> {
    let exemplar = match *insn {
        [0xe9, a, b, c, d] => {
            let distance = i32::from_le_bytes([a, b, c, d]);
            match va.wrapping_add(5).wrapping_add_signed(distance.into()) {
                toy::THUNK | toy::STATIC_RETURN => 0,
                callee => callee,
            }
        }
        [0xc3, 0xcc, 0xcc, 0xcc, 0xcc] => 0,
        _ => return None,
    };
    let rule = Rule::StaticCall {
        tail: true,
        exemplar,
    };
    Some(Site { va, len: 5, rule })
}

/// Parses a GRANT or RELEASE request and checks what is accepted. Returns the number of pages.
pub(crate) fn grant(bytes: &[u8], release: bool) -> Result<u64, Refusal> {
    let grant = Grant::parse(bytes, release)?;
    let regions: Vec<_> = grant.regions().collect();
    assert_eq!(
        (u32_at(bytes, 0), u32_at(bytes, 4)),
        (2, regions.len() as u32)
    );
    assert!(bytes.len() == 8 + 32 * regions.len() && !regions.is_empty());
    let pages: u64 = regions.iter().map(|region| region.end - region.start).sum();
    assert!(pages == grant.nr_pages() && pages <= 512);
    for (index, region) in regions.iter().enumerate() {
        let at = 8 + 32 * index;
        assert_eq!(region.start << 12, u64_at(bytes, at));
        assert!(region.end > region.start && region.end <= 1 << 40);
        assert!(region.va != 0 && region.va % 4096 == 0);
        assert_eq!(
            (region.rights.exec(), region.kind),
            (!release, HEKI_KIND_POOL)
        );
        assert!(!region.rights.write());
        for other in &regions[..index] {
            assert!(region.start >= other.end || other.start >= region.end);
            assert!(region.va >= other.va_end() || other.va >= region.va_end());
        }
    }
    Ok(pages)
}

/// Judges a page at `va`, which starts with `bytes` and goes on with INT3.
pub(crate) fn page(bytes: &[u8], va: u64, toy: &Toy) -> Option<u32> {
    let mut page = [0xcc; 4096];
    for (byte, new) in page.iter_mut().zip(bytes) {
        *byte = *new;
    }
    let kind = toy
        .with_env(|env| trampoline::check_page(va, &page, env, toy))
        .ok()?;
    let empty = page.iter().all(|&byte| byte == 0xcc);
    assert_eq!(
        kind,
        if empty {
            HEKI_KIND_POOL
        } else {
            HEKI_KIND_FTRACE
        }
    );
    Some(kind)
}

/// Parses a profile and compares its answers with those of a linear search.
pub(crate) fn profile(bytes: &[u8]) -> Result<(), Refusal> {
    ask(Profile::assume_checked(bytes), &[TEXT, TEXT + 1, u64::MAX]);
    let profile = Profile::parse(bytes)?;
    let counts = [4, 8, 12, 16].map(|at| u32_at(bytes, at) as usize);
    assert_eq!(bytes.len(), 80 + 4 * counts.iter().sum::<usize>());
    assert_eq!(u32_at(bytes, 0), 2);
    let (base, text_len) = (u64_at(bytes, 24), u64_at(bytes, 32));
    assert!(base != 0 && text_len != 0 && text_len % 4096 == 0);

    let mut at = 80;
    let [functions, calls, frozen, probes] = counts.map(|count| {
        let all: Vec<u32> = (0..count).map(|n| u32_at(bytes, at + 4 * n)).collect();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        at += 4 * count;
        all
    });
    assert!(functions.iter().all(|&offset| u64::from(offset) < text_len));
    assert!(calls
        .iter()
        .all(|&offset| u64::from(offset) + 5 <= text_len));

    assert!(probes.len() == profile.nr_probes() && probes.len() <= 1024);
    assert!(probes.iter().all(|&offset| u64::from(offset) < text_len));

    let placed = profile.at(base);
    let listed: Vec<u64> = placed.probes().collect();
    assert!(listed.len() == probes.len());
    assert!(listed
        .iter()
        .zip(&probes)
        .all(|(&va, &at)| va == base + u64::from(at)));
    let near = functions
        .iter()
        .chain(&calls)
        .chain(&frozen)
        .flat_map(|&offset| {
            let va = base
                .checked_add(offset.into())
                .expect("no offset overflows");
            [va.wrapping_sub(1), va, va.wrapping_add(1)]
        });
    for va in near.take(64) {
        let offset = va.wrapping_sub(base);
        let listed = |all: &[u32]| all.iter().any(|&entry| u64::from(entry) == offset);
        assert_eq!(placed.is_function(va), listed(&functions));
        assert_eq!(placed.is_call(va), listed(&calls));
        assert_eq!(placed.is_frozen(va), listed(&frozen));
        let up_to = functions
            .iter()
            .filter(|&&entry| va >= base && u64::from(entry) <= offset);
        let last = up_to.max().map(|&entry| base + u64::from(entry));
        assert_eq!(placed.function_of(va), last);
        let overlaps = |&entry: &u32| {
            let call = base + u64::from(entry);
            va >= base && call < va.saturating_add(3) && va < call.saturating_add(5)
        };
        let in_reach = va >= base && va < u64::MAX - 3;
        assert!(!in_reach || placed.has_call_in(va, va + 3) == calls.iter().any(overlaps));
    }
    Ok(())
}

/// Whatever the bytes were, there is an answer.
fn ask(profile: Profile<'_>, vas: &[u64]) {
    let placed = profile.at(TEXT);
    for &va in vas {
        let _ = (
            placed.is_function(va),
            placed.is_call(va),
            placed.is_frozen(va),
        );
    }
    let _ = profile.build_id_at(TEXT);
    let _ = profile.matches(BASE, TEXT_LEN, b"");
}

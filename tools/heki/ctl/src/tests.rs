// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Whole commands, on what hosts of ours really printed while they ran a sealed guest.
//!
//! `corpus/vmx` and `corpus/svm` are from emulated hosts, an Intel CPU with MBEC and an AMD CPU
//! without GMET. A trace there has two lines of each form, and cpuinfo the lines that are read. The
//! pins of IDTR have the names that a host gives them since.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Parser;
use proptest::prelude::*;
use serde_json::Value;

use crate::args::Cli;
use crate::event::{
    lost,
    Class,
    Event,
    Target,
    What, //
};
use crate::explain::explain_line;
use crate::vms::State;

fn corpus(leg: &str, file: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("corpus").join(leg).join(file)
}

fn trace(leg: &str) -> String {
    std::fs::read_to_string(corpus(leg, "tracing/trace")).unwrap()
}

/// Runs a command on the tree of a leg: its answer, and what it printed or said.
fn hekictl(leg: &str, args: &[&str]) -> (bool, String) {
    let mut words = vec!["hekictl".to_owned()];
    words.extend(args.iter().map(|arg| (*arg).to_owned()));
    for (option, folder) in [
        ("--sysfs", "sys"),
        ("--debugfs", "debug"),
        ("--tracefs", "tracing"),
        ("--procfs", "proc"),
    ] {
        words.push(option.to_owned());
        words.push(corpus(leg, folder).display().to_string());
    }
    let cli = Cli::try_parse_from(words).unwrap();
    let mut out = Vec::new();
    match crate::run(&cli, &mut out) {
        Ok(good) => (good, String::from_utf8(out).unwrap()),
        Err(error) => (false, error.to_string()),
    }
}

fn on_trace(leg: &str, args: &[&str]) -> String {
    let file = corpus(leg, "tracing/trace").display().to_string();
    let (good, text) = hekictl(leg, &[args, &["--file", &file]].concat());
    assert!(good, "{text}");
    text
}

#[test]
fn every_line_of_a_host_is_an_event() {
    for leg in ["vmx", "svm"] {
        for line in trace(leg).lines().filter(|line| !line.starts_with('#')) {
            assert!(Event::parse(line).is_some(), "{line}");
        }
    }
}

#[test]
fn an_event_is_read_whole() {
    let line = "           vcpu1-99      [000] .....     2.567009: kvm_heki_deny: vcpu 1 rip 0xffffffffc0200645 \
                access  gfn 0x0 va 0x0 msr index 0xc0000083 bits 0x1000 reason pinned";
    let event = Event::parse(line).unwrap();
    let task = event.task.as_ref().unwrap();
    assert_eq!((task.thread, event.vcpu), (99, 1));
    assert_eq!(task.command, "vcpu1");
    assert_eq!(task.time, "2.567009");
    assert_eq!(event.rip, 0xffff_ffff_c020_0645);
    let target = Target::Register {
        register: "msr".to_owned(),
        index: 0xc000_0083,
        bits: 0x1000,
    };
    let denial = What::Denial {
        class: Class::Registers,
        target,
        reason: "pinned".to_owned(),
        learned: false,
    };
    assert_eq!(event.what, denial);
    assert_eq!(event.id().as_deref(), Some("registers.pinned"));
}

#[test]
fn a_terminal_obeys_no_event() {
    let head = r#""vcpu":0,"rip":"0x1""#;
    let task = r#""time":"\u001b[2J","thread":7,"command":"\u001b[2J""#;
    for what in [
        format!(r#"{{"event":"query",{head},{task},"ret":0}}"#),
        format!(r#"{{"event":"request",{head},"operation":"\u001b[2J","allowed":true}}"#),
        format!(r#"{{"event":"kexec",{head},"step":"\u001b[2J","allowed":true}}"#),
        format!(
            r#"{{"event":"seal",{head},"ranges":1,"pins":1,"flags":"0x0","outcome":"\u001b[2J","ret":-1}}"#
        ),
        format!(
            r#"{{"event":"change",{head},"operation":"\u001b[2J","items":1,"outcome":"\u001b[2J","ret":-1}}"#
        ),
        format!(
            r#"{{"event":"denial",{head},"class":"registers","register":"\u001b[2J","index":"0x0","bits":"0x1","reason":"\u001b[2J"}}"#
        ),
        "vcpu0-7 [001] d..1. 1.5: kvm_heki_deny: vcpu 0 rip 0x1 access  gfn 0x0 va 0x0 \u{1b}[2J \
         index 0x0 bits 0x8 reason \u{1b}[2J"
            .to_owned(),
    ] {
        let text = Event::parse_any(&what).expect(&what).to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.to_lowercase().contains("?[2j"), "{text:?}");
    }
}

#[test]
fn parts_of_a_register_are_told_apart() {
    for (register, name) in [
        ("idtr index 0x0", "IDTR base"),
        ("gdtr index 0x1", "GDTR limit"),
        ("ldtr index 0x0", "LDTR"),
        ("tr index 0x0", "TR base"),
        ("tr index 0x1", "TR limit"),
        ("tr index 0x2", "TR selector"),
        ("xcr0 index 0x0", "XCR0"),
        ("msr index 0x1", "MSR 0x1"),
    ] {
        let line = format!(
            "vcpu0-7 [001] d..1. 1.5: kvm_heki_deny: vcpu 0 rip 0x1 access  gfn 0x0 va 0x0 {register} bits 0x8 \
             reason pinned"
        );
        let text = Event::parse(&line).unwrap().to_string();
        let end = format!(": DENIED change of bits 0x8 of {name} [registers.pinned]");
        assert!(text.ends_with(&end), "{text}");
    }
}

#[test]
fn what_is_learned_says_so() {
    let denied =
        "vcpu0-7 [001] d..1. 1.5: kvm_heki_deny: vcpu 0 rip 0x1 access write gfn 0x2 va 0x0 cr0 \
                  index 0x0 bits 0x0 reason sealed";
    let event = Event::parse(&format!("{denied} learned")).unwrap();
    assert_eq!(event.id().as_deref(), Some("write.sealed"));
    let text = event.to_string();
    assert!(
        text.contains(
            ": LEARNING: would be DENIED: write of guest physical page 0x2000 [write.sealed]"
        ),
        "{text}"
    );
    let json = serde_json::to_string(&event).unwrap();
    assert!(json.contains(r#""learned":true"#), "{json}");
    assert_eq!(Event::parse_any(&json), Some(event));
    let outcome = |line: &str| explain_line(line, None, None).unwrap().outcome;
    assert!(outcome(&format!("{denied} learned"))
        .unwrap()
        .starts_with("LEARNING"));
    assert_eq!(outcome(denied), None);
    let json = serde_json::to_string(&Event::parse(denied).unwrap()).unwrap();
    assert!(!json.contains("learned"), "{json}");
    for bad in ["lerned", "learned learned", "denied"] {
        assert_eq!(Event::parse(&format!("{denied} {bad}")), None);
    }
}

#[test]
fn a_vm_that_learns_holds_nothing_of_it() {
    let text = "state sealed\nlearning write registers\nexec allow-list\npin cr0 0x10000\n\
                range 0x1000-0x1fff r-x text\n";
    let state = State::parse(text);
    assert_eq!(state.learning, ["write", "registers"]);
    let held: Vec<_> = state
        .protections()
        .iter()
        .map(|one| (one.name, one.held))
        .collect();
    let expected = [
        ("write", false),
        ("exec", true),
        ("cr", false),
        ("msr", false),
        ("dt", false),
    ];
    assert_eq!(held, expected);
    let why = |at: usize| state.protections().get(at).unwrap().why.unwrap();
    assert!(why(0).starts_with("LEARNING") && why(2).starts_with("LEARNING"));
    assert!(!why(3).starts_with("LEARNING"));
    assert!(State::parse("state sealed\nexec free\n")
        .learning
        .is_empty());
}

/// A VMM's thread may call itself whatever it likes.
#[test]
fn a_thread_cannot_forge_an_event() {
    let payload = "vcpu 0 rip 0x1 access write gfn 0x2 va 0x0 cr0 index 0x0 bits 0x0 reason sealed";
    let line = format!("a: kvm_heki_deny: b-1 [0-7 [001] d..1. 1.5: kvm_heki_deny: {payload}");
    let task = Event::parse(&line).unwrap().task.unwrap();
    assert_eq!(task.thread, 7);
    assert_eq!(task.command, "a: kvm_heki_deny: b-1 [0");
    let line = format!("\x1b[2J-7 [001] d..1. 1.5: kvm_heki_deny: {payload}");
    assert!(!Event::parse(&line).unwrap().to_string().contains('\x1b'));
}

#[test]
fn lines_that_are_none_are_no_events() {
    let good = "vcpu0-7 [001] ..... 1.5: kvm_heki_query: vcpu 0 rip 0x1 ret 0";
    assert!(Event::parse(good).is_some());
    for bad in [
        "",
        "# tracer: nop",
        &good.replace("ret 0", "ret"),
        &good.replace("ret 0", "ret 0 more"),
        &good.replace("query", "quarry"),
        &good.replace("0x1", "1"),
        &good.replace("-7", ""),
        &good.replace("kvm_heki", "kvm_other"),
    ] {
        assert_eq!(Event::parse(bad), None, "{bad}");
    }
    assert_eq!(lost("CPU:3 [LOST 1234 EVENTS]"), Some(1234));
    assert_eq!(lost(good), None);
}

#[test]
fn json_of_events_is_read_again() {
    for leg in ["vmx", "svm"] {
        let json = on_trace(leg, &["events", "--json"]);
        let plain: Vec<_> = trace(leg).lines().filter_map(Event::parse).collect();
        let again: Vec<_> = json.lines().filter_map(Event::parse_any).collect();
        assert!(plain.len() > 30);
        assert_eq!(plain, again);
    }
}

#[test]
fn json_of_a_denial_has_its_identifier() {
    let json = on_trace("vmx", &["events", "--json"]);
    for line in json.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let id = Event::parse_any(line).unwrap().id();
        assert_eq!(value["id"].as_str(), id.as_deref(), "{line}");
    }
}

/// As in Documentation/admin-guide/heki.rst, and each kind of target.
#[test]
fn events_of_heki_vmm_are_explained() {
    let explain = |line: &str| {
        let explanation = explain_line(line, None, None).unwrap();
        (explanation.id, explanation.at, explanation.why.is_some())
    };
    for (class, target, at) in [
        (
            "write",
            r#""gpa":"0x1000008""#,
            "guest physical address 0x1000008",
        ),
        (
            "registers",
            r#""register":17,"index":"0x174","bits":"0x1""#,
            "bits 0x1 of MSR 0x174",
        ),
        (
            "registers",
            r#""register":21,"index":"0x2","bits":"0x1""#,
            "bits 0x1 of TR selector",
        ),
        ("patch", r#""va":"0x10""#, "text at 0x10"),
    ] {
        let line = format!(
            r#"{{"event":"denial","vcpu":1,"cpl":0,"rip":"0x1","class":"{class}","reason":"stale",{target},"stop":false}}"#
        );
        let expected = (Some(format!("{class}.stale")), Some(at.to_owned()), true);
        assert_eq!(explain(&line), expected);
        assert_eq!(Event::parse_any(&line.replace(target, r#""bits":1"#)), None);
    }
    let request = r#"{"event":"request","vcpu":0,"rip":"0x1","operation":"seal","bytes":440,"exec":true,"ranges":12,"pins":2,"allowed":true}"#;
    assert_eq!(explain(request), (None, None, false));
    assert!(explain(&request.replace("true}", "false}")).2);
    let kexec = r#"{"event":"kexec","vcpu":0,"rip":"0x1","step":"load","bytes":1,"allowed":false}"#;
    let event = Event::parse_any(kexec).unwrap();
    assert_eq!(
        event.to_string(),
        "vcpu 0 rip 0x1: kexec load refused by the VMM"
    );
    assert!(explain(kexec).2);
}

#[test]
fn events_are_filtered() {
    let all = on_trace("vmx", &["events"]);
    let denials = on_trace("vmx", &["events", "--denials"]);
    assert!(all.contains("sealed itself: 16 ranges, 18 pins"));
    assert!(!denials.contains("sealed itself"));
    assert_eq!(
        denials.lines().count(),
        trace("vmx").matches("kvm_heki_deny").count()
    );
    let exec = on_trace("vmx", &["events", "--class", "exec"]);
    assert_eq!(
        exec.lines().count(),
        trace("vmx").matches("access fetch").count()
    );
    assert!(exec
        .lines()
        .all(|line| line.contains("[exec.not_executable]")));
    assert_eq!(
        on_trace("vmx", &["events", "--count", "3"]).lines().count(),
        3
    );
    assert_eq!(on_trace("vmx", &["events", "--vm", "1"]), "");
    assert_ne!(on_trace("vmx", &["events", "--vm", "99"]), "");
}

#[test]
fn status_is_that_of_the_host() {
    let (good, text) = hekictl("vmx", &["status"]);
    assert!(good);
    for line in [
        "VM of process 94 (?): sealed",
        "  write: held",
        "  exec: held",
        "  dt: held",
        "  pin cr0 0x10000",
        "  pin IDTR base 0xffffffffffffffff",
        "  pin msr 0xc0000082 0xffffffffffffffff",
        "  range 0x5400000-0x5a55fff r-x text",
        "  sites 5923",
        "  count denied_write 13",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in {text}");
    }
    let (_, text) = hekictl("svm", &["status"]);
    assert!(text.contains("  write: held"));
    assert!(text.contains("  exec: not held: the guest did not ask"));
    let (_, json) = hekictl("svm", &["status", "--json"]);
    let vms: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(vms[0]["state"], "sealed");
    assert_eq!(vms[0]["protections"][1]["held"], false);
    assert_eq!(vms[0]["counters"]["seal"], 1);
    assert_eq!(
        hekictl("vmx", &["status", "--vm", "94"]),
        hekictl("vmx", &["status"])
    );
    assert_eq!(
        hekictl("vmx", &["status", "--vm", "1"]).1,
        "no VM of process 1 takes part in Heki"
    );
}

#[test]
fn status_tells_what_a_seal_costs() {
    let root = std::env::temp_dir().join(format!("hekictl-status-{}", std::process::id()));
    let vm = root.join("kvm/7-1");
    std::fs::create_dir_all(&vm).unwrap();
    let lines = "state sealed\nexec free\nmemory fixed 1096\nmemory map 512\nmemory map\n";
    std::fs::write(vm.join("heki"), lines).unwrap();
    let at = root.display().to_string();
    let say = |more: &[&str]| {
        let words = [&["hekictl", "status", "--debugfs", &at], more].concat();
        let mut out = Vec::new();
        crate::run(&Cli::try_parse_from(words).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let (text, json) = (say(&[]), say(&["--json"]));
    std::fs::remove_dir_all(&root).unwrap();
    assert!(
        text.contains("\n  memory fixed 1096\n  memory map 512\n"),
        "{text}"
    );
    let vms: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(vms[0]["memory"]["fixed"], 1096);
}

/// As a host printed them that pins all descriptor-table registers.
#[test]
fn any_pinned_table_is_that_protection() {
    for pin in [
        "IDTR limit 0xffff",
        "GDTR base 0xffffffffffffffff",
        "LDTR 0xffff",
        "TR selector 0xffff",
    ] {
        let state = State::parse(&format!("state sealed\npin {pin}\n"));
        let held = state.protections().into_iter().filter(|one| one.held);
        assert!(held.map(|one| one.name).eq(["dt"]), "{pin}");
    }
}

/// A sealed VM in which nothing is pinned, and all sealed memory can be written.
#[test]
fn what_takes_nothing_away_holds_nothing() {
    let text = "state sealed\nexec free\npin cr0 0x0\npin cr4 0x0\nrange 0x1000-0x1fff rwx other\n";
    let state = State::parse(text);
    assert!(state.pins.is_empty());
    assert!(state.protections().iter().all(|one| !one.held));
    let text = format!("{text}pin cr4 0x800\nrange 0x2000-0x2fff r-x text\n");
    let held = State::parse(&text)
        .protections()
        .into_iter()
        .filter(|one| one.held);
    assert!(held.map(|one| one.name).eq(["write", "cr"]));
}

#[test]
fn a_guest_that_is_open_holds_nothing() {
    let protections = State::parse("state open\n").protections();
    assert_eq!(protections.len(), 5);
    assert!(protections
        .iter()
        .all(|protection| !protection.held && protection.why.is_some()));
}

#[test]
fn what_is_not_mounted_is_said() {
    let empty = std::env::temp_dir().join(format!("hekictl-test-{}", std::process::id()));
    std::fs::create_dir_all(&empty).unwrap();
    let at = empty.display().to_string();
    let say = |args: &[&str]| {
        let cli = Cli::try_parse_from([&["hekictl"], args].concat()).unwrap();
        crate::run(&cli, &mut Vec::new()).unwrap_err().to_string()
    };
    let status = say(&["status", "--debugfs", &at]);
    let events = say(&["events", "--tracefs", &at]);
    let sysfs = corpus("vmx", "sys").display().to_string();
    let no_kvm = say(&["status", "--debugfs", &sysfs]);
    let no_heki = say(&["top", "--tracefs", &sysfs]);
    std::fs::remove_dir(&empty).unwrap();
    assert!(status.contains("debugfs is not mounted"), "{status}");
    assert!(events.contains("tracefs is not mounted"), "{events}");
    assert!(no_kvm.contains("KVM is not loaded"), "{no_kvm}");
    assert!(no_heki.contains("has no Heki"), "{no_heki}");
}

#[test]
fn check_says_what_can_be_held() {
    let (able, text) = hekictl("vmx", &["check"]);
    assert!(able);
    assert!(
        text.contains("this host can hold: write, exec, cr, msr, dt\n"),
        "{text}"
    );
    assert!(text.contains("ok       fsgsbase"), "{text}");
    assert!(text.contains("weaker   cet"), "{text}");
    let (able, text) = hekictl("svm", &["check"]);
    assert!(able);
    assert!(text.contains("weaker   gmet"), "{text}");
    assert!(
        text.contains("this host can hold: write, cr, msr, dt\n"),
        "{text}"
    );
    let (able, text) = hekictl("none", &["check"]);
    assert!(!able);
    assert!(text.contains("MISSING  heki"), "{text}");
    assert!(text.ends_with("this host cannot hold anything\n"), "{text}");
    let (_, json) = hekictl("none", &["check", "--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["able"], false);
    assert_eq!(report["protections"].as_array().map(Vec::len), Some(0));
}

#[test]
fn every_denial_of_a_host_is_explained() {
    let mut ids = BTreeSet::new();
    for leg in ["vmx", "svm"] {
        for line in trace(leg)
            .lines()
            .filter(|line| line.contains("kvm_heki_deny"))
        {
            let explanation = explain_line(line, None, None).unwrap();
            assert!(explanation.invariant.is_some(), "{line}");
            let id = explanation.id.unwrap();
            assert!(explain_line(&id, None, None).unwrap().why.is_some(), "{id}");
            ids.insert(id);
        }
    }
    assert!(ids.len() >= 9, "{ids:?}");
}

#[test]
fn explanations_name_places() {
    let map = std::env::temp_dir().join(format!("hekictl-map-{}", std::process::id()));
    let symbols = "ffffffff81000000 T _text\nffffffff81000000 T start\nffffffff81002000 T vfs_read\nffffffff81f00000 B _end\n";
    std::fs::write(&map, symbols).unwrap();
    let at = map.display().to_string();
    let line = "vcpu0-7 [001] ..... 1.5: kvm_heki_deny: vcpu 0 rip 0xffffffff82002010 access write gfn 0x5402 va 0x0 cr0 \
                index 0x0 bits 0x0 reason sealed";
    let (_, unmoved) = hekictl("vmx", &["explain", line, "--system-map", &at]);
    let options = [
        "--kaslr-offset",
        "0x1000000",
        "--text-gpa",
        "0x5400000",
        "--system-map",
    ];
    let (good, text) = hekictl(
        "vmx",
        &[&["explain", line], options.as_slice(), &[&at]].concat(),
    );
    std::fs::remove_file(&map).unwrap();
    assert!(good, "{text}");
    assert!(
        text.starts_with("write.sealed (class 0, reason 0)\n"),
        "{text}"
    );
    assert!(
        text.contains("by: 0xffffffff82002010, vfs_read+0x10\n"),
        "{text}"
    );
    assert!(
        text.contains("at: guest physical page 0x5402000, which begins at vfs_read+0x0\n"),
        "{text}"
    );
    assert!(text.contains("invariant: I1: "), "{text}");
    assert!(
        unmoved.contains(" if the kernel was not moved (--kaslr-offset): a module"),
        "{unmoved}"
    );
    let (good, text) = hekictl("vmx", &["explain", "write.pinned"]);
    assert!(!good);
    assert_eq!(text, "no event of Heki: write.pinned");
}

#[test]
fn top_counts_all_denials() {
    let text = on_trace("vmx", &["top", "--json"]);
    let view: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(view["lost"], 0);
    let total: u64 = view["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["total"].as_u64().unwrap())
        .sum();
    assert_eq!(total, trace("vmx").matches("kvm_heki_deny").count() as u64);
}

#[test]
fn top_tells_what_was_lost() {
    let trace = std::env::temp_dir().join(format!("hekictl-lost-{}", std::process::id()));
    std::fs::write(&trace, "CPU:1 [LOST 30 EVENTS]\nCPU:0 [LOST 4 EVENTS]\n").unwrap();
    let at = trace.display().to_string();
    let (_, json) = hekictl("vmx", &["top", "--json", "--file", &at]);
    let (_, text) = hekictl("vmx", &["top", "--file", &at]);
    std::fs::remove_file(&trace).unwrap();
    assert_eq!(json, "{\"rows\":[],\"lost\":34}\n");
    assert!(text.ends_with("\n(34 events lost)\n"), "{text}");
}

#[test]
fn man_pages_and_completions_are_written() {
    let dir = std::env::temp_dir().join(format!("hekictl-generate-{}", std::process::id()));
    let (good, text) = hekictl("vmx", &["generate", &dir.display().to_string()]);
    assert!(good, "{text}");
    let page = std::fs::read_to_string(dir.join("hekictl-explain.1")).unwrap();
    let bash = std::fs::read_to_string(dir.join("hekictl.bash")).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(page.contains("kaslr"), "{page}");
    assert!(bash.contains("explain"));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "(?s).{0,300}") {
        let _ = Event::parse_any(&text);
        let _ = lost(&text);
        let _ = State::parse(&text).protections();
        let _ = explain_line(&text, None, None);
    }

    /// Lines that are nearly right: a real one with pieces of another.
    #[test]
    fn a_damaged_line_is_an_event_or_none(at: prop::sample::Index, len in 0..40usize, piece in "[a-z0-9x:\\[\\]. -]{0,20}") {
        for line in trace("vmx").lines() {
            let mut chars: Vec<_> = line.chars().collect();
            let start = at.index(chars.len());
            let end = chars.len().min(start + len);
            chars.splice(start..end, piece.chars());
            let line: String = chars.into_iter().collect();
            if let Some(event) = Event::parse(&line) {
                prop_assert!(!event.to_string().is_empty());
                prop_assert!(explain_line(&line, None, None).is_some());
            }
        }
    }

    #[test]
    fn status_of_damaged_files_is_read(lines in prop::collection::vec("(pin|range|state|exec|sites) .{0,30}", 0..20)) {
        let state = State::parse(&lines.join("\n"));
        prop_assert!(state.pins.len() + state.ranges.len() <= lines.len());
    }
}

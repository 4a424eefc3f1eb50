// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! `hekictl check`: what this host can hold, what is missing, and what to do about it.
//!
//! Asks the CPU's flags, the parameters of KVM's modules, and what is mounted; the requirements are
//! those of Documentation/admin-guide/heki.rst. Locks: none.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::host::{
    self,
    Error,
    Roots, //
};

/// How a finding bears on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Some protection is less without it.
    Weaker,
    /// Nothing goes without it.
    Missing,
    /// It changes nothing of what is held.
    Note,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// What.
    pub(crate) name: &'static str,
    /// How it bears.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) found: String,
    /// What to do, unless it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<&'static str>,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether a guest can be sealed here at all.
    pub(crate) able: bool,
    /// The protections that can be held; a guest's seal says which are.
    pub(crate) protections: Vec<&'static str>,
    /// Why.
    pub(crate) findings: Vec<Finding>,
}

/// What differs between the vendors.
struct Vendor {
    flag: &'static str,
    module: &'static str,
    tdp: &'static str,
    exec: &'static str,
    no_exec: &'static str,
    /// What makes loads of descriptor-table registers exit.
    tables: &'static str,
}

const VENDORS: [Vendor; 2] = [
    Vendor {
        flag: "vmx",
        module: "kvm_intel",
        tdp: "ept",
        exec: "mbec",
        no_exec: "a CPU with MBEC (ept_mode_based_exec in /proc/cpuinfo), and kvm_intel.mbec=1; without it the \
                  execution allow-list is not offered",
        tables: "descriptor-table exiting, if the CPU has it: /proc/cpuinfo does not show it",
    },
    Vendor {
        flag: "svm",
        module: "kvm_amd",
        tdp: "npt",
        exec: "gmet",
        no_exec: "a CPU with GMET (CPUID Fn8000_000A EDX bit 17), and kvm_amd.gmet=1; without it the execution \
                  allow-list is not offered",
        tables: "intercepts of their loads",
    },
];

const NO_BIT: &str = "a CPU that has it; its bit cannot be pinned";

/// What has a bit of CR4 that can be pinned: name, the flags that show it, and what to do without.
const FEATURES: [(&str, &[&str], &str); 5] = [
    (
        "smep",
        &["smep"],
        "a CPU that has it; its bit cannot be pinned, and without it there is no allow-list",
    ),
    ("smap", &["smap"], NO_BIT),
    (
        "umip",
        &["umip"],
        "a CPU that has it; KVM emulates it on most others, and its bit can be pinned there, too",
    ),
    ("fsgsbase", &["fsgsbase"], NO_BIT),
    (
        "cet",
        &["user_shstk", "ibt"],
        "a CPU that has it; its bit cannot be pinned. A host without CONFIG_X86_USER_SHADOW_STACK does not \
         show shadow stacks, and KVM may offer them all the same",
    ),
];

impl Report {
    fn new() -> Self {
        Self {
            able: true,
            protections: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn add(
        &mut self,
        name: &'static str,
        ok: bool,
        found: String,
        otherwise: Verdict,
        remedy: &'static str,
    ) {
        let verdict = if ok { Verdict::Ok } else { otherwise };
        self.able &= verdict != Verdict::Missing;
        self.findings.push(Finding {
            name,
            verdict,
            found,
            remedy: (!ok).then_some(remedy),
        });
    }

    fn is_ok(&self, name: &str) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.name == name && finding.verdict == Verdict::Ok)
    }
}

/// Looks at everything.
pub(crate) fn examine(roots: &Roots) -> Report {
    let mut report = Report::new();
    let cpuinfo = host::read(&roots.procfs.join("cpuinfo")).unwrap_or_default();
    let flags = flags_of(&cpuinfo);
    let vendor = VENDORS.iter().find(|vendor| flags.contains(&vendor.flag));
    report.add(
        "cpu",
        vendor.is_some(),
        vendor
            .map_or("neither VMX nor SVM", |vendor| vendor.flag)
            .to_owned(),
        Verdict::Missing,
        "turn virtualization on in the firmware, or in the hypervisor below this host",
    );
    examine_kvm(&mut report, roots);
    if let Some(vendor) = vendor {
        examine_vendor(&mut report, roots, vendor);
    }
    examine_features(&mut report, &flags);
    if let Some(vendor) = vendor {
        examine_tables(&mut report, vendor);
    }
    examine_views(&mut report, roots);
    report.protections = protections(&report);
    report
}

/// The flags of the first CPU, those of VMX among them.
fn flags_of(cpuinfo: &str) -> Vec<&str> {
    let of = |name: &str| {
        let mut lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(key, _)| key.trim() == name)
            .map_or("", |(_, value)| value)
    };
    let words = of("flags").split_whitespace();
    words.chain(of("vmx flags").split_whitespace()).collect()
}

fn examine_kvm(report: &mut Report, roots: &Roots) {
    let kvm = roots.sysfs.join("module/kvm");
    let loaded = kvm.exists();
    report.add(
        "kvm",
        loaded,
        there(loaded),
        Verdict::Missing,
        "modprobe kvm, and kvm_intel or kvm_amd",
    );
    let heki = host::word(&kvm.join("parameters/heki"));
    report.add(
        "heki",
        heki.is_some(),
        if heki.is_some() {
            "built in".to_owned()
        } else {
            "kvm has no parameter heki".to_owned()
        },
        Verdict::Missing,
        "a host kernel with CONFIG_KVM_HEKI=y",
    );
    let all = heki.as_deref() == Some("all");
    report.add(
        "opt-in",
        all,
        if all {
            "every VM takes part".to_owned()
        } else {
            "by its VMM".to_owned()
        },
        Verdict::Note,
        "a VM takes part if its VMM creates the device (heki-vmm --heki), or with kvm.heki=all",
    );
    let tdp_mmu = host::word(&kvm.join("parameters/tdp_mmu"));
    report.add(
        "tdp_mmu",
        tdp_mmu.as_deref() == Some("Y"),
        parameter(&tdp_mmu),
        Verdict::Missing,
        "load kvm with tdp_mmu=1",
    );
}

fn examine_vendor(report: &mut Report, roots: &Roots, vendor: &Vendor) {
    let module = roots.sysfs.join("module").join(vendor.module);
    let loaded = module.exists();
    report.add(
        vendor.module,
        loaded,
        there(loaded),
        Verdict::Missing,
        "load the vendor module of this CPU",
    );
    let get = |name| host::word(&module.join("parameters").join(name));
    let tdp = get(vendor.tdp);
    report.add(
        vendor.tdp,
        is_on(&tdp),
        parameter(&tdp),
        Verdict::Missing,
        "a CPU with nested paging, and the parameter of the vendor module on",
    );
    let exec = get(vendor.exec);
    report.add(
        vendor.exec,
        is_on(&exec),
        parameter(&exec),
        Verdict::Weaker,
        vendor.no_exec,
    );
    let nested = get("nested");
    let off = !is_on(&nested);
    report.add(
        "nested",
        off,
        parameter(&nested),
        Verdict::Note,
        "do not show VMX or SVM to a guest whose allow-list matters",
    );
}

fn examine_features(report: &mut Report, flags: &[&str]) {
    for (name, shown_by, remedy) in FEATURES {
        let ok = shown_by.iter().any(|flag| flags.contains(flag));
        let found = if ok {
            "in the CPU"
        } else {
            "not among the CPU's flags"
        };
        report.add(name, ok, found.to_owned(), Verdict::Weaker, remedy);
    }
}

fn examine_tables(report: &mut Report, vendor: &Vendor) {
    report.add("dt", true, vendor.tables.to_owned(), Verdict::Weaker, "");
}

fn examine_views(report: &mut Report, roots: &Roots) {
    let views = [
        ("debugfs", &roots.debugfs, "kvm", "mount -t debugfs none /sys/kernel/debug, as root; for hekictl status"),
        (
            "tracefs",
            &roots.tracefs,
            "events/kvm_heki",
            "mount -t tracefs none /sys/kernel/tracing, as root, with kvm loaded; for hekictl events and top",
        ),
    ];
    for (name, root, path, remedy) in views {
        let seen = Path::new(root).join(path).exists();
        let found = if seen {
            "readable"
        } else {
            "not mounted, or not readable"
        };
        report.add(name, seen, found.to_owned(), Verdict::Note, remedy);
    }
}

fn there(loaded: bool) -> String {
    if loaded { "loaded" } else { "not loaded" }.to_owned()
}

fn parameter(value: &Option<String>) -> String {
    value
        .as_deref()
        .map_or("no such parameter".to_owned(), host::printable)
}

fn is_on(value: &Option<String>) -> bool {
    matches!(value.as_deref(), Some("Y" | "1"))
}

/// What can be held, by the words of `heki_guest.require=`.
fn protections(report: &Report) -> Vec<&'static str> {
    if !report.able {
        return Vec::new();
    }
    let exec = (report.is_ok("mbec") || report.is_ok("gmet")) && report.is_ok("smep");
    let mut names = vec!["write", "cr", "msr", "dt"];
    if exec {
        names.insert(1, "exec");
    }
    names
}

/// Prints what was found; whether the host is able.
pub(crate) fn run(roots: &Roots, json: bool, out: &mut dyn Write) -> Result<bool, Error> {
    let report = examine(roots);
    if json {
        host::write_json(out, &report)?;
        return Ok(report.able);
    }
    for finding in &report.findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Weaker => "weaker",
            Verdict::Missing => "MISSING",
            Verdict::Note => "note",
        };
        writeln!(out, "{verdict:<8} {:<10} {}", finding.name, finding.found)?;
        if let Some(remedy) = finding.remedy {
            writeln!(out, "{:19} {remedy}", "")?;
        }
    }
    if report.able {
        writeln!(out, "this host can hold: {}", report.protections.join(", "))?;
    } else {
        writeln!(out, "this host cannot hold anything")?;
    }
    Ok(report.able)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(vendor: &Vendor, flags: &[&str]) -> Report {
        let mut report = Report::new();
        examine_features(&mut report, flags);
        examine_tables(&mut report, vendor);
        report
    }

    #[test]
    fn what_is_not_shown_of_tables_is_said() {
        let [intel, _] = &VENDORS;
        let report = examined(intel, &[]);
        let tables = report.findings.iter().find(|finding| finding.name == "dt");
        assert!(tables.is_some_and(|dt| dt.found.contains("cpuinfo does not show it")));
    }

    #[test]
    fn each_pinned_bit_is_looked_for() {
        let [intel, _] = &VENDORS;
        let none = examined(intel, &[]);
        let all = examined(intel, &["smep", "smap", "umip", "fsgsbase", "ibt"]);
        for (name, ..) in FEATURES {
            assert!(!none.is_ok(name) && all.is_ok(name), "{name}");
        }
        assert!(examined(intel, &["user_shstk"]).is_ok("cet"));
    }
}

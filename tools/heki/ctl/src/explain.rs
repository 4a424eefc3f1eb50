// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! `hekictl explain`: what was attempted, which rule denied it, and where in the guest.
//!
//! Reads events with `event.rs`, knows reasons from `reasons.rs`, and places from `symbols.rs`.
//! Locks: none.

use std::io::{
    self,
    BufRead,
    Read,
    Write, //
};

use serde::Serialize;

use crate::args::Explain;
use crate::event::{
    Class,
    Event,
    Target,
    What, //
};
use crate::host::{
    printable,
    write_json,
    Error, //
};
use crate::reasons::{
    self,
    Reason, //
};
use crate::symbols::Symbols;

/// Longest line that is read.
const MAX_LINE: u64 = 4096;

/// Why heki-vmm refuses a request, or a kernel.
const POLICY: &str = "the VMM's policy, see --heki-policy in Documentation/admin-guide/heki.rst";

/// What there is to say.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Explanation {
    /// `CLASS.REASON` of a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// HEKI_CLASS_* and HEKI_REASON_*.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) codes: Option<(u32, u32)>,
    /// What the guest attempted or asked.
    pub(crate) attempted: String,
    /// Where the guest's instruction is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// What it was aimed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
    /// What became of it, if it was not denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<&'static str>,
    /// Why the answer was no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Number and words of the invariant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invariant: Option<String>,
    /// What else than an attack it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otherwise: Option<&'static str>,
}

/// Explains what the user named.
pub(crate) fn run(args: &Explain, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let mut symbols = match (&args.vmlinux, &args.system_map) {
        (Some(path), _) => Some(Symbols::from_vmlinux(path)?),
        (_, Some(path)) => Some(Symbols::from_map(path)?),
        _ => None,
    };
    if let Some(symbols) = &mut symbols {
        symbols.kaslr_offset = args.kaslr_offset;
    }
    let line = line(&args.event.join(" "))?;
    let explanation = explain_line(line.trim(), symbols.as_ref(), args.text_gpa)
        .ok_or_else(|| Error::NoEvent(printable(line.trim())))?;
    if json {
        write_json(out, &explanation)?;
    } else {
        print(&explanation, out)?;
    }
    Ok(())
}

fn line(argument: &str) -> Result<String, Error> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut line = String::new();
    io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    Ok(line)
}

/// Explains a line, or an identifier.
pub(crate) fn explain_line(
    line: &str,
    symbols: Option<&Symbols>,
    text_gpa: Option<u64>,
) -> Option<Explanation> {
    if let Some(event) = Event::parse_any(line) {
        return Some(explain(&event, symbols, text_gpa));
    }
    let (class, reason) = line.split_once('.')?;
    let class = Class::ALL
        .into_iter()
        .find(|known| known.as_str() == class)?;
    let reason = reasons::find(reason).filter(|reason| reason.classes.contains(&class))?;
    let mut explanation = Explanation {
        id: Some(line.to_owned()),
        attempted: attempt(class).to_owned(),
        ..Explanation::default()
    };
    explanation.add_reason(class, reason);
    Some(explanation)
}

fn attempt(class: Class) -> &'static str {
    match class {
        Class::Write => "the guest wrote to memory",
        Class::Exec => "the guest ran memory in supervisor mode",
        Class::Registers => "the guest changed a register",
        Class::Patch => "the guest asked the host to change its text, or to let a page run",
    }
}

fn explain(event: &Event, symbols: Option<&Symbols>, text_gpa: Option<u64>) -> Explanation {
    let mut explanation = Explanation {
        id: event.id(),
        attempted: event.what.to_string(),
        by: Some(place(event.rip, symbols)),
        ..Explanation::default()
    };
    match &event.what {
        What::Denial {
            class,
            target,
            reason,
            learned,
        } => {
            explanation.outcome = learned.then_some(
                "LEARNING: it was reported and allowed; this VM is not protected from it",
            );
            explanation.attempted = attempt(*class).to_owned();
            explanation.at = Some(describe(target, symbols, text_gpa));
            match reasons::find(reason) {
                Some(reason) => explanation.add_reason(*class, reason),
                None => {
                    explanation.why = Some(format!("{reason}, which this hekictl does not know"))
                }
            }
        }
        What::Seal { outcome, ret, .. } | What::Change { outcome, ret, .. } if *ret != 0 => {
            explanation.why = Some(format!(
                "{outcome}: see the tables of errors in Documentation/virt/kvm/x86/heki-abi.rst"
            ));
        }
        What::Request { allowed: false, .. } | What::Kexec { allowed: false, .. } => {
            explanation.why = Some(POLICY.to_owned());
        }
        _ => {}
    }
    explanation
}

impl Explanation {
    fn add_reason(&mut self, class: Class, reason: &Reason) {
        let number = reason.invariant;
        self.codes = Some((class as u32, reason.code));
        self.why = Some(reason.why.to_owned());
        self.invariant = Some(format!("{number}: {}", reasons::invariant(number)));
        self.otherwise = Some(reason.otherwise);
    }
}

/// An address of the guest and its name.
fn place(address: u64, symbols: Option<&Symbols>) -> String {
    let Some(symbols) = symbols else {
        return format!("{address:#x}");
    };
    match symbols.name(address) {
        None => {
            let proviso = symbols.proviso();
            format!("{address:#x}, not in the kernel's image{proviso}: a module, or no text at all")
        }
        Some(name) => format!("{address:#x}, {name}"),
    }
}

fn describe(target: &Target, symbols: Option<&Symbols>, text_gpa: Option<u64>) -> String {
    let name = match (target, symbols, text_gpa) {
        (Target::Frame { gfn }, Some(symbols), Some(text)) => {
            let gpa = gfn.checked_mul(4096);
            gpa.and_then(|gpa| symbols.name_of_gpa(gpa, text))
                .map(|name| format!("which begins at {name}"))
        }
        (Target::Address { gpa }, Some(symbols), Some(text)) => symbols.name_of_gpa(*gpa, text),
        (Target::Text { va }, Some(symbols), _) => symbols.name(*va),
        _ => None,
    };
    match name {
        Some(name) => format!("{target}, {name}"),
        None => target.to_string(),
    }
}

fn print(explanation: &Explanation, out: &mut dyn Write) -> Result<(), Error> {
    if let Some(id) = &explanation.id {
        let codes = explanation
            .codes
            .map(|(class, reason)| format!(" (class {class}, reason {reason})"));
        writeln!(out, "{id}{}", codes.unwrap_or_default())?;
    }
    let rows = [
        ("attempted", Some(explanation.attempted.as_str())),
        ("by", explanation.by.as_deref()),
        ("at", explanation.at.as_deref()),
        ("outcome", explanation.outcome),
        ("denied as", explanation.why.as_deref()),
        ("invariant", explanation.invariant.as_deref()),
        ("unless attacked", explanation.otherwise),
    ];
    for (name, text) in rows {
        if let Some(text) = text {
            writeln!(out, "  {name}: {text}")?;
        }
    }
    Ok(())
}

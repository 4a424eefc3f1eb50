// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table, the results of a run, and what follows for each attack.
//!
//! Used by `main.rs`; `print.rs` writes a [`Report`]. Locks: none.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};
use std::iter;

use serde::{
    Deserialize,
    Serialize, //
};

/// Attacks of the list that the table follows.
const ROWS: usize = 35;

/// A row of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    number: usize,
    attack: String,
    #[serde(default)]
    tests: Vec<String>,
    limits: Option<String>,
    not_enforced: Option<String>,
    out_of_scope: Option<String>,
    #[serde(default)]
    see: Vec<String>,
}

/// Attacks that are not denied on some legs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    attacks: Vec<String>,
    legs: Vec<String>,
    /// One of [`UNDENIED`].
    outcome: String,
    why: String,
}

/// How the reason of a skipped attack begins.
const UNDENIED: [&str; 2] = ["absent", "not enforced"];

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    controls: Vec<String>,
    #[serde(default)]
    exception: Vec<Exception>,
    row: Vec<Row>,
}

/// What came of an attack on one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Verdict {
    /// All of its tests passed.
    #[serde(rename = "denied")]
    Denied,
    /// Some passed; this machine has not what the others need, or part of it is not enforced.
    #[serde(rename = "partly denied")]
    Partly,
    /// The host cannot, or does not, hold it.
    #[serde(rename = "not enforced")]
    NotEnforced,
    /// It is not Heki's to stop.
    #[serde(rename = "out of scope")]
    OutOfScope,
    /// It succeeded, or a test did not run.
    #[serde(rename = "FAILED")]
    Failed,
}

impl Verdict {
    /// As it is printed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Partly => "partly denied",
            Self::NotEnforced => "not enforced",
            Self::OutOfScope => "out of scope",
            Self::Failed => "FAILED",
        }
    }
}

impl Table {
    /// Reads the file and checks what can be checked without results.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let table: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for (at, row) in table.row.iter().enumerate() {
            let number = at.saturating_add(1);
            if row.number != number {
                return Err(format!("row {} where {number} should be", row.number));
            }
            row.check()?;
        }
        if table.row.len() < ROWS {
            return Err(format!("{} rows, {ROWS} are the least", table.row.len()));
        }
        match table.exception.iter().find(|exception| exception.is_bad()) {
            Some(bad) => Err(format!(
                "{bad:?} needs an outcome of {UNDENIED:?}, and a reason"
            )),
            None => Ok(table),
        }
    }

    /// The attacks of all rows, and the controls.
    fn attacks(&self) -> BTreeSet<&str> {
        let tests = self.row.iter().flat_map(|row| row.tests.iter());
        let in_rows = tests.filter_map(|test| test.strip_prefix(ATTACK));
        let controls = self.controls.iter().map(String::as_str);
        in_rows.chain(controls).collect()
    }

    /// Each attack that there is must be in a row or a control, and each that is named must exist.
    /// Not all controls are run by heki_attack.
    pub(crate) fn check_names(&self, attacks: &BTreeSet<String>) -> Result<(), String> {
        if attacks.is_empty() {
            return Err("there are no attacks".to_owned());
        }
        let named = self.attacks();
        if let Some(name) = attacks.iter().find(|name| !named.contains(name.as_str())) {
            return Err(format!("attack {name} is in no row"));
        }
        let excepted = self
            .exception
            .iter()
            .flat_map(|exception| &exception.attacks);
        let mut named = named.into_iter().chain(excepted.map(String::as_str));
        let exists =
            |name: &str| attacks.contains(name) || self.controls.iter().any(|is| is == name);
        match named.find(|name| !exists(name)) {
            Some(name) => Err(format!("there is no attack {name}")),
            None => Ok(()),
        }
    }

    /// Each section that is referred to must exist.
    pub(crate) fn check_sections(&self, sections: &BTreeSet<String>) -> Result<(), String> {
        let mut see = self.row.iter().flat_map(|row| &row.see);
        match see.find(|see| !sections.contains(*see)) {
            Some(see) => Err(format!("there is no section {see}")),
            None => Ok(()),
        }
    }

    fn exception(&self, attack: &str, leg: &Leg) -> Option<&Exception> {
        let has = |names: &[String], name| names.iter().any(|is| is == name);
        let mut all = self.exception.iter();
        all.find(|exception| has(&exception.attacks, attack) && has(&exception.legs, &leg.name))
    }

    /// What is wrong with the results of an attack that did not simply fail.
    fn complaint(&self, attack: &str, leg: &Leg) -> Option<String> {
        let test = format!("{ATTACK}{attack}");
        if leg.named(&test).next().is_none() {
            return Some("did not run".to_owned());
        }
        let (_, skipped) = leg.named(&test).find(|(_, outcome)| outcome.word == SKIP)?;
        let Some(exception) = self.exception(attack, leg) else {
            return Some("must be denied here, and is not".to_owned());
        };
        let Exception { outcome, why, .. } = exception;
        (!skipped.reason.starts_with(outcome)).then(|| format!("must be {outcome} here: {why}"))
    }

    /// The same of all attacks, by their names.
    pub(crate) fn complaints(&self, leg: &Leg) -> BTreeMap<&str, String> {
        let complaint = |attack| Some((attack, self.complaint(attack, leg)?));
        self.attacks().into_iter().filter_map(complaint).collect()
    }
}

impl Exception {
    fn is_bad(&self) -> bool {
        !UNDENIED.contains(&self.outcome.as_str()) || self.why.trim().is_empty()
    }
}

impl Row {
    fn check(&self) -> Result<(), String> {
        let judged = !self.tests.is_empty() || self.not_enforced.is_some();
        if judged == self.out_of_scope.is_some() {
            return Err(format!(
                "row {} needs tests, or not_enforced, or both; or else out_of_scope",
                self.number
            ));
        }
        if self.remarks().any(|remark| remark.trim().is_empty()) {
            return Err(format!("row {}: an empty reason", self.number));
        }
        let open = self.limits.is_some() || self.not_enforced.is_some();
        if open && self.see.is_empty() {
            return Err(format!("row {} refers to no section", self.number));
        }
        match self.tests.iter().find(|test| !test.contains('/')) {
            Some(test) => Err(format!("row {}: {test} is not SUITE/NAME", self.number)),
            None => Ok(()),
        }
    }

    /// What is open, and why nothing is denied.
    fn remarks(&self) -> impl Iterator<Item = &str> {
        let all = [&self.limits, &self.not_enforced, &self.out_of_scope];
        all.into_iter().flatten().map(String::as_str)
    }

    fn judge(&self, table: &Table, leg: &Leg) -> Verdict {
        if self.out_of_scope.is_some() {
            return Verdict::OutOfScope;
        }
        let mut passed = false;
        let mut skipped = self.not_enforced.is_some();
        for test in &self.tests {
            let words: Vec<_> = leg
                .named(test)
                .map(|(_, outcome)| outcome.word.as_str())
                .collect();
            let attack = test.strip_prefix(ATTACK);
            let complaint = attack.and_then(|attack| table.complaint(attack, leg));
            // A test that left no result is one that may have been lost.
            if words.is_empty() || words.contains(&"fail") || complaint.is_some() {
                return Verdict::Failed;
            }
            passed |= words.contains(&"pass");
            skipped |= words.contains(&SKIP);
        }
        match (passed, skipped) {
            (true, false) => Verdict::Denied,
            (true, true) => Verdict::Partly,
            (false, _) => Verdict::NotEnforced,
        }
    }

    /// The tests that did not run on a leg, by their reasons.
    fn skips(&self, table: &Table, leg: &Leg) -> Result<Skips, String> {
        let mut skips = Skips::new();
        for test in &self.tests {
            let attack = test.strip_prefix(ATTACK);
            let exception = attack.and_then(|attack| table.exception(attack, leg));
            for (name, outcome) in leg.named(test).filter(|(_, outcome)| outcome.word == SKIP) {
                if outcome.reason.is_empty() {
                    let (number, leg) = (self.number, &leg.name);
                    return Err(format!(
                        "row {number}: {name} is skipped on {leg}, and says no reason"
                    ));
                }
                // The guest says what it sees, the table why that is so.
                let reason = exception.map_or(&outcome.reason, |exception| &exception.why);
                let names = skips.entry(reason.clone()).or_default();
                names.insert(leg.short_name(test, name, outcome));
            }
        }
        Ok(skips)
    }
}

/// The names in the list of attacks, `attacks.h`.
pub(crate) fn names_of(source: &str) -> BTreeSet<String> {
    let lines = source.lines();
    let entries = lines.filter_map(|line| line.strip_prefix("ATTACK(\"")?.split_once('"'));
    entries.map(|(name, _)| name.to_owned()).collect()
}

/// The headings of a text: each has a rule below it that is as long.
pub(crate) fn sections_of(text: &str) -> BTreeSet<String> {
    let is_heading = |line: &str, below: &str| {
        let rest = below.trim_start_matches(['=', '-', '~']);
        !line.is_empty() && rest.is_empty() && below.len() >= line.len()
    };
    let pairs = text.lines().zip(text.lines().skip(1));
    let headings = pairs.filter(|(line, below)| is_heading(line, below));
    headings.map(|(line, _)| line.to_owned()).collect()
}

/// The suite of attacks, before a name.
const ATTACK: &str = "attack/";

/// The outcome of a test that did not run.
const SKIP: &str = "skip";

/// What came of a test.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    word: String,
    reason: String,
}

/// The results of one leg, by `SUITE/NAME`.
#[derive(Debug)]
pub(crate) struct Leg {
    name: String,
    outcomes: BTreeMap<String, Vec<Outcome>>,
}

impl Leg {
    /// Reads the lines of the leg; there are none if it did not run.
    pub(crate) fn parse(text: &str, name: &str) -> Self {
        let mut outcomes = BTreeMap::<_, Vec<_>>::new();
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [leg, suite, test, word, reason @ ..] = words.as_slice() {
                if *leg == name {
                    let (word, reason) = ((*word).to_owned(), reason.join(" "));
                    let of_test = outcomes.entry(format!("{suite}/{test}")).or_default();
                    of_test.push(Outcome { word, reason });
                }
            }
        }
        Self {
            name: name.to_owned(),
            outcomes,
        }
    }

    /// The outcomes of a test or, with a `*` at its end, of all that begin so.
    fn named<'a>(&'a self, test: &'a str) -> impl Iterator<Item = (&'a str, &'a Outcome)> {
        let stem = test.strip_suffix('*');
        let is_meant = move |name: &str| stem.map_or(name == test, |stem| name.starts_with(stem));
        let all = self.outcomes.iter().filter(move |(name, _)| is_meant(name));
        all.flat_map(|(name, outcomes)| {
            outcomes.iter().map(move |outcome| (name.as_str(), outcome))
        })
    }

    /// One of the tests that `test` means, or the fewest letters and a `*` that mean only tests
    /// with the same outcome.
    fn short_name(&self, test: &str, name: &str, outcome: &Outcome) -> String {
        let Some(stem) = test.strip_suffix('*').map(str::len) else {
            return name.to_owned();
        };
        let dots = name.match_indices('.').map(|(at, dot)| at + dot.len());
        for end in iter::once(stem).chain(dots.filter(|end| *end > stem)) {
            let pattern = format!("{}*", &name[..end]);
            let all: Vec<_> = self.named(&pattern).collect();
            if all.len() > 1 && all.iter().all(|(_, other)| *other == outcome) {
                return pattern;
            }
        }
        name.to_owned()
    }
}

/// Tests that did not run, by their reasons.
pub(crate) type Skips = BTreeMap<String, BTreeSet<String>>;

/// A row of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) number: usize,
    pub(crate) attack: String,
    /// In the order of the legs.
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) tests: Vec<String>,
    /// In the order of the legs.
    pub(crate) not_here: Vec<Skips>,
    /// What is open, and why nothing is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<String>,
    /// Where the design says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) see: Vec<String>,
}

/// All that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) legs: Vec<String>,
    pub(crate) rows: Vec<Judged>,
}

impl Report {
    /// Judges every row on each of `legs`; on one without results nothing was denied. What is not
    /// denied has a reason: the table's, or that of a test that did not run.
    pub(crate) fn new(
        table: &Table,
        legs: &[Leg],
        versions: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let judge = |row: &Row| {
            Ok(Judged {
                number: row.number,
                attack: row.attack.clone(),
                verdicts: legs.iter().map(|leg| row.judge(table, leg)).collect(),
                tests: row.tests.clone(),
                not_here: legs
                    .iter()
                    .map(|leg| row.skips(table, leg))
                    .collect::<Result<_, _>>()?,
                remark: Some(row.remarks().collect::<Vec<_>>().join("; "))
                    .filter(|remark| !remark.is_empty()),
                see: row.see.clone(),
            })
        };
        Ok(Self {
            versions,
            legs: legs.iter().map(|leg| leg.name.clone()).collect(),
            rows: table.row.iter().map(judge).collect::<Result<_, String>>()?,
        })
    }

    /// How many rows came to a verdict on a leg.
    pub(crate) fn count(&self, leg: usize, verdict: Verdict) -> usize {
        let of = |row: &&Judged| row.verdicts.get(leg) == Some(&verdict);
        self.rows.iter().filter(of).count()
    }
}

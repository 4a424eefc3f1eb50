// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The table, the results of a run, and what follows for each attack.
//!
//! Used by `main.rs`; `print.rs` writes a [`Report`]. Locks: none.

use std::collections::{
    BTreeMap,
    BTreeSet, //
};

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
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    controls: Vec<String>,
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
        Ok(table)
    }

    /// Each attack that there is must be in a row or a control, and each in a row must exist.
    pub(crate) fn check_names(&self, attacks: &BTreeSet<String>) -> Result<(), String> {
        if attacks.is_empty() {
            return Err("there are no attacks".to_owned());
        }
        let tests = self.row.iter().flat_map(|row| row.tests.iter());
        let in_rows = tests.filter_map(|test| test.strip_prefix("attack/"));
        let named: BTreeSet<_> = in_rows
            .chain(self.controls.iter().map(String::as_str))
            .collect();
        if let Some(name) = attacks.iter().find(|name| !named.contains(name.as_str())) {
            return Err(format!("attack {name} is in no row"));
        }
        if let Some(name) = named.iter().find(|name| !attacks.contains(**name)) {
            return Err(format!("there is no attack {name}"));
        }
        Ok(())
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

    fn judge(&self, leg: &Leg) -> Verdict {
        if self.out_of_scope.is_some() {
            return Verdict::OutOfScope;
        }
        let mut passed = false;
        let mut skipped = self.not_enforced.is_some();
        for test in &self.tests {
            let outcomes = leg.outcomes(test);
            // A test that left no result is one that may have been lost.
            if outcomes.is_empty() || outcomes.contains(&"fail") {
                return Verdict::Failed;
            }
            passed |= outcomes.contains(&"pass");
            skipped |= outcomes.contains(&"skip");
        }
        match (passed, skipped) {
            (true, false) => Verdict::Denied,
            (true, true) => Verdict::Partly,
            (false, _) => Verdict::NotEnforced,
        }
    }
}

/// The names in the list of attacks, `attacks.h`.
pub(crate) fn names_of(source: &str) -> BTreeSet<String> {
    let lines = source.lines();
    let entries = lines.filter_map(|line| line.strip_prefix("ATTACK(\"")?.split_once('"'));
    entries.map(|(name, _)| name.to_owned()).collect()
}

/// The results of one leg: outcomes by `SUITE/NAME`.
#[derive(Debug, Default)]
struct Leg(BTreeMap<String, Vec<String>>);

impl Leg {
    fn outcomes(&self, test: &str) -> Vec<&str> {
        let found = match test.strip_suffix('*') {
            None => self.0.get(test).into_iter().flatten().collect::<Vec<_>>(),
            Some(start) => {
                let all = self.0.iter().filter(|(name, _)| name.starts_with(start));
                all.flat_map(|(_, outcomes)| outcomes).collect()
            }
        };
        found.into_iter().map(String::as_str).collect()
    }
}

/// The results of all legs.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<String, Leg>);

impl Results {
    /// Reads the lines.
    pub(crate) fn parse(text: &str) -> Self {
        let mut results = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(leg), Some(suite), Some(name), Some(outcome)) =
                (words.next(), words.next(), words.next(), words.next())
            {
                let leg = results.0.entry(leg.to_owned()).or_default();
                let outcomes = leg.0.entry(format!("{suite}/{name}")).or_default();
                outcomes.push(outcome.to_owned());
            }
        }
        results
    }
}

/// A row of the report.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) number: usize,
    pub(crate) attack: String,
    /// In the order of the legs.
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) tests: Vec<String>,
    /// What is open, and why nothing is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<String>,
}

impl Judged {
    fn lacks_reason(&self) -> bool {
        self.remark.is_none() && self.verdicts.contains(&Verdict::NotEnforced)
    }
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
    /// enforced has a reason in the table.
    pub(crate) fn new(
        table: &Table,
        results: &Results,
        legs: &[&str],
        versions: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let nothing = Leg::default();
        let of = |leg: &&str| results.0.get(*leg).unwrap_or(&nothing);
        let judge = |row: &Row| Judged {
            number: row.number,
            attack: row.attack.clone(),
            verdicts: legs.iter().map(|leg| row.judge(of(leg))).collect(),
            tests: row.tests.clone(),
            remark: Some(row.remarks().collect::<Vec<_>>().join("; "))
                .filter(|remark| !remark.is_empty()),
        };
        let rows: Vec<_> = table.row.iter().map(judge).collect();
        if let Some(row) = rows.iter().find(|row| row.lacks_reason()) {
            return Err(format!("row {} is not enforced, and says no reason", row.number));
        }
        Ok(Self {
            versions,
            legs: legs.iter().map(|leg| (*leg).to_owned()).collect(),
            rows,
        })
    }

    /// How many rows came to a verdict on a leg.
    pub(crate) fn count(&self, leg: usize, verdict: Verdict) -> usize {
        let of = |row: &&Judged| row.verdicts.get(leg) == Some(&verdict);
        self.rows.iter().filter(of).count()
    }
}

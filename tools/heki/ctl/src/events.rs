// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! `hekictl events`: one line for each event, so many each second.
//!
//! Events come from `follow.rs`. Locks: none.

use std::io::Write;
use std::time::{
    Duration,
    Instant, //
};

use serde::Serialize;

use crate::args::Events;
use crate::event::{
    Event,
    What, //
};
use crate::follow::{
    Follow,
    Next, //
};
use crate::host::{
    write_json,
    Error,
    Roots, //
};

const SECOND: Duration = Duration::from_secs(1);

/// An event in JSON, with the identifier of a denial.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(flatten)]
    event: &'a Event,
}

/// Lets so many through each second and counts the others.
#[derive(Debug)]
struct Limit {
    /// 0: no limit.
    rate: u64,
    since: Duration,
    passed: u64,
    held: u64,
}

impl Limit {
    fn new(rate: u64) -> Self {
        Self {
            rate,
            since: Duration::ZERO,
            passed: 0,
            held: 0,
        }
    }

    /// Whether one more may pass at `now`.
    fn passes(&mut self, now: Duration) -> bool {
        let pass = self.rate == 0 || self.passed < self.rate || self.is_over(now);
        if pass {
            if self.is_over(now) {
                self.since = now;
                self.passed = 0;
            }
            self.passed = self.passed.saturating_add(1);
        } else {
            self.held = self.held.saturating_add(1);
        }
        pass
    }

    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= SECOND
    }

    /// How many did not pass, if the second in which they came is over.
    fn held(&mut self, now: Duration) -> Option<u64> {
        (self.held != 0 && self.is_over(now)).then(|| std::mem::take(&mut self.held))
    }
}

/// Prints events until they end.
pub(crate) fn run(
    roots: &Roots,
    args: &Events,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut follow = Follow::new(roots, &args.filter)?;
    // A saved trace is there already; nobody is flooded by it.
    let rate = if follow.is_saved() { 0 } else { args.rate };
    let mut limit = Limit::new(rate);
    let begin = Instant::now();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left != 0 {
        let next = follow.next(SECOND)?;
        if let Some(count) = limit.held(begin.elapsed()) {
            note(out, json, "not_shown", count)?;
        }
        match next {
            Next::End => break,
            Next::Quiet => {}
            Next::Lost(count) => note(out, json, "lost", count)?,
            Next::Event(event) if args.denials && !is_denial(&event) => {}
            Next::Event(event) => {
                if limit.passes(begin.elapsed()) {
                    print(out, json, &event)?;
                }
                left = left.saturating_sub(1);
            }
        }
    }
    if limit.held != 0 {
        note(out, json, "not_shown", limit.held)?;
    }
    Ok(())
}

fn is_denial(event: &Event) -> bool {
    matches!(event.what, What::Denial { .. })
}

fn print(out: &mut dyn Write, json: bool, event: &Event) -> Result<(), Error> {
    if json {
        let id = event.id();
        write_json(out, &Line { id, event })?;
    } else {
        writeln!(out, "{event}")?;
    }
    Ok(out.flush()?)
}

/// Says how many events are missing, and why.
fn note(out: &mut dyn Write, json: bool, what: &str, count: u64) -> Result<(), Error> {
    if json {
        writeln!(out, r#"{{"event":"{what}","count":{count}}}"#)?;
    } else {
        let what = what.replace('_', " ");
        writeln!(out, "({count} events {what})")?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn so_many_pass_each_second_and_the_others_are_counted() {
        let mut limit = Limit::new(2);
        let passed = (0..10).filter(|_| limit.passes(at(100))).count();
        assert_eq!(passed, 2);
        assert_eq!(limit.held(at(900)), None);
        assert_eq!(limit.held(at(1200)), Some(8));
        assert_eq!(limit.held(at(1300)), None);
        assert!(limit.passes(at(1300)));
        assert!(limit.passes(at(1400)));
        assert!(!limit.passes(at(1500)));
    }

    #[test]
    fn without_a_limit_all_pass() {
        let mut limit = Limit::new(0);
        assert!((0..10_000).all(|_| limit.passes(at(1))));
        assert_eq!(limit.held(at(5000)), None);
    }
}

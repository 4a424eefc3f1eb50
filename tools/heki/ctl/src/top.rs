// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! `hekictl top`: who was denied what, and how often.
//!
//! Events come from `follow.rs`. Locks: none.

use std::collections::HashMap;
use std::io::{
    IsTerminal,
    Write, //
};
use std::time::Instant;

use serde::Serialize;

use crate::args::Top;
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

/// Most rows that are kept. A guest chooses its rip, so what comes later is one row.
const MAX_ROWS: usize = 4096;

/// Whose denials a row counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
struct Key {
    vm: String,
    id: String,
    rip: String,
}

impl Key {
    fn of(event: &Event) -> Option<Self> {
        let vm = match (event.process, event.thread()) {
            (Some(process), _) => process.to_string(),
            (None, Some(thread)) => format!("thread {thread}"),
            (None, None) => "?".to_owned(),
        };
        Some(Self {
            vm,
            id: event.id()?,
            rip: format!("{:#x}", event.rip),
        })
    }

    fn others() -> Self {
        let all = || "*".to_owned();
        Self {
            vm: all(),
            id: all(),
            rip: all(),
        }
    }
}

/// A row of the view.
#[derive(Clone, Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    total: u64,
    /// Since the view before.
    new: u64,
    /// What the last one was aimed at.
    last: String,
}

/// What is shown at a time.
#[derive(Serialize)]
struct View {
    rows: Vec<Row>,
    /// Events that the kernel dropped since the first view.
    lost: u64,
}

/// All rows.
#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Key, Row>,
    lost: u64,
}

impl Table {
    fn add(&mut self, event: &Event) {
        let What::Denial {
            target, learned, ..
        } = &event.what
        else {
            return;
        };
        let Some(mut key) = Key::of(event) else {
            return;
        };
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
            key = Key::others();
        }
        let row = self.rows.entry(key.clone()).or_insert_with(|| Row {
            key,
            total: 0,
            new: 0,
            last: String::new(),
        });
        row.total = row.total.saturating_add(1);
        row.new = row.new.saturating_add(1);
        row.last = match learned {
            true => format!("{target} (LEARNING: allowed)"),
            false => target.to_string(),
        };
    }

    /// The rows with the most, and the counts of this view start anew.
    fn view(&mut self, rows: usize) -> Vec<Row> {
        let mut view: Vec<_> = self.rows.values().cloned().collect();
        view.sort_by(|a, b| (b.new, b.total, &a.key).cmp(&(a.new, a.total, &b.key)));
        view.truncate(rows);
        for row in self.rows.values_mut() {
            row.new = 0;
        }
        view
    }
}

/// Shows views until the events end.
pub(crate) fn run(roots: &Roots, args: &Top, json: bool, out: &mut dyn Write) -> Result<(), Error> {
    let mut follow = Follow::new(roots, &args.filter)?;
    let mut table = Table::default();
    let mut left = args.count.unwrap_or(u64::MAX);
    let clear = !json && !follow.is_saved() && std::io::stdout().is_terminal();
    while left != 0 {
        let ended = fill(&mut follow, &mut table, args)?;
        show(&mut table, args.rows, json, clear, out)?;
        if ended {
            break;
        }
        left = left.saturating_sub(1);
    }
    Ok(())
}

/// Takes the events of one interval; whether they ended. A saved trace is one interval.
fn fill(follow: &mut Follow<'_>, table: &mut Table, args: &Top) -> Result<bool, Error> {
    let begin = Instant::now();
    loop {
        let rest = args.interval.saturating_sub(begin.elapsed());
        if rest.is_zero() && !follow.is_saved() {
            return Ok(false);
        }
        match follow.next(rest)? {
            Next::Event(event) => table.add(&event),
            Next::Lost(count) => table.lost = table.lost.saturating_add(count),
            Next::Quiet => {}
            Next::End => return Ok(true),
        }
    }
}

fn show(
    table: &mut Table,
    rows: usize,
    json: bool,
    clear: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let view = View {
        rows: table.view(rows),
        lost: table.lost,
    };
    if json {
        write_json(out, &view)?;
        return Ok(out.flush()?);
    }
    if clear {
        write!(out, "\x1b[H\x1b[2J")?;
    }
    writeln!(
        out,
        "{:>8} {:>8} {:<14} {:<22} {:<18} last target",
        "total", "new", "vm", "denial", "rip"
    )?;
    for Row {
        key,
        total,
        new,
        last,
    } in view.rows
    {
        let Key { vm, id, rip } = key;
        writeln!(
            out,
            "{total:>8} {new:>8} {vm:<14} {id:<22} {rip:<18} {last}"
        )?;
    }
    if view.lost != 0 {
        writeln!(out, "({} events lost)", view.lost)?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(rip: u64) -> Event {
        let line = format!(
            "vcpu0-7 [000] ..... 1.0: kvm_heki_deny: vcpu 0 rip {rip:#x} access write gfn 0x1 va 0x0 cr0 index 0x0 \
             bits 0x0 reason sealed"
        );
        Event::parse(&line).unwrap()
    }

    #[test]
    fn the_most_denied_come_first_and_new_ones_are_counted_anew() {
        let mut table = Table::default();
        for rip in [1, 2, 2] {
            table.add(&denial(rip));
        }
        let view = table.view(10);
        assert_eq!(view[0].key.rip, "0x2");
        assert_eq!((view[0].total, view[0].new), (2, 2));
        assert_eq!((view[1].total, view[1].new), (1, 1));
        table.add(&denial(1));
        let view = table.view(1);
        assert_eq!(view.len(), 1);
        assert_eq!(
            (view[0].key.rip.as_str(), view[0].total, view[0].new),
            ("0x1", 2, 1)
        );
    }

    #[test]
    fn a_guest_that_moves_around_fills_no_memory() {
        let mut table = Table::default();
        let many = MAX_ROWS as u64 * 2;
        for rip in 0..many {
            table.add(&denial(rip));
        }
        assert_eq!(table.rows.len(), MAX_ROWS + 1);
        let all: u64 = table.rows.values().map(|row| row.total).sum();
        assert_eq!(all, many);
    }
}

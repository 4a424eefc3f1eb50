// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Lists of symbols in files: one entry a line, `#` begins a comment.
//!
//! `profile/freeze.rs` and `profile/probes.rs` say what an entry is. Locks: none.

#![deny(unsafe_code)]

use std::path::Path;

use crate::exit::Error;
use crate::files;

/// Longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The entries of the file `path`, whose role is `what`; inside, why it is refused. `parse` is
/// [`parse`] with what an entry is.
pub(super) fn open<T>(
    what: &'static str,
    path: &Path,
    parse: impl FnOnce(&str) -> Result<Vec<T>, String>,
) -> Result<Result<Vec<T>, String>, Error> {
    let text = files::read_text(what, path, MAX_FILE)?;
    Ok(match text.len() as u64 {
        ..=MAX_FILE => parse(&text),
        _ => Err(format!("it is larger than {} KiB", MAX_FILE >> 10)),
    })
}

/// The entries in `text`; `entry` takes the number of a line and what is in it, `wanted` says what
/// that should be.
pub(super) fn parse<T>(
    text: &str,
    wanted: &str,
    entry: impl Fn(usize, &str) -> Option<T>,
) -> Result<Vec<T>, String> {
    let lines = (1..).zip(text.lines());
    lines
        .map(|(line, text)| (line, text.split('#').next().unwrap_or(text).trim()))
        .filter(|(_, text)| !text.is_empty())
        .map(|(line, text)| {
            entry(line, text).ok_or_else(|| {
                let text = text.escape_debug();
                format!("line {line}: \"{text}\" is neither {wanted}")
            })
        })
        .collect()
}

/// Whether `text` can be a symbol's name, or the beginning of one.
pub(super) fn is_symbol(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.$".contains(c);
    !text.is_empty() && text.chars().all(fits)
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Opening the files that the user names.
//!
//! Used by `boot.rs`, `disk.rs`, `policy.rs` and `profile.rs`, which judge what is in them. Locks: none.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::exit::Error;

/// Opens a regular file; `what` is its role. Returns it with its length.
pub(crate) fn open(what: &'static str, path: &Path) -> Result<(File, u64), Error> {
    let open = || {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("not a regular file"));
        }
        Ok((file, metadata.len()))
    };
    open().map_err(read_error(what, path))
}

/// Reads a regular file of text; `what` is its role. What is longer than `max` bytes is cut, one byte
/// behind them.
pub(crate) fn read_text(what: &'static str, path: &Path, max: u64) -> Result<String, Error> {
    let (file, _) = open(what, path)?;
    let mut text = String::new();
    file.take(max.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(read_error(what, path))?;
    Ok(text)
}

/// For `map_err` on a read of that file.
pub(crate) fn read_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::ReadFile { what, path, source }
}

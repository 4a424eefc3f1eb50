// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Where the host shows its state, reading it, and what to say where it cannot be read.
//!
//! Used by everybody. Locks: none.

use std::fs::{
    self,
    File, //
};
use std::io::{
    self,
    ErrorKind,
    Read,
    Write, //
};
use std::path::{
    Path,
    PathBuf, //
};

use clap::Args;
use rustix::process::geteuid;
use serde::Serialize;

/// Most bytes of one file of the kernel. A VM with the most ranges that there can be has a tenth.
const MAX_BYTES: u64 = 4 << 20;

/// Folders of the running kernel.
#[derive(Args, Debug, Clone)]
pub(crate) struct Roots {
    /// Where sysfs is mounted
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys",
        hide_default_value = true
    )]
    pub(crate) sysfs: PathBuf,

    /// Where debugfs is mounted
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/kernel/debug",
        hide_default_value = true
    )]
    pub(crate) debugfs: PathBuf,

    /// Where tracefs is mounted
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/sys/kernel/tracing",
        hide_default_value = true
    )]
    pub(crate) tracefs: PathBuf,

    /// Where proc is mounted
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/proc",
        hide_default_value = true
    )]
    pub(crate) procfs: PathBuf,
}

/// What ends a command, in one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{what} is not mounted at {path}: mount -t {what} none {path}")]
    NotMounted { what: &'static str, path: PathBuf },
    #[error("{0}: only root may do that")]
    NotRoot(PathBuf),
    #[error(
        "{0}: root may not do that here: the kernel is locked down (/sys/kernel/security/lockdown), or this \
         process lacks a capability, as in a container"
    )]
    Denied(PathBuf),
    #[error("KVM is not loaded: {0} is not there")]
    NoKvm(PathBuf),
    #[error("this host's KVM has no Heki: {0} is not there (CONFIG_KVM_HEKI)")]
    NoHeki(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("no VM of process {0} takes part in Heki")]
    NoVm(u32),
    #[error("no event of Heki: {0}")]
    NoEvent(String),
    #[error("{path}: {why}")]
    NoSymbols { path: PathBuf, why: String },
    #[error("cannot wait for events: {0}")]
    Wait(#[from] nix::Error),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// The error of an operation on `path`.
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::PermissionDenied => Self::denied(path, geteuid().is_root()),
            _ => Self::File {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// The error of what somebody may not do on `path`, who may be root.
    fn denied(path: &Path, is_root: bool) -> Self {
        let path = path.to_owned();
        if is_root {
            Self::Denied(path)
        } else {
            Self::NotRoot(path)
        }
    }
}

/// Reads a small file; bytes that are no text are replaced.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    read_whole(path, MAX_BYTES)
}

/// The same of a file with no more than `max` bytes; the rest is left out.
pub(crate) fn read_whole(path: &Path, max: u64) -> Result<String, Error> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(max).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|source| Error::file(path, source))
}

/// Reads a file of one word, if it is there and may be read.
pub(crate) fn word(path: &Path) -> Option<String> {
    read(path).ok().map(|text| text.trim().to_owned())
}

/// The names in a folder, sorted.
pub(crate) fn names(path: &Path) -> Result<Vec<String>, Error> {
    let list = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    };
    list().map_err(|source| Error::file(path, source))
}

/// Fails with the right words unless `path`, in the file system `what` at `root`, is there. `absent`
/// makes the error of a file system that is mounted and does not have it.
pub(crate) fn expect(
    what: &'static str,
    root: &Path,
    path: &Path,
    absent: fn(PathBuf) -> Error,
) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == ErrorKind::NotFound => {
            // An empty folder is where it would be mounted.
            if names(root)?.is_empty() {
                Err(Error::NotMounted {
                    what,
                    path: root.to_owned(),
                })
            } else {
                Err(absent(path.to_owned()))
            }
        }
        Err(source) => Err(Error::file(path, source)),
    }
}

/// Writes a line of JSON.
pub(crate) fn write_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// The process that a thread belongs to, while there is one.
pub(crate) fn process_of(roots: &Roots, thread: u32) -> Option<u32> {
    let status = read(&roots.procfs.join(thread.to_string()).join("status")).ok()?;
    let mut lines = status.lines();
    let tgid = lines.find_map(|line| line.strip_prefix("Tgid:"))?;
    tgid.trim().parse().ok()
}

/// What a process calls itself, without what a terminal would obey.
pub(crate) fn command_of(roots: &Roots, process: u32) -> Option<String> {
    word(&roots.procfs.join(process.to_string()).join("comm")).map(|name| printable(&name))
}

/// Replaces control characters.
pub(crate) fn printable(text: &str) -> String {
    let replace = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_told_to_become_root() {
        let say = |is_root| Error::denied(Path::new("/x"), is_root).to_string();
        assert_eq!(say(false), "/x: only root may do that");
        assert!(say(true).contains("lockdown") && say(true).contains("capability"));
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Events as they come, from a trace instance of our own, or from a saved trace.
//!
//! An instance, so that whoever reads the host's own trace misses nothing; it is removed at the end,
//! a signal included. Used by `events.rs` and `top.rs`. Locks: none.

use std::collections::VecDeque;
use std::fs::{
    self,
    File,
    OpenOptions, //
};
use std::io::{
    self,
    ErrorKind,
    Read, //
};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{
    Path,
    PathBuf, //
};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{
    poll,
    PollFd,
    PollFlags,
    PollTimeout, //
};
use nix::sys::signal::{
    SigSet,
    Signal, //
};
use nix::sys::signalfd::{
    SfdFlags,
    SignalFd, //
};

use crate::args::Filter;
use crate::event::{
    self,
    Event,
    What, //
};
use crate::host::{
    self,
    Error,
    Roots, //
};

/// Longest line. The trace's are shorter; of a saved trace that is none, the rest is thrown away.
const MAX_LINE: usize = 4096;

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// An event that passes the filter.
    Event(Box<Event>),
    /// The kernel dropped so many, for they came faster than they were read.
    Lost(u64),
    /// Nothing for as long as was asked.
    Quiet,
    /// There are no more: the saved trace ended, or a signal came.
    End,
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// The rest of the line is too much.
    skip: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                line(&String::from_utf8_lossy(&self.bytes));
                self.bytes.clear();
                self.skip = false;
            } else if !self.skip {
                self.bytes.push(*byte);
                self.skip = self.bytes.len() == MAX_LINE;
            }
        }
    }
}

/// A trace instance with the events of Heki on. Dropped, it is removed.
struct Instance(PathBuf);

impl Instance {
    fn new(roots: &Roots) -> Result<Self, Error> {
        let tracefs = &roots.tracefs;
        let events = tracefs.join("events/kvm_heki");
        host::expect("tracefs", tracefs, &events, Error::NoHeki)?;
        let path = tracefs.join(format!("instances/hekictl-{}", std::process::id()));
        make_anew(&path).map_err(|source| Error::file(&path, source))?;
        let instance = Self(path);
        // A reader is woken by the first event, not by half a buffer of them.
        instance.put("buffer_percent", "0")?;
        instance.put("events/kvm_heki/enable", "1")?;
        Ok(instance)
    }

    /// Traces no more. What is in its buffer stays.
    fn stop(&self) -> Result<(), Error> {
        self.put("tracing_on", "0")
    }

    fn put(&self, file: &str, value: &str) -> Result<(), Error> {
        let path = self.0.join(file);
        fs::write(&path, value).map_err(|source| Error::file(&path, source))
    }
}

/// Makes the folder of an instance. One of its name is what a killed process of our number left: one
/// that is read cannot be removed.
fn make_anew(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::create_dir(path),
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("hekictl: {} stays behind: {error}", self.0.display());
        }
    }
}

/// Where lines come from.
enum Source {
    Saved(Box<dyn Read>),
    // The pipe is closed before the instance goes.
    Live {
        pipe: File,
        signals: SignalFd,
        instance: Instance,
        /// A signal came: what is there is still read, and nothing is added.
        ending: bool,
    },
}

/// The stream of events.
pub(crate) struct Follow<'a> {
    roots: &'a Roots,
    filter: &'a Filter,
    source: Source,
    lines: Lines,
    ready: VecDeque<Next>,
}

impl<'a> Follow<'a> {
    /// Begins.
    pub(crate) fn new(roots: &'a Roots, filter: &'a Filter) -> Result<Self, Error> {
        let source = match &filter.file {
            Some(path) => Source::Saved(open(path)?),
            None => live(roots)?,
        };
        Ok(Self {
            roots,
            filter,
            source,
            lines: Lines::default(),
            ready: VecDeque::new(),
        })
    }

    /// Whether it is a saved trace.
    pub(crate) fn is_saved(&self) -> bool {
        matches!(self.source, Source::Saved(_))
    }

    /// Waits for the next event, no longer than `wait`.
    pub(crate) fn next(&mut self, wait: Duration) -> Result<Next, Error> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(next);
            }
            let mut bytes = [0; 4096];
            let (len, empty) = match &mut self.source {
                Source::Saved(file) => (file.read(&mut bytes)?, Next::End),
                Source::Live {
                    pipe,
                    signals,
                    instance,
                    ending,
                } => {
                    if !*ending && wait_for(pipe, signals, wait)? {
                        instance.stop()?;
                        *ending = true;
                    }
                    let empty = if *ending { Next::End } else { Next::Quiet };
                    (read_some(pipe, &mut bytes)?, empty)
                }
            };
            if len == 0 {
                return Ok(empty);
            }
            self.take(bytes.get(..len).unwrap_or(&[]));
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Self {
            roots,
            filter,
            source,
            lines,
            ready,
        } = self;
        let live = matches!(source, Source::Live { .. });
        lines.push(bytes, |line| {
            if let Some(count) = event::lost(line) {
                ready.push_back(Next::Lost(count));
            } else if let Some(mut event) = Event::parse_any(line) {
                if let (true, Some(thread)) = (live, event.thread()) {
                    event.process = host::process_of(roots, thread);
                }
                if passes(filter, &event) {
                    ready.push_back(Next::Event(Box::new(event)));
                }
            }
        });
    }
}

/// Whether the user wants it.
fn passes(filter: &Filter, event: &Event) -> bool {
    let vm = filter
        .vm
        .is_none_or(|vm| [event.process, event.thread()].contains(&Some(vm)));
    let class = match &event.what {
        What::Denial { class, .. } => filter.class.is_empty() || filter.class.contains(class),
        _ => filter.class.is_empty(),
    };
    vm && class
}

fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(|source| Error::file(path, source))?;
    Ok(Box::new(file))
}

fn live(roots: &Roots) -> Result<Source, Error> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    // Before the instance is there, which a signal would leave behind.
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let instance = Instance::new(roots)?;
    let path = instance.0.join("trace_pipe");
    let pipe = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .map_err(|source| Error::file(&path, source))?;
    Ok(Source::Live {
        pipe,
        signals,
        instance,
        ending: false,
    })
}

/// Reads what is there, which may be nothing.
fn read_some(pipe: &mut File, bytes: &mut [u8]) -> Result<usize, Error> {
    match pipe.read(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => Ok(other?),
    }
}

/// Waits for a line, a signal or the time; whether a signal came.
fn wait_for(pipe: &File, signals: &SignalFd, wait: Duration) -> Result<bool, Error> {
    let mut fds = [
        PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        // Stopped and continued.
        Err(Errno::EINTR) => return Ok(false),
        other => other?,
    };
    let [_, signal] = fds;
    Ok(signal.any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let path = std::env::temp_dir().join(format!("hekictl-instance-{}", std::process::id()));
        make_anew(&path).unwrap();
        make_anew(&path).unwrap();
        // In use, which a folder of this file system is if it is not empty.
        fs::write(path.join("used"), "").unwrap();
        let used = make_anew(&path);
        fs::remove_dir_all(&path).unwrap();
        assert!(used.is_err());
    }

    fn cut(bytes: &[u8]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        // However the pieces fall.
        for piece in bytes.chunks(3) {
            lines.push(piece, |line| all.push(line.to_owned()));
        }
        all
    }

    #[test]
    fn lines_are_cut_at_their_ends() {
        assert_eq!(cut(b"one\ntwo\n\nopen"), ["one", "two", ""]);
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut bytes = vec![b'x'; 3 * MAX_LINE];
        bytes.extend_from_slice(b"\nnext\n");
        let lines = cut(&bytes);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), MAX_LINE);
        assert_eq!(lines[1], "next");
    }
}

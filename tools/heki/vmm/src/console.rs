// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! This process's side of the guest's console: standard input and output, the terminal, and the
//! signals that end a run.
//!
//! `main.rs` sets terminal and signals up, `vm.rs` waits on them, `devices.rs` owns the [`Output`].
//! Locks: none.

use std::fs::File;
use std::io::{
    self,
    Read,
    Write, //
};
use std::mem;
use std::os::fd::{
    AsFd,
    BorrowedFd,
    OwnedFd, //
};
use std::sync::Arc;
use std::time::Duration;

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
use nix::sys::termios::{
    self,
    LocalFlags,
    SetArg,
    SpecialCharacterIndices,
    Termios, //
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{
    ClockId,
    Expiration,
    TimerFd,
    TimerFlags,
    TimerSetTimeFlags, //
};
use nix::unistd;

use crate::exit::Error;

/// The signals that ask this process to end, as a file descriptor.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// From now on these signals arrive here only. Call before any thread is started: threads
    /// inherit the mask.
    pub(crate) fn catch() -> Result<Self, Error> {
        let set = SigSet::from_iter([
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]);
        set.thread_block().map_err(Error::os("block signals"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        fd.map(Signals).map_err(Error::os("wait for signals"))
    }

    /// The signal that has arrived, if any.
    pub(crate) fn take(&self) -> Option<Signal> {
        let info = self.0.read_signal().ok()??;
        Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The terminal in raw mode, put back when dropped. Does nothing where standard input is no
/// terminal of ours.
pub(crate) struct Terminal(Option<Termios>);

impl Terminal {
    /// Gives each key to the guest at once, except those that end this process (Ctrl-C and Ctrl-\).
    pub(crate) fn raw() -> Result<Self, Error> {
        let stdin = io::stdin();
        if !input_is_ours() {
            return Ok(Terminal(None));
        }
        let Ok(saved) = termios::tcgetattr(&stdin) else {
            return Ok(Terminal(None));
        };
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        raw.local_flags |= LocalFlags::ISIG;
        // Stopped by Ctrl-Z, we would leave the terminal raw.
        if let Some(key) = raw
            .control_chars
            .get_mut(SpecialCharacterIndices::VSUSP as usize)
        {
            *key = libc::_POSIX_VDISABLE;
        }
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)
            .map_err(Error::os("set up the terminal"))?;
        Ok(Terminal(Some(saved)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.0 {
            // Where this fails the terminal is gone.
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, saved);
        }
    }
}

/// Whether standard input may be read: a background job would be stopped for it.
fn input_is_ours() -> bool {
    match unistd::tcgetpgrp(io::stdin()) {
        Ok(foreground) => foreground == unistd::getpgrp(),
        // No terminal, or not our controlling one: nobody stops us.
        Err(_) => true,
    }
}

/// Prints a line of our own while the guest runs on.
pub(crate) fn note(terminal: &Terminal, text: &str) {
    let end = if terminal.0.is_some() { "\r\n" } else { "\n" };
    eprint!("heki-vmm: {text}{end}");
}

/// Standard input, as long as there is some.
pub(crate) struct Input(Option<File>);

impl Input {
    /// Opens standard input, unless it belongs to somebody else.
    pub(crate) fn open() -> Self {
        let stdin = input_is_ours().then(|| io::stdin().as_fd().try_clone_to_owned());
        Input(stdin.and_then(Result::ok).map(File::from))
    }

    /// Reads what is there into `buffer`; to be called when it is readable. The end of input is the
    /// end of this.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let Some(file) = &mut self.0 else {
            return &[];
        };
        match file.read(buffer) {
            Ok(len) if len > 0 => buffer.get(..len).unwrap_or_default(),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                &[]
            }
            _ => {
                self.0 = None;
                &[]
            }
        }
    }

    /// The file descriptor to wait on, while input may still come.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// A timer for what can wait a moment.
#[derive(Clone)]
pub(crate) struct Delay(Arc<TimerFd>);

impl Delay {
    const MOMENT: Duration = Duration::from_millis(10);

    fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Delay(Arc::new(TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            flags,
        )?)))
    }

    /// Expires in a moment from now.
    pub(crate) fn start(&self) -> io::Result<()> {
        let moment = Expiration::OneShot(TimeSpec::from_duration(Self::MOMENT));
        Ok(self.0.set(moment, TimerSetTimeFlags::empty())?)
    }

    /// After it has expired: waits to be started again.
    pub(crate) fn rest(&self) {
        // Fails only when it has not expired.
        let _ = self.0.wait();
    }
}

impl AsFd for Delay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where the guest's output goes: in lines, or after a short while what there is of one.
///
/// The guest prints byte by byte; a system call for each would be felt on a slow host.
pub(crate) struct Output {
    file: File,
    buffer: Vec<u8>,
    delay: Delay,
}

impl Output {
    /// Less is buffered between two writes, which a pipe takes at once if it takes anything (PIPE_BUF).
    const MAX_BUFFERED: usize = 4096;

    /// Output to an open file.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Output {
            file: File::from(fd),
            buffer: Vec::new(),
            delay: Delay::new()?,
        })
    }

    /// Output to standard output.
    pub(crate) fn stdout() -> io::Result<Self> {
        Self::new(io::stdout().as_fd().try_clone_to_owned()?)
    }

    /// Another handle on the same output, which takes over what is buffered.
    pub(crate) fn hand_over(&mut self) -> io::Result<Self> {
        Ok(Output {
            file: self.file.try_clone()?,
            buffer: mem::take(&mut self.buffer),
            delay: self.delay.clone(),
        })
    }

    /// The timer that expires when [`Self::try_drain`] is due.
    pub(crate) fn delay(&self) -> Delay {
        self.delay.clone()
    }

    /// Writes what is buffered, unless that had to wait for a reader. Then it is due again in a
    /// moment. Whether nothing is left.
    pub(crate) fn try_drain(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() {
            return Ok(true);
        }
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        // An output that is gone is no wait either.
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) | Err(nix::Error::EINTR) => self.delay.start().map(|()| false),
            Ok(_) => self.drain().map(|()| true),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is buffered, and waits for the reader.
    fn drain(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.is_empty() {
            self.delay.start()?;
        }
        self.buffer.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.buffer.len() >= Self::MAX_BUFFERED {
            self.drain()?;
        }
        Ok(bytes.len())
    }

    /// The serial port calls this after every byte; [`Output::try_drain`] is what really writes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{
        fcntl,
        FcntlArg, //
    };

    /// Reading and writing end of a pipe.
    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        (reader.into(), writer.into())
    }

    #[test]
    fn lines_are_written_whole() {
        let (mut reader, writer) = pipe();
        let mut output = Output::new(OwnedFd::from(writer)).unwrap();
        let mut seen = [0; 16];
        output.write_all(b"one\n").unwrap();
        assert_eq!(reader.read(&mut seen).unwrap(), 4);
        output.write_all(b"two").unwrap();
        assert!(output.delay().0.get().unwrap().is_some());
        assert!(output.try_drain().unwrap());
        assert_eq!(reader.read(&mut seen).unwrap(), 3);
        assert_eq!(&seen[..3], b"two");
    }

    #[test]
    fn a_stalled_reader_is_not_waited_for() {
        let (mut reader, writer) = pipe();
        let room = fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap() as usize;
        (&writer).write_all(&vec![0; room]).unwrap();
        let mut output = Output::new(OwnedFd::from(writer)).unwrap();
        output.write_all(b"login: ").unwrap();
        output.delay().0.unset().unwrap();
        assert!(!output.try_drain().unwrap());
        assert!(output.delay().0.get().unwrap().is_some(), "it is due again");

        // What is not written survives a reset.
        let mut output = output.hand_over().unwrap();
        reader.read_exact(&mut vec![0; room]).unwrap();
        assert!(output.try_drain().unwrap());
        let mut seen = [0; 16];
        assert_eq!(reader.read(&mut seen).unwrap(), 7);
        assert_eq!(&seen[..7], b"login: ");
    }

    #[test]
    fn lost_output_is_an_error() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut output = Output::new(OwnedFd::from(writer)).unwrap();
        assert!(output.write_all(b"gone\n").is_err());
        output.write_all(b"gone").unwrap();
        assert!(output.try_drain().is_err());
    }

    #[test]
    fn input_ends() {
        let (reader, mut writer) = pipe();
        let mut input = Input(Some(reader));
        let mut buffer = [0; 8];
        writer.write_all(b"ab").unwrap();
        assert_eq!(input.read(&mut buffer), b"ab");
        drop(writer);
        assert_eq!(input.read(&mut buffer), b"");
        assert!(input.fd().is_none());
    }
}

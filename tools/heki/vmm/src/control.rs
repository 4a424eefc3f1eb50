// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The control socket: one command a line in, one answer a line out, both JSON.
//!
//! `vm.rs` waits on it and does what is asked for; `heki-vmm tell` is its other end ([`tell`]). One
//! client is served at a time. Whoever may open the socket may do all of this to the guest. What
//! comes of the guest is numbers and our own words. Locks: none.

#![deny(unsafe_code)]

use std::io::{
    self,
    BufRead,
    BufReader,
    Read,
    Write, //
};
use std::os::fd::{
    AsFd,
    BorrowedFd, //
};
use std::os::unix::net::{
    UnixListener,
    UnixStream, //
};
use std::path::{
    Path,
    PathBuf, //
};
use std::process::ExitCode;

use clap::{
    Parser,
    ValueEnum, //
};
use serde::{
    Deserialize,
    Serialize, //
};

use crate::exit::Error;

/// Longest line of a client, in bytes.
const MAX_LINE: usize = 8192;

/// What may be asked for.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Command {
    /// What the machine is, and whether it runs.
    Status {},
    /// Power off and on.
    Reset {},
    /// Take the vCPUs out of the guest.
    Pause {},
    /// Let them run on.
    Resume {},
    /// Write all of the machine to a new directory.
    Snapshot {
        /// The directory.
        directory: PathBuf,
    },
}

/// What there is to say of the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// `running` or `paused`.
    pub(crate) state: &'static str,
    /// Number of vCPUs.
    pub(crate) cpus: u32,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Whether the guest is opted in to Heki.
    pub(crate) heki: bool,
    /// If it is, whether it is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<bool>,
}

/// An answer.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    status: Option<Status>,
}

impl Answer {
    /// It is done.
    pub(crate) fn done() -> Self {
        Answer {
            ok: true,
            error: None,
            status: None,
        }
    }

    /// It cannot be done.
    pub(crate) fn failed(reason: impl ToString) -> Self {
        Answer {
            ok: false,
            error: Some(reason.to_string()),
            status: None,
        }
    }

    /// What was asked for.
    pub(crate) fn status(status: Status) -> Self {
        Answer {
            status: Some(status),
            ..Self::done()
        }
    }
}

/// The socket, and the client that is connected.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    client: Option<Client>,
}

struct Client {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Control {
    /// Creates the socket. `path` must not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = open().map_err(Error::os::<io::Error>("create the control socket"))?;
        Ok(Control {
            listener,
            path: path.to_path_buf(),
            client: None,
        })
    }

    /// What to wait on: the client, or the next one.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.client {
            Some(client) => client.stream.as_fd(),
            None => self.listener.as_fd(),
        }
    }

    /// Whether [`Self::take`] need not wait.
    pub(crate) fn has_line(&self) -> bool {
        let client = self.client.as_ref();
        client.is_some_and(|client| client.unread.contains(&b'\n'))
    }

    /// The next command, if one has come. What is none is answered here.
    pub(crate) fn take(&mut self) -> Option<Command> {
        let line = match &mut self.client {
            Some(client) => client.take_line(),
            None => {
                self.client = self.accept();
                return None;
            }
        };
        match line {
            Ok(Some(line)) => match serde_json::from_slice(&line) {
                Ok(command) => return Some(command),
                Err(error) => self.answer(&Answer::failed(error)),
            },
            Ok(None) => {}
            Err(_) => self.client = None,
        }
        None
    }

    fn accept(&self) -> Option<Client> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Client {
            stream,
            unread: Vec::new(),
        })
    }

    /// Answers the last command. A client that takes no answer is left alone.
    pub(crate) fn answer(&mut self, answer: &Answer) {
        let Some(client) = &mut self.client else {
            return;
        };
        let sent = serde_json::to_vec(answer)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                client.stream.write_all(&line)
            });
        if sent.is_err() {
            self.client = None;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Fails only where somebody else has removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Client {
    /// A whole line, if there is one. An error is the end of the client.
    fn take_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = [0; 1024];
        if !self.unread.contains(&b'\n') {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self
                    .unread
                    .extend_from_slice(bytes.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
            return Ok(Some(self.unread.drain(..=end).collect()));
        }
        if self.unread.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(None)
    }
}

/// The commands of [`tell`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verb {
    Status,
    Reset,
    Pause,
    Resume,
    Snapshot,
}

/// Tells a running heki-vmm what to do, and prints its answer.
///
/// Exit status: 0 when it was done, 1 when not.
#[derive(Debug, Parser)]
#[command(name = "heki-vmm tell")]
pub(crate) struct Tell {
    /// The control socket
    socket: PathBuf,
    /// What to do
    verb: Verb,
    /// Where to write the snapshot
    #[arg(required_if_eq("verb", "snapshot"))]
    directory: Option<PathBuf>,
}

impl Tell {
    fn command(&self) -> Command {
        match self.verb {
            Verb::Status => Command::Status {},
            Verb::Reset => Command::Reset {},
            Verb::Pause => Command::Pause {},
            Verb::Resume => Command::Resume {},
            Verb::Snapshot => Command::Snapshot {
                directory: self.absolute_directory(),
            },
        }
    }

    /// What is relative is so to this process, not to the one that is told.
    fn absolute_directory(&self) -> PathBuf {
        let directory = self.directory.clone().unwrap_or_default();
        std::path::absolute(&directory).unwrap_or(directory)
    }
}

/// The other end of the socket: sends one command and prints the answer.
pub(crate) fn tell(tell: &Tell) -> Result<ExitCode, Error> {
    let ask = || {
        let mut stream = UnixStream::connect(&tell.socket)?;
        let mut line = serde_json::to_vec(&tell.command())?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(Error::os::<io::Error>("ask at the control socket"))?;
    print!("{answer}");
    let done = serde_json::from_str::<serde_json::Value>(&answer)
        .is_ok_and(|answer| answer.get("ok") == Some(&true.into()));
    Ok(match done {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Command> {
        serde_json::from_str(line).ok()
    }

    #[test]
    fn commands() {
        assert_eq!(parse("{\"command\":\"pause\"}"), Some(Command::Pause {}));
        let snapshot = Command::Snapshot {
            directory: "/a b".into(),
        };
        let line = "{\"command\":\"snapshot\",\"directory\":\"/a b\"}";
        assert_eq!(parse(line), Some(snapshot));
        for bad in [
            "",
            "{}",
            "[]",
            "{\"command\":\"fly\"}",
            "{\"command\":\"pause\",\"now\":true}",
            "{\"command\":\"snapshot\"}",
            "{\"command\":\"pause\"} x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_are_lines_of_json() {
        let text = |answer| serde_json::to_string(&answer).unwrap();
        assert_eq!(text(Answer::done()), "{\"ok\":true}");
        assert_eq!(
            text(Answer::failed("a \"b\"\n\u{1b}")),
            "{\"ok\":false,\"error\":\"a \\\"b\\\"\\n\\u001b\"}"
        );
        let status = Status {
            state: "paused",
            cpus: 2,
            memory: 4096,
            heki: true,
            sealed: Some(false),
        };
        assert_eq!(
            text(Answer::status(status)),
            "{\"ok\":true,\"state\":\"paused\",\"cpus\":2,\"memory\":4096,\"heki\":true,\
             \"sealed\":false}"
        );
    }

    /// A socket in a directory of its own, which goes with it.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("heki-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            Place(dir)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_client_after_the_other() {
        let place = Place::new("clients");
        let mut control = Control::open(&place.socket()).unwrap();
        assert!(Control::open(&place.socket()).is_err());
        for _ in 0..2 {
            let mut client = UnixStream::connect(place.socket()).unwrap();
            assert!(control.take().is_none(), "accepted");
            client.write_all(b"{\"command\":").unwrap();
            assert!(control.take().is_none() && !control.has_line());
            client
                .write_all(b"\"pause\"}\n{\"command\":\"resume\"}\nnonsense\n")
                .unwrap();
            assert_eq!(control.take(), Some(Command::Pause {}));
            control.answer(&Answer::done());
            assert!(control.has_line());
            assert_eq!(control.take(), Some(Command::Resume {}));
            control.answer(&Answer::failed("no"));
            assert_eq!(control.take(), None);
            let mut lines = BufReader::new(client).lines().map(Result::unwrap);
            assert_eq!(lines.next().unwrap(), "{\"ok\":true}");
            assert!(lines.next().unwrap().contains("\"no\""));
            assert!(lines.next().unwrap().contains("\"ok\":false"));
            drop(lines);
            assert!(control.take().is_none() && control.client.is_none());
        }
        drop(control);
        assert!(!place.socket().exists());
    }

    #[test]
    fn an_endless_line_ends_the_client() {
        let place = Place::new("endless");
        let mut control = Control::open(&place.socket()).unwrap();
        let mut client = UnixStream::connect(place.socket()).unwrap();
        assert!(control.take().is_none());
        client.write_all(&[b'x'; 2 * MAX_LINE]).unwrap();
        while control.client.is_some() {
            assert!(control.take().is_none());
        }
    }

    #[test]
    fn a_snapshot_needs_a_directory() {
        let parse = |words: &[&str]| Tell::try_parse_from(words);
        assert!(parse(&["tell", "s", "snapshot"]).is_err());
        assert!(parse(&["tell", "s", "fly"]).is_err());
        let tell = parse(&["tell", "s", "snapshot", "/d"]).unwrap();
        let directory = "/d".into();
        assert_eq!(tell.command(), Command::Snapshot { directory });
    }
}

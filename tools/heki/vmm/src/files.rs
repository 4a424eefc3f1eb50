// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! Opening the files that the user names.
//!
//! Used by `boot.rs`, `disk.rs`, `policy.rs` and `profile.rs`, which judge what is in them, and by
//! `monitor.rs`, which writes. Locks: none.

use std::fs::File;
use std::io::{
    self,
    Read, //
};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{
    fcntl,
    FcntlArg,
    OFlag, //
};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

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

/// Opens a file to append to, and creates it. `/dev/fd/N` is descriptor N as it is: a socket cannot be
/// opened anew, nor what another user opened.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    match number(path) {
        Some(number) => writer(number),
        None => File::options().create(true).append(true).open(path),
    }
}

/// N of `/dev/fd/N`.
fn number(path: &Path) -> Option<RawFd> {
    let name = path.strip_prefix("/dev/fd").ok()?.to_str()?;
    name.parse().ok().filter(|&number| number >= 0)
}

/// A copy of the descriptor `number`, which must be open for writing.
fn writer(number: RawFd) -> io::Result<File> {
    // A message to oneself is how safe code gets at a descriptor by its number.
    let (from, to) = UnixStream::pair()?;
    from.send_with_fd(&[0][..], number)?;
    let (_, file) = to.recv_with_fd(&mut [0])?;
    let file = file.ok_or(Errno::EBADF)?;
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(Errno::EBADF.into());
    }
    Ok(file)
}

/// For `map_err` on a read of that file.
pub(crate) fn read_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::ReadFile { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    fn path(file: &impl AsRawFd) -> PathBuf {
        PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()))
    }

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("heki-files-{}-{name}", std::process::id()))
    }

    #[test]
    fn names_that_are_no_descriptors() {
        for name in [
            "/dev/fd",
            "/dev/fd/",
            "/dev/fd/x",
            "/dev/fd/-1",
            "/dev/fd/3/a",
            "/dev/fdx/3",
            "3",
        ] {
            assert_eq!(number(Path::new(name)), None, "{name}");
        }
        assert_eq!(number(Path::new("/dev/fd/3")), Some(3));
    }

    #[test]
    fn a_descriptor_that_cannot_be_written_is_refused() {
        let refused = |path: &Path| append(path).expect_err("must be refused").raw_os_error();
        let no_such = format!("/dev/fd/{}", RawFd::MAX);
        assert_eq!(refused(Path::new(&no_such)), Some(Errno::EBADF as i32));
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(refused(&path(&reader)), Some(Errno::EBADF as i32));
        let device = File::open("/dev/null").unwrap();
        assert_eq!(refused(&path(&device)), Some(Errno::EBADF as i32));
    }

    #[test]
    fn a_pipe_is_written() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        append(&path(&writer)).unwrap().write_all(b"one").unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(File::from(reader)).unwrap(), "one");
    }

    #[test]
    fn a_socket_is_written() {
        let (mut there, here) = UnixStream::pair().unwrap();
        append(&path(&here)).unwrap().write_all(b"one").unwrap();
        drop(here);
        let mut text = String::new();
        there.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
    }

    #[test]
    fn each_line_is_a_message_of_its_own() {
        let (there, here) = UnixDatagram::pair().unwrap();
        let mut events = append(&path(&here)).unwrap();
        let mut message = [0; 8];
        for line in [b"one\n", b"two\n"] {
            events.write_all(line).unwrap();
            let len = there.recv(&mut message).unwrap();
            assert_eq!(&message[..len], line);
        }
    }

    #[test]
    fn a_file_grows() {
        let name = temporary("grows");
        let _ = fs::remove_file(&name);
        append(&name).unwrap().write_all(b"one").unwrap();
        let mut file = append(&name).unwrap();
        file.write_all(b"two").unwrap();
        append(&path(&file)).unwrap().write_all(b"six").unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "onetwosix");
        fs::remove_file(&name).unwrap();
    }
}

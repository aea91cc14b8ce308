//! Lines of JSON over a unix socket, as QEMU's monitor and the guest agent speak them.
//! Promises an end of every wait and a bound of every line; refuses what is longer.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest line: the schema of a QEMU is below a megabyte.
const LINE_BYTES_MAX: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;

/// One end of such a socket.
#[derive(Debug)]
pub(super) struct Lines {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl Lines {
    /// Connects; a listener whose queue is full makes nobody wait longer than `limit`.
    pub(super) fn connect(path: &Path, limit: Duration) -> io::Result<Self> {
        let kind = SocketType::STREAM;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { stream: UnixStream::from(socket), heard: Vec::new() })
    }

    /// The process at the other end, where the kernel knows it.
    pub(super) fn peer(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(self.stream.as_fd()).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    pub(super) fn say(&mut self, bytes: &[u8], until: Instant) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(until)?))?;
        self.stream.write_all(bytes)
    }

    /// The next line.
    pub(super) fn line(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        self.up_to(b'\n', until)
    }

    /// Everything before the next `delimiter`, which is taken too.
    pub(super) fn up_to(&mut self, delimiter: u8, until: Instant) -> io::Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            let fresh = self.heard.get(looked..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == delimiter) {
                let rest = self.heard.split_off(looked + at + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                line.pop();
                return Ok(line);
            }
            looked = self.heard.len();
            if looked > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
            self.stream.set_read_timeout(Some(left(until)?))?;
            let mut buffer = [0; READ_BYTES];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => self.heard.extend(buffer.iter().take(got)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Whether nothing came in time.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

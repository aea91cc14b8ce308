//! A connection to a server: messages one by one, over its socket, TCP or TLS. Promises that
//! nothing said before a greeting of TLS is taken for something said after it; refuses messages
//! longer than the server has any reason to send.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::{ClientConnection, StreamOwned};

use crate::workload::postgres::error::PgError;
use crate::workload::postgres::session::{CONNECT_MAX, Dial, Reach, Tls};
use crate::workload::postgres::tls;

/// What is read of the connection at a time, in bytes.
const READ_BYTES: usize = 256 << 10;
/// Pieces of a backup take 32 KiB, and pieces of the log 128 KiB.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;
/// A checkpoint of a large server may take long, and it says nothing meanwhile.
const SILENCE_MAX: Duration = Duration::from_secs(60 * 60);
/// A host that is gone answers none of so many questions, so far apart.
const ALIVE_IDLE: Duration = Duration::from_secs(60);
const ALIVE_EVERY: Duration = Duration::from_secs(10);
const ALIVE_ASKED: u32 = 6;
/// Asks for TLS: a length, and a number that is no version.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answers to that.
const TLS_OFFERED: u8 = b'S';
const TLS_NONE: u8 = b'N';

/// What went wrong in the replication protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It ended or broke.
    #[error("the connection to the server at {place} broke off")]
    Broken { place: String, source: io::Error },
    /// Not what the protocol says.
    #[error("the server at {place} says what cannot be understood: {what}")]
    Odd { place: String, what: String },
    /// What the server said.
    #[error("the server could not {what}: {said}")]
    Refused { what: &'static str, said: String, code: String },
}

/// Bytes on their way.
enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// What a server says at a time.
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Vec<u8>,
}

/// A connection.
pub(super) struct Link {
    stream: BufReader<Stream>,
    pub(super) place: String,
}

impl Link {
    /// Connects; nothing is said yet but the greeting of TLS.
    ///
    /// # Errors
    /// Nobody answers, or not who was expected.
    pub(super) fn dial(dial: &Dial) -> Result<Self, PgError> {
        let place = dial.place();
        let broken = |source| WireError::Broken { place: place.clone(), source };
        let stream = match &dial.reach {
            _ if dial.host.starts_with('/') => {
                let path = format!("{}/.s.PGSQL.{}", dial.host, dial.port);
                let stream = UnixStream::connect(path).map_err(broken)?;
                stream.set_read_timeout(Some(SILENCE_MAX)).map_err(broken)?;
                Stream::Unix(stream)
            }
            Reach::Anywhere(Tls::Verify { ca_file }) => {
                let greeter = tls::Greeter::new(ca_file.as_deref())?;
                let stream = tcp(dial).map_err(broken)?;
                Stream::Tls(Box::new(greet(&greeter, dial, stream)?))
            }
            Reach::Anywhere(Tls::Off) | Reach::Here => Stream::Tcp(tcp(dial).map_err(broken)?),
        };
        Ok(Self { stream: BufReader::with_capacity(READ_BYTES, stream), place })
    }

    /// Says something.
    ///
    /// # Errors
    /// It broke off.
    pub(super) fn say(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let stream = self.stream.get_mut();
        let said = stream.write_all(bytes).and_then(|()| stream.flush());
        said.map_err(|source| self.broken(source))
    }

    /// Hears the next message.
    ///
    /// # Errors
    /// It broke off, or is no message.
    pub(super) fn hear(&mut self) -> Result<Message, WireError> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).map_err(|source| self.broken(source))?;
        let [tag, a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(self.odd(format!("a message of {length} bytes")));
        }
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body).map_err(|source| self.broken(source))?;
        Ok(Message { tag, body })
    }

    pub(super) fn broken(&self, source: io::Error) -> WireError {
        WireError::Broken { place: self.place.clone(), source }
    }

    pub(super) fn odd(&self, what: impl Into<String>) -> WireError {
        WireError::Odd { place: self.place.clone(), what: what.into() }
    }
}

fn tcp(dial: &Dial) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (dial.host.as_str(), dial.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE_MAX))?;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, ALIVE_IDLE)?;
                sockopt::set_tcp_keepintvl(&stream, ALIVE_EVERY)?;
                sockopt::set_tcp_keepcnt(&stream, ALIVE_ASKED)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn greet(
    greeter: &tls::Greeter,
    dial: &Dial,
    mut stream: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>, PgError> {
    let place = dial.place();
    let failed = |source: io::Error| match tls::said(&source) {
        Some(why) => PgError::Untrusted { place: place.clone(), why },
        None => WireError::Broken { place: place.clone(), source }.into(),
    };
    stream.write_all(&TLS_REQUEST).map_err(failed)?;
    // One byte, and no more: what follows is of the greeting.
    let mut answer = [0];
    stream.read_exact(&mut answer).map_err(failed)?;
    match answer {
        [TLS_OFFERED] => {}
        [TLS_NONE] => return Err(PgError::NoTls { place }),
        [other] => {
            let what = format!("{other} where it was asked for TLS");
            return Err(WireError::Odd { place, what }.into());
        }
    }
    let (config, name) = greeter.parts(&dial.host).map_err(failed)?;
    let connection = ClientConnection::new(config, name);
    let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
    let mut sealed = StreamOwned::new(connection, stream);
    while sealed.conn.is_handshaking() {
        sealed.conn.complete_io(&mut sealed.sock).map_err(failed)?;
    }
    Ok(sealed)
}

//! The little of HTTP/1.1 that vSphere needs: a request on a connection of its own, over TLS and
//! nothing else. Promises that an answer that was cut short is an error; refuses answers whose
//! head is longer than it has any reason to be.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::tls::disbelief;

/// A server that takes longer to answer a connection is not there.
const DIALLING: Duration = Duration::from_secs(20);
/// A server that gives no byte for so long hangs: tasks are asked after, never waited for here.
const SILENCE: Duration = Duration::from_secs(120);
/// A head is a status, some headers and a cookie, in bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const PORT: u16 = 443;

/// Where something is on the web.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub host: String,
    pub port: u16,
    /// With its query, if it has one.
    pub path: String,
}

impl Place {
    /// From an address that begins with `https://`.
    ///
    /// # Errors
    /// It does not, or names no host.
    pub fn parse(url: &str) -> Result<Self, WebError> {
        let wrong = || WebError::Url { url: url.to_owned() };
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (authority, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let odd = |text: &str| text.chars().any(|c| c.is_ascii_control() || c == ' ' || c == '@');
        if host.is_empty() || odd(authority) || odd(path) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// It is not HTTP, or not of a kind that is understood.
    #[error("{host} answers what cannot be understood: {what}")]
    Odd { host: String, what: String },
    /// No connection, or it broke.
    #[error("{host} cannot be reached")]
    Unreachable { host: String, source: io::Error },
    /// It is not who was expected.
    #[error("{host} is not believed: {why}")]
    Untrusted { host: String, why: String },
    /// No address.
    #[error("{url:?} is no address of a server; one looks like https://vcenter.example.com")]
    Url { url: String },
}

/// A question.
pub(super) struct Request<'r> {
    pub(super) method: &'r str,
    pub(super) place: &'r Place,
    pub(super) headers: &'r [(&'r str, &'r str)],
    pub(super) body: &'r [u8],
}

/// An answer, whose body is read from it.
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Response {
    /// The values of a header.
    pub(super) fn header<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

/// Asks, and reads the head of the answer.
pub(super) fn send(trust: &Arc<ClientConfig>, request: &Request<'_>) -> Result<Response, WebError> {
    let Request { method, place, headers, body } = request;
    let mut stream = dial(trust, place)?;
    let mut head = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nUser-Agent: strongroom\r\n\
         Content-Length: {}\r\n",
        place.path,
        place.authority(),
        body.len()
    );
    for (name, value) in *headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let written = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body))
        .and_then(|()| stream.flush());
    written.map_err(|source| broken(place, source))?;
    answer(place, BufReader::with_capacity(256 << 10, stream))
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn dial(trust: &Arc<ClientConfig>, place: &Place) -> Result<Stream, WebError> {
    let failed = |source| broken(place, source);
    let addresses = (place.host.as_str(), place.port).to_socket_addrs().map_err(failed)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let mut dialled = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, DIALLING) {
            Ok(stream) => {
                dialled = Some(stream);
                break;
            }
            Err(error) => last = error,
        }
    }
    let socket = dialled.ok_or_else(|| failed(last))?;
    socket.set_read_timeout(Some(SILENCE)).map_err(failed)?;
    socket.set_write_timeout(Some(SILENCE)).map_err(failed)?;
    let url = || WebError::Url { url: place.host.clone() };
    let name = ServerName::try_from(place.host.clone()).map_err(|_| url())?;
    let connection = ClientConnection::new(Arc::clone(trust), name);
    let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(failed)?;
    }
    Ok(stream)
}

/// A connection that failed; who is not believed is told apart.
fn broken(place: &Place, source: io::Error) -> WebError {
    let tls = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let host = place.authority();
    match tls.and_then(disbelief) {
        Some(why) => WebError::Untrusted { host, why },
        None => WebError::Unreachable { host, source },
    }
}

fn answer(place: &Place, mut stream: BufReader<Stream>) -> Result<Response, WebError> {
    let odd = |what: &str| WebError::Odd { host: place.authority(), what: what.to_owned() };
    let mut head = (&mut stream).take(HEAD_BYTES_MAX);
    let mut line = || -> Result<String, WebError> {
        let mut line = Vec::new();
        head.read_until(b'\n', &mut line).map_err(|source| broken(place, source))?;
        if line.pop() != Some(b'\n') {
            return Err(odd("its head does not end"));
        }
        let text = String::from_utf8_lossy(&line);
        Ok(text.trim_end_matches('\r').to_owned())
    };
    let first = line()?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = status.and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| odd("it does not speak HTTP/1.1"))?;
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| odd("a header has no colon"))?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    let one = |name: &str| {
        let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    };
    let extent = match (one("transfer-encoding"), one("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => {
            Extent::Chunked { left: 0, first: true }
        }
        (Some(_), _) => return Err(odd("its transfer encoding is not known")),
        (None, Some(length)) => {
            Extent::Length(length.parse().map_err(|_| odd("its length is no number"))?)
        }
        (None, None) => Extent::ToTheEnd,
    };
    Ok(Response { status, headers, body: Body { stream, extent } })
}

/// How far a body goes.
enum Extent {
    Chunked {
        left: u64,
        first: bool,
    },
    Ended,
    Length(u64),
    /// Until TLS says that it ends; a connection that is cut does not.
    ToTheEnd,
}

struct Body {
    stream: BufReader<Stream>,
    extent: Extent,
}

impl Body {
    /// The length of the next chunk: none after the last.
    fn chunk(&mut self, first: bool) -> io::Result<u64> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "a chunk's length is odd");
        let mut line = |most: u64| -> io::Result<String> {
            let mut line = Vec::new();
            (&mut self.stream).take(most).read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Err(odd());
            }
            Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
        };
        if !first && !line(2)?.is_empty() {
            return Err(odd());
        }
        let told = line(HEAD_BYTES_MAX)?;
        let digits = told.split(';').next().unwrap_or_default().trim();
        let length = u64::from_str_radix(digits, 16).map_err(|_| odd())?;
        while length == 0 && !line(HEAD_BYTES_MAX)?.is_empty() {}
        Ok(length)
    }

    fn some(&mut self, buffer: &mut [u8], left: u64) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.stream.read(buffer.get_mut(..most).unwrap_or_default())?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(got)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.extent {
            Extent::Ended | Extent::Length(0) => Ok(0),
            Extent::ToTheEnd => self.stream.read(buffer),
            Extent::Length(left) => {
                let got = self.some(buffer, left)?;
                self.extent = Extent::Length(left - got as u64);
                Ok(got)
            }
            Extent::Chunked { left: 0, first } => match self.chunk(first)? {
                0 => {
                    self.extent = Extent::Ended;
                    Ok(0)
                }
                left => {
                    self.extent = Extent::Chunked { left, first: false };
                    self.read(buffer)
                }
            },
            Extent::Chunked { left, .. } => {
                let got = self.some(buffer, left)?;
                self.extent = Extent::Chunked { left: left - got as u64, first: false };
                Ok(got)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_and_names_a_host() {
        let place = |url: &str| Place::parse(url).ok().map(|p| (p.host, p.port, p.path));
        let expected =
            |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(place("https://vc.example.com"), expected("vc.example.com", 443, "/"));
        assert_eq!(place("https://[::1]:8443/sdk?a=b"), expected("::1", 8443, "/sdk?a=b"));
        assert_eq!(place("https://*/nfc/1/d.vmdk"), expected("*", 443, "/nfc/1/d.vmdk"));
        for wrong in ["http://vc", "vc", "https://", "https://a b", "https://u@h", "https://h:x"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}

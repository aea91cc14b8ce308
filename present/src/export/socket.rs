//! Where an export listens: a socket of this host's file system, or an address. Promises that a
//! socket file is never open to others, and that one in use is left alone.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, io};

use rustix::net::sockopt::set_socket_keepalive;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const UNIX: &str = "unix:";

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    Address(SocketAddr),
    Unix(PathBuf),
}

/// A text that names no place to listen at.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no place to listen at: expected unix:/PATH or ADDRESS:PORT")]
pub struct ListenError {
    text: String,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let wrong = || ListenError { text: text.to_owned() };
        match text.strip_prefix(UNIX) {
            Some("") => Err(wrong()),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text.parse().map(Self::Address).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Listen {
    /// Whether nobody beyond this host can reach it.
    pub fn stays_here(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A place that is listened at.
pub(super) enum Listener {
    Address(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A client that came.
pub(super) enum Client {
    Address(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    pub(super) async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Address(address) => Ok(Self::Address(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                make_room(path).await?;
                // Made beside and moved into place, so that nobody connects before only its owner
                // may.
                let mut beside = path.as_os_str().to_owned();
                beside.push("~");
                let beside = PathBuf::from(beside);
                let _ = std::fs::remove_file(&beside);
                let listener = UnixListener::bind(&beside)?;
                std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o600))?;
                std::fs::rename(&beside, path)?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// Where it is, the port that was chosen included.
    pub(super) fn place(&self) -> io::Result<Listen> {
        Ok(match self {
            Self::Address(listener) => Listen::Address(listener.local_addr()?),
            Self::Unix(_, path) => Listen::Unix(path.clone()),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Client> {
        Ok(match self {
            Self::Address(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client whose host is gone is noticed in the end.
                set_socket_keepalive(&stream, true)?;
                Client::Address(stream)
            }
            Self::Unix(listener, _) => Client::Unix(listener.accept().await?.0),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // It may be gone already; then nobody misses it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens at any more.
async fn make_room(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else is there"));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_those_beyond_this_host_are_known() {
        let place = |text: &str| text.parse::<Listen>().unwrap();
        for text in ["unix:/run/a.sock", "127.0.0.1:10809", "[::1]:10809"] {
            assert!(place(text).stays_here(), "{text}");
            assert_eq!(place(text).to_string(), text);
        }
        for text in ["0.0.0.0:10809", "192.0.2.1:1", "[::]:10809"] {
            assert!(!place(text).stays_here(), "{text}");
        }
        for text in ["", "unix:", "localhost", "127.0.0.1", "/run/a.sock"] {
            let refused = text.parse::<Listen>().unwrap_err().to_string();
            assert!(refused.contains("unix:/PATH"), "{refused}");
        }
    }
}

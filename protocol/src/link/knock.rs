//! Somebody at the door, before the handshake: let in, asked to prove its address, or turned away.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;

use super::share::Windows;
use super::transport::Below;
use super::{Link, LinkError, server_config};

/// A peer whose handshake is not done yet.
pub struct Knock {
    incoming: quinn::Incoming,
    server: Arc<QuicServerConfig>,
    below: Below,
    windows: Arc<Windows>,
}

impl Knock {
    pub(super) const fn new(
        incoming: quinn::Incoming,
        server: Arc<QuicServerConfig>,
        below: Below,
        windows: Arc<Windows>,
    ) -> Self {
        Self { incoming, server, below, windows }
    }

    /// Where it comes from.
    pub fn address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Completes the handshake, with the transport that suits the peer's address.
    pub async fn enter(self) -> Result<Link, LinkError> {
        let config = server_config(self.server, self.incoming.remote_address(), self.below);
        let quinn = self.incoming.accept_with(Arc::new(config))?.await?;
        Ok(Link { quinn, windows: Some(self.windows) })
    }

    /// Whether it has shown that it hears at the address it says it has.
    pub fn proven(&self) -> Proven {
        if self.incoming.remote_address_validated() { Proven::Yes } else { Proven::NotYet }
    }

    /// Asks it to come again and show that it hears at its address; keeps nothing of it.
    pub fn ask_again(self) {
        // One that cannot be asked has shown it, and is refused as it is dropped.
        let _ = self.incoming.retry();
    }

    /// Turns it away unheard.
    pub fn refuse(self) {
        self.incoming.refuse();
    }
}

/// Whether a peer at the door can be reached where it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    NotYet,
    Yes,
}

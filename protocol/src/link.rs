//! The only file (with its six rooms) that knows QUIC: dial, accept, typed send and receive,
//! back-off. Whom to trust is decided by the TLS configurations handed in.

mod backoff;
mod knock;
mod lasting;
mod share;
mod socket;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

pub use backoff::Backoff;
pub use knock::{Knock, Proven};
pub use lasting::LastingKey;
pub use share::Bulk;

use share::Windows;
use socket::Socket;
use transport::Below;

use crate::frame::{Decoder, Frame, FrameError, Message, decode, encode};

/// Pieces taken off a stream at once: as many as a batch of short datagrams brings. Together they
/// are shorter than a stream's window.
const READ_PIECES_MAX: usize = 64;

/// Why a conversation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The socket could not be bound.
    #[error("cannot bind UDP {address}: {reason}")]
    Bind { address: SocketAddr, reason: String },
    /// The TLS configuration does not suit QUIC.
    #[error("TLS configuration is not usable for QUIC: {reason}")]
    Tls { reason: String },
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: SocketAddr, reason: String },
    /// The connection ended.
    #[error("connection lost: {reason}")]
    Lost { reason: String },
    /// The peer closed the connection and said why.
    #[error("closed by the peer: {reason}")]
    Closed { reason: String },
    /// The peer stopped this stream.
    #[error("the peer stopped the stream (code {code})")]
    Stopped { code: u64 },
    /// The stream ended where a message was due.
    #[error("the stream ended where {expected} was due")]
    Ended { expected: &'static str },
    /// What came is not a message.
    #[error("protocol error")]
    Frame(#[from] FrameError),
}

impl From<quinn::ConnectionError> for LinkError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::Closed { reason: String::from_utf8_lossy(&close.reason).into_owned() }
            }
            other => Self::Lost { reason: other.to_string() },
        }
    }
}

impl From<quinn::WriteError> for LinkError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped { code: code.into_inner() },
            quinn::WriteError::ConnectionLost(lost) => lost.into(),
            other => Self::Lost { reason: other.to_string() },
        }
    }
}

impl From<quinn::ReadError> for LinkError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Stopped { code: code.into_inner() },
            quinn::ReadError::ConnectionLost(lost) => lost.into(),
            other => Self::Lost { reason: other.to_string() },
        }
    }
}

/// A UDP socket for QUIC: dials, and accepts when it was given a server configuration.
#[derive(Clone)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    server: Option<Arc<QuicServerConfig>>,
    below: Below,
    windows: Arc<Windows>,
}

impl Endpoint {
    /// Binds `address`; with `server`, accepts connections there.
    pub fn bind(
        address: SocketAddr,
        server: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, LinkError> {
        Self::bind_as(quinn::EndpointConfig::default(), address, server)
    }

    /// Binds `address` and accepts there. Peers of an earlier process with the same key are
    /// told that their connection is gone.
    pub fn listen(
        address: SocketAddr,
        server: Arc<rustls::ServerConfig>,
        key: LastingKey,
    ) -> Result<Self, LinkError> {
        Self::bind_as(key.endpoint(), address, Some(server))
    }

    fn bind_as(
        mut endpoint: quinn::EndpointConfig,
        address: SocketAddr,
        server: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Self, LinkError> {
        let failed = |error: std::io::Error| LinkError::Bind { address, reason: error.to_string() };
        let socket = Socket::bind(address).map_err(failed)?;
        transport::receive_any(&mut endpoint);
        Self::of(endpoint, socket, server, Below::Kernel, address)
    }

    fn of(
        endpoint: quinn::EndpointConfig,
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        server: Option<Arc<rustls::ServerConfig>>,
        below: Below,
        address: SocketAddr,
    ) -> Result<Self, LinkError> {
        let failed = |error: std::io::Error| LinkError::Bind { address, reason: error.to_string() };
        let server = server.map(quic_server).transpose()?;
        let config = server.clone().map(|server| server_config(server, address, Below::Given));
        let runtime = Arc::new(quinn::TokioRuntime);
        let quinn = quinn::Endpoint::new_with_abstract_socket(endpoint, config, socket, runtime)
            .map_err(failed)?;
        Ok(Self { quinn, server, below, windows: Arc::default() })
    }

    /// Over a socket of the caller's making: how tests put a network of their own below.
    pub fn over(
        socket: Arc<dyn quinn::AsyncUdpSocket>,
        server: Option<Arc<rustls::ServerConfig>>,
        seed: [u8; 32],
    ) -> Result<Self, LinkError> {
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = LastingKey::new(seed).endpoint();
        endpoint.rng_seed(Some(seed));
        Self::of(endpoint, socket, server, Below::Given, address)
    }

    /// The address bound.
    pub fn local_address(&self) -> Result<SocketAddr, LinkError> {
        self.quinn.local_addr().map_err(|error| LinkError::Lost { reason: error.to_string() })
    }

    /// Connects. `tls` says who we are, whom to accept and which ALPN.
    pub async fn dial(
        &self,
        address: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Link, LinkError> {
        let tls = QuicClientConfig::try_from(tls)
            .map_err(|error| LinkError::Tls { reason: error.to_string() })?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(transport::dialling(address, self.below));
        let failed = |reason: String| LinkError::Connect { address, reason };
        let connecting = self
            .quinn
            .connect_with(config, address, "strongroom.invalid")
            .map_err(|error| failed(error.to_string()))?;
        let quinn = connecting.await.map_err(|error| match LinkError::from(error) {
            LinkError::Lost { reason } => failed(reason),
            other => other,
        })?;
        transport::keep_less_if_near(&quinn);
        Ok(Link { quinn, windows: None })
    }

    /// The next peer at the door; `None` once closed. Waits for the handshake elsewhere, so
    /// that a slow peer keeps nobody waiting: see [`Knock::enter`].
    pub async fn accept(&self) -> Option<Knock> {
        let server = self.server.clone()?;
        let incoming = self.quinn.accept().await?;
        Some(Knock::new(incoming, server, self.below, Arc::clone(&self.windows)))
    }

    /// Closes every connection with a reason for the peers.
    pub fn close(&self, reason: &str) {
        self.quinn.close(quinn::VarInt::from_u32(0), reason.as_bytes());
    }

    /// Waits until closed connections have been told.
    pub async fn wait_idle(&self) {
        self.quinn.wait_idle().await;
    }
}

fn quic_server(tls: Arc<rustls::ServerConfig>) -> Result<Arc<QuicServerConfig>, LinkError> {
    QuicServerConfig::try_from(tls)
        .map(Arc::new)
        .map_err(|error| LinkError::Tls { reason: error.to_string() })
}

fn server_config(
    tls: Arc<QuicServerConfig>,
    peer: SocketAddr,
    below: Below,
) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(tls);
    config.transport_config(transport::accepting(peer, below));
    config
}

/// One connection between two nodes; a cheap handle.
#[derive(Clone, Debug)]
pub struct Link {
    quinn: quinn::Connection,
    /// Of a peer that came in.
    windows: Option<Arc<Windows>>,
}

impl Link {
    /// The ALPN agreed on.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let data = self.quinn.handshake_data()?;
        data.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol
    }

    /// The peer's certificates, leaf first; empty when it showed none.
    pub fn certificates(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        self.quinn
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok())
            .map(|certificates| *certificates)
            .unwrap_or_default()
    }

    /// Where the peer is.
    pub fn address(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// Opens a stream both ways.
    pub async fn open(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, recv) = self.quinn.open_bi().await?;
        Ok((Sender { quinn: send }, Receiver::new(recv)))
    }

    /// The next stream the peer opened.
    pub async fn accept(&self) -> Result<(Sender, Receiver), LinkError> {
        let (send, recv) = self.quinn.accept_bi().await?;
        Ok((Sender { quinn: send }, Receiver::new(recv)))
    }

    /// Lets an admitted peer that came in ask and answer.
    pub fn widen(&self) {
        if let Some(windows) = &self.windows {
            windows.widen(&self.quinn);
        }
    }

    /// While this is held, the connection has its share of the memory there is for bulk.
    pub fn bulk(&self) -> Bulk {
        let windows = self.windows.as_ref();
        windows.map_or_else(Bulk::unshared, |windows| windows.begin(&self.quinn))
    }

    /// Ends the connection with a reason for the peer.
    pub fn close(&self, reason: &str) {
        self.quinn.close(quinn::VarInt::from_u32(0), reason.as_bytes());
    }

    /// Waits for the end of the connection, and says why.
    pub async fn closed(&self) -> LinkError {
        self.quinn.closed().await.into()
    }

    /// Why the connection ended, if it did.
    pub fn ended(&self) -> Option<LinkError> {
        self.quinn.close_reason().map(LinkError::from)
    }

    /// Bytes put on the wire and taken off it so far, with all overhead.
    pub fn bytes_on_wire(&self) -> (u64, u64) {
        let stats = self.quinn.stats();
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }

    /// Longest datagram the way is known to carry, in bytes.
    pub fn datagram_bytes(&self) -> u16 {
        self.quinn.stats().path.current_mtu
    }
}

/// The sending half of a stream. Dropped without `finish`, the peer sees the stream reset.
#[derive(Debug)]
pub struct Sender {
    quinn: quinn::SendStream,
}

impl Sender {
    /// Sends a message without bulk.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), LinkError> {
        self.send_with(message, Bytes::new()).await
    }

    /// Sends a message with its bulk beside it; waits while the peer is behind.
    pub async fn send_with<M: Message>(
        &mut self,
        message: &M,
        bulk: Bytes,
    ) -> Result<(), LinkError> {
        let head = encode(message, bulk.len())?;
        if bulk.is_empty() {
            self.quinn.write_chunk(head).await?;
        } else {
            self.quinn.write_all_chunks(&mut [head, bulk]).await?;
        }
        Ok(())
    }

    /// Sends bytes as they are: for tests of what a receiver refuses.
    pub async fn send_raw(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        Ok(self.quinn.write_chunk(bytes).await?)
    }

    /// No more will be sent; what was sent is still delivered.
    pub fn finish(&mut self) {
        // Fails only when already finished or stopped: nothing more to do then.
        let _ = self.quinn.finish();
    }

    /// Waits until the peer has read everything or gave up.
    pub async fn delivered(&mut self) {
        let _ = self.quinn.stopped().await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // A finished stream is not affected; an unfinished one must not look whole.
        let _ = self.quinn.reset(quinn::VarInt::from_u32(1));
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Receiver {
    quinn: quinn::RecvStream,
    decoder: Decoder,
}

impl Receiver {
    fn new(quinn: quinn::RecvStream) -> Self {
        Self { quinn, decoder: Decoder::default() }
    }

    /// The next frame, or `None` at the orderly end of the stream. Safe to cancel: what was
    /// read stays in the decoder.
    pub async fn frame(&mut self) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let mut pieces = [const { Bytes::new() }; READ_PIECES_MAX];
            let Some(count) = self.quinn.read_chunks(&mut pieces).await? else {
                self.decoder.finish()?;
                return Ok(None);
            };
            for piece in pieces.into_iter().take(count) {
                self.decoder.feed(piece);
            }
        }
    }

    /// The next message and its bulk, or `None` at the end.
    pub async fn next<M: Message>(&mut self) -> Result<Option<(M, Bytes)>, LinkError> {
        let Some(frame) = self.frame().await? else { return Ok(None) };
        Ok(Some((decode(&frame.header)?, frame.bulk)))
    }

    /// The next message; the end of the stream is an error here.
    pub async fn expect<M: Message>(&mut self) -> Result<(M, Bytes), LinkError> {
        self.next().await?.ok_or(LinkError::Ended { expected: M::NAME })
    }

    /// Tells the peer to stop sending.
    pub fn stop(&mut self) {
        let _ = self.quinn.stop(quinn::VarInt::from_u32(1));
    }
}

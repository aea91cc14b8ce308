//! The server of exports: takes clients, as many as there may be, and serves each to its end.
//! Promises that nothing leaves this host that is not encrypted, to nobody without a certificate.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use strongroom_certs::{Admitted, admit};
use strongroom_protocol::{Chain, NodeName, Role};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::device::Device;
use super::session::{SessionError, serve};
use super::socket::{Client, Listen, Listener};
use super::tally::Tally;

/// Clients at once: several connections each of a few machines.
const CLIENTS_MAX: usize = 64;
/// How long clients may take over their last answers once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The place cannot be listened at.
    #[error("cannot listen at {place}")]
    Listen { place: Listen, source: io::Error },
    /// It would leave this host as it is.
    #[error("{place} can be reached from other hosts, and there is no certificate to encrypt by")]
    Unguarded { place: Listen },
}

/// Who may connect, and by which certificate the server is known.
#[derive(Clone, Debug)]
pub struct Guarded {
    pub config: Arc<ServerConfig>,
    /// Nodes that may connect beside operators, by name, whichever their site: on the worst day
    /// a proxy serves nodes of the site that it has copies of.
    pub nodes: Vec<NodeName>,
}

impl Guarded {
    /// Whether a client with these certificates, which the handshake has verified, may go on.
    pub(super) fn admit(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<(), SessionError> {
        let admitted = admit(b"", certificates);
        match admitted.map_err(|error| SessionError::Forbidden(Some(error)))? {
            Admitted::Node(peer)
                if peer.identity.role == Role::Operator
                    || self.nodes.contains(&peer.identity.name) =>
            {
                Ok(())
            }
            Admitted::Node(_) | Admitted::Enrolling => Err(SessionError::Forbidden(None)),
        }
    }
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) devices: Vec<Arc<Device>>,
    pub(super) guarded: Option<Guarded>,
    pub(super) stop: CancellationToken,
    pub(super) tally: Arc<Tally>,
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens; nobody is served before [`Server::run`].
    ///
    /// # Errors
    /// The place is taken, or can be reached from elsewhere and nothing guards it.
    pub async fn bind(
        listen: &Listen,
        devices: Vec<Arc<Device>>,
        guarded: Option<Guarded>,
        stop: CancellationToken,
    ) -> Result<Self, ExportError> {
        if !listen.stays_here() && guarded.is_none() {
            return Err(ExportError::Unguarded { place: listen.clone() });
        }
        let bound = Listener::bind(listen).await;
        let listener =
            bound.map_err(|source| ExportError::Listen { place: listen.clone(), source })?;
        let tally = Arc::new(Tally::default());
        Ok(Self { listener, shared: Arc::new(Shared { devices, guarded, stop, tally }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn place(&self) -> io::Result<Listen> {
        self.listener.place()
    }

    /// What it has served so far, counted on while it runs.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.shared.tally)
    }

    /// Serves until it is told to stop; what is under way then is answered to clients that take
    /// it in time.
    pub async fn run(self) {
        let room = Arc::new(Semaphore::new(CLIENTS_MAX));
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.shared.stop.cancelled() => break,
            };
            while clients.try_join_next().is_some() {}
            let client = match accepted {
                Ok(client) => client,
                Err(error) => {
                    // Of that one client, or too many files are open: others will come.
                    tracing::warn!(%error, "a client of an export could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(seat) = Arc::clone(&room).try_acquire_owned() else {
                tracing::warn!(clients = CLIENTS_MAX, "a client of an export is one too many");
                self.shared.tally.refused();
                continue;
            };
            let shared = Arc::clone(&self.shared);
            clients.spawn(async move {
                let served = match client {
                    Client::Address(stream) => serve(stream, &shared).await,
                    Client::Unix(stream) => serve(stream, &shared).await,
                };
                if let Err(error) = served {
                    let cause = Chain(&error).to_string();
                    tracing::info!(cause, "a client of an export was let go");
                    shared.tally.refused();
                }
                drop(seat);
            });
        }
        let gone = async { while clients.join_next().await.is_some() {} };
        if timeout(FAREWELL, gone).await.is_err() {
            tracing::warn!(
                clients = clients.len(),
                "clients of an export did not go, and were cut off"
            );
            clients.shutdown().await;
        }
    }
}

//! Where peers come in. A connection is let in by its certificate, kept under watch for
//! revocation and expiry, and its streams are handed to the node's [`Visitors`]. Garbage,
//! strangers and slow handshakes cost a bounded place at the door and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use strongroom_certs::{Admitted, Peer, admit};
use strongroom_protocol::Chain;
use strongroom_protocol::link::{Endpoint, Knock, Link, LinkError, Proven, Receiver, Sender};
use strongroom_protocol::opening::{Opened, Opening, Refusal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::guard::Guard;

/// Connections at once, those in handshake included.
const CONNECTIONS_MAX: usize = 1024;
/// With more places taken than this, who comes must show that it hears at its address: a flood
/// from made-up addresses takes no places then, and in quiet times nobody pays the round trip.
const UNPROVEN_MAX: usize = CONNECTIONS_MAX / 4;
/// A handshake, or the first frame of a stream, takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a standing connection is looked at: the bound on how long a revoked
/// certificate still works.
const WATCH: Duration = Duration::from_millis(500);

/// A stream somebody opened, with who did.
pub struct Visit {
    pub peer: Arc<Peer>,
    pub link: Link,
    pub sender: Sender,
    pub receiver: Receiver,
}

/// What a node does with those who come.
pub trait Visitors: Send + Sync + 'static {
    /// Decides whether the peer may open this; called before anything else is read.
    fn admit(&self, peer: &Peer, opening: &Opening) -> Result<(), Refusal>;

    /// Serves a stream that was granted, to its end.
    fn serve(
        self: Arc<Self>,
        opening: Opening,
        visit: Visit,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Serves a stream of somebody who has no certificate yet.
    fn enrol(
        self: Arc<Self>,
        from: SocketAddr,
        sender: Sender,
        receiver: Receiver,
    ) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Somebody was turned away: for the audit log.
    fn turned_away(&self, from: SocketAddr, peer: Option<&Peer>, why: &str);
}

/// Accepts until `stop`; then closes what stands and returns.
pub async fn keep<V: Visitors>(
    endpoint: Endpoint,
    guard: Arc<Guard>,
    visitors: Arc<V>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let knock = tokio::select! {
            () = stop.cancelled() => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            knock = endpoint.accept() => match knock {
                Some(knock) => knock,
                None => break,
            },
        };
        let taken = CONNECTIONS_MAX.saturating_sub(places.available_permits());
        if taken > UNPROVEN_MAX && knock.proven() == Proven::NotYet {
            knock.ask_again();
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(from = %knock.address(), "too many connections; one was refused");
            knock.refuse();
            continue;
        };
        let (guard, visitors, stop) = (Arc::clone(&guard), Arc::clone(&visitors), stop.clone());
        connections.spawn(async move {
            receive(knock, guard, visitors, stop).await;
            drop(place);
        });
    }
    endpoint.close("the node is stopping");
    while connections.join_next().await.is_some() {}
    // Peers that do not answer are not waited for longer than they would wait for us.
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
}

async fn receive<V: Visitors>(
    knock: Knock,
    guard: Arc<Guard>,
    visitors: Arc<V>,
    stop: CancellationToken,
) {
    let from = knock.address();
    let link = match tokio::time::timeout(PATIENCE, knock.enter()).await {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return visitors.turned_away(from, None, &Chain(&error).to_string()),
        Err(_) => return visitors.turned_away(from, None, "the handshake took too long"),
    };
    let alpn = link.alpn().unwrap_or_default();
    match admit(&alpn, Some(&link.certificates())) {
        Ok(Admitted::Enrolling) => {
            let talk = async {
                let (sender, receiver) = link.accept().await?;
                visitors.enrol(from, sender, receiver).await
            };
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, talk).await {
                tracing::debug!(%from, error = %Chain(&error), "an enrolment broke off");
            }
            link.close("done");
        }
        Ok(Admitted::Node(peer)) => {
            link.widen();
            stay(link, Arc::from(peer), guard, visitors, stop).await;
        }
        Err(error) => {
            visitors.turned_away(from, None, &Chain(&error).to_string());
            link.close("who are you?");
        }
    }
}

async fn stay<V: Visitors>(
    link: Link,
    peer: Arc<Peer>,
    guard: Arc<Guard>,
    visitors: Arc<V>,
    stop: CancellationToken,
) {
    let mut streams = JoinSet::new();
    let mut watch = tokio::time::interval(WATCH);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                link.close("the node is stopping");
                break;
            }
            _ = watch.tick() => {
                if let Err(why) = guard.still_welcome(&peer) {
                    visitors.turned_away(link.address(), Some(&peer), why);
                    link.close(why);
                    break;
                }
            }
            _ = streams.join_next(), if !streams.is_empty() => {}
            opened = link.accept() => match opened {
                Ok((sender, receiver)) => {
                    let visit =
                        Visit { peer: Arc::clone(&peer), link: link.clone(), sender, receiver };
                    streams.spawn(attend(visit, Arc::clone(&visitors)));
                }
                Err(error) => {
                    tracing::debug!(peer = %peer.identity, why = %Chain(&error), "left");
                    break;
                }
            },
        }
    }
    // Streams see their connection closed and end; their work may need a moment to put away.
    while streams.join_next().await.is_some() {}
}

async fn attend<V: Visitors>(mut visit: Visit, visitors: Arc<V>) {
    let first = tokio::time::timeout(PATIENCE, visit.receiver.expect::<Opening>()).await;
    let opening = match first {
        Ok(Ok((opening, _))) => opening,
        Ok(Err(error)) => {
            let why = Chain(&error).to_string();
            return visitors.turned_away(visit.link.address(), Some(&visit.peer), &why);
        }
        Err(_) => return,
    };
    let peer = Arc::clone(&visit.peer);
    let served = match visitors.admit(&peer, &opening) {
        Ok(()) => match visit.sender.send(&Opened::Granted).await {
            Ok(()) => visitors.serve(opening, visit).await,
            Err(error) => Err(error),
        },
        Err(refusal) => {
            visitors.turned_away(visit.link.address(), Some(&peer), &refusal.to_string());
            let sent = visit.sender.send(&Opened::Refused(refusal)).await;
            visit.sender.finish();
            visit.sender.delivered().await;
            sent
        }
    };
    if let Err(error) = served {
        tracing::debug!(peer = %peer.identity, error = %Chain(&error), "a stream broke off");
    }
}

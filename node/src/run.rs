//! What running nodes do the same way: end in order when the system says so, and keep their own
//! certificate fresh.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use strongroom_protocol::Chain;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::guard::Guard;

/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(1);

/// How long the socket of a node that ended is waited for, and how long between two looks.
const SOCKET_PATIENCE: Duration = Duration::from_secs(30);
const SOCKET_PAUSE: Duration = Duration::from_millis(20);

/// Waits until a UDP address is free: the socket of a node that ended in this process goes a moment
/// after it, with the last of its connections.
pub async fn until_free(address: SocketAddr) {
    let until = tokio::time::Instant::now() + SOCKET_PATIENCE;
    while UdpSocket::bind(address).is_err() && tokio::time::Instant::now() < until {
        tokio::time::sleep(SOCKET_PAUSE).await;
    }
}

/// Cancels `stop` at SIGTERM or SIGINT.
pub fn stop_on_signal(stop: CancellationToken) {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        match signal(kind) {
            Ok(mut signals) => {
                let stop = stop.clone();
                tokio::task::spawn(async move {
                    signals.recv().await;
                    stop.cancel();
                });
            }
            Err(error) => tracing::error!(%error, "cannot listen for signals"),
        }
    }
}

/// Renews, until `stop`, the certificate of a node that holds its site's authority.
pub async fn renew_own(guard: &Guard, stop: CancellationToken) {
    let mut tick = tokio::time::interval(RENEWAL_CHECK);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if guard.clock().now() < guard.renew_at() {
            continue;
        }
        if let Err(error) = guard.renew_own() {
            tracing::error!(error = %Chain(&error), "renewal failed");
        }
    }
}

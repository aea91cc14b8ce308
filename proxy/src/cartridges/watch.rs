//! Notices cartridges that come back while nobody asks for one, and has the coordinator told of
//! every return, so that what waited for them goes on. Loads nothing: an inventory tells.

use std::sync::Arc;
use std::time::Duration;

use strongroom_node::uplink::Uplink;
use strongroom_protocol::control::FromNode;
use tokio_util::sync::CancellationToken;

use crate::orders::Hands;

/// How often the library is looked at while cartridges are away and the drives are free: a hand
/// that brings some needs longer.
const LOOK: Duration = Duration::from_secs(20);

/// Watches until `stop`.
pub(crate) async fn watch(hands: Arc<Hands>, uplink: Uplink, stop: CancellationToken) {
    let watching = async {
        loop {
            tokio::select! {
                () = hands.cartridges.returned.notified() => uplink.say(FromNode::Returned).await,
                () = tokio::time::sleep(LOOK) => look(&hands).await,
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

async fn look(hands: &Arc<Hands>) {
    if hands.cartridges.known().left.is_empty() {
        return;
    }
    let Ok(library) = hands.library() else { return };
    // Whoever uses the drives looks by himself.
    let Ok(_drives) = hands.drives.try_lock() else { return };
    let (book, now) = (Arc::clone(&hands.cartridges), hands.clock.now());
    let looked = tokio::task::spawn_blocking(move || book.look(&*library, now)).await;
    if let Ok(Err(refusal)) = looked {
        tracing::debug!(%refusal, "the library was not looked at");
    }
}

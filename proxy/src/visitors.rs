//! Who may come to a proxy, and for what: operators of its own site, to look, to restore, and to
//! say what they proved. Orders come only over the uplink from the coordinator; nobody who comes
//! here can delete.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use strongroom_certs::{Peer, TokenBook};
use strongroom_node::audit::AuditLog;
use strongroom_node::door::{Visit, Visitors};
use strongroom_node::guard::Guard;
use strongroom_node::lead::LeadBook;
use strongroom_node::persons::Persons;
use strongroom_node::scrubber::Scrubber;
use strongroom_node::uplink::Uplink;
use strongroom_node::{enrol, serve};
use strongroom_protocol::admin::Request;
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Identity, Role};
use strongroom_store::repo::Repo;

use crate::admin;
use crate::orders::Hands;

/// What the proxy shows to those who come.
pub(crate) struct Site {
    pub(crate) repo: Repo,
    pub(crate) hands: Arc<Hands>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) book: Arc<TokenBook>,
    pub(crate) scrubber: Arc<Scrubber>,
    pub(crate) lead: Arc<LeadBook>,
    pub(crate) persons: Persons,
    pub(crate) audit: AuditLog,
    /// What tokens tell new operators to dial.
    pub(crate) address: String,
    /// Known once the coordinator is dialled.
    pub(crate) uplink: OnceLock<Uplink>,
}

impl Site {
    /// Whether the coordinator is connected at this moment.
    pub(crate) fn coordinator_is_here(&self) -> bool {
        self.uplink.get().is_some_and(Uplink::is_connected)
    }
}

impl Visitors for Site {
    fn admit(&self, peer: &Peer, opening: &Opening) -> Result<(), Refusal> {
        let own_site = peer.identity.site == self.guard.me().identity.site;
        match (opening, peer.identity.role) {
            (Opening::Admin | Opening::Fetch { .. }, Role::Operator) if own_site => Ok(()),
            _ => {
                let text = format!(
                    "{} has no business here: a proxy serves operators of its own site",
                    peer.identity
                );
                Err(Refusal::new(RefusalKind::Forbidden, text))
            }
        }
    }

    async fn serve(self: Arc<Self>, opening: Opening, mut visit: Visit) -> Result<(), LinkError> {
        match opening {
            Opening::Fetch { point, .. } => {
                let _bulk = visit.link.bulk();
                let session = self.repo.session();
                let repo = session.clone();
                let body =
                    tokio::task::spawn_blocking(move || serve::manifest_body(&repo, point)).await;
                match body {
                    Ok(Ok(body)) => {
                        serve::serve(&session, body, visit.sender, visit.receiver).await
                    }
                    Ok(Err(refusal)) => serve::refuse(visit.sender, refusal).await,
                    Err(_) => Ok(()),
                }
            }
            Opening::Admin => {
                let (request, _) = visit.receiver.expect::<Request>().await?;
                let by = visit.peer.identity.clone();
                let response = admin::answer(&self, request, by).await;
                visit.sender.send(&response).await?;
                visit.sender.finish();
                visit.sender.delivered().await;
                Ok(())
            }
            Opening::Control
            | Opening::Heal { .. }
            | Opening::Ingest { .. }
            | Opening::Packs
            | Opening::Reseed => Ok(()),
        }
    }

    async fn enrol(
        self: Arc<Self>,
        from: SocketAddr,
        sender: Sender,
        receiver: Receiver,
    ) -> Result<(), LinkError> {
        let note = |outcome: &Result<Identity, Refusal>| match outcome {
            Ok(identity) => {
                tracing::info!(%from, %identity, "enrolled");
                let who = identity.to_string();
                // That it could not be written was said.
                let _ = self.record(&who, "enrol", &who, &from.to_string());
            }
            Err(refusal) => tracing::warn!(%from, %refusal, "an enrolment was refused"),
        };
        enrol::answer(&self.guard, &self.book, sender, receiver, note).await
    }

    fn turned_away(&self, from: SocketAddr, peer: Option<&Peer>, why: &str) {
        let peer = peer.map_or_else(|| "a stranger".to_owned(), |peer| peer.identity.to_string());
        tracing::warn!(%from, %peer, %why, "turned away");
    }
}

//! Who may come to a coordinator, and for what. The role in the certificate decides which
//! streams a peer may open; what it may do on them is decided where they are served.

use std::net::SocketAddr;
use std::sync::Arc;

use strongroom_certs::Peer;
use strongroom_node::door::{Visit, Visitors};
use strongroom_node::uplink::revoked_identities;
use strongroom_node::{enrol, packs, serve};
use strongroom_protocol::admin::Request;
use strongroom_protocol::control::{ToNode, Welcome};
use strongroom_protocol::data::ToAgent;
use strongroom_protocol::link::{LinkError, Receiver, Sender};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Generation, Identity, JobId, NodeName, PointId, Role};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::commit::{Committed, Uncommitted, Whose};
use crate::foreman::{ForemanDesk, News};
use crate::ingest::IngestError;
use crate::scrub::HealStream;
use crate::sessions::{Heard, converse};
use crate::site::Site;
use crate::strangers::Strangers;
use crate::{admin, commit, ingest, lead, space};

/// News of a node waiting for the foreman.
const HEARD_MAX: usize = 256;

/// Ingest streams at once: each holds a thread that inserts; the others wait their turn.
pub(crate) const STREAMS_MAX: usize = 64;

/// The coordinator as its visitors meet it.
pub(crate) struct Reception {
    pub(crate) site: Arc<Site>,
    pub(crate) foreman: ForemanDesk,
    /// Places of ingest streams.
    pub(crate) streams: Semaphore,
    pub(crate) strangers: Strangers,
}

fn forbidden(text: String) -> Refusal {
    Refusal::new(RefusalKind::Forbidden, text)
}

impl Visitors for Reception {
    fn admit(&self, peer: &Peer, opening: &Opening) -> Result<(), Refusal> {
        let own_site = peer.identity.site == self.site.guard.me().identity.site;
        let allowed = match (opening, peer.identity.role) {
            (Opening::Control | Opening::Ingest { .. }, Role::Agent)
            | (Opening::Admin, Role::Operator)
            | (Opening::Fetch { grant: None, .. }, Role::Operator)
            | (Opening::Fetch { grant: Some(_), .. }, Role::Agent) => own_site,
            (
                Opening::Control | Opening::Heal { .. } | Opening::Packs | Opening::Reseed,
                Role::Proxy,
            ) => {
                return match admin::is_known_proxy(&self.site, &peer.identity) {
                    true if *opening == Opening::Reseed => lead::may_be_brought_up(&self.site),
                    true => Ok(()),
                    false => Err(forbidden(format!(
                        "{} is not known here: introduce it with a token of this coordinator",
                        peer.identity
                    ))),
                };
            }
            _ => false,
        };
        match allowed {
            true => Ok(()),
            false => Err(forbidden(format!("{} may not do this here", peer.identity))),
        }
    }

    async fn serve(self: Arc<Self>, opening: Opening, visit: Visit) -> Result<(), LinkError> {
        match opening {
            Opening::Control => self.control(visit).await,
            Opening::Ingest { job, generation } => self.ingest(job, generation, visit).await,
            Opening::Fetch { point, grant } => {
                let _bulk = visit.link.bulk();
                self.fetch(point, grant, visit).await
            }
            Opening::Packs => {
                let _bulk = visit.link.bulk();
                let Visit { mut sender, mut receiver, .. } = visit;
                packs::give(&self.site.repo, &mut sender, &mut receiver).await.map(drop)
            }
            Opening::Heal { job } => {
                let _bulk = visit.link.bulk();
                self.heal(job, visit).await
            }
            Opening::Admin => self.admin(visit).await,
            Opening::Reseed => {
                let _bulk = visit.link.bulk();
                lead::be_brought_up(&self.site, visit).await
            }
        }
    }

    async fn enrol(
        self: Arc<Self>,
        from: SocketAddr,
        sender: Sender,
        receiver: Receiver,
    ) -> Result<(), LinkError> {
        let site = &self.site;
        let note = |outcome: &Result<Identity, Refusal>| match outcome {
            Ok(identity) => {
                if identity.role == Role::Proxy {
                    admin::make_known(site, identity);
                }
                let who = identity.to_string();
                site.record(&who, "enrol", &who, &from.to_string());
            }
            Err(refusal) => {
                site.record(&from.to_string(), "enrol.refused", "token", &refusal.to_string());
            }
        };
        enrol::answer(&site.guard, &site.book, sender, receiver, note).await
    }

    fn turned_away(&self, from: SocketAddr, peer: Option<&Peer>, why: &str) {
        let peer = peer.map_or_else(|| "a stranger".to_owned(), |peer| peer.identity.to_string());
        tracing::warn!(%from, %peer, %why, "turned away");
        if let Some(unheard) = self.strangers.heed(self.site.now()) {
            let why = match unheard {
                0 => why.to_owned(),
                more => format!("{why} (and {more} more since the last record)"),
            };
            self.site.record(&peer, "turned-away", &from.to_string(), &why);
        }
    }
}

impl Reception {
    async fn control(&self, visit: Visit) -> Result<(), LinkError> {
        let site = &self.site;
        let naming = match visit.peer.identity.role {
            Role::Agent => serve::naming(&site.repo).ok(),
            _ => None,
        };
        let welcome = Welcome { repo: site.repo.id(), now: site.now(), naming };
        let mut greeting = vec![
            revoked_identities(&site.guard.revocations().list()),
            ToNode::Lead(site.lead.lead()),
        ];
        if visit.peer.identity.role == Role::Proxy {
            greeting.extend(admin::policy_for_proxies(site));
        }
        let (heard, mut hearing) = mpsc::channel::<Heard>(HEARD_MAX);
        let foreman = self.foreman.clone();
        let passing_on = async move {
            while let Some(heard) = hearing.recv().await {
                foreman.tell(News::Heard(heard)).await;
            }
        };
        let renew = |peer: &Peer, csr: &[u8]| site.guard.renew(peer, csr);
        let (from, peer) = (visit.link.address(), Arc::clone(&visit.peer));
        let talking = async {
            let talked = converse(&site.sessions, welcome, greeting, renew, &heard, visit).await;
            drop(heard);
            talked
        };
        let (talked, ()) = tokio::join!(talking, passing_on);
        if let Some(refusal) = talked? {
            self.turned_away(from, Some(&peer), &refusal.to_string());
        }
        Ok(())
    }

    async fn ingest(
        &self,
        job: JobId,
        generation: Generation,
        mut visit: Visit,
    ) -> Result<(), LinkError> {
        let node: NodeName = visit.peer.identity.name.clone();
        let ask = |reply| News::Ingest { job, generation, node, reply };
        let answered = tokio::select! {
            answered = self.foreman.ask(ask) => answered,
            // Whoever waited for its turn is gone, or the node is stopping.
            gone = visit.link.closed() => return Err(gone),
        };
        let plan = match answered {
            Ok(plan) => plan,
            Err(refusal) => {
                self.turned_away(visit.link.address(), Some(&visit.peer), &refusal.to_string());
                return refuse(&mut visit.sender, refusal, Vec::new()).await;
            }
        };
        let (Ok(_place), _bulk) = (self.streams.acquire().await, visit.link.bulk()) else {
            return Ok(());
        };
        if let Err(refusal) = space::room(&self.site) {
            return refuse(&mut visit.sender, refusal, Vec::new()).await;
        }
        // Until the point is committed, nothing goes that the agent was told is here.
        let session = self.site.repo.session();
        let received = ingest::receive(&session, &mut visit.sender, &mut visit.receiver).await;
        let received = match received {
            Ok(received) => received,
            Err(IngestError::Link(error)) => return Err(error),
            Err(IngestError::Refused { refusal, lacking }) => {
                return refuse(&mut visit.sender, refusal, lacking).await;
            }
            Err(IngestError::Worker) => {
                let refusal = Refusal::new(RefusalKind::Internal, "a worker died");
                return refuse(&mut visit.sender, refusal, Vec::new()).await;
            }
        };
        let may = self.foreman.ask(|reply| News::Streamed { job, generation, reply }).await;
        if let Err(refusal) = may {
            return refuse(&mut visit.sender, refusal, Vec::new()).await;
        }
        let (site, point) = (Arc::clone(&self.site), plan.point);
        let committing =
            tokio::task::spawn_blocking(move || commit::commit(&site, &plan, &received)).await;
        let outcome = committing.unwrap_or_else(|_| {
            Err(Uncommitted::of(Refusal::new(RefusalKind::Internal, "a worker died")))
        });
        let told = outcome.as_ref().map(|committed| committed.gaps);
        let told = told.map_err(|uncommitted| uncommitted.refusal.clone());
        self.foreman.tell(News::Committed { job, generation, outcome: told }).await;
        match outcome {
            Ok(Committed { whose: Whose::ThisAttempt, .. }) => {
                visit.sender.send(&ToAgent::Committed { point }).await?;
                visit.sender.finish();
                visit.sender.delivered().await;
                Ok(())
            }
            Ok(Committed { whose: Whose::Earlier, .. }) => {
                let text = "an earlier attempt of the job has made the point";
                let refusal = Refusal::new(RefusalKind::Stale, text);
                refuse(&mut visit.sender, refusal, Vec::new()).await
            }
            Err(Uncommitted { refusal, lacking }) => {
                refuse(&mut visit.sender, refusal, lacking).await
            }
        }
    }

    async fn fetch(
        &self,
        point: PointId,
        grant: Option<JobId>,
        visit: Visit,
    ) -> Result<(), LinkError> {
        if let Some(job) = grant {
            let node = visit.peer.identity.name.clone();
            let ask = |reply| News::Granted { job, node, point, reply };
            if let Err(refusal) = self.foreman.ask(ask).await {
                self.turned_away(visit.link.address(), Some(&visit.peer), &refusal.to_string());
                return serve::refuse(visit.sender, refusal).await;
            }
        }
        let session = self.site.repo.session();
        let repo = session.clone();
        let body = tokio::task::spawn_blocking(move || serve::manifest_body(&repo, point)).await;
        let body =
            body.unwrap_or_else(|_| Err(Refusal::new(RefusalKind::Internal, "a worker died")));
        match body {
            Ok(body) => serve::serve(&session, body, visit.sender, visit.receiver).await,
            Err(refusal) => serve::refuse(visit.sender, refusal).await,
        }
    }

    /// Hands a stream that a proxy was ordered to open to whoever asks on it.
    async fn heal(&self, job: JobId, visit: Visit) -> Result<(), LinkError> {
        match self.site.expected.take(job, &visit.peer.identity) {
            Ok(wanted) => {
                let (sender, receiver) = (visit.sender, visit.receiver);
                let (done, ended) = oneshot::channel();
                // Whoever waited may have given up: the stream is dropped then.
                let _ = wanted.send(HealStream { sender, receiver, done });
                let _ = ended.await;
                Ok(())
            }
            Err(refusal) => {
                self.turned_away(visit.link.address(), Some(&visit.peer), &refusal.to_string());
                Ok(())
            }
        }
    }

    async fn admin(&self, mut visit: Visit) -> Result<(), LinkError> {
        let (request, _) = visit.receiver.expect::<Request>().await?;
        let by = visit.peer.identity.clone();
        let response = admin::answer(&self.site, &self.foreman, request, by).await;
        visit.sender.send(&response).await?;
        visit.sender.finish();
        visit.sender.delivered().await;
        Ok(())
    }
}

async fn refuse(
    sender: &mut Sender,
    refusal: Refusal,
    lacking: Vec<strongroom_protocol::Reference>,
) -> Result<(), LinkError> {
    tracing::warn!(%refusal, "a stream was refused");
    sender.send(&ToAgent::Refused { refusal, lacking }).await?;
    sender.finish();
    sender.delivered().await;
    Ok(())
}

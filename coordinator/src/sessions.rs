//! Who is connected: one conversation a node. The registry is the only shared map; the
//! conversation itself is a task of its own. A second host that shows the identity of one
//! that is connected is refused; the same host that comes back takes its old place.

use std::sync::Arc;

use dashmap::DashMap;
use strongroom_certs::Peer;
use strongroom_node::door::Visit;
use strongroom_protocol::control::{FromNode, ToNode, Welcome, Work};
use strongroom_protocol::frame::FrameError;
use strongroom_protocol::link::{Link, LinkError};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Generation, Identity, JobId, NodeName, Role};
use tokio::sync::mpsc;

use crate::ability::lacking;

/// Messages waiting for a node.
const UNSENT_MAX: usize = 64;

/// A connected node.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) identity: Identity,
    pub(crate) host: String,
    pub(crate) software: String,
    pub(crate) peer: Arc<Peer>,
    say: mpsc::Sender<ToNode>,
    link: Link,
}

impl Session {
    /// Says something; false when the node does not keep up.
    pub(crate) fn say(&self, message: ToNode) -> bool {
        self.say.try_send(message).is_ok()
    }

    /// Ends the connection.
    pub(crate) fn close(&self, why: &str) {
        self.link.close(why);
    }

    fn place(&self) -> (Role, NodeName) {
        (self.identity.role, self.identity.name.clone())
    }
}

/// What a conversation tells the rest of the coordinator.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A node is here, with what it is still doing.
    Came { session: Session, live: Vec<(JobId, Generation)> },
    /// It said something about an assignment.
    Said { identity: Identity, message: FromNode },
    /// It is gone.
    Left { identity: Identity },
}

/// The registry of connected nodes.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// By role too: an agent that bears a proxy's name is not the proxy.
    live: DashMap<(Role, NodeName), Session>,
}

impl Sessions {
    fn of(&self, role: Role, node: &NodeName) -> Option<Session> {
        self.live.get(&(role, node.clone())).map(|session| session.clone())
    }

    /// The agent's session, if it is connected.
    pub(crate) fn agent(&self, node: &NodeName) -> Option<Session> {
        self.of(Role::Agent, node)
    }

    /// The proxy's session, if it is connected.
    pub(crate) fn proxy(&self, node: &NodeName) -> Option<Session> {
        self.of(Role::Proxy, node)
    }

    /// Everybody who is connected.
    pub(crate) fn all(&self) -> Vec<Session> {
        let mut all: Vec<Session> = self.live.iter().map(|entry| entry.value().clone()).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }

    /// Says something to an agent; false when it is not connected or does not keep up.
    pub(crate) fn say_agent(&self, node: &NodeName, message: ToNode) -> bool {
        self.agent(node).is_some_and(|session| session.say(message))
    }

    /// Orders a proxy to do something.
    ///
    /// # Errors
    /// Why it cannot be ordered to, for people: not now, or not with the software it runs.
    pub(crate) fn order_proxy(
        &self,
        node: &NodeName,
        job: JobId,
        work: Work,
    ) -> Result<(), String> {
        let session = self.proxy(node).ok_or("the node is not connected")?;
        if let Some(why) = lacking(&session.software, &work) {
            return Err(format!("{node}: {why}"));
        }
        let assign = ToNode::Assign { job, generation: Generation(1), work };
        session.say(assign).then_some(()).ok_or_else(|| format!("{node} does not keep up"))
    }

    fn enter(&self, session: &Session) -> Result<(), Refusal> {
        if let Some(present) = self.of(session.identity.role, &session.identity.name) {
            if present.link.ended().is_none() && present.host != session.host {
                let text = format!(
                    "{} is connected from {} already; each host enrols under a name of its own",
                    session.identity, present.host
                );
                return Err(Refusal::new(RefusalKind::Stale, text));
            }
            present.link.close("replaced by a newer connection of the same host");
        }
        self.live.insert(session.place(), session.clone());
        Ok(())
    }

    fn leave(&self, session: &Session) -> bool {
        let same = |_: &(Role, NodeName), present: &Session| present.say.same_channel(&session.say);
        self.live.remove_if(&session.place(), same).is_some()
    }
}

/// Holds the conversation of one control stream to its end; returns why the node was refused,
/// if it was.
pub(crate) async fn converse(
    sessions: &Sessions,
    welcome: Welcome,
    greeting: Vec<ToNode>,
    renew: impl Fn(&Peer, &[u8]) -> Result<Vec<Vec<u8>>, String> + Send + Sync,
    heard: &mpsc::Sender<Heard>,
    visit: Visit,
) -> Result<Option<Refusal>, LinkError> {
    let Visit { peer, link, mut sender, mut receiver } = visit;
    let (message, _) = receiver.expect::<FromNode>().await?;
    let FromNode::Hello { software, host, live } = message else {
        return Ok(None);
    };
    let (say, mut unsent) = mpsc::channel(UNSENT_MAX);
    let identity = peer.identity.clone();
    let session = Session { identity, host, software, peer: Arc::clone(&peer), say, link };
    if let Err(refusal) = sessions.enter(&session) {
        sender.send(&ToNode::Refused(refusal.clone())).await?;
        sender.finish();
        sender.delivered().await;
        return Ok(Some(refusal));
    }
    let who = session.identity.clone();
    let talk = async {
        sender.send(&ToNode::Welcome(welcome)).await?;
        for message in &greeting {
            sender.send(message).await?;
        }
        tell(heard, Heard::Came { session: session.clone(), live }).await;
        loop {
            tokio::select! {
                frame = receiver.frame() => match frame?.map(|frame| frame.message()) {
                    None => return Ok(()),
                    // Of a later version: what it tells is lost, and nothing else is.
                    Some(Err(error @ FrameError::Unsupported { .. })) => {
                        tracing::warn!(node = %who, error = %Chain(&error), "passed over");
                    }
                    Some(Err(error)) => return Err(error.into()),
                    Some(Ok(FromNode::Renew { csr })) => {
                        let answer = match renew(&peer, &csr) {
                            Ok(chain) => ToNode::Renewed { chain },
                            Err(why) => ToNode::Refused(Refusal::new(RefusalKind::Invalid, why)),
                        };
                        sender.send(&answer).await?;
                    }
                    Some(Ok(message)) => {
                        tell(heard, Heard::Said { identity: who.clone(), message }).await;
                    }
                },
                unsent = unsent.recv() => match unsent {
                    Some(message) => sender.send(&message).await?,
                    None => return Ok(()),
                },
            }
        }
    };
    let ended = talk.await;
    if sessions.leave(&session) {
        tell(heard, Heard::Left { identity: session.identity.clone() }).await;
    }
    ended.map(|()| None)
}

async fn tell(heard: &mpsc::Sender<Heard>, news: Heard) {
    // Fails only when the coordinator is stopping.
    let _ = heard.send(news).await;
}

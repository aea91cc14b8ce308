//! Staying in touch with the coordinator: dial, say hello, pass messages both ways, renew the
//! certificate in time, dial again with jittered back-off. Work that needs the link waits for it
//! here; nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use strongroom_certs::{Enrolment, Expect, RevokedList};
use strongroom_protocol::control::{FromNode, ToNode, Welcome};
use strongroom_protocol::link::{Backoff, Endpoint, Link, LinkError};
use strongroom_protocol::opening::Opening;
use strongroom_protocol::{Chain, Generation, JobId, Role, SiteName};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::ask::{AskError, open};
use crate::enrol::{resolve, unspecified};
use crate::guard::Guard;

/// Messages waiting for the wire; progress is dropped when they are many.
const UNSAID: usize = 256;
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(1);

/// The version of this software, as nodes tell it.
pub const SOFTWARE: &str = env!("CARGO_PKG_VERSION");

/// A standing connection to the coordinator.
#[derive(Clone, Debug)]
pub struct Contact {
    pub link: Link,
    pub welcome: Welcome,
}

/// Where and how to dial.
pub struct Course {
    pub guard: Arc<Guard>,
    /// `host:port` of the coordinator.
    pub coordinator: String,
    pub coordinator_site: SiteName,
    /// Tells this host from another that copied its files.
    pub host: String,
    /// What is being done here, asked at every hello.
    pub live: Arc<dyn Fn() -> Vec<(JobId, Generation)> + Send + Sync>,
}

/// A cheap handle for whoever talks to the coordinator.
#[derive(Clone, Debug)]
pub struct Uplink {
    say: mpsc::Sender<FromNode>,
    contact: watch::Receiver<Option<Contact>>,
}

impl Uplink {
    /// Starts dialling; what the coordinator says arrives at `heard`.
    pub fn start(
        course: Course,
        heard: mpsc::Sender<ToNode>,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (say, unsaid) = mpsc::channel(UNSAID);
        let (contact_now, contact) = watch::channel(None);
        let task = tokio::task::spawn(async move {
            let talk = stay_connected(course, unsaid, heard, &contact_now);
            stop.run_until_cancelled(talk).await;
        });
        (Self { say, contact }, task)
    }

    /// The connection, as soon as there is one; `None` when the node is stopping.
    pub async fn contact(&self) -> Option<Contact> {
        let mut contact = self.contact.clone();
        let found = contact.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    /// Says something, when it can be said.
    pub async fn say(&self, message: FromNode) {
        // Fails only when the node is stopping: nobody listens then.
        let _ = self.say.send(message).await;
    }

    /// Says something only if that costs no wait: for progress.
    pub fn mention(&self, message: FromNode) {
        let _ = self.say.try_send(message);
    }
}

async fn stay_connected(
    course: Course,
    mut unsaid: mpsc::Receiver<FromNode>,
    heard: mpsc::Sender<ToNode>,
    contact: &watch::Sender<Option<Contact>>,
) {
    let seed = blake3_seed(&course.host);
    let mut backoff = Backoff::new(seed);
    let mut last = String::new();
    loop {
        match connect(&course).await {
            Ok((talk, welcome)) => {
                tracing::info!(coordinator = %course.coordinator, "connected");
                backoff.reset();
                last.clear();
                contact.send_replace(Some(Contact { link: talk.link.clone(), welcome }));
                let ended = converse(&course, talk, &mut unsaid, &heard).await;
                contact.send_replace(None);
                tracing::warn!(why = %ended, "connection to the coordinator lost");
            }
            Err(why) => {
                if why != last {
                    tracing::warn!(coordinator = %course.coordinator, %why, "cannot connect");
                    last = why;
                }
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

fn blake3_seed(text: &str) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Any spread will do; RandomState is seeded by the system.
    RandomState::new().hash_one(text)
}

struct Talk {
    link: Link,
    sender: strongroom_protocol::link::Sender,
    receiver: strongroom_protocol::link::Receiver,
}

async fn connect(course: &Course) -> Result<(Talk, Welcome), String> {
    let address = resolve(&course.coordinator).await.map_err(|error| Chain(&error).to_string())?;
    let said = |error: LinkError| Chain(&error).to_string();
    let expect =
        Expect { role: Some(Role::Coordinator), site: Some(course.coordinator_site.clone()) };
    let tls = course.guard.client_tls(expect).map_err(|error| Chain(&error).to_string())?;
    let endpoint = Endpoint::bind(unspecified(address), None).map_err(said)?;
    let link = endpoint.dial(address, tls).await.map_err(said)?;
    let opened = open(&link, Opening::Control).await;
    let (mut sender, mut receiver) = opened.map_err(|error: AskError| Chain(&error).to_string())?;
    let hello = FromNode::Hello {
        software: SOFTWARE.to_owned(),
        host: course.host.clone(),
        live: (course.live)(),
    };
    sender.send(&hello).await.map_err(said)?;
    match receiver.expect::<ToNode>().await.map_err(said)?.0 {
        ToNode::Welcome(welcome) => Ok((Talk { link, sender, receiver }, welcome)),
        ToNode::Refused(refusal) => Err(refusal.to_string()),
        _ => Err("the coordinator did not answer the hello".to_owned()),
    }
}

async fn converse(
    course: &Course,
    talk: Talk,
    unsaid: &mut mpsc::Receiver<FromNode>,
    heard: &mpsc::Sender<ToNode>,
) -> String {
    let Talk { link, mut sender, mut receiver } = talk;
    let mut look = tokio::time::interval(RENEWAL_CHECK);
    let mut renewal: Option<Enrolment> = None;
    loop {
        let sent = tokio::select! {
            message = receiver.next::<ToNode>() => match message {
                Ok(Some((message, _))) => {
                    hear(course, message, &mut renewal, heard).await;
                    continue;
                }
                Ok(None) => return "the coordinator ended the conversation".to_owned(),
                Err(error) => return Chain(&error).to_string(),
            },
            said = unsaid.recv() => match said {
                Some(message) => sender.send(&message).await,
                None => return "the node is stopping".to_owned(),
            },
            _ = look.tick() => {
                let due = course.guard.clock().now() >= course.guard.renew_at();
                if !due || renewal.is_some() {
                    continue;
                }
                match Enrolment::begin(&course.guard.me().identity) {
                    Ok(asked) => {
                        let csr = asked.request_der().to_vec();
                        renewal = Some(asked);
                        sender.send(&FromNode::Renew { csr }).await
                    }
                    Err(error) => {
                        tracing::error!(error = %Chain(&error), "cannot make a renewal request");
                        continue;
                    }
                }
            }
        };
        if let Err(error) = sent {
            link.close("broken off");
            return Chain(&error).to_string();
        }
    }
}

async fn hear(
    course: &Course,
    message: ToNode,
    renewal: &mut Option<Enrolment>,
    heard: &mpsc::Sender<ToNode>,
) {
    match message {
        ToNode::Renewed { chain } => {
            let Some(asked) = renewal.take() else { return };
            match course.guard.install_renewed(asked, chain) {
                Ok(()) => tracing::info!("certificate renewed"),
                Err(error) => tracing::error!(error = %Chain(&error), "renewal failed"),
            }
        }
        ToNode::Revoked { revoked } => {
            if let Err(error) = course.guard.take_revoked(revoked) {
                tracing::error!(error = %Chain(&error), "revocations were not kept");
            }
        }
        other => {
            // Fails only when the node is stopping.
            let _ = heard.send(other).await;
        }
    }
}

/// What was revoked, as it is pushed.
pub fn revoked_identities(list: &RevokedList) -> ToNode {
    ToNode::Revoked { revoked: list.identities.clone() }
}

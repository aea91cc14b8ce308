//! Staying in touch with the coordinator: dial, say hello, pass messages both ways, renew the
//! certificate in time, dial again with jittered back-off. Work that needs the link waits for it
//! here; nothing is decided here.

use std::sync::Arc;
use std::time::Duration;

use strongroom_certs::{Enrolment, Expect, RevokedList};
use strongroom_protocol::control::{Ending, FromNode, RetryAdvice, ToNode, Welcome, unknown_work};
use strongroom_protocol::frame::{FrameError, decode};
use strongroom_protocol::link::{Backoff, Endpoint, Link, LinkError};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Chain, Generation, JobId, Role, SiteName, Term, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::ask::{AskError, open};
use crate::enrol::{resolve, unspecified};
use crate::fence::{Fence, Passed};
use crate::guard::Guard;
use crate::lead::LeadBook;

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
    /// Who leads, as far as this node knows.
    pub lead: Arc<LeadBook>,
    /// Told once a connection of a coordinator that is not obeyed, and why.
    pub fenced: Arc<dyn Fn(&Refusal) + Send + Sync>,
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

    /// Whether there is one at this moment.
    pub fn is_connected(&self) -> bool {
        self.contact.borrow().is_some()
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
    /// When the certificate ends that the connection was begun with.
    until: Timestamp,
    link: Link,
    sender: strongroom_protocol::link::Sender,
    receiver: strongroom_protocol::link::Receiver,
}

async fn connect(course: &Course) -> Result<(Talk, Welcome), String> {
    let until = course.guard.me().not_after;
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
    let lead = course.lead.lead();
    if lead.term > Term::FIRST {
        sender.send(&FromNode::Lead(lead)).await.map_err(said)?;
    }
    match receiver.expect::<ToNode>().await.map_err(said)?.0 {
        ToNode::Welcome(welcome) => Ok((Talk { until, link, sender, receiver }, welcome)),
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
    let Talk { until, link, mut sender, mut receiver } = talk;
    let mut look = tokio::time::interval(RENEWAL_CHECK);
    let mut renewal: Option<Enrolment> = None;
    let (book, site) = (Arc::clone(&course.lead), course.coordinator_site.clone());
    let mut fence = Fence::new(book, site, Arc::clone(&course.fenced));
    loop {
        let sent = tokio::select! {
            frame = receiver.frame() => match frame {
                Ok(Some(frame)) => match understand(&frame.header) {
                    Ok(Order::Known(message)) => match fence.pass(message) {
                        Passed::On(message) => {
                            hear(course, message, &mut renewal, heard).await;
                            continue;
                        }
                        Passed::Over => continue,
                        Passed::Answered(answer) => sender.send(&answer).await,
                    },
                    Ok(Order::Declined(answer)) => sender.send(&answer).await,
                    Ok(Order::Unknown) => continue,
                    Err(error) => return Chain(&error).to_string(),
                },
                Ok(None) => return "the coordinator ended the conversation".to_owned(),
                Err(error) => return Chain(&error).to_string(),
            },
            said = unsaid.recv() => match said {
                Some(message) => sender.send(&message).await,
                None => return "the node is stopping".to_owned(),
            },
            _ = look.tick() => {
                if outlived(course, until) {
                    link.close("it comes back with a younger certificate");
                    return "this node comes back with its younger certificate".to_owned();
                }
                let due = course.guard.clock().now() >= course.guard.renew_at();
                if !due || renewal.is_some() || course.guard.authority().is_some() {
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

/// Whether to dial again while nothing is under way: who holds its site's authority renews
/// itself, and the coordinator counts a connection by the certificate that it was begun with.
fn outlived(course: &Course, until: Timestamp) -> bool {
    let guard = &course.guard;
    guard.authority().is_some() && guard.me().not_after != until && (course.live)().is_empty()
}

/// A message of the coordinator.
enum Order {
    /// Work that this software does not know, and the answer that it will not be done.
    Declined(FromNode),
    Known(ToNode),
    /// A message of a later version, that asks for no answer.
    Unknown,
}

/// What of a later version is not known here costs itself, not the conversation.
fn understand(header: &[u8]) -> Result<Order, FrameError> {
    let error = match decode::<ToNode>(header) {
        Ok(message) => return Ok(Order::Known(message)),
        Err(error) => error,
    };
    let why = Chain(&error).to_string();
    if let Some((job, generation)) = unknown_work(header) {
        tracing::warn!(%job, %why, "an order of a kind that is not known here was declined");
        let text = format!("software {SOFTWARE} does not know this kind of work: update it");
        let refusal = Refusal::new(RefusalKind::Invalid, text);
        let ending = Ending::Failed { refusal, retry: RetryAdvice::Pointless };
        return Ok(Order::Declined(FromNode::Ended { job, generation, ending }));
    }
    match error {
        FrameError::Unsupported { .. } => {
            tracing::warn!(%why, "a message that is not known here was passed over");
            Ok(Order::Unknown)
        }
        error => Err(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_says_costs_itself_and_not_the_conversation() {
        let (job, generation) = (JobId::from_bytes([7; 16]), Generation(3));
        let work_to_come = postcard::to_stdvec(&(1_u32, job, generation, 99_u32, "more")).unwrap();
        let Ok(Order::Declined(answer)) = understand(&work_to_come) else { panic!("not declined") };
        let FromNode::Ended { job: of, ending: Ending::Failed { refusal, .. }, .. } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((of, refusal.kind), (job, RefusalKind::Invalid));
        let message_to_come = postcard::to_stdvec(&(99_u32, "more")).unwrap();
        assert!(matches!(understand(&message_to_come), Ok(Order::Unknown)));
        let known = postcard::to_stdvec(&ToNode::Cancel { job }).unwrap();
        assert!(matches!(understand(&known), Ok(Order::Known(ToNode::Cancel { .. }))));
        assert!(understand(&known[..known.len() - 1]).is_err(), "what is cut is no message");
    }
}

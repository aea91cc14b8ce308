//! What scrubbing leads to at the coordinator: what is hurt here is asked of a proxy that is
//! connected, over a stream that the proxy opens by order; what could not be healed costs the
//! points their primary copy in the ledger, with an alarm that names them. What a proxy tells
//! of its own scrubbing is booked here too. Copies are only ever found lost or made whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strongroom_node::heal::{Healed, Wanted, heal, retire};
use strongroom_node::inspect;
use strongroom_node::scrubber::{Mender, sentence};
use strongroom_protocol::control::{ScrubNews, Work};
use strongroom_protocol::link::{Receiver, Sender};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Identity, JobId, NodeName, PackId, PointId, Role};
use strongroom_store::repo::{Repo, Subject};
use tokio::sync::{Mutex, oneshot};
use tokio_util::sync::CancellationToken;

use crate::catalog::{CatalogError, CopyEvent};
use crate::foreman::{ForemanDesk, News};
use crate::policy::{CopyKind, PRIMARY};
use crate::retention::{CopyState, Proof, ProofLevel};
use crate::site::Site;

/// How long a proxy may take to open the stream it was ordered to open.
const STREAM_WAIT: Duration = Duration::from_secs(30);
/// Hurt points and files named in one alarm; the rest are counted.
const NAMED_MAX: usize = 20;
/// Packs or points asked for in one order: the order must fit into a header.
const ORDERED_MAX: usize = 8192;

/// A stream that a proxy opened, and how it is told that it may close.
pub(crate) struct HealStream {
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// Dropped when the stream is not needed any more.
    pub(crate) done: oneshot::Sender<()>,
}

/// Streams that were ordered and have not come yet.
#[derive(Default)]
pub(crate) struct Expected {
    orders: std::sync::Mutex<BTreeMap<JobId, (NodeName, oneshot::Sender<HealStream>)>>,
}

impl Expected {
    fn orders(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<JobId, (NodeName, oneshot::Sender<HealStream>)>> {
        self.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The way to whoever waits for the stream; refused to all but the proxy that was ordered.
    pub(crate) fn take(
        &self,
        job: JobId,
        from: &Identity,
    ) -> Result<oneshot::Sender<HealStream>, Refusal> {
        let mut orders = self.orders();
        let is_theirs = orders.get(&job).is_some_and(|(node, _)| *node == from.name);
        match is_theirs.then(|| orders.remove(&job)).flatten() {
            Some((_, wanted)) => Ok(wanted),
            None => {
                let text = format!("no healing {} was ordered from {from}", job.short());
                Err(Refusal::new(RefusalKind::Stale, text))
            }
        }
    }
}

/// The coordinator as its scrubber's mender.
pub(crate) struct SiteMender {
    pub(crate) site: Arc<Site>,
    pub(crate) foreman: ForemanDesk,
    pub(crate) stop: CancellationToken,
    /// What is in the audit log as found and is hurt still.
    pub(crate) known: Mutex<BTreeMap<Subject, String>>,
}

impl Mender for SiteMender {
    async fn mend(&self) {
        let mut known = self.known.lock().await;
        let site = Arc::clone(&self.site);
        let looked = tokio::task::spawn_blocking(move || damage(&site)).await;
        let Ok(Ok(before)) = looked else { return };
        if before.is_empty() && known.is_empty() {
            return;
        }
        let found: Vec<String> =
            before.hurt.iter().filter(|(of, _)| !known.contains_key(*of)).map(sentence).collect();
        for line in &found {
            self.site.record("scrub", "scrub.found", "primary", line);
        }
        let asked = !before.is_empty() && self.ask_proxies(&before).await;
        // After a start nobody may be here yet: the first time that costs nothing.
        let standing = match asked || !known.is_empty() {
            true => Standing::Settled,
            false => Standing::First,
        };
        let (site, mut all) = (Arc::clone(&self.site), known.clone());
        all.extend(before.hurt);
        let booked = tokio::task::spawn_blocking(move || book(&site, &all, standing)).await;
        match booked {
            Ok(Ok((after, healed))) => {
                self.site.scrubber.note(found.len(), healed);
                *known = after;
            }
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&*error), "what was found hurt was not booked");
            }
            Err(_) => {}
        }
        drop(known);
        self.foreman.tell(News::Reconsider).await;
    }
}

/// What is hurt here, and which points that costs.
struct HurtHere {
    hurt: BTreeMap<Subject, String>,
    points: Vec<(PointId, String)>,
}

impl HurtHere {
    fn is_empty(&self) -> bool {
        self.hurt.is_empty() && self.points.is_empty()
    }

    fn packs(&self) -> Vec<PackId> {
        let packs = self.hurt.keys().filter_map(|subject| match subject {
            Subject::Pack(pack) => Some(*pack),
            Subject::Point(..) => None,
        });
        packs.collect()
    }
}

/// Points that are hurt, and those whose manifest is gone though the ledger has them here.
fn damage(site: &Site) -> Result<HurtHere, Box<dyn std::error::Error + Send + Sync>> {
    let hurt = site.repo.hurt();
    let points = site.repo.hurt_points()?;
    let mut points: BTreeMap<PointId, String> =
        points.into_iter().map(|(_, point, why)| (point, why)).collect();
    // Held so that nothing is removed by order between the two looks.
    let _keeping = site.keeping();
    let here: BTreeSet<PointId> = site.repo.points()?.into_iter().map(|(_, point)| point).collect();
    let primary = primary();
    for facts in site.catalog.point_facts(None)? {
        let state = facts.copy(&primary).map(|copy| copy.state);
        if matches!(state, Some(CopyState::Present | CopyState::Owed))
            && !here.contains(&facts.point)
        {
            points.insert(facts.point, "its manifest is gone".to_owned());
        }
    }
    Ok(HurtHere { hurt, points: points.into_iter().collect() })
}

fn primary() -> strongroom_protocol::CopyName {
    #[expect(clippy::expect_used, reason = "the constant is a name: a test of the policy has it")]
    PRIMARY.parse().expect("a name")
}

impl SiteMender {
    /// Asks one proxy after the other for what is hurt still; whether any was asked.
    async fn ask_proxies(&self, before: &HurtHere) -> bool {
        let mut asked = false;
        let sessions = self.site.sessions.all();
        let proxies = sessions.into_iter().filter(|session| session.identity.role == Role::Proxy);
        for proxy in proxies.map(|session| session.identity.name) {
            let repo = self.site.repo.clone();
            let packs = before.packs();
            let open: Vec<PackId> = packs.iter().filter(|p| !repo.has_pack(**p)).copied().collect();
            let points: Vec<PointId> = before.points.iter().map(|(point, _)| *point).collect();
            if open.is_empty() && points.is_empty() {
                return asked;
            }
            let wanted = Wanted {
                packs: open.into_iter().take(ORDERED_MAX).collect(),
                points: points.into_iter().take(ORDERED_MAX).collect(),
            };
            match self.heal_from(&proxy, wanted).await {
                Ok(healed) => {
                    asked = true;
                    for why in &healed.refused {
                        self.site.record("scrub", "heal.refused", proxy.as_str(), why);
                    }
                }
                Err(refusal) => {
                    let why = refusal.to_string();
                    self.site.record("scrub", "heal.failed", proxy.as_str(), &why);
                }
            }
            let retired = tokio::task::spawn_blocking(move || retire(&repo, &packs)).await;
            if let Ok(Err(error)) = retired {
                tracing::warn!(error = %Chain(&error), "hurt packs were not put away");
            }
        }
        asked
    }

    /// Orders a proxy to open a stream, and asks on it.
    async fn heal_from(&self, proxy: &NodeName, wanted: Wanted) -> Result<Healed, Refusal> {
        let unavailable = |text: &str| Refusal::new(RefusalKind::Unavailable, text);
        let job = JobId::fresh(self.site.now().unix_ms());
        let (expected, coming) = oneshot::channel();
        self.site.expected.orders().insert(job, (proxy.clone(), expected));
        let (packs, points) = (wanted.packs.clone(), wanted.points.clone());
        let work = Work::Heal { packs, points };
        if let Err(why) = self.site.sessions.order_proxy(proxy, job, work) {
            self.site.expected.orders().remove(&job);
            return Err(unavailable(&why));
        }
        let came = self.stop.run_until_cancelled(tokio::time::timeout(STREAM_WAIT, coming)).await;
        self.site.expected.orders().remove(&job);
        let Some(Ok(Ok(stream))) = came else {
            return Err(unavailable("it did not open the stream it was ordered to open"));
        };
        let HealStream { mut sender, mut receiver, done } = stream;
        let repo = &self.site.repo;
        let (healed, outcome) = heal(repo, &mut sender, &mut receiver, wanted, &self.stop).await;
        drop(done);
        if let Err(error) = outcome {
            let why = Chain(&error).to_string();
            tracing::warn!(%proxy, %why, "healing broke off");
            self.site.record("scrub", "heal.failed", proxy.as_str(), &why);
        }
        Ok(healed)
    }
}

/// Whether what is hurt was hurt before, or somebody was asked for it in vain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    First,
    Settled,
}

/// What is hurt still, and how many were healed.
type Booked = (BTreeMap<Subject, String>, usize);

/// Puts what is hurt still, and what is healed, on the books. `all` is what was hurt until now.
fn book(
    site: &Site,
    all: &BTreeMap<Subject, String>,
    standing: Standing,
) -> Result<Booked, Box<dyn std::error::Error + Send + Sync>> {
    let after = damage(site)?;
    let mut healed = 0;
    for (subject, why) in all.iter().filter(|(subject, _)| !after.hurt.contains_key(*subject)) {
        site.record("scrub", "scrub.healed", "primary", &sentence((subject, why)));
        healed += 1;
    }
    let (lost, now) = (&after.points, site.now());
    let is_lost: BTreeSet<PointId> = lost.iter().map(|(point, _)| *point).collect();
    let name = primary();
    for (point, why) in lost.iter().filter(|_| standing == Standing::Settled) {
        lose(site, *point, &name, why)?;
    }
    // What was lost and is whole again.
    for facts in site.catalog.point_facts(None)? {
        let state = facts.copy(&name).map(|copy| copy.state);
        let is_back = state == Some(CopyState::Owed) && !is_lost.contains(&facts.point);
        if is_back && site.repo.has_point(facts.point) {
            let level = ProofLevel::HashVerified;
            let arrived = CopyEvent::Arrived { bytes_sent: 0, bytes_stored: 0, seconds: 0 };
            let proven = CopyEvent::Proven(Proof { level, at: now });
            for event in [arrived, proven] {
                site.catalog.record_copy(facts.point, &name, &event, now)?;
            }
            site.record("scrub", "copy.restored", &format!("{name} of point {}", facts.point), "");
        }
    }
    match after.is_empty() {
        true => ["scrub", "verify"].iter().for_each(|subject| site.all_clear(subject)),
        false => site.alarm("scrub", alarm_of(&site.repo, &after)),
    }
    Ok((after.hurt, healed))
}

fn alarm_of(repo: &Repo, after: &HurtHere) -> String {
    let packs = after.packs().len();
    let mut text = format!("scrubbing found {packs} packs hurt that could not be healed");
    let points = after.points.iter().map(|(point, why)| format!("primary of point {point}: {why}"));
    let named: Vec<String> = points.chain(inspect::what_is_hurt(repo)).collect();
    for line in named.iter().take(NAMED_MAX) {
        text.push_str("; ");
        text.push_str(line);
    }
    if named.len() > NAMED_MAX {
        text.push_str(&format!("; and {} more", named.len() - NAMED_MAX));
    }
    text
}

/// A copy that was there is not whole any more: it is owed again.
pub(crate) fn lose(
    site: &Site,
    point: PointId,
    copy: &strongroom_protocol::CopyName,
    why: &str,
) -> Result<(), CatalogError> {
    let rows = site.catalog.ledger_of(point)?;
    let is_there = rows.iter().any(|row| row.copy == *copy && row.state == CopyState::Present);
    if is_there {
        let lost = CopyEvent::Lost { error: why.to_owned() };
        site.catalog.record_copy(point, copy, &lost, site.now())?;
        site.record("scrub", "copy.lost", &format!("{copy} of point {point}"), why);
        tracing::error!(%point, %copy, why, "a copy is lost");
    }
    Ok(())
}

/// What a proxy tells of its scrubbing.
pub(crate) fn hear(site: &Site, proxy: &NodeName, news: &ScrubNews) -> Result<(), CatalogError> {
    for line in &news.found {
        site.record(proxy.as_str(), "scrub.found", proxy.as_str(), line);
    }
    for line in &news.healed {
        site.record(proxy.as_str(), "scrub.healed", proxy.as_str(), line);
    }
    let in_force = site.in_force();
    for (point, why) in &news.lost {
        let Some(record) = site.catalog.point(*point)? else { continue };
        let Some(policy) = in_force.declared.policy_of(&record.workload) else { continue };
        let here = policy
            .copies
            .values()
            .filter(|copy| copy.node == *proxy && matches!(copy.kind, CopyKind::SecondarySnap));
        for copy in here {
            lose(site, *point, &copy.name, why)?;
        }
    }
    let subject = format!("scrub at {proxy}");
    if news.lost.is_empty() && news.hurt.is_empty() {
        site.all_clear(&subject);
        return Ok(());
    }
    let mut text = format!("{proxy} could not heal {} points", news.lost.len());
    for line in news.hurt.iter().take(NAMED_MAX) {
        text.push_str("; ");
        text.push_str(line);
    }
    site.alarm(&subject, text);
    Ok(())
}

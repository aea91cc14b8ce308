//! What scrubbing leads to at the proxy: what is hurt here is asked of the coordinator, and
//! what the coordinator misses is given to it when it orders so. The coordinator is told what
//! was found, what was healed and which points this copy holds no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use strongroom_node::ask::open;
use strongroom_node::desk::Task;
use strongroom_node::heal::{Wanted, heal, retire};
use strongroom_node::inspect;
use strongroom_node::packs::give;
use strongroom_node::scrubber::{Mender, Scrubber, sentence};
use strongroom_node::uplink::Uplink;
use strongroom_protocol::control::{FromNode, Progress, ScrubNews};
use strongroom_protocol::opening::{Opening, Refusal, RefusalKind};
use strongroom_protocol::{Chain, PackId, PointId};
use strongroom_store::repo::{Repo, Subject};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long is waited for a connection before mending is left to the next round.
const CONTACT_WAIT: Duration = Duration::from_secs(5);
/// Things named in one message: it must stay well below what a header may hold.
const TOLD_MAX: usize = 500;
/// Bytes of one sentence in a message.
const SENTENCE_BYTES_MAX: usize = 400;

/// The proxy as its scrubber's mender.
pub(crate) struct ProxyMender {
    pub(crate) repo: Repo,
    pub(crate) scrubber: Arc<Scrubber>,
    /// None where no coordinator is named.
    pub(crate) uplink: Option<Uplink>,
    pub(crate) stop: CancellationToken,
    /// What the coordinator was told of and is hurt still.
    pub(crate) told: Mutex<Told>,
}

/// What is known to the coordinator.
#[derive(Default)]
pub(crate) struct Told {
    hurt: BTreeMap<Subject, String>,
    lost: Vec<PointId>,
}

impl Mender for ProxyMender {
    async fn mend(&self) {
        let mut told = self.told.lock().await;
        let before = self.repo.hurt();
        if before.is_empty() && told.hurt.is_empty() {
            return;
        }
        if !before.is_empty() {
            self.ask_coordinator(&before).await;
        }
        let repo = self.repo.clone();
        let looked = tokio::task::spawn_blocking(move || look_around(&repo)).await;
        let Ok((after, lost, hurt)) = looked else { return };
        let is_new = |(subject, _): &(&Subject, &String)| !told.hurt.contains_key(*subject);
        let found: Vec<String> = before.iter().filter(is_new).map(sentence).collect();
        let mut known = told.hurt.clone();
        known.extend(before);
        let healed: Vec<String> = known
            .iter()
            .filter(|(subject, _)| !after.contains_key(*subject))
            .map(sentence)
            .collect();
        self.scrubber.note(found.len(), healed.len());
        let is_told: Vec<PointId> = lost.iter().map(|(point, _)| *point).collect();
        let is_news = !found.is_empty() || !healed.is_empty() || is_told != told.lost;
        (told.hurt, told.lost) = (after, is_told);
        drop(told);
        if let Some(uplink) = self.uplink.as_ref().filter(|_| is_news) {
            for news in news_of(found, healed, lost, hurt) {
                let news = FromNode::Scrubbed(news);
                self.stop.run_until_cancelled(uplink.say(news)).await;
            }
        }
    }
}

impl ProxyMender {
    async fn ask_coordinator(&self, hurt: &BTreeMap<Subject, String>) {
        let Some(uplink) = &self.uplink else { return };
        let Ok(Some(contact)) = tokio::time::timeout(CONTACT_WAIT, uplink.contact()).await else {
            return;
        };
        let (mut sender, mut receiver) = match open(&contact.link, Opening::Packs).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the coordinator gives no packs now");
                return;
            }
        };
        let packs = packs_of(hurt);
        let repo = self.repo.clone();
        let points = tokio::task::spawn_blocking(move || hurt_points(&repo)).await;
        let wanted = Wanted { packs: packs.clone(), points: points.unwrap_or_default() };
        let (healed, outcome) =
            heal(&self.repo, &mut sender, &mut receiver, wanted, &self.stop).await;
        for why in &healed.refused {
            tracing::warn!(%why, "not healed");
        }
        if let Err(error) = outcome {
            tracing::warn!(error = %Chain(&error), "healing broke off");
        }
        let repo = self.repo.clone();
        let retired = tokio::task::spawn_blocking(move || retire(&repo, &packs)).await;
        if let Ok(Err(error)) = retired {
            tracing::warn!(error = %Chain(&error), "hurt packs were not put away");
        }
    }
}

fn packs_of(hurt: &BTreeMap<Subject, String>) -> Vec<PackId> {
    let packs = hurt.keys().filter_map(|subject| match subject {
        Subject::Pack(pack) => Some(*pack),
        Subject::Point(..) => None,
    });
    packs.collect()
}

fn hurt_points(repo: &Repo) -> Vec<PointId> {
    let points = repo.hurt_points().unwrap_or_default();
    points.into_iter().map(|(_, point, _)| point).collect()
}

type Around = (BTreeMap<Subject, String>, Vec<(PointId, String)>, Vec<String>);

/// What is hurt now, which points that costs, and which files.
fn look_around(repo: &Repo) -> Around {
    let hurt = repo.hurt();
    if hurt.is_empty() {
        return (hurt, Vec::new(), Vec::new());
    }
    let points = repo.hurt_points().unwrap_or_default();
    let lost = points.into_iter().map(|(_, point, why)| (point, why)).collect();
    (hurt, lost, inspect::what_is_hurt(repo))
}

/// What the coordinator is told, in as many messages as it takes to name every lost point.
fn news_of(
    found: Vec<String>,
    healed: Vec<String>,
    lost: Vec<(PointId, String)>,
    mut hurt: Vec<String>,
) -> Vec<ScrubNews> {
    if lost.len() > TOLD_MAX {
        hurt.insert(0, format!("{} points in all are not whole", lost.len()));
    }
    let (found, healed, hurt) = (brief(found), brief(healed), brief(hurt));
    let briefly = |(point, why): &(PointId, String)| (*point, shortened(why));
    let mut parts = lost.chunks(TOLD_MAX).map(|part| part.iter().map(briefly).collect());
    let lost = parts.next().unwrap_or_default();
    let mut news = vec![ScrubNews { found, healed, lost, hurt: hurt.clone() }];
    news.extend(parts.map(|lost| ScrubNews {
        found: Vec::new(),
        healed: Vec::new(),
        lost,
        hurt: hurt.clone(),
    }));
    news
}

fn brief(lines: Vec<String>) -> Vec<String> {
    lines.iter().take(TOLD_MAX).map(|line| shortened(line)).collect()
}

fn shortened(line: &str) -> String {
    let mut end = line.len().min(SENTENCE_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.get(..end).unwrap_or_default().to_owned()
}

/// Opens a stream to the coordinator and gives what is asked on it.
pub(crate) async fn give_back(repo: &Repo, task: &Task) -> Result<(Progress, String), Refusal> {
    let unavailable = |error: &dyn std::error::Error| {
        Refusal::new(RefusalKind::Unavailable, Chain(error).to_string())
    };
    let stopping = || Refusal::new(RefusalKind::Cancelled, "stopped");
    let link = task.uplink.contact().await.ok_or_else(stopping)?.link;
    let opened = open(&link, Opening::Heal { job: task.job }).await;
    let (mut sender, mut receiver) = opened.map_err(|error| unavailable(&error))?;
    let giving = give(repo, &mut sender, &mut receiver);
    let given = task.cancelled.run_until_cancelled(giving).await.ok_or_else(stopping)?;
    let given = given.map_err(|error| unavailable(&error))?;
    let bytes = given.bytes;
    let progress =
        Progress { bytes_seen: bytes, bytes_read: bytes, bytes_sent: bytes, ..Progress::default() };
    Ok((progress, format!("{} packs given back", given.packs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lost_point_is_told_however_many_there_are() {
        let lost: Vec<(PointId, String)> = (0..1201_u16)
            .map(|n| {
                let mut id = [0; 16];
                id[..2].copy_from_slice(&n.to_le_bytes());
                (PointId::from_bytes(id), "its pack is hurt".to_owned())
            })
            .collect();
        let found = vec!["a pack".to_owned()];
        let news = news_of(found.clone(), Vec::new(), lost.clone(), Vec::new());
        assert!(news.iter().all(|news| news.lost.len() <= TOLD_MAX && news.hurt.len() == 1));
        assert!(news.iter().all(|news| news.hurt[0].starts_with("1201 points")));
        assert_eq!(news.iter().filter(|news| news.found == found).count(), 1, "told once");
        let told: Vec<_> = news.into_iter().flat_map(|news| news.lost).collect();
        assert_eq!(told, lost);
        let nothing = news_of(Vec::new(), vec!["a pack".to_owned()], Vec::new(), Vec::new());
        assert_eq!((nothing.len(), nothing[0].healed.len()), (1, 1));
    }
}

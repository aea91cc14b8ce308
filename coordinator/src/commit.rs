//! The end of a protect job: the manifest. Written after everything it names is durable; the
//! catalog follows, and is brought up from the repository should it miss one.

use std::sync::atomic::Ordering;

use strongroom_node::uplink::SOFTWARE;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{BlobKind, Chain, PolicyName, Reference, Timestamp};
use strongroom_store::manifest::{Body, Consistency, GapList, Head, Manifest, reader_version_min};
use strongroom_store::repo::RepoError;

use crate::catalog::{PointRecord, PointStats};
use crate::ingest::Received;
use crate::jobs::IngestPlan;
use crate::retention;
use crate::site::Site;

/// Workload kinds as manifests number them: append only.
const KIND_FILES: u8 = 0;

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

/// Whose tree a point holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// An earlier attempt's, whose commit outlived it.
    Earlier,
    ThisAttempt,
}

/// A point that is durable and in the catalog.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) gaps: u64,
    pub(crate) whose: Whose,
}

/// A point that is not, and what it would have needed.
#[derive(Debug, Clone)]
pub(crate) struct Uncommitted {
    pub(crate) refusal: Refusal,
    pub(crate) lacking: Vec<Reference>,
}

impl Uncommitted {
    pub(crate) const fn of(refusal: Refusal) -> Self {
        Self { refusal, lacking: Vec::new() }
    }

    fn by(error: RepoError) -> Self {
        let kind = match &error {
            RepoError::Incomplete(_) => RefusalKind::Missing,
            _ => RefusalKind::Unavailable,
        };
        let refusal = refused(kind, &error);
        match error {
            RepoError::Incomplete(incomplete) => Self { refusal, lacking: incomplete.missing },
            _ => Self::of(refusal),
        }
    }
}

/// Commits what was received. Blocking. What the catalog says of the point is always what its
/// manifest says, whoever made it.
pub(crate) fn commit(
    site: &Site,
    plan: &IngestPlan,
    received: &Received,
) -> Result<Committed, Uncommitted> {
    let may = site.lead.while_leading("no point is committed", || commit_now(site, plan, received));
    may.unwrap_or_else(|refusal| Err(Uncommitted::of(refusal)))
}

fn commit_now(
    site: &Site,
    plan: &IngestPlan,
    received: &Received,
) -> Result<Committed, Uncommitted> {
    let made = manifest(site, plan, received).map_err(Uncommitted::of)?;
    let internal =
        |error: &dyn std::error::Error| Uncommitted::of(refused(RefusalKind::Internal, error));
    let unavailable =
        |error: &dyn std::error::Error| Uncommitted::of(refused(RefusalKind::Unavailable, error));
    let (manifest, whose) = if site.repo.has_point(plan.point) {
        let there = site.repo.point(plan.point).map_err(|error| unavailable(&error))?;
        let same = there.body.root == made.body.root;
        (there, if same { Whose::ThisAttempt } else { Whose::Earlier })
    } else {
        let key = site.repo.vault_key().map_err(|error| internal(&error))?;
        let file = made.encode(key).map_err(|error| internal(&error))?;
        site.repo.commit_point(plan.workload, plan.point, &file).map_err(Uncommitted::by)?;
        (made, Whose::ThisAttempt)
    };
    let record = PointRecord { job: Some(plan.job), ..record(&manifest) };
    site.catalog.upsert_point(&record).map_err(|error| unavailable(&error))?;
    Ok(Committed { gaps: record.gaps, whose })
}

fn manifest(site: &Site, plan: &IngestPlan, received: &Received) -> Result<Manifest, Refusal> {
    let draft: Body = postcard::from_bytes(&received.draft).map_err(|error| {
        Refusal::new(RefusalKind::Invalid, format!("the draft of the manifest: {error}"))
    })?;
    if received.root.kind != BlobKind::Page || received.root.id != draft.root {
        let text = "the draft of the manifest names another root";
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    let mut roots = vec![received.root];
    if let GapList::Blob { id, .. } = &draft.gaps {
        roots.push(Reference { kind: BlobKind::Gaps, id: *id });
    }
    let now = site.now();
    let stored = &received.stored;
    let mut stats = draft.stats;
    stats.new_bytes = stored.plain_bytes.load(Ordering::Relaxed);
    stats.stored_bytes = stored.sealed_bytes.load(Ordering::Relaxed);
    stats.new_chunks = stored.chunks.load(Ordering::Relaxed);
    let seconds = now.0.saturating_sub(plan.opened.0) / 1_000_000;
    stats.elapsed_ms = u64::try_from(seconds).unwrap_or_default();
    let key = site.repo.vault_key().map_err(|error| refused(RefusalKind::Internal, &error))?;
    let key_epoch = key.epoch();
    let head = Head {
        repo: site.repo.id(),
        workload: plan.workload,
        point: plan.point,
        moment: plan.moment,
        kind: KIND_FILES,
        roots,
        key_epoch,
        reader_version_min: reader_version_min(key_epoch),
    };
    let said = plan.member.iter().cloned().chain(Some(draft.hooks.clone()));
    let said: Vec<String> = said.filter(|said| !said.is_empty()).collect();
    let body = Body {
        hooks: said.join("; "),
        workload_name: plan.name.clone(),
        agent: plan.agent.clone(),
        policy: plan.policy.clone(),
        policy_version: u32::try_from(plan.policy_version).unwrap_or(u32::MAX),
        previous: plan.previous,
        committed: now,
        software: SOFTWARE.to_owned(),
        stats,
        ..draft
    };
    Ok(Manifest { head, body })
}

/// A manifest as the catalog knows it.
pub(crate) fn record(manifest: &Manifest) -> PointRecord {
    let Manifest { head, body } = manifest;
    PointRecord {
        point: head.point,
        workload: body.workload_name.clone(),
        policy: Some(body.policy.clone()).filter(|policy: &PolicyName| !policy.as_str().is_empty()),
        policy_version: u64::from(body.policy_version),
        agent: body.agent.clone(),
        job: None,
        previous: body.previous,
        moment: head.moment,
        committed: body.committed,
        consistency: match body.consistency {
            Consistency::Application => retention::Consistency::Application,
            Consistency::Crash => retention::Consistency::Crash,
            Consistency::Filesystem => retention::Consistency::Filesystem,
            Consistency::Fuzzy => retention::Consistency::Fuzzy,
        },
        gaps: body.gaps.count(),
        stats: PointStats {
            files: body.stats.files,
            bytes: body.stats.bytes,
            stored_bytes: body.stats.stored_bytes,
            frozen_ms: body.frozen_ms,
            seconds: body.stats.elapsed_ms.div_ceil(1000),
        },
    }
}

/// Brings the catalog up to what the repository holds: after a crash between the manifest and
/// the catalog, or with a catalog that was lost. Returns how many points it did not know.
pub(crate) fn catch_up(site: &Site) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let mut found = 0;
    for (workload, point) in site.repo.points()? {
        if site.catalog.point(point)?.is_some() {
            continue;
        }
        match site.repo.point(point) {
            Ok(manifest) => {
                let now: Timestamp = site.now();
                let name = &manifest.body.workload_name;
                site.catalog.adopt_workload(name, workload, now)?;
                site.catalog.upsert_point(&record(&manifest))?;
                found += 1;
            }
            Err(error) => {
                let text = Chain(&error).to_string();
                tracing::error!(%point, error = %text, "a point cannot be taken up");
                site.alarm(&point.to_string(), format!("point {point}: {text}"));
            }
        }
    }
    Ok(found)
}

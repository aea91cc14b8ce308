//! Looking into a repository for people: points as table rows, gaps and facts of a point, and
//! what damage hurts by name. The same at both sites, because it needs nothing but the
//! repository.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use strongroom_protocol::admin::{
    AuditRow, PointRef, PointRow, Response, VerifiedReport, VerifyDepth,
};
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{BlobKind, Chain, ChunkId, PackId, PointId, Timestamp, WorkloadName};
use strongroom_store::content::{ChunkExtent, Entry, Node};
use strongroom_store::manifest::{GapList, Manifest, decode_gaps};
use strongroom_store::repo::{DamagedPack, DamagedPoint, Depth, Repo, Subject, VerifyReport};
use strongroom_store::tree::{BlobSource, Damage, Flow, Tree, Visitor};

use crate::audit::{self, AuditError};

/// Hurt files and directories named in one report.
const HURT_NAMED_MAX: usize = 1000;
/// Hurt files and directories named of one point, so that every hurt point is told of.
const HURT_NAMED_OF_POINT_MAX: usize = 50;
/// Gaps named in one report.
const GAPS_NAMED_MAX: usize = 1000;

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

/// The newest records of an audit log, oldest first, and where its chain breaks, if it does.
pub fn audit(log: &Path, most: u32) -> Result<Response, Refusal> {
    let (checked, records) = match audit::tail(log, most as usize) {
        Ok((verified, records)) => (verified.records, records),
        Err(AuditError::Broken { seq, .. }) => {
            return Ok(Response::Audit {
                checked: seq.saturating_sub(1),
                broken_at: Some(seq),
                records: Vec::new(),
            });
        }
        Err(error) => return Err(refused(RefusalKind::Unavailable, &error)),
    };
    let row = |record: audit::Record| AuditRow {
        seq: record.seq,
        at: record.at,
        actor: record.actor,
        action: record.action,
        subject: record.subject,
        detail: record.detail,
    };
    Ok(Response::Audit {
        checked,
        broken_at: None,
        records: records.into_iter().map(row).collect(),
    })
}

/// A point as a table row; the copies are the caller's to fill in.
pub fn point_row(manifest: &Manifest) -> PointRow {
    let Manifest { head, body } = manifest;
    PointRow {
        id: head.point,
        workload: body.workload_name.clone(),
        moment: head.moment,
        consistency: body.consistency.as_str().to_owned(),
        files: body.stats.files,
        bytes: body.stats.bytes,
        stored_bytes: body.stats.stored_bytes,
        gaps: body.gaps.count(),
        copies: Vec::new(),
    }
}

/// What a manifest says of its point, for people.
pub fn facts(manifest: &Manifest) -> Vec<(String, String)> {
    let body = &manifest.body;
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let previous = body.previous.map_or_else(|| "none".to_owned(), |point| point.to_string());
    vec![
        fact("source", body.source.clone()),
        fact("read by", body.agent.to_string()),
        fact("policy", format!("{} (version {})", body.policy, body.policy_version)),
        fact("consistency", body.consistency.as_str().to_owned()),
        fact("held still", format!("{} ms", body.frozen_ms)),
        fact("hooks", if body.hooks.is_empty() { "none".to_owned() } else { body.hooks.clone() }),
        fact("previous point", previous),
        fact("committed", body.committed.to_string()),
        fact("software", body.software.clone()),
    ]
}

/// What a point did not protect, each in a line.
pub fn gaps(repo: &Repo, manifest: &Manifest) -> Result<Vec<String>, Refusal> {
    let line = |gap: &strongroom_store::manifest::Gap| {
        format!("{}: {} {}", gap.path.escape_ascii(), gap.reason.as_str(), gap.text)
    };
    match &manifest.body.gaps {
        GapList::Inline(gaps) => Ok(gaps.iter().map(line).collect()),
        GapList::Blob { id, .. } => {
            let plain = BlobSource::plain(repo, BlobKind::Gaps, *id)
                .map_err(|error| refused(RefusalKind::Damaged, &error))?;
            let gaps =
                decode_gaps(&plain).map_err(|error| refused(RefusalKind::Damaged, &error))?;
            Ok(gaps.iter().take(GAPS_NAMED_MAX).map(line).collect())
        }
    }
}

/// The point a person means, among those known here.
pub fn resolve(
    known: &[(PointId, WorkloadName, Timestamp)],
    wanted: &PointRef,
) -> Result<PointId, Refusal> {
    let unknown = |text: String| Refusal::new(RefusalKind::Unknown, text);
    match wanted {
        PointRef::Latest(workload) => known
            .iter()
            .filter(|(_, of, _)| of == workload)
            .max_by_key(|(point, _, moment)| (*moment, *point))
            .map(|(point, ..)| *point)
            .ok_or_else(|| unknown(format!("no point of workload {workload} here"))),
        PointRef::Id(text) => {
            let plain: String = text.chars().filter(|c| *c != '-').collect();
            let fits = |point: &PointId| {
                let digits: String = point.to_string().chars().filter(|c| *c != '-').collect();
                digits == plain || (plain.len() >= 4 && digits.ends_with(&plain))
            };
            let found: Vec<_> = known.iter().filter(|(point, ..)| fits(point)).collect();
            match found.as_slice() {
                [(point, ..)] => Ok(*point),
                [] => Err(unknown(format!("no point {text} here"))),
                several => {
                    let text = format!("{text} fits {} points: give more digits", several.len());
                    Err(Refusal::new(RefusalKind::Invalid, text))
                }
            }
        }
    }
}

/// Reads back what is stored and says what damage hurts, by point and file. Blocking.
pub fn verify(repo: &Repo, depth: VerifyDepth) -> Result<VerifiedReport, Refusal> {
    let began = std::time::Instant::now();
    let depth = match depth {
        VerifyDepth::Hashes => Depth::Hashes,
        VerifyDepth::Plain => Depth::Plain,
    };
    let found = repo.verify(depth).map_err(|error| refused(RefusalKind::Unavailable, &error))?;
    let (hurt, points_whole) = hurt(repo, &found)?;
    Ok(VerifiedReport {
        packs: found.packs,
        bytes: found.bytes,
        seconds_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        damaged_packs: found.damaged_packs.iter().map(|damaged| damaged.pack).collect(),
        hurt,
        points_whole,
    })
}

/// What that which is known to be hurt costs, by point and file. Reads the hurt packs. Blocking.
pub fn what_is_hurt(repo: &Repo) -> Vec<String> {
    let mut found = VerifyReport::default();
    for (subject, problem) in repo.hurt() {
        match subject {
            Subject::Pack(pack) => {
                repo.verify_pack(pack, Depth::Plain, &mut found);
                if !found.damaged_packs.iter().any(|damaged| damaged.pack == pack) {
                    let (blobs, sound) = (Vec::new(), Vec::new());
                    found.damaged_packs.push(DamagedPack { pack, problem, blobs, sound });
                }
            }
            Subject::Point(workload, point) => {
                found.damaged_points.push(DamagedPoint { workload, point, problem });
            }
        }
    }
    hurt(repo, &found).map(|(named, _)| named).unwrap_or_default()
}

fn hurt(repo: &Repo, found: &VerifyReport) -> Result<(Vec<String>, u64), Refusal> {
    let points = repo.points().map_err(|error| refused(RefusalKind::Unavailable, &error))?;
    let mut named = BTreeSet::new();
    for damaged in &found.damaged_packs {
        named.insert(format!("pack {}: {}", damaged.pack, damaged.problem));
    }
    for damaged in &found.damaged_points {
        named.insert(format!("point {}: {}", damaged.point, damaged.problem));
    }
    if found.is_sound() {
        return Ok((Vec::new(), points.len() as u64));
    }
    let damaged: HashMap<PackId, HashSet<ChunkId>> = found
        .damaged_packs
        .iter()
        .map(|damaged| (damaged.pack, damaged.sound.iter().copied().collect()))
        .collect();
    let mut whole = 0;
    for (_, point) in points {
        let manifest = match repo.point(point) {
            Ok(manifest) => manifest,
            Err(error) => {
                named.insert(format!("point {point}: {}", Chain(&error)));
                continue;
            }
        };
        let tree = Tree::new(repo.clone(), manifest.body.root);
        let (of, moment) = (&manifest.body.workload_name, manifest.head.moment);
        let name = format!("point {} of {of}, {moment}", point.short());
        let mut search = Search { tree: &tree, damaged: &damaged, hurt: Hurt::of(name) };
        tree.visit(&mut search);
        whole += u64::from(search.hurt.named.is_empty());
        named.extend(search.hurt.conclude());
    }
    Ok((named.into_iter().take(HURT_NAMED_MAX).collect(), whole))
}

/// Looks through a point for what needs lost blobs.
struct Search<'t> {
    tree: &'t Tree<Repo>,
    /// Damaged packs, with what in them was opened and holds.
    damaged: &'t HashMap<PackId, HashSet<ChunkId>>,
    hurt: Hurt,
}

impl Search<'_> {
    /// What lies nowhere, or in a damaged pack and was not opened there.
    fn is_lost(&self, id: ChunkId) -> bool {
        let Ok(places) = self.tree.source().place(&[id]) else { return false };
        let Some(Some(place)) = places.first() else { return true };
        self.damaged.get(&place.pack).is_some_and(|sound| !sound.contains(&id))
    }
}

/// What is hurt of one point.
struct Hurt {
    point: String,
    named: Vec<String>,
    /// Hurt, and not named.
    more: u64,
}

impl Hurt {
    const fn of(point: String) -> Self {
        Self { point, named: Vec::new(), more: 0 }
    }

    fn name(&mut self, path: &[u8], why: &str) {
        if self.named.len() >= HURT_NAMED_OF_POINT_MAX {
            self.more += 1;
            return;
        }
        // The first component is the item: people know paths from what was protected.
        let within = path.iter().position(|byte| *byte == b'/').map_or(path.len(), |at| at + 1);
        let path = path.get(within..).unwrap_or_default().escape_ascii();
        self.named.push(format!("{}: /{path}: {why}", self.point));
    }

    /// What was found, one line each. The count sorts behind the names.
    fn conclude(self) -> Vec<String> {
        let mut named = self.named;
        if self.more > 0 {
            named.push(format!("{}: and {} more files", self.point, self.more));
        }
        named
    }
}

impl Visitor for Search<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Flow {
        let Node::File { content, .. } = &entry.node else { return Flow::Continue };
        for placed in self.tree.extents(content) {
            let lost = match placed {
                Ok(placed) => match placed.extent {
                    ChunkExtent::Chunk { id, .. } => self.is_lost(id),
                    ChunkExtent::Hole { .. } => false,
                },
                Err(_) => true,
            };
            if lost {
                self.hurt.name(path, "part of the file is lost");
                break;
            }
        }
        Flow::Continue
    }

    fn damaged(&mut self, damage: &Damage) -> Flow {
        self.hurt.name(&damage.path, "part of the directory is lost");
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hurt_files_are_named_within_what_was_protected_and_only_the_first() {
        let mut hurt = Hurt::of("point a".to_owned());
        hurt.name(b"files/dir/x\n", "part of the file is lost");
        hurt.name(b"files", "part of the directory is lost");
        for n in 0..HURT_NAMED_OF_POINT_MAX {
            hurt.name(format!("files/{n}").as_bytes(), "part of the file is lost");
        }
        let named = hurt.conclude();
        assert_eq!(named.len(), HURT_NAMED_OF_POINT_MAX + 1);
        assert_eq!(named[0], "point a: /dir/x\\n: part of the file is lost");
        assert_eq!(named[1], "point a: /: part of the directory is lost");
        assert_eq!(named.last().map(String::as_str), Some("point a: and 2 more files"));
        assert!(named.is_sorted_by_key(|line| line.contains("more files")));
    }
}

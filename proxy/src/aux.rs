//! Puts points on media: the packs they need that the set does not hold yet, then their
//! manifests, in one session whose catalog closes it. What a session wrote counts only once
//! it is finished, and packs go as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, MediaSetName, PackId, PointId};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{MediaIdentity, MediaSetWriter, Put, RepoPack, SetOrder};
use strongroom_store::repo::Repo;
use strongroom_store::tape::TapeLibrary;

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

/// Writes `points` to `set`; blocking.
pub(crate) fn write_points(
    repo: &Repo,
    library: Arc<dyn TapeLibrary>,
    set: MediaSetName,
    points: &[PointId],
    clock: Arc<dyn Clock>,
    task: &Task,
) -> Result<(Progress, String), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let order = SetOrder {
        set,
        identity: MediaIdentity { org: repo.config().org.clone(), repo: repo.id() },
        config: repo.config().encode(),
        keys: repo.keys_file().encode(),
    };
    let mut writer =
        MediaSetWriter::open(library, order, clock).map_err(|error| unavailable(&error))?;
    let wanted = lacking(repo, &writer, points)?;
    if wanted.points.is_empty() {
        return Ok((Progress::default(), "the set holds it already".to_owned()));
    }
    let total: u64 = wanted.packs.values().sum();
    let mut progress = Progress { bytes_total: Some(total), ..Progress::default() };
    writer.begin(total).map_err(|error| unavailable(&error))?;
    for (pack, bytes) in wanted.packs {
        if task.cancelled.is_cancelled() {
            return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
        }
        let mut source = RepoPack::new(repo, pack).map_err(|error| unavailable(&error))?;
        let put = writer.put_pack(pack, bytes, &mut source).map_err(|error| unavailable(&error))?;
        if put == Put::Written {
            progress.bytes_read += bytes;
            progress.bytes_sent += bytes;
        }
        progress.bytes_seen += bytes;
        task.progress(progress);
    }
    for (point, manifest) in wanted.points {
        let head = Manifest::decode_head(&manifest)
            .map_err(|error| refused(RefusalKind::Damaged, &error))?;
        writer
            .put_manifest(head.workload, point, &manifest)
            .map_err(|error| unavailable(&error))?;
    }
    let report = writer.finish().map_err(|error| unavailable(&error))?;
    let media: Vec<_> = report.media.iter().map(ToString::to_string).collect();
    let text = format!("session {} on {}", report.session, media.join(", "));
    Ok((progress, text))
}

struct Wanted {
    packs: BTreeMap<PackId, u64>,
    points: Vec<(PointId, Vec<u8>)>,
}

fn lacking(repo: &Repo, writer: &MediaSetWriter, points: &[PointId]) -> Result<Wanted, Refusal> {
    let mut wanted = Wanted { packs: BTreeMap::new(), points: Vec::new() };
    for point in points {
        if writer.held().has_point(point) {
            continue;
        }
        let (_, manifest) =
            repo.manifest_of(*point).map_err(|error| refused(RefusalKind::Missing, &error))?;
        let head = Manifest::decode_head(&manifest)
            .map_err(|error| refused(RefusalKind::Damaged, &error))?;
        let closure =
            repo.closure(&head.roots).map_err(|error| refused(RefusalKind::Damaged, &error))?;
        for pack in closure.packs {
            if !writer.held().has_pack(&pack) {
                let bytes =
                    repo.pack_len(pack).map_err(|error| refused(RefusalKind::Missing, &error))?;
                wanted.packs.insert(pack, bytes);
            }
        }
        wanted.points.push((*point, manifest));
    }
    Ok(wanted)
}

//! Puts points on media: the packs they need that the set does not hold yet, then their
//! manifests, in one session whose catalog closes it. What a session wrote counts only once
//! it is finished, and packs go as they are. A point that cannot be had is left out and named,
//! and costs the others nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, Clock, MediaSetName, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{
    Held, MediaError, MediaIdentity, MediaReader, MediaSetWriter, Put, SetOrder, Spool,
};
use strongroom_store::repo::{Repo, RepoError};
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
    // What is read stays until the reader is done, whatever is collected meanwhile.
    let session = repo.session();
    let repo: &Repo = &session;
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let (order, wrapped) = order_of(repo, set).map_err(|error| unavailable(&error))?;
    let mut writer = MediaSetWriter::open(Arc::clone(&library), order, clock)
        .map_err(|error| unavailable(&error))?;
    forget_lost(repo, library, &mut writer, points)?;
    let Wanted { packs, points, mut left_out } = lacking(repo, wrapped, writer.held(), points);
    if points.is_empty() {
        return conclude((Progress::default(), "the set holds it already".to_owned()), &left_out);
    }
    let total: u64 = packs.values().sum();
    let mut progress = Progress { bytes_total: Some(total), ..Progress::default() };
    writer.begin(total).map_err(|error| unavailable(&error))?;
    let began = Instant::now();
    let (spoiled, waited) = Spool::run(repo, packs, |spool| {
        put_packs(spool, &mut writer, task, &mut progress).map(|spoiled| (spoiled, spool.waited()))
    })?;
    let wrote = began.elapsed();
    for WantedPoint { workload, point, manifest, packs } in points {
        match packs.iter().find_map(|pack| spoiled.get(pack)) {
            Some(why) => left_out.push((point, why.clone())),
            None => {
                let put = writer.put_manifest(workload, point, &manifest);
                put.map_err(|error| unavailable(&error))?;
            }
        }
    }
    let report = writer.finish().map_err(|error| unavailable(&error))?;
    let media: Vec<_> = report.media.iter().map(ToString::to_string).collect();
    let text = format!(
        "session {} on {}; the drive waited {:.1} s of {:.1} s for data",
        report.session,
        media.join(", "),
        waited.as_secs_f64(),
        wrote.as_secs_f64(),
    );
    conclude((progress, text), &left_out)
}

/// What goes on every medium, and how many key epochs it opens. The keys are read as they are
/// now: a changed passphrase or recovery key goes on the next medium without a restart.
pub(crate) fn order_of(repo: &Repo, set: MediaSetName) -> Result<(SetOrder, u32), RepoError> {
    let keys = repo.keys_now()?;
    let order = SetOrder {
        set,
        identity: MediaIdentity { org: repo.config().org.clone(), repo: repo.id() },
        config: repo.config().encode(),
        keys: keys.encode(),
    };
    Ok((order, keys.epochs()))
}

/// A point that is ordered though the set holds it was found lost, or nobody remembers it: it
/// is read back, and what is on no cartridge here, or does not hold, is written again.
fn forget_lost(
    repo: &Repo,
    library: Arc<dyn TapeLibrary>,
    writer: &mut MediaSetWriter,
    points: &[PointId],
) -> Result<(), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let again: Vec<PointId> =
        points.iter().filter(|point| writer.held().has_point(point)).copied().collect();
    if again.is_empty() {
        return Ok(());
    }
    let reader = MediaReader::open(library).map_err(|error| unavailable(&error))?;
    let mut needs: BTreeMap<PointId, BTreeSet<PackId>> = BTreeMap::new();
    for point in again {
        // What the repository here does not have cannot be written again either.
        let roots = repo.manifest_of(point).ok();
        let head = roots.and_then(|(_, manifest)| Manifest::decode_head(&manifest).ok());
        let closure = head.and_then(|head| repo.closure(&head.roots).ok());
        needs.insert(point, closure.map(|closure| closure.packs).unwrap_or_default());
    }
    let all: HashSet<PackId> = needs.values().flatten().copied().collect();
    let report = reader
        .fetch_packs(&all, &mut |_, source: &mut dyn Read| {
            io::copy(source, &mut io::sink()).map(drop)
        })
        .map_err(|error| unavailable(&error))?;
    let lost: HashSet<PackId> = report.missing.iter().copied().collect();
    let is_lost = |(point, packs): &(&PointId, &BTreeSet<PackId>)| {
        reader.manifest(**point).is_err() || packs.iter().any(|pack| lost.contains(pack))
    };
    let points = needs.iter().filter(is_lost).map(|(point, _)| *point).collect();
    writer.forget_packs(&lost);
    writer.forget_points(&points);
    Ok(())
}

/// Writes packs as they come out of the spool. One that cannot be read leaves the session as it
/// was, and is in the answer with the reason.
fn put_packs(
    spool: &Spool<'_>,
    writer: &mut MediaSetWriter,
    task: &Task,
    progress: &mut Progress,
) -> Result<BTreeMap<PackId, String>, Refusal> {
    let unreadable = |error| MediaError::Source { bytes: 0, source: io::Error::other(error) };
    let mut spoiled = BTreeMap::new();
    for (pack, bytes, source) in spool.packs() {
        if task.cancelled.is_cancelled() {
            return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
        }
        let put = source.map_err(unreadable);
        match put.and_then(|mut source| writer.put_pack(pack, bytes, &mut source)) {
            Ok(Put::Written) => {
                progress.bytes_read += bytes;
                progress.bytes_sent += bytes;
            }
            Ok(Put::AlreadyThere) => {}
            Err(error) if is_of_pack(&error) => {
                spoiled.insert(pack, Chain(&error).to_string());
                continue;
            }
            Err(error) => return Err(refused(RefusalKind::Unavailable, &error)),
        }
        progress.bytes_seen += bytes;
        task.progress(*progress);
    }
    Ok(spoiled)
}

const fn is_of_pack(error: &MediaError) -> bool {
    matches!(error, MediaError::PackMismatch { .. } | MediaError::Source { .. })
}

/// What was written counts; what was left out is to be tried again, when the rest is held
/// already and costs nothing.
fn conclude(
    done: (Progress, String),
    left_out: &[(PointId, String)],
) -> Result<(Progress, String), Refusal> {
    if left_out.is_empty() {
        return Ok(done);
    }
    let each: Vec<_> =
        left_out.iter().map(|(point, why)| format!("point {point}: {why}")).collect();
    let text = format!("{} left out: {}", each.len(), each.join("; "));
    Err(Refusal::new(RefusalKind::Damaged, text))
}

/// What is to be written, and what cannot be.
struct Wanted {
    packs: BTreeMap<PackId, u64>,
    points: Vec<WantedPoint>,
    left_out: Vec<(PointId, String)>,
}

struct WantedPoint {
    workload: WorkloadId,
    point: PointId,
    manifest: Vec<u8>,
    /// Those of its packs that the set does not hold yet.
    packs: BTreeSet<PackId>,
}

fn lacking(repo: &Repo, wrapped: u32, held: &Held, points: &[PointId]) -> Wanted {
    let mut wanted = Wanted { packs: BTreeMap::new(), points: Vec::new(), left_out: Vec::new() };
    for point in points.iter().filter(|point| !held.has_point(point)) {
        match want(repo, wrapped, held, *point, &mut wanted.packs) {
            Ok(found) => wanted.points.push(found),
            Err(error) => wanted.left_out.push((*point, Chain(&*error).to_string())),
        }
    }
    wanted
}

/// One point, its packs noted with their lengths only when it is all there.
fn want(
    repo: &Repo,
    wrapped: u32,
    held: &Held,
    point: PointId,
    lengths: &mut BTreeMap<PackId, u64>,
) -> Result<WantedPoint, Box<dyn std::error::Error + Send + Sync>> {
    let (workload, manifest) = repo.manifest_of(point)?;
    let head = Manifest::decode_head(&manifest)?;
    let closure = repo.closure(&head.roots)?;
    let packs: BTreeSet<_> =
        closure.packs.into_iter().filter(|pack| !held.has_pack(pack)).collect();
    let mut found = Vec::with_capacity(packs.len());
    check_wrapped(head.key_epoch, wrapped)?;
    for pack in &packs {
        check_wrapped(repo.pack_epoch(*pack)?, wrapped)?;
        found.push((*pack, repo.pack_len(*pack)?));
    }
    lengths.extend(found);
    Ok(WantedPoint { workload, point, manifest, packs })
}

/// A medium and a recovery key must be enough: what the keys on the medium do not open stays off
/// it until they do.
fn check_wrapped(epoch: u32, wrapped: u32) -> Result<(), String> {
    match epoch <= wrapped {
        true => Ok(()),
        false => Err(format!(
            "it needs key epoch {epoch} and the keys file here wraps {wrapped}: `strongroom keys \
             adopt` the keys of the other site first"
        )),
    }
}

/// A repository in memory, and points that need nothing, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
pub(crate) mod testing {
    use std::sync::Arc;

    use strongroom_protocol::{BlobKind, PointId, Reference, RepoId, Timestamp, WorkloadId};
    use strongroom_store::cut::CutParams;
    use strongroom_store::disk::sim::SimDisk;
    use strongroom_store::keys::VaultKey;
    use strongroom_store::parcel::Compressor;
    use strongroom_store::repo::{Mode, Options, Repo, RepoSetup};
    use strongroom_store::seal::seal;
    use strongroom_store::writer::WriterLimits;

    const REPO: RepoId = RepoId::from_bytes([1; 16]);
    const KEY: VaultKey = VaultKey::from_bytes([3; 32]);
    pub(crate) const WORKLOAD: WorkloadId = WorkloadId::from_bytes([2; 16]);

    pub(crate) fn repo(disk: &SimDisk) -> Repo {
        let setup = RepoSetup {
            repo: REPO,
            org: "acme".parse().unwrap(),
            cut: CutParams::FILES,
            created: Timestamp(1),
            wraps: vec![vec![1]],
        };
        Repo::create(disk, &setup, &KEY).unwrap();
        let options = Options { mode: Mode::Write, limits: WriterLimits::default() };
        Repo::open(Arc::new(disk.clone()), &KEY, options).unwrap()
    }

    /// A page that needs nothing.
    pub(crate) fn page(repo: &Repo) -> Reference {
        let (keys, mut compressor) = (KEY.agent_keys(), Compressor::new().unwrap());
        let parcel = compressor.pack(&keys, BlobKind::Page, Vec::new(), &[7; 100], 1).unwrap();
        repo.insert(seal(&KEY, REPO, &parcel).unwrap(), &[]).unwrap();
        Reference { kind: BlobKind::Page, id: parcel.head.id }
    }

    /// Of a point that needs nothing.
    pub(crate) fn manifest(point: PointId) -> Vec<u8> {
        manifest_over(point, &[])
    }

    /// Framed as the format says.
    pub(crate) fn manifest_over(point: PointId, roots: &[Reference]) -> Vec<u8> {
        let names = (*REPO.as_bytes(), *WORKLOAD.as_bytes(), *point.as_bytes());
        let head = postcard::to_stdvec(&(names, 5_i64, 0_u8, roots, 1_u32, 1_u32)).unwrap();
        let mut bytes = b"SRPOIN01".to_vec();
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&16_u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 28]);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_store::disk::sim::{Damage, SimDisk};
    use strongroom_store::keys::VaultKey;
    use strongroom_store::repo::RepoKeys;

    use super::testing::{WORKLOAD, manifest, repo};
    use super::*;

    #[test]
    fn a_point_that_cannot_be_had_is_left_out_and_the_others_are_written() {
        let disk = SimDisk::new();
        let repo = repo(&disk);
        let [sound, damaged, absent] = [5, 6, 7].map(|n| PointId::from_bytes([n; 16]));
        for point in [sound, damaged] {
            repo.commit_point(WORKLOAD, point, &manifest(point)).unwrap();
        }
        let path = format!("points/{WORKLOAD}/{damaged}");
        assert_eq!(disk.damage(&path, |bytes| bytes[20] ^= 1), Damage::Done);
        let wanted = lacking(&repo, 1, &Held::default(), &[damaged, absent, sound]);
        let good: Vec<_> = wanted.points.iter().map(|wanted| wanted.point).collect();
        assert_eq!(good, [sound]);
        let bad: Vec<_> = wanted.left_out.iter().map(|(point, _)| *point).collect();
        assert_eq!(bad, [damaged, absent]);
        let told = conclude((Progress::default(), String::new()), &wanted.left_out).unwrap_err();
        assert_eq!(told.kind, RefusalKind::Damaged);
        assert!(told.text.contains(&absent.to_string()), "{told}");
        assert!(!told.text.contains(&sound.to_string()), "{told}");
    }

    #[test]
    fn media_get_the_keys_as_they_are_when_a_session_begins() {
        let disk = SimDisk::new();
        let repo = repo(&disk);
        let set = || "yearly".parse().unwrap();
        let (before, epochs) = order_of(&repo, set()).unwrap();
        assert_eq!((before.keys, epochs), (repo.keys_file().encode(), 1));
        let changed = RepoKeys::new(repo.id(), vec![b"another passphrase".to_vec()]);
        RepoKeys::change(&disk, |_, _| Ok::<_, RepoError>((changed.clone(), ()))).unwrap();
        let (after, _) = order_of(&repo, set()).unwrap();
        assert_eq!(after.keys, changed.encode(), "without opening the repository again");
        let key = VaultKey::from_bytes([3; 32]).rotated().unwrap();
        let rotated = RepoKeys::of(repo.id(), &key, vec![b"rotated".to_vec()]);
        RepoKeys::change(&disk, |_, _| Ok::<_, RepoError>((rotated.clone(), ()))).unwrap();
        let (after, epochs) = order_of(&repo, set()).unwrap();
        assert_eq!((after.keys, epochs), (rotated.encode(), 2));
    }

    #[test]
    fn a_medium_gets_no_pack_that_its_keys_do_not_open() {
        let disk = SimDisk::new();
        let repo = repo(&disk);
        let point = PointId::from_bytes([5; 16]);
        repo.commit_point(WORKLOAD, point, &manifest(point)).unwrap();
        // As an unrotated vault, and as one whose point is of an epoch not taken over yet.
        assert_eq!(lacking(&repo, 1, &Held::default(), &[point]).points.len(), 1);
        let owed = lacking(&repo, 0, &Held::default(), &[point]);
        assert!(owed.points.is_empty());
        let [(_, why)] = owed.left_out.as_slice() else { panic!("{:?}", owed.left_out) };
        assert!(why.contains("key epoch 1") && why.contains("keys adopt"), "{why}");
    }
}

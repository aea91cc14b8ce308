//! Puts points on media: the packs they need that the set does not hold yet, then their
//! manifests, in one session whose catalog closes it. What a session wrote counts only once
//! it is finished, and packs go as they are. A point that cannot be had is left out and named,
//! and costs the others nothing.

mod books;
mod lanes;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, MediaSetName, PackId, PointId, WorkloadId};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{
    Held, MediaError, MediaIdentity, MediaReader, MediaSetWriter, Put, SetOrder, Spool, Surveyed,
};
use strongroom_store::repo::{Repo, RepoError};

pub(crate) use self::lanes::{Tally, first_lane};
use crate::cartridges::Known;
use crate::orders::Media;

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

/// Writes `points` to `set`, with as many drives at once as the settings and the library have;
/// blocking.
pub(crate) fn write_points(
    repo: &Repo,
    media: &Media,
    set: MediaSetName,
    points: &[PointId],
    tally: &Tally<'_>,
) -> Result<(Progress, String), Refusal> {
    // What is read stays until the reader is done, whatever is collected meanwhile.
    let session = repo.session();
    let repo: &Repo = &session;
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    // What was let go there is to be kept again, before anything is decided by it.
    media.keeper.wanted(&set, points)?;
    let known = media.known()?;
    let slots = media.library.inventory().map_err(|error| unavailable(&error))?;
    let (order, wrapped) = order_of(repo, set).map_err(|error| unavailable(&error))?;
    let released = known.released_for(&order.set, &media.settings, &slots);
    let order = SetOrder { released, ..order };
    let lanes = (media.settings.drives.get() as usize).min(media.library.drives());
    let orders = lanes::orders(&order, lanes)?;
    let mut surveyed = Surveyed::of(&media.library, orders).map_err(|error| unavailable(&error))?;
    books::let_lapse(media, &known, &order.set, &mut surveyed)?;
    let mut writers = surveyed.open(&media.clock).map_err(|error| unavailable(&error))?;
    forget_lost(repo, (media, &known), &mut writers, points)?;
    let shares = lanes::share(repo, &writers, points);
    lanes::run(writers, shares, &|mut writer, points| {
        let written = write_lane(repo, wrapped, &mut writer, points, tally);
        let noted = books::settle(repo, media, &order.set, &writer, points);
        written.and_then(|written| noted.map(|()| written))
    })
}

/// Writes points to one set with one drive.
fn write_lane(
    repo: &Repo,
    wrapped: u32,
    writer: &mut MediaSetWriter,
    points: &[PointId],
    tally: &Tally<'_>,
) -> Result<(Progress, String), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let Wanted { packs, points, mut left_out } = lacking(repo, wrapped, writer.held(), points);
    if points.is_empty() {
        return conclude((Progress::default(), "the set holds it already".to_owned()), &left_out);
    }
    let total: u64 = packs.values().sum();
    tally.add(|sum| sum.bytes_total = Some(sum.bytes_total.unwrap_or(0) + total));
    writer.begin(total).map_err(|error| unavailable(&error))?;
    let began = Instant::now();
    let (progress, spoiled, waited) = Spool::run(repo, packs, |spool| {
        put_packs(spool, writer, tally)
            .map(|(progress, spoiled)| (progress, spoiled, spool.waited()))
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
        released: BTreeSet::new(),
    };
    Ok((order, keys.epochs()))
}

/// A point that is ordered though the set holds it was found lost, or nobody remembers it: it
/// is read back, and what is on no cartridge here, or does not hold, is written again.
fn forget_lost(
    repo: &Repo,
    (media, known): (&Media, &Known),
    writers: &mut [MediaSetWriter],
    points: &[PointId],
) -> Result<(), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let held = |point: &&PointId| writers.iter().any(|writer| writer.held().has_point(point));
    let again: Vec<PointId> = points.iter().filter(held).copied().collect();
    if again.is_empty() {
        return Ok(());
    }
    let library = Arc::clone(&media.library);
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
    media.note_flawed(&report.flawed)?;
    // What can be fetched is not lost.
    let flawed: HashSet<PackId> = report.flawed.iter().map(|flawed| flawed.pack).collect();
    let told = known.wanting(&reader, &report.missing, &[]);
    let is_away = |pack: &PackId| !told.nowhere.contains(pack) && !flawed.contains(pack);
    let lost: HashSet<PackId> =
        report.missing.iter().copied().filter(|pack| !is_away(pack)).collect();
    let is_lost = |(point, packs): &(&PointId, &BTreeSet<PackId>)| {
        let has_manifest = reader.manifest(**point).is_ok() || known.holds_away(&reader, **point);
        !has_manifest || packs.iter().any(|pack| lost.contains(pack))
    };
    let points: HashSet<PointId> = needs.iter().filter(is_lost).map(|(point, _)| *point).collect();
    if !lost.is_empty() || !points.is_empty() {
        books::doubt(media, known, writers)?;
    }
    for writer in writers {
        writer.forget_packs(&lost);
        writer.forget_points(&points);
    }
    Ok(())
}

/// Writes packs as they come out of the spool. One that cannot be read leaves the session as it
/// was, and is in the answer with the reason.
fn put_packs(
    spool: &Spool<'_>,
    writer: &mut MediaSetWriter,
    tally: &Tally<'_>,
) -> Result<(Progress, BTreeMap<PackId, String>), Refusal> {
    let unreadable = |error| MediaError::Source { bytes: 0, source: io::Error::other(error) };
    let (mut progress, mut spoiled) = (Progress::default(), BTreeMap::new());
    for (pack, bytes, source) in spool.packs() {
        if tally.cancelled.is_cancelled() {
            return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
        }
        let put = source.map_err(unreadable);
        let sent = match put.and_then(|mut source| writer.put_pack(pack, bytes, &mut source)) {
            Ok(Put::Written) => bytes,
            Ok(Put::AlreadyThere) => 0,
            Err(error) if is_of_pack(&error) => {
                spoiled.insert(pack, Chain(&error).to_string());
                continue;
            }
            Err(error) => return Err(refused(RefusalKind::Unavailable, &error)),
        };
        let add = |sum: &mut Progress| {
            sum.bytes_read += sent;
            sum.bytes_sent += sent;
            sum.bytes_seen += bytes;
        };
        add(&mut progress);
        tally.add(add);
    }
    Ok((progress, spoiled))
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

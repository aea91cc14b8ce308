//! Media without any node: what cartridges hold, and a point brought from them into a staging
//! directory that is then an ordinary repository. Promises that an interrupted staging goes on
//! where it was, that only packs a selection needs stay on the disk, and that cartridges that
//! are missing are named. Needs the recovery key or the passphrase, and nothing else.

mod away;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_agent::restore::select::Selection;
use strongroom_protocol::{ChunkId, MediumId, PackId, PointId, RepoId, Timestamp, WorkloadId};
use strongroom_store::content::{ChunkExtent, Meta, Node};
use strongroom_store::disk::{Disk, LocalDisk};
use strongroom_store::keys::VaultKey;
use strongroom_store::manifest::Manifest;
use strongroom_store::media::{FileReport, MediaError, MediaReader, MediumInfo, Place};
use strongroom_store::pack::{pack_path, read_footer};
use strongroom_store::repo::{Mode, Repo, RepoKeys};
use strongroom_store::tape::{TapeError, TapeLibrary, open_library};
use strongroom_store::tree::{Step, Tree};

use crate::failure::{Failure, While};
use crate::scene::{Scene, Source, Spot};
use crate::vault::{Opener, unwrap};

/// The cartridges in a library.
pub(crate) struct Shelf {
    reader: MediaReader,
    library: Arc<dyn TapeLibrary>,
    /// As it was named.
    path: PathBuf,
}

/// A point on media.
pub(crate) struct MediaPoint {
    pub(crate) point: PointId,
    pub(crate) repo: RepoId,
    pub(crate) workload: WorkloadId,
    pub(crate) moment: Timestamp,
    pub(crate) barcodes: BTreeSet<String>,
    /// Where a key was given and the manifest opens.
    pub(crate) manifest: Option<Manifest>,
}

/// What bringing data from media came to.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    pub(crate) packs: u64,
    pub(crate) bytes: u64,
    /// Chunks that no cartridge here gave.
    pub(crate) lacking: usize,
    /// Cartridges that may hold them.
    pub(crate) wanted: BTreeSet<String>,
}

impl Shelf {
    /// Looks at every cartridge once.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let library = open_library(dir, Path::new(".")).map_err(|error| {
            let used = matches!(error, TapeError::LibraryInUse { .. });
            let failure = Failure::from(error);
            match used {
                true => failure.hint("stop the proxy that uses it, or restore --from secondary"),
                false => failure.hint(
                    "name the directory of library.json and the cartridges, or iscsi://HOST/TARGET",
                ),
            }
        })?;
        let reader = MediaReader::open(Arc::clone(&library))?;
        Ok(Self { reader, library, path: dir.to_owned() })
    }

    /// Every medium known.
    pub(crate) fn media(&self) -> Vec<MediumInfo> {
        self.reader.media()
    }

    /// Reads every block of a medium and checks every file.
    pub(crate) fn verify(&self, medium: MediumId) -> Result<Vec<FileReport>, MediaError> {
        self.reader.verify(medium)
    }

    /// The other cartridges a pack lies on.
    pub(crate) fn others(&self, pack: PackId, than: MediumId) -> Vec<String> {
        let places = self.reader.held().packs.get(&pack).map(|held| held.places.as_slice());
        let other = |medium: &MediumInfo| {
            let lies = |place: &Place| place.medium == medium.medium && place.medium != than;
            places.unwrap_or_default().iter().any(lies)
        };
        self.media().into_iter().filter(other).map(|medium| medium.barcode.to_string()).collect()
    }

    /// The vault key of a repository, opened: by its newest keys that the secret opens.
    pub(crate) fn vault_key(&self, repo: RepoId, opener: &Opener) -> Result<VaultKey, Failure> {
        let (mut key, mut refused) = (None, None);
        self.reader.find_keys(repo, &mut |bytes| {
            let opened = RepoKeys::decode(bytes, "the keys file on the media")
                .map_err(Failure::from)
                .and_then(|keys| Ok(unwrap(&keys, opener)?));
            match opened {
                Ok(found) => key = Some(found),
                // What the newest says is what counts.
                Err(failure) => drop(refused.get_or_insert(failure)),
            }
            key.is_some()
        })?;
        match (key, refused) {
            (Some(key), _) => Ok(key),
            (None, Some(failure)) => Err(failure),
            // None is here: this says where they may be.
            (None, None) => {
                let bytes = self.reader.keys(repo)?;
                Ok(unwrap(&RepoKeys::decode(&bytes, "the keys file on the media")?, opener)?)
            }
        }
    }

    /// Every point known, newest first; with names where a key opens them.
    pub(crate) fn points(&self, opener: Option<&Opener>) -> Result<Vec<MediaPoint>, Failure> {
        let mut keys: HashMap<RepoId, VaultKey> = HashMap::new();
        let mut points = Vec::new();
        let barcodes: HashMap<_, _> =
            self.media().into_iter().map(|medium| (medium.medium, medium.barcode)).collect();
        for (point, held) in &self.reader.held().points {
            if let (Some(opener), false) = (opener, keys.contains_key(&held.repo)) {
                keys.insert(held.repo, self.vault_key(held.repo, opener)?);
            }
            let manifest = keys.get(&held.repo).and_then(|key| {
                let bytes = self.reader.manifest(*point).ok()?;
                Manifest::decode(&bytes, key).ok()
            });
            let places = held.places.iter().filter_map(|place| barcodes.get(&place.medium));
            points.push(MediaPoint {
                point: *point,
                repo: held.repo,
                workload: held.workload,
                moment: held.moment,
                barcodes: places.map(ToString::to_string).collect(),
                manifest,
            });
        }
        points.sort_by_key(|point| (std::cmp::Reverse(point.moment), point.point));
        Ok(points)
    }

    /// Brings a point's metadata into `staging` and looks into it.
    pub(crate) fn stage(
        &self,
        staging: &Path,
        point: PointId,
        key: &VaultKey,
    ) -> Result<Staged<'_>, Failure> {
        let base = self.reader.stage_base(staging, point)?;
        let lost = &base.metadata;
        if !lost.missing.is_empty() {
            if !lost.wanted.is_empty() {
                return Err(away::fetch(&lost.wanted, &self.path));
            }
            let packs = lost.missing.len();
            return Err(Failure::new(format!("{packs} packs of metadata are missing"))
                .hint("they are damaged on every cartridge here"));
        }
        let repo = open(staging, key)?;
        Ok(Staged {
            shelf: self,
            disk: LocalDisk::new(staging),
            key: key.clone(),
            repo: base.repo,
            data: base.data,
            elsewhere: HashMap::new(),
            seen: HashSet::new(),
            manifest: repo.point(point)?,
            scene: Scene::open(Arc::new(repo.clone()), repo.point(point)?)?,
            opened: repo,
        })
    }
}

/// A point whose metadata is staged.
pub(crate) struct Staged<'shelf> {
    shelf: &'shelf Shelf,
    disk: LocalDisk,
    key: VaultKey,
    repo: RepoId,
    data: HashSet<PackId>,
    /// Where chunks are that were seen and not wanted then.
    elsewhere: HashMap<ChunkId, PackId>,
    /// Packs that were seen and not wanted then.
    seen: HashSet<PackId>,
    manifest: Manifest,
    opened: Repo,
    pub(crate) scene: Scene,
}

impl Staged<'_> {
    /// Brings what the selection below `page` needs; `tell` hears how far it is. The scene
    /// reads it afterwards.
    pub(crate) fn bring(
        &mut self,
        staging: &Path,
        page: ChunkId,
        selection: &Selection,
        tell: &mut dyn FnMut(&Brought),
    ) -> Result<Brought, Failure> {
        let lacking = needed(&self.scene.tree, page, selection)?;
        self.bring_chunks(staging, lacking, tell)
    }

    /// Brings chunks; only packs that are known to hold some of them are read, as far as all of
    /// them are known. The scene reads them afterwards.
    pub(crate) fn bring_chunks(
        &mut self,
        staging: &Path,
        lacking: HashSet<ChunkId>,
        tell: &mut dyn FnMut(&Brought),
    ) -> Result<Brought, Failure> {
        let mut lacking = self.lacking(lacking)?;
        let mut brought = Brought::default();
        if !lacking.is_empty() {
            let wanted = self.packs_for(&lacking);
            let fetched = self.shelf.reader.fetch_packs(&wanted, &mut |pack, source| {
                let kept = keep(&self.disk, self.repo, (staging, pack), source, &mut lacking)?;
                match kept {
                    Kept::Bytes(bytes) => {
                        brought.packs += 1;
                        brought.bytes += bytes;
                    }
                    Kept::Nothing(ids) => {
                        self.elsewhere.extend(ids.into_iter().map(|id| (id, pack)));
                        self.seen.insert(pack);
                    }
                }
                tell(&brought);
                // Nothing is lacking any more: an error ends the reading early.
                if lacking.is_empty() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            });
            match fetched {
                Ok(report) => {
                    brought.wanted = report.wanted.iter().map(ToString::to_string).collect();
                }
                Err(MediaError::Sink { .. }) if lacking.is_empty() => {}
                Err(error) => return Err(error.into()),
            }
        }
        brought.lacking = lacking.len();
        if brought.packs > 0 {
            self.reopen(staging)?;
        }
        Ok(brought)
    }

    /// Those of the chunks that are not staged yet.
    fn lacking(&self, mut chunks: HashSet<ChunkId>) -> Result<HashSet<ChunkId>, Failure> {
        let ids: Vec<ChunkId> = chunks.iter().copied().collect();
        for (id, place) in ids.iter().zip(self.opened.place(&ids)?) {
            if place.is_some() {
                chunks.remove(id);
            }
        }
        Ok(chunks)
    }

    /// Opens what is staged again, so that it knows what was brought.
    fn reopen(&mut self, staging: &Path) -> Result<(), Failure> {
        let repo = open(staging, &self.key)?;
        let source: Source = Arc::new(repo.clone());
        self.scene = Scene::open(source, self.manifest.clone())?;
        self.opened = repo;
        Ok(())
    }

    /// The packs to read for these chunks: those that hold them, or all that may.
    fn packs_for(&self, lacking: &HashSet<ChunkId>) -> HashSet<PackId> {
        let known: Option<HashSet<PackId>> =
            lacking.iter().map(|id| self.elsewhere.get(id).copied()).collect();
        known.unwrap_or_else(|| {
            let here: HashSet<PackId> = self.opened.packs().into_iter().collect();
            let known = lacking.iter().filter_map(|id| self.elsewhere.get(id).copied());
            let unseen = self.data.difference(&here).filter(|pack| !self.seen.contains(*pack));
            unseen.copied().chain(known).collect()
        })
    }

    /// The repository as far as it is staged.
    pub(crate) fn repo(&self) -> Repo {
        self.opened.clone()
    }

    /// How blobs are named, to know what a target holds already.
    pub(crate) const fn key(&self) -> &VaultKey {
        &self.key
    }
}

/// What became of a pack that was read from media.
enum Kept {
    /// It was put into the staging directory; its length.
    Bytes(u64),
    /// Nothing that is lacking is in it; what is.
    Nothing(Vec<ChunkId>),
}

/// Puts a pack into the staging directory if anything lacking is in it.
fn keep(
    disk: &LocalDisk,
    repo: RepoId,
    (staging, pack): (&Path, PackId),
    source: &mut dyn Read,
    lacking: &mut HashSet<ChunkId>,
) -> io::Result<Kept> {
    let beside = format!("tmp/{pack}.staged");
    let path = staging.join(&beside);
    let bytes = {
        let mut file = File::create(&path)?;
        let bytes = io::copy(source, &mut file)?;
        file.sync_all()?;
        bytes
    };
    let file = disk.open(&beside).map_err(io::Error::other)?;
    let (class, entries) = read_footer(&*file, repo).map_err(io::Error::other)?;
    let before = lacking.len();
    for entry in &entries {
        lacking.remove(&entry.id);
    }
    if lacking.len() == before {
        fs::remove_file(&path)?;
        return Ok(Kept::Nothing(entries.into_iter().map(|entry| entry.id).collect()));
    }
    let place = staging.join(pack_path(class, pack));
    fs::create_dir_all(place.parent().unwrap_or(staging))?;
    fs::rename(&path, &place)?;
    Ok(Kept::Bytes(bytes))
}

fn open(staging: &Path, key: &VaultKey) -> Result<Repo, Failure> {
    let disk = Arc::new(LocalDisk::new(staging));
    Repo::open(disk, key, Mode::Read).doing("cannot open what was staged")
}

/// Every chunk the selection needs. What cannot be read is told by the restore itself.
fn needed(
    tree: &Tree<Source>,
    page: ChunkId,
    selection: &Selection,
) -> Result<HashSet<ChunkId>, Failure> {
    let mut chunks = HashSet::new();
    let mut walk = tree.walk_from(page, b"");
    // Of each open directory: whether everything in it is wanted.
    let mut open: Vec<bool> = Vec::new();
    while let Some(step) = walk.next() {
        match step {
            Step::Damaged(_) => {}
            Step::Leave { .. } => {
                open.pop();
            }
            Step::Enter { path, entry } => {
                let is_dir = entry.directory_page().is_some();
                let within = open.last().copied().unwrap_or(false);
                let wanted = within || selection.wants(&path, is_dir);
                match (&entry.node, wanted) {
                    (Node::Directory { .. }, false) if !selection.may_want_below(&path) => {
                        walk.leave_out();
                    }
                    (Node::Directory { .. }, wanted) => open.push(wanted),
                    (Node::File { content, .. }, true) => {
                        let extents = tree.extents(content).filter_map(Result::ok);
                        chunks.extend(extents.filter_map(|placed| match placed.extent {
                            ChunkExtent::Chunk { id, .. } => Some(id),
                            ChunkExtent::Hole { .. } => None,
                        }));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(chunks)
}

/// What a restore aims at.
pub(crate) struct Aim {
    /// The directory restored from.
    pub(crate) page: ChunkId,
    /// Its metadata, where the target is to become it.
    pub(crate) meta: Option<Meta>,
    /// The names wanted in it; none means everything.
    pub(crate) names: Vec<Vec<u8>>,
}

/// A directory by itself, or one name in the directory around it.
pub(crate) fn aim(scene: &Scene, path: &[u8]) -> Result<Aim, Failure> {
    Ok(match scene.spot(path)? {
        Spot::Directory { page, meta } => Aim { page, meta, names: Vec::new() },
        Spot::Other { entry, parent } => Aim { page: parent, meta: None, names: vec![entry.name] },
    })
}

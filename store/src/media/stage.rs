//! An ordinary repository directory made from media, for restoring where nothing else is
//! left. Promises that every file appears whole and checked, or not at all, and that an
//! interrupted staging goes on where it was. Refuses a directory of another repository.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use strongroom_protocol::{PackId, PointId, RepoId, WorkloadId};

use crate::media::MediaError;
use crate::media::catalog::HeldPack;
use crate::media::read::{FetchReport, MediaReader};
use crate::pack::PackClass;

/// What staging the base of a point came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StagedBase {
    pub repo: RepoId,
    pub workload: WorkloadId,
    /// How fetching the metadata packs went.
    pub metadata: FetchReport,
    /// Every data pack the point may need: a selection needs some of them.
    pub data: HashSet<PackId>,
}

impl MediaReader {
    /// Writes config, keys, the point's manifest and all metadata packs that it may need
    /// into `directory`, which is then a repository to be opened read-only.
    pub fn stage_base(&self, directory: &Path, point: PointId) -> Result<StagedBase, MediaError> {
        let Some(held) = self.held().points.get(&point) else {
            let what = format!("the manifest of point {point}");
            return Err(MediaError::NotHere { what, wanted: Vec::new() });
        };
        let (repo, workload) = (held.repo, held.workload);
        let config = self.config(repo)?;
        refuse_other(directory, &config)?;
        for part in ["packs/d", "packs/m", "points", "index", "tmp"] {
            make(&directory.join(part))?;
        }
        place(directory, &directory.join("config"), &config)?;
        place(directory, &directory.join("keys"), &self.keys(repo)?)?;
        // A point needs nothing that was first written after it.
        let session = held.places.iter().map(|place| place.session).min().unwrap_or(u32::MAX);
        let needed = |pack: &HeldPack| {
            let first = pack.places.iter().map(|place| place.session).min();
            pack.repo == repo && first.is_some_and(|first| first <= session)
        };
        let packs = self.held().packs.iter().filter(|(_, pack)| needed(pack));
        let (metadata, data): (Vec<_>, Vec<_>) =
            packs.partition(|(_, pack)| pack.class == PackClass::Metadata);
        let ids = |packs: Vec<(&PackId, &HeldPack)>| packs.into_iter().map(|(id, _)| *id).collect();
        let metadata = self.stage_packs(directory, &ids(metadata))?;
        let manifest = self.manifest(point)?;
        let shelf = directory.join("points").join(workload.to_string());
        make(&shelf)?;
        place(directory, &shelf.join(point.to_string()), &manifest)?;
        Ok(StagedBase { repo, workload, metadata, data: ids(data) })
    }

    /// Adds packs to a staged directory. Those it has already are not read again and not
    /// counted as fetched.
    pub fn stage_packs(
        &self,
        directory: &Path,
        wanted: &HashSet<PackId>,
    ) -> Result<FetchReport, MediaError> {
        let path = |pack: &PackId| {
            let class = self.held().packs.get(pack).map(|held| held.class);
            pack_path(directory, pack, class.unwrap_or(PackClass::Data))
        };
        let lacking = wanted.iter().filter(|pack| !path(pack).exists()).copied().collect();
        make(&directory.join("tmp"))?;
        self.fetch_packs(&lacking, &mut |pack, source| {
            let beside = directory.join("tmp").join(format!("{pack}.staged"));
            let path = path(&pack);
            fs::create_dir_all(path.parent().unwrap_or(directory))?;
            let written = write(&beside, source).and_then(|()| fs::rename(&beside, &path));
            if written.is_err() {
                // What is left of it is of no use; the error is what matters.
                let _ = fs::remove_file(&beside);
            }
            written
        })
    }
}

/// Stages a point with every data pack it may need; for a selection, use the two steps and
/// compute the data packs from the metadata between them.
pub fn stage(
    reader: &MediaReader,
    point: PointId,
    directory: &Path,
) -> Result<(StagedBase, FetchReport), MediaError> {
    let base = reader.stage_base(directory, point)?;
    let data = reader.stage_packs(directory, &base.data)?;
    Ok((base, data))
}

fn pack_path(directory: &Path, pack: &PackId, class: PackClass) -> PathBuf {
    let name = pack.to_string();
    let shelf = name.get(..2).unwrap_or_default();
    directory.join("packs").join(class.directory()).join(shelf).join(&name)
}

fn refuse_other(directory: &Path, config: &[u8]) -> Result<(), MediaError> {
    let path = directory.join("config");
    match fs::read(&path) {
        Ok(found) if found == config => Ok(()),
        Ok(_) => Err(MediaError::ForeignFile { what: "config in the staging directory" }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(MediaError::Io { path, source }),
    }
}

fn make(path: &Path) -> Result<(), MediaError> {
    fs::create_dir_all(path).map_err(|source| MediaError::Io { path: path.to_owned(), source })
}

fn place(directory: &Path, path: &Path, mut bytes: &[u8]) -> Result<(), MediaError> {
    let beside = directory.join("tmp").join("file.staged");
    let written = write(&beside, &mut bytes).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| MediaError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, source: &mut dyn Read) -> io::Result<()> {
    let mut file = File::create(path)?;
    io::copy(source, &mut file)?;
    file.flush()?;
    file.sync_all()
}

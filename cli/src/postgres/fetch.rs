//! One file of the log for a server that recovers: a segment or a history, out of the points of
//! a log. What each point holds is remembered in the operator's home, for a server asks for one
//! file after another; what is remembered may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strongroom_agent::workload::postgres::about::{self, About};
use strongroom_protocol::{PointId, WorkloadName};

use super::origin::{Opened, Origin};
use crate::failure::{Failure, While};
use crate::scene::{Scene, Spot};
use crate::session::{Session, blocking};

/// Below the operator's home.
const DIRECTORY: &str = "cache";
/// What is read of a file at a time, in bytes.
const READ_BYTES: u64 = 16 << 20;

/// Whether a file of the log is anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nowhere,
    Written,
}

/// Puts the file called `name` to `target`, if a point of `workload` has it.
pub(crate) async fn fetch(
    session: &Session,
    origin: &Origin,
    (workload, name): (&WorkloadName, &str),
    target: &Path,
) -> Result<Found, Failure> {
    let path = session.home.join(DIRECTORY).join(format!("{workload}.pg-log"));
    let mut index = Index::load(path);
    let points = origin.points_of(workload).await?;
    if points.is_empty() {
        // A name that was mistyped must not look like the end of the log.
        return Err(Failure::new(format!("there is no point of {workload}"))
            .hint("`strongroom points` lists the points of every workload"));
    }
    let known: Vec<String> = points.iter().map(ToString::to_string).collect();
    index.retain(&known);
    let learned = learn(session, origin, workload, (&points, &mut index)).await;
    index.save();
    learned?;
    if let [one, other, ..] = index.systems().as_slice() {
        return Err(Failure::new(format!(
            "the points of {workload} hold the log of system {one} and of system {other}"
        ))
        .hint(
            "restore those of the right one to a directory, and recover with `restore --wal DIR`",
        ));
    }
    // The newest has the fuller file of a name.
    let holds = |point: &&PointId| index.holds(&point.to_string(), name) == Some(true);
    let Some(point) = points.iter().rev().find(holds) else { return Ok(Found::Nowhere) };
    let Opened { scene, .. } = origin.open_known(session, *point).await?;
    let (name, target) = (name.to_owned(), target.to_owned());
    blocking(move || write(&scene, &name, &target)).await?;
    Ok(Found::Written)
}

/// Asks the points of which nobody knows yet what they hold.
async fn learn(
    session: &Session,
    origin: &Origin,
    workload: &WorkloadName,
    (points, index): (&[PointId], &mut Index),
) -> Result<(), Failure> {
    for point in points {
        let id = point.to_string();
        if index.points.contains_key(&id) {
            continue;
        }
        let About::Log(log) = origin.open_known(session, *point).await?.about else {
            return Err(Failure::usage(format!("the points of {workload} are no log"))
                .hint("name a workload whose mode is \"wal\""));
        };
        index.learn(&id, Held { system: log.system_identifier, files: log.files });
    }
    Ok(())
}

fn write(scene: &Scene, name: &str, target: &Path) -> Result<(), Failure> {
    let path = format!("{}/{name}", about::LOG_DIRECTORY);
    let Spot::Other { entry, .. } = scene.spot(path.as_bytes())? else {
        return Err(Failure::new("the point is not as its description says"));
    };
    let shown = || format!("cannot write {}", target.display());
    let mut file = File::create(target).doing(shown())?;
    let mut at = 0;
    loop {
        let bytes = scene.tree.read_file(&entry, at, READ_BYTES)?;
        if bytes.is_empty() {
            break;
        }
        file.write_all(&bytes).doing(shown())?;
        at += bytes.len() as u64;
    }
    file.sync_all().doing(shown())
}

/// What a point holds: which files, of the log of which system.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    system: u64,
    files: Vec<String>,
}

/// What each point holds, by the points' ids.
#[derive(Debug)]
struct Index {
    path: PathBuf,
    points: BTreeMap<String, Held>,
    is_new: bool,
}

impl Index {
    fn load(path: PathBuf) -> Self {
        let read = fs::read(&path).ok();
        let points = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, points: points.unwrap_or_default(), is_new: false }
    }

    /// Forgets points that are gone.
    fn retain(&mut self, known: &[String]) {
        self.points.retain(|id, _| known.contains(id));
    }

    /// Whether a point holds a file; none where nobody knows.
    fn holds(&self, id: &str, name: &str) -> Option<bool> {
        Some(self.points.get(id)?.files.iter().any(|file| file == name))
    }

    /// The systems whose logs they are, each once.
    fn systems(&self) -> Vec<u64> {
        let systems: BTreeSet<u64> = self.points.values().map(|held| held.system).collect();
        systems.into_iter().collect()
    }

    fn learn(&mut self, id: &str, held: Held) {
        self.is_new |= self.points.insert(id.to_owned(), held).is_none();
    }

    /// Remembers it; where that cannot be, the next call asks once more.
    fn save(&self) {
        if !self.is_new {
            return;
        }
        let Some(dir) = self.path.parent() else { return };
        let written = fs::create_dir_all(dir)
            .and_then(|()| tempfile::NamedTempFile::new_in(dir))
            .and_then(|mut file| {
                file.write_all(&serde_json::to_vec(&self.points)?)?;
                Ok(file.persist(&self.path)?)
            });
        if let Err(error) = written {
            tracing::debug!(%error, "what points hold is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_hold_is_remembered_until_they_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/log.pg-log");
        let mut index = Index::load(path.clone());
        assert_eq!(index.holds("1", "a"), None);
        let held = |system, file: &str| Held { system, files: vec![file.to_owned()] };
        index.learn("1", held(7, "a"));
        index.learn("2", held(8, "b"));
        assert_eq!(index.systems(), [7, 8]);
        index.save();
        let mut index = Index::load(path.clone());
        assert_eq!((index.holds("1", "a"), index.holds("1", "b")), (Some(true), Some(false)));
        index.retain(&["2".to_owned()]);
        assert_eq!((index.holds("1", "a"), index.systems()), (None, vec![8]));
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(Index::load(path).holds("2", "b"), None);
    }
}

//! Finds out what a copy is worth: the secondary snap by reading the whole point and checking
//! every blob against its name, a media copy by reading every pack it needs from the
//! cartridges. What is found is evidence with a date, not an assumption.

mod window;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{Chain, ChunkId, PointId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Node};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::MediaReader;
use strongroom_store::repo::Repo;
use strongroom_store::tree::{Damage, Flow, Tree, Visitor};
use window::Window;

use crate::orders::Media;

/// Most faults told in one report.
const FAULTS_TOLD_MAX: usize = 20;
/// Chunks remembered as checked: about 20 MiB.
const CHECKED_CHUNKS_MAX: usize = 400_000;

fn refused(kind: RefusalKind, error: &dyn std::error::Error) -> Refusal {
    Refusal::new(kind, Chain(error).to_string())
}

/// Reads the whole of `point` from the repository here; blocking.
pub(crate) fn read_point(
    repo: &Repo,
    point: PointId,
    task: &Task,
) -> Result<(Progress, String), Refusal> {
    // What is read stays until the reader is done, whatever is collected meanwhile.
    let session = repo.session();
    let repo: &Repo = &session;
    // A key that is not here yet is no evidence against the copy.
    let manifest = repo.point(point).map_err(|error| match error.lacks_key() {
        true => refused(RefusalKind::Unavailable, &error),
        false => refused(RefusalKind::Damaged, &error),
    })?;
    let root = manifest.body.root;
    let tree = Tree::new(repo.clone(), root);
    let mut reading = Reading {
        tree: &tree,
        task,
        progress: Progress::default(),
        faults: Faults::default(),
        window: Window::default(),
        checked: HashMap::new(),
    };
    tree.visit(&mut reading);
    reading.read_window();
    if task.cancelled.is_cancelled() {
        return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
    }
    let Reading { progress, faults, .. } = reading;
    if faults.count == 0 {
        let text = format!("{} files, {} bytes read back", progress.files, progress.bytes_seen);
        return Ok((progress, text));
    }
    let text = format!("{} faults: {}", faults.count, faults.told.join("; "));
    Err(Refusal::new(RefusalKind::Damaged, text))
}

/// Faults counted, the first ones kept.
#[derive(Default)]
struct Faults {
    count: u64,
    told: Vec<String>,
}

impl Faults {
    fn note(&mut self, fault: String) {
        self.count += 1;
        if self.told.len() < FAULTS_TOLD_MAX {
            self.told.push(fault);
        }
    }
}

struct Reading<'t> {
    tree: &'t Tree<Repo>,
    task: &'t Task,
    progress: Progress,
    faults: Faults,
    window: Window,
    /// Chunks found right, with their lengths: small files share theirs.
    checked: HashMap<ChunkId, u32>,
}

impl Reading<'_> {
    /// Notes what a file needs; what is wrong with how it is described is known at once.
    fn gather(&mut self, path: &[u8], size: u64, content: &FileContent) -> Result<(), String> {
        let mut covered = 0_u64;
        if let FileContent::Inline(bytes) = content {
            covered = bytes.len() as u64;
        }
        // Files without extents fill it by their names alone.
        if self.window.is_full() {
            self.read_window();
        }
        self.window.begin_file(path);
        for placed in self.tree.extents(content) {
            let placed = placed.map_err(|error| Chain(&error).to_string())?;
            if let ChunkExtent::Chunk { id, offset, length } = placed.extent {
                let end = u64::from(offset) + u64::from(length);
                if self.checked.get(&id).is_none_or(|length| u64::from(*length) < end) {
                    self.window.want(id, end);
                }
            }
            covered += placed.extent.length();
            if self.window.is_full() {
                self.read_window();
                self.window.begin_file(path);
            }
        }
        match covered == size {
            true => Ok(()),
            false => Err(format!("{covered} of {size} bytes are described")),
        }
    }

    fn read_window(&mut self) {
        let window = std::mem::take(&mut self.window);
        let found = window.read(self.tree.source(), &self.task.cancelled);
        self.progress.bytes_read += found.bytes_read;
        self.progress.gaps += found.faults.len() as u64;
        for (path, why) in found.faults {
            self.faults.note(format!("{}: {why}", path.escape_ascii()));
        }
        if self.checked.len() + found.sound.len() > CHECKED_CHUNKS_MAX {
            self.checked.clear();
        }
        self.checked.extend(found.sound);
        self.task.progress(self.progress);
    }
}

impl Visitor for Reading<'_> {
    fn entry(&mut self, path: &[u8], entry: &Entry) -> Flow {
        if self.task.cancelled.is_cancelled() {
            return Flow::Stop;
        }
        if let Node::File { size, content } = &entry.node {
            self.progress.files += 1;
            self.progress.bytes_seen += size;
            if let Err(why) = self.gather(path, *size, content) {
                self.progress.gaps += 1;
                self.faults.note(format!("{}: {why}", path.escape_ascii()));
            }
            if self.progress.files.is_multiple_of(256) {
                self.task.progress(self.progress);
            }
        }
        Flow::Continue
    }

    fn damaged(&mut self, damage: &Damage) -> Flow {
        let path = damage.path.escape_ascii();
        self.faults.note(format!("{path}/: {}", Chain(&damage.cause)));
        Flow::Continue
    }
}

/// Reads every pack `point` needs from the media; blocking. The packs are known from the
/// repository here where it has the point, else from the media alone. What must be fetched for it
/// is named before any of it is read.
pub(crate) fn read_media(
    repo: &Repo,
    media: &Media,
    point: PointId,
) -> Result<(Progress, String), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let known = media.known()?;
    let reader =
        MediaReader::open(Arc::clone(&media.library)).map_err(|error| unavailable(&error))?;
    let roots = repo.manifest_of(point).ok();
    let head = roots.and_then(|(_, manifest)| Manifest::decode_head(&manifest).ok());
    let closure = head.and_then(|head| repo.closure(&head.roots).ok());
    let packs = closure.map(|closure| closure.packs.into_iter().collect()).unwrap_or_default();
    known.wait_for(&reader, &packs, point)?;
    let manifest = reader.manifest(point).map_err(|error| refused(RefusalKind::Missing, &error))?;
    let head =
        Manifest::decode_head(&manifest).map_err(|error| refused(RefusalKind::Damaged, &error))?;
    // That the repository here cannot tell what the point needs says nothing of the media.
    let closure = repo.closure(&head.roots).map_err(|error| unavailable(&error))?;
    let needed: HashSet<_> = closure.packs.into_iter().collect();
    let report = reader
        .fetch_packs(&needed, &mut |_, source: &mut dyn Read| {
            io::copy(source, &mut io::sink()).map(drop)
        })
        .map_err(|error| unavailable(&error))?;
    media.note_flawed(&report.flawed)?;
    if !report.missing.is_empty() {
        let wanted: Vec<_> = report.wanted.iter().map(ToString::to_string).collect();
        let text = unread(report.missing.len(), needed.len(), &wanted);
        return Err(Refusal::new(RefusalKind::Damaged, text));
    }
    let progress =
        Progress { bytes_seen: report.bytes, bytes_read: report.bytes, ..Progress::default() };
    Ok((progress, format!("{} packs read back from media", report.fetched)))
}

fn unread(missing: usize, needed: usize, cartridges: &[String]) -> String {
    let wanted = if cartridges.is_empty() { "none".to_owned() } else { cartridges.join(", ") };
    format!(
        "{missing} of {needed} packs cannot be read from the media; cartridges wanted: {wanted}"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_protocol::FixedClock;
    use strongroom_protocol::Timestamp;
    use strongroom_store::disk::sim::SimDisk;
    use strongroom_store::media::MediaSetWriter;
    use strongroom_store::tape::{Shape, TapeLibrary, VirtualLibrary};

    use super::*;
    use crate::aux::order_of;
    use crate::aux::testing::{WORKLOAD, manifest_over, media_of, page, repo};
    use crate::cartridges::CARTRIDGES_FILE;

    #[test]
    fn packs_that_are_on_no_cartridge_are_counted_as_packs() {
        let (disk, dir) = (SimDisk::new(), tempfile::tempdir().unwrap());
        let (repo, point) = (repo(&disk), PointId::from_bytes([5; 16]));
        let manifest = manifest_over(point, &[page(&repo)]);
        repo.commit_point(WORKLOAD, point, &manifest).unwrap();
        let blank = ["SR0001L9".parse().unwrap()];
        let shape = Shape::with_capacity(1 << 20);
        let library: Arc<dyn TapeLibrary> =
            Arc::new(VirtualLibrary::create(&dir.path().join("library"), shape, &blank).unwrap());
        let clock = Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000)));
        let (order, _) = order_of(&repo, "yearly".parse().unwrap()).unwrap();
        let mut writer = MediaSetWriter::open(Arc::clone(&library), order, clock).unwrap();
        writer.begin(0).unwrap();
        writer.put_manifest(WORKLOAD, point, &manifest).unwrap();
        writer.finish().unwrap();
        drop(writer);
        let media = media_of(&dir.path().join(CARTRIDGES_FILE), library);
        let refusal = read_media(&repo, &media, point).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Damaged);
        assert!(refusal.text.starts_with("1 of 1 packs"), "{refusal}");
        assert!(refusal.text.ends_with("cartridges wanted: none"), "{refusal}");
    }
}

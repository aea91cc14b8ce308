//! Finds out what a copy is worth: the secondary snap by reading the whole point and checking
//! every blob against its name, a media copy by reading every pack it needs from the
//! cartridges. What is found is evidence with a date, not an assumption.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use strongroom_node::desk::Task;
use strongroom_protocol::control::Progress;
use strongroom_protocol::opening::{Refusal, RefusalKind};
use strongroom_protocol::{BlobKind, Chain, ChunkId, PointId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Node};
use strongroom_store::manifest::Manifest;
use strongroom_store::media::MediaReader;
use strongroom_store::repo::Repo;
use strongroom_store::tape::TapeLibrary;
use strongroom_store::tree::{Damage, Flow, Tree, Visitor};

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
        faults: Vec::new(),
        checked: HashMap::new(),
    };
    tree.visit(&mut reading);
    if task.cancelled.is_cancelled() {
        return Err(Refusal::new(RefusalKind::Cancelled, "stopped by an operator"));
    }
    let Reading { progress, faults, .. } = reading;
    if faults.is_empty() {
        let text = format!("{} files, {} bytes read back", progress.files, progress.bytes_seen);
        return Ok((progress, text));
    }
    let told: Vec<_> = faults.iter().take(FAULTS_TOLD_MAX).cloned().collect();
    let text = format!("{} faults: {}", faults.len(), told.join("; "));
    Err(Refusal::new(RefusalKind::Damaged, text))
}

struct Reading<'t> {
    tree: &'t Tree<Repo>,
    task: &'t Task,
    progress: Progress,
    faults: Vec<String>,
    /// Chunks found right in this walk, with their lengths: small files share theirs.
    checked: HashMap<ChunkId, u32>,
}

impl Reading<'_> {
    fn check(&mut self, size: u64, content: &FileContent) -> Result<(), String> {
        let mut covered = 0_u64;
        if let FileContent::Inline(bytes) = content {
            covered = bytes.len() as u64;
        }
        for placed in self.tree.extents(content) {
            let placed = placed.map_err(|error| Chain(&error).to_string())?;
            if let ChunkExtent::Chunk { id, offset, length } = placed.extent {
                let chunk_bytes = self.chunk(id)?;
                if u64::from(offset) + u64::from(length) > u64::from(chunk_bytes) {
                    return Err(format!("chunk {id} is shorter than the file needs"));
                }
            }
            covered += placed.extent.length();
        }
        match covered == size {
            true => Ok(()),
            false => Err(format!("{covered} of {size} bytes are described")),
        }
    }

    fn chunk(&mut self, id: ChunkId) -> Result<u32, String> {
        if let Some(length) = self.checked.get(&id) {
            return Ok(*length);
        }
        let source = self.tree.source();
        let plain = source.plain(id, BlobKind::Data).map_err(|error| Chain(&error).to_string())?;
        let length = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        self.progress.bytes_read += u64::from(length);
        if self.checked.len() >= CHECKED_CHUNKS_MAX {
            self.checked.clear();
        }
        self.checked.insert(id, length);
        Ok(length)
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
            if let Err(why) = self.check(*size, content) {
                self.progress.gaps += 1;
                self.faults.push(format!("{}: {why}", path.escape_ascii()));
            }
            if self.progress.files.is_multiple_of(256) {
                self.task.progress(self.progress);
            }
        }
        Flow::Continue
    }

    fn damaged(&mut self, damage: &Damage) -> Flow {
        let path = damage.path.escape_ascii();
        self.faults.push(format!("{path}/: {}", Chain(&damage.cause)));
        Flow::Continue
    }
}

/// Reads every pack `point` needs from the media; blocking. The packs are known from the
/// repository here where it has the point, else from the media alone.
pub(crate) fn read_media(
    repo: &Repo,
    library: Arc<dyn TapeLibrary>,
    point: PointId,
) -> Result<(Progress, String), Refusal> {
    let unavailable = |error: &dyn std::error::Error| refused(RefusalKind::Unavailable, error);
    let reader = MediaReader::open(library).map_err(|error| unavailable(&error))?;
    let manifest = reader.manifest(point).map_err(|error| refused(RefusalKind::Missing, &error))?;
    let head =
        Manifest::decode_head(&manifest).map_err(|error| refused(RefusalKind::Damaged, &error))?;
    // That the repository here cannot tell what the point needs says nothing of the media.
    let closure = repo.closure(&head.roots).map_err(|error| unavailable(&error))?;
    let wanted: HashSet<_> = closure.packs.into_iter().collect();
    let report = reader
        .fetch_packs(&wanted, &mut |_, source: &mut dyn Read| {
            io::copy(source, &mut io::sink()).map(drop)
        })
        .map_err(|error| unavailable(&error))?;
    if !report.missing.is_empty() {
        let wanted: Vec<_> = report.wanted.iter().map(ToString::to_string).collect();
        let text = format!(
            "{} of {} packs cannot be read from the media; cartridges wanted: {}",
            report.missing.len(),
            wanted.len(),
            if wanted.is_empty() { "none".to_owned() } else { wanted.join(", ") },
        );
        return Err(Refusal::new(RefusalKind::Damaged, text));
    }
    let progress =
        Progress { bytes_seen: report.bytes, bytes_read: report.bytes, ..Progress::default() };
    Ok((progress, format!("{} packs read back from media", report.fetched)))
}

//! Chunks gathered from the walk of a tree until they are worth reading: then every pack is read
//! forward once, in long reads, by as many threads as there are processors, and each chunk is
//! opened and named once, however many files share it. Memory is bounded by the window.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use strongroom_protocol::{BlobKind, Chain, ChunkId};
use strongroom_store::index::Place;
use strongroom_store::parcel;
use strongroom_store::repo::Repo;
use tokio_util::sync::CancellationToken;

/// Chunks of one window: some 16 GiB of data, and 10 MiB of what is remembered of it.
const WINDOW_CHUNKS_MAX: usize = 65_536;
/// Uses of these chunks by files, which small files share.
const WINDOW_USES_MAX: usize = 524_288;
/// Bytes of paths of one window.
const WINDOW_PATH_BYTES_MAX: usize = 16 << 20;
/// Longest read, but for a longer record.
const RUN_BYTES_MAX: usize = 1 << 20;
/// Records further apart than this are read apart.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// Places asked for at once.
const PLACES_ASKED: usize = 4096;
/// Threads where the system does not say how many processors there are.
const THREADS_GUESS: usize = 2;

/// What is gathered before the next reading.
#[derive(Default)]
pub(super) struct Window {
    wants: Vec<ChunkId>,
    known: HashMap<ChunkId, usize>,
    paths: Vec<Vec<u8>>,
    path_bytes: usize,
    uses: Vec<Use>,
}

/// A file needs the first `end` bytes of a chunk.
struct Use {
    path: usize,
    want: usize,
    end: u64,
}

/// What reading a window showed.
#[derive(Default)]
pub(super) struct Findings {
    /// Chunks that hold, with their lengths.
    pub(super) sound: Vec<(ChunkId, u32)>,
    /// Files that do not, and why.
    pub(super) faults: Vec<(Vec<u8>, String)>,
    pub(super) bytes_read: u64,
}

/// Part of a pack that is read at once, and the wants that lie in it.
struct Run {
    at: u64,
    len: usize,
    places: Vec<(usize, Place)>,
}

type Verdict = (usize, Result<u32, String>);

impl Window {
    /// A file whose chunks come next.
    pub(super) fn begin_file(&mut self, path: &[u8]) {
        self.path_bytes += path.len();
        self.paths.push(path.to_vec());
    }

    /// The file begun last needs the first `end` bytes of a chunk.
    pub(super) fn want(&mut self, id: ChunkId, end: u64) {
        let wants = &mut self.wants;
        let want = *self.known.entry(id).or_insert_with(|| {
            wants.push(id);
            wants.len() - 1
        });
        let path = self.paths.len().saturating_sub(1);
        match self.uses.last_mut().filter(|last| (last.path, last.want) == (path, want)) {
            Some(last) => last.end = last.end.max(end),
            None => self.uses.push(Use { path, want, end }),
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.wants.len() >= WINDOW_CHUNKS_MAX
            || self.uses.len() >= WINDOW_USES_MAX
            || self.path_bytes >= WINDOW_PATH_BYTES_MAX
    }

    /// Reads everything gathered; a cancelled one leaves the rest out.
    pub(super) fn read(self, repo: &Repo, cancelled: &CancellationToken) -> Findings {
        if self.wants.is_empty() {
            return Findings::default();
        }
        let mut verdicts = Vec::new();
        let runs = self.runs(repo, &mut verdicts);
        let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
        let threads = thread::available_parallelism().map_or(THREADS_GUESS, usize::from);
        let read_some = || {
            let (mut found, mut buffer) = (Vec::new(), Vec::new());
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if cancelled.is_cancelled() {
                    break;
                }
                self.read_run(repo, run, &mut buffer, &mut found, &bytes);
            }
            found
        };
        thread::scope(|scope| {
            let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read_some)).collect();
            for reader in readers {
                match reader.join() {
                    Ok(found) => verdicts.extend(found),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        self.conclude(verdicts, bytes.into_inner())
    }

    /// What is wanted, in the order of the packs.
    fn runs(&self, repo: &Repo, verdicts: &mut Vec<Verdict>) -> Vec<Run> {
        let mut placed = Vec::with_capacity(self.wants.len());
        for (part, wants) in self.wants.chunks(PLACES_ASKED).enumerate() {
            let first = part * PLACES_ASKED;
            match repo.place(wants) {
                Ok(places) => {
                    for ((want, place), id) in (first..).zip(places).zip(wants) {
                        match place {
                            Some(place) => placed.push((want, place)),
                            None => verdicts.push((want, Err(format!("chunk {id} is missing")))),
                        }
                    }
                }
                Err(error) => {
                    let why = Chain(&error).to_string();
                    verdicts.extend((first..).zip(wants).map(|(want, _)| (want, Err(why.clone()))));
                }
            }
        }
        placed.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        let mut runs: Vec<Run> = Vec::new();
        for (want, place) in placed {
            match runs.last_mut().filter(|run| run.takes(&place)) {
                Some(run) => run.add(want, place),
                None => runs.push(Run::begin(want, place)),
            }
        }
        runs
    }

    fn read_run(
        &self,
        repo: &Repo,
        run: &Run,
        buffer: &mut Vec<u8>,
        found: &mut Vec<Verdict>,
        bytes: &AtomicU64,
    ) {
        let Some((_, first)) = run.places.first() else { return };
        let whole = repo.read_pack_into(first.pack, run.at, run.len, buffer).is_ok();
        for (want, place) in &run.places {
            let from = usize::try_from(u64::from(place.offset) - run.at).unwrap_or(usize::MAX);
            let cut = buffer.get(from..).and_then(|rest| rest.get(..place.record_len as usize));
            let verdict = match cut.filter(|_| whole) {
                Some(record) => self.judge(repo, *want, record, place),
                // One bad sector must not be told of every record near it.
                None => match repo.read_record(place) {
                    Ok(record) => self.judge(repo, *want, &record, place),
                    Err(error) => Err(Chain(&error).to_string()),
                },
            };
            if let Ok(length) = verdict {
                bytes.fetch_add(u64::from(length), Ordering::Relaxed);
            }
            found.push((*want, verdict));
        }
    }

    fn judge(&self, repo: &Repo, want: usize, record: &[u8], place: &Place) -> Result<u32, String> {
        let Some(id) = self.wants.get(want) else { return Ok(0) };
        let told = |error: &dyn std::error::Error| Chain(error).to_string();
        let parcel = repo.open_at(record, *id, place).map_err(|error| told(&error))?;
        if parcel.head.kind != BlobKind::Data {
            return Err(format!("blob {id} is no data"));
        }
        let keys = repo.agent_keys().map_err(|error| told(&error))?;
        let plain = parcel::open(&parcel, keys).map_err(|error| told(&error))?;
        Ok(u32::try_from(plain.len()).unwrap_or(u32::MAX))
    }

    fn conclude(self, verdicts: Vec<Verdict>, bytes_read: u64) -> Findings {
        let mut findings = Findings { bytes_read, ..Findings::default() };
        let mut known: Vec<Option<Result<u32, String>>> = vec![None; self.wants.len()];
        for (want, verdict) in verdicts {
            if let (Ok(length), Some(id)) = (&verdict, self.wants.get(want)) {
                findings.sound.push((*id, *length));
            }
            if let Some(place) = known.get_mut(want) {
                *place = Some(verdict);
            }
        }
        let mut last = None;
        for Use { path, want, end } in self.uses {
            let why = match (known.get(want), self.wants.get(want)) {
                (Some(Some(Err(why))), _) => why.clone(),
                (Some(Some(Ok(length))), Some(id)) if u64::from(*length) < end => {
                    format!("chunk {id} is shorter than the file needs")
                }
                _ => continue,
            };
            // One fault a file is enough.
            if let (true, Some(name)) = (last.replace(path) != Some(path), self.paths.get(path)) {
                findings.faults.push((name.clone(), why));
            }
        }
        findings
    }
}

impl Run {
    fn begin(want: usize, place: Place) -> Self {
        let (at, len) = (u64::from(place.offset), place.record_len as usize);
        Self { at, len, places: vec![(want, place)] }
    }

    fn takes(&self, place: &Place) -> bool {
        let end = self.at + self.len as u64;
        let last = self.places.last().map(|(_, last)| last.pack);
        let from = u64::from(place.offset);
        let span = (from + u64::from(place.record_len)).saturating_sub(self.at);
        last == Some(place.pack) && from <= end + GAP_BYTES_MAX && span <= RUN_BYTES_MAX as u64
    }

    fn add(&mut self, want: usize, place: Place) {
        let end = u64::from(place.offset) + u64::from(place.record_len);
        let span = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        self.len = self.len.max(span);
        self.places.push((want, place));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
mod tests {
    use strongroom_store::disk::sim::{Damage, SimDisk};
    use strongroom_store::pack::{PackClass, pack_path};
    use strongroom_store::parcel::Compressor;
    use strongroom_store::seal::seal;

    use super::*;
    use crate::aux::testing::repo;

    /// Chunks of 1000 bytes and more, no two alike.
    fn filled(repo: &Repo, count: u32) -> Vec<ChunkId> {
        let mut compressor = Compressor::new().unwrap();
        let mut insert = |number: u32| {
            let mut plain = vec![0; 1000 + number as usize];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
            let keys = repo.agent_keys().unwrap();
            let parcel = compressor.pack(keys, BlobKind::Data, Vec::new(), &plain, 1).unwrap();
            repo.insert(seal(repo.vault_key().unwrap(), repo.id(), &parcel).unwrap(), &[]).unwrap();
            parcel.head.id
        };
        let ids = (0..count).map(&mut insert).collect();
        repo.barrier().unwrap();
        ids
    }

    fn window(files: &[(&str, &[ChunkId])]) -> Window {
        let mut window = Window::default();
        for (path, chunks) in files {
            window.begin_file(path.as_bytes());
            chunks.iter().for_each(|chunk| window.want(*chunk, 1000));
        }
        window
    }

    fn faulty(findings: &Findings) -> Vec<&str> {
        findings.faults.iter().map(|(path, _)| std::str::from_utf8(path).unwrap()).collect()
    }

    #[test]
    fn every_chunk_is_read_once_and_damage_is_told_of_the_files_it_touches() {
        let disk = SimDisk::new();
        let repo = repo(&disk);
        let ids = filled(&repo, 400);
        let files: [(&str, &[ChunkId]); 3] =
            [("a", &ids[..200]), ("b", &ids[150..399]), ("c", &ids[399..])];
        let going = CancellationToken::new();
        let sound = window(&files).read(&repo, &going);
        assert!(sound.faults.is_empty(), "{:?}", faulty(&sound));
        assert_eq!(sound.sound.len(), 400);
        assert_eq!(sound.bytes_read, (0..400).map(|number| 1000 + number).sum::<u64>());

        let place = repo.place(&ids[170..171]).unwrap()[0].unwrap();
        let path = pack_path(PackClass::Data, place.pack);
        let middle = (place.offset + place.record_len / 2) as usize;
        assert_eq!(disk.damage(&path, |bytes| bytes[middle] ^= 1), Damage::Done);
        let found = window(&files).read(&repo, &going);
        assert_eq!(faulty(&found), ["a", "b"]);
        assert_eq!(found.sound.len(), 399);
    }

    #[test]
    fn what_is_missing_or_too_short_is_told() {
        let repo = repo(&SimDisk::new());
        let ids = filled(&repo, 2);
        let mut window = window(&[("a", &ids), ("b", &[ChunkId([9; 32])])]);
        window.begin_file(b"c");
        window.want(ids[1], 1002);
        let found = window.read(&repo, &CancellationToken::new());
        // What is too short for c is long enough for a.
        assert_eq!(faulty(&found), ["b", "c"]);
        assert_eq!(found.sound.len(), 2);
    }

    #[test]
    fn a_cancelled_reading_ends() {
        let repo = repo(&SimDisk::new());
        let ids = filled(&repo, 20);
        let stopped = CancellationToken::new();
        stopped.cancel();
        assert!(window(&[("a", &ids)]).read(&repo, &stopped).sound.is_empty());
    }
}

//! How fast a tree can be made when its bytes are in memory already, and how fast a restore
//! makes it: `cargo bench -p strongroom-agent --bench create -- TREE PLACE [THREADS]`. Everything
//! is removed at the end only, for ext4 looks long for an inode where many were removed shortly
//! before, and that would be measured instead.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::collections::HashMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rustix::io::ReadWriteFlags;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options, Progress, protect};
use strongroom_protocol::{BlobKind, ChunkId, Reference, SystemClock};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::{Blob, BlobSource, SinkError, SourceError, Tree};

const KEYS: AgentKeys = AgentKeys { id_key: [3; 32], cut_key: (17, 0x9e37_79b1) };
/// `RWF_DONTCACHE`.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// Rounds of each method, one after another.
const ROUNDS: usize = 3;

#[derive(Default)]
struct Blobs(Mutex<HashMap<(BlobKind, ChunkId), Blob>>);

impl ChunkSink for Blobs {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let id = KEYS.id(kind, &references, &plain);
        self.0.lock().unwrap().insert((kind, id), Blob { references, plain: plain.into() });
        Ok(id)
    }
}

impl BlobSource for Blobs {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        let found = self.0.lock().unwrap().get(&(kind, id)).cloned();
        found.ok_or(SourceError::Missing { kind, id })
    }
}

/// A directory with its files.
struct Directory {
    path: PathBuf,
    files: Vec<(PathBuf, Vec<u8>, SystemTime)>,
}

fn read(root: &Path) -> Vec<Directory> {
    let (mut found, mut waiting) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(path) = waiting.pop() {
        let mut files = Vec::new();
        for entry in fs::read_dir(root.join(&path)).unwrap() {
            let entry = entry.unwrap();
            let (kind, below) = (entry.file_type().unwrap(), path.join(entry.file_name()));
            if kind.is_dir() {
                waiting.push(below);
            } else if kind.is_file() {
                let modified = entry.metadata().unwrap().modified().unwrap();
                files.push((below, fs::read(entry.path()).unwrap(), modified));
            }
        }
        found.push(Directory { path, files });
    }
    found
}

/// User and system time of this process so far, in seconds.
fn spent() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let fields: Vec<u64> = after.split(' ').filter_map(|field| field.parse().ok()).collect();
    // Without state: the 14th and 15th field of the whole line.
    (fields[10] + fields[11]) as f64 / 100.0
}

fn make(dirs: &[Directory], target: &Path, threads: usize, past_cache: bool) {
    dirs.iter().for_each(|dir| fs::create_dir_all(target.join(&dir.path)).unwrap());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(dir) = dirs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for (path, bytes, modified) in &dir.files {
                        one(&target.join(path), bytes, *modified, past_cache);
                    }
                }
            });
        }
    });
}

fn one(path: &Path, bytes: &[u8], modified: SystemTime, past_cache: bool) {
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).unwrap();
    if past_cache && bytes.len() >= 256 << 10 {
        for (number, part) in bytes.chunks(1 << 20).enumerate() {
            let (part, at) = ([std::io::IoSlice::new(part)], (number << 20) as u64);
            rustix::io::pwritev2(&file, &part, at, DONT_CACHE).unwrap();
        }
    } else {
        file.write_all(bytes).unwrap();
    }
    file.set_times(FileTimes::new().set_modified(modified)).unwrap();
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [source, place, rest @ ..] = arguments.as_slice() else {
        return println!("say which tree, and where to make it");
    };
    let threads: usize = rest.first().and_then(|word| word.parse().ok()).unwrap_or(3);
    let (source, place) = (Path::new(source), Path::new(place));
    let dirs = read(source);
    let files: usize = dirs.iter().map(|dir| dir.files.len()).sum();
    let sizes = dirs.iter().flat_map(|dir| &dir.files).map(|(_, bytes, _)| bytes.len());
    let bytes: usize = sizes.sum();
    println!("{files} files, {} directories, {bytes} bytes, {threads} threads", dirs.len());
    let (blobs, stop) = (Blobs::default(), AtomicBool::new(false));
    let options = Options::new(source, KEYS.cut_key);
    let protected = protect(&options, &blobs, &Progress::default(), &stop, &SystemClock).unwrap();
    let page = protected.item.directory_page().unwrap();
    fs::create_dir_all(place).unwrap();
    for round in 0..ROUNDS {
        for method in ["bare", "bare, long files past the cache", "restore"] {
            let target = place.join(format!("{round}-{}", method.len()));
            let (began, before) = (Instant::now(), spent());
            match method {
                "restore" => {
                    let options =
                        RestoreOptions { writers: threads, ..RestoreOptions::new(&target) };
                    let restorer = Restorer::new(options, Arc::default());
                    let tree = Tree::new(&blobs, protected.root);
                    let report = restorer.run(&tree, page, None).unwrap();
                    assert_eq!(report.problem_count, 0);
                }
                _ => make(&dirs, &target, threads, method != "bare"),
            }
            let (wall, cpu) = (began.elapsed().as_secs_f64(), spent() - before);
            println!("{method:32} wall {wall:6.2} s  cpu {cpu:6.2} s");
        }
    }
    fs::remove_dir_all(place).unwrap();
}

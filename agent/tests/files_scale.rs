//! How fast a tree of very many files is read, and in how much memory. Run by hand, with
//! `STRONGROOM_FILES=1000000 STRONGROOM_PLACE=/dev/shm` and `-- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a measurement run by hand")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::cache::CacheKey;
use strongroom_agent::workload::files::{CachePlace, Committed, Options, Progress, protect};
use strongroom_protocol::{BlobKind, ChunkId, PointId, Reference, RepoId, SystemClock, WorkloadId};
use strongroom_store::keys::AgentKeys;
use strongroom_store::tree::SinkError;

/// Names blobs and forgets them.
struct Nowhere(AgentKeys, AtomicU64);

impl ChunkSink for Nowhere {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        self.1.fetch_add(plain.len() as u64, Ordering::Relaxed);
        Ok(self.0.id(kind, &references, &plain))
    }
}

/// The most memory this process ever had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn very_many_files() {
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |v| v.parse().unwrap());
    let files = number("STRONGROOM_FILES", 100_000);
    let place = std::env::var("STRONGROOM_PLACE").unwrap_or_else(|_| "/tmp".to_owned());
    let dir = tempfile::tempdir_in(place).unwrap();
    let source = dir.path().join("source");
    for index in 0..files {
        let below = source.join(format!("{}", index / 1000));
        if index % 1000 == 0 {
            fs::create_dir_all(&below).unwrap();
        }
        let bytes = format!("{index} ").repeat(usize::try_from(50 + index % 400).unwrap());
        fs::write(below.join(format!("file-{index}.txt")), bytes).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    let sink = Nowhere(AgentKeys { id_key: [1; 32], cut_key: (1, 3) }, AtomicU64::new(0));
    let key = |point| CacheKey {
        repo: RepoId::from_bytes([1; 16]),
        workload: WorkloadId::from_bytes([1; 16]),
        point: PointId::from_bytes([point; 16]),
    };
    let mut roots = Vec::new();
    for (last, this) in [(None, 1), (Some(1), 2)] {
        let mut options = Options::new(&source, (1, 3));
        let path = dir.path().join("cache");
        options.cache = Some(CachePlace { path, last: last.map(key), this: key(this) });
        let progress = Progress::default();
        let never = std::sync::atomic::AtomicBool::new(false);
        let since = Instant::now();
        let protected = protect(&options, &sink, &progress, &never, &SystemClock).unwrap();
        let (took, statistics) = (since.elapsed(), protected.statistics);
        let rate = files * 1000 / u64::try_from(took.as_millis()).unwrap().max(1);
        eprintln!("{took:?}, {rate} files/s, peak {} KiB, {statistics:?}", peak_kib());
        assert_eq!(statistics.files, files);
        roots.push(protected.root);
        protected.finish(Committed::Yes).unwrap();
        eprintln!("cache {} bytes", fs::metadata(dir.path().join("cache")).unwrap().len());
    }
    assert_eq!(roots[0], roots[1]);
    assert!(peak_kib() < 128 << 10, "{} KiB", peak_kib());
}

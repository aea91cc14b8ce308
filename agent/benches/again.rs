//! What a run costs where nothing changed since the last, without a network:
//! `cargo bench -p strongroom-agent --bench again -- TREE [RUNS]`.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::cache::CacheKey;
use strongroom_agent::workload::files::{CachePlace, Committed, Options, Progress, protect};
use strongroom_protocol::{BlobKind, ChunkId, PointId, Reference, RepoId, SystemClock, WorkloadId};
use strongroom_store::keys::{AgentKeys, VaultKey};
use strongroom_store::tree::SinkError;

struct Names(AgentKeys);

impl ChunkSink for Names {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        Ok(self.0.id(kind, &references, &plain))
    }
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let seconds = now.tv_sec as f64 + now.tv_nsec as f64 / 1e9;
    seconds
}

/// The most memory held since the last call, in MiB.
fn peak_mebibytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0");
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(kibibytes.parse::<u64>()? >> 10)
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let Some(tree) = words.next() else {
        println!("no tree was named: cargo bench -p strongroom-agent --bench again -- TREE");
        return Ok(());
    };
    let runs: u8 = words.next().map_or(Ok(5), |word| word.parse())?;
    let keys = VaultKey::from_bytes([7; 32]).agent_keys();
    let cut_key = keys.cut_key;
    let sink = Names(keys);
    let dir = tempfile::tempdir()?;
    let key = |run: u8| CacheKey {
        repo: RepoId::from_bytes([1; 16]),
        workload: WorkloadId::from_bytes([2; 16]),
        point: PointId::from_bytes([run; 16]),
    };
    for run in 0..=runs {
        let last = run.checked_sub(1).map(key);
        let cache = CachePlace { path: dir.path().join("cache"), last, this: key(run) };
        let options = Options { cache: Some(cache), ..Options::new(&tree, cut_key) };
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let stop = AtomicBool::new(false);
        let done = protect(&options, &sink, &Progress::default(), &stop, &SystemClock)?;
        let counts = done.statistics;
        let root = done.root;
        done.finish(Committed::Yes)?;
        println!(
            "{:.3} s, {:.3} CPU s, {} MiB at most, {} of {} files unchanged, root {root}",
            began.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            peak_mebibytes()?,
            counts.unchanged,
            counts.files,
        );
    }
    Ok(())
}

//! The parts of a first protect, each by its own processor time, over a real tree and without a
//! network: `cargo bench -p strongroom-agent --bench protect -- TREE [LEVEL...]`. What is left
//! over is walking, reading, cutting and laying.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use strongroom_agent::workload::ChunkSink;
use strongroom_agent::workload::files::{Options, Progress, protect};
use strongroom_protocol::{BlobKind, ChunkId, Reference, RepoId, SystemClock};
use strongroom_store::keys::VaultKey;
use strongroom_store::parcel::{self, Compressor};
use strongroom_store::seal;
use strongroom_store::tree::SinkError;

fn clock(id: ClockId) -> u64 {
    let now = clock_gettime(id);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[derive(Default)]
struct Part {
    nanos: AtomicU64,
    bytes: AtomicU64,
}

impl Part {
    fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = clock(ClockId::ThreadCPUTime);
        let done = work();
        self.nanos.fetch_add(clock(ClockId::ThreadCPUTime) - began, Ordering::Relaxed);
        done
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn say(&self, what: &str) {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (seconds, mib) = (nanos as f64 / 1e9, bytes as f64 / f64::from(1 << 20));
        println!("{what:<34} {seconds:>8.2} s {mib:>9.1} MiB");
    }
}

struct Parts {
    vault: VaultKey,
    /// As the pipeline does it first, then levels of zstd; those name again too.
    levels: Vec<Option<i32>>,
    seen: Mutex<HashSet<ChunkId>>,
    name: Part,
    compress: Vec<[Part; 3]>,
    check: Part,
    seal: Part,
    pack: Part,
    all: AtomicU64,
}

impl ChunkSink for Parts {
    fn put(
        &self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: Vec<u8>,
    ) -> Result<ChunkId, SinkError> {
        let began = clock(ClockId::ThreadCPUTime);
        let keys = self.vault.agent_keys();
        let id = self.name.time(|| keys.id(kind, &references, &plain));
        self.name.add(plain.len());
        let new = self.seen.lock().is_ok_and(|mut seen| seen.insert(id));
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| SinkError::Failed {
            kind,
            source: error,
        };
        if new {
            self.send(id, kind, &references, &plain).map_err(|error| failed(error.into()))?;
        }
        self.all.fetch_add(clock(ClockId::ThreadCPUTime) - began, Ordering::Relaxed);
        Ok(id)
    }
}

impl Parts {
    fn send(
        &self,
        id: ChunkId,
        kind: BlobKind,
        references: &[Reference],
        plain: &[u8],
    ) -> Result<()> {
        thread_local! {
            static COMPRESSOR: std::cell::RefCell<Option<Compressor>> =
                const { std::cell::RefCell::new(None) };
        }
        let class = match kind {
            BlobKind::Data if plain.len() <= 128 << 10 => 1,
            BlobKind::Data => 0,
            _ => 2,
        };
        let (keys, bytes) = (self.vault.agent_keys(), Bytes::copy_from_slice(plain));
        let mut first = None;
        for (level, parts) in self.levels.iter().zip(&self.compress) {
            let Some(part) = parts.get(class) else { continue };
            let parcel = part.time(|| {
                COMPRESSOR.with_borrow_mut(|kept| {
                    let mut compressor = kept.take().map_or_else(Compressor::new, Ok)?;
                    let references = references.to_vec();
                    let packed = match level {
                        None => compressor.pack_named(id, kind, references, &bytes),
                        Some(level) => compressor.pack(&keys, kind, references, plain, *level),
                    };
                    *kept = Some(compressor);
                    packed
                })
            })?;
            part.add(parcel.payload.len());
            first.get_or_insert(parcel);
        }
        let parcel = first.context("no level")?;
        self.check.time(|| parcel::look(&parcel, &keys, <[u8]>::len))?;
        self.check.add(plain.len());
        let sealed =
            self.seal.time(|| seal::seal(&self.vault, RepoId::from_bytes([7; 16]), &parcel));
        let sealed = sealed?;
        self.seal.add(sealed.bytes.len());
        self.pack.time(|| std::hint::black_box(blake3::hash(&sealed.bytes)));
        self.pack.add(sealed.bytes.len());
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let Some(tree) = words.next() else {
        println!("no tree was named: cargo bench -p strongroom-agent --bench protect -- TREE");
        return Ok(());
    };
    let named: Vec<i32> = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
    let levels: Vec<_> = std::iter::once(None).chain(named.into_iter().map(Some)).collect();
    let vault = VaultKey::from_bytes([7; 32]);
    let cut_key = vault.agent_keys().cut_key;
    let parts = Parts {
        vault,
        compress: levels.iter().map(|_| <[Part; 3]>::default()).collect(),
        levels,
        seen: Mutex::default(),
        name: Part::default(),
        check: Part::default(),
        seal: Part::default(),
        pack: Part::default(),
        all: AtomicU64::new(0),
    };
    let (began, cpu) = (Instant::now(), clock(ClockId::ProcessCPUTime));
    let stop = AtomicBool::new(false);
    let options = Options::new(tree, cut_key);
    let done = protect(&options, &parts, &Progress::default(), &stop, &SystemClock)?;
    let rest = Part::default();
    let all = clock(ClockId::ProcessCPUTime) - cpu;
    rest.nanos.store(all - parts.all.load(Ordering::Relaxed), Ordering::Relaxed);
    rest.add(usize::try_from(done.statistics.read_bytes)?);
    rest.say("walk, read, cut, lay");
    parts.name.say("name");
    for (level, [long, short, meta]) in parts.levels.iter().zip(&parts.compress) {
        let how = level.map_or_else(|| "by content".to_owned(), |level| level.to_string());
        long.say(&format!("zstd {how}, chunks above 128 KiB"));
        short.say(&format!("zstd {how}, chunks up to 128 KiB"));
        meta.say(&format!("zstd {how}, pages and lists"));
    }
    parts.check.say("check: decompress, name again");
    parts.seal.say("seal");
    parts.pack.say("hash the pack");
    println!("{} files, {:.1} s", done.statistics.files, began.elapsed().as_secs_f64());
    Ok(())
}

//! How long a collection looks before it acts: made-up records, referenced by many points that
//! share most of their pages but none of their tops. Prints the memory of the marks by the chunk.
#![allow(clippy::print_stdout, reason = "a bench reports")]

use std::ops::ControlFlow;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use strongroom_protocol::blob::{BlobKind, Reference};
use strongroom_protocol::id::{ChunkId, PointId, RepoId, WorkloadId};
use strongroom_protocol::time::Timestamp;
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::{AgentKeys, VaultKey};
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{CollectLimits, Mode, Repo, RepoSetup};
use strongroom_store::seal::seal;

type Failure = Box<dyn std::error::Error>;

const REPO: RepoId = RepoId::from_bytes([1; 16]);
const WORKLOAD: WorkloadId = WorkloadId::from_bytes([2; 16]);
const CHUNKS: u32 = 1_500_000;
const POINTS: u8 = 45;
/// Chunks a page names: as a directory of large files has them.
const CHUNKS_PER_PAGE: usize = 300;
/// Marks measured by themselves.
const MEASURED: usize = 3;
/// One page in so many is another in each point.
const PAGES_PER_CHANGE: usize = 50;

struct Maker {
    repo: Repo,
    key: VaultKey,
    agent: AgentKeys,
    compressor: Compressor,
}

impl Maker {
    fn put(
        &mut self,
        kind: BlobKind,
        references: Vec<Reference>,
        plain: &[u8],
    ) -> Result<Reference, Failure> {
        let parcel = self.compressor.pack(&self.agent, kind, references, plain, 1)?;
        let id: ChunkId = parcel.head.id;
        self.repo.insert(seal(&self.key, REPO, &parcel)?, &parcel.head.references)?;
        Ok(Reference { kind, id })
    }

    fn commit(&self, point: PointId, root: Reference) -> Result<(), Failure> {
        let names = (*REPO.as_bytes(), *WORKLOAD.as_bytes(), *point.as_bytes());
        let roots = vec![(root.kind.code(), root.id.0)];
        let head = postcard::to_allocvec(&(names, 5_i64, 0_u8, roots, 1_u32, 1_u32))?;
        let mut bytes = b"SRPOIN01".to_vec();
        bytes.extend_from_slice(&u32::try_from(head.len())?.to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&16_u32.to_le_bytes());
        bytes.extend_from_slice(&[0; 28]);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Ok(self.repo.commit_point(WORKLOAD, point, &bytes)?)
    }
}

fn build(dir: &std::path::Path) -> Result<Repo, Failure> {
    let key = VaultKey::from_bytes([3; 32]);
    let disk = LocalDisk::new(dir);
    let (org, created) = ("acme".parse()?, Timestamp(1));
    let setup = RepoSetup { repo: REPO, org, cut: CutParams::FILES, created, wraps: Vec::new() };
    Repo::create(&disk, &setup, &key)?;
    let repo = Repo::open(Arc::new(disk), &key, Mode::Write)?;
    let (agent, compressor) = (key.agent_keys(), Compressor::new()?);
    let mut maker = Maker { repo, key, agent, compressor };
    let mut chunks = Vec::new();
    for number in 0..CHUNKS {
        chunks.push(maker.put(BlobKind::Data, Vec::new(), &number.to_le_bytes())?);
    }
    let mut pages = Vec::new();
    for (number, named) in chunks.chunks(CHUNKS_PER_PAGE).enumerate() {
        pages.push(maker.put(BlobKind::Page, named.to_vec(), &number.to_le_bytes())?);
    }
    for point in 0..POINTS {
        let changed = (0..pages.len()).skip(usize::from(point)).step_by(PAGES_PER_CHANGE);
        for page in changed.collect::<Vec<_>>() {
            let first = page * CHUNKS_PER_PAGE;
            let named = chunks.iter().skip(first).take(CHUNKS_PER_PAGE).copied().collect();
            let plain = [&page.to_le_bytes()[..], &[point]].concat();
            let made = maker.put(BlobKind::Page, named, &plain)?;
            if let Some(place) = pages.get_mut(page) {
                *place = made;
            }
        }
        let root = maker.put(BlobKind::Page, pages.clone(), &[point])?;
        maker.commit(PointId::from_bytes([point + 1; 16]), root)?;
    }
    maker.repo.checkpoint()?;
    Ok(maker.repo)
}

/// What this thread has had of a processor: other work on the machine does not count.
fn processor_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn collect(criterion: &mut Criterion) {
    let made = tempfile::tempdir().map_err(Failure::from);
    let built = made.and_then(|dir| build(dir.path()).map(|repo| (dir, repo)));
    let (_dir, repo) = match built {
        Ok(built) => built,
        Err(error) => return println!("cannot build the repository: {error}"),
    };
    let limits = CollectLimits::default();
    match repo.collect(&limits, &mut |_| ControlFlow::Continue(())) {
        Err(error) => return println!("{error}"),
        Ok(report) => {
            let each = report.mark_bytes as f64 / report.records as f64;
            println!(
                "{} points, {} records, {} of them needed, {} pages read once; marks take {} \
                 bytes, {each:.2} a record",
                report.points, report.records, report.live_records, report.pages, report.mark_bytes
            );
        }
    }
    for _ in 0..MEASURED {
        let before = processor_seconds();
        let planned = repo.collection_plan(&limits).is_ok_and(|plan| plan.refusal.is_none());
        let spent = processor_seconds() - before;
        println!("mark: {spent:.3} seconds of one processor, planned: {planned}");
    }
    let mut group = criterion.benchmark_group("collect");
    group.sample_size(10);
    group.bench_function("mark 1.5 million chunks of 45 points", |bencher| {
        bencher.iter(|| repo.collection_plan(&limits).map(|plan| plan.live_bytes).ok());
    });
    group.finish();
}

criterion_group!(benches, collect);
criterion_main!(benches);

//! The index at size: packs whose footers name N blobs (their records are holes), then, each in a
//! process of its own, the index rebuilt from the footers, and opened and asked in batches of
//! 1024. Prints seconds, memory a chunk and lookups a second.
//!
//! `cargo bench -p strongroom-store --bench index -- [--entries N] [--dir DIR]`; 100 million
//! entries take 10 GB below DIR while it runs, and 15 GB while segments are merged.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "a measurement's report is what it prints")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};
use strongroom_protocol::id::{ChunkId, PackId, RepoId};
use strongroom_protocol::time::Timestamp;
use strongroom_store::cut::CutParams;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::pack::{PackClass, pack_path};
use strongroom_store::repo::{Mode, Repo, RepoSetup};

const ENTRIES: u64 = 10_000_000;
/// As in a pack of 256 MiB.
const PACK_ENTRIES: u64 = 4096;
const RECORD_BYTES: u32 = 64_000;
const BATCH: usize = 1024;
/// Batches of one measurement.
const BATCHES: usize = 1000;
/// Batches asked while nothing is in the page cache: each waits for the disk.
const COLD_BATCHES: usize = 10;

struct Arguments {
    entries: u64,
    dir: Option<PathBuf>,
    step: Option<String>,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { entries: ENTRIES, dir: None, step: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--entries" => arguments.entries = words.next().unwrap().parse().unwrap(),
            "--dir" => arguments.dir = words.next().map(PathBuf::from),
            "--step" => arguments.step = words.next(),
            // Cargo's own.
            _ => {}
        }
    }
    arguments
}

fn main() {
    let arguments = arguments();
    match (arguments.step.as_deref(), &arguments.dir) {
        (Some("rebuild"), Some(dir)) => rebuild(dir, arguments.entries),
        (Some("ask"), Some(dir)) => ask(dir, arguments.entries),
        _ => whole(&arguments),
    }
}

fn whole(arguments: &Arguments) {
    let entries = arguments.entries;
    let temporary = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let temporary = temporary.unwrap();
    let repo = temporary.path().join("repo");
    std::fs::create_dir(&repo).unwrap();
    let began = Instant::now();
    let packs = make(&repo, entries);
    let seconds = began.elapsed().as_secs_f64();
    println!("{entries} entries in {packs} packs, made in {seconds:.1} s");
    for step in ["rebuild", "ask"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--step", step, "--entries", &entries.to_string(), "--dir"]).arg(&repo);
        assert!(child.status().unwrap().success(), "{step} failed");
    }
}

fn key() -> VaultKey {
    VaultKey::from_bytes([7; 32])
}

const REPO: RepoId = RepoId::from_bytes([1; 16]);

/// The id of a number: as evenly spread as a hash, at a fraction of its cost.
fn id(number: u64) -> ChunkId {
    let mut bytes = [0; 32];
    for (at, part) in (0..).zip(bytes.chunks_exact_mut(8)) {
        let mut word = (number * 4 + at).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        part.copy_from_slice(&(word ^ (word >> 31)).to_be_bytes());
    }
    ChunkId(bytes)
}

fn make(repo: &Path, entries: u64) -> u64 {
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![vec![1]],
    };
    Repo::create(&LocalDisk::new(repo), &setup, &key()).unwrap();
    let packs = entries.div_ceil(PACK_ENTRIES);
    for pack in 0..packs {
        let numbers = pack * PACK_ENTRIES..entries.min((pack + 1) * PACK_ENTRIES);
        let name = PackId(id(u64::MAX / 8 - pack).0);
        let path = repo.join(pack_path(PackClass::Data, name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        let mut head = b"SRPACK01".to_vec();
        head.extend_from_slice(REPO.as_bytes());
        head.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        head.resize(64, 0);
        file.write_all(&head).unwrap();
        let mut footer = Vec::new();
        for (slot, number) in (0_u32..).zip(numbers) {
            footer.extend_from_slice(&id(number).0);
            footer.push(0);
            for word in [64 + slot * RECORD_BYTES, RECORD_BYTES, 2 * RECORD_BYTES] {
                footer.extend_from_slice(&word.to_le_bytes());
            }
        }
        let count = footer.len() as u64 / 45;
        let footer_at = 64 + count * u64::from(RECORD_BYTES);
        let hash = blake3::hash(&footer);
        footer.extend_from_slice(&footer_at.to_le_bytes());
        footer.extend_from_slice(&(count as u32).to_le_bytes());
        footer.extend_from_slice(hash.as_bytes());
        footer.extend_from_slice(&0x4B41_5053_u32.to_le_bytes());
        file.seek(SeekFrom::Start(footer_at)).unwrap();
        file.write_all(&footer).unwrap();
    }
    packs
}

fn open(dir: &Path) -> Repo {
    Repo::open(Arc::new(LocalDisk::new(dir)), &key(), Mode::Write).unwrap()
}

fn rebuild(dir: &Path, entries: u64) {
    let before = memory("VmRSS");
    let began = Instant::now();
    drop(open(dir));
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds();
    let footers = entries as f64 * 45.0 / 1e6 / seconds;
    let packs = entries as f64 * f64::from(RECORD_BYTES) / 1e6 / seconds;
    let peak = (memory("VmHWM") - before) as f64;
    println!(
        "rebuilt from footers: {seconds:.1} s ({cpu:.1} s of CPU), {footers:.0} MB/s of footers, \
         which is {packs:.0} MB/s of packs; peak {:.0} MiB, {:.1} bytes a chunk",
        peak / 1048576.0,
        peak / entries as f64
    );
}

fn ask(dir: &Path, entries: u64) {
    drop_cache(dir);
    let before = memory("VmRSS");
    let began = Instant::now();
    let repo = open(dir);
    let seconds = began.elapsed().as_secs_f64();
    let resident = (memory("VmRSS") - before) as f64 / entries as f64;
    println!("opened cold: {seconds:.2} s; {resident:.2} bytes resident a chunk");
    let segments = std::fs::read_dir(dir.join("index")).unwrap();
    let bytes: Vec<u64> = segments.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    let total = bytes.iter().sum::<u64>() as f64 / 1e6;
    println!("{} segments, {total:.0} MB on disk", bytes.len());
    let hit = |number: u64| id(number.wrapping_mul(0x2545_f491_4f6c_dd1d) % entries);
    let miss = |number: u64| id(entries + number);
    report("hits, nothing cached", 1, rate(&repo, &hit, 1, COLD_BATCHES, true));
    report("misses", 1, rate(&repo, &miss, 1, BATCHES, false));
    report("misses", 2, rate(&repo, &miss, 2, BATCHES, false));
    warm(dir);
    report("hits, in page cache", 1, rate(&repo, &hit, 1, BATCHES, true));
    report("hits, in page cache", 2, rate(&repo, &hit, 2, BATCHES, true));
}

fn report(what: &str, threads: usize, (rate, cpu): (f64, f64)) {
    println!(
        "{what:<22} {threads} thread(s): {rate:>9.0} lookups a second, {cpu:.2} us of CPU each"
    );
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Lookups a second, over all threads, and the processor's microseconds for each.
fn rate(
    repo: &Repo,
    number_to_id: &(dyn Fn(u64) -> ChunkId + Sync),
    threads: usize,
    batches: usize,
    expected: bool,
) -> (f64, f64) {
    // A part of the batches is made beforehand, and asked again only after all the others.
    let made: Vec<Vec<Vec<ChunkId>>> = (0..threads)
        .map(|thread| {
            let numbers = |batch: usize| (((thread * batches) + batch) * BATCH) as u64;
            let batch =
                |batch| (0..BATCH as u64).map(|slot| number_to_id(numbers(batch) + slot)).collect();
            (0..batches).map(batch).collect()
        })
        .collect();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    std::thread::scope(|scope| {
        for batches in &made {
            scope.spawn(move || {
                for ids in batches {
                    let has = repo.has(ids).unwrap();
                    assert!(has.iter().all(|has| *has == expected));
                }
            });
        }
    });
    let lookups = (threads * batches * BATCH) as f64;
    (lookups / began.elapsed().as_secs_f64(), (cpu_seconds() - cpu) / lookups * 1e6)
}

fn segments(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir.join("index")).unwrap().map(|file| file.unwrap().path())
}

fn drop_cache(dir: &Path) {
    for path in segments(dir) {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

fn warm(dir: &Path) {
    for path in segments(dir) {
        std::io::copy(&mut File::open(path).unwrap(), &mut std::io::sink()).unwrap();
    }
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    let kib = line.trim_start_matches(':').trim().trim_end_matches("kB").trim();
    kib.parse::<u64>().unwrap() * 1024
}

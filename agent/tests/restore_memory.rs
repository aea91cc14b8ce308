//! What a restore holds in memory at most, measured by the kernel in a process of its own: a
//! tree of many short files and a long one, whose chunks are made when they are asked for.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_protocol::{BlobKind, ChunkId};
use strongroom_store::content::{ChunkExtent, Entry, FileContent, Meta, Node};
use strongroom_store::list::ListBuilder;
use strongroom_store::page::DirectoryBuilder;
use strongroom_store::tree::{Blob, BlobSource, MemoryBlobs, SourceError, Tree};

/// Short files, 4 KiB each, 128 to a bundle and 1000 to a directory: several windows of them.
const SHORT_FILES: u32 = 60_000;
const SHORT_BYTES: u32 = 4 << 10;
const BUNDLE_FILES: u32 = 128;
/// Chunks of the long file, 256 KiB each.
const LONG_CHUNKS: u32 = 1200;
const LONG_CHUNK_BYTES: u32 = 256 << 10;
/// Of the agent's 64 MiB, what the restorer may have: the link's windows come on top.
const PEAK_KIB_MAX: u64 = 40 << 10;

/// Pages in memory; chunks are zeros but for their number, in as many bytes as their name says.
struct Making(MemoryBlobs);

fn name(number: u32, bytes: u32) -> ChunkId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    id[4..8].copy_from_slice(&bytes.to_be_bytes());
    ChunkId(id)
}

impl BlobSource for Making {
    fn blob(&self, kind: BlobKind, id: ChunkId) -> Result<Blob, SourceError> {
        if kind != BlobKind::Data {
            return self.0.blob(kind, id);
        }
        let bytes = u32::from_be_bytes(id.0[4..8].try_into().unwrap());
        let mut plain = vec![0; usize::try_from(bytes).unwrap()];
        plain[..4].copy_from_slice(&id.0[..4]);
        Ok(Blob { references: Vec::new(), plain: Bytes::from(plain) })
    }
}

fn meta() -> Meta {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Meta { mode: 0o644, uid, gid, mtime_ns: 1_600_000_000_000_000_005, ..Meta::default() }
}

fn entry(name: String, node: Node) -> Entry {
    Entry { name: name.into_bytes(), node, meta: meta() }
}

fn tree() -> (Making, ChunkId) {
    let mut blobs = MemoryBlobs::new();
    let mut root = DirectoryBuilder::new();
    for dir in 0..SHORT_FILES / 1000 {
        let mut files = DirectoryBuilder::new();
        for number in dir * 1000..(dir + 1) * 1000 {
            let id = name(number / BUNDLE_FILES, BUNDLE_FILES * SHORT_BYTES);
            let offset = number % BUNDLE_FILES * SHORT_BYTES;
            let extents = vec![ChunkExtent::Chunk { id, offset, length: SHORT_BYTES }];
            let content = FileContent::Extents(extents);
            let node = Node::File { size: SHORT_BYTES.into(), content };
            files.push(entry(format!("file-{number:06}"), node), &mut blobs).unwrap();
        }
        let page = files.finish(&mut blobs).unwrap();
        let mut below = entry(format!("dir-{dir:03}"), Node::Directory { page });
        below.meta.mode = 0o755;
        root.push(below, &mut blobs).unwrap();
    }
    let mut long = ListBuilder::new();
    for number in 0..LONG_CHUNKS {
        let id = name((1 << 31) + number, LONG_CHUNK_BYTES);
        let extent = ChunkExtent::Chunk { id, offset: 0, length: LONG_CHUNK_BYTES };
        long.push(extent, &mut blobs).unwrap();
    }
    let content = long.finish(&mut blobs).unwrap();
    let size = u64::from(LONG_CHUNKS) * u64::from(LONG_CHUNK_BYTES);
    let node = Node::File { size, content };
    root.push(entry("long".to_owned(), node), &mut blobs).unwrap();
    let page = root.finish(&mut blobs).unwrap();
    (Making(blobs), page)
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs in a process of its own when started by the test below.
#[test]
fn child_restores() {
    let Some(target) = std::env::var_os("STRONGROOM_MEMORY").map(PathBuf::from) else { return };
    let (blobs, page) = tree();
    let before = peak_kib();
    let tree = Tree::new(&blobs, page);
    let restorer = Restorer::new(RestoreOptions::new(&target), Arc::default());
    let report = restorer.run(&tree, page, None).unwrap();
    assert_eq!((report.problem_count, report.files), (0, u64::from(SHORT_FILES) + 1));
    let added = peak_kib().saturating_sub(before);
    assert!(added < PEAK_KIB_MAX, "{added} KiB on top of {before} KiB");
    // Each bundle once, but for those at the seams of the windows.
    let chunks = u64::from(SHORT_FILES.div_ceil(BUNDLE_FILES) + LONG_CHUNKS);
    assert!((chunks..chunks + 16).contains(&report.chunks_fetched), "{report:?}");
}

#[test]
fn memory_does_not_grow_with_the_tree() {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(place).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_restores"])
        .env("STRONGROOM_MEMORY", dir.path().join("t"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let file = fs::read(dir.path().join("t/dir-059/file-059999")).unwrap();
    assert_eq!(file.len(), 4 << 10);
}

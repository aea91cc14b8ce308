//! A small vault for tests: made-up contents, pages that need them, manifests with real framing.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::sync::Arc;

use strongroom_protocol::blob::{BlobKind, Parcel, Reference};
use strongroom_protocol::id::{ChunkId, PointId, RepoId, WorkloadId};
use strongroom_protocol::time::Timestamp;
use strongroom_store::cut::CutParams;
use strongroom_store::disk::Disk;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{InsertError, Mode, Options, Repo, RepoError, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::writer::WriterLimits;

pub const REPO: RepoId = RepoId::from_bytes([0x11; 16]);
pub const WORKLOAD: WorkloadId = WorkloadId::from_bytes([0x22; 16]);
/// Small packs, so that a short script makes several.
pub const SMALL: WriterLimits =
    WriterLimits { data_pack_bytes: 4000, metadata_pack_bytes: 900, queue_bytes: 100_000 };

pub fn key() -> VaultKey {
    VaultKey::from_bytes([0x33; 32])
}

pub fn write_small() -> Options {
    Options { mode: Mode::Write, limits: SMALL }
}

pub fn setup() -> RepoSetup {
    RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![vec![1, 2, 3]],
    }
}

pub fn create(disk: &dyn Disk) {
    Repo::create(disk, &setup(), &key()).unwrap();
}

pub fn open(disk: &SimDisk) -> Repo {
    Repo::open(Arc::new(disk.clone()), &key(), write_small()).unwrap()
}

pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn point_id(number: u8) -> PointId {
    PointId::from_bytes([number; 16])
}

/// A blob with its children: what an agent would send.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: BlobKind,
    pub plain: Vec<u8>,
    pub children: Vec<Self>,
}

impl Node {
    pub fn data(seed: u64) -> Self {
        Self { kind: BlobKind::Data, plain: noise(700, seed), children: vec![] }
    }

    pub fn page(name: u64, children: Vec<Self>) -> Self {
        Self { kind: BlobKind::Page, plain: noise(150, !name), children }
    }

    pub fn parcel(&self) -> Parcel {
        let references = self.children.iter().map(Self::reference).collect();
        let agent = key().agent_keys();
        Compressor::new().unwrap().pack(&agent, self.kind, references, &self.plain, 1).unwrap()
    }

    pub fn reference(&self) -> Reference {
        Reference { kind: self.kind, id: self.id() }
    }

    pub fn id(&self) -> ChunkId {
        let references: Vec<Reference> = self.children.iter().map(Self::reference).collect();
        key().agent_keys().id(self.kind, &references, &self.plain)
    }
}

/// The tree of point `number`: shares some data with its neighbours, and a whole branch.
pub fn tree(number: u64) -> Node {
    let own = |n| Node::data(number * 100 + n);
    let shared = Node::page(1000, vec![Node::data(1), Node::data(2)]);
    let branch = Node::page(number * 10 + 1, vec![own(1), own(2), own(3), Node::data(3)]);
    let list = Node { kind: BlobKind::List, ..Node::page(number * 10 + 2, vec![own(4), own(5)]) };
    let previous = Node::data(number.saturating_sub(1) * 100 + 1);
    Node::page(number * 10, vec![shared, branch, list, own(6), previous])
}

/// Sends what the repository says it does not have, as an agent does: whole branches are
/// skipped when their top is there.
pub fn send(repo: &Repo, node: &Node) -> Result<(), InsertError> {
    if repo.has(&[node.id()])?[0] {
        return Ok(());
    }
    for child in &node.children {
        send(repo, child)?;
    }
    insert(repo, node)
}

pub fn insert(repo: &Repo, node: &Node) -> Result<(), InsertError> {
    let parcel = node.parcel();
    let sealed = seal(&key(), REPO, &parcel).unwrap();
    repo.insert(sealed, &parcel.head.references).map(|_| ())
}

pub fn manifest(point: PointId, roots: &[Reference]) -> Vec<u8> {
    let roots: Vec<(u8, [u8; 32])> = roots.iter().map(|r| (r.kind.code(), r.id.0)).collect();
    let names = (*REPO.as_bytes(), *WORKLOAD.as_bytes(), *point.as_bytes());
    let head = postcard::to_allocvec(&(names, 5i64, 0u8, roots, 1u32, 1u32)).unwrap();
    let mut bytes = b"SRPOIN01".to_vec();
    bytes.extend_from_slice(&u32::try_from(head.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&16u32.to_le_bytes());
    bytes.extend_from_slice(&[0; 28]);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

pub fn commit(repo: &Repo, number: u8) -> Result<(), RepoError> {
    let root = tree(u64::from(number)).reference();
    let point = point_id(number);
    repo.commit_point(WORKLOAD, point, &manifest(point, &[root]))
}

/// Sends and commits point `number`.
pub fn protect(repo: &Repo, number: u8) -> Result<(), anyhow_like::Failure> {
    send(repo, &tree(u64::from(number)))?;
    commit(repo, number)?;
    Ok(())
}

/// One error for what a protection can meet.
pub mod anyhow_like {
    use strongroom_store::repo::{InsertError, RepoError};

    #[derive(Debug)]
    pub enum Failure {
        Insert(InsertError),
        Repo(RepoError),
    }
    impl Failure {
        /// Whether it tells the caller about the disk.
        pub fn is_about_the_disk(&self) -> bool {
            let repo = match self {
                Self::Insert(InsertError::Repo(error)) | Self::Repo(error) => error,
                Self::Insert(_) => return false,
            };
            matches!(repo, RepoError::Disk(_) | RepoError::DiskFull { .. } | RepoError::Write(_))
        }
    }
    impl From<InsertError> for Failure {
        fn from(error: InsertError) -> Self {
            Self::Insert(error)
        }
    }
    impl From<RepoError> for Failure {
        fn from(error: RepoError) -> Self {
            Self::Repo(error)
        }
    }
}

/// Everything below the node reads back as it was.
pub fn read_back(repo: &Repo, node: &Node) -> Result<(), RepoError> {
    assert_eq!(repo.plain(node.id(), node.kind)?, node.plain);
    let references: Vec<Reference> = node.children.iter().map(Node::reference).collect();
    assert_eq!(repo.references(node.id())?, references);
    node.children.iter().try_for_each(|child| read_back(repo, child))
}

/// The point is whole: its manifest, its closure, its contents.
pub fn check_point(repo: &Repo, number: u8) -> Result<(), RepoError> {
    let roots = repo.point_roots(WORKLOAD, point_id(number))?;
    assert_eq!(roots, [tree(u64::from(number)).reference()]);
    repo.closure(&roots)?;
    read_back(repo, &tree(u64::from(number)))
}

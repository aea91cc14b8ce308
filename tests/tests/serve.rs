//! What a reader is told when the node that serves it fails in the middle: an error, and soon.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use strongroom_node::serve;
use strongroom_protocol::data::{FromReader, ToReader};
use strongroom_protocol::link::{Endpoint, Link};
use strongroom_protocol::{BlobKind, RepoId, Timestamp};
use strongroom_store::cut::CutParams;
use strongroom_store::disk::sim::SimDisk;
use strongroom_store::disk::{AppendFile, ColdSink, Disk, DiskResult, Entry, Lock, ReadFile};
use strongroom_store::keys::VaultKey;
use strongroom_store::parcel::Compressor;
use strongroom_store::repo::{Mode, Options, Repo, RepoSetup};
use strongroom_store::seal::seal;
use strongroom_store::writer::WriterLimits;

/// A disk that is a bug once it is told to be.
struct Buggy {
    below: SimDisk,
    is_bad: Arc<AtomicBool>,
}

struct BuggyFile {
    below: Arc<dyn ReadFile>,
    is_bad: Arc<AtomicBool>,
}

impl ReadFile for BuggyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> DiskResult<()> {
        assert!(!self.is_bad.load(Ordering::Relaxed), "the bug of this test");
        self.below.read_exact_at(buffer, offset)
    }

    fn len(&self) -> DiskResult<u64> {
        self.below.len()
    }
}

impl Disk for Buggy {
    fn create(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        self.below.create(path)
    }

    fn append_to(&self, path: &str) -> DiskResult<Box<dyn AppendFile>> {
        self.below.append_to(path)
    }

    fn open(&self, path: &str) -> DiskResult<Arc<dyn ReadFile>> {
        let (below, is_bad) = (self.below.open(path)?, Arc::clone(&self.is_bad));
        Ok(Arc::new(BuggyFile { below, is_bad }))
    }

    fn read_cold(&self, path: &str, take: &mut ColdSink<'_>) -> DiskResult<()> {
        self.below.read_cold(path, take)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        self.below.rename(from, to)
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        self.below.remove(path)
    }

    fn create_dirs(&self, path: &str) -> DiskResult<Vec<String>> {
        self.below.create_dirs(path)
    }

    fn sync_dir(&self, path: &str) -> DiskResult<()> {
        self.below.sync_dir(path)
    }

    fn list(&self, path: &str) -> DiskResult<Vec<Entry>> {
        self.below.list(path)
    }

    fn exists(&self, path: &str) -> DiskResult<bool> {
        self.below.exists(path)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.below.free_bytes()
    }

    fn lock(&self, path: &str) -> DiskResult<Option<Lock>> {
        self.below.lock(path)
    }

    fn describe(&self, path: &str) -> String {
        self.below.describe(path)
    }
}

const REPO: RepoId = RepoId::from_bytes([1; 16]);
const KEY: VaultKey = VaultKey::from_bytes([3; 32]);

fn repo(disk: Buggy) -> Repo {
    let setup = RepoSetup {
        repo: REPO,
        org: "acme".parse().unwrap(),
        cut: CutParams::FILES,
        created: Timestamp(1),
        wraps: vec![vec![1]],
    };
    Repo::create(&disk, &setup, &KEY).unwrap();
    let options = Options { mode: Mode::Write, limits: WriterLimits::default() };
    Repo::open(Arc::new(disk), &KEY, options).unwrap()
}

async fn connected() -> (Link, Link, [Endpoint; 2]) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(vec!["strongroom.invalid".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut identity = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut trust =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    for alpn in [&mut identity.alpn_protocols, &mut trust.alpn_protocols] {
        *alpn = vec![strongroom_protocol::ALPN_NODE.to_vec()];
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Endpoint::bind(any, Some(Arc::new(identity))).unwrap();
    let client = Endpoint::bind(any, None).unwrap();
    let dial = client.dial(server.local_address().unwrap(), Arc::new(trust));
    let accept = async { server.accept().await.unwrap().enter().await };
    let (dialled, accepted) = tokio::join!(dial, accept);
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    accepted.widen();
    (dialled, accepted, [client, server])
}

#[tokio::test]
async fn a_reader_is_told_when_the_thread_that_reads_for_it_dies() {
    let is_bad = Arc::new(AtomicBool::new(false));
    let disk = Buggy { below: SimDisk::new(), is_bad: Arc::clone(&is_bad) };
    let repo = repo(disk);
    let mut compressor = Compressor::new().unwrap();
    let parcel =
        compressor.pack(&KEY.agent_keys(), BlobKind::Data, Vec::new(), b"content", 1).unwrap();
    repo.insert(seal(&KEY, REPO, &parcel).unwrap(), &[]).unwrap();
    repo.barrier().unwrap();
    // Closed when the disk is well again.
    let kept = repo.clone();
    let (reader, node, _endpoints) = connected().await;
    let serving = tokio::spawn(async move {
        let (sender, receiver) = node.accept().await.unwrap();
        serve::serve(&repo, Bytes::new(), sender, receiver).await
    });
    let (mut sender, mut receiver) = reader.open().await.unwrap();
    let want = FromReader::Want { number: 1, ids: vec![parcel.head.id] };
    sender.send(&want).await.unwrap();
    let talk = async {
        let first = receiver.expect::<ToReader>().await.unwrap().0;
        assert!(matches!(first, ToReader::Manifest(_)), "{first:?}");
        let blob = receiver.expect::<ToReader>().await.unwrap().0;
        assert!(matches!(blob, ToReader::Blob(_)), "{blob:?}");
        let done = receiver.expect::<ToReader>().await.unwrap().0;
        assert_eq!(done, ToReader::Done { number: 1 });
        is_bad.store(true, Ordering::Relaxed);
        sender.send(&want).await.unwrap();
        let end = receiver.next::<ToReader>().await;
        assert!(end.is_err(), "{end:?}");
    };
    // It would wait for ever: the far end has nothing more to say and does not say so.
    tokio::time::timeout(Duration::from_secs(30), talk).await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(30), serving).await.unwrap().unwrap();
    assert!(served.unwrap_err().to_string().contains("broke off"));
    is_bad.store(false, Ordering::Relaxed);
    drop(kept);
}

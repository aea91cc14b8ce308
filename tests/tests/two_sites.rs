//! The whole slice: a tree is protected, replicated, proven, put on media, and restored from each
//! copy by itself, with the other site gone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use strongroom_agent::oddities;
use strongroom_agent::recover::item;
use strongroom_agent::restore::compare::compare;
use strongroom_agent::restore::{RestoreOptions, Restorer};
use strongroom_node::reader::RemotePoint;
use strongroom_protocol::PointId;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::media::{MediaReader, stage};
use strongroom_store::repo::{Mode, Repo};
use strongroom_store::tape::VirtualLibrary;
use strongroom_store::tree::{BlobSource, Tree};
use strongroom_tests::site::{TwoSites, policy};

fn restore<S: BlobSource + Sync>(source: S, root: strongroom_protocol::ChunkId, target: &Path) {
    let tree = Tree::new(source, root);
    let (page, meta) = item(&tree).unwrap();
    let options = RestoreOptions::new(target);
    let restorer = Restorer::new(options, Arc::new(AtomicBool::new(false)));
    let report = restorer.run(&tree, page, Some(meta)).unwrap();
    assert_eq!(report.problems, vec![]);
}

fn same(source: &Path, target: &Path) {
    let mut differences = Vec::new();
    compare(source, target, &mut |difference| differences.push(difference)).unwrap();
    assert_eq!(differences, vec![], "{} differs", target.display());
}

async fn restore_from(sites: &TwoSites, node: &str, point: PointId, target: &Path) {
    let link = sites.operator(node).await.unwrap();
    let (manifest, source) = RemotePoint::open(&link, point, None).await.unwrap();
    let target = target.to_owned();
    tokio::task::spawn_blocking(move || restore(source, manifest.body.root, &target))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_every_odd_kind_comes_back_from_every_copy() {
    strongroom_node::log::start(strongroom_node::log::LogStyle::Text, "warn");
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    oddities::make(&source).unwrap();
    let sites = TwoSites::make(dir.path()).unwrap();
    let coordinator = sites.start_coordinator().unwrap();
    sites.enrol_agent("host1").await.unwrap();
    let agent = sites.start_agent("host1").unwrap();
    sites.introduce_proxy().await.unwrap();
    let proxy = sites.start_proxy().unwrap();
    sites.await_nodes(2).await.unwrap();
    sites.apply(&policy(&source)).await.unwrap();

    let job = sites.protect("tree@host1").await.unwrap();
    assert_eq!(job.state, "succeeded", "{job:?}");
    let point = sites.await_copy("secondary", "readable").await.unwrap().id;
    sites.await_copy("tape", "hash-verified").await.unwrap();

    let target = dir.path().join("from-primary");
    restore_from(&sites, "coordinator", point, &target).await;
    same(&source, &target);

    agent.stop().await.unwrap();
    coordinator.stop().await.unwrap();
    std::fs::rename(sites.home("coordinator"), dir.path().join("lost")).unwrap();
    let target = dir.path().join("from-secondary");
    restore_from(&sites, "proxy", point, &target).await;
    same(&source, &target);

    proxy.stop().await.unwrap();
    let library = Arc::new(VirtualLibrary::open(&sites.home("proxy").join("library")).unwrap());
    let reader = MediaReader::open(library).unwrap();
    let staged = dir.path().join("staged");
    let (_, data) = stage(&reader, point, &staged).unwrap();
    assert!(data.missing.is_empty());
    let key = std::fs::read(dir.path().join("lost/vault.key")).unwrap();
    let key = VaultKey::from_secret(&key).unwrap();
    let repo = Repo::open(Arc::new(LocalDisk::new(&staged)), &key, Mode::Read).unwrap();
    let root = repo.point(point).unwrap().body.root;
    let target = dir.path().join("from-media");
    restore(repo, root, &target);
    same(&source, &target);
}

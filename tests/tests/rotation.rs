//! A new key epoch under two sites: what was stored stays readable, what is new comes back from
//! every copy, and a site that has not taken the key over yet says so and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use strongroom_certs::files;
use strongroom_protocol::PointId;
use strongroom_protocol::admin::VerifyDepth;
use strongroom_store::disk::LocalDisk;
use strongroom_store::keys::VaultKey;
use strongroom_store::media::{MediaReader, stage};
use strongroom_store::repo::{Depth, Mode, Repo, RepoError, RepoKeys};
use strongroom_store::tape::VirtualLibrary;
use strongroom_tests::lab::{Cast, Lab};

/// What `strongroom keys` does to a home, with recipients that are only words here.
fn take_over(home: &Path, key: &VaultKey, wraps: &[&str]) {
    let wraps = wraps.iter().map(|wrap| wrap.as_bytes().to_vec()).collect();
    let change =
        |_: Option<RepoKeys>, repo| Ok::<_, RepoError>((RepoKeys::of(repo, key, wraps), ()));
    RepoKeys::change(&LocalDisk::new(home.join("repo")), change).unwrap();
    files::write_private(&home.join("vault.key"), &key.to_secret()).unwrap();
}

fn key_of(home: &Path) -> VaultKey {
    VaultKey::from_secret(&std::fs::read(home.join("vault.key")).unwrap()).unwrap()
}

/// How many packs of each epoch lie in a repository, and how often any blob is there twice.
fn packs(home: &Path) -> [usize; 2] {
    let repo = LocalDisk::new(home.join("repo"));
    let repo = Repo::open(Arc::new(repo), &key_of(home), Mode::Read).unwrap();
    assert!(repo.verify(Depth::Plain).unwrap().is_sound());
    let mut counts = [0, 0];
    for pack in repo.packs() {
        counts[repo.pack_epoch(pack).unwrap() as usize - 1] += 1;
    }
    counts
}

/// Restores a point from the cartridges with `key`; the size of what came.
fn open_from_media(lab: &Lab, point: PointId, key: &VaultKey) -> Repo {
    let library = VirtualLibrary::open(&lab.sites.home("proxy").join("library")).unwrap();
    let reader = MediaReader::open(Arc::new(library)).unwrap();
    let staged = tempfile::tempdir_in(lab.dir.path()).unwrap().keep();
    let (_, fetched) = stage(&reader, point, &staged).unwrap();
    assert!(fetched.missing.is_empty());
    Repo::open(Arc::new(LocalDisk::new(staged)), key, Mode::Read).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_from_the_proxy_to_the_coordinator_costs_nothing() {
    let mut lab = Lab::start(Cast::TwoSites).await.unwrap();
    let (coordinator, proxy) = (lab.sites.home("coordinator"), lab.sites.home("proxy"));
    lab.write("kept", 900_000, 1).unwrap();
    let first = lab.point().await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();

    let one = key_of(&proxy);
    let two = one.rotated().unwrap();
    lab.stop_proxy().await.unwrap();
    take_over(&proxy, &two, &["second"]);
    lab.start_proxy().unwrap();
    // Between the two, everything goes on as it was.
    lab.write("between", 50_000, 2).unwrap();
    lab.point().await.unwrap();
    lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    lab.stop_coordinator().await.unwrap();
    assert_eq!(packs(&coordinator)[1], 0);
    take_over(&coordinator, &two, &["second"]);
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    lab.write("new", 60_000, 3).unwrap();
    let third = lab.point().await.unwrap();
    let row = lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    assert_eq!(row.id, third);
    assert!(row.stored_bytes < 500_000, "what is kept is not stored again: {row:?}");
    for node in ["coordinator", "proxy"] {
        lab.restores_as(node, third, &lab.source).await.unwrap();
        let (_, problems) = lab.restore(node, first).await.unwrap();
        assert_eq!(problems, Vec::<String>::new());
        let report = lab.verify(node, VerifyDepth::Plain).await.unwrap();
        assert!(report.damaged_packs.is_empty(), "{node}: {report:?}");
    }
    lab.stop_agent().await.unwrap();
    lab.stop_coordinator().await.unwrap();
    lab.stop_proxy().await.unwrap();
    for home in [&coordinator, &proxy] {
        let [old, new] = packs(home);
        assert!(old > 0 && new > 0, "{old} and {new}");
    }
    let staged = open_from_media(&lab, third, &two);
    assert_eq!(staged.keys_file().wraps, [b"second".to_vec()]);
    staged.point(third).unwrap();
    assert!(staged.verify(Depth::Plain).unwrap().is_sound());
    // The key before the rotation opens what was written before it, and nothing else.
    open_from_media(&lab, first, &one).point(first).unwrap();
    let refused = open_from_media(&lab, third, &one).point(third).unwrap_err();
    assert!(refused.lacks_key(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_lacks_the_key_copies_and_says_so_and_goes_on_when_it_has_it() {
    let mut lab = Lab::start(Cast::TwoSites).await.unwrap();
    let (coordinator, proxy) = (lab.sites.home("coordinator"), lab.sites.home("proxy"));
    lab.stop_coordinator().await.unwrap();
    let two = key_of(&coordinator).rotated().unwrap();
    take_over(&coordinator, &two, &["second"]);
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    lab.write("new", 60_000, 3).unwrap();
    let point = lab.point().await.unwrap();
    lab.sites
        .wait_for("the point at the proxy", async |sites| {
            let points = sites.points("proxy").await.unwrap_or_default();
            let there = points.iter().any(|row| row.id == point);
            let repo = LocalDisk::new(proxy.join("repo"));
            let repo = Repo::open_keyless(Arc::new(repo))?;
            Ok((there || repo.has_point(point)).then_some(()))
        })
        .await
        .unwrap();
    let refused = lab.restore("proxy", point).await.unwrap_err();
    let text = format!("{refused:#}");
    assert!(text.contains("key epoch 2") && !text.contains("damaged"), "{text}");
    lab.restores_as("coordinator", point, &lab.source).await.unwrap();
    lab.stop_proxy().await.unwrap();
    take_over(&proxy, &two, &["second"]);
    lab.start_proxy().unwrap();
    lab.everybody().await.unwrap();
    let next = lab.point().await.unwrap();
    let row = lab.sites.await_copy("tape", "hash-verified").await.unwrap();
    assert_eq!(row.id, next);
    lab.restores_as("proxy", point, &lab.source).await.unwrap();
    lab.stop_coordinator().await.unwrap();
    lab.stop_proxy().await.unwrap();
    open_from_media(&lab, next, &two).point(next).unwrap();
}

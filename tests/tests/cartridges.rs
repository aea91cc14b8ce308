//! Cartridges that leave the library of a whole site: a copy in a vault is still there, what needs
//! it says what to fetch and from where, and goes on once it is back; and a copy from cartridge to
//! cartridge is on the books of the other site without the repository being read for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::Path;

use strongroom_node::scrubber::ScrubSettings;
use strongroom_protocol::admin::{
    CartridgeOrder, CartridgeRow, CopyRow, Request, Response, Whereabouts,
};
use strongroom_tests::site::{Running, TwoSites, policy};

struct Scene {
    sites: TwoSites,
    _agent: Running,
    _coordinator: Running,
    _proxy: Running,
}

/// A tree at one site whose point is on a cartridge of the other; proofs are old after a second.
async fn on_media(dir: &Path) -> Scene {
    let source = dir.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), vec![7; 300_000]).unwrap();
    let sites = TwoSites::make(dir).unwrap();
    let settings = ScrubSettings { proof_seconds: 2, ..ScrubSettings::default() };
    sites.set_scrub("coordinator", settings).unwrap();
    let coordinator = sites.start_coordinator().unwrap();
    sites.enrol_agent("host1").await.unwrap();
    let agent = sites.start_agent("host1").unwrap();
    sites.introduce_proxy().await.unwrap();
    let proxy = sites.start_proxy().unwrap();
    sites.await_nodes(2).await.unwrap();
    sites.apply(&policy(&source)).await.unwrap();
    sites.protect("tree@host1").await.unwrap();
    sites.await_copy("tape", "hash-verified").await.unwrap();
    Scene { sites, _agent: agent, _coordinator: coordinator, _proxy: proxy }
}

impl Scene {
    /// Tried again while the drives are in use.
    async fn order(&self, order: CartridgeOrder) -> Response {
        let request = Request::Cartridges { order };
        self.sites
            .wait_for("an order about cartridges", async |sites| {
                match sites.ask("proxy", &request).await {
                    Err(error) if format!("{error:#}").contains("drives are in use") => Ok(None),
                    other => other.map(Some),
                }
            })
            .await
            .unwrap()
    }

    async fn row(&self, barcode: &str) -> CartridgeRow {
        let Response::Cartridges(rows) = self.order(CartridgeOrder::List).await else {
            panic!("no rows")
        };
        rows.into_iter().find(|row| row.barcode == barcode).unwrap()
    }

    async fn tape(&self) -> CopyRow {
        let points = self.sites.points("coordinator").await.unwrap();
        let mut copies = points.into_iter().flat_map(|point| point.copies);
        copies.find(|row| row.copy.as_str() == "tape").unwrap()
    }
}

const FIRST: &str = "T00001L9";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_a_vault_is_there_is_asked_for_by_name_and_is_proven_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let scene = on_media(dir.path()).await;
    let barcodes = || vec![FIRST.to_owned()];
    let at_coordinator = Request::Cartridges { order: CartridgeOrder::List };
    let refused = scene.sites.ask("coordinator", &at_coordinator).await.unwrap_err();
    assert!(format!("{refused:#}").contains("ask the proxy"), "{refused:#}");

    let exported = scene.order(CartridgeOrder::Export { barcodes: barcodes() }).await;
    assert!(
        matches!(&exported, Response::Done(text) if text.contains("mail slot 1")),
        "{exported:?}"
    );
    let library = scene.sites.home("proxy").join("library");
    let mail = library.join(format!("mail/{FIRST}.tape"));
    let outside = dir.path().join(format!("{FIRST}.tape"));
    fs::rename(&mail, &outside).unwrap();
    let place = "the safe".to_owned();
    let vaulted = scene.order(CartridgeOrder::Vault { barcodes: barcodes(), place }).await;
    assert!(matches!(vaulted, Response::Done(_)), "{vaulted:?}");
    let row = scene.row(FIRST).await;
    assert!(matches!(row.whereabouts, Whereabouts::Vault { place, .. } if place == "the safe"));

    // The next proof says what it needs, and the copy is not taken for lost.
    let before = scene.tape().await.proven;
    let alarm = scene
        .sites
        .wait_for("the proof to ask for the cartridge", async |sites| {
            let Response::Status(status) = sites.ask("coordinator", &Request::Status).await? else {
                return Ok(None);
            };
            Ok(status.alarms.into_iter().find(|alarm| alarm.contains("could not be proven")))
        })
        .await
        .unwrap();
    assert!(alarm.contains("away: fetch cartridges T00001L9 from the safe"), "{alarm}");
    assert_eq!(scene.tape().await.state, "present");
    let blank = scene.row("T00002L9").await;
    assert_eq!(blank.points, 0, "it was not written again");

    // It comes back by the mail slot: that wakes what waited for it, which else rests for minutes.
    fs::rename(&outside, &mail).unwrap();
    let came = scene.order(CartridgeOrder::Import).await;
    assert!(matches!(&came, Response::Done(text) if text.contains(FIRST)), "{came:?}");
    assert!(matches!(scene.row(FIRST).await.whereabouts, Whereabouts::Slot { .. }));
    scene
        .sites
        .wait_for("a newer proof", async |_| {
            let tape = scene.tape().await;
            let is_newer = tape.proof == "hash-verified" && tape.proven > before;
            Ok(is_newer.then_some(()))
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_from_cartridge_to_cartridge_goes_on_the_books_without_being_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let scene = on_media(dir.path()).await;
    let set = || "yearly".parse().unwrap();
    let copy = CartridgeOrder::Copy { barcode: FIRST.to_owned(), set: set() };
    let copied = scene.order(copy).await;
    assert!(matches!(&copied, Response::Done(text) if text.contains("T00002L9")), "{copied:?}");
    let before = scene.row("T00002L9").await;
    assert_eq!((before.set, before.points), (Some(set()), 1));

    let second = "[policy.standard.copy.vault]\nkind = \"aux\"\nfrom = \"secondary\"\n\
                  media_set = \"yearly\"\nmin_proof = \"hash-verified\"\nkeep = { newest = 10 }\n";
    let text =
        policy(&dir.path().join("source")).replace("[workload.", &format!("{second}[workload."));
    scene.sites.apply(&text).await.unwrap();
    scene.sites.await_copy("vault", "hash-verified").await.unwrap();
    let points = scene.sites.points("coordinator").await.unwrap();
    let mut rows = points.iter().flat_map(|point| &point.copies);
    let row = rows.find(|row| row.copy.as_str() == "vault").unwrap();
    assert_eq!(row.bytes, 0, "nothing was sent for it");
    let after = scene.row("T00002L9").await;
    assert_eq!(
        (after.used_bytes, after.points),
        (before.used_bytes, 1),
        "nothing was written for it"
    );
}

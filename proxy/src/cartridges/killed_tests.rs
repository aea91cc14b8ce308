//! A process that refreshes cartridges is killed, again and again.

use strongroom_store::media::{Health, MediaReader};

use super::*;

/// The directory of a child that is to be killed.
const KILLED: &str = "STRONGROOM_KILLED_IN";

/// Refreshes one cartridge after another until it is killed.
fn refresh_without_end(dir: &Path) {
    let library = Arc::new(VirtualLibrary::open(&dir.join("library")).unwrap());
    let keeping = Keeping {
        repo: repo(&SimDisk::new()),
        library: library.clone(),
        book: Arc::new(Cartridges::open(&dir.join(CARTRIDGES_FILE)).unwrap()),
        keeper: media_keeper(&dir.join(CARTRIDGES_FILE)),
        settings: MediaSettings::default(),
        clock: Arc::new(FixedClock::at(Timestamp::from_unix_seconds(1_800_000_000))),
        spare: dir.join("spare"),
        by: "operator/ann".to_owned(),
    };
    loop {
        let known = keeping.book.known();
        let media = MediaReader::open(library.clone()).unwrap().media().into_iter();
        let current = media.filter(|medium| medium.health != Health::Absent);
        let current = current.filter(|medium| !known.retired.contains_key(&medium.medium));
        let barcodes = current.map(|medium| medium.barcode.to_string()).take(1).collect();
        // That no cartridge is free is no reason to end: the next round looks again.
        drop(carry_out(&keeping, CartridgeOrder::Refresh { barcodes }));
    }
}

#[test]
fn killed_at_any_moment_of_a_refresh_nothing_is_lost_and_nothing_is_retired_too_early() {
    if let Some(dir) = std::env::var_os(KILLED) {
        refresh_without_end(Path::new(&dir));
        return;
    }
    let mut scene = Scene::new(3, 1, 2);
    let root = scene.dir.path().join("library");
    for round in 0..12_u64 {
        let Scene { dir, repo, library, settings } = scene;
        // It is locked for one process at a time.
        drop(library);
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--test-threads=1"]);
        command.arg(std::thread::current().name().unwrap());
        command.env(KILLED, dir.path()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40 + round * 37 % 170));
        child.kill().unwrap();
        child.wait().unwrap();
        let library = Arc::new(VirtualLibrary::open(&root).unwrap());
        scene = Scene { dir, repo, library, settings };
        assert_eq!(scene.lost(), [], "round {round}");
        assert!(scene.proven().is_ok(), "round {round}");
        // Without what may be written anew all of it is still there.
        let released = scene.book().known().released(&scene.library.inventory().unwrap());
        let reader = MediaReader::open(scene.library.clone()).unwrap();
        let stays = |places: &[strongroom_store::media::Place]| {
            places.iter().any(|place| !released.contains(&place.medium))
        };
        let held = reader.held();
        assert!(stays(&held.points[&POINT].places), "round {round}");
        for pack in scene.repo.packs() {
            assert!(stays(&held.packs[&pack].places), "round {round}");
        }
    }
    assert!(!scene.book().known().retired.is_empty(), "no refresh came to its end");
}

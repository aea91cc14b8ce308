//! Damage at the coordinator, one file at a time: what is hurt is named, what is not comes back
//! byte for byte, and nothing wrong is ever written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use strongroom_protocol::PointId;
use strongroom_protocol::admin::{Request, Response, VerifyDepth};
use strongroom_tests::lab::{Cast, Lab, copy_tree, differences, files_below, flip, truncate};

const FILES: usize = 8;
const FILE_BYTES: usize = 300_000;

/// One point of eight files that share nothing, and a copy of what it must contain.
async fn protected(cast: Cast) -> (Lab, PointId, PathBuf) {
    let lab = Lab::start(cast).await.unwrap();
    for n in 0..FILES {
        lab.write(&format!("file{n}"), FILE_BYTES, n as u64).unwrap();
    }
    lab.write("deep/below/small", 700, 99).unwrap();
    let point = lab.point().await.unwrap();
    let expected = lab.dir.path().join("expected");
    copy_tree(&lab.source, &expected).unwrap();
    (lab, point, expected)
}

fn packs(lab: &Lab, class: &str) -> Vec<PathBuf> {
    files_below(&lab.sites.home("coordinator").join("repo/packs").join(class)).unwrap()
}

/// Restores; every difference must be told as a problem, and no file may hold wrong bytes.
async fn hurt_files(lab: &Lab, node: &str, point: PointId, expected: &Path) -> usize {
    let (target, problems) = lab.restore(node, point).await.unwrap();
    let found = differences(expected, &target).unwrap();
    for difference in &found {
        let mut words = difference.split(' ');
        let (path, aspect) = (words.next().unwrap(), words.next().unwrap());
        if path.contains(".strongroom-") && aspect == "Surplus" {
            // What came of a file, under a name of ours: the next try goes on with it.
            continue;
        }
        let named = problems.iter().any(|p| p.starts_with(&format!("{path}: ")));
        assert!(named && aspect == "Missing", "{difference}; told: {problems:?}");
    }
    problems.len()
}

async fn restart(lab: &mut Lab) {
    lab.stop_coordinator().await.unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_data_pack_hurts_one_file_and_is_named() {
    let (lab, point, expected) = protected(Cast::OneSite).await;
    let pack = packs(&lab, "d").remove(0);
    flip(&pack, 50).unwrap();
    assert_eq!(hurt_files(&lab, "coordinator", point, &expected).await, 1);

    let name = pack.file_name().unwrap().to_str().unwrap();
    for depth in [VerifyDepth::Hashes, VerifyDepth::Plain] {
        let report = lab.verify("coordinator", depth).await.unwrap();
        assert_eq!(report.damaged_packs.len(), 1, "{report:?}");
        assert_eq!(report.damaged_packs[0].to_string(), name);
        assert_eq!(report.points_whole, 0);
        let hurt: Vec<_> = report.hurt.iter().filter(|line| line.contains("/file")).collect();
        assert!(hurt.iter().any(|line| line.contains(&point.short())), "{:?}", report.hurt);
        if depth == VerifyDepth::Plain {
            assert_eq!(hurt.len(), 1, "{:?}", report.hurt);
        }
    }
    let alarms = lab.status("coordinator").await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("damaged")), "{alarms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_and_then_a_deleted_data_pack_cost_the_files_in_them() {
    let (mut lab, point, expected) = protected(Cast::OneSite).await;
    let pack = packs(&lab, "d").remove(0);
    truncate(&pack, 50).unwrap();
    let hurt = hurt_files(&lab, "coordinator", point, &expected).await;
    assert!((1..FILES).contains(&hurt), "{hurt}");
    let report = lab.verify("coordinator", VerifyDepth::Plain).await.unwrap();
    assert_eq!(report.damaged_packs.len(), 1);
    let named = report.hurt.iter().filter(|line| line.contains(&point.short())).count();
    assert_eq!(named, hurt, "{:?}", report.hurt);
    let alarms = lab.status("coordinator").await.unwrap().alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("1 damaged packs")), "{alarms:?}");
    restart(&mut lab).await;
    assert_eq!(hurt_files(&lab, "coordinator", point, &expected).await, hurt);

    std::fs::remove_file(&pack).unwrap();
    restart(&mut lab).await;
    let hurt = hurt_files(&lab, "coordinator", point, &expected).await;
    assert!(hurt >= FILES, "{hurt}");
    let report = lab.verify("coordinator", VerifyDepth::Hashes).await.unwrap();
    assert_eq!(report.damaged_packs.len(), 1, "{report:?}");
    assert!(report.hurt.iter().any(|line| line.contains("file0")), "{:?}", report.hurt);
    assert_eq!(report.points_whole, 0);
    let alarms = lab.status("coordinator").await.unwrap().alarms;
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(alarms.iter().any(|alarm| alarm.contains(name)), "{alarms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_deleted_under_a_running_coordinator_is_found_by_verify() {
    let (lab, point, expected) = protected(Cast::OneSite).await;
    lab.restores_as("coordinator", point, &expected).await.unwrap();
    std::fs::remove_file(packs(&lab, "d").remove(0)).unwrap();
    let report = lab.verify("coordinator", VerifyDepth::Hashes).await.unwrap();
    assert_eq!(report.damaged_packs.len(), 1, "{report:?}");
    assert!(report.hurt.iter().any(|line| line.contains("file0")), "{:?}", report.hurt);
    hurt_files(&lab, "coordinator", point, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_damage_took_is_sent_again_by_the_next_run() {
    let (mut lab, _, _) = protected(Cast::OneSite).await;
    std::fs::remove_file(packs(&lab, "d").remove(0)).unwrap();
    restart(&mut lab).await;
    let point = lab.point().await.unwrap();
    lab.restores_as("coordinator", point, &lab.source).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cache_of_an_agent_promised_and_damage_took_is_sent_again() {
    for class in ["d", "m"] {
        let (mut lab, _, _) = protected(Cast::OneSite).await;
        // Older than the granularity of time stamps: from now on the cache is believed.
        tokio::time::sleep(Duration::from_millis(2200)).await;
        lab.point().await.unwrap();
        std::fs::remove_file(packs(&lab, class).remove(0)).unwrap();
        restart(&mut lab).await;
        let point = lab.point().await.unwrap();
        lab.restores_as("coordinator", point, &lab.source).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_metadata_pack_hurts_what_it_lists_and_nothing_else() {
    let (lab, point, _) = protected(Cast::OneSite).await;
    let first = packs(&lab, "m").remove(0);
    lab.write("later", 5000, 7).unwrap();
    let whole = lab.point().await.unwrap();
    let second = packs(&lab, "m").into_iter().find(|pack| *pack != first).unwrap();
    flip(&second, 40).unwrap();
    let expected = lab.dir.path().join("expected");
    lab.restores_as("coordinator", point, &expected).await.unwrap();
    let report = lab.verify("coordinator", VerifyDepth::Plain).await.unwrap();
    assert_eq!(report.damaged_packs.len(), 1);
    assert_eq!(report.points_whole, 1, "{report:?}");
    let restored = lab.restore("coordinator", whole).await;
    let told = match restored {
        Ok((_, problems)) => problems.join("; "),
        Err(error) => format!("{error:#}"),
    };
    assert!(told.contains("damaged"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_hurts_its_point_alone() {
    let (mut lab, first, expected) = protected(Cast::OneSite).await;
    lab.write("later", 5000, 7).unwrap();
    let second = lab.point().await.unwrap();
    let points = files_below(&lab.sites.home("coordinator").join("repo/points")).unwrap();
    let manifest = points.iter().find(|path| path.ends_with(second.to_string())).unwrap();
    flip(manifest, 60).unwrap();
    for restarted in [false, true] {
        if restarted {
            restart(&mut lab).await;
        }
        lab.restores_as("coordinator", first, &expected).await.unwrap();
        let error = lab.restore("coordinator", second).await.unwrap_err();
        assert!(format!("{error:#}").contains("hash does not hold"), "{error:#}");
        let report = lab.verify("coordinator", VerifyDepth::Hashes).await.unwrap();
        assert_eq!(report.points_whole, 1, "{report:?}");
        assert!(report.hurt.iter().any(|line| line.contains(&second.to_string())));
    }
    lab.restores_as("coordinator", lab.point().await.unwrap(), &lab.source).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_is_made_again_from_the_packs() {
    let (mut lab, first, expected) = protected(Cast::OneSite).await;
    lab.write("later", 5000, 7).unwrap();
    let second = lab.point().await.unwrap();
    let index = lab.sites.home("coordinator").join("repo/index");
    for round in ["a segment flipped", "a segment deleted", "everything deleted"] {
        lab.stop_coordinator().await.unwrap();
        let segments = files_below(&index).unwrap();
        assert!(!segments.is_empty(), "{round}");
        match round {
            "a segment flipped" => flip(&segments[0], 50).unwrap(),
            "a segment deleted" => std::fs::remove_file(&segments[0]).unwrap(),
            _ => std::fs::remove_dir_all(&index).unwrap(),
        }
        lab.start_coordinator().unwrap();
        lab.everybody().await.unwrap();
        lab.restores_as("coordinator", first, &expected).await.unwrap();
        lab.restores_as("coordinator", second, &lab.source).await.unwrap();
        let report = lab.verify("coordinator", VerifyDepth::Plain).await.unwrap();
        assert_eq!((report.hurt, report.points_whole), (vec![], 2), "{round}");
    }
}

/// What the coordinator says when it does not start.
fn why_not(lab: &Lab) -> String {
    match lab.sites.start_coordinator() {
        Ok(_) => panic!("it started"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_audit_log_is_told_and_nothing_is_appended_to_it() {
    let (mut lab, point, expected) = protected(Cast::OneSite).await;
    let log = lab.sites.home("coordinator").join("audit.log");
    let text = std::fs::read_to_string(&log).unwrap();
    let line = text.lines().position(|line| line.contains("policy.apply")).unwrap() + 1;
    std::fs::write(&log, text.replacen("policy.apply", "policy.apple", 1)).unwrap();
    let request = Request::Audit { most: 10 };
    let answer = lab.sites.ask("coordinator", &request).await.unwrap();
    let Response::Audit { broken_at, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(broken_at, Some(line as u64));

    lab.stop_coordinator().await.unwrap();
    let why = why_not(&lab);
    assert!(why.contains("audit.log") && why.contains(&format!("line {line}")), "{why}");
    assert!(why.contains("move it away"), "{why}");
    std::fs::rename(&log, log.with_extension("evidence")).unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    let begun = lab.audited("audit.begun", "anchored").await.unwrap();
    assert_eq!(begun.seq, 1);
    lab.restores_as("coordinator", point, &expected).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_cannot_be_opened_says_which_file_and_why() {
    let (mut lab, point, expected) = protected(Cast::OneSite).await;
    lab.stop_coordinator().await.unwrap();
    let home = lab.sites.home("coordinator");
    let cases: [(&str, &[&str]); 3] = [
        ("repo/config", &["config", "damaged"]),
        ("repo/keys", &["keys", "damaged"]),
        ("vault.key", &["key does not belong", "repo"]),
    ];
    for (file, words) in cases {
        let path = home.join(file);
        let saved = std::fs::read(&path).unwrap();
        flip(&path, 50).unwrap();
        let why = why_not(&lab);
        assert!(words.iter().all(|word| why.contains(word)), "{file}: {why}");
        std::fs::write(&path, saved).unwrap();
    }
    let key = home.join("vault.key");
    let saved = std::fs::read(&key).unwrap();
    std::fs::write(&key, b"short").unwrap();
    assert!(why_not(&lab).contains("does not hold a vault key"));
    std::fs::write(&key, saved).unwrap();
    lab.start_coordinator().unwrap();
    lab.everybody().await.unwrap();
    lab.restores_as("coordinator", point, &expected).await.unwrap();
}

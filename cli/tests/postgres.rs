//! A real server under load: protected, lost, restored from every copy, and recovered to a place
//! between two transactions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::time::Duration;

use lab::Sites;
use lab::cluster::{SUMS, Scene, recovered};

/// Writes a word in a transaction of its own.
fn mark(scene: &Scene, word: &str) {
    let table = "CREATE TABLE IF NOT EXISTS marks (word text)";
    scene.cluster.ask(&format!("{table}; INSERT INTO marks VALUES ('{word}')")).unwrap();
}

/// A server starts from the point, every check passes, and the sums agree.
fn prove(sites: &Sites, point: &str, how: &[&str]) {
    let words = [&["postgres", "prove", point, "--query", SUMS][..], how].concat();
    let proof = sites.json(&words);
    let checks = proof["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 5, "{proof}");
    assert_eq!(checks[3]["said"], "t", "{proof}");
    assert!(checks.iter().all(|check| check["passed"] == true), "{proof}");
    assert!(checks[4]["said"].as_str().unwrap().contains("Blocks scanned"), "{proof}");
}

/// Waits until a copy of the point is on record as started from.
fn recorded(sites: &Sites, point: &str, copy: &str) {
    sites.wait(&format!("the proof of {copy}"), |sites| {
        let points = sites.points("db").into_iter().filter(|row| row["id"] == point);
        let copies = points.flat_map(|row| row["copies"].as_array().cloned().unwrap_or_default());
        let mut started = copies.filter(|row| row["copy"] == copy && row["proof"] == "started");
        started
            .any(|row| row["detail"].as_str().is_some_and(|told| told.contains("answered after")))
    });
}

/// Restores the newest point into a new directory, up to a place; starts and checks it.
fn recover_to(scene: &Scene, port: u16, until: &[&str], space: Option<&str>) {
    let data = scene.path(&format!("back-{port}"));
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let mapped = format!("space={}", space.unwrap_or_default());
    let elsewhere: &[&str] = if space.is_none() { &[] } else { &["--tablespace", &mapped] };
    scene.sites.text(&[&words[..], until, elsewhere].concat());
    let back = scene.over(&data, port);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two");
    assert_eq!(back.ask(SUMS).unwrap(), "t");
    assert_eq!(back.ask("SELECT seven FROM spaced").unwrap(), "7");
    let place = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'";
    let usual = format!("{data}.tablespaces/");
    let lies = back.ask(place).unwrap();
    assert!(lies.starts_with(space.unwrap_or(&usual)), "{lies}");
    let refused = scene.sites.refused(&[&words[..], &["--delta"]].concat());
    assert!(refused.contains("a server runs in"), "{refused}");
}

/// Restores over what `recover_to` left, to the end of the log; what is right there stays.
fn recover_over(scene: &Scene, port: u16, full: u64) {
    let (sites, data) = (&scene.sites, scene.path(&format!("back-{port}")));
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let refused = sites.refused(&words);
    assert!(refused.contains("--delta"), "{refused}");
    let refused = sites.refused(&[&words[..], &["--delta"]].concat());
    assert!(refused.contains("--remove-extra"), "{refused}");
    let over = sites.json(&[&words[..], &["--delta", "--remove-extra"]].concat());
    let kept = over["bytes_kept"].as_u64().unwrap();
    assert!(kept > full / 4, "{kept} of {full} bytes were right already");
    let back = scene.over(&data, port);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two three");
}

#[test]
fn a_cluster_under_load_comes_back_from_every_copy_and_to_any_transaction() {
    let mut scene = Scene::set(15_432);
    // The slot is made, and keeps the log from here on.
    scene.sites.protect("log");
    let load = scene.load(600);
    scene.sites.protect("db");
    let first = scene.sites.protect("db");
    let full = first["progress"]["bytes_seen"].as_u64().unwrap();
    let point = scene.sites.await_copy("db", "tape", "hash-verified");
    drop(load);

    // Three transactions, and a place between the second and the third.
    mark(&scene, "one");
    mark(&scene, "two");
    let place = scene.cluster.ask("SELECT pg_current_wal_insert_lsn()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let time = scene.cluster.ask("SELECT clock_timestamp()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    mark(&scene, "three");
    scene.sites.protect("log");
    let slots = scene.cluster.ask("SELECT restart_lsn > '0/0' FROM pg_replication_slots");
    assert_eq!(slots.unwrap(), "t", "one slot, that of the log; none of a backup is left");

    prove(&scene.sites, &point, &["--from", "a"]);
    recorded(&scene.sites, &point, "primary");
    prove(&scene.sites, &point, &["--from", "b"]);
    recorded(&scene.sites, &point, "secondary");
    recover_to(&scene, 15_433, &["--lsn", &place], None);
    recover_to(&scene, 15_434, &["--time", &time], Some(&scene.path("space-15434")));
    recover_over(&scene, 15_433, full);

    // A second point soon after sends little; media give the first when both sites are gone.
    let again = scene.sites.protect("db");
    let sent = again["progress"]["bytes_sent"].as_u64().unwrap();
    assert!(sent < full / 4, "{sent} of {full} bytes sent");
    scene.sites.kill("proxy");
    let library = scene.sites.dir.join("b/proxy/library").display().to_string();
    let key = scene.sites.dir.join("recovery-key").display().to_string();
    let media = ["--media", &library, "--recovery-key-file", &key];
    prove(&scene.sites, &point, &[&media[..], &["--record", "tape"]].concat());
    recorded(&scene.sites, &point, "tape");
    ["agent", "coordinator"].into_iter().for_each(|role| scene.sites.kill(role));
    prove(&scene.sites, &point, &media);
}

//! A real server under load: protected, lost, restored from every copy, and recovered to a place
//! between two transactions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::time::Duration;

use lab::cluster::{SUMS, Scene, recovered};

#[test]
fn a_cluster_under_load_comes_back_from_every_copy_and_to_any_transaction() {
    let scene = Scene::set(15_432);
    let sites = &scene.sites;
    // The slot is made, and keeps the log from here on.
    sites.protect("log");
    let load = scene.load(600);
    sites.protect("db");
    let first = sites.protect("db");
    let full = first["progress"]["bytes_seen"].as_u64().unwrap();
    let point = sites.await_copy("db", "tape", "hash-verified");
    drop(load);

    // Three transactions, and a place between the second and the third.
    let mark = |word: &str| {
        scene
            .cluster
            .ask(&format!(
                "CREATE TABLE IF NOT EXISTS marks (word text); \
                                    INSERT INTO marks VALUES ('{word}')"
            ))
            .unwrap();
    };
    mark("one");
    mark("two");
    let place = scene.cluster.ask("SELECT pg_current_wal_insert_lsn()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let time = scene.cluster.ask("SELECT clock_timestamp()").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    mark("three");
    sites.protect("log");
    let kept = scene.cluster.ask("SELECT restart_lsn > '0/0' FROM pg_replication_slots").unwrap();
    assert_eq!(kept, "t", "one slot, that of the log; none of a backup is left");

    // Each copy by itself: a server starts from it, its checks pass, and the sums agree.
    for how in [&["--from", "a"][..], &["--from", "b"]] {
        let words = [&["postgres", "prove", &point, "--query", SUMS][..], how].concat();
        let proof = sites.json(&words);
        let checks = proof["checks"].as_array().unwrap();
        assert_eq!(checks.len(), 5, "{proof}");
        assert_eq!(checks[3]["said"], "t", "{proof}");
        assert!(checks.iter().all(|check| check["passed"] == true), "{proof}");
        assert!(checks[4]["said"].as_str().unwrap().contains("Blocks scanned"), "{proof}");
    }

    // To a place and to a moment between transactions: all before it, nothing after it.
    for (port, until) in [(15_433, ["--lsn", &*place]), (15_434, ["--time", &*time])] {
        let data = scene.path(&format!("back-{port}"));
        let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
        let space = scene.path(&format!("space-{port}"));
        let mapped = format!("space={space}");
        let elsewhere = if port == 15_433 { &[][..] } else { &["--tablespace", &*mapped] };
        sites.text(&[&words[..], &until, elsewhere].concat());
        let back = scene.over(&data, port);
        back.start().unwrap();
        recovered(&back);
        assert_eq!(back.ask("SELECT seven FROM spaced").unwrap(), "7");
        let lies = back
            .ask(
                "SELECT pg_tablespace_location(oid) FROM pg_tablespace \
                             WHERE spcname = 'space'",
            )
            .unwrap();
        let usual = format!("{data}.tablespaces/");
        let wanted = if elsewhere.is_empty() { &usual } else { &space };
        assert!(lies.starts_with(&**wanted), "{lies}");
        assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two");
        assert_eq!(back.ask(SUMS).unwrap(), "t");
        let refused = sites.refused(&[&words[..], &["--delta"]].concat());
        assert!(refused.contains("a server runs in"), "{refused}");
    }
    // Over the same directory, to the end of the log; what is right there stays.
    let data = scene.path("back-15433");
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let refused = sites.refused(&words);
    assert!(refused.contains("--delta"), "{refused}");
    let refused = sites.refused(&[&words[..], &["--delta"]].concat());
    assert!(refused.contains("--remove-extra"), "{refused}");
    let over = sites.json(&[&words[..], &["--delta", "--remove-extra"]].concat());
    let kept = over["bytes_kept"].as_u64().unwrap();
    assert!(kept > full / 4, "{kept} of {full} bytes were right already");
    let back = scene.over(&data, 15_433);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT string_agg(word, ' ') FROM marks").unwrap(), "one two three");

    // A second point soon after sends little; media give the first when both sites are gone.
    let again = sites.protect("db");
    let sent = again["progress"]["bytes_sent"].as_u64().unwrap();
    assert!(sent < full / 4, "{sent} of {full} bytes sent");
    let library = sites.dir.join("b/proxy/library").display().to_string();
    let (key, sites) = (sites.dir.join("recovery-key").display().to_string(), scene.sites);
    let mut sites = sites;
    ["agent", "coordinator", "proxy"].iter().for_each(|role| sites.kill(role));
    let words = ["postgres", "prove", &point, "--query", SUMS, "--media", &library];
    let proof = sites.json(&[&words[..], &["--recovery-key-file", &key]].concat());
    assert_eq!(proof["checks"][3]["said"], "t", "{proof}");
}

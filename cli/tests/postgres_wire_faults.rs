//! A real server over the network, and what goes wrong: it is not believed, or lets nobody in;
//! somebody is killed while it streams; a slot lost its log, or was dropped; a standby is
//! promoted. Each is named, and no point claims more than it holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod lab;

use std::fs;

use lab::cluster::{SUMS, Scene, recovered, signal};
use lab::network::{is_streamed, slots};

#[test]
fn a_server_that_is_not_believed_or_lets_nobody_in_is_named() {
    let scene = Scene::set(15_552);
    scene.open_to_the_network();
    let ask = |question: &str| scene.cluster.ask(question).unwrap();
    let port = scene.cluster.port;
    let at = |host: &str, more: &str| scene.streamed(port, &format!("host = \"{host}\"\n{more}"));
    let ca = |name: &str| format!("ca_file = \"{}\"", scene.path(name));

    // Another authority, another name, no password that is right.
    at("127.0.0.1", &ca("other-ca.pem"));
    let said = scene.refused("db");
    assert!(said.contains("is not believed") && said.contains("authority"), "{said}");
    at("127.0.0.2", &ca("ca.pem"));
    let said = scene.refused("db");
    assert!(said.contains("its certificate is for another name"), "{said}");
    scene.streamed_by_tls();
    scene.password("wrong");
    let said = scene.refused("db");
    assert!(said.contains("does not take the password of strongroom"), "{said}");
    scene.right_password();

    // A role that may not stream; and nothing of its rights but that is missing.
    ask("ALTER ROLE strongroom NOREPLICATION");
    for workload in ["db", "log"] {
        let said = scene.refused(workload);
        assert!(said.contains("ALTER ROLE strongroom REPLICATION"), "{said}");
    }
    ask("ALTER ROLE strongroom REPLICATION");

    // The server's files are not here to be read.
    let policy = fs::read_to_string(scene.sites.dir.join("policy.toml")).unwrap();
    let direct = policy.replace("mode = \"wire\"\n", "").replace("127.0.0.1", "db.example.com");
    scene.sites.apply(&direct);
    let said = scene.refused("db");
    assert!(said.contains("is not this host") && said.contains("mode = \"wire\""), "{said}");

    // No slot is free.
    scene.streamed_by_tls();
    for number in 0..10 {
        ask(&format!("SELECT pg_create_physical_replication_slot('taken_{number}')"));
    }
    let said = scene.refused("db");
    assert!(said.contains("max_replication_slots"), "{said}");
    ask("SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots");

    // No TLS: refused, unless the policy says that it is not needed.
    ask("ALTER SYSTEM SET ssl = off");
    ask("SELECT pg_reload_conf()");
    let said = scene.refused("db");
    assert!(said.contains("does not offer TLS") && said.contains("tls = \"off\""), "{said}");
    at("127.0.0.1", "tls = \"off\"");
    scene.sites.protect("db");
    assert_eq!(slots(&scene.cluster), "0|0");

    // A page that rotted: kept as it is, named, and the point claims less.
    scene.rots_and_is_told();
}

#[test]
fn a_stream_that_breaks_off_makes_no_point_and_the_next_run_goes_on() {
    let mut scene = Scene::set(15_562);
    scene.open_to_the_network();
    scene.streamed_by_tls();
    scene.sites.protect("log");
    let load = scene.load(600);
    for (workload, victim) in
        [("db", "the agent"), ("db", "the backend"), ("log", "the agent"), ("log", "the backend")]
    {
        let points = scene.sites.points(workload).len();
        let job = scene.stopped_in_the_stream(&scene.cluster, workload);
        let agent = scene.sites.pid("agent");
        match victim {
            "the agent" => scene.sites.kill("agent"),
            _ => {
                let end = "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity \
                           WHERE application_name = 'strongroom'";
                assert_eq!(scene.cluster.ask(end).unwrap(), "t");
                // The server's last words must be heard, or it waits with them.
                signal(agent, "CONT");
            }
        }
        // The server is rid of the backup and its slot; that of the log stays.
        scene.sites.wait("the end of the stream", |_| {
            !is_streamed(&scene.cluster) && slots(&scene.cluster) == "0|1"
        });
        if victim == "the agent" {
            assert_eq!(scene.sites.points(workload).len(), points, "{workload}");
            scene.sites.start("agent");
        }
        // The same job makes its point, and one only, when it is tried again.
        let ended = scene.sites.ended(&job);
        assert_eq!(ended["state"], "succeeded", "{workload}, {victim}: {ended}");
        assert_eq!(scene.sites.points(workload).len(), points + 1, "{workload}, {victim}");
    }
    drop(load);
    scene.cluster.ask("CREATE TABLE late AS SELECT 1 AS one").unwrap();
    scene.sites.protect("log");
    let data = scene.path("back");
    scene.sites.text(&["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"]);
    let back = scene.over(&data, 15_563);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT one FROM late").unwrap(), "1");
    assert_eq!(back.ask(SUMS).unwrap(), "t");
}

#[test]
fn log_that_a_slot_lost_or_that_nobody_kept_is_said() {
    let scene = Scene::set(15_572);
    scene.open_to_the_network();
    scene.streamed_by_tls();
    let sites = &scene.sites;
    sites.protect("log");
    sites.protect("db");
    let ask = |question: &str| scene.cluster.ask(question).unwrap();
    ask("ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'");
    ask("SELECT pg_reload_conf()");
    let turn = || {
        ask("INSERT INTO pgbench_history SELECT FROM generate_series(1, 10)");
        ask("SELECT pg_switch_wal()");
        ask("CHECKPOINT");
    };
    (0..12).for_each(|_| turn());
    let said = scene.refused("log");
    assert!(said.contains("lost what it kept") && said.contains("pg_drop_repl"), "{said}");
    assert_eq!(sites.points("log").len(), 1);
    // The way out; what lies between is told with the next point, and refused by a restore.
    ask("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    sites.protect("log");
    let why = sites.text(&["why", "latest:log"]);
    assert!(why.contains("is in no point"), "{why}");
    let data = scene.path("back");
    let words = ["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"];
    let said = sites.refused(&words);
    assert!(said.contains("has a gap"), "{said}");
    sites.protect("log");
    let why = sites.text(&["why", "latest:log"]);
    assert!(!why.contains("is in no point"), "{why}");
}

#[test]
fn a_standby_is_streamed_and_its_promotion_makes_no_point_but_the_log_goes_on() {
    let scene = Scene::set(15_582);
    let standby = scene.standby(15_583);
    let load = scene.load(600);
    // By its socket: nobody listens in between, and no password is asked for.
    let host = format!("host = \"{}\"", standby.place.display());
    fs::write(scene.path("password"), "unused\n").unwrap();
    scene.right_password();
    // Over the wire, too, a member that is not wanted is declined.
    let only = |how: &str| {
        scene.streamed(15_583, &host);
        let policy = fs::read_to_string(scene.sites.dir.join("policy.toml")).unwrap();
        let wire = "mode = \"wire\"\n";
        scene.sites.apply(&policy.replacen(wire, &format!("{wire}{how}\n"), 1));
        scene.refused("db")
    };
    let said = only("prefer = \"primary\"");
    assert!(said.contains("it is a standby, and the policy wants the primary"), "{said}");
    standby.ask("SELECT pg_wal_replay_pause()").unwrap();
    scene.sites.wait("a standby that is behind", |_| {
        let age = "SELECT clock_timestamp() - pg_last_xact_replay_timestamp() > '2s'";
        standby.ask(age).unwrap() == "t"
    });
    let said = only("prefer = \"standby-only\"\nmax_lag = \"1s\"");
    assert!(said.contains("s behind, 1 s at most"), "{said}");
    standby.ask("SELECT pg_wal_replay_resume()").unwrap();
    scene.streamed(15_583, &host);
    scene.sites.protect("log");
    scene.sites.protect("db");

    let job = scene.stopped_in_the_stream(&standby, "db");
    assert_eq!(standby.ask("SELECT pg_promote()").unwrap(), "t");
    signal(scene.sites.pid("agent"), "CONT");
    let said = scene.told(&job);
    assert!(said.contains("the standby was promoted during online backup"), "{said}");
    assert_eq!(scene.sites.points("db").len(), 1);
    drop(load);

    // What was written since lies on two timelines, and leads on from the one point there is.
    standby.ask("CREATE TABLE late AS SELECT 1 AS one").unwrap();
    scene.sites.protect("log");
    let text = scene.sites.text(&["dump", "latest:log:strongroom.json"]);
    let about: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = about["files"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let files: Vec<&str> = files.collect();
    assert!(files.contains(&"00000002.history"), "{files:?}");
    for timeline in ["00000001", "00000002"] {
        let is_of = |name: &&&str| name.len() == 24 && name.starts_with(timeline);
        assert!(files.iter().find(is_of).is_some(), "{timeline}: {files:?}");
    }
    let data = scene.path("back");
    scene.sites.text(&["postgres", "restore", "latest:db", "--to", &data, "--wal-from", "log"]);
    let back = scene.over(&data, 15_584);
    back.start().unwrap();
    recovered(&back);
    assert_eq!(back.ask("SELECT one FROM late").unwrap(), "1");
    assert_eq!(back.ask(SUMS).unwrap(), "t");
}
